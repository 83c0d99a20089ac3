/* The first byte of the input chooses: the rest is a tokenizer.json, which ends in a tokenizer or
 * an error; or it is text, which its tokens stand for, by any number of threads the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_encode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { KINDS = 6, BYTE_FALLBACK = 3, A_FILE = 4, FORM_C = 5 };

/* A broken promise ends the process, which both drivers report. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

/* --- small tokenizers --- */

/* The character that ByteLevel writes for a byte. */
static void put_byte_char(FILE *out, int byte) {
    int code = byte;
    if (byte < 0x21 || (byte > 0x7E && byte < 0xA1) || byte == 0xAD) {
        code = 0x100 + (byte < 0x21 ? byte : byte == 0xAD ? 67 : byte - 0x7F + 33);
    }
    if (code == '"' || code == '\\') {
        fputc('\\', out);
    }
    if (code < 0x80) {
        fputc(code, out);
    } else {
        fprintf(out, "%c%c", 0xC0 | code >> 6, 0x80 | (code & 0x3F));
    }
}

static void put_vocab(FILE *out, int kind) {
    static const char *const byte_level[] = {
        "\xc4\xa0t",       "he", "in", "\xc4\xa0the", "aa", "aaaa", "\xc4\xa0\xc4\xa0",
        "\xc4\x8a\xc4\x8a"};
    static const char *const fallback[] = {"\xe2\x96\x81",
                                           "t",
                                           "h",
                                           "e",
                                           "a",
                                           "th",
                                           "\xe2\x96\x81\xe2\x96\x81",
                                           "\xe2\x96\x81th",
                                           "\xe2\x96\x81the",
                                           "aa",
                                           "aaa",
                                           "\xc3\xa9"};
    for (int i = 0; i < 256; i++) {
        fprintf(out, "%s\"", i > 0 ? ", " : "");
        if (kind == BYTE_FALLBACK) {
            fprintf(out, "<0x%02X>", (unsigned)i);
        } else {
            put_byte_char(out, i);
        }
        fprintf(out, "\": %d", i);
    }
    const size_t count = kind == BYTE_FALLBACK ? sizeof fallback / sizeof *fallback
                                               : sizeof byte_level / sizeof *byte_level;
    for (size_t i = 0; i < count; i++) {
        fprintf(out, ", \"%s\": %zu", kind == BYTE_FALLBACK ? fallback[i] : byte_level[i], 256 + i);
    }
}

static const char *const heads[KINDS] = {
    "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, ",
    "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
    "\"behavior\": \"Isolated\", \"pattern\": {\"Regex\": "
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}, "
    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}, ",
    "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
    "\"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false}]}, "
    "\"added_tokens\": [{\"id\": 264, \"content\": \"<|\"}, {\"id\": 265, \"content\": "
    "\"<||>\"}], ",
    [BYTE_FALLBACK] =
        "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, \"content\": "
        "\"\xe2\x96\x81\"}, ",
    [FORM_C] = "{\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"ByteLevel\", "
               "\"add_prefix_space\": false}, ",
};
static const char *const merges[2] = {
    "\"\xc4\xa0 t\", \"h e\", \"i n\", \"\xc4\xa0t he\", \"a a\", \"aa aa\", \"\xc4\xa0 "
    "\xc4\xa0\", "
    "\"\xc4\x8a \xc4\x8a\"",
    "\"t h\", \"\xe2\x96\x81 \xe2\x96\x81\", \"\xe2\x96\x81 th\", \"\xe2\x96\x81th e\", \"a a\", "
    "\"a aa\""};

static const ls_tokenizer *tokenizer(int kind) {
    static ls_tokenizer *made[KINDS];
    if (!made[kind]) {
        char *text;
        size_t bytes;
        FILE *out = open_memstream(&text, &bytes);
        fprintf(out, "%s\"model\": {\"byte_fallback\": %s, \"vocab\": {", heads[kind],
                kind == BYTE_FALLBACK ? "true" : "false");
        put_vocab(out, kind);
        fprintf(out, "}, \"merges\": [%s]}}", merges[kind == BYTE_FALLBACK]);
        fclose(out);
        require(ls_tokenizer_parse(text, bytes, "fuzz", &made[kind]) == LS_OK);
        free(text);
    }
    return made[kind];
}

/* --- inputs --- */

typedef struct checked {
    const ls_token_list *expected;
    size_t count, text_bytes;
} checked;

static ls_status compare(void *to, const uint32_t *tokens, size_t count, size_t text_bytes) {
    checked *c = to;
    require(count <= c->expected->count - c->count);
    require(count == 0 ||
            memcmp(tokens, c->expected->tokens + c->count, count * sizeof *tokens) == 0);
    c->count += count;
    c->text_bytes += text_bytes;
    return LS_OK;
}

/* The tokens stand for the text; U+2581 is a space where spaces are that. */
static void check_decoded(const ls_tokenizer *t, int kind, const ls_token_list *list,
                          const char *text, size_t size) {
    size_t at = 0;
    for (size_t i = 0; i < list->count; i++) {
        size_t bytes;
        const char *part = ls_tokenizer_bytes(t, list->tokens[i], &bytes);
        require(part != NULL);
        for (size_t j = 0; j < bytes; j++) {
            const int is_space = kind == BYTE_FALLBACK && size - at >= 3 &&
                                 memcmp(text + at, "\xe2\x96\x81", 3) == 0;
            require(at < size && part[j] == (is_space ? ' ' : text[at]));
            at += is_space ? 3 : 1;
        }
    }
    require(at == size);
}

/* The tokens stand for what utf8proc makes of each part without bytes that are no UTF-8. */
static void check_normal(const ls_tokenizer *t, const ls_token_list *list, const char *text,
                         size_t size) {
    char *normal = malloc(3 * size + 1);
    require(normal != NULL);
    size_t made = 0;
    for (size_t at = 0, valid; at < size; at += valid) {
        utf8proc_uint8_t *part = NULL;
        valid = ls_encode_valid_bytes(text + at, size - at);
        if (valid == 0) {
            normal[made++] = text[at++];
            continue;
        }
        const utf8proc_ssize_t bytes =
            utf8proc_map((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)valid, &part,
                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        require(bytes > 0);
        memcpy(normal + made, part, (size_t)bytes);
        made += (size_t)bytes;
        free(part);
    }
    check_decoded(t, FORM_C, list, normal, made);
    free(normal);
}

static void encode(int kind, const char *data, size_t size) {
    const ls_tokenizer *t = tokenizer(kind);
    char *text = malloc(size ? size : 1); /* exact, so that reading past its end is found */
    require(text != NULL);
    memcpy(text, data, size);
    ls_tokenizer_work *work;
    require(ls_tokenizer_work_make(t, &work) == LS_OK);
    ls_token_list list = {0}, again = {0};
    require(ls_tokenizer_encode(work, text, size, &list) == LS_OK);
    if (kind == FORM_C) {
        check_normal(t, &list, text, size);
    } else {
        check_decoded(t, kind, &list, text, size);
    }
    require(ls_tokenizer_encode(work, text, size, &again) == LS_OK); /* by what it has seen */
    checked c = {.expected = &list};
    require(compare(&c, again.tokens, again.count, size) == LS_OK && c.count == list.count);
    c = (checked){.expected = &list};
    require(ls_tokenizer_encode_long(t, text, size, compare, &c) == LS_OK);
    require(c.count == list.count && c.text_bytes == size);
    ls_tokenizer_work_release(work);
    free(list.tokens);
    free(again.tokens);
    free(text);
}

static void parse(const char *data, size_t size) {
    static const char text[] = "The  text's 123 \xc3\xa9\xe4\xb8\xad\xff\n\n <s>a";
    ls_tokenizer *t;
    ls_tokenizer_work *work;
    if (ls_tokenizer_parse(data, size, "fuzz", &t) != LS_OK) {
        require(ls_error_last()->message[0] && !t);
        return;
    }
    require(strlen(ls_tokenizer_name(t)) == LS_TOKENIZER_NAME_BYTES - 1);
    require(ls_tokenizer_separator(t) < ls_tokenizer_vocab(t));
    require(ls_tokenizer_work_make(t, &work) == LS_OK);
    ls_token_list list = {0};
    if (ls_tokenizer_encode(work, text, sizeof text - 1, &list) == LS_OK) {
        for (size_t i = 0; i < list.count; i++) {
            size_t bytes;
            require(ls_tokenizer_bytes(t, list.tokens[i], &bytes) != NULL);
        }
    }
    free(list.tokens);
    ls_tokenizer_work_release(work);
    ls_tokenizer_release(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const int kind = data[0] % KINDS;
    if (kind != A_FILE) {
        encode(kind, (const char *)data + 1, size - 1);
    } else {
        parse((const char *)data + 1, size - 1);
    }
    return 0;
}
