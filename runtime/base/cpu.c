#include "runtime/base/cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

static const char *const names[LS_ISA_COUNT] = {
#define X(code, name) [code] = name,
    LS_ISA_LIST(X)
#undef X
};

const char *ls_isa_name(ls_isa isa) {
    return (unsigned)isa < LS_ISA_COUNT ? names[isa] : "unknown";
}

int ls_isa_has_fast_bf16(ls_isa isa) {
    return isa == LS_ISA_AVX512_BF16 || isa == LS_ISA_AMX_BF16 || isa == LS_ISA_SVE_BF16;
}

#if defined(__x86_64__)

#define FIRST_VECTOR_ISA LS_ISA_AVX2

/* What the kernel saves on a context switch. */
static uint64_t saved_state(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* Of the emulator in tests/amx, where it is linked in or preloaded: AMX's instructions work. */
extern int ls_amx_emulated(void) __attribute__((weak));

/* Tiles are 8 KiB of state a thread, which Linux (5.16 and later) grants on request only. */
static bool has_amx_bf16(void) {
    if (ls_amx_emulated && ls_amx_emulated()) {
        return true;
    }
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    enum { TILE_CONFIG = 17, TILE_DATA = 18, REQUEST_PERMISSION = 0x1023 };
    unsigned a, b, c, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & AMX_BF16) || !(d & AMX_TILE)) {
        return false;
    }
    /* Some virtual machines show the instructions without a palette: configuring tiles would end
     * the process (Intel SDM, CPUID leaf 1DH). */
    enum { TILE_PALETTES = 0x1d };
    if (!__get_cpuid_count(TILE_PALETTES, 0, &a, &b, &c, &d) || a < 1) {
        return false;
    }
    uint64_t tiles = 1ull << TILE_CONFIG | 1ull << TILE_DATA;
    return (saved_state() & tiles) == tiles &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static ls_isa best_isa(void) {
    enum { MOVBE = 1 << 22, F16C = 1 << 29, LZCNT = 1 << 5 };
    unsigned a, b, c = 0, c_extended = 0, d;
    __get_cpuid(1, &a, &b, &c, &d);
    __get_cpuid(0x80000001u, &a, &b, &c_extended, &d);
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
        !__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2") || !(c & F16C) ||
        !(c & MOVBE) || !(c_extended & LZCNT)) {
        return LS_ISA_GENERIC;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl")) {
        return LS_ISA_AVX2;
    }
    if (!__builtin_cpu_supports("avx512bf16")) {
        return LS_ISA_AVX512;
    }
    return has_amx_bf16() ? LS_ISA_AMX_BF16 : LS_ISA_AVX512_BF16;
}

#elif defined(__aarch64__)

#define FIRST_VECTOR_ISA LS_ISA_SVE

static ls_isa best_isa(void) {
    enum { SVE = 1 << 22, SVE_BF16 = 1 << 12, BF16 = 1 << 14 };
    unsigned long extended = getauxval(AT_HWCAP2);
    if (!(getauxval(AT_HWCAP) & SVE)) {
        return LS_ISA_GENERIC;
    }
    return (extended & SVE_BF16) && (extended & BF16) ? LS_ISA_SVE_BF16 : LS_ISA_SVE;
}

#else
#error "lockstep knows x86-64 and aarch64"
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static ls_isa best, chosen; /* chosen is LS_ISA_COUNT when LOCKSTEP_ISA is wrong */

static bool allowed(int isa) {
    return isa == LS_ISA_GENERIC || (isa >= (int)FIRST_VECTOR_ISA && isa <= (int)best);
}

static void choose(void) {
    best = best_isa();
    const char *wanted = getenv("LOCKSTEP_ISA");
    chosen = wanted && wanted[0] ? LS_ISA_COUNT : best;
    for (int i = 0; i < LS_ISA_COUNT && chosen == LS_ISA_COUNT; i++) {
        if (allowed(i) && strcmp(names[i], wanted) == 0) {
            chosen = (ls_isa)i;
        }
    }
}

ls_status ls_cpu_isa(ls_isa *isa) {
    pthread_once(&once, choose);
    *isa = chosen;
    if (chosen != LS_ISA_COUNT) {
        return LS_OK;
    }
    *isa = LS_ISA_GENERIC;
    char list[128] = "";
    for (int i = 0; i < LS_ISA_COUNT; i++) {
        if (allowed(i)) {
            size_t n = strlen(list);
            snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", names[i]);
        }
    }
    const char *wanted = getenv("LOCKSTEP_ISA");
    return LS_FAIL(LS_E_CONFIG, "LOCKSTEP_ISA is '%s'; this processor allows: %s",
                   wanted ? wanted : "", list);
}

/* The first value of a key in /proc/cpuinfo; false when there is none. */
static bool cpuinfo_value(const char *key, char *value, size_t size) {
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[512];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (colon && strncmp(line, key, strlen(key)) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(value, size, "%s", colon + 1 + strspn(colon + 1, " "));
            found = true;
        }
    }
    if (file) {
        fclose(file);
    }
    return found;
}

char *ls_cpu_describe(char *buf, size_t size) {
    char model[256], part[64];
    struct utsname machine;
    if (!cpuinfo_value("model name", model, sizeof model)) {
        uname(&machine);
        bool known = cpuinfo_value("CPU part", part, sizeof part);
        snprintf(model, sizeof model, "%s%s%s", machine.machine, known ? " part " : "",
                 known ? part : "");
    }
    ls_isa isa;
    bool valid = ls_cpu_isa(&isa) == LS_OK;
    int count = ls_cpu_available();
    snprintf(buf, size, "%s (%s), %d core%s", model,
             valid ? ls_isa_name(isa) : "LOCKSTEP_ISA is wrong", count, count == 1 ? "" : "s");
    return buf;
}

/* Of the OpenMP library, in programs that are linked with it: with OMP_PROC_BIND it has already
 * bound the first thread to a part of the processors, and knows how many there were. */
extern int omp_get_num_procs(void) __attribute__((weak));
extern int omp_get_num_places(void) __attribute__((weak));
extern int omp_get_place_num_procs(int place) __attribute__((weak));
extern void omp_get_place_proc_ids(int place, int *ids) __attribute__((weak));

static int affinity_count(void) {
    /* The kernel refuses a mask that is smaller than its own. */
    for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)capacity);
        size_t bytes = CPU_ALLOC_SIZE((size_t)capacity);
        int count = set && sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (count > 0) {
            return count;
        }
    }
    return ls_cpu_online();
}

int ls_cpu_available(void) {
    const char *bind = getenv("OMP_PROC_BIND"), *places = getenv("OMP_PLACES");
    const bool bound = omp_get_num_procs && ((bind && bind[0]) || (places && places[0]));
    const int mine = affinity_count(), of_openmp = bound ? omp_get_num_procs() : 0;
    return of_openmp > mine ? of_openmp : mine;
}

void ls_cpu_unbind_thread(void) {
    enum { LIMIT = 1 << 16 }; /* more than any kernel is built for */
    const int places = omp_get_num_places ? omp_get_num_places() : 0;
    cpu_set_t *set = places > 0 ? CPU_ALLOC(LIMIT) : NULL;
    int *ids = set ? malloc(LIMIT * sizeof *ids) : NULL;
    if (ids) {
        CPU_ZERO_S(CPU_ALLOC_SIZE(LIMIT), set);
        for (int place = 0; place < places; place++) {
            const int count = omp_get_place_num_procs(place);
            omp_get_place_proc_ids(place, ids);
            for (int i = 0; i < count; i++) {
                CPU_SET_S((size_t)ids[i], CPU_ALLOC_SIZE(LIMIT), set);
            }
        }
        (void)sched_setaffinity(0, CPU_ALLOC_SIZE(LIMIT), set); /* a wish: it costs speed only */
    }
    free(ids);
    CPU_FREE(set);
}

int ls_cpu_online(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}
