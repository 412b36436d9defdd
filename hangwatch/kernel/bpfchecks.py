"""What of eBPF works here, found by trying it; where it does not, why, and the line that would allow it.

Every check is an `Answer`; none raises. `explain` is the table from what the kernel said and what is known of this process to a reason.
"""

from __future__ import annotations

import errno
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hangwatch.kernel import files, offsets, sockdiag
from hangwatch.kernel.bpf import BpfError
from hangwatch.kernel.bpf.syscall import supported
from hangwatch.kernel.collectors import CannotCollect, ConnTime, LoopTime, pid_namespace

# include/uapi/linux/capability.h
CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_SYSLOG": 34,
    "CAP_PERFMON": 38, "CAP_BPF": 39,
}  # fmt: skip

#: Ring buffers came with 5.8; tried with 5.10 and later.
OLDEST = (5, 8)

GRANT = (
    "On the host: run it with sudo, or in a systemd unit AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_SYSLOG.\n"
    "Docker: --cap-add=BPF --cap-add=PERFMON --cap-add=SYS_PTRACE --cap-add=DAC_READ_SEARCH --pid=host (or --pid=container:NAME).\n"
    "Kubernetes: securityContext.capabilities.add: [BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH], hostPID: true for a DaemonSet."
)
FALLBACK = "Without it loops are sampled from /proc and connections told by their sockets."


@dataclass(frozen=True, slots=True)
class Answer:
    """``state``: ``ok``, ``limited`` (works with less), ``broken``."""

    name: str
    state: str
    said: str
    help_text: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides whether bpf(2) is allowed, as far as a process can know it of itself."""

    capabilities: frozenset[str]
    first_user_namespace: bool
    seccomp: bool
    kernel: tuple[int, int]
    lockdown: str = ""
    unprivileged_disabled: str = "?"


def facts() -> Facts:
    status = files.fields(files.read_text("/proc/self/status"))
    effective = int(status.get("CapEff", "0"), 16)
    return Facts(
        capabilities=frozenset(name for name, number in CAPABILITIES.items() if effective >> number & 1),
        first_user_namespace=(files.read_text("/proc/self/uid_map") or "").split() == ["0", "0", "4294967295"],
        seccomp=status.get("Seccomp", "0") != "0",
        kernel=kernel_version(platform.release()),
        lockdown=lockdown(files.read_text("/sys/kernel/security/lockdown") or ""),
        unprivileged_disabled=(files.read_text("/proc/sys/kernel/unprivileged_bpf_disabled") or "?").strip(),
    )


def kernel_version(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def lockdown(text: str) -> str:
    """``none [integrity] confidentiality`` -> ``integrity``; "" where it cannot be read."""
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else ""


def explain(number: int, step: str, known: Facts) -> tuple[str, str]:
    """Why bpf(2) failed with this errno at this step, and what would allow it."""
    capable = "CAP_SYS_ADMIN" in known.capabilities or {"CAP_BPF", "CAP_PERFMON"} <= known.capabilities
    missing = [name for name in ("CAP_BPF", "CAP_PERFMON") if name not in known.capabilities]
    if number == errno.ENOSYS:
        return "this kernel was built without bpf(2) (CONFIG_BPF_SYSCALL)", f"Another kernel. {FALLBACK}"
    if known.kernel < OLDEST:
        return (
            f"Linux {known.kernel[0]}.{known.kernel[1]} is older than 5.8, which brought what the collectors use",
            f"Another kernel. {FALLBACK}",
        )
    if known.lockdown == "confidentiality" and step.startswith("PROG_LOAD"):
        return (
            "kernel lockdown is set to confidentiality: no program may read kernel memory",
            f"Boot with lockdown=integrity, or without it (in a virtual machine: without Secure Boot). {FALLBACK}",
        )
    if number == errno.ENOENT and step.startswith("RAW_TRACEPOINT_OPEN"):
        return (
            f"this kernel has no tracepoint {step.rpartition(' ')[2]} (CONFIG_TRACEPOINTS, CONFIG_HAVE_SYSCALL_TRACEPOINTS)",
            f"Another kernel. {FALLBACK}",
        )
    if number not in (errno.EPERM, errno.EACCES):
        return f"{step} failed: {os.strerror(number)}", "Please report it with the kernel's version: uname -r."
    if not capable:
        return f"this process lacks {' and '.join(missing)} (unprivileged_bpf_disabled is {known.unprivileged_disabled})", GRANT
    if not known.first_user_namespace:
        return (
            "the capabilities are held in a user namespace of its own only, where they do not count for eBPF",
            "Rootless or userns-remapped containers cannot; run it on the host, or as a privileged container without user namespace.",
        )
    if known.seccomp:
        return (
            "the capabilities are there, but a seccomp profile forbids bpf(2)",
            "Docker before 23: --security-opt seccomp=unconfined, or a newer Docker, whose default profile allows it with CAP_BPF.\n"
            "Kubernetes: securityContext.seccompProfile.type: Unconfined.\nsystemd: SystemCallFilter=@system-service bpf perf_event_open.",
        )
    if known.kernel < (5, 11) and step.startswith("MAP_CREATE"):
        return "too little memory may be locked (before 5.11 maps count against it)", "ulimit -l unlimited, or CAP_SYS_RESOURCE."
    return "a security module of the kernel (SELinux, AppArmor, lockdown) forbids it", "Its log says which: dmesg, or journalctl -k."


def checks() -> Iterator[Answer]:
    """All of them, in the order in which they are told. Takes some 0.4 s: the programs are really attached for a moment."""
    known = facts()
    for check in (_machine, _types, _programs, _sockets, _namespace, _rights):
        try:
            yield from check(known)
        except Exception as error:  # one that fails must not hide the others
            yield Answer("ebpf", "broken", f"could not be checked: {type(error).__name__}: {error}")


def _machine(known: Facts) -> Iterator[Answer]:
    if not supported():
        yield Answer("ebpf", "limited", f"{platform.machine()} is not known to the collectors (x86-64 and arm64 are)", FALLBACK)


def _types(known: Facts) -> Iterator[Answer]:
    try:
        offsets.read()
    except offsets.NoOffsets as error:
        yield Answer(
            "kernel types",
            "limited",
            str(error),
            f"A kernel with CONFIG_DEBUG_INFO_BTF; in a container /sys must be mounted (read-only is enough). {FALLBACK}",
        )


def _programs(known: Facts) -> Iterator[Answer]:
    """The real thing: maps made, programs passed by the verifier, attached, taken away again."""
    if not supported():
        return
    attempts: tuple[tuple[str, Callable[[], object]], ...] = (("looptime", _try_loops), ("conntime", _try_connections))
    for name, attempt in attempts:
        try:
            attempt()
        except CannotCollect as error:
            if error.error is None:
                yield Answer("ebpf", "limited", f"{name}: {error}", FALLBACK)
            else:
                said, help_text = explain(error.error.errno or 0, error.error.step, known)
                log = error.error.log.strip().splitlines()
                yield Answer("ebpf", "limited", f"{name}: {said}{' | ' + log[-1] if log else ''}", help_text)
            return
        except BpfError as error:
            said, help_text = explain(error.errno or 0, error.step, known)
            yield Answer("ebpf", "limited", f"{name}: {said}", help_text)
            return
    yield Answer("ebpf", "ok", "the collectors load and attach: hangwatch watch --all (raw tracepoints, so no tracefs is needed)")


def _try_loops() -> None:
    LoopTime(1_000_000_000).close()


def _try_connections() -> None:
    collector = ConnTime(1_000_000_000)
    try:
        collector.attach()
    finally:
        collector.close()


def _sockets(known: Facts) -> Iterator[Answer]:
    try:
        with sockdiag.open_socket() as asking:
            list(sockdiag.connections(asking, [1]))
    except OSError as error:
        yield Answer(
            "sock_diag",
            "limited",
            f"the kernel's socket diagnosis cannot be asked: {error}",
            "CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (modprobe tcp_diag on the host); a seccomp profile must allow AF_NETLINK sockets.",
        )


def _namespace(known: Facts) -> Iterator[Answer]:
    if pid_namespace() is not None:
        yield Answer(
            "pid namespace",
            "ok",
            "of a container: only its own processes are seen, and each of the host's context switches is asked whose it is",
            "To watch the whole host: --pid=host (Docker), hostPID: true (Kubernetes).",
        )


_USES = {
    "CAP_SYS_PTRACE": "other users' processes cannot be looked into: incidents say what, not why",
    "CAP_DAC_READ_SEARCH": "descriptors of other users' processes cannot be named",
    "CAP_SYSLOG": "kernel stacks are left out",
    "CAP_SYS_ADMIN": "sockets of other network namespaces (containers) cannot be asked; --full sees their connections",
}


def _rights(known: Facts) -> Iterator[Answer]:
    """What is only needed for more than the bare facts."""
    root = os.geteuid() == 0
    for name, lost in _USES.items():
        if name in known.capabilities or (name == "CAP_DAC_READ_SEARCH" and (root or "CAP_SYS_PTRACE" not in known.capabilities)):
            continue
        yield Answer(name, "limited", f"not held: {lost}", GRANT if name == "CAP_SYS_PTRACE" else "")
