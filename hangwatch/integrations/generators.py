"""Generators and async generators that wait at a ``yield`` for whoever iterates over them.

No await chain shows them while their consumer is busy with what they gave last: a ``StreamingResponse`` that waits for its client keeps the
generator, and the generator its connection.
"""

from __future__ import annotations

from collections.abc import Iterator

from hangwatch.integrations import recognise
from hangwatch.reading.view import FrameView, ObjectView, Reader

_KINDS = ("async_generator", "generator")
#: Generators that iterate over generators; deeper ones do not occur by hand.
DEPTH = 4
#: Attributes of one object.
PARTS = 100


def parked_in(chain: list[FrameView], reader: Reader, owned: dict[int, list[ObjectView]]) -> list[FrameView]:
    """Frames of the suspended generators that a chain's frames refer to and do not themselves run, outermost first.

    ``owned`` remembers, for the chains of one snapshot, which generators each ``self`` refers to: most chains share a few.
    """
    # From outside a frame goes by its generator's address, from inside by its own: the two are kept apart.
    known = {frame.id for frame in chain}
    seen: set[int] = set()
    found: list[FrameView] = []
    todo = chain
    for _ in range(DEPTH):
        inside: list[FrameView] = []
        for frame in todo:
            for view in _generators_of(frame, owned):
                if view.id not in seen:
                    seen.add(view.id)
                    inside += [inner for inner in reader.suspended(view) if inner.id not in known]
        known.update(inner.id for inner in inside)
        found += inside
        todo = inside
    return found


def _generators_of(frame: FrameView, owned: dict[int, list[ObjectView]]) -> Iterator[ObjectView]:
    """What the frame has, and what its ``self`` has: a frame that runs shows its locals, not the iterator on its stack."""
    if recognise.place_of(frame).stdlib:
        return
    for view in frame.references():
        if view.type_name in _KINDS:
            yield view
    owner = frame.local("self")
    if owner is not None:
        if owner.id not in owned:
            owned[owner.id] = [part for part in owner.parts(PARTS) if part.type_name in _KINDS]
        yield from owned[owner.id]
