/* The updates of Lion, SGD and Adafactor, and a linear blend. */
#include "runtime/device/cuda/kernel.cuh"

/* Element by element over packs of four of p and what moves along with it: each(i, j) is called
 * with the first index of a pack and the number in it. */
template <class T, class F>
__device__ __forceinline__ void update_all(int64_t n, float *p, T *copy, bool wide, F each) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x * 4;
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step) {
        pack<float> pp = load_pack(p, i, n, wide);
        each(i, pp);
        store_pack(p, i, n, wide, pp);
        if (copy) {
            store_four(copy, i, n, pp);
        }
    }
}

struct lion_factors {
    float lr, beta1, rest1, beta2, rest2, weight_decay, grad_scale;
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    lion_kernel(lion_factors k, int64_t n, float *p, float *m, const float *grad, T *copy,
                const ls_update_verdict *verdict, bool wide) {
    if (!take_verdict(verdict, k.grad_scale)) {
        return;
    }
    update_all(n, p, copy, wide, [&](int64_t i, pack<float> &pp) {
        pack<float> mm = load_pack(m, i, n, wide);
        const pack<float> gg = load_pack(grad, i, n, wide);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float g = k.grad_scale * gg.v[j], c = k.beta1 * mm.v[j] + k.rest1 * g;
            const float sign = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : c; /* a NaN stays */
            pp.v[j] -= k.lr * (sign + k.weight_decay * pp.v[j]);
            mm.v[j] = k.beta2 * mm.v[j] + k.rest2 * g;
        }
        store_pack(m, i, n, wide, mm);
    });
}

template <class T> static void launch_lion(cudaStream_t stream, const ls_lion *op) {
    const lion_factors k = {
        (float)op->lr,        (float)op->beta1,         (float)(1.0 - op->beta1),
        (float)op->beta2,     (float)(1.0 - op->beta2), (float)op->weight_decay,
        (float)op->grad_scale};
    float *p = (float *)op->p, *m = (float *)op->m;
    const float *grad = (const float *)op->grad;
    auto kernel = lion_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->n, 4, THREADS, GRID_MOST), THREADS, 0, stream, k, op->n, p, m,
              grad, (T *)op->copy, op->verdict, is_aligned(p) && is_aligned(m) && is_aligned(grad));
}

extern "C" void ls_cuda_launch_lion(cudaStream_t stream, const ls_lion *op) {
    LS_BY_DTYPE(op->copy ? op->copy_dtype : LS_F32, launch_lion, stream, op);
}

struct sgd_factors {
    float lr, momentum, weight_decay, grad_scale;
    bool nesterov;
};

template <class T>
__global__ void __launch_bounds__(THREADS)
    sgd_kernel(sgd_factors k, int64_t n, float *p, float *m, const float *grad, T *copy,
               const ls_update_verdict *verdict, bool wide) {
    if (!take_verdict(verdict, k.grad_scale)) {
        return;
    }
    update_all(n, p, copy, wide, [&](int64_t i, pack<float> &pp) {
        pack<float> mm = {};
        if (m) {
            mm = load_pack(m, i, n, wide);
        }
        const pack<float> gg = load_pack(grad, i, n, wide);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float g = k.grad_scale * gg.v[j] + k.weight_decay * pp.v[j];
            float update = g;
            if (m) {
                mm.v[j] = k.momentum * mm.v[j] + g;
                update = k.nesterov ? g + k.momentum * mm.v[j] : mm.v[j];
            }
            pp.v[j] -= k.lr * update;
        }
        if (m) {
            store_pack(m, i, n, wide, mm);
        }
    });
}

template <class T> static void launch_sgd(cudaStream_t stream, const ls_sgd *op) {
    const sgd_factors k = {(float)op->lr, (float)op->momentum, (float)op->weight_decay,
                           (float)op->grad_scale, op->nesterov};
    float *p = (float *)op->p, *m = (float *)op->m;
    const float *grad = (const float *)op->grad;
    auto kernel = sgd_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->n, 4, THREADS, GRID_MOST), THREADS, 0, stream, k, op->n, p, m,
              grad, (T *)op->copy, op->verdict, is_aligned(p) && is_aligned(m) && is_aligned(grad));
}

extern "C" void ls_cuda_launch_sgd(cudaStream_t stream, const ls_sgd *op) {
    LS_BY_DTYPE(op->copy ? op->copy_dtype : LS_F32, launch_sgd, stream, op);
}

__global__ void __launch_bounds__(THREADS)
    blend_kernel(int64_t n, float a, const float *x, float b, float *y,
                 const ls_update_verdict *verdict, bool wide) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x * 4;
    if (!take_verdict(verdict, a)) {
        return;
    }
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * 4; i < n; i += step) {
        pack<float> xx = load_pack(x, i, n, wide), yy = {};
        if (b != 0.0f) {
            yy = load_pack(y, i, n, wide);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            xx.v[j] = b != 0.0f ? a * xx.v[j] + b * yy.v[j] : a * xx.v[j];
        }
        store_pack(y, i, n, wide, xx);
    }
}

extern "C" void ls_cuda_launch_blend(cudaStream_t stream, const ls_update_verdict *verdict,
                                     int64_t n, double a, const float *x, double b, float *y) {
    LS_LAUNCH(blend_kernel, grid_for(n, 4, THREADS, GRID_MOST), THREADS, 0, stream, n, (float)a, x,
              (float)b, y, verdict, is_aligned(x) && is_aligned(y));
}

__global__ void __launch_bounds__(THREADS)
    divide_kernel(int64_t n, const double *squares, double eps, float *x) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const float factor = (float)(1.0 / (sqrt(*squares) + eps));
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        x[i] *= factor;
    }
}

extern "C" void ls_cuda_launch_normalize(cudaStream_t stream, int64_t n, double eps, float *x,
                                         double *squares) {
    const int64_t count = ls_squares_count(0, n);
    ls_cuda_launch_squares(stream, 0, n, x, squares);
    ls_cuda_launch_sum_partials(stream, count, squares, squares + count);
    LS_LAUNCH(divide_kernel, grid_for(n, 1, THREADS, GRID_MOST), THREADS, 0, stream, n,
              squares + count, eps, x);
}

/* Adafactor. A matrix is seen as rows of `cols` elements, of which [first, end) are here. */
struct factor_arguments {
    int64_t first, end, cols;
    float grad_scale, beta2, rest2, factor, keep, lr;
    const float *grad, *row, *col; /* grad[0] is element `first` */
    float *v, *p;
    double split[2];
    const ls_adafactor_terms *terms;
    const ls_update_verdict *verdict;
};

/* With what lies on the device filled in; false: nothing is to be changed. */
__device__ __forceinline__ bool take_terms(factor_arguments &o) {
    if (o.terms) {
        o.split[0] = o.terms->split[0];
        o.split[1] = o.terms->split[1];
        o.factor = o.terms->factor;
        o.lr = o.terms->lr;
    }
    return take_verdict(o.verdict, o.grad_scale);
}

/* A sum of squares in the parts that device.h says. */
struct square_parts {
    double high, low;
};

__device__ __forceinline__ void add_square(const factor_arguments &o, float g, square_parts *sum) {
    const double square = (double)g * (double)g; /* exact, so that contraction changes nothing */
    const double high = (square + o.split[0]) - o.split[0];
    sum->high += high;
    sum->low += ((square - high) + o.split[1]) - o.split[1];
}

static factor_arguments factor_arguments_of(const ls_adafactor *op) {
    factor_arguments o = {};
    o.first = op->first;
    o.end = op->first + op->n;
    o.cols = op->cols;
    o.grad_scale = (float)op->grad_scale;
    o.beta2 = (float)op->beta2;
    o.rest2 = (float)(1.0 - op->beta2);
    o.factor = (float)op->factor;
    o.keep = (float)op->keep;
    o.lr = (float)op->lr;
    o.grad = (const float *)op->grad;
    o.row = (const float *)op->row;
    o.col = (const float *)op->col;
    o.v = (float *)op->v;
    o.p = (float *)op->p;
    o.split[0] = op->split[0];
    o.split[1] = op->split[1];
    o.terms = op->terms;
    o.verdict = op->verdict;
    return o;
}

/* A block for each row; row 0 is that of element `first`. */
__global__ void __launch_bounds__(THREADS) row_squares_kernel(factor_arguments o, double *sums) {
    LS_SHARED(double, high_room, THREADS / 32);
    LS_SHARED(double, low_room, THREADS / 32);
    (void)take_terms(o);
    const int64_t row = o.first / o.cols + blockIdx.x, begin = row * o.cols;
    square_parts sum = {};
    for (int64_t c = threadIdx.x; c < o.cols; c += THREADS) {
        if (begin + c >= o.first && begin + c < o.end) {
            add_square(o, o.grad_scale * o.grad[begin + c - o.first], &sum);
        }
    }
    sum.high = block_sum<double, THREADS / 32>(sum.high, high_room);
    sum.low = block_sum<double, THREADS / 32>(sum.low, low_room);
    if (threadIdx.x == 0) {
        sums[2 * row] += sum.high;
        sums[2 * row + 1] += sum.low;
    }
}

/* A thread for each column and run of rows; then one for each column adds the runs in order. */
__global__ void __launch_bounds__(THREADS)
    column_squares_kernel(factor_arguments o, int64_t run_rows, square_parts *partial) {
    const int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int64_t row = o.first / o.cols + blockIdx.y * run_rows;
    if (c >= o.cols) {
        return;
    }
    (void)take_terms(o);
    square_parts sum = {};
    for (int64_t r = row; r < row + run_rows; r++) {
        const int64_t at = r * o.cols + c;
        if (at >= o.first && at < o.end) {
            add_square(o, o.grad_scale * o.grad[at - o.first], &sum);
        }
    }
    partial[blockIdx.y * o.cols + c] = sum;
}

__global__ void __launch_bounds__(THREADS)
    add_columns_kernel(int64_t runs, int64_t cols, const square_parts *partial, double *sums) {
    const int64_t c = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (c >= cols) {
        return;
    }
    square_parts sum = {};
    for (int64_t r = 0; r < runs; r++) {
        sum.high += partial[r * cols + c].high;
        sum.low += partial[r * cols + c].low;
    }
    sums[2 * c] += sum.high;
    sums[2 * c + 1] += sum.low;
}

__global__ void __launch_bounds__(THREADS) square_mean_kernel(factor_arguments o) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x, n = o.end - o.first;
    if (!take_terms(o)) {
        return;
    }
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float g = o.grad_scale * o.grad[i];
        o.v[i] = o.beta2 * o.v[i] + o.rest2 * g * g;
    }
}

static int64_t rows_of(const ls_adafactor *op) {
    return (op->first + op->n - 1) / op->cols - op->first / op->cols + 1;
}

static const int64_t RUNS_MAX = 64;

static int64_t run_rows_of(const ls_adafactor *op) {
    return (rows_of(op) + RUNS_MAX - 1) / RUNS_MAX;
}

static int64_t runs_of(const ls_adafactor *op) {
    return (rows_of(op) + run_rows_of(op) - 1) / run_rows_of(op);
}

extern "C" int64_t ls_cuda_adafactor_scratch_elems(const ls_adafactor *op) {
    return 2 * runs_of(op) * op->cols;
}

extern "C" void ls_cuda_launch_adafactor_squares(cudaStream_t stream, const ls_adafactor *op,
                                                 double *partial) {
    const factor_arguments o = factor_arguments_of(op);
    if (!op->row_sums) {
        LS_LAUNCH(square_mean_kernel, grid_for(op->n, 1, THREADS, GRID_MOST), THREADS, 0, stream,
                  o);
        return;
    }
    const int64_t runs = runs_of(op);
    const unsigned int columns = (unsigned int)((op->cols + THREADS - 1) / THREADS);
    LS_LAUNCH(row_squares_kernel, (unsigned int)rows_of(op), THREADS, 0, stream, o, op->row_sums);
    LS_LAUNCH(column_squares_kernel, dim3(columns, (unsigned int)runs), THREADS, 0, stream, o,
              run_rows_of(op), (square_parts *)partial);
    LS_LAUNCH(add_columns_kernel, columns, THREADS, 0, stream, runs, op->cols,
              (const square_parts *)partial, op->col_sums);
}

__device__ __forceinline__ float direction(const factor_arguments &o, int64_t i) {
    const int64_t at = o.first + i;
    const float square = o.row ? o.row[at / o.cols] * o.factor * o.col[at % o.cols] : o.v[i];
    /* Not fmaxf, which drops a NaN. */
    return o.grad_scale * o.grad[i] / sqrtf(square < 1e-30f ? 1e-30f : square);
}

/* A warp for each piece of the grid, whose element 0 is `skipped` elements into its first piece. */
__global__ void __launch_bounds__(THREADS)
    direction_squares_kernel(factor_arguments o, int64_t skipped, int64_t count, double *sums) {
    const int64_t piece = (int64_t)blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (piece >= count) {
        return;
    }
    (void)take_terms(o);
    double sum = 0.0;
    for (int i = lane; i < LS_SQUARES_ELEMS; i += 32) {
        const int64_t at = piece * LS_SQUARES_ELEMS + i - skipped;
        const double u = at >= 0 && at < o.end - o.first ? (double)direction(o, at) : 0.0;
        sum += u * u;
    }
    sum = warp_sum(sum);
    if (lane == 0) {
        sums[piece] = sum;
    }
}

extern "C" void ls_cuda_launch_adafactor_norm(cudaStream_t stream, const ls_adafactor *op,
                                              double *sums) {
    const int64_t count = ls_squares_count(op->grid, op->n);
    LS_LAUNCH(direction_squares_kernel, (unsigned int)((count + THREADS / 32 - 1) / (THREADS / 32)),
              THREADS, 0, stream, factor_arguments_of(op), op->grid % LS_SQUARES_ELEMS, count,
              sums);
}

template <class T>
__global__ void __launch_bounds__(THREADS) factor_update_kernel(factor_arguments o, T *copy) {
    const int64_t step = (int64_t)gridDim.x * blockDim.x, n = o.end - o.first;
    if (!take_terms(o)) {
        return;
    }
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        const float p = o.keep * o.p[i] - o.lr * direction(o, i);
        o.p[i] = p;
        if (copy) {
            copy[i] = from_float<T>(p);
        }
    }
}

template <class T> static void launch_apply(cudaStream_t stream, const ls_adafactor *op) {
    auto kernel = factor_update_kernel<T>;
    LS_LAUNCH(kernel, grid_for(op->n, 1, THREADS, GRID_MOST), THREADS, 0, stream,
              factor_arguments_of(op), (T *)op->copy);
}

extern "C" void ls_cuda_launch_adafactor_apply(cudaStream_t stream, const ls_adafactor *op) {
    LS_BY_DTYPE(op->copy ? op->copy_dtype : LS_F32, launch_apply, stream, op);
}
