/* Loss masks: prompts and arrays that say which tokens are targets, from prep to the windows. */
#include "runtime/base/hash.h"
#include "runtime/data/packer.h"
#include "tests/data/data_fixture.h"

enum { SEQ = 8, ROOM = 4096 };

static ls_prep_result result;

typedef struct stream {
    int64_t count, valid;
    int32_t tokens[ROOM];
    bool target[ROOM];
} stream;

/* Made with these options, replacing what was there; lines: of the only input. */
static ls_status prep(const char *lines, ls_prep_options options) {
    const char *input = fixture_path("lines.jsonl");
    write_text(input, lines);
    options.inputs = &input;
    options.input_count = 1;
    options.out_dir = fixture_path("out");
    options.force = true;
    options.jsonl_field = options.jsonl_field ? options.jsonl_field : "text";
    options.shard_tokens = options.shard_tokens ? options.shard_tokens : 1 << 20;
    return fixture_prep(&options, &result);
}

/* Every token of a split but the first, and whether it is a target. */
static void read_stream(const char *dir, ls_split split, stream *s) {
    ls_dataset *dataset;
    *s = (stream){0};
    CHECK_OK(ls_dataset_open(dir, split, SEQ, true, &dataset));
    for (int64_t w = 0; dataset && w < ls_dataset_describe(dataset)->windows; w++) {
        int32_t tokens[SEQ], targets[SEQ];
        int64_t valid, last = w + 1 < ls_dataset_describe(dataset)->windows;
        CHECK_OK(ls_dataset_window(dataset, w, tokens, targets, &valid));
        const int64_t all = ls_dataset_describe(dataset)->tokens - 1 - w * SEQ;
        s->valid += valid;
        for (int64_t i = 0; i < (last ? SEQ : all); i++) {
            s->target[s->count] = targets[i] >= 0;
            s->tokens[s->count++] = tokens[i];
            CHECK(targets[i] == -1 || i + 1 == SEQ || i + 1 == all || targets[i] == tokens[i + 1]);
        }
    }
    ls_dataset_close(dataset);
}

/* marks: of each token but the first "1" (a target) or "0"; text: of each but the last. */
static void check_stream(ls_split split, const char *text, const char *marks) {
    static stream s;
    read_stream(fixture_path("out"), split, &s);
    char found[2][ROOM] = {{0}};
    for (int64_t i = 0; i < s.count; i++) {
        found[0][i] = s.tokens[i] == 256 ? '|' : (char)s.tokens[i];
        found[1][i] = s.target[i] ? '1' : '0';
    }
    CHECK_STR(found[0], text);
    CHECK_STR(found[1], marks);
}

static void test_prompts(void) {
    const char *lines =
        "{\"q\": \"ab\", \"a\": \"cde\"}\n{\"a\": \"f\", \"q\": \"\"}\n\n"
        "{\"q\": \"left out\", \"a\": \"\"}\n{\"q\": \"gh\\u0101\", \"a\": \"i\"}\n";
    const int64_t shards[] = {1 << 20, 5, 1};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(prep(
            lines,
            (ls_prep_options){.jsonl_field = "a", .prompt_field = "q", .shard_tokens = shards[i]}));
        check_stream(LS_SPLIT_TRAIN, "abcde|f|gh\xc4\x81i",
                     "01111110000"
                     "11");
        CHECK_INT(result.documents, 3);
        CHECK_INT(result.train_tokens, 14);
        CHECK_INT(result.train_targets, 8);
        ls_dataset *dataset;
        CHECK_OK(ls_dataset_open(fixture_path("out"), LS_SPLIT_TRAIN, 0, true, &dataset));
        CHECK_INT(ls_dataset_describe(dataset)->targets, 8);
        CHECK_INT(ls_dataset_describe(dataset)->bytes, 5); /* of cde, f and i */
        CHECK_STR(ls_dataset_describe(dataset)->tokenizer, "bytes");
        ls_dataset_close(dataset);
    }
    CHECK_OK(
        prep("{\"q\": \"0123456789\", \"a\": \"abcdefghij\"}",
             (ls_prep_options){.jsonl_field = "a", .prompt_field = "q", .val_fraction = 0.25}));
    check_stream(LS_SPLIT_TRAIN, "0123456789abcde", "000000000111111");
    check_stream(LS_SPLIT_VAL, "fghij", "11111");
}

/* Apart, with the tokens of the tokenizer, behind the token that begins a document. */
static void test_tokenizer(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, LS_GOLDEN "/llama3.json");
    ls_tokenizer *t;
    ls_tokenizer_work *work;
    CHECK_OK(ls_tokenizer_read(path, &t));
    CHECK_OK(ls_tokenizer_work_make(t, &work));
    const char *text = "where is the answer", *prompt = "there is the question ";
    ls_token_list lists[2] = {{0}};
    CHECK_OK(ls_tokenizer_encode(work, prompt, strlen(prompt), &lists[0]));
    CHECK_OK(ls_tokenizer_encode(work, text, strlen(text), &lists[1]));
    char line[256];
    snprintf(line, sizeof line,
             "{\"q\": \"%s\", \"text\": \"%s\"}\n{\"q\": \"\", \"text\": \"%s\"}", prompt, text,
             text);
    CHECK_OK(prep(line, (ls_prep_options){.prompt_field = "q",
                                          .tokenizer = path,
                                          .separator = 1,
                                          .begin = 2,
                                          .val_fraction = 0}));
    static stream s;
    read_stream(fixture_path("out"), LS_SPLIT_TRAIN, &s);
    int64_t at = 0;
    for (int document = 0; document < 2; document++) {
        CHECK_INT(s.tokens[at++], 2);
        CHECK(document == 0 || !s.target[at - 2]); /* the token that begins is no target */
        for (int part = document; part < 2; part++) {
            for (size_t i = 0; i < lists[part].count; i++) {
                CHECK_INT(s.target[at - 1], part);
                CHECK_INT(s.tokens[at++], lists[part].tokens[i]);
            }
        }
        CHECK(s.target[at - 1]); /* the separator is */
        at += document == 0;
    }
    CHECK_INT(s.count, at);
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(fixture_path("out"), LS_SPLIT_TRAIN, 0, true, &dataset));
    CHECK_INT(ls_dataset_describe(dataset)->bytes, 2 * strlen(text));
    ls_dataset_close(dataset);

    /* A prompt that begins with that token gets no other; without a mask it is no text either. */
    const ls_prep_options options = {.tokenizer = path, .separator = 1, .begin = 2};
    ls_prep_options prompts = options;
    prompts.prompt_field = "q";
    snprintf(line, sizeof line, "{\"q\": \"\\\"\", \"text\": \"%s\"}", text);
    CHECK_OK(prep(line, prompts));
    CHECK_INT(result.train_tokens, 2 + lists[1].count);
    CHECK_INT(result.bytes, strlen(text));
    CHECK_OK(prep(line, options));
    CHECK_INT(result.train_tokens, 2 + lists[1].count);
    CHECK_INT(result.bytes, strlen(text));
    free(lists[0].tokens);
    free(lists[1].tokens);
    ls_tokenizer_work_release(work);
    ls_tokenizer_release(t);
}

static void test_arrays(void) {
    const ls_prep_options options = {
        .jsonl_field = "ids", .mask_field = "m", .vocab = 100, .separator = 99};
    CHECK_OK(prep("{\"ids\": [65, 66, 67], \"m\": [0, 1, 1]}\n"
                  "{\"m\": [true, false, 0], \"ids\": [68, 69, 99]}\n"
                  "{\"ids\": [70, 99], \"m\": [0, 1]}\n{\"ids\": [71], \"m\": [0]}\n",
                  options));
    check_stream(LS_SPLIT_TRAIN, "ABCcDEcFcG", "1111000101");
    CHECK_INT(result.train_targets, 6);
    const struct {
        const char *line, *message;
    } bad[] = {
        {"{\"ids\": [1, 2], \"m\": [1]}", "field 'm' has another length; expected is an array with "
                                          "0 or 1 for each of the 2 tokens of 'ids'"},
        {"{\"ids\": [1, 2], \"m\": 1}", "field 'm' is no array"},
        {"{\"ids\": [1, 2], \"m\": [1, 2]}", "item 1 of field 'm' is neither 0 (no target) nor 1"},
        {"{\"ids\": [1, 2], \"m\": [1, null]}", "item 1 of field 'm' is neither"},
        {"{\"ids\": [1, 2]}", "no field 'm' (the first field is 'ids'); choose with --loss-mask"},
        {"{\"ids\": [1, 200], \"m\": [1, 1]}", "token 1 of field 'ids' is 200; at most 99"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(prep(bad[i].line, options), LS_E_INPUT);
        CHECK_MESSAGE(bad[i].message);
    }
}

static void test_refused(void) {
    const ls_prep_options prompts = {.prompt_field = "q"};
    CHECK_STATUS(prep("{\"text\": \"a\"}", prompts), LS_E_INPUT);
    CHECK_MESSAGE("no field 'q' (the first field is 'text'); choose with --prompt");
    CHECK_STATUS(prep("{\"text\": \"a\", \"q\": null}", prompts), LS_E_INPUT);
    CHECK_MESSAGE("field 'q' is no string");
    CHECK_STATUS(prep("{\"q\": \"a\"}", prompts), LS_E_INPUT);
    CHECK_MESSAGE("no field 'text' (the first field is 'q'); choose with --field");
    CHECK_STATUS(prep("", (ls_prep_options){.prompt_field = "q", .vocab = 9}), LS_E_USAGE);
    CHECK_STATUS(prep("", (ls_prep_options){.mask_field = "q"}), LS_E_USAGE);
    write_text(fixture_path("plain.txt"), "plain");
    const char *input = fixture_path("plain.txt");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("plain"));
    options.prompt_field = "q";
    CHECK_STATUS(fixture_prep(&options, &result), LS_E_INPUT);
    CHECK_MESSAGE("plain.txt' is no *.jsonl file; with --prompt documents are lines of such");
    write_bytes(fixture_path("ids.bin"), "\1\0\2\0\3\0", 6);
    input = fixture_path("ids.bin");
    options = prep_defaults(&input, 1, fixture_path("plain"));
    options.mask_field = "m";
    options.vocab = 9;
    CHECK_STATUS(fixture_prep(&options, &result), LS_E_INPUT);
    CHECK_MESSAGE("ids.bin' is no *.jsonl file; with --loss-mask documents are lines of such");
}

/* Documents of many lengths, a share of whose tokens are targets, and some without any. */
static void make_masked(const char *out, int documents) {
    char *text = malloc((size_t)documents * 256), *end = text;
    for (int i = 0; text && i < documents; i++) {
        const uint32_t r = ls_rng_draw(9, 0, (uint64_t)i).v[0];
        end += sprintf(end, "{\"q\": \"%0*d\", \"text\": \"%0*d\"}\n", 1 + (int)(r % 90), 7,
                       1 + (int)(r / 90 % 11), 5);
    }
    write_bytes(fixture_path("many.jsonl"), text, (size_t)(end - text));
    free(text);
    const char *input = fixture_path("many.jsonl");
    ls_prep_options options = prep_defaults(&input, 1, out);
    options.prompt_field = "q";
    options.shard_tokens = 300;
    CHECK_OK(ls_prep_run(&options, &result));
}

/* The counts of samples are what their windows have, in any order, alone and in a mixture. */
static void test_counts(void) {
    make_masked(fixture_path("masked"), 40);
    make_data(fixture_path("whole"), 501, 200);
    char dirs[2][2 * PATH_MAX + 16];
    snprintf(dirs[0], sizeof dirs[0], "%s", fixture_path("masked"));
    snprintf(dirs[1], sizeof dirs[1], "%s 2; %s 1", fixture_path("masked"), fixture_path("whole"));
    const int64_t seqs[] = {1, 7, 64, 5000};
    int64_t none = 0, wrong = 0;
    for (int d = 0; d < 2; d++) {
        for (size_t s = 0; s < sizeof seqs / sizeof *seqs; s++) {
            ls_dataset *dataset;
            CHECK_OK(ls_dataset_open(dirs[d], LS_SPLIT_TRAIN, seqs[s], false, &dataset));
            int32_t tokens[5000], targets[5000];
            int64_t sums[2] = {0}, n = ls_dataset_describe(dataset)->windows * 2 + 3;
            n = n < 300 ? n : 300;
            for (int64_t k = 0; k < n; k++) {
                int64_t valid;
                CHECK_OK(ls_dataset_window(dataset, ls_dataset_sample(dataset, 3, k), tokens,
                                           targets, &valid));
                int64_t found = 0;
                for (int64_t i = 0; i < seqs[s]; i++) {
                    found += targets[i] >= 0;
                    wrong += tokens[i] < 0 || tokens[i] > 256 || targets[i] < -1;
                }
                wrong += found != valid;
                none += valid == 0;
                wrong += ls_dataset_count_targets(dataset, 3, k, 1) != valid;
                sums[0] += valid;
                sums[1] += ls_dataset_count_tokens(dataset, 3, k, 1);
            }
            for (int again = 0; again < 2; again++) {
                CHECK_INT(ls_dataset_count_targets(dataset, 3, 0, n), sums[0]);
            }
            CHECK_INT(ls_dataset_count_tokens(dataset, 3, 0, n), sums[1]);
            CHECK(sums[0] < sums[1]);
            ls_dataset_close(dataset);
        }
    }
    CHECK_INT(wrong, 0);
    CHECK(none > 10);
}

/* Writes `bytes` of value at a place of a shard's header, whose checksum stays right. */
static void change_header(const char *path, int at, size_t bytes, uint64_t value) {
    size_t size;
    char *file = read_bytes(path, &size);
    memcpy(file + at, &value, bytes);
    const uint64_t checksum = ls_xxh64(file, 248, 0);
    memcpy(file + 248, &checksum, sizeof checksum);
    write_bytes(path, file, size);
    free(file);
}

static ls_status open_masked(bool verify) {
    ls_dataset *dataset;
    const ls_status status =
        ls_dataset_open(fixture_path("masked"), LS_SPLIT_TRAIN, SEQ, verify, &dataset);
    ls_dataset_close(dataset);
    return status;
}

static void test_spoiled(void) {
    const char *path = fixture_path("masked/train-00001.tok");
    size_t size;
    char *file = read_bytes(path, &size);
    CHECK_OK(open_masked(true));
    const struct {
        int at;
        size_t bytes;
        uint64_t value;
        ls_status status;
        const char *message;
    } bad[] = {
        {8, 2, 1, LS_E_CORRUPT, "byte 96: target count is"},
        {8, 2, 3, LS_E_VERSION, "shard format 3.0, this program reads up to 2.x"},
        {16, 4, 2, LS_E_CORRUPT, "2 bytes a token, allowed with a loss mask is 4"},
        {96, 8, 301, LS_E_CORRUPT, "byte 96: target count is 301, allowed is 0 to 300"},
        {96, 8, 0, LS_E_CORRUPT, "train-00001.tok' has target count 0, data.json lists"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        change_header(path, bad[i].at, bad[i].bytes, bad[i].value);
        CHECK_STATUS(open_masked(false), bad[i].status);
        CHECK_MESSAGE(bad[i].message);
        write_bytes(path, file, size);
    }
    change_header(path, 8, 2, 1);
    change_header(path, 96, 8, 0);
    CHECK_STATUS(open_masked(false), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00001.tok' has loss masks 0, data.json lists 1");
    write_bytes(path, file, size);
    free(file);
}

static void test_bad_token(void) {
    const char *path = fixture_path("masked/train-00001.tok");
    size_t size;
    char *file = read_bytes(path, &size);

    char *spoiled = malloc(size);
    memcpy(spoiled, file, size);
    const uint32_t outside = LS_SHARD_NO_TARGET | 257;
    memcpy(spoiled + LS_SHARD_HEADER_BYTES + 4 * 5, &outside, 4);
    write_bytes(path, spoiled, size);
    CHECK_STATUS(open_masked(true), LS_E_CORRUPT); /* the checksum */
    ls_dataset *dataset;
    int32_t tokens[300], targets[300];
    int64_t valid;
    CHECK_OK(ls_dataset_open(fixture_path("masked"), LS_SPLIT_TRAIN, 300, false, &dataset));
    CHECK_STATUS(ls_dataset_window(dataset, 1, tokens, targets, &valid), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00001.tok', byte 276: token 257 is outside the vocabulary of 257");
    ls_dataset_close(dataset);
    free(spoiled);
    write_bytes(path, file, size);
    free(file);
}

/* Counts of targets that data.json does not list. */
static void test_mixed(void) {
    const char *path = fixture_path("masked/train-00001.tok");
    size_t json_size;
    char *json = read_bytes(fixture_path("masked/data.json"), &json_size);

    size_t at[2] = {0}; /* of the counts of the first two shards */
    for (int i = 0; i < 2; i++) {
        for (at[i] = i > 0 ? at[0] + 1 : 0; memcmp(json + at[i], "targets", 7) != 0;) {
            at[i]++;
        }
    }
    json[at[0]] = '_';
    write_bytes(fixture_path("masked/data.json"), json, json_size);
    CHECK_STATUS(open_masked(false), LS_E_CORRUPT);
    CHECK_MESSAGE("train-00000.tok' has loss masks 1, data.json lists 0");
    json[at[0]] = 't';
    json[at[1]] = '_';
    write_bytes(fixture_path("masked/data.json"), json, json_size);
    change_header(path, 8, 2, 1);
    change_header(path, 96, 8, 0);
    CHECK_STATUS(open_masked(false), LS_E_CORRUPT);
    CHECK_MESSAGE("some of the train shards of '");
    free(json);
}

/* Documents that wait to be packed take 64 MiB at most, and all are written at the end. */
static void test_waiting(void) {
    enum { DOCUMENTS = 20000, LONG = 1000, SAMPLE = 2048, LEAST = 60 << 20, MOST = 64 << 20 };
    static uint16_t document[LONG];
    ls_shard_writer writer;
    ls_packer packer;
    ls_vocabulary vocabulary = ls_vocabulary_bytes();
    int64_t tokens = 0, most = 0;
    vocabulary.masked = true;
    CHECK_OK(ls_dir_create(fixture_path("waiting")));
    CHECK_OK(ls_shard_writer_init(&writer, fixture_path("waiting"), LS_SPLIT_TRAIN, 1 << 27,
                                  &vocabulary, true));
    CHECK_OK(ls_packer_init(&packer, SAMPLE, sizeof *document, &writer));
    for (int i = 0; i < DOCUMENTS; i++) {
        const size_t count = LONG - (size_t)(i * 7919LL % 300);
        tokens += (int64_t)count + 1;
        CHECK_OK(ls_packer_append(&packer, document, count * sizeof *document));
        CHECK_OK(ls_packer_end_document(&packer, true));
        most = packer.waiting_bytes > most ? packer.waiting_bytes : most;
    }
    CHECK(most > LEAST && most <= MOST);
    CHECK_OK(ls_packer_finish(&packer));
    CHECK_INT(writer.documents, DOCUMENTS);
    CHECK_INT(writer.shards[0].tokens, 1 + tokens + packer.padding);
    CHECK_INT(writer.shards[0].targets, tokens);
    CHECK_INT((tokens + packer.padding) % SAMPLE, 0);
    ls_packer_release(&packer);
    ls_shard_writer_release(&writer);
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    test_prompts();
    test_tokenizer();
    test_arrays();
    test_refused();
    test_counts();
    test_spoiled();
    test_bad_token();
    test_mixed();
    test_waiting();
    return fixture_end();
}
