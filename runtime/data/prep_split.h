/* Decides for each document whether it is for training or validation, and writes it there. */
#ifndef LS_DATA_PREP_SPLIT_H
#define LS_DATA_PREP_SPLIT_H

#include "runtime/data/packer.h"
#include "runtime/data/prep.h"

/* A document's hash covers at most its first LS_PREP_HASHED_BYTES and its length, so that a large
 * one is read once. */
#define LS_PREP_HASHED_BYTES ((size_t)1 << 20)

/* Of so many documents at most the hashes are kept, so that the share of those for validation is
 * what was asked for; of more it comes close by itself. */
#define LS_PREP_FEW_DOCUMENTS 1024

typedef struct ls_prep_split {
    ls_vocabulary vocabulary;   /* of what is appended: the writers', but for a mask by packing */
    int unit_bytes;             /* 1 of text, or a token's */
    ls_shard_writer writers[2]; /* by ls_split */
    ls_packer packers[2];
    int64_t sample_tokens; /* to which documents are packed; 0: they are not */
    uint64_t limit;        /* hashes below it are for validation */
    double tail;           /* above 0: so much of the only document's end is for validation */
    uint64_t min, max;     /* hashes seen */
    int64_t documents;
    uint64_t hashes[LS_PREP_FEW_DOCUMENTS]; /* of the first documents */
    /* The document being written. */
    ls_split side;
    int64_t until_cut; /* bytes up to the tail */
} ls_prep_split;

/* tokens: the vocabulary of documents that are tokens already, of the bytes that it needs; NULL: of
 * text, each byte of which is a token. */
ls_status ls_prep_split_init(ls_prep_split *split, const ls_prep_options *options, const char *dir,
                             const ls_vocabulary *tokens);
void ls_prep_split_release(ls_prep_split *split);

/* A document of total_bytes > 0, whose first min(total_bytes, LS_PREP_HASHED_BYTES) are at text. */
void ls_prep_split_begin(ls_prep_split *split, const char *text, int64_t total_bytes);
/* Text, or tokens in as many bytes as shards have. */
ls_status ls_prep_split_append(ls_prep_split *split, const void *from, size_t bytes);
/* Where a tail is kept: that of so many bytes, at least 1. */
int64_t ls_prep_split_tail(const ls_prep_split *split, int64_t bytes);
/* The document's training part ends, and its tail begins. */
ls_status ls_prep_split_turn(ls_prep_split *split);
/* target: with a loss mask, whether the separator is one. */
ls_status ls_prep_split_end(ls_prep_split *split, bool target);

/* After all documents: writes what waits to be packed. */
ls_status ls_prep_split_flush(ls_prep_split *split);
/* Then: when a side that should have documents has none, or of few documents the
 * wrong share is for validation, sets the rule that mends it, forgets what was written and asks for
 * all documents *again. */
ls_status ls_prep_split_review(ls_prep_split *split, double val_fraction, bool *again);

#endif
