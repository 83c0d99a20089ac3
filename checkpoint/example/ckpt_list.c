/* ckpt_list CHECKPOINT [TENSOR]: lists a checkpoint, or prints the first values of a float32
 * tensor; a whole program beside the library alone:
 *
 *   cc -std=gnu17 ckpt_list.c $(pkg-config --cflags --libs lockstep-ckpt) -o ckpt_list */
#include <checkpoint/ckpt.h>

#include <inttypes.h>
#include <stdio.h>

static void print_entry(const ls_ckpt_entry *entry) {
    printf("%-48s %-8s [", entry->name, ls_dtype_name(entry->dtype));
    for (int d = 0; d < entry->ndim; d++) {
        printf("%s%" PRId64, d ? ", " : "", entry->dims[d]);
    }
    printf("] in %d piece%s\n", entry->piece_count, entry->piece_count == 1 ? "" : "s");
}

/* Reads only the chunk that holds the first values. */
static ls_status print_values(ls_ckpt *ckpt, const char *name) {
    enum { VALUES = 4 };
    float values[VALUES] = {0};
    const ls_ckpt_entry *entry = ls_ckpt_find(ckpt, name);
    ls_ckpt_tensor t = {.name = name, .dtype = LS_F32, .data = values};
    if (entry) {
        t.ndim = t.box.ndim = entry->ndim;
        for (int d = 0; d < entry->ndim; d++) {
            t.dims[d] = entry->dims[d];
            t.box.extent[d] = 1;
        }
        int last = entry->ndim - 1;
        t.box.extent[last] = entry->dims[last] < VALUES ? entry->dims[last] : VALUES;
    }
    LS_TRY(ls_ckpt_load(ckpt, &t, 1));
    for (int64_t i = 0; i < t.box.extent[t.ndim - 1]; i++) {
        printf("%.9g\n", (double)values[i]);
    }
    return LS_OK;
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "ckpt_list CHECKPOINT [TENSOR]\n");
        return 2;
    }
    ls_ckpt *ckpt = NULL;
    ls_status status = ls_ckpt_open_latest(argv[1], &ckpt);
    if (status == LS_OK && argc > 2) {
        status = print_values(ckpt, argv[2]);
    } else if (status == LS_OK) {
        int count;
        const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
        printf("%s: step %" PRId64 ", %d tensors\n", ls_ckpt_path(ckpt), ls_ckpt_step(ckpt), count);
        for (int i = 0; i < count; i++) {
            print_entry(&entries[i]);
        }
    }
    if (status != LS_OK) {
        fprintf(stderr, "ckpt_list: %s\n", ls_error_last()->message);
    }
    ls_ckpt_close(ckpt);
    return ls_status_exit(status);
}
