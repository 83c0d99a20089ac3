/* Monotonic time in nanoseconds; wall time only for records that people read, never for durations:
 * the clock of the day may be set. */
#ifndef LS_BASE_CLOCK_H
#define LS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t ls_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double ls_clock_wall_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Wall time that goes on as monotonic time does from the first call in this process: differences of
 * it are durations, whatever happens to the clock of the day. */
double ls_clock_steady_wall_s(void);

/* Seconds since the host was booted; its time asleep counts. */
static inline double ls_clock_boot_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#endif
