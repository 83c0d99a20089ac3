/* prep: where its output goes, and what of it is there after a failure. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/data/data_fixture.h"

/* The C library's, but for a file system that cannot exchange names, and one call that fails. */
static bool no_exchange;
static int renames_until_failure = -1; /* -1: none fails */

/* What is synced and renamed, in order, by the last part of its path. */
static char trail[4096];

static void note(const char *what, const char *path) {
    const char *slash = strrchr(path, '/');
    const size_t used = strlen(trail);
    snprintf(trail + used, sizeof trail - used, "%s %s\n", what, slash ? slash + 1 : path);
}

int fsync(int fd) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    CHECK(readlink(link, path, sizeof path - 1) > 0);
    note("sync", path);
    return (int)syscall(SYS_fsync, fd);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    if (no_exchange && flags) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int rename(const char *from, const char *to) {
    if (renames_until_failure >= 0 && renames_until_failure-- == 0) {
        errno = EIO;
        return -1;
    }
    note("rename", to);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static ls_prep_result result;

static ls_status prep_options(const ls_prep_options *options) {
    return fixture_prep(options, &result);
}

static ls_status prep_to(const char *out, bool force) {
    const char *input = fixture_path("tree");
    ls_prep_options options = prep_defaults(&input, 1, out);
    options.force = force;
    return prep_options(&options);
}

static void test_output(void) {
    const char *out = fixture_path("existing");
    CHECK_OK(ls_dir_create(out)); /* empty: free */
    CHECK_OK(prep_to(out, false));
    CHECK_STATUS(prep_to(out, false), LS_E_EXISTS);
    CHECK_MESSAGE("existing' exists");
    CHECK_MESSAGE("--force");
    write_text(fixture_path("existing/val-00007.tok"), "left over");
    CHECK_OK(prep_to(out, true));
    CHECK(!ls_path_exists(fixture_path("existing/val-00007.tok")));
    write_text(fixture_path("existing/thesis.txt"), "precious");
    CHECK_STATUS(prep_to(out, true), LS_E_EXISTS);
    CHECK_MESSAGE("it holds thesis.txt");
    CHECK(ls_path_exists(fixture_path("existing/thesis.txt")));
    CHECK_INT(unlink(fixture_path("existing/thesis.txt")), 0);
    CHECK_INT(unlink(fixture_path("existing/data.json")), 0);
    CHECK_STATUS(prep_to(out, true), LS_E_EXISTS);
    CHECK_MESSAGE("it holds no data.json");
    CHECK_STATUS(prep_to(fixture_path("tree/z.c"), true), LS_E_EXISTS);
    CHECK_MESSAGE("is no directory");
    CHECK_STATUS(prep_to(fixture_path("tree/z.c/out"), true), LS_E_IO);
    CHECK_STATUS(prep_to("", false), LS_E_USAGE);
    CHECK_STATUS(prep_to("/", false), LS_E_USAGE);
    CHECK_STATUS(prep_to("..", false), LS_E_USAGE);
    /* A folder that is prepared into itself does not eat its own output. */
    CHECK_OK(prep_to(fixture_path("tree/data"), false));
    int64_t bytes = result.bytes;
    CHECK_OK(prep_to(fixture_path("tree/data"), true));
    CHECK_INT(result.bytes, bytes);
    CHECK_OK(ls_dir_remove(fixture_path("tree/data")));
}

/* One prep at a time works for a name; a lock that nobody holds is in nobody's way. */
static void test_output_lock(void) {
    const char *out = fixture_path("locked"), *lock = fixture_path(".locked.lock");
    write_text(lock, "process 12 on host gone");
    CHECK_OK(prep_to(out, false));
    CHECK(!ls_path_exists(lock));
    write_text(lock, "process 12 on host there");
    int fd = open(lock, O_RDONLY);
    CHECK_INT(flock(fd, LOCK_EX), 0);
    CHECK_STATUS(prep_to(out, true), LS_E_EXISTS);
    CHECK_MESSAGE("another prep, process 12 on host there, is writing '");
    CHECK_MESSAGE("locked'; wait for it, or choose another directory");
    CHECK(ls_path_exists(lock));
    close(fd);
    CHECK_OK(prep_to(out, true));
    CHECK(!ls_path_exists(lock));
}

/* What a power failure must find is synced before it gets its name, and the name after it. */
static void test_output_order(void) {
    const char *const order[] = {"sync train-00000.tok\n",     "sync val-00000.tok\n",
                                 "sync data.json.tmp-",        "rename data.json\n",
                                 "sync .ordered.tmp-",         "rename ordered\n",
                                 strrchr(fixture_dir, '/') + 1};
    const char *input = fixture_path("tree");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("ordered"));
    options.val_fraction = 0.5;
    trail[0] = '\0';
    CHECK_OK(prep_options(&options));
    check_order(trail, order, sizeof order / sizeof *order);
}

/* What the last holder of the lock left goes when it was a process of this host that is gone. */
static void test_output_killed(void) {
    char left[64], part[96], holder[160], host[65] = "";
    const pid_t gone = fork();
    if (gone == 0) {
        _exit(0);
    }
    CHECK_INT(waitpid(gone, NULL, 0), gone);
    CHECK_INT(gethostname(host, sizeof host - 1), 0);
    snprintf(left, sizeof left, "kill/.killed.tmp-%ld", (long)gone);
    snprintf(part, sizeof part, "%s/train-00000.tok", left);
    for (int own = 0; own < 2; own++) {
        snprintf(holder, sizeof holder, "process %ld on host %s", (long)gone, own ? host : "other");
        CHECK_OK(ls_dir_create(fixture_path(left)));
        write_text(fixture_path(part), "half of it");
        write_text(fixture_path("kill/.killed.lock"), holder);
        CHECK_OK(prep_to(fixture_path("kill/killed"), own));
        CHECK(ls_path_exists(fixture_path(left)) == !own);
    }
}

/* In a container process numbers come again: what a killed one left is told, and stays. */
static void test_output_left(void) {
    char left[64];
    snprintf(left, sizeof left, ".again.tmp-%ld", (long)getpid());
    CHECK_OK(ls_dir_create(fixture_path(left)));
    const char *input = fixture_path("tree");
    const ls_prep_options options = prep_defaults(&input, 1, fixture_path("again"));
    CHECK_STATUS(ls_prep_run(&options, &result), LS_E_EXISTS);
    CHECK_MESSAGE("a prep that was killed has left");
    CHECK_INT(rmdir(fixture_path(left)), 0);
    CHECK_OK(prep_to(fixture_path("again"), false));
}

/* A link to a directory is followed, and stays. */
static void test_output_link(void) {
    CHECK_OK(ls_dir_create(fixture_path("disk/real")));
    CHECK_INT(symlink("disk/real", fixture_path("link")), 0);
    CHECK_OK(prep_to(fixture_path("link"), false));
    CHECK(ls_path_exists(fixture_path("disk/real/data.json")));
    CHECK_STATUS(prep_to(fixture_path("link"), false), LS_E_EXISTS);
    write_text(fixture_path("disk/real/val-00007.tok"), "left over");
    CHECK_OK(prep_to(fixture_path("link/"), true));
    CHECK(!ls_path_exists(fixture_path("disk/real/val-00007.tok")));
    struct stat st;
    CHECK(lstat(fixture_path("link"), &st) == 0 && S_ISLNK(st.st_mode));
    CHECK_OK(ls_dir_remove(fixture_path("disk")));
    CHECK_STATUS(prep_to(fixture_path("link"), true), LS_E_INPUT);
    CHECK_MESSAGE("link that leads nowhere");
    CHECK_INT(unlink(fixture_path("link")), 0);
}

/* Where names cannot be exchanged, what was there comes back when the new data cannot take its
 * place. */
static void test_output_by_turns(void) {
    const char *out = fixture_path("turns");
    no_exchange = true;
    CHECK_OK(prep_to(out, false));
    write_text(fixture_path("turns/val-00007.tok"), "left over");
    for (int failing = 2; failing >= 1; failing--) {
        /* The first finds the name taken; data.json takes one before. */
        renames_until_failure = 1 + failing;
        CHECK_STATUS(prep_to(out, true), LS_E_IO);
        CHECK_MESSAGE("Input/output error");
        CHECK(ls_path_exists(fixture_path("turns/data.json")));
        CHECK(ls_path_exists(fixture_path("turns/val-00007.tok")));
        renames_until_failure = -1;
    }
    CHECK_OK(prep_to(out, true));
    CHECK(!ls_path_exists(fixture_path("turns/val-00007.tok")));
    no_exchange = false;
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    CHECK_OK(ls_dir_create(fixture_path("tree")));
    write_text(fixture_path("tree/z.c"), "zed");
    write_text(fixture_path("tree/a.c"), "ay");
    test_output();
    test_output_lock();
    test_output_order();
    test_output_killed();
    test_output_left();
    test_output_link();
    test_output_by_turns();
    return fixture_end();
}
