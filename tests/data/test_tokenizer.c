/* Tokens beside those of the library `tokenizers` (golden/make_golden.py), what the tokens stand
 * for, and files that are refused. */
#include <jansson.h>
#include <limits.h>
#include <omp.h>
#include <stdint.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/rng.h"
#include "runtime/data/prep_documents.h"
#include "runtime/data/tokenizer.h"
#include "runtime/data/tokenizer_scan.h"
#include "tests/data/data_fixture.h"

static ls_status parse(const char *text, ls_tokenizer **t) {
    return ls_tokenizer_parse(text, strlen(text), "it.json", t);
}

static char *repeated(const char *text, size_t bytes, size_t repeat) {
    char *whole = malloc(bytes * repeat + 1);
    for (size_t i = 0; whole && i < repeat; i++) {
        memcpy(whole + i * bytes, text, bytes);
    }
    return whole;
}

/* What the tokens stand for, together. Caller frees. */
static char *decoded(const ls_tokenizer *t, const ls_token_list *list, size_t *bytes) {
    char *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    for (size_t i = 0; out && i < list->count; i++) {
        size_t n = 0;
        const char *part = ls_tokenizer_bytes(t, list->tokens[i], &n);
        CHECK(part != NULL);
        fwrite(part, 1, part ? n : 0, out);
    }
    fclose(out);
    return text;
}

static ls_status append(void *to, const uint32_t *tokens, size_t count, size_t text_bytes) {
    ls_token_list *list = to;
    CHECK(count + text_bytes > 0);
    if (list->capacity - list->count < count) { /* a byte may come alone: not each time anew */
        list->capacity = 2 * list->capacity + count;
        list->tokens = realloc(list->tokens, list->capacity * sizeof *list->tokens);
    }
    CHECK(list->tokens || count == 0);
    if (list->tokens && count > 0) {
        memcpy(list->tokens + list->count, tokens, count * sizeof *tokens);
        list->count += count;
    }
    return LS_OK;
}

static void check_tokens(const char *name, size_t number, const json_t *item,
                         const ls_token_list *list) {
    const json_t *tokens = json_object_get(item, "tokens");
    bool equal;
    if (tokens) {
        equal = list->count == json_array_size(tokens);
        for (size_t i = 0; equal && i < list->count; i++) {
            equal = list->tokens[i] == json_integer_value(json_array_get(tokens, i));
        }
    } else {
        ls_sha256 found, expected;
        CHECK_OK(ls_sha256_of(list->tokens, list->count * sizeof *list->tokens, &found));
        CHECK_OK(ls_sha256_parse(json_string_value(json_object_get(item, "sha256")), &expected));
        equal = memcmp(&found, &expected, sizeof found) == 0;
    }
    if (!equal) {
        fprintf(stderr, "%s, text %zu: other tokens than the library's\n", name, number);
    }
    CHECK(equal);
}

static void open_golden(const char *name, ls_tokenizer **t, ls_tokenizer_work **work) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s.json", LS_GOLDEN, name);
    CHECK_OK(ls_tokenizer_read(path, t));
    CHECK_OK(ls_tokenizer_work_make(*t, work));
}

/* keeps: tokens stand for the text itself. */
static void check_golden(const char *name, bool keeps) {
    char path[PATH_MAX];
    ls_tokenizer *t;
    ls_tokenizer_work *work;
    open_golden(name, &t, &work);
    snprintf(path, sizeof path, "%s/%s.tokens.json", LS_GOLDEN, name);
    json_t *cases = json_load_file(path, JSON_ALLOW_NUL, NULL), *item;
    CHECK(json_array_size(cases) > 50);
    ls_token_list list = {0};
    size_t i;
    json_array_foreach(cases, i, item) {
        const json_t *text = json_object_get(item, "text");
        const size_t repeat = (size_t)json_integer_value(json_object_get(item, "repeat"));
        const size_t bytes = json_string_length(text) * repeat;
        char *whole = repeated(json_string_value(text), json_string_length(text), repeat);
        list.count = 0;
        CHECK_OK(ls_tokenizer_encode(work, whole, bytes, &list));
        check_tokens(name, i, item, &list);
        list.count = 0;
        CHECK_OK(ls_tokenizer_encode_long(t, whole, bytes, append, &list));
        check_tokens(name, i, item, &list);
        size_t back_bytes;
        char *back = decoded(t, &list, &back_bytes);
        CHECK(!keeps || (back_bytes == bytes && memcmp(back, whole, bytes) == 0));
        free(back);
        free(whole);
    }
    json_decref(cases);
    free(list.tokens);
    ls_tokenizer_work_release(work);
    ls_tokenizer_release(t);
}

static void test_golden(void) {
    static const char *const keeping[] = {"gpt2",    "llama3",    "o200k",
                                          "removed", "starcoder", "metaspace_never"};
    static const char *const others[] = {
        "gpt2_added",       "llama3_added", "llama2",           "llama2_added", "metaspace_first",
        "metaspace_always", "characters",   "characters_fused", "qwen2",        "neox"};
    for (size_t i = 0; i < sizeof keeping / sizeof *keeping; i++) {
        check_golden(keeping[i], strcmp(keeping[i], "metaspace_never") != 0);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        check_golden(others[i], false);
    }
}

/* --- long texts, and more pieces than are remembered --- */

static uint64_t draws;

static uint32_t below(uint32_t n) {
    return ls_rng_draw(5, 0, draws++).v[0] % n;
}

/* Words, now and then added tokens and bytes that are no text. Caller frees. */
static char *long_text(size_t bytes, bool with_added) {
    static const char *const words[] = {" ",
                                        "\n",
                                        "the",
                                        "e\xcc\x81",
                                        "'ll",
                                        "1234567",
                                        "\xcc\xa3\xcc\x81",
                                        "\xe4\xb8\xad",
                                        "(",
                                        ") {\n",
                                        "\xc3\xa9",
                                        "\r\n",
                                        "    ",
                                        "_x",
                                        "...",
                                        "\xf0\x9f\x98\x80",
                                        "\xff",
                                        "\xe2\x96",
                                        "[X]",
                                        "<|tool|>",
                                        "mask",
                                        "two words"};
    const uint32_t choice = with_added ? 22 : 16;
    char *text = malloc(bytes + 64);
    size_t n = 0;
    while (text && n < bytes) {
        if (below(3) > 0) { /* words that nothing has seen */
            for (uint32_t left = 1 + below(9); left > 0; left--) {
                text[n++] = (char)('a' + below(26));
            }
        }
        const char *word = words[below(choice)];
        memcpy(text + n, word, strlen(word));
        n += strlen(word);
        if (below(60000) == 0) { /* runs over more than a part */
            static const char *const runs[] = {"aa", "  ", "\n\n", "==", "\xcc\x81\xcc\xa3"};
            const char *part = runs[below(5)];
            for (const size_t end = n + 400000; n < bytes && n < end; n += strlen(part)) {
                memcpy(text + n, part, strlen(part));
            }
        }
    }
    return text;
}

static void check_threads(const char *name, bool with_added) {
    enum { BYTES = 1300000 };
    ls_tokenizer *t;
    ls_tokenizer_work *work;
    open_golden(name, &t, &work);
    char *text = long_text(BYTES, with_added);
    ls_token_list once = {0}, list = {0};
    CHECK_OK(ls_tokenizer_encode(work, text, BYTES, &once));
    for (int threads = 1; threads <= 5; threads++) {
        omp_set_num_threads(threads);
        list.count = 0;
        CHECK_OK(ls_tokenizer_encode_long(t, text, BYTES, append, &list));
        CHECK_INT(list.count, once.count);
        CHECK(list.count == once.count &&
              memcmp(list.tokens, once.tokens, once.count * sizeof *once.tokens) == 0);
    }
    free(text);
    free(once.tokens);
    free(list.tokens);
    ls_tokenizer_work_release(work);
    ls_tokenizer_release(t);
}

static void test_threads(void) {
    static const char *const names[] = {"gpt2_added", "llama3",          "o200k", "starcoder",
                                        "llama2",     "metaspace_first", "qwen2", "neox"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_threads(names[i], false);
        check_threads(names[i], true);
    }
}

static ls_status refuse(void *to, const uint32_t *tokens, size_t count, size_t text_bytes) {
    *(size_t *)to += count + text_bytes;
    return LS_FAIL(tokens ? LS_E_STOPPED : LS_E_IO, "enough");
}

/* An error ends the work: the sink's, and one of a text that has no tokens. */
static void test_stopped(void) {
    ls_tokenizer *t;
    size_t taken = 0;
    char *text = long_text(2000000, false);
    static const char *const few =
        "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"model\": "
        "{\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, \"merges\": [\"a b\"]}}";
    CHECK_OK(ls_tokenizer_read(LS_GOLDEN "/gpt2.json", &t));
    CHECK_STATUS(ls_tokenizer_encode_long(t, text, 2000000, refuse, &taken), LS_E_STOPPED);
    CHECK(taken > 0 && taken < 2000000);
    ls_tokenizer_release(t);
    memset(text, 'b', 2000000);
    text[1500000] = 'c';
    taken = 0;
    CHECK_OK(ls_tokenizer_parse(few, strlen(few), "few.json", &t));
    CHECK_INT(ls_tokenizer_separator(t), -1);
    CHECK_STATUS(ls_tokenizer_encode_long(t, text, 2000000, refuse, &taken), LS_E_INPUT);
    CHECK_MESSAGE("no token stands for byte 0x63 of the text, at 'c'");
    CHECK_INT(taken, 0);
    ls_tokenizer_release(t);
    free(text);
}

/* --- patterns by hand --- */

#define LLAMA3_BEGIN "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?"
#define LLAMA3_END   "+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define O200K_WORDS(SHORT)                                                                         \
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"     \
    "+" SHORT "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}" \
    "\\p{M}]*" SHORT "|\\p{N}"
#define O200K_END "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* llama3.json with another pattern, in a group of which no scan is known. */
static ls_tokenizer *with_pattern(const char *pattern, bool grouped) {
    json_t *root = json_load_file(LS_GOLDEN "/llama3.json", 0, NULL);
    json_t *list = json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers");
    json_t *split = json_object_get(json_array_get(list, 0), "pattern");
    char text[1024];
    snprintf(text, sizeof text, grouped ? "(?:%s)" : "%s", pattern);
    json_object_set_new(split, "Regex", json_string(text));
    char *file = json_dumps(root, 0);
    ls_tokenizer *t;
    CHECK_OK(parse(file, &t));
    free(file);
    json_decref(root);
    return t;
}

/* A few characters, most of which decide something. */
static size_t put_random(char *text) {
    static const char *const parts[] = {" ",        " ",
                                        "\n",       "\r",
                                        "\t",       "'",
                                        "s",        "S",
                                        "l",        "L",
                                        "e",        "v",
                                        "7",        "12",
                                        ".",        "_",
                                        "ab",       "\x1c",
                                        "/",        "re",
                                        "D",        "m",
                                        "\xc5\xbf", "\xc2\xa0",
                                        "\xc3\xa9", "\xe2\x80\xa8",
                                        "\xd9\xa3", "\xe1\xa0\x8e"};
    const bool wide = below(3) == 0;
    size_t n = 0;
    for (uint32_t left = below(24); left > 0; left--) {
        const char *part = parts[below(wide ? 28 : 22)];
        memcpy(text + n, part, strlen(part));
        n += strlen(part);
    }
    return n;
}

/* What is found by hand is what the pattern finds. */
static void test_scans(void) {
    static const char *const patterns[] = {
        LS_GPT2_PATTERN,
        LLAMA3_BEGIN "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]" LLAMA3_END,
        LLAMA3_BEGIN "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]" LLAMA3_END,
        O200K_WORDS("(?i:'s|'t|'re|'ve|'m|'ll|'d)?") "{1,3}" O200K_END,
        O200K_WORDS("") O200K_END,
        LLAMA3_BEGIN "[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]" LLAMA3_END,
    };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        CHECK(ls_scan_of(patterns[i]) != NULL);
        ls_tokenizer *by_hand = with_pattern(patterns[i], false);
        ls_tokenizer *by_pattern = with_pattern(patterns[i], true);
        ls_tokenizer_work *works[2];
        CHECK_OK(ls_tokenizer_work_make(by_hand, &works[0]));
        CHECK_OK(ls_tokenizer_work_make(by_pattern, &works[1]));
        ls_token_list lists[2] = {0};
        int differ = 0;
        for (int round = 0; round < 100000; round++) {
            char text[128];
            const size_t bytes = put_random(text);
            for (int j = 0; j < 2; j++) {
                lists[j].count = 0;
                CHECK_OK(ls_tokenizer_encode(works[j], text, bytes, &lists[j]));
            }
            differ += lists[0].count != lists[1].count ||
                      (lists[0].count > 0 && memcmp(lists[0].tokens, lists[1].tokens,
                                                    lists[0].count * sizeof(uint32_t)) != 0);
        }
        CHECK_INT(differ, 0);
        for (int j = 0; j < 2; j++) {
            free(lists[j].tokens);
            ls_tokenizer_work_release(works[j]);
        }
        ls_tokenizer_release(by_hand);
        ls_tokenizer_release(by_pattern);
    }
}

/* --- names --- */

static void test_names(void) {
    static const char *const lines = "{\"merges\": [\"a b\"], \"vocab\": {\"ab\": 2, \"a\": 0, "
                                     "\"b\": 1}}",
                             *const pairs = "{\"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2}, "
                                            "\"merges\": [[\"a\", \"b\"]]}",
                             *const other = "{\"vocab\": {\"a\": 1, \"b\": 0, \"ab\": 2}, "
                                            "\"merges\": [[\"a\", \"b\"]]}";
    const char *const models[] = {lines, pairs, other};
    char names[3][LS_TOKENIZER_NAME_BYTES];
    for (int i = 0; i < 3; i++) {
        char text[512];
        ls_tokenizer *t;
        snprintf(text, sizeof text, "{\"version\": \"1.0\", \"model\": %s}", models[i]);
        CHECK_OK(ls_tokenizer_parse(text, strlen(text), "it.json", &t));
        snprintf(names[i], sizeof names[i], "%s", ls_tokenizer_name(t));
        CHECK_INT(strlen(names[i]), LS_TOKENIZER_NAME_BYTES - 1);
        ls_tokenizer_release(t);
    }
    CHECK_STR(names[0], names[1]);
    CHECK(strcmp(names[0], names[2]) != 0);

    /* Where spaces are replaced a split at spaces changes nothing. */
    static const char *const splits[] = {
        "null", "{\"type\": \"Split\", \"pattern\": {\"String\": \" \"}, \"behavior\": "
                "\"MergedWithPrevious\", \"invert\": false}"};
    for (int i = 0; i < 2; i++) {
        char text[1024];
        ls_tokenizer *t;
        snprintf(text, sizeof text,
                 "{\"normalizer\": {\"type\": \"Replace\", \"pattern\": {\"String\": \" \"}, "
                 "\"content\": \"\xe2\x96\x81\"}, \"pre_tokenizer\": %s, \"model\": %s}",
                 splits[i], lines);
        CHECK_OK(parse(text, &t));
        snprintf(names[i], sizeof names[i], "%s", ls_tokenizer_name(t));
        ls_tokenizer_release(t);
    }
    CHECK_STR(names[0], names[1]);
}

/* --- files --- */

#define BYTE_LEVEL                                                                                 \
    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "                   \
    "\"trim_offsets\": true}"
#define SPLIT(PART)                                                                                \
    "{\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [" PART                       \
    ", {\"type\": \"ByteLevel\", \"use_regex\": false, \"add_prefix_space\": false}]}, "           \
    "\"model\": {\"vocab\": {}, \"merges\": []}}"
#define REGEX(PATTERN)                                                                             \
    SPLIT("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"" PATTERN  \
          "\"}}")
#define MODEL(VOCAB, MERGES)                                                                       \
    "{" BYTE_LEVEL ", \"model\": {\"type\": \"BPE\", \"vocab\": {" VOCAB "}, \"merges\": [" MERGES \
    "]}}"
#define MODEL_WITH(MEMBER)                                                                         \
    "{" BYTE_LEVEL                                                                                 \
    ", \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [], " MEMBER "}}"
#define ADDED(TOKENS)                                                                              \
    "{" BYTE_LEVEL ", \"added_tokens\": [" TOKENS                                                  \
    "], \"model\": {\"vocab\": {\"a\": 0, \"b\": 1}, \"merges\": []}}"
#define NORMALIZER(PART) "{\"normalizer\": " PART ", \"model\": {\"vocab\": {}, \"merges\": []}}"
#define PRE(PART)        "{\"pre_tokenizer\": " PART ", \"model\": {\"vocab\": {}, \"merges\": []}}"

static const struct {
    const char *text, *message;
} files[] = {
    {"", "not valid JSON"},
    {"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}", "duplicate"},
    {"[]", "no model"},
    {"{\"version\": \"2.0\", \"model\": {}}", "version '2.0'"},
    {"{\"model\": {\"type\": \"Unigram\"}}", "model Unigram; BPE is known"},
    {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", "lacks its vocab or merges"},
    {MODEL_WITH("\"dropout\": 0.1"), "dropout"},
    {MODEL_WITH("\"continuing_subword_prefix\": \"##\""), "continuing_subword_prefix '##'"},
    {MODEL_WITH("\"end_of_word_suffix\": \"</w>\""), "end_of_word_suffix '</w>'"},
    {MODEL_WITH("\"fuse_unk\": 1"), "fuse_unk is neither true nor false"},
    {MODEL("\"a\": 0, \"b\": 0", ""), "both have id 0"},
    {MODEL("\"a\": -1", ""), "the id of token 'a' is -1"},
    {MODEL("\"a\": 2147483648", ""), "the id of token 'a' is 2147483648"},
    {MODEL("\"a\": 5000", ""), "0 to 1031 is expected"},
    {MODEL("\"a\": \"0\"", ""), "no whole number"},
    {MODEL("\"a\": 0, \"b\": 1", "\"a b\""), "what they make is no token"},
    {MODEL("\"a\": 0, \"ab\": 1", "\"a b\""), "the second is no token"},
    {MODEL("\"b\": 0, \"ab\": 1", "[\"a\", \"b\"]"), "the first is no token"},
    {MODEL("\"a\": 0", "\"a\""), "item 0 of merges is neither"},
    {MODEL("\"a\": 0", "\"a a a\""), "item 0 of merges is neither"},
    {MODEL("\"a\": 0", "[\"a\", \"\"]"), "item 0 of merges is neither"},
    {MODEL("\"a\": 0", "7"), "item 0 of merges is neither"},
    {ADDED("{\"id\": 2}"), "item 0 of added_tokens has no content"},
    {ADDED("{\"id\": 3, \"content\": \"x\"}"), "2 is expected, the next behind"},
    {ADDED("{\"id\": 1, \"content\": \"a\"}"), "0 is expected, which it has in vocab"},
    {ADDED("{\"id\": 0, \"content\": \"a\"}, {\"id\": 0, \"content\": \"a\"}"), "of another token"},
    {ADDED("{\"id\": 2, \"content\": \"x\", \"lstrip\": \"no\"}"), "lstrip is neither"},
    {"{\"added_tokens\": {}, \"model\": {\"vocab\": {}, \"merges\": []}}",
     "added_tokens is no list"},
    {NORMALIZER("{\"type\": \"Sequence\"}"), "normalizers is missing"},
    {PRE("{\"type\": \"Sequence\", \"pretokenizers\": {}}"), "pretokenizers is no list"},
    {NORMALIZER("{\"type\": \"NFKC\"}"), "normalizer NFKC"},
    {NORMALIZER("{\"type\": \"Prepend\", \"prepend\": \"_\"}"), "normalizer Prepend"},
    {NORMALIZER("{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}"),
     "without Replace of spaces"},
    {PRE("{\"type\": \"Whitespace\"}"), "pre_tokenizer Whitespace"},
    {PRE("{\"type\": \"Metaspace\", \"replacement\": \"_\"}"), "replacement '_'"},
    {PRE("{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": "
         "\"last\"}"),
     "prepend_scheme 'last'"},
    {PRE("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"a\"}}"),
     "without ByteLevel at its end"},
    {SPLIT("{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": {\"Regex\": "
           "\"a\"}}"),
     "behavior 'Removed'"},
    {SPLIT("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"String\": "
           "\"a\"}}"),
     "no Regex"},
    {SPLIT("{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"), "behind ByteLevel"},
    {REGEX("a*"), "can match nothing"},
    {REGEX("(a"), "missing closing parenthesis"},
    {REGEX("^a"), "what stands at '^a' is not known"},
    {REGEX("\\\\w+"), "what stands at '\\w+' is not known"},
    {REGEX("(?m:a)"), "what stands at '(?m:a)' is not known"},
    {REGEX("[a&&b]"), "what stands at '&&b]' is not known"},
    {REGEX("a{1,2}+"), "what stands at '}+' is not known"},
};

static void test_refused(void) {
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ls_tokenizer *t;
        ls_error_clear();
        CHECK_STATUS(parse(files[i].text, &t), LS_E_INPUT);
        CHECK_MESSAGE(files[i].message);
        CHECK(t == NULL);
        ls_tokenizer_release(t);
    }
}

static void test_unreadable(void) {
    ls_tokenizer *t;
    CHECK_STATUS(ls_tokenizer_read("/nonexistent/tokenizer.json", &t), LS_E_INPUT);
    CHECK_MESSAGE("/nonexistent/tokenizer.json");
}

/* Of the only line, whose end is for validation, progress counts each byte once. */
static void test_progress(void) {
    fixture_begin();
    const char *lines = fixture_path("one.jsonl");
    write_text(lines, "{\"text\": \"the only document\"}\n");
    ls_tokenizer *t;
    CHECK_OK(ls_tokenizer_read(LS_GOLDEN "/gpt2.json", &t));
    const ls_vocabulary vocabulary = {.size = ls_tokenizer_vocab(t),
                                      .separator = ls_tokenizer_separator(t),
                                      .words = t,
                                      .begin = -1};
    const ls_prep_options options = prep_defaults(&lines, 1, fixture_path("data"));
    ls_prep_sources sources;
    ls_prep_split split;
    ls_prep_reader reader;
    CHECK_OK(ls_prep_sources_init(&sources, &options, fixture_dir));
    CHECK_OK(ls_prep_split_init(&split, &(ls_prep_options){.shard_tokens = 1 << 20}, fixture_dir,
                                &vocabulary));
    split.tail = 0.2;
    CHECK_OK(ls_prep_reader_init(&reader, &options, &split, sources.bytes));
    CHECK_OK(ls_prep_read(&reader, &sources.list[0]));
    CHECK_INT(reader.done_bytes, sources.bytes);
    ls_prep_reader_release(&reader);
    ls_prep_split_release(&split);
    ls_prep_sources_release(&sources);
    ls_tokenizer_release(t);
    CHECK_OK(ls_dir_remove(fixture_dir));
}

/* Lines of JSONL, one of them long enough for all threads, become what files of their texts do. */
static void test_long_lines(void) {
    enum { LONG = 3 << 20 };
    const char *const names[] = {"a.txt", "b.txt", "c.txt"};
    const size_t bytes[] = {40, LONG, 700};
    const char *inputs[3], *lines;
    char *text = malloc(LONG + 1), *jsonl = malloc(LONG + 1000), *end = jsonl;
    fixture_begin();
    for (int64_t i = 0; text && i < LONG; i++) {
        text[i] = "etaoin shr dlu 12,3"[ls_rng_draw(3, 0, (uint64_t)i).v[0] % 19];
    }
    for (int i = 0; i < 3; i++) {
        inputs[i] = fixture_path(names[i]);
        write_bytes(inputs[i], text, bytes[i]);
        end += sprintf(end, "{\"text\": \"%.*s\"}\n", (int)bytes[i], text);
    }
    lines = fixture_path("lines.jsonl");
    write_bytes(lines, jsonl, (size_t)(end - jsonl));
    char *shards[2];
    size_t sizes[2];
    for (int i = 0; i < 2; i++) {
        const char *out = fixture_path(i ? "of-lines" : "of-files");
        ls_prep_options options = prep_defaults(i ? &lines : inputs, i ? 1 : 3, out);
        options.tokenizer = LS_GOLDEN "/gpt2.json";
        options.separator = options.begin = -1;
        ls_prep_result result;
        CHECK_OK(fixture_prep(&options, &result));
        CHECK_INT(result.documents, 3);
        shards[i] = read_bytes(
            fixture_path(i ? "of-lines/train-00000.tok" : "of-files/train-00000.tok"), &sizes[i]);
    }
    CHECK(sizes[0] == sizes[1] && memcmp(shards[0], shards[1], sizes[0]) == 0);
    free(shards[0]);
    free(shards[1]);
    free(text);
    free(jsonl);
    CHECK_OK(ls_dir_remove(fixture_dir));
}

int main(void) {
    test_golden();
    test_scans();
    test_threads();
    test_stopped();
    test_names();
    test_refused();
    test_unreadable();
    test_progress();
    test_long_lines();
    return test_end();
}
