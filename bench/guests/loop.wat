;; A hostile guest: never returns. Only its deadline can end it.
(module
  (func (export "loop")
    (loop $again
      (br $again))))
