/* Text to tokens: added tokens are taken out first, what is left is cut into pieces, and each piece
 * is merged. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_encode.h"
#include "runtime/data/tokenizer_merge.h"
#include "runtime/data/tokenizer_utf8.h"

enum { JIT_STACK_BYTES = 1 << 15, JIT_STACK_MOST = 1 << 25 };

typedef struct text_room {
    char *at;
    size_t capacity;
} text_room;

struct ls_tokenizer_work {
    const ls_tokenizer *tokenizer;
    ls_merge_work merge;
    pcre2_match_data *matches[LS_TOKENIZER_PATTERNS];
    pcre2_match_data *word_match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    text_room text;   /* one that is not as it was given */
    text_room normal; /* one in form C */
    ls_nfc_work nfc;
};

ls_status ls_tokenizer_work_make(const ls_tokenizer *tokenizer, ls_tokenizer_work **made) {
    *made = NULL;
    ls_tokenizer_work *work;
    LS_TRY(ls_calloc(1, sizeof *work, &work));
    work->tokenizer = tokenizer;
    bool whole = ls_merge_work_init(&work->merge) == LS_OK;
    for (int i = 0; i < tokenizer->pattern_count; i++) {
        work->matches[i] = pcre2_match_data_create(1, NULL);
        whole = whole && work->matches[i];
    }
    work->word_match = pcre2_match_data_create(1, NULL);
    work->context = pcre2_match_context_create(NULL);
    if (tokenizer->jit && tokenizer->pattern_count > 0) {
        work->stack = pcre2_jit_stack_create(JIT_STACK_BYTES, JIT_STACK_MOST, NULL);
        whole = whole && work->stack;
    }
    if (!whole || !work->word_match || !work->context) {
        ls_tokenizer_work_release(work);
        return LS_FAIL(LS_E_MEMORY, "no memory for a thread's part of a tokenizer");
    }
    if (work->stack) {
        pcre2_jit_stack_assign(work->context, NULL, work->stack);
    }
    *made = work;
    return LS_OK;
}

void ls_tokenizer_work_release(ls_tokenizer_work *work) {
    if (!work) {
        return;
    }
    for (int i = 0; i < LS_TOKENIZER_PATTERNS; i++) {
        pcre2_match_data_free(work->matches[i]);
    }
    pcre2_match_data_free(work->word_match);
    pcre2_match_context_free(work->context);
    pcre2_jit_stack_free(work->stack);
    ls_merge_work_release(&work->merge);
    free(work->text.at);
    free(work->normal.at);
    free(work->nfc.codes);
    free(work);
}

static ls_status reserve(text_room *room, size_t bytes) {
    if (room->capacity < bytes) {
        free(room->at);
        *room = (text_room){0};
        LS_TRY(ls_calloc(bytes, 1, &room->at));
        room->capacity = bytes;
    }
    return LS_OK;
}

/* --- pieces by patterns --- */

/* The first match in text from `at` on, [*begin, *end); both are bytes when there is none. */
static ls_status find(ls_tokenizer_work *work, int level, const char *text, size_t bytes, size_t at,
                      size_t *begin, size_t *end) {
    const pcre2_code *code = work->tokenizer->patterns[level].code;
    pcre2_match_data *match = work->matches[level];
    const int found = work->tokenizer->jit ? pcre2_jit_match(code, (PCRE2_SPTR)text, bytes, at, 0,
                                                             match, work->context)
                                           : pcre2_match(code, (PCRE2_SPTR)text, bytes, at,
                                                         PCRE2_NO_UTF_CHECK, match, work->context);
    *begin = *end = bytes;
    if (found == PCRE2_ERROR_NOMATCH) {
        return LS_OK;
    }
    if (found < 0) {
        char message[128] = "";
        pcre2_get_error_message(found, (PCRE2_UCHAR *)message, sizeof message);
        return LS_FAIL(LS_E_UNSUPPORTED, "pattern '%s' on a text of %zu bytes, from byte %zu: %s",
                       work->tokenizer->patterns[level].source, bytes, at, message);
    }
    *begin = pcre2_get_ovector_pointer(match)[0];
    *end = pcre2_get_ovector_pointer(match)[1];
    return LS_OK;
}

/* Valid UTF-8, cut by the patterns from `level` on; it can be read up to `readable`. */
static ls_status encode_valid(ls_tokenizer_work *work, int level, const char *text, size_t bytes,
                              const char *readable, ls_token_list *list) {
    const ls_tokenizer *t = work->tokenizer;
    if (level == t->pattern_count) {
        return ls_merge_piece(t, &work->merge, text, bytes, readable, list);
    }
    ls_scan *scan = t->patterns[level].scan;
    for (size_t at = 0, begin, end; at < bytes; at = end) {
        const size_t scanned = scan ? scan(text + at, text + bytes) : 0;
        begin = at;
        end = at + scanned;
        if (scanned == 0) {
            LS_TRY(find(work, level, text, bytes, at, &begin, &end));
        }
        if (begin > at && !t->patterns[level].drops_others) {
            LS_TRY(encode_valid(work, level + 1, text + at, begin - at, readable, list));
        }
        if (end > begin) {
            LS_TRY(encode_valid(work, level + 1, text + begin, end - begin, readable, list));
        }
    }
    return LS_OK;
}

size_t ls_encode_valid_bytes(const char *text, size_t bytes) {
    uint32_t code;
    size_t at = 0;
    while (at < bytes) {
        uint64_t word;
        if (bytes - at >= 8 && (memcpy(&word, text + at, 8), (word & 0x8080808080808080u) == 0)) {
            at += 8;
            continue;
        }
        const size_t step = ls_utf8_char(text + at, text + bytes, &code);
        if (code >= LS_UTF8_BAD) {
            break;
        }
        at += step;
    }
    return at;
}

ls_status ls_encode_byte(ls_tokenizer_work *work, const char *byte, ls_token_list *list) {
    return ls_merge_piece(work->tokenizer, &work->merge, byte, 1, byte + 1, list);
}

bool ls_encode_is_local(const ls_tokenizer *t) {
    return t->byte_level ? t->pattern_count > 0 && !t->looks_behind : t->safe_cuts || t->word_cuts;
}

ls_status ls_encode_piece(ls_tokenizer_work *work, const char *text, size_t bytes, size_t at,
                          size_t *next, ls_token_list *list) {
    const ls_tokenizer *t = work->tokenizer;
    if (!t->byte_level) {
        *next = ls_tokenizer_next_cut(t, text, bytes, at, false);
        return ls_merge_piece(t, &work->merge, text + at, *next - at, text + bytes, list);
    }
    const ls_split_pattern *pattern = &t->patterns[0];
    const size_t scanned = pattern->scan ? pattern->scan(text + at, text + bytes) : 0;
    size_t begin = at;
    *next = at + scanned;
    if (scanned == 0) {
        LS_TRY(find(work, 0, text, bytes, at, &begin, next));
    }
    if (begin > at) {
        *next = begin;
        if (pattern->drops_others) {
            return LS_OK;
        }
    }
    return encode_valid(work, 1, text + at, *next - at, text + bytes, list);
}

/* A byte that belongs to no character is a piece. */
static ls_status encode_bytes(ls_tokenizer_work *work, const char *text, size_t bytes,
                              ls_token_list *list) {
    for (size_t at = 0; at < bytes;) {
        const size_t valid = ls_encode_valid_bytes(text + at, bytes - at);
        if (valid > 0) {
            LS_TRY(encode_valid(work, 0, text + at, valid, text + bytes, list));
        } else {
            LS_TRY(ls_encode_byte(work, text + at, list));
        }
        at += valid ? valid : 1;
    }
    return LS_OK;
}

/* --- between added tokens --- */

static bool begins_with_space(const ls_tokenizer *t, const char *text, size_t bytes) {
    return text[0] == ' ' || (!t->byte_level && bytes >= 3 && memcmp(text, LS_UTF8_SPACE, 3) == 0);
}

bool ls_encode_lacks_space(const ls_tokenizer *t, const char *text, size_t bytes, bool at_start) {
    switch (t->prepend) {
    case LS_PREPEND_ALWAYS:
        return true;
    case LS_PREPEND_MISSING:
        return !begins_with_space(t, text, bytes);
    case LS_PREPEND_FIRST:
        return at_start && !begins_with_space(t, text, bytes);
    case LS_PREPEND_NEVER:
        break;
    }
    return false;
}

/* Text in which no added token is left, of at least a byte; at_start: the whole text's. */
static ls_status encode_between(ls_tokenizer_work *work, const char *text, size_t bytes,
                                bool at_start, ls_token_list *list) {
    const ls_tokenizer *t = work->tokenizer;
    const bool before = !t->normalizes && ls_encode_lacks_space(t, text, bytes, at_start);
    if (t->byte_level) {
        if (before) {
            LS_TRY(reserve(&work->text, bytes + 1));
            work->text.at[0] = ' ';
            memcpy(work->text.at + 1, text, bytes);
            text = work->text.at;
        }
        return encode_bytes(work, text, bytes + before, list);
    }
    size_t at = 0;
    if (before) { /* a piece of nothing but the space is possible */
        at = ls_tokenizer_next_cut(t, text, bytes, 0, true);
        LS_TRY(ls_merge_piece_behind_space(t, &work->merge, text, at, list));
    }
    for (size_t end; at < bytes; at = end) {
        end = ls_tokenizer_next_cut(t, text, bytes, at, false);
        LS_TRY(ls_merge_piece(t, &work->merge, text + at, end - at, text + bytes, list));
    }
    return LS_OK;
}

/* With U+2581 for spaces, in work->text. */
static ls_status replace_spaces(ls_tokenizer_work *work, const char *text, size_t bytes,
                                size_t *made) {
    const ls_tokenizer *t = work->tokenizer;
    LS_TRY(reserve(&work->text, 3 * bytes + 3));
    char *to = work->text.at;
    if (ls_encode_lacks_space(t, text, bytes, true)) {
        to = mempcpy(to, LS_UTF8_SPACE, 3);
    }
    for (size_t i = 0; i < bytes; i++) {
        if (text[i] == ' ' && t->spaces) {
            to = mempcpy(to, LS_UTF8_SPACE, 3);
        } else {
            *to++ = text[i];
        }
    }
    *made = (size_t)(to - work->text.at);
    return LS_OK;
}

/* Form C of the text in its place, where that is another one. */
static ls_status compose(ls_tokenizer_work *work, const char **text, size_t *bytes) {
    const ls_nfc *nfc = work->tokenizer->nfc;
    if (!nfc || ls_nfc_normal_bytes(nfc, *text, *bytes) == *bytes) {
        return LS_OK;
    }
    LS_TRY(reserve(&work->normal, LS_NFC_GROWTH * *bytes));
    LS_TRY(ls_nfc_write(nfc, &work->nfc, *text, *bytes, work->normal.at, bytes));
    *text = work->normal.at;
    return LS_OK;
}

typedef ls_status part_encode(ls_tokenizer_work *work, const char *text, size_t bytes,
                              bool at_start, ls_token_list *list);

/* The next `matches` tokens of the search, and by `between` those of what is left before them; at
 * most all, and then what is left behind them, too. A token's space may hold further ones. */
static ls_status encode_added(ls_tokenizer_work *work, ls_added_search search, size_t matches,
                              bool at_start, part_encode *between, ls_token_list *list) {
    search.word_match = work->word_match;
    for (size_t done = search.done; matches > 0; matches--) {
        const ls_added_match match = ls_added_next(&search);
        if (match.begin > done) {
            LS_TRY(
                between(work, search.text + done, match.begin - done, at_start && done == 0, list));
        }
        if (match.token == LS_NO_TOKEN) {
            break;
        }
        LS_TRY(ls_token_list_reserve(list, 1));
        list->tokens[list->count++] = match.token;
        done = match.end;
    }
    return LS_OK;
}

/* Text in which only tokens of added_normalized can be, and which is not normalized. */
static ls_status encode_normalized(ls_tokenizer_work *work, const char *text, size_t bytes,
                                   bool at_start, ls_token_list *list) {
    const ls_tokenizer *t = work->tokenizer;
    LS_TRY(compose(work, &text, &bytes));
    if (t->normalizes) {
        LS_TRY(replace_spaces(work, text, bytes, &bytes));
        text = work->text.at;
    }
    const ls_added_search search = {
        .tokenizer = t, .set = &t->added_normalized, .text = text, .bytes = bytes};
    return encode_added(work, search, SIZE_MAX, at_start, encode_between, list);
}

ls_status ls_encode_range(ls_tokenizer_work *work, ls_added_search search, size_t matches,
                          ls_token_list *list) {
    const bool normalized =
        work->tokenizer->added_normalized.count > 0 || work->tokenizer->nfc != NULL;
    return encode_added(work, search, matches, true,
                        normalized ? encode_normalized : encode_between, list);
}

ls_status ls_tokenizer_encode(ls_tokenizer_work *work, const char *text, size_t bytes,
                              ls_token_list *list) {
    const ls_added_search search = {
        .tokenizer = work->tokenizer, .set = &work->tokenizer->added, .text = text, .bytes = bytes};
    return ls_encode_range(work, search, SIZE_MAX, list);
}
