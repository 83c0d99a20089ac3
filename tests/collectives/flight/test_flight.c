/* The record itself: files, locks, the ring, groups; and JSON. */
#include "collectives/flight.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/lockstep-test-XXXXXX";

/* What another thread or process does just before the kernel is asked for a lock, and before a file
 * is closed. */
static void (*before_question)(void), (*before_close)(void);

int fcntl(int fd, int command, ...) {
    va_list args;
    va_start(args, command);
    void *arg = va_arg(args, void *);
    va_end(args);
    if (command == F_GETLK && before_question) {
        before_question();
    }
    return (int)syscall(SYS_fcntl, fd, command, arg);
}

int close(int fd) {
    if (before_close) {
        before_close();
    }
    return (int)syscall(SYS_close, fd);
}

static int files(void) {
    DIR *listing = opendir(dir);
    int count = 0;
    for (struct dirent *e; listing && (e = readdir(listing));) {
        count += strncmp(e->d_name, "lockstep-", 9) == 0;
    }
    closedir(listing);
    return count;
}

static const ls_flight_call sum_call = {LS_FLIGHT_ALL_REDUCE, LS_F32, LS_SUM, -1, 100, 0};

static void test_closed(void) {
    ls_flight_mark(LS_FLIGHT_DATA, 1);
    CHECK_INT(ls_flight_group_add("world", 0, 4), -1);
    CHECK_INT(ls_flight_enter(-1, &sum_call, 400, -1), 0);
    ls_flight_end(0);
    ls_flight_close();
    CHECK(ls_flight_own() == NULL);
    ls_flight_peer peer;
    const ls_flight_options nobody = {.dir = dir, .token = 1};
    CHECK_STATUS(ls_flight_peer_open(&nobody, &peer), LS_E_INPUT);
    CHECK(!ls_flight_peer_dead(&peer));
    const ls_flight_options nowhere = {.dir = "/nonexistent", .token = 1};
    CHECK_STATUS(ls_flight_open(&nowhere), LS_E_IO);
    CHECK_MESSAGE("/nonexistent");
}

/* More operations than the ring holds, and then the wait for the first: others can see which. */
static void test_lost(const ls_flight_record *r, int world) {
    uint64_t first = 0, second = 0;
    for (int i = 0; i < 3 * LS_FLIGHT_OPS; i++) {
        ls_flight_set_bucket(i);
        const uint64_t id = ls_flight_enter(world, &sum_call, 400, -1);
        first = i == 0 ? id : first;
        second = i == 1 ? id : second;
    }
    CHECK(ls_flight_find(r, first) == NULL);
    const uint64_t ids[] = {first, second};
    for (int i = 0; i < 2; i++) {
        ls_flight_wait(ids[i]);
        const ls_flight_op *op = ls_flight_find(r, ids[i]);
        CHECK(op && op->bucket == i && op->end_ns == 0);
        CHECK(op && ls_flight_group_of(r, op) == &r->groups[world]);
        ls_flight_wait(0);
        ls_flight_end(ids[i]);
        CHECK(op && op->end_ns > 0);
    }
    ls_flight_wait(first); /* which is over */
    CHECK(ls_flight_find(r, first) == NULL);
    ls_flight_wait(0);
}

static void test_ring(void) {
    const ls_flight_options options = {.dir = dir, .token = 7, .rank = 3, .size = 4};
    CHECK_OK(ls_flight_open(&options));
    CHECK_STATUS(ls_flight_open(&options), LS_E_EXISTS);
    const ls_flight_record *r = ls_flight_own();
    CHECK_INT(r->rank, 3);
    CHECK_INT(r->step, -1);
    int world = ls_flight_group_add("world", 0, 4), copy = ls_flight_group_add("world", 0, 4);
    CHECK_STR(r->groups[world].name, "world");
    CHECK_STR(r->groups[copy].name, "world.2");
    for (int i = 1; i <= LS_FLIGHT_OPS + 10; i++) {
        ls_flight_set_bucket(i);
        CHECK_INT(ls_flight_enter(world, &sum_call, 400, -1), i);
        ls_flight_start((uint64_t)i);
        ls_flight_end((uint64_t)i);
    }
    CHECK(ls_flight_find(r, 10) == NULL);
    CHECK(ls_flight_find(r, 0) == NULL);
    ls_flight_wait(10); /* which has ended, and is remembered nowhere */
    CHECK(ls_flight_find(r, 10) == NULL);
    ls_flight_wait(0);
    const ls_flight_op *op = ls_flight_find(r, 11);
    CHECK_INT(op->seq, 11);
    CHECK_INT(op->bucket, 11);
    CHECK(op->enqueue_ns <= op->start_ns && op->start_ns <= op->end_ns);
    ls_flight_end(3); /* one that the ring has lost */
    uint64_t id = ls_flight_enter(world, &sum_call, 400, 2);
    op = ls_flight_find(r, id);
    CHECK_INT(op->seq, 0); /* a message has no number */
    CHECK_INT(op->bucket, -1);
    CHECK_INT(r->groups[world].entered, LS_FLIGHT_OPS + 10);
    test_lost(r, world);
    op = ls_flight_find(r, ls_flight_enter(world, &sum_call, 400, 2));
    ls_flight_group_remove(world);
    CHECK(ls_flight_group_of(r, op) == &r->groups[world]);
    CHECK_INT(ls_flight_group_add("later", 1, 2), world);
    CHECK(ls_flight_group_of(r, op) == NULL);
    for (int i = 2; i < LS_FLIGHT_GROUPS; i++) {
        CHECK(ls_flight_group_add("more", 0, 4) >= 0);
    }
    CHECK_INT(ls_flight_group_add("one too many", 0, 4), -1);
    CHECK_INT(ls_flight_find(r, ls_flight_enter(-1, &sum_call, 4, -1))->seq, 0);
}

/* What a deadline counts from. */
static void test_progress(void) {
    const ls_flight_options options = {.dir = dir, .token = 13, .rank = 0, .size = 1};
    uint64_t before_ns = ls_clock_ns(), id = 0;
    CHECK_OK(ls_flight_open(&options));
    ls_flight_record *r = ls_flight_own();
    for (int i = 0; i < 4; i++) {
        if (i == 1) {
            ls_flight_mark(LS_FLIGHT_DATA, 1);
        } else if (i == 2) {
            id = ls_flight_enter(-1, &sum_call, 400, -1);
        } else if (i == 3) {
            ls_flight_end(id);
        }
        CHECK(r->progress_ns >= before_ns && r->progress_ns <= ls_clock_ns());
        r->progress_ns = 0;
    }
    ls_flight_close();
}

/* Names are of those that live, on the same lowest rank; operations, of the group that had the
 * place when they were entered. */
static void test_groups(void) {
    const ls_flight_options options = {.dir = dir, .token = 14, .rank = 0, .size = 1};
    CHECK_OK(ls_flight_open(&options));
    const ls_flight_record *r = ls_flight_own();
    const int first = ls_flight_group_add("data", 0, 4), other = ls_flight_group_add("data", 1, 4);
    CHECK_STR(r->groups[other].name, "data");
    const int gone = ls_flight_group_add("gone", 0, 4), heir = ls_flight_group_add("heir", 0, 4);
    ls_flight_group_remove(gone);
    ls_flight_group_rename(heir, "gone");
    CHECK_STR(r->groups[heir].name, "gone");
    ls_flight_group_rename(first, "data");
    CHECK_STR(r->groups[first].name, "data");
    (void)ls_flight_enter(first, &sum_call, 400, -1);
    ls_flight_group_remove(first);
    ls_flight_group_rename(other, "more");
    const int again = ls_flight_group_add("data", 0, 4);
    CHECK_STR(r->groups[again].name, "data");
    const ls_flight_op *op =
        ls_flight_find(r, ls_flight_enter(again, &sum_call, 400, -1)); /* its first one */
    CHECK(op && ls_flight_group_of(r, op) == &r->groups[again]);
    static ls_flight_record made_up; /* as anything may come from another host */
    const int32_t wrong[] = {-1, LS_FLIGHT_GROUPS, 5};
    memset(&made_up, 'x', sizeof made_up);
    made_up.groups[5] = (ls_flight_group){.live = 1};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(!ls_flight_group_of(&made_up, &(ls_flight_op){.id = UINT64_MAX, .group = wrong[i]}));
    }
    ls_flight_close();
}

/* Texts end, whatever another process has written there. */
static void test_copied(void) {
    static ls_flight_record from, to;
    static char packed[LS_FLIGHT_PACKED_MOST];
    memset(from.host, 'h', sizeof from.host);
    memset(from.groups[1].name, 'g', sizeof from.groups[1].name);
    for (int way = 0; way < 2; way++) {
        const uint64_t now_ns = ls_clock_ns();
        memset(&to, 0, sizeof to);
        if (way == 0) {
            ls_flight_copy(&from, &to);
        } else {
            const size_t bytes = ls_flight_pack(&from, packed);
            CHECK(bytes < offsetof(ls_flight_record, groups) + 2 * sizeof(ls_flight_op) +
                              sizeof(ls_flight_group)); /* one group, and no empty place */
            CHECK(ls_flight_unpack(packed, bytes, &to));
        }
        CHECK(to.now_ns >= now_ns);
        CHECK_INT(strnlen(to.host, sizeof to.host), sizeof to.host - 1);
        CHECK_INT(strnlen(to.groups[1].name, sizeof to.groups[1].name),
                  sizeof to.groups[1].name - 1);
    }
}

/* Files of the same name that are none of ours are left alone, and read as no record. */
static void test_foreign(void) {
    const ls_flight_options whose = {.dir = dir, .token = 15, .rank = 1, .size = 2},
                            mine = {.dir = dir, .token = 16, .rank = 0, .size = 2};
    static ls_flight_record record;
    ls_flight_peer peer;
    char path[400];
    CHECK_OK(ls_flight_open(&mine));
    const uint64_t magic = ls_flight_own()->magic;
    for (int way = 0; way < 2; way++) {
        record.magic = way ? magic : 1; /* ours, but of another rank */
        record.rank = way ? 0 : 1;
        snprintf(path, sizeof path, "%s/lockstep-%016llx-1", dir, 15ull);
        FILE *f = fopen(path, "w");
        CHECK(f && fwrite(&record, sizeof record, 1, f) == 1 && fclose(f) == 0);
        CHECK_STATUS(ls_flight_peer_open(&whose, &peer), LS_E_INPUT);
        ls_flight_close();
        CHECK_OK(ls_flight_open(&mine)); /* sweeps */
        CHECK_INT(ls_path_exists(path), way == 0);
    }
    ls_flight_close();
}

static void test_json(void) {
    ls_flight_set_step(12);
    ls_flight_mark(LS_FLIGHT_BACKWARD, 7);
    static ls_flight_record copy;
    ls_flight_copy(ls_flight_own(), &copy);
    char out[300], path[400];
    snprintf(out, sizeof out, "%s/run", dir);
    CHECK_OK(ls_flight_write(&copy, out));
    snprintf(path, sizeof path, "%s/flight-3.json", out);
    json_t *json = json_load_file(path, 0, NULL);
    CHECK_INT(json_integer_value(json_object_get(json, "step")), 12);
    CHECK_STR(json_string_value(json_object_get(json, "place")), "backward");
    CHECK_INT(json_array_size(json_object_get(json, "operations")), LS_FLIGHT_OPS);
    json_t *last = json_array_get(json_object_get(json, "operations"), LS_FLIGHT_OPS - 1);
    CHECK_STR(json_string_value(json_object_get(last, "kind")), "all-reduce");
    CHECK_STR(json_string_value(json_object_get(last, "dtype")), "float32");
    CHECK(json_is_null(json_object_get(last, "ended_s_ago")));
    json_decref(json);
    copy.last_id = UINT64_MAX; /* of a memory that is damaged: it ends all the same */
    CHECK_OK(ls_flight_write(&copy, out));
    ls_flight_close();
    CHECK_INT(files(), 0);
}

/* A process that dies leaves its record readable, unlocked, and to be swept by the next job; one
 * that lives keeps it. */
static void test_death(void) {
    int ready[2], go[2];
    char byte = 0;
    CHECK_INT(pipe(ready) | pipe(go), 0);
    const ls_flight_options options = {.dir = dir, .token = 9, .rank = 1, .size = 2};
    pid_t child = fork();
    if (child == 0) {
        close(go[1]);
        bool ok = ls_flight_open(&options) == LS_OK && write(ready[1], &byte, 1) == 1 &&
                  read(go[0], &byte, 1) >= 0;
        _exit(!ok);
    }
    CHECK_INT(read(ready[0], &byte, 1), 1);
    ls_flight_peer peer;
    CHECK_OK(ls_flight_peer_open(&options, &peer));
    CHECK(!ls_flight_peer_dead(&peer));
    const ls_flight_options mine = {.dir = dir, .token = 10, .rank = 0, .size = 1};
    CHECK_OK(ls_flight_open(&mine));
    ls_flight_close();
    CHECK_INT(files(), 1); /* of the child, alive */
    close(go[1]);
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK_INT(status, 0);
    CHECK(ls_flight_peer_dead(&peer));
    CHECK_INT(peer.record->pid, child);
    ls_flight_peer_close(&peer);
    CHECK_OK(ls_flight_open(&mine));
    CHECK_INT(files(), 1); /* its own */
    ls_flight_close();
}

/* A rank that leaves while it is looked at is not dead. */
static int leaver[2];
static pid_t leaving;
static void leave_now(void) {
    before_question = NULL;
    syscall(SYS_close, leaver[1]);
    CHECK_INT(waitpid(leaving, NULL, 0), leaving);
}

static void test_leaving(void) {
    int ready[2];
    char byte = 0;
    CHECK_INT(pipe(ready) | pipe(leaver), 0);
    const ls_flight_options options = {.dir = dir, .token = 11, .rank = 1, .size = 2};
    leaving = fork();
    if (leaving == 0) {
        close(leaver[1]);
        const bool ok = ls_flight_open(&options) == LS_OK && write(ready[1], &byte, 1) == 1 &&
                        read(leaver[0], &byte, 1) >= 0;
        ls_flight_close();
        _exit(!ok);
    }
    CHECK_INT(read(ready[0], &byte, 1), 1);
    ls_flight_peer peer;
    CHECK_OK(ls_flight_peer_open(&options, &peer));
    before_question = leave_now;
    CHECK(!ls_flight_peer_dead(&peer));
    CHECK(before_question == NULL);
    ls_flight_peer_close(&peer);
}

static ls_flight_peer own_seen;
static void check_left(void) {
    CHECK_INT(own_seen.record->left, 1);
}

/* It says so before it gives the lock back. */
static void test_left_first(void) {
    const ls_flight_options options = {.dir = dir, .token = 12, .rank = 0, .size = 1};
    CHECK_OK(ls_flight_open(&options));
    CHECK_OK(ls_flight_peer_open(&options, &own_seen));
    CHECK_INT(own_seen.record->left, 0);
    before_close = check_left;
    ls_flight_close();
    before_close = NULL;
    ls_flight_peer_close(&own_seen);
}

static ls_flight_record full;

static size_t packed_bytes(char *packed) {
    static ls_flight_record to;
    const size_t bytes = ls_flight_pack(&full, packed);
    memset(&to, 0, sizeof to);
    CHECK(ls_flight_unpack(packed, bytes, &to));
    CHECK_INT(to.rank, 5);
    CHECK_STR(to.groups[3].name, "shard");
    for (int i = 0; i < LS_FLIGHT_OPS; i++) {
        const ls_flight_op *op = &full.ops[i];
        const bool kept = !op->end_ns || op->id == full.inside || op->id + 32 > full.last_id;
        CHECK_INT(memcmp(&to.ops[i], kept ? op : &(ls_flight_op){0}, sizeof *op), 0);
    }
    return bytes;
}

/* As many bytes as counts that cannot be would need. */
static void check_counts(char *packed, size_t bytes) {
    static ls_flight_record to;
    char *at = packed + offsetof(ls_flight_record, groups);
    const int64_t group_words = 1 + (int64_t)sizeof(ls_flight_group) / 8,
                  op_words = (int64_t)sizeof(ls_flight_op) / 8;
    int64_t counts[2];
    memcpy(counts, at, sizeof counts);
    for (int sign = -1; sign <= 1; sign += 2) {
        const int64_t wrong[] = {counts[0] + sign * op_words, counts[1] - sign * group_words};
        memcpy(at, wrong, sizeof wrong);
        CHECK(!ls_flight_unpack(packed, bytes, &to));
    }
    memcpy(at, counts, sizeof counts);
}

/* Who looks at ten thousand ranks of other hosts is sent megabytes, not what they all remember. */
static void test_packed(void) {
    static char packed[LS_FLIGHT_PACKED_MOST];
    static ls_flight_record to;
    full = (ls_flight_record){.rank = 5, .last_id = 5000, .inside = 4900};
    full.groups[3] = (ls_flight_group){.name = "shard", .live = 1, .size = 10000, .entered = 4000};
    for (uint64_t id = 5001 - LS_FLIGHT_OPS; id <= 5000; id++) {
        full.ops[(id - 1) % LS_FLIGHT_OPS] =
            (ls_flight_op){.id = id, .seq = id, .group = 3, .bucket = -1, .end_ns = id};
    }
    const size_t bytes = packed_bytes(packed);
    CHECK(10000 * bytes < 50000000);
    CHECK(!ls_flight_unpack(packed, bytes - 1, &to));
    CHECK(!ls_flight_unpack(packed, 10, &to));
    const size_t head = offsetof(ls_flight_record, groups);
    const int64_t places[] = {LS_FLIGHT_GROUPS, -1};
    for (int i = 0; i < 2; i++) {
        memcpy(packed + head + 2 * sizeof(int64_t) + sizeof(ls_flight_op), &places[i],
               sizeof(int64_t));
        CHECK(!ls_flight_unpack(packed, bytes, &to));
    }
    const int64_t many = 1000;
    memcpy(packed + head + sizeof many, &many, sizeof many);
    CHECK(!ls_flight_unpack(packed, bytes, &to));
    for (int i = 0; i < LS_FLIGHT_OPS; i++) { /* nothing has ended */
        full.ops[i].end_ns = 0;
    }
    for (int g = 0; g < LS_FLIGHT_GROUPS; g++) {
        full.groups[g] = full.groups[3];
    }
    size_t most = packed_bytes(packed);
    CHECK(most <= sizeof packed);
    check_counts(packed, most);
    full = (ls_flight_record){.last_id = 2};
    full.groups[0] = full.groups[1] = full.groups[2] = (ls_flight_group){.name = "few"};
    full.ops[0].id = 1;
    full.ops[1].id = 2;
    most = ls_flight_pack(&full, packed);
    check_counts(packed, most);
}

int main(void) {
    if (!mkdtemp(dir)) {
        return 1;
    }
    test_closed();
    test_ring();
    test_json();
    test_progress();
    test_groups();
    test_copied();
    test_foreign();
    test_death();
    test_leaving();
    test_left_first();
    test_packed();
    CHECK_OK(ls_dir_remove(dir));
    return test_end();
}
