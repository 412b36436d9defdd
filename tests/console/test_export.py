"""`hangwatch export` against a real receiver and a real spool."""

from __future__ import annotations

import dataclasses
import os

import pytest

from hangwatch.config import Config
from hangwatch.console import main
from hangwatch.export import Exporters
from hangwatch.store import Store
from tests.export.incidents import TAKEN_AT, lock_incident, loop_incident, numbered
from tests.export.receiver import Receiver, free_port, values


@pytest.fixture
def spool(tmp_path):
    store = Store(tmp_path)
    store.add(lock_incident())
    store.add(dataclasses.replace(loop_incident(), closed_at=TAKEN_AT + 5))
    return tmp_path


@dataclasses.dataclass
class Result:
    exit_code: int
    output: str


@pytest.fixture
def call(capsys, monkeypatch):
    def run(*arguments, **environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["export", *map(str, arguments)])
        said = capsys.readouterr()
        return Result(ended.value.code or 0, said.out + said.err)

    return run


def stalls(receiver):
    return [values(s.attributes)["hangwatch.incident.id"] for s in receiver.spans() if " stall " in s.name]


def test_all_of_them_oldest_first(call, spool):
    with Receiver() as receiver:
        result = call("--all", "--spool", spool, "--otlp", receiver.url)
        assert (result.exit_code, result.output) == (0, f"2 incidents sent to {receiver.url}\n")
        assert stalls(receiver) == [lock_incident().id, loop_incident().id]
        assert [span.name for span in receiver.spans()].count("stall ended") == 1
        assert len(receiver.logs()) == 3


def test_one_by_the_first_characters_of_its_id_with_the_environments_address(call, spool):
    with Receiver() as receiver:
        result = call(loop_incident().id[:15], HANGWATCH_SPOOL=str(spool), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
        assert result.exit_code == 0, result.output
        assert stalls(receiver) == [loop_incident().id]


def test_what_cannot_be_done_is_said_with_the_next_step(call, spool):
    with free_port() as port:
        down = call("--all", "--spool", spool, "--otlp", f"http://127.0.0.1:{port}")
        assert down.exit_code == 2
        assert "0 of 2 incidents sent" in down.output and "Is the collector there?" in down.output
    for arguments, words in (
        (["--all", "--spool", spool], "no receiver to send to"),
        (["--spool", spool, "--otlp", "http://127.0.0.1:1"], "name incidents, or --all"),
        (["x", "--all", "--spool", spool], "not both"),
        (["x", "--spool", spool, "--otlp", "http://127.0.0.1:1"], "x"),
        (["--all", "--spool", spool, "--otlp", "collector:4318"], "is not an OTLP/HTTP address"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and words in result.output, result.output


def test_a_receiver_without_logs_is_enough(call, spool):
    with Receiver(answers={"/v1/logs": [404]}) as receiver:
        result = call("--all", "--spool", spool, "--otlp", receiver.url)
        assert result.exit_code == 0
        assert "it takes no log records" in result.output


def test_what_was_sent_by_hand_is_not_sent_again_by_the_next_worker(call, tmp_path):
    Store(tmp_path).add(numbered(1))
    with free_port() as port:
        pid = os.fork()
        if pid == 0:
            ended = Exporters(Config.make({}, spool=tmp_path, otlp=f"http://127.0.0.1:{port}"))
            ended.offer(numbered(1))
            os._exit(0)
        os.waitpid(pid, 0)
        assert len(list(tmp_path.glob("outbox/*/*.json"))) == 2
        with Receiver(port) as receiver:
            assert call("--all", "--spool", tmp_path, "--otlp", receiver.url).exit_code == 0
            assert stalls(receiver) == [numbered(1).id]
    assert not list(tmp_path.glob("outbox/*/*.json"))
