/* ws/ws_frame, messages out of frames: a script of frames and what must come out of it, whole and
 * cut at every place. */
#include "unit.h"

#include "ws/ws_frame.h"

enum { MESSAGE_MAX = 1000, WIRE_MAX = 4096 };

struct frame {
    uint8_t first; /* FIN, reserved bits and opcode */
    struct slice data;
};

struct script {
    const char *what;
    struct frame frames[6];
    const char *want; /* the events, "text:abc;", then the error's name where there is one */
};

static bool deflate; /* was negotiated */

static size_t wire_put(uint8_t *out, const struct frame *f, uint8_t salt)
{
    const uint8_t mask[4] = {(uint8_t)(0xa5 ^ salt), 0x5a, (uint8_t)(0x0f + salt), 0xf1};
    size_t n = ws_frame_header(out, WS_TEXT, true, f->data.n);
    out[0] = f->first;
    out[1] |= 0x80;
    memcpy(out + n, mask, 4);
    for (size_t i = 0; i < f->data.n; i++)
        out[n + 4 + i] = f->data.p[i] ^ mask[i & 3];
    return n + 4 + f->data.n;
}

static void story_add(struct buf *story, const struct ws_event *ev)
{
    static const char *const names[] = {"?", "text", "binary", "?",    "?",   "?",
                                        "?", "?",    "close",  "ping", "pong"};
    assert_true(ev->opcode <= WS_PONG);
    assert_err(buf_printf(story, "%s", names[ev->opcode]), ERR_NONE);
    if (ev->compressed)
        assert_err(buf_printf(story, " compressed"), ERR_NONE);
    if (ev->opcode == WS_CLOSE)
        assert_err(buf_printf(story, " %u", (unsigned)ev->close_code), ERR_NONE);
    assert_err(buf_printf(story, ":"), ERR_NONE);
    assert_err(buf_append(story, ev->data), ERR_NONE);
    assert_err(buf_printf(story, ";"), ERR_NONE);
}

/* One arrival, as a connection hands it over: a copy of its exact size. */
static bool arrive(struct ws_rx **rx, const uint8_t *p, size_t n, struct buf *story)
{
    uint8_t *copy = malloc(n ? n : 1);
    struct ws_result r = {WS_DONE, ERR_NONE, 0};
    assert_non_null(copy);
    memcpy(copy, p, n);
    for (size_t at = 0; at < n && r.state == WS_DONE; at += r.consumed) {
        struct ws_event ev = {0};
        r = ws_receive(rx, copy + at, n - at, MESSAGE_MAX, deflate, &ev);
        if (r.state == WS_MORE)
            assert_int_equal(r.consumed, n - at);
        if (r.state != WS_DONE)
            continue;
        story_add(story, &ev);
        ws_rx_release(rx);
    }
    free(copy);
    if (r.state == WS_BAD)
        assert_err(buf_printf(story, "%s", err_name(r.err)), ERR_NONE);
    return r.state != WS_BAD;
}

static bool handed; /* what is incomplete goes on in another process, at each cut */

/* What the other process makes of it. */
static void hand_over(struct ws_rx **rx)
{
    struct ws_rx *other = NULL;
    struct ws_event ev;
    struct buf replay;
    buf_init(&replay, 2 * WIRE_MAX);
    assert_err(ws_rx_replay(*rx, &replay), ERR_NONE);
    if (replay.len)
        assert_int_equal(ws_receive(&other, replay.p, replay.len, MESSAGE_MAX, deflate, &ev).state,
                         WS_MORE);
    buf_done(&replay);
    ws_rx_free(rx);
    *rx = other;
}

static bool arrive_handed(struct ws_rx **rx, const uint8_t *p, size_t n, struct buf *story)
{
    bool good = arrive(rx, p, n, story);
    if (good && handed)
        hand_over(rx);
    return good;
}

static void tell(const uint8_t *p, size_t n, size_t a, size_t b, struct buf *story)
{
    struct ws_rx *rx = NULL;
    uint64_t held = mem_buffer_bytes() - story->cap;
    buf_clear(story, UINT32_MAX);
    if (arrive_handed(&rx, p, a, story) && arrive_handed(&rx, p + a, b - a, story))
        arrive(&rx, p + b, n - b, story);
    ws_rx_free(&rx);
    assert_int_equal(mem_buffer_bytes() - story->cap, held);
}

#define EURO "\xe2\x82\xac"
/* 0x10 marks a continuation in a script, as 0 ends it; it is never sent. */
/* clang-format off */
static const struct script scripts[] = {
    {"messages", {{0x81, SLICE("a")}, {0x82, SLICE("\0\xff")}, {0x81, SLICE("")}}, NULL},
    {"parts", {{0x01, SLICE("a")}, {0x10, SLICE("b")}, {0x90, SLICE("c")}}, "text:abc;"},
    {"empty parts", {{0x02, SLICE("")}, {0x10, SLICE("")}, {0x90, SLICE("")}}, "binary:;"},
    {"controls between parts", {{0x01, SLICE("a")}, {0x89, SLICE("p")}, {0x10, SLICE("b")},
        {0x8a, SLICE("")}, {0x90, SLICE("c")}, {0x81, SLICE("d")}},
        "ping:p;pong:;text:abc;text:d;"},
    {"close between parts", {{0x01, SLICE("a")}, {0x88, SLICE("\x03\xe8")}, {0x90, SLICE("b")}},
        "close 1000:\x03\xe8;text:ab;"},
    {"a continuation first", {{0x90, SLICE("a")}}, "WS_FRAGMENT"},
    {"a continuation after a message", {{0x81, SLICE("a")}, {0x90, SLICE("b")}},
        "text:a;WS_FRAGMENT"},
    {"a continuation after all parts", {{0x01, SLICE("a")}, {0x90, SLICE("b")}, {0x90, SLICE("c")}},
        "text:ab;WS_FRAGMENT"},
    {"text within text", {{0x01, SLICE("a")}, {0x81, SLICE("b")}}, "WS_FRAGMENT"},
    {"binary within text", {{0x01, SLICE("a")}, {0x02, SLICE("b")}}, "WS_FRAGMENT"},
    {"text within binary, after a ping",
        {{0x02, SLICE("a")}, {0x89, SLICE("")}, {0x01, SLICE("b")}},
        "ping:;WS_FRAGMENT"},
    {"a ping in parts", {{0x81, SLICE("a")}, {0x09, SLICE("b")}}, "text:a;WS_CONTROL"},
    {"a reserved bit later", {{0x81, SLICE("a")}, {0xc1, SLICE("b")}}, "text:a;WS_RESERVED"},
    {"an opcode later", {{0x01, SLICE("a")}, {0x83, SLICE("b")}}, "WS_OPCODE"},
    {"close without a code", {{0x88, SLICE("")}}, "close 1005:;"},
    {"close with a reason", {{0x88, SLICE("\x0f\xa0" "bye " EURO)}},
        "close 4000:\x0f\xa0" "bye " EURO ";"},
    {"close of one byte", {{0x88, SLICE("\x03")}}, "WS_CLOSE_CODE"},
    {"close with 1005", {{0x88, SLICE("\x03\xed")}}, "WS_CLOSE_CODE"},
    {"close with 1006", {{0x88, SLICE("\x03\xee")}}, "WS_CLOSE_CODE"},
    {"close with 999", {{0x88, SLICE("\x03\xe7")}}, "WS_CLOSE_CODE"},
    {"close with 0", {{0x88, SLICE("\0\0")}}, "WS_CLOSE_CODE"},
    {"close with 65535", {{0x88, SLICE("\xff\xff")}}, "WS_CLOSE_CODE"},
    {"close with a reason of no UTF-8", {{0x88, SLICE("\x03\xe8\xff")}}, "WS_UTF8"},
    {"close with a cut reason", {{0x88, SLICE("\x03\xe8" "a\xe2\x82")}}, "WS_UTF8"},
    {"text of no UTF-8", {{0x81, SLICE("ab\xff" "c")}}, "WS_UTF8"},
    {"text that ends within a character", {{0x81, SLICE("ab\xe2\x82")}}, "WS_UTF8"},
    {"a surrogate", {{0x81, SLICE("\xed\xa0\x80")}}, "WS_UTF8"},
    {"binary is any bytes", {{0x82, SLICE("\xed\xa0\x80\xff")}}, "binary:\xed\xa0\x80\xff;"},
    {"a character over parts",
        {{0x01, SLICE("a\xf0")}, {0x10, SLICE("\x9f")}, {0x89, SLICE("\xff")},
        {0x10, SLICE("")}, {0x90, SLICE("\x98\x80z")}}, "ping:\xff;text:a\xf0\x9f\x98\x80z;"},
    {"parts that end within a character",
        {{0x01, SLICE("a\xf0\x9f")}, {0x90, SLICE("\x98")}}, "WS_UTF8"},
    {"a character broken by a part", {{0x01, SLICE("a\xf0\x9f")}, {0x90, SLICE("b")}}, "WS_UTF8"},
    {"a new text after a cut one in binary",
        {{0x82, SLICE("\xe2\x82")}, {0x81, SLICE("\xac")}}, "binary:\xe2\x82;WS_UTF8"},
};
/* clang-format on */

/* clang-format off */
static const struct script compressed_scripts[] = {
    {"messages", {{0xc1, SLICE("\xff")}, {0x81, SLICE("a")}, {0xc2, SLICE("")}, {0x82, SLICE("b")}},
        "text compressed:\xff;text:a;binary compressed:;binary:b;"},
    {"parts", {{0x41, SLICE("\xe2")}, {0x89, SLICE("p")}, {0x10, SLICE("\xff")}, {0x90, SLICE("c")},
        {0x81, SLICE("d")}}, "ping:p;text compressed:\xe2\xff" "c;text:d;"},
    {"an uncompressed text is still checked", {{0xc1, SLICE("\xff")}, {0x81, SLICE("\xff")}},
        "text compressed:\xff;WS_UTF8"},
    {"a later part", {{0x41, SLICE("a")}, {0xd0, SLICE("b")}}, "WS_RESERVED"},
    {"a part of a plain one", {{0x01, SLICE("a")}, {0xd0, SLICE("b")}}, "WS_RESERVED"},
    {"a ping", {{0xc9, SLICE("a")}}, "WS_RESERVED"},
    {"a pong", {{0xca, SLICE("a")}}, "WS_RESERVED"},
    {"a close", {{0xc8, SLICE("")}}, "WS_RESERVED"},
    {"RSV2", {{0xe1, SLICE("a")}}, "WS_RESERVED"}, {"RSV3", {{0xd1, SLICE("a")}}, "WS_RESERVED"},
    {"no opcode", {{0xc3, SLICE("a")}}, "WS_RESERVED"},
};
/* clang-format on */

static size_t script_wire(const struct script *s, uint8_t *wire)
{
    size_t n = 0;
    for (uint8_t i = 0; i < ARRAY_LEN(s->frames) && s->frames[i].first; i++) {
        struct frame f = s->frames[i];
        if ((f.first & 0x3f) == 0x10)
            f.first &= 0xc0;
        n += wire_put(wire + n, &f, i);
    }
    assert_true(n <= WIRE_MAX);
    return n;
}

static void scripts_come_out_the_same_at_every_pair_of_cuts(void **state)
{
    (void)state;
    uint8_t wire[WIRE_MAX];
    struct buf story;
    buf_init(&story, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        const struct script *s = &scripts[i];
        struct slice want = s->want ? slice_str(s->want) : SLICE("text:a;binary:\0\xff;text:;");
        size_t n = script_wire(s, wire);
        for (size_t a = 0; a <= n; a++)
            for (size_t b = a; b <= n; b++) {
                tell(wire, n, a, b, &story);
                if (slice_eq(buf_slice(&story), want))
                    continue;
                print_error("%s, cut at %zu and %zu: %.*s\n", s->what, a, b, (int)story.len,
                            (const char *)story.p);
                fail();
            }
    }
    buf_done(&story);
}

static void compressed_messages_are_handed_over_as_they_are(void **state)
{
    (void)state;
    uint8_t wire[WIRE_MAX];
    struct buf story;
    buf_init(&story, 1 << 16);
    deflate = true;
    for (size_t i = 0; i < ARRAY_LEN(compressed_scripts); i++) {
        const struct script *s = &compressed_scripts[i];
        size_t n = script_wire(s, wire);
        for (size_t a = 0; a <= n; a++)
            for (size_t b = a; b <= n; b++) {
                tell(wire, n, a, b, &story);
                if (slice_eq(buf_slice(&story), slice_str(s->want)))
                    continue;
                print_error("%s, cut at %zu and %zu: %.*s\n", s->what, a, b, (int)story.len,
                            (const char *)story.p);
                fail();
            }
    }
    deflate = false;
    buf_done(&story);
}

/* As much as a bad compressor makes of the largest message, and no more. */
static void a_compressed_message_may_be_an_eighth_longer(void **state)
{
    (void)state;
    static uint8_t wire[WIRE_MAX], data[MESSAGE_MAX * 2];
    const size_t most = MESSAGE_MAX + MESSAGE_MAX / 8 + 64;
    struct buf story;
    buf_init(&story, 1 << 16);
    deflate = true;
    for (size_t more = 0; more < 2; more++)
        for (size_t first = 0; first <= most; first += 297) {
            const struct frame a = {0x42, slice_of(data, first)},
                               b = {0x80, slice_of(data, most + more - first)};
            size_t n = wire_put(wire, &a, 1);
            n += wire_put(wire + n, &b, 2);
            tell(wire, n, n / 3, n / 2, &story);
            if (more)
                assert_true(slice_eq(buf_slice(&story), SLICE("WS_MESSAGE_SIZE")));
            else
                assert_int_equal(story.len, strlen("binary compressed:;") + most);
        }
    deflate = false;
    buf_done(&story);
}

static void they_do_where_another_process_goes_on(void **state)
{
    handed = true;
    scripts_come_out_the_same_at_every_pair_of_cuts(state);
    compressed_messages_are_handed_over_as_they_are(state);
    a_compressed_message_may_be_an_eighth_longer(state);
    handed = false;
}

static void a_byte_at_a_time_is_the_same_again(void **state)
{
    (void)state;
    uint8_t wire[WIRE_MAX];
    struct buf story;
    buf_init(&story, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(scripts); i++) {
        const struct script *s = &scripts[i];
        struct slice want = s->want ? slice_str(s->want) : SLICE("text:a;binary:\0\xff;text:;");
        struct ws_rx *rx = NULL;
        size_t n = script_wire(s, wire);
        buf_clear(&story, UINT32_MAX);
        for (size_t at = 0; at < n && arrive(&rx, wire + at, 1, &story);)
            at++;
        assert_true(slice_eq(buf_slice(&story), want));
        ws_rx_free(&rx);
    }
    buf_done(&story);
}

static void messages_are_no_larger_than_the_limit(void **state)
{
    (void)state;
    static const struct {
        size_t sizes[3];
        bool fits;
    } cases[] = {
        {{MESSAGE_MAX}, true},    {{MESSAGE_MAX + 1}, false}, {{0, MESSAGE_MAX}, true},
        {{MESSAGE_MAX, 0}, true}, {{MESSAGE_MAX, 1}, false},  {{1, MESSAGE_MAX}, false},
        {{400, 300, 300}, true},  {{400, 300, 301}, false},   {{0, 0, MESSAGE_MAX + 1}, false}};
    static uint8_t wire[WIRE_MAX], data[MESSAGE_MAX + 1];
    struct buf story;
    buf_init(&story, 1 << 16);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        size_t parts = cases[i].sizes[2] ? 3 : cases[i].sizes[1] || i == 3 ? 2 : 1, n = 0;
        for (size_t j = 0; j < parts; j++) {
            struct frame f = {(uint8_t)((j ? 0 : WS_BINARY) | (j + 1 == parts ? 0x80 : 0)),
                              slice_of(data, cases[i].sizes[j])};
            n += wire_put(wire + n, &f, (uint8_t)j);
        }
        for (size_t cut = 0; cut <= n; cut += cut < 40 ? 1 : 13) {
            tell(wire, n, cut, cut, &story);
            if (cases[i].fits)
                assert_int_equal(story.len, strlen("binary:;") + MESSAGE_MAX);
            else
                assert_true(slice_eq(buf_slice(&story), SLICE("WS_MESSAGE_SIZE")));
        }
    }
    buf_done(&story);
}

static void a_message_too_large_is_refused_by_its_header(void **state)
{
    (void)state;
    uint8_t head[WS_HEADER_MAX] = {0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 1, 2, 3, 4};
    struct ws_rx *rx = NULL;
    struct ws_event ev;
    struct ws_result r = ws_receive(&rx, head, sizeof(head), MESSAGE_MAX, deflate, &ev);
    assert_int_equal(r.state, WS_BAD);
    assert_err(r.err, ERR_WS_MESSAGE_SIZE);
    assert_null(rx); /* and nothing was allocated for it */
    head[2] = 0x7f;
    assert_err(ws_receive(&rx, head, sizeof(head), UINT32_MAX, false, &ev).err,
               ERR_WS_MESSAGE_SIZE);
    ws_rx_free(&rx);
}

/* Each byte of a text is looked at as it comes: what can't be UTF-8 is refused at once. */
static void bad_text_is_refused_before_its_frame_ends(void **state)
{
    (void)state;
    uint8_t wire[64];
    struct frame f = {0x81, SLICE("abc\xed\xa0\x80"
                                  "def")};
    struct ws_rx *rx = NULL;
    struct buf story;
    buf_init(&story, 1000);
    size_t n = wire_put(wire, &f, 0), at = 0;
    while (at < n && arrive(&rx, wire + at, 1, &story))
        at++;
    assert_int_equal(at, 6 + 4); /* the second byte of a surrogate */
    assert_true(slice_eq(buf_slice(&story), SLICE("WS_UTF8")));
    ws_rx_free(&rx);
    buf_done(&story);
}

static void a_whole_frame_is_neither_copied_nor_allocated_for(void **state)
{
    (void)state;
    uint8_t wire[64];
    struct frame f = {0x81, SLICE("hello")};
    size_t n = wire_put(wire, &f, 0);
    struct ws_rx *rx = NULL;
    struct ws_event ev;
    struct ws_result r = ws_receive(&rx, wire, n, MESSAGE_MAX, deflate, &ev);
    assert_int_equal(r.state, WS_DONE);
    assert_null(rx);
    assert_ptr_equal(ev.data.p, wire + 6);
    assert_true(slice_eq(ev.data, SLICE("hello")));
    ws_rx_release(&rx);
}

static void after_an_event_nothing_is_held(void **state)
{
    (void)state;
    uint8_t wire[64];
    static const struct frame frames[] = {{0x81, SLICE("hello")}, {0x89, SLICE("")}};
    struct buf story;
    buf_init(&story, 1000);
    for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
        size_t n = wire_put(wire, &frames[i], 0);
        struct ws_rx *rx = NULL;
        assert_true(arrive(&rx, wire, n - 1, &story));
        assert_non_null(rx);
        assert_true(arrive(&rx, wire + n - 1, 1, &story));
        assert_null(rx);
    }
    assert_true(slice_eq(buf_slice(&story), SLICE("text:hello;ping:;")));
    buf_done(&story);
}

static void nothing_arriving_holds_nothing(void **state)
{
    (void)state;
    struct ws_rx *rx = NULL;
    struct ws_event ev;
    uint8_t none[1];
    struct ws_result r = ws_receive(&rx, none, 0, MESSAGE_MAX, deflate, &ev);
    assert_int_equal(r.state, WS_MORE);
    assert_int_equal(r.consumed, 0);
    ws_rx_release(&rx);
    assert_null(rx);
    ws_rx_free(&rx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scripts_come_out_the_same_at_every_pair_of_cuts),
        cmocka_unit_test(compressed_messages_are_handed_over_as_they_are),
        cmocka_unit_test(a_compressed_message_may_be_an_eighth_longer),
        cmocka_unit_test(they_do_where_another_process_goes_on),
        cmocka_unit_test(a_byte_at_a_time_is_the_same_again),
        cmocka_unit_test(messages_are_no_larger_than_the_limit),
        cmocka_unit_test(a_message_too_large_is_refused_by_its_header),
        cmocka_unit_test(bad_text_is_refused_before_its_frame_ends),
        cmocka_unit_test(a_whole_frame_is_neither_copied_nor_allocated_for),
        cmocka_unit_test(after_an_event_nothing_is_held),
        cmocka_unit_test(nothing_arriving_holds_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
