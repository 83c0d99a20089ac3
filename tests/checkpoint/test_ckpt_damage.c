/* Every damaged byte is found by a full verification; a load gives right values or an error, and an
 * error whenever what it reads is damaged. */
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "tests/checkpoint/ckpt_cases.h"
#include "tests/checkpoint/ckpt_damage.h"

#include <sys/stat.h>

/* Of every file; ten thousand when LOCKSTEP_TEST_ALL is set. */
enum { SMALL = 5, FLIPS = 200, FLIPS_ALL = 10000, FLIPS_HIDDEN = 300, CUTS = 60 };

static const char *const files[] = {"rank-00000.h5", "manifest.json", "index.h5"};
static char root[4096], first[1024], second[1024];
static uint64_t draws;

static uint64_t draw(uint64_t below) {
    ls_rng_block b = ls_rng_draw(17, 0, draws++);
    return ((uint64_t)b.v[0] << 32 | b.v[1]) % below;
}

/* HDF5 1.10 loses small objects when the metadata it reads is damaged; LeakSanitizer reads this. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libhdf5\n";
}

static void save(ls_comm *comm, int64_t step, int level, int from, char *path) {
    ls_ckpt_tensor tensors[CASE_TENSORS];
    ls_ckpt_save_result result = {0};
    cases_make(tensors, CASE_TENSORS, 0, 1);
    CHECK_OK(case_save(comm, root, step, level, 1, tensors + from, SMALL, &result));
    cases_free(tensors, CASE_TENSORS);
    memcpy(path, result.path, sizeof first);
}

static char faults[4096]; /* of the last verification */

static void add_fault(void *context, const char *text) {
    (void)context;
    size_t n = strlen(faults);
    snprintf(faults + n, sizeof faults - n, "%s\n", text);
}

static ls_status verify_depth(const char *path, ls_ckpt_depth depth) {
    ls_ckpt *ckpt;
    faults[0] = '\0';
    ls_status status = ls_ckpt_open(path, &ckpt);
    if (status != LS_OK) {
        add_fault(NULL, ls_error_last()->message);
        return status;
    }
    status = ls_ckpt_verify(ckpt, depth, add_fault, NULL);
    ls_ckpt_close(ckpt);
    return status;
}

static ls_status verify(const char *path) {
    return verify_depth(path, LS_CKPT_VERIFY_FULL);
}

static ls_status verify_deep(const char *path) {
    return verify_depth(path, LS_CKPT_VERIFY_DEEP);
}

/* Does byte `at` of the first data file lie in a chunk? */
static bool is_in_chunk(const ls_ckpt *ckpt, off_t at) {
    int count;
    const ls_ckpt_entry *entries = ls_ckpt_entries(ckpt, &count);
    for (int i = 0; i < count; i++) {
        const ls_ckpt_piece *piece = &entries[i].pieces[0];
        for (int64_t k = 0; k < piece->chunks; k++) {
            if (at >= piece->places[k].at && at < piece->places[k].at + piece->places[k].bytes) {
                return true;
            }
        }
    }
    return false;
}

/* Loads all tensors; values that are wrong without an error fail the test. */
static ls_status load(const char *path) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(path, &ckpt));
    ls_status status = LS_OK;
    for (int i = 0; i < SMALL; i++) {
        ls_status one = case_check(ckpt, i, NULL);
        status = one != LS_OK ? one : status;
    }
    ls_ckpt_close(ckpt);
    return status;
}

static void flip(const char *path, off_t byte, int bit) {
    int fd = open(path, O_RDWR);
    uint8_t value = 0;
    CHECK(fd >= 0 && pread(fd, &value, 1, byte) == 1);
    value ^= (uint8_t)(1 << bit);
    CHECK(pwrite(fd, &value, 1, byte) == 1);
    close(fd);
}

/* One bit of a file. Returns whether a load gave the right values all the same. */
static bool test_flip(const ls_ckpt *ckpt, const char *name, size_t bytes) {
    const char *path = damage_path(first, name);
    off_t byte = (off_t)draw(bytes);
    int bit = (int)draw(8);
    bool data = strcmp(name, files[0]) == 0, in_chunk = data && is_in_chunk(ckpt, byte);
    flip(path, byte, bit);
    ls_status found = verify(first);
    CHECK(found == LS_E_CORRUPT || found == LS_E_VERSION);
    CHECK(strstr(faults, name));
    CHECK(!in_chunk || strstr(faults, "'/tensors/"));
    ls_status loaded = load(first);
    if (!in_chunk) {
        CHECK(strcmp(name, LS_CKPT_MANIFEST) == 0 ? loaded != LS_OK : loaded == LS_OK);
    }
    flip(path, byte, bit);
    return in_chunk && loaded == LS_OK;
}

static void test_flips(void) {
    int flips = getenv("LOCKSTEP_TEST_ALL") ? FLIPS_ALL : FLIPS, harmless = 0;
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(first, &ckpt));
    for (int f = 0; f < 3; f++) {
        size_t bytes;
        free(damage_read(first, files[f], &bytes));
        for (int i = 0; i < flips; i++) {
            harmless += test_flip(ckpt, files[f], bytes);
        }
    }
    ls_ckpt_close(ckpt);
    CHECK(harmless <= flips / 50); /* a frame has a bit or two that zstd ignores */
    CHECK_OK(verify(first));
}

/* The same with hashes that fit the damage, as a forger would write them: the checksums inside and
 * the hashes of the values still keep values right. */
static void test_flips_hidden(void) {
    size_t bytes, manifest_bytes, unseen = 0;
    char *manifest = damage_read(first, LS_CKPT_MANIFEST, &manifest_bytes);
    json_t *forged = damage_manifest(first);
    free(damage_read(first, files[0], &bytes));
    for (int i = 0; i < FLIPS_HIDDEN; i++) {
        off_t byte = (off_t)draw(bytes);
        int bit = (int)draw(8);
        flip(damage_path(first, files[0]), byte, bit);
        damage_rehash(first, forged);
        unseen += verify_deep(first) == LS_OK; /* unused space, or what a reader does not need */
        load(first);
        flip(damage_path(first, files[0]), byte, bit);
    }
    damage_write(first, LS_CKPT_MANIFEST, manifest, manifest_bytes);
    free(manifest);
    json_decref(forged);
    CHECK(unseen < FLIPS_HIDDEN / 2);
    CHECK_OK(verify(first));
    CHECK_OK(load(first));
}

static void test_truncation(void) {
    for (int f = 0; f < 3; f++) {
        size_t bytes;
        char *data = damage_read(first, files[f], &bytes);
        for (int i = 0; i < CUTS; i++) {
            size_t cut = i < 3 ? (size_t)i : i == 3 ? bytes - 1 : (size_t)draw(bytes);
            CHECK(truncate(damage_path(first, files[f]), (off_t)cut) == 0);
            ls_ckpt *ckpt;
            CHECK_STATUS(ls_ckpt_open(first, &ckpt), LS_E_CORRUPT);
            CHECK_MESSAGE(files[f]);
            damage_write(first, files[f], data, bytes);
        }
        CHECK(truncate(damage_path(first, files[f]), (off_t)bytes + 1) == 0);
        CHECK_STATUS(verify(first), LS_E_CORRUPT);
        damage_write(first, files[f], data, bytes);
        free(data);
    }
    CHECK_OK(verify(first));
}

/* A truncated data file behind a manifest that agrees. */
static void test_truncation_hidden(void) {
    size_t bytes, manifest_bytes;
    char *data = damage_read(first, files[0], &bytes);
    char *manifest = damage_read(first, LS_CKPT_MANIFEST, &manifest_bytes);
    for (int i = 0; i < CUTS; i++) {
        CHECK(truncate(damage_path(first, files[0]), (off_t)draw(bytes)) == 0);
        json_t *forged = damage_manifest(first);
        damage_rehash(first, forged);
        json_decref(forged);
        CHECK_STATUS(verify(first), LS_E_CORRUPT);
        load(first);
        damage_write(first, files[0], data, bytes);
        damage_write(first, LS_CKPT_MANIFEST, manifest, manifest_bytes);
    }
    free(data);
    free(manifest);
    CHECK_OK(verify(first));
}

static void test_missing(void) {
    for (int f = 0; f < 3; f++) {
        size_t bytes;
        char *data = damage_read(first, files[f], &bytes);
        CHECK(unlink(damage_path(first, files[f])) == 0);
        CHECK_STATUS(verify(first), LS_E_CORRUPT);
        CHECK_MESSAGE(files[f]);
        damage_write(first, files[f], data, bytes);
        free(data);
    }
}

static void swap_files(const char *name) {
    size_t a_bytes, b_bytes;
    char *a = damage_read(first, name, &a_bytes), *b = damage_read(second, name, &b_bytes);
    damage_write(first, name, b, b_bytes);
    damage_write(second, name, a, a_bytes);
    free(a);
    free(b);
}

/* Files of another checkpoint with the same tensors: same names, other content. */
static void test_swapped(void) {
    for (int f = 0; f < 2; f++) {
        swap_files(files[f]);
        CHECK_STATUS(verify(first), LS_E_CORRUPT);
        CHECK_STATUS(verify(second), LS_E_CORRUPT);
        CHECK(load(first) != LS_OK);
        swap_files(files[f]);
    }
    CHECK_OK(verify(first));
    CHECK_OK(verify(second));
}

static void count_fault(void *count, const char *fault) {
    CHECK(strlen(fault) > 0);
    ++*(int *)count;
}

/* Faults are reported one by one; the newest checkpoint that is whole is the latest. */
static void test_latest(void) {
    char *path = NULL;
    ls_ckpt *ckpt;
    int count = 0;
    CHECK_OK(ls_ckpt_open(second, &ckpt));
    flip(damage_path(second, files[0]), 3000, 1);
    flip(damage_path(second, files[2]), 100, 1);
    CHECK_STATUS(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_FULL, count_fault, &count), LS_E_CORRUPT);
    CHECK_INT(count, 2);
    count = 0;
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_QUICK, count_fault, &count));
    CHECK(truncate(damage_path(second, files[0]), 77) == 0);
    CHECK_STATUS(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_QUICK, count_fault, &count), LS_E_CORRUPT);
    CHECK_INT(count, 1);
    ls_ckpt_close(ckpt);

    CHECK_OK(ls_ckpt_latest(root, &path));
    CHECK_STR(path, first);
    free(path);
    CHECK_STATUS(ls_ckpt_latest(second, &path), LS_E_CORRUPT);
    CHECK(unlink(damage_path(first, files[0])) == 0);
    CHECK_STATUS(ls_ckpt_latest(root, &path), LS_E_CORRUPT);
    CHECK_MESSAGE("no valid checkpoint (2 directories");
    CHECK(path == NULL);
    ls_ckpt *none;
    CHECK_STATUS(ls_ckpt_open_below(root, 10, &none), LS_E_INPUT); /* there never was one */
    if (geteuid() == 0) {                                          /* root lists every directory */
        CHECK(chmod(root, 0) == 0 && seteuid(65534) == 0);
        CHECK_STATUS(ls_ckpt_latest(root, &path), LS_E_IO);
        CHECK_MESSAGE("Permission denied");
        CHECK(seteuid(0) == 0 && chmod(root, 0700) == 0);
    }
}

int main(void) {
    ls_comm *comm;
    CHECK_OK(ls_comm_self(&comm));
    ls_log_set_quiet(true);
    snprintf(root, sizeof root, "%s", case_directory());
    for (int level = 1; level >= 0; level--) {
        save(comm, 10, level, 0, first);
        save(comm, 20, level, 1, second);
        test_truncation();
        test_truncation_hidden();
        test_missing();
        test_swapped();
        test_flips();
        test_flips_hidden();
    }
    test_latest();
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
