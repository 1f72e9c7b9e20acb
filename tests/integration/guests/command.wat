;; A command: exec runs it, and reaches its functions only where told to.
(module
  (func (export "_start"))
  (func (export "f") (result i32) (i32.const 5)))
