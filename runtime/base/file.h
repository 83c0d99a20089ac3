/* Checked file work: every return is looked at, every message names the path. LS_E_INPUT is a path
 * that the user got wrong (missing, a directory, not readable, too long), LS_E_IO a fault of the
 * machine. */
#ifndef LS_BASE_FILE_H
#define LS_BASE_FILE_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Reads a whole regular file of at most max_bytes; a NUL follows the data. Caller frees *data,
 * which is NULL after a failure. */
ls_status ls_file_read(const char *path, size_t max_bytes, char **data, size_t *bytes);

/* Writes to "path.tmp-PID", fsyncs, renames over path, fsyncs the directory. On failure path holds
 * what it held (or, when only the directory's fsync failed, the new data) and the temporary is
 * removed. */
ls_status ls_file_replace(const char *path, const void *data, size_t bytes);

/* Could it be written so? Makes the temporary and removes it; path is left alone. */
ls_status ls_file_replace_check(const char *path);

/* write() until done; EINTR and short writes handled. */
ls_status ls_file_write_all(int fd, const void *data, size_t bytes, const char *path);

/* A file of lines, open to append to them: what a process that was killed, or a full disk, has left
 * without its end is a line of its own. *fd is -1 after a failure. */
ls_status ls_file_open_lines(const char *path, int *fd);
/* Appends text and a newline, in one write. */
ls_status ls_file_append_line(const char *path, const char *text);

/* fsync of an existing file or directory. */
ls_status ls_file_sync(const char *path);
/* fsync of the directory that holds path, a slash at whose end counts for nothing. */
ls_status ls_file_sync_parent(const char *path);
/* Of an open one; path names it in messages. */
ls_status ls_file_sync_fd(int fd, const char *path);

/* mkdir -p. LS_E_IO names the part that failed. */
ls_status ls_dir_create(const char *path);
/* rm -r of a directory; missing is fine. Follows no symbolic link, and removes nothing when path is
 * one or a file (LS_E_INPUT). */
ls_status ls_dir_remove(const char *path);

bool ls_path_exists(const char *path);
bool ls_path_is_dir(const char *path);
/* "a/b"; LS_E_INPUT when longer than size. */
ls_status ls_path_join(char *out, size_t size, const char *a, const char *b);
/* Directory of the running executable ("/usr/local/bin"). */
ls_status ls_path_self_dir(char *out, size_t size);

#endif
