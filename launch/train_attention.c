#include "launch/train.h"
#include "runtime/base/log.h"
#include "runtime/device/device_async.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the ranks offer: the same number, or the lowest rank that offers something else than the
 * highest number. */
typedef struct survey {
    int64_t least, most, odd_rank;
} survey;

static ls_status take_survey(ls_comm *comm, int64_t number, survey *s) {
    int64_t odd;
    *s = (survey){number, number, comm->size};
    LS_TRY(comm->ops->all_reduce(comm, &s->least, 1, LS_I64, LS_MIN));
    LS_TRY(comm->ops->all_reduce(comm, &s->most, 1, LS_I64, LS_MAX));
    odd = number == s->most ? comm->size : comm->rank;
    LS_TRY(comm->ops->all_reduce(comm, &odd, 1, LS_I64, LS_MIN));
    s->odd_rank = odd < comm->size ? odd : 0;
    return LS_OK;
}

/* What a rank offers, in words, on every rank. */
static ls_status tell_all(ls_comm *comm, const ls_attention_offer *offer, int rank, char *text,
                          size_t size) {
    char host[65] = "?";
    gethostname(host, sizeof host - 1);
    snprintf(text, size, "rank %d on host %s: %s", comm->rank, host, offer->text);
    return comm->ops->broadcast(comm, text, (int64_t)size, rank);
}

ls_status ls_train_settle_attention(ls_train *train) {
    ls_device *dev = train->session.dev;
    ls_comm *comm = train->session.comm;
    const bool open = train->config.numerics.attention == LS_CFG_ATTENTION_AUTO;
    ls_attention_offer offer = {.number = 0};
    char odd[400];
    survey s;
    train->attention[0] = '\0';
    if (!dev->async) {
        return LS_OK;
    }
    LS_TRY(ls_session_agree(&train->session, dev->async->attention_offer(dev, &offer)));
    LS_TRY(ls_session_agree(&train->session, take_survey(comm, offer.number, &s)));
    LS_TRY(ls_session_agree(&train->session,
                            tell_all(comm, &offer, (int)s.odd_rank, odd, sizeof odd)));
    const bool same = s.least == s.most && s.most > 0;
    const bool wanted = train->config.numerics.attention != LS_CFG_ATTENTION_OWN && s.most >= 0;
    if (open) {
        dev->async->attention_settle(dev, same);
    }
    snprintf(train->attention, sizeof train->attention, "%.47s",
             wanted && (same || !open) ? offer.text : "own");
    if (comm->rank == 0 && wanted && open && same) {
        ls_log_info("attention by %s", offer.text);
    } else if (comm->rank == 0 && wanted && open) {
        ls_log_info("attention by lockstep's own kernels on all ranks; %s", odd);
    } else if (comm->rank == 0 && wanted && !same) {
        ls_log_warn("attention is not rounded in the same way on all ranks, since not all have the "
                    "same of cuDNN; %s; set numerics.attention to auto or own",
                    odd);
    }
    return LS_OK;
}

json_t *ls_train_attention_json(const ls_train *train) {
    return train->attention[0] ? json_string(train->attention) : json_null();
}

void ls_train_compare_attention(const ls_train *train, const json_t *run) {
    const char *before = json_string_value(json_object_get(run, "attention"));
    if (train->session.comm->rank == 0 && before && train->attention[0] &&
        strcmp(before, train->attention) != 0) {
        ls_log_warn(
            "attention was by %s up to the checkpoint and is by %s from here on: the losses "
            "are not the bits of one uninterrupted run; for these see numerics.attention "
            "and LOCKSTEP_CUDNN",
            before, train->attention);
    }
}
