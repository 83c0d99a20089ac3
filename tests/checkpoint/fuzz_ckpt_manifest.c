/* libFuzzer entry for the manifest: any text ends in tables or in an error. The hash at its end is
 * made right first, so that the fuzzer gets past it. Seeds: any manifest.json. */
#include "checkpoint/format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char before[] = "\n\"sha256\": \"", after[] = "\"\n}\n";
    char *text = malloc(size + sizeof before + 64 + sizeof after);
    if (!text) {
        return 0;
    }
    memcpy(text, data, size);
    memcpy(text + size, before, sizeof before - 1);
    size += sizeof before - 1;
    ls_sha256 hash;
    if (ls_sha256_of(text, size, &hash) == LS_OK) {
        ls_sha256_hex(&hash, text + size);
        memcpy(text + size + 64, after, sizeof after);
        ls_ckpt *ckpt;
        ls_ckpt_manifest_parse(text, size + 64 + sizeof after - 1, "fuzz", &ckpt);
        ls_ckpt_close(ckpt);
    }
    free(text);
    return 0;
}
