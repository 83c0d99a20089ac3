/* Angles of rotary position embedding, with the scaling of Llama 3.1. */
#include "runtime/model/model_internal.h"

#include <math.h>

/* Frequencies whose wavelength lies below original_context / high_freq_factor stay, those above
 * original_context / low_freq_factor are divided by `factor`, and those between are blended
 * linearly in original_context / wavelength (the rule published with the Llama 3.1 weights;
 * Grattafiori 2024, arXiv 2407.21783, section 3.4.2 describes the longer context). */
static double scaled_frequency(const ls_config_model *config, double frequency) {
    if (config->rope_scaling == LS_ROPE_SCALING_NONE) {
        return frequency;
    }
    double original = (double)config->rope_original_context;
    double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    double wavelength = 2.0 * M_PI / frequency;
    if (wavelength < original / high) {
        return frequency;
    }
    if (wavelength > original / low) {
        return frequency / config->rope_factor;
    }
    double smooth = (original / wavelength - low) / (high - low);
    return (1.0 - smooth) * frequency / config->rope_factor + smooth * frequency;
}

void ls_rope_frequencies(const ls_config_model *config, double *frequencies) {
    int64_t half = config->head_dim / 2;
    for (int64_t d = 0; d < half; d++) {
        double frequency = pow(config->rope_theta, -(double)d / (double)half);
        frequencies[d] = scaled_frequency(config, frequency);
    }
}
