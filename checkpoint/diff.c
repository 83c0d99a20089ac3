#include "checkpoint/diff.h"
#include "checkpoint/values.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct pass {
    ls_ckpt *b;
    ls_ckpt_tensor other; /* of b */
    size_t capacity;
    double rtol;
    int64_t first; /* flat index of the first that differs */
    ls_difference *out;
} pass;

/* The element's bits as a number in the order of its values. Zeros of both signs are equal. */
static int64_t ordered(const uint8_t *p, ls_dtype dtype) {
    size_t bytes = ls_dtype_bytes(dtype);
    uint64_t bits = 0;
    memcpy(&bits, p, bytes);
    uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
    return bits & sign ? -(int64_t)(bits - sign) : (int64_t)bits;
}

static uint64_t ulps_between(const uint8_t *a, const uint8_t *b, ls_dtype dtype) {
    uint64_t x = 0, y = 0;
    if (ls_dtype_is_float(dtype)) {
        x = (uint64_t)ordered(a, dtype);
        y = (uint64_t)ordered(b, dtype);
        return (int64_t)x < (int64_t)y ? y - x : x - y;
    }
    size_t bytes = ls_dtype_bytes(dtype);
    memcpy(&x, a, bytes);
    memcpy(&y, b, bytes);
    if (dtype == LS_I32 || dtype == LS_I64) { /* signed: moved up, so that they order as unsigned */
        uint64_t sign = (uint64_t)1 << (8 * bytes - 1);
        x ^= sign;
        y ^= sign;
    }
    return x < y ? y - x : x - y;
}

static bool within(double a, double b, double rtol) {
    return (isnan(a) && isnan(b)) || a == b ||
           (isfinite(a) && isfinite(b) && fabs(a - b) <= rtol * fmax(fabs(a), fabs(b)));
}

static int64_t flat_index(const ls_ckpt_tensor *t, int64_t elem) {
    int64_t flat = 0, stride = 1;
    for (int d = t->ndim - 1; d >= 0; d--) {
        flat += (t->box.start[d] + elem % t->box.extent[d]) * stride;
        elem /= t->box.extent[d];
        stride *= t->dims[d];
    }
    return flat;
}

static void element_compare(pass *p, int64_t i, const uint8_t *x, const uint8_t *y) {
    ls_dtype dtype = p->other.dtype;
    double a = ls_value_f64(x, dtype), b = ls_value_f64(y, dtype);
    if (p->rtol > 0 && within(a, b, p->rtol)) {
        return;
    }
    ls_difference *out = p->out;
    out->differing++;
    int64_t flat = p->first == 0 ? 0 : flat_index(&p->other, i);
    if (p->first < 0 || flat < p->first) {
        p->first = flat;
        out->a = a;
        out->b = b;
    }
    if (isnan(a) || isnan(b)) {
        out->nans += isnan(a) != isnan(b);
        return;
    }
    uint64_t ulps = ulps_between(x, y, dtype);
    double difference = a == b && ls_dtype_is_float(dtype) ? 0.0 : fabs(a - b);
    out->max_abs = difference > out->max_abs ? difference : out->max_abs;
    out->max_ulp = ulps > out->max_ulp ? ulps : out->max_ulp;
}

static ls_status slab_compare(void *context, int piece, const ls_box *box, const void *data) {
    (void)piece;
    pass *p = context;
    size_t elem_bytes = ls_dtype_bytes(p->other.dtype);
    int64_t count = ls_box_elems(box);
    size_t bytes = (size_t)count * elem_bytes;
    if (bytes > p->capacity) {
        free(p->other.data);
        p->other.data = malloc(bytes);
        p->capacity = bytes;
        if (!p->other.data) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes of '%s'", bytes, p->other.name);
        }
    }
    p->other.box = *box;
    LS_TRY(ls_ckpt_load(p->b, &p->other, 1));
    const uint8_t *x = data, *y = p->other.data;
    for (int64_t i = 0; i < count; i++, x += elem_bytes, y += elem_bytes) {
        if (memcmp(x, y, elem_bytes) != 0) {
            element_compare(p, i, x, y);
        }
    }
    return LS_OK;
}

static bool same_piece(const ls_ckpt_piece *a, const ls_ckpt_piece *b) {
    bool same = a->chunks == b->chunks;
    for (int d = 0; d < a->box.ndim && same; d++) {
        same = a->box.start[d] == b->box.start[d] && a->box.extent[d] == b->box.extent[d] &&
               a->chunk[d] == b->chunk[d];
    }
    for (int64_t i = 0; i < a->chunks && same; i++) {
        same = a->places[i].xxh3 == b->places[i].xxh3;
    }
    return same;
}

static bool same_pieces(const ls_ckpt_entry *a, const ls_ckpt_entry *b) {
    bool same = a->piece_count == b->piece_count;
    for (int i = 0; i < a->piece_count && same; i++) {
        same = same_piece(&a->pieces[i], &b->pieces[i]);
    }
    return same;
}

ls_status ls_ckpt_compare(ls_ckpt *a, const ls_ckpt_entry *entry_a, ls_ckpt *b,
                          const ls_ckpt_entry *entry_b, double rtol, ls_difference *out) {
    pass p = {
        .b = b, .other = ls_ckpt_entry_tensor(entry_b), .rtol = rtol, .first = -1, .out = out};
    *out = (ls_difference){.elems = ls_box_elems(&p.other.box)};
    if (same_pieces(entry_a, entry_b)) {
        return LS_OK;
    }
    ls_status status = ls_ckpt_stream(a, entry_a, slab_compare, &p);
    free(p.other.data);
    int64_t rest = p.first;
    for (int d = entry_a->ndim - 1; d >= 0 && rest >= 0; d--) {
        out->first[d] = rest % entry_a->dims[d];
        rest /= entry_a->dims[d];
    }
    return status;
}
