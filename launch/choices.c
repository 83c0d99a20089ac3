#include "launch/choices.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"

#include <math.h>
#include <stdlib.h>

enum { BATCH_TOKENS = 2048, BATCH_ROWS = 64 };

/* A question with one of its endings. */
typedef struct row {
    int64_t question;
    int ending;     /* in ls_choices.endings */
    int64_t tokens; /* that the model reads: all but the last, and no more than fit */
} row;

typedef struct asker {
    const ls_choices *choices;
    ls_model *model;
    row *rows; /* [count], the longest first */
    int64_t count, batch, seq;
    int32_t *tokens, *targets; /* [batch, seq] */
    double *losses;            /* [endings], of all ranks in the end */
} asker;

static int longest_first(const void *a, const void *b) {
    const row *x = a, *y = b;
    const int order = (x->tokens < y->tokens) - (x->tokens > y->tokens);
    return order != 0 ? order : (x->ending > y->ending) - (x->ending < y->ending);
}

/* The rows of `count` questions, none longer than `most`. */
static ls_status find_rows(asker *a, int64_t count, int64_t most) {
    const ls_choices *c = a->choices;
    LS_TRY(ls_calloc((size_t)c->ending_count, sizeof *a->rows, &a->rows));
    for (int64_t i = 0; i < count; i++) {
        const int64_t number = i * c->question_count / count;
        const ls_question *q = &c->questions[number];
        for (int k = 0; k < q->count; k++) {
            const ls_ending *e = &c->endings[q->first + k];
            if (e->count > most) {
                return LS_FAIL(LS_E_INPUT,
                               "ending %d of question %lld has %lld tokens; the model's context is "
                               "%lld",
                               k, (long long)number + 1, (long long)e->count, (long long)most);
            }
            const int64_t tokens = q->context_count + e->count - 1;
            a->rows[a->count++] = (row){number, q->first + k, tokens < most ? tokens : most};
        }
    }
    qsort(a->rows, (size_t)a->count, sizeof *a->rows, longest_first);
    a->seq = a->rows[0].tokens;
    return LS_OK;
}

/* Row `r` in seq tokens. What does not fit of its context is its beginning. */
static void fill(const asker *a, const row *r, int64_t seq, int32_t *to, int32_t *targets) {
    const ls_question *q = &a->choices->questions[r->question];
    const ls_ending *e = &a->choices->endings[r->ending];
    const uint32_t *tokens = a->choices->tokens.tokens;
    const int64_t all = q->context_count + e->count, inputs = all - 1, skip = inputs - r->tokens;
    for (int64_t i = 0; i < seq; i++) {
        const int64_t at = skip + i, next = at + 1;
        to[i] = 0;
        targets[i] = -1;
        if (at < inputs) {
            to[i] = (int32_t)(at < q->context_count ? tokens[q->context + at]
                                                    : tokens[e->first + at - q->context_count]);
        }
        if (next >= q->context_count && next < all) {
            targets[i] = (int32_t)tokens[e->first + next - q->context_count];
        }
    }
}

/* -log of the probability of each ending of a batch of rows, as long as the first. */
static ls_status ask(const asker *a, int64_t first) {
    const int64_t left = a->count - first, rows = left < a->batch ? left : a->batch;
    const int64_t seq = a->rows[first].tokens;
    double losses[BATCH_ROWS];
    for (int64_t i = 0; i < rows; i++) {
        fill(a, &a->rows[first + i], seq, a->tokens + i * seq, a->targets + i * seq);
    }
    LS_TRY(ls_model_score(a->model, a->tokens, a->targets, rows, seq, losses));
    for (int64_t i = 0; i < rows; i++) {
        a->losses[a->rows[first + i].ending] = losses[i];
    }
    return LS_OK;
}

/* Batches are the ranks' in turn, and the same for any number of them. */
static ls_status ask_all(const asker *a, const ls_comm *comm) {
    for (int64_t first = comm->rank * a->batch; first < a->count; first += comm->size * a->batch) {
        LS_TRY(ask(a, first));
        if (comm->rank == 0) {
            ls_log_progress(false, "eval: %lld of %lld endings", (long long)first,
                            (long long)a->count);
        }
    }
    return LS_OK;
}

static ls_status judge(const asker *a, int64_t number, int64_t most, ls_choices_score *score) {
    const ls_question *q = &a->choices->questions[number];
    int best = 0, best_norm = 0;
    double least = INFINITY, least_norm = INFINITY;
    bool cut = false;
    for (int k = 0; k < q->count; k++) {
        const ls_ending *e = &a->choices->endings[q->first + k];
        const double loss = a->losses[q->first + k], norm = loss / (double)e->characters;
        if (!isfinite(loss)) {
            return LS_FAIL(LS_E_DIVERGED,
                           "the loss of ending %d of question %lld is %g, not finite", k,
                           (long long)number + 1, loss);
        }
        best = loss < least ? k : best;
        least = loss < least ? loss : least;
        best_norm = norm < least_norm ? k : best_norm;
        least_norm = norm < least_norm ? norm : least_norm;
        cut = cut || q->context_count + e->count - 1 > most;
    }
    score->questions++;
    score->cut += cut;
    score->right += best == q->right;
    score->right_norm += best_norm == q->right;
    score->chance += 1.0 / q->count;
    return LS_OK;
}

static ls_status load(asker *a, ls_session *session, ls_weights *weights, int64_t count) {
    LS_TRY(find_rows(a, count, weights->config.model.context));
    const int64_t rows = BATCH_TOKENS / a->seq;
    a->batch = rows < 1 ? 1 : rows < BATCH_ROWS ? rows : BATCH_ROWS;
    const size_t tokens = (size_t)(a->batch * a->seq);
    LS_TRY(ls_calloc(2 * tokens, sizeof *a->tokens, &a->tokens));
    a->targets = a->tokens + tokens;
    LS_TRY(ls_calloc((size_t)a->choices->ending_count, sizeof *a->losses, &a->losses));
    const ls_model_options options = {.batch = a->batch, .seq = a->seq, .loss_mask = true};
    LS_TRY(ls_weights_load(weights, session->dev, options));
    a->model = weights->model;
    return LS_OK;
}

static ls_status evaluate(asker *a, ls_session *session, ls_weights *weights, int64_t count,
                          ls_choices_score *score) {
    const ls_choices *c = a->choices;
    ls_status status = load(a, session, weights, count);
    LS_TRY(ls_session_agree(session, status == LS_OK ? ask_all(a, session->comm) : status));
    LS_TRY(ls_comm_all_reduce_by_start(session->comm, a->losses, c->ending_count, LS_F64, LS_SUM));
    for (int64_t i = 0; i < count; i++) {
        LS_TRY(judge(a, i * c->question_count / count, weights->config.model.context, score));
    }
    score->chance /= (double)count;
    return LS_OK;
}

ls_status ls_choices_evaluate(ls_session *session, ls_weights *weights, const ls_choices *choices,
                              int64_t count, ls_choices_score *score) {
    const int64_t all = choices->question_count;
    asker a = {.choices = choices};
    *score = (ls_choices_score){0};
    const ls_status status =
        evaluate(&a, session, weights, count > 0 && count < all ? count : all, score);
    if (status == LS_OK && session->comm->rank == 0) {
        ls_log_progress(true, "eval: %lld endings", (long long)a.count);
    }
    free(a.rows);
    free(a.tokens);
    free(a.losses);
    return status;
}
