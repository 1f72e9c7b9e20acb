"""What a guest can know of another: docs/ISOLATION.md, cell by cell. A row is a kind of state, a
column a pair of guests of which one writes it and the other looks for it."""
import os
import re
import signal
import struct
from contextlib import contextmanager

import pytest

from weir import BINARY, GUEST_SAYS, ROOT, TEXT, Closed, Weir, frame, guest, problem

ROWS = ["globals", "memory", "tables", "kv", "timers", "attachments", "topics"]
INSTANCE, HOST = ROWS[:3], ROWS[3:]
GONE, ABSENT = -2, -4
V = 85  # what is written


def cell(**more):
    return {"path": guest("cell"), "exec": "yes", "limits": {"deadline": "10s", "timeout": "30s", "calls": 1000000000},
            **more}


MODULES = {"a": cell(), "b": cell(), "portable": cell(engine="pulley"),
           "actor": cell(instance="module"), "portable-actor": cell(instance="module", engine="pulley"),
           "friend": cell(space="shared"), "fellow": cell(space="shared")}
CONFIG = {"modules": MODULES, "routes": [{"path": f"/{m}", "websocket": {"module": m}} for m in MODULES]}


class Module:
    """Writes and reads state as a module of the gateway, each time in an event of its own."""

    def __init__(self, weir, name):
        self.weir, self.name = weir, name
        self.peers = []

    def run(self, function, *args):
        text = self.weir.exec(f"{self.name}/{function}", "[" + ",".join(map(str, args)) + "]")
        return None if text == "null" else tuple(map(int, text.strip("[]").split(","))) if text[0] == "[" else int(text)

    def peer(self):
        """A WebSocket of the module: (its connection, its id)."""
        c = self.weir.ws("/" + self.name)
        self.peers.append(c)
        return c, say(c, b"I")

    def write(self, row):
        """Writes it in an event; returns what read() of the same module or another is to look for."""
        if row == "timers":
            return self.run("write_timers")
        if row == "attachments":
            c, id = self.peer()
            assert say(c, b"A%c" % V) == id
            return id
        if row == "topics":
            _, id = self.peer()
            assert self.run("write_topics", id) == 0
            return id
        self.run("write_" + row, V)
        return V

    def read(self, row, what):
        """What is there for an event: None where there is nothing, else what write() wrote."""
        if row == "timers":
            return {0: what, ABSENT: None}[self.run("take_timers", what)]
        if row == "attachments":
            return {0: None, GONE: None, V: what}[self.run("read_attachments", what)]
        return self.run("read_" + row) or None

    def close(self):
        for c in self.peers:
            c.close()
        self.peers = []


def say(c, message):
    c.send(frame(BINARY, message))
    opcode, data = c.message()
    assert opcode == BINARY
    return struct.unpack("<Q", data)[0]


@pytest.fixture
def modules(weir):
    made = {name: Module(weir, name) for name in MODULES}
    yield made
    for m in made.values():
        m.close()
        m.run("forget")
    weir.wait_metric("websockets_active", 0)
    weir.wait_metric("topics_active", 0)


EACH = pytest.mark.parametrize("row", ROWS)


# ---------------------------------------------------------------------------- columns


@EACH
def test_between_modules(modules, row):
    """Two modules of the same code."""
    a, b = modules["a"], modules["b"]
    what = a.write(row)
    assert b.read(row, what) is None
    b.write(row)
    assert a.read(row, what) == (what if row in HOST else None)


@EACH
def test_between_engines(modules, row):
    """native and pulley: modules of the same code."""
    for a, b in (("a", "portable"), ("portable", "a")):
        what = modules[a].write(row)
        assert modules[b].read(row, what) is None
        assert modules[a].read(row, what) == (what if row in HOST else None)
        for m in (a, b):
            modules[m].close()
            modules[m].run("forget")


@EACH
def test_between_events(modules, row):
    """Of one module, one after the other: nothing of the instance is left, what the host keeps is."""
    for name in ("a", "portable"):
        m = modules[name]
        for _ in range(3):
            what = m.write(row)
            assert m.read(row, what) == (what if row in HOST else None)
            m.close()
            m.run("forget")


@EACH
def test_between_events_of_one_instance(modules, row):
    """instance: module keeps all, until an event does not end well: then its instance is new, and what
    the host keeps is not touched."""
    for name in ("actor", "portable-actor"):
        m = modules[name]

        def fails():
            problem(m.weir.post(f"/api/exec/{name}/dirty", "[99,1]"), 500, "GUEST_TRAP")

        fails()
        if row in INSTANCE:
            assert m.read(row, V) is None
        what = m.write(row)
        if row != "timers":
            for _ in range(2):
                assert m.read(row, what) == (3 if row == "tables" else what)
        fails()
        assert m.read(row, what) == (what if row in HOST else None)
        m.close()


@contextmanager
def held(m):
    """An event that has written everything and has not ended: yields its connection's id. At its end
    it checks that all was as it had written it; what it returned is in the list."""
    weir, (own, id), (starter, go) = m.weir, m.peer(), m.peer()
    waits = len(weir.logs(GUEST_SAYS, module=m.name))
    body = f"[{V},{id}]"
    result = []
    with weir.raw() as c:
        c.send(f"POST /api/exec/{m.name}/hold HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
        weir.wait_logs(GUEST_SAYS, n=waits + 1, module=m.name)
        yield id, result
        assert weir.metric("guests_running") == 1  # still
        assert m.run("go", go) == 0
        r = c.response()
        assert r.status == 200, r.body
        result += map(int, r.body.decode().strip("[]\n").split(","))
    assert result[:4] == [V, V, 3, V]


@EACH
def test_between_instances(modules, row):
    """Two of one module at once: one has written and not ended, the other looks and writes itself.
    What the host keeps is there for all when the event has ended."""
    for name in ("a", "portable"):
        m = modules[name]
        if row == "attachments":
            (c, id), (starter, go) = m.peer(), m.peer()
            waits = len(m.weir.logs(GUEST_SAYS, module=name))
            c.send(frame(BINARY, b"H%c" % V))
            m.weir.wait_logs(GUEST_SAYS, n=waits + 1, module=name)
            assert m.read(row, id) is None
            assert m.run("go", go) == 0
            assert c.message() == (BINARY, struct.pack("<Q", id))
            assert m.read(row, id) == id
        else:
            timer = m.run("write_timers")
            with held(m) as (id, result):
                next_timer = timer + 1  # they are numbered, so that it could be guessed
                what = {"timers": next_timer, "topics": id}.get(row, V)
                assert m.read(row, what) is None
                if row in INSTANCE:
                    m.run("write_" + row, 99)
            assert result[4] == next_timer
            assert m.read(row, what) == (what if row in HOST else None)
        m.close()
        m.run("forget")


@EACH
def test_between_workers(start, row):
    """The one that died and its successor: nothing is left, a timer does not fire. (workers: N, loops
    beside each other, is not there yet.)"""
    w = start({**CONFIG, "limits": {"guests": 8}})
    w.may_die = True
    m = Module(w, "a")
    what = m.write(row)
    old = w.worker_pid()
    os.kill(old, signal.SIGKILL)
    w.wait_logs("worker_ready", n=2, timeout=10)
    assert w.worker_pid() != old
    for c in m.peers:
        with pytest.raises(Closed):
            c.frame()
    assert m.read(row, what) is None
    _, id = m.peer()  # nor for a connection that may have its id
    assert m.read(row, id if row in ("attachments", "topics") else what) is None
    m.close()


@pytest.fixture(scope="module")
def one_slot(tmp_path_factory, cache, _running):
    """One instance at a time, so that each is made where the one before was."""
    limits = {"deadline": "300ms", "timeout": "30s", "calls": 2000, "timers": 1000}
    modules = {m: cell(limits=limits, engine=e) for m, e in
               (("a", "native"), ("b", "native"), ("portable", "pulley"), ("compact", "pulley"))}
    w = Weir(tmp_path_factory.mktemp("slot"), cache, {
        "limits": {"guests": 1}, "modules": modules,
        "routes": [{"path": f"/{m}", "websocket": {"module": m}} for m in modules]}, start=False)
    _running.append(w)
    w.start()
    yield w
    w.check()
    w.stop()


ENDS = {0: None, 1: "GUEST_TRAP", 2: "GUEST_DEADLINE", 3: "GUEST_CALLS"}


@EACH
def test_after_reuse_of_a_slot(one_slot, row):
    """A guest fills all of its memory, globals and table, sets a key and a timer, then ends well,
    traps, never ends or calls the host without end. The next one, of the same module or another,
    finds what the module says, and of keys and timers those of events that ended well."""
    w = one_slot
    for dirty, next_ones in (("a", "ab"), ("portable", ("portable", "compact"))):
        for how, code in ENDS.items():
            for name in next_ones:
                a, b = Module(w, dirty), Module(w, name)
                timer = a.run("write_timers")
                what = {"timers": timer + 1, "attachments": 0, "topics": 0}.get(row, V)
                if row in ("attachments", "topics"):
                    what = a.write(row)
                r = w.post(f"/api/exec/{dirty}/dirty", f"[{V},{how}]")
                if code:
                    problem(r, 504 if how == 2 else 500, code)
                else:
                    assert r.body == b"%d\n" % V
                kept = row in ("attachments", "topics") or (row in HOST and not code)
                assert b.read(row, what) == (what if kept and name == dirty else None), (dirty, how, name)
                a.close()
                for m in (a, b):
                    m.run("forget")


COLUMNS = {"two modules": test_between_modules, "two instances of one module": test_between_instances,
           "two events, `instance: event`": test_between_events,
           "two events, `instance: module`": test_between_events_of_one_instance,
           "two engines": test_between_engines, "two workers": test_between_workers,
           "a reused slot": test_after_reuse_of_a_slot}

# ---------------------------------------------------------------------------- on purpose


def test_a_space_is_shared_on_purpose(modules):
    """space: modules that name the same one have their topics in common, and nothing else."""
    a, b, other = modules["friend"], modules["fellow"], modules["b"]
    c, id = a.peer()
    assert a.run("write_topics", id) == 0
    assert a.read("topics", 0) == b.read("topics", 0) == id
    assert other.read("topics", 0) is None
    assert b.run("publish") == 1 and other.run("publish") == 0
    assert c.message() == (TEXT, b"topic")
    for row in ROWS[:-1]:
        assert b.read(row, a.write(row)) is None
    assert b.run("write_topics", id) == GONE  # a connection is its own module's all the same


def test_the_table_is_whole():
    """docs/ISOLATION.md names a test in each cell, and each of them is here."""
    text = (ROOT / "docs" / "ISOLATION.md").read_text()
    rows = [[c.strip() for c in line.strip().strip("|").split(" | ")] for line in text.splitlines()
            if line.startswith("| ")]
    head, cells = rows[0][1:], rows[1:]
    assert head == list(COLUMNS)
    assert [r[0] for r in cells] == ROWS
    for row, *line in cells:
        assert len(line) == len(COLUMNS)
        for column, text in zip(head, line):
            name = re.fullmatch(r"\S.*<br>`(test_\w+)\[(\w+)\]`", text)
            assert name, (row, column, text)
            function = COLUMNS[column]
            assert name[1] == function.__name__ and name[2] == row, (row, column)
            marks = [m for m in function.pytestmark if m.name == "parametrize"]
            assert marks[0].args == ("row", ROWS)
    for name in re.findall(r"`(test_\w+)`", text):
        assert name in globals(), name
