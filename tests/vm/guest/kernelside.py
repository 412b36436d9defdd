"""What depends on the kernel alone: offsets out of its types, collectors that load, what `hangwatch doctor` says."""

import ctypes
import json
import platform
import re
import resource

from running import hangwatch

#: CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH: what the README asks for.
_LEAST = {39, 38, 19, 2}
_DROP = 24  # PR_CAPBSET_DROP


def kernel():
    return tuple(map(int, re.match(r"(\d+)\.(\d+)", platform.release()).groups()))


def _doctor(**options):
    _, out, _ = hangwatch("doctor", "--json", **options)
    return {check["name"]: check for check in json.loads(out)}


def doctor():
    """It finds that eBPF works, and nothing broken."""
    said = _doctor()
    assert said["ebpf"]["state"] == "ok", said["ebpf"]
    for name in ("kernel types", "sock_diag"):
        assert name not in said, said[name]
    return ", ".join(f"{name}: {check['state']}" for name, check in said.items())


def doctor_with_least_privilege():
    """Before 5.11 maps count as locked memory, and what would allow them is told."""
    said = _doctor(before=_keep_least)["ebpf"]
    if kernel() < (5, 11):
        assert said["state"] == "limited" and "may be locked" in said["said"] and "ulimit -l" in said["help_text"], said
    else:
        assert said["state"] == "ok", said
    return said["said"]


def _keep_least():
    libc = ctypes.CDLL(None)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
    for number in range(64):
        if number not in _LEAST:
            libc.prctl(_DROP, ctypes.c_ulong(number), 0, 0, 0)


def offsets():
    """The kernel's own types name everything that the collectors read."""
    from hangwatch.kernel import offsets

    found = offsets.read()
    assert found.task_exec_ns and found.task_delay_ns, found
    return found


CHECKS = {"doctor": doctor, "doctor, least rights": doctor_with_least_privilege, "offsets": offsets}
