"""The webhook: what it says, that it says it once, and bad receivers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hangwatch.config import Config
from hangwatch.errors import ConfigError
from hangwatch.export import Exporters, webhook
from tests.export.hook import Hook
from tests.export.incidents import TRACE, lock_incident, loop_incident
from tests.export.receiver import free_port

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(webhook, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(webhook, "BUSY_S", 0.05)
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.5)


def now(incident):
    return dataclasses.replace(incident, opened_at=time.time() - 12)


def notifier(tmp_path, url, **settings):
    return webhook.Notifier(Config.make({}, spool=tmp_path, webhook=url, **settings))


def until(ready, what):
    deadline = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_the_message(tmp_path):
    with Hook() as hook:
        exporters = Exporters(Config.make({}, spool=tmp_path, webhook=hook.url))
        exporters.offer(now(lock_incident()))
        hook.wait(1)
        exporters.close()
        counts = exporters.counts()
    (body,) = hook.bodies
    assert body["text"] == "shop on web-1: GET /orders waits for orders.LOCK, whose holder waits for 10.0.0.7:5432."
    assert (body["cause"], body["confidence"], body["fingerprint"]) == ("holder-stuck", "likely", "f" * 16)
    assert (body["service"], body["host"], body["pid"], body["stall"]) == ("shop", "web-1", 4242, "request")
    assert (body["incident"], body["trace_id"], body["advice"]) == (lock_incident().id, TRACE, "Give the query a deadline.")
    assert hook.headers[0]["idempotency-key"] == body["id"]
    assert hook.headers[0]["content-type"] == "application/json"
    assert (counts["webhook_sent"], counts["webhook_failures"]) == (1, 0)


def test_nothing_without_an_address(tmp_path):
    exporters = Exporters(Config.make({}, spool=tmp_path))
    exporters.offer(now(lock_incident()))
    assert exporters.notifier._thread is None
    assert not any(tmp_path.iterdir())


def test_once_for_a_fingerprint_whatever_the_incident(tmp_path):
    with Hook() as hook:
        told = notifier(tmp_path, hook.url)
        for n in range(5):
            told.offer(now(lock_incident(f"20260101T00000{n}-x")))
        told.offer(now(loop_incident()))
        hook.wait(2)
        told.close(5)
    assert sorted(body["cause"] for body in hook.bodies) == ["blocked-loop-cpu", "holder-stuck"]


def test_again_after_the_window(tmp_path):
    with Hook() as hook:
        told = notifier(tmp_path, hook.url, webhook_every=0.2)
        told.offer(now(lock_incident()))
        hook.wait(1)
        time.sleep(0.25)
        told.offer(now(lock_incident("20260101T000009-x")))
        hook.wait(2)
        told.close(5)
    assert hook.bodies[0]["id"] != hook.bodies[1]["id"]


WORKER = """
import sys, time
from tests.export.test_webhook import now, notifier
from tests.export.incidents import lock_incident
from pathlib import Path
told = notifier(Path(sys.argv[1]), sys.argv[2])
sys.stdin.readline()
told.offer(now(lock_incident("20260101T000000-" + sys.argv[3])))
told.close(10)
print(told.sent)
"""


#: Stays until it is told, by whomever; who tells it has it in hand, not among those that wait.
PATIENT = WORKER.replace("told.close(10)", "while not list(told.gate.root.glob('*.done')): time.sleep(0.05)\ntold.close(10)")


def start(tmp_path, hook, name, code=WORKER):
    command = [sys.executable, "-c", code, str(tmp_path), hook.url, name]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_twenty_workers_tell_it_once(tmp_path):
    with Hook() as hook:
        workers = [start(tmp_path, hook, str(n)) for n in range(20)]
        for worker in workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        sent = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(sent) == len(hook.bodies) == 1


def test_killed_while_it_told(tmp_path):
    """The receiver got it, but its answer did not come back before the kill: the next tells it once more, as the same message."""
    with Hook(["silent", 200]) as hook:
        worker = start(tmp_path, hook, "a")
        worker.stdin.write("\n")
        worker.stdin.flush()
        hook.wait(1)
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=10)
        for name in ("b", "c"):
            told = notifier(tmp_path, hook.url)
            told.offer(now(lock_incident(f"20260101T000000-{name}")))
            until(lambda told=told: not told._waiting, "it was not told")
            told.close(5)
    assert len(hook.bodies) == 2
    assert hook.bodies[0]["id"] == hook.bodies[1]["id"]


def teller(tmp_path, start_s=20.0):
    """The process that tells it at this moment, by its claim."""
    end = time.monotonic() + start_s
    while time.monotonic() < end:
        for path in tmp_path.glob("told/*.claim"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                return json.loads(path.read_bytes())["pid"]
        time.sleep(0.01)
    raise AssertionError("nobody tells it")


def test_twenty_workers_of_which_those_that_tell_it_are_killed(tmp_path):
    """The receiver has a bad day, and whoever waits for its answer dies: it is told in the end, once, as one and the same message."""
    with Hook([503, "silent", 503, "silent", 200]) as hook:
        workers = {worker.pid: worker for worker in (start(tmp_path, hook, str(n), PATIENT) for n in range(20))}
        for worker in workers.values():
            worker.stdin.write("\n")
            worker.stdin.flush()
        for tries in (2, 4):
            hook.wait(tries, timeout=40)
            killed = workers.pop(teller(tmp_path))
            killed.kill()
            killed.communicate(timeout=10)
        sent = [int(worker.communicate(timeout=90)[0]) for worker in workers.values()]
    assert sum(sent) == 1 and len(workers) == 18
    assert len(hook.bodies) == 5, "two refusals, two that died with their teller, and the one that was taken"
    assert len({body["id"] for body in hook.bodies}) == 1


@pytest.mark.parametrize("bad", [503, 429, 404, "silent"])
def test_tried_again_until_it_is_taken(tmp_path, bad):
    with Hook([bad, bad, 204]) as hook:
        told = notifier(tmp_path, hook.url)
        told.offer(now(lock_incident()))
        hook.wait(3)
        until(lambda: told.sent == 1, told.counts())
        told.close(5)
    assert len({body["id"] for body in hook.bodies}) == 1
    assert told.failures == 2


def test_refused_for_good_is_not_tried_again_by_anybody(tmp_path):
    with Hook([400]) as hook:
        for _ in range(2):
            told = notifier(tmp_path, hook.url)
            told.offer(now(lock_incident()))
            until(lambda told=told: not told._waiting, "it waits still")
            told.close(5)
    assert len(hook.bodies) == 1


def test_nobody_listens_and_the_exit_is_not_held_up(tmp_path):
    with free_port() as port:
        exporters = Exporters(Config.make({}, spool=tmp_path, webhook=f"http://127.0.0.1:{port}/x"))
        exporters.offer(now(lock_incident()))
        until(lambda: exporters.notifier.failures, "it did not try")
        begun = time.monotonic()
        exporters.close(2.0)
        assert time.monotonic() - begun < 2.5
        assert exporters.counts()["webhook_waiting"] == 1


def test_more_than_fits_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(webhook, "MAX_WAITING", 3)
    with Hook(["silent"]) as hook:
        told = notifier(tmp_path, hook.url)
        for n in range(10):
            told.offer(dataclasses.replace(now(lock_incident()), fingerprint=f"{n:016x}"))
        assert told.dropped >= 6
        told.close(0.1)


def test_without_a_spool_it_tells_all_the_same(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with Hook() as hook:
        told = notifier(blocked, hook.url)
        told.offer(now(lock_incident()))
        hook.wait(1)
        told.close(5)


def test_old_news_is_no_news(tmp_path):
    with Hook() as hook:
        told = notifier(tmp_path, hook.url)
        told.offer(dataclasses.replace(lock_incident(), opened_at=time.time() - 100_000))
        told.close(5)
    assert hook.bodies == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_tells_what_it_sees_itself(tmp_path):
    with Hook() as hook:
        exporters = Exporters(Config.make({}, spool=tmp_path, webhook=hook.url))
        exporters.offer(now(lock_incident()))
        hook.wait(1)
        pid = os.fork()
        if pid == 0:
            exporters.offer(now(loop_incident()))
            exporters.notifier.close(5)
            os._exit(0)
        os.waitpid(pid, 0)
        hook.wait(2)
        exporters.close()
    assert [body["cause"] for body in hook.bodies] == ["holder-stuck", "blocked-loop-cpu"]


@pytest.mark.parametrize("url", ["chat.example.org/hook", "ftp://x/y", "http://", "http://x:99999/secret"])
def test_a_bad_address_is_told_without_repeating_its_secret(url):
    with pytest.raises(ConfigError) as caught:
        Config.make({"HANGWATCH_WEBHOOK": url})
    assert url not in str(caught.value) and caught.value.help_text
