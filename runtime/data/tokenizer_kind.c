/* normalizer and pre_tokenizer of a tokenizer.json: one of
 *
 *   ByteLevel, or a Sequence of Split and Digits that ends with it;
 *   a normalizer of Prepend and Replace that make spaces U+2581, without pre_tokenizer but a Split
 *   at spaces, which then parts nothing;
 *   Metaspace, which does the same;
 *   neither;
 *
 * and with each of them the normalizer NFC, which has no part in spaces, so that it may stand
 * before or behind others. */
#include "runtime/data/tokenizer_read.h"

#include <string.h>

#include "runtime/data/tokenizer_utf8.h"

static const char *text_of(const json_t *part, const char *name) {
    const char *text = json_string_value(json_object_get(part, name));
    return text ? text : "";
}

/* --- normalizer --- */

typedef struct found_parts {
    bool nfc, prepended, replaced;
} found_parts;

static ls_status normalizer_part(const json_t *part, const char *path, found_parts *found) {
    const char *type = ls_tokenizer_type(part);
    const char *replaced = text_of(json_object_get(part, "pattern"), "String");
    if (strcmp(type, "NFC") == 0) {
        found->nfc = true;
    } else if (strcmp(type, "Prepend") == 0 && !found->prepended &&
               strcmp(text_of(part, "prepend"), LS_UTF8_SPACE) == 0) {
        found->prepended = true;
    } else if (strcmp(type, "Replace") == 0 && !found->replaced && strcmp(replaced, " ") == 0 &&
               strcmp(text_of(part, "content"), LS_UTF8_SPACE) == 0) {
        found->replaced = true;
    } else {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': normalizer %s; NFC, and Prepend of U+2581 and Replace of \" \" by "
                       "it, once each, are known",
                       path, type);
    }
    return LS_OK;
}

static ls_status read_normalizer(ls_tokenizer *t, const json_t *part, const char *path) {
    found_parts found = {false, false, false};
    if (!part || json_is_null(part)) {
        return LS_OK;
    }
    if (strcmp(ls_tokenizer_type(part), "Sequence") == 0) {
        const json_t *list;
        LS_TRY(ls_tokenizer_items(part, "normalizers", true, path, &list));
        for (size_t i = 0; i < json_array_size(list); i++) {
            LS_TRY(normalizer_part(json_array_get(list, i), path, &found));
        }
    } else {
        LS_TRY(normalizer_part(part, path, &found));
    }
    if (found.prepended && !found.replaced) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': normalizer Prepend without Replace of spaces",
                       path);
    }
    t->spaces = found.replaced;
    t->prepend = found.prepended ? LS_PREPEND_ALWAYS : LS_PREPEND_NEVER;
    t->normalizes = found.replaced;
    return found.nfc ? ls_nfc_make(&t->nfc) : LS_OK;
}

/* --- pre_tokenizer --- */

static ls_status read_metaspace(ls_tokenizer *t, const json_t *part, const char *path) {
    bool prefix, split;
    LS_TRY(ls_tokenizer_flag(part, "add_prefix_space", true, path, &prefix));
    LS_TRY(ls_tokenizer_flag(part, "split", true, path, &split));
    const json_t *scheme = json_object_get(part, "prepend_scheme");
    const char *name = scheme ? json_string_value(scheme) : prefix ? "always" : "never";
    name = name ? name : "";
    const ls_prepend prepend = strcmp(name, "always") == 0  ? LS_PREPEND_MISSING
                               : strcmp(name, "first") == 0 ? LS_PREPEND_FIRST
                                                            : LS_PREPEND_NEVER;
    if (strcmp(text_of(part, "replacement"), LS_UTF8_SPACE) != 0 ||
        (prepend == LS_PREPEND_NEVER && strcmp(name, "never") != 0) ||
        (!prefix && prepend != LS_PREPEND_NEVER)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': pre_tokenizer Metaspace with replacement '%s', prepend_scheme '%s'; "
                       "U+2581 and first, always and never are known",
                       path, text_of(part, "replacement"), name);
    }
    if (t->normalizes) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': both a normalizer and Metaspace", path);
    }
    t->spaces = true;
    t->word_cuts = split;
    t->prepend = prepend;
    return LS_OK;
}

static ls_status read_split(ls_tokenizer *t, const json_t *part, const char *path) {
    const char *behavior = text_of(part, "behavior");
    const json_t *pattern = json_object_get(json_object_get(part, "pattern"), "Regex");
    if (t->normalizes && strcmp(text_of(json_object_get(part, "pattern"), "String"), " ") == 0) {
        return LS_OK; /* Gemma's, at spaces, which the normalizer has left none of */
    }
    bool invert;
    LS_TRY(ls_tokenizer_flag(part, "invert", false, path, &invert));
    const bool isolated = strcmp(behavior, "Isolated") == 0;
    if (!json_is_string(pattern) || !(isolated || (strcmp(behavior, "Removed") == 0 && invert))) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': pre_tokenizer Split with behavior '%s'%s%s; a Regex that is Isolated "
                       "is known, or Removed with invert",
                       path, behavior, invert ? ", invert" : "",
                       json_is_string(pattern) ? "" : ", no Regex");
    }
    LS_TRY(ls_split_pattern_make(t, json_string_value(pattern), json_string_length(pattern), path));
    t->patterns[t->pattern_count - 1].drops_others = !isolated;
    return LS_OK;
}

static ls_status read_byte_level(ls_tokenizer *t, const json_t *part, const char *path) {
    bool prefix, regex;
    LS_TRY(ls_tokenizer_flag(part, "add_prefix_space", true, path, &prefix));
    LS_TRY(ls_tokenizer_flag(part, "use_regex", true, path, &regex));
    if (prefix && t->pattern_count > 0) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': ByteLevel with add_prefix_space behind other pre-tokenizers", path);
    }
    if (regex) {
        LS_TRY(ls_split_pattern_make(t, LS_GPT2_PATTERN, sizeof LS_GPT2_PATTERN - 1, path));
    }
    t->byte_level = true;
    t->prepend = prefix ? LS_PREPEND_MISSING : LS_PREPEND_NEVER;
    return LS_OK;
}

/* alone: it is no part of a sequence. */
static ls_status pre_tokenizer_part(ls_tokenizer *t, const json_t *part, bool alone,
                                    const char *path) {
    const char *type = ls_tokenizer_type(part);
    if (t->byte_level) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': pre_tokenizer %s behind ByteLevel", path, type);
    }
    if (strcmp(type, "ByteLevel") == 0) {
        return read_byte_level(t, part, path);
    }
    if (strcmp(type, "Metaspace") == 0 && alone) {
        return read_metaspace(t, part, path);
    }
    if (strcmp(type, "Split") == 0) {
        return read_split(t, part, path);
    }
    if (strcmp(type, "Digits") == 0) {
        bool single;
        LS_TRY(ls_tokenizer_flag(part, "individual_digits", false, path, &single));
        return ls_split_pattern_make(t, single ? "\\p{N}" : "\\p{N}+", single ? 5 : 6, path);
    }
    return LS_FAIL(LS_E_UNSUPPORTED,
                   "'%s': pre_tokenizer %s; ByteLevel, sequences of Split and Digits before it, "
                   "and Metaspace alone are known",
                   path, type);
}

static ls_status read_pre_tokenizer(ls_tokenizer *t, const json_t *part, const char *path) {
    if (!part || json_is_null(part)) {
        return LS_OK;
    }
    if (strcmp(ls_tokenizer_type(part), "Sequence") != 0) {
        LS_TRY(pre_tokenizer_part(t, part, true, path));
    } else {
        const json_t *list;
        LS_TRY(ls_tokenizer_items(part, "pretokenizers", true, path, &list));
        const size_t count = json_array_size(list);
        for (size_t i = 0; i < count; i++) {
            LS_TRY(pre_tokenizer_part(t, json_array_get(list, i), count == 1, path));
        }
    }
    if (t->pattern_count > 0 && !t->byte_level) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': pre_tokenizer %s without ByteLevel at its end",
                       path, ls_tokenizer_type(part));
    }
    return LS_OK;
}

ls_status ls_tokenizer_read_kind(ls_tokenizer *t, const json_t *root, const char *path) {
    t->jit = true;
    LS_TRY(read_normalizer(t, json_object_get(root, "normalizer"), path));
    const bool normalizes = t->normalizes;
    LS_TRY(read_pre_tokenizer(t, json_object_get(root, "pre_tokenizer"), path));
    if (t->byte_level && normalizes) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': normalizer Replace with ByteLevel; NFC is known",
                       path);
    }
    return LS_OK;
}
