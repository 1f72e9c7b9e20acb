;; A WebSocket guest that does what the first byte of a message says, and tells what came back.
;; The message lies at 4096; "reply R" sends R as 4 bytes, little endian, binary.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_close" (func $ws_close (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_get" (func $get (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "req_get" (func $req_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_status" (func $resp_status (param i32) (result i32)))
  (import "weir_v1" "resp_header" (func $resp_header (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (global $count (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 2048))
  (data (i32.const 0) "close code=")
  (data (i32.const 16) " clean=")
  (data (i32.const 32) " attached=")
  (data (i32.const 64) "marked")

  ;; text at $out
  (func $put (param $p i32) (param $n i32)
    (memory.copy (global.get $out) (local.get $p) (local.get $n))
    (global.set $out (i32.add (global.get $out) (local.get $n))))
  (func $digits (param $v i32)
    (if (i32.ge_u (local.get $v) (i32.const 10))
      (then (call $digits (i32.div_u (local.get $v) (i32.const 10)))))
    (i32.store8 (global.get $out)
      (i32.add (i32.const 48) (i32.rem_u (local.get $v) (i32.const 10))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $decimal (param $v i32)
    (if (i32.lt_s (local.get $v) (i32.const 0))
      (then
        (i32.store8 (global.get $out) (i32.const 45))
        (global.set $out (i32.add (global.get $out) (i32.const 1)))
        (local.set $v (i32.sub (i32.const 0) (local.get $v)))))
    (call $digits (local.get $v)))

  ;; "close code=1000 clean=1 attached=3", where the last is what ws_attachment_get returns
  (func (export "on_ws_close") (param $conn i64) (param $code i32) (param $clean i32)
    (call $put (i32.const 0) (i32.const 11))
    (call $decimal (local.get $code))
    (call $put (i32.const 16) (i32.const 7))
    (call $decimal (local.get $clean))
    (call $put (i32.const 32) (i32.const 10))
    (call $decimal (call $get (local.get $conn) (i32.const 4096) (i32.const 20000)))
    (drop (call $log (i32.const 1) (i32.const 2048)
      (i32.sub (global.get $out) (i32.const 2048)))))

  (func $reply (param $conn i64) (param $r i32)
    (i32.store (i32.const 1024) (local.get $r))
    (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024) (i32.const 4))))

  (func $spin (param $n i32)
    (loop $l
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $l (i32.gt_u (local.get $n) (i32.const 0)))))

  ;; a pointer just outside of memory, for the host function that $which names
  (func $outside (param $conn i64) (param $which i32)
    (local $end i32)
    (local.set $end (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 3)))
    (if (i32.eq (local.get $which) (i32.const 0))
      (then (drop (call $msg_read (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 1))
      (then (drop (call $ws_send (local.get $conn) (i32.const 2) (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 2))
      (then (drop (call $ws_close (local.get $conn) (i32.const 1000) (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 3))
      (then (drop (call $get (local.get $conn) (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 4))
      (then (drop (call $set (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 5))
      (then (drop (call $req_get (i32.const 3) (local.get $end) (i32.const 4) (i32.const 0) (i32.const 0)))))
    (if (i32.eq (local.get $which) (i32.const 6))
      (then (drop (call $req_get (i32.const 1) (i32.const 0) (i32.const 0) (local.get $end) (i32.const 4)))))
    (if (i32.eq (local.get $which) (i32.const 7))
      (then (drop (call $log (i32.const 1) (local.get $end) (i32.const 4)))))
    ;; far outside: the sum of pointer and length wraps around in 32 bits
    (if (i32.eq (local.get $which) (i32.const 8))
      (then (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 0xfffffff0) (i32.const 32)))))
    (if (i32.eq (local.get $which) (i32.const 9))
      (then (drop (call $msg_read (i32.const 0) (i32.const 0xffffffff)))))
    ;; the last bytes inside are no error
    (if (i32.eq (local.get $which) (i32.const 10))
      (then (drop (call $ws_send (local.get $conn) (i32.const 2)
        (i32.sub (local.get $end) (i32.const 1)) (i32.const 4))))))

  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $c i32) (local $p i32) (local $n i32) (local $r i32) (local $i i32)
    (local.set $r (call $msg_read (i32.const 4096) (i32.const 200000)))
    (local.set $c (i32.load8_u (i32.const 4096)))
    ;; e DATA: DATA, in the kind it came in
    (if (i32.eq (local.get $c) (i32.const 101)) (then
      (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 4097)
        (i32.sub (local.get $len) (i32.const 1))))))
    ;; I: its own conn, 8 bytes
    (if (i32.eq (local.get $c) (i32.const 73)) (then
      (i64.store (i32.const 1024) (local.get $conn))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024) (i32.const 8)))))
    ;; K: kind, len and what msg_read returned, 4 bytes each
    (if (i32.eq (local.get $c) (i32.const 75)) (then
      (i32.store (i32.const 1024) (local.get $kind))
      (i32.store (i32.const 1028) (local.get $len))
      (i32.store (i32.const 1032) (local.get $r))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024) (i32.const 12)))))
    ;; S CONN KIND(4) DATA: ws_send; reply
    (if (i32.eq (local.get $c) (i32.const 83)) (then
      (call $reply (local.get $conn) (call $ws_send (i64.load (i32.const 4097))
        (i32.load (i32.const 4105)) (i32.const 4109) (i32.sub (local.get $len) (i32.const 13))))))
    ;; C CONN CODE(4) REASON: ws_close; reply
    (if (i32.eq (local.get $c) (i32.const 67)) (then
      (call $reply (local.get $conn) (call $ws_close (i64.load (i32.const 4097))
        (i32.load (i32.const 4105)) (i32.const 4109) (i32.sub (local.get $len) (i32.const 13))))))
    ;; D CODE(4) DATA: sends DATA, closes with CODE and DATA as the reason, sends again
    (if (i32.eq (local.get $c) (i32.const 68)) (then
      (local.set $n (i32.sub (local.get $len) (i32.const 5)))
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 4101) (local.get $n)))
      (drop (call $ws_close (local.get $conn) (i32.load (i32.const 4097)) (i32.const 4101) (local.get $n)))
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 4101) (local.get $n)))))
    ;; A DATA: ws_attachment_set; reply
    (if (i32.eq (local.get $c) (i32.const 65)) (then
      (call $reply (local.get $conn)
        (call $set (i32.const 4097) (i32.sub (local.get $len) (i32.const 1))))))
    ;; a CONN CAP(4): ws_attachment_get into CAP bytes over "marked"; reply, then what lies there
    (if (i32.eq (local.get $c) (i32.const 97)) (then
      (local.set $n (i32.load (i32.const 4105)))
      (memory.copy (i32.const 131072) (i32.const 64) (i32.const 6))
      (local.set $r (call $get (i64.load (i32.const 4097)) (i32.const 131072) (local.get $n)))
      (call $reply (local.get $conn) (local.get $r))
      (if (i32.or (i32.lt_s (local.get $r) (i32.const 0)) (i32.gt_u (local.get $r) (local.get $n)))
        (then (local.set $r (i32.const 6))))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 131072) (local.get $r)))))
    ;; r DATA: sets DATA, reads it back within the event
    (if (i32.eq (local.get $c) (i32.const 114)) (then
      (drop (call $set (i32.const 4097) (i32.sub (local.get $len) (i32.const 1))))
      (local.set $r (call $get (local.get $conn) (i32.const 131072) (i32.const 60000)))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 131072) (local.get $r)))))
    ;; m CAP(4): msg_read into CAP bytes over "marked"; reply, then 6 bytes of what lies there
    (if (i32.eq (local.get $c) (i32.const 109)) (then
      (memory.copy (i32.const 131072) (i32.const 64) (i32.const 6))
      (call $reply (local.get $conn) (call $msg_read (i32.const 131072) (i32.load (i32.const 4097))))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 131072) (i32.const 6)))))
    ;; T DATA: sends it, attaches it, traps
    (if (i32.eq (local.get $c) (i32.const 84)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 4097)
        (i32.sub (local.get $len) (i32.const 1))))
      (drop (call $set (i32.const 4097) (i32.sub (local.get $len) (i32.const 1))))
      unreachable))
    ;; X CONN DATA: sends DATA to CONN, traps
    (if (i32.eq (local.get $c) (i32.const 88)) (then
      (drop (call $ws_send (i64.load (i32.const 4097)) (i32.const 2) (i32.const 4105)
        (i32.sub (local.get $len) (i32.const 9))))
      unreachable))
    ;; L DATA: sends it, never ends
    (if (i32.eq (local.get $c) (i32.const 76)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 4097)
        (i32.sub (local.get $len) (i32.const 1))))
      (loop $l (br $l))))
    ;; N COUNT(4) DATA: counts, then sends DATA in its kind
    (if (i32.eq (local.get $c) (i32.const 78)) (then
      (call $spin (i32.load (i32.const 4097)))
      (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 4101)
        (i32.sub (local.get $len) (i32.const 5))))))
    ;; Z COUNT(4) DATA: sends DATA in its kind, then counts
    (if (i32.eq (local.get $c) (i32.const 90)) (then
      (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 4101)
        (i32.sub (local.get $len) (i32.const 5))))
      (call $spin (i32.load (i32.const 4097)))))
    ;; R CODE(4) DATA: sends DATA as text, returns CODE
    (if (i32.eq (local.get $c) (i32.const 82)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 4101)
        (i32.sub (local.get $len) (i32.const 5))))
      (return (i32.load (i32.const 4097)))))
    ;; G: a global and a byte of memory, each one more than before
    (if (i32.eq (local.get $c) (i32.const 71)) (then
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store8 (i32.const 3000) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1)))
      (i32.store8 (i32.const 1024) (global.get $count))
      (i32.store8 (i32.const 1025) (i32.load8_u (i32.const 3000)))
      (i32.store8 (i32.const 1026) (i32.load8_u (i32.const 200000)))
      (i32.store8 (i32.const 200000) (i32.const 99))
      (i32.store8 (i32.const 1027) (i32.ne (memory.size) (i32.const 4)))
      (drop (memory.grow (i32.const 1)))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024) (i32.const 4)))))
    ;; P WHICH(1): a pointer outside
    (if (i32.eq (local.get $c) (i32.const 80)) (then
      (drop (call $ws_send (local.get $conn) (i32.const 1) (i32.const 64) (i32.const 6)))
      (call $outside (local.get $conn) (i32.load8_u (i32.const 4097)))))
    ;; l LEVEL(1) TEXT: logs, and says so
    (if (i32.eq (local.get $c) (i32.const 108)) (then
      (call $reply (local.get $conn) (call $log (i32.load8_u (i32.const 4097)) (i32.const 4098)
        (i32.sub (local.get $len) (i32.const 2))))))
    ;; Q FIELD(1): req_get, resp_status and resp_header where there is no request; three replies
    (if (i32.eq (local.get $c) (i32.const 81)) (then
      (call $reply (local.get $conn) (call $req_get (i32.load8_u (i32.const 4097))
        (i32.const 0) (i32.const 0) (i32.const 131072) (i32.const 1000)))
      (call $reply (local.get $conn) (call $resp_status (i32.const 200)))
      (call $reply (local.get $conn)
        (call $resp_header (i32.const 64) (i32.const 6) (i32.const 64) (i32.const 6)))))
    ;; B N(4) SIZE(4): N messages of SIZE bytes, then what ws_send returned for each, 4 bytes a value
    (if (i32.eq (local.get $c) (i32.const 66)) (then
      (local.set $n (i32.load (i32.const 4097)))
      (local.set $p (i32.load (i32.const 4101)))
      (block $done (loop $l
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (i32.store (i32.add (i32.const 1024) (i32.shl (local.get $i) (i32.const 2)))
          (call $ws_send (local.get $conn) (i32.const 2) (i32.const 131072) (local.get $p)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $l)))
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 1024)
        (i32.shl (local.get $n) (i32.const 2))))))
    (i32.const 0)))
