;; Answers HTTP and has a function too: exec reaches it with exec: yes only.
(module
  (func (export "on_http") (result i32) (i32.const 204))
  (func (export "f") (result i32) (i32.const 5)))
