/* Checkpoint format, version 1, and what the files of this room share.
 *
 *   step-00001200/           8 digits or more; complete and immutable once it has this name
 *     manifest.json          the truth: what is stored where; its absence means: not a checkpoint
 *     rank-00000.h5 ...      one HDF5 file per rank that had something to write (rank 0 always
 *                            has), or node-00000.h5 ... per host
 *     index.h5               external links to all datasets, for people; never read back
 *     parity-00000-0.rs ...  with checkpoint.parity (parity.h), and manifest-copy-1.json ...: what
 *                            makes lost files again; the copies are equal to the manifest
 *   .tmp-00001200-UUID/      a save in progress or one that died (commit.h); ignored by every
 * reader
 *
 * Data files. Superblock and objects of HDF5 1.10 (metadata checksums), no object times: the same
 * tensors give the same bytes. /tensors holds one dataset per piece, named by the tensor, where
 *   '/' is ':' and  control characters, DEL, '~' '%' ':' '@' '\' and a leading '.' are ~XX (h5dump
 *   1.10 takes '%' in a name for a printf format),
 * followed by "@start0,start1,..." when the piece is not the whole tensor. So names are flat: "a"
 * and "a/b" can both exist. Attributes: tensor (its name), shape (global), start (first index).
 * float32/64 and integers are the little-endian HDF5 types, float16 and bfloat16 custom floats.
 *
 * Chunks. A chunk is a contiguous run of its piece: 1 along the first dimensions, `rows` along one
 * axis, everything along those after it. The axis is the first whose inner part is at most 4 MiB;
 * rows are balanced so that chunks have 2 to 4 MiB (a smaller piece is one chunk). Mostly the axis
 * is dimension 0; a row larger than 4 MiB is cut along the next. The last chunk of an axis is
 * padded with zeros to the full size. Filters: byte shuffle (elements of more than one byte), then
 * 32015 (zstd, cd_values = level), each chunk one frame with content size and checksum; or no
 * filter at all at level 0.
 *
 * /counters in the first file: the counters as scalar datasets in the object headers, attribute
 * unit; null is an empty dataspace; an object is a group.
 *
 * manifest.json: one JSON object; unknown members are ignored. Sizes and counts are exact integers.
 *   format "lockstep-checkpoint", major, minor, writer, step, tokens, codec "zstd" | "none", level,
 *   config (text), run (object), counters (object),
 *   files   [{name, bytes, sha256 of all its bytes that no chunk holds, in order}]
 *   tensors [{name, dtype, shape, pieces: [{file, dataset, start, extent, chunk, chunks,
 *             raw_bytes, stored_bytes, at: [where each chunk lies in the file],
 *             bytes: [of each chunk as stored], xxh3: 16 hex digits a chunk, sha256}]}]
 *   parity  [{data: [names of files], parity: [names of files]}], absent when there is none
 * sha256 of a piece: of the digests (32 bytes each) of its chunks, in order; that of a chunk: of
 * the SHA-256 digests of the parts of 32 KiB of it as stored, of which the last may be shorter. So
 * threads share the work, and lanes of vector registers do. xxh3 of a chunk: XXH3-64 of its values,
 * row-major, without padding. Both together with a file's sha256 cover every byte of a checkpoint
 * once. A reader needs no HDF5: it reads the chunks that it wants at their places, and takes no
 * values that have another xxh3. It ends in  "sha256": "<64 hex digits>"\n}\n  : the SHA-256 of all
 * bytes before the digits. */
#ifndef LS_CHECKPOINT_FORMAT_H
#define LS_CHECKPOINT_FORMAT_H

#include "checkpoint/ckpt.h"

#include <hdf5.h>
#include <pthread.h>
#include <zstd.h>

#define LS_CKPT_FORMAT_NAME     "lockstep-checkpoint"
#define LS_CKPT_MANIFEST        "manifest.json"
#define LS_CKPT_INDEX           "index.h5"
#define LS_CKPT_CHUNK_BYTES     (4 << 20)  /* written: at most */
#define LS_CKPT_CHUNK_BYTES_MAX (64 << 20) /* read: at most */
#define LS_CKPT_NAME_MAX        512        /* bytes of a tensor's name */
#define LS_CKPT_DATASET_MAX     2048       /* bytes of a dataset's path */
#define LS_CKPT_MANIFEST_MAX    ((size_t)1 << 30)

/* ---- format.c: names, shapes, chunks ---- */

/* Dataset path of a piece ("/tensors/layers.0.w@512,0"). */
ls_status ls_ckpt_dataset_path(char *out, size_t size, const char *name, int ndim,
                               const int64_t *dims, const ls_box *box);
/* Is text valid as a tensor name: 1..LS_CKPT_NAME_MAX bytes of UTF-8? */
ls_status ls_ckpt_name_check(const char *name);
/* "[768, 50257]" into buf; returns buf. */
char *ls_ckpt_shape_text(char *buf, size_t size, int ndim, const int64_t *dims);
/* 1..LS_MAX_DIMS dimensions of 1 or more whose bytes fit int64; *bytes is their product. */
ls_status ls_ckpt_dims_check(ls_dtype dtype, int ndim, const int64_t *dims, int64_t *bytes);
/* Boxes must lie in the tensor, cover it, and not overlap. Reorders pieces by start. */
ls_status ls_ckpt_coverage_check(int ndim, const int64_t *dims, ls_ckpt_piece *pieces, int count);

/* How a piece is cut into chunks. */
typedef struct ls_ckpt_grid {
    int ndim, axis; /* the dimension that chunks cut */
    int64_t extent[LS_MAX_DIMS], chunk[LS_MAX_DIMS];
    int64_t inner_elems; /* of one index of the axis */
    int64_t along_axis;  /* chunks along the axis */
    int64_t count;       /* chunks */
    int64_t chunk_elems; /* of a full chunk */
    int64_t elem_bytes, chunk_bytes;
} ls_ckpt_grid;

/* Chooses chunk dimensions for a piece. */
void ls_ckpt_grid_choose(int ndim, const int64_t *extent, int64_t elem_bytes,
                         int64_t chunk[LS_MAX_DIMS]);
/* The grid of given chunk dimensions. LS_E_CORRUPT when the format does not allow them. */
ls_status ls_ckpt_grid_make(int ndim, const int64_t *extent, const int64_t *chunk,
                            int64_t elem_bytes, ls_ckpt_grid *grid);
/* Chunk `index` as a box inside the piece (clipped to it); its first element is element
 * *first_elem of the piece, and its elements are contiguous there. */
void ls_ckpt_grid_box(const ls_ckpt_grid *grid, int64_t index, ls_box *box, int64_t *first_elem);

/* Threads that the work is worth: at most `wanted` and one per item and per MiB, at least 1. */
int ls_ckpt_threads(int wanted, int64_t items, int64_t bytes);

/* ---- codec.c: shuffle and zstd, with buffers of one thread ---- */

typedef struct ls_ckpt_codec {
    int level;                       /* 0: chunks are stored as they are */
    ZSTD_CCtx *compressor, *entropy; /* entropy: at level 1, for byte planes; else NULL */
    ZSTD_DCtx *decompressor;
    uint8_t *raw, *shuffled, *packed;
    size_t raw_capacity, shuffled_capacity, packed_capacity;
    uint8_t *into; /* where the next chunk's elements may be put, without padding; NULL: nowhere */
} ls_ckpt_codec;

/* Memory for a chunk, fit for direct reads and writes: of huge pages where it is large, since disks
 * take fewer and larger requests for these. NULL: there is none. Caller frees. */
uint8_t *ls_ckpt_buffer(size_t bytes);
/* level is used for encoding only; decoding takes `compressed`. */
ls_status ls_ckpt_codec_init(ls_ckpt_codec *codec, int level);
void ls_ckpt_codec_release(ls_ckpt_codec *codec);
/* elems elements at src, padded with zeros to chunk_elems, as stored; *xxh3 is the XXH3-64 of the
 * elements. *out is owned by the codec or is src itself, until the next call. */
ls_status ls_ckpt_encode(ls_ckpt_codec *codec, const void *src, int64_t elems, int64_t chunk_elems,
                         int64_t elem_bytes, const void **out, size_t *out_bytes, uint64_t *xxh3);
/* The decoder passes over the checksums of frames, which take a fifth of its time: for who compares
 * the hash of the values anyway. */
void ls_ckpt_codec_trust_frames(ls_ckpt_codec *codec);
/* Room for at least `bytes` in *buffer, of ls_ckpt_buffer; the content is lost when it grows. */
ls_status ls_ckpt_buffer_reserve(uint8_t **buffer, size_t *capacity, size_t bytes);
/* The same of codec->packed. */
ls_status ls_ckpt_codec_reserve(ls_ckpt_codec *codec, size_t bytes);
/* Largest stored size that decode accepts for a chunk. */
size_t ls_ckpt_stored_max(size_t chunk_bytes, bool compressed);
/* codec->packed [stored_bytes] as raw elements, of which the first `elems` are no padding; *xxh3 is
 * the XXH3-64 of those. *out is owned by the codec, or is codec->into, of which no more than elems
 * is written. Never writes more than chunk_bytes. LS_E_CORRUPT when the frame is not exactly one
 * chunk with a checksum, which must be right unless frames are trusted. */
ls_status ls_ckpt_decode(ls_ckpt_codec *codec, size_t stored_bytes, const ls_ckpt_grid *grid,
                         bool compressed, int64_t elems, const uint8_t **out, uint64_t *xxh3);

/* ---- h5_output.c: what is written to a file ---- */

/* A file that is being written; see h5_driver.c too. */
typedef struct ls_ckpt_h5_output {
    _Atomic int error; /* errno of what went wrong first; 0: nothing */
    int fd;
    const void *later; /* what HDF5 is to write from here is put by a putter instead */
    int64_t later_at;  /* where, when HDF5 has come to it: later is NULL then */
} ls_ckpt_h5_output;

/* Keeps the first failure, and empties the file. From any thread, as the next one. */
void ls_ckpt_h5_fault(ls_ckpt_h5_output *output, int error);
/* Nothing more is written after a failure. */
void ls_ckpt_h5_write(ls_ckpt_h5_output *output, const void *data, size_t bytes, int64_t at);

/* Large objects begin at multiples of this in files, so that they can be read and written directly:
 * on any disk memory and places must be such multiples for that. */
#define LS_CKPT_H5_ALIGNMENT 4096
/* Of so many threads that compress, one more waits for the disk. */
#define LS_CKPT_PUTTER_WRITERS 4

/* Starts up to `count` threads that take no signals; *started of them run. Returns errno of the one
 * that did not start, or 0. */
int ls_ckpt_threads_start(pthread_t *threads, int count, void *(*run)(void *), void *argument,
                          int *started);

/* Room for a chunk. */
typedef struct ls_ckpt_block {
    struct ls_ckpt_block *next;
    uint8_t *data;
    size_t bytes;
    int64_t at; /* where it is to be put; -1: nowhere */
} ls_ckpt_block;

/* Takes full blocks to the file, by threads of its own, so that those who fill them wait for no
 * disk.
 */
typedef struct ls_ckpt_putter {
    ls_ckpt_h5_output *output;
    int direct; /* the file past the page cache; -1: no such way */
    pthread_t *threads;
    int thread_count, block_count;
    pthread_mutex_t mutex;
    pthread_cond_t full, freed;
    ls_ckpt_block *blocks, *free, *first, **last; /* first to last: to be put */
    bool ending;
} ls_ckpt_putter;

/* Threads for what so many writers make of so many bytes; 0: the writers put blocks themselves. */
int ls_ckpt_putter_threads(int writers, int64_t bytes);
/* Blocks of block_bytes for the file at path, whose output is open. Each writer may hold one. */
ls_status ls_ckpt_putter_start(ls_ckpt_putter *putter, ls_ckpt_h5_output *output, const char *path,
                               int writers, int threads, size_t block_bytes);
/* A free block; waits for one. From any thread, as give. */
ls_ckpt_block *ls_ckpt_putter_take(ls_ckpt_putter *putter);
void ls_ckpt_putter_give(ls_ckpt_putter *putter, ls_ckpt_block *block);
/* Waits until all is in the file; output tells of failures. Not while a writer holds a block. */
void ls_ckpt_putter_end(ls_ckpt_putter *putter);

/* ---- h5.c: HDF5 files ---- */

/* Held for what is set up once a process. Not OpenMP's critical: threads that are not OpenMP's
 * write files too, and with a tool that listens libomp 14 fails there once its first thread has
 * ended. */
extern pthread_mutex_t ls_ckpt_h5_mutex;
/* Registers the filter and stops HDF5 from printing; call first in every thread that uses HDF5. */
ls_status ls_ckpt_h5_init(void);
/* LS_FAIL with HDF5's innermost reason ("errno = 28, error message = 'No space left on device'").
 */
ls_status ls_ckpt_h5_fail(ls_status code, const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
#define LS_H5_FAIL(code, ...) ls_ckpt_h5_fail((code), __FILE__, __LINE__, __VA_ARGS__)

/* Writes to files of this list go through our driver; failures are kept in *output, which outlives
 * the file. */
ls_status ls_ckpt_h5_driver_set(hid_t fapl, ls_ckpt_h5_output *output);

/* Fails when the file exists. Failed writes show in *output, and when the file is completed. */
ls_status ls_ckpt_h5_create(const char *path, ls_ckpt_h5_output *output, hid_t *file);
/* Syncs and closes a file that was created. LS_E_IO when that or any write to it failed. */
ls_status ls_ckpt_h5_complete(hid_t file, const ls_ckpt_h5_output *output, const char *path);
ls_status ls_ckpt_h5_open(const char *path, hid_t *file); /* read only */
ls_status ls_ckpt_h5_close(hid_t file, const char *path);
ls_status ls_ckpt_h5_group(hid_t file, const char *name);
/* An empty chunked dataset for a piece, with its attributes. Close with H5Dclose. */
ls_status ls_ckpt_h5_dataset_create(hid_t file, const char *dataset, const ls_ckpt_tensor *tensor,
                                    const ls_ckpt_grid *grid, int level, hid_t *out);
/* Opens a dataset and checks type, extent, chunk and filters against what the manifest says. */
ls_status ls_ckpt_h5_dataset_open(hid_t file, const char *dataset, ls_dtype dtype,
                                  const ls_ckpt_grid *grid, bool compressed, hid_t *out);
/* Offset of a chunk as HDF5 wants it. */
void ls_ckpt_h5_offset(const ls_ckpt_grid *grid, int64_t index, hsize_t offset[LS_MAX_DIMS]);
/* Where chunk `index` lies in its file; the hash is not touched. */
ls_status ls_ckpt_h5_chunk_place(hid_t dataset, const ls_ckpt_grid *grid, int64_t index,
                                 ls_ckpt_chunk *place);
/* Group /counters. */
ls_status ls_ckpt_h5_counters_write(hid_t file, const json_t *counters);
/* index.h5 of a manifest's content. */
ls_status ls_ckpt_h5_index_write(const char *path, const char *first_file, const json_t *tensors);

/* ---- chunk.c: chunks at their places ---- */

/* A data file that is read. */
typedef struct ls_ckpt_source {
    int fd;
    int direct; /* the file past the page cache; -1: no such way */
} ls_ckpt_source;

/* cached: what is read is in the page cache, having just been written. Close takes a source that is
 * closed, too. */
ls_status ls_ckpt_source_open(const char *path, bool cached, ls_ckpt_source *source);
void ls_ckpt_source_close(ls_ckpt_source *source);
/* Bytes of memory that reading a chunk takes. */
size_t ls_ckpt_chunk_room(const ls_ckpt_chunk *chunk);
/* Reads a chunk as it is stored into *packed, which gets room. LS_E_CORRUPT: the file ends before.
 */
ls_status ls_ckpt_chunk_read(const ls_ckpt_source *source, const ls_ckpt_chunk *chunk,
                             uint8_t **packed, size_t *capacity);
/* The digest of a chunk as it is stored. */
ls_status ls_ckpt_chunk_digest(const void *stored, size_t bytes, ls_sha256 *digest);
/* The same of a file's. */
ls_status ls_ckpt_chunk_hash(int fd, const ls_ckpt_chunk *chunk, ls_sha256 *digest);
/* Decodes chunk `index` of a piece, which lies in codec->packed; *values is owned by the codec, or
 * is codec->into. LS_E_CORRUPT unless they have the hash of the manifest. */
ls_status ls_ckpt_chunk_values(const ls_ckpt_piece *piece, const ls_ckpt_grid *grid, int64_t index,
                               bool compressed, ls_ckpt_codec *codec, const uint8_t **values);
/* Reads it and decodes it. */
ls_status ls_ckpt_chunk_load(const ls_ckpt_source *source, const ls_ckpt_piece *piece,
                             const ls_ckpt_grid *grid, int64_t index, bool compressed,
                             ls_ckpt_codec *codec, const uint8_t **values);
/* SHA-256 of a file without its chunks [count], which this sorts by place. LS_E_CORRUPT when two
 * overlap, or the file has other than `bytes` bytes. */
ls_status ls_ckpt_gaps_hash(const char *path, int64_t bytes, ls_ckpt_chunk *chunks, int64_t count,
                            ls_sha256 *hash);

/* ---- manifest_read.c, verify.c ---- */

typedef struct ls_ckpt_file {
    const char *name;
    int64_t bytes;
    ls_sha256 sha256;                 /* without chunks */
    bool lost;                        /* not there, or not what it was */
    bool verified;                    /* found to be what it was */
    int64_t first_piece, piece_count; /* in by_file */
    int group, place;                 /* in a parity group; group -1: in none */
    _Atomic int rebuilt;              /* descriptor of its content made again, plus 1; 0: none */
} ls_ckpt_file;

struct ls_ckpt {
    char *path;
    char *text; /* as it was read, for ls_ckpt_spread; NULL: not from a file, or spread */
    size_t text_bytes;
    json_t *root; /* owns all strings */
    int64_t minor, step, tokens;
    const char *config;
    const json_t *run, *counters;
    bool compressed;
    const volatile sig_atomic_t *stop; /* NULL: never */
    int64_t level;
    ls_ckpt_file *files;
    int file_count;
    ls_ckpt_entry *entries;
    int entry_count;
    ls_ckpt_piece *pieces;
    int64_t piece_count;
    const ls_ckpt_piece **by_file; /* [piece_count] the pieces of each file, in their order above */
    ls_ckpt_chunk *chunks;         /* of all pieces */
    int64_t chunk_count;
    const ls_ckpt_entry **by_name; /* sorted */
    struct ls_parity *groups;
    int group_count;
};

/* The manifest in text [bytes] (a NUL follows); `where` names it in messages. Touches no file. */
ls_status ls_ckpt_manifest_parse(const char *text, size_t bytes, const char *where, ls_ckpt **ckpt);
/* manifest_check.c: before anything is made of a manifest's text. Its size must go with what lies
 * beside it in the checkpoint's directory (LS_E_CORRUPT before it is read), its hash must fit, and
 * it must be one whose tables take memory in proportion to it. LS_E_VERSION: of a newer program. */
ls_status ls_ckpt_manifest_read(const char *directory, const char *path, char **text,
                                size_t *bytes);
ls_status ls_ckpt_manifest_check(const char *text, size_t bytes);
ls_status ls_ckpt_version_check(int64_t major, int64_t minor);
/* The grid of a piece, checked when the manifest was parsed. */
void ls_ckpt_piece_grid(const ls_ckpt_entry *entry, const ls_ckpt_piece *piece, ls_ckpt_grid *grid);
/* Is the file there, with the manifest's size? */
ls_status ls_ckpt_file_size_check(const ls_ckpt *ckpt, int file_index);
/* Hashes every byte of a file, or of what was made again of it; LS_E_CORRUPT, with what is damaged,
 * when its size or a hash differ. */
ls_status ls_ckpt_file_verify(const ls_ckpt *ckpt, int file_index);

/* ---- manifest_write.c ---- */

/* Hashes a file without chunks and adds its row {name, bytes, sha256} to `files`. */
ls_status ls_ckpt_file_row(const char *path, const char *name, json_t *files);

/* Adds a rank's record {"files": [...], "tensors": [...], "parity": [...]}, of which each may be
 * missing, to those of the manifest `root`. Tensors
 * come together by name; index is an object name -> position in tensors. Takes no reference. */
ls_status ls_ckpt_manifest_merge(json_t *root, json_t *index, const json_t *record);
/* Text of the manifest with its hash. Caller frees. LS_E_UNSUPPORTED when it has more than `most`
 * bytes: LS_CKPT_MANIFEST_MAX, what readers take. */
ls_status ls_ckpt_manifest_text(const json_t *root, size_t most, char **text, size_t *bytes);

/* ---- write.c ---- */

/* Writes one data file with the boxes of this rank, checks it by reopening, syncs and hashes it.
 * *record (caller's reference) is what ls_ckpt_manifest_merge takes. No file is made when there is
 * nothing to write and `first` is false. */
ls_status ls_ckpt_file_write(const char *directory, const char *name, bool first,
                             const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                             int count, json_t **record);

#endif
