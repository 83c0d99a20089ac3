#include "checkpoint/format.h"
#include "checkpoint/planes.h"
#include "checkpoint/saver.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

static bool set(ZSTD_CCtx *compressor, ZSTD_cParameter parameter, int value) {
    return !ZSTD_isError(ZSTD_CCtx_setParameter(compressor, parameter, value));
}

/* For byte planes of trained numbers, where repetitions are accidents: looks for almost none and
 * codes the bytes by frequency. Thrice as fast as level 1 there, and smaller. NULL where this zstd
 * has no such mode (literalCompressionMode, number 5 of those that may change). */
static ZSTD_CCtx *entropy_create(void) {
    const int huffman = 1;
    ZSTD_CCtx *compressor = ZSTD_createCCtx();
    if (compressor &&
        !(set(compressor, ZSTD_c_compressionLevel, 1) && set(compressor, ZSTD_c_checksumFlag, 1) &&
          set(compressor, ZSTD_c_strategy, ZSTD_fast) && set(compressor, ZSTD_c_minMatch, 7) &&
          set(compressor, ZSTD_c_hashLog, 6) && set(compressor, ZSTD_c_targetLength, 256) &&
          set(compressor, ZSTD_c_experimentalParam5, huffman))) {
        ZSTD_freeCCtx(compressor);
        compressor = NULL;
    }
    return compressor;
}

ls_status ls_ckpt_codec_init(ls_ckpt_codec *codec, int level) {
    *codec = (ls_ckpt_codec){.level = level};
    codec->decompressor = ZSTD_createDCtx();
    codec->compressor = ZSTD_createCCtx();
    if (!codec->decompressor || !codec->compressor) {
        ls_ckpt_codec_release(codec);
        return LS_FAIL(LS_E_MEMORY, "no memory for a zstd context");
    }
    if (!set(codec->compressor, ZSTD_c_compressionLevel, level) ||
        !set(codec->compressor, ZSTD_c_checksumFlag, 1)) {
        ls_ckpt_codec_release(codec);
        return LS_FAIL(LS_E_INPUT, "zstd refuses level %d", level);
    }
    codec->entropy = level == 1 ? entropy_create() : NULL;
    return LS_OK;
}

/* In huge pages: those that are filled, or nearly. */
static size_t huge_bytes(size_t bytes) {
    return (bytes + HUGE_BYTES / 8) / HUGE_BYTES * HUGE_BYTES;
}

size_t ls_ckpt_writing_bytes(const ls_ckpt_writing *w) {
    enum { LIBRARIES_KIB = 2048, FIRST_KIB = 1024, BACKGROUND_KIB = 640 }; /* measured */
    const int kib = LIBRARIES_KIB + w->first * FIRST_KIB + w->background * BACKGROUND_KIB;
    const int waiting = ls_ckpt_putter_threads(w->threads, INT64_MAX);
    size_t chunk = w->piece_bytes < LS_CKPT_CHUNK_BYTES ? w->piece_bytes : LS_CKPT_CHUNK_BYTES;
    const size_t hashes = ls_sha256_leaves_memory(w->threads, chunk);
    chunk = huge_bytes(chunk) > chunk ? huge_bytes(chunk) : chunk;
    const size_t chunks = (size_t)(3 * w->threads + waiting + 1) * chunk;
    return ((size_t)kib << 10) + hashes + (chunks > w->parity_bytes ? chunks : w->parity_bytes);
}

void ls_ckpt_codec_trust_frames(ls_ckpt_codec *codec) {
    const int ignore = 1; /* a zstd without forceIgnoreChecksum, number 3 of those that may change,
                             looks at them */
    (void)ZSTD_DCtx_setParameter(codec->decompressor, ZSTD_d_experimentalParam3, ignore);
}

void ls_ckpt_codec_release(ls_ckpt_codec *codec) {
    ZSTD_freeCCtx(codec->compressor);
    ZSTD_freeCCtx(codec->entropy);
    ZSTD_freeDCtx(codec->decompressor);
    free(codec->raw);
    free(codec->shuffled);
    free(codec->packed);
    *codec = (ls_ckpt_codec){0};
}

uint8_t *ls_ckpt_buffer(size_t bytes) {
    const size_t whole = huge_bytes(bytes), align = whole ? HUGE_BYTES : LS_CKPT_H5_ALIGNMENT;
    uint8_t *buffer = aligned_alloc(align, (bytes / align + 1) * align);
    if (buffer && whole) {
        (void)madvise(buffer, whole, MADV_HUGEPAGE);
    }
    return buffer;
}

ls_status ls_ckpt_buffer_reserve(uint8_t **buf, size_t *capacity, size_t bytes) {
    if (bytes <= *capacity) {
        return LS_OK;
    }
    free(*buf);
    *capacity = 0;
    *buf = ls_ckpt_buffer(bytes);
    if (!*buf) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a chunk of %zu bytes", bytes);
    }
    *capacity = bytes;
    return LS_OK;
}

ls_status ls_ckpt_codec_reserve(ls_ckpt_codec *codec, size_t bytes) {
    return ls_ckpt_buffer_reserve(&codec->packed, &codec->packed_capacity, bytes);
}

/* Bytes of one sample of each byte plane. */
enum { SAMPLE = 16384 };

/* Is the quick way as good for what was shuffled? A part of each plane's middle tells. */
static bool quick_is_as_good(ls_ckpt_codec *codec, size_t elems, size_t width) {
    size_t by_level = 0, by_entropy = 0, room = codec->packed_capacity;
    size_t bytes = elems < SAMPLE ? elems : SAMPLE;
    for (size_t b = 0; b < width; b++) {
        const uint8_t *plane = codec->shuffled + b * elems + (elems - bytes) / 2;
        by_level += ZSTD_compress2(codec->compressor, codec->packed, room, plane, bytes);
        by_entropy += ZSTD_compress2(codec->entropy, codec->packed, room, plane, bytes);
    }
    return by_entropy <= by_level + by_level / 64;
}

ls_status ls_ckpt_encode(ls_ckpt_codec *codec, const void *src, int64_t elems, int64_t chunk_elems,
                         int64_t elem_bytes, const void **out, size_t *out_bytes, uint64_t *xxh3) {
    size_t bytes = (size_t)(elems * elem_bytes), chunk_bytes = (size_t)(chunk_elems * elem_bytes);
    const uint8_t *data = src;
    if (elems < chunk_elems) {
        LS_TRY(ls_ckpt_buffer_reserve(&codec->raw, &codec->raw_capacity, chunk_bytes));
        memcpy(codec->raw, src, bytes);
        memset(codec->raw + bytes, 0, chunk_bytes - bytes);
        data = codec->raw;
    }
    *out = data;
    *out_bytes = chunk_bytes;
    if (codec->level == 0 || elem_bytes == 1) {
        *xxh3 = ls_planes()->hash(data, bytes);
    } else {
        LS_TRY(ls_ckpt_buffer_reserve(&codec->shuffled, &codec->shuffled_capacity, chunk_bytes));
        *xxh3 = ls_planes()->split(codec->shuffled, data, (size_t)chunk_elems, (size_t)elem_bytes,
                                   (size_t)elems);
        data = codec->shuffled;
    }
    if (codec->level == 0) {
        return LS_OK;
    }
    LS_TRY(ls_ckpt_codec_reserve(codec, ZSTD_compressBound(chunk_bytes)));
    bool quick = codec->entropy && elem_bytes > 1 && chunk_elems >= 4 * SAMPLE &&
                 quick_is_as_good(codec, (size_t)chunk_elems, (size_t)elem_bytes);
    size_t n = ZSTD_compress2(quick ? codec->entropy : codec->compressor, codec->packed,
                              codec->packed_capacity, data, chunk_bytes);
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

/* The content of the frame in codec->packed into codec->raw. */
static ls_status frame_open(ls_ckpt_codec *codec, size_t stored_bytes, size_t chunk_bytes) {
    enum { DESCRIPTOR = 4, CHECKSUM_FLAG = 4 }; /* RFC 8878, section 3.1.1.1.1 */
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
    LS_TRY(ls_ckpt_buffer_reserve(&codec->raw, &codec->raw_capacity, chunk_bytes));
    size_t n = ZSTD_decompressDCtx(codec->decompressor, codec->raw, chunk_bytes, codec->packed,
                                   stored_bytes);
    if (ZSTD_isError(n) || n != chunk_bytes) {
        return LS_FAIL(LS_E_CORRUPT, "its frame does not decompress: %s",
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "short content");
    }
    return LS_OK;
}

ls_status ls_ckpt_decode(ls_ckpt_codec *codec, size_t stored_bytes, const ls_ckpt_grid *grid,
                         bool compressed, int64_t elems, const uint8_t **out, uint64_t *xxh3) {
    const size_t chunk_bytes = (size_t)grid->chunk_bytes, chunk_elems = (size_t)grid->chunk_elems;
    const size_t width = (size_t)grid->elem_bytes;
    const ls_planes_ops *planes = ls_planes();
    if (!compressed && stored_bytes != chunk_bytes) {
        return LS_FAIL(LS_E_CORRUPT, "it has %zu bytes, expected %zu", stored_bytes, chunk_bytes);
    }
    if (compressed) {
        LS_TRY(frame_open(codec, stored_bytes, chunk_bytes));
    }
    if (!compressed || width == 1) {
        *out = compressed ? codec->raw : codec->packed;
        *xxh3 = planes->hash(*out, (size_t)elems * width);
        return LS_OK;
    }
    uint8_t *to = codec->into;
    if (!to) {
        LS_TRY(ls_ckpt_buffer_reserve(&codec->shuffled, &codec->shuffled_capacity, chunk_bytes));
        to = codec->shuffled;
    }
    *xxh3 = planes->join(to, codec->raw, chunk_elems, width,
                         codec->into ? (size_t)elems : chunk_elems, (size_t)elems);
    *out = to;
    return LS_OK;
}
