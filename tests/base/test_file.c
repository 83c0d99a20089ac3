#include "runtime/base/file.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/ls-file-XXXXXX";

static const char *in_root(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, PATH_MAX, "%s/%s", root, name);
    return path;
}

static int entries(const char *path) {
    DIR *dir = opendir(path);
    int count = 0;
    for (struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
        count += e->d_name[0] != '.';
    }
    closedir(dir);
    return count;
}

static void check_content(const char *path, const char *expected) {
    char *data = NULL;
    size_t bytes = 0;
    CHECK_OK(ls_file_read(path, 100, &data, &bytes));
    CHECK_INT(bytes, strlen(expected));
    CHECK_STR(data, expected);
    free(data);
}

static void test_read_and_replace(void) {
    char *data;
    size_t bytes;
    const char *path = in_root("a");
    CHECK_OK(ls_file_replace(path, "first", 5));
    check_content(path, "first");
    CHECK_OK(ls_file_replace(path, "", 0));
    check_content(path, "");
    CHECK_OK(ls_file_replace(path, "second", 6));
    check_content(path, "second");
    CHECK_INT(entries(root), 1); /* no temporary stays */

    CHECK_STATUS(ls_file_read(path, 5, &data, &bytes), LS_E_INPUT);
    CHECK_MESSAGE("has 6 bytes; at most 5 are expected");
    CHECK(data == NULL && bytes == 0);
    CHECK_STATUS(ls_file_read(in_root("missing"), 5, &data, &bytes), LS_E_INPUT);
    CHECK_MESSAGE("/missing' cannot be opened: No such file");
    CHECK_STATUS(ls_file_read(root, 5, &data, &bytes), LS_E_INPUT);
    CHECK_MESSAGE("is a directory; a regular file is expected");
    CHECK_INT(mkfifo(in_root("fifo"), 0600), 0);
    CHECK_STATUS(ls_file_read(in_root("fifo"), 5, &data, &bytes), LS_E_INPUT);
    CHECK_MESSAGE("is a special file");
    unlink(in_root("fifo"));
}

/* A failed write leaves the old content and no temporary. The file size limit stands for a full
 * disk: it fails after some bytes were written, and for root too. */
static void test_replace_failure(void) {
    const char *path = in_root("a");
    static char big[100000];
    struct rlimit before, small = {.rlim_cur = 4096, .rlim_max = RLIM_INFINITY};
    CHECK_OK(ls_file_replace(path, "kept", 4));
    signal(SIGXFSZ, SIG_IGN);
    CHECK_INT(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &small), 0);
    CHECK_STATUS(ls_file_replace(path, big, sizeof big), LS_E_IO);
    CHECK_MESSAGE("cannot be written: File too large (95904 of 100000 bytes were left)");
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0);
    check_content(path, "kept");
    CHECK_INT(entries(root), 1);

    CHECK_STATUS(ls_file_replace(in_root("no/such/dir"), "x", 1), LS_E_IO);
    CHECK_MESSAGE("/no/such/dir.tmp-");
    CHECK_INT(mkdir(in_root("taken"), 0700), 0);
    CHECK_STATUS(ls_file_replace(in_root("taken"), "x", 1), LS_E_IO);
    CHECK_MESSAGE("cannot be renamed to");
    CHECK_INT(entries(root), 2);
    CHECK_OK(ls_dir_remove(in_root("taken")));

    CHECK_INT(chdir(root), 0); /* a path without a directory part */
    CHECK_OK(ls_file_replace("relative", "x", 1));
    check_content("relative", "x");
    unlink("relative");
    CHECK_STATUS(ls_file_sync("relative"), LS_E_IO);
    CHECK_OK(ls_file_sync("."));
}

static void test_directories(void) {
    CHECK_OK(ls_dir_create(in_root("x/y//z/")));
    CHECK(ls_path_is_dir(in_root("x/y/z")));
    CHECK_OK(ls_dir_create(in_root("x/y/z")));
    CHECK_OK(ls_dir_create("/"));
    CHECK_STATUS(ls_dir_create(in_root("a/b")), LS_E_IO);
    CHECK_MESSAGE("/a' cannot be created: a file of that name exists");
    CHECK_STATUS(ls_dir_create(""), LS_E_INPUT);
    CHECK_STATUS(ls_dir_create("/proc/none/such"), LS_E_IO);
    CHECK_MESSAGE("'/proc/none' cannot be created");

    /* Removal does not follow links. */
    CHECK_OK(ls_dir_create(in_root("outside")));
    CHECK_OK(ls_file_replace(in_root("outside/kept"), "x", 1));
    CHECK_OK(ls_file_replace(in_root("x/y/file"), "x", 1));
    CHECK_INT(symlink(in_root("outside"), in_root("x/y/link")), 0);
    CHECK_INT(symlink("nowhere", in_root("x/dangling")), 0);
    CHECK(ls_path_exists(in_root("x/dangling")));
    CHECK_OK(ls_dir_remove(in_root("x")));
    CHECK(!ls_path_exists(in_root("x")));
    CHECK(ls_path_exists(in_root("outside/kept")));
    CHECK_OK(ls_dir_remove(in_root("x")));
    CHECK_STATUS(ls_dir_remove(in_root("a")), LS_E_INPUT);
    CHECK_MESSAGE("is not a directory and is not removed");
    CHECK_INT(symlink(in_root("outside"), in_root("link")), 0);
    CHECK_STATUS(ls_dir_remove(in_root("link")), LS_E_INPUT);
    CHECK(ls_path_exists(in_root("outside/kept")));
}

static void test_paths(void) {
    char path[8], self[PATH_MAX], name[PATH_MAX];
    CHECK_OK(ls_path_join(path, sizeof path, "abc", "def"));
    CHECK_STR(path, "abc/def");
    CHECK_OK(ls_path_join(path, sizeof path, "/", "def"));
    CHECK_STR(path, "/def");
    CHECK_OK(ls_path_join(path, sizeof path, "", "def"));
    CHECK_STR(path, "def");
    CHECK_STATUS(ls_path_join(path, sizeof path, "abcd", "def"), LS_E_INPUT);
    CHECK_MESSAGE("'abcd/def' is longer than 7 characters");
    CHECK_OK(ls_path_self_dir(self, sizeof self));
    CHECK_OK(ls_path_join(name, sizeof name, self, "test_file"));
    CHECK(ls_path_exists(name));
    CHECK_STATUS(ls_path_self_dir(self, 3), LS_E_INPUT);

    int full = open("/dev/full", O_WRONLY);
    if (full >= 0) {
        CHECK_STATUS(ls_file_write_all(full, "x", 1, "/dev/full"), LS_E_IO);
        CHECK_MESSAGE("'/dev/full' cannot be written: No space left on device");
        close(full);
    }
}

static void test_replace_check(void) {
    char path[96];
    snprintf(path, sizeof path, "/tmp/ls-check-%d", (int)getpid());
    CHECK_OK(ls_file_replace_check(path));
    CHECK(!ls_path_exists(path));
    CHECK_STATUS(ls_file_replace_check("/tmp"), LS_E_IO);
    CHECK_MESSAGE("'/tmp' cannot be written: it is a directory");
    CHECK_STATUS(ls_file_replace_check("/proc/none"), LS_E_IO);
    CHECK_MESSAGE("'/proc/none' cannot be written");
}

/* Lines that a start adds stay apart from one that an earlier start could not end. */
static void test_lines(void) {
    char path[96], *text;
    size_t bytes;
    snprintf(path, sizeof path, "/tmp/ls-lines-%d", (int)getpid());
    CHECK_OK(ls_file_append_line(path, "one"));
    CHECK_OK(ls_file_append_line(path, "two"));
    FILE *f = fopen(path, "a");
    CHECK(f && fputs("tor", f) >= 0 && fclose(f) == 0);
    CHECK_OK(ls_file_append_line(path, "three"));
    CHECK_OK(ls_file_read(path, 100, &text, &bytes));
    CHECK_STR(text, "one\ntwo\ntor\nthree\n");
    free(text);
    unlink(path);
    CHECK_STATUS(ls_file_append_line("/proc/none", "x"), LS_E_IO);
}

int main(void) {
    test_lines();
    test_replace_check();
    CHECK(mkdtemp(root) != NULL);
    test_read_and_replace();
    test_replace_failure();
    test_directories();
    test_paths();
    CHECK_INT(chdir("/"), 0);
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
