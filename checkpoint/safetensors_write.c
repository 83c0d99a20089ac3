#include "checkpoint/safetensors.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGN = 8 }; /* of the data, as the reference writer aligns them */

typedef struct part {
    char name[64];
    char *path;
    int fd;
    int64_t data_bytes, header_bytes;
} part;

struct ls_st_writer {
    const char *directory;
    const ls_st_tensor *tensors;
    int count, part_count;
    part *parts;
    int *part_of;     /* [count] */
    int64_t *offsets; /* [count] in the part's data */
};

static const char *type_name(ls_dtype dtype) {
    static const char *const names[LS_DTYPE_COUNT] = {
        [LS_F32] = "F32", [LS_F64] = "F64", [LS_BF16] = "BF16", [LS_F16] = "F16", [LS_I32] = "I32",
        [LS_I64] = "I64", [LS_U8] = "U8",   [LS_U16] = "U16",   [LS_U32] = "U32", [LS_U64] = "U64"};
    return names[dtype];
}

static int64_t tensor_bytes(const ls_st_tensor *t) {
    int64_t bytes = (int64_t)ls_dtype_bytes(t->dtype);
    for (int d = 0; d < t->ndim; d++) {
        bytes *= t->dims[d];
    }
    return bytes;
}

/* In order, a new part where the next tensor would not fit. */
static ls_status parts_plan(ls_st_writer *w, int64_t shard_bytes) {
    for (int i = 0; i < w->count; i++) {
        int64_t bytes = tensor_bytes(&w->tensors[i]);
        part *p = w->part_count ? &w->parts[w->part_count - 1] : NULL;
        if (!p || (p->data_bytes > 0 && bytes > shard_bytes - p->data_bytes)) {
            p = &w->parts[w->part_count++];
            p->fd = -1;
        }
        w->part_of[i] = w->part_count - 1;
        w->offsets[i] = p->data_bytes;
        p->data_bytes += bytes;
    }
    for (int i = 0; i < w->part_count; i++) {
        if (w->part_count == 1) {
            snprintf(w->parts[i].name, sizeof w->parts[i].name, "model.safetensors");
        } else {
            snprintf(w->parts[i].name, sizeof w->parts[i].name, "model-%05d-of-%05d.safetensors",
                     i + 1, w->part_count);
        }
        w->parts[i].path = ls_text_format("%s/%s", w->directory, w->parts[i].name);
        if (!w->parts[i].path) {
            return LS_FAIL(LS_E_MEMORY, "no memory for a path");
        }
    }
    return LS_OK;
}

/* Length, JSON, and spaces up to the alignment. Caller frees. */
static ls_status header_make(const ls_st_writer *w, int index, char **header, size_t *bytes) {
    json_t *root = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool failed = !root;
    for (int i = 0; i < w->count; i++) {
        if (w->part_of[i] != index) {
            continue;
        }
        const ls_st_tensor *t = &w->tensors[i];
        json_t *shape = json_array();
        for (int d = 0; d < t->ndim; d++) {
            failed = json_array_append_new(shape, json_integer(t->dims[d])) != 0 || failed;
        }
        json_t *item = json_pack("{s:s,s:o,s:[I,I]}", "dtype", type_name(t->dtype), "shape", shape,
                                 "data_offsets", (json_int_t)w->offsets[i],
                                 (json_int_t)(w->offsets[i] + tensor_bytes(t)));
        failed = json_object_set_new(root, t->name, item) != 0 || failed;
    }
    char *text = failed ? NULL : json_dumps(root, JSON_COMPACT);
    json_decref(root);
    size_t length = text ? strlen(text) : 0, padded = (length + ALIGN - 1) / ALIGN * ALIGN;
    if (!text || ls_calloc(8 + padded, 1, header) != LS_OK) {
        free(text);
        return LS_FAIL(LS_E_MEMORY, "no memory for the header of a safetensors file");
    }
    for (int i = 0; i < 8; i++) {
        (*header)[i] = (char)((uint64_t)padded >> (8 * i));
    }
    memset(*header + 8, ' ', padded);
    memcpy(*header + 8, text, length);
    free(text);
    *bytes = 8 + padded;
    return LS_OK;
}

static ls_status part_create(const ls_st_writer *w, int index) {
    part *p = &w->parts[index];
    char *header;
    size_t bytes = 0;
    p->fd = open(p->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (p->fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot create '%s': %s", p->path, strerror(errno));
    }
    LS_TRY(header_make(w, index, &header, &bytes));
    p->header_bytes = (int64_t)bytes;
    ls_status status = ls_file_write_all(p->fd, header, bytes, p->path);
    free(header);
    LS_TRY(status);
    int error = p->data_bytes ? posix_fallocate(p->fd, (off_t)bytes, (off_t)p->data_bytes) : 0;
    return error == 0 ? LS_OK
                      : LS_FAIL(LS_E_IO, "no room for the %lld bytes of '%s': %s",
                                (long long)p->data_bytes, p->path, strerror(error));
}

ls_status ls_st_writer_open(const char *directory, const ls_st_tensor *tensors, int count,
                            int64_t shard_bytes, ls_st_writer **writer) {
    LS_TRY(ls_calloc(1, sizeof **writer, writer));
    ls_st_writer *w = *writer;
    *w = (ls_st_writer){.directory = directory, .tensors = tensors, .count = count};
    size_t n = (size_t)count + 1;
    ls_status status = ls_calloc(n, sizeof *w->parts, &w->parts);
    status = status == LS_OK ? ls_calloc(n, sizeof *w->part_of, &w->part_of) : status;
    status = status == LS_OK ? ls_calloc(n, sizeof *w->offsets, &w->offsets) : status;
    status = status == LS_OK ? parts_plan(w, shard_bytes) : status;
    for (int i = 0; i < w->part_count && status == LS_OK; i++) {
        status = part_create(w, i);
    }
    if (status != LS_OK) {
        ls_st_writer_close(w);
        *writer = NULL;
    }
    return status;
}

void ls_st_writer_place(const ls_st_writer *w, int i, int *fd, const char **path, int64_t *offset) {
    const part *p = &w->parts[w->part_of[i]];
    *fd = p->fd;
    *path = p->path;
    *offset = p->header_bytes + w->offsets[i];
}

static ls_status index_write(const ls_st_writer *w, int64_t total) {
    char path[4096];
    json_t *map = json_object();
    bool failed = !map;
    for (int i = 0; i < w->count; i++) {
        failed = json_object_set_new(map, w->tensors[i].name,
                                     json_string(w->parts[w->part_of[i]].name)) != 0 ||
                 failed;
    }
    json_t *index =
        json_pack("{s:{s:I},s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *text = failed ? NULL : json_dumps(index, JSON_INDENT(2));
    json_decref(index);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the index of the model");
    }
    ls_status status =
        ls_path_join(path, sizeof path, w->directory, "model.safetensors.index.json");
    status = status == LS_OK ? ls_file_replace(path, text, strlen(text)) : status;
    free(text);
    return status;
}

ls_status ls_st_writer_complete(ls_st_writer *w, int *files, int64_t *bytes) {
    int64_t total = 0;
    *bytes = 0;
    *files = w->part_count;
    for (int i = 0; i < w->part_count; i++) {
        part *p = &w->parts[i];
        int fd = p->fd;
        p->fd = -1;
        bool synced = fsync(fd) == 0;
        if (close(fd) != 0 || !synced) {
            return LS_FAIL(LS_E_IO, "cannot complete '%s': %s", p->path, strerror(errno));
        }
        total += p->data_bytes;
        *bytes += p->header_bytes + p->data_bytes;
    }
    return w->part_count > 1 ? index_write(w, total) : LS_OK;
}

void ls_st_writer_close(ls_st_writer *w) {
    if (!w) {
        return;
    }
    for (int i = 0; i < w->part_count && w->parts; i++) {
        if (w->parts[i].fd >= 0) {
            close(w->parts[i].fd);
        }
        free(w->parts[i].path);
    }
    free(w->parts);
    free(w->part_of);
    free(w->offsets);
    free(w);
}
