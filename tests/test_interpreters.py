"""What runs inside a service runs on every interpreter present: the in-process tests, once more on each."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.interpreters import INSIDE, ROOT, environment, found

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
#: The files whose behaviour hangs on the interpreter: frames, chains, patches, threads, signals.
INPROCESS = [
    "tests/reading/test_live.py",
    "tests/test_snapshot.py",
    "tests/test_ledger.py",
    "tests/test_patching.py",
    "tests/test_agent.py",
    "tests/integrations/test_asyncio.py",
    "tests/integrations/test_threads.py",
    "tests/integrations/test_uvicorn.py",
]


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("version", [v for v in INSIDE if v != HERE])
def test_in_process_tests_pass_on(version):
    if found(version) is None:
        pytest.skip(f"no Python {version} on this machine")
    try:
        python = environment(version)
    except RuntimeError as reason:
        if version == INSIDE[-1]:
            pytest.skip(f"Python {version} is here, its packages are not: {str(reason)[-200:]}")
        raise
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *INPROCESS], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:]
