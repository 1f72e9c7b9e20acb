"""The chat room in each language that has a kit: one client, and all of them pass."""
import importlib.util

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
