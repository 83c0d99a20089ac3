/* Bytes of a device, and which layouts are possible. */
#include "runtime/plan/cost.h"

#include <stdio.h>

/* Activations of a token in a layer as runtime/model/model.c lays them out: what each keeps for its
 * backward pass. `wide` and `narrow` are split over tensor ranks; with sequence parallelism so is
 * the rest. */
static double layer_bytes(const ls_plan_job *job, const ls_plan_layout *l) {
    const ls_plan_model *m = job->model;
    const double element = job->precision == LS_PRECISION_FP32 ? 4 : 2, t = l->tensor;
    const double c = (double)m->channels / (job->software && job->software->repeated_norms ? 1 : t);
    const double q = (double)m->heads * (double)m->head_dim / t;
    const double kv = 2 * (double)m->kv_heads * (double)m->head_dim / t;
    double f = (double)m->ffn / t;
    if (m->experts) {
        f = (double)((m->experts_per_token + m->shared_experts) * m->expert_ffn) / t;
    }
    const double raw = m->qk_norm ? q + kv / 2 : 0; /* before their norms */
    const double up = m->gated ? 2 * f : f, stats = 4 * 4 + 4 * (double)m->heads / t;
    const double scores = job->software && job->software->unfused_attention
                              ? 5.0 / element * (double)m->heads / t * (double)job->seq
                              : 0;
    switch (l->recompute) {
    case LS_REDO_FULL:
        return c * element;
    case LS_REDO_ALTERNATE: /* inputs of the layer's halves, half of the products' results */
        return (2 * c + 0.5 * (q + kv) + q + raw + 0.5 * up) * element + stats;
    case LS_REDO_SELECTIVE: /* without norms' results and the activation's */
        return (2 * c + q + kv + q + raw + up) * element + stats;
    default:
        return (4 * c + 2 * q + kv + raw + up + f + scores) * element + stats;
    }
}

/* Micro-batches whose activations the first stage holds (1F1B; interleaved: Narayanan 2021, 2.2).
 */
static double in_flight(const ls_plan_job *job, const ls_plan_layout *l) {
    const double count = (double)job->global_batch / ((double)l->shard * l->replicate * l->micro);
    double most = l->pipeline;
    if (l->interleave > 1) {
        most *= 1 + (l->pipeline - 1.0) / ((double)l->pipeline * l->interleave);
    }
    return count < most ? count : most;
}

void ls_plan_bytes_of(const ls_plan_job *job, const ls_plan_layout *l, ls_plan_bytes *bytes) {
    const ls_plan_model *m = job->model;
    const bool fp32 = job->precision == LS_PRECISION_FP32;
    ls_plan_params p;
    ls_plan_model_params(m, &p);
    const double layers = (double)((m->layers + l->pipeline - 1) / l->pipeline);
    const double routed =
        m->experts ? layers * (double)(m->layers - m->dense_layers) / (double)m->layers : 0;
    const double ends =
        l->pipeline > 1 ? (p.head > p.embedding ? p.head : p.embedding) : p.embedding + p.head;
    const double shared =
        ((layers - routed) * p.dense_layer + routed * (p.expert_layer - p.expert_part) + ends) /
        l->tensor;
    const double experts = routed * p.expert_part / l->tensor / l->expert;
    const double over = (double)l->shard * (l->zero < 3 ? l->context : 1);
    const double optimizer_parts = l->zero >= 1 ? over : 1,
                 gradient_parts = l->zero >= 2 ? over : 1;
    const double weight_parts = l->zero >= 3 ? over : 1;
    /* Experts are spread over some data-parallel ranks already. */
    const double ep = l->expert;
    const double wide_parts = optimizer_parts / ep > 1 ? optimizer_parts / ep : 1;
    const double all = shared + experts;
    const ls_software *s = job->software;
    const bool narrow = s && s->gradient_bytes == 2 && !s->wide_sums && !fp32;
    *bytes = (ls_plan_bytes){
        .weights = fp32 ? 0 : all * 2 / weight_parts,
        .gradients = all * (narrow ? 2 : 4) / gradient_parts,
        .optimizer = 12 * (shared / optimizer_parts + experts / wide_parts),
        .saves = 12 * (shared + experts * ep) / ((double)l->shard * l->replicate * l->context),
    };
    if (weight_parts > 1) { /* two layers gathered at a time, and their gradients */
        bytes->weights += 2 * (m->experts ? p.expert_layer : p.dense_layer) / l->tensor * 2;
    }
    const double tokens = (double)l->micro * (double)job->seq / l->context;
    const double element = fp32 ? 4 : 2;
    double working =
        tokens * (double)(2 * m->channels + (m->gated ? 3 : 2) * m->ffn) / l->tensor * element;
    /* Logits in chunks, as runtime/model does: at most 256 MiB; on a GPU with the gradients of
     * eight chunks in bf16. */
    const double logits = tokens * (double)m->vocab / l->tensor * 4;
    working += logits < 0x1p28 ? logits : 0x1p28;
    if (!fp32 && !job->on_host) {
        working += logits / 2 < 0x1p30 ? logits / 2 : 0x1p30;
    }
    double kept = tokens * layer_bytes(job, l) * layers * in_flight(job, l);
    if (job->software && job->software->offload) {
        kept *= 0.25;
    }
    bytes->activations = kept + working;
    bytes->total = bytes->weights + bytes->gradients + bytes->optimizer + bytes->activations +
                   (job->on_host ? bytes->saves : 0);
}

const char *ls_plan_illegal(const ls_plan_job *job, const ls_plan_layout *l, char *buf,
                            size_t size) {
    const ls_plan_model *m = job->model;
    const int64_t width = (int64_t)l->shard * l->replicate,
                  chunks = (int64_t)l->pipeline * l->interleave;
    if (l->tensor < 1 || l->context < 1 || l->shard < 1 || l->replicate < 1 || l->pipeline < 1 ||
        l->interleave < 1 || l->expert < 1 || l->micro < 1) {
        return "an axis of the mesh is less than 1";
    }
    if (m->heads % l->tensor || (m->kv_heads % l->tensor && l->tensor % m->kv_heads)) {
        snprintf(buf, size, "%lld heads and %lld key heads do not divide over tensor %d",
                 (long long)m->heads, (long long)m->kv_heads, l->tensor);
    } else if (m->ffn % l->tensor) {
        snprintf(buf, size, "an MLP of %lld does not divide over tensor %d", (long long)m->ffn,
                 l->tensor);
    } else if (chunks > m->layers && (m->layers + 2) % chunks) {
        snprintf(buf, size, "%lld layers are too few for %lld parts of a pipeline",
                 (long long)m->layers, (long long)chunks);
    } else if (l->interleave > 1 && l->pipeline < 2) {
        return "interleaving needs a pipeline";
    } else if (job->seq % (2 * (int64_t)l->context) && l->context > 1) {
        snprintf(buf, size, "%lld tokens do not divide over context %d in two parts each",
                 (long long)job->seq, l->context);
    } else if (job->global_batch % (width * l->micro)) {
        snprintf(buf, size,
                 "%lld sequences do not divide over %lld data-parallel ranks with %d at a time",
                 (long long)job->global_batch, (long long)width, l->micro);
    } else if (l->expert > 1 && (!m->experts || m->experts % l->expert || width % l->expert)) {
        snprintf(buf, size,
                 "%lld experts do not divide over expert %d within %lld data-parallel ranks",
                 (long long)m->experts, l->expert, (long long)width);
    } else {
        return NULL;
    }
    return buf;
}
