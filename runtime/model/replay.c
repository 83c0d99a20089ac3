/* Layers from recordings: a layer of a pass whose buffers are those of an earlier one is enqueued
 * in one call. The first time it runs as always, which takes the device's scratch memory and has
 * the library choose its algorithms; the second time it is recorded. */
#include "runtime/model/model_internal.h"

#include <stdlib.h>
#include <string.h>

enum { RECORDINGS_MOST = 64 }; /* of a layer */

/* All that decides what a layer's operations touch. */
typedef struct replay_key {
    const void *slot, *masters, *copies, *grads, *x, *next_x, *dy, *dx_in;
    int64_t rows, backward, fresh;
    double balance_scale;
} replay_key;

struct ls_replay {
    ls_replay *next;
    replay_key key;
    ls_recording *recording; /* NULL: used once */
};

/* What communicates inside a layer cannot be recorded with it. */
static bool can_replay(const ls_pass *pass) {
    const ls_model *m = pass->model;
    return m->options.graphs && m->dev->async && m->options.training && !pass->cached &&
           !m->tensor && !m->context &&
           (m->sizes.experts == 0 || ((m->moe_fixed || m->moe_grouped) && !m->experts));
}

static ls_status run(ls_pass *pass, int layer) {
    return pass->backward ? ls_layer_backward(pass, layer) : ls_layer_run(pass, layer);
}

static ls_status find(const ls_pass *pass, int layer, ls_replay **found, bool *fresh) {
    ls_model *m = pass->model;
    const ls_layer_acts *acts = &pass->slot->layers[layer];
    const ls_block_base *base = &m->bases[ls_first_layer(m) + layer + 1];
    const replay_key key = {.slot = pass->slot,
                            .masters = base->masters,
                            .copies = base->copies,
                            .grads = base->grads,
                            .x = acts[0].x,
                            .next_x = acts[1].x,
                            .dy = pass->dy,
                            .dx_in = pass->dx_in,
                            .rows = pass->rows,
                            .backward = pass->backward,
                            .fresh = base->fresh,
                            .balance_scale = pass->backward ? pass->balance_scale : 0.0};
    int count = 0;
    *fresh = false;
    for (*found = m->replays[layer]; *found; *found = (*found)->next) {
        if (memcmp(&(*found)->key, &key, sizeof key) == 0) {
            return LS_OK;
        }
        count++;
    }
    if (count == RECORDINGS_MOST) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(1, sizeof **found, found));
    (*found)->key = key;
    (*found)->next = m->replays[layer];
    m->replays[layer] = *found;
    *fresh = true;
    return LS_OK;
}

static ls_status record(ls_pass *pass, int layer, ls_replay *replay) {
    ls_model *m = pass->model;
    const void *dy = pass->dy;
    LS_TRY(m->dev->async->record_begin(m->dev));
    m->recording = true;
    ls_status status = run(pass, layer);
    m->recording = false;
    pass->dy = dy;
    const ls_status ended = m->dev->async->record_end(m->dev, &replay->recording);
    return status == LS_OK ? ended : status;
}

ls_status ls_layer_replay(ls_pass *pass, int layer) {
    ls_model *m = pass->model;
    ls_replay *replay;
    bool fresh;
    if (!can_replay(pass)) {
        return run(pass, layer);
    }
    LS_TRY(find(pass, layer, &replay, &fresh));
    if (!replay || fresh) {
        return run(pass, layer);
    }
    if (!replay->recording) {
        LS_TRY(record(pass, layer, replay));
    }
    LS_TRY(m->dev->async->replay(m->dev, replay->recording));
    if (pass->backward) { /* as ls_layer_backward leaves it */
        pass->dy = ls_dx_of(pass, ls_first_layer(m) + layer + 1);
        return ls_pass_tick(pass);
    }
    return LS_OK;
}

void ls_replays_release(ls_model *m) {
    for (int l = 0; m->replays && l < m->part_layers; l++) {
        while (m->replays[l]) {
            ls_replay *replay = m->replays[l];
            m->replays[l] = replay->next;
            if (replay->recording) {
                m->dev->async->recording_free(m->dev, replay->recording);
            }
            free(replay);
        }
    }
    free(m->replays);
}
