#include "checkpoint/convert.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAGIC = 20240326, VERSION_F32 = 3, VERSION_BF16 = 5, HEADER_INTS = 256, VOCAB_PAD = 128 };

/* Kinds of tensors in the file's order; those of layers are repeated layer by layer. */
static const char *const kinds[] = {
    "tok_embed.weight", "pos_embed.weight", "attn_norm.weight",  "attn_norm.bias",
    "attn.qkv.weight",  "attn.qkv.bias",    "attn.proj.weight",  "attn.proj.bias",
    "mlp_norm.weight",  "mlp_norm.bias",    "mlp.up.weight",     "mlp.up.bias",
    "mlp.down.weight",  "mlp.down.bias",    "final_norm.weight", "final_norm.bias"};

static ls_status check(const ls_config_model *m) {
    if (m->family != LS_FAMILY_GPT2 || m->qk_norm || m->window > 0 || !m->tied || m->experts > 0 ||
        m->ffn != 4 * m->channels || m->kv_heads != m->heads ||
        m->head_dim * m->heads != m->channels) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "llm.c's model file holds GPT-2 with a tied head, no experts, qk_norm or "
                       "window, ffn = 4 x "
                       "channels and head_dim = channels / heads; this model is another");
    }
    return LS_OK;
}

static int64_t vocab_padded(const ls_config_model *m) {
    return (m->vocab + VOCAB_PAD - 1) / VOCAB_PAD * VOCAB_PAD;
}

static bool is_kind(const char *name, const char *kind) {
    if (strncmp(name, "layers.", 7) == 0) {
        name += 7 + strspn(name + 7, "0123456789") + 1;
    }
    return strcmp(name, kind) == 0;
}

static ls_status header_write(int fd, const char *path, const ls_config_model *m, ls_dtype dtype) {
    const int64_t values[] = {MAGIC,       dtype == LS_F32 ? VERSION_F32 : VERSION_BF16,
                              m->context,  m->vocab,
                              m->layers,   m->heads,
                              m->channels, vocab_padded(m)};
    uint8_t header[HEADER_INTS * 4] = {0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        for (int b = 0; b < 4; b++) {
            header[4 * i + (size_t)b] = (uint8_t)((uint64_t)values[i] >> (8 * b));
        }
    }
    return ls_file_write_all(fd, header, sizeof header, path);
}

/* The file's size is set first: rows of padding stay zero. */
static ls_status body_write(ls_ckpt *ckpt, const ls_config_model *m, const ls_param *params,
                            int count, ls_dtype dtype, int fd, const char *path, int64_t *bytes) {
    int64_t offset = HEADER_INTS * 4, elem_bytes = (int64_t)ls_dtype_bytes(dtype);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        for (int i = 0; i < count; i++) {
            const ls_param *p = &params[i];
            if (!is_kind(p->name, kinds[kind])) {
                continue;
            }
            int64_t cols = p->ndim > 1 ? p->dims[1] : 1;
            int64_t rows = kind == 0 ? vocab_padded(m) : p->valid_rows;
            int64_t end = offset + rows * cols * elem_bytes;
            int error = posix_fallocate(fd, (off_t)offset, (off_t)(end - offset));
            if (error != 0) {
                return LS_FAIL(LS_E_IO, "no room for '%s': %s", path, strerror(error));
            }
            ls_convert_target target = {.fd = fd,
                                        .path = path,
                                        .offset = offset,
                                        .rows = p->valid_rows,
                                        .cols = cols,
                                        .dtype = dtype};
            LS_TRY(ls_convert_copy(ckpt, p, &target, 1));
            offset = end;
        }
    }
    *bytes = offset;
    return LS_OK;
}

ls_status ls_convert_to_llmc(ls_ckpt *ckpt, const ls_config_model *model, const ls_param *params,
                             int count, ls_dtype dtype, const char *file,
                             ls_convert_result *result) {
    char temporary[4096];
    LS_TRY(check(model));
    if (ls_path_exists(file)) {
        return LS_FAIL(LS_E_EXISTS, "'%s' exists; name a file that does not", file);
    }
    if (snprintf(temporary, sizeof temporary, "%s.tmp-%ld", file, (long)getpid()) >=
        (int)sizeof temporary) {
        return LS_FAIL(LS_E_INPUT, "'%.60s...' is too long for a path", file);
    }
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        return LS_FAIL(errno == ENOENT ? LS_E_INPUT : LS_E_IO, "cannot create '%s': %s", temporary,
                       strerror(errno));
    }
    ls_status status = header_write(fd, temporary, model, dtype);
    if (status == LS_OK) {
        status = body_write(ckpt, model, params, count, dtype, fd, temporary, &result->bytes);
    }
    bool synced = fsync(fd) == 0;
    if ((close(fd) != 0 || !synced) && status == LS_OK) {
        status = LS_FAIL(LS_E_IO, "cannot complete '%s': %s", temporary, strerror(errno));
    }
    if (status == LS_OK && rename(temporary, file) != 0) {
        status =
            LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", temporary, file, strerror(errno));
    }
    if (status == LS_OK) {
        status = ls_file_sync_parent(file);
    }
    if (status != LS_OK) {
        unlink(temporary);
    }
    result->files = 1;
    return status;
}
