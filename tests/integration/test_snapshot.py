"""weirc: modules stored as their initialisation leaves them, targets, and what it refuses."""
import os
import pathlib
import random
import re
import resource
import subprocess

import pytest

from weir import WEIRC_BIN, guest, problem, refuses_to_serve

GUESTS = pathlib.Path(__file__).resolve().parent / "guests"
SLOW_INIT = """(module (global $g (mut i32) (i32.const 1))
  (func (export "_initialize") (local $n i32)
    (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 400000000))))
    (global.set $g (i32.add (global.get $g) (i32.const 1))))
  (func (export "wizer_initialize") (global.set $g (i32.add (global.get $g) (i32.const 100))))
  (func (export "g") (result i32) (global.get $g))
  (func (export "boom") (result i32) (unreachable)))"""


def weirc(source, out, *args, timeout=300):
    return subprocess.run([WEIRC_BIN, source, "-o", out, *args], capture_output=True, text=True, timeout=timeout)


def built(tmp_path, source, *args):
    """(the compiled module's bytes, what weirc said); source: a file, or WAT."""
    if "(module" in str(source):
        (tmp_path / "m.wat").write_text(source)
        source = tmp_path / "m.wat"
    out = tmp_path / "m.cwasm"
    r = weirc(source, out, *args)
    assert r.returncode == 0 and r.stdout == "", r
    return out.read_bytes(), r.stderr


def refused(tmp_path, source, *words, args=()):
    (tmp_path / "m.wat").write_text(source)
    (tmp_path / "m.cwasm").unlink(missing_ok=True)
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    r = weirc(tmp_path / "m.wat", tmp_path / "m.cwasm", *args)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert r.returncode == 1 and r.stderr.startswith(f"{tmp_path}/m.wat: "), r
    assert not (tmp_path / "m.cwasm").exists()
    for word in words:
        assert word in r.stderr, r.stderr
    return end.ru_utime - begin.ru_utime


def is_snapshot(code):
    return b"weir:snapshot" in code


def init(body, more="", func="_initialize"):
    return f"""(module
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_open" (func $open
        (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (memory (export "memory") 1) (global $g (mut i32) (i32.const 0)) {more}
      (func $init (export "{func}") {body}))"""


# ---------------------------------------------------------------------------- snapshots


def test_init_runs_once_when_compiled(start, tmp_path):
    """In an instance it would take longer than the deadline."""
    file = tmp_path / "slow.wat"
    file.write_text(SLOW_INIT)
    w = start({"modules": {"slow": str(file), "each": {"path": str(file), "snapshot": "no"}, "yes": {"path": str(file), "snapshot": "yes"},
                           "portable": {"path": str(file), "engine": "pulley"}}}, cache=tmp_path / "cache")
    for _ in range(3):
        for name in ("slow", "yes", "portable"):
            assert w.exec(f"{name}/g", "[]") == "102", "_initialize and wizer_initialize, each once"
    r = w.post("/api/exec/each/g", "[]")
    problem(r, 504)
    assert len(list((tmp_path / "cache").glob("*.cwasm"))) == 4, "the setting is part of the cache's key"
    assert not w.logs("module_snapshot"), "there is nothing to say"


def test_a_trap_in_a_snapshot_names_its_function(start, tmp_path):
    file = tmp_path / "slow.wat"
    file.write_text(SLOW_INIT.replace('(func (export "boom")', '(func $blast (export "boom")'))
    w = start({"modules": {"slow": str(file)}})
    r = w.post("/api/exec/slow/boom", "[]")
    assert r.status == 500 and "blast" in r.body.decode()


def test_memory_globals_start_and_segments(tmp_path):
    code, said = built(tmp_path, guest("snapshot"))
    assert is_snapshot(code) and said == "" and b"weir:chacha8" not in code
    assert b"_initialize" not in code.replace(b"wizer_initialize", b"")


def test_the_environment_is_what_is_given(tmp_path):
    codes = [built(tmp_path, guest("snapshot"), *args)[0]
             for args in ([], ["--env", "A=xylophone"], ["--env", "A=xylophone", "--env", "B=zither"])]
    assert [b"A=xylophone" in c for c in codes] == [False, True, True]
    assert [b"B=zither" in c for c in codes] == [False, False, True]


@pytest.mark.parametrize("body,what", [
    ("(drop (call $random (i32.const 64) (i32.const 16)))", "0x40-0x4f"),
    ("(drop (call $clock (i32.const 0) (i64.const 1) (i32.const 256)))", "0x10"),
    ("(drop (call $random (i32.const 64) (i32.const 4))) (global.set $g (i32.load (i32.const 64)))"
     " (i32.store (i32.const 64) (i32.const 0))", "global 0"),
    ("(drop (call $random (i32.const 64) (i32.const 2))) (drop (memory.grow (i32.and (i32.load8_u (i32.const 64)) (i32.const 7))))", "size"),
])
def test_what_is_drawn_at_random_does_not_repeat_unasked(tmp_path, body, what):
    code, said = built(tmp_path, init(body))
    assert not is_snapshot(code) and "no snapshot" in said and what in said and b"_initialize" in code
    code, said = built(tmp_path, init(body), "--snapshot")
    assert is_snapshot(code) and "warning" in said and what in said
    code, said = built(tmp_path, init(body), "--no-snapshot")
    assert not is_snapshot(code) and said == ""


def test_the_log_says_what_repeats(start, tmp_path):
    leak = SLOW_INIT.replace('(global $g', '(import "weir_v1" "resp_status" (func $status (param i32) (result i32))) (global $g')
    leak = leak.replace('(func (export "wizer_initialize")', '(func (export "wizer_initialize") (drop (call $status (i32.const 200)))')
    (tmp_path / "m.wat").write_text(leak.replace("400000000", "4"))
    w = start({"modules": {"m": str(tmp_path / "m.wat")}}, cache=tmp_path / "cache")
    (line,) = w.logs("module_snapshot", module="m")
    assert "weir_v1.resp_status" in line["what"]


def test_the_monotonic_clock_repeats_unnoticed(tmp_path):
    """Its origin means nothing: a runtime that keeps it can be stored."""
    code, said = built(tmp_path, init("(drop (call $clock (i32.const 1) (i64.const 1) (i32.const 256)))"))
    assert is_snapshot(code) and said == ""


def test_a_generator_of_go_is_found(tmp_path):
    """generator.c seeds one at random: memory differs only there, and its address is exported."""
    code, said = built(tmp_path, GUESTS / "generator.wasm")
    assert is_snapshot(code) and said == ""
    assert set(re.findall(rb"weir:chacha8:\d+", code)) == {b"weir:chacha8:0"}
    code, said = built(tmp_path, GUESTS / "leak.wasm")
    assert not is_snapshot(code) and "4 bytes of memory" in said, "the same, but keeps a word of what it drew"
    code, said = built(tmp_path, GUESTS / "leak.wasm", "--snapshot")
    assert is_snapshot(code) and b"weir:chacha8:0" in code and "1 generators" in said


@pytest.mark.guard(120)
def test_a_go_module_is_stored_when_asked(tmp_path):
    """Its runtime keeps a hash key and maps' seeds beside the two generators: that takes a yes."""
    draw = GUESTS.parents[2] / "examples" / "go" / "draw.wasm"
    code, said = built(tmp_path, draw, "--snapshot")
    assert is_snapshot(code) and "warning" in said and "2 generators" in said
    assert set(re.findall(rb"weir:chacha8:\d+", code)) == {b"weir:chacha8:0", b"weir:chacha8:1"}
    code, said = built(tmp_path, draw)
    assert not is_snapshot(code) and "no snapshot" in said


def test_wasi_while_it_initialises(tmp_path):
    """EBADF of descriptors, ENOSYS of the rest, and output leads nowhere."""
    ok = """(if (i32.ne (call $prestat (i32.const 3) (i32.const 0)) (i32.const 8)) (then unreachable))
      (if (i32.ne (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i64.const 0)
                              (i32.const 0) (i32.const 0)) (i32.const 52)) (then unreachable))
      (i32.store (i32.const 0) (i32.const 100)) (i32.store (i32.const 4) (i32.const 5))
      (if (i32.ne (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)) (i32.const 0)) (then unreachable))
      (if (i32.ne (i32.load (i32.const 8)) (i32.const 5)) (then unreachable))"""
    code, said = built(tmp_path, init(ok, '(data (i32.const 100) "Help!")'))
    assert is_snapshot(code) and said == ""
    refused(tmp_path, init(ok + "(call $exit (i32.const 3))", '(data (i32.const 100) "Help!")'), "exits with 3", "wrote: Help!", "--no-snapshot")


@pytest.mark.parametrize("call", ["(drop (call $random (i32.const 65530) (i32.const 7)))",
                                  "(drop (call $clock (i32.const 1) (i64.const 0) (i32.const -1)))",
                                  "(drop (call $write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 0)))",
                                  "(drop (call $write (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 65533)))"])
def test_pointers_outside_memory(tmp_path, call):
    refused(tmp_path, init(call), "pointer outside memory")


def test_a_call_of_the_host_makes_it_no_snapshot(tmp_path):
    calls = init("(call $x)", '(func $x unreachable)').replace(
        "(memory", '(import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))(memory', 1).replace(
        "(func $x unreachable)", "(func $x (drop (call $log (i32.const 0) (i32.const 0) (i32.const 0))))")
    code, said = built(tmp_path, calls)
    assert not is_snapshot(code) and "weir_v1.log" in said and "no snapshot" in said
    refused(tmp_path, calls, "weir_v1.log", args=["--snapshot"])


def test_a_table_that_changes_makes_it_no_snapshot(tmp_path):
    table = '(module (table 2 funcref) (func $f (export "_initialize") (table.set (i32.const 0) (ref.func $f))))'
    code, said = built(tmp_path, table)
    assert not is_snapshot(code) and "table.set" in said
    refused(tmp_path, table, "table.set", args=["--snapshot"])


def test_segments_that_are_named_stay(start, tmp_path):
    (tmp_path / "m.wat").write_text("""(module (memory (export "memory") 1) (data $a (i32.const 0) "\\01") (data $b "\\07\\08")
      (func (export "_initialize") (i32.store8 (i32.const 0) (i32.const 9)))
      (func (export "f") (result i32) (memory.init $b (i32.const 4) (i32.const 1) (i32.const 1))
        (i32.add (i32.mul (i32.const 100) (i32.load8_u (i32.const 0))) (i32.load8_u (i32.const 4)))))""")
    w = start({"modules": {"m": {"path": str(tmp_path / "m.wat"), "snapshot": "yes"}}})
    assert w.exec("m/f", "[]") == "908"


# ---------------------------------------------------------------------------- hard limits

SPIN = "(loop $l (br $l))"


@pytest.mark.guard(60)
@pytest.mark.parametrize("source,args,most", [
    (init(SPIN), (), 15), (init(SPIN, func="wizer_initialize"), ("--run", "500"), 3),
    (f'(module (memory 1) (func $s {SPIN}) (start $s) (func (export "_initialize")))', ("--run", "500"), 3),
    ('(module (memory 16) (func (export "_initialize") (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 1000000))'
     ' (br $l))))', ("--run", "500"), 3),
], ids=["init", "wizer", "start", "fill"])
def test_an_endless_loop_is_refused(tmp_path, source, args, most):
    took = refused(tmp_path, source, "runs too long", "--no-snapshot", args=args)
    assert took < most


@pytest.mark.parametrize("source,stage", [
    (init("unreachable"), "_initialize"), (init("unreachable", func="wizer_initialize"), "wizer_initialize"),
    ('(module (func $s unreachable) (start $s) (func (export "_initialize")))', "the start function")])
def test_a_trap_is_refused(tmp_path, source, stage):
    refused(tmp_path, source, stage, "unreachable", "--no-snapshot")


def test_a_stack_overflow_is_refused(tmp_path):
    refused(tmp_path, '(module (func $deep (export "_initialize") (call $deep)))', "call stack exhausted", "deep")


def test_abort_traps(tmp_path):
    refused(tmp_path, '(module (import "env" "abort" (func $a (param i32 i32 i32 i32))) (memory (export "memory") 1)'
            '(func (export "_initialize") (call $a (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))', "env.abort")


def test_memory_has_a_limit(tmp_path):
    grow = init("(global.set $g (memory.grow (i32.const 15)))(if (i32.lt_s (global.get $g) (i32.const 0)) (then unreachable))")
    assert is_snapshot(built(tmp_path, grow, "--memory", str(1 << 20))[0])
    refused(tmp_path, grow, "unreachable", args=["--memory", str((1 << 20) - 65536)])


def test_init_that_takes_something(tmp_path):
    refused(tmp_path, '(module (func (export "_initialize") (param i32)))', "_initialize takes or returns")


@pytest.mark.parametrize("name", ["weir:snapshot", "weir:chacha8:0", "weir:", "weir:restore"])
def test_reserved_names_are_refused(tmp_path, name):
    for args in ([], ["--no-snapshot"]):
        refused(tmp_path, f'(module (global (export "{name}") i32 (i32.const 4)))', name, "weir's own", args=args)


def test_a_gateway_refuses_such_a_module(start, tmp_path):
    (tmp_path / "m.wat").write_text(init("unreachable"))
    w = start({"modules": {"culprit": str(tmp_path / "m.wat")}}, start=False, cache=tmp_path / "cache")
    r = refuses_to_serve(w.file)
    assert r.returncode == 1 and "_initialize fails" in r.stderr and "unreachable" in r.stderr


# ---------------------------------------------------------------------------- targets


def test_a_baseline_module_is_served(start, tmp_path):
    r = weirc(guest("add"), tmp_path / "m.cwasm", "--cpu", "baseline")
    assert r.returncode == 0 and r.stderr == ""
    w = start({"modules": {"add": str(tmp_path / "m.cwasm")}})
    assert w.exec("add", "[1,2]") == "3"


@pytest.mark.parametrize("target", ["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"])
def test_a_module_for_another_target_is_refused(start, tmp_path, target):
    """By name; one for this machine's kind is served, as it needs no more than the baseline."""
    r = weirc(guest("add"), tmp_path / "m.cwasm", "--target", target)
    assert r.returncode == 0 and r.stderr == "", r
    w = start({"modules": {"add": str(tmp_path / "m.cwasm")}}, start=False)
    if target.split("-")[0] == os.uname().machine:
        w.start()
        assert w.exec("add", "[1,2]") == "3"
    else:
        r = refuses_to_serve(w.file)
        assert r.returncode == 1 and target.split("-")[0] in r.stderr, r.stderr


def test_a_target_that_is_none(tmp_path):
    r = weirc(guest("add"), tmp_path / "m.cwasm", "--target", "vax-dec-vms")
    assert r.returncode == 1 and "vax" in r.stderr


def test_a_snapshot_for_another_target(tmp_path):
    assert is_snapshot(built(tmp_path, SLOW_INIT, "--target", "aarch64-unknown-linux-gnu")[0])


# ---------------------------------------------------------------------------- any input


def test_help():
    r = subprocess.run([WEIRC_BIN, "--help"], capture_output=True, text=True, timeout=20)
    assert r.returncode == 0 and r.stderr == ""
    for word in ("--snapshot", "--target", "--cpu", "--env", "--memory", "--run", "--engine"):
        assert word in r.stdout


@pytest.mark.parametrize("args", [["--env", "x"], ["--memory", "1x"], ["--memory", ""], ["--cpu", "z80"], ["--run", "1s"], ["--target"], ["b.wat"]])
def test_usage_errors(tmp_path, args):
    r = weirc(guest("add"), tmp_path / "m.cwasm", *args)
    assert r.returncode == 2 and "usage" in r.stderr


@pytest.mark.guard(120)
def test_any_bytes_end_in_an_answer(tmp_path):
    """Cut short, with bytes changed, or junk: exit 0 or 1 with a text, never a signal."""
    dice = random.Random(7)
    good = [(GUESTS / "generator.wasm").read_bytes(), (GUESTS.parents[2] / "examples" / "counter.wasm").read_bytes()]
    inputs = [b"", b"\0asm", b"\0asm\1\0\0\0", b"\0asm\x0d\0\1\0", b"(module", b"\xff" * 100, b"(" * 100000]
    for data in good:
        inputs += [data[:dice.randrange(len(data))] for _ in range(25)]
        for _ in range(100):
            bad = bytearray(data)
            for _ in range(dice.randrange(1, 4)):
                bad[dice.randrange(8, len(bad))] = dice.randrange(256)
            inputs.append(bytes(bad))
    answers = set()
    for data in inputs:
        (tmp_path / "in").write_bytes(data)
        r = subprocess.run([WEIRC_BIN, tmp_path / "in", "-o", tmp_path / "out"], capture_output=True, timeout=40)
        assert r.returncode == 0 or (r.returncode == 1 and r.stderr), (data, r)
        assert b"panicked" not in r.stderr, (data, r.stderr)
        answers.add(r.returncode)
    assert answers == {0, 1}
