/* Lines of JSONL, and short files of text: read, and made tokens of, by all threads; written in
 * order. */
#include "runtime/data/prep_lines.h"

#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>

#include "runtime/base/log.h"
#include "runtime/data/tokenizer_merge.h"

enum { BAD_TOLD = 5 };

/* Appends the tokens of text: of the tokenizer, or its bytes. */
static ls_status encode(const ls_prep_reader *reader, const char *text, size_t bytes,
                        ls_token_list *list) {
    if (reader->tokenizer) {
        return ls_tokenizer_encode(reader->works[omp_get_thread_num()], text, bytes, list);
    }
    LS_TRY(ls_token_list_reserve(list, bytes));
    for (size_t i = 0; i < bytes; i++) {
        list->tokens[list->count++] = (unsigned char)text[i];
    }
    return LS_OK;
}

/* The prompt's are no targets. Both are made apart, as generation has the prompt alone. */
static ls_status encode_line(const ls_prep_reader *reader, ls_prep_line *l) {
    l->tokens.count = 0;
    if (l->found.messages) {
        return ls_chat_encode(&reader->chat, reader->works[omp_get_thread_num()], l->found.messages,
                              &l->tokens);
    }
    LS_TRY(encode(reader, l->found.prompt, l->found.prompt_bytes, &l->tokens));
    for (size_t i = 0; i < l->tokens.count; i++) {
        l->tokens.tokens[i] |= LS_SHARD_NO_TARGET;
    }
    return encode(reader, l->found.text, l->found.bytes, &l->tokens);
}

/* Is a line more than a text? */
static bool has_parts(const ls_prep_reader *reader) {
    return reader->options->prompt_field || reader->options->chat;
}

/* Is the text to become a list of tokens? */
static bool encodes(const ls_prep_reader *reader) {
    return reader->tokenizer || reader->options->prompt_field;
}

/* A long line's text becomes tokens when it is written: by all threads, as that of a long file. */
static bool is_long(const ls_prep_reader *reader, const ls_prep_line *l) {
    return reader->tokenizer && !has_parts(reader) && l->found.bytes > LS_PREP_HASHED_BYTES;
}

/* By the calling thread, whose work it takes. */
static void read_line(const ls_prep_reader *reader, ls_prep_line *l) {
    const ls_prep_options *o = reader->options;
    const ls_jsonl_form form = {.field = o->jsonl_field,
                                .prompt = o->prompt_field,
                                .chat = o->chat != NULL,
                                .mask = o->mask_field,
                                .vocab = o->vocab,
                                .separator = o->separator,
                                .token_bytes = reader->split->unit_bytes};
    l->status = l->scanned     ? LS_OK
                : o->vocab > 0 ? ls_jsonl_parse_tokens(l->line, l->bytes, &form, &l->found)
                               : ls_jsonl_parse(l->line, l->bytes, &form, &l->found);
    if (l->status == LS_OK && encodes(reader) && l->found.bytes > 0 && !is_long(reader, l)) {
        l->status = encode_line(reader, l);
    }
}

static void release_line(ls_prep_line *l) {
    json_decref(l->found.document);
    free(l->found.tokens);
    free(l->tokens.tokens);
    l->found.document = NULL;
    l->found.tokens = NULL;
    l->tokens = (ls_token_list){0};
}

/* Scans the lines, and parses those that the scan leaves: on all threads if they are many, for that
 * takes ten times as long as the rest of the work. So are all made tokens of, where that is asked.
 */
static void read_lines(ls_prep_reader *reader, int count) {
    int left = 0;
    for (int i = 0; i < count; i++) {
        ls_prep_line *l = &reader->lines[i];
        l->scanned = reader->options->vocab == 0 && !has_parts(reader) &&
                     ls_jsonl_scan(l->line, l->bytes, reader->options->jsonl_field, &l->found);
        left += !l->scanned || encodes(reader);
    }
    if (left == 0) {
        return;
    }
#pragma omp parallel for schedule(dynamic, 8) if (left > 16)
    for (int i = 0; i < count; i++) {
        if (!reader->lines[i].scanned || encodes(reader)) {
            read_line(reader, &reader->lines[i]);
        }
    }
}

/* Why a line holds no document, in this thread's error record; LS_OK when it is left out for that.
 */
static ls_status judge_bad(ls_prep_reader *reader, ls_prep_line *l, const char *path,
                           int64_t number) {
    if (!l->scanned) {
        release_line(l);
    }
    read_line(reader, l);
    if (l->status != LS_E_INPUT) {
        return l->status;
    }
    l->found.bytes = 0;
    if (!reader->options->skip_bad) {
        return LS_FAIL(l->status, "'%s', line %" PRId64 ": %s; --skip-bad leaves such lines out",
                       path, number, ls_error_last()->message);
    }
    ls_error_prefix(l->status, "'%s', line %" PRId64, path, number);
    reader->bad_lines++;
    if (reader->bad_told < BAD_TOLD) {
        reader->bad_told++;
        ls_log_warn("left out: %s%s", ls_error_last()->message,
                    reader->bad_told == BAD_TOLD ? "; of others there will be the number alone"
                                                 : "");
    }
    ls_error_clear();
    return LS_OK;
}

/* Is the document nothing but the separator, which follows it anyway? */
static bool only_separator(const ls_prep_reader *reader, const ls_token_list *list) {
    const int64_t separator = reader->split->vocabulary.separator;
    return list->count == 0 || (list->count == 1 && list->tokens[0] == separator);
}

static ls_status write_line(ls_prep_reader *reader, const ls_prep_line *l) {
    const ls_jsonl *found = &l->found;
    const bool made = encodes(reader) && !is_long(reader, l);
    if (found->bytes == 0 || (made && only_separator(reader, &l->tokens))) {
        return LS_OK;
    }
    if (has_parts(reader)) {
        ls_prep_begin_document(reader, (const char *)l->tokens.tokens,
                               l->tokens.count * sizeof *l->tokens.tokens);
        LS_TRY(ls_prep_append_tokens(reader, l->tokens.tokens, l->tokens.count));
        return ls_prep_split_end(reader->split, !reader->options->chat);
    }
    if (reader->tokenizer && (!made || reader->split->tail > 0)) {
        const int64_t done_bytes = reader->done_bytes;
        LS_TRY(ls_prep_encode_text(reader, found->text, found->bytes));
        reader->done_bytes = done_bytes; /* the line is still to be counted */
        return LS_OK;
    }
    ls_prep_begin_document(reader, found->text, found->bytes);
    LS_TRY(reader->tokenizer ? ls_prep_append_tokens(reader, l->tokens.tokens, l->tokens.count)
                             : ls_prep_split_append(reader->split, found->text, found->bytes));
    return ls_prep_split_end(reader->split, !found->end_masked);
}

ls_status ls_prep_write_lines(ls_prep_reader *reader, const char *path, int count, int64_t number) {
    read_lines(reader, count);
    ls_status status = LS_OK;
    for (int i = 0; i < count; i++) {
        ls_prep_line *l = &reader->lines[i];
        if (status == LS_OK && l->status != LS_OK) {
            status = judge_bad(reader, l, path, number + i);
        }
        if (status == LS_OK) {
            status = write_line(reader, l);
            status = status == LS_E_INPUT
                         ? ls_error_prefix(status, "'%s', line %" PRId64, path, number + i)
                         : status;
        }
        release_line(l);
    }
    return status;
}

ls_status ls_prep_write_held(ls_prep_reader *reader) {
    const int count = reader->held;
    ls_status status = LS_OK;
    reader->held = 0;
    reader->held_bytes = 0;
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (int i = 0; i < count; i++) {
        read_line(reader, &reader->lines[i]);
    }
    for (int i = 0; i < count; i++) {
        ls_prep_line *l = &reader->lines[i];
        if (status == LS_OK && l->status != LS_OK) {
            read_line(reader, l); /* why, in this thread's error record */
            status = ls_error_prefix(l->status, "'%s'", l->path);
        }
        status = status == LS_OK ? write_line(reader, l) : status;
        status = status == LS_OK ? ls_prep_progress(reader, (int64_t)l->bytes) : status;
        release_line(l);
    }
    return status;
}

void ls_prep_hold(ls_prep_reader *reader, const char *path, size_t bytes) {
    char *text = reader->buffer + reader->held_bytes;
    reader->lines[reader->held++] = (ls_prep_line){.path = path,
                                                   .line = text,
                                                   .bytes = bytes,
                                                   .found = {.text = text, .bytes = bytes},
                                                   .scanned = true};
    reader->held_bytes += bytes;
}
