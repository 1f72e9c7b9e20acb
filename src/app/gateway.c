#include "app/loops.h"

#include <errno.h>

#include "base/hash.h"
#include "base/log.h"

enum { ACCEPT_BATCH = 64, ACCEPT_PAUSE_MS = 100, DRAIN_STEP_MS = 20 };
enum { PAGE_MAX = 1 << 20 };
enum { CONNECTION_ROOM = 64 << 10 }; /* for its place, a request's head, and an answer */
enum { TRIM_MS = 10 };               /* between two times that the allocator gives memory back */
enum { TURN_EVENTS = 32 };           /* guests' events of a connection in its turn */
#define GUEST_BUDGET_NS UINT64_C(2000000)

/* ---- routes ---- */

/* The longest match; an exact path before a pattern. -1: none. */
static int route_find(const struct gateway *gw, struct slice path, enum route_kind kind)
{
    int best = -1;
    size_t best_n = 0;
    for (uint32_t i = 0; i < gw->config.n_routes; i++) {
        const struct config_route *r = &gw->config.routes[i];
        struct slice want = slice_str(r->path);
        bool star = want.p[want.n - 1] == '*';
        bool fits = star ? path.n >= want.n && slice_begins(path, slice_of(want.p, want.n - 1))
                         : slice_eq(want, path);
        size_t n = want.n + !star;
        if (r->kind == kind && fits && n > best_n) {
            best = (int)i;
            best_n = n;
        }
    }
    return best;
}

static void guest_request(struct gateway *gw, struct conn *c, struct http_exchange *ex, int route)
{
    const struct config_route *r = &gw->config.routes[route];
    struct guest_module *m = gateway_module(gw, (uint32_t)r->module, c);
    size_t n = strlen(r->path);
    struct slice fields = SLICE_NONE, detail = SLICE_NONE;
    enum err e = access_token(gw, c, ex, r->jwt, &fields, &detail);
    if (e) {
        http_exchange_fail(&gw->http, c, e, fields, detail);
        return;
    }
    enum guest_export kind = m->exports[GUEST_on_http] ? GUEST_on_http : GUEST__start;
    struct event *ev = event_new(gw, c, kind, m, m->exports[kind]);
    if (!ev) {
        http_exchange_fail(&gw->http, c, ERR_NO_MEMORY, SLICE_NONE, SLICE_NONE);
        return;
    }
    ev->ex = ex;
    ev->script_n = (uint32_t)(r->path[n - 1] == '*' ? n - 2 : n);
    event_start_http(ev);
}

static void public_request(void *owner, struct conn *c, struct http_exchange *ex)
{
    struct gateway *gw = owner;
    struct slice path = http_span_slice(ex->head, ex->req.path), exec = SLICE("/api/exec/");
    int socket = route_find(gw, path, ROUTE_WEBSOCKET), route;
    if (ex->req.upgrade_websocket && socket >= 0) {
        upgrade_request(gw, c, ex, (uint16_t)socket);
    } else if (path.n == 1 && path.p[0] == '*') {
        http_exchange_respond(&gw->http, c,
                              &(struct http_response){204, SLICE_NONE, SLICE_NONE, SLICE_NONE});
    } else if (path.n > exec.n && slice_begins(path, exec)) {
        exec_request(gw, c, ex, slice_of(path.p + exec.n, path.n - exec.n));
    } else if ((route = route_find(gw, path, ROUTE_HTTP)) >= 0) {
        guest_request(gw, c, ex, route);
    } else if (socket >= 0) {
        http_exchange_fail(&gw->http, c, ERR_UPGRADE_REQUIRED,
                           SLICE("Upgrade: websocket\r\nConnection: Upgrade\r\n"), SLICE_NONE);
    } else {
        http_exchange_fail(&gw->http, c, ERR_NOT_FOUND, SLICE_NONE, SLICE_NONE);
    }
}

enum conn_ready gateway_ready(const struct gateway *gw, const struct guest_module *m)
{
    if (!guests_admit(&gw->guests))
        return CONN_NO_TIME;
    bool room = gw->net.fed < TURN_EVENTS &&
                !(m && (guests_full(&gw->guests, m) || guests_over(&gw->guests, m)));
    return room ? CONN_TURN : CONN_NO_ROOM;
}

static enum conn_ready public_ready(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    /* What it asks for now is not known before it is read: most likely, the same again. */
    const struct guest_module *m = c->asked ? gateway_module(gw, c->asked - 1, c) : NULL;
    bool over = m && guests_over(&gw->guests, m);
    enum conn_ready ready = gw->leaving ? CONN_NO_TIME : gateway_ready(gw, NULL);
    return ready == CONN_TURN && over ? CONN_NO_ROOM : ready;
}

static void admin_on_request(void *owner, struct conn *c, struct http_exchange *ex)
{
    admin_request(owner, c, ex);
}

static enum conn_ready admin_ready(void *owner, struct conn *c)
{
    (void)owner, (void)c;
    return CONN_ALWAYS;
}

/* ---- listeners ---- */

static uint64_t listener_data(const struct gateway *gw, const struct listener *l)
{
    return loop_data(LOOP_LISTENER, (uint32_t)(l - gw->listeners), 0);
}

/* Descriptors ran out. One peer is told by a closed connection rather than left in the backlog, and
 * the listener rests, as it would be reported ready without end. */
static void accept_pause(struct gateway *gw, struct listener *l)
{
    int fd;
    metrics.accept_paused_total++;
    if (log_begin(LOG_accept_paused)) {
        log_number("connections", (int64_t)metrics.connections_active);
        log_end();
    }
    sys_close(gw->reserve);
    if ((fd = sys_accept(l->fd)) >= 0)
        sys_close(fd);
    gw->reserve = sys_reserve_open();
    l->paused = true;
    sys_poller_change(gw->loop.poller, l->fd, 0, listener_data(gw, l));
    wheel_set(&gw->loop.wheel, &l->timer, ACCEPT_PAUSE_MS);
}

/* 503 for whatever reason: a 429 would have to tell the time (RFC 9110 6.6.1). */
static void refuse(struct gateway *gw, int fd, enum err why, bool tls)
{
    struct slice full = SLICE("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                              "Connection: close\r\nContent-Length: 0\r\n\r\n");
    metrics.connections_refused_total++;
    metrics.errors_total[why]++;
    if (tls || why == ERR_PROXY) {
        sys_close(fd);
        return;
    }
    if (sys_send(fd, full) < 0)
        metrics.sends_skipped_total++;
    refused_add(&gw->refused, fd);
}

/* Those that a guest is yet to be told the end of are among them. */
static uint32_t places_taken(const struct gateway *gw, bool admin)
{
    const uint32_t *speaking = gw->net.speaking;
    return admin ? speaking[PROTOCOL_ADMIN] + speaking[PROTOCOL_ADMIN_TLS]
                 : speaking[PROTOCOL_HTTP] + speaking[PROTOCOL_WS] + speaking[PROTOCOL_PROXY] +
                       speaking[PROTOCOL_TLS];
}

static void listener_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)generation, (void)ready;
    struct gateway *gw = arg;
    struct listener *l = &gw->listeners[slot];
    for (int i = 0; i < ACCEPT_BATCH && !l->paused; i++) {
        int fd = sys_accept(l->fd);
        bool short_of = fd == -EMFILE || fd == -ENFILE || fd == -ENOBUFS || fd == -ENOMEM;
        if (short_of && gw->refused.n)
            refused_clear(&gw->refused); /* theirs are given back first */
        else if (short_of)
            accept_pause(gw, l);
        if (fd == -EAGAIN)
            return;
        if (fd < 0)
            continue; /* that one has gone already */
        bool admin = l->server == &gw->admin;
        uint32_t taken = places_taken(gw, admin), peer = 0;
        bool place = admin ? taken < ADMIN_CONNECTIONS : loops_place(gw, taken);
        enum err why = !place                                             ? ERR_CONNECTIONS
                       : !admin && !mem_room(MEM_BUFFER, CONNECTION_ROOM) ? ERR_NO_MEMORY
                                                                          : ERR_NONE;
        if (!why && admin && !access_admin(gw, fd))
            why = ERR_ADMIN_PEER;
        if (!why && !admin)
            why = access_accept(gw, l->proxy, fd, &peer);
        if (why) {
            refuse(gw, fd, why, l->tls);
            continue;
        }
        mem_spare(admin ? MEM_SPARE : 0);
        struct conn *c = conn_open(&gw->net, fd,
                                   l->proxy ? PROTOCOL_PROXY
                                   : l->tls ? (admin ? PROTOCOL_ADMIN_TLS : PROTOCOL_TLS)
                                            : (admin ? PROTOCOL_ADMIN : PROTOCOL_HTTP));
        if (c) {
            c->peer = peer;
            c->route = (uint16_t)slot; /* the listener, for who reads a PROXY header */
        } else {
            peers_leave(&gw->peers, peer);
        }
        if (c && l->tls && !l->proxy)
            tls_start(&gw->net, c, slot);
        else if (c)
            http_server_open(l->server, c); /* a PROXY header has as long as a request's head */
        mem_spare(0);
    }
}

static void listener_timer(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    struct listener *l = CONTAINER_OF(t, struct listener, timer);
    l->paused = false;
    sys_poller_change(gw->loop.poller, l->fd, SYS_IN, listener_data(gw, l));
}

void gateway_listener_watch(struct gateway *gw, struct listener *l)
{
    sys_poller_add(gw->loop.poller, l->fd, SYS_IN, listener_data(gw, l));
}

void gateway_serve(struct gateway *gw)
{
    for (unsigned i = 0; i < gw->n_listeners; i++)
        gateway_listener_watch(gw, &gw->listeners[i]);
}

enum err gateway_listen(struct gateway *gw, int fd, bool admin)
{
    struct sys_address local;
    if (gw->n_listeners == LISTENERS_MAX) {
        sys_close(fd);
        return ERR_LIMIT;
    }
    struct listener *l = &gw->listeners[gw->n_listeners++];
    *l = (struct listener){.fd = fd, .server = admin ? &gw->admin : &gw->http};
    l->proxy = !admin && gw->config.listen_proxy >> (gw->n_listeners - 1) & 1;
    l->timer.kind = LOOP_LISTENER;
    if (!gw->number && sys_local(fd, &local) == 0 && log_begin(LOG_listening)) {
        log_text("address", slice_str(local.text));
        log_text("serves", slice_str(admin ? "admin" : "http, websocket"));
        log_end();
    }
    return ERR_NONE;
}

static void handshake_done(void *owner, struct conn *c)
{
    struct gateway *gw = owner;
    bool admin = c->protocol == PROTOCOL_ADMIN_TLS;
    conn_speak(&gw->net, c, admin ? PROTOCOL_ADMIN : PROTOCOL_HTTP);
    http_server_open(admin ? &gw->admin : &gw->http, c);
}

static void end_idle(struct gateway *gw, struct conn *c)
{
    if (c->queue)
        conn_shutdown(&gw->net, c, CLOSE_SHUTDOWN); /* it still takes its last response */
    else
        conn_close(&gw->net, c, CLOSE_SHUTDOWN);
}

/* Who had shown another one's certificate shows one again. */
static void admin_renew(struct gateway *gw)
{
    const struct conn_protocol *tls = &gw->net.protocols[PROTOCOL_TLS];
    struct conn_protocol *admin = &gw->net.protocols[PROTOCOL_ADMIN_TLS];
    *admin = *tls;
    admin->spare = MEM_SPARE;
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        struct conn *c = pool_at(&gw->net.conns, i);
        if (c && c->tls && c->state == CONN_OPEN && c->protocol == PROTOCOL_ADMIN && !c->detail)
            end_idle(gw, c);
    }
}

enum err gateway_tls(struct gateway *gw, uint32_t listener, struct slice pairs, struct buf *why)
{
    const struct config_tls *t = &gw->config.tls;
    const struct tls_limits limits = {gw->net.limits.connections,
                                      (uint32_t)loops_share(&gw->config, t->handshakes),
                                      (uint32_t)t->handshake_timeout, (uint32_t)t->records};
    enum err e = gw->net.tls ? ERR_NONE
                             : tls_new(&gw->net, &limits, PROTOCOL_TLS, gw, handshake_done);
    e = e ? e : tls_certificates(&gw->net, listener, pairs, why);
    gw->listeners[listener].tls |= !e;
    if (!e && gw->listeners[listener].server == &gw->admin)
        admin_renew(gw);
    return e;
}

/* ---- life ---- */

enum err gateway_module_check(const struct config *config, uint32_t i, const struct guest_module *m,
                              struct buf *why)
{
    if (m->exports[GUEST__start] && m->actor) {
        enum err e = buf_printf(why, "a WASI command runs once: it needs instance: event");
        return e ? e : ERR_MODULE_REFUSED;
    }
    if (config_module_added(&config->modules[i]) && !exec_reaches(&config->modules[i], m)) {
        enum err e = buf_printf(why, "no route names it, and /api/exec does not reach it as it "
                                     "exports on_ functions: add it with exec=yes, or by the "
                                     "configuration");
        return e ? e : ERR_MODULE_REFUSED;
    }
    for (uint32_t r = 0; r < config->n_routes; r++) {
        const struct config_route *route = &config->routes[r];
        bool http = route->kind == ROUTE_HTTP;
        bool fits = http ? m->exports[GUEST_on_http] || m->exports[GUEST__start]
                         : m->exports[GUEST_on_ws_message] || m->exports[GUEST_on_ws_open] ||
                               m->exports[GUEST_on_ws_handshake];
        if (route->module != (int)i || fits)
            continue;
        enum err e = buf_printf(why, "the route %s needs it to export %s", route->path,
                                http ? "on_http or _start" : "on_ws_message");
        return e ? e : ERR_MODULE_REFUSED;
    }
    return ERR_NONE;
}

static bool phase_guests(void *arg)
{
    struct gateway *gw = arg;
    bool more = guests_run(&gw->guests);
    uint64_t wake_ns = guests_wake_ns(&gw->guests), now_ns = gw->loop.now_ns;
    if (wake_ns && !timer_is_set(&gw->throttle_timer))
        wheel_set(&gw->loop.wheel, &gw->throttle_timer,
                  wake_ns > now_ns ? (wake_ns - now_ns) / 1000000 : 0);
    return topics_run(&gw->topics) || more;
}

/* Nothing to do: what it woke the loop for is in a phase. */
static void nothing(void *arg, struct timer *t)
{
    (void)arg, (void)t;
}

/* After reaping, which may have queued a guest's last event of a connection, and after all that is
 * sent and all events that end in an iteration: what on_ws_drain waits for. */
static bool phase_pending(void *arg)
{
    struct gateway *gw = arg;
    upgrade_drains(gw);
    modules_reap(gw);
    bool more = handover_step(gw);
    if (gw->loop.now_ms - gw->trimmed_ms >= TRIM_MS && mem_trim_due()) {
        gw->trimmed_ms = gw->loop.now_ms;
        sys_memory_trim();
    }
    loops_places_tell(gw, places_taken(gw, false));
    log_settle();
    return more || !list_empty(&gw->guests.turns);
}

static bool timer_due(void *owner, uint32_t module, uint64_t cookie)
{
    struct gateway *gw = owner;
    struct guest_module *m = gateway_module(gw, module, NULL);
    if (!m || !m->exports[GUEST_on_timer])
        return true; /* its new version has none, or there is none: the timer is dropped */
    if (gw->leaving || guests_queue_full(&gw->guests))
        return false;
    struct event *ev = event_new(gw, NULL, GUEST_on_timer, m, m->exports[GUEST_on_timer]);
    if (!ev)
        return false;
    guest_arg(&ev->call, WASMTIME_I64, cookie);
    if (event_queue(ev))
        return false;
    gw->states[module]
        .n_timers++; /* until the event ends: it takes a place among those that wait */
    return true;
}

static void timer_gone(void *owner, uint32_t module)
{
    struct gateway *gw = owner;
    gw->states[module].n_timers--;
}

/* Tells as many WebSockets as keeps those that are left spread over the time that is left, so that
 * their peers do not come back all at once. */
static void drain_tell(struct gateway *gw)
{
    enum err why = gw->handed ? ERR_HANDOVER : ERR_DRAINING;
    uint64_t now_ms = gw->loop.now_ms, left_ms = DRAIN_STEP_MS;
    if (gw->drain_spread_ms > now_ms)
        left_ms = MAX(left_ms, gw->drain_spread_ms - now_ms);
    uint64_t n = (gw->drain_left * (uint64_t)DRAIN_STEP_MS + left_ms - 1) / left_ms;
    while (n && gw->drain_next < gw->net.conns.count) {
        struct conn *c = pool_at(&gw->net.conns, gw->drain_next++);
        if (!c || c->protocol != PROTOCOL_WS || c->state != CONN_OPEN || c->flags & WS_CLOSE_SENT)
            continue;
        ws_conn_close(&gw->ws, c, err_close_code(why), slice_str(err_text(why)),
                      gw->handed ? CLOSE_HANDOVER : CLOSE_SHUTDOWN);
        n--;
        gw->drain_left -= gw->drain_left > 0;
    }
}

/* Each step of a drain: whether all have gone, or the time is over. */
static void drain_step(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    drain_tell(gw);
    bool over = gw->loop.now_ms >= gw->drain_until_ms;
    uint32_t left = places_taken(gw, false) + (gw->handed ? gw->n_jobs : 0) + pprof_waits(gw);
    if (over && left && log_begin(LOG_drain_expired)) {
        log_number("connections", left);
        log_end();
    }
    if (over || (!left && loops_drained(gw)))
        gw->loop.stop = true;
    else
        wheel_set(&gw->loop.wheel, t, DRAIN_STEP_MS);
}

/* The most that a response has: of any module, or of a page of our own. */
static uint64_t output_max(const struct config *c)
{
    uint64_t most = PAGE_MAX;
    for (uint32_t i = 0; i < c->n_modules; i++)
        most = MAX(most, c->modules[i].limits.output);
    return most;
}

static void server_init(struct gateway *gw, struct http_server *s, uint8_t protocol)
{
    const struct config_limits *l = &gw->config.limits;
    s->owner = gw;
    s->limits = (struct http_server_limits){
        .parse = {(uint32_t)l->head, (uint32_t)l->target},
        .body = (uint32_t)l->body,
        .queue_max = (uint32_t)(l->send_queue + output_max(&gw->config)),
        .head_timeout_ms = l->head_timeout,
        .body_timeout_ms = l->body_timeout,
        .idle_timeout_ms = l->idle_timeout,
    };
    http_server_init(s, &gw->net, protocol);
}

void gateway_module_init(const struct config *config, uint32_t i, struct guest_module *out)
{
    const struct config_module *m = &config->modules[i];
    const struct config_module_limits *l = &m->limits;
    guest_module_init(out, m->name);
    out->number = i;
    out->actor = strcmp(m->instance, "module") == 0;
    out->allow = m->allow;
    out->limits = (struct guest_module_limits){.memory = (uint32_t)l->memory,
                                               .table_elements = (uint32_t)l->table_elements,
                                               .deadline_ms = (uint32_t)l->deadline,
                                               .timeout_ms = (uint32_t)l->timeout,
                                               .cpu_ms = (uint32_t)loops_share(config, l->cpu),
                                               .calls = (uint32_t)l->calls};
}

void gateway_limits_raise(struct guest_limits *g, const struct config_module_limits *l)
{
    g->memory_max = MAX(g->memory_max, (uint32_t)l->memory);
    g->table_max = MAX(g->table_max, (uint32_t)l->table_elements);
}

struct slice gateway_space(const struct gateway *gw, uint32_t module,
                           const struct config_route *route)
{
    const struct config_module *m = &gw->config.modules[module];
    if (route && route->space)
        return slice_str(route->space);
    return slice_str(*m->space ? m->space : m->name);
}

static void guest_limits_of(const struct config *c, struct guest_limits *out)
{
    uint32_t slots = (uint32_t)loops_share(c, c->limits.guests);
    *out = (struct guest_limits){.slots = slots,
                                 .slots_module = MAX(1u, slots / 4),
                                 .queue = (uint32_t)loops_share(c, c->limits.guest_queue),
                                 .memory_max = 65536,
                                 .table_max = 1,
                                 .budget_ns = GUEST_BUDGET_NS};
    for (uint32_t i = 0; i < c->n_modules; i++) {
        gateway_limits_raise(out, &c->modules[i].limits);
        out->actors += strcmp(c->modules[i].instance, "module") == 0;
    }
    if (c->admin.modules) {
        struct config_module_limits added;
        config_limits_default(&added);
        gateway_limits_raise(out, &added);
        if (c->root.workers <= 1) /* with more there can be no actors */
            out->actors += (uint32_t)c->admin.modules;
    }
}

/* Topics, timers and tables of guests' keys. */
static void hub_init(struct gateway *gw)
{
    topics_init(&gw->topics, &gw->net);
    gw->topics.deliver = upgrade_deliver;
    timers_init(&gw->timers, &gw->loop);
    gw->timers.last_id = (uint64_t)gw->number << 56;
    gw->timers.due = timer_due;
    gw->timers.gone = timer_gone;
    gw->topics.owner = gw->timers.owner = gw;
    buf_init(&gw->drains, UINT32_MAX);
    loop_on(&gw->loop, LOOP_THROTTLE, NULL, nothing, gw);
    loop_on(&gw->loop, LOOP_HANDOVER, NULL, nothing, gw);
    gw->throttle_timer.kind = LOOP_THROTTLE;
}

/* Of WebSocket routes, by their paths; see gateway_topic. */
static void topics_name(const struct gateway *gw)
{
    for (uint32_t i = 0; i < gw->config.n_routes && i + 1 < METRICS_TOPICS; i++)
        if (gw->config.routes[i].kind == ROUTE_WEBSOCKET)
            metrics_topics[i + 1] = gw->config.routes[i].path;
}

/* The first loop's are everybody's. */
static enum err states_init(struct gateway *gw)
{
    size_t n = gw->config.n_modules + gw->config.admin.modules + 1;
    gw->states_max = (uint32_t)n - 1;
    gw->states = mem_alloc(n * sizeof(*gw->states));
    struct kv *kv = gw->number ? loops_at(gw, 0)->states[0].kv : mem_alloc(n * sizeof(*kv));
    if (!gw->states || !kv)
        return ERR_NO_MEMORY;
    memset(gw->states, 0, n * sizeof(*gw->states));
    for (uint32_t i = 0; i < n; i++) {
        gw->states[i].kv = &kv[i];
        if (!gw->number && i < gw->config.n_modules)
            kv_init(&kv[i], gw->config.modules[i].limits.kv);
    }
    return ERR_NONE;
}

enum err gateway_init(struct gateway *gw)
{
    const struct config_limits *l = &gw->config.limits;
    struct net_limits limits = {
        .connections = (uint32_t)l->connections + ADMIN_CONNECTIONS,
        .linger_ms = (uint32_t)l->close_timeout,
        .send_ms = (uint32_t)l->send_timeout,
        .slow_ms = (uint32_t)l->slow_timeout,
        /* Of several loops each has room for one answer. */
        .queues = MIN(l->queues, MAX(loops_share(&gw->config, l->queues),
                                     l->send_queue + output_max(&gw->config)))};
    struct guest_limits guest_limits;
    enum err e = loop_init(&gw->loop);
    if (e)
        return e;
    list_init(&gw->free_events);
    list_init(&gw->replaced);
    list_init(&gw->jobs);
    e = net_init(&gw->net, &gw->loop, &limits);
    if (e)
        return e;
    loop_phase(&gw->loop, phase_guests, gw);
    net_phase_reap(&gw->net);
    loop_phase(&gw->loop, phase_pending, gw);
    loop_on(&gw->loop, LOOP_LISTENER, listener_ready, listener_timer, gw);
    loop_on(&gw->loop, LOOP_DRAIN, NULL, drain_step, gw);
    gw->http.request = public_request;
    gw->http.ready = public_ready;
    if (strcmp(gw->config.root.access_log, "on") == 0)
        gw->http.answered = access_log;
    gw->admin.request = admin_on_request;
    gw->admin.ready = admin_ready;
    server_init(gw, &gw->http, PROTOCOL_HTTP);
    server_init(gw, &gw->admin, PROTOCOL_ADMIN);
    gw->net.protocols[PROTOCOL_ADMIN].spare = MEM_SPARE;
    gw->net.protocols[PROTOCOL_ADMIN].cause = CAUSE_admin;
    gw->admin.limits.body = (uint32_t)gw->config.admin.module_size;
    upgrade_init(gw);
    guest_limits_of(&gw->config, &guest_limits);
    guests_init(&gw->guests, &guest_limits, &event_ops, &gw->loop.now_ns);
    e = states_init(gw);
    if (e)
        return e;
    hub_init(gw);
    if (!gw->number)
        topics_name(gw);
    refused_init(&gw->refused, &gw->loop, (uint32_t)l->refused, (uint32_t)l->close_timeout);
    gw->reserve = sys_reserve_open();
    return ERR_NONE;
}

void gateway_drain(struct gateway *gw)
{
    if (gw->draining)
        return;
    gw->draining = gw->http.draining = true;
    /* The last part is for the closing handshake. */
    uint64_t last_ms = MIN(gw->config.limits.close_timeout, gw->config.root.drain / 4);
    gw->drain_until_ms = gw->loop.now_ms + gw->config.root.drain;
    gw->drain_spread_ms = gw->drain_until_ms - last_ms;
    if (!gw->handed && log_begin(LOG_draining)) {
        if (gw->loops)
            log_number("loop", gw->number);
        log_number("connections", (int64_t)metrics.connections_active);
        log_end();
    }
    for (unsigned i = 0; i < gw->n_listeners; i++) {
        struct listener *l = &gw->listeners[i];
        if (l->server == &gw->admin)
            continue; /* says "not ready" until the end */
        sys_poller_remove(gw->loop.poller, l->fd);
        sys_close(l->fd);
        l->fd = -1;
        wheel_cancel(&gw->loop.wheel, &l->timer);
    }
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        struct conn *c = pool_at(&gw->net.conns, i);
        if (!c || c->state != CONN_OPEN)
            continue;
        if (c->protocol == PROTOCOL_WS)
            gw->drain_left++;
        else if (c->protocol >= PROTOCOL_PROXY) /* has not asked for anything yet */
            conn_close(&gw->net, c, CLOSE_SHUTDOWN);
        else if (c->protocol == PROTOCOL_HTTP && !c->detail && !c->scanned && !c->listed)
            end_idle(gw, c);
    }
    watch_end(gw);
    gw->drain_timer.kind = LOOP_DRAIN;
    wheel_set(&gw->loop.wheel, &gw->drain_timer, 1);
}

void gateway_done(struct gateway *gw)
{
    for (unsigned i = 0; i < gw->n_listeners; i++)
        sys_close(gw->listeners[i].fd);
    refused_done(&gw->refused);
    sys_close(gw->reserve);
    access_done(gw);
    timers_done(&gw->timers);
    topics_done(&gw->topics);
    ws_server_done(&gw->ws);
    net_done(&gw->net);
    loop_done(&gw->loop);
}
