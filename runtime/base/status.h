/* Status codes and the error record.
 *
 * Every function that can fail returns an ls_status. The first failure fills in one error record
 * for the calling thread (message, file, line, rank) with LS_FAIL; callers forward the code with
 * LS_TRY and leave the record alone. Only launch/ prints the record and exits. */
#ifndef LS_BASE_STATUS_H
#define LS_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>

/* X(code, exit status of the program, text) */
#define LS_STATUS_LIST(X)                                                                          \
    X(LS_OK, 0, "ok")                                                                              \
    X(LS_E_NO, 1, "the answer is no")                                                              \
    X(LS_E_CORRUPT, 1, "data is corrupt")                                                          \
    X(LS_E_DIVERGED, 1, "training diverged")                                                       \
    X(LS_E_USAGE, 2, "wrong use of the command line")                                              \
    X(LS_E_CONFIG, 2, "wrong configuration")                                                       \
    X(LS_E_INPUT, 2, "wrong input")                                                                \
    X(LS_E_SHAPE, 2, "sizes do not fit together")                                                  \
    X(LS_E_VERSION, 2, "unsupported version")                                                      \
    X(LS_E_EXISTS, 2, "already exists")                                                            \
    X(LS_E_UNSUPPORTED, 3, "not supported here")                                                   \
    X(LS_E_MEMORY, 3, "out of memory")                                                             \
    X(LS_E_IO, 3, "input or output failed")                                                        \
    X(LS_E_COMM, 3, "communication failed")                                                        \
    X(LS_E_DEVICE, 3, "device failed")                                                             \
    X(LS_E_STOPPED, 75, "stopped on request")

typedef enum ls_status {
#define X(code, exit_status, text) code,
    LS_STATUS_LIST(X)
#undef X
        LS_STATUS_COUNT
} ls_status;

typedef struct ls_error {
    ls_status code;
    int rank; /* -1 before the rank is known */
    int line;
    const char *file;
    char message[1024];
} ls_error;

/* Text and process exit status of a code. */
const char *ls_status_text(ls_status code);
int ls_status_exit(ls_status code);

/* The calling thread's last failure; code LS_OK when there was none. Owned by the library. */
const ls_error *ls_error_last(void);
void ls_error_clear(void);

/* Rank shown in errors and log lines; set once by launch/ after MPI_Init. */
void ls_error_set_rank(int rank);
int ls_error_rank(void);

/* Fills in the error record and returns code. Use through LS_FAIL. */
ls_status ls_error_set(ls_status code, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts back a record that was copied before other work, which may have failed in its turn; returns
 * its code. */
ls_status ls_error_restore(const ls_error *error);
/* The recorded failure under another code: whose fault it is, its caller may know better. */
ls_status ls_error_recode(ls_status code);

/* Puts "text: " before the recorded message, to say in what work the failure happened. */
ls_status ls_error_prefix(ls_status code, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* return LS_FAIL(LS_E_INPUT, "'%s' has %zu bytes; at least %zu are needed", path, n, min); */
#define LS_FAIL(code, ...) ls_error_set((code), __FILE__, __LINE__, __VA_ARGS__)

/* Forwards a failure to the caller. */
#define LS_TRY(call)                                                                               \
    do {                                                                                           \
        ls_status ls_try_status_ = (call);                                                         \
        if (ls_try_status_ != LS_OK) {                                                             \
            return ls_try_status_;                                                                 \
        }                                                                                          \
    } while (0)

/* Forwards a failure to a cleanup label; needs a local `ls_status status`. */
#define LS_TRY_GOTO(call, label)                                                                   \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != LS_OK) {                                                                     \
            goto label;                                                                            \
        }                                                                                          \
    } while (0)

#endif
