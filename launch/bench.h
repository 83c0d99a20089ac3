/* What `lockstep bench` measures, one file each. */
#ifndef LS_LAUNCH_BENCH_H
#define LS_LAUNCH_BENCH_H

#include "runtime/base/status.h"

#include <stdbool.h>

/* Options as given on the command line, defaults filled in. */
typedef struct ls_bench_collective_options {
    const char *operation, *backend, *dtype, *reduction;
    const char *min_bytes, *max_bytes, *factor, *iterations, *warmup;
    bool private_buffers, json;
} ls_bench_collective_options;

/* Collectives beside those of the MPI library, in the manner of nccl-tests. [collective] */
ls_status ls_bench_collective(const ls_bench_collective_options *options);

#endif
