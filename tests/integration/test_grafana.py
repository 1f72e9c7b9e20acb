"""deploy/grafana.json, alerts.yaml and prometheus.yaml: promtool finds nothing to mend, each rule fires and does not; and a
real Prometheus that scrapes a real run has an answer for each query of each panel."""
import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pytest
import yaml

from weir import HOST, ROOT, TEXT, frame, free_port, guest, run_cli, wait_for

DEPLOY = ROOT / "deploy"
RULE_TESTS = ROOT / "tests" / "deploy" / "alerts_test.yaml"
DASHBOARD = json.loads((DEPLOY / "grafana.json").read_text())
RULES = [r for g in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for r in g["rules"]]
PANELS = [p for p in DASHBOARD["panels"] if p["type"] != "row"]
MODULES = {"add": guest("add"), "echo": guest("echo"), "hostile": {"path": guest("hostile/handlers")}}
CONFIG = {"modules": MODULES, "routes": [
    {"path": "/ws/echo", "websocket": {"module": "echo"}}, {"path": "/ws/raw", "websocket": {"handler": "echo"}},
    {"path": "/hostile", "http": {"module": "hostile"}}]}
SELF = re.compile(r"\b(?:weir|process)_[a-z_]+\b")
# Grafana's own: at least four scrapes.
RATE_INTERVAL, SCRAPE = "4s", "500ms"
UNITS = {"short", "mps", "cps", "s", "bytes", "percentunit"}


def promtool(*args, cwd=None):
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True, timeout=15, cwd=cwd)


def queries():
    """(panel or alert, its query as Grafana sends it)"""
    for p in PANELS:
        for t in p["targets"]:
            yield p["title"], t["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*")
    for a in DASHBOARD["annotations"]["list"]:
        yield a["name"], a["expr"].replace("$instance", ".*")
    for r in RULES:
        yield r["alert"], r["expr"]


@pytest.mark.parametrize("args", [("check", "rules", DEPLOY / "alerts.yaml"), ("check", "config", DEPLOY / "prometheus.yaml"),
                                  ("test", "rules", RULE_TESTS)], ids=lambda a: " ".join(a[:2]))
def test_promtool_finds_nothing(args):
    r = promtool(*args)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "SUCCESS" in r.stdout and not r.stderr.strip(), r.stderr


def test_each_rule_is_seen_firing_and_not():
    tests = [t for one in yaml.safe_load(RULE_TESTS.read_text())["tests"] for t in one["alert_rule_test"]]
    fires = {t["alertname"] for t in tests if t.get("exp_alerts")}
    quiet = {t["alertname"] for t in tests if not t.get("exp_alerts")}
    assert fires == quiet == {r["alert"] for r in RULES}


def test_each_rule_says_what_to_do():
    page = (ROOT / "docs" / "ALERTS.md").read_text()
    sections = set(re.findall(r"^## (\w+)$", page, re.M))
    assert sections == {r["alert"] for r in RULES}
    for r in RULES:
        assert set(r["annotations"]) == {"summary", "description", "runbook"} and r["labels"]["severity"] in ("warning", "critical")
        assert r["annotations"]["runbook"] == "docs/ALERTS.md#" + r["alert"].lower()


def test_each_metric_is_one_of_weirs():
    known = set()
    for name, kind in re.findall(r"^\| `(weir_\w+)` \| (\w+) \|", run_cli("docs", "metrics").stdout, re.M):
        known |= {f"{name}_{x}" for x in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    known |= {"weir_build_info"} | set(re.findall(r"`(process_\w+)`", run_cli("docs", "metrics").stdout))
    used = {m for _, q in queries() for m in SELF.findall(q)}
    assert len(used) > 50
    page = (ROOT / "docs" / "ALERTS.md").read_text()
    assert used | set(SELF.findall(page)) <= known, (used | set(SELF.findall(page))) - known


def test_each_setting_that_is_named_is_one():
    sections, text = {}, (ROOT / "docs" / "CONFIG.md").read_text()
    for title, rows in re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        sections.setdefault(title.rsplit(".", 1)[-1], set()).update(re.findall(r"^\| `(\w+)`", rows, re.M))
    told = (ROOT / "docs" / "ALERTS.md").read_text() + (DEPLOY / "alerts.yaml").read_text() + json.dumps(DASHBOARD)
    named = set(re.findall(r"\b(limits|access|tls|heartbeat|admin)\.([a-z_]+)", told))
    assert len(named) > 10
    assert {(s, k) for s, k in named if k not in sections[s]} == set()


def test_the_dashboard_is_one_that_grafana_takes():
    assert DASHBOARD["uid"] == "weir" and DASHBOARD["schemaVersion"] >= 38 and DASHBOARD["title"]
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    ids = [p["id"] for p in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for p in DASHBOARD["panels"]:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert g["x"] + g["w"] <= 24 and not cells & taken, p["title"]
        taken |= cells
    for p in PANELS:
        assert p["description"] and p["fieldConfig"]["defaults"]["unit"] in UNITS, p["title"]
        assert [t["refId"] for t in p["targets"]] == list("ABCDEFGH"[:len(p["targets"])])
        assert all(t["datasource"]["uid"] == p["datasource"]["uid"] == "${datasource}" for t in p["targets"])
    assert "http" not in json.dumps(DASHBOARD).replace("weir_http_requests_total", "").lower().replace('"title": "http and bytes"', "")


class Prometheus:
    def __init__(self, folder, target):
        self.port = free_port()
        config = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE}
        config["rule_files"] = [str(DEPLOY / "alerts.yaml")]
        assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:6060"]}]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yaml").write_text(json.dumps(config))
        self.log = open(folder / "prometheus.log", "wb")
        self.proc = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb",
             f"--web.listen-address={HOST}:{self.port}"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def get(self, path, **query):
        """None: it does not answer yet."""
        url = f"http://{HOST}:{self.port}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=5) as r:
                doc = json.load(r)
        except urllib.error.HTTPError as e:
            if e.code == 503:
                return None
            raise AssertionError(f"{query}: {e.read()}") from None
        except OSError:
            return None
        assert doc["status"] == "success", doc
        return doc["data"]

    def query(self, q):
        got = self.get("/api/v1/query", query=q)
        return got["result"] if got else []

    def stop(self):
        self.proc.kill()
        self.proc.wait()
        self.log.close()


@pytest.fixture
def load(weir):
    """A little of everything, while the test runs."""
    enough = threading.Event()

    def go():
        with weir.ws("/ws/echo") as echo, weir.ws("/ws/raw") as raw:
            while not enough.is_set():
                for c in (echo, raw):
                    c.send(frame(TEXT, "x"))
                    c.frame()
                weir.post("/api/exec/add", "[1,2]")
                weir.get("/hostile?Ht")  # it traps
                time.sleep(0.02)

    t = threading.Thread(target=go, daemon=True)
    t.start()
    yield t
    enough.set()
    t.join(5)


def answers(prometheus, q):
    """Whether there is a number among what it answers."""
    return any(s["value"][1] != "NaN" for s in prometheus.query(q))


@pytest.mark.guard(40)
def test_each_query_is_answered(weir, load, tmp_path):
    prometheus = Prometheus(tmp_path, f"{HOST}:{weir.admin}")
    try:
        wait_for("two scrapes under load", lambda: answers(prometheus, "rate(weir_module_failed_total[4s]) > 0"), 20, 0.2)
        target = prometheus.get("/api/v1/targets")["activeTargets"][0]
        assert target["health"] == "up" and target["lastError"] == "", target
        wait_for("its rules were evaluated", lambda: all(r["health"] == "ok" for g in prometheus.get("/api/v1/rules")["groups"]
                                                         for r in g["rules"]), 5, 0.2)
        alerts = {r["alert"] for r in RULES}
        for name, q in queries():
            if name in alerts or name == "New worker":
                prometheus.query(q)  # it is one; whether it fires is the rules' test
            elif "process_open_fds" in q and "process_open_fds" not in weir.metrics():
                assert not prometheus.query(q)  # before Linux 6.2
            else:
                wait_for(f"{name}: {q}", lambda q=q: answers(prometheus, q), 2, 0.1)
        assert load.is_alive()
    finally:
        prometheus.stop()
