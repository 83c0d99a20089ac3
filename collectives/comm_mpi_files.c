/* What Open MPI leaves in shared memory when a job ends without MPI_Finalize: each rank's segment
 * for messages within the host, megabytes until the next start of the machine. */
#include "collectives/comm.h"

#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

static bool begins_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Of a line of /proc/PID/maps: "ADDRESSES RIGHTS OFFSET DEVICE INODE   PATH". */
static void remove_segment(const char *line) {
    const char *path = strchr(line, '/'), *name = path ? strrchr(path, '/') + 1 : NULL;
    if (name && (begins_with(name, "vader_segment.") || begins_with(name, "sm_segment."))) {
        unlink(path);
    }
}

/* In handlers of signals, too: nothing here takes memory or a lock. */
void ls_comm_mpi_remove_files(void) {
    char text[8192];
    size_t used = 0;
    ssize_t n;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && (n = read(fd, text + used, sizeof text - 1 - used)) > 0) {
        char *line = text, *end;
        text[used + (size_t)n] = '\0';
        for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            *end = '\0';
            remove_segment(line);
        }
        used = strlen(line);
        memmove(text, line, used);
    }
    if (fd >= 0) {
        close(fd);
    }
}
