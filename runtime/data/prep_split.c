#include "runtime/data/prep_split.h"

#include "runtime/base/hash.h"

#include <math.h>
#include <stdlib.h>

ls_status ls_prep_split_init(ls_prep_split *split, const char *dir, int64_t shard_tokens,
                             double val_fraction, const ls_vocabulary *tokens) {
    *split = (ls_prep_split){.limit = (uint64_t)(val_fraction * 0x1p53), .min = UINT64_MAX};
    LS_TRY(ls_shard_writer_init(&split->writers[LS_SPLIT_TRAIN], dir, LS_SPLIT_TRAIN, shard_tokens,
                                tokens));
    return ls_shard_writer_init(&split->writers[LS_SPLIT_VAL], dir, LS_SPLIT_VAL, shard_tokens,
                                tokens);
}

void ls_prep_split_release(ls_prep_split *split) {
    ls_shard_writer_release(&split->writers[LS_SPLIT_TRAIN]);
    ls_shard_writer_release(&split->writers[LS_SPLIT_VAL]);
}

void ls_prep_split_begin(ls_prep_split *split, const char *text, int64_t total_bytes) {
    size_t hashed_bytes = LS_PREP_HASHED_BYTES;
    if ((uint64_t)total_bytes < hashed_bytes) {
        hashed_bytes = (size_t)total_bytes;
    }
    /* 53 bits, which a double holds: the fraction of hashes below the limit is exact. */
    uint64_t hash = ls_xxh64(text, hashed_bytes, (uint64_t)total_bytes) >> 11;
    split->min = hash < split->min ? hash : split->min;
    split->max = hash > split->max ? hash : split->max;
    if (split->documents < LS_PREP_FEW_DOCUMENTS) {
        split->hashes[split->documents] = hash;
    }
    split->documents++;
    split->side = hash < split->limit ? LS_SPLIT_VAL : LS_SPLIT_TRAIN;
    split->until_cut = 0;
    if (split->tail > 0) {
        const ls_shard_writer *writer = &split->writers[LS_SPLIT_TRAIN];
        const int64_t unit = writer->as_tokens ? writer->token_bytes : 1;
        split->side = LS_SPLIT_TRAIN;
        if (!writer->vocabulary.words || writer->vocabulary.masked) { /* else who makes tokens of
                                                                       * the text turns */
            split->until_cut = total_bytes - ls_prep_split_tail(split, total_bytes / unit) * unit;
        }
    }
}

int64_t ls_prep_split_tail(const ls_prep_split *split, int64_t bytes) {
    const int64_t tail = (int64_t)(split->tail * (double)bytes);
    return tail > 0 ? tail : 1;
}

ls_status ls_prep_split_turn(ls_prep_split *split) {
    split->side = LS_SPLIT_VAL;
    return ls_shard_writer_end_document(&split->writers[LS_SPLIT_TRAIN], true);
}

ls_status ls_prep_split_append(ls_prep_split *split, const void *from, size_t bytes) {
    const char *text = from;
    if (split->until_cut > 0) {
        size_t n = (uint64_t)split->until_cut < bytes ? (size_t)split->until_cut : bytes;
        LS_TRY(ls_shard_writer_append(&split->writers[LS_SPLIT_TRAIN], text, n));
        split->until_cut -= (int64_t)n;
        if (split->until_cut > 0) {
            return LS_OK;
        }
        LS_TRY(ls_prep_split_turn(split));
        text += n;
        bytes -= n;
    }
    return ls_shard_writer_append(&split->writers[split->side], text, bytes);
}

ls_status ls_prep_split_end(ls_prep_split *split, bool target) {
    return ls_shard_writer_end_document(&split->writers[split->side], target);
}

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The limit below which the wanted number of few documents have their hashes, at least one and not
 * all; copies of a document stay on one side. Their hashes differ. */
static uint64_t limit_of_few(ls_prep_split *split, double val_fraction) {
    const int64_t count = split->documents;
    int64_t wanted = llround(val_fraction * (double)count);
    wanted = wanted < 1 ? 1 : wanted > count - 1 ? count - 1 : wanted;
    qsort(split->hashes, (size_t)count, sizeof *split->hashes, ascending);
    const uint64_t limit = split->hashes[wanted];
    return limit > split->min ? limit : limit + 1;
}

/* Of few documents. */
static int64_t below(const ls_prep_split *split, uint64_t limit) {
    int64_t count = 0;
    for (int64_t i = 0; i < split->documents; i++) {
        count += split->hashes[i] < limit;
    }
    return count;
}

ls_status ls_prep_split_review(ls_prep_split *split, double val_fraction, bool *again) {
    const int64_t train = split->writers[LS_SPLIT_TRAIN].documents;
    const int64_t val = split->writers[LS_SPLIT_VAL].documents;
    *again = false;
    if (val_fraction <= 0 || split->documents == 0) {
        return LS_OK;
    }
    if (split->documents == 1) {
        if (split->tail > 0) { /* done, or a single byte, which has no tail */
            return LS_OK;
        }
        split->tail = val_fraction;
    } else if (split->min == split->max) { /* copies of one document stay on one side: training */
        if (val == 0) {
            return LS_OK;
        }
        split->limit = 0;
    } else if (split->documents <= LS_PREP_FEW_DOCUMENTS) {
        const uint64_t limit = limit_of_few(split, val_fraction);
        if (below(split, limit) == val) {
            return LS_OK;
        }
        split->limit = limit;
    } else if (train > 0 && val > 0) {
        return LS_OK;
    } else {
        split->limit = val == 0 ? split->min + 1 : split->max;
    }
    *again = true;
    split->documents = 0;
    LS_TRY(ls_shard_writer_restart(&split->writers[LS_SPLIT_TRAIN]));
    return ls_shard_writer_restart(&split->writers[LS_SPLIT_VAL]);
}
