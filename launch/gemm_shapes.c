#include "launch/gemm_shapes.h"

#include "launch/bench_fill.h"
#include "runtime/base/arena.h"
#include "runtime/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the head's matrix are many, so the model takes its input in pieces of this many rows. */
#define HEAD_ROWS 1024

typedef struct shape_list {
    ls_gemm_shape *shapes;
    int count;
    int64_t rows; /* of the micro-batch */
    ls_dtype dtype, acc;
} shape_list;

static void add_shape(shape_list *list, const char *name, const char *kind, ls_gemm_shape shape) {
    snprintf(shape.name, sizeof shape.name, "%s %s", name, kind);
    for (int i = 0; i < list->count; i++) {
        ls_gemm_shape *known = &list->shapes[i];
        if (strcmp(known->name, shape.name) == 0 && known->op.m == shape.op.m &&
            known->op.n == shape.op.n && known->op.k == shape.op.k) {
            known->count += shape.count;
            return;
        }
    }
    list->shapes[list->count++] = shape;
}

/* The three products of a projection with a weight [out, in], on rows of its input at a time. */
static void add_projection(shape_list *list, const char *name, int64_t out, int64_t in,
                           int64_t rows, bool head, bool bias) {
    int64_t count = list->rows / rows;
    bool residual = strstr(name, "proj") || strstr(name, "down");
    ls_gemm forward = {.dtype = list->dtype,
                       .c_dtype = head ? list->acc : list->dtype,
                       .trans_b = true,
                       .m = rows,
                       .n = out,
                       .k = in,
                       .lda = in,
                       .ldb = in,
                       .ldc = out};
    ls_gemm dx = {.dtype = list->dtype,
                  .c_dtype = list->dtype,
                  .m = rows,
                  .n = in,
                  .k = out,
                  .lda = out,
                  .ldb = in,
                  .ldc = in};
    ls_gemm dw = {.dtype = list->dtype,
                  .c_dtype = list->acc,
                  .trans_a = true,
                  .accumulate = true,
                  .m = out,
                  .n = in,
                  .k = rows,
                  .lda = out,
                  .ldb = in,
                  .ldc = in};
    add_shape(list, name, "forward",
              (ls_gemm_shape){.count = count, .op = forward, .bias = bias, .residual = residual});
    add_shape(list, name, "dX", (ls_gemm_shape){.count = count, .op = dx});
    add_shape(list, name, "dW", (ls_gemm_shape){.count = count, .op = dw});
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* "attn.qkv" of "layers.3.attn.qkv.weight". */
static void short_name(const ls_param *param, char *name, size_t size) {
    const char *start = param->name;
    if (strncmp(start, "layers.", 7) == 0) {
        start += 7;
        start += strcspn(start, ".") + 1;
    }
    int length = (int)(strlen(start) - strlen(".weight"));
    snprintf(name, size, "%.*s", length, start);
}

static bool has_bias(const ls_param *params, int count, int weight) {
    return weight + 1 < count && params[weight + 1].block == params[weight].block &&
           ends_with(params[weight + 1].name, ".bias");
}

ls_status ls_gemm_shapes(const ls_config_model *config, int64_t rows, ls_dtype dtype, ls_dtype acc,
                         ls_gemm_shape **shapes, int *count) {
    ls_param *params;
    int param_count;
    int64_t flat_elems;
    *shapes = NULL;
    LS_TRY(ls_model_table(config, &params, &param_count, &flat_elems));
    shape_list list = {.rows = rows, .dtype = dtype, .acc = acc};
    ls_status status = ls_calloc((size_t)param_count * 3, sizeof *list.shapes, &list.shapes);
    int64_t head_rows = rows % HEAD_ROWS == 0 ? HEAD_ROWS : rows;
    for (int i = 0; status == LS_OK && i < param_count; i++) {
        const ls_param *p = &params[i];
        bool embedding = strstr(p->name, "_embed") != NULL;
        bool tied_head = config->tied && strcmp(p->name, "tok_embed.weight") == 0;
        bool head = tied_head || strncmp(p->name, "head.", 5) == 0;
        if (p->ndim != 2 || (embedding && !tied_head)) {
            continue;
        }
        char name[32];
        short_name(p, name, sizeof name);
        add_projection(&list, head ? "head" : name, p->dims[0], p->dims[1], head ? head_rows : rows,
                       head, has_bias(params, param_count, i));
    }
    free(params);
    *shapes = list.shapes;
    *count = list.count;
    return status;
}

double ls_gemm_shape_flops(const ls_gemm_shape *shape) {
    return 2.0 * (double)shape->op.m * (double)shape->op.n * (double)shape->op.k;
}

static size_t at_least(size_t a, int64_t elems, ls_dtype dtype) {
    size_t b = (size_t)elems * ls_dtype_bytes(dtype);
    return a > b ? a : b;
}

ls_status ls_gemm_operands_create(ls_device *dev, const ls_gemm_shape *shapes, int count,
                                  ls_gemm_operands *operands) {
    ls_gemm_operands *o = operands;
    *o = (ls_gemm_operands){0};
    for (int i = 0; i < count; i++) {
        const ls_gemm *op = &shapes[i].op;
        o->a_bytes = at_least(o->a_bytes, op->m * op->k, op->dtype);
        o->b_bytes = at_least(o->b_bytes, op->k * op->n, op->dtype);
        o->c_bytes = at_least(o->c_bytes, op->m * op->n, op->c_dtype);
        o->bias_bytes = at_least(o->bias_bytes, op->n, dev->acc);
    }
    ls_status status;
    LS_TRY_GOTO(dev->ops->alloc(dev, o->a_bytes, &o->a), fail);
    LS_TRY_GOTO(dev->ops->alloc(dev, o->b_bytes, &o->b), fail);
    LS_TRY_GOTO(dev->ops->alloc(dev, o->c_bytes, &o->c), fail);
    LS_TRY_GOTO(dev->ops->alloc(dev, o->bias_bytes, &o->bias), fail);
    if (count > 0) {
        ls_bench_fill(shapes[0].op.dtype, o->a, o->a_bytes);
        ls_bench_fill(shapes[0].op.dtype, o->b, o->b_bytes);
        ls_bench_fill(dev->acc, o->bias, o->bias_bytes);
    }
    return LS_OK;
fail:
    ls_gemm_operands_release(dev, o);
    return status;
}

void ls_gemm_operands_release(ls_device *dev, ls_gemm_operands *operands) {
    void *pieces[] = {operands->a, operands->b, operands->c, operands->bias};
    for (int i = 0; i < 4; i++) {
        if (pieces[i]) {
            dev->ops->free(dev, pieces[i]);
        }
    }
    *operands = (ls_gemm_operands){0};
}

ls_gemm ls_gemm_shape_op(const ls_gemm_shape *shape, const ls_gemm_operands *operands) {
    ls_gemm op = shape->op;
    op.a = operands->a;
    op.b = operands->b;
    op.c = operands->c;
    op.bias = shape->bias ? operands->bias : NULL;
    op.residual = shape->residual ? operands->c : NULL;
    return op;
}
