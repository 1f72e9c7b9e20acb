;; Needs 6.25 MiB: more than the 4 MiB that a module has by default.
(module
  (memory (export "memory") 100)
  (func (export "on_ws_message") (param i64 i32 i32) (result i32) (i32.const 0))
  (func (export "f") (result i32) (i32.const 5)))
