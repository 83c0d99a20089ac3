/* The operations that a layout tells ahead beside those that a rank's meters have counted. */
#ifndef LS_TESTS_LAYOUTS_OPERATIONS_H
#define LS_TESTS_LAYOUTS_OPERATIONS_H

#include "launch/train_layout.h"
#include "tests/test.h"

typedef ls_comm_count operation_counts[LS_COMM_AXIS_COUNT][LS_COLL_COUNT];

static void add_told(void *counts, const ls_comm_operation *o) {
    ls_comm_count *c = &((ls_comm_count(*)[LS_COLL_COUNT])counts)[o->axis][o->coll];
    c->operations += (int64_t)o->count;
    c->wire_bytes += o->count * ls_wire_bytes(o->coll, o->ranks, o->bytes);
}

/* Rows to experts go where tokens want them; where these want all, it is known. */
static bool are_bytes_told(const ls_layout *l, ls_comm_axis axis, ls_coll coll) {
    const ls_config_model *model = &l->config->model;
    return axis != LS_COMM_EXPERT || coll != LS_COLL_ALL_TO_ALL ||
           model->experts_per_token == model->experts;
}

/* All that a rank has counted between `before` and `after` is what the layout tells of a step. */
static void compare_operations(const ls_layout *l, operation_counts before, operation_counts after,
                               const char *overrides) {
    operation_counts told = {0};
    CHECK_OK(ls_layout_tell(l, &(ls_comm_list){.add = add_told, .context = told}));
    for (int i = 0; i < LS_COMM_AXIS_COUNT * LS_COLL_COUNT; i++) {
        const ls_comm_axis axis = (ls_comm_axis)(i / LS_COLL_COUNT);
        const ls_coll coll = (ls_coll)(i % LS_COLL_COUNT);
        const ls_comm_count *t = &told[axis][coll];
        const int64_t operations = after[axis][coll].operations - before[axis][coll].operations;
        const double bytes = after[axis][coll].wire_bytes - before[axis][coll].wire_bytes;
        test_checks++;
        if (axis != LS_COMM_WORLD &&
            (operations != t->operations ||
             (are_bytes_told(l, axis, coll) && fabs(bytes - t->wire_bytes) > 0.5))) {
            TEST_FAIL_("rank %d with '%s': %s over axis %s: %lld of %.0f bytes were told, %lld of "
                       "%.0f bytes made",
                       l->mesh.rank, overrides, ls_coll_name(coll), ls_comm_axis_name(axis),
                       (long long)t->operations, t->wire_bytes, (long long)operations, bytes);
        }
    }
}

#endif
