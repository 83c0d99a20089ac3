/* Numbers in order, for medians and the like. */
#ifndef LS_BASE_SORT_H
#define LS_BASE_SORT_H

#include <stddef.h>

/* Ascending, in place; none is NaN. */
void ls_sort_doubles(double *values, size_t count);

#endif
