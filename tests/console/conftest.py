"""The commands as people run them: a process, its two streams, its exit status; under click 8 and under click 7."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
#: What uvicorn 0.12.2 pins; the oldest that hangwatch supports.
CLICK_7 = "7.1.2"


@dataclass
class Console:
    """``run("show", "last", NO_COLOR="1")``: environment variables by keyword. ``path``: folders to import from before all others."""

    path: tuple[str, ...]
    home: Path

    def environ(self, **variables: str) -> dict[str, str]:
        kept = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HANGWATCH", "OTEL", "NO_COLOR", "FORCE_COLOR", "_HANGWATCH"))
        }
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join((*self.path, str(ROOT))),
            "HOME": str(self.home),
            "XDG_STATE_HOME": "",
            "COLUMNS": "100",
            "LINES": "40",
            **variables,
        }

    def run(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hangwatch", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environ(**variables), cwd=self.home, stdin=subprocess.DEVNULL
        )


@pytest.fixture(scope="session")
def click_7():
    """A folder with that release, kept between runs."""
    folder = ROOT / ".cache" / f"click-{CLICK_7}"
    if not (folder / "click").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(folder),
            f"click=={CLICK_7}",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"click {CLICK_7} cannot be had here: {done.stderr.strip()[-200:]}")
    return str(folder)


@pytest.fixture(params=["click here", f"click {CLICK_7}"])
def console(request, tmp_path):
    path = (request.getfixturevalue("click_7"),) if request.param.endswith(CLICK_7) else ()
    return Console(path, tmp_path)
