#include "launch/cmd.h"
#include "launch/docs.h"
#include "launch/session.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const ls_verb *const ls_verbs[] = {&ls_verb_train,  &ls_verb_prep, &ls_verb_ckpt,  &ls_verb_sample,
                                   &ls_verb_eval,   &ls_verb_plan, &ls_verb_bench, &ls_verb_cost,
                                   &ls_verb_doctor, NULL};

static const ls_verb *find_verb(const char *name) {
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        if (strcmp((*v)->name, name) == 0) {
            return *v;
        }
    }
    return NULL;
}

/* What is done by a verb of another name. */
static const struct {
    const char *name, *by;
} tasks[] = {{"resume", "train --resume"},
             {"finetune", "train run.init=CKPT"},
             {"generate", "sample"},
             {"export", "ckpt convert --to"},
             {"import", "ckpt convert --from"},
             {"convert", "ckpt convert"},
             {"ls", "ckpt ls"},
             {"show", "ckpt show"},
             {"diff", "ckpt diff"},
             {"verify", "ckpt verify"}};

static ls_status unknown_verb(const char *name) {
    const char *names[32];
    char hint[96];
    size_t count = 0;
    for (const ls_verb *const *v = ls_verbs; *v; v++) {
        names[count++] = (*v)->name;
    }
    ls_text_suggest(hint, sizeof hint, name, names, count);
    for (size_t i = 0; i < sizeof tasks / sizeof *tasks; i++) {
        if (strcmp(name, tasks[i].name) == 0) {
            snprintf(hint, sizeof hint, "; did you mean '%s'?", tasks[i].by);
        }
    }
    return LS_FAIL(LS_E_USAGE, "unknown verb '%s'; 'lockstep --help' lists them%s", name, hint);
}

static bool wants_help(int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

static ls_status run(int argc, char **argv) {
    if (argc < 2) {
        ls_docs_help(stderr);
        return LS_FAIL(LS_E_USAGE, "a verb is needed");
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        const ls_verb *verb = argc > 2 ? find_verb(argv[2]) : NULL;
        if (verb) {
            ls_docs_verb_help(stdout, verb);
        } else {
            ls_docs_help(stdout);
        }
        return LS_OK;
    }
    if (strcmp(word, "--version") == 0) {
        ls_docs_version(stdout);
        return LS_OK;
    }
    if (strcmp(word, "--man") == 0) {
        ls_docs_man(stdout);
        return LS_OK;
    }
    if (strcmp(word, "--completion") == 0) {
        ls_docs_completion(stdout);
        return LS_OK;
    }
    const ls_verb *verb = find_verb(word);
    if (!verb) {
        return unknown_verb(word);
    }
    if (wants_help(argc - 1, argv + 1)) {
        ls_docs_verb_help(stdout, verb);
        return LS_OK;
    }
    return verb->run(argc - 1, argv + 1);
}

/* A stream that the caller has closed would be the next file that is opened, and what is told would
 * be written into it. In its place is one that refuses, as a closed one does. */
static void keep_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
        }
    }
}

int main(int argc, char **argv) {
    keep_streams();
    signal(SIGXFSZ, SIG_IGN); /* a file beyond its limit is an error of write(), which tells it */
    ls_status status = run(argc, argv);
    const bool flushed = fflush(stdout) == 0;
    if ((!flushed || ferror(stdout)) && status == LS_OK) { /* or an earlier write has failed */
        status = LS_FAIL(LS_E_IO, "cannot write to standard output%s%s", flushed ? "" : ": ",
                         flushed ? "" : strerror(errno));
    }
    return ls_session_end(status);
}
