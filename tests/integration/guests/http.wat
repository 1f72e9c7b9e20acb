;; An on_http guest: the first byte of the query says what to do.
(module
  (import "weir_v1" "req_get" (func $req_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "req_body" (func $req_body (param i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_status" (func $status (param i32) (result i32)))
  (import "weir_v1" "resp_header" (func $header (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $write (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $count (mut i32) (i32.const 0))
  (global $out (mut i32) (i32.const 2048))
  (data (i32.const 0) "X-Guest")
  (data (i32.const 16) "yes")
  (data (i32.const 32) "the body\n")
  (data (i32.const 48) "Content-Type")
  (data (i32.const 64) "text/x-guest")
  (data (i32.const 80) "dropped")
  (data (i32.const 96) "marked")
  (data (i32.const 112) "X-Result")
  (func $digits (param $v i32)
    (if (i32.ge_u (local.get $v) (i32.const 10))
      (then (call $digits (i32.div_u (local.get $v) (i32.const 10)))))
    (i32.store8 (global.get $out)
      (i32.add (i32.const 48) (i32.rem_u (local.get $v) (i32.const 10))))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  ;; appends v to the response in decimal, and a blank
  (func $say (param $v i32)
    (global.set $out (i32.const 2048))
    (if (i32.lt_s (local.get $v) (i32.const 0))
      (then
        (i32.store8 (global.get $out) (i32.const 45))
        (global.set $out (i32.add (global.get $out) (i32.const 1)))
        (local.set $v (i32.sub (i32.const 0) (local.get $v)))))
    (call $digits (local.get $v))
    (i32.store8 (global.get $out) (i32.const 32))
    (drop (call $write (i32.const 2048) (i32.sub (i32.add (global.get $out) (i32.const 1)) (i32.const 2048)))))
  ;; the decimal number at $p, up to $end
  (func $number (param $p i32) (param $end i32) (result i32)
    (local $v i32)
    (block $done (loop $l
      (br_if $done (i32.ge_u (local.get $p) (local.get $end)))
      (br_if $done (i32.gt_u (i32.sub (i32.load8_u (local.get $p)) (i32.const 48)) (i32.const 9)))
      (local.set $v (i32.add (i32.mul (local.get $v) (i32.const 10))
        (i32.sub (i32.load8_u (local.get $p)) (i32.const 48))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (br $l)))
    (local.get $v))
  (func $hex (param $c i32) (result i32)
    (if (result i32) (i32.le_u (local.get $c) (i32.const 57))
      (then (i32.sub (local.get $c) (i32.const 48)))
      (else (i32.sub (i32.or (local.get $c) (i32.const 32)) (i32.const 87)))))

  (func (export "on_http") (result i32)
    (local $n i32) (local $c i32) (local $r i32) (local $i i32) (local $end i32)
    (local.set $n (call $req_get (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 4096)))
    (local.set $end (i32.add (i32.const 4096) (local.get $n)))
    (local.set $c (i32.load8_u (i32.const 4096)))
    ;; s NNN: that status, a type, a field of its own and a body; its results before them
    (if (i32.eq (local.get $c) (i32.const 115)) (then
      (local.set $r (call $status (call $number (i32.const 4097) (local.get $end))))
      (drop (call $header (i32.const 48) (i32.const 12) (i32.const 64) (i32.const 12)))
      (drop (call $header (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 3)))
      (call $say (local.get $r))
      (drop (call $write (i32.const 32) (i32.const 9)))))
    ;; h HEX: resp_header with the name and value that lie in HEX, "name:value" in hex digits; the result
    (if (i32.eq (local.get $c) (i32.const 104)) (then
      (local.set $i (i32.const 0))
      (local.set $r (i32.const -1))
      (block $done (loop $l
        (br_if $done (i32.ge_u (i32.add (i32.const 4097) (i32.shl (local.get $i) (i32.const 1))) (local.get $end)))
        (i32.store8 (i32.add (i32.const 16384) (local.get $i)) (i32.or
          (i32.shl (call $hex (i32.load8_u (i32.add (i32.const 4097) (i32.shl (local.get $i) (i32.const 1))))) (i32.const 4))
          (call $hex (i32.load8_u (i32.add (i32.const 4098) (i32.shl (local.get $i) (i32.const 1)))))))
        (if (i32.and (i32.lt_s (local.get $r) (i32.const 0))
            (i32.eq (i32.load8_u (i32.add (i32.const 16384) (local.get $i))) (i32.const 58)))
          (then (local.set $r (local.get $i))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $l)))
      (call $say (call $header (i32.const 16384) (local.get $r)
        (i32.add (i32.const 16385) (local.get $r))
        (i32.sub (i32.sub (local.get $i) (local.get $r)) (i32.const 1))))))
    ;; r NNN: answers, then returns NNN all the same
    (if (i32.eq (local.get $c) (i32.const 114)) (then
      (drop (call $status (i32.const 201)))
      (drop (call $header (i32.const 0) (i32.const 7) (i32.const 16) (i32.const 3)))
      (drop (call $write (i32.const 80) (i32.const 7)))
      (return (call $number (i32.const 4097) (local.get $end)))))
    ;; g FIELD NAME: req_get, its result and what it wrote
    (if (i32.eq (local.get $c) (i32.const 103)) (then
      (local.set $r (call $req_get (i32.sub (i32.load8_u (i32.const 4097)) (i32.const 48))
        (i32.const 4098) (i32.sub (local.get $n) (i32.const 2)) (i32.const 16384) (i32.const 16384)))
      (call $say (local.get $r))
      (if (i32.gt_s (local.get $r) (i32.const 0))
        (then (drop (call $write (i32.const 16384) (local.get $r)))))))
    ;; k CAP: req_get of the path into CAP bytes over "marked"; its result and 6 bytes
    (if (i32.eq (local.get $c) (i32.const 107)) (then
      (memory.copy (i32.const 16384) (i32.const 96) (i32.const 6))
      (call $say (call $req_get (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 16384)
        (call $number (i32.const 4097) (local.get $end))))
      (drop (call $write (i32.const 16384) (i32.const 6)))))
    ;; b: the body, 7 bytes at a time
    (if (i32.eq (local.get $c) (i32.const 98)) (then
      (block $done (loop $l
        (local.set $r (call $req_body (local.get $i) (i32.const 16384) (i32.const 7)))
        (br_if $done (i32.le_s (local.get $r) (i32.const 0)))
        (drop (call $write (i32.const 16384) (local.get $r)))
        (local.set $i (i32.add (local.get $i) (local.get $r)))
        (br $l)))))
    ;; o OFFSET: req_body(OFFSET, 4 bytes): its result and what it wrote
    (if (i32.eq (local.get $c) (i32.const 111)) (then
      (local.set $r (call $req_body (call $number (i32.const 4097) (local.get $end)) (i32.const 16384) (i32.const 4)))
      (call $say (local.get $r))
      (if (i32.gt_s (local.get $r) (i32.const 0))
        (then (drop (call $write (i32.const 16384) (local.get $r)))))))
    ;; w N: N times 1000 bytes; how many were taken into X-Result, as one digit a refusal (last result, negated)
    (if (i32.eq (local.get $c) (i32.const 119)) (then
      (memory.fill (i32.const 16384) (i32.const 119) (i32.const 1000))
      (local.set $n (call $number (i32.const 4097) (local.get $end)))
      (block $done (loop $l
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $r (call $write (i32.const 16384) (i32.const 1000)))
        (br_if $done (i32.lt_s (local.get $r) (i32.const 0)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $l)))
      (i32.store8 (i32.const 16384) (i32.sub (i32.const 48) (local.get $r)))
      (drop (call $header (i32.const 112) (i32.const 8) (i32.const 16384) (i32.const 1)))))
    ;; i: a global and a byte of memory, each one more than before
    (if (i32.eq (local.get $c) (i32.const 105)) (then
      (global.set $count (i32.add (global.get $count) (i32.const 1)))
      (i32.store8 (i32.const 3000) (i32.add (i32.load8_u (i32.const 3000)) (i32.const 1)))
      (call $say (global.get $count))
      (call $say (i32.load8_u (i32.const 3000)))))
    ;; v: what is for WebSockets only
    (if (i32.eq (local.get $c) (i32.const 118)) (then
      (call $say (call $ws_send (i64.const 0) (i32.const 2) (i32.const 0) (i32.const 1)))
      (call $say (call $set (i32.const 0) (i32.const 1)))))
    ;; t: answers, traps; l: answers, never ends
    (if (i32.or (i32.eq (local.get $c) (i32.const 116)) (i32.eq (local.get $c) (i32.const 108))) (then
      (drop (call $status (i32.const 201)))
      (drop (call $write (i32.const 80) (i32.const 7)))))
    (if (i32.eq (local.get $c) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $c) (i32.const 108)) (then (loop $l (br $l))))
    ;; p N: a pointer outside of memory
    (if (i32.eq (local.get $c) (i32.const 112)) (then
      (local.set $n (call $number (i32.const 4097) (local.get $end)))
      (if (i32.eq (local.get $n) (i32.const 0)) (then (drop (call $write (i32.const 131070) (i32.const 3)))))
      (if (i32.eq (local.get $n) (i32.const 1)) (then (drop (call $req_body (i32.const 0) (i32.const 131070) (i32.const 3)))))
      (if (i32.eq (local.get $n) (i32.const 2)) (then (drop (call $header (i32.const 131070) (i32.const 3) (i32.const 0) (i32.const 1)))))
      (if (i32.eq (local.get $n) (i32.const 3)) (then (drop (call $header (i32.const 0) (i32.const 7) (i32.const 131070) (i32.const 3)))))
      (if (i32.eq (local.get $n) (i32.const 4)) (then (drop (call $req_get (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 131070) (i32.const 3)))))
      (if (i32.eq (local.get $n) (i32.const 5)) (then (drop (call $log (i32.const 1) (i32.const -1) (i32.const 1)))))))
    (i32.const 0)))
