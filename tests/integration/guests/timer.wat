;; Its only on_ export is on_timer.
(module
  (func (export "on_timer") (param i64))
  (func (export "f") (result i32) (i32.const 5)))
