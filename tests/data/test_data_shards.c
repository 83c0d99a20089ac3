/* Faults of a data directory: each is found before anything is read, and named. */
#include <inttypes.h>

#include "runtime/base/hash.h"
#include "runtime/data/data_manifest.h"
#include "tests/data/data_fixture.h"

enum { TOKENS = 700, SHARD_TOKENS = 300, FIRST_BYTES = LS_SHARD_HEADER_BYTES + 2 * SHARD_TOKENS };

static const char *dir;

static ls_status open_split(ls_split split, bool verify) {
    ls_dataset *dataset;
    ls_error_clear();
    ls_status status = ls_dataset_open(dir, split, 8, verify, &dataset);
    CHECK((dataset != NULL) == (status == LS_OK));
    ls_dataset_close(dataset);
    return status;
}

static ls_status open_data(bool verify) {
    return open_split(LS_SPLIT_TRAIN, verify);
}

static void test_good(void) {
    ls_dataset *dataset, *again;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, 8, true, &dataset));
    const ls_dataset_info *info = ls_dataset_describe(dataset);
    CHECK_INT(info->vocab, 257);
    CHECK_INT(info->separator, 256);
    CHECK_INT(info->tokens, TOKENS);
    CHECK_INT(info->documents, 1);
    CHECK_INT(info->bytes, TOKENS - 1);
    CHECK_INT(info->shards, 3);
    CHECK_STR(info->tokenizer, "bytes");
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, 0, false, &again));
    CHECK(ls_dataset_describe(again)->fingerprint == info->fingerprint);
    CHECK(info->fingerprint != 0);
    ls_dataset_close(again);
    ls_dataset_close(dataset);
    CHECK_STATUS(open_split(LS_SPLIT_VAL, true), LS_E_INPUT);
    CHECK_MESSAGE("no val data");
    CHECK_STATUS(ls_dataset_open(dir, LS_SPLIT_TRAIN, -1, true, &dataset), LS_E_SHAPE);
}

static void test_truncated(void) {
    const char *path = fixture_path("data/train-00001.tok");
    size_t bytes;
    char *file = read_bytes(path, &bytes);
    CHECK_INT(bytes, FIRST_BYTES);
    for (size_t keep = 0; keep < bytes; keep += keep < 8 || keep > bytes - 8 ? 1 : 31) {
        write_bytes(path, file, keep);
        CHECK_STATUS(open_data(keep % 2), LS_E_INPUT);
        CHECK_MESSAGE("train-00001.tok' is truncated");
        char at[64];
        snprintf(at, sizeof at, "ends at byte %zu", keep);
        CHECK_MESSAGE(at);
    }
    char *longer = calloc(bytes + 2, 1);
    memcpy(longer, file, bytes);
    write_bytes(path, longer, bytes + 2);
    CHECK_STATUS(open_data(false), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00001.tok' is too long");
    write_bytes(path, file, bytes);
    free(longer);
    free(file);
    CHECK_OK(open_data(true));
}

/* Every bit of a header, with and without verification, and bits all over the payload. */
static void test_flipped_bits(void) {
    const char *path = fixture_path("data/train-00000.tok");
    size_t bytes;
    char *file = read_bytes(path, &bytes);
    int fd = open(path, O_WRONLY);
    CHECK(fd >= 0);
    for (size_t bit = 0; bit < bytes * 8; bit += bit < LS_SHARD_HEADER_BYTES * 8 ? 1 : 13) {
        const bool header = bit < LS_SHARD_HEADER_BYTES * 8;
        char flipped = (char)(file[bit / 8] ^ 1 << bit % 8);
        CHECK_INT(pwrite(fd, &flipped, 1, (off_t)(bit / 8)), 1);
        ls_status status = open_data(true);
        /* A flipped major version looks like a newer one. */
        CHECK(status == LS_E_CORRUPT || (status == LS_E_VERSION && bit / 8 >= 8 && bit / 8 < 10));
        CHECK_MESSAGE("train-00000.tok'");
        CHECK((open_data(false) != LS_OK) == header);
        CHECK_INT(pwrite(fd, &file[bit / 8], 1, (off_t)(bit / 8)), 1);
    }
    close(fd);
    free(file);
    CHECK_OK(open_data(true));
}

/* Changes `bytes` of shard 0 at `at`, and its checksums (also in data.json) to fit. */
static void rewrite(char *file, size_t file_bytes, size_t at, uint64_t value, size_t bytes) {
    memcpy(file + at, &value, bytes);
    uint64_t payload =
        ls_xxh64(file + LS_SHARD_HEADER_BYTES, file_bytes - LS_SHARD_HEADER_BYTES, 0);
    memcpy(file + 72, &payload, 8);
    uint64_t header = ls_xxh64(file, 248, 0);
    memcpy(file + 248, &header, 8);
    write_bytes(fixture_path("data/train-00000.tok"), file, file_bytes);
    ls_data_manifest manifest;
    CHECK_OK(ls_data_manifest_read(dir, &manifest));
    CHECK_INT(manifest.splits[0].count, 3);
    manifest.splits[0].shards[0].checksum = payload;
    json_t *source = json_object();
    CHECK_OK(ls_data_manifest_write(dir, &manifest, source));
    json_decref(source);
    ls_data_manifest_release(&manifest);
}

static void test_wrong_fields(void) {
    const struct {
        size_t at, bytes;
        uint64_t value;
        ls_status status;
        const char *message;
    } cases[] = {
        {8, 2, 3, LS_E_VERSION, "shard format 3.0"},
        {8, 2, 0, LS_E_CORRUPT, "byte 8: major version is 0, allowed is 1 to 2"},
        {12, 4, 512, LS_E_CORRUPT, "byte 12: header size is 512"},
        {16, 4, 3, LS_E_CORRUPT, "byte 16: 3 bytes a token"},
        {20, 4, 2, LS_E_CORRUPT, "byte 20: split is 2"},
        {20, 4, 1, LS_E_CORRUPT, "has split 1, data.json lists 0"},
        {24, 4, 3, LS_E_CORRUPT, "byte 24: shard number is 3, allowed is 0 to 2"},
        {24, 4, 1, LS_E_CORRUPT, "has shard number 1, data.json lists 0"},
        {28, 4, 0, LS_E_CORRUPT, "byte 28: shard count is 0"},
        {28, 4, 4, LS_E_CORRUPT, "has shard count 4, data.json lists 3"},
        {32, 8, 300, LS_E_CORRUPT, "has vocabulary 300, data.json lists 257"},
        {32, 8, 65537, LS_E_CORRUPT, "byte 32: vocabulary is 65537, allowed is 2 to 65536"},
        {40, 8, 257, LS_E_CORRUPT, "byte 40: separator is 257, allowed is 0 to 256"},
        {40, 8, 10, LS_E_CORRUPT, "has separator 10, data.json lists 256"},
        {48, 8, 0, LS_E_CORRUPT, "byte 48: token count is 0"},
        {48, 8, 1ull << 63, LS_E_CORRUPT, "byte 48: token count is 9223372036854775808"},
        {48, 8, INT64_MAX / 2, LS_E_CORRUPT, "byte 48: token count"},
        {48, 8, 301, LS_E_INPUT, "its header promises 858 bytes (301 tokens)"},
        {56, 8, 301, LS_E_CORRUPT, "byte 56: document count is 301, allowed is 0 to 300"},
        {56, 8, 7, LS_E_CORRUPT, "has document count 7, data.json lists 0"},
        {64, 8, UINT64_MAX, LS_E_CORRUPT, "byte 64: source bytes"},
        {80, 8, 0, LS_E_CORRUPT, "byte 80: no tokenizer"},
        {80, 2, 0x0041, LS_E_CORRUPT, "has tokenizer 'A'"},
        {LS_SHARD_HEADER_BYTES, 2, 257, LS_E_CORRUPT,
         "train-00000.tok', byte 256: token 257 is outside the vocabulary of 257"},
        {LS_SHARD_HEADER_BYTES + 2 * 299, 2, 65535, LS_E_CORRUPT, "byte 854: token 65535"},
        {10, 2, 7, LS_OK, NULL},      /* a newer minor version */
        {200, 8, 12345, LS_OK, NULL}, /* and what it may add */
    };
    size_t bytes;
    char *good = read_bytes(fixture_path("data/train-00000.tok"), &bytes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t same;
        char *file = read_bytes(fixture_path("data/train-00000.tok"), &same);
        memcpy(file, good, bytes);
        rewrite(file, bytes, cases[i].at, cases[i].value, cases[i].bytes);
        CHECK_STATUS(open_data(true), cases[i].status);
        if (cases[i].message) {
            CHECK_MESSAGE(cases[i].message);
            CHECK_MESSAGE("train-00000.tok'");
        }
        free(file);
    }
    rewrite(good, bytes, 10, 0, 2);
    free(good);
    CHECK_OK(open_data(true));
}

static void move(const char *from, const char *to) {
    CHECK_INT(rename(from, to), 0);
}

static void test_wrong_folder(void) {
    ls_dataset *dataset;
    const char *shard = fixture_path("data/train-00002.tok"), *away = fixture_path("away");
    move(shard, away);
    CHECK_STATUS(open_data(true), LS_E_INPUT);
    CHECK_MESSAGE("train-00002.tok': No such file");
    const char *other = fixture_path("data/train-00000.tok"), *third = fixture_path("third");
    move(other, shard); /* shards in the wrong places */
    move(away, other);
    CHECK_STATUS(open_data(false), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00000.tok' has shard number 2, data.json lists 0");
    move(other, third);
    move(shard, other);
    move(third, shard);
    CHECK_OK(open_data(true));

    const char *manifest = fixture_path("data/data.json");
    move(manifest, away);
    CHECK_STATUS(open_data(true), LS_E_INPUT);
    CHECK_MESSAGE("holds no data.json");
    move(away, manifest);

    CHECK_OK(ls_dir_create(fixture_path("empty")));
    CHECK_STATUS(ls_dataset_open(fixture_path("empty"), LS_SPLIT_TRAIN, 8, true, &dataset),
                 LS_E_INPUT);
    CHECK_MESSAGE("lockstep prep");
    CHECK_STATUS(ls_dataset_open(fixture_path("nowhere"), LS_SPLIT_TRAIN, 8, true, &dataset),
                 LS_E_INPUT);
    CHECK_MESSAGE("nowhere' does not exist");
    CHECK_STATUS(ls_dataset_open(manifest, LS_SPLIT_TRAIN, 8, true, &dataset), LS_E_INPUT);
    CHECK_MESSAGE("is no directory");
}

/* A shard of another preparation with the same counts: only its checksum tells. */
static void test_mixed(void) {
    char *text = random_text(1, TOKENS - 1);
    const char *input = fixture_path("other.txt"), *out = fixture_path("other");
    write_bytes(input, text, TOKENS - 1);
    free(text);
    ls_prep_options options = prep_defaults(&input, 1, out);
    options.shard_tokens = SHARD_TOKENS;
    ls_prep_result result;
    CHECK_OK(ls_prep_run(&options, &result));
    const char *mine = fixture_path("data/train-00001.tok");
    const char *theirs = fixture_path("other/train-00001.tok"), *away = fixture_path("away");
    move(mine, away);
    move(theirs, mine);
    CHECK_STATUS(open_data(false), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00001.tok' has tokenizer 'bytes' and checksum");
    CHECK_MESSAGE("mixed");
    move(away, mine);
    CHECK_OK(open_data(true));
}

static void test_manifest(void) {
#define HEAD "{\"format\": \"lockstep-tokens\", \"version\": 1, "
#define TAIL "\"tokenizer\": \"bytes\", \"vocab\": 257, \"separator\": 256, \"splits\": "
    const struct {
        const char *text;
        ls_status status;
        const char *message;
    } cases[] = {
        {"", LS_E_CORRUPT, "line 1"},
        {"[]", LS_E_CORRUPT, "does not describe token shards"},
        {"{\"format\": \"other\", \"version\": 1}", LS_E_CORRUPT, "does not describe"},
        {"{\n\n\"format\": \"lockstep-tokens\", ", LS_E_CORRUPT, "line 3"},
        {"{\"format\": \"lockstep-tokens\", \"version\": 2}", LS_E_VERSION, "has version 2"},
        {HEAD "\"tokenizer\": 5}", LS_E_CORRUPT, "data.json'"},
        {HEAD TAIL "{\"train\": {\"shards\": []}}}", LS_E_CORRUPT, "val"},
        {HEAD TAIL "{\"train\": {\"shards\": 5}, \"val\": {\"shards\": []}}}", LS_E_CORRUPT,
         "splits.train.shards is no list"},
        {HEAD TAIL "{\"train\": {\"shards\": []}, \"val\": {\"shards\": []}}}", LS_E_INPUT,
         "holds no train data"},
        {HEAD TAIL "{\"train\": {\"shards\": [7]}, \"val\": {\"shards\": []}}}", LS_E_CORRUPT,
         "shard 0 of train"},
        {HEAD TAIL "{\"train\": {\"shards\": [{\"file\": \"../x\", \"tokens\": 1, \"documents\": "
                   "1, \"bytes\": 1, \"xxh3\": \"0\"}]}, \"val\": {\"shards\": []}}}",
         LS_E_CORRUPT, "named '../x', expected 'train-00000.tok'"},
        {HEAD TAIL "{\"train\": {\"shards\": [{\"file\": \"train-00000.tok\", \"tokens\": 1, "
                   "\"documents\": 1, \"bytes\": 1, \"xxh3\": \"0x00000000000012\"}]}, \"val\": "
                   "{\"shards\": []}}}",
         LS_E_CORRUPT, "expected 16 hexadecimal digits"},
        {HEAD "\"tokenizer\": \"abcdefghijklmnop\", \"vocab\": 257, \"separator\": 256, "
              "\"splits\": {\"train\": {\"shards\": []}, \"val\": {\"shards\": []}}}",
         LS_E_CORRUPT, "longer than 15 bytes"},
    };
    const char *path = fixture_path("data/data.json");
    size_t bytes;
    char *good = read_bytes(path, &bytes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(path, cases[i].text);
        CHECK_STATUS(open_data(true), cases[i].status);
        CHECK_MESSAGE(cases[i].message);
    }
    for (size_t keep = 0; keep + 3 < bytes; keep += 17) {
        write_bytes(path, good, keep);
        CHECK_STATUS(open_data(true), LS_E_CORRUPT);
    }
    write_bytes(path, good, bytes);
    free(good);
    CHECK_OK(open_data(true));
}

/* Tokens of 4 bytes, as a large vocabulary has them. */
static void test_uint32(void) {
    enum { N = 5 };
    const uint32_t payload[N] = {3, 99999, 50000, 65536, 1};
    const char *folder = fixture_path("wide"), *path = fixture_path("wide/train-00000.tok");
    CHECK_OK(ls_dir_create(folder));
    ls_shard_header header = {.token_bytes = 4,
                              .count = 1,
                              .vocab = 100000,
                              .separator = 1,
                              .tokens = N,
                              .documents = 1,
                              .bytes = 20,
                              .checksum = ls_xxh64(payload, sizeof payload, 0),
                              .tokenizer = "wide"};
    uint8_t file[LS_SHARD_HEADER_BYTES + sizeof payload];
    ls_shard_header_encode(&header, file);
    memcpy(file + LS_SHARD_HEADER_BYTES, payload, sizeof payload);
    write_bytes(path, file, sizeof file);
    ls_data_manifest manifest = {.tokenizer = "wide", .vocab = 100000, .separator = 1};
    manifest.splits[0].shards = &header;
    manifest.splits[0].count = 1;
    json_t *source = json_object();
    CHECK_OK(ls_data_manifest_write(folder, &manifest, source));
    json_decref(source);
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(folder, LS_SPLIT_TRAIN, 3, true, &dataset));
    int32_t tokens[3], targets[3];
    int64_t valid;
    CHECK_OK(ls_dataset_window(dataset, 1, tokens, targets, &valid));
    CHECK_INT(valid, 1);
    CHECK_INT(tokens[0], 65536);
    CHECK_INT(tokens[1], 1);
    CHECK_INT(targets[0], 1);
    CHECK_INT(targets[1], -1);
    ls_dataset_close(dataset);
    const uint32_t huge = 0x80000001u; /* negative as int32 */
    memcpy(file + LS_SHARD_HEADER_BYTES + 8, &huge, 4);
    write_bytes(path, file, sizeof file);
    CHECK_OK(ls_dataset_open(folder, LS_SPLIT_TRAIN, 3, false, &dataset));
    CHECK_STATUS(ls_dataset_window(dataset, 0, tokens, targets, &valid), LS_E_CORRUPT);
    CHECK_MESSAGE("byte 264: token 2147483649");
    ls_dataset_close(dataset);
    CHECK_STATUS(ls_dataset_open(folder, LS_SPLIT_TRAIN, 3, true, &dataset), LS_E_CORRUPT);
}

/* The layout that shard.h promises, byte by byte. */
static void test_layout(void) {
    uint8_t expected[LS_SHARD_HEADER_BYTES] = {
        'L', 'S', 'T', 'O', 'K', 'E', 'N', 'S', 1, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0,
        2,   0,   0,   0,   3,   0,   0,   0,   1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0};
    const uint8_t counts[] = {9, 2, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0,   0,   0,   7,   0,  0,
                              0, 0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1, 'b', 'y', 't', 'e', 's'};
    memcpy(expected + 48, counts, sizeof counts);
    uint64_t checksum = ls_xxh64(expected, 248, 0);
    for (int i = 0; i < 8; i++) {
        expected[248 + i] = (uint8_t)(checksum >> 8 * i);
    }
    const ls_shard_header header = {.token_bytes = 2,
                                    .split = LS_SPLIT_VAL,
                                    .index = 2,
                                    .count = 3,
                                    .vocab = 257,
                                    .separator = 256,
                                    .tokens = 521,
                                    .documents = 8,
                                    .bytes = 7,
                                    .checksum = 0x0102030405060708u,
                                    .tokenizer = "bytes"};
    uint8_t raw[LS_SHARD_HEADER_BYTES];
    ls_shard_header_encode(&header, raw);
    CHECK(memcmp(raw, expected, sizeof raw) == 0);
    ls_shard_header back = {0};
    CHECK_OK(ls_shard_header_decode(raw, sizeof raw, 256 + 2 * 521, "x", &back));
    ls_shard_header_encode(&back, raw);
    CHECK(memcmp(raw, expected, sizeof raw) == 0);
}

/* Kilobytes of this process by a name in /proc/self/status. */
static long status_kib(const char *name) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long kib = -1;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            kib = atol(line + strlen(name) + 1);
        }
    }
    CHECK(f && fclose(f) == 0 && kib >= 0);
    return kib;
}

/* Neither checking nor reading all of the data makes it the process's memory. */
static void test_memory(void) {
    enum { MANY = 6000000, LEAST_KIB = 3072 }; /* 11,700 KiB of shards */
    const char *out = fixture_path("many");
    make_data(out, MANY, 2 * MANY);
    FILE *reset = fopen("/proc/self/clear_refs", "w"); /* 5: the peak begins anew */
    const bool from_here = reset && fputs("5", reset) >= 0 && fclose(reset) == 0;
    const long file_kib = status_kib("RssFile"), now_kib = status_kib("VmRSS");
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(out, LS_SPLIT_TRAIN, 512, true, &dataset));
    CHECK(!from_here || status_kib("VmHWM") - now_kib < LEAST_KIB);
    CHECK(status_kib("RssFile") - file_kib < LEAST_KIB);
    const int64_t windows = ls_dataset_describe(dataset)->windows;
    for (int64_t w = 0; w < windows; w++) {
        int32_t tokens[512], targets[512];
        int64_t valid;
        CHECK_OK(ls_dataset_window(dataset, w * 7 % windows, tokens, targets, &valid));
    }
    CHECK(!from_here || status_kib("VmHWM") - now_kib < LEAST_KIB);
    CHECK(status_kib("RssFile") - file_kib < LEAST_KIB);
    ls_dataset_close(dataset);
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    char data[PATH_MAX];
    snprintf(data, sizeof data, "%s", fixture_path("data"));
    dir = data;
    make_data(dir, TOKENS, SHARD_TOKENS);
    test_good();
    test_truncated();
    test_flipped_bits();
    test_wrong_fields();
    test_wrong_folder();
    test_mixed();
    test_manifest();
    test_uint32();
    test_layout();
    test_memory();
    return fixture_end();
}
