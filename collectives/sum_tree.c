#include "collectives/sum_tree.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

/* Does the right sibling of a left child start beyond the last leaf? (The root has none.) */
static bool is_only_child(const ls_tree_node *node, int64_t leaves) {
    return node->index % 2 == 0 && node->index + 1 > (leaves - 1) >> node->level;
}

static bool is_root(const ls_tree_node *node, int64_t leaves) {
    return node->index == 0 && (leaves - 1) >> node->level == 0;
}

int ls_tree_push(ls_tree_stack *stack, ls_tree_node node, ls_tree_add *adds) {
    int count = 0;
    assert(stack->depth < LS_TREE_MAX_DEPTH);
    for (;;) {
        while (!is_root(&node, stack->leaves) && is_only_child(&node, stack->leaves)) {
            node.level++;
            node.index /= 2;
        }
        const ls_tree_node *left = stack->depth > 0 ? &stack->nodes[stack->depth - 1] : NULL;
        if (!left || node.index % 2 == 0 || left->level != node.level ||
            left->index != node.index - 1) {
            break;
        }
        assert(count < LS_TREE_MAX_ADDS);
        adds[count++] = (ls_tree_add){.to = left->id, .from = node.id};
        node = (ls_tree_node){.index = node.index / 2, .level = node.level + 1, .id = left->id};
        stack->depth--;
    }
    stack->nodes[stack->depth++] = node;
    return count;
}

int ls_tree_fold_range(ls_tree_stack *stack, int64_t leaves, int64_t first, int64_t count) {
    ls_tree_add adds[LS_TREE_MAX_ADDS];
    int deepest = 0;
    stack->leaves = leaves;
    stack->depth = 0;
    for (int64_t i = 0; i < count; i++) {
        deepest = stack->depth + 1 > deepest ? stack->depth + 1 : deepest;
        ls_tree_push(stack, (ls_tree_node){.index = first + i, .id = stack->depth}, adds);
    }
    return deepest;
}
