/* Chats to tokens, in the two formats that are tokens of the tokenizer's own around texts:
 *
 *   chatml  <|im_start|>ROLE\nCONTENT<|im_end|>\n                                       (Qwen)
 *   llama3  <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>, without space around
 *           CONTENT                                                                     (Llama-3)
 *
 * for each message. What the assistant says, and the token that ends its turn, are the targets. No
 * message is added: templates that put a system message of their own before others have it from
 * the data here. */
#ifndef LS_DATA_CHAT_H
#define LS_DATA_CHAT_H

#include <jansson.h>

#include "runtime/data/tokenizer.h"

typedef struct ls_chat {
    const struct ls_chat_format *format; /* NULL: no chats */
    uint32_t start, end_of_role, end;    /* tokens */
} ls_chat;

/* LS_E_USAGE: no such format, or the tokenizer lacks one of its tokens. */
ls_status ls_chat_init(ls_chat *chat, const char *format, const ls_tokenizer *tokenizer);

/* Appends the tokens of messages, [{"role": ..., "content": ...}, ...], with the bit of shard.h on
 * those that are no targets. LS_E_INPUT: what is wrong with which message. */
ls_status ls_chat_encode(const ls_chat *chat, ls_tokenizer_work *work, const json_t *messages,
                         ls_token_list *list);

/* The same of a question, all but what the assistant is to say to it, and no bits: a turn of the
 * system (NULL: none), the user's, and the beginning of the assistant's, which chat->end ends. */
ls_status ls_chat_ask(const ls_chat *chat, ls_tokenizer_work *work, const char *system,
                      const char *user, size_t user_bytes, ls_token_list *list);

#endif
