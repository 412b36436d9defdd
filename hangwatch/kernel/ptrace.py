"""May we read that process' memory, and if not, why not? Found out by trying; the reasons are read, not guessed.

The order of checks is the kernel's own (``__ptrace_may_access`` in kernel/ptrace.c, then the security modules): same user and
group and a dumpable target and no capabilities beyond ours, or CAP_SYS_PTRACE in the target's user namespace; then yama.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from hangwatch.kernel import files, procfs

CAP_SYS_PTRACE = 19
_PR_SET_PTRACER = 0x59616D61

DOCKER = "Docker: run the looking container with --cap-add=SYS_PTRACE --pid=container:NAME (compose: cap_add: [SYS_PTRACE])."
KUBERNETES = (
    "Kubernetes: securityContext.capabilities.add: [SYS_PTRACE] on the container, or without a restart"
    " kubectl debug -it POD --image=IMAGE_WITH_HANGWATCH --target=CONTAINER --profile=general."
)
GRANT = f"On the host: run it with sudo.\n{DOCKER}\n{KUBERNETES}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """``reason`` is one word for programs, ``message`` a sentence, ``help_text`` what to do next."""

    reason: str
    message: str
    help_text: str


def read_errno(pid: int, address: int | None = None) -> int:
    """Tries process_vm_readv of eight bytes (of our own for ``address`` None); 0 when that worked, else the errno."""
    try:
        import ctypes  # absent from some builds, and dear where nobody asks

        readv = ctypes.CDLL(None, use_errno=True).process_vm_readv
    except (ImportError, OSError, AttributeError):
        return errno.ENOSYS
    buffer = ctypes.create_string_buffer(8)
    # Two struct iovec: address and length.
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(ctypes.addressof(buffer) if address is None else address, 8)
    readv.restype = ctypes.c_ssize_t
    got = readv(pid, here, ctypes.c_ulong(1), there, ctypes.c_ulong(1), ctypes.c_ulong(0))
    return 0 if got == 8 else ctypes.get_errno() or errno.EFAULT


def attempt(pid: int) -> int:
    """0 when this process may read the memory of ``pid``, else the errno of what failed first."""
    try:
        with open(f"/proc/{pid}/maps") as maps:
            first = next((line for line in maps if " r" in line[:40]), "")
    except OSError as error:
        return error.errno or errno.EACCES
    return read_errno(pid, int(first.partition("-")[0], 16)) if first else errno.ESRCH


def has_capability(number: int, pid: int | str = "self") -> bool:
    """Effective capability of this process (or another's)."""
    text = files.fields(files.read_text(f"/proc/{pid}/status")).get("CapEff", "0")
    return bool(int(text, 16) >> number & 1)


def yama_scope() -> int | None:
    """/proc/sys/kernel/yama/ptrace_scope; None where the kernel has no yama."""
    text = (files.read_text("/proc/sys/kernel/yama/ptrace_scope") or "").strip()
    return int(text) if text.isdigit() else None


def allow(tracer: int) -> bool:
    """Lets ``tracer`` and its descendants trace this process although yama's scope is 1; 0 takes it back.

    There is one such permission per process: an application that gave its own loses it. False where the kernel has no yama.
    """
    try:
        import ctypes

        result = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PTRACER, ctypes.c_ulong(tracer), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return False
    return bool(result == 0)


def refusal(pid: int) -> Refusal | None:
    """Why this process may not read the memory of ``pid``; None when it may."""
    gone = _absent(pid)
    if gone:
        return gone
    number = attempt(pid)
    if number == 0:
        return None
    # It may have ended while we tried.
    return _absent(pid) or _denied(pid, number)


def _absent(pid: int) -> Refusal | None:
    status = procfs.status(pid)
    if not status:
        return _hidden(pid)
    if status.get("State", "").startswith(("Z", "X")):
        return Refusal(
            "zombie",
            f"process {pid} has ended already (a zombie: its parent {status.get('PPid', '?')} has not asked for its exit status)",
            "Nothing of it is left to read. What it last stored is in its spool: hangwatch incidents.",
        )
    if "VmSize" not in status:
        return Refusal("kernel-thread", f"process {pid} is a thread of the kernel", "Give the pid of a Python process.")
    return None


def _hidden(pid: int) -> Refusal:
    try:
        os.kill(pid, 0)
        there = True
    except PermissionError:
        there = True
    except (OSError, OverflowError):
        there = False
    if there:
        return Refusal(
            "hidden",
            f"process {pid} exists but /proc does not show it to this user (mounted with hidepid)",
            "Run as that process' user or as root.",
        )
    return Refusal(
        "gone",
        f"there is no process {pid}",
        "A pid counts in its own container only: inside one, use the pid that `ps` shows there; on the host, the one that the host shows.",
    )


def _denied(pid: int, number: int) -> Refusal:
    status, own = procfs.status(pid), procfs.status(os.getpid())
    for check in (_seccomp, _yama_off, _namespace, _other_user, _not_dumpable, _capabilities, _yama):
        found = check(pid, status, own)
        if found:
            return found
    label = (files.read_text(f"/proc/{pid}/attr/current") or "").strip("\0\n ") or "unknown"
    return Refusal(
        "security-module",
        f"reading process {pid} was refused ({os.strerror(number)}); user and capabilities would allow it, so a security module forbids it"
        f" (its label: {label})",
        "AppArmor: both sides need a profile that allows ptrace. SELinux: setsebool deny_ptrace off. Otherwise run on the host as root.",
    )


def _seccomp(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    if read_errno(os.getpid()) == 0:
        return None
    return Refusal(
        "seccomp",
        "this process may not even read its own memory with process_vm_readv: a seccomp profile forbids that call",
        "Docker before 20.10 and kernels before 4.8: --cap-add=SYS_PTRACE (its default profile then allows the call) or"
        " --security-opt seccomp=unconfined.\nKubernetes: securityContext.seccompProfile.type: Unconfined for the looking container, or"
        " run hangwatch on the node.",
    )


def _yama_off(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    if yama_scope() != 3:
        return None
    return Refusal(
        "yama",
        "kernel.yama.ptrace_scope is 3: nobody may read another process' memory, root neither, until the next boot",
        "Run the service with the agent inside (hangwatch run … -- CMD); it needs no such right.",
    )


def _namespace(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    if not has_capability(CAP_SYS_PTRACE) or (yama_scope() or 0) == 3:
        return None
    whole = (files.read_text("/proc/self/uid_map") or "").split() == ["0", "0", "4294967295"]
    if whole:
        return None
    return Refusal(
        "user-namespace",
        f"CAP_SYS_PTRACE is held here, but only inside this user namespace, and process {pid} is not in it",
        "Rootless or userns-remapped containers: look from the same container as the process, or from the host.",
    )


def _other_user(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    if has_capability(CAP_SYS_PTRACE):
        return None
    theirs, ours = _identity(status), _identity(own)
    if set(theirs[0]) <= {ours[0][1]} and set(theirs[1]) <= {ours[1][1]}:
        return None
    if ours[0][1] == "0":
        return Refusal(
            "no-capability",
            f"process {pid} belongs to user {theirs[0][0]}; root may read it only with CAP_SYS_PTRACE, which this container was not given",
            GRANT,
        )
    return Refusal(
        "other-user",
        f"process {pid} belongs to user {theirs[0][0]} (group {theirs[1][0]}), this is user {ours[0][1]} (group {ours[1][1]})",
        f"Run as that user (sudo -u '#{theirs[0][0]}' …) or with CAP_SYS_PTRACE.\n{GRANT}",
    )


def _identity(status: dict[str, str]) -> tuple[list[str], list[str]]:
    """Real, effective and saved user ids; the same of the groups."""
    return status.get("Uid", "? ? ?").split()[:3], status.get("Gid", "? ? ?").split()[:3]


def _not_dumpable(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    if has_capability(CAP_SYS_PTRACE):
        return None
    try:
        owner = str(os.stat(f"/proc/{pid}/environ").st_uid)
    except OSError:
        return None
    # The kernel gives the files of a process that is not dumpable to root.
    if owner == _identity(status)[0][1] or owner != "0":
        return None
    return Refusal(
        "not-dumpable",
        f"process {pid} is marked not dumpable (it changed its user after it was started, or asked for it with prctl),"
        " so its own user may not read it",
        f"Only root, or CAP_SYS_PTRACE, may.\n{GRANT}",
    )


def _capabilities(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    beyond = int(status.get("CapPrm", "0"), 16) & ~int(own.get("CapEff", "0"), 16)
    if has_capability(CAP_SYS_PTRACE) or not beyond:
        return None
    return Refusal(
        "no-capability",
        f"process {pid} has capabilities that this one lacks (0x{beyond:x}); only CAP_SYS_PTRACE may read it",
        GRANT,
    )


def _yama(pid: int, status: dict[str, str], own: dict[str, str]) -> Refusal | None:
    scope = yama_scope()
    if not scope or has_capability(CAP_SYS_PTRACE):
        return None
    who = "its ancestors" if scope == 1 else "root"
    return Refusal(
        "yama",
        f"kernel.yama.ptrace_scope is {scope}: only {who} may read the memory of process {pid}",
        "Run it with sudo, or until the next boot: sudo sysctl kernel.yama.ptrace_scope=0.\n"
        f"A process with the agent inside (hangwatch run) needs neither.\n{DOCKER}\n{KUBERNETES}",
    )
