/* Timers of guests: an id that is never used twice, a cookie that the guest gets back. */
#ifndef WEIR_TIMERS_H
#define WEIR_TIMERS_H

#include "base/list.h"
#include "loop/loop.h"

enum { TIMERS_BUCKETS = 256 };
#define TIMERS_MS_MAX UINT64_C(31622400000) /* 366 days */

struct guest_timer {
    struct timer timer;
    struct list node; /* of its bucket */
    uint64_t id, cookie, due_ms;
    uint32_t module; /* the owner's number of it */
};

struct timers {
    struct loop *loop;
    uint64_t last_id;
    struct list buckets[TIMERS_BUCKETS]; /* by id */
    /* A timer is due. false: it can't be told now, and the timer comes again soon. */
    bool (*due)(void *owner, uint32_t module, uint64_t cookie);
    void (*gone)(void *owner, uint32_t module); /* fired, cancelled or dropped */
    void *owner;
};

void timers_init(struct timers *t, struct loop *loop);
void timers_done(struct timers *t);
uint64_t timers_id(struct timers *t); /* a new one, for timers_set */
enum err timers_set(struct timers *t, uint32_t module, uint64_t id, uint64_t ms,
                    uint64_t cookie) MUST_USE;
bool timers_has(const struct timers *t, uint32_t module, uint64_t id);
void timers_cancel(struct timers *t, uint32_t module, uint64_t id); /* if it is there */
void timers_drop(struct timers *t, uint32_t module);                /* all of a module's */
/* Calls `take` for each until it returns an error, which is the answer. */
enum err timers_each(const struct timers *t,
                     enum err (*take)(void *arg, const struct guest_timer *g), void *arg) MUST_USE;

#endif
