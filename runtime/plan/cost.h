/* What a training step costs on a cluster: seconds by term, and bytes.
 *
 * Compute follows a roofline: matrix products by shape (tiles that fill the processors in waves,
 * short inner dimensions, bytes of thin operands), fused attention by FLOPs, all else by bytes
 * moved. Collectives follow collectives/wire_cost.h over two levels, the domain of fast links and
 * the network. Pipelines: 1F1B and interleaved (Narayanan 2021, arXiv 2104.04473, section 2.2).
 * Sequence parallelism and recomputation: Korthikanti 2022, arXiv 2205.05198. Sharding: Rajbhandari
 * 2020, arXiv 1910.02054. Efficiencies come from the cluster's profile, by device kind and
 * precision only. */
#ifndef LS_PLAN_COST_H
#define LS_PLAN_COST_H

#include "collectives/wire_cost.h"
#include "runtime/plan/cluster.h"
#include "runtime/plan/plan_model.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum ls_precision {
    LS_PRECISION_FP32,
    LS_PRECISION_BF16,
    LS_PRECISION_FP8,
    LS_PRECISION_FP4,
    LS_PRECISION_COUNT
} ls_precision;
/* "bf16"; static. */
const char *ls_precision_name(ls_precision precision);
/* LS_PRECISION_COUNT when there is no such name. */
ls_precision ls_precision_parse(const char *name);

typedef enum ls_redo {
    LS_REDO_NONE,
    LS_REDO_SELECTIVE, /* attention and what is cheap */
    LS_REDO_ALTERNATE, /* every second matrix product too */
    LS_REDO_FULL       /* the whole layer from its input */
} ls_redo;
const char *ls_redo_name(int recompute);

/* How the program works; defaults (all zero) are a modern one: fused kernels and attention,
 * sequence parallelism with tensor parallelism, communication under compute. */
typedef struct ls_software {
    bool unfused;           /* a kernel for every elementwise operation */
    bool unfused_attention; /* scores in memory, no causal skipping */
    bool older_attention;   /* fused attention written for the generation of devices before */
    bool exposed_tensor;    /* tensor-parallel collectives wait */
    bool exposed_data;      /* gradients leave after backward, weights arrive before forward */
    bool repeated_norms;    /* tensor parallelism without sequence parallelism */
    bool exposed_experts;   /* tokens travel to their experts and back in the open */
    bool launched_experts;  /* the host reads how many tokens each expert has got, and launches the
                               kernels of one after the other: no graph of a whole step */
    bool offload;           /* activations wait in host memory over a fast link */
    bool lean_recompute;    /* full recomputation keeps the attention's result, and skips what
                               the backward pass does not need: the last product */
    int gradient_bytes;     /* of an element on the wire; 0: 2 (4 in fp32) */
    bool wide_sums;         /* gradients are kept in fp32, whatever they travel in */
} ls_software;

/* Sizes of the mesh, innermost last: pipeline x replicate x shard x context x tensor. */
typedef struct ls_plan_layout {
    int tensor, context, shard, replicate, pipeline;
    int interleave; /* virtual stages of a pipeline stage; 1: plain 1F1B */
    int expert;     /* expert parallelism inside shard x replicate; 1: none */
    int micro;      /* sequences of a micro-batch */
    int zero;       /* over shard: 0 none, 1 optimizer, 2 gradients, 3 weights */
    int recompute;  /* an ls_redo */
} ls_plan_layout;

int ls_plan_devices(const ls_plan_layout *layout);
/* "tensor=8,pipeline=16,recompute=full": keys are the members, separated by commas, in any order.
 * What is not named is left open: 0, and LS_OPEN for zero and recompute. LS_E_USAGE names the wrong
 * part. */
#define LS_OPEN (-1)
ls_status ls_plan_layout_parse(const char *text, ls_plan_layout *layout);
/* Sets what is open to 1 (zero: 1, recompute: none). */
void ls_plan_layout_fill(ls_plan_layout *layout);
/* The same text with what differs from that default. Returns buf. */
char *ls_plan_layout_text(const ls_plan_layout *layout, char *buf, size_t size);

/* Effective speeds of a device at one precision. */
typedef struct ls_plan_rates {
    double products, bf16_products, attention; /* FLOP/s */
    double memory;                             /* bytes/s of elementwise operations */
    double hbm;           /* bytes/s: of the products' operands, and of updates on processors */
    double host_link;     /* bytes/s to host memory, for offloading */
    double operand_bytes; /* of an element in the products */
    int units, domain;
    ls_wire_link inside, across;
    /* Inside, as a step has them; bytes_per_s 0: unknown. */
    ls_wire_link links[LS_USE_COUNT][LS_COLL_COUNT];
    double launch_s;
    double half_k;      /* inner dimension at which a product has half its speed */
    bool shared_engine; /* processors compute or communicate: nothing hides (a CPU) */
    double peak_flops;  /* of the precision, for MFU */
    bool network_known;
} ls_plan_rates;

/* LS_E_CONFIG when the profile does not know the precision's peak. */
ls_status ls_plan_rates_of(const ls_cluster *cluster, ls_precision precision, ls_plan_rates *rates);

typedef struct ls_plan_job {
    const ls_plan_model *model;
    const ls_plan_rates *rates;
    const ls_software *software; /* NULL: modern */
    ls_precision precision;
    int64_t seq, global_batch; /* tokens of a sequence, sequences of a step */
    bool narrow_logits;        /* in the precision, not in fp32 */
    bool on_host;              /* devices are processors: their memory is the host's */
    /* The operations of a step that the program makes on a rank of that pipeline coordinate. They
     * count where devices are processors and the profile knows the links; NULL: formulas for any
     * program do, as where it fails. */
    ls_status (*tell)(void *teller, const ls_plan_layout *layout, int stage,
                      const ls_comm_list *list);
    void *teller;
} ls_plan_job;

/* X(code, name): seconds of a step; they sum to it. */
#define LS_TERM_LIST(X)                                                                            \
    X(LS_TERM_PRODUCTS, "matrix products")                                                         \
    X(LS_TERM_ATTENTION, "attention")                                                              \
    X(LS_TERM_MEMORY, "memory-bound operations")                                                   \
    X(LS_TERM_HEAD, "output head")                                                                 \
    X(LS_TERM_RECOMPUTE, "recomputation")                                                          \
    X(LS_TERM_LAUNCH, "waiting for the host")                                                      \
    X(LS_TERM_TENSOR, "tensor communication")                                                      \
    X(LS_TERM_CONTEXT, "context communication")                                                    \
    X(LS_TERM_EXPERT, "expert communication")                                                      \
    X(LS_TERM_SHARD, "gathering of weights")                                                       \
    X(LS_TERM_PIPELINE, "pipeline communication")                                                  \
    X(LS_TERM_BUBBLE, "pipeline bubble")                                                           \
    X(LS_TERM_DATA, "gradient reduction")                                                          \
    X(LS_TERM_OPTIMIZER, "optimizer")                                                              \
    X(LS_TERM_OTHER, "waiting for the slowest")

typedef enum ls_term {
#define X(code, name) code,
    LS_TERM_LIST(X)
#undef X
        LS_TERM_COUNT
} ls_term;
const char *ls_term_name(ls_term term);

/* Whether seconds of a term are communication: what a rank is in calls for that it would not be in
 * with infinite links. Waiting for ranks that compute longer is not. */
bool ls_term_communicates(ls_term term);

typedef struct ls_plan_bytes {
    double weights, gradients, optimizer, activations, total; /* of the fullest device */
    double saves; /* host memory a device that saves in the background copy to; part of total where
                     the job is on_host */
} ls_plan_bytes;

typedef struct ls_plan_cost {
    double seconds[LS_TERM_COUNT], step_s;
    bool told;           /* communication is the sum of the operations that job->tell has told */
    double tokens_per_s; /* of all devices */
    double mfu_causal, mfu_full; /* of the precision's peak, by either convention */
    ls_plan_bytes bytes;
} ls_plan_cost;

/* Whether the layout is possible: NULL, or the reason why not (static or in buf). */
const char *ls_plan_illegal(const ls_plan_job *job, const ls_plan_layout *layout, char *buf,
                            size_t size);

/* Costs a layout without open members. Uneven layers are costed by the longest stage. */
void ls_plan_cost_of(const ls_plan_job *job, const ls_plan_layout *layout, ls_plan_cost *cost);

/* Sets the terms of communication to the times of the operations that job->tell tells of a stage,
 * one by one. False: nobody tells, or the profile does not know all links. */
bool ls_plan_operations(const ls_plan_job *job, const ls_plan_layout *layout, int stage,
                        double seconds[LS_TERM_COUNT]);

/* Seconds that a rank is in all calls for an operation (count times), by the profile's links. */
double ls_plan_operation_s(const ls_plan_rates *rates, const ls_comm_operation *operation);

/* Bytes of the fullest device, by the layout of runtime/model (its activations, its flat buffers).
 */
void ls_plan_bytes_of(const ls_plan_job *job, const ls_plan_layout *layout, ls_plan_bytes *bytes);

/* Bytes that an update moves for a weight: fp32 weight, two moments and gradient read, the first
 * three and a bf16 copy written. */
#define LS_PLAN_UPDATE_BYTES 30.0

/* Seconds of one product [m,k] x [k,n]. */
double ls_plan_product_s(const ls_plan_rates *rates, double m, double n, double k);

#endif
