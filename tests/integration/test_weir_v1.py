"""weir_v1 beside messages and requests: topics, keys and values, timers, clock, entropy, what
on_ws_drain is told, and the limits of each. v1.wat runs scripts of host calls."""
import select
import struct
import time

import pytest

from weir import (BINARY, TEXT, Raw, Watch, close, cpu_seconds, frame, guest, handshake, problem,
                  refuses_to_serve, run_cli, switches, wait_for)

LIMIT, GONE, INVALID, ABSENT = -1, -2, -3, -4
TOPICS, TOPIC_LENGTH, QUEUE, TIMERS, KV = 4, 16, 256 << 10, 20, 40 << 10
KV_ENTRY, KV_KEY = 64, 512
PATIENT = {"deadline": "30s", "timeout": "60s", "calls": 1000000, "timers": TIMERS, "kv": KV}
V1 = {"path": guest("v1"), "exec": "yes", "limits": PATIENT}
CONFIG = {
    "log_level": "debug",
    "limits": {"message": "128KiB", "body": "128KiB", "send_queue": QUEUE, "topics": TOPICS,
               "topic_length": TOPIC_LENGTH, "close_timeout": "300ms", "guests": 16},
    "modules": {
        "v1": V1,
        "other": V1,
        "crowd": {**V1, "space": "commons"},
        "tight": {"path": guest("v1"), "limits": {"output": 1000, "kv": 1000, "timers": 3,
                                                  "calls": 50, "table_elements": 5}},
        "public": V1,
        "busy": {"path": guest("v1"), "limits": {**PATIENT, "cpu": 50}},
    },
    "routes": [
        {"path": "/v1", "websocket": {"module": "v1"}},
        {"path": "/v1/commons", "websocket": {"module": "v1", "space": "commons"}},
        {"path": "/other", "websocket": {"module": "other"}},
        {"path": "/crowd", "websocket": {"module": "crowd"}},
        {"path": "/tight", "websocket": {"module": "tight"}},
        {"path": "/public", "websocket": {"module": "public", "space": "public"}},
        {"path": "/busy", "websocket": {"module": "busy"}},
        {"path": "/ws/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/ws/room/*", "websocket": {"handler": "pubsub", "space": "rooms"}},
        {"path": "/http/v1", "http": {"module": "v1"}},
        {"path": "/http/crowd", "http": {"module": "crowd"}},
        {"path": "/http/tight", "http": {"module": "tight"}},
    ],
}

# ---------------------------------------------------------------------------- scripts

MASK = (1 << 64) - 1


def text(b):
    b = b.encode() if isinstance(b, str) else b
    return struct.pack("<H", len(b)) + b


def subscribe(conn, topic):
    return b"S" + struct.pack("<Q", conn) + text(topic)


def unsubscribe(conn, topic):
    return b"U" + struct.pack("<Q", conn) + text(topic)


def publish(topic, data, kind=BINARY, but=0):
    return b"P" + struct.pack("<IQ", kind, but) + text(topic) + text(data)


def topic_next(topic, cursor=0):
    return b"N" + struct.pack("<Q", cursor) + text(topic)


def kv_get(key, cap=60000):
    return b"G" + struct.pack("<I", cap) + text(key)


def kv_set(key, value=b"", ttl=0):
    return b"K" + struct.pack("<q", ttl) + text(key) + text(value)


def timer_set(ms, cookie):
    return b"T" + struct.pack("<qq", ms, cookie)


def timer_cancel(timer):
    return b"t" + struct.pack("<Q", timer)


def buffered(conn):
    return b"B" + struct.pack("<Q", conn)


def zeroes(conn, n):
    return b"W" + struct.pack("<QI", conn, n)


def spin(n):
    return b"Z" + struct.pack("<I", n)


def calls(n):
    return b"C" + struct.pack("<I", n)


def grow(n):
    return b"L" + struct.pack("<I", n)


def random(n):
    return b"R" + struct.pack("<I", n)


NOW, TRAP, QUIET, ME = b"n", b"X", b"Q", b"I"


def ints(data):
    assert len(data) % 8 == 0, data
    return list(struct.unpack(f"<{len(data) // 8}q", data))


def value(data):
    """The answer to one kv_get."""
    n, = struct.unpack("<q", data[:8])
    return data[8:] if n >= 0 else n


class Guest:
    """A connection to v1.wat."""

    def __init__(self, weir, path="/v1", topics=(), **kw):
        self.weir, self.raw = weir, weir.ws(path, **kw)
        self.id, = ints(self.ask(ME))
        for topic in topics:
            assert self.do(subscribe(self.id, topic)) == [0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.raw.close()

    def send(self, *script):
        self.raw.send(frame(BINARY, b"".join(script)))
        return self

    def ask(self, *script):
        self.send(*script)
        return self.hears()

    def do(self, *script):
        return ints(self.ask(*script))

    def get(self, key):
        return value(self.ask(kv_get(key)))

    def hears(self):
        opcode, data = self.raw.message()
        assert opcode == BINARY
        return data

    def hears_id(self):
        return struct.unpack("<Q", self.hears())[0]

    def silent(self, *script):
        """Nothing comes before the answer to that."""
        assert self.do(*(script or (ME,)))[-1:] == ([self.id] if not script else [0])

    def end(self):
        self.raw.send(close(1000))
        self.raw.close_frame(1000)
        self.raw.close()


def ends_gone(weir, g):
    """Closes it and waits until weir knows."""
    active = weir.metric("connections_active")
    g.end()
    weir.wait_metric("connections_active", active - 1)


# ---------------------------------------------------------------------------- topics


def test_publish_reaches_subscribers_in_order(weir):
    with Guest(weir, topics=["t"]) as a, Guest(weir, topics=["t"]) as b, Guest(weir) as c:
        assert c.do(publish("t", b"1"), publish("t", b"2", TEXT), publish("u", b"")) == [2, 2, 0]
        for g in (a, b):
            assert g.raw.message() == (BINARY, b"1")
            assert g.raw.message() == (TEXT, b"2")
        a.send(publish("t", b"3", but=a.id), publish("t", b"4", but=c.id))
        assert [b.hears(), b.hears()] == [b"3", b"4"]
        assert a.hears() == b"4"
        assert ints(a.hears()) == [1, 2]


def test_the_senders_own_answer_comes_in_order(weir):
    """Effects of an event are applied in the order in which they were asked for."""
    with Guest(weir) as a:
        a.send(subscribe(a.id, "t"), publish("t", b"first"))
        assert a.hears() == b"first", "it had joined before, in the same event"
        assert a.hears() == struct.pack("<qq", 0, 0), "topics are read as before the event"
        a.send(publish("t", b"2"), unsubscribe(a.id, "t"), publish("t", b"3"))
        assert a.hears() == b"2"
        assert ints(a.hears()) == [1, 0, 1]
        a.silent()


def test_subscribing_twice_is_once(weir):
    weir.wait_metric("topic_members", 0)  # those of other tests have left
    with Guest(weir) as a:
        assert a.do(subscribe(a.id, "t"), subscribe(a.id, "t")) == [0, 0]
        assert a.do(subscribe(a.id, "t")) == [0]
        assert weir.metric("topic_members") == 1
        a.send(publish("t", b"x"))
        assert a.hears() == b"x"
        assert ints(a.hears()) == [1]
        assert a.do(unsubscribe(a.id, "t"), unsubscribe(a.id, "t"), unsubscribe(a.id, "no")) == [0] * 3
        assert weir.metric("topic_members") == 0
        a.silent(publish("t", b"x"))


def test_another_connection_may_be_subscribed(weir):
    with Guest(weir) as a, Guest(weir) as b, Guest(weir, "/other") as o:
        assert a.do(subscribe(b.id, "t"), publish("t", b"x")) == [0, 0]
        assert b.hears() == b"x"
        assert a.do(subscribe(o.id, "t"), unsubscribe(o.id, "t"), subscribe(12345, "t")) == [GONE] * 3
        assert a.do(unsubscribe(b.id, "t")) == [0]
        assert a.do(publish("t", b"x")) == [0]
        b.silent()


def test_a_trap_drops_subscriptions_and_messages(weir):
    with Guest(weir, topics=["t"]) as hears, Guest(weir) as a, Guest(weir) as b:
        a.send(subscribe(b.id, "trap"), unsubscribe(hears.id, "t"), publish("t", b"x"), TRAP)
        a.raw.fails(1011)
        assert b.do(publish("trap", b"x"), publish("t", b"y")) == [0, 1]
        assert hears.hears() == b"y"
        b.silent()


NAMES = [(b"", INVALID), (b"x" * TOPIC_LENGTH, 0), (b"x" * (TOPIC_LENGTH + 1), INVALID),
         (b"\xff", INVALID), (b"\0", 0), ("é".encode(), 0), (b"a/b*#", 0)]


@pytest.mark.parametrize("name, want", NAMES)
def test_topic_names(weir, name, want):
    with Guest(weir) as a:
        assert a.do(subscribe(a.id, name)) == [want]
        a.send(publish(name, b"x"), topic_next(name))
        if want == 0:
            assert a.hears() == b"x"
            assert ints(a.hears()) == [1, a.id]
        else:
            assert ints(a.hears()) == [INVALID, INVALID]
        assert a.do(unsubscribe(a.id, name)) == [want]


def test_topics_of_a_connection_are_bounded(weir):
    limited = weir.metric("guest_limits_total")
    with Guest(weir) as a, Guest(weir) as b:
        topics = [f"t{i}" for i in range(TOPICS + 1)]
        assert a.do(*[subscribe(a.id, t) for t in topics]) == [0] * TOPICS + [LIMIT]
        assert a.do(subscribe(a.id, "more"), subscribe(a.id, "t0")) == [LIMIT, 0]
        assert weir.metric("guest_limits_total") == limited + 2
        a.send(publish(topics[-1], b"x"), publish(topics[-2], b"y"))
        assert a.hears() == b"y"
        assert ints(a.hears()) == [0, 1]
        assert a.do(unsubscribe(a.id, "t0")) == [0]
        assert a.do(subscribe(a.id, "more")) == [0]
        assert b.do(subscribe(b.id, "more")) == [0], "another connection has its own bound"


def test_the_bound_of_topics_is_each_connections(weir):
    """An event may subscribe more connections than one may have topics."""
    guests = [Guest(weir) for _ in range(TOPICS + 2)]
    assert guests[0].do(*[subscribe(g.id, "all") for g in guests]) == [0] * len(guests)
    assert guests[0].do(*[subscribe(guests[0].id, "one") for _ in range(TOPICS)]) == [0] * TOPICS
    for g in guests:
        g.raw.close()


def test_publish_refuses_what_is_no_message(weir):
    with Guest(weir, topics=["t"]) as a:
        assert a.do(publish("t", b"\xff", TEXT), publish("t", b"x", 0), publish("t", b"x", 3),
                    publish("t", b"x", 8), publish("t", b"x", 9)) == [INVALID] * 5
        a.send(publish("t", b"\xff"))
        assert a.hears() == b"\xff"
        assert ints(a.hears()) == [1]


def test_topic_next_walks_all(weir):
    guests = [Guest(weir, topics=["walk"]) for _ in range(5)]
    want = {g.id for g in guests}
    seen, at = [], 0
    while True:
        at, = guests[0].do(topic_next("walk", at))
        if at == 0:
            break
        seen.append(at)
    assert len(seen) == len(want) and set(seen) == want
    assert guests[0].do(topic_next("none"), topic_next("none", 1)) == [0, GONE]
    with Guest(weir) as other:
        assert other.do(topic_next("walk", other.id)) == [GONE], "it is not in the topic"
    for g in guests[1:]:
        ends_gone(weir, g)
    assert guests[0].do(topic_next("walk", guests[2].id)) == [GONE]
    assert guests[0].do(topic_next("walk")) == [guests[0].id]
    guests[0].raw.close()


def test_spaces(weir):
    """A topic is its module's, unless route or module name a space."""
    with Guest(weir, topics=["t"]) as a, Guest(weir, "/other", topics=["t"]) as o, \
            Guest(weir, "/crowd", topics=["t"]) as c, Guest(weir, "/v1/commons", topics=["t"]) as ac:
        assert a.do(publish("t", b"private", but=a.id)) == [0]
        assert o.do(publish("t", b"private", but=o.id)) == [0]
        assert c.do(publish("t", b"1", but=c.id)) == [1]
        assert ac.hears() == b"1"
        assert ac.do(publish("t", b"2", but=ac.id)) == [1]
        assert c.hears() == b"2"
        assert c.do(topic_next("t"), topic_next("t", c.id), topic_next("t", ac.id)) == [c.id, ac.id, 0]
        r = weir.post("/http/crowd", publish("t", b"3"))
        assert ints(r.body) == [2], "where there is no WebSocket, the module's space"
        assert (c.hears(), ac.hears()) == (b"3", b"3")
        for g in (a, o):
            g.silent()


def test_effects_of_other_events(weir):
    """Of requests, of /api/exec, of handshakes, and of on_ws_close."""
    with Guest(weir, topics=["http", "exec", "shakes", "closing"]) as a:
        assert ints(weir.post("/http/v1", publish("http", b"x") + kv_set("http", b"1")).body) == [1, 0]
        assert a.hears() == b"x"
        assert a.get("http") == b"1"
        clear(a, "http")
        assert weir.exec("v1/tell", "[77]") == "77"
        assert a.hears_id() == 77
        with Guest(weir) as b:
            assert a.hears_id() == b.id
            b.end()
        assert a.hears_id() == b.id
        with Guest(weir) as b:
            assert a.hears_id() == b.id
            b.raw.reset()
        assert a.hears_id() == b.id
        with Guest(weir) as b:
            assert a.hears_id() == b.id
            b.send(TRAP)
            b.raw.fails(1011)
        assert a.hears_id() == b.id
        with Guest(weir, "/other"):
            pass
        a.silent()


def test_effects_of_a_request_whose_client_has_gone(weir):
    """The event ended well: only its answer has nobody to go to."""
    with Guest(weir, topics=["t"]) as a:
        with weir.raw() as c:
            body = spin(SUSPENDED) + publish("t", b"done") + kv_set("gone", b"1")
            c.send(f"POST /http/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            suspended(weir)
            c.reset()
        assert a.hears() == b"done"
        assert a.get("gone") == b"1"
        clear(a, "gone")


def many(weir, path, n):
    """n WebSockets, opened together."""
    conns = [Raw(weir.port) for _ in range(n)]
    for c in conns:
        c.send(handshake(path))
    for c in conns:
        assert c.response().status == 101
    return conns


def test_a_large_topic(weir):
    """All of 2,000 get all, in order, though an iteration reaches only some of them."""
    weir.wait_metric("topic_members", 0)  # those of other tests have left
    conns = many(weir, "/ws/topic/big", 2000)
    try:
        assert weir.metric("topic_members") == 2000
        with Guest(weir, "/public") as g:
            assert g.do(*[publish("big", f"{i}") for i in range(3)]) == [2000] * 3
            assert weir.metric("topics_active") == 1
        for c in conns:
            for i in range(3):
                assert c.message() == (BINARY, f"{i}".encode())
    finally:
        for c in conns:
            c.close()
    weir.wait_metric("topic_members", 0)
    assert weir.metric("topics_active") == 0


# ---------------------------------------------------------------------------- pubsub


def test_pubsub(weir):
    with weir.ws("/ws/topic/a") as a, weir.ws("/ws/topic/a") as b, weir.ws("/ws/topic/b") as c, \
            weir.ws("/ws/room/a") as room, Guest(weir, "/public") as g:
        a.send(frame(TEXT, "hello") + frame(BINARY, b"\xff"))
        for each in (a, b):
            assert each.message() == (TEXT, b"hello")
            assert each.message() == (BINARY, b"\xff")
        assert g.do(publish("a", b"from a guest"), publish("b", b"2")) == [2, 1]
        for each in (a, b):
            assert each.message() == (BINARY, b"from a guest")
        assert c.message() == (BINARY, b"2")
        room.send(frame(TEXT, "only here"))
        assert room.message() == (TEXT, b"only here")
        b.send(frame(TEXT, "b"))
        assert a.message() == b.message() == (TEXT, b"b")


@pytest.mark.parametrize("name", ["", "x" * (TOPIC_LENGTH + 1)])
def test_pubsub_needs_a_valid_name(weir, name):
    with weir.raw() as c:
        problem(c.send(handshake("/ws/topic/" + name)).response(), 404, "NOT_FOUND")
    with weir.ws("/ws/topic/" + "x" * TOPIC_LENGTH) as c:
        c.send(frame(TEXT, "x"))
        assert c.message() == (TEXT, b"x")


# ---------------------------------------------------------------------------- keys and values


def clear(g, *keys):
    assert g.do(*[kv_set(k, ttl=-1) for k in keys]) == [0] * len(keys)


def test_values(weir):
    with Guest(weir) as a, Guest(weir) as b, Guest(weir, "/other") as o:
        assert a.get("k") == ABSENT
        assert a.do(kv_set("k", b"value")) == [0]
        assert b.get("k") == b"value"
        assert o.get("k") == ABSENT, "each module has its own"
        assert a.do(kv_get("k", cap=4)) == [5], "no room: its length, and nothing is written"
        assert a.do(kv_set("k", b"")) == [0]
        assert b.get("k") == b""
        assert b.do(kv_set("k", b"unread", ttl=-1), kv_set("k", ttl=-5)) == [0, 0]
        assert a.get("k") == ABSENT
        assert a.do(kv_get(b""), kv_get(b"k" * (KV_KEY + 1)), kv_get(b"k" * KV_KEY)) == \
            [INVALID, INVALID, ABSENT]
        assert a.do(kv_set(b""), kv_set(b"k" * (KV_KEY + 1)), kv_set(b"\xff\0")) == [INVALID, INVALID, 0]
        assert b.get(b"\xff\0") == b""
        clear(a, b"\xff\0")


def test_an_event_reads_what_it_wrote(weir):
    with Guest(weir) as a:
        assert a.do(kv_set("k", b"12345678"), kv_get("k", cap=8), kv_set("k", ttl=-1), kv_get("k"),
                    kv_set("k", b""), kv_get("k"), kv_set("k", ttl=-1)) == \
            [0, 8, int.from_bytes(b"12345678", "little"), 0, ABSENT, 0, 0, 0]
        assert a.get("k") == ABSENT


def test_a_trap_drops_values_and_timers(weir):
    with Guest(weir, topics=["timers"]) as a:
        assert a.do(kv_set("k", b"before")) == [0]
        with Guest(weir) as b:
            b.send(kv_set("k", b"after"), kv_set("l", b"new"), timer_set(0, 1), TRAP)
            b.raw.fails(1011)
        assert a.get("k") == b"before"
        assert a.get("l") == ABSENT
        a.send(timer_set(1, 2))
        a.hears()
        assert a.hears_id() == 2, "and not 1, which would have been told before"
        clear(a, "k")


def test_ttl(weir):
    with Guest(weir) as a:
        assert a.do(kv_set("k", b"x", ttl=150), kv_set("l", b"x", ttl=(1 << 63) - 1)) == [0, 0]
        assert a.get("k") == b"x"
        begun, watch = time.monotonic(), Watch()
        wait_for("k ends", lambda: a.get("k") == ABSENT)
        assert 0.05 < time.monotonic() - begun and watch.took() < 2
        assert a.get("l") == b"x"
        assert a.do(kv_set("k", b"x", ttl=50)) == [0]
        assert a.do(kv_set("k", b"y", ttl=0)) == [0], "without an end again"
        assert a.do(kv_set("m", b"x", ttl=60)) == [0]
        wait_for("m ends", lambda: a.get("m") == ABSENT)
        assert a.get("k") == b"y"
        clear(a, "k", "l")


def test_the_bound_of_values(weir):
    most = 1000 - KV_ENTRY - 1
    # What fits the output as well: the bound of it is 1000 bytes too.
    with Guest(weir) as a:
        assert a.do(kv_set("k", b"x" * (KV - KV_ENTRY)), kv_set("k", b"x" * (KV - KV_ENTRY - 1)),
                    kv_set("l")) == [LIMIT, 0, LIMIT]
        assert a.do(kv_set("l"), kv_set("k", b"x")) == [LIMIT, 0], "seen as the event left it"
        assert a.do(kv_set("l"), kv_set("l", ttl=-1)) == [0, 0]
        assert a.do(kv_set("k", ttl=-1), kv_set("l", b"x" * (KV - KV_ENTRY - 1))) == [0, 0]
        assert len(a.get("l")) == KV - KV_ENTRY - 1
        clear(a, "l")
    assert ints(weir.post("/http/tight", kv_set("k", b"x" * most)).body) == [0]
    assert ints(weir.post("/http/tight", kv_set("k", ttl=-1)).body) == [0]


def test_an_expired_key_makes_room_once(weir):
    """It is no credit for its own new value beside the room that it made."""
    with Guest(weir) as a:
        big, left = KV * 3 // 5, KV * 2 // 5 - 200
        assert a.do(kv_set("old", b"x" * big, ttl=1), kv_set("kept", b"x" * left)) == [0, 0]
        wait_for("it expires", lambda: a.get("old") == ABSENT)
        failed = len(weir.logs("guest_failed"))
        end = time.monotonic() + 1.2  # expired keys are looked for once a second
        while time.monotonic() < end:
            assert a.do(kv_set("old", b"y" * (big + 500))) == [LIMIT], "it never fits"
        assert a.get("old") == ABSENT
        assert a.do(kv_set("old", b"y" * big)) == [0]
        assert len(weir.logs("guest_failed")) == failed
        clear(a, "kept", "old")


SUSPENDED = 300_000_000


def suspended(weir):
    """A guest has used up slices: it will run for some more."""
    slices = weir.metric("guest_slices_total")
    return weir.wait_metric("guest_slices_total", lambda v: v >= slices + 2)


def test_a_conflict_is_run_again(weir):
    with Guest(weir) as a, Guest(weir) as b, Guest(weir, topics=["t"]) as hears:
        assert b.do(kv_set("k", b"old")) == [0]
        before = weir.metric("guest_conflicts_total")
        a.send(kv_get("k"), spin(SUSPENDED), kv_set("l", b"1"), publish("t", b"once"))
        suspended(weir)
        assert b.do(kv_set("k", b"new")) == [0]
        answer = a.hears()
        assert answer == struct.pack("<q", 3) + b"new" + struct.pack("<qq", 0, 1)
        assert weir.metric("guest_conflicts_total") == before + 1
        assert hears.hears() == b"once"
        hears.silent()
        clear(b, "k", "l")


def test_values_that_fit_no_more_are_a_conflict(weir):
    """A key that another event deletes meanwhile is no room any more, once that was used."""
    with Guest(weir) as a, Guest(weir) as b, Guest(weir, topics=["t"]) as hears:
        most = KV - KV_ENTRY - 1
        assert b.do(kv_set("k", b"x" * most)) == [0]
        before = weir.metric("guest_conflicts_total")
        a.send(kv_set("k", b"x" * (most // 2)), spin(SUSPENDED), publish("t", b"once"))
        suspended(weir)
        assert b.do(kv_set("k", ttl=-1), kv_set("l", b"x" * most)) == [0, 0]
        assert ints(a.hears()) == [LIMIT, 1], "it ran again, and was told"
        assert weir.metric("guest_conflicts_total") == before + 1
        assert hears.hears() == b"once"
        hears.silent()
        assert a.get("k") == ABSENT
        clear(b, "l")


def test_no_conflict_without_a_change_of_what_was_read(weir):
    with Guest(weir) as a, Guest(weir) as b:
        before = weir.metric("guest_conflicts_total")
        a.send(kv_get("k"), spin(SUSPENDED), kv_set("k", b"a"))
        suspended(weir)
        assert b.do(kv_set("l", b"another key")) == [0]
        assert ints(a.hears()) == [ABSENT, 0]
        a.send(spin(SUSPENDED), kv_set("k", b"blind"))
        suspended(weir)
        assert b.do(kv_set("k", b"b")) == [0]
        assert ints(a.hears()) == [0]
        assert b.get("k") == b"blind", "who does not read writes last"
        assert weir.metric("guest_conflicts_total") == before
        clear(b, "k", "l")


def test_a_key_that_was_absent_and_is_there_is_a_conflict(weir):
    with Guest(weir) as a, Guest(weir) as b:
        a.send(kv_get("k"), spin(SUSPENDED))
        suspended(weir)
        assert b.do(kv_set("k", b"1")) == [0]
        assert a.hears() == struct.pack("<q", 1) + b"1"
        clear(b, "k")


def test_conflicts_without_end(weir):
    """After three more attempts the event fails, and nothing of it is applied."""
    before = weir.metric("guest_conflicts_total")
    failed = weir.metric("guest_failed_total", code="GUEST_CONFLICT")
    with Guest(weir) as b, weir.raw() as http:
        body = kv_get("k") + spin(SUSPENDED // 3) + kv_set("l", b"never")
        http.send(f"POST /http/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        n = 0
        while not select.select([http.sock], [], [], 0)[0]:
            n += 1
            assert b.do(kv_set("k", str(n))) == [0]
        problem(http.response(), 503, "GUEST_CONFLICT")
        assert weir.metric("guest_conflicts_total") == before + 3
        assert weir.metric("guest_failed_total", code="GUEST_CONFLICT") == failed + 1
        assert b.get("l") == ABSENT
        assert weir.wait_log("guest_failed", code="GUEST_CONFLICT")["module"] == "v1"
        clear(b, "k")


def test_a_conflict_that_finds_the_queue_full(start):
    """It can't run again: it fails, rather than succeed without its effects."""
    w = start({"limits": {"guests": 8, "guest_queue": 0},
               "modules": {"v1": {**V1, "limits": {**PATIENT, "timers": 100}}},
               "routes": CONFIG["routes"][:1] + [{"path": "/http/v1", "http": {"module": "v1"}}]})
    with Guest(w) as b, w.raw() as c:  # two of a module run at one time
        body = kv_get("k") + spin(SUSPENDED) + kv_set("l", b"lost")
        c.send(f"POST /http/v1 HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        suspended(w)
        long = timer_set(0, -4 * SUSPENDED)  # it runs until after all that follows
        assert min(b.do(kv_set("k", b"1"), *[long] * 80)) >= 0
        w.wait_metric("guests_waiting", 64)
        problem(c.response(), 503, "GUEST_CONFLICT")
        assert w.metric("guest_conflicts_total") == 0
        w.signalled = True  # what is left would take long
        w.kill()


# ---------------------------------------------------------------------------- timers


def test_timers_bring_their_cookie_once(weir):
    with Guest(weir, topics=["timers"]) as a:
        begun = time.monotonic()
        ids = a.do(timer_set(60, 3), timer_set(30, 2), timer_set(0, 1), timer_set(30, 2 ** 62))
        assert len(set(ids)) == 4 and min(ids) > 0
        told = [a.hears_id() for _ in range(3)]
        assert told[0] == 1 and sorted(told[1:]) == [2, 2 ** 62]
        assert time.monotonic() - begun >= 0.03
        assert a.hears_id() == 3
        assert time.monotonic() - begun >= 0.06
        a.silent()
        assert a.do(*[timer_cancel(i) for i in ids]) == [ABSENT] * 4


def test_timers_outlive_the_connection(weir):
    with Guest(weir, topics=["timers", "closing"]) as a:
        with Guest(weir) as b:
            b.do(timer_set(100, 9))
            b.end()
        assert [a.hears_id(), a.hears_id()] == [b.id, 9]


def test_timers_are_cancelled(weir):
    with Guest(weir, topics=["timers"]) as a, Guest(weir) as b, Guest(weir, "/other") as o:
        one, two = a.do(timer_set(50, 1), timer_set(60, 2))
        assert o.do(timer_cancel(one)) == [ABSENT], "it is another module's"
        assert b.do(timer_cancel(one)) == [0]
        assert b.do(timer_cancel(one), timer_cancel(0), timer_cancel(MASK)) == [ABSENT] * 3
        assert a.hears_id() == 2
        a.silent()
        third, = a.do(timer_set(20, 3))
        assert a.do(timer_cancel(third), timer_set(30, 4))[0] == 0
        assert a.hears_id() == 4


def test_a_timer_is_cancelled_in_the_event_that_set_it(weir):
    """Its id is the next one: ids of a module that has the gateway for itself count up."""
    with Guest(weir, topics=["timers"]) as a:
        last, = a.do(timer_set(0, 1))
        assert a.hears_id() == 1
        set_, cancelled, unknown = a.do(timer_set(20, 2), timer_cancel(last + 1), timer_cancel(last))
        assert (set_, cancelled, unknown) == (last + 1, 0, ABSENT)
        a.do(timer_set(40, 3))
        assert a.hears_id() == 3, "and not 2"


def test_the_bound_of_timers(weir):
    assert ints(weir.post("/http/tight", timer_set(-1, 0) + timer_set(366 * 86400000 + 1, 0)).body) == \
        [INVALID] * 2
    with Guest(weir) as a:
        ids = a.do(*[timer_set(3600000, i) for i in range(TIMERS + 1)])
        assert ids[-1] == LIMIT and min(ids[:-1]) > 0
        assert a.do(timer_set(0, 0)) == [LIMIT]
        assert a.do(timer_cancel(ids[0])) == [0]
        assert a.do(timer_set(366 * 86400000, 0))[0] > 0
        assert a.do(timer_set(0, 0)) == [LIMIT]
        last = a.do(topic_next("none"), *[timer_cancel(i) for i in ids[1:-1]])
        assert last == [0] * TIMERS
    assert ints(weir.post("/http/tight", timer_set(1, 1) * 4).body)[3] == LIMIT
    wait_for("they are over", lambda: ints(weir.post("/http/tight", timer_set(0, 1)).body)[0] > 0)


def test_timer_set_needs_on_timer(start):
    """A module without that export can't set one."""
    w = start({"modules": {"m": guest("v1notimer")}, "routes": [{"path": "/m", "http": {"module": "m"}}]})
    assert w.get("/m").body == struct.pack("<q", INVALID)


def test_a_failing_timer_is_logged(weir):
    failed = len(weir.logs("guest_failed"))
    with Guest(weir, topics=["timers"]) as a:
        a.do(timer_set(0, -1), timer_set(20, 5))
        assert a.hears_id() == 5, "what the one that trapped published is dropped"
        lines = weir.wait_logs("guest_failed", n=failed + 1)
        assert lines[-1]["code"] == "GUEST_TRAP" and lines[-1]["module"] == "v1"
        assert "conn_id" not in lines[-1]


# ---------------------------------------------------------------------------- clock and entropy


def test_now(weir):
    with Guest(weir) as a:
        before = time.time()
        now, = a.do(NOW)
        assert before * 1000 - 1 <= now <= time.time() * 1000 + 1


def test_random(weir):
    with Guest(weir) as a:
        seen = {a.ask(random(32)) for _ in range(5)}
        assert len(seen) == 5
        assert all(x[:8] == struct.pack("<q", 32) and len(x) == 40 for x in seen)
        assert a.do(random(0)) == [0]
        assert len(a.ask(random(65536))) == 8 + 65536
        assert a.do(random(65537)) == [LIMIT]


# ---------------------------------------------------------------------------- slow readers


def fill(g):
    """Another one sends it messages until one does not fit, as it does not read. Those that did."""
    with Guest(g.weir) as other:
        n = 0
        while other.do(buffered(g.id))[0] <= QUEUE - 50100:
            assert other.do(zeroes(g.id, 50000))[0] >= 0
            n += 1
        return n


def read_zeroes(g, n):
    for _ in range(n):
        assert len(g.hears()) == 50000


def test_buffered(weir):
    with Guest(weir) as a, Guest(weir, "/other") as o:
        assert a.do(buffered(a.id), buffered(o.id), buffered(12345)) == [0, GONE, GONE]
        a.send(zeroes(a.id, 1000), buffered(a.id), zeroes(a.id, 10), buffered(a.id))
        assert len(a.hears()) == 1000 and len(a.hears()) == 10
        assert ints(a.hears()) == [0, 1004, 0, 1016]


def test_drain_is_told_once(weir):
    with Guest(weir, topics=["drains"]) as hears, Guest(weir, rcvbuf=4096) as a:
        for _ in range(2):
            n = fill(a)
            with Guest(weir) as other:
                assert other.do(zeroes(a.id, 50000), zeroes(a.id, QUEUE + 1)) == [LIMIT, LIMIT]
            hears.silent()
            read_zeroes(a, n)
            assert hears.hears_id() == a.id
            hears.silent()
        a.silent()


def test_no_drain_after_the_end(weir):
    with Guest(weir, topics=["drains", "closing"]) as hears, Guest(weir, rcvbuf=4096) as a:
        fill(a)
        a.raw.reset()
        while hears.hears_id() != a.id:
            pass
        hears.silent()


def test_drain_waits_for_the_connections_own_event(weir):
    """Events of a connection run one at a time; and it is told though nothing else happens."""
    with Guest(weir, topics=["drains"]) as hears, Guest(weir, rcvbuf=4096) as a:
        a.send(QUIET, spin(2 * SUSPENDED), publish("drains", b"8 bytes."))
        suspended(weir)
        n = fill(a)
        read_zeroes(a, n)
        assert hears.hears() == b"8 bytes."
        assert hears.hears_id() == a.id
        hears.silent()


# ---------------------------------------------------------------------------- limits


def test_output_is_bounded(weir):
    body = lambda *script: ints(weir.post("/http/tight", b"".join(script)).body)  # noqa: E731
    big = b"x" * 990
    assert body(publish("t", big)) == [0]
    assert body(publish("t", big), publish("t", big)) == [0, LIMIT]
    assert body(publish("t", b"x" * 1000)) == [LIMIT]
    with Guest(weir, "/tight") as a:
        assert a.do(zeroes(a.id, 1001)) == [LIMIT]


def test_effects_are_bounded(weir):
    n = 1024
    results = ints(weir.post("/http/v1", kv_set("k", ttl=-1) * (n + 1)).body)
    assert results == [0] * n + [LIMIT]


def test_host_calls_are_bounded(weir):
    failed = weir.metric("guest_failed_total", code="GUEST_CALLS")
    with Guest(weir, "/tight") as a:
        a.do(calls(40))
        a.send(kv_set("calls", b"1"), calls(60))
        a.raw.fails(1011)
    with Guest(weir, "/tight") as a:
        assert a.get("calls") == ABSENT
    problem(weir.post("/http/tight", calls(60)), 500, "GUEST_CALLS")
    assert weir.metric("guest_failed_total", code="GUEST_CALLS") == failed + 2


def test_table_elements_are_bounded(weir):
    with Guest(weir, "/tight") as a, Guest(weir) as free:
        assert a.do(grow(5), grow(4), grow(1)) == [-1, 1, -1]
        assert free.do(grow(5), grow(19994), grow(1)) == [1, 6, -1]


def throttle(weir, g):
    """Uses up its module's time of this second, and asks for its id: the answer has to wait."""
    before = weir.metric("guest_throttled_total")

    def used_up():
        return weir.metric("guest_throttled_total") > before

    g.send(spin(CPU_STEP))
    while not used_up():
        if select.select([g.raw.sock], [], [], 0)[0]:
            assert g.hears() == b""
            g.send(spin(CPU_STEP))
    g.send(ME)


def throttled_answer(g):
    answer = g.hears() or g.hears()  # the last of what used it up may have waited as well
    assert struct.unpack("<Q", answer)[0] == g.id


CPU_STEP = 10_000_000


def test_cpu_of_a_module(weir):
    """Past its time of a second it waits for the next one, while others run and nobody spins."""
    with Guest(weir, "/busy") as busy, Guest(weir) as other:
        answers = 0
        for _ in range(5):  # one that comes late in its second waits for next to nothing
            throttle(weir, busy)
            answers = 0
            while not select.select([busy.raw.sock], [], [], 0)[0]:
                other.silent()
                answers += 1
            throttled_answer(busy)
            if answers >= 20:
                break
        assert answers >= 20, "others ran while it waited"
        pid = weir.worker_pid()
        for _ in range(5):
            throttle(weir, busy)
            cpu, slept, begun, watch = cpu_seconds(pid), switches(pid), time.monotonic(), Watch()
            throttled_answer(busy)
            if time.monotonic() - begun > 0.2:
                break
        assert 0.2 < time.monotonic() - begun and watch.took() < 3
        assert cpu_seconds(pid) - cpu <= 0.1
        assert switches(pid) - slept < 60


# ---------------------------------------------------------------------------- allow

ALL = ["ws", "topics", "http", "kv", "timers", "time", "random", "log"]


def checked(tmp_path, cache, allow):
    file = tmp_path / "weir.yaml"
    file.write_text(f"cache: {cache}\nlisten: [{{address: '127.0.0.1:1'}}]\n"
                    f"modules:\n  v1: {{path: {guest('v1')}, allow: [{', '.join(allow)}]}}\n")
    return file, run_cli("check", file)


def test_allow_by_group_and_by_name(tmp_path, cache):
    assert checked(tmp_path, cache, ALL)[1].returncode == 0
    by_name = ["ws", "ws_subscribe", "ws_unsubscribe", "publish", "topic_next", "http", "kv_get", "kv_set",
               "timers", "now_ms", "random", "log", "wasi"]
    assert checked(tmp_path, cache, by_name)[1].returncode == 0


@pytest.mark.parametrize("without, names", [
    ("ws", "msg_read"), ("topics", "ws_subscribe"), ("http", "req_body"), ("kv", "kv_get"),
    ("timers", "timer_set"), ("time", "now_ms"), ("random", "random"), ("log", "log")])
def test_what_allow_does_not_list_is_refused(tmp_path, cache, without, names):
    file, r = checked(tmp_path, cache, [x for x in ALL if x != without])
    assert r.returncode != 0
    assert f"weir_v1.{names}, which its allow: does not list" in r.stdout + r.stderr
    if without == "kv":
        r = refuses_to_serve(file, timeout=15)
        assert r.returncode != 0
        assert f"weir_v1.{names}" in r.stdout + r.stderr


def test_allow_of_nothing_and_of_what_is_unknown(tmp_path, cache):
    r = checked(tmp_path, cache, [])[1]
    assert r.returncode != 0 and "weir_v1." in r.stdout + r.stderr
    r = checked(tmp_path, cache, ["ws", "everything"])[1]
    assert r.returncode != 0 and "everything" in r.stdout + r.stderr
