/* cuBLASLt's calls, as its header declares them: the library, whose start takes longer than listing
 * a checkpoint does, is opened at the first of them, so that only those who multiply on a GPU wait
 * for it. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* X(name, parameters, arguments) */
#define CALLS(X)                                                                                   \
    X(cublasLtCreate, (cublasLtHandle_t * handle), (handle))                                       \
    X(cublasLtDestroy, (cublasLtHandle_t handle), (handle))                                        \
    X(cublasLtMatrixLayoutCreate,                                                                  \
      (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t cols,           \
       int64_t ld),                                                                                \
      (layout, type, rows, cols, ld))                                                              \
    X(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), (layout))                      \
    X(cublasLtMatmulDescCreate,                                                                    \
      (cublasLtMatmulDesc_t * product, cublasComputeType_t compute, cudaDataType scale),           \
      (product, compute, scale))                                                                   \
    X(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t product), (product))                        \
    X(cublasLtMatmulDescSetAttribute,                                                              \
      (cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, const void *value,  \
       size_t bytes),                                                                              \
      (product, attribute, value, bytes))                                                          \
    X(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * wish), (wish))                 \
    X(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t wish), (wish))                  \
    X(cublasLtMatmulPreferenceSetAttribute,                                                        \
      (cublasLtMatmulPreference_t wish, cublasLtMatmulPreferenceAttributes_t attribute,            \
       const void *value, size_t bytes),                                                           \
      (wish, attribute, value, bytes))                                                             \
    X(cublasLtMatmulAlgoGetHeuristic,                                                              \
      (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,            \
       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,               \
       cublasLtMatmulPreference_t wish, int wanted, cublasLtMatmulHeuristicResult_t results[],     \
       int *found),                                                                                \
      (handle, product, a, b, c, d, wish, wanted, results, found))                                 \
    X(cublasLtMatmul,                                                                              \
      (cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void *alpha, const void *a,    \
       cublasLtMatrixLayout_t of_a, const void *b, cublasLtMatrixLayout_t of_b, const void *beta,  \
       const void *c, cublasLtMatrixLayout_t of_c, void *d, cublasLtMatrixLayout_t of_d,           \
       const cublasLtMatmulAlgo_t *algorithm, void *workspace, size_t workspace_bytes,             \
       cudaStream_t stream),                                                                       \
      (handle, product, alpha, a, of_a, b, of_b, beta, c, of_c, d, of_d, algorithm, workspace,     \
       workspace_bytes, stream))

static struct {
#define X(name, parameters, arguments) cublasStatus_t(*name) parameters;
    CALLS(X)
#undef X
    const char *(*status_name)(cublasStatus_t status);
} library;
static char absent[256]; /* why; empty: it is there */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* POSIX lets dlsym's result be a function, ISO C does not let it be cast: hence memcpy. */
static void find(void *opened, const char *name, void *call, size_t bytes) {
    void *symbol = dlsym(opened, name);
    memcpy(call, &symbol, bytes);
    if (!symbol) {
        snprintf(absent, sizeof absent, "cuBLASLt lacks %s", name);
    }
}

/* Where the loader looks; then where the build found it. */
static void load(void) {
    void *opened = dlopen(LS_CUBLASLT_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
        snprintf(absent, sizeof absent, "%s", dlerror());
        opened = dlopen(LS_CUBLASLT_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    }
    if (!opened) {
        return;
    }
    absent[0] = '\0';
#define X(name, parameters, arguments) find(opened, #name, &library.name, sizeof library.name);
    CALLS(X)
#undef X
    find(opened, "cublasLtGetStatusName", &library.status_name, sizeof library.status_name);
}

#define X(name, parameters, arguments)                                                             \
    cublasStatus_t name parameters {                                                               \
        pthread_once(&once, load);                                                                 \
        return absent[0] ? CUBLAS_STATUS_NOT_INITIALIZED : library.name arguments;                 \
    }
CALLS(X)
#undef X

/* Why there is none, where there is none. */
const char *cublasLtGetStatusName(cublasStatus_t status) {
    pthread_once(&once, load);
    return absent[0] ? absent : library.status_name(status);
}
