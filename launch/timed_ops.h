/* Times the operations of a device: while it is on, the device's table of operations is another one
 * that calls the real one and reads the clock. Off, nothing is in the way. One device at a time. */
#ifndef LS_LAUNCH_TIMED_OPS_H
#define LS_LAUNCH_TIMED_OPS_H

#include "collectives/comm.h"
#include "runtime/device/device.h"

/* All calls of one kind; products by shape and form. bytes: what must be moved at least, inputs
 * read and outputs written once. flops: of products and attention (what is visible), else 0. exps:
 * exponentials, of attention one for each score that is visible. */
typedef struct ls_op_time {
    char name[48];     /* "gemm forward 4096x768x3072" (m x n x k) */
    const char *group; /* "gemm", "attention", "norm", ... */
    int64_t calls;
    double seconds, flops, exps, bytes;
} ls_op_time;

void ls_timed_ops_begin(ls_device *dev);
void ls_timed_ops_end(ls_device *dev);
/* The same for what calls on a communicator wait for: rows "NAME all-reduce", "NAME wait" ..., of
 * group "communication". Four communicators at most; NULL: nothing. name: static. */
void ls_timed_comm_begin(ls_comm *comm, const char *name);
void ls_timed_comm_end(ls_comm *comm);
/* Forgets what was counted. */
void ls_timed_ops_clear(void);
/* In order of their first call; valid until the next call. Kinds past a fixed number are one row,
 * "others". */
const ls_op_time *ls_timed_ops_rows(int *count);

#endif
