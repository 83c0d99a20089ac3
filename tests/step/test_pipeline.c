/* Schedules of all small pipelines: each pass once, in order, never blocking, with messages in the
 * order in which they are awaited; and the bubbles that the paper gives. */
#include "runtime/step/pipeline.h"

#include "tests/step/zero_bubble.h"
#include "tests/test.h"

enum { MAX_RANKS = 6, MAX_PARTS = 3, MAX_MICROS = 14, MAX_PASSES = 2 * MAX_PARTS * MAX_MICROS };

static ls_pipe_pass lists[MAX_RANKS][MAX_PASSES];

static int stage_of(const ls_pipe_shape *s, int rank, const ls_pipe_pass *p) {
    return p->part * s->ranks + rank;
}

/* Each part's passes of a kind come by micro-batch, a backward pass after its forward one. */
static int count_disorder(const ls_pipe_shape *s, const ls_pipe_pass *list) {
    int64_t next[MAX_PARTS][2] = {{0}};
    int wrong = 0;
    for (int64_t i = 0; i < ls_pipeline_passes(s); i++) {
        const ls_pipe_pass *p = &list[i];
        wrong += p->part < 0 || p->part >= s->parts || p->micro != next[p->part][p->backward]++;
        wrong += p->backward && next[p->part][0] <= p->micro;
    }
    for (int part = 0; part < s->parts; part++) {
        wrong += next[part][0] != s->micros || next[part][1] != s->micros;
    }
    return wrong;
}

/* Messages of a kind from rank a to rank b, numbered by stage and micro-batch: as sent, and as
 * awaited. */
static int count_crossings(const ls_pipe_shape *s, int a, int b, bool backward) {
    const int stages = s->ranks * s->parts;
    int64_t sent[MAX_PASSES], awaited[MAX_PASSES];
    int sends = 0, receives = 0, wrong = 0;
    for (int64_t i = 0; i < ls_pipeline_passes(s); i++) {
        const ls_pipe_pass *p = &lists[a][i], *q = &lists[b][i];
        int to = stage_of(s, a, p) + (p->backward ? -1 : 1);
        if (p->backward == backward && to >= 0 && to < stages && to % s->ranks == b) {
            sent[sends++] = to * 1000 + p->micro;
        }
        int at = stage_of(s, b, q), from = at + (q->backward ? 1 : -1);
        if (q->backward == backward && from >= 0 && from < stages && from % s->ranks == a) {
            awaited[receives++] = at * 1000 + q->micro;
        }
    }
    for (int i = 0; i < sends && i < receives; i++) {
        wrong += sent[i] != awaited[i];
    }
    return wrong + abs(sends - receives);
}

static void check_shape(const ls_pipe_shape *s) {
    int wrong = 0;
    for (int rank = 0; rank < s->ranks; rank++) {
        CHECK_OK(ls_pipeline_schedule(s, rank, lists[rank]));
        wrong += count_disorder(s, lists[rank]);
        if (s->parts == 1) {
            int64_t most = s->ranks - rank < s->micros ? s->ranks - rank : s->micros;
            CHECK_INT(ls_pipeline_alive(s, lists[rank], 0), most);
        }
    }
    for (int a = 0; a < s->ranks && s->ranks > 1; a++) {
        for (int b = 0; b < s->ranks; b++) {
            wrong += count_crossings(s, a, b, false) + count_crossings(s, a, b, true);
        }
    }
    ls_pipe_time time;
    CHECK_OK(ls_pipeline_simulate(s, &(ls_pipe_costs){1, 2, 0.25}, &time));
    if (wrong > 0 || time.bubble < -1e-12 || time.bubble >= 1) {
        TEST_FAIL_("%d ranks, %d parts, %lld micro-batches: %d wrong, bubble %g", s->ranks,
                   s->parts, (long long)s->micros, wrong, time.bubble);
    }
}

static void test_all(void) {
    for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
        for (int parts = 1; parts <= MAX_PARTS; parts++) {
            for (int64_t micros = 1; micros <= MAX_MICROS; micros++) {
                check_shape(&(ls_pipe_shape){ranks, parts, micros});
            }
        }
    }
}

/* (P - 1) / (M V + P - 1), section 2.2 of the paper: idle time over the whole. */
static void test_bubbles(void) {
    for (int ranks = 1; ranks <= 8; ranks++) {
        for (int parts = 1; parts <= 4; parts++) {
            for (int64_t micros = ranks; micros <= 4 * ranks; micros += ranks) {
                ls_pipe_time time;
                const ls_pipe_shape s = {ranks, parts, micros};
                CHECK_OK(ls_pipeline_simulate(&s, &(ls_pipe_costs){1, 2, 0}, &time));
                CHECK_NEAR(time.bubble, (ranks - 1.0) / ((double)(micros * parts) + ranks - 1), 0,
                           1e-12);
                CHECK_NEAR(time.seconds, 3.0 * ((double)(micros * parts) + ranks - 1), 1e-12, 0);
            }
        }
    }
}

/* The shortest warm-up is found in a number of tries that grows like the logarithm of its length;
 * that it is the shortest shows in the time. Groups that are not full need a long one. */
static void test_tries(void) {
    ls_pipe_time time;
    CHECK_OK(ls_pipeline_simulate(&(ls_pipe_shape){16, 7, 320}, &(ls_pipe_costs){1, 2, 0}, &time));
    CHECK_INT(time.tries, 1);
    CHECK_OK(ls_pipeline_simulate(&(ls_pipe_shape){16, 7, 321}, &(ls_pipe_costs){1, 2, 0}, &time));
    CHECK(time.tries > 1 && time.tries <= 14); /* 2 + log2(7 x 321) */
}

/* ZB-H1 beside what runs. It idles for as long as its paper says (2.3), with the activations of
 * 1F1B and gradients of outputs beside them; interleaved 1F1B of 3 parts is as good where the three
 * passes take equally long, and of 4 better, also when each message takes a 50th of a stage's pass.
 */
static void test_zero_bubble(void) {
    const split_costs costs[] = {{1, 1, 1, 0}, {1, 1.2, 0.8, 0}, {1, 1, 1, 0.02}};
    for (int ranks = 2; ranks <= 8; ranks++) {
        for (int64_t micros = ranks; micros <= 4 * ranks; micros += ranks) {
            for (int i = 0; i < 3; i++) {
                const split_costs *c = &costs[i];
                const double f = c->forward_s, b = c->input_s + c->weight_s, t = c->transfer_s;
                const double work = (double)micros * (f + b);
                split_time split;
                ls_pipe_time plain, three, four;
                CHECK_OK(zero_bubble_play(ranks, micros, c, &split));
                CHECK_OK(ls_pipeline_simulate(&(ls_pipe_shape){ranks, 1, micros},
                                              &(ls_pipe_costs){f, b, t}, &plain));
                CHECK_OK(ls_pipeline_simulate(&(ls_pipe_shape){ranks, 3, micros},
                                              &(ls_pipe_costs){f / 3, b / 3, t}, &three));
                CHECK_OK(ls_pipeline_simulate(&(ls_pipe_shape){ranks, 4, micros},
                                              &(ls_pipe_costs){f / 4, b / 4, t}, &four));
                CHECK_INT(split.alive, ranks);
                CHECK_INT(split.held, ranks);
                CHECK(split.bubble < plain.bubble);
                if (t == 0.0) {
                    CHECK_NEAR(split.seconds, work + (ranks - 1) * (f + c->input_s - c->weight_s),
                               1e-12, 0);
                    CHECK(three.bubble < split.bubble + 1e-12);
                }
                CHECK(four.bubble < split.bubble);
                if (getenv("LOCKSTEP_TEST_ALL")) {
                    printf(
                        "%d ranks, %lld micro-batches, passes of %g, %g and %g, transfer %g: idle "
                        "%.1f%% zero-bubble, %.1f%% 1F1B, %.1f%% in 3 and %.1f%% in 4 parts\n",
                        ranks, (long long)micros, f, c->input_s, c->weight_s, t, 100 * split.bubble,
                        100 * plain.bubble, 100 * three.bubble, 100 * four.bubble);
                }
            }
        }
    }
}

static void test_refused(void) {
    ls_pipe_time time;
    CHECK_STATUS(ls_pipeline_simulate(&(ls_pipe_shape){2, 1, 0}, &(ls_pipe_costs){1, 1, 0}, &time),
                 LS_E_SHAPE);
    CHECK_MESSAGE("0 micro-batches");
    CHECK_STATUS(ls_pipeline_schedule(&(ls_pipe_shape){2, 1, 1}, 2, lists[0]), LS_E_SHAPE);
    CHECK_MESSAGE("pipeline rank 2 of 2");
}

int main(void) {
    test_all();
    test_bubbles();
    test_zero_bubble();
    test_tries();
    test_refused();
    return test_end();
}
