// Package weir is the guest interface weir_v1: what a guest of the gateway weir imports and exports.
//
// Build a guest by
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o guest.wasm
//
// and export what it serves, as declared here, from package main (which has an empty func main):
//
//	//go:wasmexport on_http
//	func onHTTP() uint32 // a request on an http route. 0: answered by Respond...; else the status
//	                     // to answer with, 200 to 599, and what was responded is dropped
//	//go:wasmexport on_ws_handshake
//	func onHandshake(conn weir.Conn) uint32 // 0, or the HTTP status to refuse a WebSocket with
//	//go:wasmexport on_ws_open
//	func onOpen(conn weir.Conn)
//	//go:wasmexport on_ws_message
//	func onMessage(conn weir.Conn, kind weir.Kind, size uint32) uint32 // a whole message, for
//	                     // ReadMessage. 0, or the code to close with after the effects: 1000-1003,
//	                     // 1007-1014 or 3000-4999 (RFC 6455 7.4)
//	//go:wasmexport on_ws_drain
//	func onDrain(conn weir.Conn) // the peer read on, after Send said slow or ErrLimit
//	//go:wasmexport on_ws_close
//	func onClose(conn weir.Conn, code, clean uint32) // exactly once after on_ws_open. code is 1005
//	                     // where the peer gave none and 1006 where it left without a close; clean is
//	                     // 1 where it closed by the protocol. conn can still read its attachment
//	//go:wasmexport on_timer
//	func onTimer(cookie int64) // a timer of this module
//
// Any other function of numbers that is exported is for POST /api/exec, which reaches modules
// without an on_ function.
//
// Every event runs in a fresh instance: variables are as package initialization left them, every
// time. What must last goes into the connection's attachment, or into the module's keys and values.
//
// Events are atomic: what is sent, stored, set or answered is gathered, and takes place together
// when the event returns. A panic, or running past the deadline, drops it all. An event sees its own
// attachment and its own keys and values at once; topics and queues as they were before it. At most
// 1,024 such effects an event, of limits.output bytes: past them ErrLimit.
//
// Time is in milliseconds. A module may import only what its `allow:` lists; what it does not call
// is not imported, beside the parts of WASI that Go itself needs.
package weir

import (
	"errors"
	"unsafe"
)

var (
	ErrLimit   = errors.New("weir: it would exceed a limit; nothing was done")
	ErrGone    = errors.New("weir: no such open connection of this module")
	ErrInvalid = errors.New("weir: a kind, code, field, name or text is malformed, or not for this event")
	ErrAbsent  = errors.New("weir: there is nothing to read")
)

func check(n int64) (int, error) {
	switch {
	case n >= 0:
		return int(n), nil
	case n == -1:
		return 0, ErrLimit
	case n == -2:
		return 0, ErrGone
	case n == -4:
		return 0, ErrAbsent
	}
	return 0, ErrInvalid
}

func done(n int32) error {
	_, err := check(int64(n))
	return err
}

func pointer(b []byte) unsafe.Pointer {
	return unsafe.Pointer(unsafe.SliceData(b))
}

// whole reads into a buffer that has room: most of what is read is small.
func whole(read func(to unsafe.Pointer, size uint32) int32) ([]byte, error) {
	to := make([]byte, 256)
	for {
		n, err := check(int64(read(pointer(to), uint32(len(to)))))
		if err != nil {
			return nil, err
		}
		if n <= len(to) {
			return to[:n], nil
		}
		to = make([]byte, n)
	}
}

// Kind is a message's. Text is UTF-8; what arrives is checked, and so is what is sent.
type Kind uint32

const (
	Text   Kind = 1
	Binary Kind = 2
)

// ReadMessage returns the message of on_ws_message, whose size that was told.
func ReadMessage(size uint32) []byte {
	to := make([]byte, size)
	msgRead(pointer(to), size)
	return to
}

// Conn names a connection: any open WebSocket of this module, in every event; in on_ws_handshake
// the event's own is not open yet. It is never 0; print it as 16 hex digits, as logs do.
type Conn uint64

// Send sends a message. slow: it is queued, but the peer reads slowly, more than half of
// limits.send_queue is full. ErrLimit: that would overflow, or the event sends more than its
// limits.output.
func (c Conn) Send(kind Kind, data []byte) (slow bool, err error) {
	n, err := check(int64(wsSend(uint64(c), uint32(kind), pointer(data), uint32(len(data)))))
	return n == 1, err
}

// SendText sends a text message, see Send.
func (c Conn) SendText(text string) (slow bool, err error) {
	n, err := check(int64(wsSendText(uint64(c), uint32(Text), text)))
	return n == 1, err
}

// Close sends a close frame after what was sent before; why has 123 bytes at most.
func (c Conn) Close(code uint32, why string) error {
	return done(wsClose(uint64(c), code, why))
}

// Buffered is how many bytes wait for the peer to read them, with what this event has sent.
func (c Conn) Buffered() (int, error) {
	return check(wsBuffered(uint64(c)))
}

// Attachment returns what was attached to it; ErrAbsent until then.
func (c Conn) Attachment() ([]byte, error) {
	return whole(func(to unsafe.Pointer, size uint32) int32 {
		return wsAttachmentGet(uint64(c), to, size)
	})
}

// Attach attaches bytes to the event's own WebSocket, limits.attachment (16 KiB) at most.
func Attach(data []byte) error {
	return done(wsAttachmentSet(pointer(data), uint32(len(data))))
}

// Topics are named sets of connections. A name is UTF-8 of 1 to limits.topic_length bytes (128),
// and is known inside of one space: the module's name, or what its, or its route's, `space:` says.
// A connection is in limits.topics (16) at most, and leaves them all when it closes.

// Subscribe lets the connection join a topic; the same again does nothing.
func (c Conn) Subscribe(topic string) error {
	return done(wsSubscribe(uint64(c), topic))
}

// Unsubscribe lets it leave.
func (c Conn) Unsubscribe(topic string) error {
	return done(wsUnsubscribe(uint64(c), topic))
}

// Publish sends one message to all in the topic but `except` (0: to all), those that join in this
// event before it included. It returns how many are in it now. A receiver whose queue would
// overflow is closed.
func Publish(topic string, kind Kind, data []byte, except Conn) (int, error) {
	return check(int64(publish(topic, uint32(kind), pointer(data), uint32(len(data)), uint64(except))))
}

// Members calls yield for each connection in the topic: `for conn := range weir.Members(topic)`.
func Members(topic string) func(yield func(Conn) bool) {
	return func(yield func(Conn) bool) {
		next := topicNext(topic, 0)
		for next > 0 && yield(Conn(next)) {
			next = topicNext(topic, uint64(next))
		}
	}
}

// Field is one of the request: in on_http, on_ws_handshake and on_ws_open; elsewhere ErrAbsent.
type Field uint32

const (
	Method       Field = 0 // GET, HEAD, POST, ...
	Path         Field = 1 // as it came, percent-encoded
	Query        Field = 2 // likewise, without its '?'; empty where there is none
	header       Field = 3 // see Header
	Headers      Field = 4 // all field lines as they came, each with its CR LF
	Peer         Field = 5 // address:port of the connection, [address]:port for IPv6
	Subprotocols Field = 6 // the list in Sec-WebSocket-Protocol
)

func requestField(f Field, name string) (string, error) {
	b, err := whole(func(to unsafe.Pointer, size uint32) int32 {
		return reqGet(uint32(f), name, to, size)
	})
	return string(b), err
}

// Request returns a field of the request.
func Request(f Field) (string, error) {
	return requestField(f, "")
}

// Header returns the request's first header field called name, in either case.
func Header(name string) (string, error) {
	return requestField(header, name)
}

// Body returns the request's body.
func Body() []byte {
	var all []byte
	piece := make([]byte, 4096)
	for {
		n := reqBody(uint32(len(all)), pointer(piece), uint32(len(piece)))
		if n <= 0 {
			return all
		}
		all = append(all, piece[:n]...)
	}
}

// The response: in on_http; RespondHeader in on_ws_handshake too. Without a status it is 200. The
// gateway itself sets Content-Length, Connection, Date and what belongs to the upgrade, and leaves
// out the body of an answer to HEAD.

// RespondStatus sets the status.
func RespondStatus(status uint32) error {
	return done(respStatus(status))
}

// RespondHeader adds a header field.
func RespondHeader(name, value string) error {
	return done(respHeader(name, value))
}

// Respond appends to the body; ErrLimit past the module's limits.output.
func Respond(data []byte) error {
	return done(respWrite(pointer(data), uint32(len(data))))
}

// RespondText appends to the body, see Respond.
func RespondText(text string) error {
	return done(respWriteText(text))
}

// Keys and values: the module's own, in every event. A key has 1 to 512 bytes; all of them, with 64
// bytes for each, limits.kv (1 MiB). If a key that an event read is changed by another before the
// event ends, the event is dropped and run again, so that reading, adding one and storing counts
// right; after three such repeats it fails. They last as long as the worker does, not on disk.

// Get returns the value of a key; ErrAbsent where there is none.
func Get(key string) ([]byte, error) {
	return whole(func(to unsafe.Pointer, size uint32) int32 { return kvGet(key, to, size) })
}

// Set stores a value for ttlMS; 0: without end.
func Set(key string, value []byte, ttlMS uint32) error {
	return done(kvSet(key, pointer(value), uint32(len(value)), int64(ttlMS)))
}

// Delete deletes a key.
func Delete(key string) error {
	return done(kvSet(key, nil, 0, -1))
}

// SetTimer calls on_timer(cookie) once, ms from the event's end, 366 days at most. It returns the
// timer's id. ErrLimit past limits.timers (100); ErrInvalid where the module exports no on_timer.
func SetTimer(ms, cookie int64) (id int64, err error) {
	id = timerSet(ms, cookie)
	_, err = check(min(id, 0))
	return id, err
}

// CancelTimer ends a timer; ErrAbsent: it has run, or there was none.
func CancelTimer(id int64) error {
	return done(timerCancel(id))
}

// Now is the wall clock, in milliseconds since 1970, in UTC. It may step.
func Now() int64 {
	return nowMS()
}

// Random fills to, 64 KiB at most, with bytes that nobody can foresee.
func Random(to []byte) error {
	return done(random(pointer(to), uint32(len(to))))
}

// Config returns a value of the module's `env:` in weir.yaml; ErrAbsent where it names no such key.
func Config(key string) (string, error) {
	b, err := whole(func(to unsafe.Pointer, size uint32) int32 { return configGet(key, to, size) })
	return string(b), err
}

// Level is a log line's.
type Level uint32

const (
	Debug Level = iota
	Info
	Warn
	Error
)

// Log writes a line to the gateway's log, in every event; it is kept even where the event's effects
// are dropped.
func Log(level Level, text string) {
	log(uint32(level), text)
}
