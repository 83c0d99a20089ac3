/* libFuzzer entry for what a Hugging Face model brings, the header of a safetensors file and
 * config.json: any bytes end in a table or in an error. The first 8 bytes are made the right
 * length, so that the fuzzer gets past them; the file is said to be as long as the last tensor
 * needs in half of the runs. */
#include "checkpoint/convert.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void config_parse(const uint8_t *data, size_t size) {
    ls_config_model model = {0};
    json_t *config = json_loadb((const char *)data, size, 0, NULL);
    if (json_is_object(config) && ls_hf_config_parse(config, "fuzz", &model) == LS_OK &&
        !(model.layers > 0 && model.channels > 0 && model.heads > 0 && model.vocab > 0 &&
          model.ffn > 0 && model.context > 0)) {
        abort(); /* it has passed over what it must have */
    }
    json_decref(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    config_parse(data, size);
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
