"""Peers that have TLS's keys and seal what no library would: records of every kind after the handshake (RFC 8446 5, RFC 5246 6.2)."""
import ctypes
import ctypes.util
import hashlib
import hmac
import socket
import ssl
import struct

import pytest

from test_tls import NOT_FOUND, ROUTES, Peer, V12, V13, certs, context, s_client, serve, tls_errors, upgraded, echoes  # noqa: F401
from weir import PONG, Closed, frame, handshake

CRYPTO = ctypes.CDLL(ctypes.util.find_library("crypto"))
for name in ("EVP_CIPHER_CTX_new", "EVP_aes_128_gcm"):
    getattr(CRYPTO, name).restype = ctypes.c_void_p
ALERT, HANDSHAKE, DATA = 21, 22, 23


def aes_gcm(key, nonce, aad, data):
    ctx, n = ctypes.c_void_p(CRYPTO.EVP_CIPHER_CTX_new()), ctypes.c_int()
    out, tag = ctypes.create_string_buffer(len(data) + 16), ctypes.create_string_buffer(16)
    ok = [CRYPTO.EVP_EncryptInit_ex(ctx, ctypes.c_void_p(CRYPTO.EVP_aes_128_gcm()), None, key, nonce),
          CRYPTO.EVP_EncryptUpdate(ctx, None, ctypes.byref(n), aad, len(aad)),
          CRYPTO.EVP_EncryptUpdate(ctx, out, ctypes.byref(n), data, len(data)),
          CRYPTO.EVP_EncryptFinal_ex(ctx, None, ctypes.byref(n)), CRYPTO.EVP_CIPHER_CTX_ctrl(ctx, 0x10, 16, tag)]
    CRYPTO.EVP_CIPHER_CTX_free(ctx)
    assert ok == [1] * 5
    return out.raw[:len(data)] + tag.raw


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def expand_label(secret, label, n):
    label = b"tls13 " + label
    return mac(secret, struct.pack("!HB", n, len(label)) + label + b"\0\x01")[:n]


class Forger(Peer):
    """A client that has shaken hands, and seals records itself from then on."""

    def __init__(self, port, tmp_path, version, mss=None):
        super().__init__(port, version, mss)
        log = tmp_path / "keys"
        ctx = context(version)
        ctx.keylog_filename = str(log)
        if version == V12:
            ctx.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        self.tls = ctx.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.seen = b""
        self.handshake()
        words = dict((line.split()[0], line.split()) for line in log.read_text().splitlines() if line[0] != "#")
        self.v13 = version == V13
        if self.v13:
            assert self.tls.cipher()[0] == "TLS_AES_128_GCM_SHA256"
            self.secret = bytes.fromhex(words["CLIENT_TRAFFIC_SECRET_0"][2])
            self.generation()
            return
        _, client, master = words["CLIENT_RANDOM"]
        seed = b"key expansion" + self.seen[11:43] + bytes.fromhex(client)  # ServerHello comes first
        a, block = seed, b""
        while len(block) < 40:
            a = mac(bytes.fromhex(master), a)
            block += mac(bytes.fromhex(master), a + seed)
        self.key, self.iv, self.seq = block[:16], block[32:36], 1

    def receive(self):
        got = self.raw.sock.recv(65536)
        self.seen += got
        if got:
            self.incoming.write(got)
        return got

    def generation(self):
        self.key, self.iv, self.seq = expand_label(self.secret, b"key", 16), expand_label(self.secret, b"iv", 12), 0

    def next_keys(self):
        self.secret = expand_label(self.secret, b"traffic upd", 32)
        self.generation()

    def record(self, kind, data, padding=0):
        seq = struct.pack("!Q", self.seq)
        self.seq += 1
        if self.v13:
            header = struct.pack("!BHH", DATA, 0x303, len(data) + 1 + padding + 16)
            nonce = bytes(a ^ b for a, b in zip(self.iv, bytes(4) + seq))
            return header + aes_gcm(self.key, nonce, header, data + bytes([kind]) + bytes(padding))
        aad = seq + struct.pack("!BHH", kind, 0x303, len(data))
        return struct.pack("!BHH", kind, 0x303, len(data) + 24) + seq + aes_gcm(self.key, self.iv + seq, aad, data)

    def websocket(self):
        self.raw.send(self.record(DATA, handshake("/ws")))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1)
        return self


@pytest.fixture
def w(serve):  # noqa: F811
    return serve()


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_forged_record_is_as_good(w, tmp_path, version):
    c = Forger(w.tls, tmp_path, version)
    c.raw.send(c.record(DATA, NOT_FOUND))
    assert c.read(12) == b"HTTP/1.1 404"


def test_keys_go_on_with_padding(w, tmp_path):
    c = Forger(w.tls, tmp_path, V13)
    for _ in range(100):
        c.raw.send(c.record(HANDSHAKE, b"\x18\0\0\x01\x01", 100))
        c.next_keys()
        c.raw.send(c.record(DATA, NOT_FOUND[:20], 5000) + c.record(DATA, NOT_FOUND[20:], 16384 - len(NOT_FOUND[20:])))
        assert c.read(12) == b"HTTP/1.1 404"
        c.tls.read(1 << 14)


UNEXPECTED = ("unexpected message", [
    (HANDSHAKE, b"\x18\0\0\x01\x02"), (HANDSHAKE, b"\x18\0\0\x02"), (HANDSHAKE, b"\x18\0\0\x01\0\x18\0\0\x01\0"),
    (HANDSHAKE, b"\x18\0\0\x02\0\0"), (HANDSHAKE, b""), (HANDSHAKE, b"\x04\0\0\x02\0\0"), (HANDSHAKE, b"\x0b\0\0\x04\0\0\0\0"),
    (HANDSHAKE, b"\x01\0\0\0"), (HANDSHAKE, b"\x14\0\0\x20" + bytes(32)), (20, b"\x01"), (24, b"\x01\0\x01x"), (0, b""), (0, bytes(99)),
    (ALERT, b""), (ALERT, b"\x01"), (ALERT, b"\x01\0\x01\0"), (255, b"x")])


@pytest.mark.parametrize("kind,data", UNEXPECTED[1], ids=str)
def test_what_is_not_expected(w, tmp_path, kind, data):
    before = tls_errors(w, "TLS_PROTOCOL")
    c = Forger(w.tls, tmp_path, V13)
    c.raw.send(c.record(kind, data))
    with pytest.raises(ssl.SSLError, match=UNEXPECTED[0].replace(" ", "[_ ]")):
        c.read(1)
    assert tls_errors(w, "TLS_PROTOCOL") == before + 1


def test_a_record_has_a_bound_with_its_padding(w, tmp_path):
    c = Forger(w.tls, tmp_path, V13)
    c.raw.send(c.record(DATA, NOT_FOUND, 16384 + 1 - len(NOT_FOUND)))
    with pytest.raises(ssl.SSLError, match="record[_ ]overflow"):
        c.read(1)


def test_renegotiations_between_data_take_no_memory(w, tmp_path):
    c = Forger(w.tls, tmp_path, V12, mss=536).websocket()  # so that both sockets have small buffers
    other = upgraded(w.tls)
    before, sent = w.metric("buffer_bytes"), w.metric("received_bytes_total")
    pairs = b"".join(c.record(HANDSHAKE, b"\x01\0\0\0") + c.record(DATA, frame(PONG, b"")) for _ in range(30000))
    c.raw.send(pairs)
    w.wait_metric("received_bytes_total", lambda n: n >= sent + len(pairs))
    assert w.metric("buffer_bytes") < before + 100000
    echoes(other, b"x")


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("n", [512, 4096])
def test_records_as_short_as_was_agreed(w, version, n):
    """RFC 6066 4."""
    request = b"GET /nothing HTTP/1.1\nHost: localhost\n"
    out = s_client(w, version, "-crlf", "-maxfraglen", str(n), say=[(request + b"\n") * 30 + request + b"Connection: close\n\n"],
                   until=b"onnection: close")
    assert out.count(b"404 Not Found") == 31


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
@pytest.mark.parametrize("groups", ["X25519", "P-521:P-384"], ids=["", "retried"])  # HelloRetryRequest
def test_first_records_of_each_suite(w, tmp_path, suite, groups):
    """OpenSSL opens a record only under the number that is its turn: neither side counts wrong, with a ticket or without."""
    session = tmp_path / "session"
    args = ["-tls1_3", "-crlf", "-ciphersuites", suite, "-groups", groups]
    say = [b"GET /nothing HTTP/1.1\nHost: localhost\nConnection: close\n\n"]
    s_client(w, *args, "-sess_out", str(session), say=say, until=b"404 Not Found")
    out = s_client(w, *args, "-sess_in", str(session), say=say, until=b"404 Not Found")
    assert b"Reused, TLSv1.3, Cipher is " + suite.encode() in out


@pytest.mark.parametrize("parts", [(1, 4), (4, 1), (2, 2, 1), (1, 1, 1, 1, 1)], ids=str)
def test_a_key_update_in_parts(w, tmp_path, parts):
    c = Forger(w.tls, tmp_path, V13)
    for asked in (0, 1, 0):
        update = b"\x18\0\0\x01" + bytes([asked])
        for n in parts:
            c.raw.send(c.record(HANDSHAKE, update[:n]))
            update = update[n:]
        c.next_keys()
        c.raw.send(c.record(DATA, NOT_FOUND))
        assert c.read(12) == b"HTTP/1.1 404"
        c.tls.read(1 << 14)


@pytest.mark.parametrize("kind,data", [(DATA, b"x"), (DATA, b""), (ALERT, b"\x01\0"), (HANDSHAKE, b""), (HANDSHAKE, b"\0\x01\0\0"),
                                       (HANDSHAKE, b"\0\x01\x02"), (HANDSHAKE, b"\x18\0\0\x01\0")], ids=str)
def test_nothing_comes_between_the_parts_of_a_key_update(w, tmp_path, kind, data):
    before = tls_errors(w, "TLS_PROTOCOL")
    c = Forger(w.tls, tmp_path, V13)
    c.raw.send(c.record(HANDSHAKE, b"\x18\0") + c.record(kind, data))
    with pytest.raises(ssl.SSLError, match="unexpected message"):
        c.read(1)
    w.wait_metric("errors_total", before + 1, code="TLS_PROTOCOL")


@pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])
def test_a_key_has_its_time(serve, version):  # noqa: F811
    w = serve(tls={"records": 64})
    c = upgraded(w.tls, ctx=context(version))
    n = 0
    try:
        for _ in range(200):
            echoes(c, b"x")
            n += 1
    except Closed:
        pass
    assert n == 200 if version == V13 else 50 < n < 64, n
    assert tls_errors(w, "TLS_RECORDS") == (version == V12)
    w.wait_metric("connections_closed_total", float(version == V12), reason="TLS")
    again = upgraded(w.tls, ctx=context(version))
    echoes(again, b"x")


def test_a_key_of_what_is_only_sent_has_its_time(serve):  # noqa: F811
    """The gateway's own key is used up first: its answers are large, and many records."""
    w = serve(tls={"records": 64}, limits={"message": "2MiB", "send_queue": "4MiB", "queues": "16MiB"})
    c = upgraded(w.tls, ctx=context(V12))
    c.send(frame(2, bytes(900_000)))
    with pytest.raises(Closed):
        for _ in range(3):
            c.message()
            c.send(frame(2, bytes(900_000)))
    w.wait_metric("errors_total", 1, code="TLS_RECORDS")
