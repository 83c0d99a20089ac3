/* Is another library's attention to be trusted on this GPU? */
#ifndef LS_DEVICE_CUDA_ATTENTION_TRIAL_H
#define LS_DEVICE_CUDA_ATTENTION_TRIAL_H

#include "runtime/device/cuda/attention_graph.h"
#include "runtime/device/cuda/device_cuda.h"

/* Runs attention of a shape (a forward key of ls_attention_key_fused) forward and backward twice by
 * graphs that were planned for it and once by lockstep's own kernels, on made-up operands in memory
 * of its own, which it frees. LS_E_UNSUPPORTED: the two runs differ in a bit, or the results from
 * the own ones by more than rounding; compared are the first and last rows of the first and last
 * sequence. LS_E_MEMORY: there is not enough of it for the trial. Waits. */
ls_status ls_cuda_attention_trial(ls_cuda_device *cuda, const ls_attention_key *key,
                                  const ls_attention_graph *forward,
                                  const ls_attention_graph *backward, void *workspace);

#endif
