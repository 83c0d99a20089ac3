/* Added tokens, such as <|endoftext|>, in text: the leftmost, of those the longest, as the library
 * finds them; what single_word, lstrip and rstrip mean is what they mean there, too. */
#include "runtime/data/tokenizer_tables.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_utf8.h"

/* The node under `parent` (0: the root) for a byte, made when it is not there. */
static uint32_t node_below(ls_added_set *set, uint32_t *used, uint32_t parent, unsigned char byte) {
    uint32_t *link = parent ? &set->nodes[parent].child : &set->roots[byte];
    while (*link && set->nodes[*link].byte != byte) {
        link = &set->nodes[*link].sibling;
    }
    if (!*link) {
        *link = ++*used;
        set->nodes[*link].byte = byte;
    }
    return *link;
}

static int only_first(const ls_added_set *set) {
    int first = -1;
    for (size_t i = 0; i < set->count; i++) {
        const int byte = (unsigned char)set->tokens[i].text.at[0];
        if (first >= 0 && byte != first) {
            return -1;
        }
        first = byte;
    }
    return first;
}

ls_status ls_added_set_make(ls_added_set *set, ls_added_token *tokens, size_t count,
                            const char *path) {
    *set = (ls_added_set){.tokens = tokens, .count = count};
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++) {
        bytes += tokens[i].text.bytes;
    }
    LS_TRY(ls_calloc(bytes, sizeof *set->nodes, &set->nodes));
    uint32_t used = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t node = 0;
        for (size_t j = 0; j < tokens[i].text.bytes; j++) {
            node = node_below(set, &used, node, (unsigned char)tokens[i].text.at[j]);
        }
        if (set->nodes[node].end) {
            return LS_FAIL(LS_E_INPUT, "'%s': two of added_tokens are '%.*s'", path,
                           (int)(tokens[i].text.bytes < 100 ? tokens[i].text.bytes : 100),
                           tokens[i].text.at);
        }
        set->nodes[node].end = (uint32_t)i + 1;
    }
    set->only_first = only_first(set);
    return LS_OK;
}

void ls_added_set_release(ls_added_set *set) {
    free(set->tokens);
    free(set->nodes);
}

/* The longest token of the set that begins at `at`; NULL: none. */
static const ls_added_token *longest_at(const ls_added_set *set, const char *at, const char *end) {
    const ls_added_token *longest = NULL;
    for (uint32_t node = set->roots[(unsigned char)*at]; node;) {
        longest = set->nodes[node].end ? &set->tokens[set->nodes[node].end - 1] : longest;
        if (++at == end) {
            break;
        }
        node = set->nodes[node].child;
        while (node && set->nodes[node].byte != (unsigned char)*at) {
            node = set->nodes[node].sibling;
        }
    }
    return longest;
}

static size_t char_before(const char *text, size_t at, uint32_t *code) {
    size_t bytes = 1;
    while (bytes < 4 && bytes < at && (unsigned char)text[at - bytes] >> 6 == 2) {
        bytes++;
    }
    if (ls_utf8_char(text + at - bytes, text + at, code) == bytes) {
        return bytes;
    }
    ls_utf8_char(text + at - 1, text + at, code);
    return 1;
}

static bool is_word(const ls_added_search *search, const char *at, size_t bytes, uint32_t code) {
    return code < LS_UTF8_BAD && pcre2_match(search->tokenizer->word, (PCRE2_SPTR)at, bytes, 0,
                                             PCRE2_NO_UTF_CHECK, search->word_match, NULL) > 0;
}

/* Does the text [begin, end) touch no character of a word? */
static bool is_single(const ls_added_search *search, size_t begin, size_t end) {
    uint32_t code;
    if (begin > 0) {
        const size_t bytes = char_before(search->text, begin, &code);
        if (is_word(search, search->text + begin - bytes, bytes, code)) {
            return false;
        }
    }
    if (end < search->bytes) {
        const size_t bytes = ls_utf8_char(search->text + end, search->text + search->bytes, &code);
        return !is_word(search, search->text + end, bytes, code);
    }
    return true;
}

/* The token's text is [begin, end); with the space around it that it takes. */
static ls_added_match stripped(const ls_added_search *search, const ls_added_token *token,
                               size_t begin, size_t end) {
    uint32_t code;
    if (token->lstrip) {
        while (begin > search->done) {
            const size_t bytes = char_before(search->text, begin, &code);
            if (!ls_utf8_is_space(code)) {
                break;
            }
            begin -= bytes;
        }
        begin = begin < search->done ? search->done : begin;
    }
    if (token->rstrip) {
        while (end < search->bytes) {
            const size_t bytes =
                ls_utf8_char(search->text + end, search->text + search->bytes, &code);
            if (!ls_utf8_is_space(code)) {
                break;
            }
            end += bytes;
        }
    }
    return (ls_added_match){begin, end, token->token};
}

ls_added_match ls_added_next(ls_added_search *search) {
    const ls_added_set *set = search->set;
    const char *end = search->text + search->bytes;
    while (set->count > 0 && search->at < search->bytes) {
        const char *at = search->text + search->at;
        if (set->only_first >= 0) {
            at = memchr(at, set->only_first, (size_t)(end - at));
        } else {
            while (at < end && !set->roots[(unsigned char)*at]) {
                at++;
            }
        }
        if (!at || at == end) {
            break;
        }
        const ls_added_token *token = longest_at(set, at, end);
        const size_t begin = (size_t)(at - search->text);
        search->at = begin + (token ? token->text.bytes : 1);
        if (token && (!token->single_word || is_single(search, begin, search->at))) {
            const ls_added_match match = stripped(search, token, begin, search->at);
            search->done = match.end;
            return match;
        }
    }
    search->at = search->bytes;
    return (ls_added_match){search->bytes, search->bytes, LS_NO_TOKEN};
}
