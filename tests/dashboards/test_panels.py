"""Every query of the dashboards and rules, against a real Prometheus that scraped a real service while it hung."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.dashboards.test_dashboards import BOARDS, EXPRESSIONS, targets
from tests.export.incidents import TRACE
from tests.export.receiver import Receiver
from tests.export.test_service import free
from tests.tools import ROOT, Program, ask, needs, until

pytestmark = needs("prometheus")
RULES = ROOT / "dashboards" / "prometheus" / "rules.yml"


def send(port, path, trace=""):
    connection = socket.create_connection(("127.0.0.1", port), 10)
    extra = f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n" if trace else ""
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\n{extra}\r\n".encode())
    return connection


def page(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def blocked(clients, service, metrics):
    """Was it told that a loop was blocked and is no longer? A second is over before anybody looks where the machine is starved."""
    clients.append(send(service, "/blocked", TRACE))
    end = time.monotonic() + 6
    while time.monotonic() < end and not (told := "hangwatch_stall_duration_seconds_count" in page(metrics)):
        time.sleep(0.2)
    return told


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """Its port, once it has scraped all that the service has to show."""
    folder = tmp_path_factory.mktemp("prometheus")
    port, service, metrics = free(), free(), free()
    scrape = {"job_name": "shop", "static_configs": [{"targets": [f"127.0.0.1:{metrics}"]}]}
    every = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    (folder / "prometheus.yml").write_text(json.dumps({"global": every, "rule_files": [str(RULES)], "scrape_configs": [scrape]}))
    with Receiver() as receiver:
        environ = {
            "PORT": str(service), "PYTHONPATH": str(ROOT), "HANGWATCH_METRICS_PORT": str(metrics), "HANGWATCH_METRICS_OTLP": "0",
            "HANGWATCH_OTLP": receiver.url, "HANGWATCH_SPOOL": str(folder / "spool"), "OTEL_SERVICE_NAME": "shop",
        }  # fmt: skip
        server = [
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=exemplar-storage", "--log.level=error",
        ]  # fmt: skip
        hanging = Path(__file__).with_name("hanging.py")
        with Program(sys.executable, hanging, env=environ, log=folder / "service.log"), Program(*server, log=folder / "prometheus.log"):
            until(lambda: send(service, "/"), "the service did not start")
            until(lambda: ask(port, "/api/v1/query", query="hangwatch_loop_utilization_ratio")["result"], "no scrape")
            clients = [send(service, path, TRACE) for path in ("/parked", "/pool", "/pool", "/pool")]
            until(lambda: "hangwatch_pool_capacity" in page(metrics), "no pool was seen")
            until(lambda: blocked(clients, service, metrics), "no stall ended", timeout=60)
            want = "hangwatch_stall_duration_seconds_count and on () (count_over_time(hangwatch_stall_duration_seconds_count[5s]) > 3)"
            until(lambda: ask(port, "/api/v1/query", query=want)["result"], "it was not scraped")
            yield port
            for client in clients:
                client.close()


def filled(expression):
    """With its variables, as Grafana would."""
    return expression.replace("$__rate_interval", "30s").replace("$job", ".*").replace("$instance", ".*")


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_panels_query_returns_series(prometheus, expression):
    found = ask(prometheus, "/api/v1/query", query=filled(expression))
    assert found["result"], expression


def test_labels_that_legends_and_columns_name_are_there(prometheus):
    for _, panel, target in targets():
        if "expr" not in target:
            continue
        labels = ask(prometheus, "/api/v1/query", query=filled(target["expr"]))["result"][0]["metric"]
        assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= set(labels), panel["title"]
        columns = [t["options"]["indexByName"] for t in panel.get("transformations", []) if t["id"] == "organize"]
        named = {name for column in columns for name in column if not name.startswith("Value #")}
        assert named <= set(labels), panel["title"]


def test_the_choices_have_values(prometheus):
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                found = ask(prometheus, "/api/v1/query", query=filled(metric))["result"]
                assert all(series["metric"].get(label) for series in found) and found


def test_since_when_is_a_time(prometheus):
    (expression,) = {e for e in EXPRESSIONS if e.startswith("(time() - ")}
    values = [float(series["value"][1]) / 1000 for series in ask(prometheus, "/api/v1/query", query=filled(expression))["result"]]
    at = float(ask(prometheus, "/api/v1/query", query="vector(time())")["result"][0]["value"][1])
    assert all(at - 300 < value <= at for value in values)


def test_recording_rules_record(prometheus):
    for name in re.findall(r"- record: (\S+)", RULES.read_text()):
        until(lambda name=name: ask(prometheus, "/api/v1/query", query=name)["result"], name)


def test_the_dots_in_the_graphs_lead_to_the_trace(prometheus):
    with_dots = {t["expr"] for _, _, t in targets() if t.get("exemplar")}
    assert with_dots
    for expression in with_dots:
        series = ask(prometheus, "/api/v1/query_exemplars", query=filled(expression), start=0, end=4_000_000_000)
        assert TRACE in {exemplar["labels"]["trace_id"] for one in series for exemplar in one["exemplars"]}
