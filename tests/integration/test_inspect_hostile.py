"""weir inspect of modules that are made to disturb it, and of what is no module."""
import pathlib

import pytest

from weir import guest, run_cli



@pytest.fixture
def inspect(cache, tmp_path):
    """inspect(PATH, or the text of one): exit code, lines of stdout, stderr."""
    def go(module):
        if str(module).startswith("(module"):
            file = tmp_path / "module.wat"
            file.write_text(module)
            module = file
        r = run_cli("inspect", module, env={"XDG_CACHE_HOME": str(cache)}, cwd=tmp_path)
        return r.returncode, r.stdout.splitlines(), r.stderr
    return go


def between(lines, begin, end):
    return lines[lines.index(begin) + 1:[x.split(":")[0] for x in lines].index(end)]


def test_memory_over_every_limit(inspect):
    """Not even to be looked at; the reason stands behind the no."""
    code, out, err = inspect('(module (memory (export "memory") 40000) (func (export "f")))')
    assert (code, err) == (1, "") and out[0].startswith("loads: no: ") and "memory" in out[0]


def test_types_that_are_no_numbers(inspect):
    code, out, err = inspect('(module (memory (export "memory") 0 0) (table (export "t") 1 funcref)'
                             ' (global (export "g") i32 (i32.const 1))'
                             ' (func (export "f") (param v128 funcref externref f32)))')
    assert (code, err) == (0, "")
    assert between(out, "exports", "kind") == ["  memory memory, 0 to 0 pages of 64 KiB", "  t table", "  g global",
                                               "  f (other, other, other, f32) -> ()"]


@pytest.mark.parametrize("name", ["\\1b[31m", "a\\nloads: yes", "\\c2\\9b1m", "\\07", "\\7f"])
def test_names_can_not_command_a_terminal(inspect, name):
    for module in (f'(module (func (export "{name}")))',
                   f'(module (import "{name}" "{name}" (func)) (memory (export "memory") 1) (func (export "f")))'):
        code, out, err = inspect(module)
        assert all(0x20 <= ord(c) < 0x7f for x in out for c in x) and not err
        assert code == (0 if "import" not in module else 1)
        assert sum(x.startswith("loads: ") for x in out) == 1


@pytest.mark.parametrize("name", ['a "b".wat', "${HOME}.wat", "\\n\t.wat", "a: {b}.wat", "é.wat"])
def test_any_path(inspect, tmp_path, name):
    file = tmp_path / name
    file.write_text(pathlib.Path(guest("add")).read_text())
    assert inspect(file)[0] == 0
    assert inspect(name)[0] == 0, "relative to the working folder"


def test_a_file_that_is_not_there(inspect, tmp_path):
    code, out, err = inspect("nowhere.wasm")
    assert (code, out) == (1, []) and "nowhere.wasm: No such file" in err
    code, out, err = inspect(tmp_path)
    assert (code, out) == (1, []) and str(tmp_path) in err and "Success" not in err
