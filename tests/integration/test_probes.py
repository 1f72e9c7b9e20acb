"""USDT probes: the program has those that docs/PROBES.md has, with as many arguments; and what deploy/*.bt say of a real run."""
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import warnings

import pytest

from weir import ROOT, TEXT, WEIR_BIN, WEIRC_BIN, frame, guest

MODULES = {"echo": guest("echo"), "add": guest("add"), "hostile": {"path": guest("hostile/handlers")}}
CONFIG = {"modules": MODULES, "routes": [
    {"path": "/ws/echo", "websocket": {"module": "echo"}}, {"path": "/ws/raw", "websocket": {"handler": "echo"}},
    {"path": "/hostile", "http": {"module": "hostile"}}]}
SCRIPTS = sorted((ROOT / "deploy").glob("*.bt"))


def documented():
    """{probe: how many arguments it has}"""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", (ROOT / "docs" / "PROBES.md").read_text(), re.M)
    assert rows
    return {name: len(re.sub(r"\([^)]*\)", "", arguments).replace(", or 0", "").split(",")) for name, arguments in rows}


def notes(binary):
    text = subprocess.run(["readelf", "-n", binary], capture_output=True, text=True, timeout=15, check=True).stdout
    found = {}
    for name, arguments in re.findall(r"Provider: weir\n\s+Name: (\w+)\n.*\n\s+Arguments: (.*)", text):
        found.setdefault(name, set()).add(len(arguments.split()))
    return {name: n.pop() for name, n in found.items() if len(n) == 1}


@pytest.mark.parametrize("stripped", [False, True], ids=["as built", "stripped"])
def test_the_programs_notes_are_as_documented(tmp_path, stripped):
    binary = WEIR_BIN
    if stripped:
        binary = tmp_path / "weir"
        subprocess.run(["strip", "-o", binary, WEIR_BIN], check=True, timeout=15)
    assert notes(binary) == documented()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_scripts_use_what_there_is(script):
    blocks = re.split(r"^(?=usdt:|END)", script.read_text(), flags=re.M)[1:]
    assert blocks
    for block in blocks:
        names = re.findall(r"^usdt:\$1:weir:(\w+)$", block, re.M)
        used = [int(n) for n in re.findall(r"\barg(\d)", block)]
        assert (len(names) == 1 and max(used) < documented()[names[0]]) if used else block.startswith(("END", "usdt:"))


@pytest.fixture
def own(start, tmp_path, monkeypatch):
    """A gateway whose program nobody else runs: a probe is hit by all processes of a file."""
    binary = shutil.copy(WEIR_BIN, tmp_path / "weir")
    (tmp_path / "weirc").symlink_to(WEIRC_BIN)
    monkeypatch.setattr("weir.WEIR_BIN", str(binary))
    return start(CONFIG), str(binary)


@pytest.fixture
def load(own):
    weir, _ = own
    enough, failed = threading.Event(), []

    def go():
        try:
            while not enough.is_set():
                with weir.ws("/ws/echo") as echo, weir.ws("/ws/raw") as raw:
                    for c in (echo, raw) * 20:
                        c.send(frame(TEXT, "x"))
                        c.frame()
                weir.post("/api/exec/add", "[1,2]")
                weir.get("/hostile?Hs")  # for its deadline of 50 ms
        except Exception as e:
            failed.append(e)

    t = threading.Thread(target=go, daemon=True)
    t.start()
    yield
    enough.set()
    t.join(5)
    assert not failed


def trace(*scripts, seconds):
    """What each script says when it is ended after that time, all of them at once."""
    running = [subprocess.Popen(["bpftrace", *s], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for s in scripts]
    try:
        time.sleep(seconds)
        for p in running:
            p.send_signal(signal.SIGINT)
        return [p.communicate(timeout=20)[0] for p in running]
    finally:
        for p in running:
            p.kill()
            p.wait()


def refused(binary, said):
    """Why the kernel lets nobody attach here; None: it does."""
    assert shutil.which("bpftrace"), "scripts/setup test"
    if os.geteuid():
        return "not root"
    once = f'usdt:{binary}:weir:iteration {{ printf("hit\\n"); exit(); }}'
    p = subprocess.run(["timeout", "5", "bpftrace", "-e", once], capture_output=True, text=True, timeout=20)
    return None if "hit" in p.stdout else (said + p.stdout + p.stderr).strip()[-300:]


def entries(text, name):
    """{key: its lines} of a map of histograms, or of numbers."""
    return {k: v for k, v in re.findall(rf"^@{name}\[([^\]]+)\]: *(\n(?:[\[\(].+\n)+|.+)", text, re.M)}


@pytest.mark.guard(60)
def test_what_the_scripts_say(own, load):
    binary = own[1]
    latency, pauses = (str(s) for s in SCRIPTS)
    for seconds in (2, 6, 15):  # it takes its time to attach, and does not say when it has
        late, away = trace((latency, binary), (pauses, binary), seconds=seconds)
        if {"/ws/echo", "/ws/raw"} <= set(entries(late, "us")) and entries(late, "failed") and "guest" in entries(away, "us"):
            break
        why = refused(binary, late)
        if why:
            warnings.warn(f"the kernel lets nobody attach to probes here ({why}): deploy/*.bt were checked by "
                          "test_scripts_use_what_there_is alone", stacklevel=1)
            return
    assert set(entries(late, "us")) == {"/ws/echo", "/ws/raw"}, late
    assert {"echo", "hostile", "add"} <= set(entries(late, "guest_us")), late
    assert int(entries(late, "yields")["hostile"]) > 10, late
    assert entries(late, "failed").keys() == {"hostile, GUEST_DEADLINE"}, late
    assert "@since[" not in late and "@begun[" not in late, "what is not answered yet is not shown"
    assert {"guest", "ws", "http"} <= set(entries(away, "us")) <= {"http", "ws", "tls", "admin", "guest", "timer", "other"}, away
    assert int(entries(away, "longest_us")["guest"]) >= 500, away
    assert int(entries(away, "all_us")["guest"]) >= int(entries(away, "longest_us")["guest"])
