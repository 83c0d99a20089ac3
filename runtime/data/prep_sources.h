/* Inputs of prep, in a fixed order: files, folders, patterns and streams become a list of files. */
#ifndef LS_DATA_PREP_SOURCES_H
#define LS_DATA_PREP_SOURCES_H

#include <sys/types.h>

#include "runtime/data/prep.h"

typedef enum ls_prep_kind {
    LS_PREP_TEXT,  /* one document */
    LS_PREP_JSONL, /* a document a line: named *.jsonl, or a stream that starts with '{' */
    LS_PREP_PACKED /* tokens: named *.bin, where a vocabulary is given */
} ls_prep_kind;

typedef struct ls_prep_source {
    char *path;    /* heap; "standard input" for "-" */
    int64_t bytes; /* size when it was listed */
    int spool_fd;  /* copy of a stream, already unlinked; -1: open path */
    ls_prep_kind kind;
} ls_prep_source;

typedef struct ls_prep_sources {
    ls_prep_source *list;
    int64_t count, capacity;
    int64_t bytes;             /* of all */
    int64_t duplicates, other; /* left out: reached before; neither file nor folder */
    int64_t prepared;          /* left out: in a folder, made by prep */
    void *seen;                /* tree of (device, inode) */
} ls_prep_sources;

/* Lists the inputs. Streams are copied into temp_dir, because they are read more than once. Nothing
 * is listed from temp_dir or options->out_dir. LS_E_INPUT names what is missing, LS_E_IO what
 * cannot be read. Safe to release after a failure. */
ls_status ls_prep_sources_init(ls_prep_sources *sources, const ls_prep_options *options,
                               const char *temp_dir);
void ls_prep_sources_release(ls_prep_sources *sources);

/* Records that path cannot be read, with the reason in errno: LS_E_INPUT when its name or
 * permission is wrong, LS_E_IO when the machine failed. */
ls_status ls_prep_unreadable(const char *path);

#endif
