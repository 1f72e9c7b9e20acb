#include "ws/ws_conn.h"

#include "base/log.h"
#include "base/utf8.h"
#include "ws/ws_beat.h"

enum { TURN_MESSAGES = 32 }; /* of a connection that compresses */

bool ws_conn_send(struct ws_server *s, struct conn *c, enum ws_opcode opcode, struct slice data)
{
    uint8_t header[WS_HEADER_MAX];
    struct slice frame;
    if (c->flags & WS_DEFLATE && ws_deflate_frame(s->deflate, opcode, data, &frame)) {
        bool there = conn_write(s->net, c, frame, SLICE_NONE);
        ws_deflate_sent(s->deflate);
        return there;
    }
    size_t n = ws_frame_header(header, opcode, true, data.n);
    return conn_write(s->net, c, slice_of(header, n), data);
}

bool ws_conn_send_frame(struct ws_server *s, struct conn *c, struct slice frame)
{
    struct slice twin;
    bool compressed = c->flags & WS_DEFLATE && ws_deflate_twin(s->deflate, frame, &twin);
    bool there = conn_write(s->net, c, compressed ? twin : frame, SLICE_NONE);
    if (compressed)
        ws_deflate_sent(s->deflate);
    return there;
}

/* Code and reason; one that can't be sent: nothing. */
static size_t close_body(uint8_t out[WS_CONTROL_MAX], unsigned code, struct slice why)
{
    if (!ws_close_code_valid(code))
        return 0;
    size_t n = MIN(why.n, (size_t)WS_CONTROL_MAX - 2);
    out[0] = (uint8_t)(code >> 8);
    out[1] = (uint8_t)code;
    slice_copy(out + 2, slice_of(why.p, n));
    return n + 2;
}

/* true: a Close was sent now. */
static bool send_close(struct ws_server *s, struct conn *c, unsigned code, struct slice why)
{
    uint8_t body[WS_CONTROL_MAX];
    if (c->state != CONN_OPEN || c->flags & WS_CLOSE_SENT)
        return false;
    c->flags |= WS_CLOSE_SENT;
    ws_beat_end(c);
    if (!c->close_code)
        c->close_code = (uint16_t)code;
    return ws_conn_send(s, c, WS_CLOSE, slice_of(body, close_body(body, code, why)));
}

/* A Close that waited is among what was dropped: it is said again. */
static size_t last_words(void *owner, struct conn *c, uint8_t out[NET_LAST_WORDS])
{
    (void)owner;
    uint8_t body[WS_CONTROL_MAX];
    bool said = c->flags & WS_CLOSE_SENT;
    if (!said)
        c->close_code = close_code(CLOSE_SEND_QUEUE);
    c->flags |= WS_CLOSE_SENT;
    ws_beat_end(c);
    size_t n = close_body(body, c->close_code,
                          said ? SLICE_NONE : slice_str(close_text(CLOSE_SEND_QUEUE)));
    size_t head = ws_frame_header(out, WS_CLOSE, true, n);
    memcpy(out + head, body, n);
    return head + n;
}

void ws_conn_close(struct ws_server *s, struct conn *c, unsigned code, struct slice why,
                   enum close_reason reason)
{
    if (!send_close(s, c, code, why))
        return;
    conn_reason(c, reason);
    conn_timer(s->net, c, s->close_timeout_ms);
}

void ws_conn_fail(struct ws_server *s, struct conn *c, enum err e, enum close_reason reason)
{
    if (c->state != CONN_OPEN)
        return;
    metrics.errors_total[e]++;
    if (log_begin(LOG_connection_failed)) {
        log_id("conn_id", conn_id(c));
        log_text("code", slice_str(err_name(e)));
        log_text("detail", slice_str(err_text(e)));
        log_end();
    }
    send_close(s, c, err_close_code(e), slice_str(err_text(e)));
    conn_shutdown(s->net, c, reason);
}

static void peer_close(struct ws_server *s, struct conn *c, unsigned code)
{
    c->flags |= WS_CLEAN;
    if (!(c->flags & WS_CLOSE_SENT))
        c->close_code = (uint16_t)code;
    send_close(s, c, code, SLICE_NONE);
    conn_shutdown(s->net, c, CLOSE_PEER);
}

static void take_message(struct ws_server *s, struct conn *c, const struct ws_event *got)
{
    struct slice data = got->data;
    enum err e = ERR_NONE;
    if (got->compressed)
        e = ws_deflate_inflate(s->deflate, data, s->message_max, &data);
    if (!e && got->compressed && got->opcode == WS_TEXT && !utf8_valid(data))
        e = ERR_WS_UTF8;
    if (e) {
        ws_conn_fail(s, c, e, e == ERR_NO_MEMORY ? CLOSE_NO_MEMORY : CLOSE_PROTOCOL);
        return;
    }
    metrics.messages_received_total++;
    ws_beat_message(s, c);
    s->message(s->owner, c, (enum ws_opcode)got->opcode, data);
    if (got->compressed)
        ws_deflate_done(s->deflate);
}

static void take(struct ws_server *s, struct conn *c, const struct ws_event *got)
{
    if (got->opcode == WS_CLOSE)
        peer_close(s, c, got->close_code);
    else if (c->flags & WS_CLOSE_SENT)
        return; /* only the peer's Close matters now */
    else if (got->opcode == WS_PING)
        ws_conn_send(s, c, WS_PONG, got->data);
    else if (got->opcode == WS_PONG)
        ws_beat_pong(s, c, got->data);
    else
        take_message(s, c, got);
}

/* Inflating takes time that others wait for: a connection that may compress has turns. */
static enum conn_ready ready(void *owner, struct conn *c)
{
    struct ws_server *s = owner;
    if (c->flags & WS_CLOSE_SENT)
        return CONN_ALWAYS;
    if (ws_beat_holds(c))
        return CONN_HELD;
    enum conn_ready r = s->ready(s->owner, c);
    if (!(c->flags & WS_DEFLATE) || r < CONN_TURN)
        return r;
    return s->net->fed < TURN_MESSAGES && ws_deflate_ready(s->deflate) ? CONN_TURN : CONN_NO_ROOM;
}

/* Nothing more is read of a peer that does not read what that brings it. What has gathered may yet
 * fit the socket. */
static bool output_full(struct ws_server *s, struct conn *c)
{
    if (c->gathered)
        net_flush(s->net);
    if (c->state != CONN_OPEN)
        return true;
    if (!c->queue || conn_queued(c) <= s->pause_at)
        return false;
    metrics.reading_paused_total++;
    conn_pause_full(c);
    return true;
}

static size_t input(void *owner, struct conn *c, uint8_t *p, size_t n)
{
    struct ws_server *s = owner;
    struct ws_event got;
    struct ws_rx *rx = c->detail;
    enum conn_ready may = ready(s, c);
    if (may < CONN_TURN) {
        if (may == CONN_HELD)
            conn_hold(s->net, c);
        else
            conn_defer(s->net, c);
        return 0;
    }
    if (conn_queued(c) > s->pause_at && !(c->flags & WS_CLOSE_SENT) && output_full(s, c))
        return 0;
    bool partial = rx != NULL;
    struct ws_result r = ws_receive(&rx, p, n, s->message_max, c->flags & WS_DEFLATE, &got);
    c->detail = rx;
    if (r.state == WS_BAD) {
        ws_conn_fail(s, c, r.err, CLOSE_PROTOCOL);
        return n;
    }
    if (r.state == WS_MORE) {
        if (!partial && rx)
            ws_beat_partial(s, c, rx);
        return n;
    }
    take(s, c, &got);
    rx = c->detail;
    ws_rx_release(&rx);
    c->detail = rx;
    return r.consumed;
}

static void timeout(void *owner, struct conn *c)
{
    struct ws_server *s = owner;
    if (!(c->flags & WS_CLOSE_SENT)) {
        ws_beat_due(s, c);
        return;
    }
    if (conn_progressed(c)) {
        conn_timer(s->net, c, s->close_timeout_ms); /* our Close is behind what it takes */
        return;
    }
    metrics.close_timeouts_total++;
    conn_close(s->net, c, CLOSE_PEER); /* our Close, whose reason stands, was not answered */
}

static bool closed(void *owner, struct conn *c)
{
    struct ws_server *s = owner;
    if (!s->closed(s->owner, c))
        return false;
    struct ws_rx *rx = c->detail;
    ws_rx_free(&rx);
    c->detail = NULL;
    ws_beat_end(c);
    metrics.websockets_active--;
    metrics.websockets_deflate -= !!(c->flags & WS_DEFLATE);
    if (log_begin(LOG_connection_closed)) {
        log_id("conn_id", conn_id(c));
        log_text("close_reason", slice_str(close_name((enum close_reason)c->close_reason)));
        log_number("close_code", c->close_code);
        log_end();
    }
    return true;
}

static void drained(void *owner, struct conn *c)
{
    struct ws_server *s = owner;
    if (s->drained)
        s->drained(s->owner, c);
}

static bool drops_oldest(void *owner, struct conn *c)
{
    struct ws_server *s = owner;
    return s->drops_oldest && s->drops_oldest(s->owner, c);
}

void ws_server_init(struct ws_server *s, struct net *net, uint8_t protocol)
{
    uint32_t most = s->message_max + WS_HEADER_MAX; /* what an answer may add */
    s->net = net;
    s->pause_at = MIN(s->queue_max / 2, s->queue_max - MIN(most, s->queue_max));
    net->hold_ms = s->beat.demoted_per_s ? 1000 / s->beat.demoted_per_s : 1000;
    net->protocols[protocol] = (struct conn_protocol){.owner = s,
                                                      .cause = CAUSE_ws,
                                                      .queue_max = s->queue_max,
                                                      .resume_at = s->pause_at / 2,
                                                      .length = ws_frame_length,
                                                      .last_words = last_words,
                                                      .drops_oldest = drops_oldest,
                                                      .drained = drained,
                                                      .ready = ready,
                                                      .input = input,
                                                      .timeout = timeout,
                                                      .closed = closed};
}

void ws_server_done(struct ws_server *s)
{
    ws_deflate_free(s->deflate);
    s->deflate = NULL;
}

bool ws_server_deflate(struct ws_server *s)
{
    if (!s->deflate)
        s->deflate = ws_deflate_new(&s->net->loop->now_ns, s->compress_least);
    return s->deflate;
}

void ws_conn_start(struct ws_server *s, struct conn *c, uint8_t protocol, bool deflate)
{
    conn_timer(s->net, c, 0);
    conn_speak(s->net, c, protocol);
    c->flags = deflate ? WS_DEFLATE : 0;
    c->close_code = 0;
    metrics.websockets_active++;
    metrics.websockets_deflate += deflate;
    ws_beat_start(s, c);
}
