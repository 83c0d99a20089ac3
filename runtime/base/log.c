#include "runtime/base/log.h"

#include "runtime/base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool quiet;
static bool progress_shown; /* the terminal's last line is a progress line */

static const char *const RED = "\033[31m", *const YELLOW = "\033[33m";

bool ls_log_tty(void) {
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) == 1 && term && strcmp(term, "dumb") != 0;
}

bool ls_log_color(void) {
    const char *no_color = getenv("NO_COLOR");
    return (!no_color || no_color[0] == '\0') && ls_log_tty();
}

int ls_log_columns(void) {
    struct winsize size;
    return ls_log_tty() && ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/* A line that is wider than the terminal could not be replaced: only its last row would be. */
static void cut_to_terminal(char *line) {
    const int columns = ls_log_columns();
    size_t bytes = strlen(line);
    if (columns > 1 && bytes >= (size_t)columns) {
        bytes = (size_t)columns - 1;
        while (bytes > 0 && ((unsigned char)line[bytes] & 0xc0) == 0x80) { /* inside of UTF-8 */
            bytes--;
        }
        line[bytes] = '\0';
    }
}

void ls_log_set_quiet(bool quiet_) {
    quiet = quiet_;
}

/* One line in one write, so that the lines of several ranks do not mix. A kind ("warning") comes
 * with the program's name, a colour and the rank. */
static void print_line(const char *kind, const char *color, const char *fmt, va_list args) {
    char line[2048];
    int n = 0;
    if (kind) {
        bool colored = ls_log_color();
        n = snprintf(line, sizeof line, "lockstep: %s%s:%s ", colored ? color : "", kind,
                     colored ? "\033[0m" : "");
        if (ls_error_rank() >= 0) {
            n += snprintf(line + n, sizeof line - (size_t)n, "[rank %d] ", ls_error_rank());
        }
    }
    vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, args); /* 1: room for the newline */
    strcat(line, "\n");
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s%s", progress_shown ? "\r\033[K" : "", line);
    fflush(stderr);
    progress_shown = false;
    pthread_mutex_unlock(&lock);
}

void ls_log_info(const char *fmt, ...) {
    if (quiet || ls_error_rank() > 0) {
        return;
    }
    va_list args;
    va_start(args, fmt);
    print_line(NULL, NULL, fmt, args);
    va_end(args);
}

void ls_log_warn(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    print_line("warning", YELLOW, fmt, args);
    va_end(args);
}

static void __attribute__((format(printf, 1, 2))) print_error(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    print_line("error", RED, fmt, args);
    va_end(args);
}

void ls_log_error(void) {
    const ls_error *e = ls_error_last();
    const char *message = e->message[0] ? e->message : ls_status_text(e->code);
    if (getenv("LOCKSTEP_DEBUG") && e->file) {
        print_error("%s (%s:%d)", message, e->file, e->line);
    } else {
        print_error("%s", message);
    }
}

void ls_log_progress(bool done, const char *fmt, ...) {
    bool tty = ls_log_tty();
    if (quiet || ls_error_rank() > 0 || (!tty && !done)) {
        return;
    }
    char line[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    if (!done) {
        cut_to_terminal(line);
    }
    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s%s%s", tty ? "\r\033[K" : "", line, done ? "\n" : "");
    fflush(stderr);
    progress_shown = !done;
    pthread_mutex_unlock(&lock);
}
