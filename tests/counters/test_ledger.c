/* Prices, energy counters, and what a restart finds in the records of the starts before it. */
#include "runtime/counters/cost.h"
#include "runtime/counters/energy.h"
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

static void test_energy(void) {
    char root[] = "/tmp/lockstep-energy-XXXXXX";
    CHECK(mkdtemp(root) != NULL);
    ls_energy *e;
    CHECK_OK(ls_energy_open("/nonexistent/powercap", &e));
    CHECK(e == NULL);
    CHECK_OK(ls_energy_open(root, &e));
    CHECK(e == NULL);
    put_zone(root, "intel-rapl:0", "package-0\n", "5000000\n");
    put_zone(root, "intel-rapl:0:0", "core\n", "1\n"); /* part of the package */
    put_zone(root, "intel-rapl:0:1", "dram\n", "999000000\n");
    put_zone(root, "intel-rapl-mmio:0", "package-0\n", "5000000\n"); /* the package again */
    put_zone(root, "intel-rapl:1", "psys\n", "5000000\n");           /* everything again */
    CHECK_OK(ls_energy_open(root, &e));
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
    test_energy();
    test_history();
    return test_end();
}
