/* A mixture of data directories, or a single one. */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"
#include "runtime/data/corpus.h"
#include "runtime/data/data_manifest.h"
#include "runtime/data/mixture.h"

struct ls_dataset {
    ls_dataset_info info;
    int64_t seq;
    ls_mixture mixture;
    ls_corpus **corpora; /* [mixture.count] */
    int64_t *first;      /* [mixture.count]: each one's first window */
    int64_t *read;       /* [mixture.count]: its own samples before sample 0 */
};

/* Tokens of both must mean the same, and documents begin and end alike. */
static ls_status compare(const ls_dataset_info *a, const char *a_dir, const ls_dataset_info *b,
                         const char *b_dir) {
    if (strcmp(a->tokenizer, b->tokenizer) != 0 || a->vocab != b->vocab ||
        a->separator != b->separator) {
        return LS_FAIL(
            LS_E_INPUT,
            "'%s' has tokenizer '%s', vocabulary %" PRId64 " and separator %" PRId64
            ", '%s' has '%s', %" PRId64 " and %" PRId64
            "; data of one run must be alike: prepare them with the same tokenizer, --vocab "
            "and --separator",
            a_dir, a->tokenizer, a->vocab, a->separator, b_dir, b->tokenizer, b->vocab,
            b->separator);
    }
    if (a->begin != b->begin) {
        return LS_FAIL(LS_E_INPUT,
                       "before each document '%s' has token %" PRId64 " and '%s' %" PRId64
                       " (-1: none); data of one run must be alike: prepare them with the same "
                       "--begin",
                       a_dir, a->begin, b_dir, b->begin);
    }
    return LS_OK;
}

/* Its samples would come twice, each time as if the other did not. */
static ls_status refuse_twins(const ls_dataset *dataset, int part) {
    for (int i = 0; i < part; i++) {
        if (ls_corpus_describe(dataset->corpora[i])->fingerprint ==
            ls_corpus_describe(dataset->corpora[part])->fingerprint) {
            return LS_FAIL(
                LS_E_CONFIG,
                "data.dir: '%s' and '%s' hold the same data; name one, with the sum of the weights",
                dataset->mixture.parts[i].dir, dataset->mixture.parts[part].dir);
        }
    }
    return LS_OK;
}

static void add(ls_dataset *dataset, int part) {
    const ls_dataset_info *from = ls_corpus_describe(dataset->corpora[part]);
    ls_dataset_info *to = &dataset->info;
    dataset->first[part] = to->windows;
    if (part == 0) {
        *to = *from;
        return;
    }
    const uint64_t chain[3] = {to->fingerprint, from->fingerprint,
                               dataset->mixture.parts[part].low};
    to->fingerprint = ls_xxh64(chain, sizeof chain, 0);
    to->turn_end = to->turn_end >= 0 ? to->turn_end : from->turn_end;
    to->tokens += from->tokens;
    to->documents += from->documents;
    to->targets += from->targets;
    to->bytes = to->bytes > 0 && from->bytes > 0 ? to->bytes + from->bytes : 0;
    to->windows += from->windows;
    to->shards += from->shards;
}

static ls_status has_split(const char *dir, ls_split split, bool *has) {
    ls_data_manifest manifest;
    const ls_status status = ls_data_manifest_read(dir, &manifest);
    *has = status == LS_OK && manifest.splits[split].count > 0;
    ls_data_manifest_release(&manifest);
    return status;
}

bool ls_dataset_lacks(const char *dir, ls_split split) {
    ls_mixture mixture;
    bool has = ls_mixture_parse(dir, &mixture) != LS_OK;
    for (int i = 0; i < mixture.count && !has; i++) {
        bool one;
        has = has_split(mixture.parts[i].dir, split, &one) != LS_OK || one;
    }
    ls_mixture_release(&mixture);
    return !has;
}

/* Leaves out parts without validation data, where others have some. */
static ls_status leave_out(ls_mixture *mixture) {
    int kept = 0;
    for (int i = 0; i < mixture->count; i++) {
        bool has;
        LS_TRY(has_split(mixture->parts[i].dir, LS_SPLIT_VAL, &has));
        if (has) {
            const ls_mixture_part part = mixture->parts[kept];
            mixture->parts[kept++] = mixture->parts[i];
            mixture->parts[i] = part;
        }
    }
    for (int i = kept; kept > 0 && i < mixture->count; i++) {
        free(mixture->parts[i].dir);
    }
    mixture->count = kept > 0 ? kept : mixture->count;
    return LS_OK;
}

static ls_status open_parts(ls_dataset *dataset, ls_split split, bool verify) {
    const ls_mixture *mixture = &dataset->mixture;
    LS_TRY(ls_calloc((size_t)mixture->count, sizeof *dataset->corpora, &dataset->corpora));
    LS_TRY(ls_calloc((size_t)mixture->count, sizeof *dataset->first, &dataset->first));
    LS_TRY(ls_calloc((size_t)mixture->count, sizeof *dataset->read, &dataset->read));
    for (int i = 0; i < mixture->count; i++) {
        const char *dir = mixture->parts[i].dir;
        LS_TRY(ls_corpus_open(dir, split, dataset->seq, verify, &dataset->corpora[i]));
        LS_TRY(compare(ls_corpus_describe(dataset->corpora[0]), mixture->parts[0].dir,
                       ls_corpus_describe(dataset->corpora[i]), dir));
        LS_TRY(refuse_twins(dataset, i));
        add(dataset, i);
    }
    return LS_OK;
}

ls_status ls_dataset_open(const char *dir, ls_split split, int64_t seq, bool verify,
                          ls_dataset **out) {
    *out = NULL;
    if (seq < 0 || seq > INT32_MAX) {
        return LS_FAIL(LS_E_SHAPE, "sequence length is %" PRId64 ", allowed is 0 to %d", seq,
                       INT32_MAX);
    }
    ls_dataset *dataset;
    LS_TRY(ls_calloc(1, sizeof *dataset, &dataset));
    dataset->seq = seq;
    ls_status status = ls_mixture_parse(dir, &dataset->mixture);
    if (status == LS_OK && split == LS_SPLIT_VAL && dataset->mixture.count > 1) {
        status = leave_out(&dataset->mixture);
    }
    status = status == LS_OK ? ls_mixture_divide(&dataset->mixture) : status;
    status = status == LS_OK ? open_parts(dataset, split, verify) : status;
    if (status != LS_OK) {
        ls_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LS_OK;
}

void ls_dataset_close(ls_dataset *dataset) {
    if (!dataset) {
        return;
    }
    for (int i = 0; dataset->corpora && i < dataset->mixture.count; i++) {
        ls_corpus_close(dataset->corpora[i]);
    }
    ls_mixture_release(&dataset->mixture);
    free(dataset->corpora);
    free(dataset->first);
    free(dataset->read);
    free(dataset);
}

const ls_dataset_info *ls_dataset_describe(const ls_dataset *dataset) {
    return &dataset->info;
}

int64_t ls_dataset_seq(const ls_dataset *dataset) {
    return dataset->seq;
}

bool ls_dataset_is_masked(const ls_dataset *dataset) {
    return dataset->info.targets < dataset->info.tokens;
}

int32_t ls_dataset_document_token(const ls_dataset *dataset) {
    const ls_dataset_info *info = ls_dataset_describe(dataset);
    return (int32_t)(info->begin >= 0 ? info->begin : info->separator);
}

int ls_dataset_parts(const ls_dataset *dataset) {
    return dataset->mixture.count;
}

ls_dataset_part ls_dataset_part_at(const ls_dataset *dataset, int part) {
    const ls_mixture_part *p = &dataset->mixture.parts[part];
    return (ls_dataset_part){.info = ls_corpus_describe(dataset->corpora[part]),
                             .dir = p->dir,
                             .share = (double)(p->high - p->low) / (double)LS_MIXTURE_WHOLE,
                             .first_window = dataset->first[part]};
}

void ls_dataset_resume(ls_dataset *dataset, int part, int64_t read) {
    dataset->read[part] = read;
}

int64_t ls_dataset_place(const ls_dataset *dataset, int part, int64_t sample) {
    return dataset->read[part] + ls_mixture_before(&dataset->mixture.parts[part], sample);
}

int64_t ls_dataset_sample(const ls_dataset *dataset, uint64_t seed, int64_t sample) {
    const int part = ls_mixture_find(&dataset->mixture, sample);
    return dataset->first[part] +
           ls_sample_window(seed, ls_dataset_place(dataset, part, sample),
                            ls_corpus_describe(dataset->corpora[part])->windows);
}

/* The part of a window; *window becomes its number there. */
static const ls_corpus *corpus_of(const ls_dataset *dataset, int64_t *window) {
    int part = dataset->mixture.count - 1;
    while (*window < dataset->first[part]) {
        part--;
    }
    *window -= dataset->first[part];
    return dataset->corpora[part];
}

ls_status ls_dataset_window(const ls_dataset *dataset, int64_t window, int32_t *tokens,
                            int32_t *targets, int64_t *valid) {
    const ls_corpus *corpus = corpus_of(dataset, &window);
    return ls_corpus_window(corpus, window, tokens, targets, valid);
}

void ls_dataset_prefetch(const ls_dataset *dataset, int64_t window) {
    const ls_corpus *corpus = corpus_of(dataset, &window);
    ls_corpus_prefetch(corpus, window);
}

/* Of samples [first, end) of a part. Only its last window is short; it comes once an epoch, at a
 * place that is known. */
static int64_t part_tokens(const ls_dataset *dataset, int part, uint64_t seed, int64_t first,
                           int64_t end) {
    const ls_corpus *corpus = dataset->corpora[part];
    const int64_t windows = ls_corpus_describe(corpus)->windows, last = windows - 1;
    const int64_t missing = dataset->seq - ls_corpus_tokens(corpus, last), count = end - first;
    if (count <= 0 || missing == 0) {
        return count <= 0 ? 0 : count * dataset->seq;
    }
    const int64_t first_epoch = first / windows, last_epoch = (end - 1) / windows;
    int64_t times = last_epoch - first_epoch + 1;
    times -= (int64_t)ls_permute_inverse(seed, (uint64_t)first_epoch, (uint64_t)last,
                                         (uint64_t)windows) < first % windows;
    times -= (int64_t)ls_permute_inverse(seed, (uint64_t)last_epoch, (uint64_t)last,
                                         (uint64_t)windows) > (end - 1) % windows;
    return count * dataset->seq - times * missing;
}

/* How many of these are targets: with a loss mask only a look at each window tells. */
static int64_t part_targets(const ls_dataset *dataset, int part, uint64_t seed, int64_t first,
                            int64_t end) {
    const ls_corpus *corpus = dataset->corpora[part];
    const int64_t windows = ls_corpus_describe(corpus)->windows;
    int64_t targets = 0;
    if (!ls_corpus_is_masked(corpus)) {
        return part_tokens(dataset, part, seed, first, end);
    }
    for (int64_t k = end; k < end + (end - first); k++) {
        ls_corpus_targets_prefetch(corpus, ls_sample_window(seed, k, windows));
    }
    for (int64_t k = first; k < end; k++) {
        targets += ls_corpus_targets(corpus, ls_sample_window(seed, k, windows));
    }
    return targets;
}

/* Of all parts' samples among [first, first + count). */
static int64_t sum_parts(const ls_dataset *dataset, uint64_t seed, int64_t first, int64_t count,
                         int64_t (*of)(const ls_dataset *dataset, int part, uint64_t seed,
                                       int64_t first, int64_t end)) {
    int64_t sum = 0;
    for (int i = 0; count > 0 && i < dataset->mixture.count; i++) {
        sum += of(dataset, i, seed, ls_dataset_place(dataset, i, first),
                  ls_dataset_place(dataset, i, first + count));
    }
    return sum;
}

int64_t ls_dataset_count_tokens(const ls_dataset *dataset, uint64_t seed, int64_t first,
                                int64_t count) {
    return sum_parts(dataset, seed, first, count, part_tokens);
}

int64_t ls_dataset_count_targets(const ls_dataset *dataset, uint64_t seed, int64_t first,
                                 int64_t count) {
    return sum_parts(dataset, seed, first, count, part_targets);
}
