/* Processes by number and start, also where /proc hides those of other users; the Slurm job of this
 * one. */
#include "runtime/base/process.h"

#include "tests/test.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_start(void) {
    int64_t ticks = 0, again = 0;
    CHECK_OK(ls_process_start(getpid(), &ticks));
    CHECK(ticks > 0);
    CHECK_OK(ls_process_start(getpid(), &again));
    CHECK_INT(again, ticks);
    const pid_t child = fork();
    if (child == 0) {
        _exit(0);
    }
    siginfo_t ended;
    CHECK(waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT) == 0);
    CHECK_STATUS(ls_process_start(child, &ticks), LS_E_NO);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK_STATUS(ls_process_start(child, &ticks), LS_E_NO);
}

/* As another user, of a process that root has: 0 it is told as hidden, 1 not, 77 no such /proc. */
static int look_at_hidden(pid_t parent) {
    int64_t ticks;
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("proc", "/proc", "proc", 0, "hidepid=2") != 0 || setgid(65534) != 0 ||
        setuid(65534) != 0) {
        return 77;
    }
    return ls_process_start(parent, &ticks) == LS_E_IO ? 0 : 1;
}

static void test_hidden(void) {
    const pid_t child = fork();
    if (child == 0) {
        _exit(look_at_hidden(getppid()));
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        printf("skipped in part: no /proc of another kind can be mounted\n");
    } else {
        CHECK_INT(status, 0);
    }
}

static void test_slurm_job(void) {
    char job[32];
    unsetenv("SLURM_ARRAY_JOB_ID");
    unsetenv("SLURM_ARRAY_TASK_ID");
    unsetenv("SLURM_JOB_ID");
    CHECK_STR(ls_process_slurm_job(job, sizeof job), "");
    setenv("SLURM_JOB_ID", "19", 1);
    CHECK_STR(ls_process_slurm_job(job, sizeof job), "19");
    setenv("SLURM_ARRAY_JOB_ID", "17", 1);
    setenv("SLURM_ARRAY_TASK_ID", "2", 1);
    CHECK_STR(ls_process_slurm_job(job, sizeof job), "17_2");
    setenv("SLURM_ARRAY_TASK_ID", "2;id", 1);
    CHECK_STR(ls_process_slurm_job(job, sizeof job), "19");
    setenv("SLURM_JOB_ID", "$(id)", 1);
    CHECK_STR(ls_process_slurm_job(job, sizeof job), "");
}

int main(void) {
    test_start();
    test_hidden();
    test_slurm_job();
    return test_end();
}
