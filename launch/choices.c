#include "launch/choices.h"
#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>

typedef struct asker {
    const ls_choices *choices;
    ls_model *model;
    int64_t seq;
    int32_t *tokens, *targets; /* [seq] */
} asker;

/* The longest input: all tokens of a question with one of its endings but the last. */
static int64_t longest(const ls_choices *c) {
    int64_t most = 1;
    for (int64_t i = 0; i < c->question_count; i++) {
        const ls_question *q = &c->questions[i];
        for (int k = 0; k < q->count; k++) {
            const int64_t tokens = q->context_count + c->endings[q->first + k].count - 1;
            most = tokens > most ? tokens : most;
        }
    }
    return most;
}

/* -log of the probability of an ending. What does not fit of its context is its beginning. */
static ls_status ask(const asker *a, const ls_question *q, const ls_ending *e, double *loss) {
    const int64_t all = q->context_count + e->count, inputs = all - 1;
    const int64_t skip = inputs > a->seq ? inputs - a->seq : 0;
    const uint32_t *tokens = a->choices->tokens.tokens;
    for (int64_t i = 0; i < a->seq; i++) {
        const int64_t at = skip + i, next = at + 1;
        a->tokens[i] = 0;
        a->targets[i] = -1;
        if (at < inputs) {
            a->tokens[i] =
                (int32_t)(at < q->context_count ? tokens[q->context + at]
                                                : tokens[e->first + at - q->context_count]);
        }
        if (next >= q->context_count && next < all) {
            a->targets[i] = (int32_t)tokens[e->first + next - q->context_count];
        }
    }
    return ls_model_evaluate(a->model, a->tokens, a->targets, 1, NULL, NULL, loss);
}

static ls_status ask_all(const asker *a, int64_t number, ls_choices_score *score) {
    const ls_question *q = &a->choices->questions[number];
    int best = 0, best_norm = 0;
    double least = INFINITY, least_norm = INFINITY;
    bool cut = false;
    for (int k = 0; k < q->count; k++) {
        const ls_ending *e = &a->choices->endings[q->first + k];
        double loss;
        if (e->count > a->seq) {
            return LS_FAIL(LS_E_INPUT,
                           "ending %d of question %lld has %lld tokens; the model's context is "
                           "%lld",
                           k, (long long)number + 1, (long long)e->count, (long long)a->seq);
        }
        LS_TRY(ask(a, q, e, &loss));
        if (!isfinite(loss)) {
            return LS_FAIL(LS_E_DIVERGED,
                           "the loss of ending %d of question %lld is %g, not finite", k,
                           (long long)number + 1, loss);
        }
        const double norm = loss / (double)e->characters;
        best = loss < least ? k : best;
        least = loss < least ? loss : least;
        best_norm = norm < least_norm ? k : best_norm;
        least_norm = norm < least_norm ? norm : least_norm;
        cut = cut || q->context_count + e->count - 1 > a->seq;
    }
    score->questions++;
    score->cut += cut;
    score->right += best == q->right;
    score->right_norm += best_norm == q->right;
    return LS_OK;
}

/* Sums over the ranks; 1 / endings in one order, whatever the number of ranks. */
static ls_status sum_up(ls_session *session, const ls_choices *c, int64_t count,
                        ls_choices_score *score) {
    int64_t sums[] = {score->questions, score->cut, score->right, score->right_norm};
    LS_TRY(ls_comm_all_reduce_by_start(session->comm, sums, 4, LS_I64, LS_SUM));
    *score = (ls_choices_score){sums[0], sums[1], sums[2], sums[3], 0.0};
    for (int64_t i = 0; i < count; i++) {
        score->chance += 1.0 / c->questions[i * c->question_count / count].count;
    }
    score->chance /= (double)count;
    return LS_OK;
}

ls_status ls_choices_evaluate(ls_session *session, ls_weights *weights, const ls_choices *choices,
                              int64_t count, ls_choices_score *score) {
    const int64_t all = choices->question_count, most = weights->config.model.context;
    const int64_t wanted = longest(choices);
    asker a = {.choices = choices, .seq = wanted < most ? wanted : most};
    count = count > 0 && count < all ? count : all;
    *score = (ls_choices_score){0};
    ls_status status = ls_calloc((size_t)a.seq * 2, sizeof *a.tokens, &a.tokens);
    a.targets = a.tokens + a.seq;
    const ls_model_options options = {.batch = 1, .seq = a.seq, .loss_mask = true};
    status = status == LS_OK ? ls_weights_load(weights, session->dev, options) : status;
    a.model = weights->model;
    for (int64_t i = session->comm->rank; i < count && status == LS_OK; i += session->comm->size) {
        status = ask_all(&a, i * all / count, score);
    }
    free(a.tokens);
    LS_TRY(ls_session_agree(session, status));
    return sum_up(session, choices, count, score);
}
