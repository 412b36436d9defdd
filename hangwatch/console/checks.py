"""What `hangwatch doctor` tries, one function each: tried, not guessed."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hangwatch.config import Config
from hangwatch.errors import CannotLook, HangwatchError
from hangwatch.kernel import ptrace
from hangwatch.rules.known_bug import installed_bugs


@dataclass(frozen=True, slots=True)
class Check:
    """``state``: ``ok``, ``limited`` (works with less), ``broken``, ``bug`` (an installed version that carries a known hang)."""

    name: str
    state: str
    said: str
    help_text: str = ""


def python(spool: Path) -> Iterator[Check]:
    version = platform.python_version()
    if platform.python_implementation() != "CPython":
        yield Check(
            "python",
            "broken",
            f"{platform.python_implementation()} {version}",
            "Only CPython keeps frames and objects where they can be read.",
        )
    else:
        yield Check("python", "ok", f"CPython {version}, the agent runs in it")


def system(spool: Path) -> Iterator[Check]:
    if sys.platform != "linux":
        yield Check(
            "system",
            "limited",
            f"{sys.platform}: no /proc, so system calls, peers and throttling stay unknown",
            "The agent itself works; attach needs Linux.",
        )
    else:
        yield Check("system", "ok", f"Linux {platform.release()} on {platform.machine()}")


def settings(spool: Path) -> Iterator[Check]:
    try:
        config = Config.make()
    except HangwatchError as error:
        yield Check("settings", "broken", f"a HANGWATCH_* or OTEL_* variable is wrong: {error}", error.help_text)
        return
    sent = f"sent to {config.otlp}" if config.otlp else "not sent anywhere"
    yield Check(
        "settings", "ok", f"requests stall after {config.stall_after:g} s, loops after {config.loop_after:g} s; incidents are {sent}"
    )
    if os.environ.get("HANGWATCH_DISABLED", "").lower() not in ("", "0", "false", "no", "off"):
        yield Check("settings", "limited", "HANGWATCH_DISABLED is set: the agent does nothing", "Unset it.")


def spool_folder(spool: Path) -> Iterator[Check]:
    """Writes into it, or finds the nearest folder that exists and would have to be written to."""
    here = spool
    while not here.exists() and here != here.parent:
        here = here.parent
    try:
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"hangwatch")
            file.flush()
        free_mb = os.statvfs(here).f_bavail * os.statvfs(here).f_frsize / 1e6
    except OSError as error:
        yield Check(
            "spool", "broken", f"{spool} cannot be written: {error.strerror}", "Name another folder with --spool DIR or HANGWATCH_SPOOL."
        )
        return
    if free_mb < 50:
        yield Check(
            "spool",
            "limited",
            f"{spool} has {free_mb:.0f} MB left",
            "Free some space, or name another folder with --spool or HANGWATCH_SPOOL.",
        )
    else:
        yield Check("spool", "ok", f"{spool} can be written, {free_mb / 1000:.1f} GB free")


def tools(spool: Path) -> Iterator[Check]:
    from hangwatch.evidence import pyspy

    found = pyspy.find()
    if found:
        yield Check("py-spy", "ok", found)
    else:
        yield Check(
            "py-spy", "limited", "not installed: native stacks, and who holds the GIL, stay unknown", "pip install 'hangwatch[pyspy]'"
        )
    try:
        import psutil

        yield Check("psutil", "ok", f"psutil {psutil.__version__}")
    except ImportError:
        yield Check("psutil", "limited", "cannot be imported: CPU, memory and connections stay unknown", "pip install psutil")


def ebpf(spool: Path) -> Iterator[Check]:
    """What `hangwatch watch` sees with; nothing else needs it."""
    if sys.platform != "linux":
        return
    from hangwatch.kernel import bpfchecks

    for answer in bpfchecks.checks():
        yield Check(answer.name, answer.state, answer.said, answer.help_text)


def telemetry(spool: Path) -> Iterator[Check]:
    from importlib.util import find_spec

    with contextlib.suppress(ImportError):
        if find_spec("opentelemetry.sdk") and find_spec("opentelemetry.exporter.otlp.proto.http"):
            yield Check("opentelemetry", "ok", "its SDK and OTLP exporter are there")
            return
    yield Check(
        "opentelemetry",
        "limited",
        "not installed: incidents stay in the spool",
        "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http",
    )


def tracing(spool: Path) -> Iterator[Check]:
    """Reading another process' memory: what attach and py-spy need. The agent inside needs none of it."""
    scope, capable = ptrace.yama_scope(), ptrace.has_capability(ptrace.CAP_SYS_PTRACE)
    if scope == 3:
        yield Check(
            "ptrace", "limited", "kernel.yama.ptrace_scope is 3: attach works for nobody here", "Use the agent: hangwatch run … -- CMD."
        )
    elif capable:
        yield Check("ptrace", "ok", "any process of this machine or container can be read")
    elif scope in (1, 2):
        words = "only own children, and services with the agent inside, can be read" if scope == 1 else "only root can read processes"
        yield Check("ptrace", "limited", f"kernel.yama.ptrace_scope is {scope}: {words}", ptrace.GRANT)
    else:
        yield Check("ptrace", "ok", "processes of this user can be read")


def bugs(versions: Mapping[str, str], where: str) -> Iterator[Check]:
    """Known hangs among these versions (by distribution)."""
    found = installed_bugs(versions)
    for bug in found:
        fix = f"Upgrade {bug.project} to {bug.fixed_in} or later. " if bug.fixed_in else bug.workaround + " "
        yield Check("known hang", "bug", f"{bug.project} {bug.installed}: {bug.title} ({bug.id})", f"{fix}{bug.issue}")
    if not found:
        yield Check("known hangs", "ok", f"none among {len(versions)} packages {where}")


def installed(spool: Path) -> Iterator[Check]:
    """Of this environment: the service's, when hangwatch is installed beside it."""
    from importlib import metadata

    versions = {"python": platform.python_version()}
    for distribution in metadata.distributions():
        with contextlib.suppress(Exception):  # a broken .dist-info is not ours to judge
            versions.setdefault(distribution.metadata["Name"].lower().replace("_", "-").replace(".", "-"), distribution.version)
    yield from bugs(versions, f"of this environment ({sys.prefix})")


def process(pid: int) -> Iterator[Check]:
    """May that process be read, and which known hangs does it carry?"""
    from hangwatch import attach

    try:
        reader = attach.open_reader(pid)
        versions = dict(reader.versions())
    except CannotLook as error:
        yield Check(f"process {pid}", "broken", str(error), error.help_text)
        return
    yield Check(f"process {pid}", "ok", f"Python {versions.get('python', '?')}, can be read: hangwatch attach {pid}")
    yield from bugs(versions, f"that process {pid} has imported")


#: In the order in which they are told. To add one: a generator of `Check`, and a row here.
CHECKS: tuple[Callable[[Path], Iterator[Check]], ...] = (python, system, settings, spool_folder, tools, tracing, ebpf, telemetry, installed)
