"""Once only, among threads and processes, through kills."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hangwatch.export.gate import Gate

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_790_000_000.0


def gate(tmp_path, window_s=3600.0):
    return Gate(tmp_path, window_s)


def test_done_once_in_a_window(tmp_path):
    claim = gate(tmp_path).claim("a", NOW).claim
    assert claim is not None and claim.tries == 1
    claim.done(NOW)
    again = gate(tmp_path).claim("a", NOW + 3599)
    assert again.done and again.claim is None
    later = gate(tmp_path).claim("a", NOW + 3600).claim
    assert later is not None and later.token != claim.token
    later.done(NOW + 3600)
    assert gate(tmp_path).claim("a", NOW + 3601).done


def test_another_name_is_another_thing(tmp_path):
    gate(tmp_path).claim("a/b", NOW).claim.done(NOW)
    assert gate(tmp_path).claim("a_b", NOW).claim is not None


def test_busy_while_somebody_does_it(tmp_path):
    claim = gate(tmp_path).claim("a", NOW).claim
    second = gate(tmp_path).claim("a", NOW)
    assert (second.claim, second.done) == (None, False)
    claim.failed()
    third = gate(tmp_path).claim("a", NOW).claim
    assert (third.token, third.tries) == (claim.token, 2), "the same effect, tried again"


def test_a_try_of_an_earlier_window_is_another_message(tmp_path):
    claim = gate(tmp_path).claim("a", NOW).claim
    claim.failed()
    later = gate(tmp_path).claim("a", NOW + 3600).claim
    assert later.token != claim.token and later.tries == 1


def test_a_half_written_claim_is_taken_over(tmp_path):
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "a.claim").write_text('{"tok')
    assert gate(tmp_path).claim("a", NOW).claim.tries == 1


def test_a_half_written_mark_keeps_nothing_from_happening(tmp_path):
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "a.done").write_text("")
    assert gate(tmp_path).claim("a", NOW).claim is not None


def test_twenty_at_once(tmp_path):
    """Each tries until it is done; what is done is written to a list."""
    did, start = [], threading.Barrier(20)

    def worker():
        start.wait()
        while not (answer := gate(tmp_path).claim("a", NOW)).done:
            if answer.claim is not None:
                did.append(answer.claim.token)
                time.sleep(0.02)
                answer.claim.done(NOW)

    threads = [threading.Thread(target=worker) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(did) == 1


DOER = """
import sys, time
from pathlib import Path
from hangwatch.export.gate import Gate
claim = Gate(Path(sys.argv[1]), 3600.0).claim("a", float(sys.argv[2])).claim
print(claim.token, flush=True)
time.sleep(60)
"""


def test_a_killed_owners_claim_is_taken_over_with_its_token(tmp_path):
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    owner = subprocess.Popen([sys.executable, "-c", DOER, str(tmp_path), str(NOW)], stdout=subprocess.PIPE, text=True, env=environ)
    try:
        token = owner.stdout.readline().strip()
        assert gate(tmp_path).claim("a", NOW).claim is None, "it lives"
        owner.send_signal(signal.SIGKILL)
        owner.wait(10)
        claim = gate(tmp_path).claim("a", NOW).claim
        assert (claim.token, claim.tries) == (token, 2)
    finally:
        owner.kill()
        owner.wait(10)
        owner.stdout.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_claim(tmp_path):
    claim = gate(tmp_path).claim("a", NOW).claim
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(tell, b"x")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(ready, 1)
        claim.forget()  # as if killed
        assert gate(tmp_path).claim("a", NOW).claim is not None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)


def test_old_marks_are_swept(tmp_path):
    gate(tmp_path).claim("a", NOW).claim.done(NOW)
    gate(tmp_path).claim("b", NOW).claim.failed()
    assert gate(tmp_path).sweep(time.time()) == 0
    assert gate(tmp_path).sweep(time.time() + 3601) == 1
    assert gate(tmp_path).sweep(time.time() + 36001) == 1
    assert list((tmp_path / "told").iterdir()) == []
