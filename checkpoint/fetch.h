/* Chunks on their way from files to those who decode them: read ahead in the order of a list by
 * threads that do nothing else, so that the disk waits for no decoder, and mostly no decoder for
 * the disk. The other way: ls_ckpt_putter. */
#ifndef LS_CHECKPOINT_FETCH_H
#define LS_CHECKPOINT_FETCH_H

#include "checkpoint/format.h"

/* A chunk to be read. */
typedef struct ls_ckpt_wanted {
    const ls_ckpt_chunk *place;
    int64_t index; /* in its piece */
    int use;       /* the caller's number */
    int file_index;
} ls_ckpt_wanted;

/* A buffer, and what was read into it. */
typedef struct ls_ckpt_fetched {
    struct ls_ckpt_fetched *next;
    const ls_ckpt_wanted *wanted;
    uint8_t *data;
    size_t capacity;
    ls_error error; /* code LS_OK: it was read */
} ls_ckpt_fetched;

typedef struct ls_ckpt_fetcher {
    const ls_ckpt *ckpt;
    const ls_ckpt_wanted *wanted; /* [count], of which [0, next) are read or being read */
    int64_t count, next, taken;
    size_t most_bytes; /* of one of them */
    pthread_t *threads;
    ls_ckpt_fetched *buffers, *free, *first, **last; /* first to last: full */
    int thread_count, buffer_count;
    pthread_mutex_t mutex;
    pthread_cond_t full, freed;
    bool started, stopping;
} ls_ckpt_fetcher;

/* Begins to read the list, which outlives the fetcher. A zeroed struct may be ended, too. */
ls_status ls_ckpt_fetcher_start(ls_ckpt_fetcher *fetcher, const ls_ckpt *ckpt,
                                const ls_ckpt_wanted *wanted, int64_t count, int decoders);
/* Waits for the next chunk, which is in codec->packed then. *status: of its reading, with the
 * thread's error. NULL: there is none. From any thread, as stop. */
const ls_ckpt_wanted *ls_ckpt_fetcher_take(ls_ckpt_fetcher *fetcher, ls_ckpt_codec *codec,
                                           ls_status *status);
/* There are no more from now on. */
void ls_ckpt_fetcher_stop(ls_ckpt_fetcher *fetcher);
void ls_ckpt_fetcher_end(ls_ckpt_fetcher *fetcher);

#endif
