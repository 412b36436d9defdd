"""What the agent adds to one `asyncio.Event.wait`: one that blocks and one that does not.

Plain and patched run in the same process, in turn, many times; the least CPU time of each is what the code costs when nothing disturbs it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time

import hangwatch

_ROUNDS = 15
_CALLS = 4000


async def not_blocking() -> float:
    event = asyncio.Event()
    event.set()
    begun = time.thread_time_ns()
    for _ in range(_CALLS):
        await event.wait()
    return (time.thread_time_ns() - begun) / _CALLS


async def blocking() -> float:
    """Driven by hand: a turn of the loop would cost twenty times the wait, and hide it."""
    event = asyncio.Event()
    begun = time.thread_time_ns()
    for _ in range(_CALLS):
        waiting = event.wait()
        waiting.send(None)
        event.set()
        try:
            waiting.send(None)
        except StopIteration:
            event._value = False
    return (time.thread_time_ns() - begun) / _CALLS


async def measure() -> dict[str, dict[bool, float]]:
    best: dict[str, dict[bool, float]] = {"not blocking": {}, "blocking": {}}
    for _ in range(_ROUNDS):
        for patched in (False, True):
            if patched:
                with tempfile.TemporaryDirectory() as spool:
                    hangwatch.install(spool=spool)
                    await asyncio.sleep(0.6)  # its imports are done
            for name, bench in (("not blocking", not_blocking), ("blocking", blocking)):
                took = await bench()
                best[name][patched] = min(took, best[name].get(patched, took))
            if patched:
                hangwatch.uninstall()
    return best


def row(name: str, plain: float, patched: float, budget_ns: int) -> dict[str, object]:
    return {
        "name": f"Event.wait, {name}", "unit": "ns", "with": round(patched), "without": round(plain), "ratio": round(patched / plain, 3),
        "budget": f"at most {budget_ns} ns dearer", "ok": patched - plain <= budget_ns,
    }  # fmt: skip


if __name__ == "__main__":
    found = asyncio.run(measure())
    print(
        json.dumps([row(name, found[name][False], found[name][True], limit) for name, limit in (("blocking", 300), ("not blocking", 60))])
    )
