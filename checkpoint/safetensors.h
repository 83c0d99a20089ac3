/* Safetensors files: 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}},
 * and the tensors' bytes without gaps, row-major and little-endian; and models of several such
 * files, found by model.safetensors.index.json
 * (https://github.com/huggingface/safetensors). */
#ifndef LS_CHECKPOINT_SAFETENSORS_H
#define LS_CHECKPOINT_SAFETENSORS_H

#include "runtime/base/dtype.h"
#include "runtime/base/status.h"

#include <jansson.h>
#include <stdint.h>

#define LS_ST_MAX_DIMS   8
#define LS_ST_HEADER_MAX 100000000 /* bytes, as in the reference implementation */

typedef struct ls_st_tensor {
    const char *name;
    const char *dtype_name; /* "F32", "I8", ... */
    ls_dtype dtype;         /* LS_DTYPE_COUNT: none of ours */
    int ndim;               /* 0: a scalar */
    int64_t dims[LS_ST_MAX_DIMS];
    int file;              /* which of the model's files */
    int64_t offset, bytes; /* in the file */
} ls_st_tensor;

/* ---- reading ---- */

typedef struct ls_safetensors ls_safetensors;

/* Parses a header: the first `bytes` of a file of file_bytes, of which the header must be a part.
 * Checks all sizes; opens nothing. LS_E_CORRUPT tells what is wrong in `where`. */
ls_status ls_safetensors_parse(const void *data, size_t bytes, int64_t file_bytes,
                               const char *where, ls_safetensors **st);
/* A file, or a directory with model.safetensors.index.json or model.safetensors. */
ls_status ls_safetensors_open(const char *path, ls_safetensors **st);
void ls_safetensors_close(ls_safetensors *st);
const ls_st_tensor *ls_safetensors_tensors(const ls_safetensors *st, int *count);
const ls_st_tensor *ls_safetensors_find(const ls_safetensors *st, const char *name);
/* Elements [first, first + count) as they are in the file. */
ls_status ls_safetensors_read(const ls_safetensors *st, const ls_st_tensor *tensor, int64_t first,
                              int64_t count, void *out);

/* ---- writing ---- */

typedef struct ls_st_writer ls_st_writer;

/* Files in directory for tensors (name, dtype, ndim, dims are given), none of which exists: one
 * model.safetensors, or model-00001-of-0000N.safetensors with at most shard_bytes of data each (a
 * larger tensor is alone) and the index. Their space is reserved; values follow in any order. */
ls_status ls_st_writer_open(const char *directory, const ls_st_tensor *tensors, int count,
                            int64_t shard_bytes, ls_st_writer **writer);
/* The file of tensor i, and where its data begin. */
void ls_st_writer_place(const ls_st_writer *writer, int i, int *fd, const char **path,
                        int64_t *offset);
/* Syncs the files, writes the index. *files, *bytes: how many, and of all. */
ls_status ls_st_writer_complete(ls_st_writer *writer, int *files, int64_t *bytes);
void ls_st_writer_close(ls_st_writer *writer);

#endif
