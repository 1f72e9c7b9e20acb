"""TLS: versions, names, ALPN, tickets, certificates that are replaced, handshakes that fail, starve or flood, and data both ways. Clients
are Python's ssl; those over memory (Peer) say where each of their bytes goes."""
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

from weir import BINARY, CLOSE, HOST, Raw, TEXT, Weir, frame, free_port, handshake, refuses_to_serve, run_cli, wait_for

ROUTES = [{"path": "/ws", "websocket": {"handler": "echo"}}]
NOT_FOUND = b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)


def certify(folder, name, *names, rsa=False):
    """Makes folder/name.pem and its key: self-signed, for the names."""
    kind = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    openssl("req", "-x509", "-newkey", *kind, "-nodes", "-days", "30", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key",
            "-out", folder / f"{name}.pem", "-addext", "subjectAltName=" + ",".join("DNS:" + n for n in names))
    return {"certificate": str(folder / f"{name}.pem"), "key": str(folder / f"{name}.key")}


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs")
    made = {"one": certify(folder, "one", "localhost"), "two": certify(folder, "two", "two.test", "*.wild.test"),
            "exact": certify(folder, "exact", "a.wild.test"), "rsa": certify(folder, "rsa", "localhost", rsa=True)}
    openssl("req", "-new", "-key", folder / "one.key", "-subj", "/CN=old", "-out", folder / "old.csr")
    openssl("x509", "-req", "-in", folder / "old.csr", "-signkey", folder / "one.key", "-days", "-1", "-out", folder / "old.pem")
    openssl("ec", "-in", folder / "one.key", "-aes128", "-passout", "pass:secret", "-out", folder / "locked.key")
    made["old"] = {"certificate": str(folder / "old.pem"), "key": str(folder / "one.key")}
    made["locked"] = {"certificate": str(folder / "one.pem"), "key": str(folder / "locked.key")}
    made["mixed"] = {"certificate": str(folder / "one.pem"), "key": str(folder / "two.key")}
    return made


def with_tls(w, tls):
    """Gives a gateway that has not started a second listener, with TLS."""
    w.tls = free_port()
    w.config["listen"].append({"address": f"{HOST}:{w.tls}", "tls": tls})
    w.file.write_text(json.dumps(w.config, indent=1))
    return w


@pytest.fixture
def serve(start, certs):
    def make(pair=None, **config):
        config.setdefault("routes", ROUTES)
        return with_tls(start(config, start=False), pair or certs["one"]).start()
    return make


@pytest.fixture(scope="module")
def shared(tmp_path_factory, cache, certs, _running):
    w = Weir(tmp_path_factory.mktemp("tls"), cache, {"routes": ROUTES, "log_level": "debug"}, start=False)
    _running.append(w)
    with_tls(w, [certs["one"], certs["two"], certs["exact"]]).start()
    yield w
    w.stop()


def context(version=None, alpn=None):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    if version:
        c.minimum_version = c.maximum_version = version
    if alpn:
        c.set_alpn_protocols(alpn)
    return c


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


class Tls(Raw):
    """Raw over TLS. An end without close_notify is a failure."""

    def __init__(self, port, ctx=None, name="localhost", session=None, **kw):
        super().__init__(port, **kw)
        try:
            self.sock = (ctx or context()).wrap_socket(self.sock, server_hostname=name, session=session,
                                                       suppress_ragged_eofs=False)
        except BaseException:
            self.sock.close()
            raise

    def names(self):
        """DNS names of the certificate that was shown, by what is in its bytes."""
        der = self.sock.getpeercert(True)
        return {n for n in (b"localhost", b"two.test", b"a.wild.test") if n in der}


class Peer:
    """A client whose records go out as it is told: over memory, beside a plain socket."""

    def __init__(self, port, version=None, mss=None):
        self.raw = Raw(port, mss=mss, rcvbuf=mss and 4096)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(version).wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def step(self):
        """One more of what the handshake writes, b'' where it needs the gateway."""
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            self.done = False
        return self.outgoing.read()

    def receive(self):
        got = self.raw.sock.recv(65536)
        if got:
            self.incoming.write(got)
        else:
            self.incoming.write_eof()
        return got

    def handshake(self, send=None):
        send = send or self.raw.send
        while True:
            out = self.step()
            if out:
                send(out)
            if self.done:
                return self
            assert self.receive(), "the gateway ended within the handshake"

    def seal(self, data):
        self.tls.write(data)
        return self.outgoing.read()

    def read(self, n):
        data = b""
        while len(data) < n:
            try:
                got = self.tls.read(n - len(data))
                if not got:
                    return data
                data += got
            except ssl.SSLWantReadError:
                self.receive()
        return data


def upgraded(port, **kw):
    return Tls(port, **kw).upgrade("/ws")


def echoes(c, data, kind=BINARY):
    c.send(frame(kind, data))
    assert c.message() == (kind, data)


def tls_errors(w, code):
    return w.metric("errors_total", code=code)


# ---------------------------------------------------------------------------- what is agreed on


@VERSIONS
def test_http_and_websocket(weir, version):
    with Tls(weir.tls, context(version)) as c:
        assert c.sock.version() == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
        for _ in range(3):
            assert c.send(NOT_FOUND).response().status == 404
    with Tls(weir.tls, context(version)) as c:
        c.upgrade("/ws")
        for n in (0, 1, 125, 126, 16384, 65535, 65536):
            echoes(c, os.urandom(n))
        c.send(frame(CLOSE, struct.pack("!H", 1000)))
        c.fails(1000)


def test_ciphers_are_aead_with_forward_secrecy(weir):
    for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"):
        ctx = context(V12)
        ctx.set_ciphers(cipher)
        with Tls(weir.tls, ctx) as c:
            assert c.sock.cipher()[0] == cipher
            assert c.send(NOT_FOUND).response().status == 404
    before = tls_errors(weir, "TLS_VERSION")
    for cipher in ("ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "AES128-GCM-SHA256"):
        ctx = context(V12)
        ctx.set_ciphers(cipher)
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            Tls(weir.tls, ctx)
    weir.wait_metric("errors_total", before + 3, code="TLS_VERSION")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_versions_are_refused(weir):
    before = tls_errors(weir, "TLS_VERSION")
    ctx = context(ssl.TLSVersion.TLSv1_1)
    ctx.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        Tls(weir.tls, ctx)
    weir.wait_metric("errors_total", before + 1, code="TLS_VERSION")


@pytest.mark.parametrize("name,shown", [("localhost", b"localhost"), ("two.test", b"two.test"), ("x.wild.test", b"two.test"),
                                        ("TWO.TEST", b"two.test"), ("a.wild.test", b"a.wild.test"), ("x.y.wild.test", b"localhost"),
                                        ("wild.test", b"localhost"), ("unknown.test", b"localhost"), (None, b"localhost")])
def test_the_certificate_is_chosen_by_name(weir, name, shown):
    with Tls(weir.tls, name=name) as c:
        assert shown in c.names()


@VERSIONS
def test_alpn(weir, version):
    for offered in (["http/1.1"], ["h2", "http/1.1"]):
        with Tls(weir.tls, context(version, offered)) as c:
            assert c.sock.selected_alpn_protocol() == "http/1.1"
    with Tls(weir.tls, context(version)) as c:
        assert c.sock.selected_alpn_protocol() is None
    before = tls_errors(weir, "TLS_ALPN")
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        Tls(weir.tls, context(version, ["h2"]))
    weir.wait_metric("errors_total", before + 1, code="TLS_ALPN")


# ---------------------------------------------------------------------------- sessions


def session_of(c):
    """After data has come: the tickets of 1.3 are before it."""
    assert c.send(NOT_FOUND).response().status == 404
    return c.sock.session


@VERSIONS
def test_sessions_are_resumed(weir, version):
    ctx = context(version)
    before = weir.metric("tls_resumptions_total")
    with Tls(weir.tls, ctx) as c:
        session = session_of(c)
        assert not c.sock.session_reused
    for i in range(3):
        with Tls(weir.tls, ctx, session=session) as c:
            assert c.sock.session_reused
            session = session_of(c)
    assert weir.metric("tls_resumptions_total") == before + 3


@VERSIONS
def test_sessions_outlive_a_worker(serve, version):
    w = serve()
    w.may_die = True
    ctx = context(version)
    with Tls(w.tls, ctx) as c:
        session = session_of(c)
    pid = w.worker_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for("another worker serves", lambda: w.worker_pids() not in ([], [pid]) and len(w.logs("worker_ready")) == 2)
    with Tls(w.tls, ctx, session=session) as c:
        assert c.sock.session_reused
        assert c.send(NOT_FOUND).response().status == 404


def test_ticket_keys_are_rotated(serve):
    w = serve(tls={"ticket_rotation": "1s"})
    ctx = context(V12)
    with Tls(w.tls, ctx) as c:
        session = session_of(c)
        kept = session

    def forgotten():
        with Tls(w.tls, ctx, session=kept) as c:
            return not c.sock.session_reused

    end = time.monotonic() + 2.5  # through at least one rotation: a session that is used goes on
    while time.monotonic() < end:
        with Tls(w.tls, ctx, session=session) as c:
            assert c.sock.session_reused
            session = session_of(c)
    wait_for("the oldest key is gone", forgotten, timeout=8, every=0.2)


# ---------------------------------------------------------------------------- certificates


def put(pair, like):
    for part in ("certificate", "key"):
        shutil.copy(like[part], pair[part] + ".new")
        os.rename(pair[part] + ".new", pair[part])


def shown(w):
    with Tls(w.tls) as c:
        return c.names()


@pytest.fixture
def swap(serve, certs, tmp_path):
    pair = {"certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    put(pair, certs["one"])
    w = serve(pair)
    w.pair = pair
    return w


def test_certificates_are_replaced(swap, certs):
    w = swap
    old = upgraded(w.tls)
    put(w.pair, certs["two"])
    w.signal(signal.SIGHUP)
    w.signalled = False
    w.wait_logs("certificates_loaded", n=2, listener=f"{HOST}:{w.tls}")
    assert shown(w) == {b"two.test"}
    put(w.pair, certs["exact"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    wait_for("the third is shown", lambda: shown(w) == {b"a.wild.test"})
    put(w.pair, certs["rsa"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    wait_for("the RSA one is shown", lambda: shown(w) == {b"localhost"})
    assert b"localhost" in old.names()
    echoes(old, b"still here")
    assert len(w.wait_logs("worker_start", 1)) == 1


def test_a_restarted_worker_has_the_replaced_ones(swap, certs):
    w = swap
    w.may_die = True
    put(w.pair, certs["two"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    wait_for("the second is shown", lambda: shown(w) == {b"two.test"})
    put(w.pair, certs["mixed"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    w.wait_metric("tls_certificates_failed_total", 1)
    os.kill(w.worker_pid(), signal.SIGKILL)
    w.wait_logs("worker_ready", n=2)
    assert shown(w) == {b"two.test"}


@pytest.mark.parametrize("how,why", [("mixed", "not the certificate's"), ("locked", "passphrase"), ("gone", "can't read"),
                                     ("empty", "no certificate"), ("garbage", "no certificate"), ("cut", "no certificate")])
def test_a_broken_one_leaves_the_old(swap, certs, how, why):
    w = swap
    if how in certs:
        put(w.pair, certs[how])
    elif how == "gone":
        os.unlink(w.pair["key"])
    else:
        text = {"empty": b"", "garbage": os.urandom(5000), "cut": open(w.pair["certificate"], "rb").read()[:200]}[how]
        open(w.pair["certificate"], "wb").write(text)
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    line = w.wait_log("certificates_refused")
    assert why in line["detail"] and line["file"] == str(w.file)
    assert w.file.read_text().splitlines()[line["line"] - 1].strip().startswith('"tls": {')
    assert shown(w) == {b"localhost"}
    w.wait_metric("tls_certificates_failed_total", 1)


def write(folder, tls):
    file = folder / "w.yaml"
    file.write_text("listen:\n  - address: 127.0.0.1:%d\n    tls: %s\nadmin: {address: '127.0.0.1:%d'}\n" %
                    (free_port(), json.dumps(tls), free_port()))
    return file


@pytest.mark.parametrize("how,why", [("mixed", "the key is not the certificate's"), ("locked", "without a passphrase"),
                                     ("gone", "can't read")])
def test_check_and_serve_refuse(certs, tmp_path, how, why):
    tls = certs.get(how, {"certificate": "nothing.pem", "key": "nothing.key"})
    file = write(tmp_path, tls)
    r = run_cli("check", file)
    assert r.returncode == 1 and f"{file}:3: " in r.stderr and why in r.stderr, r.stderr
    r = refuses_to_serve(file, timeout=15)
    assert r.returncode == 1 and why in r.stderr, r.stderr


def test_check_warns_of_what_has_expired(certs, tmp_path):
    r = run_cli("check", write(tmp_path, [certs["one"], certs["old"]]))
    assert r.returncode == 0 and "w.yaml:3: warning: " in r.stderr and "has expired" in r.stderr
    r = run_cli("check", write(tmp_path, [certs["one"]]))
    assert r.returncode == 0 and r.stderr == ""


@pytest.mark.parametrize("tls,why", [({}, "tls needs certificate: FILE and key: FILE"), ({"certificate": "a"}, "tls needs"),
                                     ([], "1 to 16 certificates"), ("x", "a list is expected"), ({"cert": "a"}, "known here"),
                                     ({"certificate": "", "key": ""}, "is a file"), ([{"certificate": ["a"], "key": "b"}], "plain value")])
def test_configuration(tmp_path, tls, why):
    r = run_cli("check", write(tmp_path, tls))
    assert r.returncode == 1 and f"{tmp_path}/w.yaml:3: " in r.stderr and why in r.stderr, r.stderr


def test_without_tls_nothing_of_it_is_there(start):
    w = start({"routes": ROUTES})
    assert w.metric("tls_bytes") == 0


# ---------------------------------------------------------------------------- handshakes that go wrong


def test_plain_http_is_told(weir):
    before = tls_errors(weir, "TLS_PLAIN")
    for request in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /" + b"x" * 20000):
        with Raw(weir.tls) as c:
            r = c.send(request).rest()
            assert r.startswith(b"HTTP/1.1 400 ") and r.endswith(b"HTTPS, not HTTP")
    weir.wait_metric("errors_total", before + 2, code="TLS_PLAIN")


HELLO = b"\x16\x03\x01"  # a handshake record's beginning
GARBAGE = {"zeros": b"\0" * 5000, "text": b"hello, is anybody there?\r\n" * 10, "a huge record": HELLO + b"\xff\xff" + b"x" * 66000,
           "an empty record": HELLO + b"\0\0", "no ClientHello": HELLO + b"\0\x04\x02\0\0\0", "a ClientHello of nothing": HELLO + b"\0\x04\x01\0\0\0",
           "a ClientHello without end": HELLO + b"\x40\0" + b"\x01\xff\xff\xff" + b"x" * 16380, "data": b"\x17\x03\x03\0\x10" + b"x" * 16,
           "an alert": b"\x15\x03\x03\0\x02\x02\x28", "SSL 2": b"\x80\x2e\x01\x00\x02\0\x15\0\0\0\x10" + b"x" * 40}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage(weir, what):
    active = weir.metric("connections_active")
    with Raw(weir.tls) as c:
        c.send(GARBAGE[what])
        c.shut()
        c.rest()
    weir.wait_metric("connections_active", lambda n: n <= active)
    weir.wait_metric("tls_handshakes_active", 0)


def test_random_bytes_in_a_handshake(weir):
    seeded = random.Random(7)
    for _ in range(60):
        p = Peer(weir.tls)
        hello = bytearray(p.step())
        for _ in range(seeded.randrange(1, 6)):
            hello[seeded.randrange(len(hello))] = seeded.randrange(256)
        p.raw.send(bytes(hello))
        p.raw.shut()
        p.raw.rest()
        p.raw.close()
    weir.wait_metric("tls_handshakes_active", 0)
    with Tls(weir.tls) as c:
        assert c.send(NOT_FOUND).response().status == 404


@VERSIONS
def test_byte_by_byte(weir, version):
    def drip(data):
        for i in range(len(data)):
            p.raw.send(data[i:i + 1])
    p = Peer(weir.tls, version)
    p.handshake(drip)
    drip(p.seal(NOT_FOUND))
    assert p.read(12) == b"HTTP/1.1 404"


@VERSIONS
def test_the_last_flight_and_data_in_one_packet(weir, version):
    held = []
    p = Peer(weir.tls, version)
    if version == V13:
        p.raw.send(p.step())
        while not p.done:
            p.receive()
            held.append(p.step())
        p.raw.send(b"".join(held) + p.seal(NOT_FOUND) + p.seal(NOT_FOUND))
    else:
        p.handshake()
        p.raw.send(p.seal(NOT_FOUND) + p.seal(NOT_FOUND))
    assert p.read(12) == b"HTTP/1.1 404"


@pytest.mark.parametrize("n", [0, 1, 4, 5, 6, 100])
def test_half_a_hello_and_an_end(weir, n):
    active = weir.metric("connections_active")
    p = Peer(weir.tls)
    p.raw.send(p.step()[:n])
    p.raw.shut()
    p.raw.rest()
    p.raw.close()
    weir.wait_metric("connections_active", lambda n: n <= active)


def test_reset_midway(weir):
    active = weir.metric("connections_active")
    for _ in range(20):
        p = Peer(weir.tls)
        p.raw.send(p.step())
        p.receive()
        p.raw.reset()
    weir.wait_metric("connections_active", lambda n: n <= active)
    weir.wait_metric("tls_handshakes_active", 0)


@VERSIONS
def test_a_broken_record(weir, version):
    before = tls_errors(weir, "TLS_PROTOCOL")
    p = Peer(weir.tls, version).handshake()
    record = bytearray(p.seal(NOT_FOUND))
    record[-1] ^= 1
    p.raw.send(bytes(record))
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        p.read(1)
    weir.wait_metric("errors_total", before + 1, code="TLS_PROTOCOL")
    line = weir.wait_log("tls_failed", code="TLS_PROTOCOL")
    assert line["detail"] and len(line["conn_id"]) == 16
    closed = weir.metric("connections_closed_total", reason="TLS")
    p.raw.close()
    weir.wait_metric("connections_closed_total", closed + 1, reason="TLS")


@VERSIONS
@pytest.mark.parametrize("header", [b"\x17\x03\x03\x48\x01", b"\x17\x03\x03\xff\xff", b"\x63\x03\x03\0\x10", b"\x17\x03\x03\0\0",
                                    b"\x14\x03\x03\0\x01\x01"])
def test_odd_records_after_the_handshake(weir, version, header):
    active = weir.metric("connections_active")
    p = Peer(weir.tls, version).handshake()
    p.raw.send(header + b"x" * 20000)
    p.raw.shut()
    p.raw.rest()
    p.raw.close()
    weir.wait_metric("connections_active", lambda n: n <= active)


def test_handshakes_have_a_deadline_and_turns(start, certs):
    w = with_tls(start({"routes": ROUTES, "tls": {"handshakes": 2, "handshake_timeout": "2s"}}, start=False), certs["one"]).start()
    open_ws = upgraded(w.tls)
    stuck = []
    for _ in range(2):
        p = Peer(w.tls)
        p.raw.send(p.step())
        p.receive()
        stuck.append(p)
    w.wait_metric("tls_handshakes_active", 2)
    silent = Raw(w.tls)
    third = Peer(w.tls)
    third.raw.send(third.step())
    w.wait_metric("tls_handshakes_held_total", 1)
    echoes(open_ws, b"others go on")
    stuck[0].raw.reset()  # its place is the third one's
    third.receive()
    third.handshake()
    third.raw.send(third.seal(NOT_FOUND))
    assert third.read(12) == b"HTTP/1.1 404"
    stuck[1].raw.rest()
    silent.closed()
    w.wait_metric("errors_total", 2, code="TLS_TIMEOUT")
    w.wait_metric("tls_handshakes_active", 0)
    echoes(open_ws, b"and on")


def test_a_hundred_at_once(serve):
    w = serve()
    done = []

    def one():
        with Tls(w.tls) as c:
            done.append(c.send(NOT_FOUND).response().status)

    threads = [threading.Thread(target=one) for _ in range(100)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(15)
    assert done == [404] * 100
    assert w.metric("tls_handshakes_total") == 100


# ---------------------------------------------------------------------------- data


@VERSIONS
def test_messages_of_every_size_and_cut(weir, version):
    p = Peer(weir.tls, version).handshake()
    p.raw.send(p.seal(handshake("/ws", "", "AAAAAAAAAAAAAAAAAAAAAA==", "localhost")))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += p.read(1)
    sent, wire = b"", b""
    for i in range(300):
        data = os.urandom(i * i % 3000)
        sent += data
        wire += p.seal(frame(BINARY, data))
    sender = threading.Thread(target=lambda: [p.raw.send(wire[i:i + 997]) for i in range(0, len(wire), 997)])
    sender.start()
    got = b""
    while len(got) < len(sent):
        first, n = p.read(2)
        if n == 126:
            n = struct.unpack("!H", p.read(2))[0]
        got += p.read(n)
    sender.join()
    assert got == sent


@VERSIONS
def test_records_of_a_byte(weir, version):
    p = Peer(weir.tls, version).handshake()
    p.raw.send(p.seal(handshake("/ws")))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += p.read(1)
    data = os.urandom(9000)
    p.raw.send(b"".join(p.seal(bytes([x])) for x in frame(BINARY, data)))
    assert p.read(4 + len(data))[4:] == data


@VERSIONS
def test_a_slow_reader_of_much(serve, version):
    w = serve(limits={"send_queue": "8MiB", "queues": "16MiB"})
    c = Tls(w.tls, context(version), rcvbuf=4096, timeout=15).upgrade("/ws")
    sent = [os.urandom(65536) for _ in range(60)]
    for data in sent:
        c.send(frame(BINARY, data))
    w.wait_metric("queued_bytes", lambda v: v > 0)
    for data in sent:
        assert c.message() == (BINARY, data)
    w.wait_metric("queued_bytes", 0)
    c.send(frame(CLOSE, struct.pack("!H", 1000)))
    c.fails(1000)


ROOMS = [{"path": "/topic/*", "websocket": {"handler": "pubsub"}},
         {"path": "/lossy/*", "websocket": {"handler": "pubsub", "space": "lossy", "on_slow": "drop-oldest"}}]
SLOW = {"send_queue": "64KiB", "queues": "2MiB", "slow_timeout": "5s"}


def publish_until(w, path, done, size=4093):
    """Numbered messages by a plain member, who takes each; how many."""
    with w.raw() as c:
        c.upgrade(path)
        for n in range(20000):
            data = struct.pack("!I", n) + bytes(size)
            c.send(frame(BINARY, data))
            assert c.message() == (BINARY, data)
            if n % 64 == 63 and done():
                return n + 1
    raise AssertionError("it did not happen")


@VERSIONS
def test_a_member_that_reads_too_slowly_is_told(serve, version):
    w = serve(routes=ROOMS, limits=SLOW)
    slow = Tls(w.tls, context(version), rcvbuf=4096).upgrade("/topic/x")
    sent = publish_until(w, "/topic/x", lambda: w.metric("slow_closed_total"))
    for n in range(sent):
        f = slow.frame()
        if f.opcode == CLOSE:
            break
        assert f.opcode == BINARY and len(f.payload) == 4097 and f.payload[:4] == struct.pack("!I", n)
    assert f.opcode == CLOSE and f.payload[:2] == struct.pack("!H", 1013)
    slow.closed()


@VERSIONS
def test_what_is_dropped_is_whole_messages(serve, version):
    w = serve(routes=ROOMS, limits=SLOW)
    slow = Tls(w.tls, context(version), rcvbuf=4096).upgrade("/lossy/x")
    sent = publish_until(w, "/lossy/x", lambda: w.metric("frames_dropped_total") > 50)
    last = -1
    while last + 1 < sent:
        kind, data = slow.message()
        n = struct.unpack("!I", data[:4])[0]
        assert kind == BINARY and len(data) == 4097 and n > last
        last = n
    w.wait_metric("queued_bytes", 0)
    slow.send(frame(CLOSE, struct.pack("!H", 1000)))
    slow.fails(1000)


def test_sealed_records_count_for_the_budget(serve):
    """Of a message of two records that the socket does not take, all but a byte is sealed; it is counted, and given back."""
    w = serve(routes=ROOMS, limits={**SLOW, "queues": "96KiB"})
    held = [Tls(w.tls, rcvbuf=4096).upgrade("/topic/x") for _ in range(16)]  # each keeps up to 33 KB so

    def over():
        assert w.metric("queues_bytes") <= 96 << 10
        return w.metric("queues_exceeded_total")

    publish_until(w, "/topic/x", over, size=28000)
    for c in held:
        c.close()
    w.wait_metric("websockets_active", 0)
    w.wait_metric("queues_bytes", 0)


def test_a_reader_that_never_reads_is_ended(serve):
    w = serve(routes=ROOMS, limits={**SLOW, "send_timeout": "300ms", "slow_timeout": "300ms"})
    c = Tls(w.tls, rcvbuf=4096).upgrade("/topic/x")
    publish_until(w, "/topic/x", lambda: w.metric("slow_closed_total"))
    w.wait_metric("websockets_active", 0)
    w.wait_metric("queued_bytes", 0)
    c.close()


def test_the_gateway_ends_with_close_notify(weir):
    with Tls(weir.tls) as c:
        r = c.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").response()
        assert r.status == 404
        assert c.sock.recv(10) == b""  # not an error: suppress_ragged_eofs is off


@VERSIONS
def test_a_peer_that_has_said_all_is_still_answered(weir, version):
    p = Peer(weir.tls, version).handshake()
    out = p.seal(NOT_FOUND)
    with pytest.raises(ssl.SSLWantReadError):
        p.tls.unwrap()
    before = tls_errors(weir, "TLS_TRUNCATED")
    p.raw.send(out + p.outgoing.read())
    if version == V12:
        p.raw.shut()
    data = b""
    while p.receive():
        pass
    try:
        while True:
            got = p.tls.read(4096)
            if not got:
                break
            data += got
    except ssl.SSLError:
        pass
    if version == V13:
        assert b"404 Not Found" in data
    assert tls_errors(weir, "TLS_TRUNCATED") == before


def test_truncation_is_counted(weir):
    before = tls_errors(weir, "TLS_TRUNCATED")
    c = upgraded(weir.tls)
    c.sock.close()
    weir.wait_metric("errors_total", before + 1, code="TLS_TRUNCATED")


def s_client(w, *args, say, until, timeout=10):
    """openssl s_client: lines of one letter are its commands."""
    p = subprocess.Popen(["openssl", "s_client", "-connect", f"{HOST}:{w.tls}", *args], bufsize=0, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    out = []
    reader = threading.Thread(target=lambda: [out.append(x) for x in iter(lambda: p.stdout.read(4096), b"")])
    reader.start()
    try:
        wait_for("s_client is connected", lambda: b"Verify return code" in b"".join(out), timeout)
        for n, line in enumerate(say):
            with contextlib.suppress(BrokenPipeError):
                p.stdin.write(line)
            if line in (b"k\n", b"K\n"):  # what follows in the same read would be lost
                wait_for("the command is taken", lambda: b"".join(out).count(b"KEYUPDATE") > n or until in b"".join(out), timeout)
        wait_for(str(until), lambda: until in b"".join(out), timeout)
    finally:
        p.kill()
        p.wait()
        reader.join()
    return b"".join(out)


REQUEST = b"GET /nothing HTTP/1.1\nHost: localhost\n\n"


@pytest.mark.parametrize("command", [b"k\n", b"K\n"])
def test_keys_are_updated(weir, command):
    out = s_client(weir, "-tls1_3", "-crlf", say=[command, command, REQUEST],
                   until=b"404 Not Found")
    assert b"KEYUPDATE" in out


def test_too_many_keys_without_data(weir):
    before = tls_errors(weir, "TLS_PROTOCOL")
    s_client(weir, "-tls1_3", say=[b"k\n"] * 40, until=b"unexpected message")
    weir.wait_metric("errors_total", before + 1, code="TLS_PROTOCOL")


def test_no_renegotiation(weir):
    out = s_client(weir, "-tls1_2", say=[b"R\n"], until=b"no renegotiation")
    assert b"RENEGOTIATING" in out


def test_a_stop_tells_websockets(serve):
    w = serve()
    c = upgraded(w.tls)
    half = Raw(w.tls)
    w.wait_metric("connections_active", lambda n: n >= 3)
    w.signal(signal.SIGTERM)
    c.close_frame(1001)
    half.closed()
    c.send(frame(CLOSE, struct.pack("!H", 1001)))
    c.closed()
    assert w.wait_exit() == 0


def test_too_many_connections_are_ended(serve):
    w = serve(limits={"connections": 2})
    kept = [upgraded(w.tls) for _ in range(2)]
    with Raw(w.tls) as c:
        c.closed()
    w.wait_metric("connections_refused_total", 1)
    for c in kept:
        echoes(c, b"x", TEXT)


def test_all_memory_is_given_back(serve):
    w = serve()
    with Tls(w.tls) as c:
        session_of(c)
    w.wait_metric("connections_active", lambda n: n <= 1)
    before = w.metric("tls_bytes")
    for _ in range(3):
        for c in [upgraded(w.tls, ctx=context(v)) for v in (V12, V13) for _ in range(20)]:
            echoes(c, bytes(20000))
            c.close()
        for _ in range(20):
            with pytest.raises(ssl.SSLError):
                Tls(w.tls, context(alpn=["h2"]))
        w.wait_metric("connections_active", lambda n: n <= 1)
    after = w.metric("tls_bytes")
    assert after - before < 4096, (before, after)


# ---------------------------------------------------------------------------- beside other things


def test_several_loops(serve, certs, tmp_path):
    pair = {"certificate": str(tmp_path / "c.pem"), "key": str(tmp_path / "k.pem")}
    put(pair, certs["one"])
    w = serve(pair, workers=3)
    held = [upgraded(w.tls) for _ in range(12)]
    ctx = context(V12)
    with Tls(w.tls, ctx) as c:
        session = session_of(c)
    for _ in range(12):  # whichever loop it comes to
        with Tls(w.tls, ctx, session=session) as c:
            assert c.sock.session_reused
    put(pair, certs["two"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    w.wait_metric("tls_certificates_total", 2)
    assert [shown(w) for _ in range(12)] == [{b"two.test"}] * 12
    put(pair, certs["mixed"])
    assert run_cli("reload", "--admin", f"{HOST}:{w.admin}").returncode == 0
    w.wait_metric("tls_certificates_failed_total", 1)
    assert [shown(w) for _ in range(12)] == [{b"two.test"}] * 12
    for c in held:
        echoes(c, b"still here")


@pytest.mark.parametrize("cut", [False, True])
def test_behind_a_proxy(start, certs, cut):
    w = start({"routes": ROUTES, "access": {"trusted": [HOST]}}, start=False)
    with_tls(w, certs["one"])
    w.config["listen"][1]["proxy_protocol"] = "yes"
    w.file.write_text(json.dumps(w.config, indent=1))
    w.start()
    p = Peer(w.tls)
    header, hello = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 443\r\n", p.step()
    p.raw.send(header + hello[:50] if cut else header + hello)
    if cut:
        w.wait_metric("tls_handshakes_active", 1)
        p.raw.send(hello[50:])
    p.receive()
    p.handshake()
    p.raw.send(p.seal(NOT_FOUND))
    assert p.read(12) == b"HTTP/1.1 404"
