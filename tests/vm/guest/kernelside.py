"""What depends on the kernel alone: offsets out of its types, collectors that load, what `hangwatch doctor` says."""

import json

from running import hangwatch


def doctor():
    """It finds that eBPF works, and nothing broken."""
    _, out, _ = hangwatch("doctor", "--json")
    found = json.loads(out)
    said = {check["name"]: (check["state"], check["said"]) for check in found}
    assert said["ebpf"][0] == "ok", said["ebpf"]
    assert "kernel types" not in said, said["kernel types"]
    assert "sock_diag" not in said, said["sock_diag"]
    return ", ".join(f"{name}: {state}" for name, (state, _) in said.items())


def offsets():
    """The kernel's own types name everything that the collectors read."""
    from hangwatch.kernel import offsets

    found = offsets.read()
    assert found.task_exec_ns and found.task_delay_ns, found
    return found


CHECKS = {"doctor": doctor, "offsets": offsets}
