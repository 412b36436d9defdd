"""What a virtual machine is made of: qemu, a kernel, roots with interpreters and their packages, all unpacked under one cache folder."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.vm.cpio import Cpio
from tests.vm.debian import Archive, CannotHave

ROOT = Path(__file__).resolve().parents[2]
GUEST = Path(__file__).resolve().parent / "guest"
#: Of the interpreters' roots: what no program of ours reads, and would only fill the machine's memory.
_LEFT_OUT = ("usr/share", "usr/lib/locale", "usr/lib/git-core", "etc", "var", "usr/include")
_LEFT_OUT_NAMES = ("test", "tests", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter", "gconv", "locale")
#: In this order: one needs the other before it.
_MODULES = ("inet_diag", "tcp_diag", "unix_diag")
_PLATFORMS = {"arm64": "aarch64", "amd64": "x86_64"}
#: What each suite has. A root holds all of its suite's.
VERSIONS = {"bullseye": ("3.9",), "bookworm": ("3.11",), "trixie": ("3.13",), "sid": ("3.14", "3.15")}
#: typing_extensions is what uvicorn wants before 3.11: pip asks its own Python for that, not the one it installs for.
_PACKAGES = ("uvicorn", "click", "psutil", "typing_extensions")
#: The last that run on 3.9, which some of their successors claim to.
_PACKAGES_FOR_39 = ("uvicorn<0.40", "click<8.2", "psutil", "typing_extensions")
#: Not for every version on every machine: a target that needs the absent one is skipped by name.
_WHERE_THERE_ARE_WHEELS = ("uvloop", "httptools")


@dataclass(frozen=True)
class Target:
    """An interpreter to look at: the suite it is from, its version, the loop its service runs on."""

    suite: str
    version: str
    loop: str

    def __str__(self) -> str:
        return f"{self.version} {self.loop}"


@dataclass(frozen=True)
class Machine:
    """One virtual machine: a kernel of a suite on an architecture, and what is looked at in it, in this order."""

    name: str
    arch: str
    suite: str
    kernel: str
    targets: tuple[Target, ...]


class Parts:
    """Gets what is missing, once. Every method raises CannotHave."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._archives: dict[tuple[str, str], Archive] = {}

    def archive(self, suite: str, arch: str) -> Archive:
        return self._archives.setdefault((suite, arch), Archive(self._cache / "apt", suite, arch))

    def qemu(self, arch: str) -> tuple[list[str], dict[str, str]]:
        """The command and its environment: the machine's own qemu, else one unpacked with all its libraries."""
        program = f"qemu-system-{_PLATFORMS[arch]}"
        own = shutil.which(program)
        if own:
            return [own], {}
        native = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True).stdout.strip()
        suite = _own_suite()
        root = self.archive(suite, native).unpack(["qemu-system-arm", "qemu-system-x86", "busybox-static"], self._cache / "qemu")
        library = next(root.glob("usr/lib/*-linux-gnu"))
        loader = next(library.glob("ld-linux-*.so.*"), None) or next(root.glob("usr/lib64/ld-linux-*"))
        command = [str(loader), "--library-path", f"{library}:{library}/pulseaudio", str(root / "usr/bin" / program)]
        return [*command, "-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")], {
            "QEMU_MODULE_DIR": str(library / "qemu")
        }

    def kernel(self, machine: Machine) -> tuple[Path, list[Path]]:
        """The image, and those modules of it that are needed."""
        folder = self.archive(machine.suite, machine.arch).kernel(machine.kernel, self._cache / f"kernel-{machine.suite}-{machine.kernel}")
        images = [*folder.glob("boot/vmlinuz-*"), *folder.glob("usr/lib/modules/*/vmlinuz")]
        if not images:
            raise CannotHave(f"{machine.kernel} of {machine.suite} holds no kernel image")
        modules = []
        for name in _MODULES:
            modules += list(folder.glob(f"usr/lib/modules/*/kernel/net/**/{name}.ko*"))
        return images[0], modules

    def root(self, suite: str, arch: str) -> Path:
        """A folder to be the root of the suite's interpreters, with their packages in ``opt/VERSION``."""
        versions = VERSIONS[suite]
        folder = self.archive(suite, arch).unpack([f"python{version}" for version in versions], self._cache / f"root-{suite}-{arch}")
        for version in versions:
            packages = folder / "opt" / version
            if not packages.is_dir():
                _install(version, arch, packages)
                _compile(version, folder)
        return folder

    def busybox(self, arch: str) -> Path:
        return self.archive(_own_suite(), arch).unpack(["busybox-static"], self._cache / f"busybox-{arch}") / "usr/bin/busybox"


def _own_suite() -> str:
    release = Path("/etc/os-release").read_text()
    found = [line.partition("=")[2] for line in release.splitlines() if line.startswith("VERSION_CODENAME=")]
    if not found:
        raise CannotHave("this machine's Debian has no codename")
    return found[0]


def _install(version: str, arch: str, into: Path) -> None:
    platforms = [f"manylinux{kind}_{_PLATFORMS[arch]}" for kind in ("_2_28", "_2_17", "2014", "_2_34")]
    options = ["--only-binary=:all:", "--python-version", version, *(word for name in platforms for word in ("--platform", name))]
    unfinished = into.with_name(into.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-compile", "--target", str(unfinished)]
    wanted = _PACKAGES_FOR_39 if version == "3.9" else _PACKAGES
    done = subprocess.run([*command, *options, *wanted], capture_output=True, text=True)
    if done.returncode:
        raise CannotHave(f"packages for Python {version} on {arch}: {done.stderr.strip().splitlines()[-1]}")
    for package in _WHERE_THERE_ARE_WHEELS:
        subprocess.run([*command, "--no-deps", *options, package], capture_output=True)
    unfinished.rename(into)


def _compile(version: str, root: Path) -> None:
    """Ahead, where this machine has that version: an emulated processor takes long for it. Debian does so when it installs."""
    python = shutil.which(f"python{version}") or next(map(str, ROOT.glob(f".cache/pythons/{version}/bin/python{version}")), None)
    if python is None:
        return
    for folder in (root / "opt" / version, root / f"usr/lib/python{version}"):
        command = [python, "-m", "compileall", "-q", "-j", "2", "-x", r"/(test|tests|lib2to3|idlelib)/", "-s", str(root), str(folder)]
        subprocess.run(command, capture_output=True)


def image(machine: Machine, parts: Parts, path: Path) -> None:
    """The machine's first and only file system, written to ``path``: it lives in memory."""
    _, modules = parts.kernel(machine)
    with path.open("wb") as out:
        cpio = Cpio(out)
        for name in ("bin", "dev", "proc", "sys", "tmp", "roots", "srv", "modules"):
            cpio.folder(name)
        cpio.device("dev/console", 5, 1)
        cpio.copy(parts.busybox(machine.arch), "bin/busybox")
        cpio.file("init", (GUEST / "init").read_bytes(), 0o755)
        for number, module in enumerate(modules):
            content = module.read_bytes()
            cpio.file(
                f"modules/{number}-{module.name.partition('.')[0]}.ko", lzma.decompress(content) if module.suffix == ".xz" else content
            )
        for folder in ("hangwatch", "collectors"):
            cpio.folder(f"srv/{folder}")
            cpio.tree(ROOT / folder, f"srv/{folder}")
        cpio.copy(parts.busybox(machine.arch), "srv/busybox")
        cpio.folder("srv/guest")
        cpio.tree(GUEST, "srv/guest", lambda path: path.name == "__pycache__")
        plan = [{"root": target.suite, "version": target.version, "loop": target.loop} for target in machine.targets]
        cpio.file("srv/plan.json", json.dumps({"targets": plan, "only": os.environ.get("VM_CHECKS", "")}).encode())
        for suite in dict.fromkeys(target.suite for target in machine.targets):
            cpio.folder(f"roots/{suite}")
            cpio.tree(parts.root(suite, machine.arch), f"roots/{suite}", _leave_out)
        cpio.close()


def _leave_out(path: Path) -> bool:
    return str(path) in _LEFT_OUT or path.name in _LEFT_OUT_NAMES
