/* libFuzzer entry for the manifest (without the lines of its hash, which is made right, so that the
 * fuzzer gets past it): any text ends in tables or in an error. */
#include "tests/checkpoint/fuzz_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ls_ckpt_close(fuzz_manifest_parse(data, size));
    return 0;
}
