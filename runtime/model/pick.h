/* Drawing a token from logits. */
#ifndef LS_MODEL_PICK_H
#define LS_MODEL_PICK_H

#include "runtime/base/status.h"

#include <stdint.h>

typedef struct ls_pick_options {
    double temperature; /* 0: the likeliest token */
    int64_t top_k;      /* among so many of the likeliest; 0: all */
    double top_p;       /* and of these the fewest that have this much of their probability
                           (nucleus sampling, Holtzman 2020, arXiv 1904.09751); 1: all */
    uint64_t seed;
} ls_pick_options;

/* The token that draw number `index` of the seed picks. Tokens as likely as the last one that is
 * kept are kept too. logits [vocab], scratch [vocab]. LS_E_DIVERGED for a logit that is not finite.
 */
ls_status ls_pick(const ls_pick_options *options, const float *logits, int64_t vocab,
                  float *scratch, uint64_t index, int32_t *token);

#endif
