/* What `lockstep bench` measures, one file each. */
#ifndef LS_LAUNCH_BENCH_H
#define LS_LAUNCH_BENCH_H

#include "collectives/comm_choose.h"
#include "runtime/config/config.h"

#include <stdbool.h>

/* Options as given on the command line, defaults filled in. */
typedef struct ls_bench_collective_options {
    const char *operation, *backend, *dtype, *reduction;
    const char *min_bytes, *max_bytes, *factor, *iterations, *warmup;
    const char *profile; /* NULL: none */
    bool private_buffers, overlap, json;
} ls_bench_collective_options;

/* Collectives beside those of the MPI library, in the manner of nccl-tests. [collective] */
ls_status ls_bench_collective(const ls_bench_collective_options *options);

typedef struct ls_bench_sizes {
    int64_t min_bytes, max_bytes;
    long long factor, iterations;
} ls_bench_sizes;

/* Prints how much of an fp32 all-reduce is hidden behind computation on the same rank, which looks
 * at the communicator now and then or not at all. [collective] */
ls_status ls_bench_overlap(const ls_bench_sizes *sizes, ls_transport transport, bool json);

/* Writes the cluster profile of the links between the ranks (runtime/plan/cluster.h): with several
 * ranks on a host device.link_gb_s and node.link_latency_us, with several hosts network.gbit_s (of
 * a rank, all of a host's sending at once) and network.latency_us, each of an all-reduce; and of
 * one host the section links (bench_links.h). Prints what was found for each level and operation;
 * json: with what was measured. [collective] */
ls_status ls_bench_profile(const char *path, bool json);

typedef struct ls_bench_step_options {
    const char *model, *dtype;
    long long batch, seq, threads, repeat; /* batch: of a micro-batch; seq 0: the model's context */
    const char *const *overrides;          /* section.key=value */
    int override_count;
    bool json;
} ls_bench_step_options;

/* Training steps of a model and layout on random bytes, their time by operation, and beside it the
 * least time that the best rates of the same run allow: operations over that of a product and
 * exponentials over that of a softmax, or bytes over that of a pass over memory, whichever is more.
 * [collective] */
ls_status ls_bench_step(const ls_bench_step_options *options);

typedef struct ls_bench_machine_options {
    ls_compute compute;
    long long threads, repeat; /* repeat: at most 32 */
    const char *profile;       /* file that is written or updated; NULL: none */
} ls_bench_machine_options;

/* Products, attention and memory-bound operations for `lockstep plan`, by small training steps on
 * all ranks at once. [collective] */
ls_status ls_bench_machine(const ls_bench_machine_options *options);

#endif
