#include "collectives/combine.h"

#include "collectives/combine_fold.h"
#include "collectives/combine_half.h"
#include "runtime/base/cpu.h"

#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

ls_status ls_combine_check(ls_dtype dtype) {
    switch (dtype) {
    case LS_F32:
    case LS_F64:
    case LS_F16:
    case LS_BF16:
    case LS_I32:
    case LS_I64:
    case LS_U64:
        return LS_OK;
    default:
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "a reduction of %s; float32, float64, float16, bfloat16, int32, int64 and "
                       "uint64 can be reduced",
                       ls_dtype_name(dtype));
    }
}

/* Past the caches: what they cannot hold need not be fetched before it is overwritten. What is read
 * for several places at a time stays in the first cache beside the buffers of what goes past them,
 * or else in the second: CACHED_PART, since stores into caches like long runs. */
enum { ALIGN = 16, LINE = 64, STREAM_PART = 4 << 10, CACHED_PART = 128 << 10 };

#if defined(__SSE2__)
/* Whole lines at once: those that are put together of four stores often leave half full, at several
 * times the cost, while others use the memory too. */
__attribute__((target("avx512f"))) static size_t stream_lines(char *to, const char *from,
                                                              size_t bytes) {
    size_t at = 0;
    for (; at + LINE <= bytes; at += LINE) {
        _mm512_stream_si512((__m512i *)(to + at), _mm512_loadu_si512(from + at));
    }
    return at;
}

/* to[bytes] = from past the caches; `to` is aligned to ALIGN. */
static void put_stream(char *to, const char *from, size_t bytes) {
    ls_isa isa;
    size_t at = 0;
    if ((uintptr_t)to % LINE == 0 && ls_cpu_isa(&isa) == LS_OK && isa >= LS_ISA_AVX512) {
        at = stream_lines(to, from, bytes);
    }
    for (; at + ALIGN <= bytes; at += ALIGN) {
        _mm_stream_si128((__m128i *)(to + at), _mm_loadu_si128((const __m128i *)(from + at)));
    }
    memcpy(to + at, from + at, bytes - at);
}
#endif

/* to[bytes] = from, a block; `stream`: past the caches. */
static void put(void *to, const void *from, size_t bytes, bool stream) {
#if defined(__SSE2__)
    if (stream && (uintptr_t)to % ALIGN == 0) {
        put_stream(to, from, bytes);
        return;
    }
#else
    (void)stream;
#endif
    memcpy(to, from, bytes);
}

/* In place, what is written is in a cache already. */
static bool is_elsewhere(int ranks, const void *const *from, int places, void *const *to) {
    for (int i = 0; i < ranks; i++) {
        for (int j = 0; j < places; j++) {
            if (from[i] == to[j]) {
                return false;
            }
        }
    }
    return true;
}

/* Before others are told that the results are there. */
static void end_stream(bool stream) {
#if defined(__SSE2__)
    if (stream) {
        _mm_sfence();
    }
#else
    (void)stream;
#endif
}

/* Up to where put() streams from. */
static int64_t head_of(const void *to, int64_t bytes) {
    const int64_t head = (int64_t)(-(uintptr_t)to % LINE);
    return head < bytes ? head : bytes;
}

static void copy_part(void *to, const void *from, int64_t bytes, bool stream) {
    const int64_t head = head_of(to, bytes);
    memcpy(to, from, (size_t)head);
    put((char *)to + head, (const char *)from + head, (size_t)(bytes - head), stream);
}

void ls_copy(void *to, const void *from, int64_t bytes, int64_t of_bytes) {
    ls_copy_to_all(1, &to, from, bytes, of_bytes >= LS_STREAM_BYTES);
}

void ls_copy_to_all(int places, void *const *to, const void *from, int64_t bytes, bool stream) {
    const int64_t part = places == 1 ? bytes : stream ? STREAM_PART : CACHED_PART;
    for (int64_t at = 0; at < bytes; at += part) {
        const int64_t n = bytes - at < part ? bytes - at : part;
        for (int i = 0; i < places; i++) {
            if (to[i] != from) {
                copy_part((char *)to[i] + at, (const char *)from + at, n, stream);
            }
        }
    }
    end_stream(stream);
}

/* What more than two places get, and what goes past the caches, is put together first. */
static void combine_plain(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from,
                          int places, void *const *to, int64_t count, bool stream) {
    ls_fold_fn *const fold = ls_fold_of(dtype);
    const size_t bytes = ls_dtype_bytes(dtype);
    uint64_t node[LS_FOLD_ELEMS];
    void *const whole[] = {node};
    for (int64_t at = 0; at < count; at += LS_FOLD_ELEMS) {
        const int n = (int)(count - at < LS_FOLD_ELEMS ? count - at : LS_FOLD_ELEMS);
        const size_t first = (size_t)at * bytes;
        if (!stream && places <= 2) {
            void *const there[] = {(char *)to[0] + first, (char *)to[places - 1] + first};
            fold(op, ranks, from, at, n, places, there);
            continue;
        }
        fold(op, ranks, from, at, n, 1, whole);
        for (int j = 0; j < places; j++) {
            put((char *)to[j] + first, node, (size_t)n * bytes, stream);
        }
    }
}

/* 16-bit types: the ranks' blocks are widened as the tree is walked. */
static void half_node(const ls_half_ops *half, ls_reduce op, int ranks, const void *const *from,
                      int64_t at, int n, float *out) {
    if (ranks == 1) {
        half->widen((const uint16_t *)from[0] + at, n, out);
        return;
    }
    if (ranks == 2 && op != LS_MAX && op != LS_MIN) {
        half->sum((const uint16_t *)from[0] + at, (const uint16_t *)from[1] + at, n, out);
        return;
    }
    float right[LS_FOLD_ELEMS];
    const void *const children[] = {out, right};
    void *const node[] = {out};
    const int left = ls_left_leaves(ranks);
    half_node(half, op, left, from, at, n, out);
    half_node(half, op, ranks - left, from + left, at, n, right);
    ls_fold_of(LS_F32)(op, 2, children, 0, n, 1, node);
}

static void combine_half(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from,
                         int places, void *const *to, int64_t count, bool stream) {
    const ls_half_ops *half = ls_half_ops_of(dtype);
    float node[LS_FOLD_ELEMS];
    uint16_t narrow[LS_FOLD_ELEMS];
    for (int64_t at = 0; at < count; at += LS_FOLD_ELEMS) {
        const int n = (int)(count - at < LS_FOLD_ELEMS ? count - at : LS_FOLD_ELEMS);
        half_node(half, op == LS_AVG ? LS_SUM : op, ranks, from, at, n, node);
        for (int i = 0; op == LS_AVG && i < n; i++) {
            node[i] = node[i] / (float)ranks;
        }
        half->narrow(node, n, narrow);
        for (int j = 0; j < places; j++) {
            put((uint16_t *)to[j] + at, narrow, (size_t)n * sizeof *narrow, stream);
        }
    }
}

void ls_combine_ranks(ls_dtype dtype, ls_reduce op, int ranks, const void *const *from, int places,
                      void *const *to, int64_t count, bool stream) {
    stream = stream && is_elsewhere(ranks, from, places, to);
    if (ranks == 1) {
        ls_copy_to_all(places, to, from[0], count * (int64_t)ls_dtype_bytes(dtype), stream);
    } else if (dtype == LS_BF16 || dtype == LS_F16) {
        combine_half(dtype, op, ranks, from, places, to, count, stream);
    } else {
        combine_plain(dtype, op, ranks, from, places, to, count, stream);
    }
    end_stream(stream);
}
