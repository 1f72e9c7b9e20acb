/* The loops of a worker: `workers: N` threads, each with a gateway of its own (connections, engine,
 * modules, timers) and its own listening sockets. What concerns another loop is told to it by a
 * word through its queue (loop/queue.h); nobody touches what is another's.
 *
 *   word     an effect for a connection, timer or topic of that loop; it takes and frees it
 *   errand   goes from the first loop to each in turn and home again; whose turn it is owns it.
 *            So the admin listener sums, and modules are swapped: in all loops, or in none.
 *   meeting  all loops stop between two iterations and take turns: so all is handed over to another
 *            worker, or taken over from one, as if there were one loop
 *
 * With one loop there is no queue and no thread, and an errand is a call. Shared beside queues are
 * keys and values (a lock a module), how many connections each loop has, and which loops are in a
 * topic (hub/presence.h). */
#ifndef WEIR_LOOPS_H
#define WEIR_LOOPS_H

#include "app/gateway.h"

struct word {
    struct word *next; /* of those that wait for room in a queue */
    uint8_t to;        /* a loop's number */
    uint8_t kind;      /* enum effect_kind; WORD_ERRAND */
    uint16_t code, key_n;
    uint32_t module, n; /* n: bytes that follow, key first */
    uint64_t conn;
};
enum { WORD_ERRAND = EFFECT_KINDS };

struct errand {
    struct word word;
    void (*visit)(struct gateway *gw, struct errand *e); /* calls errand_next in the end, once */
    void (*home)(struct gateway *gw, struct errand *e);  /* of the first loop, and takes it */
};

/* Of a request at the admin listener, which waits meanwhile. */
struct ask {
    struct errand errand;
    struct conn *conn;
    size_t size;
};

/* Before any thread: inits `first`, whose config is set, and makes the others, each with a
 * configuration of its own, as it changes with modules that are added. */
enum err loops_init(struct gateway *first, struct slice yaml) MUST_USE;
uint32_t loops_count(const struct gateway *gw);
struct gateway *loops_at(struct gateway *gw, uint32_t number);
/* Starts the threads, which wait; lets them run; waits for their end. */
bool loops_start(struct gateway *first) MUST_USE;
void loops_go(struct gateway *first);
void loops_join(struct gateway *first);
/* An equal part of a limit that is the process's, rounded up. */
uint64_t loops_share(const struct config *c, uint64_t limit);

/* Whether one more public connection is within limits.connections of all loops. `own`: how many
 * this one has. Two loops that ask at once for the last place may both be refused. */
bool loops_place(struct gateway *gw, uint32_t own);
void loops_places_tell(struct gateway *gw, uint32_t own); /* there are fewer now, perhaps */
void loops_drain(struct gateway *first);                  /* gateway_drain in all */
/* Of a drain: this loop has nothing left. true: no other has. */
bool loops_drained(struct gateway *gw);

/* The loop whose the id of a connection or timer is: it gave it out, or took it over. */
static inline uint32_t loops_home(const struct gateway *gw, uint64_t id)
{
    return (uint32_t)(id >> 56) % loops_count(gw);
}
bool loops_foreign(const struct gateway *gw, uint64_t id); /* another one's than this */
/* Whether other loops' queues have room for a word of that size: past that, guests are told the
 * limit and input waits. */
bool loops_room(const struct gateway *gw, uint64_t bytes);
/* An effect on what is another loop's. */
enum err loops_effect(struct event *ev, const struct effect *e) MUST_USE;
/* To this loop's members of a topic and all others'. */
enum err loops_publish(struct gateway *gw, struct slice space, struct slice name, uint64_t except,
                       struct slice head, struct slice data) MUST_USE;

enum { MEETING_OVER = -1 };
/* Called by the first loop, and returns when all have gone on. turn: of one loop at a time, in its
 * own thread, while the others wait; the first one's is first. It returns whose is next, or
 * MEETING_OVER. */
void loops_meet(struct gateway *first, int (*turn)(struct gateway *gw, void *arg), void *arg);
/* Of another loop, in each of its iterations: goes where it is called to. true: it was there. */
bool loops_come(struct gateway *gw);
/* In a turn: this loop takes all words that others have for it. With all loops' turns none is left,
 * as taking a word makes no other; errands go on afterwards. */
void loops_settle(struct gateway *gw);

void errand_start(struct gateway *first, struct errand *e);
void errand_next(struct gateway *gw, struct errand *e);
/* size: of the struct that begins with a struct ask, and is zeroed behind it. kept: the exchange
 * is, and the connection held; both are given back in any case. NULL: the request was answered with
 * the error. */
void *ask_new(struct gateway *gw, struct conn *c, bool kept, size_t size);
/* Sends it through the loops. */
void ask_start(struct gateway *gw, struct ask *a,
               void (*visit)(struct gateway *gw, struct errand *e),
               void (*home)(struct gateway *gw, struct errand *e));
/* In home: whether somebody waits for the answer yet. Then, answered or not, ask_free. */
bool ask_waits(struct gateway *gw, struct ask *a);
void ask_free(struct gateway *gw, struct ask *a);

#endif
