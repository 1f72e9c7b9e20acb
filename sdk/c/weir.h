/* The guest interface weir_v1 in C: what a guest imports from the gateway and what it exports.
 * Freestanding, for clang --target=wasm32; `examples/build` shows the flags, `examples/` the use.
 *
 * Each event (a request, a message) runs in a fresh instance: static data is as the module was
 * built, every time. What must last goes into the connection's attachment.
 *
 * Events are atomic. Sends, closes, attachments and responses are gathered, and take place together
 * when the event returns; a trap, or running past the deadline, drops them all.
 *
 * Reads take (to, cap) and return the full length; where cap is too small, nothing is written and
 * the length tells what would be needed. A pointer outside of memory traps. conn names a connection
 * and is never 0; print it as 16 hex digits, as logs do. Every function returns >= 0 or one of: */
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

/* Exactly once after on_ws_open, whatever closed it. code is 1005 where the peer gave none and 1006
 * where it left without a close; clean is 1 where it closed by the protocol. conn can still read
 * its attachment, but no longer send. */
WEIR_EXPORT(on_ws_close) void on_ws_close(uint64_t conn, uint32_t code, uint32_t clean);

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

/* Bytes that a guest keeps with a connection; WEIR_ABSENT until they are set. _set is for the
 * event's own WebSocket, limits.attachment (16 KiB) at most; a _get in the same event sees it. */
WEIR_IMPORT(ws_attachment_get)
int32_t weir_ws_attachment_get(uint64_t conn, void *to, uint32_t cap);
WEIR_IMPORT(ws_attachment_set) int32_t weir_ws_attachment_set(const void *data, uint32_t len);

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

/* A line in the gateway's log, in every event; kept even where the event's effects are dropped. */
enum weir_level { WEIR_DEBUG, WEIR_INFO, WEIR_WARN, WEIR_ERROR };
WEIR_IMPORT(log) int32_t weir_log(enum weir_level level, const void *text, uint32_t len);

#endif
