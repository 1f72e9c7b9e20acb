/* The WebSocket receiver. Input: a byte each for two cuts and for the limit of a message, its
 * fifth bit says that permessage-deflate was negotiated; then bytes of a connection. Cutting them
 * gives the same events and the same error as not. */
#include "fuzz.h"

#include "ws/ws_frame.h"

enum { EVENTS = 64 };

/* What came out: events without their bytes, whose hash stands for them. */
struct story {
    struct {
        uint8_t opcode;
        bool compressed;
        uint16_t code;
        size_t len;
        uint64_t hash;
    } events[EVENTS];
    unsigned n;
    enum err err;
};

static bool utf8_naive(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t point = p[i];
        size_t more = point < 0x80             ? 0
                      : (point & 0xe0) == 0xc0 ? 1
                      : (point & 0xf0) == 0xe0 ? 2
                      : (point & 0xf8) == 0xf0 ? 3
                                               : 9;
        static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
        if (more == 9 || more > n - i - 1)
            return false;
        point &= more ? 0x3fu >> more : 0x7fu;
        for (size_t j = 1; j <= more; j++) {
            if ((p[i + j] & 0xc0) != 0x80)
                return false;
            point = point << 6 | (p[i + j] & 0x3f);
        }
        if (point < least[more] || point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
            return false;
        i += more + 1;
    }
    return true;
}

static void event_check(const struct ws_event *ev, const uint8_t *copy, size_t n, uint32_t max,
                        bool deflate)
{
    const uint8_t *p = ev->data.p;
    bool control = ev->opcode == WS_CLOSE || ev->opcode == WS_PING || ev->opcode == WS_PONG;
    CHECK(control || ev->opcode == WS_TEXT || ev->opcode == WS_BINARY);
    CHECK(!ev->compressed || (deflate && !control));
    max += ev->compressed ? max / 8 + 64 : 0;
    CHECK(ev->data.n <= (control ? (size_t)WS_CONTROL_MAX : max));
    if (p >= copy && p < copy + n)
        CHECK(ev->data.n <= (size_t)(copy + n - p));
    if (ev->opcode == WS_TEXT && !ev->compressed)
        CHECK(utf8_naive(p, ev->data.n));
    if (ev->opcode != WS_CLOSE)
        return;
    CHECK(ev->data.n != 1);
    CHECK(ev->close_code == (ev->data.n ? p[0] << 8 | p[1] : 1005));
    CHECK(!ev->data.n || ws_close_code_valid(ev->close_code));
    CHECK(!ev->data.n || utf8_naive(p + 2, ev->data.n - 2));
}

static void note(struct story *s, const struct ws_event *ev)
{
    uint64_t hash = 0xcbf29ce484222325; /* FNV-1a */
    for (size_t i = 0; i < ev->data.n; i++)
        hash = (hash ^ ev->data.p[i]) * 0x100000001b3;
    if (s->n == EVENTS)
        return;
    s->events[s->n].opcode = ev->opcode;
    s->events[s->n].compressed = ev->compressed;
    s->events[s->n].code = ev->opcode == WS_CLOSE ? ev->close_code : 0;
    s->events[s->n].len = ev->data.n;
    s->events[s->n++].hash = hash;
}

static bool feed(struct ws_rx **rx, const uint8_t *p, size_t n, uint32_t max, bool deflate,
                 struct story *s)
{
    uint8_t *copy = copy_of(p, n);
    struct ws_result r = {WS_DONE, ERR_NONE, 0};
    for (size_t at = 0; at < n && r.state == WS_DONE; at += r.consumed) {
        struct ws_event ev = {0};
        r = ws_receive(rx, copy + at, n - at, max, deflate, &ev);
        CHECK((r.state == WS_BAD) == (r.err != ERR_NONE));
        CHECK(r.consumed <= n - at);
        if (r.state == WS_MORE)
            CHECK(r.consumed == n - at);
        if (r.state != WS_DONE)
            continue;
        CHECK(r.consumed > 0);
        event_check(&ev, copy, n, max, deflate);
        note(s, &ev);
        ws_rx_release(rx);
    }
    free(copy);
    s->err = r.err;
    return r.state != WS_BAD;
}

static struct story run(const uint8_t *p, size_t n, const size_t cuts[2], uint32_t max,
                        bool deflate)
{
    struct story s = {.n = 0};
    struct ws_rx *rx = NULL;
    if (feed(&rx, p, cuts[0], max, deflate, &s) &&
        feed(&rx, p + cuts[0], cuts[1] - cuts[0], max, deflate, &s))
        feed(&rx, p + cuts[1], n - cuts[1], max, deflate, &s);
    ws_rx_free(&rx);
    CHECK(!rx && mem_buffer_bytes() == 0);
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n < 3)
        return 0;
    size_t a = data[0], b = data[1];
    uint32_t max = 1u << (data[2] & 15);
    bool deflate = data[2] & 16;
    data += 3;
    n -= 3;
    const size_t none[2] = {0, 0};
    const size_t cuts[2] = {n * MIN(a, b) / 256, n * MAX(a, b) / 256};
    struct story whole = run(data, n, none, max, deflate), split = run(data, n, cuts, max, deflate);
    CHECK(whole.err == split.err && whole.n == split.n);
    for (unsigned i = 0; i < whole.n; i++) {
        CHECK(whole.events[i].opcode == split.events[i].opcode);
        CHECK(whole.events[i].compressed == split.events[i].compressed);
        CHECK(whole.events[i].code == split.events[i].code);
        CHECK(whole.events[i].len == split.events[i].len);
        CHECK(whole.events[i].hash == split.events[i].hash);
    }
    return 0;
}
