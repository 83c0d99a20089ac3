#include "runtime/device/cuda/nvtx.h"

#ifdef LS_NVTX
#include <nvtx3/nvToolsExt.h>

#include <stdbool.h>
#include <stdio.h>

void ls_nvtx_range(const char *name, int64_t number) {
    static _Thread_local bool open;
    char text[64];
    if (open) {
        nvtxRangePop();
    }
    open = name != NULL;
    if (!open) {
        return;
    }
    if (number < 0) {
        snprintf(text, sizeof text, "%s", name);
    } else {
        snprintf(text, sizeof text, "%s %lld", name, (long long)number);
    }
    nvtxRangePushA(text);
}
#else
void ls_nvtx_range(const char *name, int64_t number) {
    (void)name;
    (void)number;
}
#endif
