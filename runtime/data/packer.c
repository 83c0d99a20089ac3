#include "runtime/data/packer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"

enum { WAITING_BYTES = 64 << 20, WAITING_SAMPLES = 8 };

struct ls_packer_document {
    ls_packer_document *next;
    int64_t count; /* tokens before the separator */
    bool target;   /* the separator is one */
    bool part;     /* and ends a part of a document */
    uint32_t tokens[];
};

static int64_t size_of(int64_t count) {
    return (int64_t)sizeof(ls_packer_document) + count * (int64_t)sizeof(uint32_t);
}

ls_status ls_packer_init(ls_packer *packer, int64_t sample_tokens, int unit_bytes,
                         ls_shard_writer *writer) {
    const size_t tokens = (size_t)sample_tokens;
    *packer =
        (ls_packer){.writer = writer, .sample_tokens = sample_tokens, .unit_bytes = unit_bytes};
    LS_TRY(ls_calloc(tokens, sizeof *packer->tokens, &packer->tokens));
    LS_TRY(ls_calloc(tokens + 1, sizeof *packer->first, &packer->first));
    LS_TRY(ls_calloc(tokens + 1, sizeof *packer->last, &packer->last));
    return ls_calloc(tokens / 64 + 1, sizeof *packer->lengths, &packer->lengths);
}

/* The most tokens, up to `most`, of a document that waits; 0: none does. */
static int64_t longest(const ls_packer *packer, int64_t most) {
    uint64_t bits = packer->lengths[most / 64] & (UINT64_MAX >> (63 - most % 64));
    for (int64_t word = most / 64;; bits = packer->lengths[--word]) {
        if (bits || word == 0) {
            return bits ? word * 64 + 63 - __builtin_clzll(bits) : 0;
        }
    }
}

static ls_packer_document *take(ls_packer *packer, int64_t tokens) {
    ls_packer_document *document = packer->first[tokens];
    packer->first[tokens] = document->next;
    if (!document->next) {
        packer->lengths[tokens / 64] &= ~(UINT64_C(1) << tokens % 64);
    }
    packer->waiting_bytes -= size_of(document->count);
    return document;
}

void ls_packer_release(ls_packer *packer) {
    for (int64_t n; packer->lengths && (n = longest(packer, packer->sample_tokens)) > 0;) {
        free(take(packer, n));
    }
    free(packer->tokens);
    free(packer->first);
    free(packer->last);
    free(packer->lengths);
    *packer = (ls_packer){0};
}

static ls_status append_padding(ls_packer *packer, int64_t count) {
    enum { PART = 256 };
    uint32_t padding[PART];
    for (int i = 0; i < PART; i++) {
        padding[i] = (uint32_t)packer->writer->vocabulary.separator | LS_SHARD_NO_TARGET;
    }
    for (int64_t n; count > 0; count -= n) {
        n = count < PART ? count : PART;
        LS_TRY(ls_shard_writer_append(packer->writer, padding, (size_t)n * sizeof *padding));
    }
    return LS_OK;
}

static ls_status write_document(ls_packer *packer, const ls_packer_document *document) {
    LS_TRY(ls_shard_writer_append(packer->writer, document->tokens,
                                  (size_t)document->count * sizeof *document->tokens));
    return document->part ? append_padding(packer, 1)
                          : ls_shard_writer_end_document(packer->writer, document->target);
}

static ls_status write_sample(ls_packer *packer) {
    int64_t room = packer->sample_tokens;
    if (packer->writer->count == 0 && packer->writer->vocabulary.begin < 0) {
        LS_TRY(append_padding(packer, 1)); /* before all documents */
    }
    for (int64_t n; room > 0 && (n = longest(packer, room)) > 0; room -= n) {
        ls_packer_document *document = take(packer, n);
        const ls_status status = write_document(packer, document);
        free(document);
        LS_TRY(status);
    }
    packer->padding += room;
    return append_padding(packer, room);
}

/* What was appended, and the separator, waits to be written. */
static ls_status wait(ls_packer *packer, bool target, bool part) {
    const int64_t count = packer->count, n = count + 1;
    ls_packer_document *document = malloc((size_t)size_of(count));
    if (!document) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a document of %" PRId64 " tokens", count);
    }
    *document = (ls_packer_document){.count = count, .target = target, .part = part};
    memcpy(document->tokens, packer->tokens, (size_t)count * sizeof *packer->tokens);
    if (packer->first[n]) {
        packer->last[n]->next = document;
    } else {
        packer->first[n] = document;
    }
    packer->last[n] = document;
    packer->lengths[n / 64] |= UINT64_C(1) << n % 64;
    packer->waiting_bytes += size_of(count);
    packer->count = 0;
    packer->parted = part;
    const int64_t most = WAITING_SAMPLES * size_of(packer->sample_tokens);
    while (packer->waiting_bytes > (most > WAITING_BYTES ? most : WAITING_BYTES)) {
        LS_TRY(write_sample(packer));
    }
    return LS_OK;
}

static void widen(const uint8_t *from, int unit_bytes, uint32_t *to, size_t n) {
    if (unit_bytes == 1) {
        for (size_t i = 0; i < n; i++) {
            to[i] = from[i];
        }
    } else if (unit_bytes == 2) {
        for (size_t i = 0; i < n; i++) {
            uint16_t token;
            memcpy(&token, from + 2 * i, sizeof token);
            to[i] = token;
        }
    } else {
        memcpy(to, from, n * sizeof *to);
    }
}

ls_status ls_packer_append(ls_packer *packer, const void *from, size_t bytes) {
    const int64_t begin = packer->writer->vocabulary.begin, most = packer->sample_tokens - 1;
    const uint8_t *next = from;
    for (size_t left = bytes / (size_t)packer->unit_bytes, n; left > 0; left -= n) {
        if (packer->count == most) {
            packer->cut += !packer->parted;
            LS_TRY(wait(packer, false, true));
            if (begin >= 0) {
                packer->tokens[packer->count++] = (uint32_t)begin;
            }
        }
        uint32_t *to = packer->tokens + packer->count;
        const size_t room = (size_t)(most - packer->count);
        n = left < room ? left : room;
        widen(next, packer->unit_bytes, to, n);
        if (packer->parted && packer->count == (begin >= 0)) {
            to[0] |= LS_SHARD_NO_TARGET;
        }
        if (begin >= 0) {
            packer->tokens[0] |= LS_SHARD_NO_TARGET;
        }
        packer->count += (int64_t)n;
        next += n * (size_t)packer->unit_bytes;
    }
    return LS_OK;
}

ls_status ls_packer_end_document(ls_packer *packer, bool target) {
    return wait(packer, target, false);
}

ls_status ls_packer_finish(ls_packer *packer) {
    while (packer->waiting_bytes > 0) {
        LS_TRY(write_sample(packer));
    }
    return LS_OK;
}

void ls_packer_restart(ls_packer *packer) {
    packer->padding = packer->cut = 0;
}
