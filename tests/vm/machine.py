"""A virtual machine, run once: what its checks said."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.vm.parts import Machine, Parts, image

MEMORY_MB = 2048
#: Of one run, boot included. What is not told by then counts as failed.
LIMIT_S = 1500
_CONSOLES = {"arm64": "ttyAMA0", "amd64": "ttyS0"}
#: arm64: with pointer authentication, in the variant that is quick to emulate, and without 52-bit addresses, on which kernels before 5.12 do
#: not start. x86-64: all that can be emulated.
_PROCESSORS = {"arm64": ["-M", "virt", "-cpu", "max,pauth-impdef=on,lpa2=off"], "amd64": ["-M", "q35", "-cpu", "max"]}


@dataclass(frozen=True)
class Said:
    """One check. ``state``: ok, failed, skipped."""

    target: str
    check: str
    state: str
    said: str
    took_s: float = 0.0


def run(machine: Machine, parts: Parts, log: Path, limit_s: float = LIMIT_S) -> Iterator[Said]:
    """What is said, as it is said; the console is kept in ``log``. Raises CannotHave."""
    program, environ = parts.qemu(machine.arch)
    kernel, _ = parts.kernel(machine)
    initrd = log.with_suffix(".cpio")
    image(machine, parts, initrd)
    runner = next(target for target in machine.targets if tuple(map(int, target.version.split("."))) >= (3, 10))
    line = f"console={_CONSOLES[machine.arch]} quiet loglevel=1 panic=-1 rdinit=/init random.trust_cpu=on hw_runner={runner.suite}/{runner.version}"
    command = [
        *program, *_PROCESSORS[machine.arch], "-accel", "tcg,thread=multi", "-smp", "2", "-m", str(MEMORY_MB), "-nographic", "-no-reboot",
        "-nodefaults", "-serial", "stdio", "-kernel", str(kernel), "-initrd", str(initrd), "-append", line,
    ]  # fmt: skip
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environ}
    )
    try:
        yield from _listen(child, log, limit_s)
    finally:
        child.kill()
        child.wait()
        initrd.unlink()


def _listen(child: subprocess.Popen, log: Path, limit_s: float) -> Iterator[Said]:
    lines: queue.Queue[bytes | None] = queue.Queue()

    def read() -> None:
        for line in child.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    end = time.monotonic() + limit_s
    with log.open("wb") as kept:
        while True:
            try:
                line = lines.get(timeout=max(0.1, end - time.monotonic()))
            except queue.Empty:
                yield Said("", "end", "failed", f"nothing more was said in {limit_s:.0f} s; the console is in {log}", limit_s)
                return
            if line is None:
                yield Said("", "end", "failed", f"the machine stopped early; the console is in {log}")
                return
            kept.write(line)
            kept.flush()
            _, found, told = line.decode("utf-8", "replace").partition("@@ ")
            if not found:
                continue
            if told.strip().isdigit():
                state = "ok" if told.strip() == "0" else "failed"
                yield Said(
                    "", "end", state, f"the checks ended with {told.strip()}; the console is in {log}", limit_s - (end - time.monotonic())
                )
                return
            yield Said(**json.loads(told))
