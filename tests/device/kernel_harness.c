/* Runs cases on the reference and on a device and compares; see kernel_cases.h. */
#include "tests/device/kernel_cases.h"

#include "runtime/base/arena.h"
#include "runtime/base/rng.h"
#include "tests/reference/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POISON = 0xff }; /* bytes of 0xff are a NaN in every floating dtype */

ls_status kt_open(const char *device, int threads, ls_device **dev) {
    const ls_device_options options = {.threads = threads};
    if (strcmp(device, "reference") == 0) {
        return ls_device_open_reference(&options, dev);
    }
    if (strcmp(device, "cpu") == 0) {
        return ls_device_open_cpu(&options, dev);
    }
    if (strcmp(device, "cuda") == 0) {
        return ls_device_open_cuda(&options, dev);
    }
    if (strcmp(device, "cudnn") == 0) {
        const ls_device_options by_cudnn = {.attention = LS_ATTENTION_CUDNN};
        return ls_device_open_cuda(&by_cudnn, dev);
    }
    return LS_FAIL(LS_E_INPUT, "device '%s' is unknown; use cpu, cuda, cudnn or reference", device);
}

/* One element of any dtype as a double, and back with rounding. */
static double element(ls_dtype dtype, const void *p, int64_t i) {
    switch (dtype) {
    case LS_F64:
        return ((const double *)p)[i];
    case LS_F32:
        return ((const float *)p)[i];
    case LS_BF16:
        return ls_bf16_to_f32(((const ls_bf16 *)p)[i]);
    default:
        return ((const int32_t *)p)[i];
    }
}

static void set_element(ls_dtype dtype, void *p, int64_t i, double value) {
    switch (dtype) {
    case LS_F64:
        ((double *)p)[i] = value;
        break;
    case LS_F32:
        ((float *)p)[i] = (float)value;
        break;
    case LS_BF16:
        ((ls_bf16 *)p)[i] = ls_bf16_from_f32((float)value);
        break;
    default:
        ((int32_t *)p)[i] = (int32_t)value;
        break;
    }
}

/* Draw i of a stream, uniform or normal. All cases have the same, which are computed once. */
static double drawn(bool normal, uint64_t stream, int64_t i) {
    static struct {
        double *value;
        int64_t count;
    } known[2][KT_BUFFERS_MAX];
    double **value = &known[normal][stream].value;
    int64_t *count = &known[normal][stream].count;
    if (i >= *count) {
        const int64_t wanted = 2 * i + 1024;
        *value = realloc(*value, (size_t)wanted * sizeof **value);
        if (!*value) {
            fprintf(stderr, "out of memory\n");
            exit(1);
        }
        for (; *count < wanted; ++*count) {
            (*value)[*count] = normal ? ls_rng_normal(8, stream, (uint64_t)*count)
                                      : ls_rng_uniform(7, stream, (uint64_t)*count);
        }
    }
    return (*value)[i];
}

static double draw(const kt_buffer *b, uint64_t stream, int64_t i) {
    const double scale = b->scale != 0.0 ? b->scale : 1.0;
    if (b->fill == KT_NORMAL) {
        return scale * drawn(true, stream, i);
    }
    if (b->fill == KT_POSITIVE) {
        return scale * (0.1 + fabs(drawn(true, stream, i)));
    }
    const double uniform = drawn(false, stream, i);
    if (b->fill == KT_TARGETS && uniform > 0.85) {
        return -1.0;
    }
    if (uniform < 0.2) {
        return 0.0;
    }
    return uniform < 0.4 ? (double)(b->range - 1) : floor((uniform - 0.4) / 0.6 * (double)b->range);
}

static double vary(const kt_buffer *b, kt_variant variant, int64_t i, double value) {
    switch (variant) {
    case KT_LARGE:
        return 1e4 * value;
    case KT_SHIFTED:
        return 1e3 + value;
    case KT_CONSTANT:
        return 0.7;
    case KT_NAN:
        return i == b->elems / 3 ? NAN : value;
    case KT_INFINITE:
        if (i == b->elems / 2) {
            return INFINITY;
        }
        return i == b->elems - 1 ? -INFINITY : value;
    case KT_NANS:
        return i % 3 == 1 ? NAN : value;
    case KT_FAR:
        return 1e6 + value;
    case KT_PLAIN:
        break;
    }
    return value;
}

void kt_instance_release(ls_device *dev, kt_instance *in) {
    for (int b = 0; b < in->count; b++) {
        free(in->host[b]);
        dev->ops->free(dev, in->memory[b]);
    }
    memset(in, 0, sizeof *in);
}

static int find(const kt_buffer *buffers, int count, const char *name) {
    for (int b = 0; b < count; b++) {
        if (strcmp(buffers[b].name, name) == 0) {
            return b;
        }
    }
    return -1;
}

static bool overlaps(const kt_case *c, const kt_instance *in, int b) {
    const char *on = in->buffer[b].on;
    return c->overlap && on &&
           in->buffer[b].dtype == in->buffer[find(in->buffer, in->count, on)].dtype;
}

ls_status kt_instance_init(ls_device *dev, const kt_case *c, ls_dtype dtype, int shift,
                           const kt_buffer *like, kt_instance *in) {
    memset(in, 0, sizeof *in);
    in->count = c->op->plan(c, dtype, dev->acc, in->buffer);
    for (int b = 0; b < in->count; b++) {
        const kt_buffer *buffer = &in->buffer[b];
        const size_t elem_bytes = ls_dtype_bytes(buffer->dtype);
        in->offset_bytes[b] = (size_t)(KT_GUARD_ELEMS + shift) * elem_bytes;
        in->total_bytes[b] = (size_t)(buffer->elems + 2 * KT_GUARD_ELEMS + shift) * elem_bytes;
        LS_TRY(ls_calloc(1, in->total_bytes[b], &in->host[b]));
        memset(in->host[b], POISON, in->total_bytes[b]);
        void *values = in->host[b] + in->offset_bytes[b];
        for (int64_t i = 0; i < buffer->elems && buffer->use != KT_OUT; i++) {
            double value = draw(buffer, (uint64_t)b, i), rounded;
            value = buffer->varied ? vary(buffer, c->variant, i, value) : value;
            value = buffer->cols && i % buffer->cols >= buffer->valid ? NAN : value;
            set_element(like[b].dtype, &rounded, 0, value);
            set_element(buffer->dtype, values, i, element(like[b].dtype, &rounded, 0));
        }
        LS_TRY(dev->ops->alloc(dev, in->total_bytes[b], &in->memory[b]));
        LS_TRY(dev->ops->upload(dev, in->memory[b], in->host[b], in->total_bytes[b]));
        in->at[b] = (char *)in->memory[b] + in->offset_bytes[b];
    }
    for (int b = 0; b < in->count; b++) {
        if (overlaps(c, in, b)) {
            in->at[b] = in->at[find(in->buffer, in->count, in->buffer[b].on)];
        }
    }
    return LS_OK;
}

/* Runs and fetches; an output that lies on an input is put in its own host buffer. Counts writes
 * to guards and to inputs as failures. */
static ls_status instance_run(ls_device *dev, const kt_case *c, ls_dtype dtype, kt_instance *in,
                              int *failures) {
    LS_TRY(c->op->run(dev, c, dtype, in->at));
    LS_TRY(dev->ops->sync(dev));
    bool covered[KT_BUFFERS_MAX] = {false};
    for (int b = 0; b < in->count; b++) {
        if (overlaps(c, in, b)) {
            covered[find(in->buffer, in->count, in->buffer[b].on)] = true;
        }
    }
    for (int b = 0; b < in->count; b++) {
        const kt_buffer *buffer = &in->buffer[b];
        const size_t bytes = (size_t)buffer->elems * ls_dtype_bytes(buffer->dtype);
        const size_t offset = in->offset_bytes[b], end = offset + bytes;
        char *after;
        LS_TRY(ls_calloc(1, in->total_bytes[b], &after));
        LS_TRY(dev->ops->download(dev, after, in->memory[b], in->total_bytes[b]));
        if (memcmp(after, in->host[b], offset) != 0 ||
            memcmp(after + end, in->host[b] + end, in->total_bytes[b] - end) != 0) {
            fprintf(stderr, "%s: wrote outside of '%s'\n", c->op->name, buffer->name);
            ++*failures;
        }
        if (buffer->use == KT_IN && !covered[b] &&
            memcmp(after + offset, in->host[b] + offset, bytes) != 0) {
            fprintf(stderr, "%s: changed its input '%s'\n", c->op->name, buffer->name);
            ++*failures;
        }
        if (overlaps(c, in, b)) {
            LS_TRY(dev->ops->download(dev, after + offset, in->at[b], bytes));
        }
        free(in->host[b]);
        in->host[b] = after;
    }
    return LS_OK;
}

static const void *values_of(const kt_instance *in, int b) {
    return in->host[b] + in->offset_bytes[b];
}

/* "layernorm_forward bfloat16 [3 257 0 0] variant 1" */
static void print_case(const kt_case *c, ls_dtype dtype) {
    fprintf(stderr, "%s %s [", c->op->name, ls_dtype_name(dtype));
    for (int d = 0; d < KT_DIMS; d++) {
        fprintf(stderr, "%s%lld", d ? " " : "", (long long)c->dim[d]);
    }
    fprintf(stderr, "] variant %d%s: ", (int)c->variant, c->overlap ? " overlapping" : "");
}

/* One output buffer: NaN where the reference has NaN, the same infinity, errors in tolerance. */
static int compare(const kt_case *c, ls_dtype dtype, const kt_instance *expected,
                   const kt_instance *found, int b) {
    const kt_buffer *buffer = &found->buffer[b];
    kt_tolerance tolerance = buffer->dtype == LS_BF16 ? c->op->bf16 : c->op->f32;
    tolerance.norm *= buffer->slack != 0.0 ? buffer->slack : 1.0;
    tolerance.largest *= buffer->slack != 0.0 ? buffer->slack : 1.0;
    double error2 = 0.0, norm2 = 0.0, worst = 0.0, largest = 0.0;
    int64_t worst_at = 0;
    for (int64_t i = 0; i < buffer->elems; i++) {
        double e = element(expected->buffer[b].dtype, values_of(expected, b), i);
        double f = element(buffer->dtype, values_of(found, b), i);
        if (isfinite(e) && isfinite(f)) {
            error2 += (f - e) * (f - e);
            norm2 += e * e;
            if (fabs(f - e) > worst) {
                worst = fabs(f - e);
                worst_at = i;
            }
            largest = fmax(largest, fabs(e));
        } else if (!(isnan(e) && isnan(f)) && e != f) {
            print_case(c, dtype);
            fprintf(stderr, "%s[%lld] is %g, expected %g\n", buffer->name, (long long)i, f, e);
            return 1;
        }
    }
    const double norm_error = sqrt(error2), norm = sqrt(norm2);
    if (norm_error > tolerance.norm * norm || worst > tolerance.largest * largest) {
        print_case(c, dtype);
        fprintf(stderr,
                "%s: error %.3g of the norm (allowed %.3g), %.3g of the largest at [%lld] (allowed "
                "%.3g: %s)\n",
                buffer->name, norm_error / norm, tolerance.norm, worst / largest,
                (long long)worst_at, tolerance.largest, c->op->reason);
        return 1;
    }
    return 0;
}

static int compare_bits(const kt_case *c, ls_dtype dtype, const kt_instance *expected,
                        const kt_instance *found, const char *what) {
    int failures = 0;
    for (int b = 0; b < found->count; b++) {
        const size_t bytes =
            (size_t)found->buffer[b].elems * ls_dtype_bytes(found->buffer[b].dtype);
        if (found->buffer[b].use != KT_IN &&
            memcmp(values_of(expected, b), values_of(found, b), bytes) != 0) {
            print_case(c, dtype);
            fprintf(stderr, "'%s' has other bits %s\n", found->buffer[b].name, what);
            failures++;
        }
    }
    return failures;
}

static const struct {
    int threads, shift;
    const char *what;
} CONFIGURATIONS[] = {
    {1, 0, "in the first run"},
    {1, 0, "in a second run"},
    {2, 0, "with 2 threads"},
    {3, 1, "with 3 threads and shifted buffers"},
};
enum { CONFIGURATION_COUNT = sizeof CONFIGURATIONS / sizeof *CONFIGURATIONS };

static ls_status check_dtype(const kt_case *c, const char *device, ls_dtype dtype, int *failures) {
    ls_device *reference;
    LS_TRY(kt_open("reference", 1, &reference));
    kt_case separate = *c;
    separate.overlap = false;
    kt_instance expected = {0}, first = {0};
    ls_status status = LS_OK;
    const bool gpu = strncmp(device, "cu", 2) == 0;
    for (int k = 0; k < CONFIGURATION_COUNT && status == LS_OK; k++) {
        const bool shifted = CONFIGURATIONS[k].shift > 0, other = gpu && c->op->by_alignment;
        /* A GPU has no threads to vary; a second run is one with shifted buffers, if that counts.
         */
        if (gpu && k > 0 && !shifted && !(other && k == 1)) {
            continue;
        }
        ls_device *dev;
        LS_TRY_GOTO(kt_open(device, CONFIGURATIONS[k].threads, &dev), done);
        kt_buffer like[KT_BUFFERS_MAX] = {0};
        c->op->plan(c, dtype, dev->acc, like);
        kt_instance in;
        status = kt_instance_init(dev, c, dtype,
                                  CONFIGURATIONS[k].shift * (c->op->aligned ? 16 : 1), like, &in);
        status = status == LS_OK ? instance_run(dev, c, dtype, &in, failures) : status;
        if (status == LS_OK && k == 0) {
            status = kt_instance_init(reference, &separate, LS_F64, 0, like, &expected);
            status = status == LS_OK
                         ? instance_run(reference, &separate, LS_F64, &expected, failures)
                         : status;
            for (int b = 0; b < in.count && status == LS_OK; b++) {
                *failures += in.buffer[b].use == KT_IN ? 0 : compare(c, dtype, &expected, &in, b);
            }
        } else if (status == LS_OK && other && shifted) {
            for (int b = 0; b < in.count; b++) {
                *failures += in.buffer[b].use == KT_IN ? 0 : compare(c, dtype, &expected, &in, b);
            }
        } else if (status == LS_OK) {
            *failures += compare_bits(c, dtype, &first, &in, CONFIGURATIONS[k].what);
        }
        if (k == 0) {
            first = in;
            for (int b = 0; b < in.count; b++) { /* the host copies live on without the device */
                dev->ops->free(dev, in.memory[b]);
                first.memory[b] = NULL;
            }
        } else {
            kt_instance_release(dev, &in);
        }
        dev->ops->close(dev);
    }
done:
    kt_instance_release(reference, &first);
    kt_instance_release(reference, &expected);
    reference->ops->close(reference);
    return status;
}

int kt_check(const kt_case *c, const char *device, bool may_refuse) {
    static const ls_dtype dtypes[] = {LS_F32, LS_BF16};
    int failures = 0;
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        ls_status status = check_dtype(c, device, dtypes[d], &failures);
        if (status != LS_OK) {
            print_case(c, dtypes[d]);
            fprintf(stderr, "%s: %s\n", ls_status_text(status), ls_error_last()->message);
            failures += status == LS_E_UNSUPPORTED && may_refuse ? 0 : 1;
        }
    }
    return failures;
}

/* sum over all outputs of forward of output * weight, weight = N(0,1) of (buffer, index). */
static double weight_of(int b, int64_t i) {
    return ls_rng_normal(9, (uint64_t)b, (uint64_t)i);
}

static ls_status weighted_sum(ls_device *dev, const kt_case *c, kt_instance *in,
                              const kt_op *backward_op, double *sum) {
    kt_case backward = {.op = backward_op};
    memcpy(backward.dim, c->dim, sizeof backward.dim);
    kt_buffer gradients[KT_BUFFERS_MAX] = {0};
    const int gradient_count = backward_op->plan(&backward, LS_F64, LS_F64, gradients);
    LS_TRY(c->op->run(dev, c, LS_F64, in->at));
    *sum = 0.0;
    for (int b = 0; b < in->count; b++) {
        char name[64];
        snprintf(name, sizeof name, "d%s", in->buffer[b].name);
        if (in->buffer[b].use == KT_OUT && find(gradients, gradient_count, name) >= 0) {
            for (int64_t i = 0; i < in->buffer[b].elems; i++) {
                *sum += ((const double *)in->at[b])[i] * weight_of(b, i);
            }
        }
    }
    return LS_OK;
}

/* Compares gradient buffer g of backward with differences over forward's input b. */
static ls_status check_differences(ls_device *dev, const kt_case *forward, kt_instance *in, int b,
                                   const kt_op *backward_op, const double *gradient,
                                   const double *before, int *failures) {
    const double h = 1e-5;
    double *x = in->at[b], error2 = 0.0, norm2 = 0.0;
    for (int64_t i = 0; i < in->buffer[b].elems; i++) {
        const double kept = x[i];
        double above, below;
        x[i] = kept + h;
        LS_TRY(weighted_sum(dev, forward, in, backward_op, &above));
        x[i] = kept - h;
        LS_TRY(weighted_sum(dev, forward, in, backward_op, &below));
        x[i] = kept;
        const double expected = (above - below) / (2.0 * h);
        const double found = gradient[i] - (before ? before[i] : 0.0);
        error2 += (found - expected) * (found - expected);
        norm2 += expected * expected;
    }
    if (!(sqrt(error2) <= 1e-8 * sqrt(norm2) + 1e-12)) {
        print_case(forward, LS_F64);
        fprintf(stderr, "the gradient of '%s' differs from central differences by %.3g\n",
                in->buffer[b].name, sqrt(error2 / norm2));
        ++*failures;
    }
    return LS_OK;
}

static ls_status check_gradient(const kt_case *forward, const kt_case *backward, ls_device *dev,
                                kt_instance *f, kt_instance *g, int *failures) {
    kt_buffer like[KT_BUFFERS_MAX] = {0};
    forward->op->plan(forward, LS_F64, LS_F64, like);
    LS_TRY(kt_instance_init(dev, forward, LS_F64, 0, like, f));
    double sum;
    backward->op->plan(backward, LS_F64, LS_F64, like);
    LS_TRY(kt_instance_init(dev, backward, LS_F64, 0, like, g));
    LS_TRY(weighted_sum(dev, forward, f, backward->op, &sum));
    for (int b = 0; b < f->count;
         b++) { /* what forward read and wrote, and the output's gradient */
        char name[64];
        snprintf(name, sizeof name, "d%s", f->buffer[b].name);
        int same = find(g->buffer, g->count, f->buffer[b].name),
            d = find(g->buffer, g->count, name);
        const size_t bytes = (size_t)f->buffer[b].elems * ls_dtype_bytes(f->buffer[b].dtype);
        if (same >= 0) {
            memcpy(g->at[same], f->at[b], bytes);
        }
        for (int64_t i = 0; d >= 0 && f->buffer[b].use == KT_OUT && i < f->buffer[b].elems; i++) {
            ((double *)g->at[d])[i] = weight_of(b, i);
        }
    }
    LS_TRY(backward->op->run(dev, backward, LS_F64, g->at));
    int compared = 0;
    for (int b = 0; b < f->count; b++) {
        char name[64];
        snprintf(name, sizeof name, "d%s", f->buffer[b].name);
        int d = find(g->buffer, g->count, name);
        if (f->buffer[b].use == KT_IN && d >= 0) {
            const double *before = g->buffer[d].use == KT_INOUT ? values_of(g, d) : NULL;
            LS_TRY(check_differences(dev, forward, f, b, backward->op, g->at[d], before, failures));
            compared++;
        }
    }
    return compared ? LS_OK : LS_FAIL(LS_E_INPUT, "%s has no gradient", backward->op->name);
}

int kt_check_gradient(const kt_op *forward_op, const kt_op *backward_op,
                      const int64_t dim[KT_DIMS]) {
    kt_case forward = {.op = forward_op}, backward = {.op = backward_op};
    memcpy(forward.dim, dim, sizeof forward.dim);
    memcpy(backward.dim, dim, sizeof backward.dim);
    ls_device *dev;
    kt_instance f = {0}, g = {0};
    int failures = 0;
    if (kt_open("reference", 1, &dev) != LS_OK) {
        fprintf(stderr, "%s\n", ls_error_last()->message);
        return 1;
    }
    if (check_gradient(&forward, &backward, dev, &f, &g, &failures) != LS_OK) {
        print_case(&backward, LS_F64);
        fprintf(stderr, "%s\n", ls_error_last()->message);
        failures++;
    }
    kt_instance_release(dev, &f);
    kt_instance_release(dev, &g);
    dev->ops->close(dev);
    return failures;
}
