;; Handshake and open: the first byte of the query says what to do.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_close" (func $ws_close (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_get" (func $get (param i64 i32 i32) (result i32)))
  (import "weir_v1" "req_get" (func $req_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_header" (func $resp_header (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $resp_write (param i32 i32) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "Sec-WebSocket-Protocol")
  (data (i32.const 32) "X-Result")
  (data (i32.const 48) "X-Guest")
  (data (i32.const 64) "X-Field")
  (data (i32.const 80) "handshake")
  (data (i32.const 96) "open")
  (data (i32.const 112) "close")
  (data (i32.const 128) "hello")
  (data (i32.const 144) "Content-Length")
  (data (i32.const 160) "Sec-WebSocket-Accept")
  (func $query (result i32)
    (call $req_get (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 1024)))
  ;; three digits at $p
  (func $number (param $p i32) (result i32)
    (i32.add (i32.add
      (i32.mul (i32.sub (i32.load8_u (local.get $p)) (i32.const 48)) (i32.const 100))
      (i32.mul (i32.sub (i32.load8_u offset=1 (local.get $p)) (i32.const 48)) (i32.const 10)))
      (i32.sub (i32.load8_u offset=2 (local.get $p)) (i32.const 48))))
  ;; X-Result: the digit of -r
  (func $result (param $r i32)
    (i32.store8 (i32.const 4096) (i32.sub (i32.const 48) (local.get $r)))
    (drop (call $resp_header (i32.const 32) (i32.const 8) (i32.const 4096) (i32.const 1))))

  (func (export "on_ws_handshake") (param $conn i64) (result i32)
    (local $n i32) (local $c i32) (local $r i32)
    (local.set $n (call $query))
    (local.set $c (i32.load8_u (i32.const 1024)))
    (drop (call $log (i32.const 1) (i32.const 80) (i32.const 9)))
    ;; r NNN: refuse
    (if (i32.eq (local.get $c) (i32.const 114)) (then
      (drop (call $resp_header (i32.const 48) (i32.const 7) (i32.const 128) (i32.const 5)))
      (return (call $number (i32.const 1025)))))
    ;; p NAME: choose the subprotocol
    (if (i32.eq (local.get $c) (i32.const 112)) (then
      (call $result (call $resp_header (i32.const 0) (i32.const 22) (i32.const 1025)
        (i32.sub (local.get $n) (i32.const 1))))))
    ;; h: a field of its own
    (if (i32.eq (local.get $c) (i32.const 104)) (then
      (call $result (call $resp_header (i32.const 48) (i32.const 7) (i32.const 128) (i32.const 5)))))
    ;; c: fields that are not its own; the first result that is not -3, else -3
    (if (i32.eq (local.get $c) (i32.const 99)) (then
      (local.set $r (call $resp_header (i32.const 144) (i32.const 14) (i32.const 128) (i32.const 1)))
      (if (i32.eq (local.get $r) (i32.const -3)) (then
        (local.set $r (call $resp_header (i32.const 160) (i32.const 20) (i32.const 128) (i32.const 1)))))
      (call $result (local.get $r))))
    ;; f N NAME: req_get of field N into X-Field
    (if (i32.eq (local.get $c) (i32.const 102)) (then
      (local.set $r (call $req_get (i32.sub (i32.load8_u (i32.const 1025)) (i32.const 48))
        (i32.const 1026) (i32.sub (local.get $n) (i32.const 2)) (i32.const 8192) (i32.const 4096)))
      (if (i32.lt_s (local.get $r) (i32.const 0))
        (then (call $result (local.get $r)))
        (else (drop (call $resp_header (i32.const 64) (i32.const 7) (i32.const 8192) (local.get $r)))))))
    ;; a: attach, before the connection is a WebSocket
    (if (i32.eq (local.get $c) (i32.const 97)) (then
      (call $result (call $set (i32.const 128) (i32.const 5)))))
    ;; w: resp_write is not for a handshake
    (if (i32.eq (local.get $c) (i32.const 119)) (then
      (call $result (call $resp_write (i32.const 128) (i32.const 5)))))
    ;; t: trap; l: never end
    (if (i32.eq (local.get $c) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $c) (i32.const 108)) (then (loop $l (br $l))))
    (i32.const 0))

  (func (export "on_ws_open") (param $conn i64)
    (local $n i32) (local $c i32) (local $r i32)
    (local.set $n (call $query))
    (local.set $c (i32.load8_u (i32.const 1024)))
    (drop (call $log (i32.const 1) (i32.const 96) (i32.const 4)))
    ;; H: greet
    (if (i32.eq (local.get $c) (i32.const 72)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 128) (i32.const 5)))))
    ;; A: attach
    (if (i32.eq (local.get $c) (i32.const 65)) (then
      (drop (call $set (i32.const 128) (i32.const 5)))))
    ;; F N NAME: req_get of field N, sent as text; or the digit of its negative result
    (if (i32.eq (local.get $c) (i32.const 70)) (then
      (local.set $r (call $req_get (i32.sub (i32.load8_u (i32.const 1025)) (i32.const 48))
        (i32.const 1026) (i32.sub (local.get $n) (i32.const 2)) (i32.const 8192) (i32.const 4096)))
      (if (i32.lt_s (local.get $r) (i32.const 0)) (then
        (i32.store8 (i32.const 8192) (i32.sub (i32.const 48) (local.get $r)))
        (local.set $r (i32.const 1))))
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 8192) (local.get $r)))))
    ;; C: greet and close with 4002
    (if (i32.eq (local.get $c) (i32.const 67)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 128) (i32.const 5)))
      (drop (call $ws_close (local.get $conn) (i32.const 4002) (i32.const 128) (i32.const 5)))))
    ;; T: greet, trap; L: greet, never end
    (if (i32.or (i32.eq (local.get $c) (i32.const 84)) (i32.eq (local.get $c) (i32.const 76))) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 128) (i32.const 5)))))
    (if (i32.eq (local.get $c) (i32.const 84)) (then unreachable))
    (if (i32.eq (local.get $c) (i32.const 76)) (then (loop $l (br $l)))))

  ;; the attachment, else the message
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $r i32)
    (local.set $r (call $get (local.get $conn) (i32.const 8192) (i32.const 4096)))
    (if (i32.lt_s (local.get $r) (i32.const 0))
      (then (local.set $r (call $msg_read (i32.const 8192) (i32.const 4096)))))
    (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 8192) (local.get $r)))
    (i32.const 0))

  (func (export "on_ws_close") (param i64 i32 i32)
    (drop (call $log (i32.const 1) (i32.const 112) (i32.const 5)))))
