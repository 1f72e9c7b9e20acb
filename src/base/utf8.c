#include "base/utf8.h"

static bool lead(struct utf8 *u, uint8_t c)
{
    u->low = 0x80;
    u->high = 0xbf;
    if (c >= 0xc2 && c <= 0xdf) {
        u->need = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
        u->need = 2;
        if (c == 0xe0)
            u->low = 0xa0; /* else overlong */
        else if (c == 0xed)
            u->high = 0x9f; /* else a surrogate */
    } else if (c >= 0xf0 && c <= 0xf4) {
        u->need = 3;
        if (c == 0xf0)
            u->low = 0x90;
        else if (c == 0xf4)
            u->high = 0x8f; /* else above U+10FFFF */
    } else {
        return false;
    }
    return true;
}

bool utf8_feed(struct utf8 *u, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        if (!u->need) {
            uint64_t word;
            while (n - i >= 8 && (memcpy(&word, p + i, 8), !(word & UINT64_C(0x8080808080808080))))
                i += 8;
            if (i == n)
                break;
        }
        uint8_t c = p[i++];
        if (u->need) {
            if (c < u->low || c > u->high)
                return false;
            u->need--;
            u->low = 0x80;
            u->high = 0xbf;
        } else if (c >= 0x80 && !lead(u, c)) {
            return false;
        }
    }
    return true;
}

bool utf8_valid(struct slice s)
{
    struct utf8 u = {0};
    return utf8_feed(&u, s.p, s.n) && utf8_complete(&u);
}

struct slice utf8_cut(struct slice s, size_t max)
{
    size_t n = MIN(s.n, max);
    for (int i = 0; i < 3 && n && n < s.n && (s.p[n] & 0xc0) == 0x80; i++)
        n--;
    return slice_of(s.p, n);
}
