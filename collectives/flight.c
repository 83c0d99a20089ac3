#include "collectives/flight.h"

#include "collectives/trace.h"

#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/device/cuda/nvtx.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC  (UINT64_C(0x4c53464c49474854) ^ sizeof(ls_flight_record)) /* "LSFLIGHT" */
#define PREFIX "lockstep-"

static ls_flight_record *own;
static ls_flight_peer own_file = {.fd = -1};
static int64_t next_bucket = -1;

/* Operations that the ring has lost before their end, the oldest first: a device may be given more
 * than the ring holds before anybody waits for the first. */
enum { MOST_LOST = 1 << 16 };
static struct {
    ls_flight_op *ops;
    int64_t count, capacity;
} lost;

const char *ls_flight_kind_text(int kind) {
    static const char *const texts[] = {
#define X(name, text) [name] = text,
        LS_FLIGHT_KINDS(X)
#undef X
    };
    return kind >= 0 && kind < LS_FLIGHT_KIND_COUNT ? texts[kind] : "unknown";
}

const char *ls_flight_place_text(int place) {
    static const char *const texts[] = {
#define X(name, text, in_step) [name] = text,
        LS_FLIGHT_PLACES(X)
#undef X
    };
    return place >= 0 && place < LS_FLIGHT_PLACE_COUNT ? texts[place] : "unknown";
}

bool ls_flight_place_in_step(int place) {
    static const bool flags[] = {
#define X(name, text, in_step) [name] = in_step,
        LS_FLIGHT_PLACES(X)
#undef X
    };
    return place >= 0 && place < LS_FLIGHT_PLACE_COUNT && flags[place];
}

const char *ls_flight_reduction_text(int op) {
    switch (op) {
    case LS_SUM:
        return "sum";
    case LS_MAX:
        return "maximum";
    case LS_MIN:
        return "minimum";
    case LS_AVG:
        return "average";
    case LS_SUM_TREE:
        return "sum in a tree";
    default:
        return "unknown";
    }
}

/* Files */

static const char *dir_of(const ls_flight_options *o) {
    return o->dir ? o->dir : "/dev/shm";
}

/* POSIX locks: unlike those of flock(2) a forked child does not inherit them, and F_GETLK asks
 * without taking. They go with any descriptor of the file that the process closes, so that each
 * process opens its own file once. */
static bool is_locked(int fd) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return fcntl(fd, F_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
}

/* Removes this user's records whose writers are gone. */
static void sweep(const char *dir) {
    DIR *listing = opendir(dir);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) != 0) {
            continue;
        }
        int fd =
            openat(dirfd(listing), entry->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        struct stat info;
        uint64_t magic = 0;
        if (fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == geteuid() &&
            read(fd, &magic, sizeof magic) == sizeof magic && magic == MAGIC && !is_locked(fd)) {
            unlinkat(dirfd(listing), entry->d_name, 0);
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    if (listing) {
        closedir(listing);
    }
}

static ls_status map_file(int fd, const char *path, ls_flight_record **record) {
    void *at = mmap(NULL, sizeof **record, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        return LS_FAIL(LS_E_IO, "cannot map '%s': %s", path, strerror(errno));
    }
    *record = at;
    return LS_OK;
}

static ls_status make_file(const ls_flight_options *o, ls_flight_peer *file) {
    snprintf(file->path, sizeof file->path, "%s/" PREFIX "%016" PRIx64 "-%d", dir_of(o), o->token,
             o->rank);
    file->fd = open(file->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file->fd < 0) {
        return LS_FAIL(LS_E_IO, "cannot create the flight record '%s': %s", file->path,
                       strerror(errno));
    }
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    /* Blocks are taken now: a full file system must not become a SIGBUS later. */
    int error = posix_fallocate(file->fd, 0, sizeof *file->record);
    if (error == 0 && fcntl(file->fd, F_SETLK, &lock) != 0) {
        error = errno;
    }
    if (error != 0) {
        return LS_FAIL(LS_E_IO, "cannot reserve %zu bytes for the flight record '%s': %s",
                       sizeof *file->record, file->path, strerror(error));
    }
    return map_file(file->fd, file->path, &file->record);
}

ls_status ls_flight_open(const ls_flight_options *options) {
    if (own) {
        return LS_FAIL(LS_E_EXISTS, "this process has a flight record already, '%s'",
                       own_file.path);
    }
    sweep(dir_of(options));
    ls_status status = make_file(options, &own_file);
    if (status != LS_OK) {
        ls_flight_peer_close(&own_file);
        return status;
    }
    ls_flight_record *r = own_file.record;
    r->token = options->token;
    r->rank = options->rank;
    r->size = options->size;
    r->pid = getpid();
    gethostname(r->host, sizeof r->host - 1);
    r->step = r->place_index = -1;
    r->progress_ns = ls_clock_ns();
    r->magic = MAGIC; /* from here on it may be swept */
    own = r;
    return LS_OK;
}

void ls_flight_forget(void) {
    if (own) {
        atomic_store(&own->left, 1);
        unlink(own_file.path);
    }
}

void ls_flight_close(void) {
    ls_flight_forget();
    own = NULL;
    ls_flight_peer_close(&own_file);
    free(lost.ops);
    memset(&lost, 0, sizeof lost);
}

ls_flight_record *ls_flight_own(void) {
    return own;
}

ls_status ls_flight_peer_open(const ls_flight_options *whose, ls_flight_peer *peer) {
    *peer = (ls_flight_peer){.fd = -1};
    snprintf(peer->path, sizeof peer->path, "%s/" PREFIX "%016" PRIx64 "-%d", dir_of(whose),
             whose->token, whose->rank);
    peer->fd = open(peer->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat info;
    if (peer->fd < 0 || fstat(peer->fd, &info) != 0 ||
        info.st_size != (off_t)sizeof *peer->record) {
        ls_flight_peer_close(peer);
        return LS_FAIL(LS_E_INPUT, "there is no flight record '%s'", peer->path);
    }
    ls_status status = map_file(peer->fd, peer->path, &peer->record);
    if (status == LS_OK && (peer->record->magic != MAGIC || peer->record->rank != whose->rank)) {
        status =
            LS_FAIL(LS_E_INPUT, "'%s' is no flight record of rank %d", peer->path, whose->rank);
    }
    if (status != LS_OK) {
        ls_flight_peer_close(peer);
    }
    return status;
}

void ls_flight_peer_close(ls_flight_peer *peer) {
    if (peer->record) {
        munmap(peer->record, sizeof *peer->record);
    }
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    peer->record = NULL;
    peer->fd = -1;
}

bool ls_flight_peer_dead(const ls_flight_peer *peer) {
    /* In this order: a rank that leaves marks its record before it drops the lock. */
    return peer->record && !is_locked(peer->fd) && !atomic_load(&peer->record->left);
}

/* Where the main thread is */

static void progress(uint64_t now_ns) {
    atomic_store_explicit(&own->progress_ns, now_ns, memory_order_release);
}

void ls_flight_mark(ls_flight_place place, int64_t index) {
    ls_trace_place(place, index);
    ls_nvtx_range(ls_flight_place_text(place), index);
    if (own) {
        atomic_store_explicit(&own->place, (int32_t)place, memory_order_relaxed);
        atomic_store_explicit(&own->place_index, index, memory_order_relaxed);
        progress(ls_clock_ns());
    }
}

void ls_flight_set_step(int64_t step) {
    if (own) {
        atomic_store_explicit(&own->step, step, memory_order_relaxed);
    }
}

void ls_flight_set_bucket(int64_t bucket) {
    next_bucket = bucket;
}

void ls_flight_beat(void) {
    if (own) {
        atomic_store_explicit(&own->beat_ns, ls_clock_ns(), memory_order_release);
    }
}

void ls_flight_asked(ls_flight_record *record) {
    atomic_store_explicit(&record->asked_ns, ls_clock_ns(), memory_order_release);
}

/* Groups and operations */

static bool name_lives(const char *name, int lowest, int except) {
    for (int g = 0; g < LS_FLIGHT_GROUPS; g++) {
        const ls_flight_group *group = &own->groups[g];
        if (g != except && group->live && group->lowest == lowest &&
            strcmp(group->name, name) == 0) {
            return true;
        }
    }
    return false;
}

int ls_flight_group_add(const char *name, int lowest, int size) {
    for (int g = 0; own && g < LS_FLIGHT_GROUPS; g++) {
        if (!own->groups[g].live) {
            own->groups[g] = (ls_flight_group){.live = 1,
                                               .lowest = lowest,
                                               .size = size,
                                               .since_id = atomic_load(&own->last_id) + 1};
            ls_flight_group_rename(g, name);
            return g;
        }
    }
    return -1;
}

/* Ranks add groups in the same order, and so number them alike. */
void ls_flight_group_rename(int group, const char *name) {
    if (!own || group < 0) {
        return;
    }
    ls_flight_group *g = &own->groups[group];
    char unique[64];
    snprintf(unique, sizeof unique, "%.36s", name);
    for (int n = 2; name_lives(unique, g->lowest, group); n++) {
        snprintf(unique, sizeof unique, "%.36s.%d", name, n);
    }
    memcpy(g->name, unique, sizeof g->name);
}

void ls_flight_group_remove(int group) {
    if (own && group >= 0) {
        own->groups[group].live = 0;
    }
}

static ls_flight_op *op_at(uint64_t id) {
    ls_flight_op *op = own && id ? &own->ops[(id - 1) % LS_FLIGHT_OPS] : NULL;
    return op && op->id == id ? op : NULL;
}

/* One without memory is lost for good. */
static void keep_lost(const ls_flight_op *op) {
    if (lost.count == lost.capacity && lost.capacity < MOST_LOST) {
        const int64_t capacity = lost.capacity > 0 ? 2 * lost.capacity : LS_FLIGHT_OPS;
        ls_flight_op *grown = realloc(lost.ops, (size_t)capacity * sizeof *grown);
        lost.capacity = grown ? capacity : lost.capacity;
        lost.ops = grown ? grown : lost.ops;
    }
    if (lost.count < lost.capacity) {
        lost.ops[lost.count++] = *op;
    }
}

/* lost.count: none. */
static int64_t find_lost(uint64_t id) {
    int64_t at = 0;
    while (at < lost.count && lost.ops[at].id != id) {
        at++;
    }
    return at;
}

static void end_lost(uint64_t id, uint64_t now_ns) {
    const int64_t at = find_lost(id);
    if (at < lost.count) {
        lost.count--;
        memmove(lost.ops + at, lost.ops + at + 1, (size_t)(lost.count - at) * sizeof *lost.ops);
    }
    if (own->waited.id == id) {
        own->waited.end_ns = now_ns;
    }
}

uint64_t ls_flight_enter(int group, const ls_flight_call *call, int64_t bytes, int peer) {
    if (!own) {
        return 0;
    }
    const uint64_t now_ns = ls_clock_ns();
    const uint64_t id = atomic_load_explicit(&own->last_id, memory_order_relaxed) + 1;
    ls_flight_op *op = &own->ops[(id - 1) % LS_FLIGHT_OPS];
    if (op->id && !op->end_ns) {
        keep_lost(op);
    }
    *op = (ls_flight_op){.id = id,
                         .seq = group >= 0 && peer < 0 ? ++own->groups[group].entered : 0,
                         .call = *call,
                         .bytes = bytes,
                         .step = own->step,
                         .bucket = next_bucket,
                         .group = group,
                         .peer = peer,
                         .place = own->place,
                         .place_index = own->place_index,
                         .enqueue_ns = now_ns};
    next_bucket = -1;
    atomic_store_explicit(&own->last_id, id, memory_order_release);
    progress(now_ns);
    return id;
}

void ls_flight_start(uint64_t id) {
    ls_flight_op *op = op_at(id);
    if (op) {
        op->start_ns = ls_clock_ns();
    }
}

void ls_flight_end(uint64_t id) {
    const uint64_t now_ns = ls_clock_ns();
    ls_flight_op *op = op_at(id);
    if (op) {
        op->end_ns = now_ns;
    } else if (own && id) {
        end_lost(id, now_ns);
    }
    if (own) {
        progress(now_ns);
    }
}

void ls_flight_wait(uint64_t id) {
    if (!own) {
        return;
    }
    if (id && !op_at(id)) {
        const int64_t at = find_lost(id);
        own->waited = at < lost.count ? lost.ops[at] : own->waited;
    }
    atomic_store_explicit(&own->inside, id, memory_order_release);
}

const ls_flight_op *ls_flight_find(const ls_flight_record *record, uint64_t id) {
    if (id == 0) {
        return NULL;
    }
    const ls_flight_op *op = &record->ops[(id - 1) % LS_FLIGHT_OPS];
    op = op->id == id ? op : &record->waited;
    return op->id == id ? op : NULL;
}

const ls_flight_group *ls_flight_group_of(const ls_flight_record *record, const ls_flight_op *op) {
    if (op->group < 0 || op->group >= LS_FLIGHT_GROUPS) {
        return NULL;
    }
    const ls_flight_group *g = &record->groups[op->group];
    return g->name[0] && op->id >= g->since_id ? g : NULL;
}

void ls_flight_copy(const ls_flight_record *from, ls_flight_record *to) {
    memcpy(to, from, sizeof *to);
    to->now_ns = ls_clock_ns();
    for (int g = 0; g < LS_FLIGHT_GROUPS; g++) { /* whatever another process wrote there */
        to->groups[g].name[sizeof to->groups[g].name - 1] = '\0';
    }
    to->host[sizeof to->host - 1] = '\0';
}
