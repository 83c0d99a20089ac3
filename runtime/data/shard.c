#include "runtime/data/shard.h"

#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "runtime/base/hash.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tokens are mapped as they lie on disk");

enum {
    AT_MAGIC = 0,
    AT_MAJOR = 8,
    AT_MINOR = 10,
    AT_HEADER_BYTES = 12,
    AT_TOKEN_BYTES = 16,
    AT_SPLIT = 20,
    AT_INDEX = 24,
    AT_COUNT = 28,
    AT_VOCAB = 32,
    AT_SEPARATOR = 40,
    AT_TOKENS = 48,
    AT_DOCUMENTS = 56,
    AT_BYTES = 64,
    AT_CHECKSUM = 72,
    AT_TOKENIZER = 80,
    AT_TARGETS = 96,
    AT_HEADER_CHECKSUM = 248,
};

const char *ls_split_name(ls_split split) {
    return split == LS_SPLIT_TRAIN ? "train" : "val";
}

static void put(uint8_t *raw, int at, size_t bytes, uint64_t value) {
    memcpy(raw + at, &value, bytes);
}

static uint64_t get(const uint8_t *raw, int at, size_t bytes) {
    uint64_t value = 0;
    memcpy(&value, raw + at, bytes);
    return value;
}

void ls_shard_header_encode(const ls_shard_header *header, uint8_t raw[LS_SHARD_HEADER_BYTES]) {
    memset(raw, 0, LS_SHARD_HEADER_BYTES);
    memcpy(raw + AT_MAGIC, LS_SHARD_MAGIC, 8);
    put(raw, AT_MAJOR, 2, header->masked ? LS_SHARD_MAJOR_MASKED : LS_SHARD_MAJOR);
    put(raw, AT_MINOR, 2, LS_SHARD_MINOR);
    put(raw, AT_HEADER_BYTES, 4, LS_SHARD_HEADER_BYTES);
    put(raw, AT_TOKEN_BYTES, 4, (uint64_t)header->token_bytes);
    put(raw, AT_SPLIT, 4, (uint64_t)header->split);
    put(raw, AT_INDEX, 4, (uint64_t)header->index);
    put(raw, AT_COUNT, 4, (uint64_t)header->count);
    put(raw, AT_VOCAB, 8, (uint64_t)header->vocab);
    put(raw, AT_SEPARATOR, 8, (uint64_t)header->separator);
    put(raw, AT_TOKENS, 8, (uint64_t)header->tokens);
    put(raw, AT_DOCUMENTS, 8, (uint64_t)header->documents);
    put(raw, AT_BYTES, 8, (uint64_t)header->bytes);
    put(raw, AT_CHECKSUM, 8, header->checksum);
    memcpy(raw + AT_TOKENIZER, header->tokenizer, sizeof header->tokenizer);
    put(raw, AT_TARGETS, 8, header->masked ? (uint64_t)header->targets : 0);
    put(raw, AT_HEADER_CHECKSUM, 8, ls_xxh64(raw, AT_HEADER_CHECKSUM, 0));
}

/* A field of the header with a value that no writer makes. */
static ls_status field_check(const char *path, const char *field, int at, uint64_t found,
                             uint64_t min, uint64_t max) {
    if (found >= min && found <= max) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_CORRUPT,
                   "'%s', byte %d: %s is %" PRIu64 ", allowed is %" PRIu64 " to %" PRIu64
                   "; prepare the data again",
                   path, at, field, found, min, max);
}

static ls_status fields_check(const uint8_t *raw, const char *path) {
    const bool masked = get(raw, AT_MAJOR, 2) == LS_SHARD_MAJOR_MASKED;
    uint64_t token_bytes = get(raw, AT_TOKEN_BYTES, 4);
    if (token_bytes != 4 && (token_bytes != 2 || masked)) {
        return LS_FAIL(
            LS_E_CORRUPT,
            "'%s', byte %d: %" PRIu64 " bytes a token, allowed %s; prepare the data again", path,
            AT_TOKEN_BYTES, token_bytes, masked ? "with a loss mask is 4" : "are 2 and 4");
    }
    /* Tokens are handed out as int32. */
    const uint64_t max_vocab = token_bytes == 2 ? 1u << 16 : INT32_MAX;
    const uint64_t max_tokens = (INT64_MAX - LS_SHARD_HEADER_BYTES) / token_bytes;
    const uint64_t vocab = get(raw, AT_VOCAB, 8), tokens = get(raw, AT_TOKENS, 8);
    const struct {
        const char *name;
        int at, bytes;
        uint64_t min, max;
    } fields[] = {
        {"header size", AT_HEADER_BYTES, 4, LS_SHARD_HEADER_BYTES, LS_SHARD_HEADER_BYTES},
        {"split", AT_SPLIT, 4, LS_SPLIT_TRAIN, LS_SPLIT_VAL},
        {"shard count", AT_COUNT, 4, 1, INT32_MAX},
        {"shard number", AT_INDEX, 4, 0, get(raw, AT_COUNT, 4) - 1},
        {"vocabulary", AT_VOCAB, 8, 2, max_vocab},
        {"separator", AT_SEPARATOR, 8, 0, vocab - 1},
        {"token count", AT_TOKENS, 8, 1, max_tokens},
        {"document count", AT_DOCUMENTS, 8, 0, tokens},
        {"source bytes", AT_BYTES, 8, 0, INT64_MAX},
        {"target count", AT_TARGETS, 8, 0, masked ? tokens : 0},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        LS_TRY(field_check(path, fields[i].name, fields[i].at,
                           get(raw, fields[i].at, (size_t)fields[i].bytes), fields[i].min,
                           fields[i].max));
    }
    if (!memchr(raw + AT_TOKENIZER, '\0', 16) || raw[AT_TOKENIZER] == '\0') {
        return LS_FAIL(LS_E_CORRUPT, "'%s', byte %d: no tokenizer name; prepare the data again",
                       path, AT_TOKENIZER);
    }
    return LS_OK;
}

ls_status ls_shard_header_decode(const void *raw_header, size_t raw_bytes, int64_t file_bytes,
                                 const char *path, ls_shard_header *header) {
    const uint8_t *raw = raw_header;
    if (raw_bytes < LS_SHARD_HEADER_BYTES || file_bytes < LS_SHARD_HEADER_BYTES) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' is truncated: it ends at byte %" PRId64
                       ", inside the header of %d bytes; copy it again or prepare the data again",
                       path, file_bytes, LS_SHARD_HEADER_BYTES);
    }
    if (memcmp(raw + AT_MAGIC, LS_SHARD_MAGIC, 8) != 0) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s' is no token shard: it does not start with \"" LS_SHARD_MAGIC "\"",
                       path);
    }
    /* Before the checksum: a newer version may place it elsewhere. */
    uint64_t major = get(raw, AT_MAJOR, 2);
    if (major > LS_SHARD_MAJOR_MASKED) {
        return LS_FAIL(LS_E_VERSION,
                       "'%s' has shard format %" PRIu64 ".%" PRIu64
                       ", this program reads up to %d.x; use a newer lockstep or prepare the data "
                       "again",
                       path, major, get(raw, AT_MINOR, 2), LS_SHARD_MAJOR_MASKED);
    }
    uint64_t found = ls_xxh64(raw, AT_HEADER_CHECKSUM, 0);
    uint64_t stored = get(raw, AT_HEADER_CHECKSUM, 8);
    if (found != stored) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s', bytes 0 to %d: the header's checksum is %016" PRIx64
                       ", stored is %016" PRIx64 "; copy it again or prepare the data again",
                       path, AT_HEADER_CHECKSUM - 1, found, stored);
    }
    LS_TRY(
        field_check(path, "major version", AT_MAJOR, major, LS_SHARD_MAJOR, LS_SHARD_MAJOR_MASKED));
    LS_TRY(fields_check(raw, path));
    *header = (ls_shard_header){
        .token_bytes = (int)get(raw, AT_TOKEN_BYTES, 4),
        .split = (ls_split)get(raw, AT_SPLIT, 4),
        .index = (int64_t)get(raw, AT_INDEX, 4),
        .count = (int64_t)get(raw, AT_COUNT, 4),
        .vocab = (int64_t)get(raw, AT_VOCAB, 8),
        .separator = (int64_t)get(raw, AT_SEPARATOR, 8),
        .tokens = (int64_t)get(raw, AT_TOKENS, 8),
        .documents = (int64_t)get(raw, AT_DOCUMENTS, 8),
        .bytes = (int64_t)get(raw, AT_BYTES, 8),
        .masked = major == LS_SHARD_MAJOR_MASKED,
        .targets = (int64_t)get(raw, major == LS_SHARD_MAJOR_MASKED ? AT_TARGETS : AT_TOKENS, 8),
        .checksum = get(raw, AT_CHECKSUM, 8),
    };
    memcpy(header->tokenizer, raw + AT_TOKENIZER, sizeof header->tokenizer);

    int64_t expected = LS_SHARD_HEADER_BYTES + header->tokens * header->token_bytes;
    if (file_bytes != expected) {
        return LS_FAIL(file_bytes < expected ? LS_E_INPUT : LS_E_CORRUPT,
                       "'%s' %s: it ends at byte %" PRId64 ", its header promises %" PRId64
                       " bytes (%" PRId64 " tokens); copy it again or prepare the data again",
                       path, file_bytes < expected ? "is truncated" : "is too long", file_bytes,
                       expected, header->tokens);
    }
    return LS_OK;
}

/* With what of a token is its number. */
#define LARGEST(type)                                                                              \
    static uint32_t largest_##type(const type##_t *tokens, int64_t count, type##_t number) {       \
        type##_t max = 0;                                                                          \
        for (int64_t i = 0; i < count; i++) {                                                      \
            const type##_t token = tokens[i] & number;                                             \
            max = token > max ? token : max;                                                       \
        }                                                                                          \
        return max;                                                                                \
    }
LARGEST(uint16)
LARGEST(uint32)

static uint32_t token_at(const void *tokens, int64_t i, int width, uint32_t number) {
    return (width == 2 ? ((const uint16_t *)tokens)[i] : ((const uint32_t *)tokens)[i]) & number;
}

void ls_map_let_go(const char *file, int64_t file_bytes, int64_t begin, int64_t end) {
    enum { AROUND = 1 << 16 }; /* the kernel maps so much around a page that is read */
    begin -= begin % AROUND;
    end += (AROUND - end % AROUND) % AROUND;
    end = end < file_bytes ? end : file_bytes; /* what lies behind is not the mapping's */
    madvise((void *)(file + begin), (size_t)(end - begin), MADV_DONTNEED);
}

ls_status ls_shard_payload_check(const ls_shard_header *header, const void *payload, bool mapped,
                                 const char *path) {
    enum { BLOCK_TOKENS = 1 << 17 }; /* stays in cache between hash and scan */
    const int64_t header_bytes = LS_SHARD_HEADER_BYTES;
    XXH3_state_t *hash = XXH3_createState();
    if (!hash || XXH3_64bits_reset(hash) != XXH_OK) {
        XXH3_freeState(hash);
        return LS_FAIL(LS_E_MEMORY, "no memory to check '%s'", path);
    }
    const int width = header->token_bytes;
    const uint32_t number = ls_shard_number_bits(header->masked);
    int64_t bad = -1; /* first token out of the vocabulary */
    for (int64_t first = 0; first < header->tokens; first += BLOCK_TOKENS) {
        int64_t left = header->tokens - first;
        int64_t count = left < BLOCK_TOKENS ? left : BLOCK_TOKENS;
        const char *block = (const char *)payload + first * width;
        XXH3_64bits_update(hash, block, (size_t)(count * width));
        uint32_t largest = width == 2 ? largest_uint16((const uint16_t *)block, count, UINT16_MAX)
                                      : largest_uint32((const uint32_t *)block, count, number);
        for (int64_t i = 0; bad < 0 && largest >= header->vocab && i < count; i++) {
            bad = token_at(block, i, width, number) >= header->vocab ? first + i : bad;
        }
        if (mapped) {
            const int64_t begin = header_bytes + first * width;
            ls_map_let_go((const char *)payload - header_bytes,
                          header_bytes + header->tokens * width, begin, begin + count * width);
        }
    }
    uint64_t found = XXH3_64bits_digest(hash);
    XXH3_freeState(hash);
    const int64_t end = LS_SHARD_HEADER_BYTES + header->tokens * width;
    if (found != header->checksum) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s', bytes %d to %" PRId64 ": the tokens' checksum is %016" PRIx64
                       ", the header says %016" PRIx64 "; copy it again or prepare the data again",
                       path, LS_SHARD_HEADER_BYTES, end - 1, found, header->checksum);
    }
    if (bad >= 0) {
        return LS_FAIL(LS_E_CORRUPT,
                       "'%s', byte %" PRId64 ": token %u is outside the vocabulary of %" PRId64
                       "; prepare the data again",
                       path, LS_SHARD_HEADER_BYTES + bad * width,
                       token_at(payload, bad, width, number), header->vocab);
    }
    return LS_OK;
}
