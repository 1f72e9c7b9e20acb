"""Worker and compiler run as another user, where root starts weir; the supervisor keeps of root what it needs."""
import grp
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

import weir as weir_module
from test_cage import CONFIG, all_kinds_of_traffic, drains, sanitized, status
from test_modules_added import added, fn, letter, names, removed
from test_swap import big
from weir import children, comm, guest, run_cli, wait_for

ROOT = os.geteuid() == 0
OTHER = pwd.getpwnam("nobody" if ROOT else "root")
ONLY_ROOT = pytest.mark.skipif(not ROOT, reason="only root can become another user: what others get is tested below")
KEPT = 1 << 2 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10  # DAC_READ_SEARCH KILL SETGID SETUID SETPCAP NET_BIND_SERVICE


def ids(pid, what="Uid"):
    return [int(x) for x in status(pid)[what].split()]


def runs_as(pid, uid, gid):
    of = status(pid)
    assert ids(pid) == [uid] * 4 and ids(pid, "Gid") == [gid] * 4 and of["Groups"].split() == []
    assert [of[f"Cap{x}"] for x in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == ["0" * 16] * 5


def nobody(*args):
    """weir as nobody where we are root, else as ourselves."""
    other = {"user": OTHER.pw_uid, "group": OTHER.pw_gid, "extra_groups": []} if ROOT else {}
    return subprocess.run([weir_module.WEIR_BIN, *args], capture_output=True, text=True, timeout=20, **other)


@pytest.fixture
def open_folder():
    """One that nobody can read."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@ONLY_ROOT
@pytest.mark.parametrize("settings,uid,gid", [
    ({"user": OTHER.pw_name}, OTHER.pw_uid, OTHER.pw_gid),
    ({"user": OTHER.pw_name, "group": grp.getgrgid(1).gr_name}, OTHER.pw_uid, 1),
    ({"user": "54321", "group": "54322"}, 54321, 54322),
    ({"user": OTHER.pw_name, "sandbox": "off"}, OTHER.pw_uid, OTHER.pw_gid)])
def test_the_worker_is_another_user(start, settings, uid, gid):
    w = start({**CONFIG, **settings})
    w.may_die = True
    off = settings.get("sandbox") == "off"
    for _ in range(2):
        pid = w.worker_pid()
        if off:
            assert ids(pid) == [uid] * 4 and status(pid)["CapEff"] == "0" * 16
        else:
            runs_as(pid, uid, gid)
        all_kinds_of_traffic(w)
        ready = w.wait_log("worker_ready")
        assert (ready["uid"], ready["gid"]) == (uid, gid)
        os.kill(pid, signal.SIGKILL)
        wait_for("another worker", lambda p=pid: w.worker_pids() not in ([], [p]))
        wait_for("it is ready", w._is_ready)
    assert not w.logs("running_as_root")


@ONLY_ROOT
def test_others_of_that_user_stay_out(start):
    """The worker became that user: its memory is not theirs."""
    w = start({**CONFIG, "user": OTHER.pw_name})
    code = f"open('/proc/{w.worker_pid()}/mem')"
    r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, user=OTHER.pw_uid,
                       group=OTHER.pw_gid, extra_groups=[], cwd="/")
    assert r.returncode == 1 and "PermissionError" in r.stderr, r.stderr
    code = "open('/proc/self/mem')"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, user=OTHER.pw_uid, cwd="/").returncode == 0


@ONLY_ROOT
def test_written_pages_are_still_told(start):
    """PAGEMAP_SCAN works in a worker of another user as in root's: instances are restored as often."""
    counts = []
    for settings in ({}, {"user": OTHER.pw_name}):
        w = start({**CONFIG, **settings})
        for _ in range(10):
            assert w.exec("add", "[1,2]") == "3"
        counts.append((w.wait_log("module_loaded", module="add")["instance"], w.metric("guest_instances_restored_total")))
        w.stop()
    assert counts[0] == counts[1] and (counts[0][1] > 0) == (counts[0][0] == "restored")


@ONLY_ROOT
def test_the_compiler_is_another_user(start, tmp_path):
    """What it makes is root's nevertheless, which alone the cache's check lets in; and a worker of another user loads it."""
    cache = tmp_path / "own-cache"
    w = start({"modules": {"add": guest("add")}, "user": OTHER.pw_name}, cache=cache)
    added(w, fn("a"))
    assert letter(w) == "a"
    put = threading.Thread(target=lambda: w.get("/api/v1/modules/big", admin=True, method="PUT", body=big(200)))
    put.start()
    compilers = []

    def caged():
        compilers.extend(p for p in children(w.supervisor) if comm(p) == "weirc")
        return any(ids(p)[0] == OTHER.pw_uid and status(p)["CapEff"] == "0" * 16 for p in compilers if os.path.exists(f"/proc/{p}"))

    wait_for("weirc is that user", caged)
    put.join(15)
    w.get("/api/v1/modules/x", admin=True, method="PUT", body="(module")
    assert len(list(cache.iterdir())) >= 2
    for f in cache.iterdir():
        assert f.suffix == ".cwasm" and f.stat().st_uid == 0 and f.stat().st_mode & 0o777 == 0o600, f
    removed(w)
    assert "x" not in names(w)


@ONLY_ROOT
def test_roots_supervisor_keeps_little(start):
    w = start(CONFIG)
    of = status(w.supervisor)
    assert ids(w.supervisor) == [0] * 4
    for x in ("Prm", "Eff", "Bnd"):
        assert int(of[f"Cap{x}"], 16) & ~KEPT == 0, x
    logged = w.wait_log("running_as_root")
    assert logged["level"] == "warn" and "user:" in logged["mend"]
    all_kinds_of_traffic(w)
    drains(w)


def test_as_it_is(start):
    """Asked to run as who it is: no other user is needed for that, and root has said that it is to be so."""
    me = pwd.getpwuid(os.geteuid())
    w = start({**CONFIG, "user": me.pw_name, "group": str(os.getegid())})
    assert ids(w.worker_pid()) == [os.geteuid()] * 4 and not w.logs("running_as_root")
    all_kinds_of_traffic(w)


@pytest.mark.parametrize("settings,words", [
    ({"user": "no-such-user"}, "user: there is no user no-such-user"),
    ({"user": "-1"}, "user: there is no user -1"), ({"user": "4294967295"}, "user: there is no user 4294967295"),
    ({"user": "0x1"}, "user: there is no user 0x1"),
    ({"user": "54321"}, "user: 54321 has no group of its own here; add group:"),
    ({"user": "root", "group": "no-such-group"}, "group: there is no group no-such-group"),
    ({"group": "root"}, "group: root needs user:")])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_nobody_of_that_name(tmp_path, cache, command, settings, words):
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps({"modules": {"add": guest("add")}, "cache": str(cache), **settings}))
    r = run_cli(command, file)
    assert r.returncode == 1
    assert re.search(rf"^{re.escape(str(file))}:\d+: {re.escape(words)}", r.stderr, re.M), r.stderr


def test_only_root_can(open_folder):
    """Who checks a configuration need not be root; who serves has to be."""
    file = open_folder / "weir.yaml"
    file.write_text(json.dumps({"user": "root"}))
    r = nobody("serve", str(file))
    assert r.returncode == 1 and re.search(r":\d+: user: only root can become another user", r.stderr), r.stderr
    r = nobody("check", str(file))
    assert r.returncode == 0, r.stderr


@ONLY_ROOT
def test_root_that_may_not(tmp_path, cache):
    """Without CAP_SETUID, as in some containers: the worker does not go on as root."""
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps({"user": OTHER.pw_name, "cache": str(cache),
                                "listen": [{"address": f"127.0.0.1:{weir_module.free_port()}"}],
                                "admin": {"address": f"127.0.0.1:{weir_module.free_port()}"}}))

    def no_setuid():
        import ctypes
        assert ctypes.CDLL(None).prctl(24, 7, 0, 0, 0) == 0  # PR_CAPBSET_DROP, CAP_SETUID

    r = subprocess.run([weir_module.WEIR_BIN, "serve", str(file)], capture_output=True, text=True, timeout=20, preexec_fn=no_setuid)
    assert r.returncode == 1 and '"event":"user_refused"' in r.stderr and "worker_ready" not in r.stderr, r.stderr
