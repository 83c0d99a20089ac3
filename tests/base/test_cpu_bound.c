/* Under OMP_PROC_BIND, which binds the first thread before main: all processors are still counted,
 * and a thread beside the step can leave the first one's place. */
#include "runtime/base/cpu.h"
#include "tests/test.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

static int allowed(void) {
    cpu_set_t set;
    CHECK_INT(sched_getaffinity(0, sizeof set, &set), 0);
    return CPU_COUNT(&set);
}

static void *beside(void *counts) {
    ((int *)counts)[0] = allowed();
    ls_cpu_unbind_thread();
    ((int *)counts)[1] = allowed();
    return NULL;
}

int main(void) {
    const int all = omp_get_num_procs();
    if (all < 2) {
        puts("skipped: one processor only");
        return 77;
    }
    CHECK_INT(allowed(), 1);
    CHECK_INT(ls_cpu_available(), all);
    pthread_t thread;
    int counts[2];
    CHECK_INT(pthread_create(&thread, NULL, beside, counts), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(counts[0], 1);
    CHECK_INT(counts[1], all);
    CHECK_INT(allowed(), 1);
    return test_end();
}
