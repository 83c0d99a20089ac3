#include "launch/session_limit.h"

#include "collectives/comm.h"
#include "launch/session.h"

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
static int text_status;
static bool starting;
static long start_limit_s = START_LIMIT_S;

static void on_limit(int signal_number) {
    (void)signal_number;
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

static void limit(unsigned seconds) {
    struct sigaction action = {.sa_handler = on_limit};
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    alarm(seconds);
    limit_stopped(seconds + MERCY_S);
}

/* As the launcher numbers it: MPI may not have begun. */
static const char *rank_of_launcher(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rank = getenv(names[i]);
        if (rank) {
            return rank;
        }
    }
    return "?";
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
    char host[65] = "?";
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text,
             "lockstep: error: [rank %s] %s has taken more than %ld s on host %s: another rank has "
             "not come, hangs or cannot be reached; look for one that said something above, and "
             "at the hosts with 'lockstep doctor' (LOCKSTEP_START_LIMIT_S allows more)",
             rank_of_launcher(), what, start_limit_s, host);
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
