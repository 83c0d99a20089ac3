/* Arithmetic of the emulated NCCL: on host memory, element by element. */
#ifndef LS_TESTS_EMULATOR_NCCL_REDUCE_H
#define LS_TESTS_EMULATOR_NCCL_REDUCE_H

#include "tests/emulator/include/nccl.h"

size_t emu_nccl_bytes(ncclDataType_t type);
/* to = to op from, n elements; ncclAvg adds. */
void emu_nccl_combine(ncclDataType_t type, ncclRedOp_t op, void *to, const void *from, uint64_t n);
/* x /= size, integers towards zero. */
void emu_nccl_divide(ncclDataType_t type, void *x, uint64_t n, int size);

#endif
