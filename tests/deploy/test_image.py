"""The images of deploy/Dockerfile: built as `make image` builds them, and started by podman."""
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from test_probes import documented, notes  # noqa: E402
from weir import HOST, ROOT, TEXT, Raw, frame, free_port, wait_for  # noqa: E402

# Where processes may not raise their limits, podman's defaults are too high to be set.
LIMITS = {"nofile": min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]), "nproc": 4096}
MUST_MB = 8.0
if subprocess.run(["buildah", "info"], capture_output=True).returncode:
    os.environ["STORAGE_DRIVER"] = "vfs"  # as deploy/image does
RUNTIME = {"/usr/bin/weir", "/etc/weir/weir.yaml", "/etc/weir/modules/add.cwasm",
           "/etc/weir/modules/echo.cwasm", "/etc/weir/modules/hello.cwasm"}
FULL = {"/usr/bin/weirc", "/etc/weir/modules/add.wat", "/etc/weir/modules/echo.wasm",
        "/etc/weir/modules/hello.wasm"}


def podman(*args, check=True, **kw):
    done = subprocess.run(["podman", "--runtime", "runc", *map(str, args)], capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=120, **kw)
    assert not check or done.returncode == 0, (args, done.stderr)
    return done


@pytest.fixture(scope="session")
def images():
    """{target: MB}, as `make image` says them."""
    done = subprocess.run([ROOT / "deploy" / "image", "runtime", "full"], capture_output=True,
                          text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^(\w+): (\d+\.\d) MB$", done.stdout, re.M)
    assert [name for name, _ in found] == ["runtime", "full"], done.stdout
    return {name: float(size) for name, size in found}


@pytest.fixture
def run(images):
    """run(target, podman's options, weir's arguments): the name of a container that runs."""
    names = []

    def start(target, *options, args=()):
        name = f"weir-test-{uuid.uuid4().hex[:12]}"
        names.append(name)
        limits = [x for k, n in LIMITS.items() for x in ("--ulimit", f"{k}={n}:{n}")]
        podman("run", "-d", "--name", name, *limits, *options, f"localhost/weir:{target}", *args)
        return name
    yield start
    for name in names:
        podman("rm", "-f", "-t", "0", name, check=False)


@pytest.fixture
def own(tmp_path):
    """A configuration of the operator's, and its ports: what is in the image, elsewhere."""
    def write(text, folder):
        port, admin = free_port(), free_port()
        for old, new in (("0.0.0.0:8080", f"{HOST}:{port}"), ("127.0.0.1:6060", f"{HOST}:{admin}")):
            assert text.count(old) == 1
            text = text.replace(old, new)
        file = tmp_path / "weir.yaml"
        file.write_text(text.replace("modules/", f"{folder}/modules/"))
        return port, admin, file
    return write


def files(target):
    """{path: bytes} of an image."""
    name = podman("create", f"localhost/weir:{target}").stdout.strip()
    try:
        listed = subprocess.run(f"podman export {name} | tar -tf -", shell=True, capture_output=True,
                                text=True, check=True).stdout
    finally:
        podman("rm", "-f", name)
    # podman lays the files of its own in there: /etc/hosts, /dev/console and such, all empty.
    return {"/" + x for x in listed.split("\n") if x.startswith(("usr/", "etc/weir", "var/", "lib"))
            and not x.endswith("/")}


def healthy(name):
    return podman("healthcheck", "run", name, check=False).returncode == 0


def ask(port, path, body=None):
    with Raw(port) as c:
        head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        r = c.send(head + length + "\r\n" + (body or "")).response()
        return r.status, r.body.decode()


def logs(name):
    """JSON lines, all of them."""
    done = podman("logs", name)
    return [json.loads(x) for x in (done.stdout + done.stderr).splitlines()]


def test_sizes_and_files(images):
    assert 1 < images["runtime"] <= MUST_MB, images
    assert images["full"] > images["runtime"]
    assert files("runtime") == RUNTIME
    assert files("full") == RUNTIME | FULL


def test_its_stripped_static_program_has_the_probes(images, tmp_path):
    name = podman("create", "localhost/weir:runtime").stdout.strip()
    try:
        podman("cp", f"{name}:/usr/bin/weir", tmp_path / "weir")
    finally:
        podman("rm", "-f", name)
    assert notes(tmp_path / "weir") == documented()


def test_the_image_as_it_is_serves_and_says_so(run):
    name = run("runtime", "--network", "none", "--read-only", "--cap-drop", "all",
               "--security-opt", "no-new-privileges")
    wait_for("it is healthy", lambda: healthy(name), timeout=15, every=0.2)
    ready = [x for x in logs(name) if x["event"] == "worker_ready"]
    assert [(x["uid"], x["gid"]) for x in ready] == [(65532, 65532)]
    assert "add" in podman("exec", name, "/usr/bin/weir", "modules").stdout
    podman("stop", "-t", "15", name)
    assert podman("inspect", name, "--format", "{{.State.ExitCode}}").stdout.strip() == "0"
    assert not healthy(name)


def test_6_2_a_page_and_a_websocket_with_a_configuration_of_ones_own(run, own):
    port, admin, file = own((ROOT / "deploy/weir.yaml").read_text(), "/etc/weir")
    name = run("runtime", "--network", "host", "-v", f"{file}:/own/weir.yaml:ro",
               args=("serve", "/own/weir.yaml"))
    wait_for("it serves", lambda: podman("exec", name, "/usr/bin/weir", "health", "--admin",
                                         f"{HOST}:{admin}", check=False).returncode == 0, 15, 0.2)
    assert ask(port, "/api/exec/add", "[2.5,3.7]") == (200, "6.2\n")
    assert ask(port, "/hello?name=you")[0] == 200
    for path in ("/ws/echo", "/ws/raw"):
        with Raw(port).upgrade(path) as c:
            assert c.send(frame(TEXT, "over")).message() == (TEXT, b"over")


def test_runtime_has_no_compiler_and_says_what_to_do(images, own):
    text = (ROOT / "deploy/weir.yaml").read_text().replace("add.cwasm", "add.wat")
    _, _, file = own(text, "/etc/weir")
    shutil.copy(ROOT / "examples/add.wat", file.parent)
    file.parent.chmod(0o755)  # the container's user reads it
    file.write_text(file.read_text().replace("/etc/weir/modules/add.wat", "/own/add.wat"))
    limits = [x for k, n in LIMITS.items() for x in ("--ulimit", f"{k}={n}:{n}")]
    done = podman("run", "--rm", *limits, "--network", "none", "-v", f"{file.parent}:/own:ro",
                  "localhost/weir:runtime", "check", "/own/weir.yaml", check=False)
    assert done.returncode == 1
    assert "weir.yaml:" in done.stderr and ".cwasm" in done.stderr, done.stderr


def test_users_of_a_static_program_are_those_of_its_files(run, images, own, tmp_path):
    text = (ROOT / "deploy/weir.yaml").read_text() + "user: visitor\n"
    port, admin, file = own(text, "/etc/weir")
    (tmp_path / "passwd").write_text("root:x:0:0::/:/\n# no user\nvisitor:x:4242:4343::/:/\n")
    file.parent.chmod(0o755)
    own_files = ["--user", "0:0", "-v", f"{tmp_path}:/own:ro", "-v",
                 f"{tmp_path / 'passwd'}:/etc/passwd:ro", "--network", "host"]
    name = run("runtime", *own_files, args=("serve", "/own/weir.yaml"))
    wait_for("it serves", lambda: podman("exec", name, "/usr/bin/weir", "health", "--admin",
                                         f"{HOST}:{admin}", check=False).returncode == 0, 15, 0.2)
    ready = [x for x in logs(name) if x["event"] == "worker_ready"]
    assert [(x["uid"], x["gid"]) for x in ready] == [(4242, 4343)]
    (tmp_path / "passwd").write_text("root:x:0:0::/:/\n")
    done = podman("exec", name, "/usr/bin/weir", "check", "/own/weir.yaml", check=False)
    assert done.returncode == 1 and "there is no user visitor" in done.stderr + done.stdout, done


def test_full_compiles_what_it_serves(run, images):
    name = run("full", "--network", "none", "--cap-drop", "all")
    wait_for("it is healthy", lambda: healthy(name), timeout=60, every=0.2)
    compiled = {x["module"] for x in logs(name) if x["event"] == "module_compiled"}
    assert compiled == {"add", "hello", "echo"}
    # Another version at run time is compiled by it, too.
    done = podman("exec", name, "/usr/bin/weir", "modules", "put", "add", "/etc/weir/modules/add.wat")
    assert "version 2" in done.stdout, done
