"""weir inspect MODULE: what a module is, and whether it loads."""
import subprocess

import pytest

from weir import ROOT, WEIRC_BIN, guest, run_cli

HANDLERS = """(module (import "weir_v1" "log" (func (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2 3) (global (export "g") (mut i64) (i64.const 1))
  (func (export "on_http") (result i32) (i32.const 0))
  (func (export "many") (param i32 i64 f32 f64) (result f64 i32) (f64.const 1) (i32.const 2)))"""
COMMAND = """(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open" (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_raise" (func (param i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"""


@pytest.fixture
def inspect(tmp_path):
    def look(wat, name="m.wat", code=0):
        (tmp_path / name).write_text(wat)
        r = run_cli("inspect", tmp_path / name, env={"XDG_CACHE_HOME": str(tmp_path)})
        assert r.returncode == code, r
        return r.stdout.splitlines()
    return look


def test_handlers(inspect):
    lines = inspect(HANDLERS)
    assert "  weir_v1.log (i32, i32, i32) -> (i32)" in lines
    assert "  many (i32, i64, f32, f64) -> (f64, i32)" in lines
    assert "  memory memory, 2 to 3 pages of 64 KiB" in lines and "  g global" in lines
    assert "kind: handlers of weir_v1" in lines and lines[-1] == "loads: yes"
    assert not [x for x in lines if "weir:" in x], "weirc's own marks are nobody's business"


def test_command(inspect):
    lines = inspect(COMMAND)
    answers = {x.split(" ")[2].split(".")[1]: x.rsplit(": ", 1)[1] for x in lines if "wasi_" in x}
    assert answers == {"fd_write": "answered", "path_open": "always EBADF", "proc_raise": "always ENOSYS"}
    assert "kind: a WASI command" in lines and lines[-1] == "loads: yes"


@pytest.mark.parametrize("wat,why", [
    ('(module (import "wasi_snapshot_preview1" "fd_open" (func)) (memory (export "memory") 1))', "fd_open"),
    ('(module (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32))) (memory 1))', "its memory"),
    ('(module (import "weir_v1" "nothing" (func)))', "nothing"),
    ('(module (import "other" "f" (func)))', "other"),
    ('(module (func (export "on_http")))', "on_http"),
    ('(module (memory (export "memory") 100))', "limits.memory")])
def test_what_does_not_load_is_still_described(inspect, wat, why):
    lines = inspect(wat, code=1)
    assert [x for x in lines if x.startswith("kind: ")]
    (verdict,) = [x for x in lines if x.startswith("loads: ")]
    assert verdict.startswith("loads: no: ") and why in verdict


def test_names_stay_names(inspect):
    """What a terminal would obey, and what would look like a line of the page."""
    lines = inspect('(module (func (export "a\\1b[31m\\0aloads: no")))')
    assert "  a\\x1b[31m\\x0aloads: no () -> ()" in lines and lines[-1] == "loads: yes"


def test_strange_paths(inspect):
    inspect(COMMAND, name="a ${HOME} 'b\" \\c: #{}.wat")


@pytest.mark.parametrize("wat", ["(module", "", "(module (func (result i32)))"])
def test_no_module(tmp_path, wat):
    (tmp_path / "m.wat").write_text(wat)
    r = run_cli("inspect", tmp_path / "m.wat")
    assert (r.returncode, r.stdout) == (1, "") and "m.wat" in r.stderr


def test_no_file(tmp_path):
    r = run_cli("inspect", tmp_path / "none.wasm")
    assert (r.returncode, r.stdout) == (1, "") and "No such file" in r.stderr


def test_compiled(tmp_path):
    subprocess.run([WEIRC_BIN, guest("add"), "-o", tmp_path / "add.cwasm"], check=True)
    r = run_cli("inspect", tmp_path / "add.cwasm")
    assert r.returncode == 0 and "  add (f64, f64) -> (f64)" in r.stdout.splitlines()
    (tmp_path / "add.cwasm").chmod(0o666)
    assert "add.cwasm" in run_cli("inspect", tmp_path / "add.cwasm").stderr
    (tmp_path / "bad.cwasm").write_bytes(b"no code")
    assert run_cli("inspect", tmp_path / "bad.cwasm").returncode == 1


def test_examples_load():
    for path in (ROOT / "examples").glob("*.wa*"):
        assert run_cli("inspect", path).stdout.endswith("loads: yes\n"), path


@pytest.mark.parametrize("args", [["a", "b"], ["--json"]])
def test_usage(args):
    r = run_cli("inspect", *args)
    assert r.returncode == 2 and r.stdout == "" and "inspect" in r.stderr
