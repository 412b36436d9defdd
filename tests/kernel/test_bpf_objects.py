"""The committed objects: what the sources give, understood to the last byte, the same layout on both sides."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess

import pytest

from hangwatch.kernel import offsets, rows
from hangwatch.kernel.bpf import BadObject, btf, load_object
from tests.kernel.bpf import COLLECTORS

NAMES = sorted(path.name.partition(".")[0] for path in COLLECTORS.glob("*.bpf.c"))
# With which the committed objects were built.
CLANG = "14"


def of(name):
    return load_object(COLLECTORS / f"{name}.bpf.o")


def test_there_is_an_object_for_every_source():
    assert NAMES == ["conntime", "looptime"]
    assert sorted(path.name.partition(".")[0] for path in COLLECTORS.glob("*.bpf.o")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_object_holds_raw_tracepoints_and_maps_only(name):
    found = of(name)
    assert found.license == b"Dual MIT/GPL\0"
    assert {p.tracepoint for p in found.programs.values()} <= {"sched_switch", "sched_process_exit", "sys_exit"}
    for program in found.programs.values():
        # BPF's older kernels take 4096 instructions and no calls between functions.
        assert 0 < len(program.code) // 8 < 4096
        calls = [at for at in range(0, len(program.code), 8) if program.code[at] == 0x85]
        assert all(program.code[at + 1] >> 4 == 0 for at in calls), "a call of a function that was not inlined"
        assert {used for _, used in program.uses} <= set(found.maps)
    assert {used for p in found.programs.values() for _, used in p.uses} == set(found.maps), "a map that nobody uses"


def test_a_descriptor_is_put_where_a_map_is_used():
    program = of("looptime").programs["loop_exit"]
    linked = program.linked({"threads": 0x1234})
    ((at, name),) = program.uses
    assert name == "threads"
    assert struct.unpack_from("<BBhi", linked, at) == (0x18, linked[at + 1], 0, 0x1234)
    assert linked[at + 1] >> 4 == 1 and linked[:at] == program.code[:at]


LAYOUTS = [
    ("looptime", "config", rows.CONFIG),
    ("looptime", "target", rows.TARGET),
    ("looptime", "loop_known", rows.KNOWN),
    ("looptime", "loop_thread", rows.LOOP),
    ("conntime", "connection", rows.CONNECTION),
    ("conntime", "connection_heads", rows.HEADS),
]


def places(types, number):
    """(offset, size) of each scalar in a structure, arrays of numbers taken apart, arrays of bytes whole."""
    found = []
    for _, kind, bits in types.members(number):
        size = types.bytes_of(kind)
        inner = types.type(types.resolve(kind))
        count = types.array_count(kind) if inner.kind == 3 else 1
        if count > 1 and size // count == 1:
            count = 1
        found += [(bits // 8 + i * (size // count), size // count) for i in range(count)]
    return found


def unpacked_places(layout):
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        size = int(count or 1) if code == "s" else struct.calcsize("<" + code)
        for _ in range(1 if code == "s" else int(count or 1)):
            found.append((at, size))
            at += size
    return found


@pytest.mark.parametrize("name, structure, layout", LAYOUTS, ids=[row[1] for row in LAYOUTS])
def test_both_sides_read_one_layout(name, structure, layout):
    types = of(name).btf
    number = types.structure(structure)
    assert types.bytes_of(number) == layout.size
    assert places(types, number) == unpacked_places(layout)


def test_a_row_survives_the_way_into_a_map_and_out():
    row = rows.ConnectionRow(7, -1, 9, rows.SERVER, rows.WAITS | rows.TLS, 3, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
    assert rows.connection_row(rows.CONNECTION.unpack(row.packed())) == row


def test_what_is_asleep_is_told_from_what_ran():
    numbers = [7, 8, 5, 230, 0, 100, 0, 40, 50, 120, 1, 2, 3, 60, 70, 80, 4, 5, 6, 202, 9, -1, 33]
    row = rows.loop_row(rows.LOOP.pack(*numbers))
    assert (row.pid, row.tid, row.epoll_fd, row.busy_since, row.gil_ns, row.sleeps) == (7, 8, 5, 100, 70, 9)
    assert row.now == rows.Sleep(230, (1, 2, 3), 120, -1)
    assert row.longest == rows.Sleep(202, (4, 5, 6), 80, 33)
    numbers[9] = numbers[15] = 0
    assert (rows.loop_row(rows.LOOP.pack(*numbers)).now, rows.loop_row(rows.LOOP.pack(*numbers)).longest) == (None, None)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_object_is_refused_with_words(tmp_path, name):
    whole = (COLLECTORS / f"{name}.bpf.o").read_bytes()
    path = tmp_path / "damaged.bpf.o"
    for length in [*range(0, len(whole) - 1, 499), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(BadObject):
            load_object(path)
    path.write_bytes(whole[:18] + struct.pack("<H", 62) + whole[20:])
    with pytest.raises(BadObject, match="no little-endian BPF object"):
        load_object(path)


def test_types_of_a_kind_from_the_future_are_refused():
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 12, 12, 1)
    with pytest.raises(btf.BadBtf, match="31"):
        btf.Btf(header + struct.pack("<III", 0, 31 << 24, 0) + b"\0")
    with pytest.raises(btf.BadBtf):
        btf.Btf(b"")
    with pytest.raises(btf.BadBtf):
        btf.Btf(bytes(24))


def test_a_kernel_that_tells_no_offsets_is_refused_with_words(tmp_path):
    with pytest.raises(offsets.NoOffsets, match="cannot be read"):
        offsets.read(str(tmp_path / "vmlinux"))
    (tmp_path / "vmlinux").write_bytes(b"nothing")
    with pytest.raises(offsets.NoOffsets, match="cannot be understood"):
        offsets.read(str(tmp_path / "vmlinux"))
    with pytest.raises(offsets.NoOffsets, match="task_struct"):
        offsets.from_types(of("looptime").btf)


@pytest.mark.skipif(not os.path.exists(btf.KERNEL), reason="this kernel has no BTF")
def test_the_kernel_tells_where_things_are():
    types = btf.of_kernel()
    task = types.structure("task_struct")
    found = offsets.from_types(types)
    # A process id lies after its state and before the end; comm is 16 bytes.
    assert 0 < types.offset(task, "pid") < types.bytes_of(task)
    assert found.task_stack and found.task_exec_ns and len(set(found.register_arguments)) == 3
    assert types.offset(task, "se.sum_exec_runtime") == types.offset(task, "se") + types.offset(
        types.structure("sched_entity"), "sum_exec_runtime"
    )
    assert types.offset(task, "no_such_member") is None
    assert types.structure("no_such_structure") is None


@pytest.mark.skipif(
    shutil.which("clang") is None or not os.path.exists("/usr/include/bpf/bpf_helpers.h"), reason="no clang with libbpf's headers"
)
def test_the_sources_give_the_committed_objects(tmp_path):
    done = subprocess.run(["make", "-s", "-C", str(COLLECTORS), f"OUT={tmp_path}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version = re.search(r"version (\d+)", subprocess.check_output(["clang", "--version"], text=True))[1]
    for name in NAMES:
        built, committed = load_object(tmp_path / f"{name}.bpf.o"), of(name)
        assert built.maps == committed.maps
        assert {p.name: (p.section, {used for _, used in p.uses}) for p in built.programs.values()} == {
            p.name: (p.section, {used for _, used in p.uses}) for p in committed.programs.values()
        }
        if version == CLANG:
            assert built.programs == committed.programs
