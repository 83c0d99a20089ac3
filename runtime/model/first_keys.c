/* What keys a token does not see of those before it: where documents are packed one after the other
 * into sequences, those of other documents (Zhao 2024, arXiv 2402.13991; as Llama 3 was trained,
 * Grattafiori 2024, arXiv 2407.21783); in layers with a window, those that lie a window or more
 * before it (Beltagy 2020, arXiv 2004.05150; Jiang 2023, arXiv 2310.06825). A document begins with
 * a token that begins nothing else; what a sequence begins with without it is the rest of one.
 * Positions go on over the sequence. */
#include "runtime/model/model_internal.h"

/* How many of these tokens lie before position `before`. */
static int64_t tokens_before(const ls_zigzag *z, int64_t before) {
    int64_t count = 0;
    const int64_t runs[2][2] = {{z->low, z->low_count}, {z->high, z->high_count}};
    for (int i = 0; i < 2; i++) {
        const int64_t seen = before - runs[i][0];
        count += seen < 0 ? 0 : seen < runs[i][1] ? seen : runs[i][1];
    }
    return count;
}

static bool masks(const ls_model *m, int layer) {
    return m->options.document_mask || ls_window_of(m, layer) > 0;
}

ls_status ls_first_keys_lay_out(ls_model *m) {
    const int64_t count = m->context_ranks * m->options.batch * m->seq;
    bool windows = false, documents = false;
    for (int l = 0; l < m->part_layers; l++) {
        windows |= ls_window_of(m, l) > 0;
        documents |= ls_window_of(m, l) == 0 && m->options.document_mask;
    }
    for (int i = 0; i < m->slots; i++) {
        LS_TRY(documents ? ls_take(m, count, LS_I32, &m->slot[i].first_key) : LS_OK);
        LS_TRY(windows ? ls_take(m, count, LS_I32, &m->slot[i].window_key) : LS_OK);
    }
    return windows || documents ? ls_take_host(m, count, LS_I32, &m->host_first_key) : LS_OK;
}

bool ls_first_keys_everywhere(const ls_model *m) {
    bool everywhere = true;
    for (int l = 0; l < m->part_layers; l++) {
        everywhere &= masks(m, l);
    }
    return everywhere;
}

const int32_t *ls_first_keys_of(const ls_pass *pass, int layer) {
    const ls_model *m = pass->model;
    const bool windows = ls_window_of(m, layer) > 0;
    if (pass->cached) { /* where documents are none's business, and a single token sees all shown */
        return windows && pass->seq > 1 ? pass->slot->window_key : NULL;
    }
    const int32_t *first = windows ? pass->slot->window_key : pass->slot->first_key;
    return first ? first + m->context_rank * pass->rows : NULL;
}

static int64_t later(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* first[i] = the first that own token i of the sequence sees, counted in the tokens of `theirs`:
 * where its document begins (sequence NULL: all is one), or its window (0: none). */
static void find_firsts(const ls_model *m, int64_t window, const int32_t *sequence,
                        const ls_zigzag *own, const ls_zigzag *theirs, int32_t *first) {
    const int64_t count = own->low_count + own->high_count;
    int64_t begin = 0, position = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t end = ls_zigzag_position(own, i);
        for (; sequence && position <= end; position++) {
            begin = sequence[position] == m->options.document_token ? position : begin;
        }
        const int64_t from = window > 0 ? later(begin, end - window + 1) : begin;
        first[i] = (int32_t)tokens_before(theirs, from);
    }
}

static ls_status load(const ls_pass *pass, int64_t window, const int32_t *tokens,
                      int32_t *first_key) {
    ls_model *m = pass->model;
    const int64_t seq = m->context ? m->options.seq : pass->seq;
    const ls_zigzag own = ls_zigzag_of(seq, m->context_rank, m->context_ranks);
    for (int rank = 0; rank < m->context_ranks; rank++) {
        const ls_zigzag theirs = ls_zigzag_of(seq, rank, m->context_ranks);
        for (int64_t b = 0; b < pass->batch; b++) {
            find_firsts(m, window, tokens ? tokens + b * seq : NULL, &own, &theirs,
                        m->host_first_key + rank * pass->rows + b * pass->seq);
        }
    }
    return m->dev->ops->upload(m->dev, first_key, m->host_first_key,
                               (size_t)(m->context_ranks * pass->rows) * sizeof(int32_t));
}

/* Of tokens behind others in the cache. */
static ls_status load_cached(const ls_pass *pass, int64_t window, int32_t *first_key) {
    ls_model *m = pass->model;
    for (int64_t i = 0; i < pass->rows; i++) {
        m->host_first_key[i] = (int32_t)(ls_window_begin(window, pass->offset + i) -
                                         ls_window_begin(window, pass->offset));
    }
    return m->dev->ops->upload(m->dev, first_key, m->host_first_key,
                               (size_t)pass->rows * sizeof(int32_t));
}

ls_status ls_first_keys_load(const ls_pass *pass, const int32_t *tokens) {
    const ls_model *m = pass->model;
    const ls_slot *slot = pass->slot;
    const int64_t window = m->options.config->window;
    if (pass->cached) {
        return slot->window_key && pass->rows > 1 ? load_cached(pass, window, slot->window_key)
                                                  : LS_OK;
    }
    if (m->options.document_mask && m->part_layers > 0 && !tokens) {
        return LS_FAIL(LS_E_SHAPE, "no tokens for a part of the model that masks documents");
    }
    if (slot->first_key) {
        LS_TRY(load(pass, 0, tokens, slot->first_key));
    }
    return slot->window_key
               ? load(pass, window, m->options.document_mask ? tokens : NULL, slot->window_key)
               : LS_OK;
}
