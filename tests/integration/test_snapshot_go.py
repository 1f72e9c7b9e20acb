"""Instances of a stored Go module draw other numbers: needs WASI and the re-seeding of instances."""
import pathlib

import pytest

pytestmark = pytest.mark.guard(120)  # a Go module is compiled, and its initialisation run twice
DRAW = pathlib.Path(__file__).resolve().parents[2] / "examples" / "go" / "draw.wasm"
CONFIG = {"modules": {"draw": {"path": str(DRAW), "snapshot": "yes", "limits": {"memory": "16MiB"}}}}


def test_init_ran_once(weir):
    assert weir.exec("draw/started", "[]") == "1"


@pytest.mark.parametrize("function", ["mathrand", "cryptorand", "hash", "order"])
def test_each_instance_draws_its_own(weir, function):
    drawn = {weir.exec(f"draw/{function}", "[]") for _ in range(8)}
    assert len(drawn) == 8, drawn
