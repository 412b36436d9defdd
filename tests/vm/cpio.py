"""An archive as the kernel unpacks it at boot (cpio "newc"; Documentation/driver-api/early-userspace/buffer-format.rst)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_LAST = "TRAILER!!!"


class Cpio:
    """Entries written one after the other; ``close`` ends the archive. Several archives may be put behind each other."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._count = 0

    def tree(self, folder: Path, under: str = "", leave_out=lambda path: False) -> None:
        """All of a folder; ``leave_out`` gets paths relative to it."""
        for place, folders, files in os.walk(folder):
            here = Path(place)
            kept = []
            for name in sorted(folders):
                path = here / name
                if leave_out(path.relative_to(folder)):
                    continue
                if path.is_symlink():
                    files.append(name)
                else:
                    kept.append(name)
                    self.folder(f"{under}/{path.relative_to(folder)}")
            folders[:] = kept
            for name in sorted(files):
                path = here / name
                if leave_out(path.relative_to(folder)):
                    continue
                self.copy(path, f"{under}/{path.relative_to(folder)}")

    def folder(self, name: str) -> None:
        self._entry(name, stat.S_IFDIR | 0o755, b"")

    def copy(self, path: Path, name: str) -> None:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            self._entry(name, stat.S_IFLNK | 0o777, os.readlink(path).encode())
        elif stat.S_ISREG(status.st_mode):
            self._entry(name, stat.S_IFREG | stat.S_IMODE(status.st_mode), path.read_bytes(), int(status.st_mtime))

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        self._entry(name, stat.S_IFREG | mode, content)

    def device(self, name: str, major: int, minor: int) -> None:
        self._entry(name, stat.S_IFCHR | 0o600, b"", device=(major, minor))

    def close(self) -> None:
        self._entry(_LAST, 0, b"")

    def _entry(self, name: str, mode: int, content: bytes, at: int = 0, device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        raw = name.strip("/").encode() + b"\0"
        numbers = (self._count, mode, 0, 0, 1, at, len(content), 0, 0, *device, len(raw), 0)
        self._padded(b"070701" + b"".join(b"%08X" % number for number in numbers) + raw)
        self._padded(content)

    def _padded(self, content: bytes) -> None:
        self._out.write(content + bytes(-len(content) % 4))
