/* Every operation of kernel_cases.c on a device (argument 1, cpu by default), the reference's own
 * gradients, the vector mathematics, and what the operations refuse. */
#include "runtime/base/cpu.h"
#include "runtime/base/exact_sum.h"
#include "runtime/base/rng.h"
#include "runtime/device/device_async.h"
#include "tests/device/kernel_ops.h"
#include "tests/test.h"

#include <stdlib.h>

static void test_refusals(const char *device) {
    ls_device *dev;
    CHECK_OK(kt_open(device, 1, &dev));
    const ls_device_ops *ops = dev->ops;
    CHECK_STATUS(ops->gelu_forward(dev, &(ls_gelu){.dtype = LS_F32, .n = -1}), LS_E_SHAPE);
    CHECK_MESSAGE("gelu: n is -1; at least 0 is needed");
    CHECK_STATUS(ops->gelu_backward(dev, &(ls_gelu){.dtype = LS_I32, .n = 1}), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("int32");
    CHECK_STATUS(ops->norm_forward(dev, &(ls_norm){.dtype = LS_F32, .rows = 1}), LS_E_SHAPE);
    CHECK_MESSAGE("channels is 0");
    CHECK_STATUS(ops->norm_backward(dev, &(ls_norm){.dtype = LS_F64, .rows = 1, .channels = 1}),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("float64");
    ls_rope rope = {.dtype = LS_F32, .rows = 1, .seq = 1, .heads = 2, .head_dim = 5};
    CHECK_STATUS(ops->rope(dev, &rope), LS_E_SHAPE);
    CHECK_MESSAGE("head_dim is 5; it must be even");
    rope.head_dim = 6;
    rope.row_stride = 11;
    CHECK_STATUS(ops->rope(dev, &rope), LS_E_SHAPE);
    CHECK_MESSAGE("row_stride is 11; at least 12 is needed");
    CHECK_STATUS(ops->swiglu_forward(dev, &(ls_swiglu){.dtype = LS_F32, .rows = 1, .ffn = -3}),
                 LS_E_SHAPE);
    CHECK_STATUS(ops->swiglu_backward(dev, &(ls_swiglu){.dtype = LS_F16}), LS_E_UNSUPPORTED);
    const ls_embedding embedding = {.dtype = LS_F32, .rows = 1, .channels = 1, .vocab = 1};
    CHECK_STATUS(ops->embedding_forward(dev, &embedding), LS_E_SHAPE);
    CHECK_MESSAGE("seq is 0");
    CHECK_STATUS(ops->embedding_backward(dev, &embedding), LS_E_SHAPE);
    CHECK_STATUS(ops->bias_grad(dev, &(ls_bias_grad){.dtype = LS_F32, .rows = -1}), LS_E_SHAPE);
    CHECK_STATUS(ops->cross_entropy(
                     dev, &(ls_cross_entropy){.dtype = LS_F32, .rows = 1, .vocab = 9, .ld = 8}),
                 LS_E_SHAPE);
    CHECK_MESSAGE("ld is 8; at least 9 is needed");
    CHECK_STATUS(ops->adamw(dev, &(ls_adamw){.n = 1, .t = 0}), LS_E_SHAPE);
    CHECK_MESSAGE("t is 0");
    CHECK_STATUS(ops->add(dev, LS_I64, 1, NULL, NULL), LS_E_UNSUPPORTED);
    CHECK_STATUS(ops->add(dev, LS_BF16, -1, NULL, NULL), LS_E_SHAPE);
    CHECK_STATUS(ops->cast(dev, LS_F16, 1, NULL, NULL), LS_E_UNSUPPORTED);
    CHECK_STATUS(ops->cast(dev, LS_F32, -2, NULL, NULL), LS_E_SHAPE);
    CHECK_STATUS(ops->widen(dev, LS_F16, 1, NULL, NULL), LS_E_UNSUPPORTED);
    CHECK_STATUS(ops->widen(dev, LS_F32, -2, NULL, NULL), LS_E_SHAPE);
    double sum;
    CHECK_STATUS(ops->sum(dev, -1, NULL, &sum), LS_E_SHAPE);
    CHECK_STATUS(ops->sum_squares(dev, 0, -1, NULL, &sum), LS_E_SHAPE);
    CHECK_STATUS(ops->sum_squares(dev, -1, 1, NULL, &sum), LS_E_SHAPE);
    CHECK_MESSAGE("first is -1");
    ops->close(dev);
}

/* Within its limits, a device takes all its scratch memory in reserve. */
static void test_reserve(const char *device) {
    const kt_case c = {&kt_norm_backward, {300, 130, LS_LAYERNORM, 1}};
    ls_device *dev;
    CHECK_OK(kt_open(device, 2, &dev));
    kt_buffer like[KT_BUFFERS_MAX] = {0};
    kt_instance in;
    c.op->plan(&c, LS_F32, dev->acc, like);
    CHECK_OK(kt_instance_init(dev, &c, LS_F32, 0, like, &in));
    CHECK_OK(dev->ops->reserve(
        dev, &(ls_device_limits){.rows = 300, .seq = 300, .channels = 130, .vocab = 130}));
    const size_t reserved_bytes = dev->scratch_bytes;
    CHECK_OK(c.op->run(dev, &c, LS_F32, in.at));
    CHECK_INT(dev->scratch_bytes, reserved_bytes);
    kt_instance_release(dev, &in);
    dev->ops->close(dev);
}

/* And for the products of a model of such sizes, as much as a plan is told before. A library of
 * products (AMX) takes more when it knows them. */
static void test_reserve_products(const char *device, ls_dtype dtype) {
    enum { ROWS = 70, WIDE = 700, INNER = 200, VOCAB = 5000, MOST = VOCAB * WIDE };
    static const int64_t shapes[][3] = {
        {ROWS, WIDE, INNER},  {ROWS, INNER, WIDE},  {WIDE, INNER, ROWS},  {INNER, WIDE, ROWS},
        {ROWS, VOCAB, INNER}, {ROWS, INNER, VOCAB}, {VOCAB, INNER, ROWS}, {INNER, VOCAB, ROWS}};
    const ls_device_limits limits = {.rows = ROWS,
                                     .seq = ROWS,
                                     .channels = WIDE,
                                     .inner = INNER,
                                     .heads = 4,
                                     .kv_heads = 4,
                                     .head_dim = INNER / 4,
                                     .vocab = VOCAB,
                                     .bf16 = dtype == LS_BF16};
    ls_isa isa;
    ls_device *dev;
    CHECK_OK(kt_open(device, 2, &dev));
    if (dev->ops->scratch && ls_cpu_isa(&isa) == LS_OK && isa != LS_ISA_AMX_BF16) {
        void *taken;
        CHECK_OK(dev->ops->alloc(dev, (size_t)MOST * 3 * sizeof(float), &taken));
        char *memory = taken;
        CHECK_OK(dev->ops->reserve(dev, &limits));
        const size_t reserved_bytes = dev->scratch_bytes;
        CHECK_INT(reserved_bytes, dev->ops->scratch(dev, &limits));
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            const int64_t *s = shapes[i];
            CHECK_OK(dev->ops->gemm(dev, &(ls_gemm){.dtype = dtype,
                                                    .c_dtype = s[2] == ROWS ? LS_F32 : dtype,
                                                    .m = s[0],
                                                    .n = s[1],
                                                    .k = s[2],
                                                    .a = memory,
                                                    .lda = s[2],
                                                    .b = memory + MOST * sizeof(float),
                                                    .ldb = s[1],
                                                    .c = memory + 2 * MOST * sizeof(float),
                                                    .ldc = s[1]}));
            CHECK_INT(dev->scratch_bytes, reserved_bytes);
        }
        dev->ops->free(dev, memory);
    }
    dev->ops->close(dev);
}

/* Seconds of the device between two marks: known once both have been reached, with their sign. */
static void test_marks(const char *device) {
    enum { BYTES = 1 << 20, REPEATS = 8 };
    ls_device *dev;
    void *from, *to;
    double seconds;
    CHECK_OK(kt_open(device, 1, &dev));
    const ls_device_ops *ops = dev->ops;
    CHECK_OK(ops->alloc(dev, BYTES, &from));
    CHECK_OK(ops->alloc(dev, BYTES, &to));
    CHECK_OK(ops->between(dev, 0, 1, &seconds));
    CHECK(isnan(seconds));
    CHECK_OK(ops->mark(dev, 0));
    for (int i = 0; i < REPEATS; i++) {
        CHECK_OK(ops->copy(dev, to, from, BYTES));
    }
    CHECK_OK(ops->between(dev, 0, 1, &seconds));
    CHECK(isnan(seconds)); /* the second is not set */
    CHECK_OK(ops->mark(dev, 1));
    CHECK_OK(ops->sync(dev));
    CHECK_OK(ops->between(dev, 0, 1, &seconds));
    CHECK(seconds > 0);
    double back;
    CHECK_OK(ops->between(dev, 1, 0, &back));
    CHECK_NEAR(back, -seconds, 1e-6, 0);
    ops->free(dev, from);
    ops->free(dev, to);
    ops->close(dev);
}

/* Squares, their exact sum, the verdict and an update that heeds it, on a device where they stay
 * there: bit for bit what the host would come to. */
static ls_update_verdict verdict_of(ls_device *dev, int64_t n, const float *x, double most,
                                    double clip) {
    const ls_device_ops *ops = dev->ops;
    const int64_t first = 7, count = ls_squares_count(first, n);
    const double loss = 3.5;
    struct {
        ls_update_verdict verdict;
        int64_t digits[2][LS_EXACT_DIGITS];
        double loss;
        int32_t scale[2];
    } * at;
    void *memory, *on_device;
    double *squares;
    ls_update_verdict found = {0};
    CHECK_OK(ops->alloc(dev, (size_t)n * sizeof *x, &on_device));
    CHECK_OK(ops->alloc(dev, sizeof *at + (size_t)count * sizeof *squares, &memory));
    at = memory;
    squares = (double *)(at + 1);
    CHECK_OK(ops->upload(dev, on_device, x, (size_t)n * sizeof *x));
    CHECK_OK(ops->upload(dev, &at->loss, &loss, sizeof loss));
    CHECK_OK(dev->async->squares(dev, first, n, on_device, squares));
    CHECK_OK(dev->async->exact_scale(dev, count, squares, &at->scale[0]));
    CHECK_OK(dev->async->exact_digits(dev, count, squares, &at->scale[0], at->digits[0]));
    CHECK_OK(dev->async->exact_scale(dev, 1, &at->loss, &at->scale[1]));
    CHECK_OK(dev->async->exact_digits(dev, 1, &at->loss, &at->scale[1], at->digits[1]));
    CHECK_OK(dev->async->judge(dev, &(ls_judge){.scale = &at->scale[0],
                                                .digits = at->digits[0],
                                                .loss_scale = &at->scale[1],
                                                .loss_digits = at->digits[1],
                                                .most = most,
                                                .clip_norm = clip,
                                                .verdict = &at->verdict}));
    CHECK_OK(ops->download(dev, &found, &at->verdict, sizeof found));
    /* The host's way. */
    double *sums = calloc((size_t)count, sizeof *sums);
    CHECK_OK(ops->sum_squares(dev, first, n, on_device, sums));
    int32_t scale = LS_EXACT_ZERO;
    ls_exact_sum sum = {{0}};
    for (int64_t i = 0; i < count; i++) {
        scale = ls_exact_scale(sums[i]) > scale ? ls_exact_scale(sums[i]) : scale;
    }
    for (int64_t i = 0; i < count; i++) {
        ls_exact_add(&sum, sums[i], scale);
    }
    const double norm = sqrt(ls_exact_value(&sum, scale));
    CHECK(isnan(norm) ? isnan(found.norm) : memcmp(&norm, &found.norm, sizeof norm) == 0);
    CHECK(isnan(norm) || found.factor == (norm > clip ? (float)(clip / norm) : 1.0f));
    CHECK_INT(found.wrong, !(isfinite(norm) && loss <= most));

    float p[2] = {1.0f, -2.0f}, grad[2] = {1.0f, 1.0f}, *params = on_device;
    CHECK_OK(ops->upload(dev, params, p, sizeof p));
    CHECK_OK(ops->upload(dev, params + 2, grad, sizeof grad));
    CHECK_OK(ops->sgd(dev, &(ls_sgd){.n = 2,
                                     .lr = 1.0,
                                     .grad_scale = 1.0,
                                     .p = params,
                                     .grad = params + 2,
                                     .verdict = &at->verdict}));
    CHECK_OK(ops->download(dev, p, params, sizeof p));
    CHECK(p[0] == (found.wrong ? 1.0f : 1.0f - found.factor));
    free(sums);
    ops->free(dev, memory);
    ops->free(dev, on_device);
    return found;
}

static void test_verdicts(const char *device) {
    enum { ELEMS = 40000 };
    ls_device *dev;
    CHECK_OK(kt_open(device, 1, &dev));
    if (!dev->async) {
        float p[2] = {0};
        CHECK_STATUS(dev->ops->sgd(dev, &(ls_sgd){.n = 2,
                                                  .p = p,
                                                  .grad = p,
                                                  .verdict = &(ls_update_verdict){.factor = 1.0f}}),
                     LS_E_UNSUPPORTED);
        dev->ops->close(dev);
        return;
    }
    float *x = calloc(ELEMS, sizeof *x);
    CHECK_INT(verdict_of(dev, ELEMS, x, INFINITY, 1.0).wrong, 0);
    for (int64_t i = 0; i < ELEMS; i++) {
        x[i] = (float)(ls_rng_normal(1, 2, (uint64_t)i) * exp2((double)(i % 60) - 40.0));
    }
    CHECK(verdict_of(dev, ELEMS, x, 3.5, 1.0).factor < 1.0f);
    CHECK_INT(verdict_of(dev, ELEMS, x, 3.4, 1.0).wrong, 1);
    CHECK(verdict_of(dev, ELEMS, x, INFINITY, 1e30).factor == 1.0f);
    x[ELEMS - 1] = INFINITY;
    CHECK_INT(verdict_of(dev, ELEMS, x, INFINITY, 1.0).wrong, 1);
    x[77] = NAN;
    CHECK_INT(verdict_of(dev, ELEMS, x, INFINITY, 1.0).wrong, 1);
    free(x);
    dev->ops->close(dev);
}

/* Placing choices of experts: sequences of SEQ positions over two context ranks, of which the first
 * has the first and last quarter, and two tensor ranks with half of the rows each. */
enum { SEQ = 8, SEQUENCES = 3, EXPERTS = 5, EACH = 2, ROWS = SEQUENCES * SEQ / 4, CAPACITY = 7 };
enum { RANKS = 4, SEGMENTS = 2 * SEQUENCES, ROOM = 6, COUNTS = SEGMENTS * EXPERTS };

typedef struct placing {
    int32_t chosen[RANKS][ROWS * EACH], counts[RANKS][COUNTS], places[3 * COUNTS];
    int32_t kept[2][2][EXPERTS]; /* of context, tensor rank */
    float wanted[2][EXPERTS];
    int32_t slots[RANKS][ROWS * EACH], slot_rows[RANKS][EXPERTS * ROOM];
    int32_t order[2 * CAPACITY], back[RANKS * ROOM];
} placing;

/* Who has a position of a sequence: the rank 2 context + tensor, and its row there. */
static void owner_of(int sequence, int position, int *rank, int *row) {
    const int context = position < SEQ / 4 || position >= 3 * SEQ / 4 ? 0 : 1;
    const int local = context == 1         ? position - SEQ / 4
                      : position < SEQ / 4 ? position
                                           : position - SEQ / 2;
    const int all = sequence * SEQ / 2 + local;
    *rank = 2 * context + all / ROWS;
    *row = all % ROWS;
}

/* What of them is kept: the first of each expert, in order of the positions. */
static void expect_placing(placing *p, bool kept[RANKS][ROWS * EACH]) {
    int taken[EXPERTS] = {0};
    for (int i = 0; i < SEQUENCES * SEQ; i++) {
        int rank, row;
        owner_of(i / SEQ, i % SEQ, &rank, &row);
        for (int j = row * EACH; j < (row + 1) * EACH; j++) {
            const int32_t e = p->chosen[rank][j];
            kept[rank][j] = taken[e]++ < CAPACITY;
            p->kept[rank / 2][rank % 2][e] += kept[rank][j];
            p->wanted[rank / 2][e] += 1.0f;
        }
    }
    for (int rank = 0; rank < RANKS; rank++) {
        int next[EXPERTS] = {0};
        for (int i = 0; i < EXPERTS * ROOM; i++) {
            p->slot_rows[rank][i] = -1;
        }
        for (int j = 0; j < ROWS * EACH; j++) {
            const int32_t e = p->chosen[rank][j];
            p->slots[rank][j] = kept[rank][j] ? e * ROOM + next[e]++ : -1;
            if (kept[rank][j]) {
                p->slot_rows[rank][p->slots[rank][j]] = j / EACH;
            }
        }
    }
}

/* Experts 1 and 2 get the rows of two ranks; those behind the rows that came are nobody's. */
static void expect_order(placing *p) {
    for (int i = 0; i < 4 * ROOM; i++) {
        p->back[i] = -1;
    }
    for (int e = 0; e < 2; e++) {
        int at = e * CAPACITY;
        for (int rank = 0; rank < 2; rank++) {
            for (int i = 0; i < p->kept[0][rank][e + 1]; i++, at++) {
                p->order[at] = (rank * 2 + e) * ROOM + i;
                p->back[p->order[at]] = at;
            }
        }
        while (at < (e + 1) * CAPACITY) {
            p->order[at++] = -1;
        }
    }
}

static void place_all(ls_device *dev, placing *p) {
    ls_place op[RANKS];
    for (int rank = 0; rank < RANKS; rank++) {
        op[rank] = (ls_place){.rows = ROWS,
                              .each = EACH,
                              .experts = EXPERTS,
                              .segments = SEGMENTS,
                              .first = rank % 2 * ROWS,
                              .seq = SEQ / 2,
                              .low = SEQ / 4,
                              .chosen = p->chosen[rank],
                              .counts = p->counts[rank],
                              .all = p->counts[0],
                              .contexts = 2,
                              .tensors = 2,
                              .context = rank / 2,
                              .tensor = rank % 2,
                              .capacity = CAPACITY,
                              .room = ROOM,
                              .kept = p->kept[rank / 2][0],
                              .places = p->places,
                              .slots = p->slots[rank],
                              .slot_rows = p->slot_rows[rank],
                              .wanted = p->wanted[rank / 2]};
        CHECK_OK(dev->async->place_count(dev, &op[rank]));
    }
    for (int rank = 0; rank < RANKS; rank++) {
        CHECK_OK(dev->async->place_keep(dev, &op[rank]));
        CHECK_OK(dev->async->place_rows(dev, &op[rank]));
    }
    CHECK_OK(dev->async->place_order(dev, &(ls_place_order){.experts = EXPERTS,
                                                            .first = 1,
                                                            .local = 2,
                                                            .room = ROOM,
                                                            .each = CAPACITY,
                                                            .ranks = 2,
                                                            .kept = p->kept[0][0],
                                                            .order = p->order,
                                                            .back = p->back}));
}

static void test_placing(const char *device) {
    static placing expected, found;
    static bool kept[RANKS][ROWS * EACH];
    ls_device *dev;
    void *memory;
    CHECK_OK(kt_open(device, 1, &dev));
    for (uint64_t i = 0; dev->async && i < RANKS * ROWS; i++) {
        const uint32_t a = ls_rng_draw(3, 4, i).v[0], b = ls_rng_draw(3, 4, i).v[1];
        const int32_t first = a % 3 == 0 ? (int32_t)(a / 3 % EXPERTS) : 1;
        expected.chosen[i / ROWS][i % ROWS * EACH] = first;
        expected.chosen[i / ROWS][i % ROWS * EACH + 1] = (first + 1 + (int32_t)(b % 4)) % EXPERTS;
    }
    if (dev->async) {
        CHECK_OK(dev->ops->alloc(dev, sizeof found, &memory));
        CHECK_OK(dev->ops->upload(dev, memory, &expected, sizeof found));
        place_all(dev, memory);
        CHECK_OK(dev->ops->download(dev, &found, memory, sizeof found));
        expect_placing(&expected, kept);
        expect_order(&expected);
        CHECK(memcmp(found.kept, expected.kept, sizeof found.kept) == 0);
        CHECK(memcmp(found.wanted, expected.wanted, sizeof found.wanted) == 0);
        CHECK(memcmp(found.slots, expected.slots, sizeof found.slots) == 0);
        CHECK(memcmp(found.slot_rows, expected.slot_rows, sizeof found.slot_rows) == 0);
        CHECK(memcmp(found.order, expected.order, sizeof found.order) == 0);
        CHECK(memcmp(found.back, expected.back, 4 * ROOM * sizeof *found.back) == 0);
        dev->ops->free(dev, memory);
    }
    dev->ops->close(dev);
}

/* Without room of their own: two tensor ranks, all choices are kept, nobody chooses the last
 * expert, and the experts' rows lie one behind another. */
enum { CHOICES = ROWS * EACH };
typedef struct packing {
    int32_t chosen[2][CHOICES], counts[2][EXPERTS], places[3 * EXPERTS], kept[2][EXPERTS];
    float wanted[EXPERTS];
    int32_t bounds[2][EXPERTS + 1];
    int32_t slots[2][CHOICES], slot_rows[2][CHOICES], order[2 * CHOICES], back[2 * CHOICES];
} packing;

static void expect_packing(packing *p) {
    int arrives[2][2], at = 0;
    for (int rank = 0; rank < 2; rank++) {
        int next[EXPERTS] = {0};
        for (int e = 1, before = 0; e < EXPERTS; e++) {
            before += p->kept[rank][e - 1];
            next[e] = before;
        }
        memcpy(p->bounds[rank], next, sizeof next);
        p->bounds[rank][EXPERTS] = CHOICES;
        for (int j = 0; j < CHOICES; j++) {
            p->slots[rank][j] = next[p->chosen[rank][j]]++;
            p->slot_rows[rank][p->slots[rank][j]] = j / EACH;
        }
    }
    for (int i = 0; i < 4; i++) { /* by rank, then expert */
        arrives[i % 2][i / 2] = at;
        at += p->kept[i / 2][1 + i % 2];
    }
    for (int i = 0, place = 0; i < 4; i++) { /* by expert, then rank */
        for (int k = 0; k < p->kept[i % 2][1 + i / 2]; k++, place++) {
            p->order[place] = arrives[i / 2][i % 2] + k;
            p->back[p->order[place]] = place;
        }
    }
}

static void pack_all(ls_device *dev, packing *p) {
    ls_place op[2];
    for (int rank = 0; rank < 2; rank++) {
        op[rank] = (ls_place){.rows = ROWS,
                              .each = EACH,
                              .experts = EXPERTS,
                              .segments = 1,
                              .first = rank * ROWS,
                              .chosen = p->chosen[rank],
                              .counts = p->counts[rank],
                              .all = p->counts[0],
                              .contexts = 1,
                              .tensors = 2,
                              .tensor = rank,
                              .capacity = 2 * ROWS,
                              .kept = p->kept[0],
                              .places = p->places,
                              .slots = p->slots[rank],
                              .slot_rows = p->slot_rows[rank],
                              .wanted = p->wanted,
                              .bounds = p->bounds[rank]};
        CHECK_OK(dev->async->place_count(dev, &op[rank]));
    }
    for (int rank = 0; rank < 2; rank++) {
        CHECK_OK(dev->async->place_keep(dev, &op[rank]));
        CHECK_OK(dev->async->place_rows(dev, &op[rank]));
    }
    CHECK_OK(dev->async->place_order(dev, &(ls_place_order){.experts = EXPERTS,
                                                            .first = 1,
                                                            .local = 2,
                                                            .ranks = 2,
                                                            .kept = p->kept[0],
                                                            .order = p->order,
                                                            .back = p->back}));
}

static void test_packing(const char *device) {
    static packing expected, found;
    ls_device *dev;
    void *memory;
    CHECK_OK(kt_open(device, 1, &dev));
    for (int i = 0; dev->async && i < 2 * CHOICES; i++) {
        const uint32_t drawn = ls_rng_draw(3, 5, (uint64_t)i).v[0];
        const int e = (int)(drawn % (uint32_t)(EXPERTS - 1));
        expected.chosen[i / CHOICES][i % CHOICES] = e;
        expected.kept[i / CHOICES][e]++;
        expected.wanted[e] += 1.0f;
    }
    if (dev->async) {
        int32_t kept[2][EXPERTS];
        CHECK_OK(dev->ops->alloc(dev, sizeof found, &memory));
        CHECK_OK(dev->ops->upload(dev, memory, &expected, sizeof found));
        pack_all(dev, memory);
        CHECK_OK(dev->async->peek(dev, ((packing *)memory)->kept, sizeof kept));
        CHECK_OK(dev->async->peeked(dev, kept, sizeof kept));
        CHECK_OK(dev->ops->download(dev, &found, memory, sizeof found));
        expect_packing(&expected);
        CHECK(memcmp(kept, expected.kept, sizeof kept) == 0);
        CHECK(memcmp(found.kept, expected.kept, sizeof kept) == 0);
        CHECK(memcmp(found.wanted, expected.wanted, sizeof found.wanted) == 0);
        CHECK(memcmp(found.slots, expected.slots, sizeof found.slots) == 0);
        CHECK(memcmp(found.slot_rows, expected.slot_rows, sizeof found.slot_rows) == 0);
        CHECK(memcmp(found.order, expected.order, sizeof found.order) == 0);
        CHECK(memcmp(found.back, expected.back, sizeof found.back) == 0);
        CHECK(memcmp(found.bounds, expected.bounds, sizeof found.bounds) == 0);
        dev->ops->free(dev, memory);
    }
    dev->ops->close(dev);
}

/* A GPU takes the bias that is rounded already, instead of rounding it before each product: here
 * they differ, so that it shows. */
static void test_rounded_bias(const char *device) {
    enum { N = 16 };
    struct {
        uint16_t a[N * N], b[N * N], c[N * N], rounded[N];
        float bias[N];
    } values = {0}, *at;
    ls_device *dev;
    void *memory;
    CHECK_OK(kt_open(device, 1, &dev));
    if (dev->async) {
        for (int i = 0; i < N; i++) {
            values.bias[i] = 1.0f;
            values.rounded[i] = ls_bf16_from_f32((float)i);
        }
        CHECK_OK(dev->ops->alloc(dev, sizeof values, &memory));
        CHECK_OK(dev->ops->upload(dev, memory, &values, sizeof values));
        at = memory;
        CHECK_OK(dev->ops->gemm(dev, &(ls_gemm){.dtype = LS_BF16,
                                                .c_dtype = LS_BF16,
                                                .m = N,
                                                .n = N,
                                                .k = N,
                                                .a = at->a,
                                                .lda = N,
                                                .b = at->b,
                                                .ldb = N,
                                                .c = at->c,
                                                .ldc = N,
                                                .bias = at->bias,
                                                .bias_rounded = at->rounded}));
        CHECK_OK(dev->ops->download(dev, &values, memory, sizeof values));
        for (int i = 0; i < N * N; i++) {
            CHECK_INT(values.c[i], values.rounded[i % N]);
        }
        dev->ops->free(dev, memory);
    }
    dev->ops->close(dev);
}

int main(int argc, char **argv) {
    const char *device = argc > 1 ? argv[1] : "cpu";
    ls_device *dev;
    ls_status status = kt_open(device, 1, &dev);
    if (status != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return status == LS_E_CONFIG || status == LS_E_UNSUPPORTED ? 77 : 1;
    }
    printf("%s\n", dev->describe);
    const bool has_fp8 = dev->has_fp8;
    dev->ops->close(dev);
    CHECK_INT(kt_check_vec_math(), 0);
    CHECK_INT(kt_check_all_gradients(), 0);
    for (int c = 0; c < kt_case_count; c++) {
        const bool may_refuse = kt_cases[c].op == &kt_gemm_fp8 && !has_fp8;
        CHECK_INT(kt_check(&kt_cases[c], device, may_refuse), 0);
    }
    /* Gradients that no cache holds, nearly all of them padding; at the best level only. */
    if (strcmp(device, "cpu") == 0 && !getenv("LOCKSTEP_ISA")) {
        const kt_case wide = {&kt_cross_entropy, {37, 2051, 230016, 1}};
        CHECK_INT(kt_check(&wide, device, false), 0);
    }
    test_refusals(device);
    test_reserve(device);
    test_reserve_products(device, LS_F32);
    test_reserve_products(device, LS_BF16);
    test_marks(device);
    test_verdicts(device);
    test_placing(device);
    test_packing(device);
    test_rounded_bias(device);
    CHECK_INT(kt_check_experts(device), 0);
    return test_end();
}
