#include "launch/timed_ops.h"

#include "runtime/base/clock.h"
#include "runtime/device/check.h"

#include <stdio.h>
#include <string.h>

enum { MAX_ROWS = 128 };

static const ls_device_ops *real;
static ls_device_ops timed;
static ls_op_time rows[MAX_ROWS];
static int row_count;

static ls_op_time *find_row(const char *group, const char *name) {
    for (int i = 0; i < row_count; i++) {
        if (strcmp(rows[i].name, name) == 0) {
            return &rows[i];
        }
    }
    if (row_count == MAX_ROWS) {
        return &rows[MAX_ROWS - 1];
    }
    ls_op_time *row = &rows[row_count++];
    *row = (ls_op_time){.group = row_count == MAX_ROWS ? "others" : group};
    snprintf(row->name, sizeof row->name, "%s", row_count == MAX_ROWS ? "others" : name);
    return row;
}

static ls_status count_exps(ls_status status, ls_device *dev, uint64_t start, const char *group,
                            const char *name, double flops, double exps, double bytes) {
    if (status == LS_OK) {
        status = real->sync(dev);
    }
    ls_op_time *row = find_row(group, name);
    row->seconds += 1e-9 * (double)(ls_clock_ns() - start);
    row->calls++;
    row->flops += flops;
    row->exps += exps;
    row->bytes += bytes;
    return status;
}

static ls_status count(ls_status status, ls_device *dev, uint64_t start, const char *group,
                       const char *name, double flops, double bytes) {
    return count_exps(status, dev, start, group, name, flops, 0.0, bytes);
}

/* An operation with one structure; `elem` and `acc` are the bytes of op->dtype and of dev->acc. */
#define TIMED_EXPS(slot, type, group, name, flops, exps, bytes)                                    \
    static ls_status timed_##slot(ls_device *dev, const type *op) {                                \
        const double elem = (double)ls_dtype_bytes(op->dtype);                                     \
        const double acc = (double)ls_dtype_bytes(dev->acc);                                       \
        const uint64_t start = ls_clock_ns();                                                      \
        (void)elem, (void)acc;                                                                     \
        return count_exps(real->slot(dev, op), dev, start, group, name, flops, exps, bytes);       \
    }
#define TIMED_BY_DTYPE(slot, type, group, name, flops, bytes)                                      \
    TIMED_EXPS(slot, type, group, name, flops, 0.0, bytes)
/* Of acc, with a rounded copy perhaps; `moved` numbers of acc for each of n elements. */
#define TIMED_UPDATE(slot, type, name, moved, copies)                                              \
    static ls_status timed_##slot(ls_device *dev, const type *op) {                                \
        const double acc = (double)ls_dtype_bytes(dev->acc);                                       \
        const double copy = (copies) ? (double)ls_dtype_bytes(op->copy_dtype) : 0.0;               \
        const uint64_t start = ls_clock_ns();                                                      \
        return count(real->slot(dev, op), dev, start, "optimizer", name, 0.0,                      \
                     (double)op->n * ((moved)*acc + copy));                                        \
    }

static ls_status timed_gemm(ls_device *dev, const ls_gemm *op) {
    const double m = (double)op->m, n = (double)op->n, k = (double)op->k;
    const double c_passes = 1.0 + (op->accumulate ? 1.0 : 0.0) + (op->residual ? 1.0 : 0.0);
    const double bytes = (m * k + k * n) * (double)ls_dtype_bytes(op->dtype) +
                         m * n * c_passes * (double)ls_dtype_bytes(op->c_dtype);
    const char *form = op->trans_a ? "dW" : op->trans_b ? "forward" : "dX";
    char name[48];
    snprintf(name, sizeof name, "gemm %s %lldx%lldx%lld", form, (long long)op->m, (long long)op->n,
             (long long)op->k);
    const uint64_t start = ls_clock_ns();
    return count(real->gemm(dev, op), dev, start, "gemm", name, 2.0 * m * n * k, bytes);
}

/* Pairs of a query and a key that it sees, over heads and the batch; of documents in the memory of
 * a GPU, as if there were one. */
static double visible_pairs(const ls_device *dev, const ls_attention *op) {
    const bool masked = op->first_key && dev->host_memory;
    double pairs = 0.0;
    for (int64_t t = 0; t < op->batch * op->q_len; t++) {
        const int64_t b = t / op->q_len, row = t % op->q_len;
        pairs +=
            (double)(ls_attention_visible(op, row) - (masked ? ls_attention_first(op, b, row) : 0));
    }
    return pairs * (double)op->heads;
}

static double attention_bytes(const ls_attention *op, double passes, double elem) {
    const double q = (double)op->batch * (double)op->q_len * (double)op->heads;
    const double kv = (double)op->batch * (double)op->kv_len * (double)op->kv_heads;
    return passes * (q + kv) * (double)op->head_dim * elem;
}

static double norm_bytes(const ls_norm *op, double passes, double elem) {
    return passes * (double)op->rows * (double)op->channels * elem;
}

static double embedding_bytes(const ls_embedding *op, double each) {
    return (double)op->rows * (double)op->channels * each;
}

static double gates(const ls_swiglu *op) {
    return (double)op->rows * (double)op->ffn;
}

static double logits(const ls_cross_entropy *op) {
    return (double)op->rows * (double)op->vocab;
}

/* Read, and their gradients written. */
static double logits_bytes(const ls_cross_entropy *op, double elem, double acc, bool gradients) {
    return logits(op) * ((op->narrow ? elem : acc) + (gradients ? elem : 0.0));
}

/* Rows of the experts' outputs (or their gradients), and the sums; backward reads the former too.
 */
static double combine_bytes(const ls_combine *op, double elem) {
    const double passes =
        (double)op->each * (op->dy ? 2.0 : 1.0) + 1.0 + (op->residual ? 1.0 : 0.0);
    return passes * (double)op->rows * (double)op->cols * elem;
}

TIMED_BY_DTYPE(bias_grad, ls_bias_grad, "norm", "bias gradient", 0.0,
               (double)op->rows *(double)op->cols *elem + 2.0 * acc * (double)op->cols)
TIMED_BY_DTYPE(embedding_forward, ls_embedding, "embedding", "embedding forward", 0.0,
               embedding_bytes(op, (op->wpe ? 3.0 : 2.0) * elem))
TIMED_BY_DTYPE(embedding_backward, ls_embedding, "embedding", "embedding backward", 0.0,
               embedding_bytes(op, elem + (op->dwpe ? 4.0 : 2.0) * acc))
TIMED_BY_DTYPE(norm_forward, ls_norm, "norm", "norm forward", 0.0, norm_bytes(op, 2.0, elem))
TIMED_BY_DTYPE(norm_backward, ls_norm, "norm", "norm backward", 0.0,
               norm_bytes(op, op->dresidual ? 4.0 : 3.0, elem))
TIMED_BY_DTYPE(rope, ls_rope, "activation", "rope", 0.0,
               2.0 * elem * (double)op->rows * (double)(op->heads * op->head_dim))
TIMED_EXPS(gelu_forward, ls_gelu, "activation", "gelu forward", 0.0, (double)op->n,
           2.0 * elem * (double)op->n)
TIMED_EXPS(gelu_backward, ls_gelu, "activation", "gelu backward", 0.0, (double)op->n,
           3.0 * elem * (double)op->n)
TIMED_EXPS(swiglu_forward, ls_swiglu, "activation", "swiglu forward", 0.0, gates(op),
           3.0 * elem * gates(op))
TIMED_EXPS(swiglu_backward, ls_swiglu, "activation", "swiglu backward", 0.0, gates(op),
           5.0 * elem * gates(op))
TIMED_EXPS(attention_forward, ls_attention, "attention", "attention forward",
           4.0 * visible_pairs(dev, op) * (double)op->head_dim, visible_pairs(dev, op),
           attention_bytes(op, 2.0, elem))
TIMED_EXPS(attention_backward, ls_attention, "attention", "attention backward",
           10.0 * visible_pairs(dev, op) * (double)op->head_dim, visible_pairs(dev, op),
           attention_bytes(op, 4.0, elem))
TIMED_EXPS(cross_entropy, ls_cross_entropy, "loss", "cross-entropy", 0.0, logits(op),
           logits_bytes(op, elem, acc, op->dlogits != NULL))
TIMED_EXPS(cross_entropy_share, ls_cross_entropy, "loss", "cross-entropy share", 0.0, logits(op),
           logits_bytes(op, elem, acc, false))
TIMED_EXPS(cross_entropy_merge, ls_cross_entropy, "loss", "cross-entropy merge", 0.0, logits(op),
           logits_bytes(op, elem, acc, op->dlogits != NULL))
TIMED_BY_DTYPE(copy_rows, ls_copy_rows, "copies", "copy of rows", 0.0,
               (op->add ? 3.0 : 2.0) * elem * (double)op->rows * (double)op->cols)
TIMED_BY_DTYPE(route_forward, ls_route, "mixture", "route forward", 0.0,
               2.0 * elem * (double)op->rows * (double)op->experts)
TIMED_BY_DTYPE(route_backward, ls_route, "mixture", "route backward", 0.0,
               2.0 * elem * (double)op->rows * (double)op->experts)
TIMED_BY_DTYPE(select_rows, ls_select_rows, "mixture", "select rows", 0.0,
               2.0 * elem * (double)op->rows * (double)op->cols)
TIMED_BY_DTYPE(combine_forward, ls_combine, "mixture", "combine forward", 0.0,
               combine_bytes(op, elem))
TIMED_BY_DTYPE(combine_backward, ls_combine, "mixture", "combine backward", 0.0,
               combine_bytes(op, elem))
TIMED_UPDATE(adamw, ls_adamw, "adamw", 7.0, op->copy)
TIMED_UPDATE(lion, ls_lion, "lion", 5.0, op->copy)
TIMED_UPDATE(sgd, ls_sgd, "sgd", op->m ? 5.0 : 3.0, op->copy)
TIMED_UPDATE(adafactor_squares, ls_adafactor, "adafactor squares", op->v ? 3.0 : 1.0, false)
TIMED_UPDATE(adafactor_apply, ls_adafactor, "adafactor apply", 3.0, op->copy)

static ls_status timed_adafactor_norm(ls_device *dev, const ls_adafactor *op, double *sum) {
    const uint64_t start = ls_clock_ns();
    return count(real->adafactor_norm(dev, op, sum), dev, start, "optimizer", "adafactor norm", 0.0,
                 (double)op->n * (double)ls_dtype_bytes(dev->acc));
}

static ls_status timed_blend(ls_device *dev, int64_t n, double a, const void *x, double b,
                             void *y) {
    const uint64_t start = ls_clock_ns();
    return count(real->blend(dev, n, a, x, b, y), dev, start, "optimizer", "blend", 0.0,
                 (b == 0.0 ? 2.0 : 3.0) * (double)n * (double)ls_dtype_bytes(dev->acc));
}

static ls_status timed_add(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    const uint64_t start = ls_clock_ns();
    return count(real->add(dev, dtype, n, x, y), dev, start, "copies", "add", 0.0,
                 3.0 * (double)n * (double)ls_dtype_bytes(dtype));
}

static ls_status timed_cast(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    const uint64_t start = ls_clock_ns();
    return count(real->cast(dev, dtype, n, x, y), dev, start, "copies", "cast", 0.0,
                 (double)n * (double)(ls_dtype_bytes(dtype) + ls_dtype_bytes(dev->acc)));
}

static ls_status timed_widen(ls_device *dev, ls_dtype dtype, int64_t n, const void *x, void *y) {
    const uint64_t start = ls_clock_ns();
    return count(real->widen(dev, dtype, n, x, y), dev, start, "copies", "widen", 0.0,
                 (double)n * (double)(ls_dtype_bytes(dtype) + ls_dtype_bytes(dev->acc)));
}

static ls_status timed_sum_squares(ls_device *dev, int64_t first, int64_t n, const void *x,
                                   double *sums) {
    const uint64_t start = ls_clock_ns();
    return count(real->sum_squares(dev, first, n, x, sums), dev, start, "optimizer",
                 "gradient norm", 0.0, (double)n * (double)ls_dtype_bytes(dev->acc));
}

static ls_status timed_sum(ls_device *dev, int64_t n, const void *x, double *sum) {
    const uint64_t start = ls_clock_ns();
    return count(real->sum(dev, n, x, sum), dev, start, "loss", "sum of losses", 0.0,
                 (double)n * (double)ls_dtype_bytes(dev->acc));
}

static ls_status timed_zero(ls_device *dev, void *memory, size_t bytes) {
    const uint64_t start = ls_clock_ns();
    return count(real->zero(dev, memory, bytes), dev, start, "copies", "zero", 0.0, (double)bytes);
}

void ls_timed_ops_begin(ls_device *dev) {
    real = dev->ops;
    timed = *real;
#define USE(slot) timed.slot = timed_##slot
    USE(gemm), USE(bias_grad), USE(embedding_forward), USE(embedding_backward);
    USE(norm_forward), USE(norm_backward), USE(rope), USE(gelu_forward), USE(gelu_backward);
    USE(swiglu_forward), USE(swiglu_backward), USE(attention_forward), USE(attention_backward);
    USE(cross_entropy), USE(cross_entropy_share), USE(cross_entropy_merge), USE(copy_rows);
    USE(route_forward), USE(route_backward), USE(select_rows), USE(combine_forward);
    USE(combine_backward);
    USE(adamw), USE(lion), USE(sgd), USE(adafactor_squares), USE(adafactor_norm);
    USE(adafactor_apply), USE(blend), USE(add), USE(cast), USE(widen), USE(sum_squares);
    USE(sum), USE(zero);
#undef USE
    dev->ops = &timed;
}

void ls_timed_ops_end(ls_device *dev) {
    dev->ops = real;
}

enum { MAX_COMMS = 4 };

static struct timed_comm {
    ls_comm *comm;
    const char *name;
    const ls_comm_ops *real;
    ls_comm_ops ops;
} comms[MAX_COMMS];

static struct timed_comm *find_comm(const ls_comm *comm) {
    for (int i = 0; i < MAX_COMMS; i++) {
        if (comms[i].comm == comm) {
            return &comms[i];
        }
    }
    return NULL;
}

/* Adds the time since start to a row of the communicator. */
static ls_status count_comm(ls_status status, const struct timed_comm *c, uint64_t start,
                            const char *call) {
    char name[48];
    snprintf(name, sizeof name, "%s %s", c->name, call);
    ls_op_time *row = find_row("communication", name);
    row->seconds += 1e-9 * (double)(ls_clock_ns() - start);
    row->calls++;
    return status;
}

static ls_status timed_all_reduce(ls_comm *comm, void *buf, int64_t n, ls_dtype dtype,
                                  ls_reduce op) {
    const struct timed_comm *c = find_comm(comm);
    const uint64_t start = ls_clock_ns();
    return count_comm(c->real->all_reduce(comm, buf, n, dtype, op), c, start, "all-reduce");
}

static ls_status timed_all_gather(ls_comm *comm, const void *send, void *recv, int64_t bytes) {
    const struct timed_comm *c = find_comm(comm);
    const uint64_t start = ls_clock_ns();
    return count_comm(c->real->all_gather(comm, send, recv, bytes), c, start, "all-gather");
}

static ls_status timed_wait(ls_comm *comm, ls_comm_request *request) {
    const struct timed_comm *c = find_comm(comm);
    const uint64_t start = ls_clock_ns();
    return count_comm(c->real->wait(comm, request), c, start, "wait");
}

void ls_timed_comm_begin(ls_comm *comm, const char *name) {
    struct timed_comm *c = comm ? find_comm(NULL) : NULL;
    if (!c) {
        return;
    }
    *c = (struct timed_comm){.comm = comm, .name = name, .real = comm->ops, .ops = *comm->ops};
    c->ops.all_reduce = timed_all_reduce;
    c->ops.all_gather = timed_all_gather;
    c->ops.wait = timed_wait;
    comm->ops = &c->ops;
}

void ls_timed_comm_end(ls_comm *comm) {
    struct timed_comm *c = comm ? find_comm(comm) : NULL;
    if (c) {
        comm->ops = c->real;
        *c = (struct timed_comm){0};
    }
}

void ls_timed_ops_clear(void) {
    row_count = 0;
}

const ls_op_time *ls_timed_ops_rows(int *count_out) {
    *count_out = row_count;
    return rows;
}
