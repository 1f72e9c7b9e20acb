/* Streaming UTF-8 validation (RFC 3629), refusing at the first byte that can't belong to any valid
 * text: no overlong form, no surrogate, nothing above U+10FFFF. */
#ifndef WEIR_UTF8_H
#define WEIR_UTF8_H

#include "base/base.h"

struct utf8 {
    uint8_t need;      /* continuation bytes still to come */
    uint8_t low, high; /* bounds of the next one */
};

bool utf8_feed(struct utf8 *u, const uint8_t *p, size_t n); /* a zeroed state is a fresh one */
static inline bool utf8_complete(const struct utf8 *u)
{
    return u->need == 0;
}
bool utf8_valid(struct slice s);
/* At most max bytes of it, not ending within a character. */
struct slice utf8_cut(struct slice s, size_t max);

#endif
