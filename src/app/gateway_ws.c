#include "app/gateway.h"
#include "base/log.h"
#include "ws/ws_handshake.h"

static struct gateway *gateway_of(struct net *net)
{
    return net->app;
}

struct guest_module *ws_module(struct gateway *gw, const struct conn *c)
{
    int m = gw->config.routes[c->route].module;
    return m < 0 ? NULL : &gw->modules[m];
}

static bool send_frame(struct gateway *gw, struct conn *c, enum ws_opcode opcode, struct slice data)
{
    uint8_t header[WS_HEADER_MAX];
    size_t n = ws_frame_header(header, opcode, true, data.n);
    return conn_write(&gw->net, c, slice_of(header, n), data);
}

/* Close goes out, then the peer's own end is awaited (RFC 6455 7.1.1). */
void ws_send_close(struct gateway *gw, struct conn *c, unsigned code, struct slice why,
                   enum close_reason reason)
{
    uint8_t body[WS_CONTROL_MAX];
    size_t n = 0;
    if (c->state != CONN_OPEN || c->flags & WS_CLOSE_SENT)
        return;
    c->flags |= WS_CLOSE_SENT;
    if (!c->close_code)
        c->close_code = (uint16_t)code;
    if (ws_close_code_valid(code)) {
        body[0] = (uint8_t)(code >> 8);
        body[1] = (uint8_t)code;
        n = MIN(why.n, sizeof(body) - 2);
        if (n)
            memcpy(body + 2, why.p, n);
        n += 2;
    }
    if (send_frame(gw, c, WS_CLOSE, slice_of(body, n)))
        conn_shutdown(&gw->net, c, reason);
}

static void fail(struct gateway *gw, struct conn *c, enum err e)
{
    metrics.errors_total[e]++;
    if (log_begin(LOG_connection_failed)) {
        log_id("conn_id", conn_id(c));
        log_text("code", slice_str(err_name(e)));
        log_text("detail", slice_str(err_text(e)));
        log_end();
    }
    ws_send_close(gw, c, err_close_code(e), slice_str(err_text(e)), CLOSE_PROTOCOL);
}

static void message(struct gateway *gw, struct conn *c, const struct ws_event *got)
{
    metrics.messages_received_total++;
    struct guest_module *m = ws_module(gw, c);
    if (!m) {
        metrics.messages_sent_total++;
        send_frame(gw, c, (enum ws_opcode)got->opcode, got->data);
        return;
    }
    const struct weir_entry *entry = m->exports[GUEST_ON_WS_MESSAGE];
    struct event *ev = entry ? event_new(gw, c, GUEST_ON_WS_MESSAGE, m, entry) : NULL;
    if (!ev) {
        if (entry)
            fail(gw, c, ERR_NO_MEMORY);
        return;
    }
    ev->message = got->data;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    guest_arg(&ev->call, WASMTIME_I32, got->opcode);
    guest_arg(&ev->call, WASMTIME_I32, got->data.n);
    enum err e = event_start(ev);
    if (e)
        fail(gw, c, e);
}

size_t ws_input(struct net *net, struct conn *c, uint8_t *p, size_t n)
{
    struct gateway *gw = gateway_of(net);
    struct ws_event got;
    struct ws_rx *rx = c->detail;
    struct ws_result r = ws_receive(&rx, p, n, (uint32_t)gw->config.limits.message, &got);
    c->detail = rx;
    if (r.state == WS_BAD) {
        fail(gw, c, r.err);
        return n;
    }
    if (r.state == WS_MORE)
        return n;
    if (got.opcode == WS_CLOSE) {
        c->flags |= WS_CLEAN;
        c->close_code = got.close_code;
        ws_send_close(gw, c, got.close_code, SLICE_NONE, CLOSE_PEER);
    } else if (got.opcode == WS_PING) {
        send_frame(gw, c, WS_PONG, got.data);
    } else if (got.opcode != WS_PONG) {
        message(gw, c, &got);
    }
    rx = c->detail;
    ws_rx_release(&rx);
    c->detail = rx;
    return r.consumed;
}

void ws_timeout(struct net *net, struct conn *c)
{
    conn_close(net, c, CLOSE_LINGER);
}

static void attachment_free(struct conn *c)
{
    struct buf *b = c->attachment;
    if (!b)
        return;
    buf_done(b);
    mem_free(b, sizeof(*b));
    c->attachment = NULL;
}

void ws_closed(struct net *net, struct conn *c)
{
    struct gateway *gw = gateway_of(net);
    struct guest_module *m = ws_module(gw, c);
    struct ws_rx *rx = c->detail;
    ws_rx_free(&rx);
    c->detail = NULL;
    metrics.websockets_active--;
    if (log_begin(LOG_connection_closed)) {
        log_id("conn_id", conn_id(c));
        log_text("close_reason", slice_str(close_name(c->close_reason)));
        log_number("close_code", c->close_code);
        log_end();
    }
    const struct weir_entry *entry = m && c->flags & WS_OPENED ? m->exports[GUEST_ON_WS_CLOSE]
                                                               : NULL;
    struct event *ev = entry ? event_new(gw, c, GUEST_ON_WS_CLOSE, m, entry) : NULL;
    if (!ev) {
        attachment_free(c);
        return;
    }
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    guest_arg(&ev->call, WASMTIME_I32, c->close_code ? c->close_code : 1006);
    guest_arg(&ev->call, WASMTIME_I32, !!(c->flags & WS_CLEAN));
    if (event_start(ev))
        metrics.errors_total[ERR_GUEST_BUSY]++;
}

void ws_accept(struct gateway *gw, struct conn *c, struct exchange *ex, struct slice fields)
{
    const struct config_route *route = ex->route;
    char head[256], accept[29], protocol[160] = "";
    struct slice offered = http_field_get(&ex->req, ex->head.p, SLICE("sec-websocket-protocol"));
    ws_accept_key(http_field_get(&ex->req, ex->head.p, SLICE("sec-websocket-key")), accept);
    for (uint32_t i = 0; i < route->n_subprotocols && !protocol[0]; i++)
        if (strlen(route->subprotocols[i]) < 100 &&
            ws_protocol_offered(offered, slice_str(route->subprotocols[i])))
            snprintf(protocol, sizeof(protocol), "Sec-WebSocket-Protocol: %s\r\n",
                     route->subprotocols[i]);
    int n = snprintf(head, sizeof(head),
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n",
                     accept);
    uint16_t at = (uint16_t)(route - gw->config.routes);
    struct guest_module *m = route->module < 0 ? NULL : &gw->modules[route->module];
    bool ok = conn_write(&gw->net, c, slice_of(head, (size_t)n), slice_str(protocol)) &&
              conn_write(&gw->net, c, fields, SLICE("\r\n"));
    metrics.http_requests_total++;
    struct event *ev = NULL;
    if (ok && m && m->exports[GUEST_ON_WS_OPEN])
        ev = event_new(gw, c, GUEST_ON_WS_OPEN, m, m->exports[GUEST_ON_WS_OPEN]);
    if (ev) {
        ev->ex = ex; /* req_get works in on_ws_open; the event frees it */
        c->detail = NULL;
    } else {
        exchange_free(c);
    }
    if (!ok)
        return;
    conn_timer(&gw->net, c, 0);
    c->protocol = PROTOCOL_WS;
    c->flags = WS_OPENED;
    c->route = at;
    c->close_code = 0;
    metrics.websockets_active++;
    if (log_begin(LOG_connection_open)) {
        log_id("conn_id", conn_id(c));
        log_text("path", slice_str(route->path));
        log_end();
    }
    if (!ev)
        return;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    enum err e = event_start(ev);
    if (e)
        fail(gw, c, e);
}

void ws_upgrade(struct gateway *gw, struct conn *c, struct exchange *ex)
{
    const uint8_t *base = ex->head.p;
    const struct config_route *route = ex->route;
    struct slice origin = http_field_get(&ex->req, base, SLICE("origin"));
    struct slice version = http_field_get(&ex->req, base, SLICE("sec-websocket-version"));
    enum err e = ERR_NONE;
    if (ex->req.method != HTTP_GET ||
        !ws_key_valid(http_field_get(&ex->req, base, SLICE("sec-websocket-key"))))
        e = ERR_WS_HANDSHAKE;
    if (!slice_eq(version, SLICE("13")))
        e = ERR_WS_VERSION;
    else if (!e && origin.p &&
             !ws_origin_allowed((const char *const *)route->origins, route->n_origins, origin))
        e = ERR_WS_ORIGIN;
    if (e) {
        http_problem(gw, c, ex, e,
                     e == ERR_WS_VERSION ? SLICE("Sec-WebSocket-Version: 13\r\n") : SLICE_NONE,
                     SLICE_NONE);
        return;
    }
    struct guest_module *m = route->module < 0 ? NULL : &gw->modules[route->module];
    if (!m || !m->exports[GUEST_ON_WS_HANDSHAKE]) {
        ws_accept(gw, c, ex, SLICE_NONE);
        return;
    }
    struct event *ev = event_new(gw, c, GUEST_ON_WS_HANDSHAKE, m,
                                 m->exports[GUEST_ON_WS_HANDSHAKE]);
    if (!ev) {
        http_problem(gw, c, ex, ERR_NO_MEMORY, SLICE_NONE, SLICE_NONE);
        return;
    }
    ev->ex = ex;
    guest_arg(&ev->call, WASMTIME_I64, conn_id(c));
    e = event_start(ev);
    if (e)
        http_problem(gw, c, ex, e, SLICE("Retry-After: 1\r\n"), SLICE_NONE);
}
