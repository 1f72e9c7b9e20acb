;; Initialisation takes more than the deadline of 50 ms that an event has, so that a function can
;; only answer where it did not run in the instance. It counts itself, writes a data segment's
;; memory, grows it, and reads the environment.
(module
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global $count (mut i32) (i32.const 40))
  (data (i32.const 8) "\05")
  (func $start (global.set $count (i32.add (global.get $count) (i32.const 1))))
  (start $start)
  (func (export "_initialize") (local $n i32)
    (loop $again
      (br_if $again (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1)))
                              (i32.const 400000000))))
    (drop (memory.grow (i32.const 1)))
    (i32.store8 (i32.const 8) (i32.add (i32.load8_u (i32.const 8)) (i32.const 1)))
    (drop (call $sizes (i32.const 16) (i32.const 20)))
    (drop (call $environ (i32.const 24) (i32.const 32)))
    (global.set $count (i32.add (global.get $count) (i32.const 1))))
  (func (export "wizer_initialize")
    (global.set $count (i32.add (global.get $count) (i32.const 100))))
  (func (export "count") (result i32) (global.get $count))
  (func (export "byte") (result i32) (i32.load8_u (i32.const 8)))
  (func (export "pages") (result i32) (memory.size))
  (func (export "boom") (result i32) (unreachable))
  (func (export "env") (result i32) (i32.load8_u (i32.const 34))))
