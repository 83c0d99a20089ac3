/* Files for other programs, read back by the letter of their formats. */
#include "runtime/counters/counters.h"
#include "tests/test.h"

#include <glob.h>
#include <unistd.h>

static char folder[] = "/tmp/lockstep-si\"nks-XXXXXX"; /* a quote, to be escaped in labels */

static const ls_step_record sample = {.step = 20,
                                      .total_steps = 40,
                                      .tokens = 4096,
                                      .step_tokens = 1024,
                                      .restarts = 1,
                                      .wall_time_s = 1.75e9,
                                      .loss = 2.5,
                                      .grad_norm = 1.5,
                                      .lr = 1e-3,
                                      .seconds = 0.5,
                                      .phase_seconds = {[LS_PHASE_COMPUTE] = 0.375},
                                      .tokens_per_second = 2048.0,
                                      .flops_per_second = 1e12,
                                      .memory_bytes = 1 << 20,
                                      .val_loss = NAN,
                                      .left_seconds = 10.0,
                                      .usd = 12.25,
                                      .left_usd = 3.0,
                                      .measured_joules = NAN,
                                      .goodput = 0.875,
                                      .devices = 4};

static const ls_sink_options *at_detail(int64_t every) {
    static ls_config config;
    static ls_sink_options options;
    config.run.seed = 7;
    snprintf(config.optim.name, sizeof config.optim.name, "adamw");
    config.optim.lr = 1e-3;
    config.schedule =
        (ls_config_schedule){.kind = LS_SCHEDULE_COSINE, .warmup_steps = 10, .min_lr_ratio = 0.125};
    options = (ls_sink_options){.run_dir = folder,
                                .every = every,
                                .config = &config,
                                .steps_done = 19,
                                .sequences_done = 100, /* some in batches of another size */
                                .total_steps = 40,
                                .batch = 8,
                                .accumulation = 2,
                                .seq = 128,
                                .train_sequences = 80,
                                .eval_sequences = 6};
    return &options;
}

static char *read_all(const char *path, size_t *bytes) {
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    char *text = calloc(1, 1 << 20);
    *bytes = f && text ? fread(text, 1, (1 << 20) - 1, f) : 0;
    if (f) {
        fclose(f);
    }
    return text;
}

static void test_prometheus(void) {
    void *state;
    char path[128];
    snprintf(path, sizeof path, "%s/metrics.prom", folder);
    CHECK_OK(ls_sink_prometheus.open(at_detail(20), &state));
    ls_step_record r = sample;
    r.step = 19; /* not due */
    CHECK_OK(ls_sink_prometheus.step(state, &r));
    CHECK(access(path, F_OK) != 0);
    r.step = 20;
    CHECK_OK(ls_sink_prometheus.step(state, &r));
    ls_sink_prometheus.close(state);
    size_t bytes;
    char *text = read_all(path, &bytes);
    CHECK(strstr(text, "# TYPE lockstep_trained_tokens gauge\n"));
    CHECK(strstr(text, "lockstep_trained_tokens{run=\"lockstep-si\\\"nks-"));
    CHECK(strstr(text, "phase=\"compute\"} 0.375\n"));
    CHECK(strstr(text, "\"} 12.25\n"));
    CHECK(!strstr(text, "energy_joules_total")); /* unknown: left out */
    CHECK(!strstr(text, "nan"));
    free(text);
    unlink(path);
}

static bool file_has(const char *path, const char *what) {
    size_t bytes;
    char *text = read_all(path, &bytes);
    const bool has = strstr(text, what) != NULL;
    free(text);
    return has;
}

/* Not more than once a second, by the records' own times; at the end the newest. */
static void test_prometheus_pace(void) {
    void *state;
    char path[128];
    snprintf(path, sizeof path, "%s/metrics.prom", folder);
    CHECK_OK(ls_sink_prometheus.open(at_detail(1), &state));
    const double later_s[] = {0.0, 0.25, 0.75, 1.25, 1.5};
    const char *const last_written[] = {"20", "20", "20", "23", "23"};
    ls_step_record r = sample;
    for (int i = 0; i < 5; i++) {
        char line[64];
        r.step = sample.step + i;
        r.wall_time_s = sample.wall_time_s + later_s[i];
        CHECK_OK(ls_sink_prometheus.step(state, &r));
        snprintf(line, sizeof line, "\"} %s\n# HELP lockstep_trained_tokens", last_written[i]);
        CHECK(file_has(path, line));
    }
    ls_sink_prometheus.close(state);
    CHECK(file_has(path, "\"} 24\n# HELP lockstep_trained_tokens"));
    CHECK_OK(ls_sink_prometheus.open(at_detail(1), &state));
    CHECK_OK(ls_sink_prometheus.step(state, &r));
    r.step = r.total_steps; /* the last one does not wait */
    CHECK_OK(ls_sink_prometheus.step(state, &r));
    CHECK(file_has(path, "\"} 40\n# HELP lockstep_trained_tokens"));
    ls_sink_prometheus.close(state);
    unlink(path);
}

static uint64_t little_endian(const uint8_t *p, int bytes) {
    uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; i--) {
        value = value << 8 | p[i];
    }
    return value;
}

/* CRC-32C by its definition over bits, most significant first: another way than that of the sink.
 */
static uint32_t crc32c(const uint8_t *data, size_t bytes) {
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < bytes; i++) {
        for (int bit = 0; bit < 8; bit++) {
            uint32_t in = (uint32_t)(data[i] >> bit) & 1u;
            uint32_t out = crc >> 31;
            crc = crc << 1 ^ ((in ^ out) ? 0x1edc6f41u : 0u);
        }
    }
    uint32_t reflected = 0;
    for (int bit = 0; bit < 32; bit++) {
        reflected |= ((crc >> bit) & 1u) << (31 - bit);
    }
    return ~reflected;
}

static uint32_t masked(const uint8_t *data, size_t bytes) {
    uint32_t crc = crc32c(data, bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* Finds a scalar: its tag as a string field, then field 2 with a 32-bit float. */
static float scalar(const uint8_t *event, size_t bytes, const char *tag) {
    size_t length = strlen(tag);
    for (size_t i = 0; i + length + 5 <= bytes; i++) {
        if (memcmp(event + i, tag, length) == 0 && event[i + length] == (2 << 3 | 5)) {
            uint32_t bits = (uint32_t)little_endian(event + i + length + 1, 4);
            float value;
            memcpy(&value, &bits, sizeof value);
            return value;
        }
    }
    return NAN;
}

static void test_tensorboard(void) {
    CHECK_INT(crc32c((const uint8_t *)"123456789", 9), 0xe3069283u); /* RFC 3720's check value */
    void *state;
    CHECK_OK(ls_sink_tensorboard.open(at_detail(1), &state));
    CHECK_OK(ls_sink_tensorboard.step(state, &sample));
    ls_sink_tensorboard.close(state);
    char pattern[128];
    snprintf(pattern, sizeof pattern, "%s/events.out.tfevents.*", folder);
    glob_t found;
    CHECK_INT(glob(pattern, 0, NULL, &found), 0);
    size_t bytes, at = 0;
    uint8_t *data = (uint8_t *)read_all(found.gl_pathv[0], &bytes);
    int records = 0;
    const uint8_t *event = NULL;
    size_t event_bytes = 0;
    while (at + 16 <= bytes) {
        event_bytes = little_endian(data + at, 8);
        CHECK_INT(little_endian(data + at + 8, 4), masked(data + at, 8));
        event = data + at + 12;
        CHECK(at + 16 + event_bytes <= bytes);
        CHECK_INT(little_endian(event + event_bytes, 4), masked(event, event_bytes));
        at += 16 + event_bytes;
        records++;
    }
    CHECK_INT(at, bytes);
    CHECK_INT(records, 2);
    CHECK_NEAR(scalar(event, event_bytes, "loss/train"), 2.5, 0, 0);
    CHECK_NEAR(scalar(event, event_bytes, "seconds/compute"), 0.375, 0, 0);
    CHECK(isnan(scalar(event, event_bytes, "loss/validation")));
    double wall_s;
    uint64_t bits = little_endian(event + 1, 8);
    memcpy(&wall_s, &bits, sizeof wall_s);
    CHECK_NEAR(wall_s, 1.75e9, 0, 0);
    CHECK(event[9] == (2 << 3) && event[10] == 20);
    free(data);
    unlink(found.gl_pathv[0]);
    globfree(&found);
}

static void test_mlperf(void) {
    void *state;
    char path[128];
    snprintf(path, sizeof path, "%s/mlperf.log", folder);
    CHECK_OK(ls_sink_mlperf.open(at_detail(1), &state));
    ls_step_record r = sample;
    CHECK_OK(ls_sink_mlperf.step(state, &r));
    r.step = r.total_steps;
    r.val_loss = 2.25;
    CHECK_OK(ls_sink_mlperf.step(state, &r));
    ls_sink_mlperf.close(state);
    static const struct {
        const char *key;
        double value; /* NAN: null, or not looked at */
        int samples;  /* of the metadata; -1: none */
    } lines[] = {
        {"init_start", NAN, -1},
        {"seed", 7, -1},
        {"init_checkpoint_step", 19, -1},
        {"train_samples", 80, -1},
        {"eval_samples", 6, -1},
        {"global_batch_size", 8, -1},
        {"gradient_accumulation_steps", 2, -1},
        {"max_sequence_length", 128, -1},
        {"opt_name", NAN, -1},
        {"opt_base_learning_rate", 1e-3, -1},
        {"opt_end_learning_rate", 1.25e-4, -1},
        {"opt_learning_rate_warmup_steps", 10, -1},
        {"opt_learning_rate_decay_steps", 30, -1},
        {"opt_learning_rate_decay_schedule", NAN, -1},
        {"opt_gradient_clip_norm", 0, -1},
        {"opt_adamw_beta_1", 0, -1},
        {"opt_adamw_beta_2", 0, -1},
        {"opt_adamw_epsilon", 0, -1},
        {"opt_adamw_weight_decay", 0, -1},
        {"init_stop", NAN, -1},
        {"run_start", NAN, -1},
        {"block_start", NAN, 100},
        {"tracked_stats", NAN, 108},
        {"tracked_stats", NAN, 268},
        {"block_stop", NAN, 100},
        {"eval_start", NAN, 268},
        {"eval_accuracy", 2.25, 268},
        {"eval_stop", NAN, 268},
        {"run_stop", NAN, 268},
    };
    FILE *f = fopen(path, "r");
    char line[2048];
    json_t *json = NULL;
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        CHECK(f && fgets(line, sizeof line, f));
        CHECK(strncmp(line, ":::MLLOG ", 9) == 0);
        json_decref(json);
        json = json_loads(line + 9, 0, NULL);
        CHECK_STR(json_string_value(json_object_get(json, "key")), lines[i].key);
        const json_t *value = json_object_get(json, "value"),
                     *metadata = json_object_get(json, "metadata"),
                     *samples = json_object_get(metadata, "samples_count");
        CHECK(isnan(lines[i].value) || json_number_value(value) == lines[i].value);
        CHECK_INT(samples ? json_integer_value(samples) : -1, lines[i].samples);
        CHECK(!samples ||
              json_number_value(json_object_get(metadata, "epoch_num")) == lines[i].samples / 80.0);
    }
    CHECK_STR(json_string_value(json_object_get(json_object_get(json, "metadata"), "status")),
              "success");
    json_decref(json);
    CHECK(f && !fgets(line, sizeof line, f));
    if (f) {
        fclose(f);
    }
    unlink(path);
}

int main(void) {
    CHECK(mkdtemp(folder) != NULL);
    test_prometheus();
    test_prometheus_pace();
    test_tensorboard();
    test_mlperf();
    CHECK_INT(rmdir(folder), 0);
    void *state;
    CHECK_STATUS(ls_sink_tensorboard.open(at_detail(1), &state), LS_E_IO);
    CHECK_STATUS(ls_sink_mlperf.open(at_detail(1), &state), LS_E_IO);
    CHECK_MESSAGE("mlperf.log");
    return test_end();
}
