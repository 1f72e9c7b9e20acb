;; Sends every message back to its own connection.
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (drop (call $msg_read (i32.const 0) (local.get $len)))
    ;; 1009, message too big, where the send queue does not take it
    (if (result i32)
        (i32.lt_s (call $ws_send (local.get $conn) (local.get $kind) (i32.const 0) (local.get $len))
                  (i32.const 0))
      (then (i32.const 1009)) (else (i32.const 0)))))
