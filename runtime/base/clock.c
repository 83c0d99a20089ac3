#include "runtime/base/clock.h"

#include <pthread.h>

static uint64_t first_ns;
static double first_wall_s;

static void look(void) {
    first_ns = ls_clock_ns();
    first_wall_s = ls_clock_wall_s();
}

double ls_clock_steady_wall_s(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look);
    return first_wall_s + 1e-9 * (double)(ls_clock_ns() - first_ns);
}
