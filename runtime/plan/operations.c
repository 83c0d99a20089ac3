/* The operations of a step as this program makes them, one by one, where the devices are
 * processors: what they compute hides nothing then, for they carry the bytes themselves. */
#include "runtime/plan/cost.h"

#include <math.h>

/* Chunks of a product whose rows travel (runtime/model/parallel.c): of so many rows at least, at
 * most so many. Agreements of all ranks in a step: losses, norms, stops. */
enum { CHUNK_ROWS = 96, CHUNKS = 4, AGREEMENTS = 6 };

typedef struct step {
    const ls_plan_job *job;
    const ls_plan_layout *l;
    double tokens, micros, layers; /* of a rank: in a micro-batch; a step; on its stage */
    bool first, last;              /* has the embedding, the head */
    double act;                    /* bytes of an element of activations and parameters */
    double *s;                     /* by ls_term */
} step;

/* bytes: of the whole vector, or what a rank sends (wire_cost.h). */
static double op_s(const step *t, ls_link_use use, ls_coll coll, int ranks, double bytes) {
    return bytes > 0 ? ls_wire_time_s(coll, ranks, bytes, t->job->rates->links[use][coll]) : 0;
}

static double act_s(const step *t, ls_coll coll, int ranks, double bytes) {
    return op_s(t, LS_USE_ACTIVATIONS, coll, ranks, bytes);
}

static double state_s(const step *t, ls_coll coll, int ranks, double bytes) {
    return op_s(t, LS_USE_STATE, coll, ranks, bytes);
}

static double block_s(const step *t, int ranks, double bytes) {
    return op_s(t, LS_USE_BLOCKS, LS_COLL_ALL_GATHER, ranks, bytes);
}

/* `chunks` operations that carry as much as one. */
static double chunked_s(const step *t, ls_coll coll, double chunks, double bytes) {
    return chunks * act_s(t, coll, t->l->tensor, bytes / chunks);
}

static double forward_passes(const step *t) {
    return t->l->recompute == LS_REDO_FULL ? 2 : 1;
}

/* Two row-parallel products of a layer are summed forward, two gradients backward, and the
 * embedding and the head's gradient once. With sequence parallelism sums are scattered, and what
 * goes into column-parallel products is gathered: twice forward, four times backward. */
static void add_tensor(const step *t) {
    const ls_plan_model *m = t->job->model;
    const int ranks = t->l->tensor;
    const bool whole = t->job->software && t->job->software->repeated_norms;
    const double c = (double)m->channels, rows = t->tokens * c * t->act;
    const double chunks = fmin(fmax(floor(t->tokens / ranks / CHUNK_ROWS), 1), CHUNKS);
    const ls_coll sum = whole ? LS_COLL_ALL_REDUCE : LS_COLL_REDUCE_SCATTER;
    const double once = act_s(t, sum, ranks, rows);
    double layer = forward_passes(t) * 2 * chunked_s(t, sum, chunks, rows) + 2 * once;
    double ends = (t->first + t->last) * once;
    if (!whole) {
        const double gather = act_s(t, LS_COLL_ALL_GATHER, ranks, rows);
        layer +=
            forward_passes(t) * 2 * chunked_s(t, LS_COLL_ALL_GATHER, chunks, rows) + 4 * gather;
        layer += act_s(t, LS_COLL_ALL_REDUCE, ranks, 16 * c); /* gradients of norms */
        ends += (t->first + 2 * t->last) * gather;
    }
    ends += t->last * act_s(t, LS_COLL_ALL_GATHER, ranks, 12 * t->tokens * ranks);
    t->s[LS_TERM_TENSOR] = t->micros * (t->layers * layer + ends);
}

/* Keys and values go round forward, and backward again beside their gradients; each time to the
 * next rank only. */
static void add_context(const step *t) {
    const ls_plan_model *m = t->job->model;
    const double heads = fmax(1, (double)m->kv_heads / t->l->tensor);
    const double bytes = t->tokens * 2 * heads * (double)m->head_dim * t->act;
    const double hop = act_s(t, LS_COLL_ALL_TO_ALL, 2, 2 * bytes);
    const double rounds = t->l->recompute == LS_REDO_NONE ? 3 : 4;
    t->s[LS_TERM_CONTEXT] = t->micros * t->layers * rounds * (t->l->context - 1) * hop;
}

/* Rows to their experts and back. */
static void add_experts(const step *t) {
    const ls_plan_model *m = t->job->model;
    const int ranks = t->l->expert * t->l->tensor;
    const double bytes =
        t->tokens / t->l->tensor * (double)m->experts_per_token * (double)m->channels * t->act;
    const double one = act_s(t, LS_COLL_ALL_TO_ALL, ranks, bytes);
    t->s[LS_TERM_EXPERT] = t->micros * t->layers * 2 * (forward_passes(t) + 1) * one;
}

/* Of layers in a step: before each pass, but for those that two windows still hold where passes
 * turn round. A tied head, which is a norm, takes one of the two; what embeds has its own. */
static double layer_gathers(const step *t) {
    const double kept = (t->job->model->tied ? 1 : 2) * t->micros + 2 * (t->micros - 1);
    return fmax(t->layers, 2 * t->layers * t->micros - kept);
}

/* Elements, of a part of the model that `ranks` divide or replicate. */
static void add_data(const step *t, double layers, double ends, int ranks, int shards) {
    const int zero = t->l->zero;
    const double elems = layers + ends;
    double *s = &t->s[LS_TERM_DATA];
    if (zero == 0 || shards < 2) {
        *s += state_s(t, LS_COLL_ALL_REDUCE, ranks, 4 * elems);
        return;
    }
    *s += zero == 1 ? state_s(t, LS_COLL_REDUCE_SCATTER, ranks, 4 * elems)
                    : t->micros * state_s(t, LS_COLL_ALL_TO_ALL, ranks, 4 * elems);
    *s += state_s(t, LS_COLL_ALL_GATHER, ranks / shards, 4 * elems / shards);
    if (zero < 3) {
        *s += state_s(t, LS_COLL_ALL_GATHER, shards, t->act * elems);
        return;
    }
    t->s[LS_TERM_SHARD] +=
        layer_gathers(t) * block_s(t, shards, t->act * layers / t->layers) +
        (t->job->model->tied ? 1 : t->micros) * block_s(t, shards, t->act * ends);
}

static void add_state(const step *t) {
    const ls_plan_layout *l = t->l;
    ls_plan_params p;
    ls_plan_model_params(t->job->model, &p);
    const double routed = t->job->model->experts ? t->layers : 0;
    const double dense = (t->layers - routed) * p.dense_layer;
    const double shared = dense + routed * (p.expert_layer - p.expert_part);
    const double ends = (t->first ? p.embedding : 0) + (t->last ? p.head : 0);
    const int ranks = l->shard * l->replicate * l->context;
    const int shards = l->zero ? l->shard * l->context : 1;
    add_data(t, shared / l->tensor, ends / l->tensor, ranks, shards);
    if (routed > 0) {
        const int parts = shards / l->expert > 1 ? shards / l->expert : 1;
        add_data(t, routed * p.expert_part / l->tensor / l->expert, 0, ranks / l->expert, parts);
    }
    t->s[LS_TERM_DATA] += AGREEMENTS * act_s(t, LS_COLL_ALL_REDUCE, ls_plan_devices(l), 8);
}

/* Activations and their gradients over a stage's ends, of which a rank sends or receives each where
 * the row does both; of a tied embedding, which first and last stage have, the gradients. */
static void add_pipeline(const step *t) {
    const ls_plan_model *m = t->job->model;
    const ls_plan_layout *l = t->l;
    const double rows = t->tokens * (double)m->channels / l->tensor * t->act;
    const double ends = l->pipeline > 2 || l->interleave > 1 ? 2 : 1;
    t->s[LS_TERM_PIPELINE] =
        ends * t->micros * l->interleave * act_s(t, LS_COLL_SEND_RECV, l->pipeline, rows);
    if (m->tied) {
        t->s[LS_TERM_PIPELINE] += state_s(t, LS_COLL_SEND_RECV, 2,
                                          4.0 * (double)m->vocab * (double)m->channels / l->tensor);
    }
}

/* Profiles of earlier versions lack some. */
static bool knows_links(const ls_plan_rates *r) {
    bool all = true;
    for (int i = 0; i < LS_USE_COUNT * LS_COLL_COUNT; i++) {
        ls_figure_id us, gb_s;
        const ls_link_use use = (ls_link_use)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        all =
            all && (!ls_link_figures(use, coll, &us, &gb_s) || r->links[use][coll].bytes_per_s > 0);
    }
    return all;
}

bool ls_plan_operations(const ls_plan_job *job, const ls_plan_layout *l, double layers,
                        bool with_head, double seconds[LS_TERM_COUNT]) {
    const ls_plan_rates *r = job->rates;
    if (!r->shared_engine || !knows_links(r) || ls_plan_devices(l) > r->domain) {
        return false;
    }
    const double micros = (double)job->global_batch / ((double)l->shard * l->replicate * l->micro);
    const step t = {.job = job,
                    .l = l,
                    .tokens = (double)l->micro * (double)job->seq / l->context,
                    .micros = fmax(1, micros),
                    .layers = layers,
                    .first = l->pipeline == 1 || !with_head,
                    .last = l->pipeline == 1 || with_head,
                    .act = job->precision == LS_PRECISION_FP32 ? 4 : 2,
                    .s = seconds};
    static const ls_term terms[] = {LS_TERM_TENSOR, LS_TERM_CONTEXT, LS_TERM_EXPERT,
                                    LS_TERM_SHARD,  LS_TERM_DATA,    LS_TERM_PIPELINE};
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
        seconds[terms[i]] = 0;
    }
    if (l->tensor > 1) {
        add_tensor(&t);
    }
    if (l->context > 1) {
        add_context(&t);
    }
    if (job->model->experts && l->expert * l->tensor > 1) {
        add_experts(&t);
    }
    if (ls_plan_devices(l) > 1) {
        add_state(&t);
    }
    if (l->pipeline > 1) {
        add_pipeline(&t);
    }
    return true;
}
