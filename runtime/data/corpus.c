#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/data/corpus.h"
#include "runtime/data/data_manifest.h"

#define MOST_BYTES ((int64_t)1 << 53) /* of text, so that sums over directories do not overflow */

typedef struct shard_map {
    const char *file; /* mapping of the whole shard */
    size_t file_bytes;
    int64_t first, tokens; /* its place in the stream */
    int token_bytes;
    uint32_t number; /* the bits of a token that are its number */
} shard_map;

struct ls_corpus {
    ls_dataset_info info;
    ls_split split;
    int64_t seq;
    bool masked;
    _Atomic int32_t *counted; /* [windows], with a mask: 1 + targets; 0: not counted yet */
    shard_map *shards;
    char dir[PATH_MAX];
};

static ls_status shard_path(const ls_corpus *corpus, int64_t index, char path[PATH_MAX]) {
    char name[32];
    ls_shard_name(name, corpus->split, index);
    return ls_path_join(path, PATH_MAX, corpus->dir, name);
}

/* The shard must be the one that data.json lists. */
static ls_status shard_compare(const char *path, const ls_shard_header *found,
                               const ls_shard_header *listed) {
    const struct {
        const char *name;
        int64_t found, listed;
    } fields[] = {
        {"split", found->split, listed->split},
        {"shard number", found->index, listed->index},
        {"shard count", found->count, listed->count},
        {"vocabulary", found->vocab, listed->vocab},
        {"separator", found->separator, listed->separator},
        {"token count", found->tokens, listed->tokens},
        {"document count", found->documents, listed->documents},
        {"source bytes", found->bytes, listed->bytes},
        {"loss masks", found->masked, listed->masked},
        {"target count", found->targets, listed->targets},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        if (fields[i].found != fields[i].listed) {
            return LS_FAIL(LS_E_CORRUPT,
                           "'%s' has %s %" PRId64 ", %s lists %" PRId64
                           ": files of different preparations are mixed; prepare the data again",
                           path, fields[i].name, fields[i].found, LS_DATA_MANIFEST_NAME,
                           fields[i].listed);
        }
    }
    if (strcmp(found->tokenizer, listed->tokenizer) != 0 || found->checksum != listed->checksum) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s' has tokenizer '%s' and checksum %016" PRIx64
                       ", %s lists '%s' and %016" PRIx64
                       ": files of different preparations are mixed; prepare the data again",
                       path, found->tokenizer, found->checksum, LS_DATA_MANIFEST_NAME,
                       listed->tokenizer, listed->checksum);
    }
    return LS_OK;
}

static ls_status shard_map_file(const char *path, int fd, ls_shard_header *header, shard_map *map) {
    struct stat st;
    char raw[LS_SHARD_HEADER_BYTES];
    ssize_t n = fstat(fd, &st) == 0 ? pread(fd, raw, sizeof raw, 0) : -1;
    if (n < 0) {
        return LS_FAIL(LS_E_IO, "cannot read '%s': %s", path, strerror(errno));
    }
    LS_TRY(ls_shard_header_decode(raw, (size_t)n, st.st_size, path, header));
    void *file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (file == MAP_FAILED) {
        return LS_FAIL(LS_E_IO, "cannot map '%s' (%" PRId64 " bytes): %s", path,
                       (int64_t)st.st_size, strerror(errno));
    }
    map->file = file;
    map->file_bytes = (size_t)st.st_size;
    map->tokens = header->tokens;
    map->token_bytes = header->token_bytes;
    map->number = ls_shard_number_bits(header->masked);
    return LS_OK;
}

static ls_status shard_open(ls_corpus *corpus, const ls_shard_header *listed, bool verify,
                            shard_map *map) {
    char path[PATH_MAX];
    LS_TRY(shard_path(corpus, listed->index, path));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        const bool gone = errno == ENOENT;
        return LS_FAIL(gone ? LS_E_INPUT : LS_E_IO, "cannot open shard '%s': %s%s", path,
                       strerror(errno),
                       gone ? "; data.json names it: copy it again or prepare the data again" : "");
    }
    ls_shard_header header;
    ls_status status = shard_map_file(path, fd, &header, map);
    close(fd);
    LS_TRY(status);
    LS_TRY(shard_compare(path, &header, listed));
    if (verify) {
        madvise((void *)map->file, map->file_bytes, MADV_SEQUENTIAL);
        LS_TRY(ls_shard_payload_check(&header, map->file + LS_SHARD_HEADER_BYTES, true, path));
    }
    /* Windows are read in random order, and asked for ahead by ls_dataset_prefetch. */
    madvise((void *)map->file, map->file_bytes, MADV_RANDOM);
    return LS_OK;
}

static ls_status shards_open(ls_corpus *corpus, const ls_data_manifest *manifest, bool verify) {
    ls_dataset_info *info = &corpus->info;
    const ls_shard_header *shards = manifest->splits[corpus->split].shards;
    const int count = manifest->splits[corpus->split].count;
    const char *name = ls_split_name(corpus->split);
    if (count == 0) {
        return LS_FAIL(LS_E_INPUT, "'%s' holds no %s data; prepare it again with %s", corpus->dir,
                       name, corpus->split == LS_SPLIT_VAL ? "--val above 0" : "--val below 1");
    }
    LS_TRY(ls_calloc((size_t)count, sizeof *corpus->shards, &corpus->shards));
    for (int i = 0; i < count; i++) {
        shard_map *map = &corpus->shards[i];
        info->shards = i + 1; /* close unmaps this one, too */
        LS_TRY(shard_open(corpus, &shards[i], verify, map));
        map->first = info->tokens;
        info->tokens += shards[i].tokens;
        info->documents += shards[i].documents;
        info->targets += shards[i].targets;
        corpus->masked |= shards[i].masked;
        if (shards[i].bytes > MOST_BYTES - info->bytes) {
            return LS_FAIL(LS_E_CORRUPT,
                           "the %s shards of '%s' promise more than 2^53 bytes of text; prepare "
                           "the data again",
                           name, corpus->dir);
        }
        info->bytes += shards[i].bytes;
        const uint64_t chain[3] = {info->fingerprint, shards[i].checksum,
                                   (uint64_t)shards[i].tokens};
        info->fingerprint = ls_xxh64(chain, sizeof chain, 0);
    }
    for (int i = 0; i < count; i++) {
        if (shards[i].masked != corpus->masked) {
            return LS_FAIL(LS_E_CORRUPT,
                           "some of the %s shards of '%s' have a loss mask, and some have none; "
                           "prepare the data again",
                           name, corpus->dir);
        }
    }
    if (info->tokens < 2) {
        return LS_FAIL(LS_E_INPUT,
                       "the %s data of '%s' has %" PRId64 " token, at least 2 are needed", name,
                       corpus->dir, info->tokens);
    }
    return LS_OK;
}

/* Samples would begin and end within documents. */
static ls_status check_length(const ls_corpus *corpus, int64_t pack) {
    if (pack == 0 || corpus->seq % pack == 0) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_CONFIG,
                   "the documents of '%s' are packed for samples of %" PRId64
                   " tokens, and data.sequence is %" PRId64 ": set it to %" PRId64
                   " or a multiple, or prepare the data again with --pack %" PRId64,
                   corpus->dir, pack, corpus->seq, pack, corpus->seq);
}

ls_status ls_corpus_open(const char *dir, ls_split split, int64_t seq, bool verify,
                         ls_corpus **out) {
    *out = NULL;
    if (strlen(dir) >= PATH_MAX) {
        return LS_FAIL(LS_E_INPUT, "the data directory's path is longer than %d bytes",
                       PATH_MAX - 1);
    }
    ls_corpus *corpus;
    LS_TRY(ls_calloc(1, sizeof *corpus, &corpus));
    corpus->split = split;
    corpus->seq = seq;
    snprintf(corpus->dir, sizeof corpus->dir, "%s", dir);

    ls_data_manifest manifest;
    ls_status status = ls_data_manifest_read(dir, &manifest);
    if (status == LS_OK) {
        ls_dataset_info *info = &corpus->info;
        info->vocab = manifest.vocab;
        info->separator = manifest.separator;
        info->begin = manifest.begin;
        info->turn_end = manifest.turn_end;
        memcpy(info->tokenizer, manifest.tokenizer, sizeof info->tokenizer);
        status = check_length(corpus, manifest.pack);
        status = status == LS_OK ? shards_open(corpus, &manifest, verify) : status;
        /* Every token but the first is a target. */
        info->windows = seq > 0 ? (info->tokens - 2) / seq + 1 : 0;
    }
    if (status == LS_OK && corpus->masked && seq > 0) {
        status = ls_calloc((size_t)corpus->info.windows, sizeof(int32_t), &corpus->counted);
    }
    ls_data_manifest_release(&manifest);
    if (status != LS_OK) {
        ls_corpus_close(corpus);
        return status;
    }
    *out = corpus;
    return LS_OK;
}

void ls_corpus_close(ls_corpus *corpus) {
    if (!corpus) {
        return;
    }
    for (int i = 0; i < corpus->info.shards; i++) {
        if (corpus->shards[i].file) {
            munmap((void *)corpus->shards[i].file, corpus->shards[i].file_bytes);
        }
    }
    free(corpus->shards);
    free(corpus->counted);
    free(corpus);
}

const ls_dataset_info *ls_corpus_describe(const ls_corpus *corpus) {
    return &corpus->info;
}

/* The shard that holds token `at` of the stream. */
static int shard_find(const ls_corpus *corpus, int64_t at) {
    int low = 0, high = corpus->info.shards - 1;
    while (low < high) {
        int middle = high - (high - low) / 2;
        if (corpus->shards[middle].first <= at) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* Copies count tokens of one shard, with their bit of a loss mask, and returns the largest. */
static uint32_t widen(const shard_map *shard, int64_t from, int64_t count, int32_t *out) {
    const char *payload = shard->file + LS_SHARD_HEADER_BYTES;
    if (shard->token_bytes == 2) {
        const uint16_t *tokens = (const uint16_t *)payload + from;
        uint16_t largest = 0;
        for (int64_t i = 0; i < count; i++) {
            largest = tokens[i] > largest ? tokens[i] : largest;
            out[i] = tokens[i];
        }
        return largest;
    }
    const uint32_t *tokens = (const uint32_t *)payload + from;
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; i++) {
        const uint32_t token = tokens[i] & shard->number;
        largest = token > largest ? token : largest;
        out[i] = (int32_t)tokens[i];
    }
    return largest;
}

static ls_status bad_token(const ls_corpus *corpus, int index, int64_t from, const int32_t *found) {
    char path[PATH_MAX];
    const uint32_t number = corpus->shards[index].number;
    LS_TRY(shard_path(corpus, index, path));
    while (((uint32_t)*found & number) < (uint64_t)corpus->info.vocab) {
        found++;
        from++;
    }
    return LS_FAIL(LS_E_CORRUPT,
                   "'%s', byte %" PRId64 ": token %u is outside the vocabulary of %" PRId64
                   "; copy the shard again or prepare the data again",
                   path, LS_SHARD_HEADER_BYTES + from * corpus->shards[index].token_bytes,
                   (uint32_t)*found & number, corpus->info.vocab);
}

/* Tokens [at, at + count) of the stream, negative where they are no targets. */
static ls_status copy_tokens(const ls_corpus *corpus, int64_t at, int64_t count, int32_t *out) {
    for (int index = shard_find(corpus, at); count > 0; index++) {
        const shard_map *shard = &corpus->shards[index];
        int64_t from = at - shard->first;
        int64_t n = shard->tokens - from < count ? shard->tokens - from : count;
        if (widen(shard, from, n, out) >= corpus->info.vocab) {
            return bad_token(corpus, index, from, out);
        }
        at += n;
        out += n;
        count -= n;
    }
    return LS_OK;
}

int64_t ls_corpus_tokens(const ls_corpus *corpus, int64_t window) {
    int64_t left = corpus->info.tokens - 1 - window * corpus->seq;
    return left < corpus->seq ? left : corpus->seq;
}

/* A run reads all of its data in time; what was read stays in the page cache, but is not the
 * process's memory any more. */
static void let_go(const ls_corpus *corpus, int64_t at, int64_t count) {
    for (int index = shard_find(corpus, at); count > 0; index++) {
        const shard_map *shard = &corpus->shards[index];
        const int64_t from = at - shard->first;
        const int64_t n = shard->tokens - from < count ? shard->tokens - from : count;
        const int64_t begin = LS_SHARD_HEADER_BYTES + from * shard->token_bytes;
        ls_map_let_go(shard->file, (int64_t)shard->file_bytes, begin,
                      begin + n * shard->token_bytes);
        at += n;
        count -= n;
    }
}

ls_status ls_corpus_window(const ls_corpus *corpus, int64_t window, int32_t *tokens,
                           int32_t *targets, int64_t *valid) {
    const int64_t first = window * corpus->seq, count = ls_corpus_tokens(corpus, window);
    int64_t masked = 0;
    LS_TRY(copy_tokens(corpus, first, count, tokens));
    LS_TRY(copy_tokens(corpus, first + 1, count, targets));
    for (int64_t i = 0; corpus->masked && i < count; i++) {
        tokens[i] &= INT32_MAX;
        masked += targets[i] < 0;
        targets[i] = targets[i] < 0 ? -1 : targets[i];
    }
    for (int64_t i = count; i < corpus->seq; i++) {
        tokens[i] = (int32_t)corpus->info.separator;
        targets[i] = -1;
    }
    *valid = count - masked;
    let_go(corpus, first, count + 1);
    return LS_OK;
}

/* Targets among tokens [at, at + count) of the stream. */
static int64_t count_targets(const ls_corpus *corpus, int64_t at, int64_t count) {
    int64_t targets = 0;
    for (int index = shard_find(corpus, at); count > 0; index++) {
        const shard_map *shard = &corpus->shards[index];
        const int64_t from = at - shard->first;
        const int64_t n = shard->tokens - from < count ? shard->tokens - from : count;
        const uint32_t *tokens = (const uint32_t *)(shard->file + LS_SHARD_HEADER_BYTES) + from;
        for (int64_t i = 0; i < n; i++) {
            targets += !(tokens[i] & LS_SHARD_NO_TARGET);
        }
        at += n;
        count -= n;
    }
    return targets;
}

bool ls_corpus_is_masked(const ls_corpus *corpus) {
    return corpus->masked;
}

int64_t ls_corpus_targets(const ls_corpus *corpus, int64_t window) {
    const int64_t first = window * corpus->seq, count = ls_corpus_tokens(corpus, window);
    if (!corpus->masked) {
        return count;
    }
    int32_t counted = atomic_load_explicit(&corpus->counted[window], memory_order_relaxed);
    if (counted == 0) {
        counted = 1 + (int32_t)count_targets(corpus, first + 1, count);
        atomic_store_explicit(&corpus->counted[window], counted, memory_order_relaxed);
        let_go(corpus, first, count + 1);
    }
    return counted - 1;
}

void ls_corpus_prefetch(const ls_corpus *corpus, int64_t window) {
    const int64_t page_bytes = sysconf(_SC_PAGESIZE);
    int64_t at = window * corpus->seq, count = ls_corpus_tokens(corpus, window) + 1;
    for (int index = shard_find(corpus, at); count > 0; index++) {
        const shard_map *shard = &corpus->shards[index];
        int64_t from = at - shard->first;
        int64_t n = shard->tokens - from < count ? shard->tokens - from : count;
        int64_t begin = LS_SHARD_HEADER_BYTES + from * shard->token_bytes;
        int64_t end = begin + n * shard->token_bytes;
        begin -= begin % page_bytes;
        /* A hint: its failure costs time, never data. */
        madvise((void *)(shard->file + begin), (size_t)(end - begin), MADV_WILLNEED);
        at += n;
        count -= n;
    }
}

void ls_corpus_targets_prefetch(const ls_corpus *corpus, int64_t window) {
    if (atomic_load_explicit(&corpus->counted[window], memory_order_relaxed) == 0) {
        ls_corpus_prefetch(corpus, window);
    }
}
