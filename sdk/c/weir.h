/* The guest interface weir_v1 in C: what a guest imports from the gateway and what it exports.
 * Freestanding, for clang --target=wasm32; `examples/build` shows the flags, `examples/` the use.
 *
 * Each event (a request, a message) runs in a fresh instance: static data is as the module was
 * built, every time. What must last goes into the connection's attachment, or into the module's
 * keys and values.
 *
 * Events are atomic. Whatever a function below sends, stores, sets or answers is gathered, and
 * takes place together when the event returns; a trap, or running past the deadline, drops it all.
 * An event sees its own attachment and its own keys and values at once; topics and queues as they
 * were before it. At most 1,024 such effects an event, of limits.output bytes: past them
 * WEIR_LIMIT.
 *
 * Reads take (to, cap) and return the full length; where cap is too small, nothing is written and
 * the length tells what would be needed. A pointer outside of memory traps. conn names a connection
 * and is never 0; print it as 16 hex digits, as logs do. Time is in milliseconds. A module may
 * import only what its `allow:` lists. Every function returns >= 0 or one of: */
#ifndef WEIR_H
#define WEIR_H

#include <stdint.h>

enum {
    WEIR_LIMIT = -1,   /* it would exceed a limit; nothing was done */
    WEIR_GONE = -2,    /* no such open connection of this module */
    WEIR_INVALID = -3, /* a kind, code, field, name or text is malformed, or not for this event */
    WEIR_ABSENT = -4   /* there is nothing to read */
};

/* A message's kind. Text is UTF-8; what arrives is checked, and so is what is sent. */
enum { WEIR_TEXT = 1, WEIR_BINARY = 2 };

#define WEIR_IMPORT(name) __attribute__((import_module("weir_v1"), import_name(#name)))
#define WEIR_EXPORT(name) __attribute__((export_name(#name)))

/* Exports. Define those that the guest serves, as declared here; any other function is exported by
 * WEIR_EXPORT and is for POST /api/exec, which reaches modules without an on_ function. */

/* A request on an http route. 0: answered by weir_resp_*; else the status to answer with, 200 to
 * 599, and what weir_resp_* said is dropped. */
WEIR_EXPORT(on_http) int32_t on_http(void);

/* Before a WebSocket is accepted: 0, or the HTTP status to refuse it with. */
WEIR_EXPORT(on_ws_handshake) int32_t on_ws_handshake(uint64_t conn);

/* A WebSocket is open. */
WEIR_EXPORT(on_ws_open) void on_ws_open(uint64_t conn);

/* A whole message of len bytes, for weir_msg_read. 0, or the code to close with after the effects:
 * 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 7.4). */
WEIR_EXPORT(on_ws_message) int32_t on_ws_message(uint64_t conn, uint32_t kind, uint32_t len);

/* The peer read on, after weir_ws_send said 1 or WEIR_LIMIT for the connection: what waits for it
 * fell below a quarter of limits.send_queue. */
WEIR_EXPORT(on_ws_drain) void on_ws_drain(uint64_t conn);

/* Exactly once after on_ws_open, whatever closed it. code is 1005 where the peer gave none and 1006
 * where it left without a close; clean is 1 where it closed by the protocol. conn can still read
 * its attachment, but no longer send. */
WEIR_EXPORT(on_ws_close) void on_ws_close(uint64_t conn, uint32_t code, uint32_t clean);

/* A timer that weir_timer_set of this module set, with its cookie. It belongs to no connection. */
WEIR_EXPORT(on_timer) void on_timer(int64_t cookie);
/* With `instance: module`, the last event before another version takes over: stores what is to
 * stay. */
WEIR_EXPORT(on_unload) void on_unload(void);

/* Messages: of on_ws_message. */
WEIR_IMPORT(msg_read) int32_t weir_msg_read(void *to, uint32_t cap);

/* Connections: any open WebSocket of this module, in every event; in on_ws_handshake the event's
 * own is not open yet. */

/* 0; 1: queued, but the peer reads slowly, its queue (limits.send_queue) is more than half full;
 * WEIR_LIMIT: it would overflow, or the event sends more than its limits.output. */
WEIR_IMPORT(ws_send)
int32_t weir_ws_send(uint64_t conn, uint32_t kind, const void *data, uint32_t len);

/* Sends a close frame after what was sent before. why: UTF-8, 123 bytes at most. */
WEIR_IMPORT(ws_close)
int32_t weir_ws_close(uint64_t conn, uint32_t code, const void *why, uint32_t len);

/* Bytes that wait for the peer to read them, with what this event has sent. */
WEIR_IMPORT(ws_buffered) int64_t weir_ws_buffered(uint64_t conn);

/* Bytes that a guest keeps with a connection; WEIR_ABSENT until they are set. _set is for the
 * event's own WebSocket, limits.attachment (16 KiB) at most; a _get in the same event sees it. */
WEIR_IMPORT(ws_attachment_get)
int32_t weir_ws_attachment_get(uint64_t conn, void *to, uint32_t cap);
WEIR_IMPORT(ws_attachment_set) int32_t weir_ws_attachment_set(const void *data, uint32_t len);

/* Topics: named sets of connections. A name is UTF-8 of 1 to limits.topic_length bytes (128), and
 * is known inside of one space: the module's name, or what its, or its route's, `space:` says. A
 * connection is in limits.topics (16) at most, and leaves them all when it closes. */

/* conn joins, or leaves; the same again does nothing. */
WEIR_IMPORT(ws_subscribe)
int32_t weir_ws_subscribe(uint64_t conn, const void *topic, uint32_t len);
WEIR_IMPORT(ws_unsubscribe)
int32_t weir_ws_unsubscribe(uint64_t conn, const void *topic, uint32_t len);

/* One message to all in the topic but `except` (0: to all), those that join in this event before
 * it included. Returns how many are in it now. A receiver whose queue would overflow is closed.
 * Messages of a topic keep their order; WEIR_LIMIT where too many are still on their way. */
WEIR_IMPORT(publish)
int32_t weir_publish(const void *topic, uint32_t topic_len, uint32_t kind, const void *data,
                     uint32_t len, uint64_t except);

/* The connection in the topic after the one that `after` names, 0: the first. 0: there is no more;
 * WEIR_GONE: `after` is not in it. */
WEIR_IMPORT(topic_next)
int64_t weir_topic_next(const void *topic, uint32_t len, uint64_t after);

/* The request: in on_http, on_ws_handshake and on_ws_open; elsewhere WEIR_ABSENT. */
enum weir_field {
    WEIR_METHOD = 0,      /* GET, HEAD, POST, ... */
    WEIR_PATH = 1,        /* as it came, percent-encoded */
    WEIR_QUERY = 2,       /* likewise, without its '?'; empty where there is none */
    WEIR_HEADER = 3,      /* the first field called name, in either case */
    WEIR_HEADERS = 4,     /* all field lines as they came, each with its CR LF */
    WEIR_PEER = 5,        /* address:port of the connection, [address]:port for IPv6 */
    WEIR_SUBPROTOCOLS = 6 /* the list in Sec-WebSocket-Protocol */
};

/* name and len are for WEIR_HEADER; 0, 0 otherwise. */
WEIR_IMPORT(req_get)
int32_t weir_req_get(enum weir_field field, const void *name, uint32_t len, void *to, uint32_t cap);

/* Copies at most cap bytes of the body from offset on; returns how many, 0 at its end. */
WEIR_IMPORT(req_body) int32_t weir_req_body(uint32_t offset, void *to, uint32_t cap);

/* The response: in on_http; weir_resp_header in on_ws_handshake too. Without a status it is 200.
 * The gateway itself sets Content-Length, Connection, Date and what belongs to the upgrade, and
 * leaves out the body of an answer to HEAD. */
WEIR_IMPORT(resp_status) int32_t weir_resp_status(uint32_t status);
WEIR_IMPORT(resp_header)
int32_t weir_resp_header(const void *name, uint32_t name_len, const void *value, uint32_t len);
/* Appends to the body; WEIR_LIMIT past the module's limits.output. */
WEIR_IMPORT(resp_write) int32_t weir_resp_write(const void *data, uint32_t len);

/* Keys and values: the module's own, in every event. A key has 1 to 512 bytes; all of them, with 64
 * bytes for each, limits.kv (1 MiB). If a key that an event read is changed by another before the
 * event ends, the event is dropped and run again, so that reading, adding one and storing counts
 * right; after three such repeats it fails. They last as long as the worker does, not on disk. */

/* WEIR_ABSENT where there is none. */
WEIR_IMPORT(kv_get)
int32_t weir_kv_get(const void *key, uint32_t key_len, void *to, uint32_t cap);
/* For ttl_ms; 0: without end; negative: deletes the key. */
WEIR_IMPORT(kv_set)
int32_t weir_kv_set(const void *key, uint32_t key_len, const void *value, uint32_t len,
                    int64_t ttl_ms);

/* Timers: the module's own, in every event. on_timer(cookie) once, `ms` from the event's end, 0 to
 * 366 days. Returns the timer's id; WEIR_LIMIT past limits.timers (100); WEIR_INVALID where the
 * module exports no on_timer. */
WEIR_IMPORT(timer_set) int64_t weir_timer_set(int64_t ms, int64_t cookie);
/* WEIR_ABSENT: it has run, or there was none. */
WEIR_IMPORT(timer_cancel) int32_t weir_timer_cancel(int64_t id);

/* The wall clock, since 1970, in UTC. It may step. */
WEIR_IMPORT(now_ms) int64_t weir_now_ms(void);

/* Fills `to`, 64 KiB at most, with bytes that nobody can foresee; returns len. */
WEIR_IMPORT(random) int32_t weir_random(void *to, uint32_t len);

/* A value of the module's `env:` in weir.yaml; WEIR_ABSENT where it names no such key. */
WEIR_IMPORT(config_get)
int32_t weir_config_get(const void *key, uint32_t key_len, void *to, uint32_t cap);

/* A line in the gateway's log, in every event; kept even where the event's effects are dropped. */
enum weir_level { WEIR_DEBUG, WEIR_INFO, WEIR_WARN, WEIR_ERROR };
WEIR_IMPORT(log) int32_t weir_log(enum weir_level level, const void *text, uint32_t len);

#endif
