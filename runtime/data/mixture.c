#include "runtime/data/mixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"

static const uint32_t STEP = 0x9E3779B9u; /* odd: x visits each number once in 2^32 samples */

/* Sum of floor((a i + b) / m) for i in [0, n), by Euclid's algorithm; all below 2^32. */
static uint64_t floor_sum(uint64_t n, uint64_t m, uint64_t a, uint64_t b) {
    uint64_t sum = 0;
    while (n > 0) {
        sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        a %= m;
        b %= m;
        const uint64_t top = a * n + b;
        n = top / m; /* the same sum seen from the other axis */
        b = top % m;
        const uint64_t t = m;
        m = a;
        a = t;
    }
    return sum;
}

/* How many k in [0, n) have x(k) < limit; n below 2^32, limit at most that. */
static uint64_t below(uint64_t n, uint64_t limit) {
    /* floor(y / m) - floor((y - limit) / m) is 1 where y mod m < limit. */
    return floor_sum(n, LS_MIXTURE_WHOLE, STEP, 0) + n -
           floor_sum(n, LS_MIXTURE_WHOLE, STEP, LS_MIXTURE_WHOLE - limit);
}

int64_t ls_mixture_before(const ls_mixture_part *part, int64_t sample) {
    const uint64_t rounds = (uint64_t)sample / LS_MIXTURE_WHOLE;
    const uint64_t rest = (uint64_t)sample % LS_MIXTURE_WHOLE;
    return (int64_t)(rounds * (part->high - part->low) + below(rest, part->high) -
                     below(rest, part->low));
}

int ls_mixture_find(const ls_mixture *mixture, int64_t sample) {
    const uint64_t x = (uint32_t)sample * STEP; /* in 32 bits */
    int i = 0;
    while (x >= mixture->parts[i].high) {
        i++;
    }
    return i;
}

/* "DIR WEIGHT" in [from, end). */
static ls_status part_parse(const char *from, const char *end, ls_mixture_part *part) {
    from += strspn(from, " \t\n");
    while (end > from && strchr(" \t\n", end[-1])) {
        end--;
    }
    const char *weight = end;
    while (weight > from && !strchr(" \t\n", weight[-1])) {
        weight--;
    }
    const char *dir_end = weight;
    while (dir_end > from && strchr(" \t\n", dir_end[-1])) {
        dir_end--;
    }
    char *number_end;
    part->weight = strtod(weight, &number_end);
    if (dir_end == from || number_end != end || !(part->weight > 0 && isfinite(part->weight))) {
        return LS_FAIL(
            LS_E_CONFIG,
            "data.dir has the part '%.*s'; a directory and its weight above 0 are needed, "
            "as in 'web 0.7; code 0.3'",
            (int)(end - from < 200 ? end - from : 200), from);
    }
    part->dir = strndup(from, (size_t)(dir_end - from));
    return part->dir ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for the parts of data.dir");
}

ls_status ls_mixture_divide(ls_mixture *mixture) {
    double sum = 0, so_far = 0;
    uint64_t low = 0;
    for (int i = 0; i < mixture->count; i++) {
        sum += mixture->parts[i].weight;
    }
    for (int i = 0; i < mixture->count; i++) {
        ls_mixture_part *part = &mixture->parts[i];
        so_far += part->weight;
        part->low = low;
        part->high = i == mixture->count - 1
                         ? LS_MIXTURE_WHOLE
                         : (uint64_t)llround(so_far / sum * (double)LS_MIXTURE_WHOLE);
        if (part->high <= low) {
            return LS_FAIL(
                LS_E_CONFIG,
                "data.dir: '%s' has weight %g of %g in all, less than one sample in 2^32",
                part->dir, part->weight, sum);
        }
        low = part->high;
    }
    return LS_OK;
}

ls_status ls_mixture_parse(const char *text, ls_mixture *mixture) {
    *mixture = (ls_mixture){0};
    int most = 1;
    for (const char *c = text; *c; c++) {
        most += *c == ';';
    }
    LS_TRY(ls_calloc((size_t)most, sizeof *mixture->parts, &mixture->parts));
    if (most == 1 || ls_path_is_dir(text)) {
        mixture->count = 1;
        mixture->parts[0] = (ls_mixture_part){.dir = strdup(text), .weight = 1};
        return mixture->parts[0].dir ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory for data.dir");
    }
    for (const char *from = text, *end; *from; from = *end ? end + 1 : end) {
        end = from + strcspn(from, ";");
        if (from + strspn(from, " \t\n") < end) { /* nothing behind a last ';' is fine */
            LS_TRY(part_parse(from, end, &mixture->parts[mixture->count++]));
        }
    }
    return mixture->count > 0
               ? LS_OK
               : LS_FAIL(LS_E_CONFIG, "data.dir is '%s', which names no directory", text);
}

void ls_mixture_release(ls_mixture *mixture) {
    for (int i = 0; i < mixture->count; i++) {
        free(mixture->parts[i].dir);
    }
    free(mixture->parts);
    *mixture = (ls_mixture){0};
}
