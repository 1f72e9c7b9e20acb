/* A guest's event from start to commit: what host functions answer, and what happens when it ends
 * well (effects are applied) or not (they are dropped). */
#include <stdlib.h>

#include "app/gateway.h"
#include "base/log.h"
#include "base/utf8.h"

enum { LIMIT = -1, GONE = -2, INVALID = -3, ABSENT = -4 };

static struct event *event_of(struct guest_call *call)
{
    return CONTAINER_OF(call, struct event, call);
}

static int32_t copy_out(struct slice from, uint8_t *p, uint32_t cap)
{
    if (from.n && from.n <= cap)
        memcpy(p, from.p, from.n);
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
    return ws_module(ev->gw, c) == ev->call.module ? c : NULL;
}

static int32_t op_ws_send(struct guest_call *call, uint64_t id, uint32_t kind, struct slice data)
{
    struct event *ev = event_of(call);
    uint8_t header[WS_HEADER_MAX];
    struct conn *c = reach(ev, id);
    if (kind != WS_TEXT && kind != WS_BINARY)
        return INVALID;
    if (!c)
        return GONE;
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
    struct conn *c = id == conn_id(ev->conn) ? ev->conn : reach(ev, id);
    if (!c)
        return GONE;
    const struct effect *v = (const struct effect *)ev->fx.list.p;
    for (size_t i = ev->fx.list.len / sizeof(*v); c == ev->conn && i-- > 0;)
        if (v[i].kind == EFFECT_ATTACH)
            return copy_out(slice_of(ev->fx.bytes.p + v[i].off, v[i].len), p, cap);
    struct buf *b = c->attachment;
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

static int32_t op_req_get(struct guest_call *call, uint32_t field, struct slice name, uint8_t *p,
                          uint32_t cap)
{
    struct event *ev = event_of(call);
    struct exchange *ex = ev->ex;
    struct sys_address peer;
    if (!ex || field > 6)
        return ex ? INVALID : ABSENT;
    const uint8_t *base = ex->head.p;
    const struct http_request *r = &ex->req;
    struct slice found = SLICE_NONE;
    switch (field) {
    case 0:
        return copy_out(slice_str(http_method_name(r->method)), p, cap);
    case 1:
        return copy_out(http_span_slice(base, r->path), p, cap);
    case 2:
        return copy_out(http_span_slice(base, r->query), p, cap);
    case 3:
        found = http_field_get(r, base, name);
        break;
    case 4: /* the field lines as they came */
        if (!r->n_fields)
            return 0;
        return copy_out(
            slice_of(base + r->fields[0].name.off, r->head_len - r->fields[0].name.off - 2u), p,
            cap);
    case 5:
        if (ev->conn->fd < 0 || sys_peer(ev->conn->fd, &peer) < 0)
            return ABSENT;
        return copy_out(slice_str(peer.text), p, cap);
    default:
        found = http_field_get(r, base, SLICE("sec-websocket-protocol"));
    }
    return found.p ? copy_out(found, p, cap) : ABSENT;
}

static int32_t op_req_body(struct guest_call *call, uint32_t offset, uint8_t *p, uint32_t cap)
{
    struct exchange *ex = event_of(call)->ex;
    if (!ex || offset >= ex->body.len)
        return 0;
    uint32_t n = MIN(cap, ex->body.len - offset);
    memcpy(p, ex->body.p + offset, n);
    return (int32_t)n;
}

static bool answers(const struct event *ev)
{
    return ev->kind == GUEST_ON_HTTP || ev->kind == GUEST_ON_WS_HANDSHAKE;
}

static int32_t op_resp_status(struct guest_call *call, uint32_t code)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_ON_HTTP || code < 200 || code > 599)
        return INVALID;
    ev->fx.status = (uint16_t)code;
    return 0;
}

/* The gateway frames the message itself: what would frame it otherwise is refused. */
static bool field_allowed(struct slice n, struct slice v)
{
    static const char *const own[] = {
        "content-length",       "transfer-encoding",       "connection", "date", "upgrade",
        "sec-websocket-accept", "sec-websocket-extensions"};
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        if (slice_eq_nocase(n, slice_str(own[i])))
            return false;
    for (size_t i = 0; i < n.n; i++)
        if (n.p[i] <= ' ' || n.p[i] >= 0x7f || strchr("()<>@,;:\\\"/[]?={}", n.p[i]))
            return false;
    for (size_t i = 0; i < v.n; i++)
        if ((v.p[i] < 0x20 && v.p[i] != '\t') || v.p[i] == 0x7f)
            return false;
    return n.n > 0;
}

static int32_t op_resp_header(struct guest_call *call, struct slice n, struct slice v)
{
    struct event *ev = event_of(call);
    if (!answers(ev) || n.n > 256 || !field_allowed(n, v))
        return INVALID;
    enum err e = buf_reserve(&ev->fx.head, n.n + v.n + 4);
    if (e)
        return LIMIT;
    const struct slice parts[] = {n, SLICE(": "), v, SLICE("\r\n")};
    for (size_t i = 0; i < ARRAY_LEN(parts) && !e; i++)
        e = buf_append(&ev->fx.head, parts[i]);
    return e ? LIMIT : 0;
}

static int32_t op_resp_write(struct guest_call *call, struct slice data)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_ON_HTTP)
        return INVALID;
    return buf_append(&ev->fx.body, data) ? LIMIT : 0;
}

static int32_t op_log(struct guest_call *call, uint32_t level, struct slice text)
{
    struct event *ev = event_of(call);
    if (log_begin(LOG_guest_log)) {
        log_text("module", slice_str(call->module->name));
        log_id("conn_id", conn_id(ev->conn));
        log_number("guest_level", (int32_t)level);
        log_text("text", text);
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

const struct guest_ops gateway_ops = {
    op_msg_read,       op_ws_send,    op_ws_close, op_attachment_get,
    op_attachment_set, op_req_get,    op_req_body, op_resp_status,
    op_resp_header,    op_resp_write, op_log,      op_failed};

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
        ws_send_close(ev->gw, c, e->code, bytes, CLOSE_GUEST);
    } else {
        struct buf *b = c->attachment;
        if (!b && (b = mem_alloc(sizeof(*b))) != NULL)
            buf_init(b, 16384);
        c->attachment = b;
        if (b)
            buf_clear(b, UINT32_MAX);
        if (b && buf_append(b, bytes))
            conn_close(&ev->gw->net, c, CLOSE_NO_MEMORY);
    }
}

static void finish_http(struct event *ev, enum err e)
{
    int32_t status = (int32_t)ev->call.frame.values[0].bits;
    struct answer a = {ev->fx.status ? ev->fx.status : 200, NULL, buf_slice(&ev->fx.head),
                       buf_slice(&ev->fx.body)};
    if (e) {
        http_problem(ev->gw, ev->conn, ev->ex, e, SLICE_NONE, buf_slice(&ev->copy));
        return;
    }
    if (status != 0 && (status < 200 || status > 599)) {
        http_problem(ev->gw, ev->conn, ev->ex, ERR_GUEST_RESPONSE, SLICE_NONE, SLICE_NONE);
        return;
    }
    if (status)
        a = (struct answer){(unsigned)status, NULL, SLICE_NONE, SLICE_NONE};
    http_answer(ev->gw, ev->conn, ev->ex, &a);
}

static void finish_handshake(struct event *ev, enum err e)
{
    int32_t status = (int32_t)ev->call.frame.values[0].bits;
    if (e)
        http_problem(ev->gw, ev->conn, ev->ex, e, SLICE_NONE, SLICE_NONE);
    else if (status == 0)
        ws_accept(ev->gw, ev->conn, ev->ex, buf_slice(&ev->fx.head));
    else
        http_answer(ev->gw, ev->conn, ev->ex,
                    &(struct answer){status >= 200 && status < 600 ? (unsigned)status : 500, NULL,
                                     SLICE_NONE, SLICE_NONE});
}

static void finish_ws(struct event *ev, enum err e)
{
    struct conn *c = ev->conn;
    if (!e)
        effects_apply(&ev->fx, apply, ev);
    else if (c->state == CONN_OPEN)
        ws_send_close(ev->gw, c, err_close_code(e), slice_str(err_text(e)), CLOSE_GUEST_FAILED);
    uint32_t code = (uint32_t)ev->call.frame.values[0].bits;
    if (!e && ev->kind == GUEST_ON_WS_MESSAGE && code && c->state == CONN_OPEN)
        ws_send_close(ev->gw, c, ws_close_code_valid(code) ? code : 1011, SLICE_NONE, CLOSE_GUEST);
}

static void done(struct guest_call *call, enum err e)
{
    struct event *ev = event_of(call);
    struct gateway *gw = ev->gw;
    struct conn *c = ev->conn;
    if (e)
        metrics.errors_total[e]++;
    if (ev->ex)
        ev->ex->pending = false;
    if (ev->kind == GUEST_EXPORTS)
        exec_finish(ev, e);
    else if (ev->kind == GUEST_ON_HTTP)
        finish_http(ev, e);
    else if (ev->kind == GUEST_ON_WS_HANDSHAKE)
        finish_handshake(ev, e);
    else
        finish_ws(ev, e);
    if (ev->kind == GUEST_ON_WS_OPEN && ev->ex) {
        buf_done(&ev->ex->head);
        buf_done(&ev->ex->body);
        mem_free(ev->ex, sizeof(*ev->ex));
    }
    if (ev->kind == GUEST_ON_WS_CLOSE && c->attachment) {
        buf_done(c->attachment);
        mem_free(c->attachment, sizeof(struct buf));
        c->attachment = NULL;
    }
    conn_resume(&gw->net, c);
    conn_release(&gw->net, c);
    effects_clear(&ev->fx);
    buf_clear(&ev->copy, 1024);
    ev->active = false;
    list_append(&gw->free_events, &ev->call.node);
}

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
        buf_init(&ev->copy, 16 << 20);
        effects_init(&ev->fx, 1 << 20);
    }
    uint64_t output = gw->config.modules[m - gw->modules].limits.output;
    ev->fx.bytes.max = ev->fx.body.max = (uint32_t)MAX(output, (uint64_t)ev->fx.bytes.cap);
    ev->gw = gw;
    ev->conn = c;
    ev->kind = kind;
    ev->ex = NULL;
    ev->message = SLICE_NONE;
    ev->active = true;
    ev->call.module = m;
    ev->call.entry = entry;
    ev->call.done = done;
    ev->call.frame.n_args = 0;
    ev->call.frame.n_results = kind == GUEST_ON_HTTP || kind == GUEST_ON_WS_HANDSHAKE ||
                               kind == GUEST_ON_WS_MESSAGE;
    c->holds++;
    return ev;
}

/* What an event needs of its input once it outlives the callback that brought it. */
static enum err keep(struct event *ev)
{
    conn_pause(&ev->gw->net, ev->conn);
    if (ev->ex)
        ev->ex->pending = true;
    if (!ev->message.n || ev->message.p == ev->copy.p)
        return ERR_NONE;
    enum err e = buf_append(&ev->copy, ev->message);
    ev->message = buf_slice(&ev->copy);
    return e;
}

/* On an error the event is gone; WebSocket events wait instead of being refused. */
enum err event_start(struct event *ev)
{
    struct gateway *gw = ev->gw;
    enum err e = guest_call_start(&gw->guests, &ev->call);
    bool wait = e == ERR_GUEST_BUSY && !ev->ex && ev->kind != GUEST_EXPORTS;
    if (!e && !ev->active)
        return ERR_NONE;
    if (!e || wait) {
        enum err kept = keep(ev);
        if (wait)
            list_append(&gw->stalled, &ev->call.node);
        if (kept)
            conn_close(&gw->net, ev->conn, CLOSE_NO_MEMORY);
        return ERR_NONE;
    }
    ev->active = false;
    list_append(&gw->free_events, &ev->call.node);
    conn_release(&gw->net, ev->conn);
    return e;
}

bool events_retry(void *arg)
{
    struct gateway *gw = arg;
    bool more = guests_run(&gw->guests, gw->loop.now_ms);
    while (!list_empty(&gw->stalled) && gw->guests.waiting < gw->guests.limits.queue) {
        struct event *ev = CONTAINER_OF(list_pop(&gw->stalled), struct event, call.node);
        if (guest_call_start(&gw->guests, &ev->call)) {
            list_append(&gw->stalled, &ev->call.node);
            break;
        }
    }
    return more || !list_empty(&gw->stalled);
}
