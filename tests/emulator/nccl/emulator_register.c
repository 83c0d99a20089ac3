/* Memory of the emulated NCCL, and its registration with communicators. EMULATED_NCCL_MEMORY=no: it
 * has none, as where a container refuses memory that can be shared by handles. */
#include "tests/emulator/nccl/emulator_comm.h"

#include <stdlib.h>
#include <string.h>

/* Memory that is NCCL's and no other's to free. */
typedef struct taken {
    struct taken *next;
    void *memory;
} taken;
static taken *all_taken;

ncclResult_t ncclMemAlloc(void **memory, size_t bytes) {
    const char *wanted = getenv("EMULATED_NCCL_MEMORY");
    taken *t = malloc(sizeof *t);
    if (!t || (wanted && strcmp(wanted, "no") == 0) || cudaMalloc(memory, bytes) != cudaSuccess) {
        free(t);
        return ncclUnhandledCudaError;
    }
    *t = (taken){all_taken, *memory};
    all_taken = t;
    return ncclSuccess;
}

/* Registrations of memory with communicators; a place in the table is a handle. */
enum { REGISTERED_MAX = 256 };
static struct {
    void *memory; /* NULL: free */
    size_t bytes;
    ncclComm_t comm;
} registered[REGISTERED_MAX];

int emu_nccl_registrations(void) {
    int count = 0;
    for (int i = 0; i < REGISTERED_MAX; i++) {
        count += registered[i].memory != NULL;
    }
    return count;
}

static bool is_registered(const void *memory, const struct emu_nccl *comm) {
    for (int i = 0; i < REGISTERED_MAX; i++) {
        if (registered[i].memory &&
            (registered[i].memory == memory || registered[i].comm == comm)) {
            return true;
        }
    }
    return false;
}

void emu_nccl_check_unregistered(const void *memory, const struct emu_nccl *comm,
                                 const char *call) {
    if (is_registered(memory, comm)) {
        emu_report("%s before ncclCommDeregister of its memory", call);
    }
}

void emu_nccl_forget(const struct emu_nccl *comm) {
    for (int i = 0; i < REGISTERED_MAX; i++) {
        registered[i].memory = registered[i].comm == comm ? NULL : registered[i].memory;
    }
}

ncclResult_t ncclMemFree(void *memory) {
    taken **at = &all_taken;
    emu_nccl_check_unregistered(memory, NULL, "ncclMemFree");
    while (*at && (*at)->memory != memory) {
        at = &(*at)->next;
    }
    if (!*at) {
        emu_report("ncclMemFree of memory that is not NCCL's");
    }
    taken *next = (*at)->next;
    free(*at);
    *at = next;
    cudaFree(memory);
    return ncclSuccess;
}

ncclResult_t ncclCommRegister(ncclComm_t comm, void *memory, size_t bytes, void **handle) {
    emu_range range;
    int i = 0;
    emu_nccl_check_usable(comm, "ncclCommRegister");
    if (!emu_device_find(memory, &range) || range.bytes < bytes) {
        emu_report("ncclCommRegister of %zu bytes at %p, which is no allocation", bytes, memory);
    }
    while (i < REGISTERED_MAX && registered[i].memory) {
        if (registered[i].memory == memory && registered[i].comm == comm) {
            emu_report("ncclCommRegister of the same memory a second time");
        }
        i++;
    }
    if (i == REGISTERED_MAX) {
        return ncclSystemError;
    }
    registered[i].memory = memory;
    registered[i].bytes = bytes;
    registered[i].comm = comm;
    *handle = &registered[i];
    return ncclSuccess;
}

ncclResult_t ncclCommDeregister(ncclComm_t comm, void *handle) {
    for (int i = 0; i < REGISTERED_MAX; i++) {
        if (handle == &registered[i] && registered[i].memory && registered[i].comm == comm) {
            registered[i].memory = NULL;
            registered[i].comm = NULL;
            return ncclSuccess;
        }
    }
    emu_report("ncclCommDeregister of what is not registered with this communicator");
}

bool emu_nccl_knows(const struct emu_nccl *comm, const void *at) {
    for (int i = 0; i < REGISTERED_MAX; i++) {
        const char *memory = registered[i].memory;
        if (memory && registered[i].comm == comm && (const char *)at >= memory &&
            (const char *)at < memory + registered[i].bytes) {
            return true;
        }
    }
    return false;
}
