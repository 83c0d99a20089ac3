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
void planted_unlike(cudaStream_t stream, float *x, bool unlike); /* x [32] */
void planted_product(cudaStream_t stream, float *x, int lanes);  /* x [32] */
void planted_argument(cudaStream_t stream, float *x);            /* of more than 4 KiB */
void planted_four(cudaStream_t stream, float *x, int first);     /* 4 elements in one access */
/* So many blocks in the grid's second dimension, which fill x [32]. */
void planted_high(cudaStream_t stream, float *x, unsigned int blocks);
/* A kernel with so much dynamic shared memory, asked for or not. */
void planted_large(cudaStream_t stream, float *x, int bytes, bool asked_for);

/* Of cp.async and ldmatrix. */
typedef enum planted_fault {
    PLANTED_NONE,
    PLANTED_NO_WAIT,     /* a barrier, but no wait for the copy */
    PLANTED_LAST_GROUP,  /* a wait for all groups of copies but this one */
    PLANTED_NO_BARRIER,  /* a wait, but no barrier before others read */
    PLANTED_PAST_SOURCE, /* the last row lies behind the allocation */
    PLANTED_PAST_SHARED, /* a row behind the block's shared memory */
    PLANTED_UNALIGNED,   /* a source, and a row, not aligned to 16 bytes */
    PLANTED_ODD_ROW
} planted_fault;
void planted_matrix(cudaStream_t stream, float *x, planted_fault fault); /* x [64] */

#ifdef __cplusplus
}
#endif

#endif
