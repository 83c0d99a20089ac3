/* Writes one split as shards: bytes in, uint16 tokens out. Headers are completed at the end, when
 * the number of shards is known. Not thread-safe. */
#ifndef LS_DATA_SHARD_WRITER_H
#define LS_DATA_SHARD_WRITER_H

#include <xxhash.h>

#include "runtime/data/shard.h"

enum { LS_BYTES_SEPARATOR = 256, LS_BYTES_VOCAB = 257 };

typedef struct ls_shard_writer {
    const char *dir; /* borrowed */
    ls_split split;
    int64_t shard_tokens; /* most tokens of a shard */
    ls_shard_header *shards;
    int count, capacity;
    int64_t documents;
    int fd; /* of the last shard; -1 when it is complete */
    uint16_t *buffer;
    int64_t buffered; /* tokens not yet written */
    XXH3_state_t *hash;
} ls_shard_writer;

ls_status ls_shard_writer_init(ls_shard_writer *writer, const char *dir, ls_split split,
                               int64_t shard_tokens);
/* Closes; files stay. Safe on a zeroed struct. */
void ls_shard_writer_release(ls_shard_writer *writer);

/* Part of a document. LS_E_IO names the file. */
ls_status ls_shard_writer_append(ls_shard_writer *writer, const void *text, size_t bytes);
/* The separator after a document. */
ls_status ls_shard_writer_end_document(ls_shard_writer *writer);

/* Writes what is buffered and all headers, and syncs the files. */
ls_status ls_shard_writer_finish(ls_shard_writer *writer);
/* Removes all shards and starts again. */
ls_status ls_shard_writer_restart(ls_shard_writer *writer);

#endif
