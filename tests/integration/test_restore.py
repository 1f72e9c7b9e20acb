"""An instance that is kept and put back to its beginning shows nothing of the event before; one of
`instance: module` shows all of it."""
import json
import random
import subprocess

import pytest

from weir import WEIRC_BIN, guest

CONFIG = {
    "limits": {"guests": 4},
    "modules": {
        "native": {"path": guest("canary"), "limits": {"memory": "1MiB", "deadline": "50ms"}},
        "pulley": {"path": guest("canary"), "engine": "pulley",
                   "limits": {"memory": "1MiB", "deadline": "200ms"}},
        "inits": {"path": guest("types"), "snapshot": "no"},
        "actor": {"path": guest("actor"), "instance": "module", "limits": {"deadline": "20ms"}},
        "other": {"path": guest("actor"), "instance": "module", "engine": "pulley"},
        "single": guest("single"),
    },
}
ENGINES = pytest.mark.parametrize("module", ["native", "pulley"])


def call(weir, target, body):
    r = weir.post(f"/api/exec/{target}", body)
    return r._replace(body=r.body.strip())


def restored(weir):
    return weir.metric("guest_instances_restored_total")


def made(weir):
    return weir.metric("guest_instances_made_total")


def clean(weir, module, function):
    r = call(weir, f"{module}/{function}", "[]")
    assert (r.status, r.body) == (200, b"0"), function


@ENGINES
def test_nothing_is_left_after_few_writes(weir, module):
    for _ in range(2):
        clean(weir, module, "few")  # the second is the first to be kept
    before = restored(weir), made(weir)
    for _ in range(50):
        clean(weir, module, "few")
    assert restored(weir) == before[0] + 50
    assert made(weir) == before[1]


@ENGINES
def test_nothing_is_left_whatever_came_before(weir, module):
    """Few writes, too many, a grown memory, traps and endless loops, in any order."""
    choose = random.Random(48)
    for _ in range(120):
        kind = choose.choice(["few"] * 4 + ["many", "grown"] + ["trapped", "endless"])
        if kind == "trapped":
            assert call(weir, f"{module}/{kind}", "[]").status == 500
        elif kind == "endless" and choose.random() < 0.2:
            assert call(weir, f"{module}/{kind}", "[]").status == 504
        elif kind != "endless":
            clean(weir, module, kind)
    clean(weir, module, "few")


@ENGINES
@pytest.mark.parametrize("kind,status", [("many", 200), ("grown", 200), ("trapped", 500), ("endless", 504)])
def test_what_is_not_restored(weir, module, kind, status):
    clean(weir, module, "few")
    call(weir, f"{module}/{kind}", "[]")
    before = made(weir)
    clean(weir, module, "few")
    assert made(weir) == before + 1
    assert call(weir, f"{module}/{kind}", "[]").status == status


def test_a_module_that_initialises_itself_is_made_anew(weir):
    before = made(weir), restored(weir)
    for _ in range(5):
        assert call(weir, "inits/inited", "[]").body == b"7"
        assert call(weir, "inits/count", "[]").body == b"[1,1]"
    assert (made(weir), restored(weir)) == (before[0] + 10, before[1])


def test_the_log_says_which_way(weir):
    ways = {line["module"]: line["instance"] for line in weir.logs("module_loaded")}
    assert ways == {"native": "restored", "pulley": "restored", "inits": "made anew",
                    "actor": "kept", "other": "kept", "single": ways["single"]}


@pytest.mark.parametrize("at,way", [(0, "restored"), (1_200_000, "made anew")])
def test_a_large_image_is_made_anew(weir, at, way):
    """Whose size the first call tells; until then neither is claimed. Here that is the trial's."""
    body = f"""(module (memory (export "memory") 20) (data (i32.const {at}) "x")
      (func (export "f") (result i32) (i32.store8 (i32.const 99) (i32.const 1)) (i32.load8_u (i32.const {at}))))"""
    r = weir.get("/api/v1/modules/sized", admin=True, method="PUT", body=body)
    assert r.status == 200, r.body
    way = way if weir.logs("module_loaded", module="native")[0]["instance"] == "restored" else "made anew"
    for _ in range(6):
        assert call(weir, "sized/f", "[]").body == b"120"
    listed = json.loads(weir.get("/api/v1/modules", admin=True).body)["modules"]
    made = next(m for m in listed if m["name"] == "sized")["versions"][0]["instances"]
    # the trial's, then one whose image is taken, or one for each
    made_anew = way == "made anew"
    assert made == {"are": way, "made": 7 if made_anew else 2, "restored": 0 if made_anew else 5}
    assert weir.wait_logs("module_loaded", module="sized")[-1]["instance"] == way
    assert weir.get("/api/v1/modules/sized", admin=True, method="DELETE").status == 200


def test_before_its_first_call_neither_is_claimed(start, tmp_path):
    (tmp_path / "m.wat").write_text('(module (memory (export "memory") 20) (func (export "m") (result i32) (i32.const 1)))')
    w = start({"modules": {"m": str(tmp_path / "m.wat"), "canary": guest("canary")}})
    scans = w.wait_log("module_loaded", module="canary")["instance"] == "restored"
    assert w.wait_log("module_loaded", module="m")["instance"] == ("restored if its data is small" if scans else "made anew")


def test_idle_instances_give_way(weir):
    """limits.guests is 4, and more modules than that have had their turn."""
    for _ in range(20):
        for module in ("native", "pulley"):
            clean(weir, module, "few")
        assert call(weir, "inits/inited", "[]").body == b"7"
        assert call(weir, "actor/count", "[]").status == 200


@pytest.mark.parametrize("module", ["actor", "other"])
@pytest.mark.parametrize("end,status", [("trap", 500), ("endless", 504)])
def test_an_actor_keeps_its_state_until_it_fails(weir, module, end, status):
    first = int(call(weir, f"{module}/count", "[]").body)
    for i in range(1, 20):
        assert int(call(weir, f"{module}/count", "[]").body) == first + i
    assert call(weir, f"{module}/{end}", "[]").status == status
    assert call(weir, f"{module}/count", "[]").body == b"1"
    assert call(weir, f"{module}/count", "[]").body == b"2"


def test_names_of_the_compiler_are_refused(tmp_path):
    wat = tmp_path / "own.wat"
    wat.write_text('(module (func (export "f")) (global (export "weir:restore") i32 (i32.const 1)))')
    r = subprocess.run([WEIRC_BIN, wat, "-o", tmp_path / "own.cwasm"],
                       capture_output=True, text=True, timeout=30)
    assert r.returncode == 1
    assert '"weir:restore"' in r.stderr
    assert not (tmp_path / "own.cwasm").exists()
