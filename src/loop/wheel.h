/* Hierarchical timer wheel: O(1) to set, to cancel and, per tick, to fire, whatever the number of
 * timers. Source: Varghese & Lauck, "Hashed and hierarchical timing wheels" (1987), scheme 7.
 * Level l holds what is due within 64^(l+1) ticks; a timer moves down as its level's hand reaches
 * it. One tick is WHEEL_TICK_MS; a timer never fires early, and late by at most a tick. */
#ifndef WEIR_WHEEL_H
#define WEIR_WHEEL_H

#include "base/base.h"

enum { WHEEL_TICK_MS = 4, WHEEL_LEVELS = 4, WHEEL_SLOTS = 64 };

struct timer {
    struct timer *next, **back; /* back: the pointer that points here; NULL while not set */
    uint32_t due;               /* tick */
    uint32_t kind;              /* the owner's word, given back on firing */
};

struct wheel {
    uint64_t start_ms;
    uint32_t now;   /* tick up to which timers were fired */
    uint32_t clock; /* tick from which new delays count; ahead of now between sleep and advance */
    uint64_t used[WHEEL_LEVELS];
    struct timer *slots[WHEEL_LEVELS][WHEEL_SLOTS];
};

void wheel_init(struct wheel *w, uint64_t now_ms);
/* Tells the time after a sleep, so that delays set before wheel_advance do not count from before.
 */
void wheel_clock(struct wheel *w, uint64_t now_ms);
/* Sets or moves the timer. Delays past the wheel's span (18 hours) fire at its end. */
void wheel_set(struct wheel *w, struct timer *t, uint64_t delay_ms);
void wheel_cancel(struct wheel *w, struct timer *t);

static inline bool timer_is_set(const struct timer *t)
{
    return t->back != NULL;
}

/* Advances to now_ms and calls fire for each timer that is due; it is no longer set by then, and
 * may be set again, and others set or cancelled, within. */
void wheel_advance(struct wheel *w, uint64_t now_ms, void (*fire)(struct timer *t, void *arg),
                   void *arg);
/* ms until the wheel next has something to do, -1 where it is empty. */
int wheel_next_ms(const struct wheel *w, uint64_t now_ms);
void wheel_check(const struct wheel *w);

#endif
