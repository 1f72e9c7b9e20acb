"""/debug/pprof: profiles as `go tool pprof` reads them: guests' functions beside C frames, memory by owner and
module; what is asked wrongly, or left alone, leaves nothing on."""
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import namedtuple

import pytest

import weir as weir_module
from weir import ROOT, WEIR_BIN, WEIRC_BIN, Raw, guest, problem, rounds, wait_for

GUEST = {"path": guest("profiled"), "engine": "native", "limits": {"deadline": "5s", "timeout": "10s"}}
CONFIG = {"modules": {"profiled": GUEST}, "admin": {"heap_profile": "1KiB"},
          "routes": [{"path": "/raw", "websocket": {"handler": "echo"}}]}
CPU, HEAP, ALLOCS = (f"/debug/pprof/{x}" for x in ("profile", "heap", "allocs"))
GO = shutil.which("go") or "/usr/local/go/bin/go"

# ---------------------------------------------------------------------------- profile.proto

Profile = namedtuple("Profile", "types samples period duration mappings shown")
Sample = namedtuple("Sample", "values stack labels")


def fields(data):
    """(number, int or bytes) of a message of protobuf."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            assert key & 7 == 2
            n = varint()
            assert at + n <= len(data)
            yield key >> 3, data[at:at + n]
            at += n


def packed(data):
    out, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            out.append(value - (1 << 64) if value >> 63 else value)
            value = shift = 0
    assert not shift
    return out


def read_profile(body):
    top = {}
    for number, value in fields(gzip.decompress(body)):
        top.setdefault(number, []).append(value)
    strings = [s.decode() for s in top[6]]
    assert strings[0] == ""

    def text(message, *numbers):
        m = dict(fields(message))
        return tuple(strings[m.get(n, 0)] for n in numbers)

    functions = {dict(fields(f))[1]: text(f, 2)[0] for f in top.get(5, [])}
    mappings = {dict(fields(m))[1]: text(m, 5)[0] for m in top[3]}
    locations = {}
    for m in map(dict, map(fields, top.get(4, []))):
        assert m[1] not in locations and m.get(2, 1) in mappings
        locations[m[1]] = functions[dict(fields(m[4]))[1]] if 4 in m else hex(m[3])
    samples = []
    for s in top.get(2, []):
        m = {}
        for number, value in fields(s):
            m.setdefault(number, []).append(value)
        samples.append(Sample(packed(m[2][0]), [locations[i] for i in packed(m[1][0])],
                              dict(text(x, 1, 2) for x in m.get(3, []))))
    return Profile([text(t, 1, 2) for t in top[1]], samples, (*text(top[11][0], 1, 2), top[12][0]), top[10][0],
                   list(mappings.values()), strings[top[14][0]])


def take(w, path, headers=""):
    r = w.get(path, admin=True, headers=headers)
    assert r.status == 200, r.body
    assert r.headers.get("content-type") == "application/octet-stream"
    return read_profile(r.body)


def total(profile, kind, **labels):
    i = [t for t, _ in profile.types].index(kind)
    return sum(s.values[i] for s in profile.samples if labels.items() <= s.labels.items())


class Busy:
    """Keeps a guest spinning."""

    def __init__(self, w):
        self.w, self.over = w, threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.over.is_set():
            self.w.exec("profiled/spin", f"[{rounds(20_000_000)}]")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.thread.join(15)


# ---------------------------------------------------------------------------- CPU


def hot_profile(w):
    """A profile with a second's samples of the guest: however much of the machine others take."""
    with Busy(w):
        return wait_for("the guest was sampled", lambda: (p := take(w, CPU + "?seconds=1")).samples and p, 15)


def test_a_guests_function_beside_c_frames(weir):
    p = hot_profile(weir)
    assert p.types == [("samples", "count"), ("cpu", "nanoseconds")] and p.shown == "cpu"
    assert p.period == ("cpu", "nanoseconds", 10_000_000) and p.duration >= 900_000_000
    assert all(s.values[1] == s.values[0] * 10_000_000 > 0 for s in p.samples)
    hot = max((s for s in p.samples if "hot_loop" in s.stack), key=lambda s: s.values[0])
    assert hot.labels == {"module": "profiled"}
    assert hot.stack[:2] == ["hot_loop", "spin"]
    assert hot.stack.index("weir_call_poll") < hot.stack.index("loop_run") < hot.stack.index("worker_main")
    assert max(p.samples, key=lambda s: s.values[0]) is hot
    assert os.path.realpath(WEIR_BIN) in p.mappings


@pytest.mark.guard(120)  # the tool is built at its first use
def test_go_tool_pprof_opens_them(weir, tmp_path):
    with Busy(weir):
        bodies = {"cpu": weir.get(CPU + "?seconds=1", admin=True).body}
    bodies |= {"inuse_space": weir.get(HEAP, admin=True).body, "alloc_space": weir.get(ALLOCS, admin=True).body}
    for shown, body in bodies.items():
        assert read_profile(body).shown == shown
        if not os.path.exists(GO):
            continue
        (tmp_path / shown).write_bytes(body)
        r = subprocess.run([GO, "tool", "pprof", "-top", str(tmp_path / shown)], capture_output=True, text=True, timeout=110)
        assert r.returncode == 0, r.stderr
        assert re.search(r"^File: weir$", r.stdout, re.M) and f"Type: {shown}\n" in r.stdout
        assert re.search(r"^ .* (worker_main|loop_run)$", r.stdout, re.M)
        assert shown != "cpu" or re.search(r"^ .* hot_loop$", r.stdout, re.M)


def test_a_program_that_was_stripped_has_names(start, tmp_path, monkeypatch):
    program = tmp_path / "weir"
    subprocess.run([ROOT / "deploy/symbols", WEIR_BIN, program], check=True)
    assert program.stat().st_size < os.path.getsize(WEIR_BIN)
    assert "no symbols" in subprocess.run(["nm", program], capture_output=True, text=True).stderr
    (tmp_path / "weirc").symlink_to(WEIRC_BIN)
    monkeypatch.setattr(weir_module, "WEIR_BIN", str(program))
    p = hot_profile(start(CONFIG))
    hot = max((s for s in p.samples if "hot_loop" in s.stack), key=lambda s: s.values[0])
    assert hot.stack.index("weir_call_poll") < hot.stack.index("loop_run") < hot.stack.index("worker_main")


def test_all_loops_are_sampled(start):
    w = start({**CONFIG, "workers": 3})
    with Busy(w):
        p = wait_for("the guest was sampled", lambda: (p := take(w, CPU + "?seconds=1")).samples and p, 15)
    assert any("hot_loop" in s.stack for s in p.samples)
    heap = take(w, HEAP)
    assert total(heap, "inuse_space", owner="code") == 3 * os.path.getsize(next(iter(cached(w))))


def cached(w):
    folder = w.config["cache"]
    found = [os.path.join(folder, x) for x in os.listdir(folder)]
    code = w.metric("code_bytes") / 3
    return [x for x in found if os.path.getsize(x) == code]


def test_a_version_that_is_replaced_meanwhile_keeps_its_names(start, tmp_path):
    text = open(guest("profiled")).read()
    file = tmp_path / "m.wat"
    file.write_text(text)
    w = start({**CONFIG, "modules": {"profiled": {**GUEST, "path": str(file)}}})
    got = []
    with Busy(w):
        t = threading.Thread(target=lambda: got.append(take(w, CPU + "?seconds=4")))
        t.start()
        w.wait_metric("profiles_active", 1)
        wait_for("its first version ran", lambda: w.metric("module_cpu_seconds_total", module="profiled") > 0.3, 10)
        file.write_text(text.replace("hot_loop", "new_loop"))
        w.signal(signal.SIGHUP)
        w.signalled = False
        w.wait_log("module_unloaded", timeout=10)
        t.join(10)
    names = {x for s in got[0].samples for x in s.stack}
    assert {"hot_loop", "spin"} <= names


# ---------------------------------------------------------------------------- memory


def test_a_planted_allocation_has_its_owner_and_module(weir):
    before = take(weir, ALLOCS)
    assert before.shown == "alloc_space"
    assert [t for t, _ in before.types] == ["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"]
    assert weir.exec("profiled/plant", "[]") == "0"
    labels = {"owner": "kv", "module": "profiled"}
    planted = take(weir, HEAP + "?gc=1")
    assert planted.shown == "inuse_space" and planted.period == ("space", "bytes", 1024)
    kv = [s for s in planted.samples if s.labels == labels]
    assert total(planted, "inuse_space", **labels) >= 300_000
    assert total(planted, "alloc_space", **labels) - total(before, "alloc_space", **labels) >= 300_000
    assert total(planted, "inuse_objects", **labels) >= 1
    assert any("loop_run" in s.stack and s.stack[0] == "mem_alloc_as" for s in kv)
    assert weir.exec("profiled/pull", "[]") == "0"
    pulled = take(weir, HEAP)
    assert total(pulled, "inuse_space", **labels) < 100_000
    assert total(pulled, "alloc_space", **labels) >= 300_000


def test_sums_are_right_in_the_mean(weir):
    conns = [weir.ws("/raw") for _ in range(40)]
    accounted = json.loads(weir.get("/debug/memory", admin=True).body)["accounted_bytes"]
    p = take(weir, HEAP)
    for c in conns:
        c.close()
    assert total(p, "inuse_space", owner="code") == accounted["code"]
    assert total(p, "inuse_space", owner="guests") == accounted["guests"]
    assert total(p, "inuse_space", owner="code", module="profiled") == accounted["code"]
    assert 0.8 < total(p, "inuse_space", owner="pools") / accounted["pools"] < 1.25
    assert all(v >= 0 for s in p.samples for v in s.values)


def test_what_changed_in_some_seconds(weir):
    got = []
    t = threading.Thread(target=lambda: got.append(take(weir, HEAP + "?seconds=2")))
    t.start()
    weir.wait_metric("profiles_active", 1)
    weir.exec("profiled/plant", "[]")
    t.join(10)
    weir.exec("profiled/pull", "[]")
    assert 250_000 < total(got[0], "inuse_space", owner="kv") < 700_000
    assert got[0].duration >= 1_900_000_000
    assert total(got[0], "alloc_space", owner="pools") == 0


GROWS = """(module (memory (export "memory") 1)
  (func (export "grow") (memory.fill (i32.shl (memory.grow (i32.const 1)) (i32.const 16)) (i32.const 1) (i32.const 65536))))"""


@pytest.mark.parametrize("every", ["64KiB", 0])
def test_an_instance_that_grows(start, tmp_path, every):
    file = tmp_path / "grows.wat"
    file.write_text(GROWS)
    w = start({**CONFIG, "admin": {"heap_profile": every}, "modules": {"other": GUEST, "grows": {"path": str(file), "instance": "module"}}})
    w.exec("grows/grow", "[]")
    got = []
    t = threading.Thread(target=lambda: got.append(take(w, HEAP + "?seconds=1")))
    t.start()
    grown = 0
    while t.is_alive():
        w.exec("grows/grow", "[]")
        grown += 65536
        time.sleep(0.02)
    t.join(10)
    assert 0 < total(got[0], "inuse_space", owner="guests", module="grows") <= grown
    assert total(got[0], "inuse_space", owner="guests", module="other") == total(got[0], "inuse_space", owner="code") == 0


def test_memory_is_noted_while_it_is_asked_for(start):
    w = start({**CONFIG, "admin": {"heap_profile": 0}})
    assert "seconds=" in problem(w.get(HEAP, admin=True), 400, "INVALID")["detail"]
    held = json.loads(w.get("/debug/memory", admin=True).body)["accounted_bytes"]["buffers"]
    got = []
    t = threading.Thread(target=lambda: got.append(take(w, ALLOCS + "?seconds=2")))
    t.start()
    w.wait_metric("profiles_active", 1)
    w.exec("profiled/plant", "[]")
    t.join(10)
    assert total(got[0], "inuse_space", owner="kv", module="profiled") >= 200_000
    problem(w.get(HEAP, admin=True), 400)
    w.exec("profiled/pull", "[]")
    now = json.loads(w.get("/debug/memory", admin=True).body)["accounted_bytes"]["buffers"]
    assert now < held + (64 << 10), "the table of stacks is given back"


# ---------------------------------------------------------------------------- what is asked wrongly


@pytest.mark.parametrize("path", [
    *(CPU + "?" + q for q in ("seconds=-1", "seconds=0", "seconds=1e9", "seconds=1000000000", "seconds=601", "seconds=",
                              "seconds", "seconds=1;", "seconds=1&", "&", "gc=1", "x=1", "seconds=1&x=1",
                              "seconds=1&seconds=-1", "seconds=0x1", "SECONDS=1", "debug=1", "%00", "=", "a" * 100)),
    *(HEAP + "?" + q for q in ("gc=2", "gc=", "gc", "gc=-1", "debug=1", "seconds=0", "seconds=99999")),
    ALLOCS + "?gc=yes"])
def test_what_is_no_query(weir, path):
    assert "seconds=1" in problem(weir.get(path, admin=True), 400, "INVALID")["detail"]


def test_paths_and_methods(weir):
    for path in ("/debug/pprof", "/debug/pprof/"):
        r = weir.get(path, admin=True)
        assert r.status == 200 and r.headers.get("content-type").startswith("text/html")
        for href in re.findall(r'href="([^"]+)"', r.body.decode()):
            assert pprof_path(href)
    for path in ("/debug/pprof/heaps", "/debug/pprof/heap/", "/debug/pprof//heap", "/debug/pprof/goroutine", "/debug/pprofile"):
        problem(weir.get(path, admin=True), 404)
    for method in ("POST", "PUT", "DELETE", "HEAD"):
        for path in (CPU, HEAP, ALLOCS):
            assert weir.get(path, admin=True, method=method, body=None if method == "HEAD" else "").status == 405
    assert weir.get(HEAP).status == 404, "not on a public listener"


def pprof_path(href):
    return href.split("?")[0] in (CPU, HEAP, ALLOCS)


def test_one_at_a_time(weir):
    with Raw(weir.admin) as c:
        c.send(f"GET {CPU}?seconds=600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        weir.wait_metric("profiles_active", 1)
        for path in (CPU, CPU + "?seconds=1", HEAP + "?seconds=1", ALLOCS + "?seconds=1"):
            problem(weir.get(path, admin=True), 409, "PROFILE_BUSY")
        assert take(weir, HEAP).samples, "what is known already can be asked for"
        c.shut()  # it is answered with what there is
        assert c.response().status == 200
    weir.wait_metric("profiles_active", 0)


def test_a_peer_that_goes(weir):
    buffers = json.loads(weir.get("/debug/memory", admin=True).body)["accounted_bytes"]["buffers"]
    for end in ("close", "reset"):
        c = Raw(weir.admin)
        c.send(f"GET {CPU}?seconds=600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        weir.wait_metric("profiles_active", 1)
        getattr(c, end)()
        weir.wait_metric("profiles_active", 0)
    now = json.loads(weir.get("/debug/memory", admin=True).body)["accounted_bytes"]["buffers"]
    assert now < buffers + (64 << 10), "its memory is given back"


@pytest.mark.parametrize("loops", [1, 2])
def test_a_reload_meanwhile(start, loops):
    w = start({**CONFIG, "workers": loops})
    with Raw(w.admin) as c:
        c.send(f"GET {CPU}?seconds=600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        w.wait_metric("profiles_active", 1)
        w.config["limits"] = {"message": "32KiB"}
        w.file.write_text(json.dumps(w.config))
        w.signal(signal.SIGHUP)
        w.signalled = False
        w.wait_log("handover_done", timeout=10)
        read_profile(c.response().body)
    w.wait_metric("profiles_active", 0)


def test_the_end_meanwhile(start):
    w = start(CONFIG)
    with Raw(w.admin) as c:
        c.send(f"GET {CPU}?seconds=600 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        w.wait_metric("profiles_active", 1)
        w.stop()
        read_profile(c.response().body)


# ---------------------------------------------------------------------------- who may


def test_off(start):
    w = start({**CONFIG, "admin": {"profiles": "off"}})
    for path in ("/debug/pprof", "/debug/pprof/", CPU, CPU + "?seconds=1", HEAP, ALLOCS, "/debug/pprof/x"):
        problem(w.get(path, admin=True), 403, "PROFILES_OFF")
    with open(f"/proc/{w.worker_pid()}/timers") as f:
        assert "signal: 27/" not in f.read(), "no thread has a timer for it"


def test_the_token(start):
    w = start({**CONFIG, "admin": {"token": "secret-of-16-letters"}})
    for path in ("/debug/pprof/", CPU + "?seconds=1", HEAP, ALLOCS):
        r = w.get(path, admin=True)
        problem(r, 401, "UNAUTHORIZED")
        assert r.headers.get("www-authenticate") == "Bearer"
        problem(w.get(path, admin=True, headers="Authorization: Bearer wrong\r\n"), 401)
    take(w, HEAP, "Authorization: Bearer secret-of-16-letters\r\n")


def test_pages_of_other_sites(weir):
    for path in ("/debug/pprof/", CPU + "?seconds=1", HEAP, ALLOCS):
        problem(weir.get(path, admin=True, headers="Origin: http://evil.example\r\n"), 403, "FORBIDDEN")
        with Raw(weir.admin) as c:
            c.send(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            problem(c.response(), 403, "FORBIDDEN")
