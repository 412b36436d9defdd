"""A fast part of the corpus on every run; `make corpus` runs it all."""

from __future__ import annotations

import pytest

from tests.corpus.case import TESTS, Case, NotHere
from tests.corpus.judge import judge
from tests.corpus.service import ask

#: One of each family, all but one of one set of packages, so that two environments serve them.
FAST = [
    "hangs/uvicorn-748-shared-message-event",
    "hangs/abba-asyncio-lock",
    "hangs/lock-leaked-on-error-path",
    "hangs/singleflight-leader-cancelled",
    "hangs/queue-get-on-loop",
    "hangs/worker-loop-put-from-other-thread",
    "healthy/periodic-sleepers",
]
SILENT = ["hangs/uvicorn-748-shared-message-event", "hangs/abba-asyncio-lock"]


def told(case: Case, mode: str = "agent"):
    try:
        said, incidents = ask(case, mode)
    except NotHere as missing:
        pytest.skip(f"{case.id}: {missing}")
    return said, judge(case, incidents)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAST)
def test_hang_is_explained(name):
    case = Case(TESTS / name)
    said, verdict = told(case)
    assert said == ("OK" if case.healthy else "HUNG")
    assert verdict.ok, verdict


@pytest.mark.slow
@pytest.mark.parametrize("name", SILENT)
def test_fixed_variant_stays_silent(name):
    said, verdict = told(Case(TESTS / name, fixed=True))
    assert said == "OK"
    assert verdict.ok, verdict


@pytest.mark.slow
def test_known_bug_is_named():
    _, verdict = told(Case(TESTS / FAST[0]))
    assert (verdict.signature, verdict.confidence) == ("uvicorn-748", "proved")
