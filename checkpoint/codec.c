#include "checkpoint/format.h"

#include <stdlib.h>
#include <string.h>

ls_status ls_ckpt_codec_init(ls_ckpt_codec *codec, int level) {
    *codec = (ls_ckpt_codec){.level = level};
    codec->decompressor = ZSTD_createDCtx();
    codec->compressor = ZSTD_createCCtx();
    if (!codec->decompressor || !codec->compressor) {
        ls_ckpt_codec_release(codec);
        return LS_FAIL(LS_E_MEMORY, "no memory for a zstd context");
    }
    if (ZSTD_isError(ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_compressionLevel, level)) ||
        ZSTD_isError(ZSTD_CCtx_setParameter(codec->compressor, ZSTD_c_checksumFlag, 1))) {
        ls_ckpt_codec_release(codec);
        return LS_FAIL(LS_E_INPUT, "zstd refuses level %d", level);
    }
    return LS_OK;
}

void ls_ckpt_codec_release(ls_ckpt_codec *codec) {
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeDCtx(codec->decompressor);
    free(codec->raw);
    free(codec->shuffled);
    free(codec->packed);
    *codec = (ls_ckpt_codec){0};
}

/* Room for at least `bytes`; the content is lost. */
static ls_status reserve(uint8_t **buf, size_t *capacity, size_t bytes) {
    if (bytes <= *capacity) {
        return LS_OK;
    }
    free(*buf);
    *capacity = 0;
    *buf = malloc(bytes);
    if (!*buf) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a chunk of %zu bytes", bytes);
    }
    *capacity = bytes;
    return LS_OK;
}

ls_status ls_ckpt_codec_reserve(ls_ckpt_codec *codec, size_t bytes) {
    return reserve(&codec->packed, &codec->packed_capacity, bytes);
}

/* out[b * elems + i] = in[i * width + b]: byte b of all elements together, as HDF5's shuffle. */
static inline void shuffle_width(uint8_t *restrict out, const uint8_t *restrict in, size_t elems,
                                 size_t width) {
    enum { BLOCK = 64 };
    size_t i = 0;
    for (; i + BLOCK <= elems; i += BLOCK) {
        for (size_t b = 0; b < width; b++) {
            for (size_t k = 0; k < BLOCK; k++) {
                out[b * elems + i + k] = in[(i + k) * width + b];
            }
        }
    }
    for (; i < elems; i++) {
        for (size_t b = 0; b < width; b++) {
            out[b * elems + i] = in[i * width + b];
        }
    }
}

static inline void unshuffle_width(uint8_t *restrict out, const uint8_t *restrict in, size_t elems,
                                   size_t width) {
    for (size_t i = 0; i < elems; i++) {
        for (size_t b = 0; b < width; b++) {
            out[i * width + b] = in[b * elems + i];
        }
    }
}

/* Constant widths let the compiler unroll and vectorise. */
static void shuffle(uint8_t *out, const uint8_t *in, size_t elems, int64_t width) {
    switch (width) {
    case 2:
        shuffle_width(out, in, elems, 2);
        break;
    case 4:
        shuffle_width(out, in, elems, 4);
        break;
    default:
        shuffle_width(out, in, elems, (size_t)width);
    }
}

static void unshuffle(uint8_t *out, const uint8_t *in, size_t elems, int64_t width) {
    switch (width) {
    case 2:
        unshuffle_width(out, in, elems, 2);
        break;
    case 4:
        unshuffle_width(out, in, elems, 4);
        break;
    default:
        unshuffle_width(out, in, elems, (size_t)width);
    }
}

ls_status ls_ckpt_encode(ls_ckpt_codec *codec, const void *src, int64_t elems, int64_t chunk_elems,
                         int64_t elem_bytes, const void **out, size_t *out_bytes) {
    size_t bytes = (size_t)(elems * elem_bytes), chunk_bytes = (size_t)(chunk_elems * elem_bytes);
    const uint8_t *data = src;
    if (elems < chunk_elems) {
        LS_TRY(reserve(&codec->raw, &codec->raw_capacity, chunk_bytes));
        memcpy(codec->raw, src, bytes);
        memset(codec->raw + bytes, 0, chunk_bytes - bytes);
        data = codec->raw;
    }
    *out = data;
    *out_bytes = chunk_bytes;
    if (codec->level == 0) {
        return LS_OK;
    }
    if (elem_bytes > 1) {
        LS_TRY(reserve(&codec->shuffled, &codec->shuffled_capacity, chunk_bytes));
        shuffle(codec->shuffled, data, (size_t)chunk_elems, elem_bytes);
        data = codec->shuffled;
    }
    LS_TRY(ls_ckpt_codec_reserve(codec, ZSTD_compressBound(chunk_bytes)));
    size_t n =
        ZSTD_compress2(codec->compressor, codec->packed, codec->packed_capacity, data, chunk_bytes);
    if (ZSTD_isError(n)) {
        return LS_FAIL(LS_E_MEMORY, "zstd cannot compress a chunk of %zu bytes: %s", chunk_bytes,
                       ZSTD_getErrorName(n));
    }
    *out = codec->packed;
    *out_bytes = n;
    return LS_OK;
}

size_t ls_ckpt_stored_max(size_t chunk_bytes, bool compressed) {
    return compressed ? ZSTD_compressBound(chunk_bytes) : chunk_bytes;
}

ls_status ls_ckpt_decode(ls_ckpt_codec *codec, size_t stored_bytes, const ls_ckpt_grid *grid,
                         bool compressed, const uint8_t **out) {
    enum { DESCRIPTOR = 4, CHECKSUM_FLAG = 4 }; /* RFC 8878, section 3.1.1.1.1 */
    size_t chunk_bytes = (size_t)grid->chunk_bytes;
    if (!compressed) {
        *out = codec->packed;
        return stored_bytes == chunk_bytes ? LS_OK
                                           : LS_FAIL(LS_E_CORRUPT, "it has %zu bytes, expected %zu",
                                                     stored_bytes, chunk_bytes);
    }
    unsigned long long content = ZSTD_getFrameContentSize(codec->packed, stored_bytes);
    if (content == ZSTD_CONTENTSIZE_ERROR || content == ZSTD_CONTENTSIZE_UNKNOWN) {
        return LS_FAIL(LS_E_CORRUPT, "its %zu bytes are not a zstd frame with a content size",
                       stored_bytes);
    }
    if (content != chunk_bytes) {
        return LS_FAIL(LS_E_CORRUPT, "its frame claims %llu bytes of content, expected %zu",
                       content, chunk_bytes);
    }
    if (ZSTD_findFrameCompressedSize(codec->packed, stored_bytes) != stored_bytes ||
        !(codec->packed[DESCRIPTOR] & CHECKSUM_FLAG)) {
        return LS_FAIL(LS_E_CORRUPT, "its %zu bytes are not one whole zstd frame with a checksum",
                       stored_bytes);
    }
    LS_TRY(reserve(&codec->raw, &codec->raw_capacity, chunk_bytes));
    size_t n = ZSTD_decompressDCtx(codec->decompressor, codec->raw, chunk_bytes, codec->packed,
                                   stored_bytes);
    if (ZSTD_isError(n) || n != chunk_bytes) {
        return LS_FAIL(LS_E_CORRUPT, "its frame does not decompress: %s",
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "short content");
    }
    *out = codec->raw;
    if (grid->elem_bytes > 1) {
        LS_TRY(reserve(&codec->shuffled, &codec->shuffled_capacity, chunk_bytes));
        unshuffle(codec->shuffled, codec->raw, (size_t)grid->chunk_elems, grid->elem_bytes);
        *out = codec->shuffled;
    }
    return LS_OK;
}
