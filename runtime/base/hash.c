#include "runtime/base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct ls_sha256_stream {
    EVP_MD_CTX *context;
};

ls_status ls_sha256_begin(ls_sha256_stream **stream) {
    ls_sha256_stream *s = calloc(1, sizeof *s);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (!s || !context || EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        free(s);
        EVP_MD_CTX_free(context);
        *stream = NULL;
        return LS_FAIL(LS_E_MEMORY, "SHA-256 of OpenSSL could not be started");
    }
    s->context = context;
    *stream = s;
    return LS_OK;
}

ls_status ls_sha256_update(ls_sha256_stream *stream, const void *data, size_t bytes) {
    if (EVP_DigestUpdate(stream->context, data, bytes) != 1) {
        return LS_FAIL(LS_E_MEMORY, "SHA-256 of %zu bytes failed in OpenSSL", bytes);
    }
    return LS_OK;
}

ls_status ls_sha256_end(ls_sha256_stream *stream, ls_sha256 *out) {
    if (!stream) {
        return LS_OK;
    }
    bool done = !out || EVP_DigestFinal_ex(stream->context, out->bytes, NULL) == 1;
    EVP_MD_CTX_free(stream->context);
    free(stream);
    return done ? LS_OK : LS_FAIL(LS_E_MEMORY, "SHA-256 could not be finished in OpenSSL");
}

ls_status ls_sha256_of(const void *data, size_t bytes, ls_sha256 *out) {
    if (EVP_Digest(data, bytes, out->bytes, NULL, EVP_sha256(), NULL) != 1) {
        return LS_FAIL(LS_E_MEMORY, "SHA-256 of %zu bytes failed in OpenSSL", bytes);
    }
    return LS_OK;
}

static ls_status hash_fd(int fd, const char *path, ls_sha256_stream *stream, uint64_t *bytes_out) {
    enum { BUFFER_BYTES = 1 << 20 };
    char *buffer = malloc(BUFFER_BYTES);
    if (!buffer) {
        return LS_FAIL(LS_E_MEMORY, "no memory for a buffer of %d bytes", BUFFER_BYTES);
    }
    ls_status status = LS_OK;
    uint64_t total_bytes = 0;
    for (;;) {
        ssize_t n = read(fd, buffer, BUFFER_BYTES);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            status = LS_FAIL(LS_E_IO, "'%s' cannot be read: %s", path, strerror(errno));
        }
        if (n <= 0) {
            break;
        }
        total_bytes += (uint64_t)n;
        LS_TRY_GOTO(ls_sha256_update(stream, buffer, (size_t)n), end);
    }
    if (bytes_out) {
        *bytes_out = total_bytes;
    }
end:
    free(buffer);
    return status;
}

ls_status ls_sha256_file(const char *path, ls_sha256 *out, uint64_t *bytes_out) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return LS_FAIL(LS_E_IO, "'%s' cannot be opened: %s", path, strerror(errno));
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    ls_sha256_stream *stream = NULL;
    ls_status status = ls_sha256_begin(&stream);
    if (status == LS_OK) {
        status = hash_fd(fd, path, stream, bytes_out);
        ls_status ended = ls_sha256_end(stream, status == LS_OK ? out : NULL);
        status = status == LS_OK ? ended : status;
    }
    close(fd);
    return status;
}

void ls_sha256_hex(const ls_sha256 *hash, char hex[65]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = digits[hash->bytes[i] >> 4];
        hex[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    hex[64] = '\0';
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

ls_status ls_sha256_parse(const char *hex, ls_sha256 *out) {
    ls_sha256 hash = {{0}};
    bool good = strlen(hex) == 64;
    for (int i = 0; i < 64 && good; i++) {
        int value = hex_value(hex[i]);
        good = value >= 0;
        hash.bytes[i / 2] = (uint8_t)(hash.bytes[i / 2] << 4 | (value & 15));
    }
    if (!good) {
        return LS_FAIL(LS_E_INPUT, "'%.80s' is not a SHA-256: 64 hexadecimal digits are expected",
                       hex);
    }
    *out = hash;
    return LS_OK;
}

uint64_t ls_xxh64(const void *data, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}
