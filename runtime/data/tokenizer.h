/* Byte-pair encoding (Sennrich 2016, arXiv 1508.07909) by Hugging Face's tokenizer.json, as GPT-2,
 * Llama-3, Mistral, Mixtral and Qwen come with it: the same tokens as the library `tokenizers`
 * gives without the special ones that it adds (add_special_tokens=False). Text that spells an added
 * token, such as <|endoftext|>, is that token; what lies between such is brought into form C where
 * the file asks for it, and then cut. Which characters are letters is PCRE2's table's to say: those
 * that Unicode got after it are cut otherwise than by a library with a newer one. Which marks
 * change places in form C is utf8proc's: the library (0.23) has the table of Unicode 9, and leaves
 * marks that are newer where they stand.
 *
 * Two kinds are known. Byte-level: text is cut by the pattern of the file (PCRE2), each piece's
 * bytes are merged. With byte fallback: spaces become U+2581, the whole text is merged, what is no
 * token is the tokens of its bytes. Bytes that are no UTF-8 are kept as byte tokens where there are
 * such. */
#ifndef LS_DATA_TOKENIZER_H
#define LS_DATA_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

#define LS_TOKENIZER_FILE       "tokenizer.json"
#define LS_TOKENIZER_FILE_BYTES ((size_t)1 << 28) /* at most */
#define LS_TOKENIZER_NAME_BYTES 16                /* with its NUL, as in a shard's header */

typedef struct ls_tokenizer ls_tokenizer; /* not changed once it is read; for all threads */
typedef struct ls_tokenizer_work ls_tokenizer_work; /* of one thread: what it has seen, and room */

/* Tokens in memory of its owner's, which grows; zeroed at first, released by free(tokens). */
typedef struct ls_token_list {
    uint32_t *tokens;
    size_t count, capacity;
} ls_token_list;

/* LS_E_IO unreadable; LS_E_INPUT not a tokenizer.json, or of a kind that is not computed here: the
 * message says which part of the file, and what is known. */
ls_status ls_tokenizer_read(const char *path, ls_tokenizer **tokenizer);
/* Where the file is: as given, or tokenizer.json in the folder that is given. LS_E_INPUT: too long.
 */
ls_status ls_tokenizer_path(const char *given, char path[4096]);
/* The same from text; path is for messages. */
ls_status ls_tokenizer_parse(const char *text, size_t bytes, const char *path,
                             ls_tokenizer **tokenizer);
void ls_tokenizer_release(ls_tokenizer *tokenizer);

/* "bpe-" and 11 hexadecimal digits of a hash of all that decides which tokens text has, so that
 * files of the same tokenizer written by different programs have the same name. */
const char *ls_tokenizer_name(const ls_tokenizer *tokenizer);
/* The largest token and one. */
int64_t ls_tokenizer_vocab(const ls_tokenizer *tokenizer);
/* The added token that follows a document: the first of <|endoftext|>, <|end_of_text|>, </s>,
 * <eos> and DeepSeek's end of sentence that there is; -1: none. */
int64_t ls_tokenizer_separator(const ls_tokenizer *tokenizer);
/* The one that precedes it: the first of <|begin_of_text|>, <s>, <bos> and DeepSeek's begin of
 * sentence that there is; -1: none. */
int64_t ls_tokenizer_begin(const ls_tokenizer *tokenizer);
/* The added token of this text; -1: none. */
int64_t ls_tokenizer_added(const ls_tokenizer *tokenizer, const char *text);
/* What token stands for, borrowed; NULL when there is no such token. Of an added token its text. */
const char *ls_tokenizer_bytes(const ls_tokenizer *tokenizer, uint32_t token, size_t *bytes);

ls_status ls_tokenizer_work_make(const ls_tokenizer *tokenizer, ls_tokenizer_work **work);
void ls_tokenizer_work_release(ls_tokenizer_work *work);

/* Appends the tokens of a text. LS_E_MEMORY; LS_E_INPUT for text that no token stands for (named
 * with its byte). */
ls_status ls_tokenizer_encode(ls_tokenizer_work *work, const char *text, size_t bytes,
                              ls_token_list *list);

/* Takes tokens in order, which stand for the next text_bytes of the text; an error ends the work.
 */
typedef ls_status (*ls_token_sink)(void *to, const uint32_t *tokens, size_t count,
                                   size_t text_bytes);

/* The same of one long text by all OpenMP threads: the same tokens for any number of them, and
 * memory for a part of them at a time, and for the text where its normalized form is another one.
 * sink is called by the calling thread. */
ls_status ls_tokenizer_encode_long(const ls_tokenizer *tokenizer, const char *text, size_t bytes,
                                   ls_token_sink sink, void *to);

#endif
