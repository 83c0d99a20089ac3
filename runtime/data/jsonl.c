/* The scan accepts a part of what the library accepts (RFC 8259): names without escapes, up to
 * MAX_NAMES of them in an object, numbers without exponent, MAX_DEPTH levels. */
#include "runtime/data/jsonl.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/shard.h"

enum { MAX_NAMES = 32, MAX_DEPTH = 8, MAX_DIGITS = 17 };

typedef struct scan {
    const char *at, *end;
    const char *field;
    size_t field_bytes;
    const char *text, *text_end; /* of the field, as it stands in the line; NULL: not met */
    bool text_escaped;
} scan;

typedef struct name {
    const char *at;
    size_t bytes;
} name;

static bool blank(const char *line, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (!strchr(" \t\r", line[i]) || line[i] == '\0') {
            return false;
        }
    }
    return true;
}

static void skip_space(scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\r')) {
        s->at++;
    }
}

static bool take(scan *s, char wanted) {
    const bool is = s->at < s->end && *s->at == wanted;
    s->at += is;
    return is;
}

/* Goes on to the next byte that is no plain ASCII of a string: a quote, a backslash, a control
 * character or part of a longer character. Eight bytes at a time: the highest bit of a byte of
 * `stops` is set where the byte, or what was borrowed from it by one below, is such; the lowest
 * one is right, and the first in memory where numbers begin with their lowest byte. */
static void skip_plain(scan *s) {
    const uint64_t ones = 0x0101010101010101, high = 0x80 * ones;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (s->end - s->at >= 8) {
        uint64_t word;
        memcpy(&word, s->at, 8);
        const uint64_t quotes = word ^ '"' * ones, escapes = word ^ '\\' * ones;
        const uint64_t stops =
            ((word - 0x20 * ones) | (quotes - ones) | (escapes - ones) | word) & high;
        if (stops) {
            s->at += __builtin_ctzll(stops) / 8;
            return;
        }
        s->at += 8;
    }
#endif
    while (s->at < s->end && *s->at != '"' && *s->at != '\\' && (signed char)*s->at >= 0x20) {
        s->at++;
    }
}

/* One character of two to four bytes, in its shortest form, no surrogate (RFC 3629). */
static bool skip_wide(scan *s) {
    const unsigned char *c = (const unsigned char *)s->at;
    const ptrdiff_t left = s->end - s->at;
    const int more = c[0] >= 0xF0 ? 3 : c[0] >= 0xE0 ? 2 : 1;
    if (c[0] < 0xC2 || c[0] > 0xF4 || left <= more) {
        return false;
    }
    for (int i = 1; i <= more; i++) {
        if (c[i] >> 6 != 2) {
            return false;
        }
    }
    s->at += 1 + more;
    switch (c[0]) {
    case 0xE0:
        return c[1] >= 0xA0;
    case 0xED:
        return c[1] < 0xA0;
    case 0xF0:
        return c[1] >= 0x90;
    case 0xF4:
        return c[1] < 0x90;
    default:
        return true;
    }
}

/* The four hexadecimal digits at `at`, or -1. */
static int32_t hex4(const char *at, const char *end) {
    int32_t value = 0;
    for (int i = 0; i < 4; i++, at++) {
        const char c = at < end ? *at : '\0';
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* Behind a backslash: its character, and *bytes of the line that it takes; -1 when there is none.
 */
static int32_t escaped(const char *at, const char *end, int *bytes) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char c = at < end ? *at : '\0';
    const char *letter = c ? strchr(letters, c) : NULL;
    *bytes = 1;
    if (letter) {
        return meant[letter - letters];
    }
    int32_t code = c == 'u' ? hex4(at + 1, end) : -1;
    *bytes = 5;
    if (code >= 0xD800 && code < 0xDC00) { /* the first half of a pair */
        const bool goes_on = end - at > 6 && at[5] == '\\' && at[6] == 'u';
        const int32_t low = goes_on ? hex4(at + 7, end) : -1;
        *bytes = 11;
        return low >= 0xDC00 && low < 0xE000 ? 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
                                             : -1;
    }
    return code >= 0xDC00 && code < 0xE000 ? -1 : code;
}

/* Behind the opening quote; *end is where the closing one stands. */
static bool string(scan *s, const char **end, bool *has_escapes) {
    *has_escapes = false;
    for (;;) {
        skip_plain(s);
        if (s->at == s->end) {
            return false;
        }
        if (*s->at == '"') {
            *end = s->at++;
            return true;
        }
        if (*s->at == '\\') {
            int bytes;
            if (escaped(s->at + 1, s->end, &bytes) < 0) {
                return false;
            }
            s->at += 1 + bytes;
            *has_escapes = true;
        } else if ((unsigned char)*s->at < 0x80 || !skip_wide(s)) {
            return false;
        }
    }
}

static int digits(scan *s) {
    const char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') {
        s->at++;
    }
    return s->at - first <= MAX_DIGITS ? (int)(s->at - first) : 0;
}

static bool number(scan *s) {
    take(s, '-');
    const char *first = s->at;
    const int whole = digits(s);
    if (whole == 0 || (whole > 1 && *first == '0') || (take(s, '.') && digits(s) == 0)) {
        return false;
    }
    return s->at == s->end || (*s->at != 'e' && *s->at != 'E');
}

static bool word(scan *s, const char *wanted) {
    const size_t bytes = strlen(wanted);
    const bool is = (size_t)(s->end - s->at) >= bytes && memcmp(s->at, wanted, bytes) == 0;
    s->at += is ? bytes : 0;
    return is;
}

static bool object(scan *s, int depth);

static bool value(scan *s, int depth) {
    const char *end;
    bool escapes;
    if (s->at == s->end || depth > MAX_DEPTH) {
        return false;
    }
    switch (*s->at) {
    case '"':
        s->at++;
        return string(s, &end, &escapes);
    case '{':
        return object(s, depth);
    case '[':
        s->at++;
        skip_space(s);
        if (take(s, ']')) {
            return true;
        }
        do {
            skip_space(s);
            if (!value(s, depth + 1)) {
                return false;
            }
            skip_space(s);
        } while (take(s, ','));
        return take(s, ']');
    case 't':
        return word(s, "true");
    case 'f':
        return word(s, "false");
    case 'n':
        return word(s, "null");
    default:
        return number(s);
    }
}

/* What stands under a name: the field's text is kept. */
static bool member(scan *s, name key, int depth) {
    if (depth > 0 || key.bytes != s->field_bytes || memcmp(key.at, s->field, key.bytes) != 0) {
        return value(s, depth + 1);
    }
    const bool is_string = take(s, '"');
    s->text = s->at;
    return is_string && string(s, &s->text_end, &s->text_escaped);
}

static bool object(scan *s, int depth) {
    name names[MAX_NAMES];
    s->at++;
    skip_space(s);
    if (take(s, '}')) {
        return true;
    }
    int count = 0;
    do {
        skip_space(s);
        const bool quoted = take(s, '"');
        name key = {.at = s->at};
        const char *end;
        bool escapes;
        if (!quoted || count == MAX_NAMES || !string(s, &end, &escapes) || escapes) {
            return false;
        }
        key.bytes = (size_t)(end - key.at);
        for (int i = 0; i < count; i++) {
            if (names[i].bytes == key.bytes && memcmp(names[i].at, key.at, key.bytes) == 0) {
                return false;
            }
        }
        names[count++] = key;
        skip_space(s);
        if (!take(s, ':')) {
            return false;
        }
        skip_space(s);
        if (!member(s, key, depth)) {
            return false;
        }
        skip_space(s);
    } while (take(s, ','));
    return take(s, '}');
}

static char *put_utf8(char *to, int32_t code) {
    if (code < 0x80) {
        *to++ = (char)code;
        return to;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    const int lead[] = {0, 0xC0, 0xE0, 0xF0};
    *to++ = (char)(lead[more] | code >> 6 * more);
    for (int i = more - 1; i >= 0; i--) {
        *to++ = (char)(0x80 | (code >> 6 * i & 0x3F));
    }
    return to;
}

/* Replaces the escapes of a string that was scanned: none is shorter than what it means. */
static size_t unescape(char *text, const char *end) {
    char *to = text;
    for (const char *from = text; from < end;) {
        const char *escape = memchr(from, '\\', (size_t)(end - from));
        const size_t plain = (size_t)((escape ? escape : end) - from);
        memmove(to, from, plain);
        to += plain;
        from += plain;
        if (escape) {
            int bytes;
            to = put_utf8(to, escaped(from + 1, end, &bytes));
            from += 1 + bytes;
        }
    }
    return (size_t)(to - text);
}

bool ls_jsonl_scan(char *line, size_t bytes, const char *field, ls_jsonl *found) {
    scan s = {.at = line, .end = line + bytes, .field = field, .field_bytes = strlen(field)};
    skip_space(&s);
    if (s.at == s.end || *s.at != '{' || !object(&s, 0) || !s.text) {
        return false;
    }
    skip_space(&s);
    if (s.at != s.end) {
        return false;
    }
    char *text = line + (s.text - line);
    *found = (ls_jsonl){.text = text, .bytes = (size_t)(s.text_end - s.text)};
    if (s.text_escaped) {
        found->bytes = unescape(text, s.text_end);
    }
    return true;
}

/* *root: the caller's on LS_OK, else NULL. */
static ls_status parse_object(const char *line, size_t bytes, const char *field, const char *usual,
                              json_t **root) {
    json_error_t error;
    *root = json_loadb(line, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!*root) {
        return LS_FAIL(LS_E_INPUT, "not valid JSON: %s (column %d)", error.text, error.column);
    }
    if (!json_is_object(*root)) {
        json_decref(*root);
        *root = NULL;
        return LS_FAIL(LS_E_INPUT, "expected an object, {\"%s\": %s}", field, usual);
    }
    return LS_OK;
}

/* The value of a field, borrowed from root. */
static ls_status find(const json_t *root, const char *field, const char *option,
                      const json_t **value) {
    *value = json_object_get(root, field);
    void *first = json_object_iter((json_t *)root);
    return *value ? LS_OK
                  : LS_FAIL(LS_E_INPUT, "no field '%s' (the first field is '%s'); choose with --%s",
                            field, first ? json_object_iter_key(first) : "", option);
}

static ls_status find_text(const json_t *root, const char *field, const char *option,
                           const char **text, size_t *bytes) {
    const json_t *value;
    LS_TRY(find(root, field, option, &value));
    if (!json_is_string(value)) {
        return LS_FAIL(LS_E_INPUT, "field '%s' is no string%s", field,
                       json_is_array(value) ? "; --vocab and --separator take arrays of tokens"
                                            : "");
    }
    *text = json_string_value(value);
    *bytes = json_string_length(value);
    return LS_OK;
}

static ls_status check_token(const json_t *item, size_t i, const ls_jsonl_form *form) {
    const json_int_t token = json_is_integer(item) ? json_integer_value(item) : -1;
    if (token >= 0 && token < form->vocab) {
        return LS_OK;
    }
    return json_is_integer(item)
               ? LS_FAIL(LS_E_INPUT,
                         "token %lld of field '%s' is %lld; at most %lld is expected: raise "
                         "--vocab, or was it made with another tokenizer?",
                         (long long)i, form->field, (long long)json_integer_value(item),
                         (long long)form->vocab - 1)
               : LS_FAIL(LS_E_INPUT, "item %lld of field '%s' is no whole number", (long long)i,
                         form->field);
}

/* 1 or true: a target. */
static ls_status read_mask(const json_t *item, size_t i, const ls_jsonl_form *form, bool *target) {
    const json_int_t number = json_is_integer(item) ? json_integer_value(item) : -1;
    *target = json_is_true(item) || number == 1;
    return *target || json_is_false(item) || number == 0
               ? LS_OK
               : LS_FAIL(LS_E_INPUT,
                         "item %lld of field '%s' is neither 0 (no target) nor 1 (a target)",
                         (long long)i, form->mask);
}

/* The array's numbers into found, and how many there are. mask: NULL, or as long. */
static ls_status read_tokens(const json_t *array, const json_t *mask, const ls_jsonl_form *form,
                             ls_jsonl *found) {
    const size_t width = (size_t)form->token_bytes;
    size_t i;
    const json_t *item;
    bool target = true, ends = false;
    json_array_foreach(array, i, item) {
        LS_TRY(check_token(item, i, form));
        LS_TRY(mask ? read_mask(json_array_get(mask, i), i, form, &target) : LS_OK);
        const uint32_t number = /* little-endian, as shards are */
            (uint32_t)json_integer_value(item) | (target ? 0 : LS_SHARD_NO_TARGET);
        memcpy(found->tokens + i * width, &number, width);
        ends = json_integer_value(item) == form->separator;
    }
    found->end_masked = ends && !target;
    found->text = found->tokens;
    found->bytes = (json_array_size(array) - ends) * width;
    return LS_OK;
}

static ls_status find_tokens(const json_t *root, const ls_jsonl_form *form, ls_jsonl *found) {
    const json_t *value, *mask = NULL;
    LS_TRY(find(root, form->field, "field", &value));
    if (!json_is_array(value)) {
        return LS_FAIL(LS_E_INPUT, "field '%s' is no array of tokens%s", form->field,
                       json_is_string(value) ? "; leave out --vocab to take its text" : "");
    }
    LS_TRY(form->mask ? find(root, form->mask, "loss-mask", &mask) : LS_OK);
    if (mask && json_array_size(mask) != json_array_size(value)) {
        return LS_FAIL(LS_E_INPUT,
                       "field '%s' %s; expected is an array with 0 or 1 for each of the %zu tokens "
                       "of '%s'",
                       form->mask, json_is_array(mask) ? "has another length" : "is no array",
                       json_array_size(value), form->field);
    }
    LS_TRY(ls_calloc(json_array_size(value) + 1, (size_t)form->token_bytes, &found->tokens));
    return read_tokens(value, mask, form, found);
}

ls_status ls_jsonl_parse_tokens(const char *line, size_t bytes, const ls_jsonl_form *form,
                                ls_jsonl *found) {
    *found = (ls_jsonl){0};
    if (blank(line, bytes)) {
        return LS_OK;
    }
    json_t *root;
    LS_TRY(parse_object(line, bytes, form->field, "[1, 2, ...]", &root));
    const ls_status status = find_tokens(root, form, found);
    json_decref(root);
    if (status != LS_OK) {
        free(found->tokens);
        *found = (ls_jsonl){0};
    }
    return status;
}

static ls_status find_messages(const json_t *root, const char *field, const json_t **messages) {
    LS_TRY(find(root, field, "field", messages));
    return json_array_size(*messages) > 0
               ? LS_OK
               : LS_FAIL(LS_E_INPUT,
                         "field '%s' %s; the messages of a chat are expected, [{\"role\": "
                         "\"user\", \"content\": \"...\"}, ...]",
                         field, json_is_array(*messages) ? "is empty" : "is no array");
}

ls_status ls_jsonl_parse(const char *line, size_t bytes, const ls_jsonl_form *form,
                         ls_jsonl *found) {
    *found = (ls_jsonl){0};
    if (blank(line, bytes)) {
        return LS_OK;
    }
    LS_TRY(parse_object(line, bytes, form->field, form->chat ? "[{...}, ...]" : "\"...\"",
                        &found->document));
    ls_status status =
        form->chat ? find_messages(found->document, form->field, &found->messages)
                   : find_text(found->document, form->field, "field", &found->text, &found->bytes);
    if (form->chat) {
        found->text = line;
        found->bytes = bytes;
    }
    if (status == LS_OK && form->prompt) {
        status = find_text(found->document, form->prompt, "prompt", &found->prompt,
                           &found->prompt_bytes);
    }
    if (status != LS_OK) {
        json_decref(found->document);
        *found = (ls_jsonl){0};
    }
    return status;
}
