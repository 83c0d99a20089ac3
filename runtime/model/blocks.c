/* A block's parameters, from wherever they are kept, for the time of its use; and the word that its
 * gradients are final. */
#include "runtime/model/model_internal.h"

ls_status ls_pass_tick(const ls_pass *pass) {
    const ls_model_store *store = pass->model->options.store;
    if (pass->model->recording) {
        return LS_OK;
    }
    if (store) {
        return store->progress ? store->progress(store->context) : LS_OK;
    }
    return pass->sink && pass->sink->ready
               ? pass->sink->ready(pass->sink->context, pass->first_elem)
               : LS_OK;
}

/* Is the gradient of a row written by a product of its own, while block `user` runs? */
static bool is_product(const ls_model *m, int user, ls_row row) {
    switch (row) {
    case LS_QKV_W:
        return !m->kv_sharers; /* who add two parts of it */
    case LS_PROJ_W:
    case LS_UP_W:
    case LS_DOWN_W:
    case LS_HEAD_W:
        return true;
    case LS_TOK_EMBED:
        return user != 0; /* as the head's matrix */
    default:
        return false;
    }
}

/* Zeros in fresh memory, for the gradients that are added to it, and behind rows that do not fill
 * their room. */
static ls_status clear_sums(const ls_pass *pass, int block, int user) {
    const ls_model *m = pass->model;
    const int owner = block < m->blocks ? block : block - m->blocks + 1; /* of experts apart */
    char *from = NULL, *end = NULL; /* of those that follow one another */
    for (int row = 0; row < LS_ROW_COUNT; row++) {
        const ls_param *param = ls_model_row(m, owner, (ls_row)row);
        if (!param || param->block != block) {
            continue;
        }
        const int64_t written = is_product(m, user, (ls_row)row) ? param->elems : 0,
                      room = ls_param_room(param->elems);
        char *at = ls_gradient(pass, owner, (ls_row)row);
        if (written == room) {
            continue;
        }
        if (from == NULL || written > 0 || at != end) {
            LS_TRY(from ? m->dev->ops->zero(m->dev, from, (size_t)(end - from)) : LS_OK);
            from = ls_elems_at(at, written, m->dev->acc);
        }
        end = ls_elems_at(at, room, m->dev->acc);
    }
    return from ? m->dev->ops->zero(m->dev, from, (size_t)(end - from)) : LS_OK;
}

static ls_status acquire_from_store(const ls_pass *pass, int block, int user) {
    ls_model *m = pass->model;
    const ls_model_store *store = m->options.store;
    const void *masters, *copies;
    LS_TRY(store->acquire(store->context, block, pass->backward, &masters, &copies));
    m->bases[block].masters = masters;
    m->bases[block].copies = copies;
    if (pass->backward) {
        void *grads;
        bool fresh;
        LS_TRY(store->grads(store->context, block, &grads, &fresh));
        m->bases[block].grads = grads;
        m->bases[block].fresh = fresh;
        return fresh ? clear_sums(pass, block, user) : LS_OK;
    }
    return LS_OK;
}

/* For the work of block `user`. */
static ls_status acquire(const ls_pass *pass, int block, int user) {
    ls_model *m = pass->model;
    if (m->options.store) {
        return acquire_from_store(pass, block, user);
    }
    const int64_t first = ls_block_first(m, block);
    m->bases[block] = (ls_block_base){
        .masters = ls_elems_at(m->masters, first, m->dev->acc),
        .copies = m->copies ? ls_elems_at(m->copies, first, m->dtype) : NULL,
        .grads = pass->backward ? ls_elems_at(pass->sink->grads, first, m->dev->acc) : NULL,
    };
    return LS_OK;
}

static ls_status let_go(const ls_pass *pass, int block) {
    const ls_model *m = pass->model;
    const ls_model_store *store = m->options.store;
    m->bases[block] = (ls_block_base){0};
    return store ? store->release(store->context, block, pass->backward) : LS_OK;
}

/* A head that is tied to an embedding of this part uses its matrix. */
static bool uses_embedding(const ls_model *m, int block) {
    return block == m->blocks - 1 && !ls_model_row(m, block, LS_HEAD_W);
}

ls_status ls_block_begin(ls_pass *pass, int block) {
    const int experts = ls_expert_block(pass->model, block);
    LS_TRY(acquire(pass, block, block));
    LS_TRY(experts >= 0 ? acquire(pass, experts, block) : LS_OK);
    return uses_embedding(pass->model, block) ? acquire(pass, 0, block) : LS_OK;
}

ls_status ls_block_final_from(ls_pass *pass, int block, ls_row row) {
    const ls_model *m = pass->model;
    const ls_model_store *store = m->options.store;
    if (m->recording) {
        return LS_OK;
    }
    pass->first_elem = ls_model_row(m, block, row)->offset;
    LS_TRY(store ? store->ready(store->context, block, pass->first_elem - ls_block_first(m, block))
                 : LS_OK);
    return ls_pass_tick(pass);
}

ls_status ls_block_end(ls_pass *pass, int block) {
    const ls_model *m = pass->model;
    if (uses_embedding(m, block)) {
        LS_TRY(let_go(pass, 0));
    }
    const int experts = ls_expert_block(m, block);
    LS_TRY(experts >= 0 ? let_go(pass, experts) : LS_OK);
    LS_TRY(let_go(pass, block));
    if (!pass->backward) {
        return LS_OK;
    }
    pass->first_elem = ls_block_first(m, block);
    const ls_model_store *store = m->options.store;
    if (store) {
        LS_TRY(experts >= 0 ? store->ready(store->context, experts, 0) : LS_OK);
        LS_TRY(store->ready(store->context, block, 0));
    }
    return ls_pass_tick(pass);
}
