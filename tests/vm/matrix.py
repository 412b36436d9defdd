"""Which kernels, architectures and interpreters are looked at. Suites are Debian's; each machine is to take some five minutes."""

from __future__ import annotations

from tests.vm.parts import Machine, Target


def _targets(suite: str, version: str, *loops: str) -> tuple[Target, ...]:
    return tuple(Target(suite, version, loop) for loop in loops)


_BOTH = ("asyncio", "uvloop")

MACHINES = (
    # hangwatch itself needs 3.10: it looks from 3.11 into the root of 3.9.
    Machine(
        "arm64-5.10",
        "arm64",
        "bullseye",
        "linux-image-cloud-arm64",
        (*_targets("bullseye", "3.9", *_BOTH), *_targets("bookworm", "3.11", "asyncio")),
    ),
    Machine("arm64-6.1", "arm64", "bookworm", "linux-image-cloud-arm64", _targets("bookworm", "3.11", *_BOTH)),
    Machine("arm64-6.12", "arm64", "trixie", "linux-image-cloud-arm64", _targets("trixie", "3.13", *_BOTH)),
    Machine("arm64-6.12-16k", "arm64", "trixie", "linux-image-arm64-16k", _targets("bookworm", "3.11", *_BOTH)),
    Machine(
        "arm64-7",
        "arm64",
        "sid",
        "linux-image-cloud-arm64",
        (*_targets("sid", "3.14", "asyncio"), *_targets("sid", "3.15", "uvloop")),
    ),
    Machine("amd64-5.10", "amd64", "bullseye", "linux-image-cloud-amd64", _targets("bookworm", "3.11", *_BOTH)),
    Machine("amd64-6.1", "amd64", "bookworm", "linux-image-cloud-amd64", _targets("bookworm", "3.11", "asyncio")),
    Machine("amd64-6.12", "amd64", "trixie", "linux-image-cloud-amd64", _targets("bookworm", "3.11", "uvloop")),
    Machine("amd64-7", "amd64", "sid", "linux-image-cloud-amd64", _targets("bookworm", "3.11", "asyncio")),
)
