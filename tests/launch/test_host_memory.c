/* Limits of memory cgroups of both versions, from files of ours: what is free in each, with the
 * file pages that the kernel would drop. */
#include "launch/host_memory.h"

#include "runtime/base/file.h"
#include "tests/test.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[128];

static void put(const char *name, const char *text) {
    char path[320];
    snprintf(path, sizeof path, "%s/%s", root, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    CHECK_OK(ls_dir_create(path));
    *slash = '/';
    CHECK_OK(ls_file_replace(path, text, strlen(text)));
}

static int look(const char *cgroups, ls_memory_pool pools[LS_MEMORY_POOLS_MAX]) {
    char path[320], mount[320];
    put("cgroup", cgroups);
    snprintf(path, sizeof path, "%s/cgroup", root);
    snprintf(mount, sizeof mount, "%s/sys", root);
    return ls_memory_cgroups_in(path, mount, pools, LS_MEMORY_POOLS_MAX);
}

static void test_version_2(void) {
    ls_memory_pool pools[LS_MEMORY_POOLS_MAX];
    CHECK_INT(look("0::/a/b\n", pools), 0); /* nothing is there */
    put("sys/a/memory.max", "1000000\n");
    put("sys/a/memory.current", "900000\n");
    put("sys/a/b/memory.max", "max\n");
    put("sys/a/b/memory.current", "900000\n");
    CHECK_INT(look("0::/a/b\n", pools), 1); /* of the one above */
    CHECK_INT(pools[0].free_bytes, 100000);
    put("sys/a/memory.stat", "anon 1\nactive_file 7000\ninactive_file 50000\ninactive_anon 3\n");
    CHECK_INT(look("0::/a/b\n", pools), 1);
    CHECK_INT(pools[0].free_bytes, 150000); /* with what would be dropped */
    CHECK(strstr(pools[0].name, "the limit of cgroup ") == pools[0].name &&
          strstr(pools[0].name, "/sys/a") != NULL);
    put("sys/a/b/memory.max", "500000\n");
    CHECK_INT(look("0::/a/b\n", pools), 2);
    CHECK_INT(pools[0].free_bytes, 0); /* over its limit */
    CHECK(pools[0].id != pools[1].id && pools[1].id != 0);
    CHECK_INT(look("0::/a/elsewhere\n", pools), 1); /* of a container, which does not see it */
}

static void test_version_1(void) {
    ls_memory_pool pools[LS_MEMORY_POOLS_MAX];
    put("sys/memory/job/memory.limit_in_bytes", "2000000\n");
    put("sys/memory/job/memory.usage_in_bytes", "500000\n");
    put("sys/memory/job/memory.stat", "inactive_file 9\ntotal_inactive_file 1000\n");
    put("sys/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put("sys/memory/memory.usage_in_bytes", "500000\n");
    CHECK_INT(look("5:cpu,cpuacct:/x\n4:memory:/job\n", pools), 1);
    CHECK_INT(pools[0].free_bytes, 1501000);
    CHECK_INT(look("5:cpu,cpuacct:/job\n", pools), 0);
}

int main(void) {
    snprintf(root, sizeof root, "/tmp/ls-host-memory-%d", (int)getpid());
    test_version_2();
    test_version_1();
    CHECK_OK(ls_dir_remove(root));
    return test_end();
}
