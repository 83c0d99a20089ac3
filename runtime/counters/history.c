#include "runtime/base/file.h"
#include "runtime/counters/counters.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The records are read from the end of the file: only what came after the checkpoint matters. */
typedef struct scan {
    int64_t step;
    double as_of_s, now_s;
    double next_s;        /* end of the record after this one; NAN: none yet */
    double next_begin_s;  /* and its beginning */
    int64_t next_restart; /* and its start */
    ls_history *out;
} scan;

/* Takes one record; false when it lies before what is asked for. */
static bool take(scan *s, const char *line, size_t bytes) {
    json_t *record = json_loadb(line, bytes, 0, NULL);
    double end_s = json_number_value(json_object_get(record, "time"));
    double seconds = json_number_value(json_object_get(record, "seconds"));
    int64_t step = ls_json_integer(record, "step");
    int64_t restart = ls_json_integer(record, "restarts");
    double usd = ls_json_number(record, "usd"), joules = ls_json_number(record, "measured_joules");
    json_decref(record);
    if (end_s <= 0.0 || end_s > s->now_s) {
        return true; /* torn, foreign, or of a clock that was wrong */
    }
    if (end_s <= s->as_of_s) {
        return false;
    }
    if (isnan(s->next_s)) {
        s->out->usd = usd;
        s->out->measured_joules = joules;
        s->out->down_s = s->out->silence_s = s->now_s - end_s;
    } else if (restart != s->next_restart) {
        s->out->down_s += fmax(0.0, s->next_begin_s - end_s);
    }
    if (step <= s->step) { /* the record of the checkpoint's own step: the end of its save */
        s->out->save_s = end_s - s->as_of_s;
        s->next_begin_s = s->as_of_s;
    } else {
        s->out->lost_steps++;
        s->out->lost_s += seconds;
        s->next_begin_s = end_s - seconds;
    }
    s->next_s = end_s;
    s->next_restart = restart;
    return true;
}

static void scan_lines(scan *s, const char *text, size_t bytes) {
    size_t end = bytes;
    while (end > 0) {
        const char *newline = memrchr(text, '\n', end);
        size_t begin = newline ? (size_t)(newline - text) + 1 : 0;
        if (end > begin && !take(s, text + begin, end - begin)) {
            break;
        }
        end = newline ? (size_t)(newline - text) : 0;
    }
    if (isnan(s->next_s)) {
        s->out->down_s = s->out->silence_s = fmax(0.0, s->now_s - s->as_of_s);
    } else if (s->next_begin_s > s->as_of_s) { /* a start that left no record of its beginning */
        s->out->down_s += s->next_begin_s - s->as_of_s;
    }
}

ls_status ls_history_since(const char *run_dir, int64_t step, double as_of_s, double now_s,
                           ls_history *history) {
    *history = (ls_history){.usd = NAN, .measured_joules = NAN};
    scan s = {.step = step, .as_of_s = as_of_s, .now_s = now_s, .next_s = NAN, .out = history};
    char path[1024];
    LS_TRY(ls_path_join(path, sizeof path, run_dir, "train.jsonl"));
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) {
        scan_lines(&s, "", 0);
        return LS_OK;
    }
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0) {
        ls_status status = LS_FAIL(LS_E_IO, "cannot read '%s': %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return status;
    }
    size_t bytes = (size_t)info.st_size;
    char *text = bytes > 0 ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    close(fd);
    if (text == MAP_FAILED) {
        return LS_FAIL(LS_E_IO, "cannot map '%s': %s", path, strerror(errno));
    }
    scan_lines(&s, text ? text : "", bytes);
    if (text) {
        munmap(text, bytes);
    }
    return LS_OK;
}
