"""/metrics: both formats, by what is asked for; promtool finds nothing to mend; histograms; each module's."""
import re
import subprocess

import pytest

from weir import TEXT, WORKERS, Frame, frame, guest

MODULES = {"add": guest("add"), "echo": guest("echo"), "hostile": {"path": guest("hostile/handlers"), "limits": {"calls": 1000}}}
CONFIG = {"modules": MODULES, "routes": [
    {"path": "/ws/echo", "websocket": {"module": "echo"}}, {"path": "/ws/raw", "websocket": {"handler": "echo"}},
    {"path": '/quo"te\\d', "websocket": {"handler": "echo"}}, {"path": "/ws/topic/*", "websocket": {"handler": "pubsub"}},
    {"path": "/hostile", "http": {"module": "hostile"}}]}
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPEN_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\n"])*",?)+)\})? ([0-9.e+-]+)')
PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


def scrape(w, accept=None):
    r = w.get("/metrics", admin=True, headers=f"Accept: {accept}\r\n" if accept else "")
    assert r.status == 200
    return r.headers.get("content-type"), r.body.decode()


def parse(text):
    """{family: (type, {sample with its labels: value})}, and nothing that the formats do not have."""
    families, name, seen = {}, None, set()
    for line in text.splitlines():
        if m := re.fullmatch(r"# HELP (\S+) (.+)", line):
            name = m[1]
            assert name not in families
            families[name] = [None, {}]
        elif m := re.fullmatch(r"# TYPE (\S+) (counter|gauge|histogram)", line):
            assert m[1] == name and families[name][0] is None
            families[name][0] = m[2]
        else:
            m = SAMPLE.fullmatch(line)
            assert m, line
            assert m[1].removesuffix("_total") == name.removesuffix("_total") or (
                families[name][0] == "histogram" and m[1] in (name + "_bucket", name + "_sum", name + "_count")), line
            key = line.rsplit(" ", 1)[0]
            assert key not in seen, f"{key} is there twice"
            seen.add(key)
            families[name][1][key] = float(m[3])
    return families


@pytest.mark.parametrize("accept, kind", [
    (None, TEXT_TYPE), ("*/*", TEXT_TYPE), ("text/plain", TEXT_TYPE), (PROMETHEUS, OPEN_TYPE),
    ("application/openmetrics-text", OPEN_TYPE), ("Application/OpenMetrics-Text ; version=1.0.0", OPEN_TYPE),
    ("application/openmetrics-text;q=0", TEXT_TYPE), ("application/openmetrics-textual", TEXT_TYPE),
    ("application/openmetrics-text;q=0.2, text/plain;q=0.3", TEXT_TYPE), (",,;q=,q=0.", TEXT_TYPE)])
def test_the_format_is_what_is_asked_for(weir, accept, kind):
    got, text = scrape(weir, accept)
    assert got == kind
    assert text.endswith("# EOF\n") == (kind == OPEN_TYPE)


def test_promtool_finds_nothing(weir):
    _, text = scrape(weir)
    r = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=15)
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")


def test_both_formats_say_the_same(weir):
    plain, other = parse(scrape(weir)[1]), parse(scrape(weir, PROMETHEUS)[1].removesuffix("# EOF\n"))
    assert [n.removesuffix("_total") for n in plain] == list(other)
    for name, (kind, samples) in plain.items():
        assert (kind == "counter") == name.endswith("_total")
        assert list(samples) == list(other[name.removesuffix("_total")][1])


def test_a_histogram_adds_up(weir):
    with weir.ws("/ws/raw") as c:
        c.send(frame(TEXT, "x"))
        c.frame()
    for name, (kind, samples) in parse(scrape(weir)[1]).items():
        if kind != "histogram":
            continue
        series = {}
        for key, value in samples.items():
            if "_bucket{" in key:
                series.setdefault(re.sub(r',le=.*', "", key), []).append(value)
        assert series
        for key, values in series.items():
            assert values == sorted(values)
            assert samples[key.replace("_bucket", "_count") + "}"] == values[-1]


def messages(weir, topic):
    return weir.metrics()[f'weir_message_latency_seconds_count{{topic="{topic}"}}']


@pytest.mark.parametrize("path, label", [("/ws/echo", "/ws/echo"), ("/ws/raw", "/ws/raw"),
                                         ('/quo"te\\d', '/quo\\"te\\\\d'), ("/ws/topic/a%22b", "/ws/topic/*")])
def test_messages_are_counted_by_route(weir, path, label):
    before = messages(weir, label)
    with weir.ws(path) as c:
        for i in range(3):
            c.send(frame(TEXT, f"{i}"))
            assert c.frame() == Frame(True, TEXT, f"{i}".encode())
    weir.wait_metric("message_latency_seconds_count", before + 3, topic=label)


def test_no_series_is_made_of_input(weir):
    before = {k for k in weir.metrics()}
    for i in range(20):
        with weir.ws(f"/ws/topic/raw{i}") as c:
            c.send(frame(TEXT, "x"))
            c.frame()
        weir.get(f"/api/exec/none{i}", method="POST", body="[]")
    assert {k for k in weir.metrics()} == before


def test_each_iteration_has_one_cause(weir):
    causes = ("http", "ws", "tls", "admin", "guest", "timer", "other")
    name = 'weir_pause_seconds_count{{cause="{}"}}'
    before = weir.metrics()
    with weir.ws("/ws/raw") as c:
        for _ in range(20):
            c.send(frame(TEXT, "x"))
            c.frame()
    after = weir.metrics()
    assert all(name.format(c) in after for c in causes)
    assert after[name.format("ws")] > before[name.format("ws")]
    assert after[name.format("admin")] > before[name.format("admin")]
    assert after[name.format("tls")] == 0


def of_module(weir, name, module, **labels):
    return weir.metric("module_" + name, module=module, **labels)


def test_modules_have_their_own(weir):
    before = of_module(weir, "events_total", "add"), of_module(weir, "cpu_seconds_total", "add")
    other = of_module(weir, "events_total", "hostile")
    for _ in range(3):
        assert weir.post("/api/exec/add", "[1,2]").status == 200
    assert of_module(weir, "events_total", "add") == before[0] + 3
    assert of_module(weir, "cpu_seconds_total", "add") > before[1]
    assert of_module(weir, "instances_made_total", "add") + of_module(weir, "instances_restored_total", "add") >= before[0] + 3
    assert of_module(weir, "events_total", "hostile") == other


@pytest.mark.parametrize("how, status, code", [
    ("t", 500, "unreachable"), ("r", 500, "stack_overflow"), ("s", 504, "deadline"), ("h", 500, "calls")])
def test_failures_by_code(weir, how, status, code):
    name = f'weir_module_failed_total{{module="hostile",code="{code}"}}'
    before = weir.metrics()
    assert weir.get(f"/hostile?H{how}").status == status
    after = weir.metrics()
    assert after[name] == before.get(name, 0) + 1
    assert after['weir_module_memory_peak_bytes{module="hostile"}'] >= 64 * 65536
    if how == "s":  # its time is in slices, each an iteration of which it was the cause
        for counted in ("weir_module_slices_total{module=\"hostile\"}", 'weir_pause_seconds_count{cause="guest"}'):
            assert after[counted] > before[counted]


def test_build_and_process(weir):
    m = weir.metrics()
    assert [v for k, v in m.items() if k.startswith("weir_build_info{version=")] == [1]
    assert m["process_cpu_seconds_total"] > 0
    assert m["process_resident_memory_bytes"] > 1 << 20
    assert m["process_virtual_memory_bytes"] > m["process_resident_memory_bytes"]
    assert m["process_max_fds"] >= 256
    assert m.get("process_open_fds", 5) >= 5
    assert m["process_start_time_seconds"] > 1.7e9
    assert WORKERS == 1 or m["weir_pause_seconds_count{cause=\"admin\"}"] > 0
