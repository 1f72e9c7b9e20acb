"""The program: its command line, its life and death, its logs, metrics and modules."""
import calendar
import json
import os
import pathlib
import re
import signal
import socket
import stat
import subprocess
import time

import pytest

from weir import (Closed, GUEST_SAYS, HOST, RFC3339, Raw, TEXT, WEIRC_BIN, WEIR_BIN, Watch, Weir, children, close, frame, guest,
                  problem, proc_state, refuses_to_serve, run_cli, switches, wait_for)

TYPES = {"path": guest("types"), "limits": {"deadline": "60s", "timeout": "60s"}}
CONFIG = {"modules": {"add": guest("add"), "types": TYPES, "ws": guest("ws"), "http": guest("http")},
          "routes": [{"path": "/ws", "websocket": {"module": "ws"}}, {"path": "/raw", "websocket": {"handler": "echo"}},
                     {"path": "/h", "http": {"module": "http"}}]}
ADD = "POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n[1,2]"
SPIN = "POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n[{}]"


def spin(n):
    return SPIN.format(len(str(n)) + 2, n)


# ---------------------------------------------------------------------------- the command line


def test_version():
    r = run_cli("version")
    assert r.returncode == 0 and r.stderr == ""
    assert re.match(r"^weir \d+\.\d+\.\d+ .*wasmtime 48\.", r.stdout)


@pytest.mark.parametrize("args", [["--help"], ["serve", "--help"], ["check", "--help"], ["version", "--help"]])
def test_help(args):
    r = run_cli(*args)
    assert r.returncode == 0 and r.stderr == ""
    for command in [args[0]] if len(args) > 1 else ["serve", "check", "version"]:
        assert re.search(rf"\bweir {command}\b", r.stdout), r.stdout


@pytest.mark.parametrize("args", [[], ["nothing"], ["serve", "a", "b"], ["check", "a", "b"], ["--nothing"], ["serv"], [""]])
def test_usage_errors(args):
    r = run_cli(*args)
    assert r.returncode == 2 and r.stdout == ""
    assert "weir serve" in r.stderr and "weir check" in r.stderr


@pytest.mark.parametrize("args", [["memory", "x"], ["memory", "-j"], ["tail", "x"], ["kick", "x"], ["log-level", "5"], ["docs", "x"]])
def test_what_a_command_does_not_take(args):
    r = run_cli(*args)
    assert (r.returncode, r.stdout) == (2, "") and f"weir {args[0]}" in r.stderr


@pytest.mark.parametrize("args", [["tail", "--once"], ["memory", "--json"], ["log-level"]])
def test_the_gateway_is_named_anywhere(weir, args):
    admin = ["--admin", f"{HOST}:{weir.admin}"]
    for line in (args + admin, args[:1] + admin + args[1:], args[:1] + ["--name", "x"] + args[1:] + admin):
        r = run_cli(*line)
        assert r.returncode == 0 and r.stdout, r.stderr


@pytest.mark.parametrize("args", [[], ["a.wat"], ["-o", "b"], ["a.wat", "-o"], ["a.wat", "-o", "b", "--engine", "x"], ["--x", "a", "-o", "b"]])
def test_weirc_usage_errors(args):
    r = subprocess.run([WEIRC_BIN, *args], capture_output=True, text=True, timeout=20)
    assert r.returncode == 2 and "usage" in r.stderr.lower()


def test_the_workers_own_command_by_hand():
    """An error; no hang, no crash."""
    assert run_cli("worker", timeout=5).returncode in (1, 2)


def test_docs_of_nothing():
    r = run_cli("docs", "nothing", timeout=5)
    assert r.returncode == 2 and "weir docs" in r.stderr and r.stdout == ""


def yaml(tmp_path, text, name="weir.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def test_check_says_that_all_is_well(tmp_path, cache):
    file = yaml(tmp_path, f"cache: {cache}\nmodules:\n  add: {guest('add')}\nroutes:\n"
                          "  - {path: /raw, websocket: {handler: echo}}\n")
    r = run_cli("check", file)
    assert (r.returncode, r.stderr) == (0, "") or (r.returncode == 0 and all(
        json.loads(x) for x in r.stderr.splitlines()))


def test_check_says_all_that_is_wrong_at_once(tmp_path):
    """Each problem with its file and line, in one run, and the mend where there is one."""
    file = yaml(tmp_path, "listen:\n"                                            # 1
                          "  - address: nonsense\n"                              # 2
                          "admin: {address: 0.0.0.0:6060}\n"                     # 3
                          "limits:\n"                                            # 4
                          "  conections: 5\n"                                    # 5
                          "  message: 64KB\n"                                    # 6
                          "  guests: 0\n"                                        # 7
                          "  head_timeout: 10\n"                                 # 8
                          "log_level: loud\n"                                    # 9
                          "modules:\n"                                           # 10
                          "  bad name: x.wat\n"                                  # 11
                          "  nopath: {engine: native}\n"                         # 12
                          "  jit: {path: x.wat, engine: jit, exec: maybe}\n"     # 13
                          "routes:\n"                                            # 14
                          "  - {path: /a, websocket: {module: gone}}\n"          # 15
                          "  - {path: /b, websocket: {handler: nothing}}\n"      # 16
                          "  - {path: /c, http: {handler: echo}}\n"              # 17
                          "nothing: 1\n")                                        # 18
    r = run_cli("check", file)
    assert r.returncode == 1 and r.stdout == ""
    said = {}
    for line in r.stderr.splitlines():
        m = re.match(re.escape(str(file)) + r":(\d+): (.+)$", line)
        assert m, f"not file:line: what: {line!r}"
        said.setdefault(int(m[1]), []).append(m[2])
    assert {2, 3, 5, 6, 7, 8, 11, 12, 13, 15, 16, 17, 18} <= set(said), said
    assert "did you mean connections?" in said[5][0]
    assert "gone" in said[15][0] and "nothing" in said[18][0]


@pytest.mark.parametrize("text,line", [("limits: {guests: 5\nroutes: []\n", 2), ("a: b\n\tc: d\n", 2), ("limits:\n  guests: 5\n  guests: 6\n", 3),
                                       ("modules:\n  a: x.wat\n  a: y.wat\n", 3), ("- a\n", 1), ("limits: [1]\n", 1),
                                       ("limits:\n  guests: ${WEIR_TEST_UNSET}\n", 2), ("routes:\n  - {path: x, websocket: {handler: echo}}\n", 2)])
def test_check_of_broken_files(tmp_path, text, line):
    file = yaml(tmp_path, text)
    for command in ("check", "serve"):
        r = run_cli(command, file) if command == "check" else refuses_to_serve(file)
        assert r.returncode == 1, r
        assert re.search(rf"^{re.escape(str(file))}:{line}: ", r.stderr, re.M), r.stderr


def test_check_of_no_file(tmp_path):
    r = run_cli("check", tmp_path / "nowhere.yaml")
    assert r.returncode == 1 and "nowhere.yaml" in r.stderr and "No such file" in r.stderr
    assert "weir.yaml" in run_cli("check", cwd=tmp_path).stderr, "the default name"


def test_environment_in_the_configuration(tmp_path, cache):
    file = yaml(tmp_path, "limits:\n  guests: ${WEIR_TEST_N}\n  head: ${WEIR_TEST_H:-4KiB}\n")
    assert run_cli("check", file, env={"WEIR_TEST_N": "5"}).returncode == 0
    r = run_cli("check", file, env={"WEIR_TEST_N": "many"})
    assert r.returncode == 1 and f"{file}:2:" in r.stderr


def test_port_in_use(start):
    """A clear message and exit code 1, for either listener."""
    with socket.socket() as s:
        s.bind((HOST, 0))
        s.listen()
        taken = f"{HOST}:{s.getsockname()[1]}"
        for where in ({"listen": [{"address": taken}]}, {"admin": {"address": taken}}):
            w = start({**CONFIG, **where}, start=False)
            r = refuses_to_serve(w.file)
            assert r.returncode == 1
            assert taken in r.stderr and "in use" in r.stderr


# ---------------------------------------------------------------------------- modules


def broken_modules(tmp_path):
    (tmp_path / "text.wasm").write_text("this is no wasm")
    (tmp_path / "empty.wasm").write_bytes(b"")
    (tmp_path / "cut.wasm").write_bytes(b"\0asm\1\0\0\0\1\7\2`")
    (tmp_path / "syntax.wat").write_text("(module (func")
    (tmp_path / "types.wat").write_text('(module (func (export "f") (result i32) (i64.const 1)))')
    (tmp_path / "import.wat").write_text('(module (import "weir_v1" "ws_sned" (func (param i64 i32 i32 i32) (result i32))))')
    (tmp_path / "other.wat").write_text('(module (import "env" "puts" (func (param i32) (result i32))))')
    (tmp_path / "signature.wat").write_text('(module (import "weir_v1" "msg_read" (func (param i32) (result i32))))')
    for name, body in (("on_http", "(param i32) (result i32) (i32.const 0)"), ("on_ws_message", "(param i64 i32) (result i32) (i32.const 0)"),
                       ("on_ws_handshake", "(param i64)"), ("on_ws_open", "(param i32)"), ("on_ws_close", "(param i64 i32 i32) (result i32) (i32.const 0)")):
        (tmp_path / f"{name}.wat").write_text(f'(module (func (export "{name}") {body}))')


@pytest.mark.parametrize("name,words", [
    ("missing.wat", ["missing.wat", "No such file"]), ("text.wasm", ["text.wasm"]), ("empty.wasm", ["empty.wasm"]), ("cut.wasm", ["cut.wasm"]),
    ("syntax.wat", ["syntax.wat"]), ("types.wat", ["types.wat"]), ("import.wat", ["ws_sned"]), ("other.wat", ["env", "puts"]),
    ("signature.wat", ["msg_read"]), ("on_http.wat", ["on_http"]), ("on_ws_message.wat", ["on_ws_message"]),
    ("on_ws_handshake.wat", ["on_ws_handshake"]), ("on_ws_open.wat", ["on_ws_open"]), ("on_ws_close.wat", ["on_ws_close"])])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_module_problems(start, tmp_path, command, name, words):
    """Exit code 1; the message names the module, its line, and what is wrong."""
    broken_modules(tmp_path)
    w = start({"modules": {"good": guest("add"), "culprit": str(tmp_path / name)}}, start=False)
    r = run_cli(command, w.file) if command == "check" else refuses_to_serve(w.file)
    assert r.returncode == 1, r
    line = next(n for n, x in enumerate(w.file.read_text().splitlines(), 1) if "culprit" in x)
    told = [x for x in r.stderr.splitlines() if "culprit" in x and str(w.file) in x]
    assert told, r.stderr
    for word in ["culprit", *words]:
        assert word in r.stderr, (word, r.stderr)
    assert f"{w.file}:{line}:" in told[0] or f'"line":{line}' in told[0], told


@pytest.mark.parametrize("others", [{}, {"roomy": {"path": guest("add"), "limits": {"memory": "8MiB"}}}], ids=["alone", "beside"])
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_module_that_needs_more_memory_than_it_may_have(start, command, others):
    """Refused at the start, and the message says that it is its memory; with room for it, it runs."""
    w = start({"modules": {**others, "culprit": guest("big")}}, start=False)
    r = run_cli(command, w.file) if command == "check" else refuses_to_serve(w.file)
    assert r.returncode == 1
    assert "culprit" in r.stderr and "memory" in r.stderr and "6553600" in r.stderr
    w = start({"modules": {**others, "roomy": {"path": guest("big"), "limits": {"memory": "6400KiB"}, "exec": "yes"}}})
    assert w.exec("roomy/f", "[]") == "5"


def test_all_module_problems_at_once(start, tmp_path):
    broken_modules(tmp_path)
    w = start({"modules": {"first": str(tmp_path / "missing.wat"), "second": str(tmp_path / "syntax.wat"),
                           "third": str(tmp_path / "import.wat")}}, start=False)
    r = run_cli("check", w.file)
    assert r.returncode == 1
    for word in ("first", "second", "third"):
        assert word in r.stderr, r.stderr


def test_relative_paths_are_relative_to_the_file(tmp_path, cache):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "add.wat").write_text(pathlib.Path(guest("add")).read_text())
    file = yaml(tmp_path / "sub", f"cache: {cache}\nmodules: {{add: add.wat}}\n")
    assert run_cli("check", file, cwd="/").returncode == 0
    assert run_cli("check", "sub/weir.yaml", cwd=tmp_path).returncode == 0
    assert run_cli("check", cwd=tmp_path / "sub").returncode == 0


def cached(folder):
    return sorted(pathlib.Path(folder).glob("*.cwasm"))


def test_the_cache_is_used(start, tmp_path):
    cache = tmp_path / "cache"
    w = start({"modules": {"add": guest("add")}}, cache=cache)
    assert len(w.wait_logs("module_compiled", 1, module="add")) == 1
    assert len(cached(cache)) == 1
    mode = cached(cache)[0].stat()
    assert not mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    w.stop()
    w = start({"modules": {"add": guest("add"), "again": guest("add"), "portable": {"path": guest("add"), "engine": "pulley"}}}, cache=cache)
    assert [x["module"] for x in w.logs("module_compiled")] == ["portable"], "same bytes, same engine: compiled once"
    assert len(cached(cache)) == 2
    assert w.exec("add", "[1,2]") == w.exec("portable/add", "[1,2]") == w.exec("again/add", "[1,2]") == "3"


def flip(data, old, new):
    assert data.count(old) >= 1
    return data.replace(old, new, 1)


SPOILED = {
    "version": lambda d: flip(d, b"\x0248", b"\x0247"),  # the length and the text of the major version
    "feature": lambda d: flip(d, b"has_sse3" if b"has_sse3" in d else b"has_lse", b"has_xse3" if b"has_sse3" in d else b"has_xse"),
    "truncated": lambda d: d[:len(d) // 2],
    "short": lambda d: d[:100],
    "garbage": lambda d: b"junk" * 1000,
    "empty": lambda d: b"",
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_stale_cached_module_is_compiled_anew(start, tmp_path, how):
    cache = tmp_path / "cache"
    w = start({"modules": {"add": guest("add")}}, cache=cache)
    w.stop()
    (file,) = cached(cache)
    good = file.read_bytes()
    file.write_bytes(SPOILED[how](good))
    w = start({"modules": {"add": guest("add")}}, cache=cache)
    assert w.exec("add", "[1,2]") == "3"
    assert [x["module"] for x in w.logs("module_stale")] == ["add"]
    assert [x["module"] for x in w.logs("module_compiled")] == ["add"]
    assert not w.logs("worker_exit")
    assert file.read_bytes() == good
    w.stop()
    w = start({"modules": {"add": guest("add")}}, cache=cache)
    assert not w.logs("module_stale") and not w.logs("module_compiled")


def weirc(source, out, *args):
    r = subprocess.run([WEIRC_BIN, source, "-o", out, *args], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and r.stderr == "", r
    return out


def test_a_compiled_module_is_served(start, tmp_path):
    native = weirc(guest("add"), tmp_path / "native.cwasm")
    pulley = weirc(guest("add"), tmp_path / "pulley.cwasm", "--engine", "pulley")
    w = start({"modules": {"add": str(native), "portable": {"path": str(pulley), "engine": "pulley"}}})
    assert w.exec("add", "[1,2]") == w.exec("portable/add", "[1,2]") == "3"
    assert not w.logs("module_compiled")


def refused_cwasm(start, path, *words, engine="native"):
    w = start({"modules": {"culprit": {"path": str(path), "engine": engine}}}, start=False)
    r = refuses_to_serve(w.file)
    assert r.returncode == 1, r
    assert "culprit" in r.stderr
    for word in words:
        assert re.search(word, r.stderr), (word, r.stderr)


def test_a_module_of_another_engine_version_is_refused(start, tmp_path):
    file = weirc(guest("add"), tmp_path / "m.cwasm")
    file.write_bytes(SPOILED["version"](file.read_bytes()))
    refused_cwasm(start, file, "version")


def test_a_module_for_another_cpu_is_refused(start, tmp_path):
    file = weirc(guest("add"), tmp_path / "m.cwasm")
    file.write_bytes(SPOILED["feature"](file.read_bytes()))
    refused_cwasm(start, file, "flag|CPU|cpu|native host", "has_xse")


def test_a_module_for_another_architecture_is_refused(start, tmp_path):
    file = weirc(guest("add"), tmp_path / "p.cwasm", "--engine", "pulley")
    refused_cwasm(start, file, "pulley|architecture")
    file = weirc(guest("add"), tmp_path / "n.cwasm")
    refused_cwasm(start, file, "architecture|x86_64|aarch64", engine="pulley")


def test_a_module_with_other_settings_is_refused(start, tmp_path):
    """A shared setting of the compiler that this engine does not have."""
    file = weirc(guest("add"), tmp_path / "m.cwasm")
    file.write_bytes(flip(file.read_bytes(), b"enable_pinned_reg", b"enable_pinned_rex"))
    refused_cwasm(start, file, "setting", "enable_pinned_rex")


@pytest.mark.parametrize("how", ["truncated", "short", "garbage", "empty"])
def test_what_is_no_compiled_module_is_refused(start, tmp_path, how):
    file = weirc(guest("add"), tmp_path / "m.cwasm")
    file.write_bytes(SPOILED[how](file.read_bytes()))
    refused_cwasm(start, file)


def test_a_missing_compiled_module(start, tmp_path):
    refused_cwasm(start, tmp_path / "nowhere.cwasm", "nowhere.cwasm", "No such file")


@pytest.mark.parametrize("what", ["file", "group", "folder", "above"])
def test_a_compiled_module_that_others_may_write_is_refused(start, tmp_path, what):
    """It is native code: whoever can write it runs as us."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    file = weirc(guest("add"), folder / "m.cwasm")
    os.chmod({"file": file, "group": file, "folder": folder, "above": folder.parent}[what],
             {"file": 0o646, "group": 0o664, "folder": 0o777, "above": 0o777}[what])
    culprit = {"file": file, "group": file, "folder": folder, "above": folder.parent}[what]
    refused_cwasm(start, file, re.escape(str(culprit)) + ".* can be written by others")
    os.chmod(culprit, 0o755)
    w = start({"modules": {"add": str(file)}})
    assert w.exec("add", "[1,2]") == "3"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_compiled_module_of_another_user_is_refused(start, tmp_path):
    file = weirc(guest("add"), tmp_path / "m.cwasm")
    os.chown(file, 12345, 12345)
    refused_cwasm(start, file, "can be written by others|another user|owned")


def test_a_cache_that_others_may_write_is_not_used(start, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    os.chmod(cache, 0o777)
    w = start({"modules": {"culprit": guest("add")}}, cache=cache, start=False)
    r = refuses_to_serve(w.file)
    assert r.returncode == 1 and "can be written by others" in r.stderr and str(cache) in r.stderr


# ---------------------------------------------------------------------------- metrics and admin


def documented():
    r = run_cli("docs", "metrics")
    assert r.returncode == 0
    rows = re.findall(r"^\| `(weir_\w+)` \| (\w+) \| ([\w, ]*) \| (.*) \|$", r.stdout, re.M)
    assert len(rows) > 20
    return rows


def test_metrics_format(start):
    """Prometheus text: each documented metric with HELP, TYPE and samples, and nothing else."""
    w = start(CONFIG)
    r = w.get("/metrics", admin=True)
    assert r.status == 200 and r.headers.get("content-type").startswith("text/plain; version=0.0.4")
    text = r.body.decode()
    assert text.endswith("\n")
    help_, type_, samples = {}, {}, {}
    for line in text.splitlines():
        if m := re.fullmatch(r"# HELP (\w+) (.+)", line):
            assert m[1] not in help_
            help_[m[1]] = m[2]
        elif m := re.fullmatch(r"# TYPE (\w+) (counter|gauge|histogram)", line):
            assert m[1] in help_ and m[1] not in type_ and m[1] not in samples
            type_[m[1]] = m[2]
        else:
            m = re.fullmatch(r'(\w+?)(_bucket|_sum|_count)?(?:\{((?:\w+="[^"\\]*",?)+)\})? (-?[0-9.e+-]+)', line)
            assert m, line
            float(m[4])
            name = m[1] if type_.get(m[1]) == "histogram" else m[1] + (m[2] or "")
            labels = re.findall(r'(\w+)="([^"]*)"', m[3] or "")
            samples.setdefault(name, []).append((", ".join(k for k, _ in labels if k != "le"), m[2], m[3]))
    rows = documented()
    own = {x for x in help_ if x.startswith("process_") or x == "weir_build_info"}
    assert len(own) >= 6
    assert {x[0] for x in rows} | own == set(help_) == set(type_)
    assert set(help_) - set(samples) == {"weir_module_failed_total"}  # nothing has failed
    for name, kind, label, meaning in rows:
        assert type_[name] == kind and help_[name] == meaning
        assert kind != "counter" or name.endswith("_total")
        found = samples.get(name, [])
        assert {x[0] for x in found} <= {label}
        assert len(set(found)) == len(found)


def test_metrics_move(start):
    w = start(CONFIG)
    before = w.metrics()
    w.exec("add", "[1,2]")
    problem(w.post("/api/exec/types/outer", "[]"), 500)
    with w.ws("/ws") as c:
        c.send(frame(TEXT, "ehello"))
        assert c.message() == (TEXT, b"hello")
        now = w.metrics()
        assert now["weir_websockets_active"] == 1
    w.wait_metric("websockets_active", 0)
    after = w.metrics()
    for name, least in (("connections_accepted_total", 3), ("http_requests_total", 3), ("received_bytes_total", 300),
                        ("sent_bytes_total", 300), ("messages_received_total", 1), ("messages_sent_total", 1),
                        ("guest_events_total", 4), ("guest_traps_total", 1), ('errors_total{code="GUEST_TRAP"}', 1)):
        assert after["weir_" + name] - before["weir_" + name] >= least, name
    assert after["weir_loop_away_max_seconds"] > 0
    assert after["weir_worker_restarts"] == 0


def test_health_and_readiness(start):
    w = start(CONFIG)
    for path in ("/healthz", "/readyz", "/metrics"):
        assert w.get(path, admin=True).status == 200
        assert w.get(path, admin=True, method="HEAD").status == 200
        r = w.get(path, admin=True, method="POST", body="x")
        problem(r, 405, "METHOD")
        assert {x.strip() for x in r.headers.get("allow").split(",")} == {"GET", "HEAD"}
    problem(w.get("/nothing", admin=True), 404, "NOT_FOUND")
    problem(w.get("/api/exec/add", admin=True), 404)
    for path in ("/metrics", "/healthz", "/readyz"):
        problem(w.get(path), 404, "NOT_FOUND")


@pytest.fixture(scope="module")
def admin(tmp_path_factory, cache):
    w = Weir(tmp_path_factory.mktemp("admin"), cache, {"modules": {"add": guest("add")}})
    yield w
    w.stop()


@pytest.mark.parametrize("host,allowed", [
    ("127.0.0.1", True), ("127.0.0.1:6060", True), ("localhost", True), ("LOCALHOST:1", True), ("[::1]", True), ("[::1]:6060", True),
    ("evil.test", False), ("127.0.0.1.evil.test", False), ("localhost.evil.test", False), ("evil.test:6060", False), ("127.0.0.2.test", False),
    ("[::2]", False), ("10.0.0.1", False), ("localhostx", False), ("xlocalhost", False), ("0.0.0.0", False)])
def test_admin_host(admin, host, allowed):
    """Against DNS rebinding: only names of this machine."""
    with Raw(admin.admin) as c:
        for path in ("/metrics", "/healthz", "/readyz", "/nothing"):
            r = c.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").response()
            if allowed:
                assert r.status == (404 if path == "/nothing" else 200)
            else:
                problem(r, 403, "FORBIDDEN")
        r = c.send(f"GET http://{host}/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").response()
        assert r.status == (200 if allowed else 403), "an absolute target's host counts"


@pytest.mark.parametrize("origin,allowed", [("http://evil.test", False), ("null", False), ("https://localhost.evil.test", False),
                                            ("http://127.0.0.1:{}", True), ("http://localhost:{}", True)])
def test_admin_origin(admin, origin, allowed):
    """The Origin must be the same site."""
    origin = origin.format(admin.admin)
    with Raw(admin.admin) as c:
        r = c.send(f"GET /metrics HTTP/1.1\r\nHost: {origin.split('//')[-1] if allowed else 'localhost'}\r\nOrigin: {origin}\r\n\r\n").response()
        assert r.status == (200 if allowed else 403)


@pytest.mark.parametrize("site,allowed", [("cross-site", False), ("same-site", False), ("none", True), ("same-origin", True)])
def test_admin_fetch_site(admin, site, allowed):
    """What a page of another site makes a browser ask for, such as an image, has no Origin; a link to the page is let through."""
    with Raw(admin.admin) as c:
        for path in ("/metrics", "/debug/pprof/heap", "/api/v1/connections", "/api/v1/events"):
            r = c.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: {site}\r\n\r\n").response()
            assert r.status == (200 if allowed else 403), path
        for path in ("/", "/healthz"):
            assert c.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: {site}\r\n\r\n").response().status == 200


def end_by_peer(w):
    w.raw().close()


def end_by_reset(w):
    w.raw().reset()


def end_by_response(w):
    with w.raw() as c:
        c.send(ADD.replace("Host", "Connection: close\r\nHost")).response()
        c.closed()


def end_by_bad_request(w):
    with w.raw() as c:
        problem(c.send("nonsense\r\n\r\n").response(), 400)
        c.closed()


def end_by_bad_frame(w):
    with w.ws("/raw") as c:
        c.send(frame(TEXT, "x", mask=None))
        c.fails(1002)


def end_by_close_handshake(w):
    with w.ws("/raw") as c:
        c.send(close(1000))
        c.close_frame(1000)
        c.closed()


def end_by_guest(w):
    with w.ws("/ws") as c:
        c.send(frame(2, b"R" + (4001).to_bytes(4, "little") + b"x"))
        c.message()
        c.close_frame(4001)
        c.send(close(4001))
        c.closed()


def end_by_trap(w):
    with w.ws("/ws") as c:
        c.send(frame(2, b"T"))
        c.close_frame(1011)
        c.send(close(1011))
        c.closed()


@pytest.fixture(scope="module")
def reasons(tmp_path_factory, cache):
    w = Weir(tmp_path_factory.mktemp("reasons"), cache, CONFIG)
    yield w
    w.stop()


@pytest.mark.parametrize("end,reason", [
    (end_by_peer, "PEER"), (end_by_reset, "PEER_RESET"), (end_by_response, "DONE"), (end_by_bad_request, "PROTOCOL"),
    (end_by_bad_frame, "PROTOCOL"), (end_by_close_handshake, "PEER"), (end_by_guest, "GUEST"), (end_by_trap, "GUEST_FAILED")])
def test_close_reasons(reasons, end, reason):
    """Each way in which a connection ends has its label. IDLE, HEAD_TIMEOUT: test_http; SEND_QUEUE: test_ws."""
    def closed():
        return {k: v for k, v in reasons.metrics().items() if k.startswith("weir_connections_closed_total")}
    before = closed()
    end(reasons)
    wait_for("it is counted", lambda: sum(closed().values()) == sum(before.values()) + 1)
    after = closed()
    assert [k for k in after if after[k] != before[k]] == [f'weir_connections_closed_total{{reason="{reason}"}}']


def test_close_reason_at_the_end(start):
    w = start({**CONFIG, "log_level": "debug"})
    with w.ws("/raw") as c:
        w.signal()
        c.close_frame(1001)
        c.send(close(1001))
        c.closed()
    assert w.wait_exit() == 0
    line = w.wait_log("connection_closed")
    assert (line["close_reason"], line["close_code"]) == ("SHUTDOWN", 1001)


# ---------------------------------------------------------------------------- logs


def test_logs(start):
    """One JSON object a line: time, level, event, msg, in UTC; the start tells its story."""
    w = start({**CONFIG, "log_level": "debug"})
    w.exec("add", "[1,2]")
    with w.ws("/raw") as c:
        c.send(frame(TEXT, "x", rsv=4))
        c.fails(1002)
    w.wait_log("connection_failed")
    w.wait_log("connection_closed")
    w.signal()
    assert w.wait_exit() == 0
    lines = w.logs()
    now = time.time()
    for x in lines:
        assert list(x)[:4] == ["time", "level", "event", "msg"], x
        assert RFC3339.match(x["time"]) and x["level"] in ("debug", "info", "warn", "error")
        assert re.fullmatch(r"[a-z_]+", x["event"]) and x["msg"]
        at = calendar.timegm(time.strptime(x["time"][:19], "%Y-%m-%dT%H:%M:%S"))
        assert abs(now - at) < 30
    events = [x["event"] for x in lines]
    for event in ("worker_start", "module_loaded", "worker_ready", "connection_open", "connection_failed", "connection_closed", "draining", "stopped"):
        assert event in events, event
    assert sorted(x["module"] for x in lines if x["event"] == "module_loaded") == ["add", "http", "types", "ws"]
    failed = next(x for x in lines if x["event"] == "connection_failed")
    assert re.fullmatch("[0-9a-f]{16}", failed["conn_id"]) and failed["code"] == "WS_RESERVED" and failed["level"] == "warn"
    closed = next(x for x in lines if x["event"] == "connection_closed" and x["conn_id"] == failed["conn_id"])
    assert closed["close_reason"] == "PROTOCOL" and closed["close_code"] == 1002


def test_log_level(start):
    w = start({**CONFIG, "log_level": "warn"})
    problem(w.post("/api/exec/types/outer", "[]"), 500)
    w.wait_log("guest_failed")
    w.signal()
    assert w.wait_exit() == 0
    assert {x["level"] for x in w.logs()} == {"warn"}


def test_hostile_bytes_stay_on_their_line(start):
    w = start({**CONFIG, "log_level": "debug"})
    with w.raw() as c:
        c.send(b"GET /\"},{\"event\":\"worker_exit\"}%0d%0a HTTP/1.1\r\nHost: a\r\nX: \"}\\\r\n\r\n")
        c.response()
    with w.ws("/ws") as c:
        text = b'"}\n{"event":"worker_exit"}\r\n\x00\x1b[2J\xff'
        c.send(frame(2, b"l\x01" + text))
        c.message()
        assert '"event":"worker_exit"' in w.wait_log(GUEST_SAYS)["text"]
    assert not w.logs("worker_exit")


def test_a_stderr_that_nobody_reads_blocks_nothing(start, tmp_path, cache):
    """Logs are dropped and counted rather than the loop held up."""
    w = start({**CONFIG, "log_level": "debug"}, start=False)
    read, write = os.pipe()
    proc = subprocess.Popen([WEIR_BIN, "serve", str(w.file)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=write)
    os.close(write)
    try:
        def ready():
            try:
                return w.get("/readyz", admin=True).status == 200
            except (OSError, Closed):
                return False
        wait_for("ready", ready, 20)
        with w.ws("/ws") as c:
            for i in range(150):  # each logs four kilobytes; a pipe holds 64
                c.send(frame(2, b"l\x01" + b"x" * 4000) * 4)
                for _ in range(4):
                    c.message()
        wait_for("drops are counted", lambda: w.metric("logs_dropped_total") > 0, 5)
        assert w.exec("add", "[1,2]") == "3"
        w._admin_raw.close()
        os.kill(proc.pid, signal.SIGTERM)
        end = time.monotonic() + 15
        while proc.poll() is None and time.monotonic() < end:
            os.read(read, 65536)
        assert proc.wait(1) == 0
    finally:
        workers = children(proc.pid)
        if proc.poll() is None:
            proc.kill()
            proc.wait()
            for pid in workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        os.close(read)


# ---------------------------------------------------------------------------- the worker's death


def answers(w, timeout=1.0):
    """Whether a fresh connection is answered."""
    try:
        with Raw(w.port, timeout=timeout) as c:
            return c.send(ADD).response().body == b"3\n"
    except (OSError, Closed, AssertionError):
        return False


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_dead_worker_is_replaced_within_a_second(start, sig):
    w = start(CONFIG)
    w.may_die = True
    first = w.worker_pid()
    assert first != w.supervisor
    c = w.ws("/raw")
    os.kill(first, sig)
    if sig == signal.SIGSEGV:  # the engine's handler takes the first for a fault that will recur
        wait_for("it dies", lambda: proc_state(first) in ("", "Z") or os.kill(first, sig))
    watch = Watch()
    wait_for("a new worker accepts", lambda: answers(w))
    assert watch.took() < 1.0
    assert c.rest() == b"", "its connections have ended"
    c.close()
    second = w.worker_pid()
    assert second != first and proc_state(first) == ""
    log = w.wait_log("worker_exit")
    assert log["level"] == "error" and log["signal"] == int(sig)
    assert len(w.wait_logs("worker_start", 2)) == 2
    assert w.metric("worker_restarts") == 1
    assert w.get("/readyz", admin=True).status == 200


def test_a_worker_that_dies_again_and_again_is_restarted_with_back_off(start):
    """Killed as soon as it appears: the pauses grow; the supervisor lives; left alone, it serves."""
    w = start(CONFIG)
    w.may_die = True
    born, last = [], w.worker_pid()
    os.kill(last, signal.SIGKILL)
    for _ in range(5):
        def another():
            pids = [p for p in w.worker_pids() if p != last]
            return pids[0] if pids else None
        last = wait_for("another worker", another, 6, every=0.001)
        born.append(time.monotonic())
        os.kill(last, signal.SIGKILL)
    gaps = [b - a for a, b in zip(born, born[1:])]
    assert gaps[-1] >= 0.2 and gaps[-1] > gaps[0], gaps
    assert w.proc.poll() is None
    wait_for("it serves again", lambda: answers(w), 8)
    assert len(w.wait_logs("worker_exit", n=6)) == 6
    assert w.metric("worker_restarts") == 6


def test_requests_wait_for_the_new_worker(start):
    """The supervisor holds the listening sockets: who connects meanwhile is not refused."""
    w = start(CONFIG)
    w.may_die = True
    os.kill(w.worker_pid(), signal.SIGKILL)
    for _ in range(20):
        with w.raw() as c:  # never ECONNREFUSED
            try:
                c.send(ADD).response()
            except (Closed, OSError):
                pass  # caught by the death itself
    watch = Watch()
    wait_for("a new worker accepts", lambda: answers(w))
    assert watch.took() < 1.0


def test_a_dead_supervisor_takes_its_worker_along(start):
    """No worker is left behind to hold the port."""
    w = start(CONFIG)
    worker = w.worker_pid()
    os.kill(w.supervisor, signal.SIGKILL)
    w.proc.wait(5)
    wait_for("the worker ends too", lambda: proc_state(worker) in ("", "Z", "X"), 5)


# ---------------------------------------------------------------------------- the end

STOPS = pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])


@STOPS
def test_stop_of_an_idle_gateway(start, sig):
    w = start(CONFIG)
    worker = w.worker_pid()
    watch = Watch()
    w.signal(sig)
    assert w.wait_exit(watch=watch) == 0
    assert watch.took() < 2
    assert proc_state(worker) == ""
    w.wait_log("draining")
    w.wait_log("stopped")
    assert not w.logs("drain_expired") and not w.logs("worker_exit")
    assert w.stdout == b""
    with pytest.raises(ConnectionRefusedError):
        w.raw()


@pytest.mark.parametrize("listener", ["port", "admin"])
def test_stop_ends_idle_connections(start, listener):
    """One that has asked and asks nothing more (a scraper's, kept alive), and one that never asked."""
    w = start({**CONFIG, "drain": "8s"})
    with Raw(getattr(w, listener)) as asked, Raw(getattr(w, listener)) as silent:
        assert asked.send(f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\n\r\n").response().status in (200, 404)
        w.wait_metric("connections_active", 3)
        watch = Watch()
        w.signal()
        assert w.wait_exit(watch=watch) == 0
        assert watch.took() < 2
        asked.closed()
        silent.closed()
    assert not w.logs("drain_expired")


@STOPS
def test_stop_finishes_what_runs(start, sig):
    """A running exec is answered; idle connections end; new ones are not accepted; readyz says 503."""
    w = start({**CONFIG, "drain": "60s"})
    idle = w.raw()
    assert idle.send(ADD).response().status == 200
    with w.raw(timeout=60) as c:
        c.send(spin(1500000000))
        w.wait_metric("guests_running", 1)
        w.signal(sig)
        w.wait_log("draining")
        assert w.get("/readyz", admin=True).status == 503
        assert w.get("/healthz", admin=True).status == 200
        assert w.metric("guests_running") == 1, "it still runs"
        idle.closed()
        r = c.response()
        assert (r.status, r.body) == (200, b"1500000000\n")
        assert r.headers.get("connection") == "close"
        c.closed()
    assert w.wait_exit() == 0
    assert not w.logs("drain_expired")


def test_stop_refuses_new_connections(start):
    """Who comes while it drains is refused by the system, so that a balancer tries elsewhere at once;
    not left in a backlog that nobody empties."""
    w = start({**CONFIG, "drain": "5s"})
    with w.raw() as c:
        c.send("POST /api/exec/types/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        w.wait_metric("guests_running", 1)
        w.signal()
        w.wait_log("draining")

        def refused():
            try:
                w.raw().close()
            except ConnectionRefusedError:
                return True
        wait_for("connections are refused", refused, 1)


@STOPS
def test_stop_closes_websockets_with_1001(start, sig):
    w = start({**CONFIG, "drain": "10s"})
    conns = [w.ws(path) for path in ("/raw", "/ws") for _ in range(10)]
    w.signal(sig)
    for c in conns:
        c.close_frame(1001)
        c.send(close(1001))
        c.closed()
        c.close()
    watch = Watch()
    assert w.wait_exit(watch=watch) == 0
    assert watch.took() < 2, "nothing is left to wait for"


def test_stop_with_a_peer_that_never_closes(start):
    """Neither its close nor its end comes: cut after close_timeout, exit code 0 within the drain time."""
    w = start({**CONFIG, "drain": "5s", "limits": {"close_timeout": "500ms"}})
    c = w.ws("/raw")
    watch = Watch()
    w.signal()
    c.close_frame(1001)
    assert w.wait_exit(watch=watch) == 0
    assert watch.took() < 3
    c.close()


def test_stop_cuts_what_outlives_the_drain_time(start):
    """A guest that never ends, a request that never does: the drain time is the end."""
    w = start({**CONFIG, "drain": "1s"})
    with w.raw() as guest_runs, w.raw() as half, w.ws("/raw", rcvbuf=4096) as full:
        guest_runs.send("POST /api/exec/types/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        half.send(ADD[:40])
        for _ in range(10):
            full.send(frame(2, b"x" * 20000))
        w.wait_metric("guests_running", 1)
        began, watch = time.monotonic(), Watch()
        w.signal()
        assert w.wait_exit(watch=watch) == 0
        assert 0.8 < time.monotonic() - began and watch.took() < 3
    w.wait_log("drain_expired")


def test_stop_with_drain_0(start):
    w = start({**CONFIG, "drain": "0s"})
    with w.ws("/raw"), w.raw() as c:
        c.send(ADD[:40])
        watch = Watch()
        w.signal()
        assert w.wait_exit(watch=watch) == 0
        assert watch.took() < 2


def test_stop_while_a_body_arrives(start):
    """A request whose head has come before the signal is still read, run and answered."""
    w = start({**CONFIG, "drain": "10s"})
    with w.raw() as c:
        c.send("POST /api/exec/add HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert c.response().status == 100
        w.signal()
        w.wait_log("draining")
        r = c.send("[1,2]").response()
        assert (r.status, r.body) == (200, b"3\n") and r.headers.get("connection") == "close"
        c.closed()
    assert w.wait_exit() == 0


def test_stop_twice(start):
    """The second signal ends it at once."""
    w = start({**CONFIG, "drain": "60s"})
    with w.raw() as c:
        c.send("POST /api/exec/types/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        w.wait_metric("guests_running", 1)
        w.signal()
        w.wait_log("draining")
        w.signal()
        w.wait_exit(timeout=5)


def test_stop_with_a_stuck_worker(start):
    """A worker that does not even run any more is killed soon after the drain time."""
    w = start({**CONFIG, "drain": "300ms"})
    worker = w.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    watch = Watch()
    w.signal()
    w.wait_exit(watch=watch)
    assert watch.took() < 5
    assert proc_state(worker) == ""


def test_stop_right_at_the_start(start):
    for _ in range(3):
        w = start(CONFIG, start=False)
        w.start(ready=False)
        wait_for("a worker is there", w.worker_pids, 10, every=0.001)
        (worker,) = w.worker_pids()
        w.signal()
        assert w.wait_exit(timeout=10) == 0
        assert proc_state(worker) in ("", "Z", "X")


def test_start_stop_start_on_the_same_ports(start):
    w = start(CONFIG)
    for _ in range(3):
        with w.ws("/raw"), w.raw() as c:
            assert c.send(ADD).response().status == 200
            w.signal()
            c.rest()
        assert w.wait_exit() == 0
        w.lines.clear()
        w.start()


# ---------------------------------------------------------------------------- at rest


def test_an_idle_gateway_makes_no_wake_ups(start):
    """After work of every kind: no context switch in two seconds, of worker and of supervisor."""
    w = start(CONFIG)
    worker = w.worker_pid()
    w.exec("add", "[1,2]")
    problem(w.post("/api/exec/types/outer", "[]"), 500)
    assert w.exec("types/spin", "[30000000]") == "30000000"
    assert w.get("/h?s200").status == 200
    with w.ws("/ws") as c:
        c.send(frame(TEXT, "ex"))
        assert c.message() == (TEXT, b"x")
        c.send(close(1000))
        c.close_frame(1000)
        c.closed()
    w.wait_metric("connections_active", 1)
    w._admin_raw.close()
    w._admin_raw = None

    def still():
        before = switches(worker), switches(w.supervisor)
        time.sleep(0.2)
        return before == (switches(worker), switches(w.supervisor))
    wait_for("it comes to rest", still, 6)
    before = switches(worker), switches(w.supervisor)
    time.sleep(2)
    assert (switches(worker), switches(w.supervisor)) == before
