#include "runtime/base/text.h"
#include "tests/test.h"

static void test_bytes(void) {
    static const struct {
        double bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {512, "512 B"},
                 {1023, "1023 B"},
                 {1024, "1.00 KiB"},
                 {1.5 * 1024 * 1024, "1.50 MiB"},
                 {12.34 * 1024 * 1024, "12.3 MiB"},
                 {1023.6 * 1024, "1.00 MiB"},
                 {9.996 * 1024, "10.0 KiB"},
                 {99.96 * 1024, "100 KiB"},
                 {-2048, "-2.00 KiB"},
                 {0x1p62, "4096 PiB"},
                 {NAN, "unknown"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_STR(ls_text_bytes(buf, sizeof buf, cases[i].bytes), cases[i].text);
    }
}

static void test_count(void) {
    char buf[32];
    CHECK_STR(ls_text_count(buf, sizeof buf, 0), "0");
    CHECK_STR(ls_text_count(buf, sizeof buf, 999), "999");
    CHECK_STR(ls_text_count(buf, sizeof buf, 12.34), "12.3");
    CHECK_STR(ls_text_count(buf, sizeof buf, 999.7), "1.00 k");
    CHECK_STR(ls_text_count(buf, sizeof buf, 12.3e6), "12.3 M");
    CHECK_STR(ls_text_count(buf, sizeof buf, 124.4e6), "124 M");
    CHECK_STR(ls_text_count(buf, sizeof buf, 15e12), "15.0 T");
    CHECK_STR(ls_text_flops(buf, sizeof buf, 12.34e9), "12.3 GFLOP/s");
    CHECK_STR(ls_text_flops(buf, sizeof buf, 7), "7 FLOP/s");
}

static void test_duration(void) {
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0 ns"},        {0.000123, "123 us"}, {0.85, "850 ms"},
                 {0.9996, "1.00 s"}, {12.34, "12.3 s"},    {59.96, "1m00s"},
                 {245, "4m05s"},     {3599.6, "1h00m"},    {7800, "2h10m"},
                 {86369, "23h59m"},  {86400, "1d00h"},     {9 * 86400 + 7200, "9d02h"},
                 {-1, "unknown"},    {INFINITY, "unknown"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_STR(ls_text_duration(buf, sizeof buf, cases[i].seconds), cases[i].text);
    }
}

static void test_nearest(void) {
    CHECK_INT(ls_text_distance("", ""), 0);
    CHECK_INT(ls_text_distance("", "abc"), 3);
    CHECK_INT(ls_text_distance("kitten", "sitting"), 3);
    CHECK_INT(ls_text_distance("steps", "stesp"), 1); /* a swap */
    CHECK_INT(ls_text_distance("ca", "abc"), 3);
    CHECK_INT(ls_text_distance("abc", "abc"), 0);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    CHECK_INT(ls_text_distance(longer, "x"), 199);
    CHECK_INT(ls_text_distance(longer, longer), 0);

    static const char *const words[] = {"steps", "tokens", "threads", "lr"};
    CHECK_STR(ls_text_nearest("step", words, 4), "steps");
    CHECK_STR(ls_text_nearest("treads", words, 4), "threads");
    CHECK_STR(ls_text_nearest("lrr", words, 4), "lr");
    CHECK_STR(ls_text_nearest("tok", words, 4), "tokens"); /* its beginning */
    CHECK(ls_text_nearest("to", words, 4) == NULL);
    CHECK(ls_text_nearest("zz", words, 4) == NULL); /* two edits turn it into lr, or anything */
    CHECK(ls_text_nearest("checkpoint", words, 4) == NULL);
    CHECK(ls_text_nearest("", words, 4) == NULL);
    CHECK(ls_text_nearest("steps", words, 0) == NULL);
}

static void test_usd(void) {
    static const struct {
        double usd;
        const char *text;
    } cases[] = {{0.0, "$0.00"},           {0.0031, "$0.0031"},   {0.00999, "$0.0100"},
                 {0.05, "$0.050"},         {0.1, "$0.10"},        {12.314, "$12.31"},
                 {310.0, "$310.00"},       {12345.6, "$12346"},   {5.576e6, "$5.576 M"},
                 {3.1e-8, "$0.000000031"}, {2.5e-12, "$2.5e-12"}, {NAN, "unknown"}};
    char buf[32];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_STR(ls_text_usd(buf, sizeof buf, cases[i].usd), cases[i].text);
    }
}

static void test_wrap(void) {
    char *text = NULL;
    size_t bytes;
    FILE *out = open_memstream(&text, &bytes);
    ls_text_wrap(out, 4, 2, 10, "ab cde fgh\nij a-longer-word k");
    CHECK_INT(fclose(out), 0);
    CHECK_STR(text, "ab cde\n  fgh\n  ij\n  a-longer-word\n  k\n");
    free(text);
}

int main(void) {
    test_wrap();
    test_usd();
    test_bytes();
    test_count();
    test_duration();
    test_nearest();
    char *text = ls_text_format("%d %s", 7, "words");
    CHECK_STR(text, "7 words");
    free(text);
    return test_end();
}
