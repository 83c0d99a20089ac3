/* Hash tables of tokens and of merges, made once and then read by all threads. */
#include "runtime/data/tokenizer_tables.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/hash.h"

/* A power of two, at least twice count. */
static size_t places(size_t count) {
    size_t size = 16;
    while (size < 2 * count) {
        size *= 2;
    }
    return size;
}

ls_status ls_token_map_make(ls_token_map *map, size_t tokens, const ls_token_text *texts) {
    const size_t size = places(tokens);
    LS_TRY(ls_calloc(size, sizeof *map->slots, &map->slots));
    memset(map->slots, 0xFF, size * sizeof *map->slots);
    map->mask = size - 1;
    map->texts = texts;
    return LS_OK;
}

/* Where the text stands, or the empty place where it belongs. */
static size_t place_of(const ls_token_map *map, const char *text, size_t bytes) {
    for (size_t i = ls_xxh64(text, bytes, 0);; i++) {
        const uint32_t token = map->slots[i & map->mask];
        if (token == LS_NO_TOKEN ||
            (map->texts[token].bytes == bytes && memcmp(map->texts[token].at, text, bytes) == 0)) {
            return i & map->mask;
        }
    }
}

bool ls_token_map_add(ls_token_map *map, uint32_t token) {
    uint32_t *slot = &map->slots[place_of(map, map->texts[token].at, map->texts[token].bytes)];
    const bool is_new = *slot == LS_NO_TOKEN;
    *slot = is_new ? token : *slot;
    return is_new;
}

uint32_t ls_token_map_find(const ls_token_map *map, const char *text, size_t bytes) {
    return map->slots[place_of(map, text, bytes)];
}

ls_status ls_token_merges_make(ls_tokenizer *tokenizer, size_t count) {
    const size_t size = places(count);
    LS_TRY(ls_calloc(size, sizeof *tokenizer->merges, &tokenizer->merges));
    for (size_t i = 0; i < size; i++) {
        tokenizer->merges[i] = (ls_token_merge){LS_NO_TOKEN, LS_NO_TOKEN, LS_NO_TOKEN, 0};
    }
    tokenizer->merge_mask = size - 1;
    return LS_OK;
}

void ls_token_merges_add(ls_tokenizer *tokenizer, ls_token_merge merge) {
    size_t i = ls_pair_place(merge.left, merge.right) & tokenizer->merge_mask;
    ls_token_merge *merges = tokenizer->merges;
    while (merges[i].token != LS_NO_TOKEN &&
           (merges[i].left != merge.left || merges[i].right != merge.right)) {
        i = (i + 1) & tokenizer->merge_mask;
    }
    tokenizer->merge_count += merges[i].token == LS_NO_TOKEN;
    merges[i] = merge;
}
