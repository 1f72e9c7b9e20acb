#include "ws/ws_handshake.h"

#include <sha1.h>

static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool ws_key_valid(struct slice key)
{
    if (key.n != 24 || key.p[22] != '=' || key.p[23] != '=')
        return false;
    for (int i = 0; i < 22; i++)
        if (!key.p[i] || !strchr(base64, key.p[i]))
            return false;
    return ((strchr(base64, key.p[21]) - base64) & 15) == 0;
}

void ws_accept_key(struct slice key, char out[29])
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t digest[SHA1_DIGEST_LENGTH + 1] = {0};
    SHA1_CTX sha;
    SHA1Init(&sha);
    SHA1Update(&sha, key.p, key.n);
    SHA1Update(&sha, (const uint8_t *)guid, sizeof(guid) - 1);
    SHA1Final(digest, &sha);
    for (int i = 0; i < 7; i++) {
        uint32_t v = (uint32_t)digest[i * 3] << 16 | (uint32_t)digest[i * 3 + 1] << 8 |
                     digest[i * 3 + 2];
        for (int j = 0; j < 4; j++)
            out[i * 4 + j] = base64[v >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static bool origin_fits(const char *pattern, struct slice origin)
{
    const char *star = strstr(pattern, "://"
                                       "*.");
    if (strcmp(pattern, "*") == 0)
        return true;
    if (!star)
        return slice_eq_nocase(slice_str(pattern), origin);
    size_t head = (size_t)(star - pattern) + 3;
    struct slice tail = slice_str(star + 4); /* ".example.com" */
    if (origin.n <= head + tail.n ||
        !slice_eq_nocase(slice_of(pattern, head), slice_of(origin.p, head)))
        return false;
    return slice_eq_nocase(tail, slice_of(origin.p + origin.n - tail.n, tail.n));
}

bool ws_origin_allowed(const char *const *list, size_t n, struct slice origin)
{
    for (size_t i = 0; i < n; i++)
        if (origin_fits(list[i], origin))
            return true;
    return n == 0;
}
