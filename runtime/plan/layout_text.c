/* Layouts as text, as --layout takes them and tables show them. */
#include "runtime/base/text.h"
#include "runtime/plan/cost.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const ls_plan_layout plain = {.tensor = 1,
                                     .context = 1,
                                     .shard = 1,
                                     .replicate = 1,
                                     .pipeline = 1,
                                     .interleave = 1,
                                     .expert = 1,
                                     .micro = 1,
                                     .zero = 1,
                                     .recompute = LS_REDO_NONE};

static const struct {
    const char *name;
    size_t offset;
    int max;
} members[] = {
#define MEMBER(name, max)                                                                          \
    { #name, offsetof(ls_plan_layout, name), max }
    MEMBER(pipeline, 1 << 20), MEMBER(interleave, 1 << 20), MEMBER(replicate, 1 << 24),
    MEMBER(shard, 1 << 24),    MEMBER(context, 1 << 20),    MEMBER(tensor, 1 << 20),
    MEMBER(expert, 1 << 20),   MEMBER(micro, 1 << 20),      MEMBER(zero, 3),
#undef MEMBER
};

enum { MEMBERS = sizeof members / sizeof members[0] };

static int *member(ls_plan_layout *layout, int i) {
    return (int *)((char *)layout + members[i].offset);
}

static ls_status set(const char *key, const char *value, ls_plan_layout *layout) {
    const char *names[MEMBERS + 1];
    for (int i = 0; i < MEMBERS; i++) {
        names[i] = members[i].name;
        if (strcmp(key, names[i]) != 0) {
            continue;
        }
        char *end;
        const long n = strtol(value, &end, 10);
        const int least = strcmp(key, "zero") != 0;
        if (end == value || *end || n < least || n > members[i].max) {
            return LS_FAIL(LS_E_USAGE,
                           "--layout: %s is '%s'; a whole number from %d to %d is needed", key,
                           value, least, members[i].max);
        }
        *member(layout, i) = (int)n;
        return LS_OK;
    }
    names[MEMBERS] = "recompute";
    if (strcmp(key, "recompute") != 0) {
        const char *near = ls_text_nearest(key, names, MEMBERS + 1);
        char list[160] = "";
        for (int i = 0; i <= MEMBERS; i++) {
            const size_t n = strlen(list);
            snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", names[i]);
        }
        return near ? LS_FAIL(LS_E_USAGE, "--layout: unknown '%s'; did you mean '%s'?", key, near)
                    : LS_FAIL(LS_E_USAGE, "--layout: unknown '%s'; there are %s", key, list);
    }
    for (int r = LS_REDO_NONE; r <= LS_REDO_FULL; r++) {
        if (strcmp(value, ls_redo_name(r)) == 0) {
            layout->recompute = r;
            return LS_OK;
        }
    }
    return LS_FAIL(LS_E_USAGE,
                   "--layout: recompute is '%s'; none, selective, alternate or full is needed",
                   value);
}

ls_status ls_plan_layout_parse(const char *text, ls_plan_layout *layout) {
    *layout = (ls_plan_layout){.zero = LS_OPEN, .recompute = LS_OPEN};
    char part[64];
    while (*text) {
        const size_t length = strcspn(text, ",");
        if (length >= sizeof part) {
            return LS_FAIL(LS_E_USAGE, "--layout: '%.40s...' is too long for 'axis=number'", text);
        }
        memcpy(part, text, length);
        part[length] = '\0';
        char *equals = strchr(part, '=');
        if (!equals) {
            return LS_FAIL(LS_E_USAGE, "--layout: '%s' is no 'axis=number', such as tensor=8",
                           part);
        }
        *equals = '\0';
        LS_TRY(set(part, equals + 1, layout));
        text += length + (text[length] == ',');
    }
    return LS_OK;
}

void ls_plan_layout_fill(ls_plan_layout *layout) {
    ls_plan_layout base = plain;
    for (int i = 0; i < MEMBERS; i++) {
        int *value = member(layout, i);
        *value = *value == 0 && member(layout, i) != &layout->zero ? *member(&base, i) : *value;
    }
    layout->zero = layout->zero == LS_OPEN ? plain.zero : layout->zero;
    layout->recompute = layout->recompute == LS_OPEN ? plain.recompute : layout->recompute;
}

char *ls_plan_layout_text(const ls_plan_layout *layout, char *buf, size_t size) {
    ls_plan_layout copy = *layout, base = plain;
    size_t used = 0;
    buf[0] = '\0';
    for (int i = 0; i < MEMBERS; i++) {
        if (*member(&copy, i) != *member(&base, i) && used < size) {
            used += (size_t)snprintf(buf + used, size - used, "%s%s=%d", used ? "," : "",
                                     members[i].name, *member(&copy, i));
        }
    }
    if (layout->recompute != LS_REDO_NONE && used < size) {
        snprintf(buf + used, size - used, "%srecompute=%s", used ? "," : "",
                 ls_redo_name(layout->recompute));
    }
    if (!buf[0]) {
        snprintf(buf, size, "micro=1");
    }
    return buf;
}
