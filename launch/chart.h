/* Line charts as SVG, without scripts. */
#ifndef LS_LAUNCH_CHART_H
#define LS_LAUNCH_CHART_H

#include <stdint.h>
#include <stdio.h>

typedef struct ls_chart_series {
    const char *name;
    int64_t count;
    const double *x, *y; /* points whose y is not finite are left out */
} ls_chart_series;

typedef struct ls_chart {
    const char *title, *x_label, *y_label;
    const ls_chart_series *series;
    int series_count; /* at most 6 have a colour of their own */
} ls_chart;

/* An <svg> element of 760 x 300, to stand alone or inside HTML. Long series are thinned to the
 * width; without any point it says so. */
void ls_chart_svg(FILE *out, const ls_chart *chart);

/* Text with the characters that markup takes for itself escaped. */
void ls_chart_text(FILE *out, const char *text);

#endif
