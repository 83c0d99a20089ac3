/* ckpt_logits CHECKPOINT TOKEN...: the logits after each token as text, a line a position. */
#include "checkpoint/ckpt.h"
#include "runtime/base/log.h"
#include "runtime/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ls_status masters_load(ls_ckpt *ckpt, ls_model *model) {
    int count;
    const ls_param *params = ls_model_params(model, &count);
    for (int i = 0; i < count; i++) {
        ls_ckpt_tensor t = {.name = params[i].name, .dtype = LS_F32, .ndim = params[i].ndim};
        memcpy(t.dims, params[i].dims, sizeof t.dims);
        t.dims[0] = params[i].valid_rows;
        t.box = ls_box_whole(t.ndim, t.dims);
        t.data = (float *)ls_model_masters(model) + params[i].offset;
        LS_TRY(ls_ckpt_load(ckpt, &t, 1));
    }
    return ls_model_refresh(model);
}

static ls_status print_logits(ls_model *model, int64_t vocab, char **tokens, int count) {
    float *logits = malloc((size_t)vocab * sizeof *logits);
    ls_status status = logits ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for logits");
    for (int i = 0; i < count && status == LS_OK; i++) {
        int32_t token = atoi(tokens[i]);
        status = ls_model_feed(model, &token, 1, logits);
        for (int64_t v = 0; v < vocab && status == LS_OK; v++) {
            printf("%.9g%c", (double)logits[v], v + 1 < vocab ? ' ' : '\n');
        }
    }
    free(logits);
    return status;
}

static ls_status run(const char *path, char **tokens, int count) {
    char *found;
    ls_ckpt *ckpt;
    ls_config config;
    ls_device *dev;
    ls_model *model;
    LS_TRY(ls_ckpt_latest(path, &found));
    LS_TRY(ls_ckpt_open(found, &ckpt));
    free(found);
    const char *text = ls_ckpt_config(ckpt);
    LS_TRY(ls_config_load_text(&config, path, text, strlen(text), NULL, 0));
    LS_TRY(ls_device_open_cpu(&(ls_device_options){.threads = 1}, &dev));
    ls_model_options options = {.config = &config.model,
                                .dev = dev,
                                .batch = 1,
                                .seq = count,
                                .dtype = LS_F32,
                                .cache_len = count};
    LS_TRY(ls_model_create(&options, &model));
    LS_TRY(masters_load(ckpt, model));
    LS_TRY(print_logits(model, config.model.vocab, tokens, count));
    ls_model_destroy(model);
    dev->ops->close(dev);
    ls_ckpt_close(ckpt);
    return LS_OK;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: ckpt_logits CHECKPOINT TOKEN...\n");
        return 2;
    }
    ls_status status = run(argv[1], argv + 2, argc - 2);
    if (status != LS_OK) {
        ls_log_error();
    }
    return ls_status_exit(status);
}
