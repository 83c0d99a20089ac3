/* What the records of a run come to when starts were killed: steps that were done again, dollars of
 * each start, and what lies beyond the last ledger. */
#include "launch/run_records.h"

#include "runtime/base/file.h"
#include "tests/test.h"

#include <unistd.h>

static char root[] = "/tmp/lockstep-records-XXXXXX";

static void put(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    CHECK_OK(ls_file_replace(path, text, strlen(text)));
}

/* After two steps, 20 tokens and 40 device-seconds. */
static void put_ledger(void) {
    const ls_counters counters = {.steps = 2,
                                  .tokens = 20,
                                  .device_seconds = 40.0,
                                  .seconds = {[LS_PHASE_COMPUTE] = 20.0},
                                  .usd = 2.0};
    json_t *ledger = json_pack("{s:i, s:s, s:s, s:s, s:{s:s, s:s, s:f}, s:i, s:o}", "version", 1,
                               "run", "r", "account", "lab", "project", "p", "price", "kind",
                               "spot", "date", "2026-01-02", "usd_per_device_hour", 2.5,
                               "planned_steps", 9, "counters", ls_counters_json(&counters));
    char *text = json_dumps(ledger, 0);
    put("ledger.json", text);
    free(text);
    json_decref(ledger);
}

static void test_killed_run(void) {
    ls_run_records r;
    put_ledger();
    put("starts.jsonl", "{\"time\":100,\"ranks\":2,\"hosts\":1,\"job\":\"7\"}\n"
                        "{\"time\":200,\"ranks\":4,\"hosts\":2,\"job\":\"8\"}\n");
    put("train.jsonl",
        "{\"step\":1,\"restarts\":0,\"time\":110,\"tokens\":10,\"step_tokens\":10,\"seconds\":10,"
        "\"usd\":1}\n"
        "{\"step\":2,\"restarts\":0,\"time\":120,\"tokens\":20,\"step_tokens\":10,\"seconds\":10,"
        "\"usd\":2}\n"
        "{\"step\":3,\"restarts\":0,\"time\":130,\"tokens\":30,\"step_tokens\":10,\"seconds\":10,"
        "\"usd\":3}\n"
        "{\"step\":4,\"rest\n" /* torn by a kill */
        "{\"step\":3,\"restarts\":1,\"time\":206,\"tokens\":30,\"step_tokens\":10,\"seconds\":6,"
        "\"usd\":4,\"phase_seconds\":{\"compute\":5}}\n"
        "{\"step\":4,\"restarts\":1,\"time\":213,\"tokens\":40,\"step_tokens\":10,\"seconds\":7,"
        "\"usd\":5,\"phase_seconds\":{\"compute\":6}}\n");
    put("outcome", "0 all is done\nmore\n");
    CHECK_OK(ls_run_records_read(root, &r));
    CHECK_INT(r.step_count, 4); /* step 3 once, as it was done last */
    for (int i = 0; i < 4; i++) {
        CHECK_INT(r.steps[i].step, i + 1);
    }
    CHECK_NEAR(r.steps[2].usd, 4.0, 0, 0);
    CHECK_INT(r.start_count, 2);
    CHECK_NEAR(r.starts[0].usd, 3.0, 1e-12, 0);
    CHECK_NEAR(r.starts[1].usd, 2.0, 1e-12, 0);
    CHECK_INT(r.starts[0].tokens, 30);
    CHECK_INT(r.starts[1].tokens, 20);
    CHECK_INT(r.starts[1].steps, 2);
    CHECK_NEAR(r.starts[0].end_s, 130.0, 0, 0);
    CHECK_NEAR(r.starts[1].end_s, 213.0, 0, 0);
    CHECK_STR(r.starts[1].job, "8");
    /* Steps 3 and 4 of 4 ranks came after the ledger. */
    CHECK_INT(r.counters.steps, 4);
    CHECK_INT(r.counters.tokens, 40);
    CHECK_NEAR(r.counters.device_seconds, 40.0 + 4 * (6.0 + 7.0), 1e-9, 0);
    CHECK_NEAR(r.counters.seconds[LS_PHASE_COMPUTE], 20.0 + 5.0 + 6.0, 1e-9, 0);
    CHECK_NEAR(r.counters.usd, 5.0, 0, 0);
    CHECK_STR(r.outcome, "0 all is done");
    CHECK_STR(r.account, "lab");
    CHECK_STR(r.price_kind, "spot");
    CHECK_NEAR(r.usd_per_device_hour, 2.5, 0, 0);
    ls_run_records_free(&r);
}

static void test_refusals(void) {
    ls_run_records r;
    put("ledger.json", "{\"version\":2}");
    CHECK_STATUS(ls_run_records_read(root, &r), LS_E_VERSION);
    put("ledger.json", "{");
    CHECK_STATUS(ls_run_records_read(root, &r), LS_E_INPUT);
    CHECK_MESSAGE("has no readable ledger.json");
}

int main(void) {
    CHECK(mkdtemp(root) != NULL);
    test_killed_run();
    test_refusals();
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
