#include "checkpoint/rewrite.h"
#include "checkpoint/commit.h"
#include "checkpoint/parity.h"
#include "checkpoint/values.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGN = 64 };

typedef struct rewrite {
    const ls_ckpt_save_options *options;
    const ls_ckpt_tensor *tensors;
    int count, writers;
    ls_ckpt_fill_fn fill;
    void *context;
    ls_ckpt_place place;
    bool begun;           /* the place exists */
    ls_ckpt_tensor *mine; /* [count] boxes of the writer at work */
    ls_box *boxes;        /* [count] */
    json_t *root, *index;
} rewrite;

/* Room for one writer's values: pages of a file that has no name, which the kernel may write out.
 */
typedef struct scratch {
    void *data;
    size_t bytes;
} scratch;

static ls_status scratch_open(scratch *s, const char *directory, size_t bytes) {
    char path[1200];
    *s = (scratch){.bytes = bytes};
    snprintf(path, sizeof path, "%s/.scratch-XXXXXX", directory);
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot create a file in '%s': %s", directory, strerror(errno));
    }
    unlink(path);
    int error = posix_fallocate(fd, 0, (off_t)bytes);
    if (error == 0) {
        s->data = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        error = s->data == MAP_FAILED ? errno : 0;
    }
    close(fd);
    if (error != 0) {
        s->data = NULL;
        return LS_FAIL(LS_E_IO, "no room for %zu bytes of working space in '%s': %s", bytes,
                       directory, strerror(error));
    }
    return LS_OK;
}

static void scratch_close(scratch *s) {
    if (s->data) {
        munmap(s->data, s->bytes);
    }
    *s = (scratch){0};
}

static size_t box_bytes(const ls_ckpt_tensor *t) {
    size_t bytes = (size_t)ls_box_elems(&t->box) * ls_dtype_bytes(t->dtype);
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

/* Files are named by rank; only the first is written when there is nothing for a rank. */
static ls_status writer_run(rewrite *w, int rank) {
    int kept = 0;
    size_t bytes = 0, used = 0;
    char name[32];
    scratch room = {0};
    json_t *record = NULL;
    ls_ckpt_assign(w->tensors, w->count, rank, w->writers, w->boxes);
    for (int i = 0; i < w->count; i++) {
        ls_ckpt_tensor t = w->tensors[i];
        t.box = w->boxes[i];
        if (ls_box_elems(&t.box) > 0 || rank == 0) { /* the first lists all tensors */
            w->mine[kept++] = t;
            bytes += box_bytes(&t);
        }
    }
    ls_status status = bytes > 0 ? scratch_open(&room, w->place.temporary, bytes) : LS_OK;
    int filled = 0;
    for (int i = 0; i < kept && status == LS_OK; i++) {
        ls_ckpt_tensor *t = &w->mine[i];
        t->data = room.data ? (char *)room.data + used : NULL;
        used += box_bytes(t);
        if (w->options->stop && *w->options->stop) {
            status = LS_FAIL(LS_E_STOPPED, "stopped before '%s'", t->name);
        } else if (ls_box_elems(&t->box) > 0) {
            filled++;
            status = w->fill(w->context, t, 1);
        }
    }
    snprintf(name, sizeof name, "rank-%05d.h5", rank);
    if (status == LS_OK && (filled > 0 || rank == 0)) {
        status = ls_ckpt_file_write(w->place.directory, name, rank == 0, w->options, w->mine, kept,
                                    &record);
    }
    if (status == LS_OK && record) {
        status = ls_ckpt_manifest_merge(w->root, w->index, record);
    }
    json_decref(record);
    scratch_close(&room);
    return status;
}

static ls_status parity_add(rewrite *w) {
    json_t *files = json_object_get(w->root, "files"), *file;
    size_t count = json_array_size(files), i;
    const char **names;
    int64_t *bytes;
    LS_TRY(ls_calloc(count, sizeof *names, &names));
    ls_status status = ls_calloc(count, sizeof *bytes, &bytes);
    json_array_foreach(files, i, file) {
        if (status == LS_OK && i < count) {
            names[i] = json_string_value(json_object_get(file, "name"));
            bytes[i] = json_integer_value(json_object_get(file, "bytes"));
        }
    }
    for (int g = 0; g < ls_parity_groups((int)count) && status == LS_OK; g++) {
        status = ls_ckpt_parity_add(w->place.directory, names, bytes, (int)count, g,
                                    w->options->parity, w->root);
    }
    free(names);
    free(bytes);
    return status;
}

static ls_status begin(rewrite *w) {
    const ls_ckpt_save_options *o = w->options;
    uint64_t random[2];
    for (int i = 0; i < w->count; i++) {
        int64_t bytes;
        LS_TRY(ls_ckpt_name_check(w->tensors[i].name));
        LS_TRY(ls_ckpt_dims_check(w->tensors[i].dtype, w->tensors[i].ndim, w->tensors[i].dims,
                                  &bytes));
    }
    LS_TRY(ls_ckpt_random(random));
    LS_TRY(ls_ckpt_place_name(&w->place, o->root, o->step, random));
    if (ls_path_exists(w->place.final)) {
        return LS_FAIL(LS_E_EXISTS, "'%s' exists; name another directory with --output",
                       w->place.final);
    }
    LS_TRY(ls_calloc((size_t)w->count + 1, sizeof *w->mine, &w->mine));
    LS_TRY(ls_calloc((size_t)w->count + 1, sizeof *w->boxes, &w->boxes));
    w->index = json_object();
    LS_TRY(ls_ckpt_manifest_create(o, &w->root));
    LS_TRY(w->index ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the manifest"));
    w->begun = true;
    return ls_ckpt_place_create(&w->place, true);
}

ls_status ls_ckpt_rewrite(const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                          int count, int writers, ls_ckpt_fill_fn fill, void *context,
                          ls_ckpt_save_result *result) {
    uint64_t start_ns = ls_clock_ns();
    rewrite w = {.options = options,
                 .tensors = tensors,
                 .count = count,
                 .writers = writers,
                 .fill = fill,
                 .context = context};
    const bool made = !ls_path_exists(options->root);
    ls_status status = begin(&w);
    for (int rank = 0; rank < writers && status == LS_OK; rank++) {
        status = writer_run(&w, rank);
    }
    if (status == LS_OK && options->parity > 0) {
        status = parity_add(&w);
    }
    if (status == LS_OK) {
        ls_ckpt_totals totals = {0};
        status = ls_ckpt_commit(&w.place, w.root, false, &totals);
        *result = (ls_ckpt_save_result){.raw_bytes = totals.raw_bytes,
                                        .stored_bytes = totals.stored_bytes,
                                        .seconds = 1e-9 * (double)(ls_clock_ns() - start_ns)};
        memcpy(result->path, w.place.final, sizeof result->path);
    }
    if (status != LS_OK && w.begun) {
        ls_ckpt_place_remove(&w.place);
    }
    if (status != LS_OK && made) {
        rmdir(options->root); /* unless it has become another's, too */
    }
    json_decref(w.root);
    json_decref(w.index);
    free(w.mine);
    free(w.boxes);
    return status;
}

static ls_status fill_by_loading(void *context, ls_ckpt_tensor *tensors, int count) {
    return ls_ckpt_load(context, tensors, count);
}

ls_status ls_ckpt_reshard(ls_ckpt *ckpt, const ls_ckpt_save_options *options, int writers,
                          ls_ckpt_save_result *result) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    ls_ckpt_tensor *tensors;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *tensors, &tensors));
    for (int i = 0; i < count; i++) {
        tensors[i] = ls_ckpt_entry_tensor(&entries[i]);
    }
    ls_ckpt_save_options o = *options;
    o.step = ls_ckpt_step(ckpt);
    o.tokens = ls_ckpt_tokens(ckpt);
    o.config_text = ls_ckpt_config(ckpt);
    o.run = ls_ckpt_run(ckpt);
    o.counters = ls_ckpt_counters(ckpt);
    ls_status status = ls_ckpt_rewrite(&o, tensors, count, writers, fill_by_loading, ckpt, result);
    free(tensors);
    LS_TRY(status);
    ls_ckpt *written;
    LS_TRY(ls_ckpt_open(result->path, &written));
    status = ls_ckpt_verify(written, LS_CKPT_VERIFY_DEEP, NULL, NULL);
    ls_ckpt_close(written);
    return status;
}
