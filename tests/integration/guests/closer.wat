;; on_ws_close fails: traps after a peer's 1000, never ends after any other code.
(module
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "closing")
  (func (export "on_ws_message") (param i64 i32 i32) (result i32) (i32.const 0))
  (func $gone (export "on_ws_close") (param i64 i32 i32)
    (drop (call $log (i32.const 1) (i32.const 0) (i32.const 7)))
    (if (i32.eq (local.get 1) (i32.const 1000)) (then unreachable))
    (loop $l (br $l))))
