#include "runtime/data/prep_split.h"

#include "runtime/base/hash.h"

ls_status ls_prep_split_init(ls_prep_split *split, const char *dir, int64_t shard_tokens,
                             double val_fraction) {
    *split = (ls_prep_split){.limit = (uint64_t)(val_fraction * 0x1p53), .min = UINT64_MAX};
    LS_TRY(
        ls_shard_writer_init(&split->writers[LS_SPLIT_TRAIN], dir, LS_SPLIT_TRAIN, shard_tokens));
    return ls_shard_writer_init(&split->writers[LS_SPLIT_VAL], dir, LS_SPLIT_VAL, shard_tokens);
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
    split->documents++;
    split->side = hash < split->limit ? LS_SPLIT_VAL : LS_SPLIT_TRAIN;
    split->until_cut = 0;
    if (split->tail > 0) {
        int64_t tail_bytes = (int64_t)(split->tail * (double)total_bytes);
        split->until_cut = total_bytes - (tail_bytes > 0 ? tail_bytes : 1);
        split->side = LS_SPLIT_TRAIN;
    }
}

ls_status ls_prep_split_append(ls_prep_split *split, const char *text, size_t bytes) {
    if (split->until_cut > 0) {
        size_t n = (uint64_t)split->until_cut < bytes ? (size_t)split->until_cut : bytes;
        LS_TRY(ls_shard_writer_append(&split->writers[LS_SPLIT_TRAIN], text, n));
        split->until_cut -= (int64_t)n;
        if (split->until_cut > 0) {
            return LS_OK;
        }
        LS_TRY(ls_shard_writer_end_document(&split->writers[LS_SPLIT_TRAIN]));
        split->side = LS_SPLIT_VAL;
        text += n;
        bytes -= n;
    }
    return ls_shard_writer_append(&split->writers[split->side], text, bytes);
}

ls_status ls_prep_split_end(ls_prep_split *split) {
    return ls_shard_writer_end_document(&split->writers[split->side]);
}

ls_status ls_prep_split_review(ls_prep_split *split, double val_fraction, bool *again) {
    const int64_t train = split->writers[LS_SPLIT_TRAIN].documents;
    const int64_t val = split->writers[LS_SPLIT_VAL].documents;
    *again = false;
    if (val_fraction <= 0 || split->documents == 0 || (train > 0 && val > 0)) {
        return LS_OK;
    }
    if (split->documents == 1) {
        if (split->tail > 0) { /* a single byte has no tail */
            return LS_OK;
        }
        split->tail = val_fraction;
    } else if (split->min == split->max) { /* copies of one document stay on one side: training */
        if (val == 0) {
            return LS_OK;
        }
        split->limit = 0;
    } else {
        split->limit = val == 0 ? split->min + 1 : split->max;
    }
    *again = true;
    split->documents = 0;
    LS_TRY(ls_shard_writer_restart(&split->writers[LS_SPLIT_TRAIN]));
    return ls_shard_writer_restart(&split->writers[LS_SPLIT_VAL]);
}
