/* libFuzzer entry for configurations: YAML, then, each after a NUL, overrides. Any bytes end in a
 * configuration whose text reads back to the same one, or in an error that says where. */
#include "runtime/config/config.h"

#include <stdlib.h>
#include <string.h>

enum { OVERRIDES = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise ends the process, which the driver reports. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static void require_same(const ls_config *config) {
    static ls_config again;
    char *text, *second;
    require(ls_config_text(config, true, &text) == LS_OK);
    require(ls_config_load_text(&again, "text", text, strlen(text), NULL, 0) == LS_OK);
    require(ls_config_text(&again, true, &second) == LS_OK);
    require(strcmp(text, second) == 0);
    free(text);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *overrides[OVERRIDES];
    int count = 0;
    char *text = malloc(size + 1);
    require(text != NULL);
    memcpy(text, data, size);
    text[size] = '\0';
    const size_t yaml_bytes = strlen(text);
    for (size_t at = yaml_bytes + 1; at < size && count < OVERRIDES; at += strlen(text + at) + 1) {
        overrides[count++] = text + at;
    }
    static ls_config config;
    const ls_status status =
        ls_config_load_text(&config, "fuzz", text, yaml_bytes, overrides, count);
    if (status == LS_OK) {
        require_same(&config);
    } else {
        require(status == LS_E_CONFIG && ls_error_last()->message[0]);
    }
    free(text);
    return 0;
}
