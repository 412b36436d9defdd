"""Generators and async generators that wait at a ``yield`` for whoever iterates over them.

No await chain shows them while their consumer is busy with what they gave last: a ``StreamingResponse`` that waits for its client keeps the
generator, and the generator its connection.
"""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.reading.view import FrameView, ObjectView, Reader

_KINDS = ("async_generator", "generator")
#: Generators that iterate over generators; deeper ones do not occur by hand.
DEPTH = 4
#: Attributes of one object.
PARTS = 100


def parked_in(chain: list[FrameView], reader: Reader) -> list[FrameView]:
    """Frames of the suspended generators that a chain's frames refer to and do not themselves run, outermost first."""
    seen = {frame.id for frame in chain}
    found: list[FrameView] = []
    todo = chain
    for _ in range(DEPTH):
        inside: list[FrameView] = []
        for frame in todo:
            for view in _referred_to(frame):
                if view.type_name in _KINDS and view.id not in seen:
                    seen.add(view.id)
                    inside += [inner for inner in reader.suspended(view) if inner.id not in seen]
        found += inside
        todo = inside
    return found


def _referred_to(frame: FrameView) -> Iterator[ObjectView]:
    """What the frame has, and what its ``self`` has: a frame that runs shows its locals, not the iterator on its stack."""
    yield from frame.references()
    owner = frame.local("self")
    if owner is not None:
        yield from owner.parts(PARTS)
