/* ws/ws_deflate: there and back, what is refused, what an iteration may spend, what is held. */
#include "unit.h"

#include "base/metrics.h"
#include "ws/ws_deflate.h"

enum { LEAST = 20, MAX = 64 << 10 };

static uint64_t now_ns, held;
static struct ws_deflate *d;

static int setup(void **state)
{
    (void)state;
    held = mem_buffer_bytes();
    now_ns = 1;
    d = ws_deflate_new(&now_ns, LEAST);
    return d ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    ws_deflate_free(d);
    return mem_buffer_bytes() == held ? 0 : -1;
}

static enum err inflate_copy(struct slice data, uint32_t max, struct slice *out)
{
    uint8_t *copy = malloc(data.n ? data.n : 1);
    assert_non_null(copy);
    slice_copy(copy, data);
    enum err e = ws_deflate_inflate(d, slice_of(copy, data.n), max, out);
    free(copy);
    now_ns++;
    return e;
}

/* The payload of a frame of ours. */
static struct slice payload_of(struct slice frame, uint8_t opcode)
{
    uint8_t n = frame.p[1];
    size_t header = n < 126 ? 2 : n == 126 ? 4 : 10;
    assert_int_equal(frame.p[0], 0x80 | WS_RSV1 | opcode);
    assert_true(header < frame.n);
    uint8_t again[WS_HEADER_MAX];
    assert_int_equal(ws_frame_header(again, (enum ws_opcode)opcode, true, frame.n - header),
                     header);
    assert_memory_equal(again + 1, frame.p + 1, header - 1);
    return slice_of(frame.p + header, frame.n - header);
}

static void text_make(uint8_t *p, size_t n, uint64_t *seed)
{
    static const char words[] = "weir water weight {\"id\": 12345, \"name\": \"x\"} ";
    for (size_t i = 0; i < n;) {
        size_t from = unit_random(seed) % (sizeof(words) - 8), k = MIN(n - i, (size_t)7);
        memcpy(p + i, words + from, k);
        i += k;
    }
}

static void messages_come_back(void **state)
{
    (void)state;
    static const size_t sizes[] = {LEAST, 100, 125, 126, 300, 4000, 65535, MAX};
    static uint8_t data[MAX];
    uint64_t seed = 7;
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
            struct slice frame, out, twin;
            text_make(data, sizes[i], &seed);
            if (!ws_deflate_frame(d, WS_TEXT, slice_of(data, sizes[i]), &frame)) {
                assert_true(sizes[i] <= 126); /* too short to shrink */
                continue;
            }
            assert_true(payload_of(frame, WS_TEXT).n < sizes[i]);
            assert_err(inflate_copy(payload_of(frame, WS_TEXT), MAX, &out), ERR_NONE);
            assert_true(slice_eq(out, slice_of(data, sizes[i])));
            ws_deflate_done(d);
            static uint8_t plain[MAX + WS_HEADER_MAX];
            size_t n = ws_frame_header(plain, WS_BINARY, true, sizes[i]);
            memcpy(plain + n, data, sizes[i]);
            assert_true(ws_deflate_twin(d, slice_of(plain, n + sizes[i]), &twin));
            assert_err(inflate_copy(payload_of(twin, WS_BINARY), MAX, &out), ERR_NONE);
            assert_true(slice_eq(out, slice_of(data, sizes[i])));
        }
}

static void what_goes_out_as_it_is(void **state)
{
    (void)state;
    static uint8_t noise[5000];
    uint64_t seed = 3;
    struct slice frame;
    for (size_t i = 0; i < sizeof(noise); i++)
        noise[i] = (uint8_t)unit_random(&seed);
    assert_false(ws_deflate_frame(d, WS_BINARY, slice_of(noise, sizeof(noise)), &frame));
    memset(noise, 0, sizeof(noise));
    assert_false(ws_deflate_frame(d, WS_BINARY, slice_of(noise, LEAST - 1), &frame));
    assert_true(ws_deflate_frame(d, WS_BINARY, slice_of(noise, LEAST), &frame));
    assert_false(ws_deflate_frame(d, WS_PING, slice_of(noise, 100), &frame));
    assert_false(ws_deflate_frame(d, WS_CLOSE, slice_of(noise, 100), &frame));
    assert_false(ws_deflate_frame(d, WS_TEXT, SLICE_NONE, &frame));
}

/* clang-format off */
static const struct {
    const char *what;
    struct slice data;
    enum err err;
    struct slice out;
} rows[] = {
    {"7.2.3.1", SLICE("\xf2\x48\xcd\xc9\xc9\x07\0"), ERR_NONE, SLICE("Hello")},
    {"7.2.3.3", SLICE("\0\5\0\xfa\xff" "Hello\0"), ERR_NONE, SLICE("Hello")},
    {"7.2.3.4", SLICE("\xf3\x48\xcd\xc9\xc9\x07\0\0"), ERR_NONE, SLICE("Hello")},
    {"7.2.3.4, nothing after it", SLICE("\xf3\x48\xcd\xc9\xc9\x07\0"), ERR_NONE, SLICE("Hello")},
    {"7.2.3.5", SLICE("\xf2\x48\x05\0\0\0\xff\xff\xca\xc9\xc9\x07\0"), ERR_NONE, SLICE("Hello")},
    {"twice the last", SLICE("\xf3\x48\xcd\xc9\xc9\x07\0\xf3\x48\xcd\xc9\xc9\x07\0"), ERR_NONE,
        SLICE("HelloHello")},
    {"7.2.3.6", SLICE("\0"), ERR_NONE, SLICE("")},
    {"nothing", SLICE(""), ERR_NONE, SLICE("")},
    {"an empty last block", SLICE("\3\0"), ERR_NONE, SLICE("")},
    {"a kind of block that is none", SLICE("\6"), ERR_WS_INFLATE, SLICE("")},
    {"cut", SLICE("\xf2\x48\xcd\xc9\xc9"), ERR_WS_INFLATE, SLICE("")},
    {"cut within stored bytes", SLICE("\0\5\0\xfa\xff" "Hel"), ERR_WS_INFLATE, SLICE("")},
    {"lengths that differ", SLICE("\0\5\0\xfa\xfe" "Hello\0"), ERR_WS_INFLATE, SLICE("")},
    {"a distance before the message", SLICE("\2\x13\0\0"), ERR_WS_INFLATE, SLICE("")},
    {"the tail left on",
        SLICE("\xf2\x48\xcd\xc9\xc9\x07\0\0\0\xff\xff"), ERR_WS_INFLATE, SLICE("")},
};
/* clang-format on */

static void rows_are_inflated_or_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct slice out = SLICE_NONE;
        enum err e = inflate_copy(rows[i].data, MAX, &out);
        if (e == rows[i].err && slice_eq(out, rows[i].out))
            continue;
        print_error("%s: %s, %zu bytes\n", rows[i].what, err_name(e), out.n);
        fail();
    }
}

static void a_bomb_stops_at_the_bound(void **state)
{
    (void)state;
    static uint8_t zeros[MAX], bomb[1000];
    struct slice frame, out;
    assert_true(ws_deflate_frame(d, WS_BINARY, slice_of(zeros, MAX), &frame));
    struct slice data = payload_of(frame, WS_BINARY);
    assert_true(data.n <= sizeof(bomb));
    slice_copy(bomb, data);
    data.p = bomb;
    static const uint32_t bounds[] = {0, 1, 1023, 1024, 1025, 32768, MAX - 1};
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        uint64_t before = metrics.inflate_out_bytes_total;
        assert_err(inflate_copy(data, bounds[i], &out), ERR_WS_MESSAGE_SIZE);
        assert_true(metrics.inflate_out_bytes_total - before <= bounds[i] + 1);
    }
    assert_err(inflate_copy(data, MAX, &out), ERR_NONE);
    assert_int_equal(out.n, MAX);
    assert_err(inflate_copy(SLICE("\0"), 0, &out), ERR_NONE);
}

/* Pairs of blocks, one of fixed codes and one stored, both empty. */
static void blocks_of_nothing_are_bounded(void **state)
{
    (void)state;
    static const uint8_t empty[] = {0x02,
                                    0}; /* with the next four, which it shares its bits with */
    static uint8_t data[4000];
    struct slice out;
    size_t n = 0;
    while (n + 7 <= sizeof(data)) {
        memcpy(data + n, empty, 2);
        memcpy(data + n + 2, "\0\0\xff\xff", 4);
        n += 6;
    }
    assert_err(inflate_copy(slice_of(data, 6 * 100), MAX, &out), ERR_WS_INFLATE); /* no tail left */
    assert_err(inflate_copy(slice_of(data, 6 * 100 + 2), MAX, &out), ERR_NONE);
    assert_int_equal(out.n, 0);
    assert_err(inflate_copy(slice_of(data, n), MAX, &out), ERR_WS_INFLATE);
}

static void an_iteration_is_given_so_much(void **state)
{
    (void)state;
    static uint8_t data[MAX];
    uint64_t seed = 5, skipped = metrics.compress_skipped_total;
    struct slice frame;
    text_make(data, MAX, &seed);
    assert_true(ws_deflate_ready(d));
    int n = 0;
    while (ws_deflate_frame(d, WS_TEXT, slice_of(data, MAX), &frame))
        assert_true(++n < 100);
    assert_true(n > 1 && !ws_deflate_ready(d));
    assert_int_equal(metrics.compress_skipped_total, skipped + 1);
    now_ns++;
    assert_true(ws_deflate_ready(d));
    assert_true(ws_deflate_frame(d, WS_TEXT, slice_of(data, MAX), &frame));
}

static void it_is_small_and_keeps_nothing_large(void **state)
{
    (void)state;
    static uint8_t data[(256 << 10) + 1];
    struct slice frame, out;
    assert_true(mem_buffer_bytes() - held < 64 << 10);
    assert_false(ws_deflate_frame(d, WS_BINARY, slice_of(data, sizeof(data)), &frame));
    assert_true(ws_deflate_frame(d, WS_BINARY, slice_of(data, sizeof(data) - 1), &frame));
    assert_err(inflate_copy(payload_of(frame, WS_BINARY), sizeof(data), &out), ERR_NONE);
    assert_int_equal(out.n, sizeof(data) - 1);
    assert_true(mem_buffer_bytes() - held > 512 << 10);
    ws_deflate_done(d);
    ws_deflate_sent(d);
    assert_true(mem_buffer_bytes() - held < 100 << 10);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(messages_come_back),
        T(what_goes_out_as_it_is),
        T(rows_are_inflated_or_refused),
        T(a_bomb_stops_at_the_bound),
        T(blocks_of_nothing_are_bounded),
        T(an_iteration_is_given_so_much),
        T(it_is_small_and_keeps_nothing_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
