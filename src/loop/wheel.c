#include "loop/wheel.h"

enum { BITS = 6, MASK = WHEEL_SLOTS - 1 };
#define SPAN ((UINT32_C(1) << (BITS * WHEEL_LEVELS)) - 1)

void wheel_init(struct wheel *w, uint64_t now_ms)
{
    memset(w, 0, sizeof(*w));
    w->start_ms = now_ms;
}

static void place(struct wheel *w, struct timer *t)
{
    uint32_t delta = t->due - w->now;
    int level = 0;
    while (level < WHEEL_LEVELS - 1 && delta >> (BITS * (level + 1)))
        level++;
    uint32_t slot = t->due >> (BITS * level) & MASK;
    struct timer **head = &w->slots[level][slot];
    t->next = *head;
    t->back = head;
    if (t->next)
        t->next->back = &t->next;
    *head = t;
    w->used[level] |= UINT64_C(1) << slot;
}

static void unlink_timer(struct wheel *w, struct timer *t)
{
    *t->back = t->next;
    if (t->next)
        t->next->back = t->back;
    /* The last one of its slot leaves the slot's head pointer NULL: clear its bit. */
    struct timer **first = &w->slots[0][0];
    if (!*t->back && t->back >= first && t->back < first + WHEEL_LEVELS * WHEEL_SLOTS) {
        size_t i = (size_t)(t->back - first);
        w->used[i / WHEEL_SLOTS] &= ~(UINT64_C(1) << (i % WHEEL_SLOTS));
    }
    t->next = NULL;
    t->back = NULL;
}

void wheel_set(struct wheel *w, struct timer *t, uint64_t delay_ms)
{
    if (t->back)
        unlink_timer(w, t);
    /* One more tick than the delay, as the present one has partly gone. */
    uint64_t ticks = (delay_ms + WHEEL_TICK_MS - 1) / WHEEL_TICK_MS + 1;
    uint64_t from_now = (uint64_t)(w->clock - w->now) + ticks;
    t->due = w->now + (uint32_t)MIN(from_now, (uint64_t)SPAN);
    place(w, t);
}

void wheel_cancel(struct wheel *w, struct timer *t)
{
    if (t->back)
        unlink_timer(w, t);
}

static void cascade(struct wheel *w, int level)
{
    uint32_t slot = w->now >> (BITS * level) & MASK;
    struct timer *t = w->slots[level][slot];
    w->slots[level][slot] = NULL;
    w->used[level] &= ~(UINT64_C(1) << slot);
    while (t) {
        struct timer *next = t->next;
        place(w, t);
        t = next;
    }
}

/* Ticks from now to the next slot in use of a level, counted in that level's units; 0 none. */
static uint32_t level_next(const struct wheel *w, int level)
{
    uint32_t hand = w->now >> (BITS * level) & MASK;
    uint64_t turned = w->used[level];
    if (!turned)
        return 0;
    unsigned shift = (hand + 1) & MASK;
    turned = shift ? turned >> shift | turned << (WHEEL_SLOTS - shift) : turned;
    return (uint32_t)__builtin_ctzll(turned) + 1;
}

/* Ticks until something fires or cascades; 0 where the wheel is empty. */
static uint32_t next_ticks(const struct wheel *w)
{
    uint32_t best = 0;
    for (int level = 0; level < WHEEL_LEVELS; level++) {
        uint32_t n = level_next(w, level);
        if (!n)
            continue;
        uint32_t unit = UINT32_C(1) << (BITS * level);
        uint32_t ticks = n * unit - (w->now & (unit - 1));
        if (!best || ticks < best)
            best = ticks;
    }
    return best;
}

static uint32_t tick_of(const struct wheel *w, uint64_t now_ms)
{
    return (uint32_t)((now_ms - w->start_ms) / WHEEL_TICK_MS);
}

void wheel_clock(struct wheel *w, uint64_t now_ms)
{
    w->clock = tick_of(w, now_ms);
}

void wheel_advance(struct wheel *w, uint64_t now_ms, void (*fire)(struct timer *t, void *arg),
                   void *arg)
{
    uint32_t to = tick_of(w, now_ms);
    w->clock = to;
    while (w->now != to) {
        uint32_t step = next_ticks(w);
        if (!step || step > to - w->now) {
            w->now = to;
            return;
        }
        w->now += step;
        for (int level = WHEEL_LEVELS - 1; level > 0; level--)
            if ((w->now & ((UINT32_C(1) << (BITS * level)) - 1)) == 0)
                cascade(w, level);
        struct timer *t;
        while ((t = w->slots[0][w->now & MASK]) != NULL) {
            unlink_timer(w, t);
            fire(t, arg);
        }
    }
}

int wheel_next_ms(const struct wheel *w, uint64_t now_ms)
{
    uint32_t ticks = next_ticks(w);
    if (!ticks)
        return -1;
    /* Ticks wrap around after 198 days: only differences of them mean anything. */
    uint64_t since_ms = now_ms - w->start_ms;
    uint32_t gone = (uint32_t)(since_ms / WHEEL_TICK_MS) - w->now;
    if (gone >= ticks)
        return 0;
    return (int)((ticks - gone) * WHEEL_TICK_MS - (uint32_t)(since_ms % WHEEL_TICK_MS));
}

void wheel_check(const struct wheel *w)
{
    for (int level = 0; level < WHEEL_LEVELS; level++)
        for (uint32_t slot = 0; slot < WHEEL_SLOTS; slot++) {
            struct timer *const *back = &w->slots[level][slot];
            ASSERT(!*back == !(w->used[level] >> slot & 1));
            for (const struct timer *t = *back; t; back = &t->next, t = t->next) {
                ASSERT(t->back == back);
                ASSERT((t->due >> (BITS * level) & MASK) == slot);
            }
        }
}
