#include "launch/weights.h"
#include "launch/ckpt_verbs.h"
#include "runtime/base/arena.h"
#include "runtime/base/log.h"

#include <stdlib.h>
#include <string.h>

ls_status ls_weights_find(ls_session *session, const char *path, ls_ckpt **ckpt) {
    *ckpt = NULL;
    const bool reader = session->comm->rank == 0;
    LS_TRY(ls_session_agree(session, reader ? ls_ckpt_open_found(path, ckpt) : LS_OK));
    return ls_session_agree(session, ls_ckpt_spread(session->comm, ckpt));
}

ls_status ls_weights_open(ls_session *session, const char *path, ls_weights *weights) {
    *weights = (ls_weights){0};
    LS_TRY(ls_weights_find(session, path, &weights->ckpt));
    return ls_session_agree(session, ls_ckpt_settings(weights->ckpt, &weights->config));
}

/* A piece of a row as the checkpoint is asked for it; *own: memory of its own, where it is not one
 * run of the row's. False: it is padding only. */
static ls_status ask(const ls_param *row, const ls_piece *piece, ls_dtype dtype, char *row_memory,
                     ls_ckpt_tensor *t, void **own, bool *wanted) {
    const int axis = row->tp_axis < 0 ? 0 : row->tp_axis;
    *t = (ls_ckpt_tensor){.name = row->name, .dtype = dtype, .ndim = row->ndim};
    memcpy(t->dims, row->dims, sizeof t->dims);
    t->dims[0] = row->valid_rows;
    const ls_box real = ls_box_whole(t->ndim, t->dims);
    *wanted = ls_box_intersect(&piece->global, &real, &t->box);
    if (*wanted && axis > 0 && piece->local.extent[axis] < row->local_dims[axis]) {
        LS_TRY(ls_calloc((size_t)ls_box_elems(&t->box), ls_dtype_bytes(dtype), own));
        t->data = *own;
        return LS_OK;
    }
    int64_t inner = 1;
    for (int d = 1; d < row->ndim; d++) {
        inner *= row->local_dims[d];
    }
    t->data = row_memory + piece->local.start[0] * inner * (int64_t)ls_dtype_bytes(dtype);
    return LS_OK;
}

/* All pieces of the model's rows into `host`, its flat space. */
static ls_status load_pieces(ls_ckpt *ckpt, const ls_param *params, int rows, ls_dtype dtype,
                             char *host) {
    const size_t most = (size_t)rows * LS_MAX_GROUPS, elem_bytes = ls_dtype_bytes(dtype);
    ls_ckpt_tensor *tensors = NULL;
    struct {
        const ls_param *row;
        ls_box local;
        void *own;
    } *places = NULL;
    int count = 0;
    LS_TRY(ls_calloc(most, sizeof *tensors, &tensors));
    ls_status status = ls_calloc(most, sizeof *places, &places);
    for (int i = 0; status == LS_OK && i < rows; i++) {
        ls_piece pieces[LS_MAX_GROUPS];
        const int n = ls_param_pieces(&params[i], pieces);
        for (int k = 0; status == LS_OK && k < n; k++) {
            bool wanted = false;
            places[count].row = &params[i];
            places[count].local = pieces[k].local;
            status =
                ask(&params[i], &pieces[k], dtype, host + (size_t)params[i].offset * elem_bytes,
                    &tensors[count], &places[count].own, &wanted);
            count += wanted;
        }
    }
    if (status == LS_OK) {
        status = ls_ckpt_load(ckpt, tensors, count);
    }
    for (int i = 0; places && i < count; i++) {
        const ls_param *row = places[i].row;
        const ls_box whole = ls_box_whole(row->ndim, row->local_dims);
        if (places[i].own) {
            ls_box_copy(&places[i].local, &places[i].local, places[i].own, &whole,
                        host + (size_t)row->offset * elem_bytes, elem_bytes);
        }
        free(places[i].own);
    }
    free(places);
    free(tensors);
    return status;
}

static ls_status load_masters(ls_weights *weights, ls_device *dev) {
    int count;
    const ls_param *params = ls_model_params(weights->model, &count);
    char *masters = ls_model_masters(weights->model), *host = masters;
    const size_t bytes = (size_t)ls_model_flat_elems(weights->model) * ls_dtype_bytes(dev->acc);
    ls_status status = dev->host_memory ? LS_OK : ls_calloc(1, bytes, &host);
    if (status == LS_OK) {
        status = load_pieces(weights->ckpt, params, count, dev->acc, host);
    }
    if (host != masters) {
        status = status == LS_OK ? dev->ops->upload(dev, masters, host, bytes) : status;
        free(host);
    }
    return status;
}

ls_status ls_weights_load(ls_weights *weights, ls_device *dev, ls_model_options options) {
    options.config = &weights->config.model;
    options.dev = dev;
    options.dtype = ls_session_dtype(weights->config.numerics.compute, dev);
    LS_TRY(ls_model_create(&options, &weights->model));
    LS_TRY(load_masters(weights, dev));
    return ls_model_refresh(weights->model);
}

int32_t ls_weights_token(const ls_weights *weights, const char *key) {
    const json_t *value = json_object_get(ls_ckpt_run(weights->ckpt), key);
    const json_int_t token = json_is_integer(value) ? json_integer_value(value) : -1;
    return token >= 0 && token < weights->config.model.vocab ? (int32_t)token : -1;
}

int32_t ls_weights_begin(const ls_weights *weights) {
    const bool told = json_object_get(ls_ckpt_run(weights->ckpt), "begin") != NULL;
    return ls_weights_token(weights, told ? "begin" : "separator");
}

void ls_weights_close(ls_weights *weights) {
    ls_model_destroy(weights->model);
    ls_ckpt_close(weights->ckpt);
    *weights = (ls_weights){0};
}

void ls_weights_doubt_data(const ls_ckpt *ckpt, int64_t vocab, const char *dir,
                           const ls_dataset_info *data) {
    const char *tokenizer =
        json_string_value(json_object_get(ls_ckpt_run(ckpt), "tokenizer")); /* or not known */
    const bool other = tokenizer && strcmp(tokenizer, data->tokenizer) != 0;
    if (other || data->vocab <= vocab / 2) {
        ls_log_warn("the weights of '%s' have a vocabulary of %lld%s%s%s, and the tokens of '%s' "
                    "('%s') are below %lld: were they made by the tokenizer of these weights? See "
                    "`lockstep prep --help`, --vocab",
                    ls_ckpt_path(ckpt), (long long)vocab, other ? " ('" : "",
                    other ? tokenizer : "", other ? "')" : "", dir, data->tokenizer,
                    (long long)data->vocab);
    }
}
