/* What the NVIDIA driver says of this node's GPUs. */
#include "launch/doctor.h"
#include "runtime/device/cuda/nvml.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A finding of one GPU, named by its number and PCI address: both are what an administrator needs.
 */
static void add(ls_findings *findings, const ls_nvml *nvml, int gpu, ls_verdict verdict,
                const char *what) {
    ls_nvml_gpu id = {.bus_id = "?"};
    (void)ls_nvml_identify(nvml, gpu, &id);
    ls_findings_add(findings, "gpu", verdict, "GPU %d (%s): %s", gpu, id.bus_id, what);
}

/* Number of findings. */
static int check_reading(ls_findings *findings, const ls_nvml *nvml, int gpu) {
    ls_nvml_reading r;
    char text[160], why[120];
    if (ls_nvml_read(nvml, gpu, &r) != LS_OK) {
        add(findings, nvml, gpu, LS_FAULT,
            "it does not answer: it is lost or needs a reset; drain the node");
        return 1;
    }
    int found = 0;
    if (r.ecc_uncorrected > 0) {
        snprintf(text, sizeof text,
                 "%lld uncorrectable memory errors: reset it, and replace it if they come again",
                 (long long)r.ecc_uncorrected);
        add(findings, nvml, gpu, LS_FAULT, text);
        found++;
    }
    if (r.throttle > 0 && (r.throttle & LS_NVML_HARMFUL)) {
        snprintf(text, sizeof text, "clocks are held down (%s): look into cooling and power",
                 ls_nvml_throttle_text((uint64_t)r.throttle & LS_NVML_HARMFUL, why, sizeof why));
        add(findings, nvml, gpu, LS_WARN, text);
        found++;
    }
    if (r.nvlinks > 0 && r.nvlinks_active >= 0 && r.nvlinks_active < r.nvlinks) {
        snprintf(text, sizeof text, "%d of %d NVLinks are up: reset the node, then the cables",
                 r.nvlinks_active, r.nvlinks);
        add(findings, nvml, gpu, LS_FAULT, text);
        found++;
    }
    if (r.memory_total_bytes > 0 && r.memory_used_bytes > r.memory_total_bytes / 10) {
        snprintf(text, sizeof text,
                 "%.1f of %.1f GB are in use: end what runs there (nvidia-smi shows it)",
                 1e-9 * (double)r.memory_used_bytes, 1e-9 * (double)r.memory_total_bytes);
        add(findings, nvml, gpu, LS_WARN, text);
        found++;
    }
    return found;
}

/* "; GPU 0: SM 345 of 1980 MHz, 72 of 700 W, 31 C, 1.234 MJ so far"; what is not known is left out.
 */
static const char *describe(const ls_nvml *nvml, int gpu, char *text, size_t size) {
    ls_nvml_reading r;
    text[0] = '\0';
    if (ls_nvml_read(nvml, gpu, &r) != LS_OK) {
        return text;
    }
    const struct {
        double value, of;
        const char *name, *unit;
    } figures[] = {{r.sm_mhz, r.sm_max_mhz, "SM ", "MHz"},
                   {r.power_watts, r.power_limit_watts, "", "W"},
                   {r.temperature_c, NAN, "", "C"},
                   {1e-6 * r.energy_joules, NAN, "so far ", "MJ"}};
    size_t used = 0;
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        if (isnan(figures[i].value)) {
            continue;
        }
        used += (size_t)snprintf(text + used, size - used, "%s%s%.4g",
                                 used ? ", " : "; GPU 0: ", figures[i].name, figures[i].value);
        if (!isnan(figures[i].of)) {
            used += (size_t)snprintf(text + used, size - used, " of %.4g", figures[i].of);
        }
        used += (size_t)snprintf(text + used, size - used, " %s", figures[i].unit);
    }
    return text;
}

static int check_fabric(ls_findings *findings, const ls_nvml *nvml, int gpu, int *in_domain) {
    ls_nvml_fabric f;
    char text[200];
    if (ls_nvml_fabric_of(nvml, gpu, &f) != LS_OK || f.state == LS_NVML_FABRIC_NONE) {
        return 0;
    }
    if (f.failed) {
        snprintf(
            text, sizeof text,
            "its NVLink fabric failed to register (%s): look at the fabric manager and at IMEX",
            f.status);
        add(findings, nvml, gpu, LS_FAULT, text);
        return 1;
    }
    if (f.state != LS_NVML_FABRIC_COMPLETED) {
        add(findings, nvml, gpu, LS_FAULT,
            "its NVLink fabric is not up yet: wait for the fabric manager, or restart it");
        return 1;
    }
    static const uint8_t zeros[sizeof f.cluster];
    *in_domain += memcmp(f.cluster, zeros, sizeof zeros) != 0;
    if (f.degraded || !f.healthy) {
        add(findings, nvml, gpu, LS_WARN,
            "its NVLink fabric is degraded or recovering: collectives will be slow");
        return 1;
    }
    if (memcmp(f.cluster, zeros, sizeof zeros) != 0) {
        snprintf(text, sizeof text, "in NVLink domain %02x%02x%02x%02x..., clique %u, healthy",
                 f.cluster[0], f.cluster[1], f.cluster[2], f.cluster[3], (unsigned)f.clique);
        add(findings, nvml, gpu, LS_PASS, text);
    }
    return 0;
}

/* GPUs that reach other hosts by NVLink need IMEX's channels for memory of those hosts.
 * $LOCKSTEP_IMEX names another folder of them. */
static void check_imex(ls_findings *findings, int in_domain) {
    const char *folder = getenv("LOCKSTEP_IMEX");
    char path[512];
    snprintf(path, sizeof path, "%s/channel0", folder ? folder : "/dev/nvidia-caps-imex-channels");
    if (in_domain > 0 && access(path, R_OK | W_OK) != 0) {
        ls_findings_add(findings, "imex", LS_FAULT,
                        "%d GPUs belong to an NVLink domain of several hosts, but %s cannot be "
                        "opened: start nvidia-imex on all its nodes, or set Slurm's "
                        "SwitchType=switch/nvidia_imex",
                        in_domain, path);
    }
}

void ls_doctor_gpus(ls_findings *findings) {
    ls_nvml *nvml;
    if (ls_nvml_open(NULL, &nvml) != LS_OK) {
        if (access("/dev/nvidiactl", F_OK) == 0) {
            ls_findings_add(findings, "gpu", LS_WARN, "there is a GPU, but its driver says: %s",
                            ls_error_last()->message);
        }
        return;
    }
    int found = 0, in_domain = 0, gpu;
    uint64_t xid;
    const int count = ls_nvml_count(nvml);
    for (gpu = 0; gpu < count; gpu++) {
        found += check_reading(findings, nvml, gpu);
        found += check_fabric(findings, nvml, gpu, &in_domain);
    }
    while (ls_nvml_next_xid(nvml, &gpu, &xid) == LS_OK && xid != 0) {
        char text[120];
        snprintf(text, sizeof text,
                 "Xid %llu: see docs.nvidia.com/deploy/xid-errors, and drain the node",
                 (unsigned long long)xid);
        add(findings, nvml, gpu < 0 ? 0 : gpu, LS_FAULT, text);
        found++;
    }
    check_imex(findings, in_domain);
    if (found == 0) {
        ls_nvml_gpu id = {.name = "?"};
        char figures[160];
        (void)ls_nvml_identify(nvml, 0, &id);
        ls_findings_add(findings, "gpu", LS_PASS, "%d x %s, driver %s: no errors, no throttling%s",
                        count, id.name, ls_nvml_driver(nvml),
                        describe(nvml, 0, figures, sizeof figures));
    }
    ls_nvml_close(nvml);
}
