/* ws/ws_beat: heartbeats under a clock of the test's own, over real socket pairs. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ws/ws_beat.h"

enum { PROTO = 2, CONNS = 1000, INTERVAL = 15000, TIMEOUT = 10000, EVICT = 25000, RATE = 10 };

static struct loop loop;
static struct net net;
static struct ws_server server;
static struct conn *c;
static int peer;
static unsigned messages;
static enum conn_ready may;
static bool stop_reading; /* the guest is busy */
static bool blind;        /* the poller's words do not come through, as if others had many */

static enum conn_ready ready(void *owner, struct conn *conn)
{
    (void)owner, (void)conn;
    return may;
}

static void message(void *owner, struct conn *conn, enum ws_opcode kind, struct slice data)
{
    (void)owner, (void)kind, (void)data;
    messages++;
    if (stop_reading)
        conn_pause(conn);
}

static bool closed(void *owner, struct conn *conn)
{
    (void)owner, (void)conn;
    return true;
}

/* One iteration, as loop_run's, ms later. */
static void iterate(uint64_t ms)
{
    struct sys_event events[SYS_EVENTS_MAX];
    loop.now_ms += ms;
    wheel_clock(&loop.wheel, loop.now_ms);
    int n = blind ? 0 : sys_poller_wait(loop.poller, events, 0);
    for (int i = 0; i < n; i++)
        loop.handlers[events[i].data >> 56].ready(&net, (uint32_t)(events[i].data >> 32) & 0xffffff,
                                                  (uint32_t)events[i].data, events[i].ready);
    loop_timers(&loop);
    for (unsigned i = 0; i < loop.n_phases; i++)
        loop.phases[i].run(loop.phases[i].arg);
    conn_check(&net);
    for (uint32_t i = 0; i < net.conns.count; i++) {
        const struct conn *each = pool_at(&net.conns, i);
        if (each && each->state == CONN_OPEN)
            ws_beat_check(&server, each);
    }
}

static void pass(uint64_t ms)
{
    for (; ms; ms -= MIN(ms, WHEEL_TICK_MS))
        iterate(MIN(ms, WHEEL_TICK_MS));
}

static int open_one(struct conn **out)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    *out = conn_open(&net, fds[0], PROTO);
    ws_conn_start(&server, *out, PROTO, false);
    return fds[1];
}

static int start_with(uint64_t interval_ms)
{
    const struct net_limits limits = {
        .connections = CONNS, .linger_ms = 1000, .send_ms = 1000000, .queues = 1 << 20};
    memset(&net, 0, sizeof(net));
    memset(&metrics, 0, sizeof(metrics));
    if (loop_init(&loop) || net_init(&net, &loop, &limits))
        return -1;
    net_phase_reap(&net);
    messages = 0;
    may = CONN_TURN;
    stop_reading = blind = false;
    server = (struct ws_server){.message_max = 65536,
                                .queue_max = 4096,
                                .close_timeout_ms = 2000,
                                .message_timeout_ms = 60000,
                                .beat = {interval_ms, TIMEOUT, EVICT, RATE},
                                .ready = ready,
                                .message = message,
                                .closed = closed};
    ws_server_init(&server, &net, PROTO);
    peer = open_one(&c);
    return peer < 0 ? -1 : 0;
}

static int setup(void **state)
{
    (void)state;
    return start_with(INTERVAL);
}

static int setup_off(void **state)
{
    (void)state;
    return start_with(0);
}

static int teardown(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < net.conns.count; i++) {
        struct conn *each = pool_at(&net.conns, i);
        if (each)
            conn_close(&net, each, CLOSE_SHUTDOWN);
    }
    pass(1000); /* one that is held is found at the end of that */
    bool clean = !net.conns.in_use && !metrics.heartbeat_suspects && !metrics.heartbeat_demoted;
    net_done(&net);
    loop_done(&loop);
    close(peer);
    return clean ? 0 : -1;
}

/* The next frame of the server's: its opcode, -1: none, -2: the end. */
static int frame_take(int fd, uint8_t payload[126])
{
    uint8_t head[2];
    ssize_t n = read(fd, head, 2);
    if (n != 2)
        return n == 0 ? -2 : -1;
    assert_true(head[1] < 126);
    assert_int_equal(read(fd, payload, head[1]), head[1]);
    payload[head[1]] = 0;
    return head[0] & 15;
}

static void frame_send(int fd, uint8_t opcode, const void *payload, uint8_t n)
{
    uint8_t frame[6 + 125] = {0x80 | opcode, 0x80 | n}; /* a mask of zeroes */
    memcpy(frame + 6, payload, n);
    assert_int_equal(write(fd, frame, 6 + n), 6 + n);
}

static void say(const char *text)
{
    frame_send(peer, WS_TEXT, text, (uint8_t)strlen(text));
}

/* Until a ping comes, for ms at most; false: none came. */
static bool ping_await(uint8_t payload[126], uint64_t ms)
{
    for (uint64_t gone = 0; gone < ms; gone += WHEEL_TICK_MS) {
        iterate(WHEEL_TICK_MS);
        int got = frame_take(peer, payload);
        if (got == WS_PING)
            return true;
        assert_int_equal(got, -1);
    }
    return false;
}

static uint64_t since_heard_ms(void)
{
    return (uint64_t)(loop.wheel.clock - c->heard) * WHEEL_TICK_MS;
}

static void evicted(uint64_t sent)
{
    uint8_t payload[126];
    assert_int_equal(frame_take(peer, payload), WS_CLOSE);
    assert_int_equal(payload[0] << 8 | payload[1], 4001);
    assert_string_equal((char *)payload + 2, "HEARTBEAT_TIMEOUT");
    assert_int_equal(
        metrics.heartbeat_evicted_silent_total + metrics.heartbeat_evicted_missed_total, sent);
    pass(server.close_timeout_ms + 50);
    assert_int_equal(net.conns.in_use, 0); /* it did not answer that either */
    assert_int_equal(metrics.connections_closed_total[CLOSE_HEARTBEAT_TIMEOUT], 1);
}

static void who_answers_stays(void **state)
{
    (void)state;
    uint8_t payload[126], before[126] = {0};
    for (unsigned i = 0; i < 40; i++) {
        assert_true(ping_await(payload, INTERVAL + 50));
        assert_memory_not_equal(payload, before, 8);
        memcpy(before, payload, 8);
        frame_send(peer, WS_PONG, payload, 8);
        pass(100);
        assert_int_equal(c->beat, 0);
        assert_true(since_heard_ms() < 150);
    }
    assert_int_equal(metrics.heartbeat_pings_total, 40);
    assert_int_equal(metrics.heartbeat_pongs_total, 40);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
}

static void who_is_silent_is_evicted_in_time(void **state)
{
    (void)state;
    uint8_t payload[126];
    int others[8];
    for (unsigned i = 0; i < 8; i++) /* wherever their places are */
        others[i] = open_one(&(struct conn *){NULL});
    pass(EVICT - 20);
    assert_int_equal(metrics.heartbeat_evicted_silent_total, 0);
    pass(200);
    assert_int_equal(metrics.heartbeat_evicted_silent_total, 9);
    for (unsigned i = 0; i < 8; i++)
        close(others[i]);
    while (frame_take(peer, payload) == WS_PING)
        continue;
    assert_int_equal(payload[0] << 8 | payload[1], 4001);
    pass(server.close_timeout_ms + 50);
    assert_int_equal(net.conns.in_use, 0);
}

/* Talks each second, and never answers. */
static void who_talks_is_demoted_then_evicted(void **state)
{
    (void)state;
    uint8_t payload[126];
    unsigned pings = 0;
    uint64_t first = 0, demoted = 0, end = 0;
    for (uint64_t gone = 0; !end && gone < 60000; gone += WHEEL_TICK_MS) {
        iterate(WHEEL_TICK_MS);
        if (gone % 1000 == 0)
            say("x");
        int got = metrics.heartbeat_evicted_missed_total ? -1 : frame_take(peer, payload);
        pings += got == WS_PING;
        first = first ? first : got == WS_PING ? gone : 0;
        if (metrics.heartbeat_demoted && !demoted)
            demoted = gone;
        if (metrics.heartbeat_evicted_missed_total)
            end = gone;
    }
    assert_int_equal(pings, 2);
    assert_in_range(demoted - first, TIMEOUT, TIMEOUT + 200);
    assert_in_range(end - first, INTERVAL + TIMEOUT, INTERVAL + 2 * TIMEOUT);
    assert_int_equal(metrics.heartbeat_misses_total, 2);
    evicted(1);
}

/* After its first miss, while it talks. */
static void demote(uint8_t payload[126])
{
    assert_true(ping_await(payload, INTERVAL + 50));
    say("still here");
    pass(TIMEOUT + 300);
    assert_int_equal(metrics.heartbeat_demoted, 1);
    assert_int_equal(metrics.heartbeat_suspects, 1);
}

static void who_is_demoted_has_few_messages_until_its_pong(void **state)
{
    (void)state;
    uint8_t payload[126];
    demote(payload);
    messages = 0;
    for (unsigned i = 0; i < 100; i++)
        say("x");
    pass(1000);
    assert_in_range(messages, RATE - 2, RATE + 1);
    frame_send(peer, WS_PONG, payload, 8); /* late, behind the rest, but its pong */
    while (metrics.heartbeat_demoted && loop.now_ms)
        pass(100);
    assert_int_equal(metrics.heartbeat_suspects, 0);
    assert_int_equal(messages, 100);
    assert_int_equal(metrics.heartbeat_evicted_missed_total, 0);
    for (unsigned i = 0; i < 100; i++)
        say("x");
    pass(20);
    assert_int_equal(messages, 200);
}

/* Held or not, others come first. */
static void who_is_demoted_is_served_after_others(void **state)
{
    (void)state;
    uint8_t payload[126];
    struct conn *other;
    demote(payload);
    int second = open_one(&other);
    say("x");
    pass(8); /* it is held */
    assert_int_equal(net.held.head, c->slot.index);
    may = CONN_NO_ROOM;
    frame_send(second, WS_TEXT, "x", 1);
    pass(1000 / RATE + 20);
    assert_int_equal(net.waiting.head, other->slot.index);
    assert_int_equal(net.waiting.tail, c->slot.index);
    close(second);
}

static void a_second_pong_counts_too(void **state)
{
    (void)state;
    uint8_t first[126], second[126];
    demote(first);
    assert_true(ping_await(second, INTERVAL));
    assert_memory_not_equal(first, second, 8);
    frame_send(peer, WS_PONG, second, 8);
    pass(200);
    assert_int_equal(c->beat, 0);
    frame_send(peer, WS_PONG, first, 8); /* of no ping any more */
    pass(20);
    assert_int_equal(metrics.heartbeat_pongs_total, 1);
    assert_int_equal(metrics.heartbeat_pongs_other_total, 1);
}

static void other_pongs_do_not_count(void **state)
{
    (void)state;
    uint8_t payload[126];
    frame_send(peer, WS_PONG, "", 0); /* before any ping */
    assert_true(ping_await(payload, INTERVAL + 50));
    uint32_t heard = c->heard;
    frame_send(peer, WS_PONG, "12345678", 8);
    frame_send(peer, WS_PONG, payload, 7);
    frame_send(peer, WS_PONG, payload, 9);
    frame_send(peer, WS_PING, "mine", 4);
    pass(20);
    assert_int_equal(c->heard, heard);
    assert_int_equal(metrics.heartbeat_pongs_other_total, 4);
    assert_true(c->beat & WS_PINGED);
}

static void the_pong_of_another_connection_does_not_count(void **state)
{
    (void)state;
    uint8_t payload[126];
    struct conn *other;
    int second = open_one(&other);
    assert_true(ping_await(payload, INTERVAL + 50));
    frame_send(second, WS_PONG, payload, 8);
    pass(20);
    assert_int_equal(metrics.heartbeat_pongs_total, 0);
    close(second);
}

/* Its guest is busy, or others have their turns: it may be as silent as it likes. */
static void time_in_which_we_do_not_read_does_not_count(void **state)
{
    (void)state;
    uint8_t payload[126];
    stop_reading = true;
    say("for a guest that takes long");
    assert_true(ping_await(payload, INTERVAL + 50));
    frame_send(peer, WS_PONG, payload, 8); /* which is not read */
    pass(10 * EVICT);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
    stop_reading = false;
    conn_resume(&net, c);
    pass(20);
    assert_int_equal(c->beat, 0);
    stop_reading = true;
    may = CONN_NO_ROOM; /* what was received with a message, while others have their turns */
    frame_send(peer, WS_TEXT, "x", 1);
    assert_true(ping_await(payload, INTERVAL + 50));
    frame_send(peer, WS_PONG, payload, 8);
    may = CONN_TURN;
    pass(8);
    assert_true(c->paused && c->saved && !c->readable);
    may = CONN_NO_ROOM;
    stop_reading = false;
    conn_resume(&net, c);
    pass(10 * EVICT);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
    may = CONN_TURN;
    pass(20);
    assert_int_equal(c->beat, 0);
    while (frame_take(peer, payload) >= 0)
        continue;
    may = CONN_NO_ROOM;
    assert_true(ping_await(payload, INTERVAL + 50));
    frame_send(peer, WS_PONG, payload, 8);
    pass(10 * EVICT);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
    may = CONN_TURN;
    pass(20);
    assert_int_equal(c->beat, 0);
}

static uint64_t evictions(void)
{
    return metrics.heartbeat_evicted_silent_total + metrics.heartbeat_evicted_missed_total;
}

/* A peer that says nothing meanwhile, for hours. Once we read again, its time goes on. */
static void and_then_it_counts_again(void **state)
{
    (void)state;
    uint8_t payload[126];
    stop_reading = true;
    say("x");
    pass(1000 * EVICT);
    conn_resume(&net, c);
    stop_reading = false;
    pass(TIMEOUT / 2);
    assert_int_equal(metrics.heartbeat_misses_total + evictions(), 0);
    pass(EVICT + 200);
    assert_int_equal(evictions(), 1);
    while (frame_take(peer, payload) == WS_PING)
        continue;
    assert_int_equal(payload[0] << 8 | payload[1], 4001);
}

static void a_loop_that_was_away_finds_what_came_meanwhile(void **state)
{
    (void)state;
    uint8_t payload[126];
    iterate(10 * EVICT);
    assert_true(ping_await(payload, INTERVAL + 50));
    iterate(10 * EVICT); /* the ping's answer was on its way */
    pass(TIMEOUT / 2);
    assert_int_equal(metrics.heartbeat_misses_total + evictions(), 0);
    frame_send(peer, WS_PONG, payload, 8);
    pass(20);
    assert_int_equal(c->beat, 0);
}

/* What the poller has not told of yet is found by looking. */
static void it_is_read_once_more(void **state)
{
    (void)state;
    uint8_t payload[126];
    assert_true(ping_await(payload, INTERVAL + 50));
    blind = true;
    frame_send(peer, WS_PONG, payload, 8);
    pass(TIMEOUT - 200);
    assert_true(c->beat & WS_PINGED);
    pass(400);
    assert_int_equal(c->beat, 0);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
}

/* Behind a flood's worth of messages, at the rate of one that is demoted it would never be read. */
static void who_is_demoted_is_read_at_last(void **state)
{
    (void)state;
    uint8_t payload[126];
    demote(payload);
    assert_true(ping_await(payload, INTERVAL));
    for (unsigned i = 0; i < 150; i++)
        say("x");
    frame_send(peer, WS_PONG, payload, 8);
    pass(TIMEOUT - 200);
    assert_true(messages < 120);
    pass(TIMEOUT / WS_BEAT_SLICES + 600);
    assert_int_equal(messages, 151);
    assert_int_equal(c->beat, 0);
}

/* Having always something for us does not put off the end. */
static void who_floods_is_evicted(void **state)
{
    (void)state;
    uint8_t payload[126];
    demote(payload);
    assert_true(ping_await(payload, INTERVAL));
    for (unsigned i = 0; i < 200; i++) {
        for (unsigned j = 0; j < 50; j++)
            if (send(peer, "\x81\x81\0\0\0\0x", 7, MSG_NOSIGNAL) != 7)
                break;
        pass((TIMEOUT + 2000) / 200);
    }
    assert_int_equal(metrics.heartbeat_evicted_missed_total, 1);
}

/* Silent when it missed, and talking later. */
static void who_talks_again_is_demoted(void **state)
{
    (void)state;
    uint8_t payload[126];
    server.beat.evict_ms = 2 * EVICT;
    assert_true(ping_await(payload, INTERVAL + 50));
    pass(TIMEOUT + 300);
    assert_int_equal(metrics.heartbeat_suspects, 1);
    assert_int_equal(metrics.heartbeat_demoted, 0);
    say("x");
    pass(20);
    assert_int_equal(metrics.heartbeat_demoted, 1);
    say("y");
    pass(8);
    assert_int_equal(messages, 1);
}

/* As it was about to be evicted. */
static void who_talks_at_last_is_demoted(void **state)
{
    (void)state;
    server.beat.evict_ms = EVICT + 2000;
    for (uint64_t gone = 0; gone < 2 * EVICT; gone += WHEEL_TICK_MS) {
        iterate(WHEEL_TICK_MS);
        if ((c->beat & (WS_LOOK | WS_SUSPECT)) == (WS_LOOK | WS_SUSPECT))
            break;
    }
    say("x");
    pass(20);
    assert_int_equal(metrics.heartbeat_demoted, 1);
    assert_false(c->beat & WS_LOOK);
    assert_int_equal(messages, 1);
    say("y");
    pass(8);
    assert_int_equal(messages, 1);
}

/* A ping does not make a queue too long, nor is one missed that was not sent. */
static void a_full_queue_has_no_ping(void **state)
{
    (void)state;
    uint8_t payload[126];
    static uint8_t bytes[65536];
    int little = 1;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
    while (conn_queued(c) < server.queue_max) {
        size_t n = MIN(1024u, server.queue_max + NET_LAST_WORDS - 4 - conn_queued(c));
        assert_true(ws_conn_send(&server, c, WS_BINARY, slice_of(net.receive, n)));
        net_flush(&net);
    }
    while (!(c->beat & WS_PINGED) || c->beat_slices)
        pass(WHEEL_TICK_MS);
    pass(TIMEOUT / 2);
    assert_int_equal(c->state, CONN_OPEN);
    assert_int_equal(metrics.heartbeat_pings_total, 0);
    while (read(peer, bytes, sizeof(bytes)) > 0)
        pass(WHEEL_TICK_MS);
    say("x"); /* or it would be silent for too long */
    assert_true(ping_await(payload, TIMEOUT));
    pass(TIMEOUT - 1000);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
    frame_send(peer, WS_PONG, payload, 8);
    pass(20);
    assert_int_equal(c->beat, 0);
}

static void a_message_that_we_do_not_read_is_not_late(void **state)
{
    (void)state;
    assert_int_equal(write(peer, "\x82\x82\0\0\0\0x", 7), 7);
    pass(20);
    may = CONN_NO_ROOM;
    assert_int_equal(write(peer, "y", 1), 1);
    pass(3 * server.message_timeout_ms);
    assert_int_equal(messages, 0);
    may = CONN_TURN;
    pass(20);
    assert_int_equal(messages, 1);
}

/* Nothing takes our bytes, and our reading is paused for that: that is no excuse. */
static void a_peer_that_takes_nothing_is_found(void **state)
{
    (void)state;
    int little = 1;
    struct slice page = slice_of(net.receive, 1024);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
    while (!c->queue) {
        assert_true(ws_conn_send(&server, c, WS_BINARY, page));
        net_flush(&net);
    }
    conn_pause_full(c);
    pass(EVICT + 2 * TIMEOUT + 200);
    assert_int_equal(metrics.heartbeat_evicted_silent_total, 1);
    pass(2 * server.close_timeout_ms);
    assert_int_equal(net.conns.in_use, 0);
}

/* A slow reader shows by reading that it is there. */
static void a_peer_that_takes_a_little_stays(void **state)
{
    (void)state;
    static uint8_t bytes[2048];
    int little = 1;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
    for (uint64_t gone = 0; gone < 4 * EVICT; gone += WHEEL_TICK_MS) {
        iterate(WHEEL_TICK_MS);
        if (conn_queued(c) < server.queue_max / 2)
            assert_true(ws_conn_send(&server, c, WS_BINARY, slice_of(net.receive, 512)));
        if (gone % 400 == 396)
            assert_true(read(peer, bytes, sizeof(bytes)) > 0);
    }
    assert_int_equal(metrics.heartbeat_misses_total + evictions(), 0);
    assert_int_equal(net.conns.in_use, 1);
}

static void half_a_frame_has_its_time(void **state)
{
    (void)state;
    uint8_t payload[126];
    assert_int_equal(write(peer, "\x82\x85\0\0\0\0xy", 8), 8);
    pass(server.message_timeout_ms - 100);
    assert_int_equal(frame_take(peer, payload), -1);
    pass(2000);
    assert_int_equal(frame_take(peer, payload), WS_CLOSE);
    assert_int_equal(payload[0] << 8 | payload[1], 1008);
}

/* Fragments with pongs between them: alive, and yet it has its time. */
static void an_endless_message_ends(void **state)
{
    (void)state;
    uint8_t payload[126];
    uint64_t gone = 0;
    int got = -1;
    assert_int_equal(write(peer, "\x02\x81\0\0\0\0x", 7), 7);
    while (got != WS_CLOSE && gone < 2 * server.message_timeout_ms) {
        iterate(WHEEL_TICK_MS);
        gone += WHEEL_TICK_MS;
        got = frame_take(peer, payload);
        if (got == WS_PING)
            frame_send(peer, WS_PONG, payload, 8);
    }
    assert_int_equal(payload[0] << 8 | payload[1], 1008);
    assert_in_range(gone, server.message_timeout_ms,
                    server.message_timeout_ms + server.beat.interval_ms + 2000);
    assert_int_equal(metrics.heartbeat_misses_total, 0);
}

/* All come in one moment: in no hundredth of the interval are more than a few of their pings. */
static void pings_are_spread(void **state)
{
    (void)state;
    static int peers[CONNS];
    unsigned most = 0;
    for (unsigned i = 1; i < CONNS / 4; i++)
        peers[i] = open_one(&(struct conn *){NULL});
    for (unsigned i = 0; i < 100; i++) {
        uint64_t before = metrics.heartbeat_pings_total;
        pass(INTERVAL / 100);
        most = MAX(most, (unsigned)(metrics.heartbeat_pings_total - before));
    }
    assert_in_range(metrics.heartbeat_pings_total, CONNS / 4 - 5, CONNS / 4);
    assert_true(most <= 5); /* 2.5 on average */
    for (unsigned i = 1; i < CONNS / 4; i++)
        close(peers[i]);
}

static void no_interval_no_pings(void **state)
{
    (void)state;
    uint8_t payload[126];
    assert_false(ping_await(payload, 20 * (uint64_t)EVICT));
    assert_false(timer_is_set(&c->timer));
    assert_int_equal(net.conns.in_use, 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_OFF(f) cmocka_unit_test_setup_teardown(f, setup_off, teardown)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(who_answers_stays),
        TEST(who_is_silent_is_evicted_in_time),
        TEST(who_talks_is_demoted_then_evicted),
        TEST(who_is_demoted_has_few_messages_until_its_pong),
        TEST(who_is_demoted_is_served_after_others),
        TEST(a_second_pong_counts_too),
        TEST(other_pongs_do_not_count),
        TEST(the_pong_of_another_connection_does_not_count),
        TEST(time_in_which_we_do_not_read_does_not_count),
        TEST(and_then_it_counts_again),
        TEST(a_loop_that_was_away_finds_what_came_meanwhile),
        TEST(it_is_read_once_more),
        TEST(who_is_demoted_is_read_at_last),
        TEST(who_floods_is_evicted),
        TEST(who_talks_again_is_demoted),
        TEST(who_talks_at_last_is_demoted),
        TEST(a_full_queue_has_no_ping),
        TEST(a_message_that_we_do_not_read_is_not_late),
        TEST_OFF(a_message_that_we_do_not_read_is_not_late),
        TEST(a_peer_that_takes_nothing_is_found),
        TEST(a_peer_that_takes_a_little_stays),
        TEST(an_endless_message_ends),
        TEST(pings_are_spread),
        TEST_OFF(no_interval_no_pings),
        TEST_OFF(half_a_frame_has_its_time),
        TEST_OFF(an_endless_message_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
