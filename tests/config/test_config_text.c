/* The resolved text: it reads back, tells runs apart, and survives damage. */
#include "runtime/base/rng.h"
#include "runtime/config/config.h"
#include "tests/test.h"

static uint64_t drawn;

static uint64_t below(uint64_t limit) {
    return (uint64_t)(ls_rng_uniform(5, 0, drawn++) * (double)limit);
}

static const char *const tiny[] = {"model.preset=llama3-tiny", "run.steps=9", "batch.sequences=2"};

/* "section.key=value" with a random value that is allowed on its own. */
static void random_override(const ls_field *f, char *text, size_t size) {
    static const char *const names[] = {"x",
                                        "a \\ \"b\" 'c': #d",
                                        "\xc3\xa9t\xc3\xa9",
                                        "null",
                                        "- {[&*!|>%@`",
                                        "\xf0\x9f\x8c\x8d world",
                                        " space",
                                        "1e5"};
    int n = snprintf(text, size, "%s.%s=", f->section, f->key);
    text += n;
    size -= (size_t)n;
    double span = f->max - f->min,
           x = f->min + span * pow(10, -(double)below(20)) * ls_rng_uniform(5, 1, drawn++);
    switch (f->type) {
    case LS_FIELD_BOOL:
        snprintf(text, size, "%s", below(2) ? "true" : "false");
        break;
    case LS_FIELD_INT:
        snprintf(text, size, "%.0f", floor(x));
        break;
    case LS_FIELD_FLOAT:
        snprintf(text, size, "%.17g", below(2) ? x : (double)(float)x);
        break;
    case LS_FIELD_STRING:
        snprintf(text, size, "%s", names[below(8)]);
        break;
    case LS_FIELD_ENUM: {
        int count = 0;
        while (f->names[count]) {
            count++;
        }
        snprintf(text, size, "%s", f->names[below((uint64_t)count)]);
        break;
    }
    }
}

static void check_reads_back(const ls_config *c, bool comments) {
    char *text = NULL, *again = NULL;
    ls_config back;
    CHECK_OK(ls_config_text(c, comments, &text));
    CHECK_OK(ls_config_load_text(&back, "text", text, strlen(text), NULL, 0));
    CHECK(memcmp(c, &back, sizeof back) == 0);
    CHECK_OK(ls_config_text(&back, comments, &again));
    CHECK_STR(again, text);
    free(text);
    free(again);
}

/* Random values in random fields; those that do not go together are refused and drawn again. */
static void test_random_round_trip(void) {
    size_t count;
    const ls_field *f = ls_config_fields(&count);
    int accepted = 0, refused = 0;
    for (int round = 0; round < 3000; round++) {
        char text[8][640];
        const char *overrides[3 + 8] = {tiny[0], tiny[1], tiny[2]};
        int n = 3 + (int)below(8);
        for (int i = 3; i < n; i++) {
            random_override(&f[below(count)], text[i - 3], sizeof text[0]);
            overrides[i] = text[i - 3];
        }
        ls_config c;
        if (ls_config_load(&c, NULL, overrides, n) == LS_OK) {
            check_reads_back(&c, round % 2);
            accepted++;
        } else {
            refused++;
        }
    }
    CHECK(accepted > 500 && refused > 100);
}

static void test_exact_text(void) {
    ls_config c;
    const char *const overrides[] = {tiny[0],
                                     tiny[1],
                                     tiny[2],
                                     "run.name=a \"b\"",
                                     "optim.lr=0.1",
                                     "optim.eps=1e-30",
                                     "optim.clip_norm=1e25",
                                     "optim.beta2=0.3333333333333333"};
    CHECK_OK(ls_config_load(&c, NULL, overrides, 8));
    char *text;
    CHECK_OK(ls_config_text(&c, false, &text));
    CHECK(strstr(text, "run:\n  name: \"a \\\"b\\\"\"\n  dir: \"runs\"\n") == text);
    CHECK(strstr(text, "\n  lr: 0.1\n") != NULL);
    CHECK(strstr(text, "\n  eps: 1.0e-30\n") != NULL);
    CHECK(strstr(text, "\n  clip_norm: 1.0e+25\n") != NULL);
    CHECK(strstr(text, "\n  beta2: 0.3333333333333333\n") != NULL);
    CHECK(strstr(text, "\n  rope_theta: 500000.0\n") != NULL);
    CHECK(strstr(text, "\n  weight_decay: 0.1\n") != NULL);
    CHECK(strstr(text, "\n  tied: false\n") != NULL);
    CHECK(strchr(text, '#') == NULL);
    free(text);
    CHECK_OK(ls_config_text(&c, true, &text));
    CHECK(strstr(text, "# largest global gradient norm; 0: any\n") != NULL);
    free(text);
}

static void test_hash_and_compare(void) {
    ls_config a, b;
    const char *const other[] = {tiny[0],
                                 tiny[1],
                                 tiny[2],
                                 "model.layers=3",
                                 "optim.lr=0.01",
                                 "run.name=other",
                                 "run.threads=2",
                                 "eval.every=5",
                                 "schedule.kind=wsd",
                                 "checkpoint.level=3"};
    CHECK_OK(ls_config_load(&a, NULL, tiny, 3));
    CHECK_OK(ls_config_load(&b, NULL, other, 10));
    ls_sha256 hash_a, hash_again, hash_b;
    CHECK_OK(ls_config_hash(&a, &hash_a));
    CHECK_OK(ls_config_hash(&a, &hash_again));
    CHECK_OK(ls_config_hash(&b, &hash_b));
    CHECK(memcmp(&hash_a, &hash_again, sizeof hash_a) == 0);
    CHECK(memcmp(&hash_a, &hash_b, sizeof hash_a) != 0);
    char *text;
    int differences;
    CHECK_OK(ls_config_compare(LS_RESUME_SAME, &a, "then", &b, "in b.yaml", &text, &differences));
    CHECK_INT(differences, 1);
    CHECK_STR(text, "model.layers: 2 then, 3 in b.yaml\n");
    free(text);
    CHECK_OK(ls_config_compare(LS_RESUME_CHANGE, &a, "then", &b, "now", &text, &differences));
    CHECK_INT(differences, 2);
    CHECK_STR(text, "optim.lr: 0.0003 then, 0.01 now\n"
                    "schedule.kind: cosine then, wsd now\n");
    free(text);
    CHECK_OK(ls_config_compare(LS_RESUME_SAME, &a, "a", &a, "a", &text, &differences));
    CHECK_INT(differences, 0);
    CHECK_STR(text, "");
    free(text);
}

static void test_help(void) {
    char *text = NULL;
    size_t bytes, count;
    FILE *out = open_memstream(&text, &bytes);
    ls_config_print_help(out);
    CHECK_INT(fclose(out), 0);
    const ls_field *f = ls_config_fields(&count);
    for (size_t i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "\n  %s.%s ", f[i].section, f[i].key);
        CHECK(strstr(text, name) != NULL);
        char first[64]; /* what surely stands in its first line */
        snprintf(first, sizeof first, " %.20s", f[i].help);
        CHECK(strstr(text, first) != NULL);
    }
    CHECK(strstr(text, "\nmodel: the model") != NULL);
    CHECK(strstr(text, "llama3-405b") != NULL);
    free(text);
}

/* Damaged text never crashes, and what is still accepted reads back. Run under sanitizers. */
static void test_damaged_text(void) {
    ls_config c;
    char *whole;
    CHECK_OK(ls_config_load(&c, NULL, tiny, 3));
    CHECK_OK(ls_config_text(&c, true, &whole));
    size_t bytes = strlen(whole);
    char *text = malloc(bytes + 64);
    static const char *const inserts[] = {"\n",  ":",  "  ",    "\t", "&a ",  "*a",   "[",
                                          "{",   "\"", "---\n", "- ", "!!x ", "\xff", "? ",
                                          "|\n", "%",  "\\",    "'",  "#"};
    int accepted = 0, refused = 0;
    for (int round = 0; round < 4000 && text; round++) {
        size_t n = bytes;
        memcpy(text, whole, bytes + 1);
        for (uint64_t edits = 1 + below(4); edits > 0; edits--) {
            size_t at = below(n);
            uint64_t kind = below(4);
            if (kind == 0) {
                text[at] = (char)below(256);
            } else if (kind == 1) {
                size_t cut = 1 + below(20);
                cut = cut < n - at ? cut : n - at - 1;
                memmove(text + at, text + at + cut, n - at - cut);
                n -= cut;
            } else if (kind == 2) {
                const char *insert = inserts[below(19)];
                size_t length = strlen(insert);
                memmove(text + at + length, text + at, n - at);
                memcpy(text + at, insert, length);
                n += length;
            } else if (below(8) == 0) {
                n = at + 1;
            }
        }
        ls_error_clear();
        ls_status status = ls_config_load_text(&c, "damaged", text, n, NULL, 0);
        if (status == LS_OK) {
            check_reads_back(&c, false);
            accepted++;
        } else {
            CHECK_INT(status, LS_E_CONFIG);
            CHECK_MESSAGE("damaged");
            refused++;
        }
    }
    CHECK(accepted > 200 && refused > 200);
    free(text);
    free(whole);
}

int main(void) {
    test_random_round_trip();
    test_exact_text();
    test_hash_and_compare();
    test_help();
    test_damaged_text();
    return test_end();
}
