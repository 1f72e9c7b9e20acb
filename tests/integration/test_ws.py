"""WebSocket (RFC 6455): a real client library for what one says, raw sockets for what none says."""
import asyncio
import struct
import threading
import time

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatusCode

from weir import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Gate, close, frame, guest, handshake,
                  problem)

CONFIG = {
    "limits": {"message": "64KiB", "send_queue": "256KiB", "close_timeout": "500ms"},
    "modules": {"echo": {"path": guest("echo")},
                "types": guest("types")},
    "routes": [
        {"path": "/ws/echo", "websocket": {"module": "echo"}},
        {"path": "/ws/raw", "websocket": {"handler": "echo"}},
        {"path": "/ws/proto", "websocket": {"handler": "echo", "subprotocols": ["v2.weir", "v1.weir"]}},
        {"path": "/ws/origin", "websocket": {"handler": "echo", "origins": [
            "https://good.example", "https://*.wild.example", "http://port.example:8080"]}},
        {"path": "/ws/tree/*", "websocket": {"handler": "echo"}},
    ],
}
BOTH = pytest.mark.parametrize("path", ["/ws/raw", "/ws/echo"])

# ---------------------------------------------------------------------------- a client library


def connect(weir, path, **kw):
    return websockets.connect(weir.url(path), compression=None, ping_interval=None, max_size=None,
                              open_timeout=5, close_timeout=5, **kw)


MESSAGES = ["hello", "", "\u00e9\u4e2d\U0001f600", "x" * 125, "x" * 126, "x" * 65535, "x" * 65536, "\0",
            b"", b"\x00\xff\xfe", b"\x80" * 125, b"\x80" * 126, bytes(range(256)) * 255, b"\xff" * 65536]


@BOTH
def test_library_echo(weir, run, path):
    async def go():
        async with connect(weir, path) as ws:
            for m in MESSAGES:
                await ws.send(m)
                assert await ws.recv() == m
    run(go())


@BOTH
def test_library_fragmented(weir, run, path):
    async def go():
        async with connect(weir, path) as ws:
            await ws.send(["a", "b", "", "\u00e9", "c" * 1000])
            assert await ws.recv() == "ab\u00e9" + "c" * 1000
            await ws.send([b"\xff" * 30000, b"\xfe" * 30000, b"\xfd" * 5000])
            assert await ws.recv() == b"\xff" * 30000 + b"\xfe" * 30000 + b"\xfd" * 5000
    run(go())


@BOTH
def test_library_many_in_flight(weir, run, path):
    async def go():
        async with connect(weir, path) as ws:
            sent = [str(i) * (i % 50) for i in range(500)]

            async def send():
                for m in sent:
                    await ws.send(m)
            sending = asyncio.ensure_future(send())
            for m in sent:
                assert await ws.recv() == m
            await sending
    run(go())


@BOTH
def test_library_ping(weir, run, path):
    async def go():
        async with connect(weir, path) as ws:
            for data in (b"", b"abc", b"\xff" * 125):
                await (await ws.ping(data))
            await ws.pong(b"unasked")
            await ws.send("still here")
            assert await ws.recv() == "still here"
    run(go())


@pytest.mark.parametrize("code,reason", [(1000, ""), (1000, "bye"), (1001, "r" * 123), (3000, "\u00e9"), (4999, "x")])
@BOTH
def test_library_close(weir, run, path, code, reason):
    async def go():
        ws = await connect(weir, path)
        await ws.send("x")
        assert await ws.recv() == "x"
        await ws.close(code, reason)
        assert ws.close_code == code
        with pytest.raises(ConnectionClosed) as e:
            await ws.recv()
        assert e.value.rcvd.code == code
    run(go())


def test_library_too_big_a_message(weir, run):
    async def go():
        async with connect(weir, "/ws/raw") as ws:
            await ws.send("x" * 65537)
            with pytest.raises(ConnectionClosed) as e:
                await ws.recv()
            assert e.value.rcvd.code == 1009
    run(go())


@pytest.mark.parametrize("offered,chosen", [
    (["v1.weir"], "v1.weir"), (["v2.weir", "v1.weir"], "v2.weir"), (["v1.weir", "v2.weir"], "v2.weir"),
    (["other", "v1.weir"], "v1.weir"), (["other"], None), ([], None), (["V1.WEIR"], None)])
def test_subprotocols(weir, run, offered, chosen):
    """The first of the route's list that was offered; none where none fits."""
    async def go():
        async with connect(weir, "/ws/proto", subprotocols=offered or None) as ws:
            assert ws.subprotocol == chosen
            await ws.send("x")
            assert await ws.recv() == "x"
    run(go())


def test_subprotocols_over_two_field_lines(weir):
    """RFC 6455 11.3.4: several lines are one list."""
    with weir.ws("/ws/proto", "Sec-WebSocket-Protocol: other\r\nSec-WebSocket-Protocol: v1.weir\r\n") as c:
        assert c.handshake.headers.get("sec-websocket-protocol") == "v1.weir"


def test_no_subprotocol_where_the_route_has_none(weir):
    with weir.ws("/ws/raw", "Sec-WebSocket-Protocol: v1.weir\r\n") as c:
        assert c.handshake.headers.get("sec-websocket-protocol") is None


@pytest.mark.parametrize("origin,allowed", [
    ("https://good.example", True), ("HTTPS://GOOD.example", True), (None, True),
    ("https://a.wild.example", True), ("https://a.b.wild.example", True), ("http://port.example:8080", True),
    ("http://good.example", False), ("https://good.example:8443", False), ("https://good.example.evil.test", False),
    ("https://evilgood.example", False), ("https://wild.example", False), ("https://.wild.example", False),
    ("https://evilwild.example", False), ("http://a.wild.example", False), ("http://port.example", False),
    ("null", False), ("", False), ("https://good.example, https://evil.test", False)])
def test_origin(weir, run, origin, allowed):
    async def go():
        headers = None if origin is None else {"Origin": origin}
        async with connect(weir, "/ws/origin", extra_headers=headers) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"
    if allowed:
        run(go())
    else:
        with pytest.raises(InvalidStatusCode) as e:
            run(go())
        assert e.value.status_code == 403


def test_origin_refused_says_so(weir):
    before = weir.metric("errors_total", code="WS_ORIGIN")
    with weir.raw() as c:
        problem(c.send(handshake("/ws/origin", "Origin: https://evil.test\r\n")).response(), 403, "WS_ORIGIN")
    assert weir.metric("errors_total", code="WS_ORIGIN") == before + 1


def test_any_origin_without_a_list(weir, run):
    async def go():
        async with connect(weir, "/ws/raw", origin="https://anything.test") as ws:
            await ws.send("x")
            assert await ws.recv() == "x"
    run(go())


# ---------------------------------------------------------------------------- the handshake


def test_handshake_in_odd_but_right_shapes(weir):
    """Lists, case, and white space are free; the key of RFC 6455 1.3 gives its answer."""
    with weir.raw() as c:
        c.send("GET /ws/tree/x/y?z HTTP/1.1\r\nhost: a\r\nUPGRADE: foo, WebSocket\r\n"
               "connection: keep-alive,  UPGRADE\r\nSEC-WEBSOCKET-KEY:   dGhlIHNhbXBsZSBub25jZQ==  \r\n"
               "sec-websocket-version:13\r\n\r\n")
        r = c.response()
        assert r.status == 101
        assert r.headers.get("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert c.send(frame(TEXT, "x")).frame() == Frame(True, TEXT, b"x")


def test_handshake_after_other_requests(weir):
    with weir.raw() as c:
        for _ in range(3):
            assert c.send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 404
        c.upgrade("/ws/raw")
        assert c.send(frame(TEXT, "x")).frame() == Frame(True, TEXT, b"x")


def refused(weir, text, status, code):
    with weir.raw() as c:
        r = c.send(text).response()
        problem(r, status, code)
        return r


@pytest.mark.parametrize("version", ["8", "0", "14", "013", "13, 8"])
def test_wrong_version(weir, version):
    text = handshake("/ws/raw").replace(b"Version: 13", b"Version: " + version.encode())
    r = refused(weir, text, 426, "WS_VERSION")
    assert r.headers.get("sec-websocket-version") == "13"


@pytest.mark.parametrize("key", [
    "", "x", "AAECAwQFBgcICQoLDA0ODw", "AAECAwQFBgcICQoLDA0ODxA=", "AAECAwQFBgcICQoLDA0=",
    "AAECAwQFBgcICQoLDA0OD===", "AAECAwQFBgcICQoLDA0O!w==", "AAECAwQFBgcICQoLDA0ODx==",
    "AAECAwQFBgcICQoL DA0ODw==", "================"])
def test_bad_key(weir, key):
    """Base64 of 16 bytes, in its one form."""
    refused(weir, handshake("/ws/raw", key=key), 400, "WS_HANDSHAKE")


def test_missing_key(weir):
    text = b"\r\n".join(x for x in handshake("/ws/raw").split(b"\r\n") if b"-Key" not in x)
    refused(weir, text, 400, "WS_HANDSHAKE")


def test_two_keys(weir):
    """RFC 6455 11.3.1: the key must not be there more than once."""
    refused(weir, handshake("/ws/raw", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400, "WS_HANDSHAKE")


@pytest.mark.parametrize("text", [
    b"GET /ws/raw HTTP/1.1\r\nHost: a\r\n\r\n",
    handshake("/ws/raw").replace(b"Upgrade: websocket\r\n", b""),
    handshake("/ws/raw").replace(b"Upgrade: websocket", b"Upgrade: h2c"),
    handshake("/ws/raw").replace(b"Upgrade: websocket", b"Upgrade: websockets"),
    handshake("/ws/raw").replace(b"Connection: Upgrade", b"Connection: keep-alive"),
    handshake("/ws/raw").replace(b"Connection: Upgrade\r\n", b""),
    handshake("/ws/raw").replace(b" HTTP/1.1", b" HTTP/1.0"),
], ids=["plain", "no_upgrade", "other_upgrade", "upgrade_s", "other_connection", "no_connection", "http_1_0"])
def test_upgrade_required(weir, text):
    r = refused(weir, text, 426, "UPGRADE_REQUIRED")
    assert r.headers.get("upgrade").lower() == "websocket"


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "DELETE"])
def test_upgrade_by_another_method(weir, method):
    with weir.raw() as c:
        c.send(handshake("/ws/raw").replace(b"GET", method.encode(), 1))
        r = c.response(head=method == "HEAD")
        assert r.status == 400


def test_upgrade_elsewhere_is_no_upgrade(weir):
    refused(weir, handshake("/nothing"), 404, "NOT_FOUND")
    refused(weir, handshake("/ws/raw/"), 404, "NOT_FOUND")


def test_connection_goes_on_after_a_refused_handshake(weir):
    with weir.raw() as c:
        c.send(handshake("/ws/raw", key="x"))
        problem(c.response(), 400, "WS_HANDSHAKE")
        c.upgrade("/ws/raw")
        assert c.send(frame(TEXT, "x")).frame() == Frame(True, TEXT, b"x")


@BOTH
def test_frames_in_the_same_packet_as_the_handshake(weir, path):
    more = frame(TEXT, "one") + frame(PING, "p") + frame(BINARY, b"two") + frame(TEXT, "thr", fin=False)
    with weir.ws(path, more=more) as c:
        assert c.frame() == Frame(True, TEXT, b"one")
        assert c.frame() == Frame(True, PONG, b"p")
        assert c.frame() == Frame(True, BINARY, b"two")
        c.send(frame(CONTINUATION, "ee"))
        assert c.frame() == Frame(True, TEXT, b"three")


@BOTH
def test_close_in_the_same_packet_as_the_handshake(weir, path):
    with weir.ws(path, more=frame(TEXT, "x") + close(1000)) as c:
        assert c.frame() == Frame(True, TEXT, b"x")
        c.close_frame(1000)
        c.closed()


# ---------------------------------------------------------------------------- frames


@BOTH
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 124, 125, 126, 127, 128, 1000, 65534, 65535, 65536])
def test_every_length_form(weir, path, n):
    data = bytes(i * 7 & 0xff for i in range(n))
    with weir.ws(path) as c:
        for mask in (b"\x37\xfa\x21\x3d", b"\0\0\0\0", b"\xff\x00\xff\x01"):
            c.send(frame(BINARY, data, mask=mask))
            assert c.frame() == Frame(True, BINARY, data)


BROKEN = {
    "unmasked": frame(TEXT, "x", mask=None),
    "unmasked_ping": frame(PING, "", mask=None),
    "unmasked_close": frame(CLOSE, b"\x03\xe8", mask=None),
    "rsv1": frame(TEXT, "x", rsv=4), "rsv2": frame(TEXT, "x", rsv=2), "rsv3": frame(TEXT, "x", rsv=1),
    "rsv_ping": frame(PING, "x", rsv=4), "rsv_all": frame(BINARY, b"", rsv=7),
    **{f"opcode_{n:x}": frame(n, "x") for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "length_16_for_0": frame(TEXT, "", form=16), "length_16_for_125": frame(TEXT, "x" * 125, form=16),
    "length_64_for_0": frame(TEXT, "", form=64), "length_64_for_125": frame(BINARY, b"x" * 125, form=64),
    "length_64_for_126": frame(TEXT, "x" * 126, form=64), "length_64_for_65535": frame(TEXT, "x" * 65535, form=64),
    "length_2_63": frame(BINARY, b"x", form=64, length=1 << 63),
    "length_2_64": frame(BINARY, b"x", form=64, length=(1 << 64) - 1),
    "fragmented_ping": frame(PING, "x", fin=False), "fragmented_pong": frame(PONG, "x", fin=False),
    "fragmented_close": frame(CLOSE, b"\x03\xe8", fin=False),
    "ping_126": frame(PING, "x" * 126), "pong_126": frame(PONG, "x" * 126),
    "close_126": frame(CLOSE, b"\x03\xe8" + b"x" * 124), "ping_64": frame(PING, "x", form=64),
    "ping_16": frame(PING, "x", form=16),
    "continuation": frame(CONTINUATION, "x"), "continuation_more": frame(CONTINUATION, "x", fin=False),
    "continuation_after": frame(TEXT, "") + frame(CONTINUATION, "x"),
    "text_in_text": frame(TEXT, "a", fin=False) + frame(TEXT, "b"),
    "binary_in_text": frame(TEXT, "a", fin=False) + frame(BINARY, b"b"),
    "text_in_text_more": frame(TEXT, "a", fin=False) + frame(PING, "") + frame(TEXT, "b", fin=False),
    "unmasked_continuation": frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b", mask=None),
    "rsv_continuation": frame(TEXT, "a", fin=False) + frame(CONTINUATION, "b", rsv=4),
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}


@BOTH
@pytest.mark.parametrize("name", BROKEN)
def test_protocol_error(weir, path, name):
    """1002 and the end; what follows is not looked at, what came before is answered."""
    closed = weir.metric("connections_closed_total", reason="PROTOCOL")
    with weir.ws(path) as c:
        c.send(frame(TEXT, "before") + BROKEN[name] + frame(TEXT, "after"))
        assert c.frame() == Frame(True, TEXT, b"before")
        f = c.frame()
        while f.opcode == PONG or f == Frame(True, TEXT, b""):
            f = c.frame()  # the empty message and the ping that are right in some rows
        assert f.opcode == CLOSE and struct.unpack("!H", f.payload[:2])[0] == 1002, f
        c.closed()
    weir.wait_metric("connections_closed_total", closed + 1, reason="PROTOCOL")


@pytest.mark.parametrize("name,code", [
    ("unmasked", "WS_MASK"), ("rsv1", "WS_RESERVED"), ("opcode_3", "WS_OPCODE"), ("opcode_f", "WS_OPCODE"),
    ("length_64_for_126", "WS_LENGTH"), ("length_2_63", "WS_LENGTH"), ("fragmented_ping", "WS_CONTROL"),
    ("ping_126", "WS_CONTROL"), ("continuation", "WS_FRAGMENT"), ("text_in_text", "WS_FRAGMENT")])
def test_protocol_errors_are_counted_by_code(weir, name, code):
    before = weir.metric("errors_total", code=code)
    with weir.ws("/ws/raw") as c:
        c.send(BROKEN[name])
        c.fails(1002)
    assert weir.metric("errors_total", code=code) == before + 1
    assert weir.wait_log("connection_failed", code=code)["level"] == "warn"


@pytest.mark.parametrize("name,length", [("unmasked", 2), ("rsv1", 1), ("opcode_3", 1), ("fragmented_ping", 1),
                                         ("ping_126", 2), ("length_2_63", 10), ("continuation", 6)])
def test_refused_as_soon_as_it_is_seen(weir, name, length):
    """The header's first bytes are enough: no payload is waited for."""
    with weir.ws("/ws/raw") as c:
        c.send(BROKEN[name][:length])
        c.fails(1002)


def test_after_a_protocol_error_input_is_dropped(weir):
    """The peer may go on sending: it is neither echoed nor answered by a reset that loses the close."""
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, "x", rsv=4) + frame(BINARY, b"y" * 60000))
        c.fails(1002)


# ---------------------------------------------------------------------------- text

BAD_UTF8 = [b"\x80", b"\xbf", b"\xc0\x80", b"\xc1\xbf", b"\xc3(", b"\xe0\x80\x80", b"\xe0\x9f\xbf", b"\xe2\x28\xa1",
            b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\xf0\x80\x80\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5",
            b"\xfe", b"\xff", b"a" * 40 + b"\xff", b"\xe4\xb8" + b"x"]


def first_bad(data):
    for i in range(1, len(data) + 1):
        try:
            data[:i].decode()
        except UnicodeDecodeError as e:
            if e.reason != "unexpected end of data":
                return i
    raise AssertionError("it is UTF-8")


@BOTH
@pytest.mark.parametrize("data", BAD_UTF8, ids=repr)
def test_bad_utf8_in_a_whole_message(weir, path, data):
    before = weir.metric("errors_total", code="WS_UTF8")
    with weir.ws(path) as c:
        c.send(frame(TEXT, b"ok " + data + b" ok"))
        c.fails(1007)
    assert weir.metric("errors_total", code="WS_UTF8") == before + 1


@pytest.mark.parametrize("data", BAD_UTF8, ids=repr)
def test_bad_utf8_is_refused_at_its_first_bad_byte(weir, data):
    """The frame says that 200 bytes come; the connection fails at the byte that no UTF-8 can have."""
    n = first_bad(data)
    with weir.ws("/ws/raw") as c:
        gate = Gate(weir)
        start = frame(TEXT, data[:n - 1], length=200)
        c.send(start)
        gate.passed(len(start))
        assert not c.buf
        c.send(frame(TEXT, data[:n], length=200)[len(start):])
        c.fails(1007)


@pytest.mark.parametrize("data", BAD_UTF8, ids=repr)
def test_bad_utf8_in_a_first_fragment(weir, data):
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, data[:first_bad(data)], fin=False))
        c.fails(1007)


@pytest.mark.parametrize("data", [b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98", b"ok\xe4"], ids=repr)
def test_text_that_ends_within_a_character(weir, data):
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, data, fin=False) + frame(PING, "p"))
        assert c.frame() == Frame(True, PONG, b"p"), "until its end it may become right"
        c.send(frame(CONTINUATION, b""))
        c.fails(1007)
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, data))
        c.fails(1007)


@BOTH
@pytest.mark.parametrize("text", ["\u00e9\u4e2d\U0001f600\U0010ffff", "\ufffe\uffff\ufeff", "\ud7ff\ue000", "\x00\x7f\x80\u07ff\u0800"],
                         ids=ascii)
def test_characters_across_fragments(weir, path, text):
    data = text.encode("utf-8", "surrogatepass")
    with weir.ws(path) as c:
        for i in range(len(data) + 1):
            c.send(frame(TEXT, data[:i], fin=False) + frame(CONTINUATION, data[i:]))
            assert c.message() == (TEXT, data)
        c.send(frame(TEXT, b"", fin=False) + b"".join(
            frame(CONTINUATION, data[i:i + 1], fin=False) for i in range(len(data))) + frame(CONTINUATION, b""))
        assert c.message() == (TEXT, data)


def test_binary_need_not_be_utf8(weir):
    with weir.ws("/ws/raw") as c:
        c.send(frame(BINARY, b"\xff", fin=False) + frame(CONTINUATION, b"\xc0"))
        assert c.message() == (BINARY, b"\xff\xc0")


# ---------------------------------------------------------------------------- closing


@BOTH
@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999])
def test_close_codes_are_answered(weir, path, code):
    with weir.ws(path) as c:
        c.send(close(code, "bye \u00e9".encode()))
        c.close_frame(code)
        c.closed()


@BOTH
def test_close_without_a_body(weir, path):
    with weir.ws(path) as c:
        c.send(close())
        c.close_frame(None)
        c.closed()


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 9999, 65535])
def test_close_codes_that_must_not_be_sent(weir, code):
    before = weir.metric("errors_total", code="WS_CLOSE_CODE")
    with weir.ws("/ws/raw") as c:
        c.send(close(code))
        c.fails(1002)
    assert weir.metric("errors_total", code="WS_CLOSE_CODE") == before + 1


def test_close_with_one_byte(weir):
    with weir.ws("/ws/raw") as c:
        c.send(frame(CLOSE, b"\x03"))
        c.fails(1002)


@pytest.mark.parametrize("reason", [b"\xff", b"ok\xc3", b"\xed\xa0\x80"], ids=repr)
def test_close_with_a_reason_that_is_no_utf8(weir, reason):
    with weir.ws("/ws/raw") as c:
        c.send(close(1000, reason))
        c.fails(1007)


def test_close_with_the_longest_reason(weir):
    with weir.ws("/ws/raw") as c:
        c.send(close(1000, b"r" * 123))
        c.close_frame(1000)
        c.closed()


@BOTH
def test_nothing_is_echoed_after_a_close(weir, path):
    with weir.ws(path) as c:
        c.send(frame(TEXT, "one") + close(1000) + frame(TEXT, "two") + frame(PING, "p") + close(1001))
        assert c.frame() == Frame(True, TEXT, b"one")
        c.close_frame(1000)
        c.closed()


def test_close_within_a_fragmented_message(weir):
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, "one", fin=False) + close(1000))
        c.close_frame(1000)
        c.closed()


def test_a_peer_that_never_ends_is_cut(weir):
    """After the close handshake the peer has close_timeout to end its side."""
    before = weir.metric("connections_active")
    c = weir.ws("/ws/raw")
    c.send(close(1000))
    c.close_frame(1000)
    c.closed()  # our side stays open
    weir.wait_metric("connections_active", before, timeout=5)
    c.close()


@BOTH
def test_eof_without_a_close(weir, path):
    m = weir.metrics()
    c = weir.ws(path)
    c.send(frame(TEXT, "x"))
    assert c.frame() == Frame(True, TEXT, b"x")
    assert weir.metric("websockets_active") == m["weir_websockets_active"] + 1
    c.close()
    weir.wait_metric("websockets_active", m["weir_websockets_active"])
    weir.wait_metric("connections_active", m["weir_connections_active"])


@BOTH
def test_eof_amid_a_message(weir, path):
    m = weir.metrics()
    for part in (frame(BINARY, b"x" * 1000)[:500], frame(TEXT, "x", fin=False), b"\x81", b""):
        c = weir.ws(path)
        c.send(part)
        c.reset() if part else c.close()
    weir.wait_metric("websockets_active", m["weir_websockets_active"])
    weir.wait_metric("connections_active", m["weir_connections_active"])


@BOTH
def test_half_closed_peer_gets_its_echo(weir, path):
    with weir.ws(path) as c:
        c.send(frame(TEXT, "x") * 20).shut()
        for _ in range(20):
            assert c.frame() == Frame(True, TEXT, b"x")


# ---------------------------------------------------------------------------- sizes


@BOTH
def test_message_too_big(weir, path):
    with weir.ws(path) as c:
        c.send(frame(BINARY, b"x", length=65537))  # the header is enough
        c.fails(1009)
    with weir.ws(path) as c:
        c.send(frame(BINARY, b"", form=64, length=1 << 62))
        c.fails(1009)


@BOTH
def test_message_too_big_over_fragments(weir, path):
    before = weir.metric("errors_total", code="WS_MESSAGE_SIZE")
    with weir.ws(path) as c:
        c.send(frame(BINARY, b"a" * 40000, fin=False) + frame(BINARY ^ 2, b"b" * 25536))
        assert c.message() == (BINARY, b"a" * 40000 + b"b" * 25536)
        c.send(frame(BINARY, b"a" * 40000, fin=False) + frame(CONTINUATION, b"", length=25537))
        c.fails(1009)
    with weir.ws(path) as c:
        c.send(frame(TEXT, b"a" * 65536, fin=False) + frame(PING, "") + frame(CONTINUATION, b"", fin=False))
        assert c.frame() == Frame(True, PONG, b"")
        c.send(frame(CONTINUATION, b"b", fin=False))
        c.fails(1009)
    assert weir.metric("errors_total", code="WS_MESSAGE_SIZE") == before + 2


# ---------------------------------------------------------------------------- splitting


STREAM = (frame(TEXT, "h\u00e9llo") + frame(PING, "ping") + frame(BINARY, b"x" * 130) + frame(TEXT, "a\u4e2d", fin=False) +
          frame(PING, "") + frame(CONTINUATION, "b\U0001f600") + frame(PONG, "unasked") + close(1000, b"end"))
ANSWERS = [Frame(True, TEXT, "h\u00e9llo".encode()), Frame(True, PONG, b"ping"), Frame(True, BINARY, b"x" * 130),
           Frame(True, PONG, b""), Frame(True, TEXT, "a\u4e2db\U0001f600".encode())]


def answers(c):
    for want in ANSWERS:
        assert c.frame() == want
    c.close_frame(1000)
    c.closed()


@BOTH
def test_all_at_once(weir, path):
    with weir.ws(path, more=STREAM) as c:
        answers(c)


@BOTH
@pytest.mark.guard(40)
def test_split_at_every_byte(weir, path):
    """The stream cut in two at every place; the second part only once the first was read."""
    gate = Gate(weir)
    n = len(handshake(path, host="weir.test"))
    for i in range(len(STREAM) + 1):
        with weir.ws(path, more=STREAM[:i]) as c:
            gate.passed(n + i)
            c.send(STREAM[i:])
            answers(c)
            gate.passed(len(STREAM) - i)


@BOTH
def test_byte_by_byte(weir, path):
    gate = Gate(weir)
    with weir.ws(path) as c:
        gate.passed(len(handshake(path, host="weir.test")))
        for i in range(len(STREAM)):
            c.send(STREAM[i:i + 1])
            gate.passed(1)
        answers(c)


def test_handshake_split_at_every_byte(weir):
    text = handshake("/ws/raw") + frame(TEXT, "x")
    gate = Gate(weir)
    for i in range(1, len(text)):
        with weir.raw() as c:
            c.send(text[:i])
            gate.passed(i)
            c.send(text[i:])
            assert c.response().status == 101
            assert c.frame() == Frame(True, TEXT, b"x")
            gate.passed(len(text) - i)


@BOTH
def test_interleaved_pings(weir, path):
    with weir.ws(path) as c:
        c.send(frame(TEXT, "a", fin=False))
        for i in range(20):
            c.send(frame(PING, f"p{i}") + frame(CONTINUATION, f"{i} ", fin=False) + frame(PONG, "no answer"))
            assert c.frame() == Frame(True, PONG, f"p{i}".encode())
        c.send(frame(CONTINUATION, "z"))
        assert c.message() == (TEXT, b"a" + "".join(f"{i} " for i in range(20)).encode() + b"z")


@BOTH
def test_pipelined(weir, path):
    """Many frames in one write: every one comes back, in order, none is lost."""
    many = [str(i).encode() * (i % 9) for i in range(3000)]
    with weir.ws(path) as c:
        c.send(b"".join(frame(BINARY, m) for m in many))
        for m in many:
            assert c.frame() == Frame(True, BINARY, m)


@BOTH
def test_ping_order(weir, path):
    """A pong may overtake nothing that came before its ping on the built-in echo."""
    with weir.ws(path) as c:
        c.send(b"".join(frame(PING, str(i)) for i in range(100)))
        for i in range(100):
            assert c.frame() == Frame(True, PONG, str(i).encode())


def test_two_hundred_connections(weir):
    before = weir.metric("websockets_active")
    conns = [weir.ws("/ws/echo" if i % 2 else "/ws/raw") for i in range(200)]
    assert weir.metric("websockets_active") == before + 200
    for i, c in enumerate(conns):
        c.send(frame(TEXT, f"number {i}"))
    for i, c in enumerate(conns):
        assert c.frame() == Frame(True, TEXT, f"number {i}".encode())
        c.close()
    weir.wait_metric("websockets_active", before)


def test_counters(weir):
    m = weir.metrics()
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, "a") + frame(TEXT, "b", fin=False) + frame(PING, "") + frame(CONTINUATION, "c"))
        for _ in range(3):
            c.frame()
        now = weir.metrics()
    assert now["weir_messages_received_total"] - m["weir_messages_received_total"] == 2
    assert now["weir_messages_sent_total"] - m["weir_messages_sent_total"] == 2
    assert now["weir_websockets_active"] - m["weir_websockets_active"] == 1


# ---------------------------------------------------------------------------- back-pressure


def push_until_stuck(weir, c, message):
    """Sends without reading until nothing more is taken; returns how many bytes were."""
    sent, paused = 0, weir.metric("reading_paused_total")
    held = weir.metric("buffer_bytes")
    c.sock.settimeout(0.05)
    end = time.monotonic() + 12
    while time.monotonic() < end:
        try:
            sent += c.sock.send(message[sent % len(message):])
        except TimeoutError:
            m = weir.metrics()
            assert m["weir_queued_bytes"] <= 256 * 1024
            assert m["weir_buffer_bytes"] - held <= 1 << 20, "memory is bounded too"
            if m["weir_reading_paused_total"] > paused:
                c.sock.settimeout(5)
                return sent
    raise AssertionError(f"{sent} bytes were taken of a peer that does not read")


def finish(c, message, sent):
    """The rest of the last one of the messages, while what they bring is read."""
    rest = message[sent % len(message):] if sent % len(message) else b""
    thread = threading.Thread(target=c.sock.sendall, args=(rest,))
    thread.start()
    return thread, (sent + len(rest)) // len(message)


@BOTH
def test_a_peer_that_does_not_read(weir, path):
    """Nothing more is read of it, and it costs at most send_queue; others are served meanwhile; it
    goes on as it reads, and nothing is lost."""
    message = frame(BINARY, b"x" * 16384)
    with weir.ws(path, rcvbuf=4096) as c, weir.ws(path) as other:
        sent = push_until_stuck(weir, c, message)
        other.send(frame(TEXT, "still"))
        assert other.frame() == Frame(True, TEXT, b"still")
        thread, n = finish(c, message, sent)
        for _ in range(n):
            assert c.frame() == Frame(True, BINARY, b"x" * 16384)
        thread.join()
        c.send(frame(TEXT, "on"))
        assert c.frame() == Frame(True, TEXT, b"on")
    weir.wait_metric("queued_bytes", 0)
    weir.wait_metric("queues_bytes", 0)


def test_a_peer_that_pings_and_does_not_read(weir):
    message = frame(PING, b"x" * 125) * 100
    with weir.ws("/ws/raw", rcvbuf=4096) as c:
        thread, n = finish(c, message, push_until_stuck(weir, c, message))
        for _ in range(100 * n):
            assert c.frame() == Frame(True, PONG, b"x" * 125)
        thread.join()
    weir.wait_metric("queued_bytes", 0)


def test_a_peer_that_reads_late_gets_all(weir):
    """Less than send_queue may lie unread: it is queued, counted, and delivered whole."""
    with weir.ws("/ws/raw", rcvbuf=4096) as c:
        for i in range(8):
            c.send(frame(BINARY, bytes([i]) * 30000))
        weir.wait_metric("messages_received_total", lambda v: v >= 8)
        for i in range(8):
            assert c.frame() == Frame(True, BINARY, bytes([i]) * 30000)
    weir.wait_metric("queued_bytes", 0)
