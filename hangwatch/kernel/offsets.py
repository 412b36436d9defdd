"""Where the running kernel keeps what the collectors read: offsets inside its structures, out of its BTF."""

from __future__ import annotations

from dataclasses import dataclass

from hangwatch.kernel import callclasses
from hangwatch.kernel.bpf import btf


class NoOffsets(Exception):
    """The kernel does not tell. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Bytes from the start of ``task_struct`` and of ``pt_regs``; 0 for what this kernel does not have."""

    task_stack: int
    task_state: int
    task_exec_ns: int
    task_delay_ns: int
    register_number: int
    register_arguments: tuple[int, int, int]


def read(path: str = btf.KERNEL) -> Offsets:
    """Some 0.15 s. Raises NoOffsets."""
    try:
        types = btf.of_kernel(path)
    except OSError as error:
        raise NoOffsets(f"the kernel's types cannot be read ({path}: {error.strerror})") from None
    except btf.BadBtf as error:
        raise NoOffsets(f"the kernel's types cannot be understood: {error}") from None
    return from_types(types)


def from_types(types: btf.Btf) -> Offsets:
    task, registers = types.structure("task_struct"), types.structure("pt_regs")
    names = callclasses.REGISTERS.get(callclasses.machine())
    if task is None or registers is None or names is None:
        raise NoOffsets("the kernel's types do not name task_struct and pt_regs, or this machine's registers are not known")
    # 5.14 renamed `state`.
    state = types.offset(task, "__state") or types.offset(task, "state")
    stack = types.offset(task, "stack")
    number = _register(types, registers, names[0])
    first, second, third = (_register(types, registers, name) for name in names[1])
    if state is None or stack is None or number is None or first is None or second is None or third is None:
        raise NoOffsets("the kernel's task_struct or pt_regs has other members than those known here")
    return Offsets(
        stack,
        state,
        types.offset(task, "se.sum_exec_runtime") or 0,
        types.offset(task, "sched_info.run_delay") or 0,
        number,
        (first, second, third),
    )


def _register(types: btf.Btf, registers: int, name: str) -> int | None:
    name, _, plus = name.partition("+")
    found = types.offset(registers, name)
    return None if found is None else found + int(plus or 0)
