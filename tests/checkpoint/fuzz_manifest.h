/* Text that a fuzzer made, as a manifest with its right hash. */
#ifndef LS_TESTS_FUZZ_MANIFEST_H
#define LS_TESTS_FUZZ_MANIFEST_H

#include "checkpoint/format.h"

#include <stdlib.h>
#include <string.h>

/* NULL when it is none. Close it. */
static inline ls_ckpt *fuzz_manifest_parse(const uint8_t *data, size_t size) {
    static const char before[] = "\n\"sha256\": \"", after[] = "\"\n}\n";
    ls_ckpt *ckpt = NULL;
    ls_sha256 hash;
    char *text = malloc(size + sizeof before + 64 + sizeof after);
    if (!text) {
        return NULL;
    }
    memcpy(text, data, size);
    memcpy(text + size, before, sizeof before - 1);
    size += sizeof before - 1;
    if (ls_sha256_of(text, size, &hash) == LS_OK) {
        ls_sha256_hex(&hash, text + size);
        memcpy(text + size + 64, after, sizeof after);
        ls_ckpt_manifest_parse(text, size + 64 + sizeof after - 1, "fuzz", &ckpt);
    }
    free(text);
    return ckpt;
}

#endif
