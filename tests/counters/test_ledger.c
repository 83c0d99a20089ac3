/* Prices, energy counters, and what a restart finds in the records of the starts before it. */
#include "runtime/base/clock.h"
#include "runtime/counters/cost.h"
#include "runtime/counters/energy_impl.h"
#include "tests/test.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_price(void) {
    double usd;
    ls_config_cost c = {.pue = 1.0, .contract_utilisation = 1.0};
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK(isnan(usd));
    c.usd_per_device_hour = 2.5;
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK_NEAR(usd, 2.5, 0, 0);

    /* $38 billion over 7 years: 59k devices from the first day on, half of them, or after a ramp.
     */
    c = (ls_config_cost){.kind = LS_PRICE_CONTRACT,
                         .pue = 1.0,
                         .contract_usd = 38e9,
                         .contract_years = 7.0,
                         .contract_utilisation = 1.0};
    strcpy(c.contract_devices, "0:59000");
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK_NEAR(usd, 38e9 / (7.0 * 24 * 365.25 * 59000), 1e-12, 0);
    c.contract_utilisation = 0.5;
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK_NEAR(usd, 2.0 * 38e9 / (7.0 * 24 * 365.25 * 59000), 1e-12, 0);
    c.contract_utilisation = 1.0;
    strcpy(c.contract_devices, "0.5:10000,2:20000,6:5000");
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK_NEAR(usd, 38e9 / (24 * 365.25 * (1.5 * 10000 + 4 * 20000 + 1 * 5000)), 1e-12, 0);

    /* By days: 182 and 1826 of 2557 days after the start; the years of the formula have 365.25. */
    strcpy(c.contract_start, "2026-11-01");
    strcpy(c.contract_devices, "2026-11-01:10000,2027-05-02:20000,2031-11-01:5000");
    CHECK_OK(ls_cost_price(&c, &usd));
    CHECK_NEAR(usd,
               38e9 / (24 * (182.0 * 10000 + (1826 - 182) * 20000.0 + (7 * 365.25 - 1826) * 5000)),
               1e-9, 0);
    strcpy(c.contract_devices, "2026-10-31:10000"); /* before the start */
    CHECK_STATUS(ls_cost_price(&c, &usd), LS_E_CONFIG);
    strcpy(c.contract_devices, "2026-11-01:10000");
    c.contract_start[0] = '\0';
    CHECK_STATUS(ls_cost_price(&c, &usd), LS_E_CONFIG);
    CHECK_MESSAGE("days after cost.contract_start ('')");
    static const char *const wrong[] = {"",        "59000",    "0:",    "0:1e999", "0:5,0:6",
                                        "3:5,2:6", "8:5",      "0:5,",  "0:5;1:6", "-1:5",
                                        "0:-5",    "0:5 ,1:6", "nan:5", "0:0"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        strcpy(c.contract_devices, wrong[i]);
        CHECK_STATUS(ls_cost_price(&c, &usd), LS_E_CONFIG);
        CHECK_MESSAGE("cost.contract_devices");
    }
    c.contract_usd = 0.0;
    CHECK_STATUS(ls_cost_price(&c, &usd), LS_E_CONFIG);
    CHECK_MESSAGE("cost.contract_usd");
}

static void test_spend(void) {
    ls_counters c = ls_counters_begin();
    ls_config_cost cost = {.pue = 1.2};
    ls_cost_spend(&cost, NAN, 7200.0, &c);
    CHECK_NEAR(c.device_seconds, 7200.0, 0, 0);
    CHECK(isnan(c.usd) && isnan(c.modelled_joules) && isnan(c.carbon_g));
    cost.watts_per_device = 1000.0;
    cost.carbon_g_per_kwh = 400.0;
    ls_cost_spend(&cost, 3.0, 3600.0, &c);
    ls_cost_spend(&cost, 5.0, 3600.0, &c); /* the price changes on the way */
    CHECK_NEAR(c.usd, 8.0, 1e-14, 0);
    CHECK_NEAR(c.modelled_joules, 2 * 3.6e6 * 1.2, 1e-14, 0);
    CHECK_NEAR(c.carbon_g, 2 * 1.2 * 400.0, 1e-14, 0);
}

static void put(const char *folder, const char *file, const char *text) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void put_zone(const char *root, const char *zone, const char *name, const char *uj) {
    char folder[256];
    snprintf(folder, sizeof folder, "%s/%s", root, zone);
    CHECK(mkdir(folder, 0755) == 0 || errno == EEXIST);
    put(folder, "name", name);
    put(folder, "energy_uj", uj);
    put(folder, "max_energy_range_uj", "1000000000\n");
}

static void test_rapl(void) {
    char root[] = "/tmp/lockstep-energy-XXXXXX";
    CHECK(mkdtemp(root) != NULL);
    ls_energy *e;
    ls_energy_options o = {.first_of_host = true, .powercap = "/nonexistent/powercap"};
    CHECK_OK(ls_energy_open(LS_ENERGY_RAPL, &o, &e));
    CHECK(e == NULL);
    o.powercap = root;
    CHECK_OK(ls_energy_open(LS_ENERGY_RAPL, &o, &e));
    CHECK(e == NULL);
    put_zone(root, "intel-rapl:0", "package-0\n", "5000000\n");
    put_zone(root, "intel-rapl:0:0", "core\n", "1\n"); /* part of the package */
    put_zone(root, "intel-rapl:0:1", "dram\n", "999000000\n");
    put_zone(root, "intel-rapl-mmio:0", "package-0\n", "5000000\n"); /* the package again */
    put_zone(root, "intel-rapl:1", "psys\n", "5000000\n");           /* everything again */
    CHECK_OK(ls_energy_open(LS_ENERGY_RAPL, &(ls_energy_options){.powercap = root}, &e));
    CHECK(e == NULL); /* another rank's to read */
    CHECK_OK(ls_energy_open(LS_ENERGY_RAPL, &o, &e));
    CHECK(e && strstr(ls_energy_scope(e), "package-0") && strstr(ls_energy_scope(e), "dram"));
    CHECK(e && !strstr(ls_energy_scope(e), "core") && !strstr(ls_energy_scope(e), "psys"));
    double joules = -1.0;
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 0.0, 0, 0);
    put_zone(root, "intel-rapl:0", "package-0\n", "7500000\n");
    put_zone(root, "intel-rapl:0:1", "dram\n", "500000\n"); /* wrapped at 1000 J */
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 2.5 + 1.5, 1e-12, 0);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
    CHECK_STATUS(ls_energy_joules(e, &joules), LS_E_IO);
    CHECK_MESSAGE("energy_uj");
    ls_energy_close(e);
}

static void test_node(void) {
    char root[] = "/tmp/lockstep-energy-XXXXXX", path[64];
    CHECK(mkdtemp(root) != NULL);
    const ls_energy_options o = {.first_of_host = true, .pm_counters = root};
    ls_energy *e;
    double joules;
    CHECK_OK(ls_energy_open(LS_ENERGY_NODE, &o, &e));
    CHECK(e == NULL);
    put(root, "energy", "5000000 J 1700000000000000 us\n");
    CHECK_OK(ls_energy_open(LS_ENERGY_NODE, &o, &e));
    CHECK(e != NULL);
    put(root, "energy", "5001234 J 1700000010000000 us\n");
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 1234.0, 0, 0);
    CHECK_STR(ls_energy_scope(e), "node counter: whole host");
    put(root, "energy", "broken\n");
    CHECK_STATUS(ls_energy_joules(e, &joules), LS_E_IO);
    CHECK_MESSAGE("'N J' is expected");
    ls_energy_close(e);
    snprintf(path, sizeof path, "%s/energy", root);
    CHECK(unlink(path) == 0 && rmdir(root) == 0);
}

/* A program sstat that answers for one step only. */
static void test_slurm(void) {
    char root[] = "/tmp/lockstep-energy-XXXXXX", path[64], search[4096];
    CHECK(mkdtemp(root) != NULL);
    snprintf(path, sizeof path, "%s/sstat", root);
    put(root, "sstat",
        "#!/bin/sh\n[ \"$4 $6\" = '1234.7 ConsumedEnergyRaw' ] && cat \"$(dirname "
        "\"$0\")/joules\"\n");
    put(root, "joules", "86400\n");
    CHECK_INT(chmod(path, 0755), 0);
    snprintf(search, sizeof search, "%s:%s", root, getenv("PATH"));
    CHECK_INT(setenv("PATH", search, 1), 0);
    const ls_energy_options o = {.first_of_job = true};
    ls_energy *e;
    double joules = -1.0;
    unsetenv("SLURM_JOB_ID");
    CHECK_OK(ls_energy_open(LS_ENERGY_SLURM, &o, &e));
    CHECK(e == NULL); /* not a job */
    setenv("SLURM_JOB_ID", "1234; rm -rf /", 1);
    setenv("SLURM_STEP_ID", "7", 1);
    CHECK_OK(ls_energy_open(LS_ENERGY_SLURM, &o, &e));
    CHECK(e == NULL);
    setenv("SLURM_JOB_ID", "1234", 1);
    setenv("SLURM_STEP_ID", "8", 1); /* nothing is gathered of this one */
    CHECK_OK(ls_energy_open(LS_ENERGY_SLURM, &o, &e));
    CHECK(e == NULL);
    setenv("SLURM_STEP_ID", "7", 1);
    CHECK_OK(ls_energy_open(LS_ENERGY_SLURM, &o, &e));
    CHECK(e != NULL);
    CHECK_OK(ls_energy_joules(e, &joules)); /* asked a moment ago */
    CHECK_NEAR(joules, 0.0, 0, 0);
    put(root, "joules", "90000\n");
    e->asked_ns = 0; /* long ago */
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 3600.0, 0, 0);
    CHECK_STR(ls_energy_scope(e), "Slurm: job step 1234.7");
    /* A database that hangs takes seconds, not the run, and is asked less often. */
    const uint64_t every_ns = e->ask_every_ns, began_ns = ls_clock_ns();
    put(root, "sstat", "#!/bin/sh\nexec sleep 600\n");
    e->asked_ns = 0;
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 3600.0, 0, 0);
    CHECK(ls_clock_ns() - began_ns < 60000000000u);
    CHECK(e->ask_every_ns == 2 * every_ns);
    put(root, "sstat", "#!/bin/sh\necho 93600\n");
    e->asked_ns = 0;
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 7200.0, 0, 0);
    CHECK(e->ask_every_ns == every_ns);
    ls_energy_close(e);
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
}

static void test_nvml(void) {
    char root[] = "/tmp/lockstep-energy-XXXXXX", plan[64];
    CHECK(mkdtemp(root) != NULL);
    snprintf(plan, sizeof plan, "%s/nvml", root);
    setenv("EMULATED_NVML", plan, 1);
    setenv("LOCKSTEP_NVML", "/nonexistent/libnvidia-ml.so.1", 1);
    const ls_energy_options o = {.gpu_bus_id = "0000:0a:00.0", .first_of_host = true};
    ls_energy *e;
    double joules;
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &o, &e));
    CHECK(e == NULL); /* no driver */
    setenv("LOCKSTEP_NVML", NVML_LIBRARY, 1);
    put(root, "nvml", "gpus 0 2\nbus_id 1 00000000:0A:00.0\nenergy 0 7\n");
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &o, &e));
    CHECK(e == NULL); /* this GPU does not count */
    put(root, "nvml", "gpus 0 2\nbus_id 1 00000000:0A:00.0\nenergy 1 5000000\n");
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &(ls_energy_options){.first_of_host = true}, &e));
    CHECK(e == NULL); /* a rank without a GPU */
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &(ls_energy_options){.gpu_bus_id = "0:b:0.0"}, &e));
    CHECK(e == NULL); /* a GPU that the driver does not show */
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &o, &e));
    CHECK_STR(ls_energy_scope(e), "NVML: GPU");
    put(root, "nvml", "gpus 0 2\nenergy 1 5700000\n");
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 700.0, 1e-12, 0);
    put(root, "nvml", "gpus 0 2\nenergy 1 50000\n"); /* the driver was loaded again */
    CHECK_OK(ls_energy_joules(e, &joules));
    CHECK_NEAR(joules, 750.0, 1e-12, 0);
    put(root, "nvml", "gpus 0 2\nenergy.error 1 15\n");
    CHECK_STATUS(ls_energy_joules(e, &joules), LS_E_DEVICE);
    CHECK_MESSAGE("GPU is lost");
    put(root, "nvml", "gpus 0 2\n");
    CHECK_STATUS(ls_energy_joules(e, &joules), LS_E_DEVICE);
    ls_energy_close(e);
    put(root, "nvml", "gpus 0 2\nbus_id 1 00000000:0A:00.0\nfield.191.1 1 1000\n");
    CHECK_OK(ls_energy_open(LS_ENERGY_NVML, &o, &e));
    CHECK_STR(ls_energy_scope(e), "NVML: module");
    ls_energy_close(e);
    CHECK(unlink(plan) == 0 && rmdir(root) == 0);
}

/* A record of train.jsonl. */
static void record(FILE *f, int step, int restarts, double end_s, double seconds, double usd) {
    fprintf(f,
            "{\"step\":%d,\"restarts\":%d,\"time\":%.6f,\"seconds\":%.6f,\"usd\":%.6f,"
            "\"measured_joules\":null}\n",
            step, restarts, end_s, seconds, usd);
}

static void test_history(void) {
    char dir[] = "/tmp/lockstep-history-XXXXXX", path[64];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/train.jsonl", dir);
    ls_history h;
    CHECK_OK(ls_history_since(dir, 2, 1000.0, 1030.0, &h)); /* no records at all */
    CHECK_NEAR(h.down_s, 30.0, 1e-12, 0);
    CHECK_INT(h.lost_steps, 0);
    CHECK(isnan(h.usd));

    /* The counters were saved at 1000.0, in step 2, whose record came half a second later. Steps 3
     * and 4 were lost with the first start; it left a line without its end. The second start began
     * its records at 1009 and did step 3 once more, in vain; now is 1020. */
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    record(f, 1, 0, 990.0, 10.0, 1.0);
    record(f, 2, 0, 1000.5, 10.5, 2.0);
    record(f, 3, 0, 1003.0, 2.5, 3.0);
    record(f, 4, 0, 1005.0, 2.0, 4.0);
    fputs("{\"step\":5,\"resta\n", f);
    record(f, 3, 1, 1011.0, 2.0, 5.0);
    fclose(f);
    CHECK_OK(ls_history_since(dir, 2, 1000.0, 1020.0, &h));
    CHECK_NEAR(h.save_s, 0.5, 1e-9, 0);
    CHECK_NEAR(h.lost_s, 2.5 + 2.0 + 2.0, 1e-9, 0);
    CHECK_NEAR(h.down_s, (1009.0 - 1005.0) + (1020.0 - 1011.0), 1e-9, 0);
    CHECK_NEAR(h.silence_s, 1020.0 - 1011.0, 1e-9, 0);
    CHECK_INT(h.lost_steps, 3);
    CHECK_NEAR(h.save_s + h.lost_s + h.down_s, 20.0, 1e-9, 0); /* nothing is left out */
    CHECK_NEAR(h.usd, 5.0, 0, 0);
    CHECK(isnan(h.measured_joules));

    /* A run that never saved begins again: all of it is lost. */
    CHECK_OK(ls_history_since(dir, 0, 975.0, 1020.0, &h));
    CHECK_INT(h.lost_steps, 5);
    CHECK_NEAR(h.save_s + h.lost_s + h.down_s, 45.0, 1e-9, 0);
    unlink(path);
    rmdir(dir);
}

int main(void) {
    test_price();
    test_spend();
    test_rapl();
    test_node();
    test_slurm();
    test_nvml();
    test_history();
    return test_end();
}
