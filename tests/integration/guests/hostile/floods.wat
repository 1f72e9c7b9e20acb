;; Asks for an effect $n times, whatever comes back. Each function of /api/exec returns how many
;; times it was told 0 or more, and what it was told last.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_close" (func $ws_close (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_buffered" (func $ws_buffered (param i64) (result i64)))
  (import "weir_v1" "ws_attachment_get" (func $get (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "ws_subscribe" (func $subscribe (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_unsubscribe" (func $unsubscribe (param i64 i32 i32) (result i32)))
  (import "weir_v1" "publish" (func $publish (param i32 i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "resp_write" (func $resp_write (param i32 i32) (result i32)))
  (import "weir_v1" "resp_header" (func $resp_header (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $kv_set (param i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "kv_get" (func $kv_get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "timer_set" (func $timer_set (param i64 i64) (result i64)))
  (import "weir_v1" "timer_cancel" (func $timer_cancel (param i64) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 8)
  (global $told (mut i32) (i32.const 0))
  (global $last (mut i32) (i32.const 0))
  (data (i32.const 0) "self")
  (data (i32.const 16) "stop")
  (data (i32.const 32) "X-Flood")
  (func $note (param $r i32) (result i32)
    (global.set $last (local.get $r))
    (if (i32.ge_s (local.get $r) (i32.const 0))
      (then (global.set $told (i32.add (global.get $told) (i32.const 1)))))
    (i32.const 1))
  (func $told (result i32 i32) (global.get $told) (global.get $last))

  (func (export "send") (param $conn i64) (param $n i32) (param $size i32) (result i32 i32)
    (loop $l
      (drop (call $note
        (call $ws_send (local.get $conn) (i32.const 2) (i32.const 65536) (local.get $size))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  (func (export "publish") (param $n i32) (param $size i32) (result i32 i32)
    (loop $l
      (drop (call $note (call $publish (i32.const 0) (i32.const 4) (i32.const 2) (i32.const 65536)
        (local.get $size) (i64.const 0))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  (func (export "log") (param $n i32) (param $size i32) (result i32 i32)
    (memory.fill (i32.const 65536) (i32.const 34) (local.get $size))
    (loop $l
      (drop (call $note (call $log (i32.const 1) (i32.const 65536) (local.get $size))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  ;; keys 0, 1, 2, ...
  (func (export "kv_set") (param $n i32) (param $size i32) (result i32 i32)
    (loop $l
      (i32.store (i32.const 1024) (local.get $n))
      (drop (call $note (call $kv_set (i32.const 1024) (i32.const 4) (i32.const 65536)
        (local.get $size) (i64.const 0))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  (func (export "kv_clear") (param $n i32) (result i32 i32)
    (loop $l
      (i32.store (i32.const 1024) (local.get $n))
      (drop (call $note
        (call $kv_set (i32.const 1024) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const -1))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  (func (export "timer_set") (param $ms i64) (param $n i32) (result i32 i32)
    (loop $l
      (drop (call $note (i32.wrap_i64 (call $timer_set (local.get $ms) (i64.const 0)))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))
  (func (export "cancel") (param $id i64) (result i32) (call $timer_cancel (local.get $id)))
  (func (export "subscribe") (param $conn i64) (result i32)
    (call $subscribe (local.get $conn) (i32.const 0) (i32.const 4)))
  ;; topics a, b, c, ...
  (func (export "subscribe_many") (param $conn i64) (param $n i32) (result i32 i32)
    (loop $l
      (i32.store8 (i32.const 1024) (i32.add (i32.const 32) (local.get $n)))
      (drop (call $note (call $subscribe (local.get $conn) (i32.const 1024) (i32.const 1))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (call $told))

  ;; all that names a connection, for one that may not be there: what each call returns
  (func (export "reach") (param $conn i64) (result i32 i32 i64 i32 i32 i32)
    (call $ws_send (local.get $conn) (i32.const 1) (i32.const 0) (i32.const 4))
    (call $ws_close (local.get $conn) (i32.const 4000) (i32.const 0) (i32.const 4))
    (call $ws_buffered (local.get $conn))
    (call $get (local.get $conn) (i32.const 2048) (i32.const 64))
    (call $subscribe (local.get $conn) (i32.const 0) (i32.const 4))
    (call $unsubscribe (local.get $conn) (i32.const 0) (i32.const 4)))

  ;; a timer whose event sets as many as there may be, until the key "stop" is there
  (func (export "bomb") (result i64) (call $timer_set (i64.const 0) (i64.const 1)))
  (func (export "defuse") (result i32)
    (call $kv_set (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 0) (i64.const 0)))
  (func $on_timer (export "on_timer") (param $cookie i64)
    (local $n i32)
    (if (i64.eqz (local.get $cookie)) (then (return)))
    (if (i32.eq (i32.const -4) (call $kv_get (i32.const 16) (i32.const 4) (i32.const 0) (i32.const 0)))
      (then
        (loop $l
          (br_if $l (i64.ge_s (call $timer_set (i64.const 0) (i64.const 1)) (i64.const 0))))
        (loop $spin
          (br_if $spin (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
            (i32.const 5000000)))))))

  ;; A: attaches 1 KiB 2000 times, closes with 4000 and how many times that was taken if the last
  ;; was not. Else: its own conn, 8 bytes
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $n i32)
    (drop (call $msg_read (i32.const 4096) (i32.const 4096)))
    (i64.store (i32.const 1024) (local.get $conn))
    (if (i32.eq (i32.load8_u (i32.const 4096)) (i32.const 65)) (then
      (local.set $n (i32.const 2000))
      (loop $l
        (drop (call $note (call $set (i32.const 65536) (i32.const 1024))))
        (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (return (select (i32.add (i32.const 4000) (global.get $told)) (i32.const 3000)
        (i32.eq (global.get $last) (i32.const -1))))))
    (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024) (i32.const 8)))
    (i32.const 0))
  ;; a body of 1,000 bytes again and again, then fields likewise
  (func (export "on_http") (result i32)
    (loop $l (br_if $l (i32.eqz (call $resp_write (i32.const 65536) (i32.const 1000)))))
    (loop $l (br_if $l (i32.eqz (call $resp_header (i32.const 32) (i32.const 7) (i32.const 32) (i32.const 7)))))
    (i32.const 0)))
