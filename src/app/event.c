/* A guest's event from start to commit: what host functions answer, and what happens when it ends
 * well (effects are applied) or not (they are dropped). */
#include "app/gateway.h"
#include "base/log.h"
#include "base/utf8.h"

enum { LIMIT = -1, GONE = -2, INVALID = -3, ABSENT = -4 }; /* what guests are told */
enum { LOG_TEXT_MAX = 4096, MESSAGE_MAX = 16 << 20, KEEP_WARM = 1024, HEADER_NAME_MAX = 256 };

static struct event *event_of(struct guest_call *call)
{
    return CONTAINER_OF(call, struct event, call);
}

static int32_t copy_out(struct slice from, uint8_t *p, uint32_t cap)
{
    if (from.n <= cap)
        slice_copy(p, from);
    return (int32_t)from.n;
}

static int32_t op_msg_read(struct guest_call *call, uint8_t *p, uint32_t cap)
{
    return copy_out(event_of(call)->message, p, cap);
}

/* A connection that this guest may reach: an open WebSocket of its own module. */
static struct conn *reach(struct event *ev, uint64_t id)
{
    struct conn *c = conn_get(&ev->gw->net, id);
    if (!c || c->protocol != PROTOCOL_WS || c->flags & WS_CLOSE_SENT)
        return NULL;
    return upgrade_module(ev->gw, c) == ev->call.module ? c : NULL;
}

static int32_t op_ws_send(struct guest_call *call, uint64_t id, uint32_t kind, struct slice data)
{
    struct event *ev = event_of(call);
    uint8_t header[WS_HEADER_MAX];
    if (kind != WS_TEXT && kind != WS_BINARY)
        return INVALID;
    struct conn *c = reach(ev, id);
    if (!c)
        return GONE;
    if (data.n > ev->gw->config.limits.send_queue)
        return LIMIT; /* before it is looked at: a host call can't be interrupted */
    if (kind == WS_TEXT && !utf8_valid(data))
        return INVALID;
    size_t n = ws_frame_header(header, (enum ws_opcode)kind, true, data.n);
    uint64_t queued = (uint64_t)conn_queued(c) + effects_queued(&ev->fx, id) + n + data.n;
    uint64_t most = ev->gw->config.limits.send_queue;
    if (queued > most || effects_add(&ev->fx, EFFECT_SEND, id, 0, slice_of(header, n), data))
        return LIMIT;
    return queued > most / 2;
}

static int32_t op_ws_close(struct guest_call *call, uint64_t id, uint32_t code, struct slice why)
{
    struct event *ev = event_of(call);
    if (!ws_close_code_valid(code) || why.n > WS_CONTROL_MAX - 2 || !utf8_valid(why))
        return INVALID;
    if (!reach(ev, id))
        return GONE;
    return effects_add(&ev->fx, EFFECT_CLOSE, id, (uint16_t)code, why, SLICE_NONE) ? LIMIT : 0;
}

static int32_t op_attachment_get(struct guest_call *call, uint64_t id, uint8_t *p, uint32_t cap)
{
    struct event *ev = event_of(call);
    bool own = id == conn_id(ev->conn);
    struct conn *c = own ? ev->conn : reach(ev, id);
    struct slice written;
    if (!c || c->protocol != PROTOCOL_WS)
        return GONE;
    if (own && effects_last(&ev->fx, EFFECT_ATTACH, &written))
        return copy_out(written, p, cap);
    const struct buf *b = c->attachment;
    return b ? copy_out(buf_slice(b), p, cap) : ABSENT;
}

static int32_t op_attachment_set(struct guest_call *call, struct slice data)
{
    struct event *ev = event_of(call);
    if (ev->conn->protocol != PROTOCOL_WS)
        return GONE;
    if (data.n > ev->gw->config.limits.attachment)
        return LIMIT;
    return effects_add(&ev->fx, EFFECT_ATTACH, conn_id(ev->conn), 0, data, SLICE_NONE) ? LIMIT : 0;
}

/* All fields of a name as the one list that they are. */
static int32_t fields_join(const struct http_exchange *ex, struct slice name, uint8_t *p,
                           uint32_t cap)
{
    size_t n = 0;
    for (int copy = 0; copy < 2; copy++) {
        size_t at = 0;
        for (uint32_t i = 0; i < ex->req.n_fields; i++) {
            struct slice v = http_span_slice(ex->head, ex->req.fields[i].value);
            if (!slice_eq_nocase(http_span_slice(ex->head, ex->req.fields[i].name), name))
                continue;
            if (copy && at)
                memcpy(p + at - 2, ", ", 2);
            if (copy)
                slice_copy(p + at, v);
            at += v.n + 2;
        }
        if (!at)
            return ABSENT;
        n = at - 2;
        if (n > cap)
            break;
    }
    return (int32_t)n;
}

static int32_t op_req_get(struct guest_call *call, uint32_t field, struct slice name, uint8_t *p,
                          uint32_t cap)
{
    enum { METHOD, PATH, QUERY, HEADER, HEADERS, PEER, SUBPROTOCOLS, FIELDS };
    struct event *ev = event_of(call);
    const struct http_exchange *ex = ev->ex;
    struct sys_address peer;
    struct slice found;
    if (!ex || field >= FIELDS)
        return ex ? INVALID : ABSENT;
    const struct http_request *r = &ex->req;
    switch (field) {
    case METHOD:
        return copy_out(slice_str(http_method_name(r->method)), p, cap);
    case PATH:
        return copy_out(http_span_slice(ex->head, r->path), p, cap);
    case QUERY:
        return copy_out(http_span_slice(ex->head, r->query), p, cap);
    case HEADER:
        found = http_exchange_field(ex, name);
        break;
    case HEADERS: /* the field lines as they came */
        if (!r->n_fields)
            return 0;
        found = slice_of(ex->head + r->fields[0].name.off,
                         r->head_len - r->fields[0].name.off - 2u);
        break;
    case PEER:
        if (ev->conn->fd < 0 || sys_peer(ev->conn->fd, &peer) < 0)
            return ABSENT;
        found = slice_str(peer.text);
        break;
    default:
        return fields_join(ex, SLICE("sec-websocket-protocol"), p, cap);
    }
    return found.p ? copy_out(found, p, cap) : ABSENT;
}

static int32_t op_req_body(struct guest_call *call, uint32_t offset, uint8_t *p, uint32_t cap)
{
    const struct http_exchange *ex = event_of(call)->ex;
    if (!ex || offset >= ex->body.n)
        return 0;
    uint32_t n = MIN(cap, (uint32_t)ex->body.n - offset);
    slice_copy(p, slice_of(ex->body.p + offset, n));
    return (int32_t)n;
}

static int32_t op_resp_status(struct guest_call *call, uint32_t code)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_on_http || code < 200 || code > 599)
        return INVALID;
    ev->fx.status = (uint16_t)code;
    return 0;
}

/* The gateway frames the message itself: what would frame it otherwise is refused. */
static bool field_allowed(struct slice name, struct slice value)
{
    static const char *const own[] = {
        "content-length",       "transfer-encoding",        "connection", "date",   "upgrade",
        "sec-websocket-accept", "sec-websocket-extensions", "keep-alive", "trailer"};
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        if (slice_eq_nocase(name, slice_str(own[i])))
            return false;
    return name.n <= HEADER_NAME_MAX && http_token_valid(name) && http_field_value_valid(value);
}

static int32_t op_resp_header(struct guest_call *call, struct slice name, struct slice value)
{
    struct event *ev = event_of(call);
    bool handshake = ev->kind == GUEST_on_ws_handshake;
    if (name.n + value.n > ev->fx.head.max)
        return LIMIT;
    if ((!handshake && ev->kind != GUEST_on_http) || !field_allowed(name, value))
        return INVALID;
    if (slice_eq_nocase(name, SLICE("sec-websocket-protocol"))) {
        if (!handshake || ev->chose_protocol ||
            !http_field_list_has(&ev->ex->req, ev->ex->head, name, value))
            return INVALID;
        ev->chose_protocol = true;
    }
    const struct slice parts[] = {name, SLICE(": "), value, SLICE("\r\n")};
    if (buf_reserve(&ev->fx.head, name.n + value.n + 4))
        return LIMIT;
    enum err e = ERR_NONE;
    for (size_t i = 0; i < ARRAY_LEN(parts) && !e; i++)
        e = buf_append(&ev->fx.head, parts[i]);
    return e ? LIMIT : 0;
}

static int32_t op_resp_write(struct guest_call *call, struct slice data)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_on_http)
        return INVALID;
    return buf_append(&ev->fx.body, data) ? LIMIT : 0;
}

static int32_t op_log(struct guest_call *call, uint32_t level, struct slice text)
{
    static const enum log_event events[] = {LOG_guest_debug, LOG_guest_info, LOG_guest_warn,
                                            LOG_guest_error};
    struct event *ev = event_of(call);
    if (level >= ARRAY_LEN(events))
        return INVALID;
    if (log_begin(events[level])) {
        log_text("module", slice_str(call->module->name));
        log_id("conn_id", conn_id(ev->conn));
        log_text("text", utf8_cut(text, LOG_TEXT_MAX));
        log_end();
    }
    return 0;
}

static void op_failed(struct guest_call *call, enum err e, struct slice text)
{
    struct event *ev = event_of(call);
    if (log_begin(LOG_guest_failed)) {
        log_text("module", slice_str(call->module->name));
        log_id("conn_id", conn_id(ev->conn));
        log_text("code", slice_str(err_name(e)));
        log_text("detail", text);
        log_end();
    }
    buf_clear(&ev->copy, UINT32_MAX);
    if (buf_append(&ev->copy, text))
        buf_clear(&ev->copy, 0);
}

const struct guest_ops event_ops = {
    op_msg_read,       op_ws_send,    op_ws_close, op_attachment_get,
    op_attachment_set, op_req_get,    op_req_body, op_resp_status,
    op_resp_header,    op_resp_write, op_log,      op_failed};

/* ---- commit ---- */

static void attach(struct event *ev, struct conn *c, struct slice bytes)
{
    struct buf *b = c->attachment;
    if (!b && (b = mem_alloc(sizeof(*b))) != NULL) {
        buf_init(b, (uint32_t)ev->gw->config.limits.attachment);
        c->attachment = b;
    }
    if (b)
        buf_clear(b, 0);
    if (!b || buf_append(b, bytes))
        conn_close(&ev->gw->net, c, CLOSE_NO_MEMORY);
}

static void apply(void *arg, const struct effect *e, struct slice bytes)
{
    struct event *ev = arg;
    struct conn *c = reach(ev, e->conn);
    if (!c) {
        metrics.sends_skipped_total += e->kind == EFFECT_SEND;
    } else if (e->kind == EFFECT_SEND) {
        metrics.messages_sent_total++;
        conn_write(&ev->gw->net, c, bytes, SLICE_NONE);
    } else if (e->kind == EFFECT_CLOSE) {
        ws_conn_close(&ev->gw->ws, c, e->code, bytes, CLOSE_GUEST);
    } else {
        attach(ev, c, bytes);
    }
}

static bool status_valid(int32_t status)
{
    return status >= 200 && status <= 599;
}

static void finish_http(struct event *ev, enum err e)
{
    struct http_server *s = &ev->gw->http;
    int32_t status = (int32_t)ev->call.frame.values[0].bits;
    struct http_response r = {ev->fx.status ? ev->fx.status : 200, SLICE_NONE,
                              buf_slice(&ev->fx.head), buf_slice(&ev->fx.body)};
    if (!e && status && !status_valid(status))
        e = ERR_GUEST_RESPONSE;
    if (!e && status)
        r = (struct http_response){(unsigned)status, SLICE_NONE, SLICE_NONE, SLICE_NONE};
    if (e)
        http_exchange_fail(s, ev->conn, e, SLICE_NONE, buf_slice(&ev->copy));
    else
        http_exchange_respond(s, ev->conn, &r);
}

static void finish_handshake(struct event *ev, enum err e)
{
    struct http_server *s = &ev->gw->http;
    int32_t status = (int32_t)ev->call.frame.values[0].bits;
    if (!e && status && !status_valid(status))
        e = ERR_GUEST_RESPONSE;
    if (e) {
        http_exchange_fail(s, ev->conn, e, SLICE_NONE, buf_slice(&ev->copy));
    } else if (status) {
        struct http_response r = {(unsigned)status, SLICE_NONE, SLICE_NONE, SLICE_NONE};
        http_exchange_respond(s, ev->conn, &r);
    } else {
        upgrade_accept(ev->gw, ev->conn, buf_slice(&ev->fx.head), ev->chose_protocol);
    }
}

static void finish_ws(struct event *ev, enum err e)
{
    struct conn *c = ev->conn;
    struct ws_server *s = &ev->gw->ws;
    uint32_t code = (uint32_t)ev->call.frame.values[0].bits;
    if (e) {
        if (ev->kind == GUEST_on_ws_open && !ev->call.ran)
            c->flags &= (uint8_t)~WS_OPENED; /* it was not told of, so neither is its end */
        if (ev->kind != GUEST_on_ws_close)
            ws_conn_fail(s, c, e, CLOSE_GUEST_FAILED);
        return;
    }
    effects_apply(&ev->fx, apply, ev);
    if (ev->kind == GUEST_on_ws_message && code)
        ws_conn_close(s, c, ws_close_code_valid(code) ? code : 1011, SLICE_NONE, CLOSE_GUEST);
}

void attachment_free(struct conn *c)
{
    struct buf *b = c->attachment;
    if (!b)
        return;
    buf_done(b);
    mem_free(b, sizeof(*b));
    c->attachment = NULL;
}

/* Back to the list, with what it held. */
static void event_free(struct event *ev)
{
    struct conn *c = ev->conn;
    if (ev->kind == GUEST_on_ws_open)
        http_exchange_free(ev->ex);
    effects_clear(&ev->fx);
    buf_clear(&ev->copy, KEEP_WARM);
    ev->active = false;
    list_append(&ev->gw->free_events, &ev->call.node);
    conn_release(&ev->gw->net, c);
}

static void done(struct guest_call *call, enum err e)
{
    struct event *ev = event_of(call);
    struct net *net = &ev->gw->net;
    struct conn *c = ev->conn;
    /* Before what follows: the next event of this connection may pause it again. */
    if (ev->kept)
        conn_resume(net, c);
    if (c->protocol != PROTOCOL_WS && c->state != CONN_OPEN)
        http_exchange_free(http_exchange_detach(c)); /* nobody to answer */
    else if (ev->kind == GUEST_EXPORTS)
        exec_finish(ev, e);
    else if (ev->kind == GUEST_on_http)
        finish_http(ev, e);
    else if (ev->kind == GUEST_on_ws_handshake)
        finish_handshake(ev, e);
    else
        finish_ws(ev, e);
    if (ev->kind == GUEST_on_ws_close)
        attachment_free(c);
    event_free(ev);
}

/* ---- start ---- */

struct event *event_new(struct gateway *gw, struct conn *c, enum guest_export kind,
                        struct guest_module *m, const struct weir_entry *entry)
{
    struct list *node = gw->free_events.prev; /* the warmest */
    struct event *ev;
    if (node != &gw->free_events) {
        list_remove(node);
        ev = CONTAINER_OF(node, struct event, call.node);
    } else {
        ev = mem_alloc(sizeof(*ev));
        if (!ev)
            return NULL;
        memset(ev, 0, sizeof(*ev));
        buf_init(&ev->copy, MESSAGE_MAX);
        effects_init(&ev->fx);
    }
    effects_limit(&ev->fx, (uint32_t)gw->config.modules[m - gw->modules].limits.output);
    ev->gw = gw;
    ev->conn = c;
    ev->kind = kind;
    ev->function = NULL;
    ev->ex = NULL;
    ev->chose_protocol = false;
    ev->message = SLICE_NONE;
    ev->active = true;
    ev->kept = false;
    ev->call.module = m;
    ev->call.entry = entry;
    ev->call.done = done;
    ev->call.frame.n_args = 0;
    ev->call.frame.n_results = guest_export_returns(kind);
    c->holds++;
    return ev;
}

/* What an event needs of its input once it outlives the callback that brought it. */
static enum err keep(struct event *ev)
{
    ev->kept = true;
    conn_pause(ev->conn);
    if (ev->kind == GUEST_on_ws_open) {
        struct http_exchange *ex = http_exchange_own(&ev->gw->http, ev->ex);
        ev->ex = ex;
        return ex ? ERR_NONE : ERR_NO_MEMORY;
    }
    if (ev->ex) {
        ev->ex = http_exchange_keep(&ev->gw->http, ev->conn);
        if (!ev->ex)
            http_exchange_free(http_exchange_detach(ev->conn));
        return ev->ex ? ERR_NONE : ERR_NO_MEMORY;
    }
    enum err e = buf_append(&ev->copy, ev->message);
    ev->message = e ? SLICE_NONE : buf_slice(&ev->copy);
    return e;
}

enum err event_start(struct event *ev)
{
    struct gateway *gw = ev->gw;
    struct conn *c = ev->conn;
    enum err e = guest_call_start(&gw->guests, &ev->call);
    if (e) {
        event_free(ev);
        return e;
    }
    if (ev->active && keep(ev))
        conn_close(&gw->net, c, CLOSE_NO_MEMORY);
    return ERR_NONE;
}

enum err event_queue(struct event *ev)
{
    enum err e = guest_call_queue(&ev->gw->guests, &ev->call);
    if (e)
        event_free(ev);
    return e;
}

void event_start_http(struct event *ev)
{
    struct http_server *s = &ev->gw->http;
    struct conn *c = ev->conn;
    enum err e = event_start(ev);
    if (e)
        http_exchange_fail(s, c, e, SLICE_NONE, SLICE_NONE);
}
