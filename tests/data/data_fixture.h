/* Temporary folders, files and small data directories for the tests of this area. */
#ifndef LS_TESTS_DATA_FIXTURE_H
#define LS_TESTS_DATA_FIXTURE_H

#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/data/prep.h"
#include "runtime/data/shard.h"
#include "tests/test.h"

static char fixture_dir[PATH_MAX];

/* A fresh folder; removed by fixture_end. Tests use paths below it. */
static inline void fixture_begin(void) {
    const char *base = getenv("TMPDIR");
    snprintf(fixture_dir, sizeof fixture_dir, "%s/lockstep-data-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(fixture_dir)) {
        perror("mkdtemp");
        exit(1);
    }
}

static inline int fixture_end(void) {
    CHECK_OK(ls_dir_remove(fixture_dir));
    return test_end();
}

/* "<fixture>/name", which stays valid. */
static inline const char *fixture_path(const char *name) {
    static char paths[128][PATH_MAX];
    char path[PATH_MAX];
    int i = 0;
    if (ls_path_join(path, sizeof path, fixture_dir, name) != LS_OK) {
        exit(1);
    }
    while (i < 127 && paths[i][0] && strcmp(paths[i], path) != 0) {
        i++;
    }
    return strcpy(paths[i], path);
}

/* ls_prep_run, after which nothing temporary is ever left in the fixture. */
static inline ls_status fixture_prep(const ls_prep_options *options, ls_prep_result *result) {
    ls_error_clear();
    ls_status status = ls_prep_run(options, result);
    DIR *folder = opendir(fixture_dir);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        CHECK(fnmatch("*.tmp-*", entry->d_name, 0) != 0);
    }
    closedir(folder);
    return status;
}

static inline void write_bytes(const char *path, const void *data, size_t bytes) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || ls_file_write_all(fd, data, bytes, path) != LS_OK) {
        perror(path);
        exit(1);
    }
    close(fd);
}

static inline void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

/* Caller frees. */
static inline char *read_bytes(const char *path, size_t *bytes) {
    char *data;
    if (ls_file_read(path, (size_t)1 << 30, &data, bytes) != LS_OK) {
        fprintf(stderr, "%s\n", ls_error_last()->message);
        exit(1);
    }
    return data;
}

/* Pseudorandom text without NUL, in lines. Caller frees. */
static inline char *random_text(uint64_t seed, size_t bytes) {
    char *text = malloc(bytes + 1);
    if (!text) {
        exit(1);
    }
    for (size_t i = 0; i < bytes; i++) {
        uint32_t r = ls_rng_draw(seed, 0, i).v[0];
        text[i] = (char)(r % 61 == 0 ? '\n' : 1 + r % 255);
    }
    text[bytes] = '\0';
    return text;
}

static inline ls_prep_options prep_defaults(const char *const *inputs, int count, const char *out) {
    return (ls_prep_options){.inputs = inputs,
                             .input_count = count,
                             .out_dir = out,
                             .jsonl_field = "text",
                             .val_fraction = 0,
                             .shard_tokens = 1 << 20};
}

/* A data directory whose train stream has exactly `tokens` tokens. */
static inline void make_data(const char *out, int64_t tokens, int64_t shard_tokens) {
    char *text = random_text((uint64_t)tokens, (size_t)tokens - 1);
    const char *input = fixture_path("make_data.txt");
    write_bytes(input, text, (size_t)tokens - 1);
    free(text);
    ls_prep_options options = prep_defaults(&input, 1, out);
    options.shard_tokens = shard_tokens;
    ls_prep_result result;
    CHECK_OK(ls_prep_run(&options, &result));
    CHECK_INT(result.train_tokens, tokens);
}

#endif
