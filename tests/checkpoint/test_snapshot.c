/* Copies of the state that are made part by part, by two threads. */
#include "checkpoint/snapshot.h"
#include "tests/test.h"

#include <sched.h>

static void *complete_alone(void *snapshot) {
    ls_snapshot_complete(snapshot, 1);
    return NULL;
}

/* The copy is what was there at its beginning, however its parts are shared between the thread in
 * the background and the one that is about to change the values. */
static void test_copies(ls_comm *comm) {
    enum { ROUNDS = 100, BYTES = 5 << 20 };
    static uint8_t values[BYTES];
    ls_ckpt_tensor parts[4];
    ls_snapshot snapshot;
    int64_t first = 0, wrong = 0;
    for (int i = 0; i < 4; i++) { /* none of them begins or ends where a part does; one is empty */
        const int64_t elems = i == 1 ? 0 : i == 3 ? BYTES - first : 1500007;
        parts[i] = (ls_ckpt_tensor){
            .name = &"abcd"[i], .dtype = LS_U8, .ndim = 1, .dims = {BYTES}, .data = values + first};
        parts[i].box = (ls_box){.ndim = 1, .start = {first}, .extent = {elems}};
        first += elems;
    }
    CHECK_OK(ls_snapshot_create(&snapshot, comm, false, parts, 4));
    for (int i = 0; i < 4; i++) {
        CHECK((uintptr_t)snapshot.mine.tensors[i].data % 64 == 0);
    }
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t other;
        memset(values, round, sizeof values);
        CHECK_OK(ls_snapshot_begin(&snapshot, LS_OK, parts, 4, false));
        if (round == 0) { /* nothing is copied so far */
            CHECK(((uint8_t *)snapshot.mine.tensors[3].data)[7] == 0);
            memset(values, 7, sizeof values);
        }
        CHECK(pthread_create(&other, NULL, complete_alone, &snapshot) == 0);
        for (int pause = round % 10; pause > 0; pause--) {
            sched_yield();
        }
        ls_snapshot_complete(&snapshot, 2);
        memset(values, 0xee, sizeof values);
        for (int i = 0; i < 4; i++) {
            const uint8_t *copy = snapshot.mine.tensors[i].data;
            for (int64_t k = 0; k < parts[i].box.extent[0]; k++) {
                wrong += copy[k] != (round == 0 ? 7 : (uint8_t)round);
            }
        }
        pthread_join(other, NULL);
    }
    CHECK_INT(wrong, 0);
    ls_snapshot_release(&snapshot);
}

/* Other tensors than room was reserved for, in whatever they differ. */
static void test_others(ls_comm *comm) {
    float values[12] = {0};
    const ls_ckpt_tensor known = {.name = "a",
                                  .dtype = LS_F32,
                                  .ndim = 2,
                                  .dims = {3, 4},
                                  .box = {.ndim = 2, .start = {1, 0}, .extent = {1, 4}},
                                  .data = values};
    ls_snapshot snapshot;
    CHECK_OK(ls_snapshot_create(&snapshot, comm, false, &known, 1));
    for (int what = 0; what < 8; what++) {
        ls_ckpt_tensor t = known;
        t.name = what == 0 ? "b" : t.name;
        t.dtype = what == 1 ? LS_I32 : t.dtype;
        t.ndim -= what == 2;
        t.box.ndim -= what == 3;
        t.dims[1] += what == 4;
        t.box.start[0] += what == 5;
        t.box.extent[1] -= what == 6;
        CHECK_STATUS(ls_snapshot_begin(&snapshot, LS_OK, &t, 1 + (what == 7), false), LS_E_SHAPE);
        ls_snapshot_complete(&snapshot, 1);
    }
    CHECK_OK(ls_snapshot_begin(&snapshot, LS_OK, &known, 1, false));
    ls_snapshot_complete(&snapshot, 1);
    ls_snapshot_release(&snapshot);
}

int main(void) {
    ls_comm *comm = NULL;
    CHECK_OK(ls_comm_self(&comm));
    test_copies(comm);
    test_others(comm);
    comm->ops->destroy(comm);
    return test_end();
}
