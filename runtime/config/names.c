/* Keys by what other programs call them, for messages. */
#include "runtime/config/internal.h"

#include <stdio.h>
#include <string.h>

/* transformers, nanoGPT and llm.c, Megatron-LM; '-' is written '_'. */
static const struct {
    const char *name, *key;
} foreign[] = {
    {"model_type", "model.family"},
    {"vocab_size", "model.vocab"},
    {"n_layer", "model.layers"},
    {"num_layers", "model.layers"},
    {"num_hidden_layers", "model.layers"},
    {"n_embd", "model.channels"},
    {"hidden_size", "model.channels"},
    {"n_head", "model.heads"},
    {"num_attention_heads", "model.heads"},
    {"num_key_value_heads", "model.kv_heads"},
    {"num_query_groups", "model.kv_heads"},
    {"n_inner", "model.ffn"},
    {"intermediate_size", "model.ffn"},
    {"ffn_hidden_size", "model.ffn"},
    {"block_size", "model.context"},
    {"n_positions", "model.context"},
    {"max_position_embeddings", "model.context"},
    {"tie_word_embeddings", "model.tied"},
    {"add_qkv_bias", "model.qkv_bias"},
    {"qk_layernorm", "model.qk_norm"},
    {"sliding_window", "model.window"},
    {"sliding_window_pattern", "model.window_pattern"},
    {"rms_norm_eps", "model.norm_eps"},
    {"layer_norm_epsilon", "model.norm_eps"},
    {"norm_epsilon", "model.norm_eps"},
    {"initializer_range", "model.init_std"},
    {"init_method_std", "model.init_std"},
    {"rotary_base", "model.rope_theta"},
    {"num_experts", "model.experts"},
    {"num_local_experts", "model.experts"},
    {"num_experts_per_tok", "model.experts_per_token"},
    {"moe_router_topk", "model.experts_per_token"},
    {"router_aux_loss_coef", "model.balance_loss"},
    {"moe_aux_loss_coeff", "model.balance_loss"},
    {"grad_reduce_in_bf16", "numerics.reduction"},
    {"reduce_dtype", "numerics.reduction"},
    {"seq_len", "data.sequence"},
    {"reset_attention_mask", "data.document_mask"},
    {"seq_length", "data.sequence"},
    {"dataset", "data.dir"},
    {"data_path", "data.dir"},
    {"batch_size", "batch.micro"},
    {"micro_batch_size", "batch.micro"},
    {"per_device_train_batch_size", "batch.micro"},
    {"global_batch_size", "batch.sequences"},
    {"gradient_accumulation_steps", "batch.sequences"},
    {"total_batch_size", "batch.tokens"},
    {"learning_rate", "optim.lr"},
    {"adam_beta1", "optim.beta1"},
    {"adam_beta2", "optim.beta2"},
    {"adam_epsilon", "optim.eps"},
    {"grad_clip", "optim.clip_norm"},
    {"clip_grad", "optim.clip_norm"},
    {"max_grad_norm", "optim.clip_norm"},
    {"optimizer", "optim.name"},
    {"lr_scheduler_type", "schedule.kind"},
    {"lr_decay_style", "schedule.kind"},
    {"warmup_iters", "schedule.warmup_steps"},
    {"lr_warmup_iters", "schedule.warmup_steps"},
    {"min_lr", "schedule.min_lr_ratio"},
    {"max_steps", "run.steps"},
    {"max_iters", "run.steps"},
    {"train_iters", "run.steps"},
    {"num_iterations", "run.steps"},
    {"out_dir", "run.dir"},
    {"output_dir", "run.dir"},
    {"init_from", "run.init"},
    {"dtype", "numerics.compute"},
    {"precision", "numerics.compute"},
    {"gradient_checkpointing", "recompute.mode"},
    {"eval_interval", "eval.every"},
    {"eval_iters", "eval.batches"},
    {"save_interval", "checkpoint.every"},
    {"save_steps", "checkpoint.every"},
    {"save_total_limit", "checkpoint.keep_last"},
    {"log_interval", "metrics.every"},
    {"logging_steps", "metrics.every"},
    {"zero_stage", "parallel.zero"},
    {"tensor_model_parallel_size", "parallel.tensor"},
    {"tensor_parallel_size", "parallel.tensor"},
    {"pipeline_model_parallel_size", "parallel.pipeline"},
    {"pipeline_parallel_size", "parallel.pipeline"},
    {"context_parallel_size", "parallel.context"},
    {"expert_model_parallel_size", "parallel.expert"},
};

static bool same_name(const char *word, size_t length, const char *name) {
    for (size_t i = 0; i < length; i++) {
        if ((word[i] == '-' ? '_' : word[i]) != name[i]) {
            return false;
        }
    }
    return name[length] == '\0';
}

bool ls_config_meant(const char *word, size_t length, char meant[64]) {
    size_t count;
    const ls_field *fields = ls_config_fields(&count), *field = NULL;
    int found = 0;
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        if (same_name(word, length, foreign[i].name)) {
            snprintf(meant, 64, "%s", foreign[i].key);
            return true;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (same_name(word, length, fields[i].key)) {
            field = &fields[i];
            found++;
        }
    }
    if (found != 1) {
        return false;
    }
    snprintf(meant, 64, "%s.%s", field->section, field->key);
    return true;
}
