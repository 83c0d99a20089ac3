/* added_tokens of a tokenizer.json. The library numbers those that are not in vocab anew, from the
 * vocabulary's size on; a file that says another number would have one token here and another
 * there, and is refused. */
#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_read.h"
#include "runtime/data/tokenizer_utf8.h"

typedef struct added_reader {
    const json_t *vocab;
    const char *path;
    json_int_t next; /* the number of the next one that is not in vocab */
    char *texts;     /* free part of added_memory */
    bool *taken;     /* [count] */
} added_reader;

static ls_status check_id(const ls_tokenizer *t, added_reader *r, const char *content,
                          json_int_t id) {
    const json_t *known = json_object_get(r->vocab, content);
    const json_int_t expected = known ? json_integer_value(known) : r->next++;
    if (id != expected) {
        return LS_FAIL(LS_E_INPUT, "'%s': added token '%.100s' has id %lld; %lld is expected, %s",
                       r->path, content, (long long)id, (long long)expected,
                       known ? "which it has in vocab" : "the next behind the vocabulary");
    }
    if (r->taken[id] || (!known && t->texts[id].at)) {
        return LS_FAIL(LS_E_INPUT, "'%s': added token '%.100s' has id %lld of another token",
                       r->path, content, (long long)id);
    }
    r->taken[id] = true;
    return LS_OK;
}

static char *put_spaced(const ls_tokenizer *t, ls_token_text text, char *to) {
    if (t->prepend == LS_PREPEND_ALWAYS) {
        to = mempcpy(to, LS_UTF8_SPACE, 3);
    }
    for (size_t i = 0; i < text.bytes; i++) {
        if (text.at[i] == ' ') {
            to = mempcpy(to, LS_UTF8_SPACE, 3);
        } else {
            *to++ = text.at[i];
        }
    }
    return to;
}

/* What the normalizer makes of a token's text. */
static ls_status normalize(const ls_tokenizer *t, added_reader *r, ls_token_text *text) {
    if (t->nfc) {
        ls_nfc_work work = {0};
        const ls_status status =
            ls_nfc_write(t->nfc, &work, text->at, text->bytes, r->texts, &text->bytes);
        free(work.codes);
        LS_TRY(status);
        text->at = r->texts;
        r->texts += text->bytes;
    }
    if (t->normalizes) {
        const char *end = put_spaced(t, *text, r->texts);
        *text = (ls_token_text){r->texts, (size_t)(end - r->texts)};
        r->texts += text->bytes;
    }
    return LS_OK;
}

static ls_status read_token(ls_tokenizer *t, added_reader *r, const json_t *item,
                            ls_added_token *token) {
    const char *content = json_string_value(json_object_get(item, "content"));
    const json_int_t id = json_integer_value(json_object_get(item, "id"));
    bool special;
    LS_TRY(check_id(t, r, content, id));
    LS_TRY(ls_tokenizer_flag(item, "special", false, r->path, &special));
    LS_TRY(ls_tokenizer_flag(item, "normalized", !special, r->path, &token->normalized));
    LS_TRY(ls_tokenizer_flag(item, "single_word", false, r->path, &token->single_word));
    LS_TRY(ls_tokenizer_flag(item, "lstrip", false, r->path, &token->lstrip));
    LS_TRY(ls_tokenizer_flag(item, "rstrip", false, r->path, &token->rstrip));
    token->token = (uint32_t)id;
    t->shown[id] = (ls_token_text){r->texts, strlen(content)};
    token->text = t->shown[id];
    r->texts = mempcpy(r->texts, content, strlen(content));
    LS_TRY(token->normalized ? normalize(t, r, &token->text) : LS_OK);
    if (token->single_word && !t->word) {
        LS_TRY(ls_word_pattern_make(t));
    }
    return LS_OK;
}

/* Those that are looked for in the text as it is, and those in what the normalizer makes of it. */
static ls_status sets_make(ls_tokenizer *t, const ls_added_token *tokens, size_t count,
                           const char *path) {
    for (int normalized = 0; normalized < 2; normalized++) {
        ls_added_token *kept;
        size_t kept_count = 0;
        LS_TRY(ls_calloc(count + 1, sizeof *kept, &kept));
        for (size_t i = 0; i < count; i++) {
            if (tokens[i].normalized == (normalized == 1)) {
                kept[kept_count++] = tokens[i];
            }
        }
        LS_TRY(ls_added_set_make(normalized ? &t->added_normalized : &t->added, kept, kept_count,
                                 path));
    }
    t->normalizes = t->normalizes && t->added_normalized.count > 0;
    return LS_OK;
}

ls_status ls_tokenizer_read_added(ls_tokenizer *t, const json_t *root, const char *path) {
    const json_t *list = json_object_get(root, "added_tokens");
    const size_t count = json_array_size(list);
    size_t bytes = 1;
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        bytes += (1 + 2 * LS_NFC_GROWTH) * json_string_length(json_object_get(item, "content")) + 3;
    }
    LS_TRY(ls_calloc(bytes, 1, &t->added_memory));
    const json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab");
    added_reader r = {.vocab = vocab,
                      .path = path,
                      .next = (json_int_t)json_object_size(vocab),
                      .texts = t->added_memory};
    ls_added_token *tokens = NULL;
    LS_TRY(ls_calloc((size_t)t->count + 1, sizeof *r.taken, &r.taken));
    ls_status status = ls_calloc(count + 1, sizeof *tokens, &tokens);
    for (size_t i = 0; status == LS_OK && i < count; i++) {
        status = read_token(t, &r, json_array_get(list, i), &tokens[i]);
    }
    if (status == LS_OK) {
        status = sets_make(t, tokens, count, path);
    }
    free(tokens);
    free(r.taken);
    return status;
}
