/* Chunks on their way into a file. They go past the page cache where that can be (O_DIRECT):
 * copying them there and writing them out from there takes as much of a processor as compressing
 * them. */
#include "checkpoint/format.h"
#include "runtime/base/arena.h"
#include "runtime/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = LS_CKPT_H5_ALIGNMENT };

/* Less than this is not worth a thread. */
enum { THREAD_BYTES = 4 * LS_CKPT_CHUNK_BYTES };

void ls_ckpt_h5_fault(ls_ckpt_h5_output *o, int error) {
    int none = 0;
    if (atomic_compare_exchange_strong(&o->error, &none, error ? error : EIO)) {
        if (ftruncate(o->fd, 0) != 0) { /* gives the space back; the file is lost anyway */
            return;
        }
    }
}

void ls_ckpt_h5_write(ls_ckpt_h5_output *o, const void *data, size_t bytes, int64_t at) {
    const char *from = data;
    while (bytes > 0 && !atomic_load(&o->error)) {
        ssize_t n = pwrite(o->fd, from, bytes, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            ls_ckpt_h5_fault(o, n < 0 ? errno : ENOSPC);
            return;
        }
        from += n;
        at += n;
        bytes -= (size_t)n;
    }
}

/* Whole pages of a block, past the page cache. Returns how many bytes; the rest is for the page
 * cache, which takes anything. */
static size_t write_direct(ls_ckpt_h5_output *o, int direct, const ls_ckpt_block *b) {
    const size_t whole = direct >= 0 && b->at % PAGE == 0 ? b->bytes / PAGE * PAGE : 0;
    size_t done = 0;
    while (done < whole && !atomic_load(&o->error)) {
        ssize_t n = pwrite(direct, b->data + done, whole - done, (off_t)(b->at + (int64_t)done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EINVAL) { /* that: not as this file system wants it */
            ls_ckpt_h5_fault(o, errno);
        }
        done += n > 0 ? (size_t)n : 0;
        if (n <= 0 || n % PAGE != 0) {
            break;
        }
    }
    return done;
}

/* What goes through the page cache is to be on its way to the disk while the next chunks are
 * compressed: the sync at the end then has little left to wait for. */
static void block_write(ls_ckpt_putter *p, const ls_ckpt_block *b) {
    const size_t done = write_direct(p->output, p->direct, b);
    const int64_t at = b->at + (int64_t)done;
    ls_ckpt_h5_write(p->output, b->data + done, b->bytes - done, at);
    if (b->bytes - done >= PAGE) {
        (void)sync_file_range(p->output->fd, at, (off64_t)(b->bytes - done), SYNC_FILE_RANGE_WRITE);
    }
}

static void *run(void *argument) {
    ls_ckpt_putter *p = argument;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (!p->first && !p->ending) {
            pthread_cond_wait(&p->full, &p->mutex);
        }
        ls_ckpt_block *b = p->first;
        if (!b) {
            break;
        }
        p->first = b->next;
        p->last = p->first ? p->last : &p->first;
        pthread_mutex_unlock(&p->mutex);
        block_write(p, b);
        pthread_mutex_lock(&p->mutex);
        b->next = p->free;
        p->free = b;
        pthread_cond_signal(&p->freed);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

int ls_ckpt_putter_threads(int writers, int64_t bytes) {
    return bytes < THREAD_BYTES ? 0
                                : (writers + LS_CKPT_PUTTER_WRITERS - 1) / LS_CKPT_PUTTER_WRITERS;
}

static ls_status blocks_make(ls_ckpt_putter *p, int count, size_t block_bytes) {
    LS_TRY(ls_calloc((size_t)count, sizeof *p->blocks, &p->blocks));
    for (; p->block_count < count; p->block_count++) {
        ls_ckpt_block *b = &p->blocks[p->block_count];
        b->data = ls_ckpt_buffer(block_bytes);
        if (!b->data) {
            return LS_FAIL(LS_E_MEMORY, "no memory for a chunk of %zu bytes", block_bytes);
        }
        b->next = p->free;
        p->free = b;
    }
    return LS_OK;
}

int ls_ckpt_threads_start(pthread_t *threads, int count, void *(*main)(void *), void *argument,
                          int *started) {
    int error = 0;
    for (*started = 0; *started < count && error == 0; *started += error == 0) {
        error = ls_process_thread(&threads[*started], main, argument);
    }
    return error;
}

/* Without them, or with fewer, it goes slower. */
static void threads_start(ls_ckpt_putter *p, int count) {
    if (count > 0 && ls_calloc((size_t)count, sizeof *p->threads, &p->threads) == LS_OK) {
        (void)ls_ckpt_threads_start(p->threads, count, run, p, &p->thread_count);
    }
}

ls_status ls_ckpt_putter_start(ls_ckpt_putter *p, ls_ckpt_h5_output *output, const char *path,
                               int writers, int threads, size_t block_bytes) {
    *p = (ls_ckpt_putter){.output = output, .direct = -1};
    p->last = &p->first;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->full, NULL);
    pthread_cond_init(&p->freed, NULL);
    ls_status status = blocks_make(p, writers + (threads > 0 ? threads + 1 : 0), block_bytes);
    if (status != LS_OK) {
        ls_ckpt_putter_end(p);
        return status;
    }
    p->direct = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
    threads_start(p, threads);
    return LS_OK;
}

ls_ckpt_block *ls_ckpt_putter_take(ls_ckpt_putter *p) {
    pthread_mutex_lock(&p->mutex);
    while (!p->free) {
        pthread_cond_wait(&p->freed, &p->mutex);
    }
    ls_ckpt_block *b = p->free;
    p->free = b->next;
    pthread_mutex_unlock(&p->mutex);
    b->next = NULL;
    b->at = -1;
    return b;
}

void ls_ckpt_putter_give(ls_ckpt_putter *p, ls_ckpt_block *b) {
    const bool queued = b->at >= 0 && p->thread_count > 0;
    if (b->at >= 0 && !queued) {
        block_write(p, b);
    }
    pthread_mutex_lock(&p->mutex);
    if (queued) {
        *p->last = b;
        p->last = &b->next;
        pthread_cond_signal(&p->full);
    } else {
        b->next = p->free;
        p->free = b;
        pthread_cond_signal(&p->freed);
    }
    pthread_mutex_unlock(&p->mutex);
}

void ls_ckpt_putter_end(ls_ckpt_putter *p) {
    pthread_mutex_lock(&p->mutex);
    p->ending = true;
    pthread_cond_broadcast(&p->full);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->thread_count; i++) {
        pthread_join(p->threads[i], NULL);
    }
    if (p->direct >= 0 && close(p->direct) != 0) {
        ls_ckpt_h5_fault(p->output, errno);
    }
    for (int i = 0; i < p->block_count; i++) {
        free(p->blocks[i].data);
    }
    free(p->blocks);
    free(p->threads);
    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->full);
    pthread_cond_destroy(&p->freed);
}
