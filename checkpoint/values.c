#include "checkpoint/values.h"
#include "checkpoint/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SLAB_BYTES ((int64_t)32 << 20)

static double half_to_f64(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double x = exponent == 0    ? ldexp(mantissa, -24)
               : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                : ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -x : x;
}

double ls_value_f64(const void *src, ls_dtype dtype) {
    double x = 0;
    ls_values_to_f64(&x, src, dtype, 1);
    return x;
}

#define AS_F64(type, expression)                                                                   \
    for (int64_t i = 0; i < count; i++) {                                                          \
        type v;                                                                                    \
        memcpy(&v, (const char *)src + (size_t)i * sizeof v, sizeof v);                            \
        out[i] = (double)(expression);                                                             \
    }                                                                                              \
    break

void ls_values_to_f64(double *out, const void *src, ls_dtype dtype, int64_t count) {
    switch (dtype) {
    case LS_F32:
        AS_F64(float, v);
    case LS_F64:
        AS_F64(double, v);
    case LS_BF16:
        AS_F64(uint16_t, ls_bf16_to_f32(v));
    case LS_F16:
        AS_F64(uint16_t, half_to_f64(v));
    case LS_I32:
        AS_F64(int32_t, v);
    case LS_I64:
        AS_F64(int64_t, v);
    case LS_U8:
        AS_F64(uint8_t, v);
    case LS_U16:
        AS_F64(uint16_t, v);
    case LS_U32:
        AS_F64(uint32_t, v);
    case LS_U64:
        AS_F64(uint64_t, v);
    case LS_DTYPE_COUNT:
        break;
    }
}

bool ls_dtype_is_float(ls_dtype dtype) {
    return dtype == LS_F32 || dtype == LS_F64 || dtype == LS_BF16 || dtype == LS_F16;
}

ls_status ls_values_convert(void *dst, ls_dtype to, const void *src, ls_dtype from, int64_t count) {
    if (to == from) {
        memcpy(dst, src, (size_t)count * ls_dtype_bytes(to));
        return LS_OK;
    }
    if ((to != LS_F32 && to != LS_BF16) || !ls_dtype_is_float(from)) {
        return LS_FAIL(LS_E_UNSUPPORTED, "elements of %s cannot be written as %s",
                       from < LS_DTYPE_COUNT ? ls_dtype_name(from) : "an unknown type",
                       ls_dtype_name(to));
    }
    enum { BLOCK = 1024 };
    double block[BLOCK];
    size_t from_bytes = ls_dtype_bytes(from), to_bytes = ls_dtype_bytes(to);
    for (int64_t done = 0; done < count; done += BLOCK) {
        int64_t n = count - done < BLOCK ? count - done : BLOCK;
        ls_values_to_f64(block, (const char *)src + (size_t)done * from_bytes, from, n);
        char *out = (char *)dst + (size_t)done * to_bytes;
        for (int64_t i = 0; i < n; i++) {
            float value = (float)block[i];
            ls_bf16 rounded = ls_bf16_from_f32(value);
            memcpy(out + (size_t)i * to_bytes, to == LS_F32 ? (void *)&value : (void *)&rounded,
                   to_bytes);
        }
    }
    return LS_OK;
}

ls_ckpt_tensor ls_ckpt_entry_tensor(const ls_ckpt_entry *entry) {
    ls_ckpt_tensor t = {.name = entry->name, .dtype = entry->dtype, .ndim = entry->ndim};
    memcpy(t.dims, entry->dims, sizeof t.dims);
    t.box = ls_box_whole(t.ndim, t.dims);
    return t;
}

/* Chunks that make a slab from chunk `first` on: several only along dimension 0, where they are
 * one box. */
static int64_t slab_box(const ls_ckpt_grid *grid, const ls_ckpt_piece *piece, int64_t first,
                        ls_box *box) {
    int64_t count = 1, elem;
    ls_ckpt_grid_box(grid, first, box, &elem);
    if (grid->axis == 0) {
        int64_t most = SLAB_BYTES / grid->chunk_bytes, left = grid->count - first;
        count = most < 1 ? 1 : most < left ? most : left;
        ls_box last;
        ls_ckpt_grid_box(grid, first + count - 1, &last, &elem);
        box->extent[0] = last.start[0] + last.extent[0] - box->start[0];
    }
    for (int d = 0; d < box->ndim; d++) {
        box->start[d] += piece->box.start[d];
    }
    return count;
}

ls_status ls_ckpt_stream(ls_ckpt *ckpt, const ls_ckpt_entry *entry, ls_ckpt_slab_fn fn,
                         void *context) {
    ls_ckpt_tensor t = ls_ckpt_entry_tensor(entry);
    size_t capacity = 0;
    ls_status status = LS_OK;
    for (int p = 0; p < entry->piece_count && status == LS_OK; p++) {
        ls_ckpt_grid grid;
        ls_ckpt_piece_grid(entry, &entry->pieces[p], &grid);
        for (int64_t k = 0; k < grid.count && status == LS_OK;) {
            k += slab_box(&grid, &entry->pieces[p], k, &t.box);
            size_t bytes = (size_t)(ls_box_elems(&t.box) * grid.elem_bytes);
            if (bytes > capacity) {
                free(t.data);
                t.data = malloc(bytes);
                capacity = bytes;
            }
            status =
                ckpt->stop && *ckpt->stop ? LS_FAIL(LS_E_STOPPED, "stopped in '%s'", entry->name)
                : t.data
                    ? ls_ckpt_load(ckpt, &t, 1)
                    : LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes of '%s'", bytes, entry->name);
            status = status == LS_OK ? fn(context, p, &t.box, t.data) : status;
        }
    }
    free(t.data);
    return status;
}
