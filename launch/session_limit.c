#include "launch/session_limit.h"

#include "collectives/comm.h"
#include "launch/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { START_LIMIT_S = 300, END_LIMIT_S = 10, MERCY_S = 5 };

/* What the handler says and does. The main thread may hang in MPI, with its locks. */
static char text[1200];
static size_t reason_at; /* in the text; of a start */
static char host[65] = "?";
static int text_status;
static bool starting;
static long start_limit_s = START_LIMIT_S;

/* How launchers number a rank: MPI may not have begun. */
static const char *const rank_names[] = {
    "OMPI_COMM_WORLD_RANK=", "PMIX_RANK=", "PMI_RANK=", "SLURM_PROCID="};

/* A file of /proc; the bytes. Nothing here takes locks or memory, which the main thread may hold.
 */
static size_t read_of(int pid, const char *name, char *to, size_t size) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t bytes = 0;
    for (ssize_t n = 1; fd >= 0 && n > 0; bytes += n > 0 ? (size_t)n : 0) {
        n = read(fd, to + bytes, size - 1 - bytes);
    }
    if (fd >= 0) {
        close(fd);
    }
    to[bytes] = '\0';
    return bytes;
}

/* Has the launcher of this process started that one, too, and is it stopped? */
static bool is_stopped_rank(int pid) {
    char stat[512];
    (void)read_of(pid, "stat", stat, sizeof stat);
    const char *p = strrchr(stat, ')'); /* the command's name may hold spaces; then " T PARENT" */
    return p && strncmp(p, ") T ", 4) == 0 && atoi(p + 4) == getppid();
}

static const char *rank_of(int pid) {
    static char environment[1 << 17];
    const size_t bytes = read_of(pid, "environ", environment, sizeof environment);
    for (size_t i = 0; i < sizeof rank_names / sizeof *rank_names; i++) {
        const size_t length = strlen(rank_names[i]);
        for (const char *p = environment; p < environment + bytes; p += strlen(p) + 1) {
            if (strncmp(p, rank_names[i], length) == 0) {
                return p + length;
            }
        }
    }
    return "?";
}

/* The first of this host's ranks that is stopped becomes the reason; else it stays what it is. */
static void look_for_stopped(void) {
    static char entries[1 << 15] __attribute__((aligned(8)));
    const int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (ssize_t bytes; fd >= 0 && (bytes = getdents64(fd, entries, sizeof entries)) > 0;) {
        for (ssize_t at = 0; at < bytes;) {
            const struct dirent64 *entry = (const void *)(entries + at);
            const int pid = atoi(entry->d_name);
            at += entry->d_reclen;
            if (pid > 0 && is_stopped_rank(pid)) {
                snprintf(text + reason_at, sizeof text - reason_at,
                         "rank %s on host %s has not come; its process is stopped (%d)",
                         rank_of(pid), host, pid);
                close(fd);
                return;
            }
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void on_limit(int signal_number) {
    (void)signal_number;
    if (starting) {
        look_for_stopped();
    }
    if (write(STDERR_FILENO, text, strlen(text)) > 0) {
        (void)!write(STDERR_FILENO, "\n", 1);
    }
    if (starting) {
        ls_session_write_outcome(text_status, text);
    }
    ls_comm_mpi_remove_files();
    _exit(text_status);
}

/* Ends this process after so many seconds (0: not any more) even if it is stopped by then, when it
 * handles no signal and perhaps no other rank is left to tell: the launcher would wait for ever. */
static void limit_stopped(unsigned seconds) {
    static timer_t timer;
    static bool made;
    struct sigevent kill_me = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    made = made || timer_create(CLOCK_MONOTONIC, &kill_me, &timer) == 0;
    if (made) {
        timer_settime(timer, 0, &(struct itimerspec){.it_value.tv_sec = seconds}, NULL);
    }
}

/* The stopped get more: ranks begin at different times, and a late one is to name them first. */
static void limit(unsigned seconds) {
    struct sigaction action = {.sa_handler = on_limit};
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
    limit_stopped(seconds + (seconds > 2 * MERCY_S ? seconds / 2 : MERCY_S));
}

ls_status ls_session_limit_read(void) {
    const char *wanted = getenv("LOCKSTEP_START_LIMIT_S");
    char *end;
    if (!wanted || !*wanted) {
        return LS_OK;
    }
    start_limit_s = strtol(wanted, &end, 10);
    if (*end || start_limit_s < 0 || start_limit_s > INT_MAX) {
        return LS_FAIL(LS_E_CONFIG,
                       "LOCKSTEP_START_LIMIT_S is '%s'; a whole number of seconds is needed, or 0 "
                       "for no limit",
                       wanted);
    }
    return LS_OK;
}

void ls_session_limit_start(const char *what) {
    alarm(0);
    limit_stopped(0);
    if (!what || start_limit_s == 0 || !ls_comm_launched()) {
        return;
    }
    gethostname(host, sizeof host - 1);
    reason_at = (size_t)snprintf(
        text, sizeof text,
        "lockstep: error: [rank %s] %s has taken more than %ld s on host %s: ", rank_of(getpid()),
        what, start_limit_s, host);
    snprintf(text + reason_at, sizeof text - reason_at,
             "another rank has not come, hangs or cannot be reached; look for one that said "
             "something above, and at the hosts with 'lockstep doctor' (LOCKSTEP_START_LIMIT_S "
             "allows more)");
    text_status = ls_status_exit(LS_E_COMM);
    starting = true;
    limit((unsigned)start_limit_s);
}

double ls_session_limit_s(void) {
    return start_limit_s > 0 ? (double)start_limit_s : INFINITY;
}

void ls_session_limit_end(int exit_status) {
    snprintf(text, sizeof text, "%s", ls_error_last()->message);
    text_status = exit_status;
    starting = false;
    limit(END_LIMIT_S);
}
