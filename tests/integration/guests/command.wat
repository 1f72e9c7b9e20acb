;; A command: exec does not reach it unless told to.
(module
  (func (export "_start"))
  (func (export "f") (result i32) (i32.const 5)))
