"""Heartbeats, eviction, auto_reply, messages that never end, and drains that are spread."""
import ctypes
import re
import select
import socket
import struct
import time

import pytest

from weir import BINARY, CLOSE, PING, PONG, RFC3339, TEXT, close, frame, guest, wait_for

ROUTES = {"modules": {"echo": {"path": guest("echo")},
                      "busy": {"path": guest("ws"), "limits": {"deadline": "60s", "timeout": "60s"}}},
          "routes": [{"path": "/raw", "websocket": {"handler": "echo", "auto_reply": {"ping": "pong", "?": "!"}}},
                     {"path": "/echo", "websocket": {"module": "echo", "auto_reply": {"ping": "pong"}}},
                     {"path": "/busy", "websocket": {"module": "busy"}}]}
SHORT = {"interval": "100ms", "timeout": "200ms", "evict": "400ms"}


OFF = {"interval": "0s"}


def config(beat, **more):
    return {**ROUTES, "limits": {"close_timeout": "300ms"}, "heartbeat": beat, **more}


def ping_of(c):
    f = c.frame()
    assert f.opcode == PING, f
    return f.payload


def evicted(w, c, cause):
    """The Close, what is logged of it, and that the connection is gone though nobody answers."""
    f = c.frame()
    while f.opcode in (PING, TEXT):
        f = c.frame()
    assert f.opcode == CLOSE and f.payload == struct.pack("!H", 4001) + b"HEARTBEAT_TIMEOUT", f
    line = w.wait_log("heartbeat_evicted")
    assert re.fullmatch("[0-9a-f]{16}", line["conn_id"])
    assert RFC3339.match(line["last_pong_at"]) and line["last_pong_at"] < line["time"]
    assert (line["close_reason"], line["cause"]) == ("HEARTBEAT_TIMEOUT", cause)
    w.wait_metric("connections_closed_total", 1, reason="HEARTBEAT_TIMEOUT")
    w.wait_metric("websockets_active", 0)
    assert w.metric("heartbeat_suspects") == w.metric("heartbeat_demoted") == 0


SILENT, SECOND = "silent", "a second ping was not answered"


@pytest.mark.parametrize("path", ["/raw", "/echo"])
def test_who_answers_stays(start, path):
    w = start(config({"interval": "100ms", "timeout": "3s", "evict": "4s"}))
    seen = set()
    with w.ws(path) as c:
        for _ in range(10):
            payload = ping_of(c)
            c.send(frame(PONG, payload))
            seen.add(payload)
        c.send(frame(TEXT, "still here"))
        f = c.frame()
        while f.opcode == PING:
            c.send(frame(PONG, f.payload))
            f = c.frame()
        assert (f.opcode, f.payload) == (TEXT, b"still here")
    assert len(seen) == 10, "each ping has a payload of its own"
    assert w.metric("heartbeat_misses_total") == 0
    assert w.metric("heartbeat_pongs_total") >= 10


@pytest.mark.parametrize("path", ["/raw", "/echo"])
def test_who_is_silent_is_evicted(start, path):
    w = start(config(SHORT))
    with w.ws(path) as c:
        began = time.monotonic()
        evicted(w, c, SILENT)
        assert time.monotonic() - began > 0.35
    assert w.metric("heartbeat_evicted_silent_total") == 1


def test_other_pongs_are_none(start):
    """Unsolicited ones, another payload, the peer's own pings: none is a sign of life."""
    w = start(config(SHORT))
    with w.ws("/raw") as c:
        c.send(frame(PONG) + frame(PONG, b"12345678"))
        payload = ping_of(c)
        c.send(frame(PONG, payload[:-1] + bytes([payload[-1] ^ 1])) + frame(PONG, payload + b"x"))
        evicted(w, c, SILENT)
    assert w.metric("heartbeat_pongs_total") == 0
    assert w.metric("heartbeat_pongs_other_total") == 4


def talk(c, until, text="x"):
    """Sends without ever reading, until `until` is true or the peer ends."""
    def step():
        try:
            c.send(frame(TEXT, text))
        except ConnectionError:
            return True
        return until()
    wait_for("it is so while the peer talks", step, 10, every=0.02)


def test_who_talks_is_demoted_then_evicted(start):
    w = start(config({"interval": "400ms", "timeout": "400ms", "evict": "800ms", "demoted_rate": 20}))
    with w.ws("/raw") as c:
        talk(c, lambda: w.logs("heartbeat_evicted"))
        assert w.wait_logs("heartbeat_missed")[0]["demoted"] == 1
        evicted(w, c, SECOND)
    assert w.metric("heartbeat_misses_total") == 2
    assert w.metric("heartbeat_demotions_total") == 1
    assert w.metric("heartbeat_evicted_missed_total") == 1


def test_who_is_demoted_recovers_by_its_pong(start):
    w = start(config({"interval": "3s", "timeout": "300ms", "evict": "9s", "demoted_rate": 5}))
    with w.ws("/raw") as c:
        payload = ping_of(c)
        talk(c, lambda: w.metric("heartbeat_demoted") == 1)
        assert w.metric("heartbeat_suspects") == 1
        c.send(frame(PONG, payload))
        w.wait_metric("heartbeat_demoted", 0)
        assert w.metric("heartbeat_suspects") == 0
        sent = time.monotonic()
        c.send(frame(TEXT, "y") * 100 + frame(TEXT, "last"))
        while c.frame().payload != b"last":
            pass
        assert time.monotonic() - sent < 10, "which would take 20 s if it were held still"
    assert w.metric("heartbeat_evicted_missed_total") == 0


def test_who_is_demoted_is_held_to_its_rate(start):
    w = start(config({"interval": "3s", "timeout": "300ms", "evict": "9s", "demoted_rate": 5}))
    with w.ws("/raw") as c:
        ping_of(c)
        talk(c, lambda: w.metric("heartbeat_demoted") == 1)
        first, began = w.metric("messages_received_total"), time.monotonic()
        c.send(frame(TEXT, "y") * 1000)
        time.sleep(1)
        got = w.metric("messages_received_total") - first
        assert got <= 5 * (time.monotonic() - began) + 2


def drop_all(c):
    """From here on the network drops what is sent to c: nothing arrives, nothing is acknowledged."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
    c.sock.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HL", 1, ctypes.addressof(program)))  # SO_ATTACH_FILTER


@pytest.mark.parametrize("busy", [False, True])
def test_half_open_as_packets_are_dropped(start, busy):
    """A peer whose network is gone, idle or with messages for it on their way."""
    w = start({"heartbeat": {"interval": "300ms", "timeout": "1s", "evict": "1500ms"},
               "limits": {"close_timeout": "300ms"},
               "routes": [{"path": "/room", "websocket": {"handler": "pubsub"}}]})
    with w.ws("/room") as gone, w.ws("/room") as other:
        drop_all(gone)
        message, left = frame(BINARY, b"x" * 1000), [100 if busy else 0]

        def over():
            if left[0] and other.sock.fileno() >= 0:
                left[0] -= 1
                other.send(message)
            while select.select([other.sock], [], [], 0.01)[0]:
                f = other.frame()
                if f.opcode == PING:
                    other.send(frame(PONG, f.payload))
            return not left[0] and w.metric("websockets_active") == 1
        wait_for("it is found and freed", over, 10)
        line = w.wait_log("heartbeat_evicted")
        assert line["close_reason"] == "HEARTBEAT_TIMEOUT"
        assert w.metric("queued_bytes") == 0
        other.send(frame(TEXT, "still here"))
        f = other.frame()
        while f.opcode == PING:
            other.send(frame(PONG, f.payload))
            f = other.frame()
        assert f.payload == b"still here"


def test_half_open(start):
    """Nothing takes our bytes any more, and reading is paused for that: it is found and freed."""
    w = start(config(SHORT))
    with w.ws("/raw", rcvbuf=4096) as c:
        def stuck():
            try:
                c.sock.send(frame(BINARY, b"x" * 60000))
            except OSError:
                return True
            return w.metric("queued_bytes") > 0
        wait_for("bytes wait in the queue", stuck, every=0)
        w.wait_log("heartbeat_evicted")
        w.wait_metric("websockets_active", 0)
        w.wait_metric("queued_bytes", 0)


def test_a_busy_guest_does_not_make_its_peer_silent(start):
    """While it runs we do not read its connection: that time does not count."""
    w = start(config({"interval": "100ms", "timeout": "300ms", "evict": "400ms"}))
    with w.ws("/busy") as c:
        n = 50000000
        while True:  # a second or more, whatever the machine
            began = time.monotonic()
            c.send(frame(BINARY, b"N" + struct.pack("<I", n) + b"done"))
            f = c.frame()
            while f.opcode == PING:
                c.send(frame(PONG, f.payload))
                f = c.frame()
            assert f == (True, BINARY, b"done"), f
            if time.monotonic() - began > 1:
                break
            n = min(n * 4, 0xffffffff)
    assert not w.logs("heartbeat_evicted")


def test_no_heartbeats(start):
    w = start(config({"interval": "0s", "timeout": "20ms", "evict": "20ms"}))
    with w.ws("/raw") as c:
        time.sleep(0.3)
        c.send(frame(TEXT, "x"))
        assert c.message() == (TEXT, b"x")
    assert w.metric("heartbeat_pings_total") == 0


# ---------------------------------------------------------------------------- messages


@pytest.mark.parametrize("interval", ["100ms", "0s"])
@pytest.mark.parametrize("start_of", [frame(TEXT, "ab")[:7], frame(TEXT, "ab")[:3], frame(TEXT, "ab", fin=False)])
def test_a_message_has_its_time(start, interval, start_of):
    """Half a frame's payload, half its head, a message without its last fragment."""
    w = start(config({"interval": interval, "timeout": "5s", "evict": "6s"},
                     limits={"message_timeout": "300ms", "close_timeout": "300ms"}))
    with w.ws("/raw") as c:
        began = time.monotonic()
        c.send(start_of)
        f = c.frame()
        while f.opcode == PING:
            f = c.frame()
        assert f.opcode == CLOSE and f.payload[:2] == struct.pack("!H", 1008), f
        assert time.monotonic() - began > 0.25
    assert w.metric("errors_total", code="WS_TIMEOUT") == 1
    w.wait_metric("connections_closed_total", 1, reason="MESSAGE_TIMEOUT")


def test_auto_reply(start):
    """Without a guest; only for a text that is exactly that."""
    w = start(config({"interval": "0s"}))
    with w.ws("/echo") as c:
        before = w.metric("guest_events_total")
        c.send(frame(TEXT, "ping") * 10)
        assert [c.message() for _ in range(10)] == [(TEXT, b"pong")] * 10
        assert w.metric("guest_events_total") == before
        assert w.metric("auto_replies_total") == 10
        for kind, text in ((BINARY, b"ping"), (TEXT, b"ping "), (TEXT, b"pin"), (TEXT, b"Ping"), (TEXT, b"pong"),
                           (TEXT, b"")):
            c.send(frame(kind, text))
            assert c.message() == (kind, text)
        assert w.metric("auto_replies_total") == 10
        c.send(frame(TEXT, "pi", fin=False) + frame(0, "ng"))
        assert c.message() == (TEXT, b"pong")
    with w.ws("/raw") as c:
        c.send(frame(TEXT, "ping") + frame(TEXT, "?"))
        assert [c.message(), c.message()] == [(TEXT, b"pong"), (TEXT, b"!")]


# ---------------------------------------------------------------------------- draining


def test_a_drain_is_spread(start):
    """200 peers: all get 1001, some early, some late, none is lost; it ends when all have gone."""
    w = start(config(OFF, drain="4s"))
    peers = {c.sock.fileno(): c for c in [w.ws("/raw") for _ in range(200)]}
    times = []
    poll = select.poll()
    for fd in peers:
        poll.register(fd, select.POLLIN)
    began = time.monotonic()
    w.signal()
    while peers:
        ready = poll.poll(8000)
        assert ready, f"{len(peers)} were told nothing"
        for fd, _ in ready:
            poll.unregister(fd)
            c = peers.pop(fd)
            c.close_frame(1001)
            c.send(close(1001))
            c.closed()
            c.close()
            times.append(time.monotonic() - began)
    assert w.wait_exit() == 0
    assert not w.logs("drain_expired")
    assert times[0] < times[100] < times[-1]
    assert times[-1] - times[0] > 1.5, "spread over most of 4 s"
    assert w.wait_logs("stopped")


def test_a_drain_serves_who_was_not_told_yet(start):
    w = start(config(OFF, drain="4s"))
    many = [w.ws("/raw") for _ in range(100)]
    last = many[-1]
    w.signal()
    w.wait_log("draining")
    last.send(frame(TEXT, "x"))
    assert last.message() == (TEXT, b"x")
    for c in many:
        c.close_frame(1001)
        c.close()
    assert w.wait_exit() == 0
