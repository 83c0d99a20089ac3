#include "runtime/base/cpu.h"
#include "tests/test.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

/* The level is decided once a process, so every question gets its own. Returns the level, or 100
 * for an error whose message contains `expected`. */
static int level_under(const char *isa, const char *expected) {
    pid_t child = fork();
    if (child == 0) {
        if (isa) {
            setenv("LOCKSTEP_ISA", isa, 1);
        } else {
            unsetenv("LOCKSTEP_ISA");
        }
        ls_isa level;
        ls_status status = ls_cpu_isa(&level);
        bool told = status == LS_E_CONFIG && strstr(ls_error_last()->message, expected);
        if (status != LS_OK && !told) {
            fprintf(stderr, "message is: %s\n", ls_error_last()->message);
        }
        bool same = ls_cpu_isa(&level) == status; /* and the second answer is the first */
        _exit(!same ? 102 : status == LS_OK ? (int)level : told ? 100 : 101);
    }
    int result = 0;
    CHECK_INT(waitpid(child, &result, 0), child);
    CHECK(WIFEXITED(result));
    return WEXITSTATUS(result);
}

static bool is_arm(int level) {
    return level == LS_ISA_SVE || level == LS_ISA_SVE_BF16;
}

static void test_isa(void) {
    int best = level_under(NULL, "");
    CHECK(best >= LS_ISA_GENERIC && best < LS_ISA_COUNT);
    CHECK_INT(level_under("", ""), best);
    CHECK_INT(level_under("avx3", "LOCKSTEP_ISA is 'avx3'; this processor allows: generic"), 100);
    bool arm = is_arm(best);
    for (int i = 0; i < LS_ISA_COUNT; i++) {
        bool same_kind = i == LS_ISA_GENERIC || is_arm(i) == arm;
        if (i <= best && same_kind) {
            CHECK_INT(level_under(ls_isa_name((ls_isa)i), ""), i);
        } else {
            CHECK_INT(level_under(ls_isa_name((ls_isa)i), ls_isa_name((ls_isa)best)), 100);
        }
    }
    CHECK_STR(ls_isa_name(LS_ISA_AMX_BF16), "amx_bf16");
    CHECK_STR(ls_isa_name(LS_ISA_COUNT), "unknown");
    CHECK(ls_isa_has_fast_bf16(LS_ISA_AMX_BF16) && ls_isa_has_fast_bf16(LS_ISA_AVX512_BF16));
    CHECK(!ls_isa_has_fast_bf16(LS_ISA_AVX2) && !ls_isa_has_fast_bf16(LS_ISA_AVX512));
}

static void test_processors(void) {
    char text[300];
    int all = ls_cpu_available();
    CHECK(all >= 1 && all <= ls_cpu_online());
    unsetenv("LOCKSTEP_ISA");
    ls_cpu_describe(text, sizeof text);
    CHECK(strstr(text, all == 1 ? "1 core" : " cores") != NULL);
    CHECK(text[0] != ' ' && text[0] != '(');

    cpu_set_t set, one;
    CHECK_INT(sched_getaffinity(0, sizeof set, &set), 0);
    int first = 0;
    while (!CPU_ISSET(first, &set)) {
        first++;
    }
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    CHECK_INT(sched_setaffinity(0, sizeof one, &one), 0);
    CHECK_INT(ls_cpu_available(), 1);
}

static void write_file(const char *dir, const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* A hierarchy of cgroups in a folder: a quota in one of them, in the one above, or in none. */
static void check_quota(const char *cgroups, const char *above, const char *own, const char *file,
                        const char *text, int expected) {
    char top[] = "/tmp/lockstep-cgroup-XXXXXX", path[200], command[300];
    CHECK(mkdtemp(top) != NULL);
    snprintf(command, sizeof command, "mkdir -p '%s/%s'", top, own);
    CHECK_INT(system(command), 0);
    write_file(top, "cgroup", cgroups);
    snprintf(path, sizeof path, "%s/%s", top, above);
    write_file(path, file, text);
    if (strcmp(file, "cpu.cfs_quota_us") == 0) {
        write_file(path, "cpu.cfs_period_us", "100000\n");
    }
    snprintf(path, sizeof path, "%s/cgroup", top);
    CHECK_INT(ls_cpu_quota_in(path, top), expected);
    snprintf(command, sizeof command, "rm -r '%s'", top);
    CHECK_INT(system(command), 0);
}

static void test_quota(void) {
    check_quota("0::/a/b\n", "a/b", "a/b", "cpu.max", "150000 100000\n", 2);
    check_quota("0::/a/b\n", "a", "a/b", "cpu.max", "400000 100000\n", 4);
    check_quota("0::/\n", "", "a/b", "cpu.max", "5000 100000\n", 1);
    check_quota("0::/a/b\n", "a/b", "a/b", "cpu.max", "max 100000\n", 0);
    check_quota("0::/host/path\n", "", "a", "cpu.max", "250000 50000\n", 5);
    check_quota("3:cpuset:/a\n4:cpu,cpuacct:/a\n0::/\n", "cpu,cpuacct/a", "cpu,cpuacct/a",
                "cpu.cfs_quota_us", "350000\n", 4);
    check_quota("4:cpu:/a\n", "cpu/a", "cpu/a", "cpu.cfs_quota_us", "-1\n", 0);
    check_quota("4:cpuacct:/a\n", "cpuacct/a", "cpuacct/a", "cpu.cfs_quota_us", "100000\n", 0);
    CHECK_INT(ls_cpu_quota_in("/no/such/file", "/no/such"), 0);
    CHECK(ls_cpu_usable() >= 1 && ls_cpu_usable() <= ls_cpu_available());
}

int main(void) {
    test_isa();
    test_quota();
    test_processors();
    return test_end();
}
