/* What a manifest's text must be before memory is spent on it. A hash that fits says that the text
 * is not damaged; it does not say who wrote it, hence the limits. */
#include "checkpoint/format.h"
#include "runtime/base/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BAD(...) LS_FAIL(LS_E_CORRUPT, __VA_ARGS__)

/* Text that any checkpoint may have: some 100,000 small tensors. */
#define MANIFEST_FREE ((int64_t)64 << 20)

/* Memory of the JSON library for an object, an array, and for what stands between two commas. A
 * manifest of ours takes 5 bytes for one of text; one of empty objects 100. */
enum {
    OBJECT_BYTES = 320,
    ARRAY_BYTES = 160,
    VALUE_BYTES = 48,
    TREE_FREE = 1 << 20,
    TREE_RATE = 16
};

ls_status ls_ckpt_version_check(int64_t major, int64_t minor) {
    return major == LS_CKPT_FORMAT_MAJOR
               ? LS_OK
               : LS_FAIL(
                     LS_E_VERSION,
                     "it has format version %lld.%lld; this program reads %d.x: use a newer one",
                     (long long)major, (long long)minor, LS_CKPT_FORMAT_MAJOR);
}

/* A later version may have its hash elsewhere; what it begins with stays. */
static ls_status version_peek(const char *text) {
    long long major, minor;
    static const char begin[] = "{\n\"format\": \"" LS_CKPT_FORMAT_NAME "\",\n\"major\": ";
    if (strncmp(text, begin, sizeof begin - 1) == 0 &&
        sscanf(text + sizeof begin - 1, "%9lld,\n\"minor\": %9lld,", &major, &minor) == 2) {
        return ls_ckpt_version_check(major, minor);
    }
    return LS_OK;
}

/* The text ends in "sha256": "<hash of what is before the digits>". */
static ls_status hash_check(const char *text, size_t bytes) {
    static const char before[] = "\n\"sha256\": \"", after[] = "\"\n}\n";
    const size_t tail = 64 + sizeof after - 1;
    if (bytes < tail + sizeof before - 1 ||
        memcmp(text + bytes - tail - (sizeof before - 1), before, sizeof before - 1) != 0 ||
        memcmp(text + bytes - (sizeof after - 1), after, sizeof after - 1) != 0) {
        LS_TRY(version_peek(text));
        return BAD("it does not end in its SHA-256: it is not complete");
    }
    ls_sha256 found;
    char hex[65];
    LS_TRY(ls_sha256_of(text, bytes - tail, &found));
    ls_sha256_hex(&found, hex);
    if (memcmp(text + bytes - tail, hex, 64) != 0) {
        LS_TRY(version_peek(text));
        return BAD("it was changed: its SHA-256 does not fit");
    }
    return LS_OK;
}

/* At most, of the tree that the JSON library makes; counts what stands inside strings, too. */
static ls_status tree_check(const char *text, size_t bytes) {
    uint64_t objects = 0, arrays = 0, values = 0;
    for (size_t i = 0; i < bytes; i++) {
        objects += text[i] == '{';
        arrays += text[i] == '[';
        values += text[i] == ',';
    }
    const uint64_t tree = OBJECT_BYTES * objects + ARRAY_BYTES * arrays + VALUE_BYTES * values;
    const uint64_t most = TREE_FREE + TREE_RATE * (uint64_t)bytes;
    return tree <= most ? LS_OK
                        : BAD("its %zu bytes would take %llu of memory, at most %llu are expected",
                              bytes, (unsigned long long)tree, (unsigned long long)most);
}

ls_status ls_ckpt_manifest_check(const char *text, size_t bytes) {
    LS_TRY(hash_check(text, bytes));
    return tree_check(text, bytes);
}

/* Bytes of all files of a directory but manifests. */
static int64_t data_bytes(const char *directory) {
    int64_t sum = 0;
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing && (entry = readdir(listing));) {
        struct stat info;
        if (strncmp(entry->d_name, "manifest", strlen("manifest")) != 0 &&
            fstatat(dirfd(listing), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(info.st_mode) && info.st_size <= INT64_MAX - sum) {
            sum += info.st_size;
        }
    }
    if (listing) {
        closedir(listing);
    }
    return sum;
}

ls_status ls_ckpt_manifest_read(const char *directory, const char *path, char **text,
                                size_t *bytes) {
    struct stat info;
    *text = NULL;
    if (stat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > MANIFEST_FREE) {
        const int64_t data = data_bytes(directory);
        if (info.st_size - MANIFEST_FREE > data) {
            return BAD("'%s' has %lld bytes; beside %lld bytes of data at most %lld are expected",
                       path, (long long)info.st_size, (long long)data,
                       (long long)(MANIFEST_FREE + data));
        }
    }
    return ls_file_read(path, LS_CKPT_MANIFEST_MAX, text, bytes);
}
