/* `ckpt verify`: one checkpoint, or all of a run. */
#include "launch/ckpt_verbs.h"
#include "launch/json_text.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const mode_names[] = {[LS_CKPT_VERIFY_QUICK] = "quick",
                                         [LS_CKPT_VERIFY_FULL] = "full",
                                         [LS_CKPT_VERIFY_DEEP] = "deep"};

static void note_fault(void *faults, const char *fault) {
    json_array_append_new(faults, ls_json_text(fault));
}

/* Verifies one checkpoint and prints its line, or adds its object to list. *mendable counts those
 * that are damaged and have parity files. */
static ls_status verify_one(const char *path, ls_ckpt_depth depth, json_t *list, size_t *mendable) {
    ls_ckpt *ckpt = NULL;
    json_t *faults = json_array();
    ls_status status = ls_ckpt_open(path, &ckpt);
    if (status == LS_OK) {
        status = ls_ckpt_verify(ckpt, depth, note_fault, faults);
    } else {
        note_fault(faults, ls_error_last()->message);
    }
    ls_ckpt_info info = ckpt ? ls_ckpt_describe(ckpt) : (ls_ckpt_info){0};
    *mendable += status != LS_OK && info.parity_bytes > 0;
    if (list) {
        json_array_append_new(list, json_pack("{s:o,s:b,s:O}", "path", ls_json_text(path), "ok",
                                              status == LS_OK, "faults", faults));
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
        printf("  %s\n", mode_names[depth]);
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
static ls_status verify_all(const char *given, ls_ckpt_depth depth, json_t *list) {
    char root[4096];
    int64_t *steps;
    size_t count, damaged = 0, mendable = 0;
    LS_TRY(ls_ckpt_root(given, root, sizeof root));
    LS_TRY(ls_ckpt_list(root, &steps, &count));
    if (count == 0) {
        free(steps);
        return verify_one(root, depth, list, &mendable);
    }
    ls_status worst = LS_OK;
    for (size_t i = 0; i < count; i++) {
        char *path = ls_text_format("%s/step-%08lld", root, (long long)steps[i]);
        ls_status status = path ? verify_one(path, depth, list, &mendable)
                                : LS_FAIL(LS_E_MEMORY, "no memory for a path");
        free(path);
        damaged += status != LS_OK;
        if (status != LS_OK && worst == LS_OK) {
            worst = status;
        }
    }
    free(steps);
    return worst == LS_OK
               ? LS_OK
               : LS_FAIL(worst, "%zu of %zu checkpoints in '%s' failed%s", damaged, count, root,
                         mendable > 0
                             ? "; there are parity files: try 'lockstep ckpt doctor --repair'"
                             : "");
}

ls_status ls_ckpt_run_verify(int argc, char **argv, const char **values) {
    (void)argc;
    bool quick = values[LS_CKPT_QUICK] != NULL, deep = values[LS_CKPT_DEEP] != NULL;
    if (quick + deep + (values[LS_CKPT_FULL] != NULL) > 1) {
        return LS_FAIL(LS_E_USAGE, "--quick, --full and --deep exclude each other");
    }
    ls_ckpt_depth depth = quick  ? LS_CKPT_VERIFY_QUICK
                          : deep ? LS_CKPT_VERIFY_DEEP
                                 : LS_CKPT_VERIFY_FULL;
    if (!values[LS_CKPT_JSON]) {
        return verify_all(argv[0], depth, NULL);
    }
    json_t *list = json_array();
    ls_status status = verify_all(argv[0], depth, list);
    ls_error error = *ls_error_last();
    json_t *object = json_pack("{s:s,s:s,s:o}", "schema", "lockstep.ckpt.verify/1", "mode",
                               mode_names[depth], "checkpoints", list);
    LS_TRY(ls_ckpt_print_json(object));
    return status == LS_OK ? LS_OK : ls_error_restore(&error);
}
