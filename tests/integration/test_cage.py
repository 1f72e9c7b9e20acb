"""The worker's cage: that it is there, that all kinds of traffic work inside it, and what a missing layer
or a forbidden system call looks like to the operator. What it forbids, call by call: tests/unit/test_cage.c."""
import ctypes
import os
import platform
import re
import signal
import stat
import sys

import pytest

import weir as weir_module
from weir import RFC3339, TEXT, close, frame, guest, problem, proc_state, refuses_to_serve, run_cli, wait_for

LAYERS = {"no_new_privs", "limits", "landlock", "capabilities", "seccomp"}
MODULES = {"add": guest("add"), "addp": {"path": guest("add"), "engine": "pulley"},
           "types": guest("types"), "typesp": {"path": guest("types"), "engine": "pulley"},
           "ws": guest("ws"), "wsp": {"path": guest("ws"), "engine": "pulley"}, "http": guest("http")}
CONFIG = {"modules": MODULES,
          "routes": [{"path": "/raw", "websocket": {"handler": "echo"}}, {"path": "/ws", "websocket": {"module": "ws"}},
                     {"path": "/wsp", "websocket": {"module": "wsp"}}, {"path": "/h", "http": {"module": "http"}}]}


def status(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def limits(pid):
    with open(f"/proc/{pid}/limits") as f:
        return {line[:26].strip(): line[26:].split()[:2] for line in f}


def missing(w):
    return {x["layer"]: x["detail"] for x in w.logs("sandbox_missing")}


def sanitized(w):
    return "sanitizers" in missing(w).get("seccomp", "")


def all_kinds_of_traffic(w):
    for engine in ("", "p"):
        assert w.exec(f"add{engine}", "[2.5,3.7]") == "6.2"
        assert w.exec(f"types{engine}/grow", "[20]") == "1"
        for trap in ("outer", "outside", "recurse"):
            problem(w.post(f"/api/exec/types{engine}/{trap}", "[]"), 500)
        problem(w.post(f"/api/exec/types{engine}/div", "[1,0]"), 500)
        problem(w.post(f"/api/exec/types{engine}/endless", "[]"), 504)
        with w.ws(f"/ws{engine}") as c:
            c.send(frame(TEXT, "ex"))
            assert c.message() == (TEXT, b"x")
            c.send(close(1000)).close_frame(1000)
            c.closed()
    # jansson takes a seed at its first object
    problem(w.post("/api/exec/add", '{"a": {"b": 1}}'), 422)
    assert w.get("/h?s200").status == 200
    assert w.get("/nowhere").status == 404
    with w.ws("/raw") as c:
        big = b"x" * 60000
        c.send(frame(TEXT, big))
        assert c.message() == (TEXT, big)
    with w.raw() as c:
        c.send("GET / HTTP/1.1\r\n")
        c.reset()
    assert w.get("/healthz", admin=True).status == 200
    assert w.metrics()


def drains(w):
    with w.raw() as c, w.ws("/ws") as ws:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert c.response().status == 100
        w.signal()
        ws.close_frame(1001)
        ws.send(close(1001)).closed()
        assert c.send("[1,2]").response().body == b"3\n"
    assert w.wait_exit() == 0
    assert not w.logs("worker_exit") and not w.logs("sandbox_violation")
    w.wait_log("stopped")


def test_the_worker_is_caged(start):
    w = start(CONFIG)
    worker = status(w.worker_pid())
    ready = w.wait_log("sandbox_ready")
    assert worker["NoNewPrivs"] == "1" and worker["Threads"] == "1"
    assert [worker[f"Cap{x}"] for x in ("Inh", "Prm", "Eff", "Amb")] == ["0" * 16] * 4
    if os.geteuid() == 0 and int(status("self")["CapEff"], 16) >> 8 & 1:  # CAP_SETPCAP
        assert worker["CapBnd"] == "0" * 16
    assert worker["Seccomp"] == ("0" if sanitized(w) else "2")
    for name in ("Max core file size", "Max processes", "Max file size"):
        assert limits(w.worker_pid())[name] == ["0", "0"]
    assert set(ready["layers"].split()) | set(missing(w)) == LAYERS
    assert not set(ready["layers"].split()) & set(missing(w))
    assert status(w.supervisor)["Seccomp"] == "0", "the supervisor compiles and starts workers"
    all_kinds_of_traffic(w)
    drains(w)


@pytest.mark.parametrize("level", ["debug", "error"])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "/nowhere/zone"])
def test_nothing_is_opened_at_first_use(start, level, zone):
    """With log_level error, the first time that is formatted is a request's; a zone's file is read then."""
    w = start({**CONFIG, "log_level": level}, env={} if zone is None else {"TZ": zone})
    all_kinds_of_traffic(w)


def test_off(start):
    w = start({**CONFIG, "sandbox": "off"})
    worker = status(w.worker_pid())
    assert (worker["Seccomp"], worker["NoNewPrivs"]) == ("0", "0") or status("self")["NoNewPrivs"] == "1"
    assert missing(w) == {"all": "sandbox: off"} and not w.logs("sandbox_ready")
    assert w.wait_logs("sandbox_missing")[0]["level"] == "warn"
    all_kinds_of_traffic(w)
    drains(w)


def refused(w, *layers):
    """Exit code 1, never ready, and the log says which layers and why."""
    r = refuses_to_serve(w.file, timeout=20)
    assert r.returncode == 1
    assert '"event":"sandbox_refused"' in r.stderr and '"worker_ready"' not in r.stderr
    for layer in layers:
        assert re.search(rf'"event":"sandbox_missing".*"layer":"{layer}","detail":"[^"]+"', r.stderr), r.stderr


def test_require(start):
    """It serves where the kernel gives all layers, and refuses with their names where not."""
    auto = start(CONFIG)
    lacks = missing(auto)
    auto.stop()
    w = start({**CONFIG, "sandbox": "require"}, start=False)
    if lacks:
        refused(w, *lacks)
        return
    w.start()
    assert set(w.wait_log("sandbox_ready")["layers"].split()) == LAYERS
    all_kinds_of_traffic(w)
    drains(w)


@pytest.mark.parametrize("value", ["on", "yes", "Auto", '""'])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_bad_value(tmp_path, command, value):
    file = tmp_path / "weir.yaml"
    file.write_text(f"drain: 1s\nsandbox: {value}\n")
    r = run_cli("check", file) if command == "check" else refuses_to_serve(file)
    assert r.returncode == 1
    assert re.search(rf"^{re.escape(str(file))}:\d+: .*sandbox is auto, require or off", r.stderr, re.M), r.stderr


# ---------------------------------------------------------------------------- a kernel without Landlock

WITHOUT = """#!{python}
import ctypes, os, struct, sys
# landlock_create_ruleset (444 everywhere) answers ENOSYS, as a kernel before 5.13 does
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x00050000 | 38), (6, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
os.execv({weir!r}, ["weir", *sys.argv[1:]])
"""


@pytest.fixture
def old_kernel(tmp_path, monkeypatch):
    script = tmp_path / "old-kernel"
    script.write_text(WITHOUT.format(python=sys.executable, weir=os.path.abspath(weir_module.WEIR_BIN)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(weir_module, "WEIR_BIN", str(script))


def test_auto_without_a_layer(start, old_kernel):
    """It serves with the others, and warns."""
    w = start(CONFIG)
    assert missing(w)["landlock"] == "Function not implemented"
    ready = w.wait_log("sandbox_ready")
    assert "landlock" not in ready["layers"] and "capabilities" in ready["layers"] and ready["landlock_abi"] == 0
    all_kinds_of_traffic(w)


@pytest.mark.parametrize("level", ["info", "error"])
def test_require_without_a_layer(start, old_kernel, level):
    start(CONFIG).stop()  # the compiler, which would refuse as well, is not needed then
    w = start({**CONFIG, "sandbox": "require", "log_level": level}, start=False)
    refused(w, *["landlock"] * (level == "info"))


def test_the_compilers_cage_without_a_layer(start, old_kernel, tmp_path):
    """It says so, once; and where the cage is required, nothing is compiled."""
    w = start(CONFIG, cache=tmp_path / "cold")
    said = [x for x in w.logs("sandbox_missing") if x.get("process") == "weirc"]
    assert [x["layer"] for x in said if x["layer"] != "seccomp"] == ["landlock"] and len(said) == 1 + sanitized(w)
    assert said[0]["detail"] == "Function not implemented"
    w.stop()
    r = refuses_to_serve(start({**CONFIG, "sandbox": "require"}, cache=tmp_path / "colder", start=False).file, timeout=20)
    assert r.returncode == 1 and "cage: landlock: Function not implemented" in r.stderr, r.stderr
    w = start({**CONFIG, "sandbox": "off"}, cache=tmp_path / "coldest")
    assert not [x for x in w.logs("sandbox_missing") if x.get("process") == "weirc"]


# ---------------------------------------------------------------------------- a violation

class Registers(ctypes.Structure):
    _fields_ = [(n, ctypes.c_ulonglong) for n in (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es "
        "fs gs").split()]


ATTACH, DETACH, GETREGS, SETREGS = 16, 17, 12, 13


def inject(pid, call):
    """Makes a process that sleeps in a system call make another one: what code that took it over would do."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    regs = Registers()
    if libc.ptrace(ATTACH, pid, None, None) < 0:
        pytest.skip(f"ptrace: {os.strerror(ctypes.get_errno())}")
    os.waitpid(pid, 0x40000000)  # __WALL: it is no child of ours
    assert libc.ptrace(GETREGS, pid, None, ctypes.byref(regs)) == 0
    assert regs.orig_rax != 2 ** 64 - 1, "it is in a system call"
    regs.rip -= 2  # the syscall instruction again
    regs.rax, regs.orig_rax = call, 2 ** 64 - 1
    assert libc.ptrace(SETREGS, pid, None, ctypes.byref(regs)) == 0
    assert libc.ptrace(DETACH, pid, None, None) == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets x86-64 registers")
@pytest.mark.parametrize("call,name", [(41, "socket"), (59, "execve"), (257, "openat"), (999, "?")])
def test_a_forbidden_call_is_named_and_the_worker_replaced(start, call, name):
    w = start(CONFIG)
    w.may_die = True
    if sanitized(w):
        pytest.skip("sanitizers: no seccomp")
    worker = w.worker_pid()
    assert w.exec("add", "[1,2]") == "3"
    wait_for("it sleeps", lambda: proc_state(worker) == "S")
    inject(worker, call)
    told = w.wait_log("sandbox_violation")
    assert (told["syscall"], told["number"], told["level"]) == (name, call, "error")
    assert RFC3339.match(told["time"])
    assert told["msg"] in run_cli("docs", "logs").stdout
    assert w.wait_log("worker_exit")["signal"] == signal.SIGSYS
    w.wait_logs("worker_ready", 2)
    assert len(w.wait_logs("sandbox_ready", 2)) == 2, "its successor is caged as well"
    all_kinds_of_traffic(w)
