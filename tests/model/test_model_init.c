/* Initial values depend on seed, name and index only; they have the table's mean and deviation. */
#include "runtime/base/hash.h"
#include "runtime/model/init_normals.h"
#include "runtime/model/model.h"
#include "tests/test.h"

#include "tests/reference/reference.h"

static const ls_config_model small = {.family = LS_FAMILY_GPT2,
                                      .vocab = 500,
                                      .vocab_multiple = 64,
                                      .layers = 3,
                                      .channels = 48,
                                      .heads = 4,
                                      .kv_heads = 4,
                                      .head_dim = 12,
                                      .ffn = 192,
                                      .context = 20,
                                      .tied = true,
                                      .norm_eps = 1e-5,
                                      .init_std = 0.02};

#define VALUES_XXH64 0xa291b4a60710a4e9ull /* of the doubles of model `small`, seed 11 */

static ls_model *make(const ls_config_model *config, ls_device *dev, ls_dtype dtype,
                      uint64_t seed) {
    ls_model *model = NULL;
    CHECK_OK(ls_model_create(
        &(ls_model_options){.config = config, .dev = dev, .batch = 1, .seq = 4, .dtype = dtype},
        &model));
    CHECK_OK(ls_model_init(model, seed));
    return model;
}

static void check_normal(const ls_param *param, const double *x) {
    int64_t n = param->elems / param->dims[0] * param->valid_rows;
    double sum = 0.0, squares = 0.0, fourth = 0.0, neighbours = 0.0;
    for (int64_t i = 0; i < n; i++) {
        double z = x[i] / param->init_std;
        sum += z;
        squares += z * z;
        fourth += z * z * z * z;
        neighbours += i > 0 ? z * x[i - 1] / param->init_std : 0.0;
    }
    /* Six standard errors: deviations of the means are 1, sqrt 2, sqrt 96, 1 over sqrt n. */
    double unit = 6.0 / sqrt((double)n);
    CHECK_NEAR(sum / (double)n, 0.0, 0.0, unit);
    CHECK_NEAR(squares / (double)n, 1.0, 0.0, unit * sqrt(2.0));
    CHECK_NEAR(fourth / (double)n, 3.0, 0.0, unit * sqrt(96.0));
    CHECK_NEAR(neighbours / (double)n, 0.0, 0.0, unit);
    for (int64_t i = n; i < param->elems; i++) {
        CHECK(x[i] == 0.0);
    }
}

static void check_values(ls_device *dev) {
    ls_model *model = make(&small, dev, LS_F64, 11);
    const double *masters = ls_model_masters(model);
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        const double *x = masters + params[p].offset;
        if (params[p].init == LS_INIT_NORMAL) {
            bool residual = strstr(params[p].name, "proj.") || strstr(params[p].name, "down.");
            CHECK_NEAR(params[p].init_std, residual ? 0.02 / sqrt(6.0) : 0.02, 1e-12, 0.0);
            check_normal(&params[p], x);
            continue;
        }
        for (int64_t i = 0; i < params[p].elems; i++) {
            CHECK(x[i] == (strstr(params[p].name, "norm.weight") ? 1.0 : 0.0));
        }
    }
    /* The same bits by every level of instructions and on every processor. */
    const uint64_t bytes = (uint64_t)ls_model_flat_elems(model) * sizeof(double);
    CHECK_INT(ls_xxh64(masters, bytes, 0), VALUES_XXH64);
    ls_model_destroy(model);
}

/* The same seed and name give the same numbers, in a model of other depth and padding too; other
 * seeds and names do not. */
static void check_dependence(ls_device *dev) {
    ls_config_model other = small;
    other.layers = 1;
    other.vocab_multiple = 1;
    ls_model *a = make(&small, dev, LS_F64, 11), *b = make(&other, dev, LS_F64, 11),
             *c = make(&small, dev, LS_F64, 12);
    int count, other_count;
    const ls_param *params = ls_model_params(a, &count), *others = ls_model_params(b, &other_count);
    const double *x = ls_model_masters(a), *y = ls_model_masters(b), *z = ls_model_masters(c);
    for (int p = 0; p < 5; p++) {
        CHECK_STR(params[p].name, others[p].name);
        size_t bytes = (size_t)others[p].elems * sizeof(double);
        CHECK(memcmp(x + params[p].offset, y + others[p].offset, bytes) == 0);
    }
    CHECK(x[0] != z[0] && x[0] != x[params[1].offset]);
    ls_model_destroy(a);
    ls_model_destroy(b);
    ls_model_destroy(c);
}

/* Every level that this machine has against plain instructions: any count, counters of more than 32
 * bits, all of seed and stream. */
static void check_levels(void) {
    enum { PAIRS = 83 };
    const uint64_t firsts[] = {0, 7, (UINT64_C(1) << 32) - 30, UINT64_C(0x123456789abcdef)};
    ls_isa best;
    CHECK_OK(ls_cpu_isa(&best));
    for (int isa = 0; isa <= (int)best; isa++) {
        for (int i = 0; i < 4 * (PAIRS + 1); i++) {
            const uint64_t first = firsts[i % 4], seed = ls_xxh64(&i, sizeof i, 1),
                           stream = ls_xxh64(&i, sizeof i, 2);
            const int pairs = i / 4;
            float want[2 * PAIRS + 1], got[2 * PAIRS + 1];
            want[2 * pairs] = got[2 * pairs] = -7.0f;
            ls_normals_of(LS_ISA_GENERIC)(seed, stream, first, pairs, 0.02f, want);
            ls_normals_of((ls_isa)isa)(seed, stream, first, pairs, 0.02f, got);
            CHECK(memcmp(want, got, (size_t)(2 * pairs + 1) * sizeof *want) == 0);
        }
    }
}

#ifndef NO_CPU
/* fp32 masters are the rounded doubles, whatever the number of threads; copies are rounded once. */
static void check_cpu(ls_device *ref) {
    ls_device *one, *two;
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &one));
    CHECK_OK(ls_device_open_cpu(&(ls_device_options){.threads = 2}, &two));
    ls_model *exact = make(&small, ref, LS_F64, 11), *a = make(&small, one, LS_F32, 11),
             *b = make(&small, two, LS_BF16, 11);
    int64_t elems = ls_model_flat_elems(exact);
    const double *x = ls_model_masters(exact);
    const float *y = ls_model_masters(a);
    CHECK(memcmp(y, ls_model_masters(b), (size_t)elems * sizeof(float)) == 0);
    for (int64_t i = 0; i < elems; i++) {
        CHECK((float)x[i] == y[i]);
    }
    CHECK(ls_model_copies(a) == NULL);
    const ls_bf16 *copies = ls_model_copies(b);
    int count;
    const ls_param *params = ls_model_params(b, &count);
    for (int p = 0; p < count; p++) {
        for (int64_t i = 0; params[p].matrix && i < params[p].elems; i++) {
            CHECK(copies[params[p].offset + i] == ls_bf16_from_f32(y[params[p].offset + i]));
        }
    }
    ls_model_destroy(exact);
    ls_model_destroy(a);
    ls_model_destroy(b);
    one->ops->close(one);
    two->ops->close(two);
}
#endif

int main(void) {
    ls_device *dev;
    CHECK_OK(ls_device_open_reference(NULL, &dev));
    check_values(dev);
    check_dependence(dev);
    check_levels();
#ifndef NO_CPU
    check_cpu(dev);
#endif
    dev->ops->close(dev);
    return test_end();
}
