/* Checkpoints to and from the files of other programs: Hugging Face models of GPT-2, Llama,
 * Mistral, Mixtral, Qwen2 and Qwen3 (also its mixtures), and llm.c's GPT-2. Weights only; tensors
 * stream, memory is bounded.
 *
 * params [count] is ls_model_table's table of the configuration `model`; every function takes it,
 * so that this room needs nothing of the model's. */
#ifndef LS_CHECKPOINT_CONVERT_H
#define LS_CHECKPOINT_CONVERT_H

#include "checkpoint/ckpt.h"
#include "checkpoint/safetensors.h"
#include "runtime/config/config.h"

/* ---- hf_names.c: which tensor is which ---- */

/* A tensor of the Hugging Face model: rows [first_row, first_row + rows) of one of ours, which is
 * [out, in], or with experts [experts, out, in], its rows counted on; transposed: there it is
 * [in, out] (GPT-2's Conv1D). */
typedef struct ls_hf_part {
    char name[128];
    int64_t first_row, rows, cols; /* cols 1 for vectors */
    bool transposed;
    int ndim;
    int64_t dims[2]; /* as it is there */
} ls_hf_part;

/* Of how many parts a parameter consists, and one of them. LS_E_UNSUPPORTED: the family has no name
 * for it. */
ls_status ls_hf_part_count(const ls_config_model *model, const ls_param *param, int *count);
ls_status ls_hf_part_at(const ls_config_model *model, const ls_param *param, int index,
                        ls_hf_part *part);
/* Is this a tensor that carries no weights of the model: masks, rotary tables, a tied head? */
bool ls_hf_ignored(const ls_config_model *model, const char *name);

/* ---- hf_config.c ---- */

/* config.json; dtype of the files; run: what the checkpoint says of the run (tokenizer, separator,
 * begin, ends). Caller drops the reference. LS_E_UNSUPPORTED when the model has no equal there. */
ls_status ls_hf_config_make(const ls_config_model *model, ls_dtype dtype, const json_t *run,
                            json_t **config);
/* Fills in sizes of *model (defaults stay where config.json says nothing). LS_E_UNSUPPORTED names
 * what this program does not compute; `where` is for messages. */
ls_status ls_hf_config_parse(const json_t *config, const char *where, ls_config_model *model);

/* ---- convert.c, llmc.c ---- */

typedef struct ls_convert_result {
    int files;
    int64_t bytes;
} ls_convert_result;

/* A new directory with config.json and safetensors of dtype (LS_F32, LS_BF16); it appears complete
 * or not at all. LS_E_EXISTS when it is there. */
ls_status ls_convert_to_hf(ls_ckpt *ckpt, const ls_config_model *model, const ls_param *params,
                           int count, ls_dtype dtype, int64_t shard_bytes, const char *directory,
                           ls_convert_result *result);
/* options->root/step-N from an open model; parameters become float32. Every tensor of the model
 * must be known to the family. */
ls_status ls_convert_from_hf(const ls_safetensors *st, const ls_config_model *model,
                             const ls_param *params, int count, int writers,
                             const ls_ckpt_save_options *options, ls_ckpt_save_result *result);
/* llm.c's model file (github.com/karpathy/llm.c): 256 int32 of header, then the tensors of each
 * kind layer by layer, the vocabulary padded with zeros to a multiple of 128. */
ls_status ls_convert_to_llmc(ls_ckpt *ckpt, const ls_config_model *model, const ls_param *params,
                             int count, ls_dtype dtype, const char *file,
                             ls_convert_result *result);

/* Where a part of a tensor goes: rows [first_row, first_row + rows) of it, at offset in fd. */
typedef struct ls_convert_target {
    int fd;
    const char *path;
    int64_t offset, first_row, rows, cols;
    ls_dtype dtype; /* LS_F32 or LS_BF16 */
    bool transposed;
} ls_convert_target;

/* Streams the tensor `param` of the checkpoint into its targets. */
ls_status ls_convert_copy(ls_ckpt *ckpt, const ls_param *param, const ls_convert_target *targets,
                          int count);

#endif
