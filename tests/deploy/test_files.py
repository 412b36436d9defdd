"""deploy/: every file against its schema or its own tool, and against what hangwatch really takes and needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hangwatch import names
from hangwatch.config import Config
from tests.tools import ROOT, needs, run

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
MANIFESTS = {
    f"{path.stem}/{document['kind']}": document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
}
CAPABILITIES = {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYSLOG"}


def settings_in(text):
    return set(re.findall(r"\bHANGWATCH_[A-Z_]+\b", text))


def test_every_setting_that_is_named_exists():
    known = settings_in((ROOT / "hangwatch" / "config.py").read_text()) | {"HANGWATCH_DISABLED"}
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert settings_in(path.read_text()) <= known, path


# Compose


@pytest.mark.skipif(find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed")
def test_compose_fits_the_compose_specification():
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE / "compose.yaml")


def test_compose_mounts_and_builds_from_files_that_exist():
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (COMPOSE / source).exists(), f"{name}: {source}"
        if "build" in service:
            context = (COMPOSE / service["build"]["context"]).resolve()
            assert context == ROOT and (context / service["build"]["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d", service["image"]), f"{name}: a release, not what is latest today"
        assert set(service.get("depends_on", [])) <= set(compose["services"])


def test_everything_in_compose_is_where_the_others_look_for_it():
    """Host names in all configurations are services; what is published stays on this machine."""
    services = set(compose["services"])
    files = [path for path in COMPOSE.rglob("*") if path.suffix in (".yaml", ".yml") and path.name != "compose.yaml"]
    text = "".join(path.read_text() for path in files) + (DEPLOY / "collector" / "collector.yaml").read_text() + json.dumps(compose)
    named = set(re.findall(r"\bhttps?://([a-z-]+):\d", text)) | set(re.findall(r":-([a-z]+):\d", text))
    assert {"tempo", "jaeger", "prometheus", "pager", "collector"} <= named
    assert named - services <= {"localhost"}
    assert all(port.startswith("127.0.0.1:") for service in compose["services"].values() for port in service.get("ports", []))


def test_the_demo_service_is_configured_with_what_hangwatch_takes():
    desk = compose["services"]["order-desk"]
    config = Config.make(desk["environment"])
    assert (config.service, config.otlp, config.metrics_port) == ("order-desk", "http://collector:4318", 9464)
    assert config.webhook and config.metrics_host == "0.0.0.0"
    prometheus = yaml.safe_load((COMPOSE / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert (job["job_name"], job["static_configs"]) == (config.service, [{"targets": ["order-desk:9464"]}])


def test_jaeger_is_not_newer_than_grafana_can_search():
    version = compose["services"]["jaeger"]["image"].rpartition(":")[2].split(".")
    assert (int(version[0]), int(version[1])) <= (2, 20)


# Grafana


def test_data_sources_and_dashboards_are_provisioned():
    sources = yaml.safe_load((COMPOSE / "grafana" / "datasources" / "hangwatch.yaml").read_text())
    by_uid = {source["uid"]: source for source in sources["datasources"]}
    assert set(by_uid) == {"prometheus", "tempo", "jaeger", "alertmanager"}
    assert all({"name", "type", "access", "url"} <= set(source) for source in by_uid.values())
    assert sum(source.get("isDefault", False) for source in by_uid.values()) == 1
    referred = re.findall(r"datasourceUid: (\w+)", (COMPOSE / "grafana" / "datasources" / "hangwatch.yaml").read_text())
    assert referred and set(referred) <= set(by_uid)
    assert by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"][0]["name"] == "trace_id"
    provider = yaml.safe_load((COMPOSE / "grafana" / "dashboards" / "hangwatch.yaml").read_text())["providers"][0]
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert provider["type"] == "file" and mounts["../../dashboards/grafana"] == provider["options"]["path"]
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (ROOT / "dashboards" / "grafana" / Path(home).name).exists()


# Prometheus, Alertmanager


@needs("promtool")
def test_promtool_takes_the_prometheus_configuration(tmp_path):
    text = (COMPOSE / "prometheus.yml").read_text().replace("/etc/prometheus/rules/*.yml", str(ROOT / "dashboards/prometheus/rules.yml"))
    (tmp_path / "prometheus.yml").write_text(text)
    run("promtool", "check", "config", tmp_path / "prometheus.yml")


@needs("amtool")
def test_amtool_takes_the_alertmanager_configuration():
    run("amtool", "check-config", COMPOSE / "alertmanager.yml")


@needs("amtool")
@pytest.mark.parametrize("alert", re.findall(r"alert: (\w+)", (ROOT / "dashboards/prometheus/rules.yml").read_text()))
def test_every_alert_reaches_the_pager(alert):
    said = run("amtool", "config", "routes", "test", f"--config.file={COMPOSE / 'alertmanager.yml'}", f"alertname={alert}", "job=shop")
    assert said.splitlines()[0] == "pager"


def test_inhibition_names_alerts_that_exist():
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "dashboards/prometheus/rules.yml").read_text()))
    named = set(re.findall(r'alertname="(\w+)"', (COMPOSE / "alertmanager.yml").read_text()))
    assert named and named <= alerts


# Collector


def test_tail_sampling_keeps_stalls():
    added = yaml.safe_load((DEPLOY / "collector" / "tail-sampling.yaml").read_text())
    base = yaml.safe_load((DEPLOY / "collector" / "collector.yaml").read_text())
    policies = {policy["name"]: policy for policy in added["processors"]["tail_sampling"]["policies"]}
    assert all(set(policy) == {"name", "type", policy["type"]} for policy in policies.values())
    stalls = policies["stalls"]["string_attribute"]
    assert stalls["key"] == names.STALL_KIND and stalls["enabled_regex_matching"]
    assert all(re.fullmatch(stalls["values"][0], kind) for kind in ("loop", "request", "startup"))
    order = added["service"]["pipelines"]["traces"]["processors"]
    assert order[0] == "memory_limiter" and order[-1] == "batch"
    assert set(order) <= set(base["processors"]) | set(added["processors"])


# Kubernetes


@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_manifests_fit_their_schema(name):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for version in ("1.30", validator.latest_version()):
        validator.validate(MANIFESTS[name], version, strict=True)


def containers(kind):
    (document,) = [document for name, document in MANIFESTS.items() if name.endswith(f"/{kind}")]
    return document["spec"]["template"]["spec"]


def test_the_service_has_no_privilege():
    pod = containers("Deployment")
    (app,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and app["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    config = Config.make({item["name"]: item["value"] for item in app["env"]})
    assert config.shutdown_after < pod["terminationGracePeriodSeconds"]
    assert str(config.spool) in [mount["mountPath"] for mount in app["volumeMounts"]]
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"]}
    assert int(sizes["hangwatch"].removesuffix("Mi")) * 2**20 > config.spool_max_mb * 1e6
    ports = {port["name"]: port["containerPort"] for port in app["ports"]}
    assert ports["metrics"] == config.metrics_port


def test_the_node_agent_has_exactly_what_it_needs():
    pod = containers("DaemonSet")
    (watch,) = pod["containers"]
    assert watch["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": [*watch["securityContext"]["capabilities"]["add"]]}
    assert set(watch["securityContext"]["capabilities"]["add"]) == CAPABILITIES
    assert pod["hostPID"] and not watch["securityContext"]["privileged"] and "hostNetwork" not in pod
    options = run(sys.executable, "-m", "hangwatch", "watch", "--help", cwd=ROOT)
    assert watch["args"][0] == "watch"
    assert all(argument in options for argument in watch["args"] if argument.startswith("--"))


def test_the_readme_names_the_same_capabilities():
    table = (DEPLOY / "README.md").read_text().partition("Which capabilities")[2].partition("doctor")[0]
    assert set(re.findall(r"`([A-Z_]+)`", table)) == CAPABILITIES | {"SYS_RESOURCE"}


# systemd


def unit():
    return (DEPLOY / "systemd" / "hangwatch-watch.service").read_text()


@needs("systemd-analyze")
def test_systemd_takes_the_unit(tmp_path):
    """With a program that exists on this machine in place of the one that is to be installed."""
    (tmp_path / "hangwatch-watch.service").write_text(unit().replace("/opt/hangwatch/bin/hangwatch", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "hangwatch-watch.service")], capture_output=True, text=True, timeout=60
    )
    ours = [line for line in done.stderr.splitlines() if "hangwatch" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_the_unit_holds_the_same_capabilities():
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert set(re.search(rf"^{name}=(.*)$", unit(), re.M)[1].split()) == {f"CAP_{word}" for word in CAPABILITIES}
    assert "NoNewPrivileges=yes" in unit() and "User=root" not in unit()


# gunicorn, Dockerfiles


def test_gunicorn_takes_its_configuration(tmp_path):
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn_worker")
    (tmp_path / "shop.py").write_text("async def app(scope, receive, send): ...\n")
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "HANGWATCH_SPOOL": str(tmp_path / "spool")}
    command = [sys.executable, "-m", "gunicorn", "--check-config", "-c", str(DEPLOY / "gunicorn" / "gunicorn.conf.py"), "shop:app"]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    settings = dict(re.findall(r"^(\w+) = (\d+)", (DEPLOY / "gunicorn" / "gunicorn.conf.py").read_text(), re.M))
    assert int(settings["graceful_timeout"]) > Config.make({}).shutdown_after
    assert int(settings["timeout"]) > Config.make({}).stall_after


@pytest.mark.parametrize("path", [DEPLOY / "Dockerfile", COMPOSE / "order-desk.Dockerfile"], ids=lambda path: path.name)
def test_images_are_small_run_without_root_and_copy_what_exists(path):
    steps = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)).splitlines()
    instructions = [step.split(maxsplit=1) for step in steps if step.strip()]
    assert [rest for word, rest in instructions if word == "USER"][-1] == "10001:10001"
    for rest in (rest for word, rest in instructions if word == "COPY" and "--from" not in rest):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert not any(source == line for line in (ROOT / ".dockerignore").read_text().split())
    assert all("slim" in rest for word, rest in instructions if word == "FROM")
    assert all("--no-cache-dir" in rest for word, rest in instructions if word == "RUN" and "pip install" in rest)
