#include "ws/ws_frame.h"

#include "base/utf8.h"

struct ws_rx {
    uint32_t began;
    uint8_t header[WS_HEADER_MAX], header_n; /* of a frame whose header is incomplete */
    bool in_frame;                           /* header known, payload incomplete */
    bool in_message, finished;               /* data frames seen; the last one complete */
    bool compressed;                         /* the message */
    uint8_t opcode;                          /* of the message */
    struct ws_frame frame;
    uint64_t got; /* payload bytes of the frame so far */
    struct utf8 utf8;
    uint8_t control[WS_CONTROL_MAX];
    struct buf message;
};

static struct ws_result bad(enum err e)
{
    return (struct ws_result){WS_BAD, e, 0};
}

static bool is_control(uint8_t opcode)
{
    return opcode & 8;
}

struct ws_result ws_frame_parse(const uint8_t *p, size_t n, bool deflate, struct ws_frame *out)
{
    const struct ws_result more = {WS_MORE, ERR_NONE, 0};
    if (n < 1)
        return more;
    uint8_t opcode = p[0] & 15;
    bool fin = p[0] & 0x80;
    bool compressed = deflate && p[0] & WS_RSV1 && (opcode == WS_TEXT || opcode == WS_BINARY);
    if (p[0] & (compressed ? 0x30 : 0x70))
        return bad(ERR_WS_RESERVED);
    if (opcode > WS_PONG || (opcode > WS_BINARY && opcode < WS_CLOSE))
        return bad(ERR_WS_OPCODE);
    if (is_control(opcode) && !fin)
        return bad(ERR_WS_CONTROL);
    if (n < 2)
        return more;
    if (!(p[1] & 0x80))
        return bad(ERR_WS_MASK);
    uint64_t len = p[1] & 0x7f;
    size_t extra = len == 127 ? 8 : len == 126 ? 2 : 0;
    if (is_control(opcode) && extra)
        return bad(ERR_WS_CONTROL);
    if (n < 2 + extra)
        return more;
    if (extra) {
        len = 0;
        for (size_t i = 0; i < extra; i++)
            len = len << 8 | p[2 + i];
        if (len < 126 || (extra == 8 && (len <= 0xffff || len >> 63)))
            return bad(ERR_WS_LENGTH);
    }
    if (n < 6 + extra)
        return more;
    *out = (struct ws_frame){.opcode = opcode,
                             .header_len = (uint8_t)(6 + extra),
                             .fin = fin,
                             .compressed = compressed,
                             .len = len};
    memcpy(out->mask, p + 2 + extra, 4);
    return (struct ws_result){WS_DONE, ERR_NONE, 6 + extra};
}

typedef uint64_t vec4 __attribute__((vector_size(32), aligned(1), may_alias));

void ws_unmask(uint8_t *p, size_t n, const uint8_t mask[4], unsigned phase)
{
    uint8_t turned[8];
    uint64_t word, v;
    for (unsigned i = 0; i < 8; i++)
        turned[i] = mask[(phase + i) & 3];
    memcpy(&word, turned, 8);
    size_t i = 0;
    vec4 wide = {word, word, word, word};
    for (; n - i >= 32; i += 32)
        *(vec4 *)(p + i) ^= wide;
    for (; n - i >= 8; i += 8) {
        memcpy(&v, p + i, 8);
        v ^= word;
        memcpy(p + i, &v, 8);
    }
    for (; i < n; i++)
        p[i] ^= turned[i & 7];
}

size_t ws_frame_header(uint8_t out[WS_HEADER_MAX], enum ws_opcode opcode, bool fin, uint64_t len)
{
    out[0] = (uint8_t)(opcode | (fin ? 0x80 : 0));
    if (len < 126) {
        out[1] = (uint8_t)len;
        return 2;
    }
    size_t extra = len <= 0xffff ? 2 : 8;
    out[1] = extra == 2 ? 126 : 127;
    for (size_t i = 0; i < extra; i++)
        out[2 + i] = (uint8_t)(len >> (8 * (extra - 1 - i)));
    return 2 + extra;
}

size_t ws_frame_length(const uint8_t *p, bool *data)
{
    unsigned bytes = p[1] == 126 ? 2 : p[1] == 127 ? 8 : 0;
    uint64_t n = bytes ? 0 : p[1];
    *data = !(p[0] & 8);
    for (unsigned i = 0; i < bytes; i++)
        n = n << 8 | p[2 + i];
    return 2 + bytes + (size_t)n;
}

bool ws_close_code_valid(unsigned code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

/* Compressing may well make a message longer, by an eighth where it is done badly. */
static uint32_t payload_max(uint32_t message_max, bool compressed)
{
    return compressed ? message_max + message_max / 8 + 64 : message_max;
}

/* Whether a frame may follow what came before, and fits. */
static enum err frame_admit(const struct ws_rx *rx, const struct ws_frame *f, uint32_t max)
{
    bool in_message = rx && rx->in_message;
    if (is_control(f->opcode))
        return ERR_NONE;
    if ((f->opcode == WS_CONTINUATION) != in_message)
        return ERR_WS_FRAGMENT;
    uint64_t have = in_message ? rx->message.len : 0;
    uint32_t most = payload_max(max, in_message ? rx->compressed : f->compressed);
    return f->len > most - have ? ERR_WS_MESSAGE_SIZE : ERR_NONE;
}

static struct ws_result event_control(uint8_t opcode, struct slice data, size_t consumed,
                                      struct ws_event *ev)
{
    *ev = (struct ws_event){opcode, false, 1005, data};
    if (opcode == WS_CLOSE && data.n) {
        if (data.n == 1)
            return bad(ERR_WS_CLOSE_CODE);
        ev->close_code = (uint16_t)(data.p[0] << 8 | data.p[1]);
        if (!ws_close_code_valid(ev->close_code))
            return bad(ERR_WS_CLOSE_CODE);
        if (!utf8_valid(slice_of(data.p + 2, data.n - 2)))
            return bad(ERR_WS_UTF8);
    }
    return (struct ws_result){WS_DONE, ERR_NONE, consumed};
}

/* The whole of an unfragmented frame in p, nothing before it. */
static struct ws_result receive_whole(uint8_t *p, const struct ws_frame *f, struct ws_event *ev)
{
    struct slice data = {p + f->header_len, f->len};
    size_t consumed = f->header_len + f->len;
    ws_unmask(p + f->header_len, f->len, f->mask, 0);
    if (is_control(f->opcode))
        return event_control(f->opcode, data, consumed, ev);
    if (f->opcode == WS_TEXT && !f->compressed && !utf8_valid(data))
        return bad(ERR_WS_UTF8);
    *ev = (struct ws_event){f->opcode, f->compressed, 0, data};
    return (struct ws_result){WS_DONE, ERR_NONE, consumed};
}

static enum err frame_begin(struct ws_rx *rx, const struct ws_frame *f, uint32_t max)
{
    enum err e = frame_admit(rx, f, max);
    if (e)
        return e;
    rx->frame = *f;
    rx->in_frame = true;
    rx->got = 0;
    rx->header_n = 0;
    if (f->opcode == WS_TEXT || f->opcode == WS_BINARY) {
        rx->in_message = true;
        rx->opcode = f->opcode;
        rx->compressed = f->compressed;
        rx->utf8 = (struct utf8){0};
        buf_init(&rx->message, payload_max(max, f->compressed));
    }
    return ERR_NONE;
}

static enum err frame_payload(struct ws_rx *rx, uint8_t *p, size_t n)
{
    ws_unmask(p, n, rx->frame.mask, (unsigned)(rx->got & 3));
    if (is_control(rx->frame.opcode)) {
        memcpy(rx->control + rx->got, p, n);
    } else {
        if (rx->opcode == WS_TEXT && !rx->compressed && !utf8_feed(&rx->utf8, p, n))
            return ERR_WS_UTF8;
        enum err e = buf_append(&rx->message, slice_of(p, n));
        if (e)
            return e;
    }
    rx->got += n;
    return ERR_NONE;
}

/* A complete frame in rx: DONE with an event, or MORE where the message goes on. */
static struct ws_result frame_end(struct ws_rx *rx, size_t consumed, struct ws_event *ev)
{
    rx->in_frame = false;
    if (is_control(rx->frame.opcode))
        return event_control(rx->frame.opcode, slice_of(rx->control, rx->got), consumed, ev);
    if (!rx->frame.fin)
        return (struct ws_result){WS_MORE, ERR_NONE, consumed};
    if (!utf8_complete(&rx->utf8))
        return bad(ERR_WS_UTF8);
    rx->in_message = false;
    rx->finished = true;
    *ev = (struct ws_event){rx->opcode, rx->compressed, 0, buf_slice(&rx->message)};
    return (struct ws_result){WS_DONE, ERR_NONE, consumed};
}

/* Takes header bytes into rx; *at moves. */
static enum err header_take(struct ws_rx *rx, const uint8_t *p, size_t n, size_t *at, uint32_t max,
                            bool deflate)
{
    while (*at < n && !rx->in_frame) {
        struct ws_frame f;
        rx->header[rx->header_n++] = p[(*at)++];
        struct ws_result r = ws_frame_parse(rx->header, rx->header_n, deflate, &f);
        if (r.state == WS_BAD)
            return r.err;
        enum err e = r.state == WS_DONE ? frame_begin(rx, &f, max) : ERR_NONE;
        if (e)
            return e;
    }
    return ERR_NONE;
}

struct ws_result ws_receive(struct ws_rx **at_rx, uint8_t *p, size_t n, uint32_t message_max,
                            bool deflate, struct ws_event *ev)
{
    struct ws_frame f;
    if (!*at_rx) {
        struct ws_result r = ws_frame_parse(p, n, deflate, &f);
        if (r.state == WS_BAD)
            return r;
        enum err e = r.state == WS_DONE ? frame_admit(NULL, &f, message_max) : ERR_NONE;
        if (e)
            return bad(e);
        if (r.state == WS_DONE && f.fin && f.len <= n - f.header_len)
            return receive_whole(p, &f, ev);
        *at_rx = mem_alloc(sizeof(**at_rx));
        if (!*at_rx)
            return bad(ERR_NO_MEMORY);
        memset(*at_rx, 0, sizeof(**at_rx));
    }
    struct ws_rx *rx = *at_rx;
    for (size_t at = 0;;) {
        enum err e = header_take(rx, p, n, &at, message_max, deflate);
        if (e)
            return bad(e);
        if (!rx->in_frame)
            return (struct ws_result){WS_MORE, ERR_NONE, n};
        size_t take = MIN(n - at, rx->frame.len - rx->got);
        e = frame_payload(rx, p + at, take);
        if (e)
            return bad(e);
        at += take;
        if (rx->got < rx->frame.len)
            return (struct ws_result){WS_MORE, ERR_NONE, n};
        struct ws_result r = frame_end(rx, at, ev);
        if (r.state != WS_MORE)
            return r;
    }
}

void ws_rx_release(struct ws_rx **at_rx)
{
    struct ws_rx *rx = *at_rx;
    if (!rx)
        return;
    if (rx->finished) {
        buf_done(&rx->message);
        rx->finished = false;
    }
    if (!rx->in_frame && !rx->in_message && !rx->header_n)
        ws_rx_free(at_rx);
}

uint32_t *ws_rx_began(struct ws_rx *rx)
{
    return &rx->began;
}

void ws_rx_free(struct ws_rx **at_rx)
{
    if (!*at_rx)
        return;
    buf_done(&(*at_rx)->message);
    mem_free(*at_rx, sizeof(**at_rx));
    *at_rx = NULL;
}

/* payload: what there is of the frame's, as it was sent. */
static enum err replay(struct buf *out, const struct ws_frame *f, struct slice payload)
{
    uint8_t header[WS_HEADER_MAX + 4];
    size_t n = ws_frame_header(header, (enum ws_opcode)f->opcode, f->fin, f->len);
    header[0] |= f->compressed ? WS_RSV1 : 0;
    header[1] |= 0x80;
    memcpy(header + n, f->mask, 4);
    enum err e = buf_append(out, slice_of(header, n + 4));
    uint32_t at = out->len;
    e = e ? e : buf_append(out, payload);
    if (!e && payload.n)
        ws_unmask(out->p + at, payload.n, f->mask, 0); /* twice is once more as it came */
    return e;
}

enum err ws_rx_replay(const struct ws_rx *rx, struct buf *out)
{
    enum err e = ERR_NONE;
    if (!rx)
        return e;
    const struct ws_frame *f = &rx->frame;
    bool control = rx->in_frame && is_control(f->opcode), data = rx->in_frame && !control;
    size_t got = data ? (size_t)rx->got : 0, before = rx->message.len - got;
    const struct ws_frame one = {.opcode = rx->opcode, .compressed = rx->compressed, .len = before};
    /* The frames before this one make one. */
    if (rx->in_message && !(data && f->opcode != WS_CONTINUATION))
        e = replay(out, &one, slice_of(rx->message.p, before));
    if (rx->in_frame && !e)
        e = replay(out, f,
                   control ? slice_of(rx->control, (size_t)rx->got)
                   : got   ? slice_of(rx->message.p + before, got)
                           : SLICE_NONE);
    return e ? e : buf_append(out, slice_of(rx->header, rx->header_n));
}

enum err ws_message_replay(enum ws_opcode kind, struct slice data, struct buf *out,
                           uint8_t end[WS_REPLAY_END])
{
    const struct ws_frame all = {.opcode = (uint8_t)kind, .len = data.n};
    memcpy(end, (const uint8_t[WS_REPLAY_END]){0x80, 0x80}, WS_REPLAY_END);
    return replay(out, &all, data);
}
