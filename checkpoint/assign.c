#include "checkpoint/ckpt.h"

#include <string.h>

/* All tensors end to end are one line of bytes; rank r takes from r/ranks of it to (r+1)/ranks,
 * with both ends moved to the nearest row: row i of a tensor belongs to the rank in whose part the
 * row's first byte lies. */
void ls_ckpt_assign(const ls_ckpt_tensor *tensors, int count, int rank, int ranks, ls_box *boxes) {
    double total = 0;
    for (int i = 0; i < count; i++) {
        ls_box whole = ls_box_whole(tensors[i].ndim, tensors[i].dims);
        total += (double)ls_box_elems(&whole) * (double)ls_dtype_bytes(tensors[i].dtype);
    }
    double position = 0;
    for (int i = 0; i < count; i++) {
        const ls_ckpt_tensor *t = &tensors[i];
        ls_box whole = ls_box_whole(t->ndim, t->dims);
        double bytes = (double)ls_box_elems(&whole) * (double)ls_dtype_bytes(t->dtype);
        double row_bytes = bytes / (double)t->dims[0];
        int64_t cut[2];
        for (int side = 0; side < 2; side++) {
            /* The same expression on both ranks that share a cut: they agree bit for bit. */
            double edge = total * (double)(rank + side) / (double)ranks - position;
            double row = edge <= 0 ? 0 : edge / row_bytes;
            int64_t up = row >= (double)t->dims[0] ? t->dims[0] : (int64_t)row;
            cut[side] = up < t->dims[0] && (double)up < row ? up + 1 : up;
        }
        if (rank == ranks - 1) {
            cut[1] = t->dims[0];
        }
        boxes[i] = whole;
        boxes[i].start[0] = cut[0];
        boxes[i].extent[0] = cut[1] - cut[0];
        position += bytes;
    }
}
