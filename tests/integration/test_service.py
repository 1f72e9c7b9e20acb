"""What a service manager sees: sd_notify's datagrams, `weir health`, the unit in deploy/."""
import os
import pathlib
import re
import signal
import socket
import subprocess

import pytest

from weir import HOST, ROOT, WEIR_BIN, free_port, guest, run_cli, wait_for

CONFIG = {"modules": {"add": {"path": guest("add")}}}


class Manager:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, name):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(name)
        self.sock.settimeout(10)

    def wait(self, text, most=200):
        """The datagrams up to that one."""
        seen = []
        while len(seen) < most:
            seen.append(self.sock.recv(4096).decode())
            if seen[-1] == text:
                return seen
        raise AssertionError(f"{text} is not among {seen}")


@pytest.mark.parametrize("abstract", [False, True])
def test_it_is_told_when_weir_serves_lives_and_stops(start, tmp_path, abstract):
    name = str(tmp_path / "notify")
    manager = Manager("\0" + name if abstract else name)
    w = start(CONFIG, start=False, env={"NOTIFY_SOCKET": ("@" if abstract else "") + name,
                                        "WATCHDOG_USEC": "300000"})
    w.start(ready=False)
    assert set(manager.wait("READY=1")) <= {"READY=1", "WATCHDOG=1"}
    assert w.exec("add", "[2.5,3.7]") == "6.2", "it serves once it has said so"
    for _ in range(3):
        assert manager.wait("WATCHDOG=1") == ["WATCHDOG=1"]
    w.signal()
    assert set(manager.wait("STOPPING=1")) <= {"WATCHDOG=1", "STOPPING=1"}
    assert w.wait_exit() == 0


def test_a_new_worker_is_told_as_well(start, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    w = start(CONFIG, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.wait("READY=1") == ["READY=1"], "without WATCHDOG_USEC there is no watchdog"
    w.may_die = True
    os.kill(w.worker_pid(), signal.SIGKILL)
    assert manager.wait("READY=1") == ["READY=1"]


def test_an_upgrade_stays_the_service_that_it_was(start, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    w = start(CONFIG, start=False, env={"NOTIFY_SOCKET": str(tmp_path / "notify"),
                                        "WATCHDOG_USEC": "300000"})
    w.start(ready=False)
    manager.wait("READY=1")
    main, worker = w.supervisor, w.worker_pid()
    done = run_cli("upgrade", "--admin", f"{HOST}:{w.admin}")
    assert done.returncode == 0, done.stderr
    wait_for("another worker serves", lambda: worker not in w.worker_pids(), timeout=10)
    manager.sock.setblocking(False)
    while True:  # what was said before
        try:
            assert manager.sock.recv(4096) in (b"WATCHDOG=1", b"READY=1")
        except BlockingIOError:
            break
    manager.sock.settimeout(10)
    manager.wait("WATCHDOG=1")
    assert w.supervisor == main and w.proc.poll() is None
    assert w.exec("add", "[2.5,3.7]") == "6.2"


def test_a_watchdog_of_another_process_is_none_of_ours(start, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    w = start(CONFIG, env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000",
                           "WATCHDOG_PID": "1"})
    assert manager.wait("READY=1") == ["READY=1"]
    w.signal()
    assert manager.wait("STOPPING=1") == ["STOPPING=1"]


@pytest.mark.parametrize("name", ["", "@", "x", "relative/path", "/nobody/there", "/" + "n" * 300,
                                  "@" + "n" * 300])
def test_a_socket_that_is_none_is_no_reason_to_fail(start, name):
    w = start(CONFIG, env={"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000"})
    assert w.exec("add", "[1,2]") == "3"


# ---------------------------------------------------------------------------- weir health


def test_health_says_whether_it_serves(start):
    w = start(CONFIG)
    admin = f"{HOST}:{w.admin}"
    done = run_cli("health", "--admin", admin)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")
    w.signal()
    w.wait_exit()
    done = run_cli("health", "--admin", admin)
    assert done.returncode == 1 and done.stdout == "" and admin in done.stderr


def test_health_needs_no_token(start):
    w = start({**CONFIG, "admin": {"token": "t" * 32}})
    assert run_cli("health", "--admin", f"{HOST}:{w.admin}").returncode == 0


def test_health_while_it_drains(start):
    w = start({**CONFIG, "drain": "5s", "routes": [{"path": "/e", "websocket": {"handler": "echo"}}]})
    with w.ws("/e") as c:
        w.signal()
        w.wait_log("draining")
        done = run_cli("health", "--admin", f"{HOST}:{w.admin}")
        assert done.returncode == 1 and "not ready" in done.stderr
        c.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", b"HTTP/1.1 503 No\r\n\r\n", b"\0" * 9000,
                                    b"HTTP/1.1 2000 \r\n\r\n"])
def test_health_believes_no_other_answer(answer):
    with socket.create_server((HOST, 0)) as server:
        p = subprocess.Popen([WEIR_BIN, "health", "--admin", "%s:%d" % server.getsockname()],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        peer, _ = server.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(answer)
        out, err = p.communicate(timeout=15)
        assert (p.returncode, out) == (1, "") and err


def test_health_waits_for_no_answer_that_does_not_come():
    with socket.create_server((HOST, 0)) as server:
        done = run_cli("health", "--admin", "%s:%d" % server.getsockname(), timeout=15)
        assert done.returncode == 1 and "did not answer" in done.stderr


# ---------------------------------------------------------------------------- the unit


def unit(tmp_path):
    """deploy/weir.service with a program that is there."""
    text = (ROOT / "deploy" / "weir.service").read_text()
    text, n = re.subn(r"/usr/local/bin/weir\b", str(pathlib.Path(WEIR_BIN).resolve()), text)
    assert n >= 2
    path = tmp_path / "weir.service"
    path.write_text(text)
    return path, text


def analyze(*args):
    done = subprocess.run(["systemd-analyze", *args], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=15)
    return done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    path, text = unit(tmp_path)
    assert analyze("verify", "--man=no", str(path)) == (0, "")
    path.write_text(text.replace("WatchdogSec=30", "WatchdogSec=thirty"))
    assert "thirty" in analyze("verify", "--man=no", str(path))[1], "what is wrong is said"


def test_the_unit_is_hardened(tmp_path):
    path, text = unit(tmp_path)
    status, said = analyze("security", "--offline=true", "--threshold=20", str(path))
    assert status == 0, said
    assert not re.search(r"^MemoryDenyWriteExecute", text, re.M)


def system_calls():
    """{set of systemd's: the names in it}"""
    sets, current = {}, None
    for line in analyze("syscall-filter")[1].splitlines():
        if line.startswith("@"):
            current = sets.setdefault(line.strip(), [])
        elif line.startswith(" ") and not line.strip().startswith("#"):
            current.append(line.strip())

    def members(name):
        return {x for y in sets[name] for x in (members(y) if y.startswith("@") else {y})}
    return {name: members(name) for name in sets}


def test_the_unit_allows_what_weir_calls(tmp_path):
    """strace sees the calls of a start with compiling, of service and of an end."""
    sets, allowed = system_calls(), set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", unit(tmp_path)[1], re.M):
        names = {x for word in line.lstrip("~").split() for x in sets.get(word, {word})}
        allowed = allowed - names if line.startswith("~") else allowed | names
    trace = tmp_path / "trace"
    config = tmp_path / "traced.yaml"
    port, admin = free_port(), free_port()
    config.write_text(f"listen: [{{address: '{HOST}:{port}'}}]\nadmin: {{address: '{HOST}:{admin}'}}\n"
                      f"cache: {tmp_path / 'cache'}\nmodules: {{add: {guest('add')}}}\n")
    weir = ROOT / "build" / "weir"  # a sanitizer has calls of its own
    p = subprocess.Popen(["strace", "-f", "-qq", "-o", trace, weir, "serve", config],
                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    try:
        wait_for("it serves", lambda: run_cli("health", "--admin", f"{HOST}:{admin}").returncode == 0,
                 timeout=15)
        pid = int(trace.read_text().split(None, 1)[0])
        os.kill(pid, signal.SIGTERM)
        assert p.wait(10) == 0
    finally:
        p.kill()
        p.wait()
    called = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(), re.M))
    assert {"epoll_wait", "landlock_restrict_self", "seccomp"} <= called
    assert called <= allowed, called - allowed
