;; A guest that leaks (instance: module): of each message it keeps 2 KiB that it never frees, and echoes it. Where no more memory
;; is to be had it traps, as an allocator that fails does.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $top (mut i32) (i32.const 4096))
  (func $session_new
    (if (i32.gt_u (i32.add (global.get $top) (i32.const 2048)) (i32.shl (memory.size) (i32.const 16)))
      (then (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))))
    (memory.fill (global.get $top) (i32.const 0x55) (i32.const 2048))
    (global.set $top (i32.add (global.get $top) (i32.const 2048))))
  (func $on_ws_message (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (call $session_new)
    (drop (call $msg_read (i32.const 0) (i32.const 4096)))
    (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 0) (local.get $len)))
    (i32.const 0)))
