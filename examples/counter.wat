;; Answers each message with one byte: how many this connection has sent. The count lives in the
;; connection's attachment, as the instance is new for every message.
(module
  (import "weir_v1" "ws_attachment_get" (func $get (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "on_ws_message") (param $conn i64) (param i32 i32) (result i32)
    (drop (call $get (local.get $conn) (i32.const 0) (i32.const 1)))
    (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.const 1)))
    (drop (call $set (i32.const 0) (i32.const 1)))
    (drop (call $send (local.get $conn) (i32.const 2) (i32.const 0) (i32.const 1)))
    (i32.const 0)))
