#include "collectives/progress.h"

#include "collectives/comm_impl.h"
#include "runtime/base/clock.h"
#include "runtime/base/process.h"

#include <mpi.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

/* Between two looks. The least: what a link of 10 Gbit/s carries meanwhile fits a socket's buffers.
 * Each look takes the processor from what computes, with what its caches hold: naps grow while
 * nothing new is started, as long as looks take less than a SHARE-th of them, so that what arrives
 * meanwhile is little, too. */
enum { LEAST_NAP_NS = 300000, MOST_NAP_NS = 2000000, SHARE = 8 };

static struct {
    bool running, ends, idle;
    pthread_t thread;
    pthread_mutex_t held; /* whoever calls the back ends */
    pthread_cond_t work;
    bool failed; /* error is of an operation that the thread drove, and nobody was told yet */
    ls_error error;
} progress = {.held = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

/* Holding. */
static void look(void) {
    ls_pump_all();
    if (ls_error_last()->code != LS_OK) { /* the record is a thread's own */
        progress.error = *ls_error_last();
        progress.failed = true;
        ls_error_clear();
    }
}

static int64_t thread_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t longer(int64_t nap_ns) {
    return ls_min_i64(2 * nap_ns, MOST_NAP_NS);
}

static int64_t shorter(int64_t nap_ns) {
    return nap_ns / 2 > LEAST_NAP_NS ? nap_ns / 2 : LEAST_NAP_NS;
}

static void sleep_for(int64_t nap_ns) {
    const struct timespec nap = {.tv_nsec = nap_ns};
    nanosleep(&nap, NULL);
}

static void *run(void *unused) {
    (void)unused;
    ls_waiting_short_slices(true);
    int64_t nap_ns = LEAST_NAP_NS;
    int left = 0; /* under way after the last look */
    ls_error_clear();
    pthread_mutex_lock(&progress.held);
    while (!progress.ends) {
        const int pending = ls_pump_pending();
        if (pending > 0) {
            const int64_t begin_ns = thread_ns();
            look();
            const bool heavy = (thread_ns() - begin_ns) * SHARE > nap_ns;
            nap_ns = pending > left ? LEAST_NAP_NS : heavy ? shorter(nap_ns) : longer(nap_ns);
            left = ls_pump_pending();
        } else {
            left = 0;
            nap_ns = LEAST_NAP_NS;
            progress.idle = true;
            pthread_cond_wait(&progress.work, &progress.held);
            progress.idle = false;
        }
        pthread_mutex_unlock(&progress.held);
        do { /* while the main thread is in a call, it moves all on itself */
            sleep_for(nap_ns);
        } while (pthread_mutex_trylock(&progress.held) != 0);
    }
    pthread_mutex_unlock(&progress.held);
    return NULL;
}

ls_status ls_progress_start(void) {
    int level = MPI_THREAD_SINGLE;
    MPI_Query_thread(&level);
    if (level < MPI_THREAD_SERIALIZED) {
        return LS_FAIL(
            LS_E_UNSUPPORTED,
            "the MPI library has thread level %d; at least MPI_THREAD_SERIALIZED (%d) is "
            "needed to move operations on while ranks compute",
            level, MPI_THREAD_SERIALIZED);
    }
    progress.ends = false;
    const int code = ls_process_thread(&progress.thread, run, NULL);
    if (code != 0) {
        return LS_FAIL(LS_E_MEMORY, "no thread for communication: %s", strerror(code));
    }
    progress.running = ls_waiting_may_nap = true;
    return LS_OK;
}

void ls_progress_stop(void) {
    if (!progress.running) {
        return;
    }
    pthread_mutex_lock(&progress.held);
    progress.ends = true;
    pthread_cond_signal(&progress.work);
    pthread_mutex_unlock(&progress.held);
    pthread_join(progress.thread, NULL);
    progress.running = ls_waiting_may_nap = false;
}

void ls_progress_hold(void) {
    if (progress.running) {
        pthread_mutex_lock(&progress.held);
    }
}

ls_status ls_progress_released(ls_status status) {
    if (!progress.running) {
        return status;
    }
    const ls_error error = progress.error;
    const bool told = status != LS_OK && progress.failed;
    progress.failed = progress.failed && !told;
    if (progress.idle && ls_pump_pending()) {
        pthread_cond_signal(&progress.work);
    }
    pthread_mutex_unlock(&progress.held);
    return told ? ls_error_restore(&error) : status;
}
