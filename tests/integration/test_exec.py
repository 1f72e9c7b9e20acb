"""POST /api/exec/{module}[/{function}]: numbers in and out, and each way to refuse."""
import json
import math
import re
import struct

import pytest

from weir import Raw, guest, problem, rounds, wait_for

EXAMPLE_ADD = guest("add")
CONFIG = {
    "limits": {"body": "8KiB"},
    "modules": {
        "add": EXAMPLE_ADD,
        "types": {"path": guest("types"), "limits": {"deadline": "200ms", "timeout": "30s"}},
        "portable": {"path": guest("types"), "engine": "pulley", "limits": {"deadline": "200ms", "timeout": "30s"}},
        "slow": {"path": guest("types"), "limits": {"deadline": "10s", "timeout": "150ms"}},
        "small": {"path": guest("types"), "limits": {"memory": "64KiB"}},
        "two": guest("two"),
        "single": guest("single"),
        "command": guest("command"),
        "command-yes": {"path": guest("command"), "exec": "yes"},
        "timer": guest("timer"),
        "roomy": {"path": guest("types"), "limits": {"memory": "8MiB"}},
        "both": guest("both"),
        "both-yes": {"path": guest("both"), "exec": "yes"},
        "single-no": {"path": guest("single"), "exec": "no"},
        "badstart": {"path": guest("badstart"), "snapshot": "no"},
    },
    "routes": [{"path": "/both", "http": {"module": "both"}}],
}


def refused(weir, target, body, status, code, headers=""):
    r = weir.post("/api/exec/" + target, body, headers)
    return problem(r, status, code), r


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize("target,body,text", [
    ("add", "[2.5,3.7]", "6.2"),
    ("add", " [ 2.5 ,\n\t3.7 ] ", "6.2"),
    ("types/id32", "[0]", "0"),
    ("types/id32", "[2147483647]", "2147483647"),
    ("types/id32", "[-2147483648]", "-2147483648"),
    ("types/id64", "[9223372036854775807]", "9223372036854775807"),
    ("types/id64", "[-9223372036854775808]", "-9223372036854775808"),
    ("types/id64", "[9007199254740993]", "9007199254740993"),
    ("types/idf64", "[0.1]", "0.1"),
    ("types/idf64", "[3]", "3"),
    ("types/idf64", "[1e2]", "100"),
    ("types/idf64", "[-0.0]", "-0"),
    ("types/idf32", "[-0.0]", "-0"),
    ("types/idf32", "[0.1]", "0.1"),
    ("types/idf32", "[16777216]", "16777216"),
    ("types/idf32", "[3.4028235e38]", "3.4028235e+38"),
    ("types/idf64", "[0.30000000000000004]", "0.30000000000000004"),
    ("types/idf64", "[123456789012345680]", "123456789012345680"),
    ("types/idf64", '["NaN"]', '"NaN"'),
    ("types/idf64", '["Infinity"]', '"Infinity"'),
    ("types/idf64", '["-Infinity"]', '"-Infinity"'),
    ("types/idf32", '["NaN"]', '"NaN"'),
    ("types/idf32", '["Infinity"]', '"Infinity"'),
    ("types/idf32", '["-Infinity"]', '"-Infinity"'),
    ("types/id32", "[4294967295]", "-1"),
    ("types/nothing", "[]", "null"),
    ("types/take", "[1]", "null"),
    ("types/div", "[-7,2]", "-3"),
    ("single/lonely", "[]", "11"),
    ("two", "[]", "2"),
    ("two/one", "[]", "1"),
    ("types/id32", "[1]   ", "1"),
])
def test_values(weir, target, body, text):
    got = weir.exec(target, body)
    if re.match(r"^-?\d", text) and text.strip("-0123456789"):
        assert json.loads(got) == json.loads(text)
        assert digits(got) == digits(text), got
    elif text.startswith("1234567890123"):
        assert float(got) == float(text) and digits(got) == digits(text)
    else:
        assert got == text


def digits(text):
    """The significant digits of a JSON number."""
    mantissa = re.split("[eE]", text)[0].replace(".", "").lstrip("-0")
    return mantissa.rstrip("0")


def test_several_results_of_all_types(weir):
    got = weir.exec("types/mixed", '[-5, 9007199254740993, 0.1, "NaN"]')
    assert re.sub(r"\s", "", got) == '["NaN",0.1,9007199254740993,-5]'


@pytest.mark.parametrize("value", [1e300, 1e-300, 1.7976931348623157e308, 2.2250738585072014e-308,
                                   5e-324, 0.1 + 0.2, 1 / 3, math.pi, 123456.789, 1e21, 1e22, 1e23,
                                   4.35, 2 ** 53 + 2.0, 9.5e-7, 1.5])
@pytest.mark.parametrize("sign", [1, -1])
def test_f64_prints_the_shortest_text(weir, value, sign):
    """As many digits as are needed to read back the same, and no more."""
    value *= sign
    bits = struct.unpack("<q", struct.pack("<d", value))[0]
    got = weir.exec("types/unbits64", f"[{bits}]")
    assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", got), "no JSON number"
    assert float(got) == value
    assert digits(got) == digits(repr(value)), got
    assert weir.exec("types/bits64", f"[{got}]") == str(bits), "what it prints, it reads the same"


@pytest.mark.parametrize("bits,text", [
    (0x3dcccccd, "0.1"), (0x3eaaaaab, "0.33333334"), (0x40490fdb, "3.1415927"),
    (0x7f7fffff, "3.4028235e38"), (0x00800000, "1.1754944e-38"), (0x00000001, "1e-45"),
    (0x4b800001, "16777218"), (0x3f800001, "1.0000001"), (0x7149f2ca, "1e30"), (0x3a83126f, "0.001")])
def test_f32_prints_the_shortest_text(weir, bits, text):
    got = weir.exec("types/unbits32", f"[{bits}]")
    assert float(got) == float(text) or struct.pack("<f", float(got)) == struct.pack("<I", bits)
    assert digits(got) == digits(text), got
    assert weir.exec("types/bits32", f"[{got}]") == str(bits)


def test_minus_zero_reads_back(weir):
    """What it prints for -0.0, it takes for -0.0."""
    printed = weir.exec("types/idf64", "[-0.0]")
    assert printed in ("-0", "-0.0")
    assert weir.exec("types/bits64", f"[{printed}]") == "-9223372036854775808"
    assert weir.exec("types/bits32", f"[{printed}]") == "-2147483648"


def test_f32_arguments_are_rounded_once(weir):
    """0.1 is the nearest f32; more than its range is infinite or refused, never another number."""
    assert weir.exec("types/bits32", "[0.1]") == str(0x3dcccccd)
    assert weir.exec("types/bits32", "[16777217]") == str(struct.unpack("<i", struct.pack("<f", 16777217.0))[0])


def test_integers_for_floats(weir):
    assert weir.exec("types/idf64", "[9223372036854775807]") in ("9223372036854775807", "9223372036854776000",
                                                                 "9.223372036854776e+18", "9.223372036854776e18")
    assert weir.exec("types/bits32", "[1]") == str(0x3f800000)


def test_an_integer_beyond_64_bits_is_a_number_for_a_float(weir):
    got = weir.exec("types/idf64", "[100000000000000000000]")
    assert float(got) == 1e20


def test_nan_strings_of_the_f64_bits(weir):
    assert weir.exec("types/bits64", '["Infinity"]') == str(0x7ff << 52)
    assert weir.exec("types/bits64", '["-Infinity"]') == str(-(1 << 52))
    assert weir.exec("types/unbits64", "[-1]") == '"NaN"'


@pytest.mark.parametrize("target,body", [
    ("types/id32", "[4294967296]"), ("types/id32", "[-2147483649]"), ("types/id32", "[1.0]"),
    ("types/id32", "[1.5]"), ("types/id32", "[1e0]"), ("types/id64", "[1.0]"),
    ("types/id64", "[9223372036854775808]"), ("types/id64", "[-9223372036854775809]"),
    ("types/id32", '["1"]'), ("types/id32", '["NaN"]'), ("types/id64", '["Infinity"]'),
    ("types/id32", "[true]"), ("types/id32", "[null]"), ("types/id32", "[[1]]"), ("types/id32", "[{}]"),
    ("types/idf64", '["nan"]'), ("types/idf64", '["inf"]'), ("types/idf64", '["+Infinity"]'),
    ("types/idf64", '["1"]'), ("types/idf64", "[true]"), ("types/idf64", "[null]"),
    ("types/idf64", "[1e400]"),
    ("types/idf64", "[]"), ("types/idf64", "[1,2]"), ("types/nothing", "[1]"),
    ("types/idf64", "1"), ("types/idf64", "{}"), ("types/idf64", '"NaN"'), ("types/idf64", "null"),
    ("types/mixed", "[1,2,3]"), ("add", "[2.5]"), ("add", "[1,2,3]"),
])
def test_422_shows_the_signature(weir, target, body):
    doc, _ = refused(weir, target, body, 422, "EXEC_ARGUMENTS")
    name = target.split("/")[-1]
    signatures = {"id32": "id32(i32) -> (i32)", "id64": "id64(i64) -> (i64)",
                  "idf64": "idf64(f64) -> (f64)", "nothing": "nothing() -> ()",
                  "mixed": "mixed(i32, i64, f32, f64) -> (f64, f32, i64, i32)",
                  "add": "add(f64, f64) -> (f64)"}
    assert signatures[name] in doc["detail"], doc


@pytest.mark.parametrize("body", [
    "", " ", "[", "[1,", "[1,2", "1,2", "[1,2]x", "[1 2]", "[01,2]", "[1,2,]", "[,1]", "[.5,1]", "[1.,2]",
    "[+1,2]", "[NaN,1]", "[Infinity,1]", "[-Infinity,1]", "[0x1,2]", "['1',2]", "[1,2]\0", "\xef\xbb\xbf[1,2]",
    '["\xff",1]', '["unterminated', "a=1&b=2", "[" * 3000])
def test_400_not_json(weir, body):
    """With and without a Content-Type; the message says where."""
    for headers in ("", "Content-Type: application/json\r\n"):
        doc, _ = refused(weir, "add", body.encode("latin-1"), 400, "EXEC_JSON", headers)
        assert len(doc["detail"]) > 5


@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", "text/plain",
                                  "image/png", "application/json; charset=utf-16"])
def test_content_type_does_not_matter(weir, kind):
    r = weir.post("/api/exec/add", "[1,2]", f"Content-Type: {kind}\r\n")
    assert (r.status, r.body) == (200, b"3\n")


# ---------------------------------------------------------------------------- which function


@pytest.mark.parametrize("target,code", [
    ("nothing", "NOT_FOUND"), ("nothing/f", "NOT_FOUND"), ("add/nothing", "NO_FUNCTION"),
    ("types", "NO_FUNCTION"), ("add/", None), ("", None), ("add/add/add", "NO_FUNCTION"), ("ADD", "NOT_FOUND"),
    ("single/_initialize", "NO_FUNCTION"), ("types/_initialize", "NO_FUNCTION"), ("single/g", "NO_FUNCTION"),
    ("single/memory", "NO_FUNCTION"), ("types/innermost", "NO_FUNCTION"), ("add/ad", "NO_FUNCTION"),
    ("add/addd", "NO_FUNCTION"), ("ad", "NOT_FOUND"), ("addd", "NOT_FOUND"),
    ("command/f", "NOT_FOUND"), ("command/_start", "NOT_FOUND"),
    ("timer/f", "NOT_FOUND"), ("both/f", "NOT_FOUND"), ("both/on_http", "NOT_FOUND"), ("both", "NOT_FOUND"),
    ("single-no", "NOT_FOUND"), ("single-no/lonely", "NOT_FOUND"),
    ("both-yes/_initialize", "NO_FUNCTION"), ("add/..", None), ("../exec/add", None), ("add%2fadd", None)])
def test_404(weir, target, code):
    refused(weir, target, "[]", 404, code)


def test_default_function(weir):
    assert weir.exec("add", "[1,2]") == "3", "named like the module"
    assert weir.exec("two", "[]") == "2", "named like the module, among others"
    assert weir.exec("single", "[]") == "11", "the only one; _initialize does not count"


def test_exec_yes(weir):
    assert weir.exec("both-yes/f", "[]") == "5"
    assert weir.exec("both-yes", "[]") == "5", "on_http is no function of exec: f is the only one"
    assert weir.exec("command-yes/f", "[]") == "5"
    r = weir.post("/api/exec/command", "[]")
    assert (r.status, r.body) == (200, b""), "the command, which prints nothing; not its function f"
    assert weir.get("/both").status == 204, "a module that exec does not reach still answers HTTP"


def test_initialize_runs_in_each_instance(weir):
    assert weir.exec("types/inited", "[]") == "7"


def test_fresh_instance_each_call(weir):
    for _ in range(50):
        assert json.loads(weir.exec("types/count", "[]")) == [1, 1]


def test_concurrent_calls_do_not_share_an_instance(weir):
    conns = [weir.raw() for _ in range(30)]
    request = "POST /api/exec/types/spin HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{}"
    for i, c in enumerate(conns):
        body = f"[{rounds(3000000) + i}]"
        c.send(request.format(len(body), body))
    for i, c in enumerate(conns):
        assert c.response().body == f"{rounds(3000000) + i}\n".encode()
        c.close()


def test_memory_limit(weir):
    """4 MiB by default, 64 pages: one is there at the start."""
    assert weir.exec("types/grow", "[63]") == "1"
    assert weir.exec("types/grow", "[64]") == "-1"
    assert weir.exec("types/grow", "[100000]") == "-1"
    assert weir.exec("small/grow", "[0]") == "1"
    assert weir.exec("small/grow", "[1]") == "-1"


def test_memory_limit_of_a_module_of_its_own(weir):
    assert weir.exec("roomy/grow", "[127]") == "1"
    assert weir.exec("roomy/grow", "[128]") == "-1"
    assert weir.exec("add", "[1,2]") == "3"


def test_both_engines_agree(weir):
    for f, body in (("mixed", "[1,2,0.5,-0.25]"), ("div", "[7,-2]"), ("inited", "[]"), ("grow", "[64]")):
        assert weir.exec("portable/" + f, body) == weir.exec("types/" + f, body)


# ---------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_405(weir, method):
    r = weir.get("/api/exec/add", method=method)
    problem(r, 405, "METHOD")
    assert {x.strip() for x in r.headers.get("allow").split(",")} == {"POST", "OPTIONS"}


def test_413(weir):
    r = weir.post("/api/exec/add", "[1," + " " * 9000 + "2]")
    problem(r, 413, "HTTP_BODY_SIZE")


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity", "x"])
def test_415(weir, coding):
    _, r = refused(weir, "add", "[1,2]", 415, "CONTENT_CODING", f"Content-Encoding: {coding}\r\n")
    assert r.headers.get("accept-encoding") == "identity"


def test_no_content_encoding_is_fine(weir):
    r = weir.post("/api/exec/add", "[1,2]", "Content-Encoding: identity\r\n")
    assert (r.status, r.body) == (200, b"3\n")


@pytest.mark.parametrize("module", ["types", "portable"])
@pytest.mark.parametrize("function,body,trap,names", [
    ("outer", "[]", "unreachable", ["innermost", "middle", "outer"]),
    ("div", "[1,0]", "by zero", ["div"]),
    ("div", "[-2147483648,-1]", "overflow", ["div"]),
    ("outside", "[]", "out of bounds", ["outside"]),
    ("recurse", "[]", "stack", ["recurse", "recurse"]),
])
def test_500_trap(weir, module, function, body, trap, names):
    """Which trap, and the functions' names by the name section, the innermost first."""
    before = weir.metric("guest_traps_total")
    doc, r = refused(weir, f"{module}/{function}", body, 500, "GUEST_TRAP")
    assert trap in plain(doc), "the trap's code"
    at = 0
    if function == "div":
        names = []  # an unnamed function: what stands there is not pinned
    for name in names:
        found = doc["detail"].find(name, at)
        assert found >= 0, (name, doc)
        at = found + len(name)
    assert weir.metric("guest_traps_total") == before + 1
    log = weir.wait_log("guest_failed", module=module, code="GUEST_TRAP",
                        where=lambda x: trap in plain(x))
    assert log["level"] == "warn"
    assert weir.exec("add", "[1,2]") == "3"


def plain(doc):
    return json.dumps(doc).lower().replace("_", " ")


@pytest.mark.parametrize("module", ["types", "portable"])
def test_504_deadline(weir, module):
    before = weir.metric("guest_deadlines_total")
    doc, r = refused(weir, module + "/endless", "[]", 504, "GUEST_DEADLINE")
    assert weir.metric("guest_deadlines_total") == before + 1
    log = weir.wait_log("guest_failed", module=module, code="GUEST_DEADLINE")
    assert "endless" in log["detail"], "a backtrace of the looping function"
    assert weir.metric("guests_running") == 0


def test_504_timeout(weir):
    """Wall time, whatever the deadline."""
    refused(weir, "slow/endless", "[]", 504, "GUEST_TIMEOUT")


def test_a_start_that_traps(weir):
    doc, _ = refused(weir, "badstart/f", "[]", 500, "GUEST_TRAP")
    assert "unreachable" in plain(doc)


def test_keep_alive_after_each_refusal(weir):
    with weir.raw() as c:
        for body, status in (("[", 400), ("[1]", 422), ("[1,2]", 200), ("{}", 422)):
            c.send(f"POST /api/exec/add HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            assert c.response().status == status
        for f, status in (("outer", 500), ("endless", 504), ("inited", 200)):
            c.send(f"POST /api/exec/types/{f} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
            assert c.response().status == status


def test_503_when_too_many_guests_run(start):
    """2 run, 2 wait, the fifth is refused with Retry-After; the four end as they would have."""
    module = {"path": guest("types"), "limits": {"deadline": "700ms", "timeout": "60s"}}
    w = start({"limits": {"guests": 2, "guest_queue": 2},
               "modules": {"a": module, "b": module, "add": EXAMPLE_ADD}})
    request = "POST /api/exec/{}/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]"
    four = [w.raw(timeout=60) for _ in range(4)]
    for c, module, state in zip(four, "abab", [(1, 0), (2, 0), (2, 1), (2, 2)]):
        c.send(request.format(module))
        wait_for(f"guests running and waiting: {state}",
                 lambda: (w.metric("guests_running"), w.metric("guests_waiting")) == state)
    busy = w.metric("guest_busy_total")
    with w.raw() as c:
        r = c.send(request.format("a")).response()
        doc = problem(r, 503, "GUEST_BUSY")
        assert re.fullmatch(r"\d+", r.headers.get("retry-after")), doc
    assert w.metric("guest_busy_total") == busy + 1
    for c in four:
        problem(c.response(), 504, "GUEST_DEADLINE")
        c.close()
    assert w.exec("add", "[1,2]") == "3"
    assert (w.metric("guests_running"), w.metric("guests_waiting")) == (0, 0)


def test_504_for_one_that_waited_too_long(start):
    w = start({"limits": {"guests": 1, "guest_queue": 4},
               "modules": {"long": {"path": guest("types"), "limits": {"deadline": "600ms", "timeout": "60s"}},
                           "hasty": {"path": guest("types"), "limits": {"timeout": "100ms"}}}})
    with w.raw(timeout=60) as a, w.raw(timeout=60) as b:
        a.send("POST /api/exec/long/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        w.wait_metric("guests_running", 1)
        b.send("POST /api/exec/hasty/inited HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        problem(b.response(), 504, "GUEST_TIMEOUT")
        problem(a.response(), 504, "GUEST_DEADLINE")


def test_a_client_that_leaves_does_not_disturb_its_guest(weir):
    for _ in range(5):
        c = Raw(weir.port)
        c.send("POST /api/exec/types/endless HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n[]")
        c.reset()
    weir.wait_metric("guests_running", 0, timeout=10)
    assert weir.exec("add", "[1,2]") == "3"
