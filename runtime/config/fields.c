/* The one table, and the questions that can be asked about a row. */
#include "runtime/base/text.h"
#include "runtime/config/internal.h"

#include <string.h>

static const char *const families[] = {"gpt2", "llama3", NULL};
static const char *const computes[] = {"auto", "fp32", "bf16", "fp8", NULL};
static const char *const attentions[] = {"own", "auto", "cudnn", NULL};
static const char *const experts_by[] = {"auto", "apart", "grouped", NULL};
static const char *const logits_types[] = {"fp32", "compute", NULL};
static const char *const reductions[] = {"fast", "invariant", "bf16", NULL};
static const char *const devices[] = {"auto", "cpu", "cuda", "emulated", NULL};
static const char *const transports[] = {"auto", "mpi", "shm", "hier", NULL};
static const char *const schedules[] = {"constant", "linear",       "cosine",
                                        "wsd",      "inverse_sqrt", NULL};
static const char *const recomputes[] = {"none", "selective", "full", NULL};
static const char *const price_kinds[] = {"on-demand",      "spot",     "reserved",
                                          "capacity-block", "contract", NULL};
static const char *const busies[] = {"skip", "wait", NULL};
static const char *const bad_actions[] = {"warn", "skip", "reload", "stop", NULL};
static const char *const writers[] = {"rank", "node", NULL};
static const char *const rope_scalings[] = {"none", "llama3", NULL};

static const ls_section sections[] = {
    {"run", "the run, its name and its length"},
    {"model", "the model: a preset, or a family and sizes"},
    {"data", "the token shards to learn from"},
    {"parallel", "how the ranks share the work"},
    {"recompute", "activations computed again in backward instead of being kept"},
    {"batch", "how much is read in one optimizer step"},
    {"optim", "the optimizer"},
    {"schedule", "the learning rate over the steps"},
    {"numerics", "precision, and the order of sums"},
    {"checkpoint", "when and how the state is saved"},
    {"eval", "loss on the validation split"},
    {"metrics", "what is shown while training"},
    {"cost", "price, power and carbon of the machine, for the ledger; nothing is assumed"},
    {"faults", "when to give up, and what to check"},
};

#define NO_LIMIT 0x1p53 /* every integer up to here is a double too */
#define SAME     LS_RESUME_SAME
#define CHANGE   LS_RESUME_CHANGE
#define FREE     LS_RESUME_FREE

#define PLACE(s, k) #s, #k
#define WHERE(s, k) offsetof(ls_config, s.k), sizeof(((ls_config *)0)->s.k)
#define INT(s, k, value, unit, min, max, resume, help)                                             \
    { PLACE(s, k), LS_FIELD_INT, WHERE(s, k), value, unit, min, max, NULL, help, resume }
#define FLOAT(s, k, value, unit, min, max, resume, help)                                           \
    { PLACE(s, k), LS_FIELD_FLOAT, WHERE(s, k), value, unit, min, max, NULL, help, resume }
#define BOOL(s, k, value, resume, help)                                                            \
    { PLACE(s, k), LS_FIELD_BOOL, WHERE(s, k), value, "", 0, 0, NULL, help, resume }
#define STRING(s, k, value, resume, help)                                                          \
    { PLACE(s, k), LS_FIELD_STRING, WHERE(s, k), value, "", 0, 0, NULL, help, resume }
#define ENUM(s, k, value, names, resume, help)                                                     \
    { PLACE(s, k), LS_FIELD_ENUM, WHERE(s, k), value, "", 0, 0, names, help, resume }

static const ls_field fields[] = {
    STRING(run, name, "run", FREE, "directory of the run, inside run.dir"),
    STRING(run, dir, "runs", FREE, "where the directories of runs are"),
    INT(run, seed, "1", "", 0, NO_LIMIT, SAME, "of initial weights and sample order"),
    INT(run, steps, "0", "steps", 0, 1e12, FREE, "length of the run; 0: run.tokens says"),
    INT(run, tokens, "0", "tokens", 0, NO_LIMIT, FREE, "length of the run; 0: run.steps says"),
    ENUM(run, device, "auto", devices, FREE,
         "what computes: cpu, or cuda, a GPU for each rank; auto: a GPU where there is one\n"
         "A rank takes the GPU of its number on the host, or the only one that the launcher "
         "lets it see. CUDA gets 32 queues for streams, unless CUDA_DEVICE_MAX_CONNECTIONS is "
         "set."),
    BOOL(run, graphs, "false", FREE,
         "a GPU gets the operations of a layer in one call (CUDA graphs), where none communicates"),
    INT(run, threads, "0", "threads", 0, 4096, FREE,
        "of each rank; 0: the host's, or a cgroup's quota, shared evenly"),
    STRING(run, init, "", FREE,
           "checkpoint or run whose weights a new run begins with; steps and optimizer begin anew"),
    STRING(run, account, "", FREE, "who pays; statements of 'lockstep cost' are grouped by it"),
    STRING(run, project, "", FREE, "what for; likewise"),

    STRING(model, preset, "", FREE, "known sizes, which other keys of the section may change"),
    ENUM(model, family, "gpt2", families, SAME, "kind of transformer"),
    INT(model, vocab, "0", "tokens", 0, 1 << 24, SAME,
        "size of the vocabulary; 0: what the data says"),
    INT(model, vocab_multiple, "64", "rows", 1, 1 << 16, SAME, "embedding rows are padded to this"),
    INT(model, layers, "0", "layers", 0, 1 << 14, SAME, "transformer layers"),
    INT(model, channels, "0", "channels", 0, 1 << 20, SAME, "width of the residual stream"),
    INT(model, heads, "0", "heads", 0, 1 << 16, SAME, "attention heads"),
    INT(model, kv_heads, "0", "heads", 0, 1 << 16, SAME, "key and value heads; 0: model.heads"),
    INT(model, head_dim, "0", "channels", 0, LS_CONFIG_MAX_HEAD_DIM, SAME,
        "of one head; 0: channels / heads"),
    INT(model, ffn, "0", "channels", 0, 1 << 24, SAME,
        "inside the MLP; 0: 4 x channels (gpt2 only)"),
    INT(model, context, "1024", "tokens", 1, 1 << 27, CHANGE, "most positions"),
    BOOL(model, tied, "true", SAME, "the output shares the token embedding"),
    BOOL(model, qkv_bias, "false", SAME,
         "queries, keys and values have biases, as in Qwen2 (llama3; gpt2 has all biases)"),
    BOOL(model, qk_norm, "false", SAME, "RMSNorm of each head's queries and keys, as in Qwen3"),
    INT(model, window, "0", "tokens", 0, 1 << 27, CHANGE,
        "a token attends to so many, itself included, as in Mistral 7B; 0: to all before it\n"
        "What a window hides is not computed, and FLOPs do not count it. A GPU's attention is "
        "lockstep's own in layers with a window that is shorter than the sequence."),
    INT(model, window_pattern, "0", "layers", 0, 1 << 14, CHANGE,
        "of so many layers the last has no window, as in Gemma; 0: all layers have it"),
    FLOAT(model, norm_eps, "1e-5", "", 1e-30, 1, SAME, "added to the variance in norms"),
    FLOAT(model, init_std, "0.02", "", 0, 10, SAME, "standard deviation of initial weights"),
    FLOAT(model, rope_theta, "500000", "", 1, 1e12, CHANGE, "base of rotary positions (llama3)"),
    ENUM(model, rope_scaling, "none", rope_scalings, CHANGE, "stretch rotary positions (llama3)"),
    FLOAT(model, rope_factor, "8", "", 1, 1e6, CHANGE, "how far to stretch low frequencies"),
    FLOAT(model, rope_low_freq_factor, "1", "", 1e-3, 1e6, CHANGE, "below it all is stretched"),
    FLOAT(model, rope_high_freq_factor, "4", "", 1e-3, 1e6, CHANGE,
          "above it nothing is stretched"),
    INT(model, rope_original_context, "8192", "tokens", 1, 1 << 27, CHANGE,
        "context before stretching"),
    INT(model, experts, "0", "experts", 0, 1 << 12, SAME, "of each layer's MLP; 0: dense"),
    INT(model, experts_per_token, "2", "experts", 1, 1 << 6, SAME, "that a token goes to"),
    FLOAT(model, expert_capacity, "0", "fair shares", 0, 1e6, CHANGE,
          "most tokens of an expert, others skip it; 0: no limit\n"
          "Without a limit no token is dropped, and memory is taken for the case that all "
          "tokens want the same experts. 1.25 lets an expert take 1.25 fair shares of a "
          "micro-batch, whichever ranks have its tokens. On a GPU each then works on as many "
          "rows as it takes at most, those that are left being zeros, and the host does not "
          "wait for the router's choice; experts / experts_per_token drops nothing either, but "
          "multiplies and sends that many times as much."),
    FLOAT(model, balance_loss, "0.01", "", 0, 1e3, CHANGE,
          "weight of each layer's load-balance loss\n"
          "It enters gradients, but not the loss that is reported, and is counted for each "
          "layer, as in Switch Transformers and Megatron-LM, whose usual weight is the default; "
          "mixtral-8x7b has that of its config.json: 0.02 of transformers' formula, a layer's "
          "share of which is 0.00125."),

    STRING(data, dir, "", FREE,
           "token shards that `lockstep prep` wrote; of several: 'web 0.7; code 0.3', with the "
           "share of samples of each\n"
           "Sample by sample it is settled which directory comes, as evenly as shares allow: any "
           "run of samples holds them to within a few. Each is read in an order of its own, "
           "again when it ends."),
    INT(data, sequence, "0", "tokens", 0, 1 << 27, CHANGE, "length of a sample; 0: model.context"),
    BOOL(data, verify, "true", FREE, "check the shards' checksums before step one"),
    BOOL(data, document_mask, "false", CHANGE,
         "tokens see those of their own document alone, as Llama 3's did\n"
         "A document begins with the token that `lockstep prep` put before it (--begin), or "
         "where there is none with the separator, which belongs to the document behind it "
         "then, as in `lockstep sample`. Positions go on over the sample: of rotary ones distances "
         "alone count, but learned ones (gpt2) are others than in `lockstep sample`. Evaluations "
         "do the same, of a model from another program where `ckpt convert` was given the setting. "
         "FLOPs are counted as of one document, and a GPU's attention is lockstep's own."),

    INT(parallel, tensor, "1", "ranks", 1, 1 << 16, FREE, "split each layer's matrices"),
    BOOL(parallel, sequence_parallel, "false", FREE,
         "tensor ranks split the tokens between the matrices"),
    INT(parallel, context, "1", "ranks", 1, 1 << 16, FREE, "split each sequence"),
    INT(parallel, pipeline, "1", "ranks", 1, 1 << 14, FREE, "split the layers into stages"),
    INT(parallel, interleave, "1", "parts", 1, 1 << 14, FREE, "of the model on a pipeline rank"),
    INT(parallel, shard, "0", "ranks", 0, 1 << 24, FREE,
        "divide the training state; 0: all data-parallel ranks, 1 without zero"),
    INT(parallel, replicate, "0", "groups", 0, 1 << 24, FREE,
        "of ranks with the whole state; 0: what the other axes leave"),
    INT(parallel, zero, "0", "", 0, 3, FREE,
        "what is divided: 1 optimizer, 2 also gradients, 3 also parameters\n"
        "3: each block is gathered before its use, the next one while it is computed; with "
        "bf16 compute, bf16 travels. Where the ranks that divide the parameters share a host "
        "nothing is gathered: the parameters lie there once, each rank updates its part when "
        "all have read, and the others read it where it lies. On several hosts, with "
        "parallel.expert, on GPUs, with parallel.transport=mpi and where /dev/shm has no "
        "room, each rank gathers blocks of its own. 1 and 2: every rank has a copy of its "
        "own, near its processors, which travels once a step."),
    INT(parallel, expert, "1", "ranks", 1, 1 << 16, FREE,
        "of replicate x shard x context split the experts, as tensor ranks do\n"
        "Only the ranks that hold the same experts add up their gradients and, with "
        "parallel.zero, divide them. Above 1 an expert's product adds up the tokens of "
        "several micro-batches, so that numerics.reduction=invariant does not give the bits "
        "of other layouts."),
    ENUM(parallel, transport, "auto", transports, FREE,
         "of collectives: shared memory (one host), hier (several, or NVLink domains), or all by "
         "MPI\n"
         "auto: windows of shared memory on one host, where the gradient buffers lie too, so "
         "that ranks add each other's without copying them; on several hosts with equally many "
         "ranks two levels, inside a host and across; else plain MPI. Over several hosts a "
         "thread of each rank moves communication on while the rank computes. GPUs talk by "
         "NCCL, which finds its own way over NVLink domains (those of the driver's fabric "
         "information, with NCCL's own variables; a run says how many there are, and warns "
         "where they part tensor ranks); hier puts it in two levels, inside a domain and "
         "across."),

    ENUM(recompute, mode, "none", recomputes, FREE, "selective: norms and attention"),
    INT(recompute, every, "1", "layers", 1, 1 << 14, FREE, "one layer in so many does it"),

    INT(batch, sequences, "0", "sequences", 0, 1 << 30, CHANGE, "in a step; 0: batch.tokens says"),
    INT(batch, tokens, "0", "tokens", 0, NO_LIMIT, CHANGE, "in a step; 0: batch.sequences says"),
    INT(batch, micro, "1", "sequences", 1, 1 << 20, CHANGE, "computed at once on a rank"),

    STRING(optim, name, "adamw", SAME, "adamw, lion, sgd, adafactor or muon"),
    FLOAT(optim, lr, "3e-4", "", 0, 1e3, CHANGE, "highest learning rate"),
    FLOAT(optim, beta1, "0.9", "", 0, 0.999999, CHANGE, "decay of the first moment"),
    FLOAT(optim, beta2, "0.95", "", 0, 0.9999999, CHANGE, "decay of the second moment"),
    FLOAT(optim, eps, "1e-8", "", 1e-30, 1, CHANGE, "added to the denominator"),
    FLOAT(optim, weight_decay, "0.1", "", 0, 1e3, CHANGE, "times the learning rate and the weight"),
    FLOAT(optim, clip_norm, "1", "", 0, 1e30, CHANGE, "largest global gradient norm; 0: any"),
    FLOAT(optim, momentum, "0.95", "", 0, 0.999999, CHANGE, "of sgd and of muon's matrices"),
    BOOL(optim, nesterov, "true", CHANGE, "momentum in Nesterov's form (sgd, muon)"),
    STRING(optim, groups, "", CHANGE, "'PATTERN lr=SCALE decay=VALUE; ...' by name of parameter"),

    ENUM(schedule, kind, "cosine", schedules, CHANGE, "shape after the warm-up"),
    INT(schedule, warmup_steps, "100", "steps", 0, 1e12, CHANGE, "linear rise from 0"),
    FLOAT(schedule, min_lr_ratio, "0.1", "", 0, 1, CHANGE, "last rate as a share of optim.lr"),
    INT(schedule, decay_steps, "0", "steps", 0, 1e12, CHANGE, "of wsd; 0: a fifth of the schedule"),
    INT(schedule, first_step, "0", "steps", 0, 1e12, CHANGE,
        "of the run, after which the schedule begins, warm-up and all; for runs that are resumed"),

    ENUM(numerics, compute, "auto", computes, CHANGE,
         "auto: bf16 where it is fast, else fp32; fp8: bf16, and the layers' products in 8 bits\n"
         "fp8 (GPUs of compute capability 8.9 or more) rounds operands to E4M3 and gradients "
         "to E5M2, each tensor at a scale of its own."),
    ENUM(numerics, logits, "fp32", logits_types, CHANGE,
         "of the head; compute: rounded to the type that computes, as PyTorch's autocast does\n"
         "In bf16, 6 bytes of each logit are moved instead of 10: the loss, computed in fp32 all "
         "the same, writes the gradients in their place. Tokens are drawn from fp32 ones."),
    ENUM(numerics, reduction, "fast", reductions, CHANGE,
         "of gradients; invariant: same bits for any rank count; bf16: half as much to send\n"
         "bf16 rounds gradients before data-parallel ranks send them, and their sums, added in "
         "fp32 (by NCCL in an order and precision of its own), once more; where shards have "
         "replicas, the sums of both. With parallel.zero 2 and 3 each micro-batch's gradients are "
         "rounded, and the sums stay fp32. For links that ranks wait for: Megatron-LM's "
         "grad_reduce_in_bf16, PyTorch's FSDP reduce_dtype."),
    ENUM(numerics, attention, "auto", attentions, FREE,
         "of GPUs: cuDNN's where all ranks have the same, else own kernels; cudnn: must be there\n"
         "auto: cuDNN's for the micro-batches of training in bf16 where every rank has the "
         "same cuDNN 9 on the same kind of GPU; own kernels on all ranks otherwise, and for "
         "all other shapes. Before the first step each rank tries it: an engine that promises "
         "the same bits in each run, results close to the own kernels' and the same when "
         "repeated, and at most a quarter of the free memory (cuDNN's backward pass keeps a "
         "matrix of T x T probabilities a head, which the plan counts; the own kernels keep "
         "none). The log, starts.jsonl and checkpoints say which it is and why, and a resume "
         "warns when it has changed. cudnn gives the library every shape that it takes."),
    ENUM(numerics, experts, "auto", experts_by, FREE,
         "GPUs' products of experts: one each, or one launch for all of a rank; auto: by their "
         "rows\n"
         "grouped: where a rank has all experts and there is no model.expert_capacity, a "
         "kernel of lockstep's own, without Hopper's wgmma, finds on the GPU which rows are "
         "whose: no wait, nothing padded, and run.graphs can record it. apart: a product of "
         "cuBLASLt for each, which should be faster where experts have rows enough to fill the "
         "GPU; auto takes them from 512 rows an expert on, a number that counting tiles gave "
         "and no GPU has confirmed. Products apart, and messages between several expert ranks, "
         "have the sizes that the router chose, for which the host waits once a layer: for as "
         "many numbers as there are experts, beside the GPU's gathering of the rows, which it "
         "places itself."),
    FLOAT(numerics, bucket_mib, "25", "MiB", 0.001, 1 << 20, FREE,
          "gradients sent together, at most"),

    INT(checkpoint, every, "1000", "steps", 0, 1e12, FREE, "between saves; 0: no regular saves"),
    BOOL(checkpoint, at_end, "true", FREE, "save when the run ends"),
    INT(checkpoint, level, "1", "", 0, 19, FREE, "of zstd compression; 0: none"),
    BOOL(checkpoint, async, "true", FREE,
         "write a copy of the state while training goes on\n"
         "The copy's memory is reserved at the start. It is made while the next step's forward "
         "and backward only read the state; the update waits for what is left of it. A GPU's "
         "state goes to pinned memory by a stream of its own, and the update is put behind the "
         "copy. Threads of lower priority write."),
    ENUM(checkpoint, busy, "wait", busies, FREE, "when a save is due and one is under way"),
    INT(checkpoint, threads, "0", "threads", 0, 1024, FREE,
        "of a rank that write in the background; 0: a quarter of run.threads"),
    ENUM(checkpoint, writers, "rank", writers, FREE, "a file for each rank, or for each host"),
    INT(checkpoint, parity, "0", "files", 0, 8, FREE, "of 16 that may be lost without harm"),
    INT(checkpoint, keep_last, "0", "checkpoints", 0, 1e12, FREE,
        "the newest so many stay; all keep_ at 0: every one"),
    INT(checkpoint, keep_every, "0", "steps", 0, 1e12, FREE, "multiples of it stay"),
    INT(checkpoint, keep_best, "0", "checkpoints", 0, 1e12, FREE,
        "so many with the lowest validation loss stay, of steps that were evaluated"),

    INT(eval, every, "0", "steps", 0, 1e12, FREE, "between evaluations; 0: only at the end"),
    INT(eval, batches, "50", "micro-batches", 0, 1e12, FREE,
        "of an evaluation; 0: the whole split"),

    INT(metrics, every, "10", "steps", 1, 1e12, FREE,
        "between lines on the console, Prometheus files and readings of energy"),
    BOOL(metrics, prometheus, "true", FREE, "write metrics.prom for a textfile collector"),
    BOOL(metrics, tensorboard, "true", FREE, "write events.out.tfevents.* for TensorBoard"),
    BOOL(metrics, mlperf, "false", FREE,
         "write mlperf.log, lines of MLPerf logging\n"
         "MLPerf's compliance checker accepts them (open division, training 5.1.0 and 6.0.0) "
         "once the submitter's own submission_* and cache_clear lines stand before them."),
    FLOAT(
        metrics, peak_tflops, "0", "TFLOP/s", 0, 1e6, FREE,
        "dense peak of a device in the compute dtype, for MFU; 0: that of cost.cluster's profile, "
        "else MFU is null"),
    STRING(
        metrics, trace_steps, "", FREE,
        "steps, such as 10..12, of which trace.json is written for Perfetto or chrome://tracing\n"
        "Of steps that a start makes, all ranks in one file: blocks, phases, every operation "
        "by group, and the calls in which the main thread was on one, with how long it moved "
        "data itself."),

    STRING(cost, cluster, "", FREE,
           "cluster profile, a name or file.yaml, to predict steps with, and for the price, power, "
           "PUE "
           "and carbon that are not given below; empty: none"),
    FLOAT(cost, usd_per_device_hour, "0", "usd", 0, 1e6, FREE,
          "price of a device (what one rank computes on); 0: unknown, or of the contract"),
    ENUM(cost, kind, "on-demand", price_kinds, FREE, "kind of the price"),
    STRING(cost, price_date, "", FREE, "day of the price, such as 2026-11-01"),
    FLOAT(cost, contract_usd, "0", "usd", 0, 1e15, FREE, "whole contract (kind contract)"),
    FLOAT(cost, contract_years, "0", "years", 0, 100, FREE, "length of the contract"),
    STRING(cost, contract_devices, "", FREE,
           "devices delivered: years after the start, or days, as in 0:10000,1.5:59000 or "
           "2026-11-01:10000,2028-05-01:59000\n"
           "A contract's price of a device-hour is its sum over the device-hours that are "
           "delivered and used."),
    STRING(cost, contract_start, "", FREE, "day on which the contract begins, if days are given"),
    FLOAT(cost, contract_utilisation, "1", "", 1e-3, 1, FREE,
          "share of the delivered device-hours that are used"),
    FLOAT(cost, watts_per_device, "0", "watts", 0, 1e6, FREE,
          "power drawn, its share of the node included; 0: unknown\n"
          "Where the machine has counters energy is measured, by one kind of them in a run: the "
          "GPUs' own by NVML, Cray's node counters, Slurm's accounting (sstat, which may take 3 "
          "s and is asked less often then), or RAPL."),
    FLOAT(cost, pue, "1", "", 1, 10, FREE, "power usage effectiveness of the site"),
    FLOAT(cost, carbon_g_per_kwh, "0", "g", 0, 1e5, FREE,
          "carbon intensity of the electricity; 0: unknown"),

    INT(faults, max_skipped, "10", "steps", 0, 1e12, FREE, "in a row that are not finite"),
    FLOAT(faults, deadline_factor, "3", "steps", 1, 1e6, FREE,
          "a rank that keeps others waiting for longer hangs"),
    FLOAT(faults, min_deadline_s, "5", "seconds", 0.1, 1e9, FREE, "the shortest such deadline"),
    FLOAT(faults, patience_s, "600", "seconds", 0.1, 1e9, FREE,
          "the deadline in the first steps, outside of steps, and in a group's first operation"),
    BOOL(faults, check_collectives, "false", FREE, "compare the ranks' calls (debugging)"),
    INT(faults, compare_every, "100", "steps", 0, 1e12, FREE,
        "between comparisons of the parameters of replicas, which saves make too; 0: never"),
    FLOAT(faults, straggler, "1.5", "", 0, 1e6, FREE,
          "warn of a rank that computes this many times the median; 0: never"),
    FLOAT(faults, loss_spike, "6", "", 0, 1e6, FREE,
          "warn of a loss this many standard deviations above the last ones; 0: never"),
    FLOAT(faults, stop_before_s, "60", "seconds", 0, 1e9, FREE,
          "before Slurm's time limit the run stops and saves; 0: the limit is not asked for"),
    BOOL(faults, repeat_steps, "true", FREE,
         "repeat a step in doubt (the two below) once: other numbers then are a machine's fault"),
    ENUM(faults, on_nonfinite, "skip", bad_actions, FREE,
         "loss or gradient not finite: skip the step, reload the checkpoint before and leave its "
         "data out, or stop; warn: as skip"),
    ENUM(faults, on_spike, "warn", bad_actions, FREE, "the same for a loss out of line"),
    INT(faults, skip_batches, "100", "batches", 0, 1e12, FREE,
        "left out after a reload, beyond those up to the bad step"),
    INT(faults, max_reloads, "3", "reloads", 0, 1e12, FREE, "without getting past the bad step"),
};

enum {
    FIELD_COUNT = sizeof fields / sizeof fields[0],
    SECTION_COUNT = sizeof sections / sizeof sections[0]
};
_Static_assert((int)FIELD_COUNT <= (int)LS_CONFIG_MAX_FIELDS, "raise LS_CONFIG_MAX_FIELDS");

const ls_field *ls_config_fields(size_t *count) {
    *count = FIELD_COUNT;
    return fields;
}

const ls_section *ls_config_sections(size_t *count) {
    *count = SECTION_COUNT;
    return sections;
}

const char *ls_field_type_name(ls_field_type type) {
    static const char *const names[] = {[LS_FIELD_BOOL] = "true or false",
                                        [LS_FIELD_INT] = "integer",
                                        [LS_FIELD_FLOAT] = "number",
                                        [LS_FIELD_STRING] = "text",
                                        [LS_FIELD_ENUM] = "choice"};
    return names[type];
}

char *ls_field_allowed(const ls_field *field, char *buf, size_t size) {
    buf[0] = '\0';
    if (field->type == LS_FIELD_BOOL) {
        snprintf(buf, size, "true or false");
    } else if (field->type == LS_FIELD_ENUM) {
        for (int i = 0; field->names[i]; i++) {
            size_t n = strlen(buf);
            const char *between = i == 0 ? "" : field->names[i + 1] ? ", " : " or ";
            snprintf(buf + n, size - n, "%s%s", between, field->names[i]);
        }
    } else if (field->type != LS_FIELD_STRING && field->max >= 1e12) {
        snprintf(buf, size, "at least %.10g", field->min);
    } else if (field->type != LS_FIELD_STRING) {
        snprintf(buf, size, "%.10g to %.10g", field->min, field->max);
    }
    return buf;
}

/* The section that is meant, or what there is. */
static ls_status fail_section(const char *origin, const char *section) {
    const char *names[SECTION_COUNT];
    char list[256] = "";
    for (int i = 0; i < SECTION_COUNT; i++) {
        names[i] = sections[i].name;
        size_t n = strlen(list);
        snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", names[i]);
    }
    char meant[64];
    if (ls_config_meant(section, strlen(section), meant)) {
        return LS_FAIL(LS_E_CONFIG, "%s: unknown section '%s'; did you mean the key '%s'?", origin,
                       section, meant);
    }
    if (strchr(section, '.')) { /* as on the command line */
        const int length = (int)strcspn(section, ".");
        return LS_FAIL(LS_E_CONFIG,
                       "%s: unknown section '%.60s'; in a file a key is inside of its section: "
                       "%.*s: {%.60s: ...}",
                       origin, section, length, section, section + length + 1);
    }
    const char *nearest = ls_text_nearest(section, names, SECTION_COUNT);
    if (nearest) {
        return LS_FAIL(LS_E_CONFIG, "%s: unknown section '%s'; did you mean '%s'?", origin, section,
                       nearest);
    }
    return LS_FAIL(LS_E_CONFIG, "%s: unknown section '%.60s'; the sections are %s", origin, section,
                   list);
}

/* The key that is meant: a near one of the section, one that is called so elsewhere, or what there
 * is. */
static ls_status fail_key(const char *origin, const char *section, const char *key) {
    const char *names[FIELD_COUNT];
    char list[512] = "", meant[64];
    size_t count = 0;
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (strcmp(fields[i].section, section) == 0) {
            size_t n = strlen(list);
            snprintf(list + n, sizeof list - n, "%s%s", count ? ", " : "", fields[i].key);
            names[count++] = fields[i].key;
        }
    }
    const char *nearest = ls_text_nearest(key, names, count);
    if (nearest) {
        snprintf(meant, sizeof meant, "%s.%s", section, nearest);
    }
    if (nearest || ls_config_meant(key, strlen(key), meant)) {
        return LS_FAIL(LS_E_CONFIG, "%s: unknown key '%s.%s'; did you mean '%s'?", origin, section,
                       key, meant);
    }
    return LS_FAIL(LS_E_CONFIG, "%s: unknown key '%s.%.60s'; the keys of '%s' are %s", origin,
                   section, key, section, list);
}

ls_status ls_field_find(const char *origin, const char *section, const char *key,
                        const ls_field **field) {
    bool known_section = false;
    for (int i = 0; i < FIELD_COUNT; i++) {
        if (strcmp(fields[i].section, section) == 0) {
            known_section = true;
            if (!key || strcmp(fields[i].key, key) == 0) {
                *field = &fields[i];
                return LS_OK;
            }
        }
    }
    return known_section ? fail_key(origin, section, key) : fail_section(origin, section);
}
