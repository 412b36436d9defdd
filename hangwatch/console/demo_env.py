"""The demo's own environment: an interpreter old enough for the release that hangs, a venv in a cache folder, hangwatch inside it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hangwatch
from hangwatch.errors import HangwatchError

#: What hangwatch uses in there. OpenTelemetry is not: the demo exports nothing.
_OWN = ("psutil>=5.6", "py-spy>=0.4", "tomli>=1.1; python_version < '3.11'")
_PACKAGE = Path(hangwatch.__file__).resolve().parent


class Environment:
    """``home``: its folder; ``python``: its interpreter once made; ``program``: where the demo's service and client lie."""

    def __init__(
        self, name: str, oldest: tuple[int, int], newest: tuple[int, int], packages: tuple[str, ...], say: Callable[[str], None]
    ) -> None:
        self.oldest, self.newest, self.packages, self.say = oldest, newest, packages, say
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        # Two checkouts, or two users of one home, do not share one.
        self.home = cache / "hangwatch" / "demo" / f"{name}-{hashlib.sha256(str(_PACKAGE).encode()).hexdigest()[:8]}"
        self.python = self.home / "venv" / "bin" / "python"
        self.program = self.home / "order-desk"

    def make(self, fresh: bool = False) -> None:
        """Builds what is not there yet and brings hangwatch's own code up to date. Raises HangwatchError."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HangwatchError(
                f"cannot make {self.home}: {error.strerror}", "Set XDG_CACHE_HOME to a folder this user may write."
            ) from None
        ready = self.home / "ready"
        if fresh:
            ready.unlink(missing_ok=True)
        wanted = "\n".join((*self.packages, *_OWN))
        if not ready.exists() or ready.read_text() != wanted or not self.python.exists():
            base = find_python(self.oldest, self.newest)
            self.say(f"Making an environment with {base} in {self.home} (once)")
            shutil.rmtree(self.home / "venv", ignore_errors=True)
            self._run(
                [base, "-m", "venv", str(self.home / "venv")],
                "cannot make a virtual environment",
                "On Debian and Ubuntu: apt install python3-venv.",
            )
            self.install(*self.packages, *_OWN)
            ready.write_text(wanted)
        self._bring_ourselves()

    def install(self, *requirements: str) -> None:
        """With pip, from the index that pip is set up for."""
        self.say(f"pip install {' '.join(r.partition(';')[0] for r in requirements)}")
        command = [str(self.python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary", *requirements]
        self._run(command, "pip could not install what the demo needs", "")

    def _run(self, command: list[str], failed: str, help_text: str) -> None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.variables())
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-800:]
            raise HangwatchError(failed, "\n".join(filter(None, (said, help_text))))

    def variables(self) -> dict[str, str]:
        """Without what would change the demo: other settings of ours, other search paths."""
        return {key: value for key, value in os.environ.items() if not key.startswith(("HANGWATCH_", "OTEL_", "PYTHON", "VIRTUAL_ENV"))}

    def _bring_ourselves(self) -> None:
        """This very hangwatch, however it was installed: it is Python and data only. And the program, which must not lie within it."""
        (packages,) = (self.home / "venv" / "lib").glob("python*/site-packages")
        for source, target in ((_PACKAGE, packages / "hangwatch"), (_PACKAGE / "demo", self.program)):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def find_python(oldest: tuple[int, int], newest: tuple[int, int]) -> str:
    """An interpreter of these versions, the newest first: this one, pyenv's, uv's, or on PATH. Raises HangwatchError."""
    for minor in range(newest[1], oldest[1] - 1, -1):
        for candidate in _candidates(newest[0], minor):
            if _answers(candidate, (newest[0], minor)):
                return candidate
    span = " or ".join(f"{newest[0]}.{minor}" for minor in range(newest[1], oldest[1] - 1, -1))
    help_text = f"The release that hangs runs in no newer one. pyenv install {newest[0]}.{newest[1]}, uv python install {newest[0]}.{newest[1]} or the system's packages bring one."
    raise HangwatchError(f"no Python {span} on this machine (this is {sys.version.split()[0]})", help_text)


def _candidates(major: int, minor: int) -> Iterator[str]:
    if sys.version_info[:2] == (major, minor):
        yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from (str(p) for p in sorted(pyenv.glob(f"{major}.{minor}.*/bin/python"), reverse=True))
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local" / "share" / "uv" / "python")
    yield from (str(p) for p in sorted(uv.glob(f"cpython-{major}.{minor}.*/bin/python{major}.{minor}"), reverse=True))
    on_path = shutil.which(f"python{major}.{minor}")
    if on_path:
        yield on_path


def _answers(python: str, version: tuple[int, int]) -> bool:
    """It runs, is what it says, and can make environments: a pyenv shim may be none of these."""
    code = f"import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != {version!r} or sys.implementation.name != 'cpython')"
    try:
        return subprocess.run([python, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
