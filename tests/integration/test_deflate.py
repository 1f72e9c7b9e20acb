"""permessage-deflate (RFC 7692): a real client library, then raw sockets for what none sends."""
import random
import struct
import zlib

import pytest
import websockets
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from weir import (BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Raw, close, frame, guest, handshake, problem,
                  run_cli)

MESSAGE = 64 << 10
CONFIG = {
    "limits": {"message": "64KiB", "send_queue": "1MiB", "close_timeout": "500ms", "compress_least": "100"},
    "modules": {"echo": {"path": guest("echo")},
                "pulley": {"path": guest("echo"), "engine": "pulley"},
                "v1": {"path": guest("v1"), "limits": {"deadline": "10s", "timeout": "10s"}},
                "hs": guest("hs")},
    "routes": [
        {"path": "/raw", "websocket": {"handler": "echo", "compress": "yes"}},
        {"path": "/echo", "websocket": {"module": "echo", "compress": "yes"}},
        {"path": "/pulley", "websocket": {"module": "pulley", "compress": "yes"}},
        {"path": "/v1", "websocket": {"module": "v1", "compress": "yes"}},
        {"path": "/hs", "websocket": {"module": "hs", "compress": "yes"}},
        {"path": "/plain", "websocket": {"handler": "echo", "compress": "no"}},
        {"path": "/default", "websocket": {"handler": "echo"}},
        {"path": "/topic/*", "websocket": {"handler": "pubsub", "compress": "yes"}},
    ],
}
ALL = pytest.mark.parametrize("path", ["/raw", "/echo", "/pulley"])
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\0\0\xff\xff"
RSV1 = 4


def field(*offers):
    return "".join(f"Sec-WebSocket-Extensions: {o}\r\n" for o in offers)


def deflated(data, level=6, bits=15, memory=8, flush=zlib.Z_SYNC_FLUSH):
    z = zlib.compressobj(level, zlib.DEFLATED, -bits, memory)
    out = z.compress(data) + z.flush(flush)
    assert out.endswith(TAIL)
    return out[:-4]


def inflated(data, bits=15):
    z = zlib.decompressobj(-bits)
    out = z.decompress(data + TAIL)
    assert not z.unconsumed_tail and not z.unused_data and not z.eof
    return out


class Peer(Raw):
    """Negotiated; receives frames as they are, and says whether they were compressed."""

    def frame(self):
        first, second = self.take(2)
        assert first & 0x30 == 0 and second & 0x80 == 0 and first & 0x80, (first, second)
        n = second
        if n >= 126:
            size = 2 if n == 126 else 8
            n = int.from_bytes(self.take(size), "big")
            assert n > (125 if size == 2 else 0xffff)
        self.compressed, payload = bool(first & 0x40), self.take(n)
        opcode = first & 15
        assert not self.compressed or opcode in (TEXT, BINARY)
        self.wire = payload
        return Frame(True, opcode, inflated(payload, 12) if self.compressed else payload)


def peer(weir, path="/raw", offer="permessage-deflate", want=ANSWER):
    c = Peer(weir.port).upgrade(path, field(offer))
    assert c.handshake.headers.get("sec-websocket-extensions") == want
    return c


def say(opcode, data, **kw):
    return frame(opcode, deflated(data, **kw), rsv=RSV1)


def text(n):
    r = random.Random(n)
    return ("".join(r.choice(["weir ", "water ", "\u00e9\u4e2d ", "x", "{\"id\": 5}, "]) for _ in range(n))[:n]).encode()


# ---------------------------------------------------------------------------- a client library

MESSAGES = ["", "short", "\u00e9\u4e2d\U0001f600" * 100, "x" * 65536, text(9000).decode(), b"", b"\0" * 65536,
            b"\x00\xff" * 300, random.Random(7).randbytes(65536), random.Random(8).randbytes(65535),
            b"a" * 99, b"a" * 100]


@ALL
def test_library_echo(weir, run, path):
    async def go():
        async with websockets.connect(weir.url(path), compression="deflate", ping_interval=None, max_size=None,
                                      open_timeout=5, close_timeout=5) as ws:
            assert [e.name for e in ws.extensions] == ["permessage-deflate"]
            for m in MESSAGES * 2:
                await ws.send(m)
                assert await ws.recv() == m
    run(go())


@pytest.mark.parametrize("bits", [8, 9, 10, 11, 12, 13, 15])
def test_library_window_bits(weir, run, bits):
    """Our window is 12 bits: a smaller one is declined, and all goes on without compression."""
    async def go():
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits, client_max_window_bits=True)
        async with websockets.connect(weir.url("/raw"), compression=None, extensions=[factory],
                                      ping_interval=None, max_size=None) as ws:
            assert bool(ws.extensions) == (bits >= 12)
            for m in MESSAGES:
                await ws.send(m)
                assert await ws.recv() == m
    run(go())


def test_library_fragments(weir, run):
    async def go():
        async with websockets.connect(weir.url("/echo"), compression="deflate", ping_interval=None) as ws:
            await ws.send(["a" * 500, "", "\u00e9" * 300, "z"])
            assert await ws.recv() == "a" * 500 + "\u00e9" * 300 + "z"
    run(go())


# ---------------------------------------------------------------------------- negotiation

WINDOW = ANSWER + "; server_max_window_bits=12"


@pytest.mark.parametrize("offers,want", [
    (["permessage-deflate"], ANSWER), (["PerMessage-Deflate"], ANSWER), ([" permessage-deflate ; client_max_window_bits"], ANSWER),
    (["permessage-deflate; client_max_window_bits=8"], ANSWER),
    (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], ANSWER),
    (["permessage-deflate; server_max_window_bits=15"], WINDOW), (["permessage-deflate;server_max_window_bits=\"1\\2\""], WINDOW),
    (["permessage-deflate; server_max_window_bits=11"], None), (["permessage-deflate; server_max_window_bits=8"], None),
    (["permessage-deflate; server_max_window_bits=8, permessage-deflate"], ANSWER),
    (["permessage-deflate; server_max_window_bits=8", "permessage-deflate"], ANSWER),
    (["permessage-deflate; server_max_window_bits=14, permessage-deflate"], WINDOW),
    (["permessage-deflate; what=5, permessage-deflate"], ANSWER), (["permessage-deflate; what"], None),
    (["permessage-deflate; client_max_window_bits=7"], None), (["permessage-deflate; client_max_window_bits=010"], None),
    (["permessage-deflate; server_max_window_bits"], None), (["permessage-deflate; server_no_context_takeover=1"], None),
    (["permessage-deflate; client_no_context_takeover; client_no_context_takeover"], None),
    (["x-webkit-deflate-frame, permessage-deflate-not; a=b, other"], None), (["", ",, permessage-deflate,"], ANSWER),
    (["bbf-usp-protocol", "permessage-deflate"], ANSWER)])
def test_offers(weir, offers, want):
    with Peer(weir.port).upgrade("/raw", field(*offers)) as c:
        assert c.handshake.headers.get("sec-websocket-extensions") == want
        c.send(say(TEXT, text(500)) if want else frame(TEXT, text(500)))
        f = c.frame()
        assert f.payload == text(500) and c.compressed == bool(want)


@pytest.mark.parametrize("offer", ["permessage-deflate;", "; a", "permessage-deflate; a=", "permessage-deflate; a=\"", "a b",
                                   "permessage-deflate; a=\"\"", "permessage-deflate; a=\"b c\"", "per/message", "a=b",
                                   "permessage-deflate; a=\"\\", "permessage-deflate; =5", "permessage-deflate, @"])
def test_malformed_offers_fail_the_handshake(weir, offer):
    with weir.raw() as c:
        c.send(handshake("/raw", field(offer)))
        problem(c.response(), 400, "WS_HANDSHAKE")


@pytest.mark.parametrize("path", ["/plain", "/default"])
def test_routes_that_do_not_compress(weir, path):
    """They look at no extension, and RSV1 fails the connection."""
    with Peer(weir.port).upgrade(path, field("permessage-deflate", "mal/formed")) as c:
        assert c.handshake.headers.get("sec-websocket-extensions") is None
        c.send(frame(TEXT, text(1000)))
        assert c.frame().payload == text(1000) and not c.compressed
        c.send(say(TEXT, b"x"))
        c.fails(1002)


def test_not_offered(weir):
    with weir.ws("/raw") as c:
        c.send(frame(TEXT, text(1000)))
        assert c.frame().payload == text(1000)
        c.send(say(TEXT, b"x"))
        c.fails(1002)


def test_configuration(tmp_path):
    file = tmp_path / "weir.yaml"
    file.write_text("routes: [{path: /a, websocket: {handler: echo, compress: maybe}}]")
    r = run_cli("check", file)
    assert r.returncode == 1 and "compress is yes or no" in r.stderr


# ---------------------------------------------------------------------------- messages


@ALL
def test_least_size(weir, path):
    with peer(weir, path) as c:
        for n, compressed in ((0, False), (99, False), (100, True), (5000, True)):
            c.send(frame(BINARY, b"a" * n) + say(BINARY, b"a" * n))
            for _ in range(2):
                assert c.frame() == (True, BINARY, b"a" * n) and c.compressed == compressed


@ALL
def test_what_does_not_shrink_is_sent_as_it_is(weir, path):
    data = random.Random(1).randbytes(40000)
    with peer(weir, path) as c:
        c.send(say(BINARY, data))
        assert c.frame() == (True, BINARY, data) and not c.compressed
        assert len(deflated(data)) > len(data)


def test_incompressible_of_the_largest_size(weir):
    data = random.Random(2).randbytes(MESSAGE)
    with peer(weir) as c:
        for memory in (1, 8):
            c.send(say(BINARY, data, level=1, memory=memory))
            assert c.frame().payload == data


@ALL
def test_fragments(weir, path):
    """RSV1 on the first frame only; control frames between, a byte each, empty ones."""
    data, z = text(3000), deflated(text(3000))
    with peer(weir, path) as c:
        c.send(frame(TEXT, b"", fin=False, rsv=RSV1) + frame(PING, b"1") + frame(CONTINUATION, z[:5], fin=False) +
               frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, z[5:]))
        assert c.frame() == (True, PONG, b"1")
        assert c.frame() == (True, TEXT, data)
        c.send(frame(TEXT, z[:1], fin=False, rsv=RSV1) +
               b"".join(frame(CONTINUATION, z[i:i + 1], fin=False) for i in range(1, len(z))) + frame(CONTINUATION, b""))
        assert c.frame().payload == data
        c.send(frame(TEXT, "plain, ", fin=False) + frame(CONTINUATION, "in two"))
        assert c.frame().payload == b"plain, in two"


@pytest.mark.parametrize("payload,want", [
    (bytes.fromhex("f248cdc9c90700"), b"Hello"),              # RFC 7692 7.2.3.1
    (bytes.fromhex("000500faff48656c6c6f00"), b"Hello"),      # 7.2.3.3: a block with no compression
    (bytes.fromhex("f348cdc9c9070000"), b"Hello"),            # 7.2.3.4: BFINAL is 1
    (bytes.fromhex("f348cdc9c90700"), b"Hello"),              # the same, and nothing behind it
    (bytes.fromhex("f24805000000ffffcac9c90700"), b"Hello"),  # 7.2.3.5: two blocks
    (bytes.fromhex("f348cdc9c90700f348cdc9c9070000"), b"HelloHello"),
    (b"\0", b""), (b"", b""), (b"\x01", b""), (bytes.fromhex("0300"), b""), (bytes.fromhex("0200"), b"")])
def test_examples(weir, payload, want):
    with peer(weir) as c:
        c.send(frame(TEXT, payload, rsv=RSV1))
        assert c.frame() == (True, TEXT, want)


@pytest.mark.parametrize("payload", [
    b"\x06", b"\xff\xff", deflated(text(900))[:-1], deflated(text(900))[:-30], deflated(text(900)) + b"\x07",
    bytes.fromhex("f24805000000ffffcac9c907"), bytes.fromhex("000500faff48656c6c"), b"\x04\x00\x00" + b"\xff" * 40,
    bytes.fromhex("f348cdc9c90700f348"), deflated(text(900)) + TAIL])
def test_invalid(weir, payload):
    with peer(weir) as c:
        before = weir.metric("errors_total", code="WS_INFLATE")
        c.send(frame(BINARY, payload, rsv=RSV1))
        c.fails(1007)
        assert weir.metric("errors_total", code="WS_INFLATE") == before + 1


def test_no_context_taken_over(weir):
    """A message that refers to the one before is invalid, be that its own or another peer's."""
    z = zlib.compressobj(9, zlib.DEFLATED, -15)
    secret = random.Random(5).randbytes(300)
    first = z.compress(secret) + z.flush(zlib.Z_SYNC_FLUSH)
    second = z.compress(secret) + z.flush(zlib.Z_SYNC_FLUSH)
    assert len(second) < 30
    with peer(weir) as a, peer(weir) as b:
        a.send(frame(BINARY, first[:-4], rsv=RSV1))
        assert a.frame().payload == secret
        b.send(frame(BINARY, second[:-4], rsv=RSV1))
        b.fails(1007)
        a.send(frame(BINARY, second[:-4], rsv=RSV1))
        a.fails(1007)


def test_text_is_checked_after_inflating(weir):
    for bad in (b"\xff", b"a\xed\xa0\x80", "\u00e9".encode()[:1]):
        with peer(weir) as c:
            c.send(say(TEXT, b"x" * 1000 + bad))
            c.fails(1007)
    with peer(weir) as c:
        c.send(say(BINARY, b"\xff" * 1000))
        assert c.frame().payload == b"\xff" * 1000


@pytest.mark.parametrize("frames", [
    frame(PING, b"x", rsv=RSV1), frame(PONG, b"x", rsv=RSV1), frame(CLOSE, b"\x03\xe8", rsv=RSV1),
    frame(TEXT, b"x", rsv=2), frame(TEXT, b"x", rsv=1), frame(TEXT, b"\0", rsv=6), frame(3, b"x", rsv=RSV1),
    frame(CONTINUATION, b"x", rsv=RSV1),
    frame(TEXT, deflated(b"x"), fin=False, rsv=RSV1) + frame(CONTINUATION, b"", rsv=RSV1),
    frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"", rsv=RSV1)])
def test_reserved_bits(weir, frames):
    with peer(weir) as c:
        c.send(frames)
        c.fails(1002)


# ---------------------------------------------------------------------------- bombs and floods


@pytest.mark.parametrize("n", [MESSAGE, MESSAGE + 1, MESSAGE * 2, 50 << 20])
def test_bombs(weir, n):
    """1009 past limits.message, and what is behind it is not inflated."""
    before = weir.metric("inflate_out_bytes_total")
    with peer(weir) as c:
        c.send(say(BINARY, b"\0" * n, level=9))
        if n == MESSAGE:
            assert c.frame().payload == b"\0" * n
        else:
            c.fails(1009)
    assert weir.metric("inflate_out_bytes_total") - before <= MESSAGE + 1


def test_bomb_in_fragments(weir):
    z = deflated(b"\0" * (10 << 20), level=9)
    with peer(weir) as c:
        c.send(frame(BINARY, z[:100], fin=False, rsv=RSV1) + frame(CONTINUATION, z[100:]))
        c.fails(1009)


def test_compressed_bytes_are_bounded(weir):
    """A compressed message may be an eighth longer than limits.message; a frame's header says it."""
    with peer(weir) as c:
        c.send(frame(BINARY, b"", rsv=RSV1, length=MESSAGE * 9 // 8 + 65, form=64))
        c.fails(1009)
    with peer(weir) as c:
        c.send(frame(BINARY, b"", fin=False, rsv=RSV1) + frame(CONTINUATION, b"", length=MESSAGE * 9 // 8 + 65, form=64))
        c.fails(1009)


def test_blocks_without_content(weir):
    """Blocks that say nothing cost time: no more than so many of them."""
    z = zlib.compressobj(6, zlib.DEFLATED, -15)
    one = z.compress(text(300)) + z.flush(zlib.Z_FULL_FLUSH)
    for n, fits in ((100, True), (4000, False)):
        with peer(weir) as c:
            c.send(frame(BINARY, b"\0" + TAIL + (b"\0" + TAIL) * n + one[:-4], rsv=RSV1))
            if fits:
                assert c.frame().payload == text(300)
            else:
                c.fails(1007)


def test_flood_keeps_turns(weir, run):
    """Peers that send what is costly to inflate wait; one that does not is answered meanwhile."""
    bomb = say(BINARY, b"\0" * MESSAGE, level=9)
    n = 200
    with peer(weir) as a, peer(weir, "/echo") as b, weir.ws("/raw") as other, weir.ws("/echo") as guest_peer:
        for c in (a, b):
            c.send(bomb * n)
        for c in (other, guest_peer):
            c.send(frame(TEXT, "hello"))
            assert c.message() == (TEXT, b"hello")
        for c in (a, b):
            for _ in range(n):
                assert c.frame().payload == b"\0" * MESSAGE


# ---------------------------------------------------------------------------- publishing


def test_published_once_for_all(weir):
    data = text(2000)
    before = weir.metrics()
    compressing = [peer(weir, "/topic/a") for _ in range(20)]
    plain = [Peer(weir.port).upgrade("/topic/a") for _ in range(20)]
    try:
        compressing[0].send(frame(TEXT, data) + frame(TEXT, "small") + say(TEXT, data[:1000]))
        for c in compressing + plain:
            for want in (data, b"small", data[:1000]):
                assert c.frame() == (True, TEXT, want)
                assert c.compressed == (c in compressing and want != b"small")
        wires = set()
        plain[0].send(frame(TEXT, data[::-1].decode("utf-8", "ignore")))
        for c in compressing + plain:
            c.frame()
            if c in compressing:
                wires.add(c.wire)
        assert len(wires) == 1
    finally:
        for c in compressing + plain:
            c.close()
    after = weir.metrics()

    def more(name):
        return after["weir_" + name] - before["weir_" + name]
    assert more("messages_compressed_total") == 3
    assert more("messages_inflated_total") == 1
    assert more("messages_sent_total") == 160
    assert 0 < more("compress_out_bytes_total") < more("compress_in_bytes_total")


def test_guests_publish_and_send(weir):
    """What a guest publishes is compressed once; what it sends to another, where that one wants it."""
    def short(b):
        return struct.pack("<H", len(b)) + b
    data = text(3000)
    peers = [peer(weir, "/v1"), peer(weir, "/v1"), Peer(weir.port).upgrade("/v1"), Peer(weir.port).upgrade("/v1")]
    ids = []
    for c in peers:  # v1.wat: I says its id, S subscribes, P publishes, W sends zeroes
        c.send(frame(BINARY, b"I"))
        ids.append(struct.unpack("<Q", c.frame().payload)[0])
        c.send(frame(BINARY, b"S" + struct.pack("<Q", ids[-1]) + short(b"t")))
        assert c.frame().payload == bytes(8)
    before = weir.metric("messages_compressed_total")
    script = b"P" + struct.pack("<IQ", TEXT, 0) + short(b"t") + short(data)
    peers[2].send(frame(BINARY, script))
    for i, c in enumerate(peers):
        got = [c.frame()]
        compressed = [c.compressed]
        if i == 2:  # the script's answer, too
            got.append(c.frame())
            compressed.append(c.compressed)
            assert (True, BINARY, struct.pack("<q", 4)) in got
        assert (True, TEXT, data) in got and compressed == [i < 2] * len(got)
    assert weir.metric("messages_compressed_total") == before + 1
    for i in (1, 3):
        peers[0].send(frame(BINARY, b"W" + struct.pack("<QI", ids[i], 1000)))
        assert peers[0].frame().payload == bytes(8)
        assert peers[i].frame().payload == bytes(1000) and peers[i].compressed == (i == 1)
    for c in peers:
        c.close()


def test_a_guest_that_looks_at_the_handshake(weir):
    """It accepts; what is agreed to is not its affair."""
    with Peer(weir.port).upgrade("/hs", field("permessage-deflate; server_max_window_bits=12")) as c:
        assert c.handshake.headers.get("sec-websocket-extensions") == WINDOW
    with weir.raw() as c:
        c.send(handshake("/hs", field("per/message")))
        problem(c.response(), 400, "WS_HANDSHAKE")


# ---------------------------------------------------------------------------- memory


def test_an_idle_connection_costs_nothing_more(weir):
    """After a message each way; the loop's compressor and inflater were there before."""
    def held(offer, n=100):
        base = weir.metric("buffer_bytes")
        conns = [Peer(weir.port).upgrade("/raw", field(offer) if offer else "") for _ in range(n)]
        for c in conns:
            c.send(say(TEXT, text(500)) if offer else frame(TEXT, text(500)))
            assert c.frame().payload == text(500)
        if offer:
            assert weir.metric("websockets_deflate") >= n
        more = weir.metric("buffer_bytes") - base
        for c in conns:
            c.close()
        weir.wait_metric("websockets_active", 0)
        return more
    with peer(weir) as c:
        c.send(say(TEXT, text(500)))
        c.frame()
    weir.wait_metric("websockets_active", 0)
    held(None), held("permessage-deflate")  # what grows once has grown
    assert held("permessage-deflate") == held(None)
    assert weir.metric("websockets_deflate") == 0


def test_a_loop_costs_little(start):
    """Nothing before a first connection agrees to it, some 100 KB then."""
    w = start({"routes": CONFIG["routes"][:1]})
    base = w.metric("buffer_bytes")
    with w.ws("/raw"):
        assert w.metric("buffer_bytes") - base < 4096
    with peer(w) as c:
        assert w.metric("buffer_bytes") - base > 32 << 10
        c.send(say(TEXT, text(30000)))
        assert c.frame().payload == text(30000)
        assert w.metric("buffer_bytes") - base < 200 << 10


# ---------------------------------------------------------------------------- closing


def test_close_is_never_compressed(weir, run):
    with peer(weir) as c:
        c.send(close(1000, b"r" * 123))
        c.close_frame(1000)
        assert not c.compressed

    async def go():
        async with websockets.connect(weir.url("/raw"), compression="deflate", ping_interval=None) as ws:
            await (await ws.ping(b"p" * 125))
            await ws.send(b"\0" * (MESSAGE + 1))
            with pytest.raises(ConnectionClosed) as e:
                await ws.recv()
            assert e.value.rcvd.code == 1009
    run(go())
