;; A WebSocket guest that hears no message.
(module
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "on_ws_open") (param i64)))
