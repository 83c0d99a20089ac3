/* Cluster profiles: every shipped file reads and can be traced; wrong files are refused by line. */
#include "runtime/plan/cluster.h"

#include "runtime/base/file.h"
#include "tests/test.h"

#include <unistd.h>

static ls_cluster c;

static void test_shipped(void) {
    char **names;
    int count;
    CHECK_OK(ls_cluster_list(&names, &count));
    CHECK(count >= 30);
    for (int i = 0; i < count; i++) {
        CHECK_OK(ls_cluster_load(names[i], &c));
        CHECK_STR(c.text[LS_CLUSTER_NAME], names[i]);
        CHECK(c.text[LS_CLUSTER_KIND][0] != '\0');
        CHECK(c.figure[LS_FIG_TFLOPS_BF16].value > 0);
        const double domain = c.figure[LS_FIG_DOMAIN_DEVICES].value;
        CHECK(domain >= c.figure[LS_FIG_NODE_DEVICES].value);
        for (int f = 0; f < LS_FIG_COUNT; f++) {
            CHECK(isnan(c.figure[f].value) || c.figure[f].source[0]);
        }
        for (int f = LS_FIG_PRICE_ON_DEMAND; f <= LS_FIG_PRICE_SPOT; f++) {
            CHECK(isnan(c.figure[f].value) || c.figure[f].date[0]); /* prices have a day */
        }
        free(names[i]);
    }
    free(names);
}

static void test_known_figures(void) {
    CHECK_OK(ls_cluster_load("aws-p6e-gb200-x72", &c));
    CHECK_STR(c.text[LS_CLUSTER_KIND], "GB200");
    CHECK_NEAR(c.figure[LS_FIG_DOMAIN_DEVICES].value, 72, 0, 0);
    CHECK_NEAR(c.figure[LS_FIG_NODE_DEVICES].value, 4, 0, 0);
    CHECK_NEAR(c.figure[LS_FIG_NETWORK_GBIT_S].value, 400, 0, 0);
    CHECK_NEAR(c.figure[LS_FIG_PUE].value, 1.15, 0, 1e-12);
    CHECK(isnan(c.figure[LS_FIG_PRICE_ON_DEMAND].value)); /* nobody has published one */
    CHECK_OK(ls_cluster_load("aws-p5", &c));
    CHECK_NEAR(c.figure[LS_FIG_PRICE_ON_DEMAND].value, 6.88, 0, 1e-12);
    CHECK_STR(c.figure[LS_FIG_PRICE_ON_DEMAND].date, "2026-11-09");
}

#define HEAD "sources: {s: a page}\n"
#define NODE "node:\n  devices: {value: 2, source: s}\n  domain_devices: {value: 4, source: s}\n"
#define DEVICE                                                                                     \
    "device: {memory_gb: {value: 8, source: s}, hbm_gb_s: {value: 20, source: s, date: "           \
    "2026-01-02}}\n"

static ls_status read_profile(const char *text) {
    return ls_cluster_load_text("c.yaml", NULL, text, strlen(text), &c);
}

static void test_reading(void) {
    CHECK_OK(read_profile(HEAD DEVICE NODE "price: {on_demand: null}\ncluster: {name: x}\n"));
    CHECK_NEAR(c.figure[LS_FIG_MEMORY_GB].value, 8, 0, 0);
    CHECK_STR(c.figure[LS_FIG_HBM_GB_S].date, "2026-01-02");
    CHECK(isnan(c.figure[LS_FIG_PRICE_ON_DEMAND].value));
    CHECK(c.figure[LS_FIG_PRICE_ON_DEMAND].given && !c.figure[LS_FIG_PRICE_SPOT].given);
    CHECK_NEAR(ls_cluster_value(&c, LS_FIG_PUE, 1.5), 1.5, 0, 0);
    CHECK_STR(c.sources[0].text, "a page");
    CHECK_OK(read_profile(HEAD DEVICE NODE "price:\n#  spot: null\n")); /* none of its keys */
}

static void test_refusals(void) {
    static const struct {
        const char *text, *message;
    } wrong[] = {
        {HEAD DEVICE "node:\n  device: {value: 2, source: s}\n",
         "c.yaml:4: unknown key 'node.device'; did you mean 'devices'?"},
        {HEAD DEVICE "nodes: {}\n", "c.yaml:3: unknown section 'nodes'; did you mean 'node'?"},
        {HEAD "node:\n  devices: 2\n", "c.yaml:3: node.devices must be null (unknown) or {value: "},
        {HEAD "node:\n  devices: {value: 2}\n", "has the source ''"},
        {HEAD "node:\n  devices: {value: 2, source: t}\n", "has the source 't'"},
        {HEAD "node:\n  devices: {value: two, source: s}\n",
         "node.devices is 'two'; a number from 1 to 4096 devices or null"},
        {HEAD "node:\n  devices: {value: 0, source: s}\n", "node.devices is '0'"},
        {HEAD "node:\n  devices: {value: 2, source: s, when: x}\n",
         "has 'when'; value, source, date"},
        {HEAD "node:\n  devices: {value: [2], source: s}\n", "one value is expected for 'value'"},
        {HEAD DEVICE DEVICE, "device.memory_gb was given before"},
        {"sources: {s: a page, s: another}\n", "the source 's' was given before"},
        {HEAD "node: 3\n", "section 'node' must hold 'key: value' lines"},
        {"- 1\n", "sections are expected"},
        {HEAD NODE, "device.memory_gb is unknown; no plan can be made without it"},
        {HEAD DEVICE NODE "cluster: {device: h100}\n", "there is no folder devices/"},
        {HEAD DEVICE NODE "---\na: 1\n", "a second document"},
        {"sources: {s: *a}\n", "anchors and aliases"},
        {"cluster: {name: [x]}\n", "cluster.name must be one text"},
        {"cluster:\n  note: \"a\\tb\"\n", "c.yaml:2: note must be UTF-8 text without line breaks"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_STATUS(read_profile(wrong[i].text), LS_E_CONFIG);
        CHECK_MESSAGE(wrong[i].message);
    }
    CHECK_STATUS(ls_cluster_load("aws-p55", &c), LS_E_CONFIG);
    CHECK_MESSAGE("did you mean 'aws-p5'?");
    CHECK_STATUS(ls_cluster_load("../aws-p5", &c), LS_E_CONFIG);
    CHECK_STATUS(ls_cluster_load("absent.yaml", &c), LS_E_INPUT);
    CHECK_STATUS(ls_cluster_load("./absent.yaml", &c), LS_E_INPUT); /* a file, too */
    CHECK_MESSAGE("'./absent.yaml' cannot be opened");
}

static void test_writing(void) {
    char path[64];
    snprintf(path, sizeof path, "/tmp/ls-cluster-%d.yaml", (int)getpid());
    CHECK_OK(ls_cluster_load("azure-nd-gb300-v6", &c));
    const ls_cluster before = c;
    CHECK_OK(ls_cluster_write(&c, path));
    CHECK_OK(ls_cluster_load(path, &c));
    for (int f = 0; f < LS_FIG_COUNT; f++) {
        const double a = before.figure[f].value, b = c.figure[f].value;
        CHECK((isnan(a) && isnan(b)) || fabs(a - b) <= 1e-5 * fabs(a));
        CHECK_STR(c.figure[f].source, before.figure[f].source);
        CHECK_STR(c.figure[f].date, before.figure[f].date);
    }
    for (int t = 0; t < LS_CLUSTER_TEXT_COUNT; t++) {
        CHECK(t == LS_CLUSTER_DEVICE || strcmp(c.text[t], before.text[t]) == 0);
    }
    unlink(path);
}

/* Texts of any kind come back as they were. */
static void test_texts(void) {
    static const char odd[] = "it's \"here\": {a, b} # c:\\d - e";
    char path[64];
    snprintf(path, sizeof path, "/tmp/ls-cluster-%d.yaml", (int)getpid());
    CHECK_OK(read_profile(HEAD DEVICE NODE));
    snprintf(c.text[LS_CLUSTER_NOTE], sizeof c.text[0], "%s", odd);
    CHECK_OK(ls_cluster_cite(&c, odd, odd));
    ls_cluster_set(&c, LS_FIG_PUE, 1.25, odd);
    snprintf(c.figure[LS_FIG_PUE].note, sizeof c.figure[0].note, "%s", odd);
    CHECK_OK(ls_cluster_write(&c, path));
    CHECK_OK(ls_cluster_load(path, &c));
    CHECK_STR(c.text[LS_CLUSTER_NOTE], odd);
    CHECK_STR(c.sources[1].key, odd);
    CHECK_STR(c.sources[1].text, odd);
    CHECK_STR(c.figure[LS_FIG_PUE].source, odd);
    CHECK_STR(c.figure[LS_FIG_PUE].note, odd);
    unlink(path);
}

/* The source that there is no room for takes the place of none. */
static void test_sources(void) {
    char key[16];
    CHECK_OK(read_profile(HEAD DEVICE NODE));
    for (int s = 1; s < LS_MAX_SOURCES; s++) {
        snprintf(key, sizeof key, "s%d", s);
        CHECK_OK(ls_cluster_cite(&c, key, "a page"));
    }
    CHECK_OK(ls_cluster_cite(&c, "s3", "another page"));
    CHECK_STATUS(ls_cluster_cite(&c, "more", "a page"), LS_E_CONFIG);
    CHECK_MESSAGE("32 sources");
    CHECK_STR(c.sources[0].key, "s");
}

int main(void) {
    test_shipped();
    test_known_figures();
    test_reading();
    test_refusals();
    test_writing();
    test_texts();
    test_sources();
    return test_end();
}
