/* Memory of the process beside what was planned.
 *
 * It is the peak of the resident set, as `top` shows it, less what that counts of windows which
 * other ranks have too: summed over the ranks of a host it is what they take, but for code, which
 * each rank's figure and plan have alike. What a mixture of experts takes depends on what its
 * tokens choose: on a CPU the plan is that of an even choice, and the rest is reserved and becomes
 * memory only when tokens want it (the dry run tells how much it can be, a run's end how much it
 * was); a GPU's memory is all taken at the start. Of a GPU it is what training took, workspaces of
 * libraries included, and apart what cannot be planned, as measured: NCCL's buffers (more with each
 * group of ranks, link and channel), and what was taken before training, CUDA's context among it.
 */
#include "collectives/nccl/comm_nccl.h"
#include "launch/train.h"
#include "runtime/base/arena.h"

#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Whose code a run comes to sooner or later, nearly all of it; "" is the program. */
static bool is_wanted(const char *object) {
    static const char *const names[] = {"libm.so", "libhdf5", "libzstd"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strstr(object, names[i])) {
            return true;
        }
    }
    return object[0] == '\0';
}

/* A kernel before 5.14 refuses: then the code is found when it runs, and counts as training's. */
static int find_code(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    (void)context;
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    for (int i = 0; i < info->dlpi_phnum && is_wanted(info->dlpi_name); i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && part->p_flags & PF_X) {
            const uintptr_t at = info->dlpi_addr + part->p_vaddr, begin = at / page * page;
            (void)madvise((void *)begin, at + part->p_memsz - begin, MADV_POPULATE_READ);
        }
    }
    return 0;
}

/* oneDNN makes code, 5 MiB of it with its own, at the first of its products of a dtype. */
static ls_status first_product(ls_device *dev, ls_dtype dtype) {
    enum { N = 8 };
    float a[N * N] = {0}, b[N * N] = {0}, c[N * N]; /* or bf16 */
    const ls_gemm op = {.dtype = dtype,
                        .c_dtype = dtype,
                        .m = N,
                        .n = N,
                        .k = N,
                        .a = a,
                        .lda = N,
                        .b = b,
                        .ldb = N,
                        .c = c,
                        .ldc = N};
    return dev->ops->gemm(dev, &op);
}

/* Program, libraries, MPI and device: what there is before training takes anything. Pages of code
 * come into a process as it runs, which is no memory of training's: they are found before. */
ls_status ls_train_memory_begin(ls_train *train) {
    int64_t peak;
    ls_device *dev = train->session.dev;
    if (!dev->host_memory) {
        LS_TRY(dev->ops->free_bytes(dev, &train->memory.device_free_bytes));
        train->memory.device_nccl_bytes = ls_comm_nccl_bytes();
    }
    dl_iterate_phdr(find_code, NULL);
    if (dev->host_memory) {
        LS_TRY(first_product(dev, ls_session_dtype(train->config.numerics.compute, dev)));
    }
    return ls_memory_taken(&train->memory.program_bytes, &peak);
}

/* A GPU's memory is not the process's. */
int64_t ls_train_memory_planned(const ls_train *train) {
    const ls_layout_bytes *b = &train->planned;
    return train->memory.program_bytes + (int64_t)(train->session.dev->host_memory
                                                       ? ls_layout_process(b)
                                                       : b->saves + b->writing);
}

/* What tokens beyond an even share have made of the memory that is reserved for them. */
int64_t ls_train_memory_uneven(const ls_train *train) {
    size_t bytes = 0;
    for (int p = 0; p < train->layout.part_count; p++) {
        bytes += ls_model_memory(train->models[p]).uneven;
    }
    return (int64_t)bytes;
}

static double beyond_plan(const ls_memory_record *m) {
    return (double)m->peak_bytes / (double)(m->planned_bytes + m->uneven_bytes);
}

/* The rank that is furthest above its plan, or least below. */
static ls_memory_record worst_of(const ls_memory_record *all, int ranks) {
    ls_memory_record worst = all[0];
    for (int r = 1; r < ranks; r++) {
        worst = beyond_plan(&all[r]) > beyond_plan(&worst) ? all[r] : worst;
    }
    return worst;
}

static ls_status take_figures(ls_train *train, ls_memory_record *mine) {
    ls_device *dev = train->session.dev;
    int64_t now;
    mine->rank = train->session.comm->rank;
    mine->planned_bytes = ls_train_memory_planned(train);
    if (!train->has_saved) {
        mine->planned_bytes -= (int64_t)train->planned.writing;
    }
    mine->uneven_bytes = ls_train_memory_uneven(train);
    if (!dev->host_memory) {
        LS_TRY(dev->ops->free_bytes(dev, &now));
        const int64_t nccl_bytes = ls_comm_nccl_bytes(), before = mine->device_nccl_bytes;
        mine->device_bytes = mine->device_free_bytes - now - (nccl_bytes - before);
        mine->device_nccl_bytes = nccl_bytes;
        mine->device_foreign_bytes = (int64_t)dev->foreign_bytes;
        mine->device_planned_bytes =
            (int64_t)(ls_layout_total(&train->planned) + dev->scratch_bytes);
    }
    LS_TRY(ls_memory_taken(&now, &mine->peak_bytes));
    mine->others_bytes = ls_memory_others();
    return LS_OK;
}

ls_status ls_train_memory_end(ls_train *train) {
    ls_comm *comm = train->session.comm;
    ls_memory_record *mine = &train->memory, *all;
    LS_TRY(ls_session_agree(&train->session, take_figures(train, mine)));
    LS_TRY(ls_session_agree(&train->session, ls_calloc((size_t)comm->size, sizeof *all, &all)));
    const ls_status status = comm->ops->all_gather(comm, mine, all, sizeof *mine);
    if (status == LS_OK) {
        *mine = worst_of(all, comm->size);
    }
    free(all);
    return status;
}
