#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/process.h"
#include "runtime/data/data.h"

/* A ring of slots, each one micro-batch: tokens [micro, T], then targets [micro, T].
 *
 *   consumed            produced
 *      v                   v
 *   | lent | ready | ready | filling | free |     slots = depth + 1
 *
 * The slot at `consumed` stays lent until the next call of ls_loader_next. */
struct ls_loader {
    ls_loader_options options;
    int64_t seq, slots, slot_elems;
    int32_t *ring;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t filled, freed;
    /* Under lock. */
    int64_t produced, consumed;
    bool lent, stop;
    ls_error error; /* of the thread; handed to the caller of ls_loader_next */
};

/* First sample of micro-batch number `index` of this loader. */
static int64_t micro_first(const ls_loader_options *o, int64_t index) {
    int64_t step = index / o->rank_micros, local = index % o->rank_micros;
    return o->first_sample + step * o->batch + o->rank_first + local * o->stride;
}

static void micro_prefetch(const ls_loader *loader, int64_t index) {
    const ls_loader_options *o = &loader->options;
    int64_t first = micro_first(o, index);
    for (int64_t i = 0; i < o->micro; i++) {
        ls_dataset_prefetch(o->dataset, ls_dataset_sample(o->dataset, o->seed, first + i));
    }
}

static ls_status micro_fill(const ls_loader *loader, int64_t index) {
    const ls_loader_options *o = &loader->options;
    int32_t *tokens = loader->ring + index % loader->slots * loader->slot_elems;
    int32_t *targets = tokens + o->micro * loader->seq;
    int64_t first = micro_first(o, index), valid;
    for (int64_t i = 0; i < o->micro; i++) {
        int64_t window = ls_dataset_sample(o->dataset, o->seed, first + i);
        LS_TRY(ls_dataset_window(o->dataset, window, tokens + i * loader->seq,
                                 targets + i * loader->seq, &valid));
    }
    return LS_OK;
}

static void *loader_main(void *argument) {
    ls_loader *loader = argument;
    ls_cpu_unbind_thread();
    for (int64_t i = 0; i < loader->options.depth; i++) {
        micro_prefetch(loader, i);
    }
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop && loader->error.code == LS_OK) {
        if (loader->produced - loader->consumed == loader->slots) {
            pthread_cond_wait(&loader->freed, &loader->lock);
            continue;
        }
        int64_t index = loader->produced;
        pthread_mutex_unlock(&loader->lock);
        micro_prefetch(loader, index + loader->options.depth);
        ls_status status = micro_fill(loader, index);
        pthread_mutex_lock(&loader->lock);
        if (status == LS_OK) {
            loader->produced++;
        } else {
            loader->error = *ls_error_last();
        }
        pthread_cond_signal(&loader->filled);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

static ls_status options_check(const ls_loader_options *o) {
    if (o->batch < 1 || o->micro < 1 || o->rank_micros < 1 || o->rank_first < 0 ||
        o->first_sample < 0 || o->depth < 1 || o->stride < o->micro ||
        o->rank_first > o->batch - o->micro ||
        o->rank_micros - 1 > (o->batch - o->micro - o->rank_first) / o->stride) {
        return LS_FAIL(LS_E_SHAPE,
                       "a rank that takes %" PRId64 " micro-batches of %" PRId64
                       " sequences from sequence %" PRId64 " (sample %" PRId64
                       ", %d ready) does not fit a batch of %" PRId64 " sequences",
                       o->rank_micros, o->micro, o->rank_first, o->first_sample, o->depth,
                       o->batch);
    }
    return LS_OK;
}

static ls_status thread_start(ls_loader *loader) {
    int error = ls_process_thread(&loader->thread, loader_main, loader);
    if (error) {
        return LS_FAIL(LS_E_MEMORY, "cannot start the loader thread: %s", strerror(error));
    }
    return LS_OK;
}

ls_status ls_loader_create(const ls_loader_options *options, ls_loader **out) {
    *out = NULL;
    ls_loader_options o = *options;
    o.depth = o.depth ? o.depth : 4;
    o.stride = o.stride ? o.stride : o.micro;
    LS_TRY(options_check(&o));
    const ls_dataset_info *info = ls_dataset_describe(o.dataset);
    if (info->windows < 1) {
        return LS_FAIL(LS_E_SHAPE, "the dataset was opened without a sequence length");
    }
    const int64_t seq = ls_dataset_seq(o.dataset);
    int64_t slot_elems = 0, elems = 0;
    if (__builtin_mul_overflow(2 * seq, o.micro, &slot_elems) ||
        __builtin_mul_overflow(slot_elems, (int64_t)o.depth + 1, &elems)) {
        return LS_FAIL(LS_E_SHAPE, "%d micro-batches of %" PRId64 " sequences are too large",
                       o.depth, o.micro);
    }
    ls_loader *loader;
    LS_TRY(ls_calloc(1, sizeof *loader, &loader));
    loader->options = o;
    loader->seq = seq;
    loader->slots = o.depth + 1;
    loader->slot_elems = slot_elems;
    ls_status status = ls_calloc((size_t)elems, sizeof *loader->ring, &loader->ring);
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->filled, NULL);
    pthread_cond_init(&loader->freed, NULL);
    if (status == LS_OK) {
        status = thread_start(loader);
    }
    if (status != LS_OK) {
        free(loader->ring);
        free(loader);
        return status;
    }
    *out = loader;
    return LS_OK;
}

void ls_loader_destroy(ls_loader *loader) {
    if (!loader) {
        return;
    }
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_signal(&loader->freed);
    pthread_mutex_unlock(&loader->lock);
    pthread_join(loader->thread, NULL);
    pthread_cond_destroy(&loader->filled);
    pthread_cond_destroy(&loader->freed);
    pthread_mutex_destroy(&loader->lock);
    free(loader->ring);
    free(loader);
}

ls_status ls_loader_next(ls_loader *loader, const int32_t **tokens, const int32_t **targets,
                         uint64_t *wait_ns) {
    *wait_ns = 0;
    pthread_mutex_lock(&loader->lock);
    if (loader->lent) {
        loader->consumed++;
        loader->lent = false;
        pthread_cond_signal(&loader->freed);
    }
    if (loader->produced == loader->consumed && loader->error.code == LS_OK) {
        const uint64_t begin = ls_clock_ns();
        while (loader->produced == loader->consumed && loader->error.code == LS_OK) {
            pthread_cond_wait(&loader->filled, &loader->lock);
        }
        *wait_ns = ls_clock_ns() - begin;
    }
    const bool ready = loader->produced > loader->consumed;
    loader->lent = ready;
    const ls_error error = loader->error;
    const int32_t *slot = loader->ring + loader->consumed % loader->slots * loader->slot_elems;
    pthread_mutex_unlock(&loader->lock);
    if (!ready) {
        return ls_error_restore(&error);
    }
    *tokens = slot;
    *targets = slot + loader->options.micro * loader->seq;
    return LS_OK;
}
