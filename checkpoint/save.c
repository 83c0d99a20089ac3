/* The collective part of a save: a temporary directory, the ranks' files, the manifest, and one
 * rename that makes the checkpoint exist. */
#include "checkpoint/format.h"
#include "runtime/base/arena.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct save {
    ls_comm *comm;
    const ls_ckpt_save_options *options;
    char temporary[1024], final[1024];
    int64_t raw_bytes, stored_bytes;
} save;

static ls_status tensor_check(const ls_ckpt_tensor *t) {
    int64_t bytes;
    LS_TRY(ls_ckpt_dims_check(t->dtype, t->ndim, t->dims, &bytes));
    if (t->box.ndim != t->ndim) {
        return LS_FAIL(LS_E_SHAPE, "%d dimensions, its box has %d", t->ndim, t->box.ndim);
    }
    for (int d = 0; d < t->ndim; d++) {
        if (t->box.start[d] < 0 || t->box.extent[d] < 0 || t->box.start[d] > t->dims[d] ||
            t->box.extent[d] > t->dims[d] - t->box.start[d]) {
            return LS_FAIL(LS_E_SHAPE, "the box [%lld, +%lld) leaves dimension %d of %lld elements",
                           (long long)t->box.start[d], (long long)t->box.extent[d], d,
                           (long long)t->dims[d]);
        }
    }
    return t->data || ls_box_elems(&t->box) == 0 ? LS_OK : LS_FAIL(LS_E_INPUT, "it has no data");
}

static ls_status arguments_check(const ls_ckpt_save_options *options, const ls_ckpt_tensor *tensors,
                                 int count) {
    if (options->step < 0 || options->tokens < 0) {
        return LS_FAIL(LS_E_INPUT, "step %lld and tokens %lld must not be negative",
                       (long long)options->step, (long long)options->tokens);
    }
    if (options->level < 0 || options->level > 19) {
        return LS_FAIL(LS_E_INPUT, "compression level %d is not in 0..19", options->level);
    }
    if (!json_is_object(options->run) || !json_is_object(options->counters) ||
        !options->config_text) {
        return LS_FAIL(LS_E_INPUT, "run and counters must be objects, config_text must be given");
    }
    for (int i = 0; i < count; i++) {
        LS_TRY(ls_ckpt_name_check(tensors[i].name));
        ls_status status = tensor_check(&tensors[i]);
        if (status != LS_OK) {
            return ls_error_prefix(status, "tensor '%s'", tensors[i].name);
        }
    }
    return LS_OK;
}

/* root/.tmp-00001200-<128 random bits>. Rank 0 only. */
static ls_status temporary_create(save *s) {
    uint64_t random[2];
    char name[64];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) {
        return LS_FAIL(LS_E_IO, "no random bits for a name: %s", strerror(errno));
    }
    LS_TRY(ls_dir_create(s->options->root));
    snprintf(name, sizeof name, ".tmp-%08lld-%016llx%016llx", (long long)s->options->step,
             (unsigned long long)random[0], (unsigned long long)random[1]);
    LS_TRY(ls_path_join(s->temporary, sizeof s->temporary, s->options->root, name));
    if (mkdir(s->temporary, 0777) != 0) {
        int reason = errno;
        ls_status status = LS_FAIL(LS_E_IO, "cannot create the directory '%s': %s", s->temporary,
                                   strerror(reason));
        s->temporary[0] = '\0'; /* not ours to remove */
        return status;
    }
    return LS_OK;
}

/* This rank's record as bytes to rank 0, which merges all into root. [collective] */
static ls_status records_gather(save *s, const json_t *record, json_t *root) {
    ls_comm *comm = s->comm;
    size_t ranks = (size_t)comm->size;
    char *text = json_dumps(record, JSON_COMPACT), *all = NULL;
    int64_t *table = NULL; /* lengths, then 4 rows of counts and offsets */
    int64_t mine = text ? (int64_t)strlen(text) : 0, total = 0;
    ls_status status = text ? ls_calloc(5 * ranks, sizeof *table, &table)
                            : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
    status = ls_comm_agree(comm, status);
    if (status == LS_OK) {
        status = comm->ops->all_gather(comm, &mine, table, sizeof mine);
    }
    for (size_t r = 0; r < ranks && status == LS_OK; r++) {
        table[3 * ranks + r] = comm->rank == 0 ? table[r] : 0;
        table[4 * ranks + r] = total;
        total += table[3 * ranks + r];
    }
    if (status == LS_OK) {
        table[ranks] = mine; /* everything to rank 0 */
        status = ls_comm_agree(comm, ls_calloc((size_t)total + 1, 1, &all));
    }
    if (status == LS_OK) {
        ls_comm_request *request = NULL;
        status = comm->ops->all_to_all_start(comm, text, table + ranks, table + 2 * ranks, all,
                                             table + 3 * ranks, table + 4 * ranks, &request);
        if (status == LS_OK) {
            status = comm->ops->wait(comm, request);
        }
    }
    if (status == LS_OK && comm->rank == 0) {
        json_t *index = json_object();
        for (size_t r = 0; r < ranks && status == LS_OK; r++) {
            json_t *part = json_loadb(all + table[4 * ranks + r], (size_t)table[r], 0, NULL);
            status = part ? ls_ckpt_manifest_merge(root, index, part)
                          : LS_FAIL(LS_E_COMM, "the record of rank %zu arrived damaged", r);
            json_decref(part);
        }
        json_decref(index);
    }
    free(text);
    free(all);
    free(table);
    return ls_comm_agree(comm, status);
}

static json_t *root_create(const ls_ckpt_save_options *options) {
    return json_pack("{s:s,s:i,s:i,s:s,s:I,s:I,s:s,s:i,s:s,s:O,s:O,s:[],s:[]}", "format",
                     LS_CKPT_FORMAT_NAME, "major", LS_CKPT_FORMAT_MAJOR, "minor",
                     LS_CKPT_FORMAT_MINOR, "writer", "lockstep " LS_VERSION, "step",
                     (json_int_t)options->step, "tokens", (json_int_t)options->tokens, "codec",
                     options->level > 0 ? "zstd" : "none", "level", options->level, "config",
                     options->config_text, "run", (json_t *)options->run, "counters",
                     (json_t *)options->counters, "files", "tensors");
}

static ls_status index_add(save *s, json_t *root) {
    char path[4096], hex[65];
    ls_sha256 hash;
    uint64_t bytes;
    hid_t file;
    const json_t *first = json_array_get(json_object_get(root, "files"), 0);
    LS_TRY(ls_path_join(path, sizeof path, s->temporary, LS_CKPT_INDEX));
    LS_TRY(ls_ckpt_h5_index_write(path, json_string_value(json_object_get(first, "name")),
                                  json_object_get(root, "tensors")));
    LS_TRY(ls_file_sync(path));
    LS_TRY(ls_ckpt_h5_open(path, &file)); /* finds what a full disk lost */
    LS_TRY(ls_ckpt_h5_close(file, path));
    LS_TRY(ls_sha256_file(path, &hash, &bytes));
    ls_sha256_hex(&hash, hex);
    json_t *item = json_pack("{s:s,s:I,s:s}", "name", LS_CKPT_INDEX, "bytes", (json_int_t)bytes,
                             "sha256", hex);
    return json_array_append_new(json_object_get(root, "files"), item) == 0
               ? LS_OK
               : LS_FAIL(LS_E_MEMORY, "no memory for the manifest");
}

/* Checks what the ranks wrote as a reader would: a gap or an overlap is found before the commit. */
static ls_status pieces_check(save *s, const json_t *root) {
    char *text;
    size_t bytes;
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_manifest_text(root, &text, &bytes));
    ls_status status = ls_ckpt_manifest_parse(text, bytes, "the tensors to save", &ckpt);
    free(text);
    if (status != LS_OK) {
        return ls_error_set(LS_E_SHAPE, __FILE__, __LINE__, "%s", ls_error_last()->message);
    }
    ls_ckpt_info info = ls_ckpt_describe(ckpt);
    s->raw_bytes = info.raw_bytes;
    s->stored_bytes = info.stored_bytes;
    ls_ckpt_close(ckpt);
    return LS_OK;
}

/* A checkpoint of the same step is there (a resumed run came by again): it is exchanged for the new
 * one, so that there is one at every instant; where the file system cannot, it is put aside first.
 */
static ls_status replace(const save *s) {
    char aside[1100];
    const char *old = s->temporary;
    ls_log_info("'%s' exists and is replaced", s->final);
    if (renameat2(AT_FDCWD, s->temporary, AT_FDCWD, s->final, RENAME_EXCHANGE) != 0) {
        snprintf(aside, sizeof aside, "%s-old", s->temporary);
        old = aside;
        bool moved = rename(s->final, aside) == 0;
        if (!moved || rename(s->temporary, s->final) != 0) {
            int reason = errno;
            if (moved && rename(aside, s->final) != 0) {
                ls_log_warn("the checkpoint of the same step is now in '%s'", aside);
            }
            return LS_FAIL(LS_E_IO, "cannot replace '%s': %s", s->final, strerror(reason));
        }
    }
    LS_TRY(ls_file_sync(s->options->root));
    if (ls_dir_remove(old) != LS_OK) {
        ls_log_warn("the replaced checkpoint is still in '%s': %s", old, ls_error_last()->message);
    }
    return LS_OK;
}

static ls_status commit(const save *s) {
    if (rename(s->temporary, s->final) == 0) {
        return ls_file_sync(s->options->root);
    }
    if (errno == ENOTEMPTY || errno == EEXIST) {
        return replace(s);
    }
    return LS_FAIL(LS_E_IO, "cannot rename '%s' to '%s': %s", s->temporary, s->final,
                   strerror(errno));
}

/* Index, manifest, commit. Rank 0 only. */
static ls_status complete(save *s, json_t *root) {
    char path[4096], *text;
    size_t bytes;
    LS_TRY(pieces_check(s, root));
    LS_TRY(index_add(s, root));
    LS_TRY(ls_path_join(path, sizeof path, s->temporary, LS_CKPT_MANIFEST));
    LS_TRY(ls_ckpt_manifest_text(root, &text, &bytes));
    ls_status status = ls_file_replace(path, text, bytes); /* syncs the file and the directory */
    free(text);
    LS_TRY(status);
    return commit(s);
}

static ls_status begin(save *s, const ls_ckpt_tensor *tensors, int count) {
    ls_comm *comm = s->comm;
    char name[64];
    ls_status status = arguments_check(s->options, tensors, count);
    snprintf(name, sizeof name, "step-%08lld", (long long)s->options->step);
    if (status == LS_OK) {
        status = ls_path_join(s->final, sizeof s->final, s->options->root, name);
    }
    LS_TRY(ls_comm_agree(comm, status));
    int64_t same[3] = {s->options->step, s->options->tokens, s->options->level};
    LS_TRY(ls_comm_check_same(comm, "checkpoint step, tokens or compression level", same,
                              sizeof same));
    status = comm->rank == 0 ? temporary_create(s) : LS_OK;
    LS_TRY(ls_comm_agree(comm, status));
    return comm->ops->broadcast(comm, s->temporary, sizeof s->temporary, 0);
}

/* Waits for all ranks' files and completes the checkpoint. */
static ls_status finish(save *s, ls_status written, const json_t *record) {
    LS_TRY(ls_comm_agree(s->comm, written));
    json_t *root = s->comm->rank == 0 ? root_create(s->options) : json_object();
    ls_status status = root ? LS_OK
                            : LS_FAIL(LS_E_INPUT, "the configuration is not valid UTF-8, or there "
                                                  "is no memory for the manifest");
    status = ls_comm_agree(s->comm, status);
    if (status == LS_OK) {
        status = records_gather(s, record, root);
    }
    if (status == LS_OK) {
        status = ls_comm_agree(s->comm, s->comm->rank == 0 ? complete(s, root) : LS_OK);
    }
    json_decref(root);
    return status;
}

ls_status ls_ckpt_save(ls_comm *comm, const ls_ckpt_save_options *options,
                       const ls_ckpt_tensor *tensors, int count, ls_ckpt_save_result *result) {
    uint64_t start_ns = ls_clock_ns();
    save s = {.comm = comm, .options = options};
    json_t *record = NULL;
    char file[32];
    snprintf(file, sizeof file, "rank-%05d.h5", comm->rank);
    ls_status status = begin(&s, tensors, count);
    if (status == LS_OK) {
        ls_status written = ls_ckpt_file_write(s.temporary, file, comm->rank == 0, options, tensors,
                                               count, &record);
        if (written != LS_OK && !ls_path_is_dir(s.temporary)) {
            ls_error_prefix(written,
                            "rank %d does not see '%s'; checkpoints need a directory that "
                            "all hosts share",
                            comm->rank, options->root);
        }
        status = finish(&s, written, record);
    }
    json_decref(record);
    if (status != LS_OK) {
        /* All ranks have closed their files: finish and begin end in an agreement. */
        ls_error error = *ls_error_last();
        if (comm->rank == 0 && s.temporary[0] && ls_dir_remove(s.temporary) != LS_OK) {
            ls_log_warn("%s", ls_error_last()->message);
        }
        return ls_error_set(status, error.file, error.line, "%s", error.message);
    }
    int64_t totals[2] = {s.raw_bytes, s.stored_bytes};
    LS_TRY(comm->ops->broadcast(comm, totals, sizeof totals, 0));
    if (result) {
        *result = (ls_ckpt_save_result){.raw_bytes = totals[0],
                                        .stored_bytes = totals[1],
                                        .seconds = 1e-9 * (double)(ls_clock_ns() - start_ns)};
        memcpy(result->path, s.final, sizeof result->path);
    }
    return LS_OK;
}
