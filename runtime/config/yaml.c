/* YAML of two levels, section: {key: value}, event by event with libyaml; anything that YAML can
 * say beyond that is refused with its line. */
#include "runtime/config/internal.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; empty when there is none */
    const char *name, *text;
    size_t bytes;
    char origin[600]; /* "file.yaml:12" of the current event */
    ls_yaml_values *values;
} reader;

static const char *set_origin(reader *r, size_t line) {
    snprintf(r->origin, sizeof r->origin, "%.500s:%zu", r->name, line);
    return r->origin;
}

static ls_status fail_syntax(reader *r) {
    const yaml_parser_t *p = &r->parser;
    size_t line = p->problem_mark.line + 1;
    if (p->error == YAML_READER_ERROR) { /* bytes that are no text: there is an offset only */
        line = 1;
        for (size_t i = 0; i < p->problem_offset && i < r->bytes; i++) {
            line += r->text[i] == '\n';
        }
    }
    return LS_FAIL(p->error == YAML_MEMORY_ERROR ? LS_E_MEMORY : LS_E_CONFIG,
                   "%s: not valid YAML: %s%s%s", set_origin(r, line), p->context ? p->context : "",
                   p->context ? ", " : "", p->problem ? p->problem : "unreadable");
}

static ls_status next(reader *r) {
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        return fail_syntax(r);
    }
    const yaml_event_t *e = &r->event;
    const char *origin = set_origin(r, e->start_mark.line + 1);
    bool scalar = e->type == YAML_SCALAR_EVENT, mapping = e->type == YAML_MAPPING_START_EVENT;
    if (e->type == YAML_ALIAS_EVENT || (scalar && e->data.scalar.anchor) ||
        (mapping && e->data.mapping_start.anchor)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: anchors and aliases (&name, *name) are not used here; "
                       "write the value itself",
                       origin);
    }
    if ((scalar && e->data.scalar.tag) || (mapping && e->data.mapping_start.tag)) {
        return LS_FAIL(LS_E_CONFIG, "%s: tags (!name) are not used here; write the value alone",
                       origin);
    }
    if (scalar && strlen((const char *)e->data.scalar.value) != e->data.scalar.length) {
        return LS_FAIL(LS_E_CONFIG, "%s: a NUL character is not expected", origin);
    }
    return LS_OK;
}

static const char *scalar_text(const reader *r) {
    return (const char *)r->event.data.scalar.value;
}

/* Nothing, ~ or null: a key without a value. */
static bool is_null(const reader *r) {
    const char *text = scalar_text(r);
    return r->event.type == YAML_SCALAR_EVENT &&
           r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!text[0] || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static ls_status read_value(reader *r, const ls_field *field) {
    size_t count;
    size_t row = (size_t)(field - ls_config_fields(&count));
    int line = (int)r->event.start_mark.line + 1;
    if (r->values->value[row]) {
        return LS_FAIL(LS_E_CONFIG, "%s: '%s.%s' was given before, on line %d; keep one of them",
                       r->origin, field->section, field->key, r->values->line[row]);
    }
    LS_TRY(next(r));
    if (r->event.type != YAML_SCALAR_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s.%s is a %s; one value is expected", r->origin,
                       field->section, field->key,
                       r->event.type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping");
    }
    char *value = strdup(is_null(r) ? "" : scalar_text(r));
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
        LS_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            return LS_OK;
        }
        if (r->event.type != YAML_SCALAR_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: a key of section '%s' is expected", r->origin,
                           section);
        }
        const ls_field *field;
        LS_TRY(ls_field_find(r->origin, section, scalar_text(r), &field));
        LS_TRY(read_value(r, field));
    }
}

/* {section: {...}, ...} after its start. */
static ls_status read_root(reader *r) {
    int line_of_row[LS_CONFIG_MAX_FIELDS] = {0}; /* by the section's first row */
    for (;;) {
        LS_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            return LS_OK;
        }
        if (r->event.type != YAML_SCALAR_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: a section's name is expected", r->origin);
        }
        const ls_field *first;
        LS_TRY(ls_field_find(r->origin, scalar_text(r), NULL, &first));
        size_t count;
        int *line = &line_of_row[first - ls_config_fields(&count)];
        if (*line) {
            return LS_FAIL(LS_E_CONFIG, "%s: section '%s' was given before, on line %d; join them",
                           r->origin, first->section, *line);
        }
        *line = (int)r->event.start_mark.line + 1;
        LS_TRY(next(r));
        if (r->event.type == YAML_MAPPING_START_EVENT) {
            LS_TRY(read_section(r, first->section));
        } else if (!is_null(r)) {
            return LS_FAIL(LS_E_CONFIG, "%s: section '%s' must hold lines of the form 'key: value'",
                           r->origin, first->section);
        }
    }
}

static ls_status read_stream(reader *r) {
    LS_TRY(next(r)); /* start of the stream */
    LS_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT) {
        return LS_OK; /* an empty file: all defaults */
    }
    LS_TRY(next(r));
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        LS_TRY(read_root(r));
    } else if (!is_null(r)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: sections are expected, such as 'model:' with indented 'key: value' "
                       "lines below it",
                       r->origin);
    }
    LS_TRY(next(r)); /* end of the document */
    LS_TRY(next(r));
    if (r->event.type != YAML_STREAM_END_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: a second document ('---') begins; one is expected",
                       r->origin);
    }
    return LS_OK;
}

ls_status ls_yaml_read(const char *name, const char *text, size_t bytes, ls_yaml_values *values) {
    reader r = {.name = name, .text = text, .bytes = bytes, .values = values};
    if (!yaml_parser_initialize(&r.parser)) {
        return LS_FAIL(LS_E_MEMORY, "no memory to read '%s'", name);
    }
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, bytes);
    ls_status status = read_stream(&r);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    return status;
}

void ls_yaml_release(ls_yaml_values *values) {
    for (int i = 0; i < LS_CONFIG_MAX_FIELDS; i++) {
        free(values->value[i]);
        values->value[i] = NULL;
    }
}
