"""Peers that read too slowly: what waits for them is bounded, for each and for all together; they are
told, and nobody else is kept waiting."""
import contextlib
import struct

import pytest

from weir import BINARY, CLOSE, PING, PONG, TEXT, Frame, Watch, frame, wait_for

QUEUE, MESSAGE, BUDGET = 128 << 10, 8 << 10, 384 << 10
CONFIG = {
    "limits": {"send_queue": QUEUE, "message": MESSAGE, "queues": BUDGET, "slow_timeout": "5s"},
    "routes": [
        {"path": "/raw", "websocket": {"handler": "echo"}},
        {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/lossy/*", "websocket": {"handler": "pubsub", "space": "lossy", "on_slow": "drop-oldest"}},
    ],
}


def numbered(i, size=4096):
    return struct.pack("!I", i) + b"." * (size - 4)


class Publisher:
    """A member of a topic that publishes numbered messages and takes each of them."""

    def __init__(self, weir, path):
        self.ws, self.n = weir.ws(path), 0

    def publish(self, size=4096):
        data = numbered(self.n, size)
        self.ws.send(frame(BINARY, data))
        assert self.ws.frame() == Frame(True, BINARY, data)
        self.n += 1

    def until(self, done, most=20000, size=4096):
        for _ in range(most):
            self.publish(size)
            if self.n % 64 == 0 and done():
                return
        pytest.fail(f"{most} messages and it did not happen")


def numbers(ws):
    """Those of the whole frames that come until a Close, and the Close; nothing may come behind."""
    got = []
    while True:
        f = ws.frame()
        if f.opcode == CLOSE:
            ws.closed()
            return got, f.payload
        assert f.fin and f.opcode == BINARY and f.payload[4:] == b"." * (len(f.payload) - 4)
        got.append(struct.unpack("!I", f.payload[:4])[0])


@contextlib.contextmanager
def publisher(weir, path):
    p = Publisher(weir, path)
    with p.ws:
        yield p


def rises(weir, name, **labels):
    before = weir.metric(name, **labels)
    return lambda: weir.metric(name, **labels) > before


@pytest.mark.parametrize("size", [100, 1000, 8000])
def test_a_slow_reader_gets_whole_frames_and_1013(weir, size):
    """All that was sent is there, in order, the last one whole; what was dropped was never begun."""
    closed, dropped = (weir.metric(x) for x in ("slow_closed_total", "frames_dropped_total"))
    with publisher(weir, f"/topic/slow{size}") as p, weir.ws(f"/topic/slow{size}", rcvbuf=4096) as lazy:
        p.until(rises(weir, "slow_closed_total"), most=200000, size=size)
        assert weir.metric("slow_closed_total") == closed + 1
        last = p.n
        p.publish(size)  # the others go on
        lost = weir.metric("frames_dropped_total") - dropped
        got, why = numbers(lazy)
        assert got == list(range(len(got)))
        assert lost > 0 and last - 64 <= len(got) + lost <= last
        assert struct.unpack("!H", why[:2]) == (1013,) and b"slowly" in why
    weir.wait_metric("queues_bytes", 0)
    weir.wait_metric("queues_active", 0)


def test_one_that_does_not_take_its_close_is_reset(start):
    w = start({**CONFIG, "limits": {**CONFIG["limits"], "slow_timeout": "200ms"}})
    with publisher(w, "/topic/t") as p, w.ws("/topic/t", rcvbuf=4096) as lazy:
        p.until(rises(w, "slow_closed_total"))
        watch = Watch()
        w.wait_metric("slow_reset_total", 1)
        assert watch.took() < 5
        assert w.metric("connections_closed_total", reason="SEND_QUEUE") == 1
        with pytest.raises(ConnectionResetError):
            while lazy.sock.recv(65536):
                pass
        p.publish()


def test_drop_oldest_keeps_the_newest(weir):
    """The route says so: whole messages are missing, the connection stays, and it is counted."""
    closed, dropped = (weir.metric(x) for x in ("slow_closed_total", "frames_dropped_total"))
    with publisher(weir, "/lossy/t") as p, weir.ws("/lossy/t", rcvbuf=4096) as lazy:
        p.until(rises(weir, "frames_dropped_total"))
        for _ in range(100):
            p.publish()
        lost = weir.metric("frames_dropped_total") - dropped
        lazy.send(frame(CLOSE, struct.pack("!H", 1000)))
        got, why = numbers(lazy)
        assert struct.unpack("!H", why[:2]) == (1000,)
        assert got[-1] == p.n - 1 and len(got) == p.n - lost
        assert got == sorted(got)
        gap = next(i for i, n in enumerate(got) if i != n)
        assert got[gap:] == list(range(got[gap], p.n)), "one gap, behind what the socket had"
    assert weir.metric("slow_closed_total") == closed


def flood(weir, c, message):
    """Until nothing more is read of it."""
    paused = rises(weir, "reading_paused_total")
    c.sock.settimeout(0.05)
    sent = 0
    while True:
        try:
            sent += c.sock.send(message[sent % len(message):])
        except TimeoutError:
            if paused():
                break
        except ConnectionError:
            break
    c.sock.settimeout(8)


def test_the_budget_of_all_queues(weir):
    """Each of them stays within its own limit, but together they don't: the largest is given up, and
    nobody who reads is."""
    exceeded = rises(weir, "queues_exceeded_total")
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(weir.ws("/raw"))
        for i in range(20):
            c = stack.enter_context(weir.ws("/raw", rcvbuf=4096))
            flood(weir, c, frame(BINARY, b"x" * 8000))
            assert weir.metric("queues_bytes") <= BUDGET
            good.send(frame(TEXT, "still"))
            assert good.frame() == Frame(True, TEXT, b"still")
            if exceeded():
                break
        else:
            pytest.fail("it is never used up")
    weir.wait_metric("queues_bytes", 0)


def test_a_peer_that_takes_nothing_is_given_up(start):
    w = start({**CONFIG, "limits": {**CONFIG["limits"], "send_timeout": "300ms", "slow_timeout": "100ms"}})
    with w.ws("/raw", rcvbuf=4096) as c:
        flood(w, c, frame(BINARY, b"x" * 8000))
        w.wait_metric("slow_reset_total", 1)
        w.wait_metric("queues_active", 0)


def test_pongs_are_kept_when_messages_are_dropped(weir):
    with publisher(weir, "/lossy/p") as p, weir.ws("/lossy/p", rcvbuf=4096) as lazy:
        queued = rises(weir, "queued_bytes")
        p.until(queued)
        lazy.send(frame(PING, "here"))
        p.until(rises(weir, "frames_dropped_total"))
        for _ in range(64):
            p.publish()
        lazy.send(frame(CLOSE, struct.pack("!H", 1000)))
        pongs = 0
        while (f := lazy.frame()).opcode != CLOSE:
            pongs += f == Frame(True, PONG, b"here")
        assert pongs == 1


def test_a_published_message_is_there_once(weir):
    """Of many members that do not read: one copy of it, and a reference each."""
    members = 60
    with contextlib.ExitStack() as stack:
        p = stack.enter_context(publisher(weir, "/lossy/many"))
        lazy = [stack.enter_context(weir.ws("/lossy/many", rcvbuf=4096)) for _ in range(members)]
        wait_for("they are members", lambda: weir.metric("topic_members") == members + 1)
        p.until(lambda: weir.metric("queued_bytes") > 2 * members * 8192, size=8000)
        waiting, held = weir.metric("queued_bytes"), weir.metric("queues_bytes")
        assert weir.metric("queues_active") == members
        assert held < waiting / 20
        assert held < members * 700 + 2 * waiting / members
        for c in lazy:
            c.reset()
    weir.wait_metric("queues_bytes", 0)
    assert weir.metric("queued_bytes") == 0
