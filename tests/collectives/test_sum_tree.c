/* The fold of sum_tree.h against the recursive definition in reduce.h. Sums are written out as
 * text, so that not only their values but their shapes are compared. */
#include "collectives/sum_tree.h"
#include "tests/test.h"

enum { MOST_LEAVES = 40, TEXT_BYTES = 512 };

static void define(char *out, int64_t leaves, int level, int64_t index) {
    if (level == 0) {
        snprintf(out, TEXT_BYTES, "%d", (int)index);
        return;
    }
    char left[TEXT_BYTES], right[TEXT_BYTES];
    define(left, leaves, level - 1, 2 * index);
    if ((2 * index + 1) * (INT64_C(1) << (level - 1)) >= leaves) {
        memcpy(out, left, TEXT_BYTES);
        return;
    }
    define(right, leaves, level - 1, 2 * index + 1);
    snprintf(out, TEXT_BYTES, "(%.250s+%.250s)", left, right);
}

static void apply(char sums[][TEXT_BYTES], const ls_tree_add *adds, int count) {
    for (int i = 0; i < count; i++) {
        char sum[TEXT_BYTES];
        snprintf(sum, sizeof sum, "(%.250s+%.250s)", sums[adds[i].to], sums[adds[i].from]);
        memcpy(sums[adds[i].to], sum, sizeof sum);
    }
}

static int floor_log2(int64_t n) {
    int log = 0;
    while (n >> (log + 1)) {
        log++;
    }
    return log;
}

/* Folds the leaves of each of `ranks` ranks, then the nodes of all. */
static void check_tree(int64_t leaves, int ranks) {
    static char held[MOST_LEAVES + 1][TEXT_BYTES], all[MOST_LEAVES + 1][TEXT_BYTES];
    ls_tree_stack whole = {.leaves = leaves};
    ls_tree_add adds[LS_TREE_MAX_ADDS];
    const int64_t share = leaves / ranks;
    int nodes = 0;
    for (int rank = 0; rank < ranks; rank++) {
        ls_tree_stack range, planned;
        int deepest = ls_tree_fold_range(&planned, leaves, rank * share, share), seen = 0;
        range = (ls_tree_stack){.leaves = leaves};
        for (int64_t i = 0; i < share; i++) {
            snprintf(held[range.depth], TEXT_BYTES, "%d", (int)(rank * share + i));
            seen = range.depth + 1 > seen ? range.depth + 1 : seen;
            const ls_tree_node leaf = {.index = rank * share + i, .id = range.depth};
            int count = ls_tree_push(&range, leaf, adds);
            apply(held, adds, count);
        }
        CHECK_INT(deepest, seen);
        CHECK_INT(planned.depth, range.depth);
        CHECK(range.depth <= 2 * floor_log2(share) + 1);
        if ((share & (share - 1)) == 0) {
            CHECK_INT(range.depth, 1);
            CHECK_INT(deepest, floor_log2(share) + 1);
        }
        for (int i = 0; i < range.depth; i++) {
            CHECK_INT(range.nodes[i].id, i);
            memcpy(all[nodes], held[i], TEXT_BYTES);
            range.nodes[i].id = nodes++;
            int count = ls_tree_push(&whole, range.nodes[i], adds);
            apply(all, adds, count);
        }
    }
    char expected[TEXT_BYTES];
    int top = 0;
    while ((INT64_C(1) << top) < leaves) {
        top++;
    }
    define(expected, leaves, top, 0);
    CHECK_INT(whole.depth, 1);
    CHECK_STR(all[0], expected);
}

int main(void) {
    for (int64_t leaves = 1; leaves <= MOST_LEAVES; leaves++) {
        for (int ranks = 1; ranks <= leaves; ranks++) {
            if (leaves % ranks == 0) {
                check_tree(leaves, ranks);
            }
        }
    }
    /* Far beyond what is written out: depth stays logarithmic, one root remains. */
    ls_tree_stack stack;
    CHECK_INT(ls_tree_fold_range(&stack, 100000, 0, 100000), 17);
    CHECK_INT(stack.depth, 1);
    CHECK(ls_tree_fold_range(&stack, INT64_MAX, INT64_MAX / 3, 10007) <= 2 * 14);
    return test_end();
}
