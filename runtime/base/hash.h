/* SHA-256 (OpenSSL) for files and configurations; XXH3-64 (xxHash) for token shards. */
#ifndef LS_BASE_HASH_H
#define LS_BASE_HASH_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ls_sha256 {
    uint8_t bytes[32];
} ls_sha256;

typedef struct ls_sha256_stream ls_sha256_stream;

ls_status ls_sha256_begin(ls_sha256_stream **stream);
ls_status ls_sha256_update(ls_sha256_stream *stream, const void *data, size_t bytes);
/* Frees the stream. out may be NULL (abandon). */
ls_status ls_sha256_end(ls_sha256_stream *stream, ls_sha256 *out);

ls_status ls_sha256_of(const void *data, size_t bytes, ls_sha256 *out);
/* Digests of the parts of LS_SHA256_LEAF bytes of data, of which the last may be shorter:
 * leaves [ceil(bytes / LS_SHA256_LEAF)]. Faster than one of all bytes where several can be made at
 * once. Thread-safe. */
enum { LS_SHA256_LEAF = 32768 };
ls_status ls_sha256_leaves(const void *data, size_t bytes, ls_sha256 *leaves);
/* What the library that does takes for itself, pages of its code among it, once `threads` threads
 * have made leaves of `bytes` each; 0 where there is none, or too little to do for it. */
size_t ls_sha256_leaves_memory(int threads, size_t bytes);
/* Hash of a whole file; bytes_out may be NULL. */
ls_status ls_sha256_file(const char *path, ls_sha256 *out, uint64_t *bytes_out);

/* 64 lowercase hex digits and a NUL. */
void ls_sha256_hex(const ls_sha256 *hash, char hex[65]);
/* LS_E_INPUT when not 64 hex digits. */
ls_status ls_sha256_parse(const char *hex, ls_sha256 *out);

uint64_t ls_xxh64(const void *data, size_t bytes, uint64_t seed); /* XXH3_64bits_withSeed */

#endif
