/* YAML of two levels, section: {key: value}; anything that YAML can say beyond that is refused with
 * its line. */
#include "runtime/config/internal.h"
#include "runtime/config/yaml_reader.h"

#include <stdlib.h>
#include <string.h>

typedef struct reader {
    ls_yaml_reader yaml;
    ls_yaml_values *values;
} reader;

static ls_status read_value(reader *r, const ls_field *field) {
    size_t count;
    size_t row = (size_t)(field - ls_config_fields(&count));
    int line = ls_yaml_line(&r->yaml);
    if (r->values->value[row]) {
        return LS_FAIL(LS_E_CONFIG, "%s: '%s.%s' was given before, on line %d; keep one of them",
                       r->yaml.origin, field->section, field->key, r->values->line[row]);
    }
    LS_TRY(ls_yaml_next(&r->yaml));
    if (r->yaml.event.type != YAML_SCALAR_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s.%s is a %s; one value is expected", r->yaml.origin,
                       field->section, field->key,
                       r->yaml.event.type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping");
    }
    char *value = strdup(ls_yaml_is_null(&r->yaml) ? "" : ls_yaml_scalar(&r->yaml));
    if (!value) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the value of %s.%s", field->section, field->key);
    }
    r->values->value[row] = value;
    r->values->line[row] = line;
    return LS_OK;
}

/* {key: value, ...} after its start. */
static ls_status read_section(reader *r, const char *section) {
    for (;;) {
        LS_TRY(ls_yaml_next(&r->yaml));
        if (r->yaml.event.type == YAML_MAPPING_END_EVENT) {
            return LS_OK;
        }
        if (r->yaml.event.type != YAML_SCALAR_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: a key of section '%s' is expected", r->yaml.origin,
                           section);
        }
        const ls_field *field;
        LS_TRY(ls_field_find(r->yaml.origin, section, ls_yaml_scalar(&r->yaml), &field));
        LS_TRY(read_value(r, field));
    }
}

/* {section: {...}, ...} after its start. */
static ls_status read_root(reader *r) {
    int line_of_row[LS_CONFIG_MAX_FIELDS] = {0}; /* by the section's first row */
    for (;;) {
        LS_TRY(ls_yaml_next(&r->yaml));
        if (r->yaml.event.type == YAML_MAPPING_END_EVENT) {
            return LS_OK;
        }
        if (r->yaml.event.type != YAML_SCALAR_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: a section's name is expected", r->yaml.origin);
        }
        const ls_field *first;
        LS_TRY(ls_field_find(r->yaml.origin, ls_yaml_scalar(&r->yaml), NULL, &first));
        size_t count;
        int *line = &line_of_row[first - ls_config_fields(&count)];
        if (*line) {
            return LS_FAIL(LS_E_CONFIG, "%s: section '%s' was given before, on line %d; join them",
                           r->yaml.origin, first->section, *line);
        }
        *line = ls_yaml_line(&r->yaml);
        LS_TRY(ls_yaml_next(&r->yaml));
        if (r->yaml.event.type == YAML_MAPPING_START_EVENT) {
            LS_TRY(read_section(r, first->section));
        } else if (!ls_yaml_is_null(&r->yaml)) {
            return LS_FAIL(LS_E_CONFIG, "%s: section '%s' must hold lines of the form 'key: value'",
                           r->yaml.origin, first->section);
        }
    }
}

static ls_status read_stream(reader *r) {
    bool empty;
    LS_TRY(ls_yaml_enter_root(&r->yaml,
                              "sections are expected, such as 'model:' with indented 'key: value' "
                              "lines below it",
                              &empty));
    if (!empty) {
        LS_TRY(read_root(r));
    }
    return ls_yaml_leave_root(&r->yaml); /* an empty file: all defaults */
}

ls_status ls_yaml_read(const char *name, const char *text, size_t bytes, ls_yaml_values *values) {
    reader r = {.values = values};
    LS_TRY(ls_yaml_reader_init(&r.yaml, name, text, bytes));
    ls_status status = read_stream(&r);
    ls_yaml_reader_release(&r.yaml);
    return status;
}

void ls_yaml_release(ls_yaml_values *values) {
    for (int i = 0; i < LS_CONFIG_MAX_FIELDS; i++) {
        free(values->value[i]);
        values->value[i] = NULL;
    }
}
