/* Attention of parts of a sequence, as ring attention has it, and of documents in one. */
#include "tests/device/attention_problem.h"

/* Rows [rows.first, rows.end) and keys likewise, of a fused problem. */
typedef struct span {
    int64_t first, end;
} span;

static ls_attention part_of(const problem *p, const ls_attention *whole, span rows, span keys) {
    ls_attention op = *whole;
    const ls_dtype dtype = op.dtype, acc = dtype == LS_F64 ? LS_F64 : LS_F32;
    const int64_t q = rows.first * p->q_stride, k = keys.first * p->kv_stride;
    op.q_len = rows.end - rows.first;
    op.kv_len = keys.end - keys.first;
    op.full = keys.end <= rows.first;
    op.o_batch = p->s.q_len * p->o_stride;
    op.lse_row = p->s.q_len;
    op.q = at((void *)(uintptr_t)op.q, dtype, q);
    op.k = at((void *)(uintptr_t)op.k, dtype, k);
    op.v = at((void *)(uintptr_t)op.v, dtype, k);
    op.out = at(op.out, dtype, rows.first * p->o_stride);
    op.dout = at((void *)(uintptr_t)op.dout, dtype, rows.first * p->o_stride);
    op.lse = at(op.lse, acc, rows.first);
    op.dq = at(op.dq, dtype, q);
    op.dk = at(op.dk, dtype, k);
    op.dv = at(op.dv, dtype, k);
    return op;
}

/* first_key of all rows, counted in these keys. */
static void part_starts(const problem *p, span keys, int32_t *first) {
    for (int64_t i = 0; p->first && i < p->s.batch * p->s.q_len; i++) {
        const int64_t before = p->first[i] - keys.first, most = keys.end - keys.first;
        first[i] = (int32_t)(before < 0 ? 0 : before < most ? before : most);
    }
}

/* As run, by chunks [cut[i], cut[i + 1]) of rows against those of keys: what lies before a chunk it
 * sees whole. */
static results run_parts(ls_device *dev, const problem *p, const int64_t *cut, int chunks) {
    const ls_dtype dtype = dev->acc == LS_F64 ? LS_F64 : p->dtype;
    results r = results_create(dev, p);
    void *q = typed(dtype, p->q, p->q_elems), *dout = typed(dtype, p->dout, p->o_elems);
    ls_attention op = operation(p, dtype);
    op.q = q;
    op.k = at(q, dtype, p->k_at);
    op.v = at(q, dtype, p->v_at);
    op.out = r.out;
    op.dout = dout;
    op.lse = r.lse;
    op.dq = r.grad;
    op.dk = at(r.grad, dtype, p->k_at);
    op.dv = at(r.grad, dtype, p->v_at);
    for (int64_t i = 0; i < p->q_elems; i++) {
        if (i % p->q_stride < p->q_stride - p->gap) {
            put(dtype, r.grad, i, 0.0);
        }
    }
    int32_t *first = take(p->s.batch * p->s.q_len, sizeof *first);
    for (int backward = 0; backward < 2; backward++) {
        for (int a = 0; a < chunks; a++) {
            for (int b = a; b >= 0; b--) {
                const span keys = {cut[b], cut[b + 1]};
                ls_attention part = part_of(p, &op, (span){cut[a], cut[a + 1]}, keys);
                part_starts(p, keys, first);
                part.first_key = p->first ? first + cut[a] : NULL;
                part.first_key_batch = p->s.q_len;
                part.merge = !backward && b < a;
                part.add = backward;
                CHECK_OK(backward ? dev->ops->attention_backward(dev, &part)
                                  : dev->ops->attention_forward(dev, &part));
            }
        }
    }
    free(first);
    free(q);
    free(dout);
    return r;
}

/* A sequence in parts, as ring attention has it, is the sequence as a whole. */
static void check_parts(int64_t length) {
    static const shape shapes[] = {{2, 130, 130, 4, 2, 16},
                                   {1, 67, 67, 7, 1, 96},
                                   {3, 5, 5, 2, 2, 3},
                                   {1, 201, 201, 3, 3, 64}};
    for (int i = has_f32 ? 0 : 1; i < 8; i += has_f32 ? 1 : 2) {
        problem p = problem_create(i % 2 ? LS_BF16 : LS_F32, shapes[i / 2], 7000 + (uint64_t)i);
        if (length > 0) {
            problem_divide(&p, length, 7100 + (uint64_t)i);
        }
        const int64_t n = p.s.q_len;
        const int64_t cut[] = {0, n / 4, n / 4 + 1, n / 2 + 1, n};
        results expected = run(reference, &p);
        results ref = run_parts(reference, &p, cut, 4), found = run_parts(cpu[2], &p, cut, 4);
        const double tolerance = p.dtype == LS_F32 ? 4e-6 : 2e-2;
        compare("out", &p, p.o_elems, p.o_stride, LS_F64, ref.out, expected.out, 1e-13);
        compare("grad", &p, p.q_elems, p.q_stride, LS_F64, ref.grad, expected.grad, 1e-13);
        compare("out", &p, p.o_elems, p.o_stride, p.dtype, found.out, expected.out, tolerance);
        compare("lse", &p, p.lse_elems, 1, LS_F32, found.lse, expected.lse, 1e-6);
        compare("grad", &p, p.q_elems, p.q_stride, p.dtype, found.grad, expected.grad, tolerance);
        results_release(&expected);
        results_release(&ref);
        results_release(&found);
        problem_release(&p);
    }
}

static void test_parts(void) {
    check_parts(0);
    check_parts(9);
    check_parts(60);
}

/* The reference of a sequence of documents is that of each alone. */
static void check_alone(const problem *p) {
    results whole = run(reference, p), alone = run(reference, p);
    for (int64_t b = 0; b < p->s.batch; b++) {
        for (int64_t t = 0, end; t < p->s.q_len; t = end) {
            for (end = t; end < p->s.q_len && p->first[b * p->s.q_len + end] == t; end++) {
            }
            problem one = *p;
            one.first = NULL;
            one.s.batch = 1;
            one.s.q_len = one.s.kv_len = end - t;
            one.q = one.kv = p->q + b * p->q_batch + t * p->q_stride;
            one.dout = p->dout + (b * p->s.q_len + t) * p->o_stride;
            one.q_batch = one.kv_batch = one.q_elems = one.kv_elems = (end - t) * p->q_stride;
            one.o_elems = (end - t) * p->o_stride;
            one.lse_elems = (end - t) * p->s.heads;
            results r = run(reference, &one);
            memcpy((double *)alone.out + (b * p->s.q_len + t) * p->o_stride, r.out,
                   (size_t)one.o_elems * sizeof(double));
            memcpy((double *)alone.grad + b * p->q_batch + t * p->q_stride, r.grad,
                   (size_t)one.q_elems * sizeof(double));
            results_release(&r);
        }
    }
    compare("out", p, p->o_elems, p->o_stride, LS_F64, whole.out, alone.out, 1e-13);
    compare("grad", p, p->q_elems, p->q_stride, LS_F64, whole.grad, alone.grad, 1e-13);
    results_release(&whole);
    results_release(&alone);
}

/* Documents shorter and longer than tiles and blocks; a NaN stays in its own. */
static void test_documents(void) {
    static const int64_t lengths[] = {1, 9, 70, 250};
    static const shape shapes[] = {{2, 200, 200, 4, 2, 64}, {1, 333, 333, 2, 2, 16},
                                   {1, 130, 130, 7, 1, 80}, {1, 280, 280, 1, 1, 128},
                                   {1, 64, 65, 2, 2, 128},  {2, 1, 9, 6, 2, 2}};
    for (uint64_t i = 0; i < 6 * 4; i++) {
        for (int type = has_f32 ? 0 : 1; type < 2 && i % share == 0; type++) {
            problem p = problem_create(type ? LS_BF16 : LS_F32, shapes[i % 6], 8000 + i);
            problem_divide(&p, lengths[i / 6], 8100 + i);
            if (p.fused && type == 0) {
                check_alone(&p);
            }
            check_case(&p, 1.0);
            if (p.fused && p.s.heads > 2) {
                spoil(&p, which[i % 4], p.s.q_len / 2, i % 3 ? (double)NAN : (double)INFINITY);
                check_case(&p, 1.0);
            }
            problem_release(&p);
        }
    }
}

/* Rows that see no key of any, whole tiles of them. */
static void test_none_seen(void) {
    problem p = problem_create(LS_BF16, (shape){1, 192, 192, 4, 2, 64}, 8500);
    p.first = take(p.s.q_len, sizeof *p.first);
    for (int64_t t = 0; t < p.s.q_len; t++) {
        p.first[t] = t < 5 ? 0 : t < 70 ? 180 : 193;
    }
    p.full = true;
    check_case(&p, 1.0);
    problem_release(&p);
}

int main(void) {
    if (!devices_open()) {
        return 77;
    }
    test_parts();
    test_documents();
    test_none_seen();
    devices_close();
    return test_end();
}
