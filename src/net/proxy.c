#include "net/proxy.h"

static const uint8_t signature[12] = {0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d,
                                      0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a};

/* What stands between "PROXY " and CR LF. */
static bool v1_line(struct slice line, struct proxy_header *out)
{
    struct slice family = slice_cut(&line, ' '), from, to;
    struct address other;
    uint16_t port;
    out->known = out->local = false;
    if (slice_eq(family, SLICE("UNKNOWN")))
        return true; /* the rest is to be ignored */
    bool v4 = slice_eq(family, SLICE("TCP4"));
    if (!v4 && !slice_eq(family, SLICE("TCP6")))
        return false;
    from = slice_cut(&line, ' ');
    to = slice_cut(&line, ' ');
    bool colons = from.n && to.n && memchr(from.p, ':', from.n) && memchr(to.p, ':', to.n);
    bool none = from.n && to.n && !memchr(from.p, ':', from.n) && !memchr(to.p, ':', to.n);
    if (!(v4 ? none : colons) || !address_ip_parse(from, &out->client) ||
        !address_ip_parse(to, &other))
        return false;
    struct slice from_port = slice_cut(&line, ' ');
    out->known = true;
    return address_port(from_port, &out->client.port) && address_port(line, &port);
}

static enum proxy_state v1(const uint8_t *p, size_t n, struct proxy_header *out)
{
    static const char begin[] = "PROXY ";
    const size_t begin_n = sizeof(begin) - 1;
    if (memcmp(p, begin, MIN(n, begin_n)) != 0)
        return PROXY_BAD;
    const uint8_t *end = memchr(p, '\n', MIN(n, (size_t)PROXY_V1_MAX));
    if (!end)
        return n >= PROXY_V1_MAX ? PROXY_BAD : PROXY_MORE;
    size_t line = (size_t)(end - p);
    if (line <= begin_n || p[line - 1] != '\r' ||
        !v1_line(slice_of(p + begin_n, line - begin_n - 1), out))
        return PROXY_BAD;
    out->consumed = line + 1;
    return PROXY_DONE;
}

static enum proxy_state v2(const uint8_t *p, size_t n, struct proxy_header *out)
{
    enum { HEAD = 16, V4 = 12, V6 = 36 };
    if (memcmp(p, signature, MIN(n, sizeof(signature))) != 0 || (n > 12 && p[12] >> 4 != 2) ||
        (n > 12 && (p[12] & 15) > 1))
        return PROXY_BAD;
    if (n < HEAD)
        return PROXY_MORE;
    size_t len = (size_t)p[14] << 8 | p[15];
    bool local = !(p[12] & 15);
    bool tcp4 = p[13] == 0x11, tcp6 = p[13] == 0x21;
    if (HEAD + len > PROXY_HEADER_MAX || (!local && !tcp4 && !tcp6 && p[13] != 0) ||
        (!local && len < (tcp4   ? V4
                          : tcp6 ? V6
                                 : 0u)))
        return PROXY_BAD;
    if (n < HEAD + len)
        return PROXY_MORE;
    out->consumed = HEAD + len;
    out->known = !local && (tcp4 || tcp6);
    out->local = local;
    if (!out->known)
        return PROXY_DONE;
    const uint8_t *port = p + HEAD + (tcp4 ? 8 : 32);
    out->client = (struct address){{[10] = 0xff, [11] = 0xff}, (uint16_t)(port[0] << 8 | port[1])};
    memcpy(out->client.ip + (tcp4 ? 12 : 0), p + HEAD, tcp4 ? 4 : 16);
    return PROXY_DONE;
}

enum proxy_state proxy_parse(const uint8_t *p, size_t n, struct proxy_header *out)
{
    if (!n)
        return PROXY_MORE;
    return p[0] == signature[0] ? v2(p, n, out) : v1(p, n, out);
}
