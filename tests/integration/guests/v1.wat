;; Runs a script: what a message or a request's body holds is one host call after the other, each a
;; letter and its arguments (bytes: their length in two bytes, then they themselves). What each
;; returned is the answer, 8 bytes a call. The script lies at 0x10000, the answer at 0x40000, what
;; is read at 0x80000.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_buffered" (func $ws_buffered (param i64) (result i64)))
  (import "weir_v1" "ws_subscribe" (func $subscribe (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_unsubscribe" (func $unsubscribe (param i64 i32 i32) (result i32)))
  (import "weir_v1" "publish" (func $publish (param i32 i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "topic_next" (func $topic_next (param i32 i32 i64) (result i64)))
  (import "weir_v1" "req_body" (func $req_body (param i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $resp_write (param i32 i32) (result i32)))
  (import "weir_v1" "kv_get" (func $kv_get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $kv_set (param i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "timer_set" (func $timer_set (param i64 i64) (result i64)))
  (import "weir_v1" "timer_cancel" (func $timer_cancel (param i64) (result i32)))
  (import "weir_v1" "now_ms" (func $now_ms (result i64)))
  (import "weir_v1" "random" (func $random (param i32 i32) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 16)
  (table $table 1 funcref)
  (global $at (mut i32) (i32.const 0))      ;; in the script
  (global $out (mut i32) (i32.const 0x40000)) ;; the end of the answer
  (global $p (mut i32) (i32.const 0))       ;; bytes: where they are and how many
  (global $n (mut i32) (i32.const 0))
  (global $quiet (mut i32) (i32.const 0))
  (data (i32.const 0) "closing")
  (data (i32.const 16) "drains")
  (data (i32.const 32) "timers")
  (data (i32.const 48) "exec")
  (data (i32.const 64) "shakes")

  (func $u16 (result i32)
    (global.set $at (i32.add (global.get $at) (i32.const 2)))
    (i32.load16_u (i32.sub (global.get $at) (i32.const 2))))
  (func $u32 (result i32)
    (global.set $at (i32.add (global.get $at) (i32.const 4)))
    (i32.load (i32.sub (global.get $at) (i32.const 4))))
  (func $u64 (result i64)
    (global.set $at (i32.add (global.get $at) (i32.const 8)))
    (i64.load (i32.sub (global.get $at) (i32.const 8))))
  (func $bytes
    (global.set $n (call $u16))
    (global.set $p (global.get $at))
    (global.set $at (i32.add (global.get $at) (global.get $n))))
  (func $say (param $v i64)
    (i64.store (global.get $out) (local.get $v))
    (global.set $out (i32.add (global.get $out) (i32.const 8))))
  (func $say32 (param $v i32)
    (call $say (i64.extend_i32_s (local.get $v))))
  ;; what was read, and no more than there was room for
  (func $say_read (param $r i32) (param $cap i32)
    (call $say32 (local.get $r))
    (if (i32.and (i32.ge_s (local.get $r) (i32.const 0)) (i32.le_s (local.get $r) (local.get $cap)))
      (then
        (memory.copy (global.get $out) (i32.const 0x80000) (local.get $r))
        (global.set $out (i32.add (global.get $out) (local.get $r))))))
  (func $spin (param $n i32)
    (loop $l
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $l (local.get $n))))
  (func $calls (param $n i32)
    (loop $l
      (drop (call $now_ms))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $l (local.get $n))))

  (func $one (param $conn i64)
    (local $c i32) (local $p i32) (local $n i32) (local $v i32) (local $cap i32)
    (local.set $c (i32.load8_u (global.get $at)))
    (global.set $at (i32.add (global.get $at) (i32.const 1)))
    ;; I: the event's own connection
    (if (i32.eq (local.get $c) (i32.const 73)) (then (call $say (local.get $conn))))
    ;; Q: no answer but what is published
    (if (i32.eq (local.get $c) (i32.const 81)) (then (global.set $quiet (i32.const 1))))
    ;; X: traps
    (if (i32.eq (local.get $c) (i32.const 88)) (then unreachable))
    ;; Z N: counts
    (if (i32.eq (local.get $c) (i32.const 90)) (then (call $spin (call $u32))))
    ;; C N: so many host calls
    (if (i32.eq (local.get $c) (i32.const 67)) (then (call $calls (call $u32))))
    ;; L N: table.grow
    (if (i32.eq (local.get $c) (i32.const 76)) (then
      (call $say32 (table.grow $table (ref.null func) (call $u32)))))
    ;; S CONN TOPIC, U CONN TOPIC
    (if (i32.eq (local.get $c) (i32.const 83)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $bytes)
      (call $say32 (call $subscribe (i64.load (i32.const 128)) (global.get $p) (global.get $n)))))
    (if (i32.eq (local.get $c) (i32.const 85)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $bytes)
      (call $say32 (call $unsubscribe (i64.load (i32.const 128)) (global.get $p) (global.get $n)))))
    ;; P KIND(4) EXCEPT TOPIC DATA
    (if (i32.eq (local.get $c) (i32.const 80)) (then
      (local.set $v (call $u32))
      (i64.store (i32.const 128) (call $u64))
      (call $bytes)
      (local.set $p (global.get $p))
      (local.set $n (global.get $n))
      (call $bytes)
      (call $say32 (call $publish (local.get $p) (local.get $n) (local.get $v) (global.get $p)
        (global.get $n) (i64.load (i32.const 128))))))
    ;; N CURSOR TOPIC: topic_next
    (if (i32.eq (local.get $c) (i32.const 78)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $bytes)
      (call $say (call $topic_next (global.get $p) (global.get $n) (i64.load (i32.const 128))))))
    ;; G CAP(4) KEY: kv_get; its result, then the value
    (if (i32.eq (local.get $c) (i32.const 71)) (then
      (local.set $cap (call $u32))
      (call $bytes)
      (call $say_read (call $kv_get (global.get $p) (global.get $n) (i32.const 0x80000)
        (local.get $cap)) (local.get $cap))))
    ;; K TTL KEY VALUE
    (if (i32.eq (local.get $c) (i32.const 75)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $bytes)
      (local.set $p (global.get $p))
      (local.set $n (global.get $n))
      (call $bytes)
      (call $say32 (call $kv_set (local.get $p) (local.get $n) (global.get $p) (global.get $n)
        (i64.load (i32.const 128))))))
    ;; T MS COOKIE, t ID
    (if (i32.eq (local.get $c) (i32.const 84)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $say (call $timer_set (i64.load (i32.const 128)) (call $u64)))))
    (if (i32.eq (local.get $c) (i32.const 116)) (then
      (call $say32 (call $timer_cancel (call $u64)))))
    ;; n: now_ms
    (if (i32.eq (local.get $c) (i32.const 110)) (then (call $say (call $now_ms))))
    ;; R N: random; its result, then N bytes
    (if (i32.eq (local.get $c) (i32.const 82)) (then
      (local.set $cap (call $u32))
      (call $say_read (call $random (i32.const 0x80000) (local.get $cap)) (local.get $cap))))
    ;; B CONN: ws_buffered
    (if (i32.eq (local.get $c) (i32.const 66)) (then (call $say (call $ws_buffered (call $u64)))))
    ;; W CONN N(4): ws_send of N zeroes, binary
    (if (i32.eq (local.get $c) (i32.const 87)) (then
      (i64.store (i32.const 128) (call $u64))
      (call $say32 (call $ws_send (i64.load (i32.const 128)) (i32.const 2) (i32.const 0x90000)
        (call $u32))))))

  (func $run (param $conn i64) (param $len i32)
    (global.set $at (i32.const 0x10000))
    (block $done (loop $l
      (br_if $done (i32.ge_u (global.get $at) (i32.add (i32.const 0x10000) (local.get $len))))
      (call $one (local.get $conn))
      (br $l))))
  (func $answer_n (result i32) (i32.sub (global.get $out) (i32.const 0x40000)))

  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (drop (call $msg_read (i32.const 0x10000) (i32.const 0x30000)))
    (call $run (local.get $conn) (local.get $len))
    (if (i32.eqz (global.get $quiet)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 0x40000) (call $answer_n)))))
    (i32.const 0))
  (func (export "on_http") (result i32)
    (call $run (i64.const 0) (call $req_body (i32.const 0) (i32.const 0x10000) (i32.const 0x30000)))
    (drop (call $resp_write (i32.const 0x40000) (call $answer_n)))
    (i32.const 0))

  ;; Each of these tells a topic of its own which connection or cookie it is about.
  (func $tell (param $topic i32) (param $n i32) (param $v i64)
    (i64.store (i32.const 256) (local.get $v))
    (drop (call $publish (local.get $topic) (local.get $n) (i32.const 2) (i32.const 256)
      (i32.const 8) (i64.const 0))))
  (func (export "on_ws_handshake") (param $conn i64) (result i32)
    (call $tell (i32.const 64) (i32.const 6) (local.get $conn))
    (i32.const 0))
  (func (export "on_ws_close") (param $conn i64) (param $code i32) (param $clean i32)
    (call $tell (i32.const 0) (i32.const 7) (local.get $conn)))
  (func (export "on_ws_drain") (param $conn i64)
    (call $tell (i32.const 16) (i32.const 6) (local.get $conn)))
  ;; cookie -1 traps; below 0 another time, it counts as often
  (func (export "on_timer") (param $cookie i64)
    (call $tell (i32.const 32) (i32.const 6) (local.get $cookie))
    (if (i64.eq (local.get $cookie) (i64.const -1)) (then unreachable))
    (if (i64.lt_s (local.get $cookie) (i64.const 0))
      (then (call $spin (i32.wrap_i64 (i64.sub (i64.const 0) (local.get $cookie)))))))
  (func (export "tell") (param $v i32) (result i32)
    (call $tell (i32.const 48) (i32.const 4) (i64.extend_i32_s (local.get $v)))
    (local.get $v)))
