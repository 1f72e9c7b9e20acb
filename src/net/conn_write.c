/* The writing half of conn.h: what gathers, what is sent, what waits, and what becomes of peers
 * that leave too much unread. */
#include "net/conn_write.h"

#include <errno.h>

#include "net/tls.h"

enum { PARTS = 64 };

/* What one write gives to a peer: whole frames, or a piece of a stream. */
struct piece {
    struct slice a, b;
    struct frame *frame; /* a is all of it; NULL: own bytes, which are copied if they must wait */
    frame_length *length;
};

void conn_queue_free(struct net *net, struct conn *c)
{
    if (!c->queue)
        return;
    wheel_cancel(&net->loop->wheel, &c->queue->timer);
    sendq_free(&net->queues, c->queue);
    c->queue = NULL;
}

void conn_queue_watch(struct net *net, struct conn *c)
{
    if (c->queue && net->protocols[c->protocol].length)
        wheel_set(&net->loop->wheel, &c->queue->timer, net->limits.send_ms);
}

static struct sendq *sendq_of(struct net *net, struct conn *c)
{
    if (!c->queue && (c->queue = sendq_new(&net->queues, c)) != NULL) {
        c->queue->timer.kind = LOOP_QUEUE;
        conn_queue_watch(net, c);
    }
    return c->queue;
}

enum err conn_queue_restore(struct net *net, struct conn *c, const struct conn_rest *rest)
{
    if (!rest->queue.n)
        return ERR_NONE;
    struct sendq *q = sendq_of(net, c);
    return !q ? ERR_NO_MEMORY
              : sendq_restore(&net->queues, q, rest->queue, rest->begun,
                              net->protocols[c->protocol].length);
}

/* All bytes to peers leave here. */
static ssize_t transmit(struct net *net, struct conn *c, const struct slice *v, unsigned n)
{
    ssize_t r = c->tls   ? tls_send(net, c, v, n)
                : n == 1 ? sys_send(c->fd, v[0])
                         : sys_sendv(c->fd, v, n);
    if (r > 0 && !c->tls)
        metrics.sent_bytes_total += (uint64_t)r;
    return r == -EAGAIN || r == -EINTR ? 0 : r;
}

/* What waits has become less. */
static void drain_check(struct net *net, struct conn *c)
{
    const struct conn_protocol *p = &net->protocols[c->protocol];
    uint32_t queued = conn_queued(c);
    if (c->full && queued <= p->resume_at) {
        c->full = false;
        conn_go_on(net, c);
    }
    if (!c->watched || c->state != CONN_OPEN || queued > p->queue_max / 4)
        return;
    c->watched = false;
    p->drained(p->owner, c);
}

/* ---- slow readers ---- */

/* Whether it still takes what is written. */
static bool takes(const struct conn *c)
{
    return c->state != CONN_CLOSED && !(c->queue && c->queue->cut);
}

static void slow_reset(struct net *net, struct conn *c)
{
    metrics.slow_reset_total++;
    sys_reset(c->fd);
    conn_close(net, c, CLOSE_SEND_QUEUE);
}

/* Nothing of a frame that began is missing; then its last words, and it has slow_ms to take them.
 */
static void end_slow(struct net *net, struct conn *c)
{
    const struct conn_protocol *p = &net->protocols[c->protocol];
    uint8_t words[NET_LAST_WORDS];
    metrics.slow_closed_total++;
    if (!p->length) {
        conn_close(net, c, CLOSE_SEND_QUEUE);
        return;
    }
    struct slice last = slice_of(words, p->last_words(p->owner, c, words));
    struct sendq *q = sendq_of(net, c);
    if (q)
        metrics.frames_dropped_total += sendq_cut(&net->queues, q, p->length);
    if (!q || sendq_append(&net->queues, q, last, SLICE_NONE, 0, p->length)) {
        conn_close(net, c, CLOSE_NO_MEMORY);
        return;
    }
    conn_end(net, c, CLOSE_SEND_QUEUE);
    wheel_set(&net->loop->wheel, &q->timer, net->limits.slow_ms);
}

static bool drop_oldest(struct net *net, struct conn *c, uint32_t least)
{
    const struct conn_protocol *p = &net->protocols[c->protocol];
    if (!c->queue || !p->length || c->state != CONN_OPEN || !p->drops_oldest(p->owner, c))
        return false;
    uint32_t n = sendq_drop(&net->queues, c->queue, p->length, least, false);
    metrics.frames_dropped_total += n;
    return n > 0;
}

/* Makes room for a piece of which `sent` bytes have gone; false: it is given up. */
static bool room_make(struct net *net, struct conn *c, const struct piece *piece, size_t sent)
{
    const struct conn_protocol *p = &net->protocols[c->protocol];
    uint64_t most = (uint64_t)p->queue_max + NET_LAST_WORDS, n = piece->a.n + piece->b.n - sent;
    uint32_t have = c->queue ? c->queue->bytes : 0;
    if (n + have <= most)
        return true;
    /* More than is needed, so that it is not gone through again for each message. */
    if (drop_oldest(net, c, (uint32_t)MIN(n + have - most + p->queue_max / 8, UINT32_MAX)) &&
        n + c->queue->bytes <= most)
        return true;
    if (sent && p->length)
        slow_reset(net, c); /* what has begun can't be ended */
    else
        end_slow(net, c);
    return false;
}

/* Past limits.queues, who leaves most unread goes first: also one that was given up before, and has
 * not taken what it still gets. */
static void budget_keep(struct net *net)
{
    struct sendq *q;
    while (net->queues.memory > net->limits.queues && (q = sendqs_largest(&net->queues)) != NULL) {
        metrics.queues_exceeded_total++;
        struct conn *c = q->conn;
        if (q->cut) {
            slow_reset(net, c);
        } else if (!drop_oldest(net, c, UINT32_MAX)) {
            end_slow(net, c);
        } else if (!q->bytes) {
            conn_queue_free(net, c);
            drain_check(net, c);
        }
    }
}

static void sendq_timer(void *arg, struct timer *t)
{
    struct net *net = arg;
    struct sendq *q = CONTAINER_OF(t, struct sendq, timer);
    if (q->cut) {
        slow_reset(net, q->conn);
    } else if (q->progressed) {
        q->progressed = false;
        wheel_set(&net->loop->wheel, t, net->limits.send_ms);
    } else {
        end_slow(net, q->conn);
    }
}

/* ---- writing ---- */

/* Who leaves sealed records unread is as slow as who leaves frames. */
static void below_tell(struct net *net, const struct conn *c)
{
    if (c->tls && c->queue)
        sendq_below(&net->queues, c->queue, tls_waits(net, c));
}

static void enqueue(struct net *net, struct conn *c, const struct piece *piece, size_t sent)
{
    if (!room_make(net, c, piece, sent))
        return;
    struct sendq *q = sendq_of(net, c);
    enum err e = !q ? ERR_NO_MEMORY
                 : piece->frame
                     ? sendq_push(&net->queues, q, piece->frame, sent)
                     : sendq_append(&net->queues, q, piece->a, piece->b, sent, piece->length);
    below_tell(net, c);
    if (e)
        conn_close(net, c, CLOSE_NO_MEMORY);
    else
        budget_keep(net);
}

/* Sends what is written at one time; what the socket does not take waits. */
static void write_through(struct net *net, struct conn *c, const struct piece *pieces, unsigned n)
{
    struct slice v[2 * PARTS];
    size_t sent = 0;
    if (!c->queue) {
        unsigned n_v = 0;
        for (unsigned i = 0; i < n; i++) {
            v[n_v++] = pieces[i].a;
            if (pieces[i].b.n)
                v[n_v++] = pieces[i].b;
        }
        ssize_t r = transmit(net, c, v, n_v);
        if (r < 0) {
            conn_close(net, c, CLOSE_PEER_RESET);
            return;
        }
        sent = (size_t)r;
    }
    for (unsigned i = 0; i < n; i++) {
        size_t size = pieces[i].a.n + pieces[i].b.n;
        if (sent >= size) {
            sent -= size;
            continue;
        }
        if (!takes(c))
            metrics.frames_dropped_total += c->state != CONN_CLOSED;
        else
            enqueue(net, c, &pieces[i], sent);
        sent = 0;
    }
}

void net_flush(struct net *net)
{
    struct piece pieces[PARTS];
    size_t at = 0;
    net->flushing = true;
    for (uint32_t i = 0, n, sum; i < net->n_entries; i += n) {
        const struct net_gathered *first = &net->entries[i], *e = first;
        for (n = sum = 0; i + n < net->n_entries && n < PARTS; n++, e++) {
            if (e->slot != first->slot || e->generation != first->generation)
                break;
            struct slice own = slice_of(net->gather + at, e->frame ? 0 : e->len);
            pieces[n] = (struct piece){.a = e->frame ? frame_slice(e->frame) : own,
                                       .frame = e->frame,
                                       .length = net->protocols[e->protocol].length};
            at += own.n;
            sum += e->len;
        }
        struct conn *c = pool_get(&net->conns, first->slot, first->generation);
        if (c && c->state != CONN_CLOSED) {
            c->gathered -= (uint16_t)sum;
            write_through(net, c, pieces, n);
            drain_check(net, c);
        }
        for (uint32_t j = 0; j < n; j++)
            if (pieces[j].frame)
                frame_release(pieces[j].frame);
    }
    net->n_entries = net->gathered = net->copied = 0;
    net->flushing = false;
}

static void gather(struct net *net, struct conn *c, const struct piece *p)
{
    struct net_gathered *last = net->n_entries ? &net->entries[net->n_entries - 1] : NULL;
    uint32_t n = (uint32_t)(p->a.n + p->b.n);
    if (!p->frame) {
        slice_copy(net->gather + net->copied, p->a);
        slice_copy(net->gather + net->copied + p->a.n, p->b);
        net->copied += n;
    }
    net->gathered += n;
    c->gathered += (uint16_t)n;
    if (last && !p->frame && !last->frame && last->slot == c->slot.index &&
        last->generation == c->slot.generation && last->protocol == c->protocol)
        last->len += n;
    else
        net->entries[net->n_entries++] = (struct net_gathered){
            c->slot.index, c->slot.generation, n, c->protocol,
            p->frame ? frame_hold(p->frame) : NULL};
}

static bool write_piece(struct net *net, struct conn *c, const struct piece *p)
{
    if (c->state != CONN_OPEN)
        return false;
    size_t n = p->a.n + p->b.n;
    bool small = n <= NET_GATHER_ONE && !c->queue;
    bool full = net->gathered + n > NET_GATHER || net->n_entries == NET_GATHER_CONNS;
    if (full || (c->gathered && !small)) {
        net_flush(net);
        if (c->state != CONN_OPEN)
            return false;
    }
    if (small && !c->queue)
        gather(net, c, p);
    else
        write_through(net, c, p, 1);
    return c->state == CONN_OPEN;
}

bool conn_write(struct net *net, struct conn *c, struct slice a, struct slice b)
{
    const struct piece p = {a, b, NULL, net->protocols[c->protocol].length};
    return a.n + b.n ? write_piece(net, c, &p) : c->state == CONN_OPEN;
}

bool conn_write_frame(struct net *net, struct conn *c, struct frame *f)
{
    const struct piece p = {frame_slice(f), SLICE_NONE, f, net->protocols[c->protocol].length};
    return write_piece(net, c, &p);
}

void conn_flush_queue(struct net *net, struct conn *c)
{
    struct slice v[PARTS];
    size_t want;
    ssize_t r;
    do {
        unsigned n = sendq_parts(c->queue, v, PARTS);
        want = 0;
        for (unsigned i = 0; i < n; i++)
            want += v[i].n;
        r = transmit(net, c, v, n);
        if (r < 0) {
            conn_close(net, c, CLOSE_PEER_RESET);
            return;
        }
        sendq_sent(&net->queues, c->queue, (size_t)r);
        c->progressed |= r > 0;
    } while (c->queue->bytes && (size_t)r == want);
    below_tell(net, c);
    bool all = !c->queue->bytes;
    if (all)
        conn_queue_free(net, c);
    drain_check(net, c);
    if (all && c->state != CONN_CLOSED)
        conn_sent_all(net, c);
    else if (!all && c->tls)
        budget_keep(net); /* what is sealed takes more than what it was */
}

void net_write_init(struct net *net)
{
    sendqs_init(&net->queues);
    loop_on(net->loop, LOOP_QUEUE, NULL, sendq_timer, net);
}
