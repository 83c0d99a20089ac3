/* Characters of UTF-8 text that may hold bytes which are none. */
#ifndef LS_DATA_TOKENIZER_UTF8_H
#define LS_DATA_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LS_UTF8_SPACE      "\xe2\x96\x81" /* U+2581, which stands for a space in tokens */
#define LS_UTF8_SPACE_CODE 0x2581u
#define LS_UTF8_BAD        0x110000u /* and the byte: no character */

/* The bytes of the character at `at` < end, its shortest form and no surrogate (RFC 3629), and its
 * code; a byte that begins none is one of its own. */
static inline size_t ls_utf8_char(const char *at, const char *end, uint32_t *code) {
    const unsigned char *c = (const unsigned char *)at;
    *code = c[0];
    if (c[0] < 0x80) {
        return 1;
    }
    *code = LS_UTF8_BAD + c[0];
    const size_t more = c[0] >= 0xF0 ? 3 : c[0] >= 0xE0 ? 2 : 1;
    if (c[0] < 0xC2 || c[0] > 0xF4 || (size_t)(end - at) <= more) {
        return 1;
    }
    uint32_t value = c[0] & (0x3Fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if (c[i] >> 6 != 2) {
            return 1;
        }
        value = value << 6 | (c[i] & 0x3Fu);
    }
    const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (value < least[more] || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) {
        return 1;
    }
    *code = value;
    return more + 1;
}

/* White_Space of Unicode. */
static inline bool ls_utf8_is_space(uint32_t code) {
    return (code >= 9 && code <= 13) || code == 32 || code == 0x85 || code == 0xA0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
           code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

#endif
