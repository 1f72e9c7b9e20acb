;; Misbehaves in its start function, in each instance, in the way that the query's first byte says: s spins,
;; t traps, r recurses, h calls the host without end.
(module
  (import "weir_v1" "req_get" (func $req_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $resp_write (param i32 i32) (result i32)))
  (import "weir_v1" "now_ms" (func $now_ms (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 1024) "well")
  (func $spin (loop $l (br $l)))
  (func $recurse (result i32) (i32.add (i32.const 1) (call $recurse)))
  (func $calls (loop $l (drop (call $now_ms)) (br $l)))
  (func $init
    (local $how i32)
    (drop (call $req_get (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 8)))
    (local.set $how (i32.load8_u (i32.const 16)))
    (if (i32.eq (local.get $how) (i32.const 115)) (then (call $spin)))
    (if (i32.eq (local.get $how) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $how) (i32.const 114)) (then (drop (call $recurse))))
    (if (i32.eq (local.get $how) (i32.const 104)) (then (call $calls))))
  (start $init)
  (func (export "on_http") (result i32)
    (drop (call $resp_write (i32.const 1024) (i32.const 4)))
    (i32.const 0)))
