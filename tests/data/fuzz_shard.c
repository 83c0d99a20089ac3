/* Everything of this room that reads bytes from outside: shard headers and payloads, data.json,
 * lines of JSONL. The first byte of the input chooses. libFuzzer drives it, and test_data_fuzz.c
 * with seeded mutations. */
#include "runtime/base/hash.h"
#include "runtime/data/data_manifest.h"
#include "runtime/data/jsonl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise ends the process, which both drivers report. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

/* fix: the header's checksum is made right first, so that the fields behind it are reached. */
static void shard(const uint8_t *data, size_t size, int fix) {
    uint8_t *file = malloc(size + 1); /* aligned, as a mapping is */
    require(file != NULL);
    memcpy(file, data, size);
    if (fix && size >= LS_SHARD_HEADER_BYTES) {
        uint64_t checksum = ls_xxh64(file, 248, 0);
        memcpy(file + 248, &checksum, 8);
    }
    ls_shard_header header;
    ls_status status = ls_shard_header_decode(file, size, (int64_t)size, "fuzz", &header);
    if (status == LS_OK) {
        require(header.token_bytes == 2 || header.token_bytes == 4);
        require(LS_SHARD_HEADER_BYTES + header.tokens * header.token_bytes == (int64_t)size);
        require(header.separator < header.vocab && header.vocab <= INT32_MAX);
        require(header.targets >= 0 && header.targets <= header.tokens);
        require(header.documents >= 0 && header.bytes >= 0 && header.index < header.count);
        require(memchr(header.tokenizer, '\0', sizeof header.tokenizer) != NULL);
        status = ls_shard_payload_check(&header, file + LS_SHARD_HEADER_BYTES, false, "fuzz");
    }
    require(status == LS_OK || ls_error_last()->message[0]);
    free(file);
}

static void manifest(const uint8_t *data, size_t size) {
    ls_data_manifest found;
    ls_status status = ls_data_manifest_parse((const char *)data, size, "fuzz", &found);
    for (int split = 0; status == LS_OK && split < 2; split++) {
        require(found.splits[split].count == 0 || found.splits[split].shards);
    }
    ls_data_manifest_release(&found);
}

static void jsonl(const uint8_t *data, size_t size) {
    char *line = malloc(size ? size : 1); /* exact, so that reading past its end is found */
    require(line != NULL);
    memcpy(line, data, size);
    ls_jsonl scanned, parsed = {0};
    ls_jsonl_form form = {.field = "text", .vocab = 70000, .separator = 3, .token_bytes = 4};
    if (ls_jsonl_scan(line, size, "text", &scanned)) { /* then the library says the same of it */
        require(ls_jsonl_parse((const char *)data, size, &form, &parsed) == LS_OK);
        require(parsed.bytes == scanned.bytes);
        require(memcmp(parsed.text, scanned.text, parsed.bytes) == 0);
    } else {
        require(size == 0 || memcmp(line, data, size) == 0);
        (void)ls_jsonl_parse(line, size, &form, &parsed);
    }
    json_decref(parsed.document);
    if (ls_jsonl_parse_tokens((const char *)data, size, &form, &parsed) == LS_OK) {
        require(parsed.bytes % 4 == 0 && (parsed.bytes == 0 || parsed.text));
        free(parsed.tokens);
    }
    form.mask = "m";
    if (ls_jsonl_parse_tokens((const char *)data, size, &form, &parsed) == LS_OK) {
        free(parsed.tokens);
    }
    form.prompt = "q";
    if (ls_jsonl_parse((const char *)data, size, &form, &parsed) == LS_OK) {
        require(parsed.prompt || !parsed.text);
        json_decref(parsed.document);
    }
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    switch (data[0] % 4) {
    case 0:
    case 1:
        shard(data + 1, size - 1, data[0] % 4);
        break;
    case 2:
        manifest(data + 1, size - 1);
        break;
    default:
        jsonl(data + 1, size - 1);
    }
    return 0;
}
