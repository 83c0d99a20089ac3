/* `ckpt prune` and `ckpt doctor`. */
#include "checkpoint/prune.h"
#include "checkpoint/repair.h"
#include "launch/ckpt_verbs.h"
#include "launch/cmd.h"
#include "launch/doctor.h"
#include "launch/json_text.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"
#include "runtime/config/config.h"
#include "runtime/counters/counters.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The folder of the checkpoints that are looked after. */
static ls_status find_root(const char *given, char *root, size_t size) {
    char manifest[4200];
    LS_TRY(ls_ckpt_root(given, root, size));
    LS_TRY(ls_path_join(manifest, sizeof manifest, root, "manifest.json"));
    return ls_path_exists(manifest)
               ? LS_FAIL(LS_E_INPUT,
                         "'%s' is a checkpoint; give the run or the folder that holds it", given)
               : LS_OK;
}

static ls_status plan_print(const char *root, const ls_ckpt_verdict *plan, size_t count, bool dry,
                            bool json) {
    int64_t removed_bytes = 0;
    int removed = 0;
    char bytes[32], *safe;
    json_t *list = json ? json_array() : NULL;
    for (size_t i = 0; i < count; i++) {
        const ls_ckpt_verdict *v = &plan[i];
        bool remove = v->fate == LS_FATE_REMOVE;
        removed += remove;
        removed_bytes += remove ? v->stored_bytes : 0;
        if (json) {
            json_array_append_new(list,
                                  json_pack("{s:I,s:b,s:s,s:I,s:o}", "step", (json_int_t)v->step,
                                            "removed", remove, "why", ls_ckpt_fate_name(v->fate),
                                            "stored_bytes", (json_int_t)v->stored_bytes, "val_loss",
                                            ls_json_real(v->val_loss)));
        } else if (v->fate == LS_FATE_DAMAGED) {
            printf("left     step-%08lld  damaged: %s\n", (long long)v->step,
                   ls_ckpt_safe(v->fault, &safe));
            free(safe);
        } else {
            printf("%-8s  step-%08lld  %s%s%s\n", remove ? (dry ? "would go" : "removed") : "kept",
                   (long long)v->step, ls_text_bytes(bytes, sizeof bytes, (double)v->stored_bytes),
                   remove ? "" : "  ", remove ? "" : ls_ckpt_fate_name(v->fate));
        }
    }
    if (json) {
        return ls_ckpt_print_json(json_pack("{s:s,s:o,s:b,s:i,s:I,s:o}", "schema",
                                            "lockstep.ckpt.prune/1", "root", ls_json_text(root),
                                            "dry_run", dry, "removed", removed, "removed_bytes",
                                            (json_int_t)removed_bytes, "checkpoints", list));
    }
    printf("%d checkpoint%s, %s%s\n", removed, removed == 1 ? "" : "s",
           ls_text_bytes(bytes, sizeof bytes, (double)removed_bytes),
           dry ? " would be freed" : " freed");
    return LS_OK;
}

/* What the run that wrote the newest checkpoint is set to keep. */
static ls_status keep_of_run(const char *root, ls_ckpt_keep *keep) {
    ls_ckpt *ckpt;
    ls_config config;
    LS_TRY(ls_ckpt_open_latest(root, &ckpt));
    const ls_status status = ls_ckpt_settings(ckpt, &config);
    ls_ckpt_close(ckpt);
    LS_TRY(status);
    const ls_config_checkpoint *set = &config.checkpoint;
    *keep = (ls_ckpt_keep){set->keep_last, set->keep_every, set->keep_best};
    return keep->last || keep->every || keep->best
               ? LS_OK
               : LS_FAIL(LS_E_USAGE,
                         "the run in '%s' is set to keep all checkpoints (checkpoint.keep_...); "
                         "give --keep-last N, --keep-every M, --keep-best K or several",
                         root);
}

static ls_status read_keep(const char *root, const char **values, ls_ckpt_keep *keep) {
    const int given[] = {LS_CKPT_KEEP_LAST, LS_CKPT_KEEP_EVERY, LS_CKPT_KEEP_BEST};
    static const char *const names[] = {"keep-last", "keep-every", "keep-best"};
    long long numbers[3] = {0};
    bool any = false;
    for (int i = 0; i < 3; i++) {
        const char *value = values[given[i]];
        any = any || value;
        LS_TRY(value ? ls_option_int(names[i], value, 1, INT64_MAX, &numbers[i]) : LS_OK);
    }
    *keep = (ls_ckpt_keep){numbers[0], numbers[1], numbers[2]};
    return any ? LS_OK : keep_of_run(root, keep);
}

ls_status ls_ckpt_run_prune(int argc, char **argv, const char **values) {
    (void)argc;
    char root[4096];
    ls_ckpt_keep keep;
    ls_ckpt_verdict *plan;
    size_t count;
    bool dry = values[LS_CKPT_DRY_RUN] != NULL;
    LS_TRY(find_root(argv[0], root, sizeof root));
    LS_TRY(read_keep(root, values, &keep));
    LS_TRY(ls_ckpt_prune_plan(root, &keep, &plan, &count));
    ls_status status = dry ? LS_OK : ls_ckpt_prune_carry_out(root, plan, count);
    if (status == LS_OK) {
        status = plan_print(root, plan, count, dry, values[LS_CKPT_JSON] != NULL);
    }
    free(plan);
    return status;
}

typedef struct examination {
    char root[4096];
    bool full, json, plugin, repair;
    int repaired; /* files made again */
    ls_ckpt_verdict *plan;
    size_t count;
    ls_ckpt_stale *stale;
    size_t stale_count;
    int64_t resume; /* step, -1: none */
    int damaged;
} examination;

static void repaired(void *context, const char *file) {
    char *safe;
    fprintf(stderr, "made again: %s/%s\n", (const char *)context, ls_ckpt_safe(file, &safe));
    free(safe);
}

/* What cannot be repaired is found damaged afterwards. */
static ls_status repair_all(examination *e) {
    int64_t *steps;
    size_t count;
    LS_TRY(ls_ckpt_list(e->root, &steps, &count));
    ls_status status = ls_ckpt_stale_sweep(e->root, false);
    for (size_t i = 0; i < count && status == LS_OK; i++) {
        int files = 0;
        char *path = ls_text_format("%s/step-%08lld", e->root, (long long)steps[i]);
        ls_status mended = path ? ls_ckpt_repair(path, repaired, path, &files)
                                : LS_FAIL(LS_E_MEMORY, "no memory for a path");
        status = mended == LS_E_MEMORY || mended == LS_E_IO ? mended : LS_OK;
        e->repaired += files;
        free(path);
    }
    free(steps);
    return status;
}

/* Every hash of a checkpoint that looks right so far. */
static ls_status look_closely(const examination *e, ls_ckpt_verdict *v, bool *loadable) {
    ls_ckpt *ckpt = NULL;
    char *path = ls_text_format("%s/step-%08lld", e->root, (long long)v->step);
    ls_status status =
        path ? ls_ckpt_open(path, &ckpt) : LS_FAIL(LS_E_MEMORY, "no memory for a path");
    if (status == LS_OK) {
        status = ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_FULL, NULL, NULL);
    }
    *loadable = ckpt && ls_ckpt_is_loadable(ckpt);
    ls_ckpt_close(ckpt);
    free(path);
    if (status != LS_OK && (v->lost == 0 || !*loadable)) {
        snprintf(v->fault, sizeof v->fault, "%.255s", ls_error_last()->message);
    }
    v->fate = status == LS_OK ? v->fate : LS_FATE_DAMAGED;
    return status == LS_E_MEMORY ? status : LS_OK;
}

static ls_status examine(examination *e) {
    LS_TRY(e->repair ? repair_all(e) : LS_OK);
    LS_TRY(ls_ckpt_prune_plan(e->root, &(ls_ckpt_keep){0}, &e->plan, &e->count));
    LS_TRY(ls_ckpt_stale_list(e->root, &e->stale, &e->stale_count));
    e->resume = -1;
    for (size_t i = 0; i < e->count; i++) {
        ls_ckpt_verdict *v = &e->plan[i];
        bool loadable = v->fate != LS_FATE_DAMAGED;
        if (loadable && v->lost > 0) {
            v->fate = LS_FATE_DAMAGED;
            snprintf(v->fault, sizeof v->fault,
                     "%d of its files are lost or have another size; parity files make up for "
                     "them: --repair makes them again",
                     v->lost);
        }
        if (e->full && loadable) {
            LS_TRY(look_closely(e, v, &loadable));
        }
        e->resume = e->resume < 0 && loadable ? v->step : e->resume;
        e->damaged += v->fate == LS_FATE_DAMAGED;
    }
    return LS_OK;
}

static ls_status examination_json(const examination *e) {
    json_t *checkpoints = json_array(), *stale = json_array();
    for (size_t i = 0; i < e->count; i++) {
        const ls_ckpt_verdict *v = &e->plan[i];
        bool ok = v->fate != LS_FATE_DAMAGED;
        json_array_append_new(checkpoints,
                              json_pack("{s:I,s:b,s:I,s:o}", "step", (json_int_t)v->step, "ok", ok,
                                        "stored_bytes", (json_int_t)v->stored_bytes, "fault",
                                        ok ? json_null() : ls_json_text(v->fault)));
    }
    for (size_t i = 0; i < e->stale_count; i++) {
        const ls_ckpt_stale *s = &e->stale[i];
        json_array_append_new(stale, json_pack("{s:o,s:I,s:f,s:o,s:b}", "name",
                                               ls_json_text(s->name), "bytes", (json_int_t)s->bytes,
                                               "age_s", s->age_s, "owner", ls_json_text(s->owner),
                                               "owner_gone", s->state == LS_OWNER_GONE));
    }
    return ls_ckpt_print_json(json_pack(
        "{s:s,s:o,s:s,s:b,s:i,s:o,s:i,s:o,s:o}", "schema", "lockstep.ckpt.doctor/1", "root",
        ls_json_text(e->root), "mode", e->full ? "full" : "quick", "plugin", e->plugin, "repaired",
        e->repaired, "resume", e->resume < 0 ? json_null() : json_integer(e->resume), "damaged",
        e->damaged, "checkpoints", checkpoints, "unfinished", stale));
}

static void examination_print(const examination *e) {
    char bytes[32], age[32], *safe;
    for (size_t i = 0; i < e->count; i++) {
        const ls_ckpt_verdict *v = &e->plan[i];
        bool ok = v->fate != LS_FATE_DAMAGED;
        printf("%-4s  step-%08lld  %s\n", ok ? "ok" : "BAD", (long long)v->step,
               ok ? ls_text_bytes(bytes, sizeof bytes, (double)v->stored_bytes)
                  : ls_ckpt_safe(v->fault, &safe));
        if (!ok) {
            free(safe);
        }
    }
    for (size_t i = 0; i < e->stale_count; i++) {
        const ls_ckpt_stale *s = &e->stale[i];
        printf("note  %s, %s, is what %s has not finished, last changed %s ago; %s\n",
               ls_ckpt_safe(s->name, &safe), ls_text_bytes(bytes, sizeof bytes, (double)s->bytes),
               s->owner, ls_text_duration(age, sizeof age, s->age_s),
               s->state == LS_OWNER_GONE      ? "it is gone: --repair removes this"
               : s->state == LS_OWNER_UNKNOWN ? "if it is gone, remove this"
                                              : "it is at work");
        free(safe);
    }
    if (!e->plugin) {
        printf("note  HDF5 finds no filter 32015 (zstd): h5dump and h5py show no values until "
               "HDF5_PLUGIN_PATH is '%s'\n",
               ls_doctor_plugin_path());
    }
    if (e->resume >= 0) {
        printf("resume takes step-%08lld%s\n", (long long)e->resume,
               e->full
                   ? ""
                   : " (by what its files are called and how long they are; --full reads them)");
    } else {
        printf("resume finds nothing\n");
    }
}

ls_status ls_ckpt_run_doctor(int argc, char **argv, const char **values) {
    (void)argc;
    examination e = {.full = values[LS_CKPT_FULL] != NULL,
                     .repair = values[LS_CKPT_REPAIR] != NULL,
                     .json = values[LS_CKPT_JSON] != NULL,
                     .plugin = ls_ckpt_plugin_found()}; /* before the filter is registered */
    LS_TRY(find_root(argv[0], e.root, sizeof e.root));
    ls_status status = examine(&e);
    if (status == LS_OK && e.json) {
        status = examination_json(&e);
    } else if (status == LS_OK) {
        examination_print(&e);
    }
    if (status == LS_OK && e.damaged > 0) {
        status = LS_FAIL(LS_E_CORRUPT, "%d of %zu checkpoints in '%s' are damaged", e.damaged,
                         e.count, e.root);
    } else if (status == LS_OK && e.resume < 0) {
        status = LS_FAIL(LS_E_NO, "'%s' holds no checkpoint to resume from", e.root);
    }
    free(e.plan);
    free(e.stale);
    return status;
}
