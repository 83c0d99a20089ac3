/* The library part of runtime/device/cpu/gemm.h in plain loops, for machines without oneDNN: with
 * it in the place of gemm_dnnl.c the CPU device can be linked and tested under emulation
 * (cross_aarch64.sh). Matmul primitives do not exist here. */
#include "runtime/device/cpu/gemm.h"

#include <stdio.h>

ls_status ls_dnnl_check(int dnnl_status, const char *what) {
    return dnnl_status == 0 ? LS_OK : LS_FAIL(LS_E_DEVICE, "%s: status %d", what, dnnl_status);
}

void ls_dnnl_use_one_thread(void) {
}

int ls_dnnl_sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, const float *a,
                  int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++) {
        float *row = c + i * ldc;
        for (int64_t j = 0; j < n; j++) {
            row[j] = beta == 0.0f ? 0.0f : beta * row[j];
        }
        for (int64_t p = 0; p < k; p++) {
            float scale = a[trans_a ? p * lda + i : i * lda + p];
            for (int64_t j = 0; j < n; j++) {
                row[j] += scale * b[trans_b ? j * ldb + p : p * ldb + j];
            }
        }
    }
    return 0;
}

ls_status ls_matmul_cache_create(ls_matmul_cache **cache) {
    *cache = NULL;
    return LS_OK;
}

void ls_matmul_cache_destroy(ls_matmul_cache *cache) {
    (void)cache;
}

ls_status ls_matmul_get(ls_matmul_cache *cache, const ls_matmul_key *key,
                        const ls_matmul **matmul) {
    (void)cache;
    (void)key;
    *matmul = NULL;
    return LS_FAIL(LS_E_UNSUPPORTED, "matmul primitives need oneDNN");
}

size_t ls_matmul_scratch_bytes(const ls_matmul *matmul) {
    (void)matmul;
    return 0;
}

int ls_matmul_run(const ls_matmul *matmul, const void *a, const void *b, void *c, void *scratch) {
    (void)matmul;
    (void)a;
    (void)b;
    (void)c;
    (void)scratch;
    return -1;
}

ls_status ls_dnnl_limit_isa(ls_isa isa) {
    (void)isa;
    return LS_OK;
}

bool ls_dnnl_has_fast_bf16(void) {
    return false;
}

char *ls_dnnl_describe(char *buf, size_t size) {
    snprintf(buf, size, "no oneDNN");
    return buf;
}
