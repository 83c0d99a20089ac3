#include "runtime/data/prep_sources.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <limits.h>
#include <poll.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/data/data_manifest.h"
#include "runtime/data/prep_output.h"

ls_status ls_prep_unreadable(const char *path) {
    const int error = errno;
    const bool users = error == ENOENT || error == ENOTDIR || error == EACCES || error == EPERM ||
                       error == ELOOP || error == ENAMETOOLONG;
    return LS_FAIL(users ? LS_E_INPUT : LS_E_IO, "input '%s' cannot be read: %s", path,
                   strerror(error));
}

typedef struct file_id {
    dev_t device;
    ino_t inode;
} file_id;

static int file_id_compare(const void *a, const void *b) {
    const file_id *x = a, *y = b;
    if (x->device != y->device) {
        return x->device < y->device ? -1 : 1;
    }
    return (x->inode > y->inode) - (x->inode < y->inode);
}

/* Remembers a file or folder; *first is false when it was there before. This is what ends loops of
 * symbolic links. */
static ls_status see(ls_prep_sources *sources, const struct stat *st, bool *first) {
    file_id *id;
    LS_TRY(ls_calloc(1, sizeof *id, &id));
    *id = (file_id){st->st_dev, st->st_ino};
    file_id **node = tsearch(id, &sources->seen, file_id_compare);
    *first = node && *node == id;
    if (!*first) {
        free(id);
    }
    return node ? LS_OK : LS_FAIL(LS_E_MEMORY, "no memory to list the inputs");
}

static ls_prep_kind kind_of(const char *path, int spool_fd, const ls_prep_options *options) {
    const char *dot = strrchr(path, '.');
    char first;
    if (spool_fd >= 0) {
        return pread(spool_fd, &first, 1, 0) == 1 && first == '{' ? LS_PREP_JSONL : LS_PREP_TEXT;
    }
    if (dot && strcmp(dot, ".jsonl") == 0) {
        return LS_PREP_JSONL;
    }
    return dot && strcmp(dot, ".bin") == 0 && options->vocab > 0 ? LS_PREP_PACKED : LS_PREP_TEXT;
}

static ls_status source_add(ls_prep_sources *sources, const char *path, int64_t bytes, int spool_fd,
                            const ls_prep_options *options) {
    if (sources->count == sources->capacity) {
        int64_t capacity = sources->capacity ? 2 * sources->capacity : 64;
        void *grown = realloc(sources->list, (size_t)capacity * sizeof *sources->list);
        if (!grown) {
            return LS_FAIL(LS_E_MEMORY, "no memory to list %lld inputs", (long long)capacity);
        }
        sources->list = grown;
        sources->capacity = capacity;
    }
    char *copy = strdup(path);
    if (!copy) {
        return LS_FAIL(LS_E_MEMORY, "no memory to list the inputs");
    }
    sources->list[sources->count++] = (ls_prep_source){.path = copy,
                                                       .bytes = bytes,
                                                       .spool_fd = spool_fd,
                                                       .kind = kind_of(path, spool_fd, options)};
    sources->bytes += bytes;
    return LS_OK;
}

static ls_status spool_copy(int from, int to, const char *name, const ls_prep_options *options,
                            int64_t *bytes) {
    enum { CHUNK_BYTES = 1 << 20, POLL_MS = 100 };
    char *chunk, size[32], copy[PATH_MAX + 32];
    snprintf(copy, sizeof copy, "the copy of %s beside %s", name, options->out_dir);
    LS_TRY(ls_calloc(CHUNK_BYTES, 1, &chunk));
    ls_status status = LS_OK;
    *bytes = 0;
    for (ssize_t n = 1; status == LS_OK && n != 0;) {
        if (options->stop && *options->stop) {
            status = LS_FAIL(LS_E_STOPPED, "stopped while reading %s", name);
            break;
        }
        /* Waits a little at a time: a signal between the look above and a read would be lost. */
        struct pollfd ready = {.fd = from, .events = POLLIN};
        int events = poll(&ready, 1, POLL_MS);
        if (events == 0 || (events < 0 && errno == EINTR)) {
            continue;
        }
        n = read(from, chunk, CHUNK_BYTES);
        if (n > 0) {
            status = ls_file_write_all(to, chunk, (size_t)n, copy);
            *bytes += n;
            ls_log_progress(false, "reading %s: %s", name,
                            ls_text_bytes(size, sizeof size, (double)*bytes));
        } else if (n < 0 && errno != EINTR) {
            status = ls_prep_unreadable(name);
        }
    }
    free(chunk);
    return status;
}

static ls_status stream_add(ls_prep_sources *sources, int fd, const char *name,
                            const ls_prep_options *options, const char *temp_dir) {
    int spool = open(temp_dir, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (spool < 0) { /* a file system without O_TMPFILE */
        char path[PATH_MAX];
        LS_TRY(ls_path_join(path, sizeof path, temp_dir, "stream"));
        spool = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (spool < 0) {
            return LS_FAIL(LS_E_IO, "cannot create '%s': %s", path, strerror(errno));
        }
        unlink(path);
    }
    int64_t bytes;
    ls_status status = spool_copy(fd, spool, name, options, &bytes);
    if (status == LS_OK) {
        status = source_add(sources, name, bytes, spool, options);
    }
    if (status != LS_OK) {
        close(spool);
    }
    return status;
}

/* True when one of the comma-separated patterns matches. */
static bool included(const char *patterns, const char *name) {
    char pattern[NAME_MAX + 1];
    for (const char *at = patterns; at && *at; at += strspn(at, ",")) {
        size_t length = strcspn(at, ",");
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, at);
        if (fnmatch(pattern, name, 0) == 0) {
            return true;
        }
        at += length;
    }
    return !patterns;
}

static int name_order(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int name_visible(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

static ls_status path_add(ls_prep_sources *sources, const char *path, bool named,
                          const ls_prep_options *options, const char *temp_dir);

/* Does an earlier prep's data lie here? Of a newer program's, too. */
static bool holds_data(const char *folder) {
    ls_data_manifest manifest;
    const ls_status status = ls_data_manifest_read(folder, &manifest);
    ls_data_manifest_release(&manifest);
    if (status != LS_OK) {
        ls_error_clear();
    }
    return status == LS_OK || status == LS_E_VERSION;
}

/* The path lies on the heap: folders may be nested some 2000 deep. */
static ls_status entry_add(ls_prep_sources *sources, const char *folder, const char *name,
                           const ls_prep_options *options, const char *temp_dir) {
    const size_t size = strlen(folder) + strlen(name) + 2;
    char *path;
    LS_TRY(ls_calloc(size, 1, &path));
    ls_status status = ls_path_join(path, size, folder, name);
    if (status == LS_OK) {
        status = path_add(sources, path, false, options, temp_dir);
    }
    free(path);
    return status;
}

static ls_status folder_add(ls_prep_sources *sources, const char *folder,
                            const ls_prep_options *options, const char *temp_dir) {
    struct dirent **entries;
    int count = scandir(folder, &entries, name_visible, name_order);
    if (count < 0) {
        return ls_prep_unreadable(folder);
    }
    const bool data = holds_data(folder);
    ls_status status = LS_OK;
    for (int i = 0; i < count; i++) {
        if (data && ls_prep_output_name(entries[i]->d_name)) {
            sources->prepared++;
        } else if (status == LS_OK) {
            status = entry_add(sources, folder, entries[i]->d_name, options, temp_dir);
        }
        free(entries[i]);
    }
    free(entries);
    return status;
}

static ls_status path_add(ls_prep_sources *sources, const char *path, bool named,
                          const ls_prep_options *options, const char *temp_dir) {
    struct stat st;
    if (options->stop && *options->stop) {
        return LS_FAIL(LS_E_STOPPED, "stopped while listing the inputs");
    }
    if (stat(path, &st) != 0) {
        if (!named && (errno == ENOENT || errno == ELOOP)) { /* a link to nothing */
            sources->other++;
            return LS_OK;
        }
        return ls_prep_unreadable(path);
    }
    const bool folder = S_ISDIR(st.st_mode);
    if (!folder && !S_ISREG(st.st_mode)) {
        if (!named) { /* a socket, a device */
            sources->other++;
            return LS_OK;
        }
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) {
            return ls_prep_unreadable(path);
        }
        ls_status status = stream_add(sources, fd, path, options, temp_dir);
        close(fd);
        return status;
    }
    const char *slash = strrchr(path, '/');
    if (!folder && !named && !included(options->include, slash ? slash + 1 : path)) {
        return LS_OK;
    }
    bool first;
    LS_TRY(see(sources, &st, &first));
    if (!first) {
        sources->duplicates += !folder;
        return LS_OK;
    }
    return folder ? folder_add(sources, path, options, temp_dir)
                  : source_add(sources, path, st.st_size, -1, options);
}

static int string_order(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static ls_status pattern_add(ls_prep_sources *sources, const char *pattern,
                             const ls_prep_options *options, const char *temp_dir) {
    glob_t found = {0};
    /* Sorted here, because glob sorts by the locale. */
    int result = glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, &found);
    ls_status status = LS_OK;
    if (result == GLOB_NOMATCH) {
        status = LS_FAIL(LS_E_INPUT, "no file matches input '%s'", pattern);
    } else if (result != 0) {
        status = ls_prep_unreadable(pattern);
    } else {
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, string_order);
    }
    for (size_t i = 0; status == LS_OK && i < found.gl_pathc; i++) {
        status = path_add(sources, found.gl_pathv[i], true, options, temp_dir);
    }
    globfree(&found);
    return status;
}

static ls_status input_add(ls_prep_sources *sources, const char *input,
                           const ls_prep_options *options, const char *temp_dir) {
    if (strcmp(input, "-") == 0) {
        return stream_add(sources, STDIN_FILENO, "standard input", options, temp_dir);
    }
    if (!ls_path_exists(input) && strpbrk(input, "*?[")) {
        return pattern_add(sources, input, options, temp_dir);
    }
    return path_add(sources, input, true, options, temp_dir);
}

ls_status ls_prep_sources_init(ls_prep_sources *sources, const ls_prep_options *options,
                               const char *temp_dir) {
    *sources = (ls_prep_sources){0};
    const char *const own[] = {temp_dir, options->out_dir};
    for (int i = 0; i < 2; i++) {
        struct stat st;
        bool first;
        if (stat(own[i], &st) == 0) {
            LS_TRY(see(sources, &st, &first));
        }
    }
    for (int i = 0; i < options->input_count; i++) {
        LS_TRY(input_add(sources, options->inputs[i], options, temp_dir));
    }
    return LS_OK;
}

void ls_prep_sources_release(ls_prep_sources *sources) {
    for (int64_t i = 0; i < sources->count; i++) {
        if (sources->list[i].spool_fd >= 0) {
            close(sources->list[i].spool_fd);
        }
        free(sources->list[i].path);
    }
    free(sources->list);
    tdestroy(sources->seen, free);
    *sources = (ls_prep_sources){0};
}
