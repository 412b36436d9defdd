"""OTLP over gRPC, to a real gRPC server on loopback."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hangwatch import export
from hangwatch.config import Config
from hangwatch.errors import ConfigError
from hangwatch.export import Exporters, dial, lanes
from tests.export.incidents import TRACE, numbered
from tests.export.receiver import free_port, values

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason=f"{dial.GRPC_PACKAGE} is not installed")

from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402


class Server:
    """``codes``: what to answer, in order; the last stays."""

    def __init__(self, *codes, port=0):
        self.codes, self.spans, self.logs = list(codes) or [grpc.StatusCode.OK], [], []
        self._server = grpc.server(ThreadPoolExecutor(4))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self._taker(self.spans, "spans", trace_service_pb2), self._server)
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(self._taker(self.logs, "log_records", logs_service_pb2), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"http://127.0.0.1:{self.port}"

    def _taker(self, into, field, messages):
        outer = self

        class Taker:
            def Export(self, request, context):
                code = outer.codes.pop(0) if len(outer.codes) > 1 else outer.codes[0]
                if code is not grpc.StatusCode.OK:
                    context.abort(code, "not now")
                for resource in request.ListFields()[0][1]:
                    for scope in resource.ListFields()[1][1]:
                        into.extend(getattr(scope, field))
                name = "ExportTraceServiceResponse" if messages is trace_service_pb2 else "ExportLogsServiceResponse"
                return getattr(messages, name)()

        return Taker()

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *exc):
        self._server.stop(0).wait(5)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lanes, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(lanes, "LAST_RETRY_S", 0.2)
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 3.0)


def exporters_to(url, tmp_path, **settings):
    return Exporters(Config.make({}, spool=tmp_path, otlp=url, otlp_protocol="grpc", **settings))


def until(ready, what):
    deadline = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def test_spans_and_log_records_arrive(tmp_path):
    with Server() as server:
        exporters = exporters_to(server.url, tmp_path)
        exporters.offer(numbered(1))
        until(lambda: server.spans and server.logs, exporters.counts)
        assert exporters.close(5), exporters.counts()
    assert values(server.spans[0].attributes)["hangwatch.incident.id"] == numbered(1).id
    assert server.spans[0].trace_id.hex() == TRACE
    assert server.logs[0].event_name == "hangwatch.stall"


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED"])
def test_refused_for_now(tmp_path, code):
    refusal = grpc.StatusCode[code]
    with Server(refusal, refusal, grpc.StatusCode.OK) as server:
        exporters = exporters_to(server.url, tmp_path, events="span")
        exporters.offer(numbered(1))
        until(lambda: server.spans, exporters.counts)
        assert exporters.close(5), exporters.counts()
        assert exporters.counts()["traces_failures"] == 2, "one request a try"


def test_refused_for_good(tmp_path):
    with Server(grpc.StatusCode.INVALID_ARGUMENT) as server:
        exporters = exporters_to(server.url, tmp_path)
        exporters.offer(numbered(1))
        assert exporters.close(10), exporters.counts()
        assert exporters.counts()["traces_refused"] == 1
    assert not list(tmp_path.glob("outbox/*"))


def test_down_and_back(tmp_path):
    with free_port() as port:
        exporters = exporters_to(f"http://127.0.0.1:{port}", tmp_path, events="span")
        exporters.offer(numbered(1))
        until(lambda: exporters.counts()["traces_failures"], exporters.counts)
        with Server(port=port) as server:
            until(lambda: server.spans, exporters.counts)
            assert exporters.close(5), exporters.counts()


def test_without_its_package_it_is_kept_and_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(dial._CLASSES, "traces", ("no_such_module", "Nothing"))
    exporters = exporters_to("http://127.0.0.1:9", tmp_path, events="span")
    exporters.offer(numbered(1))
    until(lambda: exporters.counts()["traces_failures"] >= 2, exporters.counts)
    exporters.close(0.5)
    assert capfd.readouterr().err.count(f"pip install {dial.GRPC_PACKAGE}") == 1
    assert len(list(tmp_path.glob("outbox/*/*.json"))) == 1


def test_the_setting():
    assert Config.make({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).otlp_protocol == "grpc"
    assert Config.make({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}).otlp_protocol == "http/protobuf"
    with pytest.raises(ConfigError, match="http/protobuf or grpc"):
        Config.make({"HANGWATCH_OTLP_PROTOCOL": "smoke"})
