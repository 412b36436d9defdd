"""A service in namespaces and a control group of its own, as a container runtime would run it; made by hand, so no runtime is needed."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import running, until
from tests.watcher.watched import ROOT

PORT = 21080
#: How the runtimes name a container's group, by control group version.
NAMES = {
    "docker, version 1": (1, "docker/{id}"),
    "docker, version 2": (2, "system.slice/docker-{id}.scope"),
    "containerd": (2, "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c.slice/cri-containerd-{id}.scope"),
    "podman": (2, "machine.slice/libpod-{id}.scope/container"),
}
#: The first program inside: an interface for 127.0.0.1, then the service.
INSIDE = """
import fcntl, os, socket, struct, sys
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: IFF_UP | IFF_RUNNING | IFF_LOOPBACK
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
#: Asks for one path, says who asked, and keeps the connection.
ASKS = """
import socket, sys, time
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
print("%s:%s" % client.getsockname(), flush=True)
time.sleep(600)
"""


def mounts():
    """Control group version -> a hierarchy in which groups can be made."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split()
        if kind[0] == "cgroup2":
            found[2] = Path(left.split()[4])
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            found[1] = Path(left.split()[4])
    return found


needs_containers = pytest.mark.skipif(
    not (os.geteuid() == 0 and shutil.which("unshare") and shutil.which("nsenter")), reason="needs root, unshare and nsenter"
)


@contextlib.contextmanager
def group(version, name):
    """A control group, gone afterwards. Skips where that version is not mounted, or is not ours to change."""
    top = mounts().get(version)
    if top is None:
        pytest.skip(f"no control groups of version {version} here")
    path = top / name
    made = [folder for folder in (path, *path.parents) if folder != top and top in folder.parents and not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        yield path
    finally:
        for folder in made:
            until(lambda folder=folder: gone(folder))


def gone(folder):
    with contextlib.suppress(OSError):
        folder.rmdir()
        return True
    return not folder.exists()


class Service:
    """``pid`` as the host sees it, ``id`` as the runtime names the container."""

    def __init__(self, pid, container):
        self.pid, self.id = pid, container
        self._stack = contextlib.ExitStack()

    def inside(self, *command):
        """In its network and pid namespaces, before its own /proc."""
        return ["nsenter", "-t", str(self.pid), "-n", "-p", "-m", "--", *command]

    def ask(self, path):
        """The client's address; its connection stays."""
        asking = self._stack.enter_context(
            running(["nsenter", "-t", str(self.pid), "-n", "--", sys.executable, "-c", ASKS, str(PORT), path])
        )
        return asking.stdout.readline().decode().strip()

    def close(self):
        self._stack.close()


@contextlib.contextmanager
def contained(runtime):
    """The test service, run as ``runtime`` would."""
    version, name = NAMES[runtime]
    container = secrets.token_hex(32)
    with group(version, name.format(id=container)) as folder:
        (join := folder / "cgroup.procs").exists() or pytest.skip("no control groups to join")
        service = [
            sys.executable,
            "-c",
            INSIDE,
            "-m",
            "uvicorn",
            "tests.watcher.service:app",
            "--port",
            str(PORT),
            "--log-level",
            "critical",
        ]
        command = ["unshare", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", *service]
        environ = {**os.environ, "SILENT": "1", "PYTHONPATH": str(ROOT)}
        with running(["sh", "-c", f'echo $$ > {join} && exec "$@"', "sh", *command], cwd=ROOT, env=environ) as outer:
            pid = until(lambda: child_of(outer.pid))
            until(lambda: serves(pid))
            found = Service(pid, container)
            try:
                yield found
            finally:
                found.close()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)


def child_of(pid):
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(said[0]) if said else None


def serves(pid):
    probe = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), 1).close()"
    return subprocess.run(["nsenter", "-t", str(pid), "-n", sys.executable, "-c", probe], capture_output=True).returncode == 0
