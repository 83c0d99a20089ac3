#include "launch/devices.h"

#include "runtime/base/log.h"

#include <string.h>

ls_status ls_device_parse(const char *text, ls_cfg_device *kind) {
    static const char *const names[] = {[LS_CFG_DEVICE_AUTO] = "auto",
                                        [LS_CFG_DEVICE_CPU] = "cpu",
                                        [LS_CFG_DEVICE_CUDA] = "cuda",
                                        [LS_CFG_DEVICE_EMULATED] = "emulated"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            *kind = (ls_cfg_device)i;
            return LS_OK;
        }
    }
    return LS_FAIL(LS_E_USAGE, "--device is '%s'; auto, cpu, cuda or emulated is needed", text);
}

/* The emulated GPU of the tests is for those who ask for it by name. */
static ls_status check_kind(ls_cfg_device kind, bool emulator, bool found, const char *how) {
    if (kind == LS_CFG_DEVICE_EMULATED && !emulator) {
        return LS_FAIL(LS_E_CONFIG,
                       "run.device is emulated, but this program has no emulated GPU; it is for "
                       "tests: use cuda, cpu or auto");
    }
    if (kind == LS_CFG_DEVICE_CUDA && emulator) {
        return LS_FAIL(LS_E_CONFIG,
                       "run.device is cuda, but this program has only the tests' emulated GPU; ask "
                       "for it by its name, emulated");
    }
    if (kind == LS_CFG_DEVICE_CUDA && !found) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "run.device is cuda, but there is no GPU to use: %s; see nvidia-smi and "
                       "CUDA_VISIBLE_DEVICES, build with the CUDA Toolkit and NCCL (-DLS_CUDA=ON), "
                       "or set run.device=cpu",
                       how);
    }
    return LS_OK;
}

ls_status ls_device_choose(ls_cfg_device kind, ls_cfg_attention attention, int threads,
                           int host_rank, ls_device **dev) {
    int count = 0;
    const char *how = "";
    const bool found = kind != LS_CFG_DEVICE_CPU && ls_device_has_cuda(&count, &how);
    const bool emulator = strcmp(how, "emulated GPU") == 0;
    ls_device_options options = {.threads = threads, .attention = (ls_attention_by)attention};
    LS_TRY(check_kind(kind, emulator, found, how));
    if (kind == LS_CFG_DEVICE_AUTO && count < 0 && host_rank == 0) {
        ls_log_warn("run.device is auto and the CPU is taken: %s", how);
    }
    if (!found || (kind == LS_CFG_DEVICE_AUTO && emulator)) {
        return ls_device_open_cpu(&options, dev);
    }
    options.ordinal = host_rank % count;
    return ls_device_open_cuda(&options, dev);
}
