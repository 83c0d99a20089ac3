#include "checkpoint/safetensors.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX  "model.safetensors.index.json"

/* X(name in the file, bits, ours) */
#define TYPES(X)                                                                                   \
    X("F32", 32, LS_F32)                                                                           \
    X("F64", 64, LS_F64)                                                                           \
    X("BF16", 16, LS_BF16)                                                                         \
    X("F16", 16, LS_F16)                                                                           \
    X("I32", 32, LS_I32)                                                                           \
    X("I64", 64, LS_I64)                                                                           \
    X("U8", 8, LS_U8)                                                                              \
    X("U16", 16, LS_U16)                                                                           \
    X("U32", 32, LS_U32)                                                                           \
    X("U64", 64, LS_U64)                                                                           \
    X("BOOL", 8, LS_DTYPE_COUNT)                                                                   \
    X("I8", 8, LS_DTYPE_COUNT)                                                                     \
    X("I16", 16, LS_DTYPE_COUNT)                                                                   \
    X("F8_E5M2", 8, LS_DTYPE_COUNT)                                                                \
    X("F8_E4M3", 8, LS_DTYPE_COUNT)                                                                \
    X("F8_E8M0", 8, LS_DTYPE_COUNT)                                                                \
    X("C64", 64, LS_DTYPE_COUNT)

static const struct {
    const char *name;
    int bits;
    ls_dtype dtype;
} types[] = {
#define X(name, bits, dtype) {name, bits, dtype},
    TYPES(X)
#undef X
};

enum { TYPE_COUNT = sizeof types / sizeof *types };

typedef struct st_file {
    char *path;
    int fd;
} st_file;

struct ls_safetensors {
    json_t **headers; /* own the names */
    int header_count;
    st_file *files;
    int file_count;
    ls_st_tensor *tensors; /* sorted by name */
    int count;
};

static int type_find(const char *name) {
    for (int i = 0; i < TYPE_COUNT; i++) {
        if (name && strcmp(types[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const ls_st_tensor *)a)->name, ((const ls_st_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b) {
    const ls_st_tensor *x = a, *y = b;
    int64_t dx = x->offset, dy = y->offset;
    return dx != dy ? (dx > dy) - (dx < dy) : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* One member of the header. */
static ls_status tensor_parse(const char *name, const json_t *value, const char *where,
                              ls_st_tensor *t) {
    const json_t *shape = json_object_get(value, "shape");
    const json_t *offsets = json_object_get(value, "data_offsets");
    const char *type_name = json_string_value(json_object_get(value, "dtype"));
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    int type = type_find(type_name);
    if (type < 0 || !json_is_array(shape) || json_array_size(offsets) != 2 ||
        !json_is_integer(begin) || !json_is_integer(end)) {
        return LS_FAIL(LS_E_CORRUPT,
                       "%s: tensor '%.100s' has dtype '%.20s'; a known dtype, a shape and two "
                       "data_offsets are expected",
                       where, name, type_name ? type_name : "(none)");
    }
    if (json_array_size(shape) > LS_ST_MAX_DIMS) {
        return LS_FAIL(LS_E_UNSUPPORTED, "%s: tensor '%.100s' has %zu dimensions, %d are supported",
                       where, name, json_array_size(shape), LS_ST_MAX_DIMS);
    }
    *t = (ls_st_tensor){.name = name,
                        .dtype_name = types[type].name,
                        .dtype = types[type].dtype,
                        .ndim = (int)json_array_size(shape),
                        .offset = json_integer_value(begin),
                        .bytes = types[type].bits / 8};
    for (int d = 0; d < t->ndim; d++) {
        const json_t *extent = json_array_get(shape, (size_t)d);
        t->dims[d] = json_is_integer(extent) ? json_integer_value(extent) : -1;
        if (t->dims[d] < 0 || __builtin_mul_overflow(t->bytes, t->dims[d], &t->bytes)) {
            return LS_FAIL(LS_E_CORRUPT, "%s: tensor '%.100s' has an impossible shape", where,
                           name);
        }
    }
    int64_t last = json_integer_value(end);
    if (t->offset < 0 || last < t->offset || last - t->offset != t->bytes) {
        return LS_FAIL(LS_E_CORRUPT,
                       "%s: tensor '%.100s' has data_offsets [%lld, %lld]; its shape takes %lld "
                       "bytes",
                       where, name, (long long)t->offset, (long long)last, (long long)t->bytes);
    }
    return LS_OK;
}

/* The tensors' bytes must fill the file after the header without gap or overlap. */
static ls_status offsets_check(ls_safetensors *st, int64_t header_end, int64_t file_bytes,
                               const char *where) {
    int64_t position = 0;
    qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_offset);
    for (int i = 0; i < st->count; i++) {
        ls_st_tensor *t = &st->tensors[i];
        if (t->offset != position) {
            return LS_FAIL(LS_E_CORRUPT,
                           "%s: tensor '%.100s' begins at byte %lld of the data, %lld is expected",
                           where, t->name, (long long)t->offset, (long long)position);
        }
        if (t->bytes > file_bytes - header_end - position) {
            return LS_FAIL(LS_E_CORRUPT,
                           "%s: tensor '%.100s' ends %lld bytes behind the end of the file", where,
                           t->name, (long long)(t->bytes - (file_bytes - header_end - position)));
        }
        position += t->bytes;
        t->offset += header_end;
    }
    if (position != file_bytes - header_end) {
        return LS_FAIL(LS_E_CORRUPT, "%s: %lld bytes after the last tensor belong to none", where,
                       (long long)(file_bytes - header_end - position));
    }
    if (st->count > 0) {
        qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_name);
    }
    return LS_OK;
}

static ls_status header_parse(ls_safetensors *st, const char *text, size_t bytes, int64_t end,
                              int64_t file_bytes, const char *where) {
    json_error_t error;
    LS_TRY(ls_calloc(1, sizeof *st->headers, &st->headers));
    if (text[0] != '{') {
        return LS_FAIL(LS_E_CORRUPT, "%s: the header does not begin with '{'", where);
    }
    json_t *header = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    st->headers[st->header_count++] = header;
    if (!json_is_object(header)) {
        return LS_FAIL(LS_E_CORRUPT, "%s: the header is no JSON object: %s at byte %d", where,
                       error.text, error.position);
    }
    LS_TRY(ls_calloc(json_object_size(header) + 1, sizeof *st->tensors, &st->tensors));
    const char *name;
    json_t *value;
    json_object_foreach(header, name, value) {
        if (strcmp(name, "__metadata__") != 0) {
            LS_TRY(tensor_parse(name, value, where, &st->tensors[st->count]));
            st->count++;
        }
    }
    return offsets_check(st, end, file_bytes, where);
}

ls_status ls_safetensors_parse(const void *data, size_t bytes, int64_t file_bytes,
                               const char *where, ls_safetensors **st) {
    uint64_t length = 0;
    *st = NULL;
    if (bytes < 8) {
        return LS_FAIL(LS_E_CORRUPT, "%s: %zu bytes are no safetensors file", where, bytes);
    }
    for (int i = 7; i >= 0; i--) {
        length = length << 8 | ((const uint8_t *)data)[i];
    }
    if (length < 2 || length > LS_ST_HEADER_MAX || length > bytes - 8) {
        return LS_FAIL(LS_E_CORRUPT,
                       "%s: no safetensors file: the first 8 bytes give a header of %llu bytes; 2 "
                       "to %zu are possible",
                       where, (unsigned long long)length,
                       bytes - 8 < LS_ST_HEADER_MAX ? bytes - 8 : (size_t)LS_ST_HEADER_MAX);
    }
    LS_TRY(ls_calloc(1, sizeof **st, st));
    ls_status status = header_parse(*st, (const char *)data + 8, (size_t)length,
                                    8 + (int64_t)length, file_bytes, where);
    if (status != LS_OK) {
        ls_safetensors_close(*st);
        *st = NULL;
    }
    return status;
}

void ls_safetensors_close(ls_safetensors *st) {
    if (!st) {
        return;
    }
    for (int i = 0; i < st->header_count; i++) {
        json_decref(st->headers[i]);
    }
    for (int i = 0; i < st->file_count; i++) {
        if (st->files[i].fd >= 0) {
            close(st->files[i].fd);
        }
        free(st->files[i].path);
    }
    free(st->headers);
    free(st->files);
    free(st->tensors);
    free(st);
}

static ls_status read_at(int fd, void *out, size_t bytes, int64_t offset, const char *path) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, (char *)out + done, bytes - done, (off_t)(offset + (int64_t)done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return LS_FAIL(LS_E_IO, "cannot read '%s': %s", path,
                           n < 0 ? strerror(errno) : "it became shorter");
        }
        done += (size_t)n;
    }
    return LS_OK;
}

/* Opens one file; *part has its header. */
static ls_status file_open(st_file *file, ls_safetensors **part) {
    struct stat info;
    uint8_t length[8];
    file->fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0) {
        return LS_FAIL(LS_E_INPUT, "cannot open '%s': %s", file->path, strerror(errno));
    }
    if (fstat(file->fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size < 8) {
        return LS_FAIL(LS_E_INPUT, "'%s' is no safetensors file", file->path);
    }
    LS_TRY(read_at(file->fd, length, sizeof length, 0, file->path));
    uint64_t bytes = 0;
    for (int i = 7; i >= 0; i--) {
        bytes = bytes << 8 | length[i];
    }
    int64_t most = info.st_size - 8 < LS_ST_HEADER_MAX ? info.st_size - 8 : LS_ST_HEADER_MAX;
    size_t wanted = 8 + (bytes > (uint64_t)most ? 0 : (size_t)bytes);
    char *text;
    LS_TRY(ls_calloc(wanted, 1, &text));
    ls_status status = read_at(file->fd, text, wanted, 0, file->path);
    if (status == LS_OK) {
        status = ls_safetensors_parse(text, wanted, info.st_size, file->path, part);
    }
    free(text);
    return status;
}

static ls_status part_add(ls_safetensors *st, ls_safetensors *part, int file) {
    ls_st_tensor *all =
        reallocarray(st->tensors, (size_t)(st->count + part->count) + 1, sizeof *all);
    if (!all) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the names of the tensors");
    }
    st->tensors = all;
    for (int i = 0; i < part->count; i++) {
        all[st->count] = part->tensors[i];
        all[st->count++].file = file;
    }
    st->headers[st->header_count++] = part->headers[0];
    part->header_count = 0; /* the names live on */
    return LS_OK;
}

/* The files that an index names, each once. Caller drops the reference. */
static ls_status index_read(const char *path, json_t **names) {
    char *text;
    size_t bytes;
    json_error_t error;
    const char *key;
    json_t *value;
    LS_TRY(ls_file_read(path, LS_ST_HEADER_MAX, &text, &bytes));
    json_t *index = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    free(text);
    json_t *map = json_object_get(index, "weight_map");
    ls_status status = LS_OK;
    *names = json_object();
    if (!json_is_object(map) || json_object_size(map) == 0) {
        status = LS_FAIL(LS_E_CORRUPT, "'%s' has no \"weight_map\"%s%s", path, index ? "" : ": ",
                         index ? "" : error.text);
    }
    json_object_foreach(map, key, value) {
        const char *name = json_string_value(value);
        if (!name || !name[0] || strchr(name, '/') || strcmp(name, "..") == 0) {
            status = LS_FAIL(LS_E_CORRUPT, "'%s': '%.100s' is in '%.100s', which is no file's name",
                             path, key, name ? name : "(no text)");
        } else if (json_object_set_new(*names, name, json_true()) != 0) {
            status = LS_FAIL(LS_E_MEMORY, "no memory for the names of files");
        }
    }
    json_decref(index);
    return status;
}

static ls_status files_find(const char *path, json_t **names, const char **directory) {
    char file[4096];
    *directory = NULL;
    if (!ls_path_is_dir(path)) {
        *names = json_object();
        return json_object_set_new(*names, path, json_true()) == 0
                   ? LS_OK
                   : LS_FAIL(LS_E_INPUT, "'%s' is no path", path);
    }
    *directory = path;
    LS_TRY(ls_path_join(file, sizeof file, path, INDEX));
    if (ls_path_exists(file)) {
        return index_read(file, names);
    }
    LS_TRY(ls_path_join(file, sizeof file, path, SINGLE));
    if (!ls_path_exists(file)) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' has neither " SINGLE " nor " INDEX
                       "; of a model in another format, transformers' "
                       "save_pretrained() writes them",
                       path);
    }
    *names = json_pack("{s:b}", SINGLE, 1);
    return LS_OK;
}

static ls_status files_open(ls_safetensors *st, const json_t *names, const char *directory) {
    const char *name;
    json_t *value;
    LS_TRY(ls_calloc(json_object_size(names) + 1, sizeof *st->files, &st->files));
    LS_TRY(ls_calloc(json_object_size(names) + 1, sizeof *st->headers, &st->headers));
    json_object_foreach((json_t *)names, name, value) {
        st_file *file = &st->files[st->file_count++];
        file->fd = -1;
        file->path = directory ? ls_text_format("%s/%s", directory, name) : strdup(name);
        if (!file->path) {
            return LS_FAIL(LS_E_MEMORY, "no memory for a path");
        }
        ls_safetensors *part = NULL;
        LS_TRY(file_open(file, &part));
        ls_status status = part_add(st, part, st->file_count - 1);
        ls_safetensors_close(part);
        LS_TRY(status);
    }
    if (st->count > 0) {
        qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_name);
    }
    for (int i = 1; i < st->count; i++) {
        if (strcmp(st->tensors[i - 1].name, st->tensors[i].name) == 0) {
            return LS_FAIL(LS_E_CORRUPT, "tensor '%.100s' is in '%s' and in '%s'",
                           st->tensors[i].name, st->files[st->tensors[i - 1].file].path,
                           st->files[st->tensors[i].file].path);
        }
    }
    return LS_OK;
}

ls_status ls_safetensors_open(const char *path, ls_safetensors **st) {
    json_t *names = NULL;
    const char *directory;
    LS_TRY(ls_calloc(1, sizeof **st, st));
    ls_status status = files_find(path, &names, &directory);
    if (status == LS_OK) {
        status = files_open(*st, names, directory);
    }
    json_decref(names);
    if (status != LS_OK) {
        ls_safetensors_close(*st);
        *st = NULL;
    }
    return status;
}

const ls_st_tensor *ls_safetensors_tensors(const ls_safetensors *st, int *count) {
    *count = st->count;
    return st->tensors;
}

const ls_st_tensor *ls_safetensors_find(const ls_safetensors *st, const char *name) {
    ls_st_tensor key = {.name = name};
    return st->count ? bsearch(&key, st->tensors, (size_t)st->count, sizeof key, by_name) : NULL;
}

ls_status ls_safetensors_read(const ls_safetensors *st, const ls_st_tensor *tensor, int64_t first,
                              int64_t count, void *out) {
    const st_file *file = &st->files[tensor->file];
    int64_t bytes = (int64_t)ls_dtype_bytes(tensor->dtype);
    return read_at(file->fd, out, (size_t)(count * bytes), tensor->offset + first * bytes,
                   file->path);
}
