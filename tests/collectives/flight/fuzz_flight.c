/* libFuzzer entry for flight records as they come from other hosts: three ranks' records, whose
 * numbers are small or extreme ones, packed, a byte of each spoiled. What can be unpacked packs
 * again, and any three of them end in a verdict of one text and in files of JSON. */
#include "collectives/diagnose.h"

#include "collectives/trace.h"
#include "runtime/device/cuda/nvtx.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RANKS = 3, GROUPS = 4, OPS = 6 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Who listens to marks of an open record, of which there is none. */
void ls_trace_place(ls_flight_place place, int64_t index) {
    (void)place;
    (void)index;
}
void ls_nvtx_range(const char *name, int64_t number) {
    (void)name;
    (void)number;
}

typedef struct input {
    const uint8_t *data;
    size_t left;
} input;

/* A broken promise ends the process, which the driver reports. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static uint8_t byte_of(input *in) {
    if (in->left == 0) {
        return 0;
    }
    in->left--;
    return *in->data++;
}

static int64_t number_of(input *in) {
    static const int64_t extremes[] = {INT64_MIN, INT64_MAX,     -1,           INT32_MIN, INT32_MAX,
                                       1 << 16,   INT64_MAX - 1, LS_FLIGHT_OPS};
    const uint8_t byte = byte_of(in);
    return byte < 248 ? byte : extremes[byte - 248];
}

static ls_flight_op op_of(input *in) {
    return (ls_flight_op){.id = (uint64_t)number_of(in),
                          .seq = (uint64_t)number_of(in),
                          .group = (int32_t)number_of(in),
                          .peer = (int32_t)number_of(in),
                          .call = {.kind = (int32_t)number_of(in),
                                   .dtype = (int32_t)number_of(in),
                                   .op = (int32_t)number_of(in),
                                   .root = (int32_t)number_of(in),
                                   .count = number_of(in)},
                          .bucket = number_of(in),
                          .step = number_of(in),
                          .place = (int32_t)number_of(in),
                          .start_ns = (uint64_t)number_of(in),
                          .end_ns = (uint64_t)number_of(in)};
}

static void record_make(input *in, int rank, ls_flight_record *r) {
    memset(r, 0, sizeof *r);
    r->rank = rank;
    r->size = RANKS;
    memset(r->host, 'h', byte_of(in) % (sizeof r->host + 1));
    r->inside = (uint64_t)number_of(in);
    r->last_id = (uint64_t)number_of(in);
    r->beat_ns = (uint64_t)number_of(in);
    r->progress_ns = (uint64_t)number_of(in);
    r->deadline_ns = (uint64_t)number_of(in);
    r->step = number_of(in);
    r->place = (int32_t)number_of(in);
    r->place_index = number_of(in);
    for (int g = 0; g < GROUPS; g++) {
        ls_flight_group *group = &r->groups[g];
        memset(group->name, 'g', byte_of(in) % (sizeof group->name + 1));
        group->lowest = (int32_t)number_of(in);
        group->live = number_of(in);
        group->entered = (uint64_t)number_of(in);
        group->since_id = (uint64_t)number_of(in);
    }
    for (int i = 0; i < OPS; i++) {
        r->ops[i] = op_of(in);
    }
    r->waited = op_of(in);
}

/* As it arrives; false: as none. */
static bool record_send(input *in, const ls_flight_record *from, ls_flight_record *to) {
    static char packed[LS_FLIGHT_PACKED_MOST];
    const size_t bytes = ls_flight_pack(from, packed);
    const size_t at = (size_t)byte_of(in) << 8 | byte_of(in);
    packed[at % bytes] ^= (char)byte_of(in);
    memset(to, 0, sizeof *to);
    char *exact = malloc(bytes); /* so that reading past its end is found */
    require(exact != NULL);
    memcpy(exact, packed, bytes);
    const bool known = ls_flight_unpack(exact, bytes, to);
    free(exact);
    if (known) {
        static ls_flight_record again;
        require(ls_flight_unpack(packed, ls_flight_pack(to, packed), &again));
    }
    return known;
}

static char directory[64];

static void directory_remove(void) {
    rmdir(directory);
}

static void require_json(ls_flight_record *r) {
    char path[96];
    r->rank = 0;
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/lockstep-fuzz-XXXXXX");
        require(mkdtemp(directory) != NULL);
        atexit(directory_remove);
    }
    require(ls_flight_write(r, directory) == LS_OK);
    snprintf(path, sizeof path, "%s/flight-0.json", directory);
    json_t *json = json_load_file(path, 0, NULL);
    require(json != NULL);
    json_decref(json);
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ls_flight_record made, records[RANKS];
    char text[300]; /* short, so that its end is met */
    ls_rank_view views[RANKS];
    input in = {data, size};
    for (int r = 0; r < RANKS; r++) {
        record_make(&in, r, &made);
        const bool known = record_send(&in, &made, &records[r]);
        views[r] = (ls_rank_view){.state = (ls_rank_state)(byte_of(&in) % (LS_RANK_LEFT + 1)),
                                  .record = known ? &records[r] : NULL};
    }
    ls_diagnose(views, RANKS, text, sizeof text);
    require(strnlen(text, sizeof text) < sizeof text);
    if (byte_of(&in) % 8 == 0 && views[0].record) {
        require_json(views[0].record);
    }
    return 0;
}
