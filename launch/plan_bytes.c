/* The bytes that `lockstep train` itself would take in a planned layout, by the code that it plans
 * its own memory with. */
#include "launch/plan.h"
#include "launch/plan_tell.h"
#include "launch/train_layout.h"
#include "runtime/base/arena.h"
#include "runtime/base/text.h"

#include <stdlib.h>
#include <string.h>

bool ls_plan_trains(const ls_plan_model *model) {
    for (const char *const *name = ls_config_presets(); *name; name++) {
        if (strcmp(*name, model->name) == 0) {
            return true;
        }
    }
    return false;
}

int ls_plan_settings(const ls_plan_question *q, const ls_plan_answer *a, const ls_plan_layout *l,
                     char *set[LS_PLAN_SETTINGS]) {
    int count = 0;
    const struct {
        const char *key;
        int64_t value;
    } numbers[] = {
        {"model.vocab", q->model.vocab},
        {"model.context", q->seq > q->model.context ? q->seq : q->model.context},
        {"data.sequence", q->seq},
        {"batch.sequences", a->batch},
        {"batch.micro", l->micro},
        {"parallel.tensor", l->tensor},
        {"parallel.context", l->context},
        {"parallel.pipeline", l->pipeline},
        {"parallel.interleave", l->interleave},
        {"parallel.expert", l->expert},
        {"parallel.shard", l->zero ? l->shard : 1},
        {"parallel.replicate", l->zero ? l->replicate : l->replicate * l->shard},
        {"parallel.zero", l->shard * l->context > 1 ? l->zero : 0},
    };
    set[count++] = ls_text_format("model.preset=%s", q->model.name);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        set[count++] = ls_text_format("%s=%lld", numbers[i].key, (long long)numbers[i].value);
    }
    set[count++] =
        ls_text_format("parallel.sequence_parallel=%s", l->tensor > 1 ? "true" : "false");
    set[count++] = ls_text_format("numerics.reduction=%s", q->narrow_gradients ? "bf16" : "fast");
    set[count++] = ls_text_format("recompute.mode=%s", ls_redo_name(l->recompute));
    return count;
}

/* The configuration of a run with that layout. */
static ls_status configure(const ls_plan_question *q, const ls_plan_answer *a,
                           const ls_plan_layout *l, ls_config *config) {
    char *set[LS_PLAN_SETTINGS + 1];
    int count = ls_plan_settings(q, a, l, set);
    set[count++] = ls_text_format("run.steps=1");
    ls_status status = LS_OK;
    for (int i = 0; i < count && status == LS_OK; i++) {
        status = set[i] ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a configuration");
    }
    if (status == LS_OK) {
        status = ls_config_load(config, NULL, (const char *const *)set, count);
    }
    for (int i = 0; i < count; i++) {
        free(set[i]);
    }
    return status;
}

static ls_dtype dtype_of(const ls_plan_question *q) {
    return q->precision == LS_PRECISION_FP32 ? LS_F32 : LS_BF16;
}

/* host_ranks: that share a host's memory; 0: it is a GPU's. */
static ls_status bytes_of_rank(const ls_config *config, ls_device *dev, ls_dtype dtype,
                               const int size[LS_AXIS_COUNT], int rank, int host_ranks,
                               ls_plan_bytes *bytes) {
    const bool on_host = host_ranks > 0;
    ls_device gpu = *dev; /* lays memory out as a GPU does, whether there is one or not */
    gpu.host_memory = false;
    gpu.sums_dx = true;
    ls_layout layout;
    ls_layout_bytes b;
    ls_status status = ls_layout_init_rank(&layout, config, on_host ? dev : &gpu, dtype, size, rank,
                                           on_host ? host_ranks : 1);
    if (status == LS_OK) {
        status = ls_layout_plan(&layout, &b);
    }
    ls_layout_release(&layout);
    LS_TRY(status);
    *bytes = (ls_plan_bytes){
        .weights = (double)(b.state.copies + b.state.gathered),
        .gradients = (double)(b.state.grads + b.state.reduction),
        .optimizer = (double)(b.state.masters + b.optim),
        .activations = (double)(b.activations - (on_host ? b.spare : 0) + b.tables + b.boundary),
        .total = on_host ? (double)(ls_layout_used(&b) + b.scratch + b.saves)
                         : (double)ls_layout_total(&b),
        .saves = (double)b.saves,
    };
    return LS_OK;
}

ls_status ls_plan_own_bytes(const ls_plan_question *q, const ls_plan_answer *a,
                            const ls_plan_layout *l, ls_plan_bytes *bytes) {
    static ls_config config;
    ls_device *dev;
    LS_TRY(configure(q, a, l, &config));
    LS_TRY(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    const ls_dtype dtype = dtype_of(q);
    const int world = a->devices, last = world - world / l->pipeline;
    const int host_ranks = ls_cluster_on_host(&a->cluster)
                               ? (int)ls_cluster_value(&a->cluster, LS_FIG_NODE_DEVICES, 1)
                               : 0;
    int size[LS_AXIS_COUNT];
    ls_plan_axes(l, size);
    ls_status status = bytes_of_rank(&config, dev, dtype, size, 0, host_ranks, bytes);
    if (status == LS_OK && last > 0) { /* the head's stage, if it is the fuller one */
        ls_plan_bytes other;
        status = bytes_of_rank(&config, dev, dtype, size, last, host_ranks, &other);
        if (status == LS_OK && other.total > bytes->total) {
            *bytes = other;
        }
    }
    dev->ops->close(dev);
    return status;
}

ls_status ls_plan_own_operations(void *context, const ls_plan_layout *l, int stage,
                                 const ls_comm_list *list) {
    static ls_config config;
    const ls_plan_own *own = context;
    LS_TRY(configure(own->question, own->answer, l, &config));
    return ls_plan_tell(&(ls_plan_teller){&config, own->dev, dtype_of(own->question)}, l, stage,
                        list);
}
