/* Tensors, temporary directories and saves that the checkpoint tests share. */
#ifndef LS_TESTS_CKPT_CASES_H
#define LS_TESTS_CKPT_CASES_H

#include "checkpoint/ckpt.h"
#include "runtime/base/file.h"
#include "tests/test.h"

#include <unistd.h>

#define CASE_TENSORS 12

typedef struct ckpt_case {
    const char *name;
    ls_dtype dtype;
    int ndim;
    int64_t dims[LS_MAX_DIMS];
} ckpt_case;

/* Every element type, one to four dimensions, odd sizes, names that need escaping, "a" beside
 * "a/b", more than one chunk, and a row that is larger than a chunk. */
static const ckpt_case cases[CASE_TENSORS] = {
    {"a", LS_F32, 1, {1}},
    {"a/b", LS_F64, 2, {3, 5}},
    {"layers.0.attn.qkv.weight", LS_F32, 2, {257, 129}},
    {"layers.0.attn.qkv.bf16", LS_BF16, 2, {131, 77}},
    {"half", LS_F16, 3, {7, 3, 11}},
    {"deep", LS_I32, 4, {3, 2, 5, 7}},
    {"count:64%@\\", LS_I64, 1, {1001}},
    {".hidden", LS_U8, 2, {13, 17}},
    {"tab\tname", LS_U16, 1, {19}},
    {"\xc3\xa9t\xc3\xa9", LS_U32, 2, {1, 23}},
    {"optim/exp_avg/many_chunks", LS_U64, 2, {999, 1201}},
    {"wide", LS_F32, 2, {2, 1200007}},
};

/* Value of an element of a tensor (as many bytes as it has): depends on its place in the whole
 * tensor only. The last byte varies little, so that compression has something to do, as with the
 * exponents of real weights. The mixer is splitmix64. */
static inline uint64_t case_value(int tensor, int64_t elem, int bytes) {
    uint64_t z = (uint64_t)elem * 0x9e3779b97f4a7c15u + (uint64_t)tensor * 0xd1342543de82ef95u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    uint64_t last = 0x3b + (z >> 62), kept = ((uint64_t)1 << (8 * (bytes - 1))) - 1;
    return (z & kept) | last << (8 * (bytes - 1));
}

/* Fills data with the box of tensor i. */
static inline void case_fill(int tensor, const ls_box *box, uint8_t *data) {
    const ckpt_case *c = &cases[tensor];
    int bytes = (int)ls_dtype_bytes(c->dtype);
    int64_t count = ls_box_elems(box);
    for (int64_t i = 0; i < count; i++) {
        int64_t rest = i, elem = 0, stride = 1;
        for (int d = c->ndim - 1; d >= 0; d--) {
            elem += (box->start[d] + rest % box->extent[d]) * stride;
            rest /= box->extent[d];
            stride *= c->dims[d];
        }
        uint64_t value = case_value(tensor, elem, bytes);
        memcpy(data + i * bytes, &value, (size_t)bytes);
    }
}

/* Tensor i with the given box and filled data (NULL when the box is empty). Free .data. */
static inline ls_ckpt_tensor case_tensor(int i, const ls_box *box) {
    ls_ckpt_tensor t = {.name = cases[i].name, .dtype = cases[i].dtype, .ndim = cases[i].ndim};
    memcpy(t.dims, cases[i].dims, sizeof t.dims);
    t.box = box ? *box : ls_box_whole(t.ndim, t.dims);
    if (ls_box_elems(&t.box) > 0) {
        t.data = malloc((size_t)ls_box_elems(&t.box) * ls_dtype_bytes(t.dtype));
        case_fill(i, &t.box, t.data);
    }
    return t;
}

/* count: the first cases only (the small ones come first). */
static inline void cases_make(ls_ckpt_tensor *tensors, int count, int rank, int ranks) {
    ls_box boxes[CASE_TENSORS];
    for (int i = 0; i < count; i++) {
        tensors[i] = (ls_ckpt_tensor){.dtype = cases[i].dtype, .ndim = cases[i].ndim};
        memcpy(tensors[i].dims, cases[i].dims, sizeof tensors[i].dims);
    }
    ls_ckpt_assign(tensors, count, rank, ranks, boxes);
    for (int i = 0; i < count; i++) {
        tensors[i] = case_tensor(i, &boxes[i]);
    }
}

static inline void cases_free(ls_ckpt_tensor *tensors, int count) {
    for (int i = 0; i < count; i++) {
        free(tensors[i].data);
    }
}

/* Loads the box of tensor i and compares every byte. */
static inline ls_status case_check(ls_ckpt *ckpt, int i, const ls_box *box) {
    ls_ckpt_tensor t = case_tensor(i, box);
    size_t bytes = (size_t)ls_box_elems(&t.box) * ls_dtype_bytes(t.dtype);
    uint8_t *expected = t.data;
    t.data = malloc(bytes + 1);
    memset(t.data, 0xa5, bytes + 1);
    ls_status status = ls_ckpt_load(ckpt, &t, 1);
    if (status == LS_OK) {
        CHECK(memcmp(t.data, expected, bytes) == 0);
        CHECK_INT(((uint8_t *)t.data)[bytes], 0xa5);
    }
    free(expected);
    free(t.data);
    return status;
}

static inline json_t *case_counters(void) {
    return json_pack("{s:I,s:f,s:n,s:s,s:{s:f,s:f}}", "tokens", (json_int_t)123456,
                     "tokens_per_second", 98765.5, "joules", "flops_convention", "6N", "seconds",
                     "compute", 1.5, "other", 0.25);
}

/* Of step `step`. Caller gives options.run and options.counters back. */
static inline ls_ckpt_save_options case_options(const char *root, int64_t step, int level,
                                                int threads) {
    return (ls_ckpt_save_options){.root = root,
                                  .step = step,
                                  .tokens = 1000 * step,
                                  .level = level,
                                  .threads = threads,
                                  .config_text = "run:\n  seed: 42\n",
                                  .run = json_pack("{s:i,s:s}", "seed", 42, "data", "abc"),
                                  .counters = case_counters()};
}

/* Saves the tensors of this rank as step `step`. */
static inline ls_status case_save(ls_comm *comm, const char *root, int64_t step, int level,
                                  int threads, const ls_ckpt_tensor *tensors, int count,
                                  ls_ckpt_save_result *result) {
    const ls_ckpt_save_options options = case_options(root, step, level, threads);
    ls_status status = ls_ckpt_save(comm, &options, tensors, count, result);
    json_decref((json_t *)options.run);
    json_decref((json_t *)options.counters);
    return status;
}

/* A fresh directory for this test, removed by case_directory_remove. */
static inline char *case_directory(void) {
    static char path[256];
    const char *base = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/lockstep-ckpt-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(path)) {
        perror(path);
        exit(1);
    }
    return path;
}

#endif
