;; Accepts every handshake, after a while.
(module
  (func (export "on_ws_handshake") (param i64) (result i32)
    (local $n i32)
    (local.set $n (i32.const 600000000))
    (loop $l
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $l (local.get $n)))
    (i32.const 0))
  (func (export "on_ws_message") (param i64 i32 i32) (result i32) (i32.const 0)))
