/* The resolved configuration as text: YAML, its hash, differences, help. */
#include "runtime/base/text.h"

#include "runtime/config/internal.h"

#include <stdlib.h>
#include <string.h>

enum { HELP_COLUMN = 56, DETAIL_COLUMN = 58, HELP_WIDTH = 120 };

static ls_status fail_memory(void) {
    return LS_FAIL(LS_E_MEMORY, "no memory for the text of the configuration");
}

/* "help (unit; allowed)" of the first line of a field's help; what follows is for --help alone. */
static char *short_help(const ls_field *field) {
    char allowed[256];
    ls_field_allowed(field, allowed, sizeof allowed);
    bool has_unit = field->unit[0] != '\0';
    bool has_allowed = allowed[0] && field->type != LS_FIELD_BOOL && strcmp(allowed, "at least 0");
    const bool has_either = has_unit || has_allowed;
    return ls_text_format("%.*s%s%s%s%s%s", (int)strcspn(field->help, "\n"), field->help,
                          has_either ? " (" : "", field->unit, has_unit && has_allowed ? "; " : "",
                          has_allowed ? allowed : "", has_either ? ")" : "");
}

static ls_status print_yaml(FILE *out, const ls_config *config, bool comments) {
    size_t count;
    const ls_field *fields = ls_config_fields(&count);
    for (size_t i = 0; i < count; i++) {
        const ls_field *field = &fields[i];
        if (i == 0 || strcmp(field->section, fields[i - 1].section) != 0) {
            fprintf(out, "%s%s:\n", i > 0 && comments ? "\n" : "", field->section);
        }
        char *value = ls_field_get(field, config);
        if (!value) {
            return fail_memory();
        }
        int width = fprintf(out, "  %s: %s", field->key, value);
        free(value);
        if (comments) {
            char *help = short_help(field);
            if (!help) {
                return fail_memory();
            }
            fprintf(out, "%*s# %s", width < 34 ? 34 - width : 2, "", help);
            free(help);
        }
        fputc('\n', out);
    }
    return LS_OK;
}

ls_status ls_config_text(const ls_config *config, bool comments, char **text) {
    size_t bytes;
    *text = NULL;
    FILE *out = open_memstream(text, &bytes);
    if (!out) {
        return fail_memory();
    }
    ls_status status = print_yaml(out, config, comments);
    if (fclose(out) != 0 && status == LS_OK) {
        status = fail_memory();
    }
    if (status != LS_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

ls_status ls_config_hash(const ls_config *config, ls_sha256 *hash) {
    char *text;
    LS_TRY(ls_config_text(config, false, &text));
    ls_status status = ls_sha256_of(text, strlen(text), hash);
    free(text);
    return status;
}

static ls_status print_differences(FILE *out, ls_field_resume kind, const ls_config *a,
                                   const char *a_name, const ls_config *b, const char *b_name,
                                   int *differences) {
    size_t count;
    const ls_field *fields = ls_config_fields(&count);
    for (size_t i = 0; i < count; i++) {
        if (fields[i].resume != kind) {
            continue;
        }
        char *in_a = ls_field_get(&fields[i], a), *in_b = ls_field_get(&fields[i], b);
        bool failed = !in_a || !in_b;
        if (!failed && strcmp(in_a, in_b) != 0) {
            fprintf(out, "%s.%s: %s %s, %s %s\n", fields[i].section, fields[i].key, in_a, a_name,
                    in_b, b_name);
            ++*differences;
        }
        free(in_a);
        free(in_b);
        if (failed) {
            return fail_memory();
        }
    }
    return LS_OK;
}

ls_status ls_config_compare(ls_field_resume kind, const ls_config *a, const char *a_name,
                            const ls_config *b, const char *b_name, char **text, int *differences) {
    size_t bytes;
    *text = NULL;
    *differences = 0;
    FILE *out = open_memstream(text, &bytes);
    if (!out) {
        return fail_memory();
    }
    ls_status status = print_differences(out, kind, a, a_name, b, b_name, differences);
    if (fclose(out) != 0 && status == LS_OK) {
        status = fail_memory();
    }
    if (status != LS_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

void ls_config_print_help(FILE *out) {
    size_t count, section_count;
    const ls_field *fields = ls_config_fields(&count);
    const ls_section *sections = ls_config_sections(&section_count);
    for (size_t s = 0; s < section_count; s++) {
        fprintf(out, "%s%s: %s\n", s ? "\n" : "", sections[s].name, sections[s].help);
        for (size_t i = 0; i < count; i++) {
            const ls_field *f = &fields[i];
            if (strcmp(f->section, sections[s].name) != 0) {
                continue;
            }
            int width = fprintf(out, "  %s.%s", f->section, f->key);
            const char *value = f->default_text[0] ? f->default_text : "\"\"";
            width += fprintf(out, "%*s%-14s %-8s ", width < 32 ? 32 - width : 1, "",
                             ls_field_type_name(f->type), value);
            char *help = short_help(f);
            ls_text_wrap(out, width, HELP_COLUMN, HELP_WIDTH, help ? help : f->help);
            free(help);
            const char *detail = strchr(f->help, '\n');
            if (detail) {
                fprintf(out, "%*s", DETAIL_COLUMN, "");
                ls_text_wrap(out, DETAIL_COLUMN, DETAIL_COLUMN, HELP_WIDTH, detail + 1);
            }
        }
    }
    fputs("\nmodel.preset is one of", out);
    for (const char *const *preset = ls_config_presets(); *preset; preset++) {
        fprintf(out, "%s %s", preset == ls_config_presets() ? "" : ",", *preset);
    }
    fputs("\n", out);
}
