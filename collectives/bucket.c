#include "collectives/bucket.h"

#include "collectives/comm_impl.h"

#include <stdlib.h>

#define SLICE_ALIGN_ELEMS    16
#define DEFAULT_BUCKET_BYTES (INT64_C(25) << 20)

/* Of small models: so many buckets, unless slices or buckets are shorter than these. */
#define LEAST_BUCKETS      32
#define LEAST_BUCKET_BYTES (INT64_C(1) << 20)
#define LEAST_SLICE_BYTES  (INT64_C(64) << 10)

int64_t ls_bucket_bytes(int64_t bytes, int64_t bucket_bytes, int ranks) {
    const int64_t slices = ranks * LEAST_SLICE_BYTES, share = bytes / LEAST_BUCKETS;
    int64_t most = LEAST_BUCKET_BYTES > slices ? LEAST_BUCKET_BYTES : slices;
    most = share > most ? share : most;
    return ls_min_i64(most, bucket_bytes > 0 ? bucket_bytes : DEFAULT_BUCKET_BYTES);
}

static int compare(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

ls_status ls_bucket_cut(int64_t elems, int64_t elem_bytes, int64_t bucket_bytes,
                        const int64_t fronts[LS_BUCKET_FRONTS], int ranks, ls_partition *buckets) {
    enum { HALVES = 4, CUTS = HALVES + LS_BUCKET_FRONTS };
    if (elems < 0 || bucket_bytes < 0) {
        return LS_FAIL(LS_E_SHAPE,
                       "gradients of %lld elements in buckets of %lld bytes; 0 is the least",
                       (long long)elems, (long long)bucket_bytes);
    }
    const int64_t most = ls_bucket_bytes(elems * elem_bytes, bucket_bytes, ranks) / elem_bytes;
    int64_t cuts[CUTS] = {0}, first[CUTS + 2] = {0};
    int blocks = 0;
    for (int i = 0; i < HALVES; i++) {
        cuts[i] = (most >> (HALVES - i)) / LS_CHUNK_ELEMS * LS_CHUNK_ELEMS;
    }
    for (int i = 0; fronts && i < LS_BUCKET_FRONTS; i++) {
        cuts[HALVES + i] = fronts[i];
    }
    qsort(cuts, CUTS, sizeof *cuts, compare);
    for (int i = 0; i < CUTS; i++) {
        if (cuts[i] > first[blocks] && cuts[i] < elems) {
            first[++blocks] = cuts[i];
        }
    }
    first[blocks + 1] = elems;
    return ls_partition_init(first, blocks + 1, 1, most > 0 ? most : 1, buckets);
}

int64_t ls_bucket_align(int64_t elems) {
    return ls_ceil_div(elems, SLICE_ALIGN_ELEMS) * SLICE_ALIGN_ELEMS;
}

ls_range ls_bucket_slice(const ls_partition *buckets, int bucket, int ranks, int rank) {
    const int shards = buckets->shards;
    const ls_range kept = ls_partition_slice(buckets, bucket, rank % shards);
    const int64_t part = ls_bucket_align(ls_ceil_div(kept.elems, ranks / shards));
    const int64_t offset = ls_min_i64(rank / shards * part, kept.elems);
    return (ls_range){.first = kept.first + offset, .elems = ls_min_i64(part, kept.elems - offset)};
}

int64_t ls_bucket_longest_slice(const ls_partition *buckets, int ranks) {
    int64_t longest = 0;
    for (int bucket = 0; bucket < buckets->unit_count; bucket++) {
        for (int rank = 0; rank < ranks; rank++) {
            const int64_t elems = ls_bucket_slice(buckets, bucket, ranks, rank).elems;
            longest = elems > longest ? elems : longest;
        }
    }
    return ls_bucket_align(longest);
}

int64_t ls_bucket_narrow_bytes(const ls_partition *buckets) {
    int64_t longest = 0;
    for (int bucket = 0; bucket < buckets->unit_count; bucket++) {
        const int64_t elems = buckets->units[bucket].range.elems;
        longest = elems > longest ? elems : longest;
    }
    return 2 * ls_bucket_align(ls_ceil_div(longest, 2)) * (int64_t)sizeof(ls_bf16);
}
