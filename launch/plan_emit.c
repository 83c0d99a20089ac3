/* A plan as a script that submits it to Slurm. */
#include "launch/plan.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the planner can think of and the trainer cannot do. */
static ls_status check(const ls_plan_question *q, const ls_plan_answer *a, int *nodes) {
    const ls_plan_layout *l = &a->result.found[0].layout;
    const int each = (int)ls_cluster_value(&a->cluster, LS_FIG_NODE_DEVICES, 1.0);
    if (!a->own_bytes || q->precision > LS_PRECISION_BF16 || l->recompute == LS_REDO_ALTERNATE) {
        char layout[200];
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "`lockstep train` cannot run %s in %s with %s; keep to fp32 or bf16 and to "
                       "--layout recompute=none, selective or full, of a model in "
                       "`lockstep train --help`",
                       q->model.name, ls_precision_name(q->precision),
                       ls_plan_layout_text(l, layout, sizeof layout));
    }
    if (a->devices % each != 0) {
        return LS_FAIL(LS_E_USAGE, "%d devices are no whole nodes of %d; give --gpus %d",
                       a->devices, each, (a->devices / each + 1) * each);
    }
    *nodes = a->devices / each;
    return LS_OK;
}

/* Nodes that must share an NVLink domain: a divisor of the job's, as many as there are. */
static int segment_of(const ls_plan_answer *a, int nodes) {
    const double domain = a->cluster.figure[LS_FIG_DOMAIN_DEVICES].value;
    int segment = (int)(domain / a->cluster.figure[LS_FIG_NODE_DEVICES].value);
    segment = segment < nodes ? segment : nodes;
    while (nodes % segment != 0) {
        segment--;
    }
    return segment;
}

/* As one word of a shell. */
static void print_quoted(const char *text) {
    putchar('\'');
    for (; *text; text++) {
        printf(*text == '\'' ? "'\\''" : "%c", *text);
    }
    putchar('\'');
}

/* The profile as the job will find it: a file by its whole path. */
static ls_status print_cluster(const char *cluster) {
    char path[PATH_MAX];
    const size_t n = strlen(cluster);
    const bool file = n > 5 && strcmp(cluster + n - 5, ".yaml") == 0;
    if (file && !realpath(cluster, path)) {
        return LS_FAIL(LS_E_INPUT, "'%s' cannot be found: %s", cluster, strerror(errno));
    }
    printf("cost.cluster=");
    print_quoted(file ? path : cluster);
    putchar('\n');
    return LS_OK;
}

ls_status ls_plan_emit_sbatch(const ls_plan_question *q, const ls_plan_answer *a,
                              const char *cluster) {
    const ls_plan_found *best = &a->result.found[0];
    const bool racks = a->cluster.figure[LS_FIG_DOMAIN_DEVICES].value >
                       a->cluster.figure[LS_FIG_NODE_DEVICES].value;
    const int each = (int)ls_cluster_value(&a->cluster, LS_FIG_NODE_DEVICES, 1.0);
    const char *file = a->rates.shared_engine ? "cpu" : racks ? "gb200" : "h100";
    char folder[1024], layout[200], step[32], usd[32];
    int nodes = 1;
    LS_TRY(check(q, a, &nodes));
    LS_TRY(ls_cluster_dir(folder, sizeof folder - 16));
    strcat(folder, "/../slurm");
    printf("#!/bin/sh\n# %s on %d %s: %s\n# predicted: %s a step, %.1f %% MFU, %.2f days, cost %s\n"
           "# usage: sh FILE [CONFIG.yaml] data.dir=/shared/data [section.key=value ...]\nfolder=",
           q->model.name, a->devices, a->cluster.text[LS_CLUSTER_KIND],
           ls_plan_layout_text(&best->layout, layout, sizeof layout),
           ls_text_duration(step, sizeof step, best->cost.step_s), 100 * best->cost.mfu_causal,
           a->bill.days, ls_text_usd(usd, sizeof usd, a->bill.usd));
    print_quoted(folder);
    printf("\nexec sbatch --job-name=\"${RUN_NAME:-%s}\" --nodes=%d --ntasks-per-node=%d",
           q->model.name, nodes, each);
    if (!a->rates.shared_engine) {
        printf(" --gpus-per-node=%d", each);
    }
    if (racks && !a->rates.shared_engine) {
        printf(" --segment=%d", segment_of(a, nodes));
    }
    printf(" \\\n    \"${LOCKSTEP_SLURM:-$folder}/%s.sbatch\" \"$@\"", file);
    char *set[LS_PLAN_SETTINGS];
    const int count = ls_plan_settings(q, a, &best->layout, set);
    for (int i = 0; i < count; i++) {
        printf(" \\\n    %s", set[i] ? set[i] : "");
        free(set[i]);
    }
    printf(" \\\n    numerics.compute=%s run.tokens=%.0f ", ls_precision_name(q->precision),
           q->bill.tokens);
    return print_cluster(cluster);
}
