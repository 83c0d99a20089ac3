#include "runtime/data/shard_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/data/data_manifest.h"

enum { BUFFER_TOKENS = 1 << 17 }; /* 256 KiB: in cache between widening, hash and write */

ls_vocabulary ls_vocabulary_bytes(void) {
    return (ls_vocabulary){LS_BYTES_VOCAB, LS_BYTES_SEPARATOR, "bytes", NULL, -1, false};
}

ls_status ls_shard_writer_init(ls_shard_writer *writer, const char *dir, ls_split split,
                               int64_t shard_tokens, const ls_vocabulary *vocabulary,
                               bool as_tokens) {
    *writer = (ls_shard_writer){.dir = dir,
                                .split = split,
                                .shard_tokens = shard_tokens,
                                .vocabulary = *vocabulary,
                                .as_tokens = as_tokens,
                                .fd = -1};
    writer->token_bytes = ls_vocabulary_token_bytes(&writer->vocabulary);
    writer->hash = XXH3_createState();
    if (!writer->hash) {
        return LS_FAIL(LS_E_MEMORY, "no memory to write shards");
    }
    return ls_calloc(BUFFER_TOKENS, (size_t)writer->token_bytes, &writer->buffer);
}

void ls_shard_writer_release(ls_shard_writer *writer) {
    if (writer->shards && writer->fd >= 0) {
        close(writer->fd);
    }
    XXH3_freeState(writer->hash);
    free(writer->buffer);
    free(writer->shards);
    *writer = (ls_shard_writer){.fd = -1};
}

static ls_status shard_path(const ls_shard_writer *writer, int64_t index, char path[PATH_MAX]) {
    char name[32];
    ls_shard_name(name, writer->split, index);
    return ls_path_join(path, PATH_MAX, writer->dir, name);
}

static ls_status shard_begin(ls_shard_writer *writer) {
    if (writer->count == writer->capacity) {
        int capacity = writer->capacity ? 2 * writer->capacity : 16;
        void *grown = realloc(writer->shards, (size_t)capacity * sizeof *writer->shards);
        if (!grown) {
            return LS_FAIL(LS_E_MEMORY, "no memory for a list of %d shards", capacity);
        }
        writer->shards = grown;
        writer->capacity = capacity;
    }
    char path[PATH_MAX];
    LS_TRY(shard_path(writer, writer->count, path));
    writer->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (writer->fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot create '%s': %s", path, strerror(errno));
    }
    ls_shard_header *header = &writer->shards[writer->count];
    *header = (ls_shard_header){
        .token_bytes = writer->token_bytes,
        .split = writer->split,
        .index = writer->count,
        .vocab = writer->vocabulary.size,
        .separator = writer->vocabulary.separator,
        .masked = writer->vocabulary.masked,
    };
    memcpy(header->tokenizer, writer->vocabulary.tokenizer, sizeof header->tokenizer);
    writer->count++;
    XXH3_64bits_reset(writer->hash);
    /* Zeros until all is known: a shard that was cut short has no magic. */
    const uint8_t blank[LS_SHARD_HEADER_BYTES] = {0};
    return ls_file_write_all(writer->fd, blank, sizeof blank, path);
}

static ls_status flush(ls_shard_writer *writer) {
    char path[PATH_MAX];
    LS_TRY(shard_path(writer, writer->count - 1, path));
    size_t bytes = (size_t)(writer->buffered * writer->token_bytes);
    writer->buffered = 0;
    XXH3_64bits_update(writer->hash, writer->buffer, bytes);
    return ls_file_write_all(writer->fd, writer->buffer, bytes, path);
}

static ls_status shard_end(ls_shard_writer *writer) {
    LS_TRY(flush(writer));
    writer->shards[writer->count - 1].checksum = XXH3_64bits_digest(writer->hash);
    /* Starts writing to the disk now, so that the sync at the end finds little to do. */
    sync_file_range(writer->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    int closed = close(writer->fd);
    writer->fd = -1;
    if (closed != 0) {
        char path[PATH_MAX];
        LS_TRY(shard_path(writer, writer->count - 1, path));
        return LS_FAIL(LS_E_IO, "cannot write '%s': %s", path, strerror(errno));
    }
    return LS_OK;
}

/* Room for at least one token in a shard and in the buffer. */
static ls_status make_room(ls_shard_writer *writer, ls_shard_header **shard, int64_t *room) {
    if (writer->fd >= 0 && writer->shards[writer->count - 1].tokens == writer->shard_tokens) {
        LS_TRY(shard_end(writer));
    }
    if (writer->fd < 0) {
        LS_TRY(shard_begin(writer));
    }
    if (writer->buffered == BUFFER_TOKENS) {
        LS_TRY(flush(writer));
    }
    *shard = &writer->shards[writer->count - 1];
    int64_t in_shard = writer->shard_tokens - (*shard)->tokens;
    int64_t in_buffer = BUFFER_TOKENS - writer->buffered;
    *room = in_shard < in_buffer ? in_shard : in_buffer;
    return LS_OK;
}

static void widen(const uint8_t *restrict from, uint16_t *restrict to, size_t n) {
    for (size_t i = 0; i < n; i++) {
        to[i] = from[i];
    }
}

/* Counts the targets, and the bytes of the text that they stand for, where that is known. */
static void count_targets(const ls_shard_writer *writer, const uint8_t *tokens, size_t n,
                          ls_shard_header *shard) {
    const ls_vocabulary *v = &writer->vocabulary;
    const size_t byte = v->size == LS_BYTES_VOCAB && strcmp(v->tokenizer, "bytes") == 0;
    for (size_t i = 0; (v->words || v->masked) && i < n; i++) {
        uint32_t token = 0; /* little-endian, as shards are */
        size_t bytes = byte;
        memcpy(&token, tokens + i * (size_t)writer->token_bytes, (size_t)writer->token_bytes);
        if (v->masked && (token & LS_SHARD_NO_TARGET)) {
            continue;
        }
        if (v->words) {
            ls_tokenizer_bytes(v->words, token, &bytes);
        }
        shard->bytes += token == v->begin ? 0 : (int64_t)bytes; /* that is no text */
        shard->targets++;
    }
}

ls_status ls_shard_writer_append(ls_shard_writer *writer, const void *from, size_t bytes) {
    const size_t width = writer->as_tokens ? (size_t)writer->token_bytes : 1;
    const uint8_t *next = from;
    for (size_t left = bytes / width; left > 0;) {
        ls_shard_header *shard;
        int64_t room;
        LS_TRY(make_room(writer, &shard, &room));
        const size_t n = left < (size_t)room ? left : (size_t)room;
        uint8_t *to = writer->buffer + writer->buffered * writer->token_bytes;
        if (writer->as_tokens) {
            memcpy(to, next, n * width);
            count_targets(writer, next, n, shard);
        } else {
            widen(next, (uint16_t *)(void *)to, n);
            shard->bytes += (int64_t)n;
        }
        writer->buffered += (int64_t)n;
        shard->tokens += (int64_t)n;
        next += n * width;
        left -= n;
    }
    return LS_OK;
}

ls_status ls_shard_writer_end_document(ls_shard_writer *writer, bool target) {
    ls_shard_header *shard;
    int64_t room;
    LS_TRY(make_room(writer, &shard, &room));
    const bool masked = writer->vocabulary.masked && !target;
    const uint32_t separator = /* little-endian, as shards are */
        (uint32_t)writer->vocabulary.separator | (masked ? LS_SHARD_NO_TARGET : 0);
    memcpy(writer->buffer + writer->buffered * writer->token_bytes, &separator,
           (size_t)writer->token_bytes);
    writer->buffered++;
    shard->tokens++;
    shard->targets += !masked;
    shard->documents++;
    writer->documents++;
    return LS_OK;
}

static ls_status header_write(const ls_shard_header *header, const char *path) {
    uint8_t raw[LS_SHARD_HEADER_BYTES];
    ls_shard_header_encode(header, raw);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    ls_status status = ls_file_write_all(fd, raw, sizeof raw, path);
    if (status == LS_OK && fsync(fd) != 0) {
        status = LS_FAIL(LS_E_IO, "cannot sync '%s': %s", path, strerror(errno));
    }
    close(fd);
    return status;
}

ls_status ls_shard_writer_finish(ls_shard_writer *writer) {
    if (writer->fd >= 0) {
        LS_TRY(shard_end(writer));
    }
    for (int i = 0; i < writer->count; i++) {
        char path[PATH_MAX];
        LS_TRY(shard_path(writer, i, path));
        writer->shards[i].count = writer->count;
        if (!writer->vocabulary.masked) {
            writer->shards[i].targets = writer->shards[i].tokens;
        }
        LS_TRY(header_write(&writer->shards[i], path));
    }
    return LS_OK;
}

ls_status ls_shard_writer_restart(ls_shard_writer *writer) {
    if (writer->fd >= 0) {
        close(writer->fd);
        writer->fd = -1;
    }
    for (int i = 0; i < writer->count; i++) {
        char path[PATH_MAX];
        LS_TRY(shard_path(writer, i, path));
        if (unlink(path) != 0) {
            return LS_FAIL(LS_E_IO, "cannot remove '%s': %s", path, strerror(errno));
        }
    }
    writer->count = 0;
    writer->buffered = 0;
    writer->documents = 0;
    return LS_OK;
}
