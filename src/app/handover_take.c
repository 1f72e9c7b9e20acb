/* The new worker's part of a hand-over: takes what the old one gives, and serves when that one has
 * given it up. What comes is checked like a peer's input: the old worker may have been subverted.
 *
 * Its loops take in a meeting (loops.h): whoever has the turn reads records until one is another
 * loop's, whose turn is next. So each makes its own connections and timers, and none serves before
 * all have theirs.
 */
#include <stdlib.h>

#include "app/handover_link.h"
#include "app/loops.h"
#include "base/log.h"
#include "ws/ws_beat.h"

enum { TABLE_MAX = 1024 };   /* rows of the old worker's tables */
enum { TOPICS_MOST = 1001 }; /* of a connection: as limits.topics allows, and its room's */

struct take {
    struct gateway *gw; /* whose turn it is */
    struct handover_link *link;
    struct handover_record r;
    struct handover_hello hello;
    enum { BEGIN, READ, APPLY, FINISH } step; /* APPLY: r is to be taken by who has the turn */
    enum err e;
    uint32_t slots;                            /* that a connection's id may name */
    int routes[TABLE_MAX], modules[TABLE_MAX]; /* here, by number there; -1: not here */
    uint32_t n_routes, n_modules, conns, keys, timers, dropped;
    struct buf refused; /* ids of connections that can't go on here */
};

enum err handover_target(const struct config *c, const struct config_route *r, struct buf *out)
{
    const struct config_module *m = r->module < 0 ? NULL : &c->modules[r->module];
    if (r->kind != ROUTE_WEBSOCKET)
        return ERR_NONE;
    if (!m)
        return buf_printf(out, "handler %d in %s", (int)r->handler, r->space ? r->space : "public");
    return buf_printf(out, "module %s in %s", m->name,
                      r->space    ? r->space
                      : *m->space ? m->space
                                  : m->name);
}

static int route_like(const struct config *c, const struct handover_route *want)
{
    struct buf target;
    int found = -1;
    buf_init(&target, 4096);
    for (uint32_t i = 0; i < c->n_routes && found < 0 && want->target.n; i++) {
        buf_clear(&target, UINT32_MAX);
        if (slice_eq(slice_str(c->routes[i].path), want->path) &&
            !handover_target(c, &c->routes[i], &target) &&
            slice_eq(buf_slice(&target), want->target))
            found = (int)i;
    }
    buf_done(&target);
    return found;
}

static int module_like(const struct config *c, struct slice name)
{
    for (uint32_t i = 0; i < c->n_modules && name.n; i++)
        if (slice_eq(slice_str(c->modules[i].name), name))
            return (int)i;
    return -1;
}

/* Where connections are of loops that there are not here. */
static enum err homes_make(const struct take *t)
{
    const struct handover_hello *h = &t->hello;
    uint32_t here = loops_count(t->gw);
    uint64_t slots = MAX(h->slots, UINT64_C(1)), turns = (h->loops + here - 1) / here;
    if (!h->loops || h->loops > THREADS_MAX || slots > t->slots)
        return ERR_INVALID;
    if (turns > 1 && slots * turns + t->slots > 1 << 24)
        return ERR_LIMIT; /* a slot of an id has 24 bits */
    if (turns > 1)
        conn_homes = (struct conn_homes){here, (uint32_t)slots, (uint32_t)(slots * turns)};
    return ERR_NONE;
}

/* The old worker's tables. *format false: nothing of it can be read. */
static enum err tables_take(struct take *t, bool *format)
{
    const struct config *c = &t->gw->config;
    enum err e = handover_link_get(t->link, &t->r);
    if (!e && t->r.kind != HANDOVER_hello)
        e = ERR_INVALID;
    *format = !e && t->r.hello.format == HANDOVER_FORMAT;
    if (e || !*format)
        return e;
    t->hello = t->r.hello;
    e = homes_make(t);
    if (e)
        return e;
    while (!(e = handover_link_get(t->link, &t->r)) && t->r.kind != HANDOVER_end)
        if (t->r.kind == HANDOVER_route && t->n_routes < TABLE_MAX)
            t->routes[t->n_routes++] = route_like(c, &t->r.route);
        else if (t->r.kind == HANDOVER_module && t->n_modules < TABLE_MAX)
            t->modules[t->n_modules++] = module_like(c, t->r.module.name);
        else
            return ERR_INVALID;
    return e;
}

static enum err say(struct take *t, enum handover_kind kind)
{
    t->r.kind = kind;
    enum err e = handover_link_put(t->link, &t->r, -1);
    return e ? e : handover_link_flush(t->link);
}

static enum err verdict_say(struct take *t, bool format)
{
    uint8_t same[TABLE_MAX];
    for (uint32_t i = 0; i < t->n_routes; i++)
        same[i] = t->routes[i] >= 0;
    t->r.verdict = (struct handover_verdict){format ? HANDOVER_FORMAT : 0,
                                             slice_of(same, t->n_routes)};
    return say(t, HANDOVER_verdict);
}

/* The module's number here; -1: it has none. */
static int module_here(const struct take *t, uint64_t there)
{
    return there < t->n_modules ? t->modules[there] : -1;
}

static void key_take(struct take *t)
{
    const struct handover_key *k = &t->r.key;
    int m = module_here(t, k->module);
    if (m < 0)
        return;
    bool kept = k->name.n <= KV_KEY_MAX && k->value.n <= UINT32_MAX &&
                !kv_set(t->gw->states[m].kv, k->name, k->value, k->expires_ms, t->gw->loop.now_ms);
    t->keys += kept;
    t->dropped += !kept;
}

static void timer_take(struct take *t)
{
    const struct handover_timer *h = &t->r.timer;
    int m = module_here(t, h->module);
    uint64_t now_ms = t->gw->loop.now_ms;
    if (m < 0)
        return;
    struct module_state *s = &t->gw->states[m];
    bool kept = s->n_timers < t->gw->config.modules[m].limits.timers &&
                !timers_set(&t->gw->timers, (uint32_t)m, h->id,
                            h->due_ms > now_ms ? h->due_ms - now_ms : 0, h->cookie);
    s->n_timers += kept;
    t->timers += kept;
    t->dropped += !kept;
}

static bool topics_take(struct take *t, struct conn *c, struct slice list)
{
    struct slice key;
    for (uint32_t n = 0; n < TOPICS_MOST && handover_item_read(&list, &key); n++) {
        const uint8_t *zero = memchr(key.n ? key.p : (const uint8_t *)"", 0, key.n);
        if (!zero)
            return false;
        size_t space_n = (size_t)(zero - key.p);
        if (topics_join(&t->gw->topics, c, slice_of(key.p, space_n),
                        slice_of(zero + 1, key.n - space_n - 1)))
            return false;
    }
    return !list.n;
}

/* What the hub keeps with it. A member of a built-in room has just that one topic. */
static bool hub_take(struct take *t, struct conn *c, const struct handover_conn *h)
{
    const struct config_route *route = &t->gw->config.routes[c->route];
    if (!topics_take(t, c, h->topics))
        return false;
    struct hub_conn *hub = h->attached ? topics_conn(c) : c->hub;
    if (route->handler == HANDLER_PUBSUB && !upgrade_in_room(t->gw, c))
        return false;
    if (!h->attached)
        return true;
    if (!hub || h->attachment.n > t->gw->config.limits.attachment)
        return false;
    hub->attachment.max = (uint32_t)t->gw->config.limits.attachment;
    hub->attached = true;
    return !buf_append(&hub->attachment, h->attachment);
}

/* What has come of a message before is taken once more. */
static bool replay_take(struct take *t, struct conn *c, struct slice replay)
{
    struct ws_rx *rx = NULL;
    struct ws_event got;
    uint8_t *p = (uint8_t *)(uintptr_t)replay.p; /* the link's own memory */
    struct ws_result r = {.state = WS_MORE};
    if (replay.n)
        r = ws_receive(&rx, p, replay.n, t->gw->ws.message_max, c->flags & WS_DEFLATE, &got);
    c->detail = rx;
    return r.state == WS_MORE;
}

static bool websocket_take(struct take *t, struct conn *c)
{
    const struct handover_conn *h = &t->r.conn;
    struct gateway *gw = t->gw;
    uint64_t id = conn_id(c);
    metrics.websockets_active++;
    c->route = (uint16_t)t->routes[h->route];
    c->flags = h->flags & (WS_CLOSE_SENT | WS_CLEAN | WS_OPENED | WS_DEFLATE);
    metrics.websockets_deflate += !!(c->flags & WS_DEFLATE);
    c->close_code = (uint16_t)h->close_code;
    if (h->flags & WS_DRAIN_DUE && !buf_append(&gw->drains, slice_of(&id, sizeof(id))))
        c->flags |= WS_DRAIN_DUE;
    if (h->watched)
        conn_watch(c);
    if (h->full && c->queue)
        conn_pause_full(c);
    bool deflates = !(c->flags & WS_DEFLATE) || ws_server_deflate(&gw->ws);
    bool taken = deflates && hub_take(t, c, h) && replay_take(t, c, h->replay) && !t->r.unknown;
    if (c->detail)
        ws_beat_partial(&gw->ws, c, c->detail);
    if (c->flags & WS_CLOSE_SENT)
        conn_timer(&gw->net, c, gw->ws.close_timeout_ms);
    else
        ws_beat_resume(&gw->ws, c, &(struct ws_beat_state){h->beat, h->heard_ms, h->ponged_ms});
    return taken;
}

/* Whether it came to the admin listener, as the old worker says: to speak to that is a privilege,
 * which without TLS nobody has any more where it has TLS now. */
static bool came_to_admin(const struct gateway *gw, int fd)
{
    struct sys_address here, listens;
    for (unsigned i = 0; i < gw->n_listeners; i++) {
        const struct listener *l = &gw->listeners[i];
        if (l->server != &gw->admin || l->tls || sys_local(fd, &here) || sys_local(l->fd, &listens))
            continue;
        const char *a = strrchr(here.text, ':'), *b = strrchr(listens.text, ':');
        if (a && b && strcmp(a, b) == 0)
            return true;
    }
    return false;
}

static enum err conn_take(struct take *t)
{
    const struct handover_conn *h = &t->r.conn;
    struct gateway *gw = t->gw;
    const struct conn_rest rest = {h->saved, h->queue, (uint32_t)h->begun};
    int fd = handover_link_fd(t->link);
    bool ws = h->protocol == PROTOCOL_WS;
    bool routed = ws && h->route < t->n_routes && t->routes[h->route] >= 0;
    if (fd < 0)
        return ERR_INVALID;
    if (h->protocol >= PROTOCOL_PROXY || (h->id >> 32 & 0xffffff) >= t->slots ||
        h->saved.n > NET_RECEIVE || (ws && !routed) || h->begun > h->queue.n) {
        sys_close(fd);
        return ERR_INVALID;
    }
    struct conn *c = conn_adopt(&gw->net, fd, (uint8_t)h->protocol, h->id, &rest);
    if (!c)
        return ERR_NO_MEMORY;
    t->conns++;
    bool known = access_take(gw, c, h);
    if (!ws) {
        if (!known || (h->protocol == PROTOCOL_ADMIN && !came_to_admin(gw, c->fd)))
            conn_close(&gw->net, c, CLOSE_HANDOVER);
        else
            http_server_open(h->protocol == PROTOCOL_ADMIN ? &gw->admin : &gw->http, c);
        return ERR_NONE;
    }
    uint64_t id = conn_id(c);
    /* Said when it is ours: the old worker may yet have to go on with it. */
    return websocket_take(t, c) && known ? ERR_NONE
                                         : buf_append(&t->refused, slice_of(&id, sizeof(id)));
}

/* Whose the record is. All loops' keys are one set. */
static uint32_t home_of(const struct take *t)
{
    uint64_t id = t->r.kind == HANDOVER_conn    ? t->r.conn.id
                  : t->r.kind == HANDOVER_timer ? t->r.timer.id
                                                : 0;
    return loops_home(t->gw, id);
}

static enum err record_take(struct take *t)
{
    if (t->r.kind == HANDOVER_key)
        key_take(t);
    else if (t->r.kind == HANDOVER_timer)
        timer_take(t);
    else
        return t->r.kind == HANDOVER_conn ? conn_take(t) : ERR_INVALID;
    return ERR_NONE;
}

static enum err end_take(struct take *t)
{
    if (t->r.end.conns != t->conns)
        return ERR_INVALID;
    t->r.taken = (struct handover_taken){t->conns};
    enum err e = say(t, HANDOVER_taken);
    if (e)
        return e;
    e = handover_link_get(t->link, &t->r);
    /* An old worker that died meanwhile serves none of them either. */
    return e == ERR_SYS || (!e && t->r.kind == HANDOVER_go) ? ERR_NONE : ERR_INVALID;
}

/* While all loops wait, as what they have is the old worker's yet. */
static _Noreturn void end(enum err e)
{
    if (log_begin(LOG_handover_refused)) {
        log_text("code", slice_str(err_name(e)));
        log_end();
    }
    exit(EXIT_FAILURE);
}

/* The first loop's: what comes before the records. */
static void begin(struct take *t)
{
    bool format = false;
    t->e = tables_take(t, &format);
    t->e = t->e ? t->e : verdict_say(t, format);
    t->step = t->e || !format ? FINISH : READ;
}

/* The loop's, when it is this worker that serves. */
static void finish(struct take *t)
{
    struct gateway *gw = t->gw;
    if (t->hello.format != HANDOVER_FORMAT)
        return;
    pool_settle(&gw->net.conns, (uint32_t)t->hello.generation);
    gw->timers.last_id = (uint64_t)gw->number << 56 | (t->hello.last_timer & UINT64_MAX >> 8);
    gw->topics.published = t->hello.published;
    for (size_t at = 0; at < t->refused.len; at += sizeof(uint64_t)) {
        uint64_t id;
        memcpy(&id, t->refused.p + at, sizeof(id));
        struct conn *c = conn_get(&gw->net, id);
        if (c)
            ws_conn_close(&gw->ws, c, err_close_code(ERR_HANDOVER),
                          slice_str(err_text(ERR_HANDOVER)), CLOSE_HANDOVER);
    }
}

static int take_turn(struct gateway *gw, void *arg)
{
    struct take *t = arg;
    t->gw = gw;
    if (t->step == BEGIN)
        begin(t);
    for (; t->step != FINISH && !t->e; t->step = READ) {
        if (t->step == READ)
            t->e = handover_link_get(t->link, &t->r);
        t->step = APPLY;
        if (!t->e && home_of(t) != gw->number)
            return (int)home_of(t);
        if (!t->e && t->r.kind == HANDOVER_end) {
            t->e = end_take(t);
            t->step = FINISH;
            break;
        }
        t->e = t->e ? t->e : record_take(t);
    }
    if (t->e && !gw->number)
        end(t->e);
    if (t->e)
        return 0;
    finish(t);
    return gw->number + 1u == loops_count(gw) ? MEETING_OVER : gw->number + 1;
}

static void took(const struct take *t, uint64_t begin_ns)
{
    metrics.handover_connections_total += t->conns;
    metrics.handover_refused_total += t->refused.len / sizeof(uint64_t);
    metrics.handover_dropped_total += t->dropped;
    if (log_begin(LOG_handover_taken)) {
        log_number("connections", t->conns);
        log_number("keys", t->keys);
        log_number("timers", t->timers);
        log_number("dropped", t->dropped);
        log_number("us", (int64_t)((sys_now_ns() - begin_ns) / 1000));
        log_end();
    }
}

void handover_take(struct gateway *gw, int fd, uint32_t slots)
{
    uint64_t begin_ns = sys_now_ns();
    struct take *t = mem_alloc(sizeof(*t));
    if (!t || gw->draining) /* other loops may have ended */
        end(t ? ERR_DRAINING : ERR_NO_MEMORY);
    memset(t, 0, sizeof(*t));
    t->gw = gw;
    t->slots = slots;
    buf_init(&t->refused, UINT32_MAX);
    t->link = handover_link_new(fd);
    if (!t->link)
        end(ERR_NO_MEMORY);
    loops_meet(gw, take_turn, t);
    took(t, begin_ns);
    handover_link_free(t->link);
    buf_done(&t->refused);
    mem_free(t, sizeof(*t));
}
