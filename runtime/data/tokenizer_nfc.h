/* Unicode's normalization form C (UAX #15), which the tokenizers of Qwen, GPT-NeoX and Command-R
 * bring text into before they cut it. */
#ifndef LS_DATA_TOKENIZER_NFC_H
#define LS_DATA_TOKENIZER_NFC_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/base/status.h"

/* No text grows by more (UAX #15, section 9.1). */
#define LS_NFC_GROWTH 3

typedef struct ls_nfc ls_nfc; /* not changed once it is made; for all threads */

/* Zeroed at first, of one thread; released by free(codes). */
typedef struct ls_nfc_work {
    int32_t *codes;
    size_t capacity;
} ls_nfc_work;

ls_status ls_nfc_make(ls_nfc **nfc);
void ls_nfc_release(ls_nfc *nfc);

/* The bytes at the start of text that are normal as they are, whatever follows what is given. Bytes
 * that are no UTF-8 are left as they are, and nothing is joined over them. */
size_t ls_nfc_normal_bytes(const ls_nfc *nfc, const char *text, size_t bytes);
/* The text in form C, into to, which has room for LS_NFC_GROWTH times its bytes. */
ls_status ls_nfc_write(const ls_nfc *nfc, ls_nfc_work *work, const char *text, size_t bytes,
                       char *to, size_t *made);
/* The same of a long text by so many threads, in memory of the caller's; *to is NULL where the text
 * is normal as it is. */
ls_status ls_nfc_write_long(const ls_nfc *nfc, int threads, const char *text, size_t bytes,
                            char **to, size_t *made);

#endif
