/* Pieces of text by hand, for the patterns that most tokenizers have. */
#ifndef LS_DATA_TOKENIZER_SCAN_H
#define LS_DATA_TOKENIZER_SCAN_H

#include <stddef.h>

#define LS_GPT2_PATTERN                                                                            \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* The bytes of the piece that begins at `at` < end; 0: that takes the pattern itself. */
typedef size_t ls_scan(const char *at, const char *end);

/* NULL: there is none for this pattern. */
ls_scan *ls_scan_of(const char *pattern);

#endif
