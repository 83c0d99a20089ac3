/* Where profiles are found, and how they are written. */
#include "runtime/plan/cluster.h"

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_FILE_BYTES = 1 << 20 };

ls_status ls_cluster_dir(char *out, size_t size) {
    const char *set = getenv("LOCKSTEP_CLUSTERS");
    if (set && set[0]) {
        if (snprintf(out, size, "%s", set) >= (int)size) {
            return LS_FAIL(LS_E_INPUT, "$LOCKSTEP_CLUSTERS has more than %zu characters", size - 1);
        }
        return LS_OK;
    }
    char self[1024];
    LS_TRY(ls_path_self_dir(self, sizeof self));
    for (char *end = self + strlen(self); end && end > self; end = strrchr(self, '/')) {
        *end = '\0';
        LS_TRY(ls_path_join(out, size, self, "share/lockstep/clusters"));
        if (ls_path_is_dir(out)) {
            return LS_OK;
        }
    }
    return LS_FAIL(LS_E_INPUT,
                   "no share/lockstep/clusters above the program; install lockstep, or set "
                   "LOCKSTEP_CLUSTERS to the folder with the profiles");
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_file(const char *name) {
    size_t n = strlen(name);
    return n > 5 && strcmp(name + n - 5, ".yaml") == 0;
}

static ls_status list_dir(DIR *dir, char ***names, int *count) {
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (!is_file(e->d_name) || e->d_name[0] == '.') {
            continue;
        }
        char **more = realloc(*names, ((size_t)*count + 1) * sizeof *more);
        char *name = strndup(e->d_name, strlen(e->d_name) - 5);
        if (more) {
            *names = more;
        }
        if (!more || !name) {
            free(name);
            return LS_FAIL(LS_E_MEMORY, "no memory for the names of clusters");
        }
        (*names)[(*count)++] = name;
    }
    qsort(*names, (size_t)*count, sizeof **names, by_name);
    return LS_OK;
}

ls_status ls_cluster_list(char ***names, int *count) {
    char path[1024];
    *names = NULL;
    *count = 0;
    LS_TRY(ls_cluster_dir(path, sizeof path));
    DIR *dir = opendir(path);
    if (!dir) {
        return LS_FAIL(LS_E_INPUT, "cannot read '%s': %s", path, strerror(errno));
    }
    ls_status status = list_dir(dir, names, count);
    closedir(dir);
    return status;
}

static ls_status unknown(const char *name, const char *dir) {
    char **names;
    int count;
    LS_TRY(ls_cluster_list(&names, &count));
    char hint[96];
    ls_text_suggest(hint, sizeof hint, name, (const char *const *)names, (size_t)count);
    ls_status status =
        LS_FAIL(LS_E_CONFIG, "unknown cluster '%s'; `lockstep plan --list` shows those in %s%s",
                name, dir, hint);
    for (int i = 0; i < count; i++) {
        free(names[i]);
    }
    free(names);
    return status;
}

ls_status ls_cluster_load(const char *name, ls_cluster *cluster) {
    char path[1200], dir[1024];
    if (is_file(name)) {
        dir[0] = '\0';
        if (ls_cluster_dir(dir, sizeof dir) != LS_OK) {
            ls_error_clear(); /* needed only where the file names a device */
        }
        snprintf(path, sizeof path, "%s", name);
    } else {
        LS_TRY(ls_cluster_dir(dir, sizeof dir));
        snprintf(path, sizeof path, "%s/%.64s.yaml", dir, name);
        if (strchr(name, '/') || !ls_path_exists(path)) {
            return unknown(name, dir);
        }
    }
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, MAX_FILE_BYTES, &text, &bytes));
    ls_status status = ls_cluster_load_text(path, dir[0] ? dir : NULL, text, bytes, cluster);
    free(text);
    return status;
}

double ls_cluster_value(const ls_cluster *cluster, ls_figure_id id, double fallback) {
    const double value = cluster->figure[id].value;
    return isnan(value) ? fallback : value;
}

bool ls_cluster_on_host(const ls_cluster *cluster) {
    return strncmp(cluster->text[LS_CLUSTER_KIND], "CPU", 3) == 0;
}

/* In double quotes, the one form of YAML that takes every text. */
static void write_quoted(FILE *out, const char *text) {
    fputc('"', out);
    for (const char *c = text; *c; c++) {
        fprintf(out, *c == '"' || *c == '\\' ? "\\%c" : "%c", *c);
    }
    fputc('"', out);
}

/* A key or date as it is, anything else in quotes. */
static void write_word(FILE *out, const char *text) {
    const size_t plain =
        strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    if (plain > 0 && text[plain] == '\0' && text[0] != '-') {
        fputs(text, out);
    } else {
        write_quoted(out, text);
    }
}

static void write_text(FILE *out, const char *key, const char *value) {
    fprintf(out, "  %s: ", key);
    write_quoted(out, value);
    fputc('\n', out);
}

static void write_figure(FILE *out, const ls_figure *f, const char *key) {
    if (isnan(f->value)) {
        fprintf(out, "  %s: null\n", key);
        return;
    }
    const struct {
        const char *name, *text;
    } parts[] = {{"source", f->source}, {"date", f->date}, {"note", f->note}};
    fprintf(out, "  %s: {value: %.6g", key, f->value);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].text[0]) {
            fprintf(out, ", %s: ", parts[i].name);
            write_word(out, parts[i].text);
        }
    }
    fputs("}\n", out);
}

bool ls_link_figures(ls_comm_use use, ls_coll coll, ls_figure_id *us, ls_figure_id *gb_s) {
#define FIGURES(X, USE, use, OP, op)                                                               \
    {LS_USE_##USE, LS_COLL_##OP, LS_FIG_##USE##_##OP##_US, LS_FIG_##USE##_##OP##_GB_S},
    static const struct {
        ls_comm_use use;
        ls_coll coll;
        ls_figure_id us, gb_s;
    } rows[] = {LS_LINK_ROWS(FIGURES, )};
#undef FIGURES
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].use == use && rows[i].coll == coll) {
            *us = rows[i].us;
            *gb_s = rows[i].gb_s;
            return true;
        }
    }
    return false;
}

static void begin_section(FILE *out, const char *section, bool *begun) {
    if (!*begun) {
        fprintf(out, "%s:\n", section);
    }
    *begun = true;
}

/* Texts and figures of a section, with its heading before the first. The device's file is not
 * named, since its figures are here. */
static void write_section(FILE *out, const ls_cluster *cluster, const char *section) {
    static const struct {
        const char *section, *key;
    } texts[] = {
#define X(id, section, key, help) {#section, #key},
        LS_CLUSTER_TEXT_LIST(X)
#undef X
    };
    bool begun = false;
    for (int t = 0; t < LS_CLUSTER_TEXT_COUNT; t++) {
        if (cluster->text[t][0] && t != LS_CLUSTER_DEVICE && !strcmp(texts[t].section, section)) {
            begin_section(out, section, &begun);
            write_text(out, texts[t].key, cluster->text[t]);
        }
    }
    for (int i = 0; i < LS_FIG_COUNT; i++) {
        if (cluster->figure[i].given && !strcmp(ls_figure_section((ls_figure_id)i), section)) {
            begin_section(out, section, &begun);
            write_figure(out, &cluster->figure[i], ls_figure_key((ls_figure_id)i));
        }
    }
}

static void write_body(FILE *out, const ls_cluster *cluster) {
    static const char *const sections[] = {
        "cluster",         "device",          "node",           "links",         "network",
        "power",           "price",           "failures",       "storage",       "launch",
        "efficiency_fp32", "efficiency_bf16", "efficiency_fp8", "efficiency_fp4"};
    fputs("sources:\n", out);
    for (int s = 0; s < cluster->source_count; s++) {
        fputs("  ", out);
        write_word(out, cluster->sources[s].key);
        fputs(": ", out);
        write_quoted(out, cluster->sources[s].text);
        fputc('\n', out);
    }
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        write_section(out, cluster, sections[i]);
    }
}

ls_status ls_cluster_write(const ls_cluster *cluster, const char *path) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a cluster profile");
    }
    write_body(out, cluster);
    if (fclose(out) != 0) {
        free(text);
        return LS_FAIL(LS_E_MEMORY, "no memory for a cluster profile");
    }
    ls_status status = ls_file_replace(path, text, bytes);
    free(text);
    return status;
}

ls_status ls_cluster_begin(const char *path, ls_cluster *cluster) {
    char *text = NULL;
    size_t bytes = 0;
    const bool there = ls_path_exists(path);
    LS_TRY(ls_file_replace_check(path));
    if (there) {
        LS_TRY(ls_file_read(path, MAX_FILE_BYTES, &text, &bytes));
    }
    ls_status status = ls_device_load_text(path, there ? text : "", bytes, cluster);
    free(text);
    if (status == LS_OK && !cluster->text[LS_CLUSTER_NAME][0]) {
        snprintf(cluster->text[LS_CLUSTER_NAME], sizeof cluster->text[0], "local");
    }
    return status;
}

ls_status ls_cluster_cite(ls_cluster *cluster, const char *key, const char *text) {
    int s = 0;
    while (s < cluster->source_count && strcmp(cluster->sources[s].key, key) != 0) {
        s++;
    }
    if (s == LS_MAX_SOURCES) {
        return LS_FAIL(LS_E_CONFIG,
                       "the profile has %d sources, the most there can be, and none called '%s'; "
                       "join some of them",
                       s, key);
    }
    cluster->source_count = s < cluster->source_count ? cluster->source_count : s + 1;
    snprintf(cluster->sources[s].key, sizeof cluster->sources[s].key, "%s", key);
    snprintf(cluster->sources[s].text, sizeof cluster->sources[s].text, "%s", text);
    return LS_OK;
}

void ls_cluster_set(ls_cluster *cluster, ls_figure_id id, double value, const char *key) {
    ls_figure *f = &cluster->figure[id];
    const time_t now = time(NULL);
    *f = (ls_figure){.value = value, .given = true};
    snprintf(f->source, sizeof f->source, "%s", key);
    strftime(f->date, sizeof f->date, "%Y-%m-%d", gmtime(&now));
}
