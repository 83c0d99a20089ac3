#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_JSON, OPTION_QUICK, OPTION_FULL, OPTION_COUNTERS, OPTION_CONFIG, OPTION_COUNT };

static const ls_option options[] = {
    [OPTION_JSON] = {"json", 0, NULL, NULL, "print JSON with a versioned \"schema\" member"},
    [OPTION_QUICK] = {"quick", 0, NULL, NULL,
                      "verify: only the manifest, its hash, and the sizes of the files"},
    [OPTION_FULL] = {"full", 0, NULL, NULL,
                     "verify: also the hash of every file, chunk and tensor (the default)"},
    [OPTION_COUNTERS] = {"counters", 0, NULL, NULL, "show: the run's counters at the checkpoint"},
    [OPTION_CONFIG] = {"config", 0, NULL, NULL, "show: the resolved configuration (YAML)"},
    {0},
};

ls_status ls_ckpt_print_json(json_t *object) {
    bool printed = object && json_dumpf(object, stdout, JSON_COMPACT) == 0 && putchar('\n') == '\n';
    json_decref(object);
    return printed ? LS_OK : LS_FAIL(LS_E_MEMORY, "the result cannot be printed as JSON");
}

const char *ls_ckpt_safe(const char *text, char **buffer) {
    *buffer = ls_ckpt_printable(text, false);
    return *buffer ? *buffer : "?";
}

/* A checkpoint itself, or the newest valid one of a run directory or of a checkpoints/ folder. */
static ls_status find(const char *given, char **path) {
    char inner[4096];
    LS_TRY(ls_path_join(inner, sizeof inner, given, "checkpoints"));
    return ls_ckpt_latest(ls_path_is_dir(inner) ? inner : given, path);
}

static ls_status open_found(const char *given, ls_ckpt **ckpt) {
    char *path;
    LS_TRY(find(given, &path));
    ls_status status = ls_ckpt_open(path, ckpt);
    free(path);
    return status;
}

static ls_status run_ls(int argc, char **argv, const char **values) {
    ls_ckpt *ckpt;
    LS_TRY(open_found(argv[0], &ckpt));
    ls_status status =
        ls_ckpt_print_list(ckpt, argc > 1 ? argv[1] : NULL, values[OPTION_JSON] != NULL);
    ls_ckpt_close(ckpt);
    return status;
}

static ls_status run_show(int argc, char **argv, const char **values) {
    bool json = values[OPTION_JSON] != NULL;
    int wanted = (argc > 1) + (values[OPTION_COUNTERS] != NULL) + (values[OPTION_CONFIG] != NULL);
    if (wanted != 1) {
        return LS_FAIL(LS_E_USAGE, "show prints one thing: NAME, --counters or --config; %d given",
                       wanted);
    }
    ls_ckpt *ckpt;
    LS_TRY(open_found(argv[0], &ckpt));
    ls_status status = values[OPTION_COUNTERS] ? ls_ckpt_print_counters(ckpt, json)
                       : values[OPTION_CONFIG] ? ls_ckpt_print_config(ckpt, json)
                                               : ls_ckpt_print_values(ckpt, argv[1], json);
    ls_ckpt_close(ckpt);
    return status;
}

static ls_status run_latest(int argc, char **argv, const char **values) {
    (void)argc;
    if (!values[OPTION_JSON]) {
        char *path, *safe;
        LS_TRY(find(argv[0], &path));
        printf("%s\n", ls_ckpt_safe(path, &safe));
        free(safe);
        free(path);
        return LS_OK;
    }
    ls_ckpt *ckpt;
    LS_TRY(open_found(argv[0], &ckpt));
    json_t *object = json_pack("{s:s,s:s,s:I,s:I}", "schema", "lockstep.ckpt.latest/1", "path",
                               ls_ckpt_path(ckpt), "step", (json_int_t)ls_ckpt_step(ckpt), "tokens",
                               (json_int_t)ls_ckpt_tokens(ckpt));
    ls_ckpt_close(ckpt);
    return ls_ckpt_print_json(object);
}

static void note_fault(void *faults, const char *fault) {
    json_array_append_new(faults, json_string(fault));
}

/* Verifies one checkpoint and prints its line, or adds its object to list. */
static ls_status verify_one(const char *path, bool full, json_t *list) {
    ls_ckpt *ckpt = NULL;
    json_t *faults = json_array();
    ls_status status = ls_ckpt_open(path, &ckpt);
    if (status == LS_OK) {
        status = ls_ckpt_verify(ckpt, full, note_fault, faults);
    } else {
        note_fault(faults, ls_error_last()->message);
    }
    ls_ckpt_info info = ckpt ? ls_ckpt_describe(ckpt) : (ls_ckpt_info){0};
    if (list) {
        json_array_append_new(list, json_pack("{s:s,s:b,s:O}", "path", path, "ok", status == LS_OK,
                                              "faults", faults));
    } else {
        char size[32], *safe;
        printf("%-4s %s", status == LS_OK ? "OK" : "FAIL", ls_ckpt_safe(path, &safe));
        free(safe);
        if (ckpt) {
            printf("  %d tensors  %d writer%s  %s stored (%.2fx)", info.tensors, info.writers,
                   info.writers == 1 ? "" : "s",
                   ls_text_bytes(size, sizeof size, (double)info.stored_bytes),
                   (double)info.raw_bytes / (double)info.stored_bytes);
        }
        printf("%s\n", full ? "" : "  quick");
        size_t i;
        json_t *fault;
        json_array_foreach(faults, i, fault) {
            printf("     %s\n", ls_ckpt_safe(json_string_value(fault), &safe));
            free(safe);
        }
        fflush(stdout);
    }
    json_decref(faults);
    ls_ckpt_close(ckpt);
    return status;
}

/* The checkpoint given, or all of a run or folder. */
static ls_status verify_all(const char *given, bool full, json_t *list) {
    char root[4096];
    int64_t *steps;
    size_t count, damaged = 0;
    LS_TRY(ls_path_join(root, sizeof root, given, "checkpoints"));
    if (!ls_path_is_dir(root)) {
        snprintf(root, sizeof root, "%s", given);
    }
    LS_TRY(ls_ckpt_list(root, &steps, &count));
    if (count == 0) {
        free(steps);
        return verify_one(root, full, list);
    }
    ls_status worst = LS_OK;
    for (size_t i = 0; i < count; i++) {
        char *path = ls_text_format("%s/step-%08lld", root, (long long)steps[i]);
        ls_status status =
            path ? verify_one(path, full, list) : LS_FAIL(LS_E_MEMORY, "no memory for a path");
        free(path);
        damaged += status != LS_OK;
        if (status != LS_OK && worst == LS_OK) {
            worst = status;
        }
    }
    free(steps);
    return worst == LS_OK
               ? LS_OK
               : LS_FAIL(worst, "%zu of %zu checkpoints in '%s' failed", damaged, count, root);
}

static ls_status run_verify(int argc, char **argv, const char **values) {
    (void)argc;
    bool full = values[OPTION_QUICK] == NULL;
    if (!full && values[OPTION_FULL]) {
        return LS_FAIL(LS_E_USAGE, "--quick and --full exclude each other");
    }
    if (!values[OPTION_JSON]) {
        return verify_all(argv[0], full, NULL);
    }
    json_t *list = json_array();
    ls_status status = verify_all(argv[0], full, list);
    ls_error error = *ls_error_last();
    json_t *object = json_pack("{s:s,s:s,s:o}", "schema", "lockstep.ckpt.verify/1", "mode",
                               full ? "full" : "quick", "checkpoints", list);
    LS_TRY(ls_ckpt_print_json(object));
    return status == LS_OK ? LS_OK
                           : ls_error_set(status, error.file, error.line, "%s", error.message);
}

static const struct {
    const char *name, *operands;
    int least, most;
    ls_status (*run)(int argc, char **argv, const char **values);
} actions[] = {
    {"ls", "CKPT [GLOB]", 1, 2, run_ls},
    {"show", "CKPT NAME[SLICES]", 1, 2, run_show},
    {"verify", "CKPT", 1, 1, run_verify},
    {"latest", "RUN", 1, 1, run_latest},
};

enum { ACTION_COUNT = sizeof actions / sizeof *actions };

static ls_status run(int argc, char **argv) {
    const char *values[OPTION_COUNT], *names[ACTION_COUNT];
    int first;
    LS_TRY(ls_options_parse(&ls_verb_ckpt, argc, argv, values, &first));
    const char *word = first < argc ? argv[first] : "";
    for (int i = 0; i < ACTION_COUNT; i++) {
        names[i] = actions[i].name;
        if (strcmp(word, actions[i].name) != 0) {
            continue;
        }
        int given = argc - first - 1;
        if (given < actions[i].least || given > actions[i].most) {
            return LS_FAIL(LS_E_USAGE, "'lockstep ckpt %s %s' is how it is used; %d operands given",
                           word, actions[i].operands, given);
        }
        ls_status status = actions[i].run(given, argv + first + 1, values);
        if (fflush(stdout) != 0 && status == LS_OK) {
            status = LS_FAIL(LS_E_IO, "standard output cannot be written");
        }
        return status;
    }
    const char *near = ls_text_nearest(word, names, ACTION_COUNT);
    return LS_FAIL(LS_E_USAGE, "'lockstep ckpt %s': ls, show, verify or latest is needed%s%s%s",
                   word, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

const ls_verb ls_verb_ckpt = {
    .name = "ckpt",
    .synopsis = "ls|show|verify|latest CKPT ...",
    .summary = "inspect and verify checkpoints",
    .text =
        "ckpt ls CKPT [GLOB]            list tensors: type, shape, size, ratio\n"
        "ckpt show CKPT NAME[SLICES]    print values; SLICES as in numpy: 'w[0:4,-1]'\n"
        "ckpt show CKPT --counters      print what the run had counted so far\n"
        "ckpt show CKPT --config        print the configuration it was saved with\n"
        "ckpt verify CKPT               check hashes, chunks and coverage; status 1 when damaged\n"
        "ckpt latest RUN                print the path of the newest valid checkpoint\n"
        "\n"
        "CKPT is a checkpoint directory (step-00001200). A run directory or its checkpoints/ "
        "folder stands for the newest valid checkpoint in it; verify checks all of them.",
    .options = options,
    .run = run,
};
