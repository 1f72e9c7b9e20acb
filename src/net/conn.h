/* Connections: their life, reading, writing, back-pressure.
 *
 *   net_accept            conn_shutdown (flush, then)         reap
 *  ----------> OPEN -----------------------> LINGER ---+
 *               |  conn_close                          | conn_close
 *               +--------------> CLOSED <--------------+ ----------> slot free once nothing holds
 * it
 *
 * The pool owns a connection; a connection owns its descriptor and buffers. Whoever outlives a
 * callback keeps conn_id(), never a pointer. An idle connection holds no buffer: input arrives in
 * one shared buffer a loop, and what its protocol did not take is kept in `saved`. */
#ifndef WEIR_CONN_H
#define WEIR_CONN_H

#include "base/buf.h"
#include "base/metrics.h"
#include "base/pool.h"
#include "loop/loop.h"

enum conn_state { CONN_OPEN, CONN_LINGER, CONN_CLOSED };
enum conn_timer { TIMER_NONE, TIMER_PROTOCOL, TIMER_LINGER };

struct net;
struct conn;

struct conn_protocol {
    /* Takes bytes (may modify them), returns how many; the rest comes again before new ones. */
    size_t (*input)(struct net *net, struct conn *c, uint8_t *p, size_t n);
    void (*timeout)(struct net *net, struct conn *c);
    void (*closed)(struct net *net, struct conn *c); /* in the reap step, once; may hold it */
};

struct conn {
    struct pool_slot slot;
    struct timer timer;
    int fd;
    uint8_t state, protocol, timer_of, close_reason;
    bool paused, unpolled, peer_ended, linked; /* linked: in the closing or resume list */
    uint8_t flags;                             /* the protocol's */
    uint8_t holds;                             /* events that still name it */
    bool reaped;                               /* closed() was called */
    uint16_t route;
    uint16_t close_code; /* WebSocket: as received or sent */
    uint32_t link;       /* next of that list */
    struct buf *saved;   /* input that was not taken yet */
    struct buf *queue;   /* output that the socket did not take */
    void *detail;        /* the protocol's, while something is in progress */
    void *attachment;    /* a guest's; see hub */
};

enum { NET_PROTOCOLS = 4, NET_RECEIVE = 64 << 10, NET_CORK = 64 << 10 };

struct net_limits {
    uint32_t connections, send_queue, linger_ms;
};

struct net {
    struct loop *loop;
    struct net_limits limits;
    struct conn_protocol protocols[NET_PROTOCOLS];
    struct pool conns;
    uint32_t closing, resuming; /* heads of lists through conn.link */
    struct conn *corked;        /* its writes gather in cork until its input is done */
    uint32_t cork_len;
    void *app;
    uint8_t receive[NET_RECEIVE], cork[NET_CORK];
};

enum err net_init(struct net *net, struct loop *loop, const struct net_limits *limits) MUST_USE;
void net_done(struct net *net);

struct conn *conn_open(struct net *net, int fd, uint8_t protocol); /* takes fd; NULL: closed */
/* Both queue what the socket does not take; past limits.send_queue the connection is closed. The
 * two slices go out as one. false: the connection has gone. */
bool conn_write(struct net *net, struct conn *c, struct slice a, struct slice b);
void conn_cork(struct net *net, struct conn *c); /* NULL: flush and end */
void conn_pause(struct net *net, struct conn *c);
void conn_resume(struct net *net, struct conn *c);             /* input goes on in this iteration */
void conn_timer(struct net *net, struct conn *c, uint32_t ms); /* 0: none */
/* Sends what is queued, says no more, reads and drops until the peer ends or limits.linger_ms. */
void conn_shutdown(struct net *net, struct conn *c, enum close_reason reason);
void conn_close(struct net *net, struct conn *c, enum close_reason reason);
void conn_release(struct net *net, struct conn *c); /* ends a hold */

/* {loop 8, slot 24, generation 32}; never 0. */
static inline uint64_t conn_id(const struct conn *c)
{
    return (uint64_t)c->slot.index << 32 | c->slot.generation;
}

static inline struct conn *conn_get(const struct net *net, uint64_t id) /* NULL: gone */
{
    struct conn *c = id >> 56 ? NULL : pool_get(&net->conns, (uint32_t)(id >> 32), (uint32_t)id);
    return c && c->state == CONN_OPEN ? c : NULL;
}

static inline uint32_t conn_queued(const struct conn *c)
{
    return c->queue ? c->queue->len : 0;
}

#endif
