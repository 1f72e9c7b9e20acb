"""memory.fill, memory.copy and memory.init are split into parts, which nobody can see."""
import pathlib
import struct
import tempfile

import pytest

from weir import guest, problem

PART, SIZE = 65536, 6 * 65536
DATA = bytes(i * 7 % 251 for i in range(3 * PART))  # the passive segment, 192 KiB


FOLDER = tempfile.TemporaryDirectory()
PATH = pathlib.Path(FOLDER.name) / "bulk.wat"
PATH.write_text(pathlib.Path(guest("parts")).read_text().replace(
    '"PASSIVE"', '"' + "".join(f"\\{b:02x}" for b in DATA) + '"'))
CONFIG = {"modules": {f"{engine}{way}": {"path": str(PATH), "engine": engine,
                                         "limits": {"deadline": deadline, "timeout": "10s"}}
                      for engine in ("native", "pulley")
                      for way, deadline in (("", "500ms"), ("_short", "10ms"))}}
ENGINES = pytest.mark.parametrize("module", ["native", "pulley"])


def memory():
    words = [(i + 1) * 0x9E3779B97F4A7C15 % 2**64 for i in range(0, SIZE, 8)]
    return bytearray(struct.pack(f"<{len(words)}Q", *words))


def digest(m):
    h = 0
    for word in struct.unpack(f"<{SIZE // 8}Q", m):
        h = (h * 31 + word) % 2**64
    return h - 2**64 if h >= 2**63 else h


def inside(*ends):
    return all(end <= SIZE for end in ends)


def expected(function, to, source, n):
    """None: it traps."""
    m, n_data = memory(), {"init": len(DATA), "init_short": 8}.get(function)
    if not inside(to + n) or (function == "copy" and not inside(source + n)):
        return None
    if n_data is not None and source + n > n_data:
        return None
    if function == "copy":
        m[to:to + n] = m[source:source + n]
    elif function == "fill":
        m[to:to + n] = bytes([source & 0xFF]) * n
    else:
        m[to:to + n] = (DATA if function == "init" else bytes(range(8)))[source:source + n]
    return digest(m)


CASES = [
    ("copy", 0, 1, 5 * PART), ("copy", 1, 0, 5 * PART), ("copy", 0, 1, PART), ("copy", 1, 0, PART + 1),
    ("copy", 3 * PART, 5, 2 * PART), ("copy", 5, 3 * PART, 2 * PART + 17), ("copy", 9, 9, 4 * PART),
    ("copy", 0, PART, 5 * PART), ("copy", PART, 0, 5 * PART), ("copy", PART - 1, 0, 5 * PART + 1),
    ("copy", PART, 0, 5 * PART + 1), ("copy", 0, PART, 5 * PART + 1), ("copy", 0, 0, SIZE),
    ("copy", 0, 0, SIZE + 1), ("copy", SIZE, 0, 0), ("copy", 0, SIZE, 0), ("copy", SIZE + 1, 0, 0),
    ("copy", 0, 0xFFFFFFFF, 2 * PART), ("copy", 0xFFFF0000, 0, 2 * PART), ("copy", 7, 0, 0xFFFFFFFF),
    ("copy", 12345, 1234, 3 * PART + 1), ("copy", 1234, 12345, 3 * PART + 1),
    ("fill", 0, 0x1A5, SIZE), ("fill", 1, 0xA5, SIZE - 1), ("fill", 1, 0xA5, SIZE),
    ("fill", 77, 3, PART), ("fill", 77, 3, PART + 1), ("fill", 77, 3, 3 * PART - 1), ("fill", SIZE, 3, 0),
    ("fill", SIZE + 1, 3, 0), ("fill", 0xFFFFFFFF, 3, 2 * PART), ("fill", 2 * PART, 3, 0xFFFFFFFF),
    ("init", 0, 0, 3 * PART), ("init", 11, 13, 2 * PART + 5), ("init", 11, 0, PART), ("init", 0, 0, 0),
    ("init", 0, 1, 3 * PART), ("init", 3 * PART + 1, 0, 3 * PART), ("init", 0, 0xFFFFFFFF, 2 * PART),
    ("init_short", 5, 0, 8), ("init_short", 5, 1, 8), ("init_short", SIZE - 8, 0, 8),
]


@ENGINES
@pytest.mark.parametrize("function,to,source,n", CASES)
def test_parts_are_as_the_whole(weir, module, function, to, source, n):
    signed = [v - 2**32 if v >= 2**31 else v for v in (to, source, n)]
    r = weir.post(f"/api/exec/{module}/{function}", str(signed))
    want = expected(function, to, source, n)
    if want is None:
        problem(r, 500, "GUEST_TRAP")
    else:
        assert (r.status, int(r.body)) == (200, want)


@ENGINES
def test_lengths_that_are_known(weir, module):
    m = memory()
    m[100:100 + PART] = m[7:7 + PART]
    m[100:100 + PART + 1] = m[70000:70000 + PART + 1]
    m[200000:200100] = bytes([7]) * 100
    r = weir.post(f"/api/exec/{module}/known", "[]")
    assert (r.status, int(r.body)) == (200, digest(m))


@ENGINES
def test_the_backtrace_names_the_instruction(weir, module):
    """Mostly: its end may also come between two of them."""
    module += "_short"
    for n in range(1, 21):
        problem(weir.post(f"/api/exec/{module}/endless", "[]"), 504, "GUEST_DEADLINE")
        line = weir.wait_logs("guest_failed", n=n, module=module, code="GUEST_DEADLINE")[-1]
        if "memory.fill <- filler" in line["detail"]:
            return
    raise AssertionError(line)
