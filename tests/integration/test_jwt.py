"""Tokens: checked before a guest is woken, and read by it (docs/ACCESS.md)."""
import base64
import json
import os
import re
import signal
import time

import pytest
import tokens

from weir import TEXT, Raw, Weir, close, frame, guest, handshake, problem, refuses_to_serve, run_cli, wait_for

SECRET = b"a secret of 32 bytes or more, which nobody guesses"
CONFIG_BASE = {
    "log_level": "debug",
    "modules": {"http": {"path": guest("http")}, "hs": {"path": guest("hs")}},
}
HS = {"algorithm": "HS256", "key": "${WEIR_TEST_SECRET}"}


def http(path, **options):
    return {"path": path, "http": {"module": "http"}, "jwt": options}


def ws(path, module="hs", subprotocols=(), **options):
    return {"path": path, "websocket": {"module": module, "subprotocols": list(subprotocols)},
            "jwt": options}


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {"RS256": tokens.rsa_pair(folder), "ES256": tokens.ec_pair(folder), "HS256": (SECRET, None),
            "other RS256": tokens.rsa_pair(folder, name="other"),
            "other ES256": tokens.ec_pair(folder, name="other"), "folder": folder}


@pytest.fixture(scope="module")
def shared(tmp_path_factory, cache, _running, keys):
    rs = {"algorithm": "RS256", "key_file": str(keys["RS256"][1])}
    es = {"algorithm": "ES256", "key": keys["ES256"][1].read_text()}
    config = {**CONFIG_BASE, "routes": [
        http("/HS256", **HS), http("/RS256", **rs), http("/ES256", **es),
        http("/aud", **HS, audience="weir", issuer="me"),
        http("/late", **HS, leeway="60s"),
        http("/any", **HS, **{"from": ["header", "cookie:tok", "query:t"]}),
        ws("/hs", **HS), ws("/open", **es),
        ws("/sub", subprotocols=["chat"], **HS, **{"from": ["subprotocol", "header"]}),
        {"path": "/free", "http": {"module": "http"}},
        {"path": "/wfree", "websocket": {"module": "hs"}},
        {"path": "/echo", "websocket": {"handler": "echo"}, "jwt": HS}]}
    config["modules"] = {**config["modules"],
                         "add": {"path": guest("add"), "jwt": HS}}
    w = Weir(tmp_path_factory.mktemp("weir"), cache, config,
             env={"WEIR_TEST_SECRET": SECRET.decode()}, start=False)
    _running.append(w)
    w.start()
    yield w
    w.stop()


def ask(weir, path, token=None, headers="", query="g7sub"):
    if token is not None:
        headers += f"Authorization: Bearer {token}\r\n"
    return weir.get(f"{path}?{query}", headers=headers)


def says(r, text):
    text = text.encode()
    assert r.status == 200, r
    assert r.body == b"%d " % len(text) + text, r.body


def refused(r, detail=None):
    doc = problem(r, 401, "TOKEN")
    assert r.headers.get("www-authenticate") == 'Bearer error="invalid_token"'
    if detail:
        assert re.search(detail, doc["detail"]), doc


ALGORITHMS = pytest.mark.parametrize("alg", ["HS256", "RS256", "ES256"])


@ALGORITHMS
def test_a_token_lets_in_and_its_claims_are_read(weir, keys, alg):
    t = tokens.token(alg, keys[alg][0], {"sub": "ann"})
    says(ask(weir, "/" + alg, t), "ann")


@ALGORITHMS
def test_many_tokens(weir, keys, alg):
    """ECDSA's numbers have leading zeroes now and then, and a sign bit as often as not."""
    for i in range(12):
        says(ask(weir, "/" + alg, tokens.token(alg, keys[alg][0], {"sub": str(i)})), str(i))


@pytest.mark.parametrize("value,text", [
    ("ünï", "ünï"), ("", ""), (5, "5"), (1.5, "1.5"), (True, "true"), (None, "null"),
    (2**63 - 1, str(2**63 - 1)), (["a", 1], '["a",1]'), ({"b": {"a": []}}, '{"b":{"a":[]}}'),
    ("x" * 3000, "x" * 3000)])
def test_claims_as_text(weir, keys, value, text):
    says(ask(weir, "/HS256", tokens.token("HS256", SECRET, {"sub": value})), text)


def test_claims_that_are_not_there(weir):
    t = tokens.token("HS256", SECRET)
    assert ask(weir, "/HS256", t).body == b"-4 "
    assert ask(weir, "/HS256", t, query="g7").body == b"-4 "
    assert ask(weir, "/free", t).body == b"-4 "  # nobody checked it


def test_without_a_token(weir):
    before = weir.metric("guest_events_total")
    for headers in ("", "Authorization: Basic YTpi\r\n", "Authorization: Bearer\r\n"):
        r = ask(weir, "/HS256", headers=headers)
        problem(r, 401, "TOKEN_MISSING")
        assert r.headers.get("www-authenticate") == "Bearer"
    assert weir.metric("guest_events_total") == before


def flip(token, part):
    parts = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(parts[part] + "=="))
    raw[len(raw) // 2] ^= 1
    parts[part] = tokens.b64(bytes(raw))
    return ".".join(parts)


@ALGORITHMS
def test_forgeries(weir, keys, alg):
    key, public = keys[alg]
    good = tokens.token(alg, key, {"sub": "ann"})
    head, body, sig = good.split(".")
    before = weir.metric("guest_events_total")
    other = b"another secret, of 32 bytes or more, too" if alg == "HS256" else keys["other " + alg][0]
    bad = {
        "another key": tokens.token(alg, other),
        "a claim is another": f"{head}.{tokens.b64({'sub': 'bob', 'exp': 9e9})}.{sig}",
        "a bit of the signature": flip(good, 2),
        "no signature": f"{head}.{body}.",
        "no last dot": f"{head}.{body}",
        "a shorter signature": f"{head}.{body}.{sig[:-4]}",
        "a longer signature": f"{head}.{body}.{sig}AAAA",
        "zeroes": tokens.token(alg, key, sig=bytes(64)),
        "ones": tokens.token(alg, key, sig=b"\xff" * 64),
        "zeroes of an RSA signature": tokens.token(alg, key, sig=bytes(256)),
        "more than RSA has": tokens.token(alg, key, sig=b"\xff" * 256),
        "larger than any": tokens.token(alg, key, sig=bytes(1025)),
        "nothing": "..", "dots": "." * 8, "no JSON": "a.b.c",
        "JWE": f"{head}.{body}.{sig}.{body}.{sig}",
    }
    for alg2 in ("none", "None", "NONE", "nOnE", "HS384", "HS512", "RS384", "PS256", "ES384",
                 "EdDSA", "", alg.lower(), alg + " "):
        bad[f"alg {alg2}"] = tokens.token(alg, key, header={"alg": alg2})
        bad[f"alg {alg2}, unsigned"] = tokens.token("none", b"", header={"alg": alg2})
    for name, t in bad.items():
        r = ask(weir, "/" + alg, t)
        assert r.status == 401, name
        refused(r)
    assert weir.metric("guest_events_total") == before


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_a_public_key_is_no_secret(weir, keys, alg):
    """The classic: signed by HMAC with the public key, which everybody has."""
    pem = keys[alg][1].read_bytes()
    for secret in (pem, pem.rstrip(b"\n")):
        for header in ({"alg": "HS256"}, {"alg": alg}):
            refused(ask(weir, "/" + alg, tokens.token("HS256", secret, header=header)))


def test_the_key_of_a_token_is_not_taken_from_it(weir, keys):
    other = keys["other RS256"][0]
    for header in ({"jku": "http://127.0.0.1:1/"}, {"kid": "../../etc/passwd"}, {"x5c": ["AAAA"]},
                   {"jwk": {"kty": "oct", "k": "AAAA"}}):
        refused(ask(weir, "/RS256", tokens.token("RS256", other, header=header)), "signature")
        good = tokens.token("RS256", keys["RS256"][0], {"sub": "a"}, header=header)
        says(ask(weir, "/RS256", good), "a")


@pytest.mark.parametrize("header,ok", [
    ({"typ": ...}, True), ({"typ": "jwt"}, True), ({"typ": "at+jwt"}, True), ({"kid": "x"}, True),
    ({"typ": "JWS"}, False), ({"typ": 5}, False), ({"typ": None}, False), ({"crit": ["b64"]}, False),
    ({"crit": []}, False), ({"crit": None, "b64": False}, False), ({"alg": None}, False),
    ({"alg": ["HS256"]}, False), ('{"alg":"HS256","alg":"HS256"}', False),
    ('{"alg":"none","alg":"HS256"}', False), ('["HS256"]', False), ('"HS256"', False), ("", False),
    ("{}", False), ('{"alg":"HS256"', False), ('{"alg":"HS256"}x', False),
    ('{"alg":"HS256\\u0000"}', False), ('{"alg":"HS256","a":"' + "x" * 1100 + '"}', False),
    ('{"alg":"HS256","a":' + "[" * 20 + "]" * 20 + "}", False), (b"\xff\xfe", False)])
def test_headers(weir, header, ok):
    if isinstance(header, dict):
        full = {"alg": "HS256", "typ": "JWT", **header}
        header = json.dumps({k: v for k, v in full.items() if v is not ...})
    r = ask(weir, "/HS256", tokens.token("HS256", SECRET, {"sub": "a"}, header=header))
    says(r, "a") if ok else refused(r)


NOW = int(time.time())


TIMES = [
    ({"exp": NOW + 86400}, None), ({"exp": NOW + 86400.5}, None), ({"exp": 2**62}, None),
    ({"exp": NOW + 86400, "nbf": NOW - 5, "iat": NOW + 500}, None),
    ({"exp": NOW - 1}, "expired"), ({"exp": 0}, "expired"), ({"exp": -1}, "expired"),
    ({"exp": ...}, "no exp"), ({"exp": None}, "no exp"), ({"exp": str(NOW + 86400)}, "no exp"),
    ({"exp": True}, "no exp"), ({"exp": [NOW + 86400]}, "no exp"),
    ({"nbf": NOW + 86400}, "not valid yet"), ({"nbf": "0"}, "no number"), ({"nbf": None}, "no number"),
    ('{"exp":1e999}', "malformed"), ('{"exp":99999999999999999999999}', "malformed"),
    (f'{{"exp":0,"exp":{NOW + 86400}}}', "malformed"), ("[]", "malformed"), ("", "malformed"),
    (f'{{"exp":{NOW + 86400},"a":"\\u0000"}}', "malformed"), ('{"exp":NaN}', "malformed"),
    (f'{{"exp":{NOW + 86400}}} {{}}', "malformed"), (b'{"exp":9e9,"a":"\xff"}', "malformed"),
    ('{"exp":9e9,"a":' + "[" * 2000 + "]" * 2000 + "}", "malformed")]


def judged(weir, path, claims, why):
    """Why a token of these claims is refused; None: it is not."""
    r = ask(weir, path, tokens.token("HS256", SECRET, claims))
    if why:
        refused(r, why)
    else:
        assert r.status == 200


# By number: the time is not the same in both processes that run tests.
@pytest.mark.parametrize("claims,why", TIMES, ids=range(len(TIMES)))
def test_claims(weir, claims, why):
    judged(weir, "/HS256", claims, why)


@pytest.mark.parametrize("claims,why", [
    ({"aud": "weir", "iss": "me"}, None), ({"aud": ["x", "weir"], "iss": "me"}, None),
    ({"iss": "me"}, "audience"), ({"aud": "Weir", "iss": "me"}, "audience"),
    ({"aud": [], "iss": "me"}, "audience"), ({"aud": ["x"], "iss": "me"}, "audience"),
    ({"aud": ["weir", 5], "iss": "me"}, "audience"), ({"aud": [["weir"]], "iss": "me"}, "audience"),
    ({"aud": {"weir": 1}, "iss": "me"}, "audience"), ({"aud": "weir x", "iss": "me"}, "audience"),
    ({"aud": "weir"}, "issuer"), ({"aud": "weir", "iss": "you"}, "issuer"),
    ({"aud": "weir", "iss": ["me"]}, "issuer")])
def test_audience_and_issuer(weir, claims, why):
    judged(weir, "/aud", claims, why)


def test_leeway(weir):
    now = int(time.time())
    assert ask(weir, "/late", tokens.token("HS256", SECRET, {"exp": now - 30})).status == 200
    assert ask(weir, "/late", tokens.token("HS256", SECRET, {"nbf": now + 30})).status == 200
    refused(ask(weir, "/late", tokens.token("HS256", SECRET, {"exp": now - 90})), "expired")
    refused(ask(weir, "/late", tokens.token("HS256", SECRET, {"nbf": now + 90})), "yet")


@pytest.mark.parametrize("spoil", [
    lambda t: t + "=", lambda t: t + "==", lambda t: t.replace(".", ". ", 1), lambda t: " " + t + "x",
    lambda t: t + "\t.", lambda t: t[:-1] + "+", lambda t: t[:-1] + "/", lambda t: t + "\xe9",
    lambda t: t + "." + t, lambda t: t + "," + t, lambda t: t.replace(".", "..", 1),
    # the last letter's bits that no byte has: a second way to write the same signature
    lambda t: t[:-1] + chr(ord(t[-1]) + 1)])
def test_one_way_to_write_it(weir, spoil):
    while True:
        t = tokens.token("HS256", SECRET, {"jti": time.time_ns()})
        if t[-1] in "AEIMQUYcgkosw048" and t[-1] not in "Z9":
            break
    refused(ask(weir, "/HS256", spoil(t)))
    assert ask(weir, "/HS256", t).status == 200


def test_sizes(weir):
    def of(n):
        pad = "x"
        while True:
            t = tokens.token("HS256", SECRET, {"sub": "a", "pad": pad}, header={"typ": "JWT"})
            if len(t) >= n:
                return t
            pad += "x" * max(1, (n - len(t)) * 3 // 4 - 2)

    says(ask(weir, "/HS256", of(7900)), "a")
    problem(ask(weir, "/HS256", of(8300)), 431)  # limits.head


def test_a_token_larger_than_tokens_are(start):
    w = start({**CONFIG_BASE, "limits": {"head": "60KiB"}, "routes": [http("/HS256", **HS)]},
              env={"WEIR_TEST_SECRET": SECRET.decode()})
    big = tokens.token("HS256", SECRET, {"pad": "x" * 6200})
    assert len(big) > 8192
    refused(ask(w, "/HS256", big), "8192")
    refused(ask(w, "/HS256", "a" * 50000 + "." * 3), "8192")


# ---------------------------------------------------------------------------- where it is


@pytest.mark.parametrize("headers,query", [
    ("Authorization: Bearer {}\r\n", "g7sub"), ("authorization: bEARER   {}\r\n", "g7sub"),
    ("Cookie: tok={}\r\n", "g7sub"), ("Cookie: a=b; tok={}; c=d\r\n", "g7sub"),
    ("Cookie: a=b\r\ncookie: tok={}\r\n", "g7sub"), ("Cookie: xtok=y; tok={}\r\n", "g7sub"),
    ("Authorization: Basic YTpi\r\nCookie: tok={}\r\n", "g7sub"),
    ("", "g2&t={}"), ("", "g2&tt=1&t={}&u=1")])
def test_where_a_token_may_be(weir, headers, query):
    t = tokens.token("HS256", SECRET, {"sub": "ann"})
    assert ask(weir, "/any", headers=headers.format(t), query=query.format(t)).status == 200


@pytest.mark.parametrize("headers,query", [
    ("Authorization: Bearer {}\r\nAuthorization: Bearer {}\r\n", "g"),
    ("Authorization: Bearer {}\r\nCookie: tok={}\r\n", "g"),
    ("Cookie: tok={}; tok=x\r\n", "g"), ("Cookie: tok={}\r\ncookie: tok={}\r\n", "g"),
    ("", "g&t={}&t={}"), ("Cookie: tok={}\r\n", "g&t="),
    ("Authorization: Bearer {}\r\n", "g&t=x")])
def test_one_token_only(weir, headers, query):
    t = tokens.token("HS256", SECRET)
    refused(ask(weir, "/any", headers=headers.replace("{}", t), query=query.replace("{}", t)), "more")


@pytest.mark.parametrize("headers,query", [
    ("Cookie: TOK={}\r\n", "g"), ("Cookie: tok\r\n", "g"), ("X-Authorization: Bearer {}\r\n", "g"),
    ("", "g&T={}"), ("", "t"), ("Sec-WebSocket-Protocol: bearer.{}\r\n", "g")])
def test_where_no_token_is(weir, headers, query):
    t = tokens.token("HS256", SECRET)
    problem(ask(weir, "/any", headers=headers.format(t), query=query.format(t)), 401, "TOKEN_MISSING")


def test_a_token_of_a_query_is_not_logged(weir):
    t = tokens.token("HS256", SECRET, {"sub": "query"})
    for path in ("/any", "/HS256", "/free", "/none", "/any/" + t):
        weir.get(f"{path}?t={t}")
    weir.get(f"/any?t={t[:-3]}AAA")
    weir.check()
    body = t.split(".")[1]
    assert not [x for x in weir.logs() if body in json.dumps(x)]


# ---------------------------------------------------------------------------- WebSockets


def test_claims_in_handshake_and_open(weir, keys):
    es = tokens.token("ES256", keys["ES256"][0], {"sub": "eve"})
    hs = tokens.token("HS256", SECRET, {"sub": "ann"})
    for path, t, sub in (("/open", es, "eve"), ("/hs", hs, "ann")):
        with weir.ws(path + "?f7sub", f"Authorization: Bearer {t}\r\n") as c:
            assert c.handshake.headers.get("x-field") == sub
        with weir.ws(path + "?F7sub", f"Authorization: Bearer {t}\r\n") as c:
            assert c.message() == (TEXT, sub.encode())
            c.send(frame(TEXT, b"more"))
            assert c.message() == (TEXT, b"more")
    with weir.ws("/wfree?F7sub", f"Authorization: Bearer {hs}\r\n") as c:
        assert c.message() == (TEXT, b"4")  # absent


def test_a_refused_handshake_wakes_no_guest(weir):
    def settled():  # ends of connections of the tests before
        n = weir.metric("guest_events_total")
        time.sleep(0.1)
        return n == weir.metric("guest_events_total") and [n]

    [before] = wait_for("no guest runs", settled)
    with weir.raw() as c:
        r = c.send(handshake("/hs?f7sub")).response()
        problem(r, 401, "TOKEN_MISSING")
        bad = tokens.token("HS256", b"x" * 32)
        refused(c.send(handshake("/hs", f"Authorization: Bearer {bad}\r\n")).response())
        assert weir.metric("guest_events_total") == before
        good = tokens.token("HS256", SECRET, {"sub": "a"})
        c.upgrade("/hs?F7sub", f"Authorization: Bearer {good}\r\n")
        assert c.message() == (TEXT, b"a")


def test_a_built_in_handler(weir):
    good = tokens.token("HS256", SECRET)
    with weir.ws("/echo", f"Authorization: Bearer {good}\r\n") as c:
        c.send(frame(TEXT, b"x"))
        assert c.message() == (TEXT, b"x")
    problem(weir.raw().send(handshake("/echo")).response(), 401)


def test_a_token_as_subprotocol(weir):
    t = tokens.token("HS256", SECRET, {"sub": "ann"})
    with weir.ws("/sub?F7sub", f"Sec-WebSocket-Protocol: chat, bearer.{t}\r\n") as c:
        assert c.handshake.headers.get("sec-websocket-protocol") == "chat"
        assert c.message() == (TEXT, b"ann")
    with weir.ws("/sub?f7sub", f"Sec-WebSocket-Protocol: bearer.{t}\r\n") as c:
        assert c.handshake.headers.get("sec-websocket-protocol") is None
    # nor can a guest choose it, whatever it asks for
    with weir.ws(f"/sub?pbearer.{t}", f"Sec-WebSocket-Protocol: other,  bearer.{t} \r\n") as c:
        assert c.handshake.headers.get("sec-websocket-protocol") is None
        assert c.handshake.headers.get("x-result") == "3"
    two = f"Sec-WebSocket-Protocol: bearer.{t}\r\nSec-WebSocket-Protocol: bearer.{t}\r\n"
    refused(weir.raw().send(handshake("/sub", two)).response(), "more")
    problem(weir.raw().send(handshake("/sub", "Sec-WebSocket-Protocol: bearer\r\n")).response(), 401,
            "TOKEN_MISSING")


def test_exec(weir):
    problem(weir.post("/api/exec/add", "[1,2]"), 401, "TOKEN_MISSING")
    t = tokens.token("HS256", SECRET)
    assert weir.post("/api/exec/add", "[1,2]", f"Authorization: Bearer {t}\r\n").status == 200
    refused(weir.post("/api/exec/add", "[1,2]", f"Authorization: Bearer {flip(t, 2)}\r\n"))


def test_claims_outlive_their_input(weir):
    """A body that comes later: the head is copied, and so are the claims."""
    t = tokens.token("HS256", SECRET, {"sub": "late"})
    with weir.raw() as c:
        c.send(f"POST /HS256?g7sub HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {t}\r\n"
               "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert c.response().status == 100
        says(c.send("hello").response(), "late")
        # and none are left for the next request of the connection
        assert c.send("GET /free?g7sub HTTP/1.1\r\nHost: a\r\n\r\n").response().body == b"-4 "


def test_metrics(weir):
    checks, seconds = weir.metric("token_checks_total"), weir.metric("token_check_seconds")
    failed = weir.metric("errors_total", code="TOKEN")
    ask(weir, "/HS256", "a.b.c")
    assert weir.metric("token_checks_total") == checks + 1
    assert weir.metric("token_check_seconds") > seconds
    assert weir.metric("errors_total", code="TOKEN") == failed + 1


def test_refused_tokens_use_up_the_rate_of_handshakes(start):
    w = start({**CONFIG_BASE, "access": {"handshakes_per_ip": 1, "handshake_burst": 3},
               "routes": [http("/HS256", **HS)]}, env={"WEIR_TEST_SECRET": SECRET.decode()})
    good, codes = tokens.token("HS256", SECRET), []
    for _ in range(40):  # those that hold cost nothing
        assert ask(w, "/HS256", good).status == 200
    while 429 not in codes and len(codes) < 60:
        codes.append(ask(w, "/HS256", "a.b.c").status)
    assert codes.count(401) >= 4 and codes[-1] == 429
    with w.raw(source="127.0.0.7") as c:  # others are not concerned
        c.send(f"GET /HS256?g0 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good}\r\n\r\n")
        assert c.response().status == 200


# ---------------------------------------------------------------------------- configuration


@pytest.mark.parametrize("options,says", [
    ({}, "algorithm"), ({"algorithm": "none", "key": "x" * 40}, "algorithm"),
    ({"algorithm": "hs256", "key": "x" * 40}, "algorithm"),
    ({"algorithm": "HS256"}, "one of key and key_file"),
    ({"algorithm": "HS256", "key": "x" * 40, "key_file": "y"}, "one of key and key_file"),
    ({"algorithm": "HS256", "key": "x" * 31}, "32 bytes"),
    ({"algorithm": "HS256", "key_file": "nowhere.pem"}, "nowhere.pem: No such file"),
    ({"algorithm": "RS256", "key": "x" * 40}, "no public key"),
    ({"algorithm": "RS256", "key_file": "rsa2048.key"}, "no public key"),
    ({"algorithm": "RS256", "key_file": "rsa1024.pem"}, "2048"),
    ({"algorithm": "RS256", "key_file": "ecP-256.pem"}, "RS256 needs"),
    ({"algorithm": "ES256", "key_file": "ecP-384.pem"}, "P-256"),
    ({"algorithm": "ES256", "key_file": "rsa2048.pem"}, "P-256"),
    ({"algorithm": "HS256", "key_file": "rsa2048.pem"}, "others may know"),
    ({"algorithm": "HS256", "key": "x" * 40, "from": ["body"]}, "a token is from"),
    ({"algorithm": "HS256", "key": "x" * 40, "from": ["cookie:"]}, "a token is from"),
    ({"algorithm": "HS256", "key": "x" * 40, "from": ["query:a b"]}, "a token is from"),
    ({"algorithm": "HS256", "key": "x" * 40, "from": []}, "1 to"),
    ({"algorithm": "HS256", "key": "x" * 40, "audiance": "a"}, "did you mean audience"),
    ({"algorithm": "HS256", "key": "${WEIR_NO_SUCH}"}, "environment variable")])
def test_configurations_that_are_wrong(keys, options, says):
    folder = keys["folder"]
    if not (folder / "rsa1024.pem").exists():
        tokens.rsa_pair(folder, 1024)
        tokens.ec_pair(folder, "P-384")
    file = folder / "weir.yaml"
    file.write_text(json.dumps({"routes": [
        {"path": "/e", "websocket": {"handler": "echo"}, "jwt": options}]}))
    r = run_cli("check", file)
    assert r.returncode == 1 and says in r.stderr, r.stderr
    assert "weir.yaml:" in r.stderr


def test_who_uses_no_token_does_not_start_openssl(weir, start):
    """What it takes would cost each process a megabyte."""
    plain = start({"routes": [{"path": "/echo", "websocket": {"handler": "echo"}}]})
    assert plain.metric("tls_bytes") == 0
    assert weir.metric("tls_bytes") > 0


def test_a_gateway_with_a_wrong_key_does_not_serve(tmp_path):
    file = tmp_path / "weir.yaml"
    file.write_text(json.dumps({
        "listen": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
        "routes": [{"path": "/e", "websocket": {"handler": "echo"},
                    "jwt": {"algorithm": "HS256", "key": "short"}}]}))
    r = refuses_to_serve(file)
    assert r.returncode == 1 and "key_refused" in r.stderr and "32 bytes" in r.stderr


def test_a_worker_that_comes_later_has_the_keys(weir, keys):
    weir.may_die = True
    before = weir.worker_pid()
    os.kill(before, signal.SIGKILL)
    weir.wait_log("worker_ready", where=lambda x: x["pid"] != before)
    says(ask(weir, "/RS256", tokens.token("RS256", keys["RS256"][0], {"sub": "a"})), "a")


# ---------------------------------------------------------------------------- tokens that end


ENDS = {**HS, "on_expiry": "close"}


def opened(w, path, exp):
    t = tokens.token("HS256", SECRET, {"exp": exp})
    return Raw(w.port).upgrade(path, f"Authorization: Bearer {t}\r\n")


def ends_at(c, exp):
    c.close_frame(4002, "TOKEN_EXPIRED")
    assert time.time() >= exp
    c.send(close(4002))
    c.closed()


@pytest.fixture
def ending(start):
    return start({**CONFIG_BASE, "routes": [ws("/hs", **ENDS), ws("/late", **ENDS, leeway="2s"), ws("/keep", **HS),
                                            {"path": "/echo", "websocket": {"handler": "echo"}, "jwt": ENDS}]},
                 env={"WEIR_TEST_SECRET": SECRET.decode()})


def test_a_websocket_ends_with_its_token(ending):
    w, now = ending, int(time.time())
    kept, long = opened(w, "/keep", now + 3), opened(w, "/echo", now + 600)
    late, guests = opened(w, "/late", now + 3), opened(w, "/hs", now + 3.5)
    several = [opened(w, "/echo", now + 3) for _ in range(5)]
    several[0].send(frame(TEXT, "x"))
    assert several[0].message() == (TEXT, b"x")
    for c in several:
        ends_at(c, now + 3)
    ends_at(guests, now + 3.5)
    ends_at(late, now + 5)
    long.send(frame(TEXT, "x"))
    assert long.message() == (TEXT, b"x")
    kept.send(frame(9, b"p"))
    assert kept.frame().payload == b"p"
    w.wait_metric("connections_closed_total", 7, reason="TOKEN_EXPIRED")


def test_all_tokens_end_at_once(ending):
    exp = int(time.time()) + 4
    all_of_them = [opened(ending, "/echo", exp) for _ in range(600)]
    for c in all_of_them:
        c.close_frame(4002, "TOKEN_EXPIRED")
    ending.wait_metric("connections_closed_total", 600, reason="TOKEN_EXPIRED", timeout=10)


@pytest.mark.parametrize("exp", [1e300, 2**40, 2.0**33])
def test_tokens_that_end_late(ending, exp):
    c = opened(ending, "/echo", exp)
    c.send(frame(TEXT, "x"))
    assert c.message() == (TEXT, b"x")


def test_another_worker_ends_it_too(ending):
    w, exp = ending, int(time.time()) + 6
    c = opened(w, "/echo", exp)
    w.config["limits"] = {"idle_timeout": "59s"}
    w.file.write_text(json.dumps(w.config, indent=1))
    w.signal(signal.SIGHUP)
    w.signalled = False
    w.wait_logs("worker_ready", n=2, timeout=15)
    c.send(frame(TEXT, "x"))
    assert c.message() == (TEXT, b"x")
    ends_at(c, exp)


def test_on_expiry_is_keep_or_close(tmp_path):
    file = tmp_path / "w.yaml"
    file.write_text(json.dumps({"routes": [{"path": "/", "websocket": {"handler": "echo"},
                                            "jwt": {"algorithm": "HS256", "key": "x" * 32, "on_expiry": "end"}}]}))
    r = run_cli("check", file)
    assert r.returncode == 1 and "on_expiry is keep or close" in r.stderr, r.stderr
