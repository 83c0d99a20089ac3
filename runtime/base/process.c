#include "runtime/base/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

ls_status ls_process_start(int64_t pid, int64_t *start_ticks) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "re");
    if (!f) {
        const int error = errno;
        const bool gone = error == ENOENT && kill((pid_t)pid, 0) != 0 && errno == ESRCH;
        return LS_FAIL(gone ? LS_E_NO : LS_E_IO, "cannot open '%s': %s", path, strerror(error));
    }
    size_t bytes = fread(text, 1, sizeof text - 1, f);
    bool read_failed = ferror(f);
    int error = errno;
    fclose(f);
    if (read_failed) { /* it ended in between */
        return LS_FAIL(error == ESRCH ? LS_E_NO : LS_E_IO, "cannot read '%s': %s", path,
                       strerror(error));
    }
    text[bytes] = '\0';
    const char *p = strrchr(text, ')'); /* the command's name may hold spaces */
    char state;
    long long ticks;
    /* After it: state and 18 numbers, then starttime. */
    if (!p || sscanf(p + 1,
                     " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                     "%*d %lld",
                     &state, &ticks) != 2) {
        return LS_FAIL(LS_E_IO, "'%s' has an unknown form", path);
    }
    *start_ticks = ticks;
    return state == 'Z' || state == 'X' ? LS_FAIL(LS_E_NO, "process %lld has ended", (long long)pid)
                                        : LS_OK;
}

static bool is_number(const char *text) {
    return text && text[0] && strspn(text, "0123456789") == strlen(text);
}

char *ls_process_slurm_job(char *job, size_t size) {
    const char *id = getenv("SLURM_JOB_ID"), *array = getenv("SLURM_ARRAY_JOB_ID"),
               *task = getenv("SLURM_ARRAY_TASK_ID");
    if (is_number(id) && is_number(array) && is_number(task)) {
        snprintf(job, size, "%s_%s", array, task);
    } else {
        snprintf(job, size, "%s", is_number(id) ? id : "");
    }
    return job;
}

ls_status ls_process_boot(char *boot, size_t size) {
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    FILE *f = fopen(path, "re"); /* whose size reads as 0 */
    const bool found = f && fgets(boot, (int)size, f);
    if (f) {
        fclose(f);
    }
    boot[found ? strcspn(boot, "\n") : 0] = '\0';
    return boot[0] ? LS_OK : LS_FAIL(LS_E_IO, "'%s' cannot be read: is /proc mounted?", path);
}

ls_status ls_process_open_files(int64_t least, int64_t wanted) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) {
        return LS_FAIL(LS_E_IO, "the limit of open files cannot be read: %s", strerror(errno));
    }
    const rlim_t most = files.rlim_max < (rlim_t)wanted ? files.rlim_max : (rlim_t)wanted;
    if (files.rlim_cur < most) {
        files.rlim_cur = most;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
            return LS_FAIL(LS_E_IO, "the limit of open files cannot be raised to %llu: %s",
                           (unsigned long long)most, strerror(errno));
        }
    }
    if (files.rlim_cur < (rlim_t)least) {
        return LS_FAIL(LS_E_CONFIG,
                       "%llu files may be open at once, and no more by the hard limit; at least "
                       "%lld are needed: ulimit -n 1024 before the job starts, or LimitNOFILE= of "
                       "the service that starts it",
                       (unsigned long long)files.rlim_cur, (long long)least);
    }
    return LS_OK;
}

int ls_process_thread(pthread_t *thread, void *(*run)(void *), void *context) {
    sigset_t all, before;
    sigfillset(&all); /* threads inherit what is blocked */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, run, context);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
