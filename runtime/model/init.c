/* Initial values: a function of (seed, parameter name, index in the parameter), so that any layout
 * of the same model starts from the same numbers. */
#include "runtime/base/hash.h"
#include "runtime/model/init_normals.h"
#include "runtime/model/model_internal.h"

#include <stdlib.h>

#define CHUNK_ELEMS ((int64_t)1 << 20)

/* Global elements [first, first + n) of a parameter; those >= valid are padding. */
static void fill(const ls_param *param, uint64_t seed, int64_t first, int64_t n, ls_dtype acc,
                 int threads, void *host) {
    const uint64_t stream = ls_xxh64(param->name, strlen(param->name), 0);
    int64_t valid = param->valid_rows;
    for (int d = 1; d < param->ndim; d++) {
        valid *= param->dims[d];
    }
    const float one = param->init == LS_INIT_ONE ? 1.0f : 0.0f;
    const int64_t even = first & ~(int64_t)1; /* normals come in pairs */
    ls_isa isa = LS_ISA_GENERIC;
    (void)ls_cpu_isa(&isa);
    ls_normals_fn *const make = ls_normals_of(isa);
    enum { BLOCK = 1024 };
#pragma omp parallel for num_threads(threads) schedule(static) if (n > BLOCK)
    for (int64_t at = even; at < first + n; at += BLOCK) {
        float block[BLOCK];
        const int64_t pairs = (first + n - at + 1) / 2;
        const bool inside = at >= first && at + BLOCK <= first + n && at + BLOCK <= valid;
        const bool in_place = inside && acc == LS_F32 && param->init == LS_INIT_NORMAL;
        float *to = in_place ? (float *)host + at - first : block;
        for (int64_t i = 0; !in_place && i < BLOCK; i++) {
            block[i] = one;
        }
        if (param->init == LS_INIT_NORMAL) {
            make(seed, stream, (uint64_t)at / 2, pairs < BLOCK / 2 ? (int)pairs : BLOCK / 2,
                 (float)param->init_std, to);
        }
        if (in_place) {
            continue;
        }
        for (int64_t i = at < first ? 1 : 0; i < BLOCK && at + i < first + n; i++) {
            ls_store(acc, host, at + i - first, at + i < valid ? block[i] : 0.0);
        }
    }
}

typedef struct init_range {
    const ls_param *param;
    uint64_t seed;
    int64_t first, n; /* local elements that are wanted */
    ls_dtype acc;
    int threads;
    char *host;
} init_range;

static ls_status init_run(void *context, const ls_run *run) {
    const init_range *r = context;
    const int64_t end = run->local + run->elems, wanted_end = r->first + r->n;
    const int64_t begin = run->local > r->first ? run->local : r->first;
    const int64_t n = (end < wanted_end ? end : wanted_end) - begin;
    if (n > 0) {
        fill(r->param, r->seed, run->global + begin - run->local, n, r->acc, r->threads,
             r->host + (begin - r->first) * (int64_t)ls_dtype_bytes(r->acc));
    }
    return LS_OK;
}

ls_status ls_model_init_values(const ls_param *param, uint64_t seed, int64_t first, int64_t n,
                               ls_dtype acc, int threads, void *host) {
    if (first < 0 || n < 0 || first > param->elems - n) {
        return LS_FAIL(LS_E_SHAPE, "elements %lld to %lld of '%s', which has %lld",
                       (long long)first, (long long)(first + n), param->name,
                       (long long)param->elems);
    }
    memset(host, 0, (size_t)n * ls_dtype_bytes(acc));
    init_range range = {param, seed, first, n, acc, threads, host};
    return ls_param_runs(param, false, init_run, &range);
}

static ls_status check_owned(const ls_model *m) {
    return m->options.store ? LS_FAIL(LS_E_UNSUPPORTED, "a store holds the parameters of this "
                                                        "model, which cannot fill them in")
                            : LS_OK;
}

ls_status ls_model_init(ls_model *m, uint64_t seed) {
    const size_t acc_bytes = ls_dtype_bytes(m->dev->acc);
    LS_TRY(check_owned(m));
    void *host;
    LS_TRY(ls_calloc((size_t)CHUNK_ELEMS, acc_bytes, &host));
    ls_status status = LS_OK;
    for (int p = 0; p < m->param_count; p++) {
        const ls_param *param = &m->params[p];
        for (int64_t first = 0; first < param->elems; first += CHUNK_ELEMS) {
            int64_t left = param->elems - first, n = left < CHUNK_ELEMS ? left : CHUNK_ELEMS;
            LS_TRY_GOTO(
                ls_model_init_values(param, seed, first, n, m->dev->acc, m->dev->threads, host),
                done);
            void *to = ls_elems_at(m->masters, param->offset + first, m->dev->acc);
            LS_TRY_GOTO(m->dev->ops->upload(m->dev, to, host, (size_t)n * acc_bytes), done);
        }
    }
    status = ls_model_refresh(m);
done:
    free(host);
    return status;
}

ls_status ls_model_refresh(ls_model *m) {
    for (int p = 0; m->copies && p < m->param_count; p++) {
        const ls_param *param = &m->params[p];
        if (param->matrix) {
            LS_TRY(m->dev->ops->cast(m->dev, m->dtype, param->elems,
                                     ls_elems_at(m->masters, param->offset, m->dev->acc),
                                     ls_elems_at(m->copies, param->offset, m->dtype)));
        }
    }
    return LS_OK;
}
