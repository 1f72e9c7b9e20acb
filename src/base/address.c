#include "base/address.h"

#include <arpa/inet.h>
#include <stdio.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool is_v4(const uint8_t ip[16])
{
    return memcmp(ip, mapped, sizeof(mapped)) == 0;
}

bool address_ip_parse(struct slice text, struct address *out)
{
    char s[INET6_ADDRSTRLEN];
    struct address a = {.port = 0};
    if (text.n >= sizeof(s) || (text.n && memchr(text.p, 0, text.n)))
        return false;
    slice_copy(s, text);
    s[text.n] = 0;
    memcpy(a.ip, mapped, sizeof(mapped));
    if (inet_pton(AF_INET, s, a.ip + sizeof(mapped)) != 1 && inet_pton(AF_INET6, s, a.ip) != 1)
        return false;
    *out = a;
    return true;
}

bool address_port(struct slice text, uint16_t *out)
{
    uint32_t v = 0;
    if (!text.n || text.n > 5 || (text.n > 1 && text.p[0] == '0'))
        return false;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9')
            return false;
        v = v * 10 + (uint32_t)(text.p[i] - '0');
    }
    *out = (uint16_t)v;
    return v <= UINT16_MAX;
}

bool address_port_parse(struct slice text, struct address *out)
{
    const uint8_t *end = text.n && text.p[0] == '[' ? memchr(text.p, ']', text.n) : NULL;
    const uint8_t *colon = text.n ? memchr(text.p, ':', text.n) : NULL;
    struct slice host = text, rest = SLICE_NONE;
    struct address a;
    uint16_t port = 0;
    if (end) {
        host = slice_of(text.p + 1, (size_t)(end - text.p) - 1);
        rest = slice_of(end + 1, text.n - host.n - 2);
        if (!host.n || !memchr(host.p, ':', host.n))
            return false; /* brackets are IPv6's */
    } else if (colon && !memchr(colon + 1, ':', text.n - (size_t)(colon - text.p) - 1)) {
        host = slice_of(text.p, (size_t)(colon - text.p));
        rest = slice_of(colon, text.n - host.n);
    }
    if (!address_ip_parse(host, &a) ||
        (rest.n && (rest.p[0] != ':' || !address_port(slice_of(rest.p + 1, rest.n - 1), &port))))
        return false;
    a.port = port;
    *out = a;
    return true;
}

static bool bits_same(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, rest = bits % 8;
    return memcmp(a, b, whole) == 0 && (!rest || (a[whole] ^ b[whole]) >> (8 - rest) == 0);
}

bool address_block_parse(struct slice text, struct address_block *out)
{
    struct slice length = text, host = slice_cut(&length, '/');
    struct address a;
    uint16_t bits;
    if (!address_ip_parse(host, &a))
        return false;
    bool v4 = is_v4(a.ip) && memchr(host.p, '.', host.n) && !memchr(host.p, ':', host.n);
    const uint16_t most = v4 ? 32 : 128;
    bits = most;
    if (length.p && !address_port(length, &bits))
        return false;
    if (bits > most)
        return false;
    bits += v4 ? 96 : 0;
    for (unsigned i = bits; i < 128; i++)
        if (a.ip[i / 8] >> (7 - i % 8) & 1)
            return false;
    if (!v4 && bits && bits < 96 && bits_same(a.ip, mapped, bits))
        return false; /* it would hold all of IPv4 too, which nobody means who writes it */
    memcpy(out->ip, a.ip, sizeof(out->ip));
    out->bits = (uint8_t)bits;
    return true;
}

void address_write(const struct address *a, char out[ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN] = "";
    bool v4 = is_v4(a->ip);
    inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? a->ip + sizeof(mapped) : a->ip, host, sizeof(host));
    snprintf(out, ADDRESS_TEXT, v4 ? "%s:%u" : "[%s]:%u", host, a->port);
}

bool address_in(const struct address *a, const struct address_block *blocks, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (bits_same(a->ip, blocks[i].ip, blocks[i].bits))
            return true;
    return false;
}

/* What begins with ffff is multicast in IPv6, and so nobody's address. */
uint64_t address_key(const struct address *a)
{
    uint64_t key = UINT64_C(0xffffffff) << 32;
    if (is_v4(a->ip)) {
        for (int i = 12; i < 16; i++)
            key |= (uint64_t)a->ip[i] << 8 * (15 - i);
        return key;
    }
    memcpy(&key, a->ip, sizeof(key));
    return key;
}

static struct slice trim(struct slice s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = slice_of(s.p + 1, s.n - 1);
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

struct slice address_forwarded(struct slice list, const struct address_block *blocks, uint32_t n,
                               unsigned *hops, struct address *at)
{
    while (list.n) {
        if (!address_in(at, blocks, n) || ++*hops > ADDRESS_HOPS_MAX)
            return SLICE_NONE;
        const uint8_t *comma = memrchr(list.p, ',', list.n);
        size_t skip = comma ? (size_t)(comma - list.p) + 1 : 0;
        if (!address_port_parse(trim(slice_of(list.p + skip, list.n - skip)), at))
            return SLICE_NONE;
        list.n = comma ? skip - 1 : 0;
    }
    return list.p ? list : SLICE("");
}
