/* What NVIDIA's driver says of this host's GPUs: energy, power, clocks, temperature, memory errors,
 * Xid events, and the NVLink domain that a GPU belongs to.
 *
 * The library, libnvidia-ml.so.1, comes with the driver and is opened at run time: nothing is
 * linked, and a program built without CUDA can ask too. What a GPU or a driver does not offer is
 * NAN or -1, never 0. Not collective; calls of several threads must not overlap. */
#ifndef LS_DEVICE_CUDA_NVML_H
#define LS_DEVICE_CUDA_NVML_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ls_nvml ls_nvml;

/* library: NULL for $LOCKSTEP_NVML, else libnvidia-ml.so.1. LS_E_UNSUPPORTED where there is no
 * library, no driver or no GPU; LS_E_DEVICE when the driver reports a fault. */
ls_status ls_nvml_open(const char *library, ls_nvml **nvml);
void ls_nvml_close(ls_nvml *nvml); /* NULL does nothing */

/* GPUs of the host (CUDA_VISIBLE_DEVICES does not hide any), and "570.86.15". */
int ls_nvml_count(const ls_nvml *nvml);
const char *ls_nvml_driver(const ls_nvml *nvml);

/* name "NVIDIA GB200", uuid "GPU-...", bus_id "00000008:01:00.0"; empty: not offered. */
typedef struct ls_nvml_gpu {
    char name[96], uuid[96], bus_id[32];
} ls_nvml_gpu;
ls_status ls_nvml_identify(const ls_nvml *nvml, int gpu, ls_nvml_gpu *identity);
/* The GPU with this PCI address, written as the driver or as CUDA does (ls_device.bus_id);
 * LS_E_INPUT when there is none. */
ls_status ls_nvml_find(const ls_nvml *nvml, const char *bus_id, int *gpu);

/* What a figure covers. On superchips the driver may refuse the GPU alone and give the module:
 * GPUs, CPU and memory together. */
typedef enum ls_nvml_scope { LS_NVML_NONE, LS_NVML_GPU, LS_NVML_MODULE } ls_nvml_scope;
const char *ls_nvml_scope_name(ls_nvml_scope scope); /* "GPU", "module", "none" */

/* Why clocks are below their highest. X(code, bit of the driver's mask, text) */
#define LS_NVML_THROTTLE_LIST(X)                                                                   \
    X(LS_NVML_IDLE, 0x1, "idle")                                                                   \
    X(LS_NVML_SETTING, 0x2, "clocks were set lower")                                               \
    X(LS_NVML_POWER_CAP, 0x4, "power cap")                                                         \
    X(LS_NVML_SLOWDOWN, 0x8, "hardware slowdown")                                                  \
    X(LS_NVML_SYNC_BOOST, 0x10, "sync boost")                                                      \
    X(LS_NVML_SW_THERMAL, 0x20, "thermal, by the driver")                                          \
    X(LS_NVML_HW_THERMAL, 0x40, "thermal, by the hardware")                                        \
    X(LS_NVML_POWER_BRAKE, 0x80, "power brake")                                                    \
    X(LS_NVML_DISPLAY, 0x100, "display clocks")

typedef enum ls_nvml_throttle {
#define X(code, bit, text) code = bit,
    LS_NVML_THROTTLE_LIST(X)
#undef X
    /* Those that say that something is wrong with cooling or power. */
    LS_NVML_HARMFUL =
        LS_NVML_SLOWDOWN | LS_NVML_SW_THERMAL | LS_NVML_HW_THERMAL | LS_NVML_POWER_BRAKE
} ls_nvml_throttle;
/* "power cap, thermal, by the hardware"; "none". Returns text. */
const char *ls_nvml_throttle_text(uint64_t reasons, char *text, size_t size);

typedef struct ls_nvml_reading {
    double energy_joules; /* since the driver was loaded */
    ls_nvml_scope energy_scope;
    double power_watts, power_limit_watts;
    ls_nvml_scope power_scope;
    double temperature_c;
    double sm_mhz, sm_max_mhz;
    int64_t throttle; /* ls_nvml_throttle bits; -1: unknown */
    int64_t memory_used_bytes, memory_total_bytes;
    int64_t ecc_corrected, ecc_uncorrected; /* memory errors since the driver was loaded */
    int nvlinks, nvlinks_active;            /* of this GPU; -1: unknown */
} ls_nvml_reading;
/* LS_E_DEVICE: the GPU is lost, or needs a reset. */
ls_status ls_nvml_read(const ls_nvml *nvml, int gpu, ls_nvml_reading *reading);
/* Energy alone: the cheap one, for every step that is reported. NAN, LS_NVML_NONE: not offered. */
ls_status ls_nvml_energy(const ls_nvml *nvml, int gpu, double *joules, ls_nvml_scope *scope);

/* Where the GPU lies in an NVLink fabric: GPUs with equal cluster and clique reach each other by
 * NVLink, on whatever hosts. Meaningful when the state is COMPLETED. A GPU whose NVLinks do not
 * leave its host has NONE, or COMPLETED with a cluster of zeros. */
typedef enum ls_nvml_fabric_state {
    LS_NVML_FABRIC_NONE, /* no such fabric, or a driver that does not know of it */
    LS_NVML_FABRIC_NOT_STARTED,
    LS_NVML_FABRIC_IN_PROGRESS,
    LS_NVML_FABRIC_COMPLETED
} ls_nvml_fabric_state;
typedef struct ls_nvml_fabric {
    ls_nvml_fabric_state state;
    uint8_t cluster[16]; /* UUID */
    uint32_t clique;
    bool failed;     /* registration has completed with the error in `status` */
    char status[64]; /* empty: none */
    bool degraded;   /* bandwidth is degraded */
    bool healthy;    /* no sign of degradation, recovery, or a wrong configuration */
} ls_nvml_fabric;
ls_status ls_nvml_fabric_of(const ls_nvml *nvml, int gpu, ls_nvml_fabric *fabric);
/* Do both lie in one NVLink domain that spans hosts? */
bool ls_nvml_same_fabric(const ls_nvml_fabric *a, const ls_nvml_fabric *b);

/* The next critical error (Xid) that the driver has reported since open, without waiting: *xid 0
 * when there is none, *gpu -1 when it does not say which GPU. LS_E_UNSUPPORTED where events are not
 * offered. docs.nvidia.com/deploy/xid-errors lists the numbers. */
ls_status ls_nvml_next_xid(ls_nvml *nvml, int *gpu, uint64_t *xid);

#endif
