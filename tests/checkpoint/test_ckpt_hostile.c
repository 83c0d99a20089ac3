/* Manifests and chunks made to harm: refused with a reason, in bounded memory and time. */
#include "runtime/base/rng.h"
#include "tests/checkpoint/ckpt_cases.h"
#include "tests/checkpoint/ckpt_damage.h"

#include <sys/resource.h>

enum { SMALL = 4, MUTATIONS = 30000 };

static char path[1024];
static const char data_file[] = "rank-00000.h5";
static uint64_t draws;

static uint64_t draw(uint64_t below) {
    ls_rng_block b = ls_rng_draw(19, 0, draws++);
    return ((uint64_t)b.v[0] << 32 | b.v[1]) % below;
}

/* Most memory that the process has had, in KiB. */
static long peak_kib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

static ls_status parse_text(char *text, size_t bytes) {
    ls_ckpt *ckpt;
    damage_sign(text, bytes);
    ls_status status = ls_ckpt_manifest_parse(text, bytes, "m", &ckpt);
    CHECK((status == LS_OK) == (ckpt != NULL));
    ls_ckpt_close(ckpt);
    return status;
}

/* Sets a member of a copy of the manifest (where: "", "files.0", "tensors.1.pieces.0") to a value
 * given as JSON, or deletes it (NULL), and parses. */
static ls_status with(const json_t *good, const char *where, const char *key, const char *value) {
    json_t *root = json_deep_copy(good), *target = root;
    char steps[128], *rest = steps, *step;
    snprintf(steps, sizeof steps, "%s", where);
    while ((step = strsep(&rest, ".")) && *step) {
        target = json_is_array(target) ? json_array_get(target, (size_t)atoi(step))
                                       : json_object_get(target, step);
    }
    if (value) {
        json_error_t error;
        json_t *parsed = json_loads(value, JSON_DECODE_ANY, &error);
        CHECK(parsed != NULL);
        CHECK(json_object_set_new(target, key, parsed) == 0);
    } else {
        CHECK(json_object_del(target, key) == 0);
    }
    char *text;
    size_t bytes;
    CHECK_OK(ls_ckpt_manifest_text(root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    ls_status status = parse_text(text, bytes);
    free(text);
    json_decref(root);
    return status;
}

#define T "tensors.2"
#define P "tensors.2.pieces.0"

/* {where, member, value, text of the message} */
static const char *const bad_members[][4] = {
    {"", "format", "\"other\"", "expected 'lockstep-checkpoint'"},
    {"", "major", "0", "at least 1"},
    {"", "minor", "\"0\"", "must be an integer"},
    {"", "step", "-1", "'step' is -1"},
    {"", "step", "1.5", "must be an integer"},
    {"", "tokens", NULL, "'tokens'"},
    {"", "config", "7", "'config'"},
    {"", "run", "[]", "'run' must be an object"},
    {"", "counters", "null", "'counters' must be an object"},
    {"", "codec", "\"lzma\"", "'lzma' is not known"},
    {"", "files", "[]", "'files'"},
    {"", "files", "[7]", "'name'"},
    {"", "tensors", "{}", "'tensors'"},
    {"", "tensors", "[null]", "'name'"},
    {"", "parity", "{}", "must be an array of at most 65536"},
    {"files.0", "name", "\"../../etc/passwd\"", "odd characters"},
    {"files.0", "name", "\"/etc/passwd\"", "odd characters"},
    {"files.0", "name", "\"..\"", "odd characters"},
    {"files.0", "name", "\"\"", "odd characters"},
    {"files.0", "name", "\"index.h5\"", "listed twice"},
    {"files.0", "bytes", "-5", "'bytes' is -5"},
    {"files.0", "bytes", "20", "of a file of 20"},
    {"files.0", "sha256", "\"00\"", "no SHA-256"},
    {T, "name", "\"\"", "0 bytes"},
    {T, "name", "\"a\"", "listed twice"},
    {T, "dtype", "\"float33\"", "'float33' is no element type"},
    {T, "dtype", "\"int64\"", "bytes in"},
    {T, "shape", "[]", "'shape'"},
    {T, "shape", "[1, 1, 1, 1, 1]", "'shape'"},
    {T, "shape", "[0, 129]", "dimension 0 is 0"},
    {T, "shape", "[-257, 129]", "dimension 0 is -257"},
    {T, "shape", "[4611686018427387904, 129]", "exceeds 2^63"},
    {T, "shape", "[4294967296, 4294967296]", "exceeds 2^63"},
    {T, "shape", "[257, \"129\"]", "integers"},
    {T, "shape", "[258, 129]", "hold 33153 of 33282 elements"},
    {T, "shape", "[256, 129]", "dimension 0, which has 256"},
    {T, "pieces", "[]", "'pieces'"},
    {P, "file", "\"rank-00007.h5\"", "not listed"},
    {P, "dataset", "\"/counters/tokens\"", "below /tensors"},
    {P, "dataset", "\"/tensors/../counters/x\"", "below /tensors"},
    {P, "dataset", "\"/tensors/.\"", "below /tensors"},
    {P, "dataset", "\"/tensors/a\\u001b[2J\"", "below /tensors"},
    {P, "start", "[-1, 0]", "[-1, +257)"},
    {P, "start", "[9223372036854775807, 0]", "dimension 0"},
    {P, "start", "[0]", "'start'"},
    {P, "extent", "[257, 9223372036854775807]", "dimension 1"},
    {P, "extent", "[0, 129]", "dimension 0"},
    {P, "chunk", "[0, 129]", "not allowed"},
    {P, "chunk", "[257, 9223372036854775807]", "not allowed"},
    {P, "chunk", "[2, 2]", "not allowed"},
    {P, "chunks", "2", "'at' must be an array of 2 to 2"},
    {P, "chunks", "9223372036854775807", "'at'"},
    {P, "at", "[-1]", "of a file"},
    {P, "at", "[9223372036854775807]", "of a file"},
    {P, "at", "[1.5]", "of a file"},
    {P, "at", "{}", "'at'"},
    {P, "bytes", "[0]", "of a file"},
    {P, "bytes", "[9223372036854775807]", "of a file"},
    {P, "bytes", "[77]", "stored bytes"},
    {P, "bytes", "[]", "'bytes'"},
    {P, "xxh3", "\"0123456789abcde\"", "hex digits"},
    {P, "xxh3", "\"0123456789abcdeX\"", "hex digits"},
    {P, "xxh3", "\"0123456789abcdef0\"", "'xxh3'"},
    {P, "xxh3", "7", "'xxh3'"},
    {P, "raw_bytes", "132613", "132612 bytes"},
    {P, "stored_bytes", "9223372036854775807", "do not have 9223372036854775807"},
    {P, "stored_bytes", "0", "at least 1"},
    {P, "sha256", "12", "'sha256'"},
};

static void test_members(const json_t *good) {
    for (size_t i = 0; i < sizeof bad_members / sizeof *bad_members; i++) {
        const char *const *bad = bad_members[i];
        CHECK_STATUS(with(good, bad[0], bad[1], bad[2]), LS_E_CORRUPT);
        CHECK_MESSAGE(bad[3]);
    }
    /* Written by a newer program: unknown members of a newer minor version do no harm. */
    CHECK_OK(with(good, "", "minor", "9"));
    CHECK_OK(with(good, "", "novelty", "{\"x\": [1, 2]}"));
    CHECK_OK(with(good, P, "novelty", "true"));
    CHECK_STATUS(with(good, "", "major", "2"), LS_E_VERSION);
    CHECK_MESSAGE("format version 2.0");
    /* Terminals must not obey a name. */
    CHECK_STATUS(with(good, T, "dtype", "\"\\u001b[2J\""), LS_E_CORRUPT);
    CHECK_MESSAGE("\\x1b[2J");
}

static void test_pieces(const json_t *good) {
    json_t *root = json_deep_copy(good),
           *tensor = json_array_get(json_object_get(root, "tensors"), 2);
    json_t *pieces = json_object_get(tensor, "pieces");
    json_array_append_new(pieces, json_deep_copy(json_array_get(pieces, 0)));
    char *text;
    size_t bytes;
    CHECK_OK(ls_ckpt_manifest_text(root, LS_CKPT_MANIFEST_MAX, &text, &bytes));
    CHECK_STATUS(parse_text(text, bytes), LS_E_CORRUPT);
    CHECK_MESSAGE("two pieces hold the element at [0, 0]");
    free(text);
    json_decref(root);
}

/* `count` names of files, the first of which is `first`. */
static json_t *names_from(int first, int count) {
    json_t *names = json_array();
    for (int i = 0; i < count; i++) {
        json_array_append_new(names, json_sprintf("f%d", first + i));
    }
    return names;
}

/* Of parity groups, what a reader has room for: 16 files with 8 parity files, each in one place. */
static void test_groups(const json_t *good) {
    enum { FILES = 200 };
    /* {files, parity files, message or NULL} */
    static const struct {
        int data, parity;
        const char *message;
    } sizes[] = {
        {16, 8, NULL},
        {17, 1, "has 17 files and 1 parity"},
        {100, 1, "has 100 files and 1 parity"},
        {1, 9, "has 1 files and 9 parity"},
        {1, 100, "has 1 files and 100 parity"},
        {0, 1, "has 0 files and 1 parity"},
        {1, 0, "has 1 files and 0 parity"},
    };
    /* {groups, message}; f9 has 11 bytes, and the others 10. */
    static const char *const bad[][2] = {
        {"[{\"data\": [\"f0\", \"f0\"], \"parity\": [\"f1\"]}]", "'f0' is in two parity groups"},
        {"[{\"data\": [\"f0\"], \"parity\": [\"f0\"]}]", "'f0' is in two parity groups"},
        {"[{\"data\": [\"f0\"], \"parity\": [\"f1\"]}, {\"data\": [\"f2\"], \"parity\": [\"f1\"]}]",
         "'f1' is in two parity groups"},
        {"[{\"data\": [\"f0\", \"g\"], \"parity\": [\"f1\"]}]", "not listed"},
        {"[{\"data\": [\"f0\"], \"parity\": [null]}]", "not listed"},
        {"[{\"data\": [\"f0\"], \"parity\": [\"f1\", \"f9\"]}]", "'f9' has 11 bytes, expected 10"},
        {"[{\"data\": [\"f9\", \"f0\"], \"parity\": [\"f1\"]}]", "'f1' has 10 bytes, expected 11"},
    };
    json_t *root = json_deep_copy(good), *files = json_object_get(root, "files");
    const json_t *hash = json_object_get(json_array_get(files, 0), "sha256");
    for (int i = 0; i < FILES; i++) {
        json_array_append_new(files, json_pack("{s:o,s:i,s:O}", "name", json_sprintf("f%d", i),
                                               "bytes", i == 9 ? 11 : 10, "sha256", hash));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(with(root, "", "parity", bad[i][0]), LS_E_CORRUPT);
        CHECK_MESSAGE(bad[i][1]);
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        json_t *groups = json_pack("[{s:o,s:o}]", "data", names_from(10, sizes[i].data), "parity",
                                   names_from(10 + sizes[i].data, sizes[i].parity));
        char *text = json_dumps(groups, 0);
        CHECK_STATUS(with(root, "", "parity", text), sizes[i].message ? LS_E_CORRUPT : LS_OK);
        if (sizes[i].message) {
            CHECK_MESSAGE(sizes[i].message);
        }
        free(text);
        json_decref(groups);
    }
    static char many[2 * 65537 + 2] = "[0";
    for (int i = 1; i < 65537; i++) {
        memcpy(many + (size_t)2 * i, ",0", 2);
    }
    memcpy(many + 2 * 65537, "]", 2);
    CHECK_STATUS(with(root, "", "parity", many), LS_E_CORRUPT);
    CHECK_MESSAGE("at most 65536");
    json_decref(root);
}

/* What JSON itself must refuse. */
static void test_text(const char *good, size_t bytes) {
    static const char *const replacements[][2] = {
        {"\"step\": 5,", "\"step\": 99999999999999999999,"},
        {"\"step\": 5,", "\"step\": 5, \"step\": 6,"},
        {"\"writer\": \"", "\"writer\": \"\\u0000"},
        {"\"writer\": \"", "\"writer\": \"\\ud800"},
        {"\"writer\": \"", "\"writer\": \"\xff"},
        {"\"level\": 1,", "\"level\": 1"},
        {"\"run\": {", "\"run\": {{"},
    };
    for (size_t i = 0; i < sizeof replacements / sizeof *replacements; i++) {
        const char *from = strstr(good, replacements[i][0]);
        CHECK(from != NULL);
        size_t before = (size_t)(from - good), cut = strlen(replacements[i][0]);
        size_t added = strlen(replacements[i][1]), length = bytes - cut + added;
        char *text = malloc(length + 1);
        memcpy(text, good, before);
        memcpy(text + before, replacements[i][1], added);
        memcpy(text + before + added, from + cut, bytes - before - cut + 1);
        CHECK_STATUS(parse_text(text, length), LS_E_CORRUPT);
        CHECK_MESSAGE("line");
        free(text);
    }
    char *text = malloc(bytes + 1);
    memcpy(text, good, bytes + 1);
    text[20] = '\0';
    CHECK_STATUS(parse_text(text, bytes), LS_E_CORRUPT);
    free(text);
    /* Depth: more than a parser's stack. */
    const size_t deep = 1 << 20;
    text = malloc(deep + 1);
    memset(text, '[', deep);
    text[deep] = '\0';
    CHECK_STATUS(parse_text(text, deep), LS_E_CORRUPT);
    free(text);
    ls_ckpt *ckpt;
    CHECK_STATUS(ls_ckpt_manifest_parse("", 0, "m", &ckpt), LS_E_CORRUPT);
}

/* Of a piece that is cut into two chunks: {at, bytes, stored_bytes, message}, and of one that ends
 * beyond its file. */
static void test_chunk_sums(const json_t *good) {
    static const char *const bad[][4] = {
        {"[2048, 2048]", "[100, 1]", "100", "more than 100 stored bytes"},
        {"[2048, 2048]", "[1, 100]", "100", "more than 100 stored bytes"},
        {"[2048, 2048]", "[50, 49]", "100", "do not have 100 stored bytes"},
        {"[0, 0]", "[4611686018427387904, 4611686018427387904]", "9223372036854775807",
         "more than 9223372036854775807"},
    };
    static const char *const members[] = {"at", "bytes", "stored_bytes"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *root = json_deep_copy(good);
        json_t *tensor = json_array_get(json_object_get(root, "tensors"), 2);
        json_t *piece = json_array_get(json_object_get(tensor, "pieces"), 0);
        json_object_set_new(piece, "chunk", json_pack("[i,i]", 129, 129));
        json_object_set_new(piece, "chunks", json_integer(2));
        json_object_set_new(piece, "xxh3", json_string("0123456789abcdef0123456789abcdef"));
        for (int m = 0; m < 3; m++) {
            json_object_set_new(piece, members[m], json_loads(bad[i][m], JSON_DECODE_ANY, NULL));
        }
        CHECK_STATUS(with(root, "files.0", "bytes", "4611686018427387904"), LS_E_CORRUPT);
        CHECK_MESSAGE(bad[i][3]);
        json_decref(root);
    }
    char at[32];
    const json_t *file = json_array_get(json_object_get(good, "files"), 0);
    snprintf(at, sizeof at, "[%lld]",
             (long long)json_integer_value(json_object_get(file, "bytes")) - 1);
    CHECK_STATUS(with(good, P, "at", at), LS_E_CORRUPT);
    CHECK_MESSAGE("of a file of");
}

/* The hash is looked at before the text is, and what the text would take before it is parsed. */
static void test_order(const char *good, size_t bytes) {
    ls_ckpt *ckpt;
    char *text = malloc(bytes + 1);
    memcpy(text, good, bytes + 1);
    memset(text + bytes / 2, '{', 9);
    CHECK_STATUS(ls_ckpt_manifest_parse(text, bytes, "m", &ckpt), LS_E_CORRUPT);
    CHECK_MESSAGE("SHA-256 does not fit");
    CHECK_STATUS(ls_ckpt_manifest_parse(text, bytes / 2, "m", &ckpt), LS_E_CORRUPT);
    CHECK_MESSAGE("not complete");
    /* A later version may have no such hash. */
    char *major = strstr(text, "\"major\": 1");
    CHECK(major != NULL);
    major[strlen("\"major\": ")] = '2';
    CHECK_STATUS(ls_ckpt_manifest_parse(text, bytes, "m", &ckpt), LS_E_VERSION);
    CHECK_STATUS(ls_ckpt_manifest_parse(text, bytes / 2, "m", &ckpt), LS_E_VERSION);
    CHECK_MESSAGE("format version 2.0");
    free(text);
    /* What no reader would take is not written. */
    json_t *root = json_loads(good, 0, NULL);
    size_t written;
    CHECK(json_object_del(root, "sha256") == 0);
    CHECK_OK(ls_ckpt_manifest_text(root, bytes, &text, &written));
    CHECK_INT(written, bytes);
    free(text);
    CHECK_STATUS(ls_ckpt_manifest_text(root, bytes - 1, &text, &written), LS_E_UNSUPPORTED);
    CHECK_MESSAGE("can be read: let fewer ranks divide");
    CHECK(text == NULL);
    json_decref(root);
    /* A million empty objects take 100 times the memory of their text. */
    static const char member[] = "\"novelty\": [{}", empty[] = ",{}";
    const size_t count = 1 << 20, rest = strlen(good + 2);
    const long before = peak_kib();
    char *flood = malloc(bytes + sizeof member + count * strlen(empty) + 4), *to = flood;
    to += sprintf(to, "{\n%s", member);
    for (size_t i = 0; i < count; i++) {
        to = stpcpy(to, empty);
    }
    to += sprintf(to, "],\n");
    memcpy(to, good + 2, rest + 1);
    CHECK_STATUS(parse_text(flood, (size_t)(to - flood) + rest), LS_E_CORRUPT);
    CHECK_MESSAGE("of memory, at most");
    CHECK(peak_kib() - before < 16 * 1024);
    free(flood);
}

/* Random edits of a signed text, seeded: parsing ends with a status, whatever the text is. */
static void test_mutations(const char *good, size_t bytes) {
    static const char *const tokens[] = {
        "-1", "9223372036854775807", "\"", "{", "[", "]", "}", ",", "null", "1e400", "\\u0000",
        "0",  "\"pieces\"",          "\n"};
    long accepted = 0;
    char *text = malloc(bytes + 1024);
    for (int i = 0; i < MUTATIONS; i++) {
        memcpy(text, good, bytes + 1);
        size_t length = bytes;
        for (uint64_t edits = 1 + draw(3); edits > 0; edits--) {
            size_t at = (size_t)draw(length - 80);
            const char *token = tokens[draw(sizeof tokens / sizeof *tokens)];
            size_t n = strlen(token), gap = (size_t)draw(8);
            switch (draw(3)) {
            case 0:
                text[at] = (char)draw(256);
                break;
            case 1:
                memcpy(text + at, token, n);
                break;
            default:
                gap = gap > length - at ? 0 : gap;
                memmove(text + at + n, text + at + gap, length - at - gap + 1);
                memcpy(text + at, token, n);
                length += n - gap;
            }
        }
        accepted += parse_text(text, length) == LS_OK;
    }
    free(text);
    CHECK(accepted < MUTATIONS);
}

/* Puts `frame` in place of the only chunk of tensor 2, at the end of the file, and makes the hashes
 * fit. */
static void chunk_replace(const json_t *good, const char *whole, size_t whole_bytes,
                          const void *frame, size_t bytes) {
    json_t *root = json_deep_copy(good);
    json_t *piece = json_array_get(
        json_object_get(json_array_get(json_object_get(root, "tensors"), 2), "pieces"), 0);
    json_int_t n = (json_int_t)bytes;
    CHECK(json_object_set_new(piece, "at", json_pack("[I]", (json_int_t)whole_bytes)) == 0);
    CHECK(json_object_set_new(piece, "bytes", json_pack("[I]", n)) == 0);
    CHECK(json_object_set_new(piece, "stored_bytes", json_integer(n)) == 0);
    char *data = malloc(whole_bytes + bytes);
    memcpy(data, whole, whole_bytes);
    memcpy(data + whole_bytes, frame, bytes);
    damage_write(path, data_file, data, whole_bytes + bytes);
    free(data);
    damage_rehash(path, root);
    json_decref(root);
}

static ls_status load_chunk(void) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(path, &ckpt));
    ls_status status = case_check(ckpt, 2, NULL);
    ls_ckpt_close(ckpt);
    return status;
}

static char fault[1024]; /* the last one reported */

static void keep_fault(void *context, const char *text) {
    (void)context;
    snprintf(fault, sizeof fault, "%s", text);
}

static ls_status verify(ls_ckpt_depth depth) {
    ls_ckpt *ckpt;
    LS_TRY(ls_ckpt_open(path, &ckpt));
    ls_status status = ls_ckpt_verify(ckpt, depth, keep_fault, NULL);
    ls_ckpt_close(ckpt);
    return status;
}

/* bytes of zeros as one frame. */
static size_t frame_make(void *out, size_t room, size_t bytes, bool checksum, bool content_size) {
    void *zeros = calloc(1, bytes);
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum);
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, content_size);
    size_t n = ZSTD_compress2(context, out, room, zeros, bytes);
    CHECK(!ZSTD_isError(n));
    ZSTD_freeCCtx(context);
    free(zeros);
    return n;
}

static void test_chunks(const json_t *good) {
    const size_t chunk = 257 * 129 * 4, room = 1 << 18;
    size_t whole_bytes;
    char *whole = damage_read(path, data_file, &whole_bytes);
    char *frame = calloc(1, room);
    /* {content, checksum, content size, extra bytes, message} */
    const struct {
        size_t content;
        bool checksum, content_size;
        int extra;
        const char *message;
    } frames[] = {
        {(size_t)1 << 30, true, true, 0, "claims 1073741824 bytes of content, expected 132612"},
        {chunk + 1, true, true, 0, "claims 132613"},
        {chunk - 1, true, true, 0, "claims 132611"},
        {chunk, false, true, 0, "with a checksum"},
        {chunk, true, false, 0, "not a zstd frame with a content size"},
        {chunk, true, true, 9, "not one whole"},
        {chunk, true, true, -1, "not one whole"},
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        size_t n =
            frame_make(frame, room, frames[i].content, frames[i].checksum, frames[i].content_size);
        chunk_replace(good, whole, whole_bytes, frame, (size_t)((long)n + frames[i].extra));
        const long before = peak_kib();
        CHECK_STATUS(load_chunk(), LS_E_CORRUPT);
        CHECK_MESSAGE(frames[i].message);
        CHECK(peak_kib() - before < 32 * 1024); /* a bomb of a GiB must not go off */
        CHECK_MESSAGE("chunk 0 of '/tensors/layers.0.attn.qkv.weight'");
    }
    chunk_replace(good, whole, whole_bytes, "short", 5);
    CHECK_STATUS(load_chunk(), LS_E_CORRUPT);
    memset(frame, 'x', room);
    chunk_replace(good, whole, whole_bytes, frame, room);
    CHECK_STATUS(load_chunk(), LS_E_CORRUPT);
    CHECK_MESSAGE("at most");
    /* A right frame of other values: every hash fits but that of the values. */
    size_t n = frame_make(frame, room, chunk, true, true);
    chunk_replace(good, whole, whole_bytes, frame, n);
    CHECK_STATUS(load_chunk(), LS_E_CORRUPT);
    CHECK_MESSAGE("do not have the manifest's hash");
    CHECK_STATUS(verify(LS_CKPT_VERIFY_FULL), LS_E_CORRUPT); /* HDF5 has another chunk */
    CHECK_STATUS(verify(LS_CKPT_VERIFY_DEEP), LS_E_CORRUPT);
    damage_write(path, data_file, whole, whole_bytes);
    damage_manifest_write(path, good);
    CHECK_OK(verify(LS_CKPT_VERIFY_DEEP));
    free(whole);
    free(frame);
}

/* Two chunks that share bytes. */
static void test_overlap(const json_t *good) {
    json_t *root = json_deep_copy(good), *tensors = json_object_get(root, "tensors");
    json_t *a = json_array_get(json_object_get(json_array_get(tensors, 2), "pieces"), 0);
    json_t *b = json_array_get(json_object_get(json_array_get(tensors, 1), "pieces"), 0);
    json_object_set(b, "at", json_object_get(a, "at"));
    damage_manifest_write(path, root);
    json_decref(root);
    CHECK_STATUS(verify(LS_CKPT_VERIFY_FULL), LS_E_CORRUPT);
    damage_manifest_write(path, good);
}

/* HDF5 is shown a link to another file: not followed, and values do not depend on it. */
static void test_links(json_t *good) {
    hid_t file = H5Fopen(damage_path(path, data_file), H5F_ACC_RDWR, H5P_DEFAULT);
    CHECK(H5Ldelete(file, "/tensors/layers.0.attn.qkv.weight", H5P_DEFAULT) >= 0);
    CHECK(H5Lcreate_external("rank-00001.h5", "/tensors/a", file,
                             "/tensors/layers.0.attn.qkv.weight", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    CHECK(H5Fclose(file) >= 0);
    damage_rehash(path, good);
    CHECK_STATUS(verify(LS_CKPT_VERIFY_FULL), LS_E_CORRUPT);
    CHECK(strstr(fault, "there is no dataset"));
    load_chunk();
}

/* Files that are, or say that they are, larger than any memory: what is read of them is what the
 * manifest justifies. */
static void test_sizes(const json_t *good) {
    const off_t huge = (off_t)1 << 42;
    size_t whole_bytes;
    char *whole = damage_read(path, data_file, &whole_bytes);
    ls_ckpt *ckpt;
    const long before = peak_kib();
    CHECK(truncate(damage_path(path, LS_CKPT_MANIFEST), huge) == 0);
    CHECK_STATUS(ls_ckpt_open(path, &ckpt), LS_E_CORRUPT);
    CHECK_MESSAGE("manifest.json' has 4398046511104 bytes; beside ");
    CHECK(truncate(damage_path(path, LS_CKPT_MANIFEST), 70 << 20) == 0);
    CHECK_STATUS(ls_ckpt_open(path, &ckpt), LS_E_CORRUPT);
    CHECK_MESSAGE("bytes of data at most");
    /* A data file with a hole: it can be loaded, of which the hole is no part. */
    json_t *root = json_deep_copy(good);
    json_t *file = json_array_get(json_object_get(root, "files"), 0);
    CHECK(json_object_set_new(file, "bytes", json_integer(huge)) == 0);
    damage_manifest_write(path, root);
    json_decref(root);
    CHECK(truncate(damage_path(path, data_file), huge) == 0);
    CHECK_OK(load_chunk());
    CHECK(truncate(damage_path(path, data_file), huge - 1) == 0);
    CHECK_STATUS(load_chunk(), LS_E_CORRUPT);
    damage_write(path, data_file, whole, whole_bytes);
    damage_manifest_write(path, good);
    /* HDF5 is told of a dataset of 2^60 elements by a file whose hashes are right. */
    const hsize_t extent[2] = {(hsize_t)1 << 40, 1 << 20}, chunk[2] = {257, 129};
    hid_t h5 = H5Fopen(damage_path(path, data_file), H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(2, extent, NULL);
    CHECK(H5Pset_chunk(list, 2, chunk) >= 0 && H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0);
    CHECK(H5Ldelete(h5, "/tensors/layers.0.attn.qkv.weight", H5P_DEFAULT) >= 0);
    hid_t dataset = H5Dcreate2(h5, "/tensors/layers.0.attn.qkv.weight", H5T_IEEE_F32LE, space,
                               H5P_DEFAULT, list, H5P_DEFAULT);
    CHECK(dataset >= 0 && H5Dclose(dataset) >= 0);
    H5Sclose(space);
    H5Pclose(list);
    CHECK(H5Fclose(h5) >= 0);
    root = json_deep_copy(good);
    damage_rehash(path, root);
    json_decref(root);
    CHECK_STATUS(verify(LS_CKPT_VERIFY_FULL), LS_E_CORRUPT);
    CHECK(strstr(fault, "layers.0.attn.qkv.weight"));
    damage_write(path, data_file, whole, whole_bytes);
    damage_manifest_write(path, good);
    CHECK_OK(verify(LS_CKPT_VERIFY_DEEP));
    CHECK(peak_kib() - before < 32 * 1024);
    free(whole);
}

int main(void) {
    ls_comm *comm;
    ls_ckpt_tensor tensors[SMALL];
    ls_ckpt_save_result result = {0};
    const char *root = case_directory();
    CHECK_OK(ls_comm_self(&comm));
    cases_make(tensors, SMALL, 0, 1);
    CHECK_OK(case_save(comm, root, 5, 1, 1, tensors, SMALL, &result));
    cases_free(tensors, SMALL);
    memcpy(path, result.path, sizeof path);
    size_t bytes;
    char *text = damage_read(path, LS_CKPT_MANIFEST, &bytes);
    json_t *good = damage_manifest(path);
    test_members(good);
    test_pieces(good);
    test_groups(good);
    test_text(text, bytes);
    test_order(text, bytes);
    test_mutations(text, bytes);
    test_chunk_sums(good);
    test_chunks(good);
    test_overlap(good);
    test_sizes(good);
    test_links(good);
    json_decref(good);
    free(text);
    CHECK_OK(ls_dir_remove(root));
    comm->ops->destroy(comm);
    return test_end();
}
