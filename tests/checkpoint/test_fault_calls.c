/* Every call to the kernel that a save makes fails once, in every way: the save tells, or does not
 * mind; the checkpoint before it or the new one is whole; nothing else is left; the next save
 * works. Then the same for every call of a load and of a verification. */
#include "runtime/base/log.h"
#include "tests/checkpoint/fault_calls.h"
#include "tests/checkpoint/fault_save.h"

#include <errno.h>

/* For LeakSanitizer: HDF5 1.10 keeps some bytes of its own when a write fails in a close. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5";
}

enum { SMALL = 5, CALLS_MAX = 5000 };

static const char *const kind_names[FAULT_KINDS] = {"none", "EIO", "EINTR", "ENOSPC", "short"};
static int put_back_times;

static ls_status save(int64_t step) {
    return fault_save(step, SMALL, 1, 1, 1);
}

/* Calls that go on after a signal; the others may fail. What these cannot write is told. */
static bool is_retried(const char *name) {
    static const char *const names[] = {"write", "pwrite", "fsync", "ftruncate"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* A checkpoint that is replaced is put aside first where rename knows no flags. Where neither the
 * new one nor it can take the name then, it is put back by the next save. */
static void check_put_back(fault_kind kind, const char *name) {
    CHECK(way.plain && (kind == FAULT_EINTR || kind == FAULT_ENOSPC));
    CHECK(name && strcmp(name, "rename") == 0);
    CHECK_INT(fault_temporaries(), 1);
    char back[8400];
    const char *const order[] = {back};
    snprintf(back, sizeof back, "rename %s/step-00000002\nsync %s\n", root, root);
    fault_trail_begin();
    CHECK_OK(save(1));
    check_order(fault_trail_end(), order, 1);
    CHECK_INT(fault_whole_check(), 2);
    put_back_times++;
}

/* Every `stride`-th call fails. Returns how many calls there were. */
static long test_save(fault_kind kind, bool over, long stride) {
    const char *text[FAULT_KINDS] = {
        [FAULT_EIO] = strerror(EIO), [FAULT_ENOSPC] = strerror(ENOSPC)};
    for (long n = 0; n < CALLS_MAX; n += stride) {
        const char *name;
        if (over) { /* the step exists and is replaced */
            CHECK_OK(save(2));
        }
        fault_arm(FAULT_WRITES, kind, n);
        ls_status status = save(2);
        bool reached = fault_disarm(&name);
        int64_t newest = fault_whole_check();
        CHECK(newest == 2 || newest == 1);
        if (newest == 1 && over) {
            CHECK(status != LS_OK);
            check_put_back(kind, name);
        }
        if (status == LS_OK) {
            CHECK_INT(newest, 2);
            CHECK(kind != FAULT_EIO || !reached || !is_retried(name));
        } else {
            CHECK(kind != FAULT_SHORT && kind != FAULT_NONE);
            CHECK(kind != FAULT_EINTR || !is_retried(name));
            CHECK_INT(status, LS_E_IO);
            if (text[kind]) {
                CHECK_MESSAGE(text[kind]);
            }
            CHECK_INT(fault_temporaries(), 0);
            if (test_failures) {
                fprintf(stderr, "%s at call %ld (%s)\n", kind_names[kind], n, name);
            }
        }
        fault_step_remove(2);
        if (!reached) {
            return n;
        }
    }
    CHECK(!"a save ends");
    return 0;
}

static void test_read(fault_kind kind) {
    char path[4200];
    const char *name;
    snprintf(path, sizeof path, "%s/step-00000001", root);
    bool reached = true;
    for (long n = 0; reached && n < CALLS_MAX; n++) {
        ls_ckpt *ckpt = NULL;
        fault_arm(FAULT_READS, kind, n);
        ls_status status = ls_ckpt_open(path, &ckpt);
        if (status == LS_OK) {
            status = fault_values_check(ckpt);
        }
        if (status == LS_OK) {
            status = ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL);
        }
        reached = fault_disarm(&name);
        ls_ckpt_close(ckpt);
        /* HDF5 calls a file that it cannot read damaged. */
        CHECK(status == LS_OK || status == LS_E_IO || status == LS_E_CORRUPT);
        CHECK(kind == FAULT_EIO || kind == FAULT_EINTR || status == LS_OK);
        CHECK(kind != FAULT_EIO || !reached || status != LS_OK || strcmp(name, "read") == 0);
    }
    CHECK(!reached);
    CHECK_INT(fault_whole_check(), 1);
}

/* What a power failure must find on disk is synced before what names it: the files, then the
 * manifest and the directory that has them, and after the checkpoint's name the one that has it,
 * and the one that has that. */
static void test_order_on_disk(void) {
    char named[16000];
    const int parent_length = (int)(strrchr(root, '/') - root);
    snprintf(named, sizeof named, "rename %s/step-00000002\nsync %s\nsync %.*s\n", root, root,
             parent_length, root);
    const char *const order[] = {"/step-00000002/rank-00000.h5\n",
                                 "/step-00000002/index.h5\n",
                                 "/step-00000002/manifest.json.tmp-",
                                 "/step-00000002/manifest.json\nsync ",
                                 "/step-00000002\n",
                                 named};
    fault_trail_begin();
    CHECK_OK(save(2));
    const char *const trail = fault_trail_end();
    check_order(trail, order, sizeof order / sizeof *order);
    fault_step_remove(2);
}

/* With parity: its files and the copies of the manifest are there before the manifest. */
static void test_order_with_parity(void) {
    way = (fault_way){.parity = 2};
    fault_trail_begin();
    CHECK_OK(save(2));
    const char *const trail = fault_trail_end(), *manifest = strstr(trail, "/manifest.json\n");
    const char *const before[] = {"parity-00000-0.rs\n", "parity-00000-1.rs\n",
                                  "/manifest-copy-1.json\n", "/manifest-copy-2.json\n"};
    for (size_t i = 0; i < sizeof before / sizeof *before; i++) {
        const char *at = strstr(trail, before[i]);
        CHECK(at && manifest && at < manifest);
    }
    way = (fault_way){0};
    fault_step_remove(2);
}

/* What was put aside is no checkpoint any more before it is taken apart: no half of it may be put
 * back, should the new one have been removed meanwhile. */
static void test_order_of_removal(void) {
    static const char *const order[] = {"/replaced\n", "/step-00000002\n",
                                        "/replaced/manifest.json\n"};
    CHECK_OK(save(2));
    fault_plain_renames(true);
    fault_trail_begin();
    CHECK_OK(save(2));
    const char *const trail = fault_trail_end();
    fault_plain_renames(false);
    check_order(trail, order, sizeof order / sizeof *order);
    fault_step_remove(2);
}

int main(void) {
    ls_log_set_quiet(true);
    fault_begin();
    CHECK_OK(save(1));
    test_order_on_disk();
    test_order_with_parity();
    test_order_of_removal();
    bool all = getenv("LOCKSTEP_TEST_ALL") != NULL;
    long calls = 0, background_calls = 0;
    for (fault_kind kind = FAULT_EIO; kind < FAULT_KINDS; kind++) {
        way = (fault_way){0};
        calls += test_save(kind, false, 1);
        calls += test_save(kind, true, 1);
        test_read(kind);
        way.plain = true;
        fault_plain_renames(true);
        calls += test_save(kind, false, 1);
        calls += test_save(kind, true, 1);
        fault_plain_renames(false);
        CHECK_INT(put_back_times > 0, kind == FAULT_EINTR || kind == FAULT_ENOSPC);
        put_back_times = 0;
        way = (fault_way){.background = true, .parity = 2};
        background_calls += test_save(kind, false, all ? 1 : 2);
        background_calls += test_save(kind, true, all ? 1 : 5);
    }
    CHECK(calls > 100 && background_calls > calls / 2);
    printf("%ld faults while saving, up to %ld in the background with parity\n", calls,
           background_calls);
    way = (fault_way){0};
    CHECK_OK(save(2));
    CHECK_INT(fault_whole_check(), 2);
    return fault_end();
}
