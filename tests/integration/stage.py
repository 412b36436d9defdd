"""A stage: services that hang, real Collectors with the configuration that is deployed."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

from tests.dashboards.test_panels import send
from tests.export.test_service import free
from tests.tools import ROOT, Program, until

CONFIGURATION = ROOT / "deploy" / "collector" / "collector.yaml"
HANGING = ROOT / "tests" / "dashboards" / "hanging.py"


class Service(Program):
    """tests/dashboards/hanging.py with the agent inside. ``settings``: environment variables."""

    def __init__(self, folder: Path, name: str = "shop", **settings: object) -> None:
        self.port = free()
        environ = {"PORT": self.port, "PYTHONPATH": ROOT, "OTEL_SERVICE_NAME": name, "HANGWATCH_SPOOL": folder / "spool", **settings}
        log = folder / f"service-{self.port}.log"
        super().__init__(sys.executable, HANGING, env={key: str(value) for key, value in environ.items()}, log=log)
        self.clients: list[socket.socket] = []
        until(lambda: self.send("/"), log.read_text)

    def send(self, path: str, trace: str = "") -> bool:
        """One request, whose connection stays open."""
        self.clients.append(send(self.port, path, trace))
        return True

    def __exit__(self, *exc: object) -> None:
        for client in self.clients:
            client.close()
        super().__exit__(*exc)


def front(folder: Path, tempo: int, jaeger: int, prometheus: str, http: int, grpc: int) -> Program:
    """The deployed configuration, unchanged: its addresses come from the environment."""
    environ = {
        "LISTEN": "127.0.0.1", "HTTP_PORT": http, "GRPC_PORT": grpc, "VERBOSITY": "detailed",
        "TEMPO": f"127.0.0.1:{tempo}", "JAEGER": f"127.0.0.1:{jaeger}", "PROMETHEUS": prometheus,
    }  # fmt: skip
    command = ["otelcol", f"--config={CONFIGURATION}"]
    return Program(*command, env={key: str(value) for key, value in environ.items()}, log=folder / "front.log")


def back(folder: Path, grpc: int, sink: str) -> Program:
    """In Tempo's place: takes gRPC, hands on as OTLP/HTTP to who decodes it."""
    configuration = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{grpc}"}}}},
        "exporters": {"otlp_http": {"endpoint": sink}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["otlp_http"]}},
        },
    }
    (folder / "back.json").write_text(json.dumps(configuration))  # JSON is YAML
    return Program("otelcol", f"--config={folder / 'back.json'}", log=folder / "back.log")
