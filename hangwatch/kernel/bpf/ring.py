"""The kernel's ring buffer (Documentation/bpf/ringbuf.rst), read from Python.

Python has no acquire loads, and arm64 may read a record before the position that says it is there. A lock that is let go and taken again
is a full barrier in between: a release that is followed by an acquire is not reordered there (the architecture's RCsc), and x86-64 needs none.
"""

from __future__ import annotations

import ctypes
import mmap
import select
import struct
import threading

from hangwatch.kernel.bpf.maps import Map

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_LENGTH = _DISCARDED - 1


class Ring:
    """Records of one ``BPF_MAP_TYPE_RINGBUF``, in order."""

    def __init__(self, map_: Map) -> None:
        self._size = map_.spec.entries
        self._consumer = mmap.mmap(map_.fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self._position = ctypes.c_uint64.from_buffer(self._consumer)
        # The data lies there twice in a row, so that no record is cut.
        self._data = mmap.mmap(map_.fd, mmap.PAGESIZE + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=mmap.PAGESIZE)
        self._lock = threading.Lock()
        self._lock.acquire()
        self._poll = select.poll()
        self._poll.register(map_.fd, select.POLLIN)

    def read(self, timeout_s: float = 0.0) -> list[bytes]:
        """What has arrived; waits that long for the first."""
        self._poll.poll(int(timeout_s * 1e3))
        found: list[bytes] = []
        position = self._position.value
        (end,) = struct.unpack_from("<Q", self._data, 0)
        while position < end:
            self._fence()
            position, end = self._take(position, end, found)
            self._fence()
            self._position.value = position
        return found

    def _take(self, position: int, end: int, found: list[bytes]) -> tuple[int, int]:
        """Up to ``end``: where the reader is then, and where the writer was; both the same when a record is not finished yet."""
        while position < end:
            at = mmap.PAGESIZE + (position & (self._size - 1))
            (length,) = struct.unpack_from("<I", self._data, at)
            if length & _BUSY:
                return position, position
            if not length & _DISCARDED:
                found.append(self._data[at + 8 : at + 8 + (length & _LENGTH)])
            position += ((length & _LENGTH) + 8 + 7) & ~7
        return position, struct.unpack_from("<Q", self._data, 0)[0]

    def _fence(self) -> None:
        """What was read before is read before what comes next, and before the kernel may write there again."""
        self._lock.release()
        self._lock.acquire()

    def close(self) -> None:
        del self._position
        self._consumer.close()
        self._data.close()
