"""Runs the real binary, and speaks to it: over raw sockets for what no client library sends.

Every wait has a deadline and ends at an event; nothing sleeps a fixed time and hopes."""
import base64
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import namedtuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
WEIR_BIN = os.environ.get("WEIR_BIN", str(ROOT / "build" / "weir"))
WEIRC_BIN = os.environ.get("WEIRC_BIN", str(pathlib.Path(WEIR_BIN).parent / "weirc"))
# What a test does not say itself: as {"workers": 2}, for the tests that are not about what one loop does.
DEFAULTS = json.loads(os.environ.get("WEIR_CONFIG", "{}"))
WORKERS = DEFAULTS.get("workers", 1)
# The engine of modules for which a test names none: each test that runs guests can run on both.
ENGINE = os.environ.get("WEIR_ENGINE")


def rounds(n):
    """What a guest counts to where it is to take long but no longer than it may: less on the interpreter, which is slower."""
    return n // 20 if ENGINE == "pulley" else n


GUESTS = pathlib.Path(__file__).resolve().parent / "guests"
HOST = "127.0.0.1"
RFC3339 = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
IMF_DATE = re.compile(r"^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|"
                      r"Oct|Nov|Dec) \d{4} \d\d:\d\d:\d\d GMT$")

_taken = set()
# Tests run in two processes, each with ports of its own.
_PARITY = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 2


def free_port():
    """A port below the ephemeral range, so that no client socket can take it meanwhile."""
    while True:
        port = random.randrange(20000 + _PARITY, 32000, 2)
        if port in _taken:
            continue
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((HOST, port))
            except OSError:
                continue
        _taken.add(port)
        return port


def wait_for(what, condition, timeout=15, every=0.005):
    """Polls until condition() is true and returns its value; `what` names it in the failure."""
    value, watch = condition(), None
    while not value:
        watch = watch or Watch()
        if watch.over(timeout):
            raise AssertionError(f"within {timeout} s: {what}")
        time.sleep(every)
        value = condition()
    return value


def guest(name):
    return str(GUESTS / (name + ".wat"))


def run_cli(*args, timeout=30, env=None, cwd=None):
    """`weir ARGS`: the finished process with text output."""
    return subprocess.run([WEIR_BIN, *map(str, args)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=timeout,
                          env={**os.environ, **(env or {})}, cwd=cwd)


def refuses_to_serve(file, timeout=30):
    """`weir serve FILE` ends at once; the finished process."""
    try:
        return run_cli("serve", file, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"it serves {file} rather than refuse it") from None


# ---------------------------------------------------------------------------- processes


def children(pid):
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                found += [int(x) for x in f.read().split()]
    except OSError:
        pass
    return found


def comm(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def proc_state(pid):
    """The letter of /proc/PID/stat, or '' where the process is gone."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def switches(pid):
    """Voluntary context switches of all threads: how often it slept and was woken."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as f:
            total += int(re.search(r"^voluntary_ctxt_switches:\s*(\d+)", f.read(), re.M)[1])
    return total


def tree(pid):
    """A process and all that it has started, whichever live."""
    return [pid, *(x for child in children(pid) for x in tree(child))]


def delays(pid):
    """Seconds in which a process's threads wanted a CPU and others had it."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[1]) / 1e9
    except (OSError, IndexError):
        pass  # it is gone, or was not counted
    return total


class Watch:
    """Measures what weir and the test take, on a machine that may have other work: time in which they wanted a CPU and others
    had it is not theirs. sample(): in time before a process ends, after which nobody knows what it has waited."""

    def __init__(self):
        self.began, self.first = time.monotonic(), {pid: delays(pid) for pid in tree(os.getpid())}
        self.last = {}

    def sample(self):
        self.last.update({pid: delays(pid) for pid in tree(os.getpid())})

    def lost(self):
        self.sample()
        return sum(max(0, n - self.first.get(pid, 0)) for pid, n in self.last.items())

    def took(self):
        return time.monotonic() - self.began - self.lost()

    def over(self, seconds):
        """Whether it took longer; or five times as long, with all that others had of the machine."""
        passed = time.monotonic() - self.began
        return passed > seconds and (passed > 5 * seconds or self.took() > seconds)


# ---------------------------------------------------------------------------- HTTP

Response = namedtuple("Response", "status reason headers body raw version")


class Headers(list):
    def all(self, name):
        return [v for k, v in self if k.lower() == name.lower()]

    def get(self, name, default=None):
        found = self.all(name)
        assert len(found) <= 1, f"{name} is there {len(found)} times"
        return found[0] if found else default


class Closed(AssertionError):
    """The peer ended where more bytes were expected."""


class Raw:
    """A TCP connection that sends exactly what it is told to."""

    def __init__(self, port, timeout=15, rcvbuf=None, source=None, mss=None):
        self.sock = socket.socket()
        if mss:  # of what comes: the other side's send buffer stays small with it
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
        if source:
            self.sock.bind((source, 0))
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(timeout)
        self.sock.connect((HOST, port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buf = b""
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def shut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def send(self, data):
        if isinstance(data, str):
            data = data.encode("latin-1")
        self.sock.sendall(data)
        return self

    def fill(self):
        """Reads what there is; False at the end of the stream (a reset is one too)."""
        if self.ended:
            return False
        try:
            got = self.sock.recv(65536)
        except ConnectionError:
            got = b""
        except socket.timeout:
            raise AssertionError(f"nothing came; have {self.buf[:200]!r}") from None
        self.ended = not got
        self.buf += got
        return bool(got)

    def take(self, n):
        while len(self.buf) < n:
            if not self.fill():
                raise Closed(f"closed after {len(self.buf)} of {n} bytes: {self.buf[:200]!r}")
        out, self.buf = self.buf[:n], self.buf[n:]
        return out

    def until(self, marker):
        while marker not in self.buf:
            if not self.fill():
                raise Closed(f"closed before {marker!r}: {self.buf[:300]!r}")
        at = self.buf.index(marker) + len(marker)
        out, self.buf = self.buf[:at], self.buf[at:]
        return out

    def rest(self):
        """All bytes until the peer ends."""
        while self.fill():
            pass
        out, self.buf = self.buf, b""
        return out

    def closed(self):
        """Asserts that the peer ends and that nothing more comes before."""
        assert self.rest() == b""

    def response(self, head=False):
        """One response, framed exactly: status line, fields and as many body bytes as they say."""
        raw = self.until(b"\r\n\r\n")
        lines = raw[:-4].split(b"\r\n")
        assert not any(b"\n" in x or b"\r" in x or b"\0" in x for x in lines), raw
        m = re.match(rb"^HTTP/(1\.[01]) (\d{3}) ([ -~]*)$", lines[0])
        assert m, lines[0]
        status, headers = int(m[2]), Headers()
        for line in lines[1:]:
            f = re.match(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*(.*?)[ \t]*$", line)
            assert f, f"field line {line!r}"
            headers.append((f[1].decode(), f[2].decode("latin-1")))
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if 200 <= status < 500 or headers.get("date"):  # RFC 9110 6.6.1
            assert IMF_DATE.match(headers.get("date", "")), headers
        assert not (length and coding)
        body = b""
        if status < 200 or status == 204:
            assert length is None and coding is None, "RFC 9110 8.6: no length with 1xx and 204"
        elif head or status == 304:
            pass
        elif coding:
            assert coding == "chunked"
            while True:
                n = int(self.until(b"\r\n")[:-2].split(b";")[0], 16)
                body += self.take(n)
                assert self.take(2) == b"\r\n"
                if not n:
                    break
        else:
            assert length is not None and re.fullmatch(r"\d+", length), headers
            body = self.take(int(length))
        return Response(status, m[3].decode(), headers, body, raw, m[1].decode())

    def final(self, head=False):
        """The response after any 1xx."""
        while True:
            r = self.response(head)
            if r.status >= 200:
                return r

    # -------------------------------------------------------------------- WebSocket

    def upgrade(self, path, extra="", more=b"", host="weir.test"):
        """Handshake and, in the same packet, `more`."""
        key = base64.b64encode(bytes(range(16))).decode()
        self.send(handshake(path, extra, key, host) + more)
        r = self.response()
        assert r.status == 101, (r, self.buf)
        assert r.headers.get("upgrade").lower() == "websocket"
        assert r.headers.get("connection").lower() == "upgrade"
        assert r.headers.get("sec-websocket-accept") == accept_key(key)
        if "sec-websocket-extensions" not in extra.lower():
            assert r.headers.get("sec-websocket-extensions") is None, "none was offered"
        self.handshake = r
        return self

    def frame(self):
        """One frame of the server: unmasked, no reserved bit, the shortest length form."""
        first, second = self.take(2)
        assert first & 0x70 == 0 and second & 0x80 == 0, (first, second)
        n = second
        if n == 126:
            n = struct.unpack("!H", self.take(2))[0]
            assert n > 125
        elif n == 127:
            n = struct.unpack("!Q", self.take(8))[0]
            assert n > 0xffff
        opcode = first & 15
        if opcode >= 8:
            assert n <= 125 and first & 0x80
        return Frame(bool(first & 0x80), opcode, self.take(n))

    def message(self):
        """One data message, fragments joined; control frames are not expected."""
        f = self.frame()
        assert f.opcode in (TEXT, BINARY), f
        data, opcode = f.payload, f.opcode
        while not f.fin:
            f = self.frame()
            assert f.opcode == 0, f
            data += f.payload
        return opcode, data

    def close_frame(self, code, reason=None):
        """Asserts that the next frame is a close with that code (None: no body)."""
        f = self.frame()
        assert f.opcode == CLOSE, f
        if code is None:
            assert f.payload == b""
            return f
        assert len(f.payload) >= 2, f
        got = struct.unpack("!H", f.payload[:2])[0]
        text = f.payload[2:].decode()
        assert got == code, (got, text)
        if reason is not None:
            assert text == reason
        return f

    def fails(self, code):
        """The connection is failed: a close with that code, then the end."""
        self.close_frame(code)
        self.closed()


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
Frame = namedtuple("Frame", "fin opcode payload")


def frame(opcode, payload=b"", fin=True, rsv=0, mask=b"\x37\xfa\x21\x3d", form=None, length=None):
    """A client's frame. mask=None: unmasked. form 7, 16 or 64: that form of length, shortest or
    not. length: another one than the payload has."""
    if isinstance(payload, str):
        payload = payload.encode()
    n = len(payload) if length is None else length
    form = form or (7 if n < 126 else 16 if n < 65536 else 64)
    m = 0x80 if mask is not None else 0
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    if form == 7:
        head += bytes([m | n])
    elif form == 16:
        head += bytes([m | 126]) + struct.pack("!H", n)
    else:
        head += bytes([m | 127]) + struct.pack("!Q", n)
    if mask is None:
        return head + payload
    stream = (mask * (len(payload) // 4 + 1))[:len(payload)]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(
        len(payload), "big")
    return head + mask + masked


def close(code=None, reason=b""):
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def accept_key(key):
    guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1((key + guid).encode()).digest()).decode()


def handshake(path, extra="", key="AAECAwQFBgcICQoLDA0ODw==", host="weir.test"):
    return (f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n{extra}\r\n").encode("latin-1")


def problem(r, status, code=None):
    """Asserts the shape of RFC 9457 and of what DESIGN adds to it; returns the document."""
    assert r.status == status, (r.status, r.body[:300])
    assert r.headers.get("content-type") == "application/problem+json", r.headers
    doc = json.loads(r.body)
    assert doc["status"] == status
    for name in ("type", "title", "detail", "code"):
        assert isinstance(doc[name], str) and doc[name], (name, doc)
    if code is not None:
        assert doc["code"] in ([code] if isinstance(code, str) else code), doc
    return doc


# ---------------------------------------------------------------------------- the program


def is_event(line, event):
    """Whether a log line is of that event; GUEST_SAYS: what a guest logged, at any level."""
    name = line.get("event", "")
    if event is GUEST_SAYS:
        return name.startswith("guest_") and name != "guest_failed"
    return name == event


GUEST_SAYS = "what guests log"


def log_fields():
    """{event: (the fields that it has, those that it may have)}, as docs/LOGS.md says."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| .* \| ([^|]*) \|$", (ROOT / "docs/LOGS.md").read_text(), re.M)
    return {event: ({f for f in fields.split() if f[-1] != "?"}, {f[:-1] for f in fields.split() if f[-1] == "?"})
            for event, fields in rows}


FIELDS = log_fields()


def as_documented(line, cut=False):
    """Each line of each test's gateway is of an event of docs/LOGS.md, and has its fields."""
    has, may = FIELDS[line["event"]]
    own = set(line) - {"suppressed"} | (has & {"suppressed"})
    assert list(line)[:4] == ["time", "level", "event", "msg"]
    assert own <= {"time", "level", "event", "msg"} | has | may, line
    assert cut or has <= own, line


class Weir:
    """One `weir serve` with its own ports. config: the weir.yaml as a dict; listen, admin and
    cache are filled in."""

    def __init__(self, folder, cache, config, nofile=None, env=None, start=True):
        self.folder = pathlib.Path(folder)
        self.port, self.admin = free_port(), free_port()
        self.config = {"listen": [{"address": f"{HOST}:{self.port}"}],
                       "cache": str(cache),
                       # Tests that count frames want no pings between them.
                       "heartbeat": {"interval": "0s"}, "log_rate": 0, **config,  # and each line
                       "admin": {"address": f"{HOST}:{self.admin}", **config.get("admin", {})}}
        actors = '"instance": "module"' in json.dumps(self.config)  # they need one loop
        for key, value in DEFAULTS.items():
            self.config.setdefault(key, 1 if key == "workers" and actors else value)
        if ENGINE:
            self.config["modules"] = {
                name: {"engine": ENGINE, **(m if isinstance(m, dict) else {"path": str(m)})}
                for name, m in self.config.get("modules", {}).items()}
        self.file = self.folder / f"weir-{self.port}.yaml"
        self.file.write_text(json.dumps(self.config, indent=1))  # JSON is YAML
        self.nofile, self.env = nofile, env
        self.proc, self.lines, self.bad_lines = None, [], []
        self.may_die = False  # the test kills the worker itself
        self.signalled = False
        self._new_line = threading.Condition()
        self._admin_raw = None
        if start:
            self.start()

    preexec = None  # called in the process that becomes weir

    def start(self, ready=True):
        self.signalled = False

        def limit():
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (self.nofile, self.nofile))

        self.proc = subprocess.Popen([WEIR_BIN, "serve", str(self.file)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     preexec_fn=self.preexec or (limit if self.nofile else None),
                                     env={**os.environ, **(self.env or {})})
        self._readers = [threading.Thread(target=self._read, daemon=True),
                         threading.Thread(target=self._read_stdout, daemon=True)]
        for t in self._readers:
            t.start()
        if ready:
            try:
                wait_for("/readyz answers 200", self._is_ready, timeout=90)
                if self.config.get("log_level", "info") in ("debug", "info"):
                    self.wait_log("worker_ready")  # and all that was logged before it
            except BaseException:
                self.kill()
                raise
        return self

    def _read(self):
        for line in self.proc.stderr:
            try:
                parsed = json.loads(line)
                assert isinstance(parsed, dict) and line.endswith(b"\n")
                as_documented(parsed, cut=len(line) > 3900)
            except Exception:
                parsed = None
            with self._new_line:
                if parsed is None:
                    self.bad_lines.append(line)
                else:
                    self.lines.append(parsed)
                self._new_line.notify_all()

    def _read_stdout(self):
        self.stdout = self.proc.stdout.read()

    def _is_ready(self):
        if self.proc.poll() is not None:
            for t in self._readers:
                t.join(5)
            raise AssertionError(f"weir ended with {self.proc.returncode} before it was ready: "
                                 f"{self.bad_lines} {self.lines}")
        try:
            return self.get("/readyz", admin=True).status == 200
        except (OSError, Closed):
            return False

    # ---- processes

    @property
    def supervisor(self):
        return self.proc.pid

    def worker_pids(self):
        return [p for p in children(self.proc.pid)
                if proc_state(p) not in ("", "Z", "X") and comm(p) != "weirc"]

    def worker_pid(self, timeout=15):
        pids = wait_for("the supervisor has a worker", self.worker_pids, timeout)
        assert len(pids) == 1, f"one worker, not {pids}"
        return pids[0]

    # ---- logs

    def logs(self, event=None, **fields):
        with self._new_line:
            lines = list(self.lines)
        assert not self.bad_lines, f"not JSON on stderr: {self.bad_lines}"
        return [x for x in lines if (event is None or is_event(x, event)) and
                all(x.get(k) == v for k, v in fields.items())]

    def wait_logs(self, event, n=1, timeout=15, where=None, **fields):
        """Waits until n such lines are there; returns them."""
        watch = None
        while True:
            with self._new_line:
                found = [x for x in self.lines if is_event(x, event) and
                         all(x.get(k) == v for k, v in fields.items()) and
                         (where is None or where(x))]
                if len(found) >= n:
                    return found
                watch = watch or Watch()
                if watch.over(timeout):
                    raise AssertionError(f"within {timeout} s: {n} x {event} {fields}; "
                                         f"have {self.lines[-20:]} {self.bad_lines}")
                self._new_line.wait(1)

    def wait_log(self, event, **kw):
        return self.wait_logs(event, **kw)[-1]

    def admin_raw(self):
        return Raw(self.admin)

    # ---- metrics

    def metrics(self):
        """{'weir_x': 1.0, 'weir_y{code="Z"}': 2.0} by one kept-alive admin connection."""
        for attempt in (1, 2):
            try:
                if self._admin_raw is None:
                    self._admin_raw = self.admin_raw()
                r = self._admin_raw.send(ADMIN_METRICS).response()
                break
            except (OSError, Closed):  # a new worker: once more
                self._admin_raw = None
                if attempt == 2:
                    raise
        assert r.status == 200
        out = {}
        for line in r.body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                assert name not in out, f"{name} twice"
                out[name] = float(value)
        return out

    def metric(self, name, **labels):
        if labels:
            name += "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"
        return self.metrics()["weir_" + name]

    def wait_metric(self, name, value, timeout=15, **labels):
        test = value if callable(value) else lambda v: v == value
        seen = []

        def check():
            seen.append(self.metric(name, **labels))
            return test(seen[-1])

        try:
            wait_for(f"{name} {labels}", check, timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}; last {seen[-1:]}") from None
        return seen[-1]

    # ---- HTTP

    def raw(self, **kw):
        return Raw(self.port, **kw)

    def get(self, path, admin=False, method="GET", body=None, headers=""):
        if isinstance(body, str):
            body = body.encode()
        with self.admin_raw() if admin else Raw(self.port) as c:
            text = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{headers}"
            if body is not None:
                text += f"Content-Length: {len(body)}\r\n"
            c.send(text.encode("latin-1") + b"\r\n" + (body or b""))
            r = c.final(head=method == "HEAD")
            assert r.headers.get("connection", "").lower() == "close"
            c.closed()
            return r

    def post(self, path, body, headers=""):
        return self.get(path, method="POST", body=body, headers=headers)

    def exec(self, target, body):
        """The text that /api/exec answers with 200, without its line end."""
        r = self.post("/api/exec/" + target, body)
        assert r.status == 200, (r.status, r.body)
        assert r.headers.get("content-type") == "application/json"
        return r.body.decode().rstrip("\n")

    # ---- WebSocket

    def ws(self, path, extra="", more=b"", **kw):
        return Raw(self.port, **kw).upgrade(path, extra, more)

    def url(self, path):
        return f"ws://{HOST}:{self.port}{path}"

    # ---- the end

    def check(self):
        """The worker still lives and nothing but JSON was logged."""
        assert self.proc.poll() is None, f"weir ended: {self.proc.returncode}, {self.lines[-5:]}"
        assert not self.bad_lines, f"not JSON on stderr: {self.bad_lines}"
        if not self.may_die:
            died = self.logs("worker_exit")
            said = "\n".join(x["text"] for x in self.logs("worker_output"))  # a sanitizer's report, say
            assert not died, f"the worker died: {died}\n{said}"

    def signal(self, sig=signal.SIGTERM):
        self.signalled = True
        os.kill(self.proc.pid, sig)

    def wait_exit(self, timeout=20, watch=None):
        if self._admin_raw:
            self._admin_raw.close()
            self._admin_raw = None

        def ended():
            if watch:
                watch.sample()
            return self.proc.poll() is not None
        try:
            wait_for("weir ends", ended, timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}; {self.lines[-5:]}") from None
        code = self.proc.returncode
        for t in self._readers:
            t.join(5)
        return code

    def stop(self):
        """SIGTERM, exit code 0, no worker left behind; what a test leaves open is cut by drain."""
        if self.proc is None:
            return
        try:
            if self.proc.poll() is None and not self.signalled:
                self.check()
                workers = self.worker_pids()
                self.signal()
                code = self.wait_exit()
                assert code == 0, f"exit code {code}; {self.lines[-5:]}"
                assert not self.bad_lines, f"not JSON on stderr: {self.bad_lines}"
                for pid in workers:
                    assert proc_state(pid) in ("", "Z", "X"), f"worker {pid} outlived weir"
        finally:
            self.kill()

    def kill(self):
        """Ends what is left of it, by pid."""
        if self.proc is None:
            return
        pids = children(self.proc.pid)
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait(10)
        for pid in pids:
            if comm(pid) in ("weir", "weirc"):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self._admin_raw:
            self._admin_raw.close()
            self._admin_raw = None


ADMIN_METRICS = f"GET /metrics HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


class Gate:
    """Waits until the worker has read bytes: for input split at an exact place. It compares
    weir_received_bytes_total, less what asking for it costs. Nothing else may talk to weir."""

    def __init__(self, weir):
        self.weir = weir
        first, second = self._value(), self._value()
        self.cost = second - first
        self.base = second

    def _value(self):
        return int(self.weir.metric("received_bytes_total"))

    def passed(self, n, timeout=15):
        """Until n more bytes than at the last call have been read."""
        end = time.monotonic() + timeout
        asked = 0
        while True:
            value = self._value()
            asked += 1
            if value - asked * self.cost - self.base >= n:
                assert value - asked * self.cost - self.base == n, "more bytes than were sent"
                self.base = value
                return
            assert time.monotonic() < end, f"the worker did not read {n} bytes"
