#include "checkpoint/format.h"
#include "checkpoint/zstd_filter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pthread_mutex_t ls_ckpt_h5_mutex = PTHREAD_MUTEX_INITIALIZER;

ls_status ls_ckpt_h5_init(void) {
    pthread_mutex_lock(&ls_ckpt_h5_mutex);
    /* The error printer belongs to the thread in thread-safe builds of HDF5. */
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const herr_t done = H5Zregister(&ls_h5z_zstd);
    pthread_mutex_unlock(&ls_ckpt_h5_mutex);
    if (done < 0) {
        return LS_H5_FAIL(LS_E_UNSUPPORTED, "HDF5 refuses the zstd filter");
    }
    return LS_OK;
}

/* Walked from the innermost failure outwards: the first description is kept. */
static herr_t innermost(unsigned n, const H5E_error2_t *error, void *text) {
    if (n == 0 && error->desc) {
        snprintf(text, 256, "%s", error->desc);
    }
    return 0;
}

ls_status ls_ckpt_h5_fail(ls_status code, const char *file, int line, const char *fmt, ...) {
    char message[768], reason[256] = "no reason given";
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    return ls_error_set(code, file, line, "%s: HDF5: %s", message, reason);
}

/* A property list for files: objects of HDF5 1.10 with checksummed metadata; no lock, which some
 * mounts lack and no file needs, having one writer and a unique name until it is complete. */
static hid_t file_access(void) {
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (fapl >= 0 && (H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
                      H5Pset_file_locking(fapl, false, true) < 0 ||
                      H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG) < 0)) {
        H5Pclose(fapl);
        fapl = H5I_INVALID_HID;
    }
    return fapl;
}

static hid_t without_times(hid_t class) {
    hid_t list = H5Pcreate(class);
    if (list >= 0 && H5Pset_obj_track_times(list, false) < 0) {
        H5Pclose(list);
        list = H5I_INVALID_HID;
    }
    return list;
}

ls_status ls_ckpt_h5_create(const char *path, ls_ckpt_h5_output *output, hid_t *file) {
    enum { LARGE = 64 << 10 };
    hid_t fapl = file_access(), fcpl = without_times(H5P_FILE_CREATE);
    ls_status status = ls_ckpt_h5_driver_set(fapl, output);
    if (status == LS_OK && H5Pset_alignment(fapl, LARGE, LS_CKPT_H5_ALIGNMENT) < 0) {
        status = LS_H5_FAIL(LS_E_UNSUPPORTED, "HDF5 refuses the alignment");
    }
    *file = H5I_INVALID_HID;
    if (status == LS_OK) {
        *file = H5Fcreate(path, H5F_ACC_EXCL, fcpl, fapl);
        if (*file < 0) {
            status = output->error
                         ? LS_FAIL(LS_E_IO, "cannot create '%s': %s", path, strerror(output->error))
                         : LS_H5_FAIL(LS_E_IO, "cannot create '%s'", path);
        }
    }
    H5Pclose(fapl);
    H5Pclose(fcpl);
    return status;
}

ls_status ls_ckpt_h5_complete(hid_t file, const ls_ckpt_h5_output *output, const char *path) {
    ls_status status = ls_ckpt_h5_close(file, path);
    if (output->error) {
        return LS_FAIL(LS_E_IO, "cannot write '%s': %s", path, strerror(output->error));
    }
    return status;
}

ls_status ls_ckpt_h5_open(const char *path, hid_t *file) {
    hid_t fapl = file_access();
    *file = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    H5Pclose(fapl);
    return *file >= 0 ? LS_OK : LS_H5_FAIL(LS_E_CORRUPT, "cannot open '%s'", path);
}

ls_status ls_ckpt_h5_close(hid_t file, const char *path) {
    if (H5Fclose(file) < 0) {
        return LS_H5_FAIL(LS_E_IO, "cannot complete '%s'", path);
    }
    return LS_OK;
}

ls_status ls_ckpt_h5_group(hid_t file, const char *name) {
    hid_t list = without_times(H5P_GROUP_CREATE);
    hid_t group = H5Gcreate2(file, name, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Pclose(list);
    if (group < 0 || H5Gclose(group) < 0) {
        return LS_H5_FAIL(LS_E_IO, "cannot create the group '%s'", name);
    }
    return LS_OK;
}

/* A little-endian float: sign at bit `size`*8-1, then the exponent, then the mantissa. */
static hid_t float_type(size_t bytes, size_t exponent_bits, size_t mantissa_bits) {
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 &&
        (H5Tset_fields(type, 8 * bytes - 1, mantissa_bits, exponent_bits, 0, mantissa_bits) < 0 ||
         H5Tset_precision(type, 8 * bytes) < 0 || H5Tset_size(type, bytes) < 0 ||
         H5Tset_ebias(type, ((size_t)1 << (exponent_bits - 1)) - 1) < 0)) {
        H5Tclose(type);
        return H5I_INVALID_HID;
    }
    return type;
}

/* Type in files and in memory; close with H5Tclose. */
static hid_t dtype_type(ls_dtype dtype) {
    switch (dtype) {
    case LS_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case LS_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case LS_BF16:
        return float_type(2, 8, 7);
    case LS_F16:
        return float_type(2, 5, 10);
    case LS_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case LS_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case LS_U8:
        return H5Tcopy(H5T_STD_U8LE);
    case LS_U16:
        return H5Tcopy(H5T_STD_U16LE);
    case LS_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case LS_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case LS_DTYPE_COUNT:
        break;
    }
    return H5I_INVALID_HID;
}

static ls_status attribute(hid_t object, const char *name, hid_t type, hid_t space,
                           const void *value) {
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t written = a < 0 ? -1 : H5Awrite(a, type, value);
    if (written < 0 || H5Aclose(a) < 0) {
        return LS_H5_FAIL(LS_E_IO, "cannot write the attribute '%s'", name);
    }
    return LS_OK;
}

static ls_status attribute_text(hid_t object, const char *name, const char *text) {
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    ls_status status = LS_E_MEMORY;
    if (H5Tset_size(type, strlen(text) + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0) {
        status = attribute(object, name, type, space, text);
    }
    H5Tclose(type);
    H5Sclose(space);
    return status;
}

static ls_status attribute_integers(hid_t object, const char *name, int count,
                                    const int64_t *values) {
    hsize_t n = (hsize_t)count;
    hid_t space = H5Screate_simple(1, &n, NULL);
    ls_status status = attribute(object, name, H5T_STD_I64LE, space, values);
    H5Sclose(space);
    return status;
}

/* Layout, filters and names of a piece's dataset. */
static hid_t dataset_creation(const ls_ckpt_grid *grid, int level) {
    hsize_t chunk[LS_MAX_DIMS];
    for (int d = 0; d < grid->ndim; d++) {
        chunk[d] = (hsize_t)grid->chunk[d];
    }
    const unsigned cd_level = (unsigned)level;
    hid_t list = without_times(H5P_DATASET_CREATE);
    bool done = list >= 0 && H5Pset_chunk(list, grid->ndim, chunk) >= 0 &&
                H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0;
    if (level > 0) {
        done = done && (grid->elem_bytes == 1 || H5Pset_shuffle(list) >= 0) &&
               H5Pset_filter(list, LS_H5Z_ZSTD, H5Z_FLAG_MANDATORY, 1, &cd_level) >= 0;
    }
    if (!done) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

ls_status ls_ckpt_h5_dataset_create(hid_t file, const char *dataset, const ls_ckpt_tensor *tensor,
                                    const ls_ckpt_grid *grid, int level, hid_t *out) {
    hsize_t extent[LS_MAX_DIMS];
    for (int d = 0; d < grid->ndim; d++) {
        extent[d] = (hsize_t)grid->extent[d];
    }
    hid_t list = dataset_creation(grid, level), links = H5Pcreate(H5P_LINK_CREATE);
    hid_t type = dtype_type(tensor->dtype), space = H5Screate_simple(grid->ndim, extent, NULL);
    H5Pset_char_encoding(links, H5T_CSET_UTF8);
    *out = H5Dcreate2(file, dataset, type, space, links, list, H5P_DEFAULT);
    ls_status status = LS_OK;
    if (*out < 0) {
        status = LS_H5_FAIL(LS_E_IO, "cannot create the dataset '%s'", dataset);
    }
    H5Sclose(space);
    H5Tclose(type);
    H5Pclose(links);
    H5Pclose(list);
    LS_TRY(status);
    status = attribute_text(*out, "tensor", tensor->name);
    if (status == LS_OK) {
        status = attribute_integers(*out, "shape", tensor->ndim, tensor->dims);
    }
    if (status == LS_OK) {
        status = attribute_integers(*out, "start", tensor->ndim, tensor->box.start);
    }
    if (status != LS_OK) {
        H5Dclose(*out);
        *out = H5I_INVALID_HID;
    }
    return status;
}

static bool extent_is(hid_t dataset, const ls_ckpt_grid *grid) {
    hsize_t extent[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    bool same = H5Sget_simple_extent_ndims(space) == grid->ndim &&
                H5Sget_simple_extent_dims(space, extent, NULL) == grid->ndim;
    for (int d = 0; d < grid->ndim && same; d++) {
        same = extent[d] == (hsize_t)grid->extent[d];
    }
    H5Sclose(space);
    return same;
}

static bool filters_are(hid_t list, const ls_ckpt_grid *grid, bool compressed) {
    H5Z_filter_t expected[2];
    int count = 0;
    if (compressed && grid->elem_bytes > 1) {
        expected[count++] = H5Z_FILTER_SHUFFLE;
    }
    if (compressed) {
        expected[count++] = LS_H5Z_ZSTD;
    }
    bool same = H5Pget_nfilters(list) == count;
    for (int i = 0; i < count && same; i++) {
        unsigned flags, config;
        size_t values = 0;
        same = H5Pget_filter2(list, (unsigned)i, &flags, &values, NULL, 0, NULL, &config) ==
               expected[i];
    }
    return same;
}

static bool storage_is(hid_t dataset, const ls_ckpt_grid *grid, bool compressed) {
    hsize_t chunk[H5S_MAX_RANK];
    hid_t list = H5Dget_create_plist(dataset);
    bool same =
        H5Pget_layout(list) == H5D_CHUNKED && H5Pget_chunk(list, H5S_MAX_RANK, chunk) == grid->ndim;
    for (int d = 0; d < grid->ndim && same; d++) {
        same = chunk[d] == (hsize_t)grid->chunk[d];
    }
    same = same && filters_are(list, grid, compressed);
    H5Pclose(list);
    return same;
}

ls_status ls_ckpt_h5_dataset_open(hid_t file, const char *dataset, ls_dtype dtype,
                                  const ls_ckpt_grid *grid, bool compressed, hid_t *out) {
    /* Only what lies in this file: a link could lead anywhere. */
    H5L_info_t group, link;
    *out = H5I_INVALID_HID;
    if (H5Lget_info(file, "/tensors", &group, H5P_DEFAULT) < 0 || group.type != H5L_TYPE_HARD ||
        H5Lget_info(file, dataset, &link, H5P_DEFAULT) < 0 || link.type != H5L_TYPE_HARD) {
        return LS_FAIL(LS_E_CORRUPT, "there is no dataset '%s'", dataset);
    }
    /* H5Dread is never used: no chunk cache is needed. */
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    H5Pset_chunk_cache(access, 0, 0, 1.0);
    *out = H5Dopen2(file, dataset, access);
    H5Pclose(access);
    if (*out < 0) {
        return LS_H5_FAIL(LS_E_CORRUPT, "cannot open the dataset '%s'", dataset);
    }
    const char *fault = NULL;
    hid_t type = H5Dget_type(*out), expected = dtype_type(dtype);
    if (H5Tequal(type, expected) <= 0) {
        fault = "type";
    } else if (!extent_is(*out, grid)) {
        fault = "shape";
    } else if (!storage_is(*out, grid, compressed)) {
        fault = "chunks or filters";
    }
    H5Tclose(type);
    H5Tclose(expected);
    if (fault) {
        H5Dclose(*out);
        *out = H5I_INVALID_HID;
        return LS_FAIL(LS_E_CORRUPT, "the dataset '%s' has another %s than the manifest says",
                       dataset, fault);
    }
    return LS_OK;
}

void ls_ckpt_h5_offset(const ls_ckpt_grid *grid, int64_t index, hsize_t offset[LS_MAX_DIMS]) {
    ls_box box;
    int64_t first_elem;
    ls_ckpt_grid_box(grid, index, &box, &first_elem);
    for (int d = 0; d < grid->ndim; d++) {
        offset[d] = (hsize_t)box.start[d];
    }
}

ls_status ls_ckpt_h5_chunk_place(hid_t dataset, const ls_ckpt_grid *grid, int64_t index,
                                 ls_ckpt_chunk *place) {
    hsize_t offset[LS_MAX_DIMS], bytes = 0;
    haddr_t at = HADDR_UNDEF;
    unsigned skipped_filters = 0;
    ls_ckpt_h5_offset(grid, index, offset);
    if (H5Dget_chunk_info_by_coord(dataset, offset, &skipped_filters, &at, &bytes) < 0 ||
        at == HADDR_UNDEF || bytes == 0 || bytes > UINT32_MAX) {
        return LS_FAIL(LS_E_CORRUPT, "it is missing");
    }
    if (skipped_filters != 0) {
        return LS_FAIL(LS_E_CORRUPT, "it skips filters (mask %#x)", skipped_filters);
    }
    place->at = (int64_t)at;
    place->bytes = (int64_t)bytes;
    return LS_OK;
}
