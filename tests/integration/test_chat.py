"""The chat room in each language that has a kit: one client, and all of them pass."""
import importlib.util
import json

import pytest

from weir import HOST, ROOT

CHAT = ROOT / "examples" / "chat"
# Go's runtime takes more memory, and begins in milliseconds where it is not snapshotted.
GO = {"snapshot": "yes", "limits": {"memory": "16MiB", "deadline": "500ms"}}


def client():
    spec = importlib.util.spec_from_file_location("chat_client", CHAT / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.guard(60)
@pytest.mark.parametrize("kit", ["c", "rust", "as", "go"])
def test_chat(start, run, kit):
    more = GO if kit == "go" else {"limits": {"deadline": "200ms"}}
    w = start({"modules": {kit: {"path": str(CHAT / kit / "chat.wasm"), **more}},
               "routes": [{"path": "/chat/*", "websocket": {"module": kit}}]})
    run(client().check(f"ws://{HOST}:{w.port}/chat/main"), timeout=45)
    assert not w.logs("guest_failed")


@pytest.mark.guard(60)
def test_a_function_in_go(start):
    w = start({"modules": {"add_go": {**GO, "path": str(ROOT / "examples/add_go/add.wasm")}}})
    for a, b in ((2.5, 3.7), (-1, 0.5)):
        assert json.loads(w.exec("add_go", f"[{a},{b}]")) == a + b
