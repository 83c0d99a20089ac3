/* Muon: see optim.h. The ranks of shard take the matrices in rounds, one matrix each: its owners
 * send the parts of its momentum to the rank that orthogonalises it, which sends the parts of the
 * result back. Matrices are sorted by size, so that those of a round take equally long. Where
 * tensor ranks split a matrix, the parts that they have got together are gathered once more, and
 * each of them orthogonalises the whole. */
#include "optim/muon_matrix.h"
#include "runtime/base/arena.h"

#include <stdlib.h>
#include <string.h>

enum { MOMENTUM, ADAM };

/* One matrix of a parameter: flat elements [offset, offset + rows * cols). */
typedef struct work {
    int param;
    int64_t offset;
    ls_matrices m; /* of the parameter */
} work;

/* A group of ranks that work together: those of shard, or of expert_shard on experts apart. */
typedef struct team {
    bool experts;
    ls_comm *shard;
    work *list; /* by size, the largest first */
    int work_count, shards, rank;
    ls_optim_range *ranges; /* of all shards, [shards][range_count], unused ones empty */
    int range_count;
    int64_t *counts, *offsets; /* of an exchange: send counts, send offsets, then of receiving */
    void *send, *recv;         /* parts, one after the other */
    void *local;               /* this tensor rank's part of a matrix that is split */
    ls_muon_scratch scratch;
} team;

enum { TEAMS = 2 };

static bool is_hidden_matrix(const ls_param *param) {
    return param->matrix && param->ndim >= 2 && strncmp(param->name, "layers.", 7) == 0;
}

static ls_optim_shape shape(const ls_config_optim *config, const ls_param *param, int state) {
    (void)config;
    return is_hidden_matrix(param) == (state == MOMENTUM) ? LS_STATE_FULL : LS_STATE_NONE;
}

static int by_size(const void *a, const void *b) {
    const work *x = a, *y = b;
    int64_t x_elems = x->m.rows * x->m.cols, y_elems = y->m.rows * y->m.cols;
    return x_elems != y_elems ? (x_elems < y_elems ? 1 : -1)
                              : (x->offset > y->offset) - (x->offset < y->offset);
}

static bool works_on(const team *own, const ls_param *param) {
    return is_hidden_matrix(param) && param->expert == own->experts;
}

static ls_status list_work(const ls_optim_options *o, team *own) {
    int count = 0;
    for (int i = 0; i < o->param_count; i++) {
        count += works_on(own, &o->params[i]) ? (int)ls_matrices_of(&o->params[i]).count : 0;
    }
    LS_TRY(ls_calloc((size_t)count + 1, sizeof *own->list, &own->list));
    for (int i = 0; i < o->param_count; i++) {
        const ls_param *param = &o->params[i];
        const ls_matrices m = ls_matrices_of(param);
        if (!works_on(own, param)) {
            continue;
        }
        if (ls_muon_is_split(param) && param->ndim > 2) {
            return LS_FAIL(LS_E_UNSUPPORTED,
                           "optim.name is muon, and the matrices of '%s' are split over %d ranks; "
                           "use adamw or lion, or fewer ranks along that axis",
                           param->name, param->tp_ranks);
        }
        for (int64_t k = 0; k < m.count; k++) {
            own->list[own->work_count++] = (work){i, param->offset + k * m.rows * m.cols, m};
        }
    }
    qsort(own->list, (size_t)own->work_count, sizeof *own->list, by_size);
    return LS_OK;
}

/* Who owns what. */
static ls_status gather_ranges(const ls_optim_options *o, team *own) {
    const ls_optim_range all = {.elems = o->flat_elems};
    const ls_optim_range *mine = o->owned ? o->owned : &all;
    int64_t count = o->owned ? o->owned_count : 1, most = count;
    ls_comm *shard = own->shard && own->shard->size > 1 ? own->shard : NULL;
    if (shard) {
        LS_TRY(shard->ops->all_reduce(shard, &most, 1, LS_I64, LS_MAX));
    }
    own->range_count = (int)most;
    LS_TRY(ls_calloc((size_t)(most * own->shards) + 1, sizeof *own->ranges, &own->ranges));
    ls_optim_range *place = own->ranges + own->rank * most;
    memcpy(place, mine, (size_t)count * sizeof *mine);
    if (!shard) {
        return LS_OK;
    }
    ls_optim_range *sent;
    LS_TRY(ls_calloc((size_t)most + 1, sizeof *sent, &sent));
    memcpy(sent, mine, (size_t)count * sizeof *mine);
    ls_status status =
        shard->ops->all_gather(shard, sent, own->ranges, most * (int64_t)sizeof *sent);
    free(sent);
    return status;
}

/* Part i of those of a matrix that a shard owns: the overlap with its range i. */
static int64_t part(const team *own, int shard, int i, const work *w, int64_t *begin) {
    const ls_optim_range *range = &own->ranges[shard * own->range_count + i];
    int64_t end = w->offset + w->m.rows * w->m.cols, range_end = range->flat_offset + range->elems;
    *begin = range->flat_offset > w->offset ? range->flat_offset : w->offset;
    end = range_end < end ? range_end : end;
    return end > *begin ? end - *begin : 0;
}

static int64_t owned_of(const team *own, int shard, const work *w) {
    int64_t sum = 0, begin;
    for (int i = 0; i < own->range_count; i++) {
        sum += part(own, shard, i, w, &begin);
    }
    return sum;
}

/* The matrix that a shard works on in the round that begins with `first`; NULL: none. */
static const work *work_of(const team *own, int first, int shard) {
    return first + shard < own->work_count ? &own->list[first + shard] : NULL;
}

static int64_t most_of(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static ls_status take_memory(ls_optim *optim, team *own) {
    ls_device *dev = optim->options.dev;
    int64_t most_send = 0, most = 0, most_side = 0;
    for (int first = 0; first < own->work_count; first += own->shards) {
        int64_t send = 0;
        for (int s = 0; s < own->shards && work_of(own, first, s); s++) {
            send += owned_of(own, own->rank, work_of(own, first, s));
        }
        most_send = most_of(most_send, send);
    }
    int64_t most_local = 0, most_parts = 0, most_wide = 0;
    for (int i = 0; i < own->work_count; i++) {
        const ls_param *param = &optim->options.params[own->list[i].param];
        const bool split = ls_muon_is_split(param);
        const ls_matrices m = own->list[i].m;
        const int64_t rows = split ? param->dims[0] : m.rows,
                      cols = split ? param->dims[1] : m.cols;
        const int64_t side = rows < cols ? rows : cols;
        most_local = most_of(most_local, m.rows * m.cols);
        most = most_of(most, rows * cols);
        most_side = most_of(most_side, side);
        most_wide = most_of(most_wide, most_of(rows, cols));
        most_parts = most_of(most_parts, split ? param->elems * param->tp_ranks : 0);
    }
    const size_t bytes = ls_dtype_bytes(dev->acc);
    const int64_t doubles = dev->async ? ls_squares_count(0, most) + 1 : 0;
    const struct {
        void **place;
        int64_t elems;
    } buffers[] = {{&own->send, most_send},
                   {&own->recv, most_local},
                   {&own->local, most_parts > 0 ? most_local : 0},
                   {&own->scratch.parts, most_parts},
                   {&own->scratch.x, most},
                   {&own->scratch.y, most},
                   {&own->scratch.a, most_side * most_side},
                   {&own->scratch.b, most_side * most_side},
                   {&own->scratch.squares, doubles * (int64_t)(sizeof(double) / bytes)}};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        LS_TRY(dev->ops->alloc(dev, (size_t)buffers[i].elems * bytes, buffers[i].place));
        optim->own_bytes += (size_t)buffers[i].elems * bytes;
    }
    const ls_device_limits limits = {.channels = most_wide, .inner = most_side};
    return dev->host_memory && most > 0 ? dev->ops->reserve(dev, &limits) : LS_OK;
}

/* All that needs no others, but for memory. */
static ls_status set_team(ls_optim *optim, team *own, ls_comm *shard, int planned) {
    const ls_optim_options *o = &optim->options;
    own->shard = shard;
    own->shards = shard ? shard->size : planned > 0 ? planned : 1;
    own->rank = shard ? shard->rank : 0;
    LS_TRY(list_work(o, own));
    LS_TRY(ls_calloc(2 * (size_t)own->shards, sizeof *own->counts, &own->counts));
    return ls_calloc(2 * (size_t)own->shards, sizeof *own->offsets, &own->offsets);
}

static ls_status prepare(ls_optim *optim) {
    const ls_optim_options *o = &optim->options;
    team *teams;
    LS_TRY(ls_calloc(TEAMS, sizeof *teams, &teams));
    optim->own = teams;
    teams[1].experts = true;
    LS_TRY(set_team(optim, &teams[0], o->shard, o->planned_shards));
    LS_TRY(set_team(optim, &teams[1], o->expert_shard, o->planned_expert_shards));
    for (int i = 0; i < TEAMS; i++) {
        LS_TRY(gather_ranges(o, &teams[i]));
    }
    for (int i = 0; i < TEAMS; i++) {
        LS_TRY(take_memory(optim, &teams[i]));
    }
    return LS_OK;
}

static void release_team(ls_device *dev, team *own) {
    const ls_muon_scratch *s = &own->scratch;
    void *const buffers[] = {own->send, own->recv, own->local, s->x,      s->y,
                             s->a,      s->b,      s->parts,   s->squares};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        dev->ops->free(dev, buffers[i]);
    }
    free(own->list);
    free(own->ranges);
    free(own->counts);
    free(own->offsets);
}

static void release(ls_optim *optim) {
    team *teams = optim->own;
    for (int i = 0; teams && i < TEAMS; i++) {
        release_team(optim->options.dev, &teams[i]);
    }
    free(teams);
}

static ls_status copy(ls_device *dev, int64_t n, const void *from, void *to) {
    return dev->ops->blend(dev, n, 1.0, from, 0.0, to);
}

/* Heeding the verdict of a deferred step. */
static ls_status blend(ls_device *dev, const ls_optim_pass *pass, int64_t n, double a,
                       const void *x, double b, void *y) {
    return pass->verdict ? dev->async->blend(dev, pass->verdict, n, a, x, b, y)
                         : dev->ops->blend(dev, n, a, x, b, y);
}

/* m = mu m + (1 - mu) g; u = m, or mu m + (1 - mu) g in Nesterov's form. */
static ls_status momentum(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run,
                          int64_t at, int64_t n, void *u) {
    const ls_config_optim *config = optim->options.config;
    ls_device *dev = optim->options.dev;
    const void *grads = ls_run_grads(optim, pass, run, at);
    void *m = ls_run_state(optim, MOMENTUM, run, at);
    const double mu = config->momentum, rest = (1.0 - mu) * pass->grad_scale;
    LS_TRY(blend(dev, pass, n, rest, grads, mu, m));
    if (!config->nesterov) {
        return copy(dev, n, m, u);
    }
    LS_TRY(blend(dev, pass, n, rest, grads, 0.0, u));
    return dev->ops->blend(dev, n, mu, m, 1.0, u);
}

static ls_status apply(ls_optim *optim, const ls_optim_pass *pass, const ls_optim_run *run,
                       int64_t at, int64_t n, void *u) {
    const ls_optim_options *o = &optim->options;
    return o->dev->ops->sgd(o->dev, &(ls_sgd){.n = n,
                                              .lr = pass->lr * run->rule.lr_scale,
                                              .weight_decay = run->rule.weight_decay,
                                              .grad_scale = 1.0,
                                              .p = ls_run_masters(optim, run, at),
                                              .grad = u,
                                              .copy_dtype = o->copy_dtype,
                                              .copy = ls_run_copies(optim, run, at),
                                              .verdict = pass->gate});
}

typedef ls_status (*own_part_fn)(ls_optim *optim, const ls_optim_pass *pass,
                                 const ls_optim_run *run, int64_t at, int64_t n, void *u);

/* Calls fn for this rank's parts of the round's matrices, u being their places in own->send. */
static ls_status each_own_part(ls_optim *optim, const team *own, const ls_optim_pass *pass,
                               int first, own_part_fn fn) {
    int64_t place = 0;
    for (int s = 0; s < own->shards && work_of(own, first, s); s++) {
        const work *w = work_of(own, first, s);
        int64_t w_end = w->offset + w->m.rows * w->m.cols;
        for (int r = 0; r < optim->run_count; r++) {
            const ls_optim_run *run = &optim->runs[r];
            int64_t begin = run->flat_offset > w->offset ? run->flat_offset : w->offset;
            int64_t end = run->flat_offset + run->elems;
            end = end < w_end ? end : w_end;
            if (run->param == w->param && begin < end) {
                LS_TRY(fn(optim, pass, run, begin - run->flat_offset, end - begin,
                          ls_elem_at(own->send, place, optim->options.dev->acc)));
                place += end - begin;
            }
        }
    }
    return LS_OK;
}

/* Counts and offsets of a round: what goes to each shard, what comes from each. */
static void count_round(ls_optim *optim, team *own, int first) {
    const int64_t bytes = (int64_t)ls_dtype_bytes(optim->options.dev->acc);
    const work *mine = work_of(own, first, own->rank);
    int64_t *send = own->counts, *recv = own->counts + own->shards;
    int64_t *send_at = own->offsets, *recv_at = own->offsets + own->shards;
    for (int s = 0; s < own->shards; s++) {
        const work *theirs = work_of(own, first, s);
        send[s] = theirs ? owned_of(own, own->rank, theirs) * bytes : 0;
        recv[s] = mine ? owned_of(own, s, mine) * bytes : 0;
        send_at[s] = s > 0 ? send_at[s - 1] + send[s - 1] : 0;
        recv_at[s] = s > 0 ? recv_at[s - 1] + recv[s - 1] : 0;
    }
}

/* own->send to own->recv, or back. */
static ls_status exchange(ls_optim *optim, team *own, bool back) {
    ls_device *dev = optim->options.dev;
    const int64_t *counts = own->counts, *offsets = own->offsets;
    if (own->shards == 1) {
        return copy(dev, counts[0] / (int64_t)ls_dtype_bytes(dev->acc),
                    back ? own->recv : own->send, back ? own->send : own->recv);
    }
    ls_comm *shard = own->shard;
    const int there = back ? own->shards : 0, here = back ? 0 : own->shards;
    ls_comm_request *request;
    LS_TRY(shard->ops->all_to_all_start(shard, back ? own->recv : own->send, counts + there,
                                        offsets + there, back ? own->send : own->recv,
                                        counts + here, offsets + here, &request));
    return shard->ops->wait(shard, request);
}

/* Between the parts in own->recv and the matrix. */
static ls_status join_parts(ls_optim *optim, const team *own, const work *w, void *matrix,
                            bool back) {
    ls_device *dev = optim->options.dev;
    int64_t place = 0;
    for (int i = 0; i < own->shards * own->range_count; i++) {
        int64_t begin;
        int64_t n = part(own, i / own->range_count, i % own->range_count, w, &begin);
        if (n > 0) {
            void *there = ls_elem_at(own->recv, place, dev->acc);
            void *here = ls_elem_at(matrix, begin - w->offset, dev->acc);
            LS_TRY(copy(dev, n, back ? here : there, back ? there : here));
            place += n;
        }
    }
    return LS_OK;
}

/* Each row group of a fused matrix on its own. */
static ls_status orthogonalise(ls_optim *optim, const team *own, const work *w) {
    const ls_param *param = &optim->options.params[w->param];
    const bool fused = param->tp_groups > 1 && param->tp_axis == param->ndim - 2;
    const bool split = ls_muon_is_split(param);
    const int64_t rows = split ? param->dims[0] : w->m.rows;
    const int64_t cols = split ? param->dims[1] : w->m.cols;
    LS_TRY(join_parts(optim, own, w, split ? own->local : own->scratch.x, false));
    if (split) {
        LS_TRY(ls_muon_gather(optim, &own->scratch, param, own->local));
    }
    int64_t row = 0;
    for (int g = 0; g < (fused ? param->tp_groups : 1); g++) {
        const int64_t group_rows = fused ? param->tp_group[g].size : rows;
        LS_TRY(ls_muon_orthogonalise(optim, &own->scratch, row * cols, group_rows, cols));
        row += group_rows;
    }
    if (split) {
        LS_TRY(ls_muon_scatter(optim, &own->scratch, param, own->local));
    }
    return join_parts(optim, own, w, split ? own->local : own->scratch.x, true);
}

static ls_status work_together(ls_optim *optim, team *own, const ls_optim_pass *pass) {
    for (int first = 0; first < own->work_count; first += own->shards) {
        const work *mine = work_of(own, first, own->rank);
        count_round(optim, own, first);
        LS_TRY(each_own_part(optim, own, pass, first, momentum));
        LS_TRY(exchange(optim, own, false));
        if (mine) {
            LS_TRY(orthogonalise(optim, own, mine));
        }
        LS_TRY(exchange(optim, own, true));
        LS_TRY(each_own_part(optim, own, pass, first, apply));
    }
    return LS_OK;
}

static ls_status step(ls_optim *optim, const ls_optim_pass *pass) {
    team *teams = optim->own;
    for (int i = 0; i < TEAMS; i++) {
        LS_TRY(work_together(optim, &teams[i], pass));
    }
    for (int i = 0; i < optim->run_count; i++) {
        if (!is_hidden_matrix(&optim->options.params[optim->runs[i].param])) {
            LS_TRY(ls_adamw_run(optim, pass, &optim->runs[i], ADAM));
        }
    }
    return LS_OK;
}

/* A planned team knows its own ranges only. */
static void tell_team(const ls_optim *optim, const team *own, int rank, const ls_optim_ranks *ranks,
                      const ls_comm_list *list) {
    const double bytes = (double)ls_dtype_bytes(optim->options.dev->acc);
    for (int first = 0; first < own->work_count; first += own->shards) {
        const work *mine = work_of(own, first, rank);
        int64_t there = 0, back = mine ? mine->m.rows * mine->m.cols - owned_of(own, 0, mine) : 0;
        for (int s = 0; s < own->shards && work_of(own, first, s); s++) {
            there += s == rank ? 0 : owned_of(own, 0, work_of(own, first, s));
        }
        const int64_t sent[] = {there, back};
        for (int i = 0; i < 2; i++) {
            ls_comm_tell(list, (ls_comm_operation){
                                   LS_COMM_DATA, LS_USE_STATE, LS_COLL_ALL_TO_ALL, own->shards,
                                   ls_comm_exchanged((double)sent[i] * bytes, own->shards), 1});
        }
        const ls_param *param = mine ? &optim->options.params[mine->param] : NULL;
        if (param && ls_muon_is_split(param)) {
            const double whole = (double)(param->elems * param->tp_ranks) * bytes;
            ls_comm_tell(list, (ls_comm_operation){LS_COMM_TENSOR, LS_USE_STATE, LS_COLL_ALL_GATHER,
                                                   ranks->tensor, whole, 1});
        }
    }
}

static void tell(const ls_optim *optim, const ls_optim_ranks *ranks, const ls_comm_list *list) {
    const team *teams = optim->own;
    tell_team(optim, &teams[0], ranks->shard_rank, ranks, list);
    tell_team(optim, &teams[1], ranks->expert_shard_rank, ranks, list);
}

const ls_optim_ops ls_optim_muon = {
    .name = "muon",
    .states = {"momentum_buffer", "exp_avg", "exp_avg_sq"},
    .shape = shape,
    .apart = true,
    .deferrable = true,
    .prepare = prepare,
    .release = release,
    .step = step,
    .tell = tell,
};
