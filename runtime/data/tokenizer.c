#include "runtime/data/tokenizer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/data/tokenizer_read.h"

const char *ls_tokenizer_type(const json_t *part) {
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!part || json_is_null(part)) {
        return "null";
    }
    return !json_is_object(part) ? "that is no object" : type ? type : "without type";
}

ls_status ls_tokenizer_flag(const json_t *part, const char *name, bool otherwise, const char *path,
                            bool *flag) {
    const json_t *value = json_object_get(part, name);
    *flag = value && !json_is_null(value) ? json_is_true(value) : otherwise;
    return !value || json_is_null(value) || json_is_boolean(value)
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "'%s': %s is neither true nor false", path, name);
}

ls_status ls_tokenizer_items(const json_t *part, const char *name, bool needed, const char *path,
                             const json_t **items) {
    *items = json_object_get(part, name);
    const bool absent = !*items || json_is_null(*items);
    return json_is_array(*items) || (absent && !needed)
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "'%s': %s %s", path, name,
                         absent ? "is missing" : "is no list");
}

/* --- the name --- */

static uint64_t hash_number(uint64_t hash, uint64_t number) {
    return ls_xxh64(&number, sizeof number, hash);
}

static uint64_t hash_text(uint64_t hash, const char *text, size_t bytes) {
    return ls_xxh64(text, bytes, hash_number(hash, bytes));
}

static uint64_t hash_added(uint64_t hash, const ls_added_set *set) {
    uint64_t sum = 0; /* in whatever order they are listed */
    for (size_t i = 0; i < set->count; i++) {
        const ls_added_token *token = &set->tokens[i];
        sum += hash_text(hash_number(token->token, (uint64_t)token->single_word << 2 |
                                                       (uint64_t)token->lstrip << 1 |
                                                       (uint64_t)token->rstrip),
                         token->text.at, token->text.bytes);
    }
    return hash_number(hash_number(hash, set->count), sum);
}

static uint64_t hash_merges(uint64_t hash, const ls_tokenizer *t) {
    uint64_t sum = 0; /* the table has places of its own */
    for (size_t i = 0; i <= t->merge_mask; i++) {
        const ls_token_merge *m = &t->merges[i];
        if (m->token != LS_NO_TOKEN) {
            sum += ls_xxh64(m, sizeof *m, 0);
        }
    }
    return hash_number(hash, sum);
}

static void name(ls_tokenizer *t) {
    const uint64_t kind[] = {
        t->byte_level,   t->spaces,  t->normalizes, t->word_cuts, t->ignore_merges,
        t->fuse_unknown, t->prepend, t->unknown,    t->count,     (uint64_t)t->byte_tokens[0]};
    uint64_t hash = ls_xxh64(kind, sizeof kind, 0);
    for (int i = 0; i < t->pattern_count; i++) {
        const ls_split_pattern *pattern = &t->patterns[i];
        hash = hash_text(hash, pattern->source, strlen(pattern->source));
        hash = hash_number(hash, pattern->drops_others);
    }
    for (uint32_t i = 0; i < t->count; i++) {
        hash = hash_number(hash, t->texts[i].at != NULL);
        hash = hash_text(hash, t->texts[i].at ? t->texts[i].at : "", t->texts[i].bytes);
    }
    hash = hash_added(hash_merges(hash, t), &t->added);
    hash = hash_added(hash, &t->added_normalized);
    hash = t->nfc ? hash_text(hash, "NFC", 3) : hash;
    snprintf(t->name, sizeof t->name, "bpe-%011" PRIx64, hash >> 20);
}

/* --- the whole --- */

int64_t ls_tokenizer_added(const ls_tokenizer *t, const char *text) {
    const ls_added_set *const sets[] = {&t->added, &t->added_normalized};
    for (int i = 0; i < 2; i++) {
        for (size_t j = 0; j < sets[i]->count; j++) {
            const uint32_t token = sets[i]->tokens[j].token;
            const ls_token_text shown = t->shown[token];
            if (shown.bytes == strlen(text) && memcmp(shown.at, text, shown.bytes) == 0) {
                return token;
            }
        }
    }
    return -1;
}

/* The first of the names that is an added token's: Qwen's vocabulary has "<s>" as a piece of text.
 */
static int64_t find_named(const ls_tokenizer *t, const char *const *names) {
    int64_t token = -1;
    for (; *names && token < 0; names++) {
        token = ls_tokenizer_added(t, *names);
    }
    return token;
}

static ls_status read_root(ls_tokenizer *t, const json_t *root, const char *path) {
    if (!json_is_object(root) || !json_object_get(root, "model")) {
        return LS_FAIL(LS_E_INPUT, "'%s' is no tokenizer.json: no model in it", path);
    }
    const json_t *version = json_object_get(root, "version");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0)) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': version '%s'; \"1.0\" is known", path,
                       json_is_string(version) ? json_string_value(version) : "");
    }
    LS_TRY(ls_tokenizer_read_kind(t, root, path));
    LS_TRY(ls_tokenizer_read_model(t, root, path));
    t->separator =
        find_named(t, (const char *const[]){"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>",
                                            "<\uff5cend\u2581of\u2581sentence\uff5c>", NULL});
    t->begin =
        find_named(t, (const char *const[]){"<|begin_of_text|>", "<s>", "<bos>",
                                            "<\uff5cbegin\u2581of\u2581sentence\uff5c>", NULL});
    name(t);
    return LS_OK;
}

ls_status ls_tokenizer_parse(const char *text, size_t bytes, const char *path,
                             ls_tokenizer **tokenizer) {
    *tokenizer = NULL;
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        return LS_FAIL(LS_E_INPUT, "'%s', line %d: not valid JSON: %s", path, error.line,
                       error.text);
    }
    ls_tokenizer *t;
    ls_status status = ls_calloc(1, sizeof *t, &t);
    if (status == LS_OK) {
        status = read_root(t, root, path);
        /* the file's fault, not this machine's */
        status = status == LS_E_UNSUPPORTED ? ls_error_recode(LS_E_INPUT) : status;
        if (status != LS_OK) {
            ls_tokenizer_release(t);
            t = NULL;
        }
        *tokenizer = t;
    }
    json_decref(root);
    return status;
}

ls_status ls_tokenizer_path(const char *given, char path[4096]) {
    if (ls_path_is_dir(given)) {
        LS_TRY(ls_path_join(path, 4096, given, LS_TOKENIZER_FILE));
        return ls_path_exists(path)
                   ? LS_OK
                   : LS_FAIL(LS_E_INPUT,
                             "the folder '%s' has no " LS_TOKENIZER_FILE
                             "; of a model that has its "
                             "tokenizer in other files transformers makes one: AutoTokenizer."
                             "from_pretrained('%s').save_pretrained('%s')",
                             given, given, given);
    }
    if (access(given, F_OK) != 0 && errno == ENOENT) {
        return LS_FAIL(LS_E_INPUT,
                       "tokenizer '%s' is neither a file nor a folder here; a tokenizer.json, or "
                       "the folder of a model that has one, is needed (nothing is downloaded)",
                       given);
    }
    return snprintf(path, 4096, "%s", given) < 4096
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "'%.60s...' is too long for a path", given);
}

ls_status ls_tokenizer_read(const char *path, ls_tokenizer **tokenizer) {
    *tokenizer = NULL;
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, LS_TOKENIZER_FILE_BYTES, &text, &bytes));
    ls_status status = ls_tokenizer_parse(text, bytes, path, tokenizer);
    free(text);
    return status;
}

void ls_tokenizer_release(ls_tokenizer *t) {
    if (!t) {
        return;
    }
    for (int i = 0; i < t->pattern_count; i++) {
        pcre2_code_free(t->patterns[i].code);
        free(t->patterns[i].source);
    }
    pcre2_code_free(t->word);
    ls_nfc_release(t->nfc);
    ls_added_set_release(&t->added);
    ls_added_set_release(&t->added_normalized);
    free(t->map.slots);
    free(t->merges);
    free(t->inner_pairs);
    free(t->texts);
    free(t->shown);
    free(t->texts_memory);
    free(t->shown_memory);
    free(t->added_memory);
    free(t);
}

const char *ls_tokenizer_name(const ls_tokenizer *tokenizer) {
    return tokenizer->name;
}

int64_t ls_tokenizer_vocab(const ls_tokenizer *tokenizer) {
    return tokenizer->count;
}

int64_t ls_tokenizer_separator(const ls_tokenizer *tokenizer) {
    return tokenizer->separator;
}

int64_t ls_tokenizer_begin(const ls_tokenizer *tokenizer) {
    return tokenizer->begin;
}

const char *ls_tokenizer_bytes(const ls_tokenizer *tokenizer, uint32_t token, size_t *bytes) {
    const ls_token_text text =
        token < tokenizer->count ? tokenizer->shown[token] : (ls_token_text){NULL, 0};
    *bytes = text.bytes;
    return text.at;
}
