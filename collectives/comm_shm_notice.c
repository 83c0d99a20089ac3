/* Notices of operations in shared memory, and operations whose data goes with them.
 *
 * Every rank numbers the operations alike and writes its notice of one into a ring of its own, last
 * of all the number; who waits for it looks at that one cache line, in which short data lies too.
 * An operation whose data goes with the notices takes one such look at each rank that has something
 * for this one, and no rank waits for those that it needs nothing from, unless they are NOTICES
 * operations behind. */
#include "collectives/combine.h"
#include "collectives/comm_shm_impl.h"

enum { BLOCK_ALIGN = 8 };

static shm_notice *notice_at(const shm_comm *c, int rank) {
    return &shm_part_of(c, rank)->notices[c->turn % NOTICES];
}

const shm_notice *ls_shm_notice_of(const shm_comm *c, int rank) {
    return notice_at(c, rank);
}

/* Where the data of a rank's notice lies: `bytes` of it. */
static char *carried_at(const shm_comm *c, int rank, int64_t bytes) {
    return bytes <= (int64_t)sizeof((shm_notice *)0)->data
               ? notice_at(c, rank)->data
               : shm_part_of(c, rank)->bodies[c->turn % NOTICES];
}

/* Bytes that this rank's notice would carry; of an exchange, blocks of *stride bytes. */
static int64_t carried_bytes(const shm_comm *c, const ls_comm_request *r, int64_t *stride) {
    int64_t most = 0;
    *stride = 0;
    switch (r->kind) {
    case SHM_BARRIER:
        return 0;
    case SHM_GATHER: /* all ranks draw the same conclusion */
        for (int rank = 0; rank < c->base.size; rank++) {
            most = r->send_counts[rank] > most ? r->send_counts[rank] : most;
        }
        return most;
    case SHM_EXCHANGE:
        for (int rank = 0; rank < c->base.size; rank++) {
            most =
                rank != c->base.rank && r->send_counts[rank] > most ? r->send_counts[rank] : most;
        }
        *stride = (most + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
        return *stride * c->base.size;
    default:
        return r->count * shm_elem_bytes(r);
    }
}

static void carry(const shm_comm *c, const ls_comm_request *r, int64_t bytes, int64_t stride) {
    const int me = c->base.rank;
    switch (r->kind) {
    case SHM_EXCHANGE: {
        char *to = carried_at(c, me, bytes);
        for (int rank = 0; rank < c->base.size; rank++) {
            if (rank != me) {
                shm_copy(to + rank * stride, r->send + r->send_offsets[rank], r->send_counts[rank]);
            }
        }
        break;
    }
    case SHM_GATHER:
        shm_copy(carried_at(c, me, r->send_counts[me]), r->send, r->send_counts[me]);
        break;
    case SHM_BROADCAST:
        if (me != r->root) {
            break;
        } /* fall through */
    default:
        shm_copy(carried_at(c, me, bytes), r->send, bytes);
        break;
    }
}

static bool may_announce(shm_comm *c) {
    if (c->turn < c->behind + NOTICES) {
        return true;
    }
    c->behind = c->turn;
    for (int rank = 0; rank < c->base.size; rank++) {
        const uint64_t finished =
            atomic_load_explicit(&shm_part_of(c, rank)->finished, memory_order_acquire);
        c->behind = rank != c->base.rank && finished < c->behind ? finished : c->behind;
    }
    return c->turn < c->behind + NOTICES;
}

bool ls_shm_announce(shm_comm *c, ls_comm_request *r) {
    if (!may_announce(c)) {
        return false;
    }
    shm_notice *n = notice_at(c, c->base.rank);
    int64_t stride;
    const int64_t bytes = carried_bytes(c, r, &stride);
    r->carried = bytes <= CARRIED_BYTES && !r->common;
    n->what = (uint32_t)r->kind << 24 | (uint32_t)r->dtype << 16 | (uint32_t)r->common << 15 |
              (uint32_t)r->op << 8 | ((uint32_t)r->root & 0xff);
    n->count = r->count;
    n->stride = r->carried ? (uint32_t)stride : MUCH;
    if (r->carried) {
        carry(c, r, bytes, stride);
    }
    if (!r->carried || r->kind == SHM_EXCHANGE) { /* others may have more to exchange */
        ls_shm_plan(c, r);
    }
    atomic_store_explicit(&n->turn, c->turn + 1, memory_order_release);
    r->announced = true;
    return true;
}

/* Does this rank need something of another's for the operation? */
static bool listens_to(const shm_comm *c, const ls_comm_request *r, int rank) {
    if (rank == c->base.rank) {
        return false;
    }
    if (!r->carried || r->root == EVERYBODY) {
        return true;
    }
    return r->kind == SHM_BROADCAST ? rank == r->root : r->root == c->base.rank;
}

static ls_status compare(const shm_comm *c, int rank) {
    const shm_notice *mine = notice_at(c, c->base.rank), *n = notice_at(c, rank);
    if (n->what == mine->what && n->count == mine->count) {
        return LS_OK;
    }
    return LS_FAIL(LS_E_COMM,
                   "ranks %d and %d are in different collectives (0x%08x over %lld, 0x%08x over "
                   "%lld); all ranks must make the same calls",
                   c->base.rank, rank, mine->what, (long long)mine->count, n->what,
                   (long long)n->count);
}

bool ls_shm_hear(shm_comm *c, ls_comm_request *r) {
    for (; r->heard < c->base.size - 1; r->heard++) {
        const int rank = (c->base.rank + 1 + r->heard) % c->base.size;
        if (!listens_to(c, r, rank)) {
            continue;
        }
        const shm_notice *n = notice_at(c, rank);
        if (atomic_load_explicit(&n->turn, memory_order_acquire) != c->turn + 1) {
            return false;
        }
        r->status = r->status == LS_OK ? compare(c, rank) : r->status;
        r->carried = r->carried && n->stride != MUCH;
    }
    return true;
}

void ls_shm_take_carried(shm_comm *c, const ls_comm_request *r) {
    const int me = c->base.rank, size = c->base.size;
    const int64_t bytes = r->count * shm_elem_bytes(r);
    if (r->kind == SHM_REDUCE || r->kind == SHM_SCATTER) {
        const bool block = r->kind == SHM_SCATTER;
        if (!shm_receives(c, r)) {
            return;
        }
        for (int rank = 0; rank < size; rank++) {
            c->from[rank] =
                carried_at(c, rank, bytes) + (block ? r->send_offsets[me] * shm_elem_bytes(r) : 0);
        }
        c->to[0] = r->recv;
        ls_combine_ranks(r->dtype, r->op, size, c->from, 1, c->to,
                         block ? r->send_counts[me] : r->count, false);
    } else if (r->kind == SHM_BROADCAST && me != r->root) {
        shm_copy(r->recv, carried_at(c, r->root, bytes), bytes);
    } else if (r->kind == SHM_GATHER || r->kind == SHM_EXCHANGE) {
        for (int i = 1; i < size; i++) {
            const int rank = (me + i) % size;
            const int64_t n = r->recv_counts[rank], stride = notice_at(c, rank)->stride;
            const char *from = r->kind == SHM_GATHER
                                   ? carried_at(c, rank, n)
                                   : carried_at(c, rank, stride * size) + me * stride;
            shm_copy(r->recv + r->recv_offsets[rank], from, n);
        }
    }
}
