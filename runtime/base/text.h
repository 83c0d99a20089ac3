/* Numbers for people, and near misses for messages. */
#ifndef LS_BASE_TEXT_H
#define LS_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Each writes into buf and returns buf; "unknown" for what is not finite (or a negative time). */
char *ls_text_bytes(char *buf, size_t size, double bytes); /* "1.50 MiB" */
char *ls_text_count(char *buf, size_t size, double n);     /* "12.3 M" (decimal) */
char *ls_text_flops(char *buf, size_t size, double rate);  /* "12.3 GFLOP/s" */
/* "850 ms", "12.3 s", "4m05s", "2h10m", "3d04h" */
char *ls_text_duration(char *buf, size_t size, double seconds);

/* "$0.0031": what is below ten cents has two significant digits; "$12.31", "$5.576 M" */
char *ls_text_usd(char *buf, size_t size, double usd);

/* Edits between two words: insert, delete, replace, swap of neighbours (optimal string alignment).
 * Of strings over 128 characters only the longer one's length is told. */
int ls_text_distance(const char *a, const char *b);
/* Closest candidate within max(2, length/3) edits, fewer than the word has characters, or else the
 * first that begins with the word, of three characters or more; or NULL. */
const char *ls_text_nearest(const char *word, const char *const *candidates, size_t count);

/* "; did you mean 'X'?" for the nearest one X, or "". Returns buf. */
char *ls_text_suggest(char *buf, size_t size, const char *word, const char *const *candidates,
                      size_t count);

/* UTF-8 without line breaks and control characters, which prints and can be quoted? */
bool ls_text_is_line(const char *text);

/* Prints text from column `at` on, in lines of `width` columns at most (but for longer words) that
 * begin at column `indent`; a line break in it is kept, one follows it. Columns are bytes. */
void ls_text_wrap(FILE *out, int at, int indent, int width, const char *text);

/* printf to a fresh heap string; NULL when out of memory. Caller frees. */
char *ls_text_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
