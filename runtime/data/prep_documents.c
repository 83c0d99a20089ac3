#include "runtime/data/prep_documents.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/data/jsonl.h"
#include "runtime/data/prep_packed.h"
#include "runtime/data/tokenizer_merge.h"

enum { BINARY_PROBE_BYTES = 8192, BUFFER_BYTES = 4 << 20, BATCH_LINES = 4096, BAD_TOLD = 5 };

/* A line of JSONL, or a short file of text. */
struct ls_prep_line {
    const char *path; /* of the file; NULL: a line */
    char *line;       /* in the buffer */
    size_t bytes;
    ls_jsonl found;
    ls_token_list tokens; /* of the text, with a tokenizer */
    ls_status status;
    bool scanned;
};

ls_status ls_prep_reader_init(ls_prep_reader *reader, const ls_prep_options *options,
                              ls_prep_split *split, int64_t total_bytes) {
    *reader = (ls_prep_reader){.options = options,
                               .split = split,
                               .total_bytes = total_bytes,
                               .begin_ns = ls_clock_ns(),
                               .capacity = BUFFER_BYTES};
    LS_TRY(ls_calloc(BATCH_LINES, sizeof *reader->lines, &reader->lines));
    reader->tokenizer = split->writers[LS_SPLIT_TRAIN].vocabulary.words;
    if (reader->tokenizer) {
        reader->work_count = omp_get_max_threads();
        LS_TRY(ls_calloc((size_t)reader->work_count, sizeof(void *), &reader->works));
        for (int i = 0; i < reader->work_count; i++) {
            LS_TRY(ls_tokenizer_work_make(reader->tokenizer, &reader->works[i]));
        }
        /* Short files for each thread. */
        reader->capacity += (size_t)reader->work_count * 2 * LS_PREP_HASHED_BYTES;
    }
    return ls_calloc(reader->capacity, 1, &reader->buffer);
}

void ls_prep_reader_release(ls_prep_reader *reader) {
    free(reader->buffer);
    free(reader->lines);
    for (int i = 0; reader->works && i < reader->work_count; i++) {
        ls_tokenizer_work_release(reader->works[i]);
    }
    free(reader->works);
    free(reader->tokens.tokens);
    *reader = (ls_prep_reader){0};
}

/* Counts bytes read, tells about them ten times a second, and ends the work when asked to. */
static ls_status progress(ls_prep_reader *reader, int64_t bytes) {
    const uint64_t tick_ns = 100000000;
    reader->done_bytes += bytes;
    if (reader->options->stop && *reader->options->stop) {
        return LS_FAIL(LS_E_STOPPED,
                       "stopped before all input was read; nothing was written to '%s'",
                       reader->options->out_dir);
    }
    uint64_t now_ns = ls_clock_ns();
    if (now_ns - reader->shown_ns >= tick_ns) {
        reader->shown_ns = now_ns;
        double seconds = 1e-9 * (double)(now_ns - reader->begin_ns);
        double rate = (double)reader->done_bytes / (seconds > 0 ? seconds : 1);
        double left = (double)(reader->total_bytes - reader->done_bytes) / (rate > 0 ? rate : 1);
        char done[32], total[32], speed[32], time[32];
        ls_log_progress(false, "prep: %s of %s, %s/s, %s left",
                        ls_text_bytes(done, sizeof done, (double)reader->done_bytes),
                        ls_text_bytes(total, sizeof total, (double)reader->total_bytes),
                        ls_text_bytes(speed, sizeof speed, rate),
                        ls_text_duration(time, sizeof time, left > 0 ? left : 0));
    }
    return LS_OK;
}

/* Reads up to wanted bytes at offset; fewer only at the end of the file. */
static ls_status read_at(int fd, const char *path, char *out, size_t wanted, int64_t offset,
                         size_t *got) {
    *got = 0;
    while (*got < wanted) {
        ssize_t n = pread(fd, out + *got, wanted - *got, offset + (int64_t)*got);
        if (n == 0) {
            break;
        }
        if (n < 0 && errno != EINTR) {
            return LS_FAIL(LS_E_IO, "input '%s' cannot be read at byte %" PRId64 ": %s", path,
                           offset + (int64_t)*got, strerror(errno));
        }
        *got += n > 0 ? (size_t)n : 0;
    }
    return LS_OK;
}

/* Appends tokens to the document, in as many bytes as the shards have for them. */
static ls_status append(ls_prep_reader *reader, const uint32_t *tokens, size_t count) {
    enum { PART = 4096 };
    uint16_t narrow[PART];
    if (reader->split->writers[LS_SPLIT_TRAIN].token_bytes == sizeof *tokens) {
        return ls_prep_split_append(reader->split, tokens, count * sizeof *tokens);
    }
    for (size_t done = 0, n; done < count; done += n) {
        n = count - done < PART ? count - done : PART;
        for (size_t i = 0; i < n; i++) {
            narrow[i] = (uint16_t)tokens[done + i];
        }
        LS_TRY(ls_prep_split_append(reader->split, narrow, n * sizeof *narrow));
    }
    return LS_OK;
}

/* The same, behind the token that precedes a document, and without a separator at its end, which
 * follows it anyway. */
static ls_status append_tokens(ls_prep_reader *reader, const uint32_t *tokens, size_t count) {
    const ls_vocabulary *vocabulary = &reader->split->writers[LS_SPLIT_TRAIN].vocabulary;
    const uint32_t first = (uint32_t)vocabulary->begin, last = (uint32_t)vocabulary->separator;
    const uint32_t masked = vocabulary->masked ? LS_SHARD_NO_TARGET : 0;
    if (count == 0) {
        return LS_OK;
    }
    if (reader->starts && vocabulary->begin >= 0 && (tokens[0] & ~masked) != first) {
        LS_TRY(append(reader, &(uint32_t){first | masked}, 1));
    }
    if (reader->holds_separator) {
        LS_TRY(append(reader, &last, 1));
    }
    reader->starts = false;
    reader->holds_separator = tokens[count - 1] == last;
    return append(reader, tokens, count - reader->holds_separator);
}

static void begin_document(ls_prep_reader *reader, const char *text, size_t bytes) {
    ls_prep_split_begin(reader->split, text, (int64_t)bytes);
    reader->starts = true;
    reader->holds_separator = false;
}

static ls_status take_tokens(void *to, const uint32_t *tokens, size_t count, size_t text_bytes) {
    LS_TRY(append_tokens(to, tokens, count));
    return progress(to, (int64_t)text_bytes);
}

/* Writes tokens of text: of a long one by all threads, of another by this one, which has seen most
 * words. */
static ls_status write_text(ls_prep_reader *reader, const char *text, size_t bytes) {
    if (bytes > LS_PREP_HASHED_BYTES) {
        return ls_tokenizer_encode_long(reader->tokenizer, text, bytes, take_tokens, reader);
    }
    ls_token_list *list = &reader->tokens;
    list->count = 0;
    LS_TRY(ls_tokenizer_encode(reader->works[0], text, bytes, list));
    return take_tokens(reader, list->tokens, list->count, bytes);
}

/* Writes a document as tokens. What is for validation of an only one begins with a whole character.
 */
static ls_status encode_text(ls_prep_reader *reader, const char *text, size_t bytes) {
    size_t first = bytes;
    begin_document(reader, text, bytes);
    if (reader->split->tail > 0) {
        first -= (size_t)ls_prep_split_tail(reader->split, (int64_t)bytes);
        while (first > 0 && ((unsigned char)text[first] & 0xC0) == 0x80) {
            first--;
        }
    }
    LS_TRY(first > 0 ? write_text(reader, text, first) : LS_OK);
    LS_TRY(first > 0 && first < bytes ? ls_prep_split_turn(reader->split) : LS_OK);
    reader->holds_separator = false;
    LS_TRY(first < bytes ? write_text(reader, text + first, bytes - first) : LS_OK);
    return ls_prep_split_end(reader->split, true);
}

static ls_status encode_file(ls_prep_reader *reader, const ls_prep_source *source, int fd) {
    const size_t bytes = (size_t)source->bytes;
    char *text = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (text == MAP_FAILED) {
        return LS_FAIL(LS_E_IO, "cannot map '%s' (%zu bytes): %s", source->path, bytes,
                       strerror(errno));
    }
    madvise(text, bytes, MADV_SEQUENTIAL);
    const ls_status status = encode_text(reader, text, bytes);
    munmap(text, bytes);
    return ls_error_prefix(status, "'%s'", source->path);
}

/* A whole file is one document. Its first `have` bytes are in the buffer. */
static ls_status read_text(ls_prep_reader *reader, const ls_prep_source *source, int fd,
                           size_t have) {
    int64_t offset = 0;
    size_t wanted = LS_PREP_HASHED_BYTES;
    if (reader->tokenizer) {
        return encode_file(reader, source, fd);
    }
    ls_prep_split_begin(reader->split, reader->buffer, source->bytes);
    while (have > 0) {
        LS_TRY(ls_prep_split_append(reader->split, reader->buffer, have));
        LS_TRY(progress(reader, (int64_t)have));
        offset += (int64_t)have;
        if (have < wanted || offset > source->bytes) {
            break;
        }
        LS_TRY(read_at(fd, source->path, reader->buffer, wanted, offset, &have));
    }
    return ls_prep_split_end(reader->split, true);
}

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
    LS_TRY(encode(reader, l->found.prompt, l->found.prompt_bytes, &l->tokens));
    for (size_t i = 0; i < l->tokens.count; i++) {
        l->tokens.tokens[i] |= LS_SHARD_NO_TARGET;
    }
    return encode(reader, l->found.text, l->found.bytes, &l->tokens);
}

/* Is the text to become a list of tokens? */
static bool encodes(const ls_prep_reader *reader) {
    return reader->tokenizer || reader->options->prompt_field;
}

/* A long line's text becomes tokens when it is written: by all threads, as that of a long file. */
static bool is_long(const ls_prep_reader *reader, const ls_prep_line *l) {
    return reader->tokenizer && !reader->options->prompt_field &&
           l->found.bytes > LS_PREP_HASHED_BYTES;
}

/* By the calling thread, whose work it takes. */
static void read_line(const ls_prep_reader *reader, ls_prep_line *l) {
    const ls_prep_options *o = reader->options;
    const ls_jsonl_form form = {.field = o->jsonl_field,
                                .prompt = o->prompt_field,
                                .mask = o->mask_field,
                                .vocab = o->vocab,
                                .separator = o->separator,
                                .token_bytes = reader->split->writers[LS_SPLIT_TRAIN].token_bytes};
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
        l->scanned = reader->options->vocab == 0 && !reader->options->prompt_field &&
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
    const int64_t separator = reader->split->writers[LS_SPLIT_TRAIN].vocabulary.separator;
    return list->count == 0 || (list->count == 1 && list->tokens[0] == separator);
}

static ls_status write_line(ls_prep_reader *reader, const ls_prep_line *l) {
    const ls_jsonl *found = &l->found;
    const bool made = encodes(reader) && !is_long(reader, l);
    if (found->bytes == 0 || (made && only_separator(reader, &l->tokens))) {
        return LS_OK;
    }
    if (reader->options->prompt_field) {
        begin_document(reader, (const char *)l->tokens.tokens,
                       l->tokens.count * sizeof *l->tokens.tokens);
        LS_TRY(append_tokens(reader, l->tokens.tokens, l->tokens.count));
        return ls_prep_split_end(reader->split, true);
    }
    if (reader->tokenizer && (!made || reader->split->tail > 0)) {
        const int64_t done_bytes = reader->done_bytes;
        LS_TRY(encode_text(reader, found->text, found->bytes));
        reader->done_bytes = done_bytes; /* the line is still to be counted */
        return LS_OK;
    }
    begin_document(reader, found->text, found->bytes);
    LS_TRY(reader->tokenizer ? append_tokens(reader, l->tokens.tokens, l->tokens.count)
                             : ls_prep_split_append(reader->split, found->text, found->bytes));
    return ls_prep_split_end(reader->split, !found->end_masked);
}

/* Writes the documents of lines in order. number: of the first line. */
static ls_status write_lines(ls_prep_reader *reader, const char *path, int count, int64_t number) {
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
        status = status == LS_OK ? progress(reader, (int64_t)l->bytes) : status;
        release_line(l);
    }
    return status;
}

/* Keeps a short file, whose bytes are in the buffer, for ls_prep_write_held. */
static void hold(ls_prep_reader *reader, const char *path, size_t bytes) {
    char *text = reader->buffer + reader->held_bytes;
    reader->lines[reader->held++] = (ls_prep_line){.path = path,
                                                   .line = text,
                                                   .bytes = bytes,
                                                   .found = {.text = text, .bytes = bytes},
                                                   .scanned = true};
    reader->held_bytes += bytes;
}

static ls_status grow_buffer(ls_prep_reader *reader, const char *path, int64_t line) {
    size_t capacity = 2 * reader->capacity;
    char *grown = realloc(reader->buffer, capacity);
    if (!grown) {
        return LS_FAIL(LS_E_MEMORY, "'%s', line %" PRId64 ": no memory for a line above %zu bytes",
                       path, line, reader->capacity);
    }
    reader->buffer = grown;
    reader->capacity = capacity;
    return LS_OK;
}

/* Each line is one document. The file's first `have` bytes are in the buffer. */
static ls_status read_jsonl(ls_prep_reader *reader, const ls_prep_source *source, int fd,
                            size_t have) {
    const char *path = source->path;
    int64_t number = 0, offset = (int64_t)have;
    size_t begin = have >= 3 && memcmp(reader->buffer, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    size_t scanned = begin;
    for (bool last = false; !last;) {
        last = offset >= source->bytes;
        for (int count = -1; count != 0;) {
            const size_t first = begin;
            count = 0;
            while (begin < have && count < BATCH_LINES) {
                const char *newline = memchr(reader->buffer + scanned, '\n', have - scanned);
                if (!newline && !last) {
                    break;
                }
                size_t end = newline ? (size_t)(newline - reader->buffer) : have;
                reader->lines[count++] =
                    (ls_prep_line){.line = reader->buffer + begin, .bytes = end - begin};
                begin = scanned = end + 1;
            }
            LS_TRY(write_lines(reader, path, count, number + 1));
            LS_TRY(progress(reader, (int64_t)(begin - first)));
            number += count;
        }
        if (last) {
            break;
        }
        have -= begin;
        memmove(reader->buffer, reader->buffer + begin, have);
        begin = 0;
        scanned = have; /* no newline in what is left */
        if (have == reader->capacity) {
            LS_TRY(grow_buffer(reader, path, number + 1));
        }
        size_t got;
        LS_TRY(read_at(fd, path, reader->buffer + have, reader->capacity - have, offset, &got));
        have += got;
        offset += (int64_t)got;
        if (got == 0) {
            break; /* shorter than it was; found by the caller */
        }
    }
    return LS_OK;
}

/* Writes a document of tokens that are in memory, in parts, between which the work can be ended. */
static ls_status write_tokens(ls_prep_reader *reader, const char *tokens, int64_t bytes) {
    ls_prep_split_begin(reader->split, tokens, bytes);
    for (int64_t done = 0, part; done < bytes; done += part) {
        part = bytes - done < BUFFER_BYTES ? bytes - done : BUFFER_BYTES;
        LS_TRY(ls_prep_split_append(reader->split, tokens + done, (size_t)part));
        LS_TRY(progress(reader, part));
    }
    return ls_prep_split_end(reader->split, true);
}

/* What lies between separators is a document. */
static ls_status read_packed(ls_prep_reader *reader, const ls_prep_source *source, int fd) {
    const ls_prep_options *o = reader->options;
    ls_prep_packed packed;
    ls_status status = ls_prep_packed_open(source, fd, o->vocab, &packed);
    for (int64_t from = 0, end; status == LS_OK && from < packed.count; from = end + 1) {
        status = ls_prep_packed_document(&packed, source->path, from, o->vocab, o->separator, &end);
        if (status == LS_OK && end > from) {
            status = write_tokens(reader, packed.tokens + from * packed.token_bytes,
                                  (end - from) * packed.token_bytes);
        }
    }
    ls_prep_packed_close(&packed);
    return status;
}

/* Says of a file that holds text after all how to give that; once. */
static void tell_binary(ls_prep_reader *reader, const char *path, const char *text) {
    static const struct {
        const char *magic;
        size_t bytes;
        const char *is, *instead;
    } kinds[] = {
        {"\x1F\x8B", 2, "compressed by gzip", "zcat FILE | lockstep prep - ..."},
        {"\x28\xB5\x2F\xFD", 4, "compressed by zstd", "zstdcat FILE | lockstep prep - ..."},
        {"\xFD"
         "7zXZ",
         5, "compressed by xz", "xzcat FILE | lockstep prep - ..."},
        {"PAR1", 4, "Parquet", "write its rows as JSONL, an object a line"},
        {"\xFF\xFE", 2, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | lockstep prep - ..."},
        {"\xFE\xFF", 2, "text in UTF-16", "iconv -f UTF-16 -t UTF-8 FILE | lockstep prep - ..."},
    };
    for (size_t i = 0; !reader->told && i < sizeof kinds / sizeof *kinds; i++) {
        if (memcmp(text, kinds[i].magic, kinds[i].bytes) == 0) {
            ls_log_warn("'%s' is skipped, and others like it: it is %s; %s", path, kinds[i].is,
                        kinds[i].instead);
            reader->told = true;
        }
    }
    const char *dot = strrchr(path, '.');
    if (!reader->told && dot && strcmp(dot, ".bin") == 0) {
        ls_log_warn("'%s' is skipped, and others like it: if it is packed tokens, as of llm.c, "
                    "nanoGPT or Megatron-LM, give --vocab and --separator",
                    path);
        reader->told = true;
    }
}

/* Can the documents be in an input of this kind? */
static ls_status check_kind(const ls_prep_reader *reader, const ls_prep_source *source) {
    const ls_prep_options *o = reader->options;
    if (source->kind != LS_PREP_JSONL && ls_prep_is_masked(o)) {
        return LS_FAIL(LS_E_INPUT,
                       "input '%s' is no *.jsonl file; with --%s documents are lines of such",
                       source->path, o->mask_field ? "loss-mask" : "prompt");
    }
    if (o->vocab > 0 && source->kind == LS_PREP_TEXT) {
        return LS_FAIL(LS_E_INPUT,
                       "input '%s' is text; with --vocab the documents are arrays of tokens, lines "
                       "of *.jsonl files, or packed tokens in *.bin files",
                       source->path);
    }
    return LS_OK;
}

ls_status ls_prep_read(ls_prep_reader *reader, const ls_prep_source *source) {
    const bool holds = reader->tokenizer && source->kind == LS_PREP_TEXT &&
                       source->bytes <= (int64_t)LS_PREP_HASHED_BYTES && reader->split->tail == 0;
    if (!holds || reader->held == BATCH_LINES ||
        reader->capacity - reader->held_bytes < LS_PREP_HASHED_BYTES) {
        LS_TRY(ls_prep_write_held(reader));
    }
    char *text = reader->buffer + reader->held_bytes;
    int fd = source->spool_fd;
    if (fd < 0) {
        fd = open(source->path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0) {
        return ls_prep_unreadable(source->path);
    }
    size_t have = 0;
    ls_status status = read_at(fd, source->path, text, LS_PREP_HASHED_BYTES, 0, &have);
    size_t probe = have < BINARY_PROBE_BYTES ? have : BINARY_PROBE_BYTES;
    if (status != LS_OK) {
        goto close;
    }
    if (source->kind == LS_PREP_PACKED && !ls_prep_is_masked(reader->options)) {
        reader->files++;
        status = read_packed(reader, source, fd);
        goto close;
    }
    if (source->kind != LS_PREP_PACKED && memchr(text, '\0', probe)) {
        reader->binary_files++;
        tell_binary(reader, source->path, text);
        status = progress(reader, source->bytes);
        goto close;
    }
    status = check_kind(reader, source);
    if (status != LS_OK) {
        goto close;
    }
    reader->files++;
    if (have > 0 && !holds) {
        status = source->kind == LS_PREP_JSONL ? read_jsonl(reader, source, fd, have)
                                               : read_text(reader, source, fd, have);
    }
    if (status == LS_OK && lseek(fd, 0, SEEK_END) != source->bytes) {
        status = LS_FAIL(LS_E_INPUT, "input '%s' changed while it was read; run prep again",
                         source->path);
    } else if (status == LS_OK && have > 0 && holds) {
        hold(reader, source->path, have);
    }
close:
    if (source->spool_fd < 0) {
        close(fd);
    }
    return status;
}
