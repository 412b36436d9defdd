"""The CPythons of this machine, and a venv on each with what the in-process tests need."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What the agent runs in. 3.15 where its wheels can be had.
INSIDE = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
#: The servers whose hooks and frames are tested everywhere; compiled ones only where a wheel exists.
PACKAGES = ["pytest>=8", "pytest-timeout", "uvicorn>=0.30", "h11", "httptools", "uvloop", "starlette", "anyio>=4"]


def found(version: str) -> Path | None:
    """An interpreter of that minor version: this one, pyenv's, one that `.ci/python-from-debian` unpacked, or on PATH."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*sorted(pyenv.glob(f"{version}.*/bin/python")), ROOT / ".cache" / "pythons" / version / "bin" / f"python{version}"]
    if on_path := shutil.which(f"python{version}"):
        candidates.append(Path(on_path))
    for candidate in candidates:
        if candidate.exists() and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return candidate
    return None


def environment(version: str, packages: list[str] = PACKAGES) -> Path:
    """The interpreter of a venv of that version with ``packages``, and hangwatch (editable) where it runs; built once.

    Raises RuntimeError with pip's words when something cannot be installed there.
    """
    base = found(version)
    if base is None:
        raise RuntimeError(f"no Python {version} on this machine")
    wanted = "\n".join([str(base), *packages, (ROOT / "pyproject.toml").read_text()])
    home = ROOT / ".venvs" / f"{version}-{hashlib.sha1(wanted.encode()).hexdigest()[:8]}"
    python = home / "bin" / "python"
    with _alone(home.parent / f"{home.name}.lock"):
        if not (home / "ready").exists():
            shutil.rmtree(home, ignore_errors=True)
            _install(base, home, [*packages, *(["-e", str(ROOT)] if version in INSIDE else [])])
            (home / "ready").touch()
    return python


def with_uvloop(version: str) -> Path:
    """An interpreter of that version which has uvloop. Raises RuntimeError where it cannot be installed."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return Path(sys.executable)  # among what the tests themselves need
    return environment(version) if version in INSIDE else environment(version, ["uvloop"])


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Tests run side by side: one of them builds, the others wait for it."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(base: Path, home: Path, packages: list[str]) -> None:
    """Debian splits pip out of ensurepip: there its wheel, which can be run as it is, installs instead."""
    wheels = sorted((base.resolve().parent.parent / "share" / "python-wheels").glob("pip-*.whl"))
    subprocess.run([base, "-m", "venv", *(["--without-pip"] if wheels else []), home], check=True, capture_output=True)
    pip = [f"{wheels[-1]}/pip"] if wheels else ["-m", "pip"]
    command = [home / "bin" / "python", *pip, "install", "-q", "--disable-pip-version-check", "--prefer-binary", *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-800:])
