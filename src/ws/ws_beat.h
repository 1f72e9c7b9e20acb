/* Heartbeats of WebSockets: a ping every interval, and what becomes of who does not answer.
 *
 *             at its place in the interval           its pong
 *   QUIET ------------------------------> PINGED ----------------> QUIET
 *                                           | timeout: a miss
 *                    its place again        v
 *   SUSPECT + PINGED <------------------ SUSPECT; + DEMOTED with its first message since the ping
 *     |  |                                  |       (held to demoted_per_s, served behind others)
 *     |  +---- pong (any state): QUIET -----+
 *     | timeout: a second miss              | evict without pong or message (also while PINGED)
 *     +-----------------> LOOK <------------+
 *                           | still nothing (looked at the socket once more)
 *                           v
 *                         4001, CLOSE SENT (ws/ws_conn.h)
 *
 * The timeout is counted in slices: one during which we did not read the connection, though it had
 * input for us, does not count, nor one in which it took of what waits for it. A loop that was away
 * counts for one slice at most. Of a connection that is demoted, or does not read what we sent, the
 * waiting is its own doing, and counts.
 *
 * A ping's payload is a keyed hash of the connection and of the time of its last pong: it can't be
 * guessed, differs from ping to ping, and need not be stored. Nor need the time of the next ping:
 * each slot of the pool has its place in the interval, so that pings stay spread. */
#ifndef WEIR_WS_BEAT_H
#define WEIR_WS_BEAT_H

#include "ws/ws_conn.h"

enum { WS_BEAT_SLICES = 8 }; /* of a timeout */

/* conn.beat */
enum {
    WS_PINGED = 1,   /* a ping is to be answered */
    WS_UNSENT = 2,   /* but what waits for the peer is in its way: it was not sent yet */
    WS_TALKED = 4,   /* a message came since */
    WS_SUSPECT = 8,  /* the ping before was not answered */
    WS_DEMOTED = 16, /* and it talks nevertheless */
    WS_LOOK = 32     /* its socket is read once more, then that is it */
};

void ws_beat_start(struct ws_server *s, struct conn *c); /* at open */
/* What of it goes over to another process; there, a ping that was not answered by then is
 * forgotten, as the time was not the peer's. */
struct ws_beat_state {
    uint64_t beat, heard_ms, ponged_ms;
};
struct ws_beat_state ws_beat_state(const struct ws_server *s, const struct conn *c);
void ws_beat_resume(struct ws_server *s, struct conn *c, const struct ws_beat_state *state);
void ws_beat_end(struct conn *c);                          /* at close; again does nothing */
void ws_beat_due(struct ws_server *s, struct conn *c);     /* its timer fired */
void ws_beat_message(struct ws_server *s, struct conn *c); /* one came */
void ws_beat_pong(struct ws_server *s, struct conn *c, struct slice payload);
/* A message began whose rest is to come within message_timeout_ms. */
void ws_beat_partial(struct ws_server *s, struct conn *c, struct ws_rx *rx);
void ws_beat_check(const struct ws_server *s, const struct conn *c); /* asserts the diagram */

/* Whether a demoted connection has to wait for its next message. */
static inline bool ws_beat_holds(const struct conn *c)
{
    return c->beat & WS_DEMOTED && !(c->beat & WS_LOOK) && !c->released;
}

#endif
