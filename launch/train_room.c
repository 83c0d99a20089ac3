/* Is there room for what training will take? */
#include "launch/shortage.h"
#include "launch/train.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of what is free: from there on the run is warned. */
#define CLOSE 0.9

/* Bytes that this rank would need with other settings. A failure is no news: they do not work. */
static ls_status needed_with(const ls_train *train, const ls_config *config, int64_t *needed) {
    const ls_comm *comm = train->session.comm;
    int size[LS_AXIS_COUNT];
    uint64_t *hosts;
    ls_mesh mesh;
    ls_layout layout = {0};
    ls_layout_bytes bytes;
    LS_TRY(ls_session_axes(&config->parallel, comm->size, size));
    LS_TRY(ls_calloc((size_t)comm->size, sizeof *hosts, &hosts));
    for (int r = 0; r < comm->size; r++) { /* of several hosts, any group may lie on two */
        hosts[r] = train->session.mesh.hosts > 1 ? (uint64_t)r : 0;
    }
    ls_status status = ls_mesh_init(&mesh, size, comm->rank, comm->size, hosts);
    if (status == LS_OK) {
        status = ls_layout_init(&layout, config, train->session.dev, train->layout.dtype, &mesh);
    }
    if (status == LS_OK) {
        status = ls_layout_plan(&layout, &bytes);
    }
    if (status == LS_OK) {
        *needed = (int64_t)ls_layout_process(&bytes);
    }
    ls_layout_release(&layout);
    free(hosts);
    return status;
}

/* One setting that may need less, and how it is written. */
static bool change(const ls_train *train, int which, ls_config *config, const char **text) {
    *config = train->config;
    ls_config_parallel *p = &config->parallel;
    switch (which) {
    case 0:
        *text = "parallel.zero=3 parallel.shard=0 parallel.replicate=0";
        p->shard = p->replicate = 0;
        p->zero = 3;
        return train->layout.data_ranks > 1 && train->config.parallel.zero != 3;
    case 1:
        *text = "batch.micro=1";
        config->batch.micro = 1;
        return train->config.batch.micro > 1;
    case 2:
        *text = "recompute.mode=full";
        config->recompute.mode = LS_RECOMPUTE_FULL;
        return train->config.recompute.mode != LS_RECOMPUTE_FULL;
    default:
        *text = "checkpoint.async=false";
        config->checkpoint.async = false;
        return train->config.checkpoint.async;
    }
}
enum { CHANGES = 4 };

/* "; this rank would take 2 GiB with recompute.mode=full, ...", of what needs less. */
static void advise(const ls_train *train, char *buf, size_t size) {
    static ls_config config; /* large */
    const ls_layout_bytes *b = &train->planned;
    const int64_t now = (int64_t)ls_layout_process(b);
    buf[0] = '\0';
    for (int i = 0; i < CHANGES; i++) {
        const char *text;
        int64_t needed;
        char bytes[32];
        if (change(train, i, &config, &text) && needed_with(train, &config, &needed) == LS_OK &&
            needed < now) {
            const size_t n = strlen(buf);
            snprintf(buf + n, size - n, "%s%s with %s", n ? ", " : "; a rank would take ",
                     ls_text_bytes(bytes, sizeof bytes, (double)needed), text);
        }
    }
}

static ls_status demand_of(const ls_train *train, ls_demand *mine) {
    ls_device *dev = train->session.dev;
    const int64_t state = (int64_t)(ls_layout_used(&train->planned) + train->planned.scratch);
    *mine = (ls_demand){.host_bytes = (int64_t)(train->planned.saves + train->planned.writing),
                        .spare_bytes = (int64_t)train->planned.spare,
                        .device_free = -1};
    if (dev->host_memory) {
        mine->host_bytes += state;
        return LS_OK;
    }
    mine->device_bytes = state;
    return dev->ops->free_bytes(dev, &mine->device_free);
}

/* All ranks come to the same answer; the first of the worst pool words it. */
static ls_status judge(const ls_train *train, const ls_shortage *worst) {
    char needed[32], left[32], more[120] = "", advice[400], text[1000];
    const bool refused = worst->needed_bytes > worst->free_bytes;
    const bool may_lack = worst->needed_bytes + worst->spare_bytes > worst->free_bytes;
    if (worst->ratio <= CLOSE && !may_lack) {
        return LS_OK;
    }
    if (worst->spare_bytes > 0) {
        char spare[32];
        snprintf(more, sizeof more, ", up to %s more if all tokens want the same experts",
                 ls_text_bytes(spare, sizeof spare, (double)worst->spare_bytes));
    }
    advise(train, advice, sizeof advice);
    snprintf(text, sizeof text,
             "training would take %s of memory for %d rank%s (from rank %d on)%s, and %s has %s "
             "free%s%s",
             ls_text_bytes(needed, sizeof needed, (double)worst->needed_bytes), worst->ranks,
             worst->ranks == 1 ? "" : "s", worst->rank, more, worst->name,
             ls_text_bytes(left, sizeof left, (double)worst->free_bytes), advice,
             refused ? "; or use more hosts, or a smaller model" : "");
    if (refused) {
        return LS_FAIL(LS_E_MEMORY, "%s", text);
    }
    if (train->session.comm->rank == worst->rank) {
        ls_log_warn("%s: what else runs there may take it", text);
    }
    return LS_OK;
}

ls_status ls_train_memory_check(ls_train *train) {
    const ls_session *session = &train->session;
    ls_demand mine;
    ls_shortage worst;
    LS_TRY(ls_session_agree(&train->session, demand_of(train, &mine)));
    ls_status status = ls_shortage_find(session->comm, session->mesh.host, mine, &worst);
    if (status == LS_OK) {
        status = judge(train, &worst);
    }
    return ls_session_agree(&train->session, status);
}
