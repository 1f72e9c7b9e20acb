"""/debug/memory and `weir memory`: three counts of the same memory, and what none of them explains."""
import json

from weir import TEXT, WEIR_BIN, frame, guest, run_cli

CONFIG = {"modules": {"add": guest("add"), "echo": guest("echo")},
          "routes": [{"path": "/ws/echo", "websocket": {"module": "echo"}},
                     {"path": "/ws/topic/*", "websocket": {"handler": "pubsub"}}]}
OWNERS = {"start", "buffers", "queues", "topics", "kv", "deflate", "images", "pools", "tls", "code", "guests", "sum"}


def page(w):
    r = w.get("/debug/memory", admin=True)
    assert r.status == 200 and r.headers.get("content-type") == "application/json"
    return json.loads(r.body)


def test_the_page(weir):
    m = page(weir)
    accounted = m["accounted_bytes"]
    assert set(accounted) == OWNERS
    assert accounted["sum"] == sum(v for k, v in accounted.items() if k != "sum")
    assert m["pss_bytes"] == sum(v["pss_bytes"] for v in m["mappings"].values())
    assert m["rss_bytes"] >= m["pss_bytes"] > 1 << 18
    assert m["unexplained_bytes"] == sum(max(v, 0) for v in m["unexplained"].values())
    assert [x["name"] for x in m["modules"]] == ["add", "echo"]
    assert sum(x["code_bytes"] for x in m["modules"]) == weir.metric("code_bytes") or weir.metric("module_versions_replaced")
    assert 0 < m["read_seconds"] < 1


def test_owners_grow_with_what_they_own(weir):
    before = page(weir)["accounted_bytes"]
    conns = [weir.ws(f"/ws/topic/{i}") for i in range(300)]
    after = page(weir)["accounted_bytes"]
    assert after["topics"] > before["topics"]
    assert after["pools"] > before["pools"]
    for c in conns:
        c.close()
    weir.wait_metric("websockets_active", 0)
    assert page(weir)["accounted_bytes"]["topics"] < after["topics"]


def test_little_is_unexplained(weir):
    with weir.ws("/ws/echo") as c:
        for i in range(100):
            c.send(frame(TEXT, f"{i}"))
            c.frame()
        m = page(weir)
    if "/asan/" not in WEIR_BIN:  # whose allocator and shadow are its own
        assert m["flagged"] is None
        assert m["unexplained_bytes"] <= 1 << 20


def test_the_command(weir):
    address = f"127.0.0.1:{weir.admin}"
    r = run_cli("memory", "--json", "--admin", address)
    assert r.returncode == 0 and set(json.loads(r.stdout)["accounted_bytes"]) == OWNERS
    r = run_cli("memory", "--admin", address)
    assert r.returncode == 0
    for word in [*OWNERS, "heap", "program", "engine", "unexplained", "PSS"]:
        assert word in r.stdout
    r = run_cli("memory", "--yaml", "--admin", address)
    assert r.returncode == 2
