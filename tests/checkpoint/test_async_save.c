/* Saves in the background: what was there when the save began is what is saved, whoever copies and
 * writes it;
 * failures are told to all ranks and the next save succeeds. */
#include "checkpoint/save_internal.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>

static ls_comm *comm;
static char root[4096];
static ls_ckpt_tensor tensors[CASE_TENSORS];
static json_t *run, *counters;

static ls_ckpt_save_options options_of(const char *where, int64_t step) {
    return (ls_ckpt_save_options){.root = where,
                                  .step = step,
                                  .tokens = 10 * step,
                                  .level = 1,
                                  .threads = 2,
                                  .config_text = "run:\n  seed: 42\n",
                                  .run = run,
                                  .counters = counters};
}

static void fill_all(void) {
    for (int i = 0; i < CASE_TENSORS; i++) {
        if (tensors[i].data) {
            case_fill(i, &tensors[i].box, tensors[i].data);
        }
    }
}

static size_t bytes_of(int i) {
    return (size_t)ls_box_elems(&tensors[i].box) * ls_dtype_bytes(tensors[i].dtype);
}

/* What training does to the state while it is being saved. */
static void change_all(void) {
    for (int i = 0; i < CASE_TENSORS; i++) {
        if (bytes_of(i)) {
            memset(tensors[i].data, 0x77, bytes_of(i));
        }
    }
}

static ls_ckpt_outcome finish(ls_ckpt_saver *saver, bool wait) {
    ls_ckpt_outcome outcome = {.status = LS_E_NO};
    bool ended = false;
    for (int polls = 0; !ended; polls++) {
        CHECK_OK(ls_ckpt_saver_poll(saver, wait, &ended, &outcome));
        CHECK(ended || !wait || polls > 0); /* it waits to the end */
        sched_yield();
    }
    CHECK(!ls_ckpt_saver_busy(saver));
    CHECK_OK(ls_ckpt_saver_poll(saver, wait, &ended, &outcome));
    CHECK(!ended);
    return outcome;
}

/* On one rank: it sees all of it. */
static void check_saved(const char *path, int writers) {
    ls_ckpt *ckpt = NULL;
    if (comm->rank > 0) {
        return;
    }
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    for (int i = 0; i < CASE_TENSORS && ckpt; i++) {
        CHECK_OK(case_check(ckpt, i, NULL));
    }
    CHECK(!ckpt || ls_ckpt_describe(ckpt).writers == writers);
    CHECK(!ckpt || strcmp(ls_ckpt_config(ckpt), "run:\n  seed: 42\n") == 0);
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_FULL, NULL, NULL));
    ls_ckpt_close(ckpt);
}

static void check_no_temporaries(const char *where) {
    comm->ops->barrier(comm);
    DIR *directory = opendir(where);
    struct dirent *item;
    while (directory && (item = readdir(directory))) {
        CHECK(strncmp(item->d_name, ".tmp-", 5) != 0);
    }
    if (directory) {
        closedir(directory);
    }
    comm->ops->barrier(comm);
}

static ls_ckpt_saver *saver_make(bool async, bool per_host, const ls_ckpt_fetch *fetch) {
    ls_ckpt_saver *saver = NULL;
    const ls_ckpt_saver_options options = {.comm = comm,
                                           .async = async,
                                           .writer_per_host = per_host,
                                           .fetch = fetch,
                                           .tensors = tensors,
                                           .count = CASE_TENSORS};
    CHECK_OK(ls_ckpt_saver_create(&options, &saver));
    return saver;
}

/* What is left in its room of one save is of no use to the next. */
static void spoil(ls_ckpt_saver *saver) {
    ls_snapshot_view *room = &saver->snapshot.mine;
    comm->ops->barrier(comm);
    if (room->base) {
        memset((char *)room->base + room->values_at, 0x55, room->bytes - room->values_at);
    }
    comm->ops->barrier(comm);
}

/* Saves one after the other with one saver; each in the way that its number says. */
static void test_saves(bool async, bool per_host, int64_t first_step) {
    ls_ckpt_saver *saver = saver_make(async, per_host, NULL);
    bool busy;
    for (int round = 0; round < 4; round++) {
        bool now = round == 2;
        ls_ckpt_save_options options = options_of(root, first_step + round);
        options.parity = round & 1; /* more than one save of a saver */
        options.level = round == 3 ? 0 : 1;
        fill_all();
        spoil(saver);
        if (per_host && round < 2 && comm->rank > 0) { /* whoever writes waits for the others */
            usleep(100000);
        }
        const uint64_t begin_ns = ls_clock_ns();
        ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, now);
        bool waits = !async || now;
        CHECK(ls_ckpt_saver_busy(saver));
        CHECK_OK(ls_ckpt_saver_any_busy(saver, &busy));
        CHECK(busy);
        if (!waits) {
            ls_ckpt_saver_settle(saver);
            change_all();
        }
        ls_ckpt_outcome outcome = finish(saver, waits || round == 0);
        CHECK_STATUS(outcome.status, LS_OK);
        CHECK_INT(outcome.step, first_step + round);
        CHECK(outcome.result.raw_bytes > 0 && outcome.result.stored_bytes > 0);
        CHECK(outcome.result.seconds > 0 && outcome.stall_seconds > 1e-7);
        CHECK(outcome.stall_seconds < 1e-9 * (double)(ls_clock_ns() - begin_ns));
        CHECK_OK(ls_ckpt_saver_any_busy(saver, &busy));
        CHECK(!busy);
        check_saved(outcome.result.path, per_host ? 1 : comm->size);
        char name[32], path[4300];
        snprintf(name, sizeof name, per_host ? "node-00000.h5" : "rank-%05d.h5", comm->rank);
        CHECK_OK(ls_path_join(path, sizeof path, outcome.result.path, name));
        CHECK(ls_path_exists(path));
        CHECK_OK(ls_path_join(path, sizeof path, outcome.result.path, "parity-00000-0.rs"));
        CHECK_INT(ls_path_exists(path), round & 1);
    }
    check_no_temporaries(root);
    ls_ckpt_saver_destroy(saver);
}

/* The same files as of a save that waits. */
static void test_same_bytes(void) {
    ls_ckpt_saver *saver = saver_make(true, false, NULL);
    char other[4200], name[32], a[4300], b[4300];
    ls_ckpt_save_result plain;
    ls_sha256 x, y;
    snprintf(other, sizeof other, "%s/other", root);
    fill_all();
    ls_ckpt_save_options options = options_of(root, 100);
    ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
    ls_ckpt_outcome outcome = finish(saver, true);
    options.root = other;
    CHECK_OK(ls_ckpt_save(comm, &options, tensors, CASE_TENSORS, &plain));
    snprintf(name, sizeof name, "rank-%05d.h5", comm->rank);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(ls_path_join(a, sizeof a, outcome.result.path, i ? name : "manifest.json"));
        CHECK_OK(ls_path_join(b, sizeof b, plain.path, i ? name : "manifest.json"));
        CHECK_OK(ls_sha256_file(a, &x, NULL));
        CHECK_OK(ls_sha256_file(b, &y, NULL));
        CHECK(memcmp(&x, &y, sizeof x) == 0);
    }
    ls_ckpt_saver_destroy(saver);
}

/* A device whose memory has every byte inverted, and whose copies are made when they must be. */
typedef enum device_call {
    DEVICE_NONE,
    DEVICE_COPY,
    DEVICE_START,
    DEVICE_HOLD,
    DEVICE_DONE
} device_call;
enum { DEVICE_COPY_MS = 20 };
static struct {
    const ls_ckpt_tensor *to; /* what is to be copied; NULL: nothing */
    int asked;                /* whether it is over */
    int pins;
    bool refuses, pinned;
    device_call fails;
} device;

static ls_status device_fault(device_call call) {
    if (device.fails != call) {
        return LS_OK;
    }
    device.to = NULL;
    return LS_FAIL(LS_E_DEVICE, "the device fell off the bus");
}

static ls_status device_copy(void *context, const ls_ckpt_tensor *to, int count) {
    (void)context;
    LS_TRY(device_fault(DEVICE_COPY));
    usleep(1000 * DEVICE_COPY_MS);
    for (int i = 0; i < count; i++) {
        for (size_t k = 0; k < bytes_of(i); k++) {
            ((uint8_t *)to[i].data)[k] = (uint8_t) ~((const uint8_t *)tensors[i].data)[k];
        }
    }
    return LS_OK;
}

static ls_status device_pin(void *context, void *memory, size_t bytes) {
    (void)context;
    CHECK((uintptr_t)memory % (uintptr_t)sysconf(_SC_PAGESIZE) == 0); /* as libraries ask */
    memset(memory, 0, bytes);
    device.pins++;
    device.pinned = !device.refuses;
    return device.refuses ? LS_FAIL(LS_E_DEVICE, "no pinned memory is left") : LS_OK;
}

static ls_status device_unpin(void *context, void *memory) {
    (void)context;
    (void)memory;
    CHECK(device.pinned && !device.to);
    device.pinned = false;
    return LS_OK;
}

static ls_status device_start(void *context, const ls_ckpt_tensor *to, int count) {
    (void)context;
    CHECK(device.pinned);
    CHECK_INT(count, CASE_TENSORS);
    LS_TRY(device_fault(DEVICE_START));
    device.to = to;
    device.asked = 0;
    return LS_OK;
}

static ls_status device_hold(void *context) {
    LS_TRY(device_fault(DEVICE_HOLD));
    if (device.to) {
        LS_TRY(device_copy(context, device.to, CASE_TENSORS));
        device.to = NULL;
    }
    return LS_OK;
}

static ls_status device_done(void *context, bool wait, bool *done) {
    *done = wait || ++device.asked > 2;
    LS_TRY(device_fault(DEVICE_DONE));
    return *done ? device_hold(context) : LS_OK;
}

static const ls_ckpt_fetch device_fetch = {device_copy,  device_pin,  device_unpin,
                                           device_start, device_hold, device_done};

static void invert_all(void) {
    for (int i = 0; i < CASE_TENSORS; i++) {
        uint8_t *data = tensors[i].data;
        for (size_t k = 0; k < bytes_of(i); k++) {
            data[k] = (uint8_t)~data[k];
        }
    }
}

/* way 0: no thread; 1: beside training; 2: likewise where memory cannot be pinned; 3: likewise, and
 * one rank writes for all. In the second save of each the data is changed once it may be, in the
 * first it is looked at again and again. */
static void test_fetch(void) {
    for (int way = 0; way < 4; way++) {
        ls_ckpt_saver *saver = saver_make(way > 0, way == 3, &device_fetch);
        device.refuses = way > 1;
        device.pins = 0;
        for (int changes = 0; changes < 2; changes++) {
            spoil(saver);
            fill_all();
            invert_all();
            ls_ckpt_save_options options = options_of(root, 110 + 2 * way + changes);
            ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, way == 0);
            CHECK((device.to != NULL) == (way == 1));
            if (changes) { /* a save of now may not be changed before it has ended */
                ls_ckpt_saver_settle(saver);
                if (way > 0) {
                    change_all();
                }
            }
            ls_ckpt_outcome outcome = finish(saver, changes || way == 0);
            CHECK_STATUS(outcome.status, LS_OK);
            CHECK(outcome.stall_seconds >= 1e-3 * DEVICE_COPY_MS); /* whichever call it was in */
            check_saved(outcome.result.path, way == 3 ? 1 : comm->size);
        }
        ls_ckpt_saver_destroy(saver);
        CHECK(!device.pinned);
        CHECK_INT(device.pins, way > 0);
    }
}

/* A copy that fails on the last rank, wherever it does: no rank has a checkpoint, and the next save
 * works. */
static void test_failed_fetch(void) {
    for (device_call call = DEVICE_COPY; call <= DEVICE_DONE; call++) {
        ls_ckpt_saver *saver = saver_make(true, false, &device_fetch);
        device.refuses = call == DEVICE_COPY;
        for (int round = 0; round < 2; round++) {
            fill_all();
            invert_all();
            const bool last = comm->rank == comm->size - 1;
            device.fails = round == 0 && last ? call : DEVICE_NONE;
            char path[4300];
            ls_ckpt_save_options options = options_of(root, 120 + (int)call);
            snprintf(path, sizeof path, "%s/step-%08lld", root, (long long)options.step);
            ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
            if (call == DEVICE_HOLD) {
                ls_ckpt_saver_settle(saver);
            }
            ls_ckpt_outcome outcome = finish(saver, round);
            if (round == 0) {
                CHECK_STATUS(outcome.status, LS_E_DEVICE);
                CHECK_MESSAGE("fell off the bus");
                CHECK(!ls_path_exists(path));
                check_no_temporaries(root);
            } else {
                CHECK_STATUS(outcome.status, LS_OK);
                check_saved(outcome.result.path, comm->size);
            }
        }
        ls_ckpt_saver_destroy(saver);
        CHECK(!device.pinned);
    }
}

/* Each failure is known to all ranks, with its reason, and does not keep the next save. */
static void test_failed_saves(bool per_host) {
    ls_ckpt_saver *saver = saver_make(true, per_host, NULL);
    const bool odd = comm->rank == comm->size / 2; /* one that is neither first nor last */
    char file[4200];
    snprintf(file, sizeof file, "%s/a-file", root);
    if (comm->rank == 0) {
        CHECK_OK(ls_file_replace(file, "x", 1));
    }
    comm->ops->barrier(comm);
    fill_all();
    for (int round = 0; round < 6; round++) {
        static const ls_status expected[] = {LS_E_INPUT, LS_E_IO,     LS_E_SHAPE,
                                             LS_E_INPUT, LS_E_CONFIG, LS_OK};
        ls_ckpt_save_options options = options_of(round == 1 ? file : root, 200 + per_host);
        ls_ckpt_tensor mine[CASE_TENSORS];
        memcpy(mine, tensors, sizeof mine);
        options.level = round == 0 && odd ? 20 : 1;
        mine[3].name = round == 2 && odd ? "another" : mine[3].name;
        options.parity = round == 3 ? 9 : 0;
        options.step += round == 4 && odd;
        spoil(saver);
        if (per_host && round == 5 && comm->rank > comm->size / 2) {
            usleep(100000); /* what it said of a failed save does not count */
        }
        ls_ckpt_saver_start(saver, &options, mine, CASE_TENSORS, false);
        ls_ckpt_outcome outcome = finish(saver, round & 1);
        if (round == 4 && comm->size == 1) {
            CHECK_STATUS(outcome.status, LS_OK);
            continue;
        }
        CHECK_INT(outcome.status, expected[round]);
        if (round == 1) {
            CHECK_MESSAGE(file);
            CHECK(strstr(outcome.error.message, file) != NULL);
            CHECK(strstr(outcome.error.file, ".c") && outcome.error.line > 0);
        } else if (round == 2) {
            CHECK_MESSAGE("'another'");
        } else if (round == 4) {
            CHECK_MESSAGE("saves step");
        } else if (round == 5) {
            check_saved(outcome.result.path, per_host ? 1 : comm->size);
        }
        check_no_temporaries(root);
    }
    ls_ckpt_saver_destroy(saver);
}

/* The name of the temporary of a save under way, once the lowest rank has made it. */
static void temporary_find(int64_t step, char name[64]) {
    char begin[32];
    snprintf(begin, sizeof begin, ".tmp-%08lld-", (long long)step);
    name[0] = '\0';
    for (int ms = 0; ms < 30000 && !name[0]; ms++) {
        usleep(1000);
        DIR *directory = opendir(root);
        struct dirent *item;
        while (directory && (item = readdir(directory))) {
            if (strncmp(item->d_name, begin, strlen(begin)) == 0) {
                snprintf(name, 64, "%.63s", item->d_name);
            }
        }
        if (directory) {
            closedir(directory);
        }
    }
}

/* Each save has a temporary of its own, whatever saver and step: what an earlier one could not
 * remove is in nobody's way. */
static void test_names(void) {
    char names[4][64];
    for (int other = 0; other < 2; other++) {
        ls_ckpt_saver *saver = saver_make(true, false, NULL);
        for (int made = 2 * other; made < 2 * other + 2; made++) {
            const ls_ckpt_save_options options = options_of(root, 130);
            ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
            temporary_find(130, names[made]);
            CHECK_STATUS(finish(saver, true).status, LS_OK);
            for (int i = 0; i < made; i++) {
                CHECK(strcmp(names[i], names[made]) != 0);
            }
        }
        ls_ckpt_saver_destroy(saver);
    }
}

/* Room that one rank cannot reserve: no rank has a saver, and none waits for it. */
static void test_no_room(void) {
    ls_ckpt_tensor mine[CASE_TENSORS];
    memcpy(mine, tensors, sizeof mine);
    mine[3].name = comm->rank == comm->size - 1 ? "" : mine[3].name;
    for (int per_host = 0; per_host < 2; per_host++) {
        ls_ckpt_saver *saver = NULL;
        const ls_ckpt_saver_options options = {.comm = comm,
                                               .async = true,
                                               .writer_per_host = per_host,
                                               .tensors = mine,
                                               .count = CASE_TENSORS};
        CHECK_STATUS(ls_ckpt_saver_create(&options, &saver), LS_E_INPUT);
        CHECK(!saver);
    }
}

/* Is the last page of its room there? */
static bool touched(const ls_ckpt_saver *saver) {
    const ls_snapshot_view *room = &saver->snapshot.mine;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char resident = 0;
    CHECK(mincore((char *)room->base + (room->bytes - 1) / page * page, page, &resident) == 0);
    return resident & 1;
}

/* Memory is touched in the background, where there is such a thread, and never in place of what
 * that thread has to do. */
static void test_touch(void) {
    for (int async = 0; async < 2; async++) {
        ls_ckpt_saver *saver = saver_make(async, false, &device_fetch);
        CHECK(!touched(saver));
        ls_ckpt_saver_touch(saver);
        for (int ms = 0; async && ms < 30000 && !touched(saver); ms++) {
            usleep(1000);
        }
        CHECK_INT(touched(saver), async);
        ls_ckpt_saver_destroy(saver);
    }
    ls_ckpt_saver *saver = saver_make(true, false, NULL);
    for (int round = 0; round < 5; round++) {
        const ls_ckpt_save_options options = options_of(root, 140 + round);
        fill_all();
        ls_ckpt_saver_touch(saver);
        ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
        ls_ckpt_saver_touch(saver);
        ls_ckpt_outcome outcome = finish(saver, true);
        CHECK_STATUS(outcome.status, LS_OK);
        check_saved(outcome.result.path, comm->size);
    }
    ls_ckpt_saver_destroy(saver);
}

/* A saver's communicator goes with it. */
static const ls_comm_ops *real;
static ls_comm_ops counted;
static int living;

static ls_status counted_duplicate(ls_comm *of, ls_comm **copy) {
    LS_TRY(real->duplicate(of, copy));
    (*copy)->ops = &counted;
    living++;
    return LS_OK;
}

static void counted_destroy(ls_comm *one) {
    living--;
    real->destroy(one);
}

static void test_communicator(void) {
    real = comm->ops;
    counted = *real;
    counted.duplicate = counted_duplicate;
    counted.destroy = counted_destroy;
    comm->ops = &counted;
    ls_ckpt_saver *saver = saver_make(true, false, NULL);
    comm->ops = real;
    CHECK_INT(living, 1);
    ls_ckpt_saver_destroy(saver);
    CHECK_INT(living, 0);
}

static ls_status lost_test(ls_comm *one, ls_comm_request *request, bool *done) {
    LS_TRY(real->test(one, request, done));
    return *done ? LS_FAIL(LS_E_COMM, "a rank was lost") : LS_OK;
}

/* Communication that fails is no save that failed: whoever polls is told, and comes to an end. */
static void test_lost_communication(void) {
    ls_ckpt_saver *saver = saver_make(true, false, NULL);
    const ls_ckpt_save_options options = options_of(root, 150);
    ls_ckpt_outcome outcome;
    ls_status status = LS_OK;
    bool ended = false;
    counted = *saver->comm->ops;
    counted.test = lost_test;
    counted.destroy = counted_destroy;
    living = 1;
    saver->comm->ops = &counted;
    ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
    for (int ms = 0; ms < 30000 && status == LS_OK && !ended; ms++) {
        usleep(1000);
        status = ls_ckpt_saver_poll(saver, false, &ended, &outcome);
    }
    CHECK_STATUS(status, LS_E_COMM);
    ls_ckpt_saver_destroy(saver);
    CHECK_INT(living, 1); /* others may still wait for this rank in it */
}

/* Ended in the middle: nothing hangs, and nothing that looks like a checkpoint is left by it. */
static void test_given_up(bool per_host) {
    ls_ckpt_saver *saver = saver_make(true, per_host, NULL);
    char where[4200], *path;
    snprintf(where, sizeof where, "%s/given-up-%d", root, per_host);
    ls_ckpt_save_options options = options_of(where, 1);
    if (!per_host || comm->rank == 0) { /* the others of the host never say that they are ready */
        ls_ckpt_saver_start(saver, &options, tensors, CASE_TENSORS, false);
    }
    ls_ckpt_saver_destroy(saver);
    comm->ops->barrier(comm);
    CHECK(ls_ckpt_latest(where, &path) != LS_OK);
    comm->ops->barrier(comm);
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    ls_error_set_rank(comm->rank);
    ls_log_set_quiet(true);
    if (comm->rank == 0) {
        snprintf(root, sizeof root, "%s", case_directory());
    }
    CHECK_OK(comm->ops->broadcast(comm, root, sizeof root, 0));
    run = json_pack("{s:i}", "seed", 42);
    counters = case_counters();
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    test_saves(true, false, 10);
    test_saves(true, true, 20);
    test_saves(false, false, 30);
    test_saves(false, true, 40);
    test_same_bytes();
    test_fetch();
    test_failed_fetch();
    test_failed_saves(false);
    test_failed_saves(true);
    test_names();
    test_no_room();
    test_touch();
    test_communicator();
    test_lost_communication();
    test_given_up(false);
    test_given_up(true);
    cases_free(tensors, CASE_TENSORS);
    json_decref(run);
    json_decref(counters);
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_remove(root));
    }
    ls_comm_mpi_finalize();
    return test_end();
}
