/* Operations on parts of a vocabulary, and copies of rows. The reference does the whole at once, so
 * that agreement with it shows both that the parts are right and that they fit together. */
#include "tests/device/kernel_ops.h"

#include <stdlib.h>

/* Columns [cut(part), cut(part + 1)) of dim[1]; the last of PARTS is empty. */
enum { PARTS = 4, WIDE = 8 }; /* WIDE: bf16 numbers of 16 bytes */
static int64_t cut(const kt_case *c, int part) {
    return part >= PARTS - 1 ? c->dim[1] : c->dim[1] * part / (PARTS - 1);
}

/* cross_entropy_parts: dim = rows, V, ld, with gradient, logits of dtype */
static int plan_cross_entropy_parts(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                    kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t n = c->dim[0] * c->dim[2];
    return KT_PLAN({"logits", c->dim[4] ? dtype : acc, n, KT_IN, .scale = 4.0, .cols = c->dim[2],
                    .valid = c->dim[1], .varied = true},
                   {"targets", LS_I32, c->dim[0], KT_IN, KT_TARGETS, .range = c->dim[1]},
                   {"losses", acc, c->dim[0], KT_OUT},
                   {"dlogits", dtype, c->dim[3] ? n : 0, KT_OUT});
}

/* Copies columns from first on between the whole matrix and a part's own. */
static ls_status copy_columns(ls_device *dev, ls_dtype dtype, int64_t rows, int64_t cols,
                              const void *x, int64_t ldx, void *y, int64_t ldy) {
    return dev->ops->copy_rows(
        dev,
        &(ls_copy_rows){
            .dtype = dtype, .rows = rows, .cols = cols, .ldx = ldx, .ldy = ldy, .x = x, .y = y});
}

static char *elems_at(const void *base, int64_t elems, ls_dtype dtype) {
    return (char *)(uintptr_t)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

/* memory: the shares [PARTS, rows, 3], then the logits and the dlogits of a part; of one dtype,
 * these lie on those. */
static ls_status run_parts_on(ls_device *dev, const kt_case *c, ls_cross_entropy op, char *memory) {
    const ls_dtype acc = dev->acc, logits_dtype = op.narrow ? op.dtype : acc;
    char *logits = elems_at(memory, PARTS * 3 * op.rows, acc);
    char *dlogits = op.narrow ? logits : elems_at(logits, op.rows * (op.ld + WIDE), acc);
    for (int pass = 0; pass < 2; pass++) {
        for (int part = 0; part < PARTS; part++) {
            const int64_t first = cut(c, part), width = cut(c, part + 1) - first;
            ls_cross_entropy own = op;
            own.first = first;
            own.vocab = width;
            own.ld = op.narrow ? (width / WIDE + 1) * WIDE : width + 1; /* with padding */
            own.logits = logits;
            own.share = elems_at(memory, part * 3 * op.rows, acc);
            own.shares = memory;
            own.parts = PARTS;
            own.losses = part == 0 ? op.losses : NULL;
            own.dlogits = op.dlogits ? dlogits : NULL;
            LS_TRY(copy_columns(dev, logits_dtype, op.rows, width,
                                elems_at(op.logits, first, logits_dtype), op.ld, logits, own.ld));
            if (pass == 0) {
                LS_TRY(dev->ops->cross_entropy_share(dev, &own));
                continue;
            }
            LS_TRY(dev->ops->cross_entropy_merge(dev, &own));
            if (op.dlogits) {
                LS_TRY(copy_columns(dev, op.dtype, op.rows, width, dlogits, own.ld,
                                    elems_at(op.dlogits, first, op.dtype), op.ld));
            }
        }
    }
    return LS_OK;
}

static ls_status run_cross_entropy_parts(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                         void *const *at) {
    const ls_cross_entropy op = {.dtype = dtype,
                                 .narrow = c->dim[4] != 0,
                                 .rows = c->dim[0],
                                 .vocab = c->dim[1],
                                 .ld = c->dim[2],
                                 .logits = at[0],
                                 .targets = at[1],
                                 .losses = at[2],
                                 .dlogits = c->dim[3] ? at[3] : NULL,
                                 .grad_scale = 0.125};
    if (dev->acc == LS_F64) {
        return dev->ops->cross_entropy(dev, &op);
    }
    const int64_t elems = PARTS * 3 * op.rows + 2 * op.rows * (op.ld + WIDE) + 1;
    void *memory;
    LS_TRY(dev->ops->alloc(dev, (size_t)elems * sizeof(float), &memory));
    ls_status status = run_parts_on(dev, c, op, memory);
    dev->ops->free(dev, memory);
    return status;
}

const kt_op kt_cross_entropy_parts = {"cross_entropy_parts",
                                      {1e-6, 2e-6},
                                      {3e-3, 5e-3},
                                      "as cross_entropy, the sum of a part rounded to fp32",
                                      plan_cross_entropy_parts,
                                      run_cross_entropy_parts};

/* embedding_parts: dim = rows, V, C: the rows of the parts, with position rows, added up */
static int plan_embedding_parts(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                                kt_buffer buffers[KT_BUFFERS_MAX]) {
    const int64_t C = c->dim[2];
    return KT_PLAN({"tokens", LS_I32, c->dim[0], KT_IN, KT_TOKENS, .range = c->dim[1]},
                   {"positions", LS_I32, c->dim[0], KT_IN, KT_TOKENS, .range = c->dim[1]},
                   {"wte", dtype, c->dim[1] * C, KT_IN}, {"wpe", dtype, c->dim[1] * C, KT_IN},
                   {"out", dtype, c->dim[0] * C, KT_OUT}, {"dout", dtype, c->dim[0] * C, KT_IN},
                   {"dwte", acc, c->dim[1] * C, KT_INOUT}, {"dwpe", acc, c->dim[1] * C, KT_INOUT});
}

static ls_status run_embedding_parts(ls_device *dev, const kt_case *c, ls_dtype dtype,
                                     void *const *at) {
    const int64_t C = c->dim[2], elems = c->dim[0] * C;
    const bool whole = dev->acc == LS_F64;
    void *partial;
    LS_TRY(dev->ops->alloc(dev, (size_t)(elems + 1) * ls_dtype_bytes(dtype), &partial));
    ls_status status = LS_OK;
    for (int part = 0; part < (whole ? 1 : PARTS) && status == LS_OK; part++) {
        const int64_t first = whole ? 0 : cut(c, part);
        ls_embedding op = {.dtype = dtype,
                           .rows = c->dim[0],
                           .seq = c->dim[0] > 0 ? c->dim[0] : 1,
                           .channels = C,
                           .vocab = (whole ? c->dim[1] : cut(c, part + 1)) - first,
                           .part = !whole,
                           .first = first,
                           .tokens = at[0],
                           .positions = at[1],
                           .wte = (char *)at[2] + first * C * (int64_t)ls_dtype_bytes(dtype),
                           .wpe = part == 0 ? at[3] : NULL,
                           .out = part == 0 ? at[4] : partial,
                           .dout = at[5],
                           .dwte = (char *)at[6] + first * C * (int64_t)ls_dtype_bytes(dev->acc),
                           .dwpe = part == 0 ? at[7] : NULL};
        LS_TRY_GOTO(dev->ops->embedding_forward(dev, &op), done);
        LS_TRY_GOTO(dev->ops->embedding_backward(dev, &op), done);
        if (part > 0) {
            LS_TRY_GOTO(dev->ops->add(dev, dtype, elems, partial, at[4]), done);
        }
    }
done:
    dev->ops->free(dev, partial);
    return status;
}

const kt_op kt_embedding_parts = {
    "embedding_parts",    {2e-6, 4e-6},
    {4e-3, 8e-3},         "a token's row and a position's, rounded before they are added",
    plan_embedding_parts, run_embedding_parts};

/* copy_rows: dim = rows, cols, ldx, ldy, add */
static int plan_copy_rows(const kt_case *c, ls_dtype dtype, ls_dtype acc,
                          kt_buffer buffers[KT_BUFFERS_MAX]) {
    (void)acc;
    return KT_PLAN({"x", dtype, c->dim[0] * c->dim[2], KT_IN, .varied = true},
                   {"y", dtype, c->dim[0] * c->dim[3], KT_INOUT});
}

static ls_status run_copy_rows(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at) {
    return dev->ops->copy_rows(dev, &(ls_copy_rows){.dtype = dtype,
                                                    .add = c->dim[4] != 0,
                                                    .rows = c->dim[0],
                                                    .cols = c->dim[1],
                                                    .ldx = c->dim[2],
                                                    .ldy = c->dim[3],
                                                    .x = at[0],
                                                    .y = at[1]});
}

const kt_op kt_copy_rows = {"copy_rows",    {1e-7, 1e-7},   {3e-3, 5e-3},
                            "one rounding", plan_copy_rows, run_copy_rows};
