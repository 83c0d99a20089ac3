/* ckpt_make ROOT STEP [LEVEL]: a checkpoint of the test tensors, for
 * tests/checkpoint/ckpt_tools.sh. */
#include "tests/checkpoint/ckpt_cases.h"

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "ckpt_make ROOT STEP [LEVEL]\n");
        return 2;
    }
    ls_comm *comm;
    ls_ckpt_tensor tensors[CASE_TENSORS];
    cases_make(tensors, CASE_TENSORS, 0, 1);
    CHECK_OK(ls_comm_self(&comm));
    CHECK_OK(case_save(comm, argv[1], atoll(argv[2]), argc > 3 ? atoi(argv[3]) : 1, 1, tensors,
                       CASE_TENSORS, NULL));
    cases_free(tensors, CASE_TENSORS);
    comm->ops->destroy(comm);
    return test_end();
}
