#include "runtime/base/sort.h"

#include <stdlib.h>

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void ls_sort_doubles(double *values, size_t count) {
    qsort(values, count, sizeof *values, ascending);
}
