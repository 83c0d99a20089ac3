/* Windows, counts and the loader: every token a target once an epoch, the same batches for every
 * number of ranks and from every step on. */
#include "tests/data/data_fixture.h"

/* The train stream, read without the code under test. Caller frees. */
static uint16_t *read_stream(const char *dir, int64_t tokens) {
    uint16_t *stream = malloc((size_t)tokens * sizeof *stream);
    int64_t at = 0;
    for (int i = 0; stream && at < tokens; i++) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/train-%05d.tok", dir, i);
        size_t bytes;
        char *file = read_bytes(path, &bytes);
        memcpy(stream + at, file + LS_SHARD_HEADER_BYTES, bytes - LS_SHARD_HEADER_BYTES);
        at += (int64_t)(bytes - LS_SHARD_HEADER_BYTES) / 2;
        free(file);
    }
    CHECK_INT(at, tokens);
    return stream;
}

static void check_epoch(const char *dir, const uint16_t *stream, int64_t n, int64_t seq) {
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, seq, true, &dataset));
    if (!dataset) {
        return;
    }
    const ls_dataset_info *info = ls_dataset_describe(dataset);
    CHECK_INT(info->tokens, n);
    CHECK_INT(info->windows, (n - 1 + seq - 1) / seq);
    CHECK_INT(ls_dataset_seq(dataset), seq);
    int32_t *tokens = malloc((size_t)seq * 4), *targets = malloc((size_t)seq * 4);
    int *seen = calloc((size_t)n, sizeof *seen);
    int64_t wrong = 0, total = 0;
    for (int64_t k = 0; tokens && targets && seen && k < info->windows; k++) {
        int64_t w = ls_sample_window(17, 2 * info->windows + k, info->windows), valid;
        ls_dataset_prefetch(dataset, w);
        CHECK_OK(ls_dataset_window(dataset, w, tokens, targets, &valid));
        for (int64_t i = 0; i < valid; i++) {
            int64_t at = w * seq + i;
            wrong += at + 1 >= n || tokens[i] != stream[at] || targets[i] != stream[at + 1];
            seen[at + 1 < n ? at + 1 : 0]++;
        }
        for (int64_t i = valid; i < seq; i++) {
            wrong += tokens[i] != 256 || targets[i] != -1;
        }
        total += valid;
    }
    for (int64_t i = 1; seen && i < n; i++) {
        wrong += seen[i] != 1;
    }
    CHECK_INT(wrong, 0);
    CHECK_INT(total, n - 1);
    CHECK_INT(ls_dataset_count_targets(dataset, 17, 0, info->windows), n - 1);
    free(tokens);
    free(targets);
    free(seen);
    ls_dataset_close(dataset);
}

static void test_epochs(void) {
    const int64_t sizes[] = {2, 3, 10, 97, 1000}, shards[] = {1, 3, 64, 5000};
    const int64_t seqs[] = {1, 2, 3, 7, 8, 64, 333, 4096};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof shards / sizeof shards[0]; j++) {
            if (sizes[i] / shards[j] > 100) {
                continue; /* hundreds of files take long to sync */
            }
            char name[64];
            snprintf(name, sizeof name, "epoch-%d-%d", (int)sizes[i], (int)shards[j]);
            const char *dir = fixture_path(name);
            make_data(dir, sizes[i], shards[j]);
            uint16_t *stream = read_stream(dir, sizes[i]);
            for (size_t k = 0; k < sizeof seqs / sizeof seqs[0]; k++) {
                check_epoch(dir, stream, sizes[i], seqs[k]);
            }
            free(stream);
        }
    }
}

static void test_count_targets(void) {
    const char *dir = fixture_path("count");
    make_data(dir, 103, 50);
    const int64_t seqs[] = {1,   4,   6,   17,
                            101, 102, 103, 500}; /* 102 targets: with and without rest */
    for (size_t s = 0; s < sizeof seqs / sizeof seqs[0]; s++) {
        ls_dataset *dataset;
        CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, seqs[s], false, &dataset));
        int64_t windows = ls_dataset_describe(dataset)->windows, wrong = 0;
        int32_t tokens[500], targets[500];
        for (int64_t first = 0; first < 2 * windows + 2; first += 1 + windows / 9) {
            int64_t expected = 0;
            for (int64_t count = 0; count < 4 * windows + 3; count++) {
                wrong += ls_dataset_count_targets(dataset, 23, first, count) != expected;
                int64_t valid, w = ls_sample_window(23, first + count, windows);
                CHECK_OK(ls_dataset_window(dataset, w, tokens, targets, &valid));
                expected += valid;
            }
        }
        CHECK_INT(wrong, 0);
        CHECK_INT(ls_dataset_count_targets(dataset, 23, 5, -1), 0);
        ls_dataset_close(dataset);
    }
}

/* Sequences [batch, 2 T] of `steps` batches from sample `first` on, put together from the loaders
 * of `ranks` ranks. dealt: micro-batches go round the ranks, instead of a run of them to each. */
static void collect(const ls_dataset *dataset, int ranks, int64_t micro, bool dealt, int64_t first,
                    int64_t steps, int depth, int32_t *out) {
    enum { BATCH = 12 };
    const int64_t seq = ls_dataset_seq(dataset), share = BATCH / ranks;
    const int64_t stride = dealt ? ranks * micro : micro;
    for (int rank = 0; rank < ranks; rank++) {
        const int64_t rank_first = rank * (dealt ? micro : share);
        ls_loader *loader;
        const ls_loader_options options = {.dataset = dataset,
                                           .seed = 99,
                                           .batch = BATCH,
                                           .micro = micro,
                                           .rank_first = rank_first,
                                           .rank_micros = share / micro,
                                           .stride = dealt ? stride : 0,
                                           .first_sample = first,
                                           .depth = depth};
        CHECK_OK(ls_loader_create(&options, &loader));
        for (int64_t i = 0; loader && i < steps * (share / micro); i++) {
            const int32_t *tokens, *targets;
            uint64_t wait_ns;
            CHECK_OK(ls_loader_next(loader, &tokens, &targets, &wait_ns));
            int64_t step = i / (share / micro), local = i % (share / micro);
            for (int64_t m = 0; m < micro; m++) {
                int64_t row = step * BATCH + rank_first + local * stride + m;
                memcpy(out + row * 2 * seq, tokens + m * seq, (size_t)seq * 4);
                memcpy(out + row * 2 * seq + seq, targets + m * seq, (size_t)seq * 4);
            }
        }
        ls_loader_destroy(loader);
    }
}

static void test_loader_layouts(void) {
    enum { BATCH = 12, SEQ = 13, STEPS = 11, ROW = 2 * SEQ };
    const char *dir = fixture_path("loader");
    make_data(dir, 700, 100); /* 54 windows: 11 steps are 2.4 epochs */
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, SEQ, true, &dataset));
    const int64_t windows = ls_dataset_describe(dataset)->windows;
    static int32_t expected[STEPS * BATCH * ROW], found[STEPS * BATCH * ROW];
    for (int64_t k = 0; k < STEPS * BATCH; k++) {
        int64_t valid;
        CHECK_OK(ls_dataset_window(dataset, ls_sample_window(99, k, windows), expected + k * ROW,
                                   expected + k * ROW + SEQ, &valid));
    }
    for (int ranks = 1; ranks <= 4; ranks++) {
        for (int64_t micro = 1; micro <= 3; micro++) {
            for (int depth = 0; BATCH / ranks % micro == 0 && depth < 7; depth += 3) {
                memset(found, 0x55, sizeof found);
                collect(dataset, ranks, micro, depth == 3, 0, STEPS, depth, found);
                CHECK(memcmp(found, expected, sizeof found) == 0);
            }
        }
    }
    for (int64_t first = 0; first <= (STEPS - 1) * BATCH; first += 4) { /* whatever was read */
        const int64_t steps = STEPS - (first + BATCH - 1) / BATCH;
        memset(found, 0x55, sizeof found);
        collect(dataset, 2, 2, false, first, steps, 2, found);
        CHECK(memcmp(found, expected + first * ROW, (size_t)(steps * BATCH * ROW) * 4) == 0);
    }
    /* A step far ahead costs no more than the first. */
    const int64_t far = (INT64_C(1) << 50) * BATCH;
    collect(dataset, 1, 3, false, far, 1, 1, found);
    for (int64_t k = 0; k < BATCH; k++) {
        int32_t row[ROW];
        int64_t valid;
        CHECK_OK(ls_dataset_window(dataset, ls_sample_window(99, far + k, windows), row, row + SEQ,
                                   &valid));
        CHECK(memcmp(row, found + k * ROW, sizeof row) == 0);
    }
    ls_dataset_close(dataset);
}

/* What a call returned stays as it is until the next call, however far the thread is. */
static void test_loader_lends(void) {
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(fixture_path("loader"), LS_SPLIT_TRAIN, 13, true, &dataset));
    ls_loader *loader;
    const ls_loader_options options = {
        .dataset = dataset, .seed = 1, .batch = 2, .micro = 2, .rank_micros = 1, .depth = 1};
    CHECK_OK(ls_loader_create(&options, &loader));
    for (int i = 0; i < 200; i++) {
        const int32_t *tokens, *targets;
        int32_t copy[2 * 13];
        uint64_t wait_ns;
        CHECK_OK(ls_loader_next(loader, &tokens, &targets, &wait_ns));
        memcpy(copy, tokens, sizeof copy);
        for (int spin = 0; spin < 5; spin++) {
            sched_yield();
        }
        CHECK(memcmp(copy, tokens, sizeof copy) == 0);
        CHECK_INT(targets[0], tokens[1]);
    }
    ls_loader_destroy(loader);
    for (int i = 0; i < 50; i++) { /* ends cleanly at any moment */
        CHECK_OK(ls_loader_create(&options, &loader));
        ls_loader_destroy(loader);
    }
    ls_loader_destroy(NULL);
    ls_dataset_close(dataset);
    ls_dataset_close(NULL);
}

static void test_loader_options(void) {
    ls_dataset *dataset, *unsized;
    CHECK_OK(ls_dataset_open(fixture_path("loader"), LS_SPLIT_TRAIN, 13, false, &dataset));
    CHECK_OK(ls_dataset_open(fixture_path("loader"), LS_SPLIT_TRAIN, 0, false, &unsized));
    CHECK_INT(ls_dataset_describe(unsized)->windows, 0);
    const ls_loader_options good = {.dataset = dataset, .batch = 8, .micro = 2, .rank_micros = 4};
    ls_loader_options bad[11];
    for (int i = 0; i < 11; i++) {
        bad[i] = good;
    }
    bad[0].batch = 0;
    bad[1].micro = 0;
    bad[2].micro = 3; /* 4 x 3 > 8 */
    bad[3].rank_first = 2;
    bad[4].rank_first = -1;
    bad[5].rank_micros = 0;
    bad[6].first_sample = -1;
    bad[7].depth = -1;
    bad[8].dataset = unsized;
    bad[9].stride = 1;
    bad[10].stride = 3; /* 3 x 3 + 2 > 8 */
    for (int i = 0; i < 11; i++) {
        ls_loader *loader;
        CHECK_STATUS(ls_loader_create(&bad[i], &loader), LS_E_SHAPE);
        CHECK(loader == NULL);
    }
    ls_dataset_close(unsized);
    ls_dataset_close(dataset);
}

/* Without verification, a bad token still never leaves the loader. */
static void test_loader_bad_token(void) {
    const char *path = fixture_path("loader/train-00002.tok");
    size_t bytes;
    char *file = read_bytes(path, &bytes);
    file[LS_SHARD_HEADER_BYTES + 2 * 40 + 1] = 0x70;
    write_bytes(path, file, bytes);
    free(file);
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(fixture_path("loader"), LS_SPLIT_TRAIN, 13, false, &dataset));
    ls_loader *loader;
    const ls_loader_options options = {
        .dataset = dataset, .seed = 1, .batch = 1, .micro = 1, .rank_micros = 1};
    CHECK_OK(ls_loader_create(&options, &loader));
    ls_status status = LS_OK;
    int good = 0;
    for (int i = 0; i < 54 && status == LS_OK; i++) {
        const int32_t *tokens, *targets;
        uint64_t wait_ns;
        status = ls_loader_next(loader, &tokens, &targets, &wait_ns);
        good += status == LS_OK;
    }
    CHECK_STATUS(status, LS_E_CORRUPT);
    CHECK_MESSAGE("train-00002.tok', byte 336: token ");
    int expected = 0; /* windows 18 ([234, 247]) holds token 240, as token and as target */
    while (ls_sample_window(1, expected, 54) != 18) {
        expected++;
    }
    CHECK_INT(good, expected);
    ls_error_clear();
    const int32_t *tokens, *targets;
    uint64_t wait_ns;
    CHECK_STATUS(ls_loader_next(loader, &tokens, &targets, &wait_ns), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00002.tok");
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    test_epochs();
    test_count_targets();
    test_loader_layouts();
    test_loader_lends();
    test_loader_options();
    test_loader_bad_token();
    return fixture_end();
}
