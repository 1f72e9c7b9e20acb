"""`weir new` makes projects that build and answer at once; `weir dev` follows their sources."""
import http.client
import os
import shutil
import signal
import subprocess

import pytest

from weir import (HOST, ROOT, TEXT, WEIR_BIN, Raw, children, frame, free_port, proc_state, run_cli,
                  wait_for)

SDK = ROOT / "sdk"
FILES = {
    "c": {"guest.c", "weir.h"},
    "rust": {"guest.rs", "weir.rs"},
    "go": {"guest.go", "go.mod", "weir/weir.go", "weir/imports.go"},
    "as": {"guest.ts", "weir.ts", "package.json", "package-lock.json"},
}
ALL = {"Makefile", "README.md", "weir.yaml", ".gitignore"}
KITS = {"weir.h": "c/weir.h", "weir.rs": "rust/src/lib.rs", "weir/weir.go": "go/weir.go",
        "weir/imports.go": "go/imports.go", "weir.ts": "assemblyscript/assembly/index.ts",
        "package-lock.json": "assemblyscript/package-lock.json"}
NODE_MODULES = SDK / "assemblyscript" / "node_modules"


def has_rust():
    for rustc in ("rustc", "/usr/bin/rustc"):
        if shutil.which(rustc):
            root = subprocess.run([rustc, "--print", "sysroot"], capture_output=True, text=True)
            if os.path.isdir(f"{root.stdout.strip()}/lib/rustlib/wasm32-unknown-unknown"):
                return True
    return False


# Those that can be built here: the tests install clang; the other tools are not theirs to install.
BUILT = [lang for lang, here in [("c", True), ("rust", has_rust()), ("go", bool(shutil.which("go"))),
                                 ("as", NODE_MODULES.is_dir())] if here]


class Project:
    def __init__(self, folder, cache, lang):
        self.folder, self.port = folder / "mine", free_port()
        made = run_cli("new", "mine", "--lang", lang, cwd=folder)
        assert made.returncode == 0, made.stderr
        if lang == "as":
            (self.folder / "node_modules").symlink_to(NODE_MODULES)
            os.utime(self.folder / "package-lock.json", (0, 0))  # npm ci has been run
        self.config = self.folder / "weir.yaml"
        text = self.config.read_text()
        assert "8080" in text and "6060" in text
        self.config.write_text(text.replace("8080", str(self.port)).replace(
            "6060", str(free_port())) + f"cache: {cache}\n")

    def answer(self):
        """Status and text of GET /; 0 where nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            r = connection.getresponse()
            return r.status, r.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def says(self, text):
        return text in self.answer()[1]

    def start(self, command):
        with open(self.folder.parent / "output", "w") as out:
            self.proc = subprocess.Popen([WEIR_BIN, command], cwd=self.folder, stdout=out,
                                         stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def output(self):
        return (self.folder.parent / "output").read_text()

    def stop(self):
        """SIGTERM; it ends well, and leaves no child."""
        pids = children(self.proc.pid)
        self.proc.send_signal(signal.SIGTERM)
        try:
            code = self.proc.wait(60)
        finally:
            self.proc.kill()
            self.proc.wait()
        for pid in pids:
            assert proc_state(pid) in ("", "Z", "X"), f"{pid} stays"
        assert code == 0, self.output()


@pytest.mark.parametrize("lang", sorted(FILES))
def test_new_writes_a_project(tmp_path, lang):
    r = run_cli("new", "a-b3", "--lang", lang, cwd=tmp_path)
    assert (r.returncode, r.stderr) == (0, "") and "cd a-b3 && make && weir serve" in r.stdout
    folder = tmp_path / "a-b3"
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    assert set(found) == ALL | FILES[lang]
    for name, path in found.items():
        text = path.read_text()
        assert "@NAME@" not in text, name
        if name in KITS:
            assert text == (SDK / KITS[name]).read_text(), name
    assert "a-b3" in found["weir.yaml"].read_text()
    assert len(found["README.md"].read_text().splitlines()) <= 12


@pytest.mark.parametrize("args, status, says", [
    ([], 2, "NAME --lang LANG"),
    (["x"], 2, "LANG is one of c rust go as"),
    (["x", "--lang"], 2, "LANG is one of"),
    (["x", "--lang", "cobol"], 2, "LANG is one of"),
    (["x", "y", "--lang", "c"], 2, "LANG is one of"),
    (["x", "--lang", "c", "--lang", "go"], 2, "LANG is one of"),
    (["x", "--long", "c"], 2, "LANG is one of"),
    (["../x", "--lang", "c"], 2, "a name has"),
    (["X", "--lang", "c"], 2, "a name has"),
    (["3x", "--lang", "c"], 2, "a name has"),
    (["x-", "--lang", "c"], 2, "a name has"),
    (["x" * 41, "--lang", "c"], 2, "a name has"),
    (["", "--lang", "c"], 2, "a name has"),
    (["there", "--lang", "c"], 1, "is there already"),
])
def test_new_refuses(tmp_path, args, status, says):
    (tmp_path / "there").mkdir()
    r = run_cli("new", *args, cwd=tmp_path)
    assert r.returncode == status and says in r.stderr, r
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.guard(180)  # Go's own packages are compiled, where they never were
@pytest.mark.parametrize("lang", BUILT)
def test_new_builds_and_answers(tmp_path, cache, lang):
    p = Project(tmp_path, cache, lang)
    built = subprocess.run(["make"], cwd=p.folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    p.start("serve")
    try:
        wait_for("an answer", lambda: p.answer() == (200, "hello from mine, visit 1\n"), timeout=180)
        assert p.answer() == (200, "hello from mine, visit 2\n")
    finally:
        p.stop()
    assert '"level":"error"' not in p.output(), p.output()


@pytest.mark.guard(120)
def test_dev_follows_the_sources(tmp_path, cache):
    p = Project(tmp_path, cache, "c")
    source = p.folder / "guest.c"
    good = source.read_text()
    p.start("dev")
    try:
        wait_for("the first build", lambda: p.says("hello from mine"), timeout=60)
        with Raw(p.port) as peer:
            peer.upgrade("/ws")
            source.write_text(good.replace("hello from mine", "good morning"))
            wait_for("the change", lambda: p.says("good morning"), timeout=60)
            peer.send(frame(TEXT, "still here"))
            assert peer.message() == (TEXT, b"still here"), "the module alone was swapped"
        source.write_text("this is not C\n")
        wait_for("a word on it", lambda: "make failed" in p.output(), timeout=60)
        assert p.says("good morning"), "what was built last is still served"
        source.write_text(good.replace("hello from mine", "good evening"))
        wait_for("the mend", lambda: p.says("good evening"), timeout=60)
        p.config.write_text(p.config.read_text().replace("path: /,", "path: /other,"))
        wait_for("the configuration's change", lambda: p.answer()[0] == 404, timeout=60)
    finally:
        p.stop()
    assert "worker_ready" in p.output()


def test_dev_wants_a_project(tmp_path):
    r = run_cli("dev", cwd=tmp_path)
    assert r.returncode == 1 and "weir new" in r.stderr
    r = run_cli("dev", "there", cwd=tmp_path)
    assert r.returncode == 2 and "takes no argument" in r.stderr
