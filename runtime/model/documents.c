/* Document masks: where documents are packed one after the other into sequences, a token attends to
 * those of its own document alone (Zhao 2024, arXiv 2402.13991; as Llama 3 was trained, Grattafiori
 * 2024, arXiv 2407.21783). A document begins with a token that begins nothing else; what a sequence
 * begins with without it is the rest of one. Positions go on over the sequence. */
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

/* first[i] = where the document of own token i of the sequence begins, counted in the tokens of
 * `theirs`. */
static void find_firsts(const ls_model *m, const int32_t *sequence, const ls_zigzag *own,
                        const ls_zigzag *theirs, int32_t *first) {
    int64_t begin = 0, position = 0;
    for (int64_t i = 0; i < m->seq; i++) {
        for (const int64_t end = ls_zigzag_position(own, i); position <= end; position++) {
            begin = sequence[position] == m->options.document_token ? position : begin;
        }
        first[i] = (int32_t)tokens_before(theirs, begin);
    }
}

ls_status ls_documents_load(const ls_pass *pass, const int32_t *tokens) {
    ls_model *m = pass->model;
    if (!pass->slot->first_key || pass->cached) {
        return LS_OK;
    }
    if (!tokens) {
        return LS_FAIL(LS_E_SHAPE, "no tokens for a part of the model that masks documents");
    }
    const ls_zigzag own = ls_zigzag_of(m->options.seq, m->context_rank, m->context_ranks);
    for (int rank = 0; rank < m->context_ranks; rank++) {
        const ls_zigzag theirs = ls_zigzag_of(m->options.seq, rank, m->context_ranks);
        for (int64_t b = 0; b < pass->batch; b++) {
            find_firsts(m, tokens + b * m->options.seq, &own, &theirs,
                        m->host_first_key + rank * pass->rows + b * m->seq);
        }
    }
    return m->dev->ops->upload(m->dev, pass->slot->first_key, m->host_first_key,
                               (size_t)(m->context_ranks * pass->rows) * sizeof(int32_t));
}
