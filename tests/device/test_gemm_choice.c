/* Whose matrix products are taken, and what those of oneDNN leave behind: primitives that are put
 * out of the cache give their memory back. */
#include "runtime/device/cpu/device_cpu.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void check_selection(void) {
    enum { BIG = 4096 };
    static const struct {
        ls_gemm_preference preference;
        ls_isa isa;
        bool has_tile, library;
        ls_dtype dtype;
        int64_t m, n, k;
        ls_gemm_path path;
    } cases[] = {
        {LS_GEMM_FASTEST, LS_ISA_GENERIC, false, false, LS_F32, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, false, true, LS_F32, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AVX2, false, false, LS_F32, 1, BIG, BIG, LS_GEMM_SGEMM},
        {LS_GEMM_FASTEST, LS_ISA_AVX2, false, false, LS_F32, BIG, 3, BIG, LS_GEMM_SGEMM},
        {LS_GEMM_FASTEST, LS_ISA_GENERIC, false, false, LS_BF16, 1, 1, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AVX2, false, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AVX512, false, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, false, true, LS_BF16, 1, BIG, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, false, false, LS_BF16, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, false, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_BF16, 64, BIG, BIG, LS_GEMM_PACKED},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, false, LS_BF16, BIG, BIG, BIG, LS_GEMM_PACKED},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_BF16, 63, BIG, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, true, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, true, false, LS_BF16, BIG, BIG, BIG, LS_GEMM_PACKED},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, true, true, LS_F32, BIG, BIG, BIG, LS_GEMM_PACKED},
        {LS_GEMM_OWN, LS_ISA_AMX_BF16, true, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_PACKED},
        {LS_GEMM_OWN, LS_ISA_AMX_BF16, true, true, LS_BF16, BIG, 63, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_LIBRARY, LS_ISA_AVX512_BF16, true, true, LS_BF16, BIG, BIG, BIG, LS_GEMM_MATMUL},
        {LS_GEMM_LIBRARY, LS_ISA_AVX2, true, false, LS_F32, BIG, BIG, BIG, LS_GEMM_PANELS},
        {LS_GEMM_FASTEST, LS_ISA_AVX2, true, false, LS_F32, BIG, 3, BIG, LS_GEMM_SGEMM},
        /* What is quickly copied. */
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_BF16, 1, 256, 512, LS_GEMM_PACKED},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_BF16, 1, 257, 512, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_BF16, 257, 1, 512, LS_GEMM_MATMUL},
        {LS_GEMM_LIBRARY, LS_ISA_AVX512_BF16, true, true, LS_BF16, 1, 64, 64, LS_GEMM_PACKED},
        {LS_GEMM_LIBRARY, LS_ISA_AVX512_BF16, true, true, LS_BF16, 257, 257, 512, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AMX_BF16, true, true, LS_BF16, 256, 256, 512, LS_GEMM_PACKED},
        {LS_GEMM_LIBRARY, LS_ISA_AVX512_BF16, false, true, LS_BF16, 1, 64, 64, LS_GEMM_MATMUL},
        {LS_GEMM_FASTEST, LS_ISA_AVX512_BF16, true, true, LS_F32, 1, 64, 64, LS_GEMM_SGEMM},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(ls_gemm_path_select(cases[i].preference, cases[i].isa, cases[i].has_tile,
                                      cases[i].library, cases[i].dtype, cases[i].m, cases[i].n,
                                      cases[i].k),
                  cases[i].path);
    }
    /* Pieces cover the whole, are not too large, and differ by less than a piece and a multiple. */
    for (int64_t size = 1; size < 5000; size += 7) {
        int64_t piece = ls_gemm_split(size, 384, 16), pieces = (size - 1) / piece + 1;
        CHECK(piece % 16 == 0 && piece <= 384);
        CHECK_INT(pieces, (size - 1) / 384 + 1);
    }
}

/* What LOCKSTEP_GEMM says reaches the device. */
static void check_preference(void) {
    static const struct {
        const char *word;
        ls_gemm_preference preference;
    } words[] = {{"", LS_GEMM_FASTEST}, {"packed", LS_GEMM_OWN}, {"library", LS_GEMM_LIBRARY}};
    for (int i = 0; i < 3; i++) {
        setenv("LOCKSTEP_GEMM", words[i].word, 1);
        ls_device *dev;
        CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
        CHECK_INT(((ls_cpu_device *)dev)->preference, words[i].preference);
        dev->ops->close(dev);
    }
    setenv("LOCKSTEP_GEMM", "mkl", 1);
    ls_device *none;
    CHECK_STATUS(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &none), LS_E_CONFIG);
    CHECK_MESSAGE("LOCKSTEP_GEMM is 'mkl'; use packed");
    unsetenv("LOCKSTEP_GEMM");
}

/* What was freed, for a while? */
static bool memory_is_kept(void) {
#if defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return false;
#endif
}

static int64_t resident_bytes(void) {
    long long all, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%lld %lld", &all, &resident) == 2);
    if (f) {
        fclose(f);
    }
    return resident * sysconf(_SC_PAGESIZE);
}

/* Of the fastest kind that there is here, whose code is made for each. */
static void make(ls_matmul_cache *cache, int64_t from, int64_t to) {
    const ls_dtype dtype = ls_dnnl_has_fast_bf16() ? LS_BF16 : LS_F32;
    for (int64_t n = from; n < to; n++) {
        const ls_matmul_key key = {.m = 16,
                                   .n = n,
                                   .k = 64,
                                   .lda = 64,
                                   .ldb = n,
                                   .ldc = n,
                                   .dtype = dtype,
                                   .c_dtype = dtype};
        const ls_matmul *matmul;
        CHECK_OK(ls_matmul_get(cache, &key, &matmul));
    }
}

static void check_memory(void) {
    /* The cache holds 256, oneDNN's own 1024; holes between what was freed are filled by then. */
    enum { FULL = 1000, MORE = 1000 };
    ls_matmul_cache *cache;
    CHECK_OK(ls_matmul_cache_create(&cache));
    const int64_t before = resident_bytes();
    make(cache, 1, FULL);
    const int64_t full = resident_bytes();
    make(cache, FULL, FULL + MORE);
    const double more = (double)(resident_bytes() - full), each = (double)(full - before) / FULL;
    printf("%d primitives: %.0f KiB each; %d more: %.0f KiB each\n", FULL, each / 1024, MORE,
           more / MORE / 1024);
    CHECK(memory_is_kept() || more / MORE < 0.2 * each + 1024);
    ls_matmul_cache_destroy(cache);
}

int main(void) {
    check_selection();
    check_preference();
    check_memory();
    return test_end();
}
