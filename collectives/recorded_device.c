/* Operations whose end the device decides: their record, and what the host waits for meanwhile. */
#include "collectives/recorded_impl.h"
#include "collectives/trace.h"

#include <stddef.h>

/* Operations of all communicators that devices have not come past, in order of their start. */
static pending *on_device;

void ls_recorded_note_end(const recorded *c, pending *p) {
    if (p->ended) {
        return;
    }
    p->ended = true;
    ls_flight_end(p->id);
    if (!p->by_device) {
        ls_meter_end(p->axis);
    }
    ls_trace_operation(&(ls_trace_op){.group = c->name,
                                      .lowest = c->lowest,
                                      .kind = p->kind,
                                      .peer = p->peer,
                                      .id = p->id,
                                      .seq = p->seq,
                                      .bytes = p->bytes,
                                      .begin_ns = p->begin_ns});
}

void ls_recorded_device_add(pending *p) {
    pending **last = &on_device;
    while (*last) {
        last = &(*last)->next_on_device;
    }
    p->next_on_device = NULL;
    *last = p;
}

void ls_recorded_device_forget(const pending *p) {
    pending **at = &on_device;
    while (*at && *at != p) {
        at = &(*at)->next_on_device;
    }
    *at = *at ? p->next_on_device : NULL;
}

static pending **find_on_device(const ls_comm_request *request) {
    pending **at = &on_device;
    while (*at && (*at)->request != request) {
        at = &(*at)->next_on_device;
    }
    return at;
}

static recorded *listening(ls_comm_listener *listener) {
    return (recorded *)((char *)listener - offsetof(recorded, listener));
}

static void on_ended(ls_comm_listener *listener, ls_comm_request *request, uint64_t active_ns) {
    pending *p = *find_on_device(request);
    if (p) {
        ls_recorded_note_end(listening(listener), p);
        ls_meter_add(p->axis, active_ns, 0);
    }
}

static void on_passed(ls_comm_listener *listener, ls_comm_request *request, uint64_t stalled_ns) {
    pending **at = find_on_device(request), *p = *at;
    if (p) {
        ls_meter_add(p->axis, 0, stalled_ns);
        *at = p->next_on_device;
        if (p->waited) { /* else `test` gives it back */
            ls_recorded_give_back(listening(listener), p);
        }
    }
}

void ls_recorded_device_wait(bool waits) {
    static bool waiting;
    static uint64_t outside;
    const ls_flight_record *own = ls_flight_own();
    if (!own) {
        return;
    }
    outside = waiting ? outside : own->inside;
    waiting = waits;
    const pending *p = on_device;
    while (p && (p->ended || !p->waited)) {
        p = p->next_on_device;
    }
    ls_flight_wait(waits && p ? p->id : outside);
}

const ls_comm_listener LS_RECORDED_LISTENER = {.ended = on_ended, .passed = on_passed};
