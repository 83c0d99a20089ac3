#include "checkpoint/worker.h"

#include "runtime/base/cpu.h"
#include "runtime/base/process.h"

#include <malloc.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { NICER = 10 };

static void *run(void *argument) {
    ls_worker *w = argument;
    ls_cpu_unbind_thread();
    id_t self = (id_t)gettid(); /* Linux: priorities are the threads' */
    (void)setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + NICER);
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        while (!w->job && !w->stopping) {
            pthread_cond_wait(&w->changed, &w->mutex);
        }
        if (!w->job) {
            break;
        }
        pthread_mutex_unlock(&w->mutex);
        w->job(w->context);
        (void)malloc_trim(0); /* this thread's free memory serves no other; a save of the caller's
                                 comes beside it */
        pthread_mutex_lock(&w->mutex);
        w->job = NULL;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

ls_status ls_worker_start(ls_worker *w) {
    *w = (ls_worker){0};
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    int error = ls_process_thread(&w->thread, run, w);
    w->running = error == 0;
    return w->running ? LS_OK : LS_FAIL(LS_E_MEMORY, "no thread for saves: %s", strerror(error));
}

void ls_worker_give(ls_worker *w, ls_job_fn job, void *context) {
    if (!w->running) {
        job(context);
        return;
    }
    pthread_mutex_lock(&w->mutex);
    w->job = job;
    w->context = context;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
}

bool ls_worker_done(ls_worker *w, bool wait) {
    if (!w->running) {
        return true;
    }
    pthread_mutex_lock(&w->mutex);
    while (wait && w->job) {
        pthread_cond_wait(&w->changed, &w->mutex);
    }
    bool done = w->job == NULL;
    pthread_mutex_unlock(&w->mutex);
    return done;
}

void ls_worker_stop(ls_worker *w) {
    if (!w->running) {
        return;
    }
    pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->changed);
    w->running = false;
}
