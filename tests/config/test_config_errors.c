/* Every refusal, with its message. */
#include "runtime/config/config.h"
#include "tests/test.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))
#define BASE     "run: {steps: 1}\nbatch: {sequences: 4}\nmodel: {preset: gpt2-tiny}\n"

typedef struct {
    const char *yaml, *message;
} yaml_case;

static void refuse(const yaml_case *cases, int count) {
    for (int i = 0; i < count; i++) {
        ls_config c;
        const char *yaml = cases[i].yaml;
        CHECK_STATUS(ls_config_load_text(&c, "t.yaml", yaml, strlen(yaml), NULL, 0), LS_E_CONFIG);
        CHECK_MESSAGE(cases[i].message);
    }
}

static void test_names(void) {
    static const yaml_case cases[] = {
        /* unknown names */
        {"run:\n  stesp: 4\n", "t.yaml:2: unknown key 'run.stesp'; did you mean 'run.steps'?"},
        {"run:\n  lr: 4\n", "t.yaml:2: unknown key 'run.lr'; did you mean 'optim.lr'?"},
        {"optim:\n\n  momentum_decay: 4\n",
         "t.yaml:3: unknown key 'optim.momentum_decay'; the keys of 'optim' are name, lr, beta1, "
         "beta2, eps, weight_decay, clip_norm"},
        {"run.steps: 4\n",
         "t.yaml:1: unknown section 'run.steps'; in a file a key is inside of its "
         "section: run: {steps: ...}"},
        {"optm: {lr: 1}\n", "t.yaml:1: unknown section 'optm'; did you mean 'optim'?"},
        {"hidden_size: 768\n",
         "t.yaml:1: unknown section 'hidden_size'; did you mean the key 'model.channels'?"},
        {"hyperparameters: {lr: 1}\n",
         "t.yaml:1: unknown section 'hyperparameters'; the sections are run, model, data, "
         "parallel, recompute, batch, optim, schedule, numerics, checkpoint, eval, metrics, cost, "
         "faults"},
        {"run: {every: 3}\n",
         "the keys of 'run' are name, dir, seed, steps, tokens, device, graphs, threads"},
        /* duplicates */
        {"run:\n  steps: 4\n  seed: 1\n  steps: 5\n",
         "t.yaml:4: 'run.steps' was given before, on line 2; keep one of them"},
        {"run: {steps: 1}\nmodel:\nrun: {seed: 2}\n",
         "t.yaml:3: section 'run' was given before, on line 1; join them"},
        {"model:\nmodel:\n", "t.yaml:2: section 'model' was given before, on line 1"},
    };
    refuse(cases, COUNT(cases));
}

/* What YAML can say beyond the two levels. */
static void test_structure(void) {
    static const yaml_case cases[] = {
        {"run: &a {steps: 4}\n", "t.yaml:1: anchors and aliases"},
        {"run:\n  steps: &n 4\n", "t.yaml:2: anchors and aliases"},
        {"run:\n  steps: 4\n  seed: *n\n", "t.yaml:3: anchors and aliases"},
        {"run: {steps: !!int 4}\n", "t.yaml:1: tags (!name) are not used here"},
        {"!run {steps: 4}\n", "t.yaml:1: tags (!name)"},
        {"run: {steps: 4}\n---\nrun: {steps: 5}\n",
         "t.yaml:2: a second document ('---') begins; one is expected"},
        {"run:\n  steps: [4, 5]\n", "t.yaml:2: run.steps is a list; one value is expected"},
        {"run:\n  steps:\n    deep: 1\n",
         "t.yaml:3: run.steps is a mapping; one value is expected"},
        {"run: [steps]\n", "t.yaml:1: section 'run' must hold lines of the form 'key: value'"},
        {"run: 3\n", "t.yaml:1: section 'run' must hold lines"},
        {"run: {[a]: 3}\n", "t.yaml:1: a key of section 'run' is expected"},
        {"? {a: b}\n: 3\n", "t.yaml:1: a section's name is expected"},
        {"- run\n", "t.yaml:1: sections are expected, such as 'model:'"},
        {"run.steps=3\n", "t.yaml:1: sections are expected"},
        {"run: {steps: 4\n", "t.yaml:2: not valid YAML: "},
        {"run:\n  steps: 4\n bad\n", "t.yaml:3: not valid YAML: "},
        {"run:\n\tsteps: 4\n", "any token; indent lines by spaces, not by tabs"},
        {"run:\n  name: \"a\xff\"\n", "t.yaml:2: not valid YAML: invalid leading UTF-8 octet"},
        {"run: {name: \"a\\0b\"}\n", "t.yaml:1: a NUL character is not expected"},
    };
    refuse(cases, COUNT(cases));
}

static void test_values(void) {
    static const yaml_case cases[] = {
        {"run:\n  steps: many\n", "t.yaml:2: run.steps is 'many'; expected an integer, at least 0"},
        {"run: {steps: 4.5}\n", "run.steps is '4.5'; expected an integer"},
        {"run: {steps: }\n", "run.steps is ''; expected an integer"},
        {"run: {steps: -1}\n", "run.steps is '-1'; expected an integer, at least 0"},
        {"run: {steps: 1e13}\n", "run.steps is '1e13'; expected an integer"},
        {"run: {steps: 99999999999999999999}\n", "run.steps is '99999999999999999999'"},
        {"run: {steps: 0x10}\n", "run.steps is '0x10'; expected an integer"},
        {"run: {steps: 4_}\n", "run.steps is '4_'; expected an integer"},
        {"run: {tokens: 10Q}\n",
         "run.tokens is '10Q'; expected an integer, at least 0, such as 500, 20k or 10B"},
        {"run: {seed: 1k}\n", "run.seed is '1k'; expected an integer, at least 0"},
        {"data: {sequence: 4K}\n", "data.sequence is '4K'; expected an integer, 0 to"},
        {"checkpoint: {level: 20}\n", "checkpoint.level is '20'; expected an integer, 0 to 19"},
        {"optim: {lr: fast}\n", "t.yaml:1: optim.lr is 'fast'; expected a number, 0 to 1000"},
        {"optim: {lr: nan}\n", "optim.lr is 'nan'; expected a number"},
        {"optim: {clip_norm: 1e999}\n",
         "optim.clip_norm is '1e999'; expected a number, at least 0"},
        {"optim: {beta1: 1}\n", "optim.beta1 is '1'; expected a number, 0 to 0.999999"},
        {"data: {verify: yes}\n", "data.verify is 'yes'; expected true or false"},
        {"schedule: {kind: cosin}\n",
         "schedule.kind is 'cosin'; expected constant, linear, cosine, wsd or inverse_sqrt; did "
         "you mean 'cosine'?"},
        {"numerics: {compute: int8}\n",
         "numerics.compute is 'int8'; expected auto, fp32, bf16 or fp8"},
        {"numerics: {compute: fp16}\n",
         "bf16 or fp8; did you mean 'bf16'?"}, /* not the near fp32 */
        {"numerics: {compute: float32}\n", "bf16 or fp8; did you mean 'fp32'?"},
        {"run: {device: gpu}\n", "did you mean 'cuda'?"}, /* not the near cpu */
        {"numerics: {compute: bf61}\n", "bf16 or fp8; did you mean 'bf16'?"},
        {"run: {name: \"a\\nb\"}\n",
         "run.name must be UTF-8 text without line breaks and control characters"},
        {"run: {name: \"a\\u2028b\"}\n", "run.name must be UTF-8 text without line breaks"},
        {"optim: {name: sixteencharacter}\n",
         "optim.name has 16 characters; at most 15 are expected"},
        {"model:\n  preset: gpt2-124\n",
         "t.yaml:2: unknown model.preset 'gpt2-124'; did you mean 'gpt2-124m'?"},
        {"model: {preset: mamba}\n", "the presets are gpt2-124m, gpt2-350m"},
    };
    refuse(cases, COUNT(cases));
}

/* Fields that do not go together. */
static void test_cross_checks(void) {
    static const struct {
        const char *overrides[4], *message;
    } cases[] = {
        {{"run.tokens=10", "run.steps=2"}, "run.steps is 2 and run.tokens is 10; keep one"},
        {{"run.name="}, "run.name is ''; the name of a directory"},
        {{"run.name=a/b"}, "run.name is 'a/b'"},
        {{"run.name=.."}, "run.name is '..'"},
        {{"run.dir="}, "run.dir is empty"},
        {{"model.preset="}, "model.layers is not given; set model.layers, model.channels and"},
        {{"model.heads=0"}, "model.heads is not given"},
        {{"model.heads=3"}, "model.channels is 32, which 3 heads do not divide"},
        {{"model.channels=131074", "model.heads=2"}, "model.head_dim comes to 65537"},
        {{"model.kv_heads=4"}, "model.heads is 2, which model.kv_heads 4 does not divide"},
        {{"model.family=llama3"}, "model.ffn is not given; family llama3 has no rule for it"},
        {{"model.preset=llama3-tiny", "model.head_dim=7"}, "model.head_dim is 7; rotary positions"},
        {{"model.preset=llama3-8b", "model.rope_low_freq_factor=4"},
         "model.rope_low_freq_factor is 4 and model.rope_high_freq_factor is 4; the first must"},
        {{"data.sequence=65"}, "data.sequence is 65; the model has 64 positions"},
        {{"data.document_mask=true", "numerics.attention=cudnn"},
         "numerics.attention is cudnn and data.document_mask true; documents are masked by"},
        {{"model.window_pattern=2"}, "model.window_pattern is 2 and model.window 0; say how many"},
        {{"model.window=63", "numerics.attention=cudnn"},
         "numerics.attention is cudnn and model.window 63, of samples of 64; windows are"},
        {{"parallel.interleave=2"}, "parallel.interleave is 2, but parallel.pipeline is 1"},
        {{"parallel.pipeline=2", "parallel.interleave=2", "model.layers=3"},
         "parallel.pipeline 2 x parallel.interleave 2 makes 4 stages, and the model has 3 layers; "
         "each stage needs one: lower their product to 3 or less"},
        {{"parallel.shard=4"}, "parallel.shard is 4, but parallel.zero 0 divides nothing"},
        {{"parallel.zero=2", "parallel.shard=1"}, "parallel.zero is 2, but parallel.shard is 1"},
        {{"parallel.zero=4"}, "parallel.zero is '4'; expected an integer, 0 to 3"},
        {{"parallel.sequence_parallel=true"}, "but parallel.tensor is 1; raise it"},
        {{"parallel.context=3"},
         "data.sequence is 64; with parallel.context 3 a multiple of 6 is expected (each rank "
         "takes an early and a late part), such as 60"},
        {{"recompute.mode=some"}, "recompute.mode is 'some'; expected none, selective or full"},
        {{"batch.sequences=0"}, "neither batch.sequences nor batch.tokens is given"},
        {{"batch.sequences=0", "batch.tokens=100"},
         "batch.tokens is 100; a multiple of data.sequence (64) is expected, such as 128"},
        {{"batch.sequences=3", "batch.tokens=128"},
         "batch.tokens is 128, but batch.sequences 3 of 64 tokens are 192; give "
         "batch.sequences=2 or batch.tokens=192: on the command line"},
        {{"batch.micro=3"},
         "batch.sequences is 4; a multiple of batch.micro (3) is expected, such "
         "as 6"},
        {{"schedule.kind=wsd", "schedule.decay_steps=2"},
         "schedule.decay_steps is 2; the schedule has 1 steps"},
        {{"run.steps"}, "override 'run.steps': section.key=value is expected"},
        {{"steps=3"}, "override 'steps=3': section.key=value is expected, perhaps run.steps=..."},
        {{"n_layer=3"}, "section.key=value is expected, perhaps model.layers=..."},
        {{"every=3"}, "section.key=value is expected, such as optim.lr=..."},
        {{"model.hidden-size=3"},
         "unknown key 'model.hidden-size'; did you mean 'model.channels'?"},
        {{"optim.warmup_iters=3"}, "did you mean 'schedule.warmup_steps'?"},
        {{"model.famil=3"}, "did you mean 'model.family'?"},
        {{"name=a.b"}, "override 'name=a.b': section.key=value is expected"},
        {{".=3"}, "unknown section ''"},
        {{"run.=3"}, "unknown key 'run.'; the keys of 'run' are"},
        {{""}, "override '': section.key=value is expected"},
        {{"run.stepss=3"}, "unknown key 'run.stepss'; did you mean 'run.steps'?"},
        {{"run.steps.x=3"}, "unknown key 'run.steps.x'; did you mean 'run.steps'?"},
        {{"run.steps=x"}, "override 'run.steps=x': run.steps is 'x'; expected an integer"},
        {{"run.name=\xc3"}, "run.name must be UTF-8"},
        {{"run.name=\xed\xa0\x80"}, "run.name must be UTF-8"},     /* half of a surrogate pair */
        {{"run.name=\xc0\xaf"}, "run.name must be UTF-8"},         /* an overlong '/' */
        {{"run.name=\xf4\x90\x80\x80"}, "run.name must be UTF-8"}, /* above U+10FFFF */
        {{"run.name=\xc2\x85"}, "run.name must be UTF-8"},         /* next line */
        {{"run.name=\x7f"}, "run.name must be UTF-8"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        ls_config c;
        int count = 0;
        while (count < 4 && cases[i].overrides[count]) {
            count++;
        }
        CHECK_STATUS(
            ls_config_load_text(&c, "t.yaml", BASE, strlen(BASE), cases[i].overrides, count),
            LS_E_CONFIG);
        CHECK_MESSAGE(cases[i].message);
    }
    ls_config c; /* and without them the same text is right */
    CHECK_OK(ls_config_load_text(&c, "t.yaml", BASE, strlen(BASE), NULL, 0));
}

static void test_long_names(void) {
    ls_config c;
    char text[5000];
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = '\0';
    const char *const override = text;
    memcpy(text, "run.", 4);
    text[4000] = '=';
    CHECK_STATUS(ls_config_load(&c, NULL, &override, 1), LS_E_CONFIG);
    CHECK_MESSAGE("unknown key 'run.aaa");
    memcpy(text, "run.name=", 9);
    CHECK_STATUS(ls_config_load(&c, NULL, &override, 1), LS_E_CONFIG);
    CHECK_MESSAGE("run.name has 4990 characters; at most 63 are expected");
}

int main(void) {
    test_names();
    test_structure();
    test_values();
    test_cross_checks();
    test_long_names();
    return test_end();
}
