"""Receivers behind TLS: one that cannot be trusted gets nothing and costs nothing; one that can gets all. And what is too large for one."""

from __future__ import annotations

import dataclasses
import shutil
import ssl
import subprocess
import time

import certifi
import pytest

from hangwatch import export
from hangwatch.config import Config
from hangwatch.export import Exporters, lanes, parcels
from hangwatch.records import Frame
from tests.export.incidents import known_bug_incident, loop_incident, numbered
from tests.export.receiver import Receiver
from tests.export.test_bad_days import told, waiting

#: What the Collector's receiver takes of one body.
TAKEN_BYTES = 20 << 20


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(lanes, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(lanes, "LAST_RETRY_S", 0.2)
    monkeypatch.setattr(export, "SEND_TIMEOUT_S", 1.0)


@pytest.fixture
def certificate(tmp_path):
    """(certificate, key) for 127.0.0.1, signed by nobody but itself."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    made, key = tmp_path / "made.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return made, key


def secured(receiver, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = receiver._server
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.url = receiver.url.replace("http:", "https:")


def failed_twice(exporters):
    end = time.monotonic() + 20
    while exporters.counts()["traces_failures"] < 2:
        assert time.monotonic() < end, exporters.counts()
        time.sleep(0.02)


def test_a_certificate_that_is_not_trusted(tmp_path, certificate):
    receiver = Receiver()
    secured(receiver, certificate)
    with receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url))
        exporters.offer(numbered(1))
        failed_twice(exporters)
        assert (exporters._lanes["traces"].reason, receiver.tries) == ("SSLError", [])
        started = time.monotonic()
        assert exporters.close() is False
        assert time.monotonic() - started < 4
        assert len(waiting(tmp_path)) == 2, "kept, for when it can be"


def test_the_standard_variable_says_whom_to_trust(tmp_path, certificate, monkeypatch):
    """Also where another one names authorities for everything else."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    receiver = Receiver()
    secured(receiver, certificate)
    with receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url))
        exporters.offer(numbered(1))
        receiver.wait(lambda r: told(r) == [numbered(1).id])
        assert exporters.close(20), exporters.counts()


def test_tls_where_the_receiver_speaks_none(tmp_path):
    with Receiver() as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url.replace("http:", "https:")))
        exporters.offer(numbered(1))
        failed_twice(exporters)
        exporters.close(0.1)
        assert len(waiting(tmp_path)) == 2


def largest():
    """Long paths and names everywhere, more victims than are told."""
    incident = loop_incident(n_victims=500)
    deep = tuple(Frame(f"/srv/{'deep/' * 300}{k}.py", k, f"Class.{'method_' * 200}{k}") for k in range(300))
    threads = tuple(dataclasses.replace(thread, frames=deep) for thread in incident.snapshot.threads)
    requests = tuple(dataclasses.replace(request, route="/" + "segment/" * 1000) for request in incident.snapshot.requests)
    finding = dataclasses.replace(
        incident.findings[0], title="x" * 100_000, because=("y" * 10_000,) * 500, culprit=deep, advice="z" * 100_000
    )
    snapshot = dataclasses.replace(incident.snapshot, threads=threads, requests=requests)
    return dataclasses.replace(incident, snapshot=snapshot, findings=(finding,))


@pytest.mark.parametrize("make", [largest, known_bug_incident])
def test_a_request_of_the_largest_is_one_that_receivers_take(tmp_path, make):
    config = Config.make({}, spool=tmp_path, otlp="http://127.0.0.1:1")
    batch = [dataclasses.replace(parcel, key=f"{parcel.key}{k}") for k in range(lanes.BATCH) for parcel in parcels.of_stall(make(), config)]
    bodies: dict[str, list[int]] = {"traces": [], "logs": []}
    with Receiver() as receiver:
        for signal, lane in lanes.lanes_to(dataclasses.replace(config, otlp=receiver.url), export.Outbox(tmp_path), 20.0).items():
            for parcel in batch:
                if parcel.signal == signal:
                    lane.put(parcel, saved=False)
            assert lane.work(False) and lane.sent == lanes.BATCH
        for path, message, _ in receiver.requests:
            bodies[path.rpartition("/")[2]].append(message.ByteSize())
    assert all(0 < size < TAKEN_BYTES / 2 for sizes in bodies.values() for size in sizes), bodies


def test_too_large_all_the_same(tmp_path):
    """A proxy with a limit of its own: what is too large alone is refused and counted, the rest goes through."""
    with Receiver(answers={"/v1/traces": [413, 413, 200]}) as receiver:
        exporters = Exporters(Config.make({}, spool=tmp_path, otlp=receiver.url, events="span"))
        lane = exporters._lanes["traces"]
        for n in range(3):
            for parcel in parcels.of_stall(numbered(n), exporters.config):
                lane.put(parcel, saved=False)
        assert lane.work(False)
        assert told(receiver) == [numbered(1).id, numbered(2).id]
        assert (lane.sent, lane.refused) == (2, 1)
