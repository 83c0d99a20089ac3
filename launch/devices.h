/* The device that a verb works on. */
#ifndef LS_LAUNCH_DEVICES_H
#define LS_LAUNCH_DEVICES_H

#include "runtime/config/config.h"
#include "runtime/device/device.h"

/* auto: a GPU where there is one and lockstep was built for it, else the CPU. The host's rank
 * `host_rank` (from 0) takes the GPU of that number, counted round where a launcher shows each rank
 * fewer. LS_E_CONFIG for a device that the program does not have, LS_E_UNSUPPORTED for one that the
 * machine lacks. Not collective. */
ls_status ls_device_choose(ls_cfg_device kind, ls_cfg_attention attention, int threads,
                           int host_rank, ls_device **dev);

/* "auto", "cpu", "cuda", "emulated"; the value of an option --device. */
ls_status ls_device_parse(const char *text, ls_cfg_device *kind);

#endif
