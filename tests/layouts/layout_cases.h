/* Layouts, as overrides of a base configuration. */
#ifndef LS_TESTS_LAYOUTS_CASES_H
#define LS_TESTS_LAYOUTS_CASES_H

/* Models: what a layout is compared with is one rank's training of the same model. */
typedef enum model_case {
    GPT2,
    GPT2_UNTIED,
    LLAMA,
    LLAMA_TIED,
    LLAMA_BF16,
    LLAMA_LOGITS, /* these in bf16 too */
    MIXTURE,
    MIXTURE_DROPLESS,
    MIXTURE_EVEN, /* all tokens want all experts */
    DOCUMENTS,
    QWEN,
    MODELS
} model_case;

static const char *const model_overrides[MODELS] = {
    [GPT2] = "model.family=gpt2 model.tied=true model.layers=5 model.channels=24 model.heads=4 "
             "model.ffn=52",
    [GPT2_UNTIED] = "model.family=gpt2 model.tied=false model.layers=4 model.channels=20 "
                    "model.heads=4 model.ffn=50",
    /* with groups, one of which names what the last stage alone has */
    [LLAMA] = "model.family=llama3 model.tied=false model.layers=4 model.channels=24 "
              "model.heads=4 model.kv_heads=2 model.ffn=44 "
              "optim.groups=head.*~lr=0.5;layers.1.*~lr=2~decay=0.5",
    [LLAMA_TIED] = "model.family=llama3 model.tied=true model.layers=3 model.channels=32 "
                   "model.heads=8 model.kv_heads=4 model.ffn=44",
    [LLAMA_BF16] = "model.family=llama3 model.tied=false model.layers=4 model.channels=24 "
                   "model.heads=4 model.kv_heads=2 model.ffn=44 numerics.compute=bf16",
    [LLAMA_LOGITS] = "model.family=llama3 model.tied=true model.layers=3 model.channels=32 "
                     "model.heads=4 model.kv_heads=2 model.ffn=44 numerics.compute=bf16 "
                     "numerics.logits=compute",
    [MIXTURE] =
        "model.family=llama3 model.tied=false model.layers=3 model.channels=24 "
        "model.heads=4 model.kv_heads=2 model.ffn=20 model.experts=5 model.expert_capacity=1.2 "
        "model.balance_loss=0.1",
    [MIXTURE_DROPLESS] = "model.family=llama3 model.tied=false model.layers=3 model.channels=24 "
                         "model.heads=4 model.kv_heads=2 model.ffn=20 model.experts=5 "
                         "model.balance_loss=0.1",
    [MIXTURE_EVEN] = "model.family=llama3 model.tied=false model.layers=2 model.channels=24 "
                     "model.heads=4 model.kv_heads=2 model.ffn=20 model.experts=4 "
                     "model.experts_per_token=4",
    [DOCUMENTS] = "model.family=llama3 model.tied=false model.layers=4 model.channels=24 "
                  "model.heads=4 model.kv_heads=2 model.ffn=44 data.document_mask=true",
    [QWEN] = "model.family=llama3 model.tied=true model.layers=4 model.channels=24 "
             "model.heads=4 model.kv_heads=2 model.head_dim=8 model.ffn=44 "
             "model.qkv_bias=true model.qk_norm=true model.window=5 model.window_pattern=2",
};

typedef struct layout_case {
    int ranks;
    model_case model;
    const char *overrides;
} layout_case;

/* Compared within 1e-5: losses, parameters, moments of the gradients. */
static const layout_case near_cases[] = {
    /* pipelines */
    {2, GPT2, "parallel.pipeline=2"},
    {2, LLAMA, "parallel.pipeline=2"},
    {3, GPT2, "parallel.pipeline=3"},
    {4, LLAMA, "parallel.pipeline=4"},
    {5, GPT2, "parallel.pipeline=5"},
    {4, GPT2_UNTIED, "parallel.pipeline=4 batch.micro=4"}, /* fewer micro-batches than stages */
    {3, LLAMA_TIED, "parallel.pipeline=3 batch.micro=12"},
    {2, GPT2, "parallel.pipeline=2 parallel.interleave=2"},
    {2, LLAMA, "parallel.pipeline=2 parallel.interleave=2 batch.micro=4"},
    {2, GPT2_UNTIED, "parallel.pipeline=2 parallel.interleave=2 batch.micro=2 parallel.zero=3"},
    {4, GPT2, "parallel.pipeline=2 parallel.zero=1"},
    {4, GPT2, "parallel.pipeline=2 parallel.zero=2 batch.micro=2"},
    {4, LLAMA_TIED, "parallel.pipeline=2 parallel.zero=3"},
    {4, LLAMA, "parallel.pipeline=2 parallel.interleave=2 parallel.zero=3"},
    {8, GPT2, "parallel.pipeline=2 parallel.zero=2 parallel.shard=2 batch.micro=1"},
    {8, LLAMA, "parallel.pipeline=4 parallel.replicate=2"},
    /* tensor, with and without sequence parallelism */
    {2, GPT2, "parallel.tensor=2"},
    {2, GPT2, "parallel.tensor=2 parallel.sequence_parallel=true"},
    {2, LLAMA, "parallel.tensor=2 parallel.sequence_parallel=true"},
    {3, GPT2_UNTIED, "parallel.tensor=3 parallel.sequence_parallel=true"}, /* uneven */
    {4, LLAMA, "parallel.tensor=4"}, /* key/value heads on two ranks each */
    {4, LLAMA, "parallel.tensor=4 parallel.sequence_parallel=true parallel.zero=0"},
    {8, LLAMA_TIED, "parallel.tensor=8 parallel.sequence_parallel=true"},
    {3, GPT2, "parallel.tensor=3 batch.micro=1"},
    /* rows enough to travel in chunks */
    {2, GPT2, "parallel.tensor=2 batch.micro=24"},
    {2, LLAMA, "parallel.tensor=2 parallel.sequence_parallel=true batch.micro=24"},
    /* tensor and the data-parallel axes */
    {4, GPT2, "parallel.tensor=2 parallel.replicate=2"},
    {4, LLAMA, "parallel.tensor=2 parallel.zero=1"},
    {4, GPT2_UNTIED, "parallel.tensor=2 parallel.zero=2 parallel.sequence_parallel=true"},
    {4, GPT2, "parallel.tensor=2 parallel.zero=3"},
    {6, LLAMA_TIED, "parallel.tensor=2 parallel.zero=3 parallel.sequence_parallel=true"},
    {8, LLAMA, "parallel.tensor=2 parallel.zero=3 parallel.shard=2"},
    {8, GPT2, "parallel.tensor=4 parallel.zero=2"},
    /* context: a sequence over several ranks */
    {2, GPT2, "parallel.context=2"},
    {4, LLAMA, "parallel.context=4 batch.micro=1"},
    {8, LLAMA_TIED, "parallel.context=8"},
    {4, LLAMA, "parallel.context=2 parallel.replicate=2"},
    {4, GPT2, "parallel.context=2 parallel.zero=1"},
    {4, LLAMA, "parallel.context=2 batch.micro=3 numerics.reduction=invariant"},
    {4, GPT2, "parallel.context=2 parallel.zero=1 batch.micro=4 numerics.reduction=invariant"},
    {4, GPT2_UNTIED, "parallel.context=2 parallel.zero=3"},
    {4, LLAMA, "parallel.context=2 parallel.tensor=2 parallel.sequence_parallel=true"},
    {4, GPT2, "parallel.context=2 parallel.pipeline=2 batch.micro=4"},
    {8, LLAMA, "parallel.context=2 parallel.tensor=2 parallel.zero=2 recompute.mode=full"},
    /* documents, which stages and context ranks must know */
    {2, DOCUMENTS, "parallel.context=2 batch.micro=3"},
    {4, DOCUMENTS, "parallel.context=4 batch.micro=1 recompute.mode=selective"},
    {3, DOCUMENTS, "parallel.pipeline=3"},
    {2, DOCUMENTS, "parallel.pipeline=2 parallel.interleave=2 batch.micro=4"},
    {4, DOCUMENTS, "parallel.pipeline=2 parallel.interleave=2 parallel.zero=3"},
    {8, DOCUMENTS, "parallel.context=2 parallel.tensor=2 parallel.pipeline=2"},
    /* norms of each head's queries and keys, biases of keys that ranks share */
    {2, QWEN, "parallel.tensor=2 parallel.sequence_parallel=true recompute.mode=full"},
    {4, QWEN, "parallel.tensor=4 parallel.zero=0"},
    {4, QWEN, "parallel.context=2 parallel.tensor=2"},
    {8, QWEN, "parallel.tensor=2 parallel.pipeline=2 parallel.zero=3 recompute.mode=selective"},
    /* gradients in bf16; within 2e-2 */
    {2, GPT2, "numerics.reduction=bf16"},
    {3, LLAMA_TIED, "parallel.zero=1 numerics.reduction=bf16"},
    {4, LLAMA, "parallel.zero=1 parallel.shard=2 numerics.reduction=bf16"},
    {4, GPT2_UNTIED, "parallel.tensor=2 parallel.zero=3 numerics.reduction=bf16"},
    {8, MIXTURE,
     "parallel.expert=2 parallel.zero=2 parallel.shard=4 batch.micro=1 numerics.reduction=bf16"},
    /* all of them */
    {8, LLAMA, "parallel.context=2 parallel.tensor=2 parallel.pipeline=2"},
    {8, GPT2, "parallel.tensor=2 parallel.pipeline=2 parallel.zero=3"},
    {8, GPT2, "parallel.tensor=2 parallel.pipeline=2 parallel.sequence_parallel=true"},
    {8, LLAMA,
     "parallel.tensor=2 parallel.pipeline=2 parallel.interleave=2 parallel.zero=2 "
     "parallel.sequence_parallel=true"},
    {6, GPT2_UNTIED, "parallel.tensor=3 parallel.pipeline=2"},
    {8, LLAMA_TIED, "parallel.tensor=4 parallel.pipeline=2 parallel.sequence_parallel=true"},
    /* experts: split over tensor ranks, expert ranks, both */
    {2, MIXTURE, "parallel.tensor=2 parallel.sequence_parallel=true parallel.zero=0"},
    {4, MIXTURE, "parallel.tensor=2 parallel.zero=3"},
    {4, MIXTURE, "parallel.tensor=4 parallel.sequence_parallel=true"},
    {4, MIXTURE, "parallel.tensor=2 parallel.pipeline=2 recompute.mode=full"},
    {2, MIXTURE, "parallel.expert=2"},
    {2, MIXTURE_DROPLESS, "parallel.expert=2 parallel.zero=1"},
    {4, MIXTURE, "parallel.expert=4 parallel.zero=3 batch.micro=1"},
    {4, MIXTURE, "parallel.expert=2 parallel.zero=2"},
    {8, MIXTURE, "parallel.expert=4 parallel.zero=3 parallel.shard=2 batch.micro=1"},
    {8, MIXTURE,
     "parallel.expert=2 parallel.tensor=2 parallel.zero=1 parallel.sequence_parallel=true"},
    {4, MIXTURE, "parallel.expert=2 parallel.pipeline=2 recompute.mode=full"},
    {8, MIXTURE_DROPLESS,
     "parallel.expert=2 parallel.tensor=2 parallel.pipeline=2 parallel.zero=3 parallel.shard=2"},
    {4, MIXTURE, "parallel.expert=2 parallel.context=2 parallel.zero=2 batch.micro=4"},
    {8, MIXTURE, "parallel.expert=4 parallel.context=2 parallel.zero=3 recompute.mode=selective"},
    {6, MIXTURE, "parallel.expert=3 batch.micro=4"},
    {2, MIXTURE_EVEN, "parallel.expert=2 recompute.mode=full"},
    {4, MIXTURE_EVEN, "parallel.expert=2 parallel.tensor=2 parallel.sequence_parallel=true"},
    {2, MIXTURE, "parallel.context=2"},
    {8, MIXTURE, "parallel.context=4 parallel.tensor=2 batch.micro=4"},
    {2, MIXTURE_DROPLESS, "parallel.context=2"},
    {4, MIXTURE_DROPLESS,
     "parallel.context=2 parallel.tensor=2 parallel.sequence_parallel=true recompute.mode=full"},
    {8, MIXTURE_DROPLESS, "parallel.context=4 parallel.zero=3 parallel.shard=2 batch.micro=1"},
    /* recomputing */
    {1, GPT2, "recompute.mode=selective"},
    {1, LLAMA, "recompute.mode=full recompute.every=2"},
    {2, LLAMA, "recompute.mode=full parallel.zero=3"},
    {4, GPT2,
     "recompute.mode=selective parallel.tensor=2 parallel.sequence_parallel=true "
     "parallel.zero=3"},
    {4, LLAMA_TIED, "recompute.mode=full parallel.tensor=2 parallel.pipeline=2"},
    {4, GPT2, "recompute.mode=full recompute.every=2 parallel.pipeline=2 parallel.zero=2"},
};

/* Compared bit by bit after 20 steps, with invariant reduction. */
static const layout_case exact_cases[] = {
    {2, GPT2, ""},
    {3, GPT2, ""},
    {4, LLAMA, ""},
    {1, GPT2, "parallel.zero=1"},
    {2, GPT2, "parallel.zero=1"},
    {3, LLAMA, "parallel.zero=1"},
    {4, LLAMA_TIED, "parallel.zero=1 parallel.shard=2"},
    {1, LLAMA, "parallel.zero=2"},
    {2, GPT2, "parallel.zero=2"},
    {6, GPT2_UNTIED, "parallel.zero=2"},
    {4, LLAMA, "parallel.zero=2 parallel.shard=2"},
    {1, GPT2, "parallel.zero=3"},
    {2, LLAMA, "parallel.zero=3"},
    {3, LLAMA_TIED, "parallel.zero=3"},
    {6, GPT2, "parallel.zero=3 parallel.shard=3"},
    {6, GPT2, "parallel.zero=3"},
    {3, MIXTURE, "parallel.zero=3"},
    {2, LLAMA_BF16, ""},
    {2, LLAMA_BF16, "parallel.zero=1"},
    {3, LLAMA_BF16, "parallel.zero=2"},
    {4, LLAMA_BF16, "parallel.zero=3 parallel.shard=2"},
    {3, LLAMA_LOGITS, "parallel.zero=3"},
    {4, LLAMA, "parallel.zero=3 recompute.mode=full"},
    {2, DOCUMENTS, "parallel.zero=3"},
    {3, DOCUMENTS, "parallel.zero=1 recompute.mode=full"},
    {4, QWEN, "parallel.zero=3 parallel.shard=2 recompute.mode=full"},
};

/* The same with Adafactor, which sums rows and columns over the shards. */
static const layout_case exact_adafactor_cases[] = {
    {3, GPT2, "parallel.zero=1"},
    {6, LLAMA_TIED, "parallel.zero=2 parallel.shard=3"},
    {4, MIXTURE, "parallel.zero=3"},
};

/* With Adafactor, near one rank's training: what tensor ranks split. Of models without biases: the
 * gradients of keys' biases are rounding, and so would be its updates. */
static const layout_case near_adafactor_cases[] = {
    {2, LLAMA, "parallel.tensor=2"},
    {3, LLAMA_TIED, "parallel.tensor=3 parallel.sequence_parallel=true"},
    {4, LLAMA, "parallel.tensor=4"},
    {8, LLAMA_TIED, "parallel.tensor=2 parallel.zero=3 parallel.pipeline=2"},
    {4, MIXTURE, "parallel.tensor=2 parallel.zero=2 parallel.sequence_parallel=true"},
    {8, MIXTURE, "parallel.expert=2 parallel.tensor=2 parallel.zero=3"},
};

/* The same with Muon, whose matrices are whole experts. */
static const layout_case near_muon_cases[] = {
    {4, MIXTURE, "parallel.expert=2 parallel.zero=2"},
    {8, MIXTURE, "parallel.expert=2 parallel.tensor=2 parallel.zero=3"},
};

/* On a GPU's memory, on at most 4 ranks: every axis, and all moves of data between ranks. Compared
 * within 1e-4 with the CPU, after fewer steps of smaller models. */
static const layout_case gpu_cases[] = {
    {2, GPT2, "parallel.zero=2 recompute.mode=selective"},
    {4, GPT2_UNTIED, "parallel.tensor=2 parallel.zero=3"},
    {4, GPT2, "parallel.pipeline=2 parallel.zero=1"},
    {2, LLAMA_TIED, "parallel.context=2 numerics.reduction=bf16"},
    {4, LLAMA, "parallel.zero=1 parallel.shard=2 numerics.reduction=bf16"},
    {4, QWEN, "parallel.tensor=2 parallel.pipeline=2"},
    {2, DOCUMENTS, "parallel.context=2"},
    {4, DOCUMENTS, "parallel.pipeline=2 parallel.interleave=2"},
    {4, MIXTURE,
     "parallel.tensor=2 parallel.sequence_parallel=true parallel.expert=2 parallel.zero=2"},
    {2, MIXTURE, "parallel.expert=2 batch.micro=2"}, /* whose evaluation ends short on one rank */
};

static const layout_case gpu_adafactor_cases[] = {
    {4, LLAMA_TIED, "parallel.tensor=2 parallel.zero=2"},
};

static const layout_case gpu_muon_cases[] = {
    {4, GPT2, "parallel.tensor=2 parallel.zero=2"},
};

/* Bit by bit on a GPU: with one GPU, with invariant reduction. */
static const layout_case gpu_exact_cases[] = {
    {2, GPT2, "parallel.zero=3"},
};

/* Refused before any memory is taken. */
static const struct {
    int ranks;
    const char *overrides, *message;
} refused_cases[] = {
    {3, "", "a batch of 24 sequences does not divide into micro-batches of 3 on 3 ranks"},
    {4, "parallel.tensor=3", "4 ranks run, and parallel.tensor 3 takes a multiple of 3"},
    {5, "parallel.tensor=5", "parallel.tensor is 5; a model of 4 heads"},
    {8, "parallel.tensor=8", "parallel.tensor is 8; a model of 4 heads"},
    {2, "parallel.pipeline=6",
     "parallel.pipeline 6 x parallel.interleave 1 makes 6 stages, and the "
     "model has 5 layers"},
    {4, "parallel.zero=2 parallel.replicate=4",
     "parallel.replicate 4 leaves 1 of 4 ranks to divide"},
    {4, "parallel.zero=1 parallel.shard=3", "parallel.shard 3"},
    {2, "parallel.pipeline=4", "parallel.pipeline 4 needs more ranks than the 2 that run"},
    {2, "parallel.pipeline=2 optim.groups=layer.*~lr=2", "'layer.*' matches no parameter"},
    {2, "parallel.expert=2", "parallel.expert is 2; it must divide the 2 ranks of replicate"},
};

#endif
