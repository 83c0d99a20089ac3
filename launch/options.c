#include "launch/cmd.h"
#include "runtime/base/text.h"
#include "runtime/config/config.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 32, LONG_BASE = 256 };

static ls_status unknown_option(const ls_verb *verb, const char *found) {
    const char *names[MAX_OPTIONS];
    size_t count = 0;
    for (const ls_option *o = verb->options; o && o->name; o++) {
        names[count++] = o->name;
    }
    char word[64];
    size_t skip = strspn(found, "-"), length = strcspn(found + skip, "=");
    if (length >= sizeof word) {
        length = sizeof word - 1;
    }
    memcpy(word, found + skip, length);
    word[length] = '\0';
    char meant[64];
    if (verb->settings && strcmp(word, "config") == 0) {
        return LS_FAIL(LS_E_USAGE,
                       "unknown option '%s'; the configuration stands alone: lockstep "
                       "%s CONFIG.yaml",
                       found, verb->name);
    }
    if (verb->settings && ls_config_meant(word, length, meant)) {
        return LS_FAIL(LS_E_USAGE, "unknown option '%s'; settings are given as %s=VALUE", found,
                       meant);
    }
    const char *near = ls_text_nearest(word, names, count);
    if (near) {
        return LS_FAIL(LS_E_USAGE,
                       "unknown option '%s'; did you mean --%s? 'lockstep %s --help' lists all",
                       found, near, verb->name);
    }
    return LS_FAIL(LS_E_USAGE, "unknown option '%s'; 'lockstep %s --help' lists those that exist",
                   found, verb->name);
}

/* Is the word an option itself, and not a value that begins with '-'? */
static bool is_option(const ls_verb *verb, const char *word) {
    for (const ls_option *o = verb->options; o && o->name; o++) {
        const bool is_letter = o->letter && word[0] == '-' && word[1] == o->letter && !word[2];
        if (is_letter || (strncmp(word, "--", 2) == 0 && strcmp(word + 2, o->name) == 0)) {
            return true;
        }
    }
    return false;
}

ls_status ls_options_parse(const ls_verb *verb, int argc, char **argv, const char **values,
                           int *first) {
    struct option longs[MAX_OPTIONS + 1] = {0};
    char shorts[2 * MAX_OPTIONS + 2] = ":";
    size_t used = 1;
    int count = 0;
    for (const ls_option *o = verb->options; o && o->name; o++, count++) {
        if (count == MAX_OPTIONS) {
            return LS_FAIL(LS_E_USAGE, "'%s' has more than %d options", verb->name, MAX_OPTIONS);
        }
        values[count] = NULL;
        longs[count] = (struct option){o->name, o->arg ? required_argument : no_argument, NULL,
                                       LONG_BASE + count};
        if (o->letter) {
            shorts[used++] = o->letter;
            if (o->arg) {
                shorts[used++] = ':';
            }
        }
    }
    shorts[used] = '\0';
    opterr = 0;
    optind = 0; /* glibc: start again from scratch */
    int c;
    while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (c == ':') {
            return LS_FAIL(LS_E_USAGE, "option '%s' needs a value", argv[optind - 1]);
        }
        if (c == '?') {
            return unknown_option(verb, argv[optind - 1]);
        }
        int i = c - LONG_BASE;
        for (int j = 0; c < LONG_BASE && j < count; j++) {
            if (verb->options[j].letter == c) {
                i = j;
            }
        }
        if (optarg && optarg == argv[optind - 1] && is_option(verb, optarg)) {
            return LS_FAIL(LS_E_USAGE, "option '%s' needs a value, and '%s' is the next option",
                           argv[optind - 2], optarg);
        }
        values[i] = optarg ? optarg : "";
    }
    *first = optind;
    return LS_OK;
}

ls_status ls_option_int(const char *name, const char *value, long long min, long long max,
                        long long *out) {
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || errno || n < min || n > max) {
        return LS_FAIL(LS_E_USAGE, "--%s is '%s'; a whole number from %lld to %lld is needed", name,
                       value, min, max);
    }
    *out = n;
    return LS_OK;
}

ls_status ls_option_float(const char *name, const char *value, double min, double max,
                          double *out) {
    char *end;
    double x = strtod(value, &end);
    if (end == value || *end || !(x >= min && x <= max)) {
        return LS_FAIL(LS_E_USAGE, "--%s is '%s'; a number from %g to %g is needed", name, value,
                       min, max);
    }
    *out = x;
    return LS_OK;
}
