/* The patterns of tokenizer.json are written for Oniguruma; PCRE2 reads them. What both take for
 * the same goes through, \s is written as Unicode's white space (PCRE2's \s has U+180E, too), and
 * anything that the two may read differently is refused. */
#include "runtime/data/tokenizer_tables.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"

enum { MAX_PATTERN_BYTES = 1 << 16 };

typedef struct translation {
    const char *at, *end;
    char *to;
    bool in_class;
    const char *unknown; /* what is not known to mean the same; NULL: nothing */
} translation;

static void put(translation *t, const char *text, size_t bytes) {
    memcpy(t->to, text, bytes);
    t->to += bytes;
}

/* Behind a backslash. */
static void escape(translation *t) {
    const char c = *t->at;
    const char *close = t->at;
    const bool letter = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (c == 's' || c == 'S') {
        put(t, c == 's' ? "\\p{White_Space}" : "\\P{White_Space}", 15);
        t->at++;
        return;
    }
    if (strchr("pPx", c) && t->end - t->at > 1 && t->at[1] == '{') {
        close = memchr(t->at, '}', (size_t)(t->end - t->at));
    } else if ((letter && !strchr("dDrntf", c)) || (unsigned char)c >= 0x80) {
        close = NULL;
    }
    if (!close) {
        t->unknown = t->at - 1;
        return;
    }
    put(t, t->at - 1, (size_t)(close - t->at) + 2);
    t->at = close + 1;
}

static bool begins(const translation *t, const char *text) {
    return (size_t)(t->end - t->at) >= strlen(text) && memcmp(t->at, text, strlen(text)) == 0;
}

/* What stands outside of escapes. */
static void plain(translation *t) {
    static const char *const groups[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    bool known = true;
    if (t->in_class) {
        known = *t->at != '[' && !begins(t, "&&");
        t->in_class = *t->at != ']';
    } else if (*t->at == '[') {
        t->in_class = true;
        known = !begins(t, "[]") && !begins(t, "[^]");
        if (begins(t, "[^")) {
            put(t, t->at++, 1);
        }
    } else if (begins(t, "(?") || begins(t, "(*")) {
        known = false;
        for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
            known = known || begins(t, groups[i]);
        }
    } else {
        known = !strchr("^$", *t->at) && !begins(t, "}+") && !begins(t, "{,");
    }
    t->unknown = known ? NULL : t->at;
    put(t, t->at++, 1);
}

/* to has room for 8 times the bytes. False: *unknown is where. */
static bool translate(const char *source, size_t bytes, char *to, size_t *to_bytes,
                      const char **unknown) {
    translation t = {.at = source, .end = source + bytes, .to = to};
    while (t.at < t.end && !t.unknown) {
        if (*t.at == '\\' && t.end - t.at > 1) {
            t.at++;
            escape(&t);
        } else if (*t.at == '\\' || *t.at == '\0') {
            t.unknown = t.at;
        } else {
            plain(&t);
        }
    }
    *to_bytes = (size_t)(t.to - to);
    *unknown = t.unknown;
    return !t.unknown;
}

static ls_status compile(const char *pattern, size_t bytes, pcre2_code **code, const char *path) {
    int error;
    size_t at;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a pattern of '%s'", path);
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *code = pcre2_compile((PCRE2_SPTR)pattern, bytes,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, context);
    pcre2_compile_context_free(context);
    if (!*code) {
        char text[128] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': pattern '%.*s': %s", path, (int)bytes, pattern,
                       text);
    }
    return LS_OK;
}

static ls_status add(ls_tokenizer *tokenizer, const char *source, size_t bytes, char *pattern,
                     const char *path) {
    const char *unknown;
    size_t pattern_bytes;
    if (!translate(source, bytes, pattern, &pattern_bytes, &unknown)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': pattern '%s': what stands at '%.*s' is not known to mean the same "
                       "in PCRE2 as in Oniguruma",
                       path, source, 8, unknown);
    }
    ls_split_pattern *made = &tokenizer->patterns[tokenizer->pattern_count];
    LS_TRY(compile(pattern, pattern_bytes, &made->code, path));
    tokenizer->pattern_count++;
    uint32_t empty = 0, behind = 0;
    pcre2_pattern_info(made->code, PCRE2_INFO_MATCHEMPTY, &empty);
    pcre2_pattern_info(made->code, PCRE2_INFO_MAXLOOKBEHIND, &behind);
    tokenizer->looks_behind |= tokenizer->pattern_count == 1 && behind > 0;
    if (empty) {
        return LS_FAIL(LS_E_UNSUPPORTED, "'%s': pattern '%s' can match nothing", path, source);
    }
    tokenizer->jit = pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE) == 0 && tokenizer->jit;
    LS_TRY(ls_calloc(bytes + 1, 1, &made->source));
    memcpy(made->source, source, bytes);
    made->scan = ls_scan_of(made->source);
    return LS_OK;
}

ls_status ls_split_pattern_make(ls_tokenizer *tokenizer, const char *source, size_t bytes,
                                const char *path) {
    if (tokenizer->pattern_count == LS_TOKENIZER_PATTERNS || bytes > MAX_PATTERN_BYTES) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s': more than %d patterns, or one of more than %d bytes", path,
                       LS_TOKENIZER_PATTERNS, MAX_PATTERN_BYTES);
    }
    char *pattern;
    LS_TRY(ls_calloc(8 * bytes + 1, 1, &pattern));
    ls_status status = add(tokenizer, source, bytes, pattern, path);
    free(pattern);
    return status;
}

ls_status ls_word_pattern_make(ls_tokenizer *tokenizer) {
    /* \w of Unicode Technical Standard 18 */
    static const char word[] = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";
    return compile(word, sizeof word - 1, &tokenizer->word, "single_word");
}
