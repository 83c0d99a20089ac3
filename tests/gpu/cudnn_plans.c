/* cuDNN plans lockstep's graphs of attention for a GPU that is described to it, on a machine
 * without one: shows that cuDNN knows the graphs, has engines with the same bits in each run, and
 * can compile them. Run by cudnn_plans.sh. */
#include "runtime/device/cuda/attention_graph.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* From NVIDIA's specifications of A100-SXM4-80GB, H100 SXM and B200. */
static const struct {
    const char *name;
    int version, processors, shared_bytes, l2_bytes, bus_bits;
} gpus[] = {
    {"A100", 800, 108, 166912, 41943040, 5120},
    {"H100", 900, 132, 232448, 52428800, 5120},
    {"B200", 1000, 148, 232448, 132644864, 8192},
};

/* B, T, H, G, D: of GPT-2 124M and 1558M, Llama-3 8B, and sizes that fill no tile. */
static const int64_t shapes[][5] = {
    {16, 1024, 12, 12, 64}, {8, 1024, 25, 25, 64}, {1, 4096, 32, 8, 128}, {2, 1000, 8, 2, 80}};

static bool describe(const ls_cudnn *cudnn, int which, cudnnBackendDescriptor_t *device) {
    char words[512] = "", text[2048];
    const int length = snprintf(
        text, sizeof text,
        "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],"
        "\"regsPerBlock\":65536,\"multiProcessorCount\":%d,\"smCountOrigin\":0,\"warpSize\":32,"
        "\"maxSharedMemoryPerBlock\":49152,\"maxSharedMemoryPerBlockOptin\":%d,"
        "\"oversizedSharedMemoryPerBlock\":0,\"reservedSharedMemoryPerBlock\":1024,"
        "\"maxRegistersPerSM\":65536,\"maxCtasPerSM\":32,\"maxThreadsPerBlock\":1024,"
        "\"maxThreadsPerSM\":2048,\"pciDeviceId\":0,\"isTccDriver\":0,\"supportCoopLaunch\":1,"
        "\"smClockRateKHz\":1400000,\"memClockRateKHz\":1500000,\"memoryBusWidth\":%d,"
        "\"l2CacheSize\":%d,\"totalGlobalMem\":85899345920,\"deviceName\":\"%s\",\"deviceVer\":%d,"
        "\"driverVer\":13000,\"cudaDeviceId\":0}",
        gpus[which].processors, gpus[which].shared_bytes, gpus[which].bus_bits,
        gpus[which].l2_bytes, gpus[which].name, gpus[which].version);
    if (cudnn->create(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, device) == CUDNN_STATUS_SUCCESS &&
        cudnn->set(*device, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, length,
                   text) == CUDNN_STATUS_SUCCESS &&
        cudnn->finalize(*device) == CUDNN_STATUS_SUCCESS) {
        return true;
    }
    cudnn->last_error(words, sizeof words);
    fprintf(stderr, "FAIL cuDNN does not take the description of a %s: %s\n", gpus[which].name,
            words);
    return false;
}

static int plan_all(const ls_cudnn *cudnn, int which, cudnnBackendDescriptor_t device) {
    static ls_attention_graph a;
    int failures = 0;
    for (size_t i = 0; i < 4 * sizeof shapes / sizeof *shapes; i++) {
        const bool backward = i % 2 != 0, full = i / 2 % 2 != 0;
        const int64_t *s = shapes[i / 4];
        ls_attention_key key = ls_attention_key_fused(backward, s[0], s[1], s[2], s[3], s[4]);
        key.full = full;
        const ls_status status = ls_attention_graph_make(&a, &key, cudnn, NULL, device);
        printf("%s B=%" PRId64 " T=%" PRId64 " H=%" PRId64 " G=%" PRId64 " D=%" PRId64 " %s %s: ",
               gpus[which].name, s[0], s[1], s[2], s[3], s[4], full ? "full" : "causal",
               backward ? "backward" : "forward");
        if (status == LS_OK) {
            printf("engine %" PRId64 ", workspace %" PRId64 " bytes\n", a.graph.engine,
                   a.graph.workspace_bytes);
        } else {
            printf("FAIL %s\n", ls_error_last()->message);
            failures++;
        }
        ls_cudnn_graph_release(&a.graph);
    }
    return failures;
}

int main(void) {
    const ls_cudnn *cudnn;
    int failures = 0;
    if (ls_cudnn_load(&cudnn) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
    }
    printf("cuDNN %zu\n", cudnn->version());
    for (int i = 0; i < (int)(sizeof gpus / sizeof *gpus); i++) {
        cudnnBackendDescriptor_t device = NULL;
        failures += describe(cudnn, i, &device) ? plan_all(cudnn, i, device) : 1;
        if (device) {
            cudnn->destroy(device);
        }
    }
    return failures > 0;
}
