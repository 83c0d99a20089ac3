/* Energy that Slurm's accounting has gathered of this job step (acct_gather_energy.conf), by its
 * own program: `sstat --noheader --parsable2 --jobs JOB.STEP --format ConsumedEnergyRaw`. */
#include "runtime/base/clock.h"
#include "runtime/counters/energy_impl.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const uint64_t ASK_EVERY_NS = 30000000000u;
enum { TIMED_OUT = 124, KILLED = 128 + SIGKILL }; /* exit statuses of timeout(1) */

/* False when Slurm does not know: no program, no plugin (an empty answer, or 0), or no answer in 3
 * s, in which the run stands still. After each such silence it is asked half as often. */
static bool ask(ls_energy *e, double *joules) {
    char command[256], answer[64] = "";
    snprintf(command, sizeof command,
             "timeout -k 1 3 sstat --noheader --parsable2 --jobs %s --format ConsumedEnergyRaw "
             "2>/dev/null",
             e->step);
    e->asked_ns = ls_clock_ns();
    FILE *f = popen(command, "re");
    if (!f) {
        return false;
    }
    const bool told = fgets(answer, sizeof answer, f) != NULL;
    char *end;
    *joules = strtod(answer, &end);
    const int ended = pclose(f);
    const bool silent =
        WIFEXITED(ended) && (WEXITSTATUS(ended) == TIMED_OUT || WEXITSTATUS(ended) == KILLED);
    e->ask_every_ns = !silent ? ASK_EVERY_NS : 2 * e->ask_every_ns;
    return ended == 0 && told && end != answer && *joules > 0.0;
}

/* Goes into a command line: digits alone. */
static const char *number(const char *variable) {
    const char *text = getenv(variable);
    for (const char *p = text; p && *p; p++) {
        if (!isdigit((unsigned char)*p)) {
            return NULL;
        }
    }
    return text && text[0] ? text : NULL;
}

ls_status ls_energy_open_slurm(ls_energy *e, bool *found) {
    const char *job = number("SLURM_JOB_ID"), *step = number("SLURM_STEP_ID");
    if (!job || !step) {
        return LS_OK;
    }
    snprintf(e->step, sizeof e->step, "%.20s.%.20s", job, step);
    e->ask_every_ns = ASK_EVERY_NS;
    *found = ask(e, &e->first_joules);
    snprintf(e->scope, sizeof e->scope, "Slurm: job step %s", e->step);
    return LS_OK;
}

ls_status ls_energy_read_slurm(ls_energy *e) {
    double now;
    if (ls_clock_ns() - e->asked_ns >= e->ask_every_ns && ask(e, &now)) {
        e->joules = now - e->first_joules;
    }
    return LS_OK; /* a controller that is busy answers the next time */
}
