#include "checkpoint/owner.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SCHEMA    "lockstep.owner/1"
#define MAX_BYTES 65536

static void copy_text(char *out, size_t size, const char *text) {
    snprintf(out, size, "%s", text ? text : "");
    out[strcspn(out, "\n")] = '\0';
}

ls_status ls_owner_self(ls_owner *owner) {
    *owner = (ls_owner){.pid = getpid(), .since_s = ls_clock_wall_s()};
    if (gethostname(owner->host, sizeof owner->host - 1) != 0) {
        return LS_FAIL(LS_E_IO, "this host's name is unknown: %s", strerror(errno));
    }
    LS_TRY(ls_process_boot(owner->boot, sizeof owner->boot));
    ssize_t n = readlink("/proc/self/ns/pid", owner->space, sizeof owner->space - 1);
    if (n < 0) {
        return LS_FAIL(LS_E_IO, "cannot read the link /proc/self/ns/pid: %s", strerror(errno));
    }
    LS_TRY(ls_process_start(owner->pid, &owner->start_ticks));
    const char *restart = getenv("SLURM_RESTART_COUNT");
    copy_text(owner->cluster, sizeof owner->cluster, getenv("SLURM_CLUSTER_NAME"));
    ls_process_slurm_job(owner->job, sizeof owner->job);
    copy_text(owner->step, sizeof owner->step, getenv("SLURM_STEP_ID"));
    owner->restart = restart ? strtoll(restart, NULL, 10) : 0;
    return LS_OK;
}

/* What squeue prints about a job's steps (or the job), with its complaints. False: it did not run,
 * or failed for another reason than that it knows no such job. */
static bool squeue(const char *job, bool steps, char *out, size_t size) {
    char jobs[64];
    int ends[2];
    if (strspn(job, "0123456789_") != strlen(job) || pipe2(ends, O_CLOEXEC) != 0) {
        return false;
    }
    snprintf(jobs, sizeof jobs, "--jobs=%s", job);
    char *const argv[] = {"squeue", "--noheader", jobs, "--format=%i", steps ? "--steps" : NULL,
                          NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDERR_FILENO);
    pid_t child;
    int error = posix_spawnp(&child, "squeue", &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    size_t used = 0;
    ssize_t n = error == 0 ? 1 : 0;
    while (n > 0 && used < size - 1) {
        n = read(ends[0], out + used, size - 1 - used);
        used += n > 0 ? (size_t)n : 0;
        n = n < 0 && errno == EINTR ? 1 : n;
    }
    out[used] = '\0';
    close(ends[0]);
    int exit_status = 0;
    while (error == 0 && waitpid(child, &exit_status, 0) < 0 && errno == EINTR) {
    }
    if (error != 0 || used == size - 1) {
        return false;
    }
    bool unknown_job = strstr(out, "Invalid job id") != NULL;
    out[unknown_job ? 0 : used] = '\0';
    return unknown_job || (WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0);
}

static bool has_line(const char *text, const char *line) {
    size_t length = strlen(line);
    for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n') {
        p += strspn(p, " ");
        if (strncmp(p, line, length) == 0 && strchr(" \n", p[length])) {
            return true;
        }
    }
    return false;
}

static ls_owner_state look_in_slurm(const ls_owner *owner, const ls_owner *self) {
    char out[MAX_BYTES], name[80];
    if (!owner->job[0] || strcmp(owner->cluster, self->cluster) != 0) {
        return LS_OWNER_UNKNOWN;
    }
    if (strcmp(owner->job, self->job) == 0 &&
        (self->restart > owner->restart ||
         (owner->step[0] && strcmp(owner->step, self->step) == 0))) {
        return LS_OWNER_GONE; /* an earlier start of this job, or of this step */
    }
    if (!squeue(owner->job, owner->step[0] != '\0', out, sizeof out) ||
        strchr(out, '+')) { /* parts of heterogeneous jobs have names of their own */
        return LS_OWNER_UNKNOWN;
    }
    snprintf(name, sizeof name, owner->step[0] ? "%s.%s" : "%s", owner->job, owner->step);
    return has_line(out, name) ? LS_OWNER_ALIVE : LS_OWNER_GONE;
}

ls_owner_state ls_owner_look(const ls_owner *owner) {
    ls_owner self;
    int64_t start_ticks;
    if (ls_owner_self(&self) != LS_OK) {
        return LS_OWNER_UNKNOWN;
    }
    if (strcmp(owner->boot, self.boot) != 0 || strcmp(owner->space, self.space) != 0) {
        return look_in_slurm(owner, &self);
    }
    if (owner->pid == self.pid && owner->start_ticks == self.start_ticks) {
        return LS_OWNER_SELF;
    }
    ls_status status = ls_process_start(owner->pid, &start_ticks);
    if (status != LS_OK && status != LS_E_NO) {
        return LS_OWNER_UNKNOWN;
    }
    return status == LS_OK && start_ticks == owner->start_ticks ? LS_OWNER_ALIVE : LS_OWNER_GONE;
}

char *ls_owner_text(const ls_owner *owner, char *buf, size_t size) {
    char since[32] = "?", job[80] = "";
    const bool sane = fabs(owner->since_s) < 1e15; /* fits what C counts seconds in */
    const time_t seconds = sane ? (time_t)owner->since_s : 0;
    struct tm utc;
    if (sane && gmtime_r(&seconds, &utc)) {
        strftime(since, sizeof since, "%Y-%m-%d %H:%M:%S", &utc);
    }
    if (owner->job[0]) {
        snprintf(job, sizeof job, " (Slurm job %s)", owner->job);
    }
    snprintf(buf, size, "process %lld on host %s%s, since %s UTC", (long long)owner->pid,
             owner->host, job, since);
    return buf;
}

ls_status ls_owner_write(const ls_owner *o, const char *path) {
    json_t *object =
        json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:f}", "schema", SCHEMA, "host",
                  o->host, "boot", o->boot, "space", o->space, "cluster", o->cluster, "job", o->job,
                  "step", o->step, "restart", (json_int_t)o->restart, "pid", (json_int_t)o->pid,
                  "start_ticks", (json_int_t)o->start_ticks, "since", o->since_s);
    char *text = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
    json_decref(object);
    if (!text) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the text of '%s'", path);
    }
    ls_status status = LS_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = LS_FAIL(errno == EEXIST ? LS_E_EXISTS : LS_E_IO, "cannot create '%s': %s", path,
                         strerror(errno));
    } else {
        status = ls_file_write_all(fd, text, strlen(text), path);
        if (status == LS_OK) {
            status = ls_file_sync_fd(fd, path);
        }
        close(fd);
        if (status != LS_OK) {
            unlink(path);
        }
    }
    free(text);
    return status;
}

ls_status ls_owner_parse(const char *text, size_t bytes, const char *where, ls_owner *owner) {
    json_t *object = json_loadb(text, bytes, 0, NULL);
    const char *schema = "", *host, *boot, *space, *cluster, *job, *step;
    json_int_t restart, pid, start_ticks;
    bool good =
        object && json_unpack(object, "{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:F}", "schema",
                              &schema, "host", &host, "boot", &boot, "space", &space, "cluster",
                              &cluster, "job", &job, "step", &step, "restart", &restart, "pid",
                              &pid, "start_ticks", &start_ticks, "since", &owner->since_s) == 0;
    if (good && strcmp(schema, SCHEMA) == 0) {
        copy_text(owner->host, sizeof owner->host, host);
        copy_text(owner->boot, sizeof owner->boot, boot);
        copy_text(owner->space, sizeof owner->space, space);
        copy_text(owner->cluster, sizeof owner->cluster, cluster);
        copy_text(owner->job, sizeof owner->job, job);
        copy_text(owner->step, sizeof owner->step, step);
        owner->restart = restart;
        owner->pid = pid;
        owner->start_ticks = start_ticks;
    } else {
        good = false;
    }
    json_decref(object);
    return good ? LS_OK : LS_FAIL(LS_E_CORRUPT, "'%s' does not say whose it is", where);
}

ls_status ls_owner_read(const char *path, ls_owner *owner) {
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read(path, MAX_BYTES, &text, &bytes));
    ls_status status = ls_owner_parse(text, bytes, path, owner);
    free(text);
    return status;
}

/* ---- locks ---- */

/* Is the file at path still the one that fd has open? */
static bool same_file(int fd, const char *path) {
    struct stat mine, there;
    return fstat(fd, &mine) == 0 && stat(path, &there) == 0 && mine.st_dev == there.st_dev &&
           mine.st_ino == there.st_ino;
}

/* Puts `fresh` in place of a lock that was found stale. Two that come at once take turns by a lock
 * of the kernel on the old file, so that the second sees that it is not there any more; *again. */
static ls_status replace_stale(const char *path, const char *fresh, bool *again) {
    ls_owner holder;
    *again = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        *again = errno == ENOENT;
        return *again ? LS_OK : LS_FAIL(LS_E_IO, "cannot open '%s': %s", path, strerror(errno));
    }
    ls_status status = LS_OK;
    /* Where the file system has no such locks (ENOLCK, ENOSYS), two must come at the same instant
     * to do harm. */
    (void)flock(fd, LOCK_EX);
    if (!same_file(fd, path) || ls_owner_read(path, &holder) != LS_OK ||
        ls_owner_look(&holder) != LS_OWNER_GONE) {
        *again = true;
    } else if (rename(fresh, path) != 0) {
        status = LS_FAIL(LS_E_IO, "cannot replace '%s': %s", path, strerror(errno));
    }
    close(fd);
    return status;
}

/* One attempt with our owner file `fresh`; *again: the lock changed meanwhile. */
static ls_status take(const ls_owner *self, const char *path, const char *fresh, bool *again) {
    *again = false;
    int error = link(fresh, path) == 0 ? 0 : errno; /* unlike a new file, it has its text at once */
    ls_status status = error == EPERM || error == EOPNOTSUPP ? ls_owner_write(self, path)
                       : error == EEXIST                     ? LS_E_EXISTS
                       : error == 0
                           ? LS_OK
                           : LS_FAIL(LS_E_IO, "cannot create '%s': %s", path, strerror(error));
    if (status != LS_E_EXISTS) {
        unlink(fresh);
        return status;
    }
    ls_owner holder;
    char who[320];
    if (ls_owner_read(path, &holder) != LS_OK) {
        *again = !ls_path_exists(path);
        return *again ? LS_OK
                      : LS_FAIL(LS_E_EXISTS,
                                "%s; if no job works in its directory, remove the file and start "
                                "again",
                                ls_error_last()->message);
    }
    ls_owner_text(&holder, who, sizeof who);
    switch (ls_owner_look(&holder)) {
    case LS_OWNER_SELF:
    case LS_OWNER_ALIVE:
        return LS_FAIL(LS_E_EXISTS,
                       "'%s': %s works in this directory; wait for it, stop it, or choose another "
                       "run.name",
                       path, who);
    case LS_OWNER_UNKNOWN:
        return LS_FAIL(LS_E_EXISTS,
                       "'%s': %s works in this directory, or has died without a word: this host "
                       "cannot tell. If it is gone, remove the file and start again",
                       path, who);
    case LS_OWNER_GONE:
        ls_log_info("%s is gone and its lock is taken over", who);
        return replace_stale(path, fresh, again);
    }
    return LS_OK;
}

ls_status ls_lock_take(ls_lock *lock, const char *directory) {
    char path[sizeof lock->path], fresh[sizeof lock->path + 64];
    lock->path[0] = '\0';
    LS_TRY(ls_owner_self(&lock->self));
    LS_TRY(ls_path_join(path, sizeof path, directory, "lock.json"));
    snprintf(fresh, sizeof fresh, "%s.%s-%lld", path, lock->self.boot, (long long)lock->self.pid);
    unlink(fresh); /* of a process with this number that died at this very place */
    LS_TRY(ls_owner_write(&lock->self, fresh));
    ls_status status = LS_OK;
    bool again = true;
    for (int attempt = 0; attempt < 100 && again && status == LS_OK; attempt++) {
        status = take(&lock->self, path, fresh, &again);
    }
    if (status != LS_OK || again) {
        unlink(fresh);
        return status != LS_OK ? status
                               : LS_FAIL(LS_E_EXISTS, "'%s' changes hands all the time", path);
    }
    memcpy(lock->path, path, sizeof path);
    return LS_OK;
}

void ls_lock_release(ls_lock *lock) {
    ls_owner holder;
    if (lock->path[0] && ls_owner_read(lock->path, &holder) == LS_OK &&
        holder.pid == lock->self.pid && holder.start_ticks == lock->self.start_ticks &&
        strcmp(holder.boot, lock->self.boot) == 0 && strcmp(holder.space, lock->self.space) == 0 &&
        unlink(lock->path) != 0) {
        ls_log_warn("cannot remove the lock '%s': %s", lock->path, strerror(errno));
    }
    lock->path[0] = '\0';
}
