"""limits.memory is kept: every kind of load is pushed to its edge, and beyond."""
import contextlib
import json
import re

import pytest

from weir import TEXT, WEIR_BIN, Closed, Frame, children, frame, guest, problem, refuses_to_serve, wait_for

MODULES = {
    "echo": guest("echo"),
    "add": guest("add"),
    "hostile": {"path": guest("hostile/handlers")},
    "floods": {"path": guest("hostile/floods"), "exec": "yes",
               "limits": {"kv": "64MiB", "memory": "1MiB"}},
    "grow": {"path": guest("hostile/grow"), "limits": {"memory": "32MiB", "deadline": "500ms"}},
}
ROUTES = [{"path": "/echo", "websocket": {"module": "echo"}},
          {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
          {"path": "/hostile", "http": {"module": "hostile"}}]
MARGIN = 9 << 20  # beyond what the processes have when they begin


def pss(w):
    """Of all processes, in bytes."""
    total = 0
    for pid in [w.supervisor, *children(w.supervisor)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), \
                open(f"/proc/{pid}/smaps_rollup") as f:
            total += int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M)[1]) << 10
    return total


class Promise:
    def __init__(self, w, limit):
        self.w, self.limit = w, limit
        self.c = w.ws("/echo")
        self.n = 0

    def kept(self):
        """Nothing beyond the promise, by the kernel's figures nor by our own; others are served."""
        assert self.w.metric("memory_accounted_bytes") <= self.limit
        assert self.w.metric("memory_promised_bytes") == self.limit
        if "/asan/" not in WEIR_BIN:
            assert pss(self.w) <= self.limit
            wait_for("our figure is within 1 MiB of the kernel's", lambda:
                     pss(self.w) <= self.w.metric("memory_accounted_bytes") + (1 << 20))
        self.n += 1
        self.c.send(frame(TEXT, str(self.n)))
        assert self.c.frame() == Frame(True, TEXT, str(self.n).encode())

    def refused(self):
        return self.w.metric("memory_refused_total")


@pytest.fixture
def promise(start):
    """A gateway that promises 9 MiB more than it has when it begins."""
    config = {"modules": MODULES, "routes": ROUTES, "limits": {"body": "1MiB", "message": "1MiB", "send_queue": "1MiB"}}
    for _ in range(5):
        w = start(config)
        has = int(w.metric("memory_accounted_bytes"))
        w.stop()
        limited = {**config, "limits": {**config["limits"], "memory": f"{(has + MARGIN) >> 10}KiB"}}
        w = start(limited, start=False)
        try:
            w.start()
            break
        except AssertionError:  # what it has is not the same twice, as others share its libraries
            assert w.wait_logs("memory_short")
    p = Promise(w, (has + MARGIN) >> 10 << 10)
    p.kept()
    yield p
    p.c.close()


def upload(w, n):
    """A request whose body never ends; n bytes of it are there."""
    c = w.raw()
    c.send(b"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" + b" " * n)
    return c


def full(w):
    r = w.get("/healthz")
    return r.status == 503


def recovers(p):
    """New connections are served again."""
    def served():
        with contextlib.suppress(OSError, AssertionError):
            return p.w.post("/api/exec/add", "[2.5,3.7]").body == b"6.2\n"
    wait_for("new connections are served", served)
    p.kept()


def ends(p, held):
    """Something is refused at the edge, and the promise kept; without `held`, all is as before."""
    wait_for("something was refused", lambda: p.refused() + p.w.metric("connections_refused_total"))
    p.kept()
    for c in held:
        c.close()
    recovers(p)


def test_bodies(promise):
    held = []
    with contextlib.suppress(OSError):
        for _ in range(40):
            held.append(upload(promise.w, 700 << 10))
    ends(promise, held)


def test_a_new_connection_is_told_to_come_back(promise):
    held = []
    refused = None
    for _ in range(200):
        c = promise.w.raw()
        with contextlib.suppress(OSError):
            c.send(b"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n" + b" " * 65536)
        held.append(c)
        if promise.w.metric("connections_refused_total"):
            refused = c.response()
            break
    assert refused is not None and refused.status == 503 and refused.headers.get("retry-after") == "1"
    ends(promise, held)


def test_unfinished_messages(promise):
    held = []
    with contextlib.suppress(OSError, AssertionError):
        for _ in range(30):
            c = promise.w.ws("/echo")
            held.append(c)
            c.send(frame(TEXT, b"x" * 600000, fin=False))
    ends(promise, held)


def test_guests_that_fill_their_memory(promise):
    conns = [promise.w.raw() for _ in range(40)]
    for c in conns:
        c.send(b"GET /hostile?Hf HTTP/1.1\r\nHost: a\r\n\r\n")
    promise.kept()
    statuses = {c.response().status for c in conns}
    assert statuses <= {504, 503}, statuses
    promise.kept()
    for c in conns:
        c.close()


def test_a_guest_that_grows(promise):
    """memory.grow says no where the promise would break, long before the module's own limit."""
    for _ in range(3):
        r = promise.w.post("/api/exec/grow/memory", "[]")
        assert r.status == 200 and 16 <= int(r.body) < (MARGIN >> 16)
        promise.kept()
    assert promise.refused()


def test_keys_and_values(promise):
    for i in range(40):
        promise.w.post("/api/exec/floods/kv_set", f"[{100 + 16 * i},60000]")
        promise.kept()
    assert promise.refused()
    assert promise.w.post("/api/exec/floods/kv_clear", "[800]").status == 200
    recovers(promise)


def test_numbers_in_json(promise):
    body = "[" + "1," * 300000 + "1]"
    conns = [promise.w.raw() for _ in range(3)]
    for c in conns:
        c.send(f"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    for c in conns:
        assert c.response().status in (422, 503)
        c.close()
    promise.kept()
    recovers(promise)


def test_slow_readers(promise):
    slow = [promise.w.raw(rcvbuf=4096) for _ in range(60)]
    for c in slow:
        c.upgrade("/topic/room")
    with promise.w.ws("/topic/room") as talker:
        with contextlib.suppress(OSError, AssertionError):
            for i in range(60):
                talker.send(frame(TEXT, bytes([97 + i % 26]) * 100000))
                talker.message()
    promise.kept()
    for c in slow:
        c.close()
    recovers(promise)


def test_modules_that_are_put(promise, tmp_path):
    """Code counts: a module that does not fit is refused, and the old one stays."""
    data = "".join(f"\\{i * 31 % 256:02x}" for i in range(3 << 20))
    wat = f'(module (memory (export "memory") 64) (data (i32.const 0) "{data}") ' \
          '(func (export "add") (param f64 f64) (result f64) (f64.add (local.get 0) (local.get 1))))'
    big = tmp_path / "big.wat"
    big.write_text(wat)
    for _ in range(3):
        promise.w.get("/api/v1/modules/add", admin=True, method="PUT", body=wat.encode())
        promise.kept()
        assert promise.w.post("/api/exec/add", "[2.5,3.7]").body == b"6.2\n"


def test_a_promise_that_can_not_be_kept(start):
    w = start({"modules": MODULES, "routes": ROUTES})
    has = int(w.metric("memory_accounted_bytes"))
    w.stop()
    low = max(6 << 20, has - (2 << 20)) >> 10
    w = start({"modules": MODULES, "routes": ROUTES, "limits": {"memory": f"{low}KiB"}}, **{"start": False})
    ended = refuses_to_serve(w.file)
    assert ended.returncode == 1 and '"event":"memory_short"' in ended.stderr


BULKY = """(module (memory 24) (func (export "one") (result i32) (i32.const 1)))"""


def test_what_never_finds_room_is_told(start, tmp_path):
    """An actor keeps what it has grown to: whom it leaves no room gets 504 past its timeout, and waits no longer."""
    (tmp_path / "bulky.wat").write_text(BULKY)
    config = {"modules": {"grow": {"path": guest("hostile/grow"), "instance": "module",
                                   "limits": {"memory": "32MiB", "deadline": "5s", "timeout": "10s"}},
                          "add": guest("add"), "bulky": {"path": str(tmp_path / "bulky.wat"), "limits": {"timeout": "300ms"}}}}
    w = start(config)
    has = int(w.metric("memory_accounted_bytes"))
    w.stop()
    config["limits"] = {"memory": f"{(has + MARGIN) >> 10}KiB"}
    w = start(config)
    assert w.exec("bulky/one", "[]") == "1"
    w.exec("grow/memory", "[]")
    problem(w.post("/api/exec/bulky/one", "[]"), 504)
    assert w.exec("add", "[2.5,3.7]") == "6.2"
    w.wait_metric("guests_waiting", 0)


def test_places_that_were_used_leave_room_for_the_largest_module(start, tmp_path):
    """A place keeps pages for good: those of many small instances at once must not shut out one that needs more."""
    (tmp_path / "bulky.wat").write_text(BULKY)
    (tmp_path / "spin.wat").write_text('(module (memory 1) (func (export "spin") (loop $l (br $l))))')
    config = {"modules": {"bulky": {"path": str(tmp_path / "bulky.wat")},
                          **{f"spin{i}": {"path": str(tmp_path / "spin.wat"), "limits": {"deadline": "30ms", "timeout": "10s"}}
                             for i in range(3)}}}
    w = start(config)
    has = int(w.metric("memory_accounted_bytes"))
    w.stop()
    config["limits"] = {"memory": f"{(has + MARGIN) >> 10}KiB"}
    w = start(config)
    spinning = [w.raw() for _ in range(36)]
    for i, c in enumerate(spinning):
        c.send(f"POST /api/exec/spin{i % 3}/spin HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
    assert {c.response().status for c in spinning} == {504}
    for c in spinning:
        c.close()
    assert w.exec("bulky/one", "[]") == "1"


def test_a_module_with_a_table_begins_where_one_without_does(start, tmp_path):
    """What an instance begins with is its table too: past seven eighths it is not refused as if it grew."""
    (tmp_path / "tabled.wat").write_text('(module (memory 1) (table 100 funcref) (func (export "one") (result i32) (i32.const 1)))')
    config = {"modules": {"grow": {"path": guest("hostile/grow"), "instance": "module",
                                   "limits": {"memory": "32MiB", "deadline": "5s", "timeout": "10s"}},
                          "tabled": {"path": str(tmp_path / "tabled.wat"), "limits": {"timeout": "300ms"}}}}
    w = start(config)
    has = int(w.metric("memory_accounted_bytes"))
    w.stop()
    config["limits"] = {"memory": f"{(has + MARGIN) >> 10}KiB"}
    w = start(config)
    w.exec("grow/memory", "[]")
    assert w.exec("tabled/one", "[]") == "1"


def test_a_publication_without_memory_is_no_mistake_of_its_sender(promise):
    """While all memory is taken, what is right is refused so that it is tried again; afterwards it is taken."""
    doc = json.dumps({"topic": "t", "text": "x" * (300 << 10)}).encode()
    held, seen = [], set()
    for _ in range(60):
        with contextlib.suppress(OSError):
            held.append(upload(promise.w, 150 << 10))
        with contextlib.suppress(Closed):
            seen.add(promise.w.get("/api/v1/publish", admin=True, method="POST", body=doc).status)
    assert seen == {200, 503}, seen
    for c in held:
        c.close()
    recovers(promise)
    assert promise.w.get("/api/v1/publish", admin=True, method="POST", body=doc).status == 200
