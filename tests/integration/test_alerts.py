"""Two workers hang alike: the alert is fired by a real Prometheus into a real Alertmanager into the webhook, once. And ours, once."""

from __future__ import annotations

import json
import time

import pytest

from tests.export.hook import Hook
from tests.export.incidents import TRACE
from tests.export.test_service import free
from tests.integration.stage import Service
from tests.tools import ROOT, Program, needs, until

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.integration, needs("prometheus", "prometheus-alertmanager")]
RULES = ROOT / "dashboards" / "prometheus" / "rules.yml"


def alertmanager(folder, hook, port):
    """The deployed configuration, with its pager elsewhere."""
    configuration = yaml.safe_load((ROOT / "deploy" / "compose" / "alertmanager.yml").read_text())
    configuration["receivers"][0]["webhook_configs"][0]["url"] = hook.url
    (folder / "alertmanager.yml").write_text(json.dumps(configuration))
    command = ["prometheus-alertmanager", f"--config.file={folder / 'alertmanager.yml'}", f"--storage.path={folder / 'am'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    return Program(*command, log=folder / "alertmanager.log")


def prometheus(folder, targets, alertmanager_port):
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager_port}"]}]}]},
        "scrape_configs": [{"job_name": "shop", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    return Program(*command, f"--web.listen-address=127.0.0.1:{free()}", log=folder / "prometheus.log")


def stalled(hook):
    return [body for body in hook.bodies if body.get("groupLabels", {}).get("hangwatch_cause")]


def test_once_for_all_workers(tmp_path):
    port, ports = free(), [free(), free()]
    with Hook() as ours, Hook() as pager, alertmanager(tmp_path, pager, port):
        settings = [{"HANGWATCH_METRICS_PORT": number, "HANGWATCH_WEBHOOK": ours.url} for number in ports]
        targets = [f"127.0.0.1:{number}" for number in ports]
        with Service(tmp_path, **settings[0]) as one, Service(tmp_path, **settings[1]) as two, prometheus(tmp_path, targets, port):
            for service in (one, two):
                service.send("/parked", TRACE)
            until(lambda: stalled(pager) and ours.bodies, lambda: f"{pager.bodies} {ours.bodies}")
            time.sleep(6)  # longer than Alertmanager's group_wait: a second message would have come
            (message,) = stalled(pager)
            (own,) = ours.bodies
    assert message["status"] == "firing" and message["groupLabels"]["job"] == "shop"
    (alert,) = message["alerts"]
    assert alert["labels"]["alertname"] == "HangwatchStalled"
    assert alert["annotations"]["description"].startswith(("1 open", "2 open"))
    assert own["cause"] == message["groupLabels"]["hangwatch_cause"] and own["trace_id"] == TRACE
