#include "runtime/config/yaml_reader.h"

#include <stdio.h>
#include <string.h>

static const char *set_origin(ls_yaml_reader *r, size_t line) {
    snprintf(r->origin, sizeof r->origin, "%.500s:%zu", r->name, line);
    return r->origin;
}

static bool is_indented_by_tab(const ls_yaml_reader *r, size_t line) {
    size_t at = 0;
    for (; at < r->bytes && line > 1; at++) {
        line -= r->text[at] == '\n';
    }
    while (at < r->bytes && r->text[at] == ' ') {
        at++;
    }
    return at < r->bytes && r->text[at] == '\t';
}

static ls_status fail_syntax(ls_yaml_reader *r) {
    const yaml_parser_t *p = &r->parser;
    size_t line = p->problem_mark.line + 1;
    if (p->error == YAML_READER_ERROR) { /* bytes that are no text: there is an offset only */
        line = 1;
        for (size_t i = 0; i < p->problem_offset && i < r->bytes; i++) {
            line += r->text[i] == '\n';
        }
    }
    return LS_FAIL(p->error == YAML_MEMORY_ERROR ? LS_E_MEMORY : LS_E_CONFIG,
                   "%s: not valid YAML: %s%s%s%s", set_origin(r, line),
                   p->context ? p->context : "", p->context ? ", " : "",
                   p->problem ? p->problem : "unreadable",
                   is_indented_by_tab(r, line) ? "; indent lines by spaces, not by tabs" : "");
}

ls_status ls_yaml_next(ls_yaml_reader *r) {
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

const char *ls_yaml_scalar(const ls_yaml_reader *r) {
    return (const char *)r->event.data.scalar.value;
}

bool ls_yaml_is_null(const ls_yaml_reader *r) {
    const char *text = ls_yaml_scalar(r);
    return r->event.type == YAML_SCALAR_EVENT &&
           r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!text[0] || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

int ls_yaml_line(const ls_yaml_reader *r) {
    return (int)r->event.start_mark.line + 1;
}

ls_status ls_yaml_reader_init(ls_yaml_reader *r, const char *name, const char *text, size_t bytes) {
    *r = (ls_yaml_reader){.name = name, .text = text, .bytes = bytes};
    if (!yaml_parser_initialize(&r->parser)) {
        return LS_FAIL(LS_E_MEMORY, "no memory to read '%s'", name);
    }
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, bytes);
    return LS_OK;
}

void ls_yaml_reader_release(ls_yaml_reader *r) {
    yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
}

ls_status ls_yaml_enter_root(ls_yaml_reader *r, const char *expected, bool *empty) {
    LS_TRY(ls_yaml_next(r)); /* start of the stream */
    LS_TRY(ls_yaml_next(r));
    *empty = r->event.type == YAML_STREAM_END_EVENT;
    if (*empty) {
        return LS_OK;
    }
    LS_TRY(ls_yaml_next(r));
    *empty = ls_yaml_is_null(r);
    if (!*empty && r->event.type != YAML_MAPPING_START_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s", r->origin, expected);
    }
    return LS_OK;
}

ls_status ls_yaml_leave_root(ls_yaml_reader *r) {
    if (r->event.type == YAML_STREAM_END_EVENT) {
        return LS_OK;
    }
    LS_TRY(ls_yaml_next(r)); /* end of the document */
    LS_TRY(ls_yaml_next(r));
    if (r->event.type != YAML_STREAM_END_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: a second document ('---') begins; one is expected",
                       r->origin);
    }
    return LS_OK;
}
