/* What is planted in the driver's stand-in must be read, errors and absent functions included. */
#include "runtime/device/cuda/nvml.h"
#include "tests/test.h"

#include <unistd.h>

static char plan[] = "/tmp/lockstep-nvml-XXXXXX";

static void plant(const char *lines) {
    FILE *f = fopen(plan, "w");
    CHECK(f && fputs(lines, f) >= 0 && fclose(f) == 0);
}

#define TWO_GPUS                                                                                   \
    "gpus 0 2\n"                                                                                   \
    "driver 0 570.86.15\n"                                                                         \
    "name 0 NVIDIA GB200\n"                                                                        \
    "uuid 0 GPU-0001\n"                                                                            \
    "bus_id 0 00000008:01:00.0\n"                                                                  \
    "bus_id 1 00000009:0A:00.0\n"

static void test_whole(void) {
    ls_nvml *n;
    ls_nvml_gpu who;
    ls_nvml_reading r;
    char text[128];
    int gpu;
    plant(TWO_GPUS "energy 0 1234567890123\nfield.186.0 0 987654\npower_limit 0 1200000\n"
                   "temperature.0 0 61\nclock.1 0 1665\nmax_clock.1 0 2062\n"
                   "throttle 0 0x24\nmemory_total 0 198642237440\nmemory_used 0 4294967297\n"
                   "ecc_corrected 0 7\necc_uncorrected 0 0\nfield.91.0 0 18\n"
                   "nvlinks_active 0 17\n");
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_INT(ls_nvml_count(n), 2);
    CHECK_STR(ls_nvml_driver(n), "570.86.15");
    CHECK_OK(ls_nvml_identify(n, 0, &who));
    CHECK_STR(who.name, "NVIDIA GB200");
    CHECK_STR(who.uuid, "GPU-0001");
    CHECK_STR(who.bus_id, "00000008:01:00.0");
    CHECK_OK(ls_nvml_find(n, "0009:0a:00.0", &gpu)); /* as CUDA writes it */
    CHECK_INT(gpu, 1);
    CHECK_STATUS(ls_nvml_find(n, "0009:0b:00.0", &gpu), LS_E_INPUT);
    CHECK_OK(ls_nvml_read(n, 0, &r));
    CHECK_NEAR(r.energy_joules, 1234567890.123, 1e-15, 0);
    CHECK_INT(r.energy_scope, LS_NVML_GPU);
    CHECK_NEAR(r.power_watts, 987.654, 1e-15, 0);
    CHECK_NEAR(r.power_limit_watts, 1200, 0, 0);
    CHECK_INT(r.power_scope, LS_NVML_GPU);
    CHECK_NEAR(r.temperature_c, 61, 0, 0);
    CHECK_NEAR(r.sm_mhz, 1665, 0, 0);
    CHECK_NEAR(r.sm_max_mhz, 2062, 0, 0);
    CHECK_INT(r.throttle, LS_NVML_POWER_CAP | LS_NVML_SW_THERMAL);
    CHECK(r.throttle & LS_NVML_HARMFUL);
    CHECK_STR(ls_nvml_throttle_text((uint64_t)r.throttle, text, sizeof text),
              "power cap, thermal, by the driver");
    CHECK_STR(ls_nvml_throttle_text(0, text, sizeof text), "none");
    CHECK_INT(r.memory_total_bytes, 198642237440);
    CHECK_INT(r.memory_used_bytes, 4294967297);
    CHECK_INT(r.ecc_corrected, 7);
    CHECK_INT(r.ecc_uncorrected, 0);
    CHECK_INT(r.nvlinks, 18);
    CHECK_INT(r.nvlinks_active, 17);
    CHECK_STATUS(ls_nvml_read(n, 2, &r), LS_E_INPUT);
    CHECK_MESSAGE("GPU 2 was asked for");

    /* The second GPU offers nothing: unknown, not 0. */
    CHECK_OK(ls_nvml_read(n, 1, &r));
    CHECK(isnan(r.energy_joules) && isnan(r.power_watts) && isnan(r.temperature_c));
    CHECK(isnan(r.sm_mhz) && isnan(r.power_limit_watts));
    CHECK_INT(r.energy_scope, LS_NVML_NONE);
    CHECK_INT(r.throttle, -1);
    CHECK_INT(r.ecc_uncorrected, -1);
    CHECK_INT(r.memory_used_bytes, -1);
    CHECK_INT(r.nvlinks, -1);
    ls_nvml_close(n);
}

/* A superchip that refuses the GPU's own energy and gives its module's. */
static void test_module(void) {
    ls_nvml *n;
    double joules;
    ls_nvml_scope scope;
    ls_nvml_reading r;
    plant(TWO_GPUS "energy.error 0 999\nfield.191.0.error 0 3\nfield.191.1 0 5000000000\n"
                   "field.186.0.error 0 3\nfield.186.1 0 2500000\n");
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_OK(ls_nvml_energy(n, 0, &joules, &scope));
    CHECK_NEAR(joules, 5e6, 0, 0);
    CHECK_INT(scope, LS_NVML_MODULE);
    CHECK_STR(ls_nvml_scope_name(scope), "module");
    CHECK_OK(ls_nvml_read(n, 0, &r));
    CHECK_NEAR(r.power_watts, 2500, 0, 0);
    CHECK_INT(r.power_scope, LS_NVML_MODULE);
    ls_nvml_close(n);
}

static void test_fabric(void) {
    ls_nvml *n;
    ls_nvml_fabric a, b;
    plant(TWO_GPUS
          "fabric_state 0 3\nfabric_cluster 0 00112233445566778899aabbccddeeff\nfabric_clique 0 7\n"
          "fabric_health 0 0x11aa\n"
          "fabric_state 1 3\nfabric_cluster 1 00112233445566778899aabbccddeeff\n"
          "fabric_clique 1 7\n");
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_OK(ls_nvml_fabric_of(n, 0, &a));
    CHECK_OK(ls_nvml_fabric_of(n, 1, &b));
    CHECK_INT(a.state, LS_NVML_FABRIC_COMPLETED);
    CHECK_INT(a.cluster[1], 0x11);
    CHECK_INT(a.cluster[15], 0xff);
    CHECK_INT(a.clique, 7);
    CHECK(a.healthy && !a.degraded && !a.failed);
    CHECK(ls_nvml_same_fabric(&a, &b));
    b.clique = 8;
    CHECK(!ls_nvml_same_fabric(&a, &b));

    /* Bandwidth degraded; a wrong configuration; registration that failed or is under way; zeros.
     */
    static const struct {
        const char *lines;
        ls_nvml_fabric_state state;
        bool degraded, healthy, failed;
    } cases[] = {{"fabric_state 0 3\nfabric_health 0 0x1\n", 3, true, false, false},
                 {"fabric_state 0 3\nfabric_health 0 0x500\n", 3, false, false, false},
                 {"fabric_state 0 3\nfabric_status 0 15\n", 3, false, false, true},
                 {"fabric_state 0 2\n", 2, false, true, false},
                 {"fabric_state 0 3\n", 3, false, true, false},
                 {"fabric_state 0 99\n", 0, false, true, false},
                 {"fabric_state.error 0 3\n", 0, false, true, false},
                 {"fabric_state.error 0 999\n", 0, false, true, false}}; /* unknown error */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char lines[512];
        snprintf(lines, sizeof lines, TWO_GPUS "%s", cases[i].lines);
        plant(lines);
        CHECK_OK(ls_nvml_fabric_of(n, 0, &a));
        CHECK_INT(a.state, cases[i].state);
        CHECK_INT(a.degraded, cases[i].degraded);
        CHECK_INT(a.healthy, cases[i].healthy);
        CHECK_INT(a.failed, cases[i].failed);
        CHECK(!ls_nvml_same_fabric(&a, &a));
        CHECK_STR(a.status, cases[i].failed ? "GPU is lost" : "");
    }
    ls_nvml_close(n);
}

static void test_xid(void) {
    ls_nvml *n;
    int gpu;
    uint64_t xid;
    plant(TWO_GPUS "xid 1 79\nxid 0 48\n");
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_OK(ls_nvml_next_xid(n, &gpu, &xid));
    CHECK_INT(gpu, 1);
    CHECK_INT(xid, 79);
    CHECK_OK(ls_nvml_next_xid(n, &gpu, &xid));
    CHECK_INT(gpu, 0);
    CHECK_INT(xid, 48);
    CHECK_OK(ls_nvml_next_xid(n, &gpu, &xid));
    CHECK_INT(gpu, -1);
    CHECK_INT(xid, 0);
    ls_nvml_close(n);
    plant(TWO_GPUS "events 0 3\nevents 1 3\nxid 1 79\n"); /* not offered by these GPUs */
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_STATUS(ls_nvml_next_xid(n, &gpu, &xid), LS_E_UNSUPPORTED);
    ls_nvml_close(n);
}

static void test_faults(void) {
    ls_nvml *n;
    ls_nvml_reading r;
    double joules;
    ls_nvml_scope scope;
    CHECK_STATUS(ls_nvml_open("/nonexistent/libnvidia-ml.so.1", &n), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("no NVIDIA driver library");
    CHECK(n == NULL);
    CHECK_STATUS(ls_nvml_open("libm.so.6", &n), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("it lacks nvmlInit_v2");
    plant("init 0 9\n");
    CHECK_STATUS(ls_nvml_open(NEW_LIBRARY, &n), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("Driver Not Loaded (NVML error 9)");
    plant("gpus 0 0\n");
    CHECK_STATUS(ls_nvml_open(NEW_LIBRARY, &n), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("finds no GPU");
    plant("gpus 0 2\nopen 1 15\n");
    CHECK_STATUS(ls_nvml_open(NEW_LIBRARY, &n), LS_E_DEVICE);
    CHECK_MESSAGE("GPU 1, opening it: GPU is lost (NVML error 15)");
    plant("gpus 0 2\nopen 1 4\nenergy 0 5000\n"); /* another job's */
    CHECK_OK(ls_nvml_open(NEW_LIBRARY, &n));
    CHECK_OK(ls_nvml_energy(n, 0, &joules, &scope));
    CHECK_NEAR(joules, 5, 0, 0);
    CHECK_STATUS(ls_nvml_energy(n, 1, &joules, &scope), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("may not be looked at");
    plant("gpus 0 2\nenergy 0 1000\ntemperature.0.error 0 15\n"); /* falls off the bus */
    CHECK_STATUS(ls_nvml_read(n, 0, &r), LS_E_DEVICE);
    CHECK_MESSAGE("GPU 0, reading its temperature: GPU is lost");
    plant("gpus 0 2\nenergy.error 0 16\n");
    CHECK_STATUS(ls_nvml_energy(n, 0, &joules, &scope), LS_E_DEVICE);
    CHECK_MESSAGE("reset it or restart the host");
    ls_nvml_close(n);
    ls_nvml_close(NULL);
}

/* A driver without fields, fabric and events; the clock's reasons have their older name. */
static void test_old(void) {
    ls_nvml *n;
    ls_nvml_reading r;
    ls_nvml_fabric fabric;
    int gpu;
    uint64_t xid;
    plant(TWO_GPUS "power 0 250000\nenergy 0 9000\nthrottle 0 0x8\nfield.186.0 0 1\n"
                   "fabric_state 0 3\nxid 0 79\nnvlinks_active 0 12\nfield.91.0 0 12\n");
    CHECK_OK(ls_nvml_open(OLD_LIBRARY, &n));
    CHECK_OK(ls_nvml_read(n, 0, &r));
    CHECK_NEAR(r.power_watts, 250, 0, 0);
    CHECK_NEAR(r.energy_joules, 9, 0, 0);
    CHECK_INT(r.throttle, LS_NVML_SLOWDOWN);
    CHECK_INT(r.nvlinks_active, -1);
    CHECK_OK(ls_nvml_fabric_of(n, 0, &fabric));
    CHECK_INT(fabric.state, LS_NVML_FABRIC_NONE);
    CHECK_STATUS(ls_nvml_next_xid(n, &gpu, &xid), LS_E_UNSUPPORTED);
    ls_nvml_close(n);
}

int main(void) {
    int fd = mkstemp(plan);
    CHECK(fd >= 0 && close(fd) == 0);
    CHECK_INT(setenv("EMULATED_NVML", plan, 1), 0);
    test_whole();
    test_module();
    test_fabric();
    test_xid();
    test_faults();
    test_old();
    unlink(plan);
    return test_end();
}
