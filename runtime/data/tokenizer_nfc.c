/* Most text is normal already, which takes a look at each character to say. What is not is handed
 * to utf8proc, from the character before, with which the first one may be joined, to the next that
 * is joined with none before it. */
#include "runtime/data/tokenizer_nfc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "runtime/base/arena.h"
#include "runtime/data/tokenizer_utf8.h"

/* What a character is: PLAIN, before which text can be parted; one that changes, or may be joined
 * with another before it; or, from 1 to 254, a mark that stays where the classes before it are not
 * higher (its Canonical_Combining_Class). */
enum { PLAIN = 0, CHANGES = 255 };
enum { CODES = 0x110000, PAGE = 256, FIRST_MARK = 0x300, DECOMPOSED = 16 };
enum { PART_BYTES = 1 << 18 };

struct ls_nfc {
    uint8_t *pages[CODES / PAGE]; /* NULL: all are PLAIN */
};

/* --- the table --- */

static ls_status set_kind(ls_nfc *nfc, uint32_t code, int kind) {
    uint8_t **page = &nfc->pages[code / PAGE];
    if (!*page) {
        LS_TRY(ls_calloc(PAGE, 1, page));
    }
    if ((*page)[code % PAGE] != CHANGES) {
        (*page)[code % PAGE] = (uint8_t)kind;
    }
    return LS_OK;
}

/* What cannot be decomposed stays; what is composed again from its parts does, too, and then the
 * last of them may be joined with what is before it. */
static ls_status add_code(ls_nfc *nfc, int32_t code) {
    int32_t parts[DECOMPOSED];
    const int mark = utf8proc_get_property(code)->combining_class;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        code, parts, DECOMPOSED, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, NULL);
    LS_TRY(mark > 0 ? set_kind(nfc, (uint32_t)code, mark) : LS_OK);
    if (count < 1 || count > DECOMPOSED || (count == 1 && parts[0] == code)) {
        return LS_OK;
    }
    const int32_t last = parts[count - 1];
    const bool stays =
        utf8proc_normalize_utf32(parts, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE) == 1 &&
        parts[0] == code;
    return set_kind(nfc, (uint32_t)(stays ? last : code), CHANGES);
}

ls_status ls_nfc_make(ls_nfc **made) {
    ls_nfc *nfc;
    *made = NULL;
    LS_TRY(ls_calloc(1, sizeof *nfc, &nfc));
    for (int32_t code = 0x80; code < CODES; code++) {
        const ls_status status = add_code(nfc, code);
        if (status != LS_OK) {
            ls_nfc_release(nfc);
            return status;
        }
    }
    *made = nfc;
    return LS_OK;
}

void ls_nfc_release(ls_nfc *nfc) {
    for (size_t i = 0; nfc && i < CODES / PAGE; i++) {
        free(nfc->pages[i]);
    }
    free(nfc);
}

static int kind_of(const ls_nfc *nfc, uint32_t code) {
    if (code < FIRST_MARK || code >= CODES) {
        return PLAIN;
    }
    const uint8_t *page = nfc->pages[code / PAGE];
    return page ? page[code % PAGE] : PLAIN;
}

/* --- text --- */

static bool is_ascii(const char *at) {
    uint64_t words[2];
    memcpy(words, at, sizeof words);
    return ((words[0] | words[1]) & 0x8080808080808080u) == 0;
}

size_t ls_nfc_normal_bytes(const ls_nfc *nfc, const char *text, size_t bytes) {
    size_t boundary = 0, at = 0;
    int before = PLAIN;
    while (at < bytes) {
        if (bytes - at >= 16 && is_ascii(text + at)) {
            at += 16;
            boundary = at - 1;
            before = PLAIN;
            continue;
        }
        uint32_t code;
        const size_t step = ls_utf8_char(text + at, text + bytes, &code);
        const int kind = kind_of(nfc, code);
        if (kind == PLAIN) {
            boundary = code < LS_UTF8_BAD ? at : at + 1;
        } else if (kind == CHANGES || kind < before) {
            return boundary;
        }
        before = kind;
        at += step;
    }
    return bytes;
}

/* The first character from `at` on, where one begins, that is PLAIN. */
static size_t next_plain(const ls_nfc *nfc, const char *text, size_t bytes, size_t at) {
    uint32_t code;
    while (at < bytes) {
        const size_t step = ls_utf8_char(text + at, text + bytes, &code);
        if (kind_of(nfc, code) == PLAIN) {
            break;
        }
        at += step;
    }
    return at;
}

/* --- what is not normal --- */

static int class_of(int32_t code) {
    return utf8proc_get_property(code)->combining_class;
}

/* A run of marks in the order of their classes; equal ones stay in theirs. */
static void sort_run(int32_t *marks, size_t count, int32_t *room) {
    size_t places[PAGE + 1] = {0};
    for (size_t i = 0; i < count; i++) {
        places[class_of(marks[i]) + 1]++;
    }
    for (int i = 1; i < PAGE; i++) {
        places[i] += places[i - 1];
    }
    for (size_t i = 0; i < count; i++) {
        room[places[class_of(marks[i])]++] = marks[i];
    }
    memcpy(marks, room, count * sizeof *marks);
}

/* Here, for utf8proc would take quadratic time, which is hours for a text of nothing but marks. */
static void sort_marks(int32_t *codes, size_t count, int32_t *room) {
    for (size_t i = 0, end; i < count; i = end) {
        bool sorted = true;
        int last = class_of(codes[i]);
        for (end = i + 1; last > 0 && end < count; end++) {
            const int next = class_of(codes[end]);
            if (next == 0) {
                break;
            }
            sorted = sorted && last <= next;
            last = next;
        }
        if (!sorted) {
            sort_run(codes + i, end - i, room);
        }
    }
}

static ls_status reserve(ls_nfc_work *work, size_t codes) {
    if (work->capacity < codes) {
        free(work->codes);
        *work = (ls_nfc_work){0};
        LS_TRY(ls_calloc(codes, sizeof *work->codes, &work->codes));
        work->capacity = codes;
    }
    return LS_OK;
}

/* A part of the text without a byte that is no UTF-8; *to is moved behind what is written. */
static ls_status compose(ls_nfc_work *work, const char *text, size_t bytes, char **to) {
    const size_t most = 4 * bytes + DECOMPOSED; /* a character has up to four parts */
    LS_TRY(reserve(work, 2 * most));
    utf8proc_ssize_t count = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t code;
        at += ls_utf8_char(text + at, text + bytes, &code);
        count += utf8proc_decompose_char((int32_t)code, work->codes + count, DECOMPOSED,
                                         UTF8PROC_STABLE | UTF8PROC_DECOMPOSE, NULL);
    }
    sort_marks(work->codes, (size_t)count, work->codes + most);
    count = utf8proc_normalize_utf32(work->codes, count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < count; i++) {
        *to += utf8proc_encode_char(work->codes[i], (utf8proc_uint8_t *)*to);
    }
    return LS_OK;
}

ls_status ls_nfc_write(const ls_nfc *nfc, ls_nfc_work *work, const char *text, size_t bytes,
                       char *to, size_t *made) {
    const char *begin = to;
    for (size_t at = 0; at < bytes;) {
        const size_t normal = ls_nfc_normal_bytes(nfc, text + at, bytes - at);
        to = mempcpy(to, text + at, normal);
        at += normal;
        if (at < bytes) {
            uint32_t code;
            const size_t first = ls_utf8_char(text + at, text + bytes, &code);
            const size_t end = next_plain(nfc, text, bytes, at + first);
            LS_TRY(compose(work, text + at, end - at, &to));
            at = end;
        }
    }
    *made = (size_t)(to - begin);
    return LS_OK;
}

/* --- by threads --- */

typedef struct nfc_part {
    size_t begin, bytes;
    char *made; /* NULL: it is normal as it is */
    size_t made_bytes;
    ls_status status;
} nfc_part;

/* Parts between boundaries, and how many they are. */
static ls_status part_text(const ls_nfc *nfc, const char *text, size_t bytes, nfc_part **parts,
                           size_t *count) {
    LS_TRY(ls_calloc(bytes / PART_BYTES + 1, sizeof **parts, parts));
    *count = 0;
    for (size_t at = 0, end; at < bytes; at = end) {
        end = bytes - at > PART_BYTES ? at + PART_BYTES : bytes;
        while (end < bytes && ((unsigned char)text[end] & 0xC0) == 0x80) {
            end++;
        }
        end = next_plain(nfc, text, bytes, end);
        (*parts)[(*count)++] = (nfc_part){.begin = at, .bytes = end - at};
    }
    return LS_OK;
}

static ls_status write_part(const ls_nfc *nfc, const char *text, nfc_part *p) {
    ls_nfc_work work = {0};
    p->made_bytes = p->bytes;
    if (ls_nfc_normal_bytes(nfc, text + p->begin, p->bytes) == p->bytes) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(LS_NFC_GROWTH * p->bytes, 1, &p->made));
    const ls_status status =
        ls_nfc_write(nfc, &work, text + p->begin, p->bytes, p->made, &p->made_bytes);
    free(work.codes);
    return status;
}

static ls_status join_parts(const char *text, const nfc_part *parts, size_t count, char **to,
                            size_t *made) {
    bool changes = false;
    *made = 0;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].status != LS_OK) {
            return LS_FAIL(LS_E_MEMORY, "no memory to normalize a long text");
        }
        changes = changes || parts[i].made;
        *made += parts[i].made_bytes;
    }
    if (!changes) {
        return LS_OK;
    }
    LS_TRY(ls_calloc(*made, 1, to));
    for (size_t i = 0, at = 0; i < count; at += parts[i++].made_bytes) {
        const char *from = parts[i].made ? parts[i].made : text + parts[i].begin;
        memcpy(*to + at, from, parts[i].made_bytes);
    }
    return LS_OK;
}

ls_status ls_nfc_write_long(const ls_nfc *nfc, int threads, const char *text, size_t bytes,
                            char **to, size_t *made) {
    nfc_part *parts = NULL;
    size_t count;
    *to = NULL;
    LS_TRY(part_text(nfc, text, bytes, &parts, &count));
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (size_t i = 0; i < count; i++) {
        parts[i].status = write_part(nfc, text, &parts[i]);
    }
    const ls_status status = join_parts(text, parts, count, to, made);
    for (size_t i = 0; i < count; i++) {
        free(parts[i].made);
    }
    free(parts);
    return status;
}
