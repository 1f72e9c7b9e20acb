/* net/sendq: bytes leave in order whatever a socket takes of them, frames are dropped whole, and a
 * shared frame is there once. */
#include "unit.h"

#include "base/metrics.h"
#include "net/sendq.h"
#include "ws/ws_frame.h"

static struct sendqs all;
static struct sendq *q;

static int setup(void **state)
{
    (void)state;
    sendqs_init(&all);
    q = sendq_new(&all, NULL);
    return q ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    sendq_check(q, NULL);
    sendq_free(&all, q);
    return all.memory || mem_buffer_bytes() || metrics.queued_bytes || sendqs_largest(&all) ? -1
                                                                                            : 0;
}

/* A frame of n bytes of data, which tell its number. */
static size_t frame_at(uint8_t *out, unsigned number, size_t n, bool control)
{
    size_t head = ws_frame_header(out, control ? WS_PONG : WS_BINARY, true, n);
    memset(out + head, (int)number, n);
    return head + n;
}

enum { FRAME_ROOM = 70000 };
static uint8_t scratch[FRAME_ROOM];

/* All that waits, sent at once. */
static size_t take(uint8_t *out)
{
    struct slice v[4];
    size_t n = 0;
    while (q->bytes) {
        unsigned parts = sendq_parts(q, v, 4);
        assert_true(parts > 0);
        size_t now = 0;
        for (unsigned i = 0; i < parts; i++) {
            slice_copy(out + n + now, v[i]);
            now += v[i].n;
        }
        sendq_sent(&all, q, now);
        n += now;
    }
    return n;
}

/* The numbers of the whole frames in p. */
static unsigned numbers(const uint8_t *p, size_t n, unsigned *out)
{
    unsigned count = 0;
    while (n) {
        bool data;
        size_t size = ws_frame_length(p, &data);
        assert_true(size <= n);
        out[count++] = p[size - 1];
        p += size;
        n -= size;
    }
    return count;
}

static void put_own(unsigned number, size_t n, bool control)
{
    size_t size = frame_at(scratch, number, n, control);
    assert_err(sendq_append(&all, q, slice_of(scratch, size), SLICE_NONE, 0, ws_frame_length),
               ERR_NONE);
}

static void put_shared(unsigned number, size_t n)
{
    struct frame *f = frame_new(slice_of(scratch, frame_at(scratch, number, n, false)), SLICE_NONE);
    assert_non_null(f);
    assert_err(sendq_push(&all, q, f, 0), ERR_NONE);
    frame_release(f);
}

/* Own and shared ones, small and large, in every header size. */
static const size_t sizes[] = {1, 5, 100, 126, 300, 1, 40, 9000, 70, 1};
static void fill(void)
{
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++)
        if (i % 3 == 2)
            put_shared(i, sizes[i]);
        else
            put_own(i, sizes[i], false);
}

static void lengths_of_frames(void **state)
{
    (void)state;
    static const size_t most[] = {0, 1, 125, 126, 65535, 65536, FRAME_ROOM - WS_HEADER_MAX};
    for (size_t i = 0; i < ARRAY_LEN(most); i++) {
        bool data = false;
        size_t n = frame_at(scratch, 1, most[i], false);
        assert_int_equal(ws_frame_length(scratch, &data), n);
        assert_true(data);
    }
    bool data = true;
    size_t n = frame_at(scratch, 1, 9, true);
    assert_int_equal(ws_frame_length(scratch, &data), n);
    assert_false(data);
}

/* Sends whatever offset of it first, then drops all that it may. */
static void cut_at_every_offset(void **state)
{
    (void)state;
    static uint8_t whole[20000], got[20000];
    unsigned want[ARRAY_LEN(sizes)];
    fill();
    size_t total = take(whole);
    unsigned all_of_them = numbers(whole, total, want);
    assert_int_equal(all_of_them, ARRAY_LEN(sizes));
    for (size_t sent = 0; sent <= total; sent++) {
        fill();
        sendq_sent(&all, q, sent);
        uint32_t dropped = sendq_cut(&all, q, ws_frame_length);
        sendq_check(q, ws_frame_length);
        /* what was dropped is given back: the ring, a part and what it may be too large by stay */
        assert_true(all.memory < sizeof(*q) + 32 * sizeof(void *) + q->bytes + 128);
        memcpy(got, whole, sent);
        size_t n = sent + take(got + sent);
        assert_memory_equal(got, whole, n);
        assert_int_equal(numbers(got, n, want) + dropped, ARRAY_LEN(sizes)); /* no part of one */
        assert_true(n - sent < 9000 + WS_HEADER_MAX);
        assert_int_equal(metrics.queued_bytes, 0);
    }
}

/* Of a write that was taken in part, the rest waits: nothing of the frame that began is dropped. */
static void a_write_cut_short_at_every_offset(void **state)
{
    (void)state;
    uint8_t two[64], got[64];
    size_t first = frame_at(two, 1, 20, false), n = first + frame_at(two + first, 2, 30, false);
    for (size_t sent = 1; sent < n; sent++)
        for (size_t split = first; split <= n; split++) {
            assert_err(
                sendq_append(&all, q, slice_of(two, MAX(split, first + 2)),
                             slice_of(two + MAX(split, first + 2), n - MAX(split, first + 2)), sent,
                             ws_frame_length),
                ERR_NONE);
            put_own(3, 7, false);
            uint32_t dropped = sendq_drop(&all, q, ws_frame_length, UINT32_MAX, true);
            size_t left = take(got);
            assert_int_equal(dropped, sent <= first ? 2 : 1);
            assert_int_equal(left, sent <= first ? first - sent : n - sent);
            assert_memory_equal(got, two + sent, left);
        }
}

static void a_shared_frame_cut_short_at_every_offset(void **state)
{
    (void)state;
    uint8_t got[200];
    size_t n = frame_at(scratch, 9, 100, false);
    struct frame *f = frame_new(slice_of(scratch, n), SLICE_NONE);
    for (size_t sent = 1; sent < n; sent++) {
        assert_err(sendq_push(&all, q, f, sent), ERR_NONE);
        put_own(3, 7, false);
        assert_int_equal(sendq_drop(&all, q, ws_frame_length, UINT32_MAX, true), 1);
        size_t left = take(got);
        assert_int_equal(left, n - sent);
        assert_memory_equal(got, f->bytes + sent, left);
    }
    assert_int_equal(f->refs, 1);
    assert_int_equal(f->queued, 0);
    frame_release(f);
}

/* The oldest go, the newest stay, and what controls the connection stays where it was. */
static void the_oldest_are_dropped(void **state)
{
    (void)state;
    static uint8_t got[20000];
    unsigned want[64], n = 0, kept[64];
    uint64_t seed = 11;
    for (int round = 0; round < 500; round++) {
        uint32_t total = 0, gone = 0, size[32];
        bool control[32];
        unsigned count = 1 + unit_random(&seed) % 31;
        for (unsigned i = 0; i < count; i++) {
            size_t data = 1 + unit_random(&seed) % 120;
            control[i] = unit_random(&seed) % 4 == 0;
            size[i] = (uint32_t)frame_at(scratch, i, data, control[i]);
            total += size[i];
            if (control[i] || unit_random(&seed) % 2)
                put_own(i, data, control[i]);
            else
                put_shared(i, data);
        }
        assert_int_equal(q->bytes, total);
        uint32_t sent = unit_random(&seed) % total, least = unit_random(&seed) % total;
        sendq_sent(&all, q, sent);
        uint32_t dropped = sendq_drop(&all, q, ws_frame_length, least, false);
        sendq_check(q, ws_frame_length);
        n = 0;
        for (unsigned i = 0, at = 0; i < count; at += size[i++]) {
            bool goes = at >= sent && !control[i] && gone < least;
            gone += goes ? size[i] : 0;
            dropped -= goes;
            if (at >= sent && !goes)
                want[n++] = i;
        }
        assert_int_equal(dropped, 0);
        /* behind the rest of what has begun */
        size_t left = take(got), begun = 0;
        for (unsigned i = 0, at = 0; i < count; at += size[i++])
            if (at < sent && at + size[i] > sent)
                begun = at + size[i] - sent;
        assert_int_equal(numbers(got + begun, left - begun, kept), n);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(kept[i], want[i]);
    }
}

static void what_is_no_frame_is_not_dropped(void **state)
{
    (void)state;
    uint8_t got[200];
    assert_err(sendq_append(&all, q, SLICE("HTTP/1.1 101 "), SLICE("Switching"), 0, NULL),
               ERR_NONE);
    put_own(1, 10, false);
    assert_err(sendq_append(&all, q, SLICE("more"), SLICE_NONE, 0, NULL), ERR_NONE);
    put_own(2, 10, false);
    assert_int_equal(sendq_drop(&all, q, ws_frame_length, UINT32_MAX, true), 2);
    size_t n = take(got);
    assert_int_equal(n, 26);
    assert_memory_equal(got, "HTTP/1.1 101 Switchingmore", n);
}

static void a_shared_frame_is_there_once(void **state)
{
    (void)state;
    enum { QUEUES = 1000, BYTES = 10000 };
    static struct sendq *many[QUEUES];
    struct frame *f = frame_new(slice_of(scratch, frame_at(scratch, 1, BYTES, false)), SLICE_NONE);
    for (int i = 0; i < QUEUES; i++) {
        many[i] = sendq_new(&all, NULL);
        assert_non_null(many[i]);
        assert_err(sendq_push(&all, many[i], f, 0), ERR_NONE);
    }
    frame_release(f);
    assert_int_equal(metrics.queued_bytes, QUEUES * (BYTES + 4));
    assert_true(all.memory < BYTES + 100 + (QUEUES + 1) * sizeof(struct sendq));
    assert_int_equal(all.memory, mem_buffer_bytes());
    for (int i = 0; i < QUEUES; i++) {
        if (i % 2)
            sendq_sent(&all, many[i], many[i]->bytes);
        sendq_free(&all, many[i]);
    }
    assert_int_equal(all.memory, sizeof(struct sendq));
}

/* Also where own ones and shared ones take turns. */
static void small_frames_cost_little_more_than_their_bytes(void **state)
{
    (void)state;
    enum { FRAMES = 20000 };
    for (int i = 0; i < FRAMES; i++)
        put_own(1, (size_t)(i % 60), false);
    assert_true(all.memory < q->bytes + q->bytes / 4);
    teardown(NULL);
    setup(NULL);
    struct frame *f = frame_new(slice_of(scratch, frame_at(scratch, 1, 2, false)), SLICE_NONE);
    for (int i = 0; i < FRAMES; i++) {
        assert_err(sendq_push(&all, q, f, 0), ERR_NONE);
        put_own(1, 2, false);
    }
    frame_release(f);
    assert_true(all.memory < 2 * FRAMES * 4 * sizeof(void *) + FRAMES * (sizeof(*f) + 64));
}

static void the_largest_is_known(void **state)
{
    (void)state;
    struct sendq *other = sendq_new(&all, NULL);
    assert_non_null(other);
    put_own(1, 5000, false);
    assert_ptr_equal(sendqs_largest(&all), q);
    sendq_sent(&all, q, 5000);
    assert_int_equal(q->bytes, 4);
    assert_ptr_equal(sendqs_largest(&all), q);
    sendq_sent(&all, q, 4);
    sendq_free(&all, q);
    q = sendq_new(&all, NULL);
    assert_non_null(q);
    sendq_free(&all, q);
    assert_ptr_equal(sendqs_largest(&all), other);
    q = other;
    other = sendq_new(&all, NULL);
    assert_non_null(other);
    sendq_free(&all, other);
    assert_ptr_equal(sendqs_largest(&all), q);
}

static void what_is_below_counts_for_the_rank(void **state)
{
    (void)state;
    struct sendq *plain = q;
    put_own(1, 5000, false);
    q = sendq_new(&all, NULL);
    assert_non_null(q);
    put_own(2, 10, false);
    uint64_t waits = metrics.queued_bytes;
    assert_ptr_equal(sendqs_largest(&all), plain);
    sendq_below(&all, q, 20000);
    assert_ptr_equal(sendqs_largest(&all), q);
    sendq_below(&all, q, 100);
    assert_ptr_equal(sendqs_largest(&all), plain);
    sendq_below(&all, q, 20000);
    assert_int_equal(metrics.queued_bytes, waits);
    sendq_free(&all, q);
    q = plain;
    assert_ptr_equal(sendqs_largest(&all), q);
}

#define SENDQ_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SENDQ_TEST(lengths_of_frames),
        SENDQ_TEST(cut_at_every_offset),
        SENDQ_TEST(a_write_cut_short_at_every_offset),
        SENDQ_TEST(a_shared_frame_cut_short_at_every_offset),
        SENDQ_TEST(the_oldest_are_dropped),
        SENDQ_TEST(what_is_no_frame_is_not_dropped),
        SENDQ_TEST(a_shared_frame_is_there_once),
        SENDQ_TEST(small_frames_cost_little_more_than_their_bytes),
        SENDQ_TEST(what_is_below_counts_for_the_rank),
        SENDQ_TEST(the_largest_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
