/* Multiple-choice questions (as of HellaSwag: Zellers 2019, arXiv 1905.07830): of the endings of a
 * context the right one is to be that which the model finds likeliest, scored as
 * lm-evaluation-harness (Gao 2024, doi:10.5281/zenodo.12608602) does: acc by the probability of
 * the ending's tokens, acc_norm by its logarithm a character. */
#ifndef LS_LAUNCH_CHOICES_H
#define LS_LAUNCH_CHOICES_H

#include "launch/session.h"
#include "launch/weights.h"
#include "runtime/data/tokenizer.h"

typedef struct ls_question {
    int64_t context, context_count; /* its tokens in ls_choices.tokens */
    int first, count, right;        /* endings, and the right one of these */
} ls_question;

typedef struct ls_ending {
    int64_t first, count; /* its tokens */
    int64_t characters;
} ls_ending;

typedef struct ls_choices {
    ls_token_list tokens;
    ls_question *questions;
    ls_ending *endings;
    int64_t question_count, ending_count, capacity; /* of endings */
} ls_choices;

/* What makes tokens of text: each context stands behind the token `begin`; -1: none. */
typedef struct ls_choices_encoder {
    const ls_tokenizer *tokenizer; /* NULL: bytes */
    int64_t begin, vocab;          /* of the model */
} ls_choices_encoder;

/* The questions of a JSONL file: a line has an object with a text, a list of two or more endings
 * and the number of the right one from 0 (or its digits), under the names "CONTEXT,ENDINGS,RIGHT".
 * Between context and ending is a space, where neither has one. LS_E_INPUT names the line; LS_E_IO.
 */
ls_status ls_choices_read(const char *path, const char *names, const ls_choices_encoder *encoder,
                          ls_choices *choices);
void ls_choices_release(ls_choices *choices);

typedef struct ls_choices_score {
    int64_t questions, cut; /* cut: contexts that were too long, and lost their beginning */
    int64_t right, right_norm;
    double chance;
} ls_choices_score;

/* Of `count` questions spread evenly over all (0: all), each rank's share by a model that is loaded
 * into weights here. The result does not depend on the number of ranks. LS_E_DIVERGED: a
 * probability is no number. [collective] */
ls_status ls_choices_evaluate(ls_session *session, ls_weights *weights, const ls_choices *choices,
                              int64_t count, ls_choices_score *score);

#endif
