/* What the owner of a slice adds up, micro-batch by micro-batch, in the order of scatter.h. */
#ifndef LS_COLLECTIVES_SCATTER_TREE_H
#define LS_COLLECTIVES_SCATTER_TREE_H

#include "collectives/sum_tree.h"
#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>

/* What is done with the leaves of one micro-batch of all ranks. Then nodes that still lie in a leaf
 * move to the sums. */
typedef struct ls_scatter_turn {
    int first_add, adds;
    int first_move, moves; /* as additions: to <- from */
} ls_scatter_turn;

/* Ids below `levels` are places of the sums, of which the first has the result in the end; the
 * others, less levels, are the ranks whose leaves they are. */
typedef struct ls_scatter_tree {
    int levels;
    ls_scatter_turn *turns; /* [micro_batches] */
    ls_tree_add *adds, *moves;
    size_t bytes; /* of these */
} ls_scatter_tree;

/* micro_batches of each rank; context_ranks (1 or more) as in reduce.h. Not invariant: the ranks'
 * leaves are added in a tree, and the trees one after the other. Release the tree, after a failure
 * too; LS_E_MEMORY. */
ls_status ls_scatter_tree_init(ls_scatter_tree *tree, bool invariant, int ranks,
                               int64_t micro_batches, int context_ranks);
void ls_scatter_tree_release(ls_scatter_tree *tree);

#endif
