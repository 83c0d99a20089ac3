/* What a tokenizer.json says, as encoding uses it. Of the room alone; callers see tokenizer.h. */
#ifndef LS_DATA_TOKENIZER_TABLES_H
#define LS_DATA_TOKENIZER_TABLES_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include <pcre2.h>
#include <stdbool.h>

#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_nfc.h"
#include "runtime/data/tokenizer_scan.h"

#define LS_NO_TOKEN UINT32_MAX

enum { LS_TOKENIZER_PATTERNS = 8 };

typedef struct ls_token_text {
    const char *at; /* NULL: there is no such token */
    size_t bytes;
} ls_token_text;

/* Texts to tokens: open addressing, at most half full. */
typedef struct ls_token_map {
    uint32_t *slots; /* tokens; LS_NO_TOKEN: empty */
    size_t mask;
    const ls_token_text *texts; /* of the token */
} ls_token_map;

typedef struct ls_token_merge {
    uint32_t left, right;
    uint32_t token; /* of both together; LS_NO_TOKEN: an empty place of the table */
    uint32_t rank;  /* the lowest goes first */
} ls_token_merge;

/* A token that is looked for before text is cut by patterns. */
typedef struct ls_added_token {
    ls_token_text text; /* as it is looked for */
    uint32_t token;
    bool single_word, lstrip, rstrip, normalized;
} ls_added_token;

typedef struct ls_added_node {
    uint32_t child, sibling; /* nodes; 0: none */
    uint32_t end;            /* 1 + which of the set's tokens ends here; 0: none */
    unsigned char byte;
} ls_added_node;

/* The tokens by their first bytes, as a tree. */
typedef struct ls_added_set {
    ls_added_token *tokens;
    size_t count;
    ls_added_node *nodes; /* from 1; 0 is none */
    uint32_t roots[256];
    int only_first; /* the byte that all begin with, or -1 */
} ls_added_set;

/* Text is cut where it matches, at both ends of what matches. */
typedef struct ls_split_pattern {
    pcre2_code *code;
    char *source;      /* in the words of tokenizer.json */
    ls_scan *scan;     /* finds most of the pieces; or NULL */
    bool drops_others; /* what lies between matches is left out */
} ls_split_pattern;

typedef enum ls_prepend {
    LS_PREPEND_NEVER,
    LS_PREPEND_ALWAYS,  /* whatever the text begins with */
    LS_PREPEND_MISSING, /* unless it begins with a space */
    LS_PREPEND_FIRST,   /* the same, and only where the text begins, not behind added tokens */
} ls_prepend;

struct ls_tokenizer {
    /* The kind. */
    ls_nfc *nfc;     /* text is brought into form C before all else; NULL: it is not */
    bool byte_level; /* symbols are bytes, else characters */
    bool spaces;     /* not byte_level: a space is U+2581 */
    bool normalizes; /* not byte_level: it is so already where added tokens are looked for */
    bool word_cuts;  /* not byte_level: each U+2581 begins a piece */
    bool safe_cuts;  /* not byte_level: see tokenizer_cuts.c */
    bool ignore_merges;
    bool fuse_unknown;
    ls_prepend prepend;
    ls_split_pattern patterns[LS_TOKENIZER_PATTERNS]; /* each cuts the pieces of the one before */
    int pattern_count;
    bool jit;
    bool looks_behind; /* the first pattern */
    pcre2_code *word;  /* one character of a word, for single_word; or NULL */

    /* The tokens. */
    uint32_t count;       /* the largest and one */
    ls_token_text *texts; /* what is merged: bytes where byte_level, else as in the file */
    ls_token_text *shown; /* what they stand for */
    char *texts_memory, *shown_memory, *added_memory;
    ls_token_map map; /* by texts; without what is no bytes where byte_level */
    ls_token_merge *merges;
    size_t merge_mask, merge_count;
    uint64_t *inner_pairs; /* see tokenizer_cuts.c */
    size_t inner_mask;
    uint64_t inner_ascii[128][2];
    uint32_t byte_tokens[256]; /* byte_level: of the byte; else of its fallback */
    uint32_t space_token;      /* U+2581 */
    uint32_t unknown;          /* LS_NO_TOKEN: none */
    int64_t separator, begin;
    ls_added_set added, added_normalized;
    char name[LS_TOKENIZER_NAME_BYTES];
};

/* --- tokenizer_vocab.c --- */
/* Not byte_level: the byte that the token stands for where no other does; -1: none. */
int ls_tokenizer_fallback_byte(const ls_tokenizer *tokenizer, uint32_t token);

/* --- tokenizer_map.c --- */
ls_status ls_token_map_make(ls_token_map *map, size_t tokens, const ls_token_text *texts);
/* False: a token with this text is there already. */
bool ls_token_map_add(ls_token_map *map, uint32_t token);
uint32_t ls_token_map_find(const ls_token_map *map, const char *text, size_t bytes);
ls_status ls_token_merges_make(ls_tokenizer *tokenizer, size_t count);
/* A pair that is there already gets the new rank. */
void ls_token_merges_add(ls_tokenizer *tokenizer, ls_token_merge merge);

static inline size_t ls_pair_place(uint32_t left, uint32_t right) {
    const uint64_t key = (uint64_t)left << 32 | right;
    const uint64_t product = key * 0x9E3779B97F4A7C15u;
    return (size_t)(product ^ product >> 32);
}

/* NULL: the two are not merged. */
static inline const ls_token_merge *ls_token_merges_find(const ls_tokenizer *t, uint32_t left,
                                                         uint32_t right) {
    for (size_t i = ls_pair_place(left, right);; i++) {
        const ls_token_merge *merge = &t->merges[i & t->merge_mask];
        if (merge->left == left && merge->right == right) {
            return merge;
        }
        if (merge->token == LS_NO_TOKEN) {
            return NULL;
        }
    }
}

/* --- tokenizer_added.c --- */
/* The set takes over tokens, which are the memory of ls_calloc. LS_E_INPUT: two are looked for
 * alike. */
ls_status ls_added_set_make(ls_added_set *set, ls_added_token *tokens, size_t count,
                            const char *path);
void ls_added_set_release(ls_added_set *set);

typedef struct ls_added_match {
    size_t begin, end; /* with the space that it strips */
    uint32_t token;    /* LS_NO_TOKEN: no further one */
} ls_added_match;

typedef struct ls_added_search {
    const ls_tokenizer *tokenizer;
    const ls_added_set *set;
    const char *text;
    size_t bytes;
    size_t at;   /* search goes on here */
    size_t done; /* end of the last match */
    pcre2_match_data *word_match;
} ls_added_search;

ls_added_match ls_added_next(ls_added_search *search);

/* --- tokenizer_pattern.c --- */
/* A pattern of tokenizer.json, in Oniguruma's syntax. LS_E_UNSUPPORTED when it may mean something
 * else here. */
ls_status ls_split_pattern_make(ls_tokenizer *tokenizer, const char *source, size_t bytes,
                                const char *path);
ls_status ls_word_pattern_make(ls_tokenizer *tokenizer);

/* --- tokenizer_cuts.c --- */
/* From the merges; may find that no cut is safe. */
ls_status ls_tokenizer_cuts_make(ls_tokenizer *tokenizer, const ls_token_merge *merges,
                                 size_t count);
/* The end of the piece that begins at `at`; first: what stands before it, in the piece too, is
 * a space that the text lacks. */
size_t ls_tokenizer_next_cut(const ls_tokenizer *tokenizer, const char *text, size_t bytes,
                             size_t at, bool first);

#endif
