#include "benchmarks/plan/scatter.h"

#include "runtime/base/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIDE = 640, MARGIN = 70 };

static const char *const colours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e",
                                      "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

typedef struct axes {
    double low, high; /* log10 */
} axes;

static double place(axes a, double value) {
    return (log10(value) - a.low) / (a.high - a.low) * SIDE;
}

static void draw_grid(FILE *out, axes a) {
    for (int decade = (int)ceil(a.low); decade <= a.high; decade++) {
        const double at = place(a, pow(10, decade));
        fprintf(out,
                "<path d='M%g %d V%d M%d %g H%d' stroke='#ddd'/>"
                "<text x='%g' y='%d' text-anchor='middle'>%g s</text>"
                "<text x='%d' y='%g' text-anchor='end'>%g s</text>\n",
                MARGIN + at, MARGIN, MARGIN + SIDE, MARGIN, MARGIN + SIDE - at, MARGIN + SIDE,
                MARGIN + at, MARGIN + SIDE + 20, pow(10, decade), MARGIN - 8,
                MARGIN + SIDE - at + 4, pow(10, decade));
    }
    const double off = place(a, pow(10, a.low) * 1.25); /* 25 % to either side */
    fprintf(out,
            "<path d='M%d %d L%d %d' stroke='#444'/>"
            "<path d='M%g %d L%d %g M%d %g L%g %d' stroke='#bbb' stroke-dasharray='4'/>\n",
            MARGIN, MARGIN + SIDE, MARGIN + SIDE, MARGIN, MARGIN + off, MARGIN + SIDE,
            MARGIN + SIDE, MARGIN + off, MARGIN, MARGIN + SIDE - off, MARGIN + SIDE - off, MARGIN);
}

/* Publishers get a colour in order of appearance. */
static int colour_of(const run_list *runs, int row, const char **seen, int *count) {
    for (int i = 0; i < *count; i++) {
        if (strcmp(seen[i], runs->rows[row].publisher) == 0) {
            return i;
        }
    }
    if (*count < COLOURS) {
        seen[(*count)++] = runs->rows[row].publisher;
    }
    return *count - 1;
}

static void draw(FILE *out, const run_list *runs, const double *predicted_s) {
    axes a = {.low = 9, .high = -9};
    for (int i = 0; i < runs->count; i++) {
        if (!isnan(predicted_s[i])) {
            const double m = log10(runs->rows[i].measured_s), p = log10(predicted_s[i]);
            a.low = fmin(a.low, fmin(m, p) - 0.1);
            a.high = fmax(a.high, fmax(m, p) + 0.1);
        }
    }
    fprintf(out,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
            "font-family='sans-serif' font-size='13'>\n<rect width='100%%' height='100%%' "
            "fill='white'/>\n<text x='%d' y='30' font-size='16'>Step time of published runs: "
            "measured across, predicted up, each source held out</text>\n",
            SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, MARGIN);
    draw_grid(out, a);
    const char *seen[COLOURS];
    int count = 0;
    for (int i = 0; i < runs->count; i++) {
        if (!isnan(predicted_s[i])) {
            const int c = colour_of(runs, i, seen, &count);
            fprintf(out, "<circle cx='%.1f' cy='%.1f' r='3.5' fill='%s' fill-opacity='.6'/>\n",
                    MARGIN + place(a, runs->rows[i].measured_s),
                    MARGIN + SIDE - place(a, predicted_s[i]), colours[c]);
        }
    }
    for (int i = 0; i < count; i++) {
        fprintf(out, "<text x='%d' y='%d' fill='%s'>%s</text>\n", MARGIN + 12, MARGIN + 20 + 18 * i,
                colours[i], seen[i]);
    }
    fputs("</svg>\n", out);
}

ls_status scatter_write(const char *path, const run_list *runs, const double *predicted_s) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a drawing");
    }
    draw(out, runs, predicted_s);
    ls_status status = fclose(out) == 0 ? ls_file_replace(path, text, bytes)
                                        : LS_FAIL(LS_E_MEMORY, "no memory for a drawing");
    free(text);
    return status;
}
