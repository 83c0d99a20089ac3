/* Rates of prep, verification and the loader, beside what the kernel needs for the same files in
 * the same run.
 *
 *   bench_data [MIB [DIR]]    (MiB of text: 256; files are made and removed below DIR: /tmp)
 *
 * "plain copy" reads the text and writes twice its bytes (a token is 2 bytes), with 1 MiB calls and
 * one fsync: the least that prep can cost. Rates are MB (1e6) of source text per second of wall
 * time, and of processor time (user + system), which is the rate of one core; the fastest of three
 * rounds, whose parts take turns. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xxhash.h>

#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/rng.h"
#include "runtime/data/data.h"
#include "runtime/data/prep.h"

enum { ROUNDS = 3, COPY_BYTES = 1 << 20, LINE_BYTES = 4000 };

static char dir[PATH_MAX - 64];

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_data: %s\n", ls_error_last()->message);
        ls_dir_remove(dir);
        exit(ls_status_exit(status));
    }
}

static const char *path_of(const char *name) {
    static char paths[4][PATH_MAX];
    static int next;
    char *path = paths[next++ % 4];
    check(ls_path_join(path, PATH_MAX, dir, name));
    return path;
}

typedef struct timing {
    double wall_s, cpu_s; /* of the fastest round so far */
    double wall_begin_s, cpu_begin_s;
} timing;

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void timing_begin(timing *t) {
    t->wall_begin_s = 1e-9 * (double)ls_clock_ns();
    t->cpu_begin_s = cpu_seconds();
}

static void timing_end(timing *t) {
    double wall = 1e-9 * (double)ls_clock_ns() - t->wall_begin_s;
    double cpu = cpu_seconds() - t->cpu_begin_s;
    t->wall_s = t->wall_s == 0 || wall < t->wall_s ? wall : t->wall_s;
    t->cpu_s = t->cpu_s == 0 || cpu < t->cpu_s ? cpu : t->cpu_s;
}

static void print_rate(const char *name, const timing *t, double bytes) {
    printf("%-28s %8.0f MB/s %10.0f MB/s a core\n", name, 1e-6 * bytes / t->wall_s,
           1e-6 * bytes / t->cpu_s);
}

/* Letters in lines, as one text and as JSONL with a document a line. */
static void make_inputs(int64_t bytes) {
    int text = open(path_of("text.txt"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    int lines = open(path_of("lines.jsonl"), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    char line[LINE_BYTES + 32];
    const int head = sprintf(line, "{\"text\": \"");
    for (int64_t at = 0; at < bytes; at += LINE_BYTES) {
        for (int i = 0; i < LINE_BYTES; i += 4) {
            ls_rng_block block = ls_rng_draw(1, 0, (uint64_t)(at + i));
            for (int j = 0; j < 4; j++) {
                line[head + i + j] = (char)('a' + block.v[j] % 26);
            }
        }
        check(ls_file_write_all(text, line + head, LINE_BYTES, "text.txt"));
        memcpy(line + head + LINE_BYTES, "\"}\n", 3);
        check(ls_file_write_all(lines, line, (size_t)head + LINE_BYTES + 3, "lines.jsonl"));
    }
    close(text);
    close(lines);
}

static void copy_plainly(const char *from, const char *to) {
    char *chunk = malloc(COPY_BYTES);
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    for (ssize_t n; chunk && (n = read(in, chunk, COPY_BYTES)) > 0;) {
        check(ls_file_write_all(out, chunk, (size_t)n, to));
        check(ls_file_write_all(out, chunk, (size_t)n, to));
    }
    fsync(out);
    close(in);
    close(out);
    unlink(to);
    free(chunk);
}

static void run_prep(const char *input, const char *out, timing *t) {
    const ls_prep_options options = {.inputs = &input,
                                     .input_count = 1,
                                     .out_dir = out,
                                     .jsonl_field = "text",
                                     .val_fraction = 0.01,
                                     .shard_tokens = 1 << 27};
    ls_prep_result result;
    check(ls_dir_remove(out));
    timing_begin(t);
    check(ls_prep_run(&options, &result));
    timing_end(t);
}

static void bench_prep(double bytes) {
    timing copy = {0}, text = {0}, lines = {0};
    for (int round = 0; round < ROUNDS; round++) {
        timing_begin(&copy);
        copy_plainly(path_of("text.txt"), path_of("copy"));
        timing_end(&copy);
        run_prep(path_of("text.txt"), path_of("out"), &text);
        run_prep(path_of("lines.jsonl"), path_of("out-lines"), &lines);
    }
    print_rate("plain copy", &copy, bytes);
    print_rate("prep, text", &text, bytes);
    print_rate("prep, JSONL", &lines, bytes);
}

static void bench_open(void) {
    timing verify = {0}, hash = {0};
    ls_dataset *dataset;
    size_t size = 0;
    for (int round = 0; round < ROUNDS; round++) {
        timing_begin(&verify);
        check(ls_dataset_open(path_of("out"), LS_SPLIT_TRAIN, 1024, true, &dataset));
        timing_end(&verify);
        size = (size_t)ls_dataset_describe(dataset)->tokens * 2;
        ls_dataset_close(dataset);
        char *memory = malloc(size);
        if (!memory) {
            check(LS_FAIL(LS_E_MEMORY, "no memory for %zu bytes", size));
        }
        memset(memory, round + 1, size);
        timing_begin(&hash);
        volatile XXH64_hash_t kept = XXH3_64bits(memory, size);
        (void)kept;
        timing_end(&hash);
        free(memory);
    }
    print_rate("XXH3 in memory (tokens)", &hash, (double)size);
    print_rate("open with verification", &verify, (double)size);
}

/* work_ns: what the caller does with each micro-batch, here spinning. */
static void bench_loader(int64_t seq, uint64_t work_ns) {
    enum { MICRO = 4, BATCHES = 2000 };
    ls_dataset *dataset;
    ls_loader *loader;
    check(ls_dataset_open(path_of("out"), LS_SPLIT_TRAIN, seq, false, &dataset));
    const ls_loader_options options = {
        .dataset = dataset, .seed = 1, .batch = MICRO, .micro = MICRO, .rank_micros = 1};
    check(ls_loader_create(&options, &loader));
    uint64_t begin_ns = ls_clock_ns(), waited_ns = 0;
    for (int i = 0; i < BATCHES; i++) {
        const int32_t *tokens, *targets;
        uint64_t wait_ns;
        check(ls_loader_next(loader, &tokens, &targets, &wait_ns));
        waited_ns += wait_ns;
        for (uint64_t until = ls_clock_ns() + work_ns; work_ns && ls_clock_ns() < until;) {
        }
    }
    double seconds = 1e-9 * (double)(ls_clock_ns() - begin_ns);
    printf("loader, %d x %-5lld %4llu us work %8.1f M tokens/s %8.2f us wait a micro-batch\n",
           MICRO, (long long)seq, (unsigned long long)work_ns / 1000,
           1e-6 * (double)(BATCHES * MICRO * seq) / seconds, 1e-3 * (double)waited_ns / BATCHES);
    ls_loader_destroy(loader);
    ls_dataset_close(dataset);
}

int main(int argc, char **argv) {
    const int64_t mib = argc > 1 ? atoll(argv[1]) : 256;
    const int64_t bytes = (mib << 20) / LINE_BYTES * LINE_BYTES;
    if (bytes <= 0) {
        fprintf(stderr, "usage: bench_data [MIB [DIR]]\n");
        return 2;
    }
    snprintf(dir, sizeof dir, "%s/bench-data-XXXXXX", argc > 2 ? argv[2] : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        return 3;
    }
    ls_log_set_quiet(true);
    make_inputs(bytes);
    printf("%lld MiB of text below %s\n", (long long)mib, dir);
    bench_prep((double)bytes);
    bench_open();
    bench_loader(1024, 0);
    bench_loader(1024, 500000);
    bench_loader(8192, 0);
    check(ls_dir_remove(dir));
    return 0;
}
