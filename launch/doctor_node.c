#include "checkpoint/prune.h"
#include "launch/doctor.h"
#include "launch/host_memory.h"
#include "runtime/base/clock.h"
#include "runtime/base/cpu.h"
#include "runtime/base/file.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define GIB 1073741824.0

void ls_findings_add(ls_findings *findings, const char *check, ls_verdict verdict, const char *fmt,
                     ...) {
    if (findings->count == LS_FINDINGS_MAX && verdict != LS_FAULT) {
        return;
    }
    findings->count -= findings->count == LS_FINDINGS_MAX; /* a fault in place of the last one */
    ls_finding *f = &findings->list[findings->count++];
    *f = (ls_finding){.verdict = verdict, .rank = ls_error_rank() < 0 ? 0 : ls_error_rank()};
    snprintf(f->check, sizeof f->check, "%s", check);
    gethostname(f->host, sizeof f->host - 1);
    va_list args;
    va_start(args, fmt);
    vsnprintf(f->text, sizeof f->text, fmt, args);
    va_end(args);
}

static void check_processor(ls_findings *findings) {
    char cpu[160];
    ls_isa isa;
    if (ls_cpu_isa(&isa) != LS_OK) {
        ls_findings_add(findings, "processor", LS_FAULT, "%s", ls_error_last()->message);
        return;
    }
    ls_findings_add(findings, "processor", LS_PASS, "%s, compute in %s",
                    ls_cpu_describe(cpu, sizeof cpu), ls_isa_has_fast_bf16(isa) ? "bf16" : "fp32");
}

static void check_memory(ls_findings *findings) {
    const double total = (double)ls_meminfo_bytes("MemTotal");
    const double available = (double)ls_meminfo_bytes("MemAvailable");
    ls_memory_pool pools[LS_MEMORY_POOLS_MAX], *least = pools;
    const int count = ls_memory_pools(pools);
    for (int i = 1; i < count; i++) {
        least = pools[i].free_bytes < least->free_bytes ? &pools[i] : least;
    }
    char a[32], b[32];
    ls_text_bytes(a, sizeof a, available);
    ls_text_bytes(b, sizeof b, total);
    if (count > 0 && (double)least->free_bytes < 0.5 * available) {
        char left[32];
        ls_text_bytes(left, sizeof left, (double)least->free_bytes);
        ls_findings_add(findings, "memory", LS_WARN,
                        "%s has %s free, of %s free on the host: ask for more (sbatch --mem=0, "
                        "docker run --memory)",
                        least->name, left, a);
    } else if (available < 0.5 * total) {
        ls_findings_add(findings, "memory", LS_WARN,
                        "%s of %s are free: something else runs here; find it with 'ps aux "
                        "--sort=-rss'",
                        a, b);
    } else {
        ls_findings_add(findings, "memory", LS_PASS, "%s of %s are free", a, b);
    }
}

static void check_shared_memory(ls_findings *findings) {
    struct statvfs fs;
    if (statvfs("/dev/shm", &fs) != 0) {
        ls_findings_add(findings, "shared memory", LS_FAULT,
                        "/dev/shm cannot be read (%s); mount a tmpfs there", strerror(errno));
        return;
    }
    double free_bytes = (double)fs.f_bavail * (double)fs.f_frsize;
    char text[32];
    ls_text_bytes(text, sizeof text, free_bytes);
    if (free_bytes < 1.0 * GIB) { /* without some MiB a rank nothing goes */
        ls_findings_add(findings, "shared memory", free_bytes < GIB / 16 ? LS_FAULT : LS_WARN,
                        "%s are free in /dev/shm, where ranks of a node exchange data; give "
                        "containers more (docker run --shm-size=8g), and remove what old jobs left",
                        text);
    } else {
        ls_findings_add(findings, "shared memory", LS_PASS, "%s are free in /dev/shm", text);
    }
}

static void check_limits(ls_findings *findings) {
    struct rlimit files, stack;
    getrlimit(RLIMIT_NOFILE, &files);
    getrlimit(RLIMIT_STACK, &stack);
    if (files.rlim_cur != RLIM_INFINITY && files.rlim_cur < 1024) {
        ls_findings_add(findings, "open files", LS_WARN,
                        "%llu files may be open at once; large jobs need 1024 and more: ulimit -n",
                        (unsigned long long)files.rlim_cur);
    } else {
        ls_findings_add(findings, "open files", LS_PASS, "%llu may be open at once",
                        (unsigned long long)files.rlim_cur);
    }
    if (stack.rlim_cur == RLIM_INFINITY) {
        ls_findings_add(findings, "stack", LS_WARN,
                        "the stack is unlimited, which crashes NCCL on many ranks (NVIDIA/nccl "
                        "issue 2186): ulimit -s 8192");
    } else {
        ls_findings_add(findings, "stack", LS_PASS, "%llu KiB",
                        (unsigned long long)stack.rlim_cur / 1024);
    }
}

const char *ls_doctor_plugin_path(void) {
    static char path[PATH_MAX];
    char self[PATH_MAX], relative[PATH_MAX];
    if (ls_path_self_dir(self, sizeof self) != LS_OK ||
        ls_path_join(relative, sizeof relative, self, "../lib/hdf5/plugins") != LS_OK ||
        !realpath(relative, path)) {
        return "lib/hdf5/plugins of this installation";
    }
    return path;
}

/* Nothing that training needs. */
static void check_plugin(ls_findings *findings) {
    if (ls_ckpt_plugin_found()) {
        ls_findings_add(findings, "hdf5 plugin", LS_PASS, "HDF5's tools can read the checkpoints");
    } else {
        ls_findings_add(findings, "hdf5 plugin", LS_PASS,
                        "lockstep needs none; for h5dump and h5py: export HDF5_PLUGIN_PATH='%s'",
                        ls_doctor_plugin_path());
    }
}

/* Seconds to write `bytes` and have them on the disk; < 0 after a failure. */
static double time_write(const char *dir, size_t bytes) {
    char path[1100];
    snprintf(path, sizeof path, "%s/.lockstep-doctor-XXXXXX", dir);
    int fd = mkstemp(path);
    if (fd < 0) {
        return -1.0;
    }
    unlink(path);
    char *data = malloc(bytes);
    double seconds = -1.0;
    if (data) {
        memset(data, 0x5a, bytes);
        uint64_t begin = ls_clock_ns();
        if (ls_file_write_all(fd, data, bytes, path) == LS_OK && fsync(fd) == 0) {
            seconds = 1e-9 * (double)(ls_clock_ns() - begin);
        }
    }
    free(data);
    close(fd);
    return seconds;
}

static void check_disk(ls_findings *findings, const char *dir) {
    struct statvfs fs;
    double small_s = time_write(dir, 4096), large_s = time_write(dir, 32u << 20);
    if (small_s < 0.0 || large_s < 0.0 || statvfs(dir, &fs) != 0) {
        ls_findings_add(findings, "disk", LS_FAULT,
                        "cannot write 32 MiB in '%s': %s; give a directory that can be written",
                        dir, strerror(errno));
        return;
    }
    double free_bytes = (double)fs.f_bavail * (double)fs.f_frsize;
    char space[32], latency[32];
    ls_text_bytes(space, sizeof space, free_bytes);
    ls_text_duration(latency, sizeof latency, small_s);
    double rate = (double)(32u << 20) / large_s;
    bool slow = small_s > 0.5 || rate < 20e6, full = free_bytes < 4.0 * GIB;
    ls_findings_add(findings, "disk", slow || full ? LS_WARN : LS_PASS,
                    "'%s': %s free, %.0f MB/s written and synced, a sync in %s%s%s", dir, space,
                    rate * 1e-6, latency,
                    full ? "; a checkpoint needs 12 bytes a parameter: make room" : "",
                    slow ? "; saves will be slow: choose another file system for run.dir" : "");
}

void ls_doctor_node(ls_findings *findings, const char *dir) {
    check_processor(findings);
    check_memory(findings);
    check_shared_memory(findings);
    check_limits(findings);
    check_plugin(findings);
    ls_doctor_gpus(findings);
    if (dir) {
        check_disk(findings, dir);
    } else {
        ls_findings_add(findings, "disk", LS_WARN,
                        "not examined: there is no directory 'runs' here; say where runs are to be "
                        "kept: --dir DIR");
    }
}
