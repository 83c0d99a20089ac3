/* Seconds of a step. */
#include "runtime/plan/cost.h"

#include <math.h>

/* Compute that runs beside communication is this much slower per second of it: the collectives'
 * kernels take processors and memory bandwidth (10 to 20 of 132 processors on an H100). */
#define CONTENTION 0.12
/* Part of a layer's tensor-parallel collectives that chunks of its products hide. */
#define TENSOR_HIDDEN 0.55
/* Of expert all-to-all and pipeline exchange under another micro-batch's work. */
#define EXCHANGE_HIDDEN 0.7
/* A kernel that the host launches while the device waits for it; and how many of them a layer of
 * experts and each expert on a device have, forward and backward: products, and in 8 and 4 bits the
 * casts of their operands, of the layer's other products too. */
#define LAUNCH_S           5e-6
#define LAYER_KERNELS      40
#define EXPERT_KERNELS     6
#define LAYER_KERNELS_FP8  200
#define EXPERT_KERNELS_FP8 36
/* Spread of the devices' step times; all wait for the slowest of N, about sqrt(2 ln N) of it away.
 */
#define DEVICE_SPREAD 0.008
/* Fused attention without the asynchronous products and copies of Hopper and later: 1.5 to 2.0
 * times slower forward and 1.5 to 1.75 backward than with them (Shah 2024, arXiv 2407.08608, 4.1).
 */
#define OLDER_FORWARD 1.75
#define OLDER_BACK    1.6
/* Elementwise kernels of their own instead of fused ones move this much more. */
#define UNFUSED 3.0

/* Everything of one micro-batch in one layer. */
typedef struct layer {
    double products, attention, memory; /* forward, seconds */
    double products_back, attention_back, memory_back;
    double tensor, tensor_back, context, context_back, expert, expert_back; /* exposed */
    double launch; /* forward and backward */
    double recompute, recompute_tensor;
    double weights; /* elements of the layer on a device, before sharding; experts' included */
} layer;

static const char *const term_names[LS_TERM_COUNT] = {
#define X(code, name) [code] = name,
    LS_TERM_LIST(X)
#undef X
};

const char *ls_term_name(ls_term term) {
    return term_names[term];
}

bool ls_term_communicates(ls_term term) {
    return term == LS_TERM_TENSOR || term == LS_TERM_CONTEXT || term == LS_TERM_EXPERT ||
           term == LS_TERM_SHARD || term == LS_TERM_PIPELINE || term == LS_TERM_DATA;
}

const char *ls_redo_name(int recompute) {
    static const char *const names[] = {"none", "selective", "alternate", "full"};
    return names[recompute];
}

int ls_plan_devices(const ls_plan_layout *l) {
    return l->tensor * l->context * l->shard * l->replicate * l->pipeline;
}

static double max_of(double a, double b) {
    return a > b ? a : b;
}

/* Tiles in waves over the processors, best of two tile shapes; the last wave of a large product is
 * shared by cutting along k. */
static double wave_share(const ls_plan_rates *r, double m, double n) {
    static const double tiles[][3] = {{256, 128, 1.0}, {128, 128, 0.93}, {64, 128, 0.75}};
    double best = 0;
    for (int i = 0; i < 3; i++) {
        const double count = ceil(m / tiles[i][0]) * ceil(n / tiles[i][1]);
        const double useful = m * n / (tiles[i][0] * tiles[i][1]);
        const double waves = ceil(count / r->units);
        const double share = tiles[i][2] * useful / (waves * r->units);
        const double cut = tiles[i][2] * 0.85 * useful / max_of(count, r->units);
        best = max_of(best, max_of(share, cut));
    }
    return best;
}

static double product_at(const ls_plan_rates *r, double flops_s, double bytes_each, double m,
                         double n, double k) {
    if (m <= 0 || n <= 0 || k <= 0) {
        return 0;
    }
    const double share = wave_share(r, m, n) * k / (k + r->half_k);
    const double bytes = (m * k + k * n) * bytes_each + m * n * max_of(2, bytes_each);
    return max_of(2 * m * n * k / (flops_s * share), bytes / r->hbm) + r->launch_s;
}

double ls_plan_product_s(const ls_plan_rates *r, double m, double n, double k) {
    return product_at(r, r->products, r->operand_bytes, m, n, k);
}

/* A product forward, and its two backward: of the input [m,k] and of the weight [n,k]. */
static void add_product(const ls_plan_rates *r, layer *out, double count, double m, double n,
                        double k) {
    out->products += count * ls_plan_product_s(r, m, n, k);
    out->products_back += count * (ls_plan_product_s(r, m, k, n) + ls_plan_product_s(r, n, k, m));
}

static const ls_software modern;

/* Ranks of a group that lie in one domain, when its members are `stride` apart. */
static ls_wire_hierarchy group_of(const ls_plan_rates *r, int size, int stride) {
    int inner = stride >= r->domain ? 1 : r->domain / stride;
    inner = inner > size ? size : inner;
    while (size % inner) { /* domains of 72 hold 64 of a power of two */
        inner--;
    }
    return (ls_wire_hierarchy){
        .inner = inner, .outer = size / inner, .inside = r->inside, .across = r->across};
}

/* With every rank of a domain in the group, all of the domain's network cards work on it; the two
 * levels stream through each other, so the slower one counts. */
static double collective(const ls_plan_rates *r, ls_coll coll, int size, int stride, double bytes) {
    if (size < 2 || bytes <= 0) {
        return 0;
    }
    const ls_wire_hierarchy h = group_of(r, size, stride);
    return ls_wire_hierarchical_time_s(coll, &h, bytes);
}

static double exchange_shown(const ls_plan_rates *r) {
    return r->shared_engine ? 1 : 1 - EXCHANGE_HIDDEN;
}

static bool casts(const ls_plan_job *job) {
    return job->precision == LS_PRECISION_FP8 || job->precision == LS_PRECISION_FP4;
}

static const ls_software *software_of(const ls_plan_job *job) {
    return job->software ? job->software : &modern;
}

static void add_attention(const ls_plan_job *job, const ls_plan_layout *l, double tokens,
                          layer *out) {
    const ls_plan_model *m = job->model;
    const ls_plan_rates *r = job->rates;
    const ls_software *s = software_of(job);
    const double heads = (double)m->heads / l->tensor, t = (double)job->seq;
    const double v = (double)(m->value_dim ? m->value_dim : m->head_dim);
    const double pairs =
        tokens * t * heads * (s->unfused_attention ? 1.0 : ls_plan_model_causal_share(m, job->seq));
    const double flops = 2 * pairs * ((double)m->head_dim + v);
    /* Narrow heads leave part of a tile of 128 columns idle. */
    const double rate = r->attention * pow(fmin(1, (double)m->head_dim / 128), 0.25);
    out->attention = flops / rate * (s->older_attention ? OLDER_FORWARD : 1);
    out->attention_back =
        (s->unfused_attention ? 2.0 : 2.5) * flops / rate * (s->older_attention ? OLDER_BACK : 1);
    if (s->unfused_attention) { /* scores: product, softmax, dropout with its mask */
        out->memory += 13 * pairs / r->memory;
        out->memory_back += 16 * pairs / r->memory;
    }
    if (l->context >
        1) { /* keys and values of the others, under attention but for the first part */
        const double kv = tokens * 2 * (double)m->kv_heads / fmin(l->tensor, (double)m->kv_heads) *
                          (double)m->head_dim * 2 * l->context;
        const double fetch = collective(r, LS_COLL_ALL_GATHER, l->context, l->tensor, kv);
        out->context = max_of(fetch / l->context, fetch - out->attention);
        out->context_back = max_of(2 * fetch / l->context, 2 * fetch - out->attention_back);
    }
}

/* Elements that norms, residuals, rotation and activation read and write. */
static void add_memory_bound(const ls_plan_job *job, const ls_plan_layout *l, double tokens,
                             double ffn, layer *out) {
    const ls_plan_model *m = job->model;
    const ls_software *s = software_of(job);
    const double c = (double)m->channels / (s->repeated_norms ? 1 : l->tensor);
    const double qkv = (double)(m->heads + 2 * m->kv_heads) * (double)m->head_dim / l->tensor;
    const double f = ffn / l->tensor, act = m->gated ? 3 : 2;
    const double bytes = (job->precision == LS_PRECISION_FP32 ? 4 : 2) * (s->unfused ? UNFUSED : 1);
    double forward = (8 * c + 2 * qkv + act * f) * bytes;
    double backward = (10 * c + 2 * qkv + (act + (m->gated ? 2 : 1)) * f) * bytes;
    if (casts(job)) {
        const double cast = 2 * (double)m->channels / l->tensor + qkv + 2 * f;
        forward += 4 * cast; /* read in bf16, written and written transposed */
        backward += 4 * cast;
    }
    out->memory += tokens * forward / job->rates->memory;
    out->memory_back += tokens * backward / job->rates->memory;
}

/* Two gathers and two scatters forward, and backward again, with one more gather each for the
 * weight gradients; without sequence parallelism as many all-reduces. */
static void add_tensor(const ls_plan_job *job, const ls_plan_layout *l, double tokens, layer *out) {
    const ls_software *s = software_of(job);
    if (l->tensor < 2) {
        return;
    }
    const double bytes =
        tokens * (double)job->model->channels * (job->precision == LS_PRECISION_FP32 ? 4 : 2);
    const double one = collective(job->rates, LS_COLL_ALL_GATHER, l->tensor, 1, bytes);
    const double shown = s->exposed_tensor || job->rates->shared_engine ? 1 : 1 - TENSOR_HIDDEN;
    out->tensor = 4 * one * shown;
    out->tensor_back = (s->repeated_norms ? 4 : 6) * one * shown;
}

/* Products of the MLP: one, or the routed and shared experts with their exchange. */
static void add_mlp(const ls_plan_job *job, const ls_plan_layout *l, double tokens, bool routed,
                    layer *out) {
    const ls_plan_model *m = job->model;
    const ls_plan_rates *r = job->rates;
    const double c = (double)m->channels, up = m->gated ? 2 : 1;
    if (!routed) {
        const double f = (double)m->ffn / l->tensor;
        add_product(r, out, 1, tokens, up * f, c);
        add_product(r, out, 1, tokens, c, f);
        add_memory_bound(job, l, tokens, (double)m->ffn, out);
        return;
    }
    const double f = (double)m->expert_ffn / l->tensor, top = (double)m->experts_per_token;
    const double local = (double)m->experts / l->expert;
    const double each = tokens * top * l->expert / (double)m->experts; /* tokens of one expert */
    add_product(r, out, local, each, up * f, c);
    add_product(r, out, local, each, c, f);
    if (m->shared_experts) {
        add_product(r, out, 1, tokens, up * f * (double)m->shared_experts, c);
        add_product(r, out, 1, tokens, c, f * (double)m->shared_experts);
    }
    add_memory_bound(job, l, tokens, (top + (double)m->shared_experts) * (double)m->expert_ffn,
                     out);
    /* Tokens are copied to their experts' order and back: read and write, twice. */
    double moved = 8;
    if (casts(job)) {
        moved += 4; /* each copy is cast for its expert's product, and its gradient coming back */
    }
    out->memory += tokens * top * c * moved / r->memory;
    out->memory_back += tokens * top * c * moved / r->memory;
    const double element = job->precision == LS_PRECISION_FP8 ? 1.5 : 2; /* fp8 out, bf16 back */
    const int stride = l->tensor * l->context;
    const double send = collective(r, LS_COLL_ALL_TO_ALL, l->expert, stride,
                                   tokens * top * c / l->tensor * element);
    const ls_software *s = software_of(job);
    out->expert = 2 * send * (s->exposed_experts ? 1 : exchange_shown(r));
    out->expert_back = out->expert;
    if (s->launched_experts) {
        out->launch = LAUNCH_S * (casts(job) ? LAYER_KERNELS_FP8 + EXPERT_KERNELS_FP8 * local
                                             : LAYER_KERNELS + EXPERT_KERNELS * local);
    }
}

static void add_attention_products(const ls_plan_job *job, const ls_plan_layout *l, double tokens,
                                   layer *out) {
    const ls_plan_model *m = job->model;
    const ls_plan_rates *r = job->rates;
    const double c = (double)m->channels, h = (double)m->heads / l->tensor, d = (double)m->head_dim;
    if (m->kv_rank == 0) {
        const double kv = fmax(1, (double)m->kv_heads / l->tensor);
        add_product(r, out, 1, tokens, (h + 2 * kv) * d, c);
        add_product(r, out, 1, tokens, c, h * d);
        return;
    }
    const double q = (double)m->q_rank, kv = (double)m->kv_rank, v = (double)m->value_dim;
    add_product(r, out, 1, tokens, q + kv + (double)m->rope_dim, c);
    add_product(r, out, 1, tokens, h * d, q);
    add_product(r, out, 1, tokens, h * (d - (double)m->rope_dim + v), kv);
    add_product(r, out, 1, tokens, c, h * v);
}

static void add_recompute(const ls_plan_job *job, const ls_plan_layout *l, layer *out) {
    switch (l->recompute) {
    case LS_REDO_NONE:
        break;
    case LS_REDO_SELECTIVE:
        out->recompute = out->attention + 0.5 * out->memory;
        break;
    case LS_REDO_ALTERNATE:
        out->recompute = 0.5 * out->products + out->memory;
        break;
    case LS_REDO_FULL:
        out->recompute = out->products + out->attention + out->memory;
        out->recompute_tensor = out->tensor + out->context + out->expert;
        if (software_of(job)->lean_recompute) {
            const ls_plan_model *m = job->model;
            const double wide = m->gated ? 3 : 2, f = (double)m->ffn;
            const double qo = 2 * (double)(m->heads + m->kv_heads) * (double)m->head_dim;
            out->recompute = out->products * (1 - f / (wide * f + qo)) + 0.8 * out->memory;
        }
        break;
    }
}

static layer cost_layer(const ls_plan_job *job, const ls_plan_layout *l, double tokens, bool routed,
                        const ls_plan_params *p) {
    layer out = {0};
    add_attention_products(job, l, tokens, &out);
    add_attention(job, l, tokens, &out);
    add_mlp(job, l, tokens, routed, &out);
    add_tensor(job, l, tokens, &out);
    add_recompute(job, l, &out);
    out.weights =
        routed ? (p->expert_layer - p->expert_part) + p->expert_part / l->expert : p->dense_layer;
    out.weights /= l->tensor;
    if (software_of(job)->offload) { /* what a layer keeps leaves and comes back under its work */
        const double kept = tokens * 2 *
                            (4 * (double)job->model->channels + 2 * (double)job->model->ffn) /
                            l->tensor;
        const double over =
            kept / job->rates->host_link - out.products - out.attention - out.memory;
        out.memory += max_of(0, over);
        out.memory_back += max_of(0, over);
    }
    return out;
}

static double forward_s(const layer *y) {
    return y->products + y->attention + y->memory + y->tensor + y->context + y->expert;
}

static double backward_s(const layer *y) {
    return y->products_back + y->attention_back + y->memory_back + y->tensor_back +
           y->context_back + y->expert_back + y->recompute + y->recompute_tensor;
}

/* Weights gathered for each layer of each micro-batch, gradients scattered: what sticks out of the
 * layer's own work, and what the work loses beside it. */
static double sharded_layer(const ls_plan_job *job, const ls_plan_layout *l, const layer *y) {
    if (l->zero < 3 || l->shard < 2) {
        return 0;
    }
    const ls_plan_rates *r = job->rates;
    const int stride = l->tensor * l->context;
    const double gather = collective(r, LS_COLL_ALL_GATHER, l->shard, stride, y->weights * 2);
    const double scatter =
        collective(r, LS_COLL_REDUCE_SCATTER, l->shard, stride, y->weights * 2) *
        (software_of(job)->gradient_bytes ? software_of(job)->gradient_bytes / 2.0 : 1);
    if (software_of(job)->exposed_data || r->shared_engine) {
        return 2 * gather + scatter;
    }
    const double forward = forward_s(y), backward = backward_s(y);
    const double beside = fmin(gather, forward) + fmin(gather + scatter, backward);
    return max_of(0, gather - forward) + max_of(0, gather + scatter - backward) +
           CONTENTION * beside;
}

/* The head's products forward and backward, and its logits: read for the loss, turned into
 * gradients in place (fused), or through fp32 copies. In bf16, whatever the layers are in. */
static double head_s(const ls_plan_job *job, const ls_plan_layout *l, double tokens) {
    const ls_plan_rates *r = job->rates;
    const double v = (double)job->model->vocab / l->tensor, c = (double)job->model->channels;
    const double bytes = job->precision == LS_PRECISION_FP32 ? 4 : 2;
    const double products = product_at(r, r->bf16_products, bytes, tokens, v, c) +
                            product_at(r, r->bf16_products, bytes, tokens, c, v) +
                            product_at(r, r->bf16_products, bytes, v, c, tokens);
    const double moved = software_of(job)->unfused ? 28 : job->narrow_logits ? 2 * bytes : 8;
    return products + tokens * v * moved / r->memory;
}

/* Layers of the pipeline rank that has most; whether that one also has the head. Parts in order of
 * the layers, the first ones longer by one where they do not divide. */
static double stage_layers(const ls_plan_model *m, const ls_plan_layout *l, bool *with_head) {
    const int64_t layers = m->layers + m->ahead;
    const int64_t parts = (int64_t)l->pipeline * l->interleave, extra = layers % parts;
    if (extra && (layers + 2) % parts == 0) { /* embedding and head take a layer's place */
        *with_head = false;
        return (double)((layers + 2) / l->pipeline);
    }
    *with_head = extra % l->pipeline == 0;
    return (double)(layers / parts * l->interleave + (extra + l->pipeline - 1) / l->pipeline);
}

/* Gradients of a device's weights over its data-parallel ranks, and the weights back. */
static double data_s(const ls_plan_job *job, const ls_plan_layout *l, double weights,
                     double micro_s) {
    const ls_software *s = software_of(job);
    const ls_plan_rates *r = job->rates;
    const int data = l->shard * l->replicate * l->context, stride = l->tensor;
    const double grad = s->gradient_bytes                     ? s->gradient_bytes
                        : job->precision == LS_PRECISION_FP32 ? 4
                                                              : 2;
    if (l->zero >= 3 && l->shard > 1) { /* only copies of the shards are left to reduce */
        const double reduce = collective(r, LS_COLL_ALL_REDUCE, l->replicate,
                                         stride * l->context * l->shard, weights / l->shard * grad);
        return s->exposed_data || r->shared_engine ? reduce
                                                   : max_of(0.1 * reduce, reduce - micro_s * 0.6);
    }
    double scatter = collective(r, LS_COLL_REDUCE_SCATTER, data, stride, weights * grad);
    double gather =
        collective(r, LS_COLL_ALL_GATHER, data, stride,
                   weights * (l->zero ? (job->precision == LS_PRECISION_FP32 ? 4 : 2) : grad));
    if (s->exposed_data || r->shared_engine) {
        return scatter + gather;
    }
    /* Under the last micro-batch's backward and the first one's forward, but for the last bucket.
     */
    const double beside = fmin(scatter, micro_s * 0.6) + fmin(gather, micro_s * 0.3);
    return max_of(0.05 * scatter, scatter - micro_s * 0.6) +
           max_of(0.05 * gather, gather - micro_s * 0.3) + CONTENTION * beside;
}

static double optimizer_s(const ls_plan_job *job, const ls_plan_layout *l, double weights) {
    const double parts = l->zero ? (double)l->shard * (l->zero < 3 ? l->context : 1) : 1;
    const ls_plan_rates *r = job->rates;
    /* On a processor other elementwise operations wait for its arithmetic, an update for memory. */
    return weights / parts * LS_PLAN_UPDATE_BYTES / (r->shared_engine ? r->hbm : r->memory);
}

/* One micro-batch over all layers of the longest stage into cost->seconds; returns the weights.
 * told: operations are, those of recomputation with the others. */
static double cost_stage(const ls_plan_job *job, const ls_plan_layout *l, double tokens,
                         double repeats, bool told, ls_plan_cost *cost) {
    const ls_plan_model *m = job->model;
    bool with_head;
    const double layers = stage_layers(m, l, &with_head);
    const double dense =
        m->experts ? layers * (double)m->dense_layers / (double)(m->layers + m->ahead) : layers;
    double weights = 0, *s = cost->seconds;
    ls_plan_params p;
    ls_plan_model_params(m, &p);
    for (int routed = 0; routed < 2; routed++) {
        const double count = repeats * (routed ? layers - dense : dense);
        if (count <= 0) {
            continue;
        }
        const layer y = cost_layer(job, l, tokens, routed, &p);
        s[LS_TERM_PRODUCTS] += count * (y.products + y.products_back);
        s[LS_TERM_ATTENTION] += count * (y.attention + y.attention_back);
        s[LS_TERM_MEMORY] += count * (y.memory + y.memory_back);
        s[LS_TERM_RECOMPUTE] += count * (y.recompute + (told ? 0 : y.recompute_tensor));
        s[LS_TERM_TENSOR] += count * (y.tensor + y.tensor_back);
        s[LS_TERM_CONTEXT] += count * (y.context + y.context_back);
        s[LS_TERM_EXPERT] += count * (y.expert + y.expert_back);
        s[LS_TERM_LAUNCH] += count * y.launch;
        s[LS_TERM_SHARD] += count * sharded_layer(job, l, &y);
        weights += (routed ? layers - dense : dense) * y.weights;
    }
    if (with_head) {
        const double ahead = (double)m->ahead, c = (double)m->channels;
        layer joins = {0};
        add_product(job->rates, &joins, ahead, tokens, c, 2 * c);
        s[LS_TERM_HEAD] +=
            repeats * ((1 + ahead) * head_s(job, l, tokens) + joins.products + joins.products_back);
    }
    return weights + (p.embedding + (l->pipeline > 1 ? 0 : p.head)) / l->tensor;
}

/* Messages between stages, and what stages wait for each other. */
static void cost_pipeline(const ls_plan_job *job, const ls_plan_layout *l, double tokens,
                          double repeats, double micro_s, double *s) {
    const ls_plan_rates *r = job->rates;
    const int stride = ls_plan_devices(l) / l->pipeline;
    const ls_wire_link link = stride >= r->domain ? r->across : r->inside;
    const double message = tokens * (double)job->model->channels / l->tensor *
                           (job->precision == LS_PRECISION_FP32 ? 4 : 2);
    const double hop = ls_wire_time_s(LS_COLL_SEND_RECV, 2, message, link);
    s[LS_TERM_PIPELINE] =
        2 * repeats * l->interleave * hop * exchange_shown(r) + 2 * (l->pipeline - 1) * hop;
    /* Interleaved, groups of fewer micro-batches than ranks wait as long as full ones. */
    const double full = l->interleave > 1 ? ceil(repeats / l->pipeline) * l->pipeline : repeats;
    s[LS_TERM_BUBBLE] = (full - repeats) * micro_s +
                        (l->pipeline - 1) * (micro_s - s[LS_TERM_HEAD] / repeats) / l->interleave;
}

void ls_plan_cost_of(const ls_plan_job *job, const ls_plan_layout *l, ls_plan_cost *cost) {
    *cost = (ls_plan_cost){0};
    const ls_plan_rates *r = job->rates;
    const double width = (double)l->shard * l->replicate;
    const double repeats = fmax(1, (double)job->global_batch / (width * l->micro));
    const double tokens = (double)l->micro * (double)job->seq / l->context;
    double *s = cost->seconds;
    double own[LS_TERM_COUNT], work = 0;
    bool with_head;
    (void)stage_layers(job->model, l, &with_head);
    const int stage = with_head ? l->pipeline - 1 : l->pipeline > 2;
    const bool known = cost->told = ls_plan_operations(job, l, stage, own);
    const double weights = cost_stage(job, l, tokens, repeats, known, cost);
    for (int t = 0; t < LS_TERM_COUNT; t++) { /* of micro-batches */
        s[t] = known && ls_term_communicates((ls_term)t) && t < LS_TERM_PIPELINE ? own[t] : s[t];
        work += s[t];
    }
    const double micro_s = work / repeats;
    if (l->pipeline > 1) {
        cost_pipeline(job, l, tokens, repeats, micro_s, s);
    }
    s[LS_TERM_DATA] = data_s(job, l, weights, micro_s);
    if (known) {
        s[LS_TERM_PIPELINE] = own[LS_TERM_PIPELINE];
        s[LS_TERM_DATA] = own[LS_TERM_DATA];
    }
    s[LS_TERM_OPTIMIZER] = optimizer_s(job, l, weights);
    for (int t = 0; t < LS_TERM_OTHER; t++) {
        cost->step_s += s[t];
    }
    const int devices = ls_plan_devices(l);
    s[LS_TERM_OTHER] = cost->step_s * DEVICE_SPREAD * sqrt(2 * log((double)devices));
    cost->step_s += s[LS_TERM_OTHER];
    ls_plan_flops flops;
    ls_plan_model_flops(job->model, job->seq, &flops);
    cost->tokens_per_s = (double)job->global_batch * (double)job->seq / cost->step_s;
    const double per_flop = cost->tokens_per_s / (devices * r->peak_flops);
    cost->mfu_causal = per_flop * (flops.products + flops.attention_causal);
    cost->mfu_full = per_flop * (flops.products + flops.attention_full);
}
