#!/usr/bin/env python3
"""Makes the hand-made seeds of tests/fuzz/corpus, byte for byte the same each time. Files named
found-* come from fuzzing (minimised by -merge=1) and are left alone."""
import pathlib
import struct
import sys
import zlib

HERE = pathlib.Path(__file__).resolve().parent / "corpus"


def http():
    h = b"Host: a.example\r\n"
    chunked = b"POST /c HTTP/1.1\r\n" + h + b"Transfer-Encoding: chunked\r\n\r\n"
    upgrade = (b"GET /ws/echo HTTP/1.1\r\n" + h + b"Upgrade: websocket\r\nConnection: keep-alive, "
               b"Upgrade\r\nSec-WebSocket-Version: 13\r\n"
               b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    yield "get", 0x80, b"GET / HTTP/1.1\r\n" + h + b"\r\n"
    yield "get-1-0", 0x40, b"GET /a?b=c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield "trace", 0x20, (b"GET / HTTP/1.1\r\n" + h + b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
                          b"\r\n\r\n")
    yield "absolute", 0x20, b"GET http://b.example:80/x%20?y HTTP/1.1\r\n" + h + b"\r\n"
    yield "ipv6", 0xa0, b"GET https://[::1]:8/ HTTP/1.1\r\nHost: [::1]\r\n\r\n"
    yield "options", 0x10, b"\r\nOPTIONS * HTTP/1.1\r\n" + h + b"\r\n"
    yield "post", 0xc0, (b"POST /api/exec/add HTTP/1.1\r\n" + h +
                         b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n[2.5,3.7]")
    yield "pipelined", 0x90, (b"GET /1 HTTP/1.1\r\n" + h + b"\r\nPUT /2 HTTP/1.1\r\n" + h +
                              b"Content-Length: 2\r\n\r\nokDELETE /3 HTTP/1.1\r\n" + h + b"\r\n")
    yield "upgrade", 0x70, upgrade
    yield "chunked", 0xb0, (chunked + b"5;x=\"y\"\r\nhello\r\nA\r\n0123456789\r\n"
                            b"0\r\nT: v\r\n\r\nGET")
    yield "smuggle", 0x60, (b"POST / HTTP/1.1\r\n" + h +
                            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    yield "fold", 0x50, b"GET / HTTP/1.1\r\n" + h + b"a: b\r\n c\r\n\r\n"
    yield "bare-lf", 0x30, b"GET / HTTP/1.1\nHost: a\n\n"
    yield "nul", 0x33, b"GET / HTTP/1.1\r\n" + h + b"a: \0\r\n\r\n"
    yield "codings", 0x44, (b"PATCH / HTTP/1.1\r\n" + h +
                            b"Transfer-Encoding: gzip, chunked\r\n\r\n")
    yield "long-target", 0x55, b"HEAD /" + b"a" * 140 + b" HTTP/1.1\r\n" + h + b"\r\n"
    yield "many-fields", 0x66, (b"GET / HTTP/1.1\r\n" + h + b"".join(
        b"f%d:%d\r\n" % (i, i) for i in range(70)) + b"\r\n")
    yield "body", 0xff, b"3\r\nabc\r\n4;e\r\ndefg\r\n0\r\nA: b\r\n\r\n\x40"
    yield "body-size", 0xff, b"FFFFFFFF\r\n\x20"
    yield "body-bad", 0xff, b"3\r\nabcd\r\n\x90"


def frame(first, payload, mask=b"\x37\xfa\x21\x3d", length=None):
    n = len(payload)
    if length is None:
        length = 7 if n < 126 else 16 if n < 65536 else 64
    if length == 7:
        head = bytes([first, 0x80 | n])
    elif length == 16:
        head = bytes([first, 0xfe]) + struct.pack(">H", n)
    else:
        head = bytes([first, 0xff]) + struct.pack(">Q", n)
    return head + mask + bytes(b ^ mask[i & 3] for i, b in enumerate(payload))


def ws():
    euro = "€".encode()
    cuts = bytes([0x50, 0xa0])
    large, small = cuts + b"\x0f", cuts + b"\x04"
    yield "text", large + frame(0x81, b"Hello")
    yield "binary", large + frame(0x82, bytes(range(200)))
    yield "empty", large + frame(0x81, b"") + frame(0x82, b"")
    yield "fragments", large + (frame(0x01, b"a" + euro[:1]) + frame(0x89, b"ping") +
                                frame(0x00, euro[1:2]) + frame(0x80, euro[2:] + b"z"))
    yield "controls", large + (frame(0x89, b"") + frame(0x8a, b"x" * 125) +
                               frame(0x88, b"\x03\xe8bye"))
    yield "close-empty", large + frame(0x88, b"")
    yield "close-one", large + frame(0x88, b"\x03")
    yield "close-1005", large + frame(0x88, b"\x03\xed")
    yield "close-utf8", large + frame(0x88, b"\x03\xe8\xff")
    yield "not-utf8", large + frame(0x81, b"abc\xed\xa0\x80")
    yield "cut-utf8", large + frame(0x81, b"abc" + euro[:2])
    yield "too-large", small + frame(0x82, b"x" * 17)
    yield "too-large-parts", small + frame(0x02, b"x" * 16) + frame(0x80, b"x")
    yield "fits", small + frame(0x02, b"x" * 9) + frame(0x80, b"x" * 7)
    yield "long-form-16", large + frame(0x82, b"short", length=16)
    yield "long-form-64", large + frame(0x82, b"short", length=64)
    yield "length-63", large + b"\x82\xff\x80\0\0\0\0\0\0\0mask"
    yield "unmasked", large + b"\x81\x05Hello"
    yield "reserved", large + frame(0xc1, b"Hello")
    yield "opcode", large + frame(0x83, b"Hello")
    yield "control-parts", large + frame(0x09, b"ping")
    yield "control-long", large + frame(0x89, b"x" * 126)
    yield "stray", large + frame(0x80, b"x")
    yield "within", large + frame(0x01, b"x") + frame(0x81, b"y")
    deflate = cuts + b"\x1f"
    hello = bytes.fromhex("f248cdc9c90700")
    yield "deflate", deflate + frame(0xc1, hello) + frame(0x82, b"plain") + frame(0xc2, b"\0")
    yield "deflate-fragments", deflate + (frame(0x41, hello[:3]) + frame(0x89, b"p") +
                                          frame(0x00, b"\xff") + frame(0x80, hello[3:]))
    yield "deflate-continuation", deflate + frame(0x41, hello) + frame(0xc0, b"")
    yield "deflate-control", deflate + frame(0xc9, b"")
    yield "deflate-eighth", cuts + b"\x14" + frame(0xc2, b"x" * 82) + frame(0xc2, b"x" * 83)
    yield "many", large + b"".join(frame(0x81, b"m%d" % i) for i in range(20))


def extensions():
    pd = "permessage-deflate"
    yield "plain", pd
    yield "window", pd + "; server_max_window_bits=15; client_max_window_bits"
    yield "all", (pd + "; server_no_context_takeover; client_no_context_takeover; "
                  "server_max_window_bits=\"1\\2\"; client_max_window_bits=10")
    yield "several", f"x; y=z, {pd}; server_max_window_bits=8, {pd}; unknown, {pd}"
    yield "twice", pd + "; client_max_window_bits; client_max_window_bits"
    yield "empty", ",, ,"
    yield "cut", pd + "; a=\"b\\"
    yield "semicolon", pd + ";"


def deflated():
    for name, data in (("short", b"Hello"), ("text", b"weir water " * 90), ("zeros", bytes(70000)),
                       ("bytes", bytes(range(256)))):
        for level in (1, 9) if len(data) > 1000 else (0, 1, 9):
            z = zlib.compressobj(level, zlib.DEFLATED, -15)
            yield f"{name}-{level}", b"\xff\xff" + (z.compress(data) + z.flush(zlib.Z_SYNC_FLUSH))[:-4]
    yield "last", b"\xff\xff" + bytes.fromhex("f348cdc9c90700f348cdc9c9070000")
    yield "blocks", b"\xff\xff" + b"\2\0\0\0\xff\xff" * 300
    yield "bomb", b"\x01\0" + zlib.compress(bytes(60000))[2:-4]
    yield "cut", b"\xff\xff" + bytes.fromhex("f248cd")
    yield "distance", b"\xff\xff" + b"\2\x13\0\0"


def tls():
    for kind in range(8):  # each cipher in each version, each type
        if kind % 4 < 3:
            yield f"kind-{kind}", bytes([kind | kind << 4, 37 * kind, 31 * kind]) + b"content %d" % kind
    yield "nothing", b"\4\0\0"
    yield "large", b"\4\x80\x80" + bytes(range(256)) * 8
    yield "record", b"\0\1\2\x17\3\3\0\x20" + b"x" * 32


CONFIGS = {
    "full": """\
listen:
  - address: 0.0.0.0:8080
  - {address: "[::1]:0"}
admin: {address: 127.0.0.1:6060}
drain: 5s
log_level: debug
cache: /tmp/cache
limits: {connections: 100, message: 1KiB, send_queue: 2MiB, head: 8KiB, idle_timeout: 1m}
modules:
  add: add.wat
  echo: {path: echo.wat, engine: pulley, exec: yes, limits: {memory: 4MiB, deadline: 50ms}}
routes:
  - {path: /ws/echo, websocket: {module: echo, origins: ["*"], subprotocols: [a, b]}}
  - {path: "/raw/*", websocket: {handler: echo}}
  - {path: /hello, http: {module: add}}
""",
    "access": """\
access: {connections_per_ip: 5, handshakes_per_ip: 2, handshake_burst: 0, trusted: [10.0.0.0/8, "::1"]}
listen: [{address: "0.0.0.0:80", proxy_protocol: yes}, {address: "0.0.0.0:81", proxy_protocol: no}]
routes:
  - path: /a
    websocket: {handler: echo}
    jwt: {algorithm: RS256, key_file: a.pem, audience: x, issuer: y, leeway: 5s,
          from: [header, "cookie:a", "query:b", subprotocol]}
modules: {m: {path: m.wat, jwt: {algorithm: HS256, key: "x"}}}
""",
    "access-odd": """\
access: {trusted: [10.0.0.1/8, x, 5], connections_per_ip: x, handshake_burst: -1}
listen: [{proxy_protocol: maybe}]
routes: [{path: /a, http: {module: m}, jwt: {algorithm: none, from: [body, "cookie:"]}}, {path: /b, jwt: 5}]
""",
    "empty": "",
    "comment": "# nothing\n",
    "variables": "limits: {message: ${WEIR_FUZZ}, body: \"${NO_SUCH:-2KiB}\"}\ncache: $$x${NONE}\n",
    "typos": "lisen: []\nlimits: {conections: 5, message: [], head: -1}\nadmin: {adress: x}\n",
    "twice": "drain: 1s\ndrain: 2s\nmodules: {a: a.wat, a: b.wat}\n",
    "ranges": "limits: {message: 1, head: 99999999, guests: 0, head_timeout: 1ms}\n",
    "kinds": "limits: 5\nmodules: []\nroutes: {}\nlisten: x\n",
    "routes": "routes: [{path: x}, {path: /a*b, websocket: {}}, {http: {module: none}}, 5]\n",
    "admin": "admin: {address: 0.0.0.0:1}\nlisten: [{address: \"1.2.3.4:99999\"}, {}]\n",
    "not-yaml": "a: [b\n",
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nroutes: *c\n",
    "cycle": "modules: &m {a: *m}\nroutes: &r [*r, *r]\n",
    "deep": "a: " + "[" * 60 + "]" * 60 + "\n",
    "documents": "drain: 1s\n---\ndrain: 2s\n",
    "key": "? [a, b]\n: c\n? {d: e}\n: f\n",
    "tags": "drain: !!int 1s\n!x limits: !y {}\n",
    "block": "cache: |\n  a\n  b\nlog_level: >-\n  info\n",
    "crlf": "drain: 1s\r\nlimits:\r\n  head: 8KiB\r\n",
}


V2 = b"\r\n\r\n\0\r\nQUIT\n"
ACCESS = {
    "v1": b"PPROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET",
    "v1-six": b"PPROXY TCP6 2001:db8::1 ::1 65535 0\r\n",
    "v1-unknown": b"PPROXY UNKNOWN x y z\r\n",
    "v1-long": b"PPROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    "v1-odd": b"PPROXY TCP4 1.2.3.4  1.2.3.4 01 99999\r\n",
    "v2": b"P" + V2 + b"\x21\x11\0\x0c\xc0\0\2\1\xc0\0\2\2\x13\x88\0\x50GET",
    "v2-six": b"P" + V2 + b"\x21\x21\0\x24" + bytes(range(36)),
    "v2-tlv": b"P" + V2 + b"\x21\x11\0\x14\1\2\3\4\1\2\3\4\0\1\0\2\3\0\4abcd\4",
    "v2-local": b"P" + V2 + b"\x20\0\0\0",
    "v2-long": b"P" + V2 + b"\x21\x11\xff\xff",
    "forwarded": b"F192.0.2.1, 10.0.0.2:80 ,\t[fd00::1]:5",
    "forwarded-many": b"F1.2.3.4" + b",10.0.0.1" * 50,
    "forwarded-odd": b"F,,x, [::1, ::ffff:10.1.2.3",
    "block": b"F10.0.0.0/8",
    "block-six": b"F2001:db8::/32",
    "token": b"TeyJhbGciOiJIUzI1NiJ9.eyJleHAiOjJ9.AAAA",
    "token-none": b"TeyJhbGciOiJub25lIn0.eyJleHAiOjJ9.",
    "token-dots": b"T..",
    "signed": b'S{"alg":"HS256"}\0{"exp":9e9,"sub":"ann","nbf":0}',
    "signed-odd": b'S{"alg":"HS256","typ":"at+jwt"}\0{"exp":1000,"sub":[1,{"a":1.5e300}],"x":"\\u00e9"}',
    "signed-deep": b'S{"alg":"HS256"}\0{"exp":9e9,"a":' + b"[" * 17 + b"]" * 17 + b"}",
    "signed-twice": b'S{"alg":"HS256"}\0{"exp":9e9,"exp":1}',
    "signed-crit": b'S{"alg":"HS256","crit":[]}\0{"exp":9e9}',
    "signed-not-json": b'S{"alg":"HS256"}\0{"exp":9e9',
}
def record(kind, *fields):
    body = b"".join(bytes([tag]) + struct.pack("<I", len(data)) + data for tag, data in fields)
    return bytes([kind]) + struct.pack("<I", len(body)) + body


def handover():
    def number(n):
        return struct.pack("<Q", n)
    text = struct.pack("<H", 3) + b"s\0t"
    conn = record(7, (0, number(1 << 32 | 1)), (1, number(2)), (2, number(4)), (8, b"attached"), (9, text * 2), (10, b"\1\x80mask"),
                  (11, b"saved"), (12, b"queue"))
    yield "all", (record(1, (0, number(1)), (1, number(8))) + record(2, (0, b"/ws"), (1, b"handler 1 in public")) + record(3, (0, b"m")) +
                  record(8) + record(4, (0, number(1)), (1, b"\1\0")) + record(5, (2, b"key"), (3, b"value")) +
                  record(6, (1, number(3)), (3, number(9))) + conn + record(8, (0, number(1))) + record(9) + record(10))
    yield "cut", conn[:-3]
    yield "unknown", record(7, (15, b"x"), (200, b""))
    yield "twice", record(3, (0, b"a"), (0, b"b"))
    yield "short-number", record(7, (0, b"1234"))
    yield "beyond", b"\7\6\0\0\0\0\2\0\0\0x"
    yield "kind", record(99)
    yield "topics", record(7, (9, text + b"\xff\xff"))


def main():
    made = {}
    for name, data in handover():
        made[f"handover/{name}"] = data
    for name, where, data in http():
        made[f"http_request/{name}"] = bytes([where]) + data
    for name, data in ws():
        made[f"ws_frame/{name}"] = data
    for name, text in extensions():
        made[f"ws_extension/{name}"] = text.encode()
    for name, data in deflated():
        made[f"ws_deflate/{name}"] = data
    for name, data in tls():
        made[f"tls_record/{name}"] = data
    for name, text in CONFIGS.items():
        made[f"config/{name}"] = text.encode()
    for name, data in ACCESS.items():
        made[f"access/{name}"] = data
    for name, data in made.items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(made)} seeds, {sum(map(len, made.values()))} bytes in {HERE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
