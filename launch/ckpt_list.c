#include "launch/ckpt_verbs.h"
#include "runtime/base/text.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHAPE_TEXT = 96 };

static bool matches(const ls_ckpt_entry *entry, const char *glob) {
    return !glob || fnmatch(glob, entry->name, 0) == 0;
}

static int64_t stored_bytes(const ls_ckpt_entry *entry, int64_t *raw_bytes) {
    int64_t stored = 0;
    *raw_bytes = 0;
    for (int i = 0; i < entry->piece_count; i++) {
        stored += entry->pieces[i].stored_bytes;
        *raw_bytes += entry->pieces[i].raw_bytes;
    }
    return stored;
}

static char *shape_text(char *text, const ls_ckpt_entry *entry) {
    size_t n = 0;
    for (int d = 0; d < entry->ndim; d++) {
        n += (size_t)snprintf(text + n, SHAPE_TEXT - n, "%s%lld", d ? "x" : "",
                              (long long)entry->dims[d]);
    }
    return text;
}

/* Prints "  label value" for a counter that is a number. */
static void print_counter(const ls_ckpt *ckpt, const char *key, const char *unit) {
    const json_t *value = json_object_get(ls_ckpt_counters(ckpt), key);
    char text[32];
    if (json_is_number(value)) {
        printf("   %s %s", ls_text_count(text, sizeof text, json_number_value(value)), unit);
    }
}

static void print_heading(const ls_ckpt *ckpt, const ls_ckpt_info *info) {
    char *safe, tokens[32], raw[32], stored[32];
    printf("%s\n", ls_ckpt_safe(ls_ckpt_path(ckpt), &safe));
    free(safe);
    printf("step %lld   %s tokens", (long long)ls_ckpt_step(ckpt),
           ls_text_count(tokens, sizeof tokens, (double)ls_ckpt_tokens(ckpt)));
    print_counter(ckpt, "tokens_per_second", "tokens/s");
    print_counter(ckpt, "flops_per_second", "FLOP/s");
    print_counter(ckpt, "device_seconds", "device s");
    print_counter(ckpt, "restarts", "restarts");
    printf("\n%d tensors   %s in %s (%.2fx)   %d writer%s   zstd level %d   format %d.%d\n\n",
           info->tensors, ls_text_bytes(raw, sizeof raw, (double)info->raw_bytes),
           ls_text_bytes(stored, sizeof stored, (double)info->stored_bytes),
           (double)info->raw_bytes / (double)info->stored_bytes, info->writers,
           info->writers == 1 ? "" : "s", info->level, LS_CKPT_FORMAT_MAJOR, info->minor);
}

static ls_status print_table(const ls_ckpt *ckpt, const char *glob) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    int name_width = 4, shape_width = 5;
    char shape[SHAPE_TEXT], raw[32], stored[32];
    for (int i = 0; i < count; i++) {
        if (matches(&entries[i], glob)) {
            int name = (int)strlen(entries[i].name);
            int width = (int)strlen(shape_text(shape, &entries[i]));
            name_width = name > name_width ? name : name_width;
            shape_width = width > shape_width ? width : shape_width;
        }
    }
    printf("%-*s  %-8s  %*s  %11s  %11s  %6s\n", name_width, "NAME", "TYPE", shape_width, "SHAPE",
           "RAW", "STORED", "RATIO");
    for (int i = 0; i < count; i++) {
        const ls_ckpt_entry *entry = &entries[i];
        if (!matches(entry, glob)) {
            continue;
        }
        char *safe;
        int64_t raw_bytes, bytes = stored_bytes(entry, &raw_bytes);
        printf("%-*s  %-8s  %*s  %11s  %11s  %5.2fx\n", name_width,
               ls_ckpt_safe(entry->name, &safe), ls_dtype_name(entry->dtype), shape_width,
               shape_text(shape, entry), ls_text_bytes(raw, sizeof raw, (double)raw_bytes),
               ls_text_bytes(stored, sizeof stored, (double)bytes),
               (double)raw_bytes / (double)bytes);
        free(safe);
    }
    return LS_OK;
}

static json_t *entry_json(const ls_ckpt_entry *entry) {
    json_t *shape = json_array();
    for (int d = 0; d < entry->ndim; d++) {
        json_array_append_new(shape, json_integer(entry->dims[d]));
    }
    int64_t raw_bytes, bytes = stored_bytes(entry, &raw_bytes);
    return json_pack("{s:s,s:s,s:o,s:i,s:I,s:I}", "name", entry->name, "dtype",
                     ls_dtype_name(entry->dtype), "shape", shape, "pieces", entry->piece_count,
                     "raw_bytes", (json_int_t)raw_bytes, "stored_bytes", (json_int_t)bytes);
}

static ls_status print_list_json(const ls_ckpt *ckpt, const ls_ckpt_info *info, const char *glob) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    json_t *tensors = json_array();
    for (int i = 0; i < count; i++) {
        if (matches(&entries[i], glob)) {
            json_array_append_new(tensors, entry_json(&entries[i]));
        }
    }
    return ls_ckpt_print_json(json_pack(
        "{s:s,s:s,s:I,s:I,s:[i,i],s:i,s:i,s:I,s:I,s:O,s:o}", "schema", "lockstep.ckpt.ls/1", "path",
        ls_ckpt_path(ckpt), "step", (json_int_t)ls_ckpt_step(ckpt), "tokens",
        (json_int_t)ls_ckpt_tokens(ckpt), "format", LS_CKPT_FORMAT_MAJOR, info->minor, "level",
        info->level, "writers", info->writers, "raw_bytes", (json_int_t)info->raw_bytes,
        "stored_bytes", (json_int_t)info->stored_bytes, "counters",
        (json_t *)ls_ckpt_counters(ckpt), "tensors", tensors));
}

ls_status ls_ckpt_print_list(const ls_ckpt *ckpt, const char *glob, bool json) {
    int count, found = 0;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    for (int i = 0; i < count; i++) {
        found += matches(&entries[i], glob);
    }
    if (glob && found == 0) {
        return LS_FAIL(LS_E_NO, "none of %d tensors in '%s' matches '%s'", count,
                       ls_ckpt_path(ckpt), glob);
    }
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    if (json) {
        return print_list_json(ckpt, &info, glob);
    }
    print_heading(ckpt, &info);
    return print_table(ckpt, glob);
}

static void print_counters(const json_t *counters, const char *prefix) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)counters, key, value) {
        char *name = ls_text_format("%s%s%s", prefix, *prefix ? "." : "", key), *safe;
        if (name && json_is_object(value)) {
            print_counters(value, name);
        } else {
            printf("%-32s ", ls_ckpt_safe(name ? name : key, &safe));
            free(safe);
            if (json_is_real(value)) {
                printf("%.9g", json_real_value(value));
            } else if (json_is_string(value)) {
                printf("%s", ls_ckpt_safe(json_string_value(value), &safe));
                free(safe);
            } else {
                json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT);
            }
            putchar('\n');
        }
        free(name);
    }
}

ls_status ls_ckpt_print_counters(const ls_ckpt *ckpt, bool json) {
    if (json) {
        return ls_ckpt_print_json(json_pack(
            "{s:s,s:s,s:I,s:O}", "schema", "lockstep.ckpt.counters/1", "path", ls_ckpt_path(ckpt),
            "step", (json_int_t)ls_ckpt_step(ckpt), "counters", (json_t *)ls_ckpt_counters(ckpt)));
    }
    print_counters(ls_ckpt_counters(ckpt), "");
    return LS_OK;
}

ls_status ls_ckpt_print_config(const ls_ckpt *ckpt, bool json) {
    if (json) {
        return ls_ckpt_print_json(json_pack(
            "{s:s,s:s,s:I,s:s}", "schema", "lockstep.ckpt.config/1", "path", ls_ckpt_path(ckpt),
            "step", (json_int_t)ls_ckpt_step(ckpt), "config", ls_ckpt_config(ckpt)));
    }
    char *text = ls_ckpt_printable(ls_ckpt_config(ckpt), true);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the configuration");
    }
    fputs(text, stdout);
    free(text);
    return LS_OK;
}
