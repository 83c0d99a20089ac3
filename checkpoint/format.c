#include "checkpoint/format.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format stores memory as it is");

ls_status ls_ckpt_name_check(const char *name) {
    size_t length = name ? strlen(name) : 0;
    if (length == 0 || length > LS_CKPT_NAME_MAX) {
        return LS_FAIL(LS_E_INPUT, "a tensor's name has %zu bytes; 1 to %d are allowed", length,
                       LS_CKPT_NAME_MAX);
    }
    json_t *text = json_stringn(name, length);
    if (!text) {
        return LS_FAIL(LS_E_INPUT, "the tensor name '%s' is not valid UTF-8", name);
    }
    json_decref(text);
    return LS_OK;
}

static bool is_escaped(unsigned char c, bool first) {
    return c < 0x20 || c == 0x7f || strchr("~%:@\\", c) || (first && c == '.');
}

ls_status ls_ckpt_dataset_path(char *out, size_t size, const char *name, int ndim,
                               const int64_t *dims, const ls_box *box) {
    char text[LS_CKPT_DATASET_MAX];
    size_t n = 0;
    for (const char *p = name; *p && n + 4 < sizeof text; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '/') {
            text[n++] = ':';
        } else if (is_escaped(c, p == name)) {
            n += (size_t)snprintf(text + n, sizeof text - n, "~%02X", c);
        } else {
            text[n++] = (char)c;
        }
    }
    bool whole = true;
    for (int d = 0; d < ndim; d++) {
        whole = whole && box->extent[d] == dims[d];
    }
    for (int d = 0; d < ndim && !whole && n < sizeof text; d++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%c%lld", d ? ',' : '@',
                              (long long)box->start[d]);
    }
    if (n < sizeof text) {
        text[n] = '\0';
    }
    if (n >= sizeof text || (size_t)snprintf(out, size, "/tensors/%s", text) >= size) {
        return LS_FAIL(LS_E_INPUT, "the tensor name '%s' is too long for a dataset", name);
    }
    return LS_OK;
}

char *ls_ckpt_printable(const char *text, bool keep_lines) {
    char *out = malloc(4 * strlen(text) + 1);
    if (!out) {
        return NULL;
    }
    char *q = out;
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        /* C1 controls (U+0080 to U+009F) are C2 80 to C2 9F in UTF-8; terminals obey some. */
        bool c1 = p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0;
        bool kept = keep_lines && (*p == '\n' || *p == '\t');
        if ((*p < 0x20 && !kept) || *p == 0x7f || c1) {
            q += sprintf(q, "\\x%02x", c1 ? p[1] : p[0]);
            p += c1;
        } else {
            *q++ = (char)*p;
        }
    }
    *q = '\0';
    return out;
}

char *ls_ckpt_shape_text(char *buf, size_t size, int ndim, const int64_t *dims) {
    size_t n = (size_t)snprintf(buf, size, "[");
    for (int d = 0; d < ndim && n < size; d++) {
        n += (size_t)snprintf(buf + n, size - n, "%s%lld", d ? ", " : "", (long long)dims[d]);
    }
    if (n < size) {
        snprintf(buf + n, size - n, "]");
    }
    return buf;
}

ls_status ls_ckpt_dims_check(ls_dtype dtype, int ndim, const int64_t *dims, int64_t *bytes) {
    if (ndim < 1 || ndim > LS_MAX_DIMS) {
        return LS_FAIL(LS_E_SHAPE, "%d dimensions; 1 to %d are allowed", ndim, LS_MAX_DIMS);
    }
    *bytes = (int64_t)ls_dtype_bytes(dtype);
    for (int d = 0; d < ndim; d++) {
        if (dims[d] < 1) {
            return LS_FAIL(LS_E_SHAPE, "dimension %d is %lld; at least 1 is needed", d,
                           (long long)dims[d]);
        }
        if (__builtin_mul_overflow(*bytes, dims[d], bytes)) {
            return LS_FAIL(LS_E_SHAPE, "its size in bytes exceeds 2^63");
        }
    }
    return LS_OK;
}

static int by_start(const void *a, const void *b) {
    const ls_box *x = &((const ls_ckpt_piece *)a)->box, *y = &((const ls_ckpt_piece *)b)->box;
    for (int d = 0; d < x->ndim; d++) {
        if (x->start[d] != y->start[d]) {
            return x->start[d] < y->start[d] ? -1 : 1;
        }
    }
    return 0;
}

/* Each box lies in the tensor; *elems is the sum of their sizes. */
static ls_status boxes_inside(int ndim, const int64_t *dims, const ls_ckpt_piece *pieces, int count,
                              int64_t *elems) {
    *elems = 0;
    for (int i = 0; i < count; i++) {
        const ls_box *box = &pieces[i].box;
        int64_t product = 1;
        for (int d = 0; d < ndim; d++) {
            if (box->start[d] < 0 || box->extent[d] < 1 || box->start[d] > dims[d] ||
                box->extent[d] > dims[d] - box->start[d]) {
                return LS_FAIL(
                    LS_E_SHAPE,
                    "piece %d has [%lld, +%lld) in dimension %d, which has %lld elements", i,
                    (long long)box->start[d], (long long)box->extent[d], d, (long long)dims[d]);
            }
            product *= box->extent[d]; /* at most the tensor's size */
        }
        if (__builtin_add_overflow(*elems, product, elems)) {
            return LS_FAIL(LS_E_SHAPE, "the sizes of its pieces overflow");
        }
    }
    return LS_OK;
}

ls_status ls_ckpt_coverage_check(int ndim, const int64_t *dims, ls_ckpt_piece *pieces, int count) {
    int64_t elems = 0, whole = 1;
    LS_TRY(boxes_inside(ndim, dims, pieces, count, &elems));
    for (int d = 0; d < ndim; d++) {
        whole *= dims[d];
    }
    qsort(pieces, (size_t)count, sizeof *pieces, by_start);
    for (int i = 0; i < count; i++) {
        int64_t end = pieces[i].box.start[0] + pieces[i].box.extent[0];
        for (int j = i + 1; j < count && pieces[j].box.start[0] < end; j++) {
            ls_box both;
            if (ls_box_intersect(&pieces[i].box, &pieces[j].box, &both)) {
                char start[128];
                return LS_FAIL(LS_E_SHAPE, "two pieces hold the element at %s",
                               ls_ckpt_shape_text(start, sizeof start, ndim, both.start));
            }
        }
    }
    if (elems != whole) {
        return LS_FAIL(LS_E_SHAPE, "its pieces hold %lld of %lld elements", (long long)elems,
                       (long long)whole);
    }
    return LS_OK;
}

int64_t ls_ckpt_step_parse(const char *directory_name) {
    static const char prefix[] = "step-";
    if (strncmp(directory_name, prefix, sizeof prefix - 1) != 0) {
        return -1;
    }
    const char *digits = directory_name + sizeof prefix - 1;
    size_t n = strspn(digits, "0123456789");
    if (n < 8 || n > 18 || digits[n] != '\0' || (n > 8 && digits[0] == '0')) {
        return -1;
    }
    return strtoll(digits, NULL, 10);
}

void ls_ckpt_grid_choose(int ndim, const int64_t *extent, int64_t elem_bytes,
                         int64_t chunk[LS_MAX_DIMS]) {
    int axis = ndim;
    int64_t inner_bytes = elem_bytes;
    while (axis > 1 && inner_bytes <= LS_CKPT_CHUNK_BYTES / extent[axis - 1]) {
        axis--;
        inner_bytes *= extent[axis];
    }
    axis--;
    int64_t most_rows = LS_CKPT_CHUNK_BYTES / inner_bytes;
    int64_t chunks = (extent[axis] + most_rows - 1) / most_rows;
    for (int d = 0; d < ndim; d++) {
        chunk[d] = d < axis ? 1 : extent[d];
    }
    chunk[axis] = (extent[axis] + chunks - 1) / chunks;
}

ls_status ls_ckpt_grid_make(int ndim, const int64_t *extent, const int64_t *chunk,
                            int64_t elem_bytes, ls_ckpt_grid *grid) {
    *grid = (ls_ckpt_grid){.ndim = ndim, .axis = ndim - 1, .elem_bytes = elem_bytes};
    bool valid = true;
    int64_t chunk_bytes = elem_bytes;
    for (int d = 0; d < ndim; d++) {
        grid->extent[d] = extent[d];
        grid->chunk[d] = chunk[d];
        valid = valid && chunk[d] >= 1 && chunk[d] <= extent[d] &&
                !__builtin_mul_overflow(chunk_bytes, chunk[d], &chunk_bytes) &&
                chunk_bytes <= LS_CKPT_CHUNK_BYTES_MAX;
    }
    grid->inner_elems = 1;
    while (valid && grid->axis > 0 && chunk[grid->axis] == extent[grid->axis]) {
        grid->inner_elems *= extent[grid->axis];
        grid->axis--;
    }
    grid->count = 1;
    for (int d = 0; valid && d < grid->axis; d++) {
        valid = chunk[d] == 1;
        grid->count *= extent[d];
    }
    if (!valid) {
        char found[128], whole[128];
        return LS_FAIL(LS_E_CORRUPT, "chunks of %s in a piece of %s are not allowed by the format",
                       ls_ckpt_shape_text(found, sizeof found, ndim, chunk),
                       ls_ckpt_shape_text(whole, sizeof whole, ndim, extent));
    }
    int axis = grid->axis;
    grid->along_axis = (extent[axis] - 1) / chunk[axis] + 1;
    grid->count *= grid->along_axis;
    grid->chunk_elems = chunk[axis] * grid->inner_elems;
    grid->chunk_bytes = chunk_bytes;
    return LS_OK;
}

void ls_ckpt_grid_box(const ls_ckpt_grid *grid, int64_t index, ls_box *box, int64_t *first_elem) {
    int axis = grid->axis;
    int64_t outer = index / grid->along_axis;
    int64_t row = index % grid->along_axis * grid->chunk[axis];
    *first_elem = (outer * grid->extent[axis] + row) * grid->inner_elems;
    *box = (ls_box){.ndim = grid->ndim};
    for (int d = grid->ndim - 1; d >= 0; d--) {
        box->extent[d] = d < axis ? 1 : grid->extent[d];
        if (d < axis) {
            box->start[d] = outer % grid->extent[d];
            outer /= grid->extent[d];
        }
    }
    box->start[axis] = row;
    int64_t left = grid->extent[axis] - row;
    box->extent[axis] = left < grid->chunk[axis] ? left : grid->chunk[axis];
}

int ls_ckpt_threads(int wanted, int64_t items, int64_t bytes) {
    int64_t most = bytes >> 20 < items ? bytes >> 20 : items;
    return most < 1 ? 1 : most < wanted ? (int)most : wanted < 1 ? 1 : wanted;
}
