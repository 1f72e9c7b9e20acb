/* Connections: their life, reading, writing, back-pressure.
 *
 *    conn_open              conn_shutdown (flush, then)          reap
 *  ------------> OPEN -------------------------> LINGER ---+
 *                 |  conn_close                            | conn_close
 *                 +---------------> CLOSED <---------------+ ---------> slot free, once closed()
 *                                                                       agreed and nothing holds it
 *
 * The pool owns a connection; a connection owns its descriptor and buffers. Whoever outlives a
 * callback keeps conn_id(), or a hold. An idle connection has no buffer: input arrives in one
 * shared buffer a loop, and what its protocol did not take is kept in `saved`. */
#ifndef WEIR_CONN_H
#define WEIR_CONN_H

#include "base/buf.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "loop/loop.h"
#include "net/sendq.h"

enum conn_state { CONN_OPEN, CONN_LINGER, CONN_CLOSED };

enum { NET_LAST_WORDS = 256 }; /* room beyond a full queue, for what says why it ends */

struct net;
struct conn;

/* Whether input may be taken now. */
enum conn_ready {
    CONN_NO_TIME, /* not in this iteration, nor anybody else's */
    CONN_NO_ROOM, /* not now; others perhaps */
    CONN_HELD,    /* not before net.hold_ms have gone, and then behind all others */
    CONN_TURN,    /* yes, if nobody has waited longer */
    CONN_ALWAYS   /* yes: it takes nothing that others wait for */
};

/* What a connection speaks. The first argument of each callback is the owner. */
struct conn_protocol {
    void *owner;
    uint8_t cause;      /* enum cause: whose work its input is */
    uint32_t queue_max; /* bytes that the peer may leave unread */
    uint32_t spare;     /* bytes beyond limits.memory, for its input */
    uint32_t resume_at; /* bytes: conn_pause_full ends when no more wait */
    /* What is written are whole frames, each in one write, whose lengths this tells. NULL: it is a
     * stream, and a peer that leaves too much unread is closed. */
    frame_length *length;
    /* With frames: what such a peer is told behind the one that has begun, before it is closed; all
     * others are dropped. Returns its length. It must not touch the connection's output. */
    size_t (*last_words)(void *owner, struct conn *c, uint8_t out[NET_LAST_WORDS]);
    /* Whether instead its oldest frames are dropped. */
    bool (*drops_oldest)(void *owner, struct conn *c);
    /* A watched connection has less than a quarter of that left to send. May be NULL. */
    void (*drained)(void *owner, struct conn *c);
    /* Asked before input is read, and by input itself between its events. Where it is no, the bytes
     * stay where they are and the connection waits for its turn, first come, first served. */
    enum conn_ready (*ready)(void *owner, struct conn *c);
    /* Takes bytes (may modify them), returns how many. What it leaves comes again, in front of what
     * arrives next; after conn_defer in its turn, after conn_pause on conn_resume. */
    size_t (*input)(void *owner, struct conn *c, uint8_t *p, size_t n);
    void (*timeout)(void *owner, struct conn *c);
    /* In the reap step, again in each iteration until it returns true; may hold the connection. */
    bool (*closed)(void *owner, struct conn *c);
};

struct conn {
    struct pool_slot slot;
    struct timer timer;
    int fd;
    uint32_t next;                            /* of the list that it is in */
    uint8_t state : 3, tls : 1, protocol : 4; /* tls: net->tls has the rest of it */
    uint8_t close_reason : 5;        /* the first one given; CLOSE_COUNT while there is none */
    uint8_t beat_slices : 3;         /* WebSocket: see ws/ws_beat.h, as of beat, heard and ponged */
    uint8_t holds;                   /* events that still name it */
    bool readable : 1, end_seen : 1; /* the poller's last word; it comes once for what is new */
    bool paused : 1, peer_ended : 1, listed : 1, reaped : 1;
    bool full : 1;       /* no input is taken until the queue has been taken */
    bool progressed : 1; /* the peer took of the queue since that was last asked for */
    bool watched : 1;    /* drained() is to be called */
    bool released : 1;   /* it was held, and its time has come; the protocol takes it back */
    uint8_t beat : 6;
    uint8_t flags; /* the protocol's */
    uint16_t route;
    uint16_t gathered; /* bytes that the loop has gathered; 0 where there is a queue */
    union {
        uint16_t scanned;    /* HTTP: bytes of an incomplete head that were looked at */
        uint16_t close_code; /* WebSocket: as received or sent */
    };
    uint32_t peer;  /* of net->peers; 0: it is not counted */
    uint32_t heard; /* ticks */
    union {
        uint32_t ponged; /* WebSocket: ticks */
        uint32_t asked;  /* HTTP: 1 + the module that answered the last request; 0: none did */
    };
    struct buf *saved;   /* input that was not taken yet */
    struct sendq *queue; /* output that the socket did not take; never empty */
    void *detail;        /* the protocol's, while something is in progress */
    void *hub;           /* struct hub_conn: attachment and topics; NULL where it has none */
};

_Static_assert(CLOSE_COUNT < 32, "conn.close_reason has 5 bits");
_Static_assert(sizeof(struct conn) <= 96, "an idle WebSocket's memory");

enum { NET_PROTOCOLS = 6, NET_RECEIVE = 64 << 10 };
/* Writes gather for a while and are sent one after the other: a peer, or the network's own thread,
 * is woken once for several of them rather than for each. */
enum { NET_GATHER = 60 << 10, NET_GATHER_ONE = 16 << 10, NET_GATHER_CONNS = 64 };
struct net_limits {
    uint32_t connections;
    uint32_t linger_ms; /* for the peer to take something, or to end */
    uint32_t send_ms;   /* for a WebSocket to take something of what waits */
    uint32_t slow_ms;   /* for one that left too much to take its last words */
    uint64_t queues;    /* bytes of memory for all queues */
};

struct net_gathered {
    uint32_t slot, generation, len;
    uint8_t protocol;
    struct frame *frame; /* NULL: the bytes are in net.gather */
};

struct conn_list { /* first in, first out; through conn.next */
    uint32_t head, tail;
};

struct net {
    struct loop *loop;
    struct peers *peers; /* whom connections with a peer are counted to; set by the owner */
    struct net_limits limits;
    struct conn_protocol protocols[NET_PROTOCOLS];
    struct pool conns;
    struct tls *tls;                  /* NULL: no listener has it */
    uint32_t speaking[NET_PROTOCOLS]; /* slots by protocol, until they are free again */
    struct conn_list closing;
    struct conn_list resuming; /* more to read, or to settle */
    struct conn_list waiting;  /* for a turn */
    struct conn_list held;     /* until hold_timer */
    struct timer hold_timer;
    uint32_t hold_ms;
    uint32_t fed; /* calls of input since its connection's turn began */
    struct net_gathered entries[NET_GATHER_CONNS];
    uint32_t n_entries, gathered, copied; /* bytes; of them, in gather */
    struct sendqs queues;
    bool flushing;
    uint8_t receive[NET_RECEIVE], gather[NET_GATHER];
};

/* Adds the phases "resume" and, as the last, "reap": whoever has phases between them adds them
 * between net_init and net_phase_reap. */
enum err net_init(struct net *net, struct loop *loop, const struct net_limits *limits) MUST_USE;
void net_phase_reap(struct net *net);
void net_done(struct net *net);

struct conn *conn_open(struct net *net, int fd, uint8_t protocol); /* takes fd; NULL: closed */
/* What goes over to another process of what a connection has: input that was not taken, and output
 * that its peer has not read, of which the first `begun` bytes end what it has read a part of. */
struct conn_rest {
    struct slice saved, queue;
    uint32_t begun;
};
/* One that another process gave up, with its id and its rest; it goes on in the next iteration.
 * Takes fd. NULL: no memory, or no such id. */
struct conn *conn_adopt(struct net *net, int fd, uint8_t protocol, uint64_t id,
                        const struct conn_rest *rest);
/* What waits for the peer, copied to `queue`, is in it. */
enum err conn_rest(const struct net *net, const struct conn *c, struct buf *queue,
                   struct conn_rest *out) MUST_USE;
/* The socket is another process's from here on: neither the peer nor the protocol is told. */
void conn_give_up(struct net *net, struct conn *c);
/* Sends in this iteration, and queues what the socket does not take; past its protocol's queue_max,
 * or limits.queues, see struct conn_protocol. The two slices go out as one. false: the connection
 * has gone. */
bool conn_write(struct net *net, struct conn *c, struct slice a, struct slice b);
/* The same with a reference to one frame, which others may get too. */
bool conn_write_frame(struct net *net, struct conn *c, struct frame *f);
void net_flush(struct net *net); /* sends all that has gathered */
void conn_speak(struct net *net, struct conn *c, uint8_t protocol); /* another from here on */
void conn_pause(struct conn *c);
void conn_resume(struct net *net, struct conn *c); /* input goes on in this iteration */
void conn_defer(struct net *net, struct conn *c);  /* input goes on in its turn */
void conn_pause_full(struct conn *c);              /* no input until resume_at; there is a queue */
void conn_hold(struct net *net, struct conn *c);   /* input goes on as CONN_HELD says */
/* The socket is asked for input in this iteration, whatever the poller said, if input is taken. */
void conn_look(struct net *net, struct conn *c);
void conn_timer(struct net *net, struct conn *c, uint64_t ms); /* 0: none */
/* Sends what is queued, says no more, reads and drops until the peer ends or limits.linger_ms. */
void conn_shutdown(struct net *net, struct conn *c, enum close_reason reason);
void conn_close(struct net *net, struct conn *c, enum close_reason reason);
void conn_reason(struct conn *c,
                 enum close_reason reason);         /* before one of the two; the first wins */
void conn_release(struct net *net, struct conn *c); /* ends a hold */
void conn_check(const struct net *net);             /* asserts what must hold between iterations */

/* Whether the peer took of the queue since this was last asked. */
static inline bool conn_progressed(struct conn *c)
{
    bool progressed = c->progressed && c->queue;
    c->progressed = false;
    return progressed;
}

/* An id is {loop 8, slot 24, generation 32}, never 0, and stays a connection's where that goes over
 * to another process. Where that has fewer loops than ids name, connections of loop l are those of
 * loop l % loops there, and their slots are the pool's stride * (l / loops) + slot: what is below
 * `stride` or not below `end` are the loop's own. Set before there is any connection, for all
 * loops of the process. */
struct conn_homes {
    uint32_t loops, stride, end; /* end: a multiple of stride */
};
extern struct conn_homes conn_homes; /* at first, ids name no loop that there is not */

static inline uint64_t conn_id(const struct conn *c)
{
    uint32_t loop = thread_number, slot = c->slot.index;
    if (UNLIKELY(slot >= conn_homes.end)) {
        slot -= conn_homes.end - conn_homes.stride;
    } else if (UNLIKELY(slot >= conn_homes.stride)) {
        loop += slot / conn_homes.stride * conn_homes.loops;
        slot %= conn_homes.stride;
    }
    return (uint64_t)loop << 56 | (uint64_t)slot << 32 | c->slot.generation;
}

/* Where it is in the pool of this loop; UINT32_MAX: it can't be there. */
static inline uint32_t conn_index(uint64_t id)
{
    uint32_t loop = (uint32_t)(id >> 56), slot = (uint32_t)(id >> 32) & 0xffffff;
    const struct conn_homes *h = &conn_homes;
    if (LIKELY(loop == thread_number))
        return slot < h->stride ? slot : slot + (h->end - h->stride);
    uint64_t before = (uint64_t)(loop / h->loops) * h->stride;
    bool here = loop % h->loops == thread_number && slot < h->stride && before < h->end;
    return here ? (uint32_t)before + slot : UINT32_MAX;
}

static inline struct conn *conn_get(const struct net *net, uint64_t id) /* NULL: gone */
{
    struct conn *c = pool_get(&net->conns, conn_index(id), (uint32_t)id);
    return c && c->state == CONN_OPEN ? c : NULL;
}

/* drained() is called once, when less than a quarter of queue_max waits. */
static inline void conn_watch(struct conn *c)
{
    c->watched = true;
}

/* Bytes that wait for the socket. */
static inline uint32_t conn_queued(const struct conn *c)
{
    return c->queue ? c->queue->bytes : c->gathered;
}

#endif
