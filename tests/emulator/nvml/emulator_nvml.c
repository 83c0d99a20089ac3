/* A stand-in for libnvidia-ml.so.1, by NVIDIA's published interface. It answers from the text file
 * that $EMULATED_NVML names, read at each call, a line a value:
 *
 *   KEY GPU VALUE          as in "energy 0 123456" (units are NVML's: mJ, mW, MHz)
 *   KEY.error GPU NUMBER   the call gives this nvmlReturn_t
 *
 * What is not in the file is NVML_ERROR_NOT_SUPPORTED. "xid GPU NUMBER" lines are events, handed
 * out once each, in order. Built twice: with EMULATED_NVML_OLD it lacks what drivers of the 470
 * series lack. */
#include "runtime/device/cuda/nvml_layout.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10,
    VERSION_MISMATCH = 25
};
enum { MOST_GPUS = 16 };

static int running;
static char gpus[MOST_GPUS]; /* their addresses are the handles */

/* The n-th line of a key and a GPU (-1: any), or false. */
static bool find(const char *key, int gpu, int n, int *gpu_found, char *value, size_t size) {
    const char *path = getenv("EMULATED_NVML");
    FILE *f = path ? fopen(path, "r") : NULL;
    char line[256], name[64], text[128];
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) {
        int of;
        found = sscanf(line, "%63s %d %127[^\n]", name, &of, text) == 3 && strcmp(name, key) == 0 &&
                (gpu < 0 || of == gpu) && n-- == 0;
        if (found) {
            *gpu_found = of;
            snprintf(value, size, "%s", text);
        }
    }
    if (f) {
        fclose(f);
    }
    return found;
}

static int text_of(const char *key, int gpu, char *value, size_t size) {
    char error_key[64], text[128];
    int of;
    snprintf(error_key, sizeof error_key, "%s.error", key);
    if (find(error_key, gpu, 0, &of, text, sizeof text)) {
        return atoi(text);
    }
    if (!find(key, gpu, 0, &of, text, sizeof text)) {
        return NOT_SUPPORTED;
    }
    if (strlen(text) + 1 > size) {
        return INSUFFICIENT_SIZE;
    }
    strcpy(value, text);
    return SUCCESS;
}

static int number_of(const char *key, int gpu, unsigned long long *value) {
    char text[128];
    const int status = text_of(key, gpu, text, sizeof text);
    if (status == SUCCESS) {
        *value = strtoull(text, NULL, 0);
    }
    return status;
}

static int small_of(const char *key, int gpu, unsigned *value) {
    unsigned long long wide = 0;
    const int status = number_of(key, gpu, &wide);
    if (status == SUCCESS) {
        *value = (unsigned)wide;
    }
    return status;
}

static int count_of(void) {
    unsigned count = 0;
    (void)small_of("gpus", 0, &count);
    return (int)count;
}

/* The number of the GPU, or the error of a call on it. */
static int gpu_of(const void *device, int *gpu) {
    const char *at = device;
    if (!running) {
        return UNINITIALIZED;
    }
    if (at < gpus || at >= gpus + count_of()) {
        return INVALID_ARGUMENT;
    }
    *gpu = (int)(at - gpus);
    return SUCCESS;
}

#define ON_GPU(device)                                                                             \
    int gpu;                                                                                       \
    const int fault = gpu_of((device), &gpu);                                                      \
    if (fault != SUCCESS) {                                                                        \
        return fault;                                                                              \
    }

#define GIVES_TEXT(function, key)                                                                  \
    API int function(void *device, char *text, unsigned size);                                     \
    int function(void *device, char *text, unsigned size) {                                        \
        ON_GPU(device)                                                                             \
        return text_of(key, gpu, text, size);                                                      \
    }
#define GIVES_NUMBER(function, key)                                                                \
    API int function(void *device, unsigned *value);                                               \
    int function(void *device, unsigned *value) {                                                  \
        ON_GPU(device)                                                                             \
        return small_of(key, gpu, value);                                                          \
    }
#define GIVES_WIDE(function, key)                                                                  \
    API int function(void *device, unsigned long long *value);                                     \
    int function(void *device, unsigned long long *value) {                                        \
        ON_GPU(device)                                                                             \
        return number_of(key, gpu, value);                                                         \
    }
/* One argument between: a sensor, a clock. */
#define GIVES_INDEXED(function, key)                                                               \
    API int function(void *device, int which, unsigned *value);                                    \
    int function(void *device, int which, unsigned *value) {                                       \
        ON_GPU(device)                                                                             \
        char name[64];                                                                             \
        snprintf(name, sizeof name, "%s.%d", key, which);                                          \
        return small_of(name, gpu, value);                                                         \
    }

GIVES_TEXT(nvmlDeviceGetName, "name")
GIVES_TEXT(nvmlDeviceGetUUID, "uuid")
GIVES_NUMBER(nvmlDeviceGetPowerUsage, "power")
GIVES_NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit")
GIVES_WIDE(nvmlDeviceGetTotalEnergyConsumption, "energy")
GIVES_INDEXED(nvmlDeviceGetTemperature, "temperature")
GIVES_INDEXED(nvmlDeviceGetClockInfo, "clock")
GIVES_INDEXED(nvmlDeviceGetMaxClockInfo, "max_clock")

API int nvmlInit_v2(void);
int nvmlInit_v2(void) {
    unsigned error = SUCCESS;
    (void)small_of("init", 0, &error);
    running += error == SUCCESS;
    return (int)error;
}

API int nvmlShutdown(void);
int nvmlShutdown(void) {
    if (running == 0) {
        return UNINITIALIZED;
    }
    running--;
    return SUCCESS;
}

API const char *nvmlErrorString(int error);
const char *nvmlErrorString(int error) {
    return error == 15 ? "GPU is lost" : error == 9 ? "Driver Not Loaded" : "another error";
}

API int nvmlSystemGetDriverVersion(char *text, unsigned size);
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    return text_of("driver", 0, text, size);
}

API int nvmlDeviceGetCount_v2(unsigned *count);
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)count_of();
    return running ? SUCCESS : UNINITIALIZED;
}

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device);
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    unsigned error = SUCCESS;
    (void)small_of("open", (int)index, &error);
    *device = &gpus[index];
    return error ? (int)error : gpu_of(*device, &(int){0});
}

API int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info);
int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info) {
    ON_GPU(device)
    return text_of("bus_id", gpu, info->bus_id, sizeof info->bus_id);
}

API int nvmlDeviceGetMemoryInfo(void *device, memory_info *info);
int nvmlDeviceGetMemoryInfo(void *device, memory_info *info) {
    ON_GPU(device)
    const int status = number_of("memory_total", gpu, &info->total);
    return status ? status : number_of("memory_used", gpu, &info->used);
}

API int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter,
                                    unsigned long long *errors);
int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *errors) {
    ON_GPU(device)
    return counter != 0 ? INVALID_ARGUMENT
                        : number_of(type ? "ecc_uncorrected" : "ecc_corrected", gpu, errors);
}

API int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active);
int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    ON_GPU(device)
    unsigned up = 0;
    const int status = small_of("nvlinks_active", gpu, &up);
    *active = link < up;
    return status;
}

#ifdef EMULATED_NVML_OLD
GIVES_WIDE(nvmlDeviceGetCurrentClocksThrottleReasons, "throttle")
#else
GIVES_WIDE(nvmlDeviceGetCurrentClocksEventReasons, "throttle")

/* Keys: field.NUMBER.SCOPE. */
API int nvmlDeviceGetFieldValues(void *device, int count, field_value *values);
int nvmlDeviceGetFieldValues(void *device, int count, field_value *values) {
    ON_GPU(device)
    for (int i = 0; i < count; i++) {
        field_value *v = &values[i];
        char key[64];
        unsigned long long number = 0;
        snprintf(key, sizeof key, "field.%u.%u", v->field, v->scope);
        v->status = number_of(key, gpu, &number);
        v->type = v->field == 191 ? 3 : 1; /* energy is wide */
        if (v->type == 3) {
            v->value.ull = number;
        } else {
            v->value.u = (unsigned)number;
        }
    }
    return SUCCESS;
}

API int nvmlDeviceGetGpuFabricInfoV(void *device, fabric_info *info);
int nvmlDeviceGetGpuFabricInfoV(void *device, fabric_info *info) {
    ON_GPU(device)
    if (info->version != FABRIC_VERSION) {
        return VERSION_MISMATCH;
    }
    unsigned state, health = 0, status = 0;
    const int error = small_of("fabric_state", gpu, &state);
    if (error != SUCCESS) {
        return error;
    }
    char cluster[33] = "";
    (void)text_of("fabric_cluster", gpu, cluster, sizeof cluster);
    for (int i = 0; i < 16 && strlen(cluster) == 32; i++) {
        unsigned byte;
        sscanf(cluster + 2 * i, "%2x", &byte);
        info->cluster[i] = (unsigned char)byte;
    }
    (void)small_of("fabric_clique", gpu, &info->clique);
    (void)small_of("fabric_status", gpu, &status);
    (void)small_of("fabric_health", gpu, &health);
    info->state = (unsigned char)state;
    info->status = (int)status;
    info->health = health;
    return SUCCESS;
}

static int events_given;
static uint64_t watched; /* a bit a GPU */

API int nvmlEventSetCreate(void **set);
int nvmlEventSetCreate(void **set) {
    *set = &watched;
    watched = 0;
    events_given = 0;
    return SUCCESS;
}

API int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set);
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) {
    ON_GPU(device)
    if (types != 8 || set != &watched) {
        return INVALID_ARGUMENT;
    }
    unsigned error = SUCCESS;
    (void)small_of("events", gpu, &error);
    watched |= error ? 0 : 1ull << gpu;
    return (int)error;
}

API int nvmlEventSetWait_v2(void *set, event_data *event, unsigned timeout_ms);
int nvmlEventSetWait_v2(void *set, event_data *event, unsigned timeout_ms) {
    char text[128];
    int gpu;
    if (set != &watched || timeout_ms != 0) {
        return INVALID_ARGUMENT;
    }
    if (!find("xid", -1, events_given, &gpu, text, sizeof text)) {
        return TIMEOUT;
    }
    events_given++;
    *event = (event_data){&gpus[gpu], 8, strtoull(text, NULL, 0), ~0u, ~0u};
    return SUCCESS;
}

API int nvmlEventSetFree(void *set);
int nvmlEventSetFree(void *set) {
    return set == &watched ? SUCCESS : INVALID_ARGUMENT;
}
#endif
