/* Parity files: k files made of n others, so that any k of the n + k may be lost.
 *
 * Byte i of parity file j is the sum over the n files of coefficient (j, d) times byte i of file d,
 * in GF(2^8) with a Cauchy matrix: a Reed-Solomon code (Plank & Xu 2006, doi:10.1109/NCA.2006.43;
 * computed by ISA-L). Shorter files count as if zeros followed, up to the longest of the n, which
 * is how long the parity files are.
 *
 * A checkpoint's data files are divided into groups of at most LS_PARITY_GROUP neighbours with k
 * parity files each, so that the work spreads over ranks. index.h5 can be made again from the
 * manifest, and of the manifest there are k copies. */
#ifndef LS_CHECKPOINT_PARITY_H
#define LS_CHECKPOINT_PARITY_H

#include "checkpoint/format.h"

enum { LS_PARITY_GROUP = 16, LS_PARITY_MAX = 8 };

/* A group of files of one directory: first `data` of them, then the parity files. */
typedef struct ls_parity {
    int data, parity;
    const char *names[LS_PARITY_GROUP + LS_PARITY_MAX];
    int64_t bytes[LS_PARITY_GROUP + LS_PARITY_MAX]; /* of the data files */
} ls_parity;

/* Groups that n files make, and the range of files of group g. */
int ls_parity_groups(int files);
void ls_parity_range(int files, int g, int *first, int *end);
/* "parity-00003-1.rs" into buf; returns buf. */
char *ls_parity_name(char *buf, size_t size, int g, int j);

/* Is it a parity file? */
bool ls_parity_made(const ls_ckpt *ckpt, int file_index);

/* Makes the parity files of group g of `files` data files, k of them, in directory, and what the
 * manifest says of them: adds to `record` as ls_ckpt_manifest_merge takes it. */
ls_status ls_ckpt_parity_add(const char *directory, const char *const *names, const int64_t *bytes,
                             int files, int g, int k, json_t *record);

/* Memory that either takes for a group of `files` data files, k parity files or files to rebuild.
 */
size_t ls_parity_bytes(int files, int k);

/* Makes the parity files, which must not exist, and syncs them. LS_E_IO. */
ls_status ls_parity_write(const char *directory, const ls_parity *group);
/* Writes each file i with fds[i] >= 0 to it, from those that are not lost; at least as many as
 * there are data files must be left, and they must be as they were: LS_E_CORRUPT. */
ls_status ls_parity_rebuild(const char *directory, const ls_parity *group, const bool *lost,
                            const int *fds);

#endif
