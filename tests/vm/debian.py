"""Debian packages of any architecture and suite, unpacked into a folder: nothing is installed, the machine's own apt is left as it is.

The mirror is the one that the machine is configured with.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
#: What holds a kernel: its image, and since 7.2 the packages of its parts.
_KERNEL_PART = re.compile(r"linux-(?:image|binary|modules)-\d\S*")
_MERGED = ("bin", "sbin", "lib", "lib64")


class CannotHave(Exception):
    """A package, or the tool to get it with, is not to be had here; the message says which and why."""


class Archive:
    """One suite for one architecture, with an apt of its own under ``home``."""

    def __init__(self, home: Path, suite: str, arch: str) -> None:
        self.suite, self.arch = suite, arch
        self._home = home.resolve() / f"{suite}-{arch}"  # apt takes what is relative for its own
        self._ready = False

    def unpack(self, packages: Iterable[str], into: Path) -> Path:
        """The packages with all they depend on, in a folder that may serve as a root. Kept between runs."""
        return self._once(into, lambda folder: self._unpack(self._with_dependencies(tuple(packages)), folder))

    def kernel(self, package: str, into: Path) -> Path:
        """A kernel (``linux-image-cloud-arm64``) with its modules; what would make it bootable on real disks is left out."""
        return self._once(into, lambda folder: self._unpack(self._download(self._kernel_parts(package)), folder))

    def _once(self, into: Path, make) -> Path:
        if into.is_dir():
            return into
        unfinished = into.with_name(into.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make(unfinished)
        return unfinished.rename(into)

    def _unpack(self, debs: list[Path], into: Path) -> None:
        # As base-files would: Debian's packages count on these being links.
        for name in _MERGED:
            (into / "usr" / name).mkdir(parents=True, exist_ok=True)
            (into / name).symlink_to(f"usr/{name}")
        for deb in debs:
            archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
            done = subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", str(into)], stdin=archive.stdout)
            if archive.wait() or done.returncode:
                raise CannotHave(f"{deb.name} could not be unpacked")

    def _with_dependencies(self, packages: tuple[str, ...]) -> list[Path]:
        self._apt("apt-get", "-y", "--no-install-recommends", "--download-only", "install", *packages)
        debs = sorted((self._home / "cache/archives").glob("*.deb"))
        # The next set of packages must not find these.
        return [deb.rename(self._folder("debs") / deb.name) for deb in debs]

    def _download(self, packages: list[str]) -> list[Path]:
        folder = self._folder("debs")
        before = set(folder.glob("*.deb"))
        self._apt("apt-get", "download", *packages, cwd=folder)
        return sorted(set(folder.glob("*.deb")) - before)

    def _kernel_parts(self, package: str) -> list[str]:
        found: list[str] = []
        ahead = [package]
        while ahead:
            name = ahead.pop()
            shown = self._apt("apt-cache", "show", "--no-all-versions", name)
            depends = " ".join(line for line in shown.splitlines() if line.startswith("Depends:"))
            parts = [part for part in _KERNEL_PART.findall(depends) if part not in found]
            found += parts
            ahead += parts
        if not found:
            raise CannotHave(f"{self.suite} has no {package}")
        return found

    def _folder(self, name: str) -> Path:
        folder = self._home / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _apt(self, tool: str, *words: str, cwd: Path | None = None) -> str:
        if not self._ready:
            self._prepare()
        done = subprocess.run([tool, "-qq", *self._options(), *words], capture_output=True, text=True, cwd=cwd)
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.startswith("E:")), done.stderr.strip())
            raise CannotHave(f"{self.suite} for {self.arch}: {said}")
        return done.stdout

    def _options(self) -> list[str]:
        home = self._home
        given = {
            "APT::Architecture": self.arch, "APT::Architectures": self.arch, "Dir::Etc::sourcelist": home / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null", "Dir::State::lists": home / "lists", "Dir::State::status": home / "status",
            "Dir::Cache": home / "cache", "APT::Sandbox::User": "root", "Acquire::Languages": "none",
        }  # fmt: skip
        return [word for name, value in given.items() for word in ("-o", f"{name}={value}")]

    def _prepare(self) -> None:
        if not shutil.which("apt-get") or not SOURCES.is_file():
            raise CannotHave("this machine is no Debian with an apt of its own")
        self._folder("lists/partial")
        self._folder("cache/archives/partial")
        (self._home / "status").touch()
        (self._home / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {self.suite} main\n")
        self._ready = True
        self._apt("apt-get", "update")


def mirror() -> str:
    """Where the machine gets its Debian from."""
    found = re.search(r"^URIs:\s*(\S+)", SOURCES.read_text(), re.MULTILINE)
    if found is None:
        raise CannotHave(f"{SOURCES} names no mirror")
    return found[1]
