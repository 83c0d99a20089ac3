/* A record on its way to another host:
 *
 *   | head | numbers of groups and operations | waited | groups, each behind its place | operations
 * |
 */
#include "collectives/flight.h"

#include "runtime/base/clock.h"

#include <stddef.h>
#include <string.h>

enum { HEAD_BYTES = offsetof(ls_flight_record, groups), ENDED_KEPT = 32 };

typedef struct placed_group {
    int64_t place;
    ls_flight_group group;
} placed_group;

typedef struct contents {
    int64_t groups, ops;
    ls_flight_op waited;
} contents;

_Static_assert(HEAD_BYTES + sizeof(contents) + LS_FLIGHT_GROUPS * sizeof(placed_group) +
                       LS_FLIGHT_OPS * sizeof(ls_flight_op) <=
                   LS_FLIGHT_PACKED_MOST,
               "a full record fits");

static char *put(char *at, const void *from, size_t bytes) {
    memcpy(at, from, bytes);
    return at + bytes;
}

static const char *take(const char *at, void *to, size_t bytes) {
    memcpy(to, at, bytes);
    return at + bytes;
}

size_t ls_flight_pack(const ls_flight_record *from, void *packed) {
    contents c = {.waited = from->waited};
    char *at = (char *)packed + HEAD_BYTES + sizeof c;
    const uint64_t now_ns = ls_clock_ns(), last_id = from->last_id;
    put(packed, from, HEAD_BYTES);
    put((char *)packed + offsetof(ls_flight_record, now_ns), &now_ns, sizeof now_ns);
    for (int g = 0; g < LS_FLIGHT_GROUPS; g++) {
        const placed_group one = {g, from->groups[g]};
        if (one.group.name[0]) {
            at = put(at, &one, sizeof one);
            c.groups++;
        }
    }
    for (int i = 0; i < LS_FLIGHT_OPS; i++) {
        const ls_flight_op op = from->ops[i];
        if (op.id && (!op.end_ns || op.id == from->inside || op.id + ENDED_KEPT > last_id)) {
            at = put(at, &op, sizeof op);
            c.ops++;
        }
    }
    put((char *)packed + HEAD_BYTES, &c, sizeof c);
    return (size_t)(at - (char *)packed);
}

bool ls_flight_unpack(const void *packed, size_t bytes, ls_flight_record *to) {
    contents c;
    if (bytes < HEAD_BYTES + sizeof c) {
        return false;
    }
    const char *at = take(take(packed, to, HEAD_BYTES), &c, sizeof c);
    to->waited = c.waited;
    if (c.groups < 0 || c.groups > LS_FLIGHT_GROUPS || c.ops < 0 || c.ops > LS_FLIGHT_OPS ||
        bytes != HEAD_BYTES + sizeof c + (size_t)c.groups * sizeof(placed_group) +
                     (size_t)c.ops * sizeof(ls_flight_op)) {
        return false;
    }
    for (int64_t i = 0; i < c.groups; i++) {
        placed_group one;
        at = take(at, &one, sizeof one);
        if (one.place < 0 || one.place >= LS_FLIGHT_GROUPS) {
            return false;
        }
        one.group.name[sizeof one.group.name - 1] = '\0';
        to->groups[one.place] = one.group;
    }
    for (int64_t i = 0; i < c.ops; i++) {
        ls_flight_op op;
        at = take(at, &op, sizeof op);
        to->ops[(op.id - 1) % LS_FLIGHT_OPS] = op;
    }
    to->host[sizeof to->host - 1] = '\0';
    return true;
}
