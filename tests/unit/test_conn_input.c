/* net/conn: input, what of it is left, and the turns of connections that wait. */
#include "conn_fixture.h"

static void input_is_given_and_its_rest_comes_again_in_front(void **state)
{
    (void)state;
    proto.input = take_lines;
    say("a;b;c");
    run(3);
    assert_string_equal(proto.seen, "a;b;");
    assert_int_equal(c->saved->len, 1);
    say("d");
    run(2);
    assert_string_equal(proto.seen, "a;b;");
    say("e;");
    run(2);
    assert_string_equal(proto.seen, "a;b;cde;");
    assert_null(c->saved); /* an idle connection holds no buffer */
    assert_int_equal(metrics.received_bytes_total, 8);
}

static void a_paused_connection_is_given_nothing(void **state)
{
    (void)state;
    proto.input = take_line_and_pause;
    say("a;b;c;");
    run(3);
    assert_string_equal(proto.seen, "a;");
    say("d;");
    run(3);
    assert_string_equal(proto.seen, "a;");
    assert_int_equal(c->saved->len, 4); /* what comes meanwhile stays in the kernel */
    for (int i = 0; i < 3; i++) {
        conn_resume(&net, c);
        run(2);
    }
    assert_string_equal(proto.seen, "a;b;c;d;");
    proto.input = take_all;
    conn_resume(&net, c);
    conn_resume(&net, c);
    say("e");
    run(2);
    assert_string_equal(proto.seen, "a;b;c;d;e");
}

static void input_waits_until_its_protocol_is_ready(void **state)
{
    (void)state;
    proto.not_ready = true;
    say("abc");
    run(5);
    assert_int_equal(proto.inputs, 0);
    proto.not_ready = false;
    run(1);
    assert_string_equal(proto.seen, "abc");
}

/* One line an iteration, as a protocol that shares its time does. */
static size_t take_line_or_defer(struct conn *conn, uint8_t *p, size_t n)
{
    static unsigned last;
    if (last == turns_done) {
        conn_defer(&net, conn);
        return 0;
    }
    last = turns_done;
    return take_lines(conn, p, n);
}

static void deferred_input_goes_on_without_new_bytes(void **state)
{
    (void)state;
    static const char *const seen[] = {"a;", "a;b;", "a;b;c;", "a;b;c;d;", "a;b;c;d;"};
    proto.input = take_line_or_defer;
    turns_done = 1000;
    say("a;b;c;d;");
    for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
        run(1);
        assert_string_equal(proto.seen, seen[i]);
    }
    assert_null(c->saved);
}

static size_t pause_without_taking(struct conn *conn, uint8_t *p, size_t n)
{
    (void)p;
    (void)n;
    conn_pause(conn);
    return 0;
}

/* The receive buffer is full of what was not taken: nothing more fits, and that is no end. */
static void a_full_buffer_is_not_taken_for_the_peers_end(void **state)
{
    (void)state;
    static char big[NET_RECEIVE + 1000]; /* zeroes do as well as any */
    int size = 4 * NET_RECEIVE;
    assert_int_equal(setsockopt(peer, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)), 0);
    proto.input = pause_without_taking;
    assert_int_equal(write(peer, big, sizeof(big)), sizeof(big));
    run(3);
    assert_non_null(c->saved);
    assert_int_equal(c->saved->len, NET_RECEIVE);
    for (int i = 0; i < 3; i++) {
        conn_resume(&net, c);
        run(3);
        assert_int_equal(c->state, CONN_OPEN);
        assert_int_equal(c->saved->len, NET_RECEIVE);
    }
    proto.input = take_all;
    conn_resume(&net, c);
    run(4);
    assert_int_equal(metrics.received_bytes_total, sizeof(big));
    assert_null(c->saved);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONN_TEST(input_is_given_and_its_rest_comes_again_in_front),
        CONN_TEST(a_paused_connection_is_given_nothing),
        CONN_TEST(input_waits_until_its_protocol_is_ready),
        CONN_TEST(deferred_input_goes_on_without_new_bytes),
        CONN_TEST(a_full_buffer_is_not_taken_for_the_peers_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
