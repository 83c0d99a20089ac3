/* One long text by several threads. Added tokens are found first, in one pass: what lies between
 * two of them is encoded for itself. Text that is long without any is begun at guessed places:
 * pieces are found one behind the other, each by what follows it alone, so that a scan from any
 * place gives the right pieces from the first place on that the scan of the text before comes to,
 * too. Where they have not met, the scan of the text before goes on until they do. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_encode.h"
#include "runtime/data/tokenizer_merge.h"

enum { PART_BYTES = 1 << 18, PARTS_PER_THREAD = 4, MAX_STARTS = 1024 };

/* Where a piece begins, and how many tokens the part has before it. */
typedef struct start {
    size_t at, tokens;
} start;

typedef struct part {
    bool is_range;
    ls_added_search search; /* is_range: from where it stands */
    size_t matches;         /* is_range: to the end of the last of them */
    const char *text;       /* else pieces of this text [bytes] */
    size_t bytes;
    size_t begin, end; /* from begin on, up to the first that begins at end or behind it */
    bool guessed;      /* a piece begins at begin or not */
    size_t text_bytes; /* is_range: of the source */
    size_t stopped;    /* where the first piece behind the part begins */
    ls_token_list list;
    start starts[MAX_STARTS]; /* guessed: the first ones */
    size_t start_count;
    ls_error error; /* of code LS_OK: none */
} part;

typedef struct long_text {
    const ls_tokenizer *tokenizer;
    ls_token_sink sink;
    void *to;
    int threads;
    ls_tokenizer_work **works; /* [threads] */
    part *parts;               /* [part_capacity] */
    int part_count, part_capacity;
    /* The text of pieces where it is another than the source, normalized or behind a space. */
    size_t made_bytes, source_bytes; /* made_bytes 0: it is the source */
    size_t given_bytes;              /* of made_bytes, to the sink */
    pcre2_match_data *word_match;
    ls_token_list more; /* of pieces on the way to where scans meet */
} long_text;

/* --- parts by threads --- */

static ls_status encode_pieces(ls_tokenizer_work *work, part *p) {
    size_t at = p->begin;
    while (at < p->end) {
        if (p->guessed && p->start_count < MAX_STARTS) {
            p->starts[p->start_count++] = (start){at, p->list.count};
        }
        LS_TRY(ls_encode_piece(work, p->text, p->bytes, at, &at, &p->list));
    }
    p->stopped = at;
    return LS_OK;
}

static void encode_part(ls_tokenizer_work *work, part *p) {
    p->list.count = 0;
    p->start_count = 0;
    p->error.code = LS_OK;
    const ls_status status = p->is_range ? ls_encode_range(work, p->search, p->matches, &p->list)
                                         : encode_pieces(work, p);
    if (status != LS_OK) { /* what was guessed may not be the text's pieces */
        p->start_count = 0;
        p->error = *ls_error_last();
    }
}

/* --- in order --- */

/* The bytes of the source that the next ones of the text stand for: their share, all in all. */
static size_t source_bytes(long_text *l, size_t text_bytes) {
    if (l->made_bytes == 0) {
        return text_bytes;
    }
    const unsigned __int128 before = l->given_bytes, after = before + text_bytes;
    l->given_bytes += text_bytes;
    return (size_t)(after * l->source_bytes / l->made_bytes) -
           (size_t)(before * l->source_bytes / l->made_bytes);
}

static ls_status give(long_text *l, const uint32_t *tokens, size_t count, size_t text_bytes) {
    return l->sink(l->to, tokens, count, source_bytes(l, text_bytes));
}

/* The first token of the part behind `at`, where the text before it ended; goes on from there
 * until it is one of the part's starts, or the part ends. */
static ls_status meet(long_text *l, part *p, size_t *at, size_t *first) {
    size_t i = 0;
    l->more.count = 0;
    const size_t from = *at;
    while (*at < p->end) {
        while (i < p->start_count && p->starts[i].at < *at) {
            i++;
        }
        if (i < p->start_count && p->starts[i].at == *at) {
            *first = p->starts[i].tokens;
            break;
        }
        LS_TRY(ls_encode_piece(l->works[0], p->text, p->bytes, *at, at, &l->more));
    }
    if (*at >= p->end) {
        *first = p->list.count;
        p->stopped = *at;
    }
    return *at > from ? give(l, l->more.tokens, l->more.count, *at - from) : LS_OK;
}

static ls_status join(long_text *l, part *p, size_t *at) {
    size_t first = 0;
    if (!p->guessed && p->error.code != LS_OK) {
        return ls_error_restore(&p->error);
    }
    if (p->is_range) {
        return give(l, p->list.tokens, p->list.count, p->text_bytes);
    }
    if (p->guessed) {
        LS_TRY(meet(l, p, at, &first));
    } else {
        *at = p->begin;
    }
    const size_t from = *at;
    *at = p->stopped;
    return *at > from ? give(l, p->list.tokens + first, p->list.count - first, *at - from) : LS_OK;
}

/* Encodes the parts that wait; *at is where the next piece begins. */
static ls_status flush(long_text *l, size_t *at) {
#pragma omp parallel for schedule(dynamic) num_threads(l->threads) if (l->part_count > 1)
    for (int i = 0; i < l->part_count; i++) {
        encode_part(l->works[omp_get_thread_num()], &l->parts[i]);
    }
    for (int i = 0; i < l->part_count; i++) {
        LS_TRY(join(l, &l->parts[i], at));
    }
    l->part_count = 0;
    return LS_OK;
}

/* Room for a part, of which the lists are kept. */
static part *next_part(long_text *l) {
    part *p = &l->parts[l->part_count++];
    p->is_range = p->guessed = false;
    return p;
}

/* --- the text as parts --- */

/* Pieces of text [bytes], in which no added token is. */
static ls_status split_pieces(long_text *l, const char *text, size_t bytes) {
    for (size_t at = 0, planned = 0; at < bytes;) {
        bool guessed = false;
        while (planned < bytes && l->part_count < l->part_capacity) {
            part *p = next_part(l);
            p->text = text;
            p->bytes = bytes;
            p->begin = planned;
            planned = bytes - planned <= 2 * PART_BYTES ? bytes : planned + PART_BYTES;
            while (planned < bytes && ((unsigned char)text[planned] & 0xC0) == 0x80) {
                planned++;
            }
            p->end = planned;
            p->guessed = guessed;
            guessed = true;
        }
        LS_TRY(flush(l, &at));
        planned = at;
    }
    return LS_OK;
}

/* What is found of text and no part yet. */
typedef struct found {
    ls_added_search from;
    size_t matches, text_bytes;
} found;

static ls_status add_range(long_text *l, found range) {
    size_t at;
    if (l->part_count == l->part_capacity) {
        LS_TRY(flush(l, &at));
    }
    part *p = next_part(l);
    p->is_range = true;
    p->search = range.from;
    p->matches = range.matches;
    p->text_bytes = range.text_bytes;
    return LS_OK;
}

/* Pieces of text [bytes] in order; a byte of no UTF-8 is one. */
static ls_status split_bytes(long_text *l, const char *text, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        const size_t valid =
            l->tokenizer->byte_level ? ls_encode_valid_bytes(text + at, bytes - at) : bytes - at;
        if (valid > 0) {
            LS_TRY(split_pieces(l, text + at, valid));
        } else {
            l->more.count = 0;
            LS_TRY(ls_encode_byte(l->works[0], text + at, &l->more));
            LS_TRY(give(l, l->more.tokens, l->more.count, 1));
        }
        at += valid > 0 ? valid : 1;
    }
    return LS_OK;
}

/* The same, behind a space where one belongs there. */
static ls_status split_spaced(long_text *l, const char *text, size_t bytes, bool at_start) {
    l->made_bytes = bytes;
    if (!ls_encode_lacks_space(l->tokenizer, text, bytes, at_start)) {
        return split_bytes(l, text, bytes);
    }
    char *copy;
    LS_TRY(ls_calloc(bytes + 1, 1, &copy));
    copy[0] = ' ';
    memcpy(copy + 1, text, bytes);
    l->made_bytes++;
    ls_status status = split_bytes(l, copy, bytes + 1);
    free(copy);
    return status;
}

/* Long text between added tokens. */
static ls_status split_between(long_text *l, const char *text, size_t bytes, bool at_start) {
    char *normal = NULL;
    size_t at, made = bytes;
    LS_TRY(flush(l, &at));
    if (l->tokenizer->nfc) {
        LS_TRY(ls_nfc_write_long(l->tokenizer->nfc, l->threads, text, bytes, &normal, &made));
    }
    l->source_bytes = bytes;
    l->given_bytes = 0;
    ls_status status = split_spaced(l, normal ? normal : text, made, at_start);
    l->made_bytes = 0;
    free(normal);
    return status;
}

static ls_status split_text(long_text *l, const char *text, size_t bytes) {
    const ls_tokenizer *t = l->tokenizer;
    const bool local = ls_encode_is_local(t) && t->added_normalized.count == 0;
    ls_added_search search = {.tokenizer = t,
                              .set = &t->added,
                              .text = text,
                              .bytes = bytes,
                              .word_match = l->word_match};
    found range = {.from = search};
    size_t covered = 0; /* what parts and the range stand for */
    for (bool more = bytes > 0; more;) {
        const ls_added_search before = search;
        const ls_added_match match = ls_added_next(&search);
        if (local && match.begin > before.done && match.begin - before.done > 2 * PART_BYTES) {
            LS_TRY(range.matches > 0 ? add_range(l, range) : LS_OK);
            LS_TRY(
                split_between(l, text + before.done, match.begin - before.done, before.done == 0));
            range = (found){.from = before};
            range.from.done = covered = match.begin;
        }
        const bool any = range.matches > 0;
        more = match.token != LS_NO_TOKEN;
        range.matches = more ? range.matches + 1 : SIZE_MAX;
        range.text_bytes += match.end > covered ? match.end - covered : 0;
        covered = match.end > covered ? match.end : covered;
        if (range.text_bytes >= PART_BYTES || (!more && (any || range.text_bytes > 0))) {
            LS_TRY(add_range(l, range));
            range = (found){.from = search};
        }
    }
    size_t at;
    return flush(l, &at);
}

/* --- the whole --- */

static void release(long_text *l) {
    for (int i = 0; l->works && i < l->threads; i++) {
        ls_tokenizer_work_release(l->works[i]);
    }
    for (int i = 0; l->parts && i < l->part_capacity; i++) {
        free(l->parts[i].list.tokens);
    }
    pcre2_match_data_free(l->word_match);
    free(l->works);
    free(l->parts);
    free(l->more.tokens);
}

static ls_status run(long_text *l, const char *text, size_t bytes) {
    LS_TRY(ls_calloc((size_t)l->threads, sizeof(ls_tokenizer_work *), &l->works));
    LS_TRY(ls_calloc((size_t)l->part_capacity, sizeof *l->parts, &l->parts));
    for (int i = 0; i < l->threads; i++) {
        LS_TRY(ls_tokenizer_work_make(l->tokenizer, &l->works[i]));
    }
    l->word_match = pcre2_match_data_create(1, NULL);
    if (!l->word_match) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a match");
    }
    return split_text(l, text, bytes);
}

ls_status ls_tokenizer_encode_long(const ls_tokenizer *tokenizer, const char *text, size_t bytes,
                                   ls_token_sink sink, void *to) {
    const int threads = omp_get_max_threads();
    long_text l = {.tokenizer = tokenizer,
                   .sink = sink,
                   .to = to,
                   .threads = threads,
                   .part_capacity = PARTS_PER_THREAD * threads};
    ls_status status = run(&l, text, bytes);
    release(&l);
    return status;
}
