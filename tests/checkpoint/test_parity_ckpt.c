/* A checkpoint with two parity files: every pair of its files is lost or damaged, it loads all the
 * same, and is repaired to the same bytes. */
#include "checkpoint/parity.h"
#include "checkpoint/repair.h"
#include "checkpoint/rewrite.h"
#include "checkpoint/save_internal.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"
#include "tests/checkpoint/ckpt_damage.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <isa-l/erasure_code.h>

enum { TENSORS = 10, WRITERS = 5, MOST = 32 };

static char root[256], path[1100];
static char names[MOST][256];
static ls_sha256 hashes[MOST];
static int files;

static bool codes_wrongly; /* a bit of the first file that is made */

void ec_encode_data(int bytes, int sources, int targets, unsigned char *tables, unsigned char **in,
                    unsigned char **out) {
    static void (*real)(int, int, int, unsigned char *, unsigned char **, unsigned char **);
    if (!real) {
        *(void **)&real = dlsym(RTLD_NEXT, "ec_encode_data");
    }
    real(bytes, sources, targets, tables, in, out);
    out[0][0] ^= codes_wrongly;
}

static ls_status fill(void *context, ls_ckpt_tensor *tensors, int count) {
    (void)context;
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < TENSORS; k++) {
            if (strcmp(tensors[i].name, cases[k].name) == 0) {
                case_fill(k, &tensors[i].box, tensors[i].data);
            }
        }
    }
    return LS_OK;
}

static void make(int64_t step, int writers, int parity) {
    json_t *run = json_object(), *counters = case_counters();
    ls_ckpt_tensor tensors[TENSORS];
    ls_ckpt_save_result result = {0};
    for (int i = 0; i < TENSORS; i++) {
        tensors[i] =
            (ls_ckpt_tensor){.name = cases[i].name, .dtype = cases[i].dtype, .ndim = cases[i].ndim};
        memcpy(tensors[i].dims, cases[i].dims, sizeof tensors[i].dims);
        tensors[i].box = ls_box_whole(tensors[i].ndim, tensors[i].dims);
    }
    const ls_ckpt_save_options options = {.root = root,
                                          .step = step,
                                          .level = 1,
                                          .threads = 1,
                                          .parity = parity,
                                          .config_text = "run: {}\n",
                                          .run = run,
                                          .counters = counters};
    CHECK_OK(ls_ckpt_rewrite(&options, tensors, TENSORS, writers, fill, NULL, &result));
    snprintf(path, sizeof path, "%s", result.path);
    json_decref(run);
    json_decref(counters);
}

static const char *place(const char *name) {
    static char text[1400];
    snprintf(text, sizeof text, "%s/%.255s", path, name);
    return text;
}

static void files_note(void) {
    DIR *directory = opendir(path);
    struct dirent *item;
    files = 0;
    while (directory && (item = readdir(directory)) && files < MOST) {
        if (item->d_name[0] != '.') {
            snprintf(names[files], sizeof names[files], "%s", item->d_name);
            CHECK_OK(ls_sha256_file(place(item->d_name), &hashes[files++], NULL));
        }
    }
    closedir(directory);
}

static void flip(const char *name) {
    int fd = open(place(name), O_RDWR | O_CLOEXEC);
    off_t at = lseek(fd, 0, SEEK_END) / 2;
    uint8_t byte = 0;
    CHECK(pread(fd, &byte, 1, at) == 1);
    byte ^= 0x10;
    CHECK(pwrite(fd, &byte, 1, at) == 1);
    close(fd);
}

static void check_values(void) {
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    for (int i = 0; i < TENSORS && ckpt; i++) {
        CHECK_OK(case_check(ckpt, i, NULL));
    }
    ls_ckpt_close(ckpt);
}

static void check_repair(int expected) {
    ls_ckpt *ckpt = NULL;
    int repaired = 0;
    CHECK_OK(ls_ckpt_repair(path, NULL, NULL, &repaired));
    CHECK_INT(repaired, expected);
    for (int i = 0; i < files; i++) {
        ls_sha256 hash;
        CHECK_OK(ls_sha256_file(place(names[i]), &hash, NULL));
        CHECK(memcmp(&hash, &hashes[i], sizeof hash) == 0);
    }
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL));
    ls_ckpt_close(ckpt);
}

static void test_pairs(void) {
    make(1, WRITERS, 2);
    files_note();
    CHECK_INT(files, WRITERS + 2 + 1 + 3); /* parity, index, manifests */
    check_repair(0);
    CHECK(unlink(place("manifest.json")) == 0);
    ls_ckpt *ckpt;
    CHECK_OK(ls_ckpt_open_latest(path, &ckpt)); /* by a copy */
    ls_ckpt_close(ckpt);
    check_repair(1);
    for (int a = 0; a < files; a++) {
        for (int b = a + 1; b < files; b++) {
            CHECK(unlink(place(names[a])) == 0);
            if ((a + b) % 3 == 0) {
                CHECK(truncate(place(names[b]), 100) == 0);
            } else if ((a + b) % 3 == 1) {
                flip(names[b]);
            } else {
                CHECK(unlink(place(names[b])) == 0);
            }
            check_values();
            check_repair(2);
        }
    }
}

/* What is made again is looked at before it is believed, and a repair that has failed or was
 * interrupted is in nobody's way. */
static void test_made_wrong(void) {
    char lost[] = "rank-00001.h5", half[] = ".repair-rank-00001.h5";
    ls_ckpt *ckpt = NULL;
    int repaired, failed = 0;
    CHECK(unlink(place(lost)) == 0);
    codes_wrongly = true;
    CHECK_STATUS(ls_ckpt_repair(path, NULL, NULL, &repaired), LS_E_CORRUPT);
    CHECK_MESSAGE("cannot be made again");
    CHECK(!ls_path_exists(place(lost)) && !ls_path_exists(place(half)));
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    for (int i = 0; i < TENSORS; i++) {
        ls_ckpt_tensor t = case_tensor(i, NULL);
        failed += ls_ckpt_load(ckpt, &t, 1) == LS_E_CORRUPT;
        free(t.data);
    }
    CHECK(failed > 0);
    ls_ckpt_close(ckpt);
    codes_wrongly = false;
    CHECK_OK(ls_file_replace(place(half), "half", 4));
    check_repair(1);
    CHECK(!ls_path_exists(place(half)));
}

/* An index that comes out otherwise than it was, as it may from another HDF5, is not put back. */
static void test_other_index(void) {
    json_t *manifest = damage_manifest(path), *file = NULL;
    size_t i;
    int repaired;
    json_array_foreach(json_object_get(manifest, "files"), i, file) {
        if (strcmp(json_string_value(json_object_get(file, "name")), LS_CKPT_INDEX) == 0) {
            break;
        }
    }
    json_t *hash = json_incref(json_object_get(file, "sha256"));
    CHECK(json_object_set_new(file, "sha256", json_sprintf("%064d", 0)) == 0);
    damage_manifest_write(path, manifest);
    CHECK(unlink(place(LS_CKPT_INDEX)) == 0);
    CHECK_STATUS(ls_ckpt_repair(path, NULL, NULL, &repaired), LS_E_CORRUPT);
    CHECK_MESSAGE("'index.h5' made again has another SHA-256");
    CHECK(!ls_path_exists(place(LS_CKPT_INDEX)) && !ls_path_exists(place(".repair-index.h5")));
    CHECK(json_object_set_new(file, "sha256", hash) == 0);
    damage_manifest_write(path, manifest);
    json_decref(manifest);
    check_repair(3); /* with the manifest's copies, which had followed it */
}

static int faults;

static void count_fault(void *context, const char *fault) {
    faults += strstr(fault, context) != NULL;
}

/* verify names what is damaged although it could be read; three lost files are too many. */
static void test_limits(void) {
    ls_ckpt *ckpt = NULL;
    int repaired;
    char first[] = "rank-00001.h5";
    flip(first);
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    CHECK_INT(ls_ckpt_describe(ckpt).writers, WRITERS);
    CHECK_STATUS(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_FULL, count_fault, first), LS_E_CORRUPT);
    CHECK_MESSAGE("--repair");
    CHECK(faults > 0);
    CHECK(ls_ckpt_is_loadable(ckpt)); /* the files behind it are what they were */
    ls_ckpt_close(ckpt);
    CHECK(unlink(place("rank-00002.h5")) == 0);
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    CHECK_STATUS(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_QUICK, NULL, NULL), LS_E_CORRUPT);
    flip("parity-00000-1.rs");
    int failed = 0;
    for (int i = 0; i < TENSORS; i++) {
        ls_ckpt_tensor t = case_tensor(i, NULL);
        failed += ls_ckpt_load(ckpt, &t, 1) == LS_E_CORRUPT;
        free(t.data);
    }
    CHECK(failed > 0);
    CHECK_MESSAGE("3 of 7 files");
    ls_ckpt_close(ckpt);
    CHECK_STATUS(ls_ckpt_repair(path, NULL, NULL, &repaired), LS_E_CORRUPT);
    CHECK(unlink(place("rank-00000.h5")) == 0);
    CHECK(unlink(place("rank-00003.h5")) == 0);
    CHECK_STATUS(ls_ckpt_open(path, &ckpt), LS_E_CORRUPT);
}

/* More writers than a group takes. */
static void test_groups(void) {
    make(2, 19, 1);
    files_note();
    ls_ckpt *ckpt = NULL;
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    CHECK_INT(ckpt->group_count, 2);
    CHECK_INT(ls_ckpt_describe(ckpt).writers, ckpt->groups[0].data + ckpt->groups[1].data);
    char lost[2][64];
    for (int g = 0; g < 2; g++) {
        snprintf(lost[g], sizeof lost[g], "%s", ckpt->groups[g].names[g]);
    }
    ls_ckpt_close(ckpt);
    CHECK(unlink(place(lost[0])) == 0);
    CHECK(unlink(place(lost[1])) == 0);
    check_values();
    check_repair(2);
}

/* In a save of many ranks, whoever wrote a group's first file makes its parity, and nobody else. */
static void test_makers(void) {
    enum { RANKS = 20, IDLE_RANK = 3 };
    static const char text[RANKS] = "some bytes";
    ls_save_said reports[RANKS] = {0};
    ls_comm comm = {.size = RANKS};
    ls_ckpt_saver s = {.comm = &comm, .reports = reports, .options.parity = 1};
    char name[4300];
    snprintf(s.place.directory, sizeof s.place.directory, "%s/makers", root);
    CHECK_OK(ls_dir_create(s.place.directory));
    for (int r = 0; r < RANKS; r++) {
        if (r != IDLE_RANK) {
            reports[r].data_bytes = r + 1;
            snprintf(reports[r].data_file, sizeof reports[r].data_file, "rank-%05d.h5", r);
            CHECK_OK(ls_path_join(name, sizeof name, s.place.directory, reports[r].data_file));
            CHECK_OK(ls_file_replace(name, text, (size_t)r + 1));
        }
    }
    for (comm.rank = 0; comm.rank < RANKS; comm.rank++) {
        s.record = json_object();
        ls_save_job_parity(&s);
        CHECK_STATUS((ls_status)s.mine.status, LS_OK);
        const json_t *made = json_object_get(s.record, "parity");
        CHECK_INT(json_array_size(made), comm.rank == 0 || comm.rank == 10); /* files 0 and 9 */
        const json_t *data = json_object_get(json_array_get(made, 0), "data");
        CHECK_INT(json_array_size(data), comm.rank == 0 ? 9 : comm.rank == 10 ? 10 : 0);
        json_decref(s.record);
    }
    free(s.text);
}

/* Without parity, nothing is tolerated and nothing is added. */
static void test_none(void) {
    make(3, 2, 0);
    files_note();
    CHECK_INT(files, 2 + 1 + 1);
    check_repair(0);
    CHECK(unlink(place("index.h5")) == 0);
    ls_ckpt *ckpt = NULL;
    CHECK_STATUS(ls_ckpt_open(path, &ckpt), LS_E_CORRUPT);
}

int main(void) {
    ls_log_set_quiet(true);
    snprintf(root, sizeof root, "%s", case_directory());
    test_pairs();
    test_made_wrong();
    test_other_index();
    test_limits();
    test_groups();
    test_makers();
    test_none();
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
