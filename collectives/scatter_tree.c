#include "collectives/scatter_tree.h"

#include "runtime/base/arena.h"

#include <stdlib.h>

/* Each of the ranks that share micro-batches has a stack, of a range of leaves; the node at
 * position p of stack c lies in the sums' level c * depth + p. */
typedef struct stacks {
    int ranks;
    int64_t micro_batches;
    int count, depth; /* depth: that any of them has between micro-batches, at most */
    ls_tree_stack *of;
} stacks;

/* Pushes the leaves of micro-batch j, whose ids begin with leaf_id. Returns the additions that this
 * allows, in order. */
static int push_micro(stacks *s, int64_t j, int leaf_id, ls_tree_add *adds) {
    const int each = s->ranks / s->count;
    int count = 0;
    for (int c = 0; c < s->count; c++) {
        for (int d = 0; d < each; d++) {
            const int64_t index = (c * s->micro_batches + j) * each + d;
            const ls_tree_node leaf = {.index = index, .id = leaf_id + d * s->count + c};
            count += ls_tree_push(&s->of[c], leaf, adds + count);
        }
    }
    return count;
}

/* All that the stacks hold becomes one node, in the first. */
static int join(stacks *s, ls_tree_add *adds) {
    ls_tree_stack whole = {.leaves = s->of[0].leaves};
    int count = 0;
    for (int c = 0; c < s->count; c++) {
        for (int p = 0; p < s->of[c].depth; p++) {
            count += ls_tree_push(&whole, s->of[c].nodes[p], adds + count);
        }
        s->of[c].depth = 0;
    }
    s->of[0] = whole;
    return count;
}

/* The additions of micro-batch j, and where what still lies in a leaf goes then. */
static void plan_turn(ls_scatter_tree *t, stacks *s, int64_t j, bool last, ls_scatter_turn *out,
                      int *adds, int *moves) {
    out->first_add = *adds;
    out->first_move = *moves;
    *adds += push_micro(s, j, t->levels, t->adds + *adds);
    *adds += last ? join(s, t->adds + *adds) : 0;
    for (int c = 0; c < s->count; c++) {
        for (int p = 0; p < s->of[c].depth; p++) {
            ls_tree_node *node = &s->of[c].nodes[p];
            if (node->id >= t->levels) {
                const int level = c * s->depth + p;
                t->moves[(*moves)++] = (ls_tree_add){.to = level, .from = node->id};
                node->id = level;
            }
        }
    }
    out->adds = *adds - out->first_add;
    out->moves = *moves - out->first_move;
}

/* Greatest depth of a stack between micro-batches; uses room for additions. */
static int count_depth(stacks *s, ls_tree_add *adds) {
    int deepest = 0;
    for (int64_t j = 0; j + 1 < s->micro_batches; j++) {
        push_micro(s, j, 0, adds);
        for (int c = 0; c < s->count; c++) {
            deepest = s->of[c].depth > deepest ? s->of[c].depth : deepest;
        }
    }
    for (int c = 0; c < s->count; c++) {
        s->of[c].depth = 0;
    }
    return deepest;
}

static void plan_invariant(ls_scatter_tree *t, stacks *s) {
    int adds = 0, moves = 0;
    s->depth = count_depth(s, t->adds);
    t->levels = s->depth > 0 ? s->count * s->depth : 1;
    for (int64_t j = 0; j < s->micro_batches; j++) {
        plan_turn(t, s, j, j + 1 == s->micro_batches, &t->turns[j], &adds, &moves);
    }
}

/* One tree for each micro-batch; all but the first are added to the sum so far. */
static void plan_fast(ls_scatter_tree *t, stacks *s) {
    int adds = 0, moves = 0;
    t->levels = s->depth = 1;
    for (int64_t j = 0; j < s->micro_batches; j++) {
        s->of[0].depth = 0;
        plan_turn(t, s, 0, true, &t->turns[j], &adds, &moves);
        if (j > 0) {
            t->adds[adds++] = t->moves[--moves];
            t->turns[j].adds++;
            t->turns[j].moves = 0;
        }
    }
}

static ls_status take(ls_scatter_tree *t, int64_t count, size_t bytes, void *pointer_out) {
    t->bytes += (size_t)count * bytes;
    return ls_calloc((size_t)count, bytes, pointer_out);
}

ls_status ls_scatter_tree_init(ls_scatter_tree *t, bool invariant, int ranks, int64_t micro_batches,
                               int context_ranks) {
    const int64_t leaves = micro_batches * ranks;
    stacks s = {
        .ranks = ranks, .micro_batches = micro_batches, .count = invariant ? context_ranks : 1};
    *t = (ls_scatter_tree){0};
    LS_TRY(take(t, micro_batches, sizeof *t->turns, &t->turns));
    /* A tree has one addition less than leaves. */
    LS_TRY(take(t, leaves + micro_batches, sizeof *t->adds, &t->adds));
    LS_TRY(take(t, leaves, sizeof *t->moves, &t->moves));
    LS_TRY(ls_calloc((size_t)s.count, sizeof *s.of, &s.of));
    for (int c = 0; c < s.count; c++) {
        s.of[c].leaves = invariant ? leaves : ranks;
    }
    if (invariant) {
        plan_invariant(t, &s);
    } else {
        plan_fast(t, &s);
    }
    free(s.of);
    return LS_OK;
}

void ls_scatter_tree_release(ls_scatter_tree *t) {
    free(t->turns);
    free(t->adds);
    free(t->moves);
    *t = (ls_scatter_tree){0};
}
