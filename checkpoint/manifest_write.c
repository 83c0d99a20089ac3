#include "checkpoint/format.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* Adds the pieces of `tensor` to the entry of the same name, which must have the same type. */
static ls_status tensor_merge(json_t *known, const json_t *tensor) {
    const char *name = json_string_value(json_object_get(tensor, "name"));
    if (!json_equal(json_object_get(known, "dtype"), json_object_get(tensor, "dtype")) ||
        !json_equal(json_object_get(known, "shape"), json_object_get(tensor, "shape"))) {
        return LS_FAIL(LS_E_SHAPE, "ranks disagree about the type or shape of tensor '%s'", name);
    }
    return json_array_extend(json_object_get(known, "pieces"), json_object_get(tensor, "pieces")) ==
                   0
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
}

ls_status ls_ckpt_file_row(const char *path, const char *name, json_t *files) {
    ls_sha256 hash;
    uint64_t bytes = 0;
    char hex[65];
    LS_TRY(ls_sha256_file(path, &hash, &bytes));
    ls_sha256_hex(&hash, hex);
    return json_array_append_new(files, json_pack("{s:s,s:I,s:s}", "name", name, "bytes",
                                                  (json_int_t)bytes, "sha256", hex)) == 0
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
}

ls_status ls_ckpt_manifest_merge(json_t *root, json_t *index, const json_t *record) {
    json_t *tensors = json_object_get(root, "tensors"), *tensor;
    json_t *files = json_object_get(record, "files");
    bool failed = files && json_array_extend(json_object_get(root, "files"), files) != 0;
    json_t *parity = json_object_get(record, "parity"), *known = json_object_get(root, "parity");
    if (parity && known) {
        failed = failed || json_array_extend(known, parity) != 0;
    } else if (parity) {
        failed = failed || json_object_set(root, "parity", parity) != 0;
    }
    size_t i;
    json_array_foreach(json_object_get(record, "tensors"), i, tensor) {
        const char *name = json_string_value(json_object_get(tensor, "name"));
        json_t *position = json_object_get(index, name);
        if (position) {
            LS_TRY(tensor_merge(json_array_get(tensors, (size_t)json_integer_value(position)),
                                tensor));
            continue;
        }
        failed = failed ||
                 json_object_set_new(index, name,
                                     json_integer((json_int_t)json_array_size(tensors))) != 0 ||
                 json_array_append(tensors, tensor) != 0;
    }
    return failed ? LS_FAIL(LS_E_MEMORY, "no memory for the manifest") : LS_OK;
}

/* Members one a line, and the elements of arrays too: greppable, and diffs are small. */
static bool text_write(FILE *out, const json_t *root) {
    const char *key;
    json_t *value;
    const size_t flags = JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(17);
    bool good = fprintf(out, "{\n") > 0;
    json_object_foreach((json_t *)root, key, value) {
        good = good && fprintf(out, "\"%s\": ", key) > 0;
        if (!json_is_array(value)) {
            good = good && json_dumpf(value, out, flags) == 0;
        } else {
            size_t i;
            json_t *element;
            json_array_foreach(value, i, element) {
                good = good && fputs(i ? ",\n" : "[\n", out) >= 0 &&
                       json_dumpf(element, out, flags) == 0;
            }
            good = good && fputs(json_array_size(value) ? "\n]" : "[]", out) >= 0;
        }
        good = good && fputs(",\n", out) >= 0;
    }
    return good && fputs("\"sha256\": \"", out) >= 0;
}

ls_status ls_ckpt_manifest_text(const json_t *root, size_t most, char **text, size_t *bytes) {
    *text = NULL;
    FILE *out = open_memstream(text, bytes);
    bool good = out && text_write(out, root) && fflush(out) == 0;
    ls_sha256 hash;
    char hex[65];
    ls_status status = LS_OK;
    if (good) {
        status = ls_sha256_of(*text, *bytes, &hash);
        ls_sha256_hex(&hash, hex);
        good = fprintf(out, "%s\"\n}\n", hex) > 0;
    }
    good = out && fclose(out) == 0 && good;
    if (status == LS_OK && !good) {
        status = LS_FAIL(LS_E_MEMORY, "no memory for the text of the manifest");
    }
    if (status == LS_OK && *bytes > most) {
        status = LS_FAIL(LS_E_UNSUPPORTED,
                         "the manifest has %zu bytes, at most %zu can be read: let fewer "
                         "ranks divide the tensors (parallel.shard, parallel.tensor)",
                         *bytes, most);
    }
    if (status != LS_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}
