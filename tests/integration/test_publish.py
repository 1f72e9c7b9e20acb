"""/api/v1/topics and /api/v1/publish, the token of the admin listener, and `weir publish`."""
import base64
import contextlib
import json
import urllib.parse

import pytest

from weir import BINARY, TEXT, Frame, Raw, frame, problem, run_cli, wait_for

TOKEN = "s3cret-token-of-a-back-end"
MESSAGE = 4096
CONFIG = {
    "limits": {"message": MESSAGE, "topic_length": 32},
    "routes": [
        {"path": "/topic/*", "websocket": {"handler": "pubsub"}},
        {"path": "/rooms/*", "websocket": {"handler": "pubsub", "space": "rooms/of mine"}},
    ],
}


def api(w, path, method="GET", body=None, headers=""):
    return w.get(f"/api/v1/{path}", admin=True, method=method, body=body, headers=headers)


def post(w, doc, headers=""):
    return api(w, "publish", "POST", doc if isinstance(doc, (str, bytes)) else json.dumps(doc), headers)


def receivers(w, doc):
    r = post(w, doc)
    assert r.status == 200, r.body
    assert r.headers.get("content-type") == "application/json"
    return json.loads(r.body)


@contextlib.contextmanager
def members(w, path, n):
    before = w.metric("topic_members")
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(w.ws(path)) for _ in range(n)]
    w.wait_metric("topic_members", before)


def ids(w, path, query=""):
    return json.loads(api(w, f"topics/{path}{query}").body)


def test_all_members_get_it(weir):
    with members(weir, "/topic/t", 3) as ws, members(weir, "/topic/u", 1) as other:
        assert receivers(weir, {"topic": "t", "text": "gr\u00fc\u00df\u0000 dich"}) == {"receivers": 3}
        assert receivers(weir, {"space": "public", "topic": "t",
                                "binary": base64.b64encode(bytes(range(256))).decode()}) == {"receivers": 3}
        assert receivers(weir, {"topic": "t", "text": ""}) == {"receivers": 3}
        for c in ws:
            assert c.frame() == Frame(True, TEXT, "gr\u00fc\u00df\u0000 dich".encode())
            assert c.frame() == Frame(True, BINARY, bytes(range(256)))
            assert c.frame() == Frame(True, TEXT, b"")
        assert receivers(weir, {"topic": "nobody", "text": "x"}) == {"receivers": 0}
        assert receivers(weir, {"space": "rooms/of mine", "topic": "t", "text": "x"}) == {"receivers": 0}
        assert receivers(weir, {"topic": "u", "text": "y"}) == {"receivers": 1}
        assert other[0].frame() == Frame(True, TEXT, b"y")


def test_all_but_one(weir):
    with members(weir, "/topic/t", 3) as ws:
        listed = ids(weir, "public/t")["connections"]
        assert receivers(weir, {"topic": "t", "text": "x", "except": listed[1]}) == {"receivers": 2}
        assert receivers(weir, {"topic": "t", "text": "y", "except": "00000000deadbeef"}) == {"receivers": 3}
        assert [[c.frame().payload for _ in range(2 - (i == 1))] for i, c in enumerate(ws)] == [
            [b"x", b"y"], [b"y"], [b"x", b"y"]]


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", b"abcd", b"\xff" * 100, bytes(MESSAGE)])
def test_base64(weir, data):
    with members(weir, "/topic/t", 1) as ws:
        text = base64.b64encode(data).decode()
        assert receivers(weir, {"topic": "t", "binary": text}) == {"receivers": 1}
        assert ws[0].frame() == Frame(True, BINARY, data)


@pytest.mark.parametrize("text", ["a", "ab", "abc", "=", "====", "a===", "ab=c", "YQ=", "YQ==YQ==", "YR==", "YWJ=",
                                  "YQ= =", "Y-Q_", "YQ\n==", "YQ==\u0000", "\u00e4\u00e4"])
def test_what_is_no_base64_is_refused(weir, text):
    problem(post(weir, {"topic": "t", "binary": text}), 422, "PUBLISH")


BAD = [
    ("", 400, "EXEC_JSON"), ("{", 400, "EXEC_JSON"), (b"\xff\xfe", 400, "EXEC_JSON"), ("1", 400, None),
    ('{"topic": "t", "topic": "u", "text": "x"}', 400, "EXEC_JSON"), ("[" * 5000, 400, "EXEC_JSON"),
    ('{"topic": "t", "text": "\\ud800"}', 400, "EXEC_JSON"), ('{"topic":"t","text":"x"} x', 400, "EXEC_JSON"),
    ("[]", 422, "PUBLISH"), ("{}", 422, "PUBLISH"), ('{"topic": "t"}', 422, "PUBLISH"),
    ('{"text": "x"}', 422, "PUBLISH"), ('{"topic": "t", "text": 1}', 422, "PUBLISH"),
    ('{"topic": ["t"], "text": "x"}', 422, "PUBLISH"), ('{"topic": "t", "text": "x", "binary": "eA=="}', 422, "PUBLISH"),
    ('{"topic": "t", "text": "x", "exept": "1"}', 422, "PUBLISH"),
    ('{"topic": "t", "text": "x", "space": 7}', 422, "PUBLISH"),
    *((json.dumps({"topic": "t", "text": "x", "except": e}), 422, "PUBLISH")
      for e in ("", "1", "0x00000000000001", "000000000000000g", "0" * 17, "-000000000000001", 1, None)),
    ('{"topic": "", "text": "x"}', 422, "TOPIC_NAME"),
    (json.dumps({"topic": "t" * 33, "text": "x"}), 422, "TOPIC_NAME"),
    (json.dumps({"topic": "t", "text": "x" * (MESSAGE + 1)}), 413, "WS_MESSAGE_SIZE"),
    (json.dumps({"topic": "t", "binary": "A" * 4 * MESSAGE}), 413, "WS_MESSAGE_SIZE"),
    (json.dumps({"topic": "t", "text": "x" * 1000000}), 413, "WS_MESSAGE_SIZE"),
]


@pytest.mark.parametrize("body, status, code", BAD, ids=range(len(BAD)))
def test_what_is_no_message_is_refused(weir, body, status, code):
    problem(post(weir, body), status, code)


def test_methods_and_codings(weir):
    for method in ("GET", "PUT", "DELETE"):
        r = api(weir, "publish", method)
        problem(r, 405)
        assert r.headers.get("allow") == "POST"
    r = api(weir, "topics", "POST", "x")
    problem(r, 405)
    assert r.headers.get("allow") == "GET, HEAD"
    problem(post(weir, {"topic": "t", "text": "x"}, "Content-Encoding: gzip\r\n"), 415)


def test_the_members_of_a_topic(weir):
    with members(weir, "/topic/t", 7):
        whole = ids(weir, "public/t")
        assert (whole["space"], whole["topic"], whole["members"], whole["next"]) == ("public", "t", 7, None)
        assert len(set(whole["connections"])) == 7
        paged, cursor = [], ""
        while cursor is not None:
            page = ids(weir, "public/t", f"?limit=3{cursor and '&cursor=' + cursor}")
            assert len(page["connections"]) <= 3
            paged += page["connections"]
            cursor = page["next"]
        assert paged == whole["connections"]
        problem(api(weir, "topics/public/t?cursor=00000000deadbeef"), 410, "CURSOR")
    for path in ("public/t", "public/", "t", "public", "/", "public/%00", "%/t"):
        r = api(weir, f"topics/{path}")
        assert r.status in (400, 404), r


def test_names_are_decoded(weir):
    with weir.ws("/rooms/a%2Fb"):
        space = urllib.parse.quote("rooms/of mine", safe="")
        listed = json.loads(api(weir, "topics").body)["topics"]
        assert listed == [{"space": "rooms/of mine", "topic": "a%2Fb", "members": 1}]
        assert ids(weir, f"{space}/{urllib.parse.quote('a%2Fb', safe='')}")["members"] == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=", "cursor=", "cursor=g", "limit=1&&cursor=1",
                                   "x=1", "limit=-1", "limit=%31", "&", "limit=1" + "0" * 100, "cursor=-1"])
def test_queries_that_are_refused(weir, query):
    problem(api(weir, f"topics?{query}"), 400, "INVALID")


def test_the_list_of_topics(weir):
    """Each of them is found, in pages, though others come meanwhile."""
    with contextlib.ExitStack() as stack:
        names = {f"t{i}" for i in range(60)}
        for name in names:
            stack.enter_context(weir.ws(f"/topic/{name}"))
        found, cursor, pages = set(), "", 0
        while cursor is not None:
            page = json.loads(api(weir, f"topics?limit=7{cursor and '&cursor=' + cursor}").body)
            found |= {t["topic"] for t in page["topics"] if t["members"] == 1}
            cursor = page["next"]
            pages += 1
            stack.enter_context(weir.ws(f"/topic/more{pages}"))
        assert names <= found
        assert 7 <= pages <= 25
    weir.wait_metric("topics_active", 0)


def test_weir_publish(weir):
    cli = ("--admin", f"127.0.0.1:{weir.admin}")
    with members(weir, "/topic/t", 2) as ws:
        r = run_cli("publish", "public", "t", 'a "b"', *cli)
        assert (r.returncode, r.stdout, r.stderr) == (0, "2 receivers\n", "")
        assert [c.frame().payload for c in ws] == [b'a "b"'] * 2
    assert run_cli("publish", "public", "t", *cli).returncode == 2
    r = run_cli("publish", "public", "t", "x" * (MESSAGE + 1), *cli)
    assert r.returncode == 1 and "limits.message" in r.stderr


# ---------------------------------------------------------------------------- the token


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, cache, _running):
    from weir import Weir
    config = {**CONFIG, "admin": {"token": "${WEIR_TEST_TOKEN:-" + TOKEN + "}"}}
    w = Weir(tmp_path_factory.mktemp("guarded"), cache, config, start=False)
    _running.append(w)
    w.start()
    yield w
    w.stop()


WRONG = ["", "Authorization: Bearer\r\n", "Authorization: Bearer \r\n", f"Authorization: {TOKEN}\r\n",
         f"Authorization: Basic {TOKEN}\r\n", f"Authorization: Bearer {TOKEN}x\r\n",
         f"Authorization: Bearer {TOKEN[:-1]}\r\n", f"Authorization: Bearer {TOKEN * 2}\r\n",
         f"Authorization: Bearer  {TOKEN}\r\n", f"Authorization: Bearer {TOKEN.upper()}\r\n",
         f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n"]


@pytest.mark.parametrize("field", WRONG, ids=range(len(WRONG)))
def test_without_the_token_nothing_is_done(guarded, field):
    with guarded.ws("/topic/t") as c:
        for r in (post(guarded, {"topic": "t", "text": "x"}, field), api(guarded, "topics", headers=field),
                  api(guarded, "modules", headers=field), api(guarded, "reload", "POST", "", field)):
            problem(r, 401, "UNAUTHORIZED")
            assert r.headers.get("www-authenticate") == "Bearer"
        c.send(frame(TEXT, "own"))
        assert c.frame() == Frame(True, TEXT, b"own")
    assert guarded.get("/healthz", admin=True).status == 200
    assert guarded.get("/metrics", admin=True).status == 200


@pytest.mark.parametrize("field", [f"Authorization: Bearer {TOKEN}\r\n", f"authorization: bearer {TOKEN}\r\n"])
def test_with_the_token(guarded, field):
    with guarded.ws("/topic/t") as c:
        assert post(guarded, {"topic": "t", "text": "x"}, field).status == 200
        assert c.frame() == Frame(True, TEXT, b"x")
    assert api(guarded, "modules", headers=field).status == 200


def test_weir_publish_with_the_token(guarded):
    cli = ("publish", "public", "t", "x", "--admin", f"127.0.0.1:{guarded.admin}")
    r = run_cli(*cli, env={"WEIR_TOKEN": "wrong"})
    assert r.returncode == 1 and "admin.token" in r.stderr
    assert run_cli(*cli, env={"WEIR_TOKEN": TOKEN}).stdout == "0 receivers\n"


def test_a_page_of_another_site_is_refused(weir):
    for fields in ("Host: evil.test\r\n", "Host: localhost\r\nOrigin: http://evil.test\r\n"):
        with Raw(weir.admin) as c:
            body = '{"topic": "t", "text": "x"}'
            c.send(f"POST /api/v1/publish HTTP/1.1\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}")
            problem(c.response(), 403, "FORBIDDEN")


def test_an_address_that_others_reach_needs_a_token(tmp_path):
    def check(admin):
        file = tmp_path / "w.yaml"
        file.write_text(json.dumps({"admin": admin, "routes": CONFIG["routes"]}))
        return run_cli("check", file)
    r = check({"address": "0.0.0.0:6060"})
    assert r.returncode == 1 and "admin.token" in r.stderr
    for token in ("short", "x" * 15, "with a blank in it", "\u00fc" * 20):
        r = check({"token": token})
        assert r.returncode == 1 and "admin.token" in r.stderr, token
    assert check({"address": "0.0.0.0:6060", "token": TOKEN}).returncode == 0


def test_on_such_an_address_all_but_health_needs_it(start):
    w = start({**CONFIG, "admin": {"token": TOKEN}}, start=False)
    text = w.file.read_text().replace(f"127.0.0.1:{w.admin}", f"0.0.0.0:{w.admin}")
    w.file.write_text(text)
    w.start()
    field = f"Authorization: Bearer {TOKEN}\r\n"
    with Raw(w.admin) as c:
        def ask(path, fields=""):
            c.send(f"GET {path} HTTP/1.1\r\nHost: gateway.test\r\n{fields}\r\n")
            return c.response()
        assert ask("/healthz").status == ask("/readyz").status == 200
        problem(ask("/metrics"), 401, "UNAUTHORIZED")
        problem(ask("/api/v1/topics"), 401, "UNAUTHORIZED")
        assert ask("/metrics", field).status == ask("/api/v1/topics", field).status == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_of_more_than_is_on_its_way_at_once_goes_alone(start, workers):
    """limits.message may be more than the bounds of what is on its way, to members and to other loops."""
    size = 5 << 20
    w = start({"workers": workers, "routes": CONFIG["routes"],
               "limits": {"message": "6MiB", "send_queue": "12MiB", "queues": "48MiB", "memory": "256MiB", "guests": 24}})
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(w.ws("/topic/large")) for _ in range(4)]
        peers[0].send(frame(BINARY, b"x" * size))
        for p in peers:
            assert p.frame() == Frame(True, BINARY, b"x" * size)
        assert receivers(w, {"topic": "large", "text": "t" * size}) == {"receivers": 4}
        for p in peers:
            assert p.frame() == Frame(True, TEXT, b"t" * size)
