/* The scan of a line of JSONL beside the JSON library: what it takes it takes alike, the rest it
 * leaves as it was. */
#include "runtime/base/rng.h"
#include "runtime/data/jsonl.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BYTES = 8192 };

/* Scans a copy that ends where it ends; true when the scan took it, and then the library agrees. */
static bool scanned(const char *line, size_t bytes) {
    char *copy = malloc(bytes + 1);
    CHECK(copy != NULL);
    if (!copy) {
        return false;
    }
    copy = memcpy(copy, line, bytes);
    ls_jsonl scan = {0}, parsed = {0};
    const bool took = ls_jsonl_scan(copy, bytes, "text", &scan);
    if (took) {
        CHECK_OK(ls_jsonl_parse(line, bytes, &(ls_jsonl_form){.field = "text"}, &parsed));
        CHECK(parsed.text && parsed.bytes == scan.bytes);
        CHECK(parsed.text && memcmp(parsed.text, scan.text, parsed.bytes) == 0);
        json_decref(parsed.document);
    } else {
        CHECK(memcmp(copy, line, bytes) == 0);
    }
    free(copy);
    return took;
}

static void test_usual(void) {
    static const char *const lines[] = {
        "{\"text\": \"\"}",
        " {\t\"text\":\"a\" } \r",
        "{\"text\": \"a long text without anything to replace, of more than 32 bytes\"}",
        "{\"text\": \"caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x98\x80 \xf4\x8f\xbf\xbf\"}",
        "{\"text\": \"\\\"\\\\\\/\\b\\f\\n\\r\\t \\u0041\\u00e9\\u4e2d\\uD83D\\uDE00\\u0000.\"}",
        "{\"id\": -12, \"score\": 0.25, \"text\": \"x\", \"ok\": true, \"no\": false, \"nil\": "
        "null}",
        "{\"meta\": {\"url\": \"http:\\/\\/x\", \"text\": 5, \"list\": [1, [], [\"a\", {}]]}, "
        "\"text\": \"x\"}",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CHECK(scanned(lines[i], strlen(lines[i])));
        for (size_t cut = 0; cut < strlen(lines[i]); cut++) { /* no byte behind the end is read */
            (void)scanned(lines[i], cut);
        }
    }
}

static void test_left(void) {
    static const char *const lines[] = {
        "",
        "[]",
        "{}",
        "{\"body\": \"x\"}",
        "{\"text\": 1}",
        "{\"text\": \"a\", \"text\": \"b\"}",
        "{\"a\": {\"b\": 1, \"b\": 2}, \"text\": \"x\"}",
        "{\"t\\u0065xt\": \"x\"}",
        "{\"text\": \"a\"} x",
        "{\"text\": \"a\",}",
        "{\"text\": \"a\" \"b\": 1}",
        "{\"a\": 01, \"text\": \"x\"}",
        "{\"a\": 1., \"text\": \"x\"}",
        "{\"a\": 123456789012345678901, \"text\": \"x\"}",
        "{\"a\": 1e999, \"text\": \"x\"}",
        "{\"a\": tru, \"text\": \"x\"}",
        "{\"a\": [1,], \"text\": \"x\"}",
        "{\"text\": \"a\tb\"}",
        "{\"text\": \"\\x\"}",
        "{\"text\": \"\\u12g4\"}",
        "{\"text\": \"\\ud800\"}",
        "{\"text\": \"\\ud800\\u0041\"}",
        "{\"text\": \"\\udc00\"}",
        "{\"text\": \"\x80\"}",
        "{\"text\": \"\xc1\xbf\"}",
        "{\"text\": \"\xe0\x9f\xbf\"}",
        "{\"text\": \"\xed\xa0\x80\"}",
        "{\"text\": \"\xf0\x8f\xbf\xbf\"}",
        "{\"text\": \"\xf4\x90\x80\x80\"}",
        "{\"text\": \"\xc3\"}",
        "{\"a\": [[[[[[[[[[[[]]]]]]]]]]]], \"text\": \"deep\"}",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        CHECK(!scanned(lines[i], strlen(lines[i])));
    }
}

/* Lines from pieces of good ones, most with a byte changed. */
static uint64_t draws;

static uint32_t below(uint32_t n) {
    return ls_rng_draw(11, 0, draws++).v[0] % n;
}

static size_t put_piece(char *to) {
    static const char *const pieces[] = {"plain",
                                         "of eight",
                                         "\\n",
                                         "\\\"",
                                         "\\u00e9",
                                         "\\ud83d\\ude00",
                                         "\\\\",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xad",
                                         " ",
                                         "a little longer than that",
                                         "\xf0\x9f\x98\x80",
                                         "/",
                                         "\\u0000"};
    const char *piece = pieces[below(sizeof pieces / sizeof *pieces)];
    memcpy(to, piece, strlen(piece));
    return strlen(piece);
}

static size_t put_line(char *line) {
    static const char *const before[] = {"{", "{\"id\": 17, ", "{\"m\": {\"a\": [0.5, null]}, ",
                                         " { \"s\":\"\\\\\",\r"};
    static const char *const after[] = {"\"}", "\", \"z\": [\"x\", {\"text\": 1}]}", "\" } "};
    size_t n = (size_t)sprintf(line, "%s\"text\": \"", before[below(4)]);
    for (uint32_t left = below(40); left > 0; left--) {
        n += put_piece(line + n);
    }
    return n + (size_t)sprintf(line + n, "%s", after[below(3)]);
}

static void test_random(void) {
    char line[MAX_BYTES];
    int took = 0, took_changed = 0;
    const int rounds = 20000;
    for (int i = 0; i < rounds; i++) {
        const size_t bytes = put_line(line);
        took += scanned(line, bytes);
        line[below((uint32_t)bytes)] = "\"\\{}[],:u0\x80\xe4\x1f ax"[below(16)];
        took_changed += scanned(line, bytes);
    }
    CHECK_INT(took, rounds);
    CHECK(took_changed > 0 && took_changed < rounds);
}

int main(void) {
    test_usual();
    test_left();
    test_random();
    return test_end();
}
