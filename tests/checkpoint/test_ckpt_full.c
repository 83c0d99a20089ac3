/* A full disk, a file size limit, a place that cannot be written: every rank is told why, the
 * temporary is gone, the checkpoint before is whole. */
#include "checkpoint/commit.h"
#include "checkpoint/prune.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

static ls_comm *comm;
static char base[4096];
static ls_ckpt_tensor tensors[CASE_TENSORS];

static ls_status save(const char *root, int64_t step, int count) {
    return case_save(comm, root, step, 1, 1, tensors, count, NULL);
}

/* Nothing but whole checkpoints: the newest is `step`. */
static void check_kept(const char *root, int64_t step) {
    char *path = NULL, name[32];
    ls_ckpt *ckpt = NULL;
    comm->ops->barrier(comm);
    snprintf(name, sizeof name, "step-%08lld", (long long)step);
    CHECK_OK(ls_ckpt_latest(root, &path));
    CHECK(path && strstr(path, name));
    CHECK_OK(ls_ckpt_open(path, &ckpt));
    CHECK_OK(ls_ckpt_verify(ckpt, LS_CKPT_VERIFY_DEEP, NULL, NULL));
    ls_ckpt_close(ckpt);
    free(path);
    DIR *directory = opendir(root);
    struct dirent *item;
    while (directory && (item = readdir(directory))) {
        CHECK(strncmp(item->d_name, ".tmp-", 5) != 0);
    }
    closedir(directory);
    comm->ops->barrier(comm);
}

/* The limit stands for a disk that fills up, wherever the test runs: only the last rank has it. */
static void test_size_limit(void) {
    char root[4200];
    struct rlimit old, low;
    snprintf(root, sizeof root, "%s/limit", base);
    CHECK_OK(save(root, 1, 5));
    signal(SIGXFSZ, SIG_IGN);
    CHECK(getrlimit(RLIMIT_FSIZE, &old) == 0);
    const rlim_t limits[] = {0, 1, 700, 5000, 100000, 1000000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        low = old;
        low.rlim_cur = limits[i];
        if (comm->rank == comm->size - 1) {
            CHECK(setrlimit(RLIMIT_FSIZE, &low) == 0);
        }
        ls_status status = save(root, 2, CASE_TENSORS);
        CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
        CHECK_INT(status, LS_E_IO);
        CHECK_MESSAGE("File too large");
        char name[64];
        snprintf(name, sizeof name, "rank-%05d.h5", comm->size - 1);
        if (comm->size == 1 && limits[i] < 700) { /* what says whose the temporary is */
            snprintf(name, sizeof name, "owner.json");
        }
        CHECK_MESSAGE(name);
        snprintf(name, sizeof name, "rank %d: ", comm->size - 1);
        CHECK_INT(strncmp(ls_error_last()->message, name, strlen(name)) == 0, comm->size > 1);
        check_kept(root, 1);
    }
    low.rlim_cur = limits[3]; /* of all ranks: nobody in particular is named */
    CHECK(setrlimit(RLIMIT_FSIZE, &low) == 0);
    CHECK_STATUS(save(root, 2, CASE_TENSORS), LS_E_IO);
    CHECK(setrlimit(RLIMIT_FSIZE, &old) == 0);
    CHECK(strncmp(ls_error_last()->message, "rank ", 5) != 0);
    check_kept(root, 1);
    CHECK_OK(save(root, 2, CASE_TENSORS));
    check_kept(root, 2);
}

/* The root is a file, or lies in one. */
static void test_no_directory(void) {
    char root[4200], inner[4300];
    snprintf(root, sizeof root, "%s/file", base);
    snprintf(inner, sizeof inner, "%s/checkpoints", root);
    if (comm->rank == 0) {
        CHECK_OK(ls_file_replace(root, "x", 1));
    }
    comm->ops->barrier(comm);
    CHECK(save(root, 1, 5) != LS_OK);
    CHECK_MESSAGE(root);
    CHECK(save(inner, 1, 5) != LS_OK);
    CHECK_MESSAGE(root);
    /* The name of the step is taken by a file. */
    snprintf(root, sizeof root, "%s/taken", base);
    CHECK_OK(save(root, 1, 5));
    snprintf(inner, sizeof inner, "%s/step-00000002", root);
    if (comm->rank == 0) {
        CHECK_OK(ls_file_replace(inner, "x", 1));
    }
    comm->ops->barrier(comm);
    CHECK_STATUS(save(root, 2, 5), LS_E_IO);
    CHECK_MESSAGE("step-00000002");
    check_kept(root, 1);
    CHECK(ls_path_exists(inner));
}

static void test_read_only(void) {
    char root[4200];
    if (geteuid() == 0) {
        if (comm->rank == 0) {
            printf("skipped: root may write everywhere, no test of a read-only directory\n");
        }
        return;
    }
    snprintf(root, sizeof root, "%s/readonly", base);
    CHECK_OK(save(root, 1, 5));
    if (comm->rank == 0) {
        CHECK(chmod(root, 0555) == 0);
    }
    comm->ops->barrier(comm);
    CHECK_STATUS(save(root, 2, 5), LS_E_IO);
    CHECK_MESSAGE("Permission denied");
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        CHECK(chmod(root, 0755) == 0);
    }
    check_kept(root, 1);
}

/* A file system that becomes read-only under a save: its temporary cannot be removed then, and is
 * with the next save. */
static void test_left_behind(void) {
    char root[4200];
    ls_ckpt_place first, second;
    const uint64_t random[] = {1, 2}, others[] = {3, 4};
    snprintf(root, sizeof root, "%s/left", base);
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_create(root));
        CHECK_OK(ls_ckpt_place_name(&first, root, 1, random));
        CHECK_OK(ls_ckpt_place_name(&second, root, 2, others));
        if (mount(root, root, NULL, MS_BIND, NULL) != 0) {
            printf("skipped: no directory can be made read-only: %s\n", strerror(errno));
            return;
        }
        CHECK_OK(ls_ckpt_place_create(&first, true));
        CHECK(mount(NULL, root, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) == 0);
        ls_ckpt_place_remove(&first);
        CHECK(ls_path_exists(first.temporary));
        CHECK(ls_ckpt_place_create(&second, true) != LS_OK);
        CHECK(ls_path_exists(first.temporary));
        CHECK(umount(root) == 0);
        CHECK_OK(ls_ckpt_place_create(&second, true));
        CHECK(!ls_path_exists(first.temporary));
        CHECK(ls_path_exists(second.directory));
        ls_ckpt_place_remove(&second);
        CHECK(!ls_path_exists(second.temporary));
    }
}

/* Old checkpoints can be removed where not a byte is left, to have room again. */
static void check_prune(const char *root) {
    static const char zeros[1 << 16];
    char path[4300];
    int64_t *steps;
    size_t count;
    snprintf(path, sizeof path, "%s/zeros", root);
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    while (write(fd, zeros, sizeof zeros) > 0) {
    }
    CHECK_INT(errno, ENOSPC);
    close(fd);
    CHECK_OK(ls_ckpt_prune(root, &(ls_ckpt_keep){.last = 1}));
    CHECK_OK(ls_ckpt_list(root, &steps, &count));
    CHECK_INT(count, 1);
    free(steps);
}

/* A real full file system, at many sizes: the fault hits every kind of write. */
static void test_full_disk(void) {
    char root[4200];
    int mounted = 0;
    snprintf(root, sizeof root, "%s/tmpfs", base);
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_create(root));
        mounted = mount("lockstep-test", root, "tmpfs", 0, "size=64m") == 0;
        if (!mounted) {
            printf("skipped: no tmpfs of a given size can be mounted: %s\n", strerror(errno));
        }
    }
    CHECK_OK(comm->ops->broadcast(comm, &mounted, sizeof mounted, 0));
    if (!mounted) {
        return;
    }
    CHECK_OK(save(root, 1, 4));
    int failed = 0, saved = 0;
    for (int kib = 300; kib < 24000; kib += kib < 500 ? 4 : kib / 2) {
        char option[64];
        snprintf(option, sizeof option, "size=%dk", kib);
        comm->ops->barrier(comm);
        if (comm->rank == 0) {
            CHECK(mount(NULL, root, NULL, MS_REMOUNT, option) == 0);
        }
        comm->ops->barrier(comm);
        int64_t step = 2 + saved;
        ls_status status = save(root, step, kib < 500 ? 5 : CASE_TENSORS);
        if (status == LS_OK) {
            saved++;
            check_kept(root, step);
            continue;
        }
        failed++;
        CHECK_INT(status, LS_E_IO);
        CHECK_MESSAGE("No space left on device");
        check_kept(root, step - 1);
    }
    CHECK(failed > 3 && saved > 0);
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        check_prune(root);
        CHECK(umount(root) == 0);
    }
}

int main(int argc, char **argv) {
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &comm));
    ls_error_set_rank(comm->rank);
    ls_log_set_quiet(true);
    if (comm->rank == 0) {
        snprintf(base, sizeof base, "%s", case_directory());
    }
    CHECK_OK(comm->ops->broadcast(comm, base, sizeof base, 0));
    cases_make(tensors, CASE_TENSORS, comm->rank, comm->size);
    test_size_limit();
    test_no_directory();
    test_read_only();
    test_left_behind();
    test_full_disk();
    cases_free(tensors, CASE_TENSORS);
    comm->ops->barrier(comm);
    if (comm->rank == 0) {
        CHECK_OK(ls_dir_remove(base));
    }
    ls_comm_mpi_finalize();
    return test_end();
}
