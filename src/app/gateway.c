#include "app/gateway.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "base/log.h"

enum { ACCEPT_BATCH = 64, ACCEPT_PAUSE_MS = 100 };

static struct gateway *gateway_of(struct net *net)
{
    return net->app;
}

void exchange_free(struct conn *c)
{
    struct exchange *ex = c->detail;
    if (!ex)
        return;
    buf_done(&ex->head);
    buf_done(&ex->body);
    mem_free(ex, sizeof(*ex));
    c->detail = NULL;
}

static struct exchange *exchange_new(struct gateway *gw, struct conn *c)
{
    struct exchange *ex = mem_alloc(sizeof(*ex));
    if (!ex)
        return NULL;
    memset(ex, 0, offsetof(struct exchange, req.fields));
    memset((char *)ex + sizeof(ex->req), 0, sizeof(*ex) - sizeof(ex->req));
    buf_init(&ex->head, 65536);
    buf_init(&ex->body, (uint32_t)gw->config.limits.body);
    c->detail = ex;
    return ex;
}

static const char *date_text(struct gateway *gw)
{
    uint64_t s = sys_wall_ms() / 1000;
    if (s != gw->date_s) {
        time_t t = (time_t)s;
        struct tm tm;
        gw->date_s = s;
        gmtime_r(&t, &tm);
        strftime(gw->date, sizeof(gw->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
    }
    return gw->date;
}

/* Sends the response and ends the exchange. ex may be NULL where no request could be read. */
void http_answer(struct gateway *gw, struct conn *c, struct exchange *ex, const struct answer *a)
{
    char head[512];
    bool parsed = ex && ex->req.head_len;
    bool keep = parsed && ex->req.keep_alive && ex->answered && !gw->draining;
    bool is_head = parsed && ex->req.method == HTTP_HEAD;
    bool no_body = a->status == 204 || a->status == 304;
    int n = snprintf(head, sizeof(head), "HTTP/1.1 %u %s\r\nDate: %s\r\n", a->status,
                     http_status_text(a->status), date_text(gw));
    if (a->type)
        n += snprintf(head + n, sizeof(head) - (size_t)n, "Content-Type: %s\r\n", a->type);
    if (!no_body)
        n += snprintf(head + n, sizeof(head) - (size_t)n, "Content-Length: %zu\r\n", a->body.n);
    if (!keep)
        n += snprintf(head + n, sizeof(head) - (size_t)n, "Connection: close\r\n");
    else if (ex->req.minor == 0)
        n += snprintf(head + n, sizeof(head) - (size_t)n, "Connection: keep-alive\r\n");
    metrics.http_requests_total++;
    bool ok = conn_write(&gw->net, c, slice_of(head, (size_t)n), a->fields) &&
              conn_write(&gw->net, c, SLICE("\r\n"), no_body || is_head ? SLICE_NONE : a->body);
    exchange_free(c);
    if (!ok)
        return;
    if (keep)
        conn_timer(&gw->net, c, (uint32_t)gw->config.limits.idle_timeout);
    else
        conn_shutdown(&gw->net, c, CLOSE_DONE);
}

static enum err json_text(struct buf *out, struct slice s)
{
    enum err e = buf_append(out, SLICE("\""));
    for (size_t i = 0; i < s.n && !e; i++) {
        if (s.p[i] == '"' || s.p[i] == '\\' || s.p[i] < 0x20 || s.p[i] >= 0x7f)
            e = buf_printf(out, "\\u%04x", s.p[i]);
        else
            e = buf_append(out, slice_of(s.p + i, 1));
    }
    return e ? e : buf_append(out, SLICE("\""));
}

/* RFC 9457. */
void http_problem(struct gateway *gw, struct conn *c, struct exchange *ex, enum err err,
                  struct slice fields, struct slice detail)
{
    struct buf body;
    unsigned status = err_http_status(err);
    buf_init(&body, 8192);
    metrics.errors_total[err]++;
    enum err e = buf_printf(
        &body,
        "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,\"code\":\"%s\",\"detail\":",
        http_status_text(status), status, err_name(err));
    struct slice text = detail.n ? slice_of(detail.p, MIN(detail.n, (size_t)1024))
                                 : slice_str(err_text(err));
    e = e ? e : json_text(&body, text);
    e = e ? e : buf_append(&body, SLICE("}\n"));
    if (log_begin(LOG_request_refused)) {
        log_text("code", slice_str(err_name(err)));
        log_number("status", status);
        log_end();
    }
    http_answer(gw, c, ex,
                &(struct answer){status, "application/problem+json", fields, buf_slice(&body)});
    buf_done(&body);
}

/* What cannot be read any further is answered and ended. */
static size_t refuse(struct gateway *gw, struct conn *c, enum err e, size_t n)
{
    struct exchange *ex = c->detail;
    if (ex)
        ex->answered = false; /* the message's end is unknown: no reuse */
    http_problem(gw, c, ex, e, SLICE_NONE, SLICE_NONE);
    return n;
}

static const struct config_route *route_find(struct gateway *gw, struct slice path,
                                             enum route_kind kind)
{
    const struct config_route *best = NULL;
    size_t best_n = 0;
    for (uint32_t i = 0; i < gw->config.n_routes; i++) {
        const struct config_route *r = &gw->config.routes[i];
        size_t n = strlen(r->path);
        bool star = r->path[n - 1] == '*';
        bool fits = star ? path.n >= n && memcmp(path.p, r->path, n - 1) == 0
                         : slice_eq(slice_str(r->path), path);
        if (r->kind == kind && fits && (!best || n + !star > best_n)) {
            best = r;
            best_n = n + !star;
        }
    }
    return best;
}

static void answer_text(struct gateway *gw, struct conn *c, unsigned status, const char *type,
                        struct slice body)
{
    http_answer(gw, c, c->detail, &(struct answer){status, type, SLICE_NONE, body});
}

/* Only names of this machine: a page on another site must not reach the admin listener (DNS
 * rebinding). */
static bool admin_host(struct slice host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        size_t n = strlen(names[i]);
        if (host.n >= n && slice_eq_nocase(slice_of(host.p, n), slice_str(names[i])) &&
            (host.n == n || host.p[n] == ':'))
            return true;
    }
    return false;
}

static void admin_request(struct gateway *gw, struct conn *c, struct exchange *ex)
{
    struct slice path = http_span_slice(ex->head.p, ex->req.path);
    if (!admin_host(http_span_slice(ex->head.p, ex->req.host))) {
        http_problem(gw, c, ex, ERR_FORBIDDEN, SLICE_NONE, SLICE_NONE);
    } else if (ex->req.method != HTTP_GET && ex->req.method != HTTP_HEAD) {
        http_problem(gw, c, ex, ERR_METHOD, SLICE("Allow: GET, HEAD\r\n"), SLICE_NONE);
    } else if (slice_eq(path, SLICE("/healthz"))) {
        answer_text(gw, c, 200, "text/plain", SLICE("ok\n"));
    } else if (slice_eq(path, SLICE("/readyz"))) {
        bool ready = gw->ready && !gw->draining;
        answer_text(gw, c, ready ? 200 : 503, "text/plain",
                    ready ? SLICE("ready\n") : SLICE("not ready\n"));
    } else if (slice_eq(path, SLICE("/metrics"))) {
        struct buf out;
        buf_init(&out, 1 << 20);
        enum err e = metrics_write(&out);
        if (e)
            http_problem(gw, c, ex, e, SLICE_NONE, SLICE_NONE);
        else
            answer_text(gw, c, 200, "text/plain; version=0.0.4; charset=utf-8", buf_slice(&out));
        buf_done(&out);
    } else {
        http_problem(gw, c, ex, ERR_NOT_FOUND, SLICE_NONE, SLICE_NONE);
    }
}

static void guest_request(struct gateway *gw, struct conn *c, struct exchange *ex)
{
    struct guest_module *m = &gw->modules[ex->route->module];
    const struct weir_entry *entry = m->exports[GUEST_ON_HTTP];
    struct event *ev = entry ? event_new(gw, c, GUEST_ON_HTTP, m, entry) : NULL;
    if (!ev) {
        http_problem(gw, c, ex, entry ? ERR_NO_MEMORY : ERR_NOT_FOUND, SLICE_NONE, SLICE_NONE);
        return;
    }
    ev->ex = ex;
    enum err e = event_start(ev);
    if (e)
        http_problem(gw, c, ex, e, SLICE("Retry-After: 1\r\n"), SLICE_NONE);
}

/* A whole request is here. */
static void request(struct gateway *gw, struct conn *c, struct exchange *ex)
{
    struct slice path = http_span_slice(ex->head.p, ex->req.path);
    static const char exec[] = "/api/exec/";
    conn_timer(&gw->net, c, 0);
    ex->answered = true;
    if (c->protocol == PROTOCOL_ADMIN) {
        admin_request(gw, c, ex);
        return;
    }
    if (ex->req.upgrade_websocket && (ex->route = route_find(gw, path, ROUTE_WEBSOCKET)) != NULL) {
        ws_upgrade(gw, c, ex);
        return;
    }
    if (path.n == 1 && path.p[0] == '*') {
        answer_text(gw, c, 204, NULL, SLICE_NONE);
    } else if (path.n > sizeof(exec) - 1 && memcmp(path.p, exec, sizeof(exec) - 1) == 0) {
        exec_request(gw, c, ex, slice_of(path.p + sizeof(exec) - 1, path.n - sizeof(exec) + 1));
    } else if ((ex->route = route_find(gw, path, ROUTE_HTTP)) != NULL) {
        guest_request(gw, c, ex);
    } else if (route_find(gw, path, ROUTE_WEBSOCKET)) {
        http_problem(gw, c, ex, ERR_UPGRADE_REQUIRED, SLICE("Upgrade: websocket\r\n"), SLICE_NONE);
    } else {
        http_problem(gw, c, ex, ERR_NOT_FOUND, SLICE_NONE, SLICE_NONE);
    }
}

static size_t body_input(struct gateway *gw, struct conn *c, struct exchange *ex, uint8_t *p,
                         size_t n)
{
    size_t took = n;
    bool whole;
    if (ex->req.chunked) {
        struct http_result r = http_chunked_decode(&ex->chunked, p, n, &ex->body);
        if (r.state == HTTP_BAD)
            return refuse(gw, c, r.err, n);
        took = r.consumed;
        whole = r.state == HTTP_DONE;
    } else {
        took = MIN(n, ex->req.length - ex->body.len);
        enum err e = buf_append(&ex->body, slice_of(p, took));
        if (e)
            return refuse(gw, c, e, n);
        whole = ex->body.len == ex->req.length;
    }
    if (whole)
        request(gw, c, ex);
    return took;
}

static size_t http_input(struct net *net, struct conn *c, uint8_t *p, size_t n)
{
    struct gateway *gw = gateway_of(net);
    struct exchange *ex = c->detail;
    struct http_limits limits = {(uint32_t)gw->config.limits.head,
                                 (uint32_t)gw->config.limits.target};
    if (!ex && !(ex = exchange_new(gw, c))) {
        conn_close(net, c, CLOSE_NO_MEMORY);
        return n;
    }
    if (ex->in_body)
        return body_input(gw, c, ex, p, n);
    bool first = ex->scanned == 0;
    struct http_result r = http_parse_request(p, n, &ex->scanned, &limits, &ex->req);
    if (r.state == HTTP_BAD)
        return refuse(gw, c, r.err, n);
    if (r.state == HTTP_MORE) {
        if (first)
            conn_timer(net, c, (uint32_t)gw->config.limits.head_timeout);
        return 0;
    }
    if (buf_append(&ex->head, slice_of(p, r.consumed)))
        return refuse(gw, c, ERR_NO_MEMORY, n);
    if (ex->req.has_length && ex->req.length > gw->config.limits.body)
        return refuse(gw, c, ERR_HTTP_BODY_SIZE, n);
    if (!ex->req.chunked && !(ex->req.has_length && ex->req.length)) {
        request(gw, c, ex);
        return r.consumed;
    }
    ex->in_body = true;
    http_chunked_init(&ex->chunked);
    conn_timer(net, c, (uint32_t)gw->config.limits.body_timeout);
    if (ex->req.expect_continue && r.consumed == n)
        conn_write(net, c, SLICE("HTTP/1.1 100 Continue\r\n\r\n"), SLICE_NONE);
    return r.consumed;
}

static void http_timeout(struct net *net, struct conn *c)
{
    struct gateway *gw = gateway_of(net);
    struct exchange *ex = c->detail;
    if (ex && (ex->scanned || ex->in_body))
        refuse(gw, c, ERR_HTTP_TIMEOUT, 0);
    else
        conn_close(net, c, CLOSE_IDLE);
}

static void http_closed(struct net *net, struct conn *c)
{
    (void)net;
    struct exchange *ex = c->detail;
    if (ex && !ex->pending)
        exchange_free(c);
}

static void accept_pause(struct gateway *gw, struct listener *l, unsigned slot)
{
    int fd;
    metrics.accept_paused_total++;
    if (log_begin(LOG_accept_paused))
        log_end();
    /* One peer is told by a closed connection rather than left in the backlog. */
    sys_close(gw->reserve);
    if ((fd = sys_accept(l->fd)) >= 0)
        sys_close(fd);
    gw->reserve = sys_reserve_open();
    l->paused = true;
    sys_poller_change(gw->loop.poller, l->fd, 0, loop_data(LOOP_LISTENER, slot, 0));
    wheel_set(&gw->loop.wheel, &l->timer, ACCEPT_PAUSE_MS);
}

static void listener_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)generation, (void)ready;
    struct gateway *gw = arg;
    struct listener *l = &gw->listeners[slot];
    static const struct slice full = {
        (const uint8_t *)"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                         "Connection: close\r\nContent-Length: 0\r\n\r\n",
        89};
    for (int i = 0; i < ACCEPT_BATCH && !l->paused; i++) {
        int fd = sys_accept(l->fd);
        if (fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM) {
            accept_pause(gw, l, slot);
            return;
        }
        if (fd == -EAGAIN)
            return;
        if (fd < 0)
            continue; /* that one has gone already */
        if (gw->net.conns.in_use >= gw->config.limits.connections) {
            metrics.connections_refused_total++;
            metrics.errors_total[ERR_CONNECTIONS]++;
            if (sys_send(fd, full) < 0)
                metrics.sends_skipped_total++;
            sys_close(fd);
            continue;
        }
        struct conn *c = conn_open(&gw->net, fd, l->protocol);
        if (c)
            conn_timer(&gw->net, c, (uint32_t)gw->config.limits.head_timeout);
    }
}

static void listener_timer(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    struct listener *l = CONTAINER_OF(t, struct listener, timer);
    l->paused = false;
    sys_poller_change(gw->loop.poller, l->fd, SYS_IN,
                      loop_data(LOOP_LISTENER, (uint32_t)(l - gw->listeners), 0));
}

static enum err listener_open(struct gateway *gw, const char *address, uint8_t protocol)
{
    char host[64];
    uint16_t port;
    struct sys_address local;
    ASSERT(config_address(address, host, &port));
    int fd = gw->n_listeners == LISTENERS_MAX ? -ENOSPC : sys_listen(host, port);
    if (fd < 0) {
        if (log_begin(LOG_start_failed)) {
            log_text("address", slice_str(address));
            log_text("detail", slice_str(strerror(-fd)));
            log_end();
        }
        return ERR_SYS;
    }
    struct listener *l = &gw->listeners[gw->n_listeners];
    *l = (struct listener){.fd = fd, .protocol = protocol, .timer = {.kind = LOOP_LISTENER}};
    sys_poller_add(gw->loop.poller, fd, SYS_IN, loop_data(LOOP_LISTENER, gw->n_listeners++, 0));
    if (sys_local(fd, &local) == 0 && log_begin(LOG_listening)) {
        log_text("address", slice_str(local.text));
        log_text("serves", slice_str(protocol == PROTOCOL_ADMIN ? "admin" : "http, websocket"));
        log_end();
    }
    return ERR_NONE;
}

enum err gateway_init(struct gateway *gw)
{
    const struct config_limits *l = &gw->config.limits;
    struct net_limits limits = {(uint32_t)l->connections, (uint32_t)l->send_queue,
                                (uint32_t)l->close_timeout};
    enum err e = loop_init(&gw->loop);
    if (e)
        return e;
    list_init(&gw->free_events);
    list_init(&gw->stalled);
    loop_phase(&gw->loop, events_retry, gw);
    e = net_init(&gw->net, &gw->loop, &limits);
    gw->net.app = gw;
    gw->net.protocols[PROTOCOL_HTTP] = (struct conn_protocol){http_input, http_timeout,
                                                              http_closed};
    gw->net.protocols[PROTOCOL_ADMIN] = gw->net.protocols[PROTOCOL_HTTP];
    gw->net.protocols[PROTOCOL_WS] = (struct conn_protocol){ws_input, ws_timeout, ws_closed};
    loop_on(&gw->loop, LOOP_LISTENER, listener_ready, listener_timer, gw);
    gw->reserve = sys_reserve_open();
    for (uint32_t i = 0; i < gw->config.n_listen && !e; i++)
        e = listener_open(gw, gw->config.listen[i], PROTOCOL_HTTP);
    return e ? e : listener_open(gw, gw->config.admin.address, PROTOCOL_ADMIN);
}

/* Stops accepting, ends idle connections, tells WebSockets (RFC 6455 7.4.1: 1001). */
void gateway_drain(struct gateway *gw)
{
    if (gw->draining)
        return;
    gw->draining = true;
    if (log_begin(LOG_draining))
        log_end();
    for (unsigned i = 0; i < gw->n_listeners; i++)
        if (gw->listeners[i].protocol != PROTOCOL_ADMIN) {
            sys_poller_remove(gw->loop.poller, gw->listeners[i].fd);
            sys_close(gw->listeners[i].fd);
            gw->listeners[i].fd = -1;
            wheel_cancel(&gw->loop.wheel, &gw->listeners[i].timer);
        }
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        struct conn *c = pool_at(&gw->net.conns, i);
        if (!c || c->state != CONN_OPEN)
            continue;
        if (c->protocol == PROTOCOL_WS)
            ws_send_close(gw, c, 1001, slice_str(err_text(ERR_DRAINING)), CLOSE_SHUTDOWN);
        else if (!c->detail)
            conn_close(&gw->net, c, CLOSE_SHUTDOWN);
    }
}

void gateway_done(struct gateway *gw)
{
    for (unsigned i = 0; i < gw->n_listeners; i++)
        sys_close(gw->listeners[i].fd);
    sys_close(gw->reserve);
    net_done(&gw->net);
    loop_done(&gw->loop);
}
