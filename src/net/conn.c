#include "net/conn_write.h"

#include <errno.h>

#include "base/probe.h"
#include "net/peers.h"
#include "net/tls.h"

#define NO_CONN UINT32_MAX

struct conn_homes conn_homes = {1, UINT32_MAX, UINT32_MAX};

static uint64_t poll_data(const struct conn *c)
{
    return loop_data(LOOP_CONN, c->slot.index, c->slot.generation);
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

/* ---- lists ---- */

static void list_put(struct net *net, struct conn_list *l, struct conn *c)
{
    if (c->listed)
        return;
    c->listed = true;
    c->next = NO_CONN;
    if (l->head == NO_CONN)
        l->head = c->slot.index;
    else
        ((struct conn *)pool_at(&net->conns, l->tail))->next = c->slot.index;
    l->tail = c->slot.index;
}

static struct conn *list_take(struct net *net, struct conn_list *l)
{
    if (l->head == NO_CONN)
        return NULL;
    struct conn *c = pool_at(&net->conns, l->head);
    ASSERT(c && c->listed);
    l->head = c->next;
    c->listed = false;
    return c;
}

static void list_push(struct net *net, struct conn_list *l, struct conn *c)
{
    (void)net;
    c->listed = true;
    c->next = l->head;
    if (l->head == NO_CONN)
        l->tail = c->slot.index;
    l->head = c->slot.index;
}

/* Appends what is in `more`. */
static void list_join(struct net *net, struct conn_list *l, const struct conn_list *more)
{
    if (more->head == NO_CONN)
        return;
    if (l->head == NO_CONN) {
        *l = *more;
        return;
    }
    ((struct conn *)pool_at(&net->conns, l->tail))->next = more->head;
    l->tail = more->tail;
}

/* Takes the whole list, so that what is put back waits for the next iteration. */
static struct conn_list list_all(struct conn_list *l)
{
    struct conn_list all = *l;
    l->head = NO_CONN;
    return all;
}

/* Whether no input is taken: an event or its protocol says so, or its own output is full. */
static bool stopped(const struct conn *c)
{
    return c->paused || c->full;
}

/* ---- life ---- */

/* c NULL, as there is no place: fd is closed. */
static bool begin(struct conn *c, int fd, uint8_t protocol)
{
    if (!c) {
        sys_close(fd);
        return false;
    }
    c->fd = fd;
    c->protocol = protocol;
    c->close_reason = CLOSE_COUNT;
    c->timer.kind = LOOP_CONN;
    return true;
}

struct conn *conn_open(struct net *net, int fd, uint8_t protocol)
{
    struct conn *c = pool_alloc(&net->conns);
    if (!begin(c, fd, protocol))
        return NULL;
    if (sys_poller_add(net->loop->poller, fd, SYS_IN | SYS_OUT | SYS_EDGE, poll_data(c)) < 0) {
        sys_close(fd);
        pool_free(&net->conns, c);
        return NULL;
    }
    net->speaking[protocol]++;
    metrics.connections_active++;
    metrics.connections_accepted_total++;
    PROBE(accept, conn_id(c), fd);
    return c;
}

void conn_reason(struct conn *c, enum close_reason reason)
{
    if (c->close_reason == CLOSE_COUNT)
        c->close_reason = (uint8_t)reason;
}

static void end(struct net *net, struct conn *c)
{
    c->state = CONN_CLOSED;
    metrics.connections_active--;
    wheel_cancel(&net->loop->wheel, &c->timer);
    if (c->tls)
        tls_close(net, c);
    sys_close(c->fd);
    c->fd = -1;
    conn_queue_free(net, c);
    buf_drop(&c->saved);
    list_put(net, &net->closing, c); /* one in the resume list is found there */
}

void conn_close(struct net *net, struct conn *c, enum close_reason reason)
{
    if (c->state == CONN_CLOSED)
        return;
    conn_reason(c, reason);
    if (c->gathered && !net->flushing) {
        net_flush(net);
        if (c->state == CONN_CLOSED)
            return; /* the flush failed and closed it */
    }
    metrics.connections_closed_total[c->close_reason]++;
    PROBE(close, conn_id(c), close_name((enum close_reason)c->close_reason));
    end(net, c);
}

struct conn *conn_adopt(struct net *net, int fd, uint8_t protocol, uint64_t id,
                        const struct conn_rest *rest)
{
    struct conn *c = pool_adopt(&net->conns, conn_index(id), (uint32_t)id);
    if (!begin(c, fd, protocol))
        return NULL;
    /* What is there to read already is told as soon as the poller has it. */
    if ((rest->saved.n && buf_keep(&c->saved, NET_RECEIVE, rest->saved)) ||
        conn_queue_restore(net, c, rest) ||
        sys_poller_add(net->loop->poller, fd, SYS_IN | SYS_OUT | SYS_EDGE, poll_data(c)) < 0) {
        conn_queue_free(net, c);
        buf_drop(&c->saved);
        sys_close(fd);
        pool_free(&net->conns, c);
        return NULL;
    }
    net->speaking[protocol]++;
    metrics.connections_active++;
    if (c->saved)
        list_put(net, &net->resuming, c);
    return c;
}

enum err conn_rest(const struct net *net, const struct conn *c, struct buf *queue,
                   struct conn_rest *out)
{
    *out = (struct conn_rest){.saved = c->saved ? buf_slice(c->saved) : SLICE_NONE};
    if (!c->queue)
        return ERR_NONE;
    enum err e = sendq_copy(c->queue, net->protocols[c->protocol].length, queue, &out->begun);
    out->queue = buf_slice(queue);
    return e;
}

void conn_give_up(struct net *net, struct conn *c)
{
    ASSERT(c->state != CONN_CLOSED && !c->gathered && !c->tls);
    sys_poller_remove(net->loop->poller, c->fd); /* closing it here does not, as it is open there */
    c->reaped = true;
    end(net, c);
}

void conn_release(struct net *net, struct conn *c)
{
    ASSERT(c->holds > 0);
    if (--c->holds)
        return;
    if (c->state == CONN_CLOSED)
        list_put(net, &net->closing, c);
    else if (c->peer_ended && !stopped(c))
        list_put(net, &net->resuming, c); /* its end is settled there */
}

/* All is sent: the peer's own end is what remains. */
static void linger(struct net *net, struct conn *c)
{
    if (c->peer_ended) {
        conn_close(net, c, CLOSE_PEER);
        return;
    }
    if (c->tls)
        tls_end(net, c);
    else
        sys_shutdown_write(c->fd);
    wheel_set(&net->loop->wheel, &c->timer, net->limits.linger_ms);
}

void conn_end(struct net *net, struct conn *c, enum close_reason reason)
{
    if (c->state != CONN_OPEN)
        return;
    conn_reason(c, reason);
    c->state = CONN_LINGER;
    c->paused = c->full = false;
    buf_drop(&c->saved);
    if (c->readable)
        list_put(net, &net->resuming, c); /* to be dropped */
    wheel_set(&net->loop->wheel, &c->timer, net->limits.linger_ms);
    if (!c->queue)
        linger(net, c);
}

void conn_shutdown(struct net *net, struct conn *c, enum close_reason reason)
{
    if (c->state != CONN_OPEN)
        return;
    conn_reason(c, reason);
    if (c->gathered)
        net_flush(net);
    conn_end(net, c, reason);
}

/* Ends what a peer that says no more has left, once all it asked for is done. */
static void peer_end_settle(struct net *net, struct conn *c)
{
    if (c->peer_ended && c->state == CONN_OPEN && !c->holds && !stopped(c) && !c->listed)
        conn_shutdown(net, c, CLOSE_PEER);
}

/* The peer says no more. What it asked for before is still answered. */
static void peer_end(struct net *net, struct conn *c)
{
    if (c->state == CONN_OPEN && (c->holds || stopped(c) || c->listed || c->queue)) {
        c->peer_ended = true;
        peer_end_settle(net, c);
    } else {
        conn_close(net, c, CLOSE_PEER);
    }
}

void conn_sent_all(struct net *net, struct conn *c)
{
    if (c->state == CONN_LINGER)
        linger(net, c);
    else
        peer_end_settle(net, c);
}

/* ---- reading ---- */

/* Hands n bytes at the front of the receive buffer to the protocol; keeps what it leaves. */
static void feed(struct net *net, struct conn *c, size_t n)
{
    size_t at = 0;
    net->fed = 0;
    while (at < n && !stopped(c) && c->state == CONN_OPEN) {
        const struct conn_protocol *p = &net->protocols[c->protocol];
        mem_spare(p->spare);
        size_t took = p->input(p->owner, c, net->receive + at, n - at);
        mem_spare(0);
        ASSERT(took <= n - at);
        at += took;
        net->fed++;
        if (!took)
            break;
    }
    if (at < n && c->state == CONN_OPEN &&
        buf_keep(&c->saved, NET_RECEIVE, slice_of(net->receive + at, n - at)))
        conn_close(net, c, CLOSE_NO_MEMORY);
    peer_end_settle(net, c);
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

/* One receive; less than there was room for means that there is no more. Negative: an error that
 * ends the connection. *ended: the peer says no more. */
static ssize_t receive(struct net *net, struct conn *c, size_t have, bool *ended)
{
    size_t room = NET_RECEIVE - have;
    if (!c->readable || !room)
        return 0;
    mem_spare(net->protocols[c->protocol].spare);
    ssize_t r = c->tls ? tls_recv(net, c, net->receive + have, room)
                       : sys_recv(c->fd, net->receive + have, room);
    mem_spare(0);
    *ended = r == 0;
    if (c->tls) {
        c->readable = tls_more(net, c);
    } else {
        c->readable = r == (ssize_t)room || (r > 0 && c->end_seen) || r == -EINTR;
        metrics.received_bytes_total += r > 0 ? (uint64_t)r : 0;
    }
    return r == -EAGAIN || r == -EINTR ? 0 : r;
}

static void name_cause(struct net *net, const struct conn *c)
{
    loop_cause(net->loop, c->tls ? CAUSE_tls : (enum cause)net->protocols[c->protocol].cause);
}

static void read_input(struct net *net, struct conn *c)
{
    bool ended = false;
    size_t have = c->state == CONN_OPEN ? restore(net, c) : 0;
    ssize_t got = receive(net, c, have, &ended);
    net->fed = 0;
    if (got < 0) {
        conn_close(net, c, CLOSE_PEER_RESET);
        return;
    }
    if (c->state == CONN_OPEN && have + (size_t)got)
        feed(net, c, have + (size_t)got); /* lingering: dropped */
    else
        peer_end_settle(net, c);
    if (ended && c->state != CONN_CLOSED)
        peer_end(net, c);
    if (c->readable && c->state != CONN_CLOSED && !stopped(c))
        list_put(net, &net->resuming, c);
}

/* Input is there, or was left: it is taken, or waits for its turn behind those that wait already.
 */
static void read_ready(struct net *net, struct conn *c)
{
    const struct conn_protocol *p = &net->protocols[c->protocol];
    net->fed = 0;
    name_cause(net, c);
    enum conn_ready ready = c->state == CONN_OPEN ? p->ready(p->owner, c) : CONN_ALWAYS;
    if (ready == CONN_ALWAYS || (ready == CONN_TURN && net->waiting.head == NO_CONN))
        read_input(net, c);
    else if (ready == CONN_HELD)
        conn_hold(net, c);
    else
        conn_defer(net, c);
}

static void on_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    struct net *net = arg;
    struct conn *c = pool_get(&net->conns, slot, generation);
    if (!c || c->state == CONN_CLOSED)
        return;
    name_cause(net, c);
    if (ready & SYS_OUT && c->tls)
        tls_writable(net, c);
    if (ready & SYS_OUT && c->queue)
        conn_flush_queue(net, c);
    c->readable |= (ready & (SYS_IN | SYS_HANGUP | SYS_END)) != 0;
    c->end_seen |= (ready & SYS_END) != 0;
    if (c->state == CONN_CLOSED || c->listed || !c->readable)
        return; /* listed: its turn comes */
    if (!stopped(c) && !c->peer_ended)
        read_ready(net, c);
    else if (ready & SYS_HANGUP)
        conn_close(net, c, CLOSE_PEER_RESET);
}

static void on_timer(void *arg, struct timer *t)
{
    struct net *net = arg;
    struct conn *c = CONTAINER_OF(t, struct conn, timer);
    const struct conn_protocol *p = &net->protocols[c->protocol];
    if (c->state == CONN_LINGER && (conn_progressed(c) || (c->queue && c->queue->cut))) {
        wheel_set(&net->loop->wheel, t, net->limits.linger_ms);
    } else if (c->state == CONN_LINGER) {
        metrics.close_timeouts_total++;
        conn_close(net, c, CLOSE_PEER); /* why it was shut down is known already */
    } else {
        p->timeout(p->owner, c);
    }
}

void conn_timer(struct net *net, struct conn *c, uint64_t ms)
{
    if (c->state != CONN_OPEN)
        return;
    if (ms)
        wheel_set(&net->loop->wheel, &c->timer, ms);
    else
        wheel_cancel(&net->loop->wheel, &c->timer);
}

void conn_speak(struct net *net, struct conn *c, uint8_t protocol)
{
    net->speaking[c->protocol]--;
    net->speaking[protocol]++;
    c->protocol = protocol;
    conn_queue_watch(net, c);
}

void conn_pause(struct conn *c)
{
    c->paused = true;
}

void conn_pause_full(struct conn *c)
{
    ASSERT(c->queue);
    c->full = true;
}

void conn_defer(struct net *net, struct conn *c)
{
    list_put(net, &net->waiting, c);
}

void conn_go_on(struct net *net, struct conn *c)
{
    if (!stopped(c) && c->state == CONN_OPEN && (c->saved || c->readable || c->peer_ended))
        list_put(net, &net->resuming, c);
}

void conn_hold(struct net *net, struct conn *c)
{
    list_put(net, &net->held, c);
    if (!timer_is_set(&net->hold_timer))
        wheel_set(&net->loop->wheel, &net->hold_timer, net->hold_ms);
}

static void hold_over(void *arg, struct timer *t)
{
    (void)t;
    struct net *net = arg;
    struct conn_list all = list_all(&net->held);
    struct conn *c;
    while ((c = list_take(net, &all)) != NULL) {
        c->released = true;
        list_put(net, &net->waiting, c);
    }
}

void conn_look(struct net *net, struct conn *c)
{
    if (c->state != CONN_OPEN || stopped(c) || c->peer_ended)
        return;
    c->readable = true;
    list_put(net, &net->resuming, c);
}

void conn_resume(struct net *net, struct conn *c)
{
    if (!c->paused || c->state != CONN_OPEN)
        return;
    c->paused = false;
    conn_go_on(net, c);
}

/* ---- phases ---- */

/* Those that wait get their turns in order, while there is time. Whoever has more afterwards, or
 * can't be served though others can, goes behind the rest. */
static void turns_give(struct net *net)
{
    struct conn_list all = list_all(&net->waiting);
    struct conn *c;
    bool time = true;
    while (time && (c = list_take(net, &all)) != NULL) {
        const struct conn_protocol *p = &net->protocols[c->protocol];
        net->fed = 0;
        if (c->state == CONN_CLOSED)
            list_put(net, &net->closing, c);
        if (c->state == CONN_CLOSED || stopped(c))
            continue; /* what paused it resumes it */
        enum conn_ready ready = c->state == CONN_OPEN ? p->ready(p->owner, c) : CONN_ALWAYS;
        time = ready != CONN_NO_TIME;
        name_cause(net, c);
        if (ready >= CONN_TURN)
            read_input(net, c);
        else if (ready == CONN_HELD)
            conn_hold(net, c);
        else if (time)
            list_put(net, &net->waiting, c);
        else
            list_push(net, &all, c);
    }
    list_join(net, &all, &net->waiting); /* those that had no turn stay in front */
    net->waiting = all;
}

static bool phase_resume(void *arg)
{
    struct net *net = arg;
    struct conn_list all = list_all(&net->resuming);
    struct conn *c;
    while ((c = list_take(net, &all)) != NULL) {
        if (c->state == CONN_CLOSED)
            list_put(net, &net->closing, c);
        else if (!stopped(c))
            read_ready(net, c);
    }
    turns_give(net);
    net_flush(net); /* before guests that were suspended run: their slices are longer */
    return net->resuming.head != NO_CONN || net->waiting.head != NO_CONN;
}

static bool phase_reap(void *arg)
{
    struct net *net = arg;
    net_flush(net);
    struct conn_list all = list_all(&net->closing);
    struct conn *c;
    while ((c = list_take(net, &all)) != NULL) {
        const struct conn_protocol *p = &net->protocols[c->protocol];
        if (!c->reaped)
            c->reaped = p->closed(p->owner, c);
        if (!c->reaped)
            list_put(net, &net->closing, c);
        else if (!c->holds && !c->listed) {
            net->speaking[c->protocol]--;
            if (c->peer)
                peers_leave(net->peers, c->peer);
            pool_free(&net->conns, c);
        }
    }
    net_flush(net); /* what guests sent elsewhere when they were told of an end */
    return net->closing.head != NO_CONN || net->resuming.head != NO_CONN ||
           net->waiting.head != NO_CONN;
}

enum err net_init(struct net *net, struct loop *loop, const struct net_limits *limits)
{
    net->loop = loop;
    net->limits = *limits;
    net->closing.head = net->resuming.head = net->waiting.head = net->held.head = NO_CONN;
    net->hold_timer.kind = LOOP_HOLD;
    pool_init(&net->conns, sizeof(struct conn), limits->connections);
    loop_on(loop, LOOP_CONN, on_ready, on_timer, net);
    loop_on(loop, LOOP_HOLD, NULL, hold_over, net);
    net_write_init(net);
    loop_phase(loop, phase_resume, net);
    return ERR_NONE;
}

void net_phase_reap(struct net *net)
{
    loop_phase(net->loop, phase_reap, net);
}

void net_done(struct net *net)
{
    if (net->tls)
        tls_done(net);
    pool_done(&net->conns);
}

void conn_check(const struct net *net)
{
    ASSERT(!net->n_entries && !net->gathered);
    for (uint32_t i = 0; i < net->conns.count; i++) {
        const struct conn *c = pool_at(&net->conns, i);
        if (!c)
            continue;
        ASSERT((c->state == CONN_CLOSED) == (c->fd < 0));
        ASSERT(c->state != CONN_CLOSED || (!c->queue && !c->saved && !timer_is_set(&c->timer)));
        ASSERT(c->state != CONN_CLOSED || c->listed || c->holds);
        ASSERT(c->state != CONN_LINGER || timer_is_set(&c->timer));
        ASSERT(!c->queue || (c->queue->bytes && !c->gathered));
        ASSERT(c->state == CONN_CLOSED || !c->full || c->queue);
        if (c->queue)
            sendq_check(c->queue, net->protocols[c->protocol].length);
    }
}
