#include "checkpoint/rewrite.h"
#include "checkpoint/format.h"
#include "checkpoint/values.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALIGN = 64 };

typedef struct rewrite {
    const ls_ckpt_save_options *options;
    const ls_ckpt_tensor *tensors;
    int count, writers;
    ls_ckpt_fill_fn fill;
    void *context;
    char temporary[1024], final[1024];
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
    char path[1100];
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
    ls_status status = bytes > 0 ? scratch_open(&room, w->temporary, bytes) : LS_OK;
    int filled = 0;
    for (int i = 0; i < kept && status == LS_OK; i++) {
        ls_ckpt_tensor *t = &w->mine[i];
        t->data = room.data ? (char *)room.data + used : NULL;
        used += box_bytes(t);
        if (ls_box_elems(&t->box) > 0) {
            filled++;
            status = w->fill(w->context, t, 1);
        }
    }
    snprintf(name, sizeof name, "rank-%05d.h5", rank);
    if (status == LS_OK && (filled > 0 || rank == 0)) {
        status =
            ls_ckpt_file_write(w->temporary, name, rank == 0, w->options, w->mine, kept, &record);
    }
    if (status == LS_OK && record) {
        status = ls_ckpt_manifest_merge(w->root, w->index, record);
    }
    json_decref(record);
    scratch_close(&room);
    return status;
}

static ls_status index_add(const rewrite *w) {
    char path[4096], hex[65];
    ls_sha256 hash;
    uint64_t bytes;
    const json_t *first = json_array_get(json_object_get(w->root, "files"), 0);
    LS_TRY(ls_path_join(path, sizeof path, w->temporary, LS_CKPT_INDEX));
    LS_TRY(ls_ckpt_h5_index_write(path, json_string_value(json_object_get(first, "name")),
                                  json_object_get(w->root, "tensors")));
    LS_TRY(ls_file_sync(path));
    LS_TRY(ls_sha256_file(path, &hash, &bytes));
    ls_sha256_hex(&hash, hex);
    json_t *item = json_pack("{s:s,s:I,s:s}", "name", LS_CKPT_INDEX, "bytes", (json_int_t)bytes,
                             "sha256", hex);
    return json_array_append_new(json_object_get(w->root, "files"), item) == 0
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
}

static ls_status complete(const rewrite *w, ls_ckpt_save_result *result) {
    char path[4096], *text;
    size_t bytes;
    ls_ckpt *ckpt = NULL;
    LS_TRY(index_add(w));
    LS_TRY(ls_path_join(path, sizeof path, w->temporary, LS_CKPT_MANIFEST));
    LS_TRY(ls_ckpt_manifest_text(w->root, &text, &bytes));
    ls_status status = ls_file_replace(path, text, bytes);
    free(text);
    LS_TRY(status);
    LS_TRY(ls_ckpt_open(w->temporary, &ckpt)); /* a gap or an overlap is found before the commit */
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    ls_ckpt_close(ckpt);
    *result = (ls_ckpt_save_result){.raw_bytes = info.raw_bytes, .stored_bytes = info.stored_bytes};
    memcpy(result->path, w->final, sizeof result->path);
    if (renameat2(AT_FDCWD, w->temporary, AT_FDCWD, w->final, RENAME_NOREPLACE) != 0 &&
        (errno != EINVAL || rename(w->temporary, w->final) != 0)) {
        return LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", w->temporary, w->final,
                       strerror(errno));
    }
    return ls_file_sync(w->options->root);
}

static ls_status begin(rewrite *w) {
    const ls_ckpt_save_options *o = w->options;
    char name[64];
    for (int i = 0; i < w->count; i++) {
        int64_t bytes;
        LS_TRY(ls_ckpt_name_check(w->tensors[i].name));
        LS_TRY(ls_ckpt_dims_check(w->tensors[i].dtype, w->tensors[i].ndim, w->tensors[i].dims,
                                  &bytes));
    }
    snprintf(name, sizeof name, "step-%08lld", (long long)o->step);
    LS_TRY(ls_path_join(w->final, sizeof w->final, o->root, name));
    if (ls_path_exists(w->final)) {
        return LS_FAIL(LS_E_EXISTS, "'%s' exists; name another directory with --output", w->final);
    }
    LS_TRY(ls_calloc((size_t)w->count + 1, sizeof *w->mine, &w->mine));
    LS_TRY(ls_calloc((size_t)w->count + 1, sizeof *w->boxes, &w->boxes));
    w->index = json_object();
    w->root = json_pack(
        "{s:s,s:i,s:i,s:s,s:I,s:I,s:s,s:i,s:s,s:O,s:O,s:[],s:[]}", "format", LS_CKPT_FORMAT_NAME,
        "major", LS_CKPT_FORMAT_MAJOR, "minor", LS_CKPT_FORMAT_MINOR, "writer",
        "lockstep " LS_VERSION, "step", (json_int_t)o->step, "tokens", (json_int_t)o->tokens,
        "codec", o->level > 0 ? "zstd" : "none", "level", o->level, "config", o->config_text, "run",
        (json_t *)o->run, "counters", (json_t *)o->counters, "files", "tensors");
    if (!w->root || !w->index) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
    }
    LS_TRY(ls_dir_create(o->root));
    snprintf(name, sizeof name, ".tmp-%08lld-XXXXXX", (long long)o->step);
    LS_TRY(ls_path_join(w->temporary, sizeof w->temporary, o->root, name));
    if (!mkdtemp(w->temporary)) {
        ls_status status =
            LS_FAIL(LS_E_IO, "cannot create a directory in '%s': %s", o->root, strerror(errno));
        w->temporary[0] = '\0';
        return status;
    }
    mode_t mask = umask(0);
    umask(mask);
    return chmod(w->temporary, 0777 & ~mask) == 0
               ? LS_OK
               : LS_FAIL(LS_E_IO, "cannot open '%s' to its readers: %s", w->temporary,
                         strerror(errno));
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
    ls_status status = begin(&w);
    for (int rank = 0; rank < writers && status == LS_OK; rank++) {
        status = writer_run(&w, rank);
    }
    if (status == LS_OK) {
        status = complete(&w, result);
    }
    if (status != LS_OK) {
        ls_error error = *ls_error_last();
        if (w.temporary[0] && ls_dir_remove(w.temporary) != LS_OK) {
            ls_log_warn("%s", ls_error_last()->message);
        }
        ls_error_set(status, error.file, error.line, "%s", error.message);
    } else {
        result->seconds = 1e-9 * (double)(ls_clock_ns() - start_ns);
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
