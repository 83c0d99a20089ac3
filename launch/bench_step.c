/* lockstep bench step: where the time of a training step goes, beside the least it could take. */
#include "launch/bench.h"
#include "launch/bench_fill.h"
#include "launch/json_text.h"
#include "launch/timed_ops.h"
#include "launch/train.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/base/text.h"
#include "runtime/data/prep.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Best rates seen in this run. */
typedef struct rates {
    double flops_per_s, exps_per_s, bytes_per_s;
    bool products_apart; /* exponentials can be made while products run */
} rates;

typedef struct step_bench {
    const ls_bench_step_options *options;
    ls_train train;
    char dir[512]; /* of the text and its shards; removed at the end */
    rates best;
    double seconds, comm_seconds, data_seconds; /* a step */
} step_bench;

/* --- Settings and data --- */

static bool says(const ls_bench_step_options *o, const char *key) {
    for (int i = 0; i < o->override_count; i++) {
        if (strncmp(o->overrides[i], key, strlen(key)) == 0) {
            return true;
        }
    }
    return false;
}

/* The preset and the batch, then what the user says, then the data. */
static ls_status load_config(step_bench *b) {
    const ls_bench_step_options *o = b->options;
    enum { OWN = 9 };
    const char *list[OWN + 256];
    char *own[OWN] = {
        ls_text_format("model.preset=%s", o->model),
        ls_text_format("batch.micro=%lld", o->batch),
        ls_text_format("batch.sequences=%lld", o->batch),
        ls_text_format("data.sequence=%lld", o->seq),
        ls_text_format("run.threads=%lld", o->threads),
        ls_text_format("run.steps=%lld", o->repeat + 1),
        ls_text_format("numerics.compute=%s", o->dtype),
        ls_text_format("schedule.kind=constant"),
        ls_text_format("data.dir=%s/shards", b->dir),
    };
    int count = 0;
    ls_status status = o->override_count <= 256
                           ? LS_OK
                           : LS_FAIL(LS_E_USAGE, "%d settings; 256 at most", o->override_count);
    for (int i = 0; i < OWN && status == LS_OK; i++) {
        if (!own[i]) {
            status = LS_FAIL(LS_E_MEMORY, "no memory for settings");
        }
        if (!(i == 2 && says(o, "batch.tokens="))) {
            list[count++] = own[i];
        }
    }
    for (int i = 0; i < o->override_count && status == LS_OK; i++) {
        list[count++] = o->overrides[i];
    }
    if (status == LS_OK) {
        status = ls_config_load(&b->train.config, NULL, list, count);
    }
    for (int i = 0; i < OWN; i++) {
        free(own[i]);
    }
    LS_TRY(status);
    const ls_config_parallel *p = &b->train.config.parallel;
    if (!says(o, "batch.sequences=") && !says(o, "batch.tokens=")) { /* one micro-batch a rank */
        const int64_t data_ranks =
            b->train.session.comm->size / (p->tensor * p->pipeline * p->context);
        b->train.config.batch.sequences =
            b->train.config.batch.micro * (data_ranks > 0 ? data_ranks : 1);
    }
    return LS_OK;
}

/* Random bytes, the same on every rank, enough for a step; each rank has its own copy. */
static ls_status make_data(step_bench *b) {
    const char *base = getenv("TMPDIR");
    snprintf(b->dir, sizeof b->dir, "%s/lockstep-step-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(b->dir)) {
        b->dir[0] = '\0';
        return LS_FAIL(LS_E_IO, "no directory can be made in '%s'; set TMPDIR to one for the data",
                       base && *base ? base : "/tmp");
    }
    const size_t bytes = (size_t)4 << 20;
    char path[600], out[600], *text;
    LS_TRY(ls_path_join(path, sizeof path, b->dir, "text"));
    LS_TRY(ls_path_join(out, sizeof out, b->dir, "shards"));
    LS_TRY(ls_calloc(bytes, 1, &text));
    for (size_t i = 0; i < bytes; i++) {
        text[i] = (char)('a' + (int)(26.0 * ls_rng_uniform(1, 2, i)));
    }
    ls_status status = ls_file_replace(path, text, bytes);
    free(text);
    LS_TRY(status);
    const char *inputs[] = {path};
    ls_prep_result result;
    ls_log_set_quiet(true);
    status = ls_prep_run(&(ls_prep_options){.inputs = inputs,
                                            .input_count = 1,
                                            .out_dir = out,
                                            .jsonl_field = "text",
                                            .shard_tokens = 1 << 28},
                         &result);
    ls_log_set_quiet(false);
    return status;
}

static ls_status set_up(step_bench *b) {
    ls_train *t = &b->train;
    ls_session *s = &t->session;
    LS_TRY(ls_session_agree(s, make_data(b)));
    LS_TRY(ls_session_agree(s, load_config(b)));
    s->attention = t->config.numerics.attention;
    LS_TRY(ls_session_open(s, &t->config.parallel, t->config.run.device, t->config.run.threads));
    LS_TRY(ls_session_connect(s, t->config.parallel.transport));
    ls_status status = ls_dataset_open(t->config.data.dir, LS_SPLIT_TRAIN, t->config.data.sequence,
                                       false, &t->train_data);
    if (status == LS_OK && t->config.model.vocab == 0) {
        t->config.model.vocab = ls_dataset_describe(t->train_data)->vocab;
    }
    if (status == LS_OK) {
        status = ls_layout_init(&t->layout, &t->config, s->dev,
                                ls_session_dtype(t->config.numerics.compute, s->dev), &s->mesh);
    }
    if (status == LS_OK) {
        t->layout.document_token = ls_dataset_document_token(t->train_data);
        t->layout.loss_mask = ls_dataset_is_masked(t->train_data);
        status = ls_layout_plan(&t->layout, &t->planned);
    }
    LS_TRY(ls_session_agree(s, status));
    LS_TRY(ls_train_build(t));
    LS_TRY(ls_session_agree(s, ls_state_init(t->state, 1)));
    const ls_loader_options loader = ls_layout_loader(&t->layout, t->train_data, 0);
    return ls_session_agree(s, ls_loader_create(&loader, &t->loader));
}

static void tear_down(step_bench *b) {
    ls_train *t = &b->train;
    ls_loader_destroy(t->loader);
    ls_train_release(t);
    ls_dataset_close(t->train_data);
    ls_session_close(&t->session);
}

/* --- Measuring --- */

enum { SIDE = 1536, STREAM_ELEMS = 32 << 20, SOFTMAX_COLS = 8192, TIMES = 5 };

/* A square product in the step's dtype, and a pass over memory. */
static ls_status measure_products_and_memory(step_bench *b, void *x, void *y) {
    ls_device *dev = b->train.session.dev;
    const ls_dtype dtype = b->train.layout.dtype;
    const ls_gemm op = {.dtype = dtype,
                        .c_dtype = dtype,
                        .trans_b = true,
                        .m = SIDE,
                        .n = SIDE,
                        .k = SIDE,
                        .a = x,
                        .lda = SIDE,
                        .b = (char *)x + (size_t)SIDE * SIDE * sizeof(float),
                        .ldb = SIDE,
                        .c = y,
                        .ldc = SIDE};
    for (int i = 0; i < TIMES; i++) {
        const uint64_t start = ls_clock_ns();
        LS_TRY(dev->ops->gemm(dev, &op));
        LS_TRY(dev->ops->sync(dev));
        const uint64_t middle = ls_clock_ns();
        LS_TRY(dev->ops->blend(dev, STREAM_ELEMS, 0.5, x, 0.5, y));
        LS_TRY(dev->ops->sync(dev));
        const double flops = 2e9 * SIDE * SIDE * SIDE / (double)(middle - start);
        const double bytes = 3e9 * STREAM_ELEMS * (double)ls_dtype_bytes(dev->acc) /
                             (double)(ls_clock_ns() - middle);
        b->best.flops_per_s = fmax(b->best.flops_per_s, flops);
        b->best.bytes_per_s = fmax(b->best.bytes_per_s, bytes);
    }
    return LS_OK;
}

/* Losses of rows that stay in the caches: for each logit an exponential, and a softmax's part in a
 * maximum and a sum. y is zero, and so are the targets in it. */
static ls_status measure_exponentials(step_bench *b, void *x, void *y) {
    ls_device *dev = b->train.session.dev;
    const int64_t most = STREAM_ELEMS / SOFTMAX_COLS;
    const int64_t rows = !dev->host_memory          ? 1024
                         : dev->threads < most / 16 ? 16 * dev->threads
                                                    : most;
    const ls_cross_entropy op = {.dtype = b->train.layout.dtype,
                                 .rows = rows,
                                 .vocab = SOFTMAX_COLS,
                                 .ld = SOFTMAX_COLS,
                                 .logits = x,
                                 .targets = y,
                                 .losses = (char *)y + (size_t)rows * sizeof(int32_t)};
    for (int i = 0; i < 10 * TIMES; i++) {
        const uint64_t start = ls_clock_ns();
        LS_TRY(dev->ops->cross_entropy(dev, &op));
        LS_TRY(dev->ops->sync(dev));
        const double exps = 1e9 * SOFTMAX_COLS * (double)rows / (double)(ls_clock_ns() - start);
        b->best.exps_per_s = fmax(b->best.exps_per_s, exps);
    }
    return LS_OK;
}

/* Memory is written first: what was never touched may be one page of zeros, and in the cache. */
static ls_status measure_rates(step_bench *b) {
    ls_device *dev = b->train.session.dev;
    const size_t bytes = (size_t)STREAM_ELEMS * ls_dtype_bytes(dev->acc);
    void *x = NULL, *y = NULL;
    ls_status status = dev->ops->alloc(dev, bytes, &x);
    LS_TRY_GOTO(status, out);
    LS_TRY_GOTO(dev->ops->alloc(dev, bytes, &y), out);
    LS_TRY_GOTO(dev->ops->zero(dev, x, bytes), out);
    LS_TRY_GOTO(dev->ops->zero(dev, y, bytes), out);
    b->best.products_apart = dev->products_apart && b->train.layout.dtype == LS_BF16;
    LS_TRY_GOTO(measure_exponentials(b, x, y), out);
    LS_TRY_GOTO(ls_bench_fill_device(dev, dev->acc, y, bytes), out);
    LS_TRY_GOTO(ls_bench_fill_device(dev, dev->acc, x, bytes), out);
    LS_TRY_GOTO(
        ls_bench_fill_device(dev, b->train.layout.dtype, x, 2 * sizeof(float) * SIDE * SIDE), out);
    status = measure_products_and_memory(b, x, y);
out:
    dev->ops->free(dev, x);
    dev->ops->free(dev, y);
    return status;
}

static ls_status one_step(ls_train *t, ls_step_result *result) {
    const ls_step_options options = {.runner = t->runner,
                                     .state = t->state,
                                     .loader = t->loader,
                                     .dataset = t->train_data,
                                     .seed = 1,
                                     .batch = t->layout.batch,
                                     .zero = (int)t->config.parallel.zero};
    double norm;
    LS_TRY(ls_step_run(&options, t->step++ * t->layout.batch, result));
    const void *grads = ls_state_buffers_of(t->state).grads;
    LS_TRY(ls_optim_grad_norm(t->optim, grads, &norm));
    LS_TRY(ls_optim_step(t->optim, grads, norm, t->config.optim.lr));
    return ls_state_share(t->state);
}

/* The first step pays for page faults and scratch memory: it is not counted. */
static ls_status measure_steps(step_bench *b) {
    ls_train *t = &b->train;
    ls_comm *comm = t->session.comm;
    ls_step_result result;
    ls_log_progress(false, "first step");
    LS_TRY(one_step(t, &result));
    LS_TRY(comm->ops->barrier(comm));
    ls_timed_ops_clear();
    ls_timed_ops_begin(t->session.dev);
    ls_timed_comm_begin(t->groups.tensor, "tensor ranks");
    ls_timed_comm_begin(t->groups.context, "context ranks");
    const uint64_t start = ls_clock_ns();
    ls_status status = LS_OK;
    for (long long i = 0; i < b->options->repeat && status == LS_OK; i++) {
        ls_log_progress(false, "step %lld of %lld", i + 1, b->options->repeat);
        status = one_step(t, &result);
        for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
            b->comm_seconds += 1e-9 * (double)result.comm_ns[a];
        }
        b->data_seconds += 1e-9 * (double)result.data_ns;
    }
    const double steps = (double)b->options->repeat;
    b->seconds = 1e-9 * (double)(ls_clock_ns() - start) / steps;
    b->comm_seconds /= steps;
    b->data_seconds /= steps;
    ls_timed_comm_end(t->groups.context);
    ls_timed_comm_end(t->groups.tensor);
    ls_timed_ops_end(t->session.dev);
    ls_log_progress(true, "timed %lld steps", b->options->repeat);
    return status;
}

/* --- Printing --- */

static int by_time(const void *a, const void *b) {
    double x = ((const ls_op_time *)a)->seconds, y = ((const ls_op_time *)b)->seconds;
    return (x < y) - (x > y);
}

/* The least time of all calls at the best rates. Products and exponentials take turns on the same
 * units, unless the device has others for products. */
static double floor_of(const ls_op_time *row, rates best) {
    const double products = row->flops / best.flops_per_s, exps = row->exps / best.exps_per_s;
    const double arithmetic = best.products_apart ? fmax(products, exps) : products + exps;
    return fmax(arithmetic, row->bytes / best.bytes_per_s);
}

/* Rows sorted by time, of one step. Caller frees. */
static ls_status sort_rows(step_bench *b, ls_op_time **sorted, int *count) {
    const ls_op_time *rows = ls_timed_ops_rows(count);
    LS_TRY(ls_calloc((size_t)*count + 1, sizeof **sorted, sorted));
    memcpy(*sorted, rows, (size_t)*count * sizeof *rows);
    const double steps = (double)b->options->repeat;
    for (int i = 0; i < *count; i++) {
        ls_op_time *row = &(*sorted)[i];
        b->best.flops_per_s = strcmp(row->group, "gemm") == 0
                                  ? fmax(b->best.flops_per_s, row->flops / row->seconds)
                                  : b->best.flops_per_s;
        row->seconds /= steps;
        row->flops /= steps;
        row->exps /= steps;
        row->bytes /= steps;
        row->calls /= b->options->repeat;
    }
    qsort(*sorted, (size_t)*count, sizeof **sorted, by_time);
    return LS_OK;
}

static void print_row(const char *name, long long calls, double seconds, double floor_seconds,
                      double step_seconds) {
    char time[32], least[32] = "", share[16] = "";
    if (floor_seconds > 0.0) {
        ls_text_duration(least, sizeof least, floor_seconds);
        snprintf(share, sizeof share, "%.0f%%", 100.0 * floor_seconds / seconds);
    }
    printf("%-34s %6lld %9s %6.1f%% %9s %8s\n", name, calls,
           ls_text_duration(time, sizeof time, seconds), 100.0 * seconds / step_seconds, least,
           share);
}

static void print_table(const step_bench *b, const ls_op_time *rows, int count, double inside,
                        double floor_seconds) {
    const ls_layout *l = &b->train.layout;
    char time[32], rate[32];
    printf("%s, %lld sequences of %lld tokens in micro-batches of %lld, %s, %s, %d rank%s\n%s\n",
           b->options->model, (long long)l->batch, (long long)l->seq,
           (long long)b->train.config.batch.micro, ls_dtype_name(l->dtype),
           b->train.config.optim.name, b->train.session.comm->size,
           b->train.session.comm->size == 1 ? "" : "s", b->train.session.dev->describe);
    printf(
        "step %s, %s tokens/s; at best products %.1f GFLOP/s, exponentials %.1f G/s, memory %.1f "
        "GB/s\n\n",
        ls_text_duration(time, sizeof time, b->seconds),
        ls_text_count(rate, sizeof rate, (double)(l->batch * l->seq) / b->seconds),
        b->best.flops_per_s * 1e-9, b->best.exps_per_s * 1e-9, b->best.bytes_per_s * 1e-9);
    printf("%-34s %6s %9s %7s %9s %8s\n", "operation", "calls", "time", "step", "floor",
           "achieved");
    for (int i = 0; i < count; i++) {
        print_row(rows[i].name, (long long)rows[i].calls, rows[i].seconds,
                  floor_of(&rows[i], b->best), b->seconds);
    }
    print_row("gradients and stages, exposed", 0, b->comm_seconds, 0.0, b->seconds);
    print_row("data", 0, b->data_seconds, 0.0, b->seconds);
    print_row("all operations", 0, inside, floor_seconds, b->seconds);
    print_row("between operations, other waits", 0, b->seconds - inside, 0.0, b->seconds);
}

static ls_status print_json(const step_bench *b, const ls_op_time *rows, int count, double inside,
                            double floor_seconds) {
    const ls_layout *l = &b->train.layout;
    json_t *list = json_array();
    for (int i = 0; i < count; i++) {
        const ls_op_time *r = &rows[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f}", "name", r->name,
                                        "group", r->group, "calls", (json_int_t)r->calls, "seconds",
                                        r->seconds, "flops", r->flops, "exps", r->exps, "bytes",
                                        r->bytes, "floor_seconds", floor_of(r, b->best)));
    }
    json_t *json = json_pack(
        "{s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, "
        "s:o}",
        "schema", 1, "model", b->options->model, "device", b->train.session.dev->describe, "dtype",
        ls_dtype_name(l->dtype), "optimizer", b->train.config.optim.name, "ranks",
        b->train.session.comm->size, "threads", b->train.session.threads, "batch",
        (json_int_t)l->batch, "seq", (json_int_t)l->seq, "seconds", b->seconds, "comm_seconds",
        b->comm_seconds, "data_seconds", b->data_seconds, "operation_seconds", inside,
        "floor_seconds", floor_seconds, "best_flops_per_s", b->best.flops_per_s, "exps_per_s",
        b->best.exps_per_s, "bytes_per_s", b->best.bytes_per_s, "operations", list);
    return ls_json_print(json, LS_JSON_ALL_DIGITS);
}

static ls_status report(step_bench *b) {
    ls_op_time *rows;
    int count;
    LS_TRY(sort_rows(b, &rows, &count));
    double inside = 0.0, floor_seconds = 0.0;
    for (int i = 0; i < count; i++) {
        inside += rows[i].seconds;
        floor_seconds += floor_of(&rows[i], b->best);
    }
    ls_status status = LS_OK;
    if (b->options->json) {
        status = print_json(b, rows, count, inside, floor_seconds);
    } else {
        print_table(b, rows, count, inside, floor_seconds);
    }
    free(rows);
    return status;
}

ls_status ls_bench_step(const ls_bench_step_options *options) {
    static step_bench b; /* large, and one a process */
    b.options = options;
    LS_TRY(ls_session_begin(&b.train.session, NULL, NULL));
    ls_status status = set_up(&b);
    if (status == LS_OK) {
        status = ls_session_agree(&b.train.session, measure_rates(&b));
    }
    if (status == LS_OK) {
        status = measure_steps(&b);
    }
    if (status == LS_OK && b.train.session.comm->rank == 0) {
        status = report(&b);
    }
    if (b.dir[0]) {
        ls_status removed = ls_dir_remove(b.dir);
        status = status == LS_OK ? removed : status;
    }
    if (status == LS_OK || ls_session_failure_shared()) {
        tear_down(&b);
    }
    return status;
}
