#include "collectives/watch.h"

#include "collectives/peers.h"
#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/process.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* WOKEN_MS: until hearts on this host beat again. */
enum { STEPS_KEPT = 16, WRITING_LIMIT_S = 10, WOKEN_MS = 50 };

typedef struct watch {
    int rank, size;
    char run_dir[800];
    double min_deadline_s, deadline_factor, patience_s, tick_s;
    void (*report)(const char *text);
    void (*end)(void);
    ls_peers *peers;
    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock; /* of stop */
    pthread_cond_t wake;
    bool stop;
    /* The last steps' times, in a ring; the main thread's. */
    double step_s[STEPS_KEPT];
    int64_t steps;
    uint64_t step_begin_ns;
    _Atomic uint64_t step_deadline_ns; /* 0: not learnt */
    _Atomic uint64_t soon_ns; /* since when there is a reason to look soon; 0: there is none */
    _Atomic bool failed;      /* the main thread has come to its end */
    /* The watching thread's. */
    uint64_t last_look_ns, dead_since_ns, warned_id;
} watch;

static watch the;
static bool started;
static atomic_flag ending = ATOMIC_FLAG_INIT;

static uint64_t ns_of(double seconds) {
    return (uint64_t)(seconds * 1e9);
}

/* How old a heartbeat may be, and when a rank that waits first asks whether the others are there.
 * Beats come every tick, or late by the second that an answer may take and by what a loaded host
 * adds. */
static double stale_s(void) {
    return the.min_deadline_s / 2;
}

/* Turns of the ranks, so that mostly the first one finds and tells; and the time for answers. With
 * the time before the first look both stay within min_deadline_s. */
static uint64_t turn_ns(void) {
    return ns_of(0.1 * the.min_deadline_s * (double)the.rank / (double)the.size);
}

/* Of looks that are to be soon: all within the seconds that a launcher leaves. */
static uint64_t soon_turn_ns(void) {
    return ns_of(0.5 * (double)the.rank / (double)the.size);
}

static double answer_s(void) {
    return 0.35 * the.min_deadline_s;
}

/* Ending */

static void on_alarm(int signal_number) {
    (void)signal_number;
    the.end();
}

/* Records may go to a file system that hangs, too. */
static void limit_writing(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, SIGALRM);
    sigaction(SIGALRM, &action, NULL);
    pthread_sigmask(SIG_UNBLOCK, &one, NULL);
    alarm(WRITING_LIMIT_S);
}

static void warn_unless(ls_status written) {
    if (written != LS_OK) {
        ls_log_warn("flight record: %s", ls_error_last()->message);
    }
}

/* Ends the process. The first of the threads to come does it. */
static void end_job(const char *report) {
    if (atomic_flag_test_and_set(&ending)) {
        for (;;) {
            pause();
        }
    }
    limit_writing();
    if (report) {
        the.report(report); /* first: the launcher gives ranks a second once one has ended */
    }
    warn_unless(ls_peers_write(the.peers, stale_s(), the.run_dir));
    ls_flight_forget();
    if (report) {
        ls_peers_dismiss(the.peers);
    }
    warn_unless(ls_peers_write_late(the.peers, the.run_dir));
    the.end();
}

static void dismissed(void) {
    end_job(NULL);
}

/* Looking */

/* op: that the rank waits in; overdue: for longer than its deadline. */
static void look(const ls_flight_op *op, bool overdue) {
    ls_rank_view *views;
    if (ls_peers_look(the.peers, stale_s(), answer_s(), &views) != LS_OK) {
        ls_log_warn("watchdog: %s", ls_error_last()->message);
        return;
    }
    static char text[1000];
    ls_verdict verdict = ls_diagnose(views, the.size, text, sizeof text);
    ls_peers_free_views(views, the.size);
    if (verdict == LS_VERDICT_HANG) {
        end_job(text);
    }
    if (verdict == LS_VERDICT_SLOW && text[0] && op && overdue && the.warned_id != op->id) {
        the.warned_id = op->id;
        ls_log_warn("slow: %s", text);
    }
}

static bool is_due(uint64_t now_ns, uint64_t since_ns, uint64_t deadline_ns) {
    return now_ns > since_ns && now_ns - since_ns >= deadline_ns;
}

/* One look at the own record. woken: only at whether a rank of this host has died, which is so
 * whoever was stopped; its launcher may leave the others no second more. */
static void check(bool woken) {
    ls_flight_record *own = ls_flight_own();
    const bool in_step = ls_flight_place_in_step(atomic_load(&own->place));
    const uint64_t learnt_ns = atomic_load(&the.step_deadline_ns);
    const ls_flight_op *op = ls_flight_find(own, atomic_load(&own->inside));
    const bool connects = op && op->seq == 1; /* the group's ranks, which steps do not do */
    const uint64_t deadline_ns =
        in_step && learnt_ns && !connects ? learnt_ns : ns_of(the.patience_s);
    atomic_store(&own->deadline_ns, deadline_ns);
    if (ls_peers_dead_here(the.peers) < 0) {
        the.dead_since_ns = 0;
    } else if (the.dead_since_ns == 0) {
        the.dead_since_ns = ls_clock_ns();
    }
    if (the.dead_since_ns && is_due(ls_clock_ns(), the.dead_since_ns, turn_ns())) {
        look(op, false);
        return;
    }
    if (woken) {
        return;
    }
    const bool waits = atomic_load(&own->inside) != 0 || atomic_load(&the.failed);
    const uint64_t now_ns = ls_clock_ns(), progress_ns = atomic_load(&own->progress_ns);
    const uint64_t over_ns = progress_ns + deadline_ns;
    const bool late = now_ns >= over_ns + turn_ns();
    /* Others may have begun to wait later, and have time left. */
    const bool often = late && deadline_ns < ns_of(2 * the.min_deadline_s);
    /* Who looks asks all: looks of thousands of ranks that wait would be millions of questions. */
    const uint64_t asked_ns = atomic_load(&own->asked_ns);
    const uint64_t looked_ns = asked_ns > the.last_look_ns ? asked_ns : the.last_look_ns;
    const uint64_t soon_ns = atomic_load(&the.soon_ns);
    /* From their end on ranks leave one by one, and are not lost. */
    const bool may_look = waits || atomic_load(&own->place) != LS_FLIGHT_END;
    const bool soon = may_look && looked_ns < soon_ns && is_due(now_ns, soon_ns, soon_turn_ns());
    if (soon || (waits && is_due(now_ns, progress_ns, ns_of(stale_s()) + turn_ns()) &&
                 ((late && looked_ns < over_ns) ||
                  is_due(now_ns, looked_ns, ns_of(often ? the.tick_s : stale_s()) + turn_ns())))) {
        look(op, late);
        the.last_look_ns = ls_clock_ns();
    }
}

static void *watch_all(void *context) {
    (void)context;
    ls_cpu_unbind_thread();
    uint64_t last_ns = ls_clock_ns();
    pthread_mutex_lock(&the.lock);
    while (!the.stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        const uint64_t ns = (uint64_t)until.tv_nsec + ns_of(the.tick_s);
        until.tv_sec += (time_t)(ns / 1000000000u);
        until.tv_nsec = (long)(ns % 1000000000u);
        pthread_cond_timedwait(&the.wake, &the.lock, &until);
        if (the.stop) {
            break;
        }
        pthread_mutex_unlock(&the.lock);
        const uint64_t now_ns = ls_clock_ns();
        const bool woken = now_ns - last_ns > ns_of(stale_s());
        if (woken) {
            /* This process was stopped (a suspended job) and so, maybe, were the others, whose
             * hearts do not beat again yet: the SIGCONT that came with it is no reason to look. The
             * SIGTERM of a launcher that has lost a rank, a second later, is one. */
            atomic_store(&ls_flight_own()->progress_ns, now_ns);
            the.last_look_ns = now_ns + ns_of(0.5);
            poll(NULL, 0, WOKEN_MS);
        }
        check(woken);
        last_ns = ls_clock_ns();
        pthread_mutex_lock(&the.lock);
    }
    pthread_mutex_unlock(&the.lock);
    return NULL;
}

/* The main thread's side */

static ls_status start_thread(void) {
    pthread_condattr_t clock;
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_mutex_init(&the.lock, NULL);
    pthread_cond_init(&the.wake, &clock);
    pthread_condattr_destroy(&clock);
    int error = ls_process_thread(&the.thread, watch_all, NULL);
    if (error != 0) {
        return LS_FAIL(LS_E_MEMORY, "cannot start the watchdog's thread: %s", strerror(error));
    }
    the.thread_runs = true;
    return LS_OK;
}

ls_status ls_watch_start(const ls_watch_options *o) {
    if (started) {
        return LS_FAIL(LS_E_EXISTS, "the watchdog was started before");
    }
    the = (watch){.rank = o->comm->rank,
                  .size = o->comm->size,
                  .min_deadline_s = o->min_deadline_s,
                  .deadline_factor = o->deadline_factor,
                  .patience_s = fmax(o->patience_s, o->min_deadline_s),
                  .tick_s = fmin(0.2, o->min_deadline_s / 10),
                  .report = o->report,
                  .end = o->end};
    snprintf(the.run_dir, sizeof the.run_dir, "%s", o->run_dir);
    const ls_peers_options peers = {
        .comm = o->comm, .flight_dir = o->flight_dir, .beat_s = the.tick_s, .dismissed = dismissed};
    LS_TRY(ls_peers_open(&peers, &the.peers));
    /* Until the thread's first look: without one a rank would seem to be late at once. */
    atomic_store(&ls_flight_own()->deadline_ns, ns_of(the.patience_s));
    started = true;
    ls_status status = ls_comm_agree(o->comm, start_thread());
    if (status != LS_OK) {
        ls_watch_stop();
    }
    return status;
}

void ls_watch_stop(void) {
    if (!started) {
        return;
    }
    if (the.thread_runs) {
        pthread_mutex_lock(&the.lock);
        the.stop = true;
        pthread_cond_signal(&the.wake);
        pthread_mutex_unlock(&the.lock);
        pthread_join(the.thread, NULL);
        pthread_cond_destroy(&the.wake);
        pthread_mutex_destroy(&the.lock);
    }
    ls_peers_close(the.peers);
    started = false;
}

void ls_watch_look_soon(void) {
    atomic_store(&the.soon_ns, ls_clock_ns());
}

void ls_watch_wait_for_cause(void) {
    if (started && the.thread_runs) {
        atomic_store(&the.failed, true);
        ls_watch_look_soon();
        struct timespec left = {.tv_sec = 1}; /* signals come meanwhile, as of a launcher */
        while (nanosleep(&left, &left) != 0 && errno == EINTR) {
        }
    }
}

void ls_watch_begin_step(void) {
    the.step_begin_ns = ls_clock_ns();
}

void ls_watch_end_step(int64_t step) {
    if (!started) {
        return;
    }
    ls_flight_set_step(step);
    if (++the.steps < 2) {
        return; /* the first one pays for page faults and primitives */
    }
    the.step_s[the.steps % STEPS_KEPT] = 1e-9 * (double)(ls_clock_ns() - the.step_begin_ns);
    double longest_s = 0;
    for (int i = 0; i < STEPS_KEPT; i++) {
        longest_s = fmax(longest_s, the.step_s[i]);
    }
    atomic_store(&the.step_deadline_ns,
                 ns_of(fmax(the.min_deadline_s, the.deadline_factor * longest_s)));
}
