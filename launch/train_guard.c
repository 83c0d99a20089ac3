#include "launch/train_guard.h"

#include "runtime/base/arena.h"
#include "runtime/base/log.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

/* A name for people: the host of a rank. */
typedef struct place {
    char host[64], param[64];
    int64_t found;  /* 0: nothing to tell */
    int64_t weight; /* the parameter itself is not finite */
} place;

static const char *own_host(void) {
    static char host[64];
    gethostname(host, sizeof host - 1);
    return host;
}

/* Owned elements of one parameter, in order of the ranges: calls visit with each stretch, on the
 * host. */
typedef void (*visit_fn)(void *context, const void *data, int64_t elems);

enum { CHUNK_BYTES = 4 << 20 };

static ls_status visit_stretch(const ls_train *train, const char *data, int64_t elems,
                               visit_fn visit, void *context) {
    ls_device *dev = train->session.dev;
    const int64_t width = (int64_t)ls_dtype_bytes(dev->acc), chunk = CHUNK_BYTES / width;
    if (dev->host_memory) {
        visit(context, data, elems);
        return LS_OK;
    }
    char *host;
    LS_TRY(ls_calloc(1, CHUNK_BYTES, &host));
    ls_status status = LS_OK;
    for (int64_t at = 0; at < elems && status == LS_OK; at += chunk) {
        const int64_t n = elems - at < chunk ? elems - at : chunk;
        status = dev->ops->download(dev, host, data + at * width, (size_t)(n * width));
        if (status == LS_OK) {
            visit(context, host, n);
        }
    }
    free(host);
    return status;
}

/* Of which numbers: gradients, masters, or a state of the optimizer from STATES on. */
enum { GRADS, MASTERS, STATES };

static const char *numbers_at(const ls_train *train, int which, const ls_owned *owned,
                              int64_t elem) {
    const ls_state_buffers buffers = ls_state_buffers_of(train->state);
    if (which != GRADS) {
        return which == MASTERS ? ls_state_master_at(train->state, elem)
                                : ls_optim_state_at(train->optim, which - STATES, elem);
    }
    return (const char *)buffers.grads +
           ls_dtype_bytes(train->session.dev->acc) *
               (size_t)(buffers.compact_grads ? owned->place + elem - owned->range.first : elem);
}

static ls_status visit_param(const ls_train *train, const ls_param *param, int which,
                             visit_fn visit, void *context) {
    int count;
    const ls_owned *owned = ls_state_owned(train->state, &count);
    for (int i = 0; i < count; i++) {
        const ls_range *range = &owned[i].range;
        int64_t begin = range->first > param->offset ? range->first : param->offset;
        int64_t range_end = range->first + range->elems, param_end = param->offset + param->elems;
        int64_t end = range_end < param_end ? range_end : param_end;
        const char *data = begin < end ? numbers_at(train, which, &owned[i], begin) : NULL;
        if (data) {
            LS_TRY(visit_stretch(train, data, end - begin, visit, context));
        }
    }
    return LS_OK;
}

typedef struct hashing {
    uint64_t hash;
    size_t width;
} hashing;

static void hash_elems(void *context, const void *data, int64_t elems) {
    hashing *h = context;
    h->hash = XXH3_64bits_withSeed(data, (size_t)elems * h->width, h->hash);
}

static ls_status hash_param(const ls_train *train, const ls_param *param, uint64_t *hash) {
    hashing h = {.width = ls_dtype_bytes(train->session.dev->acc)};
    const int states = ls_optim_state_count(train->optim);
    for (int which = MASTERS; which < STATES + states; which++) {
        LS_TRY(visit_param(train, param, which, hash_elems, &h));
    }
    *hash = h.hash;
    return LS_OK;
}

/* Ranks with equal coordinates along these axes and equal ranges hold the same. */
static ls_status own_vote(const ls_train *train, ls_guard_vote *out) {
    int count, owned_count;
    const ls_param *params = ls_state_params(train->state, &count);
    const ls_owned *owned = ls_state_owned(train->state, &owned_count);
    const ls_mesh *mesh = &train->session.mesh;
    const ls_layout *l = &train->layout;
    const int32_t coords[3] = {mesh->coord[LS_AXIS_TENSOR], mesh->coord[LS_AXIS_PIPELINE],
                               ls_layout_data_rank(l) % l->experts};
    ls_guard_vote vote = {.group = XXH3_64bits(coords, sizeof coords)};
    for (int i = 0; i < owned_count; i++) {
        vote.group = XXH3_64bits_withSeed(&owned[i].range, sizeof owned[i].range, vote.group);
    }
    for (int i = 0; i < count; i++) {
        uint64_t hash;
        LS_TRY(hash_param(train, &params[i], &hash));
        vote.hash = XXH3_64bits_withSeed(&hash, sizeof hash, vote.hash);
    }
    *out = vote;
    return LS_OK;
}

static ls_status gather_places(ls_train *train, const place *mine, place **all) {
    ls_comm *comm = train->session.comm;
    LS_TRY(ls_session_agree(&train->session, ls_calloc((size_t)comm->size, sizeof **all, all)));
    ls_status status = comm->ops->all_gather(comm, mine, *all, sizeof *mine);
    if (status != LS_OK) {
        free(*all);
    }
    return status;
}

/* On every rank: the first parameter that differs from those of rank `model` of its group. */
static ls_status find_param(ls_train *train, const ls_guard_vote *votes, place *mine) {
    ls_comm *comm = train->session.comm;
    int count;
    const ls_param *params = ls_state_params(train->state, &count);
    int64_t most = count;
    LS_TRY(comm->ops->all_reduce(comm, &most, 1, LS_I64, LS_MAX));
    uint64_t *own = NULL, *all = NULL;
    ls_status status = ls_calloc((size_t)most, sizeof *own, &own);
    if (status == LS_OK) {
        status = ls_calloc((size_t)(most * comm->size), sizeof *all, &all);
    }
    for (int i = 0; i < count && status == LS_OK; i++) {
        status = hash_param(train, &params[i], &own[i]);
    }
    status = ls_session_agree(&train->session, status);
    if (status == LS_OK) {
        status = comm->ops->all_gather(comm, own, all, most * (int64_t)sizeof *own);
    }
    for (int r = 0; r < comm->size && status == LS_OK && !mine->found; r++) {
        for (int i = 0; i < count && !mine->found; i++) {
            if (votes[r].group == votes[comm->rank].group && all[r * most + i] != own[i]) {
                memcpy(mine->param, params[i].name, sizeof mine->param);
                mine->found = 1;
            }
        }
    }
    free(own);
    free(all);
    return status;
}

/* What all ranks hold, and those of them that hold something else. */
typedef struct ballot {
    ls_guard_vote *votes;
    int *odd;
    int count; /* of odd */
    bool undecided;
} ballot;

/* status: of making this rank's vote. Free the ballot's lists also after a failure. */
static ls_status vote(ls_train *train, ls_status status, const ls_guard_vote *mine, ballot *b) {
    ls_comm *comm = train->session.comm;
    *b = (ballot){0};
    status = status == LS_OK ? ls_calloc((size_t)comm->size, sizeof *b->votes, &b->votes) : status;
    status = status == LS_OK ? ls_calloc((size_t)comm->size, sizeof *b->odd, &b->odd) : status;
    LS_TRY(ls_session_agree(&train->session, status));
    LS_TRY(comm->ops->all_gather(comm, mine, b->votes, sizeof *mine));
    b->count = ls_guard_odd(b->votes, comm->size, b->odd, &b->undecided);
    return LS_OK;
}

static void ballot_free(ballot *b) {
    free(b->votes);
    free(b->odd);
}

/* Does the rank go wrong again? All ranks take its micro-batches of the next step, from one state
 * that all of them have made afresh, and compare the losses of their forward passes. Nothing of the
 * run is left in memory then. */
static ls_status probe(ls_train *train, int suspect, bool *again) {
    ls_layout other = train->layout; /* only its place among the data ranks counts */
    int coord[LS_AXIS_COUNT];
    ls_mesh_coords(&train->session.mesh, suspect, coord);
    other.mesh.coord[LS_AXIS_REPLICATE] = coord[LS_AXIS_REPLICATE];
    other.mesh.coord[LS_AXIS_SHARD] = coord[LS_AXIS_SHARD];
    const ls_loader_options options =
        ls_layout_loader(&other, train->train_data, train->next_sample);
    ls_loader_destroy(train->loader);
    train->loader = NULL;
    LS_TRY(ls_session_agree(&train->session, ls_loader_create(&options, &train->loader)));
    LS_TRY(ls_session_agree(&train->session,
                            ls_state_init(train->state, (uint64_t)train->config.run.seed)));
    const ls_step_options step = ls_train_step_options(train);
    ls_step_result result;
    LS_TRY(ls_step_run(&step, train->next_sample, &result));
    const int *at = train->session.mesh.coord;
    const int32_t same[] = {at[LS_AXIS_TENSOR], at[LS_AXIS_PIPELINE], at[LS_AXIS_CONTEXT]};
    ls_guard_vote mine = {.group = XXH3_64bits(same, sizeof same)};
    memcpy(&mine.hash, &result.own_loss, sizeof mine.hash);
    ballot b;
    const ls_status status = vote(train, LS_OK, &mine, &b);
    *again = false;
    for (int i = 0; i < b.count; i++) {
        *again = *again || b.odd[i] == suspect;
    }
    ballot_free(&b);
    return status;
}

static ls_status report_odd(ls_train *train, const ballot *b) {
    const int *odd = b->odd;
    place mine = {.found = 0}, *all;
    snprintf(mine.host, sizeof mine.host, "%s", own_host());
    LS_TRY(find_param(train, b->votes, &mine));
    LS_TRY(gather_places(train, &mine, &all));
    char who[400] = "";
    for (int i = 0; i < b->count && strlen(who) + 100 < sizeof who; i++) {
        size_t used = strlen(who);
        snprintf(who + used, sizeof who - used, "%srank %d on host %s", i ? ", " : "", odd[i],
                 all[odd[i]].host);
    }
    const char *param = all[odd[0]].param;
    bool again;
    ls_status status = ls_train_save_poll(train, true);
    status = status == LS_OK ? probe(train, odd[0], &again) : status;
    if (status != LS_OK) {
        free(all);
        return status;
    }
    char repeated[80]; /* launch/supervise looks for "rank N goes wrong again" */
    if (b->undecided) {
        snprintf(repeated, sizeof repeated, "%s",
                 again ? "they differ again" : "they agree: it did not repeat");
    } else {
        snprintf(repeated, sizeof repeated, "rank %d %s", odd[0],
                 again ? "goes wrong again" : "computes what they do: it did not repeat");
    }
    status = LS_FAIL(
        LS_E_DEVICE,
        "silent corruption: after step %lld %s %s, first in %s; %s. Run again on its data beside "
        "the others, %s. Nothing was saved from them: go on from the last checkpoint, and have the "
        "memory and processors of the host%s tested",
        (long long)train->step, who,
        b->undecided
            ? "hold parameters that should be equal and are not"
            : "holds parameters or optimizer states that differ from those of its replicas",
        param,
        b->undecided ? "which of them is wrong cannot be told" : "the others agree with each other",
        repeated, b->count == 1 ? "" : "s");
    free(all);
    return status;
}

ls_status ls_guard_replicas(ls_train *train) {
    if (train->session.comm->size == 1) {
        return LS_OK;
    }
    ls_guard_vote mine;
    ballot b;
    ls_status status = vote(train, own_vote(train, &mine), &mine, &b);
    if (b.count > 0) {
        status = ls_session_agree(&train->session, report_odd(train, &b));
    }
    ballot_free(&b);
    return status;
}

static void check_finite(void *context, const void *data, int64_t elems) {
    const float *x = data;
    for (int64_t i = 0; i < elems; i++) {
        if (!isfinite(x[i])) {
            *(bool *)context = true;
            return;
        }
    }
}

ls_status ls_guard_culprit(ls_train *train, char *text, size_t size) {
    place mine = {.found = 0}, *all;
    snprintf(mine.host, sizeof mine.host, "%s", own_host());
    int count;
    const ls_param *params = ls_state_params(train->state, &count);
    ls_status status = LS_OK;
    for (int i = 0; i < count && !mine.found && status == LS_OK; i++) {
        bool bad = false;
        status = visit_param(train, &params[i], MASTERS, check_finite, &bad);
        mine.weight = bad;
        if (status == LS_OK) {
            status = visit_param(train, &params[i], GRADS, check_finite, &bad);
        }
        if (bad) {
            memcpy(mine.param, params[i].name, sizeof mine.param);
            mine.found = 1;
        }
    }
    LS_TRY(ls_session_agree(&train->session, status));
    LS_TRY(gather_places(train, &mine, &all));
    snprintf(text, size, "the gradients are finite");
    for (int r = train->session.comm->size - 1; r >= 0; r--) {
        if (all[r].found) {
            snprintf(text, size, "first in %s%s, kept by rank %d on host %s",
                     all[r].weight ? "the weight " : "the gradient of ", all[r].param, r,
                     all[r].host);
        }
    }
    free(all);
    return LS_OK;
}

/* Stages of a pipeline have different work: a rank is compared with those of its stage, which are
 * neighbours. Finds the one that is furthest behind. */
static ls_lag_record find_slowest(const ls_train *train, const double *seconds) {
    const int stages = train->session.mesh.size[LS_AXIS_PIPELINE];
    const int each = train->session.comm->size / stages;
    ls_lag_record worst = {.steps = train->lag_steps, .factor = 0.0};
    for (int s = 0; s < stages; s++) {
        double factor;
        const int slowest = s * each + ls_guard_slowest(seconds + s * each, each, &factor);
        if (factor > worst.factor) {
            worst.rank = slowest;
            worst.factor = factor;
            worst.seconds = seconds[slowest] * (1.0 - 1.0 / factor);
        }
    }
    return worst;
}

/* A hiccup is none. Said by the rank itself, which knows its host; once. */
static void warn_of_straggler(ls_train *train, const ls_lag_record *worst) {
    ls_straggler *lag = &train->straggler;
    const double limit = train->config.faults.straggler;
    if (limit <= 1.0 || worst->factor <= limit || worst->rank != lag->rank) {
        *lag = (ls_straggler){.rank = worst->rank};
    }
    if (limit <= 1.0 || worst->factor <= limit) {
        return;
    }
    lag->windows++;
    lag->lost_s += worst->seconds;
    if (lag->windows >= 3 && lag->lost_s >= 1.0 && !lag->told) {
        lag->told = true;
        if (train->session.comm->rank == worst->rank) {
            ls_log_warn("this rank, on host %s, computes %.2f times as long as the median of "
                        "the ranks; the others have waited %.1f s for it: look for other jobs "
                        "and throttling there",
                        own_host(), worst->factor, lag->lost_s);
        }
    }
}

ls_status ls_guard_stragglers(ls_train *train, ls_lag_record *lag) {
    ls_comm *comm = train->session.comm;
    double mine_s = 1e-9 * (double)train->compute_ns;
    double *all;
    *lag = (ls_lag_record){0};
    if (comm->size == 1) {
        return LS_OK;
    }
    LS_TRY(ls_comm_agree(comm, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    ls_status status = comm->ops->all_gather(comm, &mine_s, all, sizeof mine_s);
    if (status == LS_OK) {
        *lag = find_slowest(train, all);
        warn_of_straggler(train, lag);
    }
    train->compute_ns = 0;
    train->lag_steps = 0;
    free(all);
    return status;
}
