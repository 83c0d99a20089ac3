#include "runtime/data/prep_output.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/data/data_manifest.h"
#include "runtime/data/tokenizer.h"

enum { HOLDER_BYTES = 128 };

bool ls_prep_output_name(const char *name) {
    return strcmp(name, LS_DATA_MANIFEST_NAME) == 0 || strcmp(name, LS_TOKENIZER_FILE) == 0 ||
           fnmatch("train-[0-9]*.tok", name, 0) == 0 || fnmatch("val-[0-9]*.tok", name, 0) == 0;
}

/* A link cannot be replaced by the new directory; what it leads to can. */
static ls_status link_follow(char path[PATH_MAX]) {
    struct stat st;
    char real[PATH_MAX];
    if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode)) {
        return LS_OK;
    }
    if (!realpath(path, real)) {
        return LS_FAIL(LS_E_INPUT,
                       "output directory '%s' is a link that leads nowhere: %s; make the directory "
                       "that it names, or remove it",
                       path, strerror(errno));
    }
    memcpy(path, real, PATH_MAX);
    return LS_OK;
}

static ls_status find_paths(ls_prep_output *to, const char *dir) {
    size_t length = strlen(dir);
    while (length > 1 && dir[length - 1] == '/') {
        length--;
    }
    int out = snprintf(to->out, PATH_MAX, "%.*s", (int)length, dir);
    if (out < PATH_MAX) {
        LS_TRY(link_follow(to->out));
    }
    const char *slash = strrchr(to->out, '/');
    const char *base = slash ? slash + 1 : to->out;
    if (length == 0 || strcmp(base, "") == 0 || strcmp(base, ".") == 0 || strcmp(base, "..") == 0) {
        return LS_FAIL(LS_E_USAGE, "output directory '%s' does not end in a name of its own", dir);
    }
    snprintf(to->parent, PATH_MAX, "%.*s", slash ? (int)(slash - to->out) : 1,
             slash ? to->out : ".");
    if (slash == to->out) {
        snprintf(to->parent, PATH_MAX, "/");
    }
    const int before = slash ? (int)(slash + 1 - to->out) : 0;
    int temp =
        snprintf(to->temp, PATH_MAX, "%.*s.%s.tmp-%ld", before, to->out, base, (long)getpid());
    int lock = snprintf(to->lock, PATH_MAX, "%.*s.%s.lock", before, to->out, base);
    if (out >= PATH_MAX || temp >= PATH_MAX || lock >= PATH_MAX) {
        return LS_FAIL(LS_E_INPUT, "output directory '%.64s...' is longer than %d bytes", dir,
                       PATH_MAX - 1);
    }
    return LS_OK;
}

/* Only what prep made may be replaced: data.json and shards, and nothing else. An empty folder is
 * free. */
static ls_status folder_check(const char *path, bool force) {
    DIR *folder = opendir(path);
    if (!folder) {
        return LS_FAIL(LS_E_IO, "cannot read output directory '%s': %s", path, strerror(errno));
    }
    bool manifest = false, empty = true;
    char other[NAME_MAX + 1] = "";
    for (struct dirent *entry; (entry = readdir(folder));) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            continue;
        }
        empty = false;
        if (strcmp(name, LS_DATA_MANIFEST_NAME) == 0) {
            manifest = true;
        } else if (!ls_prep_output_name(name)) {
            snprintf(other, sizeof other, "%s", name);
        }
    }
    closedir(folder);
    if (empty) {
        return LS_OK;
    }
    if (other[0] || !manifest) {
        return LS_FAIL(
            LS_E_EXISTS,
            "'%s' exists and is no data directory of prep (it holds %s%s); choose another "
            "directory",
            path, other[0] ? other : "no ", other[0] ? "" : LS_DATA_MANIFEST_NAME);
    }
    return force
               ? LS_OK
               : LS_FAIL(LS_E_EXISTS,
                         "'%s' exists; choose another directory, or replace it with --force", path);
}

static ls_status check_free(const ls_prep_output *to, bool force) {
    struct stat st;
    if (stat(to->out, &st) != 0) {
        return errno == ENOENT
                   ? LS_OK
                   : LS_FAIL(LS_E_IO, "cannot look at '%s': %s", to->out, strerror(errno));
    }
    if (!S_ISDIR(st.st_mode)) {
        return LS_FAIL(LS_E_EXISTS, "'%s' exists and is no directory; choose another name",
                       to->out);
    }
    return folder_check(to->out, force);
}

static bool same_file(int fd, const char *path) {
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

/* Who holds the lock, or held it last; "" when nobody did. */
static void read_holder(int fd, char who[HOLDER_BYTES]) {
    const ssize_t bytes = pread(fd, who, HOLDER_BYTES - 1, 0);
    who[bytes > 0 ? bytes : 0] = '\0';
}

/* Removes the unfinished directory of the last holder, when that was a process of this host which
 * is gone: killed, or it would have removed it, and the lock, itself. */
static void remove_left(const ls_prep_output *to, int fd, const char *host) {
    char who[HOLDER_BYTES], theirs[HOLDER_BYTES], left[PATH_MAX + 24];
    long pid;
    read_holder(fd, who);
    if (sscanf(who, "process %ld on host %127s", &pid, theirs) != 2 || strcmp(theirs, host) != 0 ||
        pid <= 0 || kill((pid_t)pid, 0) == 0 || errno != ESRCH) {
        return;
    }
    snprintf(left, sizeof left, "%.*s-%ld", (int)(strrchr(to->temp, '-') - to->temp), to->temp,
             pid);
    if (ls_path_is_dir(left) && ls_dir_remove(left) == LS_OK) {
        ls_log_info("removed '%s', which a prep that was killed had left", left);
    }
}

static ls_status fail_busy(const ls_prep_output *to, int fd) {
    char who[HOLDER_BYTES];
    read_holder(fd, who);
    return LS_FAIL(
        LS_E_EXISTS,
        "another prep%s%s%s is writing '%s'; wait for it, or choose another directory. One "
        "process does it all, with the host's processors: start it without mpirun",
        who[0] ? ", " : "", who, who[0] ? "," : "", to->out);
}

/* A lock of the kernel on a file beside the directory, which goes with its process. A file system
 * without such locks (ENOLCK, ENOSYS) has the name decide, when one of two is done. */
static ls_status take_lock(ls_prep_output *to) {
    for (;;) {
        int fd = open(to->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0) {
            return LS_FAIL(LS_E_IO, "cannot create '%s': %s", to->lock, strerror(errno));
        }
        const bool locked = flock(fd, LOCK_EX | LOCK_NB) == 0;
        if (!locked && errno == EWOULDBLOCK) {
            ls_status status = fail_busy(to, fd);
            close(fd);
            return status;
        }
        if (same_file(fd, to->lock)) { /* else its holder removed it in between */
            char host[65] = "?";
            gethostname(host, sizeof host - 1);
            to->lock_fd = fd;
            if (locked) {
                remove_left(to, fd, host);
            }
            return ftruncate(fd, 0) == 0 &&
                           dprintf(fd, "process %ld on host %s", (long)getpid(), host) > 0
                       ? LS_OK
                       : LS_FAIL(LS_E_IO, "cannot write '%s': %s", to->lock, strerror(errno));
        }
        close(fd);
    }
}

ls_status ls_prep_output_init(ls_prep_output *to, const char *dir, bool force) {
    *to = (ls_prep_output){.lock_fd = -1};
    LS_TRY(find_paths(to, dir));
    LS_TRY(check_free(to, force));
    LS_TRY(ls_dir_create(to->parent));
    LS_TRY(take_lock(to));
    if (mkdir(to->temp, 0777) == 0) {
        return LS_OK;
    }
    const int error = errno;
    ls_status status = error == EEXIST
                           ? LS_FAIL(LS_E_EXISTS,
                                     "'%s' exists: it is what a prep that was killed has left; "
                                     "remove it",
                                     to->temp)
                           : LS_FAIL(LS_E_IO, "cannot create '%s': %s", to->temp, strerror(error));
    to->temp[0] = '\0'; /* not ours to remove */
    return status;
}

/* Puts the new directory in place of `out`, whose content is in *old then. Where the file system
 * cannot exchange names, the old one steps aside first, and comes back when the new one cannot take
 * its place. */
static bool exchange(const ls_prep_output *to, char old[PATH_MAX + 8]) {
    snprintf(old, PATH_MAX + 8, "%s", to->temp);
    if (renameat2(AT_FDCWD, to->temp, AT_FDCWD, to->out, RENAME_EXCHANGE) == 0) {
        return true;
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return false;
    }
    snprintf(old, PATH_MAX + 8, "%s.old", to->temp);
    if (rename(to->out, old) != 0) {
        return false;
    }
    if (rename(to->temp, to->out) == 0) {
        return true;
    }
    const int reason = errno;
    if (rename(old, to->out) != 0) {
        ls_log_warn("what was '%s' is '%s' now: %s", to->out, old, strerror(errno));
    }
    errno = reason;
    return false;
}

ls_status ls_prep_output_publish(const ls_prep_output *to, bool force) {
    char old[PATH_MAX + 8] = "";
    LS_TRY(ls_file_sync(to->temp));
    bool named = rename(to->temp, to->out) == 0; /* the name is free, or an empty folder's */
    if (!named && (errno == ENOTEMPTY || errno == EEXIST)) {
        LS_TRY(folder_check(to->out, force));
        named = exchange(to, old);
    }
    if (!named) {
        return LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", to->temp, to->out,
                       strerror(errno));
    }
    LS_TRY(ls_file_sync(to->parent));
    return old[0] ? ls_dir_remove(old) : LS_OK;
}

void ls_prep_output_release(ls_prep_output *to) {
    if (to->lock_fd < 0) {
        return;
    }
    if (to->temp[0]) {
        ls_dir_remove(to->temp);
    }
    unlink(to->lock);
    close(to->lock_fd);
    to->lock_fd = -1;
}
