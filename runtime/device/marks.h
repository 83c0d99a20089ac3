/* Marks of devices that have finished an operation when the call returns: the host's clock. */
#ifndef LS_DEVICE_MARKS_H
#define LS_DEVICE_MARKS_H

#include "runtime/base/clock.h"
#include "runtime/device/device.h"

static inline ls_status ls_host_mark(ls_device *dev, int which) {
    dev->marks_ns[which] = ls_clock_ns();
    return LS_OK;
}

static inline ls_status ls_host_between(ls_device *dev, int from, int to, double *seconds) {
    const uint64_t *ns = dev->marks_ns;
    *seconds = ns[from] && ns[to] ? 1e-9 * ((double)ns[to] - (double)ns[from]) : NAN;
    return LS_OK;
}

#endif
