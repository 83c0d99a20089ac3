/* Where text without pre-tokenizing may be cut before it is merged, so that all of it need not be
 * one piece. A merge of A and B joins the last character of A with the first of B; all pairs of
 * neighbours inside tokens come about so. Where two characters stand together that no merge joins,
 * none ever reaches from one side to the other, and each side is merged as if it were alone. For
 * Llama-2 this is, among others, before each space behind a letter.
 *
 * That counts on each symbol to be one character (or the byte of one, which no merge has). */
#include "runtime/data/tokenizer_tables.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_utf8.h"

static uint64_t key_of(uint32_t left, uint32_t right) {
    return ((uint64_t)left << 32 | right) + 1; /* 0: an empty place */
}

static size_t pair_find(const ls_tokenizer *t, uint64_t key) {
    size_t i = ls_pair_place((uint32_t)(key >> 32), (uint32_t)key);
    while (t->inner_pairs[i & t->inner_mask] && t->inner_pairs[i & t->inner_mask] != key) {
        i++;
    }
    return i & t->inner_mask;
}

static uint32_t first_char(ls_token_text text) {
    uint32_t code;
    ls_utf8_char(text.at, text.at + text.bytes, &code);
    return code;
}

static uint32_t last_char(ls_token_text text) {
    uint32_t code = 0;
    for (size_t i = 0; i < text.bytes;) {
        i += ls_utf8_char(text.at + i, text.at + text.bytes, &code);
    }
    return code;
}

/* U+2581 is what a space is: one place for both. */
static uint32_t as_raw(const ls_tokenizer *t, uint32_t code) {
    return t->spaces && code == LS_UTF8_SPACE_CODE ? ' ' : code;
}

static bool is_leaf(const ls_tokenizer *t, uint32_t token) {
    return token == t->unknown || ls_tokenizer_fallback_byte(t, token) >= 0;
}

ls_status ls_tokenizer_cuts_make(ls_tokenizer *t, const ls_token_merge *merges, size_t count) {
    size_t size = 16;
    while (size < 2 * count) {
        size *= 2;
    }
    t->inner_mask = size - 1;
    LS_TRY(ls_calloc(size, sizeof *t->inner_pairs, &t->inner_pairs));
    t->safe_cuts = t->unknown == LS_NO_TOKEN || t->byte_tokens[0] != LS_NO_TOKEN;
    for (size_t i = 0; i < count; i++) {
        const ls_token_merge m = merges[i];
        if (is_leaf(t, m.left) || is_leaf(t, m.right) || is_leaf(t, m.token)) {
            t->safe_cuts = false;
        }
        const uint32_t left = as_raw(t, last_char(t->texts[m.left]));
        const uint32_t right = as_raw(t, first_char(t->texts[m.right]));
        const uint64_t key = key_of(left, right);
        t->inner_pairs[pair_find(t, key)] = key;
        if (left < 128 && right < 128) {
            t->inner_ascii[left][right / 64] |= (uint64_t)1 << right % 64;
        }
    }
    return LS_OK;
}

static bool joins(const ls_tokenizer *t, uint32_t left, uint32_t right) {
    if (left < 128 && right < 128) {
        return t->inner_ascii[left][right / 64] >> right % 64 & 1;
    }
    return t->inner_pairs[pair_find(t, key_of(left, right))] != 0;
}

size_t ls_tokenizer_next_cut(const ls_tokenizer *t, const char *text, size_t bytes, size_t at,
                             bool first) {
    uint32_t left = ' ', right;
    if (!first) {
        at += ls_utf8_char(text + at, text + bytes, &left);
        left = as_raw(t, left);
    }
    if (!t->safe_cuts && !t->word_cuts) {
        return bytes;
    }
    while (at < bytes) {
        const size_t step = ls_utf8_char(text + at, text + bytes, &right);
        right = as_raw(t, right);
        if ((t->word_cuts && right == ' ') || (t->safe_cuts && !joins(t, left, right))) {
            return at;
        }
        left = right;
        at += step;
    }
    return bytes;
}
