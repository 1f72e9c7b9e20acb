#include "app/config_value.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <unistd.h>

#include "app/config.h"
#include "base/utf8.h"

bool config_number(const char *text, enum config_type type, uint64_t *out)
{
    static const struct {
        const char *unit;
        enum config_type type;
        uint64_t factor;
    } units[] = {{"", CONFIG_INT, 1},
                 {"", CONFIG_SIZE, 1},
                 {"KiB", CONFIG_SIZE, 1 << 10},
                 {"MiB", CONFIG_SIZE, 1 << 20},
                 {"GiB", CONFIG_SIZE, 1 << 30},
                 {"ms", CONFIG_DURATION, 1},
                 {"s", CONFIG_DURATION, 1000},
                 {"m", CONFIG_DURATION, 60000},
                 {"h", CONFIG_DURATION, 3600000}};
    uint64_t n = 0;
    const char *p = text;
    for (; isdigit((unsigned char)*p); p++) {
        if (n > UINT64_MAX / 100)
            return false;
        n = n * 10 + (uint64_t)(*p - '0');
    }
    for (size_t i = 0; p > text && i < ARRAY_LEN(units); i++)
        if (units[i].type == type && strcmp(units[i].unit, p) == 0 &&
            n <= (UINT64_C(1) << 44) / units[i].factor) {
            *out = n * units[i].factor;
            return true;
        }
    return false;
}

unsigned config_distance(const char *a, const char *b)
{
    unsigned row[64];
    size_t n = strlen(b);
    if (n >= 63 || strlen(a) >= 63)
        return 99;
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            best = MIN(best, MIN(up, row[j - 1]) + 1);
            diagonal = up;
            row[j] = best;
        }
    }
    return row[n];
}

static const char *variable(struct slice name)
{
    for (char **e = environ; e && *e; e++)
        if (strncmp(*e, (const char *)name.p, name.n) == 0 && (*e)[name.n] == '=')
            return *e + name.n + 1;
    return NULL;
}

enum err config_expand(const char *text, struct buf *out, struct slice *unset)
{
    const char *s = text, *last = strrchr(text, '}'); /* no search past it: that is quadratic */
    enum err e = ERR_NONE;
    while (*s && !e) {
        const char *end = last && s < last && s[0] == '$' && s[1] == '{' ? strchr(s, '}') : NULL;
        if (end) {
            struct slice inner = slice_of(s + 2, (size_t)(end - s) - 2);
            const uint8_t *dash = memmem(inner.p, inner.n, ":-", 2);
            struct slice name = slice_of(inner.p, dash ? (size_t)(dash - inner.p) : inner.n);
            const char *value = variable(name);
            if (value) {
                e = buf_append(out, slice_str(value));
            } else if (dash) {
                e = buf_append(out, slice_of(dash + 2, inner.n - name.n - 2));
            } else {
                *unset = name;
                e = ERR_INVALID;
            }
            s = end + 1;
        } else {
            e = buf_append(out, slice_of(s, 1));
            s += s[0] == '$' && s[1] == '$' ? 2 : 1;
        }
    }
    return e;
}

bool config_address(const char *text, char host[64], uint16_t *port)
{
    const char *colon = strrchr(text, ':'), *path = strncmp(text, "unix:/", 6) ? NULL : text + 5;
    if (path) {
        *port = 0;
        return strlen(path) > 1 && strlen(path) < 64 && strcpy(host, path);
    }
    size_t n = colon ? (size_t)(colon - text) : 0;
    uint64_t value;
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        text++;
        n -= 2;
    }
    if (!n || n >= 64 || !config_number(colon + 1, CONFIG_INT, &value) || value > 65535)
        return false;
    memcpy(host, text, n);
    host[n] = 0;
    *port = (uint16_t)value;
    return true;
}

bool config_listenable(const char *text, bool *loopback)
{
    char host[64];
    uint16_t port;
    struct in_addr v4;
    struct in6_addr v6;
    if (!config_address(text, host, &port))
        return false;
    if (host[0] == '/' || (strcmp(host, "localhost") == 0 && text[0] != '[')) {
        *loopback = true;
    } else if (text[0] == '[') {
        if (inet_pton(AF_INET6, host, &v6) != 1)
            return false;
        *loopback = IN6_IS_ADDR_LOOPBACK(&v6);
    } else {
        if (inet_pton(AF_INET, host, &v4) != 1)
            return false;
        *loopback = ntohl(v4.s_addr) >> 24 == 127;
    }
    return true;
}

/* The bytes of the character at s that may be shown as they are; 0: its first byte may not. */
static size_t shown(const char *s)
{
    struct utf8 state = {0};
    const uint8_t *p = (const uint8_t *)s;
    size_t n = 0;
    do {
        if (!utf8_feed(&state, p + n, 1))
            return 0;
        n++;
    } while (!utf8_complete(&state)); /* a 0 at the text's end completes or breaks it */
    bool control = p[0] < 0x20 || p[0] == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0);
    return control ? 0 : n;
}

void config_show(const char *text, char out[4 * CONFIG_SHOWN_MAX + 1])
{
    const char *end = text + strnlen(text, CONFIG_SHOWN_MAX);
    while (text < end) {
        size_t n = shown(text);
        if (n && n <= (size_t)(end - text)) {
            memcpy(out, text, n);
            text += n;
            out += n;
        } else {
            out += sprintf(out, "\\x%02x", (unsigned char)*text++);
        }
    }
    *out = 0;
}
