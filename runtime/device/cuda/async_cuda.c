/* The table of what needs no host: checks, launch. */
#include "runtime/device/check.h"
#include "runtime/device/cuda/device_cuda.h"
#include "runtime/device/cuda/launch.h"
#include "runtime/device/cuda/memory_cuda.h"
#include "runtime/device/cuda/recording.h"

#include <string.h>

static ls_status squares(ls_device *dev, int64_t first, int64_t n, const void *x, double *sums) {
    LS_TRY(ls_check_sum_squares(first, n));
    if (n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_squares(ls_cuda_stream(dev), first, n, x, sums);
    return ls_cuda_launched("squares");
}

static ls_status exact_scale(ls_device *dev, int64_t n, const double *x, int32_t *scale) {
    LS_TRY(ls_check_size("exact_scale", "n", n, 0));
    ls_cuda_launch_exact_scale(ls_cuda_stream(dev), n, x, scale);
    return ls_cuda_launched("the scale of a sum");
}

static ls_status exact_digits(ls_device *dev, int64_t n, const double *x, const int32_t *scale,
                              int64_t *digits) {
    LS_TRY(ls_check_size("exact_digits", "n", n, 0));
    ls_cuda_launch_exact_digits(ls_cuda_stream(dev), n, x, scale, digits);
    return ls_cuda_launched("the digits of a sum");
}

static ls_status judge(ls_device *dev, const ls_judge *op) {
    ls_cuda_launch_judge(ls_cuda_stream(dev), op);
    return ls_cuda_launched("a verdict");
}

static ls_status blend_by_verdict(ls_device *dev, const ls_update_verdict *verdict, int64_t n,
                                  double a, const void *x, double b, void *y) {
    LS_TRY(ls_check_size("blend", "n", n, 0));
    if (n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_blend(ls_cuda_stream(dev), verdict, n, a, x, b, y);
    return ls_cuda_launched("blend");
}

static ls_status normalize(ls_device *dev, int64_t n, double eps, void *x, double *squares) {
    LS_TRY(ls_check_size("normalize", "n", n, 0));
    if (n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_normalize(ls_cuda_stream(dev), n, eps, x, squares);
    return ls_cuda_launched("normalizing");
}

static ls_status place_count(ls_device *dev, const ls_place *op) {
    ls_cuda_launch_place_count(ls_cuda_stream(dev), op);
    return ls_cuda_launched("counting choices of experts");
}

static ls_status place_keep(ls_device *dev, const ls_place *op) {
    ls_cuda_launch_place_keep(ls_cuda_stream(dev), op);
    return ls_cuda_launched("choices within the capacity");
}

static ls_status place_rows(ls_device *dev, const ls_place *op) {
    ls_cuda_launch_place_rows(ls_cuda_stream(dev), op);
    return ls_cuda_launched("placing choices of experts");
}

static ls_status place_order(ls_device *dev, const ls_place_order *op) {
    if (op->local == 0) {
        return LS_OK;
    }
    ls_cuda_launch_place_order(ls_cuda_stream(dev), op);
    return ls_cuda_launched("ordering the rows of experts");
}

static ls_status expert_products(ls_device *dev, const ls_expert_products *op) {
    const int64_t most = INT32_MAX;
    LS_TRY(ls_check_size("expert_products", "rows", op->rows, 0));
    if (op->rows > most || op->in > most || op->out > most || op->experts > 65535) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "products of %lld experts with %lld rows, %lld x %lld weights; a GPU serves "
                       "up to 65535 and %lld",
                       (long long)op->experts, (long long)op->rows, (long long)op->out,
                       (long long)op->in, (long long)most);
    }
    if (op->rows == 0 || op->experts == 0 || op->in == 0 || op->out == 0) {
        return LS_OK;
    }
    ls_cuda_launch_expert_products(ls_cuda_stream(dev), op);
    return ls_cuda_launched("products of experts");
}

static ls_status segment_scales(ls_device *dev, int64_t count, const int64_t *ends, const double *x,
                                int32_t *scales) {
    LS_TRY(ls_check_size("segment_scales", "count", count, 0));
    if (count == 0) {
        return LS_OK;
    }
    ls_cuda_launch_segment_scales(ls_cuda_stream(dev), count, ends, x, scales);
    return ls_cuda_launched("the scales of sums");
}

static ls_status segment_digits(ls_device *dev, int64_t count, const int64_t *ends, const double *x,
                                const int32_t *scales, int64_t *digits) {
    LS_TRY(ls_check_size("segment_digits", "count", count, 0));
    if (count == 0) {
        return LS_OK;
    }
    ls_cuda_launch_segment_digits(ls_cuda_stream(dev), count, ends, x, scales, digits);
    return ls_cuda_launched("the digits of sums");
}

static ls_status adafactor_norm(ls_device *dev, const ls_adafactor *op, double *sums) {
    LS_TRY(ls_check_adafactor(dev, op));
    if (op->n == 0) {
        return LS_OK;
    }
    ls_cuda_launch_adafactor_norm(ls_cuda_stream(dev), op, sums);
    return ls_cuda_launched("Adafactor's norm");
}

static ls_status adafactor_all(ls_device *dev, const ls_adafactor_all *op) {
    LS_TRY(ls_check_size("adafactor_all", "count", op->count, 0));
    if (op->count == 0) {
        return LS_OK;
    }
    ls_cuda_launch_adafactor_all(ls_cuda_stream(dev), op);
    return ls_cuda_launched("Adafactor's statistics");
}

static ls_status peek_start(ls_cuda_device *cuda, size_t bytes) {
    if (!cuda->peek.stream) {
        LS_TRY(ls_cuda_stream_create(false, &cuda->peek.stream));
        LS_CUDA_TRY(cudaEventCreateWithFlags(&cuda->peek.ready, cudaEventDisableTiming),
                    "creating an event");
        LS_CUDA_TRY(cudaEventCreateWithFlags(&cuda->peek.over, cudaEventDisableTiming),
                    "creating an event");
    }
    if (bytes > cuda->peek.bytes) {
        void *memory;
        LS_CUDA_TRY(cudaMallocHost(&memory, bytes), "pinning memory");
        cudaFreeHost(cuda->peek.memory);
        cuda->peek.memory = memory;
        cuda->peek.bytes = bytes;
    }
    return LS_OK;
}

void ls_cuda_peek_end(ls_cuda_device *cuda) {
    const cudaEvent_t events[] = {cuda->peek.ready, cuda->peek.over};
    for (int e = 0; e < 2; e++) {
        if (events[e]) {
            cudaEventDestroy(events[e]);
        }
    }
    if (cuda->peek.stream) {
        cudaStreamDestroy(cuda->peek.stream);
    }
    cudaFreeHost(cuda->peek.memory);
}

static ls_status peek(ls_device *dev, const void *from_device, size_t bytes) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_TRY(peek_start(cuda, bytes));
    LS_CUDA_TRY(cudaEventRecord(cuda->peek.ready, cuda->compute), "recording an event");
    LS_CUDA_TRY(cudaStreamWaitEvent(cuda->peek.stream, cuda->peek.ready, 0), "ordering a copy");
    LS_CUDA_TRY(cudaMemcpyAsync(cuda->peek.memory, from_device, bytes, cudaMemcpyDeviceToHost,
                                cuda->peek.stream),
                "copying from the device");
    LS_CUDA_TRY(cudaEventRecord(cuda->peek.over, cuda->peek.stream), "recording an event");
    return LS_OK;
}

static ls_status peeked(ls_device *dev, void *to_host, size_t bytes) {
    ls_cuda_device *cuda = ls_cuda_of(dev);
    LS_TRY(ls_cuda_wait(cuda, cuda->peek.over));
    memcpy(to_host, cuda->peek.memory, bytes);
    return LS_OK;
}

const ls_device_async_ops ls_cuda_async_ops = {
    .record_begin = ls_cuda_record_begin,
    .record_end = ls_cuda_record_end,
    .replay = ls_cuda_replay,
    .recording_free = ls_cuda_recording_free,
    .squares = squares,
    .exact_scale = exact_scale,
    .exact_digits = exact_digits,
    .judge = judge,
    .segment_scales = segment_scales,
    .segment_digits = segment_digits,
    .adafactor_norm = adafactor_norm,
    .adafactor_all = adafactor_all,
    .blend = blend_by_verdict,
    .normalize = normalize,
    .place_count = place_count,
    .place_keep = place_keep,
    .place_rows = place_rows,
    .place_order = place_order,
    .expert_products = expert_products,
    .pin = ls_cuda_pin,
    .unpin = ls_cuda_unpin,
    .fetch = ls_cuda_fetch,
    .hold = ls_cuda_hold,
    .fetched = ls_cuda_fetched,
    .peek = peek,
    .peeked = peeked,
    .attention_offer = ls_cuda_attention_offer,
    .attention_settle = ls_cuda_attention_settle,
};
