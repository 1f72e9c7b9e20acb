"""WebSocket guests: what each event brings, and that its effects are applied all or not at all."""
import re
import struct
import threading

import pytest

from weir import BINARY, Frame, GUEST_SAYS, PING, PONG, TEXT, close, frame, guest, handshake, problem, rounds

LIMIT, GONE, INVALID, ABSENT = -1, -2, -3, -4
WS = {"path": guest("ws"), "limits": {"deadline": "100ms", "timeout": "30s"}}
CONFIG = {
    "log_level": "debug",
    "limits": {"message": "64KiB", "send_queue": "256KiB", "attachment": "16KiB", "close_timeout": "300ms"},
    "modules": {
        "ws": WS,
        "other": WS,
        "patient": {"path": guest("ws"), "limits": {"deadline": "30s", "timeout": "60s"}},
        "portable": {**WS, "engine": "pulley"},
        "hs": {"path": guest("hs"), "limits": {"deadline": "50ms", "timeout": "5s"}},
        "closer": {"path": guest("closer"), "limits": {"deadline": "50ms"}},
        "mute": guest("mute"),
    },
    "routes": [
        {"path": "/ws", "websocket": {"module": "ws"}},
        {"path": "/ws/again", "websocket": {"module": "ws"}},
        {"path": "/other", "websocket": {"module": "other"}},
        {"path": "/patient", "websocket": {"module": "patient"}},
        {"path": "/portable", "websocket": {"module": "portable"}},
        {"path": "/hs", "websocket": {"module": "hs"}},
        {"path": "/hs/*", "websocket": {"module": "hs", "subprotocols": ["route.weir"]}},
        {"path": "/closer", "websocket": {"module": "closer"}},
        {"path": "/mute", "websocket": {"module": "mute"}},
        {"path": "/raw", "websocket": {"handler": "echo"}},
    ],
}


def u32(n):
    return struct.pack("<I", n & 0xffffffff)


def u64(n):
    return struct.pack("<Q", n & 0xffffffffffffffff)


class Guest:
    """A connection to ws.wat."""

    def __init__(self, weir, path="/ws"):
        self.weir, self.raw = weir, weir.ws(path)
        self.id = struct.unpack("<Q", self.ask(b"I"))[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.raw.close()

    def send(self, *parts):
        self.raw.send(frame(BINARY, b"".join(parts)))
        return self

    def ask(self, *parts):
        """One command, its one binary answer."""
        self.send(*parts)
        opcode, data = self.raw.message()
        assert opcode == BINARY
        return data

    def result(self, *parts):
        return struct.unpack("<i", self.ask(*parts))[0]

    @property
    def hex(self):
        return f"{self.id:016x}"

    def closes(self, n=1):
        """What on_ws_close logged for this connection."""
        return [x["text"] for x in self.weir.wait_logs(GUEST_SAYS, n=n, conn_id=self.hex,
                                                       where=lambda x: x["text"].startswith("close "))]

    def closed_once(self, text):
        """on_ws_close ran with that text; and not again until another connection's ran."""
        assert self.closes() == [text]
        with Guest(self.weir) as later:
            later.raw.send(close(1000))
            later.raw.close_frame(1000)
        later.closes()
        assert self.closes() == [text]


ENGINES = pytest.mark.parametrize("path", ["/ws", "/portable"])

# ---------------------------------------------------------------------------- messages


@ENGINES
def test_kind_and_length(weir, path):
    with Guest(weir, path) as g:
        for opcode in (TEXT, BINARY):
            for n in (1, 2, 125, 126, 65535, 65536):
                g.raw.send(frame(opcode, b"K" * n))
                assert struct.unpack("<3i", g.raw.message()[1]) == (opcode, n, n)
        g.raw.send(frame(TEXT, b"eh\xc3\xa9llo"))
        assert g.raw.message() == (TEXT, b"h\xc3\xa9llo")
        g.raw.send(frame(BINARY, b"e\xff"))
        assert g.raw.message() == (BINARY, b"\xff")
        g.raw.send(frame(TEXT, b"e"))
        assert g.raw.message() == (TEXT, b"")


def test_empty_message_reaches_the_guest(weir):
    """Length 0: msg_read returns 0. The guest finds no command in it and answers nothing."""
    events = weir.metric("guest_events_total")
    with Guest(weir) as g:
        g.raw.send(frame(TEXT, b"") + frame(BINARY, b""))
        assert g.result(b"A") == 0
    assert weir.metric("guest_events_total") >= events + 4


def test_fragments_are_one_event(weir):
    with Guest(weir) as g:
        g.raw.send(frame(TEXT, b"K", fin=False) + frame(0, b"x" * 9, fin=False) + frame(PING, b"p") + frame(0, b"y"))
        assert g.raw.frame() == Frame(True, PONG, b"p")
        assert struct.unpack("<3i", g.raw.message()[1]) == (TEXT, 11, 11)


def test_msg_read_into_too_small_a_buffer(weir):
    """It returns the full length and writes nothing."""
    with Guest(weir) as g:
        message = (b"m", u32(6), b"abc")
        assert g.result(*message) == 8
        assert g.raw.message() == (BINARY, b"marked")
        g.send(b"m", u32(8), b"abc")
        assert g.raw.message()[1] == u32(8)
        assert g.raw.message() == (BINARY, b"m" + u32(8) + b"a")
        assert g.result(b"m", u32(0), b"abc") == 8
        assert g.raw.message() == (BINARY, b"marked")


@ENGINES
def test_fresh_instance_for_each_message(weir, path):
    """Neither a global nor memory, nor its size, keeps anything from one message to the next; nor
    from one connection to another."""
    with Guest(weir, path) as a, Guest(weir, path) as b:
        for _ in range(100):
            assert a.ask(b"G") == b"\x01\x01\x00\x00"
            assert b.ask(b"G") == b"\x01\x01\x00\x00"
        a.raw.send(frame(BINARY, b"G") * 200)
        for _ in range(200):
            assert a.raw.message() == (BINARY, b"\x01\x01\x00\x00")


def test_order_is_kept_behind_a_slow_event(weir):
    """Events of one connection run one at a time, in order, though the first needs many slices."""
    with Guest(weir, "/patient") as g:
        g.raw.send(frame(BINARY, b"N" + u32(rounds(60000000)) + b"slow") +
                   b"".join(frame(BINARY, b"e" + str(i).encode()) for i in range(200)) +
                   frame(BINARY, b"N" + u32(rounds(20000000)) + b"slow again") + frame(BINARY, b"elast"))
        assert g.raw.message() == (BINARY, b"slow")
        for i in range(200):
            assert g.raw.message() == (BINARY, str(i).encode())
        assert g.raw.message() == (BINARY, b"slow again")
        assert g.raw.message() == (BINARY, b"last")


def test_a_slow_event_does_not_hold_up_other_connections(weir):
    with Guest(weir, "/patient") as slow, Guest(weir, "/patient") as same, Guest(weir) as other:
        slow.send(b"N", u32(rounds(300000000)), b"slow")
        weir.wait_metric("guests_running", 1)
        for _ in range(5):
            assert same.ask(b"equick") == b"quick"
            assert other.ask(b"equick") == b"quick"
        assert weir.metric("guests_running") == 1, "the slow one still runs"
        assert slow.raw.message() == (BINARY, b"slow")


def test_many_connections_at_once(weir):
    """More events than guests may run: the rest wait, none is lost or mixed up."""
    guests = [Guest(weir) for _ in range(100)]
    for g in guests:
        g.raw.send(b"".join(frame(BINARY, b"N" + u32(20000) + f"{g.id}:{i}".encode()) for i in range(20)))
    for g in guests:
        for i in range(20):
            assert g.raw.message() == (BINARY, f"{g.id}:{i}".encode())
        g.raw.close()


def test_a_module_without_on_ws_message_swallows(weir):
    with weir.ws("/mute") as c:
        c.send(frame(TEXT, "x") + frame(PING, "p"))
        assert c.frame() == Frame(True, PONG, b"p")
        c.send(close(1000))
        c.close_frame(1000)
        c.closed()


# ---------------------------------------------------------------------------- sending


def test_send_to_another_connection(weir):
    with Guest(weir) as a, Guest(weir, "/ws/again") as b:
        assert a.result(b"S", u64(b.id), u32(BINARY), b"for b") == 0
        assert b.raw.message() == (BINARY, b"for b")
        assert b.result(b"S", u64(a.id), u32(TEXT), "f\u00fcr a".encode()) == 0
        assert a.raw.message() == (TEXT, "f\u00fcr a".encode())


def test_send_to_oneself_comes_in_order(weir):
    with Guest(weir) as g:
        g.send(b"S", u64(g.id), u32(TEXT), b"first")
        assert g.raw.message() == (TEXT, b"first")
        assert g.raw.message() == (BINARY, u32(0))


def test_ids_are_opaque_but_not_zero_and_not_shared(weir):
    with Guest(weir) as a, Guest(weir) as b, Guest(weir, "/other") as c:
        assert len({a.id, b.id, c.id, 0}) == 4


def test_send_to_one_that_has_gone(weir):
    with Guest(weir) as a:
        b = Guest(weir)
        b.raw.send(close(1000))
        b.raw.close_frame(1000)
        b.raw.close()
        b.closes()
        assert a.result(b"S", u64(b.id), u32(BINARY), b"x") == GONE
        with Guest(weir) as again:  # it may have the slot of b, but not its id
            assert again.id != b.id
            assert a.result(b"S", u64(b.id), u32(BINARY), b"x") == GONE


@pytest.mark.parametrize("forge", [
    lambda g: 0, lambda g: -1, lambda g: g.id + 1, lambda g: g.id ^ 1 << 32, lambda g: g.id ^ 1 << 63, lambda g: g.id ^ 1 << 56,
    lambda g: g.id ^ 0xffffff << 32, lambda g: g.id & 0xffffffff, lambda g: g.id >> 32, lambda g: 1, lambda g: 0xffffff << 32 | 1,
    lambda g: g.id ^ 1 << 31], ids=range(12))
def test_forged_ids(weir, forge):
    with Guest(weir) as g:
        assert g.result(b"S", u64(forge(g)), u32(BINARY), b"x") == GONE
        assert g.result(b"C", u64(forge(g)), u32(1000)) == GONE
        assert g.result(b"a", u64(forge(g)), u32(100)) == GONE
        assert g.raw.message() == (BINARY, b"marked")


def test_another_modules_connection_is_out_of_reach(weir):
    with Guest(weir) as a, Guest(weir, "/other") as b, weir.ws("/raw") as c:
        assert b.result(b"Asecret") == 0
        assert a.result(b"S", u64(b.id), u32(BINARY), b"x") == GONE
        assert a.result(b"C", u64(b.id), u32(1000)) == GONE
        assert a.result(b"a", u64(b.id), u32(100)) == GONE
        assert a.raw.message() == (BINARY, b"marked")
        assert b.ask(b"e1") == b"1", "nothing came, and it is open"
        c.send(frame(TEXT, "x"))
        assert c.frame() == Frame(True, TEXT, b"x")


@pytest.mark.parametrize("kind,data", [(0, b"x"), (3, b"x"), (8, b"x"), (9, b"x"), (257, b"x"), (-1, b"x"),
                                       (1, b"\xff"), (1, b"\xc3"), (1, b"ok\xed\xa0\x80"), (1, b"\xc0\x80")], ids=repr)
def test_invalid_kind_or_utf8(weir, kind, data):
    with Guest(weir) as g:
        assert g.result(b"S", u64(g.id), u32(kind), data) == INVALID
        assert g.ask(b"eafter") == b"after", "nothing was sent but the result"


@pytest.mark.parametrize("code,reason", [
    (0, b""), (999, b""), (1004, b""), (1005, b""), (1006, b""), (1015, b""), (1016, b""), (2999, b""), (5000, b""), (70536, b""),
    (-1, b""), (1000, b"\xff"), (1000, b"r" * 124)], ids=repr)
def test_invalid_close(weir, code, reason):
    with Guest(weir) as g:
        assert g.result(b"C", u64(g.id), u32(code), reason) == INVALID
        assert g.ask(b"eopen") == b"open"


@pytest.mark.parametrize("code,reason", [(1000, b""), (1001, b"away"), (1011, b"r" * 123), (3000, "\u00e9".encode()), (4999, b"x")])
def test_ws_close(weir, code, reason):
    """What was sent before goes out first, what is sent after it does not."""
    with Guest(weir) as g:
        g.send(b"D", u32(code), reason)
        assert g.raw.message() == (TEXT, reason)
        g.raw.close_frame(code, reason.decode())
        g.raw.send(close(code))
        g.raw.closed()
        assert g.closes()[0].startswith(f"close code={code} ")


def test_ws_close_of_another_connection(weir):
    with Guest(weir) as a, Guest(weir) as b:
        assert a.result(b"C", u64(b.id), u32(4321), b"by a") == 0
        b.raw.close_frame(4321, "by a")
        assert a.result(b"S", u64(b.id), u32(BINARY), b"x") == GONE, "it is closing"
        b.raw.send(close(4321))
        b.raw.closed()
        assert b.closes()[0].startswith("close code=4321 ")


@pytest.mark.parametrize("code", [1000, 1008, 3000, 4001, 4999])
def test_return_value_closes_after_the_effects(weir, code):
    with Guest(weir) as g:
        g.send(b"R", u32(code), b"parting")
        assert g.raw.message() == (TEXT, b"parting")
        g.raw.close_frame(code)
        g.raw.send(close(code))
        g.raw.closed()
        assert g.closes()[0].startswith(f"close code={code} ")


def test_what_comes_after_a_guests_close_is_not_an_event(weir):
    with Guest(weir) as g:
        g.raw.send(frame(BINARY, b"R" + u32(4001) + b"bye") + frame(BINARY, b"enever"))
        assert g.raw.message() == (TEXT, b"bye")
        g.raw.close_frame(4001)
        g.raw.closed()


def test_send_queue_limit_and_high_mark(weir):
    """0 up to half of send_queue, 1 above, -1 beyond it; what was taken is delivered."""
    with Guest(weir) as g:
        g.send(b"B", u32(6), u32(60000))
        for _ in range(4):
            assert g.raw.message() == (BINARY, bytes(60000))
        assert struct.unpack("<6i", g.raw.message()[1]) == (0, 0, 1, 1, LIMIT, LIMIT)
        assert g.ask(b"eopen") == b"open"


def test_output_limit(start):
    """A module's limits.output bounds an event's effects: the rest is refused with -1."""
    w = start({"limits": {"send_queue": "1MiB"},
               "modules": {"ws": {"path": guest("ws"), "limits": {"output": "100KiB"}}},
               "routes": [{"path": "/ws", "websocket": {"module": "ws"}}]})
    with Guest(w) as g:
        g.send(b"B", u32(5), u32(30000))
        for _ in range(3):
            assert g.raw.message() == (BINARY, bytes(30000))
        assert struct.unpack("<5i", g.raw.message()[1]) == (0, 0, 0, LIMIT, LIMIT)


def test_effects_wait_for_the_events_end(weir):
    """What was sent at the start of a long event is delivered when it has ended, not before."""
    with Guest(weir, "/patient") as g:
        g.send(b"Z", u32(rounds(100000000)), b"early")
        weir.wait_metric("guests_running", 1)
        sent = weir.metric("messages_sent_total")
        assert weir.metric("guests_running") == 1 and g.raw.buf == b""
        assert g.raw.message() == (BINARY, b"early")
        assert weir.metric("messages_sent_total") == sent + 1
        assert weir.metric("guests_running") == 0


# ---------------------------------------------------------------------------- attachments


def test_attachment_lives_from_message_to_message(weir):
    with Guest(weir) as g:
        assert g.result(b"a", u64(g.id), u32(100)) == ABSENT
        assert g.raw.message() == (BINARY, b"marked")
        assert g.result(b"Afirst") == 0
        assert g.result(b"a", u64(g.id), u32(100)) == 5
        assert g.raw.message() == (BINARY, b"first")
        assert g.result(b"A\x00\xff longer than before") == 0
        assert g.result(b"a", u64(g.id), u32(100)) == 21
        assert g.raw.message() == (BINARY, b"\x00\xff longer than before")
        assert g.result(b"A") == 0
        assert g.result(b"a", u64(g.id), u32(100)) == 0
        assert g.raw.message() == (BINARY, b"")


def test_attachment_into_too_small_a_buffer(weir):
    with Guest(weir) as g:
        assert g.result(b"A1234567") == 0
        assert g.result(b"a", u64(g.id), u32(6)) == 7
        assert g.raw.message() == (BINARY, b"marked")
        assert g.result(b"a", u64(g.id), u32(7)) == 7
        assert g.raw.message() == (BINARY, b"1234567")


def test_an_event_reads_its_own_attachment(weir):
    with Guest(weir) as g:
        assert g.result(b"Aold") == 0
        assert g.ask(b"rnew") == b"new"
        assert g.result(b"a", u64(g.id), u32(100)) == 3
        assert g.raw.message() == (BINARY, b"new")


def test_attachment_of_another_connection(weir):
    """Any connection of the module may be read; each has its own."""
    with Guest(weir) as a, Guest(weir, "/ws/again") as b:
        assert a.result(b"Aof a") == 0
        assert b.result(b"a", u64(b.id), u32(100)) == ABSENT
        assert b.raw.message() == (BINARY, b"marked")
        assert b.result(b"a", u64(a.id), u32(100)) == 4
        assert b.raw.message() == (BINARY, b"of a")


def test_attachment_limit(weir):
    with Guest(weir) as g:
        assert g.result(b"A" + b"x" * 16384) == 0
        assert g.result(b"A" + b"y" * 16385) == LIMIT
        assert g.result(b"a", u64(g.id), u32(60000)) == 16384
        assert g.raw.message() == (BINARY, b"x" * 16384)


def test_attachment_limit_is_configurable(start):
    w = start({"limits": {"attachment": "10"}, "modules": {"ws": guest("ws")},
               "routes": [{"path": "/ws", "websocket": {"module": "ws"}}]})
    with Guest(w) as g:
        assert g.result(b"A0123456789") == 0
        assert g.result(b"A0123456789x") == LIMIT


def test_a_new_connection_has_no_old_attachment(weir):
    for _ in range(10):
        with Guest(weir) as g:
            assert g.result(b"a", u64(g.id), u32(100)) == ABSENT
            assert g.raw.message() == (BINARY, b"marked")
            assert g.result(b"Aleft behind") == 0
        g.closes()


# ---------------------------------------------------------------------------- failures


@ENGINES
def test_a_trap_delivers_nothing_and_closes_with_1011(weir, path):
    traps = weir.metric("guest_traps_total")
    with Guest(weir, path) as g:
        assert g.result(b"Aold") == 0
        g.raw.send(frame(BINARY, b"Tnever seen") + frame(BINARY, b"eafter"))
        g.raw.close_frame(1011)
        g.raw.send(close(1011))
        g.raw.closed()
        text = g.closes()[0]
        assert text.startswith("close code=1011 ")
        assert text.endswith(" attached=3"), "the attachment of the failed event was dropped too"
    assert weir.metric("guest_traps_total") == traps + 1
    log = weir.wait_log("guest_failed", conn_id=g.hex, code="GUEST_TRAP")
    assert log["module"] in ("ws", "portable") and log["level"] == "warn"


def test_a_trap_sends_nothing_to_others(weir):
    with Guest(weir) as a, Guest(weir) as b:
        a.send(b"X", u64(b.id), b"never seen")
        a.raw.close_frame(1011)
        assert b.ask(b"eafter") == b"after"


@ENGINES
def test_a_deadline_delivers_nothing_and_closes_with_1011(weir, path):
    ended = weir.metric("guest_deadlines_total")
    with Guest(weir, path) as g, Guest(weir, path) as other:
        g.send(b"Lnever seen")
        g.raw.close_frame(1011)
        g.raw.send(close(1011))
        g.raw.closed()
        assert g.closes()[0].startswith("close code=1011 ")
        assert other.ask(b"efine") == b"fine"
    assert weir.metric("guest_deadlines_total") == ended + 1
    weir.wait_log("guest_failed", conn_id=g.hex, code="GUEST_DEADLINE")


@ENGINES
@pytest.mark.parametrize("which", range(10))
def test_a_pointer_outside_of_memory_traps(weir, path, which):
    """msg_read, ws_send, ws_close, ws_attachment_get and _set, req_get (both pointers), log; a sum that
    wraps; a capacity that wraps."""
    with Guest(weir, path) as g:
        g.send(b"P", bytes([which]))
        g.raw.close_frame(1011)
        log = weir.wait_log("guest_failed", conn_id=g.hex, code="GUEST_TRAP")
        assert "outside" in log["detail"], "the function's name"


def test_such_a_trap_says_what_it_is(weir):
    with Guest(weir) as g:
        g.send(b"P", b"\0")
        g.raw.close_frame(1011)
        log = weir.wait_log("guest_failed", conn_id=g.hex, code="GUEST_TRAP")
        assert "out of bounds" in str(log).lower().replace("_", " ")


def test_the_last_bytes_of_memory_are_inside(weir):
    with Guest(weir) as g:
        g.send(b"P", bytes([10]))
        assert g.raw.message() == (TEXT, b"marked")
        assert g.raw.message() == (BINARY, bytes(4))
        assert g.ask(b"eopen") == b"open"


def test_traps_do_no_harm_to_others(weir):
    with Guest(weir) as steady:
        for _ in range(30):
            with Guest(weir) as g:
                g.send(b"T")
                g.raw.close_frame(1011)
            assert steady.ask(b"efine") == b"fine"


# ---------------------------------------------------------------------------- on_ws_close


def test_close_by_the_peer(weir):
    with Guest(weir) as g:
        assert g.result(b"Aabc") == 0
        g.raw.send(close(1000, b"bye"))
        g.raw.close_frame(1000)
        g.raw.closed()
        g.closed_once("close code=1000 clean=1 attached=3")


def test_close_by_the_peer_with_its_own_code(weir):
    with Guest(weir) as g:
        g.raw.send(close(4711))
        g.raw.close_frame(4711)
        g.raw.closed()
        g.closed_once("close code=4711 clean=1 attached=-4")


def test_close_by_the_peer_without_a_code(weir):
    with Guest(weir) as g:
        g.raw.send(close())
        g.raw.close_frame(None)
        g.raw.closed()
        g.closed_once("close code=1005 clean=1 attached=-4")


def test_close_by_a_reset(weir):
    g = Guest(weir)
    g.raw.reset()
    g.closed_once("close code=1006 clean=0 attached=-4")


def test_close_by_an_end_without_a_close_frame(weir):
    g = Guest(weir)
    g.raw.close()
    g.closed_once("close code=1006 clean=0 attached=-4")


def test_close_by_a_trap(weir):
    with Guest(weir) as g:
        g.send(b"T")
        g.raw.close_frame(1011)
        g.raw.reset()
        g.closed_once("close code=1011 clean=0 attached=-4")


def test_close_by_a_protocol_error(weir):
    with Guest(weir) as g:
        g.raw.send(frame(TEXT, b"x", rsv=4))
        g.raw.close_frame(1002)
        g.raw.closed()
        g.raw.close()
        g.closed_once("close code=1002 clean=0 attached=-4")


def test_close_by_bad_utf8(weir):
    with Guest(weir) as g:
        g.raw.send(frame(TEXT, b"\xff"))
        g.raw.close_frame(1007)
        g.raw.close()
        g.closed_once("close code=1007 clean=0 attached=-4")


def test_close_by_too_big_a_message(weir):
    with Guest(weir) as g:
        g.raw.send(frame(TEXT, b"", length=65537))
        g.raw.close_frame(1009)
        g.raw.close()
        g.closed_once("close code=1009 clean=0 attached=-4")


def test_close_by_the_guest_answered_by_the_peer(weir):
    """Both close frames were exchanged: clean."""
    with Guest(weir) as g:
        g.send(b"R", u32(4001), b"bye")
        g.raw.message()
        g.raw.close_frame(4001)
        g.raw.send(close(4001))
        g.raw.closed()
        g.raw.close()
        g.closed_once("close code=4001 clean=1 attached=-4")


def test_close_by_the_guest_not_answered(weir):
    """The peer neither answers nor ends: after close_timeout it is cut, and that was not clean."""
    with Guest(weir) as g:
        g.send(b"R", u32(4001), b"bye")
        g.raw.message()
        g.raw.close_frame(4001)
        g.closed_once("close code=4001 clean=0 attached=-4")


def test_close_while_an_event_runs(weir):
    """The peer leaves amid a long event: on_ws_close runs after it, once."""
    skipped = weir.metric("sends_skipped_total")
    g = Guest(weir, "/patient")
    g.send(b"Z", u32(rounds(100000000)), b"unheard")
    weir.wait_metric("guests_running", 1)
    g.raw.reset()
    g.closed_once("close code=1006 clean=0 attached=-4")
    weir.wait_metric("guests_running", 0)
    assert weir.metric("sends_skipped_total") == skipped + 1, "its message had no receiver any more"


def test_close_at_shutdown(start):
    """1001 for all, and on_ws_close exactly once for each."""
    w = start({**CONFIG, "drain": "5s"})
    guests = [Guest(w) for _ in range(20)]
    idle = Guest(w)
    w.signal()
    for g in guests:
        g.raw.close_frame(1001)
        g.raw.send(close(1001))
        g.raw.closed()
        g.raw.close()
    idle.raw.close_frame(1001)
    idle.raw.close()
    assert w.wait_exit() == 0
    for g in guests:
        assert g.closes() == ["close code=1001 clean=1 attached=-4"]
    assert [x.startswith("close code=1001 ") for x in idle.closes()] == [True]


def test_on_ws_close_that_fails_is_logged(weir):
    """A trap or a deadline in on_ws_close: a log line, nothing else."""
    for code, error in ((1000, "GUEST_TRAP"), (1001, "GUEST_DEADLINE")):
        n = len(weir.logs("guest_failed", module="closer", code=error))
        with weir.ws("/closer") as c:
            c.send(close(code))
            c.close_frame(code)
            c.closed()
        log = weir.wait_logs("guest_failed", n=n + 1, module="closer", code=error)[-1]
        assert "gone" in log["detail"], "the function's name"
    weir.wait_metric("guests_running", 0)


# ---------------------------------------------------------------------------- the handshake


def shake(weir, query, extra="", path="/hs"):
    c = weir.raw()
    c.send(handshake(f"{path}?{query}", extra))
    return c, c.response()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_handshake_refused_by_the_guest(weir, status):
    mark = len(weir.logs(GUEST_SAYS, module="hs"))
    c, r = shake(weir, f"r{status}")
    assert r.status == status and r.headers.get("sec-websocket-accept") is None
    c.send(handshake("/hs?H"))
    assert c.response().status == 101, "the connection goes on"
    assert c.message() == (TEXT, b"hello")
    c.close()
    texts = [x["text"] for x in weir.wait_logs(GUEST_SAYS, n=mark + 4, module="hs")[mark:]]
    assert texts == ["handshake", "handshake", "open", "close"], "neither open nor close for the refused one"


def test_handshake_adds_a_field(weir):
    c, r = shake(weir, "h")
    assert r.status == 101
    assert (r.headers.get("x-guest"), r.headers.get("x-result")) == ("hello", "0")
    c.close()


def test_handshake_may_not_set_what_the_gateway_sets(weir):
    c, r = shake(weir, "c")
    assert r.status == 101 and r.headers.get("x-result") == "3"
    assert r.headers.get("content-length") is None
    c.send(frame(TEXT, "x"))
    assert c.message() == (TEXT, b"x")
    c.close()


def test_handshake_has_no_body(weir):
    c, r = shake(weir, "w")
    assert r.status == 101 and r.headers.get("x-result") == "3"
    c.close()


@pytest.mark.parametrize("offer,chosen,result", [
    ("a.weir, b.weir", "b.weir", "0"), ("a.weir", "a.weir", "0"), ("b.weir", "a.weir", "3"), (None, "a.weir", "3"),
    ("a.weir2", "a.weir", "3"), ("A.WEIR", "a.weir", "3")])
def test_handshake_chooses_a_subprotocol_that_was_offered(weir, offer, chosen, result):
    c, r = shake(weir, "p" + chosen, f"Sec-WebSocket-Protocol: {offer}\r\n" if offer else "")
    assert r.status == 101
    assert r.headers.get("x-result") == result
    assert r.headers.get("sec-websocket-protocol") == (chosen if result == "0" else None)
    c.close()


def test_handshake_has_one_subprotocol(weir):
    """The guest's choice, or the route's; never both lines."""
    c, r = shake(weir, "pb.weir", "Sec-WebSocket-Protocol: route.weir, b.weir\r\n", path="/hs/x")
    assert r.status == 101
    assert r.headers.get("sec-websocket-protocol") == "b.weir"
    c.close()


@pytest.mark.parametrize("query,status,code", [("t", 500, "GUEST_TRAP"), ("l", 504, "GUEST_DEADLINE")])
def test_handshake_fails(weir, query, status, code):
    c, r = shake(weir, query)
    problem(r, status, code)
    assert r.headers.get("sec-websocket-accept") is None
    c.close()


def test_handshake_may_not_attach(weir):
    """There is no WebSocket yet: -2."""
    c, r = shake(weir, "a")
    assert r.status == 101 and r.headers.get("x-result") == "2"
    c.close()


FIELDS = [("0", "GET"), ("1", "/hs"), ("2", None), ("3X-Test", "one"), ("3x-test", "one"), ("3host", "weir.test"),
          ("6", "a.weir, b.weir")]
EXTRA = "X-Test: one\r\nSec-WebSocket-Protocol: a.weir, b.weir\r\n"


@pytest.mark.parametrize("field,value", FIELDS)
def test_req_get_in_the_handshake(weir, field, value):
    query = "f" + field
    c, r = shake(weir, query, EXTRA)
    assert r.status == 101
    assert r.headers.get("x-field") == (value if value is not None else query)
    c.close()


@pytest.mark.parametrize("field,value", FIELDS)
def test_req_get_in_open(weir, field, value):
    query = "F" + field
    c, r = shake(weir, query, EXTRA)
    assert r.status == 101
    assert c.message() == (TEXT, (value if value is not None else query).encode())
    c.close()


def test_req_get_peer(weir):
    c, r = shake(weir, "f5")
    assert r.headers.get("x-field") == "%s:%d" % c.sock.getsockname()
    c.close()
    c, r = shake(weir, "F5")
    assert c.message() == (TEXT, ("%s:%d" % c.sock.getsockname()).encode())
    c.close()


def test_req_get_headers_in_open(weir):
    c, r = shake(weir, "F4", EXTRA)
    lines = c.message()[1].decode().split("\r\n")
    assert "Host: weir.test" in lines and "X-Test: one" in lines and "Upgrade: websocket" in lines
    c.close()


@pytest.mark.parametrize("field,result", [("3X-Nothing", "4"), ("9", "3")])
def test_req_get_absent_or_unknown(weir, field, result):
    c, r = shake(weir, "f" + field)
    assert r.status == 101 and r.headers.get("x-result") == result
    c.close()
    c, r = shake(weir, "F" + field)
    assert c.message() == (TEXT, result.encode())
    c.close()


def test_req_get_of_a_subprotocol_that_was_not_offered(weir):
    c, r = shake(weir, "f6")
    assert r.status == 101 and r.headers.get("x-result") == "4"
    c.close()


@pytest.mark.parametrize("field", range(7))
def test_no_request_in_a_message(weir, field):
    """req_get: absent. resp_status, resp_header: there is no response."""
    with Guest(weir) as g:
        assert g.result(b"Q", bytes([field])) == ABSENT
        assert g.raw.message()[1] == u32(INVALID)
        assert g.raw.message()[1] == u32(INVALID)


# ---------------------------------------------------------------------------- open


def test_open_greets(weir):
    c, r = shake(weir, "H")
    assert c.message() == (TEXT, b"hello")
    c.close()


def test_open_runs_before_the_first_message(weir):
    """A message in the handshake's own packet finds what on_ws_open attached."""
    c = weir.raw()
    c.send(handshake("/hs?A") + frame(TEXT, "message"))
    assert c.response().status == 101
    assert c.message() == (TEXT, b"hello")
    c.close()


def test_open_closes(weir):
    c, r = shake(weir, "C")
    assert c.message() == (TEXT, b"hello")
    c.close_frame(4002, "hello")
    c.close()


@pytest.mark.parametrize("query,code", [("T", "GUEST_TRAP"), ("L", "GUEST_DEADLINE")])
def test_open_fails(weir, query, code):
    """1011, and nothing of what it sent before."""
    n = len(weir.logs("guest_failed", module="hs", code=code))
    c, r = shake(weir, query)
    assert r.status == 101
    c.close_frame(1011)
    c.closed()
    c.close()
    weir.wait_logs("guest_failed", n=n + 1, module="hs", code=code)


@pytest.mark.parametrize("query", ["T", "L"])
def test_no_message_overtakes_open(weir, query):
    """The first message waits for on_ws_open, however long it takes; where that fails, it is no event."""
    c = weir.raw()
    c.send(handshake(f"/hs?{query}") + frame(TEXT, "message"))
    assert c.response().status == 101
    c.close_frame(1011)
    c.closed()
    c.close()


# ---------------------------------------------------------------------------- log


@pytest.mark.parametrize("text", [b"plain", b"", b'"quoted\\"', b"line\nbreak\r\n\ttab", b"\x1b[31mred\x00\x07\x7f", b"</script>", b"{}",
                                  b'","event":"worker_exit', b"x" * 2000])
def test_guest_log(weir, text):
    """One line of JSON, whatever the text holds."""
    with Guest(weir) as g:
        for level in (0, 1, 2, 3):
            assert g.result(b"l", bytes([level]), text) == 0
        lines = weir.wait_logs(GUEST_SAYS, n=4, conn_id=g.hex)
        assert [x["text"] for x in lines] == [text.decode()] * 4
        assert [x["level"] for x in lines] == ["debug", "info", "warn", "error"]
        assert all(x["module"] == "ws" for x in lines)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xc3", "\u00e9\u4e2d".encode(), b"\x80\r\n\x85"], ids=repr)
def test_guest_log_of_other_bytes(weir, text):
    """Bytes that are no UTF-8 make no second line and no broken JSON; text stays itself."""
    with Guest(weir) as g:
        assert g.result(b"l\x01", b"<" + text + b">") == 0
        said = weir.wait_log(GUEST_SAYS, conn_id=g.hex)["text"]
        try:
            assert said == f"<{text.decode()}>"
        except UnicodeDecodeError:
            assert re.fullmatch("<.*>", said, re.S) and len(said) > 2


def test_a_long_log_line_is_cut_not_broken(weir):
    with Guest(weir) as g:
        assert g.result(b"l\x01", b'"' * 60000) == 0
        line = weir.wait_log(GUEST_SAYS, conn_id=g.hex)
        assert set(line["text"]) == {'"'} and len(line["text"]) >= 1000


# ---------------------------------------------------------------------------- everything at once


@pytest.mark.guard(40)
def test_chaos_keeps_the_books(weir):
    """Threads of clients that end in every way: afterwards nothing is left and every connection that
    was opened had its on_ws_close."""
    weir.wait_metric("websockets_active", 0)  # those of the test before have gone
    base = weir.metrics()
    failures, opened = [], []

    def client(seed):
        try:
            for i in range(12):
                g = Guest(weir)
                opened.append(g.hex)
                way = (seed + i) % 6
                assert g.ask(b"e%d" % i) == b"%d" % i
                if way == 0:
                    g.raw.send(close(1000))
                    g.raw.close_frame(1000)
                elif way == 1:
                    g.raw.reset()
                elif way == 2:
                    g.send(b"T")
                    g.raw.close_frame(1011)
                elif way == 3:
                    g.raw.send(b"\xff\xff")
                    g.raw.close_frame(1002)
                elif way == 4:
                    g.send(b"N", u32(rounds(3000000)), b"x")
                    g.raw.reset()
                g.raw.close()
        except Exception as e:  # reported by the main thread
            failures.append(repr(e))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    weir.wait_metric("websockets_active", base["weir_websockets_active"], timeout=10)
    weir.wait_metric("guests_running", 0, timeout=10)
    weir.wait_metric("guests_waiting", 0)
    weir.wait_metric("queued_bytes", 0)
    assert len(set(opened)) == 96

    def ours(x):
        return x["conn_id"] in opened and x["text"].startswith("close ")
    closes = weir.wait_logs(GUEST_SAYS, n=96, where=ours)
    assert sorted(x["conn_id"] for x in closes) == sorted(opened)
