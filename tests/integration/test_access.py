"""Addresses: their limits, the PROXY protocol, X-Forwarded-For (docs/ACCESS.md).

All of 127.0.0.0/8 is ours, so that one machine can be several peers. PROXY_IP is a trusted proxy;
127.0.0.1, from which the other tests come, is not."""
import json
import signal
import socket
import struct

import pytest

from weir import (HOST, TEXT, Raw, Weir, frame, free_port, guest, handshake, problem, run_cli,
                  wait_for)

PROXY_IP, OTHER_PROXY = "127.0.0.9", "127.1.2.3"
PROXY_PORT = free_port()
CONFIG = {
    "log_level": "debug",
    "access": {"trusted": [PROXY_IP, "127.1.0.0/16", "fd00::/8"]},
    "limits": {"head_timeout": "300ms"},
    "modules": {"http": {"path": guest("http")}, "hs": {"path": guest("hs")}},
    "routes": [{"path": "/g", "http": {"module": "http"}},
               {"path": "/hs", "websocket": {"module": "hs"}},
               {"path": "/echo", "websocket": {"handler": "echo"}}],
}
V2 = b"\r\n\r\n\0\r\nQUIT\n"
ASK = b"GET /g?g5 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory, cache, _running):
    w = Weir(tmp_path_factory.mktemp("weir"), cache, {}, start=False)
    config = {**w.config, **CONFIG}
    config["listen"] = [*w.config["listen"],
                        {"address": f"{HOST}:{PROXY_PORT}", "proxy_protocol": "yes"}]
    w.config = config
    w.file.write_text(json.dumps(config))
    _running.append(w)
    w.start()
    yield w
    w.stop()


def v1(client, port=4000, family="TCP4", to="127.0.0.1"):
    return f"PROXY {family} {client} {to} {port} 80\r\n".encode()


def v2(client=b"", family=0x11, command=0x21, tlv=b"", length=None):
    body = client + tlv
    return V2 + bytes([command, family]) + struct.pack("!H", len(body) if length is None else length) + body


def v2_tcp4(client, port, tlv=b""):
    return v2(socket.inet_aton(client) + bytes([127, 0, 0, 1]) + struct.pack("!HH", port, 80), tlv=tlv)


def v2_tcp6(client, port, tlv=b""):
    ip = socket.inet_pton(socket.AF_INET6, client)
    return v2(ip + ip + struct.pack("!HH", port, 80), 0x21, tlv=tlv)


def proxied(header=b"", source=PROXY_IP):
    return Raw(PROXY_PORT, source=source).send(header)


def says(r, text):
    assert r.status == 200, r
    assert r.body == f"{len(text)} {text}".encode(), r.body


# ---------------------------------------------------------------------------- PROXY


@pytest.mark.parametrize("header,peer", [
    (v1("192.0.2.7", 4711), "192.0.2.7:4711"),
    (v1("2001:db8::7", 1, "TCP6", "::1"), "[2001:db8::7]:1"),
    (v1("255.255.255.255", 65535), "255.255.255.255:65535"),
    (v2_tcp4("192.0.2.7", 4711), "192.0.2.7:4711"),
    (v2_tcp4("192.0.2.7", 4711, b"\x03\0\x04abcd" + b"\x04\0\x01\0"), "192.0.2.7:4711"),
    (v2_tcp6("2001:db8::7", 9), "[2001:db8::7]:9"),
    (v2_tcp4("192.0.2.7", 1, b"\x04" + struct.pack("!H", 4000) + bytes(4000)), "192.0.2.7:1")])
def test_the_client_is_whom_the_header_names(weir, header, peer):
    with proxied(header + ASK) as c:
        says(c.response(), peer)
        says(c.send(ASK).response(), peer)  # and for all that follows


@pytest.mark.parametrize("header", [
    b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN ffff::1 ::2 x y\r\n",
    v2(command=0x20, family=0), v2(b"whatever", command=0x20, family=0x31),
    v2(family=0), v2(b"tlvs", family=0)])
def test_the_peer_is_the_client_where_none_is_named(weir, header):
    with proxied(header + ASK) as c:
        says(c.response(), "%s:%d" % c.sock.getsockname())


FORWARDED = b"GET /g?g5 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(family=0)])
def test_somebody_unknown_speaks_for_nobody(weir, header):
    """The proxy relays him, so that the field may be his own."""
    before = weir.metric("proxy_unknown_total")
    with proxied(header + FORWARDED) as c:
        says(c.response(), "%s:%d" % c.sock.getsockname())
    assert weir.metric("proxy_unknown_total") == before + 1
    with proxied(v2(command=0x20, family=0) + FORWARDED) as c:
        says(c.response(), "192.0.2.1:0")
    assert weir.metric("proxy_unknown_total") == before + 1


@pytest.mark.parametrize("header", [v1("192.0.2.7", 5), v2_tcp4("192.0.2.7", 5, bytes(20))])
def test_the_header_may_come_byte_by_byte(weir, header):
    with proxied() as c:
        for i in range(len(header)):
            c.send(header[i:i + 1])
        says(c.send(ASK).response(), "192.0.2.7:5")


@pytest.mark.parametrize("header", [
    ASK, b"PROXY\r\n", b"PROXY TCP4\r\n", b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
    b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.256 1 1\r\n",
    b"PROXY TCP4 01.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 ::1 ::1 1 1\r\n",
    b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP6 fe80::1%lo ::1 1 1\r\n",
    b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", b"PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n",
    b"PROXY UNKNOWN" + b" " * 93 + b"\r\n", b"PROXY UNKNOWN" + b"x" * 200,
    V2 + b"\x11\x11\0\x0c", V2 + b"\x22\x11\0\x0c", V2[:-1] + b"\r\x21",
    v2(bytes(11)), v2(bytes(12), 0x21), v2(bytes(12), 0x12), v2(bytes(216), 0x31),
    v2(bytes(12), 0x41), v2(bytes(12), 0x10), v2(length=65535), v2(length=4081), v2(length=0)])
def test_what_is_no_header_closes(weir, header):
    refused = weir.metric("errors_total", code="PROXY")
    with proxied(header) as c:
        c.closed()
    weir.wait_metric("errors_total", refused + 1, code="PROXY")


@pytest.mark.parametrize("part", [b"", b"PROXY TCP4 1.2.3.4", V2, v2_tcp4("1.2.3.4", 5)[:-1]])
def test_the_header_has_a_deadline(weir, part):
    with proxied(part) as c:
        c.closed()


def test_the_header_may_end_early(weir):
    active = weir.metric("connections_active")
    with proxied(b"PROXY TCP4 1.2.3.4") as c:
        c.shut()
        c.closed()
    weir.wait_metric("connections_active", active)


def test_only_proxies_that_are_trusted_may_speak_it(weir):
    before = weir.metric("errors_total", code="PROXY")
    with proxied(v1("192.0.2.7") + ASK, source="127.0.0.8") as c:
        c.closed()
    assert weir.metric("errors_total", code="PROXY") == before + 1


def test_another_listener_takes_no_header(weir):
    with weir.raw(source=PROXY_IP) as c:
        problem(c.send(v1("192.0.2.7") + ASK).response(), 400)


def test_a_second_header_is_no_request(weir):
    with proxied(v1("192.0.2.7") * 2 + ASK) as c:
        problem(c.response(), 400)


def test_a_websocket_behind_the_header(weir):
    with proxied(v1("192.0.2.7", 77)) as c:
        c.upgrade("/hs?f5")
        assert c.handshake.headers.get("x-field") == "192.0.2.7:77"
    assert weir.wait_log("connection_open", path="/hs")["peer"] == "192.0.2.7:77"


# ---------------------------------------------------------------------------- X-Forwarded-For


def client_of(weir, fields, source=PROXY_IP, header=b"", port=None):
    with Raw(port or weir.port, source=source) as c:
        c.send(header + b"GET /g?g5 HTTP/1.1\r\nHost: a\r\n" + fields.encode("latin-1") + b"\r\n")
        r = c.response()
        assert r.status == 200, r
        return r.body.decode().split(" ", 1)[1].replace("%s:%d" % c.sock.getsockname(), "peer")


@pytest.mark.parametrize("fields,client", [
    ("", "peer"),
    ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1:0"),
    ("x-forwarded-for:192.0.2.1:99 \r\n", "192.0.2.1:99"),
    ("X-Forwarded-For: 2001:db8::1\r\n", "[2001:db8::1]:0"),
    ("X-Forwarded-For: [2001:db8::1]:8\r\n", "[2001:db8::1]:8"),
    ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1:0"),
    # the rightmost that is not trusted: what the client wrote itself is to its left
    ("X-Forwarded-For: 10.0.0.1, 192.0.2.1\r\n", "192.0.2.1:0"),
    ("X-Forwarded-For: 10.0.0.1,192.0.2.1 ,\t127.1.2.3\r\n", "192.0.2.1:0"),
    ("X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 192.0.2.1, fd00::1\r\n", "192.0.2.1:0"),
    ("X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 127.1.2.3\r\n", "192.0.2.1:0"),
    ("X-Forwarded-For: 127.1.0.5, 127.1.2.3\r\n", "127.1.0.5:0"),
    # nonsense: the last address that is known
    ("X-Forwarded-For: unknown\r\n", "peer"), ("X-Forwarded-For: \r\n", "peer"),
    ("X-Forwarded-For: 192.0.2.1,\r\n", "peer"), ("X-Forwarded-For: 1.2.3.4.5\r\n", "peer"),
    ("X-Forwarded-For: 192.0.2.1:99999\r\n", "peer"), ("X-Forwarded-For: [192.0.2.1]\r\n", "peer"),
    ("X-Forwarded-For: [::1\r\n", "peer"), ("X-Forwarded-For: ::1]\r\n", "peer"),
    ("X-Forwarded-For: [::1]x\r\n", "peer"), ("X-Forwarded-For: \xff\xfe\r\n", "peer"),
    ("X-Forwarded-For: 192.0.2.1, x, 127.1.2.3\r\n", "127.1.2.3:0"),
    ("X-Forwarded-For: 192.0.2.1 192.0.2.2\r\n", "peer"),
    ("X-Forwarded-For: " + "9" * 3000 + "\r\n", "peer"),
    # more trusted hops than anybody has: the walk ends
    ("X-Forwarded-For: 192.0.2.1" + ", 127.1.2.3" * 500 + "\r\n", "127.1.2.3:0")])
def test_whom_a_trusted_proxy_speaks_for(weir, fields, client):
    assert client_of(weir, fields) == client


def test_nobody_else_speaks_for_others(weir):
    assert client_of(weir, "X-Forwarded-For: 192.0.2.1\r\n", source="127.0.0.1") == "peer"


def test_the_address_of_the_proxy_protocol_is_the_peer_that_is_trusted_or_not(weir):
    field = "X-Forwarded-For: 192.0.2.1\r\n"
    assert client_of(weir, field, header=v1("198.51.100.1", 5), port=PROXY_PORT) == "198.51.100.1:5"
    assert client_of(weir, field, header=v1("127.1.0.1", 5), port=PROXY_PORT) == "192.0.2.1:0"


def test_forwarded_in_handshake_open_and_log(weir):
    with weir.raw(source=PROXY_IP) as c:
        c.upgrade("/hs?F5", "X-Forwarded-For: 192.0.2.99\r\n")
        assert c.message() == (TEXT, b"192.0.2.99:0")
    assert weir.wait_log("connection_open", peer="192.0.2.99:0")


# ---------------------------------------------------------------------------- limits

PARTS = {"modules": {"hs": {"path": guest("hs")}},
         "routes": [{"path": "/echo", "websocket": {"handler": "echo"}},
                    {"path": "/hs", "websocket": {"module": "hs"}}]}


def limited(start, **access):
    """A gateway with a second listener of the PROXY protocol, at .proxy_port."""
    port = free_port()
    w = start({"access": {"trusted": [PROXY_IP], **access}, **PARTS}, start=False)
    w.config["listen"].append({"address": f"{HOST}:{port}", "proxy_protocol": "yes"})
    w.file.write_text(json.dumps(w.config))
    w.proxy_port = port
    return w.start()


def refused(c):
    """429 and how long to wait, and the end."""
    r = c.response()
    problem(r, 429, "PEER_CONNECTIONS")
    assert r.headers.get("retry-after") == "1"
    c.closed()


def test_connections_of_an_address(start):
    w = limited(start, connections_per_ip=3)
    mine = [w.ws("/echo", source="127.0.0.2") for _ in range(3)]
    with w.raw(source="127.0.0.2") as c:
        r = c.response()  # as it comes, before it said anything
        assert r.status == 503 and r.headers.get("retry-after") == "1"
        c.closed()
    assert w.metric("errors_total", code="PEER_CONNECTIONS") == 1
    w.ws("/echo", source="127.0.0.3").close()  # others have their own
    mine.pop().reset()
    w.wait_metric("websockets_active", 2)
    mine.append(w.ws("/echo", source="127.0.0.2"))
    for c in mine:
        c.send(frame(TEXT, b"x"))
        assert c.message() == (TEXT, b"x")
        c.close()


def test_connections_named_by_the_proxy_protocol(start):
    w = limited(start, connections_per_ip=2)

    def open_one(client, family="TCP4", to="1.1.1.1"):
        return Raw(w.proxy_port, source=PROXY_IP).send(v1(client, 9, family, to))

    def six(tail):
        return open_one("2001:db8:1:2" + tail, "TCP6", "::1")

    kept = [open_one("192.0.2.1").upgrade("/echo") for _ in range(2)]
    refused(open_one("192.0.2.1"))
    kept.append(open_one("192.0.2.2").upgrade("/echo"))
    kept += [six("::1").upgrade("/echo"), six(":9:9:9:9").upgrade("/echo")]
    refused(six("::5"))  # of the same /64
    kept.append(open_one("2001:db8:1:3::1", "TCP6", "::1").upgrade("/echo"))
    for c in kept[:2]:
        c.reset()
    w.wait_metric("websockets_active", len(kept) - 2)
    open_one("192.0.2.1").upgrade("/echo").close()
    for c in kept:
        c.close()


def test_those_unknown_count_together(start):
    w = limited(start, connections_per_ip=2)
    echo = handshake("/echo", "X-Forwarded-For: 192.0.2.77\r\n")

    def opened(header):
        c = Raw(w.proxy_port, source=PROXY_IP).send(header + echo)
        assert c.response().status == 101
        return c

    a, _ = kept = [opened(b"PROXY UNKNOWN\r\n"), opened(v2(family=0))]
    refused(Raw(w.proxy_port, source=PROXY_IP).send(b"PROXY UNKNOWN\r\n" + echo))
    local = v2(command=0x20, family=0)  # the proxy itself, which is trusted
    kept += [opened(local), opened(local)]
    refused_as_client = Raw(w.proxy_port, source=PROXY_IP).send(local + echo)  # for whom that one asked twice
    problem(refused_as_client.response(), 429, "PEER_CONNECTIONS")
    kept.append(opened(v1("192.0.2.7")))
    w.config["limits"] = {"idle_timeout": "59s"}  # another worker counts them too
    w.file.write_text(json.dumps(w.config))
    w.signal(signal.SIGHUP)
    w.signalled = False
    w.wait_logs("worker_ready", n=2, timeout=15)
    wait_for("it has taken over", lambda: w.logs("handover_done"))
    for c in kept:
        c.send(frame(TEXT, b"x"))
        assert c.message() == (TEXT, b"x")
    refused(Raw(w.proxy_port, source=PROXY_IP).send(b"PROXY UNKNOWN\r\n" + echo))
    a.reset()
    w.wait_metric("websockets_active", len(kept) - 1)
    kept.append(opened(b"PROXY UNKNOWN\r\n"))
    for c in kept:
        c.close()


@pytest.mark.parametrize("path", ["/echo", "/hs"])  # built in; a guest was asked, and agreed
def test_websockets_of_a_forwarded_client(start, path):
    """The proxy may have any number; whom it speaks for, his share."""
    w = limited(start, connections_per_ip=2)

    def field(client):
        return f"X-Forwarded-For: {client}\r\n"

    kept = [w.raw(source=PROXY_IP).upgrade(path, field("192.0.2.1")) for _ in range(2)]
    with w.raw(source=PROXY_IP) as c:
        r = c.send(handshake(path, field("192.0.2.1"))).response()
        problem(r, 429, "PEER_CONNECTIONS")
        assert r.headers.get("retry-after") == "1"
        c.upgrade(path, field("192.0.2.2"))  # the proxy's connection is not whose it was
    kept.pop().reset()
    w.wait_metric("websockets_active", 1)
    w.raw(source=PROXY_IP).upgrade(path, field("192.0.2.1")).close()
    idle = [w.raw(source=PROXY_IP) for _ in range(10)]
    for c in idle:
        problem(c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response(), 404)
        c.close()
    kept[0].close()


def test_handshakes_of_an_address(start):
    w = limited(start, handshakes_per_ip=1, handshake_burst=4)
    done = 0
    with pytest.raises(AssertionError, match="429"):
        for done in range(30):  # 5, or more where this test is slow
            w.ws("/echo", source="127.0.0.2").close()
    assert done >= 5
    problem(w.raw(source="127.0.0.2").send(handshake("/echo")).response(), 429, "PEER_RATE")
    w.ws("/echo", source="127.0.0.3").close()
    assert w.metric("errors_total", code="PEER_RATE") >= 1
    # requests are no handshakes
    problem(w.raw(source="127.0.0.2").send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response(), 404)

    def again():
        with w.raw(source="127.0.0.2") as c:
            return c.send(handshake("/echo")).response().status == 101
    wait_for("a handshake after a while", again, every=0.2)


def test_handshakes_of_forwarded_clients(start):
    w = limited(start, handshakes_per_ip=1, handshake_burst=0)

    def one(client):
        with w.raw(source=PROXY_IP) as c:
            return c.send(handshake("/echo", f"X-Forwarded-For: {client}\r\n")).response().status

    assert [one("192.0.2.1"), one("192.0.2.2"), one("192.0.2.3")] == [101] * 3
    assert [one(PROXY_IP) for _ in range(5)] == [101] * 5  # the proxy's own
    assert 429 in [one("192.0.2.1") for _ in range(8)]


def test_many_addresses_leave_the_table_bounded(start):
    w = limited(start, handshakes_per_ip=1, connections_per_ip=100)
    with w.raw(source=PROXY_IP) as c, w.ws("/echo", source="127.0.0.2") as held:
        for n in range(0, 30000, 500):  # each is an address; none is a WebSocket
            c.send(b"".join(
                b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"X-Forwarded-For: 10.%d.%d.1\r\n\r\n" % (i >> 8, i & 255)
                for i in range(n, n + 500)))
            for _ in range(500):
                assert c.response().status in (400, 426)
        known, forgotten = w.metric("peers_known"), w.metric("peers_forgotten_total")
        assert known + forgotten == 30001 and forgotten > 0
        assert known <= 20000 + 64 + 4096
        held.send(frame(TEXT, b"x"))
        assert held.message() == (TEXT, b"x")


# ---------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("config,says", [
    ({"access": {"trusted": ["10.0.0.1/8"]}}, "an address or block"),
    ({"access": {"trusted": ["10.0.0.0/33"]}}, "an address or block"),
    ({"access": {"trusted": ["::/8"]}}, "an address or block"),
    ({"access": {"trusted": ["proxy.example"]}}, "an address or block"),
    ({"access": {"trusted": "10.0.0.1"}}, "a list"),
    ({"access": {"connections": 3}}, "unknown key: connections"),
    ({"listen": [{"address": "127.0.0.1:1", "proxy_protocol": "yes"}]}, "needs access"),
    ({"listen": [{"address": "127.0.0.1:1", "proxy_protocol": "v2"}]}, "yes or no")])
def test_configurations_that_are_wrong(tmp_path, config, says):
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps(config))
    r = run_cli("check", file)
    assert r.returncode == 1 and says in r.stderr, r.stderr
