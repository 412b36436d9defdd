"""A `Picture` in characters: the way downwards, a circle closed by a line on the left, others who wait beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hangwatch.console.picture import Node, Picture
from hangwatch.console.style import Paint, columns, cut, safe

_MARGIN = 2


def drawn(picture: Picture, width: int, paint: Paint) -> Iterator[str]:
    """Lines of at most ``width`` columns (colours not counted)."""
    top = picture.path.index(picture.closes) if picture.closes in picture.path else None
    for at, node_id in enumerate(picture.path):
        inside = top is not None and at >= top
        node = picture.nodes[node_id]
        rail = ("┌─▶ " if at == top else "│   ") if inside else "    "
        if node.sort == "end":
            yield _pad() + paint(_fit("    ✗ ", safe(node.title), width), "bad")
            continue
        below = "│   " if inside else "    "
        yield from _node(rail, below, node, width, paint)
        yield from (_pad() + paint(below, "bad" if inside else "dim") + line for line in _besides(picture, node, width, paint))
        yield from _arrow(picture, at, below, inside, width, paint)


def _pad() -> str:
    return " " * _MARGIN


def _fit(lead: str, text: str, width: int) -> str:
    return lead + cut(text, max(10, width - _MARGIN - columns(lead)))


def _node(rail: str, below: str, node: Node, width: int, paint: Paint) -> Iterator[str]:
    """Its name, and what is known of it behind the name, or under it where there is no room."""
    room = width - _MARGIN - len(rail)
    name = cut(safe(node.title), room)
    said = " · ".join(safe(part) for part in (node.place, node.note) if part)
    role, red = ("title" if node.sort == "waiter" else "key"), ("bad" if rail.strip() else "dim")
    fits = columns(name) + 2 + columns(said) <= room
    yield _pad() + paint(rail, red) + paint(name, role) + (paint(f"  {said}", "dim") if said and fits else "")
    if said and not fits:
        yield _pad() + paint(below, red) + paint(cut(f"│ {said}", room), "dim")


def _arrow(picture: Picture, at: int, below: str, inside: bool, width: int, paint: Paint) -> Iterator[str]:
    """From this node to the next, or back to where the circle began."""
    here = picture.path[at]
    last = at + 1 == len(picture.path)
    edge = next((e for e in picture.edges if e.start == here and (e.back if last else e.end == picture.path[at + 1])), None)
    if edge is None:
        return
    if edge.back:
        words = "└───╯ " + edge.label
        yield (
            _pad() + paint(words, "bad") + paint(cut("  (and so it goes round: nobody can go on)", width - _MARGIN - columns(words)), "dim")
        )
        return
    lead = _pad() + paint(below, "bad" if inside else "dim")
    if edge.end == "end":
        yield lead + paint("│", "dim")
        return
    yield lead + paint(f"│ {edge.label}", "dim")
    yield lead + paint("▼", "dim")


def _besides(picture: Picture, node: Node, width: int, paint: Paint) -> Iterator[str]:
    """Who else waits for this, or also has it: equals told once."""
    for arrow, (one, many), others in (
        ("◀── ", ("also waits", "wait"), [e.start for e in picture.edges if e.end == node.id]),
        ("──▶ ", ("has it too", "have it too"), [e.end for e in picture.edges if e.start == node.id]),
    ):
        beside = [picture.nodes[other] for other in others if not picture.nodes[other].stuck]
        if not beside:
            continue
        more = picture.more.get(node.id, 0) if arrow.startswith("◀") else 0
        counts = Counter(safe(other.title) + (f" in {safe(other.place)}" if other.place else "") for other in beside)
        names = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items()) + (", …" if more else "")
        many_words = f"{len(beside) + more} more {many}"
        yield paint(cut(f"  {arrow}{one if len(beside) + more == 1 else many_words}: {names}", width - _MARGIN - 4), "dim")
