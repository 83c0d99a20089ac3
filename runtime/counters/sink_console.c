#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/counters/counters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct console {
    int64_t every;
} console;

static ls_status console_open(const ls_sink_options *options, void **state) {
    console *s = calloc(1, sizeof *s);
    if (!s) {
        return LS_FAIL(LS_E_MEMORY, "no memory for the console");
    }
    s->every = options->every > 0 ? options->every : 1;
    *state = s;
    return LS_OK;
}

/* "[######--------------]  31% ": for the line that replaces itself. */
static void draw_bar(char bar[40], const ls_step_record *r) {
    enum { WIDTH = 20 };
    const double done = (double)r->step / (double)r->total_steps;
    char cells[WIDTH + 1];
    for (int i = 0; i < WIDTH; i++) {
        cells[i] = i < (int)(done * WIDTH) ? '#' : '-';
    }
    cells[WIDTH] = '\0';
    snprintf(bar, 40, "[%s] %3.0f%% ", cells, floor(100.0 * done));
}

static ls_status console_step(void *state, const ls_step_record *r) {
    const console *s = state;
    char rate[32], flops[32], left[32] = "", val[48] = "", money[128] = "", text[480], bar[40];
    if (isfinite(r->left_seconds) && r->step < r->total_steps) {
        char duration[32];
        snprintf(left, sizeof left, "  %s left",
                 ls_text_duration(duration, sizeof duration, r->left_seconds));
    }
    if (!isnan(r->val_loss)) {
        snprintf(val, sizeof val, "  val %.4f", r->val_loss);
    }
    if (isfinite(r->usd)) {
        char usd[32], to_go[32], each[32];
        const bool more = isfinite(r->left_usd) && r->step < r->total_steps;
        snprintf(money, sizeof money, "  %s so far%s%s%s, %s/Mtoken",
                 ls_text_usd(usd, sizeof usd, r->usd), more ? ", " : "",
                 more ? ls_text_usd(to_go, sizeof to_go, r->left_usd) : "", more ? " to go" : "",
                 ls_text_usd(each, sizeof each, r->usd_per_mtoken));
    }
    const bool keep = r->step == 1 || r->step == r->total_steps || r->step % s->every == 0 ||
                      r->skipped || !isnan(r->val_loss);
    snprintf(text, sizeof text,
             "step %lld/%lld  loss %.4f%s  norm %.2f  lr %.2e  %s tok/s  %s%s%s%s",
             (long long)r->step, (long long)r->total_steps, r->loss, val, r->grad_norm, r->lr,
             ls_text_count(rate, sizeof rate, r->tokens_per_second),
             ls_text_flops(flops, sizeof flops, r->flops_per_second), left, money,
             !r->skipped                                   ? ""
             : isfinite(r->loss) && isfinite(r->grad_norm) ? "  SKIPPED: out of line"
                                                           : "  SKIPPED: not finite");
    const int columns = ls_log_columns();
    draw_bar(bar, r);
    const bool fits = columns == 0 || strlen(bar) + strlen(text) < (size_t)columns;
    ls_log_progress(keep, "%s%s", keep || !fits ? "" : bar, text);
    return LS_OK;
}

static void console_close(void *state) {
    free(state);
}

const ls_sink_ops ls_sink_console = {
    .name = "console", .open = console_open, .step = console_step, .close = console_close};
