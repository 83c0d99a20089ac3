/* A store of parameters as fully sharded training has it, in one process: what the model was given
 * is fresh memory each time, freed at release, so that a use outside acquire and release is found.
 */
#ifndef LS_TESTS_MODEL_LAYOUT_STORE_H
#define LS_TESTS_MODEL_LAYOUT_STORE_H

#include "runtime/model/model.h"
#include "tests/test.h"

#include <stdlib.h>

enum { STORE_BLOCKS = 16 };

typedef struct layout_store {
    ls_dtype acc, dtype;
    char *masters, *copies, *grads; /* flat; grads is the test's */
    int64_t first[STORE_BLOCKS], elems[STORE_BLOCKS];
    char *given[STORE_BLOCKS][2];
    int held[STORE_BLOCKS], ready[STORE_BLOCKS];
    bool has_grads[STORE_BLOCKS];
    char *final_values[STORE_BLOCKS]; /* from final_first on */
    int64_t final_first[STORE_BLOCKS];
} layout_store;

static inline void *ls_elems_of(const void *base, int64_t elems, ls_dtype dtype) {
    return (char *)(uintptr_t)base + elems * (int64_t)ls_dtype_bytes(dtype);
}

static inline char *store_copy(const void *from, int64_t elems, ls_dtype dtype) {
    const size_t bytes = (size_t)elems * ls_dtype_bytes(dtype);
    char *to = malloc(bytes);
    CHECK(to != NULL);
    return to ? memcpy(to, from, bytes) : NULL;
}

/* Takes over the values of a model that owns its parameters (host memory). */
static inline void layout_store_init(layout_store *s, const ls_model *model, const ls_device *dev,
                                     ls_dtype dtype) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    const int64_t elems = ls_model_flat_elems(model);
    *s = (layout_store){.acc = dev->acc, .dtype = dtype};
    s->masters = store_copy(ls_model_masters(model), elems, dev->acc);
    if (dtype != dev->acc) {
        s->copies = store_copy(ls_model_copies(model), elems, dtype);
    }
    for (int p = count - 1; p >= 0; p--) {
        const int block = params[p].block;
        const int64_t end = s->elems[block] > 0 ? s->first[block] + s->elems[block]
                                                : params[p].offset + ls_param_room(params[p].elems);
        s->first[block] = params[p].offset;
        s->elems[block] = end - params[p].offset;
    }
}

static inline ls_status store_acquire(void *context, int block, bool backward, const void **masters,
                                      const void **copies) {
    layout_store *s = context;
    (void)backward;
    CHECK(s->elems[block] > 0);
    CHECK_INT(s->held[block], 0);
    s->held[block] = 1;
    s->given[block][0] =
        store_copy(ls_elems_of(s->masters, s->first[block], s->acc), s->elems[block], s->acc);
    *masters = s->given[block][0];
    *copies = NULL;
    if (s->copies) {
        s->given[block][1] = store_copy(ls_elems_of(s->copies, s->first[block], s->dtype),
                                        s->elems[block], s->dtype);
        *copies = s->given[block][1];
    }
    return LS_OK;
}

static inline ls_status store_release(void *context, int block, bool backward) {
    layout_store *s = context;
    (void)backward;
    CHECK_INT(s->held[block], 1);
    s->held[block] = 0;
    free(s->given[block][0]);
    free(s->given[block][1]);
    s->given[block][0] = s->given[block][1] = NULL;
    return LS_OK;
}

/* NaNs at first: all of them must be overwritten. */
static inline ls_status store_grads(void *context, int block, void **base, bool *fresh) {
    layout_store *s = context;
    CHECK_INT(s->held[block], 1);
    *base = ls_elems_of(s->grads, s->first[block], s->acc);
    *fresh = !s->has_grads[block];
    s->has_grads[block] = true;
    if (*fresh) {
        memset(*base, 0xff, (size_t)s->elems[block] * ls_dtype_bytes(s->acc));
    }
    return LS_OK;
}

/* What was called final stays as it was until the rest of the block is. */
static inline ls_status store_ready(void *context, int block, int64_t first) {
    layout_store *s = context;
    const int64_t at = s->first[block] + first, was = s->final_first[block];
    CHECK_INT(s->held[block], first > 0);
    CHECK(first >= 0 && first < s->elems[block]);
    if (s->final_values[block]) {
        const int64_t elems = s->first[block] + s->elems[block] - was;
        CHECK(at < was);
        CHECK(memcmp(s->final_values[block], ls_elems_of(s->grads, was, s->acc),
                     (size_t)elems * ls_dtype_bytes(s->acc)) == 0);
        free(s->final_values[block]);
        s->final_values[block] = NULL;
    }
    if (first > 0) {
        s->final_first[block] = at;
        s->final_values[block] =
            store_copy(ls_elems_of(s->grads, at, s->acc), s->elems[block] - first, s->acc);
    } else {
        s->ready[block]++;
    }
    return LS_OK;
}

static inline ls_model_store layout_store_seam(layout_store *s) {
    return (ls_model_store){.context = s,
                            .acquire = store_acquire,
                            .release = store_release,
                            .grads = store_grads,
                            .ready = store_ready};
}

/* Nothing is held any more, and each block was ready once a micro-batch. */
static inline void layout_store_check(const layout_store *s, int micros) {
    for (int block = 0; block < STORE_BLOCKS; block++) {
        CHECK_INT(s->held[block], 0);
        CHECK_INT(s->ready[block], s->elems[block] > 0 ? micros : 0);
        CHECK(s->final_values[block] == NULL);
    }
}

static inline void layout_store_release(layout_store *s) {
    free(s->masters);
    free(s->copies);
}

#endif
