/* Launchers of planted.cu. */
#ifndef LS_TESTS_EMULATOR_PLANTED_H
#define LS_TESTS_EMULATOR_PLANTED_H

#include <cuda_runtime.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

void planted_reverse(cudaStream_t stream, float *x, bool barrier, bool in_warp); /* x [64] */
void planted_add(cudaStream_t stream, float *x, int n, float value);
void planted_fill(cudaStream_t stream, float *x, int n, float value);
void planted_sum(cudaStream_t stream, const float *x, float *sum); /* x [32] */
void planted_parted(cudaStream_t stream, float *x);

#ifdef __cplusplus
}
#endif

#endif
