/* Arithmetic of the emulated NCCL. */
#include "tests/emulator/nccl/reduce.h"

#include "runtime/base/dtype.h"

#include <stdbool.h>
#include <string.h>

size_t emu_nccl_bytes(ncclDataType_t type) {
    static const size_t bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return bytes[type];
}

static double get(ncclDataType_t type, const void *x, uint64_t i) {
    switch (type) {
    case ncclFloat32:
        return ((const float *)x)[i];
    case ncclFloat64:
        return ((const double *)x)[i];
    case ncclBfloat16:
        return ls_bf16_to_f32(((const ls_bf16 *)x)[i]);
    default:
        return ls_f16_to_f32(((const ls_f16 *)x)[i]);
    }
}

static void put(ncclDataType_t type, void *x, uint64_t i, double value) {
    switch (type) {
    case ncclFloat32:
        ((float *)x)[i] = (float)value;
        break;
    case ncclFloat64:
        ((double *)x)[i] = value;
        break;
    case ncclBfloat16:
        ((ls_bf16 *)x)[i] = ls_bf16_from_f32((float)value);
        break;
    default:
        ((ls_f16 *)x)[i] = ls_f16_from_f32((float)value);
    }
}

static int64_t get_whole(ncclDataType_t type, const void *x, uint64_t i) {
    switch (type) {
    case ncclInt8:
        return ((const int8_t *)x)[i];
    case ncclUint8:
        return ((const uint8_t *)x)[i];
    case ncclInt32:
        return ((const int32_t *)x)[i];
    case ncclUint32:
        return ((const uint32_t *)x)[i];
    default:
        return ((const int64_t *)x)[i];
    }
}

static void put_whole(ncclDataType_t type, void *x, uint64_t i, int64_t value) {
    memcpy((char *)x + i * emu_nccl_bytes(type), &value, emu_nccl_bytes(type)); /* little-endian */
}

void emu_nccl_combine(ncclDataType_t type, ncclRedOp_t op, void *to, const void *from, uint64_t n) {
    for (uint64_t i = 0; i < n; i++) {
        if (type >= ncclFloat16) {
            const double a = get(type, to, i), b = get(type, from, i);
            put(type, to, i,
                op == ncclMax   ? (b > a ? b : a)
                : op == ncclMin ? (b < a ? b : a)
                                : a + b);
        } else {
            const int64_t a = get_whole(type, to, i), b = get_whole(type, from, i);
            const bool sign = type != ncclUint64;
            const bool less = sign ? a < b : (uint64_t)a < (uint64_t)b;
            put_whole(type, to, i,
                      op == ncclMax   ? (less ? b : a)
                      : op == ncclMin ? (less ? a : b)
                                      : (int64_t)((uint64_t)a + (uint64_t)b));
        }
    }
}

void emu_nccl_divide(ncclDataType_t type, void *x, uint64_t n, int size) {
    for (uint64_t i = 0; i < n; i++) {
        if (type >= ncclFloat16) {
            put(type, x, i, get(type, x, i) / size);
        } else {
            put_whole(type, x, i, get_whole(type, x, i) / size);
        }
    }
}
