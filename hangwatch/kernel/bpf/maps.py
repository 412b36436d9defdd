"""A map in the kernel: read, written and dumped by system calls."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator

from hangwatch.kernel.bpf import syscall
from hangwatch.kernel.bpf.elf import MapSpec
from hangwatch.kernel.bpf.syscall import BpfError

_BATCH = 1024
_Buffers = tuple[ctypes.Array[ctypes.c_char], ctypes.Array[ctypes.c_char], int]


class Map:
    """Made in the kernel when constructed; gone with its descriptor. Keys and values are bytes of the sizes in ``spec``."""

    def __init__(self, spec: MapSpec) -> None:
        self.spec = spec
        name = spec.name.encode()[:15]
        attributes = struct.pack("<IIIIIII16s", spec.kind, spec.key_bytes, spec.value_bytes, spec.entries, spec.flags, 0, 0, name)
        self.fd, _ = syscall.bpf(syscall.MAP_CREATE, attributes, f"MAP_CREATE {spec.name}")
        # Some kernels set the flag themselves, all of them have F_DUPFD_CLOEXEC; a child of ours must not keep a collector alive.
        os.set_inheritable(self.fd, False)
        self._buffers = self._room(min(_BATCH, max(spec.entries, 1)))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _call(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None, step: str) -> None:
        keys = ctypes.create_string_buffer(key, max(len(key), 1))
        values = syscall.address_of(value) if value is not None else 0
        syscall.bpf(command, struct.pack("<IIQQQ", self.fd, 0, syscall.address_of(keys), values, 0), f"{step} {self.spec.name}")

    def put(self, key: bytes, value: bytes) -> None:
        """Raises BpfError (E2BIG: the map is full)."""
        self._call(syscall.MAP_UPDATE, key, ctypes.create_string_buffer(value, max(len(value), 1)), "MAP_UPDATE")

    def put_all(self, keys: bytes, values: bytes) -> None:
        """Many entries in one call: keys behind each other, values as well. (5.6+) Raises BpfError."""
        rooms = [ctypes.create_string_buffer(raw, len(raw)) for raw in (keys, values)]
        addresses = [syscall.address_of(room) for room in rooms]
        count = len(keys) // self.spec.key_bytes
        attributes = struct.pack("<QQQQIIQQ", 0, 0, *addresses, count, self.fd, 0, 0)
        syscall.bpf(syscall.MAP_UPDATE_BATCH, attributes, f"MAP_UPDATE_BATCH {self.spec.name}")

    def get(self, key: bytes) -> bytes | None:
        answer = ctypes.create_string_buffer(self.spec.value_bytes)
        try:
            self._call(syscall.MAP_LOOKUP, key, answer, "MAP_LOOKUP")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return answer.raw

    def drop(self, key: bytes) -> None:
        """Removes an entry; no error when there is none."""
        try:
            self._call(syscall.MAP_DELETE, key, None, "MAP_DELETE")
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry of a hash, as many as were there while it was read; some milliseconds for ten thousand."""
        size_key, size_value = self.spec.key_bytes, self.spec.value_bytes
        for keys, values, count in self.batches():
            for place in range(count):
                yield keys[place * size_key : (place + 1) * size_key], values[place * size_value : (place + 1) * size_value]

    def batches(self) -> Iterator[tuple[bytes, bytes, int]]:
        """The entries of a hash in large pieces: all keys, all values, how many. (5.6+)"""
        token_in, token_out = ctypes.create_string_buffer(16), ctypes.create_string_buffer(16)
        first = True
        while True:
            keys, values, room = self._buffers
            addresses = [syscall.address_of(buffer) for buffer in (token_in, token_out, keys, values)]
            count, more = self._batch(struct.pack("<QQQQIIQQ", 0 if first else addresses[0], *addresses[1:], room, self.fd, 0, 0))
            if count < 0:  # one bucket alone holds more than there is room for
                self._buffers = self._room(room * 2)
                continue
            if count:
                yield ctypes.string_at(keys, count * self.spec.key_bytes), ctypes.string_at(values, count * self.spec.value_bytes), count
            if not more:
                return
            token_in.raw, first = token_out.raw, False

    def _room(self, entries: int) -> _Buffers:
        """Made once: a map is read many times a second."""
        return (
            ctypes.create_string_buffer(entries * self.spec.key_bytes),
            ctypes.create_string_buffer(entries * self.spec.value_bytes),
            entries,
        )

    def _batch(self, attributes: bytes) -> tuple[int, bool]:
        """How many entries came (-1: not enough room) and whether there are more."""
        block = ctypes.create_string_buffer(attributes, len(attributes))
        try:
            _, answer = syscall.bpf_in_place(syscall.MAP_LOOKUP_BATCH, block, f"MAP_LOOKUP_BATCH {self.spec.name}")
        except BpfError as error:
            if error.errno == errno.ENOSPC:
                return -1, True
            if error.errno != errno.ENOENT:
                raise
            answer = block.raw
            return struct.unpack_from("<I", answer, 32)[0], False
        return struct.unpack_from("<I", answer, 32)[0], True
