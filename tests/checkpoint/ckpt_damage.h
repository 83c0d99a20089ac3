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
    CHECK_OK(ls_ckpt_manifest_text(root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    damage_write(directory, LS_CKPT_MANIFEST, text, bytes);
    free(text);
}

static inline void damage_set_hash(json_t *object, const ls_sha256 *hash) {
    char hex[65];
    ls_sha256_hex(hash, hex);
    CHECK(json_object_set_new(object, "sha256", json_string(hex)) == 0);
}

/* Chunks of a piece, as the manifest has them, into chunks [LS_DAMAGE_CHUNKS]; returns how many. */
enum { LS_DAMAGE_CHUNKS = 64 };
static inline size_t damage_chunks(const json_t *piece, ls_ckpt_chunk *chunks) {
    const json_t *at = json_object_get(piece, "at"), *bytes = json_object_get(piece, "bytes");
    size_t count = json_array_size(at);
    CHECK(count <= LS_DAMAGE_CHUNKS);
    for (size_t i = 0; i < count; i++) {
        chunks[i].at = json_integer_value(json_array_get(at, i));
        chunks[i].bytes = json_integer_value(json_array_get(bytes, i));
    }
    return count;
}

/* Makes the manifest agree with what the first file is now, but for the hashes of its values: as a
 * forger would. Chunks that the file does not have keep their hashes. */
static inline void damage_rehash(const char *directory, json_t *root) {
    json_t *file = json_array_get(json_object_get(root, "files"), 0), *tensor;
    const char *name = json_string_value(json_object_get(file, "name"));
    ls_ckpt_chunk chunks[LS_DAMAGE_CHUNKS];
    ls_sha256 hash, hashes[LS_DAMAGE_CHUNKS];
    size_t bytes, total = 0, i;
    char *data = damage_read(directory, name, &bytes);
    json_array_foreach(json_object_get(root, "tensors"), i, tensor) {
        json_t *piece = json_array_get(json_object_get(tensor, "pieces"), 0);
        size_t count = damage_chunks(piece, chunks + total);
        for (size_t k = 0; k < count; k++) {
            const ls_ckpt_chunk *chunk = &chunks[total + k];
            size_t at = (size_t)chunk->at < bytes ? (size_t)chunk->at : bytes;
            size_t rest = bytes - at, most = (size_t)chunk->bytes;
            CHECK_OK(ls_ckpt_chunk_digest(data + at, most < rest ? most : rest, &hashes[k]));
        }
        CHECK_OK(ls_sha256_of(hashes, count * sizeof *hashes, &hash));
        damage_set_hash(piece, &hash);
        total += count;
    }
    free(data);
    if (ls_ckpt_gaps_hash(damage_path(directory, name), (int64_t)bytes, chunks, (int64_t)total,
                          &hash) == LS_OK) {
        damage_set_hash(file, &hash);
    }
    CHECK(json_object_set_new(file, "bytes", json_integer((json_int_t)bytes)) == 0);
    damage_manifest_write(directory, root);
}

#endif
