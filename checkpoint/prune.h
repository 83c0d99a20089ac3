/* Which checkpoints of a run may go, and what lies around them. */
#ifndef LS_CHECKPOINT_PRUNE_H
#define LS_CHECKPOINT_PRUNE_H

#include "checkpoint/ckpt.h"
#include "checkpoint/owner.h"

typedef enum ls_ckpt_fate {
    LS_FATE_NEWEST,  /* the newest valid one: never removed */
    LS_FATE_LAST,    /* one of the last so many */
    LS_FATE_EVERY,   /* its step is a multiple */
    LS_FATE_BEST,    /* one of those with the lowest validation loss */
    LS_FATE_DAMAGED, /* left for people to look at; it counts for nothing */
    LS_FATE_REMOVE
} ls_ckpt_fate;

const char *ls_ckpt_fate_name(ls_ckpt_fate fate);

typedef struct ls_ckpt_verdict {
    int64_t step;
    ls_ckpt_fate fate;
    int64_t stored_bytes; /* 0 when damaged */
    double val_loss;      /* NAN: unknown */
    int lost;             /* files that parity files make up for */
    char fault[256];      /* "" unless damaged */
} ls_ckpt_verdict;

/* What happens to each checkpoint of root, newest first, when those that *keep says are kept.
 * Manifests and sizes are checked (ls_ckpt_open). Caller frees *verdicts. */
ls_status ls_ckpt_prune_plan(const char *root, const ls_ckpt_keep *keep, ls_ckpt_verdict **verdicts,
                             size_t *count);
/* Removes what a plan says, oldest first: what is left after an interruption is the newer part.
 * One that cannot be removed, such as a link to another disk, keeps no other from it; the first
 * failure is returned then. */
ls_status ls_ckpt_prune_carry_out(const char *root, const ls_ckpt_verdict *verdicts, size_t count);
/* Both; does nothing when *keep is all zeros. */
ls_status ls_ckpt_prune(const char *root, const ls_ckpt_keep *keep);

/* Saves and removals that did not end: directories .tmp-* of root. */
typedef struct ls_ckpt_stale {
    char name[256];
    int64_t bytes;
    double age_s;         /* since anything in it was last changed */
    bool has_owner;       /* it says who made it */
    ls_owner_state state; /* of whoever made it */
    char owner[320];      /* in words */
} ls_ckpt_stale;

/* Caller frees *stale. LS_E_IO when root cannot be read. */
ls_status ls_ckpt_stale_list(const char *root, ls_ckpt_stale **stale, size_t *count);
/* Removes those whose owner is provably gone, and says so; warns about those that nobody can tell
 * of. locked: the caller holds the lock of the run, so that those which do not say who made them
 * are of a job that died before its first rank had signed its save, and go too. A root that is not
 * there is fine. */
ls_status ls_ckpt_stale_sweep(const char *root, bool locked);

/* Does HDF5 find filter 32015 without this program's help? HDF5_PLUGIN_PATH says where it looks.
 * Ask before anything of this room was used: afterwards the filter is there in any case. */
bool ls_ckpt_plugin_found(void);

#endif
