/* Short messages between two ranks in shared memory: a ring from each to each that is near, in the
 * sender's part of the window. A message is on its way when its number is in its letter, which the
 * receiver looks at; both know its length, so that long ones can go through MPI without a word
 * about it. */
#include "collectives/comm_shm_impl.h"

int ls_comm_shm_reach = REACH;

/* Those ahead in the ring come first, those behind last; NULL: too far. */
static shm_channel *channel(const shm_comm *c, int from, int to) {
    const int size = c->base.size, ahead = (to - from + size) % size, behind = size - ahead;
    shm_channel *channels = shm_part_of(c, from)->channels;
    return ahead < c->channels - c->channels / 2 ? &channels[ahead]
           : behind <= c->channels / 2           ? &channels[c->channels - behind]
                                                 : NULL;
}

void ls_shm_open_channels(shm_comm *c) {
    for (int rank = 0; rank < c->base.size; rank++) {
        c->mail[rank].out = channel(c, c->base.rank, rank);
        c->mail[rank].in = channel(c, rank, c->base.rank);
    }
}

static char *data_of(shm_channel *ch, uint64_t number, int64_t bytes) {
    return bytes <= (int64_t)sizeof ch->letters->data ? ch->letters[number % LETTERS].data
                                                      : ch->bodies[number % LETTERS];
}

static bool try_send(shm_comm *c, ls_comm_request *r) {
    shm_mail *mail = &c->mail[r->root];
    shm_channel *ch = mail->out;
    if (mail->sent == mail->taken + LETTERS) {
        mail->taken = atomic_load_explicit(&ch->taken, memory_order_acquire);
    }
    if (mail->sent == mail->taken + LETTERS) {
        return false;
    }
    shm_copy(data_of(ch, mail->sent, r->count), r->send, r->count);
    atomic_store_explicit(&ch->letters[mail->sent % LETTERS].turn, mail->sent + 1,
                          memory_order_release);
    mail->sent++;
    mail->sends = r->next;
    return true;
}

static bool try_receive(shm_comm *c, ls_comm_request *r) {
    shm_mail *mail = &c->mail[r->root];
    shm_channel *ch = mail->in;
    const uint64_t turn =
        atomic_load_explicit(&ch->letters[mail->received % LETTERS].turn, memory_order_acquire);
    if (turn != mail->received + 1) {
        return false;
    }
    shm_copy(r->recv, data_of(ch, mail->received, r->count), r->count);
    mail->received++;
    atomic_store_explicit(&ch->taken, mail->received, memory_order_release);
    mail->recvs = r->next;
    return true;
}

static void end(shm_comm *c, ls_comm_request *r) {
    r->done = true;
    c->letters--;
    c->pump.pending--;
}

void ls_shm_deliver(shm_comm *c) {
    for (int rank = 0; rank < c->base.size; rank++) {
        shm_mail *mail = &c->mail[rank];
        ls_comm_request *r;
        while ((r = mail->sends) && try_send(c, r)) {
            end(c, r);
        }
        while ((r = mail->recvs) && try_receive(c, r)) {
            end(c, r);
        }
    }
}
