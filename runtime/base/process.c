#include "runtime/base/process.h"

#include "runtime/base/file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ls_status ls_process_start(int64_t pid, int64_t *start_ticks) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "re");
    if (!f) {
        return LS_FAIL(errno == ENOENT ? LS_E_NO : LS_E_IO, "cannot open '%s': %s", path,
                       strerror(errno));
    }
    size_t bytes = fread(text, 1, sizeof text - 1, f);
    bool read_failed = ferror(f);
    int error = errno;
    fclose(f);
    if (read_failed) { /* it ended in between */
        return LS_FAIL(error == ESRCH ? LS_E_NO : LS_E_IO, "cannot read '%s': %s", path,
                       strerror(error));
    }
    text[bytes] = '\0';
    const char *p = strrchr(text, ')'); /* the command's name may hold spaces */
    char state;
    long long ticks;
    /* After it: state and 18 numbers, then starttime. */
    if (!p || sscanf(p + 1,
                     " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
                     "%*d %lld",
                     &state, &ticks) != 2) {
        return LS_FAIL(LS_E_IO, "'%s' has an unknown form", path);
    }
    *start_ticks = ticks;
    return state == 'Z' || state == 'X' ? LS_FAIL(LS_E_NO, "process %lld has ended", (long long)pid)
                                        : LS_OK;
}

ls_status ls_process_boot(char *boot, size_t size) {
    char *text;
    size_t bytes;
    LS_TRY(ls_file_read("/proc/sys/kernel/random/boot_id", 256, &text, &bytes));
    snprintf(boot, size, "%.*s", (int)strcspn(text, "\n"), text);
    free(text);
    return LS_OK;
}
