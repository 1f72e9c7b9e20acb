"""Reload with several loops, in the old worker, in the new one, or in both: ids, attachments, topics, timers and keys live on whichever
loop serves by now, and what one loop says to another arrives once. Ids tell which loop gave them out."""
import json
import signal
import struct
import threading

import pytest

import test_handover as one
from test_handover import (ask, change, reload, say, worker,  # noqa: F401
                           test_a_new_worker_that_fails, test_halves_of_messages_and_frames,
                           test_keep_alive_goes_on, test_queued_output, test_routes, test_stop_in_the_midst,
                           test_the_old_worker_dies_as_it_hands_over)
from weir import BINARY, close, frame, rounds, wait_for

# As test_handover's, but "t" takes a number behind the time, under which on_timer counts; "k" reads a key of one byte, and on_ws_close
# counts under the id.
GUEST = one.GUEST.replace("""(func (export "on_timer") (param i64)
    (drop (call $set (i32.const 1) (i32.const 1) (i32.const 2) (i32.const 5) (i64.const 0))))""", """
  (func $count (param $key i32) (param $n i32)
    (i32.store8 (i32.const 700) (i32.const 48))
    (drop (call $get (local.get $key) (local.get $n) (i32.const 700) (i32.const 1)))
    (i32.store8 (i32.const 700) (i32.add (i32.load8_u (i32.const 700)) (i32.const 1)))
    (drop (call $set (local.get $key) (local.get $n) (i32.const 700) (i32.const 1) (i64.const 0))))
  (func (export "on_timer") (param $number i64)
    (i64.store (i32.const 600) (local.get $number))
    (call $count (i32.const 600) (i32.const 1)))
  (func (export "on_ws_close") (param $c i64) (param i32 i32)
    (i64.store (i32.const 600) (local.get $c))
    (call $count (i32.const 600) (i32.const 8)))""").replace("(i64.const 7)", "(i64.load8_u (i32.const 1026))").replace(
    "(if (i32.eq (local.get $op) (i32.const 116))", """(if (i32.eq (local.get $op) (i32.const 107)) (then
      (local.set $n (call $get (i32.const 1025) (local.get $n) (i32.const 1024) (i32.const 1000)))
      (drop (call $send (local.get $c) (i32.const 2) (i32.const 1024) (select (local.get $n) (i32.const 0) (i32.ge_s (local.get $n) (i32.const 0)))))))
    (if (i32.eq (local.get $op) (i32.const 116))""")


def serve(start, tmp_path, workers):
    (tmp_path / "guest.wat").write_text(GUEST)
    return start({"workers": workers, "modules": {"guest": str(tmp_path / "guest.wat")},
                  "limits": {"message": "256KiB", "guests": 15},
                  "routes": [{"path": "/g", "websocket": {"module": "guest"}},
                             {"path": "/e", "websocket": {"handler": "echo"}},
                             {"path": "/room/*", "websocket": {"handler": "pubsub"}},
                             {"path": "/gone", "websocket": {"handler": "echo"}}]})


@pytest.fixture
def gate(start, tmp_path):
    """For what is imported above."""
    return serve(start, tmp_path, 2)


class Sockets:
    """So many guests' connections at the least, and some on each loop."""

    def __init__(self, w, loops, n=6):
        self.w, self.all, self.ids = w, [], []
        while len(self.all) < n or {i[7] for i in self.ids} != set(range(loops)):
            assert len(self.all) < 100, "all loops get connections"
            self.open()

    def open(self):
        ws = self.w.ws("/g")
        self.all.append(ws)
        self.ids.append(ask(ws, b"i"))

    def check(self, word):
        """Each has its id and attachment; reaches the one before and after it; and all get what one publishes."""
        n = len(self.all)
        for k, (ws, ident) in enumerate(zip(self.all, self.ids)):
            assert ask(ws, b"i") == ident
            assert ask(ws, b"g") == b"attached %d" % k
            for to in (k - 1, (k + 1) % n):
                say(ws, b"c" + self.ids[to] + word)
                assert self.all[to].message()[1] == word
            say(ws, b"p%d " % k + word)
            assert {other.message()[1] for other in self.all} == {b"%d " % k + word}

    def close(self):
        for ws in self.all:
            ws.close()


@pytest.mark.parametrize("loops", [(1, 1), (2, 2), (1, 2), (2, 1), (3, 1, 2, 1, 3)], ids=lambda n: " to ".join(map(str, n)))
def test_all_lives_on(start, tmp_path, loops):
    w = serve(start, tmp_path, loops[0])
    s = Sockets(w, loops[0])
    for k, ws in enumerate(s.all):
        say(ws, b"aattached %d" % k)
        say(ws, b"j")
        say(ws, b"t" + bytes([20, 128 + k]))
        say(ws, b"t" + bytes([1, 160 + k]))
    say(s.all[0], b"s" + b"stored")
    gone = w.ws("/g")
    old = ask(gone, b"i")
    gone.send(close(1000)), gone.close_frame(1000), gone.closed(), gone.close()
    for turn, n in enumerate(loops[1:]):
        change(w, workers=n)
        reload(w)
        s.check(b"after %d" % turn)
        assert ask(s.all[-1], b"r") == b"stored"
        with w.ws("/g") as more:  # whose id was nobody's before
            assert ask(more, b"i") not in [*s.ids, old]
        say(s.all[0], b"c" + old + b"for nobody")
    for k, ws in enumerate(s.all):
        wait_for("its timers have fired", lambda ws=ws, k=k: ask(ws, b"k" + bytes([128 + k])) == ask(ws, b"k" + bytes([160 + k])) == b"1")
    wait_for("no other is there", lambda: int(w.metric("websockets_active")) == len(s.all))
    pages, listed, cursor = len(s.ids), [], ""
    for _ in range(pages):  # of one each, whichever loops their ids name
        page = json.loads(w.get(f"/api/v1/topics/guest/t?limit=1{cursor}", admin=True).body)
        assert page["members"] == pages
        listed += page["connections"]
        cursor = f"&cursor={page['next']}"
    assert sorted(listed) == sorted(i[::-1].hex() for i in s.ids) and not page["next"]
    s.close()


def test_ids_are_never_used_twice(start, tmp_path):
    """Not even where no connection lived to tell."""
    w = serve(start, tmp_path, 2)
    seen = set()
    for n in (1, 2, 1):
        for _ in range(12):
            with w.ws("/g") as ws:
                ident = ask(ws, b"i")
                assert ident not in seen
                seen.add(ident)
                ws.send(close(1000)), ws.close_frame(1000), ws.closed()
        wait_for("they have gone", lambda: int(w.metric("websockets_active")) == 0)
        change(w, workers=n)
        reload(w)


@pytest.mark.parametrize("loops", [(2, 2, 2, 2), (2, 1, 3, 1)], ids=lambda n: " to ".join(map(str, n)))
def test_traffic_across_loops(start, tmp_path, loops):
    """Under what guests of one loop say to those of others: nothing is lost, doubled or out of order."""
    w = serve(start, tmp_path, loops[0])
    pairs, members = Sockets(w, loops[0], 16), Sockets(w, loops[0])
    for ws in members.all:
        say(ws, b"j")
    over, wrong, counts = threading.Event(), [], [0] * 3

    def direct(k):
        mine = [(i, len(pairs.all) - 1 - i) for i in range(len(pairs.all) // 2)][k::2]
        while not over.is_set() and not wrong:
            word = struct.pack("!I", counts[k] + 1)
            for a, b in mine:
                say(pairs.all[a], b"c" + pairs.ids[b] + b"to" + word)
                say(pairs.all[b], b"c" + pairs.ids[a] + b"fro" + word)
            for a, b in mine:
                got = pairs.all[b].message()[1], pairs.all[a].message()[1]
                if got != (b"to" + word, b"fro" + word):
                    wrong.append(got)
            counts[k] += 1

    def publish():
        while not over.is_set() and not wrong:
            words = [struct.pack("!II", counts[2] + 1, i) for i in range(len(members.all))]
            for ws, word in zip(members.all, words):
                say(ws, b"p" + word)
            for ws in members.all:
                got = [ws.message()[1] for _ in words]
                if sorted(got) != words:
                    wrong.append(got)
            counts[2] += 1

    threads = [threading.Thread(target=f, args=a) for f, a in ((direct, (0,)), (direct, (1,)), (publish, ()))]
    for t in threads:
        t.start()
    try:
        for n in loops[1:] * 2:
            before = list(counts)
            change(w, workers=n)
            reload(w)
            wait_for("all go on", lambda before=before: wrong or all(now > then for now, then in zip(counts, before)))
    finally:
        over.set()
        for t in threads:
            t.join()
    assert not wrong, wrong[:3]
    assert w.metric("websockets_active") == len(pairs.all) + len(members.all)
    pairs.close(), members.close()


@pytest.mark.parametrize("to", [2, 1])
def test_events_that_run_longer_run_again_in_any_loop(start, tmp_path, to):
    """Whichever loop they run in: one answer each, and in order."""
    (tmp_path / "slow.wat").write_text(one.SLOW % rounds(400_000_000))
    w = start({"workers": 2, "limits": {"guests": 15},
               "modules": {"slow": {"path": str(tmp_path / "slow.wat"), "limits": {"deadline": "5s", "timeout": "15s"}}},
               "routes": [{"path": "/s", "websocket": {"module": "slow"}}]})
    sockets, loops = [], set()
    while len(loops) < 2:
        sockets.append(w.ws("/s"))
        listed = json.loads(w.get("/api/v1/connections", admin=True).body)["connections"]
        loops = {c["id"][:2] for c in listed if c["protocol"] == "websocket"}
    both = sockets[0], sockets[-1]
    for ws in both:
        say(ws, b"")
    wait_for("they run", lambda: int(w.metric("guests_running")) == 2)
    for ws in both:
        say(ws, b"")
    change(w, workers=to)
    reload(w)
    for ws in both:
        assert [ws.message()[1] for _ in range(2)] == [b"1\0\0"] * 2
    for ws in sockets:  # and no more than that
        ws.send(close(1000)), ws.close_frame(1000), ws.closed()


def test_those_that_close_meanwhile(start, tmp_path):
    """Whoever says that it closes is answered so; its guest is told once, by whichever worker serves then; and others do not notice."""
    w = serve(start, tmp_path, 2)
    stay, go = Sockets(w, 2), Sockets(w, 2, 40)

    def leave(sockets):
        for ws in sockets:
            ws.send(close(1000))
            ws.close_frame(1000)
            ws.closed()

    leave(go.all[:20])  # they are yet to end their part of the connection
    t = threading.Thread(target=leave, args=(go.all[20:],))
    t.start()
    for n in (1, 2):
        change(w, workers=n)
        reload(w)
    t.join()
    go.close()
    wait_for("they have gone", lambda: w.metric("websockets_active") == len(stay.all))
    told = [ask(stay.all[k % len(stay.all)], b"k" + ident) for k, ident in enumerate(go.ids)]
    assert told == [b"1"] * len(told)
    stay.close()


def test_a_new_worker_of_other_loops_that_fails(start, tmp_path):
    """All loops serve on, and what they say to one another goes on as well."""
    w = serve(start, tmp_path, 2)
    s = Sockets(w, 2)
    for k, ws in enumerate(s.all):
        say(ws, b"aattached %d" % k)
        say(ws, b"j")
    first = worker(w)
    for n in (1, 2, 3):
        done = len(w.logs("handover_kept"))
        change(w, workers=n, drain=f"{3000 + n}ms")
        one.kill(first, signal.SIGSTOP)
        w.signal(signal.SIGHUP)
        second = one.second_worker(w, first)
        ready = len(w.logs("worker_ready"))
        one.kill(second, signal.SIGCONT)
        wait_for("the new one is ready", lambda ready=ready: len(w.logs("worker_ready")) > ready)
        one.kill(second, signal.SIGSTOP)
        for ws in s.all:
            ws.send(frame(BINARY, b"emeanwhile"))
        one.kill(first, signal.SIGCONT)
        wait_for("the old one waits for it", lambda: one.proc_state(first) == "S")
        one.kill(second)
        wait_for("it is given up", lambda done=done: len(w.logs("handover_kept")) > done)
        assert {ws.message()[1] for ws in s.all} == {b"meanwhile"}
        s.check(b"again")
        assert worker(w) == first
    reload(w)
    s.check(b"then")
    s.close()
    w.signalled = False
