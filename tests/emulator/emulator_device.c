/* What the emulated device says about itself. */
#include "tests/emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>

/* Compute capability times 10: 90, or LOCKSTEP_EMULATOR_SM. */
static int capability(void) {
    const char *text = getenv("LOCKSTEP_EMULATOR_SM");
    return text ? atoi(text) : 90;
}

cudaError_t emu_fault;

/* The newest CUDA that the driver serves: this one, or $LOCKSTEP_EMULATOR_DRIVER, 12040 for 12.4.
 */
static int driver_version(void) {
    const char *text = getenv("LOCKSTEP_EMULATOR_DRIVER");
    return text ? atoi(text) : CUDART_VERSION;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = driver_version() / 1000 >= CUDART_VERSION / 1000;
    return *count ? cudaSuccess : cudaErrorInsufficientDriver;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

static _Thread_local bool chosen;

cudaError_t cudaSetDevice(int device) {
    chosen = chosen || device == 0;
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

void emu_device_expect(const char *what) {
    if (!chosen) {
        emu_report("%s by a thread that has not called cudaSetDevice: it would be of GPU 0", what);
    }
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = EMU_GREATEST_PRIORITY;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    *properties = (struct cudaDeviceProp){.name = "emulated",
                                          .totalGlobalMem = (size_t)4 << 30,
                                          .major = capability() / 10,
                                          .minor = capability() % 10,
                                          .multiProcessorCount = 2};
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
        *value = 2;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = capability() / 10;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = capability() % 10;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = EMU_SHARED_OPTIN_BYTES;
        break;
    }
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device) {
    snprintf(text, (size_t)size, "0000:00:00.0");
    return device == 0 ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorInvalidDevice:
        return "invalid device ordinal";
    case cudaErrorIllegalAddress:
        return "an illegal memory access was encountered";
    default:
        return "emulated error";
    }
}
