/* A communicator around another one that enters each operation in the flight record, adds up what
 * it takes (meter.h), and in a debug mode compares the ranks' calls.
 *
 * The record gets an operation before the back end does, so that a rank that hangs in it has said
 * so. The check sends each peer a few words about the call beside the operation, on a communicator
 * of its own: blocking calls wait for it before they begin, others before they end, so that
 * overlap stays. */
#ifndef LS_COLLECTIVES_RECORDED_H
#define LS_COLLECTIVES_RECORDED_H

#include "collectives/flight.h"

/* `inner` is borrowed; copies made by duplicate own theirs. With checks, calls that do not fit give
 * LS_E_COMM on every rank that sees it, with both sides named: "rank 1 calls all-reduce #5 of
 * ...". group: its name in reports. [collective] */
ls_status ls_comm_recorded(ls_comm *inner, const char *group, bool checks, ls_comm **recorded);

/* The host begins to wait for a device, or does no more: the record names the first operation that
 * the device waits for and that is not over. Again and again, as operations end. */
void ls_recorded_device_wait(bool waits);

/* Names the group of a recorded communicator; of others nothing. Not collective, but all ranks must
 * give the same name. */
void ls_comm_name_group(ls_comm *comm, const char *group);

#endif
