/* lockstep's matrix products against oneDNN called directly on the whole matrices with all threads.
 *
 *   bench_gemm [PRESET [BATCH [SEQ [REPEAT [THREADS [fp32|bf16]]]]]]
 *
 * For every product of a training step the two run in turn, REPEAT times; medians and best times
 * are compared. lockstep also adds bias and residual; oneDNN only multiplies (adding to C where
 * lockstep does). A ratio of 1 means oneDNN's speed, above 1 faster. */
#include "launch/gemm_shapes.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* oneDNN's product of a shape: sgemm for fp32, a matmul primitive for bf16. */
typedef struct direct {
    const ls_gemm *op;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[3];
} direct;

typedef struct settings {
    const char *preset;
    int64_t batch, seq;
    int repeat, threads;
    bool bf16;
} settings;

typedef struct result {
    double lockstep_s, direct_s; /* of one product, median */
    double lockstep_best_s, direct_best_s;
} result;

static ls_status check(dnnl_status_t status) {
    return status == dnnl_success ? LS_OK
                                  : LS_FAIL(LS_E_DEVICE, "oneDNN failed with status %d", status);
}

static dnnl_status_t matrix(direct *d, int arg, int64_t rows, int64_t cols, int64_t ld, bool trans,
                            ls_dtype dtype, void *data, dnnl_memory_desc_t *desc) {
    const dnnl_dims_t dims = {rows, cols}, strides = {trans ? 1 : ld, trans ? ld : 1};
    dnnl_status_t s = dnnl_memory_desc_init_by_strides(
        desc, 2, dims, dtype == LS_BF16 ? dnnl_bf16 : dnnl_f32, strides);
    static const int names[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    d->args[arg].arg = names[arg];
    return s == dnnl_success ? dnnl_memory_create(&d->args[arg].memory, desc, d->engine, data) : s;
}

static ls_status open_direct(direct *d, const ls_gemm *op) {
    *d = (direct){.op = op};
    if (op->dtype == LS_F32) {
        return LS_OK;
    }
    dnnl_memory_desc_t a, b, c;
    LS_TRY(check(dnnl_engine_create(&d->engine, dnnl_cpu, 0)));
    LS_TRY(check(dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags)));
    LS_TRY(check(matrix(d, 0, op->m, op->k, op->lda, op->trans_a, op->dtype, (void *)op->a, &a)));
    LS_TRY(check(matrix(d, 1, op->k, op->n, op->ldb, op->trans_b, op->dtype, (void *)op->b, &b)));
    LS_TRY(check(matrix(d, 2, op->m, op->n, op->ldc, false, op->c_dtype, op->c, &c)));
    dnnl_matmul_desc_t desc;
    LS_TRY(check(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c)));
    dnnl_primitive_desc_t found;
    if (dnnl_primitive_desc_create(&found, &desc, NULL, d->engine, NULL) != dnnl_success) {
        return LS_FAIL(LS_E_UNSUPPORTED, "oneDNN has no bfloat16 product on this machine to "
                                         "compare with; use fp32");
    }
    ls_status status = check(dnnl_primitive_create(&d->primitive, found));
    dnnl_primitive_desc_destroy(found);
    return status;
}

static ls_status run_direct(const direct *d) {
    const ls_gemm *op = d->op;
    if (d->primitive) {
        return check(dnnl_primitive_execute(d->primitive, d->stream, 3, d->args));
    }
    float beta = op->accumulate || op->residual ? 1.0f : 0.0f;
    return check(dnnl_sgemm(op->trans_a ? 'T' : 'N', op->trans_b ? 'T' : 'N', op->m, op->n, op->k,
                            1.0f, op->a, op->lda, op->b, op->ldb, beta, op->c, op->ldc));
}

static void close_direct(direct *d) {
    for (int i = 0; i < 3; i++) {
        if (d->args[i].memory) {
            dnnl_memory_destroy(d->args[i].memory);
        }
    }
    if (d->primitive) {
        dnnl_primitive_destroy(d->primitive);
    }
    if (d->stream) {
        dnnl_stream_destroy(d->stream);
    }
    if (d->engine) {
        dnnl_engine_destroy(d->engine);
    }
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The two in turn; round 0 warms both and does not count. */
static ls_status compete(ls_device *dev, const ls_gemm *op, const direct *d, int repeat,
                         double *times, result *r) {
    double *mine = times, *theirs = times + repeat;
    for (int i = -1; i < repeat; i++) {
        uint64_t start = ls_clock_ns();
        LS_TRY(dev->ops->gemm(dev, op));
        uint64_t middle = ls_clock_ns();
        LS_TRY(run_direct(d));
        uint64_t end = ls_clock_ns();
        if (i >= 0) {
            mine[i] = (double)(middle - start) * 1e-9;
            theirs[i] = (double)(end - middle) * 1e-9;
        }
    }
    qsort(mine, (size_t)repeat, sizeof *mine, ascending);
    qsort(theirs, (size_t)repeat, sizeof *theirs, ascending);
    *r = (result){mine[repeat / 2], theirs[repeat / 2], mine[0], theirs[0]};
    return LS_OK;
}

static void print_row(const char *name, double flops, result r) {
    printf("%-18s %9.3f %9.3f %9.1f %7.2f %7.2f\n", name, 1e3 * r.lockstep_s, 1e3 * r.direct_s,
           1e-9 * flops / r.lockstep_s, r.direct_s / r.lockstep_s,
           r.direct_best_s / r.lockstep_best_s);
    fflush(stdout);
}

static ls_status compare_shapes(const settings *s, ls_device *dev, const ls_gemm_shape *shapes,
                                int count, const ls_gemm_operands *operands) {
    double *times;
    LS_TRY(ls_calloc((size_t)s->repeat * 2, sizeof *times, &times));
    printf("%s, %lld x %lld tokens, %s\n%s\n\n%-18s %9s %9s %9s %7s %7s\n", s->preset,
           (long long)s->batch, (long long)s->seq, s->bf16 ? "bf16" : "fp32", dev->describe,
           "product", "ms", "oneDNN ms", "GFLOP/s", "ratio", "of best");
    result sum = {0};
    double flops = 0.0;
    ls_status status = LS_OK;
    for (int i = 0; i < count && status == LS_OK; i++) {
        const ls_gemm op = ls_gemm_shape_op(&shapes[i], operands);
        direct d;
        result r = {0};
        status = open_direct(&d, &op);
        if (status == LS_OK) {
            status = compete(dev, &op, &d, s->repeat, times, &r);
        }
        close_direct(&d);
        if (status == LS_OK) {
            double n = (double)shapes[i].count;
            print_row(shapes[i].name, ls_gemm_shape_flops(&shapes[i]), r);
            sum.lockstep_s += n * r.lockstep_s;
            sum.direct_s += n * r.direct_s;
            sum.lockstep_best_s += n * r.lockstep_best_s;
            sum.direct_best_s += n * r.direct_best_s;
            flops += n * ls_gemm_shape_flops(&shapes[i]);
        }
    }
    free(times);
    LS_TRY(status);
    print_row("all of a step", flops, sum);
    return LS_OK;
}

static ls_status run(const settings *s) {
    char preset[64];
    snprintf(preset, sizeof preset, "model.preset=%s", s->preset);
    /* A configuration must describe a run; any will do. */
    const char *overrides[] = {preset, "run.steps=1", "batch.sequences=1", "batch.micro=1"};
    static ls_config config;
    LS_TRY(ls_config_load(&config, NULL, overrides, 4));
    ls_device *dev;
    LS_TRY(ls_device_open_cpu(&(ls_device_options){.threads = s->threads}, &dev));
    omp_set_num_threads(dev->threads); /* for oneDNN */
    ls_gemm_shape *shapes = NULL;
    int count = 0;
    ls_gemm_operands operands = {0};
    ls_status status = ls_gemm_shapes(&config.model, s->batch * s->seq, s->bf16 ? LS_BF16 : LS_F32,
                                      dev->acc, &shapes, &count);
    if (status == LS_OK) {
        status = ls_gemm_operands_create(dev, shapes, count, &operands);
    }
    if (status == LS_OK) {
        status = compare_shapes(s, dev, shapes, count, &operands);
    }
    ls_gemm_operands_release(dev, &operands);
    free(shapes);
    dev->ops->close(dev);
    return status;
}

int main(int argc, char **argv) {
    settings s = {.preset = argc > 1 ? argv[1] : "gpt2-124m",
                  .batch = argc > 2 ? atoll(argv[2]) : 4,
                  .seq = argc > 3 ? atoll(argv[3]) : 1024,
                  .repeat = argc > 4 ? atoi(argv[4]) : 9,
                  .threads = argc > 5 ? atoi(argv[5]) : 0,
                  .bf16 = argc > 6 && strcmp(argv[6], "bf16") == 0};
    ls_status status = s.batch > 0 && s.seq > 0 && s.repeat > 0
                           ? run(&s)
                           : LS_FAIL(LS_E_USAGE, "usage: bench_gemm [PRESET [BATCH [SEQ [REPEAT "
                                                 "[THREADS [fp32|bf16]]]]]]");
    if (status != LS_OK) {
        ls_log_error();
    }
    return ls_status_exit(status);
}
