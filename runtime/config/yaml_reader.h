/* YAML event by event with libyaml, as every file of ours is read: block or flow mappings, lists
 * and scalars. Anchors, aliases, tags and NUL characters are refused with their line. */
#ifndef LS_CONFIG_YAML_READER_H
#define LS_CONFIG_YAML_READER_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <yaml.h>

typedef struct ls_yaml_reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one; empty when there is none */
    const char *name, *text;
    size_t bytes;
    char origin[600]; /* "file.yaml:12" of the current event */
} ls_yaml_reader;

/* `name` stands for the file in messages; name and text [bytes] are borrowed. Release it also after
 * a failure. */
ls_status ls_yaml_reader_init(ls_yaml_reader *r, const char *name, const char *text, size_t bytes);
void ls_yaml_reader_release(ls_yaml_reader *r);

/* The next event into r->event and its place into r->origin. LS_E_CONFIG names file and line. */
ls_status ls_yaml_next(ls_yaml_reader *r);

/* Of a scalar event. */
const char *ls_yaml_scalar(const ls_yaml_reader *r);
/* Nothing, ~ or null: a key without a value. */
bool ls_yaml_is_null(const ls_yaml_reader *r);
int ls_yaml_line(const ls_yaml_reader *r);

/* Steps to the root mapping's start; *empty for a file without content. LS_E_CONFIG, which tells
 * that `expected` was, for any other root. */
ls_status ls_yaml_enter_root(ls_yaml_reader *r, const char *expected, bool *empty);
/* After the root: nothing else may follow. */
ls_status ls_yaml_leave_root(ls_yaml_reader *r);

#endif
