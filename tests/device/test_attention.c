/* Attention of the CPU device against the reference device: shapes, strides, dtypes, extreme
 * scores, what a NaN may reach, and the same bits for any number of threads. LOCKSTEP_ISA chooses
 * the level. */
#include "tests/device/attention_problem.h"

static void test_shapes(void) {
    static const int64_t lengths[] = {1, 2, 63, 65, 127, 200};
    static const int64_t head_dims[] = {1, 3, 16, 64, 80, 96, 128};
    static const int64_t groups[] = {1, 2, 4, 7};
    uint64_t seed = 0;
    for (int l = 0; l < 6; l++) {
        for (int d = 0; d < 7; d++) {
            const int64_t group = groups[(l + d) % 4], kv_heads = 1 + (l + 2 * d) % 2;
            check_shape((shape){1 + d % 2, lengths[l], lengths[l], group * kv_heads, kv_heads,
                                head_dims[d]},
                        ++seed);
        }
    }
    check_shape((shape){1, 300, 300, 1, 1, 256}, ++seed);
    check_shape((shape){1, 40, 40, 2, 1, 300}, ++seed);
    check_shape((shape){1, 370, 370, 1, 1, 2048}, ++seed); /* more keys than a thread keeps */
}

/* Generation: a few queries at the end of a longer cache. */
static void test_cache(void) {
    static const shape shapes[] = {
        {1, 1, 2, 1, 1, 64},    {2, 1, 200, 4, 4, 64},   {3, 1, 333, 14, 2, 80},
        {1, 5, 64, 6, 2, 96},   {2, 33, 129, 4, 1, 3},   {1, 64, 65, 2, 2, 128},
        {1, 1, 1000, 3, 3, 16}, {1, 199, 200, 7, 1, 16}, {1, 1, 70, 4, 1, 1},
        {2, 1, 9, 6, 2, 2},     {2, 1, 150, 4, 2, 90}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(shapes[i], 1000 + 10 * i);
    }
}

static void test_random_shapes(void) {
    for (uint64_t i = 0; i < 40; i++) {
        uint64_t draw[6];
        for (uint64_t j = 0; j < 6; j++) {
            draw[j] = ls_rng_draw(77, j, i).v[0];
        }
        shape s = {.batch = 1 + (int64_t)(draw[0] % 3),
                   .q_len = 1 + (int64_t)(draw[1] % 120),
                   .kv_heads = 1 + (int64_t)(draw[2] % 3),
                   .head_dim = 1 + (int64_t)(draw[3] % 140)};
        s.heads = s.kv_heads * (1 + (int64_t)(draw[4] % 5));
        s.kv_len = s.q_len + (i % 2 ? (int64_t)(draw[5] % 90) : 0);
        check_shape(s, 2000 + i);
    }
}

/* Scores of +-1e4: one key takes all, or nearly; fp32 scores are then good to 1e-3, so are the
 * probabilities. And scores that are all equal, large or small. */
static void test_extreme_scores(void) {
    if (!has_f32) {
        return;
    }
    const shape s = {1, 130, 130, 4, 2, 64};
    problem p = problem_create(LS_F32, s, 3000);
    p.scale = 1e3;
    check_case(&p, 1000.0);
    for (int64_t i = 0; i < p.q_elems; i++) {
        const int64_t column = i % p.q_stride;
        if (column < p.v_at) {
            p.q[i] = column < p.k_at ? 1.0 : -12.5;
        }
    }
    for (int sign = 0; sign < 3; sign++) {
        p.scale = sign == 0 ? 0.0 : sign == 1 ? 12.5 : -12.5; /* scores 0, -1e4, 1e4 */
        check_case(&p, sign == 0 ? 1.0 : 1000.0);             /* lse itself is rounded to 1e-3 */
    }
    problem_release(&p);
}

/* A NaN or an infinity reaches what it reaches in the reference, and nothing else. (A row that sees
 * only scores of -inf has lse log 0 here and NaN there: token 0 gets a NaN.) */
static void test_not_finite(void) {
    static const int64_t tokens[] = {70, 0, 100, 129};
    for (int i = has_f32 ? 0 : 16; i < 32; i += (int)share) {
        const ls_dtype dtype = i < 16 ? LS_F32 : LS_BF16;
        problem p = problem_create(dtype, (shape){1, 130, 130, 4, 2, 16}, 4000);
        spoil(&p, which[i / 4 % 4], tokens[i % 4], i % 2 ? (double)NAN : (double)INFINITY);
        check_case(&p, 1.0);
        problem_release(&p);
    }
}

static void test_refused(void) {
    problem p = problem_create(LS_F32, (shape){1, 4, 8, 4, 2, 8}, 5000);
    ls_device *dev = cpu[1];
    const ls_attention good = operation(&p, LS_F32);
    ls_attention op = good;
    op.kv_heads = 3;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("4 heads");
    op = good;
    op.q_len = 9;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    op = good;
    op.dtype = LS_F16;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("float16");
    op = good;
    op.kv_len = (int64_t)1 << 40;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_UNSUPPORTED);
    op = good;
    op.merge = true;
    CHECK_STATUS(dev->ops->attention_backward(dev, &op), LS_E_SHAPE);
    op = good;
    op.add = true;
    CHECK_STATUS(dev->ops->attention_forward(dev, &op), LS_E_SHAPE);
    CHECK_MESSAGE("merge is for forward");
    op = good; /* nothing to do: no pointer is looked at */
    op.batch = 0;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    op = good;
    op.q_len = op.kv_len = 0;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK_OK(dev->ops->attention_backward(dev, &op));
    problem_release(&p);
}

/* Scratch that was reserved for sequences of which no task holds a whole head is enough for shorter
 * ones, of which tasks do. What there was before grows, and is counted once. */
static void test_scratch_of_long(void) {
    problem p = problem_create(LS_F32, (shape){1, 400, 400, 2, 2, 128}, 6500);
    ls_device *dev;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &dev));
    ls_device_limits limits = {.rows = 40,
                               .seq = 300,
                               .channels = 256,
                               .heads = 2,
                               .kv_heads = 2,
                               .head_dim = 128,
                               .vocab = 100};
    CHECK_OK(dev->ops->reserve(dev, &limits));
    limits.rows = 4000;
    limits.seq = 100000;
    CHECK_OK(dev->ops->reserve(dev, &limits));
    const size_t reserved_bytes = dev->scratch_bytes;
    CHECK_INT(reserved_bytes, dev->ops->scratch(dev, &limits));
    results found = run(dev, &p);
    CHECK_INT(dev->scratch_bytes, reserved_bytes);
    results_release(&found);
    problem_release(&p);
    dev->ops->close(dev);
}

/* lse may be unwanted; scratch that was reserved does not grow. */
static void test_scratch(void) {
    problem p = problem_create(LS_F32, (shape){1, 200, 200, 4, 2, 128}, 6000);
    ls_device *dev;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &dev));
    const ls_device_limits limits = {.rows = 200,
                                     .seq = 200,
                                     .channels = 512,
                                     .heads = 4,
                                     .kv_heads = 2,
                                     .head_dim = 128,
                                     .vocab = 100};
    CHECK_OK(dev->ops->reserve(dev, &limits));
    const size_t reserved_bytes = dev->scratch_bytes;
    results found = run(dev, &p);
    CHECK_INT(dev->scratch_bytes, reserved_bytes);
    void *q = typed(LS_F32, p.q, p.q_elems), *out = typed(LS_F32, NULL, p.o_elems);
    ls_attention op = operation(&p, LS_F32);
    op.q = q;
    op.k = at(q, LS_F32, p.k_at);
    op.v = at(q, LS_F32, p.v_at);
    op.out = out;
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK(memcmp(out, found.out, (size_t)p.o_elems * sizeof(float)) == 0);
    free(q);
    free(out);
    results_release(&found);
    problem_release(&p);
    dev->ops->close(dev);
}
int main(void) {
    if (!devices_open()) {
        return 77;
    }
    test_shapes();
    test_cache();
    test_random_shapes();
    test_extreme_scores();
    test_not_finite();
    test_refused();
    test_scratch();
    test_scratch_of_long();
    devices_close();
    return test_end();
}
