"""The chat room in each language that has a kit: one client, and all of them pass."""
import importlib.util

import pytest

from weir import HOST, ROOT

CHAT = ROOT / "examples" / "chat"
# Go's runtime takes more memory, and time to begin, than the others.
LIMITS = {"go": {"memory": "16MiB", "deadline": "1s", "timeout": "10s"}}


def client():
    spec = importlib.util.spec_from_file_location("chat_client", CHAT / "client.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.guard(60)
@pytest.mark.parametrize("kit", ["c", "rust", "as", "go"])
def test_chat(start, run, kit):
    w = start({"modules": {kit: {"path": str(CHAT / kit / "chat.wasm"),
                                 "limits": LIMITS.get(kit, {"deadline": "200ms"})}},
               "routes": [{"path": "/chat/*", "websocket": {"module": kit}}]})
    run(client().check(f"ws://{HOST}:{w.port}/chat/main"), timeout=45)
    assert not w.logged("guest_failed")
