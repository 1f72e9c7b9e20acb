"""Guests that do their worst, in every export: each gets the documented answer, the worker lives, its
memory comes back, and everybody else is served as if nothing were."""
import re
import struct
from contextlib import ExitStack, contextmanager

import pytest

from weir import (BINARY, CLOSE, GUEST_SAYS, PING, PONG, ROOT, TEXT, Frame, WEIR_BIN, Weir, close, frame, guest,
                  handshake, problem, wait_for)

LIMIT = -1
SEND_QUEUE, OUTPUT, KV, TIMERS, CALLS, EFFECTS = 64 << 10, 256 << 10, 32 << 10, 50, 5000, 1024
LIMITS = {"deadline": "30ms", "timeout": "10s", "output": f"{OUTPUT}", "kv": f"{KV}", "timers": TIMERS,
          "calls": CALLS}


def hostile(name):
    return {"path": guest("hostile/" + name), "limits": LIMITS}


CONFIG = {
    "limits": {"send_queue": f"{SEND_QUEUE}"},
    "modules": {
        "echo": guest("echo"), "add": guest("add"),
        "handlers": hostile("handlers"), "portable": {**hostile("handlers"), "engine": "pulley"},
        "initialize": hostile("initialize"), "start": hostile("start"),
        "grow": {**hostile("grow"), "limits": {**LIMITS, "table_elements": 5000}},
        "floods": {**hostile("floods"), "exec": "yes"},
    },
    "routes": [{"path": "/echo", "websocket": {"module": "echo"}}, {"path": "/floods", "websocket": {"module": "floods"}},
               {"path": "/floods", "http": {"module": "floods"}}] + [
        {"path": f"/{m}", kind: {"module": m}} for m in ("handlers", "portable", "initialize", "start")
        for kind in ("http", "websocket") if kind == "http" or m in ("handlers", "portable")],
}

# How a guest misbehaves (a letter for handlers.wat), and what that is called.
HOW = {"s": "GUEST_DEADLINE", "f": "GUEST_DEADLINE", "c": "GUEST_DEADLINE", "h": "GUEST_CALLS", "t": "GUEST_TRAP",
       "r": "GUEST_TRAP", "0": "GUEST_TRAP", "o": "GUEST_TRAP", "i": "GUEST_TRAP"}
# The functions that do it: the innermost of the backtrace, by the module's name section, but for what splits bulk
# memory instructions.
WHO = {"s": "spin", "f": "fill <- act", "c": "copy <- act", "h": "calls", "r": "recurse"}
STATUS = {"GUEST_DEADLINE": 504, "GUEST_CALLS": 500, "GUEST_TRAP": 500}
ALL = pytest.mark.parametrize("how", HOW)


def pss(w):
    """Of the worker, in bytes."""
    with open(f"/proc/{w.worker_pid()}/smaps_rollup") as f:
        return int(re.search(r"^Pss:\s+(\d+) kB", f.read(), re.M)[1]) << 10


def sanitized():
    """Freed memory is kept back on purpose there, so that its size tells nothing."""
    return "/asan/" in WEIR_BIN


class Bystanders:
    """Peers of other modules: two WebSockets of a guest's, one for exec, each with answers of its own."""

    def __init__(self, w):
        self.w, self.n = w, 0
        self.sockets = [w.ws("/echo") for _ in range(2)]
        self.exec = w.raw()

    def served(self, rounds=5):
        for _ in range(rounds):
            self.n += 1
            for i, c in enumerate(self.sockets):
                c.send(frame(TEXT, f"{i} {self.n}"))
            body = f"[{self.n},0.5]"
            self.exec.send(f"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            for i, c in enumerate(self.sockets):
                assert c.frame() == Frame(True, TEXT, f"{i} {self.n}".encode())
            r = self.exec.response()
            assert (r.status, r.body) == (200, f"{self.n}.5\n".encode()), r

    def close(self):
        for c in (*self.sockets, self.exec):
            c.close()


@pytest.fixture(scope="module")
def home(shared):
    """The pid of the worker, once its pool is warm: each slot keeps some pages of what was there."""
    with ExitStack() as stack:
        conns = [stack.enter_context(shared.raw()) for _ in range(64)]
        for how in "fr":
            for i, c in enumerate(conns):
                c.send(ask(f"/{('handlers', 'portable')[i % 2]}?H{how}"))
            for c in conns:
                c.response()
    return shared.worker_pid()


@pytest.fixture
def others(weir, home):
    """Whatever the test does, afterwards: the same worker, none restarted, no memory kept, nothing
    that runs or waits, and the others served before, meanwhile (served()) and after it."""
    b = Bystanders(weir)
    b.served()
    before = pss(weir)
    yield b
    b.served()
    b.close()
    weir.wait_metric("guests_running", 0)
    weir.wait_metric("guests_waiting", 0)
    assert weir.worker_pid() == home
    assert weir.metric("worker_restarts") == 0
    if not sanitized():
        wait_for("the memory comes back", lambda: pss(weir) < before + (2 << 20))


def logged(weir, how, where, module="handlers"):
    """What it returns checks that the log has it from here on, with the names of the functions from
    the innermost one outwards."""
    def ends(x):  # a recursion fills the backtrace
        names = x["detail"].split("; in ")[-1].split(" <- ")
        return names[-1] == where or (how == "r" and set(names) == {"recurse"})

    have = len([x for x in weir.logs("guest_failed", module=module, code=HOW[how]) if ends(x)])

    def check():
        line = weir.wait_logs("guest_failed", n=have + 1, module=module, code=HOW[how], where=ends)[-1]
        names = line["detail"].split("; in ")[1]
        assert WHO.get(how, "act") in names, line
        return line
    return check


def ask(path, method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"


def refused(r, how, where):
    doc = problem(r, STATUS[HOW[how]], HOW[how])
    assert WHO.get(how, "act") in doc["detail"], doc
    assert how == "r" or doc["detail"].endswith(where), doc


# ---------------------------------------------------------------------------- in every export


@pytest.mark.parametrize("module", ["handlers", "portable"])
@ALL
def test_in_on_http(weir, others, how, module):
    line = logged(weir, how, "on_http", module)
    with weir.raw() as c:
        c.send(ask(f"/{module}?H{how}"))
        others.served()
        refused(c.response(), how, "on_http")
        line()
        assert c.send(ask(f"/{module}?-")).response().body == b"well"  # the next one is none the wiser


@ALL
def test_in_on_ws_handshake(weir, others, how):
    line = logged(weir, how, "on_ws_handshake")
    with weir.raw() as c:
        c.send(handshake(f"/handlers?S{how}"))
        others.served()
        refused(c.response(), how, "on_ws_handshake")
        line()
        c.upgrade("/handlers")


@ALL
def test_in_on_ws_open(weir, others, how):
    line = logged(weir, how, "on_ws_open")
    with weir.ws(f"/handlers?O{how}") as c:
        others.served()
        c.fails(1011)
    line()


@ALL
def test_in_on_ws_message(weir, others, how):
    """It ends the peer that sent it; another one of the same module is served."""
    line = logged(weir, how, "on_ws_message")
    with weir.ws("/handlers") as c, weir.ws("/handlers") as neighbour:
        c.send(frame(TEXT, f"M{how}"))
        others.served()
        c.fails(1011)
        neighbour.send(frame(TEXT, "still here"))
        assert neighbour.message() == (TEXT, b"still here")
    line()


@ALL
def test_in_on_ws_drain(weir, others, how):
    line = logged(weir, how, "on_ws_drain")
    with weir.ws("/handlers", rcvbuf=4096) as c:
        c.send(frame(TEXT, f"D{how}"))
        assert c.message() == (TEXT, f"D{how}".encode())
        c.send(frame(TEXT, "B") * 200)
        others.served()
        f = c.frame()
        while f.opcode == BINARY:
            f = c.frame()
        assert (f.opcode, f.payload[:2]) == (CLOSE, struct.pack("!H", 1011)), f
    line()


@ALL
def test_in_on_ws_close(weir, others, how):
    """Nobody waits for it: the close is as clean as any."""
    line = logged(weir, how, "on_ws_close")
    with weir.ws("/handlers") as c:
        c.send(frame(TEXT, f"C{how}"))
        assert c.message() == (TEXT, f"C{how}".encode())
        c.send(close(1000))
        c.close_frame(1000)
        others.served()
        c.closed()
    line()
    weir.wait_metric("websockets_active", len(others.sockets))


@ALL
def test_in_on_timer(weir, others, how):
    line = logged(weir, how, "on_timer")
    with weir.raw() as c:
        assert c.send(ask(f"/handlers?T{how}")).response().status == 200
        others.served()
    line()


@pytest.mark.parametrize("module,where", [("initialize", "init"), ("start", "init")])
@pytest.mark.parametrize("how", "strh")
def test_before_the_event(weir, others, how, module, where):
    """In _initialize and in the start function, where there is no instance yet."""
    have = len(weir.logs("guest_failed", module=module))
    with weir.raw() as c:
        c.send(ask(f"/{module}?{how}"))
        others.served()
        doc = problem(c.response(), STATUS[HOW[how]], HOW[how])
        assert WHO.get(how, where) in doc["detail"], doc
        assert how == "r" or doc["detail"].endswith(where), doc
        assert weir.wait_logs("guest_failed", n=have + 1, module=module)[-1]["code"] == HOW[how]
        assert c.send(ask(f"/{module}?-")).response().body == b"well"


# ---------------------------------------------------------------------------- growth and depth


def test_memory_grows_to_its_limit(weir, others):
    for _ in range(20):
        assert weir.exec("grow/memory", "[]") == "64"
        others.served(1)
    assert weir.exec("grow/memory_at_once", "[]") == "-1"


def test_tables_grow_to_their_limit(weir, others):
    for _ in range(20):
        assert weir.exec("grow/table", "[]") == "5000"
        others.served(1)
    assert weir.exec("grow/table_at_once", "[]") == "-1"


def test_recursion_through_a_table(weir, others):
    doc = problem(weir.post("/api/exec/grow/deeper", "[]"), 500, "GUEST_TRAP")
    assert "call stack exhausted; in deep <- deep <- deep" in doc["detail"]


# ---------------------------------------------------------------------------- floods


def told(weir, function, *args):
    """What floods.wat returns: how many were taken, and the last answer."""
    text = weir.exec("floods/" + function, "[" + ",".join(map(str, args)) + "]")
    return tuple(int(x) for x in text.strip("[]").split(","))


@contextmanager
def peer(weir):
    """A WebSocket of floods.wat and its id."""
    with weir.ws("/floods") as c:
        c.send(frame(TEXT, "I"))
        yield c, struct.unpack("<Q", c.message()[1])[0]


def test_flood_of_sends(weir, others):
    """One event sends as much as the queue holds, and not more than EFFECTS."""
    with peer(weir) as (c, id):
        for size, most in ((8000, SEND_QUEUE // 8004), (0, EFFECTS)):
            assert told(weir, "send", id, 3000, size) == (most, LIMIT)
            others.served()
            for _ in range(most):
                assert c.message() == (BINARY, bytes(size))


def test_flood_of_sends_to_one_who_does_not_read(weir, others):
    """Event by event, until its queue is full: then no more is taken, and it is not closed for that."""
    with weir.ws("/floods", rcvbuf=4096) as c:
        c.send(frame(TEXT, "I"))
        id = struct.unpack("<Q", c.message()[1])[0]
        n = sent = 0
        while (got := told(weir, "send", id, 8, 8000)[0]):
            sent += got
            n += 1
            assert n < 2000
        assert weir.metric("queued_bytes") <= SEND_QUEUE
        others.served()
        for _ in range(sent):
            assert c.message() == (BINARY, bytes(8000))


def test_flood_of_published_messages(weir, others):
    """To itself and to a neighbour: who reads gets all that was taken, in order, or is ended for what
    it leaves unread; nobody else is."""
    with peer(weir) as (c, id), peer(weir) as (neighbour, other):
        for who in (id, other):
            assert weir.exec("floods/subscribe", f"[{who}]") == "0"
        taken, last = told(weir, "publish", 3000, 10)
        assert (taken, last) == (EFFECTS, LIMIT)
        others.served()
        for who in (c, neighbour):
            for _ in range(taken):
                assert who.message() == (BINARY, bytes(10))
        taken, last = told(weir, "publish", 3000, 60000)  # of one event: limits.output
        assert (taken, last) == (OUTPUT // 60008, LIMIT)


def test_flood_of_published_messages_that_one_does_not_read(weir, others):
    with weir.ws("/floods", rcvbuf=4096) as lazy, peer(weir) as (c, id):
        lazy.send(frame(TEXT, "I"))
        for who in (id, struct.unpack("<Q", lazy.message()[1])[0]):
            assert weir.exec("floods/subscribe", f"[{who}]") == "0"
        closed = weir.metric("slow_closed_total")
        for _ in range(2000):
            assert told(weir, "publish", 1, 8000)[0] == 1
            assert c.message() == (BINARY, bytes(8000))
            if weir.metric("slow_closed_total") > closed:
                break
        else:
            pytest.fail("it is never ended")
        others.served()
        c.send(frame(TEXT, "I"))
        assert c.message()[1] == struct.pack("<Q", id)


def test_flood_of_topics(weir, others):
    with peer(weir) as (c, id):
        assert told(weir, "subscribe_many", id, 90) == (16, LIMIT)
        assert weir.metric("topic_members") == 16
        others.served()
    weir.wait_metric("topic_members", 0)


def test_flood_of_a_response(weir, others):
    """limits.output of body and no more; fields are bounded too."""
    with weir.raw() as c:
        for _ in range(10):
            r = c.send(ask("/floods")).response()
            assert (r.status, r.body) == (200, bytes(OUTPUT // 1000 * 1000))
            fields = r.headers.all("x-flood")
            assert set(fields) == {"X-Flood"} and len(fields) * 18 <= 16 << 10
            others.served(1)


def test_flood_of_attachments(weir, others):
    """Each replaces the one before; one event's are bounded by its output."""
    with peer(weir) as (c, id):
        c.send(frame(TEXT, "A"))
        others.served()
        c.close_frame(4000 + OUTPUT // 1024)


def test_flood_of_keys(weir, others):
    """limits.kv, with 64 B for each: no event, nor many of them, get more."""
    most = KV // (64 + 4 + 100)
    try:
        for _ in range(3):
            assert told(weir, "kv_set", 1000, 100) == (most, LIMIT)
            others.served(1)
        assert told(weir, "kv_clear", 1000) == (1000, 0)
        assert told(weir, "kv_set", 3000, 100000)[0] == 0
    finally:
        told(weir, "kv_clear", 1000)


def test_flood_of_timers(weir, others):
    for _ in range(3):
        taken, last = told(weir, "timer_set", 3600000, 1000)
        assert last == LIMIT and taken in (TIMERS, 0)
    others.served()
    first = int(weir.exec("floods/bomb", "[]"))
    assert first == LIMIT, "the limit is the module's, not the event's"
    n = 1
    for id in range(1, 100000):
        n += weir.exec("floods/cancel", f"[{id}]") == "0"
        if n > TIMERS:
            break
    assert n == TIMERS + 1


def test_flood_of_logs(weir, others):
    """Lines of quotes, each of which is escaped: what the pipe does not take is dropped and counted."""
    dropped, have = weir.metric("logs_dropped_total"), len(weir.logs(GUEST_SAYS, module="floods"))
    assert told(weir, "log", 60, 4000) == (60, 0)
    others.served()
    wait_for("each line is there or counted", lambda: len(weir.logs(GUEST_SAYS, module="floods")) - have +
             weir.metric("logs_dropped_total") - dropped >= 60)


def test_a_million_host_calls(weir, others):
    """limits.calls ends it; GUEST_CALLS, with 500."""
    calls = weir.metric("guest_failed_total", code="GUEST_CALLS")
    doc = problem(weir.get("/handlers?Hh"), 500, "GUEST_CALLS")
    assert "calls <- act <- on_http" in doc["detail"]
    assert weir.metric("guest_failed_total", code="GUEST_CALLS") == calls + 1
    others.served()


# ---------------------------------------------------------------------------- connections it has no part in


def test_ids_that_are_not_its_own(weir, others):
    """Forged, closed, another module's, and of connections that are no WebSocket: gone, and nothing
    arrives."""
    others.sockets[0].send(frame(TEXT, "x"))
    assert others.sockets[0].frame().payload == b"x"
    with peer(weir) as (c, id), weir.ws("/handlers") as stranger, weir.raw() as idle:
        with peer(weir) as (gone, was):
            gone.send(close(1000))
            gone.close_frame(1000)
            gone.closed()
        weir.wait_metric("websockets_active", len(others.sockets) + 2)
        slots = range(0, 16)  # all that have been used, the admin's and this request's among them
        forged = {0, was, 1 << 63, (1 << 64) - 1, id | 1 << 56, id ^ 1, id + 1, id + 2, id - 2, id | 1 << 55}
        forged |= {slot << 32 | generation for slot in slots for generation in range(0, 64)} - {id}
        signed = [x - (1 << 64) if x >> 63 else x for x in sorted(forged)]
        with weir.raw() as asks:
            for x in signed:
                body = f"[{x}]"
                r = asks.send(f"POST /api/exec/floods/reach HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}"
                              f"\r\n\r\n{body}").response()
                assert r.body == b"[-2,-2,-2,-2,-2,-2]\n", (hex(x), r.body)
        for other in (stranger, *others.sockets, c):
            other.send(frame(PING, b"still here"))
            assert other.frame() == Frame(True, PONG, b"still here")
        idle.send(ask("/handlers?-"))
        assert idle.response().body == b"well"
        assert told(weir, "reach", id)[:3] == (0, 0, 6)  # its own
        assert c.message() == (TEXT, b"self")
        c.close_frame(4000, "self")


# ---------------------------------------------------------------------------- many at once


def exec_request(target, body="[]"):
    return f"POST /api/exec/{target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}"


def test_sixty_at_once(weir, others):
    """Of several modules and every kind, again and again: each has its own answer, in each round."""
    kinds = [(m, how) for m in ("handlers", "portable") for how in HOW] + \
            [(m, how) for m in ("initialize", "start") for how in "strh"] * 5
    with ExitStack() as stack:
        conns = [(stack.enter_context(weir.raw()), m, how) for m, how in (kinds * 2)[:60]]
        for _ in range(2):
            for c, m, how in conns:
                c.send(ask(f"/{m}?{'H' if m in ('handlers', 'portable') else ''}{how}"))
            others.served(10)
            for c, m, how in conns:
                problem(c.response(), STATUS[HOW[how]], HOW[how])


PATIENT = {"deadline": "20s", "timeout": "60s"}


def hostile_modules(n):
    return {f"m{i}": {"path": guest("hostile/handlers"), "limits": PATIENT} for i in range(n)}


def test_modules_that_fill_all_slots_leave_one_to_each_other(start):
    """Four modules could hold a quarter of the slots each. One that has none running gets one."""
    w = start({"drain": "100ms", "limits": {"memory": "1GiB"},
               "modules": {**hostile_modules(4), "echo": guest("echo"), "add": guest("add")},
               "routes": [{"path": f"/m{i}", "http": {"module": f"m{i}"}} for i in range(4)] +
               [{"path": "/echo", "websocket": {"module": "echo"}}]})
    with ExitStack() as stack:
        for i in range(80):
            stack.enter_context(w.raw()).send(ask(f"/m{i % 4}?Hs"))
        w.wait_metric("guests_running", lambda v: v >= 62)
        b = Bystanders(w)
        b.served(20)
        assert w.metric("guests_running") >= 62
        b.close()


def test_modules_share_time_rather_than_calls(start):
    """400 short calls of a module, of which one long one is suspended so that they wait for its turn,
    beside endless ones of another: a turn holds many of them, not one beside each slice of the other."""
    w = start({"drain": "100ms", "modules": {**hostile_modules(1), "types": {"path": guest("types"), "limits": PATIENT}},
               "routes": [{"path": "/m0", "http": {"module": "m0"}}]})
    with ExitStack() as stack:
        stack.enter_context(w.raw()).send(ask("/m0?Hs"))
        stack.enter_context(w.raw()).send(exec_request("types/endless"))
        w.wait_metric("guests_running", 2)
        conns = [stack.enter_context(w.raw()) for _ in range(400)]
        slices = w.metric("guest_slices_total")
        for i, c in enumerate(conns):
            c.send(exec_request("types/id32", f"[{i}]"))
        for i, c in enumerate(conns):
            assert c.response().body == b"%d\n" % i
        assert w.metric("guest_slices_total") - slices < 300


def test_a_module_that_fills_the_queue_leaves_room_to_others(start):
    """Its events wait by the thousand. Another module's ends and timers are told, and more of its
    requests than it may run at once are served."""
    limits = {"deadline": "5s", "timeout": "60s", "timers": 100}
    w = start({"drain": "100ms", "limits": {"guests": 8, "guest_queue": 16},
               "modules": {**hostile_modules(1), "other": {"path": guest("hostile/handlers"), "limits": limits}},
               "routes": [{"path": "/m0", "http": {"module": "m0"}}, {"path": "/other", "http": {"module": "other"}},
                          {"path": "/other", "websocket": {"module": "other"}}]})
    with ExitStack() as stack:
        with w.ws("/other") as c:
            c.send(frame(TEXT, "Ct"))
            assert c.message() == (TEXT, b"Ct")
            for _ in range(200):
                stack.enter_context(w.raw()).send(ask("/m0?Hs"))
            w.wait_metric("errors_total", 200 - 2 - 16, code="GUEST_BUSY")
            conns = [stack.enter_context(w.raw()) for _ in range(10)]
            for r in conns:
                r.send(ask("/other?-"))
            for r in conns:
                assert r.response().body == b"well"
            assert w.get("/other?Tt").status == 200
        lines = w.wait_logs("guest_failed", n=2, module="other")
        assert {x["detail"].split(" <- ")[-1] for x in lines} == {"on_ws_close", "on_timer"}


def test_a_timer_bomb_holds_up_nobody(start):
    """A timer whose event sets as many more as there may be, and each of them too. Those whose event
    waits count among limits.timers, so that they are no more of those that wait than that."""
    w = start({"modules": {"floods": {**hostile("floods"), "exec": "yes"}, "echo": guest("echo"), "add": guest("add"),
                           "other": hostile("handlers")},
               "routes": [{"path": "/echo", "websocket": {"module": "echo"}}, {"path": "/other", "http": {"module": "other"}},
                          {"path": "/other", "websocket": {"module": "other"}}]})
    assert int(w.exec("floods/bomb", "[]")) > 0
    w.wait_metric("guests_waiting", lambda v: v > TIMERS / 2)
    b = Bystanders(w)
    for _ in range(20):
        b.served(1)
        assert w.metric("guests_waiting") <= TIMERS + 1
    with w.ws("/other") as c:
        c.send(frame(TEXT, "Ct"))
        assert c.message() == (TEXT, b"Ct")
    assert w.get("/other?Tt").status == 200
    lines = w.wait_logs("guest_failed", n=2, module="other")
    assert {x["detail"].split(" <- ")[-1] for x in lines} == {"on_ws_close", "on_timer"}
    assert w.exec("floods/defuse", "[]") == "0"
    b.served()
    b.close()
    w.wait_metric("guests_waiting", 0)
    assert w.metric("guest_busy_total") == 0
    assert w.metric("worker_restarts") == 0


def test_traps_of_one_peer_are_its_own(weir, others):
    """Hundreds of traps of a module do not keep its other peers from being served."""
    with weir.ws("/handlers") as neighbour, weir.raw() as c:
        for i in range(200):
            problem(c.send(ask("/handlers?Ht")).response(), 500, "GUEST_TRAP")
            neighbour.send(frame(TEXT, str(i)))
            assert neighbour.message() == (TEXT, str(i).encode())
        assert weir.get("/handlers?-").body == b"well"
    others.served()


# ---------------------------------------------------------------------------- pointers, to every host function


def host_rows():
    text = (ROOT / "src" / "tbl" / "host.def").read_text()
    rows = re.findall(r'^HOST\((\w+), (\w+), "(\w*)", \'(\w)\', "', text, re.M)
    assert len(rows) == len(re.findall(r"^HOST\(", text, re.M)) >= 23
    return rows


END = 65536
# Pointers and lengths that lead out of a memory of 64 KiB, by whole, by part and by wrapping.
OUTSIDE = [(END, 1), (END - 3, 4), (END + 1, 0), (0, END + 1), (0, 0xffffffff), (0xffffffff, 1), (0xfffffff0, 32),
           (0x80000000, 0x80000000), (0xffffffff, 0xffffffff), (1, END), (0x7fffffff, 0x80000001)]
INSIDE = [(END, 0), (END - 1, 1), (0, END), (0, 0), (4096, 32)]
INTS = [0, 1, 7, 0x7fffffff, 0x80000000, 0xffffffff]
LONGS = [0, 1, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff]


def const(kind, value):
    return f"({'i64' if kind == 'l' else 'i32'}.const {value:#x})"


class Pointers:
    """A guest with a case for each way to call each host function: generated, so that a new row of
    host.def is covered. `attack` runs one: the instance's memory is all 0xa5; it returns 0 where the
    host answered as host.def says and wrote nowhere but where it was asked to, 1 for another answer,
    2 for a byte elsewhere."""

    def __init__(self):
        self.cases, self.text = [], []  # (name, whether it traps)
        imports = []
        for name, _, params, result in host_rows():
            types = "".join(" i64" if p == "l" else " i32" if p == "i" else " i32 i32" for p in params)
            imports.append(f'(import "weir_v1" "{name}" (func ${name} (param{types}) (result i{64 if result == "l" else 32})))')
            self.row(name, params, result)
        bodies = "\n".join(f"(if (i32.eq (local.get $n) (i32.const {i})) (then {text}))" for i, text in enumerate(self.text))
        self.wat = f"""(module {chr(10).join(imports)}
  (memory (export "memory") 1 1)
  ;; whether all bytes but the $n at $p and the $m at $q are 0xa5
  (func $clean (param $p i32) (param $n i32) (param $q i32) (param $m i32) (result i32)
    (local $i i32)
    (loop $l
      (if (i32.ne (i32.load8_u (local.get $i)) (i32.const 0xa5))
        (then (if (i32.and (i32.ge_u (i32.sub (local.get $i) (local.get $p)) (local.get $n))
                           (i32.ge_u (i32.sub (local.get $i) (local.get $q)) (local.get $m)))
          (then (return (i32.const 0))))))
      (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const {END}))))
    (i32.const 1))
  (func $attack (export "attack") (param $n i32) (result i32)
    (local $r i64)
    (memory.fill (i32.const 0) (i32.const 0xa5) (i32.const {END}))
    {bodies}
    (i32.const 3))
  (func (export "on_http") (result i32)
    (drop (call $req_get (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16)))
    (i32.add (i32.const 200) (call $attack (i32.add (i32.mul (i32.const 1000) (i32.sub (i32.load8_u (i32.const 0)) (i32.const 48)))
      (i32.add (i32.mul (i32.const 100) (i32.sub (i32.load8_u (i32.const 1)) (i32.const 48)))
      (i32.add (i32.mul (i32.const 10) (i32.sub (i32.load8_u (i32.const 2)) (i32.const 48)))
        (i32.sub (i32.load8_u (i32.const 3)) (i32.const 48))))))))
  (func (export "on_ws_message") (param i64 i32 i32) (result i32)
    (drop (call $msg_read (i32.const 0) (i32.const 4)))
    (i32.add (i32.const 4000) (call $attack (i32.load (i32.const 0)))))
  (func (export "on_timer") (param i64)))
"""

    def row(self, name, params, result):
        """Every parameter in turn takes its extremes, the others are harmless; then overlaps."""
        harmless = {"i": 1, "l": 0, "B": (64, 4), "P": (128, 32)}
        plain = [harmless[p] for p in params]
        if not params:
            self.case(name, params, result, [], False)
        for at, p in enumerate(params):
            pointers = p in "BP"
            for value in OUTSIDE + INSIDE if pointers else INTS if p == "i" else LONGS:
                self.case(name, params, result, plain[:at] + [value] + plain[at + 1:], pointers and value in OUTSIDE)
        pointers = [at for at, p in enumerate(params) if p in "BP"]
        for one in pointers:
            for other in pointers:
                if one < other:
                    for a, b in (((64, 32), (64, 32)), ((64, 32), (80, 32)), ((80, 32), (64, 32)), ((0, END), (0, END))):
                        args = list(plain)
                        args[one], args[other] = a, b
                        self.case(name, params, result, args, False)

    def case(self, name, params, result, args, traps):
        flat = " ".join(const(p, a) if p in "il" else const("i", a[0]) + const("i", a[1]) for p, a in zip(params, args))
        call = f"(call ${name} {flat})"
        if result == "i":
            call = f"(i64.extend_i32_s {call})"
        written = [a for p, a in zip(params, args) if p == "P"] + [(0, 0), (0, 0)]
        least = "(i64.const -4)"
        self.text.append(f"""(local.set $r {call})
      (if (i64.lt_s (local.get $r) {least}) (then (return (i32.const 1))))
      (return (select (i32.const 0) (i32.const 2) (call $clean {const('i', written[0][0])} {const('i', written[0][1])}
        {const('i', written[1][0])} {const('i', written[1][1])})))""")
        self.cases.append((f"{name}{tuple(args)}", traps))


@pytest.fixture(scope="module")
def pointers(tmp_path_factory, cache, _running):
    p = Pointers()
    folder = tmp_path_factory.mktemp("pointers")
    (folder / "pointers.wat").write_text(p.wat)
    module = {"path": str(folder / "pointers.wat"), "exec": "yes",
              "allow": sorted({group for _, group, _, _ in host_rows()}),
              "limits": {"timers": 100000, "deadline": "1s", "timeout": "10s"}}
    w = Weir(folder, cache, {"log_level": "error", "modules": {"native": module, "pulley": {**module, "engine": "pulley"}},
                             "routes": [{"path": f"/{m}", k: {"module": m}} for m in ("native", "pulley") for k in ("http", "websocket")]},
             start=False)
    _running.append(w)
    w.start()
    yield p, w
    w.check()
    assert w.metric("worker_restarts") == 0
    w.stop()


@pytest.mark.parametrize("engine", ["native", "pulley"])
def test_pointers_in_exec(pointers, engine):
    """To every host function: out of memory traps, at its edge does not, and what overlaps harms
    nothing else."""
    p, w = pointers
    assert len(p.cases) > 400 and {traps for _, traps in p.cases} == {True, False}
    with w.raw() as c:
        for i, (name, traps) in enumerate(p.cases):
            r = c.send(exec_request(f"{engine}/attack", f"[{i}]")).response()
            if traps:
                doc = problem(r, 500, "GUEST_TRAP")
                assert doc["detail"].startswith("out of bounds memory access"), (name, doc)
            else:
                assert (r.status, r.body) == (200, b"0\n"), (name, r.body)


def test_pointers_in_on_http(pointers):
    p, w = pointers
    with w.raw() as c:
        for i, (name, traps) in enumerate(p.cases):
            r = c.send(ask(f"/native?{i:04}")).response()
            if traps:
                problem(r, 500, "GUEST_TRAP")
            else:
                assert r.status == 200, (name, r.status)


def test_pointers_in_on_ws_message(pointers):
    """Where there is a message and a connection of its own. A trap ends its own peer alone."""
    p, w = pointers
    with w.ws("/native") as neighbour:
        for i, (name, traps) in enumerate(p.cases):
            with w.ws("/native") as c:
                c.send(frame(BINARY, struct.pack("<I", i)))
                f = c.frame()
                assert f.opcode == CLOSE and f.payload[:2] == struct.pack("!H", 1011 if traps else 4000), (name, f)
        neighbour.send(frame(PING, b""))
        assert neighbour.frame() == Frame(True, PONG, b"")
