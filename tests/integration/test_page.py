"""The live page: its stream over raw sockets, and the page in a browser, against a gateway that serves."""
import contextlib
import gzip
import json
import re
import socket
import threading
import time

import pytest

from browser import Browser
from weir import BINARY, HOST, ROOT, TEXT, Raw, frame, guest, problem, wait_for

pytestmark = pytest.mark.guard(40)  # a browser may take its time to start

CONFIG = {
    "access_log": "on",
    "modules": {"add": str(ROOT / "examples/add.wat"), "http": guest("http"), "ws": guest("ws")},
    "routes": [
        {"path": "/echo", "websocket": {"handler": "echo"}},
        {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/<b>", "websocket": {"handler": "echo"}},
        {"path": "/http", "http": {"module": "http"}},
    ],
}
# add, but it subtracts
SUB = (ROOT / "examples/add.wat").read_text().replace("f64.add", "f64.sub")


class Stream(Raw):
    """Who follows /api/v1/stream."""

    def __init__(self, w, fields="", target="/api/v1/stream", **kw):
        super().__init__(w.admin, **kw)
        self.send(f"GET {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n")

    def head(self):
        return self.until(b"\r\n\r\n").decode()

    def event(self):
        """(event, its data, its id)"""
        fields = dict(x.split(": ", 1) for x in self.until(b"\n\n").decode().strip().split("\n"))
        return fields.get("event", "message"), json.loads(fields["data"]), fields.get("id")

    def state(self):
        while True:
            event, data, _ = self.event()
            if event == "state":
                return data


def ask(w, path, method="GET", fields=""):
    with Raw(w.admin) as c:
        c.send(f"{method} {path} HTTP/1.1\r\nConnection: close\r\n{fields or f'Host: {HOST}' + chr(13) + chr(10)}\r\n")
        return c.final(head=method == "HEAD")


def put(w, name, text):
    r = w.get(f"/api/v1/modules/{name}", admin=True, method="PUT", body=text)
    assert r.status == 200, r.body
    return json.loads(r.body)


@contextlib.contextmanager
def reader(w, path):
    """A WebSocket whose messages are read and dropped."""
    def drop():
        with contextlib.suppress(AssertionError, OSError):
            c.rest()
    with w.ws(path) as c:
        t = threading.Thread(target=drop)
        t.start()
        yield c
        c.sock.shutdown(socket.SHUT_RDWR)  # a close alone would not end what reads
        t.join()


# ---------------------------------------------------------------------------- the stream


@pytest.mark.parametrize("loops", [1, 2])
def test_what_is_told_is_what_metrics_say(start, loops):
    w = start({**CONFIG, "workers": loops})
    sockets = [w.ws("/echo") for _ in range(7)]
    for c in sockets:
        c.send(frame(TEXT, "x")).message()
    w.exec("add", "[1,2]")
    with Stream(w) as s:
        assert s.head().startswith("HTTP/1.1 200 OK\r\n")
        first, then, m = s.state(), s.state(), w.metrics()
        assert then["loops"] == loops and then["now_ms"] > first["now_ms"]
        for name in ("websockets_active", "messages_received_total", "guest_events_total", "topics_active"):
            assert then["metrics"][name] == m["weir_" + name], name
        told, topic = then["metrics"]["message_latency_seconds"]["/echo"], 'message_latency_seconds_bucket{topic="/echo",le="%s"}'
        bounds = then["bounds"]["message_latency_seconds"]
        for i, le in enumerate([*("%g" % b for b in bounds), "+Inf"]):
            assert sum(told[:i + 1]) == m["weir_" + topic % le]
        assert then["modules"]["add"]["module_events_total"] == m['weir_module_events_total{module="add"}'] == 1
        assert (then["versions"]["add"]["version"], then["versions"]["add"]["before"]) == (1, 0)
        assert then["metrics"]["memory_promised_bytes"] == m["weir_memory_promised_bytes"] > sum(then["memory"].values())
        assert then["metrics"]["watchers"] == 1


def test_log_lines_come_with_it_and_go_on_where_they_were(weir):
    with Stream(weir) as s:
        s.head()
        weir.get("/here/1")
        while True:
            event, data, place = s.event()
            if event == "message" and data.get("path") == "/here/1":
                break
    weir.get("/here/2")
    with Stream(weir, f"Last-Event-ID: {place}\r\n") as s:
        s.head()
        assert s.event()[0] == "state"
        assert s.event()[1]["path"] == "/here/2"


def test_who_waits_most_is_named(weir):
    with weir.ws("/topic/t", rcvbuf=4096, mss=536) as slow, reader(weir, "/topic/t") as one, Stream(weir) as s:
        s.head()
        assert s.state()["slow"] == []
        peer = "{}:{}".format(*slow.sock.getsockname())

        def waits():
            one.send(frame(BINARY, b"x" * 20000))
            return weir.metric("queues_active")

        def named():  # what waits may be the other's, for a moment
            wait_for("something waits", waits)
            return [c for c in s.state()["slow"] if c["peer"] == peer]
        said = wait_for("it is named", named, timeout=15)
        assert said[0]["route"] == "/topic/*" and said[0]["queued_bytes"] > 0


def test_so_many_and_no_more(start):
    w = start({**CONFIG, "admin": {"watchers": 2}})
    before = w.metric("buffer_bytes")
    with Stream(w) as one:
        with Stream(w) as two:
            for c in (one, two):
                c.head()
                c.state()
            r = ask(w, "/api/v1/stream")
            problem(r, 503, "WATCHERS")
            assert r.headers.get("retry-after") and w.metric("errors_total", code="WATCHERS") == 1
        w.wait_metric("watchers", 1)
        with Stream(w) as three:  # in the place of the one that has gone
            assert three.head().startswith("HTTP/1.1 200")
            three.state()
    w.wait_metric("watchers", 0)
    w.wait_metric("buffer_bytes", lambda v: v <= before + 4096)  # nothing is kept for nobody


def test_none_at_all(start):
    w = start({**CONFIG, "admin": {"watchers": 0}})
    problem(ask(w, "/api/v1/stream"), 503, "WATCHERS")
    assert ask(w, "/").status == 200


def test_who_does_not_read_is_dropped(weir):
    """No event waits behind another; others are told all the same."""
    closed, slow = weir.metric("connections_closed_total", reason="SEND_QUEUE"), weir.metric("slow_closed_total")
    with weir.raw() as c:
        for i in range(60):
            c.send(f"GET /{'x' * 1000} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            c.response()
    with Stream(weir, rcvbuf=2048, mss=536), Stream(weir) as other:
        other.head()
        weir.wait_metric("queues_active", lambda n: n >= 1)
        waits = weir.metric("queued_bytes")
        other.state()
        other.state()
        assert weir.metric("queued_bytes") <= waits
        weir.wait_metric("slow_closed_total", slow + 1, timeout=10)
        other.state()
        assert weir.metric("connections_closed_total", reason="SEND_QUEUE") == closed + 1
        weir.wait_metric("watchers", 1)


def test_methods_queries_and_what_is_accepted(weir):
    r = ask(weir, "/api/v1/stream", "HEAD")
    assert r.status == 200 and r.headers.get("content-type") == "text/event-stream" and r.headers.get("content-length") is None
    for method in ("POST", "PUT", "DELETE"):
        r = ask(weir, "/api/v1/stream", method)
        problem(r, 405)
        assert r.headers.get("allow") == "GET, HEAD"
    for query in ("?after=x", "?after=-1", "?x", "?after=" + "9" * 19):
        problem(ask(weir, "/api/v1/stream" + query), 400, "INVALID")
    problem(ask(weir, "/api/v1/stream/x"), 404)
    for fields in ("Accept: image/png\r\n", "Accept: \x01\r\n", "Accept: text/event-stream;q=0\r\n", "Connection: keep-alive\r\n"):
        with Stream(weir, fields) as s:
            if "\x01" in fields:
                problem(s.response(), 400)
                continue
            assert "\r\nConnection: close\r\n" in s.head()
            s.state()
    weir.wait_metric("watchers", 0)


def test_what_else_a_watcher_says_is_not_heard(weir):
    with Stream(weir) as s:
        s.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        s.head()
        s.state()
        s.shut()
        s.state()
        s.state()
    weir.wait_metric("watchers", 0)


def test_it_ends_with_the_drain(start):
    w = start({**CONFIG, "drain": "3s"})
    with w.ws("/echo"), Stream(w) as s:  # a WebSocket that does not answer its Close
        s.head()
        s.state()
        w.signal()
        while True:
            event, _, _ = s.event()
            if event == "end":
                break
        s.closed()
        problem(ask(w, "/api/v1/stream"), 503, "DRAINING")
    assert w.wait_exit() == 0


@pytest.mark.parametrize("loops", [1, 2])
def test_it_ends_with_the_worker_that_hands_over(start, loops):
    w = start({**CONFIG, "workers": loops})
    with Stream(w) as s:
        s.head()
        s.state()
        w.file.write_text(json.dumps({**w.config, "log_rate": 7}))
        assert w.get("/api/v1/reload", admin=True, method="POST").status == 200
        while s.event()[0] != "end":
            pass
        s.closed()
    with Stream(w) as s:
        assert s.head().startswith("HTTP/1.1 200")
        assert s.state()["metrics"]["watchers"] == 1


def test_who_reads_slowly_is_told_less_often(weir):
    """As long as it takes something."""
    slow = weir.metric("slow_closed_total")
    with weir.raw() as c:
        for i in range(60):
            c.send(f"GET /{'y' * 1000} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            c.response()
    with Stream(weir, rcvbuf=2048, mss=536) as s:
        s.head()
        weir.wait_metric("queues_active", lambda n: n >= 1)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            s.buf += s.sock.recv(400)
            time.sleep(0.02)
        first = s.state()
        while s.state()["now_ms"] < first["now_ms"] + 3000:
            pass
    assert weir.metric("slow_closed_total") == slow


# ---------------------------------------------------------------------------- the page's own protection


def test_how_the_page_is_sent(weir):
    plain, packed = ask(weir, "/"), ask(weir, "/", fields=f"Host: {HOST}\r\nAccept-Encoding: br, gzip\r\n")
    assert plain.headers.get("content-encoding") is None and packed.headers.get("content-encoding") == "gzip"
    assert plain.body == gzip.decompress(packed.body) == (ROOT / "src/app/page.html").read_bytes()
    assert ask(weir, "/", fields=f"Host: {HOST}\r\nAccept-Encoding: gzip;q=0\r\n").headers.get("content-encoding") is None
    policy = dict(x.split(" ", 1) for x in plain.headers.get("content-security-policy").split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'" and policy["connect-src"] == "'self'"
    assert re.fullmatch(r"'sha256-[\w+/]{43}='", policy["script-src"]) and re.fullmatch(r"'sha256-[\w+/]{43}='", policy["style-src"])
    for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")):
        assert plain.headers.get(name) == value
    assert b"://" not in plain.body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"direct://", b""), "it asks nobody else"
    assert ask(weir, "/", "HEAD").headers.get("content-length") == str(len(plain.body))
    problem(ask(weir, "/", "POST"), 405)
    problem(ask(weir, "/index.html"), 404)


@pytest.mark.parametrize("fields", ["Host: evil.example\r\n", f"Host: {HOST}\r\nOrigin: http://evil.example\r\n",
                                    f"Host: {HOST}\r\nOrigin: null\r\n"])
def test_pages_of_others_may_not_ask(weir, fields):
    for path in ("/", "/api/v1/stream"):
        problem(ask(weir, path, fields=fields), 403, "FORBIDDEN")


def test_the_token_is_for_the_stream(start):
    w = start({**CONFIG, "admin": {"token": "secret-of-the-page"}})
    assert ask(w, "/").status == 200  # it holds nothing, and asks for the token
    problem(ask(w, "/api/v1/stream"), 401, "UNAUTHORIZED")
    problem(ask(w, "/api/v1/stream", fields=f"Host: {HOST}\r\nAuthorization: Bearer secret-of-the-pag\r\n"), 401)
    with Stream(w, "Authorization: Bearer secret-of-the-page\r\n") as s:
        assert s.head().startswith("HTTP/1.1 200")
        s.state()


# ---------------------------------------------------------------------------- in a browser

LIVE = "document.querySelector('#link').textContent === 'Live'"


@pytest.fixture(scope="module")
def browser():
    with Browser() as b:
        yield b


class Page:
    def __init__(self, browser, w):
        self.b, self.w = browser, w
        browser.console.clear()
        browser.requests.clear()
        browser.go(f"http://{HOST}:{w.admin}/")

    def live(self):
        self.b.wait(LIVE)
        return self

    def cells(self, table, column):
        """What that column of a table says, by its rows' order."""
        return self.b.js(f"""(() => {{ const t = document.querySelector('#{table} table');
            const i = [...t.querySelectorAll('thead th')].findIndex(h => h.textContent === '{column}');
            return [...t.querySelectorAll('tbody tr')].map(r => r.cells[i].textContent); }})()""")

    def row(self, table, text):
        return f"[...document.querySelectorAll('#{table} tbody tr')].find(r => r.textContent.includes('{text}'))"

    def clean(self, but=""):
        """Nothing was complained of, and nobody else was asked."""
        console = [x for x in self.b.console if not but or not re.search(but, x)]
        assert not console, console
        assert self.b.requests and all(u.startswith((f"http://{HOST}:{self.w.admin}/", "data:,")) for u in self.b.requests), set(self.b.requests)


@pytest.fixture
def page(browser, weir):
    browser.size(1280, 900)
    p = Page(browser, weir)
    yield p.live()
    p.clean()
    browser.go("about:blank")


def button(text, within="document"):
    return f"[...{within}.querySelectorAll('button')].find(b => b.textContent === '{text}')"


def test_it_shows_what_metrics_say(page, weir):
    sockets = [weir.ws("/echo") for _ in range(5)]
    for _ in range(40):
        for c in sockets:
            c.send(frame(TEXT, "x" * 64)).message()
        weir.get("/http?t")
    m = weir.metrics()
    received, requests = f'{int(m["weir_messages_received_total"]):,}', f'{int(m["weir_http_requests_total"]):,}'
    page.b.wait(f"document.querySelector('[data-sub=messages]').textContent.endsWith(' {received} received')")
    traps = m['weir_module_failed_total{module="http",code="unreachable"}']
    assert dict(zip(page.cells("modules", "Module"), page.cells("modules", "Traps")))["http"] == f"{int(traps):,}"
    assert dict(zip(page.cells("modules", "Module"), page.cells("modules", "Which")))["http"] == f"unreachable {int(traps):,}"
    assert dict(zip(page.cells("limits", "What"), page.cells("limits", "Total")))["error GUEST_TRAP"] == f"{int(traps):,}"
    at = page.cells("routes", "Route").index("/echo")
    assert page.cells("routes", "Total")[at] == f'{int(m["weir_message_latency_seconds_count{topic=" + chr(34) + "/echo" + chr(34) + "}"]):,}'
    figures = page.b.js("Object.fromEntries([...document.querySelectorAll('[data-figure]')].map(e => [e.dataset.figure, e.textContent]))")
    page.b.wait(f"document.querySelector('[data-figure=connections]').textContent === '{int(weir.metric('connections_active'))}'")
    worst = max(float(le) for le, n in bucket_ends(m, "/echo"))
    assert 0 < seconds(figures["latency"]) <= worst and figures["pause"].startswith(("\u2264", ">"))
    assert seconds(page.cells("routes", "P50")[at]) <= seconds(page.cells("routes", "P99")[at]) <= worst
    assert 0 < int(requests.replace(",", "")) and "answered" in page.b.js("document.querySelector('[data-sub=requests]').textContent")
    promise = page.b.js("document.querySelector('#promise').textContent")
    assert promise.endswith(" of 128 MiB") and "guests" in page.cells("memory", "Owner")
    for c in sockets:
        c.close()


def bucket_ends(m, topic):
    """Of a histogram: the ends of buckets that have any, and how many."""
    before, out = 0, []
    for name, n in m.items():
        le = re.match(r'weir_message_latency_seconds_bucket\{topic="%s",le="(.*)"\}' % topic, name)
        if le:
            if n > before:
                out.append((le[1].replace("+Inf", "1"), n - before))
            before = n
    return out


def seconds(text):
    number, unit = text.replace(",", "").split()
    return float(number) * {"\u00b5s": 1e-6, "ms": 1e-3, "s": 1}[unit]


def test_sort_and_filter(page, weir):
    sockets = [weir.ws("/echo") for _ in range(3)] + [weir.ws("/topic/t") for _ in range(4)]
    page.b.click(button("Refresh"))
    page.b.wait("document.querySelectorAll('#conns tbody tr').length >= 7")
    head = button("Peer", "document.querySelector('#conns')")
    for way, order in (("ascending", False), ("descending", True)):
        page.b.click(head)
        assert page.b.js(f"{head}.parentNode.getAttribute('aria-sort')") == way
        peers = page.cells("conns", "Peer")
        assert len(peers) >= 7 and peers == sorted(peers, reverse=order)
    assert page.b.js("document.querySelectorAll('#conns [aria-sort]').length") == 1
    page.b.js("document.querySelector('#conns-filter').focus()")
    page.b.type("/TOPIC open")
    page.b.wait("document.querySelectorAll('#conns tbody tr').length === 4")
    assert set(page.cells("conns", "Route")) == {"/topic/*"}
    assert page.b.js("document.querySelector('#conns-note').textContent") == "4 shown"
    for c in sockets:
        c.close()


def test_pages_and_the_search_through_all(page, weir):
    """It asks for a hundred at a time, and has no more than some hundreds."""
    sockets = [weir.ws("/echo") for _ in range(230)]
    wanted = weir.ws("/topic/needle")
    page.b.click(button("Refresh"))
    page.b.wait("document.querySelectorAll('#conns tbody tr').length === 100")
    page.b.click(button("More"))
    page.b.wait("document.querySelectorAll('#conns tbody tr').length === 200")
    page.b.js("document.querySelector('#conns-filter').focus()")
    page.b.type("/topic/")
    page.b.wait("document.querySelectorAll('#conns tbody tr').length <= 1")
    page.b.click(button("Search all"))
    page.b.wait("document.querySelectorAll('#conns tbody tr').length === 1 && document.querySelector('#conns-search').hidden")
    assert page.cells("conns", "Peer") == ["{}:{}".format(*wanted.sock.getsockname())]
    for c in [*sockets, wanted]:
        c.close()


def test_kick(page, weir):
    with weir.ws("/topic/kicked") as c, weir.ws("/echo") as other:
        peer = "{}:{}".format(*c.sock.getsockname())
        page.b.click(button("Refresh"))
        row = page.row("conns", peer)
        page.b.click(f"{row}.querySelector('button')")
        page.b.wait("document.querySelector('#ask').open")
        assert peer in page.b.js("document.querySelector('#ask-text').textContent")
        assert not page.b.js("document.querySelector('#ask-token').getClientRects().length"), "no token is asked for here"
        page.b.click(button("Cancel"))
        page.b.wait("!document.querySelector('#ask').open")
        page.b.click(f"{row}.querySelector('button')")
        page.b.click("document.querySelector('#ask-yes')")
        c.close_frame(1008)
        c.send(frame(8, b"\x03\xf0"))
        c.closed()
        page.b.wait("document.querySelector('#said').textContent.includes(' was closed.')")
        page.b.wait(f"!({row}) || ({row}).className === 'gone'")
        assert page.b.js("document.activeElement !== document.body"), "the focus goes on from what it was on"
        other.send(frame(TEXT, "still here")).message()


def test_the_slowest_is_shown_and_kicked(page, weir):
    with weir.ws("/topic/slow", rcvbuf=4096, mss=536) as slow, reader(weir, "/topic/slow") as one:
        peer = "{}:{}".format(*slow.sock.getsockname())
        row = page.row("slow", peer)

        def shown():
            if not weir.metric("queues_active"):
                one.send(frame(BINARY, b"x" * 20000))
            return page.b.js(f"!!({row})")
        wait_for("it is shown", shown, timeout=15, every=0.1)
        page.b.click(f"{row}.querySelector('button')")
        page.b.click("document.querySelector('#ask-yes')")
        page.b.wait("document.querySelector('#said').textContent.includes(' was closed.')")
    page.b.js("document.activeElement.blur()")
    page.b.wait(f"!({row})")


def test_who_has_gone_stays_where_somebody_is(page, weir):
    """No other row comes under the pointer, or the focus, of who is about to press a button."""
    with weir.ws("/echo") as stays:
        with weir.ws("/echo") as goes:
            peer = "{}:{}".format(*goes.sock.getsockname())
            page.b.click(button("Refresh"))
            row = page.row("conns", peer)
            page.b.wait(row)
            page.b.js(f"{row}.querySelector('button').focus()")
        weir.wait_metric("websockets_active", 1)
        page.b.wait(f"(conns.load('again'), ({row}).className === 'gone' && document.activeElement === {row}.querySelector('button'))")
        page.b.key("Enter", 13, "\r")
        assert page.b.js("document.querySelector('#said').textContent") == "It has gone already."
        page.b.js("document.activeElement.blur()")
        page.b.wait(f"(conns.load('again'), !({row}))")
        stays.send(frame(TEXT, "x")).message()


def test_rollback(page, weir):
    assert weir.exec("add", "[5,3]") == "8"
    assert page.b.js(f"{page.row('modules', 'add')}.querySelector('button').hidden")
    version = put(weir, "add", SUB)["version"]
    assert weir.exec("add", "[5,3]") == "2"
    row = page.row("modules", "add")
    page.b.wait(f"!{row}.querySelector('button').hidden && {row}.cells[1].textContent === '{version}'")
    page.b.click(f"{row}.querySelector('button')")
    page.b.click("document.querySelector('#ask-yes')")
    page.b.wait("document.querySelector('#said').textContent.startsWith('add is at version ')")
    assert weir.exec("add", "[5,3]") == "8"
    page.b.wait(f"{row}.cells[1].textContent !== '{version}'")


def test_the_token_is_asked_for(browser, start):
    w = start({**CONFIG, "admin": {"token": "secret-of-the-page"}})
    with w.ws("/topic/t") as c:
        p = Page(browser, w)
        browser.wait("document.querySelector('#ask').open")
        for token in ("wrong", "secret-of-the-page"):
            browser.wait("document.activeElement === document.querySelector('#ask-token')")
            browser.type(token)
            browser.key("Enter", 13, "\r")
            browser.wait("document.querySelector('#ask-token').value === ''")
        p.live()
        assert browser.js("[sessionStorage.length, localStorage.length, document.cookie, location.href]") == [
            1, 0, "", f"http://{HOST}:{w.admin}/"]
        browser.click(f"{p.row('conns', '/topic/')}.querySelector('button')")
        browser.click("document.querySelector('#ask-yes')")
        c.close_frame(1008)
        browser.wait("document.querySelector('#said').textContent.includes(' was closed.')")
        browser.go(f"http://{HOST}:{w.admin}/")  # the same tab has it yet
        p.live()
        browser.click(button("Forget the token"))
        browser.wait("document.querySelector('#ask').open")
        browser.key("Escape", 27)
        browser.wait("document.querySelector('#link').textContent === 'Locked' && !document.querySelector('#unlock').hidden")
        assert browser.js("sessionStorage.length") == 0
        p.clean(but="401 ")
        browser.go("about:blank")


def test_what_is_hostile_is_text(page, weir):
    with weir.ws("/<b>") as c:  # a route
        c.send(frame(TEXT, "x")).message()
    weir.get("/<img%20id=planted%20src=x%20onerror=alert(1)><script>throw%201</script>")
    page.b.wait(page.row("routes", "/<b>"))
    page.b.wait("[...document.querySelectorAll('#log li')].some(l => l.textContent.includes('<img%20id=planted%20src=x'))")
    assert page.b.js("[document.querySelector('#planted'), document.querySelectorAll('script').length, document.querySelectorAll('img').length]") == [None, 1, 0]
    refused = page.b.js("(() => { try { document.body.innerHTML = '<i>x</i>'; return 'taken' } catch (e) { return e.name } })()")
    assert refused == "TypeError"
    page.b.console.clear()  # that this was refused


def test_figures_stand_still(page, weir):
    page.b.click("document.querySelector('#pause')")
    page.b.wait("document.querySelector('#pause').getAttribute('aria-pressed') === 'true'")
    shown = page.b.js("document.querySelector('#tiles').textContent")
    at = page.b.js("now().metrics.connections_accepted_total")
    with weir.ws("/echo") as c:
        c.send(frame(TEXT, "x")).message()
        page.b.wait(f"now().metrics.connections_accepted_total > {at}")
        assert page.b.js("document.querySelector('#tiles').textContent") == shown
        page.b.click("document.querySelector('#pause')")
        page.b.wait("document.querySelector('#pause').textContent === 'Pause'")
        assert page.b.js("document.querySelector('#tiles').textContent") != shown


def test_events_stand_still_while_read(page, weir):
    page.b.click("document.querySelector('#log-pause')")
    weir.get("/while/paused")
    page.b.wait("/[1-9]\\d* new/.test(document.querySelector('#log-note').textContent)")
    assert not page.b.js("document.querySelector('#log').textContent.includes('/while/paused')")
    assert page.b.js("document.querySelector('#log-pause').getAttribute('aria-pressed')") == "true"
    page.b.click("document.querySelector('#log-pause')")
    page.b.wait("document.querySelector('#log').textContent.includes('/while/paused')")
    page.b.js("document.querySelector('#log-filter').focus()")
    page.b.type("while/PAUSED")
    page.b.wait("[...document.querySelectorAll('#log li')].filter(l => !l.hidden).length === 1")


def test_it_says_when_the_gateway_has_gone_and_comes_back(browser, start):
    w = start(CONFIG)
    p = Page(browser, w).live()
    w.stop()
    browser.wait("/Disconnected|Reconnecting/.test(document.querySelector('#link').textContent)")
    assert browser.js("document.querySelector('#main').classList.contains('stale')")
    assert browser.js("document.title").startswith("weir: ")
    assert "ended this worker" in browser.js("document.querySelector('#said').textContent") or browser.js(
        "document.querySelector('#said').textContent") == "The gateway can't be reached."
    w.start()
    browser.wait(LIVE, timeout=15)
    assert browser.js("document.querySelector('#said').textContent") == "Connected."
    assert not browser.js("document.querySelector('#main').classList.contains('stale')")
    p.clean(but="ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|503 ")
    browser.go("about:blank")


CONTROLS = """[...document.querySelectorAll('button, input, select, a[href], .scroll, #log')]
    .filter(e => e.getClientRects().length && !e.disabled && !e.closest('dialog'))"""


def test_all_by_keyboard(page, weir):
    with weir.ws("/echo"):
        page.b.click(button("Refresh"))
        page.b.wait("document.querySelector('#conns tbody tr')")
        page.b.js(f"window.left = new Set({CONTROLS}); document.activeElement.blur(); window.scrollTo(0, 0)")
        dim = "(e => { const s = getComputedStyle(e); return s.outlineStyle === 'none' || parseFloat(s.outlineWidth) < 2 })(document.activeElement)"
        n = page.b.js("left.size")
        assert n > 30
        for _ in range(n + 40):
            page.b.key("Tab", 9)
            unseen = page.b.js(f"left.delete(document.activeElement) && {dim} ? document.activeElement.outerHTML : ''")
            assert not unseen, unseen
            if not page.b.js("[...left].filter(e => e.isConnected).length"):
                break
        assert page.b.js("[...left].filter(e => e.isConnected).map(e => e.outerHTML)") == []
        page.b.js(button("Peer", "document.querySelector('#conns')") + ".focus()")
        page.b.key("Enter", 13, "\r")
        assert page.b.js("document.activeElement.parentNode.getAttribute('aria-sort')") == "ascending"
        page.b.js(f"{page.row('conns', '/echo')}.querySelector('button').focus()")
        page.b.key(" ", 32, " ")
        page.b.wait("document.querySelector('#ask').open && document.activeElement.textContent === 'Cancel'")
        page.b.key("Escape", 27)
        page.b.wait("!document.querySelector('#ask').open && document.activeElement.textContent === 'Kick'")


def test_what_a_screen_reader_has(page, weir):
    with weir.ws("/echo"):
        page.b.click(button("Refresh"))
        page.b.wait("document.querySelector('#conns tbody tr')")
        tree = page.b.tree()
    for landmark in ("banner", "main", "contentinfo"):
        assert landmark in [role for role, _ in tree], landmark
    regions = {name for role, name in tree if role == "region"}
    assert {"Modules", "Connections", "Memory against the promise", "Slowest connections", "Events"} <= regions
    assert {"Modules", "Connections", "Memory against the promise"} <= {name for role, name in tree if role == "table"}
    for role in ("button", "link", "searchbox", "combobox", "region", "table", "log", "columnheader", "rowheader"):
        names = [name for r, name in tree if r == role]
        assert names and all(names), (role, names)
    assert any(re.match("Kick [0-9a-f]{16}, 127", name) for role, name in tree if role == "button")
    assert [role for role, _ in tree].count("status") == 1
    assert page.b.js("document.documentElement.lang") == "en"
    assert page.b.js("[...document.querySelectorAll('[aria-live]')].map(e => e.ariaLive)") == ["off"]


# Of the text of what is shown and what is behind it: the least contrast (WCAG 2), with what has it.
CONTRAST = """(() => {
    const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
    const rgb = s => s.match(/[\\d.]+/g).map(Number);
    let least = [21, ''];
    for (const e of document.querySelectorAll('body *')) {
        if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length) continue;
        let behind = e;
        while (behind && (rgb(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
        const [a, b] = [light(rgb(getComputedStyle(e).color).slice(0, 3)), light(rgb(getComputedStyle(behind || document.body).backgroundColor).slice(0, 3))];
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (ratio < least[0]) least = [ratio, e.outerHTML.slice(0, 200)];
    }
    return least;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_wide_and_narrow(page, weir, scheme):
    page.b.scheme(scheme)
    with weir.ws("/echo") as c:
        c.send(frame(TEXT, "x")).message()
        page.b.click(button("Refresh"))
        page.b.wait("document.querySelector('#conns tbody tr') && document.querySelector('#routes tbody tr')")
        ground = page.b.js("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground)[:3])) > 380) == (scheme == "light")
        for width, mobile in ((1280, False), (768, False), (375, True)):
            page.b.size(width, 800, mobile)
            page.b.wait(f"innerWidth === {width}")
            assert page.b.js("document.documentElement.scrollWidth") == width, "nothing sticks out"
            ratio, what = page.b.js(CONTRAST)
            assert ratio >= 4.5, (scheme, width, ratio, what)
        assert page.b.js("Math.min(...[...document.querySelectorAll('button')].filter(b => b.getClientRects().length).map(b => b.offsetHeight))") >= 40
        put(weir, "add", SUB + f";; {scheme}")
        for row in (page.row("conns", "/echo"), page.row("modules", "add")):
            press = f"{row}.querySelector('button:not([hidden])')"
            page.b.wait(f"{press}.getClientRects().length")
            assert page.b.js(f"{press}.getBoundingClientRect().right") <= 375, press
