/* One data directory: the token stream of a split, cut into windows (data.h). */
#ifndef LS_DATA_CORPUS_H
#define LS_DATA_CORPUS_H

#include "runtime/data/data.h"

typedef struct ls_corpus ls_corpus;

/* As ls_dataset_open, of one directory and a seq that is allowed. */
ls_status ls_corpus_open(const char *dir, ls_split split, int64_t seq, bool verify,
                         ls_corpus **corpus);
void ls_corpus_close(ls_corpus *corpus);
const ls_dataset_info *ls_corpus_describe(const ls_corpus *corpus);

/* As ls_dataset_window and ls_dataset_prefetch. */
ls_status ls_corpus_window(const ls_corpus *corpus, int64_t window, int32_t *tokens,
                           int32_t *targets, int64_t *valid);
void ls_corpus_prefetch(const ls_corpus *corpus, int64_t window);
/* Tokens of a window that have a next one: T, but of the last window. */
int64_t ls_corpus_tokens(const ls_corpus *corpus, int64_t window);
/* How many of these next ones are targets: with a loss mask it is counted once, and *_prefetch asks
 * the kernel to read a window ahead that is not counted yet. */
bool ls_corpus_is_masked(const ls_corpus *corpus);
int64_t ls_corpus_targets(const ls_corpus *corpus, int64_t window);
void ls_corpus_targets_prefetch(const ls_corpus *corpus, int64_t window);

#endif
