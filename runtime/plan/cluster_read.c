/* Profiles from YAML, with every field checked against the tables of cluster.h. */
#include "runtime/base/file.h"
#include "runtime/base/text.h"
#include "runtime/config/yaml_reader.h"
#include "runtime/plan/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct row {
    const char *section, *key, *unit;
    double min, max;
} row;

static const row rows[LS_FIG_COUNT] = {
#define X(id, section, key, unit, min, max, help) {#section, #key, unit, min, max},
    LS_FIGURE_LIST(X)
#undef X
};

static const struct {
    const char *section, *key;
} texts[LS_CLUSTER_TEXT_COUNT] = {
#define X(id, section, key, help) {#section, #key},
    LS_CLUSTER_TEXT_LIST(X)
#undef X
};

const char *ls_figure_section(ls_figure_id id) {
    return rows[id].section;
}

const char *ls_figure_key(ls_figure_id id) {
    return rows[id].key;
}

/* LS_E_CONFIG unless the key exists: of a figure or of a text (the other one is -1). */
static ls_status find(const ls_yaml_reader *r, const char *section, const char *key, int *figure,
                      int *text) {
    const char *near[LS_FIG_COUNT + LS_CLUSTER_TEXT_COUNT];
    size_t count = 0;
    *figure = *text = -1;
    for (int i = 0; i < LS_FIG_COUNT; i++) {
        if (strcmp(rows[i].section, section) == 0) {
            near[count++] = rows[i].key;
            *figure = strcmp(rows[i].key, key) == 0 ? i : *figure;
        }
    }
    for (int i = 0; i < LS_CLUSTER_TEXT_COUNT; i++) {
        if (strcmp(texts[i].section, section) == 0) {
            near[count++] = texts[i].key;
            *text = strcmp(texts[i].key, key) == 0 ? i : *text;
        }
    }
    if (*figure >= 0 || *text >= 0) {
        return LS_OK;
    }
    char hint[96];
    return LS_FAIL(LS_E_CONFIG, "%s: unknown key '%s.%s'%s", r->origin, section, key,
                   ls_text_suggest(hint, sizeof hint, key, near, count));
}

static ls_status copy(const ls_yaml_reader *r, const char *what, const char *from, char *to,
                      size_t size) {
    if (strlen(from) >= size) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s has %zu characters; at most %zu are expected",
                       r->origin, what, strlen(from), size - 1);
    }
    if (!ls_text_is_line(from)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: %s must be UTF-8 text without line breaks and control characters",
                       r->origin, what);
    }
    memcpy(to, from, strlen(from) + 1);
    return LS_OK;
}

static ls_status read_number(const ls_yaml_reader *r, int id, double *value) {
    if (ls_yaml_is_null(r)) {
        return LS_OK;
    }
    const char *found = ls_yaml_scalar(r);
    char *end;
    *value = strtod(found, &end);
    if (end == found || *end || !(*value >= rows[id].min && *value <= rows[id].max)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: %s.%s is '%s'; a number from %g to %g%s%s or null is expected",
                       r->origin, rows[id].section, rows[id].key, found, rows[id].min, rows[id].max,
                       rows[id].unit[0] ? " " : "", rows[id].unit);
    }
    return LS_OK;
}

static bool has_source(const ls_cluster *c, const char *key) {
    for (int i = 0; i < c->source_count; i++) {
        if (strcmp(c->sources[i].key, key) == 0) {
            return true;
        }
    }
    return false;
}

/* {value: 1, source: key, date: 2026-01-01, note: text} after its start. */
static ls_status read_parts(ls_yaml_reader *r, int id, ls_figure *f) {
    for (;;) {
        LS_TRY(ls_yaml_next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            return LS_OK;
        }
        char part[16] = "";
        if (r->event.type == YAML_SCALAR_EVENT) {
            snprintf(part, sizeof part, "%s", ls_yaml_scalar(r));
        }
        LS_TRY(ls_yaml_next(r));
        if (r->event.type != YAML_SCALAR_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: %s.%s: one value is expected for '%s'", r->origin,
                           rows[id].section, rows[id].key, part);
        }
        if (strcmp(part, "value") == 0) {
            LS_TRY(read_number(r, id, &f->value));
        } else if (strcmp(part, "source") == 0) {
            LS_TRY(copy(r, "the source", ls_yaml_scalar(r), f->source, sizeof f->source));
        } else if (strcmp(part, "date") == 0) {
            LS_TRY(copy(r, "the date", ls_yaml_scalar(r), f->date, sizeof f->date));
        } else if (strcmp(part, "note") == 0) {
            LS_TRY(copy(r, "the note", ls_yaml_scalar(r), f->note, sizeof f->note));
        } else {
            return LS_FAIL(LS_E_CONFIG,
                           "%s: %s.%s has '%s'; value, source, date and note are expected",
                           r->origin, rows[id].section, rows[id].key, part);
        }
    }
}

static ls_status read_figure(ls_yaml_reader *r, int id, ls_cluster *c) {
    ls_figure f = {.value = NAN, .given = true};
    if (c->figure[id].given) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s.%s was given before; keep one of them", r->origin,
                       rows[id].section, rows[id].key);
    }
    char origin[sizeof r->origin];
    memcpy(origin, r->origin, sizeof origin);
    if (r->event.type == YAML_MAPPING_START_EVENT) {
        LS_TRY(read_parts(r, id, &f));
    } else if (!ls_yaml_is_null(r)) {
        return LS_FAIL(
            LS_E_CONFIG,
            "%s: %s.%s must be null (unknown) or {value: NUMBER, source: KEY}, so that it "
            "can be traced",
            r->origin, rows[id].section, rows[id].key);
    }
    if (!isnan(f.value) && !has_source(c, f.source)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: %s.%s has the source '%s', which the file's section 'sources' (above) "
                       "does not explain",
                       origin, rows[id].section, rows[id].key, f.source);
    }
    c->figure[id] = f;
    return LS_OK;
}

static ls_status read_source(ls_yaml_reader *r, ls_cluster *c) {
    if (c->source_count == LS_MAX_SOURCES) {
        return LS_FAIL(LS_E_CONFIG, "%s: more than %d sources", r->origin, LS_MAX_SOURCES);
    }
    ls_source *s = &c->sources[c->source_count];
    LS_TRY(copy(r, "the source's key", ls_yaml_scalar(r), s->key, sizeof s->key));
    if (has_source(c, s->key)) {
        return LS_FAIL(LS_E_CONFIG, "%s: the source '%s' was given before; keep one of them",
                       r->origin, s->key);
    }
    LS_TRY(ls_yaml_next(r));
    if (r->event.type != YAML_SCALAR_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: sources.%s must be one text", r->origin, s->key);
    }
    LS_TRY(copy(r, "the source", ls_yaml_scalar(r), s->text, sizeof s->text));
    c->source_count++;
    return LS_OK;
}

static ls_status read_key(ls_yaml_reader *r, const char *section, ls_cluster *c) {
    if (strcmp(section, "sources") == 0) {
        return read_source(r, c);
    }
    int figure, text;
    LS_TRY(find(r, section, ls_yaml_scalar(r), &figure, &text));
    LS_TRY(ls_yaml_next(r));
    if (figure >= 0) {
        return read_figure(r, figure, c);
    }
    if (r->event.type != YAML_SCALAR_EVENT) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s.%s must be one text", r->origin, section,
                       texts[text].key);
    }
    return copy(r, texts[text].key, ls_yaml_is_null(r) ? "" : ls_yaml_scalar(r), c->text[text],
                sizeof c->text[text]);
}

/* LS_E_CONFIG unless there is such a section. */
static ls_status check_section(const ls_yaml_reader *r, const char *name) {
    const char *known[1 + LS_FIG_COUNT + LS_CLUSTER_TEXT_COUNT] = {"sources"};
    size_t count = 1;
    for (int i = 0; i < LS_CLUSTER_TEXT_COUNT; i++) {
        known[count++] = texts[i].section;
    }
    for (int i = 0; i < LS_FIG_COUNT; i++) {
        known[count++] = rows[i].section;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(known[i], name) == 0) {
            return LS_OK;
        }
    }
    char hint[96];
    return LS_FAIL(LS_E_CONFIG, "%s: unknown section '%s'%s", r->origin, name,
                   ls_text_suggest(hint, sizeof hint, name, known, count));
}

static ls_status read_root(ls_yaml_reader *r, ls_cluster *c) {
    bool empty;
    LS_TRY(ls_yaml_enter_root(r, "sections are expected, such as 'cluster:' and 'node:'", &empty));
    while (!empty) {
        LS_TRY(ls_yaml_next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT) {
            break;
        }
        char section[32] = "";
        if (r->event.type == YAML_SCALAR_EVENT) {
            snprintf(section, sizeof section, "%s", ls_yaml_scalar(r));
        }
        LS_TRY(check_section(r, section));
        LS_TRY(ls_yaml_next(r));
        if (ls_yaml_is_null(r)) {
            continue;
        }
        if (r->event.type != YAML_MAPPING_START_EVENT) {
            return LS_FAIL(LS_E_CONFIG, "%s: section '%s' must hold 'key: value' lines", r->origin,
                           section);
        }
        for (;;) {
            LS_TRY(ls_yaml_next(r));
            if (r->event.type == YAML_MAPPING_END_EVENT) {
                break;
            }
            if (r->event.type != YAML_SCALAR_EVENT) {
                return LS_FAIL(LS_E_CONFIG, "%s: a key of section '%s' is expected", r->origin,
                               section);
            }
            LS_TRY(read_key(r, section, c));
        }
    }
    return ls_yaml_leave_root(r);
}

static ls_status read_text(const char *name, const char *text, size_t bytes, ls_cluster *c) {
    ls_yaml_reader r;
    LS_TRY(ls_yaml_reader_init(&r, name, text, bytes));
    ls_status status = read_root(&r, c);
    ls_yaml_reader_release(&r);
    return status;
}

static void set_unknown(ls_cluster *c) {
    memset(c, 0, sizeof *c);
    for (int i = 0; i < LS_FIG_COUNT; i++) {
        c->figure[i].value = NAN;
    }
}

/* The device's figures lie below those of the profile. */
static ls_status add_device(const char *name, const char *dir, ls_cluster *c) {
    char path[1200];
    const char *device = c->text[LS_CLUSTER_DEVICE];
    if (!dir || strchr(device, '/')) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: cluster.device is '%s', but there is no folder devices/ for it", name,
                       device);
    }
    snprintf(path, sizeof path, "%s/devices/%s.yaml", dir, device);
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, 1 << 20, &text, &bytes));
    static _Thread_local ls_cluster base;
    ls_status status = ls_device_load_text(path, text, bytes, &base);
    free(text);
    LS_TRY(status);
    for (int i = 0; i < LS_FIG_COUNT; i++) {
        if (!c->figure[i].given) {
            c->figure[i] = base.figure[i];
        }
    }
    for (int i = 0; i < LS_CLUSTER_TEXT_COUNT; i++) {
        if (!c->text[i][0]) {
            memcpy(c->text[i], base.text[i], sizeof c->text[i]);
        }
    }
    for (int i = 0; i < base.source_count && c->source_count < LS_MAX_SOURCES; i++) {
        if (!has_source(c, base.sources[i].key)) {
            c->sources[c->source_count++] = base.sources[i];
        }
    }
    return LS_OK;
}

ls_status ls_device_load_text(const char *name, const char *text, size_t bytes,
                              ls_cluster *device) {
    set_unknown(device);
    return read_text(name, text, bytes, device);
}

static ls_status require(const char *name, const ls_cluster *c) {
    static const ls_figure_id needed[] = {LS_FIG_MEMORY_GB, LS_FIG_HBM_GB_S, LS_FIG_NODE_DEVICES,
                                          LS_FIG_DOMAIN_DEVICES};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (isnan(c->figure[needed[i]].value)) {
            return LS_FAIL(LS_E_CONFIG, "%s: %s.%s is unknown; no plan can be made without it",
                           name, rows[needed[i]].section, rows[needed[i]].key);
        }
    }
    return LS_OK;
}

ls_status ls_cluster_load_text(const char *name, const char *dir, const char *text, size_t bytes,
                               ls_cluster *cluster) {
    set_unknown(cluster);
    LS_TRY(read_text(name, text, bytes, cluster));
    if (cluster->text[LS_CLUSTER_DEVICE][0]) {
        LS_TRY(add_device(name, dir, cluster));
    }
    return require(name, cluster);
}
