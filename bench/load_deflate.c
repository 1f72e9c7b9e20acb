// Linked with the load tool, this makes every WebSocket of it speak permessage-deflate (RFC 7692),
// without context takeover. A payload is sent as a block of its stamp, stored, and blocks of its
// pattern that were compressed once, so that it costs what sending it uncompressed does.
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { TAIL = 4, STORED = 5 };

static z_stream inflater;
static uint8_t out[FRAMES_MAX];

static void text(uint8_t *at, size_t n)
{
    static const char *const words[] = {"{\"id\": ", "\"name\": ", "weir ",   "water ",
                                        "true}, ",   "31415, ",    "\"x\", ", "[1, 2] "};
    uint64_t x = 1;
    for (size_t i = 0; i < n;) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const char *word = words[x >> 61];
        size_t len = strlen(word);
        len = len < n - i ? len : n - i;
        memcpy(at + i, word, len);
        i += len;
    }
}

static struct bytes compress_once(const uint8_t *at, size_t n)
{
    z_stream z = {0};
    size_t room = n + n / 8 + 64;
    struct bytes b = {malloc(room), 0};
    if (!b.at || deflateInit2(&z, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        fatal("memory", strerror(errno));
    z.next_in = (uint8_t *)at;
    z.avail_in = (unsigned)n;
    z.next_out = b.at;
    z.avail_out = (unsigned)room;
    if (deflate(&z, Z_SYNC_FLUSH) != Z_OK || z.avail_in || !z.avail_out)
        fatal("deflate", "a payload does not fit");
    b.len = room - z.avail_out - TAIL;
    deflateEnd(&z);
    return b;
}

static size_t encode(uint8_t *to, const uint8_t *stamp, size_t stamp_len, const uint8_t *pattern,
                     size_t n, size_t window)
{
    static struct bytes made[WINDOWS];
    struct bytes *b = &made[window];
    if (!b->at)
        *b = compress_once(pattern, n);
    const uint8_t stored[STORED] = {0, (uint8_t)stamp_len, 0, (uint8_t)~stamp_len, 0xff};
    size_t len = STORED + stamp_len + b->len, head = frame_head(to, OP_BINARY, len);
    to[0] |= 0x40;
    memcpy(to + head, stored, STORED);
    memcpy(to + head + STORED, stamp, stamp_len);
    memcpy(to + head + STORED + stamp_len, b->at, b->len);
    for (size_t i = 0; i < len; i++)
        to[head + i] ^= mask_key[i & 3];
    return head + len;
}

static bool decode(const uint8_t **at, size_t *n)
{
    static const uint8_t tail[TAIL] = {0, 0, 0xff, 0xff};
    if (!inflater.state && inflateInit2(&inflater, -15) != Z_OK)
        fatal("memory", strerror(errno));
    inflateReset(&inflater);
    inflater.next_out = out;
    inflater.avail_out = sizeof out;
    const struct {
        const uint8_t *at;
        size_t n;
    } parts[] = {{*at, *n}, {tail, TAIL}};
    for (int i = 0; i < 2; i++) {
        inflater.next_in = (uint8_t *)parts[i].at;
        inflater.avail_in = (unsigned)parts[i].n;
        if (inflate(&inflater, Z_SYNC_FLUSH) != Z_OK || inflater.avail_in)
            return false;
    }
    *at = out;
    *n = sizeof out - inflater.avail_out;
    return true;
}

const struct extension extension = {
    "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover", text, encode,
    decode};
