"""Elements that escape themselves: every text and attribute goes through the serialiser, none is pasted."""

from __future__ import annotations

import unicodedata
from typing import Union
from xml.etree import ElementTree

Element = ElementTree.Element
Content = Union[Element, str, None]


def el(tag: str, *content: Content, **attributes: str | None) -> Element:
    """``el("a", "text", href="#x", class_="y")``; underscores in names become dashes, a trailing one goes. None is left out."""
    element = Element(tag, {_name(key): clean(value) for key, value in attributes.items() if value is not None})
    add(element, *content)
    return element


def add(element: Element, *content: Content) -> Element:
    for item in content:
        if item is None:
            continue
        if isinstance(item, str):
            last = element[-1] if len(element) else None
            if last is not None:
                last.tail = (last.tail or "") + clean(item)
            else:
                element.text = (element.text or "") + clean(item)
        else:
            element.append(item)
    return element


def html(element: Element) -> str:
    return ElementTree.tostring(element, encoding="unicode", method="html")


def clean(text: str) -> str:
    """Without what HTML forbids or what turns the direction of text around it: a route is a client's words."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") else "�" for c in text)


def _name(key: str) -> str:
    return {"viewBox": "viewBox"}.get(key, key.rstrip("_").replace("_", "-"))
