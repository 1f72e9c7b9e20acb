/* One single-threaded event loop. An iteration: wait, dispatch what is ready, fire timers, run the
 * phases (guests, then reaping) in the order they were added. Time is read once an iteration, and
 * where it ends; whose time of it was the most is known by reading the clock whenever the cause
 * changes (loop_cause), which it does not in an iteration that has one. Guests' time is known
 * anyway. */
#ifndef WEIR_LOOP_H
#define WEIR_LOOP_H

#include "base/metrics.h"
#include "loop/epoch.h"
#include "loop/wheel.h"
#include "sys/sys.h"

/* What an event's or a timer's target is; the owner registers a handler for its kind. */
enum loop_kind {
    LOOP_CONN,
    LOOP_QUEUE, /* a peer that does not take what waits for it */
    LOOP_HOLD,  /* connections that are held */
    LOOP_LISTENER,
    LOOP_CONTROL, /* words between supervisor and worker */
    LOOP_SIGNAL,
    LOOP_LOG,
    LOOP_DRAIN,
    LOOP_RESTART,
    LOOP_COMPILE, /* the end of weirc's time */
    LOOP_GUEST_TIMER,
    LOOP_WORDS, /* words from other loops, and those that wait for room in theirs */
    LOOP_HANDOVER,
    LOOP_THROTTLE, /* modules that have used up their CPU time */
    LOOP_TICKETS,  /* keys of TLS session tickets */
    LOOP_PROFILE,  /* the end of a profile */
    LOOP_WATCH,    /* what is told to those who watch */
    LOOP_EXPIRY,   /* tokens of WebSockets */
    LOOP_REFUSED,  /* connections that were refused, and answered */
    LOOP_KINDS
};
enum { LOOP_PHASES = 4 };

struct loop {
    int poller;
    uint64_t now_ns, now_ms;
    struct wheel wheel;
    struct epochs *epochs; /* NULL: this loop reads nothing that another replaces */
    bool stop;
    uint8_t cause; /* of what runs; CAUSES: none has been named yet in this iteration */
    uint64_t mark_ns, mark_guest_ns; /* up to where spent_ns has all of it; guests' time then */
    uint64_t spent_ns[CAUSES];
    struct {
        void (*ready)(void *arg, uint32_t slot, uint32_t generation, uint32_t ready);
        void (*timer)(void *arg, struct timer *t);
        void *arg;
    } handlers[LOOP_KINDS];
    struct {
        bool (*run)(void *arg); /* true: there is more to do at once */
        void *arg;
    } phases[LOOP_PHASES];
    unsigned n_phases;
};

static inline uint64_t loop_data(enum loop_kind kind, uint32_t slot, uint32_t generation)
{
    return (uint64_t)kind << 56 | (uint64_t)(slot & 0xffffff) << 32 | generation;
}

enum err loop_init(struct loop *l) MUST_USE;
void loop_done(struct loop *l);
void loop_on(struct loop *l, enum loop_kind kind,
             void (*ready)(void *arg, uint32_t slot, uint32_t generation, uint32_t ready),
             void (*timer)(void *arg, struct timer *t), void *arg);
void loop_phase(struct loop *l, bool (*run)(void *arg), void *arg);
void loop_run(struct loop *l);    /* until stop */
void loop_timers(struct loop *l); /* fires those that are due at now_ms */
/* What runs from here on is its work. */
void loop_cause_change(struct loop *l, enum cause cause);
static inline void loop_cause(struct loop *l, enum cause cause)
{
    if (l->cause != cause)
        loop_cause_change(l, cause);
}

#endif
