/* The record for people and programs: one JSON file a rank. */
#include "collectives/flight.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* NULL-safe: jansson's *_new functions let a lack of memory through to the end, where it is told.
 */
static json_t *seconds_ago(uint64_t now_ns, uint64_t ns) {
    return ns ? json_real(1e-9 * ((double)now_ns - (double)ns)) : json_null();
}

static json_t *number_or_null(int64_t n) {
    return n >= 0 ? json_integer(n) : json_null();
}

static json_t *op_json(const ls_flight_record *r, const ls_flight_op *op) {
    const ls_flight_group *group = ls_flight_group_of(r, op);
    const ls_flight_call *c = &op->call;
    const uint64_t now = r->now_ns;
    json_t *o = json_object();
    json_object_set_new(o, "id", json_integer((json_int_t)op->id));
    json_object_set_new(o, "sequence", json_integer((json_int_t)op->seq));
    json_object_set_new(o, "group", group ? json_string(group->name) : json_null());
    json_object_set_new(o, "kind", json_string(ls_flight_kind_text(c->kind)));
    json_object_set_new(
        o, "dtype", c->dtype < 0 ? json_null() : json_string(ls_dtype_name((ls_dtype)c->dtype)));
    json_object_set_new(o, "reduction",
                        c->op < 0 ? json_null() : json_string(ls_flight_reduction_text(c->op)));
    json_object_set_new(o, "root", number_or_null(c->root));
    json_object_set_new(o, "peer", number_or_null(op->peer));
    json_object_set_new(o, "count", number_or_null(c->count));
    json_object_set_new(o, "bytes", json_integer(op->bytes));
    json_object_set_new(o, "bucket", number_or_null(op->bucket));
    json_object_set_new(o, "step", number_or_null(op->step));
    json_object_set_new(o, "place", json_string(ls_flight_place_text(op->place)));
    json_object_set_new(o, "block", number_or_null(op->place_index));
    json_object_set_new(o, "enqueued_s_ago", seconds_ago(now, op->enqueue_ns));
    json_object_set_new(o, "started_s_ago", seconds_ago(now, op->start_ns));
    json_object_set_new(o, "ended_s_ago", seconds_ago(now, op->end_ns));
    return o;
}

static json_t *groups_json(const ls_flight_record *r) {
    json_t *groups = json_array();
    for (int g = 0; g < LS_FLIGHT_GROUPS; g++) {
        const ls_flight_group *group = &r->groups[g];
        if (group->name[0]) {
            json_array_append_new(groups, json_pack("{s:s, s:i, s:i, s:I}", "name", group->name,
                                                    "lowest_rank", (int)group->lowest, "ranks",
                                                    (int)group->size, "entered",
                                                    (json_int_t)group->entered));
        }
    }
    return groups;
}

static json_t *record_json(const ls_flight_record *r) {
    json_t *ops = json_array();
    const uint64_t last = r->last_id, kept = last < LS_FLIGHT_OPS ? last : LS_FLIGHT_OPS,
                   first = last - kept + 1;
    if (r->waited.id && r->waited.id < first && !r->waited.end_ns) {
        json_array_append_new(ops, op_json(r, &r->waited));
    }
    for (uint64_t i = 0; i < kept; i++) {
        const ls_flight_op *op = ls_flight_find(r, first + i);
        if (op) {
            json_array_append_new(ops, op_json(r, op));
        }
    }
    json_t *o = json_object();
    json_object_set_new(o, "rank", json_integer(r->rank));
    json_object_set_new(o, "ranks", json_integer(r->size));
    json_object_set_new(o, "host", json_string(r->host));
    json_object_set_new(o, "pid", json_integer(r->pid));
    json_object_set_new(o, "step", number_or_null(r->step));
    json_object_set_new(o, "place", json_string(ls_flight_place_text(r->place)));
    json_object_set_new(o, "block", number_or_null(r->place_index));
    json_object_set_new(o, "heartbeat_s_ago", seconds_ago(r->now_ns, r->beat_ns));
    json_object_set_new(o, "progress_s_ago", seconds_ago(r->now_ns, r->progress_ns));
    json_object_set_new(o, "deadline_s", json_real(1e-9 * (double)r->deadline_ns));
    json_object_set_new(o, "waits_in", number_or_null((int64_t)r->inside - (r->inside == 0)));
    json_object_set_new(o, "groups", groups_json(r));
    json_object_set_new(o, "operations", ops);
    return o;
}

ls_status ls_flight_write(const ls_flight_record *record, const char *dir) {
    char name[32], path[900];
    snprintf(name, sizeof name, "flight-%d.json", record->rank);
    LS_TRY(ls_path_join(path, sizeof path, dir, name));
    LS_TRY(ls_dir_create(dir));
    json_t *json = record_json(record);
    char *text = json_dumps(json, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(json);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for '%s'", path);
    }
    /* Whole or not at all, but without fsync: the launcher gives a failing job a second or two. */
    char fresh[sizeof path + 24];
    snprintf(fresh, sizeof fresh, "%s.tmp-%ld", path, (long)getpid());
    ls_status status = LS_OK;
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = LS_FAIL(LS_E_IO, "cannot create '%s': %s", fresh, strerror(errno));
    } else {
        status = ls_file_write_all(fd, text, strlen(text), fresh);
        if ((close(fd) != 0 || rename(fresh, path) != 0) && status == LS_OK) {
            status = LS_FAIL(LS_E_IO, "cannot write '%s': %s", path, strerror(errno));
        }
    }
    free(text);
    return status;
}
