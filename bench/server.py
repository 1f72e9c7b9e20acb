"""The servers that bench/run measures: start, readiness, memory, activity, stop."""
import contextlib
import http.client
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

BENCH = pathlib.Path(__file__).resolve().parent
REPO = BENCH.parent
FLOOR = REPO / "build" / "bench" / "floor"


class Failure(Exception):
    """Something could not be measured, and why."""


def free_port():
    # Below the range from which the kernel takes the clients' ports.
    while True:
        port = random.randrange(12000, 30000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def http_get(port, path):
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        conn.request("GET", path)
        response = conn.getresponse()
        return response.status, response.read().decode()
    finally:
        conn.close()


def module(name):
    paths = [REPO / "examples" / f"{name}.{ending}" for ending in ("wasm", "wat")]
    return next((p for p in paths if p.exists()), paths[0])


def proc_stat(pid):
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def alive(pid):
    with contextlib.suppress(OSError):
        return proc_stat(pid)[0] not in "ZX"
    return False


def descendants(root):
    """The process and all that stem from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry)] = int(proc_stat(entry)[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


class Server:
    """weir or floor, started afresh, stopped at the end of a with statement."""

    def __init__(self, kind, weir):
        self.kind, self.port, self.admin = kind, free_port(), free_port()
        self.dir = tempfile.TemporaryDirectory(prefix="weir-bench-")
        self.log = pathlib.Path(self.dir.name, "log")
        command = [FLOOR, str(self.port)]
        if kind == "weir":
            config = pathlib.Path(self.dir.name, "weir.yaml")
            config.write_text(self.config())
            command = [weir, "serve", config]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, cwd=self.dir.name)
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def config(self):
        return f"""\
listen:
  - address: 127.0.0.1:{self.port}
admin: {{address: 127.0.0.1:{self.admin}}}
limits: {{connections: 20000}}
modules:
  add:  {{path: {module("add")}}}
  echo: {{path: {module("echo")}}}
  loop: {{path: {BENCH}/guests/loop.wat}}
  fill: {{path: {BENCH}/guests/fill.wat}}
routes:
  - {{path: /ws/echo, websocket: {{module: echo}}}}
  - {{path: /ws/raw,  websocket: {{handler: echo}}}}
"""

    def ready(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self.kind == "weir":
                return http_get(self.admin, "/readyz")[0] == 200
            socket.create_connection(("127.0.0.1", self.port), 5).close()
            return True
        return False

    def wait_ready(self):
        end = time.monotonic() + 60
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text(errors="replace").strip()[-400:]
                raise Failure(f"{self.kind} does not get ready: {tail}")
            time.sleep(0.05)

    def memory(self):
        """PSS and RSS of all its processes, in bytes."""
        time.sleep(0.3)
        sums = {"Pss": 0, "Rss": 0}
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                for key, kib in re.findall(r"^(Pss|Rss): +(\d+) kB", text, re.M):
                    sums[key] += int(kib) * 1024
        return sums["Pss"], sums["Rss"]

    def activity(self):
        """Per process: its name, context switches of all its threads, and CPU ticks."""
        found = {}
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                proc = pathlib.Path(f"/proc/{pid}")
                fields = proc_stat(pid)
                text = "".join(p.read_text() for p in proc.glob("task/*/status"))
                switches = sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))
                name = (proc / "comm").read_text().strip()
                found[pid] = (name, switches, int(fields[11]) + int(fields[12]))
        return found

    def stop(self):
        pids = descendants(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 20
        while any(map(alive, pids)) and time.monotonic() < end:
            time.sleep(0.02)
        for pid in filter(alive, pids):
            print(f"{self.kind}: process {pid} does not end, killed", file=sys.stderr)
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.dir.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
