#include "app/loops.h"

#include <malloc.h>
#include <pthread.h>

#include "hub/presence.h"
#include "loop/queue.h"

enum { BATCH = 256, RETRY_MS = 4 }; /* words taken in an iteration */

struct loops {
    uint32_t n;
    struct {
        struct queue queue;
        struct gateway *gateway;
        pthread_t thread;
        _Alignas(64) _Atomic uint32_t connections;
    } at[THREADS_MAX];
    pthread_barrier_t ready, go;
    struct epochs epochs;
    struct presence presence;
    _Atomic uint32_t undrained;
    struct {
        _Atomic bool called;
        pthread_mutex_t lock; /* of the rest, and held in a turn */
        pthread_cond_t change;
        uint32_t came, left;
        int next; /* whose turn it is */
        int (*turn)(struct gateway *gw, void *arg);
        void *arg;
    } meeting;
};

static struct loops loops; /* of the process; untouched where there is one loop */

uint32_t loops_count(const struct gateway *gw)
{
    return gw->loops ? gw->loops->n : 1;
}

struct gateway *loops_at(struct gateway *gw, uint32_t number)
{
    return gw->loops ? gw->loops->at[number].gateway : gw;
}

uint64_t loops_share(const struct config *c, uint64_t limit)
{
    uint64_t n = MAX(c->root.workers, UINT64_C(1));
    return (limit + n - 1) / n;
}

/* ---- words ---- */

static void *after(const struct word *w)
{
    return (void *)(uintptr_t)(w + 1);
}

static bool post(struct gateway *gw, struct word *w)
{
    /* n is never more than a queue has: limits.message and an event's output are bounded. */
    return queue_post(&gw->loops->at[w->to].queue, w,
                      MIN(w->n, gw->loops->at[w->to].queue.bytes_max));
}

/* In order; what a queue has no room for waits. So what was committed is never dropped, and
 * loops_room says no meanwhile. */
static void tell(struct gateway *gw, struct word *w)
{
    if (!gw->outbox && post(gw, w))
        return;
    metrics.loop_queue_full_total += !gw->outbox;
    w->next = NULL;
    *(gw->outbox ? gw->outbox_end : &gw->outbox) = w;
    gw->outbox_end = &w->next;
    if (!timer_is_set(&gw->outbox_timer))
        wheel_set(&gw->loop.wheel, &gw->outbox_timer, RETRY_MS);
}

static void tell_again(void *arg, struct timer *t)
{
    struct gateway *gw = arg;
    uint64_t full = 0;
    struct word **at = &gw->outbox;
    for (struct word *w; (w = *at) != NULL;) {
        struct word *next = w->next; /* it is another's once it is posted */
        if (!(full >> w->to & 1) && post(gw, w)) {
            *at = next;
        } else {
            full |= UINT64_C(1) << w->to;
            at = &w->next;
        }
    }
    gw->outbox_end = at;
    if (gw->outbox)
        wheel_set(&gw->loop.wheel, t, RETRY_MS);
}

static struct word *word_new(uint32_t to, const struct effect *e, uint32_t module,
                             struct slice space, struct slice name, struct slice a, struct slice b)
{
    size_t key_n = name.n ? space.n + 1 + name.n : 0;
    struct word *w = mem_alloc(sizeof(*w) + key_n + a.n + b.n);
    if (!w)
        return NULL;
    *w = (struct word){.to = (uint8_t)to,
                       .kind = e->kind,
                       .code = e->code,
                       .key_n = (uint16_t)key_n,
                       .module = module,
                       .n = (uint32_t)(key_n + a.n + b.n),
                       .conn = e->conn};
    uint8_t *p = after(w);
    if (key_n) {
        slice_copy(p, space);
        p[space.n] = 0;
        slice_copy(p + space.n + 1, name);
    }
    slice_copy(p + key_n, a);
    slice_copy(p + key_n + a.n, b);
    return w;
}

bool loops_foreign(const struct gateway *gw, uint64_t id)
{
    uint32_t named = conn_homes.loops * (conn_homes.end / conn_homes.stride); /* loops, by ids */
    return gw->loops && id >> 56 < MAX(named, gw->loops->n) && loops_home(gw, id) != gw->number;
}

bool loops_room(const struct gateway *gw, uint64_t bytes)
{
    bool room = !gw->outbox;
    for (uint32_t i = 0; gw->loops && i < gw->loops->n; i++) {
        const struct queue *q = &gw->loops->at[i].queue;
        room = room && (i == gw->number || queue_room(q, MIN(bytes, q->bytes_max))); /* as post */
    }
    return room;
}

enum err loops_effect(struct event *ev, const struct effect *e)
{
    bool topic = e->kind == EFFECT_SUBSCRIBE || e->kind == EFFECT_UNSUBSCRIBE;
    struct word *w = word_new(loops_home(ev->gw, e->conn), e, ev->call.module->number,
                              topic ? event_space(ev) : SLICE_NONE, effects_key(&ev->fx, e),
                              effects_bytes(&ev->fx, e), SLICE_NONE);
    if (!w)
        return ERR_NO_MEMORY;
    tell(ev->gw, w);
    return ERR_NONE;
}

enum err loops_publish(struct gateway *gw, struct slice space, struct slice name, uint64_t except,
                       struct slice head, struct slice data)
{
    const struct effect e = {.kind = EFFECT_PUBLISH, .conn = except};
    enum err err = topics_publish(&gw->topics, space, name, except, head, data);
    uint64_t to = gw->loops ? topics_elsewhere(&gw->topics, space, name) : 0;
    for (; to; to &= to - 1) {
        struct word *w = word_new((uint32_t)__builtin_ctzll(to), &e, 0, space, name, head, data);
        if (!w)
            return ERR_NO_MEMORY;
        tell(gw, w);
    }
    return err;
}

/* ---- words that arrive ---- */

static enum err subscribe(struct gateway *gw, struct conn *c, struct slice space, struct slice name)
{
    const struct hub_conn *h = c->hub;
    if (h && h->n_members >= gw->config.limits.topics)
        return ERR_LIMIT;
    return topics_join(&gw->topics, c, space, name);
}

static enum err word_apply(struct gateway *gw, const struct word *w)
{
    const uint8_t *p = after(w);
    struct slice space = w->key_n ? slice_str((const char *)p) : SLICE_NONE, name = SLICE_NONE;
    struct slice bytes = slice_of(p + w->key_n, w->n - w->key_n);
    if (w->key_n)
        name = slice_of(p + space.n + 1, w->key_n - space.n - 1);
    if (w->kind == EFFECT_PUBLISH)
        return topics_publish(&gw->topics, space, name, w->conn, bytes, SLICE_NONE);
    if (w->kind == EFFECT_TIMER_CANCEL) {
        timers_cancel(&gw->timers, w->module, w->conn);
        return ERR_NONE;
    }
    struct conn *c = event_reach(gw, w->module, w->conn);
    if (!c)
        metrics.sends_skipped_total += w->kind == EFFECT_SEND;
    else if (w->kind == EFFECT_SEND)
        upgrade_send(gw, c, bytes);
    else if (w->kind == EFFECT_CLOSE)
        ws_conn_close(&gw->ws, c, w->code, bytes, CLOSE_GUEST);
    else if (w->kind == EFFECT_SUBSCRIBE)
        return subscribe(gw, c, space, name);
    else
        topics_leave(&gw->topics, c, space, name);
    return ERR_NONE;
}

static void word_take(struct gateway *gw, struct word *w)
{
    enum err e = word_apply(gw, w);
    metrics.errors_total[e] += e != ERR_NONE;
    mem_free(w, sizeof(*w) + w->n);
}

/* Each word may bring a message for a large topic: it stays where it is until that has room. */
static void words_ready(void *arg, uint32_t slot, uint32_t generation, uint32_t ready)
{
    (void)slot, (void)generation, (void)ready;
    struct gateway *gw = arg;
    struct queue *q = &gw->loops->at[gw->number].queue;
    queue_look(q);
    for (int i = 0; i < BATCH && topics_room(&gw->topics, 1, gw->config.limits.message); i++) {
        struct word *w = queue_take(q);
        if (!w)
            return;
        queue_taken(q, MIN(w->n, q->bytes_max));
        if (w->kind == WORD_ERRAND) {
            struct errand *e = CONTAINER_OF(w, struct errand, word);
            (gw->number ? e->visit : e->home)(gw, e);
            continue;
        }
        word_take(gw, w);
    }
    queue_again(q);
}

/* ---- a meeting ---- */

enum { MEETING_BEGINS = -2 }; /* not all have come */

static void meet(struct gateway *gw)
{
    struct loops *l = gw->loops;
    pthread_mutex_lock(&l->meeting.lock);
    if (++l->meeting.came == l->n) {
        atomic_store(&l->meeting.called, false);
        l->meeting.next = 0;
        pthread_cond_broadcast(&l->meeting.change);
    }
    while (l->meeting.next != MEETING_OVER)
        if (l->meeting.next == gw->number) {
            l->meeting.next = l->meeting.turn(gw, l->meeting.arg);
            pthread_cond_broadcast(&l->meeting.change);
        } else {
            pthread_cond_wait(&l->meeting.change, &l->meeting.lock);
        }
    if (++l->meeting.left == l->n)
        pthread_cond_broadcast(&l->meeting.change);
    while (!gw->number && l->meeting.left < l->n)
        pthread_cond_wait(&l->meeting.change, &l->meeting.lock);
    pthread_mutex_unlock(&l->meeting.lock);
}

void loops_meet(struct gateway *first, int (*turn)(struct gateway *gw, void *arg), void *arg)
{
    struct loops *l = first->loops;
    if (!l) {
        while (turn(first, arg) != MEETING_OVER)
            ;
        return;
    }
    l->meeting.came = l->meeting.left = 0; /* nobody is there yet, nor any more */
    l->meeting.next = MEETING_BEGINS;
    l->meeting.turn = turn;
    l->meeting.arg = arg;
    atomic_store(&l->meeting.called, true);
    for (uint32_t i = 1; i < l->n; i++)
        queue_again(&l->at[i].queue);
    meet(first);
}

bool loops_come(struct gateway *gw)
{
    if (!gw->number || !atomic_load(&gw->loops->meeting.called))
        return false;
    meet(gw);
    return true;
}

/* Those in another loop's outbox come behind what it has posted. */
static void outbox_settle(struct gateway *gw, struct gateway *other)
{
    struct word **at = &other->outbox;
    for (struct word *w; (w = *at) != NULL;)
        if (w->to == gw->number && w->kind != WORD_ERRAND) {
            *at = w->next;
            word_take(gw, w);
        } else {
            at = &w->next;
        }
    other->outbox_end = at;
}

void loops_settle(struct gateway *gw)
{
    struct word *errands = NULL, **end = &errands, *w;
    if (!gw->loops)
        return;
    struct queue *q = &gw->loops->at[gw->number].queue;
    while ((w = queue_take(q)) != NULL) {
        queue_taken(q, MIN(w->n, q->bytes_max));
        if (w->kind == WORD_ERRAND) {
            w->next = NULL;
            *end = w;
            end = &w->next;
        } else {
            word_take(gw, w);
        }
    }
    for (uint32_t i = 0; i < gw->loops->n; i++)
        outbox_settle(gw, gw->loops->at[i].gateway);
    for (; (w = errands) != NULL; tell(gw, w))
        errands = w->next;
}

/* ---- errands ---- */

void errand_start(struct gateway *first, struct errand *e)
{
    e->word.kind = WORD_ERRAND;
    e->word.n = 0;
    e->visit(first, e);
}

void errand_next(struct gateway *gw, struct errand *e)
{
    if (!gw->loops) {
        e->home(gw, e);
        return;
    }
    e->word.to = (uint8_t)((gw->number + 1u) % gw->loops->n);
    tell(gw, &e->word);
}

static bool waits(struct gateway *gw, struct conn *c)
{
    conn_resume(&gw->net, c);
    if (c->state == CONN_OPEN)
        return true;
    http_exchange_free(http_exchange_detach(c)); /* nobody to answer */
    return false;
}

void *ask_new(struct gateway *gw, struct conn *c, bool kept, size_t size)
{
    struct ask *a = mem_alloc(size);
    if (!a || (!kept && !http_exchange_keep(&gw->admin, c))) {
        mem_free(a, size);
        if (!kept || waits(gw, c))
            http_exchange_fail(&gw->admin, c, ERR_NO_MEMORY, SLICE_NONE, SLICE_NONE);
        if (kept)
            conn_release(&gw->net, c);
        return NULL;
    }
    memset(a, 0, size);
    a->conn = c;
    a->size = size;
    c->holds += !kept;
    return a;
}

void ask_start(struct gateway *gw, struct ask *a,
               void (*visit)(struct gateway *gw, struct errand *e),
               void (*home)(struct gateway *gw, struct errand *e))
{
    a->errand.visit = visit;
    a->errand.home = home;
    errand_start(gw, &a->errand);
}

bool ask_waits(struct gateway *gw, struct ask *a)
{
    return waits(gw, a->conn);
}

void ask_free(struct gateway *gw, struct ask *a)
{
    conn_release(&gw->net, a->conn);
    mem_free(a, a->size);
}

/* ---- what is counted together ---- */

bool loops_place(struct gateway *gw, uint32_t own)
{
    uint64_t sum = 0;
    if (!gw->loops)
        return own < gw->config.limits.connections;
    /* First taken, then counted: of two that do so at once, one sees the other. */
    atomic_store(&gw->loops->at[gw->number].connections, own + 1);
    for (uint32_t i = 0; i < gw->loops->n; i++)
        sum += atomic_load(&gw->loops->at[i].connections);
    if (sum <= gw->config.limits.connections)
        return true;
    loops_places_tell(gw, own);
    return false;
}

void loops_places_tell(struct gateway *gw, uint32_t own)
{
    if (gw->loops)
        atomic_store_explicit(&gw->loops->at[gw->number].connections, own, memory_order_relaxed);
}

bool loops_drained(struct gateway *gw)
{
    if (!gw->loops)
        return true;
    if (!gw->drained)
        atomic_fetch_sub(&gw->loops->undrained, 1);
    gw->drained = true;
    return !atomic_load(&gw->loops->undrained);
}

static void drain_visit(struct gateway *gw, struct errand *e)
{
    gateway_drain(gw);
    errand_next(gw, e);
}

static void drain_home(struct gateway *gw, struct errand *e)
{
    (void)gw, (void)e;
}

void loops_drain(struct gateway *first)
{
    static struct errand drain = {.visit = drain_visit, .home = drain_home};
    if (!first->draining)
        errand_start(first, &drain);
}

/* ---- life ---- */

static enum err loop_make(struct gateway *first, struct slice yaml, uint32_t i)
{
    struct gateway *gw = first;
    if (i) {
        struct buf errors; /* there are none: it was parsed before */
        buf_init(&errors, 0);
        gw = mem_alloc(sizeof(*gw));
        if (!gw)
            return ERR_NO_MEMORY;
        memset(gw, 0, sizeof(*gw));
        gw->number = (uint8_t)i;
        enum err e = config_parse(yaml, "weir.yaml", &gw->config, &errors);
        if (e)
            return e;
    }
    gw->loops = &loops;
    loops.at[i].gateway = gw;
    enum err e = queue_init(&loops.at[i].queue, (uint32_t)first->config.limits.loop_queue,
                            first->config.limits.loop_queue_bytes);
    e = e ? e : gateway_init(gw);
    if (e)
        return e;
    gw->loop.epochs = &loops.epochs;
    gw->topics.presence = &loops.presence;
    gw->outbox_timer.kind = LOOP_WORDS;
    loop_on(&gw->loop, LOOP_WORDS, words_ready, tell_again, gw);
    int r = sys_poller_add(gw->loop.poller, loops.at[i].queue.wake, SYS_IN | SYS_EDGE,
                           loop_data(LOOP_WORDS, 0, 0));
    return r < 0 ? ERR_SYS : ERR_NONE;
}

enum err loops_init(struct gateway *first, struct slice yaml)
{
    uint32_t n = (uint32_t)first->config.root.workers;
    enum err e = ERR_NONE;
    if (n == 1)
        return gateway_init(first);
    mallopt(M_ARENA_MAX, (int)n);
    loops.n = n;
    loops.undrained = n;
    epochs_init(&loops.epochs, n);
    presence_init(&loops.presence, &loops.epochs);
    pthread_barrier_init(&loops.ready, NULL, n);
    pthread_barrier_init(&loops.go, NULL, n);
    pthread_mutex_init(&loops.meeting.lock, NULL);
    pthread_cond_init(&loops.meeting.change, NULL);
    for (uint32_t i = 0; i < n && !e; i++)
        e = loop_make(first, yaml, i);
    return e;
}

static void *thread_main(void *arg)
{
    struct gateway *gw = arg;
    thread_number = gw->number;
    guests_thread(&gw->guests);
    pprof_thread(gw);
    pthread_barrier_wait(&loops.ready); /* what the cage would forbid is done */
    pthread_barrier_wait(&loops.go);
    loop_run(&gw->loop);
    gateway_done(gw);
    return NULL;
}

bool loops_start(struct gateway *first)
{
    if (!first->loops)
        return true;
    sys_fd_room((uint32_t)MIN(first->config.limits.connections, UINT64_C(1) << 20));
    for (uint32_t i = 1; i < loops.n; i++)
        if (pthread_create(&loops.at[i].thread, NULL, thread_main, loops.at[i].gateway))
            return false;
    guests_thread(&first->guests);
    pthread_barrier_wait(&loops.ready);
    return true;
}

void loops_go(struct gateway *first)
{
    if (first->loops)
        pthread_barrier_wait(&loops.go);
}

void loops_join(struct gateway *first)
{
    for (uint32_t i = 1; first->loops && i < loops.n; i++)
        pthread_join(loops.at[i].thread, NULL);
}
