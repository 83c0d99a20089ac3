/* The configuration of a run: one table of fields drives YAML, overrides, --help, the man page,
 * the resolved file in the run directory and the text in checkpoints.
 *
 * Resolution order: defaults, the model preset, the YAML file, section.key=value overrides; then
 * derived values (a 0 that means "auto" and depends on the model only) are filled in and everything
 * is checked. After that the configuration is const. */
#ifndef LS_CONFIG_CONFIG_H
#define LS_CONFIG_CONFIG_H

#include "runtime/base/hash.h"
#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum ls_family { LS_FAMILY_GPT2, LS_FAMILY_LLAMA3 } ls_family;
typedef enum ls_compute {
    LS_COMPUTE_AUTO,
    LS_COMPUTE_FP32,
    LS_COMPUTE_BF16,
    LS_COMPUTE_FP8,
    LS_COMPUTE_COUNT
} ls_compute;
/* In the order of ls_attention_by (runtime/device/device.h). */
typedef enum ls_cfg_attention {
    LS_CFG_ATTENTION_OWN,
    LS_CFG_ATTENTION_AUTO,
    LS_CFG_ATTENTION_CUDNN
} ls_cfg_attention;
/* In the order of ls_experts_by (runtime/model/model.h). */
typedef enum ls_cfg_experts {
    LS_CFG_EXPERTS_AUTO,
    LS_CFG_EXPERTS_APART,
    LS_CFG_EXPERTS_GROUPED
} ls_cfg_experts;
typedef enum ls_cfg_logits { LS_CFG_LOGITS_FP32, LS_CFG_LOGITS_COMPUTE } ls_cfg_logits;
typedef enum ls_cfg_reduction {
    LS_CFG_FAST,
    LS_CFG_INVARIANT,
    LS_CFG_BF16_GRADIENTS
} ls_cfg_reduction;
/* In the order of ls_transport (collectives/comm_choose.h). */
typedef enum ls_cfg_transport { LS_CFG_AUTO, LS_CFG_MPI, LS_CFG_SHM, LS_CFG_HIER } ls_cfg_transport;
typedef enum ls_cfg_device {
    LS_CFG_DEVICE_AUTO,
    LS_CFG_DEVICE_CPU,
    LS_CFG_DEVICE_CUDA,
    LS_CFG_DEVICE_EMULATED
} ls_cfg_device;
typedef enum ls_cfg_busy { LS_CFG_BUSY_SKIP, LS_CFG_BUSY_WAIT } ls_cfg_busy;
typedef enum ls_cfg_on_bad {
    LS_CFG_BAD_WARN,
    LS_CFG_BAD_SKIP,
    LS_CFG_BAD_RELOAD,
    LS_CFG_BAD_STOP
} ls_cfg_on_bad;
typedef enum ls_cfg_writers { LS_CFG_WRITER_RANK, LS_CFG_WRITER_NODE } ls_cfg_writers;
typedef enum ls_schedule_kind {
    LS_SCHEDULE_CONSTANT,
    LS_SCHEDULE_LINEAR,
    LS_SCHEDULE_COSINE,
    LS_SCHEDULE_WSD,
    LS_SCHEDULE_INVERSE_SQRT
} ls_schedule_kind;
typedef enum ls_rope_scaling { LS_ROPE_SCALING_NONE, LS_ROPE_SCALING_LLAMA3 } ls_rope_scaling;

typedef struct ls_config_run {
    char name[64]; /* run directory name under dir */
    char dir[512]; /* "runs" */
    int64_t seed;
    int64_t steps;                 /* stop after this many optimizer steps; 0: by tokens */
    int64_t tokens;                /* stop after this many tokens; 0: by steps */
    ls_cfg_device device;          /* auto: a GPU where there is one, else the CPU */
    bool graphs;                   /* a GPU gets each layer in one call */
    int64_t threads;               /* per rank; 0: the host's processors divided by its ranks */
    char init[512];                /* weights to begin with; "": drawn from the seed */
    char account[64], project[64]; /* who pays; statements of `lockstep cost` are grouped by them */
} ls_config_run;

typedef struct ls_config_model {
    char preset[32]; /* "" or a name of ls_config_presets */
    ls_family family;
    int64_t vocab;          /* real vocabulary; 0: what the data says */
    int64_t vocab_multiple; /* the embedding's rows are padded to a multiple of this */
    int64_t layers, channels, heads, kv_heads, head_dim; /* kv_heads 0: heads; head_dim 0: C/H */
    int64_t ffn;                                         /* 0: 4C for gpt2; llama3 must say */
    int64_t context;                                     /* most positions */
    bool tied;                                           /* head shares the token embedding */
    bool qkv_bias;          /* of llama3, as Qwen2 has it; gpt2 has one in any case */
    bool qk_norm;           /* RMSNorm of each head's queries and keys, as Qwen3 has it */
    int64_t window;         /* tokens that one attends to, itself included; 0: all before it */
    int64_t window_pattern; /* of so many layers the last has no window; 0: all have it */
    double norm_eps, init_std;
    double rope_theta;
    ls_rope_scaling rope_scaling;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_context;
    int64_t experts;           /* in each layer's MLP; 0: one dense MLP */
    int64_t experts_per_token; /* that a token goes to */
    double expert_capacity;    /* most tokens of an expert, in fair shares; 0: all that choose it */
    double balance_loss;       /* weight of the load-balance loss */
} ls_config_model;

typedef struct ls_config_data {
    char dir[2048];     /* of token shards, from `lockstep prep`; a mixture: data.h */
    int64_t sequence;   /* T; 0: model.context */
    bool verify;        /* check every shard's checksum before step one */
    bool document_mask; /* tokens attend within their document alone */
} ls_config_data;

/* The mesh: pipeline x replicate x shard x context x tensor ranks (mesh.h). */
typedef struct ls_config_parallel {
    int64_t tensor;         /* ranks that split each layer's matrices */
    bool sequence_parallel; /* and between the matrices the tokens (Korthikanti 2022) */
    int64_t context;        /* ranks that split each sequence */
    int64_t pipeline;       /* ranks that split the layers */
    int64_t interleave;     /* parts of the model a pipeline rank holds */
    int64_t shard; /* ranks that divide the training state; 0: all data-parallel, 1 without zero */
    int64_t replicate; /* groups of such ranks; 0: what the other axes leave */
    int64_t zero;      /* what is divided: 1 optimizer, 2 and gradients, 3 and parameters */
    int64_t expert;    /* ranks of replicate x shard x context that split the experts of a layer */
    ls_cfg_transport transport;
} ls_config_parallel;

typedef enum ls_recompute_mode {
    LS_RECOMPUTE_NONE,
    LS_RECOMPUTE_SELECTIVE,
    LS_RECOMPUTE_FULL
} ls_recompute_mode;

typedef struct ls_config_recompute {
    ls_recompute_mode mode;
    int64_t every; /* one layer in so many, the first of them */
} ls_config_recompute;

typedef struct ls_config_batch {
    int64_t sequences; /* of the global batch; 0: from tokens */
    int64_t tokens;    /* of the global batch, a multiple of T; 0: from sequences */
    int64_t micro;     /* sequences of a micro-batch on one rank */
} ls_config_batch;

typedef struct ls_config_optim {
    char name[16]; /* "adamw"; the list is in optim/optim.h, as is the form of groups */
    double lr, beta1, beta2, eps, weight_decay;
    double clip_norm; /* global norm; 0: off */
    double momentum;  /* sgd, muon */
    bool nesterov;    /* sgd, muon */
    char groups[1024];
} ls_config_optim;

typedef struct ls_config_schedule {
    ls_schedule_kind kind;
    int64_t warmup_steps;
    double min_lr_ratio; /* the end, as a share of lr (linear, cosine, wsd) */
    int64_t decay_steps; /* wsd: length of the decay; 0: a fifth of the schedule */
    int64_t first_step;  /* the schedule is that of the steps after it */
} ls_config_schedule;

typedef struct ls_config_numerics {
    ls_compute compute;   /* auto: bf16 where the device is fast at it, else fp32 */
    ls_cfg_logits logits; /* what the head's product writes and the loss reads */
    ls_cfg_reduction reduction;
    ls_cfg_attention attention; /* whose kernels a GPU's attention is */
    ls_cfg_experts experts;     /* how a GPU multiplies a mixture's experts */
    double bucket_mib;          /* gradient bucket */
} ls_config_numerics;

typedef struct ls_config_checkpoint {
    int64_t every; /* steps between saves; 0: only at the end and on request */
    bool at_end;
    int64_t level;    /* zstd level 1..19; 0: not compressed */
    bool async;       /* saves go on in the background */
    ls_cfg_busy busy; /* a save is due while one is under way */
    int64_t threads;  /* of a rank in the background; 0: a quarter of its threads */
    ls_cfg_writers writers;
    int64_t parity;                           /* files of a group of 16 that may be lost */
    int64_t keep_last, keep_every, keep_best; /* all 0: every checkpoint stays */
} ls_config_checkpoint;

typedef struct ls_config_eval {
    int64_t every; /* steps; 0: only at the end */
    int64_t
        batches; /* of micro size per evaluation over all ranks; 0: the whole validation split */
} ls_config_eval;

typedef struct ls_config_metrics {
    int64_t every;        /* steps between console lines, Prometheus files and energy readings */
    bool prometheus;      /* write metrics.prom */
    bool tensorboard;     /* write events.out.tfevents.* */
    bool mlperf;          /* write mlperf.log */
    double peak_tflops;   /* of a device, for MFU; 0: the cluster profile's */
    char trace_steps[48]; /* "10..12"; empty: no trace */
} ls_config_metrics;

typedef enum ls_price_kind {
    LS_PRICE_ON_DEMAND,
    LS_PRICE_SPOT,
    LS_PRICE_RESERVED,
    LS_PRICE_CAPACITY_BLOCK,
    LS_PRICE_CONTRACT
} ls_price_kind;

/* A device is what a rank computes on: a GPU, or the processors of a rank. */
typedef struct ls_config_cost {
    char cluster[256];          /* profile to predict steps with; "" for none */
    double usd_per_device_hour; /* 0: unknown, or from the contract */
    ls_price_kind kind;
    char price_date[32];
    double contract_usd, contract_years;
    char contract_devices[256]; /* "0:10000,1.5:59000": years after the start : devices delivered */
    char contract_start[32];    /* "2026-11-01"; empty: deliveries are in years */
    double contract_utilisation;
    double watts_per_device; /* share of its node included; 0: unknown */
    double pue;              /* power usage effectiveness of the site */
    double carbon_g_per_kwh; /* 0: unknown */
} ls_config_cost;

typedef struct ls_config_faults {
    int64_t max_skipped; /* consecutive steps with a non-finite loss or gradient before giving up */
    double deadline_factor; /* steps that a rank may keep others waiting */
    double min_deadline_s;  /* and at least this long */
    double patience_s;      /* outside of steps, and in the first ones */
    bool check_collectives; /* compare the ranks' calls */
    int64_t compare_every;  /* steps between comparisons of replicas; 0: never */
    double straggler;       /* times the median's compute time; 0: no warning */
    double loss_spike;      /* standard deviations; 0: no warning */
    double stop_before_s;   /* the end of the job; 0: the time limit is not asked for */
    bool repeat_steps;      /* whose numbers are in doubt, once */
    ls_cfg_on_bad on_nonfinite, on_spike; /* WARN for spikes only, STOP for the other */
    int64_t skip_batches; /* of data after a reload, beyond those up to the bad step */
    int64_t max_reloads;  /* in a row, without a checkpoint beyond the bad step */
} ls_config_faults;

typedef struct ls_config {
    ls_config_run run;
    ls_config_model model;
    ls_config_data data;
    ls_config_parallel parallel;
    ls_config_recompute recompute;
    ls_config_batch batch;
    ls_config_optim optim;
    ls_config_schedule schedule;
    ls_config_numerics numerics;
    ls_config_checkpoint checkpoint;
    ls_config_eval eval;
    ls_config_metrics metrics;
    ls_config_cost cost;
    ls_config_faults faults;
} ls_config;

/* What becomes of a value that is another one when a run is resumed. */
typedef enum ls_field_resume {
    LS_RESUME_FREE,   /* it decides no number of the training */
    LS_RESUME_CHANGE, /* the state fits it too, and what follows is other: only if that is meant */
    LS_RESUME_SAME    /* the state, or the order of the data, is not that of the other value */
} ls_field_resume;

/* One row of the table. */
typedef enum ls_field_type {
    LS_FIELD_BOOL,
    LS_FIELD_INT,
    LS_FIELD_FLOAT,
    LS_FIELD_STRING,
    LS_FIELD_ENUM
} ls_field_type;

typedef struct ls_field {
    const char *section, *key;
    ls_field_type type;
    size_t offset, size_bytes; /* in ls_config */
    const char *default_text;
    const char *unit;         /* "" when none */
    double min, max;          /* of numbers, inclusive */
    const char *const *names; /* of LS_FIELD_ENUM, NULL-terminated, in order of the values */
    const char *help;
    ls_field_resume resume;
} ls_field;

/* Rows of a section are neighbours. Static, like all tables here. */
const ls_field *ls_config_fields(size_t *count);

/* A section's name and what it is about, in the order of the table. */
typedef struct ls_section {
    const char *name, *help;
} ls_section;
const ls_section *ls_config_sections(size_t *count);

/* "integer", "number", "text", "choice", "true or false". */
const char *ls_field_type_name(ls_field_type type);
/* What a field allows: "at least 0", "0 to 1", "gpt2 or llama3"; "" for any text. Returns buf. */
char *ls_field_allowed(const ls_field *field, char *buf, size_t size);

/* NULL-terminated names of model presets. */
const char *const *ls_config_presets(void);

/* The key, as "section.key", that a word means: one of this name that is in one section alone, or
 * what another program calls so ("n_layer", "hidden-size"). */
bool ls_config_meant(const char *word, size_t length, char meant[64]);

/* A decimal number; '_' may part its digits. With suffixes an end of K (k), M, B (G) or T
 * multiplies it by a power of 1000: "15T", "0.5B". */
bool ls_config_number(const char *text, bool suffixes, double *x);

/* Defaults, file (NULL: none), overrides ("section.key=value" [count]), checks. Errors name file,
 * line, what was found, what is allowed and the nearest key. */
ls_status ls_config_load(ls_config *config, const char *path, const char *const *overrides,
                         int override_count);
/* The same from YAML text held in memory (a checkpoint's); `name` stands for the file. */
ls_status ls_config_load_text(ls_config *config, const char *name, const char *text, size_t bytes,
                              const char *const *overrides, int override_count);
/* The first and last step of metrics.trace_steps, 0 and 0 when it is empty; LS_E_CONFIG. */
ls_status ls_config_trace_steps(const ls_config_metrics *metrics, int64_t *first, int64_t *last);
/* The whole resolved configuration as YAML that ls_config_load_text reads back to equal values;
 * caller frees. comments adds each field's help and unit. */
ls_status ls_config_text(const ls_config *config, bool comments, char **text);
/* SHA-256 of the resolved text. */
ls_status ls_config_hash(const ls_config *config, ls_sha256 *hash);
/* Differences of fields of one kind, one "section.key: 3 A_NAME, 4 B_NAME" a line; caller frees
 * *text. *differences = how many there are. Neither configuration may still have a model.vocab of 0
 * that the other one has replaced by what the data says. */
ls_status ls_config_compare(ls_field_resume kind, const ls_config *a, const char *a_name,
                            const ls_config *b, const char *b_name, char **text, int *differences);
/* Sections with their fields, aligned: key, type, default, help with unit and what is allowed. */
void ls_config_print_help(FILE *out);

#endif
