#include "launch/cmd.h"
#include "launch/doctor.h"
#include "launch/json_text.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPT_DIR, OPT_CLUSTER, OPT_THREADS, OPT_BRIEF, OPT_JSON, OPT_COUNT };

static const ls_option options[] = {
    [OPT_DIR] = {"dir", 'd', "DIR", NULL,
                 "where runs are to be kept; default: runs, if it is there"},
    [OPT_CLUSTER] = {"cluster", 'c', "PROFILE", NULL,
                     "compare the bandwidth between ranks with this profile, a name or a file: "
                     "below 70% of it WARN, below 30% FAIL"},
    [OPT_THREADS] = {"threads", 0, "N", "0",
                     "threads of a rank; 0: the host's divided by its ranks"},
    [OPT_BRIEF] = {"brief", 0, NULL, NULL, "print what is no PASS, and one line of each host"},
    [OPT_JSON] = {"json", 0, NULL, NULL, "print JSON"},
    {NULL, 0, NULL, NULL, NULL}};

static const char *const verdicts[] = {"PASS", "WARN", "FAIL"};

static void count(const ls_findings *findings, int64_t counts[3]) {
    for (int64_t i = 0; i < findings->count; i++) {
        counts[findings->list[i].verdict]++;
    }
}

static void print_counts(const int64_t counts[3]) {
    printf("%lld passed, %lld warned of, %lld failed\n", (long long)counts[LS_PASS],
           (long long)counts[LS_WARN], (long long)counts[LS_FAULT]);
}

/* A line of each host; how many there are. */
static int print_hosts(const ls_findings *all, int ranks) {
    int hosts = 0;
    for (int r = 0; r < ranks; r++) {
        int64_t counts[3] = {0};
        int first = ranks;
        for (int s = ranks - 1; s >= 0 && all[r].count; s--) {
            if (all[s].count && strcmp(all[s].list[0].host, all[r].list[0].host) == 0) {
                count(&all[s], counts);
                first = s;
            }
        }
        if (first == r) {
            printf("%s: ", all[r].list[0].host);
            print_counts(counts);
            hosts++;
        }
    }
    return hosts;
}

static void print_text(const ls_findings *all, int ranks, bool brief, const int64_t counts[3]) {
    for (int r = 0; r < ranks; r++) {
        for (int64_t i = 0; i < all[r].count; i++) {
            const ls_finding *f = &all[r].list[i];
            if (f->verdict != LS_PASS || !brief) {
                printf("%s  %-16s %s: %s\n", verdicts[f->verdict], f->check, f->host, f->text);
            }
        }
    }
    if (!brief || print_hosts(all, ranks) != 1) { /* of one it has told all */
        print_counts(counts);
    }
}

static ls_status print_json(const ls_findings *all, int ranks, bool fit) {
    bool complete = true;
    json_t *list = json_array();
    for (int r = 0; r < ranks; r++) {
        for (int64_t i = 0; i < all[r].count; i++) {
            const ls_finding *f = &all[r].list[i];
            json_t *one = json_pack("{s:s, s:s, s:s, s:i, s:s}", "check", f->check, "verdict",
                                    verdicts[f->verdict], "host", f->host, "rank", (int)f->rank,
                                    "text", f->text);
            complete = json_array_append_new(list, one) == 0 && complete;
        }
    }
    json_t *report = json_pack("{s:s, s:i, s:b, s:o}", "schema", "lockstep-doctor", "version", 1,
                               "fit", fit, "findings", list);
    if (!complete) {
        json_decref(report);
        report = NULL;
    }
    return ls_json_print(report, LS_JSON_ALL_DIGITS);
}

/* On rank 0: the findings of all ranks, and whether one of them is a fault. */
static ls_status print_findings(const ls_findings *all, int ranks, const char **values,
                                int32_t *unfit) {
    int64_t counts[3] = {0};
    for (int r = 0; r < ranks; r++) {
        count(&all[r], counts);
    }
    *unfit = counts[LS_FAULT] > 0;
    if (values[OPT_JSON]) {
        return print_json(all, ranks, !*unfit);
    }
    print_text(all, ranks, values[OPT_BRIEF] != NULL, counts);
    return LS_OK;
}

/* Where the ranks cannot talk as a run's ranks would, the other checks are made over plain MPI. */
static ls_status connect(ls_session *session, ls_findings *findings) {
    if (ls_session_connect(session, LS_CFG_AUTO) == LS_OK) {
        return LS_OK;
    }
    if (session->world->rank == 0) {
        ls_findings_add(findings, "transport", LS_FAULT, "%.250s", ls_error_last()->message);
    }
    return ls_session_connect(session, LS_CFG_MPI);
}

static ls_status examine(ls_session *session, const char *dir, const ls_cluster *profile,
                         const char **values) {
    static ls_findings mine; /* large */
    LS_TRY(connect(session, &mine));
    ls_comm *comm = session->comm;
    if (session->mesh.host_rank == 0) {
        ls_doctor_node(&mine, dir);
    }
    LS_TRY(ls_doctor_job(session, &mine, dir, profile));
    ls_findings *all;
    LS_TRY(ls_session_agree(session, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    ls_status status = comm->ops->all_gather(comm, &mine, all, sizeof mine);
    int32_t unfit = 0;
    if (status == LS_OK && comm->rank == 0) {
        status = print_findings(all, comm->size, values, &unfit);
    }
    free(all);
    status = ls_session_agree(session, status);
    if (status == LS_OK) {
        status = comm->ops->broadcast(comm, &unfit, sizeof unfit, 0);
    }
    if (status == LS_OK && unfit) {
        status = LS_FAIL(LS_E_NO, "this job's nodes are not fit to train; see the lines above that "
                                  "say FAIL");
    }
    return ls_session_agree(session, status);
}

static ls_status run_doctor(int argc, char **argv) {
    ls_session session;
    LS_TRY(ls_session_begin(&session, &argc, &argv));
    const char *values[OPT_COUNT];
    int first;
    long long threads = 0;
    ls_status status = ls_options_parse(&ls_verb_doctor, argc, argv, values, &first);
    if (status == LS_OK && first < argc) {
        status = LS_FAIL(LS_E_USAGE, "'%s' is not an option; usage: lockstep doctor %s",
                         argv[first], ls_verb_doctor.synopsis);
    }
    if (status == LS_OK && values[OPT_THREADS]) {
        status = ls_option_int("threads", values[OPT_THREADS], 0, 4096, &threads);
    }
    LS_TRY(ls_session_agree(&session, status));
    static ls_cluster profile; /* large */
    if (values[OPT_CLUSTER]) {
        LS_TRY(ls_session_agree(&session, ls_cluster_load(values[OPT_CLUSTER], &profile)));
    }
    const char *dir = values[OPT_DIR];
    int32_t there = !dir && ls_path_is_dir("runs");
    LS_TRY(session.comm->ops->broadcast(session.comm, &there, sizeof there, 0));
    dir = there ? "runs" : dir;
    LS_TRY(ls_session_open(&session, NULL, LS_CFG_DEVICE_CPU, threads));
    status = examine(&session, dir, values[OPT_CLUSTER] ? &profile : NULL, values);
    ls_session_close(&session);
    return status;
}

const ls_verb ls_verb_doctor = {
    .name = "doctor",
    .synopsis = "[--dir DIR] [--cluster PROFILE] [--brief] [--json]",
    .summary = "is this node, or are these nodes, fit to train?",
    .text =
        "Examines the machine: processor, memory, shared memory, limits, HDF5's plugin, the disk "
        "of\n"
        "DIR. Under mpirun or srun it examines every node, and the job: the same program and\n"
        "libraries everywhere, clocks, a DIR that all nodes see, ranks that are slower than the\n"
        "others, the bandwidth between them, beside that of a profile. PASS, WARN or FAIL, and "
        "what to do; exit status 1\n"
        "when something failed.\n"
        "\n"
        "  lockstep doctor --dir runs\n"
        "  srun --mpi=pmix lockstep doctor --dir /shared/runs",
    .options = options,
    .run = run_doctor,
};
