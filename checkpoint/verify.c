#include "checkpoint/parity.h"
#include "checkpoint/repair.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

typedef struct check {
    const ls_ckpt *ckpt;
    bool deep, rebuilt; /* rebuilt: of a file that was made again, check that */
    void (*report)(void *context, const char *fault);
    void *context;
    int faults;
    bool *lost;        /* [file_count] had faults; NULL: nobody wants to know */
    ls_status machine; /* the first failure that is not the checkpoint's: LS_E_MEMORY, LS_E_IO */
    int threads;
    ls_ckpt_codec *codecs; /* [threads] */
} check;

/* One file and the pieces in it. */
typedef struct file_check {
    check *check;
    const ls_ckpt_file *file;
    char path[4096];
    ls_ckpt_source source;
    const ls_ckpt_piece *const *pieces; /* [piece_count] */
    int64_t piece_count, chunk_count;
    int64_t *first;      /* [piece_count + 1] a piece's first chunk among the file's */
    ls_sha256 *hashes;   /* [chunk_count] */
    ls_ckpt_chunk *room; /* [chunk_count] */
    char *failed;        /* [piece_count] a chunk of it was reported */
} file_check;

/* Reports the calling thread's last error. Threads take turns. */
static void fault(check *c, ls_status status) {
#pragma omp critical(ls_ckpt_fault)
    {
        c->faults++;
        if (status != LS_E_CORRUPT && c->machine == LS_OK) {
            c->machine = status;
        }
        if (c->report) {
            char *text = ls_ckpt_printable(ls_error_last()->message, false);
            c->report(c->context, text ? text : "out of memory");
            free(text);
        }
    }
}

/* The entry that a piece of the table belongs to: entries share the order of the pieces. */
static const ls_ckpt_entry *entry_of(const ls_ckpt *ckpt, const ls_ckpt_piece *piece) {
    int low = 0, high = ckpt->entry_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (ckpt->entries[middle].pieces <= piece) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &ckpt->entries[low];
}

static ls_status file_open(file_check *f, check *c, int file_index) {
    const ls_ckpt *ckpt = c->ckpt;
    *f = (file_check){.check = c, .file = &ckpt->files[file_index]};
    f->source.fd = f->source.direct = -1;
    if (c->rebuilt && f->file->rebuilt) {
        LS_TRY(ls_ckpt_file_path(ckpt, file_index, f->path, sizeof f->path));
    } else {
        LS_TRY(ls_ckpt_file_size_check(ckpt, file_index));
        LS_TRY(ls_path_join(f->path, sizeof f->path, ckpt->path, f->file->name));
    }
    f->pieces = ckpt->by_file + f->file->first_piece;
    f->piece_count = f->file->piece_count;
    LS_TRY(ls_calloc((size_t)f->piece_count + 1, sizeof *f->first, &f->first));
    LS_TRY(ls_calloc((size_t)f->piece_count + 1, sizeof *f->failed, &f->failed));
    for (int64_t i = 0; i < f->piece_count; i++) {
        f->first[i + 1] = f->first[i] + f->pieces[i]->chunks;
    }
    f->chunk_count = f->first[f->piece_count];
    LS_TRY(ls_calloc((size_t)f->chunk_count + 1, sizeof *f->hashes, &f->hashes));
    LS_TRY(ls_calloc((size_t)f->chunk_count + 1, sizeof *f->room, &f->room));
    for (int64_t i = 0; i < f->piece_count; i++) {
        memcpy(f->room + f->first[i], f->pieces[i]->places,
               (size_t)f->pieces[i]->chunks * sizeof *f->room);
    }
    ls_status status = ls_ckpt_source_open(f->path, false, &f->source);
    return status == LS_OK ? LS_OK : ls_error_prefix(status, "'%s'", f->path);
}

static void file_release(file_check *f) {
    ls_ckpt_source_close(&f->source);
    free(f->first);
    free(f->hashes);
    free(f->room);
    free(f->failed);
}

static int64_t piece_of_chunk(const file_check *f, int64_t chunk) {
    int64_t low = 0, high = f->piece_count - 1;
    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (f->first[middle] <= chunk) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

static ls_status chunk_decode(const file_check *f, const ls_ckpt_piece *piece, int64_t index,
                              ls_ckpt_codec *codec) {
    const ls_ckpt *ckpt = f->check->ckpt;
    ls_ckpt_grid grid;
    const uint8_t *values;
    ls_ckpt_piece_grid(entry_of(ckpt, piece), piece, &grid);
    ls_status status =
        ls_ckpt_chunk_load(&f->source, piece, &grid, index, ckpt->compressed, codec, &values);
    return status == LS_OK ? LS_OK
                           : ls_error_prefix(status, "'%s': chunk %lld of '%s' at byte %lld",
                                             f->path, (long long)index, piece->dataset,
                                             (long long)piece->places[index].at);
}

static ls_status chunk_check(const file_check *f, int64_t chunk, ls_ckpt_codec *codec) {
    int64_t number = piece_of_chunk(f, chunk), index = chunk - f->first[number];
    const ls_ckpt_piece *piece = f->pieces[number];
    const ls_ckpt_chunk *place = &piece->places[index];
    if (!f->check->deep) {
        return ls_ckpt_chunk_hash(f->source.fd, place, &f->hashes[chunk]);
    }
    LS_TRY(chunk_decode(f, piece, index, codec)); /* leaves what is stored in packed */
    return ls_ckpt_chunk_digest(codec->packed, (size_t)place->bytes, &f->hashes[chunk]);
}

/* Does the piece have its hash? If not, the chunk that is to blame is named. */
static ls_status piece_check(const file_check *f, int64_t number, ls_ckpt_codec *codec) {
    const ls_ckpt_piece *piece = f->pieces[number];
    ls_sha256 hash;
    LS_TRY(ls_sha256_of(f->hashes + f->first[number], (size_t)piece->chunks * sizeof *f->hashes,
                        &hash));
    if (memcmp(&hash, &piece->sha256, sizeof hash) == 0) {
        return LS_OK;
    }
    for (int64_t i = 0; i < piece->chunks; i++) {
        LS_TRY(chunk_decode(f, piece, i, codec));
    }
    return LS_FAIL(LS_E_CORRUPT,
                   "'%s': '%s' was changed: what is stored of it does not have the manifest's "
                   "SHA-256",
                   f->path, piece->dataset);
}

static ls_status gaps_check(const file_check *f) {
    ls_sha256 hash;
    char found[65], expected[65];
    LS_TRY(ls_ckpt_gaps_hash(f->path, f->file->bytes, f->room, f->chunk_count, &hash));
    if (memcmp(&hash, &f->file->sha256, sizeof hash) != 0) {
        ls_sha256_hex(&hash, found);
        ls_sha256_hex(&f->file->sha256, expected);
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s' was changed outside of its chunks: the SHA-256 of that is %.12s..., "
                       "expected %.12s...",
                       f->path, found, expected);
    }
    return LS_OK;
}

/* Every byte of the file against the manifest's hashes. */
static void bytes_check(file_check *f) {
    check *c = f->check;
#pragma omp parallel num_threads(c->threads)
    {
        ls_ckpt_codec *codec = &c->codecs[omp_get_thread_num()];
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = -1; i < f->chunk_count; i++) {
            ls_status status = i < 0 ? gaps_check(f) : chunk_check(f, i, codec);
            if (status != LS_OK) {
                fault(c, status);
                if (i >= 0) {
#pragma omp atomic write
                    f->failed[piece_of_chunk(f, i)] = 1;
                }
            }
        }
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < f->piece_count; i++) {
            ls_status status = f->failed[i] ? LS_OK : piece_check(f, i, codec);
            if (status != LS_OK) {
                fault(c, status);
            }
        }
    }
}

/* Does HDF5 find the dataset as the manifest has it? */
static ls_status dataset_check(const file_check *f, hid_t file, const ls_ckpt_piece *piece) {
    const ls_ckpt *ckpt = f->check->ckpt;
    const ls_ckpt_entry *entry = entry_of(ckpt, piece);
    ls_ckpt_grid grid;
    hid_t dataset;
    ls_ckpt_piece_grid(entry, piece, &grid);
    ls_status status = ls_ckpt_h5_dataset_open(file, piece->dataset, entry->dtype, &grid,
                                               ckpt->compressed, &dataset);
    if (status != LS_OK) {
        return ls_error_prefix(status, "'%s'", f->path);
    }
    for (int64_t i = 0; i < grid.count && status == LS_OK; i++) {
        ls_ckpt_chunk found = {0};
        status = ls_ckpt_h5_chunk_place(dataset, &grid, i, &found);
        if (status == LS_OK &&
            (found.at != piece->places[i].at || found.bytes != piece->places[i].bytes)) {
            status = LS_FAIL(LS_E_CORRUPT,
                             "HDF5 finds its %lld bytes at %lld, the manifest says %lld at %lld",
                             (long long)found.bytes, (long long)found.at,
                             (long long)piece->places[i].bytes, (long long)piece->places[i].at);
        }
        if (status != LS_OK) {
            ls_error_prefix(status, "'%s': chunk %lld of '%s'", f->path, (long long)i,
                            piece->dataset);
        }
    }
    H5Dclose(dataset);
    return status;
}

static void datasets_check(const file_check *f) {
    hid_t file;
    ls_status status = ls_ckpt_h5_init();
    status = status == LS_OK ? ls_ckpt_h5_open(f->path, &file) : status;
    if (status != LS_OK) {
        fault(f->check, status);
        return;
    }
    for (int64_t i = 0; i < f->piece_count; i++) {
        status = dataset_check(f, file, f->pieces[i]);
        if (status != LS_OK) {
            fault(f->check, status);
        }
    }
    H5Fclose(file);
}

static void file_verify(check *c, int file_index) {
    file_check f;
    int before = c->faults;
    ls_status status = file_open(&f, c, file_index);
    if (status != LS_OK) {
        fault(c, status);
    } else {
        bytes_check(&f);
        /* HDF5 sees nothing but what was written. It opens no file that has lost its name. */
        if (c->faults == before && !ls_parity_made(c->ckpt, file_index) &&
            !(c->rebuilt && f.file->rebuilt)) {
            datasets_check(&f);
        }
    }
    file_release(&f);
}

static ls_status files_verify(check *c, int first, int end) {
    int64_t bytes = 0;
    for (int i = first; i < end; i++) {
        bytes += c->ckpt->files[i].bytes;
    }
    c->threads = ls_ckpt_threads(omp_get_max_threads(), INT64_MAX, bytes);
    LS_TRY(ls_calloc((size_t)c->threads, sizeof *c->codecs, &c->codecs));
    ls_status status = LS_OK;
    for (int i = 0; i < c->threads && status == LS_OK; i++) {
        status = ls_ckpt_codec_init(&c->codecs[i], 1);
    }
    for (int i = first; i < end && status == LS_OK; i++) {
        const int before = c->faults;
        file_verify(c, i);
        if (c->lost) {
            c->lost[i] = c->faults > before;
        }
    }
    for (int i = 0; i < c->threads; i++) {
        ls_ckpt_codec_release(&c->codecs[i]);
    }
    free(c->codecs);
    return status;
}

ls_status ls_ckpt_verify(ls_ckpt *ckpt, ls_ckpt_depth depth,
                         void (*report)(void *context, const char *fault), void *context) {
    check c = {
        .ckpt = ckpt, .deep = depth == LS_CKPT_VERIFY_DEEP, .report = report, .context = context};
    for (int i = 0; i < ckpt->file_count && depth == LS_CKPT_VERIFY_QUICK; i++) {
        ls_status status = ls_ckpt_file_size_check(ckpt, i);
        if (status != LS_OK) {
            fault(&c, status);
        }
    }
    if (depth != LS_CKPT_VERIFY_QUICK) {
        LS_TRY(ls_calloc((size_t)ckpt->file_count, sizeof *c.lost, &c.lost));
        const ls_status status = files_verify(&c, 0, ckpt->file_count);
        for (int i = 0; i < ckpt->file_count; i++) {
            ckpt->files[i].lost = ckpt->files[i].lost || c.lost[i];
        }
        free(c.lost);
        LS_TRY(status);
    }
    if (c.faults == 0) {
        return LS_OK;
    }
    return LS_FAIL(
        c.machine != LS_OK ? c.machine : LS_E_CORRUPT, "checkpoint '%s' has %d fault%s%s",
        ckpt->path, c.faults, c.faults == 1 ? "" : "s",
        ckpt->group_count > 0 ? "; it has parity files: try 'lockstep ckpt doctor --repair'" : "");
}

static void keep_first(void *context, const char *text) {
    ls_error *first = context;
    if (!first->message[0]) {
        snprintf(first->message, sizeof first->message, "%s", text);
    }
}

ls_status ls_ckpt_file_verify(const ls_ckpt *ckpt, int file_index) {
    ls_error first = {0};
    check c = {.ckpt = ckpt, .rebuilt = true, .report = keep_first, .context = &first};
    LS_TRY(files_verify(&c, file_index, file_index + 1));
    return c.faults == 0
               ? LS_OK
               : LS_FAIL(c.machine != LS_OK ? c.machine : LS_E_CORRUPT, "%s", first.message);
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

ls_status ls_ckpt_list(const char *root, int64_t **steps, size_t *count) {
    *steps = NULL;
    *count = 0;
    DIR *directory = opendir(root);
    if (!directory) {
        return errno == ENOENT || errno == ENOTDIR
                   ? LS_FAIL(LS_E_INPUT, "'%s' is no checkpoint and no run: %s", root,
                             strerror(errno))
                   : LS_FAIL(LS_E_IO, "cannot list '%s': %s", root, strerror(errno));
    }
    struct dirent *item;
    while (errno = 0, (item = readdir(directory))) {
        int64_t step = ls_ckpt_step_parse(item->d_name);
        if (step < 0) {
            continue;
        }
        int64_t *larger = reallocarray(*steps, *count + 1, sizeof *larger);
        if (!larger) {
            closedir(directory);
            free(*steps);
            *steps = NULL;
            return LS_FAIL(LS_E_MEMORY, "no memory for the list of checkpoints");
        }
        *steps = larger;
        larger[(*count)++] = step;
    }
    const int error = errno;
    closedir(directory);
    if (error) {
        free(*steps);
        *steps = NULL;
        return LS_FAIL(LS_E_IO, "cannot list '%s': %s", root, strerror(error));
    }
    if (*count > 0) {
        qsort(*steps, *count, sizeof **steps, newest_first);
    }
    return LS_OK;
}

ls_status ls_ckpt_open_below(const char *root, int64_t below, ls_ckpt **ckpt) {
    int64_t *steps;
    size_t count, skipped = 0;
    *ckpt = NULL;
    ls_status status = ls_ckpt_list(root, &steps, &count);
    for (size_t i = 0; i < count && status == LS_OK && !*ckpt; i++) {
        if (steps[i] >= below) {
            continue;
        }
        skipped++;
        char *candidate = ls_text_format("%s/step-%08lld", root, (long long)steps[i]);
        if (!candidate) {
            status = LS_FAIL(LS_E_MEMORY, "no memory for a path");
        } else if (ls_ckpt_open(candidate, ckpt) != LS_OK) {
            ls_log_warn("checkpoint '%s' is skipped: %s", candidate, ls_error_last()->message);
        }
        free(candidate);
    }
    free(steps);
    LS_TRY(status);
    if (!*ckpt) {
        return LS_FAIL(skipped > 0 ? LS_E_CORRUPT : LS_E_INPUT,
                       "'%s' holds no valid checkpoint (%zu directories named step-*)", root,
                       count);
    }
    return LS_OK;
}

ls_status ls_ckpt_open_latest(const char *root, ls_ckpt **ckpt) {
    int64_t *steps;
    size_t count;
    *ckpt = NULL;
    LS_TRY(ls_ckpt_list(root, &steps, &count));
    free(steps);
    /* Opening checks all that quick verification does. */
    return count ? ls_ckpt_open_below(root, INT64_MAX, ckpt) : ls_ckpt_open(root, ckpt);
}

ls_status ls_ckpt_latest(const char *root, char **path) {
    ls_ckpt *ckpt;
    *path = NULL;
    LS_TRY(ls_ckpt_open_latest(root, &ckpt));
    *path = strdup(ckpt->path);
    ls_ckpt_close(ckpt);
    return *path ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a path");
}
