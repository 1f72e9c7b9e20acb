#include "net/conn.h"

#include <errno.h>

#include "base/log.h"

#define NO_LINK UINT32_MAX

static void want(struct net *net, struct conn *c)
{
    uint32_t in = c->unpolled || c->peer_ended ? 0 : SYS_IN;
    sys_poller_change(net->loop->poller, c->fd, in | (c->queue ? (uint32_t)SYS_OUT : 0),
                      loop_data(LOOP_CONN, c->slot.index, c->slot.generation));
}

static void buf_drop(struct buf **b)
{
    if (!*b)
        return;
    buf_done(*b);
    mem_free(*b, sizeof(**b));
    *b = NULL;
}

/* Appends to a buffer that is made when first needed. */
static enum err buf_keep(struct buf **b, uint32_t max, struct slice s)
{
    if (!*b) {
        *b = mem_alloc(sizeof(**b));
        if (!*b)
            return ERR_NO_MEMORY;
        buf_init(*b, max);
    }
    return buf_append(*b, s);
}

struct conn *conn_open(struct net *net, int fd, uint8_t protocol)
{
    struct conn *c = pool_alloc(&net->conns);
    if (!c) {
        sys_close(fd);
        return NULL;
    }
    c->fd = fd;
    c->protocol = protocol;
    c->link = NO_LINK;
    c->timer.kind = LOOP_CONN;
    if (sys_poller_add(net->loop->poller, fd, SYS_IN,
                       loop_data(LOOP_CONN, c->slot.index, c->slot.generation)) < 0) {
        sys_close(fd);
        pool_free(&net->conns, c);
        return NULL;
    }
    metrics.connections_active++;
    metrics.connections_accepted_total++;
    return c;
}

static void push(struct net *net, uint32_t *head, struct conn *c)
{
    (void)net;
    if (c->linked)
        return;
    c->linked = true;
    c->link = *head;
    *head = c->slot.index;
}

static struct conn *pop(struct net *net, uint32_t *head)
{
    if (*head == NO_LINK)
        return NULL;
    struct conn *c = pool_at(&net->conns, *head);
    ASSERT(c && c->linked);
    *head = c->link;
    c->link = NO_LINK;
    c->linked = false;
    return c;
}

void conn_close(struct net *net, struct conn *c, enum close_reason reason)
{
    if (c->state == CONN_CLOSED)
        return;
    if (net->corked == c)
        conn_cork(net, NULL);
    if (c->state == CONN_CLOSED)
        return; /* the flush failed and closed it */
    if (c->state == CONN_OPEN)
        c->close_reason = (uint8_t)reason;
    c->state = CONN_CLOSED;
    metrics.queued_bytes -= conn_queued(c);
    metrics.connections_closed_total[c->close_reason]++;
    wheel_cancel(&net->loop->wheel, &c->timer);
    sys_close(c->fd);
    c->fd = -1;
    buf_drop(&c->queue);
    buf_drop(&c->saved);
    metrics.connections_active--;
    push(net, &net->closing, c); /* one in the resume list is found there */
}

void conn_release(struct net *net, struct conn *c)
{
    ASSERT(c->holds > 0);
    if (--c->holds == 0 && c->state == CONN_CLOSED)
        push(net, &net->closing, c);
}

static void linger(struct net *net, struct conn *c)
{
    sys_shutdown_write(c->fd);
    if (c->peer_ended)
        conn_close(net, c, CLOSE_PEER);
}

void conn_shutdown(struct net *net, struct conn *c, enum close_reason reason)
{
    if (c->state != CONN_OPEN)
        return;
    if (net->corked == c)
        conn_cork(net, NULL);
    if (c->state != CONN_OPEN)
        return;
    c->state = CONN_LINGER;
    c->close_reason = (uint8_t)reason;
    c->paused = false;
    if (c->unpolled) {
        c->unpolled = false;
        want(net, c);
    }
    buf_drop(&c->saved);
    c->timer_of = TIMER_LINGER;
    wheel_set(&net->loop->wheel, &c->timer, net->limits.linger_ms);
    if (!c->queue)
        linger(net, c);
}

static void enqueue(struct net *net, struct conn *c, struct slice s)
{
    bool first = !c->queue;
    enum err e = buf_keep(&c->queue, net->limits.send_queue, s);
    if (e) {
        conn_close(net, c, e == ERR_LIMIT ? CLOSE_SEND_QUEUE : CLOSE_NO_MEMORY);
        return;
    }
    metrics.queued_bytes += s.n;
    if (first)
        want(net, c);
}

static struct slice slice_from(struct slice s, size_t skip)
{
    return skip >= s.n ? SLICE_NONE : slice_of(s.p + skip, s.n - skip);
}

/* To the socket, past the cork. */
static void write_through(struct net *net, struct conn *c, struct slice a, struct slice b)
{
    size_t sent = 0;
    if (!c->queue) {
        ssize_t r = b.n ? sys_send2(c->fd, a, b) : sys_send(c->fd, a);
        if (r < 0 && r != -EAGAIN && r != -EINTR) {
            conn_close(net, c, CLOSE_PEER_RESET);
            return;
        }
        sent = r > 0 ? (size_t)r : 0;
        metrics.sent_bytes_total += sent;
    }
    if (sent < a.n)
        enqueue(net, c, slice_from(a, sent));
    if (sent < a.n + b.n && c->state != CONN_CLOSED && b.n)
        enqueue(net, c, slice_from(b, sent > a.n ? sent - a.n : 0));
}

void conn_cork(struct net *net, struct conn *c)
{
    struct conn *was = net->corked;
    if (was && net->cork_len) {
        uint32_t n = net->cork_len;
        net->cork_len = 0;
        net->corked = NULL;
        write_through(net, was, slice_of(net->cork, n), SLICE_NONE);
    }
    net->corked = c;
}

bool conn_write(struct net *net, struct conn *c, struct slice a, struct slice b)
{
    if (c->state != CONN_OPEN)
        return false;
    if (net->corked == c) {
        if (net->cork_len + a.n + b.n > NET_CORK) {
            conn_cork(net, c);
            if (c->state != CONN_OPEN)
                return false;
        }
        if (a.n + b.n <= NET_CORK / 4) {
            memcpy(net->cork + net->cork_len, a.p, a.n);
            if (b.n)
                memcpy(net->cork + net->cork_len + a.n, b.p, b.n);
            net->cork_len += (uint32_t)(a.n + b.n);
            return true;
        }
        conn_cork(net, c);
    }
    if (c->state == CONN_OPEN)
        write_through(net, c, a, b);
    return c->state == CONN_OPEN;
}

static void flush_queue(struct net *net, struct conn *c)
{
    ssize_t r = sys_send(c->fd, buf_slice(c->queue));
    if (r < 0) {
        if (r != -EAGAIN && r != -EINTR)
            conn_close(net, c, CLOSE_PEER_RESET);
        return;
    }
    metrics.sent_bytes_total += (uint64_t)r;
    metrics.queued_bytes -= (uint64_t)r;
    buf_consume(c->queue, (size_t)r);
    if (c->queue->len)
        return;
    buf_drop(&c->queue);
    want(net, c);
    if (c->state == CONN_LINGER)
        linger(net, c);
}

/* Hands n bytes at the front of the receive buffer to the protocol; keeps what it leaves. */
static void feed(struct net *net, struct conn *c, size_t n)
{
    size_t at = 0;
    conn_cork(net, c);
    while (at < n && !c->paused && c->state == CONN_OPEN) {
        size_t took = net->protocols[c->protocol].input(net, c, net->receive + at, n - at);
        at += took;
        if (!took)
            break;
    }
    if (net->corked)
        conn_cork(net, NULL);
    if (at < n && c->state == CONN_OPEN) {
        enum err e = buf_keep(&c->saved, NET_RECEIVE, slice_of(net->receive + at, n - at));
        if (e)
            conn_close(net, c, CLOSE_NO_MEMORY);
    }
}

/* Moves what was saved to the front of the receive buffer; returns how much. */
static size_t restore(struct net *net, struct conn *c)
{
    size_t n = c->saved ? c->saved->len : 0;
    if (n)
        memcpy(net->receive, c->saved->p, n);
    buf_drop(&c->saved);
    return n;
}

static void read_ready(struct net *net, struct conn *c)
{
    if (c->paused) {
        c->unpolled = true;
        want(net, c);
        return;
    }
    size_t have = restore(net, c);
    ssize_t r = sys_recv(c->fd, net->receive + have, NET_RECEIVE - have);
    if (r > 0) {
        metrics.received_bytes_total += (uint64_t)r;
        if (c->state == CONN_OPEN)
            feed(net, c, have + (size_t)r);
        return;
    }
    if (r == -EAGAIN || r == -EINTR) {
        if (have)
            feed(net, c, have);
        return;
    }
    conn_close(net, c, r == 0 ? CLOSE_PEER : CLOSE_PEER_RESET);
}

static void on_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    struct net *net = arg;
    struct conn *c = pool_get(&net->conns, slot, generation);
    if (!c || c->state == CONN_CLOSED)
        return;
    if (ready & SYS_OUT && c->queue)
        flush_queue(net, c);
    if (ready & SYS_IN && c->state != CONN_CLOSED)
        read_ready(net, c);
    else if (ready & SYS_HANGUP && c->state != CONN_CLOSED)
        conn_close(net, c, CLOSE_PEER_RESET);
}

static void on_timer(void *arg, struct timer *t)
{
    struct net *net = arg;
    struct conn *c = CONTAINER_OF(t, struct conn, timer);
    if (c->state == CONN_LINGER || c->timer_of == TIMER_LINGER)
        conn_close(net, c, CLOSE_LINGER);
    else
        net->protocols[c->protocol].timeout(net, c);
}

void conn_timer(struct net *net, struct conn *c, uint32_t ms)
{
    if (c->state != CONN_OPEN)
        return;
    c->timer_of = TIMER_PROTOCOL;
    if (ms)
        wheel_set(&net->loop->wheel, &c->timer, ms);
    else
        wheel_cancel(&net->loop->wheel, &c->timer);
}

void conn_pause(struct net *net, struct conn *c)
{
    (void)net;
    c->paused = true;
}

void conn_resume(struct net *net, struct conn *c)
{
    if (!c->paused || c->state != CONN_OPEN)
        return;
    c->paused = false;
    if (c->unpolled) {
        c->unpolled = false;
        want(net, c);
    }
    if (c->saved)
        push(net, &net->resuming, c);
}

static bool phase_resume(void *arg)
{
    struct net *net = arg;
    uint32_t head = net->resuming;
    net->resuming = NO_LINK;
    struct conn *c;
    while ((c = pop(net, &head)) != NULL) {
        if (c->state == CONN_CLOSED)
            push(net, &net->closing, c);
        else if (!c->paused && c->state == CONN_OPEN)
            feed(net, c, restore(net, c));
    }
    return net->resuming != NO_LINK;
}

static bool phase_reap(void *arg)
{
    struct net *net = arg;
    struct conn *c;
    while ((c = pop(net, &net->closing)) != NULL) {
        if (!c->reaped) {
            c->reaped = true;
            net->protocols[c->protocol].closed(net, c);
        }
        if (!c->holds && !c->linked)
            pool_free(&net->conns, c);
    }
    return net->resuming != NO_LINK;
}

enum err net_init(struct net *net, struct loop *loop, const struct net_limits *limits)
{
    net->loop = loop;
    net->limits = *limits;
    net->closing = net->resuming = NO_LINK;
    pool_init(&net->conns, sizeof(struct conn), limits->connections);
    loop_on(loop, LOOP_CONN, on_ready, on_timer, net);
    loop_phase(loop, phase_resume, net);
    loop_phase(loop, phase_reap, net);
    return ERR_NONE;
}

void net_done(struct net *net)
{
    pool_done(&net->conns);
}
