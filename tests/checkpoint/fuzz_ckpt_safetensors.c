/* libFuzzer entry for the header of a safetensors file: any bytes end in a table or in an error.
 * The first 8 bytes are made the right length, so that the fuzzer gets past them; the file is said
 * to be as long as the last tensor needs in half of the runs. */
#include "checkpoint/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    uint8_t *file = malloc(size + 8);
    if (!file) {
        return 0;
    }
    for (int i = 0; i < 8; i++) {
        file[i] = (uint8_t)((uint64_t)size >> (8 * i));
    }
    memcpy(file + 8, data, size);
    int64_t data_bytes = data[size - 1] % 2 ? 0 : 4 * (int64_t)size;
    ls_safetensors *st;
    ls_safetensors_parse(file, size + 8, 8 + (int64_t)size + data_bytes, "fuzz", &st);
    ls_safetensors_close(st);
    free(file);
    return 0;
}
