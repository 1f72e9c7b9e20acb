"""Turns, room and ends: who floods, stalls or leaves does not hold up, cut short or take along the others."""
import fcntl
import os
import re
import select
import selectors
import signal
import struct
import subprocess
import termios
import threading
import time
from contextlib import contextmanager

import pytest

from weir import (BINARY, Closed, GUEST_SAYS, Raw, TEXT, WEIRC_BIN, WEIR_BIN, Gate, Watch, close, comm, cpu_seconds,
                  frame, guest, handshake, problem, proc_state, refuses_to_serve, run_cli, wait_for)

LIMIT = -1
ADD = "POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n[1,2]"
PATIENT = {"deadline": "5s", "timeout": "20s"}
TYPES = {"path": guest("types"), "limits": {"deadline": "20s", "timeout": "30s"}}
RAW = {"path": "/raw", "websocket": {"handler": "echo"}}


def u32(n):
    return struct.pack("<I", n)


# ---------------------------------------------------------------------------- peers that never pause


class Flood(threading.Thread):
    """Peers that send `batches` in turn without a pause, and read: `answer` again and again (None:
    whatever comes). No more than `window` bytes of answers are outstanding, so that nobody is closed
    for what it leaves unread."""

    def __init__(self, conns, batches, answer=None, window=0):
        super().__init__(daemon=True)
        self.conns, self.batches = conns, [memoryview(b) for b in batches]
        self.answer, self.window = answer and memoryview(answer), window
        self.each = len(answer) // len(batches) if answer else 0
        self.sent, self.part = [0] * len(conns), [0] * len(conns)  # batches; bytes of the next
        self.got, self.bytes_sent = [0] * len(conns), [0] * len(conns)
        self.wrong, self.over = None, threading.Event()

    def __enter__(self):
        for c in self.conns:
            assert c.buf == b""
            c.sock.setblocking(False)
        self.start()
        return self

    def __exit__(self, *exc):
        self.over.set()
        self.join(5)
        assert not self.is_alive()
        if exc[0] is None:
            assert self.wrong is None, self.wrong

    def run(self):
        try:
            with selectors.DefaultSelector() as sel:
                for i, c in enumerate(self.conns):
                    sel.register(c.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, i)
                while not self.over.is_set():
                    for key, ready in sel.select(0.1):
                        if ready & selectors.EVENT_READ:
                            self._read(sel, key)
                        if ready & selectors.EVENT_WRITE:
                            self._write(sel, key)
        except Exception as e:
            self.wrong = self.wrong or repr(e)

    def _read(self, sel, key):
        i, want = key.data, self.answer
        got = key.fileobj.recv(min(len(want), 1 << 18) if want else 1 << 16)
        if want is None:
            if not got:  # it says no more; it is sent to all the same
                sel.modify(key.fileobj, selectors.EVENT_WRITE, i)
            return
        assert got, f"peer {i} was ended after {self.got[i]} bytes"
        at = self.got[i] % len(want)
        first = want[at:at + len(got)]
        assert got[:len(first)] == first and got[len(first):] == want[:len(got) - len(first)], \
            f"peer {i}: not the answer at byte {self.got[i]}: {got[:60]!r}"
        self.got[i] += len(got)
        sel.modify(key.fileobj, selectors.EVENT_READ | selectors.EVENT_WRITE, i)

    def _write(self, sel, key):
        i = key.data
        if self.answer and not self.part[i] and (self.sent[i] + 1) * self.each - self.got[i] > self.window:
            sel.modify(key.fileobj, selectors.EVENT_READ, i)
            return
        batch = self.batches[self.sent[i] % len(self.batches)]
        n = key.fileobj.send(batch[self.part[i]:])
        self.bytes_sent[i] += n
        self.part[i] += n
        if self.part[i] == len(batch):
            self.sent[i], self.part[i] = self.sent[i] + 1, 0

    def moves(self, counts, least, timeout=5):
        """Until each peer has `least` more than now."""
        goal = [n + least for n in counts]
        wait_for(f"each peer has {least} bytes more",
                 lambda: self.wrong or all(n >= g for n, g in zip(counts, goal)), timeout)
        assert self.wrong is None, self.wrong


def ask(c):
    """One exec on a kept-alive connection: the seconds that it took."""
    watch = Watch()
    r = c.send(ADD).response()
    took = watch.took()
    assert (r.status, r.body) == (200, b"3\n")
    return took


def answers_in_time(c, within=0.5, seconds=1.5):
    """Each of the execs that fit into `seconds`."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        took = ask(c)
        assert took < within, f"answer {n} took {took:.3f} s"
        n += 1
    return n


def unmasked(opcode, payload):
    """As a server sends it."""
    n = len(payload)
    head = bytes([n]) if n < 126 else b"\x7e" + struct.pack("!H", n) if n < 65536 else b"\x7f" + struct.pack("!Q", n)
    return bytes([0x80 | opcode]) + head + payload


def masked(opcode, payload):
    return frame(opcode, payload, mask=b"\0\0\0\0")


def test_a_flooded_echo_holds_up_no_guest(start):
    """Three peers whose echoes are read as fast as they come: an exec has its turn."""
    w = start({"limits": {"send_queue": "4MiB", "queues": "64MiB"}, "modules": {"add": guest("add")}, "routes": [RAW]})
    payloads = [bytes([i]) * 65536 for i in range(8)]
    conns = [w.ws("/raw") for _ in range(3)]
    with w.raw() as c:
        ask(c)
        with Flood(conns, [masked(BINARY, p) for p in payloads],
                   b"".join(unmasked(BINARY, p) for p in payloads), window=1 << 20) as f:
            f.moves(f.got, 4 << 20)
            answers_in_time(c)
            f.moves(f.got, 1 << 20)
    for c in conns:
        c.close()


def test_what_is_dropped_holds_up_no_guest(start):
    """Four peers that were refused and go on sending all the same."""
    w = start({"limits": {"close_timeout": "30s"}, "modules": {"add": guest("add")}})
    conns = [w.raw() for _ in range(4)]
    for c in conns:
        problem(c.send("X\n\n").response(), 400)
    with w.raw() as c:
        ask(c)
        with Flood(conns, [b"x" * (4 << 20)]) as f:
            f.moves(f.bytes_sent, 4 << 20)
            answers_in_time(c, seconds=3)
            f.moves(f.bytes_sent, 1 << 20)
    for c in conns:
        c.close()


def test_a_flooded_guest_holds_up_no_other(start):
    """Hundreds of messages in each write, from several peers: an exec has its turn, and each echo
    comes back, in order."""
    w = start({"limits": {"send_queue": "4MiB", "queues": "64MiB"}, "modules": {"add": guest("add"), "echo": guest("echo")},
               "routes": [{"path": "/echo", "websocket": {"module": "echo"}}]})
    payloads = [b"%08d" % i for i in range(6000)]
    batches = [b"".join(masked(TEXT, p) for p in payloads[i:i + 400]) for i in range(0, 6000, 400)]
    conns = [w.ws("/echo") for _ in range(4)]
    with w.raw() as c:
        ask(c)
        with Flood(conns, batches, b"".join(unmasked(TEXT, p) for p in payloads), window=4 * 4000) as f:
            f.moves(f.got, 8000)
            answers_in_time(c)
            f.moves(f.got, 8000)
    for c in conns:
        c.close()


# ---------------------------------------------------------------------------- guests that are busy


def spin_for(c, seconds):
    """How far ws.wat has to count for that long, on a connection of its own."""
    def measured(n):
        began = time.monotonic()
        c.send(frame(BINARY, b"N" + u32(n) + b"counted"))
        assert c.message() == (BINARY, b"counted")
        return time.monotonic() - began

    n = 10000000
    while measured(n) < 0.02:
        n *= 2
    took = min(measured(n) for _ in range(3))  # a pause of the machine would make it too short
    return min(int(n * seconds / took), 0xffffffff)


def closes(w, n, timeout=5):
    return w.wait_logs(GUEST_SAYS, n=n, timeout=timeout, where=lambda x: x["text"].startswith("close code="))


def test_ends_are_told_while_another_module_is_busy(start):
    """on_ws_close has its turn as every event has: 200 WebSockets go while a module is never idle."""
    w = start({"drain": "2s", "modules": {"busy": {"path": guest("ws"), "limits": PATIENT},
                                          "ended": {"path": guest("ws"), "limits": {"timeout": "20s"}}},
               "routes": [{"path": "/busy", "websocket": {"module": "busy"}},
                          {"path": "/ended", "websocket": {"module": "ended"}}]})
    ended = [w.ws("/ended") for _ in range(200)]
    busy = [w.ws("/busy") for _ in range(3)]
    message = masked(BINARY, b"N" + u32(spin_for(busy[0], 0.03)) + b"counted")
    with Flood(busy, [message] * 2, unmasked(BINARY, b"counted") * 2, window=2 * 9) as f:
        f.moves(f.got, 9)
        for i, c in enumerate(ended):
            if i % 2:
                c.send(close(1000))
            else:
                c.reset()
        w.wait_metric("websockets_active", 3, timeout=5)
        closes(w, 200)
        f.moves(f.got, 9)
    assert len(closes(w, 200)) == 200 and w.metric("logs_dropped_total") == 0
    codes = sorted(re.match(r"close code=(\d+) clean=(\d)", x["text"]).groups() for x in closes(w, 200))
    assert codes == [("1000", "1")] * 100 + [("1006", "0")] * 100
    for c in busy + ended:
        c.close()


def runs_for(w, seconds):
    """Whether one guest runs on until that time is over."""
    end, seen = time.monotonic() + seconds, False
    while time.monotonic() < end:
        running = w.metric("guests_running") == 1
        if seen and not running:
            return False
        seen |= running
    return seen


def one_slot(start):
    """Guests of a module have one slot (a quarter of 4), and nothing may wait."""
    return start({"limits": {"guests": 4, "guest_queue": 0}, "drain": "1s",
                  "modules": {"ws": {"path": guest("ws"), "limits": PATIENT}},
                  "routes": [{"path": "/ws", "websocket": {"module": "ws"}}]})


def test_a_message_waits_for_the_one_slot_of_its_module(start):
    """It is not a reason to close the connection (1013): its input waits."""
    w = one_slot(start)
    with w.ws("/ws") as first, w.ws("/ws") as second:
        n = spin_for(first, 1.5)
        first.send(frame(BINARY, b"N" + u32(n) + b"first"))
        while not runs_for(w, 0.3):  # measured in a slow moment
            assert first.message() == (BINARY, b"first") and n < 0xffffffff
            n = min(n * 4, 0xffffffff)
            first.send(frame(BINARY, b"N" + u32(n) + b"first"))
        second.send(frame(BINARY, b"esecond") + frame(BINARY, b"eagain"))
        assert w.metric("guests_running") == 1 and second.buf == b""
        assert second.message() == (BINARY, b"second")
        assert second.message() == (BINARY, b"again")
        assert first.message() == (BINARY, b"first")
        assert first.send(frame(BINARY, b"ethird")).message() == (BINARY, b"third")


def test_an_end_is_told_though_nothing_may_wait(start):
    """guest_queue: 0 and on_ws_close: the connection goes, and the guest is told."""
    w = one_slot(start)
    with w.ws("/ws") as c:
        c.send(frame(BINARY, b"ex"))
        assert c.message() == (BINARY, b"x")
        c.send(close(1000)).close_frame(1000)
        c.closed()
    closes(w, 1)
    w.wait_metric("websockets_active", 0)


def types_spin(w, seconds):
    """How far `spin` of types.wat has to count for that long."""
    n, took = 5000000, 0
    while took < 0.02:
        n *= 2
        began = time.monotonic()
        assert w.exec("types/spin", f"[{n}]") == str(n)
        took = time.monotonic() - began
    return int(n * seconds / took)


@contextmanager
def never_idle(w):
    """A guest of types.wat runs all the while: loop_busy_max_seconds is of iterations that began with
    work pending."""
    with w.raw() as c:
        c.send("POST /api/exec/types/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        w.wait_metric("guests_running", lambda v: v >= 1)
        yield
        assert w.metric("guests_running") >= 1


@contextmanager
def stopped(pid):
    """The worker does not run meanwhile: what is sent to it comes at once when it goes on."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for("it is stopped", lambda: proc_state(pid) == "T")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_bodies_that_come_at_once_are_served_in_turns(start):
    """100 requests wait for their bodies, which come together: guests have no more of an iteration
    than ever, and each is answered."""
    w = start({"limits": {"guests": 256}, "drain": "1s", "modules": {"types": TYPES}})
    n = types_spin(w, 0.0008)
    body = f"[{n}]"
    head = f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    conns = [w.raw() for _ in range(100)]
    got = w.metric("received_bytes_total")
    for c in conns:
        c.send(head)
    w.wait_metric("received_bytes_total", lambda v: v >= got + 100 * len(head))
    with never_idle(w):
        with stopped(w.worker_pid()):
            for c in conns:
                c.send(body)
        for c in conns:
            r = c.response()
            assert (r.status, r.body) == (200, f"{n}\n".encode())
            c.close()
        assert 0 < w.metric("loop_busy_max_seconds") < 0.02


def test_modules_share_time_not_connections(start):
    """200 connections with calls of one module, and behind them one of another that ran lately: its
    call does not wait until each of theirs has had a turn."""
    w = start({"modules": {"types": TYPES, "add": guest("add")}})
    n = types_spin(w, 0.0004)
    body = f"[{n}]"
    spin = f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    conns = [w.raw() for _ in range(200)]
    for other in conns:
        other.send("POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n[1]").response()
    with w.raw() as c:
        ask(c)
        with stopped(w.worker_pid()):
            for other in conns:
                other.send(spin * 5)
            c.send(ADD)
        assert c.response().body == b"3\n"
        answered = len(select.select([other.sock for other in conns], [], [], 0)[0])
    assert answered < 50, f"{answered} of 200 were served first"
    for other in conns:
        for _ in range(5):
            assert other.response().body == f"{n}\n".encode()
        other.close()


def test_calls_of_a_throttled_module_hold_up_no_busy_one(start):
    """Hundreds of calls wait for the next second of their module's CPU time; of two other modules,
    the one that has had more of the time goes on all the same."""
    w = start({"drain": "1s", "modules": {"types": TYPES, "add": guest("add"), "dear": {**TYPES, "limits": {"cpu": 1, "timeout": "20s"}}}})
    n = types_spin(w, 0.0004)

    def spin(name):
        body = f"[{n}]"
        return f"POST /api/exec/{name}/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}"

    dear, busy = [w.raw() for _ in range(200)], [w.raw() for _ in range(8)]
    for c in dear:
        c.send(spin("dear"))
    w.wait_metric("guests_waiting", lambda v: v > 100)
    with w.raw() as light:
        for _ in range(300):
            for c in busy:
                c.send(spin("types"))
            ask(light)
            for c in busy:
                assert c.response().body == f"{n}\n".encode()
        assert w.metric("guests_waiting") > 100
    for c in dear + busy:
        c.reset()


def stalled(conns, before={}):  # before: what the last call saw
    """Whether the senders got no further since this was last asked."""
    now = [struct.unpack("i", fcntl.ioctl(c.sock, termios.TIOCOUTQ, bytes(4)))[0] for c in conns]
    same = min(now) > 0 and before.get("now") == now
    before["now"] = now
    return same


def test_a_flood_into_a_refused_connection(start):
    """limits.connections is reached: what the refused ones send, and go on sending, is not read to
    its end."""
    watch, w = Watch(), start({"limits": {"connections": 1}, "modules": {"add": guest("add")}})
    data = b"x" * (100 << 20)

    def blast(c):
        try:
            c.send(data)
        except OSError:
            pass  # it was closed meanwhile

    with w.raw() as inside:
        ask(inside)
        worker = w.worker_pid()
        for _ in range(8):
            wait_for("it waits", lambda: proc_state(worker) == "S")
            with stopped(worker):
                refused = [w.raw() for _ in range(3)]
                floods = [threading.Thread(target=blast, args=(c,), daemon=True) for c in refused]
                for t in floods:
                    t.start()
                wait_for("no more fits on the way", lambda: stalled(refused), every=0.05)
            assert ask(inside) < 0.5
            for t in floods:
                t.join(5)
                assert not t.is_alive()
            for c in refused:
                c.close()
        assert w.metric("connections_refused_total") == 24
        assert w.metric("loop_away_max_seconds") < 0.1 + watch.lost()


@pytest.mark.parametrize("size", [4 << 20, 256 << 20])
def test_much_text_in_one_host_call(start, size):
    """No host call lasts as long as a guest makes its argument: text beyond the queue is refused
    before it is looked at, and a line is cut, at a character's end, before it is written."""
    w = start({"limits": {"guests": 4, "memory": "1GiB"}, "routes": [{"path": "/ws", "websocket": {"module": "bulk"}}],
               "modules": {"bulk": {"path": guest("bulk"), "limits": {**PATIENT, "memory": "257MiB"}},
                           "types": TYPES}, "drain": "1s"})
    with w.ws("/ws") as c, never_idle(w):
        def result(command, n, prefix):
            c.send(frame(BINARY, command + u32(n) + u32(prefix)))
            opcode, data = c.message()
            return struct.unpack("<i", data)[0]
        assert result(b"s", size, 0) == LIMIT
        for prefix in range(3):
            assert result(b"l", size, prefix) == 0
            text = w.wait_log(GUEST_SAYS, where=lambda x, p="x" * prefix + "\u20ac": x["text"].startswith(p))["text"]
            whole = text[prefix:]
            assert whole == "\u20ac" * len(whole) and len(whole) * 3 > 3000
        assert result(b"s", size, 1) == LIMIT
        assert 0 < w.metric("loop_busy_max_seconds") < 0.05
    assert not w.logs("guest_failed")


# ---------------------------------------------------------------------------- slow but steady readers

BIG = {"drain": "10s", "limits": {"send_queue": "64KiB", "queues": "64MiB", "close_timeout": "1s"},
       "modules": {"http": {"path": guest("http"), "limits": {**PATIENT, "output": "16MiB"}}, "add": guest("add")},
       "routes": [{"path": "/h", "http": {"module": "http"}}]}
BODY = 12000000  # what http.wat makes of w12000, a thousand bytes of "w" each


def get_big(fields=""):
    return f"GET /h?w{BODY // 1000} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"


def read_steadily(c, seconds, before=None, size=BODY):
    """A whole response's body, at an even pace for that long. before(): once its head is there."""
    head = c.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"\r\nX-Result: 0\r\n" in head, head
    assert b"\r\nContent-Length: %d\r\n" % size in head, head
    if before:
        before()
    got, c.buf = c.buf[:size], c.buf[size:]
    n, began = len(got), time.monotonic()
    assert got == b"w" * n
    while n < size:
        time.sleep(max(0, began + seconds * n / size - time.monotonic()))
        try:
            got = c.sock.recv(min(65536, size - n))
        except ConnectionError as e:
            raise Closed(f"{e!r} after {n} of {size} bytes") from None
        if not got:
            raise Closed(f"ended after {n} of {size} bytes")
        assert got == b"w" * len(got)
        n += len(got)
    return head


@pytest.mark.parametrize("how", ["keep-alive", "close", "half-close", "1.0"])
def test_a_response_larger_than_the_queue(start, how):
    """Whoever takes of it has all of it, though it takes longer than close_timeout: what counts is
    that the peer takes something."""
    w = start(BIG)
    with w.raw(rcvbuf=65536) as c:
        c.send(get_big("Connection: close\r\n" if how == "close" else "").replace("1.1", "1.0" if how == "1.0" else "1.1"))
        if how == "half-close":
            c.shut()
        read_steadily(c, 3)
        if how == "keep-alive":
            ask(c)
        else:
            c.closed()
    assert w.metric("connections_closed_total", reason="SEND_QUEUE") == 0


def test_a_response_larger_than_the_queue_outlasts_the_idle_time(start):
    w = start({**BIG, "limits": {**BIG["limits"], "idle_timeout": "1s"}})
    with w.raw(rcvbuf=65536) as c:
        c.send(get_big())
        read_steadily(c, 3)


def test_responses_one_after_the_other(start):
    """Requests in one packet whose responses together are larger than any may be: the next is
    answered when the one before has gone."""
    w = start(BIG)
    with w.raw(rcvbuf=65536) as c:
        c.send(get_big() * 3 + ADD)
        for _ in range(3):
            read_steadily(c, 0.5, before=lambda: w.wait_metric("queued_bytes", lambda v: 0 < v < BODY + (1 << 20)))
        assert c.response().body == b"3\n"


def test_a_response_larger_than_the_queue_outlasts_a_stop(start):
    """SIGTERM while it flows: it is a response that had begun."""
    w = start(BIG)
    with w.raw(rcvbuf=65536) as c:
        def stop():
            w.wait_metric("queued_bytes", lambda v: v > 0)
            w.signal()
            w.wait_log("draining")
        c.send(get_big())
        read_steadily(c, 3, before=stop)
        c.closed()
    assert w.wait_exit() == 0
    assert not w.logs("drain_expired") and not w.logs("worker_exit")


def test_a_reader_that_stops_is_ended(start):
    """The other side of it: who takes nothing for close_timeout has gone."""
    w = start(BIG)
    with w.raw(rcvbuf=65536) as c:
        c.send(get_big("Connection: close\r\n"))
        c.until(b"\r\n\r\n")
        w.wait_metric("close_timeouts_total", 1, timeout=5)
        w.wait_metric("connections_active", 1)
        assert w.metric("queued_bytes") == 0


# ---------------------------------------------------------------------------- the end, and what goes along


def test_a_handshake_that_a_stop_overtakes(start):
    """Its second half comes after SIGTERM: refused, or opened and closed with 1001; not left open
    for the drain time."""
    w = start({"drain": "8s", "modules": {"ws": guest("ws")}, "routes": [RAW, {"path": "/ws", "websocket": {"module": "ws"}}]})
    gate = Gate(w)
    with w.raw() as a, w.raw() as b:
        for c, path in ((a, "/raw"), (b, "/ws")):
            c.send(handshake(path)[:60])
            gate.passed(60)
        watch = Watch()
        w.signal()
        w.wait_log("draining")
        for c, path in ((a, "/raw"), (b, "/ws")):
            c.send(handshake(path)[60:])
            r = c.response()
            if r.status == 101:
                c.close_frame(1001)
                c.send(close(1001))
            else:
                problem(r, 503, "DRAINING")
            c.closed()
            c.close()
        assert w.wait_exit(watch=watch) == 0
        assert watch.took() < 4, "nothing is left to wait for"
    assert not w.logs("drain_expired")


def test_a_stop_overtakes_a_guest_that_looks_at_a_handshake(start):
    w = start({"drain": "8s", "modules": {"slow": {"path": guest("slowhs"), "limits": PATIENT}},
               "routes": [{"path": "/ws", "websocket": {"module": "slow"}}]})
    with w.raw() as c:
        c.send(handshake("/ws"))
        w.wait_metric("guests_running", 1)
        w.signal()
        w.wait_log("draining")
        r = c.response()
        if r.status == 101:
            c.close_frame(1001)
            c.send(close(1001))
        else:
            problem(r, 503, "DRAINING")
        c.closed()
    assert w.wait_exit() == 0
    assert not w.logs("drain_expired")


SERVED = {"drain": "4s", "modules": {"add": guest("add"), "ws": guest("ws"), "types": TYPES},
          "routes": [RAW, {"path": "/ws", "websocket": {"module": "ws"}}]}


def test_a_worker_without_supervisor_takes_its_leave(start):
    """The supervisor is killed: what runs is answered, WebSockets are told 1001, and the worker ends by
    itself, though nobody reads what it logs."""
    w = start(SERVED)
    worker = w.worker_pid()
    n = types_spin(w, 0.3)
    try:
        with w.ws("/raw") as a, w.ws("/ws") as b, w.raw() as c:
            c.send(f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(str(n)) + 2}\r\n\r\n[{n}]")
            w.wait_metric("guests_running", 1)
            os.kill(w.supervisor, signal.SIGKILL)
            w.proc.wait(5)
            for ws in (a, b):
                ws.close_frame(1001)
                ws.send(close(1001)).closed()
            assert c.response().body == f"{n}\n".encode()
            c.closed()
        wait_for("the worker ends", lambda: proc_state(worker) in ("", "Z", "X"), 4 + 2)
    finally:
        if comm(worker).startswith("weir"):
            os.kill(worker, signal.SIGKILL)


def launch(w, read=True, **popen):
    """Starts w in another way than Weir.start; its fixture ends it."""
    w.proc = subprocess.Popen([WEIR_BIN, "serve", str(w.file)], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **popen)
    w._readers = [threading.Thread(target=w._read, daemon=True)] if read else []
    for t in w._readers:
        t.start()
    wait_for("/readyz answers 200", w._is_ready, 15)


def serves(w):
    """Whether a fresh connection is answered."""
    try:
        with Raw(w.port, timeout=1) as c:
            return c.send(ADD).response().body == b"3\n"
    except (OSError, Closed, AssertionError):
        return False


def test_the_reader_of_the_log_goes(start):
    """Neither process dies of a line that it can't write; nor does it spin for it."""
    w = start(SERVED, start=False)
    launch(w, read=False)
    w.may_die = True
    w.proc.stderr.close()
    with w.ws("/ws") as c:
        for _ in range(60):
            c.send(frame(BINARY, b"l\x01" + b"x" * 3500))
            assert c.message() == (BINARY, u32(0))
    assert w.get("/healthz", admin=True).status == 200
    assert w.exec("add", "[1,2]") == "3"
    used = cpu_seconds(w.supervisor)
    began = time.monotonic()
    while time.monotonic() - began < 0.5:
        assert serves(w)
        time.sleep(0.02)
    assert cpu_seconds(w.supervisor) - used < 0.25
    first = w.worker_pid()
    os.kill(first, signal.SIGKILL)
    wait_for("a new worker serves", lambda: w.worker_pids() not in ([], [first]) and serves(w), 5)
    assert w.proc.poll() is None
    w.signal()
    assert w.wait_exit() == 0


def test_a_parent_that_ignores_its_children(start, tmp_path):
    """SIGCHLD is ignored when weir is started, as some shells and supervisors do: modules are compiled
    and a dead worker is replaced all the same."""
    w = start(SERVED, start=False, cache=tmp_path / "cache")
    launch(w, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    w.may_die = True
    assert serves(w)
    assert {x["module"] for x in w.logs("module_compiled")} == set(SERVED["modules"])
    for n in (1, 2):
        first = w.worker_pid()
        os.kill(first, signal.SIGKILL)
        wait_for("a new worker serves", lambda: w.worker_pids() not in ([], [first]) and serves(w), 3)
        assert w.wait_logs("worker_exit", n=n)[-1]["signal"] == int(signal.SIGKILL)
        assert w.metric("worker_restarts") == n


# ---------------------------------------------------------------------------- modules behind links


@pytest.fixture
def linked(tmp_path):
    """A trusted module in a folder of its own, and a folder that anybody may write, with a link to it."""
    (tmp_path / "safe").mkdir()
    (tmp_path / "open").mkdir()
    os.chmod(tmp_path / "open", 0o777)
    file = tmp_path / "safe" / "m.cwasm"
    r = subprocess.run([WEIRC_BIN, guest("add"), "-o", file], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r
    (tmp_path / "open" / "link.cwasm").symlink_to(file)
    (tmp_path / "open" / "folder").symlink_to(tmp_path / "safe")
    return tmp_path


@pytest.mark.parametrize("path", ["open/link.cwasm", "open/folder/m.cwasm"])
def test_a_link_to_a_trusted_module(start, linked, path):
    """What a link leads to is what counts: it is that which is read."""
    w = start({"modules": {"add": str(linked / path)}})
    assert w.exec("add", "[1,2]") == "3"


@pytest.mark.parametrize("what,words", [
    ("file", ["safe/m.cwasm", "can be written by others"]), ("folder", ["safe", "can be written by others"]),
    ("there", ["open", "can be written by others"]), ("dangling", ["open/link.cwasm", "No such file"]),
    ("loop", ["open/link.cwasm", "symbolic links"])])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_link_to_what_is_not_to_be_trusted(start, linked, command, what, words):
    """Refused, and the message names what others may write, or what is not there."""
    file, link = linked / "safe" / "m.cwasm", linked / "open" / "link.cwasm"
    if what == "file":
        os.chmod(file, 0o646)
    elif what == "folder":
        os.chmod(file.parent, 0o777)
    else:
        link.unlink()
        if what == "there":
            os.rename(file, linked / "open" / "m.cwasm")
        link.symlink_to({"there": "m.cwasm", "dangling": "nowhere.cwasm", "loop": "link.cwasm"}[what])
    w = start({"modules": {"culprit": str(link)}}, start=False)
    r = run_cli("check", w.file) if command == "check" else refuses_to_serve(w.file)
    assert r.returncode == 1 and "culprit" in r.stderr, r
    said = next(line for line in r.stderr.splitlines() if "running_as_root" not in line)
    for word in [str(linked / words[0]), *words[1:]]:
        assert word in said, said


def test_a_link_that_changes_meanwhile(start, linked):
    """Now it leads to a trusted module, now to one that anybody may write, and which is none: it is
    loaded or refused for who may write it; never is the one looked at and the other one read."""
    file, link = linked / "safe" / "m.cwasm", linked / "open" / "link.cwasm"
    bad, over = linked / "open" / "bad.cwasm", threading.Event()
    bad.write_bytes(b"junk" * 1000)
    os.chmod(bad, 0o666)

    def turn():
        other, n = str(linked / "open" / "other"), 0
        while not over.is_set():
            n += 1
            os.symlink(bad if n % 2 else file, other)
            os.rename(other, link)

    w = start({"modules": {"culprit": str(link)}}, start=False)
    turning = threading.Thread(target=turn, daemon=True)
    turning.start()
    try:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            r = run_cli("check", w.file)
            assert r.returncode == 0 or "can be written by others" in r.stderr, r
    finally:
        over.set()
        turning.join(5)
    assert not turning.is_alive()
