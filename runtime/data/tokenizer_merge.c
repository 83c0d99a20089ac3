/* The tokens of one piece: its symbols, of which neighbours are merged, the pair of the lowest rank
 * first and of equal ones the leftmost, until no two that stand together have a merge. Short pieces
 * by looking through all pairs, longer ones by a heap of them in O(n log n). */
#include "runtime/data/tokenizer_merge.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_utf8.h"

enum { SHORT_PIECE = 32 };

/* --- symbols --- */

ls_status ls_token_list_reserve(ls_token_list *list, size_t more) {
    if (list->capacity - list->count >= more) {
        return LS_OK;
    }
    const size_t capacity = list->capacity + list->capacity / 2 + more + 64;
    uint32_t *tokens = realloc(list->tokens, capacity * sizeof *tokens);
    if (!tokens) {
        return LS_FAIL(LS_E_MEMORY, "no memory for %zu tokens", capacity);
    }
    list->tokens = tokens;
    list->capacity = capacity;
    return LS_OK;
}

/* The symbols of a piece as they are found; unknown ones may become one. */
typedef struct spelling {
    const ls_tokenizer *tokenizer;
    uint32_t *to;
    size_t count;
    bool unknown; /* one is to come before the next */
} spelling;

static void put(spelling *s, uint32_t token) {
    if (s->unknown) {
        s->to[s->count++] = s->tokenizer->unknown;
        s->unknown = false;
    }
    s->to[s->count++] = token;
}

/* False: no token stands for it. */
static bool put_unknown(spelling *s) {
    if (s->tokenizer->unknown == LS_NO_TOKEN) {
        return false;
    }
    if (s->unknown && !s->tokenizer->fuse_unknown) {
        s->to[s->count++] = s->tokenizer->unknown;
    }
    s->unknown = true;
    return true;
}

static bool put_char(spelling *s, const char *at, size_t bytes) {
    const ls_tokenizer *t = s->tokenizer;
    const uint32_t token =
        t->spaces && *at == ' ' ? t->space_token : ls_token_map_find(&t->map, at, bytes);
    if (token != LS_NO_TOKEN) {
        put(s, token);
        return true;
    }
    if (t->byte_tokens[0] == LS_NO_TOKEN) {
        return put_unknown(s);
    }
    const char *from = t->spaces && *at == ' ' ? LS_UTF8_SPACE : at;
    const size_t count = from == at ? bytes : sizeof LS_UTF8_SPACE - 1;
    for (size_t i = 0; i < count; i++) {
        s->to[s->count++] = t->byte_tokens[(unsigned char)from[i]];
    }
    return true;
}

/* Into to, which has room for bytes + 4. */
static ls_status symbols_of(const ls_tokenizer *t, const char *piece, size_t bytes, bool before,
                            uint32_t *to, size_t *count) {
    spelling s = {.tokenizer = t, .to = to};
    bool known = !before || put_char(&s, " ", 1);
    size_t at = 0, step = 1;
    for (; known && at < bytes; at += step) {
        if (t->byte_level) {
            const uint32_t token = t->byte_tokens[(unsigned char)piece[at]];
            known = token != LS_NO_TOKEN || put_unknown(&s);
            if (token != LS_NO_TOKEN) {
                put(&s, token);
            }
            continue;
        }
        uint32_t code;
        step = ls_utf8_char(piece + at, piece + bytes, &code);
        known = code >= LS_UTF8_BAD && t->byte_tokens[0] == LS_NO_TOKEN
                    ? put_unknown(&s)
                    : put_char(&s, piece + at, step);
    }
    if (!known) {
        const char *bad = at >= step ? piece + at - step : " ";
        return LS_FAIL(LS_E_INPUT, "no token stands for byte 0x%02x of the text, at '%.*s'",
                       (unsigned char)*bad, bad == piece + at - step ? (int)step : 1, bad);
    }
    if (s.unknown) {
        s.to[s.count++] = t->unknown;
    }
    *count = s.count;
    return LS_OK;
}

/* --- short pieces --- */

static ls_token_merge pair_at(const ls_tokenizer *t, const uint32_t *symbols, size_t i) {
    const ls_token_merge *found = ls_token_merges_find(t, symbols[i], symbols[i + 1]);
    return found ? *found : (ls_token_merge){.token = LS_NO_TOKEN, .rank = UINT32_MAX};
}

/* In place; the number of what remains. */
static size_t merge_short(const ls_tokenizer *t, uint32_t *symbols, size_t count) {
    uint32_t ranks[SHORT_PIECE], tokens[SHORT_PIECE]; /* of the pairs i, i + 1 */
    for (size_t i = 0; i + 1 < count; i++) {
        const ls_token_merge pair = pair_at(t, symbols, i);
        ranks[i] = pair.rank;
        tokens[i] = pair.token;
    }
    while (count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < count; i++) {
            best = ranks[i] < ranks[best] ? i : best;
        }
        if (ranks[best] == UINT32_MAX) {
            break;
        }
        symbols[best] = tokens[best];
        count--;
        for (size_t i = best + 1; i < count; i++) {
            symbols[i] = symbols[i + 1];
            ranks[i - 1] = ranks[i];
            tokens[i - 1] = tokens[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < count; i++) {
            const ls_token_merge pair = pair_at(t, symbols, i);
            ranks[i] = pair.rank;
            tokens[i] = pair.token;
        }
    }
    return count;
}

/* --- long pieces --- */

static bool goes_first(const ls_merge_entry *a, const ls_merge_entry *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void sift_down(ls_merge_entry *heap, size_t count, size_t i) {
    const ls_merge_entry entry = heap[i];
    for (size_t child; (child = 2 * i + 1) < count; i = child) {
        child += child + 1 < count && goes_first(&heap[child + 1], &heap[child]);
        if (!goes_first(&heap[child], &entry)) {
            break;
        }
        heap[i] = heap[child];
    }
    heap[i] = entry;
}

static void push(ls_merge_work *work, ls_merge_entry entry) {
    size_t i = work->heap_count++;
    for (; i > 0 && goes_first(&entry, &work->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        work->heap[i] = work->heap[(i - 1) / 2];
    }
    work->heap[i] = entry;
}

/* The pair that begins at symbol `at`, if it has a merge. */
static void push_pair(const ls_tokenizer *t, ls_merge_work *work, const uint32_t *symbols,
                      uint32_t at) {
    const uint32_t next = work->links[at].next;
    const ls_token_merge *merge =
        next == LS_NO_TOKEN ? NULL : ls_token_merges_find(t, symbols[at], symbols[next]);
    if (merge) {
        push(work, (ls_merge_entry){merge->rank, at, merge->token});
    }
}

/* Does a merge that was found earlier still stand there? */
static bool is_current(const ls_tokenizer *t, const ls_merge_work *work, const uint32_t *symbols,
                       ls_merge_entry entry) {
    const uint32_t next = work->links[entry.at].next;
    if (symbols[entry.at] == LS_NO_TOKEN || next == LS_NO_TOKEN) {
        return false;
    }
    const ls_token_merge *merge = ls_token_merges_find(t, symbols[entry.at], symbols[next]);
    return merge && merge->token == entry.token;
}

static void merge_pair(const ls_tokenizer *t, ls_merge_work *work, uint32_t *symbols,
                       ls_merge_entry entry) {
    const uint32_t next = work->links[entry.at].next, behind = work->links[next].next;
    const uint32_t before = work->links[entry.at].before;
    symbols[entry.at] = entry.token;
    symbols[next] = LS_NO_TOKEN;
    work->links[entry.at].next = behind;
    if (behind != LS_NO_TOKEN) {
        work->links[behind].before = entry.at;
    }
    if (before != LS_NO_TOKEN) {
        push_pair(t, work, symbols, before);
    }
    push_pair(t, work, symbols, entry.at);
}

/* Room for what a piece of count symbols needs: a merge takes one entry and adds two. */
static ls_status long_room(ls_merge_work *work, size_t count) {
    if (count >= LS_NO_TOKEN) {
        return LS_FAIL(LS_E_UNSUPPORTED, "a piece of text of %zu symbols", count);
    }
    if (work->long_capacity >= count) {
        return LS_OK;
    }
    free(work->links);
    free(work->heap);
    work->links = NULL;
    work->heap = NULL;
    work->long_capacity = 0;
    LS_TRY(ls_calloc(count, sizeof *work->links, &work->links));
    LS_TRY(ls_calloc(2 * count, sizeof *work->heap, &work->heap));
    work->long_capacity = count;
    return LS_OK;
}

static ls_status merge_long(const ls_tokenizer *t, ls_merge_work *work, uint32_t *symbols,
                            size_t *count) {
    LS_TRY(long_room(work, *count));
    const uint32_t n = (uint32_t)*count;
    for (uint32_t i = 0; i < n; i++) {
        work->links[i].before = i == 0 ? LS_NO_TOKEN : i - 1;
        work->links[i].next = i + 1 < n ? i + 1 : LS_NO_TOKEN;
    }
    work->heap_count = 0;
    for (uint32_t i = 0; i + 1 < n; i++) {
        push_pair(t, work, symbols, i);
    }
    while (work->heap_count > 0) {
        const ls_merge_entry top = work->heap[0];
        work->heap[0] = work->heap[--work->heap_count];
        if (work->heap_count > 0) {
            sift_down(work->heap, work->heap_count, 0);
        }
        if (is_current(t, work, symbols, top)) {
            merge_pair(t, work, symbols, top);
        }
    }
    size_t left = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (symbols[i] != LS_NO_TOKEN) {
            symbols[left++] = symbols[i];
        }
    }
    *count = left;
    return LS_OK;
}

/* --- pieces --- */

ls_status ls_merge_work_init(ls_merge_work *work) {
    return ls_calloc((size_t)2 << LS_SEEN_BITS, sizeof *work->seen, &work->seen);
}

void ls_merge_work_release(ls_merge_work *work) {
    free(work->links);
    free(work->heap);
    free(work->seen);
    *work = (ls_merge_work){0};
}

static ls_status merge_piece(const ls_tokenizer *t, ls_merge_work *work, const char *piece,
                             size_t bytes, bool before, ls_token_list *list) {
    LS_TRY(ls_token_list_reserve(list, bytes + 4));
    uint32_t *symbols = list->tokens + list->count;
    if (t->ignore_merges) {
        const uint32_t whole = ls_token_map_find(&t->map, piece, bytes);
        if (whole != LS_NO_TOKEN) {
            *symbols = whole;
            list->count++;
            return LS_OK;
        }
    }
    size_t count = 0;
    LS_TRY(symbols_of(t, piece, bytes, before, symbols, &count));
    if (count > SHORT_PIECE) {
        LS_TRY(merge_long(t, work, symbols, &count));
    } else {
        count = merge_short(t, symbols, count);
    }
    list->count += count;
    return LS_OK;
}

ls_status ls_merge_piece_behind_space(const ls_tokenizer *t, ls_merge_work *work, const char *piece,
                                      size_t bytes, ls_token_list *list) {
    return merge_piece(t, work, piece, bytes, true, list);
}

/* The bytes of a piece, at most LS_SEEN_BYTES_MAX, and their number. */
static ls_seen_piece seen_key(const char *piece, size_t bytes, const char *end) {
    ls_seen_piece key = {0};
    if (end - piece >= 16) {
        memcpy(&key.low, piece, 8);
        memcpy(&key.high, piece + 8, 8);
        const uint64_t all = UINT64_MAX;
        key.low &= bytes >= 8 ? all : ~(all << 8 * bytes);
        key.high &= bytes > 8 ? ~(all << 8 * (bytes - 8)) : 0;
    } else {
        memcpy(&key.low, piece, bytes < 8 ? bytes : 8);
        memcpy(&key.high, piece + 8, bytes > 8 ? bytes - 8 : 0);
    }
    key.high |= (uint64_t)bytes << 56;
    return key;
}

static size_t seen_place(ls_seen_piece key) {
    const uint64_t mixed = (key.low ^ (key.high * 0x9E3779B97F4A7C15u)) * 0xD6E8FEB86659FD93u;
    return (size_t)(mixed >> (64 - LS_SEEN_BITS)) * 2;
}

static bool same_piece(const ls_seen_piece *seen, ls_seen_piece key) {
    return seen->low == key.low && (seen->high ^ key.high) << 4 == 0;
}

static void keep_piece(ls_merge_work *work, ls_seen_piece key, const uint32_t *tokens,
                       size_t count) {
    ls_seen_piece *seen = &work->seen[seen_place(key)];
    if (count <= LS_SEEN_TOKENS_MAX) {
        key.high |= (uint64_t)count << 60;
        memcpy(key.tokens, tokens, count * sizeof *tokens);
        seen[1] = seen[0];
        seen[0] = key;
    }
}

ls_status ls_merge_piece(const ls_tokenizer *t, ls_merge_work *work, const char *piece,
                         size_t bytes, const char *end, ls_token_list *list) {
    if (bytes > LS_SEEN_BYTES_MAX) {
        return merge_piece(t, work, piece, bytes, false, list);
    }
    const ls_seen_piece key = seen_key(piece, bytes, end);
    const ls_seen_piece *seen = &work->seen[seen_place(key)];
    seen += !same_piece(seen, key);
    if (same_piece(seen, key)) {
        LS_TRY(ls_token_list_reserve(list, LS_SEEN_TOKENS_MAX));
        memcpy(list->tokens + list->count, seen->tokens, sizeof seen->tokens);
        list->count += seen->high >> 60;
        return LS_OK;
    }
    const size_t first = list->count;
    LS_TRY(merge_piece(t, work, piece, bytes, false, list));
    keep_piece(work, key, list->tokens + first, list->count - first);
    return LS_OK;
}
