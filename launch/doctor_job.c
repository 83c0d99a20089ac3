#include "collectives/comm_domain.h"
#include "collectives/wire_cost.h"
#include "launch/docs.h"
#include "launch/doctor.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/sort.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the bandwidth that a profile promises: below them a warning, and a fault. Best cases on a
 * shared network differ by a third. */
#define ENOUGH     0.7
#define TOO_LITTLE 0.3

/* The libraries and their versions, as --version prints them without the processor's line: nodes
 * may differ in that. */
static ls_status libraries(char **text) {
    size_t bytes = 0;
    *text = NULL;
    FILE *f = open_memstream(text, &bytes);
    if (!f) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the libraries' names");
    }
    ls_docs_version(f);
    if (fclose(f) != 0) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the libraries' names");
    }
    char *line = strstr(*text, "processor");
    char *end = line ? strchr(line, '\n') : NULL;
    if (end) {
        memmove(line, end + 1, strlen(end + 1) + 1);
    }
    return LS_OK;
}

/* The lines of `mine` that `first` lacks, on one line with commas. */
static void tell_differences(char *mine, const char *first, char *out, size_t size) {
    size_t used = 0;
    out[0] = '\0';
    for (char *rest, *line = strtok_r(mine, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        const char *there = strstr(first, line);
        const size_t length = strlen(line);
        const bool same = there && (there == first || there[-1] == '\n') &&
                          (there[length] == '\n' || there[length] == '\0');
        if (!same && used < size) {
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", line);
        }
    }
}

static ls_status check_libraries(ls_session *session, ls_findings *findings) {
    ls_comm *comm = session->comm;
    char *text = NULL, first[1024] = "", differences[160];
    LS_TRY(ls_session_agree(session, libraries(&text)));
    snprintf(first, sizeof first, "%s", comm->rank == 0 ? text : "");
    ls_status status = comm->ops->broadcast(comm, first, sizeof first, 0);
    if (status == LS_OK && strncmp(text, first, sizeof first - 1) != 0) {
        tell_differences(text, first, differences, sizeof differences);
        ls_findings_add(findings, "libraries", LS_FAULT,
                        "not those of rank 0, which has not: %s; install the same versions on all "
                        "nodes ('lockstep --version' shows them)",
                        differences);
    } else if (status == LS_OK && comm->rank == 0) {
        ls_findings_add(findings, "libraries", LS_PASS, "lockstep " LS_VERSION ", %s",
                        ls_comm_mpi_version());
    }
    free(text);
    return status;
}

/* Cristian's algorithm over a few rounds of a barrier: the round with the least delay counts. */
static ls_status check_clocks(ls_session *session, ls_findings *findings) {
    ls_comm *comm = session->comm;
    double best_s = INFINITY, offset_s = 0.0;
    for (int round = 0; round < 8; round++) {
        LS_TRY(comm->ops->barrier(comm));
        uint64_t begin = ls_clock_ns();
        double mine_s = ls_clock_wall_s(), first_s = mine_s;
        LS_TRY(comm->ops->broadcast(comm, &first_s, sizeof first_s, 0));
        LS_TRY(comm->ops->barrier(comm));
        double delay_s = 1e-9 * (double)(ls_clock_ns() - begin);
        if (delay_s < best_s) {
            best_s = delay_s;
            offset_s = mine_s - first_s;
        }
    }
    double most_s = fmax(0.0, fabs(offset_s) - best_s);
    if (most_s > 1.0) {
        ls_findings_add(findings, "clock", LS_WARN,
                        "%.1f s away from that of rank 0; records of restarts compare clocks: run "
                        "a time service (chrony) on the nodes",
                        offset_s);
    }
    LS_TRY(comm->ops->all_reduce(comm, &most_s, 1, LS_F64, LS_MAX));
    if (most_s <= 1.0 && comm->rank == 0) {
        ls_findings_add(findings, "clock", LS_PASS, "all within %.0f ms of that of rank 0",
                        ceil(1e3 * fmax(most_s, best_s)));
    }
    return LS_OK;
}

/* By a file with a name of this job's own: others may examine the same directory. */
static ls_status check_shared_dir(ls_session *session, ls_findings *findings, const char *dir) {
    ls_comm *comm = session->comm;
    char name[128] = "", host[65] = "", path[1100];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, ".lockstep-doctor-%s-%ld", host, (long)getpid());
    LS_TRY(comm->ops->broadcast(comm, name, sizeof name, 0));
    snprintf(path, sizeof path, "%.900s/%s", dir, name);
    ls_status status = comm->rank == 0 ? ls_file_replace(path, "seen", 4) : LS_OK;
    LS_TRY(ls_session_agree(session, status));
    int32_t unseen = !ls_path_exists(path);
    if (unseen) {
        ls_findings_add(findings, "shared directory", LS_FAULT,
                        "'%s' is not the one that rank 0 sees; put run.dir on a file system that "
                        "all nodes share",
                        dir);
    }
    LS_TRY(comm->ops->all_reduce(comm, &unseen, 1, LS_I32, LS_MAX));
    if (comm->rank == 0) {
        remove(path);
        if (!unseen) {
            ls_findings_add(findings, "shared directory", LS_PASS, "all ranks see '%s'", dir);
        }
    }
    return LS_OK;
}

/* FLOP/s of a matrix product that fits the caches, the best of a few. */
static ls_status compute_rate(ls_session *session, double *rate) {
    enum { N = 768, REPEATS = 5 };
    ls_device *dev = session->dev;
    void *memory;
    LS_TRY(dev->ops->alloc(dev, 3 * (size_t)N * N * sizeof(float), &memory));
    float *a = memory;
    const ls_gemm op = {.dtype = LS_F32,
                        .c_dtype = LS_F32,
                        .m = N,
                        .n = N,
                        .k = N,
                        .a = a,
                        .lda = N,
                        .b = a + (size_t)N * N,
                        .ldb = N,
                        .c = a + 2 * (size_t)N * N,
                        .ldc = N};
    ls_status status = dev->ops->zero(dev, memory, 3 * (size_t)N * N * sizeof(float));
    double best_s = INFINITY;
    for (int i = 0; i < REPEATS && status == LS_OK; i++) {
        uint64_t begin = ls_clock_ns();
        status = dev->ops->gemm(dev, &op);
        if (status == LS_OK) {
            status = dev->ops->sync(dev);
        }
        best_s = fmin(best_s, 1e-9 * (double)(ls_clock_ns() - begin));
    }
    dev->ops->free(dev, memory);
    *rate = 2.0 * N * N * N / best_s;
    return status;
}

/* Ranks well below the median hold back all others: every step waits for the slowest. */
static ls_status check_speed(ls_session *session, ls_findings *findings) {
    ls_comm *comm = session->comm;
    double mine = 0.0, *all;
    LS_TRY(ls_session_agree(session, compute_rate(session, &mine)));
    LS_TRY(ls_session_agree(session, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    ls_status status = comm->ops->all_gather(comm, &mine, all, sizeof mine);
    if (status == LS_OK) {
        ls_sort_doubles(all, (size_t)comm->size);
        double median = all[comm->size / 2];
        if (mine < 0.7 * median) {
            ls_findings_add(findings, "speed", LS_WARN,
                            "%.1f GFLOP/s, while the median of the ranks is %.1f: every step will "
                            "wait for this rank; look for other jobs and throttling, or leave the "
                            "node out",
                            1e-9 * mine, 1e-9 * median);
        } else if (comm->rank == 0) {
            ls_findings_add(findings, "speed", LS_PASS, "median of the ranks %.1f GFLOP/s in fp32",
                            1e-9 * median);
        }
    }
    free(all);
    return status;
}

/* Seconds of an all-reduce over the job's ranks by the profile's links; NAN: it does not know them.
 */
static double profile_seconds(const ls_cluster *c, const ls_mesh *mesh, double bytes) {
    const double link = ls_cluster_value(c, LS_FIG_LINK_GB_S, NAN) * 1e9;
    const double network = ls_cluster_value(c, LS_FIG_NETWORK_GBIT_S, NAN) * 1e9 / 8;
    const ls_wire_hierarchy h = {
        .inner = mesh->world / mesh->hosts,
        .outer = mesh->hosts,
        .inside = {.latency_s = 1e-6 * ls_cluster_value(c, LS_FIG_LINK_LATENCY_US, 0.0),
                   .bytes_per_s = link},
        .across = {.latency_s = 1e-6 * ls_cluster_value(c, LS_FIG_NETWORK_LATENCY_US, 0.0),
                   .bytes_per_s = network}};
    if ((h.inner > 1 && isnan(link)) || (h.outer > 1 && isnan(network))) {
        return NAN;
    }
    return ls_wire_hierarchical_time_s(LS_COLL_ALL_REDUCE, &h, bytes);
}

/* What was measured, beside the profile's links. Those of a GPU cluster are not what the ranks of
 * doctor talk over. */
static void compare_network(const ls_cluster *c, const ls_mesh *mesh, double bytes, double seconds,
                            double bus, ls_findings *findings) {
    const char *kind = c->text[LS_CLUSTER_KIND], *name = c->text[LS_CLUSTER_NAME];
    const double expected_s = profile_seconds(c, mesh, bytes);
    if ((kind[0] && !ls_cluster_on_host(c)) || isnan(expected_s)) {
        ls_findings_add(findings, "profile", LS_WARN,
                        "not compared: '%.60s' %s; 'lockstep bench collective' and 'bench machine' "
                        "with --profile "
                        "measure one of these nodes",
                        name, isnan(expected_s) ? "does not know these links" : "is of GPUs");
        return;
    }
    const double part = expected_s / seconds, wanted = bus * seconds / expected_s;
    if (part >= ENOUGH) {
        ls_findings_add(findings, "profile", LS_PASS,
                        "%.0f%% of the all-reduce bandwidth of '%.60s', %.2f GB/s", 100.0 * part,
                        name, 1e-9 * wanted);
    } else {
        ls_findings_add(findings, "profile", part >= TOO_LITTLE ? LS_WARN : LS_FAULT,
                        "%.2f GB/s all-reduce bandwidth, %.1f%% of the %.2f GB/s of '%.60s'; look "
                        "for a slow link or another job, and which interface MPI took (run.sh "
                        "--interface)",
                        1e-9 * bus, 100.0 * part, 1e-9 * wanted, name);
    }
}

static ls_status check_network(ls_session *session, ls_findings *findings,
                               const ls_cluster *profile) {
    enum { MIB = 32, REPEATS = 3 };
    ls_comm *comm = session->comm;
    const int64_t count = (int64_t)MIB << 18;
    void *buffer;
    LS_TRY(comm->ops->alloc(comm, count * 4, &buffer));
    double best_s = INFINITY;
    ls_status status = LS_OK;
    for (int i = 0; i < REPEATS && status == LS_OK; i++) {
        status = comm->ops->barrier(comm);
        uint64_t begin = ls_clock_ns();
        if (status == LS_OK) {
            status = comm->ops->all_reduce(comm, buffer, count, LS_F32, LS_SUM);
        }
        best_s = fmin(best_s, 1e-9 * (double)(ls_clock_ns() - begin));
    }
    comm->ops->give_back(comm, buffer);
    LS_TRY(status);
    if (comm->rank == 0) {
        double n = comm->size, bus = (double)(count * 4) / best_s * 2.0 * (n - 1.0) / n;
        ls_findings_add(findings, "all-reduce", LS_PASS,
                        "%.2f GB/s bus bandwidth over %d ranks on %d host%s (%s, 32 MiB)",
                        bus * 1e-9, comm->size, session->mesh.hosts,
                        session->mesh.hosts == 1 ? "" : "s", comm->ops->name);
        if (profile) {
            compare_network(profile, &session->mesh, (double)(count * 4), best_s, bus, findings);
        }
    }
    return LS_OK;
}

/* Which ranks' GPUs reach each other by NVLink, one GPU a rank; nothing where there are no GPUs. */
static ls_status check_domains(ls_session *session, ls_findings *findings) {
    ls_comm *comm = session->comm;
    ls_nvml *nvml = NULL;
    uint64_t *domains = NULL;
    ls_status status = ls_nvml_open(NULL, &nvml);
    status = status == LS_E_UNSUPPORTED ? LS_OK : status;
    int gpus = nvml ? ls_nvml_count(nvml) : 0, least = gpus, count = 0, ranks = 0;
    if (status == LS_OK) {
        status = ls_calloc((size_t)comm->size, sizeof *domains, &domains);
    }
    LS_TRY_GOTO(ls_session_agree(session, status), done);
    LS_TRY_GOTO(comm->ops->all_reduce(comm, &least, 1, LS_I32, LS_MIN), done);
    if (least == 0) {
        goto done;
    }
    status = ls_comm_domains(comm, nvml, session->mesh.host_rank % gpus, domains);
    for (int r = 0; r < comm->size && status == LS_OK; r++) {
        count += domains[r] == (uint64_t)r;
        ranks += domains[r] == domains[0];
    }
    if (comm->rank == 0 && status == LS_OK) {
        ls_findings_add(findings, "NVLink domains", LS_PASS,
                        "%d for %d ranks; that of rank 0 has %d of them", count, comm->size, ranks);
    } else if (status == LS_E_UNSUPPORTED || status == LS_E_CONFIG) { /* the same on all ranks */
        if (comm->rank == 0) {
            ls_findings_add(findings, "NVLink domains", LS_FAULT, "%.250s",
                            ls_error_last()->message);
        }
        status = LS_OK;
    }
done:
    ls_nvml_close(nvml);
    free(domains);
    return status;
}

ls_status ls_doctor_job(ls_session *session, ls_findings *findings, const char *dir,
                        const ls_cluster *profile) {
    LS_TRY(check_libraries(session, findings));
    LS_TRY(check_speed(session, findings));
    if (session->comm->size > 1) {
        LS_TRY(check_clocks(session, findings));
        LS_TRY(check_network(session, findings, profile));
        LS_TRY(check_domains(session, findings));
        if (dir) {
            LS_TRY(check_shared_dir(session, findings, dir));
        }
    } else if (profile) {
        ls_findings_add(findings, "profile", LS_WARN,
                        "not compared: one rank has no links; start doctor under mpirun or srun");
    }
    return LS_OK;
}
