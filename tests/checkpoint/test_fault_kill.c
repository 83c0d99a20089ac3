/* [SCENARIO]: a save is killed at its n-th call to the kernel, for every n (a spread of them unless
 * LOCKSTEP_TEST_ALL is set): what has the name of a checkpoint is whole and has the right values,
 * there is one, and the next save works. SCENARIO: the number of the only one, from 0. */
#include "checkpoint/prune.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/fault_calls.h"
#include "tests/checkpoint/fault_save.h"

#include <errno.h>
#include <omp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SWEEP_EVERY = 16 };

/* AddressSanitizer says nothing of a process that was killed, and what reads the rest has tests of
 * its own. */
#ifdef __SANITIZE_ADDRESS__
enum { FEWER = 4 };
#else
enum { FEWER = 1 };
#endif

typedef struct scenario {
    const char *name;
    int cases, copies, level, threads;
    bool over;  /* the step exists and is replaced */
    int points; /* how many of its calls, when not all */
    fault_way way;
} scenario;

static const scenario scenarios[] = {
    {"new step", 5, 1, 1, 1, false, 60, {0}},
    {"step that exists", 5, 1, 1, 1, true, 60, {0}},
    {"step that exists, put aside", 5, 1, 1, 1, true, 1000, {.plain = true}},
    {"not compressed", 7, 1, 0, 1, false, 30, {0}},
    {"many tensors", 5, 100, 1, 1, false, 20, {0}},
    {"two threads", CASE_TENSORS, 1, 1, 2, false, 10, {0}},
    {"parity", 5, 1, 1, 1, false, 30, {.parity = 3}},
    {"in the background", 5, 1, 1, 1, false, 40, {.background = true}},
    {"in the background, step that exists",
     5,
     1,
     1,
     1,
     true,
     30,
     {.background = true, .parity = 1}},
    {"in the background, many tensors, parity",
     5,
     100,
     1,
     1,
     false,
     12,
     {.background = true, .parity = 8}},
    {"in the background, two threads, parity",
     CASE_TENSORS,
     1,
     1,
     2,
     false,
     10,
     {.background = true, .parity = 2}},
};

/* The traced child. */
static void save_and_exit(const scenario *s) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
        _exit(77);
    }
    raise(SIGSTOP);
    fault_plain_renames(s->way.plain);
    if (fault_save(2, s->cases, s->copies, s->level, s->threads) != LS_OK) {
        fprintf(stderr, "%s: the save fails: %s\n", s->name, ls_error_last()->message);
        _exit(1);
    }
    _exit(0);
}

/* LLVM's OpenMP leaves this behind where a process was killed or has used _exit. */
static void remove_openmp_segment(pid_t child) {
    char name[64];
    snprintf(name, sizeof name, "/__KMP_REGISTERED_LIB_%d_%d", (int)child, (int)getuid());
    (void)shm_unlink(name);
}

/* Waits for all threads of a child that was killed or has ended. */
static void reap(pid_t child) {
    int state;
    while (waitpid(-1, &state, __WALL) > 0 || errno == EINTR) {
    }
    remove_openmp_segment(child);
}

/* As fault_whole_check, by another process: loading may use threads of OpenMP, and a child of a
 * process that has had some cannot make its own. */
static int64_t whole_check(void) {
    fflush(NULL);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const int64_t newest = fault_whole_check();
        fflush(NULL);
        _exit(test_failures || newest < 0 ? 255 : (int)newest);
    }
    int state;
    CHECK(waitpid(child, &state, 0) == child);
    remove_openmp_segment(child);
    CHECK(WIFEXITED(state) && WEXITSTATUS(state) != 255);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}

/* What killed saves have left would fill the disk; as a job does that takes over a run. */
static void sweep(void) {
    CHECK_OK(ls_ckpt_stale_sweep(root, true));
    CHECK_INT(fault_temporaries(), 0);
}

/* Kills the save at its n-th call (from 0). Returns how many calls it made: n when it was killed;
 * -1 when this system lets no process be traced. *other: was that call another thread's? */
static long save_until(const scenario *s, long n, bool *other) {
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        save_and_exit(s);
    }
    int state;
    long calls = 0;
    CHECK(waitpid(child, &state, 0) == child);
    if (!WIFSTOPPED(state)) {
        return -1;
    }
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
    CHECK(ptrace(PTRACE_SETOPTIONS, child, NULL, options) == 0);
    ptrace(PTRACE_SYSCALL, child, NULL, NULL);
    for (;;) {
        pid_t thread = waitpid(-1, &state, __WALL);
        if (thread < 0 || (thread == child && !WIFSTOPPED(state))) {
            CHECK(thread == child);
            CHECK_INT(thread < 0 ? errno : state, 0);
            break;
        }
        struct __ptrace_syscall_info call = {0};
        if (WIFSTOPPED(state) && WSTOPSIG(state) == (SIGTRAP | 0x80) &&
            ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof call, &call) > 0 &&
            call.op == PTRACE_SYSCALL_INFO_ENTRY && calls++ == n) {
            kill(child, SIGKILL);
            *other = thread != child;
            calls = n;
            break;
        }
        ptrace(PTRACE_SYSCALL, thread, NULL, NULL);
    }
    reap(child);
    return calls;
}

static long test_scenario(const scenario *s, bool all) {
    fault_step_remove(2);
    way = s->way;
    bool other = false;
    long calls = save_until(s, -1, &other), others = 0;
    if (calls < 0) {
        return -1;
    }
    CHECK_INT(whole_check(), 2);
    const long wanted = s->points < 10 * FEWER ? 10 : s->points / FEWER;
    long points = all || calls < wanted ? calls : wanted, killed = 0, kept = 0;
    long asides = 0; /* times that the step's name was not there */
    char newest_path[4200];
    snprintf(newest_path, sizeof newest_path, "%s/step-00000002", root);
    for (long i = 0; i < points; i++) {
        bool was_killed = false;
        long n = 0;
        for (int tries = 0; tries < 4 && !was_killed; tries++) {
            n = i * calls / points;
            if (!s->over) {
                fault_step_remove(2);
            }
            const long made = save_until(s, n, &other);
            was_killed = made == n;
            calls = was_killed ? calls : made; /* threads that wait make fewer calls some times */
        }
        killed += was_killed;
        others += was_killed && other;
        asides += !ls_path_exists(newest_path);
        if (s->way.plain || i % SWEEP_EVERY == SWEEP_EVERY - 1) {
            sweep();
        }
        int64_t newest = whole_check();
        CHECK(newest == 2 || (newest == 1 && !s->over));
        kept += newest == 1;
        if (test_failures) {
            fprintf(stderr, "%s: killed at call %ld of %ld\n", s->name, n, calls);
            break;
        }
    }
    CHECK(killed >= points * 9 / 10);
    CHECK(s->over || kept > 0);
    CHECK(!s->over || (asides > 0) == s->way.plain);
    CHECK(!s->way.background || others > killed / 2); /* the rest: reserving, starting, waiting */
    CHECK_OK(
        fault_save(2, s->cases, s->copies, s->level, 1)); /* beside what the killed ones left */
    CHECK_INT(whole_check(), 2);
    sweep();
    printf("%s: killed at %ld of %ld calls, %ld of them not of the main thread\n", s->name, killed,
           calls, others);
    return killed;
}

int main(int argc, char **argv) {
    const size_t only = argc > 1 ? (size_t)atol(argv[1]) : SIZE_MAX;
    bool all = getenv("LOCKSTEP_TEST_ALL") != NULL;
    long killed = 0, in_background = 0;
    ls_log_set_quiet(true);
    omp_set_num_threads(1); /* or a save's child could not make its own threads: see whole_check */
    fault_begin();
    CHECK_OK(fault_save(1, 5, 1, 1, 1));
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        long n = only == SIZE_MAX || only == i ? test_scenario(&scenarios[i], all) : 0;
        if (n < 0) {
            printf("skipped: this system lets no process be traced\n");
            return 77;
        }
        killed += n;
        in_background += scenarios[i].way.background ? n : 0;
    }
    printf("%ld points, %ld of them of saves in the background\n", killed, in_background);
    CHECK(only != SIZE_MAX || killed > (all ? 3000 : 200 / FEWER));
    CHECK(only != SIZE_MAX || in_background > (all ? 1000 : 80 / FEWER));
    return fault_end();
}
