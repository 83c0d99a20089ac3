/* Preloaded into a rank of a run to make its machine fail. PLANT_RANK names the rank:
 *   PLANT_FLIP=N    flips one bit of what the N-th hash of parameters or of optimizer states reads,
 *                   in memory, before it does
 *   PLANT_WRONG=1   makes each matrix product of the library come out wrong in one number
 *   PLANT_DUP=N     makes the N-th duplicate of a communicator fail on this rank alone, for want of
 * memory
 *   PLANT_BLIND=1   fails whenever this rank opens a manifest.json, or asks for the state of a file
 *                   of a finished checkpoint by name
 *   PLANT_GONE=1    hides the manifest.json of finished checkpoints from whoever asks for its name
 *   PLANT_SLOW=US   makes each matrix product of the library take so many microseconds longer
 * Or PLANT_DIR names a folder, where a file KIND-RANK is a fault that happens once, and then again
 * when the file is made again:
 *   flip      as above, in the next hash, which is of weights
 *   state     in the hash after it, which is of the optimizer's state for them
 *   gradient  flips one bit of what the next all-reduce of gradients gives (transport mpi)
 *   nan       makes the next matrix product give a NaN
 *   compute   stops the process (SIGSTOP) in the next matrix product
 *   reduce    stops it in the next all-reduce of gradients
 *   data      stops it when it reads data.json, its directory looked for and not yet made
 *   end       stops it when it has come to the end of MPI
 *   memory    takes memory until there is none, at most 4 GiB
 *   clock     moves the clock of the day back by an hour, from there on */
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void *real_function(const char *name) {
    return dlsym(RTLD_NEXT, name);
}

static long planted(const char *what) {
    const char *mine = getenv("OMPI_COMM_WORLD_RANK"), *rank = getenv("PLANT_RANK");
    const char *value = getenv(what);
    return mine && rank && value && atoi(mine) == atoi(rank) ? atol(value) : 0;
}

/* Is there the file? Not any more. */
static bool asked_for(const char *kind) {
    const char *dir = getenv("PLANT_DIR"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    char path[512];
    if (!dir || !rank) {
        return false;
    }
    snprintf(path, sizeof path, "%s/%s-%s", dir, kind, rank);
    return unlink(path) == 0;
}

static void flip(const void *data, int byte, int bits) {
    ((unsigned char *)(uintptr_t)data)[byte] ^= (unsigned char)bits;
}

uint64_t XXH3_64bits_withSeed(const void *data, size_t bytes, uint64_t seed);
uint64_t XXH3_64bits_withSeed(const void *data, size_t bytes, uint64_t seed) {
    static uint64_t (*real)(const void *, size_t, uint64_t);
    static long calls;
    static bool then;
    if (!real) {
        *(void **)&real = real_function("XXH3_64bits_withSeed");
    }
    /* Threads that save hash copies. A parameter's states are hashed from its weights' hash on. */
    const bool of_the_run = bytes >= 256 && gettid() == getpid();
    if (of_the_run && (++calls == planted("PLANT_FLIP") || asked_for("flip") || (then && seed))) {
        flip(data, 128, 1);
        then = false;
    }
    then = then || (of_the_run && asked_for("state"));
    return real(data, bytes, seed);
}

const char *ZSTD_versionString(void);
const char *ZSTD_versionString(void) {
    const char *(*real)(void);
    *(void **)&real = real_function("ZSTD_versionString");
    return planted("PLANT_ZSTD") ? "9.9.9" : real();
}

int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
int dnnl_sgemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
               int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
    static int (*real)(char, char, int64_t, int64_t, int64_t, float, const float *, int64_t,
                       const float *, int64_t, float, float *, int64_t);
    if (!real) {
        *(void **)&real = real_function("dnnl_sgemm");
    }
    usleep((useconds_t)planted("PLANT_SLOW"));
    int status = real(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
    c[0] += planted("PLANT_WRONG") ? 0.25f : 0.0f;
    if (asked_for("compute")) {
        raise(SIGSTOP);
    }
    if (asked_for("nan")) {
        c[0] = NAN;
    }
    for (int i = asked_for("memory") ? 256 : 0; i > 0; i--) {
        volatile char *taken = malloc(16 << 20); /* never given back */
        for (int at = 0; taken && at < 16 << 20; at += 4096) {
            taken[at] = 1;
        }
    }
    return status;
}

/* Handles of Open MPI are pointers; what they point to does not matter here. */
static float *reduced;
static int last;        /* byte */
static void *reduction; /* its request */

/* The second stage of an all-reduce brings sums; its tags are odd. What the first one brings is
 * only this rank's share of them, which all ranks get from it. */
int MPI_Irecv(void *to, int count, void *type, int source, int tag, void *comm, void **request);
int MPI_Irecv(void *to, int count, void *type, int source, int tag, void *comm, void **request) {
    static int (*real)(void *, int, void *, int, int, void *, void **);
    if (!real) {
        *(void **)&real = real_function("MPI_Irecv");
    }
    int status = real(to, count, type, source, tag, comm, request);
    if (count >= 1024 && tag % 2 == 1 && asked_for("reduce")) {
        raise(SIGSTOP);
    }
    if (count >= 1024 && tag % 2 == 1 && asked_for("gradient")) {
        reduced = to;
        last = count;
        reduction = *request;
    }
    return status;
}

static bool finished(const char *path) {
    return strstr(path, "/step-") && !strstr(path, ".tmp-");
}

static bool hidden(const char *path) {
    return finished(path) && planted("PLANT_BLIND");
}

int open(const char *path, int flags, ...);
int open(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list more;
    if (!real) {
        *(void **)&real = real_function("open");
    }
    va_start(more, flags);
    const unsigned mode = va_arg(more, unsigned);
    va_end(more);
    if (strstr(path, "manifest") && hidden(path)) {
        errno = EIO;
        return -1;
    }
    return real(path, flags, mode);
}

int stat(const char *path, struct stat *info);
int stat(const char *path, struct stat *info) {
    static int (*real)(const char *, struct stat *);
    if (!real) {
        *(void **)&real = real_function("stat");
    }
    if (hidden(path)) {
        errno = EIO;
        return -1;
    }
    return real(path, info);
}

int lstat(const char *path, struct stat *info);
int lstat(const char *path, struct stat *info) {
    static int (*real)(const char *, struct stat *);
    if (!real) {
        *(void **)&real = real_function("lstat");
    }
    if (finished(path) && strstr(path, "/manifest.json") && planted("PLANT_GONE")) {
        errno = ENOENT;
        return -1;
    }
    return real(path, info);
}

struct json_t *json_loadb(const char *text, size_t bytes, size_t flags, void *error);
struct json_t *json_loadb(const char *text, size_t bytes, size_t flags, void *error) {
    static struct json_t *(*real)(const char *, size_t, size_t, void *);
    if (!real) {
        *(void **)&real = real_function("json_loadb");
    }
    if (memmem(text, bytes, "lockstep-tokens", 15) && asked_for("data")) {
        raise(SIGSTOP);
    }
    return real(text, bytes, flags, error);
}

int MPI_Finalize(void);
int MPI_Finalize(void) {
    int (*real)(void);
    *(void **)&real = real_function("MPI_Finalize");
    if (asked_for("end")) {
        raise(SIGSTOP);
    }
    return real();
}

enum { OUT_OF_MEMORY = 17 }; /* what Open MPI gives then: MPI_ERR_INTERN */
int MPI_Comm_dup(void *comm, void **copy);
int MPI_Comm_dup(void *comm, void **copy) {
    static int (*real)(void *, void **);
    static long calls;
    if (!real) {
        *(void **)&real = real_function("MPI_Comm_dup");
    }
    return ++calls == planted("PLANT_DUP") ? OUT_OF_MEMORY : real(comm, copy);
}

static bool among(int count, void *const *requests) {
    for (int i = 0; i < count && reduced; i++) {
        if (requests[i] == reduction) {
            return true;
        }
    }
    return false;
}

static void end_reduction(bool ended) {
    if (ended) {
        flip(reduced, last - 2, 0x40); /* of a number that is not 0 there: by a quarter and more */
        reduced = NULL;
    }
}

int MPI_Testall(int count, void **requests, int *flag, void *statuses);
int MPI_Testall(int count, void **requests, int *flag, void *statuses) {
    static int (*real)(int, void **, int *, void *);
    if (!real) {
        *(void **)&real = real_function("MPI_Testall");
    }
    const bool mine = among(count, requests);
    int status = real(count, requests, flag, statuses);
    end_reduction(mine && *flag);
    return status;
}

int MPI_Waitall(int count, void **requests, void *statuses);
int MPI_Waitall(int count, void **requests, void *statuses) {
    static int (*real)(int, void **, void *);
    if (!real) {
        *(void **)&real = real_function("MPI_Waitall");
    }
    const bool mine = among(count, requests);
    int status = real(count, requests, statuses);
    end_reduction(mine);
    return status;
}

int clock_gettime(clockid_t clock, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    static time_t back_s;
    if (!real) {
        *(void **)&real = real_function("clock_gettime");
    }
    int status = real(clock, t);
    if (clock == CLOCK_REALTIME) {
        back_s += asked_for("clock") ? 3600 : 0;
        t->tv_sec -= back_s;
    }
    return status;
}
