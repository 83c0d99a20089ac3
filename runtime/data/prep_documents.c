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
#include "runtime/data/prep_lines.h"
#include "runtime/data/prep_packed.h"

enum { BINARY_PROBE_BYTES = 8192, BUFFER_BYTES = 4 << 20 };

ls_status ls_prep_reader_init(ls_prep_reader *reader, const ls_prep_options *options,
                              ls_prep_split *split, int64_t total_bytes) {
    *reader = (ls_prep_reader){.options = options,
                               .split = split,
                               .total_bytes = total_bytes,
                               .begin_ns = ls_clock_ns(),
                               .capacity = BUFFER_BYTES};
    LS_TRY(ls_calloc(LS_PREP_BATCH_LINES, sizeof *reader->lines, &reader->lines));
    reader->tokenizer = split->vocabulary.words;
    if (options->chat) {
        LS_TRY(ls_chat_init(&reader->chat, options->chat, reader->tokenizer));
    }
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

static ls_status encode_file(ls_prep_reader *reader, const ls_prep_source *source, int fd) {
    const size_t bytes = (size_t)source->bytes;
    char *text = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (text == MAP_FAILED) {
        return LS_FAIL(LS_E_IO, "cannot map '%s' (%zu bytes): %s", source->path, bytes,
                       strerror(errno));
    }
    madvise(text, bytes, MADV_SEQUENTIAL);
    const ls_status status = ls_prep_encode_text(reader, text, bytes);
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
        LS_TRY(ls_prep_progress(reader, (int64_t)have));
        offset += (int64_t)have;
        if (have < wanted || offset > source->bytes) {
            break;
        }
        LS_TRY(read_at(fd, source->path, reader->buffer, wanted, offset, &have));
    }
    return ls_prep_split_end(reader->split, true);
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
            while (begin < have && count < LS_PREP_BATCH_LINES) {
                const char *newline = memchr(reader->buffer + scanned, '\n', have - scanned);
                if (!newline && !last) {
                    break;
                }
                size_t end = newline ? (size_t)(newline - reader->buffer) : have;
                reader->lines[count++] =
                    (ls_prep_line){.line = reader->buffer + begin, .bytes = end - begin};
                begin = scanned = end + 1;
            }
            LS_TRY(ls_prep_write_lines(reader, path, count, number + 1));
            LS_TRY(ls_prep_progress(reader, (int64_t)(begin - first)));
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
        LS_TRY(ls_prep_progress(reader, part));
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
                       source->path,
                       o->mask_field ? "loss-mask"
                       : o->chat     ? "chat"
                                     : "prompt");
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
    if (!holds || reader->held == LS_PREP_BATCH_LINES ||
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
        status = ls_prep_progress(reader, source->bytes);
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
        ls_prep_hold(reader, source->path, have);
    }
close:
    if (source->spool_fd < 0) {
        close(fd);
    }
    return status;
}
