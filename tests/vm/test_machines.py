"""hangwatch on other kernels and on arm64: emulated machines, one at a time. `make vm` runs them, nothing else does."""

from __future__ import annotations

import os

import pytest

from tests.vm.debian import CannotHave
from tests.vm.machine import LIMIT_S, run
from tests.vm.matrix import MACHINES
from tests.vm.parts import ROOT, Parts

CACHE = ROOT / ".cache" / "vm"


@pytest.mark.vm
# Getting a machine's parts for the first time takes minutes too.
@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("machine", MACHINES, ids=[machine.name for machine in MACHINES])
def test_machine(machine, table):
    CACHE.mkdir(parents=True, exist_ok=True)
    said = []
    try:
        for one in run(machine, Parts(CACHE), CACHE / f"{machine.name}.log"):
            said.append(one)
            table.append((machine.name, one))
    except CannotHave as why:
        pytest.skip(f"{machine.name}: {why}")
    failed = [f"{one.target} {one.check}: {one.said}" for one in said if one.state == "failed"]
    assert not failed, "\n".join(failed)
    done = {one.target for one in said if one.state == "ok" and one.check == "serve"}
    # And the same once more in a pid namespace of its own, unless only some checks were asked for.
    wanted = {str(target) for target in machine.targets} | (set() if os.environ.get("VM_CHECKS") else {"contained"})
    absent = {one.target: one.said for one in said if one.check == "serve" and one.state == "skipped"}
    assert done | set(absent) == wanted
