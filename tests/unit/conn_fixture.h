/* What the tests of net/conn share: a connection over a real socket pair, a protocol that does what
 * a test tells it to, and a loop that runs so many iterations. */
#ifndef WEIR_CONN_FIXTURE_H
#define WEIR_CONN_FIXTURE_H

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/conn.h"

enum { CONNECTIONS = 8, SEND_QUEUE = 20000, LINGER_MS = 12 };
enum { SEND_MS = 10000, SLOW_MS = 20, QUEUES = 1 << 20 };

static struct net net;
static struct loop loop;
static struct conn *c;
static int peer, always; /* always: a descriptor that is ready, so that no iteration waits */
static unsigned turns_left, turns_done;
static bool (*until)(void);

/* What the protocol does and what it saw. */
static struct {
    size_t (*input)(struct conn *c, uint8_t *p, size_t n);
    void (*on_closed)(struct conn *c);
    char seen[512];
    unsigned inputs, closed, timeouts, drains;
    unsigned refusals; /* times that closed() is not done */
    bool not_ready;
    uint8_t reason;
} proto;

static enum conn_ready is_ready(void *owner, struct conn *conn)
{
    (void)conn;
    assert_ptr_equal(owner, &proto);
    return proto.not_ready ? CONN_NO_TIME : CONN_TURN;
}

static size_t take_all(struct conn *conn, uint8_t *p, size_t n)
{
    (void)conn;
    size_t have = strlen(proto.seen), take = MIN(n, sizeof(proto.seen) - 1 - have);
    memcpy(proto.seen + have, p, take);
    proto.seen[have + take] = 0;
    return n;
}

static size_t input(void *owner, struct conn *conn, uint8_t *p, size_t n)
{
    assert_ptr_equal(owner, &proto);
    assert_int_equal(conn->state, CONN_OPEN);
    assert_false(conn->paused);
    assert_true(n > 0);
    proto.inputs++;
    return proto.input(conn, p, n);
}

static void drained(void *owner, struct conn *conn)
{
    (void)owner, (void)conn;
    proto.drains++;
}

static void timeout(void *owner, struct conn *conn)
{
    assert_ptr_equal(owner, &proto);
    assert_false(timer_is_set(&conn->timer));
    proto.timeouts++;
}

static bool closed(void *owner, struct conn *conn)
{
    assert_ptr_equal(owner, &proto);
    assert_int_equal(conn->state, CONN_CLOSED);
    assert_int_equal(conn->fd, -1);
    proto.closed++;
    proto.reason = conn->close_reason;
    if (proto.refusals) {
        proto.refusals--;
        return false;
    }
    if (proto.on_closed)
        proto.on_closed(conn);
    return true;
}

static bool turn(void *arg)
{
    (void)arg;
    conn_check(&net);
    turns_done++;
    loop.stop = !--turns_left || (until && until());
    return true;
}

static void nothing(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)arg, (void)slot, (void)generation, (void)ready;
}

static void run(unsigned turns)
{
    loop.stop = false;
    turns_left = turns;
    loop_run(&loop);
}

static inline bool gone(void)
{
    return proto.closed > 0;
}

/* For what takes time: iterations until it is so, and a bound where it never is. */
static inline void run_until(bool (*so)(void))
{
    uint64_t end = sys_now_ns() + UINT64_C(2000000000);
    while (!so() && sys_now_ns() < end) {
        until = so;
        run(100);
        until = NULL;
    }
    assert_true(so());
}

static int pair_open(int type, struct conn **out)
{
    int fds[2];
    if (socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) < 0)
        return -1;
    *out = conn_open(&net, fds[0], 1);
    return fds[1];
}

static int setup(int type)
{
    const struct net_limits limits = {CONNECTIONS, LINGER_MS, SEND_MS, SLOW_MS, QUEUES};
    memset(&net, 0, sizeof(net));
    memset(&proto, 0, sizeof(proto));
    memset(&metrics, 0, sizeof(metrics));
    proto.input = take_all;
    if (loop_init(&loop) || net_init(&net, &loop, &limits))
        return -1;
    net_phase_reap(&net);
    loop_phase(&loop, turn, NULL);
    net.protocols[1] = (struct conn_protocol){.owner = &proto,
                                              .queue_max = SEND_QUEUE,
                                              .drained = drained,
                                              .ready = is_ready,
                                              .input = input,
                                              .timeout = timeout,
                                              .closed = closed};
    always = eventfd(1, EFD_CLOEXEC);
    loop_on(&loop, LOOP_CONTROL, nothing, NULL, NULL);
    if (always < 0 || sys_poller_add(loop.poller, always, SYS_IN, loop_data(LOOP_CONTROL, 0, 0)))
        return -1;
    peer = pair_open(type, &c);
    return peer < 0 || !c ? -1 : 0;
}

static int setup_stream(void **state)
{
    (void)state;
    return setup(SOCK_STREAM);
}

static inline int setup_packets(void **state)
{
    (void)state; /* each write is one read of the peer's */
    return setup(SOCK_SEQPACKET);
}

/* Whatever a test did, all is given back. */
static int teardown(void **state)
{
    (void)state;
    proto.on_closed = NULL;
    for (uint32_t i = 0; i < net.conns.count; i++) {
        struct conn *conn = pool_at(&net.conns, i);
        while (conn && conn->holds)
            conn_release(&net, conn);
        if (conn)
            conn_close(&net, conn, CLOSE_SHUTDOWN);
    }
    run(2);
    bool clean = !net.conns.in_use && !metrics.connections_active && !metrics.queued_bytes &&
                 !metrics.queues_active && !net.queues.memory && !mem_buffer_bytes();
    net_done(&net);
    loop_done(&loop);
    close(peer);
    close(always);
    return clean && pool_bytes() == 0 ? 0 : -1;
}

static inline void say(const char *text)
{
    assert_int_equal(write(peer, text, strlen(text)), strlen(text));
}

static inline const char *heard(void)
{
    static char text[512];
    ssize_t n = read(peer, text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static inline size_t take_lines(struct conn *conn, uint8_t *p, size_t n)
{
    const uint8_t *end = memchr(p, ';', n);
    return end ? take_all(conn, p, (size_t)(end - p) + 1) : 0;
}

static inline size_t take_line_and_pause(struct conn *conn, uint8_t *p, size_t n)
{
    conn_pause(conn);
    return take_lines(conn, p, n);
}

#define CONN_TEST(f) cmocka_unit_test_setup_teardown(f, setup_stream, teardown)

#endif
