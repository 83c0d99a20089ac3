#include "runtime/step/pipeline.h"

#include "runtime/base/arena.h"

#include <math.h>
#include <stdlib.h>

static int64_t min_i64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static ls_status check_shape(const ls_pipe_shape *s) {
    if (s->ranks < 1 || s->parts < 1 || s->micros < 1) {
        return LS_FAIL(LS_E_SHAPE,
                       "a pipeline of %d ranks with %d parts each and %lld micro-batches; at least "
                       "1 of each is expected",
                       s->ranks, s->parts, (long long)s->micros);
    }
    return LS_OK;
}

/* The n-th pass of either kind: groups of P micro-batches go through all parts, in order forward
 * and from the last backward. */
static ls_pipe_pass nth_pass(const ls_pipe_shape *s, int64_t n, bool backward) {
    const int64_t group = n / ((int64_t)s->ranks * s->parts), first = group * s->ranks;
    const int64_t size = min_i64(s->ranks, s->micros - first);
    const int64_t inside = n - first * s->parts;
    const int part = (int)(inside / size);
    return (ls_pipe_pass){.backward = backward,
                          .part = backward ? s->parts - 1 - part : part,
                          .micro = first + inside % size};
}

/* `more`: passes of warming up beyond the rule of the paper. */
static void list_passes(const ls_pipe_shape *s, int rank, int64_t more, ls_pipe_pass *passes) {
    const int64_t total = s->parts * s->micros;
    int64_t warm = s->parts == 1 ? s->ranks - rank - 1
                                 : (s->ranks - rank - 1) * 2 + (int64_t)(s->parts - 1) * s->ranks;
    warm = min_i64(warm + more, total);
    int64_t at = 0, forward = 0, backward = 0;
    while (forward < warm) {
        passes[at++] = nth_pass(s, forward++, false);
    }
    while (backward < total) {
        if (forward < total) {
            passes[at++] = nth_pass(s, forward++, false);
        }
        passes[at++] = nth_pass(s, backward++, true);
    }
}

/* When passes end: [stages][micros] forward, then backward; NAN: not yet. */
typedef struct game {
    const ls_pipe_shape *shape;
    ls_pipe_costs costs;
    ls_pipe_pass *passes; /* [ranks][passes] */
    int64_t *next;        /* [ranks] */
    double *free_at;      /* [ranks] */
    double *ends;
    int tries; /* warm-ups that were played */
} game;

static double *end_of(const game *g, bool backward, int stage, int64_t micro) {
    const int64_t stages = (int64_t)g->shape->ranks * g->shape->parts;
    return &g->ends[((backward ? stages : 0) + stage) * g->shape->micros + micro];
}

/* Makes a rank's next pass if what it needs is there. */
static bool play(game *g, int rank) {
    const int64_t count = ls_pipeline_passes(g->shape);
    if (g->next[rank] == count) {
        return false;
    }
    const ls_pipe_pass *p = &g->passes[rank * count + g->next[rank]];
    const int stages = g->shape->ranks * g->shape->parts;
    const int stage = p->part * g->shape->ranks + rank;
    double start = g->free_at[rank];
    const int from = p->backward ? stage + 1 : stage - 1;
    if (from >= 0 && from < stages) {
        const double handed = *end_of(g, p->backward, from, p->micro);
        start = fmax(start, handed + (g->shape->ranks > 1 ? g->costs.transfer_s : 0.0));
        if (isnan(handed)) {
            return false;
        }
    }
    if (p->backward && isnan(*end_of(g, false, stage, p->micro))) {
        return false;
    }
    g->free_at[rank] = start + (p->backward ? g->costs.backward_s : g->costs.forward_s);
    *end_of(g, p->backward, stage, p->micro) = g->free_at[rank];
    g->next[rank]++;
    return true;
}

/* False: the lists block each other. */
static bool play_all(game *g) {
    const int64_t count = ls_pipeline_passes(g->shape);
    int64_t left = count * g->shape->ranks;
    for (bool moved = true; left > 0 && moved;) {
        moved = false;
        for (int rank = 0; rank < g->shape->ranks; rank++) {
            while (play(g, rank)) {
                moved = true;
                left--;
            }
        }
    }
    return left == 0;
}

/* False: the lists of that warm-up block each other. */
static bool play_with(game *g, int64_t more) {
    const ls_pipe_shape *s = g->shape;
    g->tries++;
    for (int rank = 0; rank < s->ranks; rank++) {
        list_passes(s, rank, more, g->passes + rank * ls_pipeline_passes(s));
        g->next[rank] = 0;
        g->free_at[rank] = 0.0;
    }
    for (int64_t i = 0; i < s->ranks * ls_pipeline_passes(s); i++) {
        g->ends[i] = NAN;
    }
    return play_all(g);
}

static void end_game(game *g) {
    free(g->passes);
    free(g->next);
    free(g->free_at);
    free(g->ends);
}

/* Finds the shortest warm-up that does not block, and plays with it. All forward passes first never
 * block. In a circle of passes that wait for each other, a backward pass of rank a holds up a
 * forward one that stands warm(a) + 1 further in its list, and a forward pass of rank b a backward
 * one that stands warm(b) before it; more warming up, cut off at all passes, never widens
 * warm(b) - warm(a) where that is above 0. So what does not block does not block with more, and
 * halving the range finds the shortest. */
static ls_status begin_game(const ls_pipe_shape *s, const ls_pipe_costs *costs, game *g) {
    *g = (game){.shape = s, .costs = *costs};
    LS_TRY(check_shape(s));
    const size_t all = (size_t)s->ranks * (size_t)ls_pipeline_passes(s);
    LS_TRY(ls_calloc(all, sizeof *g->passes, &g->passes));
    LS_TRY(ls_calloc((size_t)s->ranks, sizeof *g->next, &g->next));
    LS_TRY(ls_calloc((size_t)s->ranks, sizeof *g->free_at, &g->free_at));
    LS_TRY(ls_calloc(all, sizeof *g->ends, &g->ends));
    if (play_with(g, 0)) {
        return LS_OK;
    }
    int64_t blocks = 0, enough = s->parts * s->micros;
    while (enough - blocks > 1) {
        const int64_t middle = blocks + (enough - blocks) / 2;
        *(play_with(g, middle) ? &enough : &blocks) = middle;
    }
    (void)play_with(g, enough);
    return LS_OK;
}

ls_status ls_pipeline_schedule(const ls_pipe_shape *shape, int rank, ls_pipe_pass *passes) {
    game g;
    const ls_pipe_costs even = {.forward_s = 1.0, .backward_s = 2.0};
    ls_status status = begin_game(shape, &even, &g);
    if (status == LS_OK && (rank < 0 || rank >= shape->ranks)) {
        status = LS_FAIL(LS_E_SHAPE, "pipeline rank %d of %d", rank, shape->ranks);
    }
    for (int64_t i = 0; status == LS_OK && i < ls_pipeline_passes(shape); i++) {
        passes[i] = g.passes[rank * ls_pipeline_passes(shape) + i];
    }
    end_game(&g);
    return status;
}

int ls_pipeline_alive(const ls_pipe_shape *shape, const ls_pipe_pass *passes, int part) {
    int alive = 0, most = 0;
    for (int64_t i = 0; i < ls_pipeline_passes(shape); i++) {
        if (passes[i].part == part) {
            alive += passes[i].backward ? -1 : 1;
            most = alive > most ? alive : most;
        }
    }
    return most;
}

ls_status ls_pipeline_simulate(const ls_pipe_shape *shape, const ls_pipe_costs *costs,
                               ls_pipe_time *time) {
    game g;
    *time = (ls_pipe_time){0};
    ls_status status = begin_game(shape, costs, &g);
    for (int rank = 0; status == LS_OK && rank < shape->ranks; rank++) {
        time->seconds = fmax(time->seconds, g.free_at[rank]);
    }
    if (status == LS_OK && time->seconds > 0.0) {
        const double busy =
            (double)(shape->parts * shape->micros) * (costs->forward_s + costs->backward_s);
        time->bubble = 1.0 - busy / time->seconds;
    }
    time->tries = g.tries;
    end_game(&g);
    return status;
}
