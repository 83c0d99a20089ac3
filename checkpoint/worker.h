/* A thread for work in the background, one job at a time. It and the threads that it starts give
 * way to others: they are 10 steps nicer, so that on busy processors they get a tenth of a thread's
 * share, and all of it on idle ones. */
#ifndef LS_CHECKPOINT_WORKER_H
#define LS_CHECKPOINT_WORKER_H

#include "runtime/base/status.h"

#include <pthread.h>

typedef void (*ls_job_fn)(void *context);

typedef struct ls_worker {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    ls_job_fn job; /* NULL: none under way */
    void *context;
    bool running; /* there is a thread */
    bool stopping;
} ls_worker;

ls_status ls_worker_start(ls_worker *worker);
/* Not while a job is under way. Without a thread (a zeroed struct) the job is done on return. */
void ls_worker_give(ls_worker *worker, ls_job_fn job, void *context);
/* Is the last job done? wait: until it is. */
bool ls_worker_done(ls_worker *worker, bool wait);
/* Ends the thread after its job. Safe when there is none. */
void ls_worker_stop(ls_worker *worker);

#endif
