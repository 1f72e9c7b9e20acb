;; One function with another name than any module's: the default, as it is the only one.
(module
  (func (export "_initialize"))
  (memory (export "memory") 1)
  (global (export "g") i32 (i32.const 1))
  (func (export "lonely") (result i32) (i32.const 11)))
