/* Attention by cuDNN against the reference, what it is not asked for, and what it refuses. */
#include "runtime/device/cuda/device_cuda.h"
#include "tests/device/kernel_ops.h"
#include "tests/test.h"

#include <stdlib.h>

/* dim = B, q_len, kv_len, H, G, D, padding of rows, as kernel_matrix.c has them. */
static const struct {
    int64_t dim[KT_DIMS];
    int plans; /* that serve it on the emulated GPU, forward and backward; a real one's differ */
} shapes[] = {
    {{2, 64, 64, 2, 2, 64, 0}, 2},  {{1, 65, 65, 4, 2, 80, 8}, 2},
    {{1, 40, 40, 4, 1, 128, 0}, 2}, {{1, 33, 70, 2, 1, 64, 16}, 2},
    {{2, 17, 17, 1, 1, 16, 8}, 2},  {{1, 9, 9, 1, 1, 200, 0}, 0}, /* refused */
    {{1, 1, 30, 2, 2, 64, 0}, 0},                                 /* of sampling: not asked for */
    {{1, 20, 20, 1, 1, 20, 0}, 0}                                 /* not aligned */
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* A library may choose other algorithms for shifted buffers: those go to the own kernels. */
static void test_shapes(void) {
    kt_op forward = kt_attention_forward, backward = kt_attention_backward;
    forward.by_alignment = backward.by_alignment = true;
    for (int i = 0; i < SHAPES; i++) {
        kt_case c = {.op = &forward};
        memcpy(c.dim, shapes[i].dim, sizeof c.dim);
        CHECK_INT(kt_check(&c, "cudnn", false), 0);
        if (c.dim[1] == c.dim[2]) {
            c.op = &backward;
            CHECK_INT(kt_check(&c, "cudnn", false), 0);
        }
    }
}

/* Without a mask, as ring attention has its parts. */
static ls_attention op_of(const int64_t dim[KT_DIMS], char *memory) {
    const int64_t width = (dim[3] + 2 * dim[4]) * dim[5], part = (int64_t)1 << 18;
    return (ls_attention){.dtype = LS_BF16,
                          .batch = dim[0],
                          .q_len = dim[1],
                          .kv_len = dim[2],
                          .heads = dim[3],
                          .kv_heads = dim[4],
                          .head_dim = dim[5],
                          .scale = 0.125,
                          .q = memory,
                          .k = memory + 2 * dim[3] * dim[5],
                          .v = memory + 2 * (dim[3] + dim[4]) * dim[5],
                          .q_stride = width,
                          .kv_stride = width,
                          .q_batch = dim[1] * width,
                          .kv_batch = dim[2] * width,
                          .out = memory + part,
                          .o_stride = dim[3] * dim[5],
                          .lse = memory + 2 * part,
                          .dout = memory + 3 * part,
                          .dq = memory + 4 * part,
                          .dk = memory + 4 * part + 2 * dim[3] * dim[5],
                          .dv = memory + 4 * part + 2 * (dim[3] + dim[4]) * dim[5]};
}

#ifdef LS_EMULATED_DEVICE
#define EMULATED true
#else
#define EMULATED false
#endif

/* Plans that a shape has added: as many as it says, or on a real GPU as many as cuDNN's version
 * and the chip give, none for what is not asked for. */
static void check_added(int shape, int added) {
    const int64_t *dim = shapes[shape].dim;
    const bool asked = dim[1] > 1 && dim[5] % 8 == 0;
    if (EMULATED) {
        CHECK_INT(added, shapes[shape].plans);
    } else {
        CHECK(added >= 0 && added <= (asked ? 2 : 0));
        printf("%lld rows, %lld keys, %lld and %lld heads of %lld: %d plans of cuDNN's\n",
               (long long)dim[1], (long long)dim[2], (long long)dim[3], (long long)dim[4],
               (long long)dim[5], added);
    }
}

/* Who serves which shape, and that nothing more is planned or taken when it comes again. */
static void test_plans(void) {
    ls_device *dev;
    void *memory;
    int plans = 0;
    CHECK_OK(kt_open("cudnn", 1, &dev));
    const ls_device_ops *ops = dev->ops;
    CHECK_OK(ops->alloc(dev, (size_t)5 << 18, &memory));
    for (int i = 0; i < 2 * SHAPES; i++) {
        const ls_attention op = op_of(shapes[i % SHAPES].dim, memory);
        const size_t scratch_bytes = dev->scratch_bytes;
        CHECK_OK(ops->attention_forward(dev, &op));
        CHECK_OK(ops->attention_backward(dev, &op));
        const int now = ls_cuda_cudnn_plans(ls_cuda_of(dev));
        if (i < SHAPES) {
            check_added(i, now - plans);
            plans = now;
        }
        CHECK_INT(now, plans);
        CHECK(i < SHAPES || dev->scratch_bytes == scratch_bytes);
    }
    ls_attention part = op_of(shapes[0].dim, memory);
    part.merge = true;
    CHECK_OK(ops->attention_forward(dev, &part));
    part.merge = false;
    part.add = true;
    CHECK_OK(ops->attention_backward(dev, &part));
    part.add = false;
    part.first_key = (const int32_t *)memory; /* any numbers will do */
    CHECK_OK(ops->attention_forward(dev, &part));
    CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), plans);
    part.first_key = NULL;
    part.full = true;
    CHECK_OK(ops->attention_forward(dev, &part));
    if (EMULATED) {
        CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), plans + 1);
    }
    CHECK_OK(ops->sync(dev));
    ops->free(dev, memory);
    ops->close(dev);
}

static const int64_t reserved_dim[KT_DIMS] = {2, 64, 64, 2, 1, 64};
static const ls_device_limits limits = {.rows = 128,
                                        .seq = 64,
                                        .channels = 128,
                                        .heads = 2,
                                        .kv_heads = 1,
                                        .head_dim = 64,
                                        .vocab = 64,
                                        .bf16_batch = 2};

/* What a micro-batch needs is planned, and its workspace taken, before the first step. */
static void test_reserve(void) {
    ls_device *dev;
    void *memory;
    CHECK_OK(kt_open("cudnn", 1, &dev));
    CHECK_OK(dev->ops->alloc(dev, (size_t)5 << 18, &memory));
    CHECK_OK(dev->ops->reserve(dev, &limits));
    const int plans = ls_cuda_cudnn_plans(ls_cuda_of(dev));
    CHECK(plans == 2 || !EMULATED);
    const size_t scratch_bytes = dev->scratch_bytes;
    const ls_attention op = op_of(reserved_dim, memory);
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK_OK(dev->ops->attention_backward(dev, &op));
    CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), plans);
    CHECK_INT(dev->scratch_bytes, scratch_bytes);
    dev->ops->free(dev, memory);
    dev->ops->close(dev);
}

/* Forward of a shape on fixed operands. */
enum { OUT_BYTES = 1 << 14 };
static void run_forward(ls_device *dev, const int64_t dim[KT_DIMS], char out[OUT_BYTES]) {
    const int64_t elems = dim[0] * dim[1] * (dim[3] + 2 * dim[4]) * dim[5];
    ls_bf16 *host = calloc((size_t)elems, sizeof *host);
    void *memory;
    for (int64_t i = 0; i < elems; i++) {
        host[i] = ls_bf16_from_f32((float)(i * i % 199) / 50.0f - 2.0f);
    }
    CHECK_OK(dev->ops->alloc(dev, (size_t)5 << 18, &memory));
    CHECK_OK(dev->ops->upload(dev, memory, host, (size_t)elems * sizeof *host));
    const ls_attention op = op_of(dim, memory);
    CHECK_OK(dev->ops->attention_forward(dev, &op));
    CHECK_OK(dev->ops->download(dev, out, op.out, OUT_BYTES));
    dev->ops->free(dev, memory);
    free(host);
}

static ls_device *open_auto(void) {
    ls_device *dev;
    CHECK_OK(ls_device_open_cuda(&(ls_device_options){.attention = LS_ATTENTION_AUTO}, &dev));
    CHECK(!strstr(dev->describe, "cuDNN"));
    return dev;
}

/* Left open: an offer, after trials; lockstep's own kernels until it is accepted, and of other
 * shapes after that too; nothing is left of cuDNN when it is not. */
static void test_offer(void) {
    static char own[2][OUT_BYTES], found[OUT_BYTES];
    const int64_t other_dim[KT_DIMS] = {1, 64, 64, 2, 2, 64};
    const int64_t *const dims[] = {reserved_dim, other_dim};
    ls_attention_offer offer;
    ls_device *dev;
    CHECK_OK(ls_device_open_cuda(NULL, &dev));
    for (int i = 0; i < 2; i++) {
        run_forward(dev, dims[i], own[i]);
    }
    dev->ops->close(dev);
    dev = open_auto();
    CHECK_OK(dev->async->attention_offer(dev, &offer));
    CHECK_INT(offer.number, -1);
    CHECK_OK(dev->ops->reserve(dev, &limits));
    CHECK_OK(dev->async->attention_offer(dev, &offer));
    if (!EMULATED && offer.number == 0) { /* its right: lockstep's own kernels serve */
        printf("cuDNN makes no offer on this GPU: %s\n", offer.text);
        dev->ops->close(dev);
        return;
    }
    CHECK_OK(dev->ops->reserve(dev, &limits));
    CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), 2);
    CHECK_OK(dev->async->attention_offer(dev, &offer));
    CHECK(offer.number > 0);
    CHECK(strstr(offer.text, "cuDNN 9.") == offer.text);
    run_forward(dev, reserved_dim, found);
    CHECK(memcmp(found, own[0], OUT_BYTES) == 0);
    dev->async->attention_settle(dev, true);
    run_forward(dev, reserved_dim, found);
    CHECK(!EMULATED || memcmp(found, own[0], OUT_BYTES) != 0); /* others may round alike */
    run_forward(dev, other_dim, found);
    CHECK(memcmp(found, own[1], OUT_BYTES) == 0);
    CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), 2);
    const size_t scratch_bytes = dev->scratch_bytes;
    dev->async->attention_settle(dev, false);
    CHECK(dev->scratch_bytes < scratch_bytes);
    CHECK_INT(ls_cuda_cudnn_plans(ls_cuda_of(dev)), -1);
    run_forward(dev, reserved_dim, found);
    CHECK(memcmp(found, own[0], OUT_BYTES) == 0);
    dev->ops->close(dev);
}

#ifdef LS_EMULATED_DEVICE
/* Why it makes no offer. */
static void test_refusals(void) {
    static const struct {
        const char *how, *why;
    } refusals[] = {{"absent", "no cuDNN that lockstep can use"},
                    {"changing", "no engine for attention forward whose results are the same"},
                    {"wrong", "cuDNN's attention differs from lockstep's by 2"},
                    {"unsteady", "cuDNN's attention gave other bits when tried a second time"},
                    {"broken", "attention forward: CUDNN_STATUS_INTERNAL_ERROR (4000)"},
                    {"failing", "running a graph: CUDNN_STATUS_EXECUTION_FAILED (5000)"}};
    ls_attention_offer offer;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        CHECK(setenv("LOCKSTEP_EMULATOR_CUDNN", refusals[i].how, 1) == 0);
        ls_device *dev = open_auto();
        CHECK_OK(dev->ops->reserve(dev, &limits));
        CHECK_OK(dev->async->attention_offer(dev, &offer));
        CHECK_INT(offer.number, 0);
        if (!strstr(offer.text, refusals[i].why)) {
            TEST_FAIL_("%s: '%s'", refusals[i].how, offer.text);
        }
        dev->ops->close(dev);
    }
    CHECK(setenv("LOCKSTEP_EMULATOR_CUDNN", "absent", 1) == 0);
    ls_device *dev;
    CHECK_STATUS(ls_device_open_cuda(&(ls_device_options){.attention = LS_ATTENTION_CUDNN}, &dev),
                 LS_E_UNSUPPORTED);
    CHECK_MESSAGE("no cuDNN that lockstep can use");
    CHECK(unsetenv("LOCKSTEP_EMULATOR_CUDNN") == 0);
}
#endif

int main(void) {
    ls_device *dev;
    if (kt_open("cudnn", 1, &dev) != LS_OK) {
        printf("skipped: %s\n", ls_error_last()->message);
        return 77;
    }
    CHECK(strstr(dev->describe, "cuDNN") != NULL);
    printf("%s\n", dev->describe);
    dev->ops->close(dev);
    test_shapes();
    test_plans();
    test_reserve();
    test_offer();
#ifdef LS_EMULATED_DEVICE
    test_refusals();
#endif
    return test_end();
}
