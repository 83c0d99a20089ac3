#include "runtime/counters/counters.h"
#include "tests/test.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_round_trip(void) {
    ls_counters c = {.steps = 7,
                     .tokens = 1LL << 40,
                     .skipped_steps = 2,
                     .restarts = 3,
                     .saves = 5,
                     .failed_saves = 1,
                     .save_raw_bytes = 3LL << 40,
                     .save_stored_bytes = 2LL << 40,
                     .save_stall_seconds = 0.75,
                     .device_seconds = 12.5,
                     .flops = 1e21};
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        c.seconds[p] = 0.25 * (p + 1);
    }
    c.lost_steps = 5;
    c.as_of_s = 1.75e9;
    c.measured_joules = 3.5;
    c.modelled_joules = 4.5;
    c.carbon_g = 0.125;
    c.usd = 2.0;
    json_t *json = ls_counters_json(&c);
    ls_counters back;
    CHECK_OK(ls_counters_parse(json, &back));
    CHECK(memcmp(&c, &back, sizeof c) == 0);
    double seconds = 0.0; /* of training proper: compute, six kinds of communication, ... */
    for (int p = LS_PHASE_COMPUTE; p <= LS_PHASE_DATA; p++) {
        seconds += c.seconds[p];
    }
    CHECK_STR(ls_phase_name(LS_PHASE_GRADS), "communication_data");
    CHECK(ls_phase_trains(LS_PHASE_WORLD) && !ls_phase_trains(LS_PHASE_EVAL));
    CHECK_NEAR(json_real_value(json_object_get(json, "tokens_per_second")),
               (double)c.tokens / seconds, 1e-12, 0);
    CHECK_NEAR(json_real_value(json_object_get(json, "flops_per_second")), c.flops / seconds, 1e-12,
               0);
    CHECK(json_is_string(json_object_get(json, "flops_convention")));
    CHECK_NEAR(json_real_value(json_object_get(json_object_get(json, "saves"), "ratio")), 1.5, 0,
               0);
    json_decref(json);
}

static void test_nothing_measured_is_null(void) {
    ls_counters c = ls_counters_begin(), back;
    json_t *json = ls_counters_json(&c);
    CHECK(json_is_null(json_object_get(json, "tokens_per_second")));
    CHECK(json_is_null(json_object_get(json, "usd")));
    CHECK(json_is_null(json_object_get(json, "measured_joules")));
    json_object_del(json, "phase_seconds");
    CHECK_OK(ls_counters_parse(json, &back));
    CHECK(isnan(back.usd) && isnan(back.measured_joules) && isnan(back.carbon_g));
    CHECK_INT(back.tokens, 0);
    json_decref(json);
    json = json_array();
    CHECK_STATUS(ls_counters_parse(json, &back), LS_E_INPUT);
    CHECK_STATUS(ls_counters_parse(NULL, &back), LS_E_INPUT);
    json_decref(json);
}

static void test_jsonl(void) {
    char dir[] = "/tmp/lockstep-counters-XXXXXX", path[64];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/train.jsonl", dir);
    ls_step_record r = {.step = 3,
                        .total_steps = 9,
                        .tokens = 512,
                        .loss = NAN,
                        .grad_norm = INFINITY,
                        .lr = 1e-3,
                        .skipped = true,
                        .seconds = 0.5,
                        .val_loss = NAN,
                        .left_seconds = NAN,
                        .mfu = 0.5,
                        .hfu = NAN,
                        .lag = {.steps = 10, .rank = 3, .factor = 1.25, .seconds = 0.5},
                        .memory_bytes = 1LL << 33,
                        .memory_peak_bytes = 1LL << 34};
    r.phase_seconds[LS_PHASE_TENSOR] = 0.125;
    r.bus_bytes_per_second[0] = 1e9;
    for (int i = 0; i < 2; i++) { /* a second run appends */
        void *state;
        CHECK_OK(ls_sink_jsonl.open(&(ls_sink_options){.run_dir = dir}, &state));
        CHECK_OK(ls_sink_jsonl.step(state, &r));
        ls_sink_jsonl.close(state);
        r.loss = 2.5;
        r.save = (ls_save_record){.step = 2,
                                  .raw_bytes = 300,
                                  .stored_bytes = 200,
                                  .seconds = 4.0,
                                  .stall_seconds = 0.0625};
    }
    FILE *f = fopen(path, "r");
    char line[4096];
    CHECK(f && fgets(line, sizeof line, f));
    json_t *json = json_loads(line, 0, NULL);
    CHECK(json_is_null(json_object_get(json, "loss")));
    CHECK(json_is_null(json_object_get(json, "grad_norm")));
    CHECK(json_is_null(json_object_get(json, "save")));
    CHECK(json_is_true(json_object_get(json, "skipped")));
    const json_t *memory = json_object_get(json, "memory_bytes");
    CHECK_INT(json_integer_value(json_object_get(memory, "now")), 1LL << 33);
    CHECK_INT(json_integer_value(json_object_get(memory, "peak")), 1LL << 34);
    CHECK(json_is_null(json_object_get(memory, "planned")));
    CHECK_NEAR(json_real_value(json_object_get(json, "mfu")), 0.5, 0, 0);
    CHECK(json_is_null(json_object_get(json, "hfu")));
    const json_t *slowest = json_object_get(json, "slowest");
    CHECK_INT(json_integer_value(json_object_get(slowest, "rank")), 3);
    CHECK_NEAR(json_real_value(json_object_get(slowest, "seconds")), 0.5, 0, 0);
    CHECK_INT(json_integer_value(json_object_get(slowest, "steps")), 10);
    const json_t *bus = json_object_get(json, "bus_bytes_per_second");
    CHECK_NEAR(json_real_value(json_object_get(bus, "communication_tensor")), 1e9, 0, 0);
    CHECK_INT(json_object_size(bus), 1);
    CHECK_NEAR(json_real_value(
                   json_object_get(json_object_get(json, "phase_seconds"), "communication_tensor")),
               0.125, 0, 0);
    json_decref(json);
    CHECK(f && fgets(line, sizeof line, f));
    json = json_loads(line, 0, NULL);
    CHECK_NEAR(json_real_value(json_object_get(json, "loss")), 2.5, 0, 0);
    const json_t *save = json_object_get(json, "save");
    CHECK_INT(json_integer_value(json_object_get(save, "step")), 2);
    CHECK(json_is_false(json_object_get(save, "failed")));
    CHECK_NEAR(json_real_value(json_object_get(save, "stall_ms")), 62.5, 0, 0);
    CHECK_NEAR(json_real_value(json_object_get(save, "ratio")), 1.5, 0, 0);
    json_decref(json);
    CHECK(f && !fgets(line, sizeof line, f));
    if (f) {
        fclose(f);
    }
    unlink(path);
    rmdir(dir);
    void *state;
    CHECK_STATUS(ls_sink_jsonl.open(&(ls_sink_options){.run_dir = dir}, &state), LS_E_IO);
    CHECK_MESSAGE(dir);
}

static void test_full_device(void) {
    if (access("/dev/full", W_OK) != 0) {
        return;
    }
    char dir[] = "/tmp/lockstep-counters-XXXXXX", path[64];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/train.jsonl", dir);
    CHECK_INT(symlink("/dev/full", path), 0);
    void *state;
    ls_step_record r = {.step = 1};
    CHECK_OK(ls_sink_jsonl.open(&(ls_sink_options){.run_dir = dir}, &state));
    CHECK_STATUS(ls_sink_jsonl.step(state, &r), LS_E_IO);
    ls_sink_jsonl.close(state);
    unlink(path);
    rmdir(dir);
}

static void test_memory(void) {
    int64_t now, peak;
    CHECK_OK(ls_memory_taken(&now, &peak));
    CHECK(now > 100000 && peak >= now);
    /* What two processes share counts half for each. */
    enum { BYTES = 32 << 20 };
    int64_t before, after;
    CHECK_OK(ls_memory_taken(&before, &peak));
    char *shared = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    memset(shared, 1, BYTES);
    CHECK_OK(ls_memory_watched(&after, &peak));
    CHECK(llabs(after - before - BYTES) < BYTES / 8);
    const int64_t others = ls_memory_others();
    int touched[2], end[2];
    CHECK_INT(pipe(touched) + pipe(end), 0);
    const pid_t child = fork();
    if (child == 0) {
        char byte = shared[0];
        for (size_t i = 0; i < BYTES; i += 4096) {
            byte = (char)(byte + shared[i]);
        }
        _exit(write(touched[1], &byte, 1) == 1 && read(end[0], &byte, 1) == 1 ? 0 : 1);
    }
    char byte;
    CHECK_INT(read(touched[0], &byte, 1), 1);
    CHECK_OK(ls_memory_taken(&after, &peak));
    CHECK(llabs(after - before - BYTES / 2) < BYTES / 8);
    CHECK(llabs(ls_memory_others() - others - BYTES / 2) < BYTES / 8);
    CHECK_INT(write(end[1], &byte, 1), 1);
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
    munmap(shared, BYTES);
}

int main(void) {
    test_round_trip();
    test_nothing_measured_is_null();
    test_jsonl();
    test_full_device();
    test_memory();
    return test_end();
}
