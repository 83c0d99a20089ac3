/* Elements of checkpoints as numbers, and tensors box by box in bounded memory: what statistics,
 * comparison and conversion are made of. */
#ifndef LS_CHECKPOINT_VALUES_H
#define LS_CHECKPOINT_VALUES_H

#include "checkpoint/ckpt.h"

/* Elements [count] as doubles; integers beyond 2^53 are rounded. */
void ls_values_to_f64(double *out, const void *src, ls_dtype dtype, int64_t count);
double ls_value_f64(const void *src, ls_dtype dtype);
/* Elements [count] in another type, rounded to nearest even. Equal types keep every bit.
 * LS_E_UNSUPPORTED unless `to` is float32 or bfloat16 and `from` a floating-point type. */
ls_status ls_values_convert(void *dst, ls_dtype to, const void *src, ls_dtype from, int64_t count);
bool ls_dtype_is_float(ls_dtype dtype);

/* A slab: data [box], row-major, valid during the call. piece: index into entry->pieces. */
typedef ls_status (*ls_ckpt_slab_fn)(void *context, int piece, const ls_box *box, const void *data);

/* Passes all of a tensor in slabs of whole chunks (at most 32 MiB, or one chunk), each element
 * once, piece by piece, in row-major order inside a piece. Not collective. Errors as of
 * ls_ckpt_load. */
ls_status ls_ckpt_stream(ls_ckpt *ckpt, const ls_ckpt_entry *entry, ls_ckpt_slab_fn fn,
                         void *context);

/* The whole tensor as something to load or save, without data. */
ls_ckpt_tensor ls_ckpt_entry_tensor(const ls_ckpt_entry *entry);

#endif
