/* UTF-8, judged strictly: RFC 3629, section 4: shortest forms only, no surrogates, nothing above U+10FFFF. */
#ifndef CHANNELS_UTF8_H
#define CHANNELS_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character that begins at `at`, of which `left` may be read; 0 when it is none. */
static inline size_t utf8_character(const uint8_t *at, size_t left, uint32_t *point) {
    size_t bytes;
    uint32_t least;
    if (at[0] < 0x80) {
        *point = at[0];
        return 1;
    }
    if (at[0] >= 0xc2 && at[0] <= 0xdf)
        bytes = 2, *point = at[0] & 0x1fu, least = 0x80;
    else if ((at[0] & 0xf0) == 0xe0)
        bytes = 3, *point = at[0] & 0x0fu, least = 0x800;
    else if (at[0] >= 0xf0 && at[0] <= 0xf4)
        bytes = 4, *point = at[0] & 0x07u, least = 0x10000;
    else
        return 0;
    if (left < bytes)
        return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        *point = *point << 6 | (at[i] & 0x3fu);
    }
    return *point < least || *point > 0x10ffff || (*point >= 0xd800 && *point <= 0xdfff) ? 0 : bytes;
}

/* Bytes that one U+FFFD stands for where utf8_character() finds none: the maximal subpart (Unicode 15, section 3.9,
 * table 3-8), as browsers and Python replace. */
static inline size_t utf8_broken(const uint8_t *at, size_t left) {
    uint8_t low = 0x80, high = 0xbf;
    size_t most = at[0] >= 0xf0 && at[0] <= 0xf4 ? 3 : (at[0] & 0xf0) == 0xe0 ? 2 : 1, bytes = 1;
    if (at[0] == 0xe0)
        low = 0xa0;
    else if (at[0] == 0xed)
        high = 0x9f;
    else if (at[0] == 0xf0)
        low = 0x90;
    else if (at[0] == 0xf4)
        high = 0x8f;
    for (; bytes < most && bytes < left && at[bytes] >= low && at[bytes] <= high; bytes++)
        low = 0x80, high = 0xbf;
    return bytes;
}

static inline bool utf8_ok(const uint8_t *text, size_t size) {
    uint32_t point;
    for (size_t i = 0; i < size;) {
        size_t bytes = utf8_character(text + i, size - i, &point);
        if (bytes == 0)
            return false;
        i += bytes;
    }
    return true;
}

#endif
