#include "loop/loop.h"

enum err loop_init(struct loop *l)
{
    memset(l, 0, sizeof(*l));
    l->poller = sys_poller_new();
    if (l->poller < 0)
        return ERR_SYS;
    l->now_ns = sys_now_ns();
    l->now_ms = l->now_ns / 1000000;
    wheel_init(&l->wheel, l->now_ms);
    return ERR_NONE;
}

void loop_done(struct loop *l)
{
    sys_close(l->poller);
}

void loop_on(struct loop *l, enum loop_kind kind,
             void (*ready)(void *arg, uint32_t slot, uint32_t generation, uint32_t ready),
             void (*timer)(void *arg, struct timer *t), void *arg)
{
    l->handlers[kind].ready = ready;
    l->handlers[kind].timer = timer;
    l->handlers[kind].arg = arg;
}

void loop_phase(struct loop *l, bool (*run)(void *arg), void *arg)
{
    ASSERT(l->n_phases < LOOP_PHASES);
    l->phases[l->n_phases].run = run;
    l->phases[l->n_phases++].arg = arg;
}

/* The time since the mark goes to guests, as far as it was theirs, and to the cause. */
static void spend(struct loop *l, uint64_t now_ns)
{
    uint64_t took = now_ns - l->mark_ns;
    uint64_t guest = MIN(took, metrics.guest_cpu_seconds_total - l->mark_guest_ns);
    l->spent_ns[CAUSE_guest] += guest;
    l->spent_ns[l->cause == CAUSES ? CAUSE_other : l->cause] += took - guest;
    l->mark_ns = now_ns;
    l->mark_guest_ns = metrics.guest_cpu_seconds_total;
}

void loop_cause_change(struct loop *l, enum cause cause)
{
    if (l->cause != CAUSES) /* else nothing has run yet */
        spend(l, sys_now_ns());
    l->cause = (uint8_t)cause;
}

static void spend_begin(struct loop *l)
{
    l->cause = CAUSES;
    l->mark_ns = l->now_ns;
    l->mark_guest_ns = metrics.guest_cpu_seconds_total;
    memset(l->spent_ns, 0, sizeof(l->spent_ns));
}

static enum cause spend_end(struct loop *l, uint64_t now_ns)
{
    int most = CAUSE_other;
    spend(l, now_ns);
    for (int i = 0; i < CAUSES; i++)
        most = l->spent_ns[i] > l->spent_ns[most] ? i : most;
    return (enum cause)most;
}

static void fire(struct timer *t, void *arg)
{
    struct loop *l = arg;
    loop_cause(l, CAUSE_timer);
    enum loop_kind kind = (enum loop_kind)(t->kind & 0xff);
    l->handlers[kind].timer(l->handlers[kind].arg, t);
}

void loop_timers(struct loop *l)
{
    wheel_advance(&l->wheel, l->now_ms, fire, l);
}

static void dispatch(struct loop *l, const struct sys_event *e)
{
    unsigned kind = (unsigned)(e->data >> 56);
    ASSERT(kind < LOOP_KINDS && l->handlers[kind].ready);
    if (kind != LOOP_CONN) /* whose protocol is the cause */
        loop_cause(l, CAUSE_other);
    l->handlers[kind].ready(l->handlers[kind].arg, (uint32_t)(e->data >> 32) & 0xffffff,
                            (uint32_t)e->data, e->ready);
}

/* How long this iteration was away, and how much of it was its own doing. The thread's time costs a
 * system call, so it is asked for only while work is pending from one iteration to the next, as
 * when guests that used up their slices run. */
static void away_note(struct loop *l, bool pending, uint64_t thread_ns)
{
    uint64_t now_ns = sys_now_ns(), away_ns = now_ns - l->now_ns;
    metrics_iteration(spend_end(l, now_ns), away_ns);
    if (away_ns > metrics.loop_away_max_seconds)
        metrics.loop_away_max_seconds = away_ns;
    if (!pending || away_ns <= metrics.loop_busy_max_seconds)
        return;
    uint64_t busy_ns = MIN(away_ns, sys_thread_ns() - thread_ns);
    if (busy_ns > metrics.loop_busy_max_seconds)
        metrics.loop_busy_max_seconds = busy_ns;
}

void loop_run(struct loop *l)
{
    struct sys_event events[SYS_EVENTS_MAX];
    bool more = false;
    while (!l->stop) {
        if (l->epochs)
            epoch_rest(l->epochs, thread_number);
        int n = sys_poller_wait(l->poller, events, more ? 0 : wheel_next_ms(&l->wheel, l->now_ms));
        if (l->epochs)
            epoch_work(l->epochs, thread_number);
        bool pending = more;
        uint64_t thread_ns = pending ? sys_thread_ns() : 0;
        l->now_ns = sys_now_ns();
        l->now_ms = l->now_ns / 1000000;
        wheel_clock(&l->wheel, l->now_ms);
        spend_begin(l);
        for (int i = 0; i < n; i++)
            dispatch(l, &events[i]);
        loop_timers(l);
        more = false;
        for (unsigned i = 0; i < l->n_phases; i++)
            more |= l->phases[i].run(l->phases[i].arg);
        away_note(l, pending, thread_ns);
    }
}
