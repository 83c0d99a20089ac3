/* Streaming, statistics, comparison and rewriting against plain loops over tensors in memory. */
#include "checkpoint/diff.h"
#include "checkpoint/prune.h"
#include "checkpoint/rewrite.h"
#include "checkpoint/stats.h"
#include "checkpoint/values.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <sys/stat.h>
#include <unistd.h>

static ls_comm *comm;

/* Saves one tensor in boxes [count] that cover it; data is the whole tensor. */
static ls_ckpt *save(const char *root, int64_t step, const char *name, ls_dtype dtype, int ndim,
                     const int64_t *dims, const ls_box *boxes, int count, const void *data) {
    ls_ckpt_tensor tensors[16];
    ls_box whole = ls_box_whole(ndim, dims);
    size_t elem_bytes = ls_dtype_bytes(dtype);
    for (int i = 0; i < count; i++) {
        tensors[i] = (ls_ckpt_tensor){.name = name, .dtype = dtype, .ndim = ndim, .box = boxes[i]};
        memcpy(tensors[i].dims, dims, (size_t)ndim * sizeof *dims);
        tensors[i].data = malloc((size_t)ls_box_elems(&boxes[i]) * elem_bytes);
        ls_box_copy(&boxes[i], &whole, data, &boxes[i], tensors[i].data, elem_bytes);
    }
    ls_ckpt_save_result result = {0};
    CHECK_OK(case_save(comm, root, step, 1, 1, tensors, count, &result));
    cases_free(tensors, count);
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    return ckpt;
}

static int split(int64_t rows, int64_t cols, int parts, bool by_cols, ls_box *boxes) {
    for (int i = 0; i < parts; i++) {
        int64_t n = by_cols ? cols : rows, begin = n * i / parts, end = n * (i + 1) / parts;
        boxes[i] = (ls_box){.ndim = 2, .start = {0, 0}, .extent = {rows, cols}};
        boxes[i].start[by_cols] = begin;
        boxes[i].extent[by_cols] = end - begin;
    }
    return parts;
}

/* ---- streaming ---- */

typedef struct gathered {
    ls_ckpt_tensor whole;
    uint8_t *seen;
    int slabs, stop_after;
} gathered;

static ls_status gather(void *context, int piece, const ls_box *box, const void *data) {
    (void)piece;
    gathered *g = context;
    size_t bytes = ls_dtype_bytes(g->whole.dtype);
    ls_box_copy(box, box, data, &g->whole.box, g->whole.data, bytes);
    int64_t count = ls_box_elems(box);
    uint8_t *ones = malloc((size_t)count), *before = malloc((size_t)count);
    memset(ones, 1, (size_t)count);
    ls_box_copy(box, &g->whole.box, g->seen, box, before, 1);
    for (int64_t i = 0; i < count; i++) {
        if (before[i]) {
            CHECK(!"an element came twice");
            break;
        }
    }
    ls_box_copy(box, box, ones, &g->whole.box, g->seen, 1);
    free(ones);
    free(before);
    return ++g->slabs == g->stop_after ? LS_FAIL(LS_E_NO, "enough") : LS_OK;
}

static void streams_every_case(const char *root) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result;
    ls_ckpt *ckpt = NULL;
    cases_make(tensors, CASE_TENSORS, 0, 1);
    CHECK_OK(case_save(comm, root, 1, 1, 2, tensors, CASE_TENSORS, &result));
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    for (int i = 0; i < CASE_TENSORS; i++) {
        const ls_ckpt_entry *entry = ls_ckpt_find(ckpt, cases[i].name);
        gathered g = {.whole = ls_ckpt_entry_tensor(entry)};
        size_t elems = (size_t)ls_box_elems(&g.whole.box);
        size_t bytes = elems * ls_dtype_bytes(entry->dtype);
        g.whole.data = calloc(bytes, 1);
        g.seen = calloc(elems, 1);
        CHECK_OK(ls_ckpt_stream(ckpt, entry, gather, &g));
        CHECK(memcmp(g.whole.data, tensors[i].data, bytes) == 0);
        memset(g.seen, 0, elems);
        g.slabs = 0;
        g.stop_after = 1;
        CHECK_STATUS(ls_ckpt_stream(ckpt, entry, gather, &g), LS_E_NO);
        CHECK_INT(g.slabs, 1);
        free(g.whole.data);
        free(g.seen);
    }
    ls_ckpt_close(ckpt);
    cases_free(tensors, CASE_TENSORS);
}

/* ---- conversions ---- */

static void converts_values(void) {
    const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001,
                               0x03ff, 0x0400, 0x7bff, 0x7c00, 0x7e00};
    const double expected[] = {0, -0.0, 1, -2, 0x1p-24, 1023 * 0x1p-24, 0x1p-14, 65504, INFINITY};
    for (int i = 0; i < 9; i++) {
        CHECK(ls_value_f64(&halves[i], LS_F16) == expected[i]);
    }
    CHECK(isnan(ls_value_f64(&halves[9], LS_F16)));
    float wide[3000];
    uint16_t narrow[3000];
    for (int i = 0; i < 3000; i++) {
        wide[i] = (float)ls_rng_normal(1, 2, (uint64_t)i);
    }
    CHECK_OK(ls_values_convert(narrow, LS_BF16, wide, LS_F32, 3000));
    int wrong = 0;
    for (int i = 0; i < 3000; i++) {
        wrong += narrow[i] != ls_bf16_from_f32(wide[i]);
    }
    CHECK_INT(wrong, 0);
    CHECK_STATUS(ls_values_convert(wide, LS_F32, narrow, LS_I32, 1), LS_E_UNSUPPORTED);
    CHECK_STATUS(ls_values_convert(narrow, LS_F16, wide, LS_F32, 1), LS_E_UNSUPPORTED);
    const int64_t integer = -7;
    CHECK(ls_value_f64(&integer, LS_I64) == -7);
}

/* ---- statistics ---- */

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void counts_like_a_plain_loop(const char *root, int64_t step, ls_dtype dtype, int parts,
                                     bool by_cols) {
    enum { ROWS = 211, COLS = 97, N = ROWS * COLS };
    const int64_t dims[] = {ROWS, COLS};
    static double sorted[N];
    static float f32[N];
    static uint16_t bf16[N];
    ls_box boxes[8];
    double sum = 0, squares = 0;
    int64_t finite = 0;
    for (int i = 0; i < N; i++) {
        f32[i] = (float)(ls_rng_normal(3, 4, (uint64_t)i) * pow(10, i % 7 - 3));
    }
    f32[0] = f32[17] = 0.0f;
    f32[18] = -0.0f;
    f32[100] = NAN;
    f32[5000] = INFINITY;
    f32[6000] = -INFINITY;
    CHECK_OK(ls_values_convert(bf16, LS_BF16, f32, LS_F32, N));
    const void *data = dtype == LS_F32 ? (void *)f32 : (void *)bf16;
    for (int i = 0; i < N; i++) {
        double x = ls_value_f64((const char *)data + (size_t)i * ls_dtype_bytes(dtype), dtype);
        if (isfinite(x)) {
            sorted[finite++] = x;
            sum += x;
        }
    }
    qsort(sorted, (size_t)finite, sizeof *sorted, ascending);
    for (int64_t i = 0; i < finite; i++) {
        double d = sorted[i] - sum / (double)finite;
        squares += d * d;
    }
    int count = split(ROWS, COLS, parts, by_cols, boxes);
    ls_ckpt *ckpt = save(root, step, "t", dtype, 2, dims, boxes, count, data);
    ls_stats s;
    CHECK_OK(ls_ckpt_stats(ckpt, ls_ckpt_find(ckpt, "t"), &s));
    CHECK_INT(s.moments.elems, N);
    CHECK_INT(s.moments.finite, N - 3);
    CHECK_INT(s.moments.zeros, 3);
    CHECK_INT(s.moments.nans, 1);
    CHECK_INT(s.moments.infinities, 2);
    CHECK(s.moments.min == sorted[0] && s.moments.max == sorted[finite - 1]);
    CHECK_NEAR(s.moments.mean, sum / (double)finite, 1e-9, 1e-12);
    CHECK_NEAR(s.moments.std, sqrt(squares / (double)finite), 1e-9, 0);
    double tolerance = dtype == LS_BF16 ? 0.0 : 0x1p-10;
    for (int i = 0; i < LS_STATS_PERCENTILES; i++) {
        int64_t rank = (int64_t)ceil(ls_stats_percents[i] / 100 * (double)finite);
        CHECK_NEAR(s.percentiles[i], sorted[rank - 1], tolerance, 1e-40);
    }
    int64_t total = 0;
    for (int i = 0; i < LS_STATS_BUCKETS; i++) {
        total += s.buckets[i];
    }
    CHECK_INT(total, finite);
    CHECK_INT(s.piece_count, parts);
    int outliers = 0;
    for (int i = 0; i < s.piece_count; i++) {
        outliers += s.pieces[i].outlier;
    }
    CHECK(outliers >= 1 && outliers <= 3); /* those with NaN and infinities */
    ls_ckpt_stats_release(&s);
    ls_ckpt_close(ckpt);
}

/* One piece of four is scaled: it stands out, for its spread or for one large element. */
static void finds_outliers(const char *root) {
    const int64_t dims[] = {64, 64};
    static float data[64 * 64];
    ls_box boxes[4];
    split(64, 64, 4, false, boxes);
    for (int kind = 0; kind < 3; kind++) {
        for (int i = 0; i < 64 * 64; i++) {
            data[i] = (float)ls_rng_normal(5, 6, (uint64_t)i);
            if (kind == 1 && i / 64 >= 32 && i / 64 < 48) {
                data[i] *= 5;
            }
        }
        if (kind == 2) {
            data[40 * 64 + 3] = 100;
        }
        ls_ckpt *ckpt = save(root, 20 + kind, "t", LS_F32, 2, dims, boxes, 4, data);
        ls_stats s;
        CHECK_OK(ls_ckpt_stats(ckpt, ls_ckpt_find(ckpt, "t"), &s));
        for (int i = 0; i < 4; i++) {
            CHECK_INT(s.pieces[i].outlier, kind > 0 && i == 2);
        }
        CHECK(kind == 0 || strstr(s.pieces[2].why, "median piece"));
        ls_ckpt_stats_release(&s);
        ls_ckpt_close(ckpt);
    }
}

static void stats_of_nothing_finite(const char *root) {
    const int64_t dims[] = {3};
    const float data[] = {NAN, INFINITY, NAN};
    ls_box box = ls_box_whole(1, dims);
    ls_ckpt *ckpt = save(root, 30, "t", LS_F32, 1, dims, &box, 1, data);
    ls_stats s;
    CHECK_OK(ls_ckpt_stats(ckpt, ls_ckpt_find(ckpt, "t"), &s));
    CHECK_INT(s.moments.finite, 0);
    CHECK(s.moments.min == 0 && s.moments.max == 0 && s.moments.mean == 0 && s.moments.std == 0);
    ls_ckpt_stats_release(&s);
    ls_ckpt_close(ckpt);
}

/* ---- comparison ---- */

static ls_difference difference(const char *root, ls_dtype dtype, const void *a, const void *b,
                                double rtol) {
    const int64_t dims[] = {6, 4};
    ls_box by_rows[3], by_cols[2];
    ls_difference d;
    ls_ckpt *x = save(root, 40, "t", dtype, 2, dims, by_rows, split(6, 4, 3, false, by_rows), a);
    ls_ckpt *y = save(root, 41, "t", dtype, 2, dims, by_cols, split(6, 4, 2, true, by_cols), b);
    CHECK_OK(ls_ckpt_compare(x, ls_ckpt_find(x, "t"), y, ls_ckpt_find(y, "t"), rtol, &d));
    ls_ckpt_close(x);
    ls_ckpt_close(y);
    return d;
}

static void compares_elements(const char *root) {
    float a[24], b[24];
    for (int i = 0; i < 24; i++) {
        a[i] = b[i] = (float)(i + 1);
    }
    CHECK_INT(difference(root, LS_F32, a, b, 0).differing, 0);
    b[23] = nextafterf(b[23], INFINITY);
    b[10] = nextafterf(nextafterf(b[10], 0), 0);
    ls_difference d = difference(root, LS_F32, a, b, 0);
    CHECK_INT(d.differing, 2);
    CHECK_INT(d.max_ulp, 2);
    CHECK_INT(d.first[0], 2);
    CHECK_INT(d.first[1], 2);
    CHECK(d.a == (double)a[10] && d.b == (double)b[10]);
    CHECK(d.max_abs == fmax((double)a[10] - (double)b[10], (double)b[23] - (double)a[23]));
    CHECK_INT(difference(root, LS_F32, a, b, 1e-6).differing, 0);
    CHECK_INT(difference(root, LS_F32, a, b, 1e-7).differing, 1);
    b[1] = NAN;
    a[2] = b[2] = NAN;
    d = difference(root, LS_F32, a, b, 1e-6);
    CHECK_INT(d.differing, 1);
    CHECK_INT(d.nans, 1);
    a[3] = 0.0f;
    b[3] = -0.0f; /* other bytes, no distance */
    d = difference(root, LS_F32, a, b, 0);
    CHECK_INT(d.differing, 4);
    CHECK_INT(d.max_ulp, 2);
    const int32_t low[24] = {INT32_MIN}, high[24] = {INT32_MAX};
    CHECK(difference(root, LS_I32, low, high, 0).max_ulp == UINT32_MAX);
    const uint16_t one[24] = {0x3f80}, next[24] = {0xbf80};
    CHECK_INT(difference(root, LS_BF16, one, next, 0).max_ulp, 2 * 0x3f80);
}

/* ---- rewriting ---- */

static void rewrites_for_any_writers(const char *root) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result, again;
    ls_ckpt *ckpt = NULL, *other = NULL;
    cases_make(tensors, CASE_TENSORS, 0, 1);
    CHECK_OK(case_save(comm, root, 50, 1, 2, tensors, CASE_TENSORS, &result));
    cases_free(tensors, CASE_TENSORS);
    CHECK_OK(ls_ckpt_open(result.path, &ckpt));
    static const int writers[] = {1, 2, 3, 7, 40};
    for (size_t i = 0; i < sizeof writers / sizeof *writers; i++) {
        char target[300];
        snprintf(target, sizeof target, "%s/to-%d", root, writers[i]);
        ls_ckpt_save_options options = {.root = target, .level = i == 1 ? 0 : 1, .threads = 2};
        CHECK_OK(ls_ckpt_reshard(ckpt, &options, writers[i], &again));
        CHECK_STATUS(ls_ckpt_reshard(ckpt, &options, writers[i], &again), LS_E_EXISTS);
        CHECK_OK(ls_ckpt_open(again.path, &other));
        CHECK_INT(ls_ckpt_step(other), 50);
        CHECK_STR(ls_ckpt_config(other), ls_ckpt_config(ckpt));
        CHECK(json_equal(ls_ckpt_counters(other), ls_ckpt_counters(ckpt)));
        CHECK(ls_ckpt_describe(other).writers <= writers[i]);
        CHECK(writers[i] > 3 || ls_ckpt_describe(other).writers == writers[i]);
        for (int k = 0; k < CASE_TENSORS; k++) {
            CHECK_OK(case_check(other, k, NULL));
        }
        ls_ckpt_close(other);
        ls_ckpt_stale *stale;
        size_t count;
        CHECK_OK(ls_ckpt_stale_list(target, &stale, &count));
        CHECK_INT(count, 0);
        free(stale);
    }
    ls_ckpt_close(ckpt);
}

static ls_status refuse(void *context, ls_ckpt_tensor *tensors, int count) {
    (void)context;
    (void)tensors;
    return LS_FAIL(LS_E_NO, "no data (%d)", count);
}

/* Another takes the name meanwhile. */
static ls_status take_name(void *final, ls_ckpt_tensor *tensors, int count) {
    CHECK_INT(count, 1);
    memset(tensors->data, 0, (size_t)ls_box_elems(&tensors->box) * sizeof(float));
    CHECK(mkdir(final, 0700) == 0);
    return LS_OK;
}

static void leaves_nothing_after_a_failure(const char *root) {
    char target[300], final[400];
    snprintf(target, sizeof target, "%s/failed", root);
    snprintf(final, sizeof final, "%s/step-00000000", target);
    json_t *empty = json_object();
    ls_ckpt_save_options options = {
        .root = target, .config_text = "", .run = empty, .counters = empty, .threads = 1};
    ls_ckpt_tensor t = {.name = "t", .dtype = LS_F32, .ndim = 1, .dims = {5}};
    t.box = ls_box_whole(1, t.dims);
    ls_ckpt_save_result result;
    CHECK_STATUS(ls_ckpt_rewrite(&options, &t, 1, 1, refuse, NULL, &result), LS_E_NO);
    CHECK_MESSAGE("no data");
    CHECK(access(target, F_OK) != 0);
    CHECK(mkdir(target, 0700) == 0);
    CHECK_STATUS(ls_ckpt_rewrite(&options, &t, 1, 1, refuse, NULL, &result), LS_E_NO);
    CHECK_STATUS(ls_ckpt_rewrite(&options, &t, 1, 1, take_name, final, &result), LS_E_EXISTS);
    CHECK(rmdir(final) == 0);  /* the other's, and nothing was put there */
    CHECK(rmdir(target) == 0); /* it was there before, and is empty */
    json_decref(empty);
}

int main(void) {
    char *root = case_directory();
    ls_log_set_quiet(true);
    CHECK_OK(ls_comm_self(&comm));
    streams_every_case(root);
    converts_values();
    counts_like_a_plain_loop(root, 10, LS_F32, 1, false);
    counts_like_a_plain_loop(root, 11, LS_F32, 5, true);
    counts_like_a_plain_loop(root, 12, LS_BF16, 3, false);
    finds_outliers(root);
    stats_of_nothing_finite(root);
    compares_elements(root);
    rewrites_for_any_writers(root);
    leaves_nothing_after_a_failure(root);
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
