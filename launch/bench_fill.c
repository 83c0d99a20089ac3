#include "launch/bench_fill.h"

#include "runtime/base/rng.h"

enum { BLOCK_BYTES = 64 << 10 };

static void set(ls_dtype dtype, void *block, size_t i, uint32_t bits) {
    const float value = (float)(int32_t)bits * 0x1p-31f;
    switch (dtype) {
    case LS_F32:
        ((float *)block)[i] = value;
        break;
    case LS_F64:
        ((double *)block)[i] = (double)value;
        break;
    case LS_BF16:
        ((ls_bf16 *)block)[i] = ls_bf16_from_f32(value);
        break;
    case LS_F16:
        ((ls_f16 *)block)[i] = ls_f16_from_f32(value);
        break;
    default:
        memset((char *)block + i * ls_dtype_bytes(dtype), (int)(bits | 1), ls_dtype_bytes(dtype));
        break;
    }
}

/* Its first piece, which is repeated from there. */
static size_t make_block(ls_dtype dtype, void *block, size_t bytes) {
    const size_t elem = ls_dtype_bytes(dtype);
    const size_t size = bytes < BLOCK_BYTES ? bytes : BLOCK_BYTES;
    ls_rng_block random = {{0}};
    for (size_t i = 0; i < size / elem; i++) {
        random = i % 4 == 0 ? ls_rng_draw(1, 0, i / 4) : random;
        set(dtype, block, i, random.v[i % 4]);
    }
    return size;
}

void ls_bench_fill(ls_dtype dtype, void *memory, size_t bytes) {
    for (size_t done = make_block(dtype, memory, bytes); done < bytes;) {
        const size_t n = bytes - done < BLOCK_BYTES ? bytes - done : BLOCK_BYTES;
        memcpy((char *)memory + done, memory, n);
        done += n;
    }
}

ls_status ls_bench_fill_device(ls_device *dev, ls_dtype dtype, void *memory, size_t bytes) {
    uint64_t block[BLOCK_BYTES / sizeof(uint64_t)];
    const size_t size = make_block(dtype, block, bytes);
    for (size_t done = 0; done < bytes; done += size) {
        const size_t n = bytes - done < size ? bytes - done : size;
        LS_TRY(dev->ops->upload(dev, (char *)memory + done, block, n));
    }
    return LS_OK;
}
