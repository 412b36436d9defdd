"""What a user installs: the wheel holds all that is read at run time, and the editable install finds it too."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def data_files(folder):
    """Files beside the code that it reads at run time."""
    return {str(p.relative_to(ROOT)) for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}


def test_all_package_data_is_in_the_wheel(wheel):
    assert data_files(ROOT / "hangwatch") <= set(wheel.namelist())


def test_all_modules_are_in_the_wheel(wheel):
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "hangwatch").rglob("*.py")}
    assert modules <= set(wheel.namelist())


def test_collectors_ship_inside_the_package(wheel):
    assert "hangwatch/_collectors/README.md" in wheel.namelist()


def test_no_tests_and_no_paths_of_this_machine(wheel):
    assert not [name for name in wheel.namelist() if name.startswith("tests")]
    text = b"".join(wheel.read(name) for name in wheel.namelist())
    assert str(ROOT).encode() not in text


def test_only_pure_python(wheel):
    assert wheel.filename.endswith("-py3-none-any.whl")
