/* Tests of device operations against the reference device: one table of operations, one of cases.
 *
 * An operation is described by `plan`, which lists its buffers for a case, and `run`, which calls
 * it with pointers to them. From these the harness makes random inputs rounded to the device's
 * dtypes, runs the reference in double on the same values, runs the device in every configuration
 * below, and compares. Outputs are poisoned with NaN first, and every buffer stands between guards.
 *   1 thread: the reference within the tolerance;
 *   2 and 3 threads, a second run, and buffers shifted by one element: the same bits. */
#ifndef LS_TESTS_KERNEL_CASES_H
#define LS_TESTS_KERNEL_CASES_H

#include "runtime/device/device.h"

#include <string.h>

/* Tables of cases and buffers leave fields at zero. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

enum { KT_BUFFERS_MAX = 16, KT_DIMS = 10 };

typedef enum kt_use {
    KT_IN,   /* must not change (unless an output lies on it) */
    KT_OUT,  /* NaN before */
    KT_INOUT /* accumulated to, or changed in place */
} kt_use;

typedef enum kt_fill {
    KT_NORMAL,   /* scale * standard normal */
    KT_POSITIVE, /* scale * (0.1 + |standard normal|) */
    KT_TOKENS,   /* int32 in [0, range); the first and last value are drawn often */
    KT_TARGETS   /* the same, and -1 now and then */
} kt_fill;

typedef struct kt_buffer {
    const char *name; /* in a backward operation "dNAME" is the gradient of the forward's NAME */
    ls_dtype dtype;
    int64_t elems;
    kt_use use;
    kt_fill fill;
    double scale; /* 0: 1 */
    int64_t range;
    int64_t cols, valid; /* cols != 0: elements with (index mod cols) >= valid are NaN */
    bool varied;         /* the case's variant changes this input */
    double slack;        /* factor on the tolerance where its terms cancel; 0: 1 */
    const char *on;      /* on the device an output of the same dtype may lie on this buffer */
} kt_buffer;

/* In a plan: return KT_PLAN({"x", dtype, n, KT_IN}, {"y", dtype, n, KT_OUT}); */
#define KT_PLAN(...)                                                                               \
    kt_copy_plan((const kt_buffer[]){__VA_ARGS__}, sizeof((const kt_buffer[]){__VA_ARGS__}),       \
                 buffers)
static inline int kt_copy_plan(const kt_buffer *from, size_t bytes, kt_buffer *to) {
    memcpy(to, from, bytes);
    return (int)(bytes / sizeof *from);
}

/* What stands in the varied inputs. */
typedef enum kt_variant {
    KT_PLAIN,
    KT_LARGE,    /* 1e4 times as large */
    KT_SHIFTED,  /* 1e3 added: a mean far larger than the deviation */
    KT_CONSTANT, /* one value everywhere */
    KT_NAN,      /* one NaN */
    KT_INFINITE, /* +inf in one place, -inf in another */
    KT_NANS,     /* a NaN in every third place */
    KT_FAR       /* 1e6 added: a mean whose rounding is no longer small beside the deviation */
} kt_variant;

typedef struct kt_case kt_case;

/* Errors allowed, relative to the norm and to the largest element of the expected output. */
typedef struct kt_tolerance {
    double norm, largest;
} kt_tolerance;

typedef struct kt_op {
    const char *name;
    kt_tolerance f32, bf16; /* by the dtype of the output buffer */
    const char *reason;     /* why these tolerances */
    /* Fills in buffers for activations of dtype and accumulation dtype acc; returns their number.
     */
    int (*plan)(const kt_case *c, ls_dtype dtype, ls_dtype acc, kt_buffer buffers[KT_BUFFERS_MAX]);
    ls_status (*run)(ls_device *dev, const kt_case *c, ls_dtype dtype, void *const *at);
    bool by_alignment; /* a GPU's library may choose another algorithm for shifted buffers */
    bool aligned;      /* shifted buffers too are multiples of 16 elements from where they were */
} kt_op;

struct kt_case {
    const kt_op *op;
    int64_t dim[KT_DIMS]; /* as the operation's plan reads them */
    kt_variant variant;
    bool overlap; /* lay outputs on inputs where `on` allows */
};

/* Opens "cpu", "cuda", "cudnn" (cuda with attention by cuDNN) or "reference" by name: the one list
 * of devices for these tests. */
ls_status kt_open(const char *device, int threads, ls_device **dev);

/* A case's buffers on one device. On the host each holds its first values, and after a checked run
 * its final ones: guard, elements, guard. */
enum { KT_GUARD_ELEMS = 32 };
typedef struct kt_instance {
    kt_buffer buffer[KT_BUFFERS_MAX];
    int count;
    char *host[KT_BUFFERS_MAX];
    void *memory[KT_BUFFERS_MAX], *at[KT_BUFFERS_MAX]; /* of the device */
    size_t total_bytes[KT_BUFFERS_MAX], offset_bytes[KT_BUFFERS_MAX];
} kt_instance;

/* Allocates and fills in. `like` (of another plan of the case) gives the dtypes that values are
 * rounded to first; shift moves every buffer by that many elements. Release in any case. */
ls_status kt_instance_init(ls_device *dev, const kt_case *c, ls_dtype dtype, int shift,
                           const kt_buffer *like, kt_instance *in);
void kt_instance_release(ls_device *dev, kt_instance *in);

/* Checks a case on a device for float32 and bfloat16. An operation that the device refuses with
 * LS_E_UNSUPPORTED is printed, and is a failure unless may_refuse. Returns the number of failures.
 */
int kt_check(const kt_case *c, const char *device, bool may_refuse);

/* Checks the reference's backward operation by central differences of its forward operation in
 * double: for each forward input NAME that has a "dNAME" in backward, d/dNAME sum(output * random).
 * Buffers of the same name are passed from forward to backward. Returns the number of failures. */
int kt_check_gradient(const kt_op *forward, const kt_op *backward, const int64_t dim[KT_DIMS]);

/* kernel_cases.c */
extern const kt_case kt_cases[];
extern const int kt_case_count;
int kt_check_all_gradients(void);

/* kernel_math.c: ls_vec_exp and ls_vec_sigmoid against double. Returns the number of failures. */
int kt_check_vec_math(void);
/* kernel_experts.c: the number of failures. */
int kt_check_experts(const char *device);

#endif
