/* Files of packed tokens, as llm.c, nanoGPT and Megatron-LM keep them. */
#ifndef LS_DATA_PREP_PACKED_H
#define LS_DATA_PREP_PACKED_H

#include "runtime/data/prep_sources.h"

typedef struct ls_prep_packed {
    const char *tokens; /* little-endian numbers of token_bytes, in the file's mapping */
    int64_t count;
    int token_bytes; /* 2 up to a vocabulary of 65536, else 4 */
    void *map;
    size_t map_bytes;
} ls_prep_packed;

/* Maps the file: tokens alone, or behind llm.c's header. LS_E_INPUT for a size that does not fit
 * them, or when the header speaks of other tokens than vocab has. */
ls_status ls_prep_packed_open(const ls_prep_source *source, int fd, int64_t vocab,
                              ls_prep_packed *packed);
void ls_prep_packed_close(ls_prep_packed *packed);

/* *end: of the document that begins with token `from`, behind which a separator or the end lies.
 * LS_E_INPUT names a token that is not below vocab. */
ls_status ls_prep_packed_document(const ls_prep_packed *packed, const char *path, int64_t from,
                                  int64_t vocab, int64_t separator, int64_t *end);

#endif
