/* `ckpt ls`, and what show prints of a manifest. */
#include "launch/ckpt_verbs.h"
#include "launch/json_text.h"
#include "runtime/base/arena.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum order { SAVED, NAME, SIZE, RATIO } order;

/* A tensor of the list, or (tree) a part of names that holds several. */
typedef struct item {
    const ls_ckpt_entry *entry;
    int64_t raw_bytes, stored_bytes;
} item;

static item item_of(const ls_ckpt_entry *entry) {
    item it = {.entry = entry};
    for (int i = 0; i < entry->piece_count; i++) {
        it.raw_bytes += entry->pieces[i].raw_bytes;
        it.stored_bytes += entry->pieces[i].stored_bytes;
    }
    return it;
}

static double ratio(const item *it) {
    return (double)it->raw_bytes / (double)it->stored_bytes;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const item *)a)->entry->name, ((const item *)b)->entry->name);
}

static int compare_sizes(const void *a, const void *b) { /* largest first */
    int64_t x = ((const item *)a)->raw_bytes, y = ((const item *)b)->raw_bytes;
    return x != y ? (x < y) - (x > y) : compare_names(a, b);
}

static int compare_ratios(const void *a, const void *b) { /* best first */
    double x = ratio(a), y = ratio(b);
    return x != y ? (x < y) - (x > y) : compare_names(a, b);
}

/* Prints "  value unit" for a counter that is a number; NULL: of FLOP/s. */
static void print_counter(const ls_ckpt *ckpt, const char *key, const char *unit) {
    const json_t *value = json_object_get(ls_ckpt_counters(ckpt), key);
    char text[32];
    if (json_is_number(value) && unit) {
        printf("   %s %s", ls_text_count(text, sizeof text, json_number_value(value)), unit);
    } else if (json_is_number(value)) {
        printf("   %s", ls_text_flops(text, sizeof text, json_number_value(value)));
    }
}

static void print_heading(const ls_ckpt *ckpt, const ls_ckpt_info *info) {
    char *safe, tokens[32], raw[32], stored[32], parity[32], more[64] = "";
    if (info->parity_bytes > 0) {
        snprintf(more, sizeof more, " and %s of parity",
                 ls_text_bytes(parity, sizeof parity, (double)info->parity_bytes));
    }
    printf("%s\n", ls_ckpt_safe(ls_ckpt_path(ckpt), &safe));
    free(safe);
    printf("step %lld   %s tokens", (long long)ls_ckpt_step(ckpt),
           ls_text_count(tokens, sizeof tokens, (double)ls_ckpt_tokens(ckpt)));
    print_counter(ckpt, "tokens_per_second", "tokens/s");
    print_counter(ckpt, "flops_per_second", NULL);
    print_counter(ckpt, "device_seconds", "device s");
    print_counter(ckpt, "restarts", "restarts");
    printf("\n%d tensors   %s in %s (%.2fx)%s   %d writer%s   zstd level %d   format %d.%d\n\n",
           info->tensors, ls_text_bytes(raw, sizeof raw, (double)info->raw_bytes),
           ls_text_bytes(stored, sizeof stored, (double)info->stored_bytes),
           (double)info->raw_bytes / (double)info->stored_bytes, more, info->writers,
           info->writers == 1 ? "" : "s", info->level, LS_CKPT_FORMAT_MAJOR, info->minor);
}

static void print_pieces(const ls_ckpt_entry *entry) {
    char raw[32], stored[32], *safe;
    for (int i = 0; i < entry->piece_count; i++) {
        const ls_ckpt_piece *piece = &entry->pieces[i];
        printf("    %s  ", ls_ckpt_safe(piece->file, &safe));
        free(safe);
        ls_ckpt_print_box(&piece->box);
        printf("  %lld chunk%s  %s in %s (%.2fx)\n", (long long)piece->chunks,
               piece->chunks == 1 ? "" : "s",
               ls_text_bytes(raw, sizeof raw, (double)piece->raw_bytes),
               ls_text_bytes(stored, sizeof stored, (double)piece->stored_bytes),
               (double)piece->raw_bytes / (double)piece->stored_bytes);
    }
}

static void print_table(const item *items, int count, bool pieces) {
    int name_width = 4, shape_width = 5;
    char shape[LS_CKPT_SHAPE_TEXT], raw[32], stored[32], *safe;
    for (int i = 0; i < count; i++) {
        const ls_ckpt_entry *entry = items[i].entry;
        int name = (int)strlen(entry->name);
        int width = (int)strlen(ls_ckpt_shape(shape, entry->ndim, entry->dims));
        name_width = name > name_width ? name : name_width;
        shape_width = width > shape_width ? width : shape_width;
    }
    printf("%-*s  %-8s  %*s  %11s  %11s  %6s\n", name_width, "NAME", "TYPE", shape_width, "SHAPE",
           "RAW", "STORED", "RATIO");
    for (int i = 0; i < count; i++) {
        const ls_ckpt_entry *entry = items[i].entry;
        printf("%-*s  %-8s  %*s  %11s  %11s  %5.2fx\n", name_width,
               ls_ckpt_safe(entry->name, &safe), ls_dtype_name(entry->dtype), shape_width,
               ls_ckpt_shape(shape, entry->ndim, entry->dims),
               ls_text_bytes(raw, sizeof raw, (double)items[i].raw_bytes),
               ls_text_bytes(stored, sizeof stored, (double)items[i].stored_bytes),
               ratio(&items[i]));
        free(safe);
        if (pieces) {
            print_pieces(entry);
        }
    }
}

/* Bytes of the next part of a name at `from`, up to its '.' or '/'. */
static size_t part_length(const char *name, size_t from) {
    return strcspn(name + from, "./");
}

/* Items [count] sorted by name that share the first `from` bytes. */
static void print_tree(const item *items, int count, size_t from, int depth) {
    for (int i = 0; i < count;) {
        const char *name = items[i].entry->name;
        size_t length = part_length(name, from);
        item sum = {0};
        int end = i;
        while (end < count && part_length(items[end].entry->name, from) == length &&
               memcmp(items[end].entry->name + from, name + from, length) == 0) {
            sum.raw_bytes += items[end].raw_bytes;
            sum.stored_bytes += items[end].stored_bytes;
            end++;
        }
        char label[LS_CKPT_SHAPE_TEXT], raw[32], shape[LS_CKPT_SHAPE_TEXT] = "", *safe;
        bool leaf = end == i + 1;
        snprintf(label, sizeof label, "%.*s", leaf ? 95 : (int)(length < 95 ? length : 95),
                 name + from);
        if (leaf) {
            ls_ckpt_shape(shape, items[i].entry->ndim, items[i].entry->dims);
        }
        printf("%*s%-*s  %11s  %5.2fx  %s\n", 2 * depth, "", 44 - 2 * depth,
               ls_ckpt_safe(label, &safe), ls_text_bytes(raw, sizeof raw, (double)sum.raw_bytes),
               ratio(&sum), shape);
        free(safe);
        if (!leaf) {
            bool deeper = items[i].entry->name[from + length] != '\0';
            if (deeper) {
                print_tree(items + i, end - i, from + length + 1, depth + 1);
            } else { /* "a" beside "a.b" */
                print_tree(items + i + 1, end - i - 1, from + length + 1, depth + 1);
            }
        }
        i = end;
    }
}

static json_t *item_json(const item *it, bool pieces) {
    const ls_ckpt_entry *entry = it->entry;
    json_t *object = json_pack(
        "{s:s,s:s,s:o,s:i,s:I,s:I}", "name", entry->name, "dtype", ls_dtype_name(entry->dtype),
        "shape", ls_ckpt_dims_json(entry->ndim, entry->dims), "pieces", entry->piece_count,
        "raw_bytes", (json_int_t)it->raw_bytes, "stored_bytes", (json_int_t)it->stored_bytes);
    json_t *list = pieces ? json_array() : NULL;
    for (int i = 0; i < entry->piece_count && list; i++) {
        const ls_ckpt_piece *p = &entry->pieces[i];
        char hex[65];
        ls_sha256_hex(&p->sha256, hex);
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:o,s:o,s:o,s:I,s:I,s:I,s:s}", "file", p->file, "dataset",
                            p->dataset, "start", ls_ckpt_dims_json(entry->ndim, p->box.start),
                            "extent", ls_ckpt_dims_json(entry->ndim, p->box.extent), "chunk",
                            ls_ckpt_dims_json(entry->ndim, p->chunk), "chunks",
                            (json_int_t)p->chunks, "raw_bytes", (json_int_t)p->raw_bytes,
                            "stored_bytes", (json_int_t)p->stored_bytes, "sha256", hex));
    }
    if (list) {
        json_object_set_new(object, "piece_list", list);
    }
    return object;
}

static ls_status print_json(const ls_ckpt *ckpt, const item *items, int count, bool pieces) {
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    json_t *tensors = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(tensors, item_json(&items[i], pieces));
    }
    return ls_ckpt_print_json(
        json_pack("{s:s,s:o,s:I,s:I,s:[i,i],s:i,s:i,s:I,s:I,s:I,s:O,s:o}", "schema",
                  "lockstep.ckpt.ls/1", "path", ls_json_text(ls_ckpt_path(ckpt)), "step",
                  (json_int_t)ls_ckpt_step(ckpt), "tokens", (json_int_t)ls_ckpt_tokens(ckpt),
                  "format", LS_CKPT_FORMAT_MAJOR, info.minor, "level", info.level, "writers",
                  info.writers, "raw_bytes", (json_int_t)info.raw_bytes, "stored_bytes",
                  (json_int_t)info.stored_bytes, "parity_bytes", (json_int_t)info.parity_bytes,
                  "counters", (json_t *)ls_ckpt_counters(ckpt), "tensors", tensors));
}

static ls_status list_print(const ls_ckpt *ckpt, const char *glob, order by, const char **values) {
    int count, found, n = 0;
    item *items;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    LS_TRY(ls_ckpt_count_matches(ckpt, glob, &found));
    LS_TRY(ls_calloc((size_t)found + 1, sizeof *items, &items));
    for (int i = 0; i < count; i++) {
        if (ls_ckpt_matches(&entries[i], glob)) {
            items[n++] = item_of(&entries[i]);
        }
    }
    bool tree = values[LS_CKPT_TREE] != NULL, pieces = values[LS_CKPT_PIECES] != NULL;
    if (by != SAVED || tree) {
        qsort(items, (size_t)n, sizeof *items,
              by == SIZE    ? compare_sizes
              : by == RATIO ? compare_ratios
                            : compare_names);
    }
    ls_status status = LS_OK;
    if (values[LS_CKPT_JSON]) {
        status = print_json(ckpt, items, n, pieces);
    } else {
        ls_ckpt_info info = ls_ckpt_describe(ckpt);
        print_heading(ckpt, &info);
        if (tree) {
            print_tree(items, n, 0, 0);
        } else {
            print_table(items, n, pieces);
        }
    }
    free(items);
    return status;
}

ls_status ls_ckpt_run_ls(int argc, char **argv, const char **values) {
    static const char *const keys[] = {[NAME] = "name", [SIZE] = "size", [RATIO] = "ratio"};
    order by = SAVED;
    for (int i = NAME; i <= RATIO && values[LS_CKPT_SORT]; i++) {
        by = strcmp(values[LS_CKPT_SORT], keys[i]) == 0 ? (order)i : by;
    }
    if (values[LS_CKPT_SORT] && by == SAVED) {
        return LS_FAIL(LS_E_USAGE, "--sort is '%s'; name, size or ratio is needed",
                       values[LS_CKPT_SORT]);
    }
    if (values[LS_CKPT_TREE] &&
        (values[LS_CKPT_SORT] || values[LS_CKPT_PIECES] || values[LS_CKPT_JSON])) {
        return LS_FAIL(LS_E_USAGE, "--tree goes with neither --sort, --pieces nor --json");
    }
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    ls_status status = list_print(ckpt, argc > 1 ? argv[1] : NULL, by, values);
    ls_ckpt_close(ckpt);
    return status;
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
                printf("%.12g", json_real_value(value));
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
        return ls_ckpt_print_json(
            json_pack("{s:s,s:o,s:I,s:O}", "schema", "lockstep.ckpt.counters/1", "path",
                      ls_json_text(ls_ckpt_path(ckpt)), "step", (json_int_t)ls_ckpt_step(ckpt),
                      "counters", (json_t *)ls_ckpt_counters(ckpt)));
    }
    print_counters(ls_ckpt_counters(ckpt), "");
    return LS_OK;
}

ls_status ls_ckpt_print_config(const ls_ckpt *ckpt, bool json) {
    if (json) {
        return ls_ckpt_print_json(json_pack("{s:s,s:o,s:I,s:s}", "schema", "lockstep.ckpt.config/1",
                                            "path", ls_json_text(ls_ckpt_path(ckpt)), "step",
                                            (json_int_t)ls_ckpt_step(ckpt), "config",
                                            ls_ckpt_config(ckpt)));
    }
    char *text = ls_ckpt_printable(ls_ckpt_config(ckpt), true);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the configuration");
    }
    fputs(text, stdout);
    free(text);
    return LS_OK;
}
