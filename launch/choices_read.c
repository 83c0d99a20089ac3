#include "launch/choices.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/data/tokenizer_merge.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_BYTES = 1 << 30 };

typedef struct reader {
    const char *path;
    int64_t line;
    char names[3][64]; /* context, endings, right */
    const ls_choices_encoder *encoder;
    ls_tokenizer_work *work;
    ls_choices *choices;
} reader;

#define BAD_LINE(r, ...) bad_line(r, LS_FAIL(LS_E_INPUT, __VA_ARGS__))
static ls_status bad_line(const reader *r, ls_status status) {
    return ls_error_prefix(status, "'%s' line %lld", r->path, (long long)r->line);
}

static ls_status set_names(reader *r, const char *names) {
    for (int i = 0; i < 3; i++) {
        const size_t length = strcspn(names, ",");
        const bool last = i == 2;
        if (length == 0 || length >= sizeof r->names[i] || (names[length] == ',') == last) {
            return LS_FAIL(LS_E_USAGE,
                           "--fields needs three names, of a question's context, list of endings "
                           "and number of the right one, as in ctx,endings,label");
        }
        memcpy(r->names[i], names, length);
        names += length + !last;
    }
    return LS_OK;
}

static ls_status add_tokens(reader *r, const char *text, size_t bytes) {
    ls_token_list *list = &r->choices->tokens;
    const size_t before = list->count;
    if (r->work) {
        LS_TRY(ls_tokenizer_encode(r->work, text, bytes, list));
    } else {
        LS_TRY(ls_token_list_reserve(list, bytes));
        for (size_t i = 0; i < bytes; i++) {
            list->tokens[list->count++] = (unsigned char)text[i];
        }
    }
    for (size_t i = before; i < list->count; i++) {
        if (list->tokens[i] >= r->encoder->vocab) {
            return BAD_LINE(r, "its token %u; the model's are below %lld", list->tokens[i],
                            (long long)r->encoder->vocab);
        }
    }
    return LS_OK;
}

static ls_status add_begin(reader *r) {
    ls_token_list *list = &r->choices->tokens;
    if (r->encoder->begin >= 0) {
        LS_TRY(ls_token_list_reserve(list, 1));
        list->tokens[list->count++] = (uint32_t)r->encoder->begin;
    }
    return LS_OK;
}

static bool is_space(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static int64_t characters_of(const char *text, size_t bytes) {
    int64_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        count += (text[i] & 0xc0) != 0x80;
    }
    return count;
}

static ls_status reserve_ending(ls_choices *c) {
    if (c->ending_count < c->capacity) {
        return LS_OK;
    }
    const int64_t capacity = 2 * c->capacity + 1024;
    ls_ending *grown = realloc(c->endings, (size_t)capacity * sizeof *grown);
    if (!grown) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %lld endings", (long long)capacity);
    }
    c->endings = grown;
    c->capacity = capacity;
    return LS_OK;
}

/* spaced: the context ends with white space, or is empty. */
static ls_status add_ending(reader *r, const json_t *value, bool spaced) {
    ls_choices *c = r->choices;
    const char *text = json_string_value(value);
    const size_t bytes = json_string_length(value);
    if (!text || bytes == 0) {
        return BAD_LINE(r, "an element of \"%s\" is no text", r->names[1]);
    }
    LS_TRY(reserve_ending(c));
    ls_ending *ending = &c->endings[c->ending_count++];
    *ending =
        (ls_ending){.first = (int64_t)c->tokens.count, .characters = characters_of(text, bytes)};
    char *joined;
    LS_TRY(ls_calloc(bytes + 2, 1, &joined));
    const size_t space = !spaced && !is_space(text[0]);
    memset(joined, ' ', space);
    memcpy(joined + space, text, bytes);
    const ls_status status = add_tokens(r, joined, space + bytes);
    free(joined);
    ending->count = (int64_t)c->tokens.count - ending->first;
    return status;
}

/* The number of the right ending, or its digits; -1: neither. */
static int64_t number_of(const json_t *value) {
    const char *text = json_string_value(value);
    if (text && text[0] >= '0' && text[0] <= '9') {
        char *end;
        const long number = strtol(text, &end, 10);
        return *end == '\0' ? number : -1;
    }
    return json_is_integer(value) ? json_integer_value(value) : -1;
}

static ls_status add_question(reader *r, const json_t *root) {
    ls_choices *c = r->choices;
    const json_t *context = json_object_get(root, r->names[0]);
    const json_t *endings = json_object_get(root, r->names[1]), *ending;
    const int64_t right = number_of(json_object_get(root, r->names[2]));
    const size_t count = json_array_size(endings), bytes = json_string_length(context);
    const char *text = json_string_value(context);
    size_t i;
    if (!text) {
        return BAD_LINE(r, "\"%s\" is no text (--fields names a question's parts)", r->names[0]);
    }
    if (count < 2) {
        return BAD_LINE(r, "\"%s\" is no list of two or more endings", r->names[1]);
    }
    if (right < 0 || right >= (int64_t)count) {
        return BAD_LINE(r, "\"%s\" is no number from 0 to %zu, of an element of \"%s\"",
                        r->names[2], count - 1, r->names[1]);
    }
    ls_question *q = &c->questions[c->question_count++];
    *q = (ls_question){.context = (int64_t)c->tokens.count,
                       .first = (int)c->ending_count,
                       .count = (int)count,
                       .right = (int)right};
    LS_TRY(add_begin(r));
    LS_TRY(add_tokens(r, text, bytes));
    q->context_count = (int64_t)c->tokens.count - q->context;
    if (q->context_count == 0) {
        return BAD_LINE(r,
                        "\"%s\" is empty, and the checkpoint does not say which token texts "
                        "begin with",
                        r->names[0]);
    }
    json_array_foreach(endings, i, ending) {
        LS_TRY(add_ending(r, ending, bytes == 0 || is_space(text[bytes - 1])));
    }
    return LS_OK;
}

static ls_status add_line(reader *r, const char *line, size_t bytes) {
    json_error_t error;
    while (bytes > 0 && is_space(line[bytes - 1])) {
        bytes--;
    }
    if (bytes == 0) {
        return LS_OK;
    }
    json_t *root = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(root)) {
        json_decref(root);
        return BAD_LINE(r, "no JSON object: %s", root ? "another value" : error.text);
    }
    const ls_status status = add_question(r, root);
    json_decref(root);
    return status;
}

static ls_status add_lines(reader *r, const char *text, size_t bytes) {
    ls_choices *c = r->choices;
    int64_t lines = 1;
    for (size_t i = 0; i < bytes; i++) {
        lines += text[i] == '\n';
    }
    LS_TRY(ls_calloc((size_t)lines, sizeof *c->questions, &c->questions));
    for (const char *at = text, *end = text + bytes; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const size_t length = (size_t)((stop ? stop : end) - at);
        r->line++;
        LS_TRY(add_line(r, at, length));
        at += length + 1;
    }
    return c->question_count > 0 ? LS_OK : LS_FAIL(LS_E_INPUT, "'%s' has no questions", r->path);
}

ls_status ls_choices_read(const char *path, const char *names, const ls_choices_encoder *encoder,
                          ls_choices *choices) {
    reader r = {.path = path, .encoder = encoder, .choices = choices};
    char *text;
    size_t bytes;
    *choices = (ls_choices){0};
    LS_TRY(set_names(&r, names));
    LS_TRY(ls_file_read(path, FILE_BYTES, &text, &bytes));
    ls_status status =
        encoder->tokenizer ? ls_tokenizer_work_make(encoder->tokenizer, &r.work) : LS_OK;
    status = status == LS_OK ? add_lines(&r, text, bytes) : status;
    if (r.work) {
        ls_tokenizer_work_release(r.work);
    }
    free(text);
    return status;
}

void ls_choices_release(ls_choices *choices) {
    free(choices->tokens.tokens);
    free(choices->questions);
    free(choices->endings);
    *choices = (ls_choices){0};
}
