/* libFuzzer entry for the manifest (without the lines of its hash, which is made right, so that the
 * fuzzer gets past it): any text ends in tables or in an error. */
#include "tests/checkpoint/fuzz_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ls_ckpt *ckpt = fuzz_manifest_parse(data, size);
    if (ckpt && ls_ckpt_describe(ckpt).raw_bytes < ckpt->entry_count) {
        abort(); /* each tensor has a byte or more */
    }
    ls_ckpt_close(ckpt);
    return 0;
}
