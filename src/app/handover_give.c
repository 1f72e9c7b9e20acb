/* The old worker's part of a hand-over: its loops stop accepting and reading, let the events that
 * run end, then write all that the next one needs, and give up what that has taken.
 *
 *            GIVE                 no event runs, or        TAKEN, GO
 *   serving ------> leaving -----  HANDOVER_EVENTS_MS ---> handed: what stayed is drained (1012)
 *      ^               |                                      (TLS, what is half closed, requests
 *      +---------------+ the next one failed, or is silent     in progress, routes that are gone)
 *
 * All loops do so in meetings (loops.h). In the first one they begin to leave. In each the words
 * that are on their way between them arrive, and only then is it seen whether events run in any: if
 * so, and there is time, they go on for a moment. Else each writes its part in its turn, and they
 * leave together, or stay together.
 *
 * A message whose event has not ended by then is handed over to be run there, as nothing of an
 * event has happened before its end; so are timers. Others end here: see event.c:done.
 *
 * Descriptors are sent while they are open here too, and nothing is written or read on either side
 * until the new worker says that it has all of them; so where it fails before, nothing is lost. */
#include "app/gateway.h"
#include "app/handover_link.h"
#include "app/loops.h"
#include "base/log.h"
#include "ws/ws_beat.h"

enum { HANDOVER_EVENTS_MS = 100, STEP_MS = 1 }; /* STEP_MS: between two looks at it */
/* Ids that timers which run again may have: more than there can be. */
enum { HANDOVER_TIMERS = 1 << 20 };

/* ---- what is written ---- */

struct give {
    struct gateway *gw; /* whose turn it is, or was */
    struct handover_link *link;
    struct handover_record r;
    struct handover_hello hello;
    enum { SETTLE, BEGIN, WRITE, END, LEAVE } step;
    enum err e;
    uint8_t routes[ROUTES_MAX]; /* 1: the next worker has the same */
    struct buf topics, replay, queue, saved;
    uint32_t conns, left;
    bool busy;   /* an event runs */
    bool format; /* the next worker's is ours; else it takes over nothing but the listeners */
};

static enum err put(struct give *g, enum handover_kind kind, int fd)
{
    g->r.kind = kind;
    return handover_link_put(g->link, &g->r, fd);
}

static enum err tables_put(struct give *g)
{
    struct gateway *gw = g->gw;
    struct buf target;
    buf_init(&target, 4096);
    g->r.hello = g->hello;
    enum err e = put(g, HANDOVER_hello, -1);
    for (uint32_t i = 0; i < gw->config.n_routes && !e; i++) {
        buf_clear(&target, UINT32_MAX);
        e = handover_target(&gw->config, &gw->config.routes[i], &target);
        g->r.route = (struct handover_route){slice_str(gw->config.routes[i].path),
                                             buf_slice(&target)};
        e = e ? e : put(g, HANDOVER_route, -1);
    }
    for (uint32_t i = 0; i < gw->config.n_modules && !e; i++) {
        g->r.module = (struct handover_module){slice_str(gw->config.modules[i].name)};
        e = put(g, HANDOVER_module, -1);
    }
    g->r.end = (struct handover_end){0};
    e = e ? e : put(g, HANDOVER_end, -1);
    buf_done(&target);
    return e ? e : handover_link_flush(g->link);
}

struct key_put {
    struct give *g;
    uint32_t module;
};

static enum err key_put(void *arg, struct slice key, struct slice value, uint64_t expires_ms)
{
    struct key_put *k = arg;
    k->g->r.key = (struct handover_key){k->module, expires_ms, key, value};
    return put(k->g, HANDOVER_key, -1);
}

static enum err timer_put(void *arg, const struct guest_timer *t)
{
    struct give *g = arg;
    g->r.timer = (struct handover_timer){t->module, t->id, t->cookie, t->due_ms};
    return put(g, HANDOVER_timer, -1);
}

/* Said goodbye to, and its peer has not ended yet: whose guest is to be told of the end by who
 * serves then, as what it stores there counts. */
static bool ends(const struct conn *c)
{
    return c->state == CONN_LINGER && !c->queue && c->flags & WS_OPENED && c->flags & WS_CLOSE_SENT;
}

/* Whether the next worker can go on with it: a plain WebSocket whose route is there too, or a
 * connection between two requests, of the next one of which nothing was parsed. */
static bool givable(const struct give *g, const struct conn *c)
{
    if (!c || c->holds || c->tls)
        return false;
    if (c->protocol == PROTOCOL_WS)
        return g->routes[c->route] && (c->state == CONN_OPEN || ends(c));
    if (c->state != CONN_OPEN || c->protocol == PROTOCOL_PROXY)
        return false; /* whether TLS follows is its listener's, whose number may be another there */
    return !c->detail && !c->peer_ended;
}

static enum err topics_put(struct give *g, const struct hub_conn *h)
{
    enum err e = ERR_NONE;
    buf_clear(&g->topics, UINT32_MAX);
    for (const struct topic_member *m = h ? h->members : NULL; m && !e; m = m->next)
        e = handover_item_write(&g->topics, slice_of(m->topic->key, m->topic->key_n));
    return e;
}

/* What is to run again: ev's message comes in front of what was not taken yet. */
static enum err message_put(struct give *g, const struct event *ev, struct slice *saved)
{
    uint8_t end[WS_REPLAY_END];
    enum ws_opcode kind = (enum ws_opcode)ev->args[1].bits;
    buf_clear(&g->saved, UINT32_MAX);
    enum err e = ws_message_replay(kind, ev->message, &g->replay, end);
    e = e ? e : buf_append(&g->saved, slice_of(end, sizeof(end)));
    e = e ? e : buf_append(&g->saved, *saved);
    *saved = buf_slice(&g->saved);
    return e;
}

/* ev: of the connection, which has not ended; NULL: there is none. */
static enum err conn_put(struct give *g, const struct conn *c, const struct event *ev)
{
    const struct hub_conn *h = c->hub;
    bool ws = c->protocol == PROTOCOL_WS;
    struct conn_rest rest = {.begun = 0};
    uint8_t proxied[ACCESS_PROXIED];
    enum err e = topics_put(g, h);
    buf_clear(&g->replay, 64 << 10);
    buf_clear(&g->queue, 64 << 10);
    e = e ? e : conn_rest(&g->gw->net, c, &g->queue, &rest);
    if (!e && ws && c->state == CONN_OPEN)
        e = ws_rx_replay(c->detail, &g->replay);
    if (!e && ev && ev->kind == GUEST_on_ws_message)
        e = message_put(g, ev, &rest.saved);
    g->r.conn = (struct handover_conn){
        .id = conn_id(c),
        .protocol = c->protocol,
        .flags = c->flags | (ev && ev->kind == GUEST_on_ws_drain ? WS_DRAIN_DUE : 0u),
        .close_code = ws ? c->close_code : 0,
        .route = c->route,
        .attached = h && h->attached,
        .watched = c->watched,
        .full = c->full,
        .attachment = h ? buf_slice(&h->attachment) : SLICE_NONE,
        .topics = buf_slice(&g->topics),
        .replay = buf_slice(&g->replay),
        .saved = rest.saved,
        .queue = rest.queue,
        .begun = rest.begun,
    };
    if (ws) {
        struct ws_beat_state beat = ws_beat_state(&g->gw->ws, c);
        g->r.conn.beat = beat.beat;
        g->r.conn.heard_ms = beat.heard_ms;
        g->r.conn.ponged_ms = beat.ponged_ms;
    }
    access_give(g->gw, c, &g->r.conn, proxied);
    g->conns++;
    return e ? e : put(g, HANDOVER_conn, c->fd);
}

/* Whether its connection can be handed over, and it run there. */
static bool event_givable(const struct give *g, const struct event *ev)
{
    const struct conn *c = ev->conn;
    bool again = ev->kind == GUEST_on_ws_message || ev->kind == GUEST_on_ws_drain;
    return c && again && c->protocol == PROTOCOL_WS && c->state == CONN_OPEN && c->holds == 1 &&
           !c->tls && g->routes[c->route] &&
           (!c->saved || c->saved->len + WS_REPLAY_END <= NET_RECEIVE);
}

static enum err event_put(struct give *g, struct event *ev)
{
    struct gateway *gw = g->gw;
    if (event_givable(g, ev))
        return conn_put(g, ev->conn, ev);
    if (ev->kind != GUEST_on_timer)
        return ERR_NONE;
    g->r.timer = (struct handover_timer){gateway_module_number(gw, ev->call.module),
                                         timers_id(&gw->timers), ev->args[0].bits, gw->loop.now_ms};
    return put(g, HANDOVER_timer, -1);
}

static enum err calls_each(struct give *g, const struct list *calls,
                           enum err (*take)(struct give *g, struct event *ev))
{
    enum err e = ERR_NONE;
    for (const struct list *n = calls->next; n != calls && !e; n = n->next)
        e = take(g, CONTAINER_OF(n, struct event, call.node));
    return e;
}

static enum err code_each(struct give *g, const struct module_code *c,
                          enum err (*take)(struct give *g, struct event *ev))
{
    enum err e = c ? calls_each(g, &c->guest.ready, take) : ERR_NONE;
    return e || !c ? e : calls_each(g, &c->guest.waiting, take);
}

/* All events that have not ended: between two slices they are in their modules' lists. */
static enum err events_each(struct give *g, enum err (*take)(struct give *g, struct event *ev))
{
    const struct gateway *gw = g->gw;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; i < gw->config.n_modules && !e; i++) {
        e = code_each(g, gw->states[i].code, take);
        e = e ? e : code_each(g, gw->states[i].canary, take);
    }
    for (const struct list *n = gw->replaced.next; n != &gw->replaced && !e; n = n->next)
        e = code_each(g, CONTAINER_OF(n, struct module_code, node), take);
    return e;
}

static enum err state_put(struct give *g)
{
    struct gateway *gw = g->gw;
    uint32_t before = g->conns;
    enum err e = ERR_NONE;
    for (uint32_t i = 0; !gw->number && i < gw->config.n_modules && !e; i++) /* all loops' keys */
        e = kv_each(gw->states[i].kv, key_put, &(struct key_put){g, i});
    e = e ? e : timers_each(&gw->timers, timer_put, g);
    for (uint32_t i = 0; i < gw->net.conns.count && !e; i++) {
        const struct conn *c = pool_at(&gw->net.conns, i);
        if (givable(g, c))
            e = conn_put(g, c, NULL);
    }
    e = e ? e : events_each(g, event_put);
    g->left += (uint32_t)metrics.connections_active - (g->conns - before);
    return e;
}

/* The first loop's: says hello, and learns which routes are there. */
static enum err give_begin(struct give *g)
{
    struct handover_record r;
    g->link = handover_link_new(g->gw->successor);
    enum err e = g->link ? tables_put(g) : ERR_NO_MEMORY;
    e = e ? e : handover_link_get(g->link, &r);
    if (!e && r.kind != HANDOVER_verdict)
        e = ERR_INVALID;
    g->format = !e && r.verdict.format == HANDOVER_FORMAT;
    if (g->format)
        slice_copy(g->routes, slice_of(r.verdict.routes.p, MIN(r.verdict.routes.n, ROUTES_MAX)));
    return e;
}

/* The first loop's, when all have written. */
static enum err give_end(struct give *g)
{
    struct handover_record r;
    g->r.end = (struct handover_end){g->conns};
    enum err e = put(g, HANDOVER_end, -1);
    e = e ? e : handover_link_flush(g->link);
    e = e ? e : handover_link_get(g->link, &r);
    if (!e && r.kind != HANDOVER_taken)
        e = ERR_INVALID;
    g->r.go = (struct handover_go){g->conns};
    e = e ? e : put(g, HANDOVER_go, -1);
    return e ? e : handover_link_flush(g->link);
}

/* ---- leaving ---- */

static void listeners_watch(struct gateway *gw, bool watch)
{
    for (unsigned i = 0; i < gw->n_listeners; i++) {
        struct listener *l = &gw->listeners[i];
        wheel_cancel(&gw->loop.wheel, &l->timer);
        l->paused = false;
        if (watch)
            gateway_listener_watch(gw, l);
        else
            sys_poller_remove(gw->loop.poller, l->fd);
    }
}

static void listeners_close(struct gateway *gw)
{
    for (unsigned i = 0; i < gw->n_listeners; i++) {
        sys_poller_remove(gw->loop.poller, gw->listeners[i].fd);
        sys_close(gw->listeners[i].fd);
        wheel_cancel(&gw->loop.wheel, &gw->listeners[i].timer);
    }
    gw->n_listeners = 0;
}

void handover_give(struct gateway *gw, int fd)
{
    if (gw->leaving || gw->draining || !gw->ready || fd < 0) {
        sys_close(fd);
        return;
    }
    gw->leaving = true;
    gw->met = !gw->loops;
    gw->successor = fd;
    gw->leave_until_ms = gw->loop.now_ms + HANDOVER_EVENTS_MS;
    gw->leave_timer.kind = LOOP_HANDOVER;
    listeners_watch(gw, false);
}

/* It serves on as if nothing had been. */
static void stay(struct gateway *gw, enum err e)
{
    gw->leaving = gw->unloaded = false;
    modules_stay(gw);
    listeners_watch(gw, true);
    if (gw->number)
        return;
    metrics.handover_failed_total++;
    control_send(SYS_CONTROL_FD, CONTROL_KEPT, 0, "", -1);
    if (log_begin(LOG_handover_kept)) {
        log_text("detail",
                 slice_str(e == ERR_SYS ? "the new worker ended, or did not answer" : err_text(e)));
        log_end();
    }
}

static void conn_leaves(struct give *g, struct conn *c)
{
    struct gateway *gw = g->gw;
    if (c->protocol == PROTOCOL_WS) {
        ws_beat_end(c);
        upgrade_forget(gw, c);
        metrics.websockets_active--;
        metrics.websockets_deflate -= !!(c->flags & WS_DEFLATE);
    }
    conn_give_up(&gw->net, c);
}

static enum err event_leaves(struct give *g, struct event *ev)
{
    if (event_givable(g, ev))
        conn_leaves(g, ev->conn);
    return ERR_NONE;
}

static void leave(struct give *g)
{
    struct gateway *gw = g->gw;
    gw->leaving = false;
    gw->handed = true;
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        struct conn *c = pool_at(&gw->net.conns, i);
        if (!g->format || !c)
            continue;
        if (givable(g, c))
            conn_leaves(g, c);
        else if (c->protocol == PROTOCOL_WS && !g->routes[c->route])
            ws_conn_close(&gw->ws, c, err_close_code(ERR_HANDOVER),
                          slice_str(err_text(ERR_HANDOVER)), CLOSE_HANDOVER);
    }
    if (g->format && events_each(g, event_leaves))
        return; /* it never fails */
    listeners_close(gw);
    if (!gw->number && log_begin(LOG_handover_given)) {
        log_number("connections", g->conns);
        log_number("left", g->left);
        log_end();
    }
    gateway_drain(gw);
}

static bool quiet(const struct gateway *gw)
{
    return !gw->guests.running && !gw->guests.waiting;
}

static enum err timer_note(void *arg, const struct guest_timer *t)
{
    struct give *g = arg;
    g->hello.loops = MAX(g->hello.loops, (t->id >> 56) + 1);
    return ERR_NONE;
}

/* What the next worker is to know before it gets the first connection. */
static void note(struct give *g)
{
    const struct gateway *gw = g->gw;
    struct handover_hello *h = &g->hello;
    uint64_t last_timer = (gw->timers.last_id & UINT64_MAX >> 8) + HANDOVER_TIMERS;
    h->format = HANDOVER_FORMAT;
    h->generation = MAX(h->generation, pool_generation(&gw->net.conns));
    h->last_timer = MAX(h->last_timer, last_timer);
    h->published = MAX(h->published, gw->topics.published);
    h->loops = MAX(h->loops, gw->number + UINT64_C(1));
    for (uint32_t i = 0; i < gw->net.conns.count; i++) {
        const struct conn *c = pool_at(&gw->net.conns, i);
        uint64_t id = c ? conn_id(c) : 0;
        h->loops = MAX(h->loops, (id >> 56) + 1);
        h->slots = MAX(h->slots, (id >> 32 & 0xffffff) + 1);
    }
    if (timers_each(&gw->timers, timer_note, g))
        return; /* it never fails */
}

/* What was said to this loop before has come: it is in queues now. */
static void settle(struct give *g)
{
    struct gateway *gw = g->gw;
    if (!gw->leaving)
        listeners_watch(gw, false);
    gw->leaving = true;
    loops_settle(gw);
    while (topics_run(&gw->topics))
        ;
    net_flush(&gw->net);
    g->busy |= !quiet(gw);
}

static int give_turn(struct gateway *gw, void *arg)
{
    struct give *g = arg;
    bool last = gw->number + 1u == loops_count(gw);
    int next = last ? 0 : gw->number + 1;
    g->gw = gw;
    switch (g->step) {
    case SETTLE:
        settle(g);
        note(g);
        g->step = last ? BEGIN : SETTLE;
        return next;
    case BEGIN:
        if (g->busy && gw->loop.now_ms < gw->leave_until_ms)
            return MEETING_OVER;
        g->e = give_begin(g);
        g->step = g->e || !g->format ? LEAVE : WRITE;
        return 0;
    case WRITE:
        g->e = state_put(g);
        g->step = g->e ? LEAVE : last ? END : WRITE;
        return g->e ? 0 : next;
    case END:
        g->e = give_end(g);
        g->step = LEAVE;
        return 0;
    default:
        if (g->e)
            stay(gw, g->e);
        else
            leave(g);
        return last ? MEETING_OVER : next;
    }
}

static void transfer(struct gateway *first)
{
    static struct give g; /* one at a time */
    wheel_cancel(&first->loop.wheel, &first->leave_timer);
    first->met = true;
    memset(&g, 0, sizeof(g));
    buf_init(&g.topics, 4 << 20);
    buf_init(&g.replay, HANDOVER_RECORD_MAX);
    buf_init(&g.queue, HANDOVER_RECORD_MAX);
    buf_init(&g.saved, NET_RECEIVE);
    loops_meet(first, give_turn, &g);
    if (g.link)
        handover_link_free(g.link);
    buf_done(&g.topics);
    buf_done(&g.replay);
    buf_done(&g.queue);
    buf_done(&g.saved);
}

bool handover_step(struct gateway *gw)
{
    bool met = loops_come(gw);
    if (gw->leaving && gw->draining) { /* there is nothing to hand over to */
        gw->leaving = false;
        if (!gw->number)
            sys_close(gw->successor);
    }
    if (!gw->leaving || gw->number || (gw->loops && timer_is_set(&gw->leave_timer)))
        return met;
    if (quiet(gw) && !gw->topics.n_pending && !gw->unloaded) {
        gw->unloaded = true;
        modules_leave(gw); /* actors' last events, if any: they may store what they know */
    }
    if (quiet(gw) || !gw->met || gw->loop.now_ms >= gw->leave_until_ms)
        transfer(gw);
    if (gw->leaving)
        wheel_set(&gw->loop.wheel, &gw->leave_timer, STEP_MS);
    return !gw->leaving;
}
