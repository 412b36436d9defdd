"""The rules against real promtool, and a real Prometheus that scrapes a real service while it hangs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from hangwatch import names
from hangwatch.config import Config
from hangwatch.export.board import Board
from hangwatch.export.exposition import metric_name
from hangwatch.ledger import Ledger
from tests.export.incidents import TRACE
from tests.export.receiver import Receiver
from tests.export.test_service import Service, free, stalls

RULES = Path(__file__).resolve().parents[2] / "dashboards" / "prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def test_every_metric_in_the_rules_is_one_of_ours():
    ours = {metric_name(family) for family in Board(Config.make({}), Ledger()).families()}
    used = set(re.findall(r"(?<![:\w])hangwatch_\w+", "".join(re.findall(r"expr: (.*)", (RULES / "rules.yml").read_text()))))
    labels = {"hangwatch_cause", "hangwatch_what", names.LOOP.replace(".", "_")}
    stems = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used - labels}
    assert stems and stems <= ours, stems - ours


@needs_promtool
def test_the_rules_do_what_they_say():
    for arguments in (["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]):
        done = subprocess.run(["promtool", *arguments], cwd=RULES, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def ask(port, path, **query):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def until(step, what):
    deadline = time.monotonic() + 40
    while not (found := step()):
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
    return found


@needs_prometheus
def test_prometheus_scrapes_alerts_and_leads_to_the_trace(tmp_path):
    with Receiver() as receiver, Service(tmp_path / "spool", receiver.url) as service:
        port = free()
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES / "rules.yml")],
            "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{service.metrics}"]}]}],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=error"]
        server = subprocess.Popen(command)
        try:
            service.send("/parked", f"00-{TRACE}-00f067aa0ba902b7-01")
            receiver.wait(stalls, timeout=40)

            def firing():
                try:
                    return [alert for alert in ask(port, "/api/v1/alerts")["alerts"] if alert["labels"]["alertname"] == "HangwatchStalled"]
                except OSError:
                    return []

            (alert,) = until(firing, "the alert did not fire")
            assert alert["labels"]["job"] == "shop"
            for expr in ("hangwatch_requests_stalled", "hangwatch_loop_lag_seconds_bucket", "hangwatch_self_cpu_seconds_total"):
                assert ask(port, "/api/v1/query", query=expr)["result"], expr
            now = time.time()
            series = ask(port, "/api/v1/query_exemplars", query="hangwatch_incidents_total", start=now - 60, end=now + 60)
            assert [exemplar["labels"]["trace_id"] for one in series for exemplar in one["exemplars"]][:1] == [TRACE]
        finally:
            server.kill()
            server.wait(10)
