/* prep: what it reads, what it writes, and what it refuses. */
#include <sys/resource.h>

#include "tests/data/data_fixture.h"

static ls_prep_result result;

static ls_status prep_options(const ls_prep_options *options) {
    return fixture_prep(options, &result);
}

/* Prepares one input as `out`, replacing what was there. */
static ls_status prep(const char *input, const char *out) {
    ls_prep_options options = prep_defaults(&input, 1, fixture_path(out));
    options.force = true;
    return prep_options(&options);
}

/* The tokens of a split, text as itself and the separator as "|"; escapes are the caller's affair.
 * Valid until the next call. */
static const char *stream_text(const char *out, ls_split split, size_t *length) {
    enum { SEQ = 4096 };
    static char text[12 << 20];
    static int32_t tokens[SEQ], targets[SEQ];
    *length = 0;
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(fixture_path(out), split, SEQ, true, &dataset));
    if (!dataset) {
        return "";
    }
    for (int64_t w = 0; w < ls_dataset_describe(dataset)->windows; w++) {
        int64_t valid;
        CHECK_OK(ls_dataset_window(dataset, w, tokens, targets, &valid));
        text[0] = w == 0 ? (char)tokens[0] : text[0]; /* no target, and no separator */
        for (int64_t i = 0; i < valid; i++) {
            text[++*length] = targets[i] == 256 ? '|' : (char)targets[i];
        }
    }
    text[++*length] = '\0';
    ls_dataset_close(dataset);
    return text;
}

#define CHECK_STREAM(out, split, expected)                                                         \
    do {                                                                                           \
        size_t length_;                                                                            \
        const char *text_ = stream_text(out, split, &length_);                                     \
        CHECK_STR(text_, expected);                                                                \
        CHECK_INT(length_, strlen(expected));                                                      \
    } while (0)

static void test_folder(void) {
    CHECK_OK(ls_dir_create(fixture_path("tree/b/deep")));
    CHECK_OK(ls_dir_create(fixture_path("tree/.git")));
    write_text(fixture_path("tree/z.c"), "zed");
    write_text(fixture_path("tree/Z.h"), "Zed");
    write_text(fixture_path("tree/a.c"), "ay");
    write_text(fixture_path("tree/b/deep/x.txt"), "deep\n");
    write_text(fixture_path("tree/b/caf\xc3\xa9.h"), "caf\xc3\xa9 \xf0\x9f\x98\x80");
    write_text(fixture_path("tree/b/empty.c"), "");
    write_text(fixture_path("tree/.git/config"), "hidden");
    write_text(fixture_path("tree/.hidden"), "hidden");
    write_bytes(fixture_path("tree/b/binary.c"), "ab\0cd", 5);
    CHECK_INT(symlink("../..", fixture_path("tree/b/loop")), 0);
    CHECK_INT(symlink("loop2", fixture_path("tree/loop2")), 0);
    CHECK_INT(symlink("nothing", fixture_path("tree/dangling")), 0);
    CHECK_INT(symlink("a.c", fixture_path("tree/link.c")), 0);
    CHECK_INT(link(fixture_path("tree/z.c"), fixture_path("tree/zz.c")), 0);
    CHECK_INT(mkfifo(fixture_path("tree/fifo"), 0600), 0);
    CHECK_OK(prep(fixture_path("tree"), "out"));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "Zed|ay|caf\xc3\xa9 \xf0\x9f\x98\x80|deep\n|zed|");
    CHECK_INT(result.files, 6);           /* the empty one, too */
    CHECK_INT(result.skipped_files, 4);   /* binary, dangling, loop2, fifo */
    CHECK_INT(result.duplicate_files, 2); /* link.c, zz.c */
    CHECK_INT(result.documents, 5);
    CHECK_INT(result.bytes, 3 + 2 + 10 + 5 + 3);
    CHECK_INT(result.train_tokens, result.bytes + 5);
    CHECK_INT(result.train_shards, 1);
    CHECK_INT(result.val_shards, 0);
    CHECK(result.seconds > 0);
    CHECK_INT(unlink(fixture_path("tree/b/loop")), 0);

    const char *input = fixture_path("tree");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("include"));
    options.include = "*.h,x.*";
    CHECK_OK(prep_options(&options));
    CHECK_STREAM("include", LS_SPLIT_TRAIN, "Zed|caf\xc3\xa9 \xf0\x9f\x98\x80|deep\n|");
    options.include = "*.py";
    options.out_dir = fixture_path("none");
    CHECK_STATUS(prep_options(&options), LS_E_INPUT);
    CHECK_MESSAGE("corpus is empty");
    CHECK_MESSAGE("*.py");
}

static void test_inputs(void) {
    const char *const inputs[] = {fixture_path("tree/z.c"), fixture_path("tree/*.[ch]"),
                                  fixture_path("tree/b/"), fixture_path("tree/z.c")};
    ls_prep_options options = prep_defaults(inputs, 4, fixture_path("several/deep/out/"));
    CHECK_OK(prep_options(&options)); /* in the order given, each once */
    CHECK_STREAM("several/deep/out", LS_SPLIT_TRAIN,
                 "zed|Zed|ay|caf\xc3\xa9 \xf0\x9f\x98\x80|deep\n|");
    write_text(fixture_path("a[1].txt"), "literal"); /* a name that looks like a pattern */
    CHECK_OK(prep(fixture_path("a[1].txt"), "out"));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "literal|");
    CHECK_STATUS(prep(fixture_path("tree/*.py"), "out"), LS_E_INPUT);
    CHECK_MESSAGE("no file matches input");
    CHECK_STATUS(prep(fixture_path("missing.txt"), "out"), LS_E_INPUT);
    CHECK_MESSAGE("missing.txt' cannot be read: No such file");
    CHECK_STATUS(prep(fixture_path("tree/b/binary.c"), "out"), LS_E_INPUT);
    CHECK_MESSAGE("1 skipped as binary");
    CHECK_STATUS(prep(fixture_path("tree/b/empty.c"), "out"), LS_E_INPUT);
    CHECK_MESSAGE("corpus is empty");
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "literal|"); /* as it was */
    /* A NUL behind the first 8 KiB is text. */
    char *late = random_text(3, 9000);
    late[8192] = '\0';
    write_bytes(fixture_path("late.txt"), late, 9000);
    CHECK_OK(prep(fixture_path("late.txt"), "out"));
    CHECK_INT(result.bytes, 9000);
    late[8191] = '\0';
    write_bytes(fixture_path("late.txt"), late, 9000);
    CHECK_STATUS(prep(fixture_path("late.txt"), "out"), LS_E_INPUT);
    free(late);
}

static void test_jsonl(void) {
    const char *path = fixture_path("lines.jsonl");
    write_text(path, "\xEF\xBB\xBF{\"id\": 1, \"text\": \"one\"}\r\n\n  \t\n"
                     "{\"text\": \"caf\\u00e9 \\ud83d\\ude00\\n\"}\n{\"text\": \"\"}\n"
                     "{\"text\": \"last\", \"meta\": {\"text\": [1, null]}}");
    CHECK_OK(prep(path, "out"));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "one|caf\xc3\xa9 \xf0\x9f\x98\x80\n|last|");
    CHECK_INT(result.documents, 3);
    CHECK_INT(result.files, 1);
    write_text(path, "{\"text\": 1, \"content\": \"a\\u0000b\"}\n");
    ls_prep_options options = prep_defaults(&path, 1, fixture_path("out"));
    options.force = true;
    options.jsonl_field = "content";
    CHECK_OK(prep_options(&options));
    CHECK_INT(result.train_tokens, 4);

    const struct {
        const char *text, *message;
    } bad[] = {
        {"{\"text\": \"a\"}\n{\"text\": \"b\"\n", "lines.jsonl', line 2: not valid JSON"},
        {"{\"text\": \"a\"}\n\n[1]\n", "line 3: expected an object"},
        {"{\"text\": 5}", "line 1: field 'text' is no string"},
        {"{\"body\": \"x\"}", "line 1: no field 'text' (the first field is 'body'); choose"},
        {"{}", "line 1: no field 'text'"},
        {"{\"text\": \"\xff\"}", "line 1: not valid JSON"},
        {"{\"text\": \"a\"} trailing\n", "line 1: not valid JSON"},
        {"{\"text\": \"a\", \"text\": \"b\"}\n", "line 1: not valid JSON"},
        {"plain text\n", "line 1: not valid JSON"},
        {"\n\n", "corpus is empty"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        write_text(path, bad[i].text);
        CHECK_STATUS(prep(path, "out"), LS_E_INPUT);
        CHECK_MESSAGE(bad[i].message);
    }
}

/* Lines far longer than the buffer, after and before short ones. */
static void test_long_lines(void) {
    enum { LONG = 5 << 20 }; /* longer than the buffer */
    char *file = malloc(2 * LONG + 200), *end = file;
    for (int i = 0; file && i < 2; i++) {
        end += sprintf(end, "{\"text\": \"short\"}\n{\"text\": \"");
        memset(end, 'a' + i, LONG);
        end += LONG;
        end += sprintf(end, "\"}\n");
    }
    write_bytes(fixture_path("long.jsonl"), file, (size_t)(end - file));
    free(file);
    CHECK_OK(prep(fixture_path("long.jsonl"), "out"));
    CHECK_INT(result.documents, 4);
    size_t length, wrong = 0;
    const char *text = stream_text("out", LS_SPLIT_TRAIN, &length);
    CHECK_INT(length, 2 * (LONG + 7));
    for (size_t i = 0; i < length; i++) {
        size_t at = i % (LONG + 7);
        char expected = at < 6 ? "short|"[at] : (char)(i < LONG + 7 ? 'a' : 'b');
        wrong += text[i] != (at == LONG + 6 ? '|' : expected);
    }
    CHECK_INT(wrong, 0);
}

/* Lines that end just before, at and after the end of what the reader holds. */
static void test_chunk_ends(void) {
    for (int i = 0; i < 10; i++) {
        const int first_bytes = (i < 5 ? 1 << 20 : 4 << 20) + i % 5 - 2; /* with its newline */
        char *file = malloc((size_t)first_bytes + 40);
        int text_bytes = first_bytes - (int)strlen("{\"text\": \"\"}\n");
        sprintf(file, "{\"text\": \"%0*d\"}\n{\"text\": \"x\"}\n", text_bytes, 7);
        write_text(fixture_path("chunk.jsonl"), file);
        free(file);
        CHECK_OK(prep(fixture_path("chunk.jsonl"), "out"));
        CHECK_INT(result.documents, 2);
        size_t length;
        const char *text = stream_text("out", LS_SPLIT_TRAIN, &length);
        CHECK_INT(length, text_bytes + 3);
        CHECK_STR(text + length - 5, "07|x|");
    }
}

/* More lines than a chunk holds. */
static void test_many_lines(void) {
    const int count = 100000;
    char *file = malloc((size_t)count * 32), *end = file;
    for (int i = 0; file && i < count; i++) {
        end += sprintf(end, "{\"text\":\"%d\"}\n", i);
    }
    write_bytes(fixture_path("many.jsonl"), file, (size_t)(end - file));
    end = file;
    for (int i = 0; file && i < count; i++) {
        end += sprintf(end, "%d|", i);
    }
    CHECK_OK(prep(fixture_path("many.jsonl"), "out"));
    CHECK_INT(result.documents, count);
    size_t length;
    const char *text = stream_text("out", LS_SPLIT_TRAIN, &length);
    CHECK_INT(length, end - file);
    CHECK(file && memcmp(text, file, length) == 0);
    free(file);
}

/* Standard input is read from a file here; a pipe gives the same calls. */
static ls_status prep_stdin(const void *data, size_t bytes) {
    const char *path = fixture_path("stdin");
    write_bytes(path, data, bytes);
    int saved = dup(STDIN_FILENO), fd = open(path, O_RDONLY);
    CHECK(dup2(fd, STDIN_FILENO) == STDIN_FILENO);
    ls_status status = prep("-", "out");
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(fd);
    return status;
}

static void test_streams(void) {
    CHECK_OK(prep_stdin("some text\n", 10));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "some text\n|");
    CHECK_OK(prep_stdin("{\"text\": \"x\"}\n{\"text\": \"yz\"}\n", 29));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "x|yz|");
    CHECK_STATUS(prep_stdin("", 0), LS_E_INPUT);
    CHECK_MESSAGE("corpus is empty");
    CHECK_STATUS(prep_stdin("\0\0", 2), LS_E_INPUT);
    CHECK_STATUS(prep_stdin("{\"text\": \"x\"}\n{", 15), LS_E_INPUT);
    CHECK_MESSAGE("'standard input', line 2");
    enum { BIG = (3 << 20) + 17 };
    char *text = random_text(8, BIG);
    CHECK_OK(prep_stdin(text, BIG));
    size_t length;
    CHECK(memcmp(stream_text("out", LS_SPLIT_TRAIN, &length), text, BIG) == 0);
    CHECK_INT(length, BIG + 1);
    free(text);
    /* A named pipe, as <(command) makes one. */
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    CHECK_INT(write(ends[1], "piped", 5), 5);
    close(ends[1]);
    char path[64];
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    CHECK_OK(prep(path, "out"));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "piped|");
    close(ends[0]);
}

static void write_documents(const char *path, int count, int distinct) {
    char *file = malloc((size_t)count * 40), *end = file;
    for (int i = 0; file && i < count; i++) {
        end += sprintf(end, "{\"text\":\"document %d\"}\n", i % distinct);
    }
    write_bytes(path, file, (size_t)(end - file));
    free(file);
}

static ls_status prep_val(const char *input, double val) {
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("val"));
    options.force = true;
    options.val_fraction = val;
    return prep_options(&options);
}

/* Documents for validation of what was prepared last. */
static int64_t val_documents(void) {
    ls_dataset *dataset;
    CHECK_OK(ls_dataset_open(fixture_path("val"), LS_SPLIT_VAL, 0, true, &dataset));
    const int64_t documents = ls_dataset_describe(dataset)->documents;
    ls_dataset_close(dataset);
    return documents;
}

/* Of few documents as many as were asked for, at least one and not all. */
static void test_val_of_few(void) {
    static const struct {
        int documents, expected;
        double val;
    } asked[] = {{8, 1, 0.01},   {8, 1, 0.1},     {8, 2, 0.25},     {8, 7, 0.99},   {30, 3, 0.1},
                 {100, 10, 0.1}, {1024, 1, 1e-9}, {1024, 102, 0.1}, {1000, 5, 5e-3}};
    const char *path = fixture_path("docs.jsonl");
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        write_documents(path, asked[i].documents, asked[i].documents);
        CHECK_OK(prep_val(path, asked[i].val));
        CHECK_INT(result.documents, asked[i].documents);
        CHECK_INT(val_documents(), asked[i].expected);
    }
    write_documents(path, 40, 4); /* copies stay together */
    CHECK_OK(prep_val(path, 0.25));
    CHECK_INT(val_documents(), 10);
    CHECK_OK(prep_val(path, 0.1));
    CHECK_INT(val_documents(), 10);
    write_documents(path, 1025, 1025); /* many: some */
    CHECK_OK(prep_val(path, 1e-9));
    CHECK_INT(val_documents(), 1);
}

static void test_val_split(void) {
    const char *path = fixture_path("docs.jsonl");
    write_documents(path, 4000, 4000);
    CHECK_OK(prep_val(path, 0.1));
    const int64_t documents = val_documents();
    CHECK(documents > 320 && documents < 480); /* 400 +- 4 standard deviations */

    /* Copies land on one side: no document is on both. */
    write_documents(path, 600, 60);
    CHECK_OK(prep_val(path, 0.3));
    CHECK_INT(result.documents, 600);
    size_t length;
    char *train = strdup(stream_text("val", LS_SPLIT_TRAIN, &length));
    const char *val = stream_text("val", LS_SPLIT_VAL, &length);
    int sides = 0;
    for (int i = 0; i < 60; i++) {
        char name[32];
        snprintf(name, sizeof name, "document %d|", i);
        bool in_train = strstr(train, name), in_val = strstr(val, name);
        CHECK(in_train != in_val);
        sides += in_val;
    }
    CHECK(sides > 5 && sides < 35);
    free(train);

    /* Neither side is empty, however few documents there are and whatever the fraction. */
    for (int count = 2; count < 12; count++) {
        write_documents(path, count, count);
        const double fractions[] = {1e-9, 0.01, 0.5, 0.999};
        for (int i = 0; i < 4; i++) {
            CHECK_OK(prep_val(path, fractions[i]));
            CHECK_INT(result.documents, count);
            CHECK(result.train_tokens > 0 && result.val_tokens > 0);
            CHECK_INT(result.train_tokens + result.val_tokens, result.bytes + count);
        }
    }
    write_documents(path, 5, 1); /* only copies: all for training */
    const double fractions[] = {0.01, 0.99};
    for (int i = 0; i < 2; i++) {
        CHECK_OK(prep_val(path, fractions[i]));
        CHECK_INT(result.val_tokens, 0);
        CHECK_INT(result.documents, 5);
    }
    CHECK_OK(prep_val(path, 0));
    CHECK_INT(result.val_shards, 0);
}

/* Of a single document, the end is for validation. */
static void test_val_tail(void) {
    const char *path = fixture_path("single.txt"), *line = fixture_path("single.jsonl");
    write_text(path, "0123456789");
    CHECK_OK(prep_val(path, 0.2));
    CHECK_STREAM("val", LS_SPLIT_TRAIN, "01234567|");
    CHECK_STREAM("val", LS_SPLIT_VAL, "89|");
    CHECK_INT(result.documents, 1);
    CHECK_OK(prep_val(path, 0.001)); /* at least a byte */
    CHECK_STREAM("val", LS_SPLIT_VAL, "9|");
    write_text(line, "{\"text\": \"0123456789\"}\n");
    CHECK_OK(prep_val(line, 0.2));
    CHECK_STREAM("val", LS_SPLIT_TRAIN, "01234567|");
    CHECK_STREAM("val", LS_SPLIT_VAL, "89|");
    CHECK_INT(result.bytes, 10);
    write_text(path, "x"); /* too short to part */
    CHECK_OK(prep_val(path, 0.5));
    CHECK_STREAM("val", LS_SPLIT_TRAIN, "x|");
    CHECK_INT(result.val_tokens, 0);
    enum { BIG = (5 << 20) + 3, TAIL = (int)(0.4 * BIG) }; /* the cut lies inside a chunk */
    char *text = random_text(4, BIG);
    write_bytes(path, text, BIG);
    CHECK_OK(prep_val(path, 0.4));
    size_t length;
    CHECK(memcmp(stream_text("val", LS_SPLIT_TRAIN, &length), text, BIG - TAIL) == 0);
    CHECK_INT(length, BIG - TAIL + 1);
    CHECK(memcmp(stream_text("val", LS_SPLIT_VAL, &length), text + BIG - TAIL, TAIL) == 0);
    CHECK_INT(length, TAIL + 1);
    free(text);
}

static bool same_file(const char *a, const char *b) {
    size_t a_bytes, b_bytes;
    char *x = read_bytes(a, &a_bytes), *y = read_bytes(b, &b_bytes);
    bool same = a_bytes == b_bytes && memcmp(x, y, a_bytes) == 0;
    free(x);
    free(y);
    return same;
}

static void test_shards(void) {
    const char *input = fixture_path("docs.jsonl");
    write_documents(input, 40, 40);
    const int64_t sizes[] = {1 << 20, 1000, 64, 7};
    char expected[2][2000];
    for (int i = 0; i < 4; i++) {
        ls_prep_options options = prep_defaults(&input, 1, fixture_path("sharded"));
        options.force = true;
        options.shard_tokens = sizes[i];
        options.val_fraction = 0.25;
        CHECK_OK(prep_options(&options));
        CHECK_INT(result.train_shards, (result.train_tokens + sizes[i] - 1) / sizes[i]);
        CHECK_INT(result.val_shards, (result.val_tokens + sizes[i] - 1) / sizes[i]);
        for (int split = 0; split < 2; split++) {
            size_t length;
            const char *text = stream_text("sharded", (ls_split)split, &length);
            if (i == 0) {
                snprintf(expected[split], sizeof expected[split], "%s", text);
            }
            CHECK_STR(text, expected[split]);
        }
        ls_dataset *dataset;
        CHECK_OK(ls_dataset_open(fixture_path("sharded"), LS_SPLIT_TRAIN, 0, true, &dataset));
        const ls_dataset_info *info = ls_dataset_describe(dataset);
        CHECK_INT(info->tokens, info->bytes + info->documents);
        ls_dataset_close(dataset);
    }
}

static void test_deterministic(void) {
    const char *const inputs[] = {fixture_path("tree"), fixture_path("docs.jsonl")};
    for (int i = 0; i < 2; i++) {
        ls_prep_options options = prep_defaults(inputs, 2, fixture_path(i ? "same1" : "same0"));
        options.val_fraction = 0.2;
        options.shard_tokens = 300;
        CHECK_OK(prep_options(&options));
    }
    CHECK(result.val_shards > 0 && result.train_shards > 1);
    DIR *folder = opendir(fixture_path("same0"));
    int files = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (entry->d_name[0] != '.') {
            char a[PATH_MAX], b[PATH_MAX];
            CHECK_OK(ls_path_join(a, sizeof a, fixture_path("same0"), entry->d_name));
            CHECK_OK(ls_path_join(b, sizeof b, fixture_path("same1"), entry->d_name));
            CHECK(same_file(a, b));
            files++;
        }
    }
    closedir(folder);
    CHECK_INT(files, 1 + result.val_shards + result.train_shards);
}

/* Folders as deep as a path can name. */
static void test_deep_folders(void) {
    enum { DEPTH = 1900 };
    char *deep = calloc(1, PATH_MAX);
    size_t length = (size_t)snprintf(deep, PATH_MAX, "%s", fixture_path("pit"));
    for (int i = 0; i < DEPTH; i++) {
        CHECK_INT(mkdir(deep, 0755), 0);
        length += (size_t)snprintf(deep + length, PATH_MAX - length, "/d");
    }
    write_text(deep, "bottom");
    free(deep);
    CHECK_OK(prep(fixture_path("pit"), "out"));
    CHECK_STREAM("out", LS_SPLIT_TRAIN, "bottom|");
}

/* What the user typed need not be UTF-8. */
static void test_other_encodings(void) {
    write_text(fixture_path("caf\xe9.txt"), "latin");
    const char *input = fixture_path("caf\xe9.txt");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("latin"));
    options.include = "*.caf\xe9";
    options.jsonl_field = "caf\xe9";
    CHECK_OK(prep_options(&options));
    CHECK_STREAM("latin", LS_SPLIT_TRAIN, "latin|");
}

/* More shards than a process can map are refused before any is written. */
static void test_shard_limit(void) {
    char *text = random_text(6, 60100);
    write_bytes(fixture_path("limit.txt"), text, 60000);
    const char *input = fixture_path("limit.txt");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("limit"));
    options.shard_tokens = 2;
    CHECK_STATUS(prep_options(&options), LS_E_USAGE);
    CHECK_MESSAGE("60000 bytes of input may give 30001 shards of 2 tokens");
    CHECK_MESSAGE("--shard-tokens 3 or more");
    write_bytes(fixture_path("limit.txt"), text, 600);
    CHECK_OK(prep_options(&options));
    CHECK_INT(result.train_shards, 301);
    free(text);
}

static void test_options(void) {
    const char *input = fixture_path("tree");
    const ls_prep_options good = prep_defaults(&input, 1, fixture_path("options"));
    ls_prep_options bad[4] = {good, good, good, good};
    bad[0].input_count = 0;
    bad[1].val_fraction = 1;
    bad[2].val_fraction = NAN;
    bad[3].shard_tokens = 0;
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(prep_options(&bad[i]), LS_E_USAGE);
    }
    volatile sig_atomic_t stop = 1;
    ls_prep_options stopped = good;
    stopped.stop = &stop;
    CHECK_STATUS(prep_options(&stopped), LS_E_STOPPED);
    CHECK(!ls_path_exists(fixture_path("options")));
}

/* A limit on file sizes stands for a full disk: the failing write is named, nothing is left. */
static void test_full_disk(void) {
    char *text = random_text(5, 1 << 20);
    write_bytes(fixture_path("large.txt"), text, 1 << 20);
    free(text);
    struct rlimit before, limit;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 300000;
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ls_status status = prep(fixture_path("large.txt"), "full");
    CHECK_INT(setrlimit(RLIMIT_FSIZE, &before), 0);
    CHECK_STATUS(status, LS_E_IO);
    CHECK_MESSAGE("train-00000.tok");
    CHECK(!ls_path_exists(fixture_path("full")));
}

/* Root reads everything, so that these run as nobody. */
static void test_unreadable(void) {
    const bool root = geteuid() == 0;
    CHECK_OK(ls_dir_create(fixture_path("locked/folder")));
    CHECK_OK(ls_dir_create(fixture_path("open")));
    write_text(fixture_path("locked/secret.txt"), "secret");
    write_text(fixture_path("readable.txt"), "readable");
    CHECK_INT(chmod(fixture_dir, 0755), 0);
    CHECK_INT(chmod(fixture_path("open"), 0777), 0);
    CHECK_INT(chmod(fixture_path("locked/secret.txt"), 0), 0);
    CHECK_INT(chmod(fixture_path("locked/folder"), 0), 0);
    if (root) {
        CHECK_INT(seteuid(65534), 0);
    }
    CHECK_STATUS(prep(fixture_path("locked/secret.txt"), "open/out"), LS_E_INPUT);
    CHECK_MESSAGE("locked/secret.txt' cannot be read: Permission denied");
    CHECK_STATUS(prep(fixture_path("locked"), "open/out"), LS_E_INPUT);
    CHECK_MESSAGE("locked/folder' cannot be read: Permission denied");
    CHECK_OK(prep(fixture_path("readable.txt"), "open/out"));
    if (root) {
        CHECK_STATUS(prep(fixture_path("readable.txt"), "locked/out"), LS_E_IO);
        CHECK_MESSAGE("Permission denied");
        CHECK_INT(seteuid(0), 0);
    }
    CHECK_INT(chmod(fixture_path("locked/folder"), 0755), 0);
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    test_folder();
    test_inputs();
    test_jsonl();
    test_long_lines();
    test_chunk_ends();
    test_many_lines();
    test_streams();
    test_val_split();
    test_val_of_few();
    test_val_tail();
    test_shards();
    test_deterministic();
    test_deep_folders();
    test_other_encodings();
    test_shard_limit();
    test_options();
    test_full_disk();
    test_unreadable();
    return fixture_end();
}
