;; A guest that takes much: of each message it makes half a millisecond of work and 16 answers of 1 KiB.
(module
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $encode (param $rounds i32)
    (loop $l
      (i32.store (i32.and (local.get $rounds) (i32.const 0x3fc)) (i32.mul (local.get $rounds) (i32.const 0x9e3779b1)))
      (br_if $l (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1))))))
  (func $on_ws_message (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $i i32)
    (call $encode (i32.const 500000))
    (loop $l
      (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 0) (i32.const 1024)))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 16))))
    (i32.const 0)))
