;; Counts its calls.
(module
  (memory 1)
  (func (export "count") (result i32)
    (i32.store (i32.const 64) (i32.add (i32.load (i32.const 64)) (i32.const 1)))
    (i32.load (i32.const 64)))
  (func (export "trap") unreachable)
  (func (export "endless") (loop $l (br $l))))
