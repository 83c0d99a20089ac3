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

static bool matches(const entry *e, const ls_param *param) {
    return e->pattern && fnmatch(e->pattern, param->name, 0) == 0;
}

/* Calls visit for each entry. */
typedef ls_status (*entry_fn)(const entry *e, const ls_param *params, int count, void *context);
static ls_status each_entry(const ls_config_optim *config, const ls_param *params, int count,
                            entry_fn visit, void *context) {
    char text[sizeof config->groups], *rest = NULL;
    memcpy(text, config->groups, sizeof text);
    for (char *part = strtok_r(text, ";", &rest); part; part = strtok_r(NULL, ";", &rest)) {
        entry e;
        LS_TRY(read_entry(part, config->groups, &e));
        LS_TRY(visit(&e, params, count, context));
    }
    return LS_OK;
}

static ls_status apply_entry(const entry *e, const ls_param *params, int count, void *context) {
    ls_optim_rule *rules = context;
    for (int i = 0; i < count; i++) {
        if (matches(e, &params[i])) {
            rules[i].lr_scale = isnan(e->lr_scale) ? rules[i].lr_scale : e->lr_scale;
            rules[i].weight_decay =
                isnan(e->weight_decay) ? rules[i].weight_decay : e->weight_decay;
        }
    }
    return LS_OK;
}

ls_status ls_optim_read_rules(const ls_optim_options *o, ls_optim_rule *rules) {
    for (int i = 0; i < o->param_count; i++) {
        rules[i] = (ls_optim_rule){
            .lr_scale = 1.0, .weight_decay = o->params[i].decay ? o->config->weight_decay : 0.0};
    }
    return each_entry(o->config, o->params, o->param_count, apply_entry, rules);
}

static ls_status check_entry(const entry *e, const ls_param *params, int count, void *context) {
    (void)context;
    bool found = !e->pattern;
    for (int i = 0; i < count && !found; i++) {
        found = matches(e, &params[i]);
    }
    return found ? LS_OK
                 : LS_FAIL(LS_E_CONFIG,
                           "optim.groups: '%s' matches no parameter; their names are such as '%s' "
                           "and '%s'",
                           e->pattern, params[0].name, params[count - 1].name);
}

ls_status ls_optim_check_groups(const ls_config_optim *config, const ls_param *params, int count) {
    return each_entry(config, params, count, check_entry, NULL);
}
