"""The admin listener at three in the morning: who is connected, kick, the log's level, its lines, who may ask."""
import configparser
import contextlib
import datetime
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile

import pytest

from weir import FIELDS, ROOT, TEXT, WEIR_BIN, Raw, frame, guest, problem, run_cli, wait_for

CONFIG = {
    "access_log": "on",
    "log_rate": 5,
    "modules": {"http": guest("http"), "hs": guest("hs"), "ws": guest("ws")},
    "routes": [
        {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/ws", "websocket": {"module": "ws"}},
        {"path": "/http", "http": {"module": "http"}},
    ],
}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def api(w, path, method="GET", body=None, headers=""):
    return w.get(f"/api/v1/{path}", admin=True, method=method, body=body, headers=headers)


def conns(w, query=""):
    return json.loads(api(w, f"connections{query}").body)["connections"]


def websockets(w):
    return [c for c in conns(w) if c["protocol"] == "websocket"]


def parse_events(body):
    """What a browser's EventSource makes of it: [(id, event, data)]."""
    out = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "data" in fields:
            out.append((fields.get("id"), fields.get("event", "message"), json.loads(fields["data"])))
    return out


# ---------------------------------------------------------------------------- connections


def test_what_is_said_of_a_connection(weir):
    with weir.ws("/topic/t"), weir.ws("/ws"):
        listed = {c["route"]: c for c in websockets(weir)}
        room, own = listed["/topic/*"], listed["/ws"]
        assert (room["module"], room["topics"], room["state"], room["tls"]) == (None, 1, "open", False)
        assert (own["module"], own["version"], own["suspect"], own["demoted"]) == ("ws", 1, False, False)
        assert room["peer"].startswith("127.0.0.1:") and re.fullmatch("[0-9a-f]{16}", room["id"])
        assert room["queued_bytes"] == 0 and room["heard_ms_ago"] < 60000 and not room["compressed"]
    wait_for("both have gone", lambda: not websockets(weir))


def test_pages_of_connections(weir):
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(weir.ws("/topic/t"))
        found, cursor, pages = [], "", 0
        while cursor is not None:
            page = json.loads(api(weir, f"connections?limit=7{cursor and '&cursor=' + cursor}").body)
            assert len(page["connections"]) <= 7
            found += [c["id"] for c in page["connections"] if c["protocol"] == "websocket"]
            cursor = page["next"]
            pages += 1
        assert len(found) == len(set(found)) == 25 and pages >= 4
        r = run_cli("conns", "--admin", f"127.0.0.1:{weir.admin}")
        assert r.returncode == 0 and all(i in r.stdout for i in found)
    wait_for("all have gone", lambda: not websockets(weir))


def test_one_is_kicked(weir):
    before = weir.metric("connections_closed_total", reason="KICKED")
    with weir.ws("/topic/t") as one, weir.ws("/topic/t") as other:
        first, second = [c["id"] for c in websockets(weir)]
        for i, body, code, reason in ((first, "", 1008, b""), (second, '{"code": 4123, "reason": "gr\u00fc\u00df"}', 4123,
                                                              "gr\u00fc\u00df".encode())):
            r = api(weir, f"connections/{i}/close", "POST", body.encode())
            assert json.loads(r.body) == {"closed": i}
        frames = {c.frame().payload for c in (one, other)}
        assert frames == {(1008).to_bytes(2, "big"), (4123).to_bytes(2, "big") + "gr\u00fc\u00df".encode()}
    weir.wait_metric("connections_closed_total", before + 2, reason="KICKED")
    problem(api(weir, f"connections/{first}/close", "POST"), 404, "CONNECTION_UNKNOWN")


def test_a_request_in_the_making_is_kicked(weir):
    with weir.raw() as c:
        c.send(b"GET /x HTTP/1.1\r\nHost: a\r\n")
        ids = wait_for("it is there", lambda: [x["id"] for x in conns(weir) if x["protocol"] == "http"])
        r = run_cli("kick", ids[0], "--admin", f"127.0.0.1:{weir.admin}")
        assert (r.returncode, r.stdout) == (0, f"{ids[0]}: closed\n")
        c.closed()


@pytest.mark.parametrize("path", ["connections/", "connections/0000000000000000/close", "connections/1/close",
                                  "connections/000000000000000G/close", "connections/0000000000000001",
                                  "connections/0000000000000001/close/x", "connections/00000000000000%31/close"])
def test_what_names_no_connection(weir, path):
    problem(api(weir, path, "POST"), 404)


@pytest.mark.parametrize("body", ["{", "[]", "1", '{"code": 1005}', '{"code": 999}', '{"code": -1}', '{"code": "1000"}',
                                  '{"code": 70000}', '{"kode": 4000}', '{"reason": 1}', '{"code": 99999999999999999999}',
                                  '{"code": 4000, "code": 4001}', json.dumps({"reason": "x" * 124}), '{"reason": "\\ud800"}'])
def test_what_is_no_reason(weir, body):
    with weir.ws("/topic/t"):
        i = websockets(weir)[0]["id"]
        problem(api(weir, f"connections/{i}/close", "POST", body), 400, "INVALID")
        assert [c["state"] for c in websockets(weir)] == ["open"]
    wait_for("it has gone", lambda: not websockets(weir))


def test_methods(weir):
    for path, allow in (("connections", "GET, HEAD"), ("events", "GET, HEAD"), ("log", "GET, HEAD, PUT"),
                        ("connections/0000000000000001/close", "POST")):
        r = api(weir, path, "DELETE")
        problem(r, 405)
        assert r.headers.get("allow") == allow
    for query in ("limit=0", "cursor=x", "x"):
        problem(api(weir, f"connections?{query}"), 400, "INVALID")


# ---------------------------------------------------------------------------- the log


def test_the_level_changes_at_run_time(weir):
    cli = ("--admin", f"127.0.0.1:{weir.admin}")
    assert run_cli("log-level", *cli).stdout == "info\n"
    try:
        assert run_cli("log-level", "debug", *cli).stdout == "debug\n"
        weir.ws("/topic/t").close()
        weir.wait_log("connection_closed")
        assert weir.wait_logs("log_level", now="debug")
        assert json.loads(api(weir, "log?level=error", "PUT").body) == {"level": "error"}
        n = len(weir.logs("request"))
        assert weir.get("/nothing").status == 404
    finally:
        assert json.loads(api(weir, "log?level=info", "PUT").body) == {"level": "info"}
    assert weir.get("/nothing/more").status == 404
    weir.wait_logs("request", n + 1)
    assert [x["path"] for x in weir.logs("request")[n:]] == ["/nothing/more"]


@pytest.mark.parametrize("query", ["", "?level=", "?level=loud", "?level=debug&x", "?level=DEBUG", "?level=" + "x" * 99,
                                   "?level=debug%00", "?debug"])
def test_what_is_no_level(weir, query):
    problem(api(weir, f"log{query}", "PUT"), 400, "INVALID")
    assert json.loads(api(weir, "log").body) == {"level": "info"}


def test_lines_are_followed(weir):
    weir.get("/follow/1")
    first = parse_events(api(weir, "events").body)
    assert first[-1][2]["path"] == "/follow/1" and all(e == "message" for _, e, _ in first)
    after = first[-1][0]
    assert parse_events(api(weir, f"events?after={after}").body) == []
    weir.get("/follow/2")
    more = parse_events(api(weir, "events", headers=f"Last-Event-ID: {after}\r\n").body)
    assert [x["path"] for _, _, x in more] == ["/follow/2"]
    r = run_cli("tail", "--once", "--admin", f"127.0.0.1:{weir.admin}")
    said = [json.loads(x) for x in r.stdout.splitlines()]
    assert [x["path"] for x in said if x["event"] == "request"][-2:] == ["/follow/1", "/follow/2"]
    for bad in ("after=", "after=-1", "after=1x", "x=1", "after=" + "9" * 19):
        problem(api(weir, f"events?{bad}"), 400, "INVALID")


def test_who_is_slow_is_told(weir):
    """Past 64 KiB lines are overwritten; what is got begins with a whole line."""
    after = parse_events(api(weir, "events").body)[0][0]
    with weir.raw() as c:
        for i in range(120):
            c.send(f"GET /{'x' * 1000} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert c.response().status == 404
    for at in (after, "1", "999999999999"):
        got = parse_events(api(weir, f"events?after={at}").body)
        assert got[0][1] == "missed" and 10 < len(got) < 120
        assert "request" in (events := {x["event"] for _, _, x in got[1:]})
        assert events <= {"request", "logs_dropped"}, "by the pipe to the supervisor, where that one has no time"


def test_weir_tail_follows(weir):
    p = subprocess.Popen([WEIR_BIN, "tail", "--admin", f"127.0.0.1:{weir.admin}"], stdout=subprocess.PIPE)
    try:
        weir.get("/tailed/now")
        for line in p.stdout:
            if json.loads(line).get("path") == "/tailed/now":
                break
        weir.get("/tailed/later")
        for line in p.stdout:
            if json.loads(line).get("path") == "/tailed/later":
                break
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


def test_what_repeats_is_left_out_and_counted(weir):
    before = weir.metric("logs_suppressed_total")
    lines = len(weir.logs("guest_failed"))
    for _ in range(40):
        problem(weir.get("/http?t"), 500, "GUEST_TRAP")
    left_out = weir.metric("logs_suppressed_total") - before
    said = weir.logs("guest_failed")[lines:]
    assert left_out > 0 and len(said) + left_out == 40

    def told():
        weir.metrics()  # whatever wakes the loop
        lines = weir.logs("logs_suppressed", of="guest_failed")
        return sum(x["suppressed"] for x in lines) + sum(x.get("suppressed", 0) for x in said) >= left_out
    wait_for("what was left out is told", told)


# ---------------------------------------------------------------------------- access log, traces


def test_a_path_hides_nothing_else(weir):
    """Escaped it may be longer than a line has room for; what a line must say is in front of it."""
    first = n = len(weir.logs("request"))
    for byte in (b"\\", b'"', b"\xff", b"\xc3\xbc"):
        with weir.raw() as c:
            c.send(b"GET /" + byte * 1500 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
            status = c.response().status
        if status == 404:
            n += 1
            line = weir.wait_logs("request", n)[-1]
            assert line["status"] == 404 and line["peer"] and line["conn_id"] and line["path"].startswith("/")
    assert n > first


def test_the_access_log(weir):
    n = len(weir.logs("request"))
    hostile = "/\\%22a" + "x" * 2000
    with weir.raw() as c:
        c.send(f"GET /http?s201 HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n\r\n".encode())
        assert c.response().status == 201
        peer = "{}:{}".format(*c.sock.getsockname())
        c.send(f"HEAD {hostile}?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert c.response(head=True).status in (400, 404)
    weir.ws("/topic/t").close()
    one, two, three = weir.wait_logs("request", n + 3)[n:]
    assert (one["method"], one["path"], one["status"], one["bytes"], one["trace_id"]) == ("GET", "/http", 201, 11, TRACE)
    assert one["peer"] == peer and one["conn_id"] == two["conn_id"] and 0 <= one["us"] < 10_000_000
    assert two["method"] == "HEAD" and two["path"] == hostile[:1024] and two["bytes"] == 0 and "trace_id" not in two
    assert (three["path"], three["status"]) == ("/topic/t", 101)


@pytest.mark.parametrize("value, valid", [
    (f"00-{TRACE}-00f067aa0ba902b7-01", True), (f"00-{TRACE}-00f067aa0ba902b7-00", True),
    (f"cc-{TRACE}-00f067aa0ba902b7-01-what-comes", True), (f"01-{TRACE}-00f067aa0ba902b7-01", True),
    (f"ff-{TRACE}-00f067aa0ba902b7-01", False), (f"00-{TRACE}-00f067aa0ba902b7-01-x", False),
    (f"cc-{TRACE}-00f067aa0ba902b7-01.x", False), (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
    (f"00-{'0' * 32}-00f067aa0ba902b7-01", False), (f"00-{TRACE}-{'0' * 16}-01", False),
    (f"00-{TRACE}-00f067aa0ba902b7-0", False), (f"00-{TRACE}-00f067aa0ba902b7", False), ("", False),
    (f"0-{TRACE}-00f067aa0ba902b7-01", False), (f"00_{TRACE}-00f067aa0ba902b7-01", False),
    (f"00-{TRACE[:-1]}g-00f067aa0ba902b7-01", False), (f"00-{TRACE}-00f067aa0ba902b7-0x", False),
    (f"00-{TRACE}-00f067aa0ba902b7-01\r\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01", False)])
def test_traceparent_is_read_strictly(weir, value, valid):
    n = len(weir.logs("request"))
    weir.get("/nothing", headers=f"traceparent: {value}\r\n")
    line = weir.wait_logs("request", n + 1)[n]
    assert line.get("trace_id") == (TRACE if valid else None)


def test_guests_lines_have_version_and_trace(start):
    w = start({**CONFIG, "log_rate": 0})
    problem(w.get("/http?t", headers=f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"), 500, "GUEST_TRAP")
    failed = w.wait_log("guest_failed")
    request = w.wait_log("request")
    assert (failed["module"], failed["version"], failed["trace_id"]) == ("http", 1, TRACE)
    assert failed["conn_id"] == request["conn_id"]


# ---------------------------------------------------------------------------- Fluent Bit


def fluent(name):
    """A configuration of Fluent Bit: [(section, {key: value})]."""
    sections = []
    for line in (ROOT / "deploy" / name).read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            sections.append((line.strip("[]"), {}))
        elif line and not line.startswith("#"):
            key, value = line.split(None, 1)
            assert key not in sections[-1][1]
            sections[-1][1][key] = value
    return sections


def test_fluent_bit_reads_what_is_written(weir):
    """The rules of deploy/fluent-bit*.conf, applied to real output: Debian 12 has no package of Fluent Bit."""
    main, parsers = fluent("fluent-bit.conf"), fluent("fluent-bit-parsers.conf")
    tail = [s for name, s in main if name == "INPUT"][0]
    forward = [s for name, s in main if name == "OUTPUT"][0]
    parser = [s for name, s in parsers if name == "PARSER" and s["Name"] == tail["Parser"]][0]
    assert [s for name, s in main if name == "SERVICE"][0]["Parsers_File"] == "fluent-bit-parsers.conf"
    assert (tail["Name"], parser["Format"], forward["Name"]) == ("tail", "json", "forward")
    assert forward["Match"] == tail["Tag"]
    weir.get("/http?t")
    weir.wait_log("request")
    lines = [json.dumps(x) for x in weir.logs()]
    assert max(map(len, lines)) < 1024 * int(tail["Buffer_Max_Size"].rstrip("k"))
    seen = set()
    for line in lines:
        record = json.loads(line)
        at = datetime.datetime.strptime(record[parser["Time_Key"]], parser["Time_Format"].replace("%L", "%f"))
        assert abs((datetime.datetime.utcnow() - at).total_seconds()) < 3600
        has, _ = FIELDS[record["event"]]
        assert all(isinstance(record[f], (str, int)) for f in has)
        seen.add(record["event"])
    assert {"worker_ready", "listening", "module_loaded", "request", "worker_start"} <= seen


# ---------------------------------------------------------------------------- who may ask


PATHS = ["/metrics", "/healthz", "/readyz", "/api/v1/connections", "/api/v1/events", "/api/v1/log", "/api/v1/topics",
         "/api/v1/modules", "/"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1].x", "",
                                  "localhost@evil.example", "weir.internal.evil"])
def test_names_of_others_are_refused(start_once, path, host):
    with Raw(start_once.admin) as c:
        c.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert c.response().status in (400, 403)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory, cache, _running):
    from weir import Weir
    w = Weir(tmp_path_factory.mktemp("hosts"), cache, {**CONFIG, "admin": {"hosts": ["weir.internal"], "allow": ["127.0.0.0/8"]}},
             start=False)
    _running.append(w)
    w.start()
    yield w
    w.stop()


def test_names_of_its_own_are_not(start_once):
    for host in ("weir.internal", "WEIR.internal:6060", "localhost", "127.0.0.1:1", "[::1]:6060"):
        with Raw(start_once.admin) as c:
            c.send(f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert c.response().status == 200
            c.send(f"GET /api/v1/connections HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\r\n".encode())
            assert c.response().status == 403
            c.send(f"PUT /api/v1/log?level=debug HTTP/1.1\r\nHost: {host}\r\nOrigin: null\r\n\r\n".encode())
            assert c.response().status == 403


def test_allow(start):
    w = start({**CONFIG, "admin": {"allow": ["127.0.0.1", "10.0.0.0/8"]}})
    with Raw(w.admin, source="127.0.0.2") as c:
        c.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert c.response().status == 503
        c.closed()
    assert w.metric("errors_total", code="ADMIN_PEER") == 1


@pytest.fixture
def short():
    """A folder whose path fits a socket's, which that of tmp_path may not."""
    with tempfile.TemporaryDirectory(prefix="weir") as folder:
        yield pathlib.Path(folder)


def test_a_unix_socket(start, short):
    path = short / "admin.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()  # nobody serves it: it is taken over
    w = start({**CONFIG, "admin": {"address": f"unix:{path}"}}, start=False)
    w.start(ready=False)
    w.wait_log("worker_ready", timeout=90)
    assert path.stat().st_mode & 0o777 == 0o600
    cli = ("--admin", f"unix:{path}")
    assert wait_for("it answers", lambda: run_cli("log-level", *cli).stdout == "info\n")
    with w.ws("/topic/t"):
        assert "/topic/*" in run_cli("conns", *cli).stdout
    again = subprocess.run([WEIR_BIN, "serve", str(w.file)], capture_output=True, text=True, timeout=20)
    assert again.returncode != 0 and "can't listen" in again.stderr, "it serves it: nobody takes it over"
    assert run_cli("log-level", *cli).stdout == "info\n"


@pytest.mark.parametrize("admin, says", [
    ({"address": "0.0.0.0:6060"}, "loopback"), ({"address": "[::]:6060"}, "loopback"), ({"address": "unix:x"}, "unix:/PATH"),
    ({"address": "unix:/" + "x" * 63}, "63 bytes"), ({"address": "unix:/"}, "unix:/PATH"), ({"allow": ["x"]}, "10.0.0.0/8"),
    ({"allow": []}, "address"), ({"hosts": []}, "name"), ({"address": "0.0.0.0:6060", "allow": ["10.0.0.0/8"]}, "admin.token")])
def test_weir_check_refuses(tmp_path, admin, says):
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps({"listen": [{"address": "127.0.0.1:8080"}], "admin": admin,
                                "routes": [{"path": "/", "websocket": {"handler": "echo"}}]}))
    r = run_cli("check", str(file))
    assert r.returncode == 1 and says in r.stdout + r.stderr


def test_only_the_admin_listener_may_be_a_unix_socket(tmp_path):
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps({"listen": [{"address": "unix:/tmp/x"}], "routes": []}))
    assert run_cli("check", str(file)).returncode == 1
