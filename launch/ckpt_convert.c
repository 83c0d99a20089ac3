/* `ckpt convert` and `ckpt reshard`. */
#include "checkpoint/convert.h"
#include "checkpoint/format.h"
#include "checkpoint/rewrite.h"
#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "launch/tokenizer_files.h"
#include "runtime/base/cpu.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/model/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES ((size_t)16 << 20) /* of a config.json, at most */

/* What the user is told where it is a signal that ended the work. */
static ls_status told(ls_status status, const char **values) {
    return status == LS_E_STOPPED
               ? LS_FAIL(status, "stopped by a signal; nothing was written to '%s'",
                         values[LS_CKPT_OUTPUT])
               : status;
}

static ls_status output_needed(const char **values) {
    return values[LS_CKPT_OUTPUT]
               ? LS_OK
               : LS_FAIL(LS_E_USAGE, "--output is needed: where the result is to be");
}

/* A checkpoint is written into a folder, not into another one. */
static ls_status output_above(const char *root) {
    char manifest[4096];
    LS_TRY(ls_path_join(manifest, sizeof manifest, root, LS_CKPT_MANIFEST));
    return ls_path_exists(manifest)
               ? LS_FAIL(LS_E_USAGE,
                         "--output '%s' is a checkpoint; name the folder that is to hold the new "
                         "one, ROOT of ROOT/step-00001200",
                         root)
               : LS_OK;
}

/* Options of a checkpoint that is written: root, level, threads, and *ranks. */
static ls_status write_options(const char **values, ls_ckpt_save_options *options,
                               long long *ranks) {
    long long level;
    LS_TRY(output_needed(values));
    LS_TRY(output_above(values[LS_CKPT_OUTPUT]));
    LS_TRY(ls_option_int("ranks", ls_ckpt_value(values, LS_CKPT_RANKS), 1, 100000, ranks));
    LS_TRY(ls_option_int("level", ls_ckpt_value(values, LS_CKPT_LEVEL), 0, 19, &level));
    *options = (ls_ckpt_save_options){.root = values[LS_CKPT_OUTPUT],
                                      .level = (int)level,
                                      .threads = ls_cpu_usable(),
                                      .stop = ls_signals_stop()};
    return LS_OK;
}

static ls_status written_print(const char *schema, const ls_ckpt_save_result *result,
                               long long ranks, bool json) {
    char raw[32], stored[32], *safe;
    if (json) {
        return ls_ckpt_print_json(
            json_pack("{s:s,s:o,s:I,s:I,s:I}", "schema", schema, "path", ls_json_text(result->path),
                      "writers", (json_int_t)ranks, "raw_bytes", (json_int_t)result->raw_bytes,
                      "stored_bytes", (json_int_t)result->stored_bytes));
    }
    printf("%s  %s in %s, %lld writer%s\n", ls_ckpt_safe(result->path, &safe),
           ls_text_bytes(raw, sizeof raw, (double)result->raw_bytes),
           ls_text_bytes(stored, sizeof stored, (double)result->stored_bytes), ranks,
           ranks == 1 ? "" : "s");
    free(safe);
    return LS_OK;
}

/* The tokenizer above the checkpoint goes along. */
static ls_status carry(const ls_ckpt *ckpt, const char *to) {
    char above[4096];
    LS_TRY(ls_path_join(above, sizeof above, ls_ckpt_path(ckpt), ".."));
    return ls_tokenizer_carry(above, to);
}

/* Names token `id` of the tokenizer, where it has a text; False when out of memory. */
static bool name_token(json_t *config, const char *key, const ls_tokenizer *tokenizer,
                       const json_t *id) {
    size_t bytes = 0;
    const char *text = json_is_integer(id) && json_integer_value(id) >= 0 &&
                               json_integer_value(id) < ls_tokenizer_vocab(tokenizer)
                           ? ls_tokenizer_bytes(tokenizer, (uint32_t)json_integer_value(id), &bytes)
                           : NULL;
    json_t *value = text ? json_stringn(text, bytes) : NULL; /* NULL: not UTF-8, too */
    return !value || json_object_set_new(config, key, value) == 0;
}

/* tokenizer_config.json beside the tokenizer in the folder of a model: without it the tokenizer of
 * transformers knows no token that begins or ends texts, which programs on top of it ask for. */
static ls_status tell_tokenizer(const ls_ckpt *ckpt, const char *to) {
    char path[4096];
    ls_tokenizer *tokenizer;
    LS_TRY(ls_path_join(path, sizeof path, to, LS_TOKENIZER_FILE));
    if (!ls_path_exists(path)) {
        return LS_OK;
    }
    LS_TRY(ls_tokenizer_read(path, &tokenizer));
    const json_t *run = ls_ckpt_run(ckpt), *ends = json_object_get(run, "ends");
    const json_t *separator = json_object_get(run, "separator");
    const json_t *begin = json_object_get(run, "begin");
    const size_t count = json_array_size(ends); /* the last ends a turn */
    json_t *config = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                               "clean_up_tokenization_spaces", 0);
    const bool made = config &&
                      name_token(config, "bos_token", tokenizer, begin ? begin : separator) &&
                      name_token(config, "eos_token", tokenizer,
                                 count > 0 ? json_array_get(ends, count - 1) : separator);
    char *text = made ? json_dumps(config, JSON_INDENT(2)) : NULL;
    ls_tokenizer_release(tokenizer);
    json_decref(config);
    ls_status status = text ? ls_path_join(path, sizeof path, to, "tokenizer_config.json")
                            : LS_FAIL(LS_E_MEMORY, "no memory for tokenizer_config.json");
    status = status == LS_OK ? ls_file_replace(path, text, strlen(text)) : status;
    free(text);
    return status;
}

ls_status ls_ckpt_run_reshard(int argc, char **argv, const char **values) {
    (void)argc;
    ls_ckpt_save_options options;
    ls_ckpt_save_result result;
    long long ranks, parity;
    ls_ckpt *ckpt;
    LS_TRY(write_options(values, &options, &ranks));
    LS_TRY(ls_option_int("parity", ls_ckpt_value(values, LS_CKPT_PARITY), 0, 8, &parity));
    options.parity = (int)parity;
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    ls_status status = ls_ckpt_reshard(ckpt, &options, (int)ranks, &result);
    status = status == LS_OK ? carry(ckpt, options.root) : status;
    ls_ckpt_close(ckpt);
    LS_TRY(told(status, values));
    return written_print("lockstep.ckpt.reshard/1", &result, ranks, values[LS_CKPT_JSON] != NULL);
}

static ls_status dtype_parse(const char *text, ls_dtype *dtype) {
    if (strcmp(text, "fp32") != 0 && strcmp(text, "bf16") != 0) {
        return LS_FAIL(LS_E_USAGE, "--dtype is '%s'; bf16 or fp32 is needed", text);
    }
    *dtype = strcmp(text, "fp32") == 0 ? LS_F32 : LS_BF16;
    return LS_OK;
}

static ls_status export(ls_ckpt *ckpt, const char **values, ls_convert_result *result) {
    ls_dtype dtype;
    double shard_mib;
    ls_config config;
    ls_param *params = NULL;
    int count;
    int64_t flat_elems;
    const char *format = values[LS_CKPT_TO];
    LS_TRY(dtype_parse(ls_ckpt_value(values, LS_CKPT_DTYPE), &dtype));
    LS_TRY(ls_option_float("shard-size", ls_ckpt_value(values, LS_CKPT_SHARD_SIZE), 0.001, 1e9,
                           &shard_mib));
    LS_TRY(ls_ckpt_settings(ckpt, &config));
    LS_TRY(ls_model_table(&config.model, &params, &count, &flat_elems));
    ls_status status =
        strcmp(format, "llmc") == 0
            ? ls_convert_to_llmc(ckpt, &config.model, params, count, dtype, values[LS_CKPT_OUTPUT],
                                 result)
            : ls_convert_to_hf(ckpt, &config.model, params, count, dtype,
                               (int64_t)(shard_mib * 1048576.0), values[LS_CKPT_OUTPUT], result);
    free(params);
    return status;
}

static ls_status run_export(int argc, char **argv, const char **values) {
    ls_convert_result result = {0};
    ls_ckpt *ckpt;
    char bytes[32], *safe;
    const char *format = values[LS_CKPT_TO];
    bool llmc = strcmp(format, "llmc") == 0;
    if (!llmc && strcmp(format, "safetensors") != 0) {
        return LS_FAIL(LS_E_USAGE, "--to is '%s'; safetensors or llmc is needed", format);
    }
    if (argc > 1) {
        return LS_FAIL(LS_E_USAGE, "'%s': section.key=value goes with --from only", argv[1]);
    }
    const int foreign[] = {LS_CKPT_TOKENIZER, LS_CKPT_RANKS, LS_CKPT_LEVEL};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (values[foreign[i]]) {
            return LS_FAIL(LS_E_USAGE, "--tokenizer, --ranks and --level go with --from only");
        }
    }
    if (llmc && values[LS_CKPT_SHARD_SIZE]) {
        return LS_FAIL(LS_E_USAGE, "--shard-size goes with --to safetensors; llmc is one file");
    }
    LS_TRY(output_needed(values));
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    ls_ckpt_stop_when(ckpt, ls_signals_stop());
    ls_status status = export(ckpt, values, &result);
    status = status == LS_OK && !llmc ? carry(ckpt, values[LS_CKPT_OUTPUT]) : status;
    status = status == LS_OK && !llmc ? tell_tokenizer(ckpt, values[LS_CKPT_OUTPUT]) : status;
    long long step = ls_ckpt_step(ckpt);
    ls_ckpt_close(ckpt);
    LS_TRY(status);
    if (values[LS_CKPT_JSON]) {
        return ls_ckpt_print_json(
            json_pack("{s:s,s:s,s:o,s:I,s:i,s:I}", "schema", "lockstep.ckpt.convert/1", "format",
                      format, "path", ls_json_text(values[LS_CKPT_OUTPUT]), "step",
                      (json_int_t)step, "files", result.files, "bytes", (json_int_t)result.bytes));
    }
    printf("%s  %d file%s, %s\n", ls_ckpt_safe(values[LS_CKPT_OUTPUT], &safe), result.files,
           result.files == 1 ? "" : "s", ls_text_bytes(bytes, sizeof bytes, (double)result.bytes));
    free(safe);
    return LS_OK;
}

/* The model's directory, or that of its one file. */
static ls_status hf_directory(const char *source, char directory[4096]) {
    if (snprintf(directory, 4096, "%s", source) >= 4096) {
        return LS_FAIL(LS_E_INPUT, "'%.60s...' is too long for a path", source);
    }
    if (!ls_path_is_dir(source)) {
        char *slash = strrchr(directory, '/');
        snprintf(slash ? slash + (slash == directory) : directory, 2, "%s", slash ? "" : ".");
    }
    return LS_OK;
}

static ls_status hf_config_load(const char *source, const char *directory, char *path, size_t size,
                                json_t **config) {
    char *text;
    size_t bytes;
    json_error_t error;
    LS_TRY(ls_path_join(path, size, directory, "config.json"));
    const char *first = ls_path_exists(source) ? path : source;
    if (!ls_path_exists(first) && (errno == ENOENT || errno == ENOTDIR)) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' does not exist; the folder of a model is needed, with config.json and "
                       "*.safetensors",
                       first);
    }
    LS_TRY(ls_file_read(path, CONFIG_BYTES, &text, &bytes));
    *config = json_loadb(text, bytes, 0, &error);
    free(text);
    return json_is_object(*config)
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "%s: line %d: %s; a JSON object is expected", path, error.line,
                         error.text);
}

/* A configuration that every verb accepts: the model's sizes, defaults, and what the user sets. */
static ls_status config_make(const json_t *hf, const char *where, char **sets, int set_count,
                             ls_config *config, char **text) {
    static const char base[] = "run: {steps: 1}\nbatch: {sequences: 1}\n"
                               "model: {layers: 1, channels: 2, heads: 1}\n";
    char *plain;
    LS_TRY(ls_config_load_text(config, where, base, sizeof base - 1, NULL, 0));
    LS_TRY(ls_hf_config_parse(hf, where, &config->model));
    config->data.sequence = config->batch.tokens = 0; /* follow from the model's context */
    LS_TRY(ls_config_text(config, false, &plain));
    ls_status status = ls_config_load_text(config, where, plain, strlen(plain),
                                           (const char *const *)sets, set_count);
    free(plain);
    LS_TRY(status);
    return ls_config_text(config, false, text);
}

static const json_t *first_of(const json_t *value) {
    return json_is_array(value) ? json_array_get(value, 0) : value;
}

/* What the model's tokenizer is called: as is given, or its file's name, or what we wrote there.
 * *carried: the file goes with the checkpoint. */
static void tokenizer_name(const json_t *hf, const char *directory, const char *given,
                           char name[64], bool *carried) {
    char path[4096];
    ls_tokenizer *tokenizer;
    const json_t *known = json_object_get(json_object_get(hf, "lockstep"), "tokenizer");
    const char *text = given ? given : json_string_value(known);
    snprintf(name, 64, "%s", text ? text : "");
    *carried = false;
    if (given || ls_path_join(path, sizeof path, directory, LS_TOKENIZER_FILE) != LS_OK ||
        !ls_path_exists(path)) {
        return;
    }
    if (ls_tokenizer_read(path, &tokenizer) != LS_OK) {
        ls_log_warn("%s; the model's tokens must be made elsewhere", ls_error_last()->message);
        ls_error_clear();
        return;
    }
    snprintf(name, 64, "%s", ls_tokenizer_name(tokenizer));
    *carried = true;
    ls_tokenizer_release(tokenizer);
}

/* What eval and sample ask of the run: the tokenizer, the token between documents, that with which
 * a text begins, and those that end one, where there are several: of a model of chats (Llama-3's)
 * the first parts documents. */
static ls_status run_make(const json_t *hf, const char *name, json_t **run) {
    const json_t *ends = json_object_get(hf, "eos_token_id"), *separator = first_of(ends);
    const json_t *begin = json_object_get(hf, "bos_token_id");
    *run = json_object();
    bool failed = !*run;
    if (name[0] && !failed) {
        failed = json_object_set_new(*run, "tokenizer", json_string(name)) != 0;
    }
    if (json_is_integer(separator) && !failed) {
        failed = json_object_set(*run, "separator", (json_t *)separator) != 0;
    }
    if (json_array_size(ends) > 1 && !failed) {
        failed = json_object_set(*run, "ends", (json_t *)ends) != 0;
    }
    if (json_is_integer(begin) && !failed) {
        failed = json_object_set(*run, "begin", (json_t *)begin) != 0;
    }
    return failed ? LS_FAIL(LS_E_MEMORY, "no memory for the description of the run") : LS_OK;
}

static ls_status import_model(const char *source, const ls_config *config, int ranks,
                              const ls_ckpt_save_options *options, ls_ckpt_save_result *result) {
    ls_safetensors *st;
    ls_param *params = NULL;
    int count;
    int64_t flat_elems;
    LS_TRY(ls_safetensors_open(source, &st));
    ls_status status = ls_model_table(&config->model, &params, &count, &flat_elems);
    if (status == LS_OK) {
        status = ls_convert_from_hf(st, &config->model, params, count, ranks, options, result);
    }
    free(params);
    ls_safetensors_close(st);
    return status;
}

static ls_status run_import(int argc, char **argv, const char **values) {
    ls_ckpt_save_options options;
    ls_ckpt_save_result result;
    ls_config config;
    long long ranks;
    char directory[4096], path[4096], name[64], *text = NULL;
    bool carried;
    json_t *hf = NULL, *run = NULL, *counters = json_object();
    if (strcmp(values[LS_CKPT_FROM], "safetensors") != 0) {
        json_decref(counters);
        return LS_FAIL(LS_E_USAGE, "--from is '%s'; safetensors is needed", values[LS_CKPT_FROM]);
    }
    if (values[LS_CKPT_DTYPE] || values[LS_CKPT_SHARD_SIZE]) {
        json_decref(counters);
        return LS_FAIL(LS_E_USAGE, "--dtype and --shard-size go with --to only; a checkpoint's "
                                   "parameters are float32");
    }
    ls_status status = write_options(values, &options, &ranks);
    LS_TRY_GOTO(status, done);
    LS_TRY_GOTO(hf_directory(argv[0], directory), done);
    LS_TRY_GOTO(hf_config_load(argv[0], directory, path, sizeof path, &hf), done);
    LS_TRY_GOTO(config_make(hf, path, argv + 1, argc - 1, &config, &text), done);
    tokenizer_name(hf, directory, values[LS_CKPT_TOKENIZER], name, &carried);
    LS_TRY_GOTO(run_make(hf, name, &run), done);
    options.config_text = text;
    options.run = run;
    options.counters = counters;
    LS_TRY_GOTO(import_model(argv[0], &config, (int)ranks, &options, &result), done);
    LS_TRY_GOTO(carried ? ls_tokenizer_carry(directory, options.root) : LS_OK, done);
    status = written_print("lockstep.ckpt.convert/1", &result, ranks, values[LS_CKPT_JSON] != NULL);
done:
    json_decref(hf);
    json_decref(run);
    json_decref(counters);
    free(text);
    return status;
}

ls_status ls_ckpt_run_convert(int argc, char **argv, const char **values) {
    if (!values[LS_CKPT_TO] == !values[LS_CKPT_FROM]) {
        return LS_FAIL(LS_E_USAGE, "either --to or --from is needed: safetensors or llmc");
    }
    ls_status status =
        values[LS_CKPT_TO] ? run_export(argc, argv, values) : run_import(argc, argv, values);
    /* the model's fault, not this machine's */
    return told(status == LS_E_UNSUPPORTED ? ls_error_recode(LS_E_INPUT) : status, values);
}
