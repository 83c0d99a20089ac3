/* The fixed summation tree of reduce.h, built from the left by folding.
 *
 * Node (level l, index i) covers leaves [i 2^l, (i+1) 2^l) of M. Nodes are pushed in order of their
 * leaves; whenever the top two are siblings they become their parent, like a carry in a binary
 * counter, and a node whose sibling would lie beyond M is its own parent. */
#ifndef LS_COLLECTIVES_SUM_TREE_H
#define LS_COLLECTIVES_SUM_TREE_H

#include <stdint.h>

typedef struct ls_tree_node {
    int64_t index;
    int level;
    int id; /* the caller's name for the memory that holds it */
} ls_tree_node;

/* memory `to` += memory `from`: `to` is the left child and becomes the parent. */
typedef struct ls_tree_add {
    int to, from;
} ls_tree_add;

/* Levels of 63-bit indices; going up one side of a range and down the other. */
enum { LS_TREE_MAX_ADDS = 63, LS_TREE_MAX_DEPTH = 2 * 63 };

typedef struct ls_tree_stack {
    int64_t leaves; /* M */
    int depth;
    ls_tree_node nodes[LS_TREE_MAX_DEPTH];
} ls_tree_stack;

/* Pushes the next node; adds [LS_TREE_MAX_ADDS] receives the additions that this allows, in order.
 * Returns their number. */
int ls_tree_push(ls_tree_stack *stack, ls_tree_node node, ls_tree_add *adds);

/* Folds leaves [first, first + count) of M, with the stack's positions as ids. Returns the greatest
 * depth on the way, before siblings are joined: the buffers that a rank needs. */
int ls_tree_fold_range(ls_tree_stack *stack, int64_t leaves, int64_t first, int64_t count);

#endif
