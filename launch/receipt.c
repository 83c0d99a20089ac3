#include "launch/receipt.h"

#include "launch/chart.h"
#include "runtime/base/text.h"

#include <math.h>
#include <string.h>

const char *ls_receipt_real(char *buf, size_t size, const char *format, double x) {
    if (!isfinite(x)) {
        return "unknown";
    }
    snprintf(buf, size, format, x);
    return buf;
}

void ls_receipt_row(FILE *out, bool html, const char *name, const char *value) {
    if (html) {
        fputs("<tr><th>", out);
        ls_chart_text(out, name);
        fputs("</th><td>", out);
        ls_chart_text(out, value);
        fputs("</td></tr>\n", out);
    } else {
        fprintf(out, "  %-30s %s\n", name, value);
    }
}

void ls_receipt_time(FILE *out, bool html, const ls_counters *c) {
    char text[64];
    ls_receipt_row(out, html, "wall time",
                   ls_text_duration(text, sizeof text, ls_counters_wall(c)));
    ls_receipt_row(out, html, "device-hours",
                   ls_receipt_real(text, sizeof text, "%.5g", c->device_seconds / 3600.0));
    ls_receipt_row(
        out, html, "goodput",
        ls_receipt_real(text, sizeof text, "%.1f %% of wall time", 100.0 * ls_counters_goodput(c)));
}

void ls_receipt_money(FILE *out, bool html, const ls_counters *c) {
    char number[64];
    ls_receipt_row(out, html, "cost",
                   isfinite(c->usd) ? ls_text_usd(number, sizeof number, c->usd)
                                    : "unknown: no price was given (cost.usd_per_device_hour)");
    if (isfinite(c->usd)) {
        ls_receipt_row(out, html, "$ per million tokens",
                       ls_text_usd(number, sizeof number, c->usd / ((double)c->tokens * 1e-6)));
    }
    if (isfinite(c->measured_joules)) {
        ls_receipt_row(
            out, html, "energy, measured",
            ls_receipt_real(number, sizeof number, "%.4g kWh", c->measured_joules / 3.6e6));
    }
    if (isfinite(c->modelled_joules)) {
        ls_receipt_row(out, html, "energy, modelled",
                       ls_receipt_real(number, sizeof number,
                                       "%.4g kWh (watts given, not measured)",
                                       c->modelled_joules / 3.6e6));
    }
    if (isfinite(c->carbon_g)) {
        ls_receipt_row(out, html, "carbon, modelled",
                       ls_receipt_real(number, sizeof number, "%.4g kg CO2e", c->carbon_g / 1e3));
    }
}

void ls_receipt_phases(FILE *out, bool html, const ls_counters *c) {
    static const char exposed[] = "communication_";
    const size_t skip = sizeof exposed - 1;
    char name[64], text[96], number[32];
    for (int p = 0; p < LS_PHASE_COUNT; p++) {
        if (c->seconds[p] > 0.0) {
            snprintf(text, sizeof text, "%s (%.1f %%)",
                     ls_text_duration(number, sizeof number, c->seconds[p]),
                     100.0 * c->seconds[p] / ls_counters_wall(c));
            const char *phase = ls_phase_name((ls_phase)p);
            const bool talks = strncmp(phase, exposed, skip) == 0;
            snprintf(name, sizeof name, "time in %s%s", talks ? "communication, " : "",
                     talks ? phase + skip : phase);
            ls_receipt_row(out, html, name, text);
        }
    }
}
