/* What Open MPI is told before it begins, where nobody else has: neither the user (--mca,
 * OMPI_MCA_..., a file in the home directory) nor the administrator (a file of the system). A value
 * of ours in the environment would count more than theirs in a file, and of two that exclude each
 * other, such as btl_tcp_if_include and btl_tcp_if_exclude, Open MPI accepts none. */
#include "collectives/comm_mpi_impl.h"
#include "runtime/base/file.h"

#include <ctype.h>
#include <dlfcn.h>
#include <glob.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* Does a line "NAME = value" stand in text? */
static bool text_sets(const char *text, const char *name) {
    const size_t length = strlen(name);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        line += strspn(line, " \t\n");
        if (strncmp(line, name, length) == 0 &&
            line[length + strspn(line + length, " \t")] == '=') {
            return true;
        }
    }
    return false;
}

static bool file_sets(const char *path, const char *name) {
    char *text = NULL;
    size_t bytes = 0;
    const bool sets = ls_path_exists(path) && ls_file_read(path, 1 << 20, &text, &bytes) == LS_OK &&
                      text_sets(text, name);
    free(text);
    return sets;
}

static bool files_set(const char *pattern, const char *name) {
    glob_t found;
    bool sets = false;
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            sets = sets || file_sets(found.gl_pathv[i], name);
        }
        globfree(&found);
    }
    return sets;
}

/* Files of the user, of distributions (/etc/openmpi on Debian, /etc/openmpi-x86_64 on Red Hat) and
 * of an installation of its own (PREFIX/etc beside PREFIX/lib). */
static bool is_in_a_file(const char *name) {
    char path[4096];
    Dl_info library;
    const char *home = getenv("HOME"), *slash;
    const char *listed = getenv("OMPI_MCA_mca_base_param_files");
    if (listed) { /* instead of the others, separated by commas */
        for (const char *end; *listed; listed = *end ? end + 1 : end) {
            end = listed + strcspn(listed, ",");
            snprintf(path, sizeof path, "%.*s", (int)(end - listed), listed);
            if (file_sets(path, name)) {
                return true;
            }
        }
        return false;
    }
    snprintf(path, sizeof path, "%s/.openmpi/mca-params.conf", home ? home : "");
    if (file_sets(path, name) || files_set("/etc/openmpi*/openmpi-mca-params*.conf", name) ||
        files_set("/etc/openmpi-mca-params*.conf", name)) {
        return true;
    }
    if (dladdr((void *)(intptr_t)&MPI_Init, &library) && library.dli_fname &&
        (slash = strrchr(library.dli_fname, '/')) != NULL) {
        snprintf(path, sizeof path, "%.*s/../etc/openmpi-mca-params*.conf",
                 (int)(slash - library.dli_fname), library.dli_fname);
        return files_set(path, name);
    }
    return false;
}

static bool is_set(const char *name) {
    char variable[128];
    snprintf(variable, sizeof variable, "OMPI_MCA_%s", name);
    return getenv(variable) || is_in_a_file(name);
}

static void set_default(const char *name, const char *value) {
    char variable[128];
    snprintf(variable, sizeof variable, "OMPI_MCA_%s", name);
    if (!is_set(name)) {
        setenv(variable, value, 1);
    }
}

/* May this process read memory with process_vm_readv? A system call filter that forbids it for the
 * memory of others forbids it for its own. */
static bool may_copy_between_processes(void) {
    int from = 1, to = 0;
    const struct iovec local = {.iov_base = &to, .iov_len = sizeof to};
    const struct iovec remote = {.iov_base = &from, .iov_len = sizeof from};
    return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)sizeof to;
}

/* Has mpirun told that all ranks are on this host? */
static bool is_one_host(void) {
    const char *all = getenv("OMPI_COMM_WORLD_SIZE"), *here = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    return all && here && strcmp(all, here) == 0;
}

/* Over TCP, messages up to this long, such as the chunks that travel between hosts (comm_hier.c),
 * are sent as they come: by default those above 64 KiB wait until both sides have looked at the
 * library twice, while the link stands still. */
static void send_chunks_at_once(void) {
    static const char bytes[] = "327680";
    set_default("btl_tcp_eager_limit", bytes);
    set_default("btl_tcp_rndv_eager_limit", bytes);
    set_default("btl_tcp_max_send_size", bytes);
}

/* Interfaces that are up and have no link: Open MPI would wait for ever for what it sends there.
 * The value names its own default, too. */
static void leave_out_dead_links(void) {
    char names[1024] = "127.0.0.1/8,sppp";
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        const size_t used = strlen(names);
        if ((i->ifa_flags & (IFF_UP | IFF_RUNNING)) == IFF_UP && i->ifa_addr &&
            i->ifa_addr->sa_family == AF_INET && used + strlen(i->ifa_name) + 2 < sizeof names) {
            snprintf(names + used, sizeof names - used, ",%s", i->ifa_name);
            found = true;
        }
    }
    freeifaddrs(all);
    if (found && !is_set("btl_tcp_if_include")) {
        set_default("btl_tcp_if_exclude", names);
    }
}

/* Of hosts with addresses of both families Open MPI 5 may pair those that do not belong together:
 * ranks then cannot reach each other, or say so for each pair and go on through shared memory
 * (open-mpi/ompi issue 14079). Where there is IPv4 it is enough. */
static void leave_out_ipv6(void) {
#if OMPI_MAJOR_VERSION >= 5
    struct ifaddrs *all = NULL;
    bool found = false;
    if (getifaddrs(&all) != 0) {
        return;
    }
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        found = found || ((i->ifa_flags & (IFF_UP | IFF_LOOPBACK)) == IFF_UP && i->ifa_addr &&
                          i->ifa_addr->sa_family == AF_INET);
    }
    freeifaddrs(all);
    if (found) {
        set_default("btl_tcp_disable_family", "6");
    }
#endif
}

void ls_comm_mpi_set_defaults(void) {
    /* Waiting ranks spin. Where others want the processor too (threads of this or another rank),
     * yielding saves whole time slices; where nobody does, it is one system call for each turn. */
    set_default("mpi_yield_when_idle", "1");
    /* Looking for fabrics takes a fifth of a second; within a host, messages go through memory. */
    if (is_one_host() && !is_set("mtl")) {
        set_default("pml", "ob1");
    }
    if (!is_one_host()) {
        ls_comm_mpi_message_bytes = 256 << 10;
        send_chunks_at_once();
        leave_out_dead_links();
    }
    leave_out_ipv6();
    /* Without this, containers that forbid the call get a line "Read -1, expected ..." for each
     * message before the fallback takes over. The second is its name since Open MPI 5. */
    if (!may_copy_between_processes()) {
        set_default("btl_vader_single_copy_mechanism", "none");
        set_default("smsc", "^cma");
    }
}
