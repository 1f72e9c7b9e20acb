;; Its data lies outside of its memory: no instance can be made.
(module
  (memory (export "memory") 1)
  (data (i32.const 65535) "xx")
  (func (export "on_http") (result i32) (i32.const 200)))
