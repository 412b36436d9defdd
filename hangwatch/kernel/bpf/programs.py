"""A collector in the kernel: its maps, its programs, and which of them are attached."""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import os
import resource
import struct
from types import TracebackType

from hangwatch.kernel.bpf import syscall
from hangwatch.kernel.bpf.elf import MapSpec, Object, Program
from hangwatch.kernel.bpf.maps import Map
from hangwatch.kernel.bpf.syscall import BpfError

_LOG_BYTES = 1 << 20


class Collector:
    """Makes the maps at once; programs are loaded when first attached. ``entries`` overrides a map's size. Raises BpfError."""

    def __init__(self, source: Object, entries: dict[str, int] | None = None) -> None:
        self.source = source
        self.maps: dict[str, Map] = {}
        self._loaded: dict[str, int] = {}
        self._links: dict[str, int] = {}
        _unlock_memory()
        try:
            for spec in source.maps.values():
                self.maps[spec.name] = Map(_resized(spec, (entries or {}).get(spec.name)))
        except BpfError:
            self.close()
            raise

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def attached(self) -> frozenset[str]:
        return frozenset(self._links)

    def load(self, name: str) -> int:
        """The program's descriptor; the verifier has passed it. Raises BpfError with its log."""
        if name not in self._loaded:
            self._loaded[name] = _load(self.source, self.source.programs[name], {n: m.fd for n, m in self.maps.items()})
        return self._loaded[name]

    def attach(self, *names: str) -> None:
        """Attaches these programs to their tracepoints, about a millisecond each the first time. Raises BpfError."""
        for name in names:
            if name in self._links:
                continue
            descriptor = self.load(name)
            point = self.source.programs[name].tracepoint
            text = ctypes.create_string_buffer(point.encode())
            attributes = struct.pack("<QII", syscall.address_of(text), descriptor, 0)
            self._links[name], _ = syscall.bpf(syscall.RAW_TRACEPOINT_OPEN, attributes, f"RAW_TRACEPOINT_OPEN {point}")

    def detach(self, *names: str) -> None:
        """Detaches these, or all."""
        for name in names or tuple(self._links):
            link = self._links.pop(name, None)
            if link is not None:
                os.close(link)

    def close(self) -> None:
        """Nothing of it stays in the kernel."""
        self.detach()
        for descriptor in self._loaded.values():
            os.close(descriptor)
        self._loaded.clear()
        for map_ in self.maps.values():
            map_.close()


def _resized(spec: MapSpec, entries: int | None) -> MapSpec:
    return spec if entries is None else dataclasses.replace(spec, entries=entries)


def _load(source: Object, program: Program, descriptors: dict[str, int]) -> int:
    code = program.linked(descriptors)
    step = f"PROG_LOAD {program.name}"
    try:
        return _prog_load(source, program, code, None, step)
    except BpfError as error:
        if error.errno in (errno.EPERM, errno.ENOSYS):
            raise
        # Once more with a log: what the verifier says is the only way to know why.
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _prog_load(source, program, code, log, step)
        except BpfError as again:
            raise BpfError(again.errno or errno.EINVAL, step, log.value.decode("utf-8", "replace")[-4000:]) from None


def _prog_load(source: Object, program: Program, code: bytes, log: ctypes.Array[ctypes.c_char] | None, step: str) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    license_text = ctypes.create_string_buffer(source.license)
    attributes = struct.pack(
        "<IIQQIIQII16s",
        syscall.PROG_TYPE_RAW_TRACEPOINT,
        len(code) // 8,
        syscall.address_of(instructions),
        syscall.address_of(license_text),
        1 if log is not None else 0,
        len(log) if log is not None else 0,
        syscall.address_of(log) if log is not None else 0,
        0,
        0,
        program.name.encode()[:15],
    )
    return syscall.bpf(syscall.PROG_LOAD, attributes, step)[0]


def _unlock_memory() -> None:
    """Before 5.11 maps count as locked memory of the process, of which 64 kB are allowed by default."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, OSError):
        pass
