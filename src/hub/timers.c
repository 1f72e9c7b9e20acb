#include "hub/timers.h"

#include "base/buf.h"

enum { AGAIN_MS = 10 };

static void set_for(struct timers *t, struct guest_timer *g)
{
    /* The wheel fires at its end what is later than that: it is set again then. */
    uint64_t now_ms = t->loop->now_ms;
    wheel_set(&t->loop->wheel, &g->timer, g->due_ms > now_ms ? g->due_ms - now_ms : 0);
}

static void timer_free(struct timers *t, struct guest_timer *g)
{
    uint32_t module = g->module;
    wheel_cancel(&t->loop->wheel, &g->timer);
    list_remove(&g->node);
    mem_free(g, sizeof(*g));
    t->gone(t->owner, module);
}

static void fire(void *arg, struct timer *timer)
{
    struct timers *t = arg;
    struct guest_timer *g = CONTAINER_OF(timer, struct guest_timer, timer);
    if (g->due_ms > t->loop->now_ms)
        set_for(t, g);
    else if (t->due(t->owner, g->module, g->cookie))
        timer_free(t, g);
    else
        wheel_set(&t->loop->wheel, timer, AGAIN_MS);
}

void timers_init(struct timers *t, struct loop *loop)
{
    memset(t, 0, sizeof(*t));
    t->loop = loop;
    for (uint32_t i = 0; i < TIMERS_BUCKETS; i++)
        list_init(&t->buckets[i]);
    loop_on(loop, LOOP_GUEST_TIMER, NULL, fire, t);
}

void timers_done(struct timers *t)
{
    for (uint32_t i = 0; i < TIMERS_BUCKETS; i++)
        while (!list_empty(&t->buckets[i]))
            timer_free(t, CONTAINER_OF(t->buckets[i].next, struct guest_timer, node));
}

uint64_t timers_id(struct timers *t)
{
    return ++t->last_id;
}

static struct guest_timer *find(const struct timers *t, uint32_t module, uint64_t id)
{
    const struct list *bucket = &t->buckets[id % TIMERS_BUCKETS];
    for (const struct list *n = bucket->next; n != bucket; n = n->next) {
        struct guest_timer *g = CONTAINER_OF(n, struct guest_timer, node);
        if (g->id == id && g->module == module)
            return g;
    }
    return NULL;
}

bool timers_has(const struct timers *t, uint32_t module, uint64_t id)
{
    return find(t, module, id) != NULL;
}

enum err timers_set(struct timers *t, uint32_t module, uint64_t id, uint64_t ms, uint64_t cookie)
{
    struct guest_timer *g = mem_alloc(sizeof(*g));
    if (!g)
        return ERR_NO_MEMORY;
    *g = (struct guest_timer){.id = id,
                              .cookie = cookie,
                              .module = module,
                              .due_ms = t->loop->now_ms + MIN(ms, TIMERS_MS_MAX)};
    g->timer.kind = LOOP_GUEST_TIMER;
    list_append(&t->buckets[id % TIMERS_BUCKETS], &g->node);
    set_for(t, g);
    return ERR_NONE;
}

void timers_cancel(struct timers *t, uint32_t module, uint64_t id)
{
    struct guest_timer *g = find(t, module, id);
    if (g)
        timer_free(t, g);
}

void timers_drop(struct timers *t, uint32_t module)
{
    for (uint32_t i = 0; i < TIMERS_BUCKETS; i++) {
        struct list *bucket = &t->buckets[i];
        for (struct list *n = bucket->next, *next; n != bucket; n = next) {
            next = n->next;
            struct guest_timer *g = CONTAINER_OF(n, struct guest_timer, node);
            if (g->module == module)
                timer_free(t, g);
        }
    }
}

enum err timers_each(const struct timers *t,
                     enum err (*take)(void *arg, const struct guest_timer *g), void *arg)
{
    for (uint32_t i = 0; i < TIMERS_BUCKETS; i++)
        for (const struct list *n = t->buckets[i].next; n != &t->buckets[i]; n = n->next) {
            enum err e = take(arg, CONTAINER_OF(n, struct guest_timer, node));
            if (e)
                return e;
        }
    return ERR_NONE;
}
