#include "runtime/data/prep_packed.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

/* llm.c, dev/data/data_common.py: 256 int32, of which the first three are magic, version, count. */
enum { HEADER_BYTES = 1024 };

static const struct {
    int32_t magic, version;
    int token_bytes;
} headers[] = {{20240520, 1, 2}, {20240801, 7, 4}};

/* *token_bytes: 0 without a header. */
static void read_header(const ls_prep_packed *p, int *token_bytes, int64_t *count) {
    int32_t words[3];
    *token_bytes = 0;
    if (p->map_bytes < HEADER_BYTES) {
        return;
    }
    memcpy(words, p->map, sizeof words);
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        if (words[0] == headers[i].magic && words[1] == headers[i].version) {
            *token_bytes = headers[i].token_bytes;
            *count = words[2];
        }
    }
}

static ls_status find_tokens(ls_prep_packed *p, const char *path, int64_t vocab) {
    int64_t count = 0;
    int token_bytes;
    read_header(p, &token_bytes, &count);
    const size_t before = token_bytes ? HEADER_BYTES : 0, bytes = p->map_bytes - before;
    p->token_bytes = vocab <= 1 << 16 ? 2 : 4;
    p->tokens = (const char *)p->map + before;
    p->count = (int64_t)bytes / p->token_bytes;
    if (token_bytes && token_bytes != p->token_bytes) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' has tokens of %d bytes by its header, a --vocab of %" PRId64
                       " has them of %d; give the vocabulary of its tokenizer",
                       path, token_bytes, vocab, p->token_bytes);
    }
    if (token_bytes && count != p->count) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' has %" PRId64 " tokens by its header, and %" PRId64
                       " behind it; copy it again",
                       path, count, p->count);
    }
    return bytes % (size_t)p->token_bytes == 0
               ? LS_OK
               : LS_FAIL(LS_E_INPUT,
                         "'%s' has %zu bytes, which are no whole number of tokens of %d bytes, as "
                         "a --vocab of %" PRId64 " has them",
                         path, bytes, p->token_bytes, vocab);
}

ls_status ls_prep_packed_open(const ls_prep_source *source, int fd, int64_t vocab,
                              ls_prep_packed *packed) {
    *packed = (ls_prep_packed){.map_bytes = (size_t)source->bytes};
    if (source->bytes == 0) {
        return LS_OK;
    }
    packed->map = mmap(NULL, packed->map_bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (packed->map == MAP_FAILED) {
        packed->map = NULL;
        return LS_FAIL(LS_E_IO, "cannot map '%s' (%zu bytes): %s", source->path, packed->map_bytes,
                       strerror(errno));
    }
    madvise(packed->map, packed->map_bytes, MADV_SEQUENTIAL);
    return find_tokens(packed, source->path, vocab);
}

void ls_prep_packed_close(ls_prep_packed *packed) {
    if (packed->map) {
        munmap(packed->map, packed->map_bytes);
    }
    *packed = (ls_prep_packed){0};
}

ls_status ls_prep_packed_document(const ls_prep_packed *p, const char *path, int64_t from,
                                  int64_t vocab, int64_t separator, int64_t *end) {
    int64_t i = from;
    for (; i < p->count; i++) {
        uint32_t token = 0;
        memcpy(&token, p->tokens + i * p->token_bytes, (size_t)p->token_bytes);
        if (token == (uint32_t)separator) {
            break;
        }
        if (token >= vocab) {
            return LS_FAIL(LS_E_INPUT,
                           "'%s': token %" PRId64 " is %u; at most %" PRId64
                           " is expected: raise --vocab, or was it made with another tokenizer?",
                           path, i, token, vocab - 1);
        }
    }
    *end = i;
    return LS_OK;
}
