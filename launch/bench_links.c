/* Operations of one host as a step makes them. */
#include "launch/bench_links.h"

#include "collectives/meter.h"
#include "launch/bench_call.h"
#include "launch/bench_fill.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/sort.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Products of ROWS tokens with a matrix of WIDTH x WIDTH stand for a step's: their weights, and in
 * a backward pass activations, come from memory that no cache holds all of; their results are what
 * operations carry. A gradient of such a matrix has SLICE_BYTES. Sizes of activations, from small
 * sums to rows of many tokens; of gradients; and of a block's weights; 0: no more. */
enum { SIZES = 5, ROWS = 256, WIDTH = 512, DEPTH = 2 * WIDTH, WEIGHT_ELEMS = 32 << 20 };
enum {
    SLICE_BYTES = 4 * WIDTH * WIDTH,
    GRAD_BYTES = 96 << 20,
    BESIDE = 8,
    APART = 4,
    CALLS = BESIDE + 2,
    KEPT_BYTES = 64 << 20,
    SUMS_BYTES = 4 << 20
};
#define ACTIVATION_SIZES                                                                           \
    { 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20 }
static const int64_t sizes[LS_USE_COUNT][SIZES] = {[LS_USE_ACTIVATIONS] = ACTIVATION_SIZES,
                                                   [LS_USE_BESIDE] = ACTIVATION_SIZES,
                                                   [LS_USE_KEPT] = ACTIVATION_SIZES,
                                                   [LS_USE_STATE] = {2 << 20, 6 << 20, 24 << 20},
                                                   [LS_USE_LAST] = {2 << 20, 6 << 20, 24 << 20},
                                                   [LS_USE_BLOCKS] = {1 << 20, 3 << 20, 9 << 20}};

/* About so many products lie between two operations on a layer's activations: sums over tensor
 * ranks, the gathers and scatters that take their place with sequence-sharded norms, exchanges of
 * keys among context ranks, messages to the next stage. */
static const int between[LS_COLL_COUNT] = {[LS_COLL_ALL_REDUCE] = 4,
                                           [LS_COLL_REDUCE_SCATTER] = 3,
                                           [LS_COLL_ALL_GATHER] = 1,
                                           [LS_COLL_ALL_TO_ALL] = 10,
                                           [LS_COLL_SEND_RECV] = 3};

/* And so many beside one that they hide, or between looks at it. */
static const int beside[LS_COLL_COUNT] = {[LS_COLL_ALL_REDUCE] = 3,
                                          [LS_COLL_REDUCE_SCATTER] = 2,
                                          [LS_COLL_ALL_GATHER] = 2,
                                          [LS_COLL_ALL_TO_ALL] = 3,
                                          [LS_COLL_SEND_RECV] = 3};

/* All are gone through PASSES times, since a machine is faster in one second than in the next: so
 * every figure is of all of them. The first of a pass has what it uses brought into caches. */
enum { PASSES = 4, REPEATS = 5, TIMES = PASSES * (REPEATS - 1) };

/* A rank's main thread is in a call for the operation from begin to end, in seconds of the host's
 * clock; of a wait, in moved_s of them it moves data. */
typedef struct call {
    double begin_s, end_s, moved_s;
} call;

typedef struct bench {
    ls_comm *comm;
    ls_device *dev;
    ls_dtype dtype;
    char *grads, *weights, *windows[2]; /* from comm */
    ls_arena private;
    char *own[2], *rows, *out; /* private, as activations and sums of gradients are */
    char *kept;                /* KEPT_BYTES, private */
    int64_t kept_end;          /* of what was used of it last */
    int64_t place;             /* of the next weights, in elements */
    int64_t sums_end;
    int64_t grads_end; /* of the last gradients, in bytes */
    call *calls;       /* [ranks][REPEATS][CALLS]: the start, looks, and the wait last */
} bench;

typedef struct row {
    ls_comm_use use;
    ls_bench_call call;
    char *send, *recv;
    double seconds[SIZES][TIMES];
} row;

static int count_of(const int64_t of[SIZES]) {
    int count = 0;
    while (count < SIZES && of[count] > 0) {
        count++;
    }
    return count;
}

static int64_t largest(ls_comm_use use) {
    return sizes[use][count_of(sizes[use]) - 1];
}

static bool carries_rows(ls_comm_use use) {
    return use == LS_USE_ACTIVATIONS || use == LS_USE_BESIDE || use == LS_USE_KEPT;
}

/* Products */

static int64_t weight_bytes(const bench *b, int64_t elems) {
    return elems * (int64_t)ls_dtype_bytes(b->dtype);
}

static char *next_weights(bench *b, int64_t elems) {
    b->place = b->place + elems > WEIGHT_ELEMS ? 0 : b->place;
    b->place += elems;
    return b->weights + weight_bytes(b, b->place - elems);
}

/* Those of a whole model are more than caches hold, but those that are sent on at once (ZeRO 2 and
 * 3) have two places by turns. */
static char *next_grads(bench *b, ls_coll coll, int64_t bytes) {
    const int64_t end = coll == LS_COLL_ALL_TO_ALL ? 2 * bytes : GRAD_BYTES;
    b->grads_end = b->grads_end + bytes > end ? bytes : b->grads_end + bytes;
    return b->grads + b->grads_end - bytes;
}

/* What no cache holds any more. */
static char *next_kept(bench *b, int64_t bytes) {
    b->kept_end = b->kept_end + bytes > KEPT_BYTES ? bytes : b->kept_end + bytes;
    return b->kept + b->kept_end - bytes;
}

/* Each layer of a forward pass keeps its own. */
static char *next_sums(bench *b, int64_t bytes) {
    b->sums_end = b->sums_end + bytes > SUMS_BYTES ? bytes : b->sums_end + bytes;
    return b->own[1] + b->sums_end - bytes;
}

/* y[rows, WIDTH] = x [rows, depth] times `weights`. */
static ls_status product(const bench *b, int64_t rows, int64_t depth, const void *x,
                         const void *weights, void *y) {
    return b->dev->ops->gemm(b->dev, &(ls_gemm){.dtype = b->dtype,
                                                .c_dtype = b->dtype,
                                                .trans_b = true,
                                                .m = rows,
                                                .n = WIDTH,
                                                .k = depth,
                                                .a = x,
                                                .lda = depth,
                                                .b = weights,
                                                .ldb = depth,
                                                .c = y,
                                                .ldc = WIDTH});
}

/* A layer's work between two operations. */
static ls_status products(bench *b, int count) {
    for (int i = 0; i < count; i++) {
        LS_TRY(product(b, ROWS, WIDTH, b->rows, next_weights(b, WIDTH * WIDTH), b->out));
    }
    return LS_OK;
}

/* The results of products, `bytes` of them, after those before the operation. Those whose sums go
 * on beside others, a backward pass's, are of more columns (q, k and v; gate and up) than a row has
 * channels, and leave less of their results in caches. */
static ls_status compute_rows(bench *b, ls_comm_use use, ls_coll coll, char *to, int64_t bytes) {
    const int64_t row_bytes = weight_bytes(b, WIDTH);
    const bool sums = coll == LS_COLL_ALL_REDUCE || coll == LS_COLL_REDUCE_SCATTER;
    const int64_t depth = use == LS_USE_BESIDE && sums ? DEPTH : WIDTH;
    LS_TRY(products(b, between[coll]));
    for (int64_t done = 0, left = bytes / row_bytes; left > 0; left -= ROWS, done += ROWS) {
        LS_TRY(product(b, left < ROWS ? left : ROWS, depth, b->rows, next_weights(b, WIDTH * depth),
                       to + done * row_bytes));
    }
    return LS_OK;
}

/* What a layer computes element by element for each SLICE_BYTES of gradients reads and writes about
 * as much as this. */
static ls_status elementwise(bench *b) {
    const int64_t elems = SLICE_BYTES / 16;
    return b->dev->ops->add(b->dev, LS_F32, elems, next_kept(b, 4 * elems),
                            next_kept(b, 4 * elems));
}

/* A backward pass, matrix by matrix: the gradient of the activations and that of the weights, from
 * activations that were kept since the forward pass. */
static ls_status compute_grads(bench *b, char *to, int64_t bytes) {
    for (int64_t done = 0; done < bytes; done += SLICE_BYTES) {
        const char *dy = next_weights(b, ROWS * WIDTH), *x = next_weights(b, ROWS * WIDTH);
        LS_TRY(elementwise(b));
        LS_TRY(product(b, ROWS, WIDTH, dy, next_weights(b, WIDTH * WIDTH), b->out));
        LS_TRY(b->dev->ops->gemm(b->dev, &(ls_gemm){.dtype = b->dtype,
                                                    .c_dtype = LS_F32,
                                                    .trans_a = true,
                                                    .accumulate = true,
                                                    .m = WIDTH,
                                                    .n = WIDTH,
                                                    .k = ROWS,
                                                    .a = dy,
                                                    .lda = WIDTH,
                                                    .b = x,
                                                    .ldb = WIDTH,
                                                    .c = to + done,
                                                    .ldc = WIDTH}));
    }
    return LS_OK;
}

/* Of other matrices. */
static ls_status compute_other_grads(bench *b, int slices) {
    for (int i = 0; i < slices; i++) {
        LS_TRY(compute_grads(b, next_kept(b, SLICE_BYTES), SLICE_BYTES));
    }
    return LS_OK;
}

/* What an update does to caches: reads and writes memory. */
static void update(bench *b) {
    volatile uint64_t none = 0; /* they stay what they are */
    uint64_t *at = (uint64_t *)(void *)b->weights;
    const uint64_t words = (uint64_t)weight_bytes(b, WEIGHT_ELEMS) / 8, added = none;
    for (uint64_t i = 0; i < words; i++) {
        at[i] += added;
    }
}

/* Before the operation, whose buffers may be other ones each time; and while it is on its way. */
static ls_status work_before(bench *b, row *r, const ls_bench_shape *s) {
    const int64_t elem = (int64_t)ls_dtype_bytes(r->call.dtype);
    if (r->use == LS_USE_KEPT) {
        r->send = next_kept(b, s->send * elem);
        r->recv = r->call.coll == LS_COLL_ALL_REDUCE ? r->send : b->own[1];
        return products(b, beside[r->call.coll]);
    }
    if (carries_rows(r->use)) {
        if (r->call.coll == LS_COLL_ALL_TO_ALL) { /* keys of before another layer's attention */
            r->recv = next_kept(b, s->recv * elem);
        }
        if (r->call.coll == LS_COLL_REDUCE_SCATTER && r->use == LS_USE_ACTIVATIONS) {
            r->recv = next_sums(b, s->recv * elem);
        }
        return compute_rows(b, r->use, r->call.coll, r->send, s->send * elem);
    }
    if (r->call.coll == LS_COLL_SEND_RECV) { /* a whole step's, of a tied embedding */
        r->send = next_grads(b, r->call.coll, s->send * elem);
        r->recv = next_kept(b, s->recv * elem);
        return products(b, beside[r->call.coll]);
    }
    if (r->call.coll != LS_COLL_ALL_GATHER) {
        r->send = next_grads(b, r->call.coll, s->all * elem);
        r->recv = r->call.coll == LS_COLL_ALL_REDUCE ? r->send
                  : r->call.coll == LS_COLL_REDUCE_SCATTER
                      ? r->send + s->block * elem * b->comm->rank
                      : b->own[1];
        /* The last are mostly an embedding's, few of whose rows a cache holds then. */
        if (r->use == LS_USE_LAST) {
            return compute_other_grads(b, 1);
        }
        /* Ranks of a step are some ms apart: no cache holds what one reads of the other, but the
         * rank's own it has just computed. */
        LS_TRY(compute_other_grads(b, b->comm->rank % 2 == 1 ? APART : 0));
        return compute_grads(b, r->send, s->all * elem);
    }
    char *const place = next_weights(b, s->all);
    if (r->use == LS_USE_BLOCKS) {
        r->send = place;
        r->recv = r->recv == b->windows[0] ? b->windows[1] : b->windows[0];
        return LS_OK;
    }
    update(b);
    r->recv = place;
    r->send = place + s->block * elem * b->comm->rank;
    return LS_OK;
}

static double now_s(void) {
    return 1e-9 * (double)ls_clock_ns();
}

static double moved_s(void) {
    return 1e-9 * (double)ls_meter_moved_ns();
}

/* Products between which what is on its way is looked after: with gradients, another matrix's of
 * the backward pass, which take their part of the memory's bandwidth. */
static ls_status look_after(bench *b, ls_comm_use use, int count, ls_comm_request *requests[2],
                            call *looks) {
    for (int i = 0; i < count; i++) {
        LS_TRY(use == LS_USE_STATE ? compute_other_grads(b, 1) : products(b, 1));
        looks[i].begin_s = now_s();
        for (int k = 0; k < 2; k++) {
            bool done = false;
            LS_TRY(requests[k] ? b->comm->ops->test(b->comm, requests[k], &done) : LS_OK);
            requests[k] = done ? NULL : requests[k];
        }
        looks[i].end_s = now_s();
    }
    return LS_OK;
}

/* What a step computes then. It looks after gradients and messages to other stages; rows of tensor
 * and context ranks it only waits for, and gradients that two stages exchange at once. */
static ls_status work_beside(bench *b, const row *r, const ls_bench_shape *s,
                             ls_comm_request *requests[2], call *looks) {
    if (r->use == LS_USE_STATE && r->call.coll != LS_COLL_ALL_GATHER &&
        r->call.coll != LS_COLL_SEND_RECV) {
        return look_after(b, r->use, BESIDE, requests, looks);
    }
    if (r->use == LS_USE_BESIDE || r->use == LS_USE_KEPT) {
        return r->call.coll == LS_COLL_SEND_RECV
                   ? look_after(b, r->use, beside[r->call.coll], requests, looks)
                   : products(b, beside[r->call.coll]);
    }
    /* Of the block before, whose weights are in the other window. */
    const char *used = r->recv == b->windows[0] ? b->windows[1] : b->windows[0];
    const int64_t step = (int64_t)WIDTH * WIDTH, end = r->use == LS_USE_BLOCKS ? s->all : 0;
    for (int64_t at = 0; at < end; at += step) {
        LS_TRY(product(b, ROWS, WIDTH, b->rows, used + weight_bytes(b, at), b->out));
    }
    return LS_OK;
}

/* Gradients that have arrived are added up: to the rank's own, then to sums that wait in memory. */
static ls_status work_after(bench *b, const row *r, const ls_bench_shape *s) {
    if (r->use != LS_USE_STATE || r->call.coll != LS_COLL_ALL_TO_ALL) {
        return LS_OK;
    }
    const int64_t bytes = s->block * (int64_t)ls_dtype_bytes(r->call.dtype);
    const int rank = b->comm->rank, other = (rank + 1) % b->comm->size;
    char *const own = r->send + rank * bytes;
    LS_TRY(b->dev->ops->add(b->dev, r->call.dtype, s->block, r->recv + other * bytes, own));
    return b->dev->ops->add(b->dev, r->call.dtype, s->block, own, next_kept(b, bytes));
}

/* Measuring */

/* The mean of the half in the middle: of one that is mostly of two values, more steady than their
 * median. Sorts them. */
static double middle_mean(double times[TIMES]) {
    double sum = 0;
    ls_sort_doubles(times, TIMES);
    for (int i = TIMES / 4; i < TIMES - TIMES / 4; i++) {
        sum += times[i];
    }
    return sum / (TIMES - 2 * (TIMES / 4));
}

/* Ranks leave a barrier one after the other; this ends at the same time on all, awake. */
static ls_status begin_together(ls_comm *comm) {
    double begin_s = now_s();
    LS_TRY(comm->ops->all_reduce(comm, &begin_s, 1, LS_F64, LS_MAX));
    while (now_s() < begin_s + 1e-4) {
    }
    return LS_OK;
}

static double common_s(call a, call b) {
    return fmax(0.0, fmin(a.end_s, b.end_s) - fmax(a.begin_s, b.begin_s));
}

static const call *calls_of(const bench *b, int rank, int repeat) {
    return b->calls + (rank * REPEATS + repeat) * CALLS;
}

/* What a rank is in calls for; of its waiting, what the rank that came last to wait is in calls for
 * too, or has ended, for before that it waits for that one's computation, or what it moves in it,
 * if that is more. */
static double exposed_s(const bench *b, int rank, int repeat) {
    const call *own = calls_of(b, rank, repeat), *last = own;
    const call wait = own[CALLS - 1];
    double looks = 0, waits = 0;
    for (int r = 0; r < b->comm->size; r++) {
        const call *other = calls_of(b, r, repeat);
        last = other[CALLS - 1].begin_s > last[CALLS - 1].begin_s ? other : last;
    }
    for (int i = 0; i < CALLS - 1; i++) {
        looks += own[i].end_s - own[i].begin_s;
        waits += common_s(wait, last[i]);
    }
    waits += common_s(wait, (call){.begin_s = last[CALLS - 1].begin_s, .end_s = wait.end_s});
    return looks + fmax(waits, wait.moved_s);
}

/* A pass: of each time but the first the mean of the ranks. */
static ls_status time_row(bench *b, row *r, int64_t bytes, double times[REPEATS - 1]) {
    ls_comm *comm = b->comm;
    const ls_bench_shape s = ls_bench_shape_of(&r->call, bytes);
    call own[REPEATS][CALLS] = {{{0}}};
    for (int i = 0; i < REPEATS; i++) {
        ls_comm_request *requests[2];
        LS_TRY(begin_together(comm));
        LS_TRY(work_before(b, r, &s));
        own[i][0].begin_s = now_s();
        LS_TRY(ls_bench_call_start(&r->call, s, r->send, r->recv, requests));
        own[i][0].end_s = now_s();
        LS_TRY(work_beside(b, r, &s, requests, &own[i][1]));
        own[i][CALLS - 1] = (call){.begin_s = now_s(), .moved_s = moved_s()};
        LS_TRY(ls_bench_call_wait(&r->call, requests));
        own[i][CALLS - 1].end_s = now_s();
        own[i][CALLS - 1].moved_s = moved_s() - own[i][CALLS - 1].moved_s;
        LS_TRY(work_after(b, r, &s));
    }
    LS_TRY(comm->ops->all_gather(comm, own, b->calls, sizeof own));
    for (int i = 1; i < REPEATS; i++) {
        times[i - 1] = 0;
        for (int rank = 0; rank < comm->size; rank++) {
            times[i - 1] += exposed_s(b, rank, i) / comm->size;
        }
    }
    return LS_OK;
}

/* Gradients and parameters lie in memory that ranks share (work_before says where), activations in
 * private. */
static ls_status time_sizes(bench *b, row *r, int pass) {
    const int64_t *of = sizes[r->use];
    for (int i = 0; i < count_of(of); i++) {
        r->send = b->own[0];
        r->recv = r->call.coll == LS_COLL_ALL_REDUCE ? b->own[0] : b->own[1];
        LS_TRY(time_row(b, r, of[i], r->seconds[i] + (ptrdiff_t)pass * (REPEATS - 1)));
    }
    return LS_OK;
}

static ls_status measure(bench *b, int64_t *blocks, ls_bench_links *links) {
    static row rows[LS_USE_COUNT * LS_COLL_COUNT];
    int count = 0;
    for (int i = 0; i < LS_USE_COUNT * LS_COLL_COUNT; i++) {
        ls_figure_id us, gb_s;
        const ls_comm_use use = (ls_comm_use)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        const bool weights = carries_rows(use) || coll == LS_COLL_ALL_GATHER;
        if (ls_link_figures(use, coll, &us, &gb_s)) {
            rows[count++] = (row){.use = use,
                                  .call = {.comm = b->comm,
                                           .coll = coll,
                                           .dtype = weights ? b->dtype : LS_F32,
                                           .op = LS_SUM,
                                           .others_only = true,
                                           .counts = blocks,
                                           .offsets = blocks + b->comm->size}};
        }
    }
    for (int i = 0; i < PASSES * count; i++) {
        LS_TRY(time_sizes(b, &rows[i % count], i / count));
    }
    for (int i = 0; i < count; i++) {
        double seconds[SIZES];
        row *r = &rows[i];
        const int64_t *of = sizes[r->use];
        const int sizes_tried = count_of(of);
        for (int size = 0; size < sizes_tried; size++) {
            seconds[size] = middle_mean(r->seconds[size]);
        }
        links->of[r->use][r->call.coll] = ls_bench_fit(&r->call, of, seconds, sizes_tried);
    }
    return LS_OK;
}

/* In one mapping with huge pages, as a step's activations are. */
static ls_status take_private(bench *b) {
    const size_t most = (size_t)largest(LS_USE_STATE);
    const size_t rows = (size_t)ROWS * DEPTH * ls_dtype_bytes(b->dtype);
    const struct {
        char **at;
        size_t bytes;
        ls_dtype dtype; /* of what fills it */
    } pieces[] = {{&b->own[0], most, LS_F32},
                  {&b->own[1], most, LS_F32},
                  {&b->kept, KEPT_BYTES, b->dtype},
                  {&b->rows, rows, b->dtype},
                  {&b->out, rows, b->dtype}};
    const size_t count = sizeof pieces / sizeof *pieces;
    LS_TRY(ls_arena_init(&b->private, "benchmark",
                         count * LS_ARENA_ALIGN + 2 * most + KEPT_BYTES + 2 * rows));
    for (size_t i = 0; i < count; i++) {
        void *memory;
        LS_TRY(ls_arena_take(&b->private, pieces[i].bytes, &memory));
        ls_bench_fill(pieces[i].dtype, memory, pieces[i].bytes);
        *pieces[i].at = memory;
    }
    return LS_OK;
}

static ls_status take(bench *b, int64_t **blocks) {
    const size_t ranks = (size_t)b->comm->size;
    LS_TRY(ls_calloc(2 * ranks, sizeof **blocks, blocks));
    LS_TRY(ls_calloc(ranks * REPEATS * CALLS, sizeof *b->calls, &b->calls));
    LS_TRY(take_private(b));
    const ls_device_limits limits = {.rows = ROWS, .channels = WIDTH};
    return b->dev->ops->reserve(b->dev, &limits);
}

/* A rank's first look at a page of another's memory is the kernel's work, which training has behind
 * it after its first step. [collective] */
static ls_status map_everywhere(ls_comm *comm, void *memory, int64_t bytes) {
    for (int root = 0; root < comm->size; root++) {
        LS_TRY(comm->ops->broadcast(comm, memory, bytes, root));
    }
    return LS_OK;
}

/* [collective] */
static ls_status take_shared(bench *b) {
    ls_comm *comm = b->comm;
    const int64_t window = largest(LS_USE_BLOCKS);
    const struct {
        char **at;
        int64_t bytes;
    } pieces[] = {{&b->grads, GRAD_BYTES},
                  {&b->weights, weight_bytes(b, WEIGHT_ELEMS)},
                  {&b->windows[0], window},
                  {&b->windows[1], window}};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        void *memory;
        LS_TRY(comm->ops->alloc(comm, pieces[i].bytes, &memory));
        *pieces[i].at = memory;
        LS_TRY(map_everywhere(comm, memory, pieces[i].bytes));
    }
    ls_bench_fill(LS_F32, b->grads, GRAD_BYTES);
    ls_bench_fill(b->dtype, b->weights, (size_t)weight_bytes(b, WEIGHT_ELEMS));
    return LS_OK;
}

ls_status ls_bench_links_measure(ls_comm *comm, ls_device *dev, ls_dtype dtype,
                                 ls_bench_links *links) {
    bench b = {.comm = comm, .dev = dev, .dtype = dtype};
    int64_t *blocks = NULL;
    memset(links, 0, sizeof *links);
    ls_status status = ls_comm_agree(comm, take(&b, &blocks));
    if (status == LS_OK) {
        status = take_shared(&b);
    }
    LS_TRY_GOTO(status, done);
    status = measure(&b, blocks, links);
done:
    comm->ops->give_back(comm, b.grads);
    comm->ops->give_back(comm, b.weights);
    comm->ops->give_back(comm, b.windows[0]);
    comm->ops->give_back(comm, b.windows[1]);
    ls_arena_release(&b.private);
    free(b.calls);
    free(blocks);
    return status;
}
