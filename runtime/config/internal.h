/* Shared by the files of this folder only. */
#ifndef LS_CONFIG_INTERNAL_H
#define LS_CONFIG_INTERNAL_H

#include "runtime/config/config.h"

enum { LS_CONFIG_MAX_FIELDS = 128 };

/* What a YAML file says: a heap string for each row of the table, or NULL; and on which line. */
typedef struct ls_yaml_values {
    char *value[LS_CONFIG_MAX_FIELDS];
    int line[LS_CONFIG_MAX_FIELDS];
} ls_yaml_values;

/* Reads section: {key: value} YAML. `name` stands for the file in messages. */
ls_status ls_yaml_read(const char *name, const char *text, size_t bytes, ls_yaml_values *values);
/* Safe on a zeroed struct and after a failure. */
void ls_yaml_release(ls_yaml_values *values);

/* The row of (section, key); key may be NULL to ask for the section alone (its first row then).
 * LS_E_CONFIG names the nearest key. `origin` goes before the message. */
ls_status ls_field_find(const char *origin, const char *section, const char *key,
                        const ls_field **field);

/* Reads text into the field's place in config. LS_E_CONFIG tells what was found and what is
 * allowed, after `origin`. */
ls_status ls_field_set(const ls_field *field, ls_config *config, const char *origin,
                       const char *text);
/* The field's value as YAML that reads back to the same; caller frees, NULL: out of memory. */
char *ls_field_get(const ls_field *field, const ls_config *config);

/* Puts a preset's sizes in *model. LS_E_CONFIG names the nearest preset. */
ls_status ls_preset_apply(const char *origin, const char *preset, ls_config_model *model);

/* Fills in what follows from other values, and checks what a single row cannot. */
ls_status ls_config_check(ls_config *config);

/* Also of a head size that is derived from channels and heads. */
#define LS_CONFIG_MAX_HEAD_DIM 65536

#endif
