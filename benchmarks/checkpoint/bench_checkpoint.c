/* bench_checkpoint DIR [MIB [THREADS [ROUNDS]]]: how fast checkpoints are saved and loaded, beside
 * a plain write with fsync and beside zstd alone. Tensors are normal numbers of the size of trained
 * weights. All rates are MB/s of raw tensor bytes, best and median of the rounds. Before a load the
 * page cache is asked to forget the files (posix_fadvise). */
#include "checkpoint/format.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COLUMNS = 1024, TENSOR_MIB = 16, ROUNDS_MAX = 32 };

typedef struct bench {
    const char *directory;
    int threads, rounds, count;
    ls_dtype dtype;
    ls_comm *comm;
    ls_ckpt_tensor *tensors;
    char (*names)[32];
    int64_t tensor_bytes;
    ls_ckpt_save_result saved;
    double seconds[ROUNDS_MAX];
} bench;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_rate(bench *b, const char *what) {
    double bytes = (double)b->tensor_bytes * b->count;
    qsort(b->seconds, (size_t)b->rounds, sizeof *b->seconds, ascending);
    printf("  %-34s %7.0f / %-7.0f", what, 1e-6 * bytes / b->seconds[0],
           1e-6 * bytes / b->seconds[b->rounds / 2]);
}

static ls_status tensors_make(bench *b, int mib) {
    b->count = mib / TENSOR_MIB > 0 ? mib / TENSOR_MIB : 1;
    b->tensor_bytes = (int64_t)TENSOR_MIB << 20;
    int64_t elems = b->tensor_bytes / (int64_t)ls_dtype_bytes(b->dtype);
    b->tensors = calloc((size_t)b->count, sizeof *b->tensors);
    b->names = calloc((size_t)b->count, sizeof *b->names);
    if (!b->tensors || !b->names) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %d tensors", b->count);
    }
    for (int i = 0; i < b->count; i++) {
        ls_ckpt_tensor *t = &b->tensors[i];
        snprintf(b->names[i], sizeof b->names[i], "layers.%d.weight", i);
        *t = (ls_ckpt_tensor){.name = b->names[i],
                              .dtype = b->dtype,
                              .ndim = 2,
                              .dims = {elems / COLUMNS, COLUMNS},
                              .data = malloc((size_t)b->tensor_bytes)};
        t->box = ls_box_whole(2, t->dims);
        if (!t->data) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %d MiB", mib);
        }
        /* Chunks are compressed one by one, so that copies of the first tensor do not help. */
        for (int64_t k = 0; i == 0 && k < elems; k++) {
            float x = (float)(0.02 * ls_rng_normal(1, 2, (uint64_t)k));
            if (b->dtype == LS_BF16) {
                ((ls_bf16 *)t->data)[k] = ls_bf16_from_f32(x);
            } else {
                ((float *)t->data)[k] = x;
            }
        }
        if (i > 0) {
            memcpy(t->data, b->tensors[0].data, (size_t)b->tensor_bytes);
        }
    }
    return LS_OK;
}

static void tensors_free(bench *b) {
    for (int i = 0; i < b->count && b->tensors; i++) {
        free(b->tensors[i].data);
    }
    free(b->tensors);
    free(b->names);
}

static ls_status raw_write(bench *b) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, b->directory, "bench-raw"));
    for (int round = 0; round < b->rounds; round++) {
        uint64_t start = ls_clock_ns();
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
        ls_status status = fd >= 0 ? LS_OK : LS_FAIL(LS_E_IO, "cannot create '%s'", path);
        for (int i = 0; i < b->count && status == LS_OK; i++) {
            status = ls_file_write_all(fd, b->tensors[i].data, (size_t)b->tensor_bytes, path);
        }
        if (status == LS_OK && fsync(fd) != 0) {
            status = LS_FAIL(LS_E_IO, "cannot sync '%s'", path);
        }
        close(fd);
        unlink(path);
        LS_TRY(status);
        b->seconds[round] = 1e-9 * (double)(ls_clock_ns() - start);
    }
    print_rate(b, "write and fsync");
    printf("\n");
    return LS_OK;
}

/* Shuffle and zstd of every chunk on one thread, nothing stored. */
static ls_status compress_alone(bench *b) {
    for (int round = 0; round < b->rounds; round++) {
        ls_ckpt_codec codec;
        LS_TRY(ls_ckpt_codec_init(&codec, 1));
        uint64_t start = ls_clock_ns();
        ls_status status = LS_OK;
        int64_t width = (int64_t)ls_dtype_bytes(b->dtype), elems = LS_CKPT_CHUNK_BYTES / width;
        for (int64_t at = 0; at < b->tensor_bytes * b->count && status == LS_OK;
             at += LS_CKPT_CHUNK_BYTES) {
            const char *data = b->tensors[at / b->tensor_bytes].data;
            const void *out;
            size_t bytes;
            status = ls_ckpt_encode(&codec, data + at % b->tensor_bytes, elems, elems, width, &out,
                                    &bytes);
        }
        b->seconds[round] = 1e-9 * (double)(ls_clock_ns() - start);
        ls_ckpt_codec_release(&codec);
        LS_TRY(status);
    }
    print_rate(b, "shuffle and zstd 1 alone, 1 thread");
    printf("\n");
    return LS_OK;
}

static ls_status save(bench *b, int level) {
    json_t *empty = json_object();
    ls_ckpt_save_options options = {.root = b->directory,
                                    .level = level,
                                    .threads = b->threads,
                                    .config_text = "",
                                    .run = empty,
                                    .counters = empty};
    ls_status status = LS_OK;
    for (int round = 0; round < b->rounds && status == LS_OK; round++) {
        status = ls_dir_remove(b->saved.path);
        if (status == LS_OK) {
            status = ls_ckpt_save(b->comm, &options, b->tensors, b->count, &b->saved);
        }
        b->seconds[round] = b->saved.seconds;
    }
    json_decref(empty);
    LS_TRY(status);
    print_rate(b, level ? "save, zstd 1" : "save, not compressed");
    printf("  ratio %.3f\n", (double)b->saved.raw_bytes / (double)b->saved.stored_bytes);
    return LS_OK;
}

static void forget(const char *directory) {
    DIR *list = opendir(directory);
    struct dirent *item;
    while (list && (item = readdir(list))) {
        int fd = openat(dirfd(list), item->d_name, O_RDONLY);
        if (fd >= 0) {
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
            close(fd);
        }
    }
    closedir(list);
}

static ls_status load(bench *b, bool verify) {
    for (int round = 0; round < b->rounds; round++) {
        ls_ckpt *ckpt;
        forget(b->saved.path);
        uint64_t start = ls_clock_ns();
        LS_TRY(ls_ckpt_open(b->saved.path, &ckpt));
        ls_status status = verify ? ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL)
                                  : ls_ckpt_load(ckpt, b->tensors, b->count);
        ls_ckpt_close(ckpt);
        LS_TRY(status);
        b->seconds[round] = 1e-9 * (double)(ls_clock_ns() - start);
    }
    print_rate(b, verify ? "verify --full" : "load");
    printf("\n");
    return LS_OK;
}

static ls_status run(bench *b, int mib) {
    LS_TRY(tensors_make(b, mib));
    printf("%s, %d MiB, %d threads, %d rounds: MB/s of raw bytes, best / median\n",
           ls_dtype_name(b->dtype), b->count * TENSOR_MIB, b->threads, b->rounds);
    LS_TRY(raw_write(b));
    LS_TRY(compress_alone(b));
    for (int level = 1; level >= 0; level--) {
        b->saved.path[0] = '\0';
        LS_TRY(ls_path_join(b->saved.path, sizeof b->saved.path, b->directory, "step-00000000"));
        LS_TRY(save(b, level));
        LS_TRY(load(b, false));
        LS_TRY(load(b, true));
        LS_TRY(ls_dir_remove(b->saved.path));
    }
    return LS_OK;
}

int main(int argc, char **argv) {
    int mib = argc > 2 ? atoi(argv[2]) : 512, threads = argc > 3 ? atoi(argv[3]) : 2;
    int rounds = argc > 4 ? atoi(argv[4]) : 5;
    if (argc < 2 || mib < 1 || threads < 1 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "bench_checkpoint DIR [MIB [THREADS [ROUNDS]]]\n");
        return 2;
    }
    ls_comm *comm;
    ls_status status = ls_comm_self(&comm);
    for (ls_dtype dtype = LS_F32; status == LS_OK; dtype = LS_BF16) {
        bench b = {.directory = argv[1],
                   .threads = threads,
                   .rounds = rounds,
                   .dtype = dtype,
                   .comm = comm};
        status = run(&b, mib);
        tensors_free(&b);
        if (dtype == LS_BF16) {
            break;
        }
    }
    if (status != LS_OK) {
        ls_log_error();
    }
    comm->ops->destroy(comm);
    return ls_status_exit(status);
}
