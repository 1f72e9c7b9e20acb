;; _initialize traps: no instance can be made.
(module
  (func $boom (export "_initialize") unreachable)
  (func (export "f") (result i32) (i32.const 5)))
