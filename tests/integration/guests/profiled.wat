;; What a profile is to find: a function that takes its time, and one that stores 300,000 bytes.
(module
  (import "weir_v1" "kv_set" (func $kv_set (param i32 i32 i32 i32 i64) (result i32)))
  (memory (export "memory") 6)
  (data (i32.const 0) "planted")
  (func $hot_loop (param $n i64) (result i64) (local $sum i64)
    (loop $again
      (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (local.get $n)))
      (local.set $n (i64.sub (local.get $n) (i64.const 1)))
      (br_if $again (i64.gt_s (local.get $n) (i64.const 0))))
    (local.get $sum))
  (func (export "spin") (param i64) (result i64) (call $hot_loop (local.get 0)))
  (func (export "plant") (result i32)
    (call $kv_set (i32.const 0) (i32.const 7) (i32.const 0) (i32.const 300000) (i64.const 0)))
  (func (export "pull") (result i32)
    (call $kv_set (i32.const 0) (i32.const 7) (i32.const 0) (i32.const 0) (i64.const -1))))
