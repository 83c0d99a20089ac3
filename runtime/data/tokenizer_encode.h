/* Parts of a text, for the work of several threads on it. */
#ifndef LS_DATA_TOKENIZER_ENCODE_H
#define LS_DATA_TOKENIZER_ENCODE_H

#include "runtime/data/tokenizer_tables.h"

/* From where the search stands to the end of the last of so many matches, or, when there are fewer,
 * of the text. */
ls_status ls_encode_range(ls_tokenizer_work *work, ls_added_search search, size_t matches,
                          ls_token_list *list);

/* Text without added tokens: valid UTF-8, or not byte_level; nothing is put before it. Its piece
 * that begins at `at` < bytes, if one does; the next begins at *next. What is found from there on
 * does not depend on what was before, where ls_encode_is_local. */
ls_status ls_encode_piece(ls_tokenizer_work *work, const char *text, size_t bytes, size_t at,
                          size_t *next, ls_token_list *list);
/* The token of a byte that is no UTF-8. */
ls_status ls_encode_byte(ls_tokenizer_work *work, const char *byte, ls_token_list *list);
bool ls_encode_is_local(const ls_tokenizer *tokenizer);

/* Is a space put before text that is no part of it? at_start: it is the whole text's. */
bool ls_encode_lacks_space(const ls_tokenizer *tokenizer, const char *text, size_t bytes,
                           bool at_start);

/* The bytes at the start of text that are valid UTF-8; 0: the first byte begins no character. */
size_t ls_encode_valid_bytes(const char *text, size_t bytes);

#endif
