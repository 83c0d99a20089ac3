/* ckpt_equal A B: do two checkpoints hold the same tensors with the same bytes, whoever wrote which
 * part? Exit status 0: yes; 1: no, the first difference on stderr. */
#include "checkpoint/ckpt.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ls_status load(ls_ckpt *ckpt, const ls_ckpt_entry *e, void **data, size_t *bytes) {
    ls_ckpt_tensor t = {.name = e->name, .dtype = e->dtype, .ndim = e->ndim};
    memcpy(t.dims, e->dims, sizeof t.dims);
    t.box = ls_box_whole(e->ndim, e->dims);
    *bytes = (size_t)ls_box_elems(&t.box) * ls_dtype_bytes(e->dtype);
    LS_TRY(ls_calloc(*bytes, 1, data));
    t.data = *data;
    return ls_ckpt_load(ckpt, &t, 1);
}

static ls_status compare(ls_ckpt *a, ls_ckpt *b) {
    int count_a, count_b;
    const ls_ckpt_entry *entries = ls_ckpt_entries(a, &count_a);
    ls_ckpt_entries(b, &count_b);
    if (count_a != count_b || count_a == 0) {
        return LS_FAIL(LS_E_NO, "%d tensors and %d tensors", count_a, count_b);
    }
    for (int i = 0; i < count_a; i++) {
        const ls_ckpt_entry *other = ls_ckpt_find(b, entries[i].name);
        if (!other) {
            return LS_FAIL(LS_E_NO, "'%s' is missing in the second", entries[i].name);
        }
        void *x, *y;
        size_t bytes_x, bytes_y;
        LS_TRY(load(a, &entries[i], &x, &bytes_x));
        LS_TRY(load(b, other, &y, &bytes_y));
        bool equal = bytes_x == bytes_y && memcmp(x, y, bytes_x) == 0;
        free(x);
        free(y);
        if (!equal) {
            return LS_FAIL(LS_E_NO, "'%s' differs", entries[i].name);
        }
    }
    return LS_OK;
}

int main(int argc, char **argv) {
    ls_ckpt *a = NULL, *b = NULL;
    ls_status status = argc == 3 ? ls_ckpt_open(argv[1], &a) : LS_FAIL(LS_E_USAGE, "two paths");
    if (status == LS_OK) {
        status = ls_ckpt_open(argv[2], &b);
    }
    if (status == LS_OK) {
        status = compare(a, b);
    }
    if (status != LS_OK) {
        ls_log_error();
    }
    ls_ckpt_close(a);
    ls_ckpt_close(b);
    return ls_status_exit(status);
}
