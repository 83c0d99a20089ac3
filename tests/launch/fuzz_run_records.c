/* libFuzzer entry for the records of a run: ledger.json, starts.jsonl and train.jsonl, each after a
 * NUL but the first. Any bytes end in numbers or in an error. */
#include "launch/run_records.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise ends the process, which the driver reports. */
static void require(int condition) {
    if (!condition) {
        abort();
    }
}

static const char *const files[] = {"ledger.json", "starts.jsonl", "train.jsonl"};
enum { FILES = sizeof files / sizeof files[0] };
static char directory[64];

static const char *path_of(int file) {
    static char path[96];
    snprintf(path, sizeof path, "%s/%s", directory, files[file]);
    return path;
}

static void directory_remove(void) {
    for (int i = 0; i < FILES; i++) {
        unlink(path_of(i));
    }
    rmdir(directory);
}

static void file_write(int file, const uint8_t *data, size_t bytes) {
    int fd = open(path_of(file), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    require(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    close(fd);
}

static void read_back(void) {
    ls_run_records records;
    ls_history history;
    const ls_status status = ls_run_records_read(directory, &records);
    if (status == LS_OK) {
        require(records.step_count >= 0 && records.start_count >= 0);
        for (int64_t i = 1; i < records.step_count; i++) {
            require(records.steps[i - 1].step < records.steps[i].step);
        }
        ls_run_records_free(&records);
    } else {
        require(ls_error_last()->message[0]);
    }
    require(ls_history_since(directory, 3, 5.0, 100.0, &history) == LS_OK);
    require(history.lost_steps >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!directory[0]) {
        snprintf(directory, sizeof directory, "/dev/shm/lockstep-fuzz-XXXXXX");
        require(mkdtemp(directory) != NULL);
        atexit(directory_remove);
    }
    for (int i = 0; i < FILES; i++) {
        const uint8_t *end = size ? memchr(data, '\0', size) : NULL;
        const size_t bytes = end && i < FILES - 1 ? (size_t)(end - data) : size;
        file_write(i, data, bytes);
        data += bytes + (bytes < size);
        size -= bytes + (bytes < size);
    }
    read_back();
    return 0;
}
