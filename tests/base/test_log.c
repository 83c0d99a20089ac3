#include "runtime/base/log.h"
#include "tests/test.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int console; /* the test's own stderr */

/* From here to captured() stderr is a file. */
static void capture(void) {
    int fd = memfd_create("stderr", 0);
    CHECK(fd >= 0);
    fflush(stderr);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static const char *captured(void) {
    static char text[8192];
    fflush(stderr);
    ssize_t n = pread(STDERR_FILENO, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = '\0';
    dup2(console, STDERR_FILENO);
    return text;
}

static void say_all(void) {
    ls_log_info("step %d", 3);
    ls_log_warn("disk is %d%% full", 99);
    ls_log_progress(false, "half way");
    ls_log_progress(true, "done");
    LS_FAIL(LS_E_IO, "broken");
    ls_log_error();
}

static void test_ranks(void) {
    unsetenv("LOCKSTEP_DEBUG");
    capture();
    say_all();
    CHECK_STR(captured(), "step 3\nlockstep: warning: disk is 99% full\ndone\n"
                          "lockstep: error: broken\n");
    ls_error_set_rank(0);
    capture();
    ls_log_set_quiet(true);
    say_all();
    ls_log_set_quiet(false);
    CHECK_STR(captured(), "lockstep: warning: [rank 0] disk is 99% full\n"
                          "lockstep: error: [rank 0] broken\n");
    ls_error_set_rank(3);
    capture();
    say_all();
    CHECK_STR(captured(), "lockstep: warning: [rank 3] disk is 99% full\n"
                          "lockstep: error: [rank 3] broken\n");
}

static void test_debug_and_length(void) {
    setenv("LOCKSTEP_DEBUG", "1", 1);
    capture();
    LS_FAIL(LS_E_IO, "broken");
    int line = __LINE__ - 1;
    ls_log_error();
    const char *text = captured();
    char expected[64];
    snprintf(expected, sizeof expected, "test_log.c:%d)\n", line);
    CHECK(strstr(text, expected) != NULL);

    char *filler = malloc(5000);
    CHECK(filler != NULL);
    memset(filler, 'z', 4999);
    filler[4999] = '\0';
    capture();
    ls_log_warn("%s", filler);
    text = captured();
    size_t n = strlen(text);
    CHECK(n > 2000 && n < 2100 && text[n - 1] == '\n' && text[n - 2] == 'z');
    free(filler);
}

/* On a terminal progress replaces itself, and another line clears it first. */
static void test_terminal(void) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) {
        fprintf(stderr, "no pseudo-terminal here; its part of the test is left out\n");
        return;
    }
    int slave = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
    ls_error_set_rank(0);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    dup2(slave, STDERR_FILENO);
    bool tty = ls_log_tty(), color = ls_log_color();
    ls_log_progress(false, "half way");
    ls_log_info("fact");
    ls_log_warn("careful");
    setenv("NO_COLOR", "1", 1);
    bool no_color = ls_log_color();
    ls_log_progress(true, "done");
    /* As wide as the terminal, whose last column a cursor takes, and not through a character. */
    CHECK_INT(ioctl(slave, TIOCSWINSZ, &(struct winsize){.ws_row = 4, .ws_col = 10}), 0);
    CHECK_INT(ls_log_columns(), 10);
    ls_log_progress(false, "123456789");
    ls_log_progress(false, "1234567890");
    ls_log_progress(false, "12345678\xc3\xa9");
    ls_log_progress(true, "1234567890");
    ls_log_info("end");
    dup2(console, STDERR_FILENO);
    char text[512];
    size_t used = 0;
    struct pollfd ready = {.fd = terminal, .events = POLLIN};
    do { /* a terminal may hand out what was written in parts */
        ssize_t n = poll(&ready, 1, 5000) == 1 ? read(terminal, text + used, 511 - used) : 0;
        used += n > 0 ? (size_t)n : 0;
        text[used] = '\0';
        if (n <= 0) {
            break;
        }
    } while (!strstr(text, "end\r\n"));
    CHECK(tty && color && !no_color);
    CHECK_STR(text,
              "\r\033[Khalf way\r\033[Kfact\r\n"
              "lockstep: \033[33mwarning:\033[0m [rank 0] careful\r\n\r\033[Kdone\r\n"
              "\r\033[K123456789\r\033[K123456789\r\033[K12345678\r\033[K1234567890\r\nend\r\n");
    close(slave);
    close(terminal);
}

int main(void) {
    console = dup(STDERR_FILENO);
    test_ranks();
    test_debug_and_length();
    test_terminal();
    CHECK(!ls_log_color()); /* NO_COLOR is set now */
    return test_end();
}
