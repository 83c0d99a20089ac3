/* Memory that a training step takes: none. */
#include "tests/step/trainer.h"

#include <stdatomic.h>
#include <sys/resource.h>

#define WIDE_SEQ 64

/* Products of this one are large enough for the packed kernels. */
static const ls_config_model wide_config = {.family = LS_FAMILY_GPT2,
                                            .vocab = 257,
                                            .vocab_multiple = 64,
                                            .layers = 2,
                                            .channels = 128,
                                            .heads = 2,
                                            .kv_heads = 2,
                                            .head_dim = 64,
                                            .ffn = 512,
                                            .context = WIDE_SEQ,
                                            .tied = true,
                                            .norm_eps = 1e-5,
                                            .init_std = 0.1};

/* What the process asks of its allocator, while it is counted. The C library's own functions are
 * called, which the sanitizers would not see. */
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) &&       \
    !defined(__clang__)
#define COUNTS_ALLOCATIONS true
#define COUNTED            __attribute__((visibility("default")))

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t align, size_t bytes);

static atomic_bool counting;
static atomic_int allocations;

static void count_allocation(void) {
    allocations += counting;
}

COUNTED void *malloc(size_t bytes) {
    count_allocation();
    return __libc_malloc(bytes);
}

COUNTED void *calloc(size_t count, size_t bytes) {
    count_allocation();
    return __libc_calloc(count, bytes);
}

COUNTED void *realloc(void *old, size_t bytes) {
    count_allocation();
    return __libc_realloc(old, bytes);
}

COUNTED void *aligned_alloc(size_t align, size_t bytes) {
    count_allocation();
    return __libc_memalign(align, bytes);
}
#else
#define COUNTS_ALLOCATIONS false
static atomic_bool counting;
static atomic_int allocations;
#endif

/* An allocation of a library that the program is linked to. */
static void check_counts(void) {
    counting = true;
    free(strdup("counted"));
    counting = false;
    CHECK_INT(allocations, 1);
    allocations = 0;
}

/* Of the threads that compute. The loader's has some for each batch: it lets the pages of the token
 * shards go that it has read. */
static long page_faults(int threads) {
    long faults = 0;
    int counted = 0;
#pragma omp parallel num_threads(threads) reduction(+ : faults, counted)
    {
        struct rusage usage;
        counted += getrusage(RUSAGE_THREAD, &usage) == 0;
        faults += usage.ru_minflt + usage.ru_majflt;
    }
    CHECK_INT(counted, threads);
    return faults;
}

/* Once a few steps have gone by, a step takes no memory: neither from the allocator nor, by
 * touching pages that are new, from the kernel. */
static void check_takes_nothing(ls_comm *self, const char *dir, ls_dtype dtype) {
    enum { WARM_UP = 4 };
    const setting how = {&wide_config, WIDE_SEQ, dtype, 2};
    ls_dataset *data;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, how.seq, true, &data));
    check_counts();
    trainer t = start_with(&how, self, data, LS_REDUCTION_FAST, 0, 8, 4, 0);
    int64_t step = 0;
    while (step < WARM_UP) {
        train_step(&t, step++);
    }
    const long faults = page_faults(how.threads);
    counting = true;
    while (step < WARM_UP + STEPS) {
        train_step(&t, step++);
    }
    counting = false;
    CHECK_INT(page_faults(how.threads) - faults, 0);
    CHECK_INT(allocations, 0);
    stop(&t);
    ls_dataset_close(data);
}

int main(void) {
    ls_comm *self;
    char dir[64] = "", out[128];
    if (!COUNTS_ALLOCATIONS) {
        puts("skipped: sanitizers take memory of their own");
        return 77;
    }
    CHECK_OK(ls_comm_self(&self));
    make_data(self, dir, sizeof dir);
    snprintf(out, sizeof out, "%s/data", dir);
    check_takes_nothing(self, out, LS_F32);
    check_takes_nothing(self, out, LS_BF16);
    CHECK_OK(ls_dir_remove(dir));
    self->ops->destroy(self);
    return test_end();
}
