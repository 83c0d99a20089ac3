/* The loss over a dataset, with the same bits for every number of ranks. */
#include "runtime/base/arena.h"
#include "runtime/step/step.h"

#include <stdlib.h>

typedef struct share {
    double loss; /* sum over the targets */
    int64_t targets;
} share;

typedef struct evaluation {
    ls_model *model;
    const ls_dataset *dataset;
    int64_t micro, windows, seq;
    int64_t rows;              /* evaluated; when fewer than windows, spread evenly over them */
    int64_t micros;            /* of all ranks; micro-batch i belongs to rank i mod size */
    int64_t slots;             /* of one rank */
    int32_t *tokens, *targets; /* [micro, seq] */
    share *mine, *all;         /* [slots], [size, slots] */
} evaluation;

/* Micro-batch `index`: rows from index * micro on; the last one may have fewer than micro. */
static ls_status evaluate_micro(const evaluation *e, int64_t index, share *out) {
    int64_t first = index * e->micro, left = e->rows - first;
    int64_t rows = left < e->micro ? left : e->micro;
    for (int64_t row = 0; row < rows; row++) {
        int64_t valid, window = (int64_t)((__int128)(first + row) * e->windows / e->rows);
        LS_TRY(ls_dataset_window(e->dataset, window, e->tokens + row * e->seq,
                                 e->targets + row * e->seq, &valid));
        out->targets += valid;
    }
    return ls_model_loss(e->model, e->tokens, e->targets, rows, &out->loss);
}

static ls_status evaluate_all(evaluation *e, ls_comm *comm, ls_eval_result *result) {
    LS_TRY(ls_calloc((size_t)(e->micro * e->seq), sizeof *e->tokens, &e->tokens));
    LS_TRY(ls_calloc((size_t)(e->micro * e->seq), sizeof *e->targets, &e->targets));
    LS_TRY(ls_calloc((size_t)e->slots, sizeof *e->mine, &e->mine));
    LS_TRY(ls_calloc((size_t)(e->slots * comm->size), sizeof *e->all, &e->all));
    for (int64_t i = comm->rank; i < e->micros; i += comm->size) {
        LS_TRY(evaluate_micro(e, i, &e->mine[i / comm->size]));
    }
    LS_TRY(comm->ops->all_gather(comm, e->mine, e->all, e->slots * (int64_t)sizeof *e->mine));
    double loss = 0.0;
    for (int64_t i = 0; i < e->micros; i++) {
        const share *s = &e->all[i % comm->size * e->slots + i / comm->size];
        loss += s->loss;
        result->targets += s->targets;
    }
    if (result->targets < 1) {
        return LS_FAIL(LS_E_INPUT, "the dataset to evaluate on has no target");
    }
    result->loss = loss / (double)result->targets;
    return LS_OK;
}

ls_status ls_step_evaluate(ls_model *model, ls_comm *comm, const ls_dataset *dataset, int64_t micro,
                           int64_t batches, ls_eval_result *result) {
    *result = (ls_eval_result){0};
    evaluation e = {.model = model,
                    .dataset = dataset,
                    .micro = micro,
                    .windows = ls_dataset_describe(dataset)->windows,
                    .seq = ls_dataset_seq(dataset)};
    if (micro < 1 || e.seq != ls_model_seq(model)) {
        return LS_FAIL(LS_E_SHAPE,
                       "evaluation in micro-batches of %lld sequences of %lld tokens; at least 1 "
                       "sequence is needed, and the model was made for %lld tokens",
                       (long long)micro, (long long)e.seq, (long long)ls_model_seq(model));
    }
    e.rows = batches > 0 && batches < e.windows / micro ? batches * micro : e.windows;
    e.micros = (e.rows + micro - 1) / micro;
    e.slots = (e.micros + comm->size - 1) / comm->size;
    ls_status status = evaluate_all(&e, comm, result);
    free(e.tokens);
    free(e.targets);
    free(e.mine);
    free(e.all);
    return status;
}
