/* Converted models, element by element against the layouts written out here once more; and back. */
#include "checkpoint/convert.h"
#include "checkpoint/rewrite.h"
#include "checkpoint/values.h"
#include "runtime/model/model.h"
#include "tests/checkpoint/ckpt_cases.h"
#include "tests/checkpoint/tool/convert_models.h"

#include <fcntl.h>
#include <sys/stat.h>

static ls_comm *comm;
static char *root;

/* A model of awkward sizes with values that tell where they are from. */
typedef struct fixture {
    ls_config_model model;
    ls_param *params;
    int count;
    ls_ckpt *ckpt;
} fixture;

static int param_index(const fixture *f, const char *name) {
    for (int i = 0; i < f->count; i++) {
        if (strcmp(f->params[i].name, name) == 0) {
            return i;
        }
    }
    CHECK(!"a parameter of that name");
    return 0;
}

static float value(int param, int64_t row, int64_t col) {
    return (float)param + (float)row / 128.0f + (float)col / 16384.0f;
}

/* The row, counted on over experts, of element k of a box. */
static int64_t row_of(const ls_ckpt_tensor *t, int64_t k) {
    const ls_box *b = &t->box;
    const int64_t row = t->ndim > 1 ? k / b->extent[t->ndim - 1] : k;
    return t->ndim > 2 ? row / b->extent[1] * t->dims[1] + b->start[1] + row % b->extent[1]
                       : b->start[0] + row;
}

/* As by two tensor ranks that split columns, or by rows when there are none; of experts the longer
 * side. */
static fixture fixture_make(const ls_config_model *model, int64_t step) {
    fixture f = {.model = *model};
    int64_t flat;
    CHECK_OK(ls_model_table(&f.model, &f.params, &f.count, &flat));
    ls_ckpt_tensor *tensors = calloc(2 * (size_t)f.count, sizeof *tensors);
    for (int i = 0; i < 2 * f.count; i++) {
        const ls_param *p = &f.params[i / 2];
        ls_ckpt_tensor *t = &tensors[i];
        *t = (ls_ckpt_tensor){.name = p->name, .dtype = LS_F32, .ndim = p->ndim};
        memcpy(t->dims, p->dims, sizeof t->dims);
        t->dims[0] = p->valid_rows;
        t->box = ls_box_whole(t->ndim, t->dims);
        int axis = t->ndim > 2 && t->dims[1] > t->dims[2] ? 1 : t->ndim - 1;
        int64_t half = t->dims[axis] / 3;
        t->box.start[axis] = i % 2 ? half : 0;
        t->box.extent[axis] = i % 2 ? t->dims[axis] - half : half;
        float *data = malloc((size_t)ls_box_elems(&t->box) * sizeof *data);
        const int last = t->ndim - 1;
        int64_t cols = last > 0 ? t->box.extent[last] : 1, at = last > 0 ? t->box.start[last] : 0;
        for (int64_t k = 0; k < ls_box_elems(&t->box); k++) {
            data[k] = value(i / 2, row_of(t, k), at + k % cols);
        }
        t->data = data;
    }
    ls_ckpt_save_result result = {0};
    CHECK_OK(case_save(comm, root, step, 1, 1, tensors, 2 * f.count, &result));
    cases_free(tensors, 2 * f.count);
    free(tensors);
    CHECK_OK(ls_ckpt_open(result.path, &f.ckpt));
    return f;
}

static void fixture_release(fixture *f) {
    ls_ckpt_close(f->ckpt);
    free(f->params);
}

/* Rows from first_row on of our parameter, or its transpose, are the whole tensor `theirs`. */
static void check_tensor(const fixture *f, const ls_safetensors *st, const char *theirs,
                         const char *ours, int64_t first_row, bool transposed, int ndim, int64_t d0,
                         int64_t d1) {
    const ls_st_tensor *t = ls_safetensors_find(st, theirs);
    int param = param_index(f, ours), wrong = 0;
    CHECK(t && t->ndim == ndim && t->dims[0] == d0 && (ndim < 2 || t->dims[1] == d1));
    if (!t) {
        fprintf(stderr, "no tensor %s\n", theirs);
        return;
    }
    char *data = malloc((size_t)t->bytes);
    CHECK_OK(ls_safetensors_read(st, t, 0, d0 * d1, data));
    for (int64_t i = 0; i < d0 * d1; i++) {
        int64_t row = first_row + (transposed ? i % d1 : i / d1);
        float expected = value(param, row, transposed ? i / d1 : i % d1);
        if (t->dtype == LS_BF16) {
            wrong += ((uint16_t *)data)[i] != ls_bf16_from_f32(expected);
        } else {
            wrong += ((float *)data)[i] != expected;
        }
    }
    CHECK_INT(wrong, 0);
    free(data);
}

static void check_gpt2(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 2 + 2 * 12 + 2); /* no lm_head: tied */
    check_tensor(f, st, "transformer.wte.weight", "tok_embed.weight", 0, false, 2, 61, 12);
    check_tensor(f, st, "transformer.wpe.weight", "pos_embed.weight", 0, false, 2, 10, 12);
    check_tensor(f, st, "transformer.h.1.attn.c_attn.weight", "layers.1.attn.qkv.weight", 0, true,
                 2, 12, 36);
    check_tensor(f, st, "transformer.h.0.attn.c_attn.bias", "layers.0.attn.qkv.bias", 0, false, 1,
                 36, 1);
    check_tensor(f, st, "transformer.h.0.attn.c_proj.weight", "layers.0.attn.proj.weight", 0, true,
                 2, 12, 12);
    check_tensor(f, st, "transformer.h.1.mlp.c_fc.weight", "layers.1.mlp.up.weight", 0, true, 2, 12,
                 48);
    check_tensor(f, st, "transformer.h.1.mlp.c_proj.weight", "layers.1.mlp.down.weight", 0, true, 2,
                 48, 12);
    check_tensor(f, st, "transformer.h.1.ln_2.bias", "layers.1.mlp_norm.bias", 0, false, 1, 12, 1);
    check_tensor(f, st, "transformer.ln_f.weight", "final_norm.weight", 0, false, 1, 12, 1);
}

static void check_llama(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 1 + 2 * 9 + 2);
    check_tensor(f, st, "model.embed_tokens.weight", "tok_embed.weight", 0, false, 2, 37, 8);
    check_tensor(f, st, "model.layers.1.self_attn.q_proj.weight", "layers.1.attn.qkv.weight", 0,
                 false, 2, 24, 8);
    check_tensor(f, st, "model.layers.1.self_attn.k_proj.weight", "layers.1.attn.qkv.weight", 24,
                 false, 2, 12, 8);
    check_tensor(f, st, "model.layers.0.self_attn.v_proj.weight", "layers.0.attn.qkv.weight", 36,
                 false, 2, 12, 8);
    check_tensor(f, st, "model.layers.0.self_attn.o_proj.weight", "layers.0.attn.proj.weight", 0,
                 false, 2, 8, 24);
    check_tensor(f, st, "model.layers.0.mlp.gate_proj.weight", "layers.0.mlp.up.weight", 0, false,
                 2, 11, 8);
    check_tensor(f, st, "model.layers.0.mlp.up_proj.weight", "layers.0.mlp.up.weight", 11, false, 2,
                 11, 8);
    check_tensor(f, st, "model.layers.1.mlp.down_proj.weight", "layers.1.mlp.down.weight", 0, false,
                 2, 8, 11);
    check_tensor(f, st, "model.norm.weight", "final_norm.weight", 0, false, 1, 8, 1);
    check_tensor(f, st, "lm_head.weight", "head.weight", 0, false, 2, 37, 8);
}

static void check_mixtral(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 1 + 2 * (2 + 4 + 1 + 3 * 3) + 2);
    check_tensor(f, st, "model.layers.1.block_sparse_moe.gate.weight", "layers.1.moe.router.weight",
                 0, false, 2, 3, 8);
    for (int e = 0; e < 3; e++) {
        char name[3][80];
        for (int w = 1; w <= 3; w++) {
            snprintf(name[w - 1], sizeof name[0],
                     "model.layers.1.block_sparse_moe.experts.%d.w%d.weight", e, w);
        }
        check_tensor(f, st, name[0], "layers.1.moe.up.weight", 22 * e, false, 2, 11, 8);
        check_tensor(f, st, name[2], "layers.1.moe.up.weight", 22 * e + 11, false, 2, 11, 8);
        check_tensor(f, st, name[1], "layers.1.moe.down.weight", 8 * e, false, 2, 8, 11);
    }
    check_tensor(f, st, "model.layers.0.self_attn.v_proj.weight", "layers.0.attn.qkv.weight", 36,
                 false, 2, 12, 8);
    check_tensor(f, st, "lm_head.weight", "head.weight", 0, false, 2, 37, 8);
}

static json_t *config_of(const char *directory) {
    char path[512];
    snprintf(path, sizeof path, "%s/config.json", directory);
    json_t *config = json_load_file(path, 0, NULL);
    CHECK(config != NULL);
    return config;
}

/* Only what a family has. */
static void check_config(const fixture *f, const char *directory) {
    json_t *config = config_of(directory);
    ls_config_model m = {.rope_original_context = 1};
    CHECK_OK(ls_hf_config_parse(config, "config.json", &m));
    const ls_config_model *o = &f->model;
    CHECK(m.family == o->family && m.vocab == o->vocab && m.layers == o->layers);
    CHECK(m.channels == o->channels && m.heads == o->heads && m.ffn == o->ffn);
    CHECK(m.context == o->context && m.tied == o->tied && m.norm_eps == o->norm_eps);
    CHECK(m.experts == o->experts && m.experts_per_token == o->experts_per_token);
    CHECK(m.balance_loss == o->balance_loss);
    CHECK(m.qkv_bias == o->qkv_bias && m.qk_norm == o->qk_norm);
    CHECK(m.window == o->window && m.window_pattern == o->window_pattern);
    if (o->family == LS_FAMILY_LLAMA3) {
        CHECK(m.kv_heads == o->kv_heads && m.head_dim == o->head_dim);
        CHECK(m.rope_theta == o->rope_theta && m.rope_scaling == o->rope_scaling);
        CHECK(m.rope_factor == o->rope_factor && m.rope_low_freq_factor == o->rope_low_freq_factor);
        CHECK(m.rope_high_freq_factor == o->rope_high_freq_factor);
        CHECK_INT(m.rope_original_context, o->rope_original_context);
    }
    json_decref(config);
}

/* There and back, every byte, whatever the number of writers; nothing of what is to stop. */
static void check_back(const fixture *f, const char *directory, int writers) {
    volatile sig_atomic_t stop = 1;
    char target[300];
    ls_safetensors *st;
    ls_ckpt_save_result result;
    ls_ckpt *back = NULL;
    json_t *empty = json_object();
    snprintf(target, sizeof target, "%s/back-%d-%d", root, (int)ls_ckpt_step(f->ckpt), writers);
    ls_ckpt_save_options options = {.root = target, .level = 1, .config_text = "", .stop = &stop};
    options.run = options.counters = empty;
    CHECK_OK(ls_safetensors_open(directory, &st));
    CHECK_STATUS(ls_convert_from_hf(st, &f->model, f->params, f->count, writers, &options, &result),
                 LS_E_STOPPED);
    CHECK_STATUS(ls_ckpt_reshard(f->ckpt, &options, writers, &result), LS_E_STOPPED);
    CHECK(access(target, F_OK) != 0); /* nothing is left */
    stop = 0;
    CHECK_OK(ls_convert_from_hf(st, &f->model, f->params, f->count, writers, &options, &result));
    CHECK_OK(ls_ckpt_open(result.path, &back));
    CHECK_INT(ls_ckpt_describe(back).tensors, f->count);
    for (int i = 0; i < f->count; i++) {
        ls_ckpt_tensor t = ls_ckpt_entry_tensor(ls_ckpt_find(back, f->params[i].name));
        float *data = malloc((size_t)ls_box_elems(&t.box) * sizeof *data);
        t.data = data;
        CHECK_OK(ls_ckpt_load(back, &t, 1));
        int64_t cols = t.ndim > 1 ? t.dims[t.ndim - 1] : 1;
        int wrong = 0;
        for (int64_t k = 0; k < ls_box_elems(&t.box); k++) {
            wrong += data[k] != value(i, k / cols, k % cols);
        }
        CHECK_INT(wrong, 0);
        free(data);
    }
    ls_ckpt_close(back);
    ls_safetensors_close(st);
    json_decref(empty);
}

static ls_status to_hf(const fixture *f, const ls_config_model *model, const char *directory) {
    return ls_convert_to_hf(f->ckpt, model, f->params, f->count, LS_F32, 1 << 30, directory,
                            &(ls_convert_result){0});
}

static void converts(const ls_config_model *model, int64_t step,
                     void (*check)(const fixture *f, const ls_safetensors *st)) {
    fixture f = fixture_make(model, step);
    static const struct {
        ls_dtype dtype;
        int64_t shard_bytes;
        int least_files;
    } ways[] = {{LS_F32, 1 << 30, 1}, {LS_F32, 900, 5}, {LS_BF16, 1500, 3}};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char directory[300];
        ls_convert_result result;
        ls_safetensors *st;
        snprintf(directory, sizeof directory, "%s/hf-%d-%zu", root, (int)step, i);
        CHECK_OK(ls_convert_to_hf(f.ckpt, &f.model, f.params, f.count, ways[i].dtype,
                                  ways[i].shard_bytes, directory, &result));
        CHECK(result.files >= ways[i].least_files);
        CHECK_OK(ls_safetensors_open(directory, &st));
        check(&f, st);
        ls_safetensors_close(st);
        check_config(&f, directory);
        if (ways[i].dtype == LS_F32) {
            check_back(&f, directory, i == 0 ? 1 : 3);
        }
        CHECK_STATUS(to_hf(&f, &f.model, directory), LS_E_EXISTS);
    }
    fixture_release(&f);
}

static void check_qwen2(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 1 + 2 * 12 + 2);
    check_tensor(f, st, "model.layers.1.self_attn.q_proj.bias", "layers.1.attn.qkv.bias", 0, false,
                 1, 24, 1);
    check_tensor(f, st, "model.layers.0.self_attn.k_proj.bias", "layers.0.attn.qkv.bias", 24, false,
                 1, 12, 1);
    check_tensor(f, st, "model.layers.1.self_attn.v_proj.bias", "layers.1.attn.qkv.bias", 36, false,
                 1, 12, 1);
}

static void check_qwen3(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 1 + 2 * 11 + 2);
    check_tensor(f, st, "model.layers.1.self_attn.q_norm.weight", "layers.1.attn.q_norm.weight", 0,
                 false, 1, 6, 1);
    check_tensor(f, st, "model.layers.0.self_attn.k_norm.weight", "layers.0.attn.k_norm.weight", 0,
                 false, 1, 6, 1);
}

static void check_qwen3_moe(const fixture *f, const ls_safetensors *st) {
    int count;
    ls_safetensors_tensors(st, &count);
    CHECK_INT(count, 1 + 2 * (2 + 4 + 2 + 1 + 3 * 3) + 2);
    check_tensor(f, st, "model.layers.1.mlp.gate.weight", "layers.1.moe.router.weight", 0, false, 2,
                 3, 8);
    check_tensor(f, st, "model.layers.1.mlp.experts.2.gate_proj.weight", "layers.1.moe.up.weight",
                 44, false, 2, 11, 8);
    check_tensor(f, st, "model.layers.0.mlp.experts.1.up_proj.weight", "layers.0.moe.up.weight", 33,
                 false, 2, 11, 8);
    check_tensor(f, st, "model.layers.0.mlp.experts.1.down_proj.weight", "layers.0.moe.down.weight",
                 8, false, 2, 8, 11);
}

static void refuses_other_models(void) {
    fixture f = fixture_make(&llama, 3);
    char directory[300];
    ls_convert_result result;
    ls_config_model other = f.model;
    snprintf(directory, sizeof directory, "%s/other", root);
    other.family = LS_FAMILY_GPT2;
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("key/value heads");
    CHECK(!ls_path_exists(directory));
    other = mixtral_of(&gpt2);
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("3 experts of family gpt2");
    other = qwen3_of(&gpt2);
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("model.qk_norm of family gpt2");
    CHECK_STATUS(ls_convert_to_llmc(f.ckpt, &other, f.params, f.count, LS_F32, directory, &result),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("qk_norm or window");
    other = qwen2_of(&(ls_config_model){.family = LS_FAMILY_LLAMA3, .experts = 2});
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("model.qkv_bias with experts");
    other = qwen3_of(&other);
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("model.qkv_bias with model.qk_norm");
    other = gpt2;
    other.window = 5;
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("model.window 5 of family gpt2");
    other = windowed_of(&llama);
    other.window_pattern = 2;
    CHECK_STATUS(to_hf(&f, &other, directory), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("model.window_pattern 2 has no equal among Hugging Face's Mistral models");
    other = mixtral_of(&gpt2);
    CHECK_STATUS(ls_convert_to_llmc(f.ckpt, &other, f.params, f.count, LS_F32, directory, &result),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("no experts");
    CHECK_STATUS(
        ls_convert_to_llmc(f.ckpt, &f.model, f.params, f.count, LS_F32, directory, &result),
        LS_E_UNSUPPORTED);
    CHECK_MESSAGE("GPT-2");
    ls_param *params;
    int count;
    int64_t flat;
    other = f.model;
    other.ffn = 13; /* a configuration that the tensors do not have */
    CHECK_OK(ls_model_table(&other, &params, &count, &flat));
    CHECK_STATUS(
        ls_convert_to_hf(f.ckpt, &other, params, count, LS_F32, 1 << 30, directory, &result),
        LS_E_SHAPE);
    CHECK(!ls_path_exists(directory));
    free(params);
    fixture_release(&f);
}

/* Files of others: names without their first word, buffers that hold no weights, 16-bit types; a
 * tensor that is missing, misshapen or of no known use. */
static void imports_others_files(void) {
    ls_config_model m = gpt2;
    m.layers = 1;
    ls_param *params;
    int count, parts = 0;
    int64_t flat;
    CHECK_OK(ls_model_table(&m, &params, &count, &flat));
    for (int kind = 0; kind < 5; kind++) {
        static char names[64][128];
        ls_st_tensor tensors[64];
        parts = 0;
        for (int i = 0; i < count; i++) {
            ls_hf_part part;
            int n;
            CHECK_OK(ls_hf_part_count(&m, &params[i], &n));
            CHECK_INT(n, 1);
            CHECK_OK(ls_hf_part_at(&m, &params[i], 0, &part));
            snprintf(names[parts], sizeof names[0], "%.100s", part.name + strlen("transformer."));
            tensors[parts] = (ls_st_tensor){.name = names[parts], .dtype = LS_F16};
            tensors[parts].ndim = part.ndim;
            memcpy(tensors[parts++].dims, part.dims, sizeof part.dims);
        }
        tensors[parts++] = (ls_st_tensor){
            .name = "h.0.attn.bias", .dtype = LS_U8, .ndim = 4, .dims = {1, 1, 10, 10}};
        const char *message = NULL;
        if (kind == 1) {
            tensors[parts++] =
                (ls_st_tensor){.name = "adapter", .dtype = LS_F32, .ndim = 1, .dims = {2}};
            message = "'adapter'";
        } else if (kind == 2) {
            tensors[0].dims[0]++;
            message = "config.json calls for 2, 61 x 12";
        } else if (kind == 3) {
            tensors[0].name = "wte.other";
            message = "transformer.wte.weight";
        } else if (kind == 4) {
            tensors[0].dtype = LS_I32;
            message = "I32";
        }
        char directory[300], target[300];
        snprintf(directory, sizeof directory, "%s/others-%d", root, kind);
        snprintf(target, sizeof target, "%s/from-others-%d", root, kind);
        CHECK_OK(ls_dir_create(directory));
        ls_st_writer *writer;
        ls_safetensors *st;
        int files, fd;
        int64_t bytes, offset;
        const char *path;
        CHECK_OK(ls_st_writer_open(directory, tensors, parts, 1 << 30, &writer));
        const uint16_t half = 0xc100; /* -2.5 */
        ls_st_writer_place(writer, 0, &fd, &path, &offset);
        CHECK(pwrite(fd, &half, 2, (off_t)(offset + 2 * 13)) == 2); /* wte[1][1] */
        CHECK_OK(ls_st_writer_complete(writer, &files, &bytes));
        ls_st_writer_close(writer);
        CHECK_OK(ls_safetensors_open(directory, &st));
        json_t *empty = json_object();
        ls_ckpt_save_options options = {
            .root = target, .threads = 1, .config_text = "", .run = empty, .counters = empty};
        ls_ckpt_save_result result;
        ls_status status = ls_convert_from_hf(st, &m, params, count, 1, &options, &result);
        CHECK((status == LS_OK) == !message);
        if (message) {
            CHECK_MESSAGE(message);
            CHECK(!ls_path_exists(target));
        } else {
            ls_ckpt *ckpt = NULL;
            float found[2];
            CHECK_OK(ls_ckpt_open(result.path, &ckpt));
            ls_ckpt_tensor t = ls_ckpt_entry_tensor(ls_ckpt_find(ckpt, "tok_embed.weight"));
            t.box = (ls_box){.ndim = 2, .start = {1, 1}, .extent = {1, 2}};
            t.data = found;
            CHECK_OK(ls_ckpt_load(ckpt, &t, 1));
            CHECK(found[0] == -2.5f && found[1] == 0.0f);
            ls_ckpt_close(ckpt);
        }
        json_decref(empty);
        ls_safetensors_close(st);
    }
    free(params);
}

static void stops(const fixture *f) {
    char to[300], temporary[340];
    volatile sig_atomic_t stop = 1;
    ls_convert_result r;
    snprintf(to, sizeof to, "%s/stopped", root);
    snprintf(temporary, sizeof temporary, "%s.tmp-%ld", to, (long)getpid());
    ls_ckpt_stop_when(f->ckpt, &stop);
    CHECK_STATUS(to_hf(f, &f->model, to), LS_E_STOPPED);
    CHECK_STATUS(ls_convert_to_llmc(f->ckpt, &f->model, f->params, f->count, LS_F32, to, &r),
                 LS_E_STOPPED);
    CHECK(!ls_path_exists(to) && !ls_path_exists(temporary));
}

/* llm.c's file at offsets counted here by hand. */
static void writes_llmc(void) {
    fixture f = fixture_make(&gpt2, 4);
    enum { C = 12, V = 128, L = 2, T = 10 };
    for (int bf16 = 0; bf16 < 2; bf16++) {
        char file[300];
        size_t bytes, elem = bf16 ? 2 : 4;
        char *data;
        ls_convert_result result;
        snprintf(file, sizeof file, "%s/model-%d.bin", root, bf16);
        CHECK_OK(ls_convert_to_llmc(f.ckpt, &f.model, f.params, f.count, bf16 ? LS_BF16 : LS_F32,
                                    file, &result));
        CHECK_OK(ls_file_read(file, 1 << 20, &data, &bytes));
        int32_t header[8];
        memcpy(header, data, sizeof header);
        const int32_t expected[8] = {20240326, bf16 ? 5 : 3, T, 61, L, 3, C, V};
        CHECK(memcmp(header, expected, sizeof header) == 0);
        const size_t qkv_w = (size_t)(V * C + T * C + 2 * L * C),
                     fc_w = qkv_w +
                            (size_t)(L * 3 * C * C + L * 3 * C + L * C * C + L * C + 2 * L * C);
        const size_t total =
            fc_w + (size_t)(L * 4 * C * C + L * 4 * C + L * C * 4 * C + L * C + 2 * C);
        CHECK_INT(bytes, 1024 + elem * total);
        CHECK_INT(result.bytes, bytes);
        const struct {
            size_t at;
            float expected;
        } places[] = {
            {5 * C + 7, value(param_index(&f, "tok_embed.weight"), 5, 7)},
            {61 * C, 0.0f}, /* padding of the vocabulary */
            {V * C - 1, 0.0f},
            {V * C + 9 * C + 1, value(param_index(&f, "pos_embed.weight"), 9, 1)},
            {qkv_w + 3 * C * C + 35 * C + 11,
             value(param_index(&f, "layers.1.attn.qkv.weight"), 35, 11)},
            {fc_w + 2 * C + 3, value(param_index(&f, "layers.0.mlp.up.weight"), 2, 3)},
            {total - 1, value(param_index(&f, "final_norm.bias"), 11, 0)},
        };
        for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
            const char *p = data + 1024 + elem * places[i].at;
            double found = ls_value_f64(p, bf16 ? LS_BF16 : LS_F32);
            float e = places[i].expected;
            CHECK(found == (double)(bf16 ? ls_bf16_to_f32(ls_bf16_from_f32(e)) : e));
        }
        free(data);
        CHECK_STATUS(ls_convert_to_llmc(f.ckpt, &f.model, f.params, f.count, LS_F32, file, &result),
                     LS_E_EXISTS);
    }
    stops(&f);
    fixture_release(&f);
}

int main(void) {
    root = case_directory();
    CHECK_OK(ls_comm_self(&comm));
    converts(&gpt2, 1, check_gpt2);
    converts(&llama, 2, check_llama);
    const ls_config_model mistral = windowed_of(&llama), mixtral = mixtral_of(&mistral);
    converts(&mistral, 8, check_llama);
    converts(&mixtral, 4, check_mixtral);
    const ls_config_model qwen2 = qwen2_of(&llama), qwen3_moe = qwen3_of(&mixtral);
    ls_config_model qwen3 = qwen3_of(&mistral);
    qwen3.window_pattern = 2;
    converts(&qwen2, 5, check_qwen2);
    converts(&qwen3, 6, check_qwen3);
    converts(&qwen3_moe, 7, check_qwen3_moe);
    refuses_other_models();
    imports_others_files();
    writes_llmc();
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
