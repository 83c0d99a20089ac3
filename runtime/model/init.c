/* Initial values: a function of (seed, parameter name, index in the parameter), so that any layout
 * of the same model starts from the same numbers. */
#include "runtime/base/hash.h"
#include "runtime/base/rng.h"
#include "runtime/model/model_internal.h"

#include <stdlib.h>

#define CHUNK_ELEMS ((int64_t)1 << 20)

/* Elements 2k and 2k+1 are the two normals that Box & Muller's transform
 * (doi:10.1214/aoms/1177706645) makes of block k. */
static void normal_pair(uint64_t seed, uint64_t stream, uint64_t k, double pair[2]) {
    ls_rng_block b = ls_rng_draw(seed, stream, k);
    double u = ((double)b.v[0] * 0x1p32 + (double)b.v[1] + 1.0) * 0x1p-64; /* (0, 1] */
    double angle = 6.283185307179586 * (double)b.v[2] * 0x1p-32;
    double radius = sqrt(-2.0 * log(u));
    pair[0] = radius * cos(angle);
    pair[1] = radius * sin(angle);
}

/* Elements [first, first + n) of a parameter, first even; those >= valid are padding. */
static void fill(const ls_device *dev, const ls_param *param, uint64_t seed, int64_t first,
                 int64_t n, void *host) {
    const uint64_t stream = ls_xxh64(param->name, strlen(param->name), 0);
    const int64_t valid = param->elems / param->dims[0] * param->valid_rows;
    const double one = param->init == LS_INIT_ONE ? 1.0 : 0.0;
#pragma omp parallel for num_threads(dev->threads) schedule(static)
    for (int64_t k = 0; k < (n + 1) / 2; k++) {
        double pair[2] = {one, one};
        if (param->init == LS_INIT_NORMAL) {
            normal_pair(seed, stream, (uint64_t)(first / 2 + k), pair);
            pair[0] *= param->init_std;
            pair[1] *= param->init_std;
        }
        for (int64_t j = 0; j < 2 && 2 * k + j < n; j++) {
            int64_t i = 2 * k + j;
            ls_store(dev->acc, host, i, first + i < valid ? pair[j] : 0.0);
        }
    }
}

ls_status ls_model_init(ls_model *m, uint64_t seed) {
    const size_t acc_bytes = ls_dtype_bytes(m->dev->acc);
    void *host;
    LS_TRY(ls_calloc((size_t)CHUNK_ELEMS, acc_bytes, &host));
    ls_status status = LS_OK;
    for (int p = 0; p < m->param_count; p++) {
        const ls_param *param = &m->params[p];
        for (int64_t first = 0; first < param->elems; first += CHUNK_ELEMS) {
            int64_t left = param->elems - first, n = left < CHUNK_ELEMS ? left : CHUNK_ELEMS;
            fill(m->dev, param, seed, first, n, host);
            void *to = ls_elems_at(m->masters, param->offset + first, m->dev->acc);
            LS_TRY_GOTO(m->dev->ops->upload(m->dev, to, host, (size_t)n * acc_bytes), done);
        }
    }
    status = ls_model_refresh(m);
done:
    free(host);
    return status;
}

ls_status ls_model_refresh(ls_model *m) {
    for (int p = 0; m->copies && p < m->param_count; p++) {
        const ls_param *param = &m->params[p];
        if (param->matrix) {
            LS_TRY(m->dev->ops->cast(m->dev, m->dtype, param->elems,
                                     ls_elems_at(m->masters, param->offset, m->dev->acc),
                                     ls_elems_at(m->copies, param->offset, m->dtype)));
        }
    }
    return LS_OK;
}
