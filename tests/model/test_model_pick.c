/* Which tokens are drawn from, and how often, against the definitions in plain loops. */
#include "runtime/base/rng.h"
#include "runtime/model/pick.h"
#include "tests/test.h"

#include <math.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

enum { VOCAB = 211, DRAWS = 4000 };

static double weight(const float *logits, int i, double temperature) {
    double top = -INFINITY;
    for (int k = 0; k < VOCAB; k++) {
        top = fmax(top, (double)logits[k]);
    }
    return exp(((double)logits[i] - top) / temperature);
}

/* probabilities [VOCAB]: a token stays when fewer than k are likelier, and then when those of the
 * rest that are likelier have less than p of the rest's probability. */
static void expect(const ls_pick_options *o, const float *logits, double *probabilities) {
    double all = 0.0, kept = 0.0;
    for (int i = 0; i < VOCAB; i++) {
        int likelier = 0;
        for (int k = 0; k < VOCAB; k++) {
            likelier += logits[k] > logits[i];
        }
        const bool stays = o->top_k == 0 || likelier < o->top_k;
        probabilities[i] = stays ? weight(logits, i, o->temperature) : 0.0;
        all += probabilities[i];
    }
    bool in[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        double before = 0.0;
        for (int k = 0; k < VOCAB; k++) {
            before += logits[k] > logits[i] ? probabilities[k] : 0.0;
        }
        in[i] = before < o->top_p * all || before == 0.0;
        kept += in[i] ? probabilities[i] : 0.0;
    }
    for (int i = 0; i < VOCAB; i++) {
        probabilities[i] = in[i] ? probabilities[i] / kept : 0.0;
    }
}

static void check(const ls_pick_options *o, const float *logits) {
    double probabilities[VOCAB];
    float scratch[VOCAB];
    int64_t found[VOCAB] = {0};
    expect(o, logits, probabilities);
    for (uint64_t index = 0; index < DRAWS; index++) {
        int32_t token = -1;
        CHECK_OK(ls_pick(o, logits, VOCAB, scratch, index, &token));
        CHECK(token >= 0 && token < VOCAB);
        found[token]++;
    }
    double chi = 0.0;
    int kinds = -1;
    for (int i = 0; i < VOCAB; i++) {
        const double expected = probabilities[i] * DRAWS;
        if (probabilities[i] == 0.0) {
            CHECK_INT(found[i], 0);
        } else if (expected >= 5.0) {
            chi += ((double)found[i] - expected) * ((double)found[i] - expected) / expected;
            kinds++;
        }
    }
    CHECK(kinds < 1 || chi < kinds + 5.0 * sqrt(2.0 * kinds) + 5.0);
}

int main(void) {
    float logits[VOCAB], scratch[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = (float)(3.0 * ls_rng_normal(5, 1, (uint64_t)i));
    }
    for (int i = 0; i < VOCAB; i += 7) { /* equally likely ones */
        logits[i] = logits[(i + 14) % VOCAB];
    }
    const double ps[] = {1.0, 0.999, 0.9, 0.5, 0.1, 0.0};
    const int64_t ks[] = {0, 1, 2, 40, VOCAB, 3 * VOCAB};
    const double temperatures[] = {0.3, 1.0, 2.5};
    for (size_t t = 0; t < COUNT(temperatures); t++) {
        for (size_t p = 0; p < COUNT(ps); p++) {
            for (size_t k = 0; k < COUNT(ks); k++) {
                check(&(ls_pick_options){temperatures[t], ks[k], ps[p], 7 + p}, logits);
            }
        }
    }
    float even[VOCAB] = {0.0f}; /* all equally likely: all stay */
    check(&(ls_pick_options){1.0, 3, 0.3, 1}, even);

    int32_t token, again;
    const ls_pick_options greedy = {.temperature = 0.0, .top_p = 0.5, .top_k = 3};
    CHECK_OK(ls_pick(&greedy, logits, VOCAB, scratch, 0, &token));
    for (int i = 0; i < VOCAB; i++) {
        CHECK(logits[i] <= logits[token]);
    }
    const ls_pick_options cold = {.temperature = 1e-300, .top_p = 0.5, .top_k = 3};
    CHECK_OK(ls_pick(&cold, logits, VOCAB, scratch, 0, &again));
    CHECK(logits[again] == logits[token]);
    for (int i = 0; i < 3; i++) {
        const float bad[] = {NAN, INFINITY, -INFINITY};
        logits[100] = bad[i];
        CHECK_STATUS(ls_pick(&greedy, logits, VOCAB, scratch, 0, &token), LS_E_DIVERGED);
        CHECK_MESSAGE("the logit of token 100 is");
    }
    return test_end();
}
