/* lockstep's matrix products, by its own micro-kernels and by oneDNN's, against oneDNN called
 * directly on the whole matrices with all threads.
 *
 *   bench_gemm [PRESET [BATCH [SEQ [REPEAT [THREADS [fp32|bf16]]]]]]
 *
 * For every product of a training step all of them run in turn, REPEAT times, and medians are
 * compared:
 *   default  what lockstep takes on this machine
 *   packed   its own micro-kernels (LOCKSTEP_GEMM=packed)
 *   library  its tiles by oneDNN (LOCKSTEP_GEMM=library)
 *   oneDNN   called directly; it only multiplies (adding to C where lockstep does), while lockstep
 *            also adds bias and residual
 *   weights  the same with B in the layout that oneDNN likes best, brought into it beforehand: what
 *            packing weights once a step could gain at most
 * A ratio (of oneDNN to the default) of 1 means oneDNN's speed, above 1 faster. The last lines say
 * which of packed and library is faster in sum, how to choose it, and how fast the micro-kernel is
 * on operands in the first cache, which nothing can surpass. */
#include "launch/gemm_shapes.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/device/cpu/device_cpu.h"
#include "runtime/device/cpu/dnnl_versions.h"

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
    void *weights; /* B in oneDNN's layout; NULL: as it lies */
} direct;

typedef struct settings {
    const char *preset;
    int64_t batch, seq;
    int repeat, threads;
    bool bf16;
} settings;

typedef enum bench_way { DEFAULT, PACKED, LIBRARY, DIRECT, WEIGHTS, WAYS } bench_way;

/* Medians of one product, in seconds; 0: there is no such way here. */
typedef struct result {
    double seconds[WAYS];
} result;

static ls_status check(dnnl_status_t status) {
    return status == dnnl_success ? LS_OK
                                  : LS_FAIL(LS_E_DEVICE, "oneDNN failed with status %d", status);
}

static dnnl_status_t matrix(direct *d, int arg, int64_t rows, int64_t cols, int64_t ld, bool trans,
                            ls_dtype dtype, void *data, dnnl_memory_desc_t *desc) {
    const dnnl_dims_t dims = {rows, cols}, strides = {trans ? 1 : ld, trans ? ld : 1};
    dnnl_status_t s = dnnl_memory_desc_create_with_strides(
        desc, 2, dims, dtype == LS_BF16 ? dnnl_bf16 : dnnl_f32, strides);
    static const int names[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST};
    d->args[arg].arg = names[arg];
    return s == dnnl_success
               ? dnnl_memory_create(&d->args[arg].memory, ls_dnnl_desc_of(desc), d->engine, data)
               : s;
}

/* Brings B, described by `plain`, into the layout of `wanted`. */
static ls_status pack_weights(direct *d, ls_dnnl_desc_ref plain, ls_dnnl_desc_ref wanted) {
    dnnl_memory_t from, to;
    dnnl_primitive_desc_t found;
    dnnl_primitive_t reorder;
    d->weights = aligned_alloc(64, (dnnl_memory_desc_get_size(wanted) + 63) / 64 * 64);
    if (!d->weights) {
        return LS_FAIL(LS_E_MEMORY, "no memory for packed weights");
    }
    LS_TRY(check(dnnl_memory_create(&from, plain, d->engine, (void *)d->op->b)));
    LS_TRY(check(dnnl_memory_create(&to, wanted, d->engine, d->weights)));
    LS_TRY(check(
        dnnl_reorder_primitive_desc_create(&found, plain, d->engine, wanted, d->engine, NULL)));
    LS_TRY(check(dnnl_primitive_create(&reorder, found)));
    const dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
    LS_TRY(check(dnnl_primitive_execute(reorder, d->stream, 2, args)));
    LS_TRY(check(dnnl_stream_wait(d->stream)));
    dnnl_primitive_destroy(reorder);
    dnnl_primitive_desc_destroy(found);
    dnnl_memory_destroy(from);
    dnnl_memory_destroy(d->args[1].memory);
    d->args[1].memory = to;
    return LS_OK;
}

enum { DESC_A, DESC_B, DESC_C, DESC_ANY_B, DESCS };

static ls_status plan_direct(direct *d, bool packed, dnnl_memory_desc_t descs[DESCS]) {
    const ls_gemm *op = d->op;
    LS_TRY(check(matrix(d, 0, op->m, op->k, op->lda, op->trans_a, op->dtype, (void *)op->a,
                        &descs[DESC_A])));
    LS_TRY(check(matrix(d, 1, op->k, op->n, op->ldb, op->trans_b, op->dtype, (void *)op->b,
                        &descs[DESC_B])));
    LS_TRY(check(matrix(d, 2, op->m, op->n, op->ldc, false, op->c_dtype, op->c, &descs[DESC_C])));
    const dnnl_dims_t dims = {op->k, op->n};
    LS_TRY(check(dnnl_memory_desc_create_with_tag(&descs[DESC_ANY_B], 2, dims, dnnl_bf16,
                                                  dnnl_format_tag_any)));
    dnnl_primitive_desc_t found;
    if (dnnl_matmul_primitive_desc_create(&found, d->engine, ls_dnnl_desc_of(&descs[DESC_A]),
                                          ls_dnnl_desc_of(&descs[packed ? DESC_ANY_B : DESC_B]),
                                          NULL, ls_dnnl_desc_of(&descs[DESC_C]),
                                          NULL) != dnnl_success) {
        return LS_FAIL(LS_E_UNSUPPORTED, "oneDNN has no bfloat16 product on this machine to "
                                         "compare with; use fp32");
    }
    ls_status status = check(dnnl_primitive_create(&d->primitive, found));
    if (status == LS_OK && packed) {
        status = pack_weights(d, ls_dnnl_desc_of(&descs[DESC_B]),
                              dnnl_primitive_desc_query_md(found, dnnl_query_weights_md, 0));
    }
    dnnl_primitive_desc_destroy(found);
    return status;
}

static ls_status open_direct(direct *d, const ls_gemm *op, bool packed) {
    *d = (direct){.op = op};
    if (op->dtype == LS_F32) {
        return LS_OK;
    }
    LS_TRY(check(dnnl_engine_create(&d->engine, dnnl_cpu, 0)));
    LS_TRY(check(dnnl_stream_create(&d->stream, d->engine, dnnl_stream_default_flags)));
    dnnl_memory_desc_t descs[DESCS] = {0};
    ls_status status = plan_direct(d, packed, descs);
    for (int i = 0; i < DESCS; i++) {
        ls_dnnl_desc_release(&descs[i]);
    }
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
    free(d->weights);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What a product needs to be run in each way. */
typedef struct entrants {
    ls_cpu_device *cpu;
    ls_gemm op;
    direct plain, packed;
    bool has[WAYS];
} entrants;

static ls_status open_entrants(entrants *e, ls_device *dev, const ls_gemm *op) {
    *e = (entrants){.cpu = (ls_cpu_device *)dev, .op = *op};
    e->has[DEFAULT] = e->has[LIBRARY] = e->has[DIRECT] = true;
    e->has[PACKED] = ls_gemm_tile_for(e->cpu, op->dtype) != NULL;
    e->has[WEIGHTS] = op->dtype == LS_BF16;
    LS_TRY(open_direct(&e->plain, &e->op, false));
    return e->has[WEIGHTS] ? open_direct(&e->packed, &e->op, true) : LS_OK;
}

static ls_status run_way(entrants *e, bench_way way) {
    if (way >= DIRECT) {
        return run_direct(way == DIRECT ? &e->plain : &e->packed);
    }
    static const ls_gemm_preference preferences[] = {LS_GEMM_FASTEST, LS_GEMM_OWN, LS_GEMM_LIBRARY};
    ls_gemm_preference own = e->cpu->preference;
    e->cpu->preference = way == DEFAULT ? own : preferences[way];
    ls_status status = e->cpu->base.ops->gemm(&e->cpu->base, &e->op);
    e->cpu->preference = own;
    return status;
}

/* All in turn; round 0 warms them and does not count. times: [WAYS][repeat]. */
static ls_status compete(entrants *e, int repeat, double *times, result *r) {
    for (int i = -1; i < repeat; i++) {
        for (int way = 0; way < WAYS; way++) {
            uint64_t start = ls_clock_ns();
            if (e->has[way]) {
                LS_TRY(run_way(e, (bench_way)way));
            }
            if (i >= 0) {
                times[way * repeat + i] = (double)(ls_clock_ns() - start) * 1e-9;
            }
        }
    }
    for (int way = 0; way < WAYS; way++) {
        qsort(times + way * repeat, (size_t)repeat, sizeof *times, ascending);
        r->seconds[way] = e->has[way] ? times[way * repeat + repeat / 2] : 0.0;
    }
    return LS_OK;
}

static void print_row(const char *name, double flops, const result *r) {
    printf("%-18s", name);
    for (int way = 0; way < WAYS; way++) {
        printf(r->seconds[way] > 0.0 ? " %9.3f" : "         -", 1e3 * r->seconds[way]);
    }
    printf(" %9.1f %7.2f\n", 1e-9 * flops / r->seconds[DEFAULT],
           r->seconds[DIRECT] / r->seconds[DEFAULT]);
    fflush(stdout);
}

/* GFLOP/s of the micro-kernel on operands in the first cache, all threads; 0: there is none. */
static double kernel_rate(ls_device *dev, ls_dtype dtype) {
    enum { WORDS = 64, ROUNDS = 20000, ELEMS = 4096 };
    const ls_gemm_tile *tile = ls_gemm_tile_for((ls_cpu_device *)dev, dtype);
    if (!tile) {
        return 0.0;
    }
    double slowest = 0.0;
#pragma omp parallel num_threads(dev->threads) reduction(max : slowest)
    {
        _Alignas(64) uint32_t a[ELEMS] = {0}, b[ELEMS] = {0};
        _Alignas(64) float c[ELEMS];
        if (tile->begin) {
            tile->begin();
        }
#pragma omp barrier
        uint64_t start = ls_clock_ns();
        for (int i = 0; i < ROUNDS; i++) {
            tile->multiply(tile->rows, WORDS, a, b, NULL, 0, c, tile->cols);
        }
        slowest = (double)(ls_clock_ns() - start) * 1e-9;
        if (tile->end) {
            tile->end();
        }
    }
    double elems = WORDS * (dtype == LS_BF16 ? 2 : 1);
    return 2e-9 * (double)(tile->rows * tile->cols) * elems * ROUNDS * dev->threads / slowest;
}

static void print_verdict(ls_device *dev, ls_dtype dtype, double flops, const result *sum) {
    const double packed = sum->seconds[PACKED], library = sum->seconds[LIBRARY];
    if (packed > 0.0) {
        const bool own = packed < library;
        printf(
            "\n%s is %.2f times as fast as %s in sum; LOCKSTEP_GEMM=%s takes it%s.\n",
            own ? "packed" : "library", own ? library / packed : packed / library,
            own ? "library" : "packed", own ? "packed" : "library",
            ((ls_cpu_device *)dev)->isa == LS_ISA_AMX_BF16
                ? ", and LIBRARY_FOR_AMX in runtime/device/cpu/gemm.c decides what is the default"
                : "");
        const double most = kernel_rate(dev, dtype);
        printf(
            "The micro-kernel on operands in the first cache: %.0f GFLOP/s; packed has %.0f %% of "
            "it, library %.0f %%.\n",
            most, 1e-7 * flops / packed / most, 1e-7 * flops / library / most);
    }
}

static ls_status compare_shapes(const settings *s, ls_device *dev, const ls_gemm_shape *shapes,
                                int count, const ls_gemm_operands *operands) {
    double *times;
    LS_TRY(ls_calloc((size_t)s->repeat * WAYS, sizeof *times, &times));
    printf("%s, %lld x %lld tokens, %s; ms\n%s\n\n%-18s %9s %9s %9s %9s %9s %9s %7s\n", s->preset,
           (long long)s->batch, (long long)s->seq, s->bf16 ? "bf16" : "fp32", dev->describe,
           "product", "default", "packed", "library", "oneDNN", "weights", "GFLOP/s", "ratio");
    result sum = {0};
    double flops = 0.0;
    ls_status status = LS_OK;
    for (int i = 0; i < count && status == LS_OK; i++) {
        const ls_gemm op = ls_gemm_shape_op(&shapes[i], operands);
        entrants e;
        result r = {0};
        status = open_entrants(&e, dev, &op);
        if (status == LS_OK) {
            status = compete(&e, s->repeat, times, &r);
        }
        close_direct(&e.plain);
        close_direct(&e.packed);
        if (status == LS_OK) {
            print_row(shapes[i].name, ls_gemm_shape_flops(&shapes[i]), &r);
            for (int way = 0; way < WAYS; way++) {
                sum.seconds[way] += (double)shapes[i].count * r.seconds[way];
            }
            flops += (double)shapes[i].count * ls_gemm_shape_flops(&shapes[i]);
        }
    }
    free(times);
    LS_TRY(status);
    print_row("all of a step", flops, &sum);
    print_verdict(dev, s->bf16 ? LS_BF16 : LS_F32, flops, &sum);
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
