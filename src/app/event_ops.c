/* What host functions of weir_v1 answer (tbl/host.def): they read what the event may see, and
 * append effects to it. */
#include "app/jwt.h"
#include "app/loops.h"
#include "base/log.h"
#include "base/utf8.h"

enum { LIMIT = -1, GONE = -2, INVALID = -3, ABSENT = -4 }; /* what guests are told */
enum { LOG_TEXT_MAX = 4096, HEADER_NAME_MAX = 256, RANDOM_MAX = 64 << 10, READS_MAX = 64 << 10 };

#define OP(name) static int64_t op_##name(struct guest_call *call, const struct guest_param *a)

static struct event *event_of(struct guest_call *call)
{
    return CONTAINER_OF(call, struct event, call);
}

static int64_t copy_out(struct slice from, const struct guest_param *to)
{
    if (from.n <= to->n)
        slice_copy(to->p, from);
    return (int64_t)from.n;
}

static int64_t add(struct event *ev, const struct effect *e, struct slice key, struct slice a,
                   struct slice b)
{
    return effects_add(&ev->fx, e, key, a, b) ? LIMIT : 0;
}

struct conn *event_reach(struct gateway *gw, uint32_t module, uint64_t id)
{
    struct conn *c = conn_get(&gw->net, id);
    if (!c || c->protocol != PROTOCOL_WS || c->flags & WS_CLOSE_SENT)
        return NULL;
    return gw->config.routes[c->route].module == (int)module ? c : NULL;
}

static struct conn *reach(struct event *ev, uint64_t id)
{
    return event_reach(ev->gw, ev->call.module->number, id);
}

/* ---- connections ---- */

OP(msg_read)
{
    return copy_out(event_of(call)->message, &a[0]);
}

/* Whether data can be a message of that kind: 0, or what is wrong. Its size first: a host call
 * can't be interrupted. */
static int64_t message_check(const struct event *ev, uint64_t kind, struct slice data)
{
    if (kind != WS_TEXT && kind != WS_BINARY)
        return INVALID;
    if (data.n > ev->gw->config.limits.send_queue)
        return LIMIT;
    return kind == WS_TEXT && !utf8_valid(data) ? INVALID : 0;
}

OP(ws_send)
{
    struct event *ev = event_of(call);
    uint64_t id = a[0].v, most = ev->gw->config.limits.send_queue;
    struct slice data = guest_bytes(&a[2]);
    uint8_t header[WS_HEADER_MAX];
    struct conn *c = reach(ev, id);
    if (a[1].v != WS_TEXT && a[1].v != WS_BINARY)
        return INVALID;
    if (!c && !loops_foreign(ev->gw, id)) /* what has gone from another loop, that finds out */
        return GONE;
    int64_t bad = message_check(ev, a[1].v, data);
    if (bad)
        return bad;
    size_t n = ws_frame_header(header, (enum ws_opcode)a[1].v, true, data.n);
    uint64_t queued = effects_queued(&ev->fx, id) + n + data.n;
    queued += c ? conn_queued(c) : 0;
    if (!c && !loops_room(ev->gw, ev->fx.bytes.len + data.n))
        return LIMIT;
    if (queued > most && !(c && ev->gw->config.routes[c->route].drops_oldest)) {
        if (c && conn_queued(c)) /* else it never fits, and there is nothing to wait for */
            conn_watch(c);
        return LIMIT;
    }
    const struct effect e = {.kind = EFFECT_SEND, .conn = id};
    return add(ev, &e, SLICE_NONE, slice_of(header, n), data) ? LIMIT : queued > most / 2;
}

OP(ws_close)
{
    struct event *ev = event_of(call);
    struct slice why = guest_bytes(&a[2]);
    if (!ws_close_code_valid((uint32_t)a[1].v) || why.n > WS_CONTROL_MAX - 2 || !utf8_valid(why))
        return INVALID;
    if (!reach(ev, a[0].v) && !loops_foreign(ev->gw, a[0].v))
        return GONE;
    const struct effect e = {.kind = EFFECT_CLOSE, .conn = a[0].v, .code = (uint16_t)a[1].v};
    return add(ev, &e, SLICE_NONE, why, SLICE_NONE);
}

OP(ws_buffered)
{
    struct event *ev = event_of(call);
    const struct conn *c = reach(ev, a[0].v);
    return c ? (int64_t)conn_queued(c) + effects_queued(&ev->fx, a[0].v) : GONE;
}

OP(ws_attachment_get)
{
    struct event *ev = event_of(call);
    bool own = ev->conn && a[0].v == conn_id(ev->conn);
    struct conn *c = own ? ev->conn : reach(ev, a[0].v);
    if (!c || c->protocol != PROTOCOL_WS)
        return GONE;
    const struct effect *written = own ? effects_last(&ev->fx, EFFECT_ATTACH, SLICE_NONE) : NULL;
    if (written)
        return copy_out(effects_bytes(&ev->fx, written), &a[1]);
    const struct hub_conn *h = c->hub;
    return h && h->attached ? copy_out(buf_slice(&h->attachment), &a[1]) : ABSENT;
}

OP(ws_attachment_set)
{
    struct event *ev = event_of(call);
    if (!ev->conn || ev->conn->protocol != PROTOCOL_WS)
        return GONE;
    if (a[0].n > ev->gw->config.limits.attachment)
        return LIMIT;
    const struct effect e = {.kind = EFFECT_ATTACH, .conn = conn_id(ev->conn)};
    return add(ev, &e, SLICE_NONE, guest_bytes(&a[0]), SLICE_NONE);
}

/* ---- topics ---- */

struct slice event_space(const struct event *ev)
{
    const struct conn *c = ev->conn;
    bool socket = c && (c->protocol == PROTOCOL_WS || ev->kind == GUEST_on_ws_handshake);
    return gateway_space(ev->gw, gateway_module_number(ev->gw, ev->call.module),
                         socket ? &ev->gw->config.routes[c->route] : NULL);
}

bool event_topic_valid(const struct gateway *gw, struct slice name)
{
    return name.n && name.n <= gw->config.limits.topic_length && utf8_valid(name);
}

OP(ws_subscribe)
{
    struct event *ev = event_of(call);
    struct slice name = guest_bytes(&a[1]);
    if (!event_topic_valid(ev->gw, name))
        return INVALID;
    const struct conn *c = reach(ev, a[0].v);
    if (!c && !loops_foreign(ev->gw, a[0].v))
        return GONE;
    const struct hub_conn *h = c ? c->hub : NULL; /* another loop looks at its own */
    uint32_t joins;
    bool was = c && topics_has(topics_find(&ev->gw->topics, event_space(ev), name), c);
    bool in = effects_on(&ev->fx, EFFECT_SUBSCRIBE, EFFECT_UNSUBSCRIBE, a[0].v, name, was, &joins);
    if (in)
        return 0;
    if ((h ? h->n_members : 0) + (uint64_t)joins >= ev->gw->config.limits.topics)
        return LIMIT;
    const struct effect e = {.kind = EFFECT_SUBSCRIBE, .conn = a[0].v};
    return add(ev, &e, name, SLICE_NONE, SLICE_NONE);
}

OP(ws_unsubscribe)
{
    struct event *ev = event_of(call);
    struct slice name = guest_bytes(&a[1]);
    if (!event_topic_valid(ev->gw, name))
        return INVALID;
    if (!reach(ev, a[0].v) && !loops_foreign(ev->gw, a[0].v))
        return GONE;
    const struct effect e = {.kind = EFFECT_UNSUBSCRIBE, .conn = a[0].v};
    return add(ev, &e, name, SLICE_NONE, SLICE_NONE);
}

OP(publish)
{
    struct event *ev = event_of(call);
    struct slice name = guest_bytes(&a[0]), data = guest_bytes(&a[2]);
    uint8_t header[WS_HEADER_MAX];
    int64_t bad = message_check(ev, a[1].v, data);
    if (!event_topic_valid(ev->gw, name))
        return INVALID;
    if (bad)
        return bad;
    const struct topic *topic = topics_find(&ev->gw->topics, event_space(ev), name);
    uint64_t bytes = (uint64_t)ev->fx.bytes.len + data.n;
    if (!topics_room(&ev->gw->topics, ev->fx.counts[EFFECT_PUBLISH] + 1, bytes) ||
        !loops_room(ev->gw, bytes))
        return LIMIT;
    const struct effect e = {.kind = EFFECT_PUBLISH, .conn = a[3].v};
    size_t n = ws_frame_header(header, (enum ws_opcode)a[1].v, true, data.n);
    if (add(ev, &e, name, slice_of(header, n), data))
        return LIMIT;
    const struct conn *except = conn_get(&ev->gw->net, a[3].v);
    return (int64_t)topics_members(&ev->gw->topics, topic, event_space(ev), name) -
           (topic && except && topics_has(topic, except));
}

OP(topic_next)
{
    struct event *ev = event_of(call);
    struct slice name = guest_bytes(&a[0]);
    uint64_t next;
    if (!event_topic_valid(ev->gw, name))
        return INVALID;
    const struct topic *topic = topics_find(&ev->gw->topics, event_space(ev), name);
    if (!topic)
        return a[1].v ? GONE : 0;
    return topics_next(&ev->gw->topics, topic, a[1].v, &next) ? (int64_t)next : GONE;
}

/* ---- requests and responses ---- */

/* All fields of a name as the one list that they are. */
static int64_t fields_join(const struct http_exchange *ex, struct slice name,
                           const struct guest_param *to)
{
    size_t n = 0;
    for (int copy = 0; copy < 2; copy++) {
        size_t at = 0;
        for (uint32_t i = 0; i < ex->req.n_fields; i++) {
            struct slice v = http_span_slice(ex->head, ex->req.fields[i].value);
            if (!slice_eq_nocase(http_span_slice(ex->head, ex->req.fields[i].name), name))
                continue;
            if (copy && at)
                memcpy(to->p + at - 2, ", ", 2);
            if (copy)
                slice_copy(to->p + at, v);
            at += v.n + 2;
        }
        if (!at)
            return ABSENT;
        n = at - 2;
        if (n > to->n)
            break;
    }
    return (int64_t)n;
}

OP(req_get)
{
    enum { METHOD, PATH, QUERY, HEADER, HEADERS, PEER, SUBPROTOCOLS, CLAIM, FIELDS };
    struct event *ev = event_of(call);
    const struct http_exchange *ex = ev->ex;
    struct address peer;
    char text[ADDRESS_TEXT];
    struct slice found = SLICE_NONE;
    if (!ex || a[0].v >= FIELDS)
        return ex ? INVALID : ABSENT;
    const struct http_request *r = &ex->req;
    switch (a[0].v) {
    case METHOD:
        return copy_out(slice_str(http_method_name(r->method)), &a[2]);
    case PATH:
        return copy_out(http_span_slice(ex->head, r->path), &a[2]);
    case QUERY:
        return copy_out(http_span_slice(ex->head, r->query), &a[2]);
    case HEADER:
        found = http_exchange_field(ex, guest_bytes(&a[1]));
        break;
    case HEADERS: /* the field lines as they came */
        if (!r->n_fields)
            return 0;
        found = slice_of(ex->head + r->fields[0].name.off,
                         r->head_len - r->fields[0].name.off - 2u);
        break;
    case PEER:
        if (!access_client(ev->gw, ev->conn, ex, &peer))
            return ABSENT;
        address_write(&peer, text);
        found = slice_str(text);
        break;
    case SUBPROTOCOLS:
        return fields_join(ex, SLICE("sec-websocket-protocol"), &a[2]);
    default: {
        int64_t n = -1;
        if (ex->claims.len)
            n = jwt_claim(http_span_slice(ex->head, ex->claims), guest_bytes(&a[1]), a[2].p,
                          a[2].n);
        return n < 0 ? ABSENT : n;
    }
    }
    return found.p ? copy_out(found, &a[2]) : ABSENT;
}

OP(req_body)
{
    const struct http_exchange *ex = event_of(call)->ex;
    uint64_t offset = a[0].v;
    if (!ex || offset >= ex->body.n)
        return 0;
    size_t n = MIN((size_t)a[1].n, ex->body.n - offset);
    slice_copy(a[1].p, slice_of(ex->body.p + offset, n));
    return (int64_t)n;
}

OP(resp_status)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_on_http || a[0].v < 200 || a[0].v > 599)
        return INVALID;
    ev->fx.status = (uint16_t)a[0].v;
    return 0;
}

/* The gateway frames the message itself: what would frame it otherwise is refused. */
bool event_field_own(struct slice name)
{
    static const char *const own[] = {
        "content-length",       "transfer-encoding",        "connection", "date",   "upgrade",
        "sec-websocket-accept", "sec-websocket-extensions", "keep-alive", "trailer"};
    for (size_t i = 0; i < ARRAY_LEN(own); i++)
        if (slice_eq_nocase(name, slice_str(own[i])))
            return true;
    return false;
}

bool event_field_valid(struct slice name, struct slice value)
{
    return name.n <= HEADER_NAME_MAX && http_token_valid(name) && http_field_value_valid(value);
}

OP(resp_header)
{
    struct event *ev = event_of(call);
    struct slice name = guest_bytes(&a[0]), value = guest_bytes(&a[1]);
    bool handshake = ev->kind == GUEST_on_ws_handshake;
    if (name.n + value.n > ev->fx.head.max)
        return LIMIT;
    if ((!handshake && ev->kind != GUEST_on_http) || event_field_own(name) ||
        !event_field_valid(name, value))
        return INVALID;
    if (slice_eq_nocase(name, SLICE("sec-websocket-protocol"))) {
        if (!handshake || ev->chose_protocol || access_is_token(value) ||
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

OP(resp_write)
{
    struct event *ev = event_of(call);
    if (ev->kind != GUEST_on_http)
        return INVALID;
    return buf_append(&ev->fx.body, guest_bytes(&a[0])) ? LIMIT : 0;
}

/* ---- keys and values ---- */

/* The module's keys, locked, and from which version on this event looks at them. */
static struct kv *kv_of(struct event *ev)
{
    struct kv *kv = event_state(ev)->kv;
    pthread_mutex_lock(&kv->lock);
    if (!ev->kv_used)
        ev->kv_version = kv->version;
    ev->kv_used = true;
    return kv;
}

/* Remembers which version of a key the event saw. Past the buffer's bound, any change counts. */
static void read_note(struct event *ev, struct slice key, uint64_t version)
{
    const struct event_read r = {version, (uint32_t)key.n};
    if (ev->read_all || buf_reserve(&ev->reads, sizeof(r) + key.n) ||
        buf_append(&ev->reads, slice_of(&r, sizeof(r))) || buf_append(&ev->reads, key))
        ev->read_all = true;
}

OP(kv_get)
{
    struct event *ev = event_of(call);
    struct slice key = guest_bytes(&a[0]), value;
    if (!key.n || key.n > KV_KEY_MAX)
        return INVALID;
    const struct effect *written = effects_last(&ev->fx, EFFECT_KV, key);
    if (written)
        return written->code ? ABSENT : copy_out(effects_bytes(&ev->fx, written), &a[1]);
    struct kv *kv = kv_of(ev);
    uint64_t version = kv_get(kv, key, ev->gw->loop.now_ms, &value);
    int64_t r = version ? copy_out(value, &a[1]) : ABSENT;
    pthread_mutex_unlock(&kv->lock);
    read_note(ev, key, version);
    return r;
}

/* What the key holds now for this event, in bytes accounted; what has expired may go any time. */
static int64_t cost_now(struct event *ev, const struct kv *kv, struct slice key)
{
    struct slice value;
    const struct effect *written = effects_last(&ev->fx, EFFECT_KV, key);
    if (written)
        return written->code ? 0 : (int64_t)kv_cost(key, effects_bytes(&ev->fx, written));
    uint64_t version = kv_get(kv, key, ev->gw->loop.now_ms, &value);
    return version ? (int64_t)kv_cost(key, value) : 0;
}

OP(kv_set)
{
    struct event *ev = event_of(call);
    struct slice key = guest_bytes(&a[0]), value = guest_bytes(&a[1]);
    int64_t ttl = (int64_t)a[2].v;
    bool deletes = ttl < 0;
    if (!key.n || key.n > KV_KEY_MAX)
        return INVALID;
    struct kv *kv = kv_of(ev);
    int64_t delta = ev->kv_delta - cost_now(ev, kv, key);
    delta += deletes ? 0 : (int64_t)kv_cost(key, value);
    bool fits = deletes || kv_fits(kv, delta, ev->gw->loop.now_ms);
    pthread_mutex_unlock(&kv->lock);
    if (!fits)
        return LIMIT;
    const struct effect e = {.kind = EFFECT_KV, .code = deletes, .number = deletes ? 0 : a[2].v};
    if (add(ev, &e, key, deletes ? SLICE_NONE : value, SLICE_NONE))
        return LIMIT;
    ev->kv_delta = delta;
    return 0;
}

/* ---- timers, clock, entropy, configuration, log ---- */

OP(timer_set)
{
    struct event *ev = event_of(call);
    uint64_t n = event_state(ev)->n_timers + (uint64_t)ev->fx.counts[EFFECT_TIMER] -
                 (ev->kind == GUEST_on_timer); /* its own, which is over */
    if ((int64_t)a[0].v < 0 || a[0].v > TIMERS_MS_MAX || !call->module->exports[GUEST_on_timer])
        return INVALID;
    if (n >= loops_share(&ev->gw->config, event_config(ev)->limits.timers))
        return LIMIT;
    const struct effect e = {
        .kind = EFFECT_TIMER, .conn = timers_id(&ev->gw->timers), .number = a[1].v, .ms = a[0].v};
    return add(ev, &e, SLICE_NONE, SLICE_NONE, SLICE_NONE) ? LIMIT : (int64_t)e.conn;
}

OP(timer_cancel)
{
    struct event *ev = event_of(call);
    const struct effect e = {.kind = EFFECT_TIMER_CANCEL, .conn = a[0].v};
    uint32_t module = gateway_module_number(ev->gw, call->module), n;
    bool was = timers_has(&ev->gw->timers, module, a[0].v) || loops_foreign(ev->gw, a[0].v);
    if (!effects_on(&ev->fx, EFFECT_TIMER, EFFECT_TIMER_CANCEL, a[0].v, SLICE_NONE, was, &n))
        return ABSENT;
    return add(ev, &e, SLICE_NONE, SLICE_NONE, SLICE_NONE);
}

OP(now_ms)
{
    (void)call, (void)a;
    return (int64_t)sys_wall_ms();
}

OP(random)
{
    (void)call;
    if (a[0].n > RANDOM_MAX)
        return LIMIT;
    sys_random(a[0].p, a[0].n);
    return a[0].n;
}

OP(config_get)
{
    const char *value = config_env_get(event_config(event_of(call)), guest_bytes(&a[0]));
    return value ? copy_out(slice_str(value), &a[1]) : ABSENT;
}

OP(log)
{
    static const enum log_event events[] = {LOG_guest_debug, LOG_guest_info, LOG_guest_warn,
                                            LOG_guest_error};
    struct event *ev = event_of(call);
    if (a[0].v >= ARRAY_LEN(events))
        return INVALID;
    if (event_log(ev, events[a[0].v])) {
        log_text("text", utf8_cut(guest_bytes(&a[1]), LOG_TEXT_MAX));
        log_end();
    }
    return 0;
}

const struct guest_ops event_ops = {.host =
                                        {
#define HOST(name, group, params, result, text) [GUEST_HOST_##name] = op_##name,
#include "tbl/host.def"
#undef HOST
                                        },
                                    .failed = event_failed,
                                    .input = command_input,
                                    .output = command_output,
                                    .environment = command_environment};
