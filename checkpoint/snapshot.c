#include "checkpoint/snapshot.h"
#include "checkpoint/format.h"
#include "collectives/combine.h"
#include "runtime/base/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { ALIGN = 64, PAGE = 4096, PART_BYTES = 1 << 20 };

typedef struct row {
    char name[LS_CKPT_NAME_MAX + 1];
    int32_t dtype, ndim;
    int64_t dims[LS_MAX_DIMS];
    ls_box box;
    int64_t offset_bytes; /* of its values in the mapping */
} row;

typedef struct header {
    sem_t filled; /* posted after each fill */
    int32_t count;
    atomic_bool good; /* the last fill succeeded */
} header;

static size_t round_up(size_t bytes) {
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t tensor_bytes(const ls_ckpt_tensor *t) {
    return (size_t)ls_box_elems(&t->box) * ls_dtype_bytes(t->dtype);
}

static row *rows_of(const ls_snapshot_view *view) {
    return (row *)((char *)view->base + round_up(sizeof(header)));
}

/* Tensors of a mapping that is laid out, by its rows. */
static ls_status view_open(ls_snapshot_view *view) {
    const row *rows = rows_of(view);
    view->count = ((const header *)view->base)->count;
    LS_TRY(ls_calloc((size_t)view->count, sizeof *view->tensors, &view->tensors));
    for (int i = 0; i < view->count; i++) {
        ls_ckpt_tensor *t = &view->tensors[i];
        *t = (ls_ckpt_tensor){.name = rows[i].name,
                              .dtype = (ls_dtype)rows[i].dtype,
                              .ndim = rows[i].ndim,
                              .box = rows[i].box,
                              .data = (char *)view->base + rows[i].offset_bytes};
        memcpy(t->dims, rows[i].dims, sizeof t->dims);
    }
    return LS_OK;
}

/* For copies into the rank's own. */
static ls_status copying_prepare(ls_snapshot *s) {
    const int count = s->mine.count;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->complete, NULL);
    s->made = true;
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *s->starts, &s->starts));
    LS_TRY(ls_calloc((size_t)count, sizeof *s->sources, &s->sources));
    for (int i = 0; i < count; i++) {
        s->starts[i + 1] = s->starts[i] + tensor_bytes(&s->mine.tensors[i]);
    }
    return LS_OK;
}

static void view_close(ls_snapshot_view *view) {
    free(view->tensors);
    if (view->base) {
        munmap(view->base, view->bytes);
    }
    *view = (ls_snapshot_view){0};
}

static ls_status no_memory(size_t bytes) {
    return LS_FAIL(LS_E_MEMORY,
                   "no memory for a copy of the state (%zu bytes): %s; with checkpoint.async=false "
                   "and checkpoint.writers=rank none is needed",
                   bytes, strerror(errno));
}

/* Has the kernel find all pages, not many at a time: meanwhile nobody else can map memory. */
static bool touch(const ls_snapshot_view *view) {
    const size_t part = (size_t)16 << 20;
    for (size_t at = 0; at < view->bytes; at += part) {
        volatile char *bytes = (char *)view->base + at;
        const size_t n = part < view->bytes - at ? part : view->bytes - at;
        if (madvise((void *)bytes, n, MADV_POPULATE_WRITE) == 0) {
            continue;
        }
        if (errno != EINVAL) {
            return false;
        }
        for (size_t i = 0; i < n; i += 4096) { /* kernels before 5.14 do not know the call */
            bytes[i] = bytes[i];
        }
    }
    return true;
}

void ls_snapshot_touch(ls_snapshot *s) {
    if (s->mine.base) {
        (void)touch(&s->mine);
    }
}

/* *fd: of the memory when it is shared, else -1. */
static ls_status map_mine(ls_snapshot_view *view, bool shared, const ls_ckpt_tensor *tensors,
                          int count, int *fd) {
    size_t values = round_up(sizeof(header)) + round_up((size_t)count * sizeof(row));
    values = (values + PAGE - 1) / PAGE * PAGE;
    view->values_at = view->bytes = values;
    for (int i = 0; i < count; i++) {
        view->bytes += round_up(tensor_bytes(&tensors[i]));
    }
    *fd = -1;
    if (shared) {
        *fd = memfd_create("lockstep-snapshot", MFD_CLOEXEC);
        if (*fd < 0 || ftruncate(*fd, (off_t)view->bytes) != 0) {
            return no_memory(view->bytes);
        }
    }
    void *base = mmap(NULL, view->bytes, PROT_READ | PROT_WRITE,
                      shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, *fd, 0);
    if (base == MAP_FAILED) {
        return no_memory(view->bytes);
    }
    view->base = base;
    (void)madvise(base, view->bytes, MADV_HUGEPAGE);
    if (shared && !touch(view)) { /* what is missing would be a SIGBUS later */
        return no_memory(view->bytes);
    }
    header *h = base;
    row *rows = rows_of(view);
    sem_init(&h->filled, 1, 0);
    h->count = count;
    for (int i = 0; i < count; i++) {
        const ls_ckpt_tensor *t = &tensors[i];
        LS_TRY(ls_ckpt_name_check(t->name));
        rows[i] = (row){.dtype = (int32_t)t->dtype,
                        .ndim = t->ndim,
                        .box = t->box,
                        .offset_bytes = (int64_t)values};
        snprintf(rows[i].name, sizeof rows[i].name, "%s", t->name);
        memcpy(rows[i].dims, t->dims, sizeof rows[i].dims);
        values += round_up(tensor_bytes(t));
    }
    return view_open(view);
}

/* What a rank tells the others of its host. */
typedef struct invitation {
    int64_t pid, fd, bytes;
} invitation;

static ls_status map_other(ls_snapshot_view *view, const invitation *other) {
    char path[96];
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)other->pid, (long long)other->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "the memory of process %lld on this host cannot be shared: %s: %s; use "
                       "checkpoint.writers=rank",
                       (long long)other->pid, path, strerror(errno));
    }
    view->bytes = (size_t)other->bytes;
    void *base = mmap(NULL, view->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (base == MAP_FAILED) {
        return no_memory(view->bytes);
    }
    view->base = base;
    return view_open(view);
}

/* The lowest rank of the host maps what the others have. [collective on local] */
static ls_status map_others(ls_snapshot *s, ls_comm *local, int fd) {
    const invitation mine = {.pid = getpid(), .fd = fd, .bytes = (int64_t)s->mine.bytes};
    invitation *all;
    LS_TRY(ls_comm_agree(local, ls_calloc((size_t)local->size, sizeof *all, &all)));
    ls_status status = local->ops->all_gather(local, &mine, all, sizeof mine);
    if (status == LS_OK && local->rank == 0) {
        s->other_count = local->size - 1;
        status = ls_calloc((size_t)local->size, sizeof *s->others, &s->others);
        for (int r = 1; r < local->size && status == LS_OK; r++) {
            status = map_other(&s->others[r - 1], &all[r]);
        }
    }
    free(all);
    return status;
}

/* [collective] */
static ls_status share(ls_snapshot *s, ls_comm *comm, int fd) {
    ls_comm *local = NULL;
    uint64_t *hosts;
    LS_TRY(ls_comm_agree(comm, ls_calloc((size_t)comm->size, sizeof *hosts, &hosts)));
    ls_status status = ls_comm_hosts(comm, hosts);
    for (int r = 0; r < comm->size && status == LS_OK; r++) {
        s->host_rank += r < comm->rank && hosts[r] == hosts[comm->rank];
        s->host_index += (uint64_t)r < hosts[comm->rank] && hosts[r] == (uint64_t)r;
    }
    if (status == LS_OK) {
        status = comm->ops->split(comm, (int)hosts[comm->rank], &local);
    }
    free(hosts);
    LS_TRY(status);
    status = map_others(s, local, fd);
    local->ops->destroy(local);
    return status;
}

ls_status ls_snapshot_create(ls_snapshot *s, ls_comm *comm, bool shared,
                             const ls_ckpt_tensor *tensors, int count) {
    int fd;
    *s = (ls_snapshot){0};
    ls_status status = map_mine(&s->mine, shared, tensors, count, &fd);
    status = status == LS_OK ? copying_prepare(s) : status;
    if (shared) {
        status = ls_comm_agree(comm, status);
        if (status == LS_OK) {
            status = share(s, comm, fd);
        }
        status = ls_comm_agree(comm, status); /* nobody closes before all have mapped */
        if (fd >= 0) {
            close(fd);
        }
    }
    if (status != LS_OK) {
        ls_snapshot_release(s);
    }
    return status;
}

void ls_snapshot_release(ls_snapshot *s) {
    for (int i = 0; i < s->other_count && s->others; i++) {
        view_close(&s->others[i]);
    }
    free(s->others);
    free(s->starts);
    free(s->sources);
    if (s->made) {
        pthread_mutex_destroy(&s->mutex);
        pthread_cond_destroy(&s->complete);
    }
    view_close(&s->mine);
    *s = (ls_snapshot){0};
}

static ls_status same_check(const ls_snapshot *s, const ls_ckpt_tensor *tensors, int count) {
    if (count != s->mine.count) {
        return LS_FAIL(LS_E_SHAPE, "%d tensors to save, room was reserved for %d", count,
                       s->mine.count);
    }
    for (int i = 0; i < count; i++) {
        const ls_ckpt_tensor *t = &tensors[i], *held = &s->mine.tensors[i];
        bool same = strcmp(t->name, held->name) == 0 && t->dtype == held->dtype &&
                    t->ndim == held->ndim && t->box.ndim == held->box.ndim;
        for (int d = 0; d < held->ndim && same; d++) {
            same = t->dims[d] == held->dims[d] && t->box.start[d] == held->box.start[d] &&
                   t->box.extent[d] == held->box.extent[d];
        }
        if (!same) {
            return LS_FAIL(LS_E_SHAPE,
                           "tensor %d to save is '%s', not the box of '%s' that room was reserved "
                           "for",
                           i, t->name, held->name);
        }
    }
    return LS_OK;
}

static void tell_filled(ls_snapshot *s, bool good) {
    header *h = s->mine.base;
    atomic_store(&h->good, good);
    if (s->host_rank > 0) {
        sem_post(&h->filled);
    }
}

ls_status ls_snapshot_begin(ls_snapshot *s, ls_status so_far, const ls_ckpt_tensor *tensors,
                            int count, bool fetched) {
    ls_status status = so_far == LS_OK ? same_check(s, tensors, count) : so_far;
    for (int i = 0; i < count && !fetched && status == LS_OK; i++) {
        s->sources[i] = tensors[i].data;
    }
    const size_t bytes = fetched || status != LS_OK ? 0 : s->starts[count];
    s->parts = (int64_t)((bytes + PART_BYTES - 1) / PART_BYTES);
    s->copied = 0;
    atomic_store(&s->taken, 0);
    if (s->parts == 0 && !fetched) {
        tell_filled(s, status == LS_OK);
    }
    return status;
}

void ls_snapshot_fetched(ls_snapshot *s, bool good) {
    tell_filled(s, good);
}

/* Past the caches where the whole is large: it is read much later. */
static void part_copy(const ls_snapshot *s, int64_t part) {
    const int count = s->mine.count;
    const size_t from = (size_t)part * PART_BYTES, all = s->starts[count];
    const size_t to = from + PART_BYTES;
    int low = 0, high = count - 1; /* the last tensor that begins at or before `from` */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (s->starts[middle] <= from) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    for (int i = low; i < count && s->starts[i] < to; i++) {
        const size_t first = from > s->starts[i] ? from - s->starts[i] : 0;
        const size_t end = (to < s->starts[i + 1] ? to : s->starts[i + 1]) - s->starts[i];
        ls_copy((char *)s->mine.tensors[i].data + first, s->sources[i] + first,
                (int64_t)(end - first), (int64_t)all);
    }
}

/* Returns how many it has copied. */
static int64_t parts_copy(ls_snapshot *s) {
    int64_t done = 0, part;
    while ((part = atomic_fetch_add(&s->taken, 1)) < s->parts) {
        part_copy(s, part);
        done++;
    }
    return done;
}

void ls_snapshot_complete(ls_snapshot *s, int threads) {
    int64_t done = 0;
    if (s->parts == 0) {
        return;
    }
    if (atomic_load(&s->taken) < s->parts) {
#pragma omp parallel num_threads(ls_ckpt_threads(threads, s->parts, INT64_MAX)) reduction(+ : done)
        done += parts_copy(s);
    }
    pthread_mutex_lock(&s->mutex);
    s->copied += done;
    if (done > 0 && s->copied == s->parts) {
        tell_filled(s, true);
        pthread_cond_broadcast(&s->complete);
    }
    while (s->copied < s->parts) {
        pthread_cond_wait(&s->complete, &s->mutex);
    }
    pthread_mutex_unlock(&s->mutex);
}

/* A dead rank never posts: so the wait is looked at again and again. */
static bool await_one(ls_snapshot *s, header *h) {
    while (!atomic_load(&s->stopping)) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec++;
        if (sem_clockwait(&h->filled, CLOCK_MONOTONIC, &until) == 0) {
            return true;
        }
    }
    return false;
}

bool ls_snapshot_await(ls_snapshot *s) {
    bool good = true;
    for (int i = 0; i < s->other_count; i++) {
        header *h = s->others[i].base;
        good = await_one(s, h) && atomic_load(&h->good) && good;
    }
    return good;
}

void ls_snapshot_stop(ls_snapshot *s) {
    atomic_store(&s->stopping, true);
}
