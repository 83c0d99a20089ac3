/* Opens cuDNN where this machine has one. */
#include "runtime/device/cuda/cudnn_graph.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ls_cudnn cudnn;
static char absent[256]; /* why; empty: it is there */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *open_any(void) {
    /* Where the loader looks; then where the build found it, of pip's package for instance. */
    const char *const names[] = {getenv("LOCKSTEP_CUDNN"), "libcudnn.so.9", LS_CUDNN_LIBRARY};
    void *library = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++) {
        if (names[i] && *names[i]) {
            library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        }
    }
    return library;
}

static void load(void) {
    void *symbol, *library = open_any();
    if (!library) {
        snprintf(absent, sizeof absent, "%s", dlerror());
        return;
    }
    /* POSIX lets dlsym's result be a function, ISO C does not let it be cast: hence memcpy. */
#define X(member, name, result, parameters)                                                        \
    symbol = dlsym(library, name);                                                                 \
    memcpy(&cudnn.member, &symbol, sizeof symbol);                                                 \
    if (!symbol) {                                                                                 \
        snprintf(absent, sizeof absent, "it lacks %s", name);                                      \
        return;                                                                                    \
    }
    LS_CUDNN_CALLS(X)
#undef X
    if (cudnn.version() < 90000 || cudnn.version() >= 100000) {
        snprintf(absent, sizeof absent, "it is of version %zu; lockstep uses 9", cudnn.version());
    }
}

ls_status ls_cudnn_load(const ls_cudnn **calls) {
    pthread_once(&once, load);
    *calls = &cudnn;
    if (absent[0]) {
        return LS_FAIL(LS_E_UNSUPPORTED, "no cuDNN that lockstep can use: %s", absent);
    }
    return LS_OK;
}
