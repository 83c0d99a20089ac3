#include "runtime/data/prep.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/data/chat.h"
#include "runtime/data/data_manifest.h"
#include "runtime/data/prep_documents.h"
#include "runtime/data/prep_output.h"

/* A process maps every shard, those of both splits at once, and Linux lets it have 65,530 mappings
 * (vm.max_map_count). */
enum { SHARDS_MAX = 30000 };

/* What documents become. */
typedef struct token_kind {
    ls_vocabulary vocabulary; /* of size 0: bytes */
    ls_tokenizer *tokenizer;  /* NULL: none */
    char *file;               /* the text of the tokenizer's */
    size_t file_bytes;
} token_kind;

static ls_status options_check(const ls_prep_options *o) {
    if (o->input_count < 1) {
        return LS_FAIL(LS_E_USAGE, "no input is given; name files, folders, patterns, or - for "
                                   "standard input");
    }
    if (!ls_text_is_line(o->out_dir)) {
        return LS_FAIL(
            LS_E_USAGE,
            "output directory '%s' is not UTF-8 text without line breaks, as data.dir of "
            "a run must be; choose another name",
            o->out_dir);
    }
    if (!(o->val_fraction >= 0 && o->val_fraction < 1)) {
        return LS_FAIL(LS_E_USAGE, "the validation fraction is %g, allowed is 0 to below 1",
                       o->val_fraction);
    }
    if (o->vocab != 0 &&
        !(o->vocab > 0 && o->vocab <= INT32_MAX && o->separator >= 0 && o->separator < o->vocab)) {
        return LS_FAIL(LS_E_USAGE,
                       "the separator is %" PRId64 " and the vocabulary %" PRId64
                       "; tokens are numbers from 0 to below the vocabulary, at most %d",
                       o->separator, o->vocab, INT32_MAX);
    }
    if (o->vocab != 0 && o->tokenizer) {
        return LS_FAIL(LS_E_USAGE, "both a vocabulary and a tokenizer are given: documents are "
                                   "tokens already, or text that becomes tokens");
    }
    if (o->chat && (o->prompt_field || o->mask_field || !o->tokenizer)) {
        return LS_FAIL(LS_E_USAGE, "%s",
                       o->tokenizer ? "a chat is given with a prompt or a loss mask; the "
                                      "roles of its messages say what is learnt"
                                    : "a chat is written with tokens of the tokenizer's "
                                      "own: give --tokenizer");
    }
    if (o->prompt_field && (o->vocab != 0 || o->mask_field)) {
        return LS_FAIL(LS_E_USAGE, "a prompt is text before a text; of documents that are tokens "
                                   "already a loss mask says which are trained on");
    }
    if (o->mask_field && o->vocab == 0) {
        return LS_FAIL(LS_E_USAGE, "a loss mask is for documents that are tokens already, of a "
                                   "vocabulary; of text a prompt can be left out of the loss");
    }
    if (o->pack != 0 && !(o->pack >= LS_PACKER_LEAST && o->pack <= LS_PACKER_MOST)) {
        return LS_FAIL(LS_E_USAGE,
                       "documents are to be packed into samples of %" PRId64
                       " tokens; %d to %d are possible",
                       o->pack, LS_PACKER_LEAST, LS_PACKER_MOST);
    }
    if (o->shard_tokens < 1) {
        return LS_FAIL(LS_E_USAGE, "a shard holds %" PRId64 " tokens, at least 1 is needed",
                       o->shard_tokens);
    }
    return LS_OK;
}

static void tokens_release(token_kind *t) {
    ls_tokenizer_release(t->tokenizer);
    free(t->file);
    *t = (token_kind){0};
}

static ls_status tokenizer_read(const ls_prep_options *o, token_kind *t) {
    char path[4096];
    LS_TRY(ls_tokenizer_path(o->tokenizer, path));
    LS_TRY(ls_file_read(path, LS_TOKENIZER_FILE_BYTES, &t->file, &t->file_bytes));
    LS_TRY(ls_tokenizer_parse(t->file, t->file_bytes, path, &t->tokenizer));
    const int64_t size = ls_tokenizer_vocab(t->tokenizer);
    const int64_t separator =
        o->separator >= 0 ? o->separator : ls_tokenizer_separator(t->tokenizer);
    if (separator < 0) {
        return LS_FAIL(
            LS_E_USAGE,
            "'%s' has none of the tokens that end a document by custom "
            "(<|endoftext|>, <|end_of_text|>, </s>, <eos>); say which with --separator TOKEN",
            o->tokenizer);
    }
    const int64_t begin = o->begin == -1 ? ls_tokenizer_begin(t->tokenizer) : o->begin;
    if (separator >= size || begin >= size) {
        return LS_FAIL(LS_E_USAGE,
                       "the %s is %" PRId64 "; the tokens of '%s' are below "
                       "%" PRId64,
                       separator >= size ? "separator" : "token that begins a document",
                       separator >= size ? separator : begin, o->tokenizer, size);
    }
    t->vocabulary = (ls_vocabulary){.size = size,
                                    .separator = separator,
                                    .words = t->tokenizer,
                                    .begin = begin < 0 ? -1 : begin};
    snprintf(t->vocabulary.tokenizer, sizeof t->vocabulary.tokenizer, "%s",
             ls_tokenizer_name(t->tokenizer));
    return LS_OK;
}

/* Release it also after a failure. */
static ls_status tokens_init(const ls_prep_options *o, token_kind *t) {
    *t = (token_kind){.vocabulary = {o->vocab, o->separator, "tokens", NULL, -1, false}};
    if (o->prompt_field && !o->tokenizer) {
        t->vocabulary = ls_vocabulary_bytes();
    }
    LS_TRY(o->tokenizer ? tokenizer_read(o, t) : LS_OK);
    t->vocabulary.masked = ls_prep_is_masked(o);
    return LS_OK;
}

/* The tokenizer's file goes with its tokens. */
static ls_status tokenizer_copy(const token_kind *t, const char *dir) {
    char path[PATH_MAX];
    if (!t->tokenizer) {
        return LS_OK;
    }
    LS_TRY(ls_path_join(path, sizeof path, dir, LS_TOKENIZER_FILE));
    return ls_file_replace(path, t->file, t->file_bytes);
}

/* What the user typed may be in any encoding. */
static json_t *given_text(const char *text) {
    json_t *string = text ? json_string(text) : json_null();
    return string ? string : json_string("(not UTF-8)");
}

/* How the data was made, for data.json. NULL when out of memory. */
static json_t *describe_source(const ls_prep_options *o, const ls_prep_result *result) {
    json_t *inputs = json_array();
    for (int i = 0; i < o->input_count; i++) {
        if (json_array_append_new(inputs, given_text(o->inputs[i])) != 0) {
            json_decref(inputs);
            return NULL;
        }
    }
    return json_pack(
        "{s:s, s:o, s:o, s:o*, s:o*, s:o*, s:o, s:o, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "made_by",
        "lockstep " LS_VERSION, "inputs", inputs, "field", given_text(o->jsonl_field), "prompt",
        o->prompt_field ? given_text(o->prompt_field) : NULL, "chat",
        o->chat ? given_text(o->chat) : NULL, "loss_mask",
        o->mask_field ? given_text(o->mask_field) : NULL, "tokenizer_file",
        given_text(o->tokenizer), "include", given_text(o->include), "val_fraction",
        o->val_fraction, "shard_tokens", (json_int_t)o->shard_tokens, "files",
        (json_int_t)result->files, "skipped_files", (json_int_t)result->skipped_files,
        "duplicate_files", (json_int_t)result->duplicate_files, "prepared_files",
        (json_int_t)result->prepared_files, "bad_lines", (json_int_t)result->bad_lines);
}

/* False when out of memory. */
static bool describe_packing(json_t *source, const ls_prep_result *result) {
    json_t *padding = json_pack("{s:I, s:I}", "train", (json_int_t)result->train_padding, "val",
                                (json_int_t)result->val_padding);
    return json_object_set_new(source, "padding", padding) == 0 &&
           json_object_set_new(source, "cut_documents", json_integer(result->cut)) == 0;
}

static ls_status finish(const ls_prep_options *options, const char *temp_dir, ls_prep_split *split,
                        ls_prep_result *result) {
    const ls_vocabulary *vocabulary = &split->vocabulary;
    ls_data_manifest manifest = {.vocab = vocabulary->size,
                                 .separator = vocabulary->separator,
                                 .begin = vocabulary->begin,
                                 .turn_end = -1,
                                 .pack = options->pack};
    memcpy(manifest.tokenizer, vocabulary->tokenizer, sizeof manifest.tokenizer);
    if (options->chat) {
        ls_chat chat;
        LS_TRY(ls_chat_init(&chat, options->chat, vocabulary->words));
        manifest.turn_end = chat.end;
    }
    int64_t tokens[2] = {0}, targets[2] = {0};
    for (int side = 0; side < 2; side++) {
        ls_shard_writer *writer = &split->writers[side];
        LS_TRY(ls_shard_writer_finish(writer));
        manifest.splits[side].shards = writer->shards;
        manifest.splits[side].count = writer->count;
        for (int i = 0; i < writer->count; i++) {
            tokens[side] += writer->shards[i].tokens;
            targets[side] += writer->shards[i].targets;
            result->bytes += writer->shards[i].bytes;
        }
    }
    result->documents = split->documents;
    result->train_tokens = tokens[LS_SPLIT_TRAIN];
    result->val_tokens = tokens[LS_SPLIT_VAL];
    result->train_targets = targets[LS_SPLIT_TRAIN];
    result->val_targets = targets[LS_SPLIT_VAL];
    result->train_padding = split->packers[LS_SPLIT_TRAIN].padding;
    result->val_padding = split->packers[LS_SPLIT_VAL].padding;
    result->cut = split->packers[LS_SPLIT_TRAIN].cut + split->packers[LS_SPLIT_VAL].cut;
    result->train_shards = split->writers[LS_SPLIT_TRAIN].count;
    result->val_shards = split->writers[LS_SPLIT_VAL].count;
    json_t *source = describe_source(options, result);
    if (!source || (options->pack > 0 && !describe_packing(source, result))) {
        json_decref(source);
        return LS_FAIL(LS_E_MEMORY, "no memory to write %s", LS_DATA_MANIFEST_NAME);
    }
    ls_status status = ls_data_manifest_write(temp_dir, &manifest, source);
    json_decref(source);
    return status;
}

/* The inputs have at most a token a byte, and one for each document: a line of JSONL has more bytes
 * than its text. Packed samples are at least half full, but for the last. */
static ls_status shards_check(const ls_prep_options *o, const ls_prep_sources *sources) {
    const int64_t tokens = (sources->bytes + sources->count) * (o->pack > 0 ? 2 : 1);
    if (tokens / o->shard_tokens < SHARDS_MAX) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_USAGE,
                   "%" PRId64 " bytes of input may give %" PRId64 " shards of %" PRId64
                   " tokens; at most %d can be used: give --shard-tokens %" PRId64 " or more",
                   sources->bytes, tokens / o->shard_tokens + 1, o->shard_tokens, SHARDS_MAX,
                   tokens / SHARDS_MAX + 1);
}

static ls_status read_all(const ls_prep_options *options, const ls_prep_sources *sources,
                          ls_prep_split *split, ls_prep_result *result) {
    ls_prep_reader reader;
    ls_status status = ls_prep_reader_init(&reader, options, split, sources->bytes);
    reader.told = result->skipped_files > 0; /* when all was read before */
    reader.bad_told = result->bad_lines;
    for (int64_t i = 0; status == LS_OK && i < sources->count; i++) {
        status = ls_prep_read(&reader, &sources->list[i]);
    }
    status = status == LS_OK ? ls_prep_write_held(&reader) : status;
    status = status == LS_OK ? ls_prep_split_flush(split) : status;
    result->files = reader.files;
    result->skipped_files = reader.binary_files + sources->other;
    result->duplicate_files = sources->duplicates;
    result->prepared_files = sources->prepared;
    result->bad_lines = reader.bad_lines;
    ls_prep_reader_release(&reader);
    return status;
}

static ls_status write_shards(const ls_prep_options *options, const ls_prep_sources *sources,
                              const ls_vocabulary *vocabulary, const char *temp_dir,
                              ls_prep_result *result) {
    ls_prep_split split;
    bool again = true;
    ls_status status =
        ls_prep_split_init(&split, options, temp_dir, vocabulary->size > 0 ? vocabulary : NULL);
    if (sources->count == 1 && sources->list[0].kind == LS_PREP_TEXT) {
        split.tail = options->val_fraction; /* known to be the only document */
    }
    while (status == LS_OK && again) {
        status = read_all(options, sources, &split, result);
        if (status == LS_OK) {
            status = ls_prep_split_review(&split, options->val_fraction, &again);
        }
    }
    if (status == LS_OK && split.documents == 0) {
        char bad[64] = "", prepared[64] = "";
        if (result->bad_lines > 0) {
            snprintf(bad, sizeof bad, ", %" PRId64 " lines that are no documents",
                     result->bad_lines);
        }
        if (result->prepared_files > 0) {
            snprintf(prepared, sizeof prepared, ", %" PRId64 " made by prep",
                     result->prepared_files);
        }
        status = LS_FAIL(LS_E_INPUT,
                         "the corpus is empty: %" PRId64 " text files without any text, %" PRId64
                         " skipped as binary%s%s%s%s",
                         result->files, result->skipped_files, bad, prepared,
                         options->include ? ", only names matching " : "",
                         options->include ? options->include : "");
    }
    if (status == LS_OK) {
        status = finish(options, temp_dir, &split, result);
    }
    ls_prep_split_release(&split);
    return status;
}

/* From the inputs to complete files in temp_dir. */
static ls_status prepare(const ls_prep_options *options, const char *temp_dir,
                         ls_prep_result *result) {
    ls_status status;
    ls_prep_sources sources = {0};
    token_kind t;
    LS_TRY_GOTO(tokens_init(options, &t), done);
    LS_TRY_GOTO(ls_prep_sources_init(&sources, options, temp_dir), done);
    LS_TRY_GOTO(shards_check(options, &sources), done);
    LS_TRY_GOTO(write_shards(options, &sources, &t.vocabulary, temp_dir, result), done);
    status = tokenizer_copy(&t, temp_dir);
done:
    ls_prep_sources_release(&sources);
    tokens_release(&t);
    return status;
}

ls_status ls_prep_run(const ls_prep_options *options, ls_prep_result *result) {
    const uint64_t begin_ns = ls_clock_ns();
    ls_prep_output output;
    *result = (ls_prep_result){0};
    LS_TRY(options_check(options));
    ls_status status = ls_prep_output_init(&output, options->out_dir, options->force);
    if (status == LS_OK) {
        status = prepare(options, output.temp, result);
    }
    if (status == LS_OK) {
        status = ls_prep_output_publish(&output, options->force);
    }
    const ls_error error = *ls_error_last();
    ls_prep_output_release(&output);
    if (status != LS_OK) {
        return ls_error_restore(&error); /* the first failure is the one to tell */
    }
    result->seconds = 1e-9 * (double)(ls_clock_ns() - begin_ns);
    const bool tokens = options->vocab > 0 || ls_prep_is_masked(options);
    char done[32], time[32];
    ls_log_progress(true, "prep: %s %s in %s",
                    tokens ? ls_text_count(done, sizeof done,
                                           (double)(result->train_tokens + result->val_tokens))
                           : ls_text_bytes(done, sizeof done, (double)result->bytes),
                    tokens ? "tokens" : "of text",
                    ls_text_duration(time, sizeof time, result->seconds));
    return LS_OK;
}
