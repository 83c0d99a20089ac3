/* lockstep prep: text to token shards. */
#ifndef LS_DATA_PREP_H
#define LS_DATA_PREP_H

#include "runtime/base/status.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

enum { LS_PREP_NO_BEGIN = -2 };

typedef struct ls_prep_options {
    const char *const *inputs; /* files, folders (walked), glob patterns, "-" for standard input */
    int input_count;
    const char *out_dir;
    const char *jsonl_field;  /* text field of *.jsonl lines: "text" */
    const char *prompt_field; /* of a text before it, whose tokens are no targets; NULL: none */
    const char *chat; /* the field has messages of a chat, written in this format, chatml or llama3
                         (chat.h), with a tokenizer; NULL: it has text */
    const char *mask_field; /* with a vocab: of an array that says 1 of tokens that are targets,
                               and 0 of others; NULL: all are */
    int64_t vocab;          /* of documents that are arrays of tokens in that field; 0: text */
    const char *tokenizer;  /* a tokenizer.json whose tokens text becomes; NULL: bytes */
    int64_t separator;    /* follows each document, with a vocab or a tokenizer; -1: the latter's */
    int64_t begin;        /* precedes it, with a tokenizer; -1: its own; LS_PREP_NO_BEGIN: none */
    const char *include;  /* file name patterns inside folders ("*.c,*.h"); NULL: all */
    double val_fraction;  /* of documents, chosen by hash of their content; in [0, 1) */
    int64_t shard_tokens; /* most tokens of a shard */
    int64_t pack;         /* of samples, over whose boundaries no document is to lie (packer.h); 0:
                             one document behind the other */
    bool skip_bad;        /* leave out lines of JSONL that hold no document, and count them */
    bool force;           /* replace an existing data directory made by prep */
    const volatile sig_atomic_t *stop; /* when it becomes 1: LS_E_STOPPED; may be NULL */
} ls_prep_options;

typedef struct ls_prep_result {
    int64_t files;           /* read as text */
    int64_t skipped_files;   /* binary (a NUL in the first 8 KiB), sockets, links to nothing */
    int64_t duplicate_files; /* reached before, by another input or link */
    int64_t prepared_files;  /* data.json and shards of an earlier prep, in a folder of inputs */
    int64_t bad_lines;       /* left out, with skip_bad */
    int64_t documents, bytes;
    int64_t train_tokens, val_tokens;
    int64_t train_targets, val_targets; /* fewer, with a loss mask, or packed */
    int64_t train_padding, val_padding; /* tokens that fill samples */
    int64_t cut;                        /* documents that are longer than a sample */
    int train_shards, val_shards;
    double seconds;
} ls_prep_result;

/* Do shards get a loss mask? */
static inline bool ls_prep_is_masked(const ls_prep_options *options) {
    return options->prompt_field || options->chat || options->mask_field;
}

/* A document is a file, or a line of a *.jsonl file (or of a stream that starts with '{'); empty
 * ones are left out. Byte-level tokens 0..255; token 256 separates documents (it follows each);
 * vocabulary 257. With a tokenizer (tokenizer.h) text becomes its tokens, and a copy of its file
 * lies beside the shards. With a vocab above 0, documents are tokens already, below it: arrays in
 * lines of JSONL, or what lies between separators in *.bin files of packed tokens. Where tokens are
 * not bytes, the separator follows each document that does not end with it; a token of the
 * tokenizer may precede those that do not begin with it. Folders are walked in byte order of names;
 * hidden entries, out_dir and what an earlier prep has made are left out, links are followed once.
 * Same inputs give the same bytes. With a prompt or a mask all inputs are JSONL, and shards say of
 * each token whether it is a target; a token that precedes documents is none.
 *
 * A document is for validation when the hash of its first MiB and its length falls below
 * val_fraction, so that copies land on one side. Where that leaves a side empty, the document with
 * the smallest (largest) hash goes there; of a single document the last val_fraction of its bytes
 * is for validation. Text has the same share with each tokenizer.
 *
 * Files appear under out_dir only when all of them are complete and synced; a failure leaves
 * nothing behind. A link is followed. Shows progress with rate and time left. Not collective.
 * LS_E_EXISTS: out_dir exists (and force is unset, or it holds other files), or another prep writes
 * it; LS_E_INPUT: missing,
 * empty or malformed input, named with its line (with skip_bad: when no line is sound); LS_E_USAGE:
 * more shards than can be mapped; LS_E_IO: unreadable input, unwritable output, full disk. */
ls_status ls_prep_run(const ls_prep_options *options, ls_prep_result *result);

#endif
