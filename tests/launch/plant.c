/* Preloaded into a rank of a run to make its machine fail: PLANT_RANK names the rank,
 *   PLANT_FLIP=N    flips one bit of what the N-th hash of parameters reads, in memory, before it
 * does PLANT_SLOW=US   makes each matrix product of the library take so many microseconds longer */
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static long planted(const char *what) {
    const char *mine = getenv("OMPI_COMM_WORLD_RANK"), *rank = getenv("PLANT_RANK");
    const char *value = getenv(what);
    return mine && rank && value && atoi(mine) == atoi(rank) ? atol(value) : 0;
}

uint64_t XXH3_64bits_withSeed(const void *data, size_t bytes, uint64_t seed);
uint64_t XXH3_64bits_withSeed(const void *data, size_t bytes, uint64_t seed) {
    static uint64_t (*real)(const void *, size_t, uint64_t);
    static long calls;
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "XXH3_64bits_withSeed");
    }
    if (bytes >= 256 && ++calls == planted("PLANT_FLIP")) {
        ((unsigned char *)(uintptr_t)data)[128] ^= 1;
    }
    return real(data, bytes, seed);
}

int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    static int (*real)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                       const float *, int64_t, float, float *, int64_t);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "dnnl_sgemm");
    }
    usleep((useconds_t)planted("PLANT_SLOW"));
    return real(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
