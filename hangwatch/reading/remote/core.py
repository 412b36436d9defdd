"""A core file as memory: what the kernel or gcore wrote when a process died, or was asked to.

The kernel leaves out what it can find again on disk: unchanged pages of mapped files, so the interpreter's own read-only
data. Those pages are taken from the files that the core names, if they are still there and are the same build (the ELF
header page, which the core does hold, must agree). Format: the System V ABI's ELF core, notes as ``fs/binfmt_elf.c``
writes them.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from hangwatch.errors import CannotLook
from hangwatch.reading.remote.memory import PAGE, Region

_PT_LOAD, _PT_NOTE, _ET_CORE = 1, 4, 4
_NT_PRSTATUS, _NT_PRPSINFO, _NT_FILE = 1, 3, 0x46494C45
_PF_X, _PF_W = 1, 2


@dataclass(frozen=True, slots=True)
class _Segment:
    start: int
    end: int
    offset: int
    stored: int
    flags: int


class CoreSource:
    """Memory of a core file. ``pid`` and ``thread_ids`` are those of the process that left it. Raises CannotLook."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise CannotLook(f"{path} is empty", "Was the disk full, or `ulimit -c` 0?")
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise CannotLook(f"{path} cannot be read: {error}") from None
        self.pid = 0
        self.arguments = ""
        self.thread_ids: list[int] = []
        self._segments: list[_Segment] = []
        self._files: list[Region] = []
        self._opened: dict[str, mmap.mmap | None] = {}
        #: files that the core needs and that are gone or another build by now
        self.missing: set[str] = set()
        try:
            self._parse()
        except (struct.error, IndexError):
            raise CannotLook(f"{path} is damaged or was not written to its end", "Was the disk full, or `ulimit -c` small?") from None

    def _parse(self) -> None:
        data = self._data
        if data[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", data, 16)[0] != _ET_CORE:
            raise CannotLook(
                f"{self.path} is no 64-bit ELF core file", "gcore PID writes one, or the kernel does with `ulimit -c unlimited`."
            )
        (offset,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        if count == 0xFFFF:  # PN_XNUM: the real number stands in the first section header
            (sections,) = struct.unpack_from("<Q", data, 40)
            (count,) = struct.unpack_from("<I", data, sections + 44)
        for number in range(count):
            kind, flags, at, start, _, stored, length, _ = struct.unpack_from("<IIQQQQQQ", data, offset + number * size)
            if kind == _PT_LOAD:
                self._segments.append(_Segment(start, start + length, at, stored, flags))
            elif kind == _PT_NOTE:
                self._notes(at, stored)
        self._segments.sort(key=lambda segment: segment.start)

    def _notes(self, at: int, length: int) -> None:
        end = at + length
        while at + 12 <= end:
            name_length, size, kind = struct.unpack_from("<III", self._data, at)
            content = at + 12 + (name_length + 3 & ~3)
            if kind == _NT_PRSTATUS:
                self.thread_ids.append(struct.unpack_from("<i", self._data, content + 32)[0])
            elif kind == _NT_PRPSINFO:
                self.pid = struct.unpack_from("<i", self._data, content + 24)[0]
                self.arguments = self._data[content + 56 : content + 136].split(b"\0")[0].decode("utf-8", "replace").strip()
            elif kind == _NT_FILE:
                self._mapped_files(content, size)
            at = content + (size + 3 & ~3)

    def _mapped_files(self, at: int, size: int) -> None:
        count, page = struct.unpack_from("<QQ", self._data, at)
        names = self._data[at + 16 + 24 * count : at + size].split(b"\0")
        for number in range(count):
            start, end, offset = struct.unpack_from("<QQQ", self._data, at + 16 + 24 * number)
            self._files.append(Region(start, end, "r--p", offset * page, names[number].decode("utf-8", "surrogateescape")))

    @property
    def executable(self) -> str:
        """The first file that is mapped: the program comes before its libraries, except where it does not; so a Python is preferred."""
        paths = list(dict.fromkeys(region.path for region in self._files))
        named = [path for path in paths if os.path.basename(path).startswith(("python", "uwsgi"))]
        return (named or paths or [""])[0]

    def regions(self) -> list[Region]:
        """The segments with the files they were mapped from; files that the core leaves out whole are added."""
        found = [self._region(segment) for segment in self._segments]
        covered = {region.start for region in found}
        found += [
            region
            for region in self._files
            if region.start not in covered and not any(s.start <= region.start < s.end for s in self._segments)
        ]
        return sorted(found, key=lambda region: region.start)

    def _region(self, segment: _Segment) -> Region:
        file = next((region for region in self._files if region.start <= segment.start < region.end), None)
        permissions = f"r{'w' if segment.flags & _PF_W else '-'}{'x' if segment.flags & _PF_X else '-'}p"
        offset = file.offset + segment.start - file.start if file else 0
        return Region(segment.start, segment.end, permissions, offset, file.path if file else "")

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        return [self._read(address, length) for address, length in ranges]

    def _read(self, address: int, length: int) -> bytes | None:
        parts = []
        while length > 0:
            part = self._piece(address, length)
            if not part:
                return None
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def _piece(self, address: int, length: int) -> bytes | None:
        for segment in self._segments:
            if segment.start <= address < segment.end:
                stored_end = segment.start + segment.stored
                if address < stored_end:
                    offset = segment.offset + address - segment.start
                    return self._data[offset : offset + min(length, stored_end - address)]
                return self._from_file(address, min(length, segment.end - address))
        return self._from_file(address, length)

    def _from_file(self, address: int, length: int) -> bytes | None:
        for region in self._files:
            if region.start <= address < region.end:
                data = self._open(region.path)
                if data is None:
                    return None
                offset = region.offset + address - region.start
                piece = data[offset : offset + min(length, region.end - address)]
                # Past the end of the file the last page is zeros.
                return piece or bytes(min(length, region.end - address))
        return None

    def _open(self, path: str) -> mmap.mmap | None:
        if path not in self._opened:
            self._opened[path] = None
            try:
                with open(path, "rb") as file:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if self._is_same(path, data):
                    self._opened[path] = data
            except (OSError, ValueError):
                pass
            if self._opened[path] is None:
                self.missing.add(path)
        return self._opened[path]

    def _is_same(self, path: str, data: mmap.mmap) -> bool:
        """ELF header and program headers are in the core and on disk the same: they hold every size and offset of the build."""
        first = next((region for region in self._files if region.path == path and region.offset == 0), None)
        if first is None:
            return True
        for segment in self._segments:
            if segment.start <= first.start < segment.start + segment.stored:
                offset = segment.offset + first.start - segment.start
                size, count = struct.unpack_from("<HH", data, 54)
                head = min(64 + size * count, PAGE)
                return self._data[offset : offset + head] == data[:head]
        return True


class CoreSide:
    """The kernel's part, of which a core keeps only the thread ids."""

    def __init__(self, source: CoreSource) -> None:
        self._source = source

    def executable(self) -> str:
        return self._source.executable

    def outside_ids(self) -> dict[int, int]:
        return {tid: tid for tid in self._source.thread_ids}

    def activity(self) -> object:
        return self._source.path

    def now_ns(self) -> int:
        return 0

    def cpu_ns(self, native_id: int) -> int | None:
        return None

    def syscall(self, native_id: int) -> str | None:
        return None

    def call_name(self, native_id: int) -> str | None:
        return None

    def futex(self, native_id: int) -> int | None:
        return None

    def descriptors(self, native_id: int) -> tuple[int, ...]:
        return ()

    def begin(self) -> None:
        pass

    def peer(self, descriptor: int) -> str | None:
        return None
