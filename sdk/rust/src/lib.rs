//! The guest interface weir_v1: what a guest of the gateway weir imports and exports.
//!
//! ```ignore
//! use weir::{Conn, Kind, Message};
//!
//! weir::on_ws_message!(echo);
//! fn echo(conn: Conn, message: Message) -> u16 {
//!     match conn.send(message.kind, &message.read()) {
//!         Err(weir::Error::Limit) => 1013, // it reads too slowly: close with "try again later"
//!         _ => 0,
//!     }
//! }
//! ```
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown`. This file is the whole crate: it has no
//! dependencies, and needs no std. Without the feature `alloc` (a default), it allocates nothing.
//!
//! **Every event runs in a fresh instance**: statics and the heap are as the module was built, every
//! time. What must last goes into the connection's attachment, or into the module's keys and values.
//!
//! **Events are atomic**: what is sent, stored, set or answered is gathered, and takes place
//! together when the event returns. A panic, or running past the deadline, drops it all. An event
//! sees its own attachment and its own keys and values at once; topics and queues as they were
//! before it. At most 1,024 such effects an event, of `limits.output` bytes: past them
//! [`Error::Limit`].
//!
//! Time is in milliseconds. A module may import only what its `allow:` lists; what it does not call
//! is not imported.
#![no_std]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "alloc")]
use alloc::{string::String, vec, vec::Vec};

/// The functions as they are: what `sdk/c/weir.h` declares.
mod raw {
    #[link(wasm_import_module = "weir_v1")]
    extern "C" {
        pub fn msg_read(to: *mut u8, cap: usize) -> i32;
        pub fn ws_send(conn: u64, kind: u32, data: *const u8, len: usize) -> i32;
        pub fn ws_close(conn: u64, code: u32, why: *const u8, len: usize) -> i32;
        pub fn ws_buffered(conn: u64) -> i64;
        pub fn ws_attachment_get(conn: u64, to: *mut u8, cap: usize) -> i32;
        pub fn ws_attachment_set(data: *const u8, len: usize) -> i32;
        pub fn ws_subscribe(conn: u64, topic: *const u8, len: usize) -> i32;
        pub fn ws_unsubscribe(conn: u64, topic: *const u8, len: usize) -> i32;
        pub fn publish(
            topic: *const u8,
            topic_len: usize,
            kind: u32,
            data: *const u8,
            len: usize,
            except: u64,
        ) -> i32;
        pub fn topic_next(topic: *const u8, len: usize, after: u64) -> i64;
        pub fn req_get(field: u32, name: *const u8, len: usize, to: *mut u8, cap: usize) -> i32;
        pub fn req_body(offset: usize, to: *mut u8, cap: usize) -> i32;
        pub fn resp_status(status: u32) -> i32;
        pub fn resp_header(name: *const u8, name_len: usize, value: *const u8, len: usize) -> i32;
        pub fn resp_write(data: *const u8, len: usize) -> i32;
        pub fn kv_get(key: *const u8, key_len: usize, to: *mut u8, cap: usize) -> i32;
        pub fn kv_set(
            key: *const u8,
            key_len: usize,
            value: *const u8,
            len: usize,
            ttl_ms: i64,
        ) -> i32;
        pub fn timer_set(ms: i64, cookie: i64) -> i64;
        pub fn timer_cancel(id: i64) -> i32;
        pub fn now_ms() -> i64;
        pub fn random(to: *mut u8, len: usize) -> i32;
        pub fn config_get(key: *const u8, key_len: usize, to: *mut u8, cap: usize) -> i32;
        pub fn log(level: u32, text: *const u8, len: usize) -> i32;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It would exceed a limit; nothing was done.
    Limit,
    /// No such open connection of this module.
    Gone,
    /// A kind, code, field, name or text is malformed, or not for this event.
    Invalid,
    /// There is nothing to read.
    Absent,
    /// The buffer is too small, and is as it was; that many bytes are needed.
    Short(usize),
}

pub type Result<T> = core::result::Result<T, Error>;

fn check(n: i64) -> Result<usize> {
    match n {
        -1 => Err(Error::Limit),
        -2 => Err(Error::Gone),
        -4 => Err(Error::Absent),
        n if n < 0 => Err(Error::Invalid),
        n => Ok(n as usize),
    }
}

fn done(n: i32) -> Result<()> {
    check(n.into()).map(drop)
}

/// What a read answered for a buffer: its part that was written.
fn filled(n: i32, to: &mut [u8]) -> Result<&[u8]> {
    let n = check(n.into())?;
    to.get(..n).ok_or(Error::Short(n))
}

/// Reads into a buffer that has room: most of what is read is small.
#[cfg(feature = "alloc")]
fn whole(read: impl Fn(*mut u8, usize) -> i32) -> Result<Vec<u8>> {
    let mut to = vec![0; 256];
    loop {
        let n = check(read(to.as_mut_ptr(), to.len()).into())?;
        let fits = n <= to.len();
        to.resize(n, 0);
        if fits {
            return Ok(to);
        }
    }
}

/// A message's kind. Text is UTF-8; what arrives is checked, and so is what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text = 1,
    Binary = 2,
}

/// The message of `on_ws_message`: to be read only within it.
pub struct Message {
    pub kind: Kind,
    pub len: usize,
}

impl Message {
    #[doc(hidden)]
    pub fn new(kind: u32, len: usize) -> Self {
        let kind = if kind == 1 { Kind::Text } else { Kind::Binary };
        Message { kind, len }
    }

    pub fn read_into<'a>(&self, to: &'a mut [u8]) -> Result<&'a [u8]> {
        filled(unsafe { raw::msg_read(to.as_mut_ptr(), to.len()) }, to)
    }

    #[cfg(feature = "alloc")]
    pub fn read(&self) -> Vec<u8> {
        let mut to = vec![0; self.len];
        unsafe { raw::msg_read(to.as_mut_ptr(), to.len()) };
        to
    }

    /// `None` for a binary one.
    #[cfg(feature = "alloc")]
    pub fn text(&self) -> Option<String> {
        match self.kind {
            Kind::Text => String::from_utf8(self.read()).ok(),
            Kind::Binary => None,
        }
    }
}

/// What became of a message that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Queued,
    /// Queued, but the peer reads slowly: more than half of `limits.send_queue` is full.
    /// `on_ws_drain` tells when it is below a quarter.
    Slowly,
}

/// Any open WebSocket of this module, in every event; in `on_ws_handshake` the event's own is not
/// open yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conn(core::num::NonZeroU64);

impl Conn {
    /// From what [`Conn::id`] said, be it in another event.
    pub fn from_id(id: u64) -> Option<Self> {
        core::num::NonZeroU64::new(id).map(Conn)
    }

    #[doc(hidden)]
    pub fn of_event(id: u64) -> Self {
        Conn::from_id(id).unwrap()
    }

    /// Print it as 16 hex digits, as logs do.
    pub fn id(self) -> u64 {
        self.0.get()
    }

    /// `Error::Limit`: its queue would overflow, or the event sends more than its `limits.output`.
    pub fn send(self, kind: Kind, data: &[u8]) -> Result<Sent> {
        let n = unsafe { raw::ws_send(self.id(), kind as u32, data.as_ptr(), data.len()) };
        check(n.into()).map(|n| if n == 0 { Sent::Queued } else { Sent::Slowly })
    }

    pub fn send_text(self, text: &str) -> Result<Sent> {
        self.send(Kind::Text, text.as_bytes())
    }

    /// Sends a close frame after what was sent before; `why` has 123 bytes at most.
    pub fn close(self, code: u16, why: &str) -> Result<()> {
        done(unsafe { raw::ws_close(self.id(), code.into(), why.as_ptr(), why.len()) })
    }

    /// Bytes that wait for the peer to read them, with what this event has sent.
    pub fn buffered(self) -> Result<usize> {
        check(unsafe { raw::ws_buffered(self.id()) })
    }

    /// What was attached to it; `Error::Absent` until then.
    pub fn attachment_into(self, to: &mut [u8]) -> Result<&[u8]> {
        let n = unsafe { raw::ws_attachment_get(self.id(), to.as_mut_ptr(), to.len()) };
        filled(n, to)
    }

    #[cfg(feature = "alloc")]
    pub fn attachment(self) -> Result<Vec<u8>> {
        whole(|p, n| unsafe { raw::ws_attachment_get(self.id(), p, n) })
    }

    /// Joins a topic; the same again does nothing.
    pub fn subscribe(self, topic: &str) -> Result<()> {
        done(unsafe { raw::ws_subscribe(self.id(), topic.as_ptr(), topic.len()) })
    }

    pub fn unsubscribe(self, topic: &str) -> Result<()> {
        done(unsafe { raw::ws_unsubscribe(self.id(), topic.as_ptr(), topic.len()) })
    }
}

/// Attaches bytes to the event's own WebSocket: `limits.attachment` (16 KiB) at most.
pub fn attach(data: &[u8]) -> Result<()> {
    done(unsafe { raw::ws_attachment_set(data.as_ptr(), data.len()) })
}

/// One message to all in the topic but one, those that join in this event before it included.
/// Returns how many are in it now. A receiver whose queue would overflow is closed.
///
/// A topic's name is 1 to `limits.topic_length` bytes (128). It is known inside of one space: the
/// module's name, or what its, or its route's, `space:` says.
pub fn publish(topic: &str, kind: Kind, data: &[u8], except: Option<Conn>) -> Result<usize> {
    let except = except.map_or(0, Conn::id);
    let (t, d) = (topic.as_bytes(), data);
    let n = unsafe {
        raw::publish(
            t.as_ptr(),
            t.len(),
            kind as u32,
            d.as_ptr(),
            d.len(),
            except,
        )
    };
    check(n.into())
}

/// The connections in a topic.
pub fn members(topic: &str) -> Members<'_> {
    Members { topic, at: Some(0) }
}

pub struct Members<'a> {
    topic: &'a str,
    at: Option<u64>,
}

impl Iterator for Members<'_> {
    type Item = Conn;

    fn next(&mut self) -> Option<Conn> {
        let (p, n) = (self.topic.as_ptr(), self.topic.len());
        let next = unsafe { raw::topic_next(p, n, self.at?) };
        self.at = if next > 0 { Some(next as u64) } else { None };
        self.at.and_then(Conn::from_id)
    }
}

/// The request: in `on_http`, `on_ws_handshake` and `on_ws_open`; elsewhere `Error::Absent`.
pub mod request {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Field<'a> {
        Method,
        /// As it came, percent-encoded.
        Path,
        /// Likewise, without its `?`; empty where there is none.
        Query,
        /// The first field of that name, in either case.
        Header(&'a str),
        /// All field lines as they came, each with its CR LF.
        Headers,
        /// `address:port` of the connection, `[address]:port` for IPv6.
        Peer,
        /// The list in Sec-WebSocket-Protocol.
        Subprotocols,
    }

    fn read(field: Field<'_>, to: *mut u8, cap: usize) -> i32 {
        let (number, name) = match field {
            Field::Method => (0, ""),
            Field::Path => (1, ""),
            Field::Query => (2, ""),
            Field::Header(name) => (3, name),
            Field::Headers => (4, ""),
            Field::Peer => (5, ""),
            Field::Subprotocols => (6, ""),
        };
        unsafe { raw::req_get(number, name.as_ptr(), name.len(), to, cap) }
    }

    /// Bytes: a header's value need not be UTF-8.
    pub fn get_into<'a>(field: Field<'_>, to: &'a mut [u8]) -> Result<&'a [u8]> {
        filled(read(field, to.as_mut_ptr(), to.len()), to)
    }

    #[cfg(feature = "alloc")]
    pub fn get(field: Field<'_>) -> Result<Vec<u8>> {
        whole(|p, n| read(field, p, n))
    }

    /// Copies of the body from an offset on what fits; 0 at its end.
    pub fn body_into(offset: usize, to: &mut [u8]) -> usize {
        let n = unsafe { raw::req_body(offset, to.as_mut_ptr(), to.len()) };
        check(n.into()).unwrap_or(0)
    }

    #[cfg(feature = "alloc")]
    pub fn body() -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let used = all.len();
            all.resize(used + 4096, 0);
            let n = body_into(used, &mut all[used..]);
            all.truncate(used + n);
            if n == 0 {
                return all;
            }
        }
    }
}

/// The response: in `on_http`; [`response::header`] in `on_ws_handshake` too. Without a status it
/// is 200. The gateway itself sets Content-Length, Connection, Date and what belongs to the
/// upgrade, and leaves out the body of an answer to HEAD.
pub mod response {
    use super::*;

    pub fn status(status: u16) -> Result<()> {
        done(unsafe { raw::resp_status(status.into()) })
    }

    pub fn header(name: &str, value: &str) -> Result<()> {
        let (n, v) = (name.as_bytes(), value.as_bytes());
        done(unsafe { raw::resp_header(n.as_ptr(), n.len(), v.as_ptr(), v.len()) })
    }

    /// Appends to the body; `Error::Limit` past the module's `limits.output`.
    pub fn write(data: &[u8]) -> Result<()> {
        done(unsafe { raw::resp_write(data.as_ptr(), data.len()) })
    }
}

/// Keys and values: the module's own, in every event. A key has 1 to 512 bytes; all of them, with
/// 64 bytes for each, `limits.kv` (1 MiB). If a key that an event read is changed by another before
/// the event ends, the event is dropped and run again, so that reading, adding one and storing
/// counts right; after three such repeats it fails. They last as long as the worker does, not on
/// disk.
pub mod kv {
    use super::*;

    pub fn get_into<'a>(key: &[u8], to: &'a mut [u8]) -> Result<&'a [u8]> {
        let n = unsafe { raw::kv_get(key.as_ptr(), key.len(), to.as_mut_ptr(), to.len()) };
        filled(n, to)
    }

    /// `Error::Absent` where there is none.
    #[cfg(feature = "alloc")]
    pub fn get(key: &[u8]) -> Result<Vec<u8>> {
        whole(|p, n| unsafe { raw::kv_get(key.as_ptr(), key.len(), p, n) })
    }

    fn store(key: &[u8], value: &[u8], ttl_ms: i64) -> Result<()> {
        let (k, v) = (key, value);
        done(unsafe { raw::kv_set(k.as_ptr(), k.len(), v.as_ptr(), v.len(), ttl_ms) })
    }

    pub fn set(key: &[u8], value: &[u8]) -> Result<()> {
        store(key, value, 0)
    }

    /// For so long; 0 ms is 1.
    pub fn set_for(key: &[u8], value: &[u8], ttl_ms: u32) -> Result<()> {
        store(key, value, ttl_ms.max(1).into())
    }

    pub fn delete(key: &[u8]) -> Result<()> {
        store(key, &[], -1)
    }
}

/// A timer of the module's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer(pub i64);

impl Timer {
    /// `on_timer(cookie)` once, `ms` from the event's end, 366 days at most. `Error::Limit` past
    /// `limits.timers` (100); `Error::Invalid` where the module has no `on_timer`.
    pub fn set(ms: u64, cookie: i64) -> Result<Timer> {
        let id = unsafe { raw::timer_set(ms.min(i64::MAX as u64) as i64, cookie) };
        check(id.min(0)).map(|_| Timer(id))
    }

    /// `Error::Absent`: it has run, or there was none.
    pub fn cancel(self) -> Result<()> {
        done(unsafe { raw::timer_cancel(self.0) })
    }
}

/// The wall clock, since 1970, in UTC. It may step.
pub fn now_ms() -> i64 {
    unsafe { raw::now_ms() }
}

/// Fills it, 64 KiB at most, with bytes that nobody can foresee.
pub fn random(to: &mut [u8]) -> Result<()> {
    done(unsafe { raw::random(to.as_mut_ptr(), to.len()) })
}

/// A value of the module's `env:` in weir.yaml; `Error::Absent` where it names no such key.
pub fn config_into<'a>(key: &str, to: &'a mut [u8]) -> Result<&'a [u8]> {
    let n = unsafe { raw::config_get(key.as_ptr(), key.len(), to.as_mut_ptr(), to.len()) };
    filled(n, to)
}

#[cfg(feature = "alloc")]
pub fn config(key: &str) -> Result<String> {
    let value = whole(|p, n| unsafe { raw::config_get(key.as_ptr(), key.len(), p, n) })?;
    String::from_utf8(value).map_err(|_| Error::Invalid)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// A line in the gateway's log, in every event; kept even where the event's effects are dropped.
pub fn log(level: Level, text: &str) {
    unsafe { raw::log(level as u32, text.as_ptr(), text.len()) };
}

// Exports. Each macro takes the function that serves the event, of the signature shown. Any other
// `#[no_mangle] pub extern "C" fn` of numbers is for POST /api/exec, which reaches modules without
// an on_ function.

/// `fn() -> u16`: a request on an http route. 0: answered by [`response`]; else the status to
/// answer with, 200 to 599, and what `response` said is dropped.
#[macro_export]
macro_rules! on_http {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_http() -> u32 {
            let status: u16 = $serve();
            status.into()
        }
    };
}

/// `fn(Conn) -> u16`: before a WebSocket is accepted. 0, or the HTTP status to refuse it with.
#[macro_export]
macro_rules! on_ws_handshake {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_ws_handshake(conn: u64) -> u32 {
            let status: u16 = $serve($crate::Conn::of_event(conn));
            status.into()
        }
    };
}

/// `fn(Conn)`: a WebSocket is open.
#[macro_export]
macro_rules! on_ws_open {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_ws_open(conn: u64) {
            $serve($crate::Conn::of_event(conn))
        }
    };
}

/// `fn(Conn, Message) -> u16`: a whole message. 0, or the code to close with after the effects:
/// 1000-1003, 1007-1014 or 3000-4999 (RFC 6455 7.4).
#[macro_export]
macro_rules! on_ws_message {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_ws_message(conn: u64, kind: u32, len: usize) -> u32 {
            let message = $crate::Message::new(kind, len);
            let code: u16 = $serve($crate::Conn::of_event(conn), message);
            code.into()
        }
    };
}

/// `fn(Conn)`: the peer read on, after a send said [`Sent::Slowly`] or [`Error::Limit`].
#[macro_export]
macro_rules! on_ws_drain {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_ws_drain(conn: u64) {
            $serve($crate::Conn::of_event(conn))
        }
    };
}

/// `fn(Conn, u16, bool)`: exactly once after `on_ws_open`, whatever closed it. The code is 1005
/// where the peer gave none and 1006 where it left without a close; `true` where it closed by the
/// protocol. The connection can still read its attachment, but no longer send.
#[macro_export]
macro_rules! on_ws_close {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_ws_close(conn: u64, code: u32, clean: u32) {
            $serve($crate::Conn::of_event(conn), code as u16, clean != 0)
        }
    };
}

/// `fn(i64)`: a timer of this module, with its cookie. It belongs to no connection.
#[macro_export]
macro_rules! on_timer {
    ($serve:path) => {
        #[no_mangle]
        pub extern "C" fn on_timer(cookie: i64) {
            $serve(cookie)
        }
    };
}
