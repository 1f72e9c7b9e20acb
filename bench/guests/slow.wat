;; A guest that takes long: some 15 ms for each byte of a message, which it then echoes.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $crunch (param $rounds i64) (result i64)
    (local $x i64)
    (loop $l
      (local.set $x (i64.rotl (i64.mul (i64.xor (local.get $x) (local.get $rounds)) (i64.const 0x9e3779b97f4a7c15)) (i64.const 31)))
      (br_if $l (i64.ne (local.tee $rounds (i64.sub (local.get $rounds) (i64.const 1))) (i64.const 0))))
    (local.get $x))
  (func $on_ws_message (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (i64.store (i32.const 0) (call $crunch (i64.mul (i64.extend_i32_u (local.get $len)) (i64.const 8000000))))
    (drop (call $msg_read (i32.const 8) (i32.const 4096)))
    (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 8) (local.get $len)))
    (i32.const 0)))
