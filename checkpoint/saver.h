/* Saves that training does not wait for.
 *
 * start comes back at once; a thread copies the state into memory that was reserved, while training
 * reads it; settle, before training changes it, copies with all threads what is left. Then the
 * thread compresses, writes, syncs and hashes; the ranks agree about it by non-blocking collectives
 * that poll moves on, between steps. All MPI calls are the caller's thread's.
 *
 *   WRITE      each rank's file            (thread)
 *   REPORT     did everyone succeed?       (non-blocking all-gather)
 *   PARITY     of groups of files          (thread, then REPORT again)
 *   GATHER     what lies where, to rank 0  (non-blocking all-to-all)
 *   COMMIT     index, manifest, rename     (rank 0's thread), then removal of old checkpoints
 *   TELL       how it ended                (non-blocking broadcast)
 *
 * Each save of one rank after the other goes through the same stages; ls_ckpt_save does so with
 * every job on the calling thread. While a save is under way, nothing else of this room may open
 * data files in this process, unless HDF5 was built thread-safe (Debian's serial one is). */
#ifndef LS_CHECKPOINT_SAVER_H
#define LS_CHECKPOINT_SAVER_H

#include "checkpoint/ckpt.h"

typedef struct ls_ckpt_saver ls_ckpt_saver;

/* How tensors that do not lie in host memory get there. to [count]: where to put each of those to
 * save. Called by the thread that calls the saver. */
typedef struct ls_ckpt_fetch {
    ls_status (*copy)(void *context, const ls_ckpt_tensor *to, int count);
    /* Beside training, for a saver that is async; all NULL where there is no such way. `to` lies in
     * memory that was pinned, once and for all; unpin waits for copies. start begins to copy; what
     * the caller enqueues after hold may change the data; done says whether all is there. Where
     * pin fails, copy is used. */
    ls_status (*pin)(void *context, void *memory, size_t bytes);
    ls_status (*unpin)(void *context, void *memory);
    ls_status (*start)(void *context, const ls_ckpt_tensor *to, int count);
    ls_status (*hold)(void *context);
    ls_status (*done)(void *context, bool wait, bool *done);
} ls_ckpt_fetch;

typedef struct ls_ckpt_saver_options {
    ls_comm *comm;        /* all its ranks call create, start and destroy alike; the stages run on
                             a copy of it */
    bool async;           /* false: start saves at once, and needs no copy with a writer a rank */
    bool writer_per_host; /* the lowest rank of a host writes for all of it */
    const ls_ckpt_fetch *fetch; /* NULL: tensors lie in host memory */
    void *fetch_context;
    const ls_ckpt_tensor *tensors; /* [count] what every save will have: boxes, no data needed */
    int count;
} ls_ckpt_saver_options;

/* Reserves the memory. [collective] */
ls_status ls_ckpt_saver_create(const ls_ckpt_saver_options *options, ls_ckpt_saver **saver);
/* Ends the jobs of this rank. A save that is under way is lost: end it with poll. Not collective
 * then; [collective] else. */
void ls_ckpt_saver_destroy(ls_ckpt_saver *saver);
/* Has all of that memory touched, in the background and once, for the first save to find its pages.
 * Kernels zero memory that nobody had before, GBs of it: better not while a run starts. Not
 * collective. */
void ls_ckpt_saver_touch(ls_ckpt_saver *saver);
/* Memory that this rank has reserved. */
int64_t ls_ckpt_saver_bytes(const ls_ckpt_saver *saver);
/* Who writes what. */
typedef struct ls_ckpt_writing {
    int threads;
    size_t piece_bytes;  /* of a tensor, the largest */
    size_t parity_bytes; /* ls_parity_bytes, which are taken once the chunks are written */
    bool first;          /* makes manifest and index too */
    bool background;     /* on a thread with a heap of its own; the last save is the caller's */
} ls_ckpt_writing;

/* What writing takes besides: for each thread a chunk as it is, shuffled and compressed, some
 * compressed ones that wait for the disk, and what the libraries take for themselves (HDF5, zstd,
 * hashes), but for their code. */
size_t ls_ckpt_writing_bytes(const ls_ckpt_writing *writing);

/* How a save ended. */
typedef struct ls_ckpt_outcome {
    ls_status status; /* the same on all ranks; not LS_OK: error says why */
    ls_error error;
    int64_t step;
    ls_ckpt_save_result result;
    double stall_seconds; /* of this rank's calling thread */
} ls_ckpt_outcome;

/* Begins a save. options are copied; tensors [count] too, unless the save is one of `now`; what
 * their data points to must stay as it is until settle has returned or the save has ended.
 * options->root must be the same on all ranks. Not
 * while one is under way on this rank. now: on the calling thread, with no copy where that can be;
 * poll with wait then ends it. What is wrong with the arguments is told by poll. [collective in
 * order; does not wait for other ranks] */
void ls_ckpt_saver_start(ls_ckpt_saver *saver, const ls_ckpt_save_options *options,
                         const ls_ckpt_tensor *tensors, int count, bool now);
/* The data may be changed when it returns, unless the save is one of `now`: until that one ends, it
 * may not. Costs nothing when no save is under way or its copy is complete. Not collective. */
void ls_ckpt_saver_settle(ls_ckpt_saver *saver);
/* Is a save under way on this rank? Ranks may differ for a while. */
bool ls_ckpt_saver_busy(const ls_ckpt_saver *saver);
/* Is one under way on any rank? Waits for the other ranks. [collective] */
ls_status ls_ckpt_saver_any_busy(ls_ckpt_saver *saver, bool *busy);
/* Moves the save on; wait: to its end, for which all ranks must call so. *ended: it has just ended,
 * and *outcome is filled in. Fails when communication does. */
ls_status ls_ckpt_saver_poll(ls_ckpt_saver *saver, bool wait, bool *ended,
                             ls_ckpt_outcome *outcome);

#endif
