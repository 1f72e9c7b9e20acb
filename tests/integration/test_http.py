"""HTTP/1.1 on the wire: RFC 9110, RFC 9112, and what this gateway refuses for strictness."""
import pytest

from weir import Gate, HOST, Raw, Watch, guest, problem, rounds

CONFIG = {
    "limits": {"head": "2KiB", "target": "512", "body": "1KiB", "head_timeout": "5s"},
    "modules": {
        "add": guest("add"),
        "types": {"path": guest("types"), "limits": {"deadline": "20s", "timeout": "30s"}},
        "http": {"path": guest("http")},
    },
    "routes": [{"path": "/hello", "http": {"module": "http"}},
               {"path": "/ws/raw", "websocket": {"handler": "echo"}},
               {"path": "/deep/*", "http": {"module": "http"}},
               {"path": "/deep/er/*", "websocket": {"handler": "echo"}}],
}


def add(a, b, extra="", version="1.1", target="/api/exec/add"):
    body = f"[{a},{b}]"
    return (f"POST {target} HTTP/{version}\r\nHost: a\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n{body}")


GET = "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n"

# ---------------------------------------------------------------------------- connections


def test_keep_alive(weir):
    with weir.raw() as c:
        for i in range(20):
            r = c.send(add(i, 0.5)).response()
            assert (r.status, r.body) == (200, f"{i}.5\n".encode())
            assert r.version == "1.1" and r.reason == "OK"
            assert r.headers.get("connection") is None
            assert r.headers.get("content-type") == "application/json"
        assert weir.metric("connections_active") >= 2  # this one and the admin's


def test_pipelined_answers_in_order(weir):
    with weir.raw() as c:
        c.send("".join(add(i, 1000) for i in range(300)))
        for i in range(300):
            r = c.response()
            assert (r.status, r.body) == (200, f"{i + 1000}\n".encode())


def test_pipelined_answers_in_order_behind_a_slow_guest(weir):
    """A guest that yields must not let the next request of its connection overtake it."""
    n = str(rounds(40000000))
    spin = f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(n) + 2}\r\n\r\n[{n}]"
    with weir.raw() as c:
        c.send(spin + add(1, 2) + GET + spin + "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        assert c.response().body == f"{n}\n".encode()
        assert c.response().body == b"3\n"
        assert c.response().status == 200
        assert c.response().body == f"{n}\n".encode()
        assert c.response().status == 404


@pytest.mark.parametrize("value", ["close", "CLOSE", "foo, Close", "close, foo"])
def test_connection_close(weir, value):
    with weir.raw() as c:
        c.send(add(1, 2, f"Connection: {value}\r\n") + add(3, 4))
        r = c.response()
        assert r.body == b"3\n" and r.headers.get("connection") == "close"
        c.closed()


def test_http_1_0(weir):
    with weir.raw() as c:
        r = c.send("POST /api/exec/add HTTP/1.0\r\nContent-Length: 5\r\n\r\n[1,2]").response()
        assert r.body == b"3\n" and r.headers.get("connection") == "close"
        c.closed()


def test_http_1_0_keep_alive(weir):
    with weir.raw() as c:
        for i in range(3):
            r = c.send(add(i, 2, "Connection: Keep-Alive\r\n", "1.0")).response()
            assert r.body == f"{i + 2}\n".encode()
            assert r.headers.get("connection") == "keep-alive"


def test_http_1_0_ignores_expect(weir):
    with weir.raw() as c:
        r = c.send(add(1, 2, "Expect: 100-continue\r\n", "1.0")).response()
        assert (r.status, r.body) == (200, b"3\n")


def test_half_closed_client_gets_its_answer(weir):
    with weir.raw() as c:
        c.send(add(1, 2)).shut()
        assert c.response().body == b"3\n"
        c.closed()


def test_half_closed_client_gets_a_slow_guests_answer(weir):
    n = str(rounds(100000000))
    with weir.raw() as c:
        c.send(f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(n) + 2}\r\n\r\n[{n}]").shut()
        r = c.response()
        assert (r.status, r.body) == (200, f"{n}\n".encode())
        c.closed()


def test_half_closed_client_gets_all_pipelined_answers(weir):
    with weir.raw() as c:
        c.send("".join(add(i, 0) for i in range(50))).shut()
        for i in range(50):
            assert c.response().body == f"{i}\n".encode()
        c.closed()


def test_half_closed_amid_a_request(weir):
    """What never becomes a request gets no 200, and the connection ends."""
    with weir.raw() as c:
        c.send(add(1, 2)[:-2]).shut()
        got = c.rest()
        assert b" 200 " not in got


def test_reset_amid_a_request_is_survived(weir):
    before = weir.metric("connections_active")
    for _ in range(20):
        c = weir.raw()
        c.send(add(1, 2)[:30])
        c.reset()
    for _ in range(20):
        c = weir.raw()
        n = str(rounds(20000000))
        c.send(f"POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {len(n) + 2}\r\n\r\n[{n}]")
        c.reset()
    weir.wait_metric("connections_active", before, timeout=10)
    weir.wait_metric("guests_running", 0, timeout=10)
    assert weir.exec("add", "[1,2]") == "3"


def test_every_byte_split(weir):
    """One request cut in two at every place, the second part only once the first was read."""
    text = ("\r\nPOST /api/exec/add?q HTTP/1.1\r\nHost: a:1\r\nX: \t y \r\n"
            "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n[1\r\n3\r\n,2]\r\n0\r\nT: v\r\n\r\n").encode()
    gate = Gate(weir)
    for i in range(1, len(text)):
        with weir.raw() as c:
            c.send(text[:i])
            gate.passed(i)
            c.send(text[i:])
            gate.passed(len(text) - i)
            r = c.response()
            assert (r.status, r.body) == (200, b"3\n"), i


def test_byte_by_byte(weir):
    text = add(20, 22).encode()
    gate = Gate(weir)
    with weir.raw() as c:
        for i in range(len(text)):
            c.send(text[i:i + 1])
            gate.passed(1)
        assert c.response().body == b"42\n"


def test_a_request_across_two_pipelined_writes(weir):
    both = (add(1, 2) + add(3, 4)).encode()
    gate = Gate(weir)
    for i in range(len(add(1, 2)) - 3, len(add(1, 2)) + 40, 3):
        with weir.raw() as c:
            c.send(both[:i])
            gate.passed(i)
            c.send(both[i:])
            gate.passed(len(both) - i)
            assert [c.response().body, c.response().body] == [b"3\n", b"7\n"]


# ---------------------------------------------------------------------------- bodies


def test_content_length_body(weir):
    with weir.raw() as c:
        assert c.send(add(2.5, 3.7)).response().body == b"6.2\n"


@pytest.mark.parametrize("chunks", [
    "5\r\n[1,2]\r\n0\r\n\r\n",
    "0005\r\n[1,2]\r\n0\r\n\r\n",
    "1\r\n[\r\n3\r\n1,2\r\n1\r\n]\r\n000\r\n\r\n",
    "5;name=value\r\n[1,2]\r\n0;last\r\n\r\n",
    '5;name="quoted; \\" value"\r\n[1,2]\r\n0\r\n\r\n',
    "5\r\n[1,2]\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n",
    "A\r\n[1,      2\r\n1\r\n]\r\n0\r\n\r\n",
    "a\r\n[1,      2\r\n1\r\n]\r\n0\r\n\r\n",
])
def test_chunked_body(weir, chunks):
    with weir.raw() as c:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n" +
               chunks + add(3, 4))
        assert c.response().body == b"3\n"
        assert c.response().body == b"7\n"


@pytest.mark.parametrize("chunks", [
    "G\r\n", "\r\n", " 5\r\n[1,2]\r\n0\r\n\r\n", "5 \r\n[1,2]\r\n0\r\n\r\n", "-5\r\n[1,2]\r\n",
    "+5\r\n[1,2]\r\n0\r\n\r\n", "0x5\r\n[1,2]\r\n0\r\n\r\n", "5\n[1,2]\r\n0\r\n\r\n",
    "5\r[1,2]\r\n0\r\n\r\n", "5\r\n[1,2]0\r\n\r\n", "5\r\n[1,2]\n0\r\n\r\n", "5\r\n[1,2]\r0\r\n\r\n",
    "4\r\n[1,2]\r\n0\r\n\r\n", "5;a\0b\r\n[1,2]\r\n0\r\n\r\n", "5;a\nb\r\n[1,2]\r\n0\r\n\r\n",
    "5\r\n[1,2]\r\n0\r\nT: a\0b\r\n\r\n", "5\r\n[1,2]\r\n0\r\nT: v\n\r\n",
    "5\r\n[1,2]\r\n0\r\n: v\r\n\r\n", "5\r\n[1,2]\r\n0\r\nT : v\r\n\r\n",
    "5\r\n[1,2]\r\n0\r\nno colon\r\n\r\n", "5\r\n[1,2]\r\n0\r\n folded\r\n\r\n",
    "00000000000000005\r\n[1,2]\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "10000000000000005\r\n[1,2]",
])
def test_bad_chunks(weir, chunks):
    """Two parsers must not disagree on where a chunk ends: 400 (or 413 for a size that no body may
    have), and nothing after it is read as a request."""
    with weir.raw() as c:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
               chunks + "\r\n" + add(3, 4))
        r = c.response()
        if chunks.startswith(("ffff", "1000")):
            problem(r, r.status, {400: "HTTP_CHUNK", 413: "HTTP_BODY_SIZE"}[r.status])
        else:
            problem(r, 400, "HTTP_CHUNK")
        assert r.headers.get("connection") == "close"
        c.closed()


def test_body_of_a_refused_request_is_read_over(weir):
    """404 and 405 end well: the connection goes on behind their bodies."""
    with weir.raw() as c:
        c.send("POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n" +
               "GET /evil HTTP/1.1\r\nHost: evil.test\r\n\r\n".ljust(40, "x") +
               "PUT /api/exec/add HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
               "3\r\nabc\r\n0\r\n\r\n" + add(1, 2))
        problem(c.response(), 404, "NOT_FOUND")
        problem(c.response(), 405, "METHOD")
        assert c.response().body == b"3\n"


def test_get_with_a_body(weir):
    with weir.raw() as c:
        c.send("GET /hello?s200 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /" + add(1, 2))
        assert c.response().body == b"0 the body\n"
        assert c.response().body == b"3\n"


def test_expect_100_continue(weir):
    body = "[1,2]"
    with weir.raw() as c:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n"
               f"Content-Length: {len(body)}\r\n\r\n")
        assert c.response().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert c.buf == b""
        assert c.send(body).response().body == b"3\n"
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
               "Transfer-Encoding: chunked\r\n\r\n")
        assert c.response().status == 100
        assert c.send("5\r\n[3,4]\r\n0\r\n\r\n").response().body == b"7\n"


def test_expect_with_the_body_already_there(weir):
    with weir.raw() as c:
        c.send(add(1, 2, "Expect: 100-continue\r\n") + add(3, 4))
        assert c.final().body == b"3\n"
        assert c.final().body == b"7\n"


def test_expect_without_a_body(weir):
    with weir.raw() as c:
        c.send("GET /hello HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
        assert c.final().status == 200


def test_expect_for_too_large_a_body_is_refused_at_once(weir):
    with weir.raw() as c:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
               "Content-Length: 1025\r\n\r\n")
        problem(c.response(), 413, "HTTP_BODY_SIZE")
        c.closed()


# ---------------------------------------------------------------------------- methods, targets


@pytest.mark.parametrize("target,status", [
    ("/hello?s200", 200), ("/hello?r404", 404), ("/api/exec/add", 405), ("/nothing", 404),
    ("/ws/raw", 426), ("/hello?t", 500), ("/hello?w100", 200)])
def test_head(weir, target, status):
    """No body, and the length that GET would have had."""
    with weir.raw() as c:
        got = c.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").response()
        head = c.send(f"HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n").response(head=True)
        assert got.status == head.status == status
        assert head.headers.get("content-length") == str(len(got.body))
        assert head.headers.get("content-type") == got.headers.get("content-type")
        assert c.send(add(1, 2)).response().body == b"3\n"


def allow(r):
    return {x.strip() for x in r.headers.get("allow").split(",")}


def test_options(weir):
    with weir.raw() as c:
        r = c.send("OPTIONS /api/exec/add HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert r.status in (200, 204) and r.body == b"" and allow(r) == {"POST", "OPTIONS"}
        r = c.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert r.status in (200, 204) and r.body == b""
        assert c.send("OPTIONS /nothing HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_method_not_allowed(weir, method):
    with weir.raw() as c:
        r = c.send(f"{method} /api/exec/add HTTP/1.1\r\nHost: a\r\n\r\n").response()
        problem(r, 405, "METHOD")
        assert allow(r) == {"POST", "OPTIONS"}
        assert c.send(add(1, 2)).response().body == b"3\n"


def test_absolute_form(weir):
    with weir.raw() as c:
        for scheme in ("http", "HTTP", "https"):
            r = c.send(add(1, 2, target=f"{scheme}://other.example:8080/api/exec/add")).response()
            assert r.body == b"3\n"
        r = c.send("GET http://other.example?g1 HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert r.status == 404, "an empty path is /"


def test_query_is_no_part_of_the_path(weir):
    with weir.raw() as c:
        assert c.send(add(1, 2, target="/api/exec/add?x=/y?z")).response().body == b"3\n"


def test_longest_route_wins(weir):
    with weir.raw() as c:
        assert c.send("GET /deep/x?g1 HTTP/1.1\r\nHost: a\r\n\r\n").response().body == b"7 /deep/x"
        assert c.send("GET /deep HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 404
        assert c.send("GET /hello/ HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 404
        assert c.send("GET /helloo HTTP/1.1\r\nHost: a\r\n\r\n").response().status == 404


def test_an_empty_line_before_a_request(weir):
    """RFC 9112 2.2: at least one is to be let through."""
    with weir.raw() as c:
        c.send("\r\n" + add(1, 2) + "\r\n" + add(3, 4))
        assert [c.response().body, c.response().body] == [b"3\n", b"7\n"]


# ---------------------------------------------------------------------------- refusals

HEAD = "POST /api/exec/add HTTP/1.1\r\nHost: a\r\n"
LEN = "Content-Length: 5\r\n"
BODY = "\r\n[1,2]"
BAD = [
    # the request line
    ("no_version", "GET /hello\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("empty_version", "GET /hello \r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("two_spaces", "GET  /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("two_spaces_after", "GET /hello  HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("tab", "GET\t/hello\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("space_first", " GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("space_last", "GET /hello HTTP/1.1 \r\nHost: a\r\n\r\n", 400, None),
    ("space_in_target", "GET /hel lo HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("lower_version", "GET /hello http/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("other_protocol", "GET /hello HTTPS/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("version_digits", "GET /hello HTTP/1.10\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("version_letters", "GET /hello HTTP/1.x\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("version_comma", "GET /hello HTTP/1,1\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("empty_method", " /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("method_no_token", "G@T /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_REQUEST_LINE"),
    ("tls", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, None),
    ("garbage", "\xff\xfe\xfd\r\n\r\n", 400, None),
    ("http_2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP_VERSION"),
    ("http_0_9", "GET /hello HTTP/0.9\r\nHost: a\r\n\r\n", 505, "HTTP_VERSION"),
    ("http_3", "GET /hello HTTP/3.0\r\nHost: a\r\n\r\n", 505, "HTTP_VERSION"),
    ("unknown_method", "BREW /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501, "HTTP_METHOD"),
    ("lower_method", "get /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501, "HTTP_METHOD"),
    ("connect", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501, "HTTP_METHOD"),
    ("trace", "TRACE /hello HTTP/1.1\r\nHost: a\r\n\r\n", 501, "HTTP_METHOD"),
    # the target
    ("target_no_slash", "GET hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_star", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_fragment", "GET /hello#x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_percent", "GET /hel%lo HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_percent_end", "GET /hello%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_raw_byte", "GET /h\xe9llo HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_scheme", "GET ftp://a/hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_TARGET"),
    ("target_no_authority", "GET http:///hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("target_userinfo", "GET http://u@a/hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, None),
    ("target_nul", "GET /hel\0lo HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_CONTROL"),
    # line ends
    ("bare_lf_line", "GET /hello HTTP/1.1\nHost: a\r\n\r\n", 400, "HTTP_LINE_END"),
    ("bare_lf_field", "GET /hello HTTP/1.1\r\nHost: a\n\r\n", 400, "HTTP_LINE_END"),
    ("bare_lf_end", "GET /hello HTTP/1.1\r\nHost: a\r\n\n", 400, "HTTP_LINE_END"),
    ("bare_lf_all", "GET /hello HTTP/1.1\nHost: a\n\n", 400, "HTTP_LINE_END"),
    ("bare_lf_first", "\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_LINE_END"),
    ("bare_cr", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400, "HTTP_LINE_END"),
    ("bare_cr_line", "GET /hello\rX HTTP/1.1\r\nHost: a\r\n\r\n", 400, "HTTP_LINE_END"),
    ("cr_cr_lf", "GET /hello HTTP/1.1\r\nHost: a\r\r\n\r\n", 400, "HTTP_LINE_END"),
    # fields
    ("fold_space", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "HTTP_FOLD"),
    ("fold_tab", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n", 400, "HTTP_FOLD"),
    ("fold_first", "GET /hello HTTP/1.1\r\n Host: a\r\n\r\n", 400, "HTTP_FOLD"),
    ("nul_value", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400, "HTTP_CONTROL"),
    ("nul_name", "GET /hello HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n", 400, "HTTP_CONTROL"),
    ("control_value", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400, "HTTP_CONTROL"),
    ("escape_value", "GET /hello HTTP/1.1\r\nHost: a\r\nX: \x1b[31m\r\n\r\n", 400, "HTTP_CONTROL"),
    ("del_value", "GET /hello HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", 400, "HTTP_CONTROL"),
    ("vt_value", "GET /hello HTTP/1.1\r\nHost: a\r\nX: \x0bb\r\n\r\n", 400, "HTTP_CONTROL"),
    ("space_colon", "GET /hello HTTP/1.1\r\nHost : a\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("tab_colon", "GET /hello HTTP/1.1\r\nHost: a\r\nX\t: a\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("no_colon", "GET /hello HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("empty_name", "GET /hello HTTP/1.1\r\nHost: a\r\n: v\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("name_space", "GET /hello HTTP/1.1\r\nHost: a\r\nX Y: v\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("name_paren", "GET /hello HTTP/1.1\r\nHost: a\r\nX(: v\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    ("name_byte", "GET /hello HTTP/1.1\r\nHost: a\r\nX\xe9: v\r\n\r\n", 400, "HTTP_FIELD_NAME"),
    # Host
    ("no_host", "GET /hello HTTP/1.1\r\nX: a\r\n\r\n", 400, "HTTP_HOST"),
    ("no_fields", "GET /hello HTTP/1.1\r\n\r\n", 400, "HTTP_HOST"),
    ("two_hosts", "GET /hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "HTTP_HOST"),
    ("two_other_hosts", "GET /hello HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n", 400, "HTTP_HOST"),
    ("host_list", "GET /hello HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "HTTP_HOST"),
    ("host_path", "GET /hello HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "HTTP_HOST"),
    ("host_user", "GET /hello HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "HTTP_HOST"),
    ("host_space", "GET /hello HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "HTTP_HOST"),
    ("host_port", "GET /hello HTTP/1.1\r\nHost: a:x\r\n\r\n", 400, "HTTP_HOST"),
    ("host_v6", "GET /hello HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "HTTP_HOST"),
    ("two_hosts_absolute", "GET http://a/hello HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "HTTP_HOST"),
    ("no_host_absolute", "GET http://a/hello HTTP/1.1\r\n\r\n", 400, "HTTP_HOST"),
    # Content-Length
    ("two_lengths", HEAD + LEN + LEN + BODY, 400, "HTTP_LENGTH"),
    ("other_lengths", HEAD + LEN + "Content-Length: 6\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("length_list", HEAD + "Content-Length: 5, 5\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("empty_length", HEAD + "Content-Length: \r\n" + BODY, 400, "HTTP_LENGTH"),
    ("plus_length", HEAD + "Content-Length: +5\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("minus_length", HEAD + "Content-Length: -5\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("minus_zero_length", HEAD + "Content-Length: -0\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("hex_length", HEAD + "Content-Length: 0x5\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("real_length", HEAD + "Content-Length: 5.0\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("space_length", HEAD + "Content-Length: 5 5\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("word_length", HEAD + "Content-Length: five\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("wrapped_length", HEAD + "Content-Length: 18446744073709551621\r\n" + BODY, 400, "HTTP_LENGTH"),
    ("digit_length", HEAD + "Content-Length: \xb2\r\n" + BODY, 400, "HTTP_LENGTH"),
    # Transfer-Encoding
    ("both", HEAD + LEN + "Transfer-Encoding: chunked\r\n" + BODY, 400, "HTTP_CODING"),
    ("both_reversed", HEAD + "Transfer-Encoding: chunked\r\n" + LEN + BODY, 400, "HTTP_CODING"),
    ("chunked_twice", HEAD + "Transfer-Encoding: chunked, chunked\r\n" + BODY, 400, "HTTP_CODING"),
    ("two_codings", HEAD + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + BODY, 400, "HTTP_CODING"),
    ("chunked_not_last", HEAD + "Transfer-Encoding: chunked, gzip\r\n" + BODY, 400, "HTTP_CODING"),
    ("coding_1_0", "POST /api/exec/add HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
     "\r\n5\r\n[1,2]\r\n0\r\n\r\n", 400, "HTTP_CODING"),
    ("gzip", HEAD + "Transfer-Encoding: gzip\r\n" + BODY, 501, "HTTP_CODING_UNKNOWN"),
    ("gzip_chunked", HEAD + "Transfer-Encoding: gzip, chunked\r\n" + BODY, 501, "HTTP_CODING_UNKNOWN"),
    ("identity", HEAD + "Transfer-Encoding: identity\r\n" + BODY, 501, "HTTP_CODING_UNKNOWN"),
    # others
    ("expect", HEAD + LEN + "Expect: 200-ok\r\n" + BODY, 417, "HTTP_EXPECT"),
    ("expect_list", HEAD + LEN + "Expect: 100-continue, x=y\r\n" + BODY, 417, "HTTP_EXPECT"),
]


@pytest.mark.parametrize("text,status,code", [x[1:] for x in BAD], ids=[x[0] for x in BAD])
def test_bad_request(weir, text, status, code):
    """Refused with the right status, and the connection is closed: what follows is not read."""
    label = f'weir_errors_total{{code="{code}"}}'
    before = weir.metrics().get(label) if code else None
    with weir.raw() as c:
        c.send(text + "\r\n" + add(3, 4))
        r = c.response()
        problem(r, status, code)
        assert r.headers.get("connection") == "close"
        c.closed()
    if code:
        assert weir.metrics()[label] == before + 1


SMUGGLED = "GET /hello?s200 HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("coding", [
    "Transfer-Encoding : chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding: \x00chunked", "Transfer-Encoding: chunked\x00", "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked, identity", "X: y\r\n Transfer-Encoding: chunked",
    "Transfer-Encoding\n: chunked", "X: y\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\nX: y",
    "Transfer-Encoding:\r\n chunked", "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", "transfer-encoding: Chunked",
    "\rTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r", "Transfer-Encoding:",
    "Transfer-Encoding: , chunked,", "Content-Length: 0", "Content-Length: 5\r\nContent-Length: 0"])
def test_smuggling_shapes(weir, coding):
    """A length beside whatever another parser might take for chunked (or for another length): one
    refusal and the end, so that what is hidden in the body is never a request."""
    body = "0\r\n\r\n" + SMUGGLED
    with weir.raw() as c:
        c.send(f"{HEAD}Content-Length: {len(body)}\r\n{coding}\r\n\r\n{body}")
        r = c.response()
        assert r.status in (400, 501), r
        problem(r, r.status)
        assert r.headers.get("connection") == "close"
        c.closed()


def test_an_underscore_is_not_a_hyphen(weir):
    """Transfer_Encoding is a field like any other; the length alone counts."""
    with weir.raw() as c:
        c.send(add(1, 2, "Transfer_Encoding: chunked\r\n") + add(3, 4))
        assert [c.response().body, c.response().body] == [b"3\n", b"7\n"]


# ---------------------------------------------------------------------------- limits


def test_body_limit_by_length(weir):
    assert weir.exec("add", "[1,2]" + " " * 1019) == "3"
    with weir.raw() as c:
        c.send(HEAD + "Content-Length: 1025\r\n\r\n")  # no byte of it is waited for
        r = c.response()
        problem(r, 413, "HTTP_BODY_SIZE")
        assert r.headers.get("connection") == "close"
        c.closed()


def test_body_limit_huge_length(weir):
    with weir.raw() as c:
        problem(c.send(HEAD + "Content-Length: 9007199254740991\r\n\r\n").response(), 413)
        c.closed()


def test_body_limit_chunked(weir):
    chunk = "200\r\n" + "[1,2]".ljust(512) + "\r\n"
    blank = "200\r\n" + " " * 512 + "\r\n"
    with weir.raw() as c:
        c.send(HEAD + "Transfer-Encoding: chunked\r\n\r\n" + chunk + blank + "0\r\n\r\n")
        assert c.response().body == b"3\n"
        c.send(HEAD + "Transfer-Encoding: chunked\r\n\r\n" + chunk + blank + "1\r\n \r\n0\r\n\r\n")
        problem(c.response(), 413, "HTTP_BODY_SIZE")
        c.closed()


def test_target_limit(weir):
    fits = "/" + "a" * 511
    with weir.raw() as c:
        problem(c.send(f"GET {fits} HTTP/1.1\r\nHost: a\r\n\r\n").response(), 404, "NOT_FOUND")
        r = c.send(f"GET {fits}a HTTP/1.1\r\nHost: a\r\n\r\n").response()
        problem(r, 414, "HTTP_TARGET_SIZE")
        c.closed()


def test_target_limit_beyond_the_heads(weir):
    with weir.raw() as c:
        problem(c.send("GET /" + "a" * 4000).response(), 414, "HTTP_TARGET_SIZE")
        c.closed()


def test_head_limit(weir):
    def head(n):
        start = "GET /hello?s200 HTTP/1.1\r\nHost: a\r\nX: "
        return start + "x" * (n - len(start) - 4) + "\r\n\r\n"
    with weir.raw() as c:
        assert c.send(head(2048)).response().status == 200
        r = c.send(head(2049)).response()
        problem(r, 431, "HTTP_HEAD_SIZE")
        assert r.headers.get("connection") == "close"
        c.closed()


def test_head_limit_without_an_end(weir):
    with weir.raw() as c:
        problem(c.send("GET /hello HTTP/1.1\r\nHost: a\r\nX: " + "x" * 3000).response(), 431,
                "HTTP_HEAD_SIZE")
        c.closed()


def test_field_count_limit(weir):
    def head(n):
        return "GET /hello?s200 HTTP/1.1\r\nHost: a\r\n" + "A: b\r\n" * (n - 1) + "\r\n"
    with weir.raw() as c:
        assert c.send(head(64)).response().status == 200
        problem(c.send(head(65)).response(), 431, "HTTP_HEAD_SIZE")
        c.closed()


def test_timeouts(start):
    """408 for a head and a body that do not arrive; silence for a connection that asks nothing."""
    w = start({**CONFIG, "limits": {"head_timeout": "150ms", "body_timeout": "200ms",
                                    "idle_timeout": "250ms"}})
    closed = w.metric("connections_closed_total", reason="REQUEST_TIMEOUT")
    with w.raw() as c:
        r = c.send("GET /hello HTTP/1.1\r\nHo").response()
        problem(r, 408, "HTTP_TIMEOUT")
        assert r.headers.get("connection") == "close"
        c.closed()
    with w.raw() as c:
        problem(c.send(HEAD + LEN + "\r\n[1,").response(), 408, "HTTP_TIMEOUT")
        c.closed()
    with w.raw() as c:
        c.send(HEAD + "Transfer-Encoding: chunked\r\n\r\n5\r\n[1,2]\r\n0\r\n")
        problem(c.response(), 408, "HTTP_TIMEOUT")
        c.closed()
    with w.raw() as c:
        c.closed()  # never asked anything
    with w.raw() as c:
        assert c.send(add(1, 2)).response().body == b"3\n"
        c.closed()  # asked nothing more
    with w.raw() as c:  # the second request is timed like the first
        assert c.send(add(1, 2)).response().body == b"3\n"
        problem(c.send("GET /hello HTTP/1.1\r\nHo").response(), 408, "HTTP_TIMEOUT")
        c.closed()
    assert w.metric("errors_total", code="HTTP_TIMEOUT") == 4
    assert w.metric("connections_closed_total", reason="IDLE") >= 2
    w.wait_metric("connections_closed_total", closed + 4, reason="REQUEST_TIMEOUT")


def test_slow_drip_does_not_extend_the_time(start):
    """A byte now and then keeps no connection: the time is for the whole head."""
    import select
    import time
    w = start({**CONFIG, "limits": {"head_timeout": "300ms"}})
    with w.raw() as c:
        began, watch = time.monotonic(), Watch()
        for b in add(1, 2, "X: " + "y" * 400 + "\r\n").encode():
            if select.select([c.sock], [], [], 0.03)[0]:
                break
            c.send(bytes([b]))
        problem(c.response(), 408, "HTTP_TIMEOUT")
        assert 0.25 <= time.monotonic() - began and watch.took() < 2
        c.closed()


# ---------------------------------------------------------------------------- responses


def test_problem_json(weir):
    """RFC 9457: type, title, status and detail, with the right types; and the code."""
    r = weir.get("/nothing")
    doc = problem(r, 404, "NOT_FOUND")
    assert doc["type"] == "about:blank"
    assert doc["title"] == r.reason == "Not Found"
    assert doc["detail"] == "nothing is served at this path"
    assert set(doc) == {"type", "title", "status", "code", "detail"}


def test_date_is_now(weir):
    import email.utils
    import time
    r = weir.get("/hello")
    date = email.utils.parsedate_to_datetime(r.headers.get("date")).timestamp()
    assert abs(date - time.time()) < 3


def test_framing_of_every_kind_of_response(weir):
    """One connection, one response of each kind behind the other: each ends where it says."""
    wants = [("GET /hello?s200", 200), ("GET /hello?r204", 204), ("GET /hello?r304", 304),
             ("GET /hello?r404", 404), ("GET /hello?s204", 204), ("GET /nothing", 404),
             ("GET /hello?w500", 200), ("GET /api/exec/add", 405), ("OPTIONS *", 204),
             ("GET /hello?t", 500), ("GET /ws/raw", 426), ("GET /hello?s599", 599)]
    with weir.raw() as c:
        c.send("".join(f"{w} HTTP/1.1\r\nHost: a\r\n\r\n" for w, _ in wants))
        for what, status in wants:
            r = c.response()
            assert r.status == status, what
            assert r.reason or status == 599
        assert c.send(add(1, 2)).response().body == b"3\n"


def test_a_204_from_a_guest_with_a_body_has_none(weir):
    with weir.raw() as c:
        r = c.send("GET /hello?s204 HTTP/1.1\r\nHost: a\r\n\r\n" + add(1, 2)).response()
        assert r.status == 204 and r.headers.get("content-length") is None
        assert c.response().body == b"3\n"


def test_a_large_response_to_a_slow_reader(weir):
    """100 kB through a small window: nothing is lost."""
    with weir.raw(rcvbuf=4096) as c:
        r = c.send("GET /hello?w100 HTTP/1.1\r\nHost: a\r\n\r\n").response()
        assert r.body == b"w" * 100000


def test_counters_move(weir):
    before = weir.metrics()
    with weir.raw() as c:
        c.send(add(1, 2)).response()
        c.send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").response()
    after = weir.metrics()
    assert after["weir_http_requests_total"] - before["weir_http_requests_total"] == 3  # and this
    assert after['weir_errors_total{code="NOT_FOUND"}'] - before['weir_errors_total{code="NOT_FOUND"}'] == 1
    assert after["weir_connections_accepted_total"] - before["weir_connections_accepted_total"] == 1
    assert after["weir_guest_events_total"] - before["weir_guest_events_total"] == 1


def test_admin_speaks_the_same_http(weir):
    with Raw(weir.admin) as c:
        c.send(f"GET /healthz HTTP/1.1\nHost: {HOST}\n\n")
        problem(c.response(), 400, "HTTP_LINE_END")
        c.closed()
