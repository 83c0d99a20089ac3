#include "runtime/data/chat.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/data/shard.h"
#include "runtime/data/tokenizer_merge.h"
#include "runtime/data/tokenizer_utf8.h"

struct ls_chat_format {
    const char *name;
    const char *start, *end_of_role, *end; /* tokens; end_of_role NULL: none */
    const char *behind_role, *behind_turn; /* texts */
    bool trims;
};

static const struct ls_chat_format formats[] = {
    {"chatml", "<|im_start|>", NULL, "<|im_end|>", "\n", "\n", false},
    {"llama3", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "\n\n", "", true},
};

static ls_status find_token(const ls_tokenizer *tokenizer, const char *text, const char *format,
                            uint32_t *token) {
    const int64_t found = text ? ls_tokenizer_added(tokenizer, text) : 0;
    *token = (uint32_t)found;
    return found >= 0 ? LS_OK
                      : LS_FAIL(LS_E_USAGE,
                                "the tokenizer has no token %s, with which chats of the format %s "
                                "are written; is it that of another model?",
                                text, format);
}

ls_status ls_chat_init(ls_chat *chat, const char *format, const ls_tokenizer *tokenizer) {
    *chat = (ls_chat){0};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        const struct ls_chat_format *f = &formats[i];
        if (strcmp(f->name, format) == 0) {
            LS_TRY(find_token(tokenizer, f->start, format, &chat->start));
            LS_TRY(find_token(tokenizer, f->end_of_role, format, &chat->end_of_role));
            LS_TRY(find_token(tokenizer, f->end, format, &chat->end));
            chat->format = f;
            return LS_OK;
        }
    }
    return LS_FAIL(LS_E_USAGE, "--chat is '%s'; chatml and llama3 are known", format);
}

/* --- a message --- */

typedef struct message {
    const char *role, *content;
    size_t bytes; /* of content */
    bool is_target;
} message;

/* Where the format has it so, the content without white space around it. */
static void trim(const ls_chat *chat, message *m) {
    size_t begin = m->bytes, end = 0, step;
    for (size_t at = 0; at < m->bytes; at += step) {
        uint32_t code;
        step = ls_utf8_char(m->content + at, m->content + m->bytes, &code);
        if (!ls_utf8_is_space(code) && !(code >= 0x1C && code <= 0x1F)) { /* as Python's strip */
            begin = at < begin ? at : begin;
            end = at + step;
        }
    }
    if (chat->format->trims) {
        m->content += end > begin ? begin : 0;
        m->bytes = end > begin ? end - begin : 0;
    }
}

static ls_status read_message(const ls_chat *chat, const json_t *item, size_t i, message *m) {
    static const char *const roles[] = {"system", "user", "assistant"};
    const json_t *content = json_object_get(item, "content");
    const char *role = json_string_value(json_object_get(item, "role"));
    *m = (message){.content = json_string_value(content), .bytes = json_string_length(content)};
    for (int k = 0; role && k < 3; k++) {
        m->role = strcmp(role, roles[k]) == 0 ? roles[k] : m->role;
    }
    if (!m->role) {
        return LS_FAIL(LS_E_INPUT,
                       "message %zu %s%.40s%s; system, user and assistant are known (chats with "
                       "others come as tokens, with --loss-mask)",
                       i, role ? "has the role '" : "has no role", role ? role : "",
                       role ? "'" : "");
    }
    if (!m->content) {
        return LS_FAIL(LS_E_INPUT, "message %zu, of role %s, has no content that is text", i, role);
    }
    m->is_target = m->role == roles[2];
    trim(chat, m);
    return LS_OK;
}

/* --- its tokens --- */

static ls_status put_token(ls_token_list *list, uint32_t token, bool target) {
    LS_TRY(ls_token_list_reserve(list, 1));
    list->tokens[list->count++] = token | (target ? 0 : LS_SHARD_NO_TARGET);
    return LS_OK;
}

static ls_status put_text(ls_tokenizer_work *work, ls_token_list *list, const char *text,
                          size_t bytes, bool target) {
    size_t at = list->count;
    LS_TRY(ls_tokenizer_encode(work, text, bytes, list));
    for (; !target && at < list->count; at++) {
        list->tokens[at] |= LS_SHARD_NO_TARGET;
    }
    return LS_OK;
}

/* The text before the content, and the content: of the assistant apart, as the model has the one
 * before it writes the other; else together, as a template's text is tokenized. */
static ls_status put_content(ls_tokenizer_work *work, ls_token_list *list, const char *before,
                             const message *m) {
    const size_t bytes = strlen(before);
    if (m->is_target) {
        LS_TRY(put_text(work, list, before, bytes, false));
        return put_text(work, list, m->content, m->bytes, true);
    }
    char *text;
    LS_TRY(ls_calloc(bytes + m->bytes, 1, &text));
    memcpy(mempcpy(text, before, bytes), m->content, m->bytes);
    const ls_status status = put_text(work, list, text, bytes + m->bytes, false);
    free(text);
    return status;
}

/* The tokens that begin a turn; before: what is text between them and the content. */
static ls_status put_head(const ls_chat *chat, ls_tokenizer_work *work, ls_token_list *list,
                          const char *role, char before[32]) {
    const struct ls_chat_format *f = chat->format;
    LS_TRY(put_token(list, chat->start, false));
    if (f->end_of_role) {
        LS_TRY(put_text(work, list, role, strlen(role), false));
        LS_TRY(put_token(list, chat->end_of_role, false));
    }
    snprintf(before, 32, "%s%s", f->end_of_role ? "" : role, f->behind_role);
    return LS_OK;
}

static ls_status put_message(const ls_chat *chat, ls_tokenizer_work *work, ls_token_list *list,
                             const message *m) {
    const struct ls_chat_format *f = chat->format;
    char before[32];
    LS_TRY(put_head(chat, work, list, m->role, before));
    LS_TRY(put_content(work, list, before, m));
    LS_TRY(put_token(list, chat->end, m->is_target));
    return put_text(work, list, f->behind_turn, strlen(f->behind_turn), false);
}

ls_status ls_chat_encode(const ls_chat *chat, ls_tokenizer_work *work, const json_t *messages,
                         ls_token_list *list) {
    size_t i;
    const json_t *item;
    bool any = false;
    json_array_foreach(messages, i, item) {
        message m;
        LS_TRY(read_message(chat, item, i, &m));
        LS_TRY(put_message(chat, work, list, &m));
        any = any || m.is_target;
    }
    return any ? LS_OK
               : LS_FAIL(LS_E_INPUT, "no message is the assistant's: there is nothing to learn");
}

ls_status ls_chat_ask(const ls_chat *chat, ls_tokenizer_work *work, const char *system,
                      const char *user, size_t user_bytes, ls_token_list *list) {
    const size_t first = list->count;
    message turns[] = {{"system", system, system ? strlen(system) : 0, false},
                       {"user", user, user_bytes, false}};
    char before[32];
    for (int i = system ? 0 : 1; i < 2; i++) {
        trim(chat, &turns[i]);
        LS_TRY(put_message(chat, work, list, &turns[i]));
    }
    LS_TRY(put_head(chat, work, list, "assistant", before));
    LS_TRY(put_text(work, list, before, strlen(before), false));
    for (size_t i = first; i < list->count; i++) {
        list->tokens[i] &= ~LS_SHARD_NO_TARGET;
    }
    return LS_OK;
}
