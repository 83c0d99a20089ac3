/* Mixtures of data directories: which part a sample is of, how evenly, and that each part's samples
 * are those that it has alone. */
#include "runtime/data/mixture.h"

#include "tests/data/data_fixture.h"

static void test_parse(void) {
    static const struct {
        const char *text, *message;
    } bad[] = {
        {"a; b 1", "the part 'a'; a directory and its weight above 0"},
        {"a 1; 2", "the part '2'"},
        {"a 0; b 1", "the part 'a 0'"},
        {"a 1; b -1", "the part 'b -1'"},
        {"a 1; b nan", "the part 'b nan'"},
        {"a 1; b inf", "the part 'b inf'"},
        {"a 1; b 1x", "the part 'b 1x'"},
        {" ; ;", "names no directory"},
    };
    ls_mixture m;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_STATUS(ls_mixture_parse(bad[i].text, &m), LS_E_CONFIG);
        CHECK_MESSAGE(bad[i].message);
        ls_mixture_release(&m);
    }
    CHECK_OK(ls_mixture_parse("a dir 3;b\t1 ;", &m));
    CHECK_OK(ls_mixture_divide(&m));
    CHECK_INT(m.count, 2);
    CHECK(strcmp(m.parts[0].dir, "a dir") == 0 && strcmp(m.parts[1].dir, "b") == 0);
    CHECK(m.parts[0].low == 0 && m.parts[0].high == 3 * (LS_MIXTURE_WHOLE / 4));
    CHECK(m.parts[1].low == m.parts[0].high && m.parts[1].high == LS_MIXTURE_WHOLE);
    ls_mixture_release(&m);
    CHECK_OK(ls_mixture_parse("a 1; b 1e-12; c 1", &m));
    CHECK_STATUS(ls_mixture_divide(&m), LS_E_CONFIG);
    CHECK_MESSAGE("'b' has weight 1e-12 of 2 in all");
    ls_mixture_release(&m);
    const char *odd = fixture_path("x; y");
    CHECK_OK(ls_dir_create(odd));
    CHECK_OK(ls_mixture_parse(odd, &m));
    CHECK(m.count == 1 && strcmp(m.parts[0].dir, odd) == 0);
    ls_mixture_release(&m);
}

/* Counts against counting, at the beginning and far away; and any run of samples is close to the
 * shares. */
static void test_order(void) {
    ls_mixture m;
    CHECK_OK(ls_mixture_parse("a 0.6; b 0.3; c 0.0999; d 0.0001", &m));
    CHECK_OK(ls_mixture_divide(&m));
    const int64_t starts[] = {0, 1000003, (int64_t)LS_MIXTURE_WHOLE - 3000,
                              5 * (int64_t)LS_MIXTURE_WHOLE + 77, (int64_t)1 << 50};
    int64_t wrong = 0;
    double most_off = 0;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        int64_t begin[4], count[4] = {0};
        for (int p = 0; p < 4; p++) {
            begin[p] = ls_mixture_before(&m.parts[p], starts[s]);
        }
        wrong += s == 0 && (begin[0] || begin[1] || begin[2] || begin[3]);
        wrong += begin[0] + begin[1] + begin[2] + begin[3] != starts[s];
        for (int64_t n = 1; n <= 6000; n++) {
            count[ls_mixture_find(&m, starts[s] + n - 1)]++;
            for (int p = 0; p < 4; p++) {
                const double share =
                    (double)(m.parts[p].high - m.parts[p].low) / (double)LS_MIXTURE_WHOLE;
                most_off = fmax(most_off, fabs((double)count[p] - share * (double)n));
                wrong += ls_mixture_before(&m.parts[p], starts[s] + n) != begin[p] + count[p];
            }
        }
    }
    CHECK_INT(wrong, 0);
    CHECK(most_off < 4);
    ls_mixture_release(&m);
}

static ls_dataset *open_train(const char *dir, int64_t seq) {
    ls_dataset *dataset = NULL;
    CHECK_OK(ls_dataset_open(dir, LS_SPLIT_TRAIN, seq, true, &dataset));
    return dataset;
}

/* Sample for sample what the parts give alone, from where each was left. */
static void test_samples(void) {
    enum { SEQ = 7, SAMPLES = 700 };
    const char *dirs[] = {fixture_path("one"), fixture_path("two"), fixture_path("three")};
    const int64_t tokens[] = {1000, 523, 30}, read[] = {0, 41, 1000};
    ls_dataset *alone[3];
    for (int i = 0; i < 3; i++) {
        make_data(dirs[i], tokens[i], 400);
        alone[i] = open_train(dirs[i], SEQ);
    }
    char text[4096];
    snprintf(text, sizeof text, "%s 2; %s 1.5;%s 0.1", dirs[0], dirs[1], dirs[2]);
    ls_dataset *mixed = open_train(text, SEQ);
    if (!mixed) {
        return;
    }
    CHECK_INT(ls_dataset_parts(mixed), 3);
    CHECK_INT(ls_dataset_describe(mixed)->tokens, 1553);
    CHECK_NEAR(ls_dataset_part_at(mixed, 1).share, 1.5 / 3.6, 1e-9, 0);
    int64_t next[3], wrong = 0, targets_sum = 0, valid, valid_alone;
    int32_t a[2 * SEQ], b[2 * SEQ];
    for (int i = 0; i < 3; i++) {
        ls_dataset_resume(mixed, i, read[i]);
        next[i] = read[i];
    }
    for (int64_t k = 0; k < SAMPLES; k++) {
        const int64_t window = ls_dataset_sample(mixed, 5, k);
        int part = 0;
        for (int i = 1; i < 3; i++) {
            part = window >= ls_dataset_part_at(mixed, i).first_window ? i : part;
        }
        CHECK_OK(ls_dataset_window(mixed, window, a, a + SEQ, &valid));
        CHECK_OK(ls_dataset_window(alone[part], ls_dataset_sample(alone[part], 5, next[part]), b,
                                   b + SEQ, &valid_alone));
        wrong += memcmp(a, b, sizeof a) != 0 || valid != valid_alone ||
                 ls_dataset_place(mixed, part, k) != next[part];
        next[part]++;
        wrong += ls_dataset_count_targets(mixed, 5, 0, k) != targets_sum;
        targets_sum += valid;
    }
    CHECK_INT(wrong, 0);
    CHECK(next[0] - read[0] > 350 && next[1] - read[1] > 250 && next[2] - read[2] > 10);
    ls_dataset_close(mixed);
    for (int i = 0; i < 3; i++) {
        ls_dataset_close(alone[i]);
    }
    /* Other shares, or another order, are other data. */
    ls_dataset *same = open_train(text, SEQ);
    snprintf(text, sizeof text, "%s 2; %s 1.4;%s 0.2", dirs[0], dirs[1], dirs[2]);
    ls_dataset *other = open_train(text, SEQ);
    CHECK(ls_dataset_describe(other)->fingerprint != ls_dataset_describe(same)->fingerprint);
    ls_dataset_close(same);
    ls_dataset_close(other);
}

static void test_refusals(void) {
    ls_dataset *dataset;
    char text[4096];
    const char *one = fixture_path("one"), *copy = fixture_path("copy"), *ids = fixture_path("ids");
    make_data(copy, 1000, 400);
    snprintf(text, sizeof text, "%s 1; %s 1", one, copy);
    CHECK_STATUS(ls_dataset_open(text, LS_SPLIT_TRAIN, 4, false, &dataset), LS_E_CONFIG);
    CHECK_MESSAGE("hold the same data");
    const char *lines = fixture_path("ids.jsonl");
    write_text(lines, "{\"text\": [1, 2, 3, 4]}\n");
    ls_prep_options options = prep_defaults(&lines, 1, ids);
    options.vocab = 257;
    options.separator = 256;
    ls_prep_result result;
    CHECK_OK(fixture_prep(&options, &result));
    snprintf(text, sizeof text, "%s 1; %s 1", one, ids);
    CHECK_STATUS(ls_dataset_open(text, LS_SPLIT_TRAIN, 4, false, &dataset), LS_E_INPUT);
    CHECK_MESSAGE("has tokenizer 'bytes', vocabulary 257 and separator 256, ");
    snprintf(text, sizeof text, "%s 1; %s 1", one, fixture_path("nowhere"));
    CHECK_STATUS(ls_dataset_open(text, LS_SPLIT_TRAIN, 4, false, &dataset), LS_E_INPUT);
    CHECK_MESSAGE("nowhere' does not exist");
    CHECK(!ls_dataset_lacks(text, LS_SPLIT_VAL));
    CHECK(dataset == NULL);
}

/* Parts without validation data are left out of it. */
static void test_validation(void) {
    ls_dataset *dataset;
    char text[4096];
    const char *one = fixture_path("one"), *two = fixture_path("two"), *three = fixture_path("val");
    const char *input = fixture_path("make_data.txt");
    ls_prep_options options = prep_defaults(&input, 1, three);
    options.val_fraction = 0.5;
    ls_prep_result result;
    CHECK_OK(fixture_prep(&options, &result));
    snprintf(text, sizeof text, "%s 1; %s 1", one, two);
    CHECK(ls_dataset_lacks(text, LS_SPLIT_VAL));
    CHECK(!ls_dataset_lacks(text, LS_SPLIT_TRAIN));
    CHECK_STATUS(ls_dataset_open(text, LS_SPLIT_VAL, 4, false, &dataset), LS_E_INPUT);
    snprintf(text, sizeof text, "%s 1; %s 3; %s 1", one, three, two);
    CHECK(!ls_dataset_lacks(text, LS_SPLIT_VAL));
    CHECK_OK(ls_dataset_open(text, LS_SPLIT_VAL, 4, false, &dataset));
    CHECK_INT(ls_dataset_parts(dataset), 1);
    CHECK(strcmp(ls_dataset_part_at(dataset, 0).dir, three) == 0);
    CHECK(ls_dataset_part_at(dataset, 0).share == 1.0);
    ls_dataset_close(dataset);
}

int main(void) {
    fixture_begin();
    test_parse();
    test_order();
    test_samples();
    test_refusals();
    test_validation();
    return fixture_end();
}
