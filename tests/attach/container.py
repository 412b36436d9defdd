"""Makes a container by hand and becomes its process 1: own mount, pid, network, host name, IPC and user namespaces, another root, uid 1000.

``container.py SPEC``, SPEC as JSON: ``root`` (an empty folder), ``binds`` (there -> inside), ``links`` (inside -> where to), ``command``.
Needs root. Prints nothing itself.
"""

import ctypes
import fcntl
import json
import os
import platform
import socket
import struct
import sys

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
BIND, RECURSIVE, PRIVATE, DETACH = 0x1000, 0x4000, 0x40000, 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[platform.machine()]
SIOCSIFFLAGS, UP = 0x8914, 1
OUTSIDE = 100000
libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(what, where, kind, flags):
    checked(libc.mount(what and what.encode(), where.encode(), kind and kind.encode(), ctypes.c_ulong(flags), None))


def build(spec):
    root = spec["root"]
    mount(None, "/", None, RECURSIVE | PRIVATE)
    mount(root, root, None, BIND)
    for folder in ("proc", "tmp", "dev", ".before"):
        os.makedirs(f"{root}/{folder}", exist_ok=True)
    os.chmod(f"{root}/tmp", 0o1777)
    for outside, inside in {**spec["binds"], "/dev/null": "/dev/null", "/dev/urandom": "/dev/urandom"}.items():
        where = root + inside
        os.makedirs(where if os.path.isdir(outside) else os.path.dirname(where), exist_ok=True)
        if not os.path.isdir(outside):
            open(where, "w").close()
        mount(outside, where, None, BIND | RECURSIVE)
    for inside, to in spec["links"].items():
        os.makedirs(os.path.dirname(root + inside), exist_ok=True)
        os.symlink(to, root + inside)
    mount("proc", f"{root}/proc", "proc", 0)
    checked(libc.syscall(PIVOT_ROOT, root.encode(), f"{root}/.before".encode()))
    os.chdir("/")
    checked(libc.umount2(b"/.before", DETACH))


def main():
    spec = json.loads(sys.argv[1])
    asks, asked = os.pipe()
    done, answers = os.pipe()
    proc = os.open("/proc", os.O_PATH)  # before the root is another
    checked(libc.unshare(NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET))
    child = os.fork()
    if child:
        os.close(asked)
        if not os.read(asks, 1):
            return
        for name in ("uid_map", "gid_map"):
            handle = os.open(f"{child}/{name}", os.O_WRONLY, dir_fd=proc)
            os.write(handle, f"0 {OUTSIDE} 65536".encode())
            os.close(handle)
        os.write(answers, b"1")
        os.waitpid(child, 0)
        return
    build(spec)
    socket.sethostname("inside")
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP))
    checked(libc.unshare(NEWUSER))
    os.write(asked, b"1")
    os.read(done, 1)
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    os.execve(spec["command"][0], spec["command"], {"PATH": "/usr/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"})


main()
