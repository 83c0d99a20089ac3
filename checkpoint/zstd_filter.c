#include "checkpoint/zstd_filter.h"

#include <stdint.h>
#include <stdlib.h>
#include <zstd.h>

#define HDF5_CHUNK_LIMIT UINT32_MAX
#define DEFAULT_LEVEL    3

static size_t decompress(size_t bytes, size_t *capacity, void **buf) {
    unsigned long long content = ZSTD_getFrameContentSize(*buf, bytes);
    if (content == ZSTD_CONTENTSIZE_UNKNOWN || content == ZSTD_CONTENTSIZE_ERROR || content == 0 ||
        content > HDF5_CHUNK_LIMIT) {
        return 0;
    }
    void *out = malloc((size_t)content);
    if (!out) {
        return 0;
    }
    size_t n = ZSTD_decompress(out, (size_t)content, *buf, bytes);
    if (ZSTD_isError(n) || n != content) {
        free(out);
        return 0;
    }
    free(*buf);
    *buf = out;
    *capacity = n;
    return n;
}

static size_t compress(int level, size_t bytes, size_t *capacity, void **buf) {
    size_t bound = ZSTD_compressBound(bytes);
    void *out = malloc(bound);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    size_t n = 0;
    if (out && context &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)) &&
        !ZSTD_isError(ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1))) {
        n = ZSTD_compress2(context, out, bound, *buf, bytes);
    }
    ZSTD_freeCCtx(context);
    if (n == 0 || ZSTD_isError(n)) {
        free(out);
        return 0;
    }
    free(*buf);
    *buf = out;
    *capacity = bound;
    return n;
}

static size_t filter(unsigned flags, size_t cd_nelmts, const unsigned cd_values[], size_t nbytes,
                     size_t *buf_size, void **buf) {
    if (flags & H5Z_FLAG_REVERSE) {
        return decompress(nbytes, buf_size, buf);
    }
    return compress(cd_nelmts > 0 ? (int)cd_values[0] : DEFAULT_LEVEL, nbytes, buf_size, buf);
}

const H5Z_class2_t ls_h5z_zstd = {
    .version = H5Z_CLASS_T_VERS,
    .id = LS_H5Z_ZSTD,
    .encoder_present = 1,
    .decoder_present = 1,
    .name = "zstd",
    .filter = filter,
};
