#include "launch/tokenizer_files.h"
#include "runtime/base/file.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

bool ls_tokenizer_known(const char *name) {
    return name && strncmp(name, "bpe-", 4) == 0;
}

ls_status ls_tokenizer_carry(const char *from, const char *to) {
    char source[PATH_MAX], target[PATH_MAX], *text;
    size_t bytes;
    LS_TRY(ls_path_join(source, sizeof source, from, LS_TOKENIZER_FILE));
    LS_TRY(ls_path_join(target, sizeof target, to, LS_TOKENIZER_FILE));
    if (!ls_path_exists(source)) {
        return LS_OK;
    }
    LS_TRY(ls_file_read(source, LS_TOKENIZER_FILE_BYTES, &text, &bytes));
    ls_status status = ls_dir_create(to);
    status = status == LS_OK ? ls_file_replace(target, text, bytes) : status;
    free(text);
    return status;
}

ls_status ls_tokenizer_find(const char *checkpoint, const char *name, const char *given,
                            ls_tokenizer **tokenizer) {
    char path[4096];
    *tokenizer = NULL;
    if (!given && name && strcmp(name, "bytes") == 0) {
        return LS_OK;
    }
    LS_TRY(given ? ls_tokenizer_path(given, path)
                 : ls_path_join(path, sizeof path, checkpoint, "../" LS_TOKENIZER_FILE));
    if (!given && !ls_tokenizer_known(name)) {
        return LS_FAIL(LS_E_INPUT,
                       "the checkpoint's tokenizer is '%s', of which there is no file: give its "
                       "tokenizer.json with --tokenizer FILE, or `sample` "
                       "tokens with --ids '11 7 42' ('-' for standard input) and get tokens (where "
                       "it is bytes, `lockstep ckpt convert --from "
                       "... --tokenizer bytes` says so)",
                       name ? name : "(not recorded)");
    }
    if (!given && !ls_path_exists(path)) {
        return LS_FAIL(LS_E_INPUT,
                       "the checkpoint's tokenizer is '%s', and its file '%s' is gone; give it "
                       "with --tokenizer "
                       "tokenizer.json, or `sample` tokens with --ids",
                       name, path);
    }
    LS_TRY(ls_tokenizer_read(path, tokenizer));
    if (ls_tokenizer_known(name) && strcmp(name, ls_tokenizer_name(*tokenizer)) != 0) {
        const ls_status status =
            LS_FAIL(LS_E_INPUT, "'%s' is the tokenizer '%s'; that of the checkpoint is '%s'", path,
                    ls_tokenizer_name(*tokenizer), name);
        ls_tokenizer_release(*tokenizer);
        *tokenizer = NULL;
        return status;
    }
    return LS_OK;
}
