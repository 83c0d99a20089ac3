/* In a container whose system call filter forbids copies between processes, large messages arrive
 * and nothing is printed. */
#include "collectives/comm.h"
#include "tests/collectives/pattern.h"
#include "tests/test.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool forbid_copies(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_writev, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof rules / sizeof *rules, .filter = rules};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void send_large(ls_comm *comm) {
    const int64_t bytes = 8 << 20;
    unsigned char *send = malloc((size_t)bytes), *recv = malloc((size_t)(bytes * comm->size));
    int64_t counts[8], offsets[8];
    for (int rank = 0; rank < comm->size; rank++) {
        counts[rank] = bytes;
        offsets[rank] = rank * bytes;
    }
    pattern_fill(send, 1, comm->rank, bytes);
    ls_comm_request *request = NULL;
    CHECK_OK(comm->ops->all_gather_start(comm, send, recv, counts, offsets, &request));
    CHECK_OK(comm->ops->wait(comm, request));
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK(pattern_holds(recv + rank * bytes, 1, rank, bytes));
    }
    free(send);
    free(recv);
}

int main(int argc, char **argv) {
    if (!forbid_copies()) {
        printf("skipped: no system call filters here\n");
        return 77;
    }
    FILE *printed = tmpfile();
    if (!printed) {
        printf("skipped: no temporary file\n");
        return 77;
    }
    int console = dup(STDERR_FILENO);
    dup2(fileno(printed), STDERR_FILENO);
    ls_comm *world = NULL;
    ls_status status = ls_comm_mpi_init(&argc, &argv, &world);
    if (status == LS_OK) {
        send_large(world);
    }
    ls_comm_mpi_finalize();
    fflush(stderr);
    dup2(console, STDERR_FILENO);
    CHECK_INT(status, LS_OK);
    char line[256] = "";
    rewind(printed);
    if (fgets(line, sizeof line, printed)) {
        TEST_FAIL_("printed: %s", line);
    }
    fclose(printed);
    return test_end();
}
