/* data.json: what a data directory holds. */
#ifndef LS_DATA_DATA_MANIFEST_H
#define LS_DATA_DATA_MANIFEST_H

#include <jansson.h>

#include "runtime/data/shard.h"

#define LS_DATA_MANIFEST_NAME    "data.json"
#define LS_DATA_MANIFEST_FORMAT  "lockstep-tokens"
#define LS_DATA_MANIFEST_VERSION 1

typedef struct ls_data_manifest {
    char tokenizer[16];
    int64_t vocab, separator;
    int64_t begin;    /* the token before each document; -1: none */
    int64_t turn_end; /* that ends a turn of a chat (chat.h); -1: there are none */
    int64_t pack;     /* length of samples for which documents are packed; 0: they are not */
    struct {
        ls_shard_header *shards; /* heap; the caller releases */
        int count;
    } splits[2]; /* by ls_split; the shards' files are named by ls_shard_name */
} ls_data_manifest;

/* "train-00003.tok". */
void ls_shard_name(char name[32], ls_split split, int64_t index);

/* Reads and checks DIR/data.json. LS_E_INPUT missing, LS_E_VERSION newer, LS_E_CORRUPT not what
 * prep writes. Safe to release after a failure. */
ls_status ls_data_manifest_read(const char *dir, ls_data_manifest *manifest);
/* The same from text; path is for messages. */
ls_status ls_data_manifest_parse(const char *text, size_t bytes, const char *path,
                                 ls_data_manifest *manifest);
void ls_data_manifest_release(ls_data_manifest *manifest);

/* Writes DIR/data.json, synced. source (borrowed) tells how the data was made. */
ls_status ls_data_manifest_write(const char *dir, const ls_data_manifest *manifest, json_t *source);

#endif
