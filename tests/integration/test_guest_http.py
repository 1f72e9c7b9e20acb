"""on_http guests: what they read of a request and say in a response."""
import json

import pytest

from weir import Frame, TEXT, frame, guest, problem, run_cli

CONFIG = {
    "limits": {"body": "100KiB"},
    "modules": {
        "http": {"path": guest("http"), "limits": {"deadline": "50ms", "timeout": "5s", "output": "64KiB"}},
        "portable": {"path": guest("http"), "engine": "pulley", "limits": {"deadline": "100ms"}},
        "unable": guest("unable"),
        "ws": guest("ws"),
    },
    "routes": [{"path": "/g", "http": {"module": "http"}}, {"path": "/g/*", "http": {"module": "http"}},
               {"path": "/p", "http": {"module": "portable"}}, {"path": "/u", "http": {"module": "unable"}},
               {"path": "/ws", "websocket": {"module": "ws"}}],
}
ENGINES = pytest.mark.parametrize("path", ["/g", "/p"])


def ask(weir, path, query, **kw):
    return weir.get(f"{path}?{query}", **kw)


@ENGINES
@pytest.mark.parametrize("status", [200, 201, 202, 299, 301, 400, 404, 418, 500, 599])
def test_status_fields_and_body(weir, path, status):
    r = ask(weir, path, f"s{status}")
    assert r.status == status
    assert r.headers.get("content-type") == "text/x-guest"
    assert r.headers.get("x-guest") == "yes"
    assert r.body == b"0 the body\n"


@pytest.mark.parametrize("status", [0, 1, 99, 100, 101, 199, 600, 999, 65736])
def test_statuses_that_are_none(weir, status):
    """Refused with -3; the response is a 200."""
    r = ask(weir, "/g", f"s{status}")
    assert (r.status, r.body) == (200, b"-3 the body\n")


def test_nothing_said_is_an_empty_200(weir):
    r = ask(weir, "/g", "z")
    assert (r.status, r.body) == (200, b"")
    assert r.headers.get("content-length") == "0"


@pytest.mark.parametrize("status", [200, 204, 301, 400, 403, 404, 503, 599])
@ENGINES
def test_a_returned_status_drops_what_was_said(weir, path, status):
    r = ask(weir, path, f"r{status}")
    assert r.status == status
    assert r.headers.get("x-guest") is None
    assert b"dropped" not in r.body


@pytest.mark.parametrize("status", [1, 42, 99, 100, 101, 199, 600, 1000])
def test_a_returned_status_that_is_none(weir, status):
    doc = problem(ask(weir, "/g", f"r{status}"), 500, "GUEST_RESPONSE")
    assert "dropped" not in json.dumps(doc)


@pytest.mark.parametrize("name,value,result", [
    (b"X-A", b"b", 0), (b"x-a", b"", 0), (b"Set-Cookie", b"a=b; Path=/", 0), (b"X-Latin", b"\xe9\xff", 0),
    (b"X-Tab", b"a\tb", 0), (b"Location", b"https://other.example/", 0), (b"!#$%&'*+-.^_`|~", b"v", 0),
    # the gateway frames the message
    (b"Content-Length", b"1", -3), (b"content-length", b"0", -3), (b"Transfer-Encoding", b"chunked", -3),
    (b"TRANSFER-ENCODING", b"gzip", -3), (b"Connection", b"close", -3), (b"Upgrade", b"h2c", -3), (b"Date", b"now", -3),
    # not a field
    (b"", b"v", -3), (b"X A", b"v", -3), (b"X\r\n", b"v", -3), (b"X\0", b"v", -3), (b"X(", b"v", -3), (b"X\xe9", b"v", -3),
    # a value that would end the line
    (b"X", b"a\r\nSet-Cookie: evil=1", -3), (b"X", b"a\nb", -3), (b"X", b"a\rb", -3), (b"X", b"a\0b", -3), (b"X", b"\x1b[0m", -3),
    (b"X", b"\x7f", -3), (b"X", b"\r\n\r\nHTTP/1.1 200 OK", -3)], ids=repr)
def test_resp_header(weir, name, value, result):
    with weir.raw() as c:
        query = "h" + (name + b":" + value).hex()
        r = c.send(f"GET /g?{query} HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert (r.status, r.body) == (200, b"%d " % result)
        own = {"content-length": [str(len(r.body))], "date": [r.headers.get("date")]}
        got = r.headers.all(name.decode("latin-1")) if name else []
        assert got == ([value.decode("latin-1")] if result == 0 else own.get(name.decode("latin-1").lower(), []))
        assert r.headers.get("set-cookie") == (value.decode() if name == b"Set-Cookie" else None)
        c.send("GET /g?z HTTP/1.1\r\nHost: a\r\n\r\n")
        assert c.response().status == 200


def test_resp_header_limit(weir):
    """Many or long fields: refused with -1, never a broken response."""
    assert ask(weir, "/g", "h" + (b"X:" + b"v" * 1000).hex()).body == b"0 "


@pytest.mark.parametrize("query,body", [
    ("g0", b"3 GET"), ("g1", b"5 /g/xy"), ("g2", b"2 g2"), ("g3X-Test", b"7 one two"), ("g3x-TEST", b"7 one two"),
    ("g3Host", b"3 a:1"), ("g3X-Empty", b"0 "), ("g3X-None", b"-4 "), ("g3", b"-4 "), ("g6", b"-4 "), ("g9", b"-3 ")])
def test_req_get(weir, query, body):
    with weir.raw() as c:
        r = c.send(f"GET /g/xy?{query} HTTP/1.1\r\nHost: a:1\r\nX-Test: \t one two \r\nX-Empty:\r\n\r\n").response()
        assert r.body == body


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_req_get_method(weir, method):
    assert ask(weir, "/g", "g0", method=method).body == f"{len(method)} {method}".encode()


def test_req_get_query_with_all_it_may_hold(weir):
    r = ask(weir, "/g", "g2?a=b&c=%20d/e;")
    assert r.body == b"16 g2?a=b&c=%20d/e;"


def test_req_get_headers(weir):
    with weir.raw() as c:
        text = "Host: a\r\nX-One: 1\r\nx-two:  2 \r\nX-One: again\r\n"
        r = c.send(f"GET /g?g4 HTTP/1.1\r\n{text}\r\n").response()
        n, _, got = r.body.partition(b" ")
        assert int(n) == len(got)
        lines = [x for x in got.decode().split("\r\n") if x]
        assert [x.split(":")[0].lower() for x in lines] == ["host", "x-one", "x-two", "x-one"]
        assert [x.split(":", 1)[1].strip() for x in lines] == ["a", "1", "2", "again"]


def test_req_get_peer(weir):
    with weir.raw() as c:
        r = c.send("GET /g?g5 HTTP/1.1\r\nHost: a\r\n\r\n").response()
        peer = "%s:%d" % c.sock.getsockname()
        assert r.body == f"{len(peer)} {peer}".encode()


@pytest.mark.parametrize("cap,body", [(0, b"6 marked"), (5, b"6 marked"), (6, b"6 /g/abc"), (7, b"6 /g/abc")])
def test_req_get_into_too_small_a_buffer(weir, cap, body):
    """The full length is returned, and nothing written."""
    assert weir.get(f"/g/abc?k{cap}").body == body


@ENGINES
@pytest.mark.parametrize("n", [0, 1, 6, 7, 8, 14, 1000, 60000])
def test_req_body(weir, path, n):
    body = bytes(i * 3 & 0xff for i in range(n))
    assert ask(weir, path, "b", method="POST", body=body).body == body


@pytest.mark.parametrize("offset,want", [(0, b"4 0123"), (3, b"4 3456"), (7, b"3 789"), (9, b"1 9"), (10, b"0 "), (11, b"0 "),
                                         (4294967295, b"0 ")])
def test_req_body_offsets(weir, offset, want):
    assert ask(weir, "/g", f"o{offset}", method="POST", body="0123456789").body == want


def test_req_body_chunked(weir):
    with weir.raw() as c:
        c.send("POST /g?b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n9\r\ndefghijkl\r\n0\r\n\r\n")
        assert c.response().body == b"abcdefghijkl"


def test_req_body_of_a_request_without_one(weir):
    assert ask(weir, "/g", "o0").body == b"0 "


@ENGINES
def test_trap(weir, path):
    """500, and nothing of what it had said."""
    traps = weir.metric("guest_traps_total")
    r = ask(weir, path, "t")
    doc = problem(r, 500, "GUEST_TRAP")
    assert "unreachable" in json.dumps(doc).lower() and r.headers.get("x-guest") is None
    assert weir.metric("guest_traps_total") == traps + 1


@ENGINES
def test_deadline(weir, path):
    ended = weir.metric("guest_deadlines_total")
    problem(ask(weir, path, "l"), 504, "GUEST_DEADLINE")
    assert weir.metric("guest_deadlines_total") == ended + 1


@ENGINES
@pytest.mark.parametrize("which", range(6))
def test_a_pointer_outside_of_memory_traps(weir, path, which):
    """resp_write, req_body, resp_header (name, value), req_get, log."""
    problem(ask(weir, path, f"p{which}"), 500, "GUEST_TRAP")


def test_such_a_trap_says_what_it_is(weir):
    doc = problem(ask(weir, "/g", "p0"), 500, "GUEST_TRAP")
    assert "out of bounds" in json.dumps(doc).lower().replace("_", " ")


def test_output_limit(weir):
    """64 KiB: what goes beyond is refused with -1, what was taken is sent."""
    r = ask(weir, "/g", "w100")
    assert r.headers.get("x-result") == "1"
    assert r.body == b"w" * 65000
    r = ask(weir, "/g", "w65")
    assert r.headers.get("x-result") == "0" and len(r.body) == 65000


def test_default_output_limit_is_1_mib(weir):
    r = ask(weir, "/p", "w1048")
    assert r.headers.get("x-result") == "0" and len(r.body) == 1048000


@ENGINES
def test_fresh_instance_each_request(weir, path):
    with weir.raw() as c:
        c.send(f"GET {path}?i HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
        for _ in range(50):
            assert c.response().body == b"1 1 "


def test_what_is_for_websockets_is_not_for_http(weir):
    """No connection to send to, none to attach to: gone."""
    assert ask(weir, "/g", "v").body == b"-2 -2 "


def test_head_runs_the_guest_as_get_does(weir):
    events = weir.metric("guest_events_total")
    got, head = ask(weir, "/g", "s200"), ask(weir, "/g", "s200", method="HEAD")
    assert head.status == 200 and head.headers.get("content-length") == str(len(got.body))
    assert head.headers.get("x-guest") == "yes"
    assert weir.metric("guest_events_total") == events + 2
    assert ask(weir, "/g", "g0", method="HEAD").headers.get("content-length") == str(len("4 HEAD"))


def test_a_module_without_on_http(start):
    """A route to it is a mistake of the configuration, or answers 404: never a hang."""
    w = start({"modules": {"types": guest("types")}, "routes": [{"path": "/x", "http": {"module": "types"}}]}, start=False)
    r = run_cli("check", w.file)
    if r.returncode == 1:
        assert "on_http" in r.stderr and str(w.file) in r.stderr
    else:
        w.start()
        problem(w.get("/x"), 404, "NOT_FOUND")


def test_an_instance_that_cannot_be_made(weir):
    """Its data does not fit its memory: a trap before it ran; answered, and nothing else is hurt."""
    doc = problem(weir.get("/u"), 500, "GUEST_TRAP")
    assert "out of bounds" in json.dumps(doc).lower().replace("_", " ")
    assert ask(weir, "/g", "s200").status == 200


def test_requests_and_websockets_of_one_connection_pool(weir):
    with weir.ws("/ws") as c:
        for i in range(20):
            assert ask(weir, "/g", "s200").status == 200
            c.send(frame(TEXT, f"e{i}"))
            assert c.frame() == Frame(True, TEXT, str(i).encode())
