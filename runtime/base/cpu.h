/* What this processor can do, found at run time; LOCKSTEP_ISA= lowers it. */
#ifndef LS_BASE_CPU_H
#define LS_BASE_CPU_H

#include "runtime/base/status.h"

#include <stddef.h>

/* Ordered: each x86 level includes those before it, and so does each Arm level.
 * X(code, name) */
#define LS_ISA_LIST(X)                                                                             \
    X(LS_ISA_GENERIC, "generic")         /* x86-64-v2, or Armv8-A with NEON */                     \
    X(LS_ISA_AVX2, "avx2")               /* x86-64-v3: AVX2, FMA, F16C */                          \
    X(LS_ISA_AVX512, "avx512")           /* x86-64-v4 */                                           \
    X(LS_ISA_AVX512_BF16, "avx512_bf16") /* v4 and AVX512-BF16 */                                  \
    X(LS_ISA_AMX_BF16, "amx_bf16")       /* and AMX tiles with BF16, granted by the kernel */      \
    X(LS_ISA_SVE, "sve")                 /* aarch64 with SVE */                                    \
    X(LS_ISA_SVE_BF16, "sve_bf16")       /* and BF16 */

typedef enum ls_isa {
#define X(code, name) code,
    LS_ISA_LIST(X)
#undef X
        LS_ISA_COUNT
} ls_isa;

/* The best level of this machine, or the lower one that LOCKSTEP_ISA names. LS_E_CONFIG when
 * LOCKSTEP_ISA is unknown or higher than the machine's. Decided once; thread-safe after that. */
ls_status ls_cpu_isa(ls_isa *isa);
const char *ls_isa_name(ls_isa isa);

/* True where bf16 matrix products run faster than fp32 ones at this level. */
int ls_isa_has_fast_bf16(ls_isa isa);

/* "AMD EPYC 7763 (avx2), 2 cores". Returns buf. */
char *ls_cpu_describe(char *buf, size_t size);

/* Processors that this process may run on: its affinity mask before OMP_PROC_BIND narrowed the
 * first thread's. */
int ls_cpu_available(void);
/* Lets the calling thread run on all of them: for threads beside the step, which else would inherit
 * the place of the thread that OMP_PROC_BIND bound first, and slow it. */
void ls_cpu_unbind_thread(void);
/* Processors of the machine that are online. */
int ls_cpu_online(void);

/* Processors' worth of time that the CPU quota of this process's cgroup (version 1 or 2) and of
 * those above it allow, rounded up, for all processes in there: what containers are limited to. 0:
 * there is none. More threads than that stand still together for most of each period. */
int ls_cpu_quota(void);
/* The same by other files: in the place of /proc/self/cgroup and of what is mounted at
 * /sys/fs/cgroup. */
int ls_cpu_quota_in(const char *cgroups, const char *mount);
/* Processors that a process alone in its cgroup can use: those available, or its quota. */
int ls_cpu_usable(void);

#endif
