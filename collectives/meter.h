/* What communication takes, by axis of the mesh: recorded communicators (recorded.h) add every
 * operation up here, for the one rank that a process is. */
#ifndef LS_COLLECTIVES_METER_H
#define LS_COLLECTIVES_METER_H

#include "collectives/comm.h"
#include "collectives/wire_cost.h"

/* X(code, name). All-to-alls of the tensor axis are the experts'; WORLD: agreements of all ranks.
 */
#define LS_COMM_AXES(X)                                                                            \
    X(LS_COMM_TENSOR, "tensor")                                                                    \
    X(LS_COMM_EXPERT, "expert")                                                                    \
    X(LS_COMM_CONTEXT, "context")                                                                  \
    X(LS_COMM_PIPELINE, "pipeline")                                                                \
    X(LS_COMM_DATA, "data") /* replicate and shard: gradients, and parameters that are divided */  \
    X(LS_COMM_WORLD, "world")
typedef enum ls_comm_axis {
#define X(code, name) code,
    LS_COMM_AXES(X)
#undef X
        LS_COMM_AXIS_COUNT
} ls_comm_axis;
const char *ls_comm_axis_name(ls_comm_axis axis);

/* Totals since the process began. Where waits only order a device's work (comm.h, `orders`), by the
 * device's clock: exposed is what its work stood still for, active the operations' times, added. */
typedef struct ls_comm_meter {
    uint64_t exposed_ns; /* that the main thread spent in calls: what nothing hid */
    uint64_t active_ns; /* with an operation under way, from its call to where its end is noticed */
    double wire_bytes;  /* that a rank sends (wire_cost.h): over active_ns, the bus bandwidth */
    int64_t operations;
} ls_comm_meter;
/* Calls that are not over count up to now; on a device, what it has come past. */
void ls_meters_read(ls_comm_meter meters[LS_COMM_AXIS_COUNT]);

/* By kind of operation; a message counts where it is sent, what one rank does with itself nowhere.
 */
typedef struct ls_comm_count {
    int64_t operations;
    double wire_bytes;
} ls_comm_count;
void ls_meters_count(ls_comm_count counts[LS_COMM_AXIS_COUNT][LS_COLL_COUNT]);

/* The axis of a recorded communicator, and of what is split or duplicated from it afterwards; one
 * that was given none is the world's. Other communicators are not counted. Not collective. */
void ls_comm_set_axis(ls_comm *comm, ls_comm_axis axis);

/* That ranks who share memory have spent so far on copying and adding up what operations carry; 0
 * with other back ends. */
uint64_t ls_meter_moved_ns(void);

/* For recorded.c: a call on an axis begins and ends; an operation is counted (LS_COLL_COUNT: under
 * no kind), is begun, and is over; or was timed by the device. */
typedef struct ls_meter_moment {
    uint64_t ns, moved_ns;
} ls_meter_moment;
ls_meter_moment ls_meter_call(void);
void ls_meter_return(ls_comm_axis axis, ls_meter_moment called);
void ls_meter_count(ls_comm_axis axis, ls_coll coll, double wire_bytes);
void ls_meter_begin(ls_comm_axis axis);
void ls_meter_end(ls_comm_axis axis);
void ls_meter_add(ls_comm_axis axis, uint64_t active_ns, uint64_t exposed_ns);

#endif
