/* Ranges of NVTX, which NVIDIA's profilers show above the device's work. Without the header of
 * NVTX (of the CUDA Toolkit) when this was built, and without a profiler, nothing happens. */
#ifndef LS_DEVICE_CUDA_NVTX_H
#define LS_DEVICE_CUDA_NVTX_H

#include <stdint.h>

/* Ends the range that the last call of this thread began, and begins one: "forward 7", or without
 * the number where it is negative. NULL: begins none. */
void ls_nvtx_range(const char *name, int64_t number);

#endif
