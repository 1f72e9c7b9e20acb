;; A hostile guest: fills its whole memory over and over. A bulk instruction cannot be interrupted,
;; so each one keeps the loop for as long as 4 MiB take; the deadline can only bite between two.
(module
  (memory (export "memory") 64 64)
  (func (export "fill")
    (loop $again
      (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const 0x400000))
      (br $again))))
