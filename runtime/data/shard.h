/* A token shard on disk, version 1.0 or 2.0: a header of 256 bytes, then the tokens. Little-endian.
 *
 *   byte  size  field
 *      0     8  "LSTOKENS"
 *      8     2  major version, 1, or 2 of a shard with a loss mask: a reader refuses a newer one
 *     10     2  minor version, 0: a reader of the same major version reads any
 *     12     4  bytes of this header, 256: the tokens start there
 *     16     4  bytes of a token: 2 (uint16) or 4 (uint32)
 *     20     4  split: 0 train, 1 validation
 *     24     4  number of this shard in its split, from 0
 *     28     4  shards of the split
 *     32     8  vocabulary: every token is smaller
 *     40     8  separator: the token after each document
 *     48     8  tokens in this shard
 *     56     8  documents that end in this shard
 *     64     8  bytes of source text in this shard; 0 where that is not known
 *     72     8  XXH3-64 of all token bytes
 *     80    16  tokenizer, ASCII, padded with NUL (at least one): "bytes", "bpe-0123456789a" of a
 *               tokenizer.json, or "tokens" of one that is not known
 *     96     8  with a loss mask: tokens that are targets; else zero
 *    104   144  zero; room for newer minor versions
 *    248     8  XXH3-64 of bytes 0 to 247
 *
 * With a loss mask tokens have 4 bytes, and the highest bit of one says that it is no target: a
 * model reads it, but is not trained to predict it. A document may span shards: the tokens of a
 * split are one stream, its shards in order. */
#ifndef LS_DATA_SHARD_H
#define LS_DATA_SHARD_H

#include "runtime/data/data.h"

#define LS_SHARD_MAGIC        "LSTOKENS"
#define LS_SHARD_MAJOR        1
#define LS_SHARD_MAJOR_MASKED 2
#define LS_SHARD_MINOR        0
#define LS_SHARD_HEADER_BYTES 256
#define LS_SHARD_NO_TARGET    ((uint32_t)1 << 31)

typedef struct ls_shard_header {
    int token_bytes;
    ls_split split;
    int64_t index, count;
    int64_t vocab, separator;
    int64_t tokens, documents, bytes;
    bool masked;       /* has a loss mask */
    int64_t targets;   /* tokens that are; without a mask all */
    uint64_t checksum; /* of the payload */
    char tokenizer[16];
} ls_shard_header;

/* The header as it is on disk. */
void ls_shard_header_encode(const ls_shard_header *header, uint8_t raw[LS_SHARD_HEADER_BYTES]);

/* Reads and checks a header; path is for messages. raw holds raw_bytes, the first bytes of a file
 * of file_bytes. LS_E_INPUT truncated, LS_E_VERSION newer, LS_E_CORRUPT anything else. */
ls_status ls_shard_header_decode(const void *raw, size_t raw_bytes, int64_t file_bytes,
                                 const char *path, ls_shard_header *header);

/* Checks the checksum and the range of every token of a payload of header->tokens tokens; mapped:
 * it lies behind its header in a mapping of the file, of which what was read is let go.
 * LS_E_CORRUPT names the byte offset. */
ls_status ls_shard_payload_check(const ls_shard_header *header, const void *payload, bool mapped,
                                 const char *path);

/* Bytes [begin, end) of the mapping of a file of file_bytes need not be the process's memory any
 * more; they stay in the page cache and can be read again. */
void ls_map_let_go(const char *file, int64_t file_bytes, int64_t begin, int64_t end);

/* The bits of a token that are its number. */
static inline uint32_t ls_shard_number_bits(bool masked) {
    return masked ? ~LS_SHARD_NO_TARGET : UINT32_MAX;
}

/* "train" or "val". */
const char *ls_split_name(ls_split split);

#endif
