/* GELU and SwiGLU of bf16 by NEON; formulas and contracts are k_activation.c's, which includes
 * this. */
#ifndef LS_DEVICE_CPU_K_ACTIVATION_NEON_H
#define LS_DEVICE_CPU_K_ACTIVATION_NEON_H

#include "runtime/device/cpu/k_bf16_neon.h"

#include <math.h>

#if HAS_BF16_NEON
/* e^-z, z = x (linear + cubic x^2). */
LS_INLINE float32x4_t neon_gelu_power(float32x4_t x, float32x4_t x2, float linear, float cubic) {
    const float32x4_t a = vdupq_n_f32(-(float)M_LOG2E * linear);
    return neon_exp2(vmulq_f32(x, vfmaq_f32(a, x2, vdupq_n_f32(-(float)M_LOG2E * cubic))));
}

LS_INLINE void neon_gelu_forward(const ls_bf16 *x, ls_bf16 *y, int64_t n, float linear,
                                 float cubic) {
    const float32x4_t v = neon_load(x, n);
    const float32x4_t e = neon_gelu_power(v, vmulq_f32(v, v), linear, cubic);
    neon_store(y, n, vmulq_f32(v, neon_sigmoid_of(e)));
}

LS_INLINE void neon_gelu_backward(const ls_bf16 *x, const ls_bf16 *dy, ls_bf16 *dx, int64_t n,
                                  float linear, float cubic) {
    float32x4_t v = neon_load(x, n); /* the clamp keeps a NaN */
    v = vmaxq_f32(vminq_f32(v, vdupq_n_f32(9.5f)), vdupq_n_f32(-9.5f));
    const float32x4_t v2 = vmulq_f32(v, v), e = neon_gelu_power(v, v2, linear, cubic);
    const float32x4_t s = neon_sigmoid_of(e);
    const float32x4_t slope =
        vmulq_f32(v, vfmaq_f32(vdupq_n_f32(linear), v2, vdupq_n_f32(3.0f * cubic)));
    const float32x4_t derivative = vfmaq_f32(s, vmulq_f32(s, vmulq_f32(e, s)), slope);
    neon_store(dx, n, vmulq_f32(neon_load(dy, n), derivative));
}

/* e^-gate */
LS_INLINE float32x4_t neon_swiglu_power(float32x4_t gate) {
    return neon_exp2(vmulq_f32(gate, vdupq_n_f32(-(float)M_LOG2E)));
}

LS_INLINE void neon_swiglu_forward(const ls_bf16 *gate, const ls_bf16 *up, ls_bf16 *y, int64_t n) {
    const float32x4_t g = neon_load(gate, n), product = vmulq_f32(g, neon_load(up, n));
    neon_store(y, n, vmulq_f32(product, neon_sigmoid_of(neon_swiglu_power(g))));
}

LS_INLINE void neon_swiglu_backward(const ls_bf16 *gate, const ls_bf16 *up, const ls_bf16 *dy,
                                    ls_bf16 *dgate, ls_bf16 *dup, int64_t n) {
    const float32x4_t g = neon_load(gate, n), u = neon_load(up, n), e = neon_swiglu_power(g);
    const float32x4_t s = neon_sigmoid_of(e), one = vdupq_n_f32(1.0f);
    /* 1 - s, of which a large gate would make much of the error of s; 1 where e is infinite. */
    const float32x4_t rest = vminnmq_f32(vmulq_f32(e, s), one);
    const float32x4_t slope = vfmaq_f32(one, g, rest), dy_s = vmulq_f32(neon_load(dy, n), s);
    neon_store(dgate, n, vmulq_f32(vmulq_f32(dy_s, u), slope));
    neon_store(dup, n, vmulq_f32(dy_s, g));
}
#endif
#endif
