"""WASI preview 1: every function of the table, hostile pointers, commands by CGI, what reactors print."""
import atexit
import itertools
import pathlib
import re
import shutil
import struct
import subprocess
import tempfile

import pytest

from weir import GUESTS, ROOT, TEXT, frame, problem, run_cli

# The functions of wasi_snapshot_preview1 and their parameters (legacy/preview1/docs.md), i and l.
SPEC = dict(pair.split(":") for pair in """
    args_get:ii args_sizes_get:ii environ_get:ii environ_sizes_get:ii clock_res_get:ii clock_time_get:ili
    fd_advise:illi fd_allocate:ill fd_close:i fd_datasync:i fd_fdstat_get:ii fd_fdstat_set_flags:ii
    fd_fdstat_set_rights:ill fd_filestat_get:ii fd_filestat_set_size:il fd_filestat_set_times:illi
    fd_pread:iiili fd_prestat_get:ii fd_prestat_dir_name:iii fd_pwrite:iiili fd_read:iiii fd_readdir:iiili
    fd_renumber:ii fd_seek:ilii fd_sync:i fd_tell:ii fd_write:iiii path_create_directory:iii
    path_filestat_get:iiiii path_filestat_set_times:iiiilli path_link:iiiiiii path_open:iiiiillii
    path_readlink:iiiiii path_remove_directory:iii path_rename:iiiiii path_symlink:iiiii path_unlink_file:iii
    poll_oneoff:iiii proc_exit:i proc_raise:i sched_yield: random_get:ii sock_accept:iii sock_recv:iiiiii
    sock_send:iiiii sock_shutdown:ii""".split())
EBADF, EFAULT, EINVAL, ENOSYS, ESPIPE = 8, 21, 28, 52, 70
PAGE, CHUNK = 65536, 65536
FOLDER = pathlib.Path(tempfile.mkdtemp(prefix="weir-wasi-"))
atexit.register(shutil.rmtree, FOLDER, True)
KINDS = {"i": "i32", "l": "i64"}


def imported(name):
    params = " ".join(KINDS[p] for p in SPEC[name])
    result = "" if name == "proc_exit" else " (result i32)"
    return f'(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}){result}))'


def text(data):
    return '"' + "".join(f"\\{b:02x}" for b in data) + '"'


def vectors(*pairs):
    return b"".join(struct.pack("<II", *p) for p in pairs)


def module(name, body, imports=()):
    path = FOLDER / f"{name}.wat"
    path.write_text(f'(module {" ".join(map(imported, imports))}\n(memory (export "memory") 1 8)\n{body})\n')
    return str(path)


def subscription(userdata, tag):
    return struct.pack("<QB39x", userdata, tag)


# Where things lie in the probe's memory.
DATA = {
    1000: vectors((2000, 6)),                                   # one line
    1100: vectors((2000, 6), (0, 0), (2000, 6)),                # two, and nothing between
    1200: vectors((2000, 6), (PAGE - 1, 2)),                    # the second one leads outside
    1300: vectors((0xfffffff0, 0x20)),                          # wraps
    1400: vectors((0, 0xffffffff)),
    1500: vectors(*[(0, PAGE)] * 20),                           # much more than a call moves
    2000: b"hello\n",
    3000: subscription(7, 0) + subscription(8, 1) + subscription(9, 2),
}


def probe():
    """Each function of WASI as one of /api/exec that forwards its arguments, and again with `_peek`,
    which takes an address more, and returns what 8 bytes lie there afterwards."""
    body = [f"(data (i32.const {at}) {text(data)})" for at, data in DATA.items()]
    for name, params in SPEC.items():
        declared = " ".join(KINDS[p] for p in params)
        call = f"(call ${name} " + " ".join(f"(local.get {i})" for i in range(len(params))) + ")"
        result = "(i32.const -1)" if name == "proc_exit" else ""
        body.append(f'(func (export "{name}") (param {declared}) (result i32) {call} {result})')
        body.append(f'(func (export "{name}_peek") (param {declared} i32) (result i32 i64) {call} {result} '
                    f'(i64.load (local.get {len(params)})))')
    return module("probe", "\n".join(body), SPEC)


def command(name, out=b"", err=b"", code=None, before=""):
    """Prints, in one call for each stream, and ends."""
    return module(name, f"""
        (data (i32.const 0) {text(vectors((64, len(out)), (64 + len(out), len(err))))})
        (data (i32.const 64) {text(out + err)})
        (func (export "_start") {before}
          (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
          (drop (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
          {"" if code is None else f"(call $proc_exit (i32.const {code})) unreachable"})""",
                  ["fd_write", "proc_exit"])


HEAD = b"Content-Type: text/plain\n\n"
# stdin to stdout behind a header block, 100 bytes at a time.
ECHO = f"""
    (data (i32.const 0) {text(vectors((64, len(HEAD))))})
    (data (i32.const 16) {text(vectors((512, 100)))})
    (data (i32.const 64) {text(HEAD)})
    (func (export "_start") (local $n i32)
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
      (loop $more
        (if (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 32)) (then unreachable))
        (local.set $n (i32.load (i32.const 32)))
        (i32.store (i32.const 24) (i32.const 512))
        (i32.store (i32.const 28) (local.get $n))
        (if (local.get $n) (then
          (drop (call $fd_write (i32.const 1) (i32.const 24) (i32.const 1) (i32.const 32)))
          (br $more)))))"""
# The block of the environment as it is, with its NULs.
ENVIRON = f"""
    (data (i32.const 64) {text(HEAD)})
    (func (export "_start")
      (drop (call $environ_sizes_get (i32.const 0) (i32.const 4)))
      (drop (call $environ_get (i32.const 1024) (i32.const 8192)))
      (i32.store (i32.const 16) (i32.const 64)) (i32.store (i32.const 20) (i32.const {len(HEAD)}))
      (i32.store (i32.const 24) (i32.load (i32.const 1024)))
      (i32.store (i32.const 28) (i32.load (i32.const 4)))
      (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 2) (i32.const 32))))"""
# `n` times a line of 1,000 bytes, then a last word without its end.
FLOOD = f"""
    (data (i32.const 0) {text(vectors((64, 1000), (2000, 4)))})
    (data (i32.const 64) {text(b"x" * 999 + chr(10).encode() + b"")})
    (data (i32.const 2000) "last")
    (func (export "flood") (param $n i32)
      (loop $more
        (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32)))
        (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (drop (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32))))"""
REACTOR = f"""
    (data (i32.const 0) {text(vectors((64, 6), (70, 3)))})
    (data (i32.const 64) "inits\\0amsg")
    (func (export "_initialize")
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 32))))
    (func (export "on_ws_message") (param i64 i32 i32) (result i32)
      (drop (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 32)))
      (if (i32.eq (local.get 2) (i32.const 1)) (then (call $proc_exit (i32.const 0))))
      (if (i32.eq (local.get 2) (i32.const 2)) (then (call $proc_exit (i32.const 1))))
      (i32.const 4000))"""


def utf16(s):
    data = s.encode("utf-16-le")
    return struct.pack("<I", len(data)) + data


def aborts():
    body = f"""(import "env" "abort" (func $abort (param i32 i32 i32 i32)))
      (memory (export "memory") 1)
      (data (i32.const 100) {text(utf16("it broke é"))}) (data (i32.const 200) {text(utf16("a.ts"))})
      (data (i32.const 300) "\\ff\\ff\\ff\\ff")
      (func $breaks (export "abort") (param i32 i32) (result i32)
        (call $abort (local.get 0) (local.get 1) (i32.const 3) (i32.const 14)) (i32.const 5))"""
    path = FOLDER / "aborts.wat"
    path.write_text(f"(module {body})")
    return str(path)


OUTPUTS = {  # what a command prints: status, fields, body
    "ok": (HEAD + b"hello\n", 200, {"content-type": "text/plain"}, b"hello\n"),
    "crlf": (b"Content-Type: a/b\r\nX-Y:  z \r\n\r\nbody\r\n", 200, {"content-type": "a/b", "x-y": "z"}, b"body\r\n"),
    "status": (b"Status: 404 Not Here\n\nno", 404, {}, b"no"),
    "status_bare": (b"status:599\n\n", 599, {}, b""),
    "location": (b"Location: /there\n\n", 302, {"location": "/there"}, b""),
    "location_status": (b"Status: 301\nLocation: http://x/\n\n", 301, {"location": "http://x/"}, b""),
    "own_fields": (b"Content-Length: 3\nConnection: close\nTransfer-Encoding: chunked\n" + HEAD + b"12345", 200,
                   {"content-length": "5", "connection": "close", "transfer-encoding": None}, b"12345"),
}
PLAIN = {  # without a header block: the whole is the body
    "nothing": b"", "no_head": b"hello\n", "no_end": b"Content-Type: a/b\n", "none_of_three": b"X: y\n\nbody",
    "empty_head": b"\nbody", "no_colon": b"Status: 200\nhello\n\n", "binary": bytes(range(256)),
}
BAD_OUTPUTS = {
    "status_low": b"Status: 101\n\n", "status_high": b"Status: 600\n\n", "status_word": b"Status: ok\n\n",
    "status_long": b"Status: 2000\n\n", "status_empty": b"Status:\n\n", "status_twice": b"Status: 200\nStatus: 200\n\n",
    "type_twice": HEAD[:-1] + HEAD, "control": b"Content-Type: a\x01\n\n", "name": b"Content Type: a\nStatus: 200\n\n",
    "no_name": b": a\nStatus: 200\n\n", "bare_cr": b"Status: 200\nX: a\rB: c\n\n", "nul": b"Status: 200\nX: \0\n\n",
    "head_size": b"Status: 200\n" + b"X: " + b"y" * 17000 + b"\n\n",
}
ENV = {"GREETING": "hi there", "EMPTY": "", "SERVER_NAME": "mine", "HTTP_X_MINE": "mine", "DOLLAR": "$$x"}
MODULES = {
    "probe": {"path": probe(), "env": ENV, "limits": {"deadline": "1s"}},
    "pulley": {"path": probe(), "env": ENV, "engine": "pulley", "limits": {"deadline": "1s"}},
    "echo": module("echo", ECHO, ["fd_read", "fd_write"]),
    "environ": {"path": module("environ", ENVIRON, ["environ_get", "environ_sizes_get", "fd_write"]), "env": ENV},
    "flood": {"path": module("flood", FLOOD, ["fd_write"]), "limits": {"deadline": "1s"}},
    "reactor": module("reactor", REACTOR, ["fd_write", "proc_exit"]),
    "aborts": aborts(),
    "closed": {"path": command("closed", HEAD), "exec": "no"},
    "exit_0": command("exit_0", HEAD + b"bye", code=0),
    "exit_1": command("exit_1", HEAD + b"bye", b"why it failed", code=1),
    "exit_neg": command("exit_neg", HEAD, code=-1),
    "traps": command("traps", HEAD, before="unreachable"),
    "too_much": {"path": command("too_much", HEAD + b"x" * 5000), "limits": {"output": "4KiB"}},
    **{n: command(n, o[0]) for n, o in OUTPUTS.items()},
    **{n: command(n, o) for n, o in {**PLAIN, **BAD_OUTPUTS}.items()},
}
CONFIG = {
    "limits": {"body": "300KiB"},
    "modules": MODULES,
    "routes": [{"path": "/echo", "http": {"module": "echo"}}, {"path": "/env", "http": {"module": "environ"}},
               {"path": "/env/*", "http": {"module": "environ"}}, {"path": "/*", "http": {"module": "environ"}},
               {"path": "/ws", "websocket": {"module": "reactor"}}],
}
ENGINES = pytest.mark.parametrize("engine", ["probe", "pulley"])


def call(weir, name, *args, engine="probe"):
    return int(weir.exec(f"{engine}/{name}", str(list(args))))


def peek(weir, name, *args, at, engine="probe"):
    """errno, and the 8 bytes at `at`."""
    r = weir.exec(f"{engine}/{name}_peek", str([*args, at]))
    errno, value = map(int, r.strip("[]").split(","))
    return errno, value & (1 << 64) - 1


# ---------------------------------------------------------------------------- the table


def table():
    rows = re.findall(r'^WASI\((\w+), "([il]*)", (\w+),', (ROOT / "src/tbl/wasi.def").read_text(), re.M)
    return {name: (params, answer) for name, params, answer in rows}


def test_the_table_is_what_the_specification_has():
    assert {name: row[0] for name, row in table().items()} == SPEC


ANSWERS = {"BADF": EBADF, "NOSYS": ENOSYS}
CONSTANT = {name: ANSWERS[row[1]] for name, row in table().items() if row[1] != "own"}
# With zeros, but where that would be no valid call.
DOES = {
    "args_get": ([64, 128], 0), "args_sizes_get": ([0, 4], 0), "environ_get": ([64, 128], 0),
    "environ_sizes_get": ([0, 4], 0), "clock_res_get": ([0, 8], 0), "clock_time_get": ([0, 0, 8], 0),
    "fd_close": ([1], 0), "fd_fdstat_get": ([1, 64], 0), "fd_fdstat_set_flags": ([0, 4], 0),
    "fd_filestat_get": ([2, 64], 0), "fd_read": ([0, 1000, 1, 64], 0),
    "fd_seek": ([0, 0, 0, 0], ESPIPE), "fd_tell": ([2, 0], ESPIPE), "fd_write": ([1, 1000, 1, 64], 0),
    "poll_oneoff": ([3000, 4000, 3, 64], 0), "sched_yield": ([], 0), "random_get": ([64, 100], 0),
}


def test_all_functions_are_called_here():
    assert {*DOES, *CONSTANT, "proc_exit"} == {*SPEC}


@ENGINES
@pytest.mark.parametrize("name", DOES)
def test_does(weir, engine, name):
    args, errno = DOES[name]
    assert call(weir, name, *args, engine=engine) == errno


@ENGINES
@pytest.mark.parametrize("value", [0, -1])
@pytest.mark.parametrize("name", CONSTANT)
def test_answers_that_there_is_no_such_thing(weir, engine, name, value):
    assert call(weir, name, *[value] * len(SPEC[name]), engine=engine) == CONSTANT[name]


@pytest.mark.parametrize("name,args", [
    ("fd_close", [3]), ("fd_close", [-1]), ("fd_fdstat_set_flags", [3, 0]), ("fd_filestat_get", [3, 64]),
    ("fd_fdstat_get", [3, 64]), ("fd_read", [1, 1000, 1, 64]),
    ("fd_read", [3, 1000, 1, 64]), ("fd_write", [0, 1000, 1, 64]), ("fd_write", [3, 1000, 1, 64]),
    ("fd_seek", [3, 0, 0, 0]), ("fd_tell", [-1, 0])])
def test_other_descriptors(weir, name, args):
    assert call(weir, name, *args) == EBADF


OUTSIDE = [PAGE, PAGE - 1, 0xffffffff, 0xfffffffc, 0x80000000]
# Each with P where one pointer is to lead outside.
POINTERS = [
    ("args_get", ["P", 64]), ("args_get", [64, "P"]), ("args_sizes_get", ["P", 4]), ("args_sizes_get", [0, "P"]),
    ("environ_get", ["P", 64]), ("environ_get", [64, "P"]), ("environ_sizes_get", ["P", 4]),
    ("environ_sizes_get", [0, "P"]), ("clock_res_get", [0, "P"]), ("clock_time_get", [1, 0, "P"]),
    ("fd_fdstat_get", [1, "P"]), ("fd_filestat_get", [1, "P"]), ("fd_read", [0, "P", 1, 64]), ("fd_read", [0, 1000, 1, "P"]),
    ("fd_write", [1, "P", 1, 64]), ("fd_write", [2, 1000, 1, "P"]), ("poll_oneoff", ["P", 4000, 1, 64]),
    ("poll_oneoff", [3000, "P", 1, 64]), ("poll_oneoff", [3000, 4000, 1, "P"]), ("random_get", ["P", 100]),
]


@ENGINES
@pytest.mark.parametrize("at", OUTSIDE)
@pytest.mark.parametrize("name,args", POINTERS)
def test_pointers_outside(weir, engine, name, args, at):
    assert call(weir, name, *[at if a == "P" else a for a in args], engine=engine) == EFAULT


def test_every_pointer_is_tried_outside():
    """Each function that does something, and that takes more than a descriptor or a code."""
    plain = {"fd_close", "fd_fdstat_set_flags", "fd_seek", "fd_tell", "sched_yield", "proc_exit"}
    assert {name for name, _ in POINTERS} | plain == {*DOES, "proc_exit"}


@pytest.mark.parametrize("name,vector,n", [("fd_read", 1300, 1), ("fd_read", 1400, 1),
                                           ("fd_write", 1300, 1), ("fd_write", 1400, 1)])
def test_vectors_that_lead_outside(weir, name, vector, n):
    assert call(weir, name, int(name == "fd_write"), vector, n, 64) == EFAULT


def test_what_was_taken_before_a_vector_that_leads_outside_counts(weir):
    assert call(weir, "fd_write", 1, 1200, 2, 64) == 0


@pytest.mark.parametrize("name", ["fd_read", "fd_write"])
def test_counts_of_vectors_are_bounded(weir, name):
    fd = int(name == "fd_write")
    assert call(weir, name, fd, 30000, 1025, 64) == EINVAL
    assert call(weir, name, fd, 30000, 0, 64) == 0
    for n in (0x20000000, 0xffffffff):
        assert call(weir, name, fd, 0, n, 64) == EFAULT


def test_a_call_moves_at_most_64_kib(weir):
    assert peek(weir, "fd_write", 2, 1500, 20, 64, at=64) == (0, CHUNK)


@pytest.mark.parametrize("n,errno", [(0, EINVAL), (64, 0), (65, EINVAL), (0xffffffff, EFAULT)])
def test_counts_of_subscriptions_are_bounded(weir, n, errno):
    r = weir.post("/api/exec/probe/poll_oneoff", str([8192, 0, n, 8188]))
    assert (r.status, r.body) == (200, b"%d\n" % errno)


@ENGINES
def test_poll_oneoff(weir, engine):
    """The clock has rung; descriptors are bad. Each event says which subscription it answers."""
    args = [3000, 4000, 3, 64]
    assert peek(weir, "poll_oneoff", *args, at=64, engine=engine) == (0, 3)
    for i, (userdata, tag, errno) in enumerate([(7, 0, 0), (8, 1, EBADF), (9, 2, EBADF)]):
        assert peek(weir, "poll_oneoff", *args, at=4000 + 32 * i, engine=engine) == (0, userdata)
        assert peek(weir, "poll_oneoff", *args, at=4008 + 32 * i, engine=engine) == (0, tag << 16 | errno)


def test_poll_oneoff_over_itself(weir):
    """Events that overwrite the subscriptions: what they say is the guest's own affair."""
    assert peek(weir, "poll_oneoff", 3000, 3000, 1, 64, at=64) == (0, 1)


def test_clocks(weir):
    errno, ns = peek(weir, "clock_time_get", 0, 0, 64, at=64)
    assert errno == 0 and ns % 10**6 == 0 and 1.6e18 < ns < 1e19
    times = [peek(weir, "clock_time_get", 1, 0, 64, at=64)[1] for _ in range(5)]
    assert times == sorted(times) and times[0] > 0
    assert peek(weir, "clock_res_get", 0, 64, at=64) == (0, 10**6)
    for clock in (4, -1):
        assert call(weir, "clock_time_get", clock, 0, 64) == EINVAL
        assert call(weir, "clock_res_get", clock, 64) == EINVAL


@ENGINES
def test_random(weir, engine):
    seen = {peek(weir, "random_get", 64, 8, at=64, engine=engine) for _ in range(8)}
    assert len(seen) == 8 and {e for e, _ in seen} == {0}
    assert call(weir, "random_get", 0, CHUNK, engine=engine) == 0
    assert peek(weir, "random_get", 64, 0, at=64) == (0, 0)


def test_random_is_bounded(start):
    """A module with memory enough that the length alone is what is wrong."""
    path = module("large", '(func (export "f") (param i32) (result i32) (drop (memory.grow (i32.const 4)))'
                           '(call $random_get (i32.const 0) (local.get 0)))', ["random_get"])
    weir = start({"modules": {"f": path}})
    assert weir.exec("f", f"[{CHUNK}]") == "0"
    assert weir.exec("f", f"[{CHUNK + 1}]") == str(EINVAL)


def test_arguments_and_environment(weir):
    assert peek(weir, "args_sizes_get", 64, 72, at=64) == (0, 1)
    assert peek(weir, "args_sizes_get", 64, 72, at=72) == (0, len("probe") + 1)
    assert peek(weir, "args_get", 64, 128, at=64) == (0, 128)
    assert peek(weir, "args_get", 64, 128, at=128) == (0, int.from_bytes(b"probe\0\0\0", "little"))
    size = sum(len(k) + len(v.replace("$$", "$")) + 2 for k, v in ENV.items())
    assert peek(weir, "environ_sizes_get", 64, 72, at=64) == (0, len(ENV))
    assert peek(weir, "environ_sizes_get", 64, 72, at=72) == (0, size)
    first = len("GREETING=hi there") + 1
    assert peek(weir, "environ_get", 64, 128, at=64) == (0, (128 + first) << 32 | 128)
    assert peek(weir, "environ_get", 64, 128, at=128) == (0, int.from_bytes(b"GREETING", "little"))


def test_host_calls_are_counted(start):
    path = module("calls", """(func (export "f") (param $n i32) (result i32)
        (loop $more (drop (call $sched_yield))
          (br_if $more (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) (i32.const 1))""", ["sched_yield"])
    weir = start({"modules": {"f": {"path": path, "limits": {"calls": 10}}}})
    assert weir.exec("f", "[10]") == "1"
    problem(weir.post("/api/exec/f", "[11]"), 500, "GUEST_CALLS")


# ---------------------------------------------------------------------------- what may be loaded


def refused(folder, wat, why, **config):
    (folder / "m.wat").write_text(wat)
    (folder / "weir.yaml").write_text(f'{{"modules": {{"m": {{"path": "m.wat"{"".join(config.values())}}}}}}}')
    r = run_cli("check", folder / "weir.yaml")
    assert r.returncode == 1 and why in r.stderr, r.stderr


MEMORY = '(memory (export "memory") 1)'


def test_unknown_function(tmp_path):
    refused(tmp_path, f'(module (import "wasi_snapshot_preview1" "fd_open" (func)) {MEMORY})',
            "wasi_snapshot_preview1::fd_open")


def test_another_signature(tmp_path):
    refused(tmp_path, f'(module (import "wasi_snapshot_preview1" "fd_close" (func (param i64))) {MEMORY})', "fd_close")


def test_older_wasi(tmp_path):
    refused(tmp_path, f'(module (import "wasi_unstable" "fd_close" (func (param i32) (result i32))) {MEMORY})',
            "wasi_unstable")


def test_memory_must_be_exported(tmp_path):
    refused(tmp_path, f"(module {imported('fd_close')} (memory 1))", "export its memory")
    refused(tmp_path, '(module (import "env" "abort" (func (param i32 i32 i32 i32))) (memory 1))', "export its memory")
    refused(tmp_path, f'(module {imported("fd_close")} (func (export "memory")))', "export its memory")


def test_allow_without_wasi(tmp_path):
    refused(tmp_path, f"(module {imported('fd_close')} {MEMORY})", "allow: does not list wasi", a=', "allow": ["log"]')
    refused(tmp_path, f'(module (import "env" "abort" (func (param i32 i32 i32 i32))) {MEMORY})',
            "env.abort", a=', "allow": ["log"]')


def test_allow_with_wasi(start):
    weir = start({"modules": {"m": {"path": command("m", HEAD + b"x"), "allow": ["wasi"]}}})
    assert weir.post("/api/exec/m", "").body == b"x"


def test_a_command_is_no_actor(tmp_path):
    refused(tmp_path, '(module (func (export "_start")))', "instance: event", a=', "instance": "module"')


def test_start_with_parameters(tmp_path):
    refused(tmp_path, '(module (func (export "_start") (param i32)))', "_start")


@pytest.mark.parametrize("env,why", [
    ('{"A=B": "x"}', "no ="), ('{"": "x"}', "1 to 128"), ('{"%s": "x"}' % ("k" * 129), "1 to 128"),
    ('{"K": "%s"}' % ("v" * 4097), "at most 4096"), ('{"K": "a", "K": "b"}', "twice"), ('["K"]', "a map"),
    ('{"K": ["x"]}', "a plain value"), ('{"K": "${NO_SUCH_VARIABLE_HERE}"}', "NO_SUCH"), ('{"K": "a\\0b"}', "zero byte"),
    ("{" + ", ".join(f'"K{i}": "x"' for i in range(65)) + "}", "at most 64")])
def test_env_that_is_none(tmp_path, env, why):
    refused(tmp_path, "(module)", why, env=f', "env": {env}')


# ---------------------------------------------------------------------------- commands


@pytest.mark.parametrize("name", OUTPUTS)
def test_output(weir, name):
    _, status, fields, body = OUTPUTS[name]
    r = weir.post(f"/api/exec/{name}", "")
    assert (r.status, r.body) == (status, body)
    for field, value in fields.items():
        assert r.headers.get(field) == value


@pytest.mark.parametrize("name", PLAIN)
def test_output_without_a_header_block(weir, name):
    r = weir.post(f"/api/exec/{name}", "")
    assert (r.status, r.body) == (200, PLAIN[name])
    assert r.headers.get("content-type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize("name", [*BAD_OUTPUTS, "too_much"])
def test_output_that_is_no_response(weir, name):
    doc = problem(weir.post(f"/api/exec/{name}", ""), 500, "GUEST_RESPONSE")
    assert "stdout" in doc["detail"] or "limits.output" in doc["detail"]
    assert weir.wait_log("guest_failed", module=name)["detail"] == doc["detail"]


def test_exit_0_has_answered(weir):
    traps = weir.metric("guest_traps_total")
    for _ in range(3):
        r = weir.post("/api/exec/exit_0", "")
        assert (r.status, r.body) == (200, b"bye")
    assert weir.metric("guest_traps_total") == traps
    assert not weir.logs("guest_failed", module="exit_0")


@pytest.mark.parametrize("name", ["exit_1", "exit_neg"])
def test_other_exit_codes(weir, name):
    doc = problem(weir.post(f"/api/exec/{name}", ""), 500, "GUEST_EXIT")
    assert doc["detail"]
    if name == "exit_1":
        assert weir.wait_log("guest_warn", module=name)["text"] == "why it failed"


def test_a_command_that_traps(weir):
    problem(weir.post("/api/exec/traps", ""), 500, "GUEST_TRAP")


@pytest.mark.parametrize("n", [0, 1, 99, 100, 101, 65536, 200000])
def test_stdin_is_the_body(weir, n):
    body = bytes(itertools.islice(itertools.cycle(range(256)), n))
    for path in ("/echo", "/api/exec/echo"):
        r = weir.get(path, method="POST", body=body)
        assert (r.status, r.body) == (200, body)


def environ(weir, path, **kw):
    r = weir.get(path, **kw)
    assert r.status == 200, r
    assert r.body.endswith(b"\0")
    return [line.decode("latin-1").split("=", 1) for line in r.body[:-1].split(b"\0")]


def test_variables(weir):
    pairs = environ(weir, "/env/a%20b%2F%00%e2%82%aC?q=1&r", method="PUT", body=b"12345",
                    headers="Content-Type: a/b\r\nX-Two: 1\r\nx-two: 2\r\nCookie: a=1\r\nCookie: b=2\r\nX_Under: 1\r\n"
                            "X.Dot: 1\r\nProxy: evil\r\nX-Mine: theirs\r\n")
    env = dict(pairs)
    assert len(env) == len(pairs), "no name twice"
    assert pairs[:len(ENV)] == [[k, v.replace("$$", "$")] for k, v in ENV.items()]
    assert env["HTTP_X_MINE"] == "mine" and env["SERVER_NAME"] == "mine", "what is configured stays"
    want = {"GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "PUT",
            "SCRIPT_NAME": "/env", "PATH_INFO": "/a b/%00€".encode().decode("latin-1"), "QUERY_STRING": "q=1&r", "CONTENT_TYPE": "a/b",
            "CONTENT_LENGTH": "5", "REMOTE_ADDR": "127.0.0.1", "SERVER_PORT": str(weir.port), "HTTP_X_TWO": "1, 2",
            "HTTP_COOKIE": "a=1; b=2"}
    assert {k: env.get(k) for k in want} == want
    assert not [k for k in env if "UNDER" in k or "DOT" in k or "PROXY" in k]
    assert "HTTP_CONTENT_TYPE" not in env and "HTTP_CONTENT_LENGTH" not in env


@pytest.mark.parametrize("path,script,info", [
    ("/env", "/env", ""), ("/env/x/y", "/env", "/x/y"), ("/other", "", "/other"), ("/env2", "", "/env2")])
def test_script_and_path(weir, path, script, info):
    env = dict(environ(weir, path))
    assert (env["SCRIPT_NAME"], env["PATH_INFO"], env["QUERY_STRING"]) == (script, info, "")
    assert "CONTENT_LENGTH" not in env and "CONTENT_TYPE" not in env


def test_a_command_by_exec(weir):
    env = dict(environ(weir, "/api/exec/environ?x", method="POST", body=b""))
    assert (env["SCRIPT_NAME"], env["PATH_INFO"], env["QUERY_STRING"]) == ("/api/exec/environ", "", "x")
    problem(weir.post("/api/exec/environ", "", headers="Content-Encoding: gzip\r\n"), 415, "CONTENT_CODING")
    r = weir.get("/api/exec/environ")
    problem(r, 405, "METHOD")
    assert r.headers.get("allow") == "POST, OPTIONS"
    assert weir.get("/api/exec/environ", method="OPTIONS").status == 204
    problem(weir.post("/api/exec/environ/_start", ""), 404, "NOT_FOUND")
    problem(weir.post("/api/exec/closed", ""), 404, "NOT_FOUND")


def test_many_fields_and_long_ones(weir):
    fields = "".join(f"X-{i}: {'v' * 100}\r\n" for i in range(50)) + f"X-{'n' * 128}: y\r\nX-{'n' * 127}: y\r\n"
    env = dict(environ(weir, "/env", headers=fields))
    assert len([k for k in env if re.fullmatch(r"HTTP_X_\d+", k)]) == 50
    assert [len(k) for k in env if "NNN" in k] == [], "longer than any that is used"


def test_a_command_by_a_c_compiler(start, tmp_path):
    path = tmp_path / "cgi.wasm"
    subprocess.run(["clang", "--target=wasm32-wasi", "-O2", GUESTS / "cgi.c", "-o", path], check=True)
    weir = start({"modules": {"cgi": {"path": str(path), "env": {"GREETING": "hi"}},
                              "portable": {"path": str(path), "engine": "pulley", "env": {"GREETING": "hi"},
                                           "limits": {"deadline": "1s"}}}})
    sizes = [0, 5, 200000, 5]
    for name in ("cgi", "portable"):
        for n in sizes:
            r = weir.post(f"/api/exec/{name}", b"x" * n)
            assert (r.status, r.body) == (201, f"1 {name} POST hi {n} 1\n".encode())
            problem(weir.post(f"/api/exec/{name}", "", headers="X-Exit: 3\r\n"), 500, "GUEST_EXIT")
        said = [line["text"] for line in weir.wait_logs("guest_warn", module=name, n=2 * len(sizes))]
        assert said == [f"read {n} bytes" for size in sizes for n in (size, 0)]


# ---------------------------------------------------------------------------- what is printed


def test_lines_go_to_the_log(weir):
    before = len(weir.logs("guest_info", module="probe"))
    assert call(weir, "fd_write", 1, 1100, 3, 64) == 0
    lines = weir.wait_logs("guest_info", module="probe", n=before + 2)[before:]
    assert [line["text"] for line in lines] == ["hello", "hello"]
    assert all(line["conn_id"] for line in lines)


def test_a_flood_is_cut(weir):
    """16 KiB an event, lines counting 64 bytes more than they have; the event itself ends well."""
    assert weir.exec("flood", "[1000]") == "null"
    last = weir.wait_log("guest_warn", module="flood")
    assert "dropped" in last["text"]
    lines = weir.logs("guest_info", module="flood")
    assert len(lines) == -(-16384 // 1063) and {line["text"] for line in lines} == {"x" * 999}
    weir.exec("flood", "[1]")
    assert weir.wait_logs("guest_warn", module="flood", n=2)[1]["text"] == "last", "the end of an unfinished line"


def test_reactor(weir):
    """_initialize prints; a message that exits with 0 ends well, as if its handler had returned 0."""
    with weir.raw() as c:
        c.upgrade("/ws")
        c.send(frame(TEXT, "x"))
        assert weir.wait_log("guest_warn", module="reactor")["text"] == "msg"
        c.send(frame(TEXT, "xxx"))
        c.close_frame(4000)
    with weir.raw() as c:
        c.upgrade("/ws")
        c.send(frame(TEXT, "xx"))
        c.close_frame(1011)
    failed = weir.wait_logs("guest_failed", module="reactor")
    assert [f["code"] for f in failed] == ["GUEST_EXIT"]


def test_exit_of_a_function(weir):
    problem(weir.post("/api/exec/probe/proc_exit", "[0]"), 500, "GUEST_EXIT")
    problem(weir.post("/api/exec/probe/proc_exit", "[5]"), 500, "GUEST_EXIT")


@pytest.mark.parametrize("message,file,text", [
    (104, 204, "abort: it broke ? in a.ts:3:14"), (0, 0, "abort:  in :3:14"), (3, 204, "abort:  in a.ts:3:14"),
    (304, 204, "abort:  in a.ts:3:14"), (0xffffffff, 204, "abort:  in a.ts:3:14"),
    (PAGE + 4, 204, "abort:  in a.ts:3:14"), (104, PAGE, "abort: it broke ? in :3:14")])
def test_abort(weir, message, file, text):
    before = len(weir.logs("guest_warn", module="aborts"))
    doc = problem(weir.post("/api/exec/aborts", f"[{message}, {file}]"), 500, "GUEST_TRAP")
    assert "unreachable" in doc["detail"] and "breaks" in doc["detail"]
    assert weir.wait_logs("guest_warn", module="aborts", n=before + 1)[before]["text"] == text
