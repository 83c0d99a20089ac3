#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "tests/test.h"

#include <pthread.h>
#include <unistd.h>

/* FIPS 180-4 examples. */
static void test_sha256_vectors(void) {
    static const struct {
        const char *text, *hex;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    char hex[65];
    ls_sha256 hash, parsed;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_OK(ls_sha256_of(cases[i].text, strlen(cases[i].text), &hash));
        ls_sha256_hex(&hash, hex);
        CHECK_STR(hex, cases[i].hex);
        CHECK_OK(ls_sha256_parse(hex, &parsed));
        CHECK(memcmp(&hash, &parsed, sizeof hash) == 0);
    }
}

static void test_sha256_stream_and_file(void) {
    enum { BYTES = 3 * 1000 * 1000 + 7 }; /* more than the reader's buffer, and odd */
    char *data = malloc(BYTES), dir[] = "/tmp/ls-hash-XXXXXX", path[64];
    CHECK(data && mkdtemp(dir));
    for (int i = 0; i < BYTES; i++) {
        data[i] = (char)(i * 31 + (i >> 8));
    }
    ls_sha256 whole, pieces, file;
    CHECK_OK(ls_sha256_of(data, BYTES, &whole));
    ls_sha256_stream *stream;
    CHECK_OK(ls_sha256_begin(&stream));
    for (size_t at = 0, n = 1; at < BYTES; at += n, n = n * 3 + 1) {
        n = n < BYTES - at ? n : BYTES - at;
        CHECK_OK(ls_sha256_update(stream, data + at, n));
    }
    CHECK_OK(ls_sha256_end(stream, &pieces));
    CHECK(memcmp(&whole, &pieces, sizeof whole) == 0);

    snprintf(path, sizeof path, "%s/data", dir);
    CHECK_OK(ls_file_replace(path, data, BYTES));
    uint64_t bytes = 0;
    CHECK_OK(ls_sha256_file(path, &file, &bytes));
    CHECK_INT(bytes, BYTES);
    CHECK(memcmp(&whole, &file, sizeof whole) == 0);
    CHECK_OK(ls_sha256_file(path, &file, NULL));
    snprintf(path, sizeof path, "%s/missing", dir);
    CHECK_STATUS(ls_sha256_file(path, &file, NULL), LS_E_IO);
    CHECK_MESSAGE(path);
    CHECK_STATUS(ls_sha256_file(dir, &file, NULL), LS_E_IO);

    CHECK_OK(ls_sha256_begin(&stream)); /* abandoned: nothing may leak */
    CHECK_OK(ls_sha256_end(stream, NULL));
    CHECK_OK(ls_sha256_end(NULL, NULL));
    CHECK_OK(ls_dir_remove(dir));
    free(data);
}

enum { MOST = 40 * LS_SHA256_LEAF };
static uint8_t many[MOST + 1];

/* Beside one after the other: around whole leaves, up to more of them than any number of lanes. */
static void *leaves_check(void *unused) {
    ls_sha256 leaves[MOST / LS_SHA256_LEAF + 1], one;
    for (size_t k = 0; k < 60; k++) {
        const size_t bytes = k == 59 ? MOST : k / 3 * 2 * LS_SHA256_LEAF + k % 3;
        const size_t count = (bytes + LS_SHA256_LEAF - 1) / LS_SHA256_LEAF;
        memset(leaves, 0xa5, sizeof leaves);
        CHECK_OK(ls_sha256_leaves(many + 1, bytes, leaves));
        for (size_t i = 0; i < count; i++) {
            const size_t at = i * LS_SHA256_LEAF, rest = bytes - at;
            CHECK_OK(
                ls_sha256_of(many + 1 + at, rest < LS_SHA256_LEAF ? rest : LS_SHA256_LEAF, &one));
            CHECK(memcmp(&one, &leaves[i], sizeof one) == 0);
        }
        CHECK_INT(leaves[count].bytes[0], 0xa5);
    }
    return unused;
}

static void test_sha256_leaves(void) {
    pthread_t threads[2];
    for (size_t i = 0; i < sizeof many; i++) {
        many[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    for (int i = 0; i < 2; i++) {
        CHECK(pthread_create(&threads[i], NULL, leaves_check, NULL) == 0);
    }
    leaves_check(NULL);
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
}

static void test_sha256_parse(void) {
    char hex[66];
    ls_sha256 hash = {{1}};
    memset(hex, 'a', 65);
    hex[65] = '\0';
    CHECK_STATUS(ls_sha256_parse(hex, &hash), LS_E_INPUT);
    CHECK_MESSAGE("64 hexadecimal digits");
    hex[63] = '\0';
    CHECK_STATUS(ls_sha256_parse(hex, &hash), LS_E_INPUT);
    hex[63] = 'g';
    hex[64] = '\0';
    CHECK_STATUS(ls_sha256_parse(hex, &hash), LS_E_INPUT);
    CHECK_STATUS(ls_sha256_parse("", &hash), LS_E_INPUT);
    CHECK_INT(hash.bytes[0], 1); /* untouched by failures */
    hex[63] = 'F';
    CHECK_OK(ls_sha256_parse(hex, &hash));
    CHECK_INT(hash.bytes[31], 0xaf);
}

int main(void) {
    test_sha256_vectors();
    test_sha256_stream_and_file();
    test_sha256_leaves();
    test_sha256_parse();
    CHECK(ls_xxh64("", 0, 0) == 0x2d06800538d394c2ull); /* xxHash's own value for XXH3_64bits */
    CHECK(ls_xxh64("abc", 3, 0) != ls_xxh64("abc", 3, 1));
    CHECK(ls_xxh64("abc", 3, 0) != ls_xxh64("abd", 3, 0));
    return test_end();
}
