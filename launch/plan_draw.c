/* Scaling as a drawing. */
#include "launch/plan.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <math.h>
#include <stdlib.h>

enum { WIDTH = 640, HEIGHT = 420, MARGIN = 70 };

typedef struct scale {
    double low, high; /* log10 */
    int length;
} scale;

static double at(scale s, double value) {
    return (log10(value) - s.low) / (s.high - s.low) * s.length;
}

static void draw_title(FILE *out, const char *title) {
    fprintf(out, "<text x='%d' y='30' font-size='16'>", MARGIN);
    for (const char *c = title; *c; c++) {
        if (*c == '<' || *c == '&') {
            fprintf(out, "&#%d;", *c);
        } else {
            fputc(*c, out);
        }
    }
    fputs("</text>\n", out);
}

static void draw(FILE *out, const char *title, const ls_plan_point *p, int count) {
    const double first = p[0].tokens_per_s / p[0].devices;
    scale x = {log10(p[0].devices) - 0.1, log10(p[count - 1].devices) + 0.1, WIDTH};
    scale y = {log10(p[0].tokens_per_s) - 0.1, log10(first * p[count - 1].devices) + 0.1, HEIGHT};
    for (int i = 0; i < count; i++) {
        y.low = fmin(y.low, log10(p[i].tokens_per_s) - 0.1);
        y.high = fmax(y.high, log10(p[i].tokens_per_s) + 0.1);
    }
    fprintf(out,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
            "font-family='sans-serif' font-size='13'>\n<rect width='100%%' height='100%%' "
            "fill='white'/>\n"
            "<rect x='%d' y='%d' width='%d' height='%d' fill='none' stroke='#444'/>\n",
            WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN, MARGIN, MARGIN, WIDTH, HEIGHT);
    draw_title(out, title);
    for (int decade = (int)ceil(y.low); decade <= y.high; decade++) {
        const double v = MARGIN + HEIGHT - at(y, pow(10, decade));
        fprintf(out,
                "<path d='M%d %.1f H%d' stroke='#ddd'/><text x='%d' y='%.1f' "
                "text-anchor='end'>1e%d</text>\n",
                MARGIN, v, MARGIN + WIDTH, MARGIN - 6, v + 4, decade);
    }
    fprintf(out, "<path d='M%.1f %.1f L%.1f %.1f' stroke='#bbb' stroke-dasharray='4'/>\n<path d='",
            MARGIN + at(x, p[0].devices), MARGIN + HEIGHT - at(y, p[0].tokens_per_s),
            MARGIN + at(x, p[count - 1].devices),
            MARGIN + HEIGHT - at(y, first * p[count - 1].devices));
    for (int i = 0; i < count; i++) {
        fprintf(out, "%c%.1f %.1f ", i ? 'L' : 'M', MARGIN + at(x, p[i].devices),
                MARGIN + HEIGHT - at(y, p[i].tokens_per_s));
    }
    fputs("' fill='none' stroke='#1f77b4' stroke-width='2'/>\n", out);
    for (int i = 0; i < count; i++) {
        const double h = MARGIN + at(x, p[i].devices),
                     v = MARGIN + HEIGHT - at(y, p[i].tokens_per_s);
        fprintf(
            out,
            "<circle cx='%.1f' cy='%.1f' r='4' fill='#1f77b4'><title>%d devices, %.0f tokens/s, "
            "%.0f%% of linear</title></circle><text x='%.1f' y='%d' "
            "text-anchor='middle'>%d</text>\n",
            h, v, p[i].devices, p[i].tokens_per_s, 100 * p[i].tokens_per_s / (first * p[i].devices),
            h, MARGIN + HEIGHT + 18, p[i].devices);
    }
    fprintf(out, "<text x='%d' y='%d'>devices across, tokens/s up; dashed: linear</text>\n</svg>\n",
            MARGIN, MARGIN + HEIGHT + 45);
}

ls_status ls_plan_draw(const char *path, const char *title, const ls_plan_point *points,
                       int count) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a drawing");
    }
    draw(out, title, points, count);
    ls_status status = fclose(out) == 0 ? ls_file_replace(path, text, bytes)
                                        : LS_FAIL(LS_E_MEMORY, "no memory for a drawing");
    free(text);
    LS_TRY(status);
    ls_log_info("wrote %s", path);
    return LS_OK;
}
