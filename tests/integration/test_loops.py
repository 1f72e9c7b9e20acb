"""workers: N: what crosses loops, what they share, and what holds for all of them together. Connections are opened until each loop
has some; their ids tell which is whose."""
import json
import os
import re
import signal
import struct
import threading

import pytest

import test_guest_ws as ws
import test_swap as swap
import test_weir_v1 as v1
from weir import (BINARY, HOST, PING, PONG, ROOT, TEXT, Raw, close, frame, guest, handshake, refuses_to_serve, run_cli, wait_for)

LIMIT, GONE, INVALID, ABSENT = -1, -2, -3, -4
LOOPS = 3
FEW = {"guests": 15}  # a sanitizer leaves little room for what memories reserve
CONFIG = {
    "workers": LOOPS,
    "log_level": "debug",
    "limits": {**FEW, "message": "64KiB", "connections": 300, "close_timeout": "300ms", "topics": 4},
    "modules": {
        "v1": v1.V1,
        "other": v1.V1,
        "ws": ws.WS,
        "elsewhere": ws.WS,
        "add": guest("add"),
        "http": guest("http"),
    },
    "routes": [
        {"path": "/v1", "websocket": {"module": "v1"}},
        {"path": "/v1/commons", "websocket": {"module": "v1", "space": "commons"}},
        {"path": "/other", "websocket": {"module": "other", "space": "commons"}},
        {"path": "/ws", "websocket": {"module": "ws"}},
        {"path": "/elsewhere", "websocket": {"module": "elsewhere"}},
        {"path": "/raw", "websocket": {"handler": "echo"}},
        {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/http/v1", "http": {"module": "v1"}},
        {"path": "/http/*", "http": {"module": "http"}},
    ],
}


def loop_of(g):
    return g.id >> 56


class Spread:
    """Guests' connections until each loop has at least `each`: by_loop[i]."""

    def __init__(self, make, loops=LOOPS, each=1):
        self.all, self.by_loop = [], [[] for _ in range(loops)]
        while min(map(len, self.by_loop)) < each:
            assert len(self.all) < 200, "all loops get connections"
            g = make()
            self.all.append(g)
            self.by_loop[loop_of(g)].append(g)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for g in self.all:
            g.raw.close()

    def one_each(self):
        return [of_loop[0] for of_loop in self.by_loop]


def spread(weir, path="/v1", each=1, **kw):
    kind = ws.Guest if path in ("/ws", "/elsewhere") else v1.Guest
    return Spread(lambda: kind(weir, path, **kw), each=each)


def tasks(weir):
    return os.listdir(f"/proc/{weir.worker_pid()}/task")


# ---------------------------------------------------------------------------- each loop serves


def test_all_loops_serve(weir):
    assert len(tasks(weir)) - LOOPS in (0, 1), "a thread each; and one of a sanitizer, where there is one"
    with spread(weir) as s:
        for g in s.one_each():
            assert g.do(v1.ME) == [g.id]
    for _ in range(30):
        assert weir.exec("add", "[2.5,3.7]") == "6.2"
        assert weir.get("/http/echo").status
        with weir.ws("/raw") as c:
            assert c.send(frame(PING, b"p")).frame()[1:] == (PONG, b"p")
            assert c.send(frame(TEXT, "e")).message() == (TEXT, b"e")


def test_every_thread_is_caged(weir):
    if any("sanitizers" in x["detail"] for x in weir.logs("sandbox_missing")):
        return  # they need more system calls; the other run has it
    for task in tasks(weir):
        with open(f"/proc/{weir.worker_pid()}/task/{task}/status") as f:
            status = dict(line.split(":", 1) for line in f if ":" in line)
        assert {k: status[k].strip() for k in ("NoNewPrivs", "Seccomp", "Seccomp_filters", "CapEff", "CapBnd")} == \
            {"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1", "CapEff": "0" * 16, "CapBnd": "0" * 16}


def test_all_loops_are_counted_together(weir):
    before = weir.metrics()
    with spread(weir, "/ws", each=2) as s:
        now = weir.metrics()
        n = len(s.all)
        assert now["weir_websockets_active"] - before["weir_websockets_active"] == n
        assert now["weir_connections_active"] - before["weir_connections_active"] == n
        assert now["weir_messages_received_total"] - before["weir_messages_received_total"] == n  # each asked for its id
        counted = next(m for m in json.loads(weir.get("/api/v1/modules", admin=True).body)["modules"] if m["name"] == "ws")
        assert len(counted["versions"]) == 1 and counted["versions"][0]["state"] == "active"
        events = counted["versions"][0]["events"]
        for g in s.all:
            assert g.ask(b"I")
        again = next(m for m in json.loads(weir.get("/api/v1/modules", admin=True).body)["modules"] if m["name"] == "ws")
        assert again["versions"][0]["events"] == events + n


def test_the_limit_of_connections_is_of_all(start):
    w = start({**CONFIG, "limits": {**FEW, "connections": 20}})
    open_ = [w.raw() for _ in range(20)]
    w.wait_metric("connections_active", 21)  # the admin's
    for _ in range(30):
        with w.raw() as c:
            assert c.response().status == 503
    for c in open_:
        c.close()
    w.wait_metric("connections_active", 1)
    for _ in range(30):
        assert w.exec("add", "[1,2]") == "3"


def test_an_endless_loop_holds_up_no_other_loop_and_is_ended(start):
    loop = '(module (func (export "on_ws_message") (param i64 i32 i32) (result i32) (loop $l (br $l)) (i32.const 0)))'
    w = start({**CONFIG, "limits": FEW, "modules": {**CONFIG["modules"], "loop": {"path": "loop.wat", "limits": {"deadline": "100ms", "timeout": "15s"}}},
               "routes": CONFIG["routes"] + [{"path": "/loop", "websocket": {"module": "loop"}}]}, start=False)
    (w.folder / "loop.wat").write_text(loop)
    w.start()
    stuck = [w.ws("/loop") for _ in range(4)]
    for c in stuck:
        c.send(frame(TEXT, "x"))
    w.wait_metric("guest_slices_total", lambda n: n > 20)
    with spread(w) as s:
        for g in s.one_each():
            assert g.do(v1.ME) == [g.id]
    for c in stuck:
        c.close_frame(1011)
    assert w.metric("guest_deadlines_total") == 4


# ---------------------------------------------------------------------------- topics


def test_built_in_pubsub_reaches_all_loops_in_order(weir):
    members = [weir.ws("/topic/news") for _ in range(24)]
    weir.wait_metric("topic_members", 24)
    threads = []
    for i in (0, 7):
        script = b"".join(frame(TEXT, f"{i}:{k}") for k in range(100))
        threads.append(threading.Thread(target=members[i].send, args=(script,)))
    for t in threads:
        t.start()
    for m in members:
        last = {0: -1, 7: -1}
        for _ in range(200):
            i, k = map(int, m.message()[1].split(b":"))
            assert k == last[i] + 1, "a publisher's messages keep their order"
            last[i] = k
    for t in threads:
        t.join()
    with weir.ws("/topic/other") as stranger:
        members[0].send(frame(TEXT, "end"))
        for m in members:
            assert m.message() == (TEXT, b"end")
        assert stranger.send(frame(PING, b"")).frame().opcode == PONG
    for m in members:
        m.close()
    weir.wait_metric("topic_members", 0)
    assert weir.metric("topics_active") == 0


def test_a_guest_publishes_to_all_loops(weir):
    with spread(weir, topics=["t"]) as s:
        for g in s.one_each():
            n = len(s.all)
            others = [h for h in s.all if h is not g]
            assert g.send(v1.publish("t", b"x")).hears() == b"x"
            assert v1.ints(g.hears()) == [n], "it knows of those of other loops"
            for h in others:
                assert h.hears() == b"x"
            assert g.do(v1.publish("t", b"y", but=g.id)) == [n - 1]
            for h in others:
                assert h.hears() == b"y"
            g.silent()
        assert v1.ints(weir.post("/http/v1", v1.publish("t", b"z")).body) == [len(s.all)]
        for h in s.all:
            assert h.hears() == b"z"
        gone = s.by_loop[1]
        for g in gone:
            assert g.do(v1.unsubscribe(g.id, "t")) == [0]
        rest = [h for h in s.all if h not in gone]
        rest[0].send(v1.publish("t", b"w"))
        for h in rest:
            assert h.hears() == b"w"
        assert v1.ints(rest[0].hears()) == [len(rest)]
        for g in gone:
            g.silent()


def test_spaces_hold_across_loops(weir):
    with spread(weir, "/v1/commons", topics=["t"]) as a, spread(weir, topics=["t"]) as b:
        with spread(weir, "/other") as o:
            for g in o.one_each():
                assert g.do(v1.publish("t", b"c")) == [len(a.all)]
                for h in a.all:
                    assert h.hears() == b"c"
        for h in b.all:
            h.silent()


def test_a_topic_shows_its_own_loops_members(weir):
    with spread(weir, topics=["t"], each=2) as s:
        for g in s.one_each():
            mine, cursor = {h.id for h in s.by_loop[loop_of(g)]}, 0
            while (got := g.do(v1.topic_next("t", cursor))[0]) > 0:
                mine.remove(got)
                cursor = got
            assert not mine


def test_many_topics_come_and_go(weir):
    """The table of which loops have them grows and is replaced meanwhile."""
    with spread(weir, each=2) as s:
        def churn(g, i):
            for k in range(60):
                name = f"{i}-{k}"
                assert g.do(v1.subscribe(g.id, name)) == [0]
                assert g.send(v1.publish(name, b"m")).hears() == b"m"
                assert v1.ints(g.hears()) == [1]
                assert g.do(v1.unsubscribe(g.id, name), v1.subscribe(g.id, "all")) == [0, 0]
        failed = []

        def guarded(*args):
            try:
                churn(*args)
            except BaseException as e:
                failed.append(e)
        threads = [threading.Thread(target=guarded, args=(g, i)) for i, g in enumerate(s.all)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not failed, failed[0]
        assert s.all[0].do(v1.publish("all", b"m", but=s.all[0].id)) == [len(s.all) - 1]


# ---------------------------------------------------------------------------- connections


def test_send_and_close_across_loops(weir):
    with spread(weir, "/ws", each=2) as s:
        for a in s.one_each():
            for b in s.one_each():
                if a is not b:
                    for k in range(20):
                        assert a.result(b"S", ws.u64(b.id), ws.u32(BINARY), b"%d" % k) == 0
                    for k in range(20):
                        assert b.raw.message() == (BINARY, b"%d" % k)
        a, b = s.by_loop[0][0], s.by_loop[1][0]
        assert a.result(b"C", ws.u64(b.id), ws.u32(4321), b"by a") == 0
        b.raw.close_frame(4321, "by a")
        b.raw.send(close(4321))
        b.raw.close()
        skipped = weir.metric("sends_skipped_total")

        def later_known():
            assert a.result(b"S", ws.u64(b.id), ws.u32(BINARY), b"x") == 0, "only its own loop knows that it has gone"
            return weir.metric("sends_skipped_total") > skipped
        wait_for("what is sent to one that has gone is counted", later_known)


def test_subscribe_across_loops(weir):
    with spread(weir) as s:
        a, b, _ = s.one_each()
        assert a.do(v1.subscribe(b.id, "t")) == [0]
        wait_for("b is in it", lambda: b.do(v1.publish("t", b"x", but=b.id), v1.topic_next("t"))[1] == b.id)
        assert a.do(v1.publish("t", b"hear")) == [1]
        assert b.hears() == b"hear"
        assert a.do(v1.unsubscribe(b.id, "t")) == [0]
        wait_for("b is not", lambda: b.do(v1.topic_next("t")) == [0])
        for k in range(10):
            assert a.do(v1.subscribe(b.id, f"t{k}")) == [0]
        wait_for("past limits.topics nothing is added", lambda: weir.metric("errors_total", code="LIMIT") >= 6)
        assert sum(b.do(*[v1.topic_next(f"t{k}") for k in range(10)])) == 4 * b.id


def test_another_modules_connection_stays_out_of_reach(weir):
    with spread(weir, "/ws") as s, spread(weir, "/elsewhere") as t:
        for a in s.one_each():
            for b in t.one_each():
                said = GONE if loop_of(a) == loop_of(b) else 0  # its loop finds out
                assert a.result(b"S", ws.u64(b.id), ws.u32(BINARY), b"x") == said
                assert a.result(b"C", ws.u64(b.id), ws.u32(1000)) == said
        for g in s.all:  # a word of each loop to each has passed
            for h in s.one_each():
                if loop_of(g) != loop_of(h):
                    assert g.result(b"S", ws.u64(h.id), ws.u32(TEXT), b"passed") == 0
                    assert h.raw.message() == (TEXT, b"passed")
        for b in t.all:
            assert b.ask(b"I") == ws.u64(b.id), "it lives, and heard nothing"


@pytest.mark.parametrize("forge", [
    lambda i: i % (1 << 56) | LOOPS << 56, lambda i: i % (1 << 56) | 255 << 56, lambda i: i % (1 << 56) | 127 << 56, lambda i: (1 << 64) - 1,
    lambda i: 1 << 63], ids=["N", "255", "127", "all", "sign"])
def test_ids_of_loops_that_there_are_none_of(weir, forge):
    with ws.Guest(weir) as g:
        bad = ws.u64(forge(g.id))
        assert g.result(b"S", bad, ws.u32(BINARY), b"x") == GONE
        assert g.result(b"C", bad, ws.u32(1000)) == GONE
        assert g.result(b"a", bad, ws.u32(100)) == GONE
    with v1.Guest(weir) as g:
        bad = forge(g.id)
        assert g.do(v1.subscribe(bad, "t"), v1.unsubscribe(bad, "t"), v1.buffered(bad), v1.timer_cancel(bad)) == \
            [GONE, GONE, GONE, ABSENT]


def test_forged_ids_of_another_loop_reach_nobody(weir):
    with spread(weir, "/ws") as s:
        a, b, _ = s.one_each()
        skipped = weir.metric("sends_skipped_total")
        forged = [b.id ^ 1, b.id ^ 2, b.id | 0xffffff << 32, 1 << 56, 1 << 56 | 1, 1 << 56 | 0xffffffff, b.id ^ 1 << 40]
        for bad in forged:
            assert a.result(b"S", ws.u64(bad), ws.u32(BINARY), b"x") == 0
            assert a.result(b"C", ws.u64(bad), ws.u32(1000)) == 0
        weir.wait_metric("sends_skipped_total", skipped + len(forged))
        assert b.ask(b"I") == ws.u64(b.id)


def test_a_peer_of_another_loop_that_reads_nothing(start):
    """What a guest sends it is bounded; nobody else waits for it."""
    w = start({**CONFIG, "limits": {**FEW, "message": "64KiB", "send_queue": "64KiB", "close_timeout": "300ms"}})
    with spread(w, "/ws", each=2) as s:
        deaf, = [s.by_loop[1][0]]
        a, other = s.by_loop[0][0], s.by_loop[1][1]
        for _ in range(300):
            assert a.result(b"S", ws.u64(deaf.id), ws.u32(BINARY), b"x" * 60000) in (0, 1, LIMIT)
        w.wait_metric("connections_closed_total", 1, reason="SEND_QUEUE")
        assert a.result(b"S", ws.u64(other.id), ws.u32(TEXT), b"hello") == 0
        assert other.raw.message() == (TEXT, b"hello")


BURST = """(module
  (import "weir_v1" "msg_read" (func $read (param i32 i32) (result i32)))
  (import "weir_v1" "ws_send" (func $send (param i64 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "on_ws_open") (param $conn i64)
    (i64.store (i32.const 16) (local.get $conn))
    (drop (call $send (local.get $conn) (i32.const 2) (i32.const 16) (i32.const 8))))
  ;; to the one whose id a message is, numbers until no more may be sent; to the sender, how many they were
  (func (export "on_ws_message") (param $conn i64) (param $kind i32) (param $len i32) (result i32)
    (drop (call $read (i32.const 0) (i32.const 8)))
    (loop $l
      (if (i32.lt_u (i32.load (i32.const 8)) (i32.const 1000)) (then
        (if (i32.ge_s (call $send (i64.load (i32.const 0)) (i32.const 2) (i32.const 8) (i32.const 4)) (i32.const 0)) (then
          (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
          (br $l))))))
    (drop (call $send (local.get $conn) (i32.const 2) (i32.const 8) (i32.const 4)))
    (i32.const 0)))"""


def test_a_full_queue_is_waited_for(start, tmp_path):
    """More than fits is committed at once: all of it comes, in order, and meanwhile the guest is told the limit."""
    (tmp_path / "burst.wat").write_text(BURST)
    w = start({"workers": LOOPS, "limits": {**FEW, "loop_queue": 64, "loop_queue_bytes": "64KiB"},
               "modules": {"burst": {"path": str(tmp_path / "burst.wat"), "limits": {"deadline": "10s", "timeout": "30s"}}},
               "routes": [{"path": "/burst", "websocket": {"module": "burst"}}]})

    class Burst:
        def __init__(self):
            self.raw = w.ws("/burst")
            self.id, = struct.unpack("<Q", self.raw.message()[1])
    with Spread(Burst) as s:
        a, b, _ = s.one_each()
        sent = 0
        for _ in range(20):
            a.raw.send(frame(BINARY, struct.pack("<Q", b.id)))
            n, = struct.unpack("<I", a.raw.message()[1])
            for k in range(n):
                assert b.raw.message() == (BINARY, struct.pack("<I", k))
            sent += n
        assert sent >= 1000
        assert w.metric("loop_queue_full_total") > 0


# ---------------------------------------------------------------------------- keys, timers


def test_keys_are_shared(weir):
    with spread(weir) as s:
        a, b, c = s.one_each()
        assert a.do(v1.kv_set("k", b"of a")) == [0]
        assert b.get("k") == b"of a" and c.get("k") == b"of a"
        assert c.do(v1.kv_set("k", ttl=-1)) == [0]
        assert a.get("k") == ABSENT


def test_counting_from_all_loops_loses_nothing(start, tmp_path):
    """Read, add one, store: an event that read what another has changed meanwhile runs again."""
    counter = '''(module
      (import "weir_v1" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))
      (import "weir_v1" "kv_set" (func $set (param i32 i32 i32 i32 i64) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "n")
      (func (export "add") (result i32) (local $i i32)
        (drop (call $get (i32.const 0) (i32.const 1) (i32.const 16) (i32.const 4)))
        (loop $l (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000))))
        (i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
        (drop (call $set (i32.const 0) (i32.const 1) (i32.const 16) (i32.const 4) (i64.const 0)))
        (i32.load (i32.const 16))))'''
    (tmp_path / "counter.wat").write_text(counter)
    w = start({"workers": LOOPS, "modules": {"counter": {"path": str(tmp_path / "counter.wat"), "limits": {"timeout": "30s"}}}, "limits": FEW})
    done, refused = [], []

    def client():
        with w.raw() as c:
            for _ in range(150):
                c.send("POST /api/exec/counter/add HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]")
                r = c.response()
                (done if r.status == 200 else refused).append(r.body)
    threads = [threading.Thread(target=client) for _ in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(done) + len(refused) == 12 * 150
    assert len(set(done)) == len(done), "no count was given twice"
    assert int(w.exec("counter/add", "[]")) == len(done) + 1
    assert all(json.loads(r)["code"] == "GUEST_CONFLICT" for r in refused)


def test_timers_are_their_loops_own_and_cancelled_from_any(weir):
    with spread(weir, topics=["timers"]) as s:
        a, b, _ = s.one_each()
        timer, = a.do(v1.timer_set(60000, 5))
        assert timer >> 56 == loop_of(a)
        assert b.do(v1.timer_cancel(timer)) == [0]
        wait_for("it is not there any more", lambda: a.do(v1.timer_cancel(timer)) == [ABSENT])
        soon, = b.do(v1.timer_set(0, 77))
        for g in s.all:  # on_timer publishes its cookie
            assert v1.ints(g.hears()) == [77]


# ---------------------------------------------------------------------------- modules


def test_a_swap_is_in_all_loops_or_in_none(start, tmp_path):
    w = start({**swap.config(tmp_path), "workers": LOOPS, "limits": FEW})
    conns = [w.ws("/ws") for _ in range(24)]

    def all_say(letter):
        for c in conns:
            c.send(frame(TEXT, "x"))
            assert c.message() == (TEXT, letter + b"x")
    all_say(b"a")
    assert swap.putted(w, swap.echo("b"))["version"] == 2
    all_say(b"b")
    for body in swap.BAD.values():
        assert swap.put(w, body).status == 422
        all_say(b"b")
    r = swap.rollback(w)
    assert r.status == 200
    all_say(b"a")
    swap.only(w)
    w.wait_metric("module_versions_replaced", 0)
    assert w.metric("module_swaps_total") == 2, "each counts once"
    assert [x["version"] for x in w.logs("module_swapped")] == [2, 1]


def test_what_one_loop_refuses_no_loop_has(start, tmp_path):
    """Whether an instance can be made hangs on a key, which changes while the loops try one after the other."""
    picky = swap.ECHO.replace('(memory (export "memory") 1)', '''(func $begin
        (drop (call $get (i32.const 1024) (i32.const 1) (i32.const 1025) (i32.const 1)))
        (if (i32.and (i32.load8_u (i32.const 1025)) (i32.const 1)) (then unreachable)))
      (start $begin) (memory (export "memory") 1)''') % {"letter": "p"}
    w = start({**swap.config(tmp_path, snapshot="no"), "workers": LOOPS, "limits": FEW})
    over = threading.Event()

    def change():
        while not over.is_set():
            w.post("/api/exec/echo/count", "[]")
    thread = threading.Thread(target=change)
    thread.start()
    said = set()
    for _ in range(100):
        before = swap.module(w)["version"]
        r = swap.put(w, picky)
        assert r.status == 200 or r.status == 422 and b"unreachable" in r.body, (r.status, r.body)
        now = swap.module(w)
        assert [v["version"] for v in now["versions"] if v["state"] == "active"] == [now["version"]], "the same in all loops"
        assert (now["version"] == before) == (r.status == 422)
        said.add(r.status)
        if len(said) == 2:
            break
        if r.status == 200:
            assert swap.put(w, swap.echo("a")).status == 200
    over.set()
    thread.join()
    assert said == {200, 422}
    assert swap.put(w, swap.echo("a")).status == 200
    w.wait_metric("module_versions_replaced", 0)


def test_swaps_under_traffic(start, tmp_path):
    w = start({**swap.config(tmp_path), "workers": LOOPS, "limits": FEW})
    over, bad, counts = threading.Event(), [], []

    def talk():
        try:
            with w.ws("/ws") as c:
                n = 0
                while not over.is_set():
                    c.send(frame(TEXT, str(n)))
                    opcode, data = c.message()
                    if opcode != TEXT or data[1:] != str(n).encode():
                        bad.append(data)
                    n += 1
                counts.append(n)
        except BaseException as e:
            bad.append(e)
    threads = [threading.Thread(target=talk) for _ in range(12)]
    for t in threads:
        t.start()
    for k in range(20):
        assert swap.putted(w, swap.echo("abcdefgh"[k % 8]))["version"] == k + 2
    over.set()
    for t in threads:
        t.join()
    assert not bad and len(counts) == 12 and min(counts) > 0, bad[:3]
    swap.only(w)


def test_a_canary_in_all_loops(start, tmp_path):
    w = start({**swap.config(tmp_path), "workers": LOOPS, "limits": FEW})
    conns = [w.ws("/ws") for _ in range(60)]

    def letters():
        for c in conns:
            c.send(frame(TEXT, "x"))
        return [c.message()[1][:1] for c in conns]
    r = w.get("/api/v1/modules/echo?canary=50", admin=True, method="PUT", body=swap.echo("b"))
    assert r.status == 200, r.body
    said = letters()
    assert set(said) == {b"a", b"b"} and said == letters(), "a connection stays with its version"
    assert w.get("/api/v1/modules/echo/promote", admin=True, method="POST", body="").status == 200
    assert set(letters()) == {b"b"}
    swap.only(w)


# ---------------------------------------------------------------------------- the end


def test_a_drain_is_of_all_loops(start):
    w = start({**CONFIG, "drain": "5s"})
    with spread(w, "/ws", each=3) as s:
        w.signal()
        for g in s.all:
            g.raw.close_frame(1001)
            g.raw.send(close(1001))
        assert w.wait_exit() == 0
    assert not w.logs("drain_expired") and len(w.logs("stopped")) == 1


def test_a_drain_time_that_is_over(start):
    w = start({**CONFIG, "drain": "300ms", "limits": {**FEW, "close_timeout": "20s"}})
    with spread(w, "/ws", each=2):
        w.signal()
        assert w.wait_exit() == 0
    assert w.wait_logs("drain_expired")


def test_a_dead_worker_is_replaced_with_all_its_loops(start):
    w = start(CONFIG)
    w.may_die = True
    with spread(w):
        os.kill(w.worker_pid(), signal.SIGKILL)
        w.wait_logs("worker_ready", n=2)
    with spread(w) as s:
        for g in s.all:
            assert g.do(v1.ME) == [g.id]
    assert len(tasks(w)) - LOOPS in (0, 1)


def test_an_idle_gateway_makes_no_wake_ups(start):
    w = start(CONFIG)
    with spread(w, topics=["t"]) as s:
        s.all[0].send(v1.publish("t", b"x"))
        for g in s.all:
            assert g.hears() == b"x"
        wait_for("the ticker has ended", lambda: _quiet(w))


def _quiet(w):
    before = v1.switches(w.worker_pid())
    threading.Event().wait(0.3)
    return v1.switches(w.worker_pid()) == before


def test_two_programs_do_not_share_an_address(start):
    w = start(CONFIG)
    r = refuses_to_serve(w.file)
    assert r.returncode == 1 and f"{HOST}:{w.port}: Address already in use" in r.stderr


def test_an_actor_needs_one_loop(tmp_path):
    file = tmp_path / "weir.yaml"
    file.write_text(f"workers: 2\nmodules:\n  add: {guest('add')}\n  one: {{path: {guest('actor')}, instance: module}}\n")
    r = run_cli("check", file)
    assert r.returncode == 1
    assert f"{file}:4: one has instance: module, and so one place for all its events: set workers: 1, or instance: event" in r.stderr
    file.write_text(file.read_text().replace("workers: 2", "workers: 1"))
    assert run_cli("check", file).returncode == 0


def test_no_loop_keeps_places_for_actors(start):
    """Each would take 8 GiB of each loop's address space: a thousand modules that may be added are no actors here."""
    def reserved(modules):
        w = start({**CONFIG, "limits": FEW, "admin": {"modules": modules}})
        with open(f"/proc/{w.worker_pid()}/status") as f:
            kib = int(re.search(r"^VmSize:\s*(\d+)", f.read(), re.M)[1])
        w.stop()
        return kib
    assert reserved(1000) - reserved(0) < 8 << 20


@pytest.mark.parametrize("n", ["0", "65", "-1", "many"])
def test_how_many_there_may_be(tmp_path, n):
    file = tmp_path / "weir.yaml"
    file.write_text(f"workers: {n}\n")
    r = run_cli("check", file)
    assert r.returncode == 1 and f"{file}:1: " in r.stderr and "workers" in r.stderr
