"""For tests that put programs into the kernel: may we, and if not, what is missing."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from hangwatch.kernel.bpf import BpfError
from hangwatch.kernel.bpfchecks import explain, facts
from hangwatch.kernel.collectors import CannotCollect, LoopTime

COLLECTORS = Path(__file__).resolve().parents[2] / "collectors"


@functools.cache
def why_not() -> str:
    """A sentence, "" where eBPF works."""
    try:
        LoopTime(10**9).close()
    except CannotCollect as error:
        if error.error is None:
            return str(error)
        return explain(error.error.errno or 0, error.error.step, facts())[0]
    except BpfError as error:
        return str(error)
    return ""


def needs_bpf(test):
    """Skips by name, with doctor's reason."""
    return pytest.mark.needs_bpf(pytest.mark.skipif(bool(why_not()), reason=f"no eBPF here: {why_not()}")(test))
