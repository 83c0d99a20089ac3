/* Token shards on disk, the order of samples, and the loader.
 *
 * A data directory holds train-00000.tok, train-00001.tok, ..., val-00000.tok, ... and data.json
 * (vocabulary, tokenizer, documents, tokens, how it was made), and a tokenizer's file. A shard is
 * one header of 256 bytes and the tokens, little-endian; see shard.h for the layout.
 *
 * Tokens of a split form one stream (its shards in order), cut into windows of T tokens: window w
 * reads tokens [wT, wT + T] (one more for the last target). The last window may be shorter: its
 * missing targets are -1, as are those that a loss mask takes out. Sample number k of a run (k = 0,
 * 1, ...) belongs to epoch k / W and is the window at place k mod W of that epoch's permutation, a
 * bijection computed from (seed, epoch, place) alone. Of several directories, a mixture, each
 * sample is one part's, as evenly as their shares allow (mixture.h), and each part counts its own.
 * So a batch is a pure function of (seed, step, index), equal for every number of ranks, resumed in
 * O(1), and every token is a target exactly once an epoch. */
#ifndef LS_DATA_DATA_H
#define LS_DATA_DATA_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ls_dataset ls_dataset;

typedef enum ls_split { LS_SPLIT_TRAIN, LS_SPLIT_VAL } ls_split;

typedef struct ls_dataset_info {
    int64_t vocab;     /* tokens are < vocab */
    int64_t separator; /* token between documents */
    int64_t begin;     /* token before each; -1: none */
    int64_t turn_end;  /* of chats, the token that ends a turn; -1: not known */
    int64_t tokens;    /* in this split */
    int64_t documents;
    int64_t targets; /* tokens but those that a loss mask (shard.h) takes out */
    int64_t bytes;   /* of text that these stand for, for bits per byte; 0: not known */
    int64_t windows; /* W for the T it was opened with; 0 when T was 0 */
    int shards;
    char tokenizer[16];   /* "bytes", "bpe-..." or "tokens" (shard.h) */
    uint64_t fingerprint; /* of all shard checksums: equal data has equal fingerprints */
} ls_dataset_info;

/* Opens (mmap) all shards of a split. dir: a data directory, or a mixture, "DIR WEIGHT; DIR
 * WEIGHT", whose parts have the same tokenizer; of those without validation data that split leaves
 * out, unless none has any. verify checks every checksum and token range; without it headers and
 * sizes only. seq: T (0: information only). Errors name the shard and offset: LS_E_INPUT missing,
 * empty or truncated, LS_E_VERSION newer, LS_E_CORRUPT checksum or token out of range. LS_E_CONFIG:
 * a mixture that is not understood, or documents packed (prep --pack) for samples of
 * which seq is no multiple. */
ls_status ls_dataset_open(const char *dir, ls_split split, int64_t seq, bool verify,
                          ls_dataset **dataset);
void ls_dataset_close(ls_dataset *dataset);
/* Was it prepared without this split, each part of it? False too where that cannot be read. */
bool ls_dataset_lacks(const char *dir, ls_split split);
const ls_dataset_info *ls_dataset_describe(const ls_dataset *dataset);

int64_t ls_dataset_seq(const ls_dataset *dataset);    /* T */
bool ls_dataset_is_masked(const ls_dataset *dataset); /* Has a part of it a loss mask? */
/* With which each document begins: `begin`, or where there is none the separator before it, with
 * which generation begins then, too. */
int32_t ls_dataset_document_token(const ls_dataset *dataset);

/* Parts of the mixture, at least one, in order; what is pointed to is the dataset's. */
typedef struct ls_dataset_part {
    const ls_dataset_info *info;
    const char *dir;
    double share; /* of samples, sums to 1 */
    int64_t first_window;
} ls_dataset_part;
int ls_dataset_parts(const ls_dataset *dataset);
ls_dataset_part ls_dataset_part_at(const ls_dataset *dataset, int part);

/* So many samples of the part were read before sample 0: the order of its windows goes on there. */
void ls_dataset_resume(ls_dataset *dataset, int part, int64_t read);
/* How many samples of the part have been read before this one. */
int64_t ls_dataset_place(const ls_dataset *dataset, int part, int64_t sample);

/* Window w: tokens [T], targets [T]; unused places hold token `separator` and target -1, as has one
 * that a loss mask takes out. *valid = number of targets. Thread-safe. LS_E_CORRUPT names shard and
 * offset of a token outside the vocabulary (a dataset opened with verify has none). */
ls_status ls_dataset_window(const ls_dataset *dataset, int64_t window, int32_t *tokens,
                            int32_t *targets, int64_t *valid);
/* Asks the kernel to read a window ahead; returns at once. */
void ls_dataset_prefetch(const ls_dataset *dataset, int64_t window);

/* The window of sample k under seed. */
int64_t ls_dataset_sample(const ls_dataset *dataset, uint64_t seed, int64_t sample);
/* The same of one directory with so many windows; a bijection on [0, n), n >= 1 (Feistel network
 * with cycle walking, Black & Rogaway 2002, doi:10.1007/3-540-45760-7_9), and its inverse. */
int64_t ls_sample_window(uint64_t seed, int64_t sample, int64_t windows);
uint64_t ls_permute(uint64_t seed, uint64_t epoch, uint64_t place, uint64_t n);
uint64_t ls_permute_inverse(uint64_t seed, uint64_t epoch, uint64_t value, uint64_t n);

/* Number of tokens with a next one in samples [first, first + count), without a look at them. */
int64_t ls_dataset_count_tokens(const ls_dataset *dataset, uint64_t seed, int64_t first,
                                int64_t count);
/* How many of these next ones are targets: all, but with a loss mask, of which each window is read
 * once. Asks the kernel to read the next `count` samples ahead for that, too. */
int64_t ls_dataset_count_targets(const ls_dataset *dataset, uint64_t seed, int64_t first,
                                 int64_t count);

/* Loader: one thread that fills micro-batches ahead of use.
 * Micro-batch (step, local) of a rank, counted from where the loader starts, holds samples
 *   first_sample + step * batch + rank_first + local * stride + [0, micro). */
typedef struct ls_loader ls_loader;
typedef struct ls_loader_options {
    const ls_dataset *dataset; /* borrowed */
    uint64_t seed;
    int64_t batch;        /* sequences of the global batch */
    int64_t micro;        /* sequences of a micro-batch */
    int64_t rank_first;   /* first sequence of this rank inside the global batch */
    int64_t rank_micros;  /* micro-batches of this rank per step */
    int64_t stride;       /* sequences from one micro-batch of this rank to its next; 0: micro */
    int64_t first_sample; /* of the first global batch, 0-based */
    int depth;            /* micro-batches kept ready; 0: 4 */
} ls_loader_options;

ls_status ls_loader_create(const ls_loader_options *options, ls_loader **loader);
void ls_loader_destroy(ls_loader *loader);
/* Next micro-batch in order: tokens, targets [micro, T], valid until the next call. wait_ns: time
 * spent waiting for it. LS_E_CORRUPT as ls_dataset_window, again at every call after the first. */
ls_status ls_loader_next(ls_loader *loader, const int32_t **tokens, const int32_t **targets,
                         uint64_t *wait_ns);

#endif
