"""Writing into the memory of another process (process_vm_writev(2))."""

from __future__ import annotations

import ctypes
import os

from hangwatch.errors import CannotLook


class IoVec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


libc = ctypes.CDLL(None, use_errno=True)
libc.process_vm_writev.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
libc.process_vm_writev.restype = ctypes.c_ssize_t


def write(pid: int, address: int, data: bytes) -> None:
    """All of ``data``, or CannotLook."""
    source = ctypes.create_string_buffer(data, len(data))
    ours, theirs = IoVec(ctypes.addressof(source), len(data)), IoVec(address, len(data))
    if libc.process_vm_writev(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) != len(data):
        raise CannotLook(f"the memory of process {pid} cannot be written: {os.strerror(ctypes.get_errno())}")
