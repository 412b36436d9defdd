"""A case: a folder with a service, a trigger that makes it hang, pinned packages, and the truth."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
VENVS = ROOT / ".venvs" / "corpus"


class NotHere(Exception):
    """This machine lacks something the case needs; the message names it."""


@dataclass(frozen=True)
class Case:
    """``fixed``: run the variant that does not hang (other packages, or ``app_fixed.py``); it must stay silent."""

    folder: Path
    fixed: bool = False

    @cached_property
    def truth(self) -> dict[str, Any]:
        return json.loads((self.folder / "case.json").read_text())

    @property
    def id(self) -> str:
        return self.folder.name + (" (fixed)" if self.fixed else "")

    @property
    def healthy(self) -> bool:
        return self.fixed or (not self.truth["causes"] and self.folder.parent.name == "healthy")

    @property
    def app(self) -> str:
        name = self.truth.get("run", {}).get("app", "app.py")
        fixed = f"{Path(name).stem}_fixed.py"
        return fixed if self.fixed and (self.folder / fixed).exists() else name

    @property
    def requirements(self) -> Path:
        fixed = self.folder / "requirements-fixed.txt"
        return fixed if self.fixed and fixed.exists() else self.folder / "requirements.txt"

    @property
    def python(self) -> str:
        """Where it is the interpreter that fixes it, ``python_fixed`` says which."""
        version = str(self.truth.get("python", "3.11"))
        return str(self.truth.get("python_fixed", version)) if self.fixed else version

    @property
    def has_fixed(self) -> bool:
        return (self.folder / "requirements-fixed.txt").exists() or (self.folder / "app_fixed.py").exists()


def every(only: set[str] | None = None, fixed: bool = False) -> list[Case]:
    """All cases, hangs first; with ``fixed`` the variants that do not hang instead."""
    folders = sorted(p.parent for kind in ("hangs", "healthy") for p in (TESTS / kind).glob("*/case.json"))
    cases = [Case(folder, fixed) for folder in folders if not only or folder.name in only]
    return [case for case in cases if case.has_fixed] if fixed else cases


def interpreter(version: str) -> str:
    """A Python of that minor version: pyenv's, else pythonX.Y on PATH. Raises NotHere."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"))]
    if not found and (on_path := shutil.which(f"python{version}")):
        found = [on_path]
    if not found or subprocess.run([found[-1], "-c", ""], capture_output=True).returncode:
        raise NotHere(f"no Python {version}")
    return found[-1]


def environment(case: Case) -> Path:
    """The interpreter of a venv with the case's own pinned packages and hangwatch beside them. Built once."""
    wanted = case.requirements.read_text() if case.requirements.exists() else ""
    version = case.python
    project = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[0]
    home = VENVS / hashlib.sha1(f"{version}\n{wanted}\n{project}".encode()).hexdigest()[:12]
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([interpreter(version), "-m", "venv", str(home)], check=True, capture_output=True)
        pins = ["-r", str(case.requirements)] if wanted.strip() else []
        command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins, "-e", f"{ROOT}[pyspy]"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=case.folder)
        if done.returncode:
            raise NotHere(f"pip: {done.stderr.strip()[-300:]}")
        (home / "ready").write_text(wanted)
    return python
