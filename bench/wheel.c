/* What heartbeats cost without sockets and system calls: N open WebSockets in the gateway's own
 * pool, wheel and beat, under a clock that jumps from one thing that is due to the next, as the
 * loop's does. Each ping is taken out of the bytes that would have been sent, and answered.
 *
 *     bench-wheel CONNECTIONS [INTERVALS]
 *
 * Prints JSON: ns for one ping with its pong and what is set for the next, all in; ns for reading
 * one field of the same connections in the same order, which is what memory alone costs; bytes that
 * are accounted for a connection. */
#include <stdio.h>
#include <stdlib.h>

#include "ws/ws_beat.h"

enum { PROTOCOL = 1, INTERVAL_MS = 15000 };

static struct loop loop;
static struct net net;
static struct ws_server server;
static uint32_t *order, n_order, n_conns;

/* By --wrap: in place of the system's. A descriptor is the slot of its connection. */
ssize_t __wrap_sys_send(int fd, struct slice s);
ssize_t __wrap_sys_send(int fd, struct slice s)
{
    struct conn *c = pool_at(&net.conns, (uint32_t)fd);
    ASSERT(s.n == 10 && s.p[0] == (0x80 | WS_PING) && s.p[1] == 8);
    if (n_order < n_conns)
        order[n_order++] = c->slot.index;
    ws_beat_pong(&server, c, slice_of(s.p + 2, 8));
    return (ssize_t)s.n;
}

static enum conn_ready ready(void *owner, struct conn *c)
{
    (void)owner, (void)c;
    return CONN_TURN;
}

static void run(uint64_t until_ms)
{
    for (;;) {
        int wait = wheel_next_ms(&loop.wheel, loop.now_ms);
        ASSERT(wait >= 0);
        loop.now_ms += (uint64_t)wait;
        if (loop.now_ms >= until_ms)
            return;
        wheel_clock(&loop.wheel, loop.now_ms);
        loop_timers(&loop);
        net_flush(&net);
    }
}

int main(int argc, char **argv)
{
    n_conns = argc > 1 ? (uint32_t)atoi(argv[1]) : 0;
    unsigned intervals = argc > 2 ? (unsigned)atoi(argv[2]) : 3;
    const struct net_limits limits = {.connections = n_conns, .linger_ms = 1000};
    if (!n_conns || !intervals || loop_init(&loop) || net_init(&net, &loop, &limits))
        return 2;
    server = (struct ws_server){
        .queue_max = 1 << 20, .beat = {INTERVAL_MS, 10000, 25000, 10}, .ready = ready};
    ws_server_init(&server, &net, PROTOCOL);
    order = malloc(n_conns * sizeof(*order));
    uint64_t before = pool_bytes() + mem_buffer_bytes();
    for (uint32_t i = 0; i < n_conns; i++) {
        struct conn *c = pool_alloc(&net.conns);
        ASSERT(order && c);
        c->fd = (int)c->slot.index;
        c->timer.kind = LOOP_CONN;
        net.speaking[0]++;
        ws_conn_start(&server, c, PROTOCOL, false);
    }
    uint64_t bytes = pool_bytes() + mem_buffer_bytes() - before;
    uint64_t start_ms = loop.now_ms + INTERVAL_MS;
    run(start_ms); /* each has had its first one */
    uint64_t pings = metrics.heartbeat_pings_total;
    n_order = 0;
    uint64_t began = sys_now_ns();
    run(start_ms + (uint64_t)intervals * INTERVAL_MS);
    uint64_t took = sys_now_ns() - began;
    pings = metrics.heartbeat_pings_total - pings;
    uint64_t sum = 0;
    volatile uint64_t none = 0; /* makes each read wait for the one before, as a list's do */
    uint64_t mask = none;
    began = sys_now_ns();
    for (uint32_t i = 0; i < n_order; i++)
        sum += ((struct conn *)pool_at(&net.conns, order[i] + (uint32_t)(sum & mask)))->heard;
    uint64_t touch = sys_now_ns() - began;
    printf("{\"connections\": %u, \"pings\": %llu, \"ns_per_ping\": %.1f, \"ns_per_touch\": %.1f, "
           "\"bytes\": %.1f, \"missed\": %llu, \"sum\": %llu}\n",
           n_conns, (unsigned long long)pings, (double)took / (double)pings,
           (double)touch / (double)n_order, (double)bytes / n_conns,
           (unsigned long long)metrics.heartbeat_misses_total, (unsigned long long)sum);
    return 0;
}
