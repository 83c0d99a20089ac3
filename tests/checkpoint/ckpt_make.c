/* ckpt_make ROOT STEP [LEVEL [BYTES]]: a checkpoint of the test tensors (those of at most BYTES),
 * for shell tests. */
#include "tests/checkpoint/ckpt_cases.h"

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "ckpt_make ROOT STEP [LEVEL [BYTES]]\n");
        return 2;
    }
    ls_comm *comm;
    ls_ckpt_tensor tensors[CASE_TENSORS], kept[CASE_TENSORS];
    int64_t most = argc > 4 ? atoll(argv[4]) : INT64_MAX;
    int count = 0;
    cases_make(tensors, CASE_TENSORS, 0, 1);
    for (int i = 0; i < CASE_TENSORS; i++) {
        int64_t bytes = ls_box_elems(&tensors[i].box) * (int64_t)ls_dtype_bytes(tensors[i].dtype);
        if (bytes <= most) {
            kept[count++] = tensors[i];
        }
    }
    CHECK_OK(ls_comm_self(&comm));
    CHECK_OK(case_save(comm, argv[1], atoll(argv[2]), argc > 3 ? atoi(argv[3]) : 1, 1, kept, count,
                       NULL));
    cases_free(tensors, CASE_TENSORS);
    comm->ops->destroy(comm);
    return test_end();
}
