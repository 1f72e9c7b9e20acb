"""Modules that the configuration does not name are added, changed and removed while the gateway serves: nothing of one that was
removed, or was never good, is left."""
import json
import os
import signal
import threading

import pytest

from test_swap import BAD, descriptors, echo, module, only, problem, pss, put, putted, rollback, sanitized
from weir import HOST, Closed, guest, run_cli, wait_for

FN = """(module
  (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "timer_set" (func $timer (param i64 i64) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "n0")
  (func (export "letter") (result i32) (i32.const %(letter)d))
  (func (export "count") (result i32)
    (drop (call $get (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)))
    (i32.store8 (i32.const 1) (i32.add (i32.load8_u (i32.const 1)) (i32.const 1)))
    (drop (call $set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i64.const 0)))
    (i32.sub (i32.load8_u (i32.const 1)) (i32.const 48)))
  (func (export "timer") (param $ms i64) (result i64) (call $timer (local.get $ms) (i64.const 7)))
  (func (export "spin") (param $n i64) (result i32)
    (loop $l
      (local.set $n (i64.sub (local.get $n) (i64.const 1)))
      (br_if $l (i64.gt_s (local.get $n) (i64.const 0))))
    (i32.const %(letter)d))
  %(more)s)"""
CONFIG = {"modules": {"add": guest("add")}}


def fn(letter, more=""):
    return FN % {"letter": ord(letter), "more": more}


def added(w, body, name="x", query=""):
    r = w.get(f"/api/v1/modules/{name}{query}", admin=True, method="PUT", body=body)
    assert r.status == 200, r.body
    return json.loads(r.body)


def remove(w, name="x"):
    return w.get(f"/api/v1/modules/{name}", admin=True, method="DELETE")


def removed(w, name="x"):
    r = remove(w, name)
    assert (r.status, json.loads(r.body)) == (200, {"removed": name})


def names(w):
    return [m["name"] for m in json.loads(w.get("/api/v1/modules", admin=True).body)["modules"]]


def limited(start, n):
    w = start(CONFIG, start=False)
    w.config["admin"]["modules"] = n
    w.file.write_text(json.dumps(w.config))
    return w.start()


def letter(w, name="x"):
    return chr(int(w.exec(f"{name}/letter", "[]")))


def test_add_change_remove(start):
    w = start(CONFIG)
    problem(w.post("/api/exec/x/letter", "[]"), 404)
    m = added(w, fn("a"))
    assert (m["name"], m["version"], m["added"], m["engine"], m["instance"], m["rollback"]) == ("x", 1, True, "native", "event", None)
    assert letter(w) == "a" and not module(w, "add")["added"] and w.metric("modules_added") == 1
    assert w.wait_log("module_loaded", module="x")["version"] == 1
    m = added(w, fn("b"))
    assert (m["version"], m["rollback"]["version"]) == (2, 1) and letter(w) == "b"
    assert json.loads(rollback(w, "x").body)["version"] == 1 and letter(w) == "a"
    m = added(w, fn("c"), query="?canary=50")
    assert m["canary_percent"] == 50 and len(m["versions"]) == 2
    r = w.get("/api/v1/modules/x/promote", admin=True, method="POST", body="")
    assert r.status == 200 and letter(w) == "c"
    removed(w)
    problem(w.post("/api/exec/x/letter", "[]"), 404, "NOT_FOUND")
    assert names(w) == ["add"] and w.metric("modules_added") == 0
    w.wait_log("module_removed", module="x")
    problem(remove(w), 404, "MODULE_UNKNOWN")
    assert added(w, fn("d"))["version"] == 1 and letter(w) == "d"
    w.wait_metric("module_versions_replaced", 0)


def test_with_a_canary_it_goes_as_well(start):
    w = start(CONFIG)
    added(w, fn("a"))
    added(w, fn("b"), query="?canary=50")
    removed(w)
    w.wait_metric("module_versions_replaced", 0)
    problem(w.post("/api/exec/x/letter", "[]"), 404)


def test_nothing_of_it_is_left_to_the_next(start):
    """Keys and timers, under the same name and in the same place."""
    w = start(CONFIG)
    ticks = '(func (export "on_timer") (param i64) unreachable)'
    added(w, fn("a", ticks), query="?exec=yes")
    assert [w.exec("x/count", "[]") for _ in range(3)] == ["1", "2", "3"]
    w.exec("x/timer", "[400]")
    removed(w)
    added(w, fn("b", ticks), query="?exec=yes")
    assert w.exec("x/count", "[]") == "1"
    w.exec("x/timer", "[500]")
    w.wait_logs("guest_failed", module="x")  # of the second one
    assert len(w.wait_logs("guest_failed", 1, module="x")) == 1, "the first timer went with its module"


@pytest.mark.parametrize("engine", ["native", "pulley"])
def test_settings(start, engine):
    config = {"modules": {"add": {"path": guest("add"), "engine": engine}}}
    w = start(config)
    other = {"native": "pulley", "pulley": "native"}[engine]
    assert added(w, fn("a"))["engine"] == engine, "the one that the worker has made"
    assert added(w, fn("b"))["version"] == 2
    assert added(w, fn("a"), "y", f"?engine={engine}&instance=module")["instance"] == "module"
    assert [w.exec("y/count", "[]"), w.exec("y/count", "[]"), letter(w, "y")] == ["1", "2", "a"]
    for query in ("?engine=" + engine, "?instance=event", "?exec=yes"):
        problem(w.get("/api/v1/modules/x" + query, admin=True, method="PUT", body=fn("c")), 400, "INVALID")
    problem(w.get("/api/v1/modules/z?engine=" + other, admin=True, method="PUT", body=fn("c")), 400, "INVALID")
    problem(w.get("/api/v1/modules/z?canary=5", admin=True, method="PUT", body=fn("c")), 400, "INVALID")
    assert names(w) == ["add", "x", "y"] and letter(w) == "b"
    removed(w, "y")
    removed(w, "x")
    w.wait_metric("module_versions_replaced", 0)


@pytest.mark.parametrize("query", ["?", "?engine=", "?engine=jit", "?engine=native&engine=native", "?exec=no", "?instance=event&",
                                   "?&exec=yes", "?exec", "?Exec=yes", "?canary=0", "?canary=1000", "?canary=5&canary=5", "?x=1"])
def test_queries(weir, query):
    r = weir.get("/api/v1/modules/q" + query, admin=True, method="PUT", body=fn("a"))
    if query == "?":
        assert r.status == 200
        removed(weir, "q")
    else:
        problem(r, 400, "INVALID")
    assert names(weir) == ["add"]


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("name,status", [("a%20b", 400), ("a.b", 400), (".", 400), ("..", 400), ("x" * 65, 400), ("%00", 400),
                                         ("a\"b", 400), ("a;b", 400), ("*", 400), ("a/b", 404), ("..%2fadd", 400), ("a//", 404), ("", 404)])
def test_hostile_names(weir, method, name, status):
    problem(weir.get("/api/v1/modules/" + name, admin=True, method=method, body=fn("a")), status)
    assert names(weir) == ["add"]


def test_the_longest_name(weir):
    name = "a_-" + "Z" * 61
    added(weir, fn("a"), name)
    assert letter(weir, name) == "a"
    removed(weir, name)


def test_what_the_configuration_names_stays(weir):
    problem(remove(weir, "add"), 409, "MODULE_CONFIGURED")
    problem(remove(weir, "nobody"), 404, "MODULE_UNKNOWN")
    assert weir.exec("add", "[1,2]") == "3"


def test_nothing_reaches_it(weir):
    doc = problem(weir.get("/api/v1/modules/x", admin=True, method="PUT", body=echo("a")), 422, "MODULE_REFUSED")
    assert "exec=yes" in doc["detail"] and names(weir) == ["add"]


def test_the_bound(start):
    w = limited(start, 2)
    added(w, fn("a"), "one")
    added(w, fn("b"), "two")
    problem(put(w, fn("c"), "three"), 409, "MODULES_FULL")
    assert w.metric("modules_full_total") == 1
    assert added(w, fn("d"), "two")["version"] == 2, "one that is there can be changed"
    removed(w, "one")
    assert added(w, fn("c"), "three")["version"] == 1
    assert names(w) == ["add", "three", "two"] and letter(w, "three") == "c"


def test_none_may_be_added(start):
    w = limited(start, 0)
    problem(put(w, fn("c"), "x"), 409, "MODULES_FULL")
    assert w.exec("add", "[1,2]") == "3"


def test_of_no_module_at_all(start):
    """The engine, and what it needs of the system, is there though no module asked for it before the cage."""
    w = start({"routes": [{"path": "/raw", "websocket": {"handler": "echo"}}]})
    assert added(w, fn("a"))["engine"] == "native"
    assert [letter(w) for _ in range(5)] == ["a"] * 5
    removed(w)
    assert names(w) == []


def test_garbage_leaves_nothing(start):
    w = start(CONFIG)
    added(w, fn("a"))
    removed(w)
    fds = descriptors(w)
    for name, body in BAD.items():
        if name == "no handler for its route":  # of which there is none
            continue
        doc = problem(put(w, body, "x"), 422, "MODULE_REFUSED")
        assert doc["detail"], name
    problem(put(w, "", "x"), 422, "MODULE_REFUSED")
    assert names(w) == ["add"]
    problem(w.post("/api/exec/x", "[]"), 404)
    w.wait_metric("module_versions_replaced", 0)
    assert descriptors(w) == fds
    assert added(w, fn("b"))["version"] == 1 and letter(w) == "b"


def test_removed_while_events_run(start):
    """They end well on the code that is gone for others; what they store goes with them; then the place is free."""
    w = limited(start, 1)
    stores = """(func (export "on_timer") (param i64))
      (func (export "slow") (param $n i64) (result i32)
        (drop (call $set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1) (i64.const 0)))
        (drop (call $timer (i64.const 50000) (i64.const 7)))
        (loop $l
          (local.set $n (i64.sub (local.get $n) (i64.const 1)))
          (br_if $l (i64.gt_s (local.get $n) (i64.const 0))))
        (i32.const 65))"""
    for _ in range(2):
        added(w, fn("a", stores), query="?exec=yes")
        assert w.exec("x/count", "[]") == "1", "no key of the one before"
        with w.raw() as c:
            body = "[20000000]"  # some 10 ms; ended by its deadline of 50 ms where this machine is slow
            c.send(f"POST /api/exec/x/slow HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            wait_for("it runs", lambda: w.metric("guests_running") == 1 or w.metric("guest_events_total") > 2)
            removed(w)
            problem(w.post("/api/exec/x/count", "[]"), 404)
            assert c.response().status in (200, 504)
        w.wait_metric("module_versions_replaced", 0)


def test_an_actor_is_told(start):
    w = start(CONFIG)
    says = """(import "weir_v1" "log" (func $log (param i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 0) "bye")
      (func (export "hello") (result i32) (i32.const 1))
      (func (export "on_unload") (drop (call $log (i32.const 1) (i32.const 0) (i32.const 3))))"""
    added(w, f"(module {says})", query="?instance=module&exec=yes")
    assert w.exec("x/hello", "[]") == "1"
    removed(w)
    w.wait_log("guest_info", module="x")
    w.wait_metric("module_versions_replaced", 0)


def test_a_new_worker_has_them(start):
    w = start(CONFIG)
    w.may_die = True
    added(w, fn("a"), "one", "?instance=module")
    added(w, fn("b"), "two")
    added(w, fn("c"), "three")
    added(w, fn("d"), "three")
    removed(w, "two")
    before = w.worker_pid()
    os.kill(before, signal.SIGKILL)
    wait_for("another worker", lambda: w.worker_pids() not in ([], [before]))
    wait_for("it is ready", w._is_ready)
    assert names(w) == ["add", "one", "three"]
    assert (letter(w, "one"), letter(w, "three"), module(w, "three")["version"]) == ("a", "d", 2)
    assert module(w, "one")["added"] and module(w, "one")["instance"] == "module"
    problem(w.post("/api/exec/two/letter", "[]"), 404)
    assert json.loads(rollback(w, "three").body)["version"] == 1 and letter(w, "three") == "c"
    added(w, fn("e"), "two")
    removed(w, "one")
    assert letter(w, "two") == "e" and w.exec("add", "[1,2]") == "3"


@pytest.mark.guard(60)
def test_the_worker_is_killed_in_between(start):
    """At any moment of a change: what is there afterwards is whole, and changes go on."""
    w = start(CONFIG)
    w.may_die = True
    w.wait_log("worker_ready")
    for i in range(6):
        pid = w.worker_pid()
        killer = threading.Timer(0.004 * i, os.kill, (pid, signal.SIGKILL))
        killer.start()
        for change in (lambda: put(w, fn("a"), "x"), lambda: remove(w, "x"), lambda: put(w, fn("b"), "y")):
            try:
                change()
            except (OSError, Closed):
                pass
        killer.join()
        wait_for("another worker", lambda p=pid: w.worker_pids() not in ([], [p]))
        wait_for("it is ready", w._is_ready)
        for name in names(w):
            assert w.exec("add", "[1,2]") == "3" if name == "add" else letter(w, name) in "ab"
    added(w, fn("c"), "z")
    assert letter(w, "z") == "c"


def test_command_line(start, tmp_path):
    w = start(CONFIG)
    cli = ["--admin", f"{HOST}:{w.admin}"]
    file = tmp_path / "x.wat"
    file.write_text(fn("a"))
    for version in (1, 2):
        r = run_cli("modules", "put", "x", str(file), *cli)
        assert (r.returncode, r.stdout) == (0, f"x: version {version} is in force\n") and letter(w) == "a"
    assert re_names(run_cli("modules", *cli).stdout) == {"add", "x"}
    r = run_cli("modules", "remove", "x", *cli)
    assert (r.returncode, r.stdout, r.stderr) == (0, "x: removed\n", "") and names(w) == ["add"]
    for args in (["remove", "x"], ["remove", "add"], ["put", "x", str(tmp_path / "none")], ["put", "a/b", str(file)], ["remove", "a b"]):
        r = run_cli("modules", *args, *cli)
        assert r.returncode == 1 and r.stdout == "" and r.stderr, args
    for args in (["put"], ["put", "x"], ["remove"], ["list"], ["remove", "x", "y"]):
        r = run_cli("modules", *args, *cli)
        assert r.returncode == 2 and "usage" in r.stderr, args
    file.write_text("(module")
    r = run_cli("modules", "put", "x", str(file), *cli)
    assert r.returncode == 1 and "x" in r.stderr and names(w) == ["add"]


def re_names(text):
    return {line.split()[0] for line in text.splitlines()[1:]}


@pytest.mark.guard(120)
def test_added_and_removed_200_times(start):
    """Under traffic to another module: none of its requests fails, and nothing grows."""
    w = start(CONFIG)
    for i in range(8):  # what is made at first use is made, and both are in the cache
        added(w, fn("ab"[i % 2]))
        removed(w)
    w.wait_metric("module_versions_replaced", 0)
    fds, worker = descriptors(w), w.worker_pid()
    stop, done, wrong = threading.Event(), [0] * 4, []

    def talk(k):
        try:
            with w.raw() as c:
                while not stop.is_set():
                    c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n[2.5,3.7]")
                    r = c.response()
                    assert (r.status, r.body) == (200, b"6.2\n")
                    done[k] += 1
        except (AssertionError, OSError, Closed) as e:
            wrong.append(repr(e))

    threads = [threading.Thread(target=talk, args=(k,)) for k in range(len(done))]
    for t in threads:
        t.start()
    wait_for("all talk", lambda: all(done))
    memory = pss(worker), pss(w.supervisor)
    for i in range(200):
        x = "ab"[i % 2]
        added(w, fn(x), f"m{i}")
        assert letter(w, f"m{i}") == x
        removed(w, f"m{i}")
        assert not wrong, wrong[:3]
    stop.set()
    for t in threads:
        t.join(10)
    assert not wrong and sum(done) > 200
    w.wait_metric("module_versions_replaced", 0)
    assert w.worker_pid() == worker and names(w) == ["add"] and w.metric("modules_added") == 0
    assert descriptors(w) == fds
    if not sanitized(w):
        assert pss(worker) <= memory[0] + (512 << 10) and pss(w.supervisor) <= memory[1] + (512 << 10)
