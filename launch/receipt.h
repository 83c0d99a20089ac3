/* Rows of a receipt, as text or as rows of an HTML table: what counters say, in words and units. */
#ifndef LS_LAUNCH_RECEIPT_H
#define LS_LAUNCH_RECEIPT_H

#include "runtime/counters/counters.h"

#include <stdio.h>

/* x by `format`, or "unknown". */
const char *ls_receipt_real(char *buf, size_t size, const char *format, double x);

void ls_receipt_row(FILE *out, bool html, const char *name, const char *value);
/* Wall time, device-hours, goodput. */
void ls_receipt_time(FILE *out, bool html, const ls_counters *counters);
/* Dollars, and the energy and carbon that are known. */
void ls_receipt_money(FILE *out, bool html, const ls_counters *counters);
/* Each phase that took time, with its share. */
void ls_receipt_phases(FILE *out, bool html, const ls_counters *counters);

#endif
