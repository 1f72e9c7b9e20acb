#include "ws/ws_deflate.h"

#include <zlib.h>

#include "base/metrics.h"
#include "ws/ws_extension.h"

/* Measured: faster than what costs more memory (it stays in the cache), and as small up to 64 KiB
 * but for a few percent. */
enum { LEVEL = 3, MEMORY_LEVEL = 5, INFLATE_WINDOW = 15 };
enum { KEEP = 32 << 10, ROOM_LEAST = 1024, TAIL = 4, COMPRESS_MOST = 256 << 10 };
/* A block of its own Huffman codes costs microseconds and gives nothing: a message of many may have
 * that many, and one more for so many bytes that came out. */
enum { BLOCKS_FREE = 256, BLOCK_BYTES = 64 };
/* Estimates in ns, of what an iteration may spend: past it no more is inflated, which makes who
 * sends it wait, and past twice as much no more is compressed. */
enum { BUDGET = 1000000, NS_IN = 8, NS_OUT = 3, NS_BLOCK = 2000, NS_DEFLATE = 16, NS_FRAME = 4000 };

static const uint8_t tail[TAIL] = {0, 0, 0xff, 0xff}; /* RFC 7692 7.2.1 */

struct ws_deflate {
    z_stream deflater, inflater;
    struct buf frame, inflated;
    const uint64_t *now_ns;
    uint64_t spent_at_ns; /* the iteration that `spent` is of */
    uint64_t spent;
    uint32_t least;
};

/* zlib does not say how much it frees. */
static void *z_alloc(void *opaque, unsigned n, unsigned size)
{
    (void)opaque;
    size_t bytes = (size_t)n * size + 16;
    size_t *p = mem_alloc_as(MEM_DEFLATE, bytes);
    if (p)
        *p = bytes;
    return p ? (uint8_t *)p + 16 : NULL;
}

static void z_release(void *opaque, void *p)
{
    (void)opaque;
    size_t *at = (size_t *)(void *)((uint8_t *)p - 16);
    mem_free_as(MEM_DEFLATE, at, *at);
}

struct ws_deflate *ws_deflate_new(const uint64_t *now_ns, uint32_t least)
{
    struct ws_deflate *d = mem_alloc_as(MEM_DEFLATE, sizeof(*d));
    if (!d)
        return NULL;
    memset(d, 0, sizeof(*d));
    d->now_ns = now_ns;
    d->least = MAX(least, 1u);
    buf_init(&d->frame, UINT32_MAX);
    d->deflater.zalloc = d->inflater.zalloc = z_alloc;
    d->deflater.zfree = d->inflater.zfree = z_release;
    if (deflateInit2(&d->deflater, LEVEL, Z_DEFLATED, -WS_DEFLATE_WINDOW, MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) == Z_OK &&
        inflateInit2(&d->inflater, -INFLATE_WINDOW) == Z_OK)
        return d;
    ws_deflate_free(d);
    return NULL;
}

void ws_deflate_free(struct ws_deflate *d)
{
    if (!d)
        return;
    deflateEnd(&d->deflater); /* both do nothing where there is none */
    inflateEnd(&d->inflater);
    buf_done(&d->frame);
    buf_done(&d->inflated);
    mem_free_as(MEM_DEFLATE, d, sizeof(*d));
}

static uint64_t spend(struct ws_deflate *d, uint64_t ns)
{
    if (d->spent_at_ns != *d->now_ns)
        d->spent = 0;
    d->spent_at_ns = *d->now_ns;
    return d->spent += ns;
}

bool ws_deflate_ready(struct ws_deflate *d)
{
    return spend(d, 0) < BUDGET;
}

/* ---- inflating ---- */

struct progress {
    size_t blocks;
    bool ended; /* the last byte ended a block marked as the last: no tail was left out */
};

/* Inflates s to the end of d->inflated, whose max is one more than a message's. */
static enum err inflate_part(struct ws_deflate *d, struct slice s, struct progress *at)
{
    z_stream *z = &d->inflater;
    struct buf *out = &d->inflated;
    z->next_in = (uint8_t *)s.p; /* not written to */
    z->avail_in = (unsigned)s.n;
    do {
        uint32_t room = MIN(MAX(out->cap, (uint32_t)ROOM_LEAST), out->max - out->len);
        if (out->len == out->cap && buf_reserve(out, room))
            return ERR_NO_MEMORY;
        z->next_out = out->p + out->len;
        z->avail_out = out->cap - out->len;
        int r = inflate(z, Z_BLOCK); /* to the block's end at most */
        out->len = out->cap - z->avail_out;
        at->blocks++;
        at->ended = r == Z_STREAM_END;
        if (at->ended)
            r = inflateReset(z); /* another may follow (RFC 7692 7.2.3.4) */
        if (r != Z_OK && r != Z_BUF_ERROR)
            return r == Z_MEM_ERROR ? ERR_NO_MEMORY : ERR_WS_INFLATE;
        if (out->len == out->max)
            return ERR_WS_MESSAGE_SIZE;
        if (at->blocks > BLOCKS_FREE + out->len / BLOCK_BYTES)
            return ERR_WS_INFLATE;
        /* At the end of a block marked as the last, a call more says that it was. */
    } while (z->avail_in || !z->avail_out || (z->data_type & 192) == 192);
    return ERR_NONE;
}

enum err ws_deflate_inflate(struct ws_deflate *d, struct slice data, uint32_t max,
                            struct slice *out)
{
    z_stream *z = &d->inflater;
    struct progress at = {0};
    buf_clear(&d->inflated, KEEP);
    d->inflated.max = max + 1;
    if (d->inflated.cap > d->inflated.max)
        buf_done(&d->inflated);
    /* Forgets the message before, which may be another peer's. */
    enum err e = inflateReset(z) == Z_OK ? ERR_NONE : ERR_WS_INFLATE;
    if (!e && data.n) /* some send an empty message as nothing at all */
        e = inflate_part(d, data, &at);
    if (!e && data.n && !at.ended) {
        e = inflate_part(d, slice_of(tail, TAIL), &at);
        bool whole = at.ended || ((z->data_type & 128) && !(z->data_type & 63));
        e = e ? e : whole ? ERR_NONE : ERR_WS_INFLATE; /* cut off within a block */
    }
    spend(d, data.n * NS_IN + (uint64_t)d->inflated.len * NS_OUT + at.blocks * NS_BLOCK);
    metrics.inflate_in_bytes_total += data.n;
    metrics.inflate_out_bytes_total += d->inflated.len;
    if (e) {
        ws_deflate_done(d);
        return e;
    }
    metrics.messages_inflated_total++;
    *out = buf_slice(&d->inflated);
    return ERR_NONE;
}

void ws_deflate_done(struct ws_deflate *d)
{
    buf_clear(&d->inflated, KEEP);
}

/* ---- deflating ---- */

bool ws_deflate_frame(struct ws_deflate *d, enum ws_opcode opcode, struct slice data,
                      struct slice *frame)
{
    z_stream *z = &d->deflater;
    if (opcode > WS_BINARY || data.n < d->least || data.n > COMPRESS_MOST)
        return false;
    if (spend(d, 0) >= 2 * BUDGET) {
        metrics.compress_skipped_total++;
        return false;
    }
    spend(d, data.n * NS_DEFLATE + NS_FRAME);
    d->frame.len = 0;
    if (deflateReset(z) != Z_OK || buf_reserve(&d->frame, WS_HEADER_MAX + data.n + TAIL))
        return false;
    z->next_in = (uint8_t *)data.p; /* not written to */
    z->avail_in = (unsigned)data.n;
    z->next_out = d->frame.p + WS_HEADER_MAX;
    z->avail_out = (unsigned)(data.n + TAIL); /* filled up: it did not shrink */
    int r = deflate(z, Z_SYNC_FLUSH);
    if (r != Z_OK || z->avail_in || !z->avail_out) {
        ws_deflate_sent(d);
        return false;
    }
    size_t n = data.n - z->avail_out; /* without the tail */
    ASSERT(memcmp(d->frame.p + WS_HEADER_MAX + n, tail, TAIL) == 0);
    uint8_t header[WS_HEADER_MAX];
    size_t header_n = ws_frame_header(header, opcode, true, n);
    header[0] |= WS_RSV1;
    uint8_t *from = d->frame.p + WS_HEADER_MAX - header_n;
    memcpy(from, header, header_n);
    metrics.compress_in_bytes_total += data.n;
    metrics.compress_out_bytes_total += n;
    metrics.messages_compressed_total++;
    *frame = slice_of(from, header_n + n);
    return true;
}

void ws_deflate_sent(struct ws_deflate *d)
{
    buf_clear(&d->frame, KEEP);
}

bool ws_deflate_twin(struct ws_deflate *d, struct slice plain, struct slice *frame)
{
    uint8_t form = plain.p[1];
    size_t header_n = form < 126 ? 2 : form == 126 ? 4 : 10;
    ASSERT(header_n <= plain.n);
    return ws_deflate_frame(d, (enum ws_opcode)(plain.p[0] & 15),
                            slice_of(plain.p + header_n, plain.n - header_n), frame);
}
