#include "launch/session.h"

#include "collectives/comm_choose.h"
#include "collectives/nccl/comm_nccl.h"
#include "collectives/progress.h"
#include "collectives/watch.h"
#include "launch/devices.h"
#include "launch/session_limit.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of open files: a training run of two ranks has 24 at once, each host more in its job a few more.
 */
enum { FILES_LEAST = 64, FILES_WANTED = 65536 };

static bool mpi_running;
static bool failure_is_shared;
static volatile sig_atomic_t stop_requests;
static long kills_before;      /* in this job's memory, for lack of it */
static char outcome_path[900]; /* empty: no run directory yet */

static void end_loss(void);

static ls_status check_same_program(ls_comm *comm) {
    ls_sha256 hash;
    ls_status mine = ls_sha256_file("/proc/self/exe", &hash, NULL);
    LS_TRY(ls_comm_agree(comm, mine));
    return ls_comm_check_same(comm, "lockstep executable", &hash, sizeof hash);
}

/* All tasks of an srun without PMIx fail alike: the first one tells. */
static ls_status begin_alone(ls_session *session) {
    const ls_status status = ls_comm_check_alone();
    if (status != LS_OK) {
        ls_error_set_rank(atoi(getenv("SLURM_PROCID")));
        failure_is_shared = true;
        return status;
    }
    return ls_comm_self(&session->world);
}

ls_status ls_session_begin(ls_session *session, int *argc, char ***argv) {
    *session = (ls_session){0};
    if (ls_comm_launched()) {
        LS_TRY(ls_session_limit_read());
        LS_TRY(ls_process_open_files(FILES_LEAST, FILES_WANTED));
        ls_session_limit_start("the start of MPI");
        ls_comm_mpi_on_loss(end_loss);
        LS_TRY(ls_comm_mpi_init(argc, argv, &session->world));
        mpi_running = true;
    } else {
        LS_TRY(begin_alone(session));
    }
    session->comm = session->world;
    ls_error_set_rank(session->comm->size > 1 ? session->comm->rank : -1);
    ls_session_limit_start("the comparison of the ranks' programs");
    ls_status status = check_same_program(session->comm);
    failure_is_shared = status != LS_OK && !ls_comm_mpi_failed();
    ls_session_limit_start(NULL);
    return status;
}

/* NCCL finds its own way over NVLink domains, unless it is asked for two levels of them. */
static ls_status connect_gpus(ls_session *session, bool levels) {
    const ls_comm_nccl_options nccl = {
        .host = session->world,
        .dev = session->dev,
        .deadline_s = 0.8 * ls_session_limit_s()}; /* before that limit: NCCL's word says more */
    if (session->world->size == 1) {
        return ls_comm_self_on(session->dev, &session->fabric);
    }
    LS_TRY(ls_session_find_domains(session));
    const ls_spread *d = &session->domains;
    if (levels && !d->even) {
        return LS_FAIL(
            LS_E_CONFIG,
            "parallel.transport=hier with %d NVLink domain%s of %d to %d ranks; several with "
            "the same number of ranks, 2 or more, are needed: leave it auto",
            d->hosts, d->hosts == 1 ? "" : "s", d->least, d->most);
    }
    return levels ? ls_comm_nccl_levels(&nccl, (uint64_t)d->first, &session->fabric)
                  : ls_comm_nccl(&nccl, &session->fabric);
}

ls_status ls_session_connect(ls_session *session, ls_cfg_transport transport) {
    const bool on_gpus = !session->dev->host_memory, levels = transport == LS_CFG_HIER;
    ls_comm *comm;
    if (on_gpus && transport != LS_CFG_AUTO && !levels) {
        return ls_session_agree(
            session, LS_FAIL(LS_E_CONFIG,
                             "parallel.transport is for the memory of hosts; GPUs talk by NCCL: "
                             "leave it auto, or hier, or set run.device=cpu"));
    }
    ls_session_limit_start("to connect the ranks");
    LS_TRY(ls_session_agree(
        session, ls_comm_choose(session->world,
                                on_gpus ? LS_TRANSPORT_AUTO : (ls_transport)transport, &comm)));
    session->comm = session->fabric = comm;
    LS_TRY(on_gpus ? ls_session_agree(session, connect_gpus(session, levels)) : LS_OK);
    ls_session_limit_start(NULL);
    return LS_OK;
}

bool ls_session_failure_shared(void) {
    return failure_is_shared;
}

/* What a rank may have of a quota that all ranks of the host share, if that is less than *threads.
 */
static void apply_quota(const ls_session *session, int *threads) {
    const int quota = ls_cpu_quota(), ranks = session->mesh.host_ranks;
    const int share = quota > ranks ? quota / ranks : 1;
    if (quota > 0 && *threads > share) {
        if (session->comm->rank == 0) {
            ls_log_warn("the cgroup's quota is %d of %d processors: %d thread%s a rank and not %d, "
                        "which would stand still for most of each period; run.threads overrides",
                        quota, ls_cpu_online(), share, share == 1 ? "" : "s", *threads);
        }
        *threads = share;
    }
}

static ls_status choose_threads(const ls_session *session, int64_t wanted, int *threads) {
    int available = ls_cpu_available(), online = ls_cpu_online();
    const char *omp = getenv("OMP_NUM_THREADS");
    if (wanted > 0) {
        *threads = (int)wanted;
    } else if (omp && atoi(omp) > 0) {
        *threads = atoi(omp);
    } else if (available == online) { /* not bound: share the host */
        *threads = online / session->mesh.host_ranks;
    } else { /* the launcher has given this rank its processors, or it shares them: those of a
                socket */
        *threads = available * session->mesh.host_ranks > online ? online / session->mesh.host_ranks
                                                                 : available;
        if (session->comm->rank == 0 && available * session->mesh.host_ranks < online) {
            ls_log_warn("each rank is bound to %d of %d processors; use mpirun --bind-to none, or "
                        "--map-by slot:PE=%d, to use them all",
                        available, online, online / session->mesh.host_ranks);
        }
    }
    if (*threads < 1) {
        *threads = 1;
    }
    if (wanted <= 0 && !(omp && atoi(omp) > 0)) {
        apply_quota(session, threads);
    }
    return LS_OK;
}

/* With zero, parallel.shard 0 takes all data-parallel ranks, or what parallel.replicate leaves. */
ls_status ls_session_axes(const ls_config_parallel *p, int64_t world, int size[LS_AXIS_COUNT]) {
    int64_t shard = p->shard, replicate = p->replicate;
    if (p->zero == 0) {
        shard = 1;
    } else if (shard == 0) {
        replicate = replicate ? replicate : 1;
        shard =
            world / p->pipeline / p->context / p->tensor / replicate; /* whose product may wrap */
        shard = shard ? shard : 1;
        if (shard == 1 && replicate > 1) {
            return LS_FAIL(LS_E_CONFIG,
                           "parallel.zero is %lld, but parallel.replicate %lld leaves 1 of %lld "
                           "ranks to divide the state; set parallel.replicate to %lld or less, or "
                           "parallel.zero to 0",
                           (long long)p->zero, (long long)replicate, (long long)world,
                           (long long)(replicate + 1) / 2);
        }
    }
    const int64_t axes[LS_AXIS_COUNT] = {
        [LS_AXIS_PIPELINE] = p->pipeline, [LS_AXIS_REPLICATE] = replicate, [LS_AXIS_SHARD] = shard,
        [LS_AXIS_CONTEXT] = p->context,   [LS_AXIS_TENSOR] = p->tensor,
    };
    for (int a = 0; a < LS_AXIS_COUNT; a++) {
        size[a] = (int)axes[a];
    }
    return LS_OK;
}

/* Several ranks on one GPU would wait for each other in its queue, and NCCL refuses them. */
static ls_status check_shared_gpus(ls_session *session, const uint64_t *hosts) {
    ls_comm *comm = session->comm;
    const uint64_t mine = session->dev->unit;
    uint64_t *all;
    LS_TRY(ls_comm_agree(comm, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    ls_status status = comm->ops->all_gather(comm, &mine, all, sizeof mine);
    for (int r = 0; r < comm->rank && status == LS_OK && !getenv("NCCL_HOSTID"); r++) {
        if (mine != 0 && all[r] == mine && hosts[r] == hosts[comm->rank]) {
            status = LS_FAIL(LS_E_CONFIG,
                             "ranks %d and %d share a GPU (%s); start at most one rank for each "
                             "GPU of a host, and let each see its own or all of them",
                             r, comm->rank, session->dev->describe);
        }
    }
    free(all);
    return status;
}

static int host_rank_of(const ls_comm *comm, const uint64_t *hosts) {
    int before = 0;
    for (int r = 0; r < comm->rank; r++) {
        before += hosts[r] == hosts[comm->rank];
    }
    return before;
}

static ls_status open_device(ls_session *session, ls_cfg_device device, const uint64_t *hosts) {
    const int host_rank = host_rank_of(session->comm, hosts);
    LS_TRY(ls_session_agree(session, ls_device_choose(device, session->attention, session->threads,
                                                      host_rank, &session->dev)));
    return ls_session_agree(session, check_shared_gpus(session, hosts));
}

ls_status ls_session_open(ls_session *session, const ls_config_parallel *parallel,
                          ls_cfg_device device, int64_t threads) {
    ls_comm *comm = session->comm;
    uint64_t *hosts = NULL;
    LS_TRY(ls_session_agree(session, ls_calloc((size_t)comm->size, sizeof *hosts, &hosts)));
    ls_status status = ls_comm_hosts(comm, hosts);
    int size[LS_AXIS_COUNT] = {1, 0, 1, 1, 1};
    if (status == LS_OK && parallel) {
        status = ls_session_axes(parallel, comm->size, size);
    }
    if (status == LS_OK) {
        status = ls_mesh_init(&session->mesh, size, comm->rank, comm->size, hosts);
    }
    status = ls_session_agree(session, status);
    if (status == LS_OK) {
        status = choose_threads(session, threads, &session->threads);
    }
    if (status == LS_OK) {
        status = open_device(session, device, hosts);
    }
    free(hosts);
    return status;
}

ls_status ls_session_agree(ls_session *session, ls_status mine) {
    if (mine != LS_OK && ls_comm_mpi_failed()) { /* the others may wait in what has failed here */
        failure_is_shared = false;
        return mine;
    }
    ls_status all = ls_comm_agree(session->comm, mine);
    failure_is_shared = all != LS_OK;
    return all;
}

static ls_status take_earlier_outcome(ls_outcome *earlier) {
    FILE *f = fopen(outcome_path, "r");
    if (!f) {
        return LS_OK;
    }
    if (fscanf(f, "%d %255[^\n]", &earlier->exit_status, earlier->text) < 1) {
        earlier->exit_status = -1;
    }
    fclose(f);
    return unlink(outcome_path) == 0
               ? LS_OK
               : LS_FAIL(LS_E_IO, "cannot remove '%s': %s", outcome_path, strerror(errno));
}

ls_status ls_session_tell_outcome(ls_session *session, const char *run_dir, ls_outcome *earlier) {
    *earlier = (ls_outcome){.exit_status = -1};
    ls_status status = ls_path_join(outcome_path, sizeof outcome_path, run_dir, "outcome");
    if (status == LS_OK && session->comm->rank == 0) {
        status = take_earlier_outcome(earlier);
    }
    return ls_session_agree(session, status);
}

/* The first word stands: O_EXCL. A failure to write it is not worth another error. */
void ls_session_write_outcome(int exit_status, const char *text) {
    int fd =
        outcome_path[0] ? open(outcome_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666) : -1;
    if (fd < 0) {
        return;
    }
    char host[65] = "?";
    gethostname(host, sizeof host - 1);
    dprintf(fd, "%d rank %d on %s:", exit_status, ls_error_rank() < 0 ? 0 : ls_error_rank(), host);
    for (size_t bytes; *text; text += bytes + (text[bytes] == '\n')) { /* one line of it all */
        bytes = strcspn(text, "\n");
        dprintf(fd, " %.*s", (int)bytes, text);
    }
    dprintf(fd, "\n");
    const char *start = getenv("LOCKSTEP_START_ID"); /* of launch/supervise */
    if (start) {
        dprintf(fd, "start %s\n", start);
    }
    close(fd);
}

static void write_end(ls_status status) {
    ls_session_write_outcome(ls_status_exit(status),
                             status == LS_OK ? "done" : ls_error_last()->message);
}

void ls_session_tell_end(ls_session *session, ls_status status) {
    const ls_error end = *ls_error_last();
    if (session->comm->rank == 0) {
        write_end(status);
    }
    (void)session->comm->ops->barrier(session->comm); /* a rank that is lost now changes nothing */
    if (status != LS_OK) {
        ls_error_restore(&end);
    }
}

/* Processes that the kernel has killed in this process's memory cgroup for lack of memory; 0 where
 * that is not known. */
static long oom_kills(void) {
    FILE *f = fopen("/proc/self/cgroup", "r");
    char line[512], path[640], key[64];
    long kills = 0;
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *v1 = strstr(line, ":memory:"), *v2 = strncmp(line, "0::", 3) ? NULL : line + 3;
        if (!v1 && !v2) {
            continue;
        }
        snprintf(path, sizeof path, "/sys/fs/cgroup%s%s/memory.%s", v1 ? "/memory" : "",
                 v1 ? v1 + 8 : v2, v1 ? "oom_control" : "events");
        FILE *events = fopen(path, "r");
        long n;
        while (events && fscanf(events, "%63s %ld", key, &n) == 2) {
            kills += strcmp(key, "oom_kill") == 0 ? n : 0;
        }
        if (events) {
            fclose(events);
        }
    }
    if (f) {
        fclose(f);
    }
    return kills;
}

static void report_hang(const char *cause) {
    char text[1200];
    const bool starved = oom_kills() > kills_before;
    snprintf(text, sizeof text, "%s%s", cause,
             starved ? "; the kernel has killed a process of this host's job for lack of memory: "
                       "lower batch.micro, use parallel.zero or recompute.mode, or raise the job's "
                       "memory limit"
                     : "");
    LS_FAIL(LS_E_COMM, "%s", text);
    ls_log_error();
    ls_session_write_outcome(ls_status_exit(LS_E_COMM), text);
}

/* The main thread hangs in MPI, which cannot be asked any more. The launcher ends the ranks that
 * are left when this one goes without a word to it. */
static void end_hang(void) {
    ls_comm_mpi_remove_files();
    _exit(ls_status_exit(LS_E_COMM));
}

/* The watchdog knows better than MPI who was lost, and has ended the process then. */
static void end_loss(void) {
    ls_watch_wait_for_cause();
    LS_FAIL(LS_E_COMM, "MPI has given up, as it does when a connection to another rank breaks; "
                       "look for one that said something above, and at the network");
    ls_log_error();
    ls_session_write_outcome(ls_status_exit(LS_E_COMM), ls_error_last()->message);
    end_hang();
}

/* On one host communication is the processors' own work, which nothing gains by doing at another
 * time. A library without threads leaves it to the looks between operations. */
static ls_status start_progress(const ls_session *session) {
    ls_status status = session->mesh.hosts > 1 ? ls_progress_start() : LS_OK;
    return status == LS_E_UNSUPPORTED ? LS_OK : status;
}

ls_status ls_session_watch(ls_session *session, const ls_config_faults *faults,
                           const char *run_dir) {
    if (session->comm->size == 1) {
        return LS_OK;
    }
    kills_before = oom_kills();
    ls_session_limit_start("to start the watchdog");
    const ls_watch_options options = {.comm = session->comm,
                                      .run_dir = run_dir,
                                      .min_deadline_s = faults->min_deadline_s,
                                      .deadline_factor = faults->deadline_factor,
                                      .patience_s = faults->patience_s,
                                      .report = report_hang,
                                      .end = end_hang};
    LS_TRY(ls_session_agree(session, ls_watch_start(&options)));
    ls_comm *recorded;
    LS_TRY(ls_session_agree(
        session, ls_comm_recorded(session->comm, "world", faults->check_collectives, &recorded)));
    session->unwatched = session->comm;
    session->comm = recorded;
    ls_session_limit_start(NULL);
    if (session->fabric == session->unwatched) {
        session->fabric = recorded;
        return start_progress(session);
    }
    LS_TRY(ls_session_agree(
        session, ls_comm_recorded(session->fabric, "gpus", faults->check_collectives, &recorded)));
    session->unwatched_fabric = session->fabric;
    session->fabric = recorded;
    return LS_OK;
}

static void close_fabric(ls_session *session) {
    if (session->unwatched_fabric) {
        session->fabric->ops->destroy(session->fabric);
        session->fabric = session->unwatched_fabric;
    }
    if (session->fabric && session->fabric->on_device) {
        session->fabric->ops->destroy(session->fabric);
    }
    session->fabric = session->unwatched_fabric = NULL;
}

void ls_session_close(ls_session *session) {
    ls_progress_stop();
    close_fabric(session);
    if (session->unwatched) {
        session->comm->ops->destroy(session->comm);
        session->comm = session->unwatched;
        session->unwatched = NULL;
    }
    ls_watch_stop();
    ls_session_limit_start("the end of the ranks' connections");
    if (session->comm != session->world) {
        session->comm->ops->destroy(session->comm);
        session->comm = session->world;
    }
    if (session->dev) {
        session->dev->ops->close(session->dev);
    }
    session->dev = NULL;
}

int ls_session_end(ls_status status) {
    int exit_status = ls_status_exit(status);
    ls_session_limit_start(NULL);
    if (status == LS_E_COMM && !failure_is_shared) {
        ls_watch_wait_for_cause(); /* "remote process exited" names nobody */
    }
    if (ls_error_rank() <= 0 || (status != LS_OK && !failure_is_shared)) {
        write_end(status);
    }
    if (status == LS_E_STOPPED) {
        ls_log_info("%s", ls_error_last()->message);
    } else if (status != LS_OK && (!failure_is_shared || ls_error_rank() <= 0)) {
        if (failure_is_shared) {
            ls_error_set_rank(-1); /* the message itself names the rank it comes from */
        }
        ls_log_error();
    }
    fflush(NULL);
    if (!mpi_running) {
        return exit_status;
    }
    ls_progress_stop();
    if (status != LS_OK && !failure_is_shared) {
        ls_comm_mpi_abort(exit_status);
    }
    if (status != LS_OK && status != LS_E_STOPPED) {
        ls_session_limit_end(exit_status);
    } else {
        ls_session_limit_start("the end of MPI");
    }
    ls_comm_mpi_finalize();
    return exit_status; /* the limit holds for the end of the process, too */
}

double ls_session_age_s(void) {
    int64_t ticks;
    if (ls_process_start(getpid(), &ticks) != LS_OK) {
        return 0.0;
    }
    return ls_clock_boot_s() - (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

/* Only a second Ctrl-C is impatience: schedulers send SIGTERM twice (Slurm to the step, and through
 * srun), and have SIGKILL for those that do not heed it. */
static void on_stop(int signal_number) {
    ls_watch_look_soon();
    if (stop_requests++ > 0 && signal_number == SIGINT) {
        _exit(128 + signal_number);
    }
}

static void on_continue(int signal_number) {
    (void)signal_number;
    ls_watch_look_soon();
}

/* As the process was started, for instance by nohup. UCX, which comes with many an MPI, takes
 * SIGHUP for its own output when it is loaded: this looks before the libraries begin, and by the
 * kernel's own call, since sanitizers have not begun, either. */
static bool hangup_ignored;

__attribute__((no_sanitize("address", "undefined"))) static void note_hangup(void) {
    static struct { /* of the kernel; struct sigaction is another */
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        uint64_t mask;
    } now;
    hangup_ignored = syscall(SYS_rt_sigaction, SIGHUP, NULL, &now, sizeof now.mask) == 0 &&
                     now.handler == SIG_IGN;
}
__attribute__((section(".preinit_array"),
               used)) static void (*const before_libraries)(void) = note_hangup;

void ls_session_watch_signals(void) {
    struct sigaction action = {.sa_handler = on_continue, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGCONT, &action, NULL);
    action.sa_handler = on_stop;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    /* A terminal or reader of the output that goes away; nohup ignores the one, MPI the other. */
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler != SIG_IGN) {
        sigaction(SIGPIPE, &action, NULL);
    }
    action.sa_handler = hangup_ignored ? SIG_IGN : on_stop;
    sigaction(SIGHUP, &action, NULL);
}

bool ls_session_stop_requested(void) {
    return stop_requests > 0;
}

ls_dtype ls_session_dtype(ls_compute compute, const ls_device *dev) {
    bool bf16 = compute == LS_COMPUTE_BF16 || compute == LS_COMPUTE_FP8 ||
                (compute == LS_COMPUTE_AUTO && dev->fast_bf16);
    return bf16 ? LS_BF16 : dev->acc;
}
