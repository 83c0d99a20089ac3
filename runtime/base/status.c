#include "runtime/base/status.h"

#include <stdio.h>
#include <string.h>

static _Thread_local ls_error last;
static int error_rank = -1;

const char *ls_status_text(ls_status code) {
    switch (code) {
#define X(name, exit_status, text)                                                                 \
    case name:                                                                                     \
        return text;
        LS_STATUS_LIST(X)
#undef X
    default:
        return "unknown status";
    }
}

int ls_status_exit(ls_status code) {
    switch (code) {
#define X(name, exit_status, text)                                                                 \
    case name:                                                                                     \
        return exit_status;
        LS_STATUS_LIST(X)
#undef X
    default:
        return 3;
    }
}

const ls_error *ls_error_last(void) {
    return &last;
}

void ls_error_clear(void) {
    last = (ls_error){.rank = error_rank};
}

void ls_error_set_rank(int rank) {
    error_rank = rank;
}

int ls_error_rank(void) {
    return error_rank;
}

ls_status ls_error_set(ls_status code, const char *file, int line, const char *fmt, ...) {
    char message[sizeof last.message]; /* the arguments may point into the record */
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    last.code = code;
    last.rank = error_rank;
    last.file = file;
    last.line = line;
    memcpy(last.message, message, sizeof message);
    return code;
}

ls_status ls_error_restore(const ls_error *error) {
    last = *error;
    return last.code;
}

ls_status ls_error_recode(ls_status code) {
    ls_error error = *ls_error_last();
    error.code = code;
    return ls_error_restore(&error);
}

ls_status ls_error_prefix(ls_status code, const char *fmt, ...) {
    char message[sizeof last.message];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used + 2 < sizeof message) { /* the recorded text is cut where the record ends */
        memcpy(message + used, ": ", 2);
        memcpy(message + used + 2, last.message, sizeof message - used - 2);
        message[sizeof message - 1] = '\0';
    }
    memcpy(last.message, message, sizeof message);
    return code;
}
