/* Checks for tests: a failed check prints where and what, and the process exits with 1 at the end.
 */
#ifndef LS_TESTS_TEST_H
#define LS_TESTS_TEST_H

#include "runtime/base/status.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int test_failures;
static long test_checks;

#define TEST_FAIL_(...)                                                                            \
    do {                                                                                           \
        test_failures++;                                                                           \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, __func__);                              \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
    } while (0)

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        test_checks++;                                                                             \
        if (!(cond)) {                                                                             \
            TEST_FAIL_("not true: %s", #cond);                                                     \
        }                                                                                          \
    } while (0)

#define CHECK_INT(found, expected)                                                                 \
    do {                                                                                           \
        long long f_ = (long long)(found), e_ = (long long)(expected);                             \
        test_checks++;                                                                             \
        if (f_ != e_) {                                                                            \
            TEST_FAIL_("%s is %lld, expected %lld", #found, f_, e_);                               \
        }                                                                                          \
    } while (0)

#define CHECK_STR(found, expected)                                                                 \
    do {                                                                                           \
        const char *f_ = (found), *e_ = (expected);                                                \
        test_checks++;                                                                             \
        if (!f_ || strcmp(f_, e_) != 0) {                                                          \
            TEST_FAIL_("%s is \"%s\", expected \"%s\"", #found, f_ ? f_ : "(null)", e_);           \
        }                                                                                          \
    } while (0)

/* The message of the last error must contain text. */
#define CHECK_MESSAGE(text)                                                                        \
    do {                                                                                           \
        test_checks++;                                                                             \
        if (!strstr(ls_error_last()->message, (text))) {                                           \
            TEST_FAIL_("message \"%s\" lacks \"%s\"", ls_error_last()->message, (text));           \
        }                                                                                          \
    } while (0)

#define CHECK_STATUS(call, expected)                                                               \
    do {                                                                                           \
        ls_status s_ = (call);                                                                     \
        test_checks++;                                                                             \
        if (s_ != (expected)) {                                                                    \
            TEST_FAIL_("%s gave '%s' (%s), expected '%s'", #call, ls_status_text(s_),              \
                       ls_error_last()->message, ls_status_text(expected));                        \
        }                                                                                          \
    } while (0)

#define CHECK_OK(call) CHECK_STATUS(call, LS_OK)

/* |found - expected| <= abs + rel * |expected|; NaN never passes. */
#define CHECK_NEAR(found, expected, rel, abs_)                                                     \
    do {                                                                                           \
        double f_ = (found), e_ = (expected);                                                      \
        test_checks++;                                                                             \
        if (!(fabs(f_ - e_) <= (abs_) + (rel)*fabs(e_))) {                                         \
            TEST_FAIL_("%s is %.17g, expected %.17g", #found, f_, e_);                             \
        }                                                                                          \
    } while (0)

/* Each of the pieces stands in the text, behind the one before. */
static inline void check_order(const char *text, const char *const *pieces, size_t count) {
    const char *at = text;
    for (size_t i = 0; i < count && at; i++) {
        at = strstr(at, pieces[i]);
        if (!at) {
            fprintf(stderr, "no '%s' in its place in\n%s", pieces[i], text);
        }
        CHECK(at != NULL);
        at += at ? strlen(pieces[i]) : 0;
    }
}

/* Ends main. A test that checked nothing fails. */
static inline int test_end(void) {
    if (test_checks == 0) {
        fprintf(stderr, "no check was made\n");
        return 1;
    }
    if (test_failures) {
        fprintf(stderr, "%d of %ld checks failed\n", test_failures, test_checks);
        return 1;
    }
    return 0;
}

#endif
