/* vocab and merges of a tokenizer.json, and what each token stands for. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_read.h"
#include "runtime/data/tokenizer_utf8.h"

enum { MAX_SHOWN = 100 }; /* bytes of a text in a message */

static int shown_bytes(size_t bytes) {
    return bytes < MAX_SHOWN ? (int)bytes : MAX_SHOWN;
}

/* --- the alphabet of ByteLevel --- */

/* The byte that a character stands for: printable ones for themselves, the others in order from
 * U+0100 on. -1: none. */
static int byte_of(uint32_t code) {
    if ((code >= 0x21 && code <= 0x7E) || (code >= 0xA1 && code <= 0xFF && code != 0xAD)) {
        return (int)code;
    }
    const int other = (int)code - 0x100;
    if (code < 0x100 || other > 67) {
        return -1;
    }
    return other < 33 ? other : other < 67 ? 0x7F + other - 33 : 0xAD;
}

/* The bytes that a token of ByteLevel stands for, into to; false: one of its characters is none of
 * the alphabet. */
static bool decode_bytes(ls_token_text text, char *to, size_t *bytes) {
    *bytes = 0;
    for (size_t at = 0; at < text.bytes;) {
        uint32_t code;
        at += ls_utf8_char(text.at + at, text.at + text.bytes, &code);
        const int byte = byte_of(code);
        if (byte < 0) {
            return false;
        }
        to[(*bytes)++] = (char)byte;
    }
    return true;
}

/* --- vocab --- */

/* How many there may be: tables are as long as the largest is. */
static int64_t most_tokens(size_t count) {
    const int64_t most = 8 * (int64_t)count + 1024;
    return most < INT32_MAX ? most : INT32_MAX;
}

static ls_status check_token(const json_t *number, int64_t most, const char *text,
                             const char *path) {
    const json_int_t token = json_is_integer(number) ? json_integer_value(number) : -1;
    if (token < 0 || token >= most) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s': the id of token '%.*s' is %s%" JSON_INTEGER_FORMAT "; 0 to %" PRId64
                       " is expected of so many tokens",
                       path, shown_bytes(strlen(text)), text,
                       json_is_integer(number) ? "" : "no whole number: ", token, most - 1);
    }
    return LS_OK;
}

static ls_status tables_make(ls_tokenizer *t, uint32_t count) {
    t->count = count;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *t->texts, &t->texts));
    return ls_calloc((size_t)count + 1, sizeof *t->shown, &t->shown);
}

/* The texts as they stand in the file, borrowed from it. */
static ls_status read_texts(ls_tokenizer *t, json_t *vocab, const json_t *added, const char *path) {
    const size_t added_count = json_array_size(added);
    const int64_t most = most_tokens(json_object_size(vocab) + added_count);
    json_int_t last = -1;
    const char *text;
    json_t *number;
    json_object_foreach(vocab, text, number) {
        LS_TRY(check_token(number, most, text, path));
        last = json_integer_value(number) > last ? json_integer_value(number) : last;
    }
    for (size_t i = 0; i < added_count; i++) {
        const json_t *item = json_array_get(added, i);
        const char *content = json_string_value(json_object_get(item, "content"));
        if (!content || !*content) {
            return LS_FAIL(LS_E_INPUT, "'%s': item %zu of added_tokens has no content", path, i);
        }
        number = json_object_get(item, "id");
        LS_TRY(check_token(number, most, content, path));
        last = json_integer_value(number) > last ? json_integer_value(number) : last;
    }
    LS_TRY(tables_make(t, (uint32_t)(last + 1)));
    json_object_foreach(vocab, text, number) {
        ls_token_text *place = &t->texts[json_integer_value(number)];
        if (place->at) {
            return LS_FAIL(LS_E_INPUT, "'%s': tokens '%.*s' and '%.*s' both have id %lld", path,
                           shown_bytes(place->bytes), place->at, shown_bytes(strlen(text)), text,
                           (long long)json_integer_value(number));
        }
        *place = (ls_token_text){text, strlen(text)};
    }
    return LS_OK;
}

/* The tokens of <0x00> to <0xFF>: all or none. */
static ls_status read_fallback(ls_tokenizer *t, bool fallback, const ls_token_map *names,
                               const char *path) {
    int count = 0;
    memset(t->byte_tokens, 0xFF, sizeof t->byte_tokens);
    for (int i = 0; fallback && i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        t->byte_tokens[i] = ls_token_map_find(names, name, 6);
        count += t->byte_tokens[i] != LS_NO_TOKEN;
    }
    if (count > 0 && count < 256) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': byte_fallback with %d of the tokens <0x00> to <0xFF>; all 256 are "
                       "expected",
                       path, count);
    }
    return LS_OK;
}

int ls_tokenizer_fallback_byte(const ls_tokenizer *t, uint32_t token) {
    const ls_token_text text = t->texts[token];
    if (text.bytes == 6 && memcmp(text.at, "<0x", 3) == 0) {
        for (int i = 0; i < 256; i++) {
            if (t->byte_tokens[i] == token) {
                return i;
            }
        }
    }
    return -1;
}

/* --- merges --- */

/* A line "left right", or [left, right]. */
static bool merge_sides(const json_t *item, ls_token_text *left, ls_token_text *right) {
    if (json_is_array(item)) {
        const json_t *a = json_array_get(item, 0), *b = json_array_get(item, 1);
        *left = (ls_token_text){json_string_value(a), json_string_length(a)};
        *right = (ls_token_text){json_string_value(b), json_string_length(b)};
        return json_array_size(item) == 2 && left->at && right->at && left->bytes && right->bytes;
    }
    const char *line = json_string_value(item);
    const char *space = line ? strchr(line, ' ') : NULL;
    if (!space || space == line || !space[1] || strchr(space + 1, ' ')) {
        return false;
    }
    *left = (ls_token_text){line, (size_t)(space - line)};
    *right = (ls_token_text){space + 1, strlen(space + 1)};
    return true;
}

/* joined: room for the text of both. */
static ls_status read_merge(const json_t *item, size_t rank, const ls_token_map *names,
                            char *joined, size_t most, const char *path, ls_token_merge *merge) {
    ls_token_text left, right;
    if (!merge_sides(item, &left, &right)) {
        return LS_FAIL(LS_E_INPUT, "'%s': item %zu of merges is neither \"a b\" nor [\"a\", \"b\"]",
                       path, rank);
    }
    *merge = (ls_token_merge){.left = ls_token_map_find(names, left.at, left.bytes),
                              .right = ls_token_map_find(names, right.at, right.bytes),
                              .token = LS_NO_TOKEN,
                              .rank = (uint32_t)rank};
    if (left.bytes + right.bytes <= most) {
        memcpy(joined, left.at, left.bytes);
        memcpy(joined + left.bytes, right.at, right.bytes);
        merge->token = ls_token_map_find(names, joined, left.bytes + right.bytes);
    }
    if (merge->left == LS_NO_TOKEN || merge->right == LS_NO_TOKEN || merge->token == LS_NO_TOKEN) {
        return LS_FAIL(LS_E_INPUT, "'%s': item %zu of merges, '%.*s' and '%.*s': %s is no token",
                       path, rank, shown_bytes(left.bytes), left.at, shown_bytes(right.bytes),
                       right.at,
                       merge->left == LS_NO_TOKEN    ? "the first"
                       : merge->right == LS_NO_TOKEN ? "the second"
                                                     : "what they make");
    }
    return LS_OK;
}

static ls_status read_merges(ls_tokenizer *t, const json_t *list, const ls_token_map *names,
                             ls_token_merge *merges, const char *path) {
    size_t most = 0;
    for (uint32_t i = 0; i < t->count; i++) {
        most = t->texts[i].bytes > most ? t->texts[i].bytes : most;
    }
    char *joined;
    LS_TRY(ls_calloc(most + 1, 1, &joined));
    ls_status status = ls_token_merges_make(t, json_array_size(list));
    for (size_t i = 0; status == LS_OK && i < json_array_size(list); i++) {
        status = read_merge(json_array_get(list, i), i, names, joined, most, path, &merges[i]);
        if (status == LS_OK) {
            ls_token_merges_add(t, merges[i]);
        }
    }
    free(joined);
    return status;
}

/* --- what tokens stand for --- */

static size_t texts_bytes(const ls_tokenizer *t) {
    size_t bytes = 1;
    for (uint32_t i = 0; i < t->count; i++) {
        bytes += t->texts[i].bytes;
    }
    return bytes;
}

static char *put_shown(const ls_tokenizer *t, uint32_t token, char *to) {
    const ls_token_text text = t->texts[token];
    size_t bytes;
    if (t->byte_level) {
        return decode_bytes(text, to, &bytes) ? to + bytes : mempcpy(to, text.at, text.bytes);
    }
    const int byte = ls_tokenizer_fallback_byte(t, token);
    if (byte >= 0) {
        *to = (char)byte;
        return to + 1;
    }
    for (size_t i = 0; i < text.bytes;) {
        if (t->spaces && text.bytes - i >= 3 && memcmp(text.at + i, LS_UTF8_SPACE, 3) == 0) {
            *to++ = ' ';
            i += 3;
        } else {
            *to++ = text.at[i++];
        }
    }
    return to;
}

/* Texts of the tokenizer's own in place of those borrowed from the file, and the map of them. */
static ls_status own_texts(ls_tokenizer *t) {
    const size_t bytes = texts_bytes(t);
    LS_TRY(ls_calloc(bytes, 1, &t->shown_memory));
    LS_TRY(ls_calloc(bytes, 1, &t->texts_memory));
    LS_TRY(ls_token_map_make(&t->map, t->count, t->texts));
    char *text_to = t->texts_memory, *shown_to = t->shown_memory;
    for (uint32_t i = 0; i < t->count; i++) {
        ls_token_text *text = &t->texts[i];
        if (!text->at) {
            continue;
        }
        char *end = put_shown(t, i, shown_to);
        t->shown[i] = (ls_token_text){shown_to, (size_t)(end - shown_to)};
        shown_to = end;
        bool merged = !t->byte_level;
        if (t->byte_level) {
            size_t decoded;
            merged = decode_bytes(*text, text_to, &decoded);
            text->bytes = merged ? decoded : text->bytes;
        }
        if (!t->byte_level || !merged) {
            memcpy(text_to, text->at, text->bytes);
        }
        text->at = text_to;
        text_to += text->bytes;
        if (merged) {
            ls_token_map_add(&t->map, i);
        }
    }
    return LS_OK;
}

/* --- the model --- */

static ls_status check_model(const json_t *model, const char *path) {
    const json_t *type = json_object_get(model, "type");
    if (!json_is_object(model) || (type && strcmp(ls_tokenizer_type(model), "BPE") != 0)) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': model %s; BPE is known", path,
                       ls_tokenizer_type(model));
    }
    if (json_number_value(json_object_get(model, "dropout")) != 0) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': model with dropout; it has to be null", path);
    }
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        if (json_string_length(json_object_get(model, affixes[i])) > 0) {
            return LS_FAIL(LS_E_UNSUPPORTED, "'%s': model with %s '%s'; it has to be null", path,
                           affixes[i], json_string_value(json_object_get(model, affixes[i])));
        }
    }
    if (!json_is_object(json_object_get(model, "vocab")) ||
        !json_is_array(json_object_get(model, "merges"))) {
        return LS_FAIL(LS_E_INPUT, "'%s': model lacks its vocab or merges", path);
    }
    return LS_OK;
}

static ls_status read_flags(ls_tokenizer *t, const json_t *model, const char *path,
                            bool *fallback) {
    LS_TRY(ls_tokenizer_flag(model, "fuse_unk", false, path, &t->fuse_unknown));
    LS_TRY(ls_tokenizer_flag(model, "ignore_merges", false, path, &t->ignore_merges));
    LS_TRY(ls_tokenizer_flag(model, "byte_fallback", false, path, fallback));
    if (t->ignore_merges && !t->byte_level) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': ignore_merges without ByteLevel", path);
    }
    return LS_OK;
}

/* What the texts as they stand in the file are needed for. */
static ls_status read_named(ls_tokenizer *t, const json_t *model, bool fallback,
                            const ls_token_map *names, ls_token_merge *merges, const char *path) {
    const json_t *unknown = json_object_get(model, "unk_token");
    t->unknown = json_is_string(unknown) ? ls_token_map_find(names, json_string_value(unknown),
                                                             json_string_length(unknown))
                                         : LS_NO_TOKEN;
    t->space_token = ls_token_map_find(names, LS_UTF8_SPACE, 3);
    LS_TRY(read_fallback(t, fallback, names, path));
    if (t->byte_level && t->byte_tokens[0] != LS_NO_TOKEN) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': byte_fallback with ByteLevel", path);
    }
    const json_t *list = json_object_get(model, "merges");
    LS_TRY(read_merges(t, list, names, merges, path));
    return t->byte_level ? LS_OK : ls_tokenizer_cuts_make(t, merges, json_array_size(list));
}

ls_status ls_tokenizer_read_model(ls_tokenizer *t, const json_t *root, const char *path) {
    const json_t *model = json_object_get(root, "model");
    const json_t *added;
    bool fallback = false;
    LS_TRY(check_model(model, path));
    LS_TRY(ls_tokenizer_items(root, "added_tokens", false, path, &added));
    LS_TRY(read_flags(t, model, path, &fallback));
    LS_TRY(read_texts(t, json_object_get(model, "vocab"), added, path));
    ls_token_map names = {0};
    ls_token_merge *merges = NULL;
    ls_status status = ls_token_map_make(&names, t->count, t->texts);
    if (status == LS_OK) {
        status = ls_calloc(json_array_size(json_object_get(model, "merges")) + 1, sizeof *merges,
                           &merges);
    }
    for (uint32_t i = 0; status == LS_OK && i < t->count; i++) {
        if (t->texts[i].at) {
            ls_token_map_add(&names, i); /* texts are the names of an object: each is there once */
        }
    }
    if (status == LS_OK) {
        status = read_named(t, model, fallback, &names, merges, path);
    }
    free(names.slots);
    free(merges);
    LS_TRY(status);
    LS_TRY(own_texts(t));
    if (t->byte_level) {
        for (int i = 0; i < 256; i++) {
            const char byte = (char)i;
            t->byte_tokens[i] = ls_token_map_find(&t->map, &byte, 1);
        }
    }
    return ls_tokenizer_read_added(t, root, path);
}
