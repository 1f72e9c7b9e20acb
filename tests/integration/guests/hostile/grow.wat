;; For /api/exec: takes all that it can get, or misuses its stack.
(module
  (memory 1)
  (table $t 1 funcref)
  ;; grows memory by a page until it can't, and writes to each; returns the pages
  (func (export "memory") (result i32)
    (local $at i32)
    (loop $l
      (if (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0))
        (then
          (local.set $at (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536)))
          (memory.fill (local.get $at) (i32.const 0xa5) (i32.const 65536))
          (br $l))))
    (memory.size))
  ;; all at once: more than there can be; -1
  (func (export "memory_at_once") (result i32) (memory.grow (i32.const 0xffff)))
  (func $f (export "itself"))
  ;; grows the table by doubling, then one by one, until it can't; returns its elements
  (func (export "table") (result i32)
    (loop $l
      (br_if $l (i32.ge_s (table.grow $t (ref.func $f) (table.size $t)) (i32.const 0))))
    (loop $l
      (br_if $l (i32.ge_s (table.grow $t (ref.func $f) (i32.const 1)) (i32.const 0))))
    (table.size $t))
  (func (export "table_at_once") (result i32)
    (table.grow $t (ref.func $f) (i32.const 0x7fffffff)))
  ;; recursion through the table, with frames of 1 KiB
  (type $wide (func (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)))
  (elem (i32.const 0) func $deep)
  (func $deep (type $wide)
    (i64.add
      (i64.mul (local.get 0) (call_indirect $t (type $wide)
        (i64.add (local.get 0) (i64.const 1)) (local.get 1) (local.get 2) (local.get 3)
        (local.get 4) (local.get 5) (local.get 6) (local.get 7) (i32.const 0)))
      (i64.add (local.get 1) (i64.add (local.get 2) (i64.add (local.get 3)
        (i64.add (local.get 4) (i64.add (local.get 5) (i64.add (local.get 6) (local.get 7)))))))))
  (func $deeper (export "deeper") (result i64)
    (call $deep (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4) (i64.const 5) (i64.const 6)
      (i64.const 7) (i64.const 8))))
