#include "checkpoint/convert.h"
#include "checkpoint/rewrite.h"
#include "checkpoint/values.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAND_BYTES ((int64_t)16 << 20) /* of a foreign tensor, read at once */

enum { COLUMN_ELEMS = 4096 }; /* of a transposed tensor, written at once */

/* ---- a tensor of a checkpoint into files ---- */

typedef struct copy {
    ls_dtype dtype;
    int64_t matrix_rows; /* of each expert; 0 without */
    const ls_convert_target *targets;
    int target_count;
    char *buffer;
    size_t capacity;
} copy;

static ls_status put(const ls_convert_target *t, int64_t elem, const void *data, int64_t count) {
    size_t elem_bytes = ls_dtype_bytes(t->dtype), bytes = (size_t)count * elem_bytes;
    off_t at = (off_t)(t->offset + elem * (int64_t)elem_bytes);
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(t->fd, (const char *)data + done, bytes - done, at + (off_t)done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return LS_FAIL(LS_E_IO, "cannot write '%s': %s", t->path,
                           strerror(n < 0 ? errno : ENOSPC));
        }
        done += (size_t)n;
    }
    return LS_OK;
}

/* Columns of rows x cols elements at `data` as rows of the target. */
static ls_status transposed_put(const ls_convert_target *t, int64_t row, int64_t rows, int64_t col,
                                int64_t cols, const char *data) {
    char run[COLUMN_ELEMS * sizeof(float)];
    size_t elem_bytes = ls_dtype_bytes(t->dtype);
    for (int64_t k = 0; k < cols; k++) {
        for (int64_t first = 0; first < rows; first += COLUMN_ELEMS) {
            int64_t n = rows - first < COLUMN_ELEMS ? rows - first : COLUMN_ELEMS;
            for (int64_t r = 0; r < n; r++) {
                memcpy(run + (size_t)r * elem_bytes,
                       data + (size_t)((first + r) * cols + k) * elem_bytes, elem_bytes);
            }
            LS_TRY(put(t, (col + k) * t->rows + row + first, run, n));
        }
    }
    return LS_OK;
}

/* rows x cols elements in target's dtype at `data` (leading dimension cols) are rows [row, ...) and
 * columns [col, ...) of the target's part. */
static ls_status block_put(const ls_convert_target *t, int64_t row, int64_t rows, int64_t col,
                           int64_t cols, const char *data) {
    if (t->transposed) {
        return transposed_put(t, row, rows, col, cols, data);
    }
    if (cols == t->cols) {
        return put(t, row * cols, data, rows * cols);
    }
    size_t row_bytes = (size_t)cols * ls_dtype_bytes(t->dtype);
    for (int64_t r = 0; r < rows; r++) {
        LS_TRY(put(t, (row + r) * t->cols + col, data + (size_t)r * row_bytes, cols));
    }
    return LS_OK;
}

/* Rows [begin, end) and columns from `col` on, `cols` of them, to the parts that they lie in. */
static ls_status rows_copy(const copy *c, int64_t begin, int64_t end, int64_t col, int64_t cols,
                           const char *data) {
    for (int i = 0; i < c->target_count; i++) {
        const ls_convert_target *t = &c->targets[i];
        int64_t low = begin > t->first_row ? begin : t->first_row;
        int64_t high = end < t->first_row + t->rows ? end : t->first_row + t->rows;
        if (low >= high) {
            continue;
        }
        const char *src = data + (size_t)((low - begin) * cols) * ls_dtype_bytes(c->dtype);
        LS_TRY(ls_values_convert(c->buffer, t->dtype, src, c->dtype, (high - low) * cols));
        LS_TRY(block_put(t, low - t->first_row, high - low, col, cols, c->buffer));
    }
    return LS_OK;
}

static ls_status slab_copy(void *context, int piece, const ls_box *box, const void *data) {
    (void)piece;
    copy *c = context;
    size_t wanted = (size_t)ls_box_elems(box) * sizeof(float); /* the widest that is written */
    if (wanted > c->capacity) {
        free(c->buffer);
        c->buffer = malloc(wanted);
        c->capacity = wanted;
        if (!c->buffer) {
            return LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes", wanted);
        }
    }
    const int row = box->ndim > 2 ? 1 : 0, last = box->ndim - 1; /* dimensions of a matrix */
    const int64_t cols = box->ndim > 1 ? box->extent[last] : 1;
    const int64_t col = box->ndim > 1 ? box->start[last] : 0;
    const int64_t rows = box->extent[row], matrices = box->ndim > 2 ? box->extent[0] : 1;
    for (int64_t m = 0; m < matrices; m++) {
        const int64_t begin = box->start[row] + (box->start[0] + m) * c->matrix_rows;
        const size_t at = (size_t)(m * rows * cols) * ls_dtype_bytes(c->dtype);
        LS_TRY(rows_copy(c, begin, begin + rows, col, cols, (const char *)data + at));
    }
    return LS_OK;
}

ls_status ls_convert_copy(ls_ckpt *ckpt, const ls_param *param, const ls_convert_target *targets,
                          int count) {
    const ls_ckpt_entry *entry = ls_ckpt_find(ckpt, param->name);
    bool same = entry && entry->ndim == param->ndim && entry->dims[0] == param->valid_rows &&
                memcmp(entry->dims + 1, param->dims + 1,
                       (size_t)(param->ndim - 1) * sizeof *param->dims) == 0;
    if (!same) {
        return LS_FAIL(LS_E_SHAPE,
                       "checkpoint '%s' has no tensor '%s' of the shape that its configuration "
                       "gives",
                       ls_ckpt_path(ckpt), param->name);
    }
    copy c = {.dtype = entry->dtype,
              .matrix_rows = param->ndim > 2 ? param->dims[1] : 0,
              .targets = targets,
              .target_count = count};
    ls_status status = ls_ckpt_stream(ckpt, entry, slab_copy, &c);
    free(c.buffer);
    return status;
}

/* ---- to Hugging Face ---- */

typedef struct plan {
    int *first; /* [count + 1] first part of each parameter */
    ls_hf_part *parts;
    ls_st_tensor *tensors; /* of the parts, in order, as all below */
    ls_convert_target *targets;
} plan;

static ls_status plan_make(const ls_config_model *model, const ls_param *params, int count,
                           ls_dtype dtype, plan *p) {
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *p->first, &p->first));
    for (int i = 0; i < count; i++) {
        int n;
        LS_TRY(ls_hf_part_count(model, &params[i], &n));
        p->first[i + 1] = p->first[i] + n;
    }
    const size_t all = (size_t)p->first[count] + 1;
    LS_TRY(ls_calloc(all, sizeof *p->parts, &p->parts));
    LS_TRY(ls_calloc(all, sizeof *p->tensors, &p->tensors));
    LS_TRY(ls_calloc(all, sizeof *p->targets, &p->targets));
    for (int i = 0, of = 0; i < p->first[count]; i++) {
        ls_hf_part *part = &p->parts[i];
        of += i == p->first[of + 1];
        LS_TRY(ls_hf_part_at(model, &params[of], i - p->first[of], part));
        p->tensors[i] = (ls_st_tensor){.name = part->name, .dtype = dtype, .ndim = part->ndim};
        memcpy(p->tensors[i].dims, part->dims, sizeof part->dims);
    }
    return LS_OK;
}

static void plan_release(plan *p) {
    free(p->parts);
    free(p->tensors);
    free(p->targets);
    free(p->first);
}

static ls_status weights_write(ls_ckpt *ckpt, const ls_param *params, int count, const plan *p,
                               ls_dtype dtype, const ls_st_writer *writer) {
    for (int i = 0; i < count; i++) {
        for (int k = p->first[i]; k < p->first[i + 1]; k++) {
            const ls_hf_part *part = &p->parts[k];
            ls_convert_target *t = &p->targets[k];
            *t = (ls_convert_target){.first_row = part->first_row,
                                     .rows = part->rows,
                                     .cols = part->cols,
                                     .dtype = dtype,
                                     .transposed = part->transposed};
            ls_st_writer_place(writer, k, &t->fd, &t->path, &t->offset);
        }
        LS_TRY(ls_convert_copy(ckpt, &params[i], p->targets + p->first[i],
                               p->first[i + 1] - p->first[i]));
    }
    return LS_OK;
}

static ls_status config_write(const char *directory, const json_t *config) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, directory, "config.json"));
    char *text = json_dumps(config, JSON_INDENT(2));
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for config.json");
    }
    ls_status status = ls_file_replace(path, text, strlen(text));
    free(text);
    return status;
}

static ls_status hf_write(ls_ckpt *ckpt, const ls_config_model *model, const ls_param *params,
                          int count, ls_dtype dtype, int64_t shard_bytes, const char *directory,
                          ls_convert_result *result) {
    plan p = {0};
    json_t *config = NULL;
    ls_st_writer *writer = NULL;
    ls_status status = ls_hf_config_make(model, dtype, ls_ckpt_run(ckpt), &config);
    status = status == LS_OK ? config_write(directory, config) : status;
    json_decref(config);
    status = status == LS_OK ? plan_make(model, params, count, dtype, &p) : status;
    if (status == LS_OK) {
        status = ls_st_writer_open(directory, p.tensors, p.first[count], shard_bytes, &writer);
    }
    status = status == LS_OK ? weights_write(ckpt, params, count, &p, dtype, writer) : status;
    if (status == LS_OK) {
        status = ls_st_writer_complete(writer, &result->files, &result->bytes);
    }
    ls_st_writer_close(writer);
    plan_release(&p);
    return status;
}

ls_status ls_convert_to_hf(ls_ckpt *ckpt, const ls_config_model *model, const ls_param *params,
                           int count, ls_dtype dtype, int64_t shard_bytes, const char *directory,
                           ls_convert_result *result) {
    char temporary[4096], final[4096];
    size_t length = strlen(directory);
    while (length > 1 && directory[length - 1] == '/') {
        length--;
    }
    int n = snprintf(final, sizeof final, "%.*s", (int)length, directory);
    int m = snprintf(temporary, sizeof temporary, "%.*s.tmp-%ld", (int)length, directory,
                     (long)getpid());
    if (n >= (int)sizeof final || m >= (int)sizeof temporary || length == 0) {
        return LS_FAIL(LS_E_INPUT, "'%.60s' is no path for a directory", directory);
    }
    if (ls_path_exists(final)) {
        return LS_FAIL(LS_E_EXISTS, "'%s' exists; name a directory that does not", final);
    }
    LS_TRY(ls_dir_create(temporary));
    ls_status status = hf_write(ckpt, model, params, count, dtype, shard_bytes, temporary, result);
    if (status == LS_OK) {
        status = ls_file_sync(temporary);
    }
    if (status == LS_OK && rename(temporary, final) != 0) {
        status =
            LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", temporary, final, strerror(errno));
    }
    if (status == LS_OK) {
        status = ls_file_sync_parent(final);
    }
    if (status != LS_OK) {
        ls_error error = *ls_error_last();
        if (ls_dir_remove(temporary) != LS_OK) {
            ls_log_warn("%s", ls_error_last()->message);
        }
        return ls_error_restore(&error);
    }
    return LS_OK;
}

/* ---- from Hugging Face ---- */

typedef struct import {
    const ls_safetensors *st;
    const ls_config_model *model;
    const ls_param *params;
    int count;
} import;

/* The released GPT-2 files leave out the first word of each name. */
static ls_status part_find(const ls_safetensors *st, const ls_hf_part *part,
                           const ls_st_tensor **found) {
    *found = ls_safetensors_find(st, part->name);
    const char *rest = strchr(part->name, '.');
    if (!*found && strncmp(part->name, "transformer.", 12) == 0) {
        *found = ls_safetensors_find(st, rest + 1);
    }
    if (!*found) {
        return LS_FAIL(LS_E_SHAPE, "the model has no tensor '%s', which its config.json calls for",
                       part->name);
    }
    const ls_st_tensor *t = *found;
    bool same = t->ndim == part->ndim;
    for (int d = 0; d < part->ndim && same; d++) {
        same = t->dims[d] == part->dims[d];
    }
    if (!same) {
        return LS_FAIL(LS_E_SHAPE,
                       "tensor '%s' has %d dimensions, %lld x %lld; config.json calls for %d, %lld "
                       "x %lld",
                       t->name, t->ndim, (long long)t->dims[0],
                       (long long)(t->ndim > 1 ? t->dims[1] : 1), part->ndim,
                       (long long)part->dims[0], (long long)(part->ndim > 1 ? part->dims[1] : 1));
    }
    if (!ls_dtype_is_float(t->dtype)) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "tensor '%s' is %s; F64, F32, BF16 and F16 can be converted", t->name,
                       t->dtype_name);
    }
    return LS_OK;
}

/* Rows [low, high) of a part, as float32 at out [high - low, cols]. */
static ls_status part_read(const ls_safetensors *st, const ls_hf_part *part, int64_t low,
                           int64_t high, float *out) {
    const ls_st_tensor *t;
    LS_TRY(part_find(st, part, &t));
    /* Bands of the tensor as it is there: of its rows, or transposed of our columns. */
    int64_t width = part->transposed ? part->rows : part->cols;
    int64_t first = part->transposed ? 0 : low, end = part->transposed ? part->cols : high;
    int64_t band = BAND_BYTES / (width * (int64_t)sizeof(double));
    band = band < 1 ? 1 : band > end - first ? end - first : band;
    size_t elems = (size_t)(band * width);
    char *raw = malloc(elems * sizeof(double));
    float *values = malloc(elems * sizeof *values);
    ls_status status =
        raw && values ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory to read '%s'", t->name);
    for (int64_t at = first; at < end && status == LS_OK; at += band) {
        int64_t n = end - at < band ? end - at : band;
        status = ls_safetensors_read(st, t, at * width, n * width, raw);
        if (status == LS_OK) {
            float *to = part->transposed ? values : out + (at - low) * width;
            status = ls_values_convert(to, LS_F32, raw, t->dtype, n * width);
        }
        for (int64_t r = low; r < high && part->transposed && status == LS_OK; r++) {
            for (int64_t k = 0; k < n; k++) {
                out[(r - low) * part->cols + at + k] = values[k * width + r];
            }
        }
    }
    free(raw);
    free(values);
    return status;
}

/* Boxes are whole rows, or experts: ls_ckpt_assign cuts along dimension 0. */
static ls_status fill_from_parts(void *context, ls_ckpt_tensor *tensors, int count) {
    const import *m = context;
    for (int i = 0; i < count; i++) {
        const ls_ckpt_tensor *t = &tensors[i];
        const ls_param *param = m->params;
        while (strcmp(param->name, t->name) != 0) {
            param++;
        }
        int n;
        LS_TRY(ls_hf_part_count(m->model, param, &n));
        const int64_t each = param->ndim > 2 ? param->dims[1] : 1;
        const int64_t begin = t->box.start[0] * each, end = begin + t->box.extent[0] * each;
        for (int k = 0; k < n; k++) {
            ls_hf_part part;
            LS_TRY(ls_hf_part_at(m->model, param, k, &part));
            int64_t low = begin > part.first_row ? begin : part.first_row;
            int64_t stop = part.first_row + part.rows, high = end < stop ? end : stop;
            if (low < high) {
                float *out = (float *)t->data + (low - begin) * part.cols;
                LS_TRY(part_read(m->st, &part, low - part.first_row, high - part.first_row, out));
            }
        }
    }
    return LS_OK;
}

/* Nothing of the model may be left behind unseen. */
static ls_status all_known(const import *m) {
    int count, used = 0, ignored = 0;
    const ls_st_tensor *all = ls_safetensors_tensors(m->st, &count), *found;
    bool *known;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *known, &known));
    ls_status status = LS_OK;
    for (int i = 0; i < m->count && status == LS_OK; i++) {
        int n = 0;
        status = ls_hf_part_count(m->model, &m->params[i], &n);
        for (int k = 0; k < n && status == LS_OK; k++) {
            ls_hf_part part;
            status = ls_hf_part_at(m->model, &m->params[i], k, &part);
            status = status == LS_OK ? part_find(m->st, &part, &found) : status;
            if (status == LS_OK) {
                known[found - all] = true;
                used++;
            }
        }
    }
    const char *unknown = NULL;
    for (int i = 0; i < count; i++) {
        bool ignore = !known[i] && ls_hf_ignored(m->model, all[i].name);
        ignored += ignore;
        unknown = known[i] || ignore || unknown ? unknown : all[i].name;
    }
    if (status == LS_OK && unknown) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "%d of %d tensors are not of this family, the first is '%.100s'",
                         count - used - ignored, count, unknown);
    }
    free(known);
    return status;
}

ls_status ls_convert_from_hf(const ls_safetensors *st, const ls_config_model *model,
                             const ls_param *params, int count, int writers,
                             const ls_ckpt_save_options *options, ls_ckpt_save_result *result) {
import m = {.st = st, .model = model, .params = params, .count = count };
    LS_TRY(all_known(&m));
    ls_ckpt_tensor *tensors;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *tensors, &tensors));
    for (int i = 0; i < count; i++) {
        ls_ckpt_tensor *t = &tensors[i];
        *t = (ls_ckpt_tensor){.name = params[i].name, .dtype = LS_F32, .ndim = params[i].ndim};
        memcpy(t->dims, params[i].dims, sizeof t->dims);
        t->dims[0] = params[i].valid_rows;
        t->box = ls_box_whole(t->ndim, t->dims);
    }
    ls_status status =
        ls_ckpt_rewrite(options, tensors, count, writers, fill_from_parts, &m, result);
    free(tensors);
    return status;
}
