/* bench_list DIR LOCKSTEP [ROUNDS]: how long `lockstep ckpt ls`, `show` of one value and `verify
 * --quick` take on a checkpoint of 1,000 tensors and 4 GB; medians of whole processes, in
 * milliseconds. */
#include "checkpoint/ckpt.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

enum { TENSORS = 1000, ROWS = 1024, COLUMNS = 1024, ROUNDS_MAX = 101 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Writes the checkpoint. All tensors have the same values. */
static ls_status make(const char *directory, ls_ckpt_save_result *result) {
    static char names[TENSORS][40];
    static ls_ckpt_tensor tensors[TENSORS];
    float *values = malloc((size_t)ROWS * COLUMNS * sizeof *values);
    json_t *empty = json_object();
    ls_comm *comm;
    LS_TRY(ls_comm_self(&comm));
    for (uint64_t i = 0; values && i < (uint64_t)ROWS * COLUMNS; i++) {
        values[i] = (float)(0.02 * ls_rng_normal(1, 2, i));
    }
    for (int i = 0; i < TENSORS; i++) {
        snprintf(names[i], sizeof names[i], "layers.%d.part%d.weight", i / 10, i % 10);
        tensors[i] = (ls_ckpt_tensor){
            .name = names[i], .dtype = LS_F32, .ndim = 2, .dims = {ROWS, COLUMNS}, .data = values};
        tensors[i].box = ls_box_whole(2, tensors[i].dims);
    }
    ls_ckpt_save_options options = {.root = directory,
                                    .level = 1,
                                    .threads = 2,
                                    .config_text = "",
                                    .run = empty,
                                    .counters = empty};
    ls_status status = values ? ls_ckpt_save(comm, &options, tensors, TENSORS, result)
                              : LS_FAIL(LS_E_MEMORY, "no memory for a tensor");
    json_decref(empty);
    free(values);
    comm->ops->destroy(comm);
    return status;
}

/* One process with its output thrown away. */
static ls_status run(char **argv) {
    extern char **environ;
    pid_t child;
    int state = -1;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    bool done = posix_spawn(&child, argv[0], &actions, NULL, argv, environ) == 0 &&
                waitpid(child, &state, 0) == child && state == 0;
    posix_spawn_file_actions_destroy(&actions);
    return done ? LS_OK : LS_FAIL(LS_E_IO, "'%s ckpt %s' failed", argv[0], argv[2]);
}

int main(int argc, char **argv) {
    int rounds = argc > 3 ? atoi(argv[3]) : 21;
    if (argc < 3 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "bench_list DIR LOCKSTEP [ROUNDS]\n");
        return 2;
    }
    char *program = argv[2], ckpt[] = "ckpt", quick[] = "--quick", ls[] = "ls", show[] = "show";
    char verify[] = "verify", one[] = "layers.50.part5.weight[7,:4]", version[] = "--version";
    ls_ckpt_save_result result;
    ls_status status = make(argv[1], &result);
    char *calls[][6] = {{program, version, NULL},
                        {program, ckpt, ls, result.path, NULL},
                        {program, ckpt, show, result.path, one, NULL},
                        {program, ckpt, verify, result.path, quick, NULL}};
    double ms[4][ROUNDS_MAX];
    for (int round = 0; round < rounds && status == LS_OK; round++) {
        for (int i = 0; i < 4 && status == LS_OK; i++) {
            uint64_t start = ls_clock_ns();
            status = run(calls[i]);
            ms[i][round] = 1e-6 * (double)(ls_clock_ns() - start);
        }
    }
    if (status == LS_OK) {
        static const char *const names[] = {"--version", "ckpt ls", "ckpt show, 4 values",
                                            "ckpt verify --quick"};
        printf("%d tensors, %.2f GB, median of %d processes\n", TENSORS,
               1e-9 * (double)result.raw_bytes, rounds);
        for (int i = 0; i < 4; i++) {
            qsort(ms[i], (size_t)rounds, sizeof ms[i][0], ascending);
            printf("  %-46s %7.1f ms\n", names[i], ms[i][rounds / 2]);
        }
        status = ls_dir_remove(result.path);
    }
    if (status != LS_OK) {
        ls_log_error();
    }
    return ls_status_exit(status);
}
