#include "launch/chart.h"

#include <math.h>
#include <stdbool.h>

enum {
    WIDTH = 760,
    HEIGHT = 300,
    LEFT = 74,
    RIGHT = 16,
    TOP = 34,
    BOTTOM = 44,
    MAX_POINTS = 1400,
    MAX_TICKS = 20
};

static const char *const colours[] = {"#1f6feb", "#d1242f", "#1a7f37",
                                      "#9a6700", "#8250df", "#57606a"};

typedef struct range {
    double low, high;
} range;

void ls_chart_text(FILE *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '"':
            fputs("&quot;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static void widen(range *r, double value) {
    if (isfinite(value)) {
        r->low = fmin(r->low, value);
        r->high = fmax(r->high, value);
    }
}

/* A round step that divides the range into about `parts`. */
static double tick_step(range r, int parts) {
    double raw = (r.high - r.low) / parts;
    double unit = pow(10.0, floor(log10(raw)));
    double m = raw / unit;
    return unit * (m <= 1.0 ? 1.0 : m <= 2.0 ? 2.0 : m <= 5.0 ? 5.0 : 10.0);
}

static range spread(range r) {
    if (!(r.low <= r.high)) {
        return (range){0.0, 1.0};
    }
    if (r.low == r.high) {
        double margin = r.low != 0.0 ? fabs(r.low) * 0.1 : 1.0;
        return (range){r.low - margin, r.high + margin};
    }
    return r;
}

static double place_x(range r, double x) {
    return LEFT + (x - r.low) / (r.high - r.low) * (WIDTH - LEFT - RIGHT);
}

static double place_y(range r, double y) {
    return HEIGHT - BOTTOM - (y - r.low) / (r.high - r.low) * (HEIGHT - TOP - BOTTOM);
}

static void draw_title(FILE *out, const char *title) {
    fprintf(out, "<text x=\"%d\" y=\"18\" font-weight=\"bold\">", LEFT);
    ls_chart_text(out, title);
    fputs("</text>\n", out);
}

/* Marks of a range at multiples of a round step, about `parts` of them; fewer where the range is
 * so narrow that its numbers lie further apart. */
static int find_ticks(range r, int parts, double ticks[MAX_TICKS]) {
    const double step = tick_step(r, parts), first = ceil(r.low / step);
    int count = 0;
    for (int i = 0; i < MAX_TICKS; i++) {
        const double t = (first + i) * step;
        if (t <= r.high + 1e-9 * step && (count == 0 || t > ticks[count - 1])) {
            ticks[count++] = t;
        }
    }
    return count;
}

static void draw_axes(FILE *out, const ls_chart *chart, range x, range y) {
    double ticks[MAX_TICKS];
    int count = find_ticks(y, 5, ticks);
    for (int i = 0; i < count; i++) {
        const double at = place_y(y, ticks[i]);
        fprintf(out,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#d0d7de\"/>"
                "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g</text>\n",
                LEFT, WIDTH - RIGHT, at, at, LEFT - 6, at + 4, ticks[i]);
    }
    count = find_ticks(x, 8, ticks);
    for (int i = 0; i < count; i++) {
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.6g</text>\n",
                place_x(x, ticks[i]), HEIGHT - BOTTOM + 16, ticks[i]);
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
            LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 8);
    ls_chart_text(out, chart->x_label);
    fprintf(out,
            "</text>\n<text transform=\"translate(14,%d) rotate(-90)\" text-anchor=\"middle\">",
            TOP + (HEIGHT - TOP - BOTTOM) / 2);
    ls_chart_text(out, chart->y_label);
    fputs("</text>\n", out);
}

static void draw_series(FILE *out, const ls_chart_series *s, const char *colour, range x, range y) {
    int64_t stride = s->count / MAX_POINTS + 1;
    int64_t drawn = 0;
    fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", colour);
    for (int64_t i = 0; i < s->count; i++) {
        bool kept = i % stride == 0 || i == s->count - 1;
        if (kept && isfinite(s->x[i]) && isfinite(s->y[i])) {
            fprintf(out, "%.1f,%.1f ", place_x(x, s->x[i]), place_y(y, s->y[i]));
            drawn++;
        }
    }
    fputs("\"/>\n", out);
    for (int64_t i = 0; drawn == 1 && i < s->count; i++) { /* a line of one point shows nothing */
        if (isfinite(s->x[i]) && isfinite(s->y[i])) {
            fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n",
                    place_x(x, s->x[i]), place_y(y, s->y[i]), colour);
        }
    }
}

void ls_chart_svg(FILE *out, const ls_chart *chart) {
    range x = {INFINITY, -INFINITY}, y = {INFINITY, -INFINITY};
    for (int i = 0; i < chart->series_count; i++) {
        const ls_chart_series *s = &chart->series[i];
        for (int64_t j = 0; j < s->count; j++) {
            if (isfinite(s->y[j])) {
                widen(&x, s->x[j]);
                widen(&y, s->y[j]);
            }
        }
    }
    const bool empty = !(y.low <= y.high);
    x = spread(x);
    y = spread(y);
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" "
            "height=\"%d\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n"
            "<rect width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
    draw_title(out, chart->title);
    if (empty) {
        fprintf(out,
                "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">no value is known</text>\n</svg>\n",
                WIDTH / 2, HEIGHT / 2);
        return;
    }
    draw_axes(out, chart, x, y);
    double legend = WIDTH - RIGHT;
    for (int i = chart->series_count - 1; i >= 0; i--) {
        const char *colour = colours[i % 6];
        draw_series(out, &chart->series[i], colour, x, y);
        if (chart->series_count > 1) {
            fprintf(out, "<text x=\"%.1f\" y=\"18\" text-anchor=\"end\" fill=\"%s\">", legend,
                    colour);
            ls_chart_text(out, chart->series[i].name);
            fputs("</text>\n", out);
            for (const char *c = chart->series[i].name; *c; c++) {
                legend -= 7.0;
            }
            legend -= 16.0;
        }
    }
    fputs("</svg>\n", out);
}
