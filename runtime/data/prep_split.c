#include "runtime/data/prep_split.h"

#include "runtime/base/hash.h"

#include <math.h>
#include <stdlib.h>

ls_status ls_prep_split_init(ls_prep_split *split, const ls_prep_options *o, const char *dir,
                             const ls_vocabulary *tokens) {
    *split = (ls_prep_split){.limit = (uint64_t)(o->val_fraction * 0x1p53),
                             .min = UINT64_MAX,
                             .vocabulary = tokens ? *tokens : ls_vocabulary_bytes(),
                             .unit_bytes = tokens ? ls_vocabulary_token_bytes(tokens) : 1,
                             .sample_tokens = o->pack};
    ls_vocabulary written = split->vocabulary;
    written.masked = written.masked || o->pack > 0;
    for (int side = 0; side < 2; side++) {
        LS_TRY(ls_shard_writer_init(&split->writers[side], dir, (ls_split)side, o->shard_tokens,
                                    &written, tokens || o->pack > 0));
        if (o->pack > 0) {
            LS_TRY(ls_packer_init(&split->packers[side], o->pack, split->unit_bytes,
                                  &split->writers[side]));
        }
    }
    return LS_OK;
}

void ls_prep_split_release(ls_prep_split *split) {
    for (int side = 0; side < 2; side++) {
        ls_packer_release(&split->packers[side]);
        ls_shard_writer_release(&split->writers[side]);
    }
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
        const int64_t unit = split->unit_bytes;
        split->side = LS_SPLIT_TRAIN;
        if (!split->vocabulary.words || split->vocabulary.masked) { /* else who makes tokens of the
                                                                     * text turns */
            split->until_cut = total_bytes - ls_prep_split_tail(split, total_bytes / unit) * unit;
        }
    }
}

int64_t ls_prep_split_tail(const ls_prep_split *split, int64_t bytes) {
    const int64_t tail = (int64_t)(split->tail * (double)bytes);
    return tail > 0 ? tail : 1;
}

static ls_status append(ls_prep_split *split, const void *from, size_t bytes) {
    return split->sample_tokens > 0
               ? ls_packer_append(&split->packers[split->side], from, bytes)
               : ls_shard_writer_append(&split->writers[split->side], from, bytes);
}

ls_status ls_prep_split_turn(ls_prep_split *split) {
    LS_TRY(ls_prep_split_end(split, true));
    split->side = LS_SPLIT_VAL;
    return LS_OK;
}

ls_status ls_prep_split_append(ls_prep_split *split, const void *from, size_t bytes) {
    const char *text = from;
    if (split->until_cut > 0) {
        size_t n = (uint64_t)split->until_cut < bytes ? (size_t)split->until_cut : bytes;
        LS_TRY(append(split, text, n));
        split->until_cut -= (int64_t)n;
        if (split->until_cut > 0) {
            return LS_OK;
        }
        LS_TRY(ls_prep_split_turn(split));
        text += n;
        bytes -= n;
    }
    return append(split, text, bytes);
}

ls_status ls_prep_split_end(ls_prep_split *split, bool target) {
    return split->sample_tokens > 0
               ? ls_packer_end_document(&split->packers[split->side], target)
               : ls_shard_writer_end_document(&split->writers[split->side], target);
}

ls_status ls_prep_split_flush(ls_prep_split *split) {
    for (int side = 0; side < 2 && split->sample_tokens > 0; side++) {
        LS_TRY(ls_packer_finish(&split->packers[side]));
    }
    return LS_OK;
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
    for (int side = 0; side < 2; side++) {
        ls_packer_restart(&split->packers[side]);
        LS_TRY(ls_shard_writer_restart(&split->writers[side]));
    }
    return LS_OK;
}
