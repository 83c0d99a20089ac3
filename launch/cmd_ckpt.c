#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "launch/json_text.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <dirent.h>
#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_option options[] = {
    [LS_CKPT_JSON] = {"json", 0, NULL, NULL, "print JSON with a versioned \"schema\" member"},
    [LS_CKPT_TREE] = {"tree", 0, NULL, NULL, "ls: as a tree of the names' parts, with sums"},
    [LS_CKPT_SORT] = {"sort", 0, "KEY", NULL, "ls: by name, size or ratio; default: as saved"},
    [LS_CKPT_PIECES] = {"pieces", 0, NULL, NULL, "ls, stats: each tensor's pieces too"},
    [LS_CKPT_HISTOGRAM] = {"histogram", 0, NULL, NULL,
                           "stats: percentiles and a histogram of every tensor, not only of one"},
    [LS_CKPT_COUNTERS] = {"counters", 0, NULL, NULL, "show: the run's counters at the checkpoint"},
    [LS_CKPT_CONFIG] = {"config", 0, NULL, NULL, "show: the resolved configuration (YAML)"},
    [LS_CKPT_QUICK] = {"quick", 0, NULL, NULL,
                       "verify: only the manifest, its hash, and the sizes of the files"},
    [LS_CKPT_FULL] = {"full", 0, NULL, NULL,
                      "verify: also the SHA-256 of every byte stored, and what HDF5 finds (its "
                      "default); doctor: likewise"},
    [LS_CKPT_DEEP] = {"deep", 0, NULL, NULL, "verify: also every value, decoded, against its hash"},
    [LS_CKPT_RTOL] = {"rtol", 0, "X", "0",
                      "diff: values are equal when |a - b| <= X max(|a|, |b|); 0: bit by bit"},
    [LS_CKPT_OUTPUT] = {"output", 'o', "PATH", NULL,
                        "convert, reshard: what to write; it must not exist"},
    [LS_CKPT_TO] = {"to", 0, "FORMAT", NULL,
                    "convert: safetensors (a Hugging Face model) or llmc (llm.c's GPT-2 file)"},
    [LS_CKPT_FROM] = {"from", 0, "FORMAT", NULL, "convert: safetensors, to a checkpoint"},
    [LS_CKPT_DTYPE] = {"dtype", 0, "TYPE", "fp32", "convert --to: bf16 or fp32"},
    [LS_CKPT_SHARD_SIZE] = {"shard-size", 0, "MIB", "5000",
                            "convert --to safetensors: most data of a file, in MiB"},
    [LS_CKPT_TOKENIZER] =
        {"tokenizer", 0, "NAME", NULL,
         "convert --from: of the model, such as bytes; default: its tokenizer.json, or what its "
         "config.json says"},
    [LS_CKPT_RANKS] = {"ranks", 'n', "N", "1", "reshard, convert --from: writers' files"},
    [LS_CKPT_LEVEL] = {"level", 0, "N", "1",
                       "reshard, convert --from: of zstd compression, 0 to 19; 0: none"},
    [LS_CKPT_KEEP_LAST] = {"keep-last", 0, "N", NULL, "prune: keep the newest N valid checkpoints"},
    [LS_CKPT_KEEP_EVERY] = {"keep-every", 0, "M", NULL,
                            "prune: keep those whose step is a multiple of M"},
    [LS_CKPT_KEEP_BEST] = {"keep-best", 0, "K", NULL,
                           "prune: keep the K with the lowest validation loss"},
    [LS_CKPT_REPAIR] = {"repair", 0, NULL, NULL,
                        "doctor: make lost and damaged files again from parity files, and remove "
                        "unfinished saves whose owner is gone"},
    [LS_CKPT_PARITY] = {"parity", 0, "K", "0",
                        "reshard: parity files of a group of 16, 0 to 8: so many may be lost"},
    [LS_CKPT_DRY_RUN] = {"dry-run", 0, NULL, NULL, "prune: say what would be removed"},
    [LS_CKPT_OPTIONS] = {0},
};

ls_status ls_ckpt_print_json(json_t *object) {
    bool printed = object && json_dumpf(object, stdout, JSON_COMPACT) == 0 && putchar('\n') == '\n';
    json_decref(object);
    return printed ? LS_OK : LS_FAIL(LS_E_MEMORY, "the result cannot be printed as JSON");
}

const char *ls_ckpt_value(const char **values, int option) {
    return values[option] ? values[option] : options[option].fallback;
}

const char *ls_ckpt_safe(const char *text, char **buffer) {
    *buffer = ls_ckpt_printable(text, false);
    return *buffer ? *buffer : "?";
}

ls_status ls_ckpt_settings(const ls_ckpt *ckpt, ls_config *config) {
    const char *text = ls_ckpt_config(ckpt);
    return ls_config_load_text(config, ls_ckpt_path(ckpt), text, strlen(text), NULL, 0);
}

char *ls_ckpt_shape(char text[LS_CKPT_SHAPE_TEXT], int ndim, const int64_t *dims) {
    size_t n = 0;
    text[0] = '\0';
    for (int d = 0; d < ndim; d++) {
        n += (size_t)snprintf(text + n, LS_CKPT_SHAPE_TEXT - n, "%s%lld", d ? "x" : "",
                              (long long)dims[d]);
    }
    return text;
}

void ls_ckpt_print_box(const ls_box *box) {
    putchar('[');
    for (int d = 0; d < box->ndim; d++) {
        printf("%s%lld:%lld", d ? ", " : "", (long long)box->start[d],
               (long long)(box->start[d] + box->extent[d]));
    }
    putchar(']');
}

json_t *ls_ckpt_dims_json(int ndim, const int64_t *dims) {
    json_t *array = json_array();
    for (int d = 0; d < ndim; d++) {
        json_array_append_new(array, json_integer(dims[d]));
    }
    return array;
}

bool ls_ckpt_matches(const ls_ckpt_entry *entry, const char *glob) {
    return !glob || fnmatch(glob, entry->name, 0) == 0;
}

const char *ls_ckpt_suggest(const ls_ckpt *ckpt, const char *name, char hint[LS_CKPT_HINT]) {
    int count;
    const char **names;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    hint[0] = '\0';
    if (ls_calloc((size_t)count, sizeof *names, &names) == LS_OK) {
        for (int i = 0; i < count; i++) {
            names[i] = entries[i].name;
        }
        ls_text_suggest(hint, LS_CKPT_HINT, name, names, (size_t)count);
        free(names);
    }
    return hint;
}

ls_status ls_ckpt_count_matches(const ls_ckpt *ckpt, const char *glob, int *found) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    *found = 0;
    for (int i = 0; i < count; i++) {
        *found += ls_ckpt_matches(&entries[i], glob);
    }
    if (glob && *found == 0) {
        char hint[LS_CKPT_HINT];
        return LS_FAIL(LS_E_NO, "none of %d tensors in '%s' matches '%s'%s", count,
                       ls_ckpt_path(ckpt), glob, ls_ckpt_suggest(ckpt, glob, hint));
    }
    return LS_OK;
}

/* A folder of runs holds no checkpoint itself: names the first of them in `run`; empty: none. */
static ls_status find_run(const char *folder, char *run, size_t size) {
    char name[256] = "", path[4096];
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof path, "%s/%s/checkpoints", folder, entry->d_name);
        if (entry->d_name[0] != '.' && ls_path_is_dir(path) &&
            (!name[0] || strcmp(entry->d_name, name) < 0)) {
            snprintf(name, sizeof name, "%s", entry->d_name);
        }
    }
    if (dir) {
        closedir(dir);
    }
    run[0] = '\0';
    return name[0] ? ls_path_join(run, size, folder, name) : LS_OK;
}

ls_status ls_ckpt_root(const char *given, char *root, size_t size) {
    LS_TRY(ls_path_join(root, size, given, "checkpoints"));
    if (ls_path_is_dir(root)) {
        return LS_OK;
    }
    if (ls_path_exists(given) && !ls_path_is_dir(given)) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' is a file; a checkpoint is a directory, such as step-00001200, and a "
                       "run the one that holds checkpoints/",
                       given);
    }
    LS_TRY(find_run(given, root, size));
    if (root[0]) {
        return LS_FAIL(LS_E_INPUT, "'%s' is a folder of runs; give one of them, such as '%s'",
                       given, root);
    }
    LS_TRY(ls_path_join(root, size, given, "config.json"));
    if (ls_path_exists(root)) {
        return LS_FAIL(LS_E_INPUT,
                       "'%s' is a model of transformers; make a checkpoint of it: lockstep ckpt "
                       "convert --from safetensors %s -o DIR",
                       given, given);
    }
    snprintf(root, size, "%s", given); /* shorter than what fitted */
    return LS_OK;
}

static ls_status find_path(const char *given, char **path) {
    char root[4096];
    LS_TRY(ls_ckpt_root(given, root, sizeof root));
    return ls_ckpt_latest(root, path);
}

ls_status ls_ckpt_open_found(const char *given, ls_ckpt **ckpt) {
    char root[4096];
    LS_TRY(ls_ckpt_root(given, root, sizeof root));
    return ls_ckpt_open_latest(root, ckpt);
}

static ls_status run_show(int argc, char **argv, const char **values) {
    bool json = values[LS_CKPT_JSON] != NULL;
    int wanted = (argc > 1) + (values[LS_CKPT_COUNTERS] != NULL) + (values[LS_CKPT_CONFIG] != NULL);
    if (wanted != 1) {
        return LS_FAIL(LS_E_USAGE, "show prints one thing: NAME, --counters or --config; %d given",
                       wanted);
    }
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    ls_status status = values[LS_CKPT_COUNTERS] ? ls_ckpt_print_counters(ckpt, json)
                       : values[LS_CKPT_CONFIG] ? ls_ckpt_print_config(ckpt, json)
                                                : ls_ckpt_print_values(ckpt, argv[1], json);
    ls_ckpt_close(ckpt);
    return status;
}

static ls_status run_latest(int argc, char **argv, const char **values) {
    (void)argc;
    if (!values[LS_CKPT_JSON]) {
        char *path, *safe;
        LS_TRY(find_path(argv[0], &path));
        printf("%s\n", ls_ckpt_safe(path, &safe));
        free(safe);
        free(path);
        return LS_OK;
    }
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open_found(argv[0], &ckpt));
    json_t *object =
        json_pack("{s:s,s:o,s:I,s:I}", "schema", "lockstep.ckpt.latest/1", "path",
                  ls_json_text(ls_ckpt_path(ckpt)), "step", (json_int_t)ls_ckpt_step(ckpt),
                  "tokens", (json_int_t)ls_ckpt_tokens(ckpt));
    ls_ckpt_close(ckpt);
    return ls_ckpt_print_json(object);
}

#define ACTIONS     "ls|show|stats|verify|diff|convert|reshard|prune|latest|doctor"
#define BIT(option) (1u << LS_CKPT_##option)

static const struct {
    const char *name, *operands;
    int least, most;
    unsigned options; /* BIT of each that it takes besides --json */
    ls_status (*run)(int argc, char **argv, const char **values);
} actions[] = {
    {"ls", "CKPT [GLOB]", 1, 2, BIT(TREE) | BIT(SORT) | BIT(PIECES), ls_ckpt_run_ls},
    {"show", "CKPT NAME[SLICES]", 1, 2, BIT(COUNTERS) | BIT(CONFIG), run_show},
    {"stats", "CKPT [GLOB]", 1, 2, BIT(PIECES) | BIT(HISTOGRAM), ls_ckpt_run_stats},
    {"verify", "CKPT", 1, 1, BIT(QUICK) | BIT(FULL) | BIT(DEEP), ls_ckpt_run_verify},
    {"diff", "A B [GLOB]", 2, 3, BIT(RTOL), ls_ckpt_run_diff},
    {"convert", "SOURCE [section.key=value ...]", 1, 64,
     BIT(OUTPUT) | BIT(TO) | BIT(FROM) | BIT(DTYPE) | BIT(SHARD_SIZE) | BIT(TOKENIZER) |
         BIT(RANKS) | BIT(LEVEL),
     ls_ckpt_run_convert},
    {"reshard", "CKPT", 1, 1, BIT(OUTPUT) | BIT(RANKS) | BIT(LEVEL) | BIT(PARITY),
     ls_ckpt_run_reshard},
    {"prune", "RUN", 1, 1, BIT(KEEP_LAST) | BIT(KEEP_EVERY) | BIT(KEEP_BEST) | BIT(DRY_RUN),
     ls_ckpt_run_prune},
    {"latest", "RUN", 1, 1, 0, run_latest},
    {"doctor", "RUN", 1, 1, BIT(FULL) | BIT(REPAIR), ls_ckpt_run_doctor},
};

enum { ACTION_COUNT = sizeof actions / sizeof *actions };

/* Refuses options of other actions. */
static ls_status options_check(int action, const char **values) {
    for (int i = 0; i < LS_CKPT_OPTIONS; i++) {
        if (values[i] && i != LS_CKPT_JSON && !(actions[action].options & 1u << i)) {
            return LS_FAIL(LS_E_USAGE,
                           "'lockstep ckpt %s' has no --%s; 'lockstep ckpt --help' says "
                           "whose it is",
                           actions[action].name, options[i].name);
        }
    }
    return LS_OK;
}

static ls_status run(int argc, char **argv) {
    const char *values[LS_CKPT_OPTIONS], *names[ACTION_COUNT];
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
        LS_TRY(options_check(i, values));
        ls_status status = actions[i].run(given, argv + first + 1, values);
        if (fflush(stdout) != 0 && status == LS_OK) {
            status = LS_FAIL(LS_E_IO, "standard output cannot be written");
        }
        return status;
    }
    char hint[96];
    return LS_FAIL(LS_E_USAGE, "'lockstep ckpt%s%s': one of " ACTIONS " is needed%s",
                   *word ? " " : "", word,
                   ls_text_suggest(hint, sizeof hint, word, names, ACTION_COUNT));
}

const ls_verb ls_verb_ckpt = {
    .name = "ckpt",
    .synopsis = ACTIONS " CKPT ...",
    .summary = "inspect, verify, compare and convert checkpoints",
    .text =
        "ckpt ls CKPT [GLOB]            list tensors: type, shape, size, ratio\n"
        "ckpt show CKPT NAME[SLICES]    print values; SLICES as in numpy: 'w[0:4,-1]'\n"
        "ckpt show CKPT --counters      print what the run had counted so far\n"
        "ckpt show CKPT --config        print the configuration it was saved with\n"
        "ckpt stats CKPT [GLOB]         range, mean, percentiles, zeros, NaN, pieces that stand "
        "out\n"
        "ckpt verify CKPT               check hashes, chunks and coverage; status 1 when damaged\n"
        "ckpt diff A B [GLOB]           compare settings, tensors, and tell what the steps "
        "between\n"
        "                               cost; status 1 when a tensor differs\n"
        "ckpt convert --to safetensors CKPT -o DIR      a Hugging Face model of GPT-2, Llama,\n"
        "                               Mixtral, Qwen2 or Qwen3\n"
        "ckpt convert --to llmc CKPT -o FILE            llm.c's GPT-2 model file\n"
        "ckpt convert --from safetensors DIR -o ROOT    ROOT/step-00000000 of a Hugging Face "
        "model,\n"
        "                               for sample, eval and run.init; section.key=value sets its "
        "configuration\n"
        "ckpt reshard CKPT -o ROOT --ranks N            the same checkpoint by N writers\n"
        "ckpt prune RUN [--keep-last N --keep-every M --keep-best K]  remove old ones, never the\n"
        "                               newest valid one; by default what checkpoint.keep_... of "
        "the\n"
        "                               run say\n"
        "ckpt latest RUN                print the path of the newest valid checkpoint\n"
        "ckpt doctor RUN                unfinished saves, damaged checkpoints, the HDF5 plugin, "
        "and\n"
        "                               what resume would take; status 1 when something is "
        "damaged;\n"
        "                               --repair mends what parity files and dead owners allow\n"
        "\n"
        "CKPT is a checkpoint directory (step-00001200). A run directory or its checkpoints/ "
        "folder stands for the newest valid checkpoint in it; verify checks all of them.",
    .options = options,
    .run = run,
};
