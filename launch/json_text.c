#include "launch/json_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the character that begins here; 0: none does. The library tells what it takes. */
static size_t character_bytes(const char *text) {
    for (size_t n = 1; n <= 4 && text[n - 1]; n++) {
        json_t *one = json_stringn(text, n);
        json_decref(one);
        if (one) {
            return n;
        }
    }
    return 0;
}

json_t *ls_json_text(const char *text) {
    json_t *json = json_string(text);
    if (json) {
        return json;
    }
    char *escaped = malloc(4 * strlen(text) + 1), *end = escaped;
    while (escaped && *text) {
        const size_t n = character_bytes(text);
        if (n == 0) {
            end += sprintf(end, "\\x%02x", (unsigned char)*text);
        } else {
            memcpy(end, text, n);
            end += n;
        }
        text += n > 0 ? n : 1;
    }
    json = escaped ? json_stringn(escaped, (size_t)(end - escaped)) : NULL;
    free(escaped);
    return json;
}

ls_status ls_json_print(json_t *json, int digits) {
    const size_t flags = JSON_INDENT(2) | JSON_REAL_PRECISION((size_t)digits);
    char *text = json ? json_dumps(json, flags) : NULL;
    json_decref(json);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the result");
    }
    puts(text);
    free(text);
    return LS_OK;
}
