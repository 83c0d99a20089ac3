/* What a profiler puts in place of NVTX's calls: writes the names of ranges to $NVTX_RANGES. */
#define NVTX_NO_IMPL
#include <nvtx3/nvToolsExt.h>

#include <stdio.h>
#include <stdlib.h>

static FILE *out;

static int push(const char *name) {
    fprintf(out, "%s\n", name);
    return 0;
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table);
__attribute__((visibility("default"))) int
InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned int count = 0;
    const char *path = getenv("NVTX_RANGES");
    out = path ? fopen(path, "w") : NULL;
    if (!out || !callbacks ||
        !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &table, &count)) {
        return 0;
    }
    setvbuf(out, NULL, _IOLBF, 0);
    *table[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
    return 1;
}
