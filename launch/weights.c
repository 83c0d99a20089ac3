#include "launch/weights.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <stdlib.h>
#include <string.h>

ls_status ls_weights_open(const char *path, ls_weights *weights) {
    *weights = (ls_weights){0};
    char root[1024];
    LS_TRY(ls_path_join(root, sizeof root, path, "checkpoints"));
    LS_TRY(ls_ckpt_open_latest(ls_path_is_dir(root) ? root : path, &weights->ckpt));
    const char *text = ls_ckpt_config(weights->ckpt);
    return ls_config_load_text(&weights->config, ls_ckpt_path(weights->ckpt), text, strlen(text),
                               NULL, 0);
}

static ls_status load_masters(ls_weights *weights, ls_device *dev) {
    int count;
    const ls_param *params = ls_model_params(weights->model, &count);
    ls_ckpt_tensor *tensors;
    LS_TRY(ls_calloc((size_t)count, sizeof *tensors, &tensors));
    const size_t elem_bytes = ls_dtype_bytes(dev->acc);
    char *masters = ls_model_masters(weights->model), *host = masters;
    const size_t bytes = (size_t)ls_model_flat_elems(weights->model) * elem_bytes;
    ls_status status = dev->host_memory ? LS_OK : ls_calloc(1, bytes, &host);
    for (int i = 0; i < count; i++) {
        ls_ckpt_tensor *t = &tensors[i];
        *t = (ls_ckpt_tensor){.name = params[i].name, .dtype = dev->acc, .ndim = params[i].ndim};
        memcpy(t->dims, params[i].dims, sizeof t->dims);
        t->dims[0] = params[i].valid_rows;
        t->box = ls_box_whole(t->ndim, t->dims);
        t->data = host + (size_t)params[i].offset * elem_bytes;
    }
    if (status == LS_OK) {
        status = ls_ckpt_load(weights->ckpt, tensors, count);
    }
    if (host != masters) {
        status = status == LS_OK ? dev->ops->upload(dev, masters, host, bytes) : status;
        free(host);
    }
    free(tensors);
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

void ls_weights_close(ls_weights *weights) {
    ls_model_destroy(weights->model);
    ls_ckpt_close(weights->ckpt);
    *weights = (ls_weights){0};
}
