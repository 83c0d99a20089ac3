/* Parameter groups: rules by pattern of names. */
#include "optim/optim_internal.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FORM "'PATTERN lr=SCALE decay=VALUE; ...' with at least one of lr and decay"

typedef struct entry {
    const char *pattern;
    double lr_scale, weight_decay; /* NAN: not said */
} entry;

/* One entry, whose text is cut into words. */
static ls_status read_entry(char *text, const char *all, entry *out) {
    char *rest = NULL;
    *out = (entry){.pattern = strtok_r(text, " \t", &rest), .lr_scale = NAN, .weight_decay = NAN};
    for (char *word; out->pattern && (word = strtok_r(NULL, " \t", &rest));) {
        bool lr = strncmp(word, "lr=", 3) == 0, decay = strncmp(word, "decay=", 6) == 0;
        char *digits = strchr(word, '='), *end = NULL;
        double value = digits ? strtod(digits + 1, &end) : NAN;
        if ((!lr && !decay) || !end || end == digits + 1 || *end || !isfinite(value) || value < 0) {
            return LS_FAIL(LS_E_CONFIG,
                           "optim.groups: '%s' in '%s'; expected " FORM ", numbers not below 0",
                           word, all);
        }
        *(lr ? &out->lr_scale : &out->weight_decay) = value;
    }
    if (out->pattern && isnan(out->lr_scale) && isnan(out->weight_decay)) {
        return LS_FAIL(LS_E_CONFIG, "optim.groups: '%s' says nothing in '%s'; expected " FORM,
                       out->pattern, all);
    }
    return LS_OK;
}

static int apply_entry(const entry *e, const ls_optim_options *o, ls_optim_rule *rules) {
    int matched = 0;
    for (int i = 0; i < o->param_count; i++) {
        if (fnmatch(e->pattern, o->params[i].name, 0) == 0) {
            rules[i].lr_scale = isnan(e->lr_scale) ? rules[i].lr_scale : e->lr_scale;
            rules[i].weight_decay =
                isnan(e->weight_decay) ? rules[i].weight_decay : e->weight_decay;
            matched++;
        }
    }
    return matched;
}

ls_status ls_optim_read_rules(const ls_optim_options *o, ls_optim_rule *rules) {
    for (int i = 0; i < o->param_count; i++) {
        rules[i] = (ls_optim_rule){
            .lr_scale = 1.0, .weight_decay = o->params[i].decay ? o->config->weight_decay : 0.0};
    }
    const char *all = o->config->groups;
    char text[sizeof o->config->groups], *rest = NULL;
    memcpy(text, all, sizeof text);
    for (char *part = strtok_r(text, ";", &rest); part; part = strtok_r(NULL, ";", &rest)) {
        entry e;
        LS_TRY(read_entry(part, all, &e));
        bool whole_model = !o->pipeline || o->pipeline->size == 1;
        if (e.pattern && apply_entry(&e, o, rules) == 0 && whole_model) {
            return LS_FAIL(LS_E_CONFIG,
                           "optim.groups: '%s' matches no parameter; their names are such as '%s' "
                           "and '%s'",
                           e.pattern, o->params[0].name, o->params[o->param_count - 1].name);
        }
    }
    return LS_OK;
}
