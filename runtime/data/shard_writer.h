/* Writes one split as shards: text in, a uint16 token for each byte out; or tokens as they are.
 * Headers are completed at the end, when the number of shards is known. Not thread-safe. */
#ifndef LS_DATA_SHARD_WRITER_H
#define LS_DATA_SHARD_WRITER_H

#include <xxhash.h>

#include "runtime/data/shard.h"
#include "runtime/data/tokenizer.h"

enum { LS_BYTES_SEPARATOR = 256, LS_BYTES_VOCAB = 257 };

typedef struct ls_vocabulary {
    int64_t size, separator;
    char tokenizer[LS_TOKENIZER_NAME_BYTES];
    const ls_tokenizer *words; /* whose tokens text becomes; NULL: unknown, or bytes */
    int64_t begin;             /* precedes a document of text; -1: none */
    bool masked;               /* tokens say whether they are targets (shard.h) */
} ls_vocabulary;

/* Of text, each byte of which is a token. */
ls_vocabulary ls_vocabulary_bytes(void);
/* Of a token in a shard: 2, or 4 where 2 do not hold all. */
static inline int ls_vocabulary_token_bytes(const ls_vocabulary *vocabulary) {
    return vocabulary->size <= 1 << 16 && !vocabulary->masked ? 2 : 4;
}

typedef struct ls_shard_writer {
    const char *dir; /* borrowed */
    ls_split split;
    int64_t shard_tokens; /* most tokens of a shard */
    ls_vocabulary vocabulary;
    int token_bytes;
    bool as_tokens; /* what is appended; else text */
    ls_shard_header *shards;
    int count, capacity;
    int64_t documents;
    int fd; /* of the last shard; -1 when it is complete */
    uint8_t *buffer;
    int64_t buffered; /* tokens not yet written */
    XXH3_state_t *hash;
} ls_shard_writer;

/* as_tokens: what is appended is tokens already, of the bytes that the vocabulary needs; else text,
 * each byte of which is a token. */
ls_status ls_shard_writer_init(ls_shard_writer *writer, const char *dir, ls_split split,
                               int64_t shard_tokens, const ls_vocabulary *vocabulary,
                               bool as_tokens);
/* Closes; files stay. Safe on a zeroed struct. */
void ls_shard_writer_release(ls_shard_writer *writer);

/* Part of a document: text, or whole tokens. LS_E_IO names the file. */
ls_status ls_shard_writer_append(ls_shard_writer *writer, const void *from, size_t bytes);
/* The separator after a document; target: with a mask, whether it is one. */
ls_status ls_shard_writer_end_document(ls_shard_writer *writer, bool target);

/* Writes what is buffered and all headers, and syncs the files. */
ls_status ls_shard_writer_finish(ls_shard_writer *writer);
/* Removes all shards and starts again. */
ls_status ls_shard_writer_restart(ls_shard_writer *writer);

#endif
