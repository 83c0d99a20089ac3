#include "launch/train_stop.h"

#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/process.h"
#include "runtime/base/text.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* In order of precedence, where ranks have different reasons. */
typedef enum reason { GO_ON, STEP_REACHED, LIMIT_NEAR, STOP_FILE, SIGNALLED, REASONS } reason;

static const char *const reasons[REASONS] = {NULL, "--until", "the job's time limit is near",
                                             "the file 'stop' of the run directory", "a signal"};

/* Slurm's "[days-][[hours:]minutes:]seconds"; NAN for its words (UNLIMITED, INVALID). */
static double parse_left(const char *text) {
    double days = 0.0, parts[3] = {0.0};
    int count = 0;
    const char *dash = strchr(text, '-');
    if (dash) {
        days = strtod(text, NULL);
        text = dash + 1;
    }
    while (count < 3 && isdigit((unsigned char)*text)) {
        char *end;
        parts[count++] = strtod(text, &end);
        text = *end == ':' ? end + 1 : end;
    }
    if (count == 0) {
        return NAN;
    }
    double seconds = 0.0;
    for (int i = 0; i < count; i++) {
        seconds = 60.0 * seconds + parts[i];
    }
    return 86400.0 * days + seconds;
}

/* When the job ends, on the monotonic clock: an administrator may change it while it runs. NAN: no
 * job, no limit, or nobody answers. */
static double ask_slurm(void) {
    char job[32], command[128], line[64] = "";
    if (!ls_process_slurm_job(job, sizeof job)[0]) {
        return NAN;
    }
    snprintf(command, sizeof command, "timeout 10 squeue -h -o %%L -j %s 2>/dev/null", job);
    FILE *answer = popen(command, "r");
    if (answer) {
        if (!fgets(line, sizeof line, answer)) {
            line[0] = '\0';
        }
        pclose(answer);
    }
    return 1e-9 * (double)ls_clock_ns() + parse_left(line);
}

void ls_train_stop_begin(ls_train *train) {
    train->limit = (ls_job_limit){.end_s = NAN};
    if (train->session.comm->rank != 0 || train->config.faults.stop_before_s <= 0.0) {
        return;
    }
    train->limit.end_s = ask_slurm();
    train->limit.asked_s = 1e-9 * (double)ls_clock_ns();
    const double left_s = train->limit.end_s - train->limit.asked_s;
    char left[32];
    ls_text_duration(left, sizeof left, left_s);
    if (left_s <= train->config.faults.stop_before_s) {
        ls_log_warn("the job may run for %s more, and faults.stop_before_s is %g: the run stops "
                    "after its first step; give the job more time, or lower that",
                    left, train->config.faults.stop_before_s);
    } else if (isfinite(left_s)) {
        ls_log_info("the job may run for %s more; the run stops and saves before that", left);
    }
}

/* One more step and save must fit, at twice the time that they have taken. What Slurm said long
 * ago is asked again before it counts. */
static bool limit_near(ls_train *train) {
    ls_job_limit *limit = &train->limit;
    const double now_s = 1e-9 * (double)ls_clock_ns();
    if (limit->step_began_s > 0.0) {
        limit->step_s = now_s - limit->step_began_s;
    }
    limit->step_began_s = now_s;
    const double need_s =
        train->config.faults.stop_before_s + 2.0 * (limit->step_s + limit->save_s);
    if (!(limit->end_s - now_s < need_s)) {
        return false;
    }
    if (now_s - limit->asked_s > 30.0) {
        limit->end_s = ask_slurm();
        limit->asked_s = now_s;
    }
    return limit->end_s - now_s < need_s;
}

static bool stop_file(const ls_train *train, char path[900]) {
    return ls_path_join(path, 900, train->run_dir, "stop") == LS_OK && ls_path_exists(path);
}

ls_status ls_train_stop_agreed(ls_train *train, const char **why) {
    ls_comm *comm = train->session.comm;
    char path[900];
    int32_t found = GO_ON;
    if (ls_session_stop_requested()) {
        found = SIGNALLED;
    } else if (train->step >= train->until_step) {
        found = STEP_REACHED;
    } else if (comm->rank == 0 && stop_file(train, path)) {
        found = STOP_FILE;
    } else if (comm->rank == 0 && limit_near(train)) {
        found = LIMIT_NEAR;
    }
    LS_TRY(comm->ops->all_reduce(comm, &found, 1, LS_I32, LS_MAX));
    *why = reasons[found];
    return LS_OK;
}

void ls_train_stop_met(const ls_train *train) {
    char path[900];
    if (train->session.comm->rank == 0 && stop_file(train, path) && unlink(path) != 0) {
        ls_log_warn("'%s' could not be removed: the next start will stop at once", path);
    }
}
