#include "checkpoint/fetch.h"
#include "checkpoint/repair.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* So many threads decode about as fast as most disks read: for more of them another thread reads. A
 * second one for the same disk makes nothing faster, and its buffers push others out of the cache.
 */
enum { DECODERS = 4 };

/* A file that a thread reads from. */
typedef struct reading {
    ls_ckpt_source source;
    int file_index; /* -1: none */
} reading;

static ls_status reading_open(reading *r, const ls_ckpt *ckpt, int file_index) {
    char path[4096];
    if (r->file_index == file_index) {
        return LS_OK;
    }
    ls_ckpt_source_close(&r->source);
    r->file_index = -1;
    LS_TRY(ls_ckpt_file_path(ckpt, file_index, path, sizeof path));
    LS_TRY(ls_ckpt_source_open(path, false, &r->source));
    r->file_index = file_index;
    return LS_OK;
}

/* All buffers get room for any of the chunks at once: each goes from hand to hand. */
static ls_status buffer_fill(const ls_ckpt_fetcher *f, reading *r, ls_ckpt_fetched *b) {
    LS_TRY(reading_open(r, f->ckpt, b->wanted->file_index));
    LS_TRY(ls_ckpt_buffer_reserve(&b->data, &b->capacity, f->most_bytes));
    return ls_ckpt_chunk_read(&r->source, b->wanted->place, &b->data, &b->capacity);
}

static void *run(void *argument) {
    ls_ckpt_fetcher *f = argument;
    reading r = {.source = {.fd = -1, .direct = -1}, .file_index = -1};
    pthread_mutex_lock(&f->mutex);
    for (;;) {
        while (!f->free && !f->stopping && f->next < f->count) {
            pthread_cond_wait(&f->freed, &f->mutex);
        }
        if (f->stopping || f->next == f->count) {
            break;
        }
        ls_ckpt_fetched *b = f->free;
        f->free = b->next;
        b->next = NULL;
        b->wanted = &f->wanted[f->next++];
        pthread_mutex_unlock(&f->mutex);
        b->error.code = LS_OK;
        if (buffer_fill(f, &r, b) != LS_OK) {
            b->error = *ls_error_last();
        }
        pthread_mutex_lock(&f->mutex);
        *f->last = b;
        f->last = &b->next;
        pthread_cond_signal(&f->full);
    }
    pthread_mutex_unlock(&f->mutex);
    ls_ckpt_source_close(&r.source);
    return NULL;
}

ls_status ls_ckpt_fetcher_start(ls_ckpt_fetcher *f, const ls_ckpt *ckpt,
                                const ls_ckpt_wanted *wanted, int64_t count, int decoders) {
    const int threads = (decoders + DECODERS - 1) / DECODERS;
    *f = (ls_ckpt_fetcher){.ckpt = ckpt, .wanted = wanted, .count = count};
    for (int64_t i = 0; i < count; i++) {
        const size_t bytes = ls_ckpt_chunk_room(wanted[i].place);
        f->most_bytes = bytes > f->most_bytes ? bytes : f->most_bytes;
    }
    f->last = &f->first;
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->full, NULL);
    pthread_cond_init(&f->freed, NULL);
    f->started = true;
    LS_TRY(ls_calloc((size_t)(decoders + threads), sizeof *f->buffers, &f->buffers));
    for (; f->buffer_count < decoders + threads; f->buffer_count++) {
        f->buffers[f->buffer_count].next = f->free;
        f->free = &f->buffers[f->buffer_count];
    }
    LS_TRY(ls_calloc((size_t)threads, sizeof *f->threads, &f->threads));
    const int error = ls_ckpt_threads_start(f->threads, threads, run, f, &f->thread_count);
    return f->thread_count > 0
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no thread to read with: %s", strerror(error));
}

const ls_ckpt_wanted *ls_ckpt_fetcher_take(ls_ckpt_fetcher *f, ls_ckpt_codec *codec,
                                           ls_status *status) {
    const ls_ckpt_wanted *wanted = NULL;
    ls_error error = {.code = LS_OK};
    pthread_mutex_lock(&f->mutex);
    while (!f->first && !f->stopping && f->taken < f->count) {
        pthread_cond_wait(&f->full, &f->mutex);
    }
    ls_ckpt_fetched *b = f->first;
    if (b && !f->stopping) {
        f->first = b->next;
        f->last = f->first ? f->last : &f->first;
        uint8_t *data = b->data;
        size_t capacity = b->capacity;
        b->data = codec->packed;
        b->capacity = codec->packed_capacity;
        codec->packed = data;
        codec->packed_capacity = capacity;
        wanted = b->wanted;
        error = b->error;
        b->next = f->free;
        f->free = b;
        pthread_cond_signal(&f->freed);
        if (++f->taken == f->count) {
            pthread_cond_broadcast(&f->full);
        }
    }
    pthread_mutex_unlock(&f->mutex);
    *status = error.code == LS_OK ? LS_OK : ls_error_restore(&error);
    return wanted;
}

void ls_ckpt_fetcher_stop(ls_ckpt_fetcher *f) {
    pthread_mutex_lock(&f->mutex);
    f->stopping = true;
    pthread_cond_broadcast(&f->full);
    pthread_cond_broadcast(&f->freed);
    pthread_mutex_unlock(&f->mutex);
}

void ls_ckpt_fetcher_end(ls_ckpt_fetcher *f) {
    if (!f->started) {
        return;
    }
    ls_ckpt_fetcher_stop(f);
    for (int i = 0; i < f->thread_count; i++) {
        pthread_join(f->threads[i], NULL);
    }
    for (int i = 0; i < f->buffer_count; i++) {
        free(f->buffers[i].data);
    }
    free(f->buffers);
    free(f->threads);
    pthread_mutex_destroy(&f->mutex);
    pthread_cond_destroy(&f->full);
    pthread_cond_destroy(&f->freed);
    f->started = false;
}
