"""TLS on the admin listener: client certificates instead of a token, who is refused and how, sessions that stand for no certificate,
an authority that is replaced, and the program's own commands over it."""
import json
import signal
import socket
import ssl
import subprocess

import pytest

from test_tls import NOT_FOUND, V12, V13, VERSIONS, Tls, context, openssl, put, session_of
from weir import HOST, Raw, Weir, free_port, run_cli, wait_for

ROUTES = [{"path": "/ws", "websocket": {"handler": "echo"}}]
METRICS = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
API = b"GET /api/v1/log HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TOKEN = "0123456789abcdef-token"


class Pki:
    """Makes authorities and what they sign; each is folder/NAME.pem with NAME.key."""

    def __init__(self, folder):
        self.folder = folder

    def pem(self, name):
        return str(self.folder / f"{name}.pem")

    def key(self, name):
        return str(self.folder / f"{name}.key")

    def request(self, name):
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", self.key(name), "-out", self.folder / f"{name}.csr")

    def authority(self, name, by=None):
        if by:
            return self.sign(name, by, "basicConstraints=critical,CA:TRUE")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-subj", f"/CN={name}",
                "-keyout", self.key(name), "-out", self.pem(name))

    def sign(self, name, by, *extensions, days=30):
        self.request(name)
        file = self.folder / f"{name}.ext"
        file.write_text("\n".join(extensions))
        openssl("x509", "-req", "-in", self.folder / f"{name}.csr", "-CA", self.pem(by), "-CAkey", self.key(by), "-CAcreateserial",
                "-days", days, "-extfile", file, "-out", self.pem(name))

    def client(self, name, by, days=30):
        self.sign(name, by, "extendedKeyUsage=clientAuth", days=days)

    def revoked(self, by, name, out):
        """A list of `by` that has `name` in it."""
        d = self.folder / f"{out}-db"
        d.mkdir()
        (d / "index.txt").write_text("")
        (d / "crlnumber").write_text("01\n")
        (d / "ca.cnf").write_text(f"[ca]\ndefault_ca=c\n[c]\ndatabase={d}/index.txt\ncrlnumber={d}/crlnumber\ndefault_md=sha256\n"
                                  "default_crl_days=30\n")
        ca = ("-config", d / "ca.cnf", "-cert", self.pem(by), "-keyfile", self.key(by))
        openssl("ca", *ca, "-revoke", self.pem(name))
        openssl("ca", *ca, "-gencrl", "-out", d / "list.pem")
        both = open(self.pem(by)).read() + (d / "list.pem").read_text()
        (self.folder / f"{out}.pem").write_text(both)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    p = Pki(tmp_path_factory.mktemp("pki"))
    for name in ("ca", "other"):
        p.authority(name)
    p.authority("operators", by="ca")
    p.sign("server", "ca", "subjectAltName=IP:127.0.0.1,DNS:weir.internal", "extendedKeyUsage=serverAuth")
    p.client("alice", "ca")
    p.client("bob", "ca")
    p.client("mallory", "other")
    p.client("old", "ca", days=-1)
    p.client("op", "operators")
    p.sign("leafsigned", "alice", "extendedKeyUsage=clientAuth")
    p.revoked("ca", "bob", "ca-with-list")
    return p


class Admin(Weir):
    """A gateway whose admin listener has TLS, and which is asked with a certificate."""

    def __init__(self, folder, cache, pki, who="alice", **admin):
        self.who = client(pki, who)
        tls = {"certificate": pki.pem("server"), "key": pki.key("server"), **admin.pop("tls", {"client_ca": pki.pem("ca")})}
        tls = {k: v for k, v in tls.items() if v}
        super().__init__(folder, cache, {"routes": ROUTES, "log_level": "debug"}, start=False)
        self.tls = free_port()
        public = {"certificate": pki.pem("server"), "key": pki.key("server")}
        self.config["listen"].append({"address": f"{HOST}:{self.tls}", "tls": public})
        self.config["admin"] = {"address": f"0.0.0.0:{self.admin}", "tls": tls, **admin}
        self.file.write_text(json.dumps(self.config, indent=1))

    def admin_raw(self):
        return Tls(self.admin, self.who)


def client(pki, who=None, version=None, chain=()):
    c = context(version)
    if who:
        file = pki.pem(who)
        if chain:
            file = str(pki.folder / f"{who}-chain.pem")
            open(file, "w").write("".join(open(pki.pem(n)).read() for n in (who, *chain)))
        c.load_cert_chain(file, pki.key(who))
    return c


@pytest.fixture(scope="module")
def admin(tmp_path_factory, cache, pki, _running):
    w = Admin(tmp_path_factory.mktemp("admin"), cache, pki)
    _running.append(w)
    w.start()
    yield w
    w.stop()


@pytest.fixture
def make(tmp_path, cache, pki, _running):
    made = []

    def start(**kw):
        w = Admin(tmp_path, cache, pki, **kw)
        _running.append(w)
        made.append(w)
        return w.start()
    yield start
    for w in made:
        w.stop()


def ask(port, ctx, request=METRICS, **kw):
    with Tls(port, ctx, **kw) as c:
        return c.send(request).response()


def refused(port, ctx, says):
    """Of 1.3 the client believes itself connected until it reads."""
    with pytest.raises((ssl.SSLError, ConnectionError), match=says):
        with Tls(port, ctx) as c:
            c.sock.send(METRICS)
            assert c.sock.recv(1) == b""


def cli(w, pki, who="alice", *more):
    return ("--admin", f"https://{HOST}:{w.admin}", "--ca", pki.pem("ca"), "--cert", pki.pem(who), "--key", pki.key(who), *more)


# ---------------------------------------------------------------------------- who gets in


@VERSIONS
def test_a_certificate_of_the_authority_is_enough(admin, pki, version):
    for request in (METRICS, API, b"GET /debug/memory HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"):
        assert ask(admin.admin, client(pki, "alice", version), request).status == 200


@VERSIONS
@pytest.mark.parametrize("who,says", [(None, "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE"), ("mallory", "UNKNOWN_CA"),
                                      ("old", "CERTIFICATE_EXPIRED"), ("server", "UNSUPPORTED_CERTIFICATE"),
                                      ("leafsigned", "UNKNOWN_CA|UNSUPPORTED_CERTIFICATE|INVALID_CA")])
def test_others_get_an_alert(admin, pki, version, who, says):
    before, lines = admin.metric("errors_total", code="TLS_CLIENT"), len(admin.logs("tls_client_refused"))
    says = "(?i)" + says.replace("_", "[_ ]")
    refused(admin.admin, client(pki, who, version, chain=["alice"] if who == "leafsigned" else ()), says)
    admin.wait_metric("errors_total", before + 1, code="TLS_CLIENT")
    line = admin.wait_logs("tls_client_refused", n=lines + 1)[-1]
    assert line["code"] == "TLS_CLIENT" and line["detail"] and line["peer"].startswith(HOST), line


def test_plain_http_is_told_so(admin):
    with Raw(admin.admin) as c:
        assert c.send(METRICS).rest().startswith(b"HTTP/1.1 400 ")


def test_an_intermediate_authority_is_trusted_alone(make, pki):
    w = make(who="op", tls={"client_ca": pki.pem("operators")})
    assert ask(w.admin, w.who).status == 200
    refused(w.admin, client(pki, "alice"), "(?i)unknown[_ ]ca")


def test_a_client_brings_its_chain(admin, pki):
    assert ask(admin.admin, client(pki, "op", chain=["operators"])).status == 200


def test_lists_of_what_was_revoked(make, pki):
    w = make(tls={"client_ca": pki.pem("ca-with-list")})
    assert ask(w.admin, w.who).status == 200
    refused(w.admin, client(pki, "bob"), "(?i)revoked")


# ---------------------------------------------------------------------------- pages of others


@pytest.mark.parametrize("fields,status", [
    ("Host: 127.0.0.1", 200), ("Host: 10.1.2.3:6060", 200), ("Host: [fd00::1]:6060", 200), ("Host: localhost", 200),
    ("Host: evil.example", 403), ("Host: 1.2.3.4.evil.example", 403),
    ("Host: 127.0.0.1\r\nOrigin: https://127.0.0.1", 200), ("Host: 127.0.0.1\r\nOrigin: http://127.0.0.1", 403),
    ("Host: 127.0.0.1\r\nOrigin: https://evil.example", 403), ("Host: 127.0.0.1\r\nOrigin: null", 403)])
def test_hosts_and_origins(admin, fields, status):
    assert ask(admin.admin, admin.who, f"GET /api/v1/log HTTP/1.1\r\n{fields}\r\n\r\n".encode()).status == status


# ---------------------------------------------------------------------------- sessions


@VERSIONS
def test_no_session_stands_for_a_certificate(admin, pki, version):
    ctx = client(pki, "alice", version)
    with Tls(admin.admin, ctx) as c:
        assert c.send(METRICS).response().status == 200
        assert not c.sock.session or not c.sock.session.has_ticket
        session = c.sock.session
    if session:
        with Tls(admin.admin, ctx, session=session) as c:
            assert not c.sock.session_reused


@VERSIONS
@pytest.mark.parametrize("who", [None, "alice"])
def test_a_ticket_of_the_public_listener_is_worth_nothing(admin, pki, version, who):
    ctx = client(pki, who, version)
    with Tls(admin.tls, ctx) as c:
        session = session_of(c)
        assert session.has_ticket
    if who:
        with Tls(admin.admin, ctx, session=session) as c:
            assert c.send(METRICS).response().status == 200 and not c.sock.session_reused
        return
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with Tls(admin.admin, ctx, session=session) as c:
            c.sock.send(METRICS)
            assert c.sock.recv(1) == b""


# ---------------------------------------------------------------------------- with a token


def test_a_token_over_tls(make, pki):
    w = make(who=None, tls={}, token=TOKEN)
    head = b"GET /api/v1/log HTTP/1.1\r\nHost: x\r\n"
    assert ask(w.admin, w.who, head + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n").status == 200
    assert ask(w.admin, w.who, head + b"\r\n").status == 401
    assert ask(w.admin, w.who, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").status == 200
    r = run_cli("log-level", "--admin", f"https://{HOST}:{w.admin}", "--ca", pki.pem("ca"), env={"WEIR_TOKEN": TOKEN})
    assert r.returncode == 0 and r.stdout == "debug\n", r.stderr


def test_a_certificate_and_a_token(make, pki):
    w = make(token=TOKEN)
    assert ask(w.admin, w.who, METRICS).status == 200
    assert ask(w.admin, w.who, API).status == 401
    assert ask(w.admin, w.who, API[:-2] + b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n").status == 200
    refused(w.admin, context(), "(?i)certificate[_ ]required")


# ---------------------------------------------------------------------------- the program's own commands


def test_commands(admin, pki):
    for command in (["log-level"], ["conns"], ["modules"], ["memory"], ["memory", "--json"], ["health"], ["tail", "--once"]):
        r = run_cli(*command, *cli(admin, pki))
        assert r.returncode == 0 and r.stdout and not r.stderr, (command, r)
    both = pki.folder / "both.pem"
    both.write_text(open(pki.pem("alice")).read() + open(pki.key("alice")).read())
    r = run_cli("health", "--admin", f"https://{HOST}:{admin.admin}", "--name", "weir.internal", "--cert", both, "--ca", pki.pem("ca"))
    assert r.stdout == "ready\n", r.stderr


@pytest.mark.parametrize("options,says", [
    (lambda p: ("--ca", p.pem("ca")), "alert"),
    (lambda p: ("--ca", p.pem("ca"), "--cert", p.pem("mallory"), "--key", p.key("mallory")), "unknown ca"),
    (lambda p: ("--ca", p.pem("other"), "--cert", p.pem("alice"), "--key", p.key("alice")), "its certificate is refused"),
    (lambda p: ("--cert", p.pem("alice"), "--key", p.key("alice")), "its certificate is refused"),
    (lambda p: ("--ca", p.pem("ca"), "--cert", p.pem("alice"), "--key", p.key("alice"), "--name", "else.where"), "mismatch"),
    (lambda p: ("--ca", p.pem("ca"), "--cert", p.pem("alice"), "--key", p.key("bob")), "--key"),
    (lambda p: ("--ca", "/nothing", "--cert", p.pem("alice"), "--key", p.key("alice")), "--ca: /nothing"),
    (lambda p: ("--ca", p.pem("ca"), "--cert", "/nothing"), "--cert: /nothing")])
def test_commands_that_fail(admin, pki, options, says):
    r = run_cli("conns", "--admin", f"https://{HOST}:{admin.admin}", *options(pki))
    assert r.returncode == 1 and says in r.stderr, r.stderr


def test_a_gateway_without_tls(start, pki):
    w = start({"routes": ROUTES})
    r = run_cli("conns", *cli(w, pki))
    assert r.returncode == 1 and "handshake failed" in r.stderr
    with Raw(w.admin) as c:  # its library was never started
        assert w.metric("tls_bytes") == 0 and c


def test_a_large_module_goes_through(make, pki, tmp_path):
    w = make(module_size="16MiB")
    file = tmp_path / "large.wasm"
    file.write_bytes(b"\0asm\1\0\0\0" + b"\0\xfd\xff\xff\x03" + b"\1a" + bytes(0x7fffff - 4 + 2 - 1))
    r = run_cli("modules", "put", "large", file, *cli(w, pki))
    assert "502" not in r.stderr and "did not answer" not in r.stderr and "TLS failed" not in r.stderr, r.stderr
    assert w.wait_metric("received_bytes_total", lambda n: n >= file.stat().st_size)


# ---------------------------------------------------------------------------- replaced


@pytest.fixture
def swapped(make, pki, tmp_path):
    file = tmp_path / "clients.pem"
    file.write_text(open(pki.pem("ca")).read())
    w = make(tls={"client_ca": str(file)})
    w.ca = file
    return w


def test_the_authority_is_replaced(swapped, pki):
    w = swapped
    idle = Tls(w.admin, client(pki, "alice"))
    assert idle.send(METRICS).response().status == 200
    public = Tls(w.tls)
    w.ca.write_text(open(pki.pem("other")).read())
    assert run_cli("reload", *cli(w, pki)).returncode == 0, "its answer comes though its authority is gone"
    w.who = client(pki, "mallory")
    w._admin_raw = None
    wait_for("the new one is in force", lambda: w.logs("certificates_loaded", listener=f"0.0.0.0:{w.admin}")[1:])
    idle.closed()
    refused(w.admin, client(pki, "alice"), "(?i)unknown[_ ]ca")
    assert ask(w.admin, w.who).status == 200
    assert public.send(NOT_FOUND).response().status == 404
    assert len(w.wait_logs("worker_start", 1)) == 1


@pytest.mark.parametrize("text,says", [("", "is empty"), ("garbage", "no certificate"),
                                       ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "malformed")])
def test_a_broken_authority_changes_nothing(swapped, pki, text, says):
    w = swapped
    w.ca.write_text(text)
    w.signal(signal.SIGHUP)
    w.signalled = False
    line = w.wait_log("certificates_refused")
    assert says in line["detail"] and line["listener"] == f"0.0.0.0:{w.admin}"
    assert ask(w.admin, w.who).status == 200
    refused(w.admin, context(), "(?i)certificate[_ ]required")


def test_another_worker_asks_too(swapped, pki):
    """A configuration with another token, and so a new worker; and what was a plain listener gets TLS."""
    w = swapped
    w.config["admin"]["hosts"] = ["weir.internal"]
    w.file.write_text(json.dumps(w.config, indent=1))
    assert run_cli("reload", *cli(w, pki)).returncode == 0
    w.wait_logs("worker_ready", n=2)
    w._admin_raw = None
    wait_for("the new one answers", lambda: ask(w.admin, w.who, b"GET /metrics HTTP/1.1\r\nHost: weir.internal\r\n\r\n").status == 200)
    refused(w.admin, context(), "(?i)certificate[_ ]required")


def test_an_upgrade_is_asked_for_and_answered(swapped, pki):
    w = swapped
    r = run_cli("upgrade", *cli(w, pki))
    assert r.returncode == 0 and "a new worker has taken over" in r.stdout, r
    w._admin_raw = None
    wait_for("the new one answers", lambda: ask(w.admin, w.who).status == 200)
    refused(w.admin, context(), "(?i)certificate[_ ]required")
    w.ca.write_text(open(pki.pem("other")).read())  # the new supervisor reads it, too
    w.signal(signal.SIGHUP)
    w.signalled = False
    w.who = client(pki, "mallory")
    wait_for("the new one is in force", lambda: answers(w))
    refused(w.admin, client(pki, "alice"), "(?i)unknown[_ ]ca")


def test_a_plain_connection_does_not_outlive_the_change_to_tls(start, pki):
    w = start({"routes": ROUTES})
    plain = Raw(w.admin)
    assert plain.send(METRICS).response().status == 200
    w.config["admin"]["tls"] = {"certificate": pki.pem("server"), "key": pki.key("server"), "client_ca": pki.pem("ca")}
    w.file.write_text(json.dumps(w.config, indent=1))
    w.signal(signal.SIGHUP)
    w.signalled = False
    w.wait_logs("worker_ready", n=2, timeout=15)
    wait_for("it takes over", lambda: w.logs("handover_done"))
    plain.closed()
    assert ask(w.admin, client(pki, "alice")).status == 200


# ---------------------------------------------------------------------------- floods, and places of its own


def test_handshakes_that_never_end_take_no_ones_place(make, pki):
    w = make()
    held = [Raw(w.admin) for _ in range(70)]
    wait_for("those beyond its places were refused", lambda: sum(map(gone, held)) >= 6)
    with Tls(w.tls) as c:
        assert c.send(NOT_FOUND).response().status == 404
    for c in held:
        c.close()
    wait_for("it answers again", lambda: answers(w))


def gone(c):
    """Told so, or closed."""
    try:
        c.sock.setblocking(False)
        return c.sock.recv(1, socket.MSG_PEEK) in (b"", b"H")
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def answers(w):
    try:
        return ask(w.admin, w.who).status == 200
    except (OSError, AssertionError):
        return False


def test_a_flood_of_public_handshakes_leaves_it_alone(tmp_path, cache, pki, _running):
    w = Admin(tmp_path, cache, pki)
    _running.append(w)
    w.config["tls"] = {"handshakes": 2}
    w.file.write_text(json.dumps(w.config, indent=1))
    w.start()
    held = []
    for _ in range(6):
        c = Raw(w.tls)
        c.send(b"\x16\x03\x01\x02\x00")  # a record that does not come
        held.append(c)
    w.wait_metric("tls_handshakes_active", 2)
    w._admin_raw.close()
    w._admin_raw = None
    assert ask(w.admin, w.who).status == 200
    for c in held:
        c.close()
    w.stop()


# ---------------------------------------------------------------------------- weir check


def check(tmp_path, admin):
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps({"listen": [{"address": f"{HOST}:{free_port()}"}], "admin": admin}))
    return run_cli("check", file)


def test_check_accepts_either(tmp_path, pki):
    tls = {"certificate": pki.pem("server"), "key": pki.key("server")}
    for admin in ({"address": "0.0.0.0:6060", "tls": {**tls, "client_ca": pki.pem("ca")}},
                  {"address": "0.0.0.0:6060", "tls": tls, "token": TOKEN}, {"tls": tls}):
        r = check(tmp_path, admin)
        assert r.returncode == 0 and not r.stderr, r.stderr


@pytest.mark.parametrize("admin,says", [
    ({"address": "0.0.0.0:6060", "tls": {}}, "admin.tls.client_ca"),
    ({"address": "unix:/tmp/x", "tls": {"client_ca": "ca"}}, "it takes no tls"),
    ({"tls": {"client_ca": "garbage"}}, "client_ca's file holds no certificate"),
    ({"tls": {"client_ca": "empty"}}, "is empty"),
    ({"tls": {"client_ca": "/nothing/there"}}, "can't read /nothing/there"),
    ({"tls": {"key": "bob"}}, "the key is not the certificate's"),
    ({"tls": {"key": None}}, "tls needs certificate: FILE and key: FILE"),
    ({"tls": {"client_ca": ""}}, "client_ca is a file"),
    ({"tls": {"clientca": "x"}}, "client_ca"),
    ({"tls": []}, "a map is expected")])
def test_check_refuses(tmp_path, pki, admin, says):
    (tmp_path / "garbage").write_text("garbage")
    (tmp_path / "empty").write_text("")
    if isinstance(admin["tls"], dict):
        tls = {"certificate": pki.pem("server"), "key": pki.key("server"), **admin["tls"]}
        tls = {k: {"ca": pki.pem("ca"), "bob": pki.key("bob")}.get(v, v) for k, v in tls.items() if v is not None}
        admin = {**admin, "tls": tls}
    r = check(tmp_path, admin)
    assert r.returncode == 1 and says in r.stderr, r.stderr


def test_check_refuses_an_authority_for_a_public_listener(tmp_path, pki):
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps({"listen": [{"address": f"{HOST}:{free_port()}", "tls": {
        "certificate": pki.pem("server"), "key": pki.key("server"), "client_ca": pki.pem("ca")}}]}))
    r = run_cli("check", file)
    assert r.returncode == 1 and "client_ca is of admin.tls alone" in r.stderr, r.stderr


def test_check_warns_of_an_expired_authority(tmp_path, pki):
    openssl("x509", "-req", "-in", pki.folder / "old.csr", "-signkey", pki.key("old"), "-days", "-1", "-out", tmp_path / "gone.pem")
    r = check(tmp_path, {"tls": {"certificate": pki.pem("server"), "key": pki.key("server"), "client_ca": str(tmp_path / "gone.pem")}})
    assert r.returncode == 0 and "warning: " in r.stderr and "client_ca has expired" in r.stderr, r.stderr


def test_s_client(admin, pki):
    p = subprocess.run(["openssl", "s_client", "-connect", f"{HOST}:{admin.admin}", "-CAfile", pki.pem("ca"), "-verify_ip", HOST,
                        "-verify_return_error", "-cert", pki.pem("alice"), "-key", pki.key("alice"), "-quiet"],
                       input=b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", capture_output=True, timeout=15)
    assert b"HTTP/1.1 200" in p.stdout and b"Acceptable" not in p.stdout, p.stderr
