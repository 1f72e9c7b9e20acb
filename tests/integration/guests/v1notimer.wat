;; Sets a timer, though it exports no on_timer: what that returned is its response.
(module
  (import "weir_v1" "timer_set" (func $timer_set (param i64 i64) (result i64)))
  (import "weir_v1" "resp_write" (func $write (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "on_http") (result i32)
    (i64.store (i32.const 0) (call $timer_set (i64.const 0) (i64.const 0)))
    (drop (call $write (i32.const 0) (i32.const 8)))
    (i32.const 0)))
