/* Owners that live, have died or cannot be told; locks that are held, stale, or wanted by many. */
#include "checkpoint/owner.h"
#include "checkpoint/prune.h"
#include "runtime/base/log.h"
#include "tests/checkpoint/ckpt_cases.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char root[256];
static bool no_links; /* as on file systems that have none */

int link(const char *from, const char *to) {
    if (no_links) {
        errno = EPERM;
        return -1;
    }
    return linkat(AT_FDCWD, from, AT_FDCWD, to, 0);
}

/* A child that works in the background until it is killed; *owner says who it is. */
static pid_t child_start(ls_owner *owner) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        ls_owner self;
        bool good = ls_owner_self(&self) == LS_OK &&
                    write(ends[1], &self, sizeof self) == (ssize_t)sizeof self;
        while (good) {
            pause();
        }
        _exit(1);
    }
    close(ends[1]);
    CHECK(read(ends[0], owner, sizeof *owner) == (ssize_t)sizeof *owner);
    close(ends[0]);
    return child;
}

static void test_process(void) {
    ls_owner self, other, back;
    char path[320], text[320];
    CHECK_OK(ls_owner_self(&self));
    CHECK_INT(strspn(self.boot, "0123456789abcdef-"), 36); /* or all hosts would be this one */
    CHECK_INT(ls_owner_look(&self), LS_OWNER_SELF);
    self.start_ticks--; /* an earlier process that had this one's number */
    CHECK_INT(ls_owner_look(&self), LS_OWNER_GONE);
    self.start_ticks++;
    snprintf(path, sizeof path, "%s/owner.json", root);
    CHECK_OK(ls_owner_write(&self, path));
    CHECK_STATUS(ls_owner_write(&self, path), LS_E_EXISTS);
    CHECK_OK(ls_owner_read(path, &back));
    CHECK_INT(ls_owner_look(&back), LS_OWNER_SELF);
    CHECK_STR(back.host, self.host);
    char *told = NULL;
    size_t bytes;
    CHECK_OK(ls_file_read(path, 4096, &told, &bytes));
    CHECK(strstr(told, "owner/1") != NULL);
    strstr(told, "owner/1")[6] = '2'; /* written by a later release */
    CHECK_OK(ls_file_replace(path, told, bytes));
    CHECK_STATUS(ls_owner_read(path, &back), LS_E_CORRUPT);
    free(told);
    CHECK(unlink(path) == 0);
    CHECK_STATUS(ls_owner_read(path, &back), LS_E_INPUT);
    back.since_s = 1e300; /* no year has a name for it */
    CHECK(strstr(ls_owner_text(&back, text, sizeof text), ", since ? UTC") != NULL);
    CHECK_OK(ls_file_replace(path, "{\"schema\": 7}", 13));
    CHECK_STATUS(ls_owner_read(path, &back), LS_E_CORRUPT);
    CHECK_MESSAGE(path);
    CHECK(unlink(path) == 0);
    snprintf(self.space, sizeof self.space, "pid:[1]"); /* whose numbers are other processes here */
    CHECK_INT(ls_owner_look(&self), LS_OWNER_UNKNOWN);

    pid_t child = child_start(&other);
    CHECK_INT(ls_owner_look(&other), LS_OWNER_ALIVE);
    snprintf(path, sizeof path, "process %d on host %s", (int)child, self.host);
    CHECK(strstr(ls_owner_text(&other, text, sizeof text), path) != NULL);
    other.start_ticks--; /* the number belongs to a later process */
    CHECK_INT(ls_owner_look(&other), LS_OWNER_GONE);
    other.start_ticks++;
    CHECK(kill(child, SIGKILL) == 0);
    siginfo_t ended;
    CHECK(waitid(P_PID, (id_t)child, &ended, WEXITED | WNOWAIT) == 0);
    CHECK_INT(ls_owner_look(&other), LS_OWNER_GONE); /* a zombie works no more */
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK_INT(ls_owner_look(&other), LS_OWNER_GONE);
}

/* A squeue of ours: prints `text`, ends with `status`, and notes its arguments. */
static void squeue_make(const char *text, int status) {
    char path[320], script[1024];
    int n = snprintf(script, sizeof script,
                     "#!/bin/sh\necho \"$*\" >'%s/arguments'\ncat <<'END'\n%s\nEND\nexit %d\n",
                     root, text, status);
    snprintf(path, sizeof path, "%s/squeue", root);
    CHECK_OK(ls_file_replace(path, script, (size_t)n));
    CHECK(chmod(path, 0755) == 0);
}

static bool asked(const char *what) {
    char path[320], *text = NULL;
    size_t bytes;
    snprintf(path, sizeof path, "%s/arguments", root);
    bool found = ls_file_read(path, 4096, &text, &bytes) == LS_OK && strstr(text, what) != NULL;
    free(text);
    unlink(path);
    return found;
}

static void test_slurm(void) {
    ls_owner o;
    char path[4096];
    const char *before = getenv("PATH");
    snprintf(path, sizeof path, "%s:%s", root, before ? before : "");
    setenv("PATH", path, 1);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_STEP_ID");
    unsetenv("SLURM_CLUSTER_NAME");
    unsetenv("SLURM_RESTART_COUNT");
    CHECK_OK(ls_owner_self(&o));
    snprintf(o.boot, sizeof o.boot, "another boot, another host");
    squeue_make("17", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_UNKNOWN); /* no job to ask about */
    CHECK(!asked(""));

    snprintf(o.job, sizeof o.job, "17");
    CHECK_INT(ls_owner_look(&o), LS_OWNER_ALIVE);
    CHECK(asked("--jobs=17"));
    squeue_make("", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_GONE);
    squeue_make("slurm_load_jobs error: Invalid job id specified", 1);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_GONE);
    squeue_make("slurm_load_jobs error: Unable to contact slurm controller", 1);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_UNKNOWN);
    squeue_make("117\n170\n", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_GONE);

    setenv("SLURM_JOB_ID", "17", 1); /* this job, and neither of them started by srun */
    squeue_make("17", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_ALIVE);
    unsetenv("SLURM_JOB_ID");

    snprintf(o.step, sizeof o.step, "3");
    squeue_make("17.30\n  17.3", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_ALIVE);
    CHECK(asked("--steps"));
    squeue_make("17.30\n17.4", 0);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_GONE);

    squeue_make("16+1.3", 0); /* of a heterogeneous job */
    CHECK_INT(ls_owner_look(&o), LS_OWNER_UNKNOWN);

    ls_owner task; /* of an array, whose steps squeue names by its number */
    setenv("SLURM_JOB_ID", "19", 1);
    setenv("SLURM_ARRAY_JOB_ID", "17", 1);
    setenv("SLURM_ARRAY_TASK_ID", "2", 1);
    setenv("SLURM_STEP_ID", "3", 1);
    CHECK_OK(ls_owner_self(&task));
    CHECK_STR(task.job, "17_2");
    unsetenv("SLURM_ARRAY_JOB_ID");
    unsetenv("SLURM_ARRAY_TASK_ID");
    unsetenv("SLURM_STEP_ID");
    snprintf(task.boot, sizeof task.boot, "another boot, another host");
    squeue_make("17_2.batch\n17_2.3", 0);
    CHECK_INT(ls_owner_look(&task), LS_OWNER_ALIVE);
    CHECK(asked("--jobs=17_2 --format=%i --steps"));
    squeue_make("17_1.3", 0);
    CHECK_INT(ls_owner_look(&task), LS_OWNER_GONE);

    squeue_make("17.3", 0);
    setenv("SLURM_JOB_ID", "17", 1);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_ALIVE);
    setenv("SLURM_RESTART_COUNT", "1", 1); /* requeued: what ran before does not run any more */
    CHECK_INT(ls_owner_look(&o), LS_OWNER_GONE);
    setenv("SLURM_CLUSTER_NAME", "elsewhere", 1);
    CHECK_INT(ls_owner_look(&o), LS_OWNER_UNKNOWN);
    unsetenv("SLURM_CLUSTER_NAME");
    asked("");
    snprintf(o.job, sizeof o.job, "17;id");
    CHECK_INT(ls_owner_look(&o), LS_OWNER_UNKNOWN);
    CHECK(!asked(""));
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
    setenv("PATH", before ? before : "", 1);
    snprintf(o.job, sizeof o.job, "17");
    snprintf(path, sizeof path, "%s/squeue", root);
    CHECK(unlink(path) == 0);
}

static void lock_write(const ls_owner *owner) {
    char path[320];
    snprintf(path, sizeof path, "%s/lock.json", root);
    unlink(path);
    CHECK_OK(ls_owner_write(owner, path));
}

static void test_lock(void) {
    ls_lock lock, second;
    ls_owner other;
    char path[320];
    snprintf(path, sizeof path, "%s/lock.json", root);
    CHECK_OK(ls_lock_take(&lock, root));
    CHECK(ls_path_exists(path));
    CHECK_STATUS(ls_lock_take(&second, root), LS_E_EXISTS);
    CHECK_MESSAGE("works in this directory");
    CHECK_MESSAGE(lock.self.host);
    ls_lock_release(&second); /* was not taken */
    CHECK(ls_path_exists(path));
    ls_lock_release(&lock);
    CHECK(!ls_path_exists(path));
    ls_lock_release(&lock);

    /* Held by a living process, then by a dead one. */
    pid_t child = child_start(&other);
    lock_write(&other);
    CHECK_STATUS(ls_lock_take(&lock, root), LS_E_EXISTS);
    CHECK_MESSAGE("choose another run.name");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_OK(ls_lock_take(&lock, root));
    ls_lock_release(&lock);
    CHECK(!ls_path_exists(path));

    /* Nobody can tell. */
    snprintf(other.boot, sizeof other.boot, "another boot");
    lock_write(&other);
    CHECK_STATUS(ls_lock_take(&lock, root), LS_E_EXISTS);
    CHECK_MESSAGE("remove the file");
    CHECK_MESSAGE(path);
    CHECK_OK(ls_file_replace(path, "x", 1));
    CHECK_STATUS(ls_lock_take(&lock, root), LS_E_EXISTS);
    CHECK_MESSAGE("remove the file");
    CHECK(unlink(path) == 0);

    CHECK(ls_lock_take(&lock, "/nonexistent/directory") != LS_OK);

    no_links = true;
    CHECK_OK(ls_lock_take(&lock, root));
    CHECK_STATUS(ls_lock_take(&second, root), LS_E_EXISTS);
    CHECK_MESSAGE("works in this directory");
    ls_lock_release(&lock);
    CHECK(!ls_path_exists(path));
    no_links = false;
}

/* Someone removed our lock by hand and another took it, who is like us in all but one thing: it is
 * not ours to remove. */
static void test_not_ours(void) {
    char path[320];
    snprintf(path, sizeof path, "%s/lock.json", root);
    for (int what = 0; what < 4; what++) {
        ls_lock lock;
        CHECK_OK(ls_lock_take(&lock, root));
        ls_owner other = lock.self;
        other.pid += what == 0;
        other.start_ticks += what == 1;
        other.boot[0] = what == 2 ? 'x' : other.boot[0];
        other.space[0] = what == 3 ? 'x' : other.space[0];
        lock_write(&other);
        ls_lock_release(&lock);
        CHECK(ls_path_exists(path));
        CHECK(unlink(path) == 0);
    }
}

/* While we ask about a lock's job, which is gone, another takes the lock over. */
static void test_overtaken(void) {
    ls_lock lock;
    ls_owner gone, living;
    char path[320], script[1024], search[4096];
    const char *before = getenv("PATH");
    pid_t child = child_start(&living);
    gone = living;
    snprintf(gone.boot, sizeof gone.boot, "another boot");
    snprintf(gone.job, sizeof gone.job, "17");
    lock_write(&living);
    snprintf(path, sizeof path, "%s/lock.json", root);
    snprintf(script, sizeof script, "%s/living.json", root);
    CHECK(rename(path, script) == 0);
    lock_write(&gone);
    int n = snprintf(script, sizeof script, "#!/bin/sh\nmv '%s/living.json' '%s'\n", root, path);
    snprintf(path, sizeof path, "%s/squeue", root);
    CHECK_OK(ls_file_replace(path, script, (size_t)n));
    CHECK(chmod(path, 0755) == 0);
    snprintf(search, sizeof search, "%s:%s", root, before);
    setenv("PATH", search, 1);
    CHECK_STATUS(ls_lock_take(&lock, root), LS_E_EXISTS);
    CHECK_MESSAGE("works in this directory; wait for it");
    setenv("PATH", before, 1);
    CHECK(unlink(path) == 0);
    snprintf(path, sizeof path, "%s/lock.json", root);
    CHECK(unlink(path) == 0);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

/* A process with our number that died here has left its half of a lock; we leave none. */
static void test_nothing_left(void) {
    ls_lock lock;
    char path[480];
    DIR *directory = opendir(root);
    struct dirent *item;
    while (directory && (item = readdir(directory))) {
        CHECK(strncmp(item->d_name, "lock.json", 9) != 0);
    }
    closedir(directory);
    CHECK_OK(ls_owner_self(&lock.self));
    snprintf(path, sizeof path, "%s/lock.json.%s-%d", root, lock.self.boot, (int)getpid());
    CHECK_OK(ls_file_replace(path, "{", 1));
    CHECK_OK(ls_lock_take(&lock, root));
    CHECK(!ls_path_exists(path));
    ls_lock_release(&lock);
}

/* Many processes find the same stale lock at once: one of them gets it. */
static void test_race(void) {
    enum { CHILDREN = 8, ROUNDS = 10 };
    ls_owner dead;
    pid_t child = child_start(&dead), children[CHILDREN];
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    for (int round = 0; round < ROUNDS; round++) {
        int begin[2], done[2], taken = 0;
        lock_write(&dead);
        CHECK(pipe(begin) == 0 && pipe(done) == 0);
        for (int i = 0; i < CHILDREN; i++) {
            children[i] = fork();
            if (children[i] == 0) {
                ls_lock lock;
                char c;
                close(begin[1]);
                (void)!read(begin[0], &c, 1); /* until all are there */
                c = ls_lock_take(&lock, root) == LS_OK;
                (void)!write(done[1], &c, 1);
                pause(); /* holders stay alive until the others have tried */
                _exit(0);
            }
        }
        close(begin[0]);
        close(begin[1]);
        for (int i = 0; i < CHILDREN; i++) {
            char c = 0;
            CHECK(read(done[0], &c, 1) == 1);
            taken += c;
        }
        CHECK_INT(taken, 1);
        for (int i = 0; i < CHILDREN; i++) {
            kill(children[i], SIGKILL);
            waitpid(children[i], NULL, 0);
        }
        close(done[0]);
        close(done[1]);
    }
}

static void stale_make(const char *name, const ls_owner *owner) {
    char path[400];
    snprintf(path, sizeof path, "%s/checkpoints/%s/step-00000007", root, name);
    CHECK_OK(ls_dir_create(path));
    snprintf(path, sizeof path, "%s/checkpoints/%s/step-00000007/rank-00000.h5", root, name);
    CHECK_OK(ls_file_replace(path, "12345", 5));
    if (owner) {
        snprintf(path, sizeof path, "%s/checkpoints/%s/owner.json", root, name);
        CHECK_OK(ls_owner_write(owner, path));
    }
}

static void test_temporaries(void) {
    ls_owner self, other, elsewhere;
    ls_ckpt_stale *stale;
    size_t count;
    char path[320];
    snprintf(path, sizeof path, "%s/checkpoints", root);
    CHECK_OK(ls_ckpt_stale_sweep(path, false)); /* there is none yet */
    pid_t child = child_start(&other);
    CHECK_OK(ls_owner_self(&self));
    elsewhere = self;
    snprintf(elsewhere.boot, sizeof elsewhere.boot, "another boot");
    stale_make(".tmp-00000007-a", &other);
    stale_make(".tmp-00000007-b", &self);
    stale_make(".tmp-00000007-c", &elsewhere);
    stale_make(".tmp-00000007-d", NULL);
    CHECK_OK(ls_ckpt_stale_sweep(path, false));
    CHECK_OK(ls_ckpt_stale_list(path, &stale, &count));
    CHECK_INT(count, 4);
    CHECK_INT(stale[0].state, LS_OWNER_ALIVE);
    CHECK_INT(stale[1].state, LS_OWNER_SELF);
    CHECK_INT(stale[2].state, LS_OWNER_UNKNOWN);
    CHECK_INT(stale[3].state, LS_OWNER_UNKNOWN);
    CHECK_INT(stale[3].bytes, 5);
    free(stale);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    CHECK_OK(ls_ckpt_stale_sweep(path, false));
    CHECK_OK(ls_ckpt_stale_list(path, &stale, &count));
    CHECK_INT(count, 3);
    CHECK_STR(stale[0].name, ".tmp-00000007-b");
    CHECK(stale[1].has_owner && !stale[2].has_owner);
    free(stale);
    CHECK_OK(ls_ckpt_stale_sweep(path, true));
    CHECK_OK(ls_ckpt_stale_list(path, &stale, &count));
    CHECK_INT(count, 2); /* but for those of others */
    CHECK_STR(stale[1].name, ".tmp-00000007-c");
    free(stale);
}

int main(void) {
    ls_log_set_quiet(true);
    snprintf(root, sizeof root, "%s", case_directory());
    test_process();
    test_slurm();
    test_lock();
    test_not_ours();
    test_overtaken();
    test_nothing_left();
    test_race();
    test_temporaries();
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
