/* Tokens beside those of the library `tokenizers` (golden/make_golden.py), what the tokens stand
 * for, and files that are refused. */
#include <jansson.h>
#include <limits.h>
#include <stdint.h>

#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/data/tokenizer.h"
#include "tests/test.h"

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
    uint32_t *room = realloc(list->tokens, (list->count + count) * sizeof *room);
    CHECK(room && count > 0 && text_bytes > 0);
    memcpy(room + list->count, tokens, count * sizeof *room);
    list->tokens = room;
    list->capacity = list->count += count;
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

/* keeps: tokens stand for the text itself. */
static void check_golden(const char *name, bool keeps) {
    char path[PATH_MAX];
    ls_tokenizer *t;
    ls_tokenizer_work *work;
    snprintf(path, sizeof path, "%s/%s.json", LS_GOLDEN, name);
    CHECK_OK(ls_tokenizer_read(path, &t));
    CHECK_OK(ls_tokenizer_work_make(t, &work));
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
    static const char *const others[] = {"gpt2_added",   "llama3_added",    "llama2",
                                         "llama2_added", "metaspace_first", "metaspace_always",
                                         "characters",   "characters_fused"};
    for (size_t i = 0; i < sizeof keeping / sizeof *keeping; i++) {
        check_golden(keeping[i], strcmp(keeping[i], "metaspace_never") != 0);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        check_golden(others[i], false);
    }
}

/* --- files --- */

static ls_status parse(const char *text, ls_tokenizer **t) {
    return ls_tokenizer_parse(text, strlen(text), "it.json", t);
}

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

static void test_refused(void) {
    static const struct {
        const char *text, *message;
        ls_status status;
    } files[] = {
        {"", "not valid JSON", LS_E_INPUT},
        {"{\"model\": {\"vocab\": {\"a\": 0, \"a\": 1}}}", "duplicate", LS_E_INPUT},
        {"[]", "no model", LS_E_INPUT},
        {"{\"version\": \"2.0\", \"model\": {}}", "version '2.0'", LS_E_UNSUPPORTED},
        {"{\"model\": {\"type\": \"Unigram\"}}", "model Unigram; BPE is known", LS_E_UNSUPPORTED},
        {"{\"model\": {\"type\": \"BPE\", \"vocab\": {}}}", "lacks its vocab or merges",
         LS_E_INPUT},
        {MODEL_WITH("\"dropout\": 0.1"), "dropout", LS_E_UNSUPPORTED},
        {MODEL_WITH("\"continuing_subword_prefix\": \"##\""), "continuing_subword_prefix '##'",
         LS_E_UNSUPPORTED},
        {MODEL_WITH("\"end_of_word_suffix\": \"</w>\""), "end_of_word_suffix '</w>'",
         LS_E_UNSUPPORTED},
        {MODEL_WITH("\"fuse_unk\": 1"), "fuse_unk is neither true nor false", LS_E_INPUT},
        {MODEL("\"a\": 0, \"b\": 0", ""), "both have id 0", LS_E_INPUT},
        {MODEL("\"a\": -1", ""), "the id of token 'a' is -1", LS_E_INPUT},
        {MODEL("\"a\": 2147483648", ""), "the id of token 'a' is 2147483648", LS_E_INPUT},
        {MODEL("\"a\": 5000", ""), "0 to 1031 is expected", LS_E_INPUT},
        {MODEL("\"a\": \"0\"", ""), "no whole number", LS_E_INPUT},
        {MODEL("\"a\": 0, \"b\": 1", "\"a b\""), "what they make is no token", LS_E_INPUT},
        {MODEL("\"a\": 0, \"ab\": 1", "\"a b\""), "the second is no token", LS_E_INPUT},
        {MODEL("\"b\": 0, \"ab\": 1", "[\"a\", \"b\"]"), "the first is no token", LS_E_INPUT},
        {MODEL("\"a\": 0", "\"a\""), "item 0 of merges is neither", LS_E_INPUT},
        {MODEL("\"a\": 0", "\"a a a\""), "item 0 of merges is neither", LS_E_INPUT},
        {MODEL("\"a\": 0", "[\"a\", \"\"]"), "item 0 of merges is neither", LS_E_INPUT},
        {MODEL("\"a\": 0", "7"), "item 0 of merges is neither", LS_E_INPUT},
        {ADDED("{\"id\": 2}"), "item 0 of added_tokens has no content", LS_E_INPUT},
        {ADDED("{\"id\": 3, \"content\": \"x\"}"), "2 is expected, the next behind", LS_E_INPUT},
        {ADDED("{\"id\": 1, \"content\": \"a\"}"), "0 is expected, which it has in vocab",
         LS_E_INPUT},
        {ADDED("{\"id\": 0, \"content\": \"a\"}, {\"id\": 0, \"content\": \"a\"}"),
         "of another token", LS_E_INPUT},
        {ADDED("{\"id\": 2, \"content\": \"x\", \"lstrip\": \"no\"}"), "lstrip is neither",
         LS_E_INPUT},
        {NORMALIZER("{\"type\": \"NFC\"}"), "normalizer NFC", LS_E_UNSUPPORTED},
        {NORMALIZER("{\"type\": \"Prepend\", \"prepend\": \"_\"}"), "normalizer Prepend",
         LS_E_UNSUPPORTED},
        {NORMALIZER("{\"type\": \"Prepend\", \"prepend\": \"\xe2\x96\x81\"}"),
         "without Replace of spaces", LS_E_UNSUPPORTED},
        {PRE("{\"type\": \"Whitespace\"}"), "pre_tokenizer Whitespace", LS_E_UNSUPPORTED},
        {PRE("{\"type\": \"Metaspace\", \"replacement\": \"_\"}"), "replacement '_'",
         LS_E_UNSUPPORTED},
        {PRE("{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": "
             "\"last\"}"),
         "prepend_scheme 'last'", LS_E_UNSUPPORTED},
        {PRE("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"a\"}}"),
         "without ByteLevel at its end", LS_E_UNSUPPORTED},
        {SPLIT("{\"type\": \"Split\", \"behavior\": \"Removed\", \"pattern\": {\"Regex\": "
               "\"a\"}}"),
         "behavior 'Removed'", LS_E_UNSUPPORTED},
        {SPLIT("{\"type\": \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"String\": "
               "\"a\"}}"),
         "no Regex", LS_E_UNSUPPORTED},
        {SPLIT("{\"type\": \"ByteLevel\", \"add_prefix_space\": false}"), "behind ByteLevel",
         LS_E_UNSUPPORTED},
        {REGEX("a*"), "can match nothing", LS_E_UNSUPPORTED},
        {REGEX("(a"), "missing closing parenthesis", LS_E_UNSUPPORTED},
        {REGEX("^a"), "what stands at '^a' is not known", LS_E_UNSUPPORTED},
        {REGEX("\\\\w+"), "what stands at '\\w+' is not known", LS_E_UNSUPPORTED},
        {REGEX("(?m:a)"), "what stands at '(?m:a)' is not known", LS_E_UNSUPPORTED},
        {REGEX("[a&&b]"), "what stands at '&&b]' is not known", LS_E_UNSUPPORTED},
        {REGEX("a{1,2}+"), "what stands at '}+' is not known", LS_E_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ls_tokenizer *t;
        ls_error_clear();
        CHECK_STATUS(parse(files[i].text, &t), files[i].status);
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

int main(void) {
    test_golden();
    test_refused();
    test_unreadable();
    return test_end();
}
