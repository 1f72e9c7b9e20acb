;; An HTTP response from a guest.
(module
  (import "weir_v1" "resp_header" (func $header (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $write (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "Content-Type")
  (data (i32.const 16) "text/plain")
  (data (i32.const 32) "hello from a guest\n")
  (func (export "on_http") (result i32)
    (drop (call $header (i32.const 0) (i32.const 12) (i32.const 16) (i32.const 10)))
    (drop (call $write (i32.const 32) (i32.const 19)))
    (i32.const 0)))
