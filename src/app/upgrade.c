/* The opening handshake (RFC 6455 4.2), and what becomes of messages: to a guest, or echoed. */
#include "app/loops.h"
#include "base/log.h"
#include "base/probe.h"
#include "ws/ws_extension.h"
#include "ws/ws_handshake.h"

struct guest_module *upgrade_module(struct gateway *gw, const struct conn *c)
{
    int m = gw->config.routes[c->route].module;
    return m < 0 ? NULL : gateway_module(gw, (uint32_t)m, c);
}

static const struct weir_entry *entry_of(const struct guest_module *m, enum guest_export x)
{
    return m ? m->exports[x] : NULL;
}

static enum conn_ready ready(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    const struct guest_module *m = upgrade_module(gw, c);
    if (gw->leaving)
        return CONN_NO_TIME;
    if (m)
        return gateway_ready(gw, m);
    bool echo = gw->config.routes[c->route].handler == HANDLER_ECHO;
    return echo ? CONN_ALWAYS
           : topics_room(&gw->topics, 1, gw->config.limits.message) &&
                   loops_room(gw, gw->config.limits.message)
               ? CONN_TURN
               : CONN_NO_ROOM;
}

static const struct config_route *route_of(const struct gateway *gw, const struct conn *c)
{
    return &gw->config.routes[c->route];
}

static struct slice public_space(const struct config_route *route)
{
    return slice_str(route->space ? route->space : "public");
}

static void count_sent(const struct conn *c, size_t bytes)
{
    metrics.messages_sent_total++;
    PROBE(message_out, conn_id(c), bytes);
}

/* The handlers echo and pubsub: to all in the sender's topic, of which it has one. */
static void built_in(struct gateway *gw, struct conn *c, enum ws_opcode kind, struct slice data)
{
    const struct config_route *route = route_of(gw, c);
    const struct hub_conn *h = c->hub;
    if (route->handler == HANDLER_ECHO) {
        count_sent(c, data.n);
        ws_conn_send(&gw->ws, c, kind, data);
        return;
    }
    const struct topic *topic = h->members->topic;
    size_t space_n = public_space(route).n + 1;
    uint8_t header[WS_HEADER_MAX];
    size_t n = ws_frame_header(header, kind, true, data.n);
    enum err e = loops_publish(gw, public_space(route),
                               slice_of(topic->key + space_n, topic->key_n - space_n), 0,
                               slice_of(header, n), data);
    if (e)
        ws_conn_fail(&gw->ws, c, e, CLOSE_NO_MEMORY);
}

bool upgrade_in_room(const struct gateway *gw, const struct conn *c)
{
    const struct hub_conn *h = c->hub;
    struct slice space = public_space(route_of(gw, c));
    return h && h->members && h->members->topic->key_n > space.n &&
           memcmp(h->members->topic->key, space.p, space.n + 1) == 0; /* with its zero byte */
}

void upgrade_forget(struct gateway *gw, struct conn *c)
{
    struct ws_rx *rx = c->detail;
    ws_rx_free(&rx);
    c->detail = NULL;
    topics_conn_free(&gw->topics, c);
}

void upgrade_send(struct gateway *gw, struct conn *c, struct slice frame)
{
    count_sent(c, frame.n);
    ws_conn_send_frame(&gw->ws, c, frame);
    if (conn_queued(c) > gw->ws.queue_max / 2)
        conn_watch(c);
}

/* Compressed once for all that want it so, when the first of them is reached. */
static struct frame *compressed(struct gateway *gw, struct frame *f)
{
    struct slice twin;
    if (f->twin)
        return f->twin;
    f->twin = f;
    if (ws_deflate_twin(gw->ws.deflate, frame_slice(f), &twin)) {
        struct frame *made = frame_new(twin, SLICE_NONE);
        f->twin = made ? made : f;
        ws_deflate_sent(gw->ws.deflate);
    }
    return f->twin;
}

void upgrade_deliver(void *owner, struct conn *c, struct frame *frame)
{
    struct gateway *gw = owner;
    if (c->protocol != PROTOCOL_WS || c->flags & WS_CLOSE_SENT)
        return;
    count_sent(c, frame_slice(frame).n);
    conn_write_frame(&gw->net, c, c->flags & WS_DEFLATE ? compressed(gw, frame) : frame);
    if (conn_queued(c) > gw->ws.queue_max / 2)
        conn_watch(c);
}

static bool drops_oldest(void *owner, struct conn *c)
{
    return route_of(owner, c)->drops_oldest;
}

static void drained(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    uint64_t id = conn_id(c);
    if (c->flags & WS_DRAIN_DUE || !entry_of(upgrade_module(gw, c), GUEST_on_ws_drain))
        return;
    if (buf_append(&gw->drains, slice_of(&id, sizeof(id))) == ERR_NONE)
        c->flags |= WS_DRAIN_DUE;
    else
        conn_watch(c); /* when there is more to send */
}

/* true: it need not be asked again. */
static bool drain_event(struct gateway *gw, uint64_t id)
{
    struct conn *c = conn_get(&gw->net, id);
    struct guest_module *m = c ? upgrade_module(gw, c) : NULL;
    const struct weir_entry *entry = entry_of(m, GUEST_on_ws_drain);
    if (!entry || c->flags & WS_CLOSE_SENT)
        return true;
    if (c->holds || guests_queue_full(&gw->guests))
        return false; /* events of a connection run one at a time */
    struct event *ev = event_new(gw, c, GUEST_on_ws_drain, m, entry);
    if (!ev)
        return false;
    c->flags &= (uint8_t)~WS_DRAIN_DUE;
    guest_arg(&ev->call, WASMTIME_I64, id);
    ev->kept = true;
    conn_pause(c);
    if (event_queue(ev) == ERR_NONE)
        return true;
    c->flags |= WS_DRAIN_DUE;
    conn_resume(&gw->net, c);
    return false;
}

void upgrade_drains(struct gateway *gw)
{
    if (gw->leaving)
        return; /* they are told by the next worker */
    size_t n = gw->drains.len / sizeof(uint64_t), kept = 0;
    uint64_t *ids = (uint64_t *)gw->drains.p;
    for (size_t i = 0; i < n; i++)
        if (!drain_event(gw, ids[i]))
            ids[kept++] = ids[i];
    gw->drains.len = (uint32_t)(kept * sizeof(uint64_t));
    if (!kept)
        buf_clear(&gw->drains, 0);
}

static struct slice auto_reply(const struct config_route *route, struct slice data)
{
    for (uint32_t i = 0; i + 1 < route->auto_replies.n; i += 2)
        if (slice_eq(slice_str(route->auto_replies.v[i]), data))
            return slice_str(route->auto_replies.v[i + 1]);
    return SLICE_NONE;
}

static void message(void *owner, struct conn *c, enum ws_opcode kind, struct slice data)
{
    struct gateway *gw = owner;
    const struct config_route *route = route_of(gw, c);
    struct slice answer = kind == WS_TEXT ? auto_reply(route, data) : SLICE_NONE;
    PROBE(message_in, conn_id(c), route->path, kind, data.n);
    if (answer.n) {
        metrics.auto_replies_total++;
        count_sent(c, answer.n);
        metrics_message(gateway_topic(c));
        ws_conn_send(&gw->ws, c, WS_TEXT, answer);
        return;
    }
    struct guest_module *m = upgrade_module(gw, c);
    if (!m) {
        metrics_message(gateway_topic(c));
        built_in(gw, c, kind, data);
        return;
    }
    const struct weir_entry *entry = entry_of(m, GUEST_on_ws_message);
    if (!entry)
        return;
    /* What has gathered may well fit the socket: only what does not shall count against the guest.
     */
    if (c->gathered > gw->ws.queue_max / 4)
        net_flush(&gw->net);
    struct event *ev = event_new(gw, c, GUEST_on_ws_message, m, entry);
    if (!ev) {
        ws_conn_fail(&gw->ws, c, ERR_NO_MEMORY, CLOSE_NO_MEMORY);
        return;
    }
    ev->message = data;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    guest_arg(&ev->call, WASMTIME_I32, kind);
    guest_arg(&ev->call, WASMTIME_I32, data.n);
    enum err e = event_start(ev);
    if (e)
        ws_conn_fail(&gw->ws, c, e, CLOSE_LIMIT);
}

/* Once for each WebSocket, as the last of its events: not before a guest can be told. */
static bool closed(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    struct guest_module *m = upgrade_module(gw, c);
    const struct weir_entry *entry = entry_of(m, GUEST_on_ws_close);
    topics_leave_all(&gw->topics, c);
    if (!entry || !(c->flags & WS_OPENED)) {
        topics_conn_free(&gw->topics, c);
        return true;
    }
    if (c->holds || guests_queue_full(&gw->guests))
        return false;
    struct event *ev = event_new(gw, c, GUEST_on_ws_close, m, entry);
    if (!ev)
        return false;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    guest_arg(&ev->call, WASMTIME_I32, c->close_code ? c->close_code : 1006);
    guest_arg(&ev->call, WASMTIME_I32, !!(c->flags & WS_CLEAN));
    return event_queue(ev) == ERR_NONE;
}

static void open_event(struct gateway *gw, struct conn *c, struct guest_module *m,
                       struct http_exchange *ex)
{
    c->flags |= WS_OPENED;
    struct event *ev = NULL;
    if (entry_of(m, GUEST_on_ws_open))
        ev = event_new(gw, c, GUEST_on_ws_open, m, m->exports[GUEST_on_ws_open]);
    if (!ev) {
        http_exchange_free(ex);
        if (entry_of(m, GUEST_on_ws_open))
            ws_conn_fail(&gw->ws, c, ERR_NO_MEMORY, CLOSE_NO_MEMORY);
        return;
    }
    ev->ex = ex; /* req_get works in on_ws_open; the event frees it */
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    enum err e = event_start(ev);
    if (e) {
        c->flags &= (uint8_t)~WS_OPENED; /* it was not told of, so neither is its end */
        ws_conn_fail(&gw->ws, c, e, CLOSE_LIMIT);
    }
}

/* The first protocol of the route's list that the client offers. */
static struct slice protocol_choose(const struct config_route *route,
                                    const struct http_exchange *ex)
{
    for (uint32_t i = 0; i < route->subprotocols.n; i++) {
        struct slice protocol = slice_str(route->subprotocols.v[i]);
        if (http_field_list_has(&ex->req, ex->head, SLICE("sec-websocket-protocol"), protocol))
            return protocol;
    }
    return SLICE_NONE;
}

/* What a route's last * stands for in this request, or all of its path. */
static struct slice pubsub_topic(const struct config_route *route, const struct http_exchange *ex)
{
    struct slice path = http_span_slice(ex->head, ex->req.path), own = slice_str(route->path);
    size_t skip = own.p[own.n - 1] == '*' ? own.n - 1 : 0;
    return slice_of(path.p + skip, path.n - skip);
}

/* ERR_WS_HANDSHAKE: the field is malformed, which matters where extensions are looked at. */
static enum err extension_choose(const struct config_route *route, const struct http_exchange *ex,
                                 struct ws_deflate_offer *out)
{
    *out = (struct ws_deflate_offer){0};
    for (uint32_t i = 0; route->compress && i < ex->req.n_fields; i++) {
        const struct http_field *f = &ex->req.fields[i];
        if (!slice_eq_nocase(http_span_slice(ex->head, f->name), SLICE("sec-websocket-extensions")))
            continue;
        enum err e = ws_deflate_negotiate(http_span_slice(ex->head, f->value), out);
        if (e)
            return e;
    }
    return ERR_NONE;
}

void upgrade_accept(struct gateway *gw, struct conn *c, struct slice fields, bool chosen)
{
    static const char head[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\nSec-WebSocket-Accept: ";
    const struct http_exchange *ex = c->detail;
    const struct config_route *route = &gw->config.routes[c->route];
    struct slice protocol = protocol_choose(route, ex);
    struct ws_deflate_offer offer;
    bool deflate = !extension_choose(route, ex, &offer) && offer.taken &&
                   ws_server_deflate(&gw->ws);
    char accept[29];
    enum err e = access_join(gw, c, ex);
    if (e) {
        http_exchange_fail(&gw->http, c, e, SLICE_NONE, SLICE_NONE);
        return;
    }
    ws_accept_key(http_exchange_field(ex, SLICE("sec-websocket-key")), accept);
    metrics.http_requests_total++;
    bool ok = conn_write(&gw->net, c, slice_of(head, sizeof(head) - 1), slice_of(accept, 28));
    if (ok && protocol.n && !chosen)
        ok = conn_write(&gw->net, c, SLICE("\r\nSec-WebSocket-Protocol: "), protocol);
    if (ok && deflate)
        ok = conn_write(&gw->net, c, SLICE("\r\nSec-WebSocket-Extensions: "),
                        ws_deflate_answer(&offer));
    ok = ok && conn_write(&gw->net, c, SLICE("\r\n"), fields) &&
         conn_write(&gw->net, c, SLICE("\r\n"), SLICE_NONE);
    struct slice topic = pubsub_topic(route, ex);
    enum err joined = ERR_NONE;
    if (route->handler == HANDLER_PUBSUB)
        joined = topics_join(&gw->topics, c, public_space(route), topic);
    struct address client;
    char peer[ADDRESS_TEXT] = "";
    if (log_wants(LOG_connection_open) && access_client(gw, c, ex, &client))
        address_write(&client, peer);
    if (gw->http.answered)
        gw->http.answered(gw, c, ex, 101, 0);
    struct http_exchange *kept = http_exchange_detach(c);
    ws_conn_start(&gw->ws, c, PROTOCOL_WS, deflate);
    PROBE(handshake, conn_id(c), route->path, deflate);
    if (log_begin(LOG_connection_open)) {
        log_id("conn_id", conn_id(c));
        log_text("path", slice_str(route->path));
        log_text("peer", slice_str(peer));
        log_end();
    }
    if (ok)
        open_event(gw, c, upgrade_module(gw, c), kept);
    else
        http_exchange_free(kept);
    if (joined)
        ws_conn_fail(&gw->ws, c, joined, CLOSE_NO_MEMORY);
    if (gw->draining) /* it began before that */
        ws_conn_close(&gw->ws, c, err_close_code(ERR_DRAINING), SLICE_NONE, CLOSE_SHUTDOWN);
}

/* What is wrong with the client's handshake. */
static enum err handshake_check(const struct http_exchange *ex, const struct config_route *route)
{
    struct slice key = http_exchange_field(ex, SLICE("sec-websocket-key"));
    struct slice version = http_exchange_field(ex, SLICE("sec-websocket-version"));
    struct slice origin = http_exchange_field(ex, SLICE("origin"));
    if (!slice_eq(version, SLICE("13")))
        return ERR_WS_VERSION;
    if (ex->req.method != HTTP_GET || ex->body.n || !ws_key_valid(key) ||
        http_field_count(&ex->req, ex->head, SLICE("sec-websocket-key")) != 1)
        return ERR_WS_HANDSHAKE;
    if (origin.p &&
        !ws_origin_allowed((const char *const *)route->origins.v, route->origins.n, origin))
        return ERR_WS_ORIGIN;
    struct ws_deflate_offer offer;
    return extension_choose(route, ex, &offer);
}

void upgrade_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, uint16_t route)
{
    struct slice fields = SLICE_NONE, detail = SLICE_NONE;
    enum err e = access_handshake(gw, c, ex);
    e = e ? e : handshake_check(ex, &gw->config.routes[route]);
    e = e ? e : access_token(gw, c, ex, gw->config.routes[route].jwt, &fields, &detail);
    c->route = route;
    struct guest_module *m = upgrade_module(gw, c);
    if (!e && gw->config.routes[route].handler == HANDLER_PUBSUB &&
        !event_topic_valid(gw, pubsub_topic(&gw->config.routes[route], ex)))
        e = ERR_NOT_FOUND;
    if (!e && gw->draining)
        e = ERR_DRAINING;
    if (!e && m && guests_full(&gw->guests, m))
        e = ERR_GUEST_BUSY; /* before the 101: a client can try again later */
    if (e) {
        if (e == ERR_WS_VERSION)
            fields = SLICE("Sec-WebSocket-Version: 13\r\n");
        http_exchange_fail(&gw->http, c, e, fields, detail);
        return;
    }
    if (!entry_of(m, GUEST_on_ws_handshake)) {
        upgrade_accept(gw, c, SLICE_NONE, false);
        return;
    }
    struct event *ev = event_new(gw, c, GUEST_on_ws_handshake, m,
                                 m->exports[GUEST_on_ws_handshake]);
    if (!ev) {
        http_exchange_fail(&gw->http, c, ERR_NO_MEMORY, SLICE_NONE, SLICE_NONE);
        return;
    }
    ev->ex = ex;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    event_start_http(ev);
}

void upgrade_init(struct gateway *gw)
{
    gw->ws.owner = gw;
    gw->ws.message_max = (uint32_t)gw->config.limits.message;
    gw->ws.queue_max = (uint32_t)gw->config.limits.send_queue;
    gw->ws.compress_least = (uint32_t)gw->config.limits.compress_least;
    gw->ws.close_timeout_ms = gw->config.limits.close_timeout;
    gw->ws.message_timeout_ms = gw->config.limits.message_timeout;
    gw->ws.beat = (struct ws_beat){.interval_ms = gw->config.heartbeat.interval,
                                   .timeout_ms = gw->config.heartbeat.timeout,
                                   .evict_ms = gw->config.heartbeat.evict,
                                   .demoted_per_s = (uint32_t)gw->config.heartbeat.demoted_rate};
    gw->ws.ready = ready;
    gw->ws.message = message;
    gw->ws.drained = drained;
    gw->ws.closed = closed;
    gw->ws.drops_oldest = drops_oldest;
    ws_server_init(&gw->ws, &gw->net, PROTOCOL_WS);
}
