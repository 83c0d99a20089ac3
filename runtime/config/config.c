/* The order of resolution: defaults, preset, file, overrides, checks. */
#include "runtime/config/config.h"

#include "runtime/base/file.h"
#include "runtime/config/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_FILE_BYTES = 1 << 20 };

/* "section.key=value": its row, and where the value begins. */
static ls_status split_override(const char *text, char *origin, size_t origin_size,
                                const ls_field **field, const char **value) {
    char name[64];
    snprintf(origin, origin_size, "override '%.120s'", text);
    const char *equals = strchr(text, '=');
    const char *dot = equals ? memchr(text, '.', (size_t)(equals - text)) : NULL;
    if (!dot) {
        char meant[64] = "optim.lr";
        const bool known = ls_config_meant(text, strcspn(text, "="), meant);
        return LS_FAIL(LS_E_CONFIG, "%s: section.key=value is expected, %s%s=...%s", origin,
                       known ? "perhaps " : "such as ", meant,
                       equals ? "" : " (a value with spaces needs quotes)");
    }
    snprintf(name, sizeof name, "%.*s", (int)(equals - text), text);
    char *key = strchr(name, '.');
    if (key) {
        *key++ = '\0';
    }
    *value = equals + 1;
    return ls_field_find(origin, name, key ? key : "", field);
}

static bool is_preset(const ls_field *field) {
    return field->offset == offsetof(ls_config, model.preset);
}

/* Defaults, then the preset that the last one to speak of it names. */
static ls_status apply_preset(ls_config *config, const char *name, const ls_yaml_values *file,
                              const char *const *overrides, int override_count) {
    size_t count;
    const ls_field *fields = ls_config_fields(&count), *field;
    const char *preset = "", *value;
    char origin[600] = "";
    for (size_t i = 0; i < count; i++) {
        LS_TRY(ls_field_set(&fields[i], config, "default", fields[i].default_text));
        if (is_preset(&fields[i]) && file->value[i]) {
            preset = file->value[i];
            snprintf(origin, sizeof origin, "%.500s:%d", name, file->line[i]);
        }
    }
    for (int i = 0; i < override_count; i++) {
        char override_origin[160];
        LS_TRY(
            split_override(overrides[i], override_origin, sizeof override_origin, &field, &value));
        if (is_preset(field)) {
            preset = value;
            memcpy(origin, override_origin, sizeof override_origin);
        }
    }
    return preset[0] ? ls_preset_apply(origin, preset, &config->model) : LS_OK;
}

static bool is_given(const char *key, const char *const *overrides, int override_count) {
    const size_t length = strlen(key);
    for (int i = 0; i < override_count; i++) {
        if (strncmp(overrides[i], key, length) == 0 && overrides[i][length] == '=') {
            return true;
        }
    }
    return false;
}

/* Two settings that say the same: where overrides give one of them alone, the other goes. */
static void settle(int64_t *a, const char *a_key, int64_t *b, const char *b_key,
                   const char *const *overrides, int override_count) {
    const bool a_given = is_given(a_key, overrides, override_count),
               b_given = is_given(b_key, overrides, override_count);
    if (a_given && !b_given && *a > 0) {
        *b = 0;
    } else if (b_given && !a_given && *b > 0) {
        *a = 0;
    }
}

static ls_status resolve(ls_config *config, const char *name, const ls_yaml_values *file,
                         const char *const *overrides, int override_count) {
    size_t count;
    const ls_field *fields = ls_config_fields(&count), *field;
    const char *value;
    char origin[600];
    memset(config, 0, sizeof *config); /* padding too: equal configurations are equal bytes */
    LS_TRY(apply_preset(config, name, file, overrides, override_count));
    for (size_t i = 0; i < count; i++) {
        if (file->value[i]) {
            snprintf(origin, sizeof origin, "%.500s:%d", name, file->line[i]);
            LS_TRY(ls_field_set(&fields[i], config, origin, file->value[i]));
        }
    }
    for (int i = 0; i < override_count; i++) {
        LS_TRY(split_override(overrides[i], origin, sizeof origin, &field, &value));
        LS_TRY(ls_field_set(field, config, origin, value));
    }
    settle(&config->batch.sequences, "batch.sequences", &config->batch.tokens, "batch.tokens",
           overrides, override_count);
    settle(&config->run.steps, "run.steps", &config->run.tokens, "run.tokens", overrides,
           override_count);
    ls_status status = ls_config_check(config);
    return status == LS_OK ? LS_OK : ls_error_prefix(status, "%s", name);
}

ls_status ls_config_load_text(ls_config *config, const char *name, const char *text, size_t bytes,
                              const char *const *overrides, int override_count) {
    ls_yaml_values file = {.line = {0}};
    ls_status status = ls_yaml_read(name, text, bytes, &file);
    if (status == LS_OK) {
        status = resolve(config, name, &file, overrides, override_count);
    }
    ls_yaml_release(&file);
    return status;
}

ls_status ls_config_load(ls_config *config, const char *path, const char *const *overrides,
                         int override_count) {
    if (!path) {
        return ls_config_load_text(config, "configuration", "", 0, overrides, override_count);
    }
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, MAX_FILE_BYTES, &text, &bytes));
    ls_status status = ls_config_load_text(config, path, text, bytes, overrides, override_count);
    free(text);
    return status;
}
