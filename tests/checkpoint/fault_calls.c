#include "tests/checkpoint/fault_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

enum { SPACE = 1, HALVES = 2, EINTR_TIMES = 3 };

static atomic_int armed_kind, armed_side;
static atomic_long calls, first_call;
static const char *_Atomic reached;

static atomic_bool plain_renames;

void fault_plain_renames(bool plain) {
    atomic_store(&plain_renames, plain);
}

void fault_arm(fault_side side, fault_kind kind, long first) {
    atomic_store(&calls, 0);
    atomic_store(&first_call, first);
    atomic_store(&reached, NULL);
    atomic_store(&armed_side, (int)side);
    atomic_store(&armed_kind, (int)kind);
}

bool fault_disarm(const char **name) {
    atomic_store(&armed_kind, FAULT_NONE);
    *name = atomic_load(&reached);
    return *name != NULL;
}

static pthread_mutex_t trail_lock = PTHREAD_MUTEX_INITIALIZER;
static char trail[1 << 16];
static bool trailing;

void fault_trail_begin(void) {
    trail[0] = '\0';
    trailing = true;
}

const char *fault_trail_end(void) {
    trailing = false;
    return trail;
}

static void note(const char *what, const char *path) {
    pthread_mutex_lock(&trail_lock);
    if (trailing) {
        const size_t used = strlen(trail);
        snprintf(trail + used, sizeof trail - used, "%s %s\n", what, path);
    }
    pthread_mutex_unlock(&trail_lock);
}

static void note_synced(int fd) {
    char link[64], path[4096] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, path, sizeof path - 1) > 0) {
        note("sync", path);
    }
}

/* The errno that this call is to fail with, 0: none; needs: SPACE, HALVES. *half: halve it. */
static int fault_of(fault_side side, const char *name, int needs, bool *half) {
    int kind = atomic_load(&armed_kind);
    *half = false;
    if (kind == FAULT_NONE || atomic_load(&armed_side) != (int)side) {
        return 0;
    }
    long past = atomic_fetch_add(&calls, 1) - atomic_load(&first_call);
    if (past == 0) {
        atomic_store(&reached, name);
    }
    *half = kind == FAULT_SHORT && past >= 0 && (needs & HALVES);
    return past == 0 && kind == FAULT_EIO                           ? EIO
           : past >= 0 && past < EINTR_TIMES && kind == FAULT_EINTR ? EINTR
           : past >= 0 && kind == FAULT_ENOSPC && (needs & SPACE)   ? ENOSPC
                                                                    : 0;
}

#define FAIL_IF_ARMED(side, needs)                                                                 \
    do {                                                                                           \
        bool unused_;                                                                              \
        int error_ = fault_of((side), __func__, (needs), &unused_);                                \
        if (error_) {                                                                              \
            errno = error_;                                                                        \
            return -1;                                                                             \
        }                                                                                          \
    } while (0)

/* Reads and writes of up to `count` bytes at an offset, or without (-1). */
static ssize_t transfer(fault_side side, const char *name, long number, int fd, void *buffer,
                        size_t count, off_t offset) {
    bool half;
    int error = fault_of(side, name, side == FAULT_WRITES ? SPACE | HALVES : HALVES, &half);
    if (error) {
        errno = error;
        return -1;
    }
    count = half && count > 1 ? count / 2 : count;
    return offset < 0 ? syscall(number, fd, buffer, count)
                      : syscall(number, fd, buffer, count, offset);
}

#define EXPORT __attribute__((visibility("default")))

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t count, off_t offset) {
    return transfer(FAULT_WRITES, __func__, SYS_pwrite64, fd, (void *)buffer, count, offset);
}
EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t count, off_t offset) {
    return transfer(FAULT_WRITES, __func__, SYS_pwrite64, fd, (void *)buffer, count, offset);
}
EXPORT ssize_t write(int fd, const void *buffer, size_t count) {
    if (fd <= STDERR_FILENO) { /* messages */
        return syscall(SYS_write, fd, buffer, count);
    }
    return transfer(FAULT_WRITES, __func__, SYS_write, fd, (void *)buffer, count, -1);
}
EXPORT ssize_t pread(int fd, void *buffer, size_t count, off_t offset) {
    return transfer(FAULT_READS, __func__, SYS_pread64, fd, buffer, count, offset);
}
EXPORT ssize_t pread64(int fd, void *buffer, size_t count, off_t offset) {
    return transfer(FAULT_READS, __func__, SYS_pread64, fd, buffer, count, offset);
}
EXPORT ssize_t read(int fd, void *buffer, size_t count) {
    return transfer(FAULT_READS, __func__, SYS_read, fd, buffer, count, -1);
}

EXPORT int fsync(int fd) {
    FAIL_IF_ARMED(FAULT_WRITES, SPACE); /* delayed allocation finds a full disk here */
    note_synced(fd);
    return (int)syscall(SYS_fsync, fd);
}
EXPORT int fdatasync(int fd) {
    FAIL_IF_ARMED(FAULT_WRITES, SPACE);
    return (int)syscall(SYS_fdatasync, fd);
}
EXPORT int ftruncate(int fd, off_t length) {
    FAIL_IF_ARMED(FAULT_WRITES, 0);
    return (int)syscall(SYS_ftruncate, fd, length);
}
EXPORT int ftruncate64(int fd, off_t length) {
    FAIL_IF_ARMED(FAULT_WRITES, 0);
    return (int)syscall(SYS_ftruncate, fd, length);
}
EXPORT int rename(const char *from, const char *to) {
    FAIL_IF_ARMED(FAULT_WRITES, SPACE);
    note("rename", to);
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
EXPORT int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    FAIL_IF_ARMED(FAULT_WRITES, SPACE);
    if (flags && atomic_load(&plain_renames)) {
        errno = EINVAL;
        return -1;
    }
    note("rename", to);
    return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}
EXPORT int unlink(const char *path) {
    note("unlink", path);
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
EXPORT int mkdir(const char *path, mode_t mode) {
    FAIL_IF_ARMED(FAULT_WRITES, SPACE);
    return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

/* open: of the writing side when it makes or changes a file. */
static int open_any(const char *name, const char *path, int flags, mode_t mode) {
    bool writes = (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY, unused;
    int error =
        fault_of(writes ? FAULT_WRITES : FAULT_READS, name, flags & O_CREAT ? SPACE : 0, &unused);
    if (error) {
        errno = error;
        return -1;
    }
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static mode_t mode_of(int flags, va_list args) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
}

EXPORT int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(__func__, path, flags, mode);
}
EXPORT int open64(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = mode_of(flags, args);
    va_end(args);
    return open_any(__func__, path, flags, mode);
}
