/* Chats: the tokens of `transformers` (golden/make_chats.py), and which of them are targets. */
#include <jansson.h>

#include "runtime/data/tokenizer.h"
#include "tests/data/data_fixture.h"

static ls_prep_result result;

static ls_status prep(const char *chat, const char *tokenizer, const char *lines, bool skip_bad) {
    char path[PATH_MAX];
    const char *input = fixture_path("lines.jsonl");
    snprintf(path, sizeof path, LS_GOLDEN "/%s.json", tokenizer);
    write_text(input, lines);
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("out"));
    options.jsonl_field = "messages";
    options.chat = chat;
    options.tokenizer = path;
    options.separator = options.begin = -1;
    options.skip_bad = skip_bad;
    options.force = true;
    return fixture_prep(&options, &result);
}

/* What the library has for each chat of the format, and lines of them. Caller frees. */
static char *read_cases(const char *chat, const char *tokenizer, ls_token_list *expected) {
    json_t *cases = json_load_file(LS_GOLDEN "/chats.json", 0, NULL), *item;
    char path[PATH_MAX], *lines = NULL;
    size_t i, bytes;
    ls_tokenizer *t;
    snprintf(path, sizeof path, LS_GOLDEN "/%s.json", tokenizer);
    CHECK_OK(ls_tokenizer_read(path, &t));
    FILE *out = open_memstream(&lines, &bytes);
    expected->tokens = calloc(1 << 20, sizeof *expected->tokens);
    json_array_foreach(cases, i, item) {
        if (strcmp(json_string_value(json_object_get(item, "chat")), chat) != 0) {
            continue;
        }
        char *messages = json_dumps(json_object_get(item, "messages"), JSON_COMPACT);
        fprintf(out, "{\"id\": %zu, \"messages\": %s}\n", i, messages);
        free(messages);
        const json_t *tokens = json_object_get(item, "tokens");
        const json_t *mask = json_object_get(item, "mask");
        for (size_t j = 0; j < json_array_size(tokens); j++) {
            const bool target = json_integer_value(json_array_get(mask, j)) == 1;
            expected->tokens[expected->count++] =
                (uint32_t)json_integer_value(json_array_get(tokens, j)) |
                (target ? 0 : LS_SHARD_NO_TARGET);
        }
        expected->tokens[expected->count++] =
            (uint32_t)ls_tokenizer_separator(t) | LS_SHARD_NO_TARGET;
    }
    fclose(out);
    json_decref(cases);
    ls_tokenizer_release(t);
    return lines;
}

static void check_format(const char *chat, const char *tokenizer) {
    ls_token_list expected = {0};
    size_t size, differ = 0;
    char *lines = read_cases(chat, tokenizer, &expected);
    CHECK(expected.count > 1000);
    CHECK_OK(prep(chat, tokenizer, lines, false));
    char *shard = read_bytes(fixture_path("out/train-00000.tok"), &size);
    CHECK_INT(size, LS_SHARD_HEADER_BYTES + expected.count * sizeof(uint32_t));
    for (size_t i = 0; i < expected.count && size > LS_SHARD_HEADER_BYTES + 4 * i; i++) {
        uint32_t token;
        memcpy(&token, shard + LS_SHARD_HEADER_BYTES + 4 * i, sizeof token);
        if (token != expected.tokens[i] && differ++ == 0) {
            fprintf(stderr, "%s: token %zu is %x, expected %x\n", chat, i, token,
                    expected.tokens[i]);
        }
    }
    CHECK_INT(differ, 0);
    free(shard);
    free(expected.tokens);
    free(lines);
}

static void test_refused(void) {
    static const struct {
        const char *line, *message;
    } bad[] = {
        {"{\"messages\": [{\"role\": \"tool\", \"content\": \"a\"}]}",
         "message 0 has the role 'tool'"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"content\": \"a\"}]}",
         "message 1 has no role"},
        {"{\"messages\": [\"a\"]}", "message 0 has no role"},
        {"{\"messages\": [{\"role\": \"user\"}]}", "message 0, of role user, has no content"},
        {"{\"messages\": [{\"role\": \"assistant\", \"content\": null}]}",
         "message 0, of role assistant, has no content that is text"},
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", "nothing to learn"},
        {"{\"messages\": []}", "field 'messages' is empty; the messages of a chat are expected"},
        {"{\"messages\": \"a\"}", "field 'messages' is no array; the messages of a chat"},
        {"{\"text\": \"a\"}", "no field 'messages' (the first field is 'text')"},
        {"[]", "expected an object, {\"messages\": [{...}, ...]}"},
    };
    char all[4096] = "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}\n\n";
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(prep("chatml", "qwen2", bad[i].line, false), LS_E_INPUT);
        CHECK_MESSAGE("lines.jsonl', line 1: ");
        CHECK_MESSAGE(bad[i].message);
        strcat(strcat(all, bad[i].line), "\n");
    }
    CHECK_OK(prep("chatml", "qwen2", all, true));
    CHECK_INT(result.documents, 1);
    CHECK_INT(result.bad_lines, sizeof bad / sizeof *bad);
    CHECK_INT(result.train_targets, 2); /* a and <|im_end|> */

    CHECK_STATUS(prep("chatml", "llama3_chat", all, false), LS_E_USAGE);
    CHECK_MESSAGE("the tokenizer has no token <|im_start|>, with which chats of the format chatml");
    CHECK_STATUS(prep("llama3", "llama3", all, false), LS_E_USAGE);
    CHECK_MESSAGE("the tokenizer has no token <|start_header_id|>");
    CHECK_STATUS(prep("alpaca", "qwen2", all, false), LS_E_USAGE);
    CHECK_MESSAGE("--chat is 'alpaca'; chatml and llama3 are known");
    const char *input = fixture_path("lines.jsonl");
    ls_prep_options options = prep_defaults(&input, 1, fixture_path("out"));
    options.chat = "chatml";
    CHECK_STATUS(fixture_prep(&options, &result), LS_E_USAGE);
    CHECK_MESSAGE("give --tokenizer");
    options.tokenizer = LS_GOLDEN "/qwen2.json";
    options.prompt_field = "q";
    CHECK_STATUS(fixture_prep(&options, &result), LS_E_USAGE);
    CHECK_MESSAGE("the roles of its messages say what is learnt");
}

int main(void) {
    ls_log_set_quiet(true);
    fixture_begin();
    check_format("chatml", "qwen2");
    check_format("llama3", "llama3_chat");
    test_refused();
    return fixture_end();
}
