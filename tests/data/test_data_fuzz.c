/* Seeded mutations of good inputs, given to the fuzzing entry: no crash, no read out of bounds
 * (under the sanitizers), no broken promise. An argument sets the number of rounds. */
#include "runtime/base/hash.h"
#include "tests/data/data_fixture.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_BYTES = 4096 };

static uint64_t draws;

static uint32_t below(uint32_t n) {
    return n ? ls_rng_draw(2024, 0, draws++).v[0] % n : 0;
}

static size_t good_shard(uint8_t *out, bool masked) {
    enum { TOKENS = 200 };
    uint16_t narrow[TOKENS];
    uint32_t wide[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        wide[i] = below(257);
        narrow[i] = (uint16_t)wide[i];
        wide[i] |= i % 3 ? 0 : LS_SHARD_NO_TARGET;
    }
    const void *tokens = masked ? (const void *)wide : narrow;
    const size_t bytes = masked ? sizeof wide : sizeof narrow;
    const ls_shard_header header = {.token_bytes = masked ? 4 : 2,
                                    .masked = masked,
                                    .targets = TOKENS - TOKENS / 3 - 1,
                                    .count = 1,
                                    .vocab = 257,
                                    .separator = 256,
                                    .tokens = TOKENS,
                                    .documents = 3,
                                    .bytes = TOKENS - 3,
                                    .checksum = ls_xxh64(tokens, bytes, 0),
                                    .tokenizer = "bytes"};
    ls_shard_header_encode(&header, out);
    memcpy(out + LS_SHARD_HEADER_BYTES, tokens, bytes);
    return LS_SHARD_HEADER_BYTES + bytes;
}

static size_t good_text(uint8_t *out, int kind) {
    static const char *const texts[] = {
        "{\"format\": \"lockstep-tokens\", \"version\": 1, \"tokenizer\": \"bytes\", \"vocab\": "
        "257, "
        "\"separator\": 256, \"splits\": {\"train\": {\"shards\": [{\"file\": \"train-00000.tok\", "
        "\"tokens\": 10, \"documents\": 1, \"bytes\": 9, \"xxh3\": \"00112233aabbccdd\"}]}, "
        "\"val\": {\"shards\": []}}}",
        "{\"meta\": [1, -2.5, true, null, {\"x\": []}], \"text\": \"a \\u00e9 \\ud83d\\ude00 b\"}",
        "{\"m\": [1, 0, true, false], \"q\": \"why\", \"text\": [1, 20, 3, 3]}",
        "{\"text\": \"\\u0000 line\\n \\\"quoted\\\" caf\xc3\xa9\"}",
    };
    size_t bytes = strlen(texts[kind]);
    memcpy(out, texts[kind], bytes);
    return bytes;
}

static size_t mutate(uint8_t *data, size_t size) {
    static const uint8_t notable[] = {0, 1, 0x7f, 0x80, 0xff, '{', '"', '\\', '}', '['};
    for (uint32_t left = below(5); left > 0 && size > 1; left--) {
        uint32_t at = 1 + below((uint32_t)size - 1), other = 1 + below((uint32_t)size - 1);
        switch (below(5)) {
        case 0:
            data[at] ^= (uint8_t)(1u << below(8));
            break;
        case 1:
            data[at] = notable[below(sizeof notable)];
            break;
        case 2: /* cut */
            size = at;
            break;
        case 3: /* drop a byte */
            memmove(data + at, data + at + 1, size - at - 1);
            size--;
            break;
        default: { /* copy a piece over another */
            uint32_t far = at > other ? at : other, n = below((uint32_t)size - far);
            memmove(data + at, data + other, n);
        }
        }
    }
    return size;
}

int main(int argc, char **argv) {
    const long rounds = argc > 1 ? atol(argv[1]) : 40000;
    for (long i = 0; i < rounds; i++) {
        uint8_t data[MAX_BYTES];
        uint32_t kind = below(6); /* shard, shard with its checksum made right, json, lines */
        data[0] = (uint8_t)(kind > 3 ? 3 : kind);
        size_t size =
            kind < 2 ? good_shard(data + 1, below(2)) : good_text(data + 1, (int)kind - 2);
        /* An exact copy, so that the sanitizers see a read past its end. */
        size = mutate(data, size + 1);
        uint8_t *input = malloc(size);
        CHECK(input != NULL);
        if (input) {
            memcpy(input, data, size);
            CHECK_INT(LLVMFuzzerTestOneInput(input, size), 0);
        }
        free(input);
    }
    return test_end();
}
