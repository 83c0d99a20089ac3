#include "runtime/base/file.h"
#include "runtime/config/config.h"
#include "tests/test.h"

#include <unistd.h>

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

static ls_status load(ls_config *config, const char *yaml, const char *const *overrides,
                      int count) {
    return ls_config_load_text(config, "t.yaml", yaml, strlen(yaml), overrides, count);
}

static const char *const tiny[] = {"model.preset=gpt2-tiny", "run.steps=1", "batch.sequences=2"};

static void test_defaults(void) {
    ls_config c;
    CHECK_OK(ls_config_load(&c, NULL, tiny, COUNT(tiny)));
    CHECK_STR(c.run.name, "run");
    CHECK_STR(c.run.dir, "runs");
    CHECK_INT(c.run.seed, 1);
    CHECK_STR(c.data.dir, "");
    CHECK_STR(c.optim.name, "adamw");
    CHECK(c.optim.lr == 3e-4 && c.optim.beta1 == 0.9 && c.optim.beta2 == 0.95);
    CHECK(c.optim.weight_decay == 0.1 && c.optim.clip_norm == 1);
    CHECK_INT(c.schedule.kind, LS_SCHEDULE_COSINE);
    CHECK_INT(c.schedule.warmup_steps, 100);
    CHECK(c.schedule.min_lr_ratio == 0.1 && c.numerics.bucket_mib == 25);
    CHECK_INT(c.numerics.compute, LS_COMPUTE_AUTO);
    CHECK_INT(c.numerics.reduction, LS_CFG_FAST);
    CHECK_INT(c.checkpoint.level, 1);
    CHECK(c.checkpoint.at_end && c.data.verify);
}

/* Sizes that follow from others. */
static void test_derived(void) {
    ls_config c;
    CHECK_OK(ls_config_load(&c, NULL, tiny, COUNT(tiny)));
    CHECK_INT(c.model.vocab, 0);
    CHECK_INT(c.model.head_dim, 16);
    CHECK_INT(c.model.kv_heads, 2);
    CHECK_INT(c.model.ffn, 128);
    CHECK_INT(c.data.sequence, 64);
    CHECK_INT(c.batch.tokens, 128);

    const char *const by_tokens[] = {"model.preset=gpt2-tiny", "run.tokens=2.5e9",
                                     "batch.tokens=1_200", "data.sequence=60", "batch.micro=4"};
    CHECK_OK(ls_config_load(&c, NULL, by_tokens, COUNT(by_tokens)));
    CHECK_INT(c.run.tokens, 2500000000);
    CHECK_INT(c.batch.sequences, 20);
    static const struct {
        const char *text;
        int64_t tokens;
    } lengths[] = {{"10B", 10000000000}, {"4.35T", 4350000000000},
                   {"300M", 300000000},  {"1_500k", 1500000},
                   {"2G", 2000000000},   {"7K", 7000},
                   {"0.0005k", -1},      {"B", -1},
                   {"1e3k", -1},         {"10 B", -1},
                   {"10BB", -1},         {"10b", -1},
                   {"10Bn", -1},         {"10000T", -1}};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        char length[40];
        snprintf(length, sizeof length, "run.tokens=%s", lengths[i].text);
        const char *const settings[] = {tiny[0], tiny[2], length};
        if (lengths[i].tokens < 0) {
            CHECK_STATUS(ls_config_load(&c, NULL, settings, COUNT(settings)), LS_E_CONFIG);
        } else {
            CHECK_OK(ls_config_load(&c, NULL, settings, COUNT(settings)));
            CHECK_INT(c.run.tokens, lengths[i].tokens);
        }
    }

    /* A file that says both, as resolved ones do: an override changes either. */
    static const char both[] = "run: {steps: 1}\nmodel: {preset: gpt2-tiny}\n"
                               "batch: {sequences: 4, tokens: 256}\n";
    CHECK_OK(load(&c, both, (const char *const[]){"batch.sequences=6"}, 1));
    CHECK_INT(c.batch.tokens, 384);
    CHECK_OK(load(&c, both, (const char *const[]){"batch.tokens=128"}, 1));
    CHECK_INT(c.batch.sequences, 2);
    CHECK_OK(load(&c, both, (const char *const[]){"batch.tokens=0"}, 1));
    CHECK_INT(c.batch.sequences, 4);
    CHECK_OK(load(&c, both, (const char *const[]){"data.sequence=32", "batch.tokens=256"}, 2));
    CHECK_INT(c.batch.sequences, 8);
    CHECK_OK(load(&c, both, (const char *const[]){"data.sequence=32", "batch.sequences=4"}, 2));
    CHECK_INT(c.batch.tokens, 128);
    CHECK_OK(load(&c, both, (const char *const[]){"run.tokens=1M"}, 1));
    CHECK_INT(c.run.steps, 0);
    CHECK_STATUS(load(&c, both, (const char *const[]){"run.tokens=1M", "run.steps=2"}, 2),
                 LS_E_CONFIG);

    const char *const wide_heads[] = {"model.layers=1", "model.channels=100",
                                      "model.heads=3",  "model.head_dim=96",
                                      "run.steps=1",    "batch.sequences=1"};
    CHECK_OK(ls_config_load(&c, NULL, wide_heads, COUNT(wide_heads)));
    CHECK_INT(c.model.head_dim, 96);
    CHECK_INT(c.model.family, LS_FAMILY_GPT2);
}

/* Defaults, preset, file, overrides: each speaks over the one before. */
static void test_order(void) {
    ls_config c;
    const char *yaml = "model: {preset: gpt2-124m, layers: 3, heads: 6}\n"
                       "run:\n  steps: 7 # a comment\n  name: \"a # b\"\n"
                       "batch:\n  sequences: 4\n"
                       "optim: # nothing below\n"
                       "data: ~\n";
    CHECK_OK(load(&c, yaml, NULL, 0));
    CHECK_INT(c.model.layers, 3);
    CHECK_INT(c.model.heads, 6);
    CHECK_INT(c.model.channels, 768);
    CHECK_INT(c.model.head_dim, 128);
    CHECK_STR(c.run.name, "a # b");
    const char *const overrides[] = {"model.heads=4", "run.steps=8", "run.name=x=y", "run.steps=9"};
    CHECK_OK(load(&c, yaml, overrides, COUNT(overrides)));
    CHECK_INT(c.model.heads, 4);
    CHECK_INT(c.run.steps, 9); /* the last one counts */
    CHECK_STR(c.run.name, "x=y");
    const char *const other_preset[] = {"model.preset=gpt2-350m", "model.heads=8"};
    CHECK_OK(load(&c, yaml, other_preset, 2));
    CHECK_INT(c.model.channels, 1024);
    CHECK_INT(c.model.layers, 3);
    CHECK_STR(c.model.preset, "gpt2-350m");
    const char *const no_preset[] = {"model.preset=", "model.channels=12"};
    CHECK_OK(load(&c, yaml, no_preset, 2));
    CHECK_INT(c.model.channels, 12);
    CHECK_INT(c.model.vocab, 0);
}

static void test_file(void) {
    ls_config c;
    char path[] = "/tmp/ls-config-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    close(fd);
    const char *yaml = "\xef\xbb\xbfrun: {steps: 5}\nbatch: {sequences: 1}\n"
                       "model:\r\n  preset: llama3-tiny\r\n";
    CHECK_OK(ls_file_replace(path, yaml, strlen(yaml)));
    CHECK_OK(ls_config_load(&c, path, NULL, 0));
    CHECK_INT(c.run.steps, 5);
    CHECK_INT(c.model.kv_heads, 2);
    unlink(path);
    CHECK_STATUS(ls_config_load(&c, path, NULL, 0), LS_E_INPUT);
    CHECK_MESSAGE("cannot be opened: No such file or directory");
}

/* Sizes as published. */
static void test_presets(void) {
    static const struct {
        const char *name;
        ls_family family;
        int64_t vocab, layers, channels, heads, kv_heads, head_dim, ffn, context;
    } published[] = {
        {"gpt2-124m", LS_FAMILY_GPT2, 50257, 12, 768, 12, 12, 64, 3072, 1024},
        {"gpt2-350m", LS_FAMILY_GPT2, 50257, 24, 1024, 16, 16, 64, 4096, 1024},
        {"gpt2-774m", LS_FAMILY_GPT2, 50257, 36, 1280, 20, 20, 64, 5120, 1024},
        {"gpt2-1558m", LS_FAMILY_GPT2, 50257, 48, 1600, 25, 25, 64, 6400, 1024},
        {"llama3-8b", LS_FAMILY_LLAMA3, 128256, 32, 4096, 32, 8, 128, 14336, 131072},
        {"llama3-70b", LS_FAMILY_LLAMA3, 128256, 80, 8192, 64, 8, 128, 28672, 131072},
        {"llama3-405b", LS_FAMILY_LLAMA3, 128256, 126, 16384, 128, 8, 128, 53248, 131072},
        {"mistral-7b", LS_FAMILY_LLAMA3, 32000, 32, 4096, 32, 8, 128, 14336, 32768},
        {"qwen2.5-7b", LS_FAMILY_LLAMA3, 152064, 28, 3584, 28, 4, 128, 18944, 131072},
        {"qwen3-8b", LS_FAMILY_LLAMA3, 151936, 36, 4096, 32, 8, 128, 12288, 32768},
        {"qwen3-30b-a3b", LS_FAMILY_LLAMA3, 151936, 48, 2048, 32, 4, 128, 768, 32768},
    };
    for (int i = 0; i < COUNT(published); i++) {
        char preset[64];
        snprintf(preset, sizeof preset, "model.preset=%s", published[i].name);
        const char *const overrides[] = {preset, "run.steps=1", "batch.sequences=1"};
        ls_config c;
        CHECK_OK(ls_config_load(&c, NULL, overrides, COUNT(overrides)));
        const ls_config_model *m = &c.model;
        CHECK_STR(m->preset, published[i].name);
        CHECK_INT(m->family, published[i].family);
        CHECK_INT(m->vocab, published[i].vocab);
        CHECK_INT(m->layers, published[i].layers);
        CHECK_INT(m->channels, published[i].channels);
        CHECK_INT(m->heads, published[i].heads);
        CHECK_INT(m->kv_heads, published[i].kv_heads);
        CHECK_INT(m->head_dim, published[i].head_dim);
        CHECK_INT(m->ffn, published[i].ffn);
        CHECK_INT(m->context, published[i].context);
        bool llama = m->family == LS_FAMILY_LLAMA3, qwen = strncmp(m->preset, "qwen", 4) == 0;
        CHECK_INT(m->tied, !llama);
        CHECK_INT(m->qkv_bias, strncmp(m->preset, "qwen2", 5) == 0);
        CHECK_INT(m->qk_norm, strncmp(m->preset, "qwen3", 5) == 0);
        const bool mistral = strcmp(m->preset, "mistral-7b") == 0, other = qwen || mistral;
        CHECK_INT(m->rope_scaling, llama && !other ? LS_ROPE_SCALING_LLAMA3 : LS_ROPE_SCALING_NONE);
        CHECK(m->rope_theta == (mistral ? 1e4 : qwen ? 1e6 : 5e5));
        CHECK(m->norm_eps == (qwen ? 1e-6 : 1e-5));
        CHECK_INT(m->window, mistral ? 4096 : 0);
        CHECK(m->rope_factor == 8);
        CHECK(m->rope_low_freq_factor == 1 && m->rope_high_freq_factor == 4);
        CHECK_INT(m->rope_original_context, 8192);
    }
    int count = 0;
    for (const char *const *name = ls_config_presets(); *name; name++, count++) {
        char preset[64];
        snprintf(preset, sizeof preset, "model.preset=%s", *name);
        const char *const overrides[] = {preset, "run.steps=1", "batch.sequences=1"};
        ls_config c;
        CHECK_OK(ls_config_load(&c, NULL, overrides, COUNT(overrides)));
    }
    CHECK_INT(count, COUNT(published) + 11);
}

/* The table itself: rows of a section are neighbours, places do not overlap and cover the struct's
 * members, defaults are allowed values. */
static void test_table(void) {
    size_t count, section_count, section = 0;
    const ls_field *f = ls_config_fields(&count);
    const ls_section *sections = ls_config_sections(&section_count);
    static const size_t bytes[] = {[LS_FIELD_BOOL] = sizeof(bool),
                                   [LS_FIELD_INT] = 8,
                                   [LS_FIELD_FLOAT] = 8,
                                   [LS_FIELD_ENUM] = sizeof(ls_family)};
    for (size_t i = 0; i < count; i++) {
        if (strcmp(f[i].section, sections[section].name) != 0) {
            section++;
            CHECK(section < section_count);
        }
        CHECK_STR(f[i].section, sections[section].name);
        CHECK(i == 0 || f[i].offset >= f[i - 1].offset + f[i - 1].size_bytes);
        CHECK(i == 0 || f[i].offset < f[i - 1].offset + f[i - 1].size_bytes + 8); /* no gap */
        CHECK(f[i].type == LS_FIELD_STRING || f[i].size_bytes == bytes[f[i].type]);
        CHECK(f[i].help[0] && f[i].unit && f[i].default_text);
    }
    CHECK_INT(section, section_count - 1);
    CHECK(sizeof(ls_config) - f[count - 1].offset - f[count - 1].size_bytes < 8);
}

int main(void) {
    test_defaults();
    test_derived();
    test_order();
    test_file();
    test_presets();
    test_table();
    return test_end();
}
