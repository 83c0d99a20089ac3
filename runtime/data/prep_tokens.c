/* Documents of text on their way to the shards: as tokens, with what stands before and behind. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/data/prep_lines.h"

ls_status ls_prep_progress(ls_prep_reader *reader, int64_t bytes) {
    const uint64_t tick_ns = 100000000;
    reader->done_bytes += bytes;
    if (reader->options->stop && *reader->options->stop) {
        return LS_FAIL(LS_E_STOPPED,
                       "stopped before all input was read; nothing was written to '%s'",
                       reader->options->out_dir);
    }
    uint64_t now_ns = ls_clock_ns();
    if (now_ns - reader->shown_ns >= tick_ns) {
        reader->shown_ns = now_ns;
        double seconds = 1e-9 * (double)(now_ns - reader->begin_ns);
        double rate = (double)reader->done_bytes / (seconds > 0 ? seconds : 1);
        double left = (double)(reader->total_bytes - reader->done_bytes) / (rate > 0 ? rate : 1);
        char done[32], total[32], speed[32], time[32];
        ls_log_progress(false, "prep: %s of %s, %s/s, %s left",
                        ls_text_bytes(done, sizeof done, (double)reader->done_bytes),
                        ls_text_bytes(total, sizeof total, (double)reader->total_bytes),
                        ls_text_bytes(speed, sizeof speed, rate),
                        ls_text_duration(time, sizeof time, left > 0 ? left : 0));
    }
    return LS_OK;
}

/* Appends tokens to the document, in as many bytes as the shards have for them. */
static ls_status append(ls_prep_reader *reader, const uint32_t *tokens, size_t count) {
    enum { PART = 4096 };
    uint16_t narrow[PART];
    if (reader->split->unit_bytes == sizeof *tokens) {
        return ls_prep_split_append(reader->split, tokens, count * sizeof *tokens);
    }
    for (size_t done = 0, n; done < count; done += n) {
        n = count - done < PART ? count - done : PART;
        for (size_t i = 0; i < n; i++) {
            narrow[i] = (uint16_t)tokens[done + i];
        }
        LS_TRY(ls_prep_split_append(reader->split, narrow, n * sizeof *narrow));
    }
    return LS_OK;
}

ls_status ls_prep_append_tokens(ls_prep_reader *reader, const uint32_t *tokens, size_t count) {
    const ls_vocabulary *vocabulary = &reader->split->vocabulary;
    const uint32_t first = (uint32_t)vocabulary->begin, last = (uint32_t)vocabulary->separator;
    const uint32_t masked = vocabulary->masked ? LS_SHARD_NO_TARGET : 0;
    if (count == 0) {
        return LS_OK;
    }
    if (reader->starts && vocabulary->begin >= 0 && (tokens[0] & ~masked) != first) {
        LS_TRY(append(reader, &(uint32_t){first | masked}, 1));
    }
    if (reader->holds_separator) {
        LS_TRY(append(reader, &last, 1));
    }
    reader->starts = false;
    reader->holds_separator = tokens[count - 1] == last;
    return append(reader, tokens, count - reader->holds_separator);
}

void ls_prep_begin_document(ls_prep_reader *reader, const char *text, size_t bytes) {
    ls_prep_split_begin(reader->split, text, (int64_t)bytes);
    reader->starts = true;
    reader->holds_separator = false;
}

static ls_status take_tokens(void *to, const uint32_t *tokens, size_t count, size_t text_bytes) {
    LS_TRY(ls_prep_append_tokens(to, tokens, count));
    return ls_prep_progress(to, (int64_t)text_bytes);
}

/* Writes tokens of text: of a long one by all threads, of another by this one, which has seen most
 * words. */
static ls_status write_text(ls_prep_reader *reader, const char *text, size_t bytes) {
    if (bytes > LS_PREP_HASHED_BYTES) {
        return ls_tokenizer_encode_long(reader->tokenizer, text, bytes, take_tokens, reader);
    }
    ls_token_list *list = &reader->tokens;
    list->count = 0;
    LS_TRY(ls_tokenizer_encode(reader->works[0], text, bytes, list));
    return take_tokens(reader, list->tokens, list->count, bytes);
}

/* Writes a document as tokens. What is for validation of an only one begins with a whole character.
 */
ls_status ls_prep_encode_text(ls_prep_reader *reader, const char *text, size_t bytes) {
    size_t first = bytes;
    ls_prep_begin_document(reader, text, bytes);
    if (reader->split->tail > 0) {
        first -= (size_t)ls_prep_split_tail(reader->split, (int64_t)bytes);
        while (first > 0 && ((unsigned char)text[first] & 0xC0) == 0x80) {
            first--;
        }
    }
    LS_TRY(first > 0 ? write_text(reader, text, first) : LS_OK);
    LS_TRY(first > 0 && first < bytes ? ls_prep_split_turn(reader->split) : LS_OK);
    reader->holds_separator = false;
    LS_TRY(first < bytes ? write_text(reader, text + first, bytes - first) : LS_OK);
    return ls_prep_split_end(reader->split, true);
}
