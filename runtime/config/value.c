/* One value of the table: from text to its place in ls_config, and back. */
#include "runtime/base/text.h"
#include "runtime/config/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool ls_config_number(const char *text, bool suffixes, double *x) {
    static const char letters[] = "KMBT";
    char digits[64];
    size_t n = 0, length = strlen(text);
    const char last = length > 1 && suffixes ? text[length - 1] : '\0';
    const char *unit = last ? strchr(letters, last == 'k' ? 'K' : last == 'G' ? 'B' : last) : NULL;
    length -= unit != NULL;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '_' && i > 0 && i + 1 < length) {
            continue;
        }
        if (!strchr("0123456789+-.eE", text[i]) || n + sizeof "e12" == sizeof digits) {
            return false;
        }
        digits[n++] = text[i];
    }
    digits[n] = '\0';
    if (unit) { /* read with the digits: 4.35T is a whole number */
        snprintf(digits + n, sizeof digits - n, "e%d", 3 * (int)(unit - letters) + 3);
    }
    char *end = digits;
    *x = strtod(digits, &end);
    return n > 0 && *end == '\0' && isfinite(*x);
}

/* Numbers of steps and tokens that have no bound by nature: what people write as 10B. */
static bool takes_suffix(const ls_field *field) {
    return field->type == LS_FIELD_INT && field->unit[0] && field->max >= 1e12;
}

/* Element types by what other programs call them. Half precision is not computed with here: who
 * asks for it wants 16 bits. */
static const struct {
    const char *name, *type;
} foreign_types[] = {{"fp16", "bf16"},     {"float16", "bf16"}, {"half", "bf16"},
                     {"bfloat16", "bf16"}, {"float32", "fp32"}, {"tf32", "fp32"},
                     {"float8", "fp8"},    {"gpu", "cuda"}};

/* The name of a choice that is meant, or NULL. */
static const char *meant_choice(const ls_field *field, const char *text) {
    size_t count = 0;
    while (field->names[count]) {
        count++;
    }
    for (size_t i = 0; i < sizeof foreign_types / sizeof *foreign_types; i++) {
        for (size_t j = 0; j < count && strcmp(text, foreign_types[i].name) == 0; j++) {
            if (strcmp(field->names[j], foreign_types[i].type) == 0) {
                return field->names[j];
            }
        }
    }
    return ls_text_nearest(text, field->names, count);
}

static ls_status fail_value(const ls_field *field, const char *origin, const char *text) {
    char allowed[256], near_miss[80] = "";
    const char *type = field->type == LS_FIELD_INT     ? "an integer, "
                       : field->type == LS_FIELD_FLOAT ? "a number, "
                                                       : "";
    const char *meant = field->type == LS_FIELD_ENUM ? meant_choice(field, text) : NULL;
    if (meant) {
        snprintf(near_miss, sizeof near_miss, "; did you mean '%s'?", meant);
    }
    return LS_FAIL(LS_E_CONFIG, "%s: %s.%s is '%.80s'; expected %s%s%s%s", origin, field->section,
                   field->key, text, type, ls_field_allowed(field, allowed, sizeof allowed),
                   takes_suffix(field) ? ", such as 500, 20k or 10B" : "", near_miss);
}

static ls_status set_string(const ls_field *field, char *place, const char *origin,
                            const char *text) {
    size_t length = strlen(text);
    if (length >= field->size_bytes) {
        return LS_FAIL(LS_E_CONFIG, "%s: %s.%s has %zu characters; at most %zu are expected",
                       origin, field->section, field->key, length, field->size_bytes - 1);
    }
    if (!ls_text_is_line(text)) {
        return LS_FAIL(LS_E_CONFIG,
                       "%s: %s.%s must be UTF-8 text without line breaks and control characters",
                       origin, field->section, field->key);
    }
    memset(place, 0, field->size_bytes); /* equal values are equal bytes */
    memcpy(place, text, length);
    return LS_OK;
}

ls_status ls_field_set(const ls_field *field, ls_config *config, const char *origin,
                       const char *text) {
    char *place = (char *)config + field->offset;
    double x = 0;
    bool good = false;
    switch (field->type) {
    case LS_FIELD_STRING:
        return set_string(field, place, origin, text);
    case LS_FIELD_BOOL:
        *(bool *)place = strcmp(text, "true") == 0;
        good = *(bool *)place || strcmp(text, "false") == 0;
        break;
    case LS_FIELD_INT:
        good = ls_config_number(text, takes_suffix(field), &x) && x == floor(x) &&
               x >= field->min && x <= field->max;
        *(int64_t *)place = good ? (int64_t)x : 0;
        break;
    case LS_FIELD_FLOAT:
        good = ls_config_number(text, false, &x) && x >= field->min && x <= field->max;
        *(double *)place = x + 0.0; /* no negative zero */
        break;
    case LS_FIELD_ENUM:
        for (int i = 0; field->names[i] && !good; i++) {
            good = strcmp(text, field->names[i]) == 0;
            memcpy(place, &i, sizeof i);
        }
        break;
    }
    return good ? LS_OK : fail_value(field, origin, text);
}

/* "text" with what YAML needs escaped. */
static char *quoted(const char *text) {
    char *out = malloc(2 * strlen(text) + 3);
    if (!out) {
        return NULL;
    }
    char *p = out;
    *p++ = '"';
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') {
            *p++ = '\\';
        }
        *p++ = *text;
    }
    *p++ = '"';
    *p = '\0';
    return out;
}

/* The fewest digits that read back, with a point, which YAML 1.1 wants to see in a number. */
static char *number_text(double x) {
    char text[40];
    int digits = 0;
    do {
        snprintf(text, sizeof text, "%.*g", ++digits, x);
    } while (strtod(text, NULL) != x && digits < 17);
    if (fabs(x) < 1e15 && x == floor(x)) {
        snprintf(text, sizeof text, "%.1f", x);
    }
    char *exponent = strchr(text, 'e');
    if (strchr(text, '.') || !exponent) {
        return strdup(text);
    }
    return ls_text_format("%.*s.0%s", (int)(exponent - text), text, exponent);
}

char *ls_field_get(const ls_field *field, const ls_config *config) {
    const char *place = (const char *)config + field->offset;
    int index = 0;
    switch (field->type) {
    case LS_FIELD_STRING:
        return quoted(place);
    case LS_FIELD_BOOL:
        return strdup(*(const bool *)place ? "true" : "false");
    case LS_FIELD_INT:
        return ls_text_format("%lld", (long long)*(const int64_t *)place);
    case LS_FIELD_FLOAT:
        return number_text(*(const double *)place);
    case LS_FIELD_ENUM:
        memcpy(&index, place, sizeof index);
        return strdup(field->names[index]);
    }
    return NULL;
}
