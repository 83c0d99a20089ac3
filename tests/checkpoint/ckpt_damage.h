/* Ways to damage a checkpoint, and to hide the damage behind right hashes. */
#ifndef LS_TESTS_CKPT_DAMAGE_H
#define LS_TESTS_CKPT_DAMAGE_H

#include "checkpoint/format.h"
#include "runtime/base/file.h"
#include "tests/test.h"

#include <fcntl.h>
#include <unistd.h>

/* dir/name as a static string; two may be in use at once. */
static inline const char *damage_path(const char *directory, const char *name) {
    static char paths[2][4096];
    static int turn;
    turn = !turn;
    CHECK_OK(ls_path_join(paths[turn], sizeof paths[turn], directory, name));
    return paths[turn];
}

/* Not inlined: gcc 12 then warns about pointers into the result. */
static __attribute__((noinline, unused)) char *damage_read(const char *directory, const char *name,
                                                           size_t *bytes) {
    char *data = NULL;
    CHECK_OK(ls_file_read(damage_path(directory, name), (size_t)1 << 30, &data, bytes));
    return data;
}

static inline void damage_write(const char *directory, const char *name, const void *data,
                                size_t bytes) {
    const char *path = damage_path(directory, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    CHECK(fd >= 0);
    CHECK_OK(ls_file_write_all(fd, data, bytes, path));
    close(fd);
}

/* Replaces the hash at the end of a manifest's text by the right one. */
static inline void damage_sign(char *text, size_t bytes) {
    const size_t tail = 64 + strlen("\"\n}\n");
    ls_sha256 hash;
    char hex[65];
    CHECK(bytes > tail);
    CHECK_OK(ls_sha256_of(text, bytes - tail, &hash));
    ls_sha256_hex(&hash, hex);
    memcpy(text + bytes - tail, hex, 64);
}

/* Reads the manifest without its hash. */
static inline json_t *damage_manifest(const char *directory) {
    size_t bytes;
    char *text = damage_read(directory, LS_CKPT_MANIFEST, &bytes);
    json_t *root = json_loadb(text, bytes, 0, NULL);
    CHECK(json_object_del(root, "sha256") == 0);
    free(text);
    return root;
}

static inline void damage_manifest_write(const char *directory, const json_t *root) {
    char *text;
    size_t bytes;
    CHECK_OK(ls_ckpt_manifest_text(root, &text, &bytes));
    damage_write(directory, LS_CKPT_MANIFEST, text, bytes);
    free(text);
}

/* Makes the manifest agree with what file number i is now. */
static inline void damage_rehash(const char *directory, size_t i) {
    json_t *root = damage_manifest(directory);
    json_t *file = json_array_get(json_object_get(root, "files"), i);
    ls_sha256 hash;
    uint64_t bytes;
    char hex[65];
    CHECK_OK(ls_sha256_file(
        damage_path(directory, json_string_value(json_object_get(file, "name"))), &hash, &bytes));
    ls_sha256_hex(&hash, hex);
    json_object_set_new(file, "sha256", json_string(hex));
    json_object_set_new(file, "bytes", json_integer((json_int_t)bytes));
    damage_manifest_write(directory, root);
    json_decref(root);
}

#endif
