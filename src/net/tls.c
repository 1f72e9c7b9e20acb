#include <errno.h>

#include "base/log.h"
#include "net/sendq.h"
#include "net/tls_inner.h"

enum { ODD_MAX = 32 }; /* records running that are no data */
enum { PARTS = 64 };   /* slices a record */
enum { FILLS = 2 };    /* of raw in one turn: a record may be all but empty */
enum { ALERT_CLOSE = 0, ALERT_UNEXPECTED = 10, ALERT_CANCELED = 90, ALERT_NO_RENEGOTIATION = 100 };
enum { KEY_UPDATE = 24 }; /* a handshake message */

/* ---- the socket ---- */

bool tls_flush(struct net *net, struct conn *c, struct tls_conn *tc)
{
    if (!tc->out.len || tc->broken)
        return !tc->broken;
    ssize_t r = sys_send(c->fd, buf_slice(&tc->out));
    if (r > 0) {
        metrics.sent_bytes_total += (uint64_t)r;
        c->progressed = true;
        if (c->queue)
            c->queue->progressed = true;
        sendqs_memory(&net->queues, -(int64_t)r);
        buf_consume(&tc->out, (size_t)r);
        if (!tc->out.len)
            buf_done(&tc->out);
    } else if (r != -EAGAIN && r != -EINTR) {
        tc->broken = true;
    }
    return !tc->broken && !tc->out.len;
}

bool tls_put(struct net *net, struct conn *c, struct tls_conn *tc, struct slice s)
{
    size_t sent = 0;
    if (!tc->out.len && !tc->broken) {
        ssize_t r = sys_send(c->fd, s);
        tc->broken = r < 0 && r != -EAGAIN && r != -EINTR;
        sent = r > 0 ? (size_t)r : 0;
        metrics.sent_bytes_total += sent;
    }
    if (sent < s.n && !tc->broken) {
        tc->broken = buf_append(&tc->out, slice_of(s.p + sent, s.n - sent)) != ERR_NONE;
        sendqs_memory(&net->queues, tc->broken ? 0 : (int64_t)(s.n - sent));
    }
    return !tc->broken;
}

bool tls_fill(struct tls *t, struct conn *c, struct tls_conn *tc)
{
    if (!c->readable || tc->broken)
        return false;
    t->raw_n -= t->raw_at;
    memmove(t->raw, t->raw + t->raw_at, t->raw_n);
    t->raw_at = 0;
    size_t room = sizeof(t->raw) - t->raw_n;
    ssize_t r = sys_recv(c->fd, t->raw + t->raw_n, room);
    c->readable = r == (ssize_t)room || (r > 0 && c->end_seen) || r == -EINTR;
    tc->ended |= r == 0;
    tc->broken |= r < 0 && !c->readable && r != -EAGAIN;
    if (r <= 0)
        return false;
    metrics.received_bytes_total += (uint64_t)r;
    t->raw_n += (size_t)r;
    return true;
}

/* ---- failures ---- */

void tls_report(struct conn *c, enum err e, const char *detail)
{
    struct address peer;
    char text[ADDRESS_TEXT];
    bool refused = e == ERR_TLS_CLIENT;
    metrics.errors_total[e]++;
    if (!log_begin(refused ? LOG_tls_client_refused : LOG_tls_failed))
        return;
    log_id("conn_id", conn_id(c));
    if (refused && sys_peer(c->fd, &peer) == 0) {
        address_write(&peer, text);
        log_text("peer", slice_str(text));
    }
    log_text("code", slice_str(err_name(e)));
    log_text("detail", slice_str(detail ? detail : err_text(e)));
    log_end();
}

void tls_failed(struct net *net, struct conn *c, struct tls_conn *tc, enum err e,
                const char *detail)
{
    tls_report(c, e, detail);
    tls_slot_leave(net, tc);
    tc->state = TLS_FAILED;
    tc->notified = true; /* none after an alert */
    SSL_free(tc->ssl);
    tc->ssl = NULL;
    conn_shutdown(net, c, CLOSE_TLS);
}

static bool say(struct net *net, struct conn *c, struct tls_conn *tc, enum tls_type type,
                struct slice s)
{
    struct tls *t = net->tls;
    size_t n = tls_seal(&t->ciphers, &tc->keys, type, &s, 1, t->sealed);
    return n && tls_put(net, c, tc, slice_of(t->sealed, n));
}

static void alert(struct net *net, struct conn *c, struct tls_conn *tc, uint8_t what)
{
    const uint8_t bytes[] = {what == ALERT_CLOSE || what == ALERT_NO_RENEGOTIATION ? 1 : 2, what};
    if (!say(net, c, tc, TLS_ALERT, slice_of(bytes, sizeof(bytes))))
        tc->broken = true;
}

/* Always false: the connection has failed. */
static bool record_failed(struct net *net, struct conn *c, struct tls_conn *tc, uint8_t what)
{
    alert(net, c, tc, what);
    tls_failed(net, c, tc, ERR_TLS_PROTOCOL, NULL);
    return false;
}

/* Whether 1.2's key has done its work; the sequence number is far from its end then. */
static bool used_up(const struct tls *t, const struct tls_keys *keys, const struct tls_half *h)
{
    return !keys->v13 && h->seq >= t->limits.records;
}

/* What OpenSSL did not take of raw waits for the next time. */
static void raw_keep(struct net *net, struct conn *c, struct tls_conn *tc)
{
    struct tls *t = net->tls;
    struct slice rest = slice_of(t->raw + t->raw_at, t->raw_n - t->raw_at);
    t->raw_at = t->raw_n = 0;
    if (rest.n && c->state != CONN_CLOSED && buf_append(&tc->in, rest))
        conn_close(net, c, CLOSE_NO_MEMORY);
}

static void raw_restore(struct net *net, struct tls_conn *tc)
{
    struct tls *t = net->tls;
    t->raw_at = 0;
    t->raw_n = tc->in.len;
    slice_copy(t->raw, buf_slice(&tc->in));
    buf_done(&tc->in);
}

/* ---- data ---- */

/* 1.3: a KeyUpdate, or a part of it, with nothing behind it, as that has other keys (RFC 8446 5.1).
 * false: it is none. */
static bool update_take(struct tls_conn *tc, struct slice s)
{
    static const uint8_t update[] = {KEY_UPDATE, 0, 0, 1};
    if (!s.n || tc->update_n + s.n > sizeof(update) + 1)
        return false;
    for (size_t i = 0; i < s.n; i++, tc->update_n++)
        if (tc->update_n < sizeof(update) ? s.p[i] != update[tc->update_n] : s.p[i] > 1)
            return false;
    if (tc->update_n <= sizeof(update))
        return true;
    tc->update_n = 0;
    tc->update_due |= s.p[s.n - 1] == 1;
    return tls_half_next(&tc->keys.in, (enum tls_suite)tc->keys.suite);
}

/* What is no data. false: the connection has failed. */
static bool control(struct net *net, struct conn *c, struct tls_conn *tc,
                    const struct tls_opened *o)
{
    const uint8_t *p = o->data.p;
    size_t n = o->data.n;
    if (++tc->odd > ODD_MAX || (tc->update_n && o->type != TLS_HANDSHAKE_MESSAGE))
        return record_failed(net, c, tc, ALERT_UNEXPECTED);
    if (o->type == TLS_DATA)
        return true;
    if (o->type == TLS_ALERT && n == 2 && p[1] == ALERT_CLOSE) {
        tc->ended = true;
    } else if (o->type == TLS_ALERT && n == 2) {
        if (p[1] == ALERT_CANCELED || (!tc->keys.v13 && p[0] == 1))
            return true;
        tls_failed(net, c, tc, ERR_TLS_ALERT, NULL);
        return false;
    } else if (o->type == TLS_HANDSHAKE_MESSAGE && !tc->keys.v13) {
        if (!tc->out.len) /* who reads no answers gets no more of them */
            alert(net, c, tc, ALERT_NO_RENEGOTIATION);
    } else if (o->type != TLS_HANDSHAKE_MESSAGE || !update_take(tc, o->data)) {
        return record_failed(net, c, tc, ALERT_UNEXPECTED);
    }
    return true;
}

/* Copies of an opened record what there is room for; the rest moves up to what follows it. */
static size_t record_take(struct tls *t, struct tls_conn *tc, const struct tls_opened *o,
                          uint8_t *p, size_t room)
{
    size_t n = MIN(room, o->data.n), rest = o->data.n - n;
    memcpy(p, o->data.p, n);
    t->raw_at += o->consumed - rest;
    memmove(t->raw + t->raw_at, o->data.p + n, rest);
    tc->clear = (uint16_t)rest;
    tc->odd = 0;
    return n;
}

static ssize_t read_data(struct net *net, struct conn *c, struct tls_conn *tc, uint8_t *p, size_t n)
{
    struct tls *t = net->tls;
    size_t got = 0;
    unsigned fills = 0;
    if (tc->clear) {
        got = MIN(n, (size_t)tc->clear);
        memcpy(p, t->raw + t->raw_at, got);
        t->raw_at += got;
        tc->clear -= (uint16_t)got;
    }
    tc->more = true;
    while (got < n && !tc->ended) {
        if (used_up(t, &tc->keys, &tc->keys.in)) {
            alert(net, c, tc, ALERT_CLOSE);
            tls_failed(net, c, tc, ERR_TLS_RECORDS, NULL);
            return -EINTR;
        }
        struct tls_opened o = tls_open(&t->ciphers, &tc->keys, t->raw + t->raw_at,
                                       t->raw_n - t->raw_at);
        if (o.state == TLS_RECORD_BAD) {
            record_failed(net, c, tc, o.alert);
            return -EINTR;
        }
        if (o.state == TLS_RECORD_DONE && o.type == TLS_DATA && o.data.n && !tc->update_n) {
            got += record_take(t, tc, &o, p + got, n - got);
        } else if (o.state == TLS_RECORD_DONE) {
            t->raw_at += o.consumed;
            if (!control(net, c, tc, &o))
                return -EINTR;
        } else if (fills++ == FILLS || !tls_fill(t, c, tc)) {
            if (tc->ended)
                tls_report(c, ERR_TLS_TRUNCATED, NULL);
            tc->more = tc->ended || tc->broken;
            break;
        }
    }
    tc->more &= got > 0;
    if (tc->broken && !got)
        return -ECONNRESET;
    return got ? (ssize_t)got : tc->ended ? 0 : -EAGAIN;
}

ssize_t tls_recv(struct net *net, struct conn *c, void *p, size_t n)
{
    struct tls_conn *tc = tls_of(net, c);
    if (c->state != CONN_OPEN) { /* no more of it is wanted */
        tc->more = false;
        ssize_t r = sys_recv(c->fd, p, n);
        c->readable = r > 0 || r == -EINTR;
        return r;
    }
    net->tls->now = c;
    raw_restore(net, tc);
    if (tc->state != TLS_OPEN) {
        int r = tls_handshake(net, c, tc);
        if (r <= 0) {
            if (c->state == CONN_OPEN)
                raw_keep(net, c, tc);
            return r < 0 ? -EINTR : -EAGAIN;
        }
    }
    ssize_t r = read_data(net, c, tc, p, n);
    if (c->state == CONN_OPEN)
        raw_keep(net, c, tc);
    return r;
}

bool tls_more(const struct net *net, const struct conn *c)
{
    const struct tls_conn *tc = tls_of(net, c);
    return c->readable || tc->more;
}

uint32_t tls_waits(const struct net *net, const struct conn *c)
{
    return tls_of(net, c)->out.len;
}

/* What is to be sealed: n slices, of the first of which `at` bytes have been. */
struct source {
    const struct slice *v;
    unsigned n;
    size_t at;
};

/* Takes up to `most` bytes; returns how many slices out has then. */
static unsigned source_take(struct source *s, size_t most, struct slice out[PARTS])
{
    unsigned n = 0;
    while (s->n && most && n < PARTS) {
        size_t take = MIN(s->v->n - s->at, most);
        if (take)
            out[n++] = slice_of(s->v->p + s->at, take);
        s->at += take;
        most -= take;
        if (s->at == s->v->n) {
            s->v++;
            s->n--;
            s->at = 0;
        }
    }
    return n;
}

static size_t source_left(const struct source *s)
{
    size_t left = 0;
    for (unsigned i = 0; i < s->n; i++)
        left += s->v[i].n;
    return left - s->at;
}

/* New keys of ours, where the peer asked for some or these have sealed enough. */
static size_t update_seal(struct tls *t, struct tls_conn *tc)
{
    static const uint8_t update[] = {KEY_UPDATE, 0, 0, 1, 0};
    const struct slice s = slice_of(update, sizeof(update));
    struct tls_keys *keys = &tc->keys;
    if (!keys->v13 || (!tc->update_due && keys->out.seq < t->limits.records))
        return 0;
    tc->update_due = false;
    size_t n = tls_seal(&t->ciphers, keys, TLS_HANDSHAKE_MESSAGE, &s, 1, t->sealed);
    tc->broken |= !n || !tls_half_next(&keys->out, (enum tls_suite)keys->suite);
    return n;
}

/* Seals what a batch has room for. */
static bool batch_send(struct net *net, struct conn *c, struct tls_conn *tc, struct source *s)
{
    struct tls *t = net->tls;
    struct slice parts[PARTS];
    size_t at = update_seal(t, tc);
    if (used_up(t, &tc->keys, &tc->keys.out)) { /* what waits is lost: the caller closes */
        alert(net, c, tc, ALERT_CLOSE);
        tls_report(c, ERR_TLS_RECORDS, NULL);
        conn_reason(c, CLOSE_TLS);
        tc->notified = true;
        return false;
    }
    while (s->n && at + TLS_SEALED <= sizeof(t->sealed)) {
        unsigned n_parts = source_take(s, tc->most, parts);
        size_t n = n_parts
                       ? tls_seal(&t->ciphers, &tc->keys, TLS_DATA, parts, n_parts, t->sealed + at)
                       : 0;
        tc->broken |= n_parts && !n;
        at += n;
    }
    return tls_put(net, c, tc, slice_of(t->sealed, at));
}

/* A byte is owed only where all that the caller has is sealed: elsewhere its queue is not empty
 * anyway, and a frame of which nothing is said to be sent may be dropped by it. */
ssize_t tls_send(struct net *net, struct conn *c, const struct slice *v, unsigned n)
{
    struct tls_conn *tc = tls_of(net, c);
    struct source s = {v, n, 0};
    size_t all = source_left(&s);
    bool last = !c->queue || c->queue->bytes == all;
    if (!tls_flush(net, c, tc))
        return tc->broken ? -EPIPE : -EAGAIN;
    if (tc->owed)
        source_take(&s, 1, (struct slice[PARTS]){SLICE_NONE});
    tc->owed = false;
    while (s.n && !tc->out.len)
        if (tc->state != TLS_OPEN || !batch_send(net, c, tc, &s))
            return -EPIPE;
    tc->owed = tc->out.len && !s.n && last;
    size_t taken = all - source_left(&s) - tc->owed;
    return taken ? (ssize_t)taken : -EAGAIN;
}

/* ---- the ends ---- */

static bool places_grow(struct tls *t, uint32_t least)
{
    uint32_t n = MAX(t->n_places * 2, POOL_CHUNK);
    while (n < least)
        n *= 2;
    uint32_t *places = mem_alloc(n * sizeof(*places));
    if (!places)
        return false;
    slice_copy(places, slice_of(t->places, t->n_places * sizeof(*places)));
    mem_free(t->places, t->n_places * sizeof(*places));
    t->places = places;
    t->n_places = n;
    return true;
}

void tls_start(struct net *net, struct conn *c, uint32_t listener)
{
    struct tls *t = net->tls;
    bool place = c->slot.index < t->n_places || places_grow(t, c->slot.index + 1);
    struct tls_conn *tc = place ? pool_alloc(&t->conns) : NULL;
    if (!tc) {
        conn_close(net, c, CLOSE_NO_MEMORY);
        return;
    }
    c->tls = true;
    t->places[c->slot.index] = tc->slot.index;
    tc->conn = conn_id(c);
    tc->listener = (uint8_t)listener;
    list_init(&tc->node);
    buf_init(&tc->in, TLS_RAW);
    buf_init(&tc->out, UINT32_MAX); /* nothing is written while something waits */
    conn_timer(net, c, t->limits.handshake_ms);
}

static void notify(struct net *net, struct conn *c, struct tls_conn *tc)
{
    if (tc->state == TLS_OPEN && !tc->notified && !tc->broken)
        alert(net, c, tc, ALERT_CLOSE);
    tc->notified = true;
}

void tls_end(struct net *net, struct conn *c)
{
    struct tls_conn *tc = tls_of(net, c);
    notify(net, c, tc);
    if (!tc->out.len)
        sys_shutdown_write(c->fd);
}

void tls_writable(struct net *net, struct conn *c)
{
    struct tls_conn *tc = tls_of(net, c);
    if (tc->out.len && tls_flush(net, c, tc) && tc->notified && c->state == CONN_LINGER)
        sys_shutdown_write(c->fd);
}

void tls_close(struct net *net, struct conn *c)
{
    struct tls_conn *tc = tls_of(net, c);
    if (!c->queue)
        notify(net, c, tc);
    tls_slot_leave(net, tc);
    SSL_free(tc->ssl);
    OPENSSL_cleanse(&tc->keys, sizeof(tc->keys));
    sendqs_memory(&net->queues, -(int64_t)tc->out.len);
    buf_done(&tc->in);
    buf_done(&tc->out);
    pool_free(&net->tls->conns, tc);
    c->tls = false;
}
