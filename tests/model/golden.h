/* Reads golden/NAME.bin (its format is described in golden/make_golden.py) and sets up models from
 * it. */
#ifndef LS_TESTS_MODEL_GOLDEN_H
#define LS_TESTS_MODEL_GOLDEN_H

#include "runtime/base/file.h"
#include "runtime/model/model.h"
#include "tests/test.h"

typedef struct golden {
    char *data;
    size_t bytes;
} golden;

typedef struct golden_tensor {
    int32_t dtype, ndim;
    int64_t dims[4], elems;
    const char *values; /* not aligned */
} golden_tensor;

static inline golden golden_open(const char *name) {
    char path[1024];
    golden g = {0};
    snprintf(path, sizeof path, "%s/%s.bin", LS_GOLDEN_DIR, name);
    CHECK_OK(ls_file_read(path, (size_t)64 << 20, &g.data, &g.bytes));
    if (!g.data || g.bytes < 8 || memcmp(g.data, "LSGOLD1\n", 8) != 0) {
        fprintf(stderr, "%s is not a file of golden values\n", path);
        exit(1);
    }
    return g;
}

static inline bool golden_look(const golden *g, const char *name, golden_tensor *found) {
    static const int64_t elem_bytes[] = {8, 4, 4};
    for (size_t at = 8; at + 104 <= g->bytes;) {
        const char *head = g->data + at;
        golden_tensor t = {.elems = 1, .values = head + 104};
        memcpy(&t.dtype, head + 64, 4);
        memcpy(&t.ndim, head + 68, 4);
        memcpy(t.dims, head + 72, 32);
        for (int d = 0; d < t.ndim; d++) {
            t.elems *= t.dims[d];
        }
        if (strncmp(head, name, 64) == 0) {
            *found = t;
            return true;
        }
        at += 104 + (size_t)(t.elems * elem_bytes[t.dtype]);
    }
    return false;
}

/* Ends the test when there is no such tensor. */
static inline golden_tensor golden_find(const golden *g, const char *name) {
    golden_tensor t;
    if (!golden_look(g, name, &t)) {
        fprintf(stderr, "the golden file lacks '%s'\n", name);
        exit(1);
    }
    return t;
}

static inline double golden_value(const golden_tensor *t, int64_t i) {
    double f64;
    float f32;
    int32_t i32;
    switch (t->dtype) {
    case 0:
        memcpy(&f64, t->values + 8 * i, 8);
        return f64;
    case 1:
        memcpy(&f32, t->values + 4 * i, 4);
        return (double)f32;
    default:
        memcpy(&i32, t->values + 4 * i, 4);
        return i32;
    }
}

static inline double golden_number(const golden *g, const char *name) {
    golden_tensor t = golden_find(g, name);
    return golden_value(&t, 0);
}

static inline golden_tensor golden_param(const golden *g, const char *kind, const ls_param *param) {
    char name[2048];
    snprintf(name, sizeof name, "%s/%s", kind, param->name);
    golden_tensor t = golden_find(g, name);
    CHECK_INT(t.elems, param->elems / param->dims[0] * param->valid_rows);
    return t;
}

static inline ls_config_model golden_config(const golden *g) {
    ls_config_model c = {.family = (ls_family)golden_number(g, "config/family"),
                         .vocab = (int64_t)golden_number(g, "config/vocab"),
                         .vocab_multiple = (int64_t)golden_number(g, "config/vocab_multiple"),
                         .layers = (int64_t)golden_number(g, "config/layers"),
                         .channels = (int64_t)golden_number(g, "config/channels"),
                         .heads = (int64_t)golden_number(g, "config/heads"),
                         .kv_heads = (int64_t)golden_number(g, "config/kv_heads"),
                         .head_dim = (int64_t)golden_number(g, "config/head_dim"),
                         .ffn = (int64_t)golden_number(g, "config/ffn"),
                         .context = (int64_t)golden_number(g, "config/context"),
                         .tied = golden_number(g, "config/tied") != 0.0,
                         .norm_eps = golden_number(g, "config/norm_eps"),
                         .init_std = 0.02};
    if (c.family == LS_FAMILY_LLAMA3) {
        c.rope_theta = golden_number(g, "config/rope_theta");
        c.rope_scaling = (ls_rope_scaling)golden_number(g, "config/rope_scaling");
        c.rope_factor = golden_number(g, "config/rope_factor");
        c.rope_low_freq_factor = golden_number(g, "config/rope_low_freq_factor");
        c.rope_high_freq_factor = golden_number(g, "config/rope_high_freq_factor");
        c.rope_original_context = (int64_t)golden_number(g, "config/rope_original_context");
    }
    golden_tensor experts, flag;
    if (golden_look(g, "config/window", &flag)) {
        c.window = (int64_t)golden_number(g, "config/window");
        c.window_pattern = (int64_t)golden_number(g, "config/window_pattern");
    }
    c.qkv_bias = golden_look(g, "config/qkv_bias", &flag);
    c.qk_norm = golden_look(g, "config/qk_norm", &flag);
    if (golden_look(g, "config/experts", &experts)) {
        c.experts = (int64_t)golden_number(g, "config/experts");
        c.experts_per_token = (int64_t)golden_number(g, "config/experts_per_token");
        c.balance_loss = golden_number(g, "config/balance_loss");
    }
    return c;
}

/* Element i of host memory in the device's acc. */
static inline double acc_get(const ls_device *dev, const void *buf, int64_t i) {
    return dev->acc == LS_F64 ? ((const double *)buf)[i] : (double)((const float *)buf)[i];
}

static inline void acc_set(const ls_device *dev, void *buf, int64_t i, double value) {
    if (dev->acc == LS_F64) {
        ((double *)buf)[i] = value;
    } else {
        ((float *)buf)[i] = (float)value;
    }
}

/* Puts the initial values into a model's masters and copies. */
static inline void golden_init(const golden *g, const ls_device *dev, ls_model *model) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int p = 0; p < count; p++) {
        golden_tensor t = golden_param(g, "init", &params[p]);
        for (int64_t i = 0; i < t.elems; i++) {
            acc_set(dev, ls_model_masters(model), params[p].offset + i, golden_value(&t, i));
        }
    }
    CHECK_OK(ls_model_refresh(model));
}

/* The tokens and targets [B,T]; *valid = number of targets. */
typedef struct golden_batch {
    int64_t batch, seq, valid;
    int32_t tokens[64], targets[64];
} golden_batch;

static inline golden_batch golden_load_batch(const golden *g) {
    golden_tensor tokens = golden_find(g, "tokens"), targets = golden_find(g, "targets");
    golden_batch b = {.batch = tokens.dims[0], .seq = tokens.dims[1]};
    CHECK(tokens.elems <= 64);
    for (int64_t i = 0; i < tokens.elems; i++) {
        b.tokens[i] = (int32_t)golden_value(&tokens, i);
        b.targets[i] = (int32_t)golden_value(&targets, i);
        b.valid += b.targets[i] >= 0;
    }
    return b;
}

/* ||found - expected|| / ||expected|| over the real elements of a parameter. */
static inline double golden_error(const ls_device *dev, const void *flat, const ls_param *param,
                                  const golden_tensor *expected) {
    double difference = 0.0, size = 0.0;
    for (int64_t i = 0; i < expected->elems; i++) {
        double e = golden_value(expected, i), d = acc_get(dev, flat, param->offset + i) - e;
        difference += d * d;
        size += e * e;
    }
    return sqrt(difference / size);
}

#endif
