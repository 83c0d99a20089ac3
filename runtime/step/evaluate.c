/* The loss over a dataset, with the same bits for every number of ranks. */
#include "runtime/base/arena.h"
#include "runtime/step/runner.h"

#include <math.h>
#include <stdlib.h>

typedef struct share {
    double loss; /* sum over the targets */
    int64_t targets;
} share;

typedef struct evaluation {
    ls_runner *runner;
    const ls_dataset *dataset;
    int64_t micro, seq;
    int64_t first, windows;    /* of the part that is evaluated */
    int64_t rows;              /* evaluated; when fewer than windows, spread evenly over them */
    int64_t micros;            /* of all ranks; micro-batch i belongs to data rank i mod size */
    int64_t slots;             /* of one rank */
    int32_t *tokens, *targets; /* [micro, seq] */
    share *mine, *all;         /* [slots], [size, slots] */
} evaluation;

/* One micro-batch through all parts; *loss stays 0 where the head is not. */
static ls_status run_parts(const evaluation *e, int64_t rows, int64_t index, double *loss) {
    ls_runner *r = e->runner;
    for (int p = 0; p < r->options.parts; p++) {
        const bool first = ls_runner_is_first(r, p), last = ls_runner_is_last(r, p);
        void *x_in = NULL, *x_out = NULL;
        if (!first) {
            LS_TRY(ls_runner_receive(r, false, &r->inputs[p], index));
            LS_TRY(ls_runner_await(r, false, &r->inputs[p], index, &x_in));
        }
        LS_TRY(last ? LS_OK : ls_runner_prepare(r, false, &x_out));
        double sum = 0.0;
        LS_TRY(ls_model_evaluate(r->models[p], e->tokens, e->targets, rows, x_in, x_out, &sum));
        *loss += sum;
        LS_TRY(last ? LS_OK : ls_runner_send(r, false));
    }
    return LS_OK;
}

/* Micro-batch `index`: rows from index * micro on; the last one may have fewer than micro. */
static ls_status evaluate_micro(const evaluation *e, int64_t index, share *out) {
    int64_t first = index * e->micro, left = e->rows - first;
    int64_t rows = left < e->micro ? left : e->micro;
    for (int64_t row = 0; row < rows; row++) {
        int64_t valid,
            window = e->first + (int64_t)((__int128)(first + row) * e->windows / e->rows);
        LS_TRY(ls_dataset_window(e->dataset, window, e->tokens + row * e->seq,
                                 e->targets + row * e->seq, &valid));
        out->targets += valid;
    }
    return run_parts(e, rows, index, &out->loss);
}

/* Ranks whose parameters come by collectives all run as often, the surplus for nothing. */
static ls_status evaluate_mine(const evaluation *e) {
    const ls_runner *r = e->runner;
    for (int64_t slot = 0; slot < e->slots; slot++) {
        const int64_t index = slot * r->data_ranks + r->data_rank;
        share unwanted = {0};
        if (index < e->micros) {
            LS_TRY(evaluate_micro(e, index, &e->mine[slot]));
        } else if (r->options.gathers) {
            LS_TRY(evaluate_micro(e, 0, &unwanted));
        }
    }
    return LS_OK;
}

static ls_status evaluate_all(evaluation *e, ls_eval_result *result) {
    ls_runner *r = e->runner;
    ls_comm *data = r->options.data, *pipeline = r->options.pipeline;
    const int contexts = r->options.context_ranks;
    LS_TRY(ls_calloc((size_t)(e->micro * e->seq), sizeof *e->tokens, &e->tokens));
    LS_TRY(ls_calloc((size_t)(e->micro * e->seq), sizeof *e->targets, &e->targets));
    LS_TRY(ls_calloc((size_t)e->slots, sizeof *e->mine, &e->mine));
    LS_TRY(ls_calloc((size_t)(e->slots * data->size), sizeof *e->all, &e->all));
    LS_TRY(evaluate_mine(e));
    LS_TRY(ls_runner_drain(r));
    LS_TRY(data->ops->all_gather(data, e->mine, e->all, e->slots * (int64_t)sizeof *e->mine));
    double loss = 0.0;
    for (int64_t i = 0; i < e->micros; i++) {
        for (int c = 0; c < contexts; c++) { /* each has the losses of its tokens */
            const int64_t rank = i % r->data_ranks * contexts + c;
            const share *s = &e->all[rank * e->slots + i / r->data_ranks];
            loss += s->loss;
            result->targets += c == 0 ? s->targets : 0;
        }
    }
    LS_TRY(pipeline ? pipeline->ops->all_reduce(pipeline, &loss, 1, LS_F64, LS_SUM) : LS_OK);
    result->loss = result->targets > 0 ? loss / (double)result->targets : NAN;
    return LS_OK;
}

ls_status ls_step_evaluate(ls_runner *runner, const ls_dataset *dataset, int part, int64_t micro,
                           int64_t batches, ls_eval_result *result) {
    const ls_dataset_part data = ls_dataset_part_at(dataset, part);
    *result = (ls_eval_result){0};
    evaluation e = {.runner = runner,
                    .dataset = dataset,
                    .micro = micro,
                    .first = data.first_window,
                    .windows = data.info->windows,
                    .seq = ls_dataset_seq(dataset)};
    const int64_t seq = ls_model_seq(runner->models[0]);
    if (micro < 1 || e.seq != seq) {
        return LS_FAIL(LS_E_SHAPE,
                       "evaluation in micro-batches of %lld sequences of %lld tokens; at least 1 "
                       "sequence is needed, and the model was made for %lld tokens",
                       (long long)micro, (long long)e.seq, (long long)seq);
    }
    e.rows = batches > 0 && batches < e.windows / micro ? batches * micro : e.windows;
    e.micros = (e.rows + micro - 1) / micro;
    e.slots = (e.micros + runner->data_ranks - 1) / runner->data_ranks;
    ls_status status = evaluate_all(&e, result);
    free(e.tokens);
    free(e.targets);
    free(e.mine);
    free(e.all);
    return status;
}
