/* Products of a mixture's experts in one launch, beside plain sums in double precision: experts
 * without rows, with one, and with more than a tile; sizes that 16-byte accesses fit or do not. */
#include "runtime/base/rng.h"
#include "runtime/device/device_async.h"
#include "tests/device/kernel_cases.h"
#include "tests/test.h"

#include <math.h>
#include <stdlib.h>

enum { EXPERTS = 6 };
static const int32_t bounds[EXPERTS + 1] = {0, 130, 130, 131, 390, 399, 399};

typedef struct experts {
    ls_expert_product what;
    ls_dtype dtype;
    int64_t out, in;
} experts;

static double get(ls_dtype dtype, const void *x, int64_t i) {
    if (dtype == LS_BF16) {
        const uint32_t bits = (uint32_t)((const uint16_t *)x)[i] << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        return value;
    }
    return ((const float *)x)[i];
}

static void *numbers(ls_dtype dtype, int64_t n, uint64_t stream) {
    void *x = malloc((size_t)n * ls_dtype_bytes(dtype));
    for (int64_t i = 0; x && i < n; i++) {
        const float value = (float)(ls_rng_draw(9, stream, (uint64_t)i).v[0] * 0x1p-31 - 1.0);
        if (dtype == LS_BF16) {
            ((ls_bf16 *)x)[i] = ls_bf16_from_f32(value);
        } else {
            ((float *)x)[i] = value;
        }
    }
    return x;
}

/* Element (row, column) of the product of expert e, and the sum of its terms' magnitudes. */
static double product(const experts *c, const void *a, const void *b, int e, int64_t row,
                      int64_t column, double *size) {
    const bool forward = c->what == LS_EXPERT_FORWARD, weights = c->what == LS_EXPERT_WEIGHT_GRAD;
    const int64_t k = weights ? bounds[e + 1] - bounds[e] : forward ? c->in : c->out;
    double sum = 0.0;
    for (int64_t i = 0; i < k; i++) {
        const int64_t at_a = weights ? (bounds[e] + i) * c->out + row : row * k + i;
        const int64_t at_b = weights   ? (bounds[e] + i) * c->in + column
                             : forward ? (e * c->out + column) * c->in + i
                                       : (e * c->out + i) * c->in + column;
        const double term = get(c->dtype, a, at_a) * get(c->dtype, b, at_b);
        sum += term;
        *size += fabs(term);
    }
    return sum;
}

/* How many elements are wrong. */
static int compare(const experts *c, const void *a, const void *b, const void *before,
                   const void *found) {
    const bool weights = c->what == LS_EXPERT_WEIGHT_GRAD;
    const int64_t columns = c->what == LS_EXPERT_FORWARD ? c->out : c->in;
    const ls_dtype dtype = weights ? LS_F32 : c->dtype;
    int wrong = 0;
    for (int e = 0; e < EXPERTS; e++) {
        const int64_t first = weights ? 0 : bounds[e], end = weights ? c->out : bounds[e + 1];
        for (int64_t i = first * columns; i < end * columns; i++) {
            const int64_t at = i + (weights ? e * c->out * columns : 0);
            double size = 0.0;
            const double sum = product(c, a, b, e, i / columns, i % columns, &size);
            const double expected = sum + (weights ? get(dtype, before, at) : 0.0);
            const double error = fabs(get(dtype, found, at) - expected);
            wrong += !(error <= 4e-6 * size + (dtype == LS_BF16 ? 0x1p-8 : 1e-6) * fabs(expected));
        }
    }
    return wrong;
}

static void check_product(ls_device *dev, const experts *c) {
    const bool weights = c->what == LS_EXPERT_WEIGHT_GRAD;
    const int64_t rows = bounds[EXPERTS], w_elems = EXPERTS * c->out * c->in;
    const int64_t a_elems = rows * (c->what == LS_EXPERT_FORWARD ? c->in : c->out);
    const int64_t b_elems = weights ? rows * c->in : w_elems;
    const int64_t c_elems = weights ? w_elems : rows * c->in + rows * c->out - a_elems;
    const ls_dtype dtype = weights ? LS_F32 : c->dtype;
    const size_t bytes[] = {(size_t)a_elems * ls_dtype_bytes(c->dtype),
                            (size_t)b_elems * ls_dtype_bytes(c->dtype),
                            (size_t)c_elems * ls_dtype_bytes(dtype), sizeof bounds};
    void *host[] = {numbers(c->dtype, a_elems, 1), numbers(c->dtype, b_elems, 2),
                    numbers(dtype, c_elems, 3), NULL};
    void *at[4], *found[] = {malloc(bytes[2]), malloc(bytes[2])};
    if (!weights) {
        memset(host[2], 0xff, bytes[2]); /* NaNs: what is not written is found */
    }
    for (int i = 0; i < 4; i++) {
        CHECK_OK(dev->ops->alloc(dev, bytes[i], &at[i]));
        CHECK_OK(dev->ops->upload(dev, at[i], i < 3 ? host[i] : (const void *)bounds, bytes[i]));
    }
    for (int run = 0; run < 2; run++) {
        CHECK_OK(dev->ops->upload(dev, at[2], host[2], bytes[2]));
        CHECK_OK(dev->async->expert_products(dev, &(ls_expert_products){.what = c->what,
                                                                        .dtype = c->dtype,
                                                                        .experts = EXPERTS,
                                                                        .rows = rows,
                                                                        .out = c->out,
                                                                        .in = c->in,
                                                                        .bounds = at[3],
                                                                        .a = at[0],
                                                                        .b = at[1],
                                                                        .c = at[2]}));
        CHECK_OK(dev->ops->download(dev, found[run], at[2], bytes[2]));
    }
    CHECK_INT(compare(c, host[0], host[1], host[2], found[0]), 0);
    CHECK(memcmp(found[0], found[1], bytes[2]) == 0);
    for (int i = 0; i < 4; i++) {
        dev->ops->free(dev, at[i]);
        free(i < 3 ? host[i] : NULL);
    }
    free(found[0]);
    free(found[1]);
}

int kt_check_experts(const char *device) {
    static const int64_t sizes[][2] = {{136, 72}, {35, 131}};
    ls_device *dev;
    CHECK_OK(kt_open(device, 1, &dev));
    for (int i = 0; dev->async && i < 12; i++) {
        check_product(dev, &(experts){.what = (ls_expert_product)(i % 3),
                                      .dtype = i / 3 % 2 ? LS_BF16 : LS_F32,
                                      .out = sizes[i / 6][0],
                                      .in = sizes[i / 6][1]});
    }
    dev->ops->close(dev);
    return test_failures;
}
