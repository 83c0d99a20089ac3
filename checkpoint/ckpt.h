/* Checkpoints, format version 1: a directory step-00001200/ with one HDF5 file per writer,
 * manifest.json, and index.h5 with external links for people.
 *
 * Usable without the rest of the program but base, mesh/layout and comm. */
#ifndef LS_CHECKPOINT_CKPT_H
#define LS_CHECKPOINT_CKPT_H

#include "collectives/comm.h"
#include "runtime/base/dtype.h"
#include "runtime/base/hash.h"
#include "runtime/mesh/layout.h"

#include <jansson.h>
#include <signal.h>

#define LS_CKPT_FORMAT_MAJOR 1
#define LS_CKPT_FORMAT_MINOR 0

/* A tensor to save or to load: a global shape, and the box of it that `data` holds (row-major). */
typedef struct ls_ckpt_tensor {
    const char *name; /* "layers.0.attn.qkv.weight", "optim/exp_avg/layers.0..." */
    ls_dtype dtype;
    int ndim;
    int64_t dims[LS_MAX_DIMS];
    ls_box box;
    void *data; /* host memory; read only for saving */
} ls_ckpt_tensor;

/* Which checkpoints stay: each number adds some; all 0: every one. The newest valid one always. */
typedef struct ls_ckpt_keep {
    int64_t last;  /* the newest so many */
    int64_t every; /* those whose step is a multiple */
    int64_t best;  /* so many with the lowest validation loss ("val_loss" of run) */
} ls_ckpt_keep;

typedef struct ls_ckpt_save_options {
    const char *root;        /* the run's checkpoints/ directory, created when missing */
    int64_t step, tokens;    /* optimizer steps and tokens so far */
    int level;               /* zstd 1..19, 0: not compressed */
    int threads;             /* for compression; 0: 1 */
    int parity;              /* files of a group that may be lost, 0..8; parity.h */
    ls_ckpt_keep keep;       /* what is left in the root when the save has succeeded */
    const char *config_text; /* resolved YAML */
    /* What resume needs besides tensors (seed, samples, updates, data fingerprint), and val_loss:
     * null when the step was not evaluated. */
    const json_t *run;
    const json_t *counters; /* flat object of numbers (null allowed): group /counters */
    /* When it becomes 1, what is not committed ends with LS_E_STOPPED and is removed; may be NULL
     */
    const volatile sig_atomic_t *stop;
} ls_ckpt_save_options;

typedef struct ls_ckpt_save_result {
    char path[1024];
    int64_t raw_bytes, stored_bytes; /* of the tensors, and of the data files */
    double seconds;
} ls_ckpt_save_result;

/* Saves tensors in the fixed commit order. Each rank passes the boxes that it is to write (each
 * element of a tensor exactly once over all ranks; see ls_ckpt_assign). A failure on any rank is
 * returned on all of them; what was there before stays; the temporary directory is removed.
 * [collective] */
ls_status ls_ckpt_save(ls_comm *comm, const ls_ckpt_save_options *options,
                       const ls_ckpt_tensor *tensors, int count, ls_ckpt_save_result *result);

/* Splits replicated tensors over ranks by bytes: box of tensor i that `rank` is to write; extent 0
 * when none. Cuts along dimension 0 only. */
void ls_ckpt_assign(const ls_ckpt_tensor *tensors, int count, int rank, int ranks, ls_box *boxes);

/* A manifest in memory. */
typedef struct ls_ckpt ls_ckpt;

typedef struct ls_ckpt_chunk {
    int64_t at, bytes; /* in its file, as stored */
    uint64_t xxh3;     /* of its values */
} ls_ckpt_chunk;

typedef struct ls_ckpt_piece {
    const char *file, *dataset;
    int file_index;
    ls_box box;
    int64_t chunk[LS_MAX_DIMS]; /* extent of a chunk */
    int64_t chunks, raw_bytes, stored_bytes;
    const ls_ckpt_chunk *places; /* [chunks] */
    ls_sha256 sha256;            /* of the stored chunks' hashes; see checkpoint/format.h */
} ls_ckpt_piece;

typedef struct ls_ckpt_entry {
    const char *name;
    ls_dtype dtype;
    int ndim;
    int64_t dims[LS_MAX_DIMS];
    int piece_count;
    const ls_ckpt_piece *pieces;
} ls_ckpt_entry;

/* Reads and checks the manifest of a checkpoint directory: sizes with overflow checks, boxes that
 * cover each tensor without gap or overlap, files present with the right size. */
ls_status ls_ckpt_open(const char *path, ls_ckpt **ckpt);
/* Gives the checkpoint that rank 0 has opened to all ranks, of which the others look at no file for
 * it: *ckpt is filled in there, NULL where rank 0 has NULL. Once for each that is opened. Close it
 * on each rank, after a failure too. [collective] */
ls_status ls_ckpt_spread(ls_comm *comm, ls_ckpt **ckpt);
void ls_ckpt_close(ls_ckpt *ckpt);
const char *ls_ckpt_path(const ls_ckpt *ckpt);
int64_t ls_ckpt_step(const ls_ckpt *ckpt);
int64_t ls_ckpt_tokens(const ls_ckpt *ckpt);
const char *ls_ckpt_config(const ls_ckpt *ckpt); /* YAML text */
const json_t *ls_ckpt_run(const ls_ckpt *ckpt);
const json_t *ls_ckpt_counters(const ls_ckpt *ckpt);

typedef struct ls_ckpt_info {
    int minor; /* of the format; the major number is LS_CKPT_FORMAT_MAJOR */
    int level; /* zstd; 0: not compressed */
    int tensors, writers;
    int64_t raw_bytes, stored_bytes; /* stored: all files of the manifest but the parity files */
    int64_t parity_bytes;
} ls_ckpt_info;

ls_ckpt_info ls_ckpt_describe(const ls_ckpt *ckpt);
const ls_ckpt_entry *ls_ckpt_entries(const ls_ckpt *ckpt, int *count);
const ls_ckpt_entry *ls_ckpt_find(const ls_ckpt *ckpt, const char *name);

/* When *stop becomes 1, what goes through a tensor (values.h) ends with LS_E_STOPPED. */
void ls_ckpt_stop_when(ls_ckpt *ckpt, const volatile sig_atomic_t *stop);

/* Fills tensors[i].data with the box that it asks for. Only the chunks that a box touches are read;
 * of each, the hash of its values must fit, else LS_E_CORRUPT names it.
 * Missing names, other dtypes or shapes: LS_E_SHAPE with both. Not collective. */
ls_status ls_ckpt_load(ls_ckpt *ckpt, ls_ckpt_tensor *tensors, int count);

typedef enum ls_ckpt_depth {
    LS_CKPT_VERIFY_QUICK, /* the manifest with its own hash, boxes, chunk counts, the files' sizes;
                             opens no data file */
    LS_CKPT_VERIFY_FULL,  /* and the SHA-256 of every byte stored; then HDF5 must find each dataset
                             as the manifest has it */
    LS_CKPT_VERIFY_DEEP,  /* and the values: every chunk is decoded */
} ls_ckpt_depth;

/* Faults are passed to report (NULL: none) one by one; returns LS_E_CORRUPT when there was one. */
ls_status ls_ckpt_verify(ls_ckpt *ckpt, ls_ckpt_depth depth,
                         void (*report)(void *context, const char *fault), void *context);
/* Can all of it be loaded, as far as opening it and verifying it have shown? What was found lost or
 * damaged can be where parity files make up for it. */
bool ls_ckpt_is_loadable(const ls_ckpt *ckpt);

/* Newest checkpoint under root (or root itself when it is one) whose quick verification passes;
 * skipped ones are warned about. LS_E_INPUT when there is none at all, LS_E_CORRUPT when none of
 * those that are there is valid, LS_E_IO when nobody can tell; *path caller frees. */
ls_status ls_ckpt_latest(const char *root, char **path);
/* The same, opened. */
ls_status ls_ckpt_open_latest(const char *root, ls_ckpt **ckpt);
/* Of those below a step. */
ls_status ls_ckpt_open_below(const char *root, int64_t below, ls_ckpt **ckpt);

/* Steps of the directories step-* in root, newest first, valid or not. LS_E_INPUT when there is no
 * root, LS_E_IO when it cannot be read. Caller frees *steps. */
ls_status ls_ckpt_list(const char *root, int64_t **steps, size_t *count);
/* Step of "step-00001200", or -1. */
int64_t ls_ckpt_step_parse(const char *directory_name);

/* Text with control characters as \xNN, for printing; keep_lines: but newline and tab stay.
 * Caller frees; NULL: out of memory. */
char *ls_ckpt_printable(const char *text, bool keep_lines);

#endif
