#include "runtime/step/state_internal.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_ELEMS ((int64_t)1 << 20)

/* Elements [from, to) of the flat space, all of one row: made where they belong, or in `host` where
 * the device's memory is its own. */
static ls_status fill(ls_state *s, const ls_param *row, uint64_t seed, int64_t from, int64_t to,
                      void *host) {
    for (int64_t at = from; at < to; at += CHUNK_ELEMS) {
        const int64_t n = to - at < CHUNK_ELEMS ? to - at : CHUNK_ELEMS;
        void *master = ls_state_master_at(s, at), *made = s->dev->host_memory ? master : host;
        LS_TRY(ls_model_init_values(row, seed, at - row->offset, n, s->dev->acc, s->dev->threads,
                                    made));
        if (made == host) {
            LS_TRY(s->dev->ops->upload(s->dev, master, host, (size_t)n * s->acc_bytes));
        }
    }
    return LS_OK;
}

ls_status ls_state_init(ls_state *s, uint64_t seed) {
    void *host;
    LS_TRY(ls_calloc((size_t)CHUNK_ELEMS, s->acc_bytes, &host));
    ls_status status = LS_OK;
    for (int i = 0; i < s->owned_count; i++) {
        const ls_range r = s->owned[i].range;
        for (int p = 0; p < s->param_count && status == LS_OK; p++) {
            const ls_param *row = &s->params[p];
            const int64_t from = row->offset > r.first ? row->offset : r.first;
            const int64_t row_end = row->offset + row->elems, end = r.first + r.elems;
            status = fill(s, row, seed, from, row_end < end ? row_end : end, host);
        }
    }
    free(host);
    LS_TRY(status);
    return ls_state_refresh(s);
}
