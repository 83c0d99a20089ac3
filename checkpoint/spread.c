/* One rank reads a manifest and looks at the files; the others take its word. Ten thousand ranks
 * that did so themselves would be ten thousand times as many requests to a file system's metadata
 * server as there are files. */
#include "checkpoint/format.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

/* What the others are told before they make room for the rest. */
typedef struct head {
    int64_t text_bytes, path_bytes; /* 0: there is no checkpoint */
    int64_t files;
} head;

typedef struct parcel {
    char *text, *path;
    uint8_t *lost; /* [files] */
} parcel;

/* On rank 0: of its checkpoint. */
static ls_status pack(ls_ckpt *ckpt, parcel *p) {
    LS_TRY(ls_calloc((size_t)ckpt->file_count, 1, &p->lost));
    for (int i = 0; i < ckpt->file_count; i++) {
        p->lost[i] = ckpt->files[i].lost;
    }
    p->text = ckpt->text;
    p->path = ckpt->path;
    return LS_OK;
}

static ls_status make_room(const head *h, parcel *p) {
    LS_TRY(ls_calloc((size_t)h->text_bytes + 1, 1, &p->text)); /* a NUL follows */
    LS_TRY(ls_calloc((size_t)h->path_bytes, 1, &p->path));
    return ls_calloc((size_t)h->files, 1, &p->lost);
}

/* Takes the path. */
static ls_status unpack(const head *h, parcel *p, ls_ckpt **ckpt) {
    LS_TRY(ls_ckpt_manifest_parse(p->text, (size_t)h->text_bytes, p->path, ckpt));
    (*ckpt)->path = p->path;
    p->path = NULL;
    for (int i = 0; i < (*ckpt)->file_count; i++) {
        (*ckpt)->files[i].lost = p->lost[i];
    }
    return LS_OK;
}

/* To all ranks of several. */
static ls_status give(ls_comm *comm, ls_ckpt **ckpt) {
    const bool reader = comm->rank == 0;
    head h = {0};
    parcel p = {0};
    ls_status status = LS_OK;
    if (reader && *ckpt) {
        h = (head){.text_bytes = (int64_t)(*ckpt)->text_bytes,
                   .path_bytes = (int64_t)strlen((*ckpt)->path) + 1,
                   .files = (*ckpt)->file_count};
    }
    LS_TRY(comm->ops->broadcast(comm, &h, sizeof h, 0));
    if (h.text_bytes == 0) {
        return LS_OK;
    }
    LS_TRY_GOTO(ls_comm_agree(comm, reader ? pack(*ckpt, &p) : make_room(&h, &p)), done);
    LS_TRY_GOTO(comm->ops->broadcast(comm, p.text, h.text_bytes, 0), done);
    LS_TRY_GOTO(comm->ops->broadcast(comm, p.path, h.path_bytes, 0), done);
    LS_TRY_GOTO(comm->ops->broadcast(comm, p.lost, h.files, 0), done);
    status = ls_comm_agree(comm, reader ? LS_OK : unpack(&h, &p, ckpt));
done:
    if (!reader) {
        free(p.text);
        free(p.path);
    }
    free(p.lost);
    return status;
}

ls_status ls_ckpt_spread(ls_comm *comm, ls_ckpt **ckpt) {
    *ckpt = comm->rank == 0 ? *ckpt : NULL;
    const ls_status status = comm->size > 1 ? give(comm, ckpt) : LS_OK;
    if (comm->rank == 0 && *ckpt) {
        free((*ckpt)->text);
        (*ckpt)->text = NULL;
        (*ckpt)->text_bytes = 0;
    }
    return status;
}
