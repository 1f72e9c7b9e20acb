/* The guest interface weir_v1 in AssemblyScript: what a guest imports from the gateway and what it
 * exports. Build a guest by
 *
 *     asc guest.ts --runtime stub -Osize --outFile guest.wasm
 *
 * (nothing is ever freed, as the instance is gone after the event), and export what it serves, as
 * declared here:
 *
 *   on_http(): u32                      a request on an http route. 0: answered by respond...; else
 *                                       the status to answer with, 200 to 599, and what was responded
 *                                       is dropped
 *   on_ws_handshake(conn: Conn): u32    0, or the HTTP status to refuse a WebSocket with
 *   on_ws_open(conn: Conn): void
 *   on_ws_message(conn: Conn, kind: Kind, size: u32): u32
 *                                       a whole message, for readMessage. 0, or the code to close
 *                                       with after the effects: 1000-1003, 1007-1014 or 3000-4999
 *                                       (RFC 6455 7.4)
 *   on_ws_drain(conn: Conn): void       the peer read on, after send said SLOW or LIMIT
 *   on_ws_close(conn: Conn, code: u32, clean: u32): void
 *                                       exactly once after on_ws_open. code is 1005 where the peer
 *                                       gave none and 1006 where it left without a close; clean is 1
 *                                       where it closed by the protocol. conn can still read its
 *                                       attachment, but no longer send
 *   on_timer(cookie: i64): void         a timer of this module
 *
 * Any other function of numbers that is exported is for POST /api/exec, which reaches modules
 * without an on_ function.
 *
 * Every event runs in a fresh instance: variables are as the module was built, every time. What must
 * last goes into the connection's attachment, or into the module's keys and values.
 *
 * Events are atomic: what is sent, stored, set or answered is gathered, and takes place together
 * when the event returns. A trap, or running past the deadline, drops it all. An event sees its own
 * attachment and its own keys and values at once; topics and queues as they were before it. At most
 * 1,024 such effects an event, of limits.output bytes: past them LIMIT.
 *
 * Time is in milliseconds. A module may import only what its `allow:` lists. Reads return null where
 * there is nothing to read; what returns a number returns >= 0, or one of: */
export const LIMIT: i32 = -1; // it would exceed a limit; nothing was done
export const GONE: i32 = -2; // no such open connection of this module
export const INVALID: i32 = -3; // malformed, or not for this event
export const ABSENT: i32 = -4; // there is nothing to read

/* Of send: queued, but the peer reads slowly, more than half of limits.send_queue is full. */
export const SLOW: i32 = 1;

/* A connection: any open WebSocket of this module, in every event; in on_ws_handshake the event's
 * own is not open yet. It is never 0; print it as 16 hex digits, as logs do. */
export type Conn = u64;

/* A message's. Text is UTF-8; what arrives is checked, and so is what is sent. */
export type Kind = u32;
export const TEXT: Kind = 1;
export const BINARY: Kind = 2;

/* The functions as they are: what sdk/c/weir.h declares. */
export namespace raw {
  @external("weir_v1", "msg_read")
  export declare function msg_read(to: usize, cap: u32): i32;
  @external("weir_v1", "ws_send")
  export declare function ws_send(conn: u64, kind: u32, data: usize, len: u32): i32;
  @external("weir_v1", "ws_close")
  export declare function ws_close(conn: u64, code: u32, why: usize, len: u32): i32;
  @external("weir_v1", "ws_buffered")
  export declare function ws_buffered(conn: u64): i64;
  @external("weir_v1", "ws_attachment_get")
  export declare function ws_attachment_get(conn: u64, to: usize, cap: u32): i32;
  @external("weir_v1", "ws_attachment_set")
  export declare function ws_attachment_set(data: usize, len: u32): i32;
  @external("weir_v1", "ws_subscribe")
  export declare function ws_subscribe(conn: u64, topic: usize, len: u32): i32;
  @external("weir_v1", "ws_unsubscribe")
  export declare function ws_unsubscribe(conn: u64, topic: usize, len: u32): i32;
  @external("weir_v1", "publish")
  export declare function publish(
    topic: usize, topic_len: u32, kind: u32, data: usize, len: u32, except: u64): i32;
  @external("weir_v1", "topic_next")
  export declare function topic_next(topic: usize, len: u32, after: u64): i64;
  @external("weir_v1", "req_get")
  export declare function req_get(field: u32, name: usize, len: u32, to: usize, cap: u32): i32;
  @external("weir_v1", "req_body")
  export declare function req_body(offset: u32, to: usize, cap: u32): i32;
  @external("weir_v1", "resp_status")
  export declare function resp_status(status: u32): i32;
  @external("weir_v1", "resp_header")
  export declare function resp_header(name: usize, name_len: u32, value: usize, len: u32): i32;
  @external("weir_v1", "resp_write")
  export declare function resp_write(data: usize, len: u32): i32;
  @external("weir_v1", "kv_get")
  export declare function kv_get(key: usize, key_len: u32, to: usize, cap: u32): i32;
  @external("weir_v1", "kv_set")
  export declare function kv_set(
    key: usize, key_len: u32, value: usize, len: u32, ttl_ms: i64): i32;
  @external("weir_v1", "timer_set")
  export declare function timer_set(ms: i64, cookie: i64): i64;
  @external("weir_v1", "timer_cancel")
  export declare function timer_cancel(id: i64): i32;
  @external("weir_v1", "now_ms")
  export declare function now_ms(): i64;
  @external("weir_v1", "random")
  export declare function random(to: usize, len: u32): i32;
  @external("weir_v1", "config_get")
  export declare function config_get(key: usize, key_len: u32, to: usize, cap: u32): i32;
  @external("weir_v1", "log")
  export declare function log(level: u32, text: usize, len: u32): i32;
}

function bytes(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

// Where the bytes of a buffer are, and how many.
@inline function at(b: ArrayBuffer): usize {
  return changetype<usize>(b);
}

@inline function size(b: ArrayBuffer): u32 {
  return <u32>b.byteLength;
}

// What a read wrote.
function cut(to: ArrayBuffer, n: i32): ArrayBuffer {
  return n == to.byteLength ? to : to.slice(0, n);
}

const FIRST: i32 = 256; // most of what is read is small

/* ---- messages and connections ---- */

/* The message of on_ws_message, whose size that was told. */
export function readMessage(size: u32): ArrayBuffer {
  const to = new ArrayBuffer(size);
  raw.msg_read(at(to), size);
  return to;
}

export function readText(size: u32): string {
  return String.UTF8.decode(readMessage(size));
}

/* 0; SLOW; LIMIT: its queue would overflow, or the event sends more than its limits.output. */
export function send(conn: Conn, kind: Kind, data: ArrayBuffer): i32 {
  return raw.ws_send(conn, kind, at(data), size(data));
}

export function sendText(conn: Conn, text: string): i32 {
  return send(conn, TEXT, bytes(text));
}

/* Sends a close frame after what was sent before; why has 123 bytes at most. */
export function close(conn: Conn, code: u32, why: string = ""): i32 {
  const b = bytes(why);
  return raw.ws_close(conn, code, at(b), size(b));
}

/* Bytes that wait for the peer to read them, with what this event has sent. */
export function buffered(conn: Conn): i64 {
  return raw.ws_buffered(conn);
}

/* What was attached to it. */
export function attachment(conn: Conn): ArrayBuffer | null {
  let to = new ArrayBuffer(FIRST);
  let n = raw.ws_attachment_get(conn, at(to), size(to));
  if (n > FIRST) {
    to = new ArrayBuffer(n);
    n = raw.ws_attachment_get(conn, at(to), size(to));
  }
  return n < 0 ? null : cut(to, n);
}

/* Attaches bytes to the event's own WebSocket, limits.attachment (16 KiB) at most. */
export function attach(data: ArrayBuffer): i32 {
  return raw.ws_attachment_set(at(data), size(data));
}

/* ---- topics: named sets of connections ----
 * A name is 1 to limits.topic_length bytes (128), and is known inside of one space: the module's
 * name, or what its, or its route's, `space:` says. A connection is in limits.topics (16) at most,
 * and leaves them all when it closes. */

/* The connection joins, or leaves; the same again does nothing. */
export function subscribe(conn: Conn, topic: string): i32 {
  const b = bytes(topic);
  return raw.ws_subscribe(conn, at(b), size(b));
}

export function unsubscribe(conn: Conn, topic: string): i32 {
  const b = bytes(topic);
  return raw.ws_unsubscribe(conn, at(b), size(b));
}

/* One message to all in the topic but `except` (0: to all), those that join in this event before it
 * included. Returns how many are in it now. A receiver whose queue would overflow is closed. */
export function publish(topic: string, kind: Kind, data: ArrayBuffer, except: Conn = 0): i32 {
  const b = bytes(topic);
  return raw.publish(at(b), size(b), kind, at(data), size(data), except);
}

export function publishText(topic: string, text: string, except: Conn = 0): i32 {
  return publish(topic, TEXT, bytes(text), except);
}

/* The connections in a topic, `most` at most. */
export function members(topic: string, most: i32 = i32.MAX_VALUE): Conn[] {
  const b = bytes(topic);
  const found: Conn[] = [];
  let next = raw.topic_next(at(b), size(b), 0);
  while (next > 0 && found.length < most) {
    found.push(<Conn>next);
    next = raw.topic_next(at(b), size(b), <Conn>next);
  }
  return found;
}

/* ---- the request: in on_http, on_ws_handshake and on_ws_open ---- */

export const METHOD: u32 = 0; // GET, HEAD, POST, ...
export const PATH: u32 = 1; // as it came, percent-encoded
export const QUERY: u32 = 2; // likewise, without its '?'; empty where there is none
export const HEADER: u32 = 3; // see header()
export const HEADERS: u32 = 4; // all field lines as they came, each with its CR LF
export const PEER: u32 = 5; // address:port of the connection, [address]:port for IPv6
export const SUBPROTOCOLS: u32 = 6; // the list in Sec-WebSocket-Protocol

export function request(field: u32, name: string = ""): string | null {
  const b = bytes(name);
  let to = new ArrayBuffer(FIRST);
  let n = raw.req_get(field, at(b), size(b), at(to), size(to));
  if (n > FIRST) {
    to = new ArrayBuffer(n);
    n = raw.req_get(field, at(b), size(b), at(to), size(to));
  }
  return n < 0 ? null : String.UTF8.decode(cut(to, n));
}

/* The first field called name, in either case. */
export function header(name: string): string | null {
  return request(HEADER, name);
}

export function body(): ArrayBuffer {
  let all = new ArrayBuffer(4096);
  let used = 0;
  for (;;) {
    const n = raw.req_body(used, at(all) + used, all.byteLength - used);
    if (n <= 0) return all.slice(0, used);
    used += n;
    if (used == all.byteLength) {
      const larger = new ArrayBuffer(2 * used);
      memory.copy(at(larger), at(all), used);
      all = larger;
    }
  }
}

/* ---- the response: in on_http; respondHeader in on_ws_handshake too ----
 * Without a status it is 200. The gateway itself sets Content-Length, Connection, Date and what
 * belongs to the upgrade, and leaves out the body of an answer to HEAD. */

export function respondStatus(status: u32): i32 {
  return raw.resp_status(status);
}

export function respondHeader(name: string, value: string): i32 {
  const n = bytes(name), v = bytes(value);
  return raw.resp_header(at(n), size(n), at(v), size(v));
}

/* Appends to the body; LIMIT past the module's limits.output. */
export function respond(data: ArrayBuffer): i32 {
  return raw.resp_write(at(data), size(data));
}

export function respondText(text: string): i32 {
  return respond(bytes(text));
}

/* ---- keys and values: the module's own, in every event ----
 * A key has 1 to 512 bytes; all of them, with 64 bytes for each, limits.kv (1 MiB). If a key that an
 * event read is changed by another before the event ends, the event is dropped and run again, so
 * that reading, adding one and storing counts right; after three such repeats it fails. They last as
 * long as the worker does, not on disk. */

export function get(key: string): ArrayBuffer | null {
  const b = bytes(key);
  let to = new ArrayBuffer(FIRST);
  let n = raw.kv_get(at(b), size(b), at(to), size(to));
  if (n > FIRST) {
    to = new ArrayBuffer(n);
    n = raw.kv_get(at(b), size(b), at(to), size(to));
  }
  return n < 0 ? null : cut(to, n);
}

/* For ttl_ms; 0: without end. */
export function set(key: string, value: ArrayBuffer, ttl_ms: u32 = 0): i32 {
  const b = bytes(key);
  return raw.kv_set(at(b), size(b), at(value), size(value), ttl_ms);
}

export function remove(key: string): i32 {
  const b = bytes(key);
  return raw.kv_set(at(b), size(b), 0, 0, -1);
}

/* ---- timers, clock, entropy, configuration, log ---- */

/* on_timer(cookie) once, `ms` from the event's end, 366 days at most. Returns the timer's id; LIMIT
 * past limits.timers (100); INVALID where the module exports no on_timer. */
export function setTimer(ms: i64, cookie: i64): i64 {
  return raw.timer_set(ms, cookie);
}

/* ABSENT: it has run, or there was none. */
export function cancelTimer(id: i64): i32 {
  return raw.timer_cancel(id);
}

/* The wall clock, since 1970, in UTC. It may step. */
export function now(): i64 {
  return raw.now_ms();
}

/* n bytes, 64 KiB at most, that nobody can foresee. */
export function random(n: i32): ArrayBuffer | null {
  const to = new ArrayBuffer(n);
  return raw.random(at(to), n) < 0 ? null : to;
}

/* A value of the module's `env:` in weir.yaml. */
export function config(key: string): string | null {
  const b = bytes(key);
  let to = new ArrayBuffer(FIRST);
  let n = raw.config_get(at(b), size(b), at(to), size(to));
  if (n > FIRST) {
    to = new ArrayBuffer(n);
    n = raw.config_get(at(b), size(b), at(to), size(to));
  }
  return n < 0 ? null : String.UTF8.decode(cut(to, n));
}

export const DEBUG: u32 = 0;
export const INFO: u32 = 1;
export const WARN: u32 = 2;
export const ERROR: u32 = 3;

/* A line in the gateway's log, in every event; kept even where its effects are dropped. */
export function log(level: u32, text: string): void {
  const b = bytes(text);
  raw.log(level, at(b), size(b));
}
