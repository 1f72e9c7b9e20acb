/* Running calls: slices, deadlines, turns. The epoch ticks each millisecond while guests run; at
 * each tick a running guest's callback decides whether it yields or ends. */
#include <stdlib.h>

#include "base/metrics.h"
#include "base/probe.h"
#include "guest/guest_instance.h"
#include "sys/sys.h"

enum { SLICE_MIN_NS = 500000, LONG_STEP_NS = 500000, TURN_NS = 1000000 };
enum { SHARE_WINDOW_NS = 1000000000 };
enum { QUEUE_OVER = 64 };   /* calls of a module over its share that wait, before it is unread */
enum { QUEUE_OWN = 64 };    /* room in the queue for calls that no peer waits for */
enum { MODULES_IDLE = 64 }; /* modules looked at in vain before a phase ends */

/* Each loop's thread has a ticker of its own, whose signal comes to it alone: so the handler runs
 * between any two instructions of that thread, and never beside them. volatile keeps ticker_arm's
 * store before its load, so that a guest never starts without ticks. */
static _Thread_local wasm_engine_t *volatile tick_engines[2];
static _Thread_local volatile uint32_t ticks_idle;
static _Thread_local volatile bool ticking;

static void tick(void)
{
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
    static _Thread_local bool ready;
    if (!ready)
        sys_ticker_init(tick);
    ready = true;
    tick_engines[which] = engine;
}

void guests_thread(const struct guests *g)
{
    for (int i = 0; i < 2; i++)
        guest_ticker_engine(i, g->engines[i]);
}

/* Called on the guest's fiber when a tick passed: appends nothing, formats nothing. */
wasmtime_error_t *guest_on_epoch(wasmtime_context_t *context, void *data, uint64_t *delta,
                                 wasmtime_update_deadline_kind_t *kind)
{
    (void)data;
    struct guest_call *c = wasmtime_context_get_data(context);
    uint64_t now_ns = sys_now_ns();
    /* A tick that fell into a short call by chance: were it to yield, all others would wait for it.
     */
    if (now_ns - c->slice_ns < SLICE_MIN_NS) {
        *delta = 1;
        *kind = WASMTIME_UPDATE_DEADLINE_CONTINUE;
        return NULL;
    }
    c->used_ticks++;
    if (c->used_ticks > c->module->limits.deadline_ms)
        c->over = ERR_GUEST_DEADLINE;
    else if (now_ns - c->started_ns > c->module->limits.timeout_ms * UINT64_C(1000000))
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
    mem_whose.module = (uint16_t)(m->number + 1);
    c->instance = guest_instance_take(g, c);
    mem_whose.module = 0;
    if (!c->instance)
        return false;
    c->frame.has_memory = false;
    c->frame.trap = -1;
    c->frame.error = NULL;
    weir_call_new(c->entry, wasmtime_store_context(c->instance->store), &c->frame);
    metrics.guests_running = ++g->running;
    g->n_busy += !m->running++;
    c->ran = true;
    PROBE(guest_start, c, m->name);
    metrics.guest_events_total++;
    m->events++;
    m->counts->module_events_total++;
    return true;
}

/* The innermost cause: the engine's text begins with the backtrace, which is reported apart. */
static struct slice cause(const struct guest_call *c, const wasm_name_t *message)
{
    static const char mark[] = "wasm trap: ", caused[] = "Caused by:\n";
    const char *at = memmem(message->data, message->size, mark, sizeof(mark) - 1);
    const char *end = message->data + message->size;
    if (c->over)
        return slice_str(err_text(c->over));
    if (at)
        at += sizeof(mark) - 1;
    else if ((at = memmem(message->data, message->size, caused, sizeof(caused) - 1)) != NULL)
        at += sizeof(caused) - 1;
    else
        at = message->data;
    const char *line = memchr(at, '\n', (size_t)(end - at));
    return slice_of(at, (size_t)((line ? line : end) - at));
}

/* "cause; in f <- g <- h", functions by the names of the module's name section. */
static void report(struct guest_call *c, enum err e)
{
    char text[1024];
    wasm_name_t message = {0, NULL};
    wasm_frame_vec_t frames = {0, NULL};
    wasmtime_error_message(c->frame.error, &message);
    struct slice why = cause(c, &message);
    size_t n = MIN(why.n, sizeof(text) / 2);
    memcpy(text, why.p, n);
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

static enum trap trap_of(const struct guest_call *c, enum err e)
{
    _Static_assert((int)TRAP_stack_overflow == WASMTIME_TRAP_CODE_STACK_OVERFLOW &&
                       (int)TRAP_unreachable == WASMTIME_TRAP_CODE_UNREACHABLE_CODE_REACHED,
                   "tbl/trap.def begins with the engine's codes");
    return e == ERR_GUEST_DEADLINE  ? TRAP_deadline
           : e == ERR_GUEST_TIMEOUT ? TRAP_timeout
           : e == ERR_GUEST_CALLS   ? TRAP_calls
           : e == ERR_GUEST_EXIT    ? TRAP_exit
           : e == ERR_GUEST_TRAP && c->frame.trap <= (int)TRAP_unreachable
               ? (enum trap)c->frame.trap
               : TRAP_other;
}

static void finish(struct guests *g, struct guest_call *c, int polled)
{
    enum err e = ERR_NONE;
    if (polled < 0 && c->exited && !c->exit_code) {
        /* That is how a command ends well; a handler, as if it had returned 0. */
        wasmtime_error_delete(c->frame.error);
        for (uint32_t i = 0; i < c->frame.n_results; i++)
            c->frame.values[i] = (struct weir_value){WASMTIME_I32, 0};
    } else if (polled < 0) {
        /* What is neither is a failed instantiation: its memory does not fit, or no slot does. */
        e = c->over ? c->over : c->frame.trap < 0 ? ERR_GUEST_START : ERR_GUEST_TRAP;
        if (c->exited)
            e = c->over = ERR_GUEST_EXIT;
        c->module->counts->module_failed_total[trap_of(c, e)]++;
        if (e == ERR_GUEST_DEADLINE || e == ERR_GUEST_TIMEOUT)
            metrics.guest_deadlines_total++;
        else
            metrics.guest_traps_total++;
        report(c, e);
        wasmtime_error_delete(c->frame.error);
    }
    PROBE(guest_end, c, c->module->name, e ? err_name(e) : NULL);
    weir_call_delete(&c->frame);
    metrics.guests_running = --g->running;
    guest_instance_give(g, c, polled > 0);
    g->n_busy -= !--c->module->running;
    c->done(c, e);
}

/* Whether guests' time of this iteration is used up. */
static bool spent(const struct guests *g)
{
    bool ran = g->clock_ns > *g->now_ns;
    return ran && (g->shut_ns > *g->now_ns || g->clock_ns - *g->now_ns >= g->limits.budget_ns);
}

bool guests_admit(const struct guests *g)
{
    return !g->owed && !spent(g);
}

bool guests_queue_full(const struct guests *g)
{
    return g->waiting >= g->limits.queue + QUEUE_OWN;
}

#define SECOND_NS UINT64_C(1000000000)

static bool throttled(const struct guests *g, const struct guest_module *m)
{
    return m->limits.cpu_ms && m->cpu_used_ns >= m->limits.cpu_ms * UINT64_C(1000000) &&
           *g->now_ns - m->cpu_since_ns < SECOND_NS;
}

/* Counts running time. What was used beyond the limit is taken from the next second. */
static void cpu_count(const struct guests *g, struct guest_module *m, uint64_t ns)
{
    uint64_t limit = m->limits.cpu_ms * UINT64_C(1000000);
    if (!limit)
        return;
    if (*g->now_ns - m->cpu_since_ns >= SECOND_NS) {
        m->cpu_since_ns = *g->now_ns;
        m->cpu_used_ns = m->cpu_used_ns > limit ? m->cpu_used_ns - limit : 0;
    }
    metrics.guest_throttled_total += m->cpu_used_ns < limit && m->cpu_used_ns + ns >= limit;
    m->cpu_used_ns += ns;
}

static void share_count(struct guests *g, struct guest_module *m, uint64_t ns)
{
    if (g->clock_ns - g->share_since_ns >= SHARE_WINDOW_NS) {
        g->share_since_ns = g->clock_ns;
        g->share_ns = 0;
        g->sharers_before = g->sharers;
        g->sharers = 0;
    }
    if (m->share_since_ns != g->share_since_ns) {
        m->share_since_ns = g->share_since_ns;
        m->share_ns = 0;
        g->sharers++;
    }
    g->share_ns += ns;
    m->share_ns += ns;
}

/* Whether a module had a turn more of the present window than an equal part of it. Connections are
 * served in order, so without this, who has more of them would have more of the time. One that is
 * alone never has: its calls begin without the queue, which is faster. */
static bool over_share(const struct guests *g, const struct guest_module *m)
{
    uint32_t sharers = MAX(g->sharers, g->sharers_before);
    return m->share_since_ns == g->share_since_ns && sharers > 1 &&
           *g->now_ns - g->share_since_ns < SHARE_WINDOW_NS &&
           m->share_ns * sharers > g->share_ns + TURN_NS;
}

uint64_t guests_wake_ns(const struct guests *g)
{
    uint64_t first = 0;
    for (const struct list *n = g->throttled.next; n != &g->throttled; n = n->next) {
        const struct guest_module *m = CONTAINER_OF(n, struct guest_module, turn);
        uint64_t at = m->cpu_since_ns + SECOND_NS;
        first = first && first < at ? first : at;
    }
    return first;
}

/* Those whose second is over take turns again. */
static void unthrottle(struct guests *g)
{
    for (struct list *n = g->throttled.next, *next; n != &g->throttled; n = next) {
        struct guest_module *m = CONTAINER_OF(n, struct guest_module, turn);
        next = n->next;
        if (throttled(g, m))
            continue;
        list_remove(n);
        list_append(&g->turns, n);
    }
}

/* Each module that has no instance finds a slot: those that have some leave as many as there are
 * such modules, of half of all. */
static bool slot_free(const struct guests *g, const struct guest_module *m)
{
    uint32_t most = m->actor ? 1 : g->limits.slots_module;
    uint32_t left = m->running ? MIN(g->n_modules - g->n_busy, g->limits.slots / 2) : 0;
    return !m->held && !throttled(g, m) && g->running + left < g->limits.slots &&
           m->running < most && guest_instance_room(g, m);
}

static void enqueue(struct guests *g, struct guest_call *c, struct list *queue)
{
    struct guest_module *m = c->module;
    list_append(queue, &c->node);
    if (list_empty(&m->turn))
        list_append(&g->turns, &m->turn);
}

/* One slice. The call may be gone afterwards. */
static void step(struct guests *g, struct guest_call *c)
{
    ticker_arm();
    struct guest_module *m = c->module;
    struct metrics_module *counts = m->counts; /* the module may be unloaded by its last event */
    uint64_t start_ns = c->slice_ns = sys_now_ns();
    mem_whose.module = (uint16_t)(m->number + 1);
    int r = weir_call_poll(&c->frame);
    if (r == 0) {
        metrics.guest_slices_total++;
        counts->module_slices_total++;
        enqueue(g, c, &c->module->ready);
    } else {
        finish(g, c, r);
    }
    mem_whose.module = 0;
    g->clock_ns = sys_now_ns();
    if (r == 0)
        PROBE(guest_yield, c, m->name, g->clock_ns - start_ns);
    metrics.guest_cpu_seconds_total += g->clock_ns - start_ns;
    counts->module_cpu_seconds_total += g->clock_ns - start_ns;
    cpu_count(g, m, g->clock_ns - start_ns);
    share_count(g, m, g->clock_ns - start_ns);
    /* One slice that is used up, or a long end (a large memory is cleared), is all that an
     * iteration has: the loop is back within a tick and whatever the guest's last instruction took.
     */
    if (r == 0 || g->clock_ns - start_ns >= LONG_STEP_NS)
        g->shut_ns = g->clock_ns;
}

/* A module whose calls used up their slices has its next one in its turn: calls that began at once
 * would have a slice each before anybody else's. So has one that had more than its part. */
static bool can_start(const struct guests *g, const struct guest_module *m)
{
    bool over = over_share(g, m);
    bool in_turn = !list_empty(&m->ready) || (over && m->n_waiting < QUEUE_OVER);
    return slot_free(g, m) && (over || list_empty(&m->waiting)) &&
           !(in_turn && g->waiting < g->limits.queue);
}

bool guests_full(const struct guests *g, const struct guest_module *m)
{
    return g->waiting >= g->limits.queue && !can_start(g, m);
}

bool guests_over(const struct guests *g, const struct guest_module *m)
{
    return m->n_waiting >= QUEUE_OVER && slot_free(g, m) && over_share(g, m);
}

static void reset(struct guests *g, struct guest_call *c)
{
    c->used_ticks = c->host_calls = 0;
    c->over = ERR_NONE;
    c->ran = c->exited = false;
    c->started_ns = *g->now_ns;
    list_init(&c->node);
}

static enum err wait_for_turn(struct guests *g, struct guest_call *c, uint32_t most)
{
    if (g->waiting >= most) {
        metrics.guest_busy_total++;
        return ERR_GUEST_BUSY;
    }
    reset(g, c);
    metrics.guests_waiting = ++g->waiting;
    c->module->n_waiting++;
    enqueue(g, c, &c->module->waiting);
    return ERR_NONE;
}

enum err guest_call_queue(struct guests *g, struct guest_call *c)
{
    return wait_for_turn(g, c, g->limits.queue + QUEUE_OWN);
}

enum err guest_call_start(struct guests *g, struct guest_call *c)
{
    if (!can_start(g, c->module))
        return wait_for_turn(g, c, g->limits.queue);
    reset(g, c);
    if (!start(g, c))
        return ERR_GUEST_START;
    step(g, c);
    return ERR_NONE;
}

static bool too_old(const struct guests *g, const struct guest_call *c)
{
    return *g->now_ns - c->started_ns > c->module->limits.timeout_ms * UINT64_C(1000000);
}

/* Takes a call off the queue of its module: the first slice, or the end of one that is too old. */
static void take_waiting(struct guests *g, struct guest_module *m)
{
    struct guest_call *c = CONTAINER_OF(list_pop(&m->waiting), struct guest_call, node);
    metrics.guests_waiting = --g->waiting;
    m->n_waiting--;
    if (too_old(g, c)) {
        metrics.guest_deadlines_total++;
        m->counts->module_failed_total[TRAP_timeout]++;
        g->ops.failed(c, ERR_GUEST_TIMEOUT, slice_str("it waited too long for its turn"));
        c->done(c, ERR_GUEST_TIMEOUT);
        g->clock_ns = sys_now_ns();
    } else if (start(g, c)) {
        step(g, c);
    } else {
        c->done(c, ERR_GUEST_START);
    }
}

/* A slice of a module: one call for all of it, or as many short ones as fit, so that modules share
 * time rather than calls. Suspended and waiting calls are first in turns. false: none could run. */
static bool turn(struct guests *g, struct guest_module *m)
{
    uint64_t start_ns = sys_now_ns();
    bool ran = false;
    m->ready_first = !m->ready_first;
    do {
        bool ready = !list_empty(&m->ready), waiting = !list_empty(&m->waiting);
        /* One that is too old ends though there is no slot: perhaps there never will be one. */
        waiting = waiting && (slot_free(g, m) ||
                              too_old(g, CONTAINER_OF(m->waiting.next, struct guest_call, node)));
        if (waiting && !(ready && m->ready_first))
            take_waiting(g, m);
        else if (ready)
            step(g, CONTAINER_OF(list_pop(&m->ready), struct guest_call, node));
        else
            break;
        ran = true;
    } while (!spent(g) && !throttled(g, m) && g->clock_ns - start_ns < TURN_NS);
    return ran;
}

bool guests_run(struct guests *g)
{
    uint32_t idle = 0; /* modules in a row that could not run */
    unthrottle(g);
    if (list_empty(&g->turns)) {
        g->owed = false;
        return false;
    }
    if (!g->owed && spent(g)) {
        g->owed = true;
        return true;
    }
    g->owed = false;
    do {
        struct guest_module *m = CONTAINER_OF(list_pop(&g->turns), struct guest_module, turn);
        if (throttled(g, m)) {
            list_append(&g->throttled, &m->turn);
            continue;
        }
        idle = turn(g, m) ? 0 : idle + 1;
        bool more = !list_empty(&m->ready) || !list_empty(&m->waiting);
        if (more && list_empty(&m->turn))
            list_append(&g->turns, &m->turn);
    } while (!list_empty(&g->turns) && !spent(g) && idle < MODULES_IDLE);
    return !list_empty(&g->turns);
}
