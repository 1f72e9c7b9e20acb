/* The live page at /, and /api/v1/stream, which feeds it: server-sent events, about one a second,
 * while somebody watches; else there is no timer and no memory.
 *
 *   tick -> an errand goes through the loops, each adds what it has -> home: told to each watcher
 *
 * A watcher's connection is paused and held. No event waits behind another: who has not taken the
 * one before is not told this one, and closed where it takes nothing of it for STALL_MS. The page
 * is made of page.html when weir is built (page_embed). */
#include <inttypes.h>

#include "app/admin.h"
#include "page.inc"

enum {
    TICK_MS = 1000,
    EARLY_MS = 500, /* one that came between two ticks is not told twice at once */
    STALL_MS = 3000,
    WATCHERS_MAX = 32, /* as admin.watchers */
    SLOW_MOST = 12,    /* connections that have most waiting are named */
    SLOW_LOOK = 1024,  /* of so many in each loop */
    STATE_MAX = 1 << 20
};

struct watcher {
    struct conn *conn;
    uint64_t log_at, moved_ms; /* when it was told, or took something, last; 0: never */
};

struct watch {
    struct errand errand;
    struct timer timer;
    bool out; /* the errand is */
    uint32_t n, n_slow;
    struct watcher of[WATCHERS_MAX];
    struct {
        uint32_t queued;
        json_t *json;
    } slow[SLOW_MOST];
    struct metrics sum;
    struct metrics_module modules[]; /* gw.states_max */
};

static size_t watch_size(const struct gateway *gw)
{
    return sizeof(struct watch) + gw->states_max * sizeof(struct metrics_module);
}

/* ---- the page ---- */

enum err page_show(struct admin_call *call)
{
    struct slice coding = http_exchange_field(call->ex, SLICE("accept-encoding"));
    bool gzip = admin_weight(coding, SLICE("gzip")) > 0;
    struct http_response r = {
        200, SLICE("text/html; charset=utf-8"),
        gzip ? SLICE(PAGE_FIELDS "Content-Encoding: gzip\r\n") : SLICE(PAGE_FIELDS),
        gzip ? slice_of(page_gzip, sizeof(page_gzip)) : slice_of(page, sizeof(page))};
    http_exchange_respond(&call->gw->admin, call->conn, &r);
    return ERR_NONE;
}

/* ---- what each loop adds ---- */

/* Puts c among those that have most waiting, of all loops so far. */
static void slow_add(struct gateway *gw, struct watch *w, const struct conn *c, uint32_t queued)
{
    uint32_t at = w->n_slow;
    if (at == SLOW_MOST) {
        at = 0;
        for (uint32_t i = 1; i < SLOW_MOST; i++)
            at = w->slow[i].queued < w->slow[at].queued ? i : at;
        if (w->slow[at].queued >= queued)
            return;
        json_decref(w->slow[at].json);
    } else {
        w->n_slow++;
    }
    w->slow[at].queued = queued;
    w->slow[at].json = conns_api_one(gw, c);
}

/* Those with a queue: the largest first, to a factor of two. */
static void slow_look(struct gateway *gw, struct watch *w)
{
    int looked = 0;
    for (int size = SENDQ_SIZES; size-- > 0 && looked < SLOW_LOOK;) {
        const struct list *all = &gw->net.queues.by_size[size];
        for (const struct list *l = all->next; l != all && looked++ < SLOW_LOOK; l = l->next) {
            const struct sendq *q = CONTAINER_OF(l, struct sendq, node);
            if (q->conn->protocol != PROTOCOL_ADMIN)
                slow_add(gw, w, q->conn, q->bytes);
        }
    }
}

static void visit(struct gateway *gw, struct errand *e)
{
    struct watch *w = CONTAINER_OF(e, struct watch, errand);
    loop_cause(&gw->loop, CAUSE_admin);
    admin_count(gw, &w->sum, w->modules);
    slow_look(gw, w);
    errand_next(gw, e);
}

/* ---- what watchers are told ---- */

static void put_versions(struct metrics_out *o, const struct gateway *gw)
{
    const char *comma = "";
    metrics_line(o, ",\"versions\":{");
    for (uint32_t i = 0; i < gw->config.n_modules && i < gw->states_max; i++) {
        const struct module_code *now = gw->states[i].code, *canary = gw->states[i].canary;
        if (!now)
            continue;
        metrics_line(o, "%s", comma);
        metrics_json_text(o, gw->config.modules[i].name);
        metrics_line(
            o,
            ":{\"version\":%" PRIu32 ",\"sha256\":\"%s\",\"loaded_ms\":%" PRIu64
            ",\"before\":%" PRIu32 ",\"canary\":%" PRIu32 ",\"canary_percent\":%" PRIu32 "}",
            now->version.number, now->version.sha256, now->version.since_ms, now->before.number,
            canary ? canary->version.number : 0, canary ? canary->version.percent : 0);
        comma = ",";
    }
    metrics_line(o, "}");
}

static enum err put_state(struct gateway *gw, struct watch *w, struct buf *out)
{
    struct metrics_out o = {.out = out};
    struct sys_process p;
    sys_process(&p);
    metrics_line(&o,
                 "event: state\ndata: {\"version\":\"" WEIR_VERSION "\",\"engine\":\"%s\","
                 "\"loops\":%" PRIu32 ",\"now_ms\":%" PRIu64 ",\"started_ms\":%" PRIu64
                 ",\"cpu_seconds\":%.3f,\"resident_bytes\":%" PRIu64
                 ",\"connections_limit\":%" PRIu64 ",\"memory\":{",
                 guest_engine_version(), loops_count(gw), gw->loop.now_ms, p.started_ms,
                 (double)p.cpu_ns / 1e9, p.resident, gw->config.limits.connections);
    for (int i = 0; i < MEM_KINDS; i++)
        metrics_line(&o, "%s\"%s\":%" PRIu64, i ? "," : "", mem_name((enum mem_kind)i),
                     mem_bytes((enum mem_kind)i));
    metrics_line(&o, "},");
    metrics_write_json(&o, &w->sum, w->modules, gw->states_max);
    put_versions(&o, gw);
    metrics_line(&o, ",\"slow\":[");
    for (uint32_t i = 0; i < w->n_slow; i++) {
        metrics_line(&o, "%s", i ? "," : "");
        enum err e = admin_dump(w->slow[i].json, out);
        o.e = o.e ? o.e : e;
    }
    w->n_slow = 0;
    metrics_line(&o, "]}\n\n");
    return o.e;
}

static void let_go(struct gateway *gw, struct watch *w, uint32_t i)
{
    conn_release(&gw->net, w->of[i].conn);
    w->of[i] = w->of[--w->n];
    metrics.watchers--;
}

/* Those that have gone are forgotten; with the last of them all is freed. */
static struct watch *watched(struct gateway *gw)
{
    struct watch *w = gw->watch;
    for (uint32_t i = w ? w->n : 0; i-- > 0;)
        if (w->of[i].conn->state != CONN_OPEN)
            let_go(gw, w, i);
    if (!w || w->n)
        return w;
    wheel_cancel(&gw->loop.wheel, &w->timer);
    if (!w->out) {
        mem_free(w, watch_size(gw));
        gw->watch = NULL;
    }
    return NULL;
}

static void tell(struct gateway *gw, struct watcher *to, struct slice state)
{
    struct conn *c = to->conn;
    struct buf lines;
    uint64_t at;
    if (c->queue && conn_progressed(c))
        to->moved_ms = gw->loop.now_ms;
    if (c->queue && gw->loop.now_ms - to->moved_ms >= STALL_MS) {
        metrics.slow_closed_total++;
        conn_close(&gw->net, c, CLOSE_SEND_QUEUE);
    }
    if (c->queue || c->state != CONN_OPEN)
        return;
    buf_init(&lines, 4 * LOG_RECENT);
    if (log_api_put(to->log_at, &lines, &at))
        conn_close(&gw->net, c, CLOSE_NO_MEMORY);
    else
        conn_write(&gw->net, c, state, buf_slice(&lines));
    to->log_at = at;
    to->moved_ms = gw->loop.now_ms;
    buf_done(&lines);
}

static void home(struct gateway *gw, struct errand *e)
{
    struct watch *w = CONTAINER_OF(e, struct watch, errand);
    struct buf state;
    loop_cause(&gw->loop, CAUSE_admin);
    mem_spare(MEM_SPARE);
    buf_init(&state, STATE_MAX);
    enum err err = put_state(gw, w, &state);
    w->out = false;
    w = watched(gw);
    for (uint32_t i = 0; w && i < w->n; i++)
        if (err)
            conn_close(&gw->net, w->of[i].conn, CLOSE_NO_MEMORY);
        else if (!w->of[i].moved_ms || gw->loop.now_ms - w->of[i].moved_ms >= EARLY_MS)
            tell(gw, &w->of[i], buf_slice(&state));
    buf_done(&state);
    mem_spare(0);
}

static void tick(struct gateway *gw)
{
    struct watch *w = gw->watch;
    if (w->out)
        return; /* a loop has much to do: it is told later */
    memset(&w->sum, 0, watch_size(gw) - offsetof(struct watch, sum));
    w->out = true;
    errand_start(gw, &w->errand);
}

static void on_tick(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    if (!watched(gw))
        return;
    wheel_set(&gw->loop.wheel, t, TICK_MS);
    tick(gw);
}

/* ---- who watches ---- */

static struct watch *watch_new(struct gateway *gw)
{
    struct watch *w = mem_alloc(watch_size(gw));
    if (!w)
        return NULL;
    memset(w, 0, watch_size(gw));
    w->errand.visit = visit;
    w->errand.home = home;
    w->timer.kind = LOOP_WATCH;
    loop_on(&gw->loop, LOOP_WATCH, NULL, on_tick, gw);
    return w;
}

enum err page_stream(struct admin_call *call)
{
    struct gateway *gw = call->gw;
    struct conn *c = call->conn;
    bool head = call->ex->req.method == HTTP_HEAD;
    uint64_t from;
    enum err e = log_api_place(call, &from);
    struct watch *w = watched(gw);
    w = w ? w : gw->watch; /* whose errand is out, if there is any */
    if (e || gw->draining)
        return e ? e : ERR_DRAINING;
    if ((w ? w->n : 0) >= gw->config.admin.watchers)
        return ERR_WATCHERS;
    if (!head) {
        if (!w && (w = gw->watch = watch_new(gw)) == NULL)
            return ERR_NO_MEMORY;
        w->of[w->n++] = (struct watcher){.conn = c, .log_at = from};
        c->holds++;
        metrics.watchers++;
    }
    http_exchange_stream(&gw->admin, c, SLICE("text/event-stream"),
                         SLICE("Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"));
    if (head)
        return ERR_NONE;
    if (!timer_is_set(&w->timer))
        wheel_set(&gw->loop.wheel, &w->timer, TICK_MS);
    tick(gw);
    return ERR_NONE;
}

void watch_end(struct gateway *gw)
{
    struct watch *w = gw->watch;
    for (uint32_t i = 0; w && i < w->n; i++) {
        conn_write(&gw->net, w->of[i].conn, SLICE("event: end\ndata: {}\n\n"), SLICE_NONE);
        conn_shutdown(&gw->net, w->of[i].conn, CLOSE_SHUTDOWN);
    }
    (void)watched(gw);
}
