/* The next piece by the patterns of GPT-2, Llama-3, Qwen, gpt-oss and Mistral NeMo, where ASCII
 * decides it: what PCRE2 finds, several times as fast. */
#include "runtime/data/tokenizer_scan.h"

#include <stdbool.h>
#include <string.h>

enum { LETTER = 1, DIGIT = 2, SPACE = 4, OTHER = 8, WIDE = 16 }; /* \p{L} \p{N} \s */

static const unsigned char kinds[256] = {
    [0 ... 8] = OTHER,     ['\t' ... '\r'] = SPACE, [14 ... 31] = OTHER,   [' '] = SPACE,
    ['!' ... '/'] = OTHER, ['0' ... '9'] = DIGIT,   [':' ... '@'] = OTHER, ['A' ... 'Z'] = LETTER,
    ['[' ... '`'] = OTHER, ['a' ... 'z'] = LETTER,  ['{' ... 127] = OTHER, [128 ... 255] = WIDE,
};

/* 0 at the end. */
static int kind_at(const char *at, const char *end) {
    return at < end ? kinds[(unsigned char)*at] : 0;
}

/* The end of a run of one kind. */
static const char *run(const char *at, const char *end, int kind) {
    while (at < end && kinds[(unsigned char)*at] == kind) {
        at++;
    }
    return at;
}

static bool is_newline(char c) {
    return c == '\n' || c == '\r';
}

/* Bytes of the contraction at an apostrophe; 0: none. fold: in either case. */
static size_t contraction(const char *at, const char *end, bool fold) {
    const char lower = fold ? 0x20 : 0;
    const char a = (char)(end - at > 1 ? at[1] | lower : 0);
    const char b = (char)(end - at > 2 ? at[2] | lower : 0);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') {
        return 2;
    }
    return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ for the run of space [at, space_end). */
static size_t space(const char *at, const char *space_end, const char *end) {
    const size_t bytes = (size_t)(space_end - at);
    return space_end == end || bytes == 1 ? bytes : bytes - 1;
}

static size_t scan_gpt2(const char *at, const char *end) {
    if (*at == '\'') {
        const size_t bytes = contraction(at, end, false);
        if (bytes > 0) {
            return bytes;
        }
    }
    const char *body = at + (*at == ' ');
    const int kind = kind_at(body, end);
    if (kind == LETTER || kind == DIGIT || kind == OTHER) {
        const char *stop = run(body + 1, end, kind);
        return kind_at(stop, end) == WIDE ? 0 : (size_t)(stop - at);
    }
    if (kind == WIDE) {
        return 0;
    }
    const char *stop = run(at, end, SPACE);
    return kind_at(stop, end) == WIDE ? 0 : space(at, stop, end);
}

/* \p{L}+ from `first` on; the piece begins at `at`. */
static size_t letters(const char *at, const char *first, const char *end) {
    const char *stop = run(first, end, LETTER);
    return kind_at(stop, end) == WIDE ? 0 : (size_t)(stop - at);
}

/* \p{N}{1,most} */
static size_t digits(const char *at, const char *end, int most) {
    int count = 1;
    while (count < most && kind_at(at + count, end) == DIGIT) {
        count++;
    }
    return count < most && kind_at(at + count, end) == WIDE ? 0 : (size_t)count;
}

/* \s*[\r\n]+|\s+(?!\S)|\s+ */
static size_t space_or_lines(const char *at, const char *end) {
    const char *stop = run(at, end, SPACE);
    if (kind_at(stop, end) == WIDE) {
        return 0;
    }
    for (const char *last = stop; last > at; last--) {
        if (is_newline(last[-1])) {
            return (size_t)(last - at);
        }
    }
    return space(at, stop, end);
}

/*  ?[^\s\p{L}\p{N}]+[\r\n]*, or [\r\n/]* with slashes */
static size_t others(const char *at, const char *end, bool slashes) {
    const char *stop = run(at + 1, end, OTHER);
    if (kind_at(stop, end) == WIDE) {
        return 0;
    }
    while (stop < end && (is_newline(*stop) || (slashes && *stop == '/'))) {
        stop++;
    }
    return (size_t)(stop - at);
}

static size_t scan_llama3(const char *at, const char *end, int most_digits) {
    const int kind = kinds[(unsigned char)*at], next = kind_at(at + 1, end);
    if (kind == LETTER) {
        return letters(at, at + 1, end);
    }
    if (kind == DIGIT) {
        return digits(at, end, most_digits);
    }
    if (kind == WIDE || next == WIDE) { /* may be a letter, space, or 's with a long s */
        return 0;
    }
    if (*at == '\'') {
        const size_t bytes = contraction(at, end, true);
        if (bytes > 0) {
            return bytes;
        }
    }
    if (next == LETTER && !is_newline(*at)) {
        return letters(at, at + 1, end);
    }
    if (kind == OTHER || (*at == ' ' && next == OTHER)) {
        return others(at, end, false);
    }
    return space_or_lines(at, end);
}

static size_t scan_three_digits(const char *at, const char *end) {
    return scan_llama3(at, end, 3);
}

static size_t scan_one_digit(const char *at, const char *end) {
    return scan_llama3(at, end, 1);
}

/* Capitals, then small letters, one of both at least, from `first` on; and a contraction. */
static size_t cased_word(const char *at, const char *first, const char *end, bool contractions) {
    const char *stop = first;
    while (stop < end && *stop >= 'A' && *stop <= 'Z') {
        stop++;
    }
    while (stop < end && *stop >= 'a' && *stop <= 'z') {
        stop++;
    }
    if (kind_at(stop, end) == WIDE) {
        return 0;
    }
    if (contractions && stop < end && *stop == '\'') {
        if (kind_at(stop + 1, end) == WIDE) { /* may be a long s */
            return 0;
        }
        stop += contraction(stop, end, true);
    }
    return (size_t)(stop - at);
}

static size_t scan_cased(const char *at, const char *end, int most_digits, bool contractions) {
    const int kind = kinds[(unsigned char)*at], next = kind_at(at + 1, end);
    if (kind == LETTER) {
        return cased_word(at, at, end, contractions);
    }
    if (kind == DIGIT) {
        return digits(at, end, most_digits);
    }
    if (kind == WIDE || next == WIDE) {
        return 0;
    }
    if (next == LETTER && !is_newline(*at)) {
        return cased_word(at, at + 1, end, contractions);
    }
    if (kind == OTHER || (*at == ' ' && next == OTHER)) {
        return others(at, end, true);
    }
    return space_or_lines(at, end);
}

static size_t scan_o200k(const char *at, const char *end) {
    return scan_cased(at, end, 3, true);
}

static size_t scan_tekken(const char *at, const char *end) {
    return scan_cased(at, end, 1, false);
}

#define BEGIN "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?"
#define END   "+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define SOME     "[^\\r\\n\\p{L}\\p{N}]?"
#define CAPITALS "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define SMALL    "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SHORT    "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
#define REST     "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

ls_scan *ls_scan_of(const char *pattern) {
    static const struct {
        const char *pattern;
        ls_scan *scan;
    } known[] = {
        {LS_GPT2_PATTERN, scan_gpt2},
        {BEGIN "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]" END, scan_three_digits}, /* Llama-3 */
        {BEGIN "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]" END, scan_one_digit}, /* Qwen2, Qwen3 */
        {BEGIN "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]" END,    /* Qwen3.5 */
         scan_one_digit},
        {SOME CAPITALS "*" SMALL "+" SHORT "|" SOME CAPITALS "+" SMALL "*" SHORT
                       "|\\p{N}{1,3}" REST,
         scan_o200k}, /* gpt-oss, Llama-4 */
        {SOME CAPITALS "*" SMALL "+|" SOME CAPITALS "+" SMALL "*|\\p{N}" REST,
         scan_tekken}, /* Mistral NeMo */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(pattern, known[i].pattern) == 0) {
            return known[i].scan;
        }
    }
    return NULL;
}
