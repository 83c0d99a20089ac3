/* Arranges documents into samples of T tokens, so that none lies over a boundary: first-fit
 * decreasing (Johnson 1974, doi:10.1137/0203025; of text, Ding 2024, arXiv 2404.10830, and the
 * "bfd" of TRL) over the documents that wait, which are at most 64 MiB, or 8 samples where that is
 * more. A sample takes the longest of them, and again the longest that still fits; separators that
 * are no targets fill what is left.
 *
 * A document is its tokens and the separator behind it. Where documents begin with a token of their
 * own, sample w is tokens [wT, wT + T) of the stream, and that token is no target. Otherwise each
 * begins with the separator before it, of which the first stands before all documents: sample w
 * then reads the separator at wT, and [wT + 1, wT + T] are its documents, whose last separator is
 * its last target.
 *
 * Of a document longer than a sample each part is one: a separator that is no target ends it, and
 * the next one begins as documents do, with a first token that is no target. */
#ifndef LS_DATA_PACKER_H
#define LS_DATA_PACKER_H

#include "runtime/data/shard_writer.h"

enum { LS_PACKER_LEAST = 3, LS_PACKER_MOST = 1 << 24 }; /* T */

typedef struct ls_packer_document ls_packer_document;

typedef struct ls_packer {
    ls_shard_writer *writer; /* borrowed; with a loss mask */
    int64_t sample_tokens;   /* T */
    int unit_bytes;          /* of what is appended: 1 of text, each byte of which is a token, or
                                a token's, 4 with a loss mask */
    uint32_t *tokens;        /* [T] of the document that is being written */
    int64_t count;
    bool parted;                        /* it goes on from a sample that it filled */
    ls_packer_document **first, **last; /* [T + 1] of those that wait: by tokens, in their order */
    uint64_t *lengths;                  /* bit n: some of n tokens wait */
    int64_t waiting_bytes;
    int64_t padding; /* tokens that fill samples */
    int64_t cut;     /* documents longer than a sample */
} ls_packer;

ls_status ls_packer_init(ls_packer *packer, int64_t sample_tokens, int unit_bytes,
                         ls_shard_writer *writer);
/* Safe on a zeroed struct. */
void ls_packer_release(ls_packer *packer);

/* As those of the writer. */
ls_status ls_packer_append(ls_packer *packer, const void *from, size_t bytes);
ls_status ls_packer_end_document(ls_packer *packer, bool target);

/* Writes what waits, as it must be behind the last document. */
ls_status ls_packer_finish(ls_packer *packer);
/* With a writer that starts again; nothing waits. */
void ls_packer_restart(ls_packer *packer);

#endif
