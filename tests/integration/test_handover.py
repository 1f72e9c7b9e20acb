"""A new worker takes over: reload of another configuration, upgrade of the program. Sockets, their ids, attachments, topics, halves of
messages, queued output, keys and timers live on; what fails leaves the old worker in charge."""
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import threading
import time

import pytest

from weir import (BINARY, CONTINUATION, TEXT, WEIR_BIN, Gate, Raw, children, close, comm, frame, guest, proc_state, problem, run_cli, wait_for)

# Commands of a message: "i" its id (8 bytes), "a" attaches the rest, "g" what is attached, "j" joins and "p" publishes to the topic t,
# "s" stores the rest as k, "r" reads k, "t" sets a timer (ms as text: n*100) that stores "fired" as k, "c" sends the rest to the id behind.
GUEST = """(module
  (import "weir_v1" "msg_read" (func $read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_get" (func $aget (param i64 i32 i32) (result i32)))
  (import "weir_v1" "ws_attachment_set" (func $aset (param i32 i32) (result i32)))
  (import "weir_v1" "ws_subscribe" (func $join (param i64 i32 i32) (result i32)))
  (import "weir_v1" "publish" (func $publish (param i32 i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
  (import "weir_v1" "timer_set" (func $timer (param i64 i64) (result i64)))
  (memory (export "memory") 2)
  (data (i32.const 0) "tkfired")
  (func (export "on_timer") (param i64)
    (drop (call $set (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 5) (i64.const 0))))
  (func (export "on_ws_message") (param $c i64) (param $kind i32) (param $len i32) (result i32) (local $op i32) (local $n i32)
    (drop (call $read (i32.const 1024) (i32.const 70000)))
    (local.set $op (i32.load8_u (i32.const 1024)))
    (local.set $n (i32.sub (local.get $len) (i32.const 1)))
    (if (i32.eq (local.get $op) (i32.const 105)) (then
      (i64.store (i32.const 512) (local.get $c))
      (drop (call $send (local.get $c) (i32.const 2) (i32.const 512) (i32.const 8)))))
    (if (i32.eq (local.get $op) (i32.const 97)) (then
      (drop (call $aset (i32.const 1025) (local.get $n)))))
    (if (i32.eq (local.get $op) (i32.const 103)) (then
      (local.set $n (call $aget (local.get $c) (i32.const 1024) (i32.const 1000)))
      (drop (call $send (local.get $c) (i32.const 2) (i32.const 1024) (select (local.get $n) (i32.const 0) (i32.ge_s (local.get $n) (i32.const 0)))))))
    (if (i32.eq (local.get $op) (i32.const 106)) (then
      (drop (call $join (local.get $c) (i32.const 0) (i32.const 1)))))
    (if (i32.eq (local.get $op) (i32.const 112)) (then
      (drop (call $publish (i32.const 0) (i32.const 1) (i32.const 2) (i32.const 1025) (local.get $n) (i64.const 0)))))
    (if (i32.eq (local.get $op) (i32.const 115)) (then
      (drop (call $set (i32.const 1) (i32.const 1) (i32.const 1025) (local.get $n) (i64.const 60000)))))
    (if (i32.eq (local.get $op) (i32.const 114)) (then
      (local.set $n (call $get (i32.const 1) (i32.const 1) (i32.const 1024) (i32.const 1000)))
      (drop (call $send (local.get $c) (i32.const 2) (i32.const 1024) (select (local.get $n) (i32.const 0) (i32.ge_s (local.get $n) (i32.const 0)))))))
    (if (i32.eq (local.get $op) (i32.const 116)) (then
      (drop (call $timer (i64.mul (i64.load8_u (i32.const 1025)) (i64.const 100)) (i64.const 7)))))
    (if (i32.eq (local.get $op) (i32.const 99)) (then
      (drop (call $send (i64.load (i32.const 1025)) (i32.const 2) (i32.const 1033) (i32.sub (local.get $n) (i32.const 8))))))
    (if (i32.eq (local.get $op) (i32.const 101)) (then
      (drop (call $send (local.get $c) (local.get $kind) (i32.const 1025) (local.get $n)))))
    (i32.const 0)))"""


@pytest.fixture
def gate(start, tmp_path):
    (tmp_path / "guest.wat").write_text(GUEST)
    return start({"modules": {"guest": str(tmp_path / "guest.wat")},
                  "limits": {"message": "256KiB"},
                  "routes": [{"path": "/g", "websocket": {"module": "guest"}},
                             {"path": "/e", "websocket": {"handler": "echo"}},
                             {"path": "/room/*", "websocket": {"handler": "pubsub"}},
                             {"path": "/gone", "websocket": {"handler": "echo"}}]})


def worker(w):
    return wait_for("one worker", lambda: len(w.worker_pids()) == 1 and w.worker_pids())[0]


def change(w, **keys):
    w.config = {**w.config, **keys}
    new = w.file.with_suffix(".new")
    new.write_text(json.dumps(w.config, indent=1))
    new.rename(w.file)


count = 0


def reload(w):
    """Another configuration, in force by another worker."""
    global count
    count += 1
    before = worker(w)
    change(w, drain=f"{5000 + count}ms")
    r = w.get("/api/v1/reload", admin=True, method="POST", body="")
    assert r.status == 200, r.body
    assert json.loads(r.body)["handover"] is True
    wait_for("the old worker has ended", lambda: proc_state(before) in ("", "Z", "X"))
    assert worker(w) != before


def say(ws, message):
    ws.send(frame(BINARY, message))


def ask(ws, message):
    say(ws, message)
    return ws.message()[1]


def refused(w, status=422):
    before = worker(w)
    r = w.get("/api/v1/reload", admin=True, method="POST", body="")
    doc = problem(r, status)
    assert worker(w) == before
    return doc["detail"]


def test_all_of_a_websocket_lives_on(gate):
    with gate.ws("/g") as a, gate.ws("/g") as b, gate.ws("/e") as e, gate.ws("/room/x") as r:
        ids = [ask(a, b"i"), ask(b, b"i")]
        say(a, b"a" + b"attached" * 9)
        say(a, b"j"), say(b, b"j")
        say(b, b"s" + b"stored")
        assert ask(b, b"r") == b"stored"
        assert ask(a, b"g") == b"attached" * 9
        for _ in range(2):
            reload(gate)
            assert [ask(a, b"i"), ask(b, b"i")] == ids
            assert ask(a, b"g") == b"attached" * 9
            assert ask(b, b"g") == b""
            say(a, b"pto all")
            assert a.message()[1] == b.message()[1] == b"to all"
            say(a, b"c" + ids[1] + b"direct")
            assert b.message()[1] == b"direct"
            assert ask(b, b"r") == b"stored"
            assert ask(e, b"echo") == b"echo"
            assert ask(r, b"room") == b"room"
        with gate.ws("/g") as c:
            assert ask(c, b"i") not in ids
        a.send(close(1000))
        a.close_frame(1000)
        a.closed()


def test_a_timer_fires_in_the_next_worker(gate):
    with gate.ws("/g") as a:
        say(a, b"t" + bytes([3]))
        assert ask(a, b"r") == b""
        reload(gate)
        wait_for("it fires", lambda: ask(a, b"r") == b"fired")


def test_halves_of_messages_and_frames(gate):
    text = "é".encode() * 3
    halves = [  # what comes before the hand-over, between two, after both; the message
        (frame(TEXT, "no", fin=False), frame(CONTINUATION, "", fin=False), frame(CONTINUATION, "w"), b"now"),
        (frame(BINARY, b"x" * 70000)[:40000], b"", frame(BINARY, b"x" * 70000)[40000:], b"x" * 70000),
        (frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, text)[:3], frame(CONTINUATION, text)[3:7], frame(CONTINUATION, text)[7:], b"ab" + text),
        (frame(TEXT, text)[:9], b"", frame(TEXT, text)[9:], text),
        (frame(BINARY, b"1", fin=False) + frame(9, b"ping")[:8], b"", frame(9, b"ping")[8:] + frame(CONTINUATION, b"2"), b"12"),
        (frame(BINARY, b"q" * 200)[:1], frame(BINARY, b"q" * 200)[1:3], frame(BINARY, b"q" * 200)[3:], b"q" * 200),
        (b"", b"", frame(BINARY, b"whole"), b"whole"),
    ]
    sockets = [gate.ws("/e") for _ in halves]
    for part in range(3):
        read = Gate(gate)
        for ws, half in zip(sockets, halves):
            ws.send(half[part])
        if part < 2:
            read.passed(sum(len(half[part]) for half in halves))
            reload(gate)
    for ws, half in zip(sockets, halves):
        if ws is sockets[4]:
            assert ws.frame() == (True, 10, b"ping")
        assert ws.message()[1] == half[3]
        ws.close()


def test_a_broken_half_is_found_out_afterwards(gate):
    with gate.ws("/e") as ws:
        read, half = Gate(gate), frame(TEXT, b"\xc3", fin=False)
        ws.send(half)
        read.passed(len(half))
        reload(gate)
        ws.send(frame(CONTINUATION, b"\xff"))
        ws.fails(1007)


def test_queued_output(gate):
    """A peer that does not read: what waits for it comes after the hand-over, once and in order, and then what it sent meanwhile."""
    change(gate, limits={"send_queue": "16MiB", "queues": "32MiB"})
    reload(gate)
    with Raw(gate.port, rcvbuf=4096) as ws:
        ws.upgrade("/e")
        sent = 0

        def more():
            nonlocal sent
            for _ in range(50):
                ws.send(frame(BINARY, struct.pack("!I", sent) * 2000))
                sent += 1
            return int(gate.metric("queued_bytes")) > 200_000

        wait_for("output waits", more, 10, 0)
        reload(gate)
        assert int(gate.metric("queued_bytes")) > 100_000
        more()
        reload(gate)
        for n in range(sent):
            assert ws.message() == (BINARY, struct.pack("!I", n) * 2000)
        assert ask(ws, b"then") == b"then"


def test_routes(gate):
    with gate.ws("/gone") as gone, gate.ws("/e") as stays, gate.ws("/room/a") as other:
        routes = [r for r in gate.config["routes"] if r["path"] != "/gone"]
        routes[2] = {"path": "/room/*", "websocket": {"handler": "pubsub", "space": "another"}}
        change(gate, routes=[{"path": "/new", "websocket": {"handler": "echo"}}, *routes])
        reload(gate)
        for ws in (gone, other):
            ws.close_frame(1012)
            ws.send(close(1012))
            ws.closed()
        assert ask(stays, b"x") == b"x"
        with gate.ws("/new") as new:
            assert ask(new, b"y") == b"y"
        assert gate.get("/gone").status == 404


def test_limits(gate):
    with gate.ws("/e") as ws:
        change(gate, limits={"message": "1KiB", "connections": 1})
        reload(gate)
        assert ask(ws, b"x" * 1024) == b"x" * 1024
        assert gate.get("/e").status == 503
        ws.send(frame(BINARY, b"x" * 1025))
        ws.fails(1009)


def test_a_lower_limit_stays_lower(gate):
    """A connection whose place is beyond what is allowed by now goes over again and again."""
    sockets = [gate.ws("/e") for _ in range(100)]
    for ws in sockets[:-1]:
        ws.send(close(1000))
        ws.close_frame(1000)
        ws.closed()
    wait_for("they have gone", lambda: int(gate.metric("websockets_active")) == 1)
    change(gate, limits={"connections": 1})
    for _ in range(3):
        reload(gate)
        assert ask(sockets[-1], b"x") == b"x"
    change(gate, limits={})
    reload(gate)
    with gate.ws("/e") as more:
        assert ask(more, b"y") == ask(sockets[-1], b"y") == b"y"
    sockets[-1].close()


def test_listeners(gate):
    from weir import free_port, HOST
    more = free_port()
    with gate.ws("/e") as ws:
        old = gate.config["listen"]
        change(gate, listen=[{"address": f"{HOST}:{more}"}])
        reload(gate)
        with Raw(more) as new:
            new.upgrade("/e")
            assert ask(new, b"new") == b"new"
            with pytest.raises(ConnectionRefusedError):
                Raw(gate.port)
            change(gate, listen=old)
            reload(gate)
            assert ask(new, b"lives on") == b"lives on"
        assert ask(ws, b"x") == b"x"
        with gate.ws("/e") as again:
            assert ask(again, b"y") == b"y"


def test_keep_alive_goes_on(gate):
    with Raw(gate.port) as http:
        for _ in range(2):
            http.send("GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
            assert http.response().status == 404
            http.send("GET /no")
            reload(gate)
            http.send("ne HTTP/1.1\r\nHost: x\r\n\r\n")
            assert http.response().status == 404


def test_a_broken_file_changes_nothing(gate):
    good = gate.file.read_text()
    with gate.ws("/e") as ws:
        for text, why in [("listen: [", r"weir.*:\d+"), (good.replace('"routes"', '"rotues"'), "unknown key"),
                          (good.replace("guest.wat", "none.wat"), "none.wat"), ("", None)]:
            gate.file.write_text(text or good + " ")
            if why:
                assert re.search(why, refused(gate))
                wait_for("it is logged", lambda: gate.logs("handover_failed"))
        assert ask(ws, b"x") == b"x"
    gate.file.write_text(good)
    assert json.loads(gate.get("/api/v1/reload", admin=True, method="POST", body="").body) == {"swapped": []}


def test_an_address_in_use(gate):
    import socket
    with socket.socket() as s, gate.ws("/e") as ws:
        s.bind(("127.0.0.1", 0))
        s.listen()
        old = gate.config["listen"]
        change(gate, listen=[*old, {"address": "127.0.0.1:%d" % s.getsockname()[1]}])
        assert "can't listen" in refused(gate)
        assert ask(ws, b"x") == b"x"
        with gate.ws("/e") as new:
            assert ask(new, b"y") == b"y"
        change(gate, listen=old)
        reload(gate)
        assert ask(ws, b"x") == b"x"


def test_put_versions_stay(gate):
    new = GUEST.replace("tkfired", "tkFIRED").encode()
    assert gate.get("/api/v1/modules/guest", admin=True, method="PUT", body=new).status == 200
    reload(gate)
    module = json.loads(gate.get("/api/v1/modules", admin=True).body)["modules"][0]
    assert module["version"] == 2 and module["rollback"]["version"] == 1
    with gate.ws("/g") as ws:
        say(ws, b"t\0")
        wait_for("the new code fires", lambda: ask(ws, b"r") == b"FIRED")
    assert gate.get("/api/v1/modules/guest/rollback", admin=True, method="POST", body="").status == 200


def test_sighup_twice_and_at_once(gate):
    with gate.ws("/e") as ws:
        before = worker(gate)
        change(gate, drain="4s")
        gate.signal(signal.SIGHUP)
        wait_for("the first begins", lambda: gate.logs("handover_begin"))
        change(gate, drain="3s")
        gate.signal(signal.SIGHUP)
        wait_for("both are done", lambda: len(gate.logs("handover_done")) == 2, 10)
        wait_for("one is left", lambda: len(gate.worker_pids()) == 1)
        assert worker(gate) != before
        assert ask(ws, b"x") == b"x"
    gate.signalled = False


def test_200_sockets_20_reloads(gate):
    """Under traffic: no socket is closed, and no message is lost, doubled or out of order."""
    sockets = [gate.ws("/e" if i % 2 else "/g") for i in range(200)]
    over = threading.Event()
    wrong = []
    counts = [0] * 4

    def talk(k):
        mine, n = sockets[k::4], 0
        while not over.is_set():
            n += 1
            body = b"e" + struct.pack("!I", n) * 20
            for ws in mine:
                say(ws, body)
            for ws in mine:
                got = ws.message()[1]
                if got != body and got != body[1:]:
                    wrong.append((k, n, got))
            counts[k] = n

    threads = [threading.Thread(target=talk, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for _ in range(20):
        reload(gate)
    over.set()
    for t in threads:
        t.join()
    assert not wrong and min(counts) > 20, (wrong[:3], counts)
    assert int(gate.metric("websockets_active")) == 200
    for ws in sockets:
        ws.close()


# ---------------------------------------------------------------------------- what fails


def kill(pid, sig=signal.SIGKILL):
    os.kill(pid, sig)


def second_worker(w, first):
    """The new one, stopped before it gets far."""
    def found():
        for pid in children(w.supervisor):
            if pid == first or proc_state(pid) not in ("R", "S", "D", "T"):
                continue
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if f.read().split(b"\0")[1:2] == [b"worker"]:
                        kill(pid, signal.SIGSTOP)
                        return pid
            except OSError:
                pass
        return None
    return wait_for("a new worker", found, every=0)


@pytest.mark.parametrize("when", ["it starts", "it takes over", "it takes over, silently"])
def test_a_new_worker_that_fails(gate, when):
    """Before it is ready, or in the midst of what it takes over: the old one serves on, and all of its connections."""
    with gate.ws("/g") as a, gate.ws("/e") as b:
        ident = ask(a, b"i")
        first = worker(gate)
        ready = len(gate.logs("worker_ready"))
        change(gate, drain="3s")
        kill(first, signal.SIGSTOP)  # the new one may get far before it is stopped, but takes nothing over
        gate.signal(signal.SIGHUP)
        second = second_worker(gate, first)
        if when == "it starts":
            kill(first, signal.SIGCONT)
            assert ask(a, b"i") == ident
        else:
            kill(second, signal.SIGCONT)
            wait_for("the new one is ready", lambda: len(gate.logs("worker_ready")) > ready)
            wait_for("it waits for what comes", lambda: proc_state(second) == "S")
            kill(second, signal.SIGSTOP)
            kill(first, signal.SIGCONT)
        b.send(frame(BINARY, b"meanwhile"))
        if "silently" not in when:
            wait_for("it is stopped", lambda: proc_state(second) == "T")
            kill(second)
        wait_for("it is given up", lambda: gate.logs("handover_failed"), 10)
        if when != "it starts":
            gate.wait_logs("handover_kept")  # the worker says it, the supervisor the line before
        assert len(gate.logs("handover_kept")) == (when != "it starts")
        assert gate.metric("handover_failed_total") == (when != "it starts")
        assert b.message()[1] == b"meanwhile"
        assert ask(a, b"i") == ident and ask(b, b"x") == b"x"
        with gate.ws("/e") as c:
            assert ask(c, b"y") == b"y"
        assert worker(gate) == first
        reload(gate)
        assert ask(a, b"i") == ident and ask(b, b"x") == b"x"
    gate.signalled = False


def test_the_old_worker_dies_as_it_hands_over(gate):
    first = worker(gate)
    gate.may_die = True
    change(gate, drain="3s")
    gate.signal(signal.SIGHUP)
    second = second_worker(gate, first)
    kill(first, signal.SIGSTOP)
    kill(second, signal.SIGCONT)
    wait_for("the new one is ready", lambda: len(gate.logs("worker_ready")) == 2)
    kill(first)
    wait_for("that fails", lambda: gate.logs("handover_failed"))
    wait_for("a third one serves", lambda: len(gate.logs("worker_ready")) == 3)
    with gate.ws("/e") as c:
        assert ask(c, b"y") == b"y"
    gate.signalled = False


def test_stop_in_the_midst(gate):
    first = worker(gate)
    change(gate, drain="3s")
    gate.signal(signal.SIGHUP)
    second = second_worker(gate, first)
    gate.signal(signal.SIGTERM)
    assert gate.wait_exit() == 0
    assert proc_state(first) == proc_state(second) == ""


# ---------------------------------------------------------------------------- upgrade


@pytest.fixture
def installed(tmp_path, monkeypatch, start):
    """A gateway whose program is in a folder of its own."""
    import weir
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("weir", "weirc"):
        shutil.copy(os.path.join(os.path.dirname(WEIR_BIN), name), folder / name)
    monkeypatch.setattr(weir, "WEIR_BIN", str(folder / "weir"))
    (tmp_path / "guest.wat").write_text(GUEST)
    w = start({"modules": {"guest": str(tmp_path / "guest.wat")},
               "routes": [{"path": "/g", "websocket": {"module": "guest"}}, {"path": "/e", "websocket": {"handler": "echo"}}]})
    w.program = folder / "weir"
    return w


def install(w, content):
    new = w.program.with_name("new")
    new.write_bytes(content)
    new.chmod(0o755)
    new.rename(w.program)
    return os.stat(w.program).st_ino


def program_of(pid):
    return os.stat(f"/proc/{pid}/exe").st_ino


def test_upgrade(installed):
    w = installed
    with w.ws("/g") as a, w.ws("/e") as e:
        ident = ask(a, b"i")
        say(a, b"astays")
        new = GUEST.replace("tkfired", "tkFIRED").encode()
        assert w.get("/api/v1/modules/guest", admin=True, method="PUT", body=new).status == 200
        for n in range(1, 4):
            first = worker(w)
            inode = install(w, w.program.read_bytes() + b"\0")
            if n == 2:
                r = w.get("/api/v1/upgrade", admin=True, method="POST", body="")
                assert r.status == 200 and json.loads(r.body)["handover"] is True
            else:
                w.signal(signal.SIGUSR2)
            wait_for("a new worker serves", lambda: len(w.logs("handover_done")) == n)
            wait_for("the old one has ended", lambda: proc_state(first) in ("", "Z", "X"))
            assert program_of(w.supervisor) == program_of(worker(w)) == inode
            assert os.readlink(f"/proc/{w.supervisor}/fd/0") == "/dev/null", "a child's would take its place"
            assert ask(a, b"i") == ident
            assert ask(a, b"g") == b"stays"
            assert ask(e, b"x") == b"x"
        module = json.loads(w.get("/api/v1/modules", admin=True).body)["modules"][0]
        assert module["version"] == 2 and module["rollback"]["version"] == 1
        with w.ws("/e") as more:
            assert ask(more, b"y") == b"y"
    w.signalled = False
    kill(worker(w))
    w.may_die = True
    wait_for("another worker", lambda: len(w.logs("worker_ready")) == 5)
    with w.ws("/e") as more:
        assert ask(more, b"y") == b"y"


def test_without_standard_input(start, tmp_path):
    """What the supervisor opens first has not its number, which children find taken."""
    w = start({"routes": [{"path": "/e", "websocket": {"handler": "echo"}}]}, start=False)
    w.preexec = lambda: os.close(0)
    w.start()
    with w.ws("/e") as e:
        for _ in range(3):
            reload(w)
            assert ask(e, b"x") == b"x"


def test_a_stop_after_many_hand_overs(start):
    """What an old worker said last is not taken for a word of the one that has its place."""
    w = start({"routes": [{"path": "/e", "websocket": {"handler": "echo"}}]})
    for n in range(1, 13):
        change(w, drain=f"{6000 + n}ms")
        w.signal(signal.SIGHUP)
        wait_for("a new worker serves", lambda: len(w.logs("handover_done")) == n)
    assert w.get("/readyz", admin=True).status == 200


@pytest.mark.parametrize("content", [b"#!/bin/sh\necho no good >&2\nexit 1\n", b"no program", b"#!/bin/sh\nexit 0\n"],
                         ids=["fails", "no program", "lies"])
def test_an_upgrade_that_fails(installed, content):
    w = installed
    with w.ws("/e") as e:
        first, inode = worker(w), program_of(w.supervisor)
        install(w, content)
        assert problem(w.get("/api/v1/upgrade", admin=True, method="POST", body=""), 422)["detail"]
        assert worker(w) == first and program_of(w.supervisor) == inode
        assert ask(e, b"x") == b"x"
        kill(first)  # what runs is started again, whatever the file is now
        w.may_die = True
        wait_for("another worker", lambda: len(w.logs("worker_ready")) == 2)
        assert program_of(worker(w)) == inode


def test_a_reload_is_not_lost_at_the_start(start, tmp_path):
    """SIGHUP while it compiles (which runs a long _initialize): it waits, where it ended weir before."""
    (tmp_path / "guest.wat").write_text(GUEST.rstrip()[:-1] + """
  (func (export "_initialize") (local $n i32)
    (loop $l (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 400000000))))))""")
    w = start({"modules": {"guest": str(tmp_path / "guest.wat")}, "routes": [{"path": "/g", "websocket": {"module": "guest"}}]},
              start=False, cache=tmp_path / "cache")
    w.start(ready=False)
    weirc = wait_for("weirc runs", lambda: [p for p in children(w.supervisor) if comm(p) == "weirc"], every=0)[0]
    kill(weirc, signal.SIGSTOP)
    change(w, routes=[{"path": "/e", "websocket": {"handler": "echo"}}])
    kill(w.supervisor, signal.SIGHUP)
    kill(weirc, signal.SIGCONT)
    wait_for("it is in force", lambda: w.logs("handover_done"))
    with w.ws("/e") as ws:
        assert ask(ws, b"x") == b"x"


# ---------------------------------------------------------------------------- what runs meanwhile


SLOW = """(module
  (import "weir_v1" "ws_send" (func $send (param i64 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
  (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
  (memory (export "memory") 1)
  (global $n (mut i32) (i32.const 0))
  (data (i32.const 0) "kU")
  (func (export "on_unload")
    (i32.store8 (i32.const 2) (i32.add (i32.const 48) (global.get $n)))
    (drop (call $set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 2) (i64.const 0))))
  (func (export "on_ws_message") (param $c i64) (param $kind i32) (param $len i32) (result i32) (local $i i32)
    (local.set $i (i32.const %d))
    (loop $l (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
    (global.set $n (i32.add (global.get $n) (i32.const 1)))
    (i32.store8 (i32.const 16) (i32.add (i32.const 48) (global.get $n)))
    (drop (call $get (i32.const 0) (i32.const 1) (i32.const 17) (i32.const 2)))
    (drop (call $send (local.get $c) (i32.const 2) (i32.const 16) (i32.const 3)))
    (i32.const 0)))"""


def slow(start, tmp_path, instance, turns):
    (tmp_path / "slow.wat").write_text(SLOW % turns)
    return start({"modules": {"slow": {"path": str(tmp_path / "slow.wat"), "instance": instance,
                                       "limits": {"deadline": "5s", "timeout": "10s"}}},
                  "routes": [{"path": "/s", "websocket": {"module": "slow"}}]})


def test_events_that_run_longer_run_again(start, tmp_path):
    """And nothing of them has happened before: one answer each, in order, and what came behind is not lost."""
    w = slow(start, tmp_path, "event", 400_000_000)
    with w.ws("/s") as a, w.ws("/s") as b:
        say(a, b"")
        wait_for("it runs", lambda: int(w.metric("guests_running")) == 1)
        say(b, b"")
        say(a, b"")
        reload(w)
        assert [ws.message()[1] for ws in (a, a, b)] == [b"1\0\0"] * 3
        w.check()
        a.send(close(1000)), b.send(close(1000))
        assert a.frame().opcode == b.frame().opcode == 8
        a.closed(), b.closed()


def test_events_that_run_end_first(start, tmp_path):
    w = slow(start, tmp_path, "event", 30_000_000)
    with w.ws("/s") as a:
        for _ in range(5):
            say(a, b"")
        reload(w)
        assert [a.message()[1] for _ in range(5)] == [b"1\0\0"] * 5


def test_an_actor_is_told_and_begins_anew(start, tmp_path):
    w = slow(start, tmp_path, "module", 1)
    with w.ws("/s") as a:
        assert [ask(a, b"") for _ in range(3)] == [b"1\0\0", b"2\0\0", b"3\0\0"]
        reload(w)
        assert ask(a, b"") == b"1U3"


def test_a_request_in_progress_ends_at_the_old_worker(start):
    w = start({"modules": {"add": guest("add")}, "routes": []})
    with Raw(w.port) as http:
        before, begin = worker(w), "POST /api/exec/add HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n[1"
        read = Gate(w)
        http.send(begin)
        read.passed(len(begin))
        change(w, drain="4s")
        assert w.get("/api/v1/reload", admin=True, method="POST", body="").status == 200
        assert len(w.worker_pids()) == 2
        http.send(",2]")
        r = http.response()
        assert r.status == 200 and json.loads(r.body) == 3 and r.headers.get("connection") == "close"
        http.closed()
        wait_for("the old one ends", lambda: proc_state(before) in ("", "Z", "X"))
        worker(w)


def test_added_modules_and_compression_live_on(installed):
    import zlib
    w = installed
    added = GUEST.replace("tkfired", "tkadded").encode()
    assert w.get("/api/v1/modules/more?exec=yes", admin=True, method="PUT", body=added).status == 200

    def compressed(text):
        c = zlib.compressobj(9, zlib.DEFLATED, -15)
        data = c.compress(text) + c.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4]

    with Raw(w.port) as ws:
        w.file.write_text(json.dumps({**w.config, "routes": [{"path": "/e", "websocket": {"handler": "echo", "compress": "yes"}}]}))
        w.config = json.loads(w.file.read_text())
        reload(w)
        key = "AAECAwQFBgcICQoLDA0ODw=="
        ws.send(f"GET /e HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        assert ws.response().headers.get("sec-websocket-extensions")
        message = frame(TEXT, compressed(b"again and " * 50), rsv=4)
        read = Gate(w)
        ws.send(message[:9])
        read.passed(9)
        reload(w)
        w.signal(signal.SIGUSR2)
        wait_for("it is upgraded", lambda: len(w.logs("handover_done")) == 3)
        ws.send(message[9:])
        first, n = ws.take(2)
        assert first == 0xc1
        assert zlib.decompressobj(-15).decompress(ws.take(n) + b"\0\0\xff\xff") == b"again and " * 50
        assert int(w.metric("websockets_deflate")) == 1
    modules = json.loads(w.get("/api/v1/modules", admin=True).body)["modules"]
    assert {"guest", "more"} <= {m["name"] for m in modules}
    assert w.get("/api/v1/modules/more", admin=True, method="DELETE").status in (200, 204)
    w.signalled = False


def test_suspects_stay_suspect(start):
    """A ping that was answered late is asked for again, and no time counts twice."""
    w = start({"heartbeat": {"interval": "300ms", "timeout": "200ms", "evict": "10s"},
               "routes": [{"path": "/e", "websocket": {"handler": "echo"}}]})
    with w.ws("/e") as ws:
        wait_for("it is suspected", lambda: int(w.metric("heartbeat_suspects")) == 1)
        reload(w)
        f = ws.frame()
        while f.opcode != 9:
            f = ws.frame()
        pings = [f.payload]
        end = time.monotonic() + 5
        while int(w.metric("heartbeat_suspects")) and time.monotonic() < end:
            ws.send(frame(10, pings[-1]))
            f = ws.frame()
            if f.opcode == 9:
                pings.append(f.payload)
        assert f.opcode == 9 and int(w.metric("heartbeat_suspects")) == 0


def test_tls_stays_until_it_is_drained(start, tmp_path):
    """TLS sockets are closed by the old worker with 1012; plain ones live on; sessions are resumed by the new worker."""
    import ssl

    from test_tls import certify, context, with_tls
    from weir import HOST, handshake
    w = with_tls(start({"routes": [{"path": "/e", "websocket": {"handler": "echo"}}]}, start=False), [certify(tmp_path, "one", "localhost")]).start()

    def secure(session=None):
        raw = Raw(w.tls)
        raw.sock = secured.wrap_socket(raw.sock, server_hostname="localhost", session=session)
        raw.send(handshake("/e"))
        assert raw.response().status == 101
        return raw

    secured = context(ssl.TLSVersion.TLSv1_2)
    with w.ws("/e") as plain, secure() as old:
        session = old.sock.session
        reload_begun = worker(w)
        change(w, drain="2s")
        assert w.get("/api/v1/reload", admin=True, method="POST", body="").status == 200
        with secure(session) as new:
            assert new.sock.session_reused
            assert ask(new, b"new") == ask(plain, b"new") == b"new"
            old.close_frame(1012)
            old.send(close(1012))
            wait_for("the old one has ended", lambda: proc_state(reload_begun) in ("", "Z", "X"))
            assert ask(new, b"x") == ask(plain, b"x") == b"x"


def test_a_proxy_header_is_waited_for_by_who_accepted(start, tmp_path):
    """Its listener says whether TLS follows, and has another number, or none, in the next worker."""
    from test_tls import Peer, certify, with_tls
    w = with_tls(start({"access": {"trusted": ["127.0.0.1"]}}, start=False), certify(tmp_path, "one", "localhost"))
    w.config["listen"][1]["proxy_protocol"] = "yes"
    w.file.write_text(json.dumps(w.config))
    w.start()
    before = w.metric("connections_active")
    p = Peer(w.tls)
    w.wait_metric("connections_active", lambda n: n > before)
    change(w, drain="1s")
    assert w.get("/api/v1/reload", admin=True, method="POST", body="").status == 200
    with contextlib.suppress(OSError):  # closed, or served by the old worker
        p.raw.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n" + p.step())
    assert p.raw.rest()[:1] in (b"", b"\x16")
