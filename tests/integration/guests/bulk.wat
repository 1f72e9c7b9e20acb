;; Hands much text to the host in one call. A message is a letter, SIZE(4) and PREFIX(4); the text
;; is SIZE bytes: PREFIX times "x", then 3,000 times U+20AC, then zeros. The answer is what the host
;; returned, 4 bytes.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 4112)
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $size i32) (local $p i32) (local $end i32)
    (drop (call $msg_read (i32.const 0) (i32.const 9)))
    (local.set $size (i32.load (i32.const 1)))
    (local.set $p (i32.add (i32.const 65536) (i32.load (i32.const 5))))
    (memory.fill (i32.const 65536) (i32.const 120) (i32.load (i32.const 5)))
    (local.set $end (i32.add (local.get $p) (i32.const 9000)))
    (loop $l
      (i32.store16 (local.get $p) (i32.const 0x82e2))
      (i32.store8 offset=2 (local.get $p) (i32.const 0xac))
      (local.set $p (i32.add (local.get $p) (i32.const 3)))
      (br_if $l (i32.lt_u (local.get $p) (local.get $end))))
    ;; s: ws_send as text; l: log
    (if (i32.eq (i32.load8_u (i32.const 0)) (i32.const 115))
      (then (i32.store (i32.const 16)
        (call $ws_send (local.get $conn) (i32.const 1) (i32.const 65536) (local.get $size))))
      (else (i32.store (i32.const 16)
        (call $log (i32.const 1) (i32.const 65536) (local.get $size)))))
    (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 16) (i32.const 4)))
    (i32.const 0)))
