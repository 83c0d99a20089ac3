#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A name that does not lead to a readable file is the user's mistake, not the machine's. */
static ls_status fail_open(const char *path, int error) {
    bool users = error == ENOENT || error == ENOTDIR || error == EACCES || error == EISDIR ||
                 error == ELOOP || error == ENAMETOOLONG;
    return LS_FAIL(users ? LS_E_INPUT : LS_E_IO, "'%s' cannot be opened: %s", path,
                   strerror(error));
}

static ls_status read_fd(int fd, const char *path, size_t max_bytes, char **data, size_t *bytes) {
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be examined: %s", path, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return LS_FAIL(LS_E_INPUT, "'%s' is %s; a regular file is expected", path,
                       S_ISDIR(info.st_mode) ? "a directory" : "a special file");
    }
    if ((uint64_t)info.st_size > max_bytes) {
        return LS_FAIL(LS_E_INPUT, "'%s' has %lld bytes; at most %zu are expected", path,
                       (long long)info.st_size, max_bytes);
    }
    size_t size = (size_t)info.st_size;
    char *text = malloc(size + 1);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the %zu bytes of '%s'", size, path);
    }
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, text + got, size - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            ls_status status =
                n == 0 ? LS_FAIL(LS_E_IO, "'%s' became shorter while it was read", path)
                       : LS_FAIL(LS_E_IO, "'%s' cannot be read: %s", path, strerror(errno));
            free(text);
            return status;
        }
        got += (size_t)n;
    }
    text[size] = '\0';
    *data = text;
    *bytes = size;
    return LS_OK;
}

ls_status ls_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes) {
    *data = NULL;
    *bytes = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang us */
    if (fd < 0) {
        return fail_open(path, errno);
    }
    ls_status status = read_fd(fd, path, max_bytes, data, bytes);
    close(fd);
    return status;
}

ls_status ls_file_write_all(int fd, const void *data, size_t bytes, const char *path) {
    const char *p = data;
    for (size_t left = bytes; left > 0;) {
        ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return LS_FAIL(LS_E_IO, "'%s' cannot be written: %s (%zu of %zu bytes were left)", path,
                           strerror(n < 0 ? errno : ENOSPC), left, bytes);
        }
        p += n;
        left -= (size_t)n;
    }
    return LS_OK;
}

ls_status ls_file_open_lines(const char *path, int *fd_out) {
    *fd_out = -1;
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    char last = '\n';
    const off_t end = lseek(fd, 0, SEEK_END);
    ls_status status = LS_OK;
    if (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n') {
        status = ls_file_write_all(fd, "\n", 1, path);
    }
    if (status != LS_OK) {
        close(fd);
        return status;
    }
    *fd_out = fd;
    return LS_OK;
}

ls_status ls_file_append_line(const char *path, const char *text) {
    int fd;
    const size_t bytes = strlen(text);
    char *line = malloc(bytes + 1);
    if (!line) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a line of '%s'", path);
    }
    memcpy(line, text, bytes);
    line[bytes] = '\n';
    ls_status status = ls_file_open_lines(path, &fd);
    if (status == LS_OK) {
        status = ls_file_write_all(fd, line, bytes + 1, path);
        close(fd);
    }
    free(line);
    return status;
}

ls_status ls_file_sync_fd(int fd, const char *path) {
    int failed;
    do {
        failed = fsync(fd);
    } while (failed && errno == EINTR);
    /* EINVAL: a file system that has nothing to sync for this kind of file. */
    if (failed && errno != EINVAL) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be synced to disk: %s", path, strerror(errno));
    }
    return LS_OK;
}

ls_status ls_file_sync(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be opened to sync it: %s", path, strerror(errno));
    }
    ls_status status = ls_file_sync_fd(fd, path);
    close(fd);
    return status;
}

ls_status ls_file_sync_parent(const char *path) {
    char parent[PATH_MAX];
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    if (snprintf(parent, sizeof parent, "%.*s", (int)length, path) >= (int)sizeof parent) {
        return LS_FAIL(LS_E_INPUT, "path is longer than %d characters: '%.60s...'", PATH_MAX, path);
    }
    char *slash = strrchr(parent, '/');
    if (slash) {
        slash[slash == parent] = '\0';
    }
    return ls_file_sync(slash ? parent : ".");
}

/* Writes and syncs a new file. */
static ls_status write_file(const char *path, const void *data, size_t bytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be created: %s", path, strerror(errno));
    }
    ls_status status = ls_file_write_all(fd, data, bytes, path);
    if (status == LS_OK) {
        status = ls_file_sync_fd(fd, path);
    }
    if (close(fd) != 0 && status == LS_OK) {
        status = LS_FAIL(LS_E_IO, "'%s' cannot be closed: %s", path, strerror(errno));
    }
    return status;
}

static ls_status name_temporary(const char *path, char temporary[PATH_MAX]) {
    int n = snprintf(temporary, PATH_MAX, "%s.tmp-%ld", path, (long)getpid());
    return n >= 0 && n < PATH_MAX
               ? LS_OK
               : LS_FAIL(LS_E_INPUT, "path is longer than %d characters: '%.60s...'", PATH_MAX,
                         path);
}

ls_status ls_file_replace_check(const char *path) {
    char temporary[PATH_MAX];
    LS_TRY(name_temporary(path, temporary));
    if (ls_path_is_dir(path)) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be written: it is a directory", path);
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be written: %s", path, strerror(errno));
    }
    close(fd);
    unlink(temporary);
    return LS_OK;
}

ls_status ls_file_replace(const char *path, const void *data, size_t bytes) {
    char temporary[PATH_MAX];
    LS_TRY(name_temporary(path, temporary));
    ls_status status = write_file(temporary, data, bytes);
    if (status == LS_OK && rename(temporary, path) != 0) {
        status = LS_FAIL(LS_E_IO, "'%s' cannot be renamed to '%s': %s", temporary, path,
                         strerror(errno));
    }
    if (status != LS_OK) {
        unlink(temporary);
        return status;
    }
    return ls_file_sync_parent(path);
}

/* mkdir that accepts a directory that is there. */
static ls_status make_dir(const char *path) {
    if (mkdir(path, 0777) == 0) {
        return LS_OK;
    }
    int error = errno;
    if (error == EEXIST && ls_path_is_dir(path)) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_IO, "directory '%s' cannot be created: %s", path,
                   error == EEXIST ? "a file of that name exists" : strerror(error));
}

ls_status ls_dir_create(const char *path) {
    char part[PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof part) {
        return LS_FAIL(LS_E_INPUT, "a directory's path must have 1 to %d characters, not %zu",
                       PATH_MAX - 1, length);
    }
    memcpy(part, path, length + 1);
    for (char *p = part + 1; *p; p++) {
        if (*p == '/' && p[-1] != '/') {
            *p = '\0';
            /* A parent that exists may be one that we may not write to. */
            if (!ls_path_is_dir(part)) {
                LS_TRY(make_dir(part));
            }
            *p = '/';
        }
    }
    return make_dir(part);
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *ftw) {
    (void)info, (void)kind, (void)ftw;
    if (remove(path) != 0 && errno != ENOENT) {
        LS_FAIL(LS_E_IO, "'%s' cannot be removed: %s", path, strerror(errno));
        return 1;
    }
    return 0;
}

ls_status ls_dir_remove(const char *path) {
    struct stat info;
    if (lstat(path, &info) != 0) {
        return errno == ENOENT
                   ? LS_OK
                   : LS_FAIL(LS_E_IO, "'%s' cannot be examined: %s", path, strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        return LS_FAIL(LS_E_INPUT, "'%s' is not a directory and is not removed", path);
    }
    int result = nftw(path, remove_entry, 32, FTW_DEPTH | FTW_PHYS);
    if (result < 0 && errno != ENOENT) { /* others may be removing it too */
        return LS_FAIL(LS_E_IO, "'%s' cannot be walked: %s", path, strerror(errno));
    }
    return result <= 0 ? LS_OK : ls_error_last()->code;
}

bool ls_path_exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

bool ls_path_is_dir(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

ls_status ls_path_join(char *out, size_t size, const char *a, const char *b) {
    size_t a_len = strlen(a);
    const char *slash = a_len == 0 || a[a_len - 1] == '/' ? "" : "/";
    int n = snprintf(out, size, "%s%s%s", a, slash, b);
    if (n < 0 || (size_t)n >= size) {
        return LS_FAIL(LS_E_INPUT, "path '%s%s%s' is longer than %zu characters", a, slash, b,
                       size - 1);
    }
    return LS_OK;
}

ls_status ls_path_self_dir(char *out, size_t size) {
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) {
        return LS_FAIL(LS_E_IO, "the executable's own path is unknown: /proc/self/exe: %s",
                       strerror(errno));
    }
    path[n] = '\0';
    char *slash = strrchr(path, '/');
    slash[slash == path] = '\0';
    return ls_path_join(out, size, path, "");
}
