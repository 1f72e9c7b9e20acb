"""Modules are changed while they serve: by PUT, rollback and reload on the admin listener, by the command line, by SIGHUP. New events
run the new version, those that run or wait finish on the old one; nothing is lost, and what can't be loaded changes nothing."""
import json
import os
import re
import shutil
import signal
import threading
import time

import pytest

from weir import HOST, TEXT, Closed, children, close, comm, frame, guest, problem, run_cli, wait_for

# An echo whose answer begins with a letter of its version. It counts in a key of its own (/n), and tells the count.
ECHO = """(module
  (import "weir_v1" "msg_read" (func $read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "%(letter)s")
  (data (i32.const 1024) "n0")
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (drop (call $read (i32.const 1) (i32.const 1000)))
    (drop (call $send (local.get $conn) (local.get $kind) (i32.const 0) (i32.add (local.get $len) (i32.const 1))))
    (i32.const 0))
  (func (export "count") (result i32)
    (drop (call $get (i32.const 1024) (i32.const 1) (i32.const 1025) (i32.const 1)))
    (i32.store8 (i32.const 1025) (i32.add (i32.load8_u (i32.const 1025)) (i32.const 1)))
    (drop (call $set (i32.const 1024) (i32.const 1) (i32.const 1025) (i32.const 1) (i64.const 0)))
    (i32.sub (i32.load8_u (i32.const 1025)) (i32.const 48)))
  (func (export "spin") (param $n i32) (result i32)
    (loop $l
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $l (i32.gt_s (local.get $n) (i32.const 0))))
    (i32.load8_u (i32.const 0)))
  (func (export "letter") (result i32) (i32.load8_u (i32.const 0))))"""
BAD = {
    "no text": b"\xff\xfe\x00",
    "no module": b"(module (func $x (export \"y\") (param i32) (result i64) local.get 0))",
    "a header alone": b"\0asm\1\0\0\0"[:7],
    "an import that is not there": b'(module (import "weir_v1" "nope" (func)) (func (export "on_ws_message")))',
    "no handler for its route": b'(module (func (export "letter") (result i32) (i32.const 1)))',
    "another signature": b'(module (func (export "on_ws_message") (result i32) (i32.const 0)))',
    "it traps as it begins": ECHO.replace("(memory", "(func $s unreachable) (start $s) (memory").encode() % {b"letter": b"x"},
    "it does not end": ECHO.replace("(memory", "(func $s (loop $l (br $l))) (start $s) (memory").encode() % {b"letter": b"x"},
    "too large": ECHO.replace('(memory (export "memory") 1)', '(memory (export "memory") 65)').encode() % {b"letter": b"x"},
}


def echo(letter):
    return ECHO % {"letter": letter}


def config(folder, **module):
    file = folder / "echo.wat"
    file.write_text(echo("a"))
    return {"modules": {"echo": {"path": str(file), "exec": "yes", "limits": {"deadline": "2s", "timeout": "30s"}, **module},
                        "add": guest("add")},
            "routes": [{"path": "/ws", "websocket": {"module": "echo"}}]}


@pytest.fixture
def files(tmp_path):
    return tmp_path


def put(w, body, name="echo", headers=""):
    return w.get(f"/api/v1/modules/{name}", admin=True, method="PUT", body=body, headers=headers)


def putted(w, body, name="echo"):
    r = put(w, body, name)
    assert r.status == 200, r.body
    return json.loads(r.body)


def rollback(w, name="echo"):
    return w.get(f"/api/v1/modules/{name}/rollback", admin=True, method="POST", body="")


def module(w, name="echo"):
    r = w.get("/api/v1/modules", admin=True)
    assert r.status == 200 and r.headers.get("content-type") == "application/json"
    return next(m for m in json.loads(r.body)["modules"] if m["name"] == name)


def letter(w):
    return chr(int(w.exec("echo/letter", "[]")))


def descriptors(w, connections=0):
    """Of worker and supervisor, when no connection is open but these and the one that asks."""
    w.wait_metric("connections_active", connections + 1)
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (w.worker_pid(), w.supervisor)]


def pss(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return int(re.search(r"^Pss:\s*(\d+) kB", f.read(), re.M)[1]) << 10


def only(w, n=1):
    """All replaced versions are unloaded."""
    wait_for("the old version is unloaded", lambda: len(module(w)["versions"]) == n)


def sanitized(w):
    return any("sanitizers" in x["detail"] for x in w.logs("sandbox_missing"))


# ---------------------------------------------------------------------------- what is asked and told

@pytest.mark.parametrize("engine", ["native", "pulley"])
def test_put_and_rollback(start, files, engine):
    w = start(config(files, engine=engine))
    before = module(w)
    assert (before["version"], before["rollback"], letter(w)) == (1, None, "a")
    assert re.fullmatch("[0-9a-f]{16}", before["sha256"])
    with w.ws("/ws") as c:
        c.send(frame(TEXT, "x"))
        assert c.message() == (TEXT, b"ax")
        now = putted(w, echo("b"))
        assert now["version"] == 2 and now["sha256"] != before["sha256"] and now["rollback"]["sha256"] == before["sha256"]
        c.send(frame(TEXT, "x"))
        assert c.message() == (TEXT, b"bx"), "the same connection, the new version"
        assert letter(w) == "b"
        r = rollback(w)
        assert r.status == 200 and json.loads(r.body)["version"] == 1
        c.send(frame(TEXT, "x"))
        assert c.message() == (TEXT, b"ax")
        assert json.loads(rollback(w).body)["version"] == 2
        assert letter(w) == "b", "back and forth"
        assert putted(w, echo("c"))["version"] == 3, "a number is not used twice"
    only(w)
    assert [x["version"] for x in w.wait_logs("module_swapped", n=4)] == [2, 1, 2, 3]
    assert w.metric("module_swaps_total") == 4 and w.metric("module_changes_failed_total") == 0
    assert module(w, "add")["version"] == 1, "others are as they were"


def test_wasm_as_well_as_text(start, files):
    w = start(config(files))
    binary = (b"\0asm\1\0\0\0" + b"\1\5\1\x60\0\1\x7f" + b"\3\2\1\0" + b"\7\x0a\1\6letter\0\0" +
              b"\x0a\7\1\5\0\x41\xfa\0\x0b")  # letter: "z"
    r = put(w, binary)
    problem(r, 422, "MODULE_REFUSED")  # it has no handler for the route
    w.stop()
    w = start({"modules": {"echo": {"path": str(files / "echo.wat"), "exec": "yes"}}})
    assert putted(w, binary)["version"] == 2
    assert letter(w) == "z"


def test_refusals(start, files):
    w = start(config(files))
    problem(put(w, echo("b"), "nobody"), 422, "MODULE_REFUSED")  # a new one, which nothing would reach
    problem(put(w, ""), 422, "MODULE_REFUSED")
    problem(put(w, echo("b"), headers="Content-Encoding: gzip\r\n"), 415, "CONTENT_CODING")
    problem(rollback(w), 409, "MODULE_NO_VERSION")
    problem(rollback(w, "nobody"), 404, "MODULE_UNKNOWN")
    problem(w.get("/api/v1/modules/echo/other", admin=True, method="POST", body=""), 404)
    problem(w.get("/api/v1/nothing", admin=True), 404)
    for path, method, allow in (("modules", "POST", "GET, HEAD"), ("modules/echo", "POST", "PUT, DELETE"), ("reload", "GET", "POST"),
                                ("modules/echo/rollback", "GET", "POST")):
        r = w.get(f"/api/v1/{path}", admin=True, method=method, body="")
        problem(r, 405, "METHOD")
        assert r.headers.get("allow") == allow
    assert letter(w) == "a" and module(w)["version"] == 1


@pytest.mark.parametrize("headers", ["Host: evil.example\r\n", f"Host: {HOST}\r\nOrigin: http://evil.example\r\n",
                                     f"Host: {HOST}\r\nOrigin: null\r\n"])
@pytest.mark.parametrize("line", ["GET /api/v1/modules", "PUT /api/v1/modules/echo", "POST /api/v1/modules/echo/rollback",
                                  "POST /api/v1/reload"])
def test_a_page_of_another_site(weir, line, headers):
    with type(weir.raw())(weir.admin) as c:
        c.send(f"{line} HTTP/1.1\r\n{headers}Content-Length: 0\r\n\r\n")
        problem(c.response(), 403, "FORBIDDEN")


CONFIG = {"modules": {"echo": guest("echo")}}


def test_a_body_over_its_limit(start, files):
    w = start({**config(files), "admin": {"address": None, "module_size": "4KiB"}}, start=False)
    w.config["admin"]["address"] = f"{HOST}:{w.admin}"
    w.file.write_text(json.dumps(w.config))
    w.start()
    problem(put(w, echo("b") + " " * 5000), 413, "HTTP_BODY_SIZE")
    assert letter(w) == "a" and putted(w, echo("b"))["version"] == 2


def test_a_large_body_in_many_parts(start, files):
    w = start(config(files))
    assert putted(w, ";;" + "x" * 3_000_000 + "\n" + echo("b"))["version"] == 2
    assert letter(w) == "b"


def test_several_at_once(start, files):
    """They are done one after the other; past the queue's end they are told so."""
    w = start(config(files))
    answers = []
    threads = [threading.Thread(target=lambda i=i: answers.append(put(w, echo(chr(97 + i))))) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(15)
    good = [a for a in answers if a.status == 200]
    for a in answers:
        if a.status != 200:
            problem(a, 503, "MODULE_CHANGES")
    assert len(answers) == 16 and len(good) >= 8
    assert sorted(json.loads(a.body)["version"] for a in good) == list(range(2, 2 + len(good)))
    assert module(w)["version"] == len(good) + 1


def test_reload(start, files):
    w = start(config(files))
    cli = ["--admin", f"{HOST}:{w.admin}"]
    assert run_cli("reload", *cli).stdout == "" and module(w)["version"] == 1, "nothing has changed"
    (files / "echo.wat").write_text(echo("b"))
    r = w.get("/api/v1/reload", admin=True, method="POST", body="")
    assert (r.status, json.loads(r.body)) == (200, {"swapped": ["echo"]}) and letter(w) == "b"
    (files / "echo.wat").write_text(echo("c"))
    r = run_cli("reload", *cli)
    assert (r.returncode, r.stdout) == (0, "echo: another version is in force\n") and letter(w) == "c"
    (files / "echo.wat").write_text(echo("d"))
    os.kill(w.supervisor, signal.SIGHUP)
    wait_for("the signal reloads", lambda: letter(w) == "d")
    (files / "echo.wat").write_text("(module")
    r = run_cli("reload", *cli)
    assert r.returncode == 1 and "expected" in r.stderr and letter(w) == "d"
    (files / "echo.wat").unlink()
    problem(w.get("/api/v1/reload", admin=True, method="POST", body=""), 422, "MODULE_REFUSED")
    assert letter(w) == "d" and len(w.wait_logs("module_kept", n=2)) == 2
    assert w.metric("module_changes_failed_total") == 2


def test_command_line(start, files):
    w = start(config(files))
    cli = ["--admin", f"{HOST}:{w.admin}"]
    putted(w, echo("b"))
    only(w)
    r = run_cli("modules", *cli)
    rows = [line.split() for line in r.stdout.splitlines()]
    assert r.returncode == 0 and rows[0][0] == "NAME"
    assert {(x[0], x[1], x[4], x[5]) for x in rows[1:]} == {("echo", "2", "native", "active"), ("add", "1", "native", "active")}
    r = run_cli("rollback", "echo", *cli)
    assert (r.returncode, r.stdout) == (0, "echo: version 1 is in force\n") and letter(w) == "a"
    r = run_cli("rollback", "add", *cli)
    assert r.returncode == 1 and "no version to go back to" in r.stderr
    assert run_cli("rollback", *cli).returncode == 2
    assert run_cli("modules", "--admin", "nonsense").returncode == 1
    w.stop()
    r = run_cli("modules", *cli)
    assert r.returncode == 1 and "refused" in r.stderr.lower()


# ---------------------------------------------------------------------------- what stays

def test_what_runs_finishes_on_the_old_version(start, files):
    w = start(config(files))
    with w.raw() as slow:
        slow.send("POST /api/exec/echo/spin HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n[400000000]")
        wait_for("it runs", lambda: module(w)["versions"][0]["running"] == 1)
        putted(w, echo("b"))
        now = module(w)
        assert [(v["version"], v["state"], v["running"]) for v in now["versions"]] == [(2, "active", 0), (1, "replaced", 1)]
        assert letter(w) == "b", "while the other still runs"
        assert w.metric("module_versions_replaced") == 1 and not w.logs("module_unloaded")
        assert slow.response().body == b"97\n"
    only(w)
    w.wait_log("module_unloaded", version=1)
    assert w.metric("module_versions_replaced") == 0


def test_keys_stay(start, files):
    w = start(config(files))
    assert [w.exec("echo/count", "[]") for _ in range(2)] == ["1", "2"]
    putted(w, echo("b"))
    assert w.exec("echo/count", "[]") == "3"


def test_a_timer_of_a_version_that_has_one(start, files):
    """It fires in the version of its time; one that knows no timers drops it."""
    timer = """(module (import "weir_v1" "timer_set" (func $set (param i64 i64) (result i64)))
      (import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 0) "%s")
      (func (export "letter") (result i32) (drop (call $set (i64.const %d) (i64.const 7))) (i32.const 1))
      %s)"""
    fires = '(func (export "on_timer") (param i64) (drop (call $log (i32.const 1) (i32.const 0) (i32.const 3))))'
    file = files / "timer.wat"
    file.write_text(timer % ("old", 300, fires))
    w = start({"modules": {"echo": {"path": str(file), "exec": "yes"}}})
    w.exec("echo/letter", "[]")
    putted(w, timer % ("new", 1, fires))
    assert w.wait_log("guest_info")["text"] == "new"
    w.exec("echo/letter", "[]")
    putted(w, timer % ("non", 1, ""))
    time.sleep(0.05)  # nothing tells that nothing happens
    assert w.exec("echo/letter", "[]") == "1"


def test_an_actor_begins_anew(start, files):
    source = """(module (global $n (mut i32) (i32.const %d))
      (func (export "letter") (result i32) (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n)))"""
    file = files / "actor.wat"
    file.write_text(source % 0)
    w = start({"modules": {"echo": {"path": str(file), "exec": "yes", "instance": "module"}}})
    assert [w.exec("echo/letter", "[]") for _ in range(2)] == ["1", "2"]
    for i in range(1, 8):
        putted(w, source % (i * 100))
        assert [w.exec("echo/letter", "[]") for _ in range(2)] == [str(i * 100 + 1), str(i * 100 + 2)]
    only(w)


COUNTER = """(module
  (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
  (memory (export "memory") 1) (data (i32.const 0) "k")
  (global $step i32 (i32.const %d))
  (func (export "_initialize") (drop (call $get (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 4))))
  (func (export "count") (param $spin i32) (result i32)
    (loop $l
      (local.set $spin (i32.sub (local.get $spin) (i32.const 1)))
      (br_if $l (i32.gt_s (local.get $spin) (i32.const 0))))
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (global.get $step)))
    (i32.load (i32.const 8)))
  (func (export "on_unload") %s (drop (call $set (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 4) (i64.const 0)))))"""


def test_an_actor_leaves_its_state_to_its_successor(start, files):
    """on_unload is its last event, after all that ran or waited; the successor's come after it."""
    file = files / "actor.wat"
    file.write_text(COUNTER % (1, ""))
    w = start({"modules": {"echo": {"path": str(file), "exec": "yes", "instance": "module", "snapshot": "no",
                                    "limits": {"deadline": "2s", "timeout": "30s"}}}})
    assert [w.exec("echo/count", "[0]") for _ in range(2)] == ["1", "2"]
    putted(w, COUNTER % (10, ""))
    assert [w.exec("echo/count", "[0]") for _ in range(2)] == ["12", "22"]
    with w.raw() as slow:
        slow.send("POST /api/exec/echo/count HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n[200000000]")
        wait_for("it runs", lambda: module(w)["versions"][0]["running"] == 1)
        putted(w, COUNTER % (100, "(unreachable)"))
        assert w.exec("echo/count", "[0]") == "132", "which waited for the one before it"
        assert slow.response().body == b"32\n"
    putted(w, COUNTER % (1000, ""))
    assert w.exec("echo/count", "[0]") == "1032", "what trapped left nothing of its own"
    only(w)
    assert len(w.wait_logs("guest_failed", 1)) == 1


def test_an_actor_that_unloads_leaves_its_timers_to_its_successor(start, files):
    """on_unload is no timer's event, though it is no connection's either: it does not give one back."""
    source = """(module (import "weir_v1" "timer_set" (func $set (param i64 i64) (result i64)))
      (global $n (mut i32) (i32.const %d)) (memory (export "memory") 1)
      (func (export "letter") (result i32)
        (global.set $n (i32.add (global.get $n) (i32.const 1)))
        (i64.ge_s (call $set (i64.const 1) (i64.const 7)) (i64.const 0)))
      (func (export "on_timer") (param i64))
      (func (export "on_unload")))"""
    file = files / "actor.wat"
    file.write_text(source % 0)
    w = start({"modules": {"echo": {"path": str(file), "exec": "yes", "instance": "module", "limits": {"timers": 2}}}})
    for i in range(4):
        if i:
            putted(w, source % i)
        assert w.exec("echo/letter", "[]") == "1", f"it may set a timer after swap {i}"
        # letter and on_timer; for each swap also on_unload and the trial: a timer that has not fired counts
        w.wait_metric("module_events_total", lambda v: v >= 2 + 4 * i, module="echo")


def test_a_new_worker_has_the_versions_in_force(start, files):
    w = start(config(files))
    putted(w, echo("b"))
    putted(w, echo("c"))
    before = module(w)
    w.may_die = True
    os.kill(w.worker_pid(), signal.SIGKILL)
    w.wait_logs("worker_ready", 2)
    wait_for("it serves", w._is_ready)
    now = module(w)
    assert letter(w) == "c"
    for key in ("version", "sha256", "loaded_at", "rollback"):
        assert now[key] == before[key], key
    assert json.loads(rollback(w).body)["version"] == 2 and letter(w) == "b"


# ---------------------------------------------------------------------------- a canary

def canary(w, body, percent, name="echo"):
    return w.get(f"/api/v1/modules/{name}?canary={percent}", admin=True, method="PUT", body=body)


def promote(w, name="echo"):
    return w.get(f"/api/v1/modules/{name}/promote", admin=True, method="POST", body="")


def versions(w):
    return {(v["version"], v["state"]) for v in module(w)["versions"]}


def said(c):
    c.send(frame(TEXT, "x"))
    return c.message()[1][:1].decode()


def test_canary(start, files):
    """A share of the connections, and all that each has; then all, or none."""
    w = start(config(files))
    conns = [w.ws("/ws") for _ in range(200)]
    r = canary(w, echo("b"), 25)
    assert r.status == 200 and json.loads(r.body)["canary_percent"] == 25
    assert versions(w) == {(1, "active"), (2, "canary")}
    first = [said(c) for c in conns]
    assert 20 < first.count("b") < 90 and set(first) == {"a", "b"}, "25 % of 200, within six deviations"
    for _ in range(3):
        assert [said(c) for c in conns] == first, "sticky"
    asked = [letter(w) for _ in range(60)]
    assert set(asked) == {"a", "b"}, "requests too, each on a connection of its own"
    assert rollback(w).status == 200 and {said(c) for c in conns} == {"a"}
    problem(promote(w), 409, "MODULE_NO_VERSION")
    assert json.loads(canary(w, echo("c"), 25).body)["version"] == 1
    w.may_die = True
    os.kill(w.worker_pid(), signal.SIGKILL)
    w.wait_logs("worker_ready", 2)
    wait_for("it serves", w._is_ready)
    assert versions(w) == {(1, "active"), (3, "canary")}, "a new worker has it as well"
    assert promote(w).status == 200 and {letter(w) for _ in range(30)} == {"c"}
    only(w)
    assert versions(w) == {(3, "active")} and module(w)["rollback"]["version"] == 1
    canary(w, echo("d"), 50)
    assert putted(w, echo("e"))["version"] == 5 and {letter(w) for _ in range(30)} == {"e"}, "a PUT ends it"
    only(w)
    for c in conns:
        c.close()


@pytest.mark.parametrize("query", ["canary=0", "canary=100", "canary=", "canary=x", "canary=1x", "canari=10", "canary=-1", "x"])
def test_canary_refused(start, files, query):
    w = start(config(files))
    problem(w.get(f"/api/v1/modules/echo?{query}", admin=True, method="PUT", body=echo("b")), 400, "INVALID")
    assert versions(w) == {(1, "active")}


def test_no_canary_of_an_actor_nor_of_what_is_bad(start, files):
    w = start({"modules": {"echo": {"path": guest("add"), "instance": "module"}, "add": guest("add")}})
    problem(canary(w, echo("b"), 10), 422, "MODULE_REFUSED")
    problem(canary(w, BAD["it traps as it begins"], 10, "add"), 422, "MODULE_REFUSED")
    assert module(w, "add")["canary_percent"] == 0 and module(w)["version"] == 1


# ---------------------------------------------------------------------------- what can't be loaded

@pytest.mark.guard(60)
def test_bad_modules_change_nothing(start, files):
    w = start(config(files, limits={"deadline": "100ms", "timeout": "2s"}))
    putted(w, echo("b"))
    only(w)
    worker, sha = w.worker_pid(), module(w)["sha256"]
    with w.ws("/ws") as c:
        def round():
            for what, body in BAD.items():
                doc = problem(put(w, body), 422, "MODULE_REFUSED")
                assert doc["detail"] and "/proc/" not in doc["detail"], what
                c.send(frame(TEXT, what))
                assert c.message() == (TEXT, b"b" + what.encode()), what
        round()
        fds, memory = descriptors(w, 1), pss(worker)
        for _ in range(3):
            round()
        only(w)
        assert descriptors(w, 1) == fds
        if not sanitized(w):
            assert pss(worker) <= memory + (1 << 20)
    assert w.worker_pid() == worker and module(w)["sha256"] == sha and module(w)["version"] == 2
    assert w.metric("module_changes_failed_total") == 4 * len(BAD) and len(w.logs("module_kept")) == 4 * len(BAD)
    assert putted(w, echo("c"))["version"] == 3


def big(n):
    """Takes weirc a while, as there was none like it before."""
    body = "(i32.mul (i32.add (local.get 0) (i32.const 3)) (i32.const 7))"
    for _ in range(6):
        body = f"(i32.add {body} (i32.rotl {body} (local.get 0)))"
    return f"(; {os.urandom(8).hex()} ;)" + echo("z")[:-1] + "".join(f'(func (export "f{i}") (param i32) (result i32) {body})' for i in range(n)) + ")"


def test_weirc_is_killed(start, files):
    """And the gateway serves while it compiles."""
    w = start(config(files))
    answers = []
    t = threading.Thread(target=lambda: answers.append(put(w, big(400))))
    t.start()
    weirc = wait_for("weirc runs", lambda: [p for p in children(w.supervisor) if comm(p) == "weirc"])[0]
    assert letter(w) == "a"
    os.kill(weirc, signal.SIGKILL)
    t.join(10)
    assert "signal 9" in problem(answers[0], 422, "MODULE_REFUSED")["detail"]
    assert letter(w) == "a" and putted(w, echo("b"))["version"] == 2


def test_the_end_comes_while_weirc_runs(start, files):
    w = start(config(files))
    with type(w.raw())(w.admin) as c:
        body = big(400).encode()
        c.send(f"PUT /api/v1/modules/echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        weirc = wait_for("weirc runs", lambda: [p for p in children(w.supervisor) if comm(p) == "weirc"])[0]
        w.signal()
        assert w.wait_exit() == 0
    assert comm(weirc) == "", "it does not outlive the supervisor"


def test_whoever_asked_has_gone(start, files):
    w = start(config(files))
    for _ in range(3):
        with type(w.raw())(w.admin) as c:
            body = big(40).encode()
            c.send(f"PUT /api/v1/modules/echo HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_for("it is taken", lambda: w.metric("connections_active") >= 1)
            c.reset()
    assert putted(w, echo("b"))["version"] >= 2 and letter(w) == "b"


def test_the_cache_takes_nothing(start, files):
    cache = files / "cache"
    w = start(config(files), cache=cache)
    shutil.rmtree(cache)
    cache.write_text("no folder")
    problem(put(w, echo("b")), 422, "MODULE_REFUSED")
    assert letter(w) == "a"
    cache.unlink()
    assert putted(w, echo("b"))["version"] == 2


# ---------------------------------------------------------------------------- nothing is lost

@pytest.mark.guard(120)
def test_swaps_under_load(start, files):
    """200 swaps while eight connections talk: each message is answered once, in order, by one version or the other."""
    w = start(config(files))
    worker = w.worker_pid()
    letters = "bc"
    for x in letters * 3:  # compiled, and what is made at first use is made
        putted(w, echo(x))
    only(w)
    fds = descriptors(w)
    stop, sent, wrong = threading.Event(), [0] * 8, []

    def talk(k):
        with w.ws("/ws") as c:
            while not stop.is_set() and not wrong:
                batch = [f"{k} {sent[k] + i}" for i in range(16)]
                c.send(b"".join(frame(TEXT, x) for x in batch))
                for x in batch:
                    kind, got = c.message()
                    if kind != TEXT or chr(got[0]) not in letters or got[1:] != x.encode():
                        wrong.append((x, got))
                sent[k] += len(batch)
            c.send(close(1000)).close_frame(1000)

    def guarded(k):
        try:
            talk(k)
        except (AssertionError, OSError, Closed) as e:
            wrong.append(repr(e))

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    wait_for("all talk", lambda: all(sent))
    memory = pss(worker)
    for i in range(220):
        if i % 10 == 9:
            assert rollback(w).status == 200
        else:
            putted(w, echo(letters[i % 2]))
        assert not wrong, wrong[:3]
    stop.set()
    for t in threads:
        t.join(10)
    assert not wrong and sum(sent) > 1000
    only(w)
    assert w.worker_pid() == worker and w.metric("module_swaps_total") == 226
    assert descriptors(w) == fds, "none is left"
    if not sanitized(w):
        assert pss(worker) <= memory + (1 << 20)


def test_broken_code_in_the_cache_is_compiled_anew(start, files):
    """A version that was there before is PUT again, and what the cache holds of it is no code any more."""
    cache = files / "own-cache"
    w = start({"cache": str(cache), **config(files)})
    putted(w, echo("b"))
    putted(w, echo("c"))
    for f in cache.iterdir():
        f.write_bytes(b"broken")
    putted(w, echo("b"))
    assert w.exec("echo/letter", "[]") == str(ord("b"))
    assert sum(f.read_bytes()[1:4] == b"ELF" for f in cache.iterdir()) == 1
    w.wait_logs("module_compiled", n=4, module="echo")
