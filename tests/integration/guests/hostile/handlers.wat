;; Misbehaves in the export that the request or message names, in the way that its second byte says
;; (see $act). What is to happen in a later event of the connection is attached to it.
;;   query HX    in on_http          query SX   in on_ws_handshake    query OX   in on_ws_open
;;   query TX    in on_timer, at once
;;   message MX  in on_ws_message    DX  in on_ws_drain               CX  in on_ws_close
;;   message B   sends 6 times 8 KiB, and does not look at what came of it
;;   message ... anything else comes back
(module
  (import "weir_v1" "msg_read" (func $msg_read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $ws_send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_get" (func $get (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $set (param i32 i32) (result i32)))
  (import "weir_v1" "req_get" (func $req_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "resp_write" (func $resp_write (param i32 i32) (result i32)))
  (import "weir_v1" "timer_set" (func $timer_set (param i64 i64) (result i64)))
  (import "weir_v1" "now_ms" (func $now_ms (result i64)))
  (memory (export "memory") 64 64)
  (table 4 funcref)
  (data (i32.const 1024) "well")

  (func $spin (loop $l (br $l)))
  (func $recurse (result i32) (i32.add (i32.const 1) (call $recurse)))
  (func $fill
    (loop $l
      (memory.fill (i32.const 65536) (i32.const 0xa5) (i32.const 0x3f0000))
      (br $l)))
  (func $copy
    (loop $l
      (memory.copy (i32.const 65536) (i32.const 65537) (i32.const 0x3effff))
      (memory.copy (i32.const 65537) (i32.const 65536) (i32.const 0x3effff))
      (br $l)))
  (func $calls (loop $l (drop (call $now_ms)) (br $l)))
  (func $act (param $how i32)
    (if (i32.eq (local.get $how) (i32.const 115)) (then (call $spin)))              ;; s
    (if (i32.eq (local.get $how) (i32.const 116)) (then unreachable))               ;; t
    (if (i32.eq (local.get $how) (i32.const 114)) (then (drop (call $recurse))))    ;; r
    (if (i32.eq (local.get $how) (i32.const 102)) (then (call $fill)))              ;; f
    (if (i32.eq (local.get $how) (i32.const 99)) (then (call $copy)))               ;; c
    (if (i32.eq (local.get $how) (i32.const 104)) (then (call $calls)))             ;; h
    (if (i32.eq (local.get $how) (i32.const 48))                                    ;; 0
      (then (drop (i32.div_u (i32.const 1) (i32.load (i32.const 8))))))
    (if (i32.eq (local.get $how) (i32.const 111))                                   ;; o
      (then (drop (i32.load (i32.const 0x400000)))))
    (if (i32.eq (local.get $how) (i32.const 105))                                   ;; i
      (then (call_indirect (i32.const 1)))))

  ;; the second byte of the query where the first is $what, else 0
  (func $asked (param $what i32) (result i32)
    (drop (call $req_get (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 8)))
    (if (result i32) (i32.eq (i32.load8_u (i32.const 16)) (local.get $what))
      (then (i32.load8_u (i32.const 17))) (else (i32.const 0))))
  ;; likewise of the attachment
  (func $noted (param $conn i64) (param $what i32) (result i32)
    (drop (call $get (local.get $conn) (i32.const 16) (i32.const 8)))
    (if (result i32) (i32.eq (i32.load8_u (i32.const 16)) (local.get $what))
      (then (i32.load8_u (i32.const 17))) (else (i32.const 0))))

  (func $on_http (export "on_http") (result i32)
    (local $how i32)
    (call $act (call $asked (i32.const 72)))
    (local.set $how (call $asked (i32.const 84)))
    (if (local.get $how)
      (then (drop (call $timer_set (i64.const 0) (i64.extend_i32_u (local.get $how))))))
    (drop (call $resp_write (i32.const 1024) (i32.const 4)))
    (i32.const 0))
  (func $on_ws_handshake (export "on_ws_handshake") (param $conn i64) (result i32)
    (call $act (call $asked (i32.const 83)))
    (i32.const 0))
  (func $on_ws_open (export "on_ws_open") (param $conn i64)
    (call $act (call $asked (i32.const 79))))
  (func $on_ws_message (export "on_ws_message")
    (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (local $what i32) (local $n i32)
    (drop (call $msg_read (i32.const 32768) (i32.const 32768)))
    (local.set $what (i32.load8_u (i32.const 32768)))
    (if (i32.eq (local.get $what) (i32.const 77))                                   ;; M
      (then (call $act (i32.load8_u (i32.const 32769)))))
    (if (i32.or (i32.eq (local.get $what) (i32.const 67)) (i32.eq (local.get $what) (i32.const 68)))
      (then (drop (call $set (i32.const 32768) (i32.const 2)))))                    ;; C, D
    (if (i32.eq (local.get $what) (i32.const 66))                                   ;; B
      (then
        (loop $l
          (drop (call $ws_send (local.get $conn) (i32.const 2) (i32.const 40000) (i32.const 8192)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $n) (i32.const 6)))))
      (else (drop (call $ws_send (local.get $conn) (local.get $kind) (i32.const 32768) (local.get $len)))))
    (i32.const 0))
  (func $on_ws_drain (export "on_ws_drain") (param $conn i64)
    (call $act (call $noted (local.get $conn) (i32.const 68))))
  (func $on_ws_close (export "on_ws_close") (param $conn i64) (param $code i32) (param $clean i32)
    (call $act (call $noted (local.get $conn) (i32.const 67))))
  (func $on_timer (export "on_timer") (param $cookie i64)
    (call $act (i32.wrap_i64 (local.get $cookie)))))
