/* oneDNN behind gemm.h: sgemm, and matmul primitives kept in a cache. */
#include "runtime/base/arena.h"
#include "runtime/device/cpu/dnnl_versions.h"
#include "runtime/device/cpu/gemm.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A training step has a few dozen shapes; generation adds some while the sequence grows. oneDNN's
 * own cache would keep four times as many, those that are given up here among them. */
#define CACHE_SLOTS 256

struct ls_matmul {
    ls_matmul_key key;
    uint64_t last_used;   /* by the cache's clock; 0: the slot is empty */
    dnnl_engine_t engine; /* the cache's */
    dnnl_primitive_t primitive;
    dnnl_memory_desc_t a, b, c, scratch;
};

struct ls_matmul_cache {
    dnnl_engine_t engine;
    uint64_t clock;
    ls_matmul slots[CACHE_SLOTS];
};

static const char *status_text(int dnnl_status) {
    switch (dnnl_status) {
    case dnnl_success:
        return "success";
    case dnnl_out_of_memory:
        return "out of memory";
    case dnnl_invalid_arguments:
        return "invalid arguments";
    case dnnl_unimplemented:
        return "unimplemented";
    case dnnl_runtime_error:
        return "runtime error";
    default:
        return "unexpected status";
    }
}

ls_status ls_dnnl_check(int dnnl_status, const char *what) {
    if (dnnl_status == dnnl_success) {
        return LS_OK;
    }
    ls_status code = dnnl_status == dnnl_out_of_memory   ? LS_E_MEMORY
                     : dnnl_status == dnnl_unimplemented ? LS_E_UNSUPPORTED
                                                         : LS_E_DEVICE;
    return LS_FAIL(code, "oneDNN: %s: %s (%d)", what, status_text(dnnl_status), dnnl_status);
}

/* oneDNN takes omp_get_max_threads() threads unless it is called in a parallel region of more than
 * one. This sets the value of the calling thread's implicit task only. */
void ls_dnnl_use_one_thread(void) {
    omp_set_num_threads(1);
}

int ls_dnnl_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    return dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, 1.0f, a, lda, b, ldb, beta,
                      c, ldc);
}

ls_status ls_matmul_cache_create(ls_matmul_cache **cache) {
    LS_TRY(ls_calloc(1, sizeof **cache, cache));
    ls_status status = ls_dnnl_check(dnnl_set_primitive_cache_capacity(0), "cache");
    if (status == LS_OK) {
        status = ls_dnnl_check(dnnl_engine_create(&(*cache)->engine, dnnl_cpu, 0), "engine");
    }
    if (status != LS_OK) {
        ls_matmul_cache_destroy(*cache);
        *cache = NULL;
    }
    return status;
}

static void release(ls_matmul *matmul) {
    if (matmul->primitive) {
        dnnl_primitive_destroy(matmul->primitive);
    }
    ls_dnnl_desc_release(&matmul->a);
    ls_dnnl_desc_release(&matmul->b);
    ls_dnnl_desc_release(&matmul->c);
    ls_dnnl_desc_release(&matmul->scratch);
    memset(matmul, 0, sizeof *matmul);
}

void ls_matmul_cache_destroy(ls_matmul_cache *cache) {
    if (!cache) {
        return;
    }
    for (int i = 0; i < CACHE_SLOTS; i++) {
        release(&cache->slots[i]);
    }
    if (cache->engine) {
        dnnl_engine_destroy(cache->engine);
    }
    free(cache);
}

/* A rows x cols matrix; stored transposed, its leading dimension runs along the columns. */
static dnnl_status_t describe_matrix(dnnl_memory_desc_t *desc, int64_t rows, int64_t cols,
                                     int64_t ld, bool transposed, int32_t dtype) {
    const dnnl_dims_t dims = {rows, cols};
    const dnnl_dims_t strides = {transposed ? 1 : ld, transposed ? ld : 1};
    return dnnl_memory_desc_create_with_strides(desc, 2, dims,
                                                dtype == LS_BF16 ? dnnl_bf16 : dnnl_f32, strides);
}

/* oneDNN 3.7 takes vectors for dense that are not (x86, brg_matmul). A row of A that is stored as a
 * column: the product is turned round, C' = B' A'. A column of C: it is made densely behind the
 * library's scratch memory, and brought to its place. */
static bool is_turned(const ls_matmul_key *key) {
    return DNNL_VERSION_MAJOR >= 3 && key->m == 1 && key->trans_a;
}

static bool is_column(const ls_matmul_key *key) {
    return DNNL_VERSION_MAJOR >= 3 && key->m > 1 && key->n == 1 && key->ldc > 1;
}

/* The product that the library is asked for. */
static ls_matmul_key asked_for(const ls_matmul_key *key) {
    ls_matmul_key asked = *key;
    if (is_turned(key)) {
        asked.m = key->n;
        asked.n = 1;
        asked.lda = key->ldb;
        asked.ldb = key->lda;
        asked.ldc = 1;
        asked.trans_a = !key->trans_b;
        asked.trans_b = false;
    } else if (is_column(key)) {
        asked.ldc = 1;
    }
    return asked;
}

static size_t library_scratch_bytes(const ls_matmul *matmul) {
    return (dnnl_memory_desc_get_size(ls_dnnl_desc_of(&matmul->scratch)) + 63) / 64 * 64;
}

/* The primitive descriptor of a key, with the best implementation that the library has. */
static dnnl_status_t describe_matmul(ls_matmul *out, dnnl_primitive_desc_t *found) {
    const ls_matmul_key asked = asked_for(&out->key), *key = &asked;
    dnnl_status_t s = describe_matrix(&out->a, key->m, key->k, key->lda, key->trans_a, key->dtype);
    if (s == dnnl_success) {
        s = describe_matrix(&out->b, key->k, key->n, key->ldb, key->trans_b, key->dtype);
    }
    if (s == dnnl_success) {
        s = describe_matrix(&out->c, key->m, key->n, key->ldc, false, key->c_dtype);
    }
    dnnl_primitive_attr_t attr = NULL;
    if (s == dnnl_success) {
        s = dnnl_primitive_attr_create(&attr);
    }
    if (s == dnnl_success) {
        s = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    }
    if (s == dnnl_success) {
        s = dnnl_matmul_primitive_desc_create(found, out->engine, ls_dnnl_desc_of(&out->a),
                                              ls_dnnl_desc_of(&out->b), NULL,
                                              ls_dnnl_desc_of(&out->c), attr);
    }
    if (attr) {
        dnnl_primitive_attr_destroy(attr);
    }
    return s;
}

/* Runs in a region of one thread, so that the primitive is planned for one. */
static dnnl_status_t build(ls_matmul *out) {
    dnnl_primitive_desc_t found = NULL;
    dnnl_status_t s = describe_matmul(out, &found);
    if (s != dnnl_success) {
        return s;
    }
    s = dnnl_primitive_create(&out->primitive, found);
    if (s == dnnl_success) {
        s = dnnl_memory_desc_clone(
            &out->scratch, dnnl_primitive_desc_query_md(found, dnnl_query_scratchpad_md, 0));
    }
    dnnl_primitive_desc_destroy(found);
    return s;
}

ls_status ls_matmul_get(ls_matmul_cache *cache, const ls_matmul_key *key,
                        const ls_matmul **matmul) {
    ls_matmul *slot = &cache->slots[0];
    cache->clock++;
    for (int i = 0; i < CACHE_SLOTS; i++) {
        ls_matmul *candidate = &cache->slots[i];
        if (candidate->last_used && memcmp(&candidate->key, key, sizeof *key) == 0) {
            candidate->last_used = cache->clock;
            *matmul = candidate;
            return LS_OK;
        }
        if (candidate->last_used < slot->last_used) {
            slot = candidate;
        }
    }
    release(slot);
    slot->key = *key;
    slot->engine = cache->engine;
    dnnl_status_t built = dnnl_success;
#pragma omp parallel num_threads(1)
    {
        ls_dnnl_use_one_thread();
        built = build(slot);
    }
    if (built != dnnl_success) {
        release(slot);
        return ls_dnnl_check(built, "matrix product");
    }
    slot->last_used = cache->clock;
    *matmul = slot;
    return LS_OK;
}

size_t ls_matmul_scratch_bytes(const ls_matmul *matmul) {
    const ls_matmul_key *key = &matmul->key;
    return library_scratch_bytes(matmul) +
           (is_column(key) ? (size_t)key->m * ls_dtype_bytes((ls_dtype)key->c_dtype) : 0);
}

static void place_column(const ls_matmul_key *key, const char *dense, char *c) {
    const int64_t bytes = (int64_t)ls_dtype_bytes((ls_dtype)key->c_dtype);
    for (int64_t i = 0; i < key->m; i++) {
        memcpy(c + i * key->ldc * bytes, dense + i * bytes, (size_t)bytes);
    }
}

int ls_matmul_run(const ls_matmul *matmul, const void *a, const void *b, void *c, void *scratch) {
    const ls_dnnl_desc_ref descs[] = {ls_dnnl_desc_of(&matmul->a), ls_dnnl_desc_of(&matmul->b),
                                      ls_dnnl_desc_of(&matmul->c),
                                      ls_dnnl_desc_of(&matmul->scratch)};
    const bool turned = is_turned(&matmul->key), column = is_column(&matmul->key);
    char *dense = (char *)scratch + library_scratch_bytes(matmul);
    void *handles[] = {(void *)(turned ? b : a), (void *)(turned ? a : b), column ? dense : c,
                       scratch};
    dnnl_exec_arg_t args[] = {{.arg = DNNL_ARG_SRC},
                              {.arg = DNNL_ARG_WEIGHTS},
                              {.arg = DNNL_ARG_DST},
                              {.arg = DNNL_ARG_SCRATCHPAD}};
    const int count = 4;
    dnnl_stream_t stream = NULL; /* one a thread: streams are not shared between threads */
    dnnl_status_t s = dnnl_stream_create(&stream, matmul->engine, dnnl_stream_default_flags);
    for (int i = 0; i < count && s == dnnl_success; i++) {
        s = dnnl_memory_create(&args[i].memory, descs[i], matmul->engine, handles[i]);
    }
    if (s == dnnl_success) {
        s = dnnl_primitive_execute(matmul->primitive, stream, count, args);
    }
    if (s == dnnl_success && column) {
        place_column(&matmul->key, dense, c);
    }
    if (stream) {
        dnnl_stream_destroy(stream);
    }
    for (int i = 0; i < count; i++) {
        if (args[i].memory) {
            dnnl_memory_destroy(args[i].memory);
        }
    }
    return s;
}

ls_status ls_dnnl_limit_isa(ls_isa isa) {
#if defined(__x86_64__)
    dnnl_cpu_isa_t limit = isa >= LS_ISA_AMX_BF16      ? LS_DNNL_ANY_ISA
                           : isa == LS_ISA_AVX512_BF16 ? dnnl_cpu_isa_avx512_core_bf16
                           : isa == LS_ISA_AVX512      ? dnnl_cpu_isa_avx512_core_vnni
                           : isa == LS_ISA_AVX2        ? dnnl_cpu_isa_avx2
                                                       : dnnl_cpu_isa_sse41;
    /* Once a process: a second device finds the limit set, since the level never changes. */
    if (limit != LS_DNNL_ANY_ISA && dnnl_set_max_cpu_isa(limit) != dnnl_success &&
        (dnnl_get_effective_cpu_isa() & ~limit) != 0) {
        return LS_FAIL(LS_E_DEVICE, "oneDNN was used before its level could be limited to %s",
                       ls_isa_name(isa));
    }
#else
    (void)isa; /* one set of kernels on aarch64 */
#endif
    return LS_OK;
}

bool ls_dnnl_has_fast_bf16(void) {
    ls_matmul probe = {.key = {.m = 256,
                               .n = 256,
                               .k = 256,
                               .lda = 256,
                               .ldb = 256,
                               .ldc = 256,
                               .dtype = LS_BF16,
                               .c_dtype = LS_F32}};
    if (dnnl_engine_create(&probe.engine, dnnl_cpu, 0) != dnnl_success) {
        return false;
    }
    dnnl_primitive_desc_t found = NULL;
    bool fast = false;
    if (describe_matmul(&probe, &found) == dnnl_success) {
        const char *name = "ref";
        fast =
            dnnl_primitive_desc_query(found, dnnl_query_impl_info_str, 0, &name) == dnnl_success &&
            strncmp(name, "ref", 3) != 0;
        dnnl_primitive_desc_destroy(found);
    }
    dnnl_engine_t engine = probe.engine;
    release(&probe);
    dnnl_engine_destroy(engine);
    return fast;
}

char *ls_dnnl_describe(char *buf, size_t size) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(buf, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    return buf;
}
