/* bench_checkpoint DIR [MIB [THREADS [ROUNDS]]]: saving, loading and verifying checkpoints beside
 * what they are made of: a plain write with fsync of as many bytes, zstd alone, a plain read,
 * zstd's decompression alone, SHA-256 alone, and HDF5's own filter pipeline. Every round does each
 * in turn, every second one backwards, so that the ratios hold when the machine's speed drifts and
 * nothing comes first always. Tensors are normal numbers of the size of trained weights. Rates are
 * GB/s of raw tensor bytes, medians of the rounds; processor time is that of all threads, the least
 * of the rounds, which other programs disturb little. Before a read the file is read once, so that
 * whoever is below this machine has the same of it, and the page cache is asked to forget it
 * (posix_fadvise). */
#include "checkpoint/format.h"
#include "checkpoint/zstd_filter.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"

#include <dirent.h>
#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLUMNS = 1024, TENSOR_MIB = 16, ROUNDS_MAX = 64, PART_BYTES = 1 << 22 };

#define WORKS(X)                                                                                   \
    X(RAW_WRITE, raw_write, "write and fsync of the stored bytes")                                 \
    X(ZSTD, zstd_alone, "zstd level 1 alone")                                                      \
    X(SAVE, save, "save")                                                                          \
    X(PIPELINE_WRITE, pipeline_write, "HDF5's filter pipeline, 1 thread, and fsync")               \
    X(RAW_READ, raw_read, "read of the stored bytes")                                              \
    X(RAW_DIRECT, raw_direct, "read of the stored bytes, past the page cache")                     \
    X(UNZSTD, unzstd_alone, "zstd decompression alone")                                            \
    X(LOAD, load, "load")                                                                          \
    X(PIPELINE_READ, pipeline_read, "HDF5's filter pipeline, 1 thread")                            \
    X(SHA256, sha256_alone, "SHA-256 of the data file, from the page cache")                       \
    X(VERIFY, verify_full, "verify --full, from the page cache")

typedef enum work {
#define X(id, function, text) id,
    WORKS(X)
#undef X
        WORK_COUNT
} work;

typedef struct bench {
    const char *directory;
    int threads, rounds, count;
    ls_dtype dtype;
    ls_comm *comm;
    ls_ckpt_tensor *tensors;
    char (*names)[32];
    int64_t tensor_bytes;
    ls_ckpt_save_result saved;
    char *stored; /* [stored_bytes] the data file */
    size_t stored_bytes;
    uint8_t *part; /* [PART_BYTES] */
    double seconds[WORK_COUNT][ROUNDS_MAX], cpu_seconds[WORK_COUNT][ROUNDS_MAX];
} bench;

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

static void bench_free(bench *b) {
    for (int i = 0; i < b->count && b->tensors; i++) {
        free(b->tensors[i].data);
    }
    free(b->tensors);
    free(b->names);
    free(b->stored);
    free(b->part);
}

static ls_status raw_write(bench *b) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, b->directory, "bench-raw"));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ls_status status = fd >= 0 ? LS_OK : LS_FAIL(LS_E_IO, "cannot create '%s'", path);
    size_t part = 1 << 24;
    for (size_t at = 0; at < b->stored_bytes && status == LS_OK; at += part) {
        size_t left = b->stored_bytes - at;
        status = ls_file_write_all(fd, b->stored + at, left < part ? left : part, path);
    }
    if (status == LS_OK && fsync(fd) != 0) {
        status = LS_FAIL(LS_E_IO, "cannot sync '%s'", path);
    }
    close(fd);
    return status;
}

static ls_status zstd_alone(bench *b) {
    const int64_t chunks = b->tensor_bytes / LS_CKPT_CHUNK_BYTES;
    bool failed = false;
#pragma omp parallel num_threads(b->threads)
    {
        const size_t room = ZSTD_compressBound(LS_CKPT_CHUNK_BYTES);
        ZSTD_CCtx *context = ZSTD_createCCtx();
        void *out = malloc(room);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < b->count * chunks; i++) {
            const char *from =
                (const char *)b->tensors[i / chunks].data + i % chunks * LS_CKPT_CHUNK_BYTES;
            if (!context || !out ||
                ZSTD_isError(ZSTD_compressCCtx(context, out, room, from, LS_CKPT_CHUNK_BYTES, 1))) {
                failed = true;
            }
        }
        ZSTD_freeCCtx(context);
        free(out);
    }
    return failed ? LS_FAIL(LS_E_MEMORY, "zstd failed") : LS_OK;
}

static ls_status save(bench *b) {
    json_t *empty = json_object();
    ls_ckpt_save_options options = {.root = b->directory,
                                    .level = 1,
                                    .threads = b->threads,
                                    .config_text = "",
                                    .run = empty,
                                    .counters = empty};
    ls_status status = ls_ckpt_save(b->comm, &options, b->tensors, b->count, &b->saved);
    json_decref(empty);
    return status;
}

static ls_status pipeline_path(const bench *b, char path[4096]) {
    return ls_path_join(path, 4096, b->directory, "bench-pipeline.h5");
}

static ls_status pipeline_write(bench *b) {
    char path[4096];
    LS_TRY(pipeline_path(b, path));
    LS_TRY(ls_ckpt_h5_init());
    const ls_ckpt_tensor *t = b->tensors;
    const hsize_t extent[2] = {(hsize_t)t->dims[0], COLUMNS};
    const hsize_t chunk[2] = {LS_CKPT_CHUNK_BYTES / COLUMNS / ls_dtype_bytes(b->dtype), COLUMNS};
    const unsigned level = 1;
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(2, extent, NULL);
    hid_t type = b->dtype == LS_F32 ? H5T_IEEE_F32LE : H5T_STD_U16LE;
    bool done = H5Pset_chunk(list, 2, chunk) >= 0 && H5Pset_shuffle(list) >= 0 &&
                H5Pset_filter(list, LS_H5Z_ZSTD, H5Z_FLAG_MANDATORY, 1, &level) >= 0;
    for (int i = 0; i < b->count && done; i++) {
        hid_t dataset = H5Dcreate2(file, b->names[i], type, space, H5P_DEFAULT, list, H5P_DEFAULT);
        done = H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, b->tensors[i].data) >= 0 &&
               H5Dclose(dataset) >= 0;
    }
    H5Sclose(space);
    H5Pclose(list);
    done = H5Fclose(file) >= 0 && done;
    return done ? ls_file_sync(path) : LS_FAIL(LS_E_IO, "HDF5 cannot write '%s'", path);
}

static void forget(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static ls_status data_path(const bench *b, char path[4096]) {
    return ls_path_join(path, 4096, b->saved.path, "rank-00000.h5");
}

static ls_status raw_read(bench *b) {
    char path[4096];
    LS_TRY(data_path(b, path));
    int fd = open(path, O_RDONLY);
    size_t done = 0;
    for (ssize_t n = 1; fd >= 0 && done < b->stored_bytes && n > 0; done += (size_t)n) {
        size_t left = b->stored_bytes - done;
        n = read(fd, b->stored + done, left < PART_BYTES ? left : PART_BYTES);
        n = n < 0 ? 0 : n;
    }
    close(fd);
    return done == b->stored_bytes ? LS_OK : LS_FAIL(LS_E_IO, "cannot read '%s'", path);
}

/* As fast as a disk gives them: into huge pages, again and again the same. */
static ls_status raw_direct(bench *b) {
    char path[4096];
    LS_TRY(data_path(b, path));
    int fd = open(path, O_RDONLY | O_DIRECT);
    size_t done = 0;
    for (ssize_t n = 1; fd >= 0 && done < b->stored_bytes && n > 0; done += (size_t)n) {
        n = read(fd, b->part, PART_BYTES);
        n = n < 0 ? 0 : n;
    }
    close(fd);
    return done == b->stored_bytes ? LS_OK : LS_FAIL(LS_E_IO, "cannot read '%s'", path);
}

/* The frames of the saved file, from memory. */
static ls_status unzstd_alone(bench *b) {
    ls_ckpt *ckpt;
    bool failed = false;
    LS_TRY(ls_ckpt_open(b->saved.path, &ckpt));
#pragma omp parallel num_threads(b->threads)
    {
        ZSTD_DCtx *context = ZSTD_createDCtx();
        void *out = malloc(LS_CKPT_CHUNK_BYTES);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < ckpt->chunk_count; i++) {
            const ls_ckpt_chunk *c = &ckpt->chunks[i];
            if (!context || !out ||
                ZSTD_isError(ZSTD_decompressDCtx(context, out, LS_CKPT_CHUNK_BYTES,
                                                 b->stored + c->at, (size_t)c->bytes))) {
                failed = true;
            }
        }
        ZSTD_freeDCtx(context);
        free(out);
    }
    ls_ckpt_close(ckpt);
    return failed ? LS_FAIL(LS_E_CORRUPT, "zstd failed") : LS_OK;
}

static ls_status load(bench *b) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(b->saved.path, &ckpt));
    ls_status status = ls_ckpt_load(ckpt, b->tensors, b->count);
    ls_ckpt_close(ckpt);
    return status;
}

static ls_status pipeline_read(bench *b) {
    char path[4096];
    LS_TRY(pipeline_path(b, path));
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t type = b->dtype == LS_F32 ? H5T_IEEE_F32LE : H5T_STD_U16LE;
    bool done = file >= 0;
    for (int i = 0; i < b->count && done; i++) {
        hid_t dataset = H5Dopen2(file, b->names[i], H5P_DEFAULT);
        done = H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, b->tensors[i].data) >= 0 &&
               H5Dclose(dataset) >= 0;
    }
    done = H5Fclose(file) >= 0 && done;
    return done ? LS_OK : LS_FAIL(LS_E_IO, "HDF5 cannot read '%s'", path);
}

static ls_status sha256_alone(bench *b) {
    const int64_t part = 1 << 20, count = ((int64_t)b->stored_bytes + part - 1) / part;
    char path[4096];
    bool failed = false;
    LS_TRY(data_path(b, path));
    int fd = open(path, O_RDONLY);
#pragma omp parallel num_threads(b->threads)
    {
        char *buffer = malloc((size_t)part);
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < count; i++) {
            ssize_t n = buffer ? pread(fd, buffer, (size_t)part, i * part) : -1;
            ls_sha256 hash;
            if (n <= 0 || ls_sha256_of(buffer, (size_t)n, &hash) != LS_OK) {
                failed = true;
            }
        }
        free(buffer);
    }
    close(fd);
    return failed ? LS_FAIL(LS_E_IO, "cannot hash '%s'", path) : LS_OK;
}

static ls_status verify_full(bench *b) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(b->saved.path, &ckpt));
    ls_status status = ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_FULL, NULL, NULL);
    ls_ckpt_close(ckpt);
    return status;
}

static const struct {
    const char *text;
    ls_status (*run)(bench *b);
} works[] = {
#define X(id, function, text) {text, function},
    WORKS(X)
#undef X
};

/* What has to be so before the clock starts. */
static ls_status before(bench *b, work w) {
    char path[4096];
    if (w == SAVE) {
        LS_TRY(ls_dir_remove(b->saved.path));
    }
    if (w == RAW_WRITE || w == PIPELINE_WRITE) {
        LS_TRY(ls_path_join(path, sizeof path, b->directory, "bench-raw"));
        unlink(path);
    }
    if (w == RAW_READ || w == RAW_DIRECT || w == LOAD || w == SHA256 || w == VERIFY) {
        LS_TRY(raw_read(b));
    }
    if (w == RAW_READ || w == RAW_DIRECT || w == LOAD) {
        LS_TRY(data_path(b, path));
        forget(path);
    } else if (w == PIPELINE_READ) {
        LS_TRY(pipeline_path(b, path));
        forget(path);
    }
    return LS_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, int count) {
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, ascending);
    return sorted[count / 2];
}

static double least(const double *values, int count) {
    double found = values[0];
    for (int i = 1; i < count; i++) {
        found = values[i] < found ? values[i] : found;
    }
    return found;
}

/* Of all threads, in the kernel too. */
static double cpu_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The rounds' ratios of speeds: of `what` to the slower of x and y. */
static void tell(const bench *b, const char *text, work what, work x, work y) {
    double ratios[ROUNDS_MAX];
    for (int i = 0; i < b->rounds; i++) {
        const double first = b->seconds[x][i], second = b->seconds[y][i];
        ratios[i] = (first > second ? first : second) / b->seconds[what][i];
    }
    qsort(ratios, (size_t)b->rounds, sizeof *ratios, ascending);
    printf("  %-60s %5.2f (%.2f to %.2f)\n", text, ratios[b->rounds / 2], ratios[0],
           ratios[b->rounds - 1]);
}

static ls_status run(bench *b, int mib) {
    char path[4096];
    LS_TRY(tensors_make(b, mib));
    LS_TRY(ls_dir_create(b->directory));
    LS_TRY(ls_path_join(b->saved.path, sizeof b->saved.path, b->directory, "step-00000000"));
    LS_TRY(ls_dir_remove(b->saved.path));
    LS_TRY(save(b)); /* warms up, and gives the stored bytes */
    LS_TRY(data_path(b, path));
    LS_TRY(ls_file_read(path, (size_t)1 << 40, &b->stored, &b->stored_bytes));
    b->part = ls_ckpt_buffer(PART_BYTES);
    if (!b->part) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %d bytes", PART_BYTES);
    }
    for (int round = 0; round < b->rounds; round++) {
        for (int i = 0; i < WORK_COUNT; i++) {
            const work w = (work)(round % 2 ? WORK_COUNT - 1 - i : i);
            LS_TRY(before(b, w));
            uint64_t start = ls_clock_ns();
            double cpu_start = cpu_now();
            LS_TRY(works[w].run(b));
            b->seconds[w][round] = 1e-9 * (double)(ls_clock_ns() - start);
            b->cpu_seconds[w][round] = cpu_now() - cpu_start;
        }
    }
    double gigabytes = 1e-9 * (double)b->tensor_bytes * b->count;
    printf("%s, %.2f GB, stored %.3f times smaller, %d threads, median of %d rounds\n",
           ls_dtype_name(b->dtype), gigabytes,
           (double)b->saved.raw_bytes / (double)b->saved.stored_bytes, b->threads, b->rounds);
    for (work w = 0; w < WORK_COUNT; w++) {
        printf("  %-46s %7.2f GB/s %7.3f s/GB of processor time\n", works[w].text,
               gigabytes / median(b->seconds[w], b->rounds),
               least(b->cpu_seconds[w], b->rounds) / gigabytes);
    }
    tell(b, "save beside the slower of write and zstd", SAVE, RAW_WRITE, ZSTD);
    tell(b, "save beside HDF5's pipeline", SAVE, PIPELINE_WRITE, PIPELINE_WRITE);
    tell(b, "load beside the slower of read and decompression", LOAD, RAW_READ, UNZSTD);
    tell(b, "load beside the slower of direct read and decompression", LOAD, RAW_DIRECT, UNZSTD);
    tell(b, "load beside HDF5's pipeline", LOAD, PIPELINE_READ, PIPELINE_READ);
    tell(b, "verify --full beside SHA-256", VERIFY, SHA256, SHA256);
    puts("");
    LS_TRY(ls_dir_remove(b->saved.path));
    LS_TRY(pipeline_path(b, path));
    unlink(path);
    LS_TRY(ls_path_join(path, sizeof path, b->directory, "bench-raw"));
    unlink(path);
    return LS_OK;
}

int main(int argc, char **argv) {
    int mib = argc > 2 ? atoi(argv[2]) : 1024, threads = argc > 3 ? atoi(argv[3]) : 2;
    int rounds = argc > 4 ? atoi(argv[4]) : 5;
    if (argc < 2 || mib < 1 || threads < 1 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "bench_checkpoint DIR [MIB [THREADS [ROUNDS]]]\n");
        return 2;
    }
    ls_comm *comm;
    ls_status status = ls_comm_self(&comm);
    omp_set_num_threads(threads); /* load and verify take all there are */
    static const ls_dtype dtypes[] = {LS_F32, LS_BF16};
    for (int i = 0; i < 2 && status == LS_OK; i++) {
        bench b = {.directory = argv[1],
                   .threads = threads,
                   .rounds = rounds,
                   .dtype = dtypes[i],
                   .comm = comm};
        status = run(&b, mib);
        bench_free(&b);
    }
    if (status != LS_OK) {
        ls_log_error();
    }
    comm->ops->destroy(comm);
    return ls_status_exit(status);
}
