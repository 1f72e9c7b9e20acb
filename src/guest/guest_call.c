/* Running calls: slices, deadlines, turns. The epoch ticks each millisecond while guests run; at
 * each tick a running guest's callback decides whether it yields or ends. */
#include <stdlib.h>

#include "base/metrics.h"
#include "guest/guest.h"
#include "sys/sys.h"

static wasm_engine_t *tick_engines[2];
static volatile uint32_t ticks, ticks_idle;
static bool ticking;

static void tick(void)
{
    ticks++;
    for (int i = 0; i < 2; i++)
        if (tick_engines[i])
            wasmtime_engine_increment_epoch(tick_engines[i]);
    /* No guest for a while: stop here, so that an idle worker makes no wake-ups. */
    if (++ticks_idle > 20) {
        ticking = false;
        sys_ticker_set(0);
    }
}

static void ticker_arm(void)
{
    ticks_idle = 0;
    if (!ticking) {
        ticking = true;
        sys_ticker_set(1);
    }
}

void guest_ticker_engine(int which, wasm_engine_t *engine)
{
    static bool ready;
    if (!ready)
        sys_ticker_init(tick);
    ready = true;
    tick_engines[which] = engine;
}

/* Called on the guest's fiber when a tick passed: appends nothing, formats nothing. */
static wasmtime_error_t *on_epoch(wasmtime_context_t *context, void *data, uint64_t *delta,
                                  wasmtime_update_deadline_kind_t *kind)
{
    (void)context;
    struct guest_call *c = data;
    c->used_ticks++;
    uint64_t now_ms = sys_now_ns() / 1000000;
    if (c->used_ticks > c->module->deadline_ms)
        c->over = ERR_GUEST_DEADLINE;
    else if (now_ms - c->started_ms > c->module->timeout_ms)
        c->over = ERR_GUEST_TIMEOUT;
    if (c->over)
        return wasmtime_error_new(err_text(c->over));
    *delta = 1;
    *kind = WASMTIME_UPDATE_DEADLINE_YIELD;
    return NULL;
}

static bool start(struct guests *g, struct guest_call *c)
{
    struct guest_module *m = c->module;
    c->store = wasmtime_store_new(g->engines[m->pulley], c, NULL);
    if (!c->store)
        return false;
    wasmtime_context_t *context = wasmtime_store_context(c->store);
    wasmtime_store_epoch_deadline_callback(c->store, on_epoch, c, NULL);
    wasmtime_context_set_epoch_deadline(context, 1);
    if (m->memory < g->limits.memory_max)
        wasmtime_store_limiter(c->store, m->memory, -1, -1, -1, -1);
    c->frame.has_memory = false;
    c->frame.trap = -1;
    c->frame.error = NULL;
    c->call = weir_call_new(c->entry, context, &c->frame);
    g->running++;
    metrics.guests_running = g->running;
    metrics.guest_events_total++;
    return true;
}

/* "message; at f <- g <- h", functions by the names of the module's name section. */
static void report(struct guest_call *c, enum err e)
{
    char text[1024];
    size_t n = 0;
    wasm_name_t message = {0, NULL};
    wasm_frame_vec_t frames = {0, NULL};
    wasmtime_error_message(c->frame.error, &message);
    const char *end = memchr(message.data, '\n', message.size);
    size_t len = end ? (size_t)(end - message.data) : message.size;
    len = MIN(len, sizeof(text) / 2);
    memcpy(text, message.data, len);
    n = len;
    wasmtime_error_wasm_trace(c->frame.error, &frames);
    for (size_t i = 0; i < frames.size && i < 8; i++) {
        const wasm_name_t *name = wasmtime_frame_func_name(frames.data[i]);
        int r = snprintf(text + n, sizeof(text) - n, "%s%.*s", i ? " <- " : "; in ",
                         name ? (int)MIN(name->size, 60) : 1, name ? name->data : "?");
        n += r > 0 && (size_t)r < sizeof(text) - n ? (size_t)r : 0;
    }
    wasm_frame_vec_delete(&frames);
    wasm_byte_vec_delete(&message);
    c->module->guests->ops.failed(c, e, slice_of(text, n));
}

static void finish(struct guests *g, struct guest_call *c, int polled)
{
    enum err e = ERR_NONE;
    if (polled < 0) {
        e = c->over ? c->over : ERR_GUEST_TRAP;
        if (c->over)
            metrics.guest_deadlines_total++;
        else
            metrics.guest_traps_total++;
        report(c, e);
        wasmtime_error_delete(c->frame.error);
    }
    weir_call_delete(c->call);
    wasmtime_store_delete(c->store);
    c->call = NULL;
    c->store = NULL;
    metrics.guests_running = --g->running;
    c->done(c, e);
}

static bool budget_left(const struct guests *g)
{
    return ticks - g->tick_seen < g->limits.iteration_ms;
}

static void enqueue(struct guests *g, struct guest_call *c, struct list *queue)
{
    struct guest_module *m = c->module;
    list_append(queue, &c->node);
    if (list_empty(&m->turn))
        list_append(&g->turns, &m->turn);
}

/* One slice. */
static void step(struct guests *g, struct guest_call *c)
{
    ticker_arm();
    int r = weir_call_poll(c->call);
    if (r != 0) {
        finish(g, c, r);
        return;
    }
    c->suspended = true;
    metrics.guest_slices_total++;
    enqueue(g, c, &c->module->ready);
}

enum err guest_call_start(struct guests *g, struct guest_call *c)
{
    c->used_ticks = 0;
    c->over = ERR_NONE;
    c->suspended = false;
    list_init(&c->node);
    struct guest_module *m = c->module;
    bool now = list_empty(&m->ready) && list_empty(&m->waiting) && budget_left(g) &&
               g->running < g->limits.slots;
    if (now) {
        c->started_ms = g->now_ms ? g->now_ms : sys_now_ns() / 1000000;
        if (!start(g, c))
            return ERR_GUEST_START;
        step(g, c);
        return ERR_NONE;
    }
    if (g->waiting >= g->limits.queue) {
        metrics.guest_busy_total++;
        return ERR_GUEST_BUSY;
    }
    c->started_ms = sys_now_ns() / 1000000;
    metrics.guests_waiting = ++g->waiting;
    enqueue(g, c, &m->waiting);
    return ERR_NONE;
}

static void take_waiting(struct guests *g, struct guest_module *m)
{
    struct guest_call *c = CONTAINER_OF(list_pop(&m->waiting), struct guest_call, node);
    metrics.guests_waiting = --g->waiting;
    if (g->now_ms - c->started_ms > m->timeout_ms)
        c->done(c, ERR_GUEST_TIMEOUT);
    else if (start(g, c))
        step(g, c);
    else
        c->done(c, ERR_GUEST_START);
}

bool guests_run(struct guests *g, uint64_t now_ms)
{
    g->now_ms = now_ms;
    uint32_t stuck = 0;
    while (!list_empty(&g->turns) && budget_left(g) && stuck < 64) {
        struct guest_module *m = CONTAINER_OF(list_pop(&g->turns), struct guest_module, turn);
        if (!list_empty(&m->waiting) && g->running < g->limits.slots)
            take_waiting(g, m);
        else if (!list_empty(&m->ready))
            step(g, CONTAINER_OF(list_pop(&m->ready), struct guest_call, node));
        else
            stuck++;
        bool more = !list_empty(&m->ready) || !list_empty(&m->waiting);
        if (more && list_empty(&m->turn))
            list_append(&g->turns, &m->turn);
    }
    g->tick_seen = ticks;
    return !list_empty(&g->turns);
}
