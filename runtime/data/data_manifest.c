#include "runtime/data/data_manifest.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"

void ls_shard_name(char name[32], ls_split split, int64_t index) {
    snprintf(name, 32, "%s-%05" PRId64 ".tok", ls_split_name(split), index);
}

static ls_status shard_read(const json_t *item, const char *path, ls_data_manifest *manifest,
                            ls_split split, int index) {
    ls_shard_header *shard = &manifest->splits[split].shards[index];
    const char *file, *checksum;
    json_int_t tokens, documents, bytes, targets = -1;
    json_error_t error;
    if (json_unpack_ex((json_t *)item, &error, 0, "{s:s, s:I, s:I, s:I, s?I, s:s}", "file", &file,
                       "tokens", &tokens, "documents", &documents, "bytes", &bytes, "targets",
                       &targets, "xxh3", &checksum) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "'%s', shard %d of %s: %s; prepare the data again", path,
                       index, ls_split_name(split), error.text);
    }
    char name[32];
    ls_shard_name(name, split, index);
    if (strcmp(file, name) != 0) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s': shard %d of %s is named '%s', expected '%s'; prepare the data again",
                       path, index, ls_split_name(split), file, name);
    }
    if (strlen(checksum) != 16 || strspn(checksum, "0123456789abcdef") != 16) {
        return LS_FAIL(
            LS_E_CORRUPT,
            "'%s': the xxh3 of '%s' is '%s', expected 16 hexadecimal digits; prepare the "
            "data again",
            path, name, checksum);
    }
    *shard = (ls_shard_header){.split = split,
                               .index = index,
                               .count = manifest->splits[split].count,
                               .vocab = manifest->vocab,
                               .separator = manifest->separator,
                               .tokens = tokens,
                               .documents = documents,
                               .bytes = bytes,
                               .masked = targets >= 0,
                               .targets = targets >= 0 ? targets : tokens,
                               .checksum = strtoull(checksum, NULL, 16)};
    memcpy(shard->tokenizer, manifest->tokenizer, sizeof shard->tokenizer);
    return LS_OK;
}

static ls_status manifest_unpack(json_t *root, const char *path, ls_data_manifest *manifest) {
    json_error_t error;
    const char *format, *tokenizer;
    json_int_t version, vocab, separator, begin = -1, end = -1, pack = 0;
    json_t *lists[2];
    if (json_unpack_ex(root, &error, 0, "{s:s, s:I}", "format", &format, "version", &version) !=
            0 ||
        strcmp(format, LS_DATA_MANIFEST_FORMAT) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "'%s' does not describe token shards; prepare the data again",
                       path);
    }
    if (version > LS_DATA_MANIFEST_VERSION) {
        return LS_FAIL(LS_E_VERSION,
                       "'%s' has version %" JSON_INTEGER_FORMAT
                       ", this program reads %d; use a newer lockstep or prepare the data again",
                       path, version, LS_DATA_MANIFEST_VERSION);
    }
    if (json_unpack_ex(root, &error, 0, "{s:s, s:I, s:I, s?I, s?I, s?I, s:{s:{s:o}, s:{s:o}}}",
                       "tokenizer", &tokenizer, "vocab", &vocab, "separator", &separator, "begin",
                       &begin, "turn_end", &end, "pack", &pack, "splits", "train", "shards",
                       &lists[0], "val", "shards", &lists[1]) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "'%s': %s; prepare the data again", path, error.text);
    }
    if (strlen(tokenizer) >= sizeof manifest->tokenizer) {
        return LS_FAIL(LS_E_CORRUPT, "'%s': tokenizer name '%s' is longer than %zu bytes", path,
                       tokenizer, sizeof manifest->tokenizer - 1);
    }
    snprintf(manifest->tokenizer, sizeof manifest->tokenizer, "%s", tokenizer);
    manifest->vocab = vocab;
    manifest->separator = separator;
    manifest->begin = begin >= 0 && begin < vocab ? begin : -1;
    manifest->turn_end = end >= 0 && end < vocab ? end : -1;
    manifest->pack = pack > 0 ? pack : 0;
    for (int split = 0; split < 2; split++) {
        size_t count = json_array_size(lists[split]);
        if (!json_is_array(lists[split]) || count > INT_MAX) {
            return LS_FAIL(LS_E_CORRUPT,
                           "'%s': splits.%s.shards is no list of shards; prepare the data again",
                           path, ls_split_name((ls_split)split));
        }
        if (count > 0) {
            LS_TRY(ls_calloc(count, sizeof(ls_shard_header), &manifest->splits[split].shards));
        }
        manifest->splits[split].count = (int)count;
        for (size_t i = 0; i < count; i++) {
            LS_TRY(shard_read(json_array_get(lists[split], i), path, manifest, (ls_split)split,
                              (int)i));
        }
    }
    return LS_OK;
}

ls_status ls_data_manifest_parse(const char *text, size_t bytes, const char *path,
                                 ls_data_manifest *manifest) {
    *manifest = (ls_data_manifest){0};
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        return LS_FAIL(LS_E_CORRUPT, "'%s', line %d: %s; prepare the data again", path, error.line,
                       error.text);
    }
    ls_status status = manifest_unpack(root, path, manifest);
    json_decref(root);
    return status;
}

ls_status ls_data_manifest_read(const char *dir, ls_data_manifest *manifest) {
    *manifest = (ls_data_manifest){0};
    char path[PATH_MAX];
    LS_TRY(ls_path_join(path, sizeof path, dir, LS_DATA_MANIFEST_NAME));
    if (!ls_path_is_dir(dir)) {
        char here[PATH_MAX] = "";
        const bool named = dir[0] == '/' || !getcwd(here, sizeof here);
        return LS_FAIL(LS_E_INPUT, "data directory '%s' %s%s%s%s; make one with `lockstep prep`",
                       dir, ls_path_exists(dir) ? "is no directory" : "does not exist",
                       named ? "" : " (seen from '", here, named ? "" : "')");
    }
    if (!ls_path_exists(path)) {
        return LS_FAIL(LS_E_INPUT, "'%s' holds no %s; make a data directory with `lockstep prep`",
                       dir, LS_DATA_MANIFEST_NAME);
    }
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, (size_t)1 << 28, &text, &bytes));
    ls_status status = ls_data_manifest_parse(text, bytes, path, manifest);
    free(text);
    return status;
}

void ls_data_manifest_release(ls_data_manifest *manifest) {
    free(manifest->splits[0].shards);
    free(manifest->splits[1].shards);
    *manifest = (ls_data_manifest){0};
}

/* NULL when out of memory, as json_pack is; a NULL part makes the whole NULL. */
static json_t *split_json(const ls_data_manifest *manifest, ls_split split) {
    json_int_t tokens = 0, documents = 0, bytes = 0;
    json_t *list = json_array();
    for (int i = 0; i < manifest->splits[split].count; i++) {
        const ls_shard_header *shard = &manifest->splits[split].shards[i];
        tokens += shard->tokens;
        documents += shard->documents;
        bytes += shard->bytes;
        char name[32], checksum[17];
        ls_shard_name(name, split, i);
        snprintf(checksum, sizeof checksum, "%016" PRIx64, shard->checksum);
        json_t *item = json_pack(
            "{s:s, s:I, s:I, s:I, s:o*, s:s}", "file", name, "tokens", (json_int_t)shard->tokens,
            "documents", (json_int_t)shard->documents, "bytes", (json_int_t)shard->bytes, "targets",
            shard->masked ? json_integer((json_int_t)shard->targets) : NULL, "xxh3", checksum);
        if (json_array_append_new(list, item) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return json_pack("{s:I, s:I, s:I, s:o}", "tokens", tokens, "documents", documents, "bytes",
                     bytes, "shards", list);
}

ls_status ls_data_manifest_write(const char *dir, const ls_data_manifest *manifest,
                                 json_t *source) {
    char path[PATH_MAX];
    LS_TRY(ls_path_join(path, sizeof path, dir, LS_DATA_MANIFEST_NAME));
    json_t *root = json_pack(
        "{s:s, s:i, s:s, s:I, s:I, s:o*, s:o*, s:o*, s:O, s:{s:o, s:o}}", "format",
        LS_DATA_MANIFEST_FORMAT, "version", LS_DATA_MANIFEST_VERSION, "tokenizer",
        manifest->tokenizer, "vocab", (json_int_t)manifest->vocab, "separator",
        (json_int_t)manifest->separator, "begin",
        manifest->begin >= 0 ? json_integer((json_int_t)manifest->begin) : NULL, "turn_end",
        manifest->turn_end >= 0 ? json_integer((json_int_t)manifest->turn_end) : NULL, "pack",
        manifest->pack > 0 ? json_integer((json_int_t)manifest->pack) : NULL, "source", source,
        "splits", "train", split_json(manifest, LS_SPLIT_TRAIN), "val",
        split_json(manifest, LS_SPLIT_VAL));
    char *text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory to write '%s'", path);
    }
    size_t length = strlen(text);
    text[length] = '\n'; /* in place of the NUL, which the file does not need */
    ls_status status = ls_file_replace(path, text, length + 1);
    free(text);
    return status;
}
