"""A `Picture` as SVG: layers from top to bottom along the way, those beside it in a column at the right, a circle closed at the left.

Two sizes are made and the page shows the one that fits: on a phone there is no room beside, so others are told in words.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from hangwatch.console.markup import Element, add, el
from hangwatch.console.picture import Edge, Node, Picture

_GAP_Y, _GAP_X, _PAD, _LINE = 46, 64, 12, 18
#: Average widths of a 14 px and a 12 px character of common sans fonts, on the safe side: SVG does not wrap by itself.
_WIDE_CHAR, _SMALL_CHAR = 9.2, 6.8


@dataclass(frozen=True, slots=True)
class Size:
    """In pixels at full size. ``side`` is the width of the boxes beside the way, 0 for none; ``rail`` the room for a closing edge."""

    name: str
    main: int
    side: int
    rail: int


WIDE = Size("wide", 380, 250, 96)
NARROW = Size("narrow", 290, 0, 46)


@dataclass(slots=True)
class Box:
    node: Node
    x: float
    y: float
    width: float
    title: list[str]
    small: list[str]

    @property
    def height(self) -> float:
        return 2 * _PAD + _LINE * len(self.title) + 15 * len(self.small) - 4

    @property
    def middle(self) -> float:
        return self.y + self.height / 2

    @property
    def centre(self) -> float:
        return self.x + self.width / 2


def drawn(picture: Picture, size: Size, targets: dict[str, str]) -> Element:
    """``targets``: the anchor on the page for a node's id."""
    return _Sheet(picture, size, targets).draw()


class _Sheet:
    def __init__(self, picture: Picture, size: Size, targets: dict[str, str]) -> None:
        self.picture = picture
        self.size = size
        self.targets = targets
        self.left = size.rail if picture.closes else 2
        self.boxes: dict[str, Box] = {}
        self.beside_until = 0.0

    def draw(self) -> Element:
        y = 2.0
        for node_id in self.picture.path:
            y = self._layer(self.picture.nodes[node_id], y) + _GAP_Y
        height = max((box.y + box.height for box in self.boxes.values()), default=40.0) + 4
        width = max((box.x + box.width for box in self.boxes.values()), default=200.0) + 4
        sheet = el(
            "svg",
            class_=f"graph {self.size.name}",
            viewBox=f"0 0 {width:.0f} {height:.0f}",
            width=f"{width:.0f}",
            height=f"{height:.0f}",
            role="img",
            aria_label=self._said(),
        )
        for edge in self.picture.edges:
            if edge.start in self.boxes and edge.end in self.boxes:
                self._edge(sheet, edge)
        for box in self.boxes.values():
            sheet.append(self._linked(box))
        return sheet

    def _said(self) -> str:
        """For who hears the page."""
        names = [self.picture.nodes[node_id].title for node_id in self.picture.path]
        back = f" → {self.picture.nodes[self.picture.closes].title} again: a circle" if self.picture.closes else ""
        return "Who waits for whom: " + " → ".join(names) + back

    # Boxes

    def _layer(self, node: Node, y: float) -> float:
        """Places a node of the way and those beside it; where it ends."""
        extra = self._in_words(node) if not self.size.side else []
        box = self.boxes[node.id] = self._box(node, self.left, y, self.size.main, extra)
        bottom = box.y + box.height
        if not self.size.side:
            return bottom
        at = max(y, self.beside_until)
        for other in self._beside(node):
            beside = self.boxes[other.id] = self._box(other, self.left + self.size.main + _GAP_X, at, self.size.side, [])
            at = beside.y + beside.height + 10
        more = self.picture.more.get(node.id, 0)
        if more:
            rest = Node(f"more {node.id}", "more", f"and {more} more wait", stuck=False)
            self.boxes[rest.id] = self._box(rest, self.left + self.size.main + _GAP_X, at, self.size.side, [])
            at += self.boxes[rest.id].height + 10
        self.beside_until = at
        return bottom

    def _beside(self, node: Node) -> list[Node]:
        ends = [e.start if e.end == node.id else e.end for e in self.picture.edges if node.id in (e.start, e.end)]
        return [self.picture.nodes[i] for i in dict.fromkeys(ends) if not self.picture.nodes[i].stuck and i not in self.boxes]

    def _in_words(self, node: Node) -> list[str]:
        others = [n.title for n in self._beside(node)]
        more = self.picture.more.get(node.id, 0)
        if not others:
            return []
        return [f"also wait or hold: {', '.join(dict.fromkeys(others))}" + (f" and {more} more" if more else "")]

    def _box(self, node: Node, x: float, y: float, width: float, extra: list[str]) -> Box:
        title = _wrapped(node.title, (width - 2 * _PAD) / _WIDE_CHAR, 3)
        small = [line for text in (node.place, node.note, *extra) if text for line in _wrapped(text, (width - 2 * _PAD) / _SMALL_CHAR, 2)]
        return Box(node, x, y, width, title, small)

    def _linked(self, box: Box) -> Element:
        group = el("g", class_=f"node {box.node.sort}" + ("" if box.node.stuck else " beside"))
        radius = "8" if box.node.sort == "primitive" else "16"
        group.append(
            el("rect", class_="box", x=f"{box.x:.1f}", y=f"{box.y:.1f}", width=f"{box.width:.1f}", height=f"{box.height:.1f}", rx=radius)
        )
        y = box.y + _PAD + 12
        for line in box.title:
            group.append(el("text", line, class_="title", x=f"{box.x + _PAD:.1f}", y=f"{y:.1f}"))
            y += _LINE
        for line in box.small:
            group.append(el("text", line, class_="small", x=f"{box.x + _PAD:.1f}", y=f"{y - 2:.1f}"))
            y += 15
        anchor = self.targets.get(box.node.id)
        return el("a", group, href=f"#{anchor}") if anchor else group

    # Edges

    def _edge(self, sheet: Element, edge: Edge) -> None:
        start, end = self.boxes[edge.start], self.boxes[edge.end]
        if edge.back:
            self._back(sheet, start, end, edge)
        elif not (start.node.stuck and end.node.stuck):
            self._sideways(sheet, start, end)
        else:
            circle = " circle" if self._in_circle(edge) else ""
            x, top, tip = start.centre, start.y + start.height, end.y
            sheet.append(el("path", class_=f"edge{circle}", d=f"M{x:.1f} {top:.1f} V{tip - 7:.1f}"))
            sheet.append(_tip(x, tip, "down", circle))
            sheet.append(
                el("text", edge.label, class_=f"label{circle}", x=f"{x + 10:.1f}", y=f"{(top + min(tip, top + _GAP_Y)) / 2 + 4:.1f}")
            )

    def _in_circle(self, edge: Edge) -> bool:
        path = self.picture.path
        return (
            self.picture.closes in path and path.index(edge.start) >= path.index(self.picture.closes or "") if edge.start in path else False
        )

    def _back(self, sheet: Element, start: Box, end: Box, edge: Edge) -> None:
        far = 10.0
        d = f"M{start.x:.1f} {start.middle:.1f} H{far + 12} Q{far} {start.middle:.1f} {far} {start.middle - 12:.1f} V{end.middle + 12:.1f} Q{far} {end.middle:.1f} {far + 12} {end.middle:.1f} H{end.x - 7:.1f}"
        sheet.append(el("path", class_="edge circle", d=d))
        sheet.append(_tip(end.x, end.middle, "right", " circle"))
        if self.size.side:
            sheet.append(el("text", edge.label, class_="label circle", x=f"{far + 8:.1f}", y=f"{(start.middle + end.middle) / 2:.1f}"))

    def _sideways(self, sheet: Element, start: Box, end: Box) -> None:
        """Between the way and a box beside it: those who wait point in, holders are pointed at."""
        inward = not start.node.stuck
        side, main = (start, end) if inward else (end, start)
        knee = main.x + main.width + _GAP_X / 2
        ends = (side.x, side.middle, main.x + main.width, main.middle)
        x0, y0, x1, y1 = ends if inward else (ends[2], ends[3], ends[0], ends[1])
        stop = x1 + 7 if inward else x1 - 7
        sheet.append(el("path", class_="edge beside", d=f"M{x0:.1f} {y0:.1f} H{knee:.1f} V{y1:.1f} H{stop:.1f}"))
        sheet.append(_tip(x1, y1, "left" if inward else "right", ""))


def _tip(x: float, y: float, way: str, circle: str) -> Element:
    points = {"down": ((-5, -8), (5, -8)), "right": ((-8, -5), (-8, 5)), "left": ((8, -5), (8, 5))}[way]
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in ((0, 0), *points))
    return el("polygon", class_=f"tip{circle}", points=corners)


def _wrapped(text: str, width: float, most: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), max(8, int(width)), max_lines=most, placeholder=" …") or [""]


def both(picture: Picture, targets: dict[str, str]) -> Element:
    return add(el("figure", id="graph"), drawn(picture, WIDE, targets), drawn(picture, NARROW, targets))
