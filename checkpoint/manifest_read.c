/* From the text of a manifest to checked tables. Nothing in it is trusted. */
#include "checkpoint/parity.h"
#include "checkpoint/repair.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILES_MAX   (1 << 20)
#define TENSORS_MAX (1 << 20)
#define PIECES_MAX  (1 << 16) /* of one tensor */
#define XXH3_DIGITS 16

#define BAD(...) LS_FAIL(LS_E_CORRUPT, __VA_ARGS__)

static ls_status get_int(const json_t *object, const char *key, int64_t min, int64_t *out) {
    const json_t *value = json_object_get(object, key);
    *out = json_integer_value(value);
    if (!json_is_integer(value)) {
        return BAD("member '%s' must be an integer", key);
    }
    return *out >= min ? LS_OK
                       : BAD("member '%s' is %lld; at least %lld is needed", key, (long long)*out,
                             (long long)min);
}

/* What a run counts: no more than settings may ask for, so that sums do not overflow. */
static ls_status get_count(const json_t *object, const char *key, int64_t *out) {
    const int64_t most = (int64_t)1 << 53;
    LS_TRY(get_int(object, key, 0, out));
    return *out <= most ? LS_OK
                        : BAD("member '%s' is %lld; at most %lld is possible", key, (long long)*out,
                              (long long)most);
}

static ls_status get_string(const json_t *object, const char *key, size_t max_bytes,
                            const char **out) {
    const json_t *value = json_object_get(object, key);
    *out = "";
    if (!json_is_string(value) || json_string_length(value) > max_bytes) {
        return BAD("member '%s' must be a string of at most %zu bytes", key, max_bytes);
    }
    *out = json_string_value(value);
    return LS_OK;
}

static ls_status get_array(const json_t *object, const char *key, size_t min, size_t max,
                           const json_t **out) {
    *out = json_object_get(object, key);
    if (!json_is_array(*out) || json_array_size(*out) < min || json_array_size(*out) > max) {
        return BAD("member '%s' must be an array of %zu to %zu elements", key, min, max);
    }
    return LS_OK;
}

static ls_status get_object(const json_t *object, const char *key, const json_t **out) {
    *out = json_object_get(object, key);
    return json_is_object(*out) ? LS_OK : BAD("member '%s' must be an object", key);
}

static ls_status get_integers(const json_t *object, const char *key, int count,
                              int64_t values[LS_MAX_DIMS]) {
    const json_t *array;
    LS_TRY(get_array(object, key, (size_t)count, (size_t)count, &array));
    for (int i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, (size_t)i);
        if (!json_is_integer(value)) {
            return BAD("member '%s' must hold integers", key);
        }
        values[i] = json_integer_value(value);
    }
    return LS_OK;
}

static ls_status get_sha256(const json_t *object, ls_sha256 *out) {
    const char *hex;
    LS_TRY(get_string(object, "sha256", 64, &hex));
    return ls_sha256_parse(hex, out) == LS_OK ? LS_OK : BAD("'%s' is no SHA-256", hex);
}

/* A plain name in the same folder. */
static bool is_file_name(const char *name) {
    size_t length = strlen(name);
    for (const char *p = name; *p; p++) {
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p)) {
            return false;
        }
    }
    return length > 0 && length < 256 && name[0] != '.';
}

static ls_status files_parse(ls_ckpt *ckpt, json_t *file_index) {
    const json_t *files;
    LS_TRY(get_array(ckpt->root, "files", 1, FILES_MAX, &files));
    size_t count = json_array_size(files);
    LS_TRY(ls_calloc(count, sizeof *ckpt->files, &ckpt->files));
    ckpt->file_count = (int)count;
    int64_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(files, i);
        ls_ckpt_file *file = &ckpt->files[i];
        LS_TRY(get_string(item, "name", 255, &file->name));
        if (!is_file_name(file->name)) {
            return BAD("file %zu has a name with parts or odd characters", i);
        }
        if (json_object_get(file_index, file->name)) {
            return BAD("the file '%s' is listed twice", file->name);
        }
        LS_TRY(get_int(item, "bytes", 0, &file->bytes));
        if (__builtin_add_overflow(bytes, file->bytes, &bytes)) {
            return BAD("its files have more than 2^63 bytes");
        }
        LS_TRY(get_sha256(item, &file->sha256));
        if (json_object_set_new(file_index, file->name, json_integer((json_int_t)i)) != 0) {
            return LS_FAIL(LS_E_MEMORY, "no memory for the list of files");
        }
    }
    return LS_OK;
}

static bool is_dataset(const char *path) {
    static const char prefix[] = "/tensors/";
    const char *name = path + sizeof prefix - 1;
    if (strncmp(path, prefix, sizeof prefix - 1) != 0 || *name == '.' || *name == '\0') {
        return false;
    }
    for (const char *p = name; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == '/') {
            return false;
        }
    }
    return true;
}

static ls_status piece_sizes_check(const ls_ckpt *ckpt, const ls_ckpt_entry *entry,
                                   const ls_ckpt_piece *piece) {
    ls_ckpt_grid grid;
    int64_t elem_bytes = (int64_t)ls_dtype_bytes(entry->dtype), raw_bytes, most;
    /* The box lies in the tensor, whose bytes fit, so that no product below overflows but `most`.
     */
    LS_TRY(ls_ckpt_grid_make(entry->ndim, piece->box.extent, piece->chunk, elem_bytes, &grid));
    raw_bytes = ls_box_elems(&piece->box) * elem_bytes;
    if (piece->raw_bytes != raw_bytes || piece->chunks != grid.count) {
        return BAD("its box has %lld bytes in %lld chunks, the manifest says %lld in %lld",
                   (long long)raw_bytes, (long long)grid.count, (long long)piece->raw_bytes,
                   (long long)piece->chunks);
    }
    size_t chunk_most = ls_ckpt_stored_max((size_t)grid.chunk_bytes, ckpt->compressed);
    if (__builtin_mul_overflow(grid.count, (int64_t)chunk_most, &most)) {
        most = INT64_MAX;
    }
    if (ckpt->files[piece->file_index].bytes < most) {
        most = ckpt->files[piece->file_index].bytes;
    }
    for (int64_t i = 0; i < grid.count; i++) {
        if ((uint64_t)piece->places[i].bytes > chunk_most) {
            return BAD("its chunk %lld has %lld stored bytes, at most %zu are possible",
                       (long long)i, (long long)piece->places[i].bytes, chunk_most);
        }
    }
    if (piece->stored_bytes < grid.count || piece->stored_bytes > most) {
        return BAD("%lld stored bytes; %lld to %lld are possible", (long long)piece->stored_bytes,
                   (long long)grid.count, (long long)most);
    }
    return LS_OK;
}

/* Where a piece's chunks lie, and their hashes. */
static ls_status places_parse(const ls_ckpt *ckpt, const json_t *item, const ls_ckpt_piece *piece,
                              ls_ckpt_chunk *places) {
    const json_t *at, *bytes;
    const char *xxh3;
    size_t count = (size_t)piece->chunks;
    int64_t file_bytes = ckpt->files[piece->file_index].bytes, sum = 0;
    LS_TRY(get_array(item, "at", count, count, &at));
    LS_TRY(get_array(item, "bytes", count, count, &bytes));
    LS_TRY(get_string(item, "xxh3", XXH3_DIGITS * count, &xxh3));
    if (strlen(xxh3) != XXH3_DIGITS * count || strspn(xxh3, "0123456789abcdef") != strlen(xxh3)) {
        return BAD("member 'xxh3' must have %d hex digits a chunk", XXH3_DIGITS);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *a = json_array_get(at, i), *b = json_array_get(bytes, i);
        ls_ckpt_chunk *place = &places[i];
        char digits[XXH3_DIGITS + 1] = "";
        place->at = json_integer_value(a);
        place->bytes = json_integer_value(b);
        memcpy(digits, xxh3 + XXH3_DIGITS * i, XXH3_DIGITS);
        place->xxh3 = strtoull(digits, NULL, 16);
        if (!json_is_integer(a) || !json_is_integer(b) || place->at < 0 || place->bytes < 1 ||
            place->at > file_bytes || place->bytes > file_bytes - place->at) {
            return BAD("its chunk %zu has %lld bytes at %lld of a file of %lld", i,
                       (long long)place->bytes, (long long)place->at, (long long)file_bytes);
        }
        if (place->bytes > piece->stored_bytes - sum) {
            return BAD("its chunks have more than %lld stored bytes",
                       (long long)piece->stored_bytes);
        }
        sum += place->bytes;
    }
    return sum == piece->stored_bytes
               ? LS_OK
               : BAD("its chunks do not have %lld stored bytes", (long long)piece->stored_bytes);
}

static ls_status piece_parse(ls_ckpt *ckpt, const json_t *file_index, const json_t *item,
                             const ls_ckpt_entry *entry, ls_ckpt_piece *piece) {
    const char *file;
    LS_TRY(get_string(item, "file", 255, &file));
    const json_t *index = json_object_get(file_index, file);
    if (!index) {
        return BAD("it lies in a file that is not listed");
    }
    piece->file_index = (int)json_integer_value(index);
    piece->file = ckpt->files[piece->file_index].name;
    LS_TRY(get_string(item, "dataset", LS_CKPT_DATASET_MAX, &piece->dataset));
    if (!is_dataset(piece->dataset)) {
        return BAD("its dataset is not one below /tensors");
    }
    piece->box.ndim = entry->ndim;
    LS_TRY(get_integers(item, "start", entry->ndim, piece->box.start));
    LS_TRY(get_integers(item, "extent", entry->ndim, piece->box.extent));
    LS_TRY(get_integers(item, "chunk", entry->ndim, piece->chunk));
    LS_TRY(get_int(item, "chunks", 1, &piece->chunks));
    LS_TRY(get_int(item, "raw_bytes", 1, &piece->raw_bytes));
    LS_TRY(get_int(item, "stored_bytes", 1, &piece->stored_bytes));
    LS_TRY(get_sha256(item, &piece->sha256));
    ls_ckpt_chunk *places = ckpt->chunks + ckpt->chunk_count; /* room for all in "at" */
    LS_TRY(places_parse(ckpt, item, piece, places));
    piece->places = places;
    ckpt->chunk_count += piece->chunks;
    return LS_OK;
}

static ls_status entry_parse(ls_ckpt *ckpt, const json_t *file_index, const json_t *item,
                             ls_ckpt_entry *entry, ls_ckpt_piece *pieces) {
    const char *dtype;
    const json_t *shape, *list;
    int64_t bytes;
    LS_TRY(get_string(item, "dtype", 32, &dtype));
    entry->dtype = ls_dtype_parse(dtype);
    if (entry->dtype == LS_DTYPE_COUNT) {
        return BAD("'%s' is no element type", dtype);
    }
    LS_TRY(get_array(item, "shape", 1, LS_MAX_DIMS, &shape));
    entry->ndim = (int)json_array_size(shape);
    LS_TRY(get_integers(item, "shape", entry->ndim, entry->dims));
    LS_TRY(ls_ckpt_dims_check(entry->dtype, entry->ndim, entry->dims, &bytes));
    LS_TRY(get_array(item, "pieces", 1, PIECES_MAX, &list));
    for (int i = 0; i < entry->piece_count; i++) {
        LS_TRY(piece_parse(ckpt, file_index, json_array_get(list, (size_t)i), entry, &pieces[i]));
    }
    LS_TRY(ls_ckpt_coverage_check(entry->ndim, entry->dims, pieces, entry->piece_count));
    for (int i = 0; i < entry->piece_count; i++) {
        LS_TRY(piece_sizes_check(ckpt, entry, &pieces[i]));
    }
    return LS_OK;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(const ls_ckpt_entry *const *)a)->name,
                  (*(const ls_ckpt_entry *const *)b)->name);
}

static ls_status entries_index(ls_ckpt *ckpt) {
    size_t count = (size_t)ckpt->entry_count;
    LS_TRY(ls_calloc(count + 1, sizeof *ckpt->by_name, &ckpt->by_name));
    for (size_t i = 0; i < count; i++) {
        ckpt->by_name[i] = &ckpt->entries[i];
    }
    qsort(ckpt->by_name, count, sizeof *ckpt->by_name, by_name);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(ckpt->by_name[i - 1]->name, ckpt->by_name[i]->name) == 0) {
            return BAD("the tensor '%s' is listed twice", ckpt->by_name[i]->name);
        }
    }
    return LS_OK;
}

static ls_status pieces_by_file(ls_ckpt *ckpt) {
    LS_TRY(ls_calloc((size_t)ckpt->piece_count + 1, sizeof *ckpt->by_file, &ckpt->by_file));
    for (int64_t i = 0; i < ckpt->piece_count; i++) {
        ckpt->files[ckpt->pieces[i].file_index].piece_count++;
    }
    int64_t first = 0;
    for (int f = 0; f < ckpt->file_count; f++) {
        ckpt->files[f].first_piece = first;
        first += ckpt->files[f].piece_count;
        ckpt->files[f].piece_count = 0; /* counted again as they come */
    }
    for (int64_t i = 0; i < ckpt->piece_count; i++) {
        ls_ckpt_file *file = &ckpt->files[ckpt->pieces[i].file_index];
        ckpt->by_file[file->first_piece + file->piece_count++] = &ckpt->pieces[i];
    }
    return LS_OK;
}

static ls_status tensors_parse(ls_ckpt *ckpt, const json_t *file_index) {
    const json_t *tensors;
    LS_TRY(get_array(ckpt->root, "tensors", 0, TENSORS_MAX, &tensors));
    size_t count = json_array_size(tensors), piece_count = 0, chunk_count = 0, i, k;
    json_t *tensor, *piece;
    json_array_foreach((json_t *)tensors, i, tensor) {
        json_t *list = json_object_get(tensor, "pieces");
        piece_count += json_array_size(list);
        json_array_foreach(list, k, piece) {
            chunk_count += json_array_size(json_object_get(piece, "at"));
        }
    }
    LS_TRY(ls_calloc(count + 1, sizeof *ckpt->entries, &ckpt->entries));
    LS_TRY(ls_calloc(piece_count + 1, sizeof *ckpt->pieces, &ckpt->pieces));
    LS_TRY(ls_calloc(chunk_count + 1, sizeof *ckpt->chunks, &ckpt->chunks));
    ckpt->piece_count = (int64_t)piece_count;
    ls_ckpt_piece *pieces = ckpt->pieces;
    json_array_foreach((json_t *)tensors, i, tensor) {
        const json_t *item = tensor;
        ls_ckpt_entry *entry = &ckpt->entries[ckpt->entry_count];
        LS_TRY(get_string(item, "name", LS_CKPT_NAME_MAX, &entry->name));
        LS_TRY(ls_ckpt_name_check(entry->name));
        entry->piece_count = (int)json_array_size(json_object_get(item, "pieces"));
        entry->pieces = pieces;
        ls_status status = entry_parse(ckpt, file_index, item, entry, pieces);
        if (status != LS_OK) {
            return ls_error_prefix(status, "tensor '%s'", entry->name);
        }
        pieces += entry->piece_count;
        ckpt->entry_count++;
    }
    LS_TRY(pieces_by_file(ckpt));
    return entries_index(ckpt);
}

static ls_status version_check(const json_t *root, int64_t *minor) {
    const char *format;
    int64_t major;
    LS_TRY(get_string(root, "format", 64, &format));
    if (strcmp(format, LS_CKPT_FORMAT_NAME) != 0) {
        return BAD("its format is '%s', expected '%s'", format, LS_CKPT_FORMAT_NAME);
    }
    LS_TRY(get_int(root, "major", 1, &major));
    LS_TRY(get_int(root, "minor", 0, minor));
    return ls_ckpt_version_check(major, *minor);
}

static ls_status root_parse(ls_ckpt *ckpt, const char *text, size_t bytes) {
    json_error_t error;
    LS_TRY(ls_ckpt_manifest_check(text, bytes));
    ckpt->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(ckpt->root)) {
        return BAD("it is no JSON object: line %d: %s", error.line, error.text);
    }
    LS_TRY(version_check(ckpt->root, &ckpt->minor));
    LS_TRY(get_count(ckpt->root, "step", &ckpt->step));
    LS_TRY(get_count(ckpt->root, "tokens", &ckpt->tokens));
    LS_TRY(get_string(ckpt->root, "config", LS_CKPT_MANIFEST_MAX, &ckpt->config));
    LS_TRY(get_object(ckpt->root, "run", &ckpt->run));
    LS_TRY(get_object(ckpt->root, "counters", &ckpt->counters));
    const char *codec;
    LS_TRY(get_string(ckpt->root, "codec", 32, &codec));
    LS_TRY(get_int(ckpt->root, "level", 0, &ckpt->level));
    ckpt->compressed = strcmp(codec, "zstd") == 0;
    if (!ckpt->compressed && strcmp(codec, "none") != 0) {
        return BAD("the codec '%s' is not known; 'zstd' and 'none' are", codec);
    }
    json_t *file_index = json_object();
    if (!file_index) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the list of files");
    }
    ls_status status = files_parse(ckpt, file_index);
    if (status == LS_OK) {
        status = ls_ckpt_groups_parse(ckpt, file_index);
    }
    if (status == LS_OK) {
        status = tensors_parse(ckpt, file_index);
    }
    json_decref(file_index);
    return status;
}

ls_status ls_ckpt_manifest_parse(const char *text, size_t bytes, const char *where, ls_ckpt **out) {
    ls_ckpt *ckpt;
    *out = NULL;
    LS_TRY(ls_calloc(1, sizeof *ckpt, &ckpt));
    ls_status status = root_parse(ckpt, text, bytes);
    if (status != LS_OK) {
        ls_ckpt_close(ckpt);
        if (status != LS_E_VERSION && status != LS_E_MEMORY) {
            status = LS_E_CORRUPT;
        }
        char *message = ls_ckpt_printable(ls_error_last()->message, false);
        ls_error_set(status, __FILE__, __LINE__, "'%s': %s", where, message ? message : "?");
        free(message);
        return status;
    }
    *out = ckpt;
    return LS_OK;
}

void ls_ckpt_piece_grid(const ls_ckpt_entry *entry, const ls_ckpt_piece *piece,
                        ls_ckpt_grid *grid) {
    ls_status status = ls_ckpt_grid_make(entry->ndim, piece->box.extent, piece->chunk,
                                         (int64_t)ls_dtype_bytes(entry->dtype), grid);
    assert(status == LS_OK);
    (void)status;
}

ls_status ls_ckpt_file_size_check(const ls_ckpt *ckpt, int file_index) {
    const ls_ckpt_file *file = &ckpt->files[file_index];
    char path[4096];
    struct stat info;
    LS_TRY(ls_path_join(path, sizeof path, ckpt->path, file->name));
    if (stat(path, &info) != 0) {
        return BAD("'%s' of the manifest: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode) || info.st_size != file->bytes) {
        return BAD("'%s' has %lld bytes, expected %lld", path, (long long)info.st_size,
                   (long long)file->bytes);
    }
    return LS_OK;
}

static ls_status manifest_missing(const char *path, const char *name) {
    DIR *listing = opendir(path);
    bool data = false;
    if (!listing && errno != ENOENT && errno != ENOTDIR) {
        return LS_FAIL(LS_E_IO, "cannot list '%s': %s", path, strerror(errno));
    }
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        const char *end = strrchr(entry->d_name, '.');
        data = data || (end && strcmp(end, ".h5") == 0);
    }
    if (listing) {
        closedir(listing);
    }
    return data ? LS_FAIL(LS_E_CORRUPT,
                          "'%s' has a checkpoint's data but no %s: a save that was not finished, "
                          "or a copy that is not whole",
                          path, name)
                : LS_FAIL(LS_E_INPUT,
                          "'%s' is no checkpoint (it has no %s) and holds none (no step-*)", path,
                          name);
}

static ls_status manifest_open(const char *path, const char *name, ls_ckpt **ckpt) {
    char manifest[4096], *text = NULL;
    size_t bytes;
    LS_TRY(ls_path_join(manifest, sizeof manifest, path, name));
    if (!ls_path_exists(manifest)) {
        return manifest_missing(path, name);
    }
    LS_TRY(ls_ckpt_manifest_read(path, manifest, &text, &bytes));
    ls_status status = ls_ckpt_manifest_parse(text, bytes, manifest, ckpt);
    if (status != LS_OK) {
        free(text);
        return status;
    }
    (*ckpt)->text = text;
    (*ckpt)->text_bytes = bytes;
    return LS_OK;
}

/* The manifest, or a copy of it where there are some. */
static ls_status manifest_find(const char *path, ls_ckpt **ckpt) {
    char copy[64];
    ls_status status = manifest_open(path, LS_CKPT_MANIFEST, ckpt);
    ls_error error = *ls_error_last();
    for (int i = 1; i <= LS_PARITY_MAX && (status == LS_E_INPUT || status == LS_E_CORRUPT); i++) {
        ls_ckpt_manifest_copy(copy, sizeof copy, i);
        if (manifest_open(path, copy, ckpt) == LS_OK) {
            ls_log_warn("%s; its copy %s is used", error.message, copy);
            return LS_OK;
        }
    }
    return status == LS_OK ? LS_OK : ls_error_restore(&error);
}

/* Where another step has the name of a newer one, each resume would begin with it again. */
static ls_status name_check(const ls_ckpt *ckpt) {
    const char *slash = strrchr(ckpt->path, '/');
    const int64_t step = ls_ckpt_step_parse(slash ? slash + 1 : ckpt->path);
    return step < 0 || step == ckpt->step
               ? LS_OK
               : LS_FAIL(LS_E_CORRUPT, "'%s' was renamed: it holds step %lld", ckpt->path,
                         (long long)ckpt->step);
}

ls_status ls_ckpt_open(const char *path, ls_ckpt **out) {
    ls_ckpt *ckpt;
    *out = NULL;
    LS_TRY(manifest_find(path, &ckpt));
    ckpt->path = strdup(path);
    ls_status status = ckpt->path ? name_check(ckpt) : LS_FAIL(LS_E_MEMORY, "no memory for a path");
    for (int i = 0; i < ckpt->file_count && status == LS_OK; i++) {
        status = ls_ckpt_file_size_check(ckpt, i);
        ckpt->files[i].lost = status != LS_OK;
        status = status == LS_OK || ls_ckpt_is_loadable(ckpt) ? LS_OK : status;
    }
    if (status != LS_OK) {
        ls_ckpt_close(ckpt);
        return status;
    }
    *out = ckpt;
    return LS_OK;
}

void ls_ckpt_close(ls_ckpt *ckpt) {
    if (ckpt) {
        free(ckpt->path);
        free(ckpt->text);
        json_decref(ckpt->root);
        ls_ckpt_groups_free(ckpt);
        free(ckpt->files);
        free(ckpt->entries);
        free(ckpt->pieces);
        free(ckpt->by_file);
        free(ckpt->chunks);
        free(ckpt->by_name);
        free(ckpt);
    }
}

void ls_ckpt_stop_when(ls_ckpt *ckpt, const volatile sig_atomic_t *stop) {
    ckpt->stop = stop;
}

const char *ls_ckpt_path(const ls_ckpt *ckpt) {
    return ckpt->path;
}

int64_t ls_ckpt_step(const ls_ckpt *ckpt) {
    return ckpt->step;
}

int64_t ls_ckpt_tokens(const ls_ckpt *ckpt) {
    return ckpt->tokens;
}

const char *ls_ckpt_config(const ls_ckpt *ckpt) {
    return ckpt->config;
}

const json_t *ls_ckpt_run(const ls_ckpt *ckpt) {
    return ckpt->run;
}

const json_t *ls_ckpt_counters(const ls_ckpt *ckpt) {
    return ckpt->counters;
}

ls_ckpt_info ls_ckpt_describe(const ls_ckpt *ckpt) {
    ls_ckpt_info info = {.minor = (int)ckpt->minor,
                         .level = ckpt->compressed ? (int)ckpt->level : 0,
                         .tensors = ckpt->entry_count};
    for (int i = 0; i < ckpt->file_count; i++) {
        const bool parity = ls_parity_made(ckpt, i);
        *(parity ? &info.parity_bytes : &info.stored_bytes) += ckpt->files[i].bytes;
        info.writers += !parity && strcmp(ckpt->files[i].name, LS_CKPT_INDEX) != 0;
    }
    for (int i = 0; i < ckpt->entry_count; i++) {
        for (int k = 0; k < ckpt->entries[i].piece_count; k++) {
            info.raw_bytes += ckpt->entries[i].pieces[k].raw_bytes;
        }
    }
    return info;
}

const ls_ckpt_entry *ls_ckpt_entries(const ls_ckpt *ckpt, int *count) {
    *count = ckpt->entry_count;
    return ckpt->entries;
}

static int name_compare(const void *key, const void *entry) {
    return strcmp(key, (*(const ls_ckpt_entry *const *)entry)->name);
}

const ls_ckpt_entry *ls_ckpt_find(const ls_ckpt *ckpt, const char *name) {
    const ls_ckpt_entry **found = bsearch(name, ckpt->by_name, (size_t)ckpt->entry_count,
                                          sizeof *ckpt->by_name, name_compare);
    return found ? *found : NULL;
}
