/* A guest's event from start to commit: what host functions answer, and what happens when it ends
 * well (effects are applied) or not (they are dropped). */
#include "app/loops.h"
#include "base/log.h"
#include "base/utf8.h"
#include "http/http_trace.h"

enum { MESSAGE_MAX = 16 << 20, KEEP_WARM = 1024, READS_MAX = 64 << 10, ATTEMPTS = 3 };
#define TTL_MAX_MS (UINT64_C(1) << 50)

static struct event *event_of(struct guest_call *call)
{
    return CONTAINER_OF(call, struct event, call);
}

bool event_log(const struct event *ev, enum log_event e)
{
    const struct guest_module *m = ev->call.module;
    char trace[HTTP_TRACE_ID];
    if (!log_begin_of(e, gateway_module_number(ev->gw, m) + 1))
        return false;
    log_text("module", slice_str(m->name));
    log_number("version", CONTAINER_OF(m, struct module_code, guest)->version.number);
    if (ev->conn)
        log_id("conn_id", conn_id(ev->conn));
    if (ev->ex && http_trace_id(&ev->ex->req, ev->ex->head, trace))
        log_text("trace_id", slice_str(trace));
    return true;
}

void event_failed(struct guest_call *call, enum err e, struct slice text)
{
    struct event *ev = event_of(call);
    if (event_log(ev, LOG_guest_failed)) {
        log_text("code", slice_str(err_name(e)));
        log_text("detail", text);
        log_end();
    }
    buf_clear(&ev->copy, UINT32_MAX);
    if (buf_append(&ev->copy, text))
        buf_clear(&ev->copy, 0);
}

/* ---- commit ---- */

static void attach(struct event *ev, struct conn *c, struct slice bytes)
{
    struct hub_conn *h = topics_conn(c);
    if (h) {
        h->attachment.max = (uint32_t)ev->gw->config.limits.attachment;
        buf_clear(&h->attachment, 0);
        h->attached = true;
    }
    if (!h || buf_append(&h->attachment, bytes))
        conn_close(&ev->gw->net, c, CLOSE_NO_MEMORY);
}

/* Effects on a connection, which may have gone since the guest asked for them. */
static enum err apply_conn(struct event *ev, const struct effect *e)
{
    struct gateway *gw = ev->gw;
    if (loops_foreign(gw, e->conn))
        return loops_effect(ev, e);
    struct conn *c = event_reach(gw, ev->call.module->number, e->conn);
    struct slice bytes = effects_bytes(&ev->fx, e), key = effects_key(&ev->fx, e);
    if (!c) {
        metrics.sends_skipped_total += e->kind == EFFECT_SEND;
    } else if (e->kind == EFFECT_SEND) {
        upgrade_send(gw, c, bytes);
    } else if (e->kind == EFFECT_CLOSE) {
        ws_conn_close(&gw->ws, c, e->code, bytes, CLOSE_GUEST);
    } else if (e->kind == EFFECT_ATTACH) {
        attach(ev, c, bytes);
    } else if (e->kind == EFFECT_SUBSCRIBE) {
        return topics_join(&gw->topics, c, event_space(ev), key);
    } else {
        topics_leave(&gw->topics, c, event_space(ev), key);
    }
    return ERR_NONE;
}

static void apply_failed(struct event *ev, enum err e)
{
    event_failed(&ev->call, e, slice_str("an effect could not be carried out"));
}

/* First of all effects, while the lock is held under which the keys were found unchanged. */
static void apply_kv(void *arg, const struct effect *e)
{
    struct event *ev = arg;
    struct kv *kv = event_state(ev)->kv;
    uint64_t now_ms = ev->gw->loop.now_ms;
    enum err err = ERR_NONE;
    if (e->kind == EFFECT_KV && e->code)
        kv_delete(kv, effects_key(&ev->fx, e));
    else if (e->kind == EFFECT_KV)
        err = kv_set(kv, effects_key(&ev->fx, e), effects_bytes(&ev->fx, e),
                     e->number ? now_ms + MIN(e->number, TTL_MAX_MS) : 0, now_ms);
    if (err)
        apply_failed(ev, err);
}

static enum err apply_timer(struct event *ev, const struct effect *e)
{
    uint32_t module = gateway_module_number(ev->gw, ev->call.module);
    if (e->kind == EFFECT_TIMER_CANCEL && loops_foreign(ev->gw, e->conn))
        return loops_effect(ev, e);
    if (e->kind == EFFECT_TIMER_CANCEL) {
        timers_cancel(&ev->gw->timers, module, e->conn);
        return ERR_NONE;
    }
    enum err err = timers_set(&ev->gw->timers, module, e->conn, e->ms, e->number);
    event_state(ev)->n_timers += !err;
    return err;
}

static void apply(void *arg, const struct effect *e)
{
    struct event *ev = arg;
    enum err err = ERR_NONE;
    if (e->kind == EFFECT_PUBLISH)
        err = loops_publish(ev->gw, event_space(ev), effects_key(&ev->fx, e), e->conn,
                            effects_bytes(&ev->fx, e), SLICE_NONE);
    else if (e->kind == EFFECT_TIMER || e->kind == EFFECT_TIMER_CANCEL)
        err = apply_timer(ev, e);
    else if (e->kind != EFFECT_KV)
        err = apply_conn(ev, e);
    if (err)
        apply_failed(ev, err);
}

struct kv_more {
    struct event *ev;
    int64_t bytes;
};

static void kv_more_add(void *arg, const struct effect *e)
{
    struct kv_more *more = arg;
    struct event *ev = more->ev;
    if (e->kind != EFFECT_KV)
        return;
    struct slice key = effects_key(&ev->fx, e), old;
    if (effects_last(&ev->fx, EFFECT_KV, key) != e)
        return;
    if (kv_get(event_state(ev)->kv, key, ev->gw->loop.now_ms, &old))
        more->bytes -= (int64_t)kv_cost(key, old);
    if (!e->code)
        more->bytes += (int64_t)kv_cost(key, effects_bytes(&ev->fx, e));
}

/* Whether all that the event read is as it was, and what it stores still fits. */
static bool keys_unchanged(struct event *ev)
{
    struct kv *kv = event_state(ev)->kv;
    uint64_t now_ms = ev->gw->loop.now_ms;
    struct kv_more more = {ev, 0};
    if (kv->version == ev->kv_version)
        return true;
    if (ev->fx.counts[EFFECT_KV])
        effects_apply(&ev->fx, kv_more_add, &more);
    if (more.bytes > 0 && !kv_fits(kv, more.bytes, now_ms))
        return false;
    for (size_t at = 0; at < ev->reads.len && !ev->read_all;) {
        struct event_read r;
        struct slice value;
        memcpy(&r, ev->reads.p + at, sizeof(r));
        at += sizeof(r);
        if (kv_get(kv, slice_of(ev->reads.p + at, r.key_n), now_ms, &value) != r.version)
            return false;
        at += r.key_n;
    }
    return !ev->read_all;
}

/* Stores what the event stores. false: what it read is not as it was. */
static bool keys_commit(struct event *ev)
{
    struct kv *kv = event_state(ev)->kv;
    if (!ev->kv_used && !ev->fx.counts[EFFECT_KV])
        return true;
    pthread_mutex_lock(&kv->lock);
    bool same = keys_unchanged(ev);
    if (same && ev->fx.counts[EFFECT_KV])
        effects_apply(&ev->fx, apply_kv, ev);
    pthread_mutex_unlock(&kv->lock);
    return same;
}

static bool status_valid(int32_t status)
{
    return status >= 200 && status <= 599;
}

/* What the guest returned, where that is a status; 0 where it has answered itself. */
static int32_t status_of(const struct event *ev)
{
    bool is_status = ev->kind == GUEST_on_http || ev->kind == GUEST_on_ws_handshake;
    return is_status ? (int32_t)ev->call.frame.values[0].bits : 0;
}

static void finish_http(struct event *ev, enum err e)
{
    struct http_server *s = &ev->gw->http;
    int32_t status = status_of(ev);
    struct slice body = buf_slice(&ev->fx.body);
    if (ev->head_n)
        body = slice_of(body.p + ev->head_n, body.n - ev->head_n);
    struct http_response r = {ev->fx.status ? ev->fx.status : 200, SLICE_NONE,
                              buf_slice(&ev->fx.head), body};
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
    int32_t status = status_of(ev);
    if (e) {
        http_exchange_fail(s, ev->conn, e, SLICE_NONE, buf_slice(&ev->copy));
    } else if (status) {
        struct http_response r = {(unsigned)status, SLICE_NONE, SLICE_NONE, SLICE_NONE};
        http_exchange_respond(s, ev->conn, &r);
    } else {
        upgrade_accept(ev->gw, ev->conn, buf_slice(&ev->fx.head), ev->chose_protocol);
    }
}

/* Most end in the iteration that brought them, whose clock tells how long they took. */
static void message_count(const struct event *ev)
{
    const struct gateway *gw = ev->gw;
    if (ev->call.started_ns == gw->loop.now_ns)
        metrics_message(gateway_topic(ev->conn));
    else
        metrics_message_late(gateway_topic(ev->conn), sys_now_ns() - ev->call.started_ns);
}

static void finish_ws(struct event *ev, enum err e)
{
    struct conn *c = ev->conn;
    struct ws_server *s = &ev->gw->ws;
    uint32_t code = (uint32_t)ev->call.frame.values[0].bits;
    if (ev->kind == GUEST_on_ws_message)
        message_count(ev);
    if (e) {
        if (ev->kind == GUEST_on_ws_open && !ev->call.ran)
            c->flags &= (uint8_t)~WS_OPENED; /* it was not told of, so neither is its end */
        if (ev->kind != GUEST_on_ws_close)
            ws_conn_fail(s, c, e, CLOSE_GUEST_FAILED);
        return;
    }
    if (ev->kind == GUEST_on_ws_message && code)
        ws_conn_close(s, c, ws_close_code_valid(code) ? code : 1011, SLICE_NONE, CLOSE_GUEST);
}

/* Back to the list, with what it held. */
void event_free(struct event *ev)
{
    struct conn *c = ev->conn;
    if (ev->kind == GUEST_on_ws_open)
        http_exchange_free(ev->ex);
    effects_clear(&ev->fx);
    buf_clear(&ev->copy, KEEP_WARM);
    buf_clear(&ev->reads, KEEP_WARM);
    ev->active = false;
    ev->call.module->refs--;
    list_append(&ev->gw->free_events, &ev->call.node);
    if (c)
        conn_release(&ev->gw->net, c);
}

/* What it read changed while it ran, before others: it runs again, on the same input. */
static bool run_again(struct event *ev)
{
    if (ev->attempts == ATTEMPTS || guest_call_queue(&ev->gw->guests, &ev->call))
        return false;
    ev->attempts++;
    metrics.guest_conflicts_total++;
    effects_clear(&ev->fx);
    buf_clear(&ev->reads, KEEP_WARM);
    ev->read_all = ev->chose_protocol = ev->kv_used = false;
    ev->kv_delta = 0;
    ev->read = ev->said = ev->head_n = 0;
    ev->overflow = false;
    memcpy(ev->call.frame.values, ev->args, sizeof(ev->args));
    return true;
}

static void done(struct guest_call *call, enum err e)
{
    struct event *ev = event_of(call);
    struct net *net = &ev->gw->net;
    struct conn *c = ev->conn;
    if (ev->said)
        command_lines_end(ev);
    if (!e && ev->kind == GUEST__start)
        e = command_response(ev);
    if (!e && status_of(ev) && !status_valid(status_of(ev)))
        e = ERR_GUEST_RESPONSE;
    if (!e && ev->gw->handed && ev->fx.list.len)
        e = ERR_HANDOVER; /* what it would change is another worker's by now */
    if (!e && !keys_commit(ev)) {
        if (run_again(ev))
            return;
        e = ERR_GUEST_CONFLICT;
        event_failed(call, e, slice_str(err_text(e)));
    }
    if (e)
        metrics.guest_failed_total[e]++;
    /* Before what follows: the next event of this connection may pause it again. */
    if (ev->kept)
        conn_resume(net, c);
    if (!e) /* whether or not anybody is there to be answered */
        effects_apply(&ev->fx, apply, ev);
    if (!c)
        event_state(ev)->n_timers -= ev->kind == GUEST_on_timer; /* nobody waits for it */
    else if (c->protocol != PROTOCOL_WS && c->state != CONN_OPEN)
        http_exchange_free(http_exchange_detach(c)); /* nobody to answer */
    else if (ev->kind == GUEST_EXPORTS)
        exec_finish(ev, e);
    else if (ev->kind == GUEST_on_http || ev->kind == GUEST__start)
        finish_http(ev, e);
    else if (ev->kind == GUEST_on_ws_handshake)
        finish_handshake(ev, e);
    else
        finish_ws(ev, e);
    if (ev->kind == GUEST_on_ws_close)
        topics_conn_free(&ev->gw->topics, c);
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
        buf_init(&ev->reads, READS_MAX);
        effects_init(&ev->fx);
    }
    effects_limit(&ev->fx,
                  (uint32_t)gw->config.modules[gateway_module_number(gw, m)].limits.output);
    ev->gw = gw;
    ev->conn = c;
    ev->kind = kind;
    ev->function = NULL;
    ev->ex = NULL;
    ev->chose_protocol = false;
    ev->message = SLICE_NONE;
    ev->active = true;
    ev->kept = ev->read_all = ev->kv_used = false;
    ev->attempts = 0;
    ev->read = ev->said = ev->head_n = ev->script_n = 0;
    ev->overflow = false;
    ev->kv_delta = 0;
    ev->call.module = m;
    m->refs++;
    ev->call.entry = entry;
    ev->call.done = done;
    ev->call.frame.n_args = 0;
    ev->call.frame.n_results = guest_export_returns(kind);
    if (c)
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
    memcpy(ev->args, ev->call.frame.values, ev->call.frame.n_args * sizeof(ev->args[0]));
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
    memcpy(ev->args, ev->call.frame.values, ev->call.frame.n_args * sizeof(ev->args[0]));
    enum err e = guest_call_queue(&ev->gw->guests, &ev->call);
    if (e)
        event_free(ev);
    return e;
}

void event_start_http(struct event *ev)
{
    struct http_server *s = &ev->gw->http;
    struct conn *c = ev->conn;
    c->asked = ev->call.module->number + 1;
    enum err e = event_start(ev);
    if (e)
        http_exchange_fail(s, c, e, SLICE_NONE, SLICE_NONE);
}
