#include "collectives/meter.h"

#include "collectives/comm_impl.h"
#include "collectives/progress.h"
#include "runtime/base/clock.h"

#include <string.h>

typedef struct counting {
    ls_comm_meter total;
    int under_way;
    uint64_t since_ns; /* under_way > 0 */
} counting;

static counting axes[LS_COMM_AXIS_COUNT];
static ls_comm_count kinds[LS_COMM_AXIS_COUNT][LS_COLL_COUNT];

const char *ls_comm_axis_name(ls_comm_axis axis) {
    static const char *const names[] = {
#define X(code, name) [code] = name,
        LS_COMM_AXES(X)
#undef X
    };
    return names[axis];
}

void ls_meters_read(ls_comm_meter meters[LS_COMM_AXIS_COUNT]) {
    ls_progress_hold();
    ls_pump_all();
    (void)ls_progress_released(LS_OK);
    const uint64_t now_ns = ls_clock_ns();
    for (int a = 0; a < LS_COMM_AXIS_COUNT; a++) {
        meters[a] = axes[a].total;
        meters[a].active_ns += axes[a].under_way > 0 ? now_ns - axes[a].since_ns : 0;
    }
}

uint64_t ls_meter_moved_ns(void) {
    return atomic_load_explicit(&ls_moved_ns, memory_order_relaxed);
}

ls_meter_moment ls_meter_call(void) {
    return (ls_meter_moment){.ns = ls_clock_ns(), .moved_ns = ls_meter_moved_ns()};
}

void ls_meter_return(ls_comm_axis axis, ls_meter_moment called) {
    axes[axis].total.exposed_ns += ls_clock_ns() - called.ns;
}

void ls_meters_count(ls_comm_count counts[LS_COMM_AXIS_COUNT][LS_COLL_COUNT]) {
    memcpy(counts, kinds, sizeof kinds);
}

void ls_meter_count(ls_comm_axis axis, ls_coll coll, double wire_bytes) {
    if (coll < LS_COLL_COUNT) {
        kinds[axis][coll].operations++;
        kinds[axis][coll].wire_bytes += wire_bytes;
    }
    axes[axis].total.operations++;
    axes[axis].total.wire_bytes += wire_bytes;
}

void ls_meter_begin(ls_comm_axis axis) {
    counting *c = &axes[axis];
    if (c->under_way++ == 0) {
        c->since_ns = ls_clock_ns();
    }
}

void ls_meter_end(ls_comm_axis axis) {
    counting *c = &axes[axis];
    if (--c->under_way == 0) {
        c->total.active_ns += ls_clock_ns() - c->since_ns;
    }
}

void ls_meter_add(ls_comm_axis axis, uint64_t active_ns, uint64_t exposed_ns) {
    axes[axis].total.active_ns += active_ns;
    axes[axis].total.exposed_ns += exposed_ns;
}
