#include "runtime/base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Three significant digits and a unit of the list, each unit `base` times the one before. */
static char *scaled(char *buf, size_t size, double x, double base, const char *const *units,
                    int unit_count) {
    if (!isfinite(x)) {
        snprintf(buf, size, "unknown");
        return buf;
    }
    double v = fabs(x);
    int unit = 0;
    while (unit < unit_count - 1 && v >= base - 0.5) {
        v /= base;
        unit++;
    }
    int decimals = v < 9.995 ? 2 : v < 99.95 ? 1 : 0;
    if (unit == 0 && v == floor(v)) {
        decimals = 0;
    }
    snprintf(buf, size, "%.*f%s", decimals, x < 0 ? -v : v, units[unit]);
    return buf;
}

char *ls_text_bytes(char *buf, size_t size, double bytes) {
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
    return scaled(buf, size, bytes, 1024, units, 6);
}

char *ls_text_count(char *buf, size_t size, double n) {
    static const char *const units[] = {"", " k", " M", " B", " T"};
    return scaled(buf, size, n, 1000, units, 5);
}

char *ls_text_flops(char *buf, size_t size, double rate) {
    static const char *const units[] = {" FLOP/s",  " kFLOP/s", " MFLOP/s",
                                        " GFLOP/s", " TFLOP/s", " PFLOP/s"};
    return scaled(buf, size, rate, 1000, units, 6);
}

char *ls_text_duration(char *buf, size_t size, double seconds) {
    if (!isfinite(seconds) || seconds < 0 || seconds > 1e12) {
        snprintf(buf, size, "unknown");
    } else if (seconds < 59.95) {
        static const char *const units[] = {" ns", " us", " ms", " s"};
        scaled(buf, size, seconds * 1e9, 1000, units, 4);
    } else if (seconds < 3599.5) {
        long long s = llround(seconds);
        snprintf(buf, size, "%lldm%02llds", s / 60, s % 60);
    } else if (seconds < 86370) {
        long long m = llround(seconds / 60);
        snprintf(buf, size, "%lldh%02lldm", m / 60, m % 60);
    } else {
        long long h = llround(seconds / 3600);
        snprintf(buf, size, "%lldd%02lldh", h / 24, h % 24);
    }
    return buf;
}

char *ls_text_usd(char *buf, size_t size, double usd) {
    if (!isfinite(usd)) {
        snprintf(buf, size, "unknown");
    } else if (fabs(usd) >= 1e6) {
        snprintf(buf, size, "$%.3f M", usd * 1e-6);
    } else if (usd == 0.0 || fabs(usd) >= 0.0995) {
        snprintf(buf, size, fabs(usd) < 10000.0 ? "$%.2f" : "$%.0f", usd);
    } else {
        const int digits = 1 - (int)floor(log10(fabs(usd)));
        snprintf(buf, size, digits <= 9 ? "$%.*f" : "$%.*e", digits <= 9 ? digits : 1, usd);
    }
    return buf;
}

/* Optimal string alignment with three rows of the table. */
int ls_text_distance(const char *a, const char *b) {
    enum { MAX_CHARS = 128 };
    size_t a_len = strlen(a), b_len = strlen(b);
    if (a_len > MAX_CHARS || b_len > MAX_CHARS) {
        return a_len == b_len && memcmp(a, b, a_len) == 0 ? 0
                                                          : (int)(a_len > b_len ? a_len : b_len);
    }
    int rows[3][MAX_CHARS + 1];
    int *before = rows[0], *above = rows[1], *row = rows[2];
    for (size_t j = 0; j <= b_len; j++) {
        above[j] = (int)j;
    }
    for (size_t i = 1; i <= a_len; i++) {
        row[0] = (int)i;
        for (size_t j = 1; j <= b_len; j++) {
            int best = above[j - 1] + (a[i - 1] != b[j - 1]);
            best = above[j] + 1 < best ? above[j] + 1 : best;
            best = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < best) {
                best = before[j - 2] + 1;
            }
            row[j] = best;
        }
        int *oldest = before;
        before = above;
        above = row;
        row = oldest;
    }
    return above[b_len];
}

const char *ls_text_nearest(const char *word, const char *const *candidates, size_t count) {
    int length = (int)strlen(word);
    int limit = length / 3 > 2 ? length / 3 : 2;
    limit = limit < length ? limit : length - 1; /* or any short word would be near any other */
    const char *nearest = NULL;
    for (size_t i = 0; i < count; i++) {
        int distance = ls_text_distance(word, candidates[i]);
        if (distance <= limit) {
            nearest = candidates[i];
            limit = distance - 1;
        }
    }
    for (size_t i = 0; i < count && !nearest && length >= 3; i++) {
        nearest = strncmp(word, candidates[i], (size_t)length) == 0 ? candidates[i] : NULL;
    }
    return nearest;
}

char *ls_text_suggest(char *buf, size_t size, const char *word, const char *const *candidates,
                      size_t count) {
    const char *nearest = ls_text_nearest(word, candidates, count);
    buf[0] = '\0';
    if (nearest) {
        snprintf(buf, size, "; did you mean '%s'?", nearest);
    }
    return buf;
}

bool ls_text_is_line(const char *text) {
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        int more = *p < 0x80 ? 0 : *p >= 0xc2 && *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : 3;
        uint32_t point = more == 0 ? *p : *p & (0x3fu >> more);
        if ((*p >= 0x80 && *p < 0xc2) || *p > 0xf4) {
            return false;
        }
        p++;
        for (int i = 0; i < more; i++, p++) {
            if ((*p & 0xc0) != 0x80) {
                return false;
            }
            point = point << 6 | (*p & 0x3fu);
        }
        static const uint32_t least[] = {0x20, 0xa0, 0x800, 0x10000};
        bool breaks_line = point == 0x2028 || point == 0x2029;
        bool is_not_text = (point >= 0xd800 && point < 0xe000) || point == 0xfeff ||
                           (point & 0xfffe) == 0xfffe || point > 0x10ffff;
        if (point < least[more] || point == 0x7f || breaks_line || is_not_text) {
            return false;
        }
    }
    return true;
}

void ls_text_wrap(FILE *out, int at, int indent, int width, const char *text) {
    const char *between = "";
    while (*text) {
        const int word = (int)strcspn(text, " \n");
        if (*between && (*between == '\n' || at + 1 + word > width)) {
            fprintf(out, "\n%*s", indent, "");
            at = indent;
        } else {
            at += fprintf(out, "%s", between);
        }
        at += fprintf(out, "%.*s", word, text);
        text += word;
        between = *text == '\n' ? "\n" : " ";
        text += *text != '\0';
    }
    fputc('\n', out);
}

char *ls_text_format(const char *fmt, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&text, fmt, args);
    va_end(args);
    return n < 0 ? NULL : text;
}
