#include "runtime/base/arena.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdint.h>

static const size_t sizes[] = {1, 64, 63, 65, 0, 4096, 100000, 7};
enum { PIECES = sizeof sizes / sizeof sizes[0] };

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define CHECK_POISONED(p, expected) CHECK_INT(__asan_address_is_poisoned(p), expected)
#else
#define CHECK_POISONED(p, expected) (void)(p)
#endif

static void take_all(ls_arena *arena, void *pieces[PIECES]) {
    for (int i = 0; i < PIECES; i++) {
        CHECK_OK(ls_arena_take(arena, sizes[i], &pieces[i]));
    }
}

static void test_planning_equals_real(void) {
    ls_arena plan, real;
    void *pieces[PIECES], *extra;
    ls_arena_init_planning(&plan, "plan");
    take_all(&plan, pieces);
    CHECK(pieces[0] == NULL && pieces[PIECES - 1] == NULL);

    CHECK_OK(ls_arena_init(&real, "activations", plan.used_bytes));
    take_all(&real, pieces);
    CHECK_INT(real.used_bytes, plan.used_bytes);
    CHECK_INT(real.used_bytes, real.capacity_bytes);
    for (int i = 0; i < PIECES; i++) {
        CHECK_INT((uintptr_t)pieces[i] % LS_ARENA_ALIGN, 0);
        if (i > 0) {
            CHECK((char *)pieces[i] >= (char *)pieces[i - 1] + sizes[i - 1]);
        }
        unsigned char sum = 0;
        for (size_t b = 0; b < sizes[i]; b++) {
            sum |= ((unsigned char *)pieces[i])[b];
        }
        CHECK_INT(sum, 0);
        memset(pieces[i], i + 1, sizes[i]);
        CHECK_POISONED((char *)pieces[i] + sizes[i], 1); /* what follows a piece is not readable */
    }
    for (int i = 0; i < PIECES; i++) { /* no piece overlaps another */
        for (size_t b = 0; b < sizes[i]; b++) {
            if (((unsigned char *)pieces[i])[b] != i + 1) {
                CHECK_INT(((unsigned char *)pieces[i])[b], i + 1);
                break;
            }
        }
    }
    CHECK_STATUS(ls_arena_take(&real, 1, &extra), LS_E_MEMORY);
    CHECK_MESSAGE("activations is full: 1 bytes wanted, 0 of");
    CHECK(extra == NULL);

    ls_arena_release(&real);
    CHECK(real.base == NULL && real.used_bytes == 0);
    ls_arena_release(&real); /* twice is safe */
}

static void test_limits(void) {
    ls_arena plan, real;
    void *piece;
    ls_arena_init_planning(&plan, "plan");
    CHECK_STATUS(ls_arena_take(&plan, SIZE_MAX - 10, &piece), LS_E_MEMORY);
    CHECK_INT(plan.used_bytes, 0);
    CHECK_OK(ls_arena_take(&plan, SIZE_MAX / 2, &piece));
    CHECK_STATUS(ls_arena_take(&plan, SIZE_MAX / 2 + 1, &piece), LS_E_MEMORY);

    CHECK_STATUS(ls_arena_init(&real, "parameters", (size_t)1 << 60), LS_E_MEMORY);
    CHECK_MESSAGE("parameters needs 1024 PiB; this machine has");
    ls_arena_release(&real);
    CHECK_OK(ls_arena_init(&real, "nothing", 0));
    ls_arena_release(&real);

    double *numbers;
    CHECK_OK(ls_calloc(3, sizeof *numbers, &numbers));
    CHECK(numbers[0] == 0 && numbers[2] == 0);
    free(numbers);
    CHECK_OK(ls_calloc(0, 8, &numbers));
    CHECK(numbers != NULL);
    free(numbers);
    CHECK_STATUS(ls_calloc(SIZE_MAX / 2, 8, &numbers), LS_E_MEMORY);
    CHECK(numbers == NULL);
}

static ls_status fails(int x) {
    return LS_FAIL(LS_E_SHAPE, "x is %d; %d is expected", x, 4);
}

static ls_status forwards(int x) {
    LS_TRY(fails(x));
    return LS_OK;
}

static void *in_thread(void *unused) {
    (void)unused;
    CHECK_INT(ls_error_last()->code, LS_OK); /* each thread has its record */
    LS_FAIL(LS_E_IO, "in a thread");
    return NULL;
}

static void test_error_record(void) {
    ls_error_clear();
    CHECK_STATUS(forwards(3), LS_E_SHAPE);
    CHECK_STR(ls_error_last()->message, "x is 3; 4 is expected");
    CHECK(strstr(ls_error_last()->file, "test_arena.c") != NULL);
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, in_thread, NULL), 0);
    pthread_join(thread, NULL);
    CHECK_STR(ls_error_last()->message, "x is 3; 4 is expected");
    CHECK_INT(ls_error_prefix(LS_E_SHAPE, "shard %d", 2), LS_E_SHAPE);
    CHECK_STR(ls_error_last()->message, "shard 2: x is 3; 4 is expected");
    LS_FAIL(LS_E_IO, "again: %s", ls_error_last()->message); /* the record feeds itself */
    CHECK_STR(ls_error_last()->message, "again: shard 2: x is 3; 4 is expected");

    char filler[2000];
    memset(filler, 'y', sizeof filler - 1);
    filler[sizeof filler - 1] = '\0';
    LS_FAIL(LS_E_IO, "%s", filler);
    CHECK_INT(strlen(ls_error_last()->message), sizeof ls_error_last()->message - 1);
    ls_error_prefix(LS_E_IO, "before");
    CHECK_INT(strncmp(ls_error_last()->message, "before: yyy", 11), 0);
    CHECK_INT(strlen(ls_error_last()->message), sizeof ls_error_last()->message - 1);
    ls_error_prefix(LS_E_IO, "%s", filler);
    CHECK_INT(strlen(ls_error_last()->message), sizeof ls_error_last()->message - 1);

    CHECK_INT(ls_status_exit(LS_OK), 0);
    CHECK_INT(ls_status_exit(LS_E_CORRUPT), 1);
    CHECK_INT(ls_status_exit(LS_E_CONFIG), 2);
    CHECK_INT(ls_status_exit(LS_E_IO), 3);
    CHECK_INT(ls_status_exit(LS_E_STOPPED), 75);
    CHECK_INT(ls_status_exit(LS_STATUS_COUNT), 3);
    CHECK_STR(ls_status_text(LS_STATUS_COUNT), "unknown status");
}

int main(void) {
    test_planning_equals_real();
    test_limits();
    test_error_record();
    return test_end();
}
