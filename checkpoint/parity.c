#include "checkpoint/parity.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <isa-l/erasure_code.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = LS_PARITY_GROUP + LS_PARITY_MAX, BLOCK_BYTES = 256 << 10, TABLE_BYTES = 32 };

/* Bytes of the sources at one offset, and what is made of them. */
typedef struct coder {
    int sources, targets;
    int in[MOST], out[MOST]; /* open files */
    int64_t in_bytes[MOST];  /* as far as they count */
    int64_t out_bytes[MOST];
    uint8_t tables[TABLE_BYTES * MOST * MOST];
    uint8_t *blocks; /* [sources + targets][BLOCK_BYTES] */
} coder;

int ls_parity_groups(int files) {
    return (files + LS_PARITY_GROUP - 1) / LS_PARITY_GROUP;
}

void ls_parity_range(int files, int g, int *first, int *end) {
    int64_t groups = ls_parity_groups(files);
    *first = (int)((int64_t)files * g / groups);
    *end = (int)((int64_t)files * (g + 1) / groups);
}

char *ls_parity_name(char *buf, size_t size, int g, int j) {
    snprintf(buf, size, "parity-%05d-%d.rs", g, j);
    return buf;
}

bool ls_parity_made(const ls_ckpt *ckpt, int file_index) {
    const ls_ckpt_file *file = &ckpt->files[file_index];
    return file->group >= 0 && file->place >= ckpt->groups[file->group].data;
}

static int64_t longest(const ls_parity *group) {
    int64_t bytes = 0;
    for (int i = 0; i < group->data; i++) {
        bytes = group->bytes[i] > bytes ? group->bytes[i] : bytes;
    }
    return bytes;
}

/* `bytes` bytes at offset, zeros after the file's end. */
static ls_status block_read(const coder *c, int i, int64_t offset, int64_t bytes, uint8_t *block) {
    int64_t there = c->in_bytes[i] - offset, done = 0;
    there = there < 0 ? 0 : there < bytes ? there : bytes;
    while (done < there) {
        ssize_t n = pread(c->in[i], block + done, (size_t)(there - done), (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return LS_FAIL(LS_E_IO, "cannot read at byte %lld: %s", (long long)(offset + done),
                           n < 0 ? strerror(errno) : "the file ends");
        }
        done += n;
    }
    memset(block + there, 0, (size_t)(bytes - there));
    return LS_OK;
}

size_t ls_parity_bytes(int files, int k) {
    return (size_t)((files < LS_PARITY_GROUP ? files : LS_PARITY_GROUP) + k) * BLOCK_BYTES;
}

static ls_status code(coder *c, const ls_parity *group, const int *names, int64_t total_bytes) {
    uint8_t *in[MOST], *out[MOST];
    LS_TRY(ls_calloc((size_t)(c->sources + c->targets), BLOCK_BYTES, &c->blocks));
    for (int i = 0; i < c->sources + c->targets; i++) {
        uint8_t *block = c->blocks + (size_t)i * BLOCK_BYTES;
        *(i < c->sources ? &in[i] : &out[i - c->sources]) = block;
    }
    for (int64_t at = 0; at < total_bytes; at += BLOCK_BYTES) {
        int64_t bytes = total_bytes - at < BLOCK_BYTES ? total_bytes - at : BLOCK_BYTES;
        for (int i = 0; i < c->sources; i++) {
            ls_status status = block_read(c, i, at, bytes, in[i]);
            if (status != LS_OK) {
                return ls_error_prefix(status, "'%s'", group->names[names[i]]);
            }
        }
        ec_encode_data((int)bytes, c->sources, c->targets, c->tables, in, out);
        for (int i = 0; i < c->targets; i++) {
            int64_t left = c->out_bytes[i] - at, n = left < bytes ? left : bytes;
            if (n > 0) {
                LS_TRY(ls_file_write_all(c->out[i], out[i], (size_t)n,
                                         group->names[names[c->sources + i]]));
            }
        }
    }
    for (int i = 0; i < c->targets; i++) {
        LS_TRY(ls_file_sync_fd(c->out[i], group->names[names[c->sources + i]]));
    }
    return LS_OK;
}

static ls_status source_open(coder *c, const char *directory, const char *name, int64_t bytes) {
    char path[4096];
    LS_TRY(ls_path_join(path, sizeof path, directory, name));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    c->in[c->sources] = fd;
    c->in_bytes[c->sources++] = bytes;
    return LS_OK;
}

static void sources_close(coder *c) {
    for (int i = 0; i < c->sources; i++) {
        close(c->in[i]);
    }
    free(c->blocks);
    free(c);
}

static ls_status targets_create(coder *c, const char *directory, const ls_parity *group) {
    char path[4096];
    for (int j = 0; j < group->parity; j++) {
        LS_TRY(ls_path_join(path, sizeof path, directory, group->names[group->data + j]));
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd < 0) {
            return LS_FAIL(LS_E_IO, "cannot create '%s': %s", path, strerror(errno));
        }
        c->out_bytes[c->targets] = longest(group);
        c->out[c->targets++] = fd;
    }
    return LS_OK;
}

ls_status ls_parity_write(const char *directory, const ls_parity *group) {
    coder *c;
    uint8_t matrix[MOST * LS_PARITY_GROUP];
    int n = group->data, names[MOST];
    LS_TRY(ls_calloc(1, sizeof *c, &c));
    for (int i = 0; i < MOST; i++) {
        names[i] = i;
    }
    ls_status status = LS_OK;
    for (int i = 0; i < n && status == LS_OK; i++) {
        status = source_open(c, directory, group->names[i], group->bytes[i]);
    }
    if (status == LS_OK) {
        status = targets_create(c, directory, group);
    }
    if (status == LS_OK) {
        gf_gen_cauchy1_matrix(matrix, n + group->parity, n);
        ec_init_tables(n, group->parity, matrix + n * n, c->tables);
        status = code(c, group, names, longest(group));
    }
    for (int j = 0; j < c->targets; j++) {
        if (close(c->out[j]) != 0 && status == LS_OK) {
            status =
                LS_FAIL(LS_E_IO, "cannot close '%s': %s", group->names[n + j], strerror(errno));
        }
    }
    sources_close(c);
    return status;
}

ls_status ls_ckpt_parity_add(const char *directory, const char *const *names, const int64_t *bytes,
                             int files, int g, int k, json_t *record) {
    char made[LS_PARITY_MAX][32], path[4096];
    ls_parity group = {.parity = k};
    int first, end;
    json_t *row = json_pack("{s:[],s:[]}", "data", "parity");
    ls_parity_range(files, g, &first, &end);
    for (int i = first; i < end; i++) {
        group.names[group.data] = names[i];
        group.bytes[group.data++] = bytes[i];
        json_array_append_new(json_object_get(row, "data"), json_string(names[i]));
    }
    for (int j = 0; j < k; j++) {
        group.names[group.data + j] = ls_parity_name(made[j], sizeof made[j], g, j);
        json_array_append_new(json_object_get(row, "parity"), json_string(made[j]));
    }
    if (!json_object_get(record, "files")) {
        json_object_set_new(record, "files", json_array());
    }
    if (!json_object_get(record, "parity")) {
        json_object_set_new(record, "parity", json_array());
    }
    if (json_array_append_new(json_object_get(record, "parity"), row) != 0) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
    }
    LS_TRY(ls_parity_write(directory, &group));
    for (int j = 0; j < k; j++) {
        LS_TRY(ls_path_join(path, sizeof path, directory, made[j]));
        LS_TRY(ls_ckpt_file_row(path, made[j], json_object_get(record, "files")));
    }
    return LS_OK;
}

/* Rows that make files `wanted` [count] of files `left` [n]: those rows of the code's matrix times
 * the inverse of what made the files that are left. */
static ls_status rows_make(int n, int parity, const int *left, const int *wanted, int count,
                           uint8_t *rows) {
    uint8_t matrix[MOST * LS_PARITY_GROUP];
    uint8_t made[LS_PARITY_GROUP * LS_PARITY_GROUP], inverse[LS_PARITY_GROUP * LS_PARITY_GROUP];
    gf_gen_cauchy1_matrix(matrix, n + parity, n);
    for (int i = 0; i < n; i++) {
        memcpy(made + i * n, matrix + left[i] * n, (size_t)n);
    }
    if (gf_invert_matrix(made, inverse, n) != 0) {
        return LS_FAIL(LS_E_CORRUPT, "the parity matrix of %d + %d files has no inverse", n,
                       parity);
    }
    for (int w = 0; w < count; w++) {
        for (int i = 0; i < n; i++) {
            uint8_t sum = 0;
            for (int d = 0; d < n; d++) {
                sum ^= gf_mul(matrix[wanted[w] * n + d], inverse[d * n + i]);
            }
            rows[w * n + i] = sum;
        }
    }
    return LS_OK;
}

static ls_status rebuild(coder *c, const char *directory, const ls_parity *group, const bool *lost,
                         const int *fds) {
    uint8_t rows[MOST * LS_PARITY_GROUP];
    int names[2 * MOST], n = group->data, all = n + group->parity, lost_count = 0;
    for (int i = 0; i < all; i++) {
        lost_count += lost[i];
    }
    if (lost_count > group->parity) {
        return LS_FAIL(LS_E_CORRUPT,
                       "%d of %d files of a parity group are lost or damaged; %d can be repaired",
                       lost_count, all, group->parity);
    }
    for (int i = 0; i < all && c->sources < n; i++) {
        if (!lost[i]) {
            names[c->sources] = i;
            LS_TRY(source_open(c, directory, group->names[i],
                               i < n ? group->bytes[i] : longest(group)));
        }
    }
    for (int i = 0; i < all; i++) {
        if (fds[i] >= 0) {
            names[n + c->targets] = i;
            c->out_bytes[c->targets] = i < n ? group->bytes[i] : longest(group);
            c->out[c->targets++] = fds[i];
        }
    }
    LS_TRY(rows_make(n, group->parity, names, names + n, c->targets, rows));
    ec_init_tables(n, c->targets, rows, c->tables);
    return code(c, group, names, longest(group));
}

ls_status ls_parity_rebuild(const char *directory, const ls_parity *group, const bool *lost,
                            const int *fds) {
    coder *c;
    LS_TRY(ls_calloc(1, sizeof *c, &c));
    ls_status status = rebuild(c, directory, group, lost, fds);
    sources_close(c);
    return status;
}
