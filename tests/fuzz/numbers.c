/* A mutator for all fuzzers: in a third of the steps a number of the input, as text has it, becomes
 * one at the end of a range, which chance would hardly write. */
#include <ctype.h>
#include <stdint.h>
#include <string.h>

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static const char *const extremes[] = {
    "-1",     "0",     "1",         "0.5",      "-0.0",       "1e308",
    "-1e308", "1e999", "1e-320",    "9.3e18",   "1e19",       "9223372036854775807",
    "nan",    "inf",   "null",      "[]",       "\"x\"",      "-9223372036854775808",
    "65536",  "1e15",  "536870912", "1e9",      "1e12",       "9007199254740992",
    "true",   "{}",    "1048576",   "16777216", "4294967296", "2147483647",
};

/* Bytes of the number that begins at `at`, or 0. */
static size_t number_bytes(const uint8_t *at, const uint8_t *end) {
    const uint8_t *p = at + (*at == '-');
    if (p == end || !isdigit(*p)) {
        return 0;
    }
    while (p < end && (isdigit(*p) || (*p && strchr(".eE+-", *p)))) {
        p++;
    }
    return (size_t)(p - at);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    const char *extreme = extremes[seed / 3 % (sizeof extremes / sizeof *extremes)];
    const size_t bytes = strlen(extreme), from = size ? seed / 90 % size : 0;
    for (size_t i = 0; seed % 3 == 0 && i < size; i++) {
        const size_t at = (from + i) % size;
        const size_t old = number_bytes(data + at, data + size);
        const int begins = at == 0 || !isdigit(data[at - 1]);
        if (old > 0 && begins && size - old + bytes <= max_size) {
            memmove(data + at + bytes, data + at + old, size - at - old);
            memcpy(data + at, extreme, bytes);
            return size - old + bytes;
        }
    }
    return LLVMFuzzerMutate(data, size, max_size);
}
