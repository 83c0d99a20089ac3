/* Every operation x type x back end, bitwise against plain loops: sizes 0, 1, odd, not divisible by
 * the ranks; in place and out of place; buffers of alloc and private ones; even and uneven blocks.
 * LOCKSTEP_TEST_ALL=1: no combination of them is left out.
 * Sums of floating-point numbers that are not exact must have the bits of the balanced tree. */
#include "collectives/comm.h"
#include "collectives/comm_choose.h"
#include "collectives/comm_hier.h"
#include "collectives/comm_shm_impl.h"
#include "tests/test.h"

#include "runtime/base/rng.h"

/* MORE: elements beyond count / ranks each that blocks of uneven sizes may take. */
enum { MOST_RANKS = 8, GUARD = 64, MORE = MOST_RANKS * MOST_RANKS };
static const int64_t sizes[] = {0, 1, 37, 4099, 70001};
enum { SIZES = sizeof sizes / sizeof *sizes };
static const ls_dtype dtypes[] = {LS_F32, LS_F64, LS_F16, LS_BF16, LS_I32, LS_I64, LS_U64};
enum { DTYPES = sizeof dtypes / sizeof *dtypes, REDUCTIONS = LS_SUM_TREE + 1 };
static bool all_of_them;

/* Buffers of one case, of both kinds of memory; each has a guard behind it. */
typedef struct memory {
    unsigned char *shared[2], *own[2], *expected, *all;
    int64_t bytes;
    /* In `all`: stride_bytes of each rank's numbers, which several cases start from. */
    ls_dtype dtype;
    int64_t count, stride_bytes;
    bool whole;
} memory;

static memory take(ls_comm *comm, int64_t bytes) {
    memory m = {.bytes = bytes};
    for (int i = 0; i < 2; i++) {
        void *shared = NULL;
        CHECK_OK(comm->ops->alloc(comm, bytes + GUARD, &shared));
        m.shared[i] = shared;
        CHECK((uintptr_t)shared % 64 == 0);
        m.own[i] = malloc((size_t)bytes + GUARD);
    }
    m.expected = malloc((size_t)bytes + GUARD);
    m.all = malloc((size_t)(bytes * comm->size) + GUARD);
    return m;
}

static void release(ls_comm *comm, memory *m) {
    for (int i = 0; i < 2; i++) {
        comm->ops->give_back(comm, m->shared[i]);
        free(m->own[i]);
    }
    free(m->expected);
    free(m->all);
}

/* Element i of a rank: numbers whose sums are rounded (or, where the order of the back end is not
 * known, whole), and integers that wrap. */
static void set_elem(unsigned char *buf, ls_dtype dtype, int64_t i, int rank, uint64_t seed,
                     bool whole) {
    const ls_rng_block b = ls_rng_draw(seed, (uint64_t)rank, (uint64_t)i);
    const float z = ((float)(b.v[0] >> 8) * 0x1p-24f - 0.5f) * (float)(1 << (b.v[1] % 8));
    const float x = whole ? (float)(b.v[0] % 16) - 8 : z;
    const double y = whole ? (double)x : (double)x * (1.0 + (double)b.v[2] * 0x1p-40);
    const uint64_t n = (uint64_t)b.v[2] << 32 | b.v[3];
    switch (dtype) {
    case LS_F32:
        ((float *)buf)[i] = x;
        break;
    case LS_F64:
        ((double *)buf)[i] = y;
        break;
    case LS_F16:
        ((ls_f16 *)buf)[i] = ls_f16_from_f32(x);
        break;
    case LS_BF16:
        ((ls_bf16 *)buf)[i] = ls_bf16_from_f32(x);
        break;
    case LS_I32:
        ((uint32_t *)buf)[i] = b.v[3];
        break;
    default:
        ((uint64_t *)buf)[i] = n;
        break;
    }
}

/* All ranks' numbers for reductions of up to count + MORE elements. */
static void set_all(const ls_comm *comm, memory *m, ls_dtype dtype, int64_t count, bool whole) {
    if (m->stride_bytes > 0 && m->dtype == dtype && m->count == count && m->whole == whole) {
        return;
    }
    m->dtype = dtype;
    m->count = count;
    m->whole = whole;
    m->stride_bytes = (count + MORE) * (int64_t)ls_dtype_bytes(dtype);
    for (int rank = 0; rank < comm->size; rank++) {
        for (int64_t i = 0; i < count + MORE; i++) {
            set_elem(m->all + rank * m->stride_bytes, dtype, i, rank, (uint64_t)count, whole);
        }
    }
}

#define PLAIN(type, acc, LOAD, STORE, ADD)                                                         \
    do {                                                                                           \
        acc v[MOST_RANKS];                                                                         \
        for (int r = 0; r < ranks; r++) {                                                          \
            v[r] = LOAD(((const type *)(all + r * stride))[i]);                                    \
        }                                                                                          \
        for (int d = 1; d < ranks; d *= 2) {                                                       \
            for (int r = 0; r + d < ranks; r += 2 * d) {                                           \
                v[r] = op == LS_MAX   ? (v[r] > v[r + d] ? v[r] : v[r + d])                        \
                       : op == LS_MIN ? (v[r] < v[r + d] ? v[r] : v[r + d])                        \
                                      : (acc)(ADD(v[r], v[r + d]));                                \
            }                                                                                      \
        }                                                                                          \
        ((type *)out)[i] = STORE(op == LS_AVG ? v[0] / (acc)ranks : v[0]);                         \
    } while (0)
#define SAME(x)     (x)
#define ADD(a, b)   ((a) + (b))
#define ADD_U(a, b) ((uint64_t)(a) + (uint64_t)(b))

/* out[i] = the ranks' all[r * stride bytes][i] reduced, pair by pair. */
static void plain(unsigned char *out, const unsigned char *all, int64_t stride, int ranks,
                  ls_dtype dtype, ls_reduce op, int64_t i) {
    switch (dtype) {
    case LS_F32:
        PLAIN(float, float, SAME, SAME, ADD);
        break;
    case LS_F64:
        PLAIN(double, double, SAME, SAME, ADD);
        break;
    case LS_F16:
        PLAIN(ls_f16, float, ls_f16_to_f32, ls_f16_from_f32, ADD);
        break;
    case LS_BF16:
        PLAIN(ls_bf16, float, ls_bf16_to_f32, ls_bf16_from_f32, ADD);
        break;
    case LS_I32:
        PLAIN(int32_t, int32_t, SAME, SAME, ADD_U);
        break;
    case LS_I64:
        PLAIN(int64_t, int64_t, SAME, SAME, ADD_U);
        break;
    default:
        PLAIN(uint64_t, uint64_t, SAME, SAME, ADD_U);
        break;
    }
}

static void finish(ls_comm *comm, ls_comm_request *request, bool by_test) {
    bool done = false;
    while (by_test && !done) {
        CHECK_OK(comm->ops->test(comm, request, &done));
    }
    if (!by_test) {
        CHECK_OK(comm->ops->wait(comm, request));
    }
}

/* Does the back end add in the tree? */
static bool tree_of_sums = true;

static bool is_exact(const ls_comm *comm, ls_dtype dtype, ls_reduce op) {
    if (op == LS_MAX || op == LS_MIN || op == LS_SUM_TREE || dtype == LS_F16 || dtype == LS_BF16) {
        return true;
    }
    return tree_of_sums && (strcmp(comm->ops->name, "mpi") != 0 || op != LS_SUM);
}

/* Where the operation sends from and receives in: variant's bits are shared, in place, by test. */
enum { SHARED = 1, IN_PLACE = 2, BY_TEST = 4, VARIANTS = 8 };

static void check_reduce(ls_comm *comm, memory *m, ls_dtype dtype, ls_reduce op, int64_t count,
                         int variant) {
    const int64_t bytes = count * (int64_t)ls_dtype_bytes(dtype);
    unsigned char **buf = variant & SHARED ? m->shared : m->own;
    unsigned char *send = buf[0], *recv = buf[variant & IN_PLACE ? 0 : 1];
    set_all(comm, m, dtype, count, !is_exact(comm, dtype, op));
    for (int64_t i = 0; i < count; i++) {
        plain(m->expected, m->all, m->stride_bytes, comm->size, dtype, op, i);
    }
    for (int root = -1; root < comm->size; root++) {
        ls_comm_request *request = NULL;
        memset(recv, 0x77, (size_t)bytes + GUARD);
        memcpy(send, m->all + comm->rank * m->stride_bytes, (size_t)bytes);
        if (root < 0) {
            CHECK_OK(comm->ops->all_reduce_start(comm, send, recv, count, dtype, op, &request));
        } else {
            CHECK_OK(comm->ops->reduce_start(comm, send, recv, count, dtype, op, root, &request));
        }
        finish(comm, request, variant & BY_TEST);
        if (root < 0 || root == comm->rank) {
            CHECK(memcmp(recv, m->expected, (size_t)bytes) == 0);
        } else if (send != recv && bytes > 0) {
            CHECK_INT(recv[bytes - 1], 0x77);
        }
        CHECK_INT(recv[bytes], 0x77);
        CHECK_INT(recv[bytes + GUARD - 1], 0x77);
    }
}

/* Blocks of one size, or of sizes that grow, one of them empty. */
static int64_t block(int64_t count, int rank, bool uneven) {
    return !uneven ? count : rank == 1 ? 0 : count / (rank + 1) + rank;
}

static void check_reduce_scatter(ls_comm *comm, memory *m, ls_dtype dtype, ls_reduce op,
                                 int64_t count, int variant, bool uneven) {
    const int64_t elem = (int64_t)ls_dtype_bytes(dtype);
    int64_t counts[MOST_RANKS], total = 0, first = 0;
    for (int rank = 0; rank < comm->size; rank++) {
        counts[rank] = block(count / comm->size, rank, uneven);
        first = rank == comm->rank ? total : first;
        total += counts[rank];
    }
    const int64_t own = counts[comm->rank];
    set_all(comm, m, dtype, count, !is_exact(comm, dtype, op));
    unsigned char **buf = variant & SHARED ? m->shared : m->own;
    unsigned char *send = buf[0], *recv = variant & IN_PLACE ? send + first * elem : buf[1];
    memset(recv, 0x77, (size_t)(own * elem) + GUARD);
    memcpy(send, m->all + comm->rank * m->stride_bytes, (size_t)(total * elem));
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->reduce_scatter_start(comm, send, recv, counts, dtype, op, &request));
    finish(comm, request, variant & BY_TEST);
    for (int64_t i = first; i < first + own; i++) {
        plain(m->expected, m->all, m->stride_bytes, comm->size, dtype, op, i);
    }
    CHECK(memcmp(recv, m->expected + first * elem, (size_t)(own * elem)) == 0);
    if (!(variant & IN_PLACE)) {
        CHECK_INT(recv[own * elem], 0x77);
    }
}

static unsigned char byte_of(int64_t seed, int from, int to, int64_t i) {
    return (unsigned char)(seed * 31 + from * 97 + to * 59 + i * 7 + (i >> 8) * 13);
}

static int64_t wrong_bytes(const unsigned char *at, int64_t seed, int from, int to, int64_t n) {
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++) {
        wrong += at[i] != byte_of(seed, from, to, i);
    }
    return wrong;
}

static void fill(unsigned char *at, int64_t seed, int from, int to, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        at[i] = byte_of(seed, from, to, i);
    }
}

static void check_gather(ls_comm *comm, memory *m, int64_t count, int variant, bool uneven) {
    int64_t counts[MOST_RANKS], offsets[MOST_RANKS], total = 0;
    for (int rank = comm->size - 1; rank >= 0; rank--) {
        counts[rank] = block(count, rank, uneven);
        offsets[rank] = total;
        total += counts[rank] + uneven;
    }
    /* Uneven blocks are sent from private memory; where BY_TEST, one rank receives in it. */
    unsigned char **buf = variant & SHARED ? m->shared : m->own;
    unsigned char *recv = comm->rank == 0 && variant & BY_TEST ? m->own[1] : buf[1];
    unsigned char *send = variant & IN_PLACE ? recv + offsets[comm->rank]
                          : uneven           ? m->own[0]
                                             : buf[0];
    memset(recv, 0x77, (size_t)total + GUARD);
    fill(send, count, comm->rank, 0, counts[comm->rank]);
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_gather_start(comm, send, recv, counts, offsets, &request));
    finish(comm, request, variant & BY_TEST);
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK_INT(wrong_bytes(recv + offsets[rank], count, rank, 0, counts[rank]), 0);
        CHECK(!uneven || recv[offsets[rank] + counts[rank]] == 0x77);
    }
    CHECK_INT(recv[total], 0x77);
    if (!uneven && !(variant & IN_PLACE)) {
        CHECK_OK(comm->ops->all_gather(comm, send, recv, count));
        for (int rank = 0; rank < comm->size; rank++) {
            CHECK_INT(wrong_bytes(recv + rank * count, count, rank, 0, count), 0);
        }
    }
}

static void check_all_to_all(ls_comm *comm, memory *m, int64_t count, int variant, bool uneven) {
    int64_t c[2][MOST_RANKS], o[2][MOST_RANKS], total[2] = {0};
    for (int peer = 0; peer < comm->size; peer++) {
        c[0][peer] = block(count, uneven ? (comm->rank + 2 * peer) % 4 : 0, uneven);
        c[1][peer] = block(count, uneven ? (peer + 2 * comm->rank) % 4 : 0, uneven);
        for (int i = 0; i < 2; i++) {
            o[i][peer] = total[i];
            total[i] += c[i][peer] + i;
        }
    }
    unsigned char **buf = variant & SHARED ? m->shared : m->own;
    memset(buf[1], 0x77, (size_t)total[1] + GUARD);
    for (int peer = 0; peer < comm->size; peer++) {
        fill(buf[0] + o[0][peer], count, comm->rank, peer, c[0][peer]);
    }
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_to_all_start(comm, buf[0], c[0], o[0], buf[1], c[1], o[1], &request));
    finish(comm, request, variant & BY_TEST);
    for (int peer = 0; peer < comm->size; peer++) {
        CHECK_INT(wrong_bytes(buf[1] + o[1][peer], count, peer, comm->rank, c[1][peer]), 0);
        CHECK_INT(buf[1][o[1][peer] + c[1][peer]], 0x77);
    }
}

static void check_broadcast(ls_comm *comm, memory *m, int64_t count, int variant) {
    unsigned char *buf = variant & SHARED ? m->shared[0] : m->own[0];
    for (int root = 0; root < comm->size; root++) {
        memset(buf, 0x77, (size_t)count + GUARD);
        if (root == comm->rank) {
            fill(buf, count, root, 0, count);
        }
        ls_comm_request *request = NULL;
        CHECK_OK(comm->ops->broadcast_start(comm, buf, count, root, &request));
        finish(comm, request, variant & BY_TEST);
        CHECK_INT(wrong_bytes(buf, count, root, 0, count), 0);
        CHECK_INT(buf[count], 0x77);
    }
    CHECK_OK(comm->ops->barrier(comm));
}

/* Two messages to the next rank, two from the one before; those of a pair keep their order. */
static void check_messages(ls_comm *comm, memory *m, int64_t count, int variant) {
    const int size = comm->size, next = (comm->rank + 1) % size;
    const int before = (comm->rank + size - 1) % size;
    ls_comm_request *request[4];
    if (size == 1) {
        CHECK_STATUS(comm->ops->send_start(comm, m->own[0], 1, 0, request), LS_E_SHAPE);
        CHECK_STATUS(comm->ops->recv_start(comm, m->own[0], 1, 0, request), LS_E_SHAPE);
        return;
    }
    unsigned char **buf = variant & SHARED ? m->shared : m->own;
    memset(buf[1], 0x77, (size_t)(2 * count) + GUARD);
    for (int i = 0; i < 2; i++) {
        unsigned char *send = buf[0] + i * count, *recv = buf[1] + i * count;
        fill(send, count + i, comm->rank, next, count);
        CHECK_OK(comm->ops->send_start(comm, send, count, next, &request[2 * i]));
        CHECK_OK(comm->ops->recv_start(comm, recv, count, before, &request[2 * i + 1]));
    }
    for (int i = 0; i < 4; i++) {
        finish(comm, request[i], variant & BY_TEST);
    }
    for (int i = 0; i < 2; i++) {
        CHECK_INT(wrong_bytes(buf[1] + i * count, count + i, before, comm->rank, count), 0);
    }
    CHECK_INT(buf[1][2 * count], 0x77);
}

static void check_sizes(ls_comm *comm, memory *m, int64_t count, int variant) {
    for (int d = 0; d < DTYPES; d++) {
        /* One reduction a case: all of them come by over sizes, variants and types. */
        const int one = (int)((d + variant + count) % REDUCTIONS);
        for (int op = all_of_them ? 0 : one; op < (all_of_them ? REDUCTIONS : one + 1); op++) {
            check_reduce(comm, m, dtypes[d], (ls_reduce)op, count, variant);
            for (int uneven = 0; uneven < 2; uneven++) {
                if (all_of_them || uneven == d % 2) {
                    check_reduce_scatter(comm, m, dtypes[d], (ls_reduce)op, count, variant, uneven);
                }
            }
        }
    }
    check_reduce(comm, m, LS_F32, LS_SUM, count, variant);
    check_reduce(comm, m, LS_F32, LS_SUM_TREE, count, variant);
    check_reduce(comm, m, LS_BF16, LS_SUM, count, variant);
    for (int uneven = 0; uneven < 2; uneven++) {
        check_gather(comm, m, 3 * count, variant, uneven);
        check_all_to_all(comm, m, 3 * count, variant, uneven);
    }
    check_broadcast(comm, m, 5 * count, variant);
    check_messages(comm, m, count, variant);
}

static void check_backend(ls_comm *comm) {
    const int64_t most = sizes[SIZES - 1];
    memory m = take(comm, (most * 8 > most * 3 * comm->size ? most * 8 : most * 3 * comm->size) +
                              8 * MORE);
    for (int s = 0; s < SIZES; s++) {
        for (int variant = 0; variant < VARIANTS; variant++) {
            const bool few = !all_of_them && (sizes[s] >= 10000 || comm->size > 4 ||
                                              (sizes[s] > 100 && comm->size > 2) ||
                                              strcmp(comm->ops->name, "hier") == 0);
            if (!all_of_them && comm->size > 4 && sizes[s] >= 10000) {
                continue; /* more ranks than processors: the others have seen it */
            }
            if (!few || variant == 0 || variant == (SHARED | IN_PLACE)) {
                check_sizes(comm, &m, sizes[s], variant);
            } else if (sizes[s] >= 10000 && variant & SHARED) {
                check_gather(comm, &m, 3 * sizes[s], variant, true);
                check_gather(comm, &m, 3 * sizes[s], variant, false);
            }
        }
    }
    release(comm, &m);
}

static void check_refused(ls_comm *comm) {
    ls_comm_request *request = NULL;
    int64_t counts[MOST_RANKS] = {0};
    char x[8] = {0};
    CHECK_STATUS(comm->ops->reduce_start(comm, x, x, 1, LS_U8, LS_SUM, 0, &request),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("uint8");
    CHECK_STATUS(comm->ops->reduce_start(comm, x, x, 1, LS_F32, LS_SUM, comm->size, &request),
                 LS_E_SHAPE);
    CHECK_STATUS(comm->ops->reduce_start(comm, x, x, -3, LS_F32, LS_SUM, 0, &request), LS_E_SHAPE);
    CHECK_MESSAGE("-3");
    counts[comm->size - 1] = -4;
    CHECK_STATUS(comm->ops->reduce_scatter_start(comm, x, x, counts, LS_F32, LS_SUM, &request),
                 LS_E_SHAPE);
    CHECK_STATUS(comm->ops->broadcast_start(comm, x, 1, -1, &request), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->send_start(comm, x, 1, comm->rank, &request), LS_E_SHAPE);
    CHECK_STATUS(comm->ops->recv_start(comm, x, 1, comm->size, &request), LS_E_SHAPE);
    ls_comm *part = NULL;
    CHECK_STATUS(comm->ops->split(comm, -1, &part), LS_E_SHAPE);
}

/* Groups of odd and even ranks. */
static void check_split(ls_comm *comm) {
    ls_comm *part = NULL;
    CHECK_OK(comm->ops->split(comm, comm->rank % 2, &part));
    CHECK_INT(part->size, (comm->size + 1 - comm->rank % 2) / 2);
    CHECK_INT(part->rank, comm->rank / 2);
    int64_t sum = comm->rank, expected = 0;
    for (int rank = comm->rank % 2; rank < comm->size; rank += 2) {
        expected += rank;
    }
    CHECK_OK(part->ops->all_reduce(part, &sum, 1, LS_I64, LS_SUM));
    CHECK_INT(sum, expected);
    part->ops->destroy(part);
}

/* One rank calls something else; only where the back end promises to notice. */
static void check_mismatch(ls_comm *world) {
    ls_comm *comm = NULL;
    CHECK_OK(ls_comm_shm(world, &comm));
    float x[2] = {1, 2};
    ls_comm_request *request = NULL;
    CHECK_OK(
        comm->ops->all_reduce_start(comm, x, x, comm->rank == 0 ? 2 : 1, LS_F32, LS_SUM, &request));
    CHECK_STATUS(comm->ops->wait(comm, request), LS_E_COMM);
    CHECK_MESSAGE("different collectives");
    comm->ops->destroy(comm);
}

/* More small operations than a rank may be ahead of the others, started at once, from one root and
 * then another; and as many messages, of which short and long ones keep their order. */
static void check_streams(ls_comm *comm) {
    enum { MANY = 100, LONG = 9000 };
    const int size = comm->size, next = (comm->rank + 1) % size;
    const int before = (comm->rank + size - 1) % size;
    ls_comm_request *requests[2 * MANY];
    int64_t values[MANY], sum = 0;
    for (int i = 0; i < MANY; i++) {
        const int root = i / 40 % size;
        values[i] = comm->rank == root ? 7 * i : -1;
        CHECK_OK(comm->ops->broadcast_start(comm, &values[i], sizeof *values, root, &requests[i]));
    }
    for (int i = 0; i < MANY; i++) {
        finish(comm, requests[i], false);
        CHECK_INT(values[i], 7 * i);
    }
    for (int i = 0; i < MANY; i++) { /* only the root waits for others */
        CHECK_OK(comm->ops->reduce_start(comm, &values[i], &sum, 1, LS_I64, LS_SUM, size - 1,
                                         &requests[0]));
        finish(comm, requests[0], i % 2);
        CHECK(comm->rank != size - 1 || sum == (int64_t)7 * i * size);
    }
    if (size == 1) {
        return;
    }
    unsigned char *sent = malloc((size_t)MANY * LONG), *got = malloc((size_t)MANY * LONG);
    for (int i = 0; i < MANY; i++) {
        const int64_t bytes = i % 7 == 3 ? LONG : 13 * i;
        fill(sent + (int64_t)i * LONG, i, comm->rank, next, bytes);
        CHECK_OK(comm->ops->send_start(comm, sent + (int64_t)i * LONG, bytes, next, &requests[i]));
    }
    for (int i = 0; i < MANY; i++) {
        const int64_t bytes = i % 7 == 3 ? LONG : 13 * i;
        CHECK_OK(comm->ops->recv_start(comm, got + (int64_t)i * LONG, bytes, before,
                                       &requests[MANY + i]));
    }
    for (int i = 2 * MANY - 1; i >= 0; i--) {
        finish(comm, requests[i], i % 2);
    }
    for (int i = 0; i < MANY; i++) {
        CHECK_INT(
            wrong_bytes(got + (int64_t)i * LONG, i, before, comm->rank, i % 7 == 3 ? LONG : 13 * i),
            0);
    }
    free(sent);
    free(got);
}

static void check_all(ls_comm *comm) {
    check_backend(comm);
    check_streams(comm);
    check_refused(comm);
    check_split(comm);
}

/* As if `local` ranks made a host: one after the other, or every size / local-th. */
static void check_hier(ls_comm *world, int local, bool in_order) {
    const int hosts = world->size / local;
    const int host = in_order ? world->rank / local : world->rank % hosts;
    const int place = in_order ? world->rank % local : world->rank / hosts;
    ls_comm *flat = NULL, *part = NULL, *inside = NULL, *across = NULL, *hier = NULL;
    CHECK_OK(world->ops->duplicate(world, &flat));
    CHECK_OK(world->ops->split(world, host, &part));
    CHECK_OK(ls_comm_shm(part, &inside));
    part->ops->destroy(part);
    CHECK_OK(world->ops->split(world, place, &across));
    CHECK_OK(ls_comm_hier(flat, inside, across, &hier));
    tree_of_sums = in_order && (local & (local - 1)) == 0;
    check_all(hier);
    tree_of_sums = true;
    ls_comm *copy = NULL;
    float one = 1;
    CHECK_OK(hier->ops->duplicate(hier, &copy));
    CHECK_STR(copy->ops->name, "hier");
    CHECK_OK(copy->ops->all_reduce(copy, &one, 1, LS_F32, LS_SUM));
    CHECK(one == (float)world->size);
    copy->ops->destroy(copy);
    hier->ops->destroy(hier);
}

/* Groups that are no hosts of equal size. */
static void check_uneven(ls_comm *world) {
    ls_comm *flat = NULL, *inside = NULL, *across = NULL, *hier = NULL;
    CHECK_OK(world->ops->duplicate(world, &flat));
    CHECK_OK(world->ops->split(world, world->rank > 0, &inside));
    CHECK_OK(world->ops->split(world, world->rank == 1, &across));
    CHECK_STATUS(ls_comm_hier(flat, inside, across, &hier), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("same number of ranks");
}

/* All ranks share this machine. */
static void check_choice(ls_comm *world) {
    static const char *const names[] = {
        [LS_TRANSPORT_AUTO] = "shm", [LS_TRANSPORT_MPI] = "mpi", [LS_TRANSPORT_SHM] = "shm"};
    for (int t = LS_TRANSPORT_AUTO; t <= LS_TRANSPORT_SHM; t++) {
        ls_comm *comm = NULL;
        CHECK_OK(ls_comm_choose(world, (ls_transport)t, &comm));
        CHECK_STR(comm->ops->name, world->size > 1          ? names[t]
                                   : t == LS_TRANSPORT_AUTO ? "self"
                                                            : "mpi");
        comm->ops->destroy(comm);
    }
    ls_comm *comm = NULL;
    if (world->size > 1) {
        CHECK_STATUS(ls_comm_choose(world, LS_TRANSPORT_HIER, &comm), LS_E_CONFIG);
        CHECK_MESSAGE("ranks lie on one host, and the back end hier");
    }
}

int main(int argc, char **argv) {
    all_of_them = getenv("LOCKSTEP_TEST_ALL") != NULL;
    ls_comm *world = NULL, *self = NULL, *shm = NULL, *refused = NULL;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    if (world->size == 1) {
        CHECK_OK(ls_comm_self(&self));
        check_all(self);
        CHECK_STATUS(ls_comm_shm(self, &refused), LS_E_UNSUPPORTED);
        self->ops->destroy(self);
    }
    check_all(world);
    ls_comm_shm_chunk_bytes = 64 << 10; /* so that the largest sizes take several */
    CHECK_OK(ls_comm_shm(world, &shm));
    CHECK_STR(shm->ops->name, "shm");
    check_all(shm);
    shm->ops->destroy(shm);
    check_choice(world);
    if (world->size > 1) {
        check_mismatch(world);
    }
    ls_comm_hier_least_bytes = 1;
    ls_comm_hier_chunk_bytes = 100000;
    if (world->size == 4) {
        check_hier(world, 2, true);
        check_hier(world, 2, false);
    } else if (world->size == 6) { /* an odd number of ranks on a host */
        check_hier(world, 3, true);
    } else if (world->size > 1) { /* one rank on each host */
        check_hier(world, 1, true);
    }
    if (world->size == 3) {
        check_uneven(world);
    }
    int result = test_end();
    ls_comm_mpi_finalize();
    return result;
}
