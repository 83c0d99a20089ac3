/* One data file: chunks are compressed by all threads; whoever has the next one has HDF5 give it
 * its place, so that the file's bytes do not depend on the number of threads; a putter takes it
 * there. */
#include "checkpoint/format.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct piece {
    const ls_ckpt_tensor *tensor;
    ls_ckpt_grid grid;
    int64_t first_chunk; /* number of its first chunk among all of the file */
    int64_t stored_bytes;
    char dataset[LS_CKPT_DATASET_MAX + 16];
} piece;

typedef struct writer {
    const char *path;
    hid_t file, dataset; /* dataset: of the piece being stored */
    ls_ckpt_h5_output output;
    ls_ckpt_putter putter;
    int64_t bytes;
    size_t block_bytes; /* of the largest chunk as stored */
    int level, threads;
    const volatile sig_atomic_t *stop; /* NULL: never */
    piece *pieces;
    int piece_count;
    int64_t chunk_count;
    ls_ckpt_chunk *chunks; /* [chunk_count] what the file has of each */
    ls_sha256 *hashes;     /* [chunk_count] of each as stored */
    ls_ckpt_codec *codecs; /* [threads] */
    _Atomic int64_t taken; /* chunks that somebody makes or has made */
    pthread_mutex_t mutex; /* of what follows */
    ls_ckpt_block **made;  /* [chunk_count] NULL: not yet */
    int64_t entered;       /* chunks that have their places */
    bool entering;         /* somebody is at it */
    atomic_bool failed;    /* the first error; sticky, since closing a file forgets it */
    ls_error error;
} writer;

/* Keeps the calling thread's error when it is the first. */
static void keep_error(writer *w) {
#pragma omp critical(ls_ckpt_write_error)
    if (!atomic_load(&w->failed)) {
        w->error = *ls_error_last();
        atomic_store(&w->failed, true);
    }
}

static ls_status kept_error(const writer *w) {
    if (!atomic_load(&w->failed)) {
        return LS_OK;
    }
    return ls_error_restore(&w->error);
}

static ls_status pieces_init(writer *w, const ls_ckpt_tensor *tensors, int count) {
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *w->pieces, &w->pieces));
    for (int i = 0; i < count; i++) {
        const ls_ckpt_tensor *t = &tensors[i];
        if (ls_box_elems(&t->box) == 0) {
            continue;
        }
        piece *p = &w->pieces[w->piece_count++];
        int64_t chunk[LS_MAX_DIMS];
        int64_t elem_bytes = (int64_t)ls_dtype_bytes(t->dtype);
        p->tensor = t;
        p->first_chunk = w->chunk_count;
        ls_ckpt_grid_choose(t->ndim, t->box.extent, elem_bytes, chunk);
        LS_TRY(ls_ckpt_grid_make(t->ndim, t->box.extent, chunk, elem_bytes, &p->grid));
        LS_TRY(ls_ckpt_dataset_path(p->dataset, sizeof p->dataset, t->name, t->ndim, t->dims,
                                    &t->box));
        w->chunk_count += p->grid.count;
        w->bytes += ls_box_elems(&t->box) * elem_bytes;
        const size_t most = ls_ckpt_stored_max((size_t)p->grid.chunk_bytes, w->level > 0);
        w->block_bytes = most > w->block_bytes ? most : w->block_bytes;
    }
    w->threads = ls_ckpt_threads(w->threads, w->chunk_count, w->bytes);
    LS_TRY(ls_calloc((size_t)w->chunk_count + 1, sizeof *w->chunks, &w->chunks));
    LS_TRY(ls_calloc((size_t)w->chunk_count + 1, sizeof *w->hashes, &w->hashes));
    LS_TRY(ls_calloc((size_t)w->chunk_count + 1, sizeof *w->made, &w->made));
    LS_TRY(ls_calloc((size_t)w->threads, sizeof *w->codecs, &w->codecs));
    for (int i = 0; i < w->threads; i++) {
        LS_TRY(ls_ckpt_codec_init(&w->codecs[i], w->level));
    }
    return LS_OK;
}

static void writer_release(writer *w) {
    for (int i = 0; i < w->threads && w->codecs; i++) {
        ls_ckpt_codec_release(&w->codecs[i]);
    }
    free(w->codecs);
    free(w->chunks);
    free(w->hashes);
    free(w->made);
    free(w->pieces);
}

static piece *piece_of_chunk(const writer *w, int64_t chunk) {
    int low = 0, high = w->piece_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (w->pieces[middle].first_chunk <= chunk) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &w->pieces[low];
}

/* Gives the chunk in a block its place. */
static ls_status chunk_enter(writer *w, piece *p, int64_t chunk, ls_ckpt_block *b) {
    int64_t index = chunk - p->first_chunk;
    if (index == 0) {
        LS_TRY(ls_ckpt_h5_dataset_create(w->file, p->dataset, p->tensor, &p->grid, w->level,
                                         &w->dataset));
    }
    hsize_t offset[LS_MAX_DIMS];
    ls_ckpt_h5_offset(&p->grid, index, offset);
    w->output.later = b->data;
    if (H5Dwrite_chunk(w->dataset, H5P_DEFAULT, 0, offset, b->bytes, b->data) < 0) {
        return LS_H5_FAIL(LS_E_IO, "cannot write chunk %lld of '%s' to '%s'", (long long)index,
                          p->dataset, w->path);
    }
    if (w->output.error) { /* no use in going on; completing the file tells */
        return LS_FAIL(LS_E_IO, "cannot write '%s'", w->path);
    }
    b->at = w->output.later ? -1 : w->output.later_at;
    w->output.later = NULL;
    p->stored_bytes += (int64_t)b->bytes;
    if (index == p->grid.count - 1) {
        hid_t dataset = w->dataset;
        w->dataset = H5I_INVALID_HID;
        if (H5Dclose(dataset) < 0) {
            return LS_H5_FAIL(LS_E_IO, "cannot complete the dataset '%s'", p->dataset);
        }
    }
    return LS_OK;
}

static ls_status chunk_encode(writer *w, const piece *p, int64_t chunk, ls_ckpt_block *b) {
    if (w->stop && *w->stop) {
        return LS_FAIL(LS_E_STOPPED, "stopped in '%s'", p->dataset);
    }
    ls_box box;
    int64_t first_elem;
    const void *stored;
    ls_ckpt_codec *codec = &w->codecs[omp_get_thread_num()];
    ls_ckpt_grid_box(&p->grid, chunk - p->first_chunk, &box, &first_elem);
    const char *src = (const char *)p->tensor->data + first_elem * p->grid.elem_bytes;
    codec->packed = b->data; /* lent */
    codec->packed_capacity = w->block_bytes;
    ls_status status =
        ls_ckpt_encode(codec, src, ls_box_elems(&box), p->grid.chunk_elems, p->grid.elem_bytes,
                       &stored, &b->bytes, &w->chunks[chunk].xxh3);
    codec->packed = NULL;
    codec->packed_capacity = 0;
    LS_TRY(status);
    if (stored != b->data) {
        memcpy(b->data, stored, b->bytes);
    }
    w->chunks[chunk].bytes = (int64_t)b->bytes;
    return ls_ckpt_chunk_digest(b->data, b->bytes, &w->hashes[chunk]);
}

/* Gives the chunk its place, and those that were made before it was. */
static void chunk_finish(writer *w, int64_t chunk, ls_ckpt_block *b) {
    pthread_mutex_lock(&w->mutex);
    w->made[chunk] = b;
    while (!w->entering && w->entered < w->chunk_count && w->made[w->entered]) {
        chunk = w->entered;
        w->entering = true; /* HDF5 is for one thread at a time; those that come meanwhile go on */
        pthread_mutex_unlock(&w->mutex);
        b = w->made[chunk];
        if (!atomic_load(&w->failed) &&
            chunk_enter(w, piece_of_chunk(w, chunk), chunk, b) != LS_OK) {
            keep_error(w);
        }
        ls_ckpt_putter_give(&w->putter, b);
        pthread_mutex_lock(&w->mutex);
        w->entering = false;
        w->entered++;
    }
    pthread_mutex_unlock(&w->mutex);
}

/* A thread has a block before it has a chunk to fill it with: so the next chunk to enter is never
 * the one that waits for a block. */
static void chunks_write(writer *w) {
    if (ls_ckpt_h5_init() != LS_OK) {
        keep_error(w);
    }
#pragma omp barrier /* nobody is in HDF5 any more when the first chunk enters */
    for (;;) {
        ls_ckpt_block *b = ls_ckpt_putter_take(&w->putter);
        const int64_t chunk = atomic_fetch_add(&w->taken, 1);
        if (chunk >= w->chunk_count) {
            ls_ckpt_putter_give(&w->putter, b);
            return;
        }
        if (!atomic_load(&w->failed) &&
            chunk_encode(w, piece_of_chunk(w, chunk), chunk, b) != LS_OK) {
            keep_error(w);
        }
        chunk_finish(w, chunk, b);
    }
}

/* Encodes, hashes and stores all chunks. */
static ls_status pieces_write(writer *w) {
    LS_TRY(ls_ckpt_putter_start(&w->putter, &w->output, w->path, w->threads,
                                ls_ckpt_putter_threads(w->threads, w->bytes), w->block_bytes));
    pthread_mutex_init(&w->mutex, NULL);
#pragma omp parallel num_threads(w->threads)
    chunks_write(w);
    pthread_mutex_destroy(&w->mutex);
    ls_ckpt_putter_end(&w->putter);
    return kept_error(w);
}

/* What a full disk lost without telling is found by opening the file again: metadata has
 * checksums, and every chunk must be there with its size. Tells where it is. */
static ls_status file_check(writer *w, bool first) {
    hid_t file;
    LS_TRY(ls_ckpt_h5_open(w->path, &file));
    ls_status status = LS_OK;
    for (int i = 0; i < w->piece_count && status == LS_OK; i++) {
        const piece *p = &w->pieces[i];
        hid_t dataset;
        status = ls_ckpt_h5_dataset_open(file, p->dataset, p->tensor->dtype, &p->grid, w->level > 0,
                                         &dataset);
        if (status != LS_OK) {
            break;
        }
        for (int64_t k = 0; k < p->grid.count && status == LS_OK; k++) {
            ls_ckpt_chunk *chunk = &w->chunks[p->first_chunk + k];
            int64_t written = chunk->bytes;
            status = ls_ckpt_h5_chunk_place(dataset, &p->grid, k, chunk);
            if (status != LS_OK || chunk->bytes != written) {
                status = LS_FAIL(LS_E_IO, "chunk %lld of '%s' in '%s' has %lld bytes, %lld written",
                                 (long long)k, p->dataset, w->path, (long long)chunk->bytes,
                                 (long long)written);
            }
        }
        H5Dclose(dataset);
    }
    if (status == LS_OK && first && H5Oexists_by_name(file, "/counters", H5P_DEFAULT) <= 0) {
        status = LS_H5_FAIL(LS_E_IO, "'%s' has lost its counters", w->path);
    }
    ls_status closed = ls_ckpt_h5_close(file, w->path);
    return status != LS_OK ? status : closed;
}

static ls_status file_fill(writer *w, bool first, const ls_ckpt_save_options *options) {
    LS_TRY(ls_ckpt_h5_create(w->path, &w->output, &w->file));
    ls_status status = ls_ckpt_h5_group(w->file, "/tensors");
    if (status == LS_OK) {
        status = pieces_write(w);
    }
    if (status == LS_OK && first) {
        status = ls_ckpt_h5_counters_write(w->file, options->counters);
    }
    ls_status completed = ls_ckpt_h5_complete(w->file, &w->output, w->path);
    return w->output.error || status == LS_OK ? completed : status;
}

static json_t *integers(int count, const int64_t *values) {
    json_t *array = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(array, json_integer(values[i]));
    }
    return array;
}

/* NULL when memory is short. */
static json_t *piece_json(const writer *w, const piece *p, const char *file) {
    const ls_ckpt_tensor *t = p->tensor;
    const ls_ckpt_chunk *chunks = w->chunks + p->first_chunk;
    size_t count = (size_t)p->grid.count;
    json_t *at = json_array(), *bytes = json_array();
    char hex[65], *xxh3 = malloc(16 * count + 1);
    ls_sha256 hash;
    bool failed =
        !xxh3 || ls_sha256_of(w->hashes + p->first_chunk, count * sizeof hash, &hash) != LS_OK;
    for (size_t i = 0; i < count && !failed; i++) {
        snprintf(xxh3 + 16 * i, 17, "%016llx", (unsigned long long)chunks[i].xxh3);
        failed = json_array_append_new(at, json_integer(chunks[i].at)) != 0 ||
                 json_array_append_new(bytes, json_integer(chunks[i].bytes)) != 0;
    }
    json_t *object = NULL;
    if (!failed) {
        ls_sha256_hex(&hash, hex);
        object = json_pack(
            "{s:s,s:s,s:o,s:o,s:o,s:I,s:I,s:I,s:O,s:O,s:s,s:s}", "file", file, "dataset",
            p->dataset, "start", integers(t->ndim, t->box.start), "extent",
            integers(t->ndim, t->box.extent), "chunk", integers(t->ndim, p->grid.chunk), "chunks",
            (json_int_t)p->grid.count, "raw_bytes",
            (json_int_t)(ls_box_elems(&t->box) * (int64_t)ls_dtype_bytes(t->dtype)), "stored_bytes",
            (json_int_t)p->stored_bytes, "at", at, "bytes", bytes, "xxh3", xxh3, "sha256", hex);
    }
    json_decref(at);
    json_decref(bytes);
    free(xxh3);
    return object;
}

/* Rank 0 lists all tensors, so that the manifest has its order. */
static ls_status record_make(const writer *w, const char *file_name, bool first,
                             const ls_ckpt_tensor *tensors, int count, json_t **record) {
    json_t *list = json_array(), *files = json_array();
    const piece *p = w->pieces, *end = w->pieces + w->piece_count;
    bool failed = !list || !files;
    for (int i = 0; i < count && !failed; i++) {
        const ls_ckpt_tensor *t = &tensors[i];
        json_t *pieces = json_array();
        if (p < end && p->tensor == t) {
            failed = json_array_append_new(pieces, piece_json(w, p++, file_name)) != 0;
        } else if (!first) {
            json_decref(pieces);
            continue;
        }
        json_t *tensor =
            json_pack("{s:s,s:s,s:o,s:o}", "name", t->name, "dtype", ls_dtype_name(t->dtype),
                      "shape", integers(t->ndim, t->dims), "pieces", pieces);
        failed = failed || json_array_append_new(list, tensor) != 0;
    }
    if (w->path && !failed) {
        ls_sha256 hash;
        struct stat info = {0};
        char hex[65];
        ls_status status =
            stat(w->path, &info) == 0
                ? ls_ckpt_gaps_hash(w->path, info.st_size, w->chunks, w->chunk_count, &hash)
                : LS_FAIL(LS_E_IO, "cannot find '%s'", w->path);
        if (status != LS_OK) {
            json_decref(list);
            json_decref(files);
            return status;
        }
        ls_sha256_hex(&hash, hex);
        failed =
            json_array_append_new(files, json_pack("{s:s,s:I,s:s}", "name", file_name, "bytes",
                                                   (json_int_t)info.st_size, "sha256", hex)) != 0;
    }
    *record = failed ? NULL : json_pack("{s:O,s:O}", "files", files, "tensors", list);
    json_decref(list);
    json_decref(files);
    return *record ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
}

ls_status ls_ckpt_file_write(const char *directory, const char *name, bool first,
                             const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                             int count, json_t **record) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, directory, name));
    writer w = {.path = path,
                .file = H5I_INVALID_HID,
                .dataset = H5I_INVALID_HID,
                .level = options->level,
                .threads = options->threads,
                .stop = options->stop};
    ls_status status = ls_ckpt_h5_init();
    if (status == LS_OK) {
        status = pieces_init(&w, tensors, count);
    }
    bool needed = first || w.piece_count > 0;
    if (status == LS_OK && needed) {
        status = file_fill(&w, first, options);
    }
    if (status == LS_OK && needed) {
        status = file_check(&w, first);
    }
    if (status == LS_OK) {
        w.path = needed ? path : NULL;
        status = record_make(&w, name, first, tensors, count, record);
    }
    writer_release(&w);
    return status;
}
