/* WebSocket on connections (RFC 6455): messages out of bytes, frames into bytes, and the closing
 * handshake.
 *
 *              ws_conn_close               peer's Close                 peer's FIN, or
 *   OPEN --------------------> CLOSE SENT --------------> conn LINGER ------------------> closed()
 *    |  peer's Close: answered   | close_timeout: cut          ^         close_timeout
 *    +---------------------------|-----------------------------+
 *    |  ws_conn_fail: Close, and no more is read (7.1.7)       |
 *    +---------------------------------------------------------+
 */
#ifndef WEIR_WS_CONN_H
#define WEIR_WS_CONN_H

#include "net/conn.h"
#include "ws/ws_deflate.h"
#include "ws/ws_frame.h"

/* conn.flags. CLEAN: both sides' Close frames were seen. OPENED and DRAIN_DUE are the owner's.
 * DEFLATE: permessage-deflate was negotiated. */
enum { WS_CLOSE_SENT = 1, WS_CLEAN = 2, WS_OPENED = 4, WS_DRAIN_DUE = 8, WS_DEFLATE = 16 };

struct ws_beat {                                /* see ws/ws_beat.h */
    uint64_t interval_ms, timeout_ms, evict_ms; /* interval 0: no heartbeats */
    uint32_t demoted_per_s;                     /* messages */
};

struct ws_server {
    struct net *net;
    void *owner;
    uint32_t message_max;    /* bytes */
    uint32_t queue_max;      /* bytes that a peer may leave unread */
    uint32_t pause_at;       /* bytes: past that nothing more is read of a peer until it has read */
    uint32_t compress_least; /* bytes of a message */
    struct ws_deflate *deflate;  /* made by ws_server_deflate */
    uint64_t close_timeout_ms;   /* for the peer's answer to our Close */
    uint64_t message_timeout_ms; /* for a message that began */
    struct ws_beat beat;
    enum conn_ready (*ready)(void *owner, struct conn *c); /* see struct conn_protocol */
    /* kind is WS_TEXT (UTF-8 was checked) or WS_BINARY. data: until it returns. */
    void (*message)(void *owner, struct conn *c, enum ws_opcode kind, struct slice data);
    void (*drained)(void *owner, struct conn *c);      /* see struct conn_protocol */
    bool (*closed)(void *owner, struct conn *c);       /* likewise */
    bool (*drops_oldest)(void *owner, struct conn *c); /* likewise */
};

/* All but net and pause_at is set by the caller. */
void ws_server_init(struct ws_server *s, struct net *net, uint8_t protocol);

void ws_server_done(struct ws_server *s);
/* Whether permessage-deflate can be agreed to: there is memory for it. */
bool ws_server_deflate(struct ws_server *s);

/* The connection speaks WebSocket from here on; what the opening handshake answers is sent.
 * deflate: it agreed to permessage-deflate. */
void ws_conn_start(struct ws_server *s, struct conn *c, uint8_t protocol, bool deflate);
/* false: the connection has gone. */
bool ws_conn_send(struct ws_server *s, struct conn *c, enum ws_opcode opcode, struct slice data);
/* The same of a frame that is whole and uncompressed; it may go out compressed. */
bool ws_conn_send_frame(struct ws_server *s, struct conn *c, struct slice frame);
/* Sends a Close and awaits the peer's. A code that can't be sent (1005, 1006): an empty Close. */
void ws_conn_close(struct ws_server *s, struct conn *c, unsigned code, struct slice why,
                   enum close_reason reason);
/* Fails the connection: its error's close code, counted and logged. */
void ws_conn_fail(struct ws_server *s, struct conn *c, enum err e, enum close_reason reason);

#endif
