/* Large memory of a communicator's lies in huge pages where the kernel can; it is zero, one memory
 * for all ranks, and goes back as a whole. */
#include "collectives/comm.h"
#include "collectives/comm_shm.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25
#endif

enum { HUGE_BYTES = 2 << 20, BYTES = 12 * HUGE_BYTES + 777 };

/* Can this kernel give a process so many huge pages of shared memory, at this moment? */
static bool kernel_can(size_t pages) {
    const size_t bytes = pages * HUGE_BYTES;
    const int fd = memfd_create("lockstep-test", MFD_CLOEXEC);
    CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
    char *room = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *at = room + (HUGE_BYTES - (uintptr_t)room % HUGE_BYTES) % HUGE_BYTES;
    at = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    CHECK(at != MAP_FAILED);
    for (size_t i = 0; i < pages; i++) {
        at[i * HUGE_BYTES] = 0;
    }
    const bool can = madvise(at, bytes, MADV_COLLAPSE) == 0;
    munmap(room, bytes + HUGE_BYTES);
    close(fd);
    return can;
}

/* Of the mapping around `memory`: kB in huge pages of a file system in memory. */
static long huge_kb(const void *memory) {
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[4352];
    bool inside = false;
    long kb = -1;
    while (f && kb < 0 && fgets(line, sizeof line, f)) {
        unsigned long first, end;
        if (sscanf(line, "%lx-%lx ", &first, &end) == 2) {
            inside = first <= (uintptr_t)memory && (uintptr_t)memory < end;
        } else if (inside) {
            sscanf(line, "ShmemPmdMapped: %ld", &kb);
        }
    }
    if (f) {
        fclose(f);
    }
    return kb;
}

static int mappings(void) {
    FILE *f = fopen("/proc/self/maps", "r");
    char line[4352];
    int count = 0;
    while (f && fgets(line, sizeof line, f)) {
        count += strstr(line, "/dev/shm") != NULL;
    }
    if (f) {
        fclose(f);
    }
    return count;
}

static int64_t not(const unsigned char *at, int64_t n, int value) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        count += at[i] != value;
    }
    return count;
}

static void check(ls_comm *comm, ls_comm *mpi, bool common, bool can) {
    void *memory, *all;
    CHECK_OK(common ? comm->ops->alloc_common(comm, BYTES, &memory)
                    : comm->ops->alloc(comm, BYTES, &memory));
    CHECK_INT(not(memory, BYTES, 0), 0);
    const int64_t own = common ? BYTES / comm->size : BYTES;
    const long pages = (long)(own / HUGE_BYTES - 1);
    if (can) { /* unless memory has been broken up meanwhile */
        CHECK(huge_kb(memory) >= pages * HUGE_BYTES / 1024 || !kernel_can((size_t)pages));
    }
    CHECK_OK(mpi->ops->barrier(mpi)); /* all have looked */
    unsigned char *mine = (unsigned char *)memory + (common ? comm->rank * own : 0);
    memset(mine, 1 + comm->rank, (size_t)own);
    CHECK_OK(comm->ops->alloc(comm, comm->size * own, &all));
    CHECK_OK(comm->ops->all_gather(comm, mine, all, own)); /* read by the others */
    for (int rank = 0; rank < comm->size; rank++) {
        CHECK_INT(not((unsigned char *)all + rank * own, own, 1 + rank), 0);
        if (common) {
            CHECK_INT(not((unsigned char *)memory + rank * own, own, 1 + rank), 0);
        }
    }
    comm->ops->give_back(comm, all);
    comm->ops->give_back(comm, memory);
}

int main(int argc, char **argv) {
    ls_comm *world, *comm;
    CHECK_OK(ls_comm_mpi_init(&argc, &argv, &world));
    CHECK_OK(ls_comm_shm(world, &comm));
    const bool can = kernel_can(1) && world->size > 1; /* alone a rank has memory of malloc's */
    int before = 0;
    for (int round = 0; round < 3; round++) {
        check(comm, world, false, can);
        check(comm, world, true, can);
        before = round == 0 ? mappings() : before;
        CHECK_INT(mappings(), before); /* nothing stays */
    }
    comm->ops->destroy(comm);
    if (world->rank == 0 && world->size > 1 && !can) {
        printf("this kernel gives no huge pages of shared memory: small ones tested\n");
    }
    int status = test_end();
    ls_comm_mpi_finalize();
    return status;
}
