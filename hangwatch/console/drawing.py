"""A `Picture` in characters: the way downwards, a circle closed by a line on the left, others who wait beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hangwatch.console.picture import Node, Picture
from hangwatch.console.style import Paint, columns, cut, safe

_MARGIN = 2
_NAME_WIDTH = 44


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
        yield _node(rail, node, width, paint)
        below = "│   " if inside else "    "
        yield from (_pad() + paint(below, "bad" if inside else "dim") + line for line in _besides(picture, node, width, paint))
        yield from _arrow(picture, at, below, inside, paint)


def _pad() -> str:
    return " " * _MARGIN


def _fit(lead: str, text: str, width: int) -> str:
    return lead + cut(text, max(10, width - _MARGIN - columns(lead)))


def _node(rail: str, node: Node, width: int, paint: Paint) -> str:
    room = width - _MARGIN - len(rail)
    name = cut(safe(node.title), min(room, max(_NAME_WIDTH, room // 2)))
    said = " · ".join(safe(part) for part in (node.place, node.note) if part)
    gap = "  " if said else ""
    rest = cut(said, room - columns(name) - len(gap)) if room - columns(name) > 12 else ""
    role = "title" if node.sort == "waiter" else "key"
    return _pad() + paint(rail, "bad" if rail.strip() else "dim") + paint(name, role) + gap + paint(rest, "dim")


def _arrow(picture: Picture, at: int, below: str, inside: bool, paint: Paint) -> Iterator[str]:
    """From this node to the next, or back to where the circle began."""
    here = picture.path[at]
    last = at + 1 == len(picture.path)
    edge = next((e for e in picture.edges if e.start == here and (e.back if last else e.end == picture.path[at + 1])), None)
    if edge is None:
        return
    if edge.back:
        yield _pad() + paint("└───╯ " + edge.label, "bad") + paint("  (and so it goes round: nobody can go on)", "dim")
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
        ("◀── ", ("also waits", "also wait"), [e.start for e in picture.edges if e.end == node.id]),
        ("──▶ ", ("has it too", "have it too"), [e.end for e in picture.edges if e.start == node.id]),
    ):
        beside = [picture.nodes[other] for other in others if not picture.nodes[other].stuck]
        if not beside:
            continue
        more = picture.more.get(node.id, 0) if arrow.startswith("◀") else 0
        counts = Counter(safe(other.title) + (f" in {safe(other.place)}" if other.place else "") for other in beside)
        names = ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items()) + (
            f" and {more} more" if more else ""
        )
        yield paint(cut(f"  {arrow}{one if len(beside) + more == 1 else many}: {names}", width - _MARGIN - 4), "dim")
