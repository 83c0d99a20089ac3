/* Chunks at the places that the manifest gives: what is read, hashed and decoded without HDF5. */
#include "checkpoint/format.h"
#include "runtime/base/arena.h"
#include "runtime/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Elements of chunk `index`, without padding. */
static int64_t chunk_elems(const ls_ckpt_grid *grid, int64_t index) {
    ls_box box;
    int64_t first_elem;
    ls_ckpt_grid_box(grid, index, &box, &first_elem);
    return ls_box_elems(&box);
}

static ls_status read_at(int fd, void *data, int64_t bytes, int64_t at) {
    char *to = data;
    while (bytes > 0) {
        ssize_t n = pread(fd, to, (size_t)bytes, (off_t)at);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return LS_FAIL(LS_E_IO, "it cannot be read: %s", strerror(errno));
        }
        if (n == 0) {
            return LS_FAIL(LS_E_CORRUPT, "the file ends %lld bytes before it does",
                           (long long)bytes);
        }
        to += n;
        at += n;
        bytes -= n;
    }
    return LS_OK;
}

/* Direct reads: of chunks that are worth a request of their own. */
enum { PAGE = LS_CKPT_H5_ALIGNMENT, DIRECT_BYTES = 1 << 16 };

ls_status ls_ckpt_source_open(const char *path, bool cached, ls_ckpt_source *source) {
    *source = (ls_ckpt_source){.fd = open(path, O_RDONLY | O_CLOEXEC), .direct = -1};
    bool opened = source->fd >= 0;
    if (opened && !cached) {
        source->direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
        opened = source->direct >= 0 || errno == EINVAL; /* that: the file system has no such way */
    }
    if (!opened) {
        ls_status status = LS_FAIL(LS_E_IO, "it cannot be opened: %s", strerror(errno));
        ls_ckpt_source_close(source);
        return status;
    }
    return LS_OK;
}

void ls_ckpt_source_close(ls_ckpt_source *source) {
    if (source->fd >= 0) {
        close(source->fd);
    }
    if (source->direct >= 0) {
        close(source->direct);
    }
    *source = (ls_ckpt_source){.fd = -1, .direct = -1};
}

/* Is most of the chunk's beginning in the page cache? Then it is there faster than on the disk. */
static bool is_cached(int fd, const ls_ckpt_chunk *chunk) {
    unsigned char resident[64];
    const int64_t page = sysconf(_SC_PAGESIZE), from = chunk->at / page * page;
    const size_t all = (size_t)((chunk->at + chunk->bytes - from + page - 1) / page);
    const size_t pages = all < sizeof resident ? all : sizeof resident;
    const size_t bytes = pages * (size_t)page;
    size_t count = 0;
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, from);
    if (map == MAP_FAILED) {
        return false;
    }
    const bool known = mincore(map, bytes, resident) == 0;
    for (size_t i = 0; i < pages && known; i++) {
        count += resident[i] & 1;
    }
    munmap(map, bytes);
    return 2 * count > pages;
}

size_t ls_ckpt_chunk_room(const ls_ckpt_chunk *chunk) {
    return ((size_t)chunk->bytes + PAGE - 1) / PAGE * PAGE;
}

/* The page cache costs a copy, and memory that must be found: so whole pages are read past it.
 * *done: bytes that are there then; the rest is for the page cache. */
static ls_status read_direct(int direct, const ls_ckpt_chunk *chunk, void *packed, int64_t *done) {
    ssize_t n;
    do {
        n = pread(direct, packed, ls_ckpt_chunk_room(chunk), (off_t)chunk->at);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EINVAL) {
        return LS_FAIL(LS_E_IO, "it cannot be read: %s", strerror(errno));
    }
    *done = n < 0 ? 0 : n < chunk->bytes ? n : chunk->bytes;
    return LS_OK;
}

ls_status ls_ckpt_chunk_read(const ls_ckpt_source *source, const ls_ckpt_chunk *chunk,
                             uint8_t **packed, size_t *capacity) {
    int64_t done = 0;
    LS_TRY(ls_ckpt_buffer_reserve(packed, capacity, ls_ckpt_chunk_room(chunk)));
    if (source->direct >= 0 && chunk->bytes >= DIRECT_BYTES && chunk->at % PAGE == 0 &&
        !is_cached(source->fd, chunk)) {
        LS_TRY(read_direct(source->direct, chunk, *packed, &done));
    }
    return read_at(source->fd, *packed + done, chunk->bytes - done, chunk->at + done);
}

ls_status ls_ckpt_chunk_values(const ls_ckpt_piece *piece, const ls_ckpt_grid *grid, int64_t index,
                               bool compressed, ls_ckpt_codec *codec, const uint8_t **values) {
    const ls_ckpt_chunk *chunk = &piece->places[index];
    uint64_t xxh3;
    LS_TRY(ls_ckpt_decode(codec, (size_t)chunk->bytes, grid, compressed, chunk_elems(grid, index),
                          values, &xxh3));
    if (xxh3 != chunk->xxh3) {
        return LS_FAIL(LS_E_CORRUPT, "its values do not have the manifest's hash");
    }
    return LS_OK;
}

ls_status ls_ckpt_chunk_load(const ls_ckpt_source *source, const ls_ckpt_piece *piece,
                             const ls_ckpt_grid *grid, int64_t index, bool compressed,
                             ls_ckpt_codec *codec, const uint8_t **values) {
    LS_TRY(
        ls_ckpt_chunk_read(source, &piece->places[index], &codec->packed, &codec->packed_capacity));
    return ls_ckpt_chunk_values(piece, grid, index, compressed, codec, values);
}

static int by_place(const void *a, const void *b) {
    int64_t x = ((const ls_ckpt_chunk *)a)->at, y = ((const ls_ckpt_chunk *)b)->at;
    return (x > y) - (x < y);
}

/* Adds bytes [from, to) of a file, in parts that stay in the processor's cache. */
static ls_status range_hash(int fd, int64_t from, int64_t to, ls_sha256_stream *hash) {
    char buffer[65536];
    while (from < to) {
        int64_t bytes = to - from < (int64_t)sizeof buffer ? to - from : (int64_t)sizeof buffer;
        LS_TRY(read_at(fd, buffer, bytes, from));
        LS_TRY(ls_sha256_update(hash, buffer, (size_t)bytes));
        from += bytes;
    }
    return LS_OK;
}

/* Digests that are made at once: of bytes that stay in the processor's cache. */
enum { LEAVES = 16 };

static size_t leaf_count(size_t bytes) {
    return (bytes + LS_SHA256_LEAF - 1) / LS_SHA256_LEAF;
}

/* Of what lies in memory, or, where that is NULL, in the file. */
static ls_status digest_make(const uint8_t *stored, int fd, const ls_ckpt_chunk *chunk,
                             ls_sha256 *digest) {
    const int64_t part = (int64_t)LEAVES * LS_SHA256_LEAF;
    ls_sha256 *leaves;
    uint8_t *buffer = NULL;
    LS_TRY(ls_calloc(leaf_count((size_t)chunk->bytes) + 1, sizeof *leaves, &leaves));
    ls_status status = stored ? LS_OK : ls_calloc(1, (size_t)part, &buffer);
    for (int64_t at = 0; at < chunk->bytes && status == LS_OK; at += part) {
        const int64_t bytes = chunk->bytes - at < part ? chunk->bytes - at : part;
        if (!stored) {
            status = read_at(fd, buffer, bytes, chunk->at + at);
        }
        if (status == LS_OK) {
            status = ls_sha256_leaves(stored ? stored + at : buffer, (size_t)bytes,
                                      leaves + at / LS_SHA256_LEAF);
        }
    }
    if (status == LS_OK) {
        status = ls_sha256_of(leaves, leaf_count((size_t)chunk->bytes) * sizeof *leaves, digest);
    }
    free(buffer);
    free(leaves);
    return status;
}

ls_status ls_ckpt_chunk_digest(const void *stored, size_t bytes, ls_sha256 *digest) {
    return digest_make(stored, -1, &(ls_ckpt_chunk){.bytes = (int64_t)bytes}, digest);
}

ls_status ls_ckpt_chunk_hash(int fd, const ls_ckpt_chunk *chunk, ls_sha256 *digest) {
    return digest_make(NULL, fd, chunk, digest);
}

static ls_status gaps_hash(int fd, int64_t bytes, const ls_ckpt_chunk *chunks, int64_t count,
                           ls_sha256_stream *hash) {
    int64_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        if (chunks[i].at < at) {
            return LS_FAIL(LS_E_CORRUPT, "two chunks hold byte %lld", (long long)chunks[i].at);
        }
        LS_TRY(range_hash(fd, at, chunks[i].at, hash));
        at = chunks[i].at + chunks[i].bytes;
    }
    return range_hash(fd, at, bytes, hash);
}

ls_status ls_ckpt_gaps_hash(const char *path, int64_t bytes, ls_ckpt_chunk *chunks, int64_t count,
                            ls_sha256 *hash) {
    struct stat info;
    ls_sha256_stream *stream = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        ls_status status = LS_FAIL(LS_E_IO, "'%s' cannot be opened: %s", path, strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return status;
    }
    ls_status status = info.st_size == bytes
                           ? ls_sha256_begin(&stream)
                           : LS_FAIL(LS_E_CORRUPT, "it has %lld bytes, expected %lld",
                                     (long long)info.st_size, (long long)bytes);
    if (status == LS_OK) {
        if (count > 0) {
            qsort(chunks, (size_t)count, sizeof *chunks, by_place);
        }
        status = gaps_hash(fd, bytes, chunks, count, stream);
        ls_status ended = ls_sha256_end(stream, status == LS_OK ? hash : NULL);
        status = status != LS_OK ? status : ended;
    }
    close(fd);
    return status == LS_OK ? LS_OK : ls_error_prefix(status, "'%s'", path);
}
