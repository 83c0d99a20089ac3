/* Rates of making tokens of text, by one thread and by all.
 *
 *   bench_tokenizer TOKENIZER.json TEXT [ROUNDS]      (3 rounds)
 *
 * MB (1e6) of text per second: one thread by its processor time, all threads by wall time; the
 * fastest round. tokenizer_peers.py runs it in turn with other libraries on the same text. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/data/tokenizer.h"

static void check(ls_status status) {
    if (status != LS_OK) {
        fprintf(stderr, "bench_tokenizer: %s\n", ls_error_last()->message);
        exit(ls_status_exit(status));
    }
}

static double thread_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static ls_status count(void *to, const uint32_t *tokens, size_t tokens_count, size_t text_bytes) {
    (void)tokens;
    (void)text_bytes;
    *(size_t *)to += tokens_count;
    return LS_OK;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER.json TEXT [ROUNDS]\n");
        return 2;
    }
    const int rounds = argc > 3 ? atoi(argv[3]) : 3;
    ls_tokenizer *tokenizer;
    ls_tokenizer_work *work;
    char *text;
    size_t bytes, all = 0;
    double one_s = 0, all_s = 0;
    ls_token_list list = {0};
    check(ls_tokenizer_read(argv[1], &tokenizer));
    check(ls_file_read(argv[2], (size_t)1 << 34, &text, &bytes));
    for (int i = 0; i < rounds; i++) {
        check(ls_tokenizer_work_make(tokenizer, &work));
        list.count = all = 0;
        const double begin_s = thread_seconds();
        check(ls_tokenizer_encode(work, text, bytes, &list));
        const double s = thread_seconds() - begin_s;
        one_s = i == 0 || s < one_s ? s : one_s;
        ls_tokenizer_work_release(work);
        const uint64_t begin_ns = ls_clock_ns();
        check(ls_tokenizer_encode_long(tokenizer, text, bytes, count, &all));
        const double wall_s = 1e-9 * (double)(ls_clock_ns() - begin_ns);
        all_s = i == 0 || wall_s < all_s ? wall_s : all_s;
    }
    printf("one thread %.1f MB/s, %d threads %.1f MB/s, %zu tokens, %.2f bytes a token\n",
           1e-6 * (double)bytes / one_s, omp_get_max_threads(), 1e-6 * (double)bytes / all_s,
           list.count, (double)bytes / (double)list.count);
    if (all != list.count) {
        fprintf(stderr, "bench_tokenizer: %zu tokens by all threads\n", all);
        return 1;
    }
    free(list.tokens);
    free(text);
    ls_tokenizer_release(tokenizer);
    return 0;
}
