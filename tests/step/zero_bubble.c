#include "tests/step/zero_bubble.h"

#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>

typedef enum kind { FORWARD, INPUT, WEIGHT, KINDS } kind;

typedef struct pass {
    kind kind;
    int64_t micro;
} pass;

/* 1F1B up to backward passes in two; rank p makes weight gradients p micro-batches late, so that no
 * rank keeps more of them alive than the first, and the rest where it would wait at the end. */
static void list_passes(int ranks, int64_t micros, int rank, pass *passes) {
    const int64_t warm = ranks - rank - 1 < micros ? ranks - rank - 1 : micros;
    int64_t at = 0, done[KINDS] = {0};
    while (done[FORWARD] < warm) {
        passes[at++] = (pass){FORWARD, done[FORWARD]++};
    }
    while (done[INPUT] < micros) {
        if (done[FORWARD] < micros) {
            passes[at++] = (pass){FORWARD, done[FORWARD]++};
        }
        passes[at++] = (pass){INPUT, done[INPUT]++};
        const bool drains = done[FORWARD] == micros && done[INPUT] >= micros - warm;
        if (done[INPUT] - done[WEIGHT] > rank || (drains && done[WEIGHT] < done[INPUT])) {
            passes[at++] = (pass){WEIGHT, done[WEIGHT]++};
        }
    }
    while (done[WEIGHT] < micros) {
        passes[at++] = (pass){WEIGHT, done[WEIGHT]++};
    }
}

typedef struct play {
    const split_costs *costs;
    int ranks;
    int64_t micros;
    pass *passes; /* [ranks][KINDS * micros] */
    double *ends; /* [KINDS][ranks][micros]; NAN: not yet */
} play;

static double *end_of(const play *p, kind k, int rank, int64_t micro) {
    return &p->ends[((int64_t)k * p->ranks + rank) * p->micros + micro];
}

/* When a rank's pass can begin; NAN: what it needs is not there. */
static double start_of(const play *p, int rank, pass x, double free_at) {
    const int from = x.kind == FORWARD ? rank - 1 : rank + 1;
    if (x.kind == WEIGHT || from < 0 || from == p->ranks) {
        return free_at;
    }
    const double handed = *end_of(p, x.kind, from, x.micro) + p->costs->transfer_s;
    return isnan(handed) ? NAN : fmax(free_at, handed);
}

static double run(const play *p, double *free_at, int64_t *next) {
    const double seconds[KINDS] = {p->costs->forward_s, p->costs->input_s, p->costs->weight_s};
    double last = 0.0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int rank = 0; rank < p->ranks; rank++) {
            while (next[rank] < KINDS * p->micros) {
                const pass x = p->passes[rank * KINDS * p->micros + next[rank]];
                const double start = start_of(p, rank, x, free_at[rank]);
                if (isnan(start)) {
                    break;
                }
                free_at[rank] = *end_of(p, x.kind, rank, x.micro) = start + seconds[x.kind];
                last = fmax(last, free_at[rank]);
                next[rank]++;
                moved = true;
            }
        }
    }
    return last;
}

static void count_kept(const play *p, split_time *time) {
    for (int rank = 0; rank < p->ranks; rank++) {
        int64_t done[KINDS] = {0};
        for (int64_t i = 0; i < KINDS * p->micros; i++) {
            done[p->passes[rank * KINDS * p->micros + i].kind]++;
            const int alive = (int)(done[FORWARD] - done[WEIGHT]);
            const int held = (int)(done[INPUT] - done[WEIGHT]);
            time->alive = alive > time->alive ? alive : time->alive;
            time->held = held > time->held ? held : time->held;
        }
    }
}

ls_status zero_bubble_play(int ranks, int64_t micros, const split_costs *costs, split_time *time) {
    play p = {.costs = costs, .ranks = ranks, .micros = micros};
    double *free_at = NULL;
    int64_t *next = NULL;
    *time = (split_time){0};
    if (ranks < 1 || micros < 1) {
        return LS_FAIL(LS_E_SHAPE,
                       "a pipeline of %d ranks with %lld micro-batches; at least 1 of "
                       "each is expected",
                       ranks, (long long)micros);
    }
    const size_t all = KINDS * (size_t)ranks * (size_t)micros;
    ls_status status;
    LS_TRY_GOTO(ls_calloc(all, sizeof *p.passes, &p.passes), done);
    LS_TRY_GOTO(ls_calloc(all, sizeof *p.ends, &p.ends), done);
    LS_TRY_GOTO(ls_calloc((size_t)ranks, sizeof *free_at, &free_at), done);
    LS_TRY_GOTO(ls_calloc((size_t)ranks, sizeof *next, &next), done);
    for (size_t i = 0; i < all; i++) {
        p.ends[i] = NAN;
    }
    for (int rank = 0; rank < ranks; rank++) {
        list_passes(ranks, micros, rank, p.passes + rank * KINDS * micros);
    }
    time->seconds = run(&p, free_at, next);
    time->bubble = 1.0 - (double)micros * (costs->forward_s + costs->input_s + costs->weight_s) /
                             time->seconds;
    count_kept(&p, time);
done:
    free(p.passes);
    free(p.ends);
    free(free_at);
    free(next);
    return status;
}
