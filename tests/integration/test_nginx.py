"""deploy/nginx.conf in a real nginx before two gateways. Of the file only ports, paths and limits of
this machine are replaced. All of 127.0.0.0/8 is ours, so that one machine can be several clients."""
import os
import re
import resource
import select
import signal
import subprocess
import threading
import time

import pytest

from weir import (CLOSE, HOST, PING, PONG, ROOT, TEXT, Closed, Raw, Weir, accept_key, children, close,
                  frame, free_port, guest, handshake, proc_state, wait_for)

CONFIG = {
    "log_level": "debug",
    "drain": "2s",
    "access": {"trusted": [HOST]},
    "modules": {"add": {"path": guest("add")}, "http": {"path": guest("http")}},
    "routes": [{"path": "/g", "http": {"module": "http"}},
               {"path": "/echo", "websocket": {"handler": "echo"}}],
}
SOCKETS = 2000


class Nginx:
    def __init__(self, folder, gateways, *replaced):
        self.port = free_port()
        self.folder, self.file = folder, folder / "nginx.conf"
        text = (ROOT / "deploy" / "nginx.conf").read_text()
        descriptors = min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        for old, new in (("listen 80;", f"listen {HOST}:{self.port};"),
                         ("pid /run/nginx.pid;", f"pid {folder}/pid; daemon off;"),
                         ("/var/log/nginx/error.log", f"{folder}/error.log"),
                         ("rlimit_nofile 65536", f"rlimit_nofile {descriptors}"),
                         ("worker_connections 32768", f"worker_connections {descriptors}"),
                         ("server 127.0.0.1:8080 ", f"server {HOST}:{gateways[0].port} "),
                         ("server 127.0.0.1:8081 ", f"server {HOST}:{gateways[1].port} "),
                         ("    access_log off;", "    access_log off;\n" + "".join(
                             f"    {x}_temp_path {folder}/{x};\n" for x in
                             ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))),
                         *replaced):
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.file.write_text(text)
        self.proc = subprocess.Popen(["nginx", "-p", folder, "-e", folder / "error.log",
                                      "-c", self.file], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for("nginx answers", self.answers)

    def answers(self):
        assert self.proc.poll() is None, (self.folder / "error.log").read_text()
        try:
            return self.exec() == b"6.2"
        except (OSError, Closed):
            return False

    def raw(self, **kw):
        return Raw(self.port, **kw)

    def exec(self):
        with self.raw() as c:
            r = c.send("POST /api/exec/add HTTP/1.1\r\nHost: weir.test\r\nConnection: close\r\n"
                       "Content-Length: 9\r\n\r\n[2.5,3.7]").response()
            assert r.status == 200, (r.status, r.body)
            return r.body.rstrip()

    def workers(self):
        return {p for p in children(self.proc.pid) if proc_state(p) not in ("", "Z", "X")}

    def reload(self):
        """New workers serve, and no old one accepts any more."""
        before = self.workers()
        self.proc.send_signal(signal.SIGHUP)

        def done():
            old, new = self.workers() & before, self.workers() - before
            titles = [open(f"/proc/{p}/cmdline").read() for p in old if os.path.exists(f"/proc/{p}")]
            return new and all("shutting down" in t or not t for t in titles)
        wait_for("the workers are new", done, timeout=10)

    def errors(self):
        return (self.folder / "error.log").read_text()

    def stop(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()


@pytest.fixture
def gateways(tmp_path_factory, cache, _running):
    both = [Weir(tmp_path_factory.mktemp("weir"), cache, CONFIG, start=False) for _ in range(2)]
    _running.extend(both)
    for w in both:
        w.start()
    yield both
    for w in both:
        w.stop()


@pytest.fixture
def nginx(tmp_path, gateways):
    n = Nginx(tmp_path, gateways)
    yield n
    n.stop()


def test_6_2_by_each_gateway_and_by_connections_that_are_kept(nginx, gateways):
    def count(name):
        return [w.metric(name) for w in gateways]
    events, accepted = count("guest_events_total"), count("connections_accepted_total")
    assert [nginx.exec() for _ in range(40)] == [b"6.2"] * 40
    ran = [n - b for n, b in zip(count("guest_events_total"), events)]
    assert sum(ran) == 40 and min(ran) > 0, ran
    opened = [n - b for n, b in zip(count("connections_accepted_total"), accepted)]
    # Each of nginx's workers has its own, of which there are as many as cores.
    assert sum(opened) <= 2 * len(nginx.workers()), "nginx opens a connection for each request"


def test_the_client_is_whom_nginx_saw(nginx, gateways):
    for claim in ("", "X-Forwarded-For: 192.0.2.66\r\n"):
        with nginx.raw(source="127.0.0.7") as c:
            r = c.send(f"GET /g?g5 HTTP/1.1\r\nHost: weir.test\r\n{claim}\r\n").response()
            assert r.body.decode().split(" ", 1)[1] == "127.0.0.7:0"
    with nginx.raw(source="127.0.0.8") as c:
        c.upgrade("/echo", "X-Forwarded-For: 192.0.2.66\r\n")
        wait_for("the log names the client", lambda: any(
            w.logs("connection_open", path="/echo", peer="127.0.0.8:0") for w in gateways))


def test_2000_sockets(nginx, gateways):
    key = "AAECAwQFBgcICQoLDA0ODw=="
    clients = [nginx.raw(timeout=15) for _ in range(SOCKETS)]
    try:
        for c in clients:
            c.send(handshake("/echo", key=key))
        for c in clients:
            r = c.response()
            assert r.status == 101 and r.headers.get("sec-websocket-accept") == accept_key(key)
        for i, c in enumerate(clients):
            c.send(frame(TEXT, f"from {i}"))
        for i, c in enumerate(clients):
            assert c.message() == (TEXT, b"from %d" % i)
        held = [w.metric("websockets_active") for w in gateways]
        assert sum(held) == SOCKETS and min(held) > SOCKETS / 4, held
        for c in clients:
            c.send(close(1000))
        for c in clients:
            c.fails(1000)
    finally:
        for c in clients:
            c.close()
    assert not re.search(r"\[(alert|crit|emerg)\]", nginx.errors()), nginx.errors()


def seconds(text, name):
    found = re.findall(rf"\b{name}\W+(\d+)s\b", text)
    assert len(found) == 1, (name, found)
    return int(found[0])


def test_pings_keep_an_idle_socket_and_who_is_gone_is_cut(tmp_path_factory, tmp_path, cache, _running):
    """Everything ten times as fast as in the file, whose proportions are looked at as well."""
    conf = (ROOT / "deploy" / "nginx.conf").read_text()
    rows = dict(re.findall(r"CFG\((interval|evict|idle_timeout), DURATION, \"(\d+)s\"",
                           (ROOT / "src/tbl/config.def").read_text()))
    read, send = seconds(conf, "proxy_read_timeout"), seconds(conf, "proxy_send_timeout")
    assert min(read, send) > 2 * int(rows["interval"]) and min(read, send) > int(rows["evict"])
    assert seconds(conf, "keepalive_timeout") < int(rows["idle_timeout"])
    config = {**CONFIG, "heartbeat": {"interval": "1500ms", "timeout": "1s", "evict": "2500ms"}}
    both = [Weir(tmp_path_factory.mktemp("weir"), cache, config, start=False) for _ in range(2)]
    _running.extend(both)
    for w in both:
        w.start()
    nginx = Nginx(tmp_path, both, *((f"{x}_timeout {read}s", f"{x}_timeout {read // 10}s")
                                    for x in ("proxy_read", "proxy_send")))
    try:
        with nginx.raw().upgrade("/echo") as here, nginx.raw().upgrade("/echo") as gone:
            end = time.monotonic() + read // 10 + 2
            while time.monotonic() < end:  # says nothing but pongs
                f = here.frame()
                assert f.opcode == PING, f
                here.send(frame(PONG, f.payload))
            assert here.send(frame(TEXT, "on")).message() == (TEXT, b"on")
            f = gone.frame()
            while f.opcode == PING:
                f = gone.frame()
            assert f.opcode == CLOSE and f.payload[:2] == (4001).to_bytes(2, "big"), f
    finally:
        nginx.stop()
        for w in both:
            w.stop()


def test_a_gateway_leaves_without_an_error_to_anybody(nginx, gateways):
    """As docs/DEPLOY.md says it: out of nginx's list, nginx reloaded, then SIGTERM."""
    leaving, staying = gateways
    clients = [nginx.raw().upgrade("/echo") for _ in range(100)]
    over, failures, count, again = threading.Event(), [], [0], []

    def ask():
        while not over.is_set():
            try:
                assert nginx.exec() == b"6.2"
                count[0] += 1
            except Exception as e:  # whatever it is, it is the test's failure
                failures.append(repr(e))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        text = nginx.file.read_text()
        line = f"server {HOST}:{leaving.port} "
        assert text.count(line) == 1
        nginx.file.write_text(text.replace(line, "# " + line))
        nginx.reload()
        for c in clients:  # a reload of nginx ends no WebSocket
            assert c.send(frame(TEXT, "still")).message() == (TEXT, b"still")
        left = [int(w.metric("websockets_active")) for w in gateways]
        assert sum(left) == 100 and min(left) > 0, left
        leaving.signal()
        gone = []  # those of the gateway that leaves are told so, and answer
        while len(gone) < left[0]:
            ready, _, _ = select.select([c.sock for c in clients if c not in gone], [], [], 8)
            assert ready, f"{len(gone)} of {left[0]} were told"
            for c in [c for c in clients if c.sock in ready]:
                c.close_frame(1001)
                c.send(close(1001))
                c.closed()
                gone.append(c)
        assert leaving.wait_exit() == 0
        for c in clients:
            if c in gone:  # a client that comes again is served
                c.close()
                c = nginx.raw().upgrade("/echo")
                again.append(c)
            assert c.send(frame(TEXT, "on")).message() == (TEXT, b"on")
        assert staying.metric("websockets_active") == 100
    finally:
        over.set()
        asking.join()
        for c in clients + again:
            c.close()
    assert not failures and count[0] > 0, failures[:5]
