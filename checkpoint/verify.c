#include "checkpoint/format.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

ls_status ls_ckpt_file_verify(ls_ckpt *ckpt, int file_index) {
    ls_ckpt_file *file = &ckpt->files[file_index];
    if (file->verified) {
        return LS_OK;
    }
    char path[4096], found_hex[65], expected_hex[65];
    ls_sha256 found;
    uint64_t bytes;
    LS_TRY(ls_path_join(path, sizeof path, ckpt->path, file->name));
    LS_TRY(ls_sha256_file(path, &found, &bytes));
    if (bytes != (uint64_t)file->bytes) {
        return LS_FAIL(LS_E_CORRUPT, "'%s' has %llu bytes, expected %lld", path,
                       (unsigned long long)bytes, (long long)file->bytes);
    }
    if (memcmp(&found, &file->sha256, sizeof found) != 0) {
        ls_sha256_hex(&found, found_hex);
        ls_sha256_hex(&file->sha256, expected_hex);
        return LS_FAIL(LS_E_CORRUPT, "'%s' was changed: its SHA-256 is %.12s..., expected %.12s...",
                       path, found_hex, expected_hex);
    }
    file->verified = true;
    return LS_OK;
}

typedef struct check {
    ls_ckpt *ckpt;
    hid_t *files; /* [file_count]; -1: damaged */
    void (*report)(void *context, const char *fault);
    void *context;
    int faults;
    ls_status machine; /* the first failure that is not the checkpoint's: LS_E_MEMORY, LS_E_IO */
} check;

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

static ls_status chunks_check(const check *c, const ls_ckpt_piece *piece, const ls_ckpt_grid *grid,
                              hid_t dataset, ls_ckpt_codec *codec, ls_sha256_stream *hash,
                              int64_t *stored_bytes) {
    for (int64_t k = 0; k < grid->count; k++) {
        size_t bytes = 0;
        const uint8_t *data;
        ls_status status;
#pragma omp critical(ls_hdf5)
        status = ls_ckpt_h5_chunk_read(dataset, grid, k, c->ckpt->compressed, codec, &bytes);
        if (status == LS_OK) {
            status = ls_ckpt_decode(codec, bytes, grid, c->ckpt->compressed, &data);
        }
        if (status != LS_OK) {
            return ls_error_prefix(status, "%s: chunk %lld of '%s'", piece->file, (long long)k,
                                   piece->dataset);
        }
        ls_box box;
        int64_t first_elem;
        ls_ckpt_grid_box(grid, k, &box, &first_elem);
        LS_TRY(ls_sha256_update(hash, data, (size_t)(ls_box_elems(&box) * grid->elem_bytes)));
        *stored_bytes += (int64_t)bytes;
    }
    return LS_OK;
}

static ls_status piece_check(const check *c, const ls_ckpt_entry *entry, const ls_ckpt_piece *piece,
                             ls_ckpt_codec *codec) {
    ls_ckpt_grid grid;
    hid_t dataset;
    ls_status status;
    ls_sha256_stream *stream;
    ls_sha256 hash;
    int64_t stored_bytes = 0;
    ls_ckpt_piece_grid(entry, piece, &grid);
#pragma omp critical(ls_hdf5)
    status = ls_ckpt_h5_dataset_open(c->files[piece->file_index], piece->dataset, entry->dtype,
                                     &grid, c->ckpt->compressed, &dataset);
    if (status != LS_OK) {
        return ls_error_prefix(status, "%s", piece->file);
    }
    status = ls_sha256_begin(&stream);
    if (status == LS_OK) {
        status = chunks_check(c, piece, &grid, dataset, codec, stream, &stored_bytes);
        ls_status ended = ls_sha256_end(stream, status == LS_OK ? &hash : NULL);
        status = status != LS_OK ? status : ended;
    }
#pragma omp critical(ls_hdf5)
    H5Dclose(dataset);
    LS_TRY(status);
    if (stored_bytes != piece->stored_bytes) {
        return LS_FAIL(LS_E_CORRUPT, "%s: '%s' has %lld stored bytes, the manifest says %lld",
                       piece->file, piece->dataset, (long long)stored_bytes,
                       (long long)piece->stored_bytes);
    }
    if (memcmp(&hash, &piece->sha256, sizeof hash) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "%s: the values of '%s' do not have the manifest's SHA-256",
                       piece->file, piece->dataset);
    }
    return LS_OK;
}

static void files_check(check *c, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int i = 0; i < c->ckpt->file_count; i++) {
        c->ckpt->files[i].verified = false; /* full means: now */
        ls_status status = ls_ckpt_file_verify(c->ckpt, i);
        if (status != LS_OK) {
            fault(c, status);
        }
    }
    for (int i = 0; i < c->ckpt->file_count; i++) {
        char path[4096];
        ls_status status = LS_OK;
        c->files[i] = H5I_INVALID_HID;
        if (c->ckpt->files[i].verified) {
            status = ls_path_join(path, sizeof path, c->ckpt->path, c->ckpt->files[i].name);
            status = status == LS_OK ? ls_ckpt_h5_open(path, &c->files[i]) : status;
        }
        if (status != LS_OK) {
            fault(c, status);
        }
    }
}

/* The entry that a piece of the table belongs to: entries share the order of the pieces. */
static const ls_ckpt_entry *entry_of(const ls_ckpt *ckpt, int64_t piece) {
    int low = 0, high = ckpt->entry_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (ckpt->entries[middle].pieces - ckpt->pieces <= piece) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return &ckpt->entries[low];
}

static void pieces_check(check *c, int threads) {
    const ls_ckpt *ckpt = c->ckpt;
    int64_t count = 0;
    for (int i = 0; i < ckpt->entry_count; i++) {
        count += ckpt->entries[i].piece_count;
    }
#pragma omp parallel num_threads(threads)
    {
        ls_ckpt_codec codec;
        ls_status ready = ls_ckpt_h5_init();
        ready = ready == LS_OK ? ls_ckpt_codec_init(&codec, 1) : ready;
        if (ready != LS_OK) {
            fault(c, ready);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < count; i++) {
            const ls_ckpt_piece *piece = &ckpt->pieces[i];
            if (ready != LS_OK || c->files[piece->file_index] < 0) {
                continue; /* reported */
            }
            ls_status status = piece_check(c, entry_of(ckpt, i), piece, &codec);
            if (status != LS_OK) {
                fault(c, status);
            }
        }
        if (ready == LS_OK) {
            ls_ckpt_codec_release(&codec);
        }
    }
}

ls_status ls_ckpt_verify(ls_ckpt *ckpt, bool full, void (*report)(void *context, const char *fault),
                         void *context) {
    check c = {.ckpt = ckpt, .report = report, .context = context};
    if (!full) {
        for (int i = 0; i < ckpt->file_count; i++) {
            ls_status status = ls_ckpt_file_size_check(ckpt, i);
            if (status != LS_OK) {
                fault(&c, status);
            }
        }
    } else {
        LS_TRY(ls_ckpt_h5_init());
        LS_TRY(ls_calloc((size_t)ckpt->file_count, sizeof *c.files, &c.files));
        int64_t bytes = ls_ckpt_describe(ckpt).raw_bytes;
        int threads = ls_ckpt_threads(omp_get_max_threads(), INT64_MAX, bytes);
        files_check(&c, threads);
        pieces_check(&c, threads);
        for (int i = 0; i < ckpt->file_count; i++) {
            if (c.files[i] >= 0) {
                H5Fclose(c.files[i]);
            }
        }
        free(c.files);
    }
    if (c.faults == 0) {
        return LS_OK;
    }
    return LS_FAIL(c.machine != LS_OK ? c.machine : LS_E_CORRUPT, "checkpoint '%s' has %d fault%s",
                   ckpt->path, c.faults, c.faults == 1 ? "" : "s");
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
        return LS_FAIL(LS_E_INPUT, "cannot list '%s': %s", root, strerror(errno));
    }
    struct dirent *item;
    while ((item = readdir(directory))) {
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
    closedir(directory);
    if (*count > 0) {
        qsort(*steps, *count, sizeof **steps, newest_first);
    }
    return LS_OK;
}

static ls_status quick_check(const char *path) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(path, &ckpt)); /* checks all that quick verification does */
    ls_ckpt_close(ckpt);
    return LS_OK;
}

ls_status ls_ckpt_latest(const char *root, char **path) {
    char manifest[4096];
    int64_t *steps;
    size_t count;
    *path = NULL;
    LS_TRY(ls_path_join(manifest, sizeof manifest, root, LS_CKPT_MANIFEST));
    if (ls_path_exists(manifest)) {
        LS_TRY(quick_check(root));
        *path = strdup(root);
        return *path ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for a path");
    }
    ls_status status = ls_ckpt_list(root, &steps, &count);
    for (size_t i = 0; i < count && status == LS_OK && !*path; i++) {
        char *candidate = ls_text_format("%s/step-%08lld", root, (long long)steps[i]);
        if (!candidate) {
            status = LS_FAIL(LS_E_MEMORY, "no memory for a path");
        } else if (quick_check(candidate) == LS_OK) {
            *path = candidate;
        } else {
            ls_log_warn("checkpoint '%s' is skipped: %s", candidate, ls_error_last()->message);
            free(candidate);
        }
    }
    free(steps);
    LS_TRY(status);
    if (!*path) {
        return LS_FAIL(LS_E_INPUT, "'%s' holds no valid checkpoint (%zu directories named step-*)",
                       root, count);
    }
    return LS_OK;
}
