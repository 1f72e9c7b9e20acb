"""Everything at once, at random but always the same: peers that do not read, read a little, end or reset, compress, publish, send
half of what they begin; guests that are swapped, added and removed meanwhile. Afterwards nothing is left of it, and who behaves was
served throughout."""
import contextlib
import json
import random
import socket
import struct
import threading
import time
import zlib

import pytest

from test_memory import pss
from test_swap import descriptors, sanitized
from weir import (BINARY, CONTINUATION, HOST, PING, PONG, TEXT, Closed, Frame, close, frame, free_port, guest, handshake,
                  wait_for)

SEED, ROUNDS, ROUND_S, PEERS = 20, 3, 2, 60
EDGE, WARM, PSS = 4 << 20, 512 << 10, 4 << 20
MESSAGE = 16 << 10
PROXY_PORT = free_port()
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
PATHS = ["/raw", "/topic/a", "/topic/b", "/lossy/a", "/lossy/b", "/pulley", "/v1", "/ws"]
HTTP = [b"GET /http/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4, 127.0.0.1\r\n\r\n",
        b"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n[2.5,3.7]",
        b"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n[2.5,3.7]\r\n0\r\n\r\n",
        b"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n[2.5",
        b"GET / HTTP/1.1\r\nHost", b"\0\1\2\3"]
GAUGES = ["refused_active", "websockets_active", "websockets_deflate", "heartbeat_suspects", "heartbeat_demoted", "topics_active", "topic_members",
          "queued_bytes", "queues_active", "queues_bytes", "guests_running", "guests_waiting", "modules_added",
          "module_versions_replaced"]


def config(workers):
    return {
        "workers": workers,
        "log_level": "warn",
        "heartbeat": {"interval": "400ms", "timeout": "4s", "evict": "5s", "demoted_rate": 20},
        "access": {"connections_per_ip": 500, "handshakes_per_ip": 100000, "trusted": ["127.0.0.9"]},
        "limits": {"memory": "64MiB", "message": MESSAGE, "send_queue": "48KiB", "queues": "256KiB", "guests": 24,
                   "send_timeout": "500ms", "slow_timeout": "100ms", "close_timeout": "300ms", "head_timeout": "500ms",
                   "body_timeout": "500ms", "message_timeout": "500ms", "idle_timeout": "1s", "connections": 300, "loop_queue": 64,
                   "loop_queue_bytes": "64KiB"},
        "modules": {name: {"path": guest(file), "engine": engine, "limits": {"timeout": "5s", "output": "64KiB"}}
                    for name, file, engine in [("echo", "echo", "native"), ("ws", "ws", "native"), ("add", "add", "native"),
                                               ("http", "http", "native"), ("v1", "v1", "native"),
                                               ("pulley", "echo", "pulley")]},
        "routes": [{"path": "/raw", "websocket": {"handler": "echo", "compress": "yes"}},
                   {"path": "/good", "websocket": {"handler": "echo"}},
                   {"path": "/topic/*", "websocket": {"handler": "pubsub", "compress": "yes"}},
                   {"path": "/lossy/*", "websocket": {"handler": "pubsub", "space": "lossy", "on_slow": "drop-oldest",
                                                      "compress": "yes"}},
                   {"path": "/echo", "websocket": {"module": "echo", "compress": "yes"}},
                   {"path": "/pulley", "websocket": {"module": "pulley"}},
                   {"path": "/ws", "websocket": {"module": "ws", "on_slow": "drop-oldest"}},
                   {"path": "/v1", "websocket": {"module": "v1", "space": "public", "compress": "yes"}},
                   {"path": "/http/*", "http": {"module": "http"}}],
    }


def text(s):
    return struct.pack("<H", len(s)) + s


def v1_script(rng):
    """What the guest v1 does: subscribes, publishes, sets timers and keys."""
    topic = rng.choice([b"a", b"b"])
    return b"".join(rng.choice([
        b"P" + struct.pack("<IQ", 2, 0) + text(topic) + text(rng.randbytes(200) * rng.choice([1, 1, 20])),
        b"K" + struct.pack("<Q", 50) + text(b"k%d" % rng.randrange(5)) + text(rng.randbytes(rng.randrange(900))),
        b"G" + struct.pack("<I", 1000) + text(b"k%d" % rng.randrange(5)),
        b"T" + struct.pack("<QQ", rng.randrange(300), 7),
        b"Z" + struct.pack("<I", rng.choice([10, 1000, 3000000])),
        b"N" + struct.pack("<Q", 0) + text(topic)]) for _ in range(rng.randrange(1, 5)))


class Peer:
    """A socket that never blocks; reads: bytes that it takes at most each time, 0: none."""

    def __init__(self, w, rng, ports):
        self.rng, self.out, self.dead, self.deflate = rng, b"", False, False
        self.reads = rng.choice([0, 0, 1, 500, 1 << 16, 1 << 16])
        self.sock = socket.socket()
        if self.reads < 1000:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        proxy = rng.random() < 0.2
        self.sock.bind(("127.0.0.9" if proxy else HOST, 0))
        self.sock.connect((HOST, ports[proxy]))
        self.sock.setblocking(False)
        if proxy:
            self.out += rng.choice([b"PROXY TCP4 10.0.0.%d 127.0.0.1 40 80\r\n" % rng.randrange(9), b"PROXY UNKNOWN\r\n",
                                    b"PROXY TCP4 1"])
        self.path = rng.choice(PATHS)
        self.http = rng.random() < 0.15
        if not self.http:
            self.deflate = self.path in ("/raw", "/topic/a", "/lossy/a", "/v1") and rng.random() < 0.6
            self.out += handshake(self.path, DEFLATE if self.deflate else "")

    def message(self):
        rng = self.rng
        if self.path == "/v1" and rng.random() < 0.8:
            data = v1_script(rng)
        else:
            data = rng.choice([b"x" * rng.randrange(50), rng.randbytes(rng.randrange(3000)), b"ab" * rng.randrange(8000),
                               rng.randbytes(MESSAGE)])
        if self.deflate and rng.random() < 0.6:
            z = zlib.compressobj(1, zlib.DEFLATED, -15)
            return frame(BINARY, (z.compress(data) + z.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)
        return frame(BINARY, data)

    def act(self):
        rng, what = self.rng, self.rng.random()
        if self.http:
            self.out += rng.choice(HTTP) * rng.choice([1, 1, 3])
        elif what < 0.80:
            self.out += b"".join(self.message() for _ in range(rng.choice([1, 1, 4])))
        elif what < 0.84:
            self.out += frame(PING, b"p")
        elif what < 0.88:
            self.out += frame(PONG, rng.randbytes(8))
        elif what < 0.92:
            self.out += frame(BINARY, b"half", fin=False) + frame(CONTINUATION, b"x", fin=rng.random() < 0.95)
        elif what < 0.925:
            self.out += close(1000)
        elif what < 0.927:
            self.out += rng.randbytes(20)
        elif what < 0.935:
            self.end()
        elif what < 0.938:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)

    def move(self):
        try:
            if self.out:
                self.out = self.out[self.sock.send(self.out):]
        except BlockingIOError:
            pass
        except OSError:
            self.dead = True
        try:
            if self.reads and not self.sock.recv(self.reads):
                self.dead = True
        except BlockingIOError:
            pass
        except OSError:
            self.dead = True

    def end(self):
        if self.rng.random() < 0.5:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.dead = True


class Meanwhile:
    """Threads that do one thing again and again until the end; what one of them raises is raised then."""

    def __init__(self):
        self.over, self.errors, self.threads, self.counts = threading.Event(), [], [], {}

    def add(self, step):
        def run():
            try:
                while not self.over.is_set():
                    step()
                    self.counts[step.__name__] = self.counts.get(step.__name__, 0) + 1
            except BaseException as e:
                self.errors.append(e)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.over.set()
        for t in self.threads:
            t.join()
        if self.errors and not exc[0]:
            raise self.errors[0]


def storm(w, seed, edge):
    rng, ports = random.Random(seed), (w.port, PROXY_PORT)
    peers, n = [], [0]
    good = w.ws("/good")

    def served():
        n[0] += 1
        good.send(frame(TEXT, str(n[0])))
        while True:
            f = good.frame()
            if f.opcode != PING:
                break
            good.send(frame(PONG, f.payload))
        assert f == Frame(True, TEXT, str(n[0]).encode())
        time.sleep(0.01)

    def published():
        doc = {"topic": rng.choice("ab"), "text": "t" * rng.choice([10, 1000, MESSAGE, 2 * MESSAGE]),
               "space": rng.choice(["public", "lossy"])}
        r = w.get("/api/v1/publish", admin=True, method="POST", body=json.dumps(doc))
        assert r.status in (200, 413, 422, 429, 503), r.body

    def swapped():
        for name, query in (("echo", ""), ("ws", "?canary=50"), ("x", "")):
            file = guest("ws" if name == "ws" else "add" if name == "x" else "echo")
            with open(file, "rb") as f:
                body = f.read()
            r = w.get(f"/api/v1/modules/{name}{query}", admin=True, method="PUT", body=body)
            assert r.status in (200, 422, 429, 503), r.body
        with contextlib.suppress(Closed):  # who is refused as it comes may not hear of it
            w.post("/api/exec/x", "[1,2]")
        w.get("/api/v1/modules/x", admin=True, method="DELETE")
        w.get("/api/v1/topics?limit=2", admin=True)

    with Meanwhile() as m:
        def enough():
            return all(m.counts.get(step, 0) > 1 for step in ("served", "published", "swapped")) and \
                w.metric("slow_closed_total") and w.metric("frames_dropped_total") or m.errors

        for step in (served, published, swapped):
            m.add(step)
        end = time.monotonic() + ROUND_S
        while time.monotonic() < end or not enough():
            while len(peers) < PEERS:
                with contextlib.suppress(ConnectionError):
                    peers.append(Peer(w, rng, ports))
            for p in peers:
                if rng.random() < 0.3 and len(p.out) < 1 << 17:
                    p.act()
                if not p.dead:
                    p.move()
            for p in peers:
                if p.dead:
                    p.sock.close()
            peers = [p for p in peers if not p.dead]
    for p in peers:
        p.end()
    good.close()


def settled(w):
    """All gauges are as they were: the metrics."""
    def back():
        m = w.metrics()
        return m if m["weir_connections_active"] == 1 and not any(m[f"weir_{name}"] for name in GAUGES) else None

    return wait_for("only who asks is connected, and nothing waits or runs", back, timeout=20)


@pytest.mark.guard(90)
@pytest.mark.parametrize("edge", [False, True], ids=["room", "edge"])
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_left(start, workers, edge):
    """edge: limits.memory is so little that what guests need is refused, or waits."""
    w = start(config(workers), start=False)
    w.config["listen"].append({"address": f"{HOST}:{PROXY_PORT}", "proxy_protocol": "yes"})

    def begin():
        w.file.write_text(json.dumps(w.config))
        w.start()

    begin()
    if edge:
        has = int(w.metric("memory_accounted_bytes"))
        w.stop()
        w.config["limits"]["memory"] = has + EDGE
        begin()
    seen = []
    for i in range(ROUNDS):
        storm(w, SEED + i, edge)
        m = settled(w)
        assert m["weir_memory_accounted_bytes"] <= m["weir_memory_promised_bytes"]
        seen.append((descriptors(w), m["weir_buffer_bytes"], m["weir_code_bytes"], pss(w)))
    first, last = seen[0], seen[-1]
    assert last[0] == first[0] and last[2] == first[2], seen
    assert last[1] <= first[1] + WARM, seen  # events that are kept to be used again; keys until they are swept
    if not sanitized(w):
        assert last[3] <= first[3] + PSS, seen
    w.check()
