/* net/conn: writing and its bound, closing, timers, and handles that outlive what they name.
 * Reading: test_conn_input.c. */
#include "conn_fixture.h"

static uint8_t pattern(uint64_t i)
{
    return (uint8_t)(i * 31 + (i >> 8));
}

/* Writes gather; what is written here leaves at once. */
static bool write_now(struct slice a, struct slice b)
{
    bool written = conn_write(&net, c, a, b);
    net_flush(&net);
    return written && c->state == CONN_OPEN;
}

static void a_slow_reader_gets_every_byte_in_order(void **state)
{
    (void)state;
    uint8_t out[700], in[3000];
    uint64_t written = 0, read_ = 0, seed = 5;
    int small = 4096;
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    bool queued = false;
    for (int i = 0; i < 2000; i++) {
        if (conn_queued(c) < SEND_QUEUE - sizeof(out) && unit_random(&seed) % 3) {
            size_t n = unit_random(&seed) % sizeof(out), a = n ? unit_random(&seed) % n : 0;
            for (size_t j = 0; j < n; j++)
                out[j] = pattern(written + j);
            assert_true(write_now(slice_of(out, a), slice_of(out + a, n - a)));
            written += n;
        } else {
            ssize_t n = read(peer, in, 1 + unit_random(&seed) % sizeof(in));
            for (ssize_t j = 0; j < n; j++)
                assert_int_equal(in[j], pattern(read_++));
            run(1);
        }
        queued |= c->queue != NULL;
        assert_int_equal(metrics.queued_bytes, conn_queued(c));
    }
    for (int i = 0; i < 500 && read_ < written; i++) {
        ssize_t n = read(peer, in, sizeof(in));
        for (ssize_t j = 0; j < n; j++)
            assert_int_equal(in[j], pattern(read_++));
        run(1);
    }
    assert_true(queued);
    assert_int_equal(read_, written);
    assert_int_equal(metrics.sent_bytes_total, written);
    assert_null(c->queue);
}

static void a_peer_that_does_not_read_is_closed_at_the_bound(void **state)
{
    (void)state;
    static uint8_t block[1000];
    unsigned n = 0;
    while (write_now(slice_of(block, 7), slice_of(block, sizeof(block) - 7))) {
        assert_true(conn_queued(c) <= SEND_QUEUE + NET_LAST_WORDS);
        assert_true(++n < 2000);
    }
    assert_int_equal(c->state, CONN_CLOSED);
    assert_false(conn_write(&net, c, SLICE("x"), SLICE_NONE));
    assert_int_equal(metrics.queued_bytes, 0);
    run(1);
    assert_int_equal(proto.reason, CLOSE_SEND_QUEUE);
    assert_int_equal(metrics.connections_closed_total[CLOSE_SEND_QUEUE], 1);
}

static void ids_of_closed_connections_resolve_to_null(void **state)
{
    (void)state;
    uint64_t id = conn_id(c);
    struct conn *was = c;
    assert_ptr_equal(conn_get(&net, id), c);
    assert_null(conn_get(&net, id | UINT64_C(1) << 56)); /* another loop's */
    assert_null(conn_get(&net, id + 1));
    assert_null(conn_get(&net, 0));
    conn_close(&net, c, CLOSE_IDLE);
    conn_close(&net, c, CLOSE_PROTOCOL); /* once is enough */
    assert_null(conn_get(&net, id));
    assert_int_equal(proto.closed, 0); /* in the reap step, not within */
    assert_non_null(pool_at(&net.conns, was->slot.index));
    run(1);
    assert_int_equal(proto.closed, 1);
    assert_int_equal(proto.reason, CLOSE_IDLE);
    assert_int_equal(net.conns.in_use, 0);
    assert_string_equal(heard(), "");
    close(peer);
    peer = pair_open(SOCK_STREAM, &c);
    assert_ptr_equal(c, was);
    assert_null(conn_get(&net, id));
    assert_true(conn_id(c) != id && conn_id(c) != 0);
}

static void hold_on_close(struct conn *conn)
{
    conn->holds++;
}

static void a_held_connection_stays_until_it_is_released(void **state)
{
    (void)state;
    c->holds = 2;
    proto.on_closed = hold_on_close;
    conn_close(&net, c, CLOSE_GUEST);
    run(3);
    assert_int_equal(proto.closed, 1);
    for (int holds = 3; holds > 0; holds--) {
        assert_int_equal(net.conns.in_use, 1);
        conn_release(&net, c);
        run(2);
    }
    assert_int_equal(net.conns.in_use, 0);
    assert_int_equal(proto.closed, 1);
}

static void a_close_is_told_again_until_it_is_done(void **state)
{
    (void)state;
    proto.refusals = 3;
    conn_close(&net, c, CLOSE_GUEST);
    for (unsigned i = 1; i <= 4; i++) {
        run(1);
        assert_int_equal(proto.closed, i);
        assert_int_equal(net.conns.in_use, i < 4);
    }
    run(2);
    assert_int_equal(proto.closed, 4);
    assert_int_equal(metrics.connections_closed_total[CLOSE_GUEST], 1);
}

static size_t echo_each_byte(struct conn *conn, uint8_t *p, size_t n)
{
    take_all(conn, p, n);
    for (size_t i = 0; i < n; i++)
        assert_true(conn_write(&net, conn, slice_of(p + i, 1), SLICE("-")));
    return n;
}

static void writes_within_input_leave_together(void **state)
{
    (void)state;
    proto.input = echo_each_byte;
    say("abc");
    run(2);
    assert_string_equal(heard(), "a-b-c-"); /* one packet */
    assert_string_equal(heard(), "");
    assert_true(conn_write(&net, c, SLICE("x"), SLICE_NONE));
    assert_true(conn_write(&net, c, SLICE("y"), SLICE("z")));
    assert_int_equal(conn_queued(c), 3);
    assert_string_equal(heard(), "");
    net_flush(&net);
    assert_int_equal(conn_queued(c), 0);
    assert_string_equal(heard(), "xyz");
}

static size_t write_and_close(struct conn *conn, uint8_t *p, size_t n)
{
    (void)p;
    assert_true(conn_write(&net, conn, SLICE("last "), SLICE("words")));
    conn_close(&net, conn, CLOSE_PROTOCOL);
    assert_false(conn_write(&net, conn, SLICE("too late"), SLICE_NONE));
    return n / 2;
}

static void what_was_written_before_a_close_still_leaves(void **state)
{
    (void)state;
    proto.input = write_and_close;
    say("abcd");
    run(2);
    assert_string_equal(heard(), "last words");
    assert_int_equal(proto.inputs, 1);
    assert_int_equal(proto.closed, 1);
    assert_int_equal(proto.reason, CLOSE_PROTOCOL);
}

static void shutdown_says_no_more_and_waits_for_the_peer(void **state)
{
    (void)state;
    uint64_t id = conn_id(c);
    assert_true(conn_write(&net, c, SLICE("bye"), SLICE_NONE));
    conn_shutdown(&net, c, CLOSE_DONE);
    conn_shutdown(&net, c, CLOSE_IDLE);
    assert_null(conn_get(&net, id));
    assert_false(conn_write(&net, c, SLICE("x"), SLICE_NONE));
    say("dropped");
    run(2);
    assert_string_equal(heard(), "bye");
    assert_int_equal(read(peer, &id, 1), 0);
    assert_int_equal(proto.inputs + proto.closed, 0);
    shutdown(peer, SHUT_WR);
    run_until(gone);
    assert_int_equal(proto.reason, CLOSE_DONE);
    assert_int_equal(proto.inputs, 0);
}

static void shutdown_first_sends_what_is_queued(void **state)
{
    (void)state;
    static uint8_t block[1000];
    size_t got = 0, total = 0;
    while (!c->queue || conn_queued(c) < SEND_QUEUE / 2) {
        assert_true(write_now(slice_of(block, sizeof(block)), SLICE_NONE));
        total += sizeof(block);
    }
    net.limits.linger_ms = 10000;
    conn_shutdown(&net, c, CLOSE_SHUTDOWN);
    ssize_t n;
    for (int i = 0; i < 10000 && (n = read(peer, block, sizeof(block))) != 0; i++) {
        got += n > 0 ? (size_t)n : 0;
        run(1);
    }
    assert_int_equal(got, total);
    assert_int_equal(proto.closed, 0);
    shutdown(peer, SHUT_WR);
    run_until(gone);
}

static void a_peer_that_does_not_end_is_cut_after_the_linger_time(void **state)
{
    (void)state;
    uint64_t before = sys_now_ns();
    run(1);
    conn_shutdown(&net, c, CLOSE_DONE);
    run_until(gone);
    assert_true(sys_now_ns() - before >= LINGER_MS * UINT64_C(1000000));
    assert_int_equal(proto.timeouts, 0);
}

static bool timed_out(void)
{
    return proto.timeouts > 0;
}

static void timers_fire_once_and_can_be_moved_and_cancelled(void **state)
{
    (void)state;
    run(1);
    uint64_t before = sys_now_ns();
    conn_timer(&net, c, 4);
    conn_timer(&net, c, 20);
    run_until(timed_out);
    assert_true(sys_now_ns() - before >= 20 * UINT64_C(1000000));
    assert_int_equal(proto.timeouts, 1);
    conn_timer(&net, c, 4);
    conn_timer(&net, c, 0);
    assert_false(timer_is_set(&c->timer));
    conn_timer(&net, c, 4);
    conn_close(&net, c, CLOSE_IDLE);
    assert_false(timer_is_set(&c->timer));
}

static void the_peers_end_and_reset_are_told_apart(void **state)
{
    (void)state;
    close(peer);
    run_until(gone);
    assert_int_equal(proto.reason, CLOSE_PEER);
    peer = pair_open(SOCK_STREAM, &c);
    proto.closed = 0;
    assert_true(write_now(SLICE("unread"), SLICE_NONE));
    close(peer); /* with unread bytes: a reset */
    run_until(gone);
    assert_int_equal(proto.reason, CLOSE_PEER_RESET);
    peer = pair_open(SOCK_STREAM, &c);
    proto.closed = 0;
    close(peer);
    peer = -1;
    assert_false(write_now(SLICE("x"), SLICE_NONE)); /* seen by writing */
    run_until(gone);
    assert_int_equal(proto.reason, CLOSE_PEER_RESET);
}

/* `printf request | nc`: the peer says no more, but what it asked for is still answered. */
static void after_the_peers_half_close_it_is_still_answered(void **state)
{
    (void)state;
    proto.input = take_line_and_pause;
    say("a;");
    shutdown(peer, SHUT_WR);
    run(5);
    assert_string_equal(proto.seen, "a;");
    assert_int_equal(proto.closed, 0);
    assert_true(conn_write(&net, c, SLICE("answer"), SLICE_NONE));
    conn_resume(&net, c);
    run_until(gone);
    assert_string_equal(heard(), "answer");
    assert_int_equal(proto.reason, CLOSE_PEER);
}

static void what_a_half_closed_peer_is_owed_is_done_first(void **state)
{
    (void)state;
    static uint8_t block[1000];
    while (!c->queue)
        assert_true(write_now(slice_of(block, sizeof(block)), SLICE_NONE));
    c->holds = 1;
    shutdown(peer, SHUT_WR);
    run(5);
    assert_int_equal(c->state, CONN_OPEN);
    for (int i = 0; i < 1000 && read(peer, block, sizeof(block)); i++)
        run(1);
    assert_int_equal(proto.closed, 0); /* the event that holds it may still answer */
    assert_true(conn_write(&net, c, SLICE("answer"), SLICE_NONE));
    conn_release(&net, c);
    run_until(gone);
    assert_string_equal(heard(), "answer");
}

static void past_the_limit_a_connection_is_refused(void **state)
{
    (void)state;
    int peers[CONNECTIONS];
    struct conn *more;
    char byte;
    for (int i = 1; i < CONNECTIONS; i++) {
        peers[i] = pair_open(SOCK_STREAM, &more);
        assert_non_null(more);
    }
    peers[0] = pair_open(SOCK_STREAM, &more);
    assert_null(more);
    assert_int_equal(read(peers[0], &byte, 1), 0); /* its descriptor was closed */
    assert_int_equal(metrics.connections_active, CONNECTIONS);
    for (int i = 0; i < CONNECTIONS; i++)
        close(peers[i]);
    run(3);
    assert_int_equal(proto.closed, CONNECTIONS - 1);
}

static struct conn *other;
static size_t close_both(struct conn *conn, uint8_t *p, size_t n)
{
    (void)p;
    conn_close(&net, other, CLOSE_GUEST);
    conn_close(&net, conn, CLOSE_GUEST);
    return n;
}

/* Its event is in the same batch, and it may be in the list of those that go on. */
static void closing_another_connection_within_input_is_safe(void **state)
{
    (void)state;
    for (int order = 0; order < 2; order++) {
        int second = pair_open(SOCK_STREAM, &other);
        assert_non_null(other);
        proto.input = take_line_and_pause;
        assert_int_equal(write(second, "a;b;", 4), 4);
        run(2);
        proto.input = close_both;
        say("x");
        assert_int_equal(write(second, "y", 1), 1);
        if (order)
            conn_resume(&net, other);
        run(4);
        assert_int_equal(net.conns.in_use, 0);
        assert_int_equal(proto.closed, 2);
        proto.closed = 0;
        close(second);
        close(peer);
        peer = pair_open(SOCK_STREAM, &c);
    }
}

/* Fills the queue to at least n bytes; the socket's own buffer is full then. */
static void fill_queue(uint32_t n)
{
    static uint8_t block[1000];
    int small = 4096;
    assert_int_equal(setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
    while (conn_queued(c) < n)
        assert_true(write_now(slice_of(block, sizeof(block)), SLICE_NONE));
}

static bool a_quarter_is_left(void)
{
    return conn_queued(c) <= SEND_QUEUE / 4;
}

static bool drained_fully(void)
{
    return conn_queued(c) == 0;
}

/* The peer reads until that is so. */
static void read_until(bool (*so)(void))
{
    uint8_t in[500];
    for (int i = 0; i < 1000 && !so(); i++) {
        while (!so() && read(peer, in, sizeof(in)) > 0)
            run(1);
        run(1);
    }
    assert_true(so());
}

static void drained_is_told_once_at_a_quarter(void **state)
{
    (void)state;
    fill_queue(SEND_QUEUE / 2 + 1);
    read_until(a_quarter_is_left);
    assert_int_equal(proto.drains, 0); /* nobody watches */
    for (unsigned i = 1; i <= 3; i++) {
        fill_queue(SEND_QUEUE / 2 + 1);
        conn_watch(c);
        conn_watch(c);
        run(2);
        assert_int_equal(proto.drains, i - 1);
        uint8_t in[500];
        while (!a_quarter_is_left()) {
            assert_int_equal(proto.drains, i - 1);
            if (read(peer, in, sizeof(in)) <= 0)
                run(1);
        }
        assert_int_equal(proto.drains, i);
        assert_false(c->watched);
    }
    read_until(drained_fully);
    assert_int_equal(proto.drains, 3);
}

static void a_connection_that_ended_is_not_drained(void **state)
{
    (void)state;
    fill_queue(SEND_QUEUE / 2 + 1);
    conn_watch(c);
    conn_shutdown(&net, c, CLOSE_SHUTDOWN);
    uint8_t in[500];
    for (int i = 0; i < 200 && !gone(); i++) {
        while (read(peer, in, sizeof(in)) > 0)
            ;
        run(1);
    }
    assert_int_equal(proto.drains, 0);
}

/* What has gathered counts as queued; it may all fit the socket. */
static void what_gathered_and_left_is_drained_too(void **state)
{
    (void)state;
    static uint8_t block[1000];
    for (uint32_t n = 0; n <= SEND_QUEUE / 2; n += (uint32_t)sizeof(block))
        assert_true(conn_write(&net, c, slice_of(block, sizeof(block)), SLICE_NONE));
    if (conn_queued(c) <= SEND_QUEUE / 4)
        fail_msg("%u bytes gathered: too few for this test", conn_queued(c));
    conn_watch(c);
    assert_int_equal(proto.drains, 0);
    net_flush(&net);
    assert_int_equal(conn_queued(c), 0);
    assert_int_equal(proto.drains, 1);
}

/* As another process would: the same socket, in a pool of its own. */
static void a_connection_is_given_up_and_taken_over(void **state)
{
    (void)state;
    uint64_t id = conn_id(c);
    int fd = dup(c->fd);
    say("unread");
    conn_give_up(&net, c);
    run(3);
    assert_null(conn_get(&net, id));
    assert_int_equal(proto.closed, 0); /* nobody is told, */
    assert_int_equal(proto.inputs, 0); /* and nothing was read */
    pool_done(&net.conns);
    c = conn_adopt(&net, fd, 1, id, &(struct conn_rest){SLICE("saved "), SLICE("queued"), 6});
    assert_non_null(c);
    pool_settle(&net.conns, 0);
    assert_true(conn_id(c) == id && conn_get(&net, id) == c);
    assert_int_equal(metrics.queued_bytes, strlen("queued"));
    run(3);
    assert_string_equal(proto.seen, "saved unread");
    assert_string_equal(heard(), "queued");
    assert_int_equal(metrics.queued_bytes, 0);
    const struct conn_rest none = {.begun = 0};
    assert_null(conn_adopt(&net, dup(peer), 1, id, &none));              /* twice */
    assert_null(conn_adopt(&net, dup(peer), 1, id | 1ull << 56, &none)); /* another loop's */
    say(" and more");
    run(3);
    assert_string_equal(proto.seen, "saved unread and more");
}

/* Of loops 1, 3 and 5 where there are loops 0 and 1 now, and of loop 1 itself. */
static void ids_stay_where_there_are_fewer_loops(void **state)
{
    (void)state;
    static const uint64_t ids[] = {1ull << 56 | 1ull << 32 | 7, 3ull << 56 | 1ull << 32 | 7,
                                   5ull << 56 | 3ull << 32 | 9, 3ull << 56 | 5,
                                   1ull << 56 | 4ull << 32 | 3};
    const struct conn_rest none = {.begun = 0};
    struct conn *conns[ARRAY_LEN(ids)];
    int fd = dup(c->fd);
    conn_give_up(&net, c);
    run(3);
    pool_done(&net.conns);
    thread_number = 1;
    conn_homes = (struct conn_homes){2, 4, 12};
    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        conns[i] = conn_adopt(&net, dup(fd), 1, ids[i], &none);
        assert_non_null(conns[i]);
        assert_true(conn_id(conns[i]) == ids[i]);
        for (size_t j = 0; j <= i; j++)
            assert_ptr_equal(conn_get(&net, ids[j]), conns[j]);
        assert_null(conn_adopt(&net, dup(fd), 1, ids[i], &none));
    }
    static const uint64_t others[] = {
        1ull << 32 | 7 /* of loop 0 */, 2ull << 56 | 1ull << 32 | 7, 7ull << 56 | 1ull << 32 | 7,
        3ull << 56 | 4ull << 32 | 7 /* beyond its slots */, 255ull << 56 | 1ull << 32 | 7};
    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        assert_null(conn_get(&net, others[i]));
        assert_null(conn_adopt(&net, dup(fd), 1, others[i], &none));
    }
    pool_settle(&net.conns, 20);
    for (uint32_t i = 0; i < CONNECTIONS - ARRAY_LEN(ids); i++) {
        struct conn *more = conn_open(&net, dup(fd), 1);
        assert_non_null(more);
        assert_true(conn_id(more) % (1ull << 32) == 21 && conn_get(&net, conn_id(more)) == more);
    }
    thread_number = 0;
    conn_homes = (struct conn_homes){1, UINT32_MAX, UINT32_MAX};
    close(fd);
    c = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CONN_TEST(ids_stay_where_there_are_fewer_loops),
        CONN_TEST(a_slow_reader_gets_every_byte_in_order),
        CONN_TEST(a_peer_that_does_not_read_is_closed_at_the_bound),
        CONN_TEST(ids_of_closed_connections_resolve_to_null),
        CONN_TEST(a_held_connection_stays_until_it_is_released),
        CONN_TEST(a_close_is_told_again_until_it_is_done),
        cmocka_unit_test_setup_teardown(writes_within_input_leave_together, setup_packets,
                                        teardown),
        CONN_TEST(what_was_written_before_a_close_still_leaves),
        CONN_TEST(shutdown_says_no_more_and_waits_for_the_peer),
        CONN_TEST(shutdown_first_sends_what_is_queued),
        CONN_TEST(a_peer_that_does_not_end_is_cut_after_the_linger_time),
        CONN_TEST(timers_fire_once_and_can_be_moved_and_cancelled),
        CONN_TEST(the_peers_end_and_reset_are_told_apart),
        CONN_TEST(after_the_peers_half_close_it_is_still_answered),
        CONN_TEST(what_a_half_closed_peer_is_owed_is_done_first),
        CONN_TEST(past_the_limit_a_connection_is_refused),
        CONN_TEST(closing_another_connection_within_input_is_safe),
        CONN_TEST(drained_is_told_once_at_a_quarter),
        CONN_TEST(a_connection_that_ended_is_not_drained),
        CONN_TEST(what_gathered_and_left_is_drained_too),
        CONN_TEST(a_connection_is_given_up_and_taken_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
