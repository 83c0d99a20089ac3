#include "checkpoint/fetch.h"
#include "checkpoint/repair.h"
#include "runtime/base/arena.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A piece that a wanted box touches. */
typedef struct use {
    const ls_ckpt_tensor *tensor;
    const ls_ckpt_piece *piece;
    ls_ckpt_grid grid;
} use;

typedef struct reader {
    ls_ckpt *ckpt;
    use *uses;
    ls_ckpt_wanted *chunks;
    int64_t use_count, chunk_count, use_capacity, chunk_capacity, bytes;
    ls_ckpt_fetcher fetcher;
    ls_ckpt_codec *codecs; /* [threads] */
    int threads;
    atomic_bool failed;
    ls_error error;
} reader;

static void keep_error(reader *r) {
    ls_ckpt_fetcher_stop(&r->fetcher);
#pragma omp critical(ls_ckpt_read_error)
    if (!atomic_load(&r->failed)) {
        r->error = *ls_error_last();
        atomic_store(&r->failed, true);
    }
}

static ls_status kept_error(const reader *r) {
    if (!atomic_load(&r->failed)) {
        return LS_OK;
    }
    return ls_error_restore(&r->error);
}

/* Room for one more element of a growing table. */
static ls_status grow(void *table_pointer, int64_t count, int64_t *capacity, size_t elem_bytes) {
    if (count < *capacity) {
        return LS_OK;
    }
    void **table = table_pointer;
    int64_t wanted = 2 * *capacity + 64;
    void *larger = reallocarray(*table, (size_t)wanted, elem_bytes);
    if (!larger) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %lld chunks", (long long)wanted);
    }
    *table = larger;
    *capacity = wanted;
    return LS_OK;
}

/* A chunk's box in the tensor. */
static ls_box chunk_box(const use *u, int64_t index) {
    ls_box box;
    int64_t first_elem;
    ls_ckpt_grid_box(&u->grid, index, &box, &first_elem);
    for (int d = 0; d < box.ndim; d++) {
        box.start[d] += u->piece->box.start[d];
    }
    return box;
}

static ls_status entry_check(const ls_ckpt *ckpt, const ls_ckpt_tensor *t,
                             const ls_ckpt_entry **entry) {
    *entry = ls_ckpt_find(ckpt, t->name);
    if (!*entry) {
        return LS_FAIL(LS_E_SHAPE, "checkpoint '%s' has no tensor '%s'", ckpt->path, t->name);
    }
    bool same = (*entry)->dtype == t->dtype && (*entry)->ndim == t->ndim;
    for (int d = 0; d < t->ndim && same; d++) {
        same = (*entry)->dims[d] == t->dims[d];
    }
    if (!same) {
        char found[128], wanted[128];
        return LS_FAIL(LS_E_SHAPE, "tensor '%s' in checkpoint '%s' is %s %s, the model has %s %s",
                       t->name, ckpt->path, ls_dtype_name((*entry)->dtype),
                       ls_ckpt_shape_text(found, sizeof found, (*entry)->ndim, (*entry)->dims),
                       ls_dtype_name(t->dtype),
                       ls_ckpt_shape_text(wanted, sizeof wanted, t->ndim, t->dims));
    }
    bool inside = t->box.ndim == t->ndim;
    for (int d = 0; d < t->ndim && inside; d++) {
        inside = t->box.start[d] >= 0 && t->box.extent[d] >= 0 && t->box.start[d] <= t->dims[d] &&
                 t->box.extent[d] <= t->dims[d] - t->box.start[d];
    }
    return inside ? LS_OK
                  : LS_FAIL(LS_E_SHAPE, "the box wanted of '%s' leaves the tensor", t->name);
}

static ls_status plan(reader *r, const ls_ckpt_tensor *t) {
    const ls_ckpt_entry *entry;
    ls_box both;
    LS_TRY(entry_check(r->ckpt, t, &entry));
    for (int i = 0; i < entry->piece_count; i++) {
        if (!ls_box_intersect(&t->box, &entry->pieces[i].box, &both)) {
            continue;
        }
        LS_TRY(grow(&r->uses, r->use_count, &r->use_capacity, sizeof *r->uses));
        use *u = &r->uses[r->use_count];
        *u = (use){.tensor = t, .piece = &entry->pieces[i]};
        ls_ckpt_piece_grid(entry, u->piece, &u->grid);
        for (int64_t k = 0; k < u->grid.count; k++) {
            ls_box box = chunk_box(u, k);
            if (ls_box_intersect(&t->box, &box, &both)) {
                LS_TRY(grow(&r->chunks, r->chunk_count, &r->chunk_capacity, sizeof *r->chunks));
                r->chunks[r->chunk_count++] = (ls_ckpt_wanted){.place = &u->piece->places[k],
                                                               .index = k,
                                                               .use = (int)r->use_count,
                                                               .file_index = u->piece->file_index};
                r->bytes += u->grid.chunk_bytes;
            }
        }
        r->use_count++;
    }
    return LS_OK;
}

/* File by file, each from its beginning to its end: as disks like it. */
static int by_place(const void *a, const void *b) {
    const ls_ckpt_wanted *x = a, *y = b;
    if (x->file_index != y->file_index) {
        return x->file_index < y->file_index ? -1 : 1;
    }
    return (x->place->at > y->place->at) - (x->place->at < y->place->at);
}

static ls_status prepare(reader *r, const ls_ckpt_tensor *tensors, int count) {
    for (int i = 0; i < count; i++) {
        LS_TRY(plan(r, &tensors[i]));
    }
    if (r->chunk_count > 0) {
        qsort(r->chunks, (size_t)r->chunk_count, sizeof *r->chunks, by_place);
    }
    r->threads = ls_ckpt_threads(omp_get_max_threads(), r->chunk_count, r->bytes);
    LS_TRY(ls_calloc((size_t)r->threads, sizeof *r->codecs, &r->codecs));
    for (int i = 0; i < r->threads; i++) {
        LS_TRY(ls_ckpt_codec_init(&r->codecs[i], 1));
        ls_ckpt_codec_trust_frames(&r->codecs[i]); /* ls_ckpt_chunk_values compares hashes */
    }
    return ls_ckpt_fetcher_start(&r->fetcher, r->ckpt, r->chunks, r->chunk_count, r->threads);
}

/* Where a chunk's values belong when they are wanted all, and lie there without gaps; else NULL. */
static uint8_t *chunk_target(const use *u, const ls_box *box) {
    const ls_box *wanted = &u->tensor->box;
    int64_t elem = 0;
    for (int d = 0; d < box->ndim; d++) {
        bool whole = box->start[d] == wanted->start[d] && box->extent[d] == wanted->extent[d];
        if (box->start[d] < wanted->start[d] ||
            box->extent[d] > wanted->extent[d] - (box->start[d] - wanted->start[d]) ||
            (d > u->grid.axis && !whole)) {
            return NULL;
        }
        elem = elem * wanted->extent[d] + (box->start[d] - wanted->start[d]);
    }
    return (uint8_t *)u->tensor->data + elem * u->grid.elem_bytes;
}

/* A chunk that cannot be read as it should be: from its file, made again with the parity files. */
static ls_status chunk_load_again(reader *r, const ls_ckpt_wanted *c, ls_ckpt_codec *codec,
                                  const uint8_t **values) {
    const use *u = &r->uses[c->use];
    char path[4096];
    ls_status status;
#pragma omp critical(ls_ckpt_rebuild)
    status = ls_ckpt_file_rebuild(r->ckpt, c->file_index);
    LS_TRY(status);
    LS_TRY(ls_ckpt_file_path(r->ckpt, c->file_index, path, sizeof path));
    ls_ckpt_source source;
    LS_TRY(ls_ckpt_source_open(path, true, &source));
    status = ls_ckpt_chunk_load(&source, u->piece, &u->grid, c->index, r->ckpt->compressed, codec,
                                values);
    ls_ckpt_source_close(&source);
    return status;
}

/* Puts the values of a chunk where they are wanted. status: of its reading. */
static ls_status chunk_place(reader *r, const ls_ckpt_wanted *c, ls_ckpt_codec *codec,
                             ls_status status) {
    const use *u = &r->uses[c->use];
    const uint8_t *values = NULL;
    ls_box box = chunk_box(u, c->index), both;
    codec->into = chunk_target(u, &box);
    if (status == LS_OK) {
        status =
            ls_ckpt_chunk_values(u->piece, &u->grid, c->index, r->ckpt->compressed, codec, &values);
    }
    if (status != LS_OK && status != LS_E_MEMORY && r->ckpt->files[c->file_index].group >= 0) {
        status = chunk_load_again(r, c, codec, &values);
    }
    if (status != LS_OK) {
        return ls_error_prefix(status, "'%s/%s': chunk %lld of '%s'", r->ckpt->path, u->piece->file,
                               (long long)c->index, u->piece->dataset);
    }
    if (values != codec->into && ls_box_intersect(&u->tensor->box, &box, &both)) {
        ls_box_copy(&both, &box, values, &u->tensor->box, u->tensor->data,
                    (size_t)u->grid.elem_bytes);
    }
    return LS_OK;
}

static void work(reader *r, int thread) {
    ls_ckpt_codec *codec = &r->codecs[thread];
    const ls_ckpt_wanted *c;
    ls_status status;
    while ((c = ls_ckpt_fetcher_take(&r->fetcher, codec, &status))) {
        if (chunk_place(r, c, codec, status) != LS_OK) {
            keep_error(r);
        }
    }
}

static void reader_release(reader *r) {
    ls_ckpt_fetcher_end(&r->fetcher);
    for (int i = 0; i < r->threads && r->codecs; i++) {
        ls_ckpt_codec_release(&r->codecs[i]);
    }
    free(r->codecs);
    free(r->uses);
    free(r->chunks);
}

ls_status ls_ckpt_load(ls_ckpt *ckpt, ls_ckpt_tensor *tensors, int count) {
    reader r = {.ckpt = ckpt};
    ls_status status = prepare(&r, tensors, count);
    if (status == LS_OK) {
#pragma omp parallel num_threads(r.threads)
        work(&r, omp_get_thread_num());
        status = kept_error(&r);
    }
    reader_release(&r);
    return status;
}
