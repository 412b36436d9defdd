"""Another process' memory: read in blocks, remembered, never written, nothing stopped.

Memory is fetched in blocks of 64 KiB, because the objects of a Python heap lie
together in arenas: ten thousand tasks are then some hundred system calls, not some hundred thousand.

What was read stays as it was until `Memory.forget`: a look at a moving process is a look at one moment per block, and
`Memory.fresh` reads past the cache where two moments have to be compared.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

PAGE: Final = 4096
#: Pages fetched at once; 16 is where the time per useful byte stopped falling on heaps of 15 to 10,000 tasks.
_BLOCK_PAGES: Final = 16
#: No object that is looked at is larger: a longer request comes from a torn or wrong length.
_LONGEST: Final = 1 << 26

_U64 = struct.Struct("<Q").unpack_from
_I32 = struct.Struct("<i").unpack_from
#: Unpacks so many words; the few lengths of small objects come again and again.
_WORDS: Final = tuple(struct.Struct(f"<{count}Q").unpack_from for count in range(65))


class Unreadable(Exception):
    """An address that is not mapped, or a value that cannot be what it should be. Never leaves the reader."""


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping. ``path`` is "" for anonymous memory; ``offset`` is where in the file it begins."""

    start: int
    end: int
    permissions: str
    offset: int
    path: str


class Source(Protocol):
    """Where bytes come from: a process, or a core file."""

    def regions(self) -> list[Region]: ...

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The bytes of each ``(address, length)``; None for a range that cannot be read whole."""


class Memory:
    """Typed reads over a `Source`, through a cache of pages."""

    __slots__ = ("_block", "_reparsed", "_starts", "fetched_bytes", "fetches", "pages", "regions", "source")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fetches = 0
        self.fetched_bytes = 0
        self._block = _BLOCK_PAGES
        self.pages: dict[int, tuple[bytes, int]] = {}
        self.regions: list[Region] = []
        self._starts: list[int] = []
        self._reparsed = 0
        self.forget()

    def forget(self) -> None:
        """Drops what was read and looks up the mappings anew."""
        self.drop()
        self._reparsed = 0
        self._map()

    def drop(self, *, small: bool = False) -> None:
        """Drops what was read, keeps the mappings. ``small``: read single pages from now on, for what is about to change again."""
        self.pages.clear()
        self._block = 1 if small else _BLOCK_PAGES

    def _map(self) -> None:
        self.regions = self.source.regions()
        self._starts = [region.start for region in self.regions]

    def region_of(self, address: int) -> Region | None:
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.regions[index].end:
            return self.regions[index]
        return None

    def _load(self, page: int) -> tuple[bytes, int]:
        address = page * PAGE
        region = self.region_of(address)
        if region is None and self._reparsed < 3 and PAGE <= address < 1 << 56:
            # The heap may have grown since the mappings were listed. Torn pointers come here too: so not for ever.
            self._reparsed += 1
            self._map()
            region = self.region_of(address)
        if region is None:
            raise Unreadable(f"{address:#x} is not mapped")
        first = page - page % self._block
        start = max(first * PAGE, region.start)
        end = min((first + self._block) * PAGE, region.end)
        data = self._fetch(start, end - start)
        if data is None:
            start, end = address, address + PAGE
            data = self._fetch(start, PAGE)
            if data is None:
                raise Unreadable(f"{address:#x} cannot be read")
        entry = (data, start)
        for number in range(start // PAGE, end // PAGE):
            self.pages[number] = entry
        return entry

    def _fetch(self, address: int, length: int) -> bytes | None:
        self.fetches += 1
        data = self.source.fetch([(address, length)])[0]
        if data is not None:
            self.fetched_bytes += length
        return data

    def read(self, address: int, length: int) -> bytes:
        if not 0 <= length <= _LONGEST or not PAGE <= address < 1 << 56:
            raise Unreadable(f"{length} bytes at {address:#x}")
        page = address // PAGE
        data, base = self.pages.get(page) or self._load(page)
        offset = address - base
        part = data[offset : offset + length]
        if len(part) == length:
            return part
        parts = [part]
        have = len(part)
        while have < length:
            page = (address + have) // PAGE
            data, base = self.pages.get(page) or self._load(page)
            offset = address + have - base
            part = data[offset : offset + length - have]
            if not part:
                raise Unreadable(f"{address + have:#x}")
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def u64(self, address: int) -> int:
        entry = self.pages.get(address >> 12)
        if entry is not None:
            data, base = entry
            offset = address - base
            if offset + 8 <= len(data):
                number: int = _U64(data, offset)[0]
                return number
        return int.from_bytes(self.read(address, 8), "little")

    def i64(self, address: int) -> int:
        number = self.u64(address)
        return number - (1 << 64) if number >> 63 else number

    def i32(self, address: int) -> int:
        number: int = _I32(self.read(address, 4))[0]
        return number

    def u32(self, address: int) -> int:
        return int.from_bytes(self.read(address, 4), "little")

    def u8(self, address: int) -> int:
        return self.read(address, 1)[0]

    def i8(self, address: int) -> int:
        number = self.read(address, 1)[0]
        return number - 256 if number >= 128 else number

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """``count`` unsigned 64-bit words."""
        if not 0 <= count <= _LONGEST // 8:
            raise Unreadable(f"{count} words at {address:#x}")
        if count > 64:
            return struct.unpack(f"<{count}Q", self.read(address, 8 * count))
        entry = self.pages.get(address >> 12)
        if entry is not None:
            data, base = entry
            if address - base + 8 * count <= len(data):
                return _WORDS[count](data, address - base)
        return _WORDS[count](self.read(address, 8 * count))

    def text(self, address: int, limit: int = 256) -> str:
        """A C string."""
        found = b""
        while len(found) < limit:
            step = min(32, PAGE - (address + len(found)) % PAGE)
            piece = self.read(address + len(found), step)
            end = piece.find(b"\0")
            if end >= 0:
                return (found + piece[:end]).decode("utf-8", "replace")
            found += piece
        return found[:limit].decode("utf-8", "replace")

    def fresh(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """These ranges as they are now, past the cache."""
        self.fetches += 1
        return self.source.fetch(ranges)

    def unchanged(self, marks: Sequence[tuple[int, bytes]]) -> list[bool]:
        """For each address and what was read there: does it read the same at this moment, past the cache?

        Asked for one by one and in this order, not by the block: what belongs together is then read within a microsecond. A coroutine that
        runs all the time comes back to where it was, at the same addresses, and two halves of different rounds would seem to fit.
        """
        contents = [content for _, content in marks]
        found = self.fresh([(address, len(content)) for address, content in marks]) if marks else []
        return [True] * len(marks) if found == contents else [now == then for now, then in zip(found, contents, strict=True)]


def parse_maps(lines: Iterable[str]) -> list[Region]:
    """The lines of /proc/PID/maps, in ascending order as the kernel gives them."""
    found = []
    for line in lines:
        columns = line.rstrip("\n").split(None, 5)
        start, _, end = columns[0].partition("-")
        path = columns[5] if len(columns) > 5 else ""
        found.append(Region(int(start, 16), int(end, 16), columns[1], int(columns[2], 16), path))
    return found
